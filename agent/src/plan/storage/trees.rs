//! Mounts of what is on no disk of its own: memory, and directories that are elsewhere in the tree.
//!
//! Called by `plan_all` with the steps for the disks, which these are put among: a directory may be on a disk that is
//! about to be mounted, and a disk may be mounted in memory.
//! What a tmpfs holds is lost when it is unmounted, so none is: whatever asks for that is refused.

use muster_protocol::desired::{Mount, Storage, Tree, TreeMount, is_at_or_below, is_flag};
use muster_protocol::observed::Observed;

use super::Step;
use super::stack::Ground;
use crate::plan::Impossible;

/// What a mounted tmpfs takes of its own options.
const CHANGEABLE: [&str; 3] = ["size", "nr_blocks", "nr_inodes"];

/// Adds what makes the other mounts right, and puts all in an order in which each finds what it stands on.
///
/// Errors: a tmpfs would have to be unmounted; something would be hidden; mounts need each other.
pub(super) fn with_trees(
    desired: &Storage,
    Observed { disks, layers, mounts: observed, .. }: &Observed,
    steps: Vec<Step>,
) -> Result<Vec<Step>, Impossible> {
    if desired.mounts.is_empty() && observed.is_empty() {
        return Ok(steps);
    }
    let devices = Ground::new(&[], disks, layers).devices();
    let mounted: Vec<&str> = devices.iter().filter_map(|(_, contents)| contents.mounted_at()).collect();
    let at = |all: &[TreeMount], path: &str| all.iter().position(|tree| tree.mount.path == path);
    let mut out: Vec<&TreeMount> = Vec::new();
    let mut again: Vec<&TreeMount> = Vec::new();
    for have in observed {
        let Some(i) = at(&desired.mounts, &have.mount.path) else { continue };
        let want = &desired.mounts[i];
        match (&want.what, &have.what) {
            _ if want == have => {}
            (Tree::Tmpfs, Tree::Tmpfs) if lasting(want) == lasting(have) => again.push(want),
            (_, Tree::Tmpfs) => return Err(lost(desired, have)),
            (Tree::Bind(from), Tree::Bind(now)) if from == now => again.push(want),
            (_, Tree::Bind(_)) => out.push(have),
        }
    }
    let fresh = || desired.mounts.iter().filter(|want| at(observed, &want.mount.path).is_none());
    hides_nothing(desired, &mounted, fresh(), &steps)?;
    // What is moved takes along what lies on it, and what is bound from it.
    loop {
        let mut moved = moved_paths(&steps).chain(fresh().chain(out.iter().copied()).map(|tree| &*tree.mount.path));
        let moved = moved.by_ref().collect::<Vec<_>>();
        let stands_on = |have: &TreeMount| moved.iter().any(|path| needs(have, path));
        let Some(next) = observed.iter().find(|have| !out.contains(have) && stands_on(have)) else { break };
        if next.what == Tree::Tmpfs {
            return Err(lost(desired, next));
        }
        again.retain(|tree| tree.mount.path != next.mount.path);
        out.push(next);
    }
    let back = |want: &&TreeMount| out.iter().any(|tree| tree.mount.path == want.mount.path);
    let attach = fresh().chain(desired.mounts.iter().filter(back)).cloned().map(|tree| Step::Attach { tree });
    let detach = out.iter().map(|tree| Step::Detach { tree: (*tree).clone() }).collect::<Vec<_>>();

    let (mut outs, mut early, mut ins, mut late) = (detach, Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Unmount { .. } => outs.push(step),
            Step::Mount { .. } => ins.push(step),
            Step::Remount { .. } | Step::Grow { .. } => late.push(step),
            _ => early.push(step),
        }
    }
    ins.extend(attach);
    late.splice(0..0, again.into_iter().map(|tree| Step::Reattach { tree: tree.clone() }));
    outs.reverse();
    let mut all = in_order(outs)?;
    all.reverse();
    all.extend(early);
    all.extend(in_order(ins)?);
    all.extend(late);
    Ok(all)
}

/// Puts steps that take things out of use in order, with what takes out of the tree what lies in them or shows something of
/// them. What a tmpfs holds is lost: only for disks that are wiped.
///
/// Errors: mounts need each other.
pub(super) fn taken_out_with(observed: &[TreeMount], steps: Vec<Step>) -> Result<Vec<Step>, Impossible> {
    let (mut outs, rest): (Vec<Step>, _) = steps.into_iter().partition(|step| matches!(step, Step::Unmount { .. }));
    loop {
        let lies_in = |have: &&TreeMount| {
            let is_out = |step: &Step| matches!(step, Step::Detach { tree } if tree == *have);
            let moves = |step: &Step| match step {
                Step::Unmount { path, .. } => needs(have, path),
                Step::Detach { tree } => needs(have, &tree.mount.path),
                _ => false,
            };
            !outs.iter().any(is_out) && outs.iter().any(moves)
        };
        let Some(tree) = observed.iter().find(lies_in) else { break };
        outs.push(Step::Detach { tree: tree.clone() });
    }
    let mut all = in_order(outs)?;
    all.reverse();
    all.extend(rest);
    Ok(all)
}

