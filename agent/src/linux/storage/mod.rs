//! Storage steps on the real machine: tables, arrays, encryption, volumes, filesystems, mounts, wiping.
//!
//! Called by the glue of the real machine with steps that `plan::storage` made.
//! It decides nothing, but it looks again: every function finds the disk anew by its WWN or serial, and writes only
//! where it finds exactly what the plan saw.

mod device;
pub mod disks;
mod find;
pub mod gpt;
mod grow;
mod image;
pub mod layers;
mod make;
mod mounts;
pub mod signatures;
mod table;
mod trees;
mod wipe;

use std::io::Read;

use muster_protocol::DiskId;
use muster_protocol::observed::{Contents, Disk, Partition, SWAP};
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::to_controller::WipeReceipt;

use self::device::{Device, Share};
use crate::linux::{firmware, limits};
use crate::machine::{MachineError, Percent};
use crate::plan::storage::{Before, Slot, StartBy, Step, in_words};
use disks::{Disks, Node};
use layers::keys::Keys;
use layers::steps;

/// Does one step on this machine's disks.
///
/// Errors: among others [`MachineError::Changed`] where a disk is not what the plan saw; then nothing was written.
pub fn apply(keys: &Keys, step: &Step, progress: Percent<'_>) -> Result<(), MachineError> {
    apply_with(&Disks::of_this_machine(), keys, step, progress)
}

/// The UUID in the header that a step opens on one of this machine's devices.
///
/// Errors: [`MachineError::Changed`] where that is not the one that the step means.
pub fn header(step: &Step) -> Result<[u8; 16], MachineError> {
    header_on(&Disks::of_this_machine(), step)
}

/// Wipes one of this machine's disks and reads back. See [`wipe_on`].
pub fn wipe(disk: &DiskId, level: WipeLevel, progress: Percent<'_>) -> Result<WipeReceipt, MachineError> {
    wipe_on(&Disks::of_this_machine(), disk, level, progress)
}

/// Writes the image that comes to one of this machine's disks. See [`write_image_on`].
pub fn write_image(step: &Step, source: &mut dyn Read, progress: Percent<'_>) -> Result<(), MachineError> {
    write_image_on(&Disks::of_this_machine(), step, source, progress)
}

pub use image::write_image_on;
pub use wipe::wipe_on;

/// See [`header`].
pub fn header_on(disks: &Disks, step: &Step) -> Result<[u8; 16], MachineError> {
    match step {
        Step::Open { on, header, .. } => steps::header(disks, on, header).map(|(_, uuid)| uuid),
        _ => Err(MachineError::Unable("tell the UUID of what is not opened".into())),
    }
}

/// Does one step on these disks, without any key.
pub fn apply_on(disks: &Disks, step: &Step, progress: Percent<'_>) -> Result<(), MachineError> {
    apply_with(disks, &Keys::default(), step, progress)
}

/// Does one step on these disks.
pub fn apply_with(disks: &Disks, keys: &Keys, step: &Step, progress: Percent<'_>) -> Result<(), MachineError> {
    progress(0);
    match step {
        Step::Unmount { on, path } => mounts::take_out(disks, on, path),
        Step::SwapOff { on } => mounts::take_out(disks, on, SWAP),
        Step::Partition { disk, before, slots, .. } => table::write(disks, disk, before, slots),
        Step::Edit { disk, before, deleted, grown, added, .. } => {
            table::edit(disks, disk, before, table::Edit { deleted, grown, added })
        }
        Step::Image { disk, .. } => Err(MachineError::Unable(format!("write an image to {disk} that does not come"))),
        Step::Format { on, make, .. } => make::make(disks, on, make),
        Step::Mount { on, format, mount } => mounts::mount(disks, on, *format, mount),
        Step::Remount { on, mount } => mounts::remount(disks, on, mount),
        Step::Grow { on, format, path, .. } => grow::grow(disks, on, *format, path),
        Step::SwapOn { on } => mounts::swap(disks, on),
        Step::Attach { tree } => trees::attach(disks, tree),
        Step::Reattach { tree } => trees::reattach(disks, tree),
        Step::Detach { tree } => trees::detach(disks, &tree.mount.path),
        Step::Limit { limit } => limits::set(disks, limit),
        Step::Unlimit { limit } => limits::unset(disks, limit),
        Step::Start { from, how: StartBy::Entry } => firmware::start(disks, from),
        Step::Start { .. } => Ok(()),
        Step::MakeArray { array, level, members, spares, options, .. } => {
            steps::make_array(disks, array, *level, members, *spares, options)
        }
        Step::Assemble { array, members } => steps::assemble(disks, array, members),
        Step::AddMember { array, member, .. } => steps::add_member(disks, array, member),
        Step::Stop { array } => steps::stop(disks, array),
        Step::MakeLuks { on, luks, .. } => steps::make_luks(disks, keys, on, luks),
        Step::Open { luks, on, header, key, discard } => steps::open(disks, keys, (luks, on), header, *key, *discard),
        Step::Close { luks } => steps::close(disks, luks),
        Step::GrowLuks { luks, .. } => steps::grow_luks(disks, luks),
        Step::MakeGroup { group, members, extent_bytes, .. } => steps::make_group(disks, group, members, *extent_bytes),
        Step::ExtendGroup { group, members, .. } => steps::extend_group(disks, group, members),
        Step::GrowMember { group, member } => steps::grow_member(disks, group, member),
        Step::Activate { group, volumes } => steps::activate(disks, group, volumes),
        Step::Deactivate { group, volumes } => steps::deactivate(disks, group, volumes),
        Step::MakeVolume { volume, group, kind, size } => steps::make_volume(disks, volume, group, kind, *size),
        Step::GrowVolume { volume, group, size, .. } => steps::grow_volume(disks, volume, group, *size),
    }?;
    progress(100);
    Ok(())
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
