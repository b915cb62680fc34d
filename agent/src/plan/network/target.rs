//! What the network is to be, in the terms of one machine: kernel names instead of MACs, metrics in force.
//!
//! Made from a document for a plan, and from an older observation for a revert. Decides nothing about order.

use std::net::IpAddr;

use muster_protocol::VlanTag;
use muster_protocol::desired::{AcceptRa, Dhcp4, Link, Network, Reach, Select, Settings};
use muster_protocol::observed::{self, Address, Admin, LinkKind, Origin};

use super::resolvers::{fixed_part, in_force, leases};
use super::{Route, metric_in_force};
use crate::plan::Impossible;

/// What the network is to be.
#[derive(Debug)]
pub(super) struct Target {
    /// Parents before their VLANs.
    pub(super) links: Vec<LinkTarget>,
    /// VLANs that must not be.
    pub(super) unwanted: Vec<String>,
    /// Resolvers, those of leases apart.
    pub(super) nameservers: Vec<IpAddr>,
    /// Search domains, those of leases apart.
    pub(super) search: Vec<String>,
}

/// What one link is to be.
#[derive(Debug)]
pub(super) struct LinkTarget {
    pub(super) name: String,
    pub(super) kind: KindTarget,
    pub(super) admin: Admin,
    pub(super) mtu: Option<u32>,
    pub(super) dhcp4: Dhcp4,
    pub(super) accept_ra: AcceptRa,
    /// Those from routers are not to be set, only to be left where they are.
    pub(super) addresses: Vec<Address>,
    /// The same holds for these.
    pub(super) routes: Vec<Route>,
}

/// A link that must be there, or one that can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KindTarget {
    Ethernet,
    Vlan { parent: String, tag: VlanTag },
}

impl Target {
    /// The target that a document is on this machine.
    pub(super) fn of_desired(desired: &Network, observed: &observed::Network) -> Result<Self, Impossible> {
        let mut names: Vec<(&str, &observed::Link)> = Vec::new();
        let mut links = Vec::new();
        for link in &desired.links {
            if let Link::Ethernet { id, select, settings } = link {
                let nic = find_nic(id, select, observed)?;
                if names.iter().any(|(_, taken)| taken.index == nic.index) {
                    let problem = format!("this is {}, which another entry describes already; merge the two", nic.name);
                    return Err(impossible(format!("network.ethernets.{id}.match"), problem));
                }
                names.push((id, nic));
                links.push(LinkTarget::of_settings(nic.name.clone(), KindTarget::Ethernet, settings));
                check_gateways(&format!("network.ethernets.{id}"), settings, Some(nic))?;
            }
        }
        for link in &desired.links {
            if let Link::Vlan { id, tag, parent, settings } = link {
                // Checked documents name a parent that exists and is an ethernet.
                let Some((_, below)) = names.iter().find(|(id, _)| id == parent) else { continue };
                let namesake = observed.links.iter().find(|link| link.name == *id);
                if namesake.is_some_and(|link| !matches!(link.kind, LinkKind::Vlan { .. })) {
                    let problem = "the name is taken by a link that is no VLAN; choose another";
                    return Err(impossible(format!("network.vlans.{id}"), problem));
                }
                let stated = desired.links.iter().find(|link| link.id() == parent).and_then(|l| l.settings().mtu);
                let limit = stated.unwrap_or(below.mtu);
                if let Some(mtu) = settings.mtu.filter(|mtu| *mtu > limit) {
                    let problem = format!("{mtu} is over {limit}, the MTU of {parent}; raise that one too");
                    return Err(impossible(format!("network.vlans.{id}.mtu"), problem));
                }
                let kind = KindTarget::Vlan { parent: below.name.clone(), tag: *tag };
                links.push(LinkTarget::of_settings(id.clone(), kind, settings));
                check_gateways(&format!("network.vlans.{id}"), settings, namesake)?;
            }
        }
        let settings = || desired.links.iter().map(Link::settings);
        Ok(Self {
            unwanted: vlans_on(&links, observed),
            links,
            nameservers: in_force(&[], settings().flat_map(|s| s.nameservers.iter().copied())),
            search: in_force(&[], settings().flat_map(|s| s.search.iter().cloned())),
        })
    }

