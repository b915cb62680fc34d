//! From what is to what is to be: the steps, their order and their impact.
//!
//! The one place that knows which order keeps a machine reachable; used for plans and reverts alike.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::desired::{AcceptRa, Dhcp4, Reach};
use muster_protocol::observed::{self, Admin, LinkKind, Network, Origin};
use muster_protocol::to_agent::Impact;

use super::resolvers::{in_force, leases};
use super::target::{KindTarget, LinkTarget, Target};
use super::{Change, Route, Step};
use crate::sort;

/// When a step comes. Within a phase, links keep their order: parents before VLANs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    StopDhcp,
    ClearTheWay,
    /// Before VLANs are made, which take their parent's MTU over.
    EthernetMtu,
    Create,
    VlanMtu,
    /// Before links come up, so that an unwanted advertisement is never taken.
    AcceptRa,
    Admin,
    NewAddresses,
    Lease,
    NewRoutes,
    Unique,
    OldRoutes,
    OldAddresses,
    /// Routes that the removal of a link's last IPv4 address takes away.
    LostRoutes,
    Delete,
    Resolvers,
}

/// The steps that lead from `observed` to `target`.
pub(super) fn between(target: &Target, observed: &Network) -> Vec<Step> {
    let mut planner = Planner { observed, gone: Vec::new(), changes: Vec::new() };
    planner.clear_the_way(target);
    for link in &target.links {
        planner.link(link);
    }
    planner.delete_unwanted(target);
    planner.resolvers(target);
    planner.finish()
}

struct Planner<'a> {
    observed: &'a Network,
    /// Links that are deleted before anything is built.
    gone: Vec<&'a str>,
    changes: Vec<(Phase, Change)>,
}

impl<'a> Planner<'a> {
    fn add(&mut self, phase: Phase, change: Change) {
        self.changes.push((phase, change));
    }

    /// Deletes the VLANs in whose place another is to be made: same name, or same tag on the same parent.
    fn clear_the_way(&mut self, target: &Target) {
        for link in &self.observed.links {
            let LinkKind::Vlan { parent, tag } = link.kind else { continue };
            let parent = name_of(self.observed, parent);
            let matches = |wanted: &LinkTarget| match &wanted.kind {
                KindTarget::Vlan { parent: p, tag: t } => Some(p.as_str()) == parent && *t == tag,
                KindTarget::Ethernet => false,
            };
            if target.links.iter().any(|wanted| (wanted.name == link.name) != matches(wanted)) {
                self.forget(link);
                self.add(Phase::ClearTheWay, Change::DeleteVlan { link: link.name.clone() });
            }
        }
    }

    /// Notes that a link goes, and all VLANs on it with it.
    fn forget(&mut self, link: &'a observed::Link) {
        if !self.gone.contains(&link.name.as_str()) {
            self.gone.push(&link.name);
            if link.dhcp4 != observed::Dhcp4::Off {
                self.add(Phase::StopDhcp, Change::StopDhcp { link: link.name.clone() });
            }
            let observed = self.observed;
            for above in &observed.links {
                if matches!(above.kind, LinkKind::Vlan { parent, .. } if parent == link.index) {
                    self.forget(above);
                }
            }
        }
    }

    fn delete_unwanted(&mut self, target: &Target) {
        let observed = self.observed;
        for link in &observed.links {
            if target.unwanted.contains(&link.name) && !self.gone.contains(&link.name.as_str()) {
                self.forget(link);
                self.add(Phase::Delete, Change::DeleteVlan { link: link.name.clone() });
            }
        }
    }

    fn link(&mut self, wanted: &LinkTarget) {
        let present = self.observed.links.iter().find(|link| link.name == wanted.name);
        let present = present.filter(|link| !self.gone.contains(&link.name.as_str()));
        let link = wanted.name.clone();
        if let (None, KindTarget::Vlan { parent, tag }) = (present, &wanted.kind) {
            self.add(Phase::Create, Change::CreateVlan { link, parent: parent.clone(), tag: *tag });
        }
        let current = match present {
            Some(link) => Current::of(link, wanted, self.observed),
            None => Current::fresh(),
        };
        self.basics(wanted, &current);
        self.addresses(wanted, &current);
        self.lease(wanted, &current);
        self.routes(wanted, &current);
    }

