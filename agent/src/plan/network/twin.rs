//! A pure twin of the kernel's network: what it makes of each step, refusals and side effects included.
//!
//! Used by simulated machines, and by the tests that hold plans and reverts against it.
//! It knows the rules that plans depend on (Linux 6.1: net/ipv4/devinet.c, net/ipv4/fib_semantics.c,
//! net/ipv6/addrconf.c, net/8021q/vlan.c) and no others: frames do not flow here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use muster_protocol::desired::Reach;
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{Address, Admin, Dhcp4, Lease, Link, LinkKind, Network, Origin, Route};

use super::resolvers::{fixed_part, in_force, leases};
use super::{Change, Route as NamedRoute};

/// Why the kernel would not do a step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {why}")]
pub struct Refused {
    /// [`Change::action`].
    pub action: String,
    /// In the kernel's words where it has any.
    pub why: &'static str,
}

/// A machine's network, without the machine.
#[derive(Debug, Clone)]
pub struct Twin {
    network: Network,
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
    /// What DHCP servers would give, by link name. A client that starts gets it at once.
    offers: BTreeMap<String, Lease>,
}

impl Twin {
    /// A machine that looks like `network`; what its leases do not explain of the resolvers was configured.
    pub fn new(network: Network) -> Self {
        let leased: Vec<(String, Lease)> = network
            .links
            .iter()
            .filter_map(|link| match &link.dhcp4 {
                Dhcp4::Bound(lease) => Some((link.name.clone(), lease.clone())),
                Dhcp4::Off | Dhcp4::Searching => None,
            })
            .collect();
        let (servers, domains) = brought(&network);
        Self {
            offers: leased.into_iter().collect(),
            nameservers: fixed_part(&network.nameservers, &servers),
            search: fixed_part(&network.search, &domains),
            network,
        }
    }

    /// Puts a DHCP server on a link: a client that starts there gets this lease.
    pub fn offer(&mut self, link: &str, lease: Lease) {
        self.offers.insert(link.to_owned(), lease);
    }

    /// What there is now.
    pub fn observe(&self) -> &Network {
        &self.network
    }

    /// Does one step.
    ///
    /// Errors: what the kernel would refuse; then nothing changed.
    pub fn apply(&mut self, change: &Change) -> Result<(), Refused> {
        self.act(change).map_err(|why| Refused { action: change.action(), why })?;
        self.network.links.iter_mut().for_each(|link| link.addresses.sort());
        let (servers, domains) = brought(&self.network);
        self.network.nameservers = in_force(&self.nameservers, servers);
        self.network.search = in_force(&self.search, domains);
        Ok(())
    }

