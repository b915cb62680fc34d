//! A desired state in the words in which it could have been written.
//!
//! Used by the operator API and `muster diff`: [`super::parse`] of the result gives the same [`Desired`] again.
//! What a document says in two ways (a deprecated gateway, a device's many names) comes out in one.

use muster_protocol::MachineId;
use muster_protocol::desired::{
    AcceptRa, Desired, Dhcp4, Disk, Existing, Filesystem, Format, LINUX_FILESYSTEM, Link, Network, Partition, Reach,
    Route, Select, Settings, Storage, Table,
};
use serde_json::{Map, Value, json};

/// The whole document, as JSON.
pub fn render(desired: &Desired) -> Value {
    let mut out = Map::new();
    if let Some(network) = &desired.network {
        out.insert("network".into(), render_network(network));
    }
    if let Some(storage) = &desired.storage {
        out.insert("storage".into(), render_storage(storage));
    }
    Value::Object(out)
}

/// The value of `network:`.
pub fn render_network(network: &Network) -> Value {
    let mut ethernets = Map::new();
    let mut vlans = Map::new();
    for link in &network.links {
        let mut fields = settings(link.settings());
        match link {
            Link::Ethernet { id, select, .. } => {
                match select {
                    Select::Mac(mac) => put(&mut fields, "match", json!({"macaddress": mac.to_string()})),
                    Select::Name(name) if name == id => {}
                    Select::Name(name) => put(&mut fields, "match", json!({"name": name})),
                }
                ethernets.insert(id.clone(), Value::Object(fields));
            }
            Link::Vlan { id, tag, parent, .. } => {
                put(&mut fields, "id", tag.get());
                put(&mut fields, "link", parent.as_str());
                vlans.insert(id.clone(), Value::Object(fields));
            }
        }
    }
    let mut out = Map::from_iter([("version".to_owned(), json!(2))]);
    for (kind, links) in [("ethernets", ethernets), ("vlans", vlans)] {
        if !links.is_empty() {
            out.insert(kind.into(), Value::Object(links));
        }
    }
    Value::Object(out)
}

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

fn put(out: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    out.insert(key.to_owned(), value.into());
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

fn settings(settings: &Settings) -> Map<String, Value> {
    let mut out = Map::new();
    if !settings.addresses.is_empty() {
        put(&mut out, "addresses", texts(&settings.addresses));
    }
    if !settings.routes.is_empty() {
        put(&mut out, "routes", settings.routes.iter().map(route).collect::<Vec<_>>());
    }
    let mut nameservers = Map::new();
    if !settings.nameservers.is_empty() {
        put(&mut nameservers, "addresses", texts(&settings.nameservers));
    }
    if !settings.search.is_empty() {
        put(&mut nameservers, "search", settings.search.clone());
    }
    if !nameservers.is_empty() {
        put(&mut out, "nameservers", nameservers);
    }
    if let Some(mtu) = settings.mtu {
        put(&mut out, "mtu", mtu);
    }
    match settings.dhcp4 {
        Dhcp4::Off => {}
        Dhcp4::On => put(&mut out, "dhcp4", true),
    }
    match settings.accept_ra {
        AcceptRa::Default => {}
        AcceptRa::On => put(&mut out, "accept-ra", true),
        AcceptRa::Off => put(&mut out, "accept-ra", false),
    }
    out
}

fn route(route: &Route) -> Value {
    let mut out = Map::new();
    let to = if route.to.prefix_len() == 0 { "default".to_owned() } else { route.to.to_string() };
    put(&mut out, "to", to);
    put(&mut out, "via", route.via.to_string());
    if let Some(metric) = route.metric {
        put(&mut out, "metric", metric);
    }
    match route.reach {
        Reach::Prefix => {}
        Reach::OnLink => put(&mut out, "on-link", true),
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
