//! The network of the real machine against this machine's kernel, iproute2 and dnsmasq, in namespaces of its own.
//!
//! Many kernels that tests run on have no VLANs. What needs more than every kernel has is ignored here, and run with all the
//! rest in the machines' own kernel by `tests/tests/system/kernel.rs`.

#[path = "network_kernel/lab.rs"]
mod lab;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use lab::{Lab, MAC, eventually};
use muster_agent::linux::network::Network;
use muster_agent::machine::chain;
use muster_agent::options;
use muster_agent::plan::network::{Past, Step, differences, plan, revert};
use muster_protocol::desired::{self, AcceptRa, Ethernet, LeaseUse, MAIN_TABLE, Reach, Select, Settings};
use muster_protocol::observed::{self, Address, Admin, Dhcp, LinkKind, Origin};
use serde_json::Value;

fn net(text: &str) -> IpNet {
    text.parse().expect("a test's prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

fn route(to: &str, via: &str, metric: Option<u32>, reach: Reach) -> desired::Route {
    desired::Route { to: net(to), via: Some(ip(via)), metric, table: MAIN_TABLE, reach }
}

/// A document for `eth0`.
fn eth0(settings: Settings) -> desired::Network {
    let select = Select { mac: Some(MAC.parse().expect("a MAC")), ..Select::default() };
    let kind = desired::LinkKind::Ethernet(Ethernet { select, ..Ethernet::default() });
    let links = vec![desired::Link { id: "lan".to_owned(), kind, settings }];
    desired::Network { links, ..desired::Network::default() }
}

fn link(network: &Network) -> observed::Link {
    let seen = network.observe().expect("observed");
    seen.links.into_iter().find(|link| link.name == "eth0").expect("eth0")
}

fn apply(network: &Network, steps: &[Step]) {
    for step in steps {
        network.apply(step).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
}

/// Applies a document and proves that it is in force.
fn make_so(network: &Network, desired: &desired::Network) {
    let steps = plan(desired, &Past::default(), &network.observe().expect("observed"), &[]).expect("it fits");
    apply(network, &steps);
    // A lease may come between two looks at one moment: what is being installed is not installed yet.
    eventually("it is in force", || {
        let now = network.observe().expect("observed");
        (differences(desired, &Past::default(), &now).is_empty()
            && plan(desired, &Past::default(), &now, &[]) == Ok(Vec::new()))
        .then_some(())
    });
}

/// What a revert owes, in comparable form.
fn essence(network: &observed::Network) -> observed::Network {
    let mut network = network.clone();
    let ours = |origin| matches!(origin, Origin::Static | Origin::Dhcp);
    network.links.iter_mut().for_each(|link| link.addresses.retain(|address| ours(address.origin)));
    network.routes.retain(|route| ours(route.origin));
    network.routes.sort();
    network
}

/// `address/prefix` of everything that `ip -j address` shows on `eth0`.
fn shown_addresses(lab: &Lab) -> BTreeSet<String> {
    let all = lab.json("address show dev eth0");
    let infos = all.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    infos.map(|info| format!("{}/{}", info["local"].as_str().unwrap_or("?"), info["prefixlen"])).collect()
}

/// `to via gateway metric` of everything that `ip -j route` shows and the kernel did not make.
fn shown_routes(lab: &Lab) -> BTreeSet<String> {
    let mut routes = BTreeSet::new();
    for family in ["-4", "-6"] {
        for route in lab.json(&format!("{family} route show table main")) {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let to = text(&route["dst"]).unwrap_or_default();
            let to = match (to.as_str(), family) {
                ("default", "-4") => "0.0.0.0/0".to_owned(),
                ("default", _) => "::/0".to_owned(),
                (host, _) if !host.contains('/') => format!("{host}/{}", if family == "-4" { 32 } else { 128 }),
                _ => to,
            };
            if route["protocol"] == "kernel" {
                continue;
            }
            let hops = route["nexthops"].as_array().cloned().unwrap_or_else(|| vec![route.clone()]);
            for hop in hops {
                let via = text(&hop["gateway"]).or_else(|| text(&hop["via"]["host"])).unwrap_or("-".to_owned());
                let metric = route["metric"].as_u64().unwrap_or(0);
                routes.insert(format!("{to} via {via} dev {} metric {metric}", hop["dev"].as_str().unwrap_or("?")));
            }
        }
    }
    routes
}

#[test]
fn sees_what_iproute2_shows() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    for command in [
        "link set eth0 up mtu 1400",
        "address add 192.0.2.5/24 dev eth0",
        "address add 192.0.2.6/24 dev eth0",
        "address add 10.0.0.5/8 dev eth0 valid_lft 300 preferred_lft 300",
        "address add 2001:db8::5/64 dev eth0 nodad",
        "route add default via 192.0.2.1",
        "route add default via 192.0.2.2 metric 100 proto dhcp",
        "route add 198.51.100.0/24 dev eth0",
        "route add 203.0.113.0/24 via 10.9.9.9 dev eth0 onlink metric 7",
        "route add 198.18.0.0/15 nexthop via 192.0.2.3 dev eth0 nexthop via 192.0.2.4 dev eth0",
        "route add blackhole 198.51.100.128/25",
        "route add 192.0.2.200 via 192.0.2.1 table 7",
        "-6 route add default via fe80::1 dev eth0",
        "-6 route append default via fe80::2 dev eth0",
        "-6 route add 2001:db8:1::/48 via 2001:db8::1 metric 5",
        "route add 198.51.99.0/24 via inet6 fe80::9 dev eth0",
        "link add br0 type bridge",
        "link add mac0 link eth0 type macvlan",
    ] {
        lab.ip(command);
    }
    let network = lab.network(None);
    eventually("a link-local address", || shown_addresses(&lab).iter().find(|a| a.starts_with("fe80")).cloned());
    let seen = network.observe().expect("observed");
    let eth0 = link(&network);
    assert_eq!((eth0.mtu, eth0.admin, eth0.kind), (1400, Admin::Up, LinkKind::Ethernet));
    assert_eq!((eth0.mac.to_string().as_str(), eth0.accept_ra), (MAC, AcceptRa::Default));
    let kinds: Vec<_> = seen.links.iter().map(|link| (link.name.as_str(), &link.kind)).collect();
    assert!(kinds.iter().any(|(name, kind)| *name == "br0" && matches!(kind, LinkKind::Bridge(_))), "{kinds:?}");
    assert!(kinds.contains(&("mac0", &LinkKind::Foreign("macvlan".to_owned()))), "{kinds:?}");
    assert!(!kinds.iter().any(|(name, _)| *name == "lo"), "{kinds:?}");

    let addresses: BTreeSet<String> = eth0.addresses.iter().map(|address| address.net.to_string()).collect();
    assert_eq!(addresses, shown_addresses(&lab));
    let origin = |text: &str| eth0.addresses.iter().find(|a| a.net == net(text)).map(|address| address.origin);
    assert_eq!(origin("192.0.2.5/24"), Some(Origin::Static));
    assert_eq!(origin("10.0.0.5/8"), Some(Origin::Dhcp), "it has a lifetime");
    assert_eq!(origin("2001:db8::5/64"), Some(Origin::Static));
    let link_local = eth0.addresses.iter().find(|address| address.net.addr().to_string().starts_with("fe80"));
    assert_eq!(link_local.map(|address| address.origin), Some(Origin::Kernel));

    let routes: BTreeSet<String> = seen
        .routes
        .iter()
        .filter(|route| route.table == MAIN_TABLE)
        .map(|route| {
            let via = route.via.map_or("-".to_owned(), |via| via.to_string());
            let dev = seen.links.iter().find(|link| link.index == route.link).map_or("?", |link| link.name.as_str());
            format!("{} via {via} dev {dev} metric {}", route.to, route.metric)
        })
        .collect();
    let mut shown = shown_routes(&lab);
    shown.retain(|route| !route.starts_with("198.51.100.128/25"));
    assert_eq!(routes, shown);
    let from_lease: Vec<_> = seen.routes.iter().filter(|route| route.origin == Origin::Dhcp).collect();
    assert_eq!(from_lease.len(), 1);
    assert_eq!(from_lease[0].via, Some(ip("192.0.2.2")));
}

/// A static configuration with all that a document can say of an ethernet.
fn whole() -> desired::Network {
    eth0(Settings {
        addresses: vec![net("192.0.2.7/24"), net("203.0.113.7/25"), net("2001:db8::7/64"), net("2001:db8:1::7/48")],
        routes: vec![
            route("0.0.0.0/0", "192.0.2.1", None, Reach::Prefix),
            route("0.0.0.0/0", "203.0.113.1", Some(200), Reach::Prefix),
            route("198.51.100.0/24", "198.18.0.1", None, Reach::OnLink),
            route("::/0", "2001:db8::1", None, Reach::Prefix),
            route("::/0", "fe80::1", Some(7), Reach::Prefix),
            route("2001:db8:9::/48", "2001:db8:8::1", None, Reach::OnLink),
        ],
        nameservers: vec![ip("192.0.2.53"), ip("2001:db8::53")],
        search: vec!["example.org".to_owned()],
        mtu: Some(1420),
        accept_ra: AcceptRa::Off,
        ..Settings::default()
    })
}

#[test]
fn applies_a_document_and_reverts_it() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    for command in [
        "link set eth0 up",
        "address add 192.0.2.5/24 dev eth0",
        "address add 192.0.2.7/16 dev eth0",
        "address add 2001:db8::5/64 dev eth0",
        "address add 2001:db8::7/48 dev eth0",
        "route add default via 192.0.2.1 metric 50",
        "route add 198.51.100.0/24 dev eth0",
        "route add 198.18.0.0/15 nexthop via 192.0.2.3 dev eth0 nexthop via 192.0.2.4 dev eth0",
        "-6 route add default via fe80::2 dev eth0",
        "-6 route append default via fe80::3 dev eth0",
    ] {
        lab.ip(command);
    }
    std::fs::write(lab.resolv_conf(), "nameserver 192.0.2.99\n").expect("written");
    let network = lab.network(None);
    let before = network.observe().expect("observed");
    make_so(&network, &whole());

    let mut shown = shown_addresses(&lab);
    shown.retain(|address| !address.starts_with("fe80"));
    let wanted = ["192.0.2.7/24", "2001:db8:1::7/48", "2001:db8::7/64", "203.0.113.7/25"];
    assert_eq!(shown, wanted.map(str::to_owned).into());
    let wanted = [
        "0.0.0.0/0 via 192.0.2.1 dev eth0 metric 0",
        "0.0.0.0/0 via 203.0.113.1 dev eth0 metric 200",
        "198.51.100.0/24 via 198.18.0.1 dev eth0 metric 0",
        "2001:db8:9::/48 via 2001:db8:8::1 dev eth0 metric 1024",
        "::/0 via 2001:db8::1 dev eth0 metric 1024",
        "::/0 via fe80::1 dev eth0 metric 7",
    ];
    assert_eq!(shown_routes(&lab), wanted.map(str::to_owned).into());
    assert_eq!(lab.json("link show dev eth0")[0]["mtu"], 1420);
    let resolv = std::fs::read_to_string(lab.resolv_conf()).expect("read");
    assert!(resolv.ends_with("search example.org\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"), "{resolv}");

    let back = revert(&before, &network.observe().expect("observed"));
    apply(&network, &back);
    let after = network.observe().expect("observed");
    // Routes with several gateways come back as several routes, which is what they are seen as.
    assert_eq!(essence(&after), essence(&before));
    assert_eq!(revert(&before, &after), Vec::new());
}

#[test]
fn each_step_may_be_repeated() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.ip("address add 192.0.2.5/24 dev eth0");
    let network = lab.network(None);
    let before = network.observe().expect("observed");
    let steps = plan(&whole(), &Past::default(), &before, &[]).expect("it fits");
    for step in &steps {
        apply(&network, &[step.clone(), step.clone()]);
    }
    assert_eq!(differences(&whole(), &Past::default(), &network.observe().expect("observed")), Vec::<String>::new());
    apply(&network, &steps);
    let back = revert(&before, &network.observe().expect("observed"));
    for step in &back {
        apply(&network, &[step.clone(), step.clone()]);
    }
    assert_eq!(essence(&network.observe().expect("observed")), essence(&before));
}

