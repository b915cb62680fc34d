//! Disks and filesystems in Butane's words, normalized, and leave to destroy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Problems;
use super::disks::{self, Disk, DiskSelect, Partition, Presence};
use crate::ids::{Digest, DiskId};

/// Disks and filesystems, Butane's `storage:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Disks to partition, at most 64.
    pub disks: Vec<Disk>,
    /// Filesystems to make and mount, at most 128.
    pub filesystems: Vec<Filesystem>,
}

impl Storage {
    /// How problems speak of a disk: by its name where the document names it, else by its place in the list.
    pub fn disk_name(&self, disk: usize) -> String {
        match self.disks.get(disk).map(|disk| &disk.select) {
            Some(DiskSelect::Id(id)) => id.to_string(),
            Some(DiskSelect::Path(path)) => format!("path:{path}"),
            Some(DiskSelect::Rule(_)) | None => format!("disks[{disk}]"),
        }
    }

    /// The path of keys of a disk in the normalized document: `storage.disks.serial:D1`, or `storage.disks[1]`.
    pub fn disk_field(&self, disk: usize) -> String {
        match self.disks.get(disk).map(|disk| &disk.select) {
            Some(DiskSelect::Id(_) | DiskSelect::Path(_)) => format!("storage.disks.{}", self.disk_name(disk)),
            Some(DiskSelect::Rule(_)) | None => format!("storage.disks[{disk}]"),
        }
    }

    /// How problems speak of a place: `serial:D1/2`.
    pub fn place_name(&self, place: &Place) -> String {
        match place {
            Place::Partition { disk, partition } => {
                let name = self.partition(place).map_or_else(|| (partition + 1).to_string(), Partition::name);
                format!("{}/{name}", self.disk_name(usize::from(*disk)))
            }
        }
    }

    /// The partition that a place is.
    pub fn partition(&self, place: &Place) -> Option<&Partition> {
        match place {
            Place::Partition { disk, partition } => {
                self.disks.get(usize::from(*disk))?.partitions.get(usize::from(*partition))
            }
        }
    }
}

/// What filesystems stand on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// A partition that the same document describes.
    Partition {
        /// Position in [`Storage::disks`], from 0. Of a disk that is one: no filesystem stands on several.
        disk: u16,
        /// Position in that disk's partitions, from 0.
        partition: u16,
    },
}

/// One filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// What holds it.
    pub place: Place,
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

pub(super) fn check(storage: &Storage, problems: &mut Problems) {
    problems.at_most("storage.disks", storage.disks.len(), 64);
    problems.at_most("storage.filesystems", storage.filesystems.len(), 128);
    disks::check(storage, problems);
    let mut held = BTreeSet::new();
    let mut mounts = BTreeSet::new();
    for filesystem in &storage.filesystems {
        let field = format!("storage.filesystems.{}", storage.place_name(&filesystem.place));
        if storage.partition(&filesystem.place).is_none() {
            problems.add(format!("{field}.device"), "no partition of this document is meant; describe it under disks");
        }
        let Place::Partition { disk, .. } = filesystem.place;
        if let Some(count) = storage.disks.get(usize::from(disk)).map(Disk::count).filter(|count| *count != 1) {
            let problem = format!("{count} disks have this partition, and a filesystem stands on one; match one disk");
            problems.add(format!("{field}.device"), problem);
        }
        if storage.partition(&filesystem.place).is_some_and(|partition| partition.presence == Presence::Absent) {
            problems.add(format!("{field}.device"), "this partition should not be there");
        }
        if !held.insert(&filesystem.place) {
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
