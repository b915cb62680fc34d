//! Addresses, leases, neighbors, routes and rules; and what is the machine's own.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::desired::{AcceptRa, Dhcp, LeaseUse, Neighbor, Reach, Rule, Take};
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Address, Admin, Link, Origin};

use super::staged::{beside, is_first};
use super::{Half, Planner};
use crate::plan::network::resolvers::{in_force, leases, ntp_in_force};
use crate::plan::network::target::{LinkTarget, Target};
use crate::plan::network::{Change, Family, LEASED_METRIC, Route, Step};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl LinkTarget {
    /// Whether something of this origin goes where it is not listed.
    fn is_unwanted(&self, origin: Origin, family: Family) -> bool {
        match origin {
            Origin::Static => true,
            Origin::Dhcp => !self.dhcp(family).is_on(),
            Origin::Ra => self.accept_ra == AcceptRa::Off,
            Origin::Kernel => false,
        }
    }

    /// Whether only a lease can bring the prefix of a route's gateway.
    pub(super) fn needs_lease(&self, route: &Route) -> bool {
        match route.via {
            Some(via @ IpAddr::V4(_)) => {
                route.reach == Reach::Prefix && !self.addresses.iter().any(|address| address.net.contains(&via))
            }
            Some(IpAddr::V6(_)) | None => false,
        }
    }
}

fn client(link: &Link, family: Family) -> &observed::Dhcp {
    match family {
        Family::V4 => &link.dhcp4,
        Family::V6 => &link.dhcp6,
    }
}

