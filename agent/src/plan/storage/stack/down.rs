//! What is to be taken out of use before disks are wiped: all that runs on them, from the top down.
//!
//! Called by the reconcile loop when an operator or the end of a lease has disks wiped; pure. Nothing is lost by these steps:
//! what they stop would run again. They are taken only where every disk beneath is wiped then.

use muster_protocol::DiskId;
use muster_protocol::desired::Storage;
use muster_protocol::observed::{Disk, Observed};

use super::super::step::{Step, take_out};
use super::super::{find, line, trees};
use super::{Ground, Planner};
use crate::plan::Impossible;

/// The steps after which no array, encrypted device or volume runs on these disks; empty where none does.
///
/// Errors: a disk is not there; or what runs on it stands on another disk too.
pub fn take_down(ids: &[DiskId], observed: &Observed) -> Result<Vec<Step>, Impossible> {
    let Observed { disks, layers, mounts, .. } = observed;
    let meant: Vec<(&DiskId, &Disk)> = ids.iter().map(|id| Ok((id, find(id, disks)?))).collect::<Result<_, _>>()?;
    let named = meant.iter().map(|(id, disk)| (&*disk.name, (*id).clone())).collect();
    let nothing = Storage::default();
    let mut planner = Planner::new(&nothing, Ground::of(named, disks, layers), Vec::new());
    for (id, disk) in &meant {
        let begun = planner.steps.len();
        planner.take_out(&disk.name);
        disk.partitions.iter().for_each(|partition| planner.take_out(&disk.partition_name(partition.number)));
        for step in planner.steps.iter().skip(begun).rev() {
            let Some(other) = step.disks().into_iter().find(|other| !ids.contains(other)) else { continue };
            let other = disks.iter().find(|disk| other.names(disk.wwn.as_deref(), disk.serial.as_deref()));
            let problem = format!(
                "to {} would touch {} too; wipe both together, or reboot the machine, after which nothing runs",
                step.action(),
                other.map_or_else(|| "a disk that is gone".to_owned(), line)
            );
            return Err(Impossible { field: format!("storage.disks.{id}"), problem });
        }
    }
    let mut steps = planner.steps;
    if steps.is_empty() {
        return Ok(steps);
    }
    // What is mounted on a partition may lie in what is mounted on a volume.
    for (_, disk) in &meant {
        for partition in &disk.partitions {
            let target = planner.ground.target(&disk.partition_name(partition.number));
            steps.extend(target.zip(partition.contents.mounted_at()).map(|(on, at)| take_out(on, at)));
        }
    }
    trees::taken_out_with(mounts, steps)
}
