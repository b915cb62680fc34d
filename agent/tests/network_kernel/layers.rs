//! What a step does to other links than its own, and to what is on them: the kernel's rules that plans are made by.
//!
//! [`muster_agent::plan::network::twin`] makes the same promises without a kernel.

use super::lab::{Lab, eventually};
use super::steps::{does, found, join, refused, seen, set_admin, shown};
use muster_agent::linux::network::Network;
use muster_agent::plan::network::{Change, NewLink, Route};
use muster_protocol::desired::{BondMode, MAIN_TABLE, Neighbor, Reach};
use muster_protocol::observed::{Address, Admin, Origin};
use muster_protocol::{Mac, VlanTag};

fn create(network: &Network, link: &str, kind: NewLink) {
    does(network, Change::Create { link: link.to_owned(), kind });
}

fn create_vlan(network: &Network, link: &str, parent: &str) {
    let tag = VlanTag::try_from(7).expect("a tag");
    create(network, link, NewLink::Vlan { parent: parent.to_owned(), tag });
}

fn add(network: &Network, link: &str, address: &str) {
    let address = Address { net: address.parse().expect("a prefix"), origin: Origin::Static };
    does(network, Change::AddAddress { link: link.to_owned(), address });
}

fn set_mtu(network: &Network, link: &str, mtu: u32) {
    does(network, Change::SetMtu { link: link.to_owned(), mtu });
}

fn add_neighbor(network: &Network, link: &str) {
    let neighbor = Neighbor { address: [192, 0, 2, 9].into(), mac: Mac::from_bytes([2, 0, 0, 0, 0, 9]) };
    does(network, Change::AddNeighbor { link: link.to_owned(), neighbor });
}

fn route(link: &str, to: &str, via: &str) -> Route {
    let (to, via) = (to.parse().expect("a prefix"), Some(via.parse().expect("an address")));
    let (link, metric, table) = (link.to_owned(), 1024, MAIN_TABLE);
    Route { link, to, via, metric, table, origin: Origin::Static, reach: Reach::Prefix }
}

/// Static addresses, routes and permanent neighbors of a link: how many.
fn counts(network: &Network, name: &str) -> (usize, usize, usize) {
    let link = seen(network, name);
    let routes = network.observe().expect("observed").routes;
    (
        link.addresses.iter().filter(|address| address.origin == Origin::Static).count(),
        routes.iter().filter(|route| route.link == link.index).count(),
        link.neighbors.len(),
    )
}

/// `eth0` up, with an address and a route of each family and a neighbor.
fn furnish(lab: &Lab, network: &Network) {
    lab.peer_ip("link set lan0 up");
    set_admin(network, "eth0", Admin::Up);
    add(network, "eth0", "192.0.2.7/24");
    add(network, "eth0", "2001:db8::7/64");
    does(network, Change::AddRoute(route("eth0", "198.51.100.0/24", "192.0.2.1")));
    does(network, Change::AddRoute(route("eth0", "2001:db8:1::/48", "2001:db8::1")));
    add_neighbor(network, "eth0");
    assert_eq!(counts(network, "eth0"), (2, 2, 1));
}

#[test]
fn going_down_costs_a_link_its_routes_neighbors_and_ipv6_addresses() {
    let lab = Lab::new();
    let network = lab.network(None);
    furnish(&lab, &network);
    set_admin(&network, "eth0", Admin::Down);
    assert_eq!(counts(&network, "eth0"), (1, 0, 0));
    let text = refused(&network, Change::AddRoute(route("eth0", "198.51.100.0/24", "192.0.2.1")));
    assert!(text.contains("Network is down") || text.contains("not UP") || text.contains("invalid gateway"), "{text}");
    set_admin(&network, "eth0", Admin::Up);
    assert_eq!(counts(&network, "eth0"), (1, 0, 0), "it does not get them back");
}

#[test]
fn a_link_that_is_down_takes_addresses_and_neighbors() {
    let lab = Lab::new();
    let network = lab.network(None);
    add(&network, "eth0", "192.0.2.7/24");
    add(&network, "eth0", "2001:db8::7/64");
    add_neighbor(&network, "eth0");
    assert_eq!(counts(&network, "eth0"), (2, 0, 1));
    lab.peer_ip("link set lan0 up");
    set_admin(&network, "eth0", Admin::Up);
    assert_eq!(counts(&network, "eth0"), (2, 0, 1));
}

