//! Why the controller may not be reachable any more, as far as the machine itself can see it.
//!
//! Called when a change was not proven in time. Pure: what was desired, what is there, who did not answer.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::desired::Network;
use muster_protocol::hello::Reason;
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Dhcp};

use crate::plan::network::{NewWay, Past, links_of, next_hop};
use crate::sort;

/// What is visibly wrong, most likely cause first; empty where nothing is. `past` is what the plan knew of the machine;
/// `unanswered` are neighbors that were asked for and did not answer (ARP, neighbor discovery), each with its link's index;
/// `way` is the one that was tried, where it was not the one in use; `controllers` are the addresses that were tried.
pub fn diagnose(
    desired: &Network,
    past: &Past,
    observed: &observed::Network,
    unanswered: &[(u32, IpAddr)],
    way: Option<&NewWay>,
    controllers: &[IpAddr],
) -> Vec<(Reason, String)> {
    let mut causes = Vec::new();
    let is_tried = |link: &&observed::Link| way.is_none_or(|way| way.links.contains(&link.name));
    let links = || desired.links.iter().flat_map(|entry| links_of(entry, past, observed)).filter(is_tried);
    for link in links().filter(|link| link.carrier == Carrier::Absent) {
        causes.push((Reason::NoCarrier, format!("no carrier on {}", link.name)));
    }
    for link in links() {
        for (dhcp, name) in [(&link.dhcp4, "DHCP"), (&link.dhcp6, "DHCPv6")] {
            if matches!(dhcp, Dhcp::Searching(_)) {
                causes.push((Reason::NoLease, format!("no lease by {name} on {}", link.name)));
            }
        }
    }
    let tried = |route: &&observed::Route| {
        way.is_none_or(|way| {
            observed.links.iter().any(|link| link.index == route.link && way.links.contains(&link.name))
        })
    };
    // What is there for a proof alone leads to the controller and nowhere else.
    let leads = |to: &IpNet| to.prefix_len() == 0 || controllers.iter().any(|controller| to.contains(controller));
    let gateways = |route: &observed::Route| Some((route.link, route.via.filter(|_| leads(&route.to))?));
    let mut gateways: Vec<(u32, IpAddr)> = observed.routes.iter().filter(tried).filter_map(gateways).collect();
    sort::short(&mut gateways, Ord::cmp);
    gateways.dedup();
    for (_, gateway) in gateways.iter().filter(|gateway| unanswered.contains(gateway)) {
        causes.push((Reason::NoGateway, format!("the gateway {gateway} does not answer")));
    }
    let reachable = controllers.iter().any(|controller| next_hop(observed, *controller).is_some());
    if gateways.is_empty() && way.is_none() && !reachable {
        causes.push((Reason::NoRoute, "there is no default route".to_owned()));
    }
    causes
}

#[cfg(test)]
mod tests {
    use muster_protocol::desired::{Ethernet, LeaseUse, Link, LinkKind, Select};
    use muster_protocol::observed::{Origin, Route};

    use super::*;
    use crate::plan::network::samples::nic;
    use crate::plan::network::see;

    #[test]
    fn a_gateway_is_missed_that_leads_to_the_controller_alone() {
        let [gateway, controller]: [IpAddr; 2] = ["10.1.1.99", "10.99.0.1"].map(|ip| ip.parse().expect("an address"));
        let route = |to: &str| Route {
            link: 2,
            to: to.parse().expect("a prefix"),
            via: Some(gateway),
            metric: 4_000_000_000,
            table: 19_797,
            origin: Origin::Static,
        };
        let links = vec![nic(2, "eth1")];
        let way = NewWay { links: vec!["eth1".into()], source: None, controller: None };
        let causes = |to: &str| {
            let observed = observed::Network { links: links.clone(), routes: vec![route(to)], ..Default::default() };
            diagnose(&Network::default(), &Past::default(), &observed, &[(2, gateway)], Some(&way), &[controller])
        };
        let missed = vec![(Reason::NoGateway, format!("the gateway {gateway} does not answer"))];
        assert_eq!(causes("10.99.0.1/32"), missed);
        assert_eq!(causes("0.0.0.0/0"), missed);
        assert_eq!(causes("10.98.0.0/16"), []);
    }

    #[test]
    fn a_gateway_of_ipv6_is_missed_on_the_link_where_it_does_not_answer() {
        let [gateway, controller]: [IpAddr; 2] =
            ["fe80::9", "2001:db8:99::1"].map(|ip| ip.parse().expect("an address"));
        let route = Route {
            link: 2,
            to: "::/0".parse().expect("a prefix"),
            via: Some(gateway),
            metric: 1024,
            table: 254,
            origin: Origin::Static,
        };
        let observed = observed::Network { links: vec![nic(2, "eth1")], routes: vec![route], ..Default::default() };
        let causes =
            |link| diagnose(&Network::default(), &Past::default(), &observed, &[(link, gateway)], None, &[controller]);
        assert_eq!(causes(2), [(Reason::NoGateway, "the gateway fe80::9 does not answer".to_owned())]);
        assert_eq!(causes(3), [], "it is another link's neighbor of this name");
    }

    #[test]
    fn a_cable_is_missed_however_the_document_says_which_nic_it_means() {
        let booted = observed::Network { links: vec![nic(2, "eth0"), nic(3, "eth2")], ..Default::default() };
        let mut past = Past::default();
        see(&mut past.nics, &booted);
        let causes = |id: &str, select: Select, set_name: Option<&str>, is_called: &str| {
            let ethernet = Ethernet { select, set_name: set_name.map(str::to_owned), ..Ethernet::default() };
            let kind = LinkKind::Ethernet(ethernet);
            let entry = Link { id: id.to_owned(), kind, settings: Default::default() };
            let desired = Network { links: vec![entry], ..Network::default() };
            let mut observed = booted.clone();
            observed.links[1] = observed::Link {
                name: is_called.to_owned(),
                carrier: Carrier::Absent,
                dhcp4: Dhcp::Searching(LeaseUse::default()),
                ..observed.links[1].clone()
            };
            let way = NewWay { links: vec![is_called.to_owned()], source: None, controller: None };
            let causes = diagnose(&desired, &past, &observed, &[], Some(&way), &[]);
            causes.into_iter().map(|(reason, why)| format!("{reason:?}: {why}")).collect::<Vec<_>>().join("; ")
        };
        let named = |name: &str| Select { name: Some(name.to_owned()), ..Select::default() };
        let driven = |drivers: &[&str]| drivers.iter().map(|driver| (*driver).to_owned()).collect();
        let missed = |name: &str| format!("NoCarrier: no carrier on {name}; NoLease: no lease by DHCP on {name}");
        assert_eq!(causes("eth2", Select::default(), None, "eth2"), missed("eth2"));
        assert_eq!(causes("lan", named("eth2"), None, "eth2"), missed("eth2"));
        let select = Select { drivers: driven(&["e1000*"]), ..named("*2") };
        assert_eq!(causes("lan", select, None, "eth2"), missed("eth2"));
        assert_eq!(causes("lan", named("eth[12]"), Some("office0"), "office0"), missed("office0"), "it was renamed");
        let mac = Select { mac: Some(booted.links[1].permanent_mac), ..Select::default() };
        assert_eq!(causes("lan", mac, Some("office0"), "office0"), missed("office0"));
        assert_eq!(causes("lan", named("eth0"), None, "eth2"), "", "another NIC is meant");
    }
}