    fn act(&mut self, change: &Change) -> Result<(), &'static str> {
        match change {
            Change::StopDhcp { link } => self.link(link)?.dhcp4 = Dhcp4::Off,
            Change::DeleteVlan { link } => {
                if let Ok(link) = self.link(link) {
                    let index = link.index;
                    self.delete(index);
                }
            }
            Change::CreateVlan { link, parent, tag } => {
                let parent = self.link(parent)?.clone();
                let kind = LinkKind::Vlan { parent: parent.index, tag: *tag };
                if self.network.links.iter().any(|other| other.name == *link || other.kind == kind) {
                    return Err("File exists");
                }
                let index = self.network.links.iter().map(|link| link.index).max().unwrap_or(1) + 1;
                let name = link.clone();
                self.network.links.push(Link {
                    index,
                    name,
                    kind,
                    admin: Admin::Down,
                    carrier: Carrier::Absent,
                    addresses: Vec::new(),
                    dhcp4: Dhcp4::Off,
                    ..parent
                });
            }
            Change::SetMtu { link, mtu } => self.set_mtu(link, *mtu)?,
            Change::SetAcceptRa { link, accept_ra } => self.link(link)?.accept_ra = *accept_ra,
            Change::SetAdmin { link, admin: Admin::Up } => self.up(link)?,
            Change::SetAdmin { link, admin: Admin::Down } => {
                let index = self.link(link)?.index;
                self.down(index);
            }
            Change::AddAddress { link, address } => {
                let link = self.link(link)?;
                let namesake = |have: &Address| have.net.addr() == address.net.addr();
                if address.net.addr().is_ipv6()
                    && link.addresses.iter().any(|have| namesake(have) && have.net != address.net)
                {
                    return Err("address already assigned");
                }
                link.addresses.retain(|have| have.net != address.net);
                link.addresses.push(*address);
            }
            Change::RemoveAddress { link, address } => {
                let link = self.link(link)?;
                let count = link.addresses.len();
                link.addresses.retain(|have| have != address);
                let index = link.index;
                let last = !link.addresses.iter().any(|have| have.net.addr().is_ipv4());
                if address.net.addr().is_ipv4() && last && link.addresses.len() < count {
                    self.network.routes.retain(|route| route.link != index || route.to.addr().is_ipv6());
                }
            }
            Change::StartDhcp { link } => self.start_dhcp(link)?,
            Change::AwaitLease { link } => {
                if !matches!(self.link(link)?.dhcp4, Dhcp4::Bound(_)) {
                    return Err("no lease within the time");
                }
            }
            Change::AddRoute(route) => self.add_route(route)?,
            Change::AwaitUnique { link } => {
                self.link(link)?;
            }
            Change::RemoveRoute(route) => {
                let index = self.link(&route.link)?.index;
                let is_it = |have: &Route| {
                    have.link == index
                        && have.to == route.to
                        && have.via == route.via
                        && have.metric == route.metric
                        && have.origin == route.origin
                };
                self.network.routes.retain(|have| !is_it(have));
            }
            Change::SetResolvers { nameservers, search } => {
                self.nameservers.clone_from(nameservers);
                self.search.clone_from(search);
            }
        }
        Ok(())
    }

    fn link(&mut self, name: &str) -> Result<&mut Link, &'static str> {
        self.network.links.iter_mut().find(|link| link.name == name).ok_or("No such device")
    }

    fn children(&self, index: u32) -> Vec<u32> {
        let on = |link: &&Link| matches!(link.kind, LinkKind::Vlan { parent, .. } if parent == index);
        self.network.links.iter().filter(on).map(|link| link.index).collect()
    }

    fn delete(&mut self, index: u32) {
        for child in self.children(index) {
            self.delete(child);
        }
        self.network.links.retain(|link| link.index != index);
        self.network.routes.retain(|route| route.link != index);
    }

    /// A VLAN's MTU is at most its parent's, and follows it down.
    fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), &'static str> {
        let link = self.link(name)?;
        let (index, kind) = (link.index, link.kind.clone());
        if let LinkKind::Vlan { parent, .. } = kind
            && self.network.links.iter().any(|link| link.index == parent && link.mtu < mtu)
        {
            return Err("Numerical result out of range");
        }
        self.link(name)?.mtu = mtu;
        self.clamp_mtu(index, mtu);
        Ok(())
    }

    fn clamp_mtu(&mut self, parent: u32, limit: u32) {
        for child in self.children(parent) {
            self.network.links.iter_mut().filter(|link| link.index == child).for_each(|l| l.mtu = l.mtu.min(limit));
            self.clamp_mtu(child, limit);
        }
    }

    /// VLANs come up with their parent, and cannot without it.
    fn up(&mut self, name: &str) -> Result<(), &'static str> {
        let kind = self.link(name)?.kind.clone();
        if let LinkKind::Vlan { parent, .. } = kind
            && self.network.links.iter().any(|link| link.index == parent && link.admin == Admin::Down)
        {
            return Err("Network is down");
        }
        let link = self.link(name)?;
        link.admin = Admin::Up;
        link.carrier = Carrier::Present;
        let index = link.index;
        for child in self.children(index) {
            let name = self.network.links.iter().find(|link| link.index == child).map(|link| link.name.clone());
            name.map_or(Ok(()), |name| self.up(&name))?;
        }
        Ok(())
    }

    /// Going down costs a link its routes and its IPv6 addresses, and takes its VLANs along.
    fn down(&mut self, index: u32) {
        for child in self.children(index) {
            self.down(child);
        }
        for link in self.network.links.iter_mut().filter(|link| link.index == index && link.admin == Admin::Up) {
            link.admin = Admin::Down;
            link.addresses.retain(|address| address.net.addr().is_ipv4());
            self.network.routes.retain(|route| route.link != index);
        }
    }

    fn start_dhcp(&mut self, name: &str) -> Result<(), &'static str> {
        let offer = self.offers.get(name).cloned();
        let link = self.link(name)?;
        let Some(lease) = offer else {
            link.dhcp4 = Dhcp4::Searching;
            return Ok(());
        };
        link.addresses.retain(|have| have.net != lease.address);
        link.addresses.push(Address { net: lease.address, origin: Origin::Dhcp });
        link.dhcp4 = Dhcp4::Bound(lease);
        Ok(())
    }

    fn add_route(&mut self, route: &NamedRoute) -> Result<(), &'static str> {
        let link = self.link(&route.link)?;
        if link.admin == Admin::Down {
            return Err("Network is down");
        }
        let index = link.index;
        if let Some(via) = route.via {
            let link_local = matches!(via, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let held = link.addresses.iter().any(|address| address.net.contains(&via));
            if route.reach == Reach::Prefix && !held && !link_local {
                return Err("Nexthop has invalid gateway");
            }
        }
        let same = |have: &Route| {
            have.link == index && have.to == route.to && have.via == route.via && have.metric == route.metric
        };
        // IPv4 tells routes apart by their origin too, IPv6 does not.
        let there = |have: &Route| same(have) && (route.to.addr().is_ipv6() || have.origin == route.origin);
        if !self.network.routes.iter().any(there) {
            let NamedRoute { to, via, metric, origin, .. } = *route;
            self.network.routes.push(Route { to, via, link: index, metric, origin });
        }
        Ok(())
    }
}

/// The resolvers and search domains that leases brought.
fn brought(network: &Network) -> (Vec<IpAddr>, Vec<String>) {
    let leased = leases(network, |_| true);
    let servers = leased.clone().flat_map(|lease| lease.nameservers.clone()).collect();
    (servers, leased.flat_map(|lease| lease.search.clone()).collect())
}