#[test]
fn joining_and_leaving_a_bridge_costs_a_link_nothing_of_its_own() {
    let lab = Lab::new();
    let network = lab.network(None);
    furnish(&lab, &network);
    create(&network, "br0", NewLink::Bridge);
    join(&network, "eth0", "br0");
    assert_eq!((counts(&network, "eth0"), seen(&network, "eth0").admin), ((2, 2, 1), Admin::Up));
    does(&network, Change::Leave { link: "eth0".to_owned() });
    assert_eq!((counts(&network, "eth0"), seen(&network, "eth0").admin), ((2, 2, 1), Admin::Up));
}

#[test]
fn a_bridge_changes_its_mac_with_its_ports_and_forgets_its_neighbors_by_that() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, "br0", NewLink::Bridge);
    set_admin(&network, "br0", Admin::Up);
    add(&network, "br0", "192.0.2.7/24");
    add_neighbor(&network, "br0");
    let before = seen(&network, "br0").mac;
    join(&network, "eth0", "br0");
    assert_eq!(seen(&network, "br0").mac, seen(&network, "eth0").mac);
    assert_ne!(seen(&network, "br0").mac, before);
    assert_eq!(counts(&network, "br0"), (1, 0, 0));
}

#[test]
fn the_last_ipv4_address_takes_the_ipv4_routes_of_all_tables_and_the_neighbors_with_it() {
    let lab = Lab::new();
    let network = lab.network(None);
    furnish(&lab, &network);
    does(&network, Change::AddRoute(Route { table: 7, ..route("eth0", "198.51.100.0/24", "192.0.2.1") }));
    let address = Address { net: "192.0.2.7/24".parse().expect("a prefix"), origin: Origin::Static };
    does(&network, Change::RemoveAddress { link: "eth0".to_owned(), address });
    assert_eq!(counts(&network, "eth0"), (1, 1, 0), "only what is IPv6's is left");
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_port_of_a_bond_has_the_bonds_mtu_and_keeps_it_when_it_leaves() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, "bond7", NewLink::Bond { mode: BondMode::ActiveBackup });
    set_mtu(&network, "bond7", 1_400);
    join(&network, "eth0", "bond7");
    assert_eq!(seen(&network, "eth0").mtu, 1_400);
    set_mtu(&network, "bond7", 1_350);
    assert_eq!((seen(&network, "eth0").mtu, shown(&lab, "eth0")["mtu"].as_u64()), (1_350, Some(1_350)));
    does(&network, Change::Leave { link: "eth0".to_owned() });
    assert_eq!(seen(&network, "eth0").mtu, 1_350, "the kernel alone would give it 1500 again");
    set_mtu(&network, "eth0", 1_500);
    join(&network, "eth0", "bond7");
    does(&network, Change::Delete { link: "bond7".to_owned() });
    assert_eq!(seen(&network, "eth0").mtu, 1_350);
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn joining_a_bond_costs_a_link_what_going_down_costs_and_nothing_more() {
    let lab = Lab::new();
    let network = lab.network(None);
    furnish(&lab, &network);
    create(&network, "bond7", NewLink::Bond { mode: BondMode::ActiveBackup });
    set_admin(&network, "eth0", Admin::Down);
    join(&network, "eth0", "bond7");
    assert_eq!(counts(&network, "eth0"), (1, 0, 0));
    let kernels = seen(&network, "eth0").addresses.iter().filter(|address| address.origin == Origin::Kernel).count();
    assert_eq!((kernels, seen(&network, "eth0").admin), (0, Admin::Up), "a port has no link-local address");
    does(&network, Change::Leave { link: "eth0".to_owned() });
    assert_eq!((counts(&network, "eth0"), seen(&network, "eth0").admin), ((1, 0, 0), Admin::Down));
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_bond_gets_the_mac_of_its_first_port_and_forgets_its_neighbors_by_that() {
    let lab = Lab::new();
    lab.ip("link add eth1 address 02:00:00:00:01:01 type veth peer name lan1");
    let network = lab.network(None);
    create(&network, "bond7", NewLink::Bond { mode: BondMode::ActiveBackup });
    create_vlan(&network, "office", "bond7");
    set_admin(&network, "bond7", Admin::Up);
    add(&network, "bond7", "192.0.2.7/24");
    add_neighbor(&network, "bond7");
    join(&network, "eth0", "bond7");
    let mac = seen(&network, "eth0").mac;
    assert_eq!((seen(&network, "bond7").mac, seen(&network, "office").mac), (mac, mac), "a VLAN has its parent's");
    assert_eq!(counts(&network, "bond7"), (1, 0, 0));
    // A second port changes nothing, and the bond keeps the MAC of one that left.
    add_neighbor(&network, "bond7");
    join(&network, "eth1", "bond7");
    does(&network, Change::Leave { link: "eth0".to_owned() });
    assert_eq!((seen(&network, "bond7").mac, counts(&network, "bond7")), (mac, (1, 0, 1)));
    does(&network, Change::Leave { link: "eth1".to_owned() });
    assert_ne!(seen(&network, "bond7").mac, mac, "without ports it gets another");
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_bond_that_goes_up_or_down_leaves_its_ports_up_and_takes_its_vlans_along() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, "bond7", NewLink::Bond { mode: BondMode::ActiveBackup });
    create_vlan(&network, "office", "bond7");
    let text = refused(&network, Change::SetAdmin { link: "office".to_owned(), admin: Admin::Up });
    assert!(text.contains("Network is down"), "{text}");
    join(&network, "eth0", "bond7");
    let admins = || ["eth0", "bond7", "office"].map(|link| seen(&network, link).admin);
    assert_eq!(admins(), [Admin::Up, Admin::Down, Admin::Down]);
    set_admin(&network, "bond7", Admin::Up);
    assert_eq!(admins(), [Admin::Up; 3]);
    add(&network, "office", "192.0.2.7/24");
    set_admin(&network, "bond7", Admin::Down);
    assert_eq!((admins(), counts(&network, "office")), ([Admin::Up, Admin::Down, Admin::Down], (1, 0, 0)));
}

