//! Growing a mounted filesystem to the end of its device.
//!
//! Called by `apply`. Nothing is lost by it, and whoever uses the filesystem goes on.

use std::ffi::OsStr;

use muster_protocol::desired::Format;
use muster_protocol::observed::Contents;

use super::find::{Found, differs, find};
use crate::linux::storage::disks::Disks;
use crate::linux::tools::run;
use crate::machine::MachineError;
use crate::plan::storage::{GROWTH, Target};

/// Grows it; fine where it has all of its device already.
pub(super) fn grow(disks: &Disks, on: &Target, format: Format, path: &str) -> Result<(), MachineError> {
    let (found, takes) = size(disks, on, format, path)?;
    if takes + GROWTH <= found.size_bytes {
        let device = disks.device_path(&found.node);
        let (device, path) = (device.as_os_str(), OsStr::new(path));
        let word = OsStr::new;
        match format {
            Format::Ext4 => run("resize2fs", &[device]),
            Format::Xfs => run("xfs_growfs", &[word("-d"), path]),
            Format::Btrfs => run("btrfs", &[word("filesystem"), word("resize"), word("max"), path]),
            Format::Vfat | Format::Swap => Err(MachineError::Unable(format!("grow {}", format.name()))),
        }?;
    }
    let (found, now) = size(disks, on, format, path)?;
    if now + GROWTH <= found.size_bytes {
        let what = format!("the size of {}", on.in_words());
        let found = format!("its {} takes {now} bytes of {}", format.name(), found.size_bytes);
        return Err(MachineError::ReadBack { what, found });
    }
    Ok(())
}

/// The device, and the bytes of it that it takes now, if it is still where and what the plan saw.
fn size(disks: &Disks, on: &Target, format: Format, path: &str) -> Result<(Found, u64), MachineError> {
    let found = find(disks, on)?;
    match &found.contents {
        Contents::Filesystem(fs) if fs.kind == format.name() && fs.mounted_at == path => {
            let takes = fs.size_bytes;
            Ok((found, takes))
        }
        other => Err(differs(on, other)),
    }
}
