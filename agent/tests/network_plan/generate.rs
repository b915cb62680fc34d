//! Random machines that the kernel could really be in, and random documents for them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_agent::plan::network::twin::Twin;
use muster_agent::plan::network::{Family, Past, in_force, plan};
use muster_protocol::desired::{
    self, AcceptRa, Bond, BondMode, BondOption, Bridge, BridgeOption, Dhcp, Ethernet, LeaseUse, MAIN_TABLE, Neighbor,
    PortCost, Privacy, Reach, Rule, Select, Settings, Take, WakeOnLan,
};
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Address, Admin, Lease, LinkKind, Network, Origin};
use muster_protocol::{Mac, VlanTag};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

pub fn net(text: &str) -> IpNet {
    text.parse().expect("a test's prefix")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

pub fn mac(last: u8) -> Mac {
    Mac::from_bytes([2, 0, 0, 0, 0, last])
}

fn lease(nic: u32, family: Family) -> Lease {
    match family {
        Family::V4 => Lease {
            address: net(&format!("10.{nic}.0.200/8")),
            server: ip("10.0.0.1"),
            nameservers: vec![ip("10.0.0.53"), ip(&format!("10.{nic}.0.53"))],
            search: vec!["lan.example".to_owned()],
            ntp: vec![ip("10.0.0.123")],
        },
        Family::V6 => Lease {
            address: net(&format!("2001:db8:d::{nic}/128")),
            server: ip("fe80::1"),
            nameservers: vec![ip("2001:db8::53")],
            search: Vec::new(),
            ntp: vec![],
        },
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
fn hops() -> Vec<(IpNet, Option<IpAddr>)> {
    let texts = [
        ("0.0.0.0/0", "10.0.0.1"),
        ("0.0.0.0/0", "10.1.0.1"),
        ("0.0.0.0/0", "10.2.0.1"),
        ("10.9.0.0/16", "10.0.0.2"),
        ("10.8.0.0/16", ""),
        ("::/0", "2001:db8::1"),
        ("::/0", "fe80::1"),
        ("2001:db8:9::/48", "2001:db8:1::1"),
    ];
    texts.iter().map(|(to, via)| (net(to), via.parse().ok())).collect()
}

fn accept_ra() -> impl Strategy<Value = AcceptRa> {
    select(vec![AcceptRa::Default, AcceptRa::On, AcceptRa::Off])
}

fn dhcp() -> impl Strategy<Value = Dhcp> {
    let other = LeaseUse { dns: Take::No, ntp: Take::No, routes: Take::No, route_metric: Some(7) };
    select(vec![Dhcp::Off, Dhcp::Off, Dhcp::On(LeaseUse::default()), Dhcp::On(other)])
}

fn dhcp6() -> impl Strategy<Value = Dhcp> {
    let other = LeaseUse { dns: Take::No, ..LeaseUse::default() };
    select(vec![Dhcp::Off, Dhcp::Off, Dhcp::On(LeaseUse::default()), Dhcp::On(other)])
}

fn routes() -> impl Strategy<Value = Vec<desired::Route>> {
    let metric = select(vec![None, Some(0), Some(100), Some(1024)]);
    let route = (select(hops()), metric, any::<bool>(), select(vec![MAIN_TABLE, MAIN_TABLE, 7]));
    vec(route, 0..4).prop_map(|routes| {
        let mut seen = BTreeSet::new();
        let route = |((to, via), metric, on_link, table): ((IpNet, Option<IpAddr>), _, bool, _)| {
            let reach = if on_link && via.is_some() { Reach::OnLink } else { Reach::Prefix };
            seen.insert((to, via, metric, table)).then_some(desired::Route { to, via, metric, table, reach })
        };
        routes.into_iter().filter_map(route).collect()
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule =
        |from: &str, priority| Rule { from: Some(net(from)), to: None, table: 7, priority, mark: None, tos: None };
    let to = |to: &str, priority| Rule { from: None, to: Some(net(to)), ..rule("::/0", priority) };
    let rules = vec![
        rule("10.0.0.5/32", None),
        rule("10.0.0.6/32", Some(100)),
        rule("2001:db8::/32", Some(5)),
        to("203.0.113.0/24", Some(50)),
    ];
    subsequence(rules, 0..3)
}

fn neighbors() -> impl Strategy<Value = Vec<Neighbor>> {
    let neighbor = |address: &str, last| Neighbor { address: ip(address), mac: mac(last) };
    let all = vec![neighbor("10.0.0.1", 0xf0), neighbor("10.0.0.1", 0xf1), neighbor("2001:db8::1", 0xf2)];
    subsequence(all, 0..2)
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        (subsequence(nets(), 0..4), routes(), rules(), neighbors()),
        subsequence(vec![ip("10.0.0.53"), ip("192.0.2.53"), ip("2001:db8::53")], 0..3),
        subsequence(vec!["lan.example".to_owned(), "example.org".to_owned()], 0..2),
        select(vec![None, Some(1400), Some(1500), Some(9000)]),
        (dhcp(), dhcp6(), accept_ra(), select(vec![Privacy::Off, Privacy::On])),
    )
        .prop_map(|((addresses, routes, rules, neighbors), nameservers, search, mtu, of_link)| {
            let (dhcp4, dhcp6, accept_ra, privacy) = of_link;
            Settings { addresses, routes, rules, neighbors, nameservers, search, mtu, dhcp4, dhcp6, accept_ra, privacy }
        })
}

/// Settings that a port may have.
fn plain() -> Settings {
    Settings::default()
}

/// Mode, options, and whether a port is preferred.
type RandomBond = (BondMode, Vec<(BondOption, u32)>, bool);
/// Ports by number, options, and whether the bond is a port too.
type RandomBridge = (Vec<usize>, Vec<(BridgeOption, u32)>, bool);

fn bond() -> impl Strategy<Value = RandomBond> {
    let options = vec![
        (BondOption::MiiMonitorInterval, 50),
        (BondOption::UpDelay, 200),
        (BondOption::LacpRate, 1),
        (BondOption::TransmitHashPolicy, 1),
        (BondOption::MinLinks, 1),
        (BondOption::FailOverMac, 1),
    ];
    let modes = vec![BondMode::ActiveBackup, BondMode::Lacp, BondMode::BalanceRr, BondMode::BalanceAlb];
    (select(modes), subsequence(options, 0..4), any::<bool>())
}

/// Who is made of whom, by numbers of NICs.
#[derive(Debug, Clone)]
struct Shape {
    bond: Option<(Vec<usize>, RandomBond)>,
    bridge: Option<RandomBridge>,
    vlan: Option<(&'static str, u16, usize)>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let bridge_options = vec![(BridgeOption::Stp, 0), (BridgeOption::Priority, 4096), (BridgeOption::AgeingTime, 100)];
    (
        option::of((subsequence(vec![0, 1, 2], 1..3), bond())),
        option::of((subsequence(vec![0, 1, 2], 0..2), subsequence(bridge_options, 0..3), any::<bool>())),
        option::of((select(vec!["office", "phones"]), 7_u16..9, 0_usize..5)),
    )
        .prop_map(|(bond, bridge, vlan)| Shape { bond, bridge, vlan })
}

/// A document for some of three NICs, with a bond, a bridge and a VLAN on and of them.
pub fn document() -> impl Strategy<Value = desired::Network> {
    let nic = (option::of(settings()), option::of(select(vec!["lan0", "lan1", "eth1", "eth2"])));
    let machine =
        (option::of(select(vec!["one".to_owned(), "two".to_owned()])), vec(Just("ntp.example".to_owned()), 0..2));
    (vec(nic, 3), shape(), vec(settings(), 3), machine).prop_map(|(nics, shape, made, (hostname, ntp))| {
        let mut links = Vec::new();
        let mut made = made.into_iter();
        let mut settings = || made.next().unwrap_or_default();
        let mut ports = BTreeSet::new();
        let id = |nic: &usize| format!("nic{nic}");
        if let Some((tag_name, tag, on)) = shape.vlan {
            let parent = match on {
                3 => "bond0".to_owned(),
                4 => "br0".to_owned(),
                nic => id(&nic),
            };
            let tag = VlanTag::try_from(tag).expect("a tag");
            let kind = desired::LinkKind::Vlan { tag, parent };
            links.push(desired::Link { id: tag_name.to_owned(), kind, settings: settings() });
        }
        if let Some((nics, (mode, options, prefers))) = shape.bond {
            ports.extend(nics.iter().copied());
            let options = options.into_iter().filter(|(option, _)| option.is_of(mode)).collect();
            let primary = (prefers && mode.has_primary()).then(|| id(&nics[0]));
            let bond = Bond { ports: nics.iter().map(id).collect(), mode, primary, arp_ip_targets: vec![], options };
            let kind = desired::LinkKind::Bond(bond);
            links.push(desired::Link { id: "bond0".to_owned(), kind, settings: settings() });
        }
        if let Some((nics, options, has_bond)) = shape.bridge {
            let mut below: Vec<String> = nics.iter().filter(|nic| ports.insert(**nic)).map(id).collect();
            let is_free = !links.iter().any(|link: &desired::Link| link.below().contains(&"bond0".to_owned()));
            if has_bond && is_free && links.iter().any(|link| link.id == "bond0") {
                below.push("bond0".to_owned());
            }
            let costs = below.first().map(|port| (port.clone(), PortCost { path_cost: Some(9), priority: None }));
            let bridge =
                Bridge { ports: below, options: options.into_iter().collect(), costs: costs.into_iter().collect() };
            let kind = desired::LinkKind::Bridge(bridge);
            links.push(desired::Link { id: "br0".to_owned(), kind, settings: settings() });
        }
        for (number, (settings, set_name)) in nics.into_iter().enumerate() {
            let is_port = ports.contains(&number);
            if settings.is_none() && !is_port {
                continue;
            }
            let select = Select { mac: Some(mac(number as u8 + 2)), ..Select::default() };
            let set_name = set_name.map(str::to_owned);
            let kind = desired::LinkKind::Ethernet(Ethernet { select, set_name, wake_on_lan: WakeOnLan::Keep });
            let settings = if is_port { plain() } else { settings.unwrap_or_default() };
            links.push(desired::Link { id: id(&number), kind, settings });
        }
        let bond_in_bridge = links.iter().any(|link| link.id == "br0" && link.below().contains(&"bond0".to_owned()));
        for link in links.iter_mut().filter(|link| bond_in_bridge && link.id == "bond0") {
            link.settings = plain();
        }
        desired::Network { links, hostname, ntp }
    })
}

/// A NIC of a machine that nobody configured through Muster yet.
type Nic = (bool, u32, u8, AcceptRa, Vec<IpNet>, Vec<((IpNet, Option<IpAddr>), u32, bool)>, Vec<bool>);

fn nic() -> impl Strategy<Value = Nic> {
    (
        any::<bool>(),
        select(vec![1400_u32, 1500, 9000]),
        0_u8..3,
        accept_ra(),
        subsequence(nets(), 0..4),
        vec((select(hops()), select(vec![0_u32, 100, 1024]), any::<bool>()), 0..3),
        vec(any::<bool>(), 4),
    )
}

fn fresh(nics: Vec<Nic>, fixed: Vec<IpAddr>) -> Network {
    let mut network = Network { hostname: "one".to_owned(), ..Network::default() };
    for (number, nic) in nics.into_iter().enumerate() {
        let index = number as u32 + 2;
        let (up, mtu, dhcp, accept_ra, addresses, hops, statics) = nic;
        let mut held: Vec<Address> = Vec::new();
        for net in addresses {
            if net.addr().is_ipv4() || (up && !held.iter().any(|have| have.net.addr() == net.addr())) {
                let link_local = net == self::net("fe80::5/64");
                held.push(Address { net, origin: if link_local { Origin::Kernel } else { Origin::Static } });
            }
        }
        let dhcp4 = match dhcp {
            1 => observed::Dhcp::Searching(LeaseUse::default()),
            2 if up => {
                let lease = lease(index, Family::V4);
                held.retain(|have| have.net != lease.address);
                held.push(Address { net: lease.address, origin: Origin::Dhcp });
                observed::Dhcp::Bound(LeaseUse::default(), Box::new(lease))
            }
            _ => observed::Dhcp::Off,
        };
        if up && accept_ra != AcceptRa::Off {
            held.push(Address { net: net("2001:db8:ffff::a/64"), origin: Origin::Ra });
        }
        held.sort();
        for (((to, via), metric, from_lease), is_static) in hops.into_iter().zip(statics) {
            let v4 = to.addr().is_ipv4();
            let metric = if v4 || metric > 0 { metric } else { 1024 };
            let bound = dhcp4.lease().is_some() && v4;
            let origin = match (v4, from_lease && bound, is_static) {
                (_, true, _) => Origin::Dhcp,
                (false, _, false) => Origin::Ra,
                _ => Origin::Static,
            };
            let route = observed::Route { to, via, link: index, metric, table: MAIN_TABLE, origin };
            let alike = |have: &observed::Route| observed::Route { origin, ..have.clone() } == route;
            if up && !network.routes.iter().any(alike) {
                network.routes.push(route);
            }
        }
        network.links.push(observed::Link {
            admin: if up { Admin::Up } else { Admin::Down },
            carrier: if up { Carrier::Present } else { Carrier::Absent },
            mtu,
            addresses: held,
            dhcp4,
            accept_ra,
            ..ethernet(index)
        });
    }
    let leased: Vec<Lease> = network.links.iter().filter_map(|link| link.dhcp4.lease()).cloned().collect();
    network.nameservers = in_force(&fixed, leased.iter().flat_map(|lease| lease.nameservers.clone()));
    network.search = in_force(&[], leased.iter().flat_map(|lease| lease.search.clone()));
    network.ntp = in_force(&[], leased.iter().flat_map(|lease| lease.ntp.iter().map(ToString::to_string)));
    network
}

/// An ethernet that is up, with nothing on it.
pub fn ethernet(index: u32) -> observed::Link {
    observed::Link {
        driver: "e1000e".to_owned(),
        admin: Admin::Up,
        carrier: Carrier::Present,
        ..observed::Link::bare(index, &format!("eth{}", index - 2), mac(index as u8), LinkKind::Ethernet)
    }
}

/// A machine that the kernel could really be in: three NICs with whatever on them, and maybe what an earlier document made.
pub fn machine() -> impl Strategy<Value = Network> {
    let fixed = subsequence(vec![ip("10.0.0.53"), ip("192.0.2.53")], 0..2);
    (vec(nic(), 3), fixed, option::of(document())).prop_map(|(nics, fixed, earlier)| {
        let mut twin = twin(&fresh(nics, fixed));
        if let Some(document) = earlier
            && let Ok(steps) = plan(&document, &Past::default(), twin.observe(), &[])
        {
            for step in &steps {
                if twin.apply(&step.change).is_err() {
                    break;
                }
            }
        }
        twin.observe().clone()
    })
}

/// By which addresses the controller is reached: none where that is not known.
pub fn controllers() -> impl Strategy<Value = Vec<IpAddr>> {
    subsequence(vec![ip("203.0.113.1"), ip("10.0.0.99"), ip("2001:db8:9::1")], 0..2)
}

/// A twin whose idle links would get a lease if they asked; links that search in vain go on to.
pub fn twin(machine: &Network) -> Twin {
    let mut twin = Twin::new(machine.clone());
    let made = ["office", "phones", "bond0", "br0"].map(str::to_owned);
    let nics = machine.links.iter().filter(|link| link.kind == LinkKind::Ethernet).map(|link| link.name.clone());
    for (number, name) in nics.chain(made).enumerate() {
        for family in [Family::V4, Family::V6] {
            let client = |link: &observed::Link| match family {
                Family::V4 => link.dhcp4 != observed::Dhcp::Off,
                Family::V6 => link.dhcp6 != observed::Dhcp::Off,
            };
            if !machine.links.iter().any(|link| link.name == name && client(link)) {
                twin.offer(&name, family, lease(number as u32 + 2, family));
            }
        }
    }
    twin
}
