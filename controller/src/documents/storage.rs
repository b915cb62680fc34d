//! Butane's `storage:` into [`Storage`], and Ignition's JSON spelling of the same keys.
//!
//! Called by [`super::parse`]. Keys and defaults are those of the Butane and Ignition configuration specifications.
//! Numbers, sizes and mount points are checked afterwards by [`muster_protocol::desired::check`].

use std::collections::BTreeSet;

use muster_protocol::DiskId;
use muster_protocol::desired::{Disk, Existing, Filesystem, Format, LINUX_FILESYSTEM, Partition, Storage, Table};
use muster_protocol::ids::parse_uuid;

use super::device::{self, Device};
use super::reader::{Fields, Findings, Keys};
use super::yaml::{Key, Node, Value};

const STORAGE: Keys = Keys {
    supported: &["disks", "filesystems"],
    known: &["raid", "luks", "files", "directories", "links", "trees", "volume_groups"],
};
const DISK: Keys = Keys { supported: &["device", "wipe_table", "partitions"], known: &[] };
const PARTITION: Keys = Keys {
    supported: &[
        "number",
        "label",
        "size_mib",
        "start_mib",
        "type_guid",
        "should_exist",
        "wipe_partition_entry",
        "resize",
    ],
    known: &["guid"],
};
const FILESYSTEM: Keys = Keys {
    supported: &["device", "format", "label", "path", "wipe_filesystem", "with_mount_unit", "mount_options"],
    known: &["uuid", "options"],
};

/// Reads the value of `storage:`. `None` where it is no mapping.
pub(super) fn read(node: &Node, findings: &mut Findings) -> Option<Storage> {
    let node = in_butanes_spelling(node);
    let fields = findings.fields(&node, "storage", &STORAGE)?;
    let mut disks = Vec::new();
    for (at, node) in findings.items(&fields, "disks") {
        disks.extend(disk(node, &at, findings));
    }
    let mut filesystems = Vec::new();
    for (at, node) in findings.items(&fields, "filesystems") {
        filesystems.extend(filesystem(node, &at, &disks, findings));
    }
    let named = |disk: ReadDisk| Some(Disk { disk: disk.id?, table: disk.table, partitions: disk.partitions });
    Some(Storage { disks: disks.into_iter().filter_map(named).collect(), filesystems })
}

/// A disk whose name may have been refused: its partitions' labels are known all the same.
struct ReadDisk {
    id: Option<DiskId>,
    table: Table,
    partitions: Vec<Partition>,
}

/// Ignition writes `sizeMiB` where Butane writes `size_mib`. Keys here are never free texts, so all can be rewritten.
fn in_butanes_spelling(node: &Node) -> Node {
    let value = match &node.value {
        Value::List(list) => Value::List(list.iter().map(in_butanes_spelling).collect()),
        Value::Map(map) => Value::Map(
            map.iter()
                .map(|(key, node)| (Key { place: key.place, text: snake_case(&key.text) }, in_butanes_spelling(node)))
                .collect(),
        ),
        other => other.clone(),
    };
    Node { place: node.place, value }
}

fn snake_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for c in key.replace("MiB", "Mib").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn disk(node: &Node, at: &str, findings: &mut Findings) -> Option<ReadDisk> {
    let fields = findings.fields(node, at, &DISK)?;
    findings.require(&fields, "device", "the disk's WWN or serial, such as wwn:0x5000c500a1b2c3d4");
    let id = whole_disk(&fields, findings);
    let table = match findings.boolean(&fields, "wipe_table") {
        Some(true) => Table::Replace,
        Some(false) | None => Table::Keep,
    };
    // The names under which the check speaks of what is read here.
    let spoken = id.as_ref().map_or_else(|| at.to_owned(), |id| format!("storage.disks.{id}"));
    findings.note(&spoken, node.place);
    let mut partitions: Vec<Partition> = Vec::new();
    for (i, (_, node)) in findings.items(&fields, "partitions").into_iter().enumerate() {
        let partition = partition(node, i, &spoken, &partitions, findings);
        partitions.extend(partition);
    }
    partitions.sort_by_key(|partition| partition.number);
    Some(ReadDisk { id, table, partitions })
}

fn whole_disk(fields: &Fields<'_>, findings: &mut Findings) -> Option<DiskId> {
    let text = findings.text(fields, "device")?;
    let place = fields.get("device")?.place;
    match device::read(text) {
        Ok(Device::Disk(id)) => return Some(id),
        Ok(Device::Partition(..) | Device::Label(_)) => {
            findings.add(place, fields.path("device"), format!("{text:?} is a partition; name the whole disk"));
        }
        Err(problem) => findings.add(place, fields.path("device"), problem),
    }
    None
}

