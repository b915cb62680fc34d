//! QEMU's qcow2, versions 2 and 3, as a disk that is read from its beginning to its end.
//!
//! Called by `convert`. What it knows is in QEMU's docs/interop/qcow2.txt: clusters, compressed ones among them (deflate or
//! zstd), and clusters of zeros. Images that need another file (a backing file, external data), that are encrypted or
//! that QEMU marked as corrupt are refused. Snapshots are not looked at: the disk is what it was last.
//! Own code instead of a crate: those that there are write as well, or bring an asynchronous runtime.
//! Nothing that the file says is allocated before it is compared with the file's length.

use std::io::{self, Read, Seek, SeekFrom};

use super::{DiskImageError, refused};

/// The first bytes.
pub const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Where clusters lie in the entries of both tables.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZEROS: u64 = 1;
/// Features that a reader has to know: the dirty bit is about reference counts, which are not needed to read.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;

/// An open one.
pub struct Qcow2<F> {
    file: F,
    length: u64,
    /// Bytes of the disk.
    pub size: u64,
    bits: u32,
    first_table: (u64, u64),
    is_zstd: bool,
    /// The second-level table that was read last.
    table: Option<(u64, Vec<u64>)>,
    /// The compressed cluster that was unpacked last, by its entry.
    unpacked: Option<(u64, Vec<u8>)>,
}

/// Where a cluster is.
enum Cluster {
    Zeros,
    At(u64),
    Compressed(u64),
}

impl<F: Read + Seek> Qcow2<F> {
    /// Reads the header.
    pub fn open(mut file: F) -> Result<Self, DiskImageError> {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let mut header = vec![0; length.min(112) as usize];
        file.read_exact(&mut header)?;
        let number32 = |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        let number = |at: usize| header.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        let (version, bits) = (number32(4), number32(20));
        if header.len() < 72 || !header.starts_with(MAGIC) || !matches!(version, 2 | 3) {
            return Err(refused("it is no qcow2 of version 2 or 3; convert it: qemu-img convert -O qcow2 FILE NEW"));
        }
        if number(8) != 0 {
            return Err(refused("it builds on another file; make it whole: qemu-img convert -O qcow2 FILE NEW"));
        }
        if number32(32) != 0 {
            return Err(refused("it is encrypted; decrypt it: qemu-img convert"));
        }
        let features = if version == 3 { number(72) } else { 0 };
        if features & CORRUPT != 0 {
            return Err(refused("QEMU marked it as corrupt; repair it: qemu-img check -r all FILE"));
        }
        if features & EXTERNAL != 0 {
            return Err(refused("its data is in another file; make it whole: qemu-img convert -O qcow2 FILE NEW"));
        }
        if features & !(DIRTY | COMPRESSION) != 0 {
            return Err(refused(
                "it has features that are not known here; convert it: qemu-img convert -O raw FILE NEW",
            ));
        }
        let compression = if features & COMPRESSION != 0 && number32(100) > 104 { header.get(104) } else { None };
        let is_zstd = match compression {
            None | Some(0) => false,
            Some(1) => true,
            Some(_) => return Err(refused("it is compressed in a way that is not known here; convert it to raw")),
        };
        let (size, first_table) = (number(24), (number(40), u64::from(number32(36))));
        if !(9..=21).contains(&bits) || first_table.0.checked_add(first_table.1 * 8).is_none_or(|end| end > length) {
            return Err(refused("its header is damaged"));
        }
        Ok(Self { file, length, size, bits, first_table, is_zstd, table: None, unpacked: None })
    }

    /// Reads what lies there; `false` where all of it is zeros, and then nothing was read.
    pub fn read(&mut self, mut at: u64, mut out: &mut [u8]) -> Result<bool, DiskImageError> {
        let mut is_data = false;
        while !out.is_empty() {
            let within = (at & ((1 << self.bits) - 1)) as usize;
            let count = out.len().min((1 << self.bits) - within);
            let (now, rest) = out.split_at_mut(count);
            match self.cluster(at >> self.bits)? {
                Cluster::Zeros => now.fill(0),
                Cluster::At(start) => {
                    self.read_at(start + within as u64, now)?;
                    is_data = true;
                }
                Cluster::Compressed(entry) => {
                    now.copy_from_slice(&self.unpack(entry)?[within..within + count]);
                    is_data = true;
                }
            }
            (at, out) = (at + count as u64, rest);
        }
        Ok(is_data)
    }

    fn cluster(&mut self, number: u64) -> Result<Cluster, DiskImageError> {
        let in_table = self.bits - 3;
        let (first, second) = (number >> in_table, (number & ((1 << in_table) - 1)) as usize);
        if first >= self.first_table.1 {
            return Ok(Cluster::Zeros);
        }
        if self.table.as_ref().is_none_or(|(of, _)| *of != first) {
            let mut entry = [0; 8];
            self.read_at(self.first_table.0 + first * 8, &mut entry)?;
            let start = u64::from_be_bytes(entry) & OFFSET;
            let entries = if start == 0 {
                Vec::new()
            } else {
                let mut bytes = vec![0; 1 << self.bits];
                self.read_at(start, &mut bytes)?;
                bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect()
            };
            self.table = Some((first, entries));
        }
        let entry = self.table.as_ref().and_then(|(_, entries)| entries.get(second)).copied().unwrap_or_default();
        Ok(match entry {
            _ if entry & COMPRESSED != 0 => Cluster::Compressed(entry),
            _ if entry & ZEROS != 0 || entry & OFFSET == 0 => Cluster::Zeros,
            _ => Cluster::At(entry & OFFSET),
        })
    }

    fn unpack(&mut self, entry: u64) -> Result<&[u8], DiskImageError> {
        if self.unpacked.as_ref().is_none_or(|(of, _)| *of != entry) {
            let split = 62 - (self.bits - 8);
            let start = entry & ((1 << split) - 1);
            let sectors = ((entry & (COMPRESSED - 1)) >> split) + 1;
            let len = (sectors * 512 - (start & 511)).min(self.length.saturating_sub(start));
            // What QEMU writes is smaller than a cluster; at most 2^14 sectors can be said.
            let mut packed = vec![0; len as usize];
            self.read_at(start, &mut packed)?;
            let mut out = vec![0; 1 << self.bits];
            let is_whole = if self.is_zstd {
                // Padding follows the frame.
                let decoder = zstd::Decoder::new(packed.as_slice());
                decoder.and_then(|decoder| decoder.single_frame().read_exact(&mut out)).is_ok()
            } else {
                let flags = miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
                let mut inflater = miniz_oxide::inflate::core::DecompressorOxide::new();
                let (_, _, written) =
                    miniz_oxide::inflate::core::decompress(&mut inflater, &packed, &mut out, 0, flags);
                written == out.len()
            };
            if !is_whole {
                return Err(refused("one of its compressed clusters is damaged"));
            }
            self.unpacked = Some((entry, out));
        }
        Ok(self.unpacked.as_ref().map_or(&[], |(_, bytes)| bytes))
    }

    /// Past the end of the file are zeros, as for QEMU.
    fn read_at(&mut self, start: u64, out: &mut [u8]) -> io::Result<()> {
        let there = self.length.saturating_sub(start).min(out.len() as u64) as usize;
        let (data, past) = out.split_at_mut(there);
        past.fill(0);
        self.file.seek(SeekFrom::Start(start.min(self.length)))?;
        self.file.read_exact(data)
    }
}
