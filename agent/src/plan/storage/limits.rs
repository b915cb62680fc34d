//! How fast programs may read and write disks: what keeps `io.max` of cgroups from being as desired.
//!
//! Called by `plan_all`. Limits are the last that is done, and cost nobody anything that a permit would be for. Those that
//! somebody else has set are not observed, and stay.

use muster_protocol::desired::{DiskSelect, Storage};
use muster_protocol::observed::{Disk, Limit};

use super::choose::Missing;
use super::{Impossible, Step, find};

/// Adds what makes the limits right: those that are described no more go first.
///
/// Errors: a disk that is named is not there, or has no name of its own.
pub(super) fn with_limits(
    desired: &Storage,
    disks: &[Disk],
    observed: &[Limit],
    missing: &[Missing],
    mut steps: Vec<Step>,
) -> Result<Vec<Step>, Impossible> {
    let mut wanted = Vec::new();
    for (i, limit) in desired.io_limits.iter().enumerate() {
        // There is nothing to limit, and no reason to be without what runs.
        if missing.iter().any(|disk| desired.disks[disk.entry].select == limit.disk) {
            continue;
        }
        let said = |problem: String| Impossible { field: format!("storage.io_limits[{i}].device"), problem };
        let disk = match &limit.disk {
            DiskSelect::Id(id) => find(id, disks).map_err(|impossible| said(impossible.problem))?,
            DiskSelect::Path(path) => {
                let mut there = disks.iter().filter(|disk| disk.by_path.as_ref() == Some(path));
                there.next().ok_or_else(|| said(format!("there is no disk in the slot {path}")))?
            }
            DiskSelect::Rule(_) => return Err(said("name the disk by its WWN, its serial or its slot".into())),
        };
        let id = disk.id().ok_or_else(|| said(format!("{} has neither WWN nor serial", disk.name)))?;
        wanted.push(Limit { disk: id, cgroup: limit.cgroup.clone(), rates: limit.rates });
    }
    let is_same = |one: &Limit, other: &Limit| one.disk == other.disk && one.cgroup == other.cgroup;
    let gone = observed.iter().filter(|have| !wanted.iter().any(|want| is_same(want, have)));
    steps.extend(gone.map(|limit| Step::Unlimit { limit: limit.clone() }));
    let lacking = wanted.iter().filter(|want| !observed.contains(want));
    steps.extend(lacking.map(|limit| Step::Limit { limit: limit.clone() }));
    Ok(steps)
}

/// Changes the limits as the step would.
pub fn apply_to_limits(step: &Step, limits: &mut Vec<Limit>) {
    let (Step::Limit { limit } | Step::Unlimit { limit }) = step else { return };
    limits.retain(|other| other.disk != limit.disk || other.cgroup != limit.cgroup);
    if let Step::Limit { limit } = step {
        limits.push(limit.clone());
    }
}

#[cfg(test)]
mod tests {
    use muster_protocol::desired::{IoLimit, Rates};
    use muster_protocol::observed::{Contents, Observed};

    use super::super::plan_all;
    use super::super::tests::disk;
    use super::*;

    fn limit(disk: DiskSelect, cgroup: &str, read: u64) -> IoLimit {
        let rates = Rates { read_bytes: Some(read), ..Rates::default() };
        IoLimit { disk, cgroup: cgroup.into(), rates }
    }

    #[test]
    fn limits_are_set_changed_and_given_back_and_then_nothing_is_left_to_do() {
        let mut disks = vec![disk("S1", Contents::Blank, vec![]), disk("S2", Contents::Blank, vec![])];
        disks[1].by_path = Some("pci-1".into());
        let mut observed = Observed { disks, ..Observed::default() };
        let by_name = |read| limit(DiskSelect::Id("serial:S1".parse().expect("an id")), "system.slice", read);
        let by_slot = limit(DiskSelect::Path("pci-1".into()), "user.slice", 7);
        let mut did = Vec::new();
        for io_limits in [vec![by_name(5), by_slot.clone()], vec![by_name(6)], vec![]] {
            let desired = Storage { io_limits, ..Storage::default() };
            for step in plan_all(&desired, &observed).expect("possible") {
                assert!(!step.is_destructive());
                did.push(step.describe().action);
                apply_to_limits(&step, &mut observed.limits);
            }
            assert_eq!(plan_all(&desired, &observed), Ok(vec![]));
        }
        let expected = [
            "let system.slice read 5 bytes/s of serial:S1 and no more",
            "let user.slice read 7 bytes/s of serial:S2 and no more",
            "take the limits of user.slice at serial:S2 away",
            "let system.slice read 6 bytes/s of serial:S1 and no more",
            "take the limits of system.slice at serial:S1 away",
        ];
        assert_eq!(did, expected);
    }

    #[test]
    fn a_disk_that_is_not_there_is_refused_by_its_field() {
        let observed = Observed { disks: vec![disk("S1", Contents::Blank, vec![])], ..Observed::default() };
        for select in [DiskSelect::Id("serial:S9".parse().expect("an id")), DiskSelect::Path("pci-9".into())] {
            let desired = Storage { io_limits: vec![limit(select, "a", 1)], ..Storage::default() };
            assert_eq!(plan_all(&desired, &observed).expect_err("refused").field, "storage.io_limits[0].device");
        }
    }
}
