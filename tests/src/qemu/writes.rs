//! Everything that a machine wrote to a disk, in the order in which it came: the log of QEMU's `blklogwrites`, which is that
//! of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst).
//!
//! Written to a blank disk up to any point, it makes the disk that a power cut at that point would have left; and as what
//! was not flushed may be lost whatever came after it, any of that may be left out as well.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};

/// Bytes of a block of the log.
const BLOCK: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1 << 0;
const DISCARD: u64 = 1 << 2;

/// A log that is read.
#[derive(Debug)]
pub struct Writes {
    file: File,
    /// In their order.
    pub all: Vec<Write>,
}

/// One thing that the machine asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// What.
    pub what: What,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Where its entry ends in the log.
    pub end: u64,
}

/// Kinds of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Bytes, which lie here in the log.
    Data(u64),
    /// It is forgotten, and reads as zeros.
    Discard,
    /// All before it is on the medium.
    Flush,
}

impl Writes {
    /// Reads the log up to its end.
    ///
    /// Errors: it is none.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        ensure!(number(&file, 0)? == MAGIC, "{} is no log of writes", path.display());
        let mut all = Vec::new();
        let mut at = BLOCK;
        while at + BLOCK <= end {
            let [sector, sectors, flags] = [number(&file, at)?, number(&file, at + 8)?, number(&file, at + 16)?];
            if (sectors, flags) == (0, 0) {
                break;
            }
            at += BLOCK;
            let what = match flags {
                flags if flags & DISCARD != 0 => What::Discard,
                flags if flags & FLUSH != 0 && sectors == 0 => What::Flush,
                _ => What::Data(at),
            };
            if matches!(what, What::Data(_)) {
                at += sectors * BLOCK;
            }
            ensure!(at <= end, "{} ends in the middle of an entry", path.display());
            all.push(Write { what, start: sector * BLOCK, size: sectors * BLOCK, end: at });
        }
        Ok(Self { file, all })
    }

    /// Does one of them to a disk.
    pub fn replay(&self, write: &Write, disk: &File) -> Result<()> {
        match write.what {
            What::Flush => {}
            What::Discard => {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(disk, hole, write.start, write.size)?;
            }
            What::Data(at) => {
                let mut bytes = vec![0; write.size as usize];
                self.file.read_exact_at(&mut bytes, at)?;
                disk.write_all_at(&bytes, write.start)?;
            }
        }
        Ok(())
    }
}

fn number(file: &File, at: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_and_done_again() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (log, disk) = (folder.path().join("log"), folder.path().join("disk"));
        let mut bytes = Vec::new();
        let mut block = |numbers: &[u64]| {
            let mut block: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            block.resize(512, 0);
            bytes.extend(block);
        };
        block(&[MAGIC, 1, 3, 512]);
        block(&[2, 1, 0, 0]);
        block(&[u64::MAX; 64]);
        block(&[0, 0, FLUSH, 0]);
        block(&[2, 1, DISCARD, 0]);
        std::fs::write(&log, bytes)?;
        let disk_file = File::options().read(true).write(true).create_new(true).open(&disk)?;
        disk_file.set_len(4096)?;
        let writes = Writes::read(&log)?;
        let whats: Vec<_> = writes.all.iter().map(|write| write.what).collect();
        assert_eq!(whats, [What::Data(1024), What::Flush, What::Discard]);
        let mut seen = Vec::new();
        for write in &writes.all {
            writes.replay(write, &disk_file)?;
            seen.push(std::fs::read(&disk)?[1023..1026].to_vec());
        }
        assert_eq!(seen, [vec![0, 255, 255], vec![0, 255, 255], vec![0, 0, 0]]);
        Ok(())
    }
}
