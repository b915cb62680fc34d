//! Route netlink as bytes: what Debian's Linux 6.1 said of a machine made for it, and what is asked of it.
//!
//! The `.hex` files hold one message body a line, in the order of the kernel, as captured on a machine on which
//! `ip -d link`, `ip address`, `ip route`, `ip rule` and `ip neigh` showed what the tests here expect.
//! The requests were taken by that kernel and did what their names say.

use muster_agent::linux::network::netlink::address::{self, Lifetime, Uniqueness};
use muster_agent::linux::network::netlink::bridge::{self, State};
use muster_agent::linux::network::netlink::link::{self, Kind, Port};
use muster_agent::linux::network::netlink::route::{self, PROTOCOL_DHCP};
use muster_agent::linux::network::netlink::wire::Request;
use muster_agent::linux::network::netlink::{bond, neighbor, rule};
use muster_protocol::desired::{
    BondMode, BondOption as Bond, BridgeOption as Bridge, MAIN_TABLE, Neighbor, PortCost, Reach, Rule,
};
use muster_protocol::observed::Origin;
use muster_protocol::{Mac, VlanTag, observed};
use proptest::prelude::*;

const LINKS: &str = include_str!("netlink_bytes/links.hex");
const ADDRESSES: &str = include_str!("netlink_bytes/addresses.hex");
const ROUTES: &str = include_str!("netlink_bytes/routes.hex");
/// Bonds and bridges, and their ports.
const PORTS: &str = include_str!("netlink_bytes/ports.hex");
const RULES: &str = include_str!("netlink_bytes/rules.hex");
const NEIGHBORS: &str = include_str!("netlink_bytes/neighbors.hex");

fn bodies(hex: &str) -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hex digits");
    hex.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

fn tag(tag: u16) -> VlanTag {
    tag.try_into().expect("a tag")
}

#[test]
fn links_are_read() {
    let links: Vec<_> = bodies(LINKS).iter().map(|body| link::decode(body).expect("a link")).collect();
    let seen: Vec<_> =
        links.iter().map(|l| (l.index, l.name.as_str(), l.kind.clone(), l.up, l.carrier, l.mtu)).collect();
    let foreign = |kind: &str| Kind::Foreign(kind.to_owned());
    assert_eq!(
        seen,
        [
            (1, "lo", Kind::Loopback, true, true, 65536),
            (2, "lan0", Kind::Ethernet, true, true, 1500),
            (3, "eth0", Kind::Ethernet, true, true, 1500),
            (4, "office", Kind::Vlan { parent: 3, tag: tag(7) }, true, true, 1500),
            // 802.1ad: the outer tag of a provider is not what Muster's VLANs are.
            (5, "outer", foreign("vlan"), false, false, 1500),
            (6, "br0", Kind::Bridge(Box::new(observed::Bridge { options: bridge_options() })), false, false, 1500),
        ]
    );
    assert!(links.iter().all(|link| link.port.is_none()));
    let limits: Vec<_> = links.iter().map(|link| (link.min_mtu, link.max_mtu)).collect();
    assert_eq!(limits, [(0, 0), (68, 65535), (68, 65535), (0, 65535), (0, 65535), (68, 65535)]);
    assert_eq!(links[3].mac.to_string(), "02:00:00:00:00:05");
}

/// What a bridge is that nobody touched.
fn bridge_options() -> std::collections::BTreeMap<Bridge, u32> {
    let mut options: std::collections::BTreeMap<_, _> =
        Bridge::ALL.into_iter().map(|option| (option, option.default_value())).collect();
    options.insert(Bridge::Stp, 0);
    options
}

