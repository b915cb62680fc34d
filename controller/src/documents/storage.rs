//! Butane's `storage:` into [`Storage`], and Ignition's JSON spelling of the same keys.
//!
//! Called by [`super::parse`]. Keys and defaults are those of the Butane and Ignition configuration specifications.
//! Numbers, sizes and mount points are checked afterwards by [`muster_protocol::desired::check`].

use muster_protocol::desired::{Disk, Existing, Filesystem, Format, Partition, Place, Storage};

use super::device::{self, Device};
use super::disks::{self, ReadDisk};
use super::reader::{Fields, Findings, Keys};
use super::yaml::{Key, Node, Value};

const STORAGE: Keys = Keys {
    supported: &["disks", "filesystems"],
    known: &["raid", "luks", "files", "directories", "links", "trees", "volume_groups"],
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
        disks.extend(disks::read(node, &at, findings));
    }
    let mut filesystems = Vec::new();
    for (at, node) in findings.items(&fields, "filesystems") {
        filesystems.extend(filesystem(node, &at, &disks, findings));
    }
    let named = |disk: ReadDisk| Some(Disk { select: disk.select?, table: disk.table, partitions: disk.partitions });
    Some(Storage { disks: disks.into_iter().filter_map(named).collect(), filesystems })
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
    let (place, name) = holder(&fields, disks, findings)?;
    let spoken = format!("storage.filesystems.{name}");
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
    Some(Filesystem { place, format: Format::Ext4, label: label.to_owned(), mount, existing })
}

/// The partition that holds a filesystem, and how problems speak of it.
fn holder(fields: &Fields<'_>, disks: &[ReadDisk], findings: &mut Findings) -> Option<(Place, String)> {
    let text = findings.text(fields, "device")?;
    let place = fields.get("device")?.place;
    let all = || disks.iter().enumerate().flat_map(|(i, disk)| (0..).zip(&disk.partitions).map(move |p| (i, disk, p)));
    let found = |i: usize, disk: &ReadDisk, (at, partition): (u16, &Partition)| {
        let place = Place::Partition { disk: u16::try_from(i).ok()?, partition: at };
        Some((place, format!("{}/{}", disk.name, partition.name())))
    };
    let problem = match device::read(text) {
        Ok(Device::Partition(select, number)) => {
            let mut named = all().filter(|(_, disk, (_, partition))| {
                disk.select.as_ref() == Some(&select) && partition.number == number
            });
            match named.next() {
                Some((i, disk, partition)) => return found(i, disk, partition),
                None => "no partition of this document is meant; describe it under storage.disks".to_owned(),
            }
        }
        Ok(Device::Disk(_)) => {
            format!("{text:?} is a whole disk; name a partition, such as /dev/disk/by-partlabel/data")
        }
        Ok(Device::Label(label)) => {
            let mut labeled = all().filter(|(_, _, (_, partition))| partition.label == label);
            match (labeled.next(), labeled.next()) {
                (Some((i, disk, partition)), None) => return found(i, disk, partition),
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
