//! Storage steps: from what should be and what the disks carry to what to do, in which order.
//!
//! Called by `plan::Plan` and by the simulated machine; pure.
//! Every rule about what may be lost is here and in [`table`]: a step either names a place that was seen to be blank,
//! or says [`to_agent::Impact::Destroys`], which needs a permit.
//! It does not choose kernel names: a disk is its WWN or serial until the very moment of writing.

mod choose;
mod filesystem;
#[cfg(test)]
mod machines;
mod model;
mod place;
#[cfg(test)]
mod properties;
mod table;
#[cfg(test)]
mod tests;
mod trees;

use muster_protocol::desired::{self, Existing, Format, Place, Tree, TreeMount, UNFINISHED, VolumeId};
use muster_protocol::observed::{self, Contents, Disk, Observed, SWAP};
use muster_protocol::to_agent::{self, Impact};
use muster_protocol::{Digest, DiskId};
use serde::Serialize;

use super::Impossible;
use choose::Chosen;

pub use filesystem::GROWTH;
pub use model::{apply_to_model, look_again};
pub use table::{ALIGNMENT, usable_end};
pub use trees::apply_to_trees;

/// One thing to do to a disk. Carries what the plan saw, so that whoever writes can look again first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Step {
    /// Take a filesystem that the agent mounted out of the tree.
    Unmount {
        /// Which disk.
        disk: DiskId,
        /// Which of its partitions.
        partition: u32,
        /// Where it is.
        path: String,
    },
    /// Write a GPT with exactly these partitions.
    Partition {
        /// Which disk.
        disk: DiskId,
        /// What it carries.
        before: Before,
        /// The new table.
        slots: Vec<Slot>,
    },
    /// Change some entries of the GPT that is there; all others stay to the bit.
    Extend {
        /// Which disk.
        disk: DiskId,
        /// What it carries.
        before: Before,
        /// Numbers of the partitions that go, with what they carry.
        deleted: Vec<u32>,
        /// Those that get larger where they are, as they will be.
        grown: Vec<Slot>,
        /// The new ones.
        added: Vec<Slot>,
    },
    /// Make a filesystem.
    Format {
        /// Which disk.
        disk: DiskId,
        /// Which of its partitions, and where it lies.
        slot: Slot,
        /// What the partition carries.
        carries: Carries,
        /// What to make.
        make: Make,
    },
    /// Mount a filesystem.
    Mount {
        /// Which disk.
        disk: DiskId,
        /// Which of its partitions, and where it lies.
        slot: Slot,
        /// What is on it.
        format: Format,
        /// Where to; directories that lack are made.
        mount: desired::Mount,
    },
    /// Change the options that every filesystem has of one that the agent mounted.
    Remount {
        /// Which disk.
        disk: DiskId,
        /// Which of its partitions.
        partition: u32,
        /// Where it is, and the new options.
        mount: desired::Mount,
    },
    /// Let a mounted filesystem have all of its partition.
    Grow {
        /// Which disk.
        disk: DiskId,
        /// Which of its partitions, and where it lies.
        slot: Slot,
        /// What is on it.
        format: Format,
        /// Where it is mounted.
        path: String,
        /// Bytes that it takes now.
        from_bytes: u64,
    },
    /// Swap to a swap area.
    SwapOn {
        /// Which disk.
        disk: DiskId,
        /// Which of its partitions, and where it lies.
        slot: Slot,
    },
    /// Take what was swapped back into memory.
    SwapOff {
        /// Which disk.
        disk: DiskId,
        /// Which of its partitions.
        partition: u32,
    },
    /// Mount what is on no disk of its own.
    Attach {
        /// What, where and how.
        tree: TreeMount,
    },
    /// Change the options of such a mount where it is.
    Reattach {
        /// What and where, and the new options.
        tree: TreeMount,
    },
    /// Take such a mount of the agent's out of the tree.
    Detach {
        /// As it is.
        tree: TreeMount,
    },
}

