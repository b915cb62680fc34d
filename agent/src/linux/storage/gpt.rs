//! GUID partition tables (UEFI 2.10, section 5.3): read and written.
//!
//! Called by `signatures` (what is there) and `storage` (make it so); pure, bytes in and bytes out.
//! It writes one layout only, the one every tool writes: 128 entries of 128 bytes right behind the header.
//! It does not look into partitions, and it repairs nothing: a damaged table is reported as such.
//!
//! Our own codec instead of a crate: gptman 3.1 adds 37 kB to the agent and gpt 4.1 53 kB (measured), this adds 6,
//! and both size their buffers by what the disk says.

pub use crate::plan::storage::mixed_endian;

/// Bytes of one entry, and how many there are, in the tables that are written.
const ENTRY: usize = 128;
const ENTRIES: usize = 128;
const ARRAY: usize = ENTRY * ENTRIES;
/// Tables with room for more count as damaged: Linux has no more partitions a disk, and a report has to end somewhere.
const CAPACITY: u32 = 256;
/// Bytes of the header that its checksum covers.
const HEADER: usize = 92;
const MAGIC: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
/// MBR type of the one entry that keeps old tools away from a GPT.
const PROTECTIVE: u8 = 0xee;

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Disk GUID in the byte order in which it is printed.
    pub guid: [u8; 16],
    /// Entries in use, by number.
    pub entries: Vec<Entry>,
    /// How many entries the table has room for.
    pub capacity: u32,
    /// The sector of the other copy's header.
    pub alternate: u64,
}

impl Table {
    /// Where the header says that the other copy lies, if that is not the end of the disk and no partition is there: first
    /// byte, and the first one behind. The disk was smaller when it was written.
    pub fn old_backup(&self, geometry: Geometry) -> Option<(u64, u64)> {
        let sector = u64::from(geometry.sector);
        let first = self.alternate.checked_sub(geometry.array_sectors())?;
        let is_elsewhere = self.alternate < geometry.sectors - 1 && first > geometry.array_sectors() + 1;
        let is_free = self.entries.iter().all(|entry| entry.last < first || self.alternate < entry.first);
        (is_elsewhere && is_free).then(|| (first * sector, (self.alternate + 1) * sector))
    }
}

/// Whether a copy of a table may lie here: these are its last bytes.
pub fn is_backup(bytes: &[u8], geometry: Geometry) -> bool {
    let at = bytes.len().saturating_sub(geometry.sector as usize);
    bytes.get(at..).is_some_and(|header| header.starts_with(MAGIC))
}

/// Sector 0 with the protective entry over the whole of the disk; the rest of it stays, it may be a boot loader's.
pub fn covering(mut first: Vec<u8>, geometry: Geometry) -> Vec<u8> {
    let covered = u32::try_from(geometry.sectors - 1).unwrap_or(u32::MAX);
    let entries = first.get_mut(446..510).into_iter().flat_map(|entries| entries.chunks_exact_mut(16));
    for entry in entries.filter(|entry| entry[4] == PROTECTIVE && entry[8..12] == [1, 0, 0, 0]) {
        entry[12..16].copy_from_slice(&covered.to_le_bytes());
    }
    first
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the table, from 1.
    pub number: u32,
    /// What it is for, in the byte order in which it is printed; never zero.
    pub type_guid: [u8; 16],
    /// Its own name for itself, in the byte order in which it is printed.
    pub guid: [u8; 16],
    /// First sector.
    pub first: u64,
    /// Last sector, inclusive.
    pub last: u64,
    /// Attribute bits, kept as they are.
    pub attributes: u64,
    /// UTF-16, closed by a zero where it is shorter.
    pub name: [u16; 36],
}

impl Entry {
    /// The name as text; what is no UTF-16 is replaced.
    pub fn label(&self) -> String {
        let units = self.name.iter().copied().take_while(|&unit| unit != 0);
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    }
}

