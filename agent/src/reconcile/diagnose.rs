//! Why the controller may not be reachable any more, as far as the machine itself can see it.
//!
//! Called when a change was not proven in time. Pure: what was desired, what is there, who did not answer.

use std::net::IpAddr;

use muster_protocol::desired::{Network, Select};
use muster_protocol::inventory::Carrier;
use muster_protocol::{desired, observed};

use crate::sort;

/// What is visibly wrong, most likely cause first; empty where nothing is.
/// `unanswered` are neighbors that were asked for and did not answer (ARP, neighbor discovery).
pub fn diagnose(desired: &Network, observed: &observed::Network, unanswered: &[IpAddr]) -> Vec<String> {
    let mut causes = Vec::new();
    for link in desired.links.iter().filter_map(|link| find(link, observed)) {
        if link.carrier == Carrier::Absent {
            causes.push(format!("no carrier on {}", link.name));
        }
    }
    let gateways = |route: &observed::Route| if route.to.prefix_len() == 0 { route.via } else { None };
    let mut gateways: Vec<IpAddr> = observed.routes.iter().filter_map(gateways).collect();
    sort::short(&mut gateways, Ord::cmp);
    gateways.dedup();
    for gateway in gateways.iter().filter(|gateway| unanswered.contains(gateway)) {
        causes.push(format!("the gateway {gateway} does not answer"));
    }
    if gateways.is_empty() {
        causes.push("there is no default route".to_owned());
    }
    causes
}

fn find<'a>(link: &desired::Link, observed: &'a observed::Network) -> Option<&'a observed::Link> {
    observed.links.iter().find(|there| match link {
        desired::Link::Ethernet { select: Select::Mac(mac), .. } => there.permanent_mac == *mac,
        desired::Link::Ethernet { select: Select::Name(name), .. } => there.name == *name,
        desired::Link::Vlan { id, .. } => there.name == *id,
    })
}
