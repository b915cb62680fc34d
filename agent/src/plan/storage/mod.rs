//! Storage steps: from what should be and what the disks carry to what to do, in which order.
//!
//! Called by `plan::Plan` and by the simulated machine; pure.
//! Every rule about what may be lost is here, in [`table`] and in [`stack`]: a step either names a place that was seen to be blank,
//! or says [`to_agent::Impact::Destroys`], which needs a permit.
//! Tables come first, then what stands on partitions from the bottom up, then filesystems and mounts.

mod choose;
mod filesystem;
mod images;
mod keys;
mod limits;
mod model;
mod place;
mod stack;
mod step;
mod table;
#[cfg(test)]
mod tests;
mod trees;

use muster_protocol::DiskId;
use muster_protocol::desired::{self, Place, UNFINISHED};
use muster_protocol::observed::{self, Contents, Disk, Layers, Observed};

use super::Impossible;
use choose::Chosen;

pub use filesystem::GROWTH;
pub use images::Written;
pub use images::start::{Change, enter, is_ours, load_option, mixed_endian};
pub use keys::{Header, KeyFor};
pub use limits::apply_to_limits;
pub use model::{Model, apply_to_model, look_again};
pub use stack::{pool_extents, take_down, volume_extents};
pub use step::{Before, Carries, Device, Group, Make, MakeLuks, Over, Slot, StartBy, Step, Target, describe};
pub use table::{ALIGNMENT, usable_end};
pub use trees::apply_to_trees;

use stack::{Ground, Planner};

/// What has to be done to the disks so that they are as desired; empty where they are.
///
/// Errors: the first thing that does not fit, with what is there instead and the remedy.
/// What a disk carries is lost only by steps that say so, and only where the document asks for it
/// (`wipe_table`, `wipe_filesystem`).
pub fn plan(desired: &desired::Storage, disks: &[Disk], layers: &Layers) -> Result<Vec<Step>, Impossible> {
    plan_noting(desired, disks, layers).map(|(steps, _)| steps)
}

/// What an operator should know although all can be as desired, one line each: disks that are missing.
pub fn notices(desired: &desired::Storage, disks: &[Disk], layers: &Layers) -> Vec<String> {
    plan_noting(desired, disks, layers).map(|(_, notices)| notices).unwrap_or_default()
}

fn plan_noting(
    desired: &desired::Storage,
    disks: &[Disk],
    layers: &Layers,
) -> Result<(Vec<Step>, Vec<String>), Impossible> {
    let (chosen, missing) = choose::choose(desired, disks)?;
    let mut planner = Planner::new(desired, Ground::new(&chosen, disks, layers), missing);
    let planned = plan_on(&mut planner, &chosen);
    // A held disk may stay as it is. Why it is held explains more than what does not fit.
    let is_refused = |disk: &&Chosen<'_>| match &planned {
        Ok(()) => planner.steps.iter().any(|step| step.is_of(disk.have)),
        Err((_, disks)) => disks.contains(&disk.id),
    };
    if let Some(disk) = chosen.iter().filter(|disk| !disk.have.held.is_empty()).find(is_refused) {
        return Err(disk.impossible(format!("{} may not be written to: {}", line(disk.have), disk.have.held)));
    }
    planned.map_err(|(impossible, _)| impossible)?;
    let Planner { ground, mut steps, notices, missing, .. } = planner;
    if let (Some(disk), true) = (missing.first(), steps.iter().any(Step::is_destructive)) {
        let mut needed = disk.needed.clone();
        needed
            .problem
            .push_str("; while it is missing, nothing is destroyed: put it in, or take it out of the document");
        return Err(needed);
    }
    filesystem::order_mounts(&mut steps, &ground)?;
    Ok((steps, notices))
}

/// Adds what has to be done, from the tables up.
///
/// Errors: what does not fit, and the disks that it is about.
fn plan_on<'a>(planner: &mut Planner<'a>, chosen: &[Chosen<'a>]) -> Result<(), (Impossible, Vec<DiskId>)> {
    for disk in chosen {
        let nodes = planner.plan_table(disk).map_err(|impossible| (impossible, vec![disk.id.clone()]))?;
        for (node, partition) in nodes.into_iter().zip(0..) {
            let place = Place::Partition { disk: disk.entry as u16, partition };
            planner.nodes.entry(place).or_default().extend(node);
        }
    }
    for layer in planner.desired.layers().unwrap_or_default() {
        planner.plan_layer(layer).map_err(|impossible| (impossible, planner.disks_of_layer(layer)))?;
    }
    for filesystem in &planner.desired.filesystems {
        let disks = |planner: &Planner<'_>| planner.disks_of(&filesystem.place);
        planner.plan_filesystem(filesystem).map_err(|impossible| (impossible, disks(planner)))?;
    }
    Ok(())
}

