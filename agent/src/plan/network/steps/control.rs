//! The way to the controller, and what steps do to it.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::desired::{AcceptRa, BridgeOption, LeaseUse, MAIN_TABLE, Rule, Take};
use muster_protocol::observed::{self, Address, Admin, Link, Network};
use muster_protocol::to_agent::Impact;

use super::staged::LAST_METRIC;
use crate::plan::network::target::below;
use crate::plan::network::twin::used;
use crate::plan::network::{Change, Family, LEASED_METRIC, Route};

/// The main table, and the priority of the rule that asks it.
const MAIN: (u32, u32) = (MAIN_TABLE, 32_766);
/// The table that is asked after all others.
const DEFAULT: (u32, u32) = (253, 32_767);

/// By what the controller is reached before the first step.
#[derive(Debug, Clone)]
pub(super) struct Control {
    /// Interface indexes of the links on the way, and of all below them.
    links: Vec<u32>,
    /// The controller's address in use, where the machine has a way to it that is known.
    pub(super) way: Option<Way>,
    /// One of them is the source.
    sources: Vec<IpAddr>,
}

/// One way to the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) controller: IpAddr,
    /// Interface index.
    pub(super) link: u32,
    pub(super) via: Option<IpAddr>,
    pub(super) prefix: u8,
    pub(super) metric: u32,
    /// The table that says so, and the priority of the rule that asks it.
    pub(super) table: u32,
    pub(super) priority: u32,
}

impl Control {
    pub(super) fn of(network: &Network, controllers: &[IpAddr]) -> Self {
        let mut all = controllers.iter().filter(|ip| !ip.is_loopback()).filter_map(|ip| ways_of_all(network, *ip));
        let found = all.next();
        // The link whose address is the source is on the way as well.
        let mut pending: Vec<u32> = found.iter().flatten().map(|way| way.link).collect();
        if pending.is_empty() {
            let defaults =
                network.routes.iter().filter(|route| route.to.prefix_len() == 0 && route.table == MAIN_TABLE);
            pending = defaults.map(|route| route.link).collect();
        }
        if pending.is_empty() {
            let global = |link: &&Link| link.addresses.iter().any(|address| is_global(address.net.addr()));
            pending = network.links.iter().filter(global).map(|link| link.index).collect();
        }
        let sources = found.as_ref().map(|[first, _]| sources(network, first)).unwrap_or_default();
        let way = found.map(|[_, way]| way);
        let mut links = Vec::new();
        while let Some(index) = pending.pop() {
            if let Some(link) = network.links.iter().find(|link| link.index == index)
                && !links.contains(&index)
            {
                links.push(index);
                pending.extend(below(link, network));
            }
        }
        Self { links, way, sources }
    }

    /// What a step costs, given what is there when it is taken and what was there at first.
    pub(super) fn impact(&self, change: &Change, now: &Network, observed: &Network) -> Impact {
        let on = |name: &str, other: Impact| {
            let Some(link) = now.links.iter().find(|link| link.name == name) else { return Impact::None };
            if !observed.links.iter().any(|had| had.index == link.index) {
                Impact::None
            } else if self.links.contains(&link.index) {
                Impact::ControlPath
            } else {
                other
            }
        };
        let if_taken = |taken: bool| if taken { Impact::ControlPath } else { Impact::None };
        match change {
            Change::Delete { link }
            | Change::Rename { link, .. }
            | Change::Join { link, .. }
            | Change::Leave { link }
            | Change::SetMtu { link, .. }
            | Change::SetAdmin { link, admin: Admin::Down }
            | Change::SetBridge { link, option: BridgeOption::Stp, value: 1 } => on(link, Impact::LinkDrops),
            // Nobody took it but the proof.
            Change::RemoveRoute(Route { metric: LAST_METRIC, .. }) => Impact::None,
            Change::RemoveRoute(Route { link, table, .. }) if self.asks(*table, now) => {
                on(link, Impact::AddressesChange)
            }
            Change::RemoveRoute(Route { link, table: MAIN_TABLE, .. }) => match on(link, Impact::AddressesChange) {
                Impact::ControlPath => Impact::AddressesChange,
                other => other,
            },
            Change::SetAcceptRa { link, accept_ra: AcceptRa::Off }
            | Change::RemoveAddress { link, .. }
            | Change::RemoveNeighbor { link, .. } => on(link, Impact::AddressesChange),
            Change::AddRoute(route) => if_taken(self.takes_over(route, now)),
            Change::AddAddress { link, address } => if_taken(self.is_drawn_to(link, address, now)),
            Change::AddNeighbor { link, neighbor } => {
                let is_next = |way: &Way| way.via.unwrap_or(way.controller) == neighbor.address;
                if self.way.as_ref().is_some_and(is_next) { on(link, Impact::None) } else { Impact::None }
            }
            // Whether and by which port a bond sends may change with any of them, if not at once.
            Change::SetBond { link, .. } | Change::SetArpTargets { link, .. } | Change::SetPrimary { link, .. } => {
                on(link, Impact::None)
            }
            Change::StartDhcp { link, family: Family::V4, uses } => self.leased(link, *uses, now),
            Change::AddRule(rule) | Change::RemoveRule(rule) => if_taken(self.is_ruled(rule, now)),
            // Routers bring the routes of IPv6.
            Change::StartDhcp { family: Family::V6, .. }
            | Change::StopDhcp { .. }
            | Change::Create { .. }
            | Change::SetBridge { .. }
            | Change::SetPort { .. }
            | Change::SetWakeOnLan { .. }
            | Change::SetAcceptRa { .. }
            | Change::SetPrivacy { .. }
            | Change::SetAdmin { admin: Admin::Up, .. }
            | Change::AwaitForwarding { .. }
            | Change::AwaitLease { .. }
            | Change::AwaitUnique { .. }
            // It is in a table that only the proof asks.
            | Change::AddAnnounced(_)
            | Change::Prove(_)
            | Change::RemoveRoute(_)
            | Change::SetResolvers { .. }
            | Change::SetNtp { .. }
            | Change::SetHostname { .. } => Impact::None,
        }
    }

