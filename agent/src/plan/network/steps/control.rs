//! The way to the controller, and what steps do to it.

use std::net::IpAddr;

use muster_protocol::desired::{AcceptRa, BridgeOption, LeaseUse, MAIN_TABLE, Rule, Take};
use muster_protocol::observed::{Address, Admin, Link, Network};
use muster_protocol::to_agent::Impact;

use super::staged::LAST_METRIC;
use crate::plan::network::target::below;
use crate::plan::network::{Change, LEASED_METRIC, Route};

/// By what the controller is reached before the first step.
#[derive(Debug, Clone)]
pub(super) struct Control {
    /// Interface indexes of the links on the way, and of all below them.
    links: Vec<u32>,
    /// The controller's address in use, where the machine has a way to it that is known.
    pub(super) way: Option<Way>,
    /// The addresses of the link by which it leaves: one of them is the source.
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
}

impl Control {
    pub(super) fn of(network: &Network, controllers: &[IpAddr]) -> Self {
        let mut ways = controllers.iter().filter(|ip| !ip.is_loopback()).filter_map(|ip| way(network, *ip));
        let way = ways.next();
        let mut pending: Vec<u32> = way.iter().map(|way| way.link).collect();
        if pending.is_empty() {
            let defaults =
                network.routes.iter().filter(|route| route.to.prefix_len() == 0 && route.table == MAIN_TABLE);
            pending = defaults.map(|route| route.link).collect();
        }
        if pending.is_empty() {
            let global = |link: &&Link| link.addresses.iter().any(is_global);
            pending = network.links.iter().filter(global).map(|link| link.index).collect();
        }
        let of_way = |link: &&Link| way.as_ref().is_some_and(|way| way.link == link.index);
        let addresses = network.links.iter().filter(of_way).flat_map(|link| &link.addresses);
        let sources = addresses.map(|address| address.net.addr()).collect();
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
            Change::SetAcceptRa { link, accept_ra: AcceptRa::Off }
            | Change::RemoveAddress { link, .. }
            | Change::RemoveNeighbor { link, .. }
            | Change::RemoveRoute(Route { link, table: MAIN_TABLE, .. }) => on(link, Impact::AddressesChange),
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
            Change::StartDhcp { link, uses, .. } => if_taken(self.is_leased_away(link, *uses, now)),
            Change::AddRule(rule) | Change::RemoveRule(rule) => if_taken(self.is_ruled(rule)),
            Change::StopDhcp { .. }
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
            | Change::Prove(_)
            | Change::RemoveRoute(_)
            | Change::SetResolvers { .. }
            | Change::SetNtp { .. }
            | Change::SetHostname { .. } => Impact::None,
        }
    }

    /// Whether a new route would be the way to the controller at once.
    fn takes_over(&self, route: &Route, now: &Network) -> bool {
        if route.table != MAIN_TABLE {
            return false;
        }
        let Some(Way { controller, .. }) = self.way else { return route.to.prefix_len() == 0 };
        let Some(link) = now.links.iter().find(|link| link.name == route.link) else { return false };
        let Some(present) = way(now, controller) else { return false };
        let is_new = (link.index, route.via) != (present.link, present.via);
        // Of two alike IPv4 takes the first; IPv6 takes both, in turn.
        let is_alike = (route.to.prefix_len(), route.metric) == (present.prefix, present.metric);
        let is_taken = is_better(route.to.prefix_len(), route.metric, &present) || is_alike && controller.is_ipv6();
        is_new && route.to.contains(&controller) && is_taken
    }

    /// Whether an address makes the controller a neighbor on another link than the one by which it is reached.
    fn is_drawn_to(&self, link: &str, address: &Address, now: &Network) -> bool {
        let Some(Way { controller, .. }) = self.way else { return false };
        let Some(present) = way(now, controller) else { return false };
        let is_there = now.links.iter().any(|there| there.name == *link && there.index == present.link);
        address.net.contains(&controller) && address.net.prefix_len() > present.prefix
            || address.net.addr() == controller
            // An address of the gateway's own would answer for it.
            || !is_there && present.via == Some(address.net.addr())
    }

    /// Whether the routes of a lease on another link would be the way to the controller.
    fn is_leased_away(&self, link: &str, uses: LeaseUse, now: &Network) -> bool {
        let Some(link) = now.links.iter().find(|there| there.name == *link) else { return false };
        if uses.routes == Take::No {
            return false;
        }
        let metric = uses.route_metric.unwrap_or(LEASED_METRIC);
        let Some(Way { controller, .. }) = self.way else { return false };
        way(now, controller)
            .is_some_and(|present| present.link != link.index && controller.is_ipv4() && is_better(0, metric, &present))
    }

    /// Whether a rule may be asked for the way to the controller.
    fn is_ruled(&self, rule: &Rule) -> bool {
        let Some(Way { controller, .. }) = self.way else { return true };
        let from = rule.from.is_none_or(|from| self.sources.iter().any(|source| from.contains(source)));
        from && rule.to.is_none_or(|to| to.contains(&controller)) && rule.mark.is_none() && rule.tos.is_none()
    }
}

fn is_better(prefix: u8, metric: u32, than: &Way) -> bool {
    (prefix, std::cmp::Reverse(metric)) > (than.prefix, std::cmp::Reverse(than.metric))
}

fn is_global(address: &Address) -> bool {
    match address.net.addr() {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

/// How the main table reaches an address: the longest prefix, then the lowest metric, then the first.
pub(super) fn way(network: &Network, to: IpAddr) -> Option<Way> {
    let is_up = |index: u32| network.links.iter().any(|link| link.index == index && link.admin == Admin::Up);
    let mut best: Option<Way> = None;
    let mut consider = |link: u32, via: Option<IpAddr>, prefix: u8, metric: u32| {
        if is_up(link) && best.as_ref().is_none_or(|best| is_better(prefix, metric, best)) {
            best = Some(Way { controller: to, link, via, prefix, metric });
        }
    };
    for link in &network.links {
        for address in link.addresses.iter().filter(|address| address.net.contains(&to)) {
            consider(link.index, None, address.net.prefix_len(), 0);
        }
    }
    for route in network.routes.iter().filter(|route| route.table == MAIN_TABLE && route.to.contains(&to)) {
        consider(route.link, route.via, route.to.prefix_len(), route.metric);
    }
    best
}
