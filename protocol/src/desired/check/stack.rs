//! Checks of what stands between partitions and filesystems, without looking at a machine.
//!
//! Called by the check of storage.

use std::collections::{BTreeMap, BTreeSet};

use super::super::disks::{Disk, Presence};
use super::super::stack::{
    ARRAYS, LogicalVolume, Luks, OPENED, Raid, RaidLevel, UNFINISHED_LAYER, VolumeGroup, VolumeKind, VolumeSize,
};
use super::super::storage::{Layer, Place, Storage};
use super::super::{Format, Problems};
use crate::bounded;

/// MiB of extents: LVM2 takes any power of two, and larger ones than this leave nothing to share out.
const EXTENTS: std::ops::RangeInclusive<u32> = 1..=1 << 14;
/// More is on no disk.
const SIZE_MIB: u64 = 1 << 40;

pub(in super::super) fn check(storage: &Storage, problems: &mut Problems) {
    problems.at_most("storage.raid", storage.raid.len(), bounded::ARRAYS);
    problems.at_most("storage.luks", storage.luks.len(), bounded::OPENED);
    problems.at_most("storage.volume_groups", storage.groups.len(), bounded::GROUPS);
    let volumes = storage.groups.iter().map(|group| group.volumes.len()).sum();
    problems.at_most("storage.volume_groups", volumes, bounded::VOLUMES);
    let mut names = BTreeSet::new();
    for (i, raid) in storage.raid.iter().enumerate() {
        let field = storage.layer_field(Layer::Raid(i as u16));
        if !names.insert(format!("{ARRAYS}{}", raid.name)) {
            problems.add(format!("{field}.name"), "two arrays have this name");
        }
        check_raid(&field, raid, storage, problems);
    }
    let mut uuids = BTreeSet::new();
    for (i, luks) in storage.luks.iter().enumerate() {
        let field = storage.layer_field(Layer::Luks(i as u16));
        if !names.insert(format!("{OPENED}{}", luks.name)) {
            problems.add(format!("{field}.name"), "two LUKS devices have this name");
        }
        if luks.uuid.is_some_and(|uuid| !uuids.insert(uuid)) {
            problems.add(format!("{field}.uuid"), "two LUKS devices have this UUID");
        }
        check_luks(&field, luks, storage, problems);
    }
    for (i, group) in storage.groups.iter().enumerate() {
        let field = storage.layer_field(Layer::Group(i as u16));
        if !names.insert(format!("/dev/{}", group.name)) {
            problems.add(format!("{field}.name"), "two volume groups have this name");
        }
        check_group(&field, group, storage, problems);
        for volume in &group.volumes {
            // The device mapper has one name for each, with the dashes of both doubled.
            let mapped = format!("{OPENED}{}-{}", group.name.replace('-', "--"), volume.name.replace('-', "--"));
            if !names.insert(mapped) {
                let field = format!("{field}.logical_volumes.{}.name", volume.name);
                problems.add(field, format!("this name is used twice, or is that of a device in {OPENED}"));
            }
        }
    }
    check_holders(storage, problems);
    if let Err(layer) = storage.layers() {
        problems.add(storage.layer_field(layer), "it stands on itself");
    }
}

/// What may hold anything, and holds one thing.
fn check_holders(storage: &Storage, problems: &mut Problems) {
    let mut holders: BTreeMap<&Place, String> = BTreeMap::new();
    let mut hold = |place, field: &str, by: String, problems: &mut Problems| {
        check_place(storage, place, field, problems);
        if let Some(other) = holders.get(place) {
            problems.add(field, format!("{} holds {other} already", storage.place_name(place)));
        } else {
            holders.insert(place, by);
        }
    };
    for (i, raid) in storage.raid.iter().enumerate() {
        let field = storage.layer_field(Layer::Raid(i as u16));
        for (at, place) in raid.members.iter().enumerate() {
            hold(place, &format!("{field}.devices[{at}]"), format!("a member of {ARRAYS}{}", raid.name), problems);
        }
    }
    for (i, luks) in storage.luks.iter().enumerate() {
        let field = format!("{}.device", storage.layer_field(Layer::Luks(i as u16)));
        hold(&luks.place, &field, format!("{OPENED}{}", luks.name), problems);
        check_one(storage, &luks.place, &field, problems);
    }
    for (i, group) in storage.groups.iter().enumerate() {
        let field = storage.layer_field(Layer::Group(i as u16));
        for (at, place) in group.members.iter().enumerate() {
            let by = format!("a physical volume of the volume group {}", group.name);
            hold(place, &format!("{field}.physical_volumes[{at}]"), by, problems);
        }
    }
    for filesystem in &storage.filesystems {
        let field = format!("storage.filesystems.{}.device", storage.place_name(&filesystem.place));
        hold(&filesystem.place, &field, format!("a filesystem of type {}", filesystem.format.name()), problems);
        check_one(storage, &filesystem.place, &field, problems);
        if let Some(problem) =
            storage.volume(&filesystem.place).and_then(|volume| refused_size(volume, filesystem.format))
        {
            let field = format!("storage.filesystems.{}.format", storage.place_name(&filesystem.place));
            problems.add(field, problem);
        }
    }
}

