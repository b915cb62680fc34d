//! Disks and filesystems in Butane's words, normalized, and leave to destroy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Problems;
use crate::ids::{Digest, DiskId};

/// Disks and filesystems, Butane's `storage:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Disks to partition, at most 64.
    pub disks: Vec<Disk>,
    /// Filesystems to make and mount, at most 128.
    pub filesystems: Vec<Filesystem>,
}

/// One disk to partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which one, and no other.
    pub disk: DiskId,
    /// Butane's `wipe_table`.
    pub table: Table,
    /// In the order of their numbers, at most 128.
    pub partitions: Vec<Partition>,
}

/// What happens to a partition table that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// A matching GPT is kept, a blank disk gets one, anything else is refused.
    #[default]
    Keep,
    /// Butane's `wipe_table: true`: replaced unless it matches already. Destroys, so it needs a permit.
    Replace,
}

/// One GPT partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// 1 to 128.
    pub number: u32,
    /// GPT name, at most 36 UTF-16 units, no `/`.
    pub label: String,
    /// MiB; `None` takes what is left, for the last partition only.
    pub size_mib: Option<u64>,
    /// Type GUID in the byte order in which it is printed; Linux filesystem data where the document is silent.
    pub type_guid: [u8; 16],
}

/// One filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// The disk that holds it.
    pub disk: DiskId,
    /// The partition that holds it, one of that disk's in the same document.
    pub partition: u32,
    /// What it is.
    pub format: Format,
    /// Volume label, empty for none; at most 16 bytes.
    pub label: String,
    /// Absolute path to mount it at; `None` leaves it unmounted.
    pub mount: Option<String>,
    /// What happens to a filesystem that is there.
    pub existing: Existing,
}

/// Kinds of filesystems that the agent can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// ext4.
    Ext4,
}

/// What happens to a filesystem that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// One of the same kind and label is kept, anything else is refused.
    #[default]
    Keep,
    /// Butane's `wipe_filesystem: true`: replaced unless it matches already. Destroys, so it needs a permit.
    Replace,
}

/// Leave to destroy: what one plan does to these disks, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// [`crate::to_agent::Plan::digest`] of the plan that was shown.
    pub plan: Digest,
    /// The disks that may lose what they carry.
    pub disks: Vec<DiskId>,
}

/// Linux filesystem data (UEFI discoverable partitions list).
pub const LINUX_FILESYSTEM: [u8; 16] =
    [0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

pub(super) fn check(storage: &Storage, problems: &mut Problems) {
    problems.at_most("storage.disks", storage.disks.len(), 64);
    problems.at_most("storage.filesystems", storage.filesystems.len(), 128);
    let mut disks = BTreeSet::new();
    for disk in &storage.disks {
        let field = format!("storage.disks.{}", disk.disk);
        if !disks.insert(&disk.disk) {
            problems.add(&field, "this disk is described twice");
        }
        check_partitions(&field, &disk.partitions, problems);
    }
    let mut held = BTreeSet::new();
    let mut mounts = BTreeSet::new();
    for filesystem in &storage.filesystems {
        let field = format!("storage.filesystems.{}/{}", filesystem.disk, filesystem.partition);
        let partition_there = storage
            .disks
            .iter()
            .any(|d| d.disk == filesystem.disk && d.partitions.iter().any(|p| p.number == filesystem.partition));
        if !partition_there {
            problems.add(format!("{field}.device"), "no partition of this document is meant; describe it under disks");
        }
        if !held.insert((&filesystem.disk, filesystem.partition)) {
            problems.add(&field, "this partition holds two filesystems");
        }
        if filesystem.label.len() > 16 || filesystem.label.chars().any(char::is_control) {
            problems.add(format!("{field}.label"), "an ext4 label has at most 16 bytes and no control characters");
        }
        if let Some(path) = &filesystem.mount {
            if !is_mount_point(path) {
                problems.add(
                    format!("{field}.path"),
                    format!("{path:?} is no mount point: an absolute path such as /srv/data, not a system directory, no '.' or '..'"),
                );
            } else if !mounts.insert(path) {
                problems.add(format!("{field}.path"), format!("two filesystems are mounted at {path}"));
            }
        }
    }
}

fn check_partitions(field: &str, partitions: &[Partition], problems: &mut Problems) {
    problems.at_most(&format!("{field}.partitions"), partitions.len(), 128);
    let mut numbers = BTreeSet::new();
    let mut labels = BTreeSet::new();
    for (i, partition) in partitions.iter().enumerate() {
        let field = format!("{field}.partitions.{}", partition.number);
        if !(1..=128).contains(&partition.number) {
            problems.add(format!("{field}.number"), "a partition's number is 1 to 128");
        } else if !numbers.insert(partition.number) {
            problems.add(format!("{field}.number"), "this number is used twice");
        }
        if partition.label.encode_utf16().count() > 36 || partition.label.contains(|c: char| c == '/' || c.is_control())
        {
            let problem = "a GPT label has at most 36 characters, no '/' and no control characters";
            problems.add(format!("{field}.label"), problem);
        } else if !partition.label.is_empty() && !labels.insert(&partition.label) {
            problems.add(format!("{field}.label"), "this label is used twice");
        }
        match partition.size_mib {
            Some(0) => problems.add(format!("{field}.size_mib"), "leave the key out to take what is left"),
            Some(size) if size > 1 << 40 => problems.add(format!("{field}.size_mib"), "no disk is that large"),
            None if i + 1 != partitions.len() => {
                problems.add(format!("{field}.size_mib"), "only the last partition may take what is left");
            }
            _ => {}
        }
    }
}

fn is_mount_point(path: &str) -> bool {
    const TAKEN: [&str; 12] =
        ["/bin", "/dev", "/etc", "/init", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr"];
    let parts_fine = path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    let taken = TAKEN.iter().any(|dir| path == *dir || path.starts_with(&format!("{dir}/")));
    path.starts_with('/')
        && path.len() > 1
        && path.len() <= 255
        && parts_fine
        && !taken
        && !path.contains(char::is_control)
}
