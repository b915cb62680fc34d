//! Physical volumes, volume groups and logical volumes, by LVM.
//!
//! LVM is told of the devices that are meant and looks at no others, and all that its configuration would say is said with
//! each command. Its own changes are whole or not there: a group's metadata is written beside the old one first. What is not
//! is a group whose physical volumes were prepared and that was not made, which their UUIDs tell ([`OURS`]), and a logical
//! volume that still shows what lay there before: it is made as `muster-unfinished-NAME`, cleared, and renamed last.
//!
//! Thin pools are not checked when they are activated (`thin_check`): the kernel checks the sum of each block of a pool's
//! metadata when it reads it, and takes a pool whose metadata is wrong out of service. A check of all of it would take minutes
//! on large pools, at each boot, and one more package in every tools image; what repairs a pool needs an operator anyway.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use muster_protocol::observed::LvmId;

use super::{UNFINISHED, clear, named};
use crate::linux::modules;
use crate::linux::storage::disks::{Disks, Node};
use crate::linux::tools::run_alone;
use crate::machine::MachineError;
use crate::random;

/// How UUIDs of physical volumes begin that Muster made: one without a group is known to be its own.
pub const OURS: &str = "muster";

/// Nothing of another machine's or system's settings counts, nobody is waited for, nothing is written but what is asked for.
const CONFIG: &str = "\
    devices { use_devicesfile=0 hints=\"none\" obtain_device_list_from_udev=0 external_device_info_source=\"none\" \
    scan_lvs=1 } \
    global { event_activation=0 use_lvmpolld=0 use_lvmlockd=0 notify_dbus=0 thin_check_executable=\"\" } \
    activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 } \
    backup { backup=0 archive=0 }";

/// A volume that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Of so many extents, one after the other where there is room.
    Linear {
        /// How many.
        extents: u64,
    },
    /// A thin pool.
    Pool {
        /// For data.
        extents: u64,
        /// For metadata; LVM takes as many again, for repairs.
        metadata_bytes: u64,
    },
    /// A volume that takes its room from a pool when it is written to.
    Thin {
        /// Which one.
        pool: &'a str,
        /// What it pretends to have.
        bytes: u64,
    },
}

/// A new UUID for a physical volume.
pub fn new_id() -> LvmId {
    const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut id: [u8; 32] = random::bytes();
    id.iter_mut().for_each(|byte| *byte = LETTERS[usize::from(*byte) % LETTERS.len()]);
    id[..OURS.len()].copy_from_slice(OURS.as_bytes());
    id.try_into().expect("letters and digits")
}

/// Makes a physical volume that belongs to no group. All that the device carries is lost.
pub fn make_physical(disks: &Disks, device: &Node, id: LvmId) -> Result<(), MachineError> {
    load("dm_mod")?;
    clear(disks, device)?;
    let path = disks.device_path(device);
    let id = id.to_string();
    let words = ["pvcreate", "--yes", "--uuid", &id, "--norestorefile"];
    lvm(disks, std::slice::from_ref(device), &words, &[path])
}

/// Makes a group of physical volumes that belong to none.
pub fn make_group(disks: &Disks, group: &str, extent_mib: Option<u32>, members: &[Node]) -> Result<(), MachineError> {
    let extent = extent_mib.map(|mib| format!("{mib}m"));
    let mut words = vec!["vgcreate", "--yes"];
    words.extend(extent.iter().flat_map(|extent| ["--physicalextentsize", extent]));
    words.push(group);
    lvm(disks, members, &words, &paths(disks, members))
}

/// Gives a group that is on `members` physical volumes that belong to none.
pub fn extend_group(disks: &Disks, group: &str, members: &[Node], more: &[Node]) -> Result<(), MachineError> {
    lvm(disks, &[members, more].concat(), &["vgextend", "--yes", group], &paths(disks, more))
}

/// Lets a group have all of a device that has grown.
pub fn grow_physical(disks: &Disks, members: &[Node], device: &Node) -> Result<(), MachineError> {
    lvm(disks, members, &["pvresize", "--yes"], &[disks.device_path(device)])
}

/// What a volume is called until it is whole.
pub fn unfinished(name: &str) -> String {
    format!("{UNFINISHED}-{name}")
}

/// Makes a logical volume, which is active then and reads as zeros where signatures lie.
pub fn make_volume(
    disks: &Disks,
    group: &str,
    members: &[Node],
    name: &str,
    kind: Kind<'_>,
) -> Result<(), MachineError> {
    begin_volume(disks, group, members, name, kind)?;
    match kind {
        // It takes its room from a pool, which zeros what it gives: it is whole at once, and has its name.
        Kind::Thin { .. } => Ok(()),
        Kind::Linear { .. } | Kind::Pool { .. } => finish_volume(disks, group, members, name, kind),
    }
}

