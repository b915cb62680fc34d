//! What a machine's kernel says now.

use std::collections::BTreeMap;

use muster_protocol::observed::{Admin, Contents, Disk, Link, LinkKind, Network, Observed, Origin, Partition};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::uuid;

/// Network and disks at the moment of asking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Observed)]
pub struct ObservedView {
    /// All links but the loopback.
    pub links: Vec<LinkView>,
    /// Routes of the main table.
    pub routes: Vec<RouteView>,
    /// Resolvers in force.
    pub nameservers: Vec<String>,
    /// Search domains in force.
    pub search: Vec<String>,
    /// Whole disks.
    pub disks: Vec<ObservedDiskView>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedLink)]
pub struct LinkView {
    /// Kernel name.
    pub name: String,
    /// In use.
    pub mac: String,
    /// `ethernet`, `vlan`, or the kernel's word for what Muster does not configure.
    pub kind: String,
    /// Name of the link below and tag, for a VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanView>,
    /// Set up or down.
    pub up: bool,
    /// Whether frames can pass.
    pub carrier: bool,
    /// Bytes.
    pub mtu: u32,
    /// Address to where it comes from: `static`, `dhcp`, `ra` or `kernel`.
    pub addresses: BTreeMap<String, String>,
}

/// What a VLAN is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedVlan)]
pub struct VlanView {
    /// Name of the link below.
    pub link: String,
    /// Its tag.
    pub id: u16,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedRoute)]
pub struct RouteView {
    /// Destination.
    pub to: String,
    /// Gateway; absent where the destination is on the link.
    pub via: Option<String>,
    /// Name of the link it leaves by.
    pub link: String,
    /// Lower wins.
    pub metric: u32,
    /// `static`, `dhcp`, `ra` or `kernel`.
    pub origin: String,
}

/// One disk and what it carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedDisk)]
pub struct ObservedDiskView {
    /// Kernel name in this boot.
    pub name: String,
    /// What to call it in documents and permits.
    pub id: Option<String>,
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
    /// What it carries, in words.
    pub contents: String,
}

impl From<&Observed> for ObservedView {
    fn from(observed: &Observed) -> Self {
        let network = &observed.network;
        Self {
            links: network.links.iter().map(|link| link_view(link, network)).collect(),
            routes: network
                .routes
                .iter()
                .map(|route| RouteView {
                    to: route.to.to_string(),
                    via: route.via.map(|via| via.to_string()),
                    link: link_name(network, route.link),
                    metric: route.metric,
                    origin: origin(route.origin).into(),
                })
                .collect(),
            nameservers: network.nameservers.iter().map(ToString::to_string).collect(),
            search: network.search.clone(),
            disks: observed.disks.iter().map(disk_view).collect(),
        }
    }
}

fn link_view(link: &Link, network: &Network) -> LinkView {
    let (kind, vlan) = match &link.kind {
        LinkKind::Ethernet => ("ethernet", None),
        LinkKind::Vlan { parent, tag } => ("vlan", Some(VlanView { link: link_name(network, *parent), id: tag.get() })),
        LinkKind::Foreign(kind) => (kind.as_str(), None),
    };
    LinkView {
        name: link.name.clone(),
        mac: link.mac.to_string(),
        kind: kind.into(),
        vlan,
        up: link.admin == Admin::Up,
        carrier: link.carrier == muster_protocol::inventory::Carrier::Present,
        mtu: link.mtu,
        addresses: link.addresses.iter().map(|a| (a.net.to_string(), origin(a.origin).to_owned())).collect(),
    }
}

fn link_name(network: &Network, index: u32) -> String {
    network.links.iter().find(|link| link.index == index).map_or_else(|| format!("#{index}"), |link| link.name.clone())
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Static => "static",
        Origin::Dhcp => "dhcp",
        Origin::Ra => "ra",
        Origin::Kernel => "kernel",
    }
}

fn disk_view(disk: &Disk) -> ObservedDiskView {
    ObservedDiskView {
        name: disk.name.clone(),
        id: disk.id().map(|id| id.to_string()),
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
        contents: contents(&partition.contents),
    }
}

fn contents(contents: &Contents) -> String {
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
    }
}
