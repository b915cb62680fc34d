//! Volume groups and their volumes: kept, activated, extended, or made. No volume is ever made smaller, or removed.

use muster_protocol::desired::{
    Existing, Layer, LogicalVolume, Place, UNFINISHED_LAYER, VolumeGroup, VolumeKind, VolumeSize,
};
use muster_protocol::observed::{self, Contents, GroupName, Volume};

use super::super::size;
use super::super::step::{Carries, Device, Group, Step, Target};
use super::{Node, Planner, State, disks_of, extents, pool_extents, volume_extents};
use crate::plan::Impossible;

/// What a physical volume may have beside its extents before it is grown: its label, its metadata, and what aligns the
/// first extent to the stripes of an array.
const SLACK: u64 = 16 << 20;

/// Extents of a group once the steps so far are done.
struct Room {
    group: Group,
    extent_bytes: u64,
    all: u64,
    free: u64,
    has_pool: bool,
}

impl<'a> Planner<'a> {
    /// Plans one volume group and its volumes.
    ///
    /// Errors: its physical volumes carry something else, or are of another group; it lacks one; there is no room; a volume
    /// is larger than it should be, or another kind.
    pub(super) fn plan_group(&mut self, i: u16) -> Result<(), Impossible> {
        let Some(want) = self.desired.groups.get(usize::from(i)) else { return Ok(()) };
        let field = self.desired.layer_field(Layer::Group(i));
        let nodes: Vec<Node<'a>> = want.members.iter().flat_map(|place| self.nodes(place)).collect();
        let is_asleep = |node: &Node<'a>| matches!(node.state, State::Asleep);
        let seen = nodes.iter().filter_map(|node| group_of(node)).find(|group| group.name == want.name);
        let there = seen.and_then(|seen| (0..).zip(&self.ground.layers.groups).find(|(_, there)| there.name == *seen));
        self.group_name_is_free(want, seen, &field)?;
        let is_its = |node: &Node<'a>| seen.is_some() && group_of(node) == seen;
        if nodes.iter().any(is_asleep) && nodes.iter().all(|node| is_asleep(node) || is_its(node)) {
            return self.hope_for_group(i, want, &nodes);
        }
        let differs = there.and_then(|(_, there)| self.group_differs(want, &nodes, there));
        let mut room = match there {
            Some((at, there)) if differs.is_none() => self.keep_group(want, &nodes, at, there, &field)?,
            Some((_, there)) if want.existing == Existing::Keep => {
                let problem = format!(
                    "the volume group {} is not as described: {}; say `wipe_volume: true` to replace it, which then needs \
                     a permit",
                    there.name.name,
                    differs.unwrap_or_default()
                );
                return Err(Impossible { field, problem });
            }
            _ => {
                let (members, also) = self.over_all(&nodes, want.existing, &format!("{field}.physical_volumes"), "")?;
                let group = Group { name: want.name.clone(), uuid: None, disks: disks_of(&nodes) };
                let extent_bytes = u64::from(want.extent_mib) << 20;
                let all = nodes.iter().map(|node| extents(node.target.size_bytes, extent_bytes)).sum();
                self.steps.push(Step::MakeGroup { group: group.clone(), members, extent_bytes, also });
                Room { group, extent_bytes, all, free: all, has_pool: false }
            }
        };
        let at = there.map(|(at, _)| at).filter(|_| differs.is_none());
        // What is left is known when the others have theirs, and thin volumes need their pools.
        let turn = |volume: &LogicalVolume| match (&volume.kind, volume.size) {
            (VolumeKind::Thin { .. }, _) => 2,
            (_, VolumeSize::Rest) => 1,
            (_, VolumeSize::Mib(_) | VolumeSize::Percent(_)) => 0,
        };
        for now in 0..3 {
            for (volume, position) in want.volumes.iter().zip(0..).filter(|(volume, _)| turn(volume) == now) {
                let field = format!("{field}.logical_volumes.{}", volume.name);
                let node = self.plan_volume(volume, at, &mut room, &field)?;
                self.nodes.insert(Place::Volume { group: i, volume: position }, node.into_iter().collect());
            }
        }
        Ok(())
    }

