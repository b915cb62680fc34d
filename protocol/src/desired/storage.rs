//! Disks, what stands on them, and filesystems in Butane's words, normalized; and leave to destroy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::check::stack;
use super::disks::{self, DiskSelect, Partition};
use super::format::{Format, VolumeId};
use super::image::{self, Image};
use super::limit::{self, IoLimit};
use super::mount::{Mount, Mountable, Tree, TreeMount, are_canonical};
use super::stack::{ARRAYS, LogicalVolume, Luks, OPENED, Raid, VolumeGroup};
use super::{Disk, Problems};
use crate::ids::{Digest, DiskId};

/// Disks and filesystems, Butane's `storage:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Disks to partition, at most 64.
    pub disks: Vec<Disk>,
    /// Arrays to make of partitions and of what stands on them, at most 10.
    pub raid: Vec<Raid>,
    /// Devices to encrypt, at most 64.
    pub luks: Vec<Luks>,
    /// Volume groups to make, at most 32.
    pub groups: Vec<VolumeGroup>,
    /// Filesystems to make and mount, at most 128.
    pub filesystems: Vec<Filesystem>,
    /// Mounts of what is on no disk of its own, at most 128.
    pub mounts: Vec<TreeMount>,
    /// Disks that get an image, at most 8.
    pub images: Vec<Image>,
    /// How fast programs may read and write disks, at most 64.
    pub io_limits: Vec<IoLimit>,
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

    /// How problems speak of a place: `serial:D1/2`, or the device that it is, such as `/dev/md/data`.
    pub fn place_name(&self, place: &Place) -> String {
        let none = || "nothing".to_owned();
        match place {
            Place::Partition { disk, partition } => {
                let name = self.partition(place).map_or_else(|| (partition + 1).to_string(), Partition::name);
                format!("{}/{name}", self.disk_name(usize::from(*disk)))
            }
            Place::Raid(i) => self.raid.get(usize::from(*i)).map_or_else(none, |raid| format!("{ARRAYS}{}", raid.name)),
            Place::Luks(i) => self.luks.get(usize::from(*i)).map_or_else(none, |luks| format!("{OPENED}{}", luks.name)),
            Place::Volume { group, .. } => match (self.groups.get(usize::from(*group)), self.volume(place)) {
                (Some(group), Some(volume)) => format!("/dev/{}/{}", group.name, volume.name),
                _ => none(),
            },
        }
    }

    /// The partition that a place is.
    pub fn partition(&self, place: &Place) -> Option<&Partition> {
        match place {
            Place::Partition { disk, partition } => {
                self.disks.get(usize::from(*disk))?.partitions.get(usize::from(*partition))
            }
            Place::Raid(_) | Place::Luks(_) | Place::Volume { .. } => None,
        }
    }

    /// The logical volume that a place is.
    pub fn volume(&self, place: &Place) -> Option<&LogicalVolume> {
        match place {
            Place::Volume { group, volume } => self.groups.get(usize::from(*group))?.volumes.get(usize::from(*volume)),
            Place::Partition { .. } | Place::Raid(_) | Place::Luks(_) => None,
        }
    }

    /// The path of keys of a layer in the normalized document: `storage.raid.data`.
    pub fn layer_field(&self, layer: Layer) -> String {
        let (key, i, name) = match layer {
            Layer::Raid(i) => ("raid", i, self.raid.get(usize::from(i)).map(|raid| &raid.name)),
            Layer::Luks(i) => ("luks", i, self.luks.get(usize::from(i)).map(|luks| &luks.name)),
            Layer::Group(i) => ("volume_groups", i, self.groups.get(usize::from(i)).map(|group| &group.name)),
        };
        match name.filter(|name| !name.is_empty()) {
            Some(name) => format!("storage.{key}.{name}"),
            None => format!("storage.{key}[{i}]"),
        }
    }

    /// What stands between partitions and filesystems, each behind what it stands on.
    ///
    /// Errors: one that stands on itself.
    pub fn layers(&self) -> Result<Vec<Layer>, Layer> {
        let raid = (0..).zip(&self.raid).map(|(i, raid)| (Layer::Raid(i), &raid.members[..]));
        let luks = (0..).zip(&self.luks).map(|(i, luks)| (Layer::Luks(i), std::slice::from_ref(&luks.place)));
        let groups = (0..).zip(&self.groups).map(|(i, group)| (Layer::Group(i), &group.members[..]));
        let mut left: Vec<(Layer, &[Place])> = raid.chain(luks).chain(groups).collect();
        let mut ordered = Vec::new();
        while !left.is_empty() {
            let stands_on = |other: Layer, places: &[Place]| places.iter().any(|place| place.layer() == Some(other));
            let is_free = |(_, places): &(Layer, &[Place])| !left.iter().any(|(other, _)| stands_on(*other, places));
            match left.iter().position(is_free) {
                Some(at) => ordered.push(left.remove(at).0),
                None => return Err(left[0].0),
            }
        }
        Ok(ordered)
    }
}

/// What filesystems stand on, and whatever else stands on something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// A partition that the same document describes.
    Partition {
        /// Position in [`Storage::disks`], from 0. Where that is several disks, arrays and groups have one of each.
        disk: u16,
        /// Position in that disk's partitions, from 0.
        partition: u16,
    },
    /// An array: position in [`Storage::raid`].
    Raid(u16),
    /// A LUKS device that is open: position in [`Storage::luks`].
    Luks(u16),
    /// A logical volume.
    Volume {
        /// Position in [`Storage::groups`].
        group: u16,
        /// Position in that group's volumes.
        volume: u16,
    },
}

impl Place {
    /// What has to be there before the place is.
    pub fn layer(&self) -> Option<Layer> {
        match self {
            Self::Partition { .. } => None,
            Self::Raid(i) => Some(Layer::Raid(*i)),
            Self::Luks(i) => Some(Layer::Luks(*i)),
            Self::Volume { group, .. } => Some(Layer::Group(*group)),
        }
    }
}

/// One of the things that stand between partitions and filesystems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Position in [`Storage::raid`].
    Raid(u16),
    /// Position in [`Storage::luks`].
    Luks(u16),
    /// Position in [`Storage::groups`].
    Group(u16),
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

/// What happens to a filesystem that is there, or to whatever else stands where something should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// One of the same kind, label and, where it is given, UUID is kept, anything else is refused.
    #[default]
    Keep,
    /// Butane's `wipe_filesystem: true`, and `wipe_volume: true`: replaced unless it matches already. Destroys, so it needs a permit.
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
    limit::check(storage, problems);
    stack::check(storage, problems);
    image::check(storage, problems);
    let mut uuids = BTreeSet::new();
    let mut mounts = BTreeSet::new();
    for filesystem in &storage.filesystems {
        let field = format!("storage.filesystems.{}", storage.place_name(&filesystem.place));
        let size = storage.partition(&filesystem.place).and_then(|partition| partition.size_mib);
        let size = size.map(|mib| mib.saturating_mul(1 << 20));
        if let Some(problem) = size.and_then(|size| filesystem.format.refuses_size(size)) {
            problems.add(format!("{field}.format"), problem);
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