fn refused_size(volume: &LogicalVolume, format: Format) -> Option<String> {
    match volume.size {
        VolumeSize::Mib(mib) => format.refuses_size(mib.saturating_mul(1 << 20)),
        VolumeSize::Percent(_) | VolumeSize::Rest => None,
    }
}

fn check_place(storage: &Storage, place: &Place, field: &str, problems: &mut Problems) {
    match place {
        Place::Partition { .. } => match storage.partition(place) {
            None => problems.add(field, "no partition of this document is meant; describe it under disks"),
            Some(partition) if partition.presence == Presence::Absent => {
                problems.add(field, "this partition should not be there");
            }
            Some(_) => {}
        },
        Place::Raid(i) if storage.raid.get(usize::from(*i)).is_none() => {
            problems.add(field, "no array of this document is meant; describe it under raid");
        }
        Place::Luks(i) if storage.luks.get(usize::from(*i)).is_none() => {
            problems.add(field, "no LUKS device of this document is meant; describe it under luks");
        }
        Place::Volume { .. } => match storage.volume(place) {
            None => problems.add(field, "no logical volume of this document is meant; describe it in volume_groups"),
            Some(LogicalVolume { kind: VolumeKind::Pool, .. }) => {
                problems.add(field, "a thin pool holds thin volumes and nothing else; name one of its volumes");
            }
            Some(_) => {}
        },
        Place::Raid(_) | Place::Luks(_) => {}
    }
}

/// Arrays and groups have many members; all others stand on one device.
fn check_one(storage: &Storage, place: &Place, field: &str, problems: &mut Problems) {
    let Place::Partition { disk, .. } = place else { return };
    if let Some(count) = storage.disks.get(usize::from(*disk)).map(Disk::count).filter(|count| *count != 1) {
        problems.add(field, format!("{count} disks have this partition, and this stands on one; match one disk"));
    }
}

/// Devices that these places stand for.
fn count(storage: &Storage, places: &[Place]) -> usize {
    let each = |place: &Place| match place {
        Place::Partition { disk, .. } => storage.disks.get(usize::from(*disk)).map_or(1, Disk::count),
        Place::Raid(_) | Place::Luks(_) | Place::Volume { .. } => 1,
    };
    places.iter().map(each).sum()
}

fn check_raid(field: &str, raid: &Raid, storage: &Storage, problems: &mut Problems) {
    let Raid { name, level, members, spares, options, .. } = raid;
    // mdadm(8) takes names of digits, and those that the kernel gives, for minor numbers.
    let number = ["md_d", "md"].iter().find_map(|kernel| name.strip_prefix(kernel)).unwrap_or(name);
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    if !is_name(name, 31, "._-") || is_number {
        let problem = format!(
            "{name:?} is no name of an array: 1 to 31 letters, digits and ._-, no '.' or '-' at the start, \
             not a number and not {UNFINISHED_LAYER}…"
        );
        problems.add(format!("{field}.name"), problem);
    }
    let (all, spares) = (count(storage, members), usize::from(*spares));
    let at = format!("{field}.devices");
    if all > bounded::ARRAY_MEMBERS {
        problems.add(&at, format!("{all} members are over the limit of {}", bounded::ARRAY_MEMBERS));
    } else if all < spares + level.min_members() {
        let problem =
            format!("{} has at least {} members beside spares; {all} are given", level.name(), level.min_members());
        problems.add(&at, problem);
    }
    if spares > 0 && *level == RaidLevel::Raid0 {
        problems.add(format!("{field}.spares"), "nothing can take a member's place in raid0; leave it out");
    }
    problems.at_most(&format!("{field}.options"), options.len(), 64);
    if let Some((at, problem)) = raid.refuses_options() {
        problems.add(format!("{field}.options[{at}]"), problem);
    }
}

fn check_luks(field: &str, luks: &Luks, _: &Storage, problems: &mut Problems) {
    let Luks { name, label, uuid, options, .. } = luks;
    if !is_name(name, 127, "._-") || name == "control" {
        let problem = format!(
            "{name:?} is no name of a LUKS device: 1 to 127 letters, digits and ._-, no '.' or '-' at the start, \
             neither control nor {UNFINISHED_LAYER}…"
        );
        problems.add(format!("{field}.name"), problem);
    }
    if label.len() > 47 || label.contains(char::is_control) || label.trim() != label {
        let problem = "a LUKS label has at most 47 bytes, no control characters and no blanks at its ends";
        problems.add(format!("{field}.label"), problem);
    }
    if *uuid == Some([0; 16]) {
        problems.add(format!("{field}.uuid"), "a UUID is not all zeros; leave it out");
    }
    problems.at_most(&format!("{field}.options"), options.len(), 64);
    if let Some((at, problem)) = luks.refuses_options() {
        problems.add(format!("{field}.options[{at}]"), problem);
    }
}