    /// The target that is the state `before`, for the links that plans touch.
    pub(super) fn of_observed(before: &observed::Network, now: &observed::Network) -> Self {
        let is_new_vlan = |link: &&observed::Link| {
            matches!(link.kind, LinkKind::Vlan { .. }) && !before.links.iter().any(|old| old.name == link.name)
        };
        let mut links: Vec<_> = before.links.iter().filter_map(|link| LinkTarget::of_link(link, before)).collect();
        // A NIC that was pulled out cannot be brought back, nor can its VLANs.
        loop {
            let present = |name: &String| now.links.iter().any(|link| link.name == *name);
            let names: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
            let count = links.len();
            links.retain(|link| match &link.kind {
                KindTarget::Ethernet => present(&link.name),
                KindTarget::Vlan { parent, .. } => names.contains(parent) || present(parent),
            });
            if links.len() == count {
                break;
            }
        }
        let (nameservers, search) = Self::configured_resolvers(before);
        let unwanted = now.links.iter().filter(is_new_vlan).map(|link| link.name.clone()).collect();
        Self { links, unwanted, nameservers, search }
    }

    /// Resolvers and search domains that no lease explains.
    pub(super) fn configured_resolvers(network: &observed::Network) -> (Vec<IpAddr>, Vec<String>) {
        let leased = leases(network, |_| true);
        let servers: Vec<IpAddr> = leased.clone().flat_map(|lease| lease.nameservers.clone()).collect();
        let domains: Vec<String> = leased.flat_map(|lease| lease.search.clone()).collect();
        (fixed_part(&network.nameservers, &servers), fixed_part(&network.search, &domains))
    }
}

impl LinkTarget {
    fn of_settings(name: String, kind: KindTarget, settings: &Settings) -> Self {
        let routes = settings.routes.iter().map(|route| Route {
            link: name.clone(),
            to: route.to,
            via: Some(route.via),
            metric: metric_in_force(&route.to, route.metric),
            origin: Origin::Static,
            reach: route.reach,
        });
        Self {
            // Two metrics of a document can be one in force.
            routes: in_force(&[], routes),
            name,
            kind,
            admin: Admin::Up,
            mtu: settings.mtu,
            dhcp4: settings.dhcp4,
            accept_ra: settings.accept_ra,
            addresses: settings.addresses.iter().map(|net| Address { net: *net, origin: Origin::Static }).collect(),
        }
    }

    /// `None` for links that plans never touch.
    fn of_link(link: &observed::Link, network: &observed::Network) -> Option<Self> {
        let kind = match &link.kind {
            LinkKind::Ethernet => KindTarget::Ethernet,
            LinkKind::Vlan { parent, tag } => {
                let parent = network.links.iter().find(|link| link.index == *parent)?;
                KindTarget::Vlan { parent: parent.name.clone(), tag: *tag }
            }
            LinkKind::Foreign(_) => return None,
        };
        let held = |via: IpAddr| link.addresses.iter().any(|address| address.net.contains(&via));
        let routes = network.routes.iter().filter(|route| route.link == link.index && route.origin != Origin::Kernel);
        Some(Self {
            name: link.name.clone(),
            kind,
            admin: link.admin,
            mtu: Some(link.mtu),
            dhcp4: if link.dhcp4 == observed::Dhcp4::Off { Dhcp4::Off } else { Dhcp4::On },
            accept_ra: link.accept_ra,
            addresses: link.addresses.iter().filter(|address| address.origin != Origin::Kernel).copied().collect(),
            routes: routes
                .map(|route| Route {
                    link: link.name.clone(),
                    to: route.to,
                    via: route.via,
                    metric: route.metric,
                    origin: route.origin,
                    // The kernel does not tell how a gateway was reached; what no prefix holds can only be on the link.
                    reach: if route.via.is_none_or(held) { Reach::Prefix } else { Reach::OnLink },
                })
                .collect(),
        })
    }
}

fn impossible(field: String, problem: impl Into<String>) -> Impossible {
    Impossible { field, problem: problem.into() }
}

/// The NIC that an entry selects: by permanent MAC, then by the MAC in use, or by name.
fn find_nic<'a>(id: &str, select: &Select, observed: &'a observed::Network) -> Result<&'a observed::Link, Impossible> {
    let nics = || observed.links.iter().filter(|link| link.kind == LinkKind::Ethernet);
    let list = |links: &[&observed::Link]| links.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
    let missing = |wanted: String| {
        let present: Vec<String> = nics().map(|link| format!("{} ({})", link.name, link.permanent_mac)).collect();
        let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
        impossible(format!("network.ethernets.{id}"), format!("this machine has no NIC {wanted}; it has {present}"))
    };
    match select {
        Select::Name(name) => {
            nics().find(|link| link.name == *name).ok_or_else(|| missing(format!("with the name {name}")))
        }
        Select::Mac(mac) => {
            let mut found: Vec<_> = nics().filter(|link| link.permanent_mac == *mac).collect();
            if found.is_empty() {
                found = nics().filter(|link| link.mac == *mac).collect();
            }
            match found[..] {
                [nic] => Ok(nic),
                [] => Err(missing(format!("with MAC {mac}"))),
                _ => {
                    let problem = format!("{} all have MAC {mac}; name one of them instead", list(&found));
                    Err(impossible(format!("network.ethernets.{id}.match"), problem))
                }
            }
        }
    }
}

