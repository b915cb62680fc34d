//! The devices that steps are about, found anew just before something is done to them: by what they are called, and by the
//! disks that they stand on, each of which is known by its WWN or serial.
//!
//! Called by everything that carries a step out. A device of the right name that stands on any other disk is not the one.

use std::collections::BTreeSet;
use std::path::Path;

use muster_protocol::DiskId;
use muster_protocol::inventory::ArrayState;
use muster_protocol::observed::{self, Array, Contents, Layers};

use super::device::{Device, Share};
use super::{changed, known_partition, partition, writable};
use crate::linux::storage::disks::{Disks, Node};
use crate::linux::sysfs;
use crate::machine::MachineError;
use crate::plan::storage::{self as plan, Carries, Over, Target, in_words};

/// A device as it is now.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) node: Node,
    pub(super) size_bytes: u64,
    pub(super) contents: Contents,
}

/// Finds a device on disks that nobody else uses.
///
/// Errors: it is not there, or something else has its name.
pub(super) fn find(disks: &Disks, on: &Target) -> Result<Found, MachineError> {
    find_among(disks, &disks.only(&on.disks), on)
}

/// The same, looking at these disks for what has its name.
fn find_among(disks: &Disks, among: &Disks, on: &Target) -> Result<Found, MachineError> {
    if let plan::Device::Partition { disk: id, slot } = &on.device {
        let disk = writable(disks, id)?;
        let contents = partition(&disk, id, slot)?.contents.clone();
        let node = known_partition(disks, &disk, slot)?;
        return Ok(Found { node, size_bytes: slot.size_bytes, contents });
    }
    let (all, layers) = among.observe_all()?;
    let (name, contents) = in_layers(&layers, on)?.ok_or_else(|| MachineError::Missing(on.in_words()))?;
    let node = disks.node(&name).ok_or_else(|| MachineError::Missing(on.in_words()))?;
    stands_on(disks, &all, &node, &on.disks, &on.in_words())?;
    let size_bytes = super::layers::size(&node);
    Ok(Found { node, size_bytes, contents: contents.unwrap_or(Contents::Unknown) })
}

/// The same; `None` where none of that name is on any disk.
pub(super) fn find_there(disks: &Disks, on: &Target) -> Result<Option<Found>, MachineError> {
    match find_among(disks, disks, on) {
        Err(MachineError::Missing(_)) => Ok(None),
        found => found.map(Some),
    }
}

/// Finds a device that is to be written over, and makes sure that nobody uses it and that it carries what the plan saw.
pub(super) fn over(disks: &Disks, Over { on, carries }: &Over) -> Result<Node, MachineError> {
    let found = find(disks, on)?;
    let device = Device::open(disks, &found.node, found.size_bytes, Share::Exclusive)
        .map_err(|source| MachineError::os(format!("open {} for itself", on.in_words()), source))?;
    // Only now that nobody else can take it.
    let found = find(disks, on)?;
    drop(device);
    if carries_as_planned(&found.contents, carries) {
        return Ok(found.node);
    }
    Err(differs(on, &found.contents))
}

pub(super) fn carries_as_planned(contents: &Contents, carries: &Carries) -> bool {
    contents.mounted_at().is_none()
        && match carries {
            Carries::Nothing => *contents == Contents::Blank,
            Carries::Ours(seen) | Carries::This(seen) => contents == seen,
            Carries::Remains => true,
        }
}

/// It carries something else.
pub(super) fn differs(on: &Target, contents: &Contents) -> MachineError {
    if let plan::Device::Partition { disk, slot } = &on.device {
        return changed(disk, slot.number, contents);
    }
    let words = in_words(contents, &[]);
    let now = match contents.mounted_at() {
        Some(path) => format!("{words} mounted at {path}"),
        // A power cut may have come before it was made, where the plan could only hope for it.
        None => format!("{words}; this may have been hidden before it ran, so apply again"),
    };
    MachineError::Changed { what: on.in_words(), now }
}

/// Kernel name and contents of what is called so.
///
/// Errors: more than one is.
fn in_layers(layers: &Layers, on: &Target) -> Result<Option<(String, Option<Contents>)>, MachineError> {
    let found: Vec<(&String, &Option<Contents>)> = match &on.device {
        plan::Device::Partition { .. } => Vec::new(),
        plan::Device::Array { name, uuid } => {
            let is_it = |array: &&Array| {
                runs(array) && own_name(&array.label) == name && uuid.is_none_or(|uuid| array.uuid == Some(uuid))
            };
            layers.arrays.iter().filter(is_it).map(|array| (&array.array.name, &array.contents)).collect()
        }
        plan::Device::Luks { name } => {
            let opened = layers.opened.iter().filter(|opened| opened.name == *name);
            opened.map(|opened| (&opened.device, &opened.contents)).collect()
        }
        plan::Device::Volume { group, name } => {
            let is_its = |volume: &&observed::Volume| {
                let of = layers.groups.get(usize::from(volume.group));
                volume.name == *name && of.is_some_and(|of| of.name.name == *group) && !volume.device.is_empty()
            };
            layers.volumes.iter().filter(is_its).map(|volume| (&volume.device, &volume.contents)).collect()
        }
    };
    match found[..] {
        [] => Ok(None),
        [(name, contents)] => Ok(Some((name.clone(), contents.clone()))),
        _ => Err(MachineError::Changed { what: on.in_words(), now: "the name of more than one".into() }),
    }
}

pub(super) fn runs(array: &Array) -> bool {
    !matches!(array.array.state, ArrayState::Inactive | ArrayState::Stopped)
}

/// The name in an array's superblocks without the host's.
pub(super) fn own_name(label: &str) -> &str {
    label.split_once(':').map_or(label, |(_, name)| name)
}

/// Makes sure that a device stands on some of these disks, which nobody else uses, and on no other.
pub(super) fn stands_on(
    disks: &Disks,
    all: &[observed::Disk],
    node: &Node,
    ids: &[DiskId],
    what: &str,
) -> Result<(), MachineError> {
    let mut beneath = BTreeSet::new();
    whole_disks(&node.path, 16, &mut beneath);
    // One that is gone carries nothing of it any more.
    let meant: Vec<String> = ids.iter().filter_map(|id| Some(disks.find(id).ok()?.name)).collect();
    let changed = |now: String| Err(MachineError::Changed { what: what.to_owned(), now });
    for name in &beneath {
        if !meant.contains(name) {
            return changed(format!("on {name} as well, which is not one of its disks"));
        }
        match all.iter().find(|disk| disk.name == *name) {
            Some(disk) if disk.held.is_empty() => {}
            Some(disk) => return changed(format!("on a disk that is in use: {}", disk.held)),
            None => return changed(format!("on {name}, which cannot be looked at")),
        }
    }
    if beneath.is_empty() { changed("on no disk".into()) } else { Ok(()) }
}

fn whole_disks(device: &Path, depth: usize, names: &mut BTreeSet<String>) {
    let slaves = device.join("slaves");
    let below = sysfs::names(&slaves);
    if below.is_empty() || depth == 0 {
        let is_partition = device.join("partition").exists();
        let whole = if is_partition { device.parent().unwrap_or(device) } else { device };
        names.extend(whole.file_name().and_then(|name| name.to_str()).map(str::to_owned));
    }
    for path in below.iter().filter_map(|name| sysfs::resolved(slaves.join(name))) {
        whole_disks(&path, depth.saturating_sub(1), names);
    }
}
