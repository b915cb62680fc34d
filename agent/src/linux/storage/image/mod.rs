//! Writing a disk image, so that a power cut leaves a whole one or none.
//!
//! Called by the glue of the real machine while the image comes. What comes first, the beginning of the disk with its
//! table, is looked at before anything is written, and written last: until everything else is on the medium and was read
//! back, the disk begins with a mark, which is told from anything else and says which image it was to become.

mod fat;
mod layout;

use std::io::{self, Read};

use muster_protocol::desired::MARK;
use muster_protocol::disk::{CHUNK, HEADER, Header, Next, PIECE};
use muster_protocol::observed::Contents;
use muster_protocol::{Digest, DiskId};
use ring::digest::{Context, SHA256};

use super::device::{Device, Share};
use super::disks::Disks;
use super::signatures::{HEAD, TAIL};
use super::unchanged;
use crate::machine::{MachineError, Percent};
use crate::plan::storage::{Before, Step, Written, in_words};
use layout::Layout;

/// Writes the image that comes from `source` to one of these disks.
///
/// Errors: among others it is another image, or does not fit; then nothing was written. Where it ends too early the disk
/// keeps its mark.
pub fn write_image_on(
    disks: &Disks,
    step: &Step,
    source: &mut dyn Read,
    progress: Percent<'_>,
) -> Result<(), MachineError> {
    let Step::Image { disk, before, image } = step else {
        return Err(MachineError::Unable("write what is no image".into()));
    };
    progress(0);
    write(disks, disk, before, image, source)?;
    progress(100);
    Ok(())
}

fn write(
    disks: &Disks,
    id: &DiskId,
    before: &Before,
    image: &Written,
    source: &mut dyn Read,
) -> Result<(), MachineError> {
    let failed = |source| MachineError::os(format!("write disk image {} to {id}", image.digest), source);
    let mut coming = Coming::begin(source, image.digest)?;
    let mut first = vec![0; CHUNK];
    coming.piece(&mut first)?;
    // The same sum over what reads back: the first piece is not written before the rest is.
    let mut again = coming.sum.clone();
    let found = disks.find(id)?;
    let node = disks.node(&found.name).ok_or_else(|| MachineError::Missing(id.to_string()))?;
    let device = Device::open(disks, &node, found.size_bytes, Share::Exclusive)
        .map_err(|source| MachineError::os(format!("open {id} for itself"), source))?;
    // Only now that nobody else can take it.
    let disk = unchanged(disks, id, before)?;
    let size = coming.header.size;
    let layout = Layout::of(first, &disk, size, image)
        .map_err(|why| MachineError::Unable(format!("write disk image {} to {id}: {why}", image.digest)))?;

    let tail = device.size.min(TAIL as u64);
    let mut mark = vec![0; disk.logical_sector as usize];
    mark[..16].copy_from_slice(MARK);
    mark[16..32].copy_from_slice(&image.guid);
    device
        .zero(0, HEAD as u64)
        .and_then(|()| device.zero(device.size - tail, tail))
        .and_then(|()| device.write(0, &mark))
        .and_then(|()| device.drop_cache())
        .and_then(|()| device.set_partitions(disks, &node, &[]))
        .map_err(failed)?;

    let mut written: Vec<(u64, usize)> = Vec::new();
    let mut end = CHUNK as u64;
    let mut chunk = vec![0; CHUNK];
    while let Some((at, len)) = coming.piece(&mut chunk)? {
        device.zero(end, at - end).and_then(|()| device.write(at, &chunk[..len])).map_err(failed)?;
        written.push((at, len));
        end = at + len as u64;
    }
    device.zero(end, size - end).and_then(|()| device.drop_cache()).map_err(failed)?;
    for (at, len) in written {
        again.update(&Next::Piece { at, len }.to_bytes());
        again.update(&device.read(at, len as u64).map_err(failed)?);
    }
    again.update(&coming.header.to_bytes());
    if again.finish().as_ref() != coming.told {
        let what = format!("disk image {} on {id}", image.digest);
        return Err(MachineError::ReadBack { what, found: "other bytes".into() });
    }

    let (begin, rest) = layout.head.split_at(mark.len());
    if let Some((start, end)) = layout.old_backup {
        device.zero(start, end - start).map_err(failed)?;
    }
    if let Some((start, volume)) = &layout.seed {
        device.zero(*start, fat::SIZE).and_then(|()| device.write(*start, volume)).map_err(failed)?;
    }
    device
        .write(device.size - layout.tail.len() as u64, &layout.tail)
        .and_then(|()| device.write(mark.len() as u64, rest))
        .and_then(|()| device.drop_cache())
        // One sector: from now on it is there.
        .and_then(|()| device.write(0, begin))
        .and_then(|()| device.drop_cache())
        .and_then(|()| device.set_partitions(disks, &node, &layout.partitions))
        .map_err(failed)?;
    drop(device);
    let now = disks.observe_one(id)?;
    if now.contents == (Contents::Gpt { guid: image.guid }) {
        return Ok(());
    }
    let what = format!("the table of disk image {} on {id}", image.digest);
    Err(MachineError::ReadBack { what, found: in_words(&now.contents, &now.partitions) })
}

/// An image, piece by piece.
struct Coming<'a> {
    source: &'a mut dyn Read,
    header: Header,
    /// Up to where pieces of the disk came.
    done: u64,
    sum: Context,
    /// What the sum has to be, as its end says.
    told: [u8; 32],
}

impl<'a> Coming<'a> {
    /// Errors: it is another one.
    fn begin(source: &'a mut dyn Read, digest: Digest) -> Result<Self, MachineError> {
        let mut bytes = [0; HEADER];
        source.read_exact(&mut bytes).map_err(broken)?;
        match Header::read(&bytes).filter(|header| header.source == digest) {
            Some(header) => Ok(Self { source, header, done: 0, sum: Context::new(&SHA256), told: [0; 32] }),
            None => Err(damaged("its header is of none, or of another one")),
        }
    }

    /// The next piece, into the beginning of `chunk`: where it lies, and its length. `None` at the end, when all that came
    /// is what the controller had.
    fn piece(&mut self, chunk: &mut [u8]) -> Result<Option<(u64, usize)>, MachineError> {
        let mut head = [0; PIECE];
        self.source.read_exact(&mut head).map_err(broken)?;
        match Next::read(&head, self.done, self.header.size) {
            Some(Next::Piece { at, len }) => {
                let data = &mut chunk[..len];
                self.source.read_exact(data).map_err(broken)?;
                self.sum.update(&head);
                self.sum.update(data);
                self.done = at + len as u64;
                Ok(Some((at, len)))
            }
            Some(Next::End) => {
                self.source.read_exact(&mut self.told).map_err(broken)?;
                self.sum.update(&self.header.to_bytes());
                if self.sum.clone().finish().as_ref() == self.told {
                    Ok(None)
                } else {
                    Err(damaged("its SHA-256 is another"))
                }
            }
            None => Err(damaged("a piece of it cannot be")),
        }
    }
}

fn broken(source: io::Error) -> MachineError {
    MachineError::os("take the disk image to its end", source)
}

fn damaged(how: &str) -> MachineError {
    MachineError::Unable(format!("use the disk image that came: {how}; add it anew with muster disk-image"))
}
