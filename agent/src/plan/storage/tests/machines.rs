//! What holds for every machine of several disks and every document, wherever its plan is cut.

use muster_protocol::desired::{
    self, Checked, Desired, DiskRule, DiskSelect, Entry, Existing, Pick, Place, Presence, Resize, Storage, Table, check,
};
use muster_protocol::inventory::Medium;
use muster_protocol::observed::{Contents, Disk};
use proptest::prelude::*;

use super::super::{ALIGNMENT, Step, usable_end};
use super::{MIB, apply_to_model, disk, ext4, fs, gpt, id, look_again, part, plan, seeded, there};

fn any_contents() -> impl Strategy<Value = Contents> {
    prop_oneof![
        2 => Just(Contents::Blank),
        1 => Just(Contents::Unknown),
        1 => Just(Contents::Signature("zfs_member".into())),
        2 => ("[ab]{0,1}", any::<bool>()).prop_map(|(label, is_mounted)| {
            ext4(&label, if is_mounted { "/srv/there" } else { "" })
        }),
    ]
}

prop_compose! {
    /// A disk of 4 to 300 MiB, with gaps between its partitions.
    fn any_disk(serial: &'static str)(
        contents in prop_oneof![Just(gpt()), Just(gpt()), Just(gpt()), any_contents()],
        partitions in proptest::collection::btree_map(1..5_u32, ("[abc]{0,1}", 0..3_u64, 1..9_u64, any_contents()), 0..4),
        size_mib in 4..300_u64,
        is_spinning in any::<bool>(),
        is_held in proptest::bool::weighted(0.1),
        sector in prop_oneof![Just(512), Just(4096)],
    ) -> Disk {
        let mut at = 1;
        let partition = |(number, (label, gap, size, contents)): (u32, (String, u64, u64, Contents))| {
            at += gap + size;
            there(number, &label, at - size, size, contents)
        };
        let is_gpt = matches!(contents, Contents::Gpt { .. });
        let partitions: Vec<_> = partitions.into_iter().map(partition).filter(|_| is_gpt).collect();
        let medium = if is_spinning { Medium::Rotational } else { Medium::SolidState };
        let held = if is_held { "somebody holds it".to_owned() } else { String::new() };
        let size_bytes = size_mib.max(at + 2) * MIB;
        let name = serial.replace('S', "vd");
        Disk { name, size_bytes, medium, held, logical_sector: sector, ..disk(serial, contents.unmounted(), partitions) }
    }
}

/// Each with a mount point of its own, if any: a path is one disk's.
fn any_machine() -> impl Strategy<Value = Vec<Disk>> {
    (any_disk("S1"), any_disk("S2"), any_disk("S3")).prop_map(|(one, two, three)| {
        let mut disks = vec![one, two, three];
        let all = disks.iter_mut().flat_map(|disk| disk.partitions.iter_mut());
        for (i, partition) in all.enumerate() {
            if let Contents::Filesystem(filesystem) = &mut partition.contents
                && !filesystem.mounted_at.is_empty()
            {
                filesystem.mounted_at = format!("/srv/there{i}");
            }
        }
        disks
    })
}

fn any_partition() -> impl Strategy<Value = desired::Partition> {
    let how = prop_oneof![
        3 => Just((Presence::Present, Entry::Keep, Resize::Never)),
        2 => Just((Presence::Present, Entry::Keep, Resize::Grow)),
        2 => Just((Presence::Present, Entry::Replace, Resize::Never)),
        1 => Just((Presence::Absent, Entry::Replace, Resize::Never)),
        1 => Just((Presence::Absent, Entry::Keep, Resize::Never)),
    ];
    let size = proptest::option::of(1..12_u64);
    (0..5_u32, "[abc]{0,1}", size, proptest::option::weighted(0.2, 1..40_u64), how).prop_map(
        |(number, label, size_mib, start_mib, (presence, entry, resize))| {
            let whole = desired::Partition { start_mib, presence, entry, resize, ..part(number, &label, size_mib) };
            match presence {
                Presence::Present => whole,
                Presence::Absent => desired::Partition { presence, entry, ..part(number, "", None) },
            }
        },
    )
}

fn any_select() -> impl Strategy<Value = DiskSelect> {
    let rule = |medium, pick, count| {
        let (min_size_mib, max_size_mib, transport, model) = (None, None, None, None);
        DiskSelect::Rule(DiskRule { count, min_size_mib, max_size_mib, medium, transport, model, pick })
    };
    prop_oneof![
        4 => prop_oneof![Just("serial:S1"), Just("serial:S2")].prop_map(|name| DiskSelect::Id(id(name))),
        1 => Just(rule(None, Pick::Smallest, 1)),
        1 => Just(rule(None, Pick::Largest, 2)),
        1 => Just(rule(Some(Medium::Rotational), Pick::All, 1)),
    ]
}

/// Only what the check accepts.
fn any_storage() -> impl Strategy<Value = Storage> {
    let table = prop_oneof![3 => Just(Table::Keep), 1 => Just(Table::Replace)];
    let partitions = proptest::collection::vec(any_partition(), 0..4);
    let entry = (any_select(), table, partitions, proptest::option::of((0..3_u16, any::<bool>())));
    proptest::collection::vec(entry, 1..3).prop_filter_map("a sound document", |entries| {
        let mut storage = Storage::default();
        for (i, (select, table, mut partitions, made)) in entries.into_iter().enumerate() {
            partitions.sort_by_key(|p| (p.number == 0, p.number));
            storage.disks.push(desired::Disk { select, table, partitions });
            if let Some((partition, replaces)) = made {
                let place = Place::Partition { disk: i as u16, partition };
                let existing = if replaces { Existing::Replace } else { Existing::Keep };
                storage.filesystems.push(desired::Filesystem { place, existing, ..fs(1, "a", &format!("/srv/{i}")) });
            }
        }
        let checked = check(Desired { network: None, storage: Some(storage) }).ok();
        checked.map(Checked::into_inner).and_then(|desired| desired.storage)
    })
}

