//! Into the tree and out of it.
//!
//! Called by `apply` and `wipe`. What the agent mounts it writes down first; what it did not write down it never unmounts.

use std::fs;
use std::io;
use std::path::Path;

use muster_protocol::DiskId;
use muster_protocol::desired::Format;
use muster_protocol::observed::Contents;
use rustix::mount::{MountFlags, UnmountFlags};

use super::{changed, known_partition, partition, writable};
use crate::linux::modules;
use crate::linux::storage::disks::{Disks, Mount};
use crate::machine::MachineError;
use crate::plan::storage::Slot;

/// Mounts a partition; fine where it is mounted there already.
pub(super) fn mount(disks: &Disks, id: &DiskId, slot: &Slot, format: Format, path: &str) -> Result<(), MachineError> {
    let disk = writable(disks, id)?;
    let there = partition(&disk, id, slot)?;
    let kind = match format {
        Format::Ext4 => "ext4",
    };
    match &there.contents {
        Contents::Filesystem(fs) if fs.mounted_at == path => return Ok(()),
        Contents::Filesystem(fs) if fs.kind == kind && fs.mounted_at.is_empty() => {}
        other => return Err(changed(id, slot.number, other)),
    }
    let failed =
        |source: io::Error| MachineError::os(format!("mount partition {} of {id} at {path}", slot.number), source);
    modules::load(kind)?;
    fs::create_dir_all(path).map_err(failed)?;
    // The kernel would follow links and report another path than the one that is desired.
    if fs::canonicalize(path).map_err(failed)? != Path::new(path) {
        return Err(failed(io::Error::other("the path leads through a symbolic link; name the place itself")));
    }
    if disks.usage()?.is_taken(path) {
        return Err(failed(io::Error::other("something else is mounted there")));
    }
    let node = known_partition(disks, &disk, slot)?;
    disks.record().add(Mount { number: node.number, path: path.into() }).map_err(failed)?;
    rustix::mount::mount(disks.device_path(&node), path, kind, MountFlags::empty(), None).map_err(|source| {
        let _ = disks.record().remove(path);
        failed(source.into())
    })
}

/// Unmounts what the agent mounted; fine where nothing is mounted any more.
pub(super) fn unmount(disks: &Disks, id: &DiskId, number: u32, path: &str) -> Result<(), MachineError> {
    let failed = |source| MachineError::os(format!("unmount {path}"), source);
    let disk = disks.find(id)?;
    let node = disks.node(&disk.name).ok_or_else(|| MachineError::Missing(id.to_string()))?;
    let partition = disks.partition_nodes(&node).into_iter().find(|(n, _)| *n == number);
    let (_, node) = partition.ok_or_else(|| MachineError::Missing(format!("partition {number} of {id}")))?;
    let usage = disks.usage()?;
    match usage.own_mount(node.number) {
        Some(at) if at == path => {
            rustix::mount::unmount(path, UnmountFlags::NOFOLLOW).map_err(|source| failed(source.into()))?;
        }
        _ if !usage.is_taken(path) => {}
        _ => return Err(failed(io::Error::other("the agent did not mount it"))),
    }
    disks.record().remove(path).map_err(failed)
}
