//! NICs that were there before and are not any more: no step brings them back, nor what was made of them.
//!
//! Called where a change is undone, by way of [`super::gone`]. Pure.

use std::net::IpAddr;

use muster_protocol::observed::{Link, LinkKind, Network, Origin};

use super::next_hop;
use super::target::{Target, below, same_nic};

/// A NIC that had a part in what was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Which one, and what went with it.
    pub said: String,
    /// Whether the controller was reached over it, or may have been.
    pub led_home: bool,
}

/// See [`super::gone`].
pub(super) fn gone(before: &Network, now: &Network, controllers: &[IpAddr]) -> Vec<Gone> {
    let target = Target::of_observed(before, now);
    let ways: Vec<u32> = controllers.iter().filter_map(|&to| next_hop(before, to)).map(|(link, _)| link).collect();
    let nics = before.links.iter().filter(|link| link.kind == LinkKind::Ethernet);
    let missing = nics.filter(|nic| same_nic(nic, before, now).is_none());
    let mut all = Vec::new();
    for nic in missing {
        let on_it = made_of(nic, before);
        if on_it.is_empty() && is_idle(nic, before) {
            continue;
        }
        let lost = on_it.iter().filter(|link| target.link(&link.name).is_none());
        let lost: Vec<&str> = lost.map(|link| link.name.as_str()).collect();
        let with_it = if lost.is_empty() { String::new() } else { format!(", and {} with it", lost.join(", ")) };
        let said = format!("{} ({}) is gone{with_it}", nic.name, nic.permanent_mac);
        let is_of_it = |way: &u32| *way == nic.index || on_it.iter().any(|link| link.index == *way);
        all.push(Gone { said, led_home: ways.is_empty() || ways.iter().any(is_of_it) });
    }
    all
}

/// The links that one is a part of, or that lie on it, however many others are in between.
fn made_of<'a>(nic: &Link, network: &'a Network) -> Vec<&'a Link> {
    let (mut found, mut at): (Vec<&Link>, _) = (Vec::new(), nic.index);
    for next in 0.. {
        let is_new = |link: &&Link| below(link, network).contains(&at) && found.iter().all(|f| f.index != link.index);
        let more: Vec<&Link> = network.links.iter().filter(is_new).collect();
        found.extend(more);
        match found.get(next) {
            Some(link) => at = link.index,
            None => break,
        }
    }
    found
}

/// Whether it had nothing: that it was up, or asked for an address and got none, is nothing.
fn is_idle(nic: &Link, network: &Network) -> bool {
    nic.neighbors.is_empty()
        && nic.addresses.iter().all(|address| address.origin == Origin::Kernel)
        && network.routes.iter().all(|route| route.link != nic.index)
}

#[cfg(test)]
mod tests {
    use muster_protocol::VlanTag;
    use muster_protocol::desired::MAIN_TABLE;
    use muster_protocol::observed::{Address, Port, Route, WakeOnLan};

    use super::*;
    use crate::plan::network::revert;
    use crate::plan::network::samples::nic;

    const CONTROLLER: &str = "10.99.0.1";

    /// Two NICs with an address each; the default route is the second's, and what is on a VLAN of the second as well.
    fn before() -> Network {
        let with = |link: Link, net: &str| {
            let address = Address { net: net.parse().expect("an address"), origin: Origin::Static };
            Link { addresses: vec![address], ..link }
        };
        let (parent, tag) = (3, VlanTag::try_from(42).expect("a tag"));
        let vlan = Link { kind: LinkKind::Vlan { parent, tag }, ..nic(5, "office") };
        let route = Route {
            to: "0.0.0.0/0".parse().expect("a prefix"),
            via: Some("10.1.2.1".parse().expect("an address")),
            link: 3,
            metric: 0,
            table: MAIN_TABLE,
            origin: Origin::Static,
        };
        let links = vec![
            with(nic(2, "eth0"), "10.1.1.50/24"),
            with(nic(3, "eth1"), "10.1.2.50/24"),
            nic(4, "eth2"),
            with(vlan, "10.1.42.50/24"),
        ];
        Network { links, routes: vec![route], ..Network::default() }
    }

    fn without(network: &Network, index: u32) -> Network {
        let mut left = network.clone();
        let is_on_it = |link: &Link| matches!(link.kind, LinkKind::Vlan { parent, .. } if parent == index);
        left.links.retain(|link| link.index != index && !is_on_it(link));
        left.routes.retain(|route| route.link != index);
        left
    }

    fn found(before: &Network, now: &Network) -> Vec<(String, bool)> {
        let controller = CONTROLLER.parse().expect("an address");
        gone(before, now, &[controller]).into_iter().map(|gone| (gone.said, gone.led_home)).collect()
    }

    #[test]
    fn a_nic_that_is_gone_is_named_with_what_was_on_it_and_known_by_whether_it_led_home() {
        let before = before();
        assert_eq!(found(&before, &before), []);
        let way_home = "eth1 (02:00:00:00:00:03) is gone, and office with it".to_owned();
        assert_eq!(found(&before, &without(&before, 3)), [(way_home, true)]);
        let other = "eth0 (02:00:00:00:00:02) is gone".to_owned();
        assert_eq!(found(&before, &without(&before, 2)), [(other.clone(), false)]);
        assert_eq!(found(&before, &without(&before, 4)), [], "it had nothing");
        // Who does not know the way takes every one for it.
        assert_eq!(gone(&before, &without(&before, 2), &[]), [Gone { said: other, led_home: true }]);
    }

    #[test]
    fn a_port_that_is_gone_leaves_it_in_doubt_whether_what_it_was_a_part_of_leads_home() {
        let mut before = before();
        let bridge = Link { kind: LinkKind::Bridge(Default::default()), ..nic(6, "br0") };
        let port = Port { of: 6, path_cost: 4, priority: 32, forwards: true };
        (before.links[1].port, before.links[2].port) = (Some(port), Some(port));
        before.links.push(bridge);
        before.routes[0].link = 6;
        let one = "eth2 (02:00:00:00:00:04) is gone".to_owned();
        assert_eq!(found(&before, &without(&before, 4)), [(one, true)], "the bridge stays");
    }

    #[test]
    fn a_nic_that_was_put_in_again_is_the_one_that_it_was() {
        let mut before = before();
        before.links[1].wake_on_lan = WakeOnLan::On;
        let mut now = without(&before, 3);
        now.links.push(Link {
            mac: before.links[1].mac,
            permanent_mac: before.links[1].permanent_mac,
            ..nic(9, "eth3")
        });
        assert_eq!(found(&before, &now), []);
        let steps: Vec<String> = revert(&before, &now).iter().map(|step| step.change.action()).collect();
        for wanted in
            ["rename eth3 to eth1", "create VLAN office with tag 42 on eth1", "add address 10.1.2.50/24 to eth1"]
        {
            assert!(steps.iter().any(|step| step.starts_with(wanted)), "{wanted}: {steps:?}");
        }
        assert!(steps.iter().all(|step| !step.contains("wake-on-LAN")), "it cannot any more: {steps:?}");
        // Another of the same MAC may as well be the other one.
        let mut twins = before.clone();
        twins.links[2].permanent_mac = twins.links[1].permanent_mac;
        assert_eq!(found(&twins, &now).len(), 1);
    }
}
