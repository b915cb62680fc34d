//! What a machine should be: network in netplan's words, storage in Butane's, normalized.
//!
//! The texts that operators write are parsed by the controller; this is what they mean.
//! [`Checked`] is the only form that planning accepts, and [`check`] its only source: whoever holds one knows that names
//! refer to something, that nothing is said twice, and that every number is in range.
//! What the hardware says (is there such a MAC, is there such a disk) is for the plan to find out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ids::{DiskId, Mac, VlanTag};

/// A machine's whole desired state. What is absent is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Links, addresses, routes, resolvers.
    pub network: Option<Network>,
    /// Disks and filesystems.
    pub storage: Option<Storage>,
}

/// The network, netplan version 2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Links in the order of the document; a link's parent may come later. At most 256.
    pub links: Vec<Link>,
}

/// One configured link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// netplan's `ethernets:`.
    Ethernet {
        /// The key in the document; other links refer to it.
        id: String,
        /// Which NIC it is.
        select: Select,
        /// Addresses and so on.
        settings: Settings,
    },
    /// netplan's `vlans:`.
    Vlan {
        /// The key in the document, and the interface's name: 1 to 15 bytes.
        id: String,
        /// netplan's `id:`.
        tag: VlanTag,
        /// netplan's `link:`, the id of another link.
        parent: String,
        /// Addresses and so on.
        settings: Settings,
    },
}

impl Link {
    /// The key in the document.
    pub fn id(&self) -> &str {
        match self {
            Self::Ethernet { id, .. } | Self::Vlan { id, .. } => id,
        }
    }

    /// Addresses and so on.
    pub fn settings(&self) -> &Settings {
        match self {
            Self::Ethernet { settings, .. } | Self::Vlan { settings, .. } => settings,
        }
    }
}

/// Which NIC an ethernet is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Select {
    /// netplan's `match: {macaddress: …}`, compared with the permanent MAC first.
    Mac(Mac),
    /// No `match`: the key is the kernel's name.
    Name(String),
}

/// What can be said of every kind of link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Static addresses with their prefix lengths, at most 64.
    pub addresses: Vec<IpNet>,
    /// Static routes, at most 256.
    pub routes: Vec<Route>,
    /// Resolvers, at most 16.
    pub nameservers: Vec<IpAddr>,
    /// Search domains, at most 16.
    pub search: Vec<String>,
    /// Bytes, 68 to 65,535 (1,280 at least where IPv6 is used).
    pub mtu: Option<u32>,
    /// DHCPv4.
    pub dhcp4: Dhcp4,
    /// IPv6 router advertisements.
    pub accept_ra: AcceptRa,
}

/// Whether a link gets an address by DHCPv4.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dhcp4 {
    /// netplan's default.
    #[default]
    Off,
    /// A lease is got and kept.
    On,
}

/// Whether a link listens to router advertisements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcceptRa {
    /// The kernel's default, which accepts them.
    #[default]
    Default,
    /// Accept.
    On,
    /// Do not.
    Off,
}

/// One static route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` for netplan's `default`.
    pub to: IpNet,
    /// Gateway.
    pub via: IpAddr,
    /// Lower wins; the kernel's default where absent (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// netplan's `on-link`: the gateway is reached by this link although no prefix says so.
    pub reach: Reach,
}

/// How a gateway is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// One of the link's prefixes holds it.
    #[default]
    Prefix,
    /// It is on the link although no prefix holds it.
    OnLink,
}

/// Disks and filesystems, Butane's `storage:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Disks to partition, at most 64.
    pub disks: Vec<Disk>,
    /// Filesystems to make and mount, at most 128.
    pub filesystems: Vec<Filesystem>,
}

/// One disk to partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which one, and no other.
    pub disk: DiskId,
    /// Butane's `wipe_table`.
    pub table: Table,
    /// In the order of their numbers, at most 128.
    pub partitions: Vec<Partition>,
}

/// What happens to a partition table that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// A matching GPT is kept, a blank disk gets one, anything else is refused.
    #[default]
    Keep,
    /// Butane's `wipe_table: true`: replaced unless it matches already. Destroys, so it needs a permit.
    Replace,
}

/// One GPT partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// 1 to 128.
    pub number: u32,
    /// GPT name, at most 36 UTF-16 units, no `/`.
    pub label: String,
    /// MiB; `None` takes what is left, for the last partition only.
    pub size_mib: Option<u64>,
    /// Type GUID in the byte order in which it is printed; Linux filesystem data where the document is silent.
    pub type_guid: [u8; 16],
}

/// One filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// The disk that holds it.
    pub disk: DiskId,
    /// The partition that holds it, one of that disk's in the same document.
    pub partition: u32,
    /// What it is.
    pub format: Format,
    /// Volume label, empty for none; at most 16 bytes.
    pub label: String,
    /// Absolute path to mount it at; `None` leaves it unmounted.
    pub mount: Option<String>,
    /// What happens to a filesystem that is there.
    pub existing: Existing,
}

