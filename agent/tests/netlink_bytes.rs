//! Route netlink as bytes: what Debian's Linux 6.1 said of a machine made for it, and what is asked of it.
//!
//! The `.hex` files hold one message body a line, in the order of the kernel, as captured on a machine on which
//! `ip -d link`, `ip address` and `ip route` showed what the tests here expect.
//! The requests were taken by that kernel and did what their names say.

use muster_agent::linux::network::netlink::address::{self, Lifetime, Uniqueness};
use muster_agent::linux::network::netlink::link::{self, Kind};
use muster_agent::linux::network::netlink::route::{self, PROTOCOL_DHCP};
use muster_agent::linux::network::netlink::wire::Request;
use muster_protocol::VlanTag;
use muster_protocol::desired::Reach;
use muster_protocol::observed::Origin;
use proptest::prelude::*;

const LINKS: &str = include_str!("netlink_bytes/links.hex");
const ADDRESSES: &str = include_str!("netlink_bytes/addresses.hex");
const ROUTES: &str = include_str!("netlink_bytes/routes.hex");

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
            (6, "br0", foreign("bridge"), false, false, 1500),
        ]
    );
    assert_eq!(links[3].mac.to_string(), "02:00:00:00:00:05");
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
    ] {
        assert_eq!(hex(request), wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        link::decode(&bytes);
        address::decode(&bytes);
        route::decode(&bytes);
    }

    #[test]
    fn real_messages_with_wrong_bytes_in_them_are_read_without_harm(
        which in any::<prop::sample::Index>(),
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut all = [bodies(LINKS), bodies(ADDRESSES), bodies(ROUTES)].concat();
        let mut body = all.swap_remove(which.index(all.len()));
        for (at, value) in wrong {
            let at = at.index(body.len());
            body[at] = value;
        }
        body.truncate(cut.index(body.len()) + 1);
        link::decode(&body);
        address::decode(&body);
        route::decode(&body);
    }
}
