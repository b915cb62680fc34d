//! What a disk or partition carries, told from its first two MiB and its last one.
//!
//! Called by `disks` with bytes that it read; pure.
//! It errs on one side only: what it does not know is [`Contents::Unknown`], and blank is what is all zeros.
//! Members of arrays, volume groups and encrypted devices say of what they are part; what is inside is looked at where
//! it runs, and not here. It checks no filesystem but for its superblock's checksum, in `sums`.

mod known;
mod luks;
pub mod lvm;
mod md;
pub mod sums;
#[cfg(test)]
mod tests;

use muster_protocol::desired::{MARK, unfinished};
use muster_protocol::observed::{Contents, Filesystem, PhysicalVolume};

use self::known::{AT_THE_END, At, FORMATS, Format, Label, MEMBERS, Member, Uuid};
use super::gpt::{self, Geometry};
use crate::linux::text::{clean, clean_to};

/// Bytes from the start that signatures may lie in: VMFS has its at 2 MiB.
pub const HEAD: usize = (2 << 20) + 4096;
/// Bytes before the end that signatures may lie in: ZFS has its last labels in the last 512 KiB and less.
pub const TAIL: usize = 1 << 20;
/// The volume label of Muster's own boot media begins so.
pub const BOOT_MEDIUM_LABEL: &str = "MUSTER";

/// Both ends of a disk or partition.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// The first [`HEAD`] bytes, or all.
    pub head: &'a [u8],
    /// The last [`TAIL`] bytes, or all.
    pub tail: &'a [u8],
    /// Bytes of the whole.
    pub size: u64,
}

/// A partition as the table says, whatever kind of table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// GPT name, empty for MBRs.
    pub label: String,
    /// GPT type in the byte order in which it is printed, zeros for MBRs.
    pub type_guid: [u8; 16],
    /// Its own GUID in the byte order in which it is printed, zeros for MBRs.
    pub guid: [u8; 16],
}

/// What a partition, or anything else that is no whole disk, carries.
pub fn of_partition(ends: Ends<'_>) -> Contents {
    raid_at_the_end(ends)
        .or_else(|| member_or_filesystem(ends))
        .unwrap_or_else(|| if ends.are_zeros() { Contents::Blank } else { Contents::Unknown })
}

/// What a whole disk carries, and its partitions.
pub fn of_disk(ends: Ends<'_>, logical_sector: u32) -> (Contents, Vec<Place>) {
    if let Some(member) = raid_at_the_end(ends) {
        return (member, Vec::new());
    }
    if let Some(guid) = ends.head.strip_prefix(MARK).and_then(|rest| rest.first_chunk()) {
        return (Contents::Signature(unfinished(*guid)), Vec::new());
    }
    let sector = u64::from(logical_sector);
    let table = Geometry::new(logical_sector, ends.size).map(|geometry| gpt::read(ends.head, ends.tail, geometry));
    match table {
        Some(gpt::Found::Table(table)) => {
            let place = |entry: &gpt::Entry| Place {
                number: entry.number,
                start: entry.first * sector,
                size: (entry.last - entry.first + 1) * sector,
                label: entry.label(),
                type_guid: entry.type_guid,
                guid: entry.guid,
            };
            return (Contents::Gpt { guid: table.guid }, table.entries.iter().map(place).collect());
        }
        Some(gpt::Found::Damaged) => return (Contents::Signature("damaged GPT".into()), Vec::new()),
        Some(gpt::Found::Nothing) | None => {}
    }
    if let Some(contents) = member_or_filesystem(ends) {
        return (contents, Vec::new());
    }
    match mbr(ends.head, sector, ends.size) {
        Some(places) => (Contents::Dos, places),
        None if ends.are_zeros() => (Contents::Blank, Vec::new()),
        None => (Contents::Unknown, Vec::new()),
    }
}

/// Whether these are the ends of one of Muster's boot media, even if a partition table hides the filesystem.
pub fn is_boot_medium(ends: Ends<'_>) -> bool {
    let iso = FORMATS.iter().find(|format| format.kind == "iso9660" && ends.has(At::Start(format.at), format.magic));
    iso.is_some_and(|iso| ends.label(iso.label).starts_with(BOOT_MEDIUM_LABEL))
}

