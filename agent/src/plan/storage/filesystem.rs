//! What to make on the partitions, and where to mount it.
//!
//! Called by `plan` only.

use muster_protocol::desired;
use muster_protocol::observed::{Contents, Disk, Partition};

use super::choose::Chosen;
use super::table::{Fit, partition};
use super::{Carries, Slot, Step, in_words, is_same, line, may_replace};
use crate::plan::Impossible;
use crate::sort;

/// Adds what makes one filesystem right.
///
/// Errors: the partition carries something else and the document does not say `wipe_filesystem`.
pub(super) fn plan_filesystem(
    want: &desired::Filesystem,
    field: &str,
    number: u32,
    chosen: &Chosen<'_>,
    fit: &Fit,
    steps: &mut Vec<Step>,
) -> Result<(), Impossible> {
    let (disk, have) = (chosen.id.clone(), chosen.have);
    let (slot, carries, mounted_at) = match (fit, partition(have, number)) {
        (Fit::Write(slots), _) => {
            let carries = if have.contents == Contents::Blank { Carries::Nothing } else { Carries::Remains };
            (new_slot(number, field, slots)?, Some(carries), None)
        }
        (Fit::Extend(change), there) if there.is_none() || change.deleted.contains(&number) => {
            let slot = new_slot(number, field, &change.added)?;
            let carries = if change.is_on_remains(&slot, have) { Carries::Remains } else { Carries::Nothing };
            (slot, Some(carries), None)
        }
        (Fit::Extend(change), Some(there)) => {
            let slot = change.grown.iter().find(|slot| slot.number == number).cloned();
            let slot = slot.unwrap_or_else(|| Slot::of(there));
            (slot, replaced(want, field, have, there)?, there.contents.mounted_at())
        }
        (Fit::Same, Some(there)) => (Slot::of(there), replaced(want, field, have, there)?, there.contents.mounted_at()),
        (_, None) => return Err(no_partition(field)),
    };
    let stays_mounted = carries.is_none() && mounted_at == want.mount.as_deref();
    if let Some(path) = mounted_at.filter(|_| !stays_mounted) {
        steps.push(Step::Unmount { disk: disk.clone(), partition: slot.number, path: path.into() });
    }
    if let Some(carries) = carries {
        let (slot, label) = (slot.clone(), want.label.clone());
        steps.push(Step::Format { disk: disk.clone(), slot, carries, format: want.format, label });
    }
    if let Some(path) = want.mount.clone().filter(|_| !stays_mounted) {
        steps.push(Step::Mount { disk, slot, format: want.format, path });
    }
    Ok(())
}

/// What a filesystem is made over; `None` where the one that is there is kept.
fn replaced(
    want: &desired::Filesystem,
    field: &str,
    disk: &Disk,
    there: &Partition,
) -> Result<Option<Carries>, Impossible> {
    match &there.contents {
        Contents::Blank => Ok(Some(Carries::Nothing)),
        Contents::Filesystem(found) if is_same(want, found) => Ok(None),
        found if may_replace(want.existing) => Ok(Some(Carries::This(found.unmounted()))),
        found => Err(Impossible {
            field: field.into(),
            problem: format!(
                "partition {} of {} carries {}; say `wipe_filesystem: true` to replace it, which then needs a permit",
                there.number,
                line(disk),
                in_words(found, &[])
            ),
        }),
    }
}

/// Puts the steps of all disks in order: out of the tree from the leaves up, tables and filesystems, into the tree from the root down.
///
/// Errors: a path is taken by another disk's filesystem.
pub(super) fn order_mounts(steps: &mut Vec<Step>, chosen: &[Chosen<'_>], observed: &[Disk]) -> Result<(), Impossible> {
    remount_what_is_below(steps, chosen);
    for step in steps.iter() {
        let Step::Mount { disk, path, slot, .. } = step else { continue };
        let freed = |p: &Partition| {
            steps
                .iter()
                .any(|s| matches!(s, Step::Unmount { path: freed, .. } if p.contents.mounted_at() == Some(freed)))
        };
        let taken = observed.iter().find(|d| {
            d.contents.mounted_at() == Some(path)
                || d.partitions.iter().any(|p| p.contents.mounted_at() == Some(path) && !freed(p))
        });
        if let Some(other) = taken {
            return Err(Impossible {
                field: format!("storage.filesystems.{disk}/{}.path", slot.number),
                problem: format!("{path} is taken by a filesystem of {}", line(other)),
            });
        }
    }
    // The sort is stable: within a rank the order of the document stays, except that paths decide about mounts.
    // A path sorts before everything below it, as a prefix does.
    sort::short(steps, |a, b| match (a, b) {
        (Step::Unmount { path: a, .. }, Step::Unmount { path: b, .. }) => b.cmp(a),
        (Step::Mount { path: a, .. }, Step::Mount { path: b, .. }) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)),
    });
    Ok(())
}

fn rank(step: &Step) -> u8 {
    match step {
        Step::Unmount { .. } => 0,
        Step::Partition { .. } | Step::Extend { .. } | Step::Format { .. } => 1,
        Step::Mount { .. } => 2,
    }
}

/// A filesystem mounted at /srv hides one that is at /srv/data already, and one that leaves /srv is held by it:
/// that one is taken out and put back.
fn remount_what_is_below(steps: &mut Vec<Step>, chosen: &[Chosen<'_>]) {
    let moved: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Mount { path, .. } | Step::Unmount { path, .. } => Some(format!("{path}/")),
            Step::Partition { .. } | Step::Extend { .. } | Step::Format { .. } => None,
        })
        .collect();
    for Chosen { id, have, .. } in chosen {
        for there in &have.partitions {
            let Some(path) =
                there.contents.mounted_at().filter(|path| moved.iter().any(|above| path.starts_with(above)))
            else {
                continue;
            };
            let out = Step::Unmount { disk: id.clone(), partition: there.number, path: path.into() };
            if !steps.contains(&out) {
                let (disk, slot, path) = (id.clone(), Slot::of(there), path.into());
                steps.push(out);
                steps.push(Step::Mount { disk, slot, format: desired::Format::Ext4, path });
            }
        }
    }
}

fn new_slot(number: u32, field: &str, slots: &[Slot]) -> Result<Slot, Impossible> {
    slots.iter().find(|slot| slot.number == number).cloned().ok_or_else(|| no_partition(field))
}

/// Cannot happen to a checked document; said all the same instead of assumed.
fn no_partition(field: &str) -> Impossible {
    Impossible { field: format!("{field}.device"), problem: "this partition is not described under disks".into() }
}
