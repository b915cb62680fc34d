//! Plans and reverts of the network, held against the twin of the kernel: random machines, random documents.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_agent::plan::network::twin::Twin;
use muster_agent::plan::network::{Step, differences, in_force, plan, revert};
use muster_protocol::desired::{self, AcceptRa, Desired, Reach, Select, Settings};
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Address, Admin, Dhcp4, Lease, LinkKind, Network, Origin};
use muster_protocol::{Mac, VlanTag};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

fn net(text: &str) -> IpNet {
    text.parse().expect("a test's prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

fn lease(nic: u32) -> Lease {
    Lease {
        address: net(&format!("10.{nic}.0.200/8")),
        server: ip("10.0.0.1"),
        nameservers: vec![ip("10.0.0.53"), ip(&format!("10.{nic}.0.53"))],
        search: vec!["lan.example".to_owned()],
    }
}

/// Addresses that documents and machines draw from, so that they often agree and often collide.
fn nets() -> Vec<IpNet> {
    let texts = [
        "10.0.0.5/24",
        "10.0.0.6/24",
        "10.0.0.5/16",
        "10.1.0.5/24",
        "10.2.0.200/8",
        "10.3.0.200/8",
        "192.0.2.7/24",
        "2001:db8::5/64",
        "2001:db8::5/48",
        "2001:db8::6/64",
        "2001:db8:1::5/64",
        "fe80::5/64",
    ];
    texts.iter().map(|text| net(text)).collect()
}

/// Destination, gateway.
fn hops() -> Vec<(IpNet, IpAddr)> {
    let texts = [
        ("0.0.0.0/0", "10.0.0.1"),
        ("0.0.0.0/0", "10.1.0.1"),
        ("0.0.0.0/0", "10.2.0.1"),
        ("10.9.0.0/16", "10.0.0.2"),
        ("::/0", "2001:db8::1"),
        ("::/0", "fe80::1"),
        ("2001:db8:9::/48", "2001:db8:1::1"),
    ];
    texts.iter().map(|(to, via)| (net(to), ip(via))).collect()
}

fn accept_ra() -> impl Strategy<Value = AcceptRa> {
    select(vec![AcceptRa::Default, AcceptRa::On, AcceptRa::Off])
}

fn settings() -> impl Strategy<Value = Settings> {
    let route = (select(hops()), select(vec![None, Some(0), Some(100), Some(1024)]), any::<bool>());
    let routes = vec(route, 0..4).prop_map(|routes| {
        let mut seen = BTreeSet::new();
        let route = |((to, via), metric, on_link): ((IpNet, IpAddr), _, bool)| {
            let reach = if on_link { Reach::OnLink } else { Reach::Prefix };
            seen.insert((to, via, metric)).then_some(desired::Route { to, via, metric, reach })
        };
        routes.into_iter().filter_map(route).collect()
    });
    (
        subsequence(nets(), 0..4),
        routes,
        subsequence(vec![ip("10.0.0.53"), ip("192.0.2.53"), ip("2001:db8::53")], 0..3),
        subsequence(vec!["lan.example".to_owned(), "example.org".to_owned()], 0..2),
        select(vec![None, Some(1400), Some(1500), Some(9000)]),
        select(vec![desired::Dhcp4::Off, desired::Dhcp4::Off, desired::Dhcp4::On]),
        accept_ra(),
    )
        .prop_map(|(addresses, routes, nameservers, search, mtu, dhcp4, accept_ra)| Settings {
            addresses,
            routes,
            nameservers,
            search,
            mtu,
            dhcp4,
            accept_ra,
        })
}

/// A document for some of three NICs and two VLANs.
fn document() -> impl Strategy<Value = desired::Network> {
    let vlan = (select(vec!["office", "phones"]), 7_u16..9, 0_usize..3, settings());
    (vec(proptest::option::of(settings()), 3), proptest::option::of(vlan)).prop_map(|(ethernets, vlan)| {
        let mut links = Vec::new();
        if let Some((name, tag, parent, settings)) = vlan {
            let tag = VlanTag::try_from(tag).expect("a tag");
            links.push(desired::Link::Vlan { id: name.to_owned(), tag, parent: format!("nic{parent}"), settings });
        }
        for (number, settings) in ethernets.into_iter().enumerate() {
            let select = Select::Mac(Mac::from_bytes([2, 0, 0, 0, 0, number as u8 + 2]));
            let id = format!("nic{number}");
            links.extend(settings.map(|settings| desired::Link::Ethernet { id, select, settings }));
        }
        desired::Network { links }
    })
}

/// A machine that the kernel could really be in: three NICs, some VLANs, whatever on them.
fn machine() -> impl Strategy<Value = Network> {
    let nic = (
        any::<bool>(),
        select(vec![1400_u32, 1500, 9000]),
        0_u8..3,
        accept_ra(),
        subsequence(nets(), 0..4),
        vec((select(hops()), select(vec![0_u32, 100, 1024]), any::<bool>()), 0..3),
        vec(any::<bool>(), 4),
    );
    let vlan = (select(vec!["office", "phones", "old"]), 7_u16..9, 0_usize..3);
    let resolvers = subsequence(vec![ip("10.0.0.53"), ip("192.0.2.53")], 0..2);
    (vec(nic, 5), vec(vlan, 0..3), resolvers).prop_map(|(nics, vlans, fixed)| {
        let mut network = Network::default();
        for (number, nic) in nics.into_iter().enumerate() {
            let index = number as u32 + 2;
            let (mut up, mut mtu, dhcp, accept_ra, addresses, hops, statics) = nic;
            let mac = Mac::from_bytes([2, 0, 0, 0, 0, index as u8]);
            let (name, kind) = if number < 3 {
                (format!("eth{number}"), LinkKind::Ethernet)
            } else {
                let Some((name, tag, parent)) = vlans.get(number - 3) else { continue };
                let tag = VlanTag::try_from(*tag).expect("a tag");
                let kind = LinkKind::Vlan { parent: *parent as u32 + 2, tag };
                if network.links.iter().any(|link| link.name == *name || link.kind == kind) {
                    continue;
                }
                up &= network.links[*parent].admin == Admin::Up;
                mtu = mtu.min(network.links[*parent].mtu);
                ((*name).to_owned(), kind)
            };
            let mut held: Vec<Address> = Vec::new();
            for net in addresses {
                if net.addr().is_ipv4() || (up && !held.iter().any(|have| have.net.addr() == net.addr())) {
                    let link_local = net == self::net("fe80::5/64");
                    held.push(Address { net, origin: if link_local { Origin::Kernel } else { Origin::Static } });
                }
            }
            let dhcp4 = match dhcp {
                1 => Dhcp4::Searching,
                2 if up => {
                    held.retain(|have| have.net != lease(index).address);
                    held.push(Address { net: lease(index).address, origin: Origin::Dhcp });
                    Dhcp4::Bound(lease(index))
                }
                _ => Dhcp4::Off,
            };
            if up && accept_ra != AcceptRa::Off {
                held.push(Address { net: net("2001:db8:ffff::a/64"), origin: Origin::Ra });
            }
            held.sort();
            for (((to, via), metric, from_lease), is_static) in hops.into_iter().zip(statics) {
                let v4 = to.addr().is_ipv4();
                let metric = if v4 || metric > 0 { metric } else { 1024 };
                let bound = matches!(dhcp4, Dhcp4::Bound(_)) && v4;
                let origin = match (v4, from_lease && bound, is_static) {
                    (_, true, _) => Origin::Dhcp,
                    (false, _, false) => Origin::Ra,
                    _ => Origin::Static,
                };
                let route = observed::Route { to, via: Some(via), link: index, metric, origin };
                let alike = |have: &observed::Route| observed::Route { origin, ..have.clone() } == route;
                if up && !network.routes.iter().any(alike) {
                    network.routes.push(route);
                }
            }
            network.links.push(observed::Link {
                index,
                name,
                mac,
                permanent_mac: mac,
                kind,
                admin: if up { Admin::Up } else { Admin::Down },
                carrier: if up { Carrier::Present } else { Carrier::Absent },
                mtu,
                addresses: held,
                dhcp4,
                accept_ra,
            });
        }
        let leases = |network: &Network| {
            let mut links: Vec<_> = network.links.iter().collect();
            links.sort_by_key(|link| &link.name);
            let bound = links.into_iter().filter_map(|link| match &link.dhcp4 {
                Dhcp4::Bound(lease) => Some(lease.clone()),
                Dhcp4::Off | Dhcp4::Searching => None,
            });
            bound.collect::<Vec<_>>()
        };
        let servers = leases(&network).into_iter().flat_map(|lease| lease.nameservers);
        network.nameservers = in_force(&fixed, servers);
        network.search = in_force(&[], leases(&network).into_iter().flat_map(|lease| lease.search));
        network
    })
}

/// A twin whose idle links would get a lease if they asked; links that search in vain go on to.
fn twin(machine: &Network) -> Twin {
    let mut twin = Twin::new(machine.clone());
    for (number, name) in ["eth0", "eth1", "eth2", "office", "phones"].into_iter().enumerate() {
        if !machine.links.iter().any(|link| link.name == name && link.dhcp4 != Dhcp4::Off) {
            twin.offer(name, lease(number as u32 + 2));
        }
    }
    twin
}

fn apply(twin: &mut Twin, steps: &[Step]) -> Result<(), String> {
    for step in steps {
        twin.apply(&step.change).map_err(|refused| format!("{refused} in {steps:#?} at {:#?}", twin.observe()))?;
    }
    Ok(())
}

/// What a revert owes: all but indexes, carrier, what routers announced and what the kernel makes.
fn essence(network: &Network) -> BTreeSet<String> {
    let name = |index| network.links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let ours = |origin| matches!(origin, Origin::Static | Origin::Dhcp);
    let mut facts = BTreeSet::new();
    for link in &network.links {
        let on = &link.name;
        let kind = match link.kind {
            LinkKind::Vlan { parent, tag } => format!("{tag} on {:?}", name(parent)),
            LinkKind::Ethernet | LinkKind::Foreign(_) => String::new(),
        };
        let dhcp = link.dhcp4 == Dhcp4::Off;
        facts.insert(format!("{on} {kind} {:?} {} {dhcp} {:?}", link.admin, link.mtu, link.accept_ra));
        let addresses = link.addresses.iter().filter(|address| ours(address.origin));
        facts.extend(addresses.map(|address| format!("{on} {address:?}")));
    }
    for route in network.routes.iter().filter(|route| ours(route.origin)) {
        facts.insert(format!("{:?} {:?}", name(route.link), observed::Route { link: 0, ..route.clone() }));
    }
    facts.insert(format!("{:?} {:?}", network.nameservers, network.search));
    facts
}

/// A document that passes its check and fits the machine, with its plan.
fn fitting(document: desired::Network, machine: &Network) -> Option<(desired::Network, Vec<Step>)> {
    let desired = Desired { network: Some(document.clone()), storage: None };
    desired::check(desired).ok()?;
    let steps = plan(&document, machine).ok()?;
    Some((document, steps))
}

/// Whether a route of the document needs a lease on a link that gets none.
fn waits_in_vain(steps: &[Step], machine: &Network) -> bool {
    steps.iter().any(|step| match &step.change {
        muster_agent::plan::network::Change::AwaitLease { link } => {
            machine.links.iter().any(|have| have.name == *link && have.dhcp4 == Dhcp4::Searching)
        }
        _ => false,
    })
}

/// eth0 as it is after a network boot: up, with a lease that brought the default route and a resolver.
fn booted() -> Network {
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, 2]);
    let lease = Lease {
        address: net("192.0.2.100/24"),
        server: ip("192.0.2.1"),
        nameservers: vec![ip("192.0.2.53")],
        search: vec![],
    };
    let eth0 = observed::Link {
        index: 2,
        name: "eth0".to_owned(),
        mac,
        permanent_mac: mac,
        kind: LinkKind::Ethernet,
        admin: Admin::Up,
        carrier: Carrier::Present,
        mtu: 1500,
        addresses: vec![Address { net: lease.address, origin: Origin::Dhcp }],
        dhcp4: Dhcp4::Bound(lease),
        accept_ra: AcceptRa::Default,
    };
    let default = observed::Route {
        to: net("0.0.0.0/0"),
        via: Some(ip("192.0.2.1")),
        link: 2,
        metric: 1024,
        origin: Origin::Dhcp,
    };
    Network { links: vec![eth0], routes: vec![default], nameservers: vec![ip("192.0.2.53")], search: vec![] }
}

