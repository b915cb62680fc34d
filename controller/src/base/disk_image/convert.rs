//! From a file in one of the usual forms to the one that machines are sent ([`muster_protocol::disk`]).
//!
//! Called by `add`. The form is told from the bytes and not from the name. Memory is bounded whatever the file says.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use muster_protocol::Digest;
use muster_protocol::disk::{CHUNK, HEADER, Header, LARGEST, Next};
use ring::digest::{Context, SHA256};

use super::qcow2::{self, Qcow2};
use super::{DiskImageError, refused};

/// What is left out where it is all zeros.
const BLOCK: usize = 64 * 1024;
/// KiB of memory that an xz file may ask for: xz -9 takes 64 MiB.
const XZ_MEMORY: u32 = 256 << 10;
/// Where a GPT's header begins, for disks of 512 and of 4096 bytes a sector.
const TABLES: [usize; 2] = [512, 4096];

/// A disk that is read from its beginning.
enum Disk {
    Stream(Box<dyn Read>),
    Qcow2(Box<Qcow2<BufReader<File>>>),
}

/// Opens a file by what it is.
fn open(mut file: File) -> Result<Disk, DiskImageError> {
    let mut magic = [0; 6];
    let count = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    let read = BufReader::with_capacity(CHUNK, file);
    Ok(match &magic[..count] {
        magic if magic.starts_with(qcow2::MAGIC) => Disk::Qcow2(Box::new(Qcow2::open(read)?)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Disk::Stream(Box::new(zstd::Decoder::with_buffer(read)?)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Disk::Stream(Box::new(lzma_rust2::XzReader::new_mem_limit(read, true, XZ_MEMORY)))
        }
        [0x1f, 0x8b, ..] => return Err(refused("it is packed with gzip; unpack it, or pack it with zstd or xz")),
        _ => Disk::Stream(Box::new(read)),
    })
}

impl Disk {
    /// How much of `out` lies there, up to the end of the disk; `None` for zeros all over.
    fn read(&mut self, at: u64, out: &mut [u8]) -> Result<(usize, bool), DiskImageError> {
        match self {
            Self::Stream(stream) => {
                let mut got = 0;
                while got < out.len() {
                    match stream.read(&mut out[got..]) {
                        Ok(0) => break,
                        Ok(count) => got += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(refused(format!("it cannot be unpacked at byte {at}: {error}"))),
                    }
                }
                Ok((got, true))
            }
            Self::Qcow2(disk) => {
                let count = disk.size.saturating_sub(at).min(out.len() as u64) as usize;
                let is_data = disk.read(at, &mut out[..count])?;
                Ok((count, is_data))
            }
        }
    }
}

/// Writes `file` to `out`. `goes_on` is told how many bytes of the disk were looked at, and may stop it.
pub fn convert(
    file: File,
    source: Digest,
    name: &str,
    out: &mut (impl Write + Seek),
    goes_on: &mut dyn FnMut(u64) -> Result<(), DiskImageError>,
) -> Result<Header, DiskImageError> {
    let mut disk = open(file)?;
    let mut sum = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    let mut size = 0;
    out.write_all(&[0; HEADER])?;
    loop {
        let (count, is_data) = disk.read(size, &mut chunk)?;
        if size == 0 {
            looks_right(&chunk[..count])?;
            put(out, &mut sum, 0, &chunk[..count])?;
        } else if is_data {
            put_data(out, &mut sum, size, &chunk[..count])?;
        }
        size += count as u64;
        goes_on(size)?;
        if size > LARGEST {
            return Err(refused(format!("it is of a disk of more than {} TiB", LARGEST >> 40)));
        }
        if count < CHUNK {
            break;
        }
    }
    if size % 512 != 0 {
        return Err(refused("its length is no multiple of 512 bytes: it is cut, or no disk image"));
    }
    if size < 2 * CHUNK as u64 {
        return Err(refused("it is of a disk of less than 2 MiB"));
    }
    let header = Header { source, size, name: name.to_owned() };
    sum.update(&header.to_bytes());
    out.write_all(&Next::End.to_bytes())?;
    out.write_all(sum.finish().as_ref())?;
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&header.to_bytes())?;
    Ok(header)
}

/// Whether a disk with these first bytes can be written so that it is whole or not there.
fn looks_right(first: &[u8]) -> Result<(), DiskImageError> {
    if first.starts_with(qcow2::MAGIC) {
        return Err(refused("there is a qcow2 in it; unpack it first: a qcow2 is read from any place"));
    }
    if first.len() < CHUNK {
        return Err(refused("it is of a disk of less than 2 MiB"));
    }
    let has_table = TABLES.iter().any(|at| first.get(*at..*at + 8) == Some(b"EFI PART"));
    if !has_table {
        return Err(refused(
            "it has no GPT: it is a filesystem, an ISO, or a disk with an MBR; take the image of the same system for UEFI, \
             or convert its table with sgdisk --mbrtogpt",
        ));
    }
    Ok(())
}

fn put_data(out: &mut impl Write, sum: &mut Context, at: u64, bytes: &[u8]) -> io::Result<()> {
    let is_zeros = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let mut start = None;
    for (i, block) in bytes.chunks(BLOCK).enumerate() {
        match (is_zeros(block), start) {
            (false, None) => start = Some(i * BLOCK),
            (true, Some(from)) => {
                put(out, sum, at + from as u64, &bytes[from..i * BLOCK])?;
                start = None;
            }
            _ => {}
        }
    }
    match start {
        Some(from) => put(out, sum, at + from as u64, &bytes[from..]),
        None => Ok(()),
    }
}

fn put(out: &mut impl Write, sum: &mut Context, at: u64, bytes: &[u8]) -> io::Result<()> {
    let head = Next::Piece { at, len: bytes.len() }.to_bytes();
    for part in [&head[..], bytes] {
        sum.update(part);
        out.write_all(part)?;
    }
    Ok(())
}