#[test]
fn a_default_route_is_there_at_every_moment_of_a_change() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    let network = lab.network(None);
    let on = |address: &str, gateway: &str| {
        eth0(Settings {
            addresses: vec![net(address)],
            routes: vec![route("0.0.0.0/0", gateway, None, Reach::Prefix)],
            ..Settings::default()
        })
    };
    make_so(&network, &on("192.0.2.5/24", "192.0.2.1"));
    // The old address is the first of its prefix: without care, the kernel takes the new one away with it.
    for next in [on("192.0.2.6/24", "192.0.2.2"), on("192.0.2.6/24", "192.0.2.1"), on("203.0.113.6/24", "203.0.113.1")]
    {
        for step in plan(&next, &Past::default(), &network.observe().expect("observed"), &[]).expect("it fits") {
            apply(&network, std::slice::from_ref(&step));
            let shown = shown_routes(&lab);
            assert!(shown.iter().any(|route| route.starts_with("0.0.0.0/0")), "gone after {step:?}");
        }
        assert_eq!(differences(&next, &Past::default(), &network.observe().expect("observed")), Vec::<String>::new());
    }
}

#[test]
fn routes_survive_the_last_address_where_they_are_wanted_without() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    let network = lab.network(None);
    let on_link = vec![route("0.0.0.0/0", "192.0.2.1", None, Reach::OnLink)];
    let with = eth0(Settings { addresses: vec![net("192.0.2.5/24")], routes: on_link.clone(), ..Settings::default() });
    make_so(&network, &with);
    make_so(&network, &eth0(Settings { routes: on_link, ..Settings::default() }));
}

