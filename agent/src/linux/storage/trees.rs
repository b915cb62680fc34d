//! Mounting what is on no disk of its own: memory, and directories that are elsewhere in the tree.
//!
//! Called by `apply` and `wipe`. As with disks, what the agent mounts it writes down first.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

use muster_protocol::desired::{Mount as Wanted, Tree, TreeMount, is_at_or_below};
use rustix::mount::{MountFlags, UnmountFlags};

use super::mounts::in_kernels_words;
use crate::linux::storage::disks::{Disks, Mount, OWN_TMPFS, TMPFS_SOURCE};
use crate::machine::MachineError;

/// Mounts it; fine where it is mounted there already.
pub(super) fn attach(disks: &Disks, tree: &TreeMount) -> Result<(), MachineError> {
    let Wanted { path, options } = &tree.mount;
    let failed = |source: io::Error| MachineError::os(format!("mount {path}"), source);
    let usage = disks.usage()?;
    if usage.trees().contains(tree) {
        return Ok(());
    }
    make_folder(path).map_err(failed)?;
    if usage.is_taken(path) {
        return Err(failed(io::Error::other("something else is mounted there")));
    }
    let (number, from) = match &tree.what {
        Tree::Tmpfs => (OWN_TMPFS, None),
        Tree::Bind(from) => {
            make_folder(from).map_err(failed)?;
            let number = usage.under(from).ok_or_else(|| failed(io::Error::other(format!("{from} is on nothing"))))?;
            (number, Some(from.clone()))
        }
    };
    let own = Mount { number, path: path.clone(), options: options.clone(), from };
    disks.record().add(own).map_err(failed)?;
    let done = match &tree.what {
        Tree::Tmpfs => {
            let (flags, data) = in_kernels_words(options);
            rustix::mount::mount(TMPFS_SOURCE, path, "tmpfs", flags, data.as_deref())
        }
        // A bind mount begins with the options of what it shows.
        Tree::Bind(from) => rustix::mount::mount_bind(from, path).and_then(|()| {
            change(tree).inspect_err(|_| {
                let _ = rustix::mount::unmount(path, UnmountFlags::NOFOLLOW);
            })
        }),
    };
    done.map_err(|source| {
        let _ = disks.record().remove(number, path);
        failed(source.into())
    })
}

/// Changes its options where it is; fine where they are so already.
pub(super) fn reattach(disks: &Disks, tree: &TreeMount) -> Result<(), MachineError> {
    let Wanted { path, options } = &tree.mount;
    let failed = |source| MachineError::os(format!("mount {path} with other options"), source);
    let usage = disks.usage()?;
    let own = usage.own_tree(path).ok_or_else(|| failed(io::Error::other("the agent did not mount it")))?;
    change(tree).map_err(|source| failed(source.into()))?;
    disks.record().add(Mount { options: options.clone(), ..own.clone() }).map_err(failed)
}

/// Takes it out of the tree; fine where nothing is mounted there any more.
pub(super) fn detach(disks: &Disks, path: &str) -> Result<(), MachineError> {
    let failed = |source| MachineError::os(format!("unmount {path}"), source);
    let usage = disks.usage()?;
    match usage.own_tree(path) {
        Some(own) => {
            rustix::mount::unmount(path, UnmountFlags::NOFOLLOW).map_err(|source| failed(source.into()))?;
            disks.record().remove(own.number, path).map_err(failed)
        }
        None if !usage.is_taken(path) => Ok(()),
        None => Err(failed(io::Error::other("the agent did not mount it"))),
    }
}

/// Takes out of the tree what shows something of these paths or lies in them. What a tmpfs holds is lost: only for disks
/// that are wiped.
pub(super) fn detach_all(disks: &Disks, paths: &[&str]) -> Result<(), MachineError> {
    let stands_on = |path: &str| paths.iter().any(|above| is_at_or_below(path, above));
    let mut trees = disks.usage()?.trees();
    trees.retain(|tree| stands_on(&tree.mount.path) || matches!(&tree.what, Tree::Bind(from) if stands_on(from)));
    // They were mounted in this order.
    trees.iter().rev().try_for_each(|tree| detach(disks, &tree.mount.path))
}

fn change(tree: &TreeMount) -> rustix::io::Result<()> {
    let (flags, data) = in_kernels_words(&tree.mount.options);
    let flags = match tree.what {
        Tree::Tmpfs => flags,
        Tree::Bind(_) => flags | MountFlags::BIND,
    };
    rustix::mount::mount_remount(&tree.mount.path, flags, CString::as_c_str(&data.unwrap_or_default()))
}

fn make_folder(path: &str) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // The kernel would follow links and report another path than the one that is desired.
    if fs::canonicalize(path)? != Path::new(path) {
        return Err(io::Error::other(format!("{path} leads through a symbolic link; name the place itself")));
    }
    Ok(())
}
