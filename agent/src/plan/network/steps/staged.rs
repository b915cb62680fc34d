//! The new way to the controller, beside the present one: what is put up for the proof alone.
//!
//! Nothing of it is desired, so it goes again in the second half of the plan, rule and route before anything else, and so
//! it does in a revert. Packets of a proof carry a mark: where the new way leaves by the link of the present one, a rule
//! that asks for the mark sends them to a table of their own, so that two ways stand side by side that differ in nothing
//! but the gateway.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::desired::{AcceptRa, LeaseUse, MAIN_TABLE, PROOF_PRIORITY, Reach, Rule, Take};
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Address, Admin, Link, Network, Origin};

use super::control::{Way, is_global, meets, way};
use super::{Half, Planner};
use crate::plan::network::target::LinkTarget;
use crate::plan::network::{Change, Family, LEASED_METRIC, NewWay, PROOF_MARK, PROOF_TABLE, Route, metric_in_force};

/// Behind all routes that anybody uses: such a one is taken only by a socket that is bound to its link.
pub(super) const LAST_METRIC: u32 = 4_000_000_000;

/// Whether a rule is there for a proof alone.
pub(in crate::plan::network) fn is_proofs(rule: &Rule) -> bool {
    (rule.table, rule.mark) == (PROOF_TABLE, Some(PROOF_MARK))
}

/// Whether a route of this table and metric is there for a proof alone.
pub(in crate::plan::network) fn is_in_proof(table: u32, metric: u32) -> bool {
    (table, metric) == (PROOF_TABLE, LAST_METRIC)
}

/// Whether a rule stands where a proof's packets would meet it first.
pub(super) fn is_first(rule: &Rule) -> bool {
    rule.priority.is_none_or(|priority| priority <= PROOF_PRIORITY)
}

/// The same lease with its routes behind all others.
pub(super) fn beside(uses: LeaseUse) -> LeaseUse {
    LeaseUse { route_metric: Some(LAST_METRIC), ..uses }
}

/// The best way to the controller that a target has.
struct Wanted<'a> {
    /// The controller's address.
    to: IpAddr,
    link: &'a LinkTarget,
    /// Other links that may have it instead: who will announce it is not known.
    or: Vec<&'a LinkTarget>,
    via: Option<IpAddr>,
    prefix: u8,
    metric: u32,
    comes: Comes,
}

impl<'a> Wanted<'a> {
    fn by(comes: Comes, to: IpAddr, link: &'a LinkTarget) -> Self {
        Self { to, link, or: Vec::new(), via: None, prefix: 0, metric: 0, comes }
    }
}

/// Who brings a way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// The document.
    Configured,
    /// A server.
    Leased,
    /// A router.
    Announced,
}

impl<'a> Planner<'a> {
    /// Takes away what is there for a proof alone, on any link. What an agent left that died in the middle of one, the
    /// next proof would go by; and the kernel would put a rule that says no priority before the proof's.
    pub(super) fn clear_proof(&mut self) {
        let network = self.twin.observe();
        let rules: Vec<Rule> = network.rules.iter().filter(|rule| is_proofs(rule)).cloned().collect();
        let is_left = |route: &&observed::Route| is_in_proof(route.table, route.metric);
        let name = |index| network.links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let routes = network.routes.iter().filter(is_left).filter_map(|route| {
            let observed::Route { to, via, metric, table, origin, .. } = *route;
            Some(Route { link: name(route.link)?, to, via, metric, table, origin, reach: Reach::Prefix })
        });
        let routes: Vec<Route> = routes.collect();
        rules.into_iter().for_each(|rule| self.must(Change::RemoveRule(rule)));
        routes.into_iter().for_each(|route| self.must(Change::RemoveRoute(route)));
    }

    /// Puts a new way up and has it proven, where there is one that can stand beside the present one. `left` is what there
    /// is at the end, as far as that is known.
    pub(super) fn stage(&mut self, left: &Network) {
        let Some(present) = self.control.way.clone() else { return };
        let in_use = present.controller;
        let wanted = match (self.wanted_way(in_use), way(left, in_use)) {
            (Some(wanted), _) => Some(wanted),
            (None, Some(_)) => self.announced_way(left, in_use),
            (None, None) => self.way_elsewhere(),
        };
        if let Some(wanted) = wanted {
            self.put_up(&wanted, &present);
        }
    }