fn partition(node: &Node, i: usize, disk: &str, before: &[Partition], findings: &mut Findings) -> Option<Partition> {
    let fields = findings.fields(node, &format!("{disk}.partitions[{i}]"), &PARTITION)?;
    findings.only(&fields, "start_mib", &["0"]);
    findings.only(&fields, "should_exist", &["true"]);
    findings.only(&fields, "wipe_partition_entry", &["false"]);
    findings.only(&fields, "resize", &["false"]);
    let number = match findings.number::<u32>(&fields, "number", "a partition number from 1 to 128") {
        // Butane: the next one that is free.
        None | Some(0) => {
            let taken: BTreeSet<u32> = before.iter().map(|partition| partition.number).collect();
            (1..).find(|number| !taken.contains(number)).unwrap_or(u32::MAX)
        }
        Some(number) => number,
    };
    findings.note(format!("{disk}.partitions.{number}"), node.place);
    for key in ["number", "label", "size_mib"] {
        if let Some(node) = fields.get(key) {
            findings.note(format!("{disk}.partitions.{number}.{key}"), node.place);
        }
    }
    let label = if fields.get("label").is_some() { findings.text(&fields, "label")? } else { "" };
    let size_mib = findings.number::<u64>(&fields, "size_mib", "a size in MiB, such as 10240").filter(|size| *size > 0);
    let type_guid = match fields.get("type_guid") {
        None => LINUX_FILESYSTEM,
        Some(node) => {
            let text = findings.text(&fields, "type_guid")?;
            let guid = parse_uuid(text);
            if guid.is_none() {
                findings.wrong(node, &fields.path("type_guid"), "a GUID like 0fc63daf-8483-4772-8e79-3d69d8477de4");
            }
            guid?
        }
    };
    Some(Partition { number, label: label.to_owned(), size_mib, type_guid })
}

fn filesystem(node: &Node, at: &str, disks: &[ReadDisk], findings: &mut Findings) -> Option<Filesystem> {
    let fields = findings.fields(node, at, &FILESYSTEM)?;
    findings.only(&fields, "mount_options", &["defaults"]);
    findings.require(&fields, "device", "a partition, such as /dev/disk/by-partlabel/data");
    findings.require(&fields, "format", "ext4");
    findings.only(&fields, "format", &["ext4"]);
    let existing = match findings.boolean(&fields, "wipe_filesystem") {
        Some(true) => Existing::Replace,
        Some(false) | None => Existing::Keep,
    };
    let mounting = findings.boolean(&fields, "with_mount_unit");
    let path = findings.text(&fields, "path");
    let label = if fields.get("label").is_some() { findings.text(&fields, "label")? } else { "" };
    let (disk, partition) = holder(&fields, disks, findings)?;
    let spoken = format!("storage.filesystems.{disk}/{partition}");
    findings.note(&spoken, node.place);
    for key in ["device", "label", "path"] {
        if let Some(node) = fields.get(key) {
            findings.note(format!("{spoken}.{key}"), node.place);
        }
    }
    let mount = match mounting {
        Some(false) => None,
        Some(true) | None => path.map(str::to_owned),
    };
    Some(Filesystem { disk, partition, format: Format::Ext4, label: label.to_owned(), mount, existing })
}

/// The partition that holds a filesystem.
fn holder(fields: &Fields<'_>, disks: &[ReadDisk], findings: &mut Findings) -> Option<(DiskId, u32)> {
    let text = findings.text(fields, "device")?;
    let place = fields.get("device")?.place;
    let problem = match device::read(text) {
        Ok(Device::Partition(disk, number)) => return Some((disk, number)),
        Ok(Device::Disk(_)) => {
            format!("{text:?} is a whole disk; name a partition, such as /dev/disk/by-partlabel/data")
        }
        Ok(Device::Label(label)) => {
            let mut found = disks.iter().flat_map(|disk| disk.partitions.iter().map(move |p| (&disk.id, p)));
            let mut found = found.by_ref().filter(|(_, partition)| partition.label == label);
            match (found.next(), found.next()) {
                (Some((disk, partition)), None) => return Some((disk.clone()?, partition.number)),
                (Some(_), Some(_)) => format!("two partitions of this document have the label {label:?}"),
                (None, _) => {
                    format!("no partition of this document has the label {label:?}; describe it under storage.disks")
                }
            }
        }
        Err(problem) => problem,
    };
    findings.add(place, fields.path("device"), problem);
    None
}