/// A text as an entry's name, cut where it is too long.
pub fn name(label: &str) -> [u16; 36] {
    let mut name = [0; 36];
    for (unit, from) in name.iter_mut().zip(label.encode_utf16()) {
        *unit = from;
    }
    name
}

/// The size of a disk as far as a table cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical sector: a power of two, 512 to 65,536.
    pub sector: u32,
    /// Sectors on the disk.
    pub sectors: u64,
}

impl Geometry {
    /// `None` where the sector size is none that exists, or the disk is too small for two tables.
    pub fn new(sector: u32, size_bytes: u64) -> Option<Self> {
        if !sector.is_power_of_two() || !(512..=65_536).contains(&sector) {
            return None;
        }
        let geometry = Self { sector, sectors: size_bytes / u64::from(sector) };
        (geometry.sectors > 2 * geometry.array_sectors() + 3).then_some(geometry)
    }

    fn array_sectors(self) -> u64 {
        (ARRAY as u64).div_ceil(u64::from(self.sector))
    }

    fn bytes(self, sectors: u64) -> Option<usize> {
        usize::try_from(sectors.checked_mul(u64::from(self.sector))?).ok()
    }
}

/// What the ends of a disk say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A protective MBR and a valid primary table: what the kernel takes for a GPT.
    Table(Table),
    /// Pieces of a GPT that the kernel would not take.
    Damaged,
    /// Nothing of the kind.
    Nothing,
}

/// Looks for a table in the first and the last bytes of a disk.
pub fn read(head: &[u8], tail: &[u8], geometry: Geometry) -> Found {
    let sector = geometry.sector as usize;
    let primary = head.get(sector..).unwrap_or_default();
    let backup = tail.len().checked_sub(sector).and_then(|at| tail.get(at..)).unwrap_or_default();
    let array = |lba: u64, len: usize| {
        let start = geometry.bytes(lba)?;
        head.get(start..start.checked_add(len)?)
    };
    match parse(primary, array, 1, geometry) {
        Some(table) if is_protected(head) => Found::Table(table),
        Some(_) => Found::Damaged,
        None if primary.starts_with(MAGIC) || backup.starts_with(MAGIC) || is_protected(head) => Found::Damaged,
        None => Found::Nothing,
    }
}

fn parse<'a>(
    header: &[u8],
    array: impl FnOnce(u64, usize) -> Option<&'a [u8]>,
    lba: u64,
    geometry: Geometry,
) -> Option<Table> {
    let sum_covers = u32_at(header, 12)? as usize;
    if !header.starts_with(MAGIC) || !(HEADER..=geometry.sector as usize).contains(&sum_covers) {
        return None;
    }
    let mut summed = header.get(..sum_covers)?.to_vec();
    summed.get_mut(16..20)?.fill(0);
    let (first_usable, last_usable) = (u64_at(header, 40)?, u64_at(header, 48)?);
    let (capacity, entry_size) = (u32_at(header, 80)?, u32_at(header, 84)? as usize);
    let sound = crc32(&summed) == u32_at(header, 16)?
        && u64_at(header, 24)? == lba
        && first_usable <= last_usable
        && last_usable < geometry.sectors
        && capacity <= CAPACITY
        && entry_size >= ENTRY
        && entry_size.is_power_of_two();
    if !sound {
        return None;
    }
    let entries = array(u64_at(header, 72)?, entry_size.checked_mul(capacity as usize)?)?;
    if crc32(entries) != u32_at(header, 88)? {
        return None;
    }
    let mut table = Table {
        guid: mixed_endian(array_at(header, 56)?),
        entries: Vec::new(),
        capacity,
        alternate: u64_at(header, 32)?,
    };
    for (number, raw) in (1..).zip(entries.chunks_exact(entry_size)) {
        let entry = parse_entry(number, raw)?;
        if entry.type_guid == [0; 16] {
            continue;
        }
        if entry.first > entry.last || entry.first < first_usable || entry.last > last_usable {
            return None;
        }
        table.entries.push(entry);
    }
    Some(table)
}