fn check_group(field: &str, group: &VolumeGroup, storage: &Storage, problems: &mut Problems) {
    let VolumeGroup { name, members, extent_mib, volumes, .. } = group;
    // What LVM2 would find in /dev and refuse.
    const TAKEN: [&str; 14] =
        ["block", "bus", "char", "cpu", "disk", "dri", "input", "mapper", "md", "net", "pts", "shm", "snd", "vfio"];
    if !is_name(name, 63, "+._-") || TAKEN.contains(&name.as_str()) {
        let problem = format!(
            "{name:?} is no name of a volume group: 1 to 63 letters, digits and +._-, no '.' or '-' at the start, \
             no folder in /dev and not {UNFINISHED_LAYER}…"
        );
        problems.add(format!("{field}.name"), problem);
    }
    let all = count(storage, members);
    if members.is_empty() {
        problems.add(format!("{field}.physical_volumes"), "a volume group has at least one");
    } else if all > bounded::GROUP_MEMBERS {
        let problem = format!("{all} physical volumes are over the limit of {}", bounded::GROUP_MEMBERS);
        problems.add(format!("{field}.physical_volumes"), problem);
    }
    if !EXTENTS.contains(extent_mib) || !extent_mib.is_power_of_two() {
        let problem = format!("a power of two from {} to {}; leave it out for 4", EXTENTS.start(), EXTENTS.end());
        problems.add(format!("{field}.extent_size_mib"), problem);
    }
    let (mut percent, mut rest) = (0, false);
    for (i, volume) in volumes.iter().enumerate() {
        let field = format!("{field}.logical_volumes.{}", volume.name);
        check_volume_name(&field, &volume.name, problems);
        if volumes[..i].iter().any(|other| other.name == volume.name) {
            problems.add(format!("{field}.name"), "two volumes of this group have this name");
        }
        match volume.size {
            VolumeSize::Mib(0) => problems.add(format!("{field}.size_mib"), "leave the key out to take what is left"),
            VolumeSize::Mib(size) if size > SIZE_MIB => {
                problems.add(format!("{field}.size_mib"), "no group is that large");
            }
            VolumeSize::Percent(part) if !(1..=100).contains(&part) => {
                problems.add(format!("{field}.size_percent"), "1 to 100, of all that the group has");
            }
            VolumeSize::Mib(_) | VolumeSize::Percent(_) | VolumeSize::Rest => {}
        }
        if let VolumeKind::Thin { pool } = &volume.kind {
            let is_pool = |other: &LogicalVolume| other.name == *pool && other.kind == VolumeKind::Pool;
            if !volumes.iter().any(is_pool) {
                problems.add(format!("{field}.pool"), format!("there is no thin pool {pool:?} in this group"));
            }
            if !matches!(volume.size, VolumeSize::Mib(_)) {
                let problem = "a thin volume says its size: it takes room only where it is written to";
                problems.add(format!("{field}.size_mib"), problem);
            }
            continue;
        }
        match volume.size {
            VolumeSize::Percent(part) => percent += u32::from(part),
            VolumeSize::Rest if rest => {
                problems.add(format!("{field}.size_mib"), "only one volume of a group takes what is left");
            }
            VolumeSize::Rest => rest = true,
            VolumeSize::Mib(_) => {}
        }
    }
    if percent > 100 {
        problems.add(format!("{field}.logical_volumes"), format!("{percent} percent of the group are shared out"));
    }
}

/// lvm(8), "Valid names".
fn check_volume_name(field: &str, name: &str, problems: &mut Problems) {
    const PARTS: [&str; 16] = [
        "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog", "_pmspare", "_rimage",
        "_rmeta", "_tdata", "_tmeta", "_vdata", "_wcorig",
    ];
    let is_taken = name.starts_with("snapshot")
        || name.starts_with("pvmove")
        || name.starts_with("lvol0_pmspare")
        || name.contains("_vorigin")
        || PARTS.iter().any(|part| name.contains(part));
    // The unfinished one's name is longer.
    if !is_name(name, 63, "+._-") || is_taken {
        let problem = format!(
            "{name:?} is no name of a logical volume: 1 to 63 letters, digits and +._-, no '.' or '-' at the start, none \
             that LVM or {UNFINISHED_LAYER}… has a use for"
        );
        problems.add(format!("{field}.name"), problem);
    }
}

fn is_name(name: &str, limit: usize, beside: &str) -> bool {
    (1..=limit).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || beside.contains(c))
        && !name.starts_with(['.', '-', '+'])
        && !name.starts_with(UNFINISHED_LAYER)
}