/// A filesystem that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Make {
    /// What.
    pub format: Format,
    /// Volume label, empty for none.
    pub label: String,
    /// UUID; `None` leaves the choice to its mkfs.
    pub uuid: Option<VolumeId>,
    /// More words for its mkfs.
    pub options: Vec<String>,
}

/// A whole disk as the plan saw it. Kernel names and mount points are left out: they may change and mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Before {
    /// World wide name.
    pub wwn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Model, empty where unknown.
    pub model: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes addressed by one block number.
    pub logical_sector: u32,
    /// What the disk itself carries.
    pub contents: Contents,
    /// Its partitions and what they carry.
    pub partitions: Vec<observed::Partition>,
}

impl Before {
    /// What `disk` is now, in the form that can be compared with what the plan saw.
    pub fn of(disk: &Disk) -> Self {
        let unmounted = |p: &observed::Partition| observed::Partition { contents: p.contents.unmounted(), ..p.clone() };
        Self {
            wwn: disk.wwn.clone(),
            serial: disk.serial.clone(),
            model: disk.model.clone(),
            size_bytes: disk.size_bytes,
            logical_sector: disk.logical_sector,
            contents: disk.contents.unmounted(),
            partitions: disk.partitions.iter().map(unmounted).collect(),
        }
    }

    /// Who the disk is, how large, and a short form of what it carries: `"MODEL", serial S1, wwn 0x5, 10.0 GiB, 1a2b3c4d`.
    pub fn in_words(&self) -> String {
        let model = Some(format!("{:?}", self.model)).filter(|_| !self.model.is_empty());
        let serial = self.serial.as_ref().map(|serial| format!("serial {serial}"));
        let wwn = self.wwn.as_ref().map(|wwn| format!("wwn {wwn}"));
        let seen = Digest::of_value(&(&self.contents, &self.partitions)).to_string();
        let rest = [Some(size(self.size_bytes)), Some(format!("contents {}", &seen[..8]))];
        [model, serial, wwn].into_iter().chain(rest).flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A partition: its number, its place in bytes, its name and type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// 1 to 128.
    pub number: u32,
    /// First byte, from the start of the disk.
    pub start_bytes: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// GPT name.
    pub label: String,
    /// GPT type GUID in the byte order in which it is printed.
    pub type_guid: [u8; 16],
    /// Its own GUID in the byte order in which it is printed; `None` for a random one.
    pub guid: Option<[u8; 16]>,
}

impl Slot {
    /// Where a partition lies that is there.
    pub fn of(there: &observed::Partition) -> Self {
        Self {
            number: there.number,
            start_bytes: there.start_bytes,
            size_bytes: there.size_bytes,
            label: there.label.clone(),
            type_guid: there.type_guid,
            guid: Some(there.guid),
        }
    }
}

/// What a partition that is to be formatted carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Carries {
    /// Nothing, and it must be so still.
    Nothing,
    /// This, and nothing else; it is lost.
    This(Contents),
    /// Whatever the replaced partition table left there. An earlier step of the same plan destroys it.
    Remains,
}

/// A step for people and permits. One that destroys says of which disk all that tells it from others.
pub fn describe(step: &Step, observed: &[Disk]) -> to_agent::Step {
    let mut said = step.describe();
    let is_its = |disk: &&Disk| step.is_of(disk);
    if let Some(disk) = observed.iter().find(is_its).filter(|_| step.is_destructive()) {
        said.action.push_str(&format!(" [{}]", Before::of(disk).in_words()));
    }
    said
}

impl Step {
    /// For people and permits.
    pub fn describe(&self) -> to_agent::Step {
        let destroyed = self.disk().filter(|_| self.is_destructive());
        let impact = destroyed.map_or(Impact::None, |disk| Impact::Destroys(disk.clone()));
        to_agent::Step { action: self.action(), impact }
    }