    fn basics(&mut self, wanted: &LinkTarget, current: &Current) {
        let link = || wanted.name.clone();
        if let Some(mtu) = wanted.mtu.filter(|mtu| current.mtu != Some(*mtu)) {
            let phase = if wanted.kind == KindTarget::Ethernet { Phase::EthernetMtu } else { Phase::VlanMtu };
            self.add(phase, Change::SetMtu { link: link(), mtu });
        }
        if current.accept_ra != Some(wanted.accept_ra) {
            self.add(Phase::AcceptRa, Change::SetAcceptRa { link: link(), accept_ra: wanted.accept_ra });
        }
        if current.admin != wanted.admin {
            self.add(Phase::Admin, Change::SetAdmin { link: link(), admin: wanted.admin });
        }
        if wanted.dhcp4 == Dhcp4::Off && current.dhcp4 == Dhcp4::On {
            self.add(Phase::StopDhcp, Change::StopDhcp { link: link() });
        }
    }

    fn addresses(&mut self, wanted: &LinkTarget, current: &Current) {
        let link = || wanted.name.clone();
        let is_wanted = |net: IpNet| wanted.addresses.iter().any(|address| address.net == net);
        let is_old = |have: &observed::Address| is_unwanted(have.origin, wanted) && !is_wanted(have.net);
        let mut replaced = Vec::new();
        for address in wanted.addresses.iter().filter(|address| address.origin != Origin::Ra) {
            let fits = |have: &observed::Address| {
                have.net == address.net
                    && (fits(have.origin, address.origin, wanted, current) || have.origin == Origin::Kernel)
            };
            if current.addresses.iter().any(fits) || wanted.keeps_lease(current, address.origin) {
                continue;
            }
            // IPv6 has an address once per link, whatever its prefix length: it cannot be added before the old one goes.
            let namesake = |have: &&observed::Address| have.net.addr() == address.net.addr() && have.net != address.net;
            if address.net.addr().is_ipv6()
                && let Some(have) = current.addresses.iter().find(namesake)
            {
                replaced.push(have.net);
                self.add(Phase::NewAddresses, Change::RemoveAddress { link: link(), address: *have });
            }
            self.add(Phase::NewAddresses, Change::AddAddress { link: link(), address: *address });
            let unique = Change::AwaitUnique { link: link() };
            if address.net.addr().is_ipv6() && wanted.admin == Admin::Up && !self.has(&unique) {
                self.add(Phase::Unique, unique);
            }
        }
        for have in current.addresses.iter().filter(|have| is_old(have) && !replaced.contains(&have.net)) {
            self.add(Phase::OldAddresses, Change::RemoveAddress { link: link(), address: *have });
        }
    }

    fn lease(&mut self, wanted: &LinkTarget, current: &Current) {
        if wanted.dhcp4 == Dhcp4::Off {
            return;
        }
        if current.dhcp4 == Dhcp4::Off {
            self.add(Phase::Lease, Change::StartDhcp { link: wanted.name.clone() });
        }
        let needs_lease = |route: &Route| match route.via {
            Some(via @ IpAddr::V4(_)) => {
                route.reach == Reach::Prefix && !wanted.addresses.iter().any(|address| address.net.contains(&via))
            }
            Some(IpAddr::V6(_)) | None => false,
        };
        if !current.bound && wanted.routes.iter().any(needs_lease) {
            self.add(Phase::Lease, Change::AwaitLease { link: wanted.name.clone() });
        }
    }

