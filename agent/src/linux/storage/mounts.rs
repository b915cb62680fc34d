//! Into the tree and out of it, and swapping.
//!
//! Called by `apply` and `wipe`. What the agent mounts it writes down first; what it did not write down it never unmounts.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use muster_protocol::desired::{self, Format, is_flag};
use muster_protocol::observed::{Contents, SWAP};
use rustix::mount::{MountFlags, UnmountFlags};

use super::find::{Found, differs, find};
use crate::linux::modules;
use crate::linux::storage::disks::{Disks, Mount, Node};
use crate::machine::MachineError;
use crate::plan::storage::{Device, Target};

/// Mounts a filesystem; fine where it is mounted there already.
pub(super) fn mount(disks: &Disks, on: &Target, format: Format, wanted: &desired::Mount) -> Result<(), MachineError> {
    let path = wanted.path.as_str();
    let Found { node, contents, .. } = find(disks, on)?;
    let kind = format.name();
    match &contents {
        Contents::Filesystem(fs) if fs.mounted_at == path && fs.mount_options == wanted.options => return Ok(()),
        Contents::Filesystem(fs) if fs.kind == kind && fs.mounted_at.is_empty() => {}
        other => return Err(differs(on, other)),
    }
    let failed = |source: io::Error| MachineError::os(format!("mount {} at {path}", on.in_words()), source);
    modules::load(kind)?;
    if format == Format::Vfat {
        // Its names' character sets. Which ones it asks for is the kernel's setting; one that lacks it will name.
        for set in ["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"] {
            let _ = modules::load(set);
        }
    }
    fs::create_dir_all(path).map_err(failed)?;
    // The kernel would follow links and report another path than the one that is desired.
    if fs::canonicalize(path).map_err(failed)? != Path::new(path) {
        return Err(failed(io::Error::other("the path leads through a symbolic link; name the place itself")));
    }
    if disks.usage()?.is_taken(path) {
        return Err(failed(io::Error::other("something else is mounted there")));
    }
    let own = Mount { number: node.number, path: path.into(), options: wanted.options.clone(), from: None };
    disks.record().add(own).map_err(failed)?;
    let (flags, data) = in_kernels_words(&wanted.options);
    rustix::mount::mount(disks.device_path(&node), path, kind, flags, data.as_deref()).map_err(|source| {
        let _ = disks.record().remove(node.number, path);
        failed(source.into())
    })
}

/// Changes what every filesystem has of what the agent mounted; fine where it is so already.
pub(super) fn remount(disks: &Disks, on: &Target, wanted: &desired::Mount) -> Result<(), MachineError> {
    let path = wanted.path.as_str();
    let failed = |source| MachineError::os(format!("mount {path} with other options"), source);
    let node = node(disks, on)?;
    if disks.usage()?.own_mount(node.number) != Some(path) {
        return Err(failed(io::Error::other("the agent did not mount it")));
    }
    let (flags, data) = in_kernels_words(&wanted.options);
    rustix::mount::mount_remount(path, flags, data.as_deref().unwrap_or_default())
        .map_err(|source| failed(source.into()))?;
    let own = Mount { number: node.number, path: path.into(), options: wanted.options.clone(), from: None };
    disks.record().add(own).map_err(failed)
}

/// Takes out of use what the agent mounted or swapped to; fine where it is in no use any more.
pub(super) fn take_out(disks: &Disks, on: &Target, at: &str) -> Result<(), MachineError> {
    let action = if at == SWAP { format!("stop swapping to {}", on.in_words()) } else { format!("unmount {at}") };
    let failed = |source| MachineError::os(action.as_str(), source);
    let node = node(disks, on)?;
    let usage = disks.usage()?;
    match usage.own_mount(node.number) {
        Some(SWAP) if at == SWAP => swap_off(&disks.device_path(&node)).map_err(failed)?,
        Some(path) if at == path => {
            rustix::mount::unmount(path, UnmountFlags::NOFOLLOW).map_err(|source| failed(source.into()))?;
        }
        _ if at == SWAP && !usage.is_swap(node.number) => {}
        _ if at != SWAP && !usage.is_taken(at) => {}
        _ => return Err(failed(io::Error::other("it is not the agent's"))),
    }
    disks.record().remove(node.number, at).map_err(failed)
}

/// Swaps to a swap area; fine where that is so already.
pub(super) fn swap(disks: &Disks, on: &Target) -> Result<(), MachineError> {
    let failed = |source| MachineError::os(format!("swap to {}", on.in_words()), source);
    let Found { node, contents, .. } = find(disks, on)?;
    match &contents {
        Contents::Filesystem(fs) if fs.mounted_at == SWAP => return Ok(()),
        Contents::Filesystem(fs) if fs.kind == Format::Swap.name() => {}
        other => return Err(differs(on, other)),
    }
    disks
        .record()
        .add(Mount { number: node.number, path: SWAP.into(), options: Vec::new(), from: None })
        .map_err(failed)?;
    swap_on(&disks.device_path(&node)).map_err(|source| {
        let _ = disks.record().remove(node.number, SWAP);
        failed(source)
    })
}

/// The device, whatever it carries. Of a partition only its number counts: it may have grown since.
fn node(disks: &Disks, on: &Target) -> Result<Node, MachineError> {
    let Device::Partition { disk: id, slot } = &on.device else { return Ok(find(disks, on)?.node) };
    let number = slot.number;
    let disk = disks.find(id)?;
    let node = disks.node(&disk.name).ok_or_else(|| MachineError::Missing(id.to_string()))?;
    let partition = disks.partition_nodes(&node).into_iter().find(|(n, _)| *n == number);
    partition.map(|(_, node)| node).ok_or_else(|| MachineError::Missing(format!("partition {number} of {id}")))
}

/// Flags, and what is left for the filesystem itself. All are said: what is not would stay as it is in a remount.
pub(super) fn in_kernels_words(options: &[String]) -> (MountFlags, Option<CString>) {
    let mut flags = MountFlags::empty();
    for option in options {
        flags |= match option.as_str() {
            "ro" => MountFlags::RDONLY,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "noatime" => MountFlags::NOATIME,
            "strictatime" => MountFlags::STRICTATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "sync" => MountFlags::SYNCHRONOUS,
            "lazytime" => MountFlags::LAZYTIME,
            _ => MountFlags::empty(),
        };
    }
    if !flags.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME) {
        flags |= MountFlags::RELATIME;
    }
    let own: Vec<&str> = options.iter().map(String::as_str).filter(|option| !is_flag(option)).collect();
    (flags, CString::new(own.join(",")).ok().filter(|data| !data.is_empty()))
}

#[allow(unsafe_code)]
fn swap_on(device: &Path) -> io::Result<()> {
    let path = CString::new(device.as_os_str().as_bytes())?;
    // SAFETY: the path is closed by a zero and outlives the call, which touches nothing else of this process.
    match unsafe { libc::swapon(path.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn swap_off(device: &Path) -> io::Result<()> {
    let path = CString::new(device.as_os_str().as_bytes())?;
    // SAFETY: as above.
    match unsafe { libc::swapoff(path.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
