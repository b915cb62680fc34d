//! What holds for every stack of arrays, LUKS devices and volume groups, over every other one, wherever a plan is cut.

use muster_protocol::desired::{
    self, Desired, DiskSelect, Entry, Existing, Format, Key, LogicalVolume, Luks, Place, Raid, RaidLevel, Storage,
    Table, UNFINISHED_PV, Use, VolumeGroup, VolumeKind, VolumeSize, check,
};
use muster_protocol::observed::{Contents, Layers, Observed, PhysicalVolume};
use proptest::prelude::*;

use super::super::stack::Ground;
use super::super::{Impossible, Model, Step, apply_to_model, look_again, notices, plan, take_down};
use super::{MIB, disk, gpt, id, part, seeded, there};

/// What is done with places, in turn: which layer, of how many of them, with which of its forms, and whether with leave.
type Turns = Vec<(u8, u8, u8, bool)>;

fn any_turns() -> impl Strategy<Value = (u8, bool, Turns)> {
    (1..8_u8, any::<bool>(), proptest::collection::vec((0..5_u8, 1..4_u8, 0..6_u8, any::<bool>()), 0..7))
}

/// On some of three disks, with two partitions each. Only what the check accepts.
fn stack((which, replaces, turns): &(u8, bool, Turns)) -> Option<Storage> {
    let mut storage = Storage::default();
    let mut free = Vec::new();
    for (i, serial) in
        ["serial:S1", "serial:S2", "serial:S3"].into_iter().enumerate().filter(|(i, _)| which >> i & 1 == 1)
    {
        let disk = storage.disks.len() as u16;
        let entry = if *replaces { Entry::Replace } else { Entry::Keep };
        let first = desired::Partition { entry, ..part(1, "a", 200 + 100 * i as u64) };
        let partitions = vec![first, part(2, "b", None)];
        storage.disks.push(desired::Disk { select: DiskSelect::Id(id(serial)), table: Table::Keep, partitions });
        free.extend((0..2).map(|partition| Place::Partition { disk, partition }));
    }
    for (at, (layer, count, form, is_replaced)) in turns.iter().enumerate() {
        let existing = if *is_replaced { Existing::Replace } else { Existing::Keep };
        let first = at % free.len().max(1);
        free.rotate_left(first);
        match layer {
            0 => {
                let level = RaidLevel::ALL[usize::from(*form) % 5];
                let spares = u16::from(*form == 5);
                let members = take(&mut free, level.min_members() + usize::from(spares) + usize::from(*count / 3));
                let name = format!("r{}", storage.raid.len());
                free.push(Place::Raid(storage.raid.len() as u16));
                storage.raid.push(Raid { name, level, members, spares, options: vec![], existing });
            }
            1 => {
                let name = format!("l{}", storage.luks.len());
                let Some(place) = take(&mut free, 1).pop() else { continue };
                free.push(Place::Luks(storage.luks.len() as u16));
                let (uuid, key, discard, options) = (None, Key::Controller, false, vec![]);
                let label = if *form > 3 { "x".into() } else { String::new() };
                storage.luks.push(Luks { name, place, label, uuid, key, discard, options, existing });
            }
            2 => {
                let group = storage.groups.len() as u16;
                let members = take(&mut free, usize::from(*count));
                let volume = |name: &str, kind, size| LogicalVolume { name: name.into(), kind, size };
                let mut volumes = vec![volume("v0", VolumeKind::Linear, VolumeSize::Mib(40 + 10 * u64::from(*form)))];
                match form {
                    0 => volumes.push(volume("v1", VolumeKind::Linear, VolumeSize::Rest)),
                    1 => volumes.push(volume("v1", VolumeKind::Linear, VolumeSize::Percent(20))),
                    2 => {
                        volumes.push(volume("v1", VolumeKind::Thin { pool: "p".into() }, VolumeSize::Mib(900)));
                        volumes.push(volume("p", VolumeKind::Pool, VolumeSize::Percent(30)));
                    }
                    _ => {}
                }
                free.extend((0..volumes.len().min(2) as u16).map(|volume| Place::Volume { group, volume }));
                let name = format!("g{group}");
                storage.groups.push(VolumeGroup { name, members, extent_mib: 4, volumes, existing });
            }
            _ => {
                let Some(place) = take(&mut free, 1).pop() else { continue };
                let format = if *form == 0 { Format::Swap } else { Format::Ext4 };
                let path = format!("/srv/{}", storage.filesystems.len());
                let used = match form {
                    0 => Use::Swap,
                    1 => Use::Later,
                    _ => Use::Mount(desired::Mount { path, options: vec![] }),
                };
                let (label, uuid, options) = (String::new(), None, vec![]);
                storage.filesystems.push(desired::Filesystem { place, format, label, uuid, options, used, existing });
            }
        }
    }
    check(Desired { network: None, storage: Some(storage) }).ok().and_then(|checked| checked.into_inner().storage)
}