#[test]
#[ignore = "needs a kernel with 8021q: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_vlan_has_its_parents_mtu_follows_it_down_and_not_up() {
    let lab = Lab::new();
    let network = lab.network(None);
    set_mtu(&network, "eth0", 1_600);
    create_vlan(&network, "office", "eth0");
    assert_eq!(seen(&network, "office").mtu, 1_600);
    let text = refused(&network, Change::SetMtu { link: "office".to_owned(), mtu: 1_601 });
    assert!(text.contains("Numerical result out of range"), "{text}");
    set_mtu(&network, "eth0", 1_300);
    set_mtu(&network, "eth0", 1_500);
    assert_eq!((seen(&network, "office").mtu, shown(&lab, "office")["mtu"].as_u64()), (1_300, Some(1_300)));
}

#[test]
#[ignore = "needs a kernel with 8021q: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_vlan_joins_and_leaves_a_bond_as_a_nic_does() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    let network = lab.network(None);
    set_admin(&network, "eth0", Admin::Up);
    create_vlan(&network, "office", "eth0");
    create(&network, "bond7", NewLink::Bond { mode: BondMode::ActiveBackup });
    join(&network, "office", "bond7");
    set_admin(&network, "bond7", Admin::Up);
    eventually("it is up", || (seen(&network, "office").admin == Admin::Up).then_some(()));
    does(&network, Change::Leave { link: "office".to_owned() });
    assert_eq!(seen(&network, "office").admin, Admin::Down);
    does(&network, Change::Delete { link: "office".to_owned() });
    assert_eq!(found(&network, "office"), None);
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn the_mtu_of_a_bridge_is_its_own_once_it_was_set() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, "bond7", NewLink::Bond { mode: BondMode::BalanceRr });
    set_mtu(&network, "bond7", 1_400);
    for (link, mtu) in [("br0", None), ("br1", Some(1_450))] {
        create(&network, link, NewLink::Bridge);
        if let Some(mtu) = mtu {
            set_mtu(&network, link, mtu);
        }
        join(&network, "bond7", link);
        assert_eq!(seen(&network, link).mtu, mtu.unwrap_or(1_400), "{link}");
    }
}