    /// Both lookups of the way as it is now, or with a route more; see [`ways`]. New addresses are nobody's source yet.
    fn ways(&self, now: &Network, added: Option<&observed::Route>) -> Option<[Way; 2]> {
        ways(now, self.way.as_ref()?.controller, |_| self.sources.clone(), added)
    }

    /// Whether the way to the controller is in this table, or was at first. Where none is known, it is in the main one.
    fn asks(&self, table: u32, now: &Network) -> bool {
        let Some(first) = &self.way else { return table == MAIN_TABLE };
        let now = self.ways(now, None);
        first.table == table
            || now.as_ref().map_or(table == MAIN_TABLE, |ways| ways.iter().any(|way| way.table == table))
    }

    /// Whether a new route would be the way to the controller at once.
    fn takes_over(&self, route: &Route, now: &Network) -> bool {
        let Some(Way { controller, .. }) = self.way else {
            return route.table == MAIN_TABLE && route.to.prefix_len() == 0;
        };
        let Some(link) = now.links.iter().find(|link| link.name == route.link) else { return false };
        let Some(present) = self.ways(now, None) else { return false };
        let Route { to, via, metric, table, origin, .. } = *route;
        let added = observed::Route { to, via, link: link.index, metric, table, origin };
        // Of two alike IPv4 takes the first; IPv6 takes both, in turn, and so does IPv4 with default routes whose gateways it
        // has not heard of for a while (net/ipv4/fib_semantics.c, fib_select_default).
        let is_alike = |way: &Way| {
            (way.table, way.prefix, way.metric) == (table, to.prefix_len(), metric)
                && (way.link, way.via) != (link.index, via)
                && (controller.is_ipv6() || to.prefix_len() == 0)
                && to.contains(&controller)
        };
        let hops = |ways: &[Way; 2]| ways.each_ref().map(|way| (way.link, way.via));
        self.ways(now, Some(&added)).is_none_or(|then| hops(&then) != hops(&present)) || present.iter().any(is_alike)
    }

    /// Whether an address makes the controller a neighbor on another link than the one by which it is reached.
    fn is_drawn_to(&self, link: &str, address: &Address, now: &Network) -> bool {
        let Some(Way { controller, .. }) = self.way else { return false };
        let Some(present) = self.ways(now, None) else { return false };
        let is_there = |way: &Way| now.links.iter().any(|there| there.name == *link && there.index == way.link);
        let is_nearer = |way: &Way| way.table == MAIN_TABLE && address.net.prefix_len() > way.prefix;
        address.net.contains(&controller) && present.iter().any(is_nearer)
            || address.net.addr() == controller
            // An address of the gateway's own would answer for it.
            || present.iter().any(|way| !is_there(way) && way.via == Some(address.net.addr()))
    }

    /// What it costs to start a client, or to have one that runs use its lease otherwise.
    fn leased(&self, link: &str, uses: LeaseUse, now: &Network) -> Impact {
        let Some(there) = now.links.iter().find(|there| there.name == *link) else { return Impact::None };
        let had = there.dhcp4.lease_use().filter(|_| there.dhcp4.lease().is_some());
        let routes = had.map_or_else(|| now.routes.clone(), |had| used(now, there.index, had, uses));
        let is_less = routes.len() < now.routes.len();
        let then = Network { routes, ..now.clone() };
        let hops = |network: &Network| self.ways(network, None).map(|ways| ways.map(|way| (way.link, way.via)));
        let is_unknown = self.way.is_none() && is_less;
        if is_unknown || hops(now) != hops(&then) || self.is_leased_away(link, uses, now) {
            Impact::ControlPath
        } else if is_less {
            Impact::AddressesChange
        } else {
            Impact::None
        }
    }