    fn routes(&mut self, wanted: &LinkTarget, current: &Current) {
        let same =
            |have: &Route, route: &Route| have.to == route.to && have.via == route.via && have.metric == route.metric;
        let does = |have: &Route, route: &Route| {
            let announced = have.origin == Origin::Ra && wanted.accept_ra != AcceptRa::Off;
            same(have, route) && (announced || fits(have.origin, route.origin, wanted, current))
        };
        let loses_all_ipv4 = self.loses_all_ipv4(&wanted.name, current);
        for route in wanted.routes.iter().filter(|route| route.origin != Origin::Ra) {
            let lost = loses_all_ipv4 && route.to.addr().is_ipv4();
            let there =
                current.routes.iter().any(|have| does(have, route)) || wanted.keeps_lease(current, route.origin);
            if lost || !there {
                let phase = if lost { Phase::LostRoutes } else { Phase::NewRoutes };
                // IPv6 takes a route that differs in its origin only for the same one, and would keep the announced one.
                let announced = current.routes.iter().find(|have| same(have, route) && have.origin == Origin::Ra);
                if let Some(have) = announced {
                    self.add(phase, Change::RemoveRoute(have.clone()));
                }
                self.add(phase, Change::AddRoute(route.clone()));
            }
        }
        for have in &current.routes {
            let replaced = have.origin == Origin::Ra && wanted.routes.iter().any(|route| same(have, route));
            let wished = wanted.routes.iter().any(|route| does(have, route));
            if is_unwanted(have.origin, wanted) && !replaced && !wished {
                self.add(Phase::OldRoutes, Change::RemoveRoute(have.clone()));
            }
        }
    }

    /// Whether the steps so far take the last IPv4 address from a link: the kernel then drops all its IPv4 routes.
    fn loses_all_ipv4(&self, name: &str, current: &Current) -> bool {
        let is_ipv4 = |address: &&observed::Address| address.net.addr().is_ipv4();
        let removed = |have: &observed::Address| {
            let is_it = |change: &Change| matches!(change, Change::RemoveAddress { link, address } if link == name && address == have);
            self.changes.iter().any(|(_, change)| is_it(change))
        };
        let added = self.changes.iter().any(|(_, change)| {
            matches!(change, Change::AddAddress { link, address } if link == name && address.net.addr().is_ipv4())
        });
        let held = || current.addresses.iter().filter(is_ipv4);
        held().next().is_some() && held().all(removed) && !added
    }

    fn resolvers(&mut self, target: &Target) {
        let observed = self.observed;
        let stopped: Vec<String> = self
            .changes
            .iter()
            .filter_map(|(_, change)| match change {
                Change::StopDhcp { link } => Some(link.clone()),
                _ => None,
            })
            .collect();
        let leased = leases(observed, |name| !stopped.iter().any(|link| link == name));
        let servers: Vec<IpAddr> = leased.clone().flat_map(|lease| lease.nameservers.clone()).collect();
        let domains: Vec<String> = leased.flat_map(|lease| lease.search.clone()).collect();
        let wanted = (in_force(&target.nameservers, servers.clone()), in_force(&target.search, domains.clone()));
        // A lease that ends takes with it what only it brought, and that may be the very resolver that is wanted.
        let configured = Target::configured_resolvers(observed);
        let left = (in_force(&configured.0, servers), in_force(&configured.1, domains));
        let there = (&observed.nameservers, &observed.search);
        let differs = wanted != left || (&wanted.0, &wanted.1) != there;
        if differs {
            let (nameservers, search) = (target.nameservers.clone(), target.search.clone());
            self.add(Phase::Resolvers, Change::SetResolvers { nameservers, search });
        }
    }

    fn has(&self, change: &Change) -> bool {
        self.changes.iter().any(|(_, planned)| planned == change)
    }

    fn finish(mut self) -> Vec<Step> {
        sort::short(&mut self.changes, |(a, _), (b, _)| a.cmp(b));
        let observed = self.observed;
        let control = control_links(observed);
        let steps =
            self.changes.into_iter().map(|(_, change)| Step { impact: impact(&change, &control, observed), change });
        steps.collect()
    }
}

/// What is there of one link, as it will be after the phases that come before addresses.
struct Current {
    /// `None` where it is not known: a new VLAN takes it from its parent.
    mtu: Option<u32>,
    /// `None` where it is not known: a new link takes it from a system-wide setting.
    accept_ra: Option<AcceptRa>,
    admin: Admin,
    dhcp4: Dhcp4,
    bound: bool,
    addresses: Vec<observed::Address>,
    routes: Vec<Route>,
}

