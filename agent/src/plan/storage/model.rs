//! What a step makes of disks and of what stands on them, on values: the simulated machine's half, and what the planner is
//! tested against.
//!
//! The look just before writing is here on values, too; the real machine's, on its disks, is in `linux::storage`.

use std::collections::BTreeSet;

use muster_protocol::MachineId;
use muster_protocol::desired::{Format, RaidLevel, VolumeId, VolumeKind};
use muster_protocol::ids::parse_uuid;
use muster_protocol::inventory::{self, ArrayState};
use muster_protocol::observed::{
    Array, ArrayMember, Contents, Disk, Filesystem, GroupMember, GroupName, Headers, Layers, Luks, LvmId, MemberState,
    Metadata, Opened, Partition, PhysicalVolume, RaidMember, Role, SWAP, Volume, VolumeGroup,
};

use super::stack::{LUKS_BYTES, array_bytes, extents, pool_extents, short, volume_extents};
use super::step::{Before, Carries, Device, Group, Over, Slot, Step, Target};
use super::{Header, find, in_words};
use crate::sort;

/// Disks, and what stands on them, with all that it carries whether it runs or not.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The disks.
    pub disks: Vec<Disk>,
    /// What stands on them. Each has a kernel name that it keeps.
    layers: Layers,
    /// Kernel names of what does not run.
    asleep: BTreeSet<String>,
}

impl Model {
    /// Disks on which nothing stands yet.
    pub fn new(disks: Vec<Disk>) -> Self {
        Self { disks, ..Self::default() }
    }

    /// The same, with what stands on them; all of it runs.
    pub fn with_layers(disks: Vec<Disk>, layers: Layers) -> Self {
        Self { disks, layers, ..Self::default() }
    }

    /// What an agent sees: nothing of what is inside a device that does not run.
    pub fn layers(&self) -> Layers {
        let mut seen = Layers::default();
        for array in &self.layers.arrays {
            let is_seen = |member: &ArrayMember| self.is_seen(&member.name);
            if !self.asleep.contains(&array.array.name) {
                seen.arrays.push(array.clone());
            } else if array.members.iter().any(is_seen) {
                let members = array.members.iter().filter(|member| is_seen(member)).cloned().collect();
                let state = ArrayState::Stopped;
                let named = inventory::Array { name: String::new(), state, ..array.array.clone() };
                let (size_bytes, contents) = (0, None);
                seen.arrays.push(Array { array: named, members, size_bytes, contents, ..array.clone() });
            }
        }
        seen.opened =
            self.layers.opened.iter().filter(|opened| !self.asleep.contains(&opened.device)).cloned().collect();
        for (group, at) in self.layers.groups.iter().zip(0..) {
            if !group.members.iter().any(|member| self.is_seen(&member.device)) {
                continue;
            }
            let member = |member: &GroupMember| {
                let device = if self.is_seen(&member.device) { member.device.clone() } else { String::new() };
                GroupMember { device, ..member.clone() }
            };
            let members = group.members.iter().map(member).collect();
            let index = seen.groups.len() as u16;
            seen.groups.push(VolumeGroup { members, ..group.clone() });
            for volume in self.layers.volumes.iter().filter(|volume| volume.group == at) {
                let mut volume = Volume { group: index, ..volume.clone() };
                if self.asleep.contains(&volume.device) {
                    (volume.device, volume.contents) = (String::new(), None);
                }
                seen.volumes.push(volume);
            }
        }
        seen
    }

    /// All that stands on the disks, whether it runs or not.
    pub fn all_layers(&self) -> &Layers {
        &self.layers
    }

    /// The UUID in the header that a step opens, as it is now.
    ///
    /// Errors: as of [`look_again`].
    pub fn header(&self, on: &Target, header: &Header) -> Result<Option<[u8; 16]>, (String, String)> {
        header.of(&carried(self, on)?).map(|found| parse_uuid(&found.uuid)).map_err(|now| (on.in_words(), now))
    }