    /// The disk it touches, as the document names it.
    pub fn disk(&self) -> Option<&DiskId> {
        match self {
            Self::Attach { .. } | Self::Reattach { .. } | Self::Detach { .. } => None,
            Self::Unmount { disk, .. }
            | Self::Partition { disk, .. }
            | Self::Extend { disk, .. }
            | Self::Format { disk, .. }
            | Self::Mount { disk, .. }
            | Self::Remount { disk, .. }
            | Self::Grow { disk, .. }
            | Self::SwapOn { disk, .. }
            | Self::SwapOff { disk, .. } => Some(disk),
        }
    }

    /// Whether it touches this disk.
    pub fn is_of(&self, disk: &Disk) -> bool {
        self.disk().is_some_and(|id| id.names(disk.wwn.as_deref(), disk.serial.as_deref()))
    }

    /// Whether it runs a program, or needs a driver, that is only in the tools image.
    pub fn needs_tools(&self) -> bool {
        match self {
            // A swap area is one page, which the agent writes itself.
            Self::Format { make, .. } => make.format != Format::Swap,
            // What is there already is mounted without: the initramfs has ext4.
            Self::Mount { format, .. } => *format != Format::Ext4,
            Self::Grow { .. } => true,
            Self::Unmount { .. }
            | Self::Remount { .. }
            | Self::Partition { .. }
            | Self::Extend { .. }
            | Self::SwapOn { .. }
            | Self::SwapOff { .. }
            | Self::Attach { .. }
            | Self::Reattach { .. }
            | Self::Detach { .. } => false,
        }
    }

    /// Whether something that is there now is lost, so that a permit is needed.
    pub fn is_destructive(&self) -> bool {
        match self {
            Self::Partition { before, .. } => before.contents != Contents::Blank,
            Self::Format { carries, .. } => matches!(carries, Carries::This(_)),
            Self::Extend { deleted, .. } => !deleted.is_empty(),
            Self::Unmount { .. }
            | Self::Mount { .. }
            | Self::Remount { .. }
            | Self::Grow { .. }
            | Self::SwapOn { .. }
            | Self::SwapOff { .. }
            | Self::Attach { .. }
            | Self::Reattach { .. }
            | Self::Detach { .. } => false,
        }
    }

    fn action(&self) -> String {
        match self {
            Self::Unmount { disk, partition, path } => format!("unmount {path}, partition {partition} of {disk}"),
            Self::Partition { disk, before, slots } => format!(
                "write a GPT to {disk} ({}, {}): {}",
                size(before.size_bytes),
                in_words(&before.contents, &before.partitions),
                list(slots)
            ),
            Self::Extend { disk, before, deleted, grown, added } => {
                let lost = before.partitions.iter().filter(|p| deleted.contains(&p.number));
                let lost = lost.map(|p| format!("{} ({})", p.number, in_words(&p.contents, &[])));
                let parts = [
                    ("delete from", lost.collect::<Vec<_>>().join(", ")),
                    ("grow in", grown.iter().map(in_list).collect::<Vec<_>>().join(", ")),
                    ("add to", added.iter().map(in_list).collect::<Vec<_>>().join(", ")),
                ];
                let parts = parts.iter().filter(|(_, what)| !what.is_empty());
                parts.map(|(how, what)| format!("{how} the GPT of {disk}: {what}")).collect::<Vec<_>>().join("; ")
            }
            Self::Format { disk, slot, carries, make } => {
                let carries = match carries {
                    Carries::Nothing => "blank".to_owned(),
                    Carries::This(found) => format!("carries {}", in_words(found, &[])),
                    Carries::Remains => "remains of the replaced table".to_owned(),
                };
                let label = if make.label.is_empty() { String::new() } else { format!(", labeled {:?}", make.label) };
                let uuid = make.uuid.map(|uuid| format!(", UUID {uuid}")).unwrap_or_default();
                let options =
                    if make.options.is_empty() { String::new() } else { format!(", with {}", make.options.join(" ")) };
                let (name, number, size) = (make.format.name(), slot.number, size(slot.size_bytes));
                format!("make {name} on partition {number} of {disk} ({size}, {carries}){label}{uuid}{options}")
            }
            Self::Mount { disk, slot, mount, .. } => {
                format!("mount partition {} of {disk} at {}{}", slot.number, mount.path, bracketed(&mount.options))
            }
            Self::Remount { disk, partition, mount } => {
                let options = if mount.options.is_empty() { "defaults".to_owned() } else { mount.options.join(",") };
                format!("mount {}, partition {partition} of {disk}, with other options: {options}", mount.path)
            }
            Self::Grow { disk, slot, format, path, from_bytes } => format!(
                "grow {} at {path}, partition {} of {disk}, from {} to {}",
                format.name(),
                slot.number,
                size(*from_bytes),
                size(slot.size_bytes)
            ),
            Self::SwapOn { disk, slot } => format!("swap to partition {} of {disk}", slot.number),
            Self::SwapOff { disk, partition } => format!("stop swapping to partition {partition} of {disk}"),
            Self::Attach { tree: TreeMount { what: Tree::Tmpfs, mount } } => {
                format!("mount a tmpfs at {}{}", mount.path, bracketed(&mount.options))
            }
            Self::Attach { tree: TreeMount { what: Tree::Bind(from), mount } } => {
                format!("show {from} at {} too{}", mount.path, bracketed(&mount.options))
            }
            Self::Reattach { tree: TreeMount { mount, .. } } => {
                let options = if mount.options.is_empty() { "defaults".to_owned() } else { mount.options.join(",") };
                format!("mount {} with other options: {options}", mount.path)
            }
            Self::Detach { tree } => format!("unmount {}", tree.mount.path),
        }
    }
}