/// Makes it as far as it bears the mark, if it is one that needs it.
pub fn begin_volume(
    disks: &Disks,
    group: &str,
    members: &[Node],
    name: &str,
    kind: Kind<'_>,
) -> Result<(), MachineError> {
    load("dm_mod")?;
    let metadata = match kind {
        Kind::Pool { metadata_bytes, .. } => format!("{metadata_bytes}b"),
        Kind::Linear { .. } | Kind::Thin { .. } => String::new(),
    };
    let (size, words): (_, &[&str]) = match kind {
        // What lay there before is cleared by us.
        Kind::Linear { extents } => {
            (extents.to_string(), &["--type", "linear", "--zero", "n", "--wipesignatures", "n", "--extents"])
        }
        Kind::Pool { extents, .. } => {
            (extents.to_string(), &["--type", "thin-pool", "--poolmetadatasize", &metadata, "--extents"])
        }
        Kind::Thin { pool, bytes } => (format!("{bytes}b"), &["--type", "thin", "--thinpool", pool, "--virtualsize"]),
    };
    let name = match kind {
        Kind::Thin { .. } => name.to_owned(),
        Kind::Linear { .. } | Kind::Pool { .. } => unfinished(name),
    };
    if !matches!(kind, Kind::Linear { .. }) {
        load("dm_thin_pool")?;
    }
    let begin = ["lvcreate", "--yes", "--name", &name];
    lvm(disks, members, &[&begin[..], words, &[&size, group]].concat(), &[])
}

/// Clears it and gives it its name.
pub fn finish_volume(
    disks: &Disks,
    group: &str,
    members: &[Node],
    name: &str,
    kind: Kind<'_>,
) -> Result<(), MachineError> {
    if matches!(kind, Kind::Linear { .. }) {
        clear(disks, &named(&device(group, &unfinished(name)))?)?;
    }
    lvm(disks, members, &["lvrename", "--yes", group, &unfinished(name), name], &[])
}

/// Makes a volume larger, up to so many extents, or for a thin one up to so many bytes. What stands on it is not touched.
pub fn extend_volume(
    disks: &Disks,
    group: &str,
    members: &[Node],
    name: &str,
    kind: Kind<'_>,
) -> Result<(), MachineError> {
    let volume = format!("{group}/{name}");
    match kind {
        Kind::Linear { extents } | Kind::Pool { extents, .. } => {
            lvm(disks, members, &["lvextend", "--yes", "--extents", &extents.to_string(), &volume], &[])
        }
        Kind::Thin { bytes, .. } => {
            lvm(disks, members, &["lvextend", "--yes", "--size", &format!("{bytes}b"), &volume], &[])
        }
    }
}

/// Takes a volume out of its group. What it carries is lost.
pub fn remove_volume(disks: &Disks, group: &str, members: &[Node], name: &str) -> Result<(), MachineError> {
    lvm(disks, members, &["lvremove", "--yes", &format!("{group}/{name}")], &[])
}

/// Makes volumes of a group devices of the kernel.
pub fn activate(disks: &Disks, group: &str, members: &[Node], volumes: &[String]) -> Result<(), MachineError> {
    load("dm_mod")?;
    // Where none is thin it may lack.
    let _ = load("dm_thin_pool");
    change(disks, group, members, volumes, "y")
}

/// Takes volumes of a group out of the kernel, where nobody uses them.
pub fn deactivate(disks: &Disks, group: &str, members: &[Node], volumes: &[String]) -> Result<(), MachineError> {
    change(disks, group, members, volumes, "n")
}

/// The same with all of them, pools too.
pub fn deactivate_all(disks: &Disks, group: &str, members: &[Node]) -> Result<(), MachineError> {
    lvm(disks, members, &["vgchange", "--yes", "--activate", "n", group], &[])
}

fn change(disks: &Disks, group: &str, members: &[Node], volumes: &[String], to: &str) -> Result<(), MachineError> {
    let volumes: Vec<String> = volumes.iter().map(|volume| format!("{group}/{volume}")).collect();
    let begin = ["lvchange", "--yes", "--activate", to];
    let words: Vec<&str> = begin.into_iter().chain(volumes.iter().map(String::as_str)).collect();
    lvm(disks, members, &words, &[])
}

/// The device of a volume.
pub fn device(group: &str, name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/{group}/{name}"))
}

fn load(module: &str) -> Result<(), MachineError> {
    modules::load(module)
}

fn paths(disks: &Disks, nodes: &[Node]) -> Vec<PathBuf> {
    nodes.iter().map(|node| disks.device_path(node)).collect()
}

/// Runs a command on a group that lies on these devices.
fn lvm(disks: &Disks, devices: &[Node], words: &[&str], paths: &[PathBuf]) -> Result<(), MachineError> {
    let all: Vec<_> = devices.iter().map(|node| disks.device_path(node)).collect();
    let all: Vec<_> = all
        .iter()
        .map(|path| path.to_str())
        .collect::<Option<_>>()
        .ok_or_else(|| MachineError::os("name devices to LVM", io::Error::other("a name is no UTF-8")))?;
    let devices = all.join(",");
    let common = ["--config", CONFIG, "--devices", &devices];
    let words = words.iter().take(1).chain(&common).chain(words.iter().skip(1)).map(OsStr::new);
    run_alone("lvm", &words.chain(paths.iter().map(|path| path.as_os_str())).collect::<Vec<_>>())
}