    /// Everything stops, and nothing is mounted.
    pub fn reboot(&mut self) {
        for disk in &mut self.disks {
            disk.contents = disk.contents.unmounted();
            disk.partitions.iter_mut().for_each(|p| p.contents = p.contents.unmounted());
        }
        let Layers { arrays, volumes, opened, .. } = &mut self.layers;
        let each = arrays.iter_mut().map(|array| (&array.array.name, &mut array.contents));
        let each = each.chain(volumes.iter_mut().map(|volume| (&volume.device, &mut volume.contents)));
        for (name, contents) in each.chain(opened.iter_mut().map(|opened| (&opened.device, &mut opened.contents))) {
            self.asleep.insert(name.clone());
            *contents = contents.as_ref().map(Contents::unmounted);
        }
    }

    /// Somebody pulls a disk out.
    pub fn pull(&mut self, name: &str) {
        self.disks.retain(|disk| disk.name != name);
        self.forget();
    }

    /// A member of an array fails.
    pub fn fail(&mut self, name: &str) {
        for array in &mut self.layers.arrays {
            for member in array.members.iter_mut().filter(|member| member.name == name) {
                (member.state, member.slot) = (MemberState::Faulty, None);
                array.array.state = ArrayState::Degraded;
            }
        }
    }

    fn is_seen(&self, name: &str) -> bool {
        !self.asleep.contains(name) && self.size(name) > 0
    }

    /// Kernel name of a device.
    fn name(&self, target: &Target) -> Option<String> {
        let Layers { arrays, groups, volumes, opened } = &self.layers;
        match &target.device {
            Device::Partition { disk, slot } => {
                let disk = find(disk, &self.disks).ok()?;
                disk.partitions.iter().any(|p| p.number == slot.number).then(|| disk.partition_name(slot.number))
            }
            Device::Array { name, uuid } => {
                let is_it = |array: &&Array| short(&array.label) == name && (uuid.is_none() || array.uuid == *uuid);
                arrays.iter().rev().find(is_it).map(|array| array.array.name.clone())
            }
            Device::Luks { name } => {
                // One that is closed has no name.
                let is_it = |opened: &&Opened| opened.name == *name && !self.asleep.contains(&opened.device);
                opened.iter().find(is_it).map(|opened| opened.device.clone())
            }
            Device::Volume { group, name } => {
                // Of two groups of one name the newer one: of the other only a part is left.
                let its = groups.iter().rposition(|its| its.name.name == *group)?;
                let is_its = |volume: &&Volume| volume.name == *name && usize::from(volume.group) == its;
                volumes.iter().find(is_its).map(|volume| volume.device.clone())
            }
        }
    }

    fn contents_mut(&mut self, name: &str) -> Option<&mut Contents> {
        for disk in &mut self.disks {
            if let Some(at) = disk.partitions.iter().position(|p| disk.partition_name(p.number) == name) {
                return Some(&mut disk.partitions[at].contents);
            }
        }
        let Layers { arrays, volumes, opened, .. } = &mut self.layers;
        let each = arrays.iter_mut().map(|array| (&array.array.name, &mut array.contents));
        let each = each.chain(volumes.iter_mut().map(|volume| (&volume.device, &mut volume.contents)));
        let mut each = each.chain(opened.iter_mut().map(|opened| (&opened.device, &mut opened.contents)));
        each.find(|(device, _)| *device == name)?.1.as_mut()
    }

    fn contents(&self, name: &str) -> Option<Contents> {
        for disk in &self.disks {
            if let Some(there) = disk.partitions.iter().find(|p| disk.partition_name(p.number) == name) {
                return Some(there.contents.clone());
            }
        }
        let Layers { arrays, volumes, opened, .. } = &self.layers;
        let each = arrays.iter().map(|array| (&array.array.name, &array.contents));
        let each = each.chain(volumes.iter().map(|volume| (&volume.device, &volume.contents)));
        let mut each = each.chain(opened.iter().map(|opened| (&opened.device, &opened.contents)));
        each.find(|(device, _)| *device == name)?.1.clone()
    }

