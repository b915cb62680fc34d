//! What stands on the disks: arrays, volume groups with their volumes, opened LUKS devices, and what each carries.
//!
//! Called by `Disks` once it has looked at the disks themselves. What runs is told by sysfs, what it is made of by the
//! superblocks, labels and headers that were found. Reads only; starts nothing, and asks no device that would not answer.

use std::path::Path;

use muster_protocol::bounded::{ARRAYS, GROUP_MEMBERS, GROUPS, OPENED, VOLUMES};
use muster_protocol::inventory::ArrayState;
use muster_protocol::observed::{
    Array, ArrayMember, Contents, Disk, GroupMember, GroupName, Layers, LvmId, MemberState, Opened, RaidMember, Role,
    Volume, VolumeGroup,
};

use super::dm::Mapped;
use super::held::{Node, Usage};
use super::{Disks, Room, Source, md};
use crate::linux::storage::signatures::lvm;
use crate::linux::sysfs;
use crate::sort;

/// How many layers may stand on each other.
const DEPTH: usize = 8;

/// What was found on the way that means more than one disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    groups: Vec<lvm::Group>,
    /// Of use to whoever looks next.
    pub(super) room: Room,
}

impl Found {
    /// Keeps a copy of a group's metadata, if it is the newest.
    pub(super) fn keep(&mut self, group: lvm::Group) {
        match self.groups.iter().position(|known| known.uuid == group.uuid) {
            Some(at) if self.groups[at].seqno >= group.seqno => {}
            Some(at) => self.groups[at] = group,
            None if self.groups.len() < GROUPS => self.groups.push(group),
            None => {}
        }
    }
}

/// A device, by its kernel name, and what it carries.
type Place = (String, Contents);

impl Disks {
    /// What stands on `disks`, which were just observed.
    pub(super) fn layers(&self, disks: &[Disk], found: &mut Found, usage: &Usage) -> Layers {
        let mut places = places(disks);
        let (mut arrays, mut opened, mut volumes) = (Vec::new(), Vec::new(), Vec::new());
        let running = md::with_members(&self.root).into_iter().filter(|(array, _)| self.knows(&array.name));
        for (running, members) in running {
            let Some(node) = self.node(&running.name) else { continue };
            let is_started = !matches!(running.state, ArrayState::Inactive | ArrayState::Stopped);
            let contents = is_started.then(|| self.carried(&node, found, usage)).flatten();
            places.extend(contents.clone().map(|contents| (node.name.clone(), contents)));
            let size_bytes = if is_started { size(&node) } else { 0 };
            let sync = md::sync(&node.path);
            arrays.push(Array {
                array: running,
                members,
                uuid: None,
                label: String::new(),
                size_bytes,
                sync,
                contents,
            });
        }
        for node in self.mapped() {
            match Mapped::at(&node.path) {
                Some(Mapped::Volume { uuids, .. }) => volumes.push((uuids, node)),
                Some(Mapped::Luks { name, uuid }) => {
                    let contents = self.carried(&node, found, usage);
                    places.extend(contents.clone().map(|contents| (node.name.clone(), contents)));
                    let on = sysfs::names(node.path.join("slaves")).into_iter().next().unwrap_or_default();
                    let size_bytes = size(&node);
                    opened.push(Opened { name, device: node.name, uuid, on, size_bytes, contents });
                }
                // A multipath device, for one, carries what its paths do.
                Some(Mapped::Unknown { .. }) => {
                    places.extend(self.carried(&node, found, usage).map(|contents| (node.name, contents)));
                }
                Some(Mapped::Part { .. }) | None => {}
            }
        }
        name_arrays(&mut arrays, &places);
        arrays.truncate(ARRAYS);
        sort::short(&mut opened, |a, b| a.name.cmp(&b.name));
        opened.truncate(OPENED);
        let (groups, volumes) = self.groups(&places, &volumes, found, usage);
        Layers { arrays, groups, volumes, opened }
    }