    /// Whether the routes of a lease on another link would be the way to the controller.
    fn is_leased_away(&self, link: &str, uses: LeaseUse, now: &Network) -> bool {
        let Some(link) = now.links.iter().find(|there| there.name == *link) else { return false };
        if uses.routes == Take::No {
            return false;
        }
        let metric = uses.route_metric.unwrap_or(LEASED_METRIC);
        let is_taken = |way: &Way| {
            let is_asked = way.link != link.index && way.table == MAIN_TABLE && way.controller.is_ipv4();
            is_asked && is_better(0, metric, way)
        };
        self.ways(now, None).is_some_and(|present| present.iter().any(is_taken))
    }

    /// Whether a rule may be asked for the way to the controller, and before the one that has it. What else is in its table
    /// than routes is not known.
    fn is_ruled(&self, rule: &Rule, now: &Network) -> bool {
        let Some(Way { controller, .. }) = self.way else { return true };
        let is_first = |[first, _]: [Way; 2]| rule.priority.is_none_or(|priority| priority <= first.priority);
        meets(rule, controller, &self.sources) && self.ways(now, None).is_none_or(is_first)
    }
}

fn is_better(prefix: u8, metric: u32, than: &Way) -> bool {
    (prefix, std::cmp::Reverse(metric)) > (than.prefix, std::cmp::Reverse(than.metric))
}

pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

/// Whether a packet meets a rule that has no mark, goes to this address and comes from one of these.
pub(super) fn meets(rule: &Rule, to: IpAddr, sources: &[IpAddr]) -> bool {
    // What says nothing of sources still says of which family they are.
    let from = |from: IpNet| match from.prefix_len() {
        0 => from.addr().is_ipv4() == to.is_ipv4(),
        _ => sources.iter().any(|source| from.contains(source)),
    };
    let is_plain = rule.mark.is_none() && rule.tos.is_none();
    is_plain && rule.from.is_none_or(from) && rule.to.is_none_or(|net| net.contains(&to))
}

fn sources(network: &Network, way: &Way) -> Vec<IpAddr> {
    let link = network.links.iter().filter(|link| link.index == way.link);
    link.flat_map(|link| &link.addresses).map(|address| address.net.addr()).collect()
}

/// How the kernel reaches an address: it asks the tables of rules, then the main one.
pub(super) fn way(network: &Network, to: IpAddr) -> Option<Way> {
    ways_of_all(network, to).map(|[_, way]| way)
}

/// Any address of the link that the first lookup finds may be the source.
fn ways_of_all(network: &Network, to: IpAddr) -> Option<[Way; 2]> {
    ways(network, to, |first| sources(network, first), None)
}

/// The kernel looks twice: without a source, which finds one, and then from it, for which there may be rules.
/// `added` is a route that is not there yet.
fn ways(
    network: &Network,
    to: IpAddr,
    sources: impl Fn(&Way) -> Vec<IpAddr>,
    added: Option<&observed::Route>,
) -> Option<[Way; 2]> {
    let first = looked_up(network, to, &[], added)?;
    let then = looked_up(network, to, &sources(&first), added)?;
    Some([first, then])
}

/// The first table that is asked and has a way.
fn looked_up(network: &Network, to: IpAddr, from: &[IpAddr], added: Option<&observed::Route>) -> Option<Way> {
    let rules = network.rules.iter().filter(|rule| meets(rule, to, from));
    let mut asked: Vec<(u32, u32)> = rules.map(|rule| (rule.table, rule.priority.unwrap_or(0))).collect();
    // Of two with the same priority the one that came first is asked first.
    crate::sort::short(&mut asked, |a, b| a.1.cmp(&b.1));
    asked.extend([MAIN, DEFAULT]);
    asked.into_iter().find_map(|asked| within(network, to, asked, added))
}

/// How one table reaches an address: the longest prefix, then the lowest metric, then the first.
fn within(
    network: &Network,
    to: IpAddr,
    (table, priority): (u32, u32),
    added: Option<&observed::Route>,
) -> Option<Way> {
    let is_up = |index: u32| network.links.iter().any(|link| link.index == index && link.admin == Admin::Up);
    let mut best: Option<Way> = None;
    let mut consider = |link: u32, via: Option<IpAddr>, prefix: u8, metric: u32| {
        if is_up(link) && best.as_ref().is_none_or(|best| is_better(prefix, metric, best)) {
            best = Some(Way { controller: to, link, via, prefix, metric, table, priority });
        }
    };
    // The kernel puts the prefixes of addresses into the main table.
    for link in network.links.iter().filter(|_| table == MAIN_TABLE) {
        for address in link.addresses.iter().filter(|address| address.net.contains(&to)) {
            consider(link.index, None, address.net.prefix_len(), 0);
        }
    }
    let routes = network.routes.iter().chain(added);
    for route in routes.filter(|route| route.table == table && route.to.contains(&to)) {
        consider(route.link, route.via, route.to.prefix_len(), route.metric);
    }
    best
}