fn take(free: &mut Vec<Place>, count: usize) -> Vec<Place> {
    free.drain(..count.min(free.len())).collect()
}

fn blank() -> Model {
    let blank = |serial: &str| {
        let name = serial.replace('S', "vd");
        muster_protocol::observed::Disk { name, size_bytes: 2048 * MIB, ..disk(serial, Contents::Blank, vec![]) }
    };
    Model::new(vec![blank("S1"), blank("S2"), blank("S3")])
}

fn plan_on(storage: &Storage, model: &Model) -> Result<Vec<Step>, Impossible> {
    plan(storage, &model.disks, &model.layers())
}

/// Does the steps; answers the first one that is refused.
fn carry_out<'s>(steps: &'s [Step], model: &mut Model, count: &mut u8) -> Option<(&'s Step, (String, String))> {
    for step in steps {
        if let Err(why) = look_again(step, model) {
            return Some((step, why));
        }
        *count += 1;
        apply_to_model(step, model, [*count; 16]);
    }
    None
}

/// Every filesystem, by its UUID, with the disks beneath it; also those in what does not run.
fn filesystems(model: &Model) -> Vec<(String, Vec<String>)> {
    let layers: &Layers = model.all_layers();
    let ground = Ground::new(&[], &model.disks, layers);
    let each = ground.devices().into_iter().filter_map(|(name, contents)| match contents {
        Contents::Filesystem(found) => {
            let disks = ground.target(&name).map(|target| target.disks).unwrap_or_default();
            Some((found.uuid.clone(), disks.iter().map(ToString::to_string).collect()))
        }
        _ => None,
    });
    each.collect()
}

/// A machine on which another document was applied, and that was rebooted or not.
fn any_machine() -> impl Strategy<Value = (Model, u8)> {
    (proptest::option::weighted(0.8, any_turns()), any::<bool>()).prop_filter_map("a plan", |(turns, reboots)| {
        let (mut model, mut count) = (blank(), 0);
        if let Some(storage) = turns.as_ref().and_then(stack) {
            let steps = plan_on(&storage, &model).ok()?;
            assert_eq!(carry_out(&steps, &mut model, &mut count), None);
        }
        if reboots {
            model.reboot();
        }
        Some((model, count))
    })
}

/// The kernel takes a member for one until it wants to write to it.
#[test]
fn a_member_whose_disk_is_gone_is_in_nobodys_way_before_the_kernel_has_noticed() {
    let mut storage = stack(&(3, false, vec![(0, 1, 1, false)])).expect("an array");
    let on = |disk| Place::Partition { disk, partition: 0 };
    storage.raid[0].members = vec![on(0), on(1)];
    let (mut model, mut count) = (blank(), 0);
    let steps = plan_on(&storage, &model).expect("a plan");
    assert_eq!(carry_out(&steps, &mut model, &mut count), None);
    let (mut disks, layers) = (model.disks.clone(), model.layers());
    disks.retain(|disk| disk.serial.as_deref() != Some("S2"));
    assert_eq!(layers.arrays[0].members.len(), 2);
    assert_eq!(plan(&storage, &disks, &layers), Ok(vec![]));
    assert!(notices(&storage, &disks, &layers)[0].starts_with("serial:S2 is missing: the array /dev/md/r0"));

    // One that takes its place is added beside it, and fills it once the kernel has noticed.
    let another = DiskSelect::Id(id("serial:S3"));
    storage.disks[1].select = another;
    let steps = plan(&storage, &disks, &layers).expect("a plan");
    assert!(matches!(&steps[..], [Step::Partition { .. }, Step::AddMember { .. }]), "{steps:?}");

    storage.raid[0].level = RaidLevel::Raid0;
    let mut striped = layers.clone();
    striped.arrays[0].array.level = "raid0".into();
    for partition in disks.iter_mut().flat_map(|disk| &mut disk.partitions) {
        if let Contents::Raid(member) = &mut partition.contents {
            member.level = "raid0".into();
        }
    }
    storage.disks[1].select = DiskSelect::Id(id("serial:S2"));
    let refused = plan(&storage, &disks, &striped).expect_err("half of a stripe");
    assert!(refused.problem.ends_with("the array r0 cannot run without it"), "{refused}");
}

