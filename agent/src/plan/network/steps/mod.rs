//! From what is to what is to be: the steps, their order and their impact.
//!
//! The one place that knows which order keeps a machine reachable; used for plans and reverts alike.
//! Each step is tried on the twin as soon as it is planned, so what comes next is decided by what will be there then.
//!
//! A plan that changes the way to the controller has two halves. The first makes everything that can stand beside the
//! present way, which stays as it is; then the controller must answer over the new way ([`Change::Prove`]); the second
//! does the rest. Where both ways cannot stand side by side there is no proof between: what was changed is proven
//! afterwards, or undone.

mod addresses;
mod control;
mod links;
mod staged;

use std::collections::BTreeSet;
use std::net::IpAddr;

use muster_protocol::observed::{self, Link, Network};
use muster_protocol::to_agent::Impact;

use super::target::{KindTarget, LinkTarget, Target};
use super::twin::Twin;
use super::{Change, Route, Step};
use control::Control;
pub(super) use staged::{is_in_proof, is_proofs};

/// By which link, and over which gateway if any, an address is reached.
pub(super) fn way(network: &Network, to: IpAddr) -> Option<(u32, Option<IpAddr>)> {
    control::way(network, to).map(|way| (way.link, way.via))
}

/// How much of the way to the controller may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// Nothing of it: what would is left for later.
    Beside,
    /// All.
    Whole,
}

/// The steps that lead from `observed` to `target`, proven in between where that is possible.
/// `controllers` are the addresses by which the controller is reached, the one in use first.
pub(super) fn between(target: &Target, observed: &Network, controllers: &[IpAddr]) -> Vec<Step> {
    let mut beside = Planner::new(target, observed, controllers);
    beside.clear_proof();
    beside.pass(Half::Beside);
    let mut whole = beside.clone();
    whole.pass(Half::Whole);
    let is_cut = whole.steps.iter().any(|step| step.impact == Impact::ControlPath);
    if !is_cut {
        return whole.steps;
    }
    beside.stage(whole.twin.observe());
    beside.clear_proof();
    beside.gives_up_the_way = true;
    beside.pass(Half::Whole);
    beside.steps
}

/// The steps that lead back: nothing is proven between, for what is there now was not proven either.
pub(super) fn back(target: &Target, observed: &Network) -> Vec<Step> {
    let mut planner = Planner::new(target, observed, &[]);
    planner.clear_proof();
    planner.pass(Half::Whole);
    planner.steps
}

#[derive(Clone)]
struct Planner<'a> {
    target: &'a Target,
    observed: &'a Network,
    /// Where the controller is, the address in use first.
    controllers: &'a [IpAddr],
    control: Control,
    /// What is there after the steps so far.
    twin: Twin,
    steps: Vec<Step>,
    /// Links, by their names to be, that wait for the second half.
    deferred: BTreeSet<&'a str>,
    /// Whether something of it touches the way to the controller.
    gives_up_the_way: bool,
}

impl<'a> Planner<'a> {
    fn new(target: &'a Target, observed: &'a Network, controllers: &'a [IpAddr]) -> Self {
        Self {
            target,
            observed,
            controllers,
            control: Control::of(observed, controllers.get(..1).unwrap_or_default()),
            twin: Twin::new(observed.clone()).without_offers(),
            steps: Vec::new(),
            deferred: BTreeSet::new(),
            gives_up_the_way: false,
        }
    }

    /// Everything in its order: links, then what is on them, then what goes.
    fn pass(&mut self, half: Half) {
        let target = self.target;
        self.rename(half);
        self.clear_the_way(half);
        target.links.iter().for_each(|link| self.create(link, half));
        self.leave(half);
        target.links.iter().for_each(|link| self.properties(link, half));
        let is_early = |link: &&LinkTarget| matches!(link.kind, KindTarget::Ethernet | KindTarget::Bond(_));
        target.links.iter().filter(is_early).for_each(|link| self.mtu(link, half));
        target.links.iter().for_each(|link| self.join(link, half));
        target.links.iter().filter(|link| !is_early(link)).for_each(|link| self.mtu(link, half));
        target.links.iter().for_each(|link| self.ports(link, half));
        target.links.iter().for_each(|link| self.admin(link, half));
        target.links.iter().for_each(|link| self.await_forwarding(link));
        target.links.iter().for_each(|link| self.stop_dhcp(link));
        target.links.iter().for_each(|link| self.new_addresses(link, half));
        target.links.iter().for_each(|link| self.leases(link, half));
        target.links.iter().for_each(|link| self.new_neighbors(link, half));
        if half == Half::Whole {
            self.own_gateways();
        }
        target.links.iter().for_each(|link| self.new_routes(link, half));
        if self.gives_up_the_way {
            self.first_rules();
        }
        self.new_rules(half);
        target.links.iter().for_each(|link| self.await_unique(link, half));
        if half == Half::Beside {
            return;
        }
        if self.gives_up_the_way {
            self.await_way();
        }
        let before = self.twin.observe().routes.clone();
        target.links.iter().for_each(|link| self.old_leased_routes(link));
        self.old_rules();
        target.links.iter().for_each(|link| self.old_routes(link));
        target.links.iter().for_each(|link| self.old_addresses(link));
        target.links.iter().for_each(|link| self.old_neighbors(link));
        self.lost_routes(&before);
        self.delete_unwanted();
        self.machine();
    }

    /// Whether a change would be one of the way to the controller, as things are now.
    fn would_cut(&self, change: &Change) -> bool {
        self.control.impact(change, self.twin.observe(), self.observed) == Impact::ControlPath
    }

    /// Plans a step, unless it touches what this half must not. Returns whether it did.
    fn add(&mut self, change: Change, half: Half) -> bool {
        let impact = self.control.impact(&change, self.twin.observe(), self.observed);
        if half == Half::Beside && impact == Impact::ControlPath {
            return false;
        }
        if self.twin.apply(&change).is_err() {
            match &change {
                // Its gateway is in a prefix that a lease will bring.
                Change::AddRoute(route) if self.comes_by_lease(route) => self.twin.assume(route),
                Change::AwaitLease { .. } => {}
                // It needs what is left for later.
                _ if half == Half::Beside => return false,
                _ => {}
            }
        }
        self.steps.push(Step { change, impact });
        true
    }

    /// The same, where nothing is to be spared.
    fn must(&mut self, change: Change) {
        self.add(change, Half::Whole);
    }

    fn awaits_lease(&self, link: &str) -> bool {
        self.named(link).is_some_and(|link| matches!(link.dhcp4, observed::Dhcp::Searching(_)))
    }

    fn comes_by_lease(&self, route: &Route) -> bool {
        let needs = |wanted: &LinkTarget| wanted.needs_lease(route);
        self.awaits_lease(&route.link) && self.target.link(&route.link).is_some_and(needs)
    }

    fn has(&self, change: &Change) -> bool {
        self.steps.iter().any(|step| step.change == *change)
    }

    fn waits(&self, wanted: &LinkTarget) -> bool {
        self.deferred.contains(wanted.name.as_str())
    }

    /// The link as it is after the steps so far; `None` where it is not there, or waits for the second half.
    fn now(&self, wanted: &LinkTarget) -> Option<&Link> {
        if self.waits(wanted) { None } else { self.named(&wanted.name) }
    }

    fn named(&self, name: &str) -> Option<&Link> {
        self.twin.observe().links.iter().find(|link| link.name == name)
    }
}
