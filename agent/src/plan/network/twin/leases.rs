//! What of a lease is used, and what becomes of its routes when that changes.
//!
//! Used by the twin, which does it, and by the planner, which asks what it would cost.

use muster_protocol::desired::{LeaseUse, MAIN_TABLE, Take};
use muster_protocol::observed::{Network, Origin, Route};

use super::Twin;
use crate::plan::network::LEASED_METRIC;

/// A route of a lease, and what metric was said for it when it counted.
pub(super) type Withheld = (Option<u32>, Route);

/// What DHCP brought on a link; routers bring the routes of IPv6.
fn is_leased(route: &Route, link: u32) -> bool {
    (route.link, route.table, route.origin) == (link, MAIN_TABLE, Origin::Dhcp) && route.to.addr().is_ipv4()
}

/// The same routes with those that a lease brought on `link` as `uses` says, which were as `had` says: another metric, or
/// none of them.
pub(in crate::plan::network) fn used(network: &Network, link: u32, had: LeaseUse, uses: LeaseUse) -> Vec<Route> {
    let mut routes = network.routes.clone();
    routes.retain(|route| uses.routes == Take::Yes || !is_leased(route, link));
    if had.route_metric != uses.route_metric {
        let metric = uses.route_metric.unwrap_or(LEASED_METRIC);
        routes.iter_mut().filter(|route| is_leased(route, link)).for_each(|route| route.metric = metric);
    }
    routes
}

impl Twin {
    /// A client that has a lease uses it otherwise. Its routes that do not count any more are remembered: they come again.
    pub(super) fn use_otherwise(&mut self, link: u32, had: LeaseUse, uses: LeaseUse) {
        let mut routes = used(&self.network, link, had, uses);
        if uses.routes == Take::Yes {
            let (again, rest) = self.withheld.drain(..).partition(|(_, route): &Withheld| route.link == link);
            self.withheld = rest;
            let metric = uses.route_metric.unwrap_or(LEASED_METRIC);
            let as_used = |(had, route): Withheld| match had == uses.route_metric {
                true => route,
                false => Route { metric, ..route },
            };
            let again: Vec<Withheld> = again;
            routes.extend(again.into_iter().map(as_used));
        } else {
            let leased = self.network.routes.iter().filter(|route| is_leased(route, link)).cloned();
            self.withheld.extend(leased.map(|route| (had.route_metric, route)));
        }
        self.network.routes = routes;
    }
}