#[test]
fn routes_that_the_kernel_makes_for_addresses_are_there_already() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    let network = lab.network(None);
    let made =
        |to: &str, metric| desired::Route { to: net(to), via: None, metric, table: MAIN_TABLE, reach: Reach::Prefix };
    let routes = vec![made("192.0.2.0/24", None), made("2001:db8::/64", Some(256))];
    let addresses = vec![net("192.0.2.5/24"), net("2001:db8::5/64")];
    let both = eth0(Settings { addresses, routes: routes.clone(), ..Settings::default() });
    make_so(&network, &both);
    make_so(&network, &eth0(Settings::default()));
    // One that was set first stays the only one.
    make_so(&network, &eth0(Settings { routes: routes[1..].to_vec(), ..Settings::default() }));
    make_so(&network, &both);
}

#[test]
fn an_address_that_somebody_else_has_is_told() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 2001:db8::7/64 dev lan0 nodad");
    let network = lab.network(None);
    let desired = eth0(Settings { addresses: vec![net("2001:db8::7/64")], ..Settings::default() });
    let steps = plan(&desired, &Past::default(), &network.observe().expect("observed"), &[]).expect("it fits");
    let failed = steps.iter().find_map(|step| network.apply(step).err()).expect("a duplicate");
    assert_eq!(
        chain(&failed),
        "could not wait until the addresses of eth0 are known to be unique: \
         2001:db8::7 is in use by another machine on this link"
    );
}