    /// Puts one way up and has it proven, if it can stand beside the present one.
    fn put_up(&mut self, wanted: &Wanted<'_>, present: &Way) {
        let Some(now) = self.now(wanted.link).cloned() else { return };
        if !is_ready(&now) {
            return;
        }
        let is_elsewhere = wanted.to != present.controller;
        let is_configured = wanted.comes == Comes::Configured;
        let is_announced = wanted.comes == Comes::Announced;
        // Ways of two families have nothing in common but the link.
        let is_same_family = wanted.to.is_ipv4() == present.controller.is_ipv4();
        let is_same_link = now.index == present.link && is_same_family;
        let routes = || {
            let routes = self.twin.observe().routes.iter();
            routes.filter(|route| route.table == MAIN_TABLE && route.to.contains(&wanted.to))
        };
        let is_configured_there = |route: &observed::Route| route.link == now.index && route.origin != Origin::Ra;
        // What a router announces comes after what is configured on the same link.
        let is_hidden = is_announced && routes().any(is_configured_there);
        let is_heard = routes().any(|route| route.link == now.index && route.origin == Origin::Ra);
        let is_deaf = !is_heard && routes().any(|route| is_configured_there(route) && deafens(route));
        if is_announced && is_deaf {
            return;
        }
        if is_same_link && if is_announced { !is_hidden } else { !self.is_other(wanted, present) } {
            return;
        }
        // Which of several links it is, the kernel says, where it may: nothing else leads there.
        let is_of_them = |index| self.links_of(wanted).any(|link| self.now(link).is_some_and(|now| now.index == index));
        if !wanted.or.is_empty()
            && (is_same_family || routes().any(|route| route.origin != Origin::Ra || !is_of_them(route.link)))
        {
            return;
        }
        let source = self.source(wanted, present);
        // An address that would draw the present way to it is not there yet. Without its prefix it draws nothing in IPv4,
        // and may be there twice.
        let is_there = source.is_some_and(|source| now.addresses.iter().any(|have| have.net.addr() == source));
        let alone = source.filter(|source| !is_there && is_configured && is_same_link && source.is_ipv4());
        let alone = alone.map(|source| Change::AddAddress {
            link: wanted.link.name.clone(),
            address: Address { net: source.into(), origin: Origin::Static },
        });
        let alone = alone.filter(|alone| !self.would_cut(alone));
        if !is_there && alone.is_none() && (is_configured || is_same_link && !is_announced) {
            return;
        }
        // Elsewhere there is nothing that its own routes would have to spare: they are there, or cannot be yet.
        let is_near = now.addresses.iter().any(|address| address.net.contains(&wanted.to));
        if is_elsewhere && is_configured && !is_near && !routes().any(|route| route.link == now.index) {
            return;
        }
        let link = wanted.link.name.clone();
        let to = IpNet::from(wanted.to);
        let route = |via, metric, table| Route {
            link: link.clone(),
            to,
            via,
            metric,
            table,
            origin: Origin::Static,
            reach: Reach::OnLink,
        };
        if wanted.comes == Comes::Leased {
            let awaits = Change::AwaitLease { link: link.clone(), family: Family::V4 };
            if !self.has(&awaits) {
                self.must(awaits);
            }
        }
        if is_hidden || is_configured && is_same_link {
            let beside = route(wanted.via, LAST_METRIC, PROOF_TABLE);
            let beside = if is_hidden { Change::AddAnnounced(beside) } else { Change::AddRoute(beside) };
            // A rule of somebody else's would be asked first, or asks that very table.
            if self.twin.observe().rules.iter().any(is_first) || self.would_cut(&beside) {
                return;
            }
            if let Some(alone) = alone {
                self.must(alone);
                self.await_unique(wanted.link, Half::Beside);
            }
            self.must(beside);
            let (table, priority, mark) = (PROOF_TABLE, Some(PROOF_PRIORITY), Some(PROOF_MARK));
            self.must(Change::AddRule(Rule { from: None, to: Some(to), table, priority, mark, tos: None }));
        } else if let (Some(via), false, false) = (wanted.via, is_announced, is_elsewhere) {
            // The shortest prefix of all: a longer one than the present way's would be taken at once.
            let to = IpNet::new(present.controller, 0).map_or(to, |net| net.trunc());
            self.must(Change::AddRoute(Route { to, ..route(Some(via), LAST_METRIC, MAIN_TABLE) }));
        }
        let controller = is_elsewhere.then_some(wanted.to);
        let links = self.links_of(wanted).map(|link| link.name.clone()).collect();
        self.must(Change::Prove(NewWay { links, source, controller }));
    }

    fn links_of<'b>(&self, wanted: &'b Wanted<'_>) -> impl Iterator<Item = &'b LinkTarget> {
        std::iter::once(wanted.link).chain(wanted.or.iter().copied())
    }

