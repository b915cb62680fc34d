//! Disks and filesystems in Butane's words.

use muster_protocol::MachineId;
use muster_protocol::desired::{
    Boot, Disk, DiskRule, DiskSelect, Entry, Existing, Filesystem, Format, Image, IoLimit, Key, LINUX_FILESYSTEM,
    LogicalVolume, Luks, Partition, Pick, Place, Presence, Raid, Rates, Resize, Storage, Table, Tree, TreeMount, Use,
    VolumeGroup, VolumeKind, VolumeSize,
};
use muster_protocol::inventory::Medium;
use serde_json::{Map, Value, json};

use super::{put, put_some};
use crate::documents::device::{LABELS, SLOTS};
use crate::documents::disks::{PICKS, TRANSPORTS};
use crate::documents::limits::SERVICES;
use crate::documents::stack::EXTENT_MIB;

/// The value of `storage:`.
pub fn render_storage(storage: &Storage) -> Value {
    let mut out = Map::new();
    if !storage.disks.is_empty() {
        put(&mut out, "disks", storage.disks.iter().map(disk).collect::<Vec<_>>());
    }
    put_some(&mut out, "raid", storage.raid.iter().map(|it| raid(storage, it)).collect::<Vec<_>>());
    put_some(&mut out, "luks", storage.luks.iter().map(|it| luks(storage, it)).collect::<Vec<_>>());
    put_some(&mut out, "volume_groups", storage.groups.iter().map(|it| group(storage, it)).collect::<Vec<_>>());
    if !storage.filesystems.is_empty() {
        put(&mut out, "filesystems", storage.filesystems.iter().map(|fs| filesystem(storage, fs)).collect::<Vec<_>>());
    }
    put_some(&mut out, "mounts", storage.mounts.iter().map(mount).collect::<Vec<_>>());
    put_some(&mut out, "images", storage.images.iter().map(image).collect::<Vec<_>>());
    put_some(&mut out, "io_limits", storage.io_limits.iter().map(limit).collect::<Vec<_>>());
    Value::Object(out)
}

fn image(image: &Image) -> Value {
    let mut out = Map::new();
    put_select(&mut out, &image.select);
    put(&mut out, "sha256", image.digest.to_string());
    match image.table {
        Table::Keep => {}
        Table::Replace => put(&mut out, "wipe_table", true),
    }
    if let Some(seed) = &image.seed {
        let mut texts = Map::new();
        put(&mut texts, "meta_data", seed.meta_data.as_str());
        for (key, text) in [("user_data", &seed.user_data), ("network_config", &seed.network_config)] {
            if !text.is_empty() {
                put(&mut texts, key, text.as_str());
            }
        }
        put(&mut out, "seed", Value::Object(texts));
    }
    match image.boot {
        Boot::Agent => {}
        Boot::Disk => put(&mut out, "boot", true),
    }
    Value::Object(out)
}

fn put_select(out: &mut Map<String, Value>, select: &DiskSelect) {
    match select {
        DiskSelect::Id(id) => put(out, "device", id.to_string()),
        DiskSelect::Path(path) => put(out, "device", format!("{SLOTS}{path}")),
        DiskSelect::Rule(rule) => put(out, "match", render_rule(rule)),
    }
}

fn mount(tree: &TreeMount) -> Value {
    let mut out = Map::new();
    let mut options = tree.mount.options.clone();
    match &tree.what {
        Tree::Tmpfs => put(&mut out, "type", "tmpfs"),
        Tree::Bind(from) => {
            options.insert(0, "bind".into());
            put(&mut out, "what", from.as_str());
        }
    }
    put(&mut out, "where", tree.mount.path.as_str());
    put_some(&mut out, "options", options);
    Value::Object(out)
}

