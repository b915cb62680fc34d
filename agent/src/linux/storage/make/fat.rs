//! The label of a FAT, which lies in two places: the root directory, where other systems look for it, and the boot sector,
//! with a copy behind it in FAT32 (Microsoft, FAT: General Overview of On-Disk Format, version 1.03).
//!
//! Called by `make`. The boot sector comes last, once all else is on the medium: it is where an unfinished filesystem is told
//! from one that is whole, and `fatlabel` writes both in no order at all.

use std::io;

use crate::linux::storage::device::Device;

/// Bytes of a label, and of an entry of a directory.
const LABEL: usize = 11;
const ENTRY: usize = 32;
/// What an entry that is a volume's label has among its attributes, and one that is deleted as its first byte.
const IS_LABEL: u8 = 0x08;
const DELETED: u8 = 0xe5;

/// Renames a filesystem that `mkfs.vfat` has just made with the label `from`; an empty label is none.
pub(super) fn rename(device: &Device, from: &str, label: &str) -> io::Result<()> {
    let boot = device.read(0, 512)?;
    let number = |at: usize, len: usize| boot[at..at + len].iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
    let (sector, reserved, copies) = (number(11, 2), number(14, 2), number(16, 1));
    let is_32 = number(22, 2) == 0;
    let table = if is_32 { number(36, 4) } else { number(22, 2) };
    // The root directory of FAT32 is where it says, counted from the second cluster; of others it follows the tables.
    let clusters = if is_32 { number(44, 4).saturating_sub(2) * number(13, 1) } else { 0 };
    let root = (reserved + copies * table + clusters) * sector;
    let mut entry = device.read(root, ENTRY as u64)?;
    if entry[..LABEL] != *from.as_bytes() || entry[LABEL] != IS_LABEL {
        return Err(io::Error::other("its root directory does not begin with its label"));
    }
    let mut named = *b"NO NAME    ";
    if label.is_empty() {
        entry[0] = DELETED;
    } else {
        named = [b' '; LABEL];
        named.iter_mut().zip(label.bytes()).for_each(|(to, byte)| *to = byte);
        entry[..LABEL].copy_from_slice(&named);
    }
    device.write(root, &entry)?;
    device.sync()?;
    if is_32 && number(50, 2) != 0 {
        device.write(number(50, 2) * sector + 71, &named)?;
        device.sync()?;
    }
    device.write(if is_32 { 71 } else { 43 }, &named)?;
    device.sync()
}
