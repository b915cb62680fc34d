//! SMBIOS tables (DMTF DSP0134, 3.7) out of /sys/firmware/dmi: what the board says of itself and of its memory.
//!
//! Called by `inventory`; pure. Only types 0, 1, 2, 17 and 38 are read.
//! What vendors leave in their tables in place of an answer counts as none.

use muster_protocol::bounded::DIMMS;
use muster_protocol::inventory::{Dimm, Firmware, System};

use crate::linux::storage::gpt::mixed_endian;
use crate::linux::text::clean_bytes;

/// What the tables say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Types 1 and 2.
    pub system: System,
    /// Type 0; the boot path is not known here.
    pub firmware: Firmware,
    /// Type 17, populated slots only.
    pub dimms: Vec<Dimm>,
    /// Type 38.
    pub has_bmc: bool,
}

/// Reads the contents of `smbios_entry_point` and `DMI`. Whatever is malformed is skipped.
pub fn decode(entry_point: &[u8], table: &[u8]) -> Tables {
    let uuid_is_mixed_endian = version(entry_point).is_none_or(|version| version >= (2, 6));
    let mut tables = Tables::default();
    let mut first = [true; 3];
    for structure in structures(table) {
        // Of several, the first is the whole machine's; blades list their chassis' boards behind their own.
        let is_first = first.get_mut(usize::from(structure.kind)).is_some_and(std::mem::take);
        match structure.kind {
            0 if is_first => {
                tables.firmware.vendor = structure.text(4);
                tables.firmware.version = structure.text(5);
                tables.firmware.date = structure.text(8);
            }
            1 if is_first => {
                tables.system.vendor = structure.text(4);
                tables.system.product = structure.text(5);
                tables.system.serial = structure.text(7);
                tables.system.uuid = structure.uuid(8, uuid_is_mixed_endian);
            }
            2 if is_first => tables.system.board_serial = structure.text(7),
            38 => tables.has_bmc = true,
            17 if tables.dimms.len() < DIMMS => tables.dimms.extend(dimm(&structure)),
            _ => {}
        }
    }
    tables
}

/// Major and minor version, from either kind of entry point.
fn version(entry_point: &[u8]) -> Option<(u8, u8)> {
    let at = if entry_point.starts_with(b"_SM3_") { 7 } else { 6 };
    let known = entry_point.starts_with(b"_SM3_") || entry_point.starts_with(b"_SM_");
    known.then(|| Some((*entry_point.get(at)?, *entry_point.get(at + 1)?))).flatten()
}

/// One structure: the formatted part with its header, and the strings behind it.
struct Structure<'a> {
    kind: u8,
    formatted: &'a [u8],
    strings: &'a [u8],
}

/// Walks the table up to type 127, its end, or the first structure that does not fit.
fn structures(mut table: &[u8]) -> impl Iterator<Item = Structure<'_>> {
    std::iter::from_fn(move || {
        let (kind, length) = (*table.first()?, usize::from(*table.get(1)?));
        let formatted = table.get(..length).filter(|_| length >= 4 && kind != 127)?;
        let rest = table.get(length..)?;
        // Strings end with an empty one: two zeros in a row, also where there are none at all.
        let end = rest.windows(2).position(|pair| pair == [0, 0])?;
        table = rest.get(end + 2..)?;
        Some(Structure { kind, formatted, strings: rest.get(..end)? })
    })
}

impl Structure<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.formatted.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte(at)?, self.byte(at + 1)?]))
    }

    fn double(&self, at: usize) -> Option<u32> {
        Some(u32::from(self.word(at)?) | u32::from(self.word(at + 2)?) << 16)
    }

    /// The string whose number, counted from 1, stands at this place; empty where there is none or it is junk.
    fn text(&self, at: usize) -> String {
        let number = usize::from(self.byte(at).unwrap_or(0));
        let text = number.checked_sub(1).and_then(|n| self.strings.split(|&byte| byte == 0).nth(n));
        text.map(clean_bytes).filter(|text| !is_junk(text)).unwrap_or_default()
    }

    /// In the byte order in which it is printed: since version 2.6 the first three fields are stored little-endian.
    fn uuid(&self, at: usize, is_mixed_endian: bool) -> Option<[u8; 16]> {
        let stored: [u8; 16] = self.formatted.get(at..at + 16)?.try_into().ok()?;
        let printed = if is_mixed_endian { mixed_endian(stored) } else { stored };
        (!is_junk_uuid(&printed)).then_some(printed)
    }
}

