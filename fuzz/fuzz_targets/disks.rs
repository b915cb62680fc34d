//! What lies on disks: the first byte says whether the rest is a disk, a partition or a text of LVM's metadata, which on a
//! disk hides behind a checksum.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_agent::linux::storage::signatures::{self, Ends, lvm};
use muster_fuzz::plant;

fuzz_target!(
    init: {
        assert!(lvm::read_text(TEXT).is_some(), "a seed that is no group leads nowhere");
        let text = [&[2], TEXT.as_bytes()].concat();
        plant("disks", [[vec![0], raid_member()].concat(), [vec![1], raid_member()].concat(), text])
    },
    |data: &[u8]| {
        let Some((which, bytes)) = data.split_first() else { return };
        let ends = Ends { head: bytes, tail: bytes, size: bytes.len() as u64 };
        match which % 3 {
            0 => drop(signatures::of_disk(ends, 512)),
            1 => {
                signatures::of_partition(ends);
                let mut read = |at: u64, len: usize| Some(bytes.get(usize::try_from(at).ok()?..)?.get(..len)?.to_vec());
                let _ = lvm::label(ends).map(|label| lvm::group(&label, &mut read));
            }
            _ => drop(std::str::from_utf8(bytes).ok().and_then(lvm::read_text)),
        }
    }
);

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
