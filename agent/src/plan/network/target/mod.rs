//! What the network is to be, in the terms of one machine: kernel names instead of MACs, metrics in force.
//!
//! Made from a document for a plan ([`desired`]), and from an older observation for a revert ([`before`]).
//! Decides nothing about order, but that a link comes after those that it is made of.

mod before;
mod desired;
mod nics;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use muster_protocol::VlanTag;
use muster_protocol::desired::{
    AcceptRa, BondMode, BondOption, BridgeOption, Dhcp, Neighbor, PortCost, Privacy, Rule, WakeOnLan,
};
use muster_protocol::observed::{Address, Admin, Link, LinkKind, Network};

use super::Route;
use super::resolvers::{fixed_part, leases};
pub(super) use before::same_nic;
pub(super) use desired::indexes;

/// What the network is to be.
#[derive(Debug)]
pub(super) struct Target {
    /// Each after those that it is made of.
    pub(super) links: Vec<LinkTarget>,
    /// Bonds, bridges and VLANs that must not be.
    pub(super) unwanted: Vec<String>,
    /// All of them.
    pub(super) rules: Vec<Rule>,
    /// Resolvers, those of leases apart.
    pub(super) nameservers: Vec<IpAddr>,
    /// Search domains, those of leases apart.
    pub(super) search: Vec<String>,
    /// NTP servers, those of leases apart.
    pub(super) ntp: Vec<String>,
    /// `None` leaves it as it is.
    pub(super) hostname: Option<String>,
}

/// What one link is to be.
#[derive(Debug)]
pub(super) struct LinkTarget {
    pub(super) name: String,
    /// The name that it has now; `None` for one that is made where it is not there.
    pub(super) present: Option<String>,
    pub(super) kind: KindTarget,
    /// The bond or bridge that it is a port of.
    pub(super) port: Option<PortTarget>,
    pub(super) admin: Admin,
    /// `None` leaves it as it is.
    pub(super) mtu: Option<u32>,
    pub(super) wake_on_lan: WakeOnLan,
    pub(super) dhcp4: Dhcp,
    pub(super) dhcp6: Dhcp,
    pub(super) accept_ra: AcceptRa,
    pub(super) privacy: Privacy,
    /// Those from routers are not to be set, only to be left where they are.
    pub(super) addresses: Vec<Address>,
    /// The same holds for these, and for those that the kernel makes.
    pub(super) routes: Vec<Route>,
    pub(super) neighbors: Vec<Neighbor>,
}

/// A link that must be there, or one that can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KindTarget {
    Ethernet,
    Bond(BondTarget),
    Bridge(BTreeMap<BridgeOption, u32>),
    Vlan { parent: String, tag: VlanTag },
}

/// A bond, all of it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BondTarget {
    pub(super) mode: BondMode,
    pub(super) options: BTreeMap<BondOption, u32>,
    pub(super) arp_ip_targets: Vec<Ipv4Addr>,
    /// By name.
    pub(super) primary: Option<String>,
}

/// Which link something is a port of, and what spanning tree reckons with there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortTarget {
    pub(super) of: String,
    pub(super) cost: PortCost,
}

impl Target {
    /// Resolvers, search domains and NTP servers that no lease explains.
    pub(super) fn configured(network: &Network) -> (Vec<IpAddr>, Vec<String>, Vec<String>) {
        let (servers, domains, ntp) = leases(network, |_| true).brought();
        let ntp = if super::ntp_in_force(&[], ntp) == network.ntp { Vec::new() } else { network.ntp.clone() };
        (fixed_part(&network.nameservers, &servers), fixed_part(&network.search, &domains), ntp)
    }

    /// The link of this name.
    pub(super) fn link(&self, name: &str) -> Option<&LinkTarget> {
        self.links.iter().find(|link| link.name == name)
    }
}

impl LinkTarget {
    /// The client that is wanted for a family.
    pub(super) fn dhcp(&self, family: super::Family) -> Dhcp {
        match family {
            super::Family::V4 => self.dhcp4,
            super::Family::V6 => self.dhcp6,
        }
    }

    /// Whether one of its own prefixes, or one that DHCP may bring, holds the gateway.
    pub(super) fn may_hold(&self, via: IpAddr) -> bool {
        let leased = match via {
            IpAddr::V4(_) => self.dhcp4.is_on(),
            IpAddr::V6(via) => via.is_unicast_link_local(),
        };
        leased || self.addresses.iter().any(|address| address.net.contains(&via))
    }
}

/// Whether a link is one that Muster can make, and so delete.
pub(super) fn can_be_made(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Bond(_) | LinkKind::Bridge(_) | LinkKind::Vlan { .. })
}

/// The indexes of the links that one is made of.
pub(super) fn below(link: &Link, network: &Network) -> Vec<u32> {
    match link.kind {
        LinkKind::Vlan { parent, .. } => vec![parent],
        LinkKind::Bond(_) | LinkKind::Bridge(_) => {
            let is_port = |port: &&Link| port.port.is_some_and(|port| port.of == link.index);
            network.links.iter().filter(is_port).map(|port| port.index).collect()
        }
        LinkKind::Ethernet | LinkKind::Foreign(_) => Vec::new(),
    }
}
