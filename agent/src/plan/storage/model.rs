//! What a step makes of a disk, on values: the simulated machine's half, and what the planner is tested against.
//!
//! The look just before writing is here on values, too; the real machine's, on its disks, is in `linux::storage`.

use muster_protocol::MachineId;
use muster_protocol::desired::{Format, VolumeId};
use muster_protocol::observed::{Contents, Disk, Filesystem, Partition, SWAP};

use super::{Before, Carries, Slot, Step, find, in_words};

/// Changes `disks` as the step would. `random` makes GUIDs and UUIDs differ; equal values give equal disks.
pub fn apply_to_model(step: &Step, disks: &mut [Disk], random: [u8; 16]) {
    let Some(id) = step.disk() else { return };
    let Some(disk) = disks.iter_mut().find(|d| id.names(d.wwn.as_deref(), d.serial.as_deref())) else { return };
    match step {
        Step::Partition { slots, .. } => {
            disk.contents = Contents::Gpt { guid: random };
            disk.partitions = slots.iter().map(|slot| blank(slot, random)).collect();
        }
        Step::Extend { deleted, grown, added, .. } => {
            disk.partitions.retain(|p| !deleted.contains(&p.number));
            for slot in grown {
                let there = disk.partitions.iter_mut().find(|p| p.number == slot.number);
                there.into_iter().for_each(|p| p.size_bytes = slot.size_bytes);
            }
            disk.partitions.extend(added.iter().map(|slot| blank(slot, random)));
        }
        Step::Unmount { partition, .. } | Step::SwapOff { partition, .. } => set(disk, *partition, |fs| {
            (fs.mounted_at, fs.mount_options) = (String::new(), Vec::new());
        }),
        Step::Mount { slot: Slot { number, .. }, mount, .. } | Step::Remount { partition: number, mount, .. } => {
            set(disk, *number, |fs| {
                (fs.mounted_at, fs.mount_options) = (mount.path.clone(), mount.options.clone());
            });
        }
        Step::Attach { .. } | Step::Reattach { .. } | Step::Detach { .. } => {}
        Step::SwapOn { slot, .. } => set(disk, slot.number, |fs| fs.mounted_at = SWAP.into()),
        Step::Grow { slot, .. } => set(disk, slot.number, |fs| fs.size_bytes = slot.size_bytes),
        Step::Format { slot, make, .. } => {
            if let Some(there) = disk.partitions.iter_mut().find(|p| p.number == slot.number) {
                let any = match make.format {
                    Format::Vfat => format!("{:02X}{:02X}-{:02X}{:02X}", random[0], random[1], random[2], random[3]),
                    _ => MachineId::from_bytes(random).to_string(),
                };
                let made = Filesystem {
                    kind: make.format.name().into(),
                    label: make.label.clone(),
                    uuid: make.uuid.as_ref().map_or(any, VolumeId::to_string),
                    size_bytes: slot.size_bytes,
                    ..Filesystem::default()
                };
                there.contents = Contents::Filesystem(made.into());
            }
        }
    }
    disk.partitions.sort_by_key(|p| p.number);
}

/// Whether the disk is still what the plan saw, where the step writes to it.
///
/// Errors: what is not, and what it is now.
pub fn look_again(step: &Step, disks: &[Disk]) -> Result<(), (String, String)> {
    let Some(id) = step.disk() else { return Ok(()) };
    let disk = find(id, disks).map_err(|impossible| (id.to_string(), impossible.problem))?;
    if !disk.held.is_empty() {
        return Err((id.to_string(), disk.held.clone()));
    }
    let there = |slot: &Slot| {
        let lies = |p: &&Partition| {
            (p.number, p.start_bytes, p.size_bytes) == (slot.number, slot.start_bytes, slot.size_bytes)
        };
        let gone = || (format!("partition {} of {id}", slot.number), "gone".to_owned());
        disk.partitions.iter().find(lies).ok_or_else(gone)
    };
    let is_as_planned = match step {
        Step::Partition { before, .. } | Step::Extend { before, .. } => Before::of(disk) == *before,
        Step::Format { slot, carries, .. } => {
            let there = there(slot)?;
            let is_seen = match carries {
                Carries::Nothing => there.contents == Contents::Blank,
                Carries::This(seen) => there.contents == *seen,
                Carries::Remains => true,
            };
            is_seen && there.contents.mounted_at().is_none()
        }
        Step::Mount { slot, .. } | Step::Grow { slot, .. } | Step::SwapOn { slot, .. } => {
            matches!(there(slot)?.contents, Contents::Filesystem(_))
        }
        Step::Unmount { .. } | Step::Remount { .. } | Step::SwapOff { .. } => true,
        Step::Attach { .. } | Step::Reattach { .. } | Step::Detach { .. } => true,
    };
    let now =
        || (id.to_string(), format!("{}: {}", Before::of(disk).in_words(), in_words(&disk.contents, &disk.partitions)));
    if is_as_planned { Ok(()) } else { Err(now()) }
}

fn blank(slot: &Slot, random: [u8; 16]) -> Partition {
    Partition {
        number: slot.number,
        start_bytes: slot.start_bytes,
        size_bytes: slot.size_bytes,
        label: slot.label.clone(),
        type_guid: slot.type_guid,
        guid: slot.guid.unwrap_or(random),
        contents: Contents::Blank,
    }
}

fn set(disk: &mut Disk, number: u32, change: impl Fn(&mut Filesystem)) {
    for there in disk.partitions.iter_mut().filter(|p| p.number == number) {
        if let Contents::Filesystem(filesystem) = &mut there.contents {
            change(filesystem);
        }
    }
}
