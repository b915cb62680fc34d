//! The target that a document is on this machine.

use std::collections::BTreeMap;

use ipnet::IpNet;
use muster_protocol::desired::{
    self, Bond, BondOption, Bridge, BridgeOption, Dhcp, LeaseUse, Link, MAIN_TABLE, Reach, Settings, WakeOnLan,
};
use muster_protocol::observed::{self, Address, Admin, Network, Origin};

use super::before::below_first;
use super::nics::{self, impossible};
use super::{BondTarget, KindTarget, LinkTarget, PortTarget, Target, below, can_be_made};
use crate::plan::Impossible;
use crate::plan::network::resolvers::in_force;
use crate::plan::network::{ETHERNET_MTU, Past, Route, as_kept, metric_in_force};
use crate::sort;

/// The metric of the routes that the kernel makes for prefixes of IPv6 (include/net/ip6_route.h, IP6_RT_PRIO_ADDRCONF).
const KERNELS_METRIC: u32 = 256;

/// A link of the document, and the names that it has on this machine: several where a match fits several NICs.
struct Placed<'a> {
    entry: &'a Link,
    names: Vec<String>,
    /// Of NICs: what they are, under the names that they boot with.
    present: Vec<&'a observed::Link>,
}

impl Target {
    /// The target that a document is on this machine.
    ///
    /// Errors: the first thing that does not fit.
    pub(in crate::plan::network) fn of_desired(
        desired: &desired::Network,
        past: &Past,
        observed: &Network,
    ) -> Result<Self, Impossible> {
        // What fits only for as long as the machine runs would not lead home after a boot.
        let booted = past.as_named_at_boot(observed);
        let placed = place(desired, &booted)?;
        let ports = ports(&placed)?;
        let mut links = Vec::new();
        for Placed { entry, names, present } in &placed {
            let field = format!("network.{}.{}", entry.section(), entry.id);
            for (at, name) in names.iter().enumerate() {
                let there = match present.get(at) {
                    Some(nic) => observed.links.iter().find(|link| link.index == nic.index),
                    None => observed.links.iter().find(|link| link.name == *name),
                };
                let port = ports.get(name).cloned();
                let mut link = LinkTarget {
                    present: there.map(|link| link.name.clone()),
                    kind: kind(entry, &placed)?,
                    mtu: mtu(entry, &placed, || there.and_then(|nic| past.boot_mtu(nic, observed))),
                    port,
                    ..of_settings(name, &entry.settings)
                };
                if let desired::LinkKind::Ethernet(ethernet) = &entry.kind {
                    link.wake_on_lan = ethernet.wake_on_lan;
                    let unable = there.is_some_and(|link| link.wake_on_lan == observed::WakeOnLan::Unable);
                    if unable && link.wake_on_lan == WakeOnLan::On {
                        let problem = format!("{name} cannot wake the machine; leave it out");
                        return Err(impossible(format!("{field}.wakeonlan"), problem));
                    }
                    if unable {
                        link.wake_on_lan = WakeOnLan::Keep;
                    }
                }
                if let Some(nic) = there.filter(|_| link.kind == KindTarget::Ethernet) {
                    check_mtu(entry, &placed, name, nic)?;
                }
                check_gateways(&field, &link, &entry.settings, there)?;
                links.push(link);
            }
        }
        let given_back = given_back(&placed, past, &booted, observed);
        links.extend(given_back.nics);
        let mut links = below_first(links);
        if past.is_known() {
            unsaid_mtus(&mut links, observed);
        }
        check_mtus(&links, observed)?;
        let mut unwanted = unwanted(&links, observed);
        unwanted.extend(given_back.links.into_iter().filter(|name| !unwanted.contains(name)).collect::<Vec<_>>());
        let settings = || desired.links.iter().map(|link| &link.settings);
        Ok(Self {
            unwanted,
            links,
            rules: in_force(&[], settings().flat_map(|s| s.rules.iter().map(as_kept))),
            nameservers: in_force(&[], settings().flat_map(|s| s.nameservers.iter().copied())),
            search: in_force(&[], settings().flat_map(|s| s.search.iter().cloned())),
            ntp: in_force(&[], desired.ntp.iter().cloned()),
            hostname: desired.hostname.clone(),
        })
    }
}

