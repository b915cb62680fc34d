//! What to make on the partitions, and where to mount it.
//!
//! Called by `plan` only.

use muster_protocol::desired::{self, Format, Mount, Use, is_flag};
use muster_protocol::observed::{self, Contents, SWAP};

use super::stack::{Ground, Planner, State};
use super::step::{Make, Step, Target, take_out};
use super::{is_same, size};
use crate::plan::Impossible;
use crate::sort;

/// A filesystem that takes so many bytes less than its partition has is grown. Some always leave a part of their last
/// group, which would be nothing but its own tables: at most half of this.
pub const GROWTH: u64 = 16 << 20;

impl Planner<'_> {
    /// Adds what makes one filesystem right.
    ///
    /// Errors: its device carries something else and the document does not say `wipe_filesystem`, or has no room for
    /// this kind.
    pub(super) fn plan_filesystem(&mut self, want: &desired::Filesystem) -> Result<(), Impossible> {
        if self.is_waited_for(&want.place) {
            return Ok(());
        }
        let field = format!("storage.filesystems.{}", self.desired.place_name(&want.place));
        let Some(node) = self.nodes(&want.place).into_iter().next() else { return Err(no_device(&field)) };
        let on = node.target.clone();
        let found = match &node.state {
            State::There(contents) => filesystem(contents),
            State::Fresh(_) | State::Asleep => None,
        };
        // As it is now: what was cut off does not come back by growing.
        let there = node.name.as_deref().and_then(|name| self.ground.target(name));
        let has = there.map_or(on.size_bytes, |there| there.size_bytes);
        let is_cut = |found: &observed::Filesystem| found.size_bytes > has;
        let is_kept = match (&node.state, found) {
            (State::Asleep, _) => true,
            (_, Some(found)) => is_same(want, found) && !is_cut(found),
            (_, None) => false,
        };
        if !is_kept {
            if let Some(problem) = want.format.refuses_size(on.size_bytes).filter(|_| on.size_bytes > 0) {
                return Err(Impossible { field: format!("{field}.format"), problem });
            }
            let why = match found {
                Some(found) if is_same(want, found) => {
                    format!(", which takes {} and has {}: its end is missing", size(found.size_bytes), size(has))
                }
                Some(found) if found.kind == want.format.name() && found.label == want.label => {
                    format!(" with the UUID {}", found.uuid)
                }
                _ => String::new(),
            };
            let (over, also) = self.over_one(&node, want.existing, &field, &why, "wipe_filesystem")?;
            let (format, label) = (want.format, want.label.clone());
            let make = Make { format, label, uuid: want.uuid, options: want.options.clone() };
            self.steps.push(Step::Format { on: over, make, also });
            self.steps.extend(put_in(want, on));
            return Ok(());
        }
        let at = found.and_then(|found| Some(&*found.mounted_at).filter(|at| !at.is_empty()));
        let out = |at: &str| take_out(on.clone(), at);
        match (&want.used, at) {
            (Use::Mount(mount), Some(path)) if path == mount.path => {
                let now = found.map_or(&[][..], |found| &found.mount_options);
                let own = |options: &[String]| options.iter().filter(|o| !is_flag(o)).cloned().collect::<Vec<_>>();
                if own(now) != own(&mount.options) {
                    // A remount leaves a filesystem's own options as they are where it is not told otherwise.
                    self.steps.extend([out(path)]);
                    self.steps.extend(put_in(want, on.clone()));
                } else if *now != *mount.options {
                    self.steps.push(Step::Remount { on: on.clone(), mount: mount.clone() });
                }
            }
            (Use::Swap, Some(SWAP)) | (Use::Later, None) => {}
            (_, at) => {
                self.steps.extend(at.map(out));
                self.steps.extend(put_in(want, on.clone()));
            }
        }
        if let (Some(found), Use::Mount(mount)) = (found, &want.used) {
            self.steps.extend(grow(want, found, on, mount));
        }
        Ok(())
    }
}

/// Puts a filesystem to its use.
fn put_in(want: &desired::Filesystem, on: Target) -> Option<Step> {
    match &want.used {
        Use::Later => None,
        Use::Mount(mount) => Some(Step::Mount { on, format: want.format, mount: mount.clone() }),
        Use::Swap => Some(Step::SwapOn { on }),
    }
}

/// The kernel gives a Btrfs no size below this one, larger than before or not (Linux, fs/btrfs/ioctl.c, btrfs_ioctl_resize).
const LEAST_RESIZED_BTRFS: u64 = 256 << 20;