/// Kinds of filesystems that the agent can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// ext4.
    Ext4,
}

/// What happens to a filesystem that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// One of the same kind and label is kept, anything else is refused.
    #[default]
    Keep,
    /// Butane's `wipe_filesystem: true`: replaced unless it matches already. Destroys, so it needs a permit.
    Replace,
}

/// Leave to destroy: what one plan does to these disks, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// [`crate::to_agent::Plan::digest`] of the plan that was shown.
    pub plan: crate::ids::Digest,
    /// The disks that may lose what they carry.
    pub disks: Vec<DiskId>,
}

/// Linux filesystem data (UEFI discoverable partitions list).
pub const LINUX_FILESYSTEM: [u8; 16] =
    [0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// A value that passed its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked<T>(T);

impl<T> Checked<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// One thing that is wrong with a desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Problem {
    /// Where, as a path in the normalized document: `network.vlans.office.link`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Finds everything that is wrong with `desired` without looking at a machine.
///
/// Errors: all problems, in the order of the document; never empty.
pub fn check(desired: Desired) -> Result<Checked<Desired>, Vec<Problem>> {
    let mut problems = Problems::default();
    if let Some(network) = &desired.network {
        check_network(network, &mut problems);
    }
    if let Some(storage) = &desired.storage {
        check_storage(storage, &mut problems);
    }
    if problems.0.is_empty() { Ok(Checked(desired)) } else { Err(problems.0) }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Problem { field: field.into(), problem: problem.into() });
    }

    fn at_most(&mut self, field: &str, count: usize, limit: usize) {
        if count > limit {
            self.add(field, format!("{count} entries are over the limit of {limit}"));
        }
    }
}

fn check_network(network: &Network, problems: &mut Problems) {
    problems.at_most("network", network.links.len(), 256);
    let mut ids = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let mut selected = BTreeSet::new();
    for link in &network.links {
        let kind = match link {
            Link::Ethernet { .. } => "ethernets",
            Link::Vlan { .. } => "vlans",
        };
        let field = format!("network.{kind}.{}", link.id());
        if !ids.insert(link.id()) {
            problems.add(&field, "this id is used twice; every link needs its own");
        }
        match link {
            Link::Ethernet { select, .. } => {
                let text = match select {
                    Select::Mac(mac) => mac.to_string(),
                    Select::Name(name) => {
                        check_link_name(&field, name, problems);
                        name.clone()
                    }
                };
                if !selected.insert(text) {
                    problems.add(format!("{field}.match"), "two entries select the same NIC");
                }
            }
            Link::Vlan { id, parent, .. } => {
                check_link_name(&field, id, problems);
                let parent_link = network.links.iter().find(|l| l.id() == parent);
                match parent_link {
                    None => {
                        problems.add(format!("{field}.link"), format!("there is no link {parent:?} in this document"))
                    }
                    Some(Link::Vlan { .. }) => {
                        problems.add(format!("{field}.link"), "a VLAN on a VLAN is not supported; name an ethernet");
                    }
                    Some(Link::Ethernet { .. }) => {}
                }
            }
        }
        check_settings(&field, link.settings(), &mut addresses, problems);
    }
    let mut tags = BTreeSet::new();
    for link in &network.links {
        if let Link::Vlan { id, tag, parent, .. } = link
            && !tags.insert((parent.as_str(), *tag))
        {
            problems.add(format!("network.vlans.{id}.id"), format!("tag {tag} is used twice on {parent}"));
        }
    }
}

/// IFNAMSIZ is 16 with the closing zero; the kernel refuses `/`, `:` and blanks (net/core/dev.c, dev_valid_name).
fn check_link_name(field: &str, name: &str, problems: &mut Problems) {
    let legal = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || !name.chars().all(legal) {
        problems.add(field, format!("{name:?} is no interface name: 1 to 15 visible ASCII characters, no '/' or ':'"));
    }
}