fn limit(limit: &IoLimit) -> Value {
    let mut out = Map::new();
    match &limit.disk {
        DiskSelect::Id(id) => put(&mut out, "device", id.to_string()),
        DiskSelect::Path(path) => put(&mut out, "device", format!("{SLOTS}{path}")),
        // None is read so.
        DiskSelect::Rule(_) => {}
    }
    if limit.cgroup != SERVICES {
        put(&mut out, "cgroup", limit.cgroup.as_str());
    }
    let Rates { read_bytes, write_bytes, read_iops, write_iops } = limit.rates;
    let bytes = [("read_bytes_per_second", read_bytes), ("write_bytes_per_second", write_bytes)];
    let requests = [("read_iops", read_iops.map(u64::from)), ("write_iops", write_iops.map(u64::from))];
    for (key, rate) in bytes.into_iter().chain(requests) {
        if let Some(rate) = rate {
            put(&mut out, key, rate);
        }
    }
    Value::Object(out)
}

fn disk(disk: &Disk) -> Value {
    let mut out = Map::new();
    put_select(&mut out, &disk.select);
    match disk.table {
        Table::Keep => {}
        Table::Replace => put(&mut out, "wipe_table", true),
    }
    if !disk.partitions.is_empty() {
        put(&mut out, "partitions", disk.partitions.iter().map(partition).collect::<Vec<_>>());
    }
    Value::Object(out)
}

fn render_rule(rule: &DiskRule) -> Value {
    let mut out = Map::new();
    put(&mut out, "count", rule.count);
    if let Some(size) = rule.min_size_mib {
        put(&mut out, "min_size_mib", size);
    }
    if let Some(size) = rule.max_size_mib {
        put(&mut out, "max_size_mib", size);
    }
    match rule.medium {
        Some(Medium::Rotational) => put(&mut out, "rotational", true),
        Some(Medium::SolidState) => put(&mut out, "rotational", false),
        None => {}
    }
    if let Some((word, _)) = TRANSPORTS.iter().find(|(_, transport)| rule.transport == Some(*transport)) {
        put(&mut out, "transport", *word);
    }
    if let Some(model) = &rule.model {
        put(&mut out, "model", model.as_str());
    }
    if let Some((word, _)) = PICKS.iter().find(|(_, pick)| rule.pick == *pick && *pick != Pick::All) {
        put(&mut out, "pick", *word);
    }
    Value::Object(out)
}

fn partition(partition: &Partition) -> Value {
    let mut out = Map::new();
    if partition.number > 0 {
        put(&mut out, "number", partition.number);
    }
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
    if let Some(start) = partition.start_mib {
        put(&mut out, "start_mib", start);
    }
    if let Some(guid) = partition.guid {
        put(&mut out, "guid", MachineId::from_bytes(guid).to_string());
    }
    match partition.presence {
        Presence::Present => {}
        Presence::Absent => put(&mut out, "should_exist", false),
    }
    match partition.entry {
        Entry::Keep => {}
        Entry::Replace => put(&mut out, "wipe_partition_entry", true),
    }
    match partition.resize {
        Resize::Never => {}
        Resize::Grow => put(&mut out, "resize", true),
    }
    Value::Object(out)
}

fn devices(storage: &Storage, places: &[Place]) -> Vec<String> {
    places.iter().filter_map(|place| device(storage, place)).collect()
}

fn wipe_volume(out: &mut Map<String, Value>, existing: Existing) {
    match existing {
        Existing::Keep => {}
        Existing::Replace => put(out, "wipe_volume", true),
    }
}

fn raid(storage: &Storage, raid: &Raid) -> Value {
    let mut out = Map::new();
    put(&mut out, "name", raid.name.as_str());
    put(&mut out, "level", raid.level.name());
    put(&mut out, "devices", devices(storage, &raid.members));
    if raid.spares > 0 {
        put(&mut out, "spares", raid.spares);
    }
    put_some(&mut out, "options", raid.options.clone());
    wipe_volume(&mut out, raid.existing);
    Value::Object(out)
}