fn dimm(structure: &Structure<'_>) -> Option<Dimm> {
    let size_bytes = match structure.word(0x0c)? {
        0 => return None,
        0xffff => 0,
        0x7fff => u64::from(structure.double(0x1c)? & 0x7fff_ffff) << 20,
        kib if kib & 0x8000 != 0 => u64::from(kib & 0x7fff) << 10,
        mib => u64::from(mib) << 20,
    };
    // What the module can do; what it is run at where it does not say. 0xffff: see the extended field.
    let speed = |at: usize, extended: usize| match structure.word(at)? {
        0 => None,
        0xffff => structure.double(extended).map(|mts| mts & 0x7fff_ffff),
        mts => Some(u32::from(mts)),
    };
    Some(Dimm {
        slot: structure.text(0x10),
        size_bytes,
        kind: structure.byte(0x12).map(memory_type).unwrap_or_default().to_owned(),
        speed_mts: speed(0x15, 0x54).or_else(|| speed(0x20, 0x58)).unwrap_or(0),
        vendor: structure.text(0x17),
        part: structure.text(0x1a),
        serial: structure.text(0x18),
    })
}

/// DSP0134, table "Memory Device: Type"; empty for what nobody builds in any more.
fn memory_type(code: u8) -> &'static str {
    match code {
        0x07 => "RAM",
        0x0f => "SDRAM",
        0x12 => "DDR",
        0x13 => "DDR2",
        0x14 => "DDR2 FB-DIMM",
        0x18 => "DDR3",
        0x1a => "DDR4",
        0x1b => "LPDDR",
        0x1c => "LPDDR2",
        0x1d => "LPDDR3",
        0x1e => "LPDDR4",
        0x1f => "Logical non-volatile device",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        0x24 => "HBM3",
        _ => "",
    }
}

/// Texts that vendors leave where an answer should be.
fn is_junk(text: &str) -> bool {
    const WHOLE: [&str; 18] = [
        "default string",
        "not specified",
        "not applicable",
        "not available",
        "unspecified",
        "undefined",
        "unknown",
        "none",
        "n/a",
        "na",
        "invalid",
        "empty",
        "oem",
        "o.e.m.",
        "123456789",
        "0123456789",
        "1234567890",
        "no dimm",
    ];
    const STARTS: [&str; 7] = [
        "to be filled",
        "system serial",
        "system product",
        "system manufacturer",
        "system version",
        "base board serial",
        "baseboard serial",
    ];
    let text = text.trim().to_ascii_lowercase();
    let mut chars = text.chars();
    let repeats = chars.next().is_none_or(|first| "0x-. _*f".contains(first) && chars.all(|c| c == first));
    repeats || WHOLE.contains(&&*text) || STARTS.iter().any(|start| text.starts_with(start))
}

