//! What becomes of an image's table on a disk that is larger.
//!
//! Called before anything is written; pure. The table gets the disk's size and the GUID by which the image is known, the
//! last partition grows, and behind it comes the seed's. All else of the table stays, and so does sector 0.

use muster_protocol::Digest;
use muster_protocol::observed::Disk;

use super::fat;
use crate::linux::storage::gpt::{self, Entry, Found, Geometry, Image};
use crate::plan::storage::{ALIGNMENT, Written};

/// Microsoft basic data, in the byte order in which it is printed: the usual one of a FAT.
const BASIC_DATA: [u8; 16] =
    [0xeb, 0xd0, 0xa0, 0xa2, 0xb9, 0xe5, 0x44, 0x33, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];
/// Entries of a table as it is written.
const ENTRIES: u32 = 128;

/// What is written when all of the image is there.
#[derive(Debug)]
pub struct Layout {
    /// The beginning of the disk.
    pub head: Vec<u8>,
    /// Its end.
    pub tail: Vec<u8>,
    /// Where the seed's volume lies, and its beginning.
    pub seed: Option<(u64, Vec<u8>)>,
    /// Where the image's second table came to lie, in the middle of the disk: first byte, and the first one behind.
    pub old_backup: Option<(u64, u64)>,
    /// Number, first byte, bytes.
    pub partitions: Vec<(u32, u64, u64)>,
}

impl Layout {
    /// `first` is the beginning of the image of a disk of `size` bytes.
    ///
    /// Errors: why it does not fit.
    pub fn of(first: Vec<u8>, disk: &Disk, size: u64, image: &Written) -> Result<Self, String> {
        let sector = u64::from(disk.logical_sector);
        if size > disk.size_bytes {
            return Err(format!("it is of a disk of {size} bytes, and this one has {}", disk.size_bytes));
        }
        let geometry =
            Geometry::new(disk.logical_sector, disk.size_bytes).ok_or("the disk is too small for a table")?;
        let Found::Table(mut table) = gpt::read(&first, &[], geometry) else {
            return Err(format!(
                "it has no GPT for sectors of {sector} bytes; there are images for 512 and for 4096, and this disk needs \
                 the one or the other"
            ));
        };
        let (least, usable) = usable(geometry);
        let last = table.entries.iter_mut().max_by_key(|entry| entry.last).ok_or("it has no partition")?;
        let (align, room) = (ALIGNMENT / sector, image.seed.as_ref().map_or(0, |_| fat::SIZE / sector));
        let end = usable.saturating_sub(room) / align * align;
        if end > last.last + 1 {
            last.last = end - 1;
        }
        let seed_first = (last.last + 1).next_multiple_of(align);
        if image.seed.is_some() && seed_first + room > usable {
            return Err("behind its last partition there is no room for the seed; take a larger disk".into());
        }
        if last.last >= usable || table.capacity > ENTRIES || table.entries.iter().any(|entry| entry.first < least) {
            return Err("its table is not the usual one of 128 entries".into());
        }
        let mut seed = None;
        if let Some(texts) = &image.seed {
            let is_free = |number: &u32| table.entries.iter().all(|entry| entry.number != *number);
            let after = table.entries.iter().map(|entry| entry.number).max().unwrap_or_default();
            let number = (after + 1..=ENTRIES).chain(1..after).find(is_free).ok_or("its table is full")?;
            let named = Digest::of_value(&("seed", image.guid));
            let mut guid = image.guid;
            guid[..6].copy_from_slice(&named.as_bytes()[..6]);
            let serial = [named.as_bytes()[8], named.as_bytes()[9], named.as_bytes()[10], named.as_bytes()[11]];
            seed = Some((seed_first * sector, fat::volume(texts, serial, disk.logical_sector)));
            table.entries.push(Entry {
                number,
                type_guid: BASIC_DATA,
                guid,
                first: seed_first,
                last: seed_first + room - 1,
                attributes: 0,
                name: gpt::name(fat::LABEL),
            });
        }
        let old_backup = table.old_backup(geometry);
        table.guid = image.guid;
        let written = gpt::encode(&table, geometry);
        let (sector_bytes, mut head) = (sector as usize, first);
        let begin = gpt::covering(head[..sector_bytes].to_vec(), geometry);
        head[..sector_bytes].copy_from_slice(&begin);
        head[sector_bytes..written.head.len()].copy_from_slice(&written.head[sector_bytes..]);
        let place = |e: &Entry| (e.number, e.first * sector, (e.last - e.first + 1) * sector);
        let partitions = table.entries.iter().map(place).collect();
        let Image { tail, .. } = written;
        Ok(Self { head, tail, seed, old_backup, partitions })
    }
}

/// The first sector that a partition may have, and the first one behind the last.
fn usable(geometry: Geometry) -> (u64, u64) {
    let array = (ENTRIES as u64 * 128).div_ceil(u64::from(geometry.sector));
    (2 + array, geometry.sectors - 1 - array)
}
