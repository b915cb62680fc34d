//! The volume from which cloud-init's NoCloud source reads: a FAT with three files (Microsoft's FAT specification, 1.03).
//!
//! Called by the writing of images; pure. Own code, because it is written before there is a table that a program could be
//! shown a partition by, and so that a machine needs no tools for it. It writes FAT12 and nothing else, once.

use muster_protocol::desired::Seed;

/// Bytes of the volume.
pub const SIZE: u64 = 4 << 20;
/// What cloud-init looks for.
pub const LABEL: &str = "CIDATA";

const ENTRY: usize = 32;
const ROOT_ENTRIES: usize = 512;
const FIXED_DISK: u8 = 0xf8;
const ARCHIVE: u8 = 0x20;
const VOLUME: u8 = 0x08;
const LONG_NAME: u8 = 0x0f;
/// Characters of a long name in one entry, and where they stand.
const LONG: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// 1980-01-01: the same seed is the same bytes.
const DAY_ONE: [u8; 2] = [0x21, 0];

/// The first bytes of the volume; all that follow are zeros. `serial` is its id, `sector` a sector of the disk's.
pub fn volume(seed: &Seed, serial: [u8; 4], sector: u32) -> Vec<u8> {
    let sector = sector as usize;
    let cluster = sector.max(2048);
    let sectors = SIZE as usize / sector;
    let fat_bytes = (SIZE as usize / cluster + 2) * 3 / 2;
    let fat_sectors = fat_bytes.div_ceil(sector);
    let root = (1 + 2 * fat_sectors) * sector;
    let data = root + ROOT_ENTRIES * ENTRY;

    let mut fat: Vec<u16> = vec![0xf00 | u16::from(FIXED_DISK), 0xfff];
    let mut entries = vec![entry(&short_name(LABEL), VOLUME, 0, 0)];
    let mut contents = Vec::new();
    let files = [
        ("meta-data", "META-D~1", &seed.meta_data),
        ("user-data", "USER-D~1", &seed.user_data),
        ("network-config", "NETWOR~1", &seed.network_config),
    ];
    // Without network-config the system keeps its own way; the other two have to be there.
    for (name, short, text) in files.into_iter().filter(|(name, _, text)| *name != "network-config" || !text.is_empty())
    {
        let short = short_name(short);
        let clusters = text.len().div_ceil(cluster);
        let first = if clusters == 0 { 0 } else { fat.len() };
        fat.extend((1..=clusters).map(|i| if i == clusters { 0xfff } else { (first + i) as u16 }));
        contents.extend_from_slice(text.as_bytes());
        contents.resize(contents.len().next_multiple_of(cluster), 0);
        entries.extend(long_name(name, &short));
        entries.push(entry(&short, ARCHIVE, first, text.len()));
    }

    let mut out = vec![0; data];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"mkfs.fat");
    put(11, &(sector as u16).to_le_bytes());
    put(13, &[(cluster / sector) as u8, 1, 0, 2]);
    put(17, &(ROOT_ENTRIES as u16).to_le_bytes());
    put(19, &(sectors as u16).to_le_bytes());
    put(21, &[FIXED_DISK]);
    put(22, &(fat_sectors as u16).to_le_bytes());
    put(24, &[32, 0, 64, 0]);
    put(36, &[0x80, 0, 0x29]);
    put(39, &serial);
    put(43, &short_name(LABEL));
    put(54, b"FAT12   ");
    put(510, &[0x55, 0xaa]);
    let packed = pack(&fat);
    put(sector, &packed);
    put((1 + fat_sectors) * sector, &packed);
    for (i, entry) in entries.iter().enumerate() {
        put(root + i * ENTRY, entry);
    }
    out.extend(contents);
    out
}

/// Two entries of twelve bits in three bytes.
fn pack(fat: &[u16]) -> Vec<u8> {
    let pairs = fat.chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or_default()));
    pairs.flat_map(|(a, b)| [a as u8, (a >> 8) as u8 | (b << 4) as u8, (b >> 4) as u8]).collect()
}

fn short_name(name: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..name.len()].copy_from_slice(name.as_bytes());
    short
}

fn entry(name: &[u8; 11], attributes: u8, first: usize, size: usize) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    for day in [16, 18, 24] {
        entry[day..day + 2].copy_from_slice(&DAY_ONE);
    }
    entry[26..28].copy_from_slice(&(first as u16).to_le_bytes());
    entry[28..].copy_from_slice(&(size as u32).to_le_bytes());
    entry
}

/// A name as it is written, last part first.
fn long_name(name: &str, short: &[u8; 11]) -> Vec<[u8; ENTRY]> {
    let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    // Closed by a zero, where there is room for one.
    let units: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let units = if name.len().is_multiple_of(LONG.len()) { &units[..name.len()] } else { &units };
    let parts = units.chunks(LONG.len());
    let last = parts.len();
    let part = |(i, part): (usize, &[u16])| {
        let mut entry = [0; ENTRY];
        entry[0] = (i + 1) as u8 | if i + 1 == last { 0x40 } else { 0 };
        entry[11] = LONG_NAME;
        entry[13] = sum;
        for (j, at) in LONG.into_iter().enumerate() {
            let unit = part.get(j).copied().unwrap_or(0xffff);
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entry
    };
    let mut entries: Vec<_> = parts.enumerate().map(part).collect();
    entries.reverse();
    entries
}