impl Ends<'_> {
    /// Bytes at a place, where one of the ends holds all of them.
    fn at(&self, start: u64, len: usize) -> Option<&[u8]> {
        let end = start.checked_add(len as u64).filter(|&end| end <= self.size)?;
        let slice = |bytes: &'_ [u8], from: u64| -> Option<std::ops::Range<usize>> {
            let start = usize::try_from(start.checked_sub(from)?).ok()?;
            let end = usize::try_from(end - from).ok()?;
            (end <= bytes.len()).then_some(start..end)
        };
        match slice(self.head, 0) {
            Some(range) => self.head.get(range),
            None => self.tail.get(slice(self.tail, self.size.checked_sub(self.tail.len() as u64)?)?),
        }
    }

    fn has(&self, at: At, magic: &[u8]) -> bool {
        let start = match at {
            At::Start(offset) => Some(offset),
            At::End(before) => self.size.checked_sub(before),
        };
        start.and_then(|start| self.at(start, magic.len())) == Some(magic)
    }

    fn number<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        self.at(at, N)?.try_into().ok()
    }

    fn u32_le(&self, at: u64) -> Option<u32> {
        self.number(at).map(u32::from_le_bytes)
    }

    fn are_zeros(&self) -> bool {
        is_zeros(self.head) && is_zeros(self.tail)
    }

    fn label(&self, label: Label) -> String {
        // A label is compared with what is desired, so that none is cut.
        let text = |at, len| {
            let bytes = self.at(at, len)?;
            let end = bytes.iter().position(|&b| b == 0).unwrap_or(len);
            Some(clean_to(&String::from_utf8_lossy(&bytes[..end]), len))
        };
        match label {
            Label::None => None,
            Label::Text(at, len) => text(at, len),
            Label::Dos(at) => text(at, 11).filter(|label| label != "NO NAME"),
            Label::Utf16(at, units) => self.at(at, 2 * units).map(|bytes| {
                let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
                let units = units.take_while(|&unit| unit != 0);
                clean(&char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>())
            }),
        }
        .unwrap_or_default()
    }

    fn uuid(&self, uuid: Uuid) -> String {
        match uuid {
            Uuid::None => None,
            Uuid::Plain(at) => self
                .number(at)
                .filter(|bytes| *bytes != [0; 16])
                .map(|bytes| muster_protocol::MachineId::from_bytes(bytes).to_string()),
            Uuid::Dos(at) => self.u32_le(at).map(|n| format!("{:04X}-{:04X}", n >> 16, n & 0xffff)),
            Uuid::Ntfs(at) => self.number(at).map(|bytes| format!("{:016X}", u64::from_le_bytes(bytes))),
        }
        .unwrap_or_default()
    }
}

/// Whether all bytes are zero.
pub fn is_zeros(bytes: &[u8]) -> bool {
    // In words, because this looks at megabytes and the agent is built for size, without wide instructions.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|&byte| byte == 0)
}

fn signature(name: &str) -> Contents {
    Contents::Signature(name.into())
}

fn find_member(members: &[Member], ends: Ends<'_>) -> Option<Contents> {
    let found = members.iter().find(|member| member.at.iter().any(|&at| ends.has(at, member.magic)));
    found.map(|member| in_detail(member.name, ends).unwrap_or_else(|| signature(member.name)))
}

/// More than a name, where there is a reader for it and what it reads holds.
fn in_detail(name: &str, ends: Ends<'_>) -> Option<Contents> {
    match name {
        "crypto_LUKS" => luks::read(ends).map(|luks| Contents::Luks(Box::new(luks))),
        // Its group is told by metadata that may lie anywhere.
        "LVM2_member" => lvm::label(ends)
            .map(|label| Contents::Lvm(Box::new(PhysicalVolume { uuid: label.uuid, group: None, is_damaged: false }))),
        _ => None,
    }
}

/// Metadata that lies at the end, so that the start may look like anything.
fn raid_at_the_end(ends: Ends<'_>) -> Option<Contents> {
    find_member(AT_THE_END, ends).or_else(|| md::at_the_end(ends))
}

fn member_or_filesystem(ends: Ends<'_>) -> Option<Contents> {
    md::at_the_start(ends)
        .or_else(|| find_member(MEMBERS, ends))
        .or_else(|| is_zfs(ends).then(|| signature("zfs_member")))
        .or_else(|| ext(ends))
        .or_else(|| FORMATS.iter().find_map(|format| filesystem(format, ends)))
}

/// ZFS keeps four labels of 256 KiB, two at each end; the second half of each is a ring of uberblocks at 1 KiB steps.
/// One valid magic in either byte order is enough to keep our hands off.
fn is_zfs(ends: Ends<'_>) -> bool {
    const LABEL: u64 = 256 * 1024;
    const MAGIC: u32 = 0x00ba_b10c;
    let end = ends.size / LABEL * LABEL;
    let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
    labels.into_iter().flatten().any(|label| {
        (0..128).map(|block| label + LABEL / 2 + block * 1024).any(|at| {
            let little = ends.number(at) == Some(u64::from(MAGIC).to_le_bytes());
            little || ends.number(at) == Some(u64::from(MAGIC).to_be_bytes())
        })
    })
}

