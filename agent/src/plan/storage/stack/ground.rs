//! What is there: which device stands on which, by the names that the kernel gives them in this boot.
//!
//! Called by the planner of the stack, which decides what may be taken out and what is lost with what.

use muster_protocol::DiskId;
use muster_protocol::observed::{Array, Contents, Disk, Layers, MemberState, Opened, Volume, VolumeGroup};

use super::super::choose::Chosen;
use super::super::line;
use super::super::step::{Device, Group, Slot, Target};
use crate::sort;

/// How many layers may stand on each other; a ring of devices cannot be, and is not followed for ever.
const DEPTH: usize = 16;

/// Disks and layers as they were observed.
pub(in super::super) struct Ground<'a> {
    pub(in super::super) disks: &'a [Disk],
    pub(in super::super) layers: &'a Layers,
    /// Disks that the document means, as it calls them.
    named: Vec<(&'a str, DiskId)>,
}

/// What stands on a device.
#[derive(Debug, Clone, Copy)]
pub(super) enum Upper<'a> {
    Array(&'a Array),
    Opened(&'a Opened),
    Group(u16, &'a VolumeGroup),
}

impl<'a> Ground<'a> {
    pub(in super::super) fn new(chosen: &[Chosen<'a>], disks: &'a [Disk], layers: &'a Layers) -> Self {
        Self::of(chosen.iter().map(|disk| (&*disk.have.name, disk.id.clone())).collect(), disks, layers)
    }

    /// The same, where these disks are meant, each by its kernel name and as it is called.
    pub(in super::super) fn of(named: Vec<(&'a str, DiskId)>, disks: &'a [Disk], layers: &'a Layers) -> Self {
        Self { disks, layers, named }
    }

    /// What a disk goes by in steps.
    pub(super) fn id(&self, disk: &Disk) -> Option<DiskId> {
        let named = self.named.iter().find(|(name, _)| *name == disk.name);
        named.map(|(_, id)| id.clone()).or_else(|| disk.id())
    }

    /// Whether the document describes this disk.
    pub(super) fn is_named(&self, disk: &Disk) -> bool {
        self.named.iter().any(|(name, _)| *name == disk.name)
    }

    /// What stands directly on a device.
    pub(super) fn uppers(&self, name: &str) -> Vec<Upper<'a>> {
        let arrays = self.layers.arrays.iter().filter(|array| array.members.iter().any(|member| member.name == name));
        let opened = self.layers.opened.iter().filter(|opened| opened.on == name);
        let groups = (0..).zip(&self.layers.groups);
        let groups = groups.filter(|(_, group)| group.members.iter().any(|member| member.device == name));
        let groups = groups.map(|(i, group)| Upper::Group(i, group));
        arrays.map(Upper::Array).chain(opened.map(Upper::Opened)).chain(groups).collect()
    }

    /// The volumes of a group.
    pub(super) fn volumes(&self, group: u16) -> impl Iterator<Item = &'a Volume> {
        self.layers.volumes.iter().filter(move |volume| volume.group == group)
    }

    /// Every device that stands on one, and on what stands on that, the lowest first; without itself.
    pub(super) fn above(&self, name: &str) -> Vec<String> {
        let mut all = vec![name.to_owned()];
        let mut at = 0;
        while let Some(name) = all.get(at).cloned() {
            for upper in self.uppers(&name) {
                let devices: Vec<&String> = match upper {
                    Upper::Array(array) => vec![&array.array.name],
                    Upper::Opened(opened) => vec![&opened.device],
                    Upper::Group(i, _) => self.volumes(i).map(|volume| &volume.device).collect(),
                };
                let fresh: Vec<_> =
                    devices.into_iter().filter(|d| !d.is_empty() && !all.contains(*d)).cloned().collect();
                all.extend(fresh);
            }
            at += 1;
        }
        all.remove(0);
        all
    }

    /// The disks beneath a device, by their places in the list.
    pub(super) fn beneath(&self, name: &str) -> Vec<usize> {
        let mut found = Vec::new();
        self.collect_beneath(name, DEPTH, &mut found);
        sort::short(&mut found, Ord::cmp);
        found.dedup();
        found
    }

    /// Whether a device stands on any disk that is there.
    pub(super) fn is_there(&self, name: &str) -> bool {
        !self.beneath(name).is_empty()
    }

    fn collect_beneath(&self, name: &str, depth: usize, found: &mut Vec<usize>) {
        if depth == 0 || name.is_empty() {
            return;
        }
        let is_of =
            |disk: &Disk| disk.name == name || disk.partitions.iter().any(|p| disk.partition_name(p.number) == name);
        found.extend(self.disks.iter().position(is_of));
        let layers = self.layers;
        if let Some(array) = layers.arrays.iter().find(|array| array.array.name == name) {
            self.collect_beneath_array(array, depth, found);
        }
        if let Some(opened) = layers.opened.iter().find(|opened| opened.device == name) {
            self.collect_beneath(&opened.on, depth - 1, found);
        }
        if let Some(volume) = layers.volumes.iter().find(|volume| volume.device == name) {
            let group = layers.groups.get(usize::from(volume.group));
            let members = group.into_iter().flat_map(|group| &group.members);
            members.for_each(|member| self.collect_beneath(&member.device, depth - 1, found));
        }
    }

    fn collect_beneath_array(&self, array: &Array, depth: usize, found: &mut Vec<usize>) {
        let members = array.members.iter().filter(|member| member.state != MemberState::Faulty);
        members.for_each(|member| self.collect_beneath(&member.name, depth - 1, found));
    }

    /// All disks that have a part in what stands on these devices, and themselves.
    pub(super) fn family(&self, names: &[String]) -> Vec<usize> {
        let mut found = Vec::new();
        for name in names {
            for device in std::iter::once(name.clone()).chain(self.above(name)) {
                found.extend(self.beneath(&device));
                for upper in self.uppers(&device) {
                    match upper {
                        Upper::Array(array) => self.collect_beneath_array(array, DEPTH, &mut found),
                        Upper::Group(_, group) => {
                            group.members.iter().for_each(|m| self.collect_beneath(&m.device, DEPTH, &mut found));
                        }
                        Upper::Opened(_) => {}
                    }
                }
            }
        }
        sort::short(&mut found, Ord::cmp);
        found.dedup();
        found
    }

    /// These disks as steps name them.
    pub(super) fn ids(&self, disks: &[usize]) -> Vec<DiskId> {
        let mut ids: Vec<DiskId> = disks.iter().filter_map(|at| self.id(self.disks.get(*at)?)).collect();
        sort::short(&mut ids, Ord::cmp);
        ids.dedup();
        ids
    }

    /// A device that is there as steps name it; `None` for a whole disk.
    pub(in super::super) fn target(&self, name: &str) -> Option<Target> {
        for disk in self.disks {
            if let Some(there) = disk.partitions.iter().find(|p| disk.partition_name(p.number) == name) {
                return Some(Target::partition(&self.id(disk)?, &Slot::of(there)));
            }
        }
        let layers = self.layers;
        let (device, size_bytes) = if let Some(array) = layers.arrays.iter().find(|array| array.array.name == name) {
            (Device::Array { name: short(&array.label).to_owned(), uuid: array.uuid }, array.size_bytes)
        } else if let Some(opened) = layers.opened.iter().find(|opened| opened.device == name) {
            (Device::Luks { name: opened.name.clone() }, opened.size_bytes)
        } else {
            let volume = layers.volumes.iter().find(|volume| volume.device == name)?;
            let group = layers.groups.get(usize::from(volume.group))?.name.name.clone();
            (Device::Volume { group, name: volume.name.clone() }, volume.size_bytes)
        };
        Some(Target { device, disks: self.ids(&self.beneath(name)), size_bytes })
    }

    /// The same, where the document names every disk beneath it.
    pub(in super::super) fn target_of_named(&self, name: &str) -> Option<Target> {
        let mut disks = self.beneath(name).into_iter().filter_map(|at| self.disks.get(at));
        disks.all(|disk| self.is_named(disk)).then(|| self.target(name)).flatten()
    }

    /// A device for people; a partition is told by its disk.
    pub(in super::super) fn in_words(&self, name: &str) -> String {
        let is_of =
            |disk: &&Disk| disk.name == name || disk.partitions.iter().any(|p| disk.partition_name(p.number) == name);
        match (self.disks.iter().find(is_of), self.target(name)) {
            (Some(disk), _) => line(disk),
            (None, Some(target)) => target.in_words(),
            (None, None) => name.to_owned(),
        }
    }

    /// A group that is there as steps name it.
    pub(super) fn group(&self, group: &VolumeGroup) -> Group {
        let mut disks = Vec::new();
        group.members.iter().for_each(|member| self.collect_beneath(&member.device, DEPTH, &mut disks));
        Group { name: group.name.name.clone(), uuid: Some(group.name.uuid), disks: self.ids(&disks) }
    }

    /// Every device that can carry a filesystem, with what it carries: partitions first, then what stands on them.
    pub(in super::super) fn devices(&self) -> Vec<(String, &'a Contents)> {
        let of_disk = |disk: &'a Disk| {
            let parts = disk.partitions.iter().map(|p| (disk.partition_name(p.number), &p.contents));
            std::iter::once((disk.name.clone(), &disk.contents)).chain(parts)
        };
        let arrays = self.layers.arrays.iter().map(|a| (&a.array.name, &a.contents));
        let opened = self.layers.opened.iter().map(|o| (&o.device, &o.contents));
        let volumes = self.layers.volumes.iter().map(|v| (&v.device, &v.contents));
        let upper = arrays.chain(opened).chain(volumes).filter(|(name, _)| !name.is_empty());
        let upper = upper.filter_map(|(name, contents)| Some((name.clone(), contents.as_ref()?)));
        self.disks.iter().flat_map(of_disk).chain(upper).collect()
    }
}

/// An array's name without that of the host that made it.
pub(in super::super) fn short(label: &str) -> &str {
    label.rsplit_once(':').map_or(label, |(_, name)| name)
}