fn check_settings(field: &str, settings: &Settings, seen: &mut BTreeSet<IpAddr>, problems: &mut Problems) {
    problems.at_most(&format!("{field}.addresses"), settings.addresses.len(), 64);
    problems.at_most(&format!("{field}.routes"), settings.routes.len(), 256);
    problems.at_most(&format!("{field}.nameservers.addresses"), settings.nameservers.len(), 16);
    problems.at_most(&format!("{field}.nameservers.search"), settings.search.len(), 16);
    for net in &settings.addresses {
        let at = format!("{field}.addresses");
        let address = net.addr();
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            problems.add(at, format!("{net} cannot be a link's own address"));
        } else if is_network_or_broadcast(net) {
            problems.add(at, format!("{net} is the network's own or broadcast address; choose one between"));
        } else if !seen.insert(address) {
            problems.add(at, format!("{address} is given twice in this document"));
        }
    }
    for route in &settings.routes {
        let at = format!("{field}.routes");
        if route.to.addr().is_ipv4() != route.via.is_ipv4() {
            problems.add(at, format!("{} via {}: one is IPv4, the other IPv6", route.to, route.via));
        } else if route.to.addr() != route.to.network() {
            problems.add(at, format!("{} has host bits set; write {}", route.to, route.to.trunc()));
        } else if route.via.is_unspecified() || route.via.is_multicast() {
            problems.add(at, format!("{} cannot be a gateway", route.via));
        } else if settings.addresses.iter().any(|net| net.addr() == route.via) {
            problems.add(at, format!("the gateway {} is this link's own address", route.via));
        }
    }
    if let Some(mtu) = settings.mtu {
        let floor = if settings.addresses.iter().any(|net| net.addr().is_ipv6()) { 1280 } else { 68 };
        if !(floor..=65_535).contains(&mtu) {
            problems.add(format!("{field}.mtu"), format!("{mtu} is not between {floor} and 65535"));
        }
    }
    for domain in &settings.search {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if domain.is_empty() || domain.len() > 253 || !domain.chars().all(legal) {
            problems.add(format!("{field}.nameservers.search"), format!("{domain:?} is not a domain name"));
        }
    }
}

fn is_network_or_broadcast(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < 31 && (net.addr() == net.network() || net.addr() == net.broadcast()),
        IpNet::V6(_) => false,
    }
}

fn check_storage(storage: &Storage, problems: &mut Problems) {
    problems.at_most("storage.disks", storage.disks.len(), 64);
    problems.at_most("storage.filesystems", storage.filesystems.len(), 128);
    let mut disks = BTreeSet::new();
    for disk in &storage.disks {
        let field = format!("storage.disks.{}", disk.disk);
        if !disks.insert(&disk.disk) {
            problems.add(&field, "this disk is described twice");
        }
        check_partitions(&field, &disk.partitions, problems);
    }
    let mut held = BTreeSet::new();
    let mut mounts = BTreeSet::new();
    for filesystem in &storage.filesystems {
        let field = format!("storage.filesystems.{}/{}", filesystem.disk, filesystem.partition);
        let partition_there = storage
            .disks
            .iter()
            .any(|d| d.disk == filesystem.disk && d.partitions.iter().any(|p| p.number == filesystem.partition));
        if !partition_there {
            problems.add(format!("{field}.device"), "no partition of this document is meant; describe it under disks");
        }
        if !held.insert((&filesystem.disk, filesystem.partition)) {
            problems.add(&field, "this partition holds two filesystems");
        }
        if filesystem.label.len() > 16 || filesystem.label.chars().any(char::is_control) {
            problems.add(format!("{field}.label"), "an ext4 label has at most 16 bytes and no control characters");
        }
        if let Some(path) = &filesystem.mount {
            if !is_mount_point(path) {
                problems.add(
                    format!("{field}.path"),
                    format!("{path:?} is no mount point: an absolute path such as /srv/data, not a system directory, no '.' or '..'"),
                );
            } else if !mounts.insert(path) {
                problems.add(format!("{field}.path"), format!("two filesystems are mounted at {path}"));
            }
        }
    }
}

fn check_partitions(field: &str, partitions: &[Partition], problems: &mut Problems) {
    problems.at_most(&format!("{field}.partitions"), partitions.len(), 128);
    let mut numbers = BTreeSet::new();
    let mut labels = BTreeSet::new();
    for (i, partition) in partitions.iter().enumerate() {
        let field = format!("{field}.partitions.{}", partition.number);
        if !(1..=128).contains(&partition.number) {
            problems.add(format!("{field}.number"), "a partition's number is 1 to 128");
        } else if !numbers.insert(partition.number) {
            problems.add(format!("{field}.number"), "this number is used twice");
        }
        if partition.label.encode_utf16().count() > 36 || partition.label.contains(['/', '\0']) {
            problems.add(format!("{field}.label"), "a GPT label has at most 36 characters and no '/'");
        } else if !partition.label.is_empty() && !labels.insert(&partition.label) {
            problems.add(format!("{field}.label"), "this label is used twice");
        }
        match partition.size_mib {
            Some(0) => problems.add(format!("{field}.size_mib"), "leave the key out to take what is left"),
            Some(size) if size > 1 << 40 => problems.add(format!("{field}.size_mib"), "no disk is that large"),
            None if i + 1 != partitions.len() => {
                problems.add(format!("{field}.size_mib"), "only the last partition may take what is left");
            }
            _ => {}
        }
    }
}

fn is_mount_point(path: &str) -> bool {
    const TAKEN: [&str; 12] =
        ["/bin", "/dev", "/etc", "/init", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr"];
    let parts_fine = path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    let taken = TAKEN.iter().any(|dir| path == *dir || path.starts_with(&format!("{dir}/")));
    path.starts_with('/')
        && path.len() > 1
        && path.len() <= 255
        && parts_fine
        && !taken
        && !path.contains(char::is_control)
}
