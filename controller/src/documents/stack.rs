//! `storage.raid`, `storage.luks` and `storage.volume_groups`: what stands between partitions and filesystems.
//!
//! Called by [`super::storage`]. `raid` and `luks` are Butane's; it has no word for LVM. Names, counts and sizes are
//! checked afterwards by [`muster_protocol::desired::check`].

use muster_protocol::desired::{
    Existing, Key, LogicalVolume, Luks, Place, Raid, RaidLevel, VolumeGroup, VolumeKind, VolumeSize,
};
use muster_protocol::ids::parse_uuid;

use super::device::{self, Device};
use super::disks::ReadDisk;
use super::reader::{Fields, Findings, Keys};
use super::storage::texts;
use super::yaml::Node;

const RAID: Keys = Keys { supported: &["name", "level", "devices", "spares", "options", "wipe_volume"], known: &[] };
const LUKS: Keys = Keys {
    supported: &["name", "device", "label", "uuid", "options", "discard", "wipe_volume", "clevis", "key_file"],
    known: &["open_options"],
};
const CLEVIS: Keys = Keys { supported: &["tpm2"], known: &["tang", "threshold", "custom"] };
const GROUP: Keys =
    Keys { supported: &["name", "physical_volumes", "extent_size_mib", "logical_volumes", "wipe_volume"], known: &[] };
const VOLUME: Keys = Keys { supported: &["name", "size_mib", "size_percent", "thin_pool", "pool"], known: &[] };

/// What LVM2 takes where nothing is said.
pub(super) const EXTENT_MIB: u32 = 4;

/// What devices may be named by: all that the document describes, read or not.
pub(super) struct Named<'d> {
    pub(super) disks: &'d [ReadDisk],
    raid: Vec<String>,
    luks: Vec<String>,
    groups: Vec<(String, Vec<String>)>,
}

impl<'d> Named<'d> {
    /// The names in a document's `storage:`.
    pub(super) fn new(storage: &Fields<'_>, disks: &'d [ReadDisk]) -> Self {
        // Whatever is wrong with them is told when they are read.
        let findings = &mut Findings::default();
        let mut all = |key: &str, keys: &Keys| {
            let items = findings.items(storage, key);
            let name = |(at, node): &(String, &Node)| {
                let fields = findings.fields(node, at, keys)?;
                Some(findings.text(&fields, "name").unwrap_or_default().to_owned())
            };
            items.iter().filter_map(name).collect::<Vec<_>>()
        };
        let (raid, luks) = (all("raid", &RAID), all("luks", &LUKS));
        let mut groups = Vec::new();
        for (at, node) in findings.items(storage, "volume_groups") {
            let Some(fields) = findings.fields(node, &at, &GROUP) else { continue };
            let name = findings.text(&fields, "name").unwrap_or_default().to_owned();
            let mut volumes = Vec::new();
            for (at, node) in findings.items(&fields, "logical_volumes") {
                let Some(fields) = findings.fields(node, &at, &VOLUME) else { continue };
                volumes.push(findings.text(&fields, "name").unwrap_or_default().to_owned());
            }
            groups.push((name, volumes));
        }
        Self { disks, raid, luks, groups }
    }

    /// The place that a `device:` names, and how problems speak of it.
    ///
    /// Errors: why it names none, and what would.
    pub(super) fn place(&self, text: &str) -> Result<(Place, String), String> {
        let place = |i: usize, place: fn(u16) -> Place| u16::try_from(i).map(place).map_err(|_| "too many".to_owned());
        let all = || {
            self.disks.iter().enumerate().flat_map(|(i, disk)| (0..).zip(&disk.partitions).map(move |p| (i, disk, p)))
        };
        let partition = |i: usize, disk: &ReadDisk, at: u16, name: String| {
            let disk_at = u16::try_from(i).map_err(|_| "too many disks".to_owned())?;
            Ok((Place::Partition { disk: disk_at, partition: at }, format!("{}/{name}", disk.name)))
        };
        match device::read(text)? {
            Device::Partition(select, number) => {
                let mut named = all().filter(|(_, disk, (_, partition))| {
                    disk.select.as_ref() == Some(&select) && partition.number == number
                });
                match named.next() {
                    Some((i, disk, (at, found))) => partition(i, disk, at, found.name()),
                    None => Err("no partition of this document is meant; describe it under storage.disks".to_owned()),
                }
            }
            Device::Disk(_) => {
                Err(format!("{text:?} is a whole disk; name a partition, such as /dev/disk/by-partlabel/data"))
            }
            Device::Label(label) => {
                let mut labeled = all().filter(|(_, _, (_, partition))| partition.label == label);
                match (labeled.next(), labeled.next()) {
                    (Some((i, disk, (at, found))), None) => partition(i, disk, at, found.name()),
                    (Some(_), Some(_)) => Err(format!("two partitions of this document have the label {label:?}")),
                    (None, _) => Err(format!(
                        "no partition of this document has the label {label:?}; describe it under storage.disks"
                    )),
                }
            }
            Device::Array(name) => match self.raid.iter().position(|raid| *raid == name) {
                Some(i) => Ok((place(i, Place::Raid)?, text.to_owned())),
                None => Err(format!("no array of this document has the name {name:?}; describe it under storage.raid")),
            },
            Device::Mapped(name) => match self.luks.iter().position(|luks| *luks == name) {
                Some(i) => Ok((place(i, Place::Luks)?, text.to_owned())),
                None => Err(format!(
                    "no LUKS device of this document has the name {name:?}; describe it under storage.luks, or name a \
                     logical volume as /dev/GROUP/VOLUME"
                )),
            },
            Device::Volume(group, volume) => {
                let its = |(_, (name, _)): &(u16, &(String, Vec<String>))| *name == group;
                let found = (0..).zip(&self.groups).find(its).and_then(|(group, (_, volumes))| {
                    let (volume, _) = (0..).zip(volumes).find(|(_, name)| **name == volume)?;
                    Some(Place::Volume { group, volume })
                });
                match found {
                    Some(place) => Ok((place, text.to_owned())),
                    None => Err(format!(
                        "no volume group {group:?} of this document has a volume {volume:?}; describe it under \
                         storage.volume_groups"
                    )),
                }
            }
        }
    }
}