    /// The first way in which the group that is there contradicts the document.
    fn group_differs(&self, want: &VolumeGroup, nodes: &[Node<'a>], there: &observed::VolumeGroup) -> Option<String> {
        let names: Vec<&str> = nodes.iter().filter_map(|node| node.name.as_deref()).collect();
        if self.gone.contains(&there.name.uuid.to_string()) {
            return Some("this plan takes one of its physical volumes away".to_owned());
        }
        let other = nodes.iter().filter_map(group_of).find(|group| **group != there.name);
        if let Some(other) = other {
            return Some(format!("there is a physical volume of the volume group {:?} as well", other.name));
        }
        if there.members.iter().any(|member| member.device.is_empty()) {
            return Some(format!("a physical volume of {} is missing", want.name));
        }
        let stranger = there.members.iter().find(|member| !names.contains(&&*member.device))?;
        Some(format!("{} is a physical volume of it too, and is not described", self.ground.in_words(&stranger.device)))
    }

    fn keep_group(
        &mut self,
        want: &VolumeGroup,
        nodes: &[Node<'a>],
        at: u16,
        there: &'a observed::VolumeGroup,
        field: &str,
    ) -> Result<Room, Impossible> {
        let mut group = self.ground.group(there);
        let extent_bytes = there.extent_bytes.max(1);
        let (mut all, mut free) = (there.extents, there.free_extents);
        let fresh: Vec<Node<'a>> = nodes.iter().filter(|node| group_of(node) != Some(&there.name)).cloned().collect();
        for node in nodes {
            let Some(member) = there.members.iter().find(|member| Some(&member.device) == node.name.as_ref()) else {
                continue;
            };
            let unused = node.target.size_bytes.saturating_sub(member.extents.saturating_mul(extent_bytes));
            if unused >= SLACK.saturating_add(extent_bytes) {
                let more = extents(node.target.size_bytes, extent_bytes).saturating_sub(member.extents);
                (all, free) = (all + more, free + more);
                self.steps.push(Step::GrowMember { group: group.clone(), member: node.target.clone() });
            }
        }
        if !fresh.is_empty() {
            let (members, also) = self.over_all(&fresh, want.existing, &format!("{field}.physical_volumes"), "")?;
            let more: u64 = fresh.iter().map(|node| extents(node.target.size_bytes, extent_bytes)).sum();
            (all, free) = (all + more, free + more);
            self.steps.push(Step::ExtendGroup { group: group.clone(), members, also });
            group.disks = disks_of(nodes);
        }
        let named = |volume: &&Volume| want.volumes.iter().any(|other| other.name == volume.name);
        let asleep = self.ground.volumes(at).filter(|volume| volume.device.is_empty() && volume.kind != "thin-pool");
        let volumes: Vec<String> = asleep.filter(named).map(|volume| volume.name.clone()).collect();
        if !volumes.is_empty() {
            self.steps.push(Step::Activate { group: group.clone(), volumes });
        }
        // What was never finished is removed when it is made again.
        let is_unfinished = |volume: &&Volume| {
            let name = volume.name.strip_prefix(UNFINISHED_LAYER).and_then(|rest| rest.strip_prefix('-'));
            name.is_some_and(|name| want.volumes.iter().any(|volume| volume.name == name)) && volume.kind != "thin"
        };
        let unfinished = self.ground.volumes(at).filter(is_unfinished);
        free += unfinished.map(|volume| volume.size_bytes / extent_bytes).sum::<u64>();
        let has_pool = self.ground.volumes(at).any(|volume| volume.kind == "thin-pool");
        Ok(Room { group, extent_bytes, all, free, has_pool })
    }

    /// Not all of its physical volumes are seen before what is below runs: it is there, or the step that activates its
    /// volumes says that it is not.
    fn hope_for_group(&mut self, i: u16, want: &VolumeGroup, nodes: &[Node<'a>]) -> Result<(), Impossible> {
        let group = Group { name: want.name.clone(), uuid: None, disks: disks_of(nodes) };
        let mut volumes = Vec::new();
        for (volume, position) in want.volumes.iter().zip(0..).filter(|(volume, _)| volume.kind != VolumeKind::Pool) {
            volumes.push(volume.name.clone());
            let device = Device::Volume { group: want.name.clone(), name: volume.name.clone() };
            let target = Target { device, disks: group.disks.clone(), size_bytes: 0 };
            let node = Node { target, name: None, state: State::Asleep };
            self.nodes.insert(Place::Volume { group: i, volume: position }, vec![node]);
        }
        if !volumes.is_empty() {
            self.steps.push(Step::Activate { group, volumes });
        }
        Ok(())
    }

    /// Plans one volume. Answers its device; a pool is none.
    fn plan_volume(
        &mut self,
        want: &LogicalVolume,
        at: Option<u16>,
        room: &mut Room,
        field: &str,
    ) -> Result<Option<Node<'a>>, Impossible> {
        let there = at.and_then(|at| self.ground.volumes(at).find(|volume| volume.name == want.name));
        let extent = room.extent_bytes;
        let had = there.map_or(0, |there| there.size_bytes / extent);
        let mut wanted = volume_extents(want.size, room.all, had + room.free, extent);
        let is_thin = matches!(want.kind, VolumeKind::Thin { .. });
        let mut taken = if is_thin { 0 } else { wanted.saturating_sub(had) };
        if want.kind == VolumeKind::Pool && there.is_none() {
            let (data, metadata) = pool_extents(wanted, room.free, extent);
            // A spare copy of the metadata is kept for all pools of a group.
            let _ = room.has_pool;
            wanted = if want.size == VolumeSize::Rest { data } else { wanted };
            taken = wanted.saturating_add(2 * metadata);
            room.has_pool = true;
        }
        let problem = |key: &str, problem: String| Err(Impossible { field: format!("{field}{key}"), problem });
        if taken > room.free || wanted == 0 {
            let (needs, has) = (size(taken.max(1).saturating_mul(extent)), size(room.free.saturating_mul(extent)));
            return problem("", format!("there is no room: it needs {needs} more, and {has} are free in its group"));
        }
        let device = Device::Volume { group: room.group.name.clone(), name: want.name.clone() };
        let size_bytes = wanted.saturating_mul(extent);
        let mut target = Target { device, disks: room.group.disks.clone(), size_bytes };
        let (group, new_size) = (room.group.clone(), want.size);
        let Some(there) = there else {
            room.free -= taken;
            let (volume, kind) = (target.clone(), want.kind.clone());
            self.steps.push(Step::MakeVolume { volume, group, kind, size: new_size });
            let node = Node { target, name: None, state: State::Fresh(Carries::Nothing) };
            return Ok((want.kind != VolumeKind::Pool).then_some(node));
        };
        let is_kind = match &want.kind {
            VolumeKind::Linear => !matches!(&*there.kind, "thin-pool" | "thin" | "snapshot"),
            VolumeKind::Pool => there.kind == "thin-pool",
            VolumeKind::Thin { pool } => there.kind == "thin" && there.pool == *pool,
        };
        if !is_kind {
            let of = if there.pool.is_empty() { String::new() } else { format!(" in {}", there.pool) };
            let what = format!("it is there as a volume of type {}{of}", there.kind);
            return problem("", format!("{what}; remove it by hand, or choose another name"));
        }
        if wanted > had {
            room.free -= taken;
            let from_bytes = there.size_bytes;
            self.steps.push(Step::GrowVolume { volume: target.clone(), group, size: new_size, from_bytes });
        } else if let VolumeSize::Mib(mib) = want.size
            && wanted < had
        {
            let now = there.size_bytes >> 20;
            return problem(
                ".size_mib",
                format!(
                    "it has {now} MiB, which is more than {mib}: no volume is made smaller; say {now}, or remove it by hand"
                ),
            );
        } else {
            target.size_bytes = there.size_bytes;
        }
        let name = Some(there.device.clone()).filter(|device| !device.is_empty());
        let state = match (&name, &there.contents) {
            (Some(_), Some(contents)) => State::There(contents),
            (Some(_), None) if want.kind != VolumeKind::Pool => {
                return problem("", "it is active and cannot be read".to_owned());
            }
            _ => State::Asleep,
        };
        Ok((want.kind != VolumeKind::Pool).then_some(Node { target, name, state }))
    }

    /// Errors: another group is called so.
    fn group_name_is_free(&self, want: &VolumeGroup, own: Option<&GroupName>, field: &str) -> Result<(), Impossible> {
        let is_it = |group: &&observed::VolumeGroup| {
            let is_gone = self.gone.contains(&group.name.uuid.to_string());
            // What is left of a group whose other half was made anew is in nobody's way.
            let is_whole = group.members.iter().all(|member| !member.device.is_empty());
            group.name.name == want.name && Some(&group.name) != own && !is_gone && (is_whole || own.is_none())
        };
        let Some(other) = self.ground.layers.groups.iter().find(is_it) else { return Ok(()) };
        let members = other.members.iter().filter(|member| !member.device.is_empty());
        let members: Vec<String> = members.map(|member| self.ground.in_words(&member.device)).collect();
        let problem = format!(
            "another volume group has this name, on {}; choose another name, or wipe its physical volumes first",
            members.join(", ")
        );
        Err(Impossible { field: format!("{field}.name"), problem })
    }
}

/// The group that a device tells of as a physical volume.
fn group_of<'a>(node: &Node<'a>) -> Option<&'a GroupName> {
    match node.state {
        State::There(Contents::Lvm(volume)) => volume.group.as_ref(),
        _ => None,
    }
}