/// Grows what is smaller than its device. Only where it is mounted to be written to: that is how these grow.
fn grow(want: &desired::Filesystem, found: &observed::Filesystem, on: Target, mount: &Mount) -> Option<Step> {
    let grows = match want.format {
        Format::Ext4 | Format::Xfs => true,
        Format::Btrfs => on.size_bytes >= LEAST_RESIZED_BTRFS,
        Format::Vfat | Format::Swap => false,
    };
    let is_writable = !mount.options.iter().any(|option| option == "ro");
    let lacks = on.size_bytes.saturating_sub(found.size_bytes) >= GROWTH;
    (grows && is_writable && lacks && found.size_bytes > 0).then(|| Step::Grow {
        on,
        format: want.format,
        path: mount.path.clone(),
        from_bytes: found.size_bytes,
    })
}

fn filesystem(contents: &Contents) -> Option<&observed::Filesystem> {
    match contents {
        Contents::Filesystem(found) => Some(found),
        _ => None,
    }
}

/// Puts all steps in order: out of use from the leaves down, tables, then from the partitions up, and into the tree from
/// the root down.
///
/// Errors: a path is taken by another filesystem.
pub(super) fn order_mounts(steps: &mut Vec<Step>, ground: &Ground<'_>) -> Result<(), Impossible> {
    remount_what_is_below(steps, ground);
    for step in steps.iter() {
        let Step::Mount { on, mount, .. } = step else { continue };
        let path = mount.path.as_str();
        let freed = |p: &str| steps.iter().any(|s| matches!(s, Step::Unmount { path: freed, .. } if p == freed));
        let taken = ground.devices().into_iter().find(|(_, there)| there.mounted_at() == Some(path));
        // One that is on a whole disk is not the agent's, and nobody takes it out.
        if let Some((name, _)) = taken.filter(|(name, _)| !freed(path) || ground.target(name).is_none()) {
            return Err(Impossible {
                field: format!("storage.filesystems.{}.path", on.field()),
                problem: format!("{path} is taken by a filesystem of {}", ground.in_words(&name)),
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
        Step::Stop { .. } | Step::Close { .. } | Step::Deactivate { .. } => 2,
        Step::Image { .. } | Step::Partition { .. } | Step::Edit { .. } => 3,
        Step::Format { .. }
        | Step::MakeArray { .. }
        | Step::Assemble { .. }
        | Step::AddMember { .. }
        | Step::MakeLuks { .. }
        | Step::Open { .. }
        | Step::GrowLuks { .. }
        | Step::MakeGroup { .. }
        | Step::ExtendGroup { .. }
        | Step::GrowMember { .. }
        | Step::Activate { .. }
        | Step::MakeVolume { .. }
        | Step::GrowVolume { .. } => 4,
        Step::SwapOn { .. } => 5,
        Step::Mount { .. } => 6,
        Step::Remount { .. }
        | Step::Attach { .. }
        | Step::Reattach { .. }
        | Step::Detach { .. }
        | Step::Limit { .. }
        | Step::Unlimit { .. }
        | Step::Start { .. } => 7,
        Step::Grow { .. } => 8,
    }
}

/// A filesystem mounted at /srv hides one that is at /srv/data already, and one that leaves /srv is held by it:
/// that one is taken out and put back.
fn remount_what_is_below(steps: &mut Vec<Step>, ground: &Ground<'_>) {
    let moved: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Mount { mount: Mount { path, .. }, .. } | Step::Unmount { path, .. } => Some(format!("{path}/")),
            _ => None,
        })
        .collect();
    for (name, contents) in ground.devices() {
        let found = filesystem(contents);
        let below = found.filter(|found| moved.iter().any(|above| found.mounted_at.starts_with(above)));
        let Some((found, format)) = below.and_then(|found| Some((found, Format::named(&found.kind)?))) else {
            continue;
        };
        let Some(on) = ground.target_of_named(&name) else { continue };
        let is_out = |step: &Step| matches!(step, Step::Unmount { on: other, .. } if other.is_at(&on));
        if !steps.iter().any(is_out) {
            let is_of_it = |step: &Step| matches!(step, Step::Remount { on: other, .. } if other.is_at(&on));
            // Where its options change as well, it comes back with the new ones.
            let changed = steps.iter().position(is_of_it).map(|at| steps.remove(at));
            let mount = match changed {
                Some(Step::Remount { mount, .. }) => mount,
                _ => Mount { path: found.mounted_at.clone(), options: found.mount_options.clone() },
            };
            steps.push(take_out(on.clone(), &found.mounted_at));
            steps.push(Step::Mount { on, format, mount });
        }
    }
}

/// Cannot happen to a checked document; said all the same instead of assumed.
pub(super) fn no_device(field: &str) -> Impossible {
    Impossible { field: format!("{field}.device"), problem: "this partition is not described under disks".into() }
}
