//! What a machine's kernel says now, as far as configuration can change it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::bounded::{self, at_most};
use crate::desired::AcceptRa;
use crate::ids::{DiskId, Mac, VlanTag};

/// Network and disks at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Links, addresses, routes, resolvers.
    pub network: Network,
    /// Whole disks that have an identity or not.
    #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
    pub disks: Vec<Disk>,
}

/// The network at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// All links but the loopback, by interface index.
    #[serde(deserialize_with = "at_most::<4096, _, _>")]
    pub links: Vec<Link>,
    /// Routes of the main table, the kernel's own for its prefixes left out.
    #[serde(deserialize_with = "at_most::<16384, _, _>")]
    pub routes: Vec<Route>,
    /// Resolvers in force.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub nameservers: Vec<IpAddr>,
    /// Search domains in force.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub search: Vec<String>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index, good for this boot only.
    pub index: u32,
    /// Kernel name.
    pub name: String,
    /// MAC in use.
    pub mac: Mac,
    /// MAC in the hardware; equal to `mac` where the driver does not say, and for virtual links.
    pub permanent_mac: Mac,
    /// What it is.
    pub kind: LinkKind,
    /// Administrative state.
    pub admin: Admin,
    /// Whether frames can pass.
    pub carrier: crate::inventory::Carrier,
    /// Bytes.
    pub mtu: u32,
    /// Addresses, sorted.
    #[serde(deserialize_with = "at_most::<4096, _, _>")]
    pub addresses: Vec<Address>,
    /// What the agent's DHCPv4 client does on it.
    pub dhcp4: Dhcp4,
    /// What the kernel does with router advertisements there; `Default` also where it has no IPv6.
    pub accept_ra: AcceptRa,
}

/// What the agent's DHCPv4 client does on a link. A plan needs it: no address may mean "off" or "not yet".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dhcp4 {
    /// There is none. Other programs' clients are not seen here, but their addresses are.
    #[default]
    Off,
    /// It has no lease yet, or none any more.
    Searching,
    /// It keeps this lease.
    Bound(Lease),
}

/// A DHCPv4 lease, as far as it configures more than its link. No times: they would make every look a different one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address with its prefix length.
    pub address: IpNet,
    /// Who gave it; unspecified where the boot medium handed the lease over without it.
    pub server: IpAddr,
    /// Resolvers it brought, in use after the configured ones.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub nameservers: Vec<IpAddr>,
    /// Search domains it brought, in use after the configured ones.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub search: Vec<String>,
}

/// Administrative state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admin {
    /// Set up.
    Up,
    /// Set down.
    Down,
}

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkKind {
    /// A network interface card, physical or virtual machine's.
    Ethernet,
    /// IEEE 802.1Q on another link.
    Vlan {
        /// Interface index of the link below.
        parent: u32,
        /// Its tag.
        tag: VlanTag,
    },
    /// Something Muster does not configure, by the kernel's name for its kind.
    Foreign(String),
}

/// One address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Address and prefix length.
    pub net: IpNet,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an address or a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Origin {
    /// Set by configuration, or by hand.
    Static,
    /// From a DHCP lease that the agent keeps.
    Dhcp,
    /// From a router advertisement.
    Ra,
    /// Made by the kernel: link-local addresses, prefix routes.
    Kernel,
}

/// One route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Destination; `0.0.0.0/0` or `::/0` for the default.
    pub to: IpNet,
    /// Gateway; `None` where the destination is on the link.
    pub via: Option<IpAddr>,
    /// Interface index it leaves by.
    pub link: u32,
    /// Lower wins.
    pub metric: u32,
    /// Where it comes from.
    pub origin: Origin,
}

/// One whole disk and what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name in this boot.
    pub name: String,
    /// World wide name, as in the inventory.
    pub wwn: Option<String>,
    /// Serial number, as in the inventory.
    pub serial: Option<String>,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes addressed by one block number.
    pub logical_sector: u32,
    /// What the disk itself carries.
    pub contents: Contents,
    /// Partitions, by number. Empty unless `contents` is a GPT or a DOS table.
    #[serde(deserialize_with = "at_most::<128, _, _>")]
    pub partitions: Vec<Partition>,
    /// Why nobody may write to it: mounted as the boot medium, held by another layer. Empty where free.
    pub held: String,
}

impl Disk {
    /// The name to use wherever a mistake would cost data; `None` for a disk that has neither WWN nor serial.
    pub fn id(&self) -> Option<DiskId> {
        DiskId::best(self.wwn.as_deref(), self.serial.as_deref())
    }
}

/// What a disk or partition carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// No signature of anything known, and the places where signatures live are all zeros.
    Blank,
    /// A GUID partition table (UEFI 2.10, section 5.3).
    Gpt {
        /// Disk GUID in the byte order in which it is printed.
        guid: [u8; 16],
    },
    /// An MBR partition table.
    Dos,
    /// A filesystem.
    Filesystem(Filesystem),
    /// A known signature that is none of the above, by its usual name: `zfs_member`, `LVM2_member`, `crypto_LUKS`, …
    Signature(String),
    /// Not blank, and no signature that is known: somebody's data all the same.
    Unknown,
}

impl Contents {
    /// Where the filesystem is mounted; `None` for anything that is not.
    pub fn mounted_at(&self) -> Option<&str> {
        match self {
            Self::Filesystem(filesystem) => Some(filesystem.mounted_at.as_str()).filter(|path| !path.is_empty()),
            _ => None,
        }
    }

    /// The same, with nothing said of mounting: what is on the medium.
    pub fn unmounted(&self) -> Self {
        match self {
            Self::Filesystem(filesystem) => {
                Self::Filesystem(Filesystem { mounted_at: String::new(), ..filesystem.clone() })
            }
            other => other.clone(),
        }
    }
}

/// A filesystem found on a disk or partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// As blkid names it: `ext4`, `xfs`, `vfat`, `ntfs`, …
    pub kind: String,
    /// Volume label, empty where there is none.
    pub label: String,
    /// UUID as the filesystem's tools print it, empty where there is none.
    pub uuid: String,
    /// Where it is mounted, empty where it is not.
    pub mounted_at: String,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// 1 to 128.
    pub number: u32,
    /// First byte, from the start of the disk.
    pub start_bytes: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// GPT name, empty for DOS tables.
    pub label: String,
    /// GPT type GUID in the byte order in which it is printed; zeros for DOS tables.
    pub type_guid: [u8; 16],
    /// What it carries.
    pub contents: Contents,
}
