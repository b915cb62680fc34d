//! What stands on disks: arrays, volume groups, encrypted devices.

use muster_protocol::inventory;
use muster_protocol::observed::{Array, ArrayMember, GroupMember, Layers, Opened, Volume, VolumeGroup, md_uuid};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::disk::contents;

/// An array of Linux md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Array)]
pub struct ArrayView {
    /// Kernel name in this boot, such as `md127`; empty for one that does not run.
    pub name: String,
    /// `raid1`, `raid10`, `linear`, ….
    pub level: String,
    /// `whole`, `degraded`, `rebuilding`, `failed` where it lacks more members than it can, `inactive` where the kernel has not
    /// started it, or `stopped` where only members of it were found.
    pub state: String,
    /// Members that it has when it is whole, spares not counted.
    pub devices: u16,
    /// Places that no member has, from 0, as far as they are among the first 64.
    pub missing: Vec<u16>,
    /// Kernel names of members that failed, or were left behind by the others.
    pub faulty: Vec<String>,
}

/// A member of an array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ArrayMember)]
pub struct ArrayMemberView {
    /// Kernel name of its device.
    pub device: String,
    /// Its place, from 0; absent for a spare and for one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u16>,
    /// `in sync`, `rebuilding`, `spare`, `faulty` or `journal`.
    pub state: String,
}

/// An array, and what it carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedArray)]
pub struct ObservedArrayView {
    /// The array.
    #[serde(flatten)]
    pub array: ArrayView,
    /// Its members.
    pub members: Vec<ArrayMemberView>,
    /// As mdadm prints it; absent where no member could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The name in its superblocks, such as `data` or `host:data`.
    pub label: String,
    /// Size; 0 where it does not run.
    pub size_bytes: u64,
    /// What md does with it, and how far it is, such as `recover 25 %`; empty where it rests.
    pub sync: String,
    /// What it carries, in words; absent where that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
}

/// A volume group of LVM2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedVolumeGroup)]
pub struct ObservedVolumeGroupView {
    /// Name.
    pub name: String,
    /// As LVM prints it.
    pub uuid: String,
    /// Size of an extent.
    pub extent_bytes: u64,
    /// Size of all its physical volumes.
    pub size_bytes: u64,
    /// What no logical volume has.
    pub free_bytes: u64,
    /// Its physical volumes.
    pub physical_volumes: Vec<ObservedPhysicalVolumeView>,
    /// Its logical volumes; those that LVM hides are left out.
    pub volumes: Vec<ObservedVolumeView>,
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedPhysicalVolume)]
pub struct ObservedPhysicalVolumeView {
    /// Kernel name of the device that carries it; absent where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// As LVM prints it.
    pub uuid: String,
    /// Size.
    pub size_bytes: u64,
    /// What no logical volume has.
    pub free_bytes: u64,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedVolume)]
pub struct ObservedVolumeView {
    /// Name inside its group.
    pub name: String,
    /// As LVM prints it.
    pub uuid: String,
    /// `linear`, `striped`, `thin-pool`, `thin`, `snapshot`, `raid1`, ….
    pub kind: String,
    /// Size.
    pub size_bytes: u64,
    /// The pool that a thin volume takes its room from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pool: String,
    /// What it is a snapshot of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    /// Kernel name; absent where it is not active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What it carries, in words; absent where that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
}

/// A LUKS device that is open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedEncrypted)]
pub struct ObservedEncryptedView {
    /// The name that it was opened under: /dev/mapper/NAME.
    pub name: String,
    /// In its header.
    pub uuid: String,
    /// Kernel name of the device that is encrypted.
    pub on: String,
    /// Kernel name.
    pub device: String,
    /// Size.
    pub size_bytes: u64,
    /// What it carries, in words; absent where that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
}

impl From<&inventory::Array> for ArrayView {
    fn from(array: &inventory::Array) -> Self {
        let inventory::Array { name, level, devices, state, missing, faulty } = array.clone();
        let faulty = faulty.split_whitespace().map(str::to_owned).collect();
        Self { name, level, state: state.word().into(), devices, missing: missing.iter().collect(), faulty }
    }
}

pub(super) fn array_view(array: &Array) -> ObservedArrayView {
    let Array { array, members, uuid, label, size_bytes, sync, contents: carried } = array;
    let member = |ArrayMember { name, slot, state }: &ArrayMember| ArrayMemberView {
        device: name.clone(),
        slot: *slot,
        state: state.word().into(),
    };
    ObservedArrayView {
        array: array.into(),
        members: members.iter().map(member).collect(),
        uuid: uuid.as_ref().map(md_uuid),
        label: label.clone(),
        size_bytes: *size_bytes,
        sync: sync.as_ref().map(|sync| format!("{} {} %", sync.action, sync.percent)).unwrap_or_default(),
        contents: carried.as_ref().map(contents),
    }
}

pub(super) fn group_views(layers: &Layers) -> Vec<ObservedVolumeGroupView> {
    let view = |(index, group): (usize, &VolumeGroup)| {
        let bytes = |extents: u64| extents.saturating_mul(group.extent_bytes);
        let physical = |member: &GroupMember| ObservedPhysicalVolumeView {
            device: Some(member.device.clone()).filter(|device| !device.is_empty()),
            uuid: member.uuid.to_string(),
            size_bytes: bytes(member.extents),
            free_bytes: bytes(member.free_extents),
        };
        let volumes = layers.volumes.iter().filter(|volume| usize::from(volume.group) == index);
        ObservedVolumeGroupView {
            name: group.name.name.clone(),
            uuid: group.name.uuid.to_string(),
            extent_bytes: group.extent_bytes,
            size_bytes: bytes(group.extents),
            free_bytes: bytes(group.free_extents),
            physical_volumes: group.members.iter().map(physical).collect(),
            volumes: volumes.map(volume_view).collect(),
        }
    };
    layers.groups.iter().enumerate().map(view).collect()
}

fn volume_view(volume: &Volume) -> ObservedVolumeView {
    ObservedVolumeView {
        name: volume.name.clone(),
        uuid: volume.uuid.to_string(),
        kind: volume.kind.clone(),
        size_bytes: volume.size_bytes,
        pool: volume.pool.clone(),
        origin: volume.origin.clone(),
        device: Some(volume.device.clone()).filter(|device| !device.is_empty()),
        contents: volume.contents.as_ref().map(contents),
    }
}

pub(super) fn encrypted_view(opened: &Opened) -> ObservedEncryptedView {
    ObservedEncryptedView {
        name: opened.name.clone(),
        uuid: opened.uuid.clone(),
        on: opened.on.clone(),
        device: opened.device.clone(),
        size_bytes: opened.size_bytes,
        contents: opened.contents.as_ref().map(contents),
    }
}