    /// Where a lease is to bring the way to the controller, the present one is given up only for a lease that is there.
    pub(super) fn await_way(&mut self) {
        let Some(controller) = self.control.way.as_ref().map(|way| way.controller) else { return };
        let Some(wanted) = self.wanted_way(controller).filter(|wanted| wanted.comes == Comes::Leased) else { return };
        let name = &wanted.link.name;
        let starts =
            |change: &Change| matches!(change, Change::StartDhcp { link, family: Family::V4, .. } if link == name);
        let is_new = self.steps.iter().any(|step| starts(&step.change));
        let awaits = Change::AwaitLease { link: name.clone(), family: Family::V4 };
        let stands = way(self.twin.observe(), controller).is_some();
        if stands && is_new && self.awaits_lease(name) && !self.has(&awaits) {
            self.must(awaits);
        }
    }

    /// Whether the wanted way differs from the present one although it leaves by the same link.
    fn is_other(&self, wanted: &Wanted<'_>, present: &Way) -> bool {
        wanted.via != present.via || self.source_that_stays(wanted.link, present).is_none()
    }

    /// The address from which the present way is used, where the link keeps it.
    fn source_that_stays(&self, wanted: &LinkTarget, present: &Way) -> Option<IpAddr> {
        let gateway = present.via.unwrap_or(present.controller);
        let link = self.observed.links.iter().find(|link| link.index == present.link)?;
        let may_be = |ip: IpAddr| ip.is_ipv4() == gateway.is_ipv4() && is_global(ip);
        let all = || link.addresses.iter().filter(|address| may_be(address.net.addr()));
        // One that holds the gateway, where there is one (net/ipv4/devinet.c, inet_select_addr).
        let source = all().find(|address| address.net.contains(&gateway)).or_else(|| all().next())?;
        let ip = source.net.addr();
        let stays = match source.origin {
            Origin::Dhcp if ip.is_ipv4() => self.keeps_dhcp(wanted, Family::V4),
            Origin::Ra => wanted.accept_ra != AcceptRa::Off,
            Origin::Kernel => true,
            Origin::Dhcp | Origin::Static => false,
        };
        (stays || wanted.addresses.iter().any(|address| address.net.addr() == ip)).then_some(ip)
    }

    /// The address from which the new way will be used, where it is known beforehand.
    fn source(&self, wanted: &Wanted<'_>, present: &Way) -> Option<IpAddr> {
        if wanted.comes != Comes::Configured {
            return None;
        }
        let next = wanted.via.unwrap_or(wanted.to);
        let may_be = |net: &IpNet| net.addr().is_ipv4() == wanted.to.is_ipv4() && is_global(net.addr());
        let configured = wanted.link.addresses.iter().map(|address| address.net);
        let all: Vec<IpNet> = configured.chain(self.kept_lease(wanted.link)).filter(may_be).collect();
        let mut near = all.iter().filter(|net| net.contains(&next));
        // Of several that hold the gateway the kernel takes the one that was there first.
        let is_present = self.now(wanted.link).is_some_and(|now| now.index == present.link);
        let stays = self.source_that_stays(wanted.link, present).filter(|_| is_present);
        let first = near.clone().find(|net| Some(net.addr()) == stays);
        first.or_else(|| near.next()).or(all.first()).map(IpNet::addr)
    }

    /// The address of a lease that is there and stays.
    fn kept_lease(&self, wanted: &LinkTarget) -> Option<IpNet> {
        let now = self.now(wanted).filter(|_| self.keeps_dhcp(wanted, Family::V4))?;
        let leased = |address: &&Address| address.origin == Origin::Dhcp && address.net.addr().is_ipv4();
        now.addresses.iter().find(leased).map(|address| address.net)
    }

