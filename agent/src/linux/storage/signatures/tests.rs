//! Metadata that was cut, garbled or made up: it never panics, is never taken for blank, and is never believed in part.

use muster_protocol::observed::{Contents, Headers};
use proptest::prelude::*;

use super::*;

/// A disk with each kind of metadata that is read beyond its signature.
fn disks() -> [Vec<u8>; 3] {
    let raid = [md::tests::v1(0, |_| {}), vec![0; 64 * 1024]].concat();
    let text = |seqno| lvm::tests::text("vg0", seqno);
    [raid, lvm::tests::device(&text(3), &text(4)), luks::tests::device()]
}

fn told(disk: &[u8]) -> Contents {
    let ends = Ends { head: disk, tail: disk, size: disk.len() as u64 };
    let (whole, _) = of_disk(ends, 512);
    assert_eq!(of_partition(ends), whole);
    let group = lvm::tests::told(disk).and_then(|(_, group)| group.ok().flatten());
    assert!(group.is_none_or(|group| group.volumes.len() == 4), "a group that is half of it");
    whole
}

#[test]
fn what_holds_is_told_in_full() {
    let [raid, lvm, luks] = disks().map(|disk| told(&disk));
    assert!(matches!(raid, Contents::Raid(_)), "{raid:?}");
    assert!(matches!(lvm, Contents::Lvm(_)), "{lvm:?}");
    assert!(matches!(&luks, Contents::Luks(luks) if luks.headers == Headers::Whole), "{luks:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn garbled_metadata_is_somebodys_data_all_the_same(
        which in 0..3_usize,
        changes in proptest::collection::vec((0..4096_usize, any::<u8>()), 1..8),
    ) {
        let mut disk = disks()[which].clone();
        for (at, to) in changes {
            disk[at] = to;
        }
        if disk.iter().any(|byte| *byte != 0) {
            prop_assert_ne!(told(&disk), Contents::Blank);
        }
    }

    #[test]
    fn metadata_that_was_cut_never_panics(which in 0..3_usize, len in 0..70_000_usize) {
        let mut disk = disks()[which].clone();
        disk.truncate(len);
        told(&disk);
    }

    #[test]
    fn texts_that_were_garbled_never_panic(at in 0..2000_usize, cut in 0..2000_usize, to in "[ -~]{0,3}") {
        let mut text = lvm::tests::text("vg0", 3);
        let at = at.min(text.len());
        text.replace_range(at..(at + cut % 4).min(text.len()), &to);
        let _ = lvm::read_text(&text);
        text.truncate(cut);
        let _ = lvm::read_text(&text);
    }
}