/// netplan: a static address, gateway and resolver on eth0, and VLAN 7 on it.
fn office() -> desired::Network {
    let route = |to, via| desired::Route { to: net(to), via: ip(via), metric: None, reach: Reach::Prefix };
    let lan = Settings {
        addresses: vec![net("192.0.2.7/24"), net("2001:db8::7/64")],
        routes: vec![route("0.0.0.0/0", "192.0.2.1"), route("::/0", "2001:db8::1")],
        nameservers: vec![ip("192.0.2.54")],
        search: vec!["example.org".to_owned()],
        ..Settings::default()
    };
    let office = Settings { addresses: vec![net("198.51.100.7/24")], mtu: Some(1400), ..Settings::default() };
    let tag = VlanTag::try_from(7).expect("a tag");
    desired::Network {
        links: vec![
            desired::Link::Vlan { id: "office".to_owned(), tag, parent: "lan".to_owned(), settings: office },
            desired::Link::Ethernet { id: "lan".to_owned(), select: Select::Name("eth0".to_owned()), settings: lan },
        ],
    }
}

#[test]
fn a_resolver_stays_when_the_lease_that_brought_it_ends() {
    let mut document = office();
    for link in &mut document.links {
        if let desired::Link::Ethernet { settings, .. } = link {
            (settings.nameservers, settings.search) = (vec![ip("192.0.2.53")], Vec::new());
        }
    }
    let mut twin = Twin::new(booted());
    apply(&mut twin, &plan(&document, &booted()).expect("it fits")).expect("applies");
    assert_eq!(twin.observe().nameservers, [ip("192.0.2.53")]);
    assert_eq!(differences(&document, twin.observe()), [""; 0]);
    let back = revert(&booted(), twin.observe());
    apply(&mut twin, &back).expect("reverts");
    assert_eq!(twin.observe().nameservers, [ip("192.0.2.53")]);
}