    /// The way that is there at the end, where it is one that a router announces already, and no other.
    fn announced_way(&self, left: &Network, to: IpAddr) -> Option<Wanted<'a>> {
        let mut routes = left.routes.iter().filter(|route| route.table == MAIN_TABLE && route.to.contains(&to));
        let index = routes.clone().next()?.link;
        let name = &left.links.iter().find(|link| link.index == index)?.name;
        let link = self.target.link(name).filter(|link| link.accept_ra != AcceptRa::Off)?;
        let is_announced = routes.all(|route| route.origin == Origin::Ra && route.link == index);
        is_announced.then(|| Wanted::by(Comes::Announced, to, link))
    }

    /// Where none leads to the address in use: the way to another one, of either family. One that routers announce, or are
    /// to, counts where there is no other.
    fn way_elsewhere(&self) -> Option<Wanted<'a>> {
        let others = || self.controllers.iter().copied().filter(|ip| !ip.is_loopback());
        if let Some(configured) = others().find_map(|to| self.wanted_way(to)) {
            return Some(configured);
        }
        let to = others().find(IpAddr::is_ipv6)?;
        let is_there = |now: &Link| {
            let leads = |route: &&observed::Route| route.link == now.index && route.to.contains(&to);
            self.twin.observe().routes.iter().filter(leads).any(|route| route.origin == Origin::Ra)
        };
        let listens = |wanted: &&LinkTarget| {
            let takes = wanted.port.is_none() && wanted.accept_ra != AcceptRa::Off;
            takes && self.now(wanted).is_some_and(is_ready)
        };
        let announces = |wanted: &&LinkTarget| {
            let is_asked = wanted.accept_ra == AcceptRa::On || wanted.dhcp6.is_on();
            listens(wanted) && (is_asked || self.now(wanted).is_some_and(is_there))
        };
        // Where none is asked for it, it has to be one that was not listened to so far.
        let is_new = |wanted: &&LinkTarget| {
            let was_deaf = |had: &Link| Some(&had.name) == wanted.present.as_ref() && had.accept_ra == AcceptRa::Off;
            listens(wanted) && self.observed.links.iter().any(was_deaf)
        };
        let mut links: Vec<_> = self.target.links.iter().filter(announces).collect();
        if links.is_empty() {
            links = self.target.links.iter().filter(is_new).collect();
        }
        let (link, or) = links.split_first()?;
        Some(Wanted { or: or.to_vec(), ..Wanted::by(Comes::Announced, to, link) })
    }

    /// How the target's table that is asked reaches the controller: the longest prefix, then the lowest metric, then the
    /// first. None where it depends on the source which table that is.
    fn wanted_way(&self, to: IpAddr) -> Option<Wanted<'a>> {
        let table = self.table_asked(to)?;
        let is_main = table == MAIN_TABLE;
        let mut best: Option<Wanted<'a>> = None;
        let mut consider = |link, via, prefix, metric, is_leased| {
            let comes = if is_leased { Comes::Leased } else { Comes::Configured };
            let found = Wanted { via, prefix, metric, ..Wanted::by(comes, to, link) };
            let better =
                |best: &Wanted<'_>| (prefix, std::cmp::Reverse(metric)) > (best.prefix, std::cmp::Reverse(best.metric));
            if best.as_ref().is_none_or(better) {
                best = Some(found);
            }
        };
        for link in self.target.links.iter().filter(|link| link.port.is_none()) {
            for net in link.addresses.iter().map(|address| address.net).filter(|net| is_main && net.contains(&to)) {
                consider(link, None, net.prefix_len(), 0, false);
            }
            for route in link.routes.iter().filter(|route| route.table == table && route.to.contains(&to)) {
                let held = || link.addresses.iter().map(|address| address.net).chain(self.kept_lease(link));
                let is_leased =
                    route.via.is_some_and(|via| route.reach == Reach::Prefix && !held().any(|net| net.contains(&via)));
                consider(link, route.via, route.to.prefix_len(), route.metric, is_leased && to.is_ipv4());
            }
            if let Some(uses) = lease_use(link).filter(|uses| is_main && uses.routes == Take::Yes && to.is_ipv4()) {
                consider(link, None, 0, uses.route_metric.unwrap_or(LEASED_METRIC), true);
            }
        }
        best
    }

    /// The table in which the target's rules have the controller looked for. None where only some sources meet them.
    fn table_asked(&self, controller: IpAddr) -> Option<u32> {
        let addresses = self.target.links.iter().flat_map(|link| &link.addresses);
        let sources: Vec<IpAddr> = addresses.map(|address| address.net.addr()).collect();
        let leads = |table: u32| {
            let mut routes = self.target.links.iter().flat_map(|link| &link.routes);
            table == MAIN_TABLE || routes.any(|route| route.table == table && route.to.contains(&controller))
        };
        let rules = self.target.rules.iter();
        let mut asked: Vec<&Rule> =
            rules.filter(|rule| meets(rule, controller, &sources) && leads(rule.table)).collect();
        // One that says no priority is put before all others.
        crate::sort::short(&mut asked, |a, b| a.priority.cmp(&b.priority));
        let Some(first) = asked.first() else { return Some(MAIN_TABLE) };
        first.from.is_none_or(|from| from.prefix_len() == 0).then_some(first.table)
    }
}

/// Whether packets pass by it as it is.
fn is_ready(link: &Link) -> bool {
    link.admin == Admin::Up && link.carrier == Carrier::Present && link.port.is_none()
}

/// Whether the kernel would drop the advertisements of the router that a configured route leads over: the route that they
/// bring is there already, and then it looks at nothing else that they say (net/ipv6/ndisc.c, ndisc_router_discovery).
fn deafens(route: &observed::Route) -> bool {
    let is_its_own = matches!(route.via, Some(IpAddr::V6(via)) if via.is_unicast_link_local());
    is_its_own && route.to.prefix_len() == 0 && route.metric == metric_in_force(&route.to, None)
}

fn lease_use(link: &LinkTarget) -> Option<LeaseUse> {
    match link.dhcp4 {
        muster_protocol::desired::Dhcp::On(uses) => Some(uses),
        muster_protocol::desired::Dhcp::Off => None,
    }
}