fn parse_entry(number: u32, raw: &[u8]) -> Option<Entry> {
    let mut name = [0; 36];
    for (unit, pair) in name.iter_mut().zip(raw.get(56..ENTRY)?.chunks_exact(2)) {
        *unit = u16::from_le_bytes([pair[0], pair[1]]);
    }
    Some(Entry {
        number,
        type_guid: mixed_endian(array_at(raw, 0)?),
        guid: mixed_endian(array_at(raw, 16)?),
        first: u64_at(raw, 32)?,
        last: u64_at(raw, 40)?,
        attributes: u64_at(raw, 48)?,
        name,
    })
}

/// The kernel's test: a boot signature, and an entry of the protective type that begins at sector 1.
fn is_protected(head: &[u8]) -> bool {
    let entries = head.get(446..510).unwrap_or_default();
    let protective = |entry: &[u8]| entry[4] == PROTECTIVE && entry[8..12] == [1, 0, 0, 0];
    head.get(510..512) == Some(&[0x55, 0xaa]) && entries.chunks_exact(16).any(protective)
}

/// The bytes of a table, for both ends of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Sector 0 (protective MBR), header and entries.
    pub head: Vec<u8>,
    /// Entries and header, up to the very end of the disk.
    pub tail: Vec<u8>,
}

/// Writes a table; entries whose number is not 1 to 128 are left out, which no caller has.
pub fn encode(table: &Table, geometry: Geometry) -> Image {
    let sector = geometry.sector as usize;
    let mut array = vec![0; ARRAY];
    for entry in &table.entries {
        let slot = (entry.number as usize).checked_sub(1).and_then(|i| array.chunks_exact_mut(ENTRY).nth(i));
        if let Some(slot) = slot {
            write_entry(slot, entry);
        }
    }
    array.resize(geometry.array_sectors() as usize * sector, 0);

    let sum_of_entries = crc32(&array[..ARRAY]);
    let last = geometry.sectors - 1;
    let header = |own: u64, other: u64, entries: u64| {
        let mut header = vec![0; sector];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &REVISION.to_le_bytes());
        put(12, &(HEADER as u32).to_le_bytes());
        put(24, &own.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &(2 + geometry.array_sectors()).to_le_bytes());
        put(48, &(last - 1 - geometry.array_sectors()).to_le_bytes());
        put(56, &mixed_endian(table.guid));
        put(72, &entries.to_le_bytes());
        put(80, &(ENTRIES as u32).to_le_bytes());
        put(84, &(ENTRY as u32).to_le_bytes());
        put(88, &sum_of_entries.to_le_bytes());
        let sum = crc32(&header[..HEADER]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    };

    let mut head = protective_mbr(geometry);
    head.extend(header(1, last, 2));
    head.extend(&array);
    let mut tail = array;
    tail.extend(header(last, 1, last - geometry.array_sectors()));
    Image { head, tail }
}

fn write_entry(slot: &mut [u8], entry: &Entry) {
    slot[..16].copy_from_slice(&mixed_endian(entry.type_guid));
    slot[16..32].copy_from_slice(&mixed_endian(entry.guid));
    slot[32..40].copy_from_slice(&entry.first.to_le_bytes());
    slot[40..48].copy_from_slice(&entry.last.to_le_bytes());
    slot[48..56].copy_from_slice(&entry.attributes.to_le_bytes());
    for (to, unit) in slot[56..].chunks_exact_mut(2).zip(entry.name) {
        to.copy_from_slice(&unit.to_le_bytes());
    }
}