/// Reads the list of arrays. What cannot be read is left out.
pub(super) fn raid(storage: &Fields<'_>, named: &Named<'_>, findings: &mut Findings) -> Vec<Raid> {
    let items = findings.items(storage, "raid");
    items.into_iter().filter_map(|(at, node)| one_raid(&findings.fields(node, &at, &RAID)?, named, findings)).collect()
}

fn one_raid(fields: &Fields<'_>, named: &Named<'_>, findings: &mut Findings) -> Option<Raid> {
    findings.require(fields, "name", "what it is called, such as data for /dev/md/data");
    findings.require(fields, "level", "one of raid0, raid1, raid5, raid6, raid10");
    findings.require(fields, "devices", "its members, such as [/dev/disk/by-partlabel/data-1, …]");
    let name = findings.text(fields, "name")?.to_owned();
    speak(fields, &format!("storage.raid.{name}"), &["devices", "options"], findings);
    let level = findings.text(fields, "level").map(RaidLevel::named);
    if let (Some(None), Some(node)) = (level, fields.get("level")) {
        findings.wrong(node, &fields.path("level"), "one of raid0, raid1, raid5, raid6, raid10");
    }
    let spares = findings.number::<u16>(fields, "spares", "how many of the devices are spares").unwrap_or(0);
    let members = places(fields, "devices", named, findings);
    let (options, existing) = (words(fields, findings), existing(fields, findings));
    Some(Raid { name, level: level??, members, spares, options, existing })
}

/// Reads the list of LUKS devices. What cannot be read is left out.
pub(super) fn luks(storage: &Fields<'_>, named: &Named<'_>, findings: &mut Findings) -> Vec<Luks> {
    let items = findings.items(storage, "luks");
    items.into_iter().filter_map(|(at, node)| one_luks(&findings.fields(node, &at, &LUKS)?, named, findings)).collect()
}

fn one_luks(fields: &Fields<'_>, named: &Named<'_>, findings: &mut Findings) -> Option<Luks> {
    findings.require(fields, "name", "what it is called, such as vault for /dev/mapper/vault");
    findings.require(fields, "device", "what it stands on, such as /dev/disk/by-partlabel/data");
    if let Some(node) = fields.get("key_file") {
        let problem = "not supported: a document would keep the key. Leave it out, and the controller makes a key and \
                       keeps it; or say clevis: {tpm2: true} for one of the machine's TPM";
        findings.add(node.place, fields.path("key_file"), problem);
    }
    let name = findings.text(fields, "name")?.to_owned();
    speak(fields, &format!("storage.luks.{name}"), &["options"], findings);
    let label = findings.text(fields, "label").unwrap_or_default().to_owned();
    let uuid = fields.get("uuid").and_then(|node| {
        let uuid = parse_uuid(findings.text(fields, "uuid")?);
        if uuid.is_none() {
            findings.wrong(node, &fields.path("uuid"), "a UUID like 9d3c2c5e-6a4b-4f4e-8d9c-0a1b2c3d4e5f");
        }
        uuid
    });
    let key = match fields.get("clevis") {
        None => Key::Controller,
        Some(node) => {
            let clevis = findings.fields(node, &fields.path("clevis"), &CLEVIS)?;
            match findings.boolean(&clevis, "tpm2") {
                Some(true) => Key::Tpm,
                Some(false) | None => {
                    findings.wrong(
                        node,
                        &fields.path("clevis"),
                        "tpm2: true; leave it out for a key of the controller",
                    );
                    return None;
                }
            }
        }
    };
    let discard = findings.boolean(fields, "discard").unwrap_or(false);
    let (options, existing) = (words(fields, findings), existing(fields, findings));
    let text = findings.text(fields, "device")?;
    let place = place(text, fields.get("device")?, &fields.path("device"), named, findings)?;
    Some(Luks { name, place, label, uuid, key, discard, options, existing })
}