#[test]
fn the_kernels_reason_is_told() {
    let lab = Lab::new();
    let network = lab.network(None);
    lab.ip("link set eth0 up");
    let refused = |desired| {
        let steps: Vec<Step> =
            plan(&desired, &Past::default(), &network.observe().expect("observed"), &[]).expect("it fits");
        chain(&steps.iter().find_map(|step| network.apply(step).err()).expect("refused"))
    };
    let own = eth0(Settings {
        addresses: vec![net("192.0.2.5/24")],
        routes: vec![route("0.0.0.0/0", "192.0.2.5", None, Reach::OnLink)],
        ..Settings::default()
    });
    let text = refused(own);
    assert!(text.starts_with("could not add route 0.0.0.0/0 via 192.0.2.5 by eth0 with metric 0: "), "{text}");
    assert!(text.contains("Nexthop has invalid gateway"), "{text}");
}

/// A DHCP server with a router and a resolver.
const SERVER: &str = "--dhcp-range=192.0.2.100,192.0.2.150,255.255.255.0,120s --dhcp-option=option:router,192.0.2.1 \
                      --dhcp-option=option:dns-server,192.0.2.53 --dhcp-option=option:domain-name,lan.example";

/// The lab with a DHCP server and the given options besides.
fn lab_with_dhcp(options: &str) -> Lab {
    let mut lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 192.0.2.1/24 dev lan0");
    lab.dnsmasq(&format!("{SERVER} {options}"));
    lab
}

/// How often the client looked for any server before it got its first lease.
fn searches(lab: &Lab) -> usize {
    eventually("the server's log", || (lab.logged("DHCPACK(lan0)") >= 1).then_some(()));
    lab.logged("DHCPDISCOVER(lan0)")
}