/// The same, with the mounts of what is on no disk.
pub fn plan_all(desired: &desired::Storage, observed: &Observed) -> Result<Vec<Step>, Impossible> {
    let mut steps = images::plan(desired, &observed.disks)?;
    steps.extend(trees::with_trees(desired, observed, plan(desired, &observed.disks, &observed.layers)?)?);
    let (_, missing) = choose::choose(desired, &observed.disks)?;
    let steps = limits::with_limits(desired, &observed.disks, &observed.limits, &missing, steps)?;
    images::start::with_start(desired, observed, steps)
}

/// What keeps all of it from being as desired, one line each; empty where it is.
pub fn differences(desired: &desired::Storage, observed: &Observed) -> Vec<String> {
    match plan_all(desired, observed) {
        Ok(steps) => steps.iter().map(|step| format!("still to do: {}", step.action())).collect(),
        Err(impossible) => vec![impossible.to_string()],
    }
}

/// The one disk that answers to `id`.
pub fn find<'a>(id: &DiskId, observed: &'a [Disk]) -> Result<&'a Disk, Impossible> {
    let mut found = observed.iter().filter(|disk| id.names(disk.wwn.as_deref(), disk.serial.as_deref()));
    match (found.next(), found.next()) {
        (Some(disk), None) => Ok(disk),
        (None, _) if observed.is_empty() => Err(impossible(id, "there is no such disk; this machine has none".into())),
        (None, _) => Err(impossible(
            id,
            format!(
                "there is no such disk; this machine has {}",
                observed.iter().map(line).collect::<Vec<_>>().join(", ")
            ),
        )),
        (Some(first), Some(second)) => {
            let all: Vec<String> = [first, second].into_iter().chain(found).map(line).collect();
            Err(impossible(
                id,
                format!("{} disks answer to this name: {}; name the one by its WWN", all.len(), all.join(", ")),
            ))
        }
    }
}

fn impossible(disk: &DiskId, problem: String) -> Impossible {
    Impossible { field: format!("storage.disks.{disk}"), problem }
}

/// A disk in one line: `serial:MU-0001 (vda, 10.0 GiB)`.
fn line(disk: &Disk) -> String {
    let id = disk.id().map_or_else(|| "a disk without WWN and serial".to_owned(), |id| id.to_string());
    format!("{id} ({}, {})", disk.name, size(disk.size_bytes))
}

fn list(slots: &[Slot]) -> String {
    if slots.is_empty() { "no partitions".into() } else { slots.iter().map(in_list).collect::<Vec<_>>().join(", ") }
}

fn in_list(slot: &Slot) -> String {
    format!("{} {:?} {}", slot.number, slot.label, size(slot.size_bytes))
}

/// What is on a disk or partition, for people. `partitions` are told with a table.
pub fn in_words(found: &Contents, partitions: &[observed::Partition]) -> String {
    let inside = || {
        let each = |p: &observed::Partition| format!("{} ({})", p.number, in_words(&p.contents, &[]));
        partitions.iter().map(each).collect::<Vec<_>>().join(", ")
    };
    match found {
        Contents::Blank => "blank".into(),
        Contents::Gpt { .. } if partitions.is_empty() => "a GPT without partitions".into(),
        Contents::Gpt { .. } => format!("a GPT with partitions {}", inside()),
        Contents::Dos if partitions.is_empty() => "an MBR partition table".into(),
        Contents::Dos => format!("an MBR with partitions {}", inside()),
        Contents::Filesystem(fs) if fs.label.eq_ignore_ascii_case(UNFINISHED) => format!("an unfinished {}", fs.kind),
        Contents::Filesystem(fs) if fs.label.is_empty() => fs.kind.clone(),
        Contents::Filesystem(fs) => format!("{} labeled {:?}", fs.kind, fs.label),
        Contents::Signature(name) => name.clone(),
        Contents::Unknown => "data of an unknown kind".into(),
        Contents::Raid(member) => member.to_string(),
        Contents::Lvm(volume) => volume.to_string(),
        Contents::Luks(luks) => luks.to_string(),
    }
}

/// Bytes for people, in the largest unit that leaves a whole part.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = units.len().min(1 + (bytes.max(1).ilog2() / 10) as usize) - 1;
    let whole = bytes >> (10 * unit);
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (((bytes >> (10 * (unit - 1))) & 0x3ff) * 10) >> 10;
    format!("{whole}.{tenths} {}", units[unit])
}

/// Whether a filesystem that is there is the one that is desired.
fn is_same(want: &desired::Filesystem, have: &observed::Filesystem) -> bool {
    let is_uuid = want.uuid.is_none_or(|uuid| have.uuid == uuid.to_string());
    have.kind == want.format.name() && have.label == want.label && is_uuid
}
