//! Butane's `storage.disks`, and Muster's own `match:`: which disks are meant, and their partitions.
//!
//! Called by [`super::storage`]. A disk is chosen by its name (`device:`), or by what it is (`match:`), so that one
//! document fits many machines. Numbers and sizes are checked afterwards by [`muster_protocol::desired::check`].

use std::collections::BTreeSet;

use muster_protocol::desired::{
    DiskRule, DiskSelect, Entry, LINUX_FILESYSTEM, Partition, Pick, Presence, Resize, Table,
};
use muster_protocol::ids::parse_uuid;
use muster_protocol::inventory::{Medium, Transport};

use super::device::{self, Device};
use super::reader::{Fields, Findings, Keys};
use super::yaml::Node;

const DISK: Keys = Keys { supported: &["device", "match", "wipe_table", "partitions"], known: &[] };
const MATCH: Keys = Keys {
    supported: &["count", "min_size_mib", "max_size_mib", "rotational", "transport", "model", "pick"],
    known: &[],
};
const PARTITION: Keys = Keys {
    supported: &[
        "number",
        "label",
        "size_mib",
        "start_mib",
        "type_guid",
        "guid",
        "should_exist",
        "wipe_partition_entry",
        "resize",
    ],
    known: &[],
};

/// How documents write how a disk is connected. Of two words the first is shown.
pub(super) const TRANSPORTS: [(&str, Transport); 8] = [
    ("nvme", Transport::Nvme),
    ("sata", Transport::Ata),
    ("ata", Transport::Ata),
    ("scsi", Transport::Scsi),
    ("sas", Transport::Scsi),
    ("usb", Transport::Usb),
    ("virtio", Transport::Virtio),
    ("mmc", Transport::Mmc),
];
/// How documents write which of the disks that fit are meant.
pub(super) const PICKS: [(&str, Pick); 3] =
    [("all", Pick::All), ("smallest", Pick::Smallest), ("largest", Pick::Largest)];

