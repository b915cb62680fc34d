//! Butane's `storage:` into [`Storage`], and Ignition's JSON spelling of the same keys.
//!
//! Called by [`super::parse`]. Keys and defaults are those of the Butane and Ignition configuration specifications.
//! Numbers, sizes and mount points are checked afterwards by [`muster_protocol::desired::check`].

use muster_protocol::desired::{
    Disk, Existing, Filesystem, Format, Mount, Mountable, Place, Storage, Use, VolumeId, mount_options,
};

use super::disks::{self, ReadDisk};
use super::images;
use super::limits;
use super::mounts;
use super::reader::{Fields, Findings, Keys};
use super::stack::{self, Named};
use super::yaml::{Key, Node, Value};

const STORAGE: Keys = Keys {
    supported: &["disks", "raid", "luks", "volume_groups", "filesystems", "mounts", "images", "io_limits"],
    known: &["files", "directories", "links", "trees"],
};
const FILESYSTEM: Keys = Keys {
    supported: &[
        "device",
        "format",
        "label",
        "uuid",
        "options",
        "path",
        "wipe_filesystem",
        "with_mount_unit",
        "mount_options",
    ],
    known: &[],
};

/// Reads the value of `storage:`. `None` where it is no mapping.
pub(super) fn read(node: &Node, findings: &mut Findings) -> Option<Storage> {
    let node = in_butanes_spelling(node);
    let fields = findings.fields(&node, "storage", &STORAGE)?;
    let mut disks = Vec::new();
    for (at, node) in findings.items(&fields, "disks") {
        disks.extend(disks::read(node, &at, findings));
    }
    let known = Named::new(&fields, &disks);
    let raid = stack::raid(&fields, &known, findings);
    let luks = stack::luks(&fields, &known, findings);
    let groups = stack::groups(&fields, &known, findings);
    let mut filesystems = Vec::new();
    for (at, node) in findings.items(&fields, "filesystems") {
        filesystems.extend(filesystem(node, &at, &known, findings));
    }
    let named = |disk: ReadDisk| Some(Disk { select: disk.select?, table: disk.table, partitions: disk.partitions });
    let mounts = mounts::read(&fields, findings);
    let images = images::read(&fields, findings);
    let disks = disks.into_iter().filter_map(named).collect();
    let io_limits = limits::read(&fields, findings);
    Some(Storage { disks, raid, luks, groups, filesystems, mounts, images, io_limits })
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

fn filesystem(node: &Node, at: &str, known: &Named<'_>, findings: &mut Findings) -> Option<Filesystem> {
    let fields = findings.fields(node, at, &FILESYSTEM)?;
    let formats = Format::ALL.map(Format::name);
    findings.require(&fields, "device", "a partition, such as /dev/disk/by-partlabel/data");
    findings.require(&fields, "format", "one of ext4, xfs, btrfs, vfat, swap");
    findings.only(&fields, "format", &formats);
    let existing = match findings.boolean(&fields, "wipe_filesystem") {
        Some(true) => Existing::Replace,
        Some(false) | None => Existing::Keep,
    };
    let mounting = findings.boolean(&fields, "with_mount_unit");
    let path = findings.text(&fields, "path");
    let label = if fields.get("label").is_some() { findings.text(&fields, "label")? } else { "" };
    let options = texts(&fields, "options", findings);
    let format = findings.text(&fields, "format").and_then(Format::named);
    let uuid = format.and_then(|format| uuid(&fields, format, findings));
    let mount_options = format.map(|format| mounted_with(&fields, Mountable::Format(format), findings));
    let (place, name) = holder(&fields, known, findings)?;
    let spoken = format!("storage.filesystems.{name}");
    findings.note(&spoken, node.place);
    for key in ["device", "format", "label", "uuid", "options", "path", "mount_options"] {
        if let Some(node) = fields.get(key) {
            findings.note(format!("{spoken}.{key}"), node.place);
        }
    }
    for (i, (node, _)) in options.iter().enumerate() {
        findings.note(format!("{spoken}.options[{i}]"), node.place);
    }
    let options = options.into_iter().map(|(_, word)| word.to_owned()).collect();
    let format = format?;
    let used = match (mounting, path) {
        (Some(false), _) => Use::Later,
        (_, Some(path)) => Use::Mount(Mount { path: path.to_owned(), options: mount_options.flatten()? }),
        (_, None) if format == Format::Swap => Use::Swap,
        (_, None) => Use::Later,
    };
    Some(Filesystem { place, format, label: label.to_owned(), uuid, options, used, existing })
}

fn uuid(fields: &Fields<'_>, format: Format, findings: &mut Findings) -> Option<VolumeId> {
    let node = fields.get("uuid")?;
    let id = findings.text(fields, "uuid").map(|text| format.volume_id(text))?;
    if id.is_none() {
        findings.wrong(node, &fields.path("uuid"), format.volume_id_form());
    }
    id
}

/// Mount options, also where several are written as one, as in fstab.
fn mounted_with(fields: &Fields<'_>, of: Mountable, findings: &mut Findings) -> Option<Vec<String>> {
    let items = texts(fields, "mount_options", findings);
    let (places, words): (Vec<usize>, Vec<&str>) = in_words(&items).into_iter().unzip();
    mount_options(of, &words)
        .map_err(|(at, problem)| {
            let i = places.get(at).copied().unwrap_or_default();
            if let Some((node, _)) = items.get(i) {
                findings.add(node.place, format!("{}[{i}]", fields.path("mount_options")), problem);
            }
        })
        .ok()
}

/// Words with commas in between, and which text each is in.
pub(super) fn in_words<'n>(texts: &[(&'n Node, &'n str)]) -> Vec<(usize, &'n str)> {
    let split = |(i, (_, text)): (usize, &(&'n Node, &'n str))| text.split(',').map(move |word| (i, word));
    texts.iter().enumerate().flat_map(split).collect()
}

/// A list of texts, each with its node.
pub(super) fn texts<'n>(fields: &Fields<'n>, key: &str, findings: &mut Findings) -> Vec<(&'n Node, &'n str)> {
    let items = findings.items(fields, key);
    items.into_iter().filter_map(|(path, node)| Some((node, findings.item_text(node, &path, "a text")?))).collect()
}

/// What holds a filesystem, and how problems speak of it.
fn holder(fields: &Fields<'_>, known: &Named<'_>, findings: &mut Findings) -> Option<(Place, String)> {
    let text = findings.text(fields, "device")?;
    let node = fields.get("device")?;
    known.place(text).map_err(|problem| findings.add(node.place, fields.path("device"), problem)).ok()
}
