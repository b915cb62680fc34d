//! By what the controller is reached: the link, and the NICs beneath it, as an inventory tells them.

use std::net::IpAddr;

use muster_protocol::inventory::{Home, Nic};
use muster_protocol::observed::Network;

use super::next_hop;
use super::target::below;

/// The link by which packets for the controller leave, and those of `nics` that are beneath it, in their order. `None`
/// where there is no way to it, or none over a link of the machine's.
pub fn home(network: &Network, controller: IpAddr, nics: &[Nic]) -> Option<Home> {
    let (index, _) = next_hop(network, controller)?;
    let named = |index: u32| network.links.iter().find(|link| link.index == index);
    let (mut pending, mut beneath) = (vec![index], Vec::new());
    while let Some(link) = pending.pop().and_then(named) {
        // Nothing stands on itself, but what is read while it changes may look so.
        if !beneath.contains(&link.name.as_str()) {
            beneath.push(&link.name);
            pending.extend(below(link, network));
        }
    }
    let is_beneath = |nic: &&Nic| beneath.contains(&nic.name.as_str());
    let nics = nics.iter().filter(is_beneath).map(|nic| nic.name.clone()).collect();
    Some(Home { link: named(index)?.name.clone(), nics })
}

#[cfg(test)]
mod tests {
    use muster_protocol::desired::MAIN_TABLE;
    use muster_protocol::inventory::Carrier;
    use muster_protocol::observed::{Admin, Link, LinkKind, Origin, Port, Route};
    use muster_protocol::{Mac, VlanTag};

    use super::*;
    use crate::machine::Machine;
    use crate::sim::SimMachine;

    const CONTROLLER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

    /// Of machine 1, with its default route by this link and these links more.
    fn told(by: u32, links: impl IntoIterator<Item = Link>, ports: &[(u32, u32)]) -> Option<Home> {
        let machine = SimMachine::new(1);
        let mut network = machine.observe_network().expect("observes");
        network.links.extend(links);
        for link in &mut network.links {
            let of = ports.iter().find(|(port, _)| *port == link.index).map(|(_, of)| *of);
            link.port = of.map(|of| Port { of, path_cost: 0, priority: 0, forwards: true });
        }
        network.routes.iter_mut().for_each(|route| route.link = by);
        home(&network, CONTROLLER, &machine.inventory().nics)
    }

    fn up(index: u32, name: &str, kind: LinkKind) -> Link {
        let bare = Link::bare(index, name, Mac::from_bytes([2; 6]), kind);
        Link { admin: Admin::Up, carrier: Carrier::Present, ..bare }
    }

    fn vlan(index: u32, parent: u32) -> Link {
        up(index, "office", LinkKind::Vlan { parent, tag: VlanTag::try_from(42).expect("a tag") })
    }

    fn is(link: &str, nics: &[&str]) -> Option<Home> {
        Some(Home { link: link.into(), nics: nics.iter().map(|nic| (*nic).to_owned()).collect() })
    }

    #[test]
    fn the_link_that_leads_to_the_controller_is_told_with_the_nics_beneath_it() {
        let bond = || up(7, "bond0", LinkKind::Bond(Box::default()));
        let bridge = up(9, "br0", LinkKind::Bridge(Box::default()));
        assert_eq!(told(2, [], &[]), is("eth0", &["eth0"]));
        assert_eq!(told(8, [vlan(8, 3)], &[]), is("office", &["eth1"]));
        assert_eq!(told(7, [bond()], &[(3, 7), (2, 7)]), is("bond0", &["eth0", "eth1"]));
        assert_eq!(told(9, [bond(), vlan(8, 7), bridge], &[(3, 7), (8, 9)]), is("br0", &["eth1"]));
        let tunnel = up(8, "wg0", LinkKind::Foreign("wireguard".into()));
        assert_eq!(told(8, [tunnel], &[]), is("wg0", &[]), "what is beneath it is not known");
    }

    #[test]
    fn where_no_link_leads_to_the_controller_none_is_told() {
        assert_eq!(told(99, [], &[]), None);
        let mut network = SimMachine::new(1).observe_network().expect("observes");
        let elsewhere = "198.51.100.0/24".parse().expect("a prefix");
        let route = network.routes.remove(0);
        network.routes = vec![Route { to: elsewhere, table: MAIN_TABLE, origin: Origin::Static, ..route }];
        assert_eq!(home(&network, CONTROLLER, &[]), None);
    }
}