fn bound(network: &Network) -> Option<observed::Lease> {
    match link(network).dhcp4 {
        Dhcp::Bound(_, lease) => Some(*lease),
        Dhcp::Off | Dhcp::Searching(_) => None,
    }
}

fn leased(network: &Network) -> observed::Lease {
    eventually("a lease", || bound(network))
}

/// The lease that iPXE would hand over.
fn handed_over(address: &str) -> options::Lease {
    options::Lease {
        mac: MAC.parse().expect("a MAC"),
        address: address.parse::<Ipv4Net>().expect("an address"),
        gateway: Some("192.0.2.1".parse().expect("an address")),
        dns: Some("192.0.2.53".parse().expect("an address")),
        server: Some("192.0.2.1".parse().expect("an address")),
    }
}

#[test]
fn dhcp_sets_address_route_and_resolver_and_takes_them_away() {
    let lab = lab_with_dhcp("");
    let network = lab.network(None);
    let before = network.observe().expect("observed");
    let dhcp = eth0(Settings { dhcp4: desired::Dhcp::On(LeaseUse::default()), ..Settings::default() });
    make_so(&network, &dhcp);
    let lease = leased(&network);
    assert_eq!(lease.server, ip("192.0.2.1"));
    let seen = network.observe().expect("observed");
    assert!(seen.links[0].addresses.contains(&Address { net: lease.address, origin: Origin::Dhcp }), "{seen:?}");
    let routes: Vec<_> = seen.routes.iter().map(|route| (route.to, route.via, route.metric, route.origin)).collect();
    assert_eq!(routes, [(net("0.0.0.0/0"), Some(ip("192.0.2.1")), 1024, Origin::Dhcp)]);
    assert_eq!((seen.nameservers, seen.search), (vec![ip("192.0.2.53")], vec!["lan.example".to_owned()]));
    assert_eq!(differences(&dhcp, &Past::default(), &network.observe().expect("observed")), Vec::<String>::new());
    let shown = lab.json("-4 address show dev eth0");
    let seconds = shown[0]["addr_info"][0]["valid_life_time"].as_u64().expect("seconds");
    assert!((60..=120).contains(&seconds), "the kernel itself ends the lease: {shown:?}");

    apply(&network, &revert(&before, &network.observe().expect("observed")));
    assert_eq!(essence(&network.observe().expect("observed")), essence(&before));
}

#[test]
fn a_lease_is_renewed_in_time() {
    // As early as dnsmasq lets it be set.
    let lab = lab_with_dhcp("--dhcp-option=option:T1,3 --dhcp-option=option:T2,60");
    let network = lab.network(None);
    make_so(&network, &eth0(Settings { dhcp4: desired::Dhcp::On(LeaseUse::default()), ..Settings::default() }));
    let lease = leased(&network);
    let searches = searches(&lab);
    eventually("two renewals", || (lab.logged("DHCPACK(lan0)") >= 3).then_some(()));
    assert_eq!(lab.logged("DHCPDISCOVER(lan0)"), searches, "it is the same lease");
    assert_eq!(leased(&network), lease);
    assert_eq!(lab.logged("DHCPNAK"), 0);
}

#[test]
fn a_lease_that_was_handed_over_is_in_force_at_once_and_then_confirmed() {
    let mut lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 192.0.2.1/24 dev lan0");
    let network = lab.network(Some(handed_over("192.0.2.120/24")));
    network.bring_up().expect("up");
    let seen = network.observe().expect("observed");
    assert_eq!(seen.links[0].admin, Admin::Up);
    assert_eq!(bound(&network).map(|lease| lease.address), Some(net("192.0.2.120/24")));
    assert_eq!(seen.routes.len(), 1);
    assert_eq!(seen.nameservers, [ip("192.0.2.53")]);
    assert!(lab.json("address show dev lo")[0]["flags"].to_string().contains("UP"));

    lab.dnsmasq(&format!("{SERVER} --dhcp-authoritative"));
    eventually("the server's yes", || (lab.logged("DHCPACK(lan0) 192.0.2.120") > 0).then_some(()));
    assert_eq!(lab.logged("DHCPDISCOVER"), 0, "it only asks whether it may keep it");
    eventually("the server's domain", || {
        network.observe().expect("observed").search.contains(&"lan.example".to_owned()).then_some(())
    });
    assert_eq!(leased(&network).address, net("192.0.2.120/24"));
}