#[test]
fn the_old_path_lives_until_the_new_one_is_there() {
    let steps = plan(&office(), &booted()).expect("it fits");
    let lines: Vec<String> =
        steps.iter().map(|s| format!("{:?}: {}", s.describe().impact, s.describe().action)).collect();
    assert_eq!(
        lines,
        [
            "None: stop DHCP on eth0",
            "None: create VLAN office with tag 7 on eth0",
            "None: set the MTU of office to 1400",
            "None: take router advertisements on office unless it forwards",
            "None: bring office up",
            "None: add address 192.0.2.7/24 to eth0",
            "None: add address 2001:db8::7/64 to eth0",
            "None: add address 198.51.100.7/24 to office",
            "ControlPath: add route 0.0.0.0/0 via 192.0.2.1 by eth0 with metric 0",
            "ControlPath: add route ::/0 via 2001:db8::1 by eth0 with metric 1024",
            "None: wait until the IPv6 addresses of eth0 are known to be unique",
            "ControlPath: remove route 0.0.0.0/0 via 192.0.2.1 by eth0 with metric 1024",
            "ControlPath: remove address 192.0.2.100/24 from eth0",
            "None: set resolvers: 192.0.2.54, search domains: example.org",
        ]
    );
}

#[test]
fn a_lease_comes_back_with_all_it_brought() {
    let before = booted();
    let mut twin = Twin::new(before.clone());
    apply(&mut twin, &plan(&office(), &before).expect("it fits")).expect("the kernel agrees");
    let back = revert(&before, twin.observe());
    let lines: Vec<String> = back.iter().map(|step| step.change.action()).collect();
    assert_eq!(
        lines,
        [
            "add address 192.0.2.100/24 to eth0",
            "start DHCP on eth0",
            "add route 0.0.0.0/0 via 192.0.2.1 by eth0 with metric 1024",
            "remove route 0.0.0.0/0 via 192.0.2.1 by eth0 with metric 0",
            "remove route ::/0 via 2001:db8::1 by eth0 with metric 1024",
            "remove address 192.0.2.7/24 from eth0",
            "remove address 2001:db8::7/64 from eth0",
            "delete VLAN office",
            "set resolvers: none, search domains: none",
        ]
    );
    apply(&mut twin, &back).expect("the kernel agrees");
    assert_eq!(twin.observe(), &before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, max_global_rejects: 50_000, ..ProptestConfig::default() })]

    #[test]
    fn an_applied_plan_leaves_no_difference(machine in machine(), document in document()) {
        let planned = fitting(document, &machine);
        prop_assume!(planned.is_some());
        let (document, steps) = planned.expect("assumed");
        prop_assume!(!waits_in_vain(&steps, &machine));
        let mut twin = twin(&machine);
        apply(&mut twin, &steps).map_err(TestCaseError::fail)?;
        prop_assert_eq!(differences(&document, twin.observe()), Vec::<String>::new());
        prop_assert_eq!(plan(&document, twin.observe()), Ok(Vec::new()));
    }

    #[test]
    fn a_revert_from_any_step_gives_back_what_was(machine in machine(), document in document(), done in 0_usize..40) {
        let planned = fitting(document, &machine);
        prop_assume!(planned.is_some());
        let (_, steps) = planned.expect("assumed");
        let mut twin = twin(&machine);
        for step in steps.iter().take(done) {
            if twin.apply(&step.change).is_err() {
                break;
            }
        }
        let back = revert(&machine, twin.observe());
        let between = format!("{:#?}", twin.observe());
        apply(&mut twin, &back).map_err(TestCaseError::fail)?;
        prop_assert_eq!(essence(twin.observe()), essence(&machine), "{:#?}\nby {:#?}\nfrom {}", steps, back, between);
        prop_assert_eq!(revert(&machine, twin.observe()), Vec::new());
    }

    #[test]
    fn a_state_that_is_there_needs_no_revert(machine in machine()) {
        prop_assert_eq!(revert(&machine, &machine), Vec::new());
    }

    #[test]
    fn links_that_the_document_does_not_name_are_left_alone(machine in machine(), document in document()) {
        let planned = fitting(document, &machine);
        prop_assume!(planned.is_some());
        let (document, steps) = planned.expect("assumed");
        let mut twin = twin(&machine);
        // Up to the first refusal, if any.
        let _ = apply(&mut twin, &steps);
        let untouched = |network: &Network| {
            let named = |link: &&observed::Link| {
                let selects = |d: &desired::Link| {
                    matches!(d, desired::Link::Ethernet { select: Select::Mac(mac), .. } if *mac == link.permanent_mac)
                        || d.id() == link.name
                };
                link.kind != LinkKind::Ethernet || document.links.iter().any(selects)
            };
            let mut rest = network.clone();
            rest.links.retain(|link| !named(&link));
            rest.routes.retain(|route| rest.links.iter().any(|link| link.index == route.link));
            (rest.links, rest.routes)
        };
        prop_assert_eq!(untouched(twin.observe()), untouched(&machine));
    }
}