#[test]
fn a_physical_volume_that_cannot_tell_what_is_in_it_is_not_taken_for_one_that_never_was_of_a_group() {
    let group = VolumeGroup {
        name: "office".into(),
        members: vec![Place::Partition { disk: 0, partition: 0 }],
        extent_mib: 1,
        volumes: vec![],
        existing: Existing::Keep,
    };
    let disks = vec![desired::Disk {
        select: DiskSelect::Id(id("serial:S1")),
        table: Table::Keep,
        partitions: vec![part(1, "rows", 100)],
    }];
    let storage = Storage { disks, groups: vec![group], ..Storage::default() };
    let planned = |is_damaged| {
        let mut uuid = [b'a'; 32];
        uuid[..UNFINISHED_PV.len()].copy_from_slice(UNFINISHED_PV.as_bytes());
        let uuid = uuid.try_into().expect("an id");
        let carries = Contents::Lvm(Box::new(PhysicalVolume { uuid, group: None, is_damaged }));
        plan_on(&storage, &Model::new(vec![disk("S1", gpt(), vec![there(1, "rows", 1, 100, carries)])]))
    };
    assert!(planned(false).expect("it is ours").iter().all(|step| !step.is_destructive()));
    let refused = planned(true).expect_err("there may be volumes in it").to_string();
    assert!(refused.contains("metadata is damaged") && refused.contains("wipe_volume: true"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_global_rejects: 100_000, ..seeded() })]

    #[test]
    fn a_stack_that_was_cut_is_gone_on_with_and_comes_to_an_end(
        turns in any_turns(), (before, made) in any_machine(), reboots in any::<bool>(),
    ) {
        let Some(storage) = stack(&turns) else { return Ok(()) };
        let Ok(steps) = plan_on(&storage, &before) else { return Ok(()) };
        for cut in 0..=steps.len() {
            let (mut model, mut count) = (before.clone(), made);
            // What was hoped to be inside a layer that did not run may be something else.
            if carry_out(&steps[..cut], &mut model, &mut count).is_some() {
                break;
            }
            if reboots {
                model.reboot();
            }
            let mut is_done = false;
            for _ in 0..8 {
                let rest = match plan_on(&storage, &model) {
                    Ok(rest) => rest,
                    // It is refused only for what was not seen when the first plan was made.
                    Err(why) => {
                        let hoped = |step: &Step| matches!(step, Step::Assemble { .. } | Step::Open { .. } | Step::Activate { .. });
                        prop_assert!(steps.iter().any(hoped), "after {cut} of {steps:?}: {why}");
                        is_done = true;
                        break;
                    }
                };
                is_done = rest.is_empty();
                if is_done {
                    break;
                }
                let before = count;
                carry_out(&rest, &mut model, &mut count);
                prop_assert!(count > before, "the first step is refused of {rest:?}");
            }
            prop_assert!(is_done, "it comes to no end after {} of {:?}", cut, steps);
        }
    }

    #[test]
    fn what_is_lost_is_lost_by_a_step_that_names_every_disk_beneath_it(
        turns in any_turns(), (before, made) in any_machine(),
    ) {
        let Some(storage) = stack(&turns) else { return Ok(()) };
        let Ok(steps) = plan_on(&storage, &before) else { return Ok(()) };
        let (mut model, mut count) = (before.clone(), made);
        for step in &steps {
            let was = filesystems(&model);
            let disks = model.disks.clone();
            if carry_out(std::slice::from_ref(step), &mut model, &mut count).is_some() {
                break;
            }
            let is = filesystems(&model);
            let destroyed: Vec<String> = match step.describe().impact {
                muster_protocol::to_agent::Impact::Destroys(disks) => disks.iter().map(ToString::to_string).collect(),
                _ => vec![],
            };
            for (uuid, beneath) in was.iter().filter(|(uuid, _)| !is.iter().any(|(other, _)| other == uuid)) {
                prop_assert!(!destroyed.is_empty(), "{uuid} is lost by {step:?}");
                prop_assert!(beneath.iter().all(|disk| destroyed.contains(disk)), "{uuid} on {beneath:?} is lost by {step:?}");
            }
            for (was, is) in disks.iter().zip(&model.disks) {
                let named = storage.disks.iter().any(|disk| match &disk.select {
                    DiskSelect::Id(id) => id.names(was.wwn.as_deref(), was.serial.as_deref()),
                    DiskSelect::Path(_) | DiskSelect::Rule(_) => false,
                });
                prop_assert!(named || was == is, "{} is not described, and {step:?} touches it", was.name);
                prop_assert!(step.is_of(was) || was == is, "{step:?} does not name {}", was.name);
            }
        }
    }

    #[test]
    fn what_runs_on_disks_is_taken_down_where_nothing_else_is_touched_by_it(
        (before, made) in any_machine(), which in 1..8_u8,
    ) {
        let (mut model, mut count) = (before.clone(), made);
        let ids: Vec<_> = (0..3).filter(|i| which >> i & 1 == 1).map(|i| id(["serial:S1", "serial:S2", "serial:S3"][i])).collect();
        let seen = |model: &Model| Observed { disks: model.disks.clone(), layers: model.layers(), ..Observed::default() };
        let steps = match take_down(&ids, &seen(&model)) {
            Ok(steps) => steps,
            Err(why) => {
                prop_assert!(which != 7 && why.problem.contains("wipe both together"), "{why}");
                return Ok(());
            }
        };
        prop_assert_eq!(carry_out(&steps, &mut model, &mut count), None);
        for step in &steps {
            prop_assert!(!step.is_destructive() && step.disks().iter().all(|disk| ids.contains(disk)), "{step:?}");
        }
        prop_assert_eq!(filesystems(&before), filesystems(&model), "nothing is lost by it");
        prop_assert_eq!(take_down(&ids, &seen(&model)), Ok(vec![]), "nothing runs there any more");
    }

    #[test]
    fn nothing_is_lost_and_no_array_begins_without_a_member_while_a_disk_is_missing(
        turns in any_turns(), (before, made) in any_machine(), is_made in any::<bool>(), reboots in any::<bool>(),
        pulled in 0..3_usize,
    ) {
        let Some(storage) = stack(&turns) else { return Ok(()) };
        let (mut model, mut count) = (before, made);
        if is_made {
            let Ok(steps) = plan_on(&storage, &model) else { return Ok(()) };
            carry_out(&steps, &mut model, &mut count);
        }
        if reboots {
            model.reboot();
        }
        let is_whole = |model: &Model| plan_on(&storage, model).is_ok_and(|steps| steps.is_empty());
        let was_whole = is_whole(&model);
        let DiskSelect::Id(serial) = &storage.disks[pulled % storage.disks.len()].select else { return Ok(()) };
        let name = model.disks.iter().find(|disk| serial.names(None, disk.serial.as_deref())).map(|disk| disk.name.clone());
        model.pull(&name.unwrap_or_default());
        let Ok(steps) = plan_on(&storage, &model) else { return Ok(()) };

        let told = notices(&storage, &model.disks, &model.layers());
        prop_assert!(told.iter().any(|line| line.contains(&serial.to_string())), "{told:?}");
        prop_assert!(steps.iter().all(|step| !step.is_destructive()), "{steps:?}");
        let is_short = |step: &Step| match step {
            Step::MakeArray { array, members, .. } => {
                let name = array.in_words();
                let described = storage.raid.iter().find(|raid| name.ends_with(&format!("/{}", raid.name)));
                described.is_none_or(|raid| raid.members.len() != members.len())
            }
            _ => false,
        };
        prop_assert!(!steps.iter().any(is_short), "{steps:?}");
        let was = filesystems(&model);
        let refused = carry_out(&steps, &mut model, &mut count);
        prop_assert!(was.iter().all(|(uuid, _)| filesystems(&model).iter().any(|(other, _)| other == uuid)));
        // What was all as described is so but for the disk, and runs.
        prop_assert!(!was_whole || refused.is_none() && is_whole(&model), "{refused:?} of {steps:?}");
    }
}