/// Refuses gateways that no prefix holds: not a static one, nor one that a router announced, nor one DHCP may bring.
fn check_gateways(field: &str, settings: &Settings, present: Option<&observed::Link>) -> Result<(), Impossible> {
    let announced = |address: &&Address| address.origin == Origin::Ra && settings.accept_ra != AcceptRa::Off;
    let announced: Vec<_> = present.iter().flat_map(|link| link.addresses.iter().filter(announced)).collect();
    for route in &settings.routes {
        let via = route.via;
        let held = settings.addresses.iter().any(|net| net.contains(&via))
            || announced.iter().any(|address| address.net.contains(&via))
            || match via {
                IpAddr::V4(_) => settings.dhcp4 == Dhcp4::On,
                IpAddr::V6(via) => via.is_unicast_link_local(),
            };
        if route.reach == Reach::Prefix && !held {
            let problem =
                format!("{via} is in none of the link's prefixes; add an address of its prefix or set on-link: true");
            return Err(impossible(format!("{field}.routes"), problem));
        }
    }
    Ok(())
}

/// VLANs, at any depth, on the links of a document that does not name them.
fn vlans_on(links: &[LinkTarget], observed: &observed::Network) -> Vec<String> {
    let mut described: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
    let mut found = Vec::new();
    loop {
        let next = observed.links.iter().find(|link| match link.kind {
            LinkKind::Vlan { parent, .. } => {
                let parent = observed.links.iter().find(|link| link.index == parent);
                !described.contains(&link.name.as_str())
                    && parent.is_some_and(|parent| described.contains(&parent.name.as_str()))
            }
            LinkKind::Ethernet | LinkKind::Foreign(_) => false,
        });
        let Some(link) = next else { return found };
        described.push(&link.name);
        found.push(link.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use muster_protocol::Mac;
    use muster_protocol::inventory::Carrier;

    use super::*;

    fn nic(index: u32, name: &str, mac: u8, permanent: u8) -> observed::Link {
        observed::Link {
            index,
            name: name.to_owned(),
            mac: Mac::from_bytes([2, 0, 0, 0, 0, mac]),
            permanent_mac: Mac::from_bytes([2, 0, 0, 0, 0, permanent]),
            kind: LinkKind::Ethernet,
            admin: Admin::Up,
            carrier: Carrier::Present,
            mtu: 1500,
            addresses: Vec::new(),
            dhcp4: observed::Dhcp4::Off,
            accept_ra: AcceptRa::Default,
        }
    }

    fn machine() -> observed::Network {
        // A bond gave both the MAC of the first; the hardware still knows better.
        let links = vec![nic(2, "eth0", 1, 1), nic(3, "eth1", 1, 2), nic(4, "eth2", 9, 3), nic(5, "eth3", 9, 4)];
        observed::Network { links, ..observed::Network::default() }
    }

    fn found(select: Select) -> Result<String, String> {
        find_nic("lan", &select, &machine()).map(|nic| nic.name.clone()).map_err(|why| why.to_string())
    }

    #[test]
    fn the_hardware_mac_wins_over_the_mac_in_use() {
        let mac = |last| Select::Mac(Mac::from_bytes([2, 0, 0, 0, 0, last]));
        assert_eq!(found(mac(1)).as_deref(), Ok("eth0"));
        assert_eq!(found(mac(2)).as_deref(), Ok("eth1"));
        assert_eq!(
            found(mac(9)),
            Err("network.ethernets.lan.match: eth2, eth3 all have MAC 02:00:00:00:00:09; name one of them instead"
                .to_owned())
        );
    }

    #[test]
    fn a_missing_nic_is_answered_with_those_that_are_there() {
        let why = found(Select::Name("enp1s0".to_owned())).expect_err("there is none");
        assert!(
            why.starts_with("network.ethernets.lan: this machine has no NIC with the name enp1s0; it has eth0 ("),
            "{why}"
        );
    }
}
