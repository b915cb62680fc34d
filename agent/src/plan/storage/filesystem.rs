//! What to make on the partitions, and where to mount it.
//!
//! Called by `plan` only.

use muster_protocol::DiskId;
use muster_protocol::desired::{self, Format, Mount, Use, is_flag};
use muster_protocol::observed::{self, Contents, Disk, Partition, SWAP};

use super::choose::Chosen;
use super::table::{Fit, partition};
use super::{Carries, Make, Slot, Step, in_words, is_same, line, may_replace, size, take_out};
use crate::plan::Impossible;
use crate::sort;

/// A filesystem that takes so many bytes less than its partition has is grown. Some always leave a part of their last
/// group, which would be nothing but its own tables: at most half of this.
pub const GROWTH: u64 = 16 << 20;

/// Adds what makes one filesystem right.
///
/// Errors: the partition carries something else and the document does not say `wipe_filesystem`, or it has no room for
/// this kind.
pub(super) fn plan_filesystem(
    want: &desired::Filesystem,
    field: &str,
    number: u32,
    chosen: &Chosen<'_>,
    fit: &Fit,
    steps: &mut Vec<Step>,
) -> Result<(), Impossible> {
    let (disk, have) = (chosen.id.clone(), chosen.have);
    let there = partition(have, number);
    let (slot, carries) = match (fit, there) {
        (Fit::Write(slots), _) => {
            let carries = if have.contents == Contents::Blank { Carries::Nothing } else { Carries::Remains };
            (new_slot(number, field, slots)?, Some(carries))
        }
        (Fit::Extend(change), there) if there.is_none() || change.deleted.contains(&number) => {
            let slot = new_slot(number, field, &change.added)?;
            let carries = if change.is_on_remains(&slot, have) { Carries::Remains } else { Carries::Nothing };
            (slot, Some(carries))
        }
        (Fit::Extend(change), Some(there)) => {
            let slot = change.grown.iter().find(|slot| slot.number == number).cloned();
            (slot.unwrap_or_else(|| Slot::of(there)), replaced(want, field, have, there)?)
        }
        (Fit::Same, Some(there)) => (Slot::of(there), replaced(want, field, have, there)?),
        (_, None) => return Err(no_partition(field)),
    };
    // What a change of the table takes out of use is its own step's matter.
    let there = there.filter(|_| match fit {
        Fit::Write(_) => false,
        Fit::Extend(change) => !change.deleted.contains(&number),
        Fit::Same => true,
    });
    let at = there.and_then(|there| there.contents.mounted_at());
    let out = |at: &str| take_out(disk.clone(), slot.number, at);
    if let Some(carries) = carries {
        if let Some(problem) = want.format.refuses_size(slot.size_bytes) {
            return Err(Impossible { field: format!("{field}.format"), problem });
        }
        steps.extend(at.map(out));
        let (format, label) = (want.format, want.label.clone());
        let make = Make { format, label, uuid: want.uuid, options: want.options.clone() };
        steps.push(Step::Format { disk: disk.clone(), slot: slot.clone(), carries, make });
        steps.extend(put_in(want, disk.clone(), &slot));
        return Ok(());
    }
    let found = there.and_then(|there| filesystem(&there.contents));
    match (&want.used, at) {
        (Use::Mount(mount), Some(path)) if path == mount.path => {
            let now = found.map_or(&[][..], |found| &found.mount_options);
            let own = |options: &[String]| options.iter().filter(|o| !is_flag(o)).cloned().collect::<Vec<_>>();
            if own(now) != own(&mount.options) {
                // A remount leaves a filesystem's own options as they are where it is not told otherwise.
                steps.extend([out(path)]);
                steps.extend(put_in(want, disk.clone(), &slot));
            } else if *now != *mount.options {
                let (partition, mount) = (slot.number, mount.clone());
                steps.push(Step::Remount { disk: disk.clone(), partition, mount });
            }
        }
        (Use::Swap, Some(SWAP)) | (Use::Later, None) => {}
        (_, at) => {
            steps.extend(at.map(out));
            steps.extend(put_in(want, disk.clone(), &slot));
        }
    }
    if let (Some(found), Use::Mount(mount)) = (found, &want.used) {
        steps.extend(grow(want, disk, found, slot, mount));
    }
    Ok(())
}

/// Puts a filesystem to its use.
fn put_in(want: &desired::Filesystem, disk: DiskId, slot: &Slot) -> Option<Step> {
    let slot = slot.clone();
    match &want.used {
        Use::Later => None,
        Use::Mount(mount) => Some(Step::Mount { disk, slot, format: want.format, mount: mount.clone() }),
        Use::Swap => Some(Step::SwapOn { disk, slot }),
    }
}