/// The kernel's indexes of what an entry is on this machine.
pub(in crate::plan::network) fn indexes(entry: &Link, past: &Past, observed: &Network) -> Vec<u32> {
    let index = |link: &observed::Link| link.index;
    match &entry.kind {
        desired::LinkKind::Ethernet(ethernet) => {
            let booted = past.as_named_at_boot(observed);
            nics::find(entry, ethernet, &booted).unwrap_or_default().into_iter().map(index).collect()
        }
        _ => observed.links.iter().filter(|link| link.name == entry.id).map(index).collect(),
    }
}

/// What the document in force describes and the next one does not.
struct GivenBack {
    /// As they boot, asking for an address.
    nics: Vec<LinkTarget>,
    /// What was made of them, by name.
    links: Vec<String>,
}

fn given_back(placed: &[Placed<'_>], past: &Past, booted: &Network, observed: &Network) -> GivenBack {
    let mut back = GivenBack { nics: Vec::new(), links: Vec::new() };
    for entry in past.in_force.iter().flat_map(|document| &document.links) {
        let desired::LinkKind::Ethernet(ethernet) = &entry.kind else {
            let is_there = |link: &&observed::Link| link.name == entry.id && can_be_made(link);
            let is_named = placed.iter().any(|placed| placed.names.contains(&entry.id));
            back.links.extend(observed.links.iter().find(is_there).filter(|_| !is_named).map(|link| link.name.clone()));
            continue;
        };
        // One that is gone has nothing any more.
        for nic in nics::find(entry, ethernet, booted).unwrap_or_default() {
            let is_described = placed.iter().flat_map(|placed| &placed.present).any(|other| other.index == nic.index);
            let is_known = back.nics.iter().any(|other| other.name == nic.name);
            let present =
                observed.links.iter().find(|link| link.index == nic.index).filter(|_| !is_described && !is_known);
            back.nics.extend(present.map(|present| LinkTarget {
                present: Some(present.name.clone()),
                mtu: Some(past.boot_mtu(present, observed).unwrap_or(ETHERNET_MTU)),
                ..of_settings(&nic.name, &Settings { dhcp4: Dhcp::On(LeaseUse::default()), ..Settings::default() })
            }));
        }
    }
    back
}

/// Bonds, bridges and VLANs of which no MTU is said have what they are made with, whatever they had before.
fn unsaid_mtus(links: &mut [LinkTarget], observed: &Network) {
    for at in 0..links.len() {
        let link = &links[at];
        let is_below = |below: &&LinkTarget| match &link.kind {
            KindTarget::Vlan { parent, .. } => below.name == *parent,
            KindTarget::Bridge(_) => below.port.as_ref().is_some_and(|port| port.of == link.name),
            KindTarget::Bond(_) | KindTarget::Ethernet => false,
        };
        let below = links.iter().filter(is_below).map(|below| mtu_to_be(below, links, observed)).min();
        let made_with = match &link.kind {
            KindTarget::Ethernet => None,
            KindTarget::Vlan { .. } => Some(below.unwrap_or(ETHERNET_MTU).min(ETHERNET_MTU)),
            KindTarget::Bond(_) => Some(ETHERNET_MTU),
            KindTarget::Bridge(_) => Some(below.unwrap_or(ETHERNET_MTU)),
        };
        links[at].mtu = link.mtu.or(made_with.filter(|_| !is_bond_port(link, links)));
    }
}

fn is_bond_port(link: &LinkTarget, links: &[LinkTarget]) -> bool {
    let of = link.port.as_ref().and_then(|port| links.iter().find(|above| above.name == port.of));
    of.is_some_and(|above| matches!(above.kind, KindTarget::Bond(_)))
}

fn place<'a>(desired: &'a desired::Network, observed: &'a Network) -> Result<Vec<Placed<'a>>, Impossible> {
    let mut placed: Vec<Placed<'_>> = Vec::new();
    for entry in &desired.links {
        let field = format!("network.{}.{}", entry.section(), entry.id);
        let desired::LinkKind::Ethernet(ethernet) = &entry.kind else {
            let namesake = observed.links.iter().find(|link| link.name == entry.id);
            if namesake.is_some_and(|link| !can_be_made(link)) {
                let problem = "the name is taken by a link that Muster did not make; choose another";
                return Err(impossible(field, problem));
            }
            placed.push(Placed { entry, names: vec![entry.id.clone()], present: Vec::new() });
            continue;
        };
        let present = nics::find(entry, ethernet, observed)?;
        for nic in &present {
            if placed.iter().flat_map(|p| &p.present).any(|taken| taken.index == nic.index) {
                let problem = format!("this is {}, which another entry describes already; merge the two", nic.name);
                return Err(impossible(format!("{field}.match"), problem));
            }
        }
        let names = present.iter().map(|nic| ethernet.set_name.clone().unwrap_or_else(|| nic.name.clone())).collect();
        placed.push(Placed { entry, names, present });
    }
    check_names(&placed, observed)?;
    Ok(placed)
}

/// No two links get one name, and none the name of a link that the document does not describe.
fn check_names(placed: &[Placed<'_>], observed: &Network) -> Result<(), Impossible> {
    let described = |link: &observed::Link| placed.iter().flat_map(|p| &p.present).any(|nic| nic.index == link.index);
    for (at, Placed { entry, names, .. }) in placed.iter().enumerate() {
        let field = || match entry.kind {
            desired::LinkKind::Ethernet(_) => format!("network.ethernets.{}.set-name", entry.id),
            _ => format!("network.{}.{}", entry.section(), entry.id),
        };
        for name in names {
            if placed[..at].iter().any(|other| other.names.contains(name)) {
                return Err(impossible(field(), format!("another entry is {name} already; choose another name")));
            }
            let namesake = observed.links.iter().find(|link| link.name == *name);
            if namesake.is_some_and(|link| !described(link) && !can_be_made(link)) {
                let problem =
                    format!("{name} is the name of a link that the document does not describe; choose another");
                return Err(impossible(field(), problem));
            }
        }
    }
    Ok(())
}

/// Which link is a port of which, by name.
fn ports(placed: &[Placed<'_>]) -> Result<BTreeMap<String, PortTarget>, Impossible> {
    let mut ports = BTreeMap::new();
    for Placed { entry, .. } in placed {
        let costs = match &entry.kind {
            desired::LinkKind::Bond(_) => &BTreeMap::new(),
            desired::LinkKind::Bridge(bridge) => &bridge.costs,
            desired::LinkKind::Ethernet(_) | desired::LinkKind::Vlan { .. } => continue,
        };
        for id in entry.below() {
            let cost = costs.get(id).copied().unwrap_or_default();
            for name in names_of(id, placed) {
                ports.insert(name.clone(), PortTarget { of: entry.id.clone(), cost });
            }
        }
    }
    Ok(ports)
}

/// The names of a link of the document; checked documents name links that are there.
fn names_of<'a>(id: &str, placed: &'a [Placed<'_>]) -> &'a [String] {
    placed.iter().find(|placed| placed.entry.id == *id).map_or(&[], |placed| &placed.names)
}

/// The one name of a link of the document.
fn name_of(field: &str, id: &str, placed: &[Placed<'_>]) -> Result<String, Impossible> {
    match names_of(id, placed) {
        [name] => Ok(name.clone()),
        names => {
            let problem = format!("{id} is {} NICs; name one", names.len());
            Err(impossible(field.to_owned(), problem))
        }
    }
}

fn kind(entry: &Link, placed: &[Placed<'_>]) -> Result<KindTarget, Impossible> {
    Ok(match &entry.kind {
        desired::LinkKind::Ethernet(_) => KindTarget::Ethernet,
        desired::LinkKind::Bond(bond) => {
            let field = format!("network.bonds.{}.parameters.primary", entry.id);
            KindTarget::Bond(BondTarget {
                mode: bond.mode,
                options: bond_options(bond),
                arp_ip_targets: bond.arp_ip_targets.clone(),
                primary: bond.primary.as_ref().map(|id| name_of(&field, id, placed)).transpose()?,
            })
        }
        desired::LinkKind::Bridge(bridge) => KindTarget::Bridge(bridge_options(bridge)),
        desired::LinkKind::Vlan { tag, parent } => {
            let field = format!("network.vlans.{}.link", entry.id);
            KindTarget::Vlan { parent: name_of(&field, parent, placed)?, tag: *tag }
        }
    })
}

fn bond_options(bond: &Bond) -> BTreeMap<BondOption, u32> {
    let known = BondOption::ALL.into_iter().filter(|option| option.is_of(bond.mode));
    sort::map(known.map(|option| (option, bond.option(option))))
}

fn bridge_options(bridge: &Bridge) -> BTreeMap<BridgeOption, u32> {
    sort::map(BridgeOption::ALL.into_iter().map(|option| (option, bridge.option(option))))
}

/// What is said of a link's MTU: a bond's port has the bond's, and a bond that of its ports where it says nothing. A NIC of
/// which nothing is said has the one that it boots with.
fn mtu(entry: &Link, placed: &[Placed<'_>], at_boot: impl FnOnce() -> Option<u32>) -> Option<u32> {
    match &entry.kind {
        desired::LinkKind::Ethernet(_) if bond_of(entry, placed).is_some() => None,
        desired::LinkKind::Ethernet(_) => entry.settings.mtu.or_else(at_boot),
        _ => says_mtu(entry, placed).map(|(_, mtu)| mtu),
    }
}

/// The bond that a link is a port of.
fn bond_of<'a>(entry: &Link, placed: &[Placed<'a>]) -> Option<&'a Link> {
    let is_it = |above: &&Link| matches!(&above.kind, desired::LinkKind::Bond(bond) if bond.ports.contains(&entry.id));
    placed.iter().map(|above| above.entry).find(is_it)
}

/// The MTU that a link is to have, and where it is said: at the link itself, or at one of a bond's ports.
fn says_mtu<'a>(entry: &'a Link, placed: &[Placed<'a>]) -> Option<(&'a Link, u32)> {
    let own = |link: &'a Link| link.settings.mtu.map(|mtu| (link, mtu));
    own(entry).or_else(|| match &entry.kind {
        desired::LinkKind::Bond(bond) => {
            let ports = placed.iter().map(|port| port.entry).filter(|port| bond.ports.contains(&port.id));
            ports.filter_map(own).min_by_key(|(_, mtu)| *mtu)
        }
        _ => None,
    })
}

/// Refuses what a NIC's driver would: it says between which MTUs it is.
fn check_mtu(entry: &Link, placed: &[Placed<'_>], name: &str, nic: &observed::Link) -> Result<(), Impossible> {
    let Some((at, mtu)) = says_mtu(bond_of(entry, placed).unwrap_or(entry), placed) else { return Ok(()) };
    let (least, most) = (nic.min_mtu, nic.max_mtu);
    let problem = match mtu {
        _ if mtu < least => format!("{mtu} is too little: {name} takes {least} at least"),
        _ if most > 0 && mtu > most => format!("{mtu} is too much: {name} takes {most} at most"),
        _ => return Ok(()),
    };
    Err(impossible(format!("network.{}.{}.mtu", at.section(), at.id), problem))
}

fn of_settings(name: &str, settings: &Settings) -> LinkTarget {
    let routes = settings.routes.iter().map(|route| Route {
        link: name.to_owned(),
        to: route.to,
        via: route.via,
        metric: metric_in_force(&route.to, route.metric),
        table: route.table,
        origin: if is_the_kernels(route, settings) { Origin::Kernel } else { Origin::Static },
        reach: route.reach,
    });
    LinkTarget {
        // Two metrics of a document can be one in force.
        routes: in_force(&[], routes),
        name: name.to_owned(),
        present: None,
        kind: KindTarget::Ethernet,
        port: None,
        admin: Admin::Up,
        mtu: settings.mtu,
        wake_on_lan: WakeOnLan::Keep,
        dhcp4: settings.dhcp4,
        dhcp6: settings.dhcp6,
        accept_ra: settings.accept_ra,
        privacy: settings.privacy,
        addresses: settings.addresses.iter().map(|net| Address { net: *net, origin: Origin::Static }).collect(),
        neighbors: in_force(&[], settings.neighbors.iter().copied()),
    }
}

/// Whether the kernel makes a route by itself, for one of the link's addresses (net/ipv4/fib_frontend.c, fib_add_ifaddr;
/// net/ipv6/addrconf.c, addrconf_prefix_route).
fn is_the_kernels(route: &desired::Route, settings: &Settings) -> bool {
    let metric = if route.to.addr().is_ipv4() { 0 } else { KERNELS_METRIC };
    let is_made = |net: &IpNet| net.trunc() == route.to && (net.addr().is_ipv6() || net.prefix_len() < 32);
    route.via.is_none()
        && route.table == MAIN_TABLE
        && metric_in_force(&route.to, route.metric) == metric
        && settings.addresses.iter().any(is_made)
}

/// Refuses gateways that no prefix holds: not a static one, nor one that a router announced, nor one DHCP may bring.
fn check_gateways(
    field: &str,
    link: &LinkTarget,
    settings: &Settings,
    present: Option<&observed::Link>,
) -> Result<(), Impossible> {
    let announced = |address: &&Address| address.origin == Origin::Ra && settings.accept_ra != desired::AcceptRa::Off;
    let announced: Vec<_> = present.iter().flat_map(|link| link.addresses.iter().filter(announced)).collect();
    for (i, route) in settings.routes.iter().enumerate() {
        let Some(via) = route.via else { continue };
        let held = link.may_hold(via) || announced.iter().any(|address| address.net.contains(&via));
        if route.reach == Reach::Prefix && !held {
            let problem =
                format!("{via} is in none of the link's prefixes; add an address of its prefix or set on-link: true");
            return Err(impossible(format!("{field}.routes[{i}].via"), problem));
        }
    }
    Ok(())
}

/// A VLAN's MTU is at most that of the link below.
fn check_mtus(links: &[LinkTarget], observed: &Network) -> Result<(), Impossible> {
    for link in links {
        let (KindTarget::Vlan { parent, .. }, Some(mtu)) = (&link.kind, link.mtu) else { continue };
        let Some(below) = links.iter().find(|below| below.name == *parent) else { continue };
        let limit = mtu_to_be(below, links, observed);
        if mtu > limit {
            let problem = format!("{mtu} is over {limit}, the MTU of {parent}; raise that one too");
            return Err(impossible(format!("network.vlans.{}.mtu", link.name), problem));
        }
    }
    Ok(())
}

/// The MTU that a link will have for sure: what is said or, where nothing is, what it is and what it may become.
fn mtu_to_be(link: &LinkTarget, links: &[LinkTarget], observed: &Network) -> u32 {
    let of = |link| mtu_to_be(link, links, observed);
    let present = observed.links.iter().find(|present| Some(&present.name) == link.present.as_ref());
    let as_is = present.map(|present| present.mtu);
    // A bond or bridge may be made anew, and then has what the kernel gives it; a bridge follows its ports, unless its MTU
    // was set before.
    let made = |limit: u32| as_is.map_or(limit, |as_is| as_is.min(limit));
    link.mtu.unwrap_or_else(|| match &link.kind {
        KindTarget::Ethernet => as_is.unwrap_or(ETHERNET_MTU),
        KindTarget::Vlan { parent, .. } => {
            let below = links.iter().find(|below| below.name == *parent).map_or(ETHERNET_MTU, of);
            as_is.unwrap_or(ETHERNET_MTU).min(below)
        }
        KindTarget::Bond(_) => made(ETHERNET_MTU),
        KindTarget::Bridge(_) => {
            let is_port = |port: &&LinkTarget| port.port.as_ref().is_some_and(|port| port.of == link.name);
            made(links.iter().filter(is_port).map(of).min().unwrap_or(ETHERNET_MTU))
        }
    })
}

/// What is made of the links of a document, and which it does not name: VLANs on them, bonds and bridges of nothing else.
fn unwanted(links: &[LinkTarget], observed: &Network) -> Vec<String> {
    let named = |link: &observed::Link| links.iter().any(|wanted| wanted.name == link.name);
    let described = |link: &observed::Link| links.iter().any(|wanted| wanted.present.as_ref() == Some(&link.name));
    let mut going: Vec<u32> = Vec::new();
    let mut found = Vec::new();
    loop {
        let next = observed.links.iter().find(|link| {
            let below = below(link, observed);
            let goes = |index: &u32| {
                going.contains(index)
                    || observed.links.iter().any(|link| link.index == *index && (described(link) || named(link)))
            };
            can_be_made(link)
                && !named(link)
                && !going.contains(&link.index)
                && !below.is_empty()
                && below.iter().all(goes)
        });
        let Some(link) = next else { return found };
        going.push(link.index);
        found.push(link.name.clone());
    }
}