#[test]
fn bonds_bridges_and_their_ports_are_read() {
    let links: Vec<_> = bodies(PORTS).iter().map(|body| link::decode(body).expect("a link")).collect();
    let ports: Vec<_> = links.iter().map(|link| (link.name.as_str(), link.port)).collect();
    let in_bridge = Some(bridge::Port { cost: 77, priority: 9, state: State::Waiting });
    assert_eq!(
        ports,
        [
            ("lo", None),
            ("eth0", Some(Port { of: 5, in_bridge })),
            ("lan1", None),
            ("eth1", Some(Port { of: 6, in_bridge: None })),
            ("br0", None),
            ("bond7", None),
            ("bond8", None),
        ]
    );
    assert_eq!(
        (links[3].mac.to_string(), links[3].permanent_mac.map(|mac| mac.to_string())),
        ("02:00:00:00:00:07".to_owned(), Some("02:00:00:00:01:01".to_owned()))
    );
    let options = [
        (Bridge::Stp, 1),
        (Bridge::ForwardDelay, 400),
        (Bridge::HelloTime, 300),
        (Bridge::MaxAge, 700),
        (Bridge::AgeingTime, 12_300),
        (Bridge::Priority, 4_096),
    ];
    assert_eq!(links[4].kind, Kind::Bridge(Box::new(observed::Bridge { options: options.into() })));
    let bond7 = observed::Bond {
        mode: BondMode::ActiveBackup,
        primary: Some(4),
        arp_ip_targets: vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
        options: [
            (Bond::MiiMonitorInterval, 0),
            (Bond::UpDelay, 0),
            (Bond::DownDelay, 0),
            (Bond::AdSelect, 0),
            (Bond::MinLinks, 0),
            (Bond::TransmitHashPolicy, 0),
            (Bond::AllMembersActive, 0),
            (Bond::ArpInterval, 500),
            (Bond::ArpValidate, 3),
            (Bond::ArpAllTargets, 0),
            (Bond::FailOverMac, 0),
            (Bond::GratuitousArp, 3),
            (Bond::PrimaryReselect, 2),
            (Bond::ResendIgmp, 1),
            (Bond::LearnPacketInterval, 1),
        ]
        .into(),
    };
    assert_eq!(links[5].kind, Kind::Bond(Box::new(bond7)));
    let bond8 = observed::Bond {
        mode: BondMode::Lacp,
        primary: None,
        arp_ip_targets: vec![],
        options: [
            (Bond::MiiMonitorInterval, 200),
            (Bond::UpDelay, 400),
            (Bond::DownDelay, 600),
            (Bond::LacpRate, 1),
            (Bond::AdSelect, 2),
            (Bond::MinLinks, 2),
            (Bond::TransmitHashPolicy, 1),
            (Bond::AllMembersActive, 0),
            (Bond::FailOverMac, 0),
            (Bond::GratuitousArp, 1),
            (Bond::ResendIgmp, 1),
            (Bond::LearnPacketInterval, 1),
        ]
        .into(),
    };
    assert_eq!(links[6].kind, Kind::Bond(Box::new(bond8)));
}

fn example_rule() -> Rule {
    Rule {
        from: Some("192.0.2.0/24".parse().expect("a prefix")),
        to: Some("198.51.100.0/25".parse().expect("a prefix")),
        table: 100_000,
        priority: Some(77),
        mark: Some(0x2a),
        tos: Some(0x10),
    }
}

#[test]
fn rules_of_configuration_are_read_and_no_others() {
    let rules: Vec<Rule> = bodies(RULES).iter().filter_map(|body| rule::decode(body)).collect();
    let bare = Rule { from: None, to: None, table: 7, priority: None, mark: None, tos: None };
    let to = Some("2001:db8::7/128".parse().expect("a prefix"));
    let any = Some("::/0".parse().expect("a prefix"));
    assert_eq!(
        rules,
        [
            example_rule(),
            Rule { to, priority: Some(100), ..bare.clone() },
            Rule { from: any, table: 9, priority: Some(101), mark: Some(3), ..bare },
        ]
    );
}

fn example_neighbor() -> Neighbor {
    Neighbor { address: [192, 0, 2, 9].into(), mac: Mac::from_bytes([2, 0, 0, 0, 0, 9]) }
}

#[test]
fn neighbors_that_were_set_for_good_are_read_and_no_others() {
    let neighbors: Vec<_> = bodies(NEIGHBORS).iter().filter_map(|body| neighbor::decode(body)).collect();
    let other =
        Neighbor { address: "2001:db8::9".parse().expect("an address"), mac: Mac::from_bytes([2, 0, 0, 0, 0, 10]) };
    assert_eq!(neighbors, [(5, example_neighbor()), (5, other)]);
}

