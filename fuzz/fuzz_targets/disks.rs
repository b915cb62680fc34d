//! What lies on disks, and what drives say of themselves: the first byte says whether the rest is a disk, a partition, a text
//! of LVM's metadata, which on a disk hides behind a checksum, or what a drive measures of itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_agent::linux::drive::{nvme, scsi, smart};
use muster_agent::linux::storage::signatures::{self, Ends, lvm};
use muster_fuzz::plant;

fuzz_target!(
    init: {
        assert!(lvm::read_text(TEXT).is_some(), "a seed that is no group leads nowhere");
        let text = [&[2], TEXT.as_bytes()].concat();
        let log = vec![3, 0x0d, 0, 0, 12, 0, 0, 1, 2, 0, 41, 0, 1, 1, 2, 0, 68];
        plant("disks", [[vec![0], raid_member()].concat(), [vec![1], raid_member()].concat(), text, log])
    },
    |data: &[u8]| {
        let Some((which, bytes)) = data.split_first() else { return };
        let ends = Ends { head: bytes, tail: bytes, size: bytes.len() as u64 };
        match which % 4 {
            0 => drop(signatures::of_disk(ends, 512)),
            1 => {
                signatures::of_partition(ends);
                let mut read = |at: u64, len: usize| Some(bytes.get(usize::try_from(at).ok()?..)?.get(..len)?.to_vec());
                let _ = lvm::label(ends).map(|label| lvm::group(&label, &mut read));
            }
            3 => measured(bytes),
            _ => drop(std::str::from_utf8(bytes).ok().and_then(lvm::read_text)),
        }
    }
);

/// Every reader of what drives measure, on the same bytes.
fn measured(bytes: &[u8]) {
    let mut readings = Default::default();
    let page = bytes.first().copied().unwrap_or_default();
    let (data, limits) = bytes.split_at(bytes.len().min(512));
    // A checksum hides the rest from a fuzzer.
    let mut whole = [0; 512];
    whole[..data.len()].copy_from_slice(data);
    whole[511] = 0_u8.wrapping_sub(whole[..511].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    smart::attributes(&whole, limits, page % 2 == 0, &mut readings);
    smart::attributes(bytes, bytes, true, &mut readings);
    smart::pages(bytes).into_iter().for_each(|page| smart::statistics(page, bytes, &mut readings));
    for page in [page, 0x03, 0x0d, 0x11, 0x15, 0x2f] {
        smart::statistics(page, bytes, &mut readings);
        scsi::log_page(page, bytes, &mut readings);
    }
    nvme::health(&whole, u16::from(page));
}

/// A superblock of md, version 1.1, as far as it goes without a checksum.
fn raid_member() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    bytes[4] = 1;
    bytes
}

const TEXT: &str = r#"vg0 {
id = "gggggg-gggg-gggg-gggg-gggg-gggg-gggggg" seqno = 3 status = ["RESIZEABLE", "READ"] extent_size = 8192
physical_volumes { pv0 { id = "pppppp-pppp-pppp-pppp-pppp-pppp-pppppp" device = "/dev/sda" pe_start = 2048 pe_count = 9 } }
logical_volumes {
data { id = "dddddd-dddd-dddd-dddd-dddd-dddd-dddddd" status = ["VISIBLE"]
segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } }
snapshot0 { id = "ssssss-ssss-ssss-ssss-ssss-ssss-ssssss" status = []
segment1 { extent_count = 2 type = "snapshot" origin = "data" cow_store = "before" } } } }
contents = "Text \"Format\"" # a comment
"#;