    fn size(&self, name: &str) -> u64 {
        let parts =
            self.disks.iter().flat_map(|d| d.partitions.iter().map(|p| (d.partition_name(p.number), p.size_bytes)));
        let arrays = self.layers.arrays.iter().map(|array| (array.array.name.clone(), array.size_bytes));
        let volumes = self.layers.volumes.iter().map(|volume| (volume.device.clone(), volume.size_bytes));
        let opened = self.layers.opened.iter().map(|opened| (opened.device.clone(), opened.size_bytes));
        let mut all = parts.chain(arrays).chain(volumes).chain(opened);
        all.find(|(device, _)| device == name).map_or(0, |(_, size)| size)
    }

    fn put(&mut self, target: &Target, contents: Contents) {
        if let Some(there) = self.name(target).and_then(|name| self.contents_mut(&name)) {
            *there = contents;
        }
    }

    fn free_name(&self, prefix: &str) -> String {
        let Layers { arrays, volumes, opened, .. } = &self.layers;
        let taken = arrays.iter().map(|array| &array.array.name).chain(volumes.iter().map(|volume| &volume.device));
        let taken = taken.chain(opened.iter().map(|opened| &opened.device));
        (0..).map(|i| format!("{prefix}{i}")).find(|name| !taken.clone().any(|taken| taken == name)).unwrap_or_default()
    }

    /// What stood on devices that carry something else now is no more.
    pub fn forget(&mut self) {
        loop {
            let carries = |name: &str| self.contents(name);
            let is_array = |array: &&Array| {
                array.members.iter().any(|member| {
                    matches!(carries(&member.name), Some(Contents::Raid(found)) if Some(found.array) == array.uuid)
                })
            };
            let is_opened =
                |opened: &&Opened| matches!(carries(&opened.on), Some(Contents::Luks(l)) if l.uuid == opened.uuid);
            let is_group = |group: &VolumeGroup| {
                group.members.iter().any(|member| {
                    matches!(carries(&member.device), Some(Contents::Lvm(pv)) if pv.uuid == member.uuid && pv.group.is_some())
                })
            };
            let arrays: Vec<Array> = self.layers.arrays.iter().filter(is_array).cloned().collect();
            let opened: Vec<Opened> = self.layers.opened.iter().filter(is_opened).cloned().collect();
            let keep: Vec<bool> = self.layers.groups.iter().map(is_group).collect();
            let is_settled = arrays.len() == self.layers.arrays.len()
                && opened.len() == self.layers.opened.len()
                && keep.iter().all(|keep| *keep);
            let mut groups = Vec::new();
            let mut volumes = Vec::new();
            for ((group, keep), at) in self.layers.groups.iter().zip(&keep).zip(0..).filter(|((_, keep), _)| **keep) {
                let _ = keep;
                let its = self.layers.volumes.iter().filter(|volume| volume.group == at);
                volumes.extend(its.map(|volume| Volume { group: groups.len() as u16, ..volume.clone() }));
                groups.push(group.clone());
            }
            self.layers = Layers { arrays, groups, volumes, opened };
            if is_settled {
                break;
            }
        }
        // Members that others have now.
        let all = self.clone();
        for array in &mut self.layers.arrays {
            let uuid = array.uuid;
            array.members.retain(
                |member| matches!(all.contents(&member.name), Some(Contents::Raid(found)) if Some(found.array) == uuid),
            );
            let held = array.members.iter().filter(|member| member.slot.is_some()).count();
            if held < usize::from(array.array.devices) {
                array.array.state = ArrayState::Degraded;
            }
        }
    }
}