/// UEFI 2.10, table 5-4: one entry that covers the disk, or as much of it as 32 bits can say.
fn protective_mbr(geometry: Geometry) -> Vec<u8> {
    let mut sector = vec![0; geometry.sector as usize];
    let covered = u32::try_from(geometry.sectors - 1).unwrap_or(u32::MAX);
    sector[446..458].copy_from_slice(&[0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    sector[458..462].copy_from_slice(&covered.to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// CRC-32 as in IEEE 802.3, without a table: 16 KiB twice a year do not deserve one.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use muster_protocol::desired::LINUX_FILESYSTEM;
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u32, label: &str, first: u64, last: u64) -> Entry {
        let (type_guid, guid) = (LINUX_FILESYSTEM, [number as u8; 16]);
        Entry { number, type_guid, guid, first, last, attributes: 4, name: name(label) }
    }

    fn geometry(sector: u32) -> Geometry {
        Geometry::new(sector, 64 << 20).expect("a disk")
    }

    /// A table of two partitions whose sectors fit a disk of 64 MiB in either sector size.
    fn table() -> Table {
        table_on(geometry(512))
    }

    fn table_on(geometry: Geometry) -> Table {
        Table {
            alternate: geometry.sectors - 1,
            guid: [7; 16],
            entries: vec![entry(1, "boot", 2048, 4095), entry(5, "größe 𝄞", 4096, 8191)],
            capacity: 128,
        }
    }

    #[test]
    fn reads_what_it_writes() {
        for sector in [512, 4096] {
            let image = encode(&table(), geometry(sector));
            let table = table_on(geometry(sector));
            assert_eq!(read(&image.head, &image.tail, geometry(sector)), Found::Table(table), "{sector}");
        }
        assert_eq!(table().entries[1].label(), "größe 𝄞");
    }

    #[test]
    fn a_crc_is_the_one_everybody_computes() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn one_flipped_bit_anywhere_in_the_primary_is_damage() {
        let image = encode(&table(), geometry(512));
        for at in (512..604).chain([1024, 1024 + 57, 1024 + 4 * 128, image.head.len() - 1]) {
            let mut head = image.head.clone();
            head[at] ^= 1;
            assert_eq!(read(&head, &image.tail, geometry(512)), Found::Damaged, "byte {at}");
        }
    }

    #[test]
    fn a_backup_alone_or_a_protective_record_alone_is_damage_and_not_nothing() {
        let image = encode(&table(), geometry(512));
        let nothing = vec![0; image.head.len()];
        assert_eq!(read(&nothing, &image.tail, geometry(512)), Found::Damaged);
        assert_eq!(read(&image.head[..512], &nothing, geometry(512)), Found::Damaged);
        let mut unprotected = image.head.clone();
        unprotected[510] = 0;
        assert_eq!(read(&unprotected, &image.tail, geometry(512)), Found::Damaged);
        assert_eq!(read(&nothing, &nothing, geometry(512)), Found::Nothing);
        assert_eq!(read(&[], &[], geometry(512)), Found::Nothing);
    }

    #[test]
    fn a_primary_is_enough_when_the_disk_grew() {
        let image = encode(&table(), geometry(512));
        let grown = Geometry::new(512, 128 << 20).expect("a disk");
        assert_eq!(read(&image.head, &[0; 512], grown), Found::Table(table()));
    }

    #[test]
    fn the_old_backup_of_a_disk_that_grew_is_found_unless_a_partition_is_there() {
        let grown = Geometry::new(512, 128 << 20).expect("a disk");
        assert_eq!(table().old_backup(geometry(512)), None, "it is at the end");
        let end = 64 << 20;
        assert_eq!(table().old_backup(grown), Some((end - 33 * 512, end)));
        let mut taken = table();
        taken.entries[1].last = taken.alternate - 32;
        assert_eq!(taken.old_backup(grown), None);
        for alternate in [0, 1, 2, 33, u64::MAX] {
            let lies = Table { alternate, ..table() };
            assert_eq!(lies.old_backup(grown), None, "{alternate}");
        }
        let image = encode(&table(), geometry(512));
        assert!(is_backup(&image.tail, grown) && !is_backup(&image.head, grown) && !is_backup(&[], grown));
    }

    #[test]
    fn the_protective_entry_grows_and_a_boot_loader_beside_it_stays() {
        let mut first = encode(&table(), geometry(512)).head[..512].to_vec();
        first[..440].fill(0x90);
        let grown = Geometry::new(512, 128 << 20).expect("a disk");
        let covering = covering(first.clone(), grown);
        assert_eq!(covering[458..462], (grown.sectors as u32 - 1).to_le_bytes());
        assert_eq!((&covering[..458], &covering[462..]), (&first[..458], &first[462..]));
    }

    #[test]
    fn a_table_beyond_the_disk_is_damage() {
        let image = encode(&table(), geometry(512));
        let shrunk = Geometry::new(512, 32 << 20).expect("a disk");
        assert_eq!(read(&image.head, &[0; 512], shrunk), Found::Damaged);
    }

    #[test]
    fn a_power_cut_while_writing_leaves_the_whole_table_or_damage() {
        // The tail is written first, then the head from its start.
        let image = encode(&table(), geometry(512));
        for sectors in 0..=image.head.len() / 512 {
            let mut head = vec![0; image.head.len()];
            head[..sectors * 512].copy_from_slice(&image.head[..sectors * 512]);
            let found = read(&head, &image.tail, geometry(512));
            assert!(found == Found::Damaged || found == Found::Table(table()), "{sectors} sectors: {found:?}");
        }
    }

    #[test]
    fn a_table_with_room_for_thousands_is_not_walked() {
        for (capacity, sound) in [(256_u32, true), (257, false), (4096, false)] {
            let Image { mut head, tail } = encode(&table(), geometry(512));
            head.resize(1024 + 128 * capacity as usize, 0);
            head[592..596].copy_from_slice(&capacity.to_le_bytes());
            let sum = crc32(&head[1024..]);
            head[600..604].copy_from_slice(&sum.to_le_bytes());
            head[528..532].fill(0);
            let sum = crc32(&head[512..604]);
            head[528..532].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(matches!(read(&head, &tail, geometry(512)), Found::Table(_)), sound, "{capacity}");
        }
    }

    #[test]
    fn disks_that_cannot_hold_a_table_have_no_geometry() {
        for (sector, size) in [(0, 1 << 30), (500, 1 << 30), (512, 0), (512, 17 * 1024), (1 << 20, 1 << 40)] {
            assert_eq!(Geometry::new(sector, size), None, "{sector} {size}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_never_panic(
            mut head in proptest::collection::vec(any::<u8>(), 0..4096),
            tail in proptest::collection::vec(any::<u8>(), 0..2048),
            magic in any::<bool>(),
            sector in prop_oneof![Just(512_u32), Just(4096)],
        ) {
            if magic && head.len() > 1024 {
                head[512..520].copy_from_slice(MAGIC);
                // A right checksum, so that what it covers is looked at as well.
                head[524..528].copy_from_slice(&92_u32.to_le_bytes());
                head[528..532].fill(0);
                let sum = crc32(&head[512..604]);
                head[528..532].copy_from_slice(&sum.to_le_bytes());
            }
            let _ = read(&head, &tail, geometry(sector));
        }

        #[test]
        fn every_table_reads_back(
            entries in proptest::collection::btree_map(1..129_u32, ("\\PC{0,40}", 34..60_000_u64, 0..70_000_u64), 0..128)
        ) {
            let entries = entries.into_iter().map(|(n, (l, first, len))| entry(n, &l, first, (first + len).min(131_000)));
            let table = Table { guid: [3; 16], entries: entries.collect(), capacity: 128, ..table() };
            let image = encode(&table, geometry(512));
            prop_assert_eq!(read(&image.head, &image.tail, geometry(512)), Found::Table(table));
        }
    }
}