/// Changes `mounts` as the step would, on values.
pub fn apply_to_trees(step: &Step, mounts: &mut Vec<TreeMount>) {
    let (Step::Attach { tree } | Step::Detach { tree } | Step::Reattach { tree }) = step else { return };
    mounts.retain(|other| other.mount.path != tree.mount.path);
    if !matches!(step, Step::Detach { .. }) {
        mounts.push(tree.clone());
    }
}

/// A tmpfs's options that are as they are for as long as it is there.
fn lasting(tree: &TreeMount) -> Vec<&str> {
    let changes =
        |option: &str| is_flag(option) || option.split('=').next().is_some_and(|key| CHANGEABLE.contains(&key));
    tree.mount.options.iter().map(String::as_str).filter(|option| !changes(option)).collect()
}

fn moved_paths(steps: &[Step]) -> impl Iterator<Item = &str> {
    steps.iter().filter_map(|step| match step {
        Step::Unmount { path, .. } | Step::Mount { mount: Mount { path, .. }, .. } => Some(&**path),
        _ => None,
    })
}

/// Whether a mount lies at or in `path`, or shows something of it.
fn needs(tree: &TreeMount, path: &str) -> bool {
    let shows = matches!(&tree.what, Tree::Bind(from) if is_at_or_below(from, path));
    shows || is_at_or_below(&tree.mount.path, path)
}

/// Errors: a filesystem that is mounted and stays so lies where something new is mounted.
fn hides_nothing<'a>(
    desired: &Storage,
    mounted: &[&str],
    mut fresh: impl Iterator<Item = &'a TreeMount>,
    steps: &[Step],
) -> Result<(), Impossible> {
    let freed =
        |path: &str| steps.iter().any(|step| matches!(step, Step::Unmount { path: freed, .. } if freed == path));
    let staying: Vec<&str> = mounted.iter().copied().filter(|path| !freed(path)).collect();
    let hides = |tree: &&TreeMount| staying.iter().any(|path| is_at_or_below(path, &tree.mount.path));
    match fresh.find(hides) {
        None => Ok(()),
        Some(tree) => {
            let problem = format!("{} would hide a filesystem that is mounted there or below it", tree.mount.path);
            Err(impossible(desired, tree, problem))
        }
    }
}

fn lost(desired: &Storage, tree: &TreeMount) -> Impossible {
    let path = &tree.mount.path;
    let problem = format!("what is in the tmpfs at {path} would be lost; leave it as it is until the next boot");
    impossible(desired, tree, problem)
}

fn impossible(desired: &Storage, tree: &TreeMount, problem: String) -> Impossible {
    let i = desired.mounts.iter().position(|want| want.mount.path == tree.mount.path);
    let field = i.map_or_else(|| "storage.mounts".to_owned(), |i| format!("storage.mounts[{i}].where"));
    Impossible { field, problem }
}

/// Mounts, each behind those that it stands on; where that is the same, as they come.
fn in_order(mut steps: Vec<Step>) -> Result<Vec<Step>, Impossible> {
    let path = |step: &Step| match step {
        Step::Mount { mount, .. } => mount.path.clone(),
        Step::Unmount { path, .. } => path.clone(),
        Step::Attach { tree } | Step::Detach { tree } => tree.mount.path.clone(),
        _ => String::new(),
    };
    let stands_on = |step: &Step, other: &Step| {
        let other = path(other);
        match step {
            Step::Attach { tree } | Step::Detach { tree } => needs(tree, &other),
            step => is_at_or_below(&path(step), &other),
        }
    };
    let mut ordered = Vec::new();
    while !steps.is_empty() {
        let is_free = |step: &Step| !steps.iter().any(|other| !std::ptr::eq(step, other) && stands_on(step, other));
        let Some(next) = steps.iter().position(is_free) else {
            let names: Vec<String> = steps.iter().map(path).collect();
            let problem = format!("these are mounted in each other, so none can be the first: {}", names.join(", "));
            return Err(Impossible { field: "storage.mounts".into(), problem });
        };
        ordered.push(steps.remove(next));
    }
    Ok(ordered)
}