fn luks(storage: &Storage, luks: &Luks) -> Value {
    let mut out = Map::new();
    put(&mut out, "name", luks.name.as_str());
    if let Some(device) = device(storage, &luks.place) {
        put(&mut out, "device", device);
    }
    if !luks.label.is_empty() {
        put(&mut out, "label", luks.label.as_str());
    }
    if let Some(uuid) = luks.uuid {
        put(&mut out, "uuid", MachineId::from_bytes(uuid).to_string());
    }
    match luks.key {
        Key::Controller => {}
        Key::Tpm => put(&mut out, "clevis", json!({"tpm2": true})),
    }
    if luks.discard {
        put(&mut out, "discard", true);
    }
    put_some(&mut out, "options", luks.options.clone());
    wipe_volume(&mut out, luks.existing);
    Value::Object(out)
}

fn group(storage: &Storage, group: &VolumeGroup) -> Value {
    let mut out = Map::new();
    put(&mut out, "name", group.name.as_str());
    put(&mut out, "physical_volumes", devices(storage, &group.members));
    if group.extent_mib != EXTENT_MIB {
        put(&mut out, "extent_size_mib", group.extent_mib);
    }
    put_some(&mut out, "logical_volumes", group.volumes.iter().map(volume).collect::<Vec<_>>());
    wipe_volume(&mut out, group.existing);
    Value::Object(out)
}

fn volume(volume: &LogicalVolume) -> Value {
    let mut out = Map::new();
    put(&mut out, "name", volume.name.as_str());
    match volume.size {
        VolumeSize::Mib(mib) => put(&mut out, "size_mib", mib),
        VolumeSize::Percent(percent) => put(&mut out, "size_percent", percent),
        VolumeSize::Rest => {}
    }
    match &volume.kind {
        VolumeKind::Linear => {}
        VolumeKind::Pool => put(&mut out, "thin_pool", true),
        VolumeKind::Thin { pool } => put(&mut out, "pool", pool.as_str()),
    }
    Value::Object(out)
}

fn filesystem(storage: &Storage, filesystem: &Filesystem) -> Value {
    let mut out = Map::new();
    if let Some(device) = device(storage, &filesystem.place) {
        put(&mut out, "device", device);
    }
    put(&mut out, "format", filesystem.format.name());
    if !filesystem.label.is_empty() {
        put(&mut out, "label", filesystem.label.as_str());
    }
    if let Some(uuid) = filesystem.uuid {
        put(&mut out, "uuid", uuid.to_string());
    }
    put_some(&mut out, "options", filesystem.options.clone());
    match &filesystem.used {
        Use::Mount(mount) => {
            put(&mut out, "path", mount.path.as_str());
            put_some(&mut out, "mount_options", mount.options.clone());
        }
        // A swap area is in use unless its document says otherwise.
        Use::Later if filesystem.format == Format::Swap => put(&mut out, "with_mount_unit", false),
        Use::Later | Use::Swap => {}
    }
    match filesystem.existing {
        Existing::Keep => {}
        Existing::Replace => put(&mut out, "wipe_filesystem", true),
    }
    Value::Object(out)
}

/// The name of what a filesystem stands on. A disk that goes by a rule has no name, but its partition was named by a label.
fn device(storage: &Storage, place: &Place) -> Option<String> {
    let Place::Partition { disk, .. } = place else { return Some(storage.place_name(place)) };
    let partition = storage.partition(place)?;
    if partition.number == 0 {
        return Some(format!("{LABELS}{}", partition.label));
    }
    Some(match &storage.disks.get(usize::from(*disk))?.select {
        DiskSelect::Id(id) => format!("{id}-part{}", partition.number),
        DiskSelect::Path(path) => format!("{SLOTS}{path}-part{}", partition.number),
        DiskSelect::Rule(_) => format!("{LABELS}{}", partition.label),
    })
}
