//! A block device that is open for writing, and the few requests that are made of it.
//!
//! Called by the other files of `storage`. It decides nothing: whoever opens one has looked first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;
use rustix::ioctl::{self, NoArg, Setter, ioctl};

use crate::linux::storage::disks::{Disks, Node};
use crate::linux::storage::signatures::is_zeros;
use crate::linux::sysfs;

// Linux kernel, include/uapi/linux/fs.h and blkpg.h: _IO(0x12, n) and, for BLKPG, its operations.
const BLKFLSBUF: ioctl::Opcode = 0x1261;
const BLKPG: ioctl::Opcode = 0x1269;
const BLKZEROOUT: ioctl::Opcode = 0x127f;
const BLKPG_ADD_PARTITION: i32 = 1;
const BLKPG_DEL_PARTITION: i32 = 2;
const BLKPG_RESIZE_PARTITION: i32 = 3;

/// Bytes read or written at once where there is a choice.
pub(super) const CHUNK: usize = 1 << 20;

/// A device open for reading and writing.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    /// Bytes.
    pub(super) size: u64,
}

/// Whether others may use the device or its partitions meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// Nobody: the kernel refuses while anything of it is mounted or held.
    Exclusive,
    /// The agent's own mounts stay.
    WithOwnMounts,
}

impl Device {
    pub(super) fn open(disks: &Disks, node: &Node, size: u64, share: Share) -> io::Result<Self> {
        let exclusive = match share {
            Share::Exclusive => OFlags::EXCL,
            Share::WithOwnMounts => OFlags::empty(),
        };
        Ok(Self { file: disks.open(node, OFlags::RDWR | exclusive)?, size })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Waits until everything is on the medium.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Overwrites with zeros. Bounds are cut to the device's.
    pub(super) fn zero(&self, start: u64, len: u64) -> io::Result<()> {
        let start = start.min(self.size);
        let len = len.min(self.size - start);
        if len == 0 || blkzeroout(&self.file, start, len).is_ok() {
            return Ok(());
        }
        // A driver that cannot, or a bound that is no multiple of its sectors.
        let zeros = vec![0; CHUNK];
        let mut at = start;
        while at < start + len {
            let now = (start + len - at).min(CHUNK as u64);
            self.write(at, &zeros[..now as usize])?;
            at += now;
        }
        Ok(())
    }

    /// Has the device forget this stretch and read as zeros from now on. `false` where it does not guarantee that; then
    /// nothing was done.
    pub(super) fn discard(&self, start: u64, len: u64) -> io::Result<bool> {
        // Linux, block/fops.c, blkdev_fallocate: a hole is made by commands only that guarantee zeros.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, start, len) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What lies there.
    pub(super) fn read(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Whether all of it is zero, as far as the device itself says once its cache is empty.
    pub(super) fn is_zero(&self, start: u64, len: u64) -> io::Result<bool> {
        let chunk = len.min(CHUNK as u64);
        let mut bytes = vec![0; chunk as usize];
        let mut at = start;
        while at < start + len {
            let now = &mut bytes[..(start + len - at).min(chunk) as usize];
            self.file.read_exact_at(now, at)?;
            if !is_zeros(now) {
                return Ok(false);
            }
            at += now.len() as u64;
        }
        Ok(true)
    }

    /// Writes back and forgets what the kernel holds of the device in memory, so that reading asks the medium.
    pub(super) fn drop_cache(&self) -> io::Result<()> {
        self.sync()?;
        Ok(flush(&self.file)?)
    }

    /// Makes the kernel's partitions of a disk the given ones and no others: number, first byte, bytes.
    /// Those that are right already stay in use meanwhile, and so do those that only get another size.
    ///
    /// One by one and not by BLKRRPART: that fails while any partition is in use, and needs a kernel that can read the
    /// table. It fails all the same where one that has to go is in use.
    pub(super) fn set_partitions(&self, disks: &Disks, disk: &Node, wanted: &[(u32, u64, u64)]) -> io::Result<()> {
        let is_there =
            |&(number, start, size): &(u32, u64, u64)| disks.partition_node(disk, number, start, size).is_some();
        let mut right: Vec<u32> =
            wanted.iter().filter(|partition| is_there(partition)).map(|(number, ..)| *number).collect();
        let known = disks.partition_nodes(disk);
        for &(number, start, size) in wanted.iter().filter(|(number, ..)| !right.contains(number)).collect::<Vec<_>>() {
            // Sysfs counts in 512 bytes whatever the disk's sectors are.
            let begins = |node: &Node| sysfs::number::<u64>(node.path.join("start")).map(|sectors| sectors * 512);
            if known.iter().any(|(n, node)| *n == number && begins(node) == Some(start)) {
                blkpg(&self.file, BLKPG_RESIZE_PARTITION, number, start, size)?;
                right.push(number);
            }
        }
        for (number, _) in disks.partition_nodes(disk).iter().filter(|(number, _)| !right.contains(number)) {
            self.delete_partition(*number)?;
        }
        for &(number, start, size) in wanted.iter().filter(|(number, ..)| !right.contains(number)) {
            blkpg(&self.file, BLKPG_ADD_PARTITION, number, start, size)?;
        }
        Ok(())
    }

    fn delete_partition(&self, number: u32) -> io::Result<()> {
        // Somebody who looks at every new disk, udev for one, may have it open for a moment.
        for _ in 0..40 {
            match blkpg(&self.file, BLKPG_DEL_PARTITION, number, 0, 0) {
                Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(50)),
                other => return Ok(other?),
            }
        }
        Ok(blkpg(&self.file, BLKPG_DEL_PARTITION, number, 0, 0)?)
    }
}

#[allow(unsafe_code)]
fn flush(file: &File) -> rustix::io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of this process.
    unsafe { ioctl(file, NoArg::<BLKFLSBUF>::new()) }
}

#[allow(unsafe_code)]
fn blkzeroout(file: &File, start: u64, len: u64) -> rustix::io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64 through its argument, which is what the setter passes.
    unsafe { ioctl(file, Setter::<BLKZEROOUT, [u64; 2]>::new([start, len])) }
}

/// `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    length: i32,
    data: *mut BlkpgPartition,
}

#[allow(unsafe_code)]
fn blkpg(file: &File, operation: i32, number: u32, start: u64, size: u64) -> rustix::io::Result<()> {
    let fits = |n: u64| i64::try_from(n).map_err(|_| Errno::INVAL);
    let number = i32::try_from(number).map_err(|_| Errno::INVAL)?;
    let mut partition = BlkpgPartition { start: fits(start)?, length: fits(size)?, number, names: [0; 128] };
    let length = size_of::<BlkpgPartition>() as i32;
    let argument = BlkpgArgument { operation, flags: 0, length, data: &raw mut partition };
    // SAFETY: both structs are laid out as the kernel's; `partition` outlives the call, and the kernel only reads it.
    unsafe { ioctl(file, Setter::<BLKPG, BlkpgArgument>::new(argument)) }
}