#[test]
fn addresses_are_read() {
    let addresses = bodies(ADDRESSES).iter().map(|body| address::decode(body).expect("an address")).collect::<Vec<_>>();
    let seen: Vec<_> = addresses.iter().map(|a| (a.link, a.net.to_string(), a.origin)).collect();
    let seen: Vec<_> = seen.iter().map(|(link, net, origin)| (*link, net.as_str(), *origin)).collect();
    assert_eq!(
        seen,
        [
            (1, "127.0.0.1/8", Origin::Static),
            (3, "192.0.2.5/24", Origin::Static),
            (3, "10.0.0.5/8", Origin::Dhcp),
            (4, "203.0.113.1/32", Origin::Static),
            (1, "::1/128", Origin::Kernel),
            (2, "fe80::ff:fe00:1/64", Origin::Kernel),
            (3, "2001:db8::6/64", Origin::Static),
            (3, "2001:db8::5/64", Origin::Static),
            (3, "fe80::ff:fe00:5/64", Origin::Kernel),
            (4, "fe80::ff:fe00:5/64", Origin::Kernel),
        ]
    );
    assert!(addresses.iter().all(|address| address.uniqueness == Uniqueness::Assured || address.net.addr().is_ipv6()));
}

#[test]
fn routes_are_read() {
    let routes = bodies(ROUTES).iter().flat_map(|body| route::decode(body)).collect::<Vec<_>>();
    let seen: Vec<String> = routes
        .iter()
        .filter(|route| route.origin() != Origin::Kernel)
        .map(|r| format!("{} via {:?} by {} metric {} {:?}", r.to, r.via, r.link, r.metric, r.origin()))
        .collect();
    assert!(routes.iter().all(|route| route.table == MAIN_TABLE));
    let elsewhere = route::Route { table: 1_000_000, ..routes[0] };
    let request = route::add(&elsewhere, Origin::Static, Reach::Prefix).finish(1);
    assert_eq!(
        route::decode(&request[16..]).first().map(|route| route.table),
        Some(1_000_000),
        "it is an attribute then"
    );
    assert_eq!(
        seen,
        [
            "0.0.0.0/0 via Some(192.0.2.1) by 3 metric 0 Static",
            "0.0.0.0/0 via Some(192.0.2.2) by 3 metric 100 Dhcp",
            "198.18.0.0/15 via Some(192.0.2.3) by 3 metric 0 Static",
            "198.18.0.0/15 via Some(192.0.2.4) by 3 metric 0 Static",
            "198.51.99.0/24 via Some(fe80::9) by 3 metric 0 Static",
            "198.51.100.0/24 via None by 3 metric 0 Static",
            "2001:db8:1::/48 via Some(2001:db8::1) by 3 metric 5 Ra",
            "::/0 via Some(fe80::1) by 3 metric 1024 Static",
            "::/0 via Some(fe80::2) by 3 metric 1024 Static",
        ]
    );
    assert_eq!(routes.iter().filter(|route| route.origin() == Origin::Kernel).count(), 7);
}

/// The request as hex, without the message header's length and sequence number: kind, flags, then the body.
fn hex(request: Request) -> String {
    let bytes = request.finish(1);
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{} {}", digits(&bytes[4..8]), digits(&bytes[16..]))
}

