//! Links, addresses, routes, resolvers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::desired::{AcceptRa, BondMode, BondOption, BridgeOption, LeaseUse, Neighbor, Privacy, Rule};
use crate::ids::{Mac, VlanTag};

/// The network at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// All links but the loopback, by interface index.
    #[serde(deserialize_with = "at_most::<2048, _, _>")]
    pub links: Vec<Link>,
    /// Routes of all tables but the local one, the kernel's own for its prefixes left out.
    #[serde(deserialize_with = "at_most::<8192, _, _>")]
    pub routes: Vec<Route>,
    /// Routing policy rules that configuration made, each with its priority. Those of others are not here.
    #[serde(deserialize_with = "at_most::<4096, _, _>")]
    pub rules: Vec<Rule>,
    /// Resolvers in force.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub nameservers: Vec<IpAddr>,
    /// Search domains in force.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub search: Vec<String>,
    /// NTP servers in force.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub ntp: Vec<String>,
    /// The machine's name for itself.
    pub hostname: String,
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
    /// The kernel's driver, such as `e1000e`; empty for virtual links.
    pub driver: String,
    /// What it is.
    pub kind: LinkKind,
    /// The bond or bridge that it is a port of.
    pub port: Option<Port>,
    /// Administrative state.
    pub admin: Admin,
    /// Whether frames can pass.
    pub carrier: crate::inventory::Carrier,
    /// Bytes.
    pub mtu: u32,
    /// The least MTU that the driver takes; 0 where it does not say.
    pub min_mtu: u32,
    /// The largest one; 0 where it does not say.
    pub max_mtu: u32,
    /// Addresses, sorted.
    #[serde(deserialize_with = "at_most::<4096, _, _>")]
    pub addresses: Vec<Address>,
    /// Neighbors that were set and do not age, sorted.
    #[serde(deserialize_with = "at_most::<4096, _, _>")]
    pub neighbors: Vec<Neighbor>,
    /// What the agent's DHCPv4 client does on it.
    pub dhcp4: Dhcp,
    /// What the agent's DHCPv6 client does on it.
    pub dhcp6: Dhcp,
    /// What the kernel does with router advertisements there; `Default` also where it has no IPv6.
    pub accept_ra: AcceptRa,
    /// Whether it makes temporary IPv6 addresses and prefers them.
    pub privacy: Privacy,
    /// What it does when it hears a magic packet.
    pub wake_on_lan: WakeOnLan,
}

impl Link {
    /// One as the kernel first shows it: down, without a carrier, of an Ethernet's MTU, and with nothing on it.
    pub fn bare(index: u32, name: &str, mac: Mac, kind: LinkKind) -> Self {
        Self {
            index,
            name: name.to_owned(),
            mac,
            permanent_mac: mac,
            driver: String::new(),
            kind,
            port: None,
            admin: Admin::Down,
            carrier: crate::inventory::Carrier::Absent,
            mtu: 1500,
            min_mtu: 0,
            max_mtu: 0,
            addresses: Vec::new(),
            neighbors: Vec::new(),
            dhcp4: Dhcp::Off,
            dhcp6: Dhcp::Off,
            accept_ra: AcceptRa::Default,
            privacy: Privacy::Off,
            wake_on_lan: WakeOnLan::Unable,
        }
    }
}

/// Whether a NIC wakes the machine when it hears a magic packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WakeOnLan {
    /// It cannot.
    #[default]
    Unable,
    /// It could.
    Off,
    /// It does.
    On,
}

/// What a bond or bridge has noted of its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Interface index of the bond or bridge.
    pub of: u32,
    /// For a bridge's: what spanning tree reckons with; 0 otherwise.
    pub path_cost: u32,
    /// For a bridge's: 0 to 63; 0 otherwise.
    pub priority: u32,
    /// For a bridge's: whether spanning tree lets frames pass; `true` for a bond's.
    pub forwards: bool,
}

/// What an agent's DHCP client does on a link. A plan needs it: no address may mean "off" or "not yet".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dhcp {
    /// There is none. Other programs' clients are not seen here, but their addresses are.
    #[default]
    Off,
    /// It has no lease yet, or none any more.
    Searching(LeaseUse),
    /// It keeps this lease.
    Bound(LeaseUse, Box<Lease>),
}

impl Dhcp {
    /// What of a lease counts; `None` where there is no client.
    pub fn lease_use(&self) -> Option<LeaseUse> {
        match self {
            Self::Off => None,
            Self::Searching(uses) | Self::Bound(uses, _) => Some(*uses),
        }
    }

    /// The lease that is kept.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Off | Self::Searching(_) => None,
            Self::Bound(_, lease) => Some(lease),
        }
    }
}

/// A DHCP lease, as far as it configures more than its link. No times: they would make every look a different one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address with its prefix length; /128 for DHCPv6, and `::/128` where its servers have no addresses and told only
    /// what follows.
    pub address: IpNet,
    /// Who gave it; unspecified where the boot medium handed the lease over without it.
    pub server: IpAddr,
    /// Resolvers it brought, in use after the configured ones.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub nameservers: Vec<IpAddr>,
    /// Search domains it brought, in use after the configured ones.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub search: Vec<String>,
    /// NTP servers it brought, in use where none are configured.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub ntp: Vec<IpAddr>,
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
    /// Several ethernets as one link.
    Bond(Box<Bond>),
    /// A switch inside the machine.
    Bridge(Box<Bridge>),
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

/// A bond. Its ports are the links that say so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bond {
    /// How it works.
    pub mode: BondMode,
    /// Interface index of the port that is preferred.
    pub primary: Option<u32>,
    /// Who is asked for by ARP.
    #[serde(deserialize_with = "at_most::<16, _, _>")]
    pub arp_ip_targets: Vec<Ipv4Addr>,
    /// All that the kernel knows in this mode.
    pub options: BTreeMap<BondOption, u32>,
}

/// A bridge. Its ports are the links that say so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// All of them.
    pub options: BTreeMap<BridgeOption, u32>,
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

/// One route.
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
    /// The table it is in; 254 is the main one.
    pub table: u32,
    /// Where it comes from.
    pub origin: Origin,
}