fn bracketed(options: &[String]) -> String {
    if options.is_empty() { String::new() } else { format!(" ({})", options.join(",")) }
}

/// What takes a filesystem or swap area of the agent's out of use.
fn take_out(disk: DiskId, partition: u32, at: &str) -> Step {
    match at {
        SWAP => Step::SwapOff { disk, partition },
        path => Step::Unmount { disk, partition, path: path.into() },
    }
}

/// What has to be done to the disks so that they are as desired; empty where they are.
///
/// Errors: the first thing that does not fit, with what is there instead and the remedy.
/// What a disk carries is lost only by steps that say so, and only where the document asks for it
/// (`wipe_table`, `wipe_filesystem`).
pub fn plan(desired: &desired::Storage, observed: &[Disk]) -> Result<Vec<Step>, Impossible> {
    let chosen = choose::choose(desired, observed)?;
    let mut steps = Vec::new();
    for disk in &chosen {
        let planned = plan_disk(disk, desired);
        // A held disk may stay as it is. Why it is held explains more than what does not fit.
        if !disk.have.held.is_empty() && !planned.as_ref().is_ok_and(Vec::is_empty) {
            return Err(disk.impossible(format!("{} may not be written to: {}", line(disk.have), disk.have.held)));
        }
        steps.extend(planned?);
    }
    filesystem::order_mounts(&mut steps, &chosen, observed)?;
    Ok(steps)
}

/// The same, with the mounts of what is on no disk.
pub fn plan_all(desired: &desired::Storage, observed: &Observed) -> Result<Vec<Step>, Impossible> {
    trees::with_trees(desired, &observed.disks, &observed.mounts, plan(desired, &observed.disks)?)
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

fn plan_disk(disk: &Chosen<'_>, desired: &desired::Storage) -> Result<Vec<Step>, Impossible> {
    let (fit, numbers) = table::fit(disk)?;
    let mut steps = fit.steps(disk);
    for filesystem in &desired.filesystems {
        let Place::Partition { disk: entry, partition } = filesystem.place;
        if usize::from(entry) == disk.entry {
            let field = format!("storage.filesystems.{}", desired.place_name(&filesystem.place));
            let number = numbers.get(usize::from(partition)).copied().unwrap_or(0);
            filesystem::plan_filesystem(filesystem, &field, number, disk, &fit, &mut steps)?;
        }
    }
    Ok(steps)
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

/// `true` where the document lets a filesystem be replaced.
fn may_replace(existing: Existing) -> bool {
    match existing {
        Existing::Keep => false,
        Existing::Replace => true,
    }
}
