//! The new way to the controller, beside the present one: what is put up for the proof alone.
//!
//! Nothing of it is desired, so the second half of the plan takes it away again, and so does a revert.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::desired::{LeaseUse, MAIN_TABLE, Reach, Rule, Take};
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Admin, Link, Origin};

use super::Planner;
use super::control::{Way, way};
use crate::plan::network::target::LinkTarget;
use crate::plan::network::{Change, Family, LEASED_METRIC, NewWay, Route};

/// Behind all routes that anybody uses: such a one is taken only by a socket that is bound to its link.
pub(super) const LAST_METRIC: u32 = 4_000_000_000;
/// A table of our own, for a new way by the link of the present one.
const TABLE: u32 = 19_797;
/// Where the rule stands that sends the new address there.
const PRIORITY: u32 = 19_797;

/// The same lease with its routes behind all others.
pub(super) fn beside(uses: LeaseUse) -> LeaseUse {
    LeaseUse { route_metric: Some(LAST_METRIC), ..uses }
}

/// The best way to the controller that a target has.
struct Wanted<'a> {
    link: &'a LinkTarget,
    via: Option<IpAddr>,
    prefix: u8,
    metric: u32,
    is_leased: bool,
}

impl<'a> Planner<'a> {
    /// Puts the new way up and has it proven, where there is one that can stand beside the present one.
    pub(super) fn stage(&mut self) {
        let Some(present) = self.control.way.clone() else { return };
        let Some(wanted) = self.wanted_way(present.controller) else { return };
        let Some(now) = self.now(wanted.link) else { return };
        let ready = now.admin == Admin::Up && now.carrier == Carrier::Present && now.port.is_none();
        if !ready {
            return;
        }
        let is_same_link = now.index == present.link;
        if is_same_link && !self.is_other(&wanted, &present, &now.clone()) {
            return;
        }
        let source = self.source(&wanted, present.controller);
        // An address that would draw the present way to it is not there yet.
        let is_there = source.is_some_and(|source| now.addresses.iter().any(|have| have.net.addr() == source));
        if !is_there && (is_same_link || !wanted.is_leased) {
            return;
        }
        let link = wanted.link.name.clone();
        if let (Some(via), false) = (wanted.via, wanted.is_leased) {
            let to = IpNet::from(present.controller);
            let route = |metric, table| Route {
                link: link.clone(),
                to,
                via: Some(via),
                metric,
                table,
                origin: Origin::Static,
                reach: Reach::OnLink,
            };
            if is_same_link {
                let from = source.map(IpNet::from);
                let priority = Some(PRIORITY);
                let rule = Change::AddRule(Rule { from, to: Some(to), table: TABLE, priority, mark: None, tos: None });
                // Packets of the present way have the same source: the two cannot be told apart.
                if self.would_cut(&rule) {
                    return;
                }
                self.must(Change::AddRoute(route(LAST_METRIC, TABLE)));
                self.must(rule);
            } else {
                // The shortest prefix of all: a longer one than the present way's would be taken at once.
                let to = IpNet::new(present.controller, 0).map_or(to, |net| net.trunc());
                self.must(Change::AddRoute(Route { to, ..route(LAST_METRIC, MAIN_TABLE) }));
            }
        }
        if wanted.is_leased {
            let awaits = Change::AwaitLease { link: link.clone(), family: Family::V4 };
            if !self.has(&awaits) {
                self.must(awaits);
            }
        }
        self.must(Change::Prove(NewWay { link, source }));
    }

    /// Where a lease is to bring the way to the controller, the present one is given up only for a lease that is there.
    pub(super) fn await_way(&mut self) {
        let Some(controller) = self.control.way.as_ref().map(|way| way.controller) else { return };
        let Some(wanted) = self.wanted_way(controller).filter(|wanted| wanted.is_leased) else { return };
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
    fn is_other(&self, wanted: &Wanted<'_>, present: &Way, now: &Link) -> bool {
        let gateway = present.via.unwrap_or(present.controller);
        let source = self
            .observed
            .links
            .iter()
            .find(|link| link.index == present.link)
            .and_then(|link| link.addresses.iter().find(|address| address.net.contains(&gateway)).copied());
        let stays = source.is_some_and(|source| {
            let leased = source.origin == Origin::Dhcp && wanted.link.dhcp4.is_on() && now.dhcp4 != observed::Dhcp::Off;
            let announced = matches!(source.origin, Origin::Ra | Origin::Kernel);
            leased || announced || wanted.link.addresses.iter().any(|address| address.net == source.net)
        });
        !stays || wanted.via != present.via
    }

    /// The address from which the new way will be used, where it is known beforehand.
    fn source(&self, wanted: &Wanted<'_>, controller: IpAddr) -> Option<IpAddr> {
        if wanted.is_leased {
            return None;
        }
        let next = wanted.via.unwrap_or(controller);
        let addresses = || wanted.link.addresses.iter().map(|address| address.net);
        let family = |net: &IpNet| net.addr().is_ipv4() == controller.is_ipv4();
        let source = addresses().find(|net| net.contains(&next)).or_else(|| addresses().find(family));
        source.map(|net| net.addr())
    }

    /// How the target reaches the controller: the longest prefix, then the lowest metric, then the first.
    fn wanted_way(&self, controller: IpAddr) -> Option<Wanted<'a>> {
        let mut best: Option<Wanted<'a>> = None;
        let mut consider = |link, via, prefix, metric, is_leased| {
            let better =
                |best: &Wanted<'_>| (prefix, std::cmp::Reverse(metric)) > (best.prefix, std::cmp::Reverse(best.metric));
            if best.as_ref().is_none_or(better) {
                best = Some(Wanted { link, via, prefix, metric, is_leased });
            }
        };
        for link in self.target.links.iter().filter(|link| link.port.is_none()) {
            for net in link.addresses.iter().map(|address| address.net).filter(|net| net.contains(&controller)) {
                consider(link, None, net.prefix_len(), 0, false);
            }
            for route in link.routes.iter().filter(|route| route.table == MAIN_TABLE && route.to.contains(&controller))
            {
                let is_leased = route.via.is_some_and(|via| {
                    !link.addresses.iter().any(|address| address.net.contains(&via)) && route.reach == Reach::Prefix
                });
                consider(link, route.via, route.to.prefix_len(), route.metric, is_leased && controller.is_ipv4());
            }
            if let Some(uses) = lease_use(link).filter(|uses| uses.routes == Take::Yes && controller.is_ipv4()) {
                consider(link, None, 0, uses.route_metric.unwrap_or(LEASED_METRIC), true);
            }
        }
        best
    }
}

fn lease_use(link: &LinkTarget) -> Option<LeaseUse> {
    match link.dhcp4 {
        muster_protocol::desired::Dhcp::On(uses) => Some(uses),
        muster_protocol::desired::Dhcp::Off => None,
    }
}
