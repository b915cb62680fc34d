//! What holds for every document and every disk.

use muster_protocol::desired::{self, DiskSelect, Existing, Format, Mount, Storage, Table, Use};
use muster_protocol::observed::{Contents, Disk, Filesystem, SWAP};
use proptest::prelude::*;

use super::super::*;
use super::{MIB, apply_to_model, disk, fs, gpt, id, part, plan, seeded, seen, there};

/// MiB in which every format can be made.
const ROOM: u64 = 320;

fn any_filesystem() -> impl Strategy<Value = Contents> {
    let at = prop_oneof![Just(""), Just("/srv/0"), Just("/srv/1"), Just("/srv/0/x")];
    let kind = prop_oneof![Just(Format::Ext4), Just(Format::Xfs), Just(Format::Vfat), Just(Format::Swap)];
    (kind, "[ab]{0,1}", at, 0..4_u64, 0..3_usize).prop_map(|(format, label, at, size, options)| {
        let mounted_at = if format == Format::Swap && !at.is_empty() { SWAP } else { at };
        let options = if mounted_at.starts_with('/') { any_options(options) } else { vec![] };
        let found = Filesystem {
            kind: format.name().into(),
            label: label.to_uppercase(),
            uuid: "u".into(),
            size_bytes: size * ROOM * MIB / 2,
            mounted_at: mounted_at.into(),
            mount_options: options,
        };
        Contents::Filesystem(found.into())
    })
}

fn any_options(which: usize) -> Vec<String> {
    [&[][..], &["ro"], &["noatime", "discard"]][which].iter().map(|option| (*option).to_owned()).collect()
}

fn any_contents() -> impl Strategy<Value = Contents> {
    prop_oneof![
        3 => Just(Contents::Blank),
        1 => Just(Contents::Unknown),
        1 => Just(Contents::Dos),
        1 => Just(Contents::Signature("zfs_member".into())),
        3 => any_filesystem(),
    ]
}

fn any_disk() -> impl Strategy<Value = Disk> {
    let partitions = proptest::collection::btree_map(1..4_u32, ("[ab]{0,1}", 1..3_u64, any_contents()), 0..3);
    let contents = prop_oneof![any_contents(), Just(gpt()), Just(gpt())];
    (contents, partitions, 0..20 * ROOM).prop_map(|(contents, partitions, size_mib)| {
        let mut at = 1;
        let partitions = partitions.into_iter().map(|(number, (label, size, contents))| {
            at += size * ROOM;
            there(number, &label, at - size * ROOM, size * ROOM, contents)
        });
        let partitions = if matches!(contents, Contents::Gpt { .. }) { partitions.collect() } else { vec![] };
        Disk { size_bytes: size_mib * MIB, ..disk("S1", contents, partitions) }
    })
}

fn any_storage() -> impl Strategy<Value = Storage> {
    let filesystem = (0..4_usize, 0..3_usize, 0..4_u8, any::<bool>());
    let partition = ("[ab]{0,1}", 1..3_u64, any::<bool>(), filesystem);
    let table = prop_oneof![Just(Table::Keep), Just(Table::Replace)];
    (table, proptest::collection::btree_map(1..4_u32, partition, 0..4)).prop_map(|(table, partitions)| {
        let last = partitions.keys().max().copied();
        let mut storage = Storage::default();
        let mut parts = vec![];
        for (number, (label, size, rest, (format, options, mount, replace))) in partitions {
            let size_mib = if rest && Some(number) == last { None } else { Some(size * ROOM) };
            // Labels and mount points are made unique by number, as a checked document has them.
            parts.push(part(number, &label, size_mib));
            if mount > 0 {
                let format = [Format::Ext4, Format::Xfs, Format::Vfat, Format::Swap][format];
                let at = ["", "/srv/0", "/srv/1", "/srv/0/x"][usize::from(mount)];
                let is_at = |f: &desired::Filesystem| f.used.mount().is_some_and(|mount| mount.path == at);
                let used = match format {
                    Format::Swap => Use::Swap,
                    _ if storage.filesystems.iter().any(is_at) => Use::Later,
                    _ => Use::Mount(Mount { path: at.into(), options: any_options(options) }),
                };
                let existing = if replace { Existing::Replace } else { Existing::Keep };
                let standing = fs(parts.len() as u32, &label.to_uppercase(), "");
                storage.filesystems.push(desired::Filesystem { format, used, existing, ..standing });
            }
        }
        storage.disks = vec![desired::Disk { select: DiskSelect::Id(id("serial:S1")), table, partitions: parts }];
        storage
    })
}

/// Without mounts, and without its size: a filesystem that grows loses nothing.
fn kept(contents: &Contents) -> (Contents, u64) {
    match contents.unmounted() {
        Contents::Filesystem(mut fs) => {
            let size = std::mem::take(&mut fs.size_bytes);
            (Contents::Filesystem(fs), size)
        }
        other => (other, 0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..seeded() })]

    #[test]
    fn whatever_is_planned_and_done_leaves_nothing_to_do(storage in any_storage(), have in any_disk()) {
        let mut disks = [have];
        if let Ok(steps) = plan(&storage, &disks) {
            for (i, step) in steps.iter().enumerate() {
                apply_to_model(step, &mut disks, [i as u8; 16]);
            }
            prop_assert_eq!(plan(&storage, &disks), Ok(vec![]));
            prop_assert_eq!(differences(&storage, &seen(&disks)), vec![""; 0]);
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
                let ((after, size_after), (before, size_before)) = (kept(&after.contents), kept(&before.contents));
                prop_assert_eq!(after, before);
                prop_assert!(size_after >= size_before);
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
        if !steps.iter().any(|s| matches!(s, Step::Partition { .. } | Step::Edit { .. })) {
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
