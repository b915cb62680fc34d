//! Disks and filesystems in Butane's words.

use muster_protocol::MachineId;
use muster_protocol::desired::{Disk, Existing, Filesystem, Format, LINUX_FILESYSTEM, Partition, Storage, Table};
use serde_json::{Map, Value};

use super::put;

/// The value of `storage:`.
pub fn render_storage(storage: &Storage) -> Value {
    let mut out = Map::new();
    if !storage.disks.is_empty() {
        put(&mut out, "disks", storage.disks.iter().map(disk).collect::<Vec<_>>());
    }
    if !storage.filesystems.is_empty() {
        put(&mut out, "filesystems", storage.filesystems.iter().map(filesystem).collect::<Vec<_>>());
    }
    Value::Object(out)
}

fn disk(disk: &Disk) -> Value {
    let mut out = Map::new();
    put(&mut out, "device", disk.disk.to_string());
    match disk.table {
        Table::Keep => {}
        Table::Replace => put(&mut out, "wipe_table", true),
    }
    if !disk.partitions.is_empty() {
        put(&mut out, "partitions", disk.partitions.iter().map(partition).collect::<Vec<_>>());
    }
    Value::Object(out)
}

fn partition(partition: &Partition) -> Value {
    let mut out = Map::new();
    put(&mut out, "number", partition.number);
    if !partition.label.is_empty() {
        put(&mut out, "label", partition.label.as_str());
    }
    if let Some(size) = partition.size_mib {
        put(&mut out, "size_mib", size);
    }
    if partition.type_guid != LINUX_FILESYSTEM {
        // A machine's id has the same text form as a GUID.
        put(&mut out, "type_guid", MachineId::from_bytes(partition.type_guid).to_string());
    }
    Value::Object(out)
}

fn filesystem(filesystem: &Filesystem) -> Value {
    let mut out = Map::new();
    put(&mut out, "device", format!("{}-part{}", filesystem.disk, filesystem.partition));
    put(
        &mut out,
        "format",
        match filesystem.format {
            Format::Ext4 => "ext4",
        },
    );
    if !filesystem.label.is_empty() {
        put(&mut out, "label", filesystem.label.as_str());
    }
    if let Some(path) = &filesystem.mount {
        put(&mut out, "path", path.as_str());
    }
    match filesystem.existing {
        Existing::Keep => {}
        Existing::Replace => put(&mut out, "wipe_filesystem", true),
    }
    Value::Object(out)
}