/// Grows what is smaller than its partition. Only where it is mounted to be written to: that is how these grow.
fn grow(
    want: &desired::Filesystem,
    disk: DiskId,
    found: &observed::Filesystem,
    slot: Slot,
    mount: &Mount,
) -> Option<Step> {
    let grows = matches!(want.format, Format::Ext4 | Format::Xfs | Format::Btrfs);
    let is_writable = !mount.options.iter().any(|option| option == "ro");
    let lacks = slot.size_bytes.saturating_sub(found.size_bytes) >= GROWTH;
    (grows && is_writable && lacks && found.size_bytes > 0).then(|| Step::Grow {
        disk,
        slot,
        format: want.format,
        path: mount.path.clone(),
        from_bytes: found.size_bytes,
    })
}

/// What a filesystem is made over; `None` where the one that is there is kept.
fn replaced(
    want: &desired::Filesystem,
    field: &str,
    disk: &Disk,
    there: &Partition,
) -> Result<Option<Carries>, Impossible> {
    let is_cut = |found: &observed::Filesystem| found.size_bytes > there.size_bytes;
    let why = match &there.contents {
        Contents::Blank => return Ok(Some(Carries::Nothing)),
        Contents::Filesystem(found) if is_same(want, found) && !is_cut(found) => return Ok(None),
        found if may_replace(want.existing) => return Ok(Some(Carries::This(found.unmounted()))),
        Contents::Filesystem(found) if is_same(want, found) => {
            format!(", which takes {} and has {}: its end is missing", size(found.size_bytes), size(there.size_bytes))
        }
        Contents::Filesystem(found) if found.kind == want.format.name() && found.label == want.label => {
            format!(" with the UUID {}", found.uuid)
        }
        _ => String::new(),
    };
    Err(Impossible {
        field: field.into(),
        problem: format!(
            "partition {} of {} carries {}{why}; say `wipe_filesystem: true` to replace it, which then needs a permit",
            there.number,
            line(disk),
            in_words(&there.contents, &[])
        ),
    })
}

fn filesystem(contents: &Contents) -> Option<&observed::Filesystem> {
    match contents {
        Contents::Filesystem(found) => Some(found),
        _ => None,
    }
}

/// Puts the steps of all disks in order: out of the tree from the leaves up, tables and filesystems, into the tree from the root down.
///
/// Errors: a path is taken by another disk's filesystem.
pub(super) fn order_mounts(steps: &mut Vec<Step>, chosen: &[Chosen<'_>], observed: &[Disk]) -> Result<(), Impossible> {
    remount_what_is_below(steps, chosen);
    for step in steps.iter() {
        let Step::Mount { disk, mount, slot, .. } = step else { continue };
        let path = mount.path.as_str();
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
        (Step::Mount { mount: a, .. }, Step::Mount { mount: b, .. }) => a.path.cmp(&b.path),
        _ => rank(a).cmp(&rank(b)),
    });
    Ok(())
}

fn rank(step: &Step) -> u8 {
    match step {
        Step::Unmount { .. } => 0,
        Step::SwapOff { .. } => 1,
        Step::Partition { .. } | Step::Extend { .. } | Step::Format { .. } => 2,
        Step::SwapOn { .. } => 3,
        Step::Mount { .. } => 4,
        Step::Remount { .. } | Step::Attach { .. } | Step::Reattach { .. } | Step::Detach { .. } => 5,
        Step::Grow { .. } => 6,
    }
}

/// A filesystem mounted at /srv hides one that is at /srv/data already, and one that leaves /srv is held by it:
/// that one is taken out and put back.
fn remount_what_is_below(steps: &mut Vec<Step>, chosen: &[Chosen<'_>]) {
    let moved: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Mount { mount: Mount { path, .. }, .. } | Step::Unmount { path, .. } => Some(format!("{path}/")),
            _ => None,
        })
        .collect();
    for Chosen { id, have, .. } in chosen {
        for there in &have.partitions {
            let found = filesystem(&there.contents);
            let below = found.filter(|found| moved.iter().any(|above| found.mounted_at.starts_with(above)));
            let Some((found, format)) = below.and_then(|found| Some((found, Format::named(&found.kind)?))) else {
                continue;
            };
            let out = take_out(id.clone(), there.number, &found.mounted_at);
            if !steps.contains(&out) {
                let slot = Slot::of(there);
                let is_of_it = |step: &Step| {
                    matches!(step, Step::Remount { disk, partition, .. }
                    if disk == id && *partition == slot.number)
                };
                // Where its options change as well, it comes back with the new ones.
                let changed = steps.iter().position(is_of_it).map(|at| steps.remove(at));
                let mount = match changed {
                    Some(Step::Remount { mount, .. }) => mount,
                    _ => Mount { path: found.mounted_at.clone(), options: found.mount_options.clone() },
                };
                steps.push(out);
                steps.push(Step::Mount { disk: id.clone(), slot, format, mount });
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