#[test]
fn a_lease_that_the_server_refuses_is_replaced() {
    let lab = lab_with_dhcp("--dhcp-authoritative");
    let network = lab.network(Some(handed_over("198.51.100.9/24")));
    network.bring_up().expect("up");
    eventually("the server's no", || (lab.logged("DHCPNAK(lan0)") > 0).then_some(()));
    let lease = eventually("another lease", || bound(&network).filter(|l| net("192.0.2.0/24").contains(&l.address)));
    let addresses = shown_addresses(&lab);
    assert!(addresses.contains(&lease.address.to_string()), "{addresses:?}");
    assert!(!addresses.contains("198.51.100.9/24"), "{addresses:?}");
}

#[test]
fn every_nic_gets_an_address_where_no_lease_was_handed_over_however_late_it_appears() {
    let lab = lab_with_dhcp("");
    lab.ip("link set eth0 down");
    lab.peer_ip("link set lan0 down");
    let network = lab.network(None);
    network.bring_up().expect("up");
    lab.peer_ip("link set lan0 up");
    leased(&network);

    lab.ip("link add eth1 type veth peer name eth2");
    eventually("the late one is up and asks", || {
        let links = network.observe().expect("observed").links;
        links.iter().find(|link| link.name == "eth1" && matches!(link.dhcp4, Dhcp::Searching(_))).map(|link| link.admin)
    });
}

#[test]
fn a_cable_plugged_in_again_asks_whether_the_lease_still_holds() {
    let lab = lab_with_dhcp("");
    let network = lab.network(None);
    make_so(&network, &eth0(Settings { dhcp4: desired::Dhcp::On(LeaseUse::default()), ..Settings::default() }));
    leased(&network);
    // A slow server is asked twice.
    let (searched, yes) = (lab.logged("DHCPDISCOVER(lan0)"), lab.logged("DHCPACK(lan0)"));
    lab.peer_ip("link set lan0 down");
    eventually("no carrier", || (link(&network).carrier == muster_protocol::inventory::Carrier::Absent).then_some(()));
    lab.peer_ip("link set lan0 up");
    eventually("another yes", || (lab.logged("DHCPACK(lan0)") > yes).then_some(()));
    assert_eq!(lab.logged("DHCPDISCOVER(lan0)"), searched, "it did not search for another lease");
}

#[test]
fn static_replaces_a_lease_and_a_revert_gets_it_back() {
    let lab = lab_with_dhcp("--dhcp-authoritative");
    let network = lab.network(Some(handed_over("192.0.2.120/24")));
    network.bring_up().expect("up");
    eventually("the server's yes", || (lab.logged("DHCPACK(lan0)") > 0).then_some(()));
    eventually("the server's domain", || {
        network.observe().expect("observed").search.contains(&"lan.example".to_owned()).then_some(())
    });
    let before = network.observe().expect("observed");
    // The very address of the lease, as an operator would write who wants to keep it.
    let settings = Settings {
        addresses: vec![net("192.0.2.120/24")],
        routes: vec![route("0.0.0.0/0", "192.0.2.1", None, Reach::Prefix)],
        nameservers: vec![ip("192.0.2.54")],
        ..Settings::default()
    };
    make_so(&network, &eth0(settings));
    let seen = network.observe().expect("observed");
    assert_eq!(seen.links[0].dhcp4, Dhcp::Off);
    assert_eq!((seen.nameservers, seen.routes.len()), (vec![ip("192.0.2.54")], 1));
    let shown = lab.json("-4 address show dev eth0");
    assert!(shown[0]["addr_info"][0].get("dynamic").is_none(), "it does not end: {shown:?}");

    apply(&network, &revert(&before, &network.observe().expect("observed")));
    assert_eq!(essence(&network.observe().expect("observed")), essence(&before));
    eventually("the lease is asked for again", || (lab.logged("DHCPACK(lan0)") > 1).then_some(()));
    assert_eq!(essence(&network.observe().expect("observed")), essence(&before));
}

#[test]
fn routes_that_need_a_lease_wait_for_it() {
    let lab = lab_with_dhcp("");
    let network = lab.network(None);
    let settings = Settings {
        dhcp4: desired::Dhcp::On(LeaseUse::default()),
        routes: vec![route("198.51.100.0/24", "192.0.2.9", None, Reach::Prefix)],
        ..Settings::default()
    };
    make_so(&network, &eth0(settings));
    assert!(bound(&network).is_some());
}