    fn groups(
        &self,
        places: &[Place],
        active: &[((LvmId, LvmId), Node)],
        found: &mut Found,
        usage: &Usage,
    ) -> (Vec<VolumeGroup>, Vec<Volume>) {
        let mut known = std::mem::take(&mut found.groups);
        sort::short(&mut known, |a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
        let (mut groups, mut all) = (Vec::new(), Vec::new());
        // Groups inside of volumes are not ours.
        let mut inside = Found { room: std::mem::take(&mut found.room), ..Found::default() };
        for (group, index) in known.into_iter().zip(0..) {
            let lvm::Group { name, uuid, seqno, extent_bytes, members, mut volumes } = group;
            volumes.truncate(VOLUMES - all.len());
            sort::short(&mut volumes, |a, b| a.name.cmp(&b.name));
            for volume in volumes {
                let node = active.iter().find(|(uuids, _)| *uuids == (uuid, volume.uuid)).map(|(_, node)| node);
                // A pool is not for reading.
                let readable = node.filter(|_| volume.kind != "thin-pool");
                let contents = readable.and_then(|node| self.carried(node, &mut inside, usage));
                let device = node.map(|node| node.name.clone()).unwrap_or_default();
                let lvm::Volume { name, uuid, size_bytes, kind, pool, origin } = volume;
                all.push(Volume { group: index, name, uuid, size_bytes, kind, pool, origin, device, contents });
            }
            let (extents, free_extents) = members.iter().fold((0_u64, 0_u64), |(all, free), member| {
                let left = member.extents.saturating_sub(member.used);
                (all.saturating_add(member.extents), free.saturating_add(left))
            });
            let members = members.iter().take(GROUP_MEMBERS).map(|member| group_member(member, places)).collect();
            let name = GroupName { name, uuid };
            groups.push(VolumeGroup { name, seqno, extent_bytes, extents, free_extents, members });
        }
        (groups, all)
    }

    /// What a device carries; `None` where it cannot be read, or would not answer.
    fn carried(&self, node: &Node, found: &mut Found, usage: &Usage) -> Option<Contents> {
        let is_suspended = sysfs::number::<u8>(node.path.join("dm/suspended")) == Some(1);
        let size = size(node);
        if is_suspended || size == 0 {
            return None;
        }
        self.look_at_device(node, size, usage, found).ok()
    }

    /// Devices of the device mapper that stand on disks that are looked at.
    fn mapped(&self) -> Vec<Node> {
        let names = sysfs::names(self.root.join("sys/block"));
        let mapped = names.iter().filter(|name| name.starts_with("dm-") && self.knows(name));
        mapped.filter_map(|name| self.node(name)).collect()
    }

    /// Whether a device stands on disks that are looked at: on a machine's own, all do.
    fn knows(&self, name: &str) -> bool {
        match &self.source {
            Source::Kernel => true,
            Source::Given(disks) => {
                let is_given = |path: &Path| disks.iter().any(|disk| path.iter().any(|part| *part == *disk.name));
                stands_on(&self.root.join("sys/block").join(name), &is_given, DEPTH)
            }
        }
    }
}

fn stands_on(device: &Path, is_given: &dyn Fn(&Path) -> bool, depth: usize) -> bool {
    let slaves = device.join("slaves");
    depth > 0
        && sysfs::names(&slaves)
            .iter()
            .filter_map(|name| sysfs::resolved(slaves.join(name)))
            .any(|below| is_given(&below) || stands_on(&below, is_given, depth - 1))
}

/// Sysfs counts in 512 bytes whatever the device's sectors are.
fn size(node: &Node) -> u64 {
    sysfs::number::<u64>(node.path.join("size")).unwrap_or(0).saturating_mul(512)
}

/// Disks and partitions, by the names that the kernel gives them.
fn places(disks: &[Disk]) -> Vec<Place> {
    let of_disk = |disk: &Disk| {
        let between = if disk.name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        let name = disk.name.clone();
        let part = move |number: u32| format!("{name}{between}{number}");
        let partitions = disk.partitions.iter().map(|p| (part(p.number), p.contents.clone())).collect::<Vec<_>>();
        std::iter::once((disk.name.clone(), disk.contents.clone())).chain(partitions)
    };
    disks.iter().flat_map(of_disk).collect()
}

/// Gives running arrays the names in their members' superblocks, and adds those of which there are only members.
fn name_arrays(arrays: &mut Vec<Array>, places: &[Place]) {
    let members = || {
        places.iter().filter_map(|(device, contents)| match contents {
            Contents::Raid(member) => Some((device, &**member)),
            _ => None,
        })
    };
    for array in arrays.iter_mut() {
        let own = |device: &String| array.members.iter().any(|member| member.name == *device);
        if let Some((_, member)) = members().find(|(device, _)| own(device)) {
            (array.uuid, array.label) = (Some(member.array), member.name.clone());
        }
    }
    let mut stopped: Vec<Vec<(&String, &RaidMember)>> = Vec::new();
    for (device, member) in members() {
        let runs = arrays
            .iter()
            .any(|array| array.uuid == Some(member.array) || array.members.iter().any(|other| other.name == *device));
        if runs {
            continue;
        }
        match stopped.iter_mut().find(|others| others[0].1.array == member.array) {
            Some(others) => others.push((device, member)),
            None => stopped.push(vec![(device, member)]),
        }
    }
    arrays.extend(stopped.into_iter().filter_map(|members| {
        let (_, newest) = *members.iter().max_by_key(|(_, member)| member.events)?;
        let told = members.iter().map(|(device, member)| array_member(device, member, newest)).collect();
        let (array, members) = md::told("", newest.level.clone(), newest.devices, ArrayState::Stopped, told);
        let label = newest.name.clone();
        Some(Array { array, members, uuid: Some(newest.array), label, size_bytes: 0, sync: None, contents: None })
    }));
}

/// A member that is told by its superblock alone. The kernel takes one that is one event behind for up to date.
fn array_member(device: &str, member: &RaidMember, newest: &RaidMember) -> ArrayMember {
    let is_left_behind = member.events.saturating_add(1) < newest.events;
    let (slot, state) = match member.role {
        Role::Member(slot) if !is_left_behind => (Some(slot), MemberState::InSync),
        Role::Member(_) | Role::Faulty => (None, MemberState::Faulty),
        Role::Spare => (None, MemberState::Spare),
        Role::Journal => (None, MemberState::Journal),
    };
    ArrayMember { name: device.into(), slot, state }
}

fn group_member(member: &lvm::Member, places: &[Place]) -> GroupMember {
    let carries = |contents: &Contents| matches!(contents, Contents::Lvm(volume) if volume.uuid == member.uuid);
    // The last one: a multipath device or an array comes behind the disks that it stands on.
    let place = places.iter().rev().find(|(_, contents)| carries(contents));
    GroupMember {
        uuid: member.uuid,
        device: place.map(|(device, _)| device.clone()).unwrap_or_default(),
        extents: member.extents,
        free_extents: member.extents.saturating_sub(member.used),
    }
}