/// Changes the model as the step would. `random` makes GUIDs and UUIDs differ; equal values give equal disks.
pub fn apply_to_model(step: &Step, model: &mut Model, random: [u8; 16]) {
    match step {
        Step::Partition { .. } | Step::Edit { .. } | Step::Image { .. } => change_table(step, model, random),
        Step::Unmount { on, .. } | Step::SwapOff { on } => set(model, on, |fs| {
            (fs.mounted_at, fs.mount_options) = (String::new(), Vec::new());
        }),
        Step::Mount { on, mount, .. } | Step::Remount { on, mount } => set(model, on, |fs| {
            (fs.mounted_at, fs.mount_options) = (mount.path.clone(), mount.options.clone());
        }),
        Step::SwapOn { on } => set(model, on, |fs| fs.mounted_at = SWAP.into()),
        Step::Grow { on, .. } => {
            let size = model.name(on).map_or(0, |name| model.size(&name));
            set(model, on, |fs| fs.size_bytes = size);
        }
        Step::Format { on, make, .. } => {
            let any = match make.format {
                Format::Vfat => format!("{:02X}{:02X}-{:02X}{:02X}", random[0], random[1], random[2], random[3]),
                _ => MachineId::from_bytes(random).to_string(),
            };
            let made = Filesystem {
                kind: make.format.name().into(),
                label: make.label.clone(),
                uuid: make.uuid.as_ref().map_or(any, VolumeId::to_string),
                size_bytes: model.name(&on.on).map_or(0, |name| model.size(&name)),
                ..Filesystem::default()
            };
            model.put(&on.on, Contents::Filesystem(made.into()));
        }
        Step::MakeArray { array, level, members, spares, .. } => {
            make_array(model, array, *level, members, *spares, random);
        }
        Step::AddMember { array, member, .. } => add_member(model, array, member),
        Step::Assemble { array: on, .. } => {
            model.name(on).map(|name| model.asleep.remove(&name));
        }
        Step::Stop { array: on } | Step::Close { luks: on } => {
            model.name(on).map(|name| model.asleep.insert(name));
        }
        Step::MakeLuks { on, luks, .. } => {
            let uuid = MachineId::from_bytes(luks.uuid.unwrap_or(random)).to_string();
            let (label, subsystem) = (luks.label.clone(), String::new());
            let made = Luks { version: 2, uuid: uuid.clone(), label, subsystem, headers: Headers::Whole };
            model.put(&on.on, Contents::Luks(made.into()));
            let below = model.name(&on.on).unwrap_or_default();
            let (device, size_bytes) = (model.free_name("dm-"), model.size(&below).saturating_sub(LUKS_BYTES));
            model.asleep.insert(device.clone());
            let (name, contents) = (luks.name.clone(), Some(Contents::Blank));
            model.layers.opened.push(Opened { name, device, uuid, on: below, size_bytes, contents });
        }
        Step::Open { luks, on, .. } => {
            let below = model.name(on).unwrap_or_default();
            let Device::Luks { name } = &luks.device else { return };
            if let Some(at) = model.layers.opened.iter().position(|opened| opened.on == below) {
                model.layers.opened[at].name = name.clone();
                model.layers.opened[at].size_bytes = model.size(&below).saturating_sub(LUKS_BYTES);
                let device = model.layers.opened[at].device.clone();
                model.asleep.remove(&device);
            }
        }
        Step::GrowLuks { luks, on } => {
            let size = model.name(on).map_or(0, |name| model.size(&name)).saturating_sub(LUKS_BYTES);
            let name = model.name(luks).unwrap_or_default();
            let opened = model.layers.opened.iter_mut().find(|opened| opened.device == name);
            opened.into_iter().for_each(|opened| opened.size_bytes = size);
        }
        Step::MakeGroup { group, members, extent_bytes, .. } => {
            let uuid = lvm_id(random, 0);
            let name = GroupName { name: group.name.clone(), uuid };
            let (members_, extent_bytes) = (Vec::new(), *extent_bytes);
            model.layers.groups.push(VolumeGroup {
                name,
                seqno: 1,
                extent_bytes,
                extents: 0,
                free_extents: 0,
                members: members_,
            });
            extend_group(model, group, members, random);
        }
        Step::ExtendGroup { group, members, .. } => extend_group(model, group, members, random),
        Step::GrowMember { group, member } => {
            let (device, index) = (model.name(member).unwrap_or_default(), group_of(model, group));
            let size = model.size(&device);
            let Some(group) = index.and_then(|index| model.layers.groups.get_mut(index)) else { return };
            let Some(member) = group.members.iter_mut().find(|member| member.device == device) else { return };
            let more = extents(size, group.extent_bytes).saturating_sub(member.extents);
            (member.extents, member.free_extents) = (member.extents + more, member.free_extents + more);
            (group.extents, group.free_extents) = (group.extents + more, group.free_extents + more);
        }
        Step::Activate { group, volumes } | Step::Deactivate { group, volumes } => {
            let Some(index) = group_of(model, group) else { return };
            for volume in model.layers.volumes.clone() {
                if usize::from(volume.group) == index && volumes.contains(&volume.name) {
                    match step {
                        Step::Activate { .. } => drop(model.asleep.remove(&volume.device)),
                        _ => drop(model.asleep.insert(volume.device)),
                    }
                }
            }
        }
        Step::MakeVolume { .. } | Step::GrowVolume { .. } => change_volume(step, model, random),
        Step::Attach { .. } | Step::Reattach { .. } | Step::Detach { .. } => {}
        Step::Limit { .. } | Step::Unlimit { .. } | Step::Start { .. } => {}
    }
    model.forget();
}

