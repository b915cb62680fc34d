//! What stands between disks and filesystems: arrays, encrypted devices and volume groups, made and run by mdadm,
//! cryptsetup and LVM.
//!
//! Called by `apply` with devices that it found and looked at just before; decides nothing. What is made bears a mark
//! until it is whole ([`UNFINISHED`]): what a power cut leaves is known as a half, and never kept. It is whole when what
//! stands on it reads as blank: what lay there before must not look like somebody's filesystem.
//! The programs write nothing but what they are told to: no configuration file is read, no daemon or udev is waited for,
//! and what they note for themselves lies in /run.

pub mod keys;
pub mod luks;
pub mod lvm;
pub mod raid;
pub(super) mod steps;

use std::io;
use std::path::Path;

use rustix::fs::{major, minor, stat};

use super::device::{Device, Share};
use super::signatures::{HEAD, TAIL};
use crate::linux::storage::disks::{Disks, Node, samples};
use crate::linux::sysfs;
use crate::machine::MachineError;

/// The name of an array and of a logical volume, and the subsystem of a LUKS device, that is not whole yet.
pub const UNFINISHED: &str = "muster-unfinished";

/// Has a device read as a blank one, on the medium: both ends, where every signature lies, and the places between that are
/// looked at before a device is called blank. What was there must not be found again in what is made there.
pub fn clear(disks: &Disks, node: &Node) -> Result<(), MachineError> {
    let size = size(node);
    let tail = size.min(TAIL as u64);
    let clear = || {
        let device = Device::open(disks, node, size, Share::Exclusive)?;
        device.zero(0, HEAD as u64)?;
        device.zero(size - tail, tail)?;
        for (at, len) in samples(size) {
            if !device.is_zero(at, len)? {
                device.zero(at, len)?;
            }
        }
        device.drop_cache()
    };
    clear().map_err(|source: io::Error| MachineError::os(format!("clear {}", node.name), source))
}

/// Waits until all that was written to a device is on the medium.
fn settle(disks: &Disks, node: &Node) -> Result<(), MachineError> {
    let settle = || Device::open(disks, node, size(node), Share::WithOwnMounts)?.drop_cache();
    settle().map_err(|source| MachineError::os(format!("write {} back", node.name), source))
}

/// Sysfs counts in 512 bytes whatever the device's sectors are.
pub(super) fn size(node: &Node) -> u64 {
    sysfs::number::<u64>(node.path.join("size")).unwrap_or(0).saturating_mul(512)
}

/// The kernel's device behind a name in /dev that a program made.
pub fn named(path: &Path) -> Result<Node, MachineError> {
    let missing = || MachineError::Missing(path.display().to_string());
    let number = stat(path).map_err(|_| missing())?.st_rdev;
    let folder = Path::new("/sys/dev/block").join(format!("{}:{}", major(number), minor(number)));
    sysfs::resolved(folder).and_then(Node::at).ok_or_else(missing)
}