#[test]
fn classless_routes_of_a_lease_are_taken() {
    let lab = lab_with_dhcp("--dhcp-option=121,198.51.100.0/24,192.0.2.9,0.0.0.0/0,203.0.113.1");
    let network = lab.network(None);
    make_so(&network, &eth0(Settings { dhcp4: desired::Dhcp::On(LeaseUse::default()), ..Settings::default() }));
    leased(&network);
    let wanted =
        ["0.0.0.0/0 via 203.0.113.1 dev eth0 metric 1024", "198.51.100.0/24 via 192.0.2.9 dev eth0 metric 1024"];
    assert_eq!(shown_routes(&lab), wanted.map(str::to_owned).into());
}

#[test]
fn router_advertisements_are_ignored_and_taken_again_as_the_document_says() {
    let mut lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 2001:db8::1/64 dev lan0 nodad");
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "1").expect("written");
    lab.dnsmasq("--enable-ra --dhcp-range=2001:db8::,ra-only,64,3600");
    let network = lab.network(None);
    network.bring_up().expect("up");
    let announced = |network: &Network| {
        let seen = network.observe().expect("observed");
        let link = seen.links.iter().find(|link| link.name == "eth0").expect("eth0");
        let address = link.addresses.iter().any(|address| address.origin == Origin::Ra);
        let route = seen.routes.iter().any(|r| r.origin == Origin::Ra && r.to == net("::/0") && r.link == link.index);
        (address, route)
    };
    eventually("an announced address and route", || (announced(&network) == (true, true)).then_some(()));
    let before = network.observe().expect("observed");

    let settings = Settings {
        addresses: vec![net("2001:db8::7/64")],
        routes: vec![route("::/0", "2001:db8::1", None, Reach::Prefix)],
        accept_ra: AcceptRa::Off,
        ..Settings::default()
    };
    make_so(&network, &eth0(settings));
    assert_eq!(announced(&network), (false, false));
    assert_eq!(shown_routes(&lab), ["::/0 via 2001:db8::1 dev eth0 metric 1024".to_owned()].into());

    apply(&network, &revert(&before, &network.observe().expect("observed")));
    // The next advertisement by itself would come after minutes.
    eventually("both again", || (announced(&network) == (true, true)).then_some(()));
    assert_eq!(essence(&network.observe().expect("observed")), essence(&before));
}

/// VLAN `office` with this tag on `eth0`.
fn with_office(tag: u16, settings: Settings) -> desired::Network {
    let lan = Settings { addresses: vec![net("192.0.2.7/24")], mtu: Some(1500), ..Settings::default() };
    let mut network = eth0(lan);
    let tag = muster_protocol::VlanTag::try_from(tag).expect("a tag");
    let id = "office".to_owned();
    let kind = desired::LinkKind::Vlan { tag, parent: "lan".to_owned() };
    network.links.push(desired::Link { id, kind, settings });
    network
}