/// UUIDs that whole series of boards share, and those that mean "none" and "not set".
fn is_junk_uuid(uuid: &[u8; 16]) -> bool {
    const SHARED: [[u8; 16]; 3] = [
        // 03000200-0400-0500-0006-000700080009, AMI's default, and the same stored the other way round.
        [3, 0, 2, 0, 4, 0, 5, 0, 0, 6, 0, 7, 0, 8, 0, 9],
        [0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9],
        // 12345678-1234-5678-90ab-cddeefaabbcc.
        [0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0x90, 0xab, 0xcd, 0xde, 0xef, 0xaa, 0xbb, 0xcc],
    ];
    uuid.iter().all(|&b| b == 0) || uuid.iter().all(|&b| b == 0xff) || SHARED.contains(uuid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SM_2_8: &[u8] = b"_SM_\0\x1f\x02\x08";
    const SM_2_4: &[u8] = b"_SM_\0\x1f\x02\x04";
    const SM_3: &[u8] = b"_SM3_\0\x18\x03\x02\0";
    const STORED: [u8; 16] =
        [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

    /// A structure whose formatted part behind the header is `body`.
    fn structure(kind: u8, body: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, body.len() as u8 + 4, 0, 0];
        bytes.extend(body);
        for string in strings {
            bytes.extend(string.as_bytes());
            bytes.push(0);
        }
        bytes.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
        bytes
    }

    fn system(strings: &[&str], uuid: [u8; 16]) -> Vec<u8> {
        structure(1, &[&[1, 2, 0, 3], &uuid[..], &[6]].concat(), strings)
    }

    fn module(size: u16, extended: u32, speed: u16, strings: &[&str]) -> Vec<u8> {
        let mut body = vec![0; 0x5c - 4];
        let mut put = |at: usize, bytes: &[u8]| body[at - 4..at - 4 + bytes.len()].copy_from_slice(bytes);
        put(0x0c, &size.to_le_bytes());
        put(0x10, &[1]);
        put(0x12, &[0x1a]);
        put(0x15, &speed.to_le_bytes());
        put(0x17, &[2, 3, 0, 4]);
        put(0x1c, &extended.to_le_bytes());
        put(0x20, &2400_u16.to_le_bytes());
        put(0x54, &70_000_u32.to_le_bytes());
        structure(17, &body, strings)
    }

    #[test]
    fn a_board_tells_vendor_product_serial_and_uuid() {
        let table = [
            structure(0, &[1, 2, 0, 0xe8, 3, 0], &["SeaBIOS", "1.16.2", "04/01/2014"]),
            system(&["QEMU", "Standard PC", " S-1 "], STORED),
            structure(2, &[1, 2, 3, 4, 0], &["V", "P", "1", "BOARD-7"]),
            system(&["another", "one", "S-2"], [1; 16]),
            structure(127, &[], &[]),
            system(&["behind", "the", "end"], [2; 16]),
        ]
        .concat();
        let tables = decode(SM_2_8, &table);
        assert_eq!(
            (&*tables.firmware.vendor, &*tables.firmware.version, &*tables.firmware.date),
            ("SeaBIOS", "1.16.2", "04/01/2014")
        );
        let system = &tables.system;
        assert_eq!((&*system.vendor, &*system.product, &*system.serial), ("QEMU", "Standard PC", "S-1"));
        assert_eq!(system.board_serial, "BOARD-7");
        let printed = |uuid: Option<[u8; 16]>| uuid.map(|u| muster_protocol::MachineId::from_bytes(u).to_string());
        assert_eq!(printed(system.uuid).as_deref(), Some("00112233-4455-6677-8899-aabbccddeeff"));
        assert_eq!(decode(SM_3, &table).system.uuid, system.uuid);
        assert_eq!(decode(SM_2_4, &table).system.uuid, Some(STORED), "before 2.6 a UUID is stored as it is printed");
    }

    #[test]
    fn junk_is_no_answer() {
        for junk in [
            "To Be Filled By O.E.M.",
            "Default string",
            "System Serial Number",
            "00000000",
            "xxxxxxxx",
            "........",
            "N/A",
            "None",
            "Not Specified",
            "0123456789",
            "",
            "   ",
        ] {
            let tables = decode(SM_2_8, &system(&["V", "P", junk], STORED));
            assert_eq!(tables.system.serial, "", "{junk}");
        }
        for serial in ["0123456789A", "F00", "NONE-1", "X1"] {
            assert_eq!(decode(SM_2_8, &system(&["V", "P", serial], STORED)).system.serial, serial);
        }
        for uuid in [[0; 16], [0xff; 16], [0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9]] {
            assert_eq!(decode(SM_2_8, &system(&["V", "P", "S"], uuid)).system.uuid, None);
        }
    }

    #[test]
    fn modules_are_told_in_every_way_of_writing_their_size() {
        let strings = ["DIMM_A1", "Samsung", "SN1", "M393"];
        let table = [
            module(16_384, 0, 3200, &strings),
            module(0x7fff, 65_536, 0xffff, &strings),
            module(0x8000 | 512, 0, 0, &strings),
            module(0, 0, 0, &strings),
            module(0xffff, 0, 0, &["DIMM_A2", "NO DIMM", "NO DIMM", "NO DIMM"]),
        ]
        .concat();
        let dimms = decode(SM_3, &table).dimms;
        let sizes: Vec<_> = dimms.iter().map(|d| (d.size_bytes, d.speed_mts)).collect();
        assert_eq!(sizes, [(16 << 30, 3200), (64 << 30, 70_000), (512 << 10, 2400), (0, 2400)]);
        let first = &dimms[0];
        assert_eq!(
            (&*first.slot, &*first.kind, &*first.vendor, &*first.serial, &*first.part),
            ("DIMM_A1", "DDR4", "Samsung", "SN1", "M393")
        );
        assert_eq!((&*dimms[3].vendor, &*dimms[3].part), ("", ""));
    }

    #[test]
    fn a_table_that_is_cut_off_tells_what_came_before() {
        let whole = [system(&["QEMU", "PC", "S-1"], STORED), module(1024, 0, 3200, &["A", "B", "C", "D"])].concat();
        for len in 0..whole.len() {
            let tables = decode(SM_2_8, &whole[..len]);
            assert!(tables.dimms.is_empty());
        }
        assert_eq!(decode(SM_2_8, &whole).dimms.len(), 1);
        assert_eq!(decode(&[], &[]), Tables::default());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(entry in proptest::collection::vec(any::<u8>(), 0..32), table in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode(&entry, &table);
        }

        #[test]
        fn structures_of_arbitrary_contents_never_panic(
            parts in proptest::collection::vec(
                (prop_oneof![Just(0_u8), Just(1), Just(2), Just(17)], proptest::collection::vec(any::<u8>(), 0..200), "\\PC{0,300}"),
                0..8,
            )
        ) {
            let table: Vec<u8> = parts.iter().flat_map(|(kind, body, text)| structure(*kind, body, &[text, "b"])).collect();
            let tables = decode(SM_3, &table);
            prop_assert!(tables.system.vendor.len() <= 128);
        }
    }
}
