//! Physical volumes of LVM2: label, header, and the metadata areas that describe their group.
//! LVM2 2.03, lib/format_text/layout.h and lib/label/label.c.
//!
//! Called by `signatures` for the label and by `disks` for the metadata, which may lie anywhere; pure.
//! Bytes count where their checksum holds. Of several copies the caller takes the newest.

mod group;
mod text;

use muster_protocol::observed::LvmId;

pub use group::{Group, Member, Volume, read as read_text};

use super::Ends;

const SECTOR: u64 = 512;
/// Labels lie in one of the first four sectors.
const LABELS: u64 = 4;
/// A metadata area's header, and where its ring of texts begins.
const AREA_HEADER: usize = 512;
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
/// Areas of one volume that are looked at: LVM makes two at most.
const AREAS: usize = 4;
/// A text is never larger here. A group of a thousand volumes has less than half of it.
const TEXT: u64 = 1 << 20;
/// What LVM begins its checksums with.
const INITIAL_CRC: u32 = 0xf597_a6cf;

/// What a label and the header behind it say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Of the physical volume.
    pub uuid: LvmId,
    /// Where its metadata areas are: first byte, bytes.
    pub areas: Vec<(u64, u64)>,
}

/// The label of a physical volume.
pub fn label(ends: Ends<'_>) -> Option<Label> {
    (0..LABELS).find_map(|sector| label_in(ends.at(sector * SECTOR, SECTOR as usize)?, sector))
}

fn label_in(bytes: &[u8], sector: u64) -> Option<Label> {
    if !bytes.starts_with(b"LABELONE") || bytes.get(24..32)? != b"LVM2 001" {
        return None;
    }
    if number::<8>(bytes, 8).map(u64::from_le_bytes)? != sector || u32_at(bytes, 16)? != crc(&bytes[20..]) {
        return None;
    }
    let header = bytes.get(usize::try_from(u32_at(bytes, 20)?).ok()?..)?;
    let uuid = LvmId::try_from(number::<32>(header, 0)?).ok()?;
    // Behind the size there are two lists, each closed by zeros: where data lie, and where metadata do.
    let (places, _) = header.get(40..)?.as_chunks::<16>();
    let place = |bytes: &[u8; 16]| {
        let at = |at: usize| number::<8>(bytes, at).map_or(0, u64::from_le_bytes);
        (at(0), at(8))
    };
    let behind_data = places.iter().map(place).skip_while(|(start, _)| *start != 0).skip(1);
    let areas = behind_data.take_while(|(start, _)| *start != 0).take(AREAS).collect();
    Some(Label { uuid, areas })
}

/// What metadata areas would tell does not hold, or cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