#[test]
fn requests_are_what_the_kernel_took() {
    let static_route = |to: &str, via: &str, link, metric| route::Route {
        to: to.parse().expect("a prefix"),
        via: Some(via.parse().expect("an address")),
        link,
        metric,
        table: MAIN_TABLE,
        protocol: PROTOCOL_DHCP,
    };
    for (request, wanted) in [
        (
            link::create_vlan("office", 3, tag(7)),
            "10000506 0000000000000000000000000000000008000500030000000b0003006f666669636500001800128008000100766c616e0c0002800600010007000000",
        ),
        (link::up(3), "10000500 00000000030000000100000001000000"),
        (link::down(3), "10000500 00000000030000000000000001000000"),
        (link::set_mtu(3, 1400), "10000500 000000000300000000000000000000000800040078050000"),
        (link::delete(4), "11000500 00000000040000000000000000000000"),
        (
            address::add(3, "192.0.2.7/24".parse().expect("a prefix"), Origin::Static, Lifetime::Forever),
            "14000505 021800000300000008000200c000020708000100c000020714000600ffffffffffffffff000000000000000005000b000400000008000400c00002ff",
        ),
        (
            address::add(3, "192.0.2.100/24".parse().expect("a prefix"), Origin::Dhcp, Lifetime::Seconds(120)),
            "14000505 021800000300000008000200c000026408000100c0000264140006007800000078000000000000000000000005000b001000000008000400c00002ff",
        ),
        (
            address::remove(3, "2001:db8::7/64".parse().expect("a prefix")),
            "15000500 0a400000030000001400020020010db80000000000000000000000071400010020010db8000000000000000000000007",
        ),
        (
            route::add(&static_route("0.0.0.0/0", "192.0.2.1", 3, 0), Origin::Static, Reach::OnLink),
            "1800050c 02000000fe0400010400000008000100000000000800040003000000080006000000000008000500c0000201",
        ),
        (
            route::remove(&static_route("::/0", "fe80::1", 3, 1024)),
            "19000500 0a000000fe10ff010000000014000100000000000000000000000000000000000800040003000000080006000004000014000500fe800000000000000000000000000001",
        ),
        (link::rename(3, "wan"), "10000500 000000000300000000000000000000000800030077616e00"),
        (link::set_port_of(3, Some(9)), "10000500 0000000003000000000000000000000008000a0009000000"),
        (
            bond::create("bond7", BondMode::Lacp),
            "10000506 000000000000000000000000000000000a000300626f6e64370000001800128008000100626f6e640c0002800500010004000000",
        ),
        (
            bond::set(9, &[(Bond::MiiMonitorInterval, 100), (Bond::LacpRate, 1)]),
            "10000500 000000000900000000000000000000002000128008000100626f6e641400028008000300640000000500150001000000",
        ),
        (
            bond::set_arp_targets(9, &[[192, 0, 2, 1].into(), [192, 0, 2, 2].into()]),
            "10000500 000000000900000000000000000000002400128008000100626f6e64180002801400088008000000c000020108000100c0000202",
        ),
        (
            bond::set_primary(9, Some(3)),
            "10000500 000000000900000000000000000000001800128008000100626f6e640c00028008000b0003000000",
        ),
        (
            bridge::create("br0"),
            "10000506 000000000000000000000000000000000800030062723000140012800a000100627269646765000004000280",
        ),
        (
            bridge::set(9, Bridge::ForwardDelay, 400),
            "10000500 000000000900000000000000000000001c0012800a00010062726964676500000c0002800800010090010000",
        ),
        (
            bridge::set(9, Bridge::Priority, 4_096),
            "10000500 000000000900000000000000000000001c0012800a00010062726964676500000c0002800600060000100000",
        ),
        (
            bridge::set_port(3, PortCost { path_cost: Some(77), priority: Some(9) }),
            "10000500 00000000030000000000000000000000240012800a000400627269646765000014000580080003004d0000000600020009000000",
        ),
        (
            route::add(
                &route::Route { table: 1_000_000, ..static_route("0.0.0.0/0", "192.0.2.1", 3, 0) },
                Origin::Static,
                Reach::Prefix,
            ),
            "1800050c 02000000000400010000000008000100000000000800040003000000080006000000000008000f0040420f0008000500c0000201",
        ),
        (
            rule::add(&example_rule()),
            "20000504 02191810000000010000000008000f00a0860100050015000400000008000100c633640008000200c0000200080006004d00000008000a002a000000",
        ),
        (
            rule::remove(&example_rule()),
            "21000500 02191810000000010000000008000f00a0860100050015000400000008000100c633640008000200c0000200080006004d00000008000a002a000000",
        ),
        (
            neighbor::set(3, &example_neighbor()),
            "1c000505 02000000030000008000000008000100c00002090a0002000200000000090000",
        ),
        (neighbor::remove(3, &example_neighbor()), "1d000500 02000000030000008000000008000100c0000209"),
    ] {
        assert_eq!(hex(request), wanted);
    }
}

fn decode_all(bytes: &[u8]) {
    link::decode(bytes);
    address::decode(bytes);
    route::decode(bytes);
    rule::decode(bytes);
    neighbor::decode(bytes);
    neighbor::decode_silent(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    #[test]
    fn real_messages_with_wrong_bytes_in_them_are_read_without_harm(
        which in any::<prop::sample::Index>(),
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut all = [LINKS, ADDRESSES, ROUTES, PORTS, RULES, NEIGHBORS].map(bodies).concat();
        let mut body = all.swap_remove(which.index(all.len()));
        for (at, value) in wrong {
            let at = at.index(body.len());
            body[at] = value;
        }
        body.truncate(cut.index(body.len()) + 1);
        decode_all(&body);
    }
}