fn family(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// Whether two routes differ in their origin alone, or not at all.
fn same(a: &Route, b: &Route) -> bool {
    (a.to, a.via, a.metric, a.table) == (b.to, b.via, b.metric, b.table)
}

impl Planner<'_> {
    /// Whether a link's client went on until now and goes on: then what it sets is its own business.
    pub(super) fn keeps_dhcp(&self, wanted: &LinkTarget, family: Family) -> bool {
        let present = wanted.present.as_deref().unwrap_or(&wanted.name);
        let ran = self.observed.links.iter().find(|link| link.name == present);
        let stopped = |change: &Change| match change {
            Change::StopDhcp { link, family: of } => (link == present || *link == wanted.name) && *of == family,
            _ => false,
        };
        wanted.dhcp(family).is_on()
            && ran.is_some_and(|link| client(link, family) != &observed::Dhcp::Off)
            && !self.steps.iter().any(|step| stopped(&step.change))
    }

    /// Whether something of origin `have` does for something wanted of origin `want`. A route that was set may be the only
    /// one for its prefix: IPv6 has no second one, and the kernel's never came.
    fn fits(&self, wanted: &LinkTarget, family: Family, have: Origin, want: Origin) -> bool {
        have == want
            || have == Origin::Dhcp && self.keeps_dhcp(wanted, family)
            || have == Origin::Static && want == Origin::Kernel
    }

    pub(super) fn stop_dhcp(&mut self, wanted: &LinkTarget) {
        for family in FAMILIES {
            let runs = |link: &Link| client(link, family) != &observed::Dhcp::Off;
            if !wanted.dhcp(family).is_on() && self.now(wanted).is_some_and(runs) {
                self.must(Change::StopDhcp { link: wanted.name.clone(), family });
            }
        }
    }

    pub(super) fn new_addresses(&mut self, wanted: &LinkTarget, half: Half) {
        for address in wanted.addresses.iter().filter(|address| address.origin != Origin::Ra) {
            let Some(now) = self.now(wanted) else { return };
            let family = family(&address.net);
            let fits = |have: &Address| {
                have.net == address.net
                    && (have.origin == Origin::Kernel || self.fits(wanted, family, have.origin, address.origin))
            };
            let is_leased = address.origin == Origin::Dhcp && self.keeps_dhcp(wanted, family);
            if is_leased || now.addresses.iter().any(fits) {
                continue;
            }
            // IPv6 has an address once per link, whatever its prefix length: it cannot be added before the old one goes.
            let namesake = |have: &&Address| have.net.addr() == address.net.addr() && have.net != address.net;
            let replaced = now.addresses.iter().find(namesake).copied().filter(|_| address.net.addr().is_ipv6());
            if let Some(have) = replaced
                && !self.add(Change::RemoveAddress { link: wanted.name.clone(), address: have }, half)
            {
                continue;
            }
            self.add(Change::AddAddress { link: wanted.name.clone(), address: *address }, half);
        }
    }

    /// Starts clients, or has those that run use their lease as is wanted. One whose routes are there and do not count any
    /// more goes on with them until others are there.
    pub(super) fn leases(&mut self, wanted: &LinkTarget, half: Half) {
        for family in FAMILIES {
            let (Some(now), Dhcp::On(uses)) = (self.now(wanted), wanted.dhcp(family)) else { continue };
            if client(now, family).lease_use() == Some(uses) || self.has_old_routes(wanted, family) {
                continue;
            }
            let link = wanted.name.clone();
            let is_off = client(now, family) == &observed::Dhcp::Off;
            if !self.add(Change::StartDhcp { link: link.clone(), family, uses }, half) && is_off {
                // Its routes would be the way to the controller: for now they come after all others.
                self.add(Change::StartDhcp { link, family, uses: beside(uses) }, half);
            }
        }
        let waits = |link: &Link| matches!(link.dhcp4, observed::Dhcp::Searching(_));
        let awaits = Change::AwaitLease { link: wanted.name.clone(), family: Family::V4 };
        if self.now(wanted).is_some_and(waits)
            && wanted.routes.iter().any(|route| wanted.needs_lease(route))
            && !self.has(&awaits)
        {
            self.must(awaits);
        }
    }

    /// Whether a client runs whose lease has brought routes that are to go, or to come after others.
    fn has_old_routes(&self, wanted: &LinkTarget, family: Family) -> bool {
        let metric = |uses: LeaseUse| uses.route_metric.unwrap_or(LEASED_METRIC);
        let differs = |had: LeaseUse, uses: LeaseUse| {
            had.routes == Take::Yes && (uses.routes == Take::No || metric(uses) > metric(had))
        };
        let had = self.now(wanted).map(|now| client(now, family)).filter(|dhcp| dhcp.lease().is_some());
        match (had.and_then(observed::Dhcp::lease_use), wanted.dhcp(family)) {
            (Some(had), Dhcp::On(uses)) => family == Family::V4 && differs(had, uses),
            _ => false,
        }
    }

    /// Lets the routes go that a lease brought and that do not count any more, now that others are there.
    pub(super) fn old_leased_routes(&mut self, wanted: &LinkTarget) {
        if let Dhcp::On(uses) = wanted.dhcp4
            && self.has_old_routes(wanted, Family::V4)
        {
            self.must(Change::StartDhcp { link: wanted.name.clone(), family: Family::V4, uses });
        }
    }

    pub(super) fn new_neighbors(&mut self, wanted: &LinkTarget, half: Half) {
        for neighbor in &wanted.neighbors {
            if self.now(wanted).is_some_and(|now| !now.neighbors.contains(neighbor)) {
                self.add(Change::AddNeighbor { link: wanted.name.clone(), neighbor: *neighbor }, half);
            }
        }
    }

    /// The routes of a link as it is now.
    fn routes_of(&self, wanted: &LinkTarget) -> Vec<Route> {
        let Some(now) = self.now(wanted) else { return Vec::new() };
        let routes = self.twin.observe().routes.iter().filter(|route| route.link == now.index);
        routes
            .map(|route| Route {
                link: now.name.clone(),
                to: route.to,
                via: route.via,
                metric: route.metric,
                table: route.table,
                origin: route.origin,
                reach: Reach::Prefix,
            })
            .collect()
    }

    /// Whether a route that is there does for one that is wanted.
    fn does(&self, wanted: &LinkTarget, have: &Route, route: &Route) -> bool {
        let announced = have.origin == Origin::Ra && wanted.accept_ra != AcceptRa::Off;
        let goes = have.origin == Origin::Dhcp && self.has_old_routes(wanted, family(&have.to));
        same(have, route)
            && (!goes || route.origin == have.origin)
            && (announced || self.fits(wanted, family(&route.to), have.origin, route.origin))
    }

    pub(super) fn new_routes(&mut self, wanted: &LinkTarget, half: Half) {
        for route in wanted.routes.iter().filter(|route| !matches!(route.origin, Origin::Ra | Origin::Kernel)) {
            let Some(now) = self.now(wanted) else { return };
            let is_leased = route.origin == Origin::Dhcp && self.keeps_dhcp(wanted, family(&route.to));
            let there = self.routes_of(wanted);
            if is_leased || now.admin == Admin::Down || there.iter().any(|have| self.does(wanted, have, route)) {
                continue;
            }
            if half == Half::Beside && route.via.is_some_and(|via| self.own_and_old(via).is_some()) {
                continue;
            }
            // IPv6 takes a route that differs in its origin only for the same one, and would keep the announced one.
            let announced = there.iter().find(|have| same(have, route) && have.origin == Origin::Ra);
            if let Some(have) = announced
                && !self.add(Change::RemoveRoute(have.clone()), half)
            {
                continue;
            }
            self.add(Change::AddRoute(route.clone()), half);
        }
    }

    /// Takes away old addresses of the machine's own that are to be gateways. The kernel would take such a gateway for a
    /// neighbor of everybody, and would go on to when the address is gone.
    pub(super) fn own_gateways(&mut self) {
        let vias = self.target.links.iter().flat_map(|link| &link.routes).filter_map(|route| route.via);
        for via in vias {
            if let Some(own) = self.own_and_old(via) {
                self.must(own);
            }
        }
    }

    /// The step that takes away an address which the machine has and is not to have.
    fn own_and_old(&self, address: IpAddr) -> Option<Change> {
        let links = &self.twin.observe().links;
        let has = |link: &&Link| link.addresses.iter().any(|have| have.net.addr() == address);
        let link = links.iter().find(has)?;
        let have = *link.addresses.iter().find(|have| have.net.addr() == address)?;
        let wanted = self.target.link(&link.name)?;
        let is_old = wanted.is_unwanted(have.origin, family(&have.net))
            && !wanted.addresses.iter().any(|address| address.net == have.net);
        is_old.then(|| Change::RemoveAddress { link: link.name.clone(), address: have })
    }

    /// Takes away rules that no proof can stand before, where the way is given up anyway: those that are wanted and say
    /// no priority come again, and the kernel puts them behind.
    pub(super) fn first_rules(&mut self) {
        let rules = self.twin.observe().rules.iter();
        let first: Vec<Rule> =
            rules.filter(|have| is_first(have) && !self.target.rules.contains(have)).cloned().collect();
        first.into_iter().for_each(|have| self.must(Change::RemoveRule(have)));
    }

    pub(super) fn new_rules(&mut self, half: Half) {
        for rule in &self.target.rules {
            let there = |have: &Rule| is_rule(have, rule);
            if !self.twin.observe().rules.iter().any(there) {
                self.add(Change::AddRule(rule.clone()), half);
            }
        }
    }

    /// New addresses are relied on only once nobody else is known to have them. That shows only where frames pass: a link
    /// that gets its carrier in the second half is asked then.
    pub(super) fn await_unique(&mut self, wanted: &LinkTarget, half: Half) {
        let new = |change: &Change| match change {
            Change::AddAddress { link, address } => *link == wanted.name && address.origin == Origin::Static,
            _ => false,
        };
        let awaits = Change::AwaitUnique { link: wanted.name.clone() };
        let added = self.steps.iter().rposition(|step| new(&step.change));
        let awaited = self.steps.iter().rposition(|step| step.change == awaits);
        let is_ready =
            |link: &Link| link.admin == Admin::Up && (half == Half::Whole || link.carrier == Carrier::Present);
        if self.now(wanted).is_some_and(is_ready)
            && added.is_some_and(|added| awaited.is_none_or(|awaited| awaited < added))
        {
            self.must(awaits);
        }
    }

    pub(super) fn old_rules(&mut self) {
        for have in self.twin.observe().rules.clone() {
            if !self.target.rules.iter().any(|rule| is_rule(&have, rule)) {
                self.must(Change::RemoveRule(have));
            }
        }
    }

    pub(super) fn old_routes(&mut self, wanted: &LinkTarget) {
        for have in self.routes_of(wanted) {
            let wished = wanted.routes.iter().any(|route| self.does(wanted, &have, route));
            if wanted.is_unwanted(have.origin, family(&have.to)) && !wished {
                self.must(Change::RemoveRoute(have));
            }
        }
    }

    pub(super) fn old_addresses(&mut self, wanted: &LinkTarget) {
        let Some(now) = self.now(wanted) else { return };
        let is_wanted = |net: IpNet| wanted.addresses.iter().any(|address| address.net == net);
        let is_old = |have: &&Address| wanted.is_unwanted(have.origin, family(&have.net)) && !is_wanted(have.net);
        let old: Vec<Address> = now.addresses.iter().filter(is_old).copied().collect();
        for address in old {
            self.must(Change::RemoveAddress { link: wanted.name.clone(), address });
        }
    }

    pub(super) fn old_neighbors(&mut self, wanted: &LinkTarget) {
        let Some(now) = self.now(wanted) else { return };
        let old: Vec<Neighbor> =
            now.neighbors.iter().filter(|have| !wanted.neighbors.contains(have)).copied().collect();
        for neighbor in old {
            self.must(Change::RemoveNeighbor { link: wanted.name.clone(), neighbor });
        }
    }

    /// The kernel drops all IPv4 routes of a link with its last IPv4 address: those that are wanted come again.
    pub(super) fn lost_routes(&mut self, before: &[observed::Route]) {
        let now = &self.twin.observe().routes;
        let lost: Vec<&observed::Route> = before.iter().filter(|route| !now.contains(route)).collect();
        let name =
            |index: u32| self.twin.observe().links.iter().find(|link| link.index == index).map(|link| &link.name);
        let mut again = Vec::new();
        for route in lost {
            let wanted = self.target.links.iter().find(|wanted| Some(&wanted.name) == name(route.link));
            let is_it = |have: &&Route| {
                (have.to, have.via, have.metric, have.table, have.origin)
                    == (route.to, route.via, route.metric, route.table, route.origin)
            };
            again.extend(wanted.and_then(|wanted| wanted.routes.iter().find(is_it)).cloned());
        }
        for route in again {
            self.must(Change::AddRoute(route));
        }
    }

    /// Resolvers, NTP servers, hostname.
    pub(super) fn machine(&mut self) {
        let (observed, target) = (self.observed, self.target);
        let stopped: Vec<String> = self
            .steps
            .iter()
            .filter_map(|step| match &step.change {
                Change::StopDhcp { link, .. } => Some(link.clone()),
                _ => None,
            })
            .collect();
        let (servers, domains, ntp) = leases(observed, |name| !stopped.iter().any(|link| link == name)).brought();
        let wanted = (in_force(&target.nameservers, servers.clone()), in_force(&target.search, domains.clone()));
        // A lease that ends takes with it what only it brought, and that may be the very resolver that is wanted.
        let configured = Target::configured(observed);
        let left = (in_force(&configured.0, servers), in_force(&configured.1, domains));
        let there = (&observed.nameservers, &observed.search);
        // What a new lease brings is not known, nor where it comes in: only what is configured comes first for sure.
        let is_new = |step: &Step| matches!(step.change, Change::StartDhcp { .. });
        // Nor is it known of what a lease brought that is not taken any more whether it was configured as well.
        let unsure = self.takes_no_more(|uses| uses.dns)
            || self.steps.iter().any(is_new) && (&configured.0, &configured.1) != (&target.nameservers, &target.search);
        if unsure || wanted != left || (&wanted.0, &wanted.1) != there {
            let (nameservers, search) = (target.nameservers.clone(), target.search.clone());
            self.must(Change::SetResolvers { nameservers, search });
        }
        let unsure = self.takes_no_more(|uses| uses.ntp) || self.steps.iter().any(is_new) && configured.2 != target.ntp;
        let is_set = !unsure && ntp_in_force(&configured.2, ntp.clone()) == ntp_in_force(&target.ntp, ntp.clone());
        if !is_set || observed.ntp != ntp_in_force(&target.ntp, ntp) {
            self.must(Change::SetNtp { servers: target.ntp.clone() });
        }
        if let Some(name) = target.hostname.as_ref().filter(|name| **name != observed.hostname) {
            self.must(Change::SetHostname { name: name.clone() });
        }
    }
}

impl Planner<'_> {
    /// Whether a client that has a lease of which this is taken is told not to take it any more.
    fn takes_no_more(&self, what: fn(&LeaseUse) -> Take) -> bool {
        let takes = |dhcp: &observed::Dhcp| {
            dhcp.lease().is_some() && dhcp.lease_use().is_some_and(|uses| what(&uses) == Take::Yes)
        };
        self.steps.iter().any(|step| {
            let Change::StartDhcp { link, family, uses } = &step.change else { return false };
            let now = self.observed.links.iter().find(|now| now.name == *link);
            let now = now.is_some_and(|now| takes(if *family == Family::V4 { &now.dhcp4 } else { &now.dhcp6 }));
            now && what(uses) != Take::Yes
        })
    }
}

/// Whether a rule that is there is the one that is wanted: a priority that is not said may be any.
fn is_rule(have: &Rule, wanted: &Rule) -> bool {
    let priority = wanted.priority.or(have.priority);
    *have == Rule { priority, ..wanted.clone() }
}