/// The newest group that the metadata areas of one volume describe, as far as they can be read; `None` where none was ever
/// written there.
/// `read` answers with bytes of the volume, from the first of them on, `None` where there are none.
pub fn group(label: &Label, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Result<Option<Group>, Damaged> {
    let (mut newest, mut all_hold) = (None, true);
    for area in &label.areas {
        match text_of(*area, read) {
            Ok(None) => {}
            Ok(Some(text)) => match group::read(&text) {
                Some(group) if newest.as_ref().is_none_or(|newest: &Group| newest.seqno < group.seqno) => {
                    newest = Some(group);
                }
                Some(_) => {}
                None => all_hold = false,
            },
            Err(Damaged) => all_hold = false,
        }
    }
    if newest.is_some() || all_hold { Ok(newest) } else { Err(Damaged) }
}

/// The text in use of one metadata area; `None` where there is none yet, or the area is not in use.
fn text_of(
    (start, size): (u64, u64),
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Result<Option<String>, Damaged> {
    let header = read(start, AREA_HEADER).ok_or(Damaged)?;
    // The label is written first.
    if header.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let fields = || {
        let is_area = header.get(4..20)? == AREA_MAGIC
            && u32_at(&header, 0)? == crc(&header[4..])
            && u32_at(&header, 20)? == 1
            && number::<8>(&header, 24).map(u64::from_le_bytes)? == start;
        let (sum, flags) = (u32_at(&header, 56)?, u32_at(&header, 60)?);
        is_area.then_some((u64_at(&header, 40)?, u64_at(&header, 48)?, sum, flags))
    };
    let (offset, len, sum, flags) = fields().ok_or(Damaged)?;
    // An area that LVM was told to ignore is stale.
    if flags & 1 != 0 || (offset, len) == (0, 0) {
        return Ok(None);
    }
    if len == 0 || len > TEXT || offset < AREA_HEADER as u64 || offset >= size {
        return Err(Damaged);
    }
    let before_the_end = len.min(size - offset);
    let mut bytes = start.checked_add(offset).and_then(|at| read(at, before_the_end as usize)).ok_or(Damaged)?;
    if before_the_end < len {
        // The ring goes on behind its header.
        bytes.extend(read(start + AREA_HEADER as u64, (len - before_the_end) as usize).ok_or(Damaged)?);
    }
    if crc(&bytes) != sum {
        return Err(Damaged);
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Damaged)
}

/// CRC-32 as LVM has it: not inverted, and not begun with ones.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(INITIAL_CRC, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    pub(in super::super) use super::group::tests::text;
    use super::*;

    pub(in super::super) const UUID: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";

    /// A metadata area of `size` bytes at `start` with `text` at `offset` in it, checksums right.
    fn area(start: u64, size: usize, offset: usize, text: &str) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let text = [text.as_bytes(), &[0]].concat();
        for (i, byte) in text.iter().enumerate() {
            let at = offset + i;
            bytes[if at < size { at } else { at - size + AREA_HEADER }] = *byte;
        }
        bytes[4..20].copy_from_slice(AREA_MAGIC);
        bytes[20..24].copy_from_slice(&1_u32.to_le_bytes());
        for (at, number) in [(24, start), (32, size as u64), (40, offset as u64), (48, text.len() as u64)] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..60].copy_from_slice(&crc(&text).to_le_bytes());
        let sum = crc(&bytes[4..AREA_HEADER]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// A device with a label in its second sector and metadata areas at 4096 and 65536.
    pub(in super::super) fn device(first: &str, second: &str) -> Vec<u8> {
        let mut bytes = vec![0; 128 * 1024];
        let label = &mut bytes[512..1024];
        label[..8].copy_from_slice(b"LABELONE");
        label[8..16].copy_from_slice(&1_u64.to_le_bytes());
        label[20..24].copy_from_slice(&32_u32.to_le_bytes());
        label[24..32].copy_from_slice(b"LVM2 001");
        label[32..64].copy_from_slice(UUID);
        let places: [u64; 12] = [128 * 1024, 120 * 1024, 0, 0, 0, 4096, 8192, 65536, 4096, 0, 0, 0];
        for (i, number) in places.iter().enumerate() {
            label[64 + 8 * i..72 + 8 * i].copy_from_slice(&number.to_le_bytes());
        }
        let sum = crc(&label[20..]);
        label[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes[4096..12288].copy_from_slice(&area(4096, 8192, 8000, first));
        bytes[65536..69632].copy_from_slice(&area(65536, 4096, 512, second));
        bytes
    }

    pub(in super::super) fn told(device: &[u8]) -> Option<(Label, Result<Option<Group>, Damaged>)> {
        let label = label(Ends { head: device, tail: &[], size: device.len() as u64 })?;
        let mut read = |at: u64, len: usize| Some(device.get(usize::try_from(at).ok()?..)?.get(..len)?.to_vec());
        let group = group(&label, &mut read);
        Some((label, group))
    }

    #[test]
    fn the_newest_copy_that_holds_wins() {
        let (old, new) = (text("vg0", 3), text("vg0", 4));
        let seqno = |device: &[u8]| told(device).expect("a label").1.map(|group| group.map(|group| group.seqno));
        assert_eq!(told(&device(&old, &new)).expect("a label").0.areas, [(4096, 8192), (65536, 4096)]);
        assert_eq!(seqno(&device(&old, &new)), Ok(Some(4)));
        assert_eq!(seqno(&device(&new, &old)), Ok(Some(4)), "in the ring's end and its beginning");
        let mut garbled = device(&old, &new);
        garbled[65536 + 600] ^= 1;
        assert_eq!(seqno(&garbled), Ok(Some(3)), "what does not hold is not believed");
        garbled[4096 + 512] ^= 1;
        assert_eq!(seqno(&garbled), Err(Damaged), "it has a group that nobody can tell");
    }

    #[test]
    fn that_there_is_no_group_is_told_by_what_holds_alone() {
        let told = |device: &[u8]| told(device).expect("a label").1;
        let text = text("vg0", 3);
        let areas = [4096, 65536];
        // A header that says where the text lies, without the text: that was written first, and lost.
        let mut lost = device(&text, &text);
        lost[4096 + 512..12288].fill(0);
        lost[65536 + 512..69632].fill(0);
        assert_eq!(told(&lost), Err(Damaged));
        let mut garbled = device(&text, &text);
        areas.iter().for_each(|at| garbled[at + 44] ^= 1);
        assert_eq!(told(&garbled), Err(Damaged), "where the text would lie is not known");
        // As `pvcreate` leaves it, and between its label and its areas.
        let mut fresh = device("", "");
        for at in areas {
            fresh[at + 40..at + 60].fill(0);
            let sum = crc(&fresh[at + 4..at + AREA_HEADER]);
            fresh[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        }
        assert_eq!(told(&fresh), Ok(None));
        areas.iter().for_each(|at| fresh[*at..at + AREA_HEADER].fill(0));
        assert_eq!(told(&fresh), Ok(None));
    }

    #[test]
    fn a_label_that_does_not_hold_is_none() {
        let good = device("", "");
        assert_eq!(
            told(&good).map(|(label, _)| label.uuid.to_string()).as_deref(),
            Some("abcdef-ghij-klmn-opqr-stuv-wxyz-012345")
        );
        for at in [512 + 8, 512 + 16, 512 + 40, 512 + 200] {
            let mut garbled = good.clone();
            garbled[at] ^= 1;
            assert_eq!(told(&garbled), None, "{at}");
        }
    }
}
