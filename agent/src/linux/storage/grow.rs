//! Growing a mounted filesystem to the end of its partition.
//!
//! Called by `apply`. Nothing is lost by it, and whoever uses the filesystem goes on.

use std::ffi::OsStr;

use muster_protocol::DiskId;
use muster_protocol::desired::Format;
use muster_protocol::observed::Contents;

use super::{changed, known_partition, partition, writable};
use crate::linux::storage::disks::Disks;
use crate::linux::tools::run;
use crate::machine::MachineError;
use crate::plan::storage::{GROWTH, Slot};

/// Grows it; fine where it has all of its partition already.
pub(super) fn grow(disks: &Disks, id: &DiskId, slot: &Slot, format: Format, path: &str) -> Result<(), MachineError> {
    if size(disks, id, slot, format, path)? + GROWTH <= slot.size_bytes {
        let node = known_partition(disks, &writable(disks, id)?, slot)?;
        let device = disks.device_path(&node);
        let (device, path) = (device.as_os_str(), OsStr::new(path));
        let word = OsStr::new;
        match format {
            Format::Ext4 => run("resize2fs", &[device]),
            Format::Xfs => run("xfs_growfs", &[word("-d"), path]),
            Format::Btrfs => run("btrfs", &[word("filesystem"), word("resize"), word("max"), path]),
            Format::Vfat | Format::Swap => Err(MachineError::Unable(format!("grow {}", format.name()))),
        }?;
    }
    let now = size(disks, id, slot, format, path)?;
    if now + GROWTH <= slot.size_bytes {
        let what = format!("the size of partition {} of {id}", slot.number);
        let found = format!("its {} takes {now} bytes of {}", format.name(), slot.size_bytes);
        return Err(MachineError::ReadBack { what, found });
    }
    Ok(())
}

/// Bytes that it takes now, if it is still where and what the plan saw.
fn size(disks: &Disks, id: &DiskId, slot: &Slot, format: Format, path: &str) -> Result<u64, MachineError> {
    let disk = writable(disks, id)?;
    match &partition(&disk, id, slot)?.contents {
        Contents::Filesystem(fs) if fs.kind == format.name() && fs.mounted_at == path => Ok(fs.size_bytes),
        other => Err(changed(id, slot.number, other)),
    }
}