fn change_table(step: &Step, model: &mut Model, random: [u8; 16]) {
    let (Step::Partition { disk: id, .. } | Step::Edit { disk: id, .. } | Step::Image { disk: id, .. }) = step else {
        return;
    };
    let Some(disk) = model.disks.iter_mut().find(|d| id.names(d.wwn.as_deref(), d.serial.as_deref())) else { return };
    match step {
        Step::Partition { slots, .. } => {
            disk.contents = Contents::Gpt { guid: random };
            disk.partitions = slots.iter().map(|slot| blank(slot, random)).collect();
        }
        Step::Image { image, .. } => {
            (disk.contents, disk.partitions) = (Contents::Gpt { guid: image.guid }, Vec::new());
        }
        Step::Edit { deleted, grown, added, .. } => {
            disk.partitions.retain(|p| !deleted.contains(&p.number));
            for slot in grown {
                let there = disk.partitions.iter_mut().find(|p| p.number == slot.number);
                there.into_iter().for_each(|p| p.size_bytes = slot.size_bytes);
            }
            disk.partitions.extend(added.iter().map(|slot| blank(slot, random)));
        }
        _ => {}
    }
    sort::short(&mut disk.partitions, |a, b| a.number.cmp(&b.number));
}

fn make_array(model: &mut Model, array: &Target, level: RaidLevel, members: &[Over], spares: u16, random: [u8; 16]) {
    let Device::Array { name: label, .. } = &array.device else { return };
    let active = members.len().saturating_sub(usize::from(spares));
    let names: Vec<String> = members.iter().filter_map(|over| model.name(&over.on)).collect();
    let least = names.iter().map(|name| model.size(name)).min().unwrap_or(0);
    let size_bytes = array_bytes(level, active, least);
    let mut told = Vec::new();
    for (over, (i, name)) in members.iter().zip((0_u16..).zip(names)) {
        let is_spare = usize::from(i) >= active;
        let found = RaidMember {
            array: random,
            name: label.clone(),
            level: level.name().into(),
            devices: active as u16,
            role: if is_spare { Role::Spare } else { Role::Member(i) },
            events: 1,
            used_bytes: least,
            metadata: Metadata::V1_2,
        };
        model.put(&over.on, Contents::Raid(found.into()));
        let state = if is_spare { MemberState::Spare } else { MemberState::InSync };
        told.push(ArrayMember { name, slot: (!is_spare).then_some(i), state });
    }
    let name = model.free_name("md");
    model.asleep.remove(&name);
    let named = inventory::Array {
        name,
        level: level.name().into(),
        devices: active as u16,
        state: ArrayState::Whole,
        missing: inventory::Places::default(),
        faulty: String::new(),
    };
    model.layers.arrays.push(Array {
        array: named,
        members: told,
        uuid: Some(random),
        label: label.clone(),
        size_bytes,
        sync: None,
        contents: Some(Contents::Blank),
    });
}

