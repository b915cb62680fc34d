//! Numbers that say nothing: what vendors leave in their tables where a machine's own number should be.
//!
//! Used by [`super::identity`], and wherever a number is taken to name one machine. Facts gathered from reports of
//! machines that share them; a number that is missing here costs a question to an operator, never a merged machine.

use muster_protocol::{Digest, Mac};

/// Texts in serial number fields, in lower case, single blanks between words.
const SERIALS: [&str; 25] = [
    "to be filled by o.e.m.",
    "to be filled by o.e.m",
    "to be filled by oem",
    "default string",
    "default_string",
    "system serial number",
    "chassis serial number",
    "base board serial number",
    "serial number",
    "not specified",
    "not applicable",
    "not available",
    "not provided",
    "no enclosure",
    "o.e.m.",
    "oem",
    "none",
    "unknown",
    "invalid",
    "standard",
    "empty",
    "n/a",
    "mb-1234567890",
    "bss-0123456789",
    "5ekpm18320000397",
];

/// UUIDs that whole product lines share, as they are printed.
const UUIDS: [u128; 17] = [
    0x03000200_0400_0500_0006_000700080009,
    0x00020003_0004_0005_0006_000700080009,
    0x03020100_0504_0706_0809_0a0b0c0d0e0f,
    0x00010203_0405_0607_0809_0a0b0c0d0e0f,
    0x07090201_0103_0301_0807_060504030201,
    0x03d40274_0435_05dc_8506_010700080009,
    0x12345678_1234_5678_90ab_cddeefaabbcc,
    0x12345678_1234_1234_1234_123456789abc,
    0xdeadbeef_dead_beef_dead_beefdeadbeef,
    0xdc698397_fa54_4cf2_82c8_b1b5307a6a7f,
    0x8e275844_178f_44a8_aceb_a7d7e5178c63,
    0x890e2d14_cacd_45d1_ae66_bc80e8bfeb0f,
    0x56f49712_ffff_ffff_ffff_ffffffffffff,
    0x93309712_ffff_ffff_ffff_ffffffffffff,
    0x50fb9712_ffff_ffff_ffff_ffffffffffff,
    0x61f39712_ffff_ffff_ffff_ffffffffffff,
    0x52309712_ffff_ffff_ffff_ffffffffffff,
];

/// MACs of NICs whose memory was never written, and of examples that were.
const MACS: [[u8; 6]; 5] = [
    [0x00, 0x00, 0x00, 0x00, 0x00, 0x01],
    [0x00, 0x11, 0x22, 0x33, 0x44, 0x55],
    [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc],
    [0x00, 0xe0, 0x4c, 0x00, 0x00, 0x00],
    [0x00, 0xe0, 0x4c, 0x68, 0x00, 0x01],
];

/// Whether a serial number says nothing: a known filling, under three characters, one character repeated, or digits that
/// only count up or down.
pub fn is_junk_serial(serial: &str) -> bool {
    let text = serial.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    let bytes = text.as_bytes();
    let counts = |step: u8| bytes.windows(2).all(|pair| (pair[0] + 10 + step - b'0') % 10 == (pair[1] - b'0') % 10);
    let digits = bytes.iter().all(u8::is_ascii_digit);
    text.len() < 3
        || SERIALS.contains(&text.as_str())
        || bytes.iter().filter(|b| **b != b'.' && **b != b'-').all(|b| *b == bytes[0])
        || digits && (counts(1) || counts(9))
}

/// Whether a UUID says nothing: known, or one byte repeated, which all zeros and all ones are
/// (DMTF DSP0134, section 7.2.1).
pub fn is_junk_uuid(uuid: &[u8; 16]) -> bool {
    uuid.iter().all(|byte| *byte == uuid[0]) || UUIDS.contains(&u128::from_be_bytes(*uuid))
}

/// Whether a MAC is no NIC's own: known, one byte repeated, or a group address (IEEE 802, section 8.2).
pub fn is_junk_mac(mac: &Mac) -> bool {
    let bytes = mac.as_bytes();
    bytes[0] & 1 != 0 || bytes.iter().all(|byte| *byte == bytes[0]) || MACS.contains(bytes)
}

/// Whether a TPM's key is none: one byte repeated, which no digest is.
pub fn is_junk_key(key: &Digest) -> bool {
    let bytes = key.as_bytes();
    bytes.iter().all(|byte| *byte == bytes[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vendors_leave_in_serial_numbers_says_nothing() {
        for junk in [
            "",
            " ",
            "0",
            "00000000",
            "........",
            "To be filled by O.E.M.",
            "TO BE FILLED  BY O.E.M.",
            "Default string",
            "123456789",
            "0123456789",
            "1234567890",
            "9876543210",
            "xxxxxxx",
            "Not Specified",
        ] {
            assert!(is_junk_serial(junk), "{junk:?}");
        }
        for real in ["PF-12/3", "CZC1234567", "7CZX9R1", "1234568", "MB-77", "SIM00001", "2SGHJ12"] {
            assert!(!is_junk_serial(real), "{real:?}");
        }
    }

    #[test]
    fn uuids_and_macs_that_many_share_say_nothing() {
        let uuid = |text| muster_protocol::ids::parse_uuid(text).expect("a UUID");
        for junk in [
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "FEFEFEFE-FEFE-FEFE-FEFE-FEFEFEFEFEFE",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "8E275844-178F-44A8-ACEB-A7D7E5178C63",
        ] {
            assert!(is_junk_uuid(&uuid(junk)), "{junk}");
        }
        assert!(!is_junk_uuid(&uuid("4C4C4544-0042-3510-8052-B4C04F4E3132")));
        let mac = |text: &str| text.parse::<Mac>().expect("a MAC");
        for junk in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:11:22:33:44:55", "01:00:5e:00:00:01"] {
            assert!(is_junk_mac(&mac(junk)), "{junk}");
        }
        assert!(!is_junk_mac(&mac("52:54:00:12:34:56")));
    }
}