/// ext2, ext3 and ext4 share a superblock and differ in feature bits.
/// Linux kernel, Documentation/filesystems/ext4/super.rst.
fn ext(ends: Ends<'_>) -> Option<Contents> {
    const AT: u64 = 1024;
    if ends.at(AT + 0x38, 2)? != [0x53, 0xef] {
        return None;
    }
    let compat = ends.u32_le(AT + 0x5c)?;
    let incompat = ends.u32_le(AT + 0x60)?;
    let ro_compat = ends.u32_le(AT + 0x64)?;
    if incompat & 0x8 != 0 {
        return Some(signature("jbd"));
    }
    let beyond_ext3 = incompat & !(0x2 | 0x4 | 0x10) != 0 || ro_compat & !(0x1 | 0x2 | 0x4) != 0;
    let kind = match (beyond_ext3, compat & 0x4 != 0) {
        (true, _) => "ext4",
        (false, true) => "ext3",
        (false, false) => "ext2",
    };
    let (label, uuid) = (ends.label(Label::Text(AT + 0x78, 16)), ends.uuid(Uuid::Plain(AT + 0x68)));
    // Blocks are counted in 32 bits, and where the feature says so in 64 (super.rst: s_blocks_count_hi).
    let high = if incompat & 0x80 == 0 { 0 } else { ends.u32_le(AT + 0x150)? };
    let blocks = u64::from(high) << 32 | u64::from(ends.u32_le(AT + 4)?);
    let size_bytes = 1024_u64.checked_shl(ends.u32_le(AT + 0x18)?).and_then(|block| block.checked_mul(blocks));
    let (kind, size_bytes) = (kind.into(), size_bytes.unwrap_or_default());
    Some(Contents::Filesystem(Filesystem { kind, label, uuid, size_bytes, ..Filesystem::default() }.into()))
}

/// Bytes that a filesystem takes, where its superblock says it and the planner asks.
fn size(kind: &str, ends: Ends<'_>) -> Option<u64> {
    match kind {
        // fs/xfs/libxfs/xfs_format.h: sb_blocksize, sb_dblocks.
        "xfs" => u64::from(u32::from_be_bytes(ends.number(4)?)).checked_mul(u64::from_be_bytes(ends.number(8)?)),
        // include/uapi/linux/btrfs_tree.h: total_bytes, of all its devices; num_devices.
        "btrfs" => {
            let number = |at: u64| ends.number(0x1_0000 + at).map(u64::from_le_bytes);
            number(0x70).filter(|_| number(0x88) == Some(1))
        }
        // The last page, counted from 0.
        "swap" => Some((u64::from(ends.u32_le(1028)?) + 1) * 4096),
        _ => None,
    }
}

fn filesystem(format: &Format, ends: Ends<'_>) -> Option<Contents> {
    // A boot sector without its signature is text that happens to say FAT.
    let bootable = || ends.at(510, 2) == Some(&[0x55, 0xaa]);
    let found = ends.has(At::Start(format.at), format.magic) && (format.kind != "vfat" || bootable());
    found.then(|| {
        let (label, uuid) = (ends.label(format.label), ends.uuid(format.uuid));
        let size_bytes = size(format.kind, ends).unwrap_or_default();
        let kind = format.kind.into();
        Contents::Filesystem(Filesystem { kind, label, uuid, size_bytes, ..Filesystem::default() }.into())
    })
}

/// An MBR: the boot signature, and four entries that are empty or make sense.
/// Logical partitions inside an extended one are not listed; the extended one is.
fn mbr(head: &[u8], sector: u64, size: u64) -> Option<Vec<Place>> {
    if head.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let mut places = Vec::new();
    for (number, entry) in (1..).zip(head.get(446..510)?.chunks_exact(16)) {
        let number_at =
            |at: usize| u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
        let (status, kind, start, len) = (entry[0], entry[4], number_at(8) * sector, number_at(12) * sector);
        if is_zeros(entry) {
            continue;
        }
        if !matches!(status, 0 | 0x80) || kind == 0 || start == 0 || len == 0 || start >= size {
            return None;
        }
        let (label, none) = (String::new(), [0; 16]);
        places.push(Place { number, start, size: len.min(size - start), label, type_guid: none, guid: none });
    }
    Some(places)
}
