//! Disks and what they carry.

use muster_protocol::observed::{Contents, Disk, Partition};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::view::uuid;

/// One disk and what it carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedDisk)]
pub struct ObservedDiskView {
    /// Kernel name in this boot.
    pub name: String,
    /// What to call it in documents and permits.
    pub id: Option<String>,
    /// The slot it is in, by its name in `/dev/disk/by-path`.
    pub by_path: Option<String>,
    /// Size.
    pub size_bytes: u64,
    /// What the disk itself carries, in words.
    pub contents: String,
    /// Why nobody may write to it; empty where it is free.
    pub held: String,
    /// By number.
    pub partitions: Vec<ObservedPartitionView>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedPartition)]
pub struct ObservedPartitionView {
    /// Number.
    pub number: u32,
    /// First byte.
    pub start_bytes: u64,
    /// Size.
    pub size_bytes: u64,
    /// GPT name.
    pub label: String,
    /// GPT type.
    pub type_guid: String,
    /// Its own GUID.
    pub guid: String,
    /// What it carries, in words.
    pub contents: String,
}

pub(super) fn disk_view(disk: &Disk) -> ObservedDiskView {
    ObservedDiskView {
        name: disk.name.clone(),
        id: disk.id().map(|id| id.to_string()),
        by_path: disk.by_path.clone(),
        size_bytes: disk.size_bytes,
        contents: contents(&disk.contents),
        held: disk.held.clone(),
        partitions: disk.partitions.iter().map(partition_view).collect(),
    }
}

fn partition_view(partition: &Partition) -> ObservedPartitionView {
    ObservedPartitionView {
        number: partition.number,
        start_bytes: partition.start_bytes,
        size_bytes: partition.size_bytes,
        label: partition.label.clone(),
        type_guid: uuid(partition.type_guid),
        guid: uuid(partition.guid),
        contents: contents(&partition.contents),
    }
}

pub(super) fn contents(contents: &Contents) -> String {
    match contents {
        Contents::Blank => "blank".into(),
        Contents::Gpt { .. } => "a GPT".into(),
        Contents::Dos => "an MBR partition table".into(),
        Contents::Filesystem(found) => {
            let label = if found.label.is_empty() { String::new() } else { format!(" {:?}", found.label) };
            let mounted =
                if found.mounted_at.is_empty() { String::new() } else { format!(", mounted at {}", found.mounted_at) };
            format!("{}{label}{mounted}", found.kind)
        }
        Contents::Signature(name) => name.clone(),
        Contents::Unknown => "data of an unknown kind".into(),
        Contents::Raid(member) => member.to_string(),
        Contents::Lvm(volume) => volume.to_string(),
        Contents::Luks(luks) => luks.to_string(),
    }
}
