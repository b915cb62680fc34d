//! Storage steps on the real machine: tables, filesystems, mounts, wiping.
//!
//! Called by the glue of the real machine with steps that `plan::storage` made.
//! It decides nothing, but it looks again: every function finds the disk anew by its WWN or serial, and writes only
//! where it finds exactly what the plan saw. It encrypts nothing and knows no RAID.

mod device;
pub mod disks;
mod fat;
pub mod gpt;
mod grow;
pub mod layers;
mod make;
mod mounts;
pub mod signatures;
mod table;
mod trees;
mod wipe;

use muster_protocol::DiskId;
use muster_protocol::observed::{Contents, Disk, Partition, SWAP};
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::to_controller::WipeReceipt;

use self::device::{Device, Share};
use crate::machine::{MachineError, Percent};
use crate::plan;
use crate::plan::storage::{Before, Over, Slot, Step, Target, in_words};
use disks::{Disks, Node};

/// Does one step on this machine's disks.
///
/// Errors: among others [`MachineError::Changed`] where a disk is not what the plan saw; then nothing was written.
pub fn apply(step: &Step, progress: Percent<'_>) -> Result<(), MachineError> {
    apply_on(&Disks::of_this_machine(), step, progress)
}

/// Wipes one of this machine's disks and reads back. See [`wipe_on`].
pub fn wipe(disk: &DiskId, level: WipeLevel, progress: Percent<'_>) -> Result<WipeReceipt, MachineError> {
    wipe_on(&Disks::of_this_machine(), disk, level, progress)
}

pub use wipe::wipe_on;

/// Does one step on these disks.
pub fn apply_on(disks: &Disks, step: &Step, progress: Percent<'_>) -> Result<(), MachineError> {
    progress(0);
    match step {
        Step::Unmount { on, path } => {
            on_partition(on).and_then(|(disk, slot)| mounts::take_out(disks, disk, slot.number, path))
        }
        Step::SwapOff { on } => {
            on_partition(on).and_then(|(disk, slot)| mounts::take_out(disks, disk, slot.number, SWAP))
        }
        Step::Partition { disk, before, slots, .. } => table::write(disks, disk, before, slots),
        Step::Edit { disk, before, deleted, grown, added, .. } => {
            table::edit(disks, disk, before, table::Edit { deleted, grown, added })
        }
        Step::Format { on: Over { on, carries }, make, .. } => {
            on_partition(on).and_then(|(disk, slot)| make::make(disks, disk, slot, carries, make))
        }
        Step::Mount { on, format, mount } => {
            on_partition(on).and_then(|(disk, slot)| mounts::mount(disks, disk, slot, *format, mount))
        }
        Step::Remount { on, mount } => {
            on_partition(on).and_then(|(disk, slot)| mounts::remount(disks, disk, slot.number, mount))
        }
        Step::Grow { on, format, path, .. } => {
            on_partition(on).and_then(|(disk, slot)| grow::grow(disks, disk, slot, *format, path))
        }
        Step::SwapOn { on } => on_partition(on).and_then(|(disk, slot)| mounts::swap(disks, disk, slot)),
        Step::Attach { tree } => trees::attach(disks, tree),
        Step::Reattach { tree } => trees::reattach(disks, tree),
        Step::Detach { tree } => trees::detach(disks, &tree.mount.path),
        Step::MakeArray { .. }
        | Step::Assemble { .. }
        | Step::AddMember { .. }
        | Step::Stop { .. }
        | Step::MakeLuks { .. }
        | Step::Open { .. }
        | Step::Close { .. }
        | Step::GrowLuks { .. }
        | Step::MakeGroup { .. }
        | Step::ExtendGroup { .. }
        | Step::GrowMember { .. }
        | Step::Activate { .. }
        | Step::Deactivate { .. }
        | Step::MakeVolume { .. }
        | Step::GrowVolume { .. } => Err(MachineError::Unable(format!("{}: not yet", step.describe().action))),
    }?;
    progress(100);
    Ok(())
}

/// A partition; what stands on partitions is not written to yet.
fn on_partition(on: &Target) -> Result<(&DiskId, &Slot), MachineError> {
    match &on.device {
        plan::storage::Device::Partition { disk, slot } => Ok((disk, slot)),
        _ => Err(MachineError::Unable(format!("use {}: not yet", on.in_words()))),
    }
}

/// The disk as it is now, if nobody else uses it.
fn writable(disks: &Disks, id: &DiskId) -> Result<Disk, MachineError> {
    let disk = disks.observe_one(id)?;
    if disk.held.is_empty() {
        return Ok(disk);
    }
    Err(MachineError::Changed { what: id.to_string(), now: format!("in use: {}", disk.held) })
}

/// The disk as it is now, if nobody else uses it and it is what the plan saw.
fn unchanged(disks: &Disks, id: &DiskId, before: &Before) -> Result<Disk, MachineError> {
    let disk = writable(disks, id)?;
    let now = Before::of(&disk);
    if now == *before {
        return Ok(disk);
    }
    let now = format!("{}: {}", now.in_words(), in_words(&now.contents, &now.partitions));
    Err(MachineError::Changed { what: id.to_string(), now })
}

/// The partition in this slot, if it is where the plan saw or put it.
fn partition<'a>(disk: &'a Disk, id: &DiskId, slot: &Slot) -> Result<&'a Partition, MachineError> {
    let there = disk.partitions.iter().find(|p| p.number == slot.number);
    there.filter(|p| (p.start_bytes, p.size_bytes) == (slot.start_bytes, slot.size_bytes)).ok_or_else(|| {
        MachineError::Changed {
            what: format!("partition {} of {id}", slot.number),
            now: there.map_or_else(|| "gone".into(), |p| format!("{} bytes at {}", p.size_bytes, p.start_bytes)),
        }
    })
}

/// The kernel's device for the partition in this slot.
fn partition_node(disks: &Disks, disk: &Disk, slot: &Slot) -> Result<Node, MachineError> {
    let node = disks.node(&disk.name);
    node.and_then(|node| disks.partition_node(&node, slot.number, slot.start_bytes, slot.size_bytes)).ok_or_else(|| {
        MachineError::Missing(format!("the kernel's device for partition {} of {}", slot.number, disk.name))
    })
}

/// The same; the kernel is told of the disk's partitions where it does not know this one:
/// it may have been started before the table was written, or be one that cannot read it.
fn known_partition(disks: &Disks, disk: &Disk, slot: &Slot) -> Result<Node, MachineError> {
    partition_node(disks, disk, slot).or_else(|_| {
        let failed = |source| MachineError::os(format!("tell the kernel of the partitions of {}", disk.name), source);
        let node = disks.node(&disk.name).ok_or_else(|| MachineError::Missing(disk.name.clone()))?;
        let device = Device::open(disks, &node, disk.size_bytes, Share::WithOwnMounts).map_err(failed)?;
        let all: Vec<_> = disk.partitions.iter().map(|p| (p.number, p.start_bytes, p.size_bytes)).collect();
        device.set_partitions(disks, &node, &all).map_err(failed)?;
        partition_node(disks, disk, slot)
    })
}

fn changed(id: &DiskId, partition: u32, contents: &Contents) -> MachineError {
    let words = in_words(contents, &[]);
    let now = contents.mounted_at().map_or(words.clone(), |path| format!("{words} mounted at {path}"));
    MachineError::Changed { what: format!("partition {partition} of {id}"), now }
}