/// Reads the list of volume groups. What cannot be read is left out.
pub(super) fn groups(storage: &Fields<'_>, named: &Named<'_>, findings: &mut Findings) -> Vec<VolumeGroup> {
    let items = findings.items(storage, "volume_groups");
    items.into_iter().filter_map(|(at, node)| group(&findings.fields(node, &at, &GROUP)?, named, findings)).collect()
}

fn group(fields: &Fields<'_>, named: &Named<'_>, findings: &mut Findings) -> Option<VolumeGroup> {
    findings.require(fields, "name", "what it is called, such as vg0");
    findings.require(fields, "physical_volumes", "what it stands on, such as [/dev/disk/by-partlabel/data]");
    let name = findings.text(fields, "name")?.to_owned();
    let spoken = format!("storage.volume_groups.{name}");
    speak(fields, &spoken, &["physical_volumes"], findings);
    let extent_mib =
        findings.number::<u32>(fields, "extent_size_mib", "a size in MiB, such as 4").unwrap_or(EXTENT_MIB);
    let members = places(fields, "physical_volumes", named, findings);
    let existing = existing(fields, findings);
    let mut volumes = Vec::new();
    for (at, node) in findings.items(fields, "logical_volumes") {
        let Some(fields) = findings.fields(node, &at, &VOLUME) else { continue };
        volumes.extend(volume(&fields, &spoken, findings));
    }
    Some(VolumeGroup { name, members, extent_mib, volumes, existing })
}

fn volume(fields: &Fields<'_>, group: &str, findings: &mut Findings) -> Option<LogicalVolume> {
    findings.require(fields, "name", "what it is called, such as home");
    let name = findings.text(fields, "name")?.to_owned();
    speak(fields, &format!("{group}.logical_volumes.{name}"), &[], findings);
    let mib = findings.number::<u64>(fields, "size_mib", "a size in MiB, such as 10240").filter(|size| *size > 0);
    let percent = findings.number::<u8>(fields, "size_percent", "1 to 100, of all that the group has");
    let size = match (mib, percent, fields.get("size_percent")) {
        (Some(_), Some(_), Some(node)) => {
            let problem = "a volume has a size in MiB or in percent; leave one of them out";
            findings.add(node.place, fields.path("size_percent"), problem);
            return None;
        }
        (Some(mib), ..) => VolumeSize::Mib(mib),
        (None, Some(percent), _) => VolumeSize::Percent(percent),
        (None, None, _) => VolumeSize::Rest,
    };
    let is_pool = findings.boolean(fields, "thin_pool").unwrap_or(false);
    let pool = fields.get("pool").and_then(|_| findings.text(fields, "pool"));
    let kind = match (is_pool, pool, fields.get("pool")) {
        (true, Some(_), Some(node)) => {
            findings.add(node.place, fields.path("pool"), "a volume is a thin pool or in one; leave one of them out");
            return None;
        }
        (true, ..) => VolumeKind::Pool,
        (false, Some(pool), _) => VolumeKind::Thin { pool: pool.to_owned() },
        (false, None, _) => VolumeKind::Linear,
    };
    Some(LogicalVolume { name, kind, size })
}

fn existing(fields: &Fields<'_>, findings: &mut Findings) -> Existing {
    match findings.boolean(fields, "wipe_volume") {
        Some(true) => Existing::Replace,
        Some(false) | None => Existing::Keep,
    }
}

fn words(fields: &Fields<'_>, findings: &mut Findings) -> Vec<String> {
    texts(fields, "options", findings).into_iter().map(|(_, word)| word.to_owned()).collect()
}

fn places(fields: &Fields<'_>, key: &str, named: &Named<'_>, findings: &mut Findings) -> Vec<Place> {
    let mut places = Vec::new();
    for (at, (node, text)) in texts(fields, key, findings).into_iter().enumerate() {
        places.extend(place(text, node, &format!("{}[{at}]", fields.path(key)), named, findings));
    }
    places
}

fn place(text: &str, node: &Node, path: &str, named: &Named<'_>, findings: &mut Findings) -> Option<Place> {
    let found = named.place(text).map_err(|problem| findings.add(node.place, path.to_owned(), problem));
    found.ok().map(|(place, _)| place)
}

/// The names under which the check speaks of what is read here.
fn speak(fields: &Fields<'_>, spoken: &str, lists: &[&str], findings: &mut Findings) {
    findings.note(spoken, fields.place);
    const KEYS: [&str; 13] = [
        "name",
        "level",
        "devices",
        "spares",
        "device",
        "label",
        "uuid",
        "physical_volumes",
        "extent_size_mib",
        "logical_volumes",
        "size_mib",
        "size_percent",
        "pool",
    ];
    for key in KEYS {
        if let Some(node) = fields.get(key) {
            findings.note(format!("{spoken}.{key}"), node.place);
        }
    }
    for key in lists {
        for (i, (_, node)) in Findings::default().items(fields, key).into_iter().enumerate() {
            findings.note(format!("{spoken}.{key}[{i}]"), node.place);
        }
    }
}