/// Types of partitions by the names that sfdisk and systemd-repart have for them; any other goes by its GUID.
const TYPES: [(&str, &str); 14] = [
    ("linux", "0fc63daf-8483-4772-8e79-3d69d8477de4"),
    ("linux-generic", "0fc63daf-8483-4772-8e79-3d69d8477de4"),
    ("esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    ("uefi", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    ("xbootldr", "bc13c2ff-59e6-4262-a352-b275fd6f7172"),
    ("bios-boot", "21686148-6449-6e6f-744e-656564454649"),
    ("swap", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
    ("raid", "a19d880f-05fc-4d3b-a006-743f0f84911e"),
    ("lvm", "e6d6d379-f507-44c2-a23c-238f2a3df928"),
    ("home", "933ac7e1-2eb4-4f13-b844-0e14e2aef915"),
    ("srv", "3b8f8425-20e0-4f3b-907f-1a25a76f98e8"),
    ("var", "4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
    ("tmp", "7ec6f557-3bc5-4aca-b293-16ef5df639d1"),
    ("microsoft-basic-data", "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
];

fn partition_type(fields: &Fields<'_>, findings: &mut Findings) -> Option<[u8; 16]> {
    let text = findings.text(fields, "type_guid")?;
    let known = TYPES.iter().find(|(name, _)| *name == text).map_or(text, |(_, guid)| guid);
    let guid = parse_uuid(known).filter(|guid| *guid != [0; 16]);
    if let Some(node) = fields.get("type_guid").filter(|_| guid.is_none()) {
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        let expected = format!("a GUID like 0fc63daf-8483-4772-8e79-3d69d8477de4, or one of {}", names.join(", "));
        findings.wrong(node, &fields.path("type_guid"), &expected);
    }
    guid
}

/// A disk whose name may have been refused: its partitions' labels are known all the same.
pub(super) struct ReadDisk {
    pub(super) select: Option<DiskSelect>,
    /// How problems speak of it.
    pub(super) name: String,
    pub(super) table: Table,
    pub(super) partitions: Vec<Partition>,
}

/// Reads one entry of `disks`.
pub(super) fn read(node: &Node, at: &str, findings: &mut Findings) -> Option<ReadDisk> {
    let fields = findings.fields(node, at, &DISK)?;
    let select = select(&fields, findings);
    let table = match findings.boolean(&fields, "wipe_table") {
        Some(true) => Table::Replace,
        Some(false) | None => Table::Keep,
    };
    // The names under which the check speaks of what is read here.
    let index = at.strip_prefix("storage.").unwrap_or(at);
    let (name, spoken) = match &select {
        Some(DiskSelect::Id(id)) => (id.to_string(), format!("storage.disks.{id}")),
        Some(DiskSelect::Path(path)) => (format!("path:{path}"), format!("storage.disks.path:{path}")),
        Some(DiskSelect::Rule(_)) | None => (index.to_owned(), at.to_owned()),
    };
    findings.note(&spoken, node.place);
    for key in ["device", "match"] {
        if let Some(node) = fields.get(key) {
            findings.note(format!("{spoken}.{key}"), node.place);
        }
    }
    let mut partitions: Vec<Partition> = Vec::new();
    for (i, (_, node)) in findings.items(&fields, "partitions").into_iter().enumerate() {
        let partition = partition(node, i, &spoken, &partitions, findings);
        partitions.extend(partition);
    }
    // Those whose numbers are found last are placed last, as Ignition does it.
    partitions.sort_by_key(|partition| (partition.number == 0, partition.number));
    Some(ReadDisk { select, name, table, partitions })
}

/// The disk or disks that `device` or `match` mean.
pub(super) fn select(fields: &Fields<'_>, findings: &mut Findings) -> Option<DiskSelect> {
    match (fields.get("device"), fields.get("match")) {
        (Some(_), Some(node)) => {
            let problem = "a disk is chosen by `device` or by `match`; leave one of them out";
            findings.add(node.place, fields.path("match"), problem);
            None
        }
        (None, Some(node)) => rule(node, &fields.path("match"), findings).map(DiskSelect::Rule),
        (_, None) => {
            let expected = "the disk's WWN or serial, such as wwn:0x5000c500a1b2c3d4, or say what it is in match";
            findings.require(fields, "device", expected);
            whole_disk(fields, findings)
        }
    }
}

fn whole_disk(fields: &Fields<'_>, findings: &mut Findings) -> Option<DiskSelect> {
    let text = findings.text(fields, "device")?;
    let place = fields.get("device")?.place;
    match device::read(text) {
        Ok(Device::Disk(select)) => return Some(select),
        Ok(Device::Partition(..) | Device::Label(_)) => {
            findings.add(place, fields.path("device"), format!("{text:?} is a partition; name the whole disk"));
        }
        Ok(Device::Array(_) | Device::Mapped(_) | Device::Volume(..)) => {
            findings.add(place, fields.path("device"), format!("{text:?} has no partitions here; name a disk"));
        }
        Err(problem) => findings.add(place, fields.path("device"), problem),
    }
    None
}

fn rule(node: &Node, at: &str, findings: &mut Findings) -> Option<DiskRule> {
    let fields = findings.fields(node, at, &MATCH)?;
    let size = "a size in MiB, such as 400000";
    let count = findings.number::<u16>(&fields, "count", "a number of disks from 1 to 64");
    let min_size_mib = findings.number::<u64>(&fields, "min_size_mib", size);
    let max_size_mib = findings.number::<u64>(&fields, "max_size_mib", size);
    let medium = findings.boolean(&fields, "rotational").map(|is| match is {
        true => Medium::Rotational,
        false => Medium::SolidState,
    });
    let transport = word(&fields, "transport", &TRANSPORTS, findings);
    let pick = word(&fields, "pick", &PICKS, findings).unwrap_or_default();
    let model = findings.text(&fields, "model").map(str::to_owned);
    Some(DiskRule { count: count.unwrap_or(1), min_size_mib, max_size_mib, medium, transport, model, pick })
}

/// One of a few words.
fn word<T: Copy>(fields: &Fields<'_>, key: &str, words: &[(&str, T)], findings: &mut Findings) -> Option<T> {
    let node = fields.get(key)?;
    let text = findings.text(fields, key)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        findings.wrong(node, &fields.path(key), &format!("one of {}", all.join(", ")));
    }
    found
}

fn partition(node: &Node, i: usize, disk: &str, before: &[Partition], findings: &mut Findings) -> Option<Partition> {
    let fields = findings.fields(node, &format!("{disk}.partitions[{i}]"), &PARTITION)?;
    let label = if fields.get("label").is_some() { findings.text(&fields, "label")? } else { "" };
    let number = match findings.number::<u32>(&fields, "number", "a partition number from 1 to 128") {
        // Butane: the one that has the label, or the next one that is free. Which one the disk says.
        None | Some(0) if !label.is_empty() => 0,
        None | Some(0) => {
            let taken: BTreeSet<u32> = before.iter().map(|partition| partition.number).collect();
            (1..).find(|number| !taken.contains(number)).unwrap_or(u32::MAX)
        }
        Some(number) => number,
    };
    let size_mib = findings.number::<u64>(&fields, "size_mib", "a size in MiB, such as 10240").filter(|size| *size > 0);
    let start_mib =
        findings.number::<u64>(&fields, "start_mib", "a place in MiB, such as 1").filter(|start| *start > 0);
    let type_guid = match fields.get("type_guid") {
        None => LINUX_FILESYSTEM,
        Some(_) => partition_type(&fields, findings)?,
    };
    let guid = match fields.get("guid") {
        None => None,
        Some(node) => {
            let guid = parse_uuid(findings.text(&fields, "guid")?).filter(|guid| *guid != [0; 16]);
            if guid.is_none() {
                findings.wrong(node, &fields.path("guid"), "a GUID like 3f2a9c1e-0b7d-4c55-9a51-2f6d1e0c8b7a");
            }
            guid
        }
    };
    let presence = match findings.boolean(&fields, "should_exist") {
        Some(false) => Presence::Absent,
        Some(true) | None => Presence::Present,
    };
    let entry = match findings.boolean(&fields, "wipe_partition_entry") {
        Some(true) => Entry::Replace,
        Some(false) | None => Entry::Keep,
    };
    let resize = match findings.boolean(&fields, "resize") {
        Some(true) => Resize::Grow,
        Some(false) | None => Resize::Never,
    };
    let label = label.to_owned();
    let partition = Partition { number, label, start_mib, size_mib, type_guid, guid, presence, entry, resize };
    let spoken = format!("{disk}.partitions.{}", partition.name());
    findings.note(spoken.as_str(), node.place);
    for key in ["number", "label", "size_mib", "start_mib", "resize", "should_exist"] {
        if let Some(node) = fields.get(key) {
            findings.note(format!("{spoken}.{key}"), node.place);
        }
    }
    Some(partition)
}
