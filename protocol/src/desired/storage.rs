//! Disks and filesystems in Butane's words, normalized, and leave to destroy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Problems;
use super::disks::{self, Disk, DiskSelect, Partition, Presence};
use super::format::{Format, VolumeId};
use super::mount::{Mount, Mountable, Tree, TreeMount, are_canonical};
use crate::ids::{Digest, DiskId};

/// Disks and filesystems, Butane's `storage:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Disks to partition, at most 64.
    pub disks: Vec<Disk>,
    /// Filesystems to make and mount, at most 128.
    pub filesystems: Vec<Filesystem>,
    /// Mounts of what is on no disk of its own, at most 128.
    pub mounts: Vec<TreeMount>,
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
    /// Volume label, empty for none; how long it may be depends on the format.
    pub label: String,
    /// Its UUID; `None` leaves the choice to the machine.
    pub uuid: Option<VolumeId>,
    /// What its mkfs is given beside that, word by word; at most 64. It says nothing of a filesystem that is kept.
    pub options: Vec<String>,
    /// What it is for.
    pub used: Use,
    /// What happens to a filesystem that is there.
    pub existing: Existing,
}

/// What a filesystem is for, once it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Use {
    /// For later: it is neither mounted nor swapped to.
    Later,
    /// It is mounted.
    Mount(Mount),
    /// It is swapped to; swap areas only.
    Swap,
}

impl Use {
    /// Where it is mounted.
    pub fn mount(&self) -> Option<&Mount> {
        match self {
            Self::Mount(mount) => Some(mount),
            Self::Later | Self::Swap => None,
        }
    }
}

/// What happens to a filesystem that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// One of the same kind, label and, where it is given, UUID is kept, anything else is refused.
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
    let mut uuids = BTreeSet::new();
    let mut mounts = BTreeSet::new();
    for filesystem in &storage.filesystems {
        let field = format!("storage.filesystems.{}", storage.place_name(&filesystem.place));
        match storage.partition(&filesystem.place) {
            None => {
                problems
                    .add(format!("{field}.device"), "no partition of this document is meant; describe it under disks");
            }
            Some(partition) => {
                let size = partition.size_mib.map(|mib| mib.saturating_mul(1 << 20));
                if let Some(problem) = size.and_then(|size| filesystem.format.refuses_size(size)) {
                    problems.add(format!("{field}.format"), problem);
                }
            }
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
        check_filesystem(&field, filesystem, problems);
        if filesystem.uuid.is_some_and(|uuid| !uuids.insert(uuid)) {
            problems.add(format!("{field}.uuid"), "two filesystems have this UUID");
        }
        if let Some(Mount { path, .. }) = filesystem.used.mount()
            && is_mount_point(path)
            && !mounts.insert(path)
        {
            problems.add(format!("{field}.path"), format!("two filesystems are mounted at {path}"));
        }
    }
    problems.at_most("storage.mounts", storage.mounts.len(), 128);
    for (i, TreeMount { what, mount: Mount { path, options } }) in storage.mounts.iter().enumerate() {
        let field = format!("storage.mounts[{i}]");
        if !is_mount_point(path) {
            problems.add(format!("{field}.where"), no_mount_point(path));
        } else if !mounts.insert(path) {
            problems.add(format!("{field}.where"), format!("two filesystems are mounted at {path}"));
        }
        if let Tree::Bind(from) = what {
            if !is_mount_point(from) {
                problems.add(format!("{field}.what"), no_mount_point(from));
            } else if is_at_or_below(from, path) {
                problems.add(format!("{field}.what"), format!("{from} would be hidden by what is mounted at {path}"));
            }
        }
        if let Err(problem) = are_canonical(what.mountable(), options) {
            problems.add(format!("{field}.options"), problem);
        }
    }
}

fn check_filesystem(field: &str, filesystem: &Filesystem, problems: &mut Problems) {
    let format = filesystem.format;
    if let Some(problem) = format.refuses_label(&filesystem.label) {
        problems.add(format!("{field}.label"), problem);
    }
    if filesystem.uuid.is_some_and(|uuid| !format.has_ids_like(uuid)) {
        problems.add(format!("{field}.uuid"), format!("{} has {}", format.name(), format.volume_id_form()));
    }
    problems.at_most(&format!("{field}.options"), filesystem.options.len(), 64);
    if let Some((at, problem)) = format.refuses_options(&filesystem.options) {
        problems.add(format!("{field}.options[{at}]"), problem);
    }
    match (format, &filesystem.used) {
        (Format::Swap, Use::Mount(_)) => {
            problems.add(format!("{field}.path"), "a swap area is mounted nowhere; leave the path out");
        }
        (_, Use::Mount(Mount { path, options })) => {
            if !is_mount_point(path) {
                problems.add(format!("{field}.path"), no_mount_point(path));
            }
            if let Err(problem) = are_canonical(Mountable::Format(format), options) {
                problems.add(format!("{field}.mount_options"), problem);
            }
        }
        (Format::Ext4 | Format::Xfs | Format::Btrfs | Format::Vfat, Use::Swap) => {
            problems.add(format!("{field}.format"), format!("{} cannot be swapped to", format.name()));
        }
        (_, Use::Later | Use::Swap) => {}
    }
}

fn no_mount_point(path: &str) -> String {
    format!("{path:?} is no mount point: an absolute path such as /srv/data, not a system directory, no '.' or '..'")
}

/// Whether a path is another one, or leads through it.
pub fn is_at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