fn add_member(model: &mut Model, array: &Target, member: &Over) {
    let (name, device) = (model.name(array).unwrap_or_default(), model.name(&member.on).unwrap_or_default());
    let Some(at) = model.layers.arrays.iter().position(|array| array.array.name == name) else { return };
    let array = &mut model.layers.arrays[at];
    array.members.retain(|member| member.state != MemberState::Faulty);
    let free = (0..array.array.devices).find(|slot| !array.members.iter().any(|member| member.slot == Some(*slot)));
    let state = if free.is_some() { MemberState::InSync } else { MemberState::Spare };
    array.members.push(ArrayMember { name: device, slot: free, state });
    let held = array.members.iter().filter(|member| member.slot.is_some()).count();
    if held == usize::from(array.array.devices) {
        array.array.state = ArrayState::Whole;
        array.array.missing = inventory::Places::default();
        array.array.faulty = String::new();
    }
    let found = RaidMember {
        array: array.uuid.unwrap_or_default(),
        name: array.label.clone(),
        level: array.array.level.clone(),
        devices: array.array.devices,
        role: free.map_or(Role::Spare, Role::Member),
        events: 1,
        used_bytes: 0,
        metadata: Metadata::V1_2,
    };
    model.put(&member.on, Contents::Raid(found.into()));
}

fn group_of(model: &Model, group: &Group) -> Option<usize> {
    let is_it = |uuid| group.uuid.is_none() || group.uuid == Some(uuid);
    model.layers.groups.iter().rposition(|there| there.name.name == group.name && is_it(there.name.uuid))
}

fn extend_group(model: &mut Model, group: &Group, members: &[Over], random: [u8; 16]) {
    let Some(index) = group_of(model, group) else { return };
    for (i, over) in members.iter().enumerate() {
        let (device, name) = (model.name(&over.on).unwrap_or_default(), model.layers.groups[index].name.clone());
        let (uuid, size) = (lvm_id(random, 1 + i), model.size(&device));
        model.put(&over.on, Contents::Lvm(PhysicalVolume { uuid, group: Some(name), is_damaged: false }.into()));
        let group = &mut model.layers.groups[index];
        let all = extents(size, group.extent_bytes);
        group.members.push(GroupMember { uuid, device, extents: all, free_extents: all });
        (group.extents, group.free_extents) = (group.extents + all, group.free_extents + all);
    }
}