fn carry_out(steps: &[Step], disks: &mut [Disk]) -> Result<(), TestCaseError> {
    for (i, step) in steps.iter().enumerate() {
        prop_assert_eq!(look_again(step, disks), Ok(()), "{:?}", step);
        apply_to_model(step, disks, [i as u8 + 1; 16]);
    }
    Ok(())
}

/// Whether the steps say that this is lost.
fn is_given_up(steps: &[Step], disk: &Disk, number: u32) -> bool {
    steps.iter().filter(|step| step.is_of(disk)).any(|step| match step {
        Step::Partition { .. } => step.is_destructive(),
        Step::Edit { deleted, .. } => deleted.contains(&number),
        Step::Format { on, .. } => step.is_destructive() && on.on.is_partition(number),
        _ => false,
    })
}

/// All that the disk carried and that the steps do not say is lost is there, where it was.
fn keeps(was: &Disk, is: &Disk, steps: &[Step]) -> Result<(), TestCaseError> {
    let is_of = |step: &&Step| step.is_of(was);
    if !steps.iter().any(|step| is_of(&step)) {
        prop_assert_eq!(was, is, "a disk that no step names");
    }
    if !steps.iter().any(|step| step.is_destructive() && is_of(&step)) && was.contents != Contents::Blank {
        prop_assert_eq!(&was.contents, &is.contents);
    }
    for partition in was.partitions.iter().filter(|p| !is_given_up(steps, was, p.number)) {
        let there = is.partitions.iter().find(|p| p.number == partition.number);
        let there = there.ok_or_else(|| TestCaseError::fail(format!("partition {} is gone", partition.number)))?;
        prop_assert_eq!((there.start_bytes, there.guid), (partition.start_bytes, partition.guid));
        prop_assert!(there.size_bytes >= partition.size_bytes);
        if partition.contents != Contents::Blank {
            prop_assert_eq!(there.contents.unmounted(), partition.contents.unmounted());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_global_rejects: 100_000, ..seeded() })]

    #[test]
    fn nothing_that_a_plan_does_not_say_is_lost_wherever_it_is_cut(storage in any_storage(), before in any_machine()) {
        let Ok(steps) = plan(&storage, &before) else { return Ok(()) };
        for cut in 0..=steps.len() {
            let mut disks = before.clone();
            carry_out(&steps[..cut], &mut disks)?;
            for (was, is) in before.iter().zip(&disks) {
                keeps(was, is, &steps)?;
            }
        }
    }

    #[test]
    fn a_plan_that_was_cut_is_gone_on_with_and_comes_to_an_end(storage in any_storage(), before in any_machine()) {
        let Ok(steps) = plan(&storage, &before) else { return Ok(()) };
        for cut in 0..=steps.len() {
            let mut disks = before.clone();
            carry_out(&steps[..cut], &mut disks)?;
            let rest = plan(&storage, &disks);
            prop_assert!(rest.is_ok(), "after {} steps of {:?}: {:?}", cut, steps, rest);
            let rest = rest.unwrap_or_default();
            prop_assert!(cut == 0 || rest.iter().filter(|s| s.is_destructive()).all(|s| steps.contains(s)),
                "what is destroyed then was to be destroyed before: {:?} and {:?}", steps, rest);
            carry_out(&rest, &mut disks)?;
            prop_assert_eq!(plan(&storage, &disks), Ok(vec![]), "after {} of {:?} and {:?}", cut, steps, rest);
        }
    }

    #[test]
    fn partitions_lie_apart_and_inside(storage in any_storage(), before in any_machine()) {
        let Ok(steps) = plan(&storage, &before) else { return Ok(()) };
        let mut disks = before.clone();
        carry_out(&steps, &mut disks)?;
        for disk in disks {
            let mut partitions = disk.partitions.clone();
            partitions.sort_by_key(|p| p.start_bytes);
            let mut end = ALIGNMENT;
            for partition in partitions {
                prop_assert!(partition.start_bytes >= end && partition.size_bytes > 0, "{:?}", disk);
                end = partition.start_bytes + partition.size_bytes;
            }
            prop_assert!(end <= usable_end(disk.size_bytes, disk.logical_sector).max(ALIGNMENT), "{:?}", disk);
        }
    }

    #[test]
    fn a_disk_that_became_another_one_is_not_written_to(
        storage in any_storage(), before in any_machine(), change in 0..6_u8,
    ) {
        let Ok(steps) = plan(&storage, &before) else { return Ok(()) };
        let Some(step) = steps.iter().find(|step| !matches!(step, Step::Unmount { .. })) else { return Ok(()) };
        let mut disks = before.clone();
        let Some(at) = disks.iter().position(|d| step.is_of(d)) else { return Ok(()) };
        match change {
            0 => disks[at].held = "somebody mounted it".into(),
            1 => drop(disks.remove(at)),
            2 => disks[(at + 1) % 3].serial = disks[at].serial.clone(),
            3 if matches!(step, Step::Partition { .. } | Step::Edit { .. }) => disks[at].model = "another".into(),
            4 if matches!(step, Step::Partition { .. } | Step::Edit { .. }) => disks[at].size_bytes += 512,
            _ => {
                disks[at].contents = Contents::Signature("crypto_LUKS".into());
                disks[at].partitions.clear();
            }
        }
        prop_assert!(look_again(step, &disks).is_err(), "{:?}", step);
    }
}
