//! What holds for every document and every disk.

use muster_protocol::desired::{self, DiskSelect, Existing, Storage, Table};
use muster_protocol::observed::{Contents, Disk};
use proptest::prelude::*;

use super::tests::{MIB, disk, ext4, fs, gpt, id, part, there};
use super::*;

fn any_contents() -> impl Strategy<Value = Contents> {
    prop_oneof![
        3 => Just(Contents::Blank),
        1 => Just(Contents::Unknown),
        1 => Just(Contents::Dos),
        1 => Just(Contents::Signature("zfs_member".into())),
        2 => ("[ab]{0,1}", prop_oneof![Just(""), Just("/srv/0"), Just("/srv/1"), Just("/srv/0/x")])
            .prop_map(|(label, at)| ext4(&label, at)),
    ]
}

fn any_disk() -> impl Strategy<Value = Disk> {
    let partitions = proptest::collection::btree_map(1..4_u32, ("[ab]{0,1}", 1..3_u64, any_contents()), 0..3);
    let contents = prop_oneof![any_contents(), Just(gpt()), Just(gpt())];
    (contents, partitions, 0..200_u64).prop_map(|(contents, partitions, size_mib)| {
        let mut at = 1;
        let partitions = partitions.into_iter().map(|(number, (label, size, contents))| {
            at += size;
            there(number, &label, at - size, size, contents)
        });
        let partitions = if matches!(contents, Contents::Gpt { .. }) { partitions.collect() } else { vec![] };
        Disk { size_bytes: size_mib * MIB, ..disk("S1", contents, partitions) }
    })
}

fn any_storage() -> impl Strategy<Value = Storage> {
    let partition = ("[ab]{0,1}", 1..3_u64, any::<bool>(), 0..4_u8, any::<bool>());
    let table = prop_oneof![Just(Table::Keep), Just(Table::Replace)];
    (table, proptest::collection::btree_map(1..4_u32, partition, 0..4)).prop_map(|(table, partitions)| {
        let last = partitions.keys().max().copied();
        let mut storage = Storage::default();
        let mut parts = vec![];
        for (number, (label, size, rest, mount, replace)) in partitions {
            let size_mib = if rest && Some(number) == last { None } else { Some(size) };
            // Labels and mount points are made unique by number, as a checked document has them.
            parts.push(part(number, &label, size_mib));
            if mount > 0 {
                let at = ["", "/srv/0", "/srv/1", "/srv/0/x"][usize::from(mount)];
                let unique = storage.filesystems.iter().all(|f: &desired::Filesystem| f.mount.as_deref() != Some(at));
                let existing = if replace { Existing::Replace } else { Existing::Keep };
                storage.filesystems.push(desired::Filesystem {
                    existing,
                    ..fs(parts.len() as u32, &label, if unique { at } else { "" })
                });
            }
        }
        storage.disks = vec![desired::Disk { select: DiskSelect::Id(id("serial:S1")), table, partitions: parts }];
        storage
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_planned_and_done_leaves_nothing_to_do(storage in any_storage(), have in any_disk()) {
        let mut disks = [have];
        if let Ok(steps) = plan(&storage, &disks) {
            for (i, step) in steps.iter().enumerate() {
                apply_to_model(step, &mut disks, [i as u8; 16]);
            }
            prop_assert_eq!(plan(&storage, &disks), Ok(vec![]));
            prop_assert_eq!(differences(&storage, &disks), vec![""; 0]);
        }
    }

    #[test]
    fn nothing_that_is_there_is_lost_without_a_destroying_step(storage in any_storage(), have in any_disk()) {
        let mut disks = [have.clone()];
        let Ok(steps) = plan(&storage, &disks) else { return Ok(()) };
        if steps.iter().any(Step::is_destructive) {
            return Ok(());
        }
        steps.iter().for_each(|step| apply_to_model(step, &mut disks, [1; 16]));
        if have.contents != Contents::Blank {
            prop_assert_eq!(&disks[0].contents, &have.contents);
        }
        for before in &have.partitions {
            let after = disks[0].partitions.iter().find(|p| p.number == before.number).expect("partitions stay");
            prop_assert_eq!((after.start_bytes, after.size_bytes), (before.start_bytes, before.size_bytes));
            if before.contents != Contents::Blank {
                prop_assert_eq!(after.contents.unmounted(), before.contents.unmounted());
            }
        }
    }

    #[test]
    fn without_leave_in_the_document_no_plan_destroys(mut storage in any_storage(), have in any_disk()) {
        storage.disks[0].table = Table::Keep;
        storage.filesystems.iter_mut().for_each(|f| f.existing = Existing::Keep);
        if let Ok(steps) = plan(&storage, &[have]) {
            prop_assert!(!steps.iter().any(Step::is_destructive));
        }
    }

    #[test]
    fn partitions_lie_aligned_apart_and_inside(storage in any_storage(), have in any_disk()) {
        let mut disks = [have.clone()];
        let Ok(steps) = plan(&storage, &disks) else { return Ok(()) };
        if !steps.iter().any(|s| matches!(s, Step::Partition { .. } | Step::Extend { .. })) {
            return Ok(());
        }
        steps.iter().for_each(|step| apply_to_model(step, &mut disks, [1; 16]));
        let mut end = 0;
        let mut parts = disks[0].partitions.clone();
        parts.sort_by_key(|p| p.start_bytes);
        for p in parts {
            prop_assert!(p.start_bytes >= end.max(ALIGNMENT) && p.start_bytes % ALIGNMENT == 0 && p.size_bytes > 0);
            end = p.start_bytes + p.size_bytes;
        }
        if steps.iter().any(|s| matches!(s, Step::Partition { .. })) {
            prop_assert!(end <= usable_end(have.size_bytes, have.logical_sector));
        }
    }
}