fn change_volume(step: &Step, model: &mut Model, random: [u8; 16]) {
    let (Step::MakeVolume { volume, group, size, .. } | Step::GrowVolume { volume, group, size, .. }) = step else {
        return;
    };
    let Some(index) = group_of(model, group) else { return };
    let (name, device) = (model.name(volume), model.free_name("dm-"));
    let there = &mut model.layers.groups[index];
    let extent = there.extent_bytes;
    let before = model.layers.volumes.iter().find(|v| Some(&v.device) == name.as_ref());
    let (had, is_thin) = before.map_or((0, false), |v| (v.size_bytes / extent, v.kind == "thin"));
    let wanted = volume_extents(*size, there.extents, there.free_extents + had, extent);
    let (wanted, taken) = match step {
        Step::MakeVolume { kind: VolumeKind::Thin { .. }, .. } => (wanted, 0),
        Step::MakeVolume { kind: VolumeKind::Pool, .. } => {
            let (data, metadata) = pool_extents(wanted, there.free_extents, extent);
            (data, data + 2 * metadata)
        }
        _ if is_thin => (wanted, 0),
        _ => (wanted, wanted.saturating_sub(had)),
    };
    there.free_extents = there.free_extents.saturating_sub(taken);
    if let Some(there) = model.layers.volumes.iter_mut().find(|v| Some(&v.device) == name.as_ref()) {
        there.size_bytes = wanted * extent;
        return;
    }
    let (Step::MakeVolume { kind, .. }, Device::Volume { name, .. }) = (step, &volume.device) else { return };
    model.asleep.remove(&device);
    let (kind, pool) = match kind {
        VolumeKind::Linear => ("linear", ""),
        VolumeKind::Pool => ("thin-pool", ""),
        VolumeKind::Thin { pool } => ("thin", pool.as_str()),
    };
    model.layers.volumes.push(Volume {
        group: index as u16,
        name: name.clone(),
        uuid: lvm_id(random, 40),
        size_bytes: wanted * extent,
        kind: kind.into(),
        pool: pool.into(),
        origin: String::new(),
        device,
        contents: (kind != "thin-pool").then_some(Contents::Blank),
    });
    sort::short(&mut model.layers.volumes, |a, b| (a.group, &a.name).cmp(&(b.group, &b.name)));
}

fn lvm_id(random: [u8; 16], salt: usize) -> LvmId {
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("muster{salt:02}{}", &hex[..24]);
    text.parse().unwrap_or_else(|_| unreachable!("letters and digits"))
}

/// Whether everything that the step is about is still what the plan saw, where it writes.
///
/// Errors: what is not, and what it is now.
pub fn look_again(step: &Step, model: &Model) -> Result<(), (String, String)> {
    for id in step.disks() {
        let disk = find(id, &model.disks).map_err(|impossible| (id.to_string(), impossible.problem))?;
        if !disk.held.is_empty() {
            return Err((id.to_string(), disk.held.clone()));
        }
    }
    if let Step::Partition { disk: id, before, .. }
    | Step::Edit { disk: id, before, .. }
    | Step::Image { disk: id, before, .. } = step
    {
        let disk = find(id, &model.disks).map_err(|impossible| (id.to_string(), impossible.problem))?;
        let now = Before::of(disk);
        let is_used = disk.partitions.iter().any(|p| is_in_use(model, &disk.partition_name(p.number)));
        return if now == *before && !(is_used && matches!(step, Step::Partition { .. } | Step::Image { .. })) {
            Ok(())
        } else {
            Err((id.to_string(), format!("{}: {}", now.in_words(), in_words(&disk.contents, &disk.partitions))))
        };
    }
    for over in step.overs() {
        let there = carried(model, &over.on)?;
        let is_seen = match &over.carries {
            Carries::Nothing => there == Contents::Blank,
            Carries::Ours(seen) | Carries::This(seen) => there == *seen,
            Carries::Remains => true,
        };
        let is_used = model.name(&over.on).is_some_and(|name| is_in_use(model, &name));
        if !is_seen || there.mounted_at().is_some() || is_used {
            return Err((over.on.in_words(), in_words(&there, &[])));
        }
    }
    let is_filesystem = |on: &Target, is_it: &dyn Fn(&Filesystem) -> bool| match carried(model, on)? {
        Contents::Filesystem(found) if is_it(&found) => Ok(()),
        other => Err((on.in_words(), in_words(&other, &[]))),
    };
    match step {
        Step::Mount { on, format, .. } => is_filesystem(on, &|found| found.kind == format.name()),
        Step::SwapOn { on } => is_filesystem(on, &|found| found.kind == Format::Swap.name()),
        Step::Grow { on, .. } => is_filesystem(on, &|_| true),
        Step::Stop { array: on } | Step::Close { luks: on } => match model.name(on) {
            Some(name) if is_in_use(model, &name) => Err((on.in_words(), "in use".to_owned())),
            _ => Ok(()),
        },
        Step::Open { on, header, .. } => header.of(&carried(model, on)?).map(drop).map_err(|now| (on.in_words(), now)),
        Step::Assemble { array, members } => {
            for member in members {
                match carried(model, member)? {
                    Contents::Raid(_) => {}
                    other => return Err((member.in_words(), in_words(&other, &[]))),
                }
            }
            model.name(array).map(drop).ok_or_else(|| (array.in_words(), "gone".to_owned()))
        }
        Step::Activate { group, .. } | Step::MakeVolume { group, .. } | Step::ExtendGroup { group, .. } => {
            let is_whole = |there: &VolumeGroup| there.members.iter().all(|member| !member.device.is_empty());
            let is_uuid = |there: &VolumeGroup| group.uuid.is_none() || group.uuid == Some(there.name.uuid);
            let is_it = |there: &&VolumeGroup| there.name.name == group.name && is_uuid(there) && is_whole(there);
            let seen = model.layers();
            let groups: Vec<&VolumeGroup> = seen.groups.iter().filter(is_it).collect();
            match groups.len() {
                1 => Ok(()),
                _ => Err((group.name.clone(), format!("{} volume groups of this name are whole", groups.len()))),
            }
        }
        _ => Ok(()),
    }
}

