//! What a step makes of a disk, on values: the simulated machine's half, and what the planner is tested against.
//!
//! The look just before writing is here on values, too; the real machine's, on its disks, is in `linux::storage`.

use muster_protocol::observed::{Contents, Disk, Filesystem, Partition};

use super::{Before, Carries, Slot, Step, find, format_name, in_words};

/// Changes `disks` as the step would. `random` makes GUIDs and UUIDs differ; equal values give equal disks.
pub fn apply_to_model(step: &Step, disks: &mut [Disk], random: [u8; 16]) {
    let Some(disk) = disks.iter_mut().find(|d| step.disk().names(d.wwn.as_deref(), d.serial.as_deref())) else {
        return;
    };
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
        Step::Unmount { partition, .. } => set_mounted_at(disk, *partition, ""),
        Step::Mount { slot, path, .. } => set_mounted_at(disk, slot.number, path),
        Step::Format { slot, format, label, .. } => {
            if let Some(there) = disk.partitions.iter_mut().find(|p| p.number == slot.number) {
                there.contents = Contents::Filesystem(Filesystem {
                    kind: format_name(*format).into(),
                    label: label.clone(),
                    uuid: muster_protocol::MachineId::from_bytes(random).to_string(),
                    mounted_at: String::new(),
                });
            }
        }
    }
    disk.partitions.sort_by_key(|p| p.number);
}

/// Whether the disk is still what the plan saw, where the step writes to it.
///
/// Errors: what is not, and what it is now.
pub fn look_again(step: &Step, disks: &[Disk]) -> Result<(), (String, String)> {
    let id = step.disk();
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
        Step::Mount { slot, .. } => matches!(there(slot)?.contents, Contents::Filesystem(_)),
        Step::Unmount { .. } => true,
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

fn set_mounted_at(disk: &mut Disk, number: u32, path: &str) {
    for there in disk.partitions.iter_mut().filter(|p| p.number == number) {
        if let Contents::Filesystem(filesystem) = &mut there.contents {
            filesystem.mounted_at = path.into();
        }
    }
}