impl Current {
    fn of(link: &observed::Link, wanted: &LinkTarget, observed: &Network) -> Self {
        let routes = observed.routes.iter().filter(|route| route.link == link.index).map(|route| Route {
            link: link.name.clone(),
            to: route.to,
            via: route.via,
            metric: route.metric,
            origin: route.origin,
            reach: Reach::Prefix,
        });
        let mut current = Self {
            mtu: Some(link.mtu),
            accept_ra: Some(link.accept_ra),
            admin: link.admin,
            dhcp4: if link.dhcp4 == observed::Dhcp4::Off { Dhcp4::Off } else { Dhcp4::On },
            bound: matches!(link.dhcp4, observed::Dhcp4::Bound(_)),
            addresses: link.addresses.clone(),
            routes: routes.collect(),
        };
        if link.admin == Admin::Up && wanted.admin == Admin::Down {
            // Going down costs a link its routes and its IPv6 addresses.
            current.routes.clear();
            current.addresses.retain(|address| address.net.addr().is_ipv4());
        }
        current
    }

    /// A VLAN that was just made.
    fn fresh() -> Self {
        Self {
            mtu: None,
            accept_ra: None,
            admin: Admin::Down,
            dhcp4: Dhcp4::Off,
            bound: false,
            addresses: Vec::new(),
            routes: Vec::new(),
        }
    }
}

impl LinkTarget {
    /// Whether the DHCP client goes on: then what it sets is its own business.
    fn keeps_dhcp(&self, current: &Current) -> bool {
        self.dhcp4 == Dhcp4::On && current.dhcp4 == Dhcp4::On
    }

    fn keeps_lease(&self, current: &Current, origin: Origin) -> bool {
        origin == Origin::Dhcp && self.keeps_dhcp(current)
    }
}

/// Whether something of origin `have` does for something wanted of origin `wanted`.
fn fits(have: Origin, wanted: Origin, link: &LinkTarget, current: &Current) -> bool {
    have == wanted || (have == Origin::Dhcp && link.keeps_dhcp(current))
}

/// Whether something of this origin goes where it is not listed.
fn is_unwanted(origin: Origin, wanted: &LinkTarget) -> bool {
    match origin {
        Origin::Static => true,
        Origin::Dhcp => wanted.dhcp4 == Dhcp4::Off,
        Origin::Ra => wanted.accept_ra == AcceptRa::Off,
        Origin::Kernel => false,
    }
}

fn name_of(network: &Network, index: u32) -> Option<&str> {
    network.links.iter().find(|link| link.index == index).map(|link| link.name.as_str())
}

/// The links by which the controller may be reached: those with a default route, and what lies below them.
/// Where there is no default route, all that have an address of more than the link's own scope.
fn control_links(network: &Network) -> Vec<&str> {
    let is_global = |address: &observed::Address| match address.net.addr() {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    let mut indexes: Vec<u32> =
        network.routes.iter().filter(|route| route.to.prefix_len() == 0).map(|route| route.link).collect();
    if indexes.is_empty() {
        let links = network.links.iter().filter(|link| link.addresses.iter().any(is_global));
        indexes = links.map(|link| link.index).collect();
    }
    let mut names = Vec::new();
    while let Some(index) = indexes.pop() {
        if let Some(link) = network.links.iter().find(|link| link.index == index)
            && !names.contains(&link.name.as_str())
        {
            names.push(link.name.as_str());
            if let LinkKind::Vlan { parent, .. } = link.kind {
                indexes.push(parent);
            }
        }
    }
    names
}

fn impact(change: &Change, control: &[&str], observed: &Network) -> Impact {
    let on = |link: &String| match observed.links.iter().any(|have| have.name == *link) {
        true if control.contains(&link.as_str()) => Impact::ControlPath,
        true => Impact::Interrupts,
        false => Impact::None,
    };
    match change {
        Change::DeleteVlan { link }
        | Change::SetMtu { link, .. }
        | Change::SetAdmin { link, admin: Admin::Down }
        | Change::SetAcceptRa { link, accept_ra: AcceptRa::Off }
        | Change::RemoveAddress { link, .. }
        | Change::RemoveRoute(Route { link, .. }) => on(link),
        // A new default route takes over whatever link it is on.
        Change::AddRoute(route) if route.to.prefix_len() == 0 => Impact::ControlPath,
        Change::StopDhcp { .. }
        | Change::CreateVlan { .. }
        | Change::SetAcceptRa { .. }
        | Change::SetAdmin { .. }
        | Change::AddAddress { .. }
        | Change::StartDhcp { .. }
        | Change::AwaitLease { .. }
        | Change::AddRoute(_)
        | Change::AwaitUnique { .. }
        | Change::SetResolvers { .. } => Impact::None,
    }
}