/// What a device carries that is there and runs.
fn carried(model: &Model, on: &Target) -> Result<Contents, (String, String)> {
    let gone = || (on.in_words(), "gone".to_owned());
    if let Device::Partition { disk, slot } = &on.device {
        let disk = find(disk, &model.disks).map_err(|impossible| (disk.to_string(), impossible.problem))?;
        let lies = |p: &&Partition| {
            (p.number, p.start_bytes, p.size_bytes) == (slot.number, slot.start_bytes, slot.size_bytes)
        };
        return disk.partitions.iter().find(lies).map(|p| p.contents.clone()).ok_or_else(gone);
    }
    let name = model.name(on).filter(|name| model.is_seen(name)).ok_or_else(gone)?;
    model.contents(&name).ok_or_else(gone)
}

/// Whether something runs that stands on a device, or it is mounted.
fn is_in_use(model: &Model, name: &str) -> bool {
    let Layers { arrays, groups, volumes, opened } = &model.layers;
    let in_group = |at: usize| {
        let is_member = groups[at].members.iter().any(|member| member.device == name);
        let is_awake = |volume: &Volume| usize::from(volume.group) == at && model.is_seen(&volume.device);
        is_member && volumes.iter().any(|volume| volume.kind != "thin-pool" && is_awake(volume))
    };
    arrays.iter().any(|array| model.is_seen(&array.array.name) && array.members.iter().any(|m| m.name == name))
        || opened.iter().any(|opened| opened.on == name && model.is_seen(&opened.device))
        || (0..groups.len()).any(in_group)
        || model.contents(name).is_some_and(|contents| contents.mounted_at().is_some())
}

fn blank(slot: &Slot, random: [u8; 16]) -> Partition {
    Partition {
        number: slot.number,
        start_bytes: slot.start_bytes,
        size_bytes: slot.size_bytes,
        label: slot.label.clone(),
        type_guid: slot.type_guid,
        guid: slot.guid.unwrap_or(random),
        contents: Contents::Blank,
    }
}

fn set(model: &mut Model, on: &Target, change: impl Fn(&mut Filesystem)) {
    let contents = model.name(on).and_then(|name| model.contents_mut(&name));
    if let Some(Contents::Filesystem(filesystem)) = contents {
        change(filesystem);
    }
}