/// Nobody listens there: that this is said at all proves that packets pass in both directions.
fn refused_by(peer: &str) -> Option<()> {
    let timeout = std::time::Duration::from_secs(1);
    let error = std::net::TcpStream::connect_timeout(&peer.parse().expect("an address"), timeout).err()?;
    (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
}

/// How many frames the machine has heard by a link.
fn heard(lab: &Lab, link: &str) -> u64 {
    lab.json(&format!("-s link show dev {link}"))[0]["stats64"]["rx"]["packets"].as_u64().expect("counted")
}

#[test]
#[ignore = "needs a kernel with 8021q: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_vlan_on_a_bridges_port_has_what_carries_its_tag_and_the_bridge_the_rest() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 192.0.2.1/24 dev lan0");
    for (tag, address) in [(7, "198.51.100.1/24"), (8, "203.0.113.1/24")] {
        lab.peer_ip(&format!("link add link lan0 name lan0.{tag} type vlan id {tag}"));
        lab.peer_ip(&format!("link set lan0.{tag} up"));
        lab.peer_ip(&format!("address add {address} dev lan0.{tag}"));
    }
    let network = lab.network(None);
    let before = network.observe().expect("observed");

    let mut desired = with_office(7, Settings { addresses: vec![net("198.51.100.7/24")], ..Settings::default() });
    desired.links[0].settings = Settings::default();
    let options = [(desired::BridgeOption::Stp, 0), (desired::BridgeOption::ForwardDelay, 0)].into();
    let bridge = desired::Bridge { ports: vec!["lan".to_owned()], options, ..desired::Bridge::default() };
    let own = |address: &str| Settings { addresses: vec![net(address)], ..Settings::default() };
    let tag = muster_protocol::VlanTag::try_from(8).expect("a tag");
    for (id, kind, address) in [
        ("br0", desired::LinkKind::Bridge(bridge), "192.0.2.7/24"),
        ("guests", desired::LinkKind::Vlan { tag, parent: "br0".to_owned() }, "203.0.113.7/24"),
    ] {
        desired.links.push(desired::Link { id: id.to_owned(), kind, settings: own(address) });
    }
    let whole = desired::Desired { network: Some(desired.clone()), storage: None };
    assert!(desired::check(whole).is_ok(), "documents may say so");
    make_so(&network, &desired);

    let shown = lab.json("-d link show dev office");
    assert_eq!((&shown[0]["linkinfo"]["info_data"]["id"], &shown[0]["link"]), (&7.into(), &"eth0".into()));
    let bridge = lab::run(&format!("bridge -n {} -j link show", lab.machine));
    let ports: Value = serde_json::from_str(&bridge).expect("JSON of bridge");
    assert_eq!((&ports[0]["ifname"], &ports[0]["master"]), (&"eth0".into(), &"br0".into()), "{ports}");

    eventually("an answer through the VLAN", || refused_by("198.51.100.1:9"));
    eventually("an answer through the bridge", || refused_by("192.0.2.1:9"));
    eventually("an answer through the bridge, with another tag", || refused_by("203.0.113.1:9"));
    // What carries the VLAN's tag is none of the bridge's, and the other way round.
    let (office, guests) = (heard(&lab, "office"), heard(&lab, "guests"));
    for _ in 0..5 {
        refused_by("198.51.100.1:9").expect("it answers");
    }
    assert!(heard(&lab, "office") >= office + 5);
    assert!(heard(&lab, "guests") < guests + 5, "the other VLAN hears none of it");

    apply(&network, &revert(&before, &network.observe().expect("observed")));
    assert_eq!(essence(&network.observe().expect("observed")), essence(&before));
}

#[test]
#[ignore = "needs a kernel with 8021q: run in a booted machine by tests/tests/system/kernel.rs"]
fn vlans_are_made_changed_and_undone() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("link add link lan0 name lan0.7 type vlan id 7");
    lab.peer_ip("link set lan0.7 up");
    lab.peer_ip("address add 198.51.100.1/24 dev lan0.7");
    let network = lab.network(None);
    let before = network.observe().expect("observed");
    let settings = Settings {
        addresses: vec![net("198.51.100.7/24"), net("2001:db8:7::7/64")],
        routes: vec![route("0.0.0.0/0", "198.51.100.1", None, Reach::Prefix)],
        mtu: Some(1400),
        ..Settings::default()
    };
    make_so(&network, &with_office(7, settings.clone()));
    let shown = lab.json("-d link show dev office");
    assert_eq!(
        (&shown[0]["linkinfo"]["info_data"]["id"], &shown[0]["link"], &shown[0]["mtu"]),
        (&7.into(), &"eth0".into(), &1400.into())
    );
    eventually("an answer through the VLAN", || refused_by("198.51.100.1:9"));

    let office = network.observe().expect("observed");
    make_so(&network, &with_office(8, settings));
    assert_eq!(lab.json("-d link show dev office")[0]["linkinfo"]["info_data"]["id"], 8);
    // Without the VLAN in it, the document says that eth0 carries none.
    let mut bare = with_office(8, Settings::default());
    bare.links.pop();
    make_so(&network, &bare);
    assert_eq!(network.observe().expect("observed").links.len(), 1);

    apply(&network, &revert(&office, &network.observe().expect("observed")));
    assert_eq!(lab.json("-d link show dev office")[0]["linkinfo"]["info_data"]["id"], 7);
    eventually("an answer through the VLAN", || refused_by("198.51.100.1:9"));
    apply(&network, &revert(&before, &network.observe().expect("observed")));
    assert_eq!(essence(&network.observe().expect("observed")), essence(&before));
}
