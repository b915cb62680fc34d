//! Headers of LUKS1 (LUKS On-Disk Format Specification 1.2.3) and LUKS2 (On-Disk Format Specification 1.1.2).
//!
//! Called by `signatures`; pure. It reads how a device is called and whether its header holds, and no key slot.

use muster_protocol::Digest;
use muster_protocol::observed::{Headers, Luks};

use super::Ends;
use crate::linux::text::clean_bytes;

const FIRST: &[u8] = b"LUKS\xba\xbe";
const SECOND: &[u8] = b"SKUL\xba\xbe";
/// The binary part of a LUKS2 header; a text in JSON follows it.
const BINARY: usize = 4096;
/// The sizes that a LUKS2 header can have, which is where the second one begins.
pub(super) const SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];

/// What the headers say; `None` where there is none.
pub(super) fn read(ends: Ends<'_>) -> Option<Luks> {
    if ends.at(0, 8).and_then(|start| start.strip_prefix(FIRST)) == Some(&[0, 1]) {
        let uuid = ends.at(168, 40).map(clean_bytes)?;
        return Some(Luks {
            version: 1,
            uuid,
            label: String::new(),
            subsystem: String::new(),
            headers: Headers::Whole,
        });
    }
    let first = Header::read(ends, 0, FIRST);
    let second = match &first {
        // Where it says that the other one lies, if it can be believed.
        Some(first) if first.hold != Hold::No => Header::read(ends, first.size, SECOND),
        _ => SIZES.into_iter().find_map(|size| Header::read(ends, size, SECOND)),
    };
    let (told, headers) = match (first, second) {
        (Some(first), second) if first.hold != Hold::No => {
            // Behind what was read there may be one.
            let is_out_of_sight = second.is_none() && ends.at(first.size, SECOND.len()).is_none();
            let is_good = second.is_some_and(|second| second.hold != Hold::No && second.sequence == first.sequence);
            (first, if is_good || is_out_of_sight { Headers::Whole } else { Headers::FirstAlone })
        }
        (_, Some(second)) if second.hold != Hold::No => (second, Headers::SecondAlone),
        (Some(broken), _) | (None, Some(broken)) => (broken, Headers::Damaged),
        (None, None) => return None,
    };
    Some(Luks { version: 2, uuid: told.uuid, label: told.label, subsystem: told.subsystem, headers })
}

/// One copy of a LUKS2 header.
struct Header {
    size: u64,
    sequence: u64,
    label: String,
    uuid: String,
    subsystem: String,
    hold: Hold,
}

/// Whether a header's checksum fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Yes,
    No,
    /// It is made otherwise than by SHA-256, or reaches beyond what was read.
    Unknown,
}

impl Header {
    fn read(ends: Ends<'_>, at: u64, magic: &[u8]) -> Option<Self> {
        let binary = ends.at(at, BINARY)?;
        if binary.strip_prefix(magic)?.first_chunk() != Some(&[0, 2]) {
            return None;
        }
        let number = |offset: usize| binary[offset..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let text = |offset: usize, len: usize| clean_bytes(&binary[offset..offset + len]);
        let size = number(8);
        let sum = match (SIZES.contains(&size), number(256) == at, text(72, 32).as_str()) {
            (true, true, "sha256") => usize::try_from(size).ok().and_then(|size| ends.at(at, size)).map(checksum),
            (true, true, _) => None,
            _ => Some([0; 32]),
        };
        let hold = match sum {
            None => Hold::Unknown,
            Some(sum) if binary[448..].starts_with(&sum) => Hold::Yes,
            Some(_) => Hold::No,
        };
        let (label, uuid, subsystem) = (text(24, 48), text(168, 40), text(208, 48));
        Some(Self { size, sequence: number(16), label, uuid, subsystem, hold })
    }
}

/// SHA-256 of the whole header with zeros in the place of the checksum.
fn checksum(header: &[u8]) -> [u8; 32] {
    let mut header = header.to_vec();
    header[448..512].fill(0);
    *Digest::of(&header).as_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A LUKS2 header of 16 KiB at `at`, its checksum right.
    fn header(at: u64, magic: &[u8], sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; 0x4000];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, magic);
        put(6, &[0, 2]);
        put(8, &0x4000_u64.to_be_bytes());
        put(16, &sequence.to_be_bytes());
        put(24, b"vault");
        put(72, b"sha256");
        put(168, b"6ba7b810-9dad-41d1-80b4-00c04fd430c8");
        put(208, b"payroll");
        put(256, &at.to_be_bytes());
        put(4096, b"{}");
        let sum = checksum(&bytes);
        bytes[448..480].copy_from_slice(&sum);
        bytes
    }

    /// Both headers of a device, and what follows.
    pub(in super::super) fn device() -> Vec<u8> {
        [header(0, FIRST, 3), header(0x4000, SECOND, 3), vec![0; 0x8000]].concat()
    }

    fn told(device: &[u8]) -> Option<Luks> {
        read(Ends { head: device, tail: &[], size: device.len() as u64 })
    }

    fn headers(device: &[u8]) -> Option<Headers> {
        told(device).map(|luks| luks.headers)
    }

    #[test]
    fn a_header_tells_how_its_device_is_called() {
        let luks = told(&device()).expect("a header");
        assert_eq!((luks.version, luks.label.as_str(), luks.subsystem.as_str()), (2, "vault", "payroll"));
        assert_eq!((luks.uuid.as_str(), luks.headers), ("6ba7b810-9dad-41d1-80b4-00c04fd430c8", Headers::Whole));
    }

    #[test]
    fn a_damaged_copy_is_told_and_the_other_one_believed() {
        let changed = |at: usize| {
            let mut device = device();
            device[at] ^= 0xff;
            device
        };
        assert_eq!(headers(&changed(0x4000 + 4100)), Some(Headers::FirstAlone), "a byte of the second's JSON");
        assert_eq!(headers(&changed(0x4000)), Some(Headers::FirstAlone), "the second's magic");
        assert_eq!(headers(&changed(4100)), Some(Headers::SecondAlone), "a byte of the first's JSON");
        assert_eq!(headers(&changed(0)), Some(Headers::SecondAlone), "the first's magic");
        let mut both = changed(4100);
        both[0x4000 + 4100] ^= 0xff;
        assert_eq!(headers(&both), Some(Headers::Damaged));
        let older = [header(0, FIRST, 4), header(0x4000, SECOND, 3)].concat();
        assert_eq!(headers(&older), Some(Headers::FirstAlone), "the second was left behind");
        assert_eq!(headers(&device()[..0x4000]), Some(Headers::Whole), "what lies beyond was not looked at");
        assert_eq!(headers(&[0; 0x8000]), None);
    }
}
