//! What a step makes of a disk, on values: the simulated machine's half, and what the planner is tested against.
//!
//! Does no checks: the real machine's are in `linux::storage`.

use muster_protocol::observed::{Contents, Disk, Filesystem, Partition};

use super::{Slot, Step, format_name};

/// Changes `disks` as the step would. `random` makes GUIDs and UUIDs differ; equal values give equal disks.
pub fn apply_to_model(step: &Step, disks: &mut [Disk], random: [u8; 16]) {
    let Some(disk) = disks.iter_mut().find(|d| step.disk().names(d.wwn.as_deref(), d.serial.as_deref())) else {
        return;
    };
    match step {
        Step::Partition { slots, .. } => {
            disk.contents = Contents::Gpt { guid: random };
            disk.partitions = slots.iter().map(blank).collect();
        }
        Step::Extend { added, .. } => disk.partitions.extend(added.iter().map(blank)),
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

fn blank(slot: &Slot) -> Partition {
    Partition {
        number: slot.number,
        start_bytes: slot.start_bytes,
        size_bytes: slot.size_bytes,
        label: slot.label.clone(),
        type_guid: slot.type_guid,
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
