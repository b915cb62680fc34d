//! What a case's machine is, in a few lines:
//!
//! ```text
//! nic eth0 lease 192.0.2.100/24 gateway 192.0.2.1 dns 192.0.2.53     booted by it: a lease, and what that brought
//! nic eth1 mac 02:00:00:00:00:09 driver igb mtu 9000 can-wake        up, with a carrier, and nothing on it
//! nic eth2 down no-carrier wakes
//! nic eth3 announced 2001:db8::a/64 router fe80::1                   an address and a route from a router
//! nic eth4 by-hand 192.0.2.9/24
//! nic eth5 takes 68 9216                                             the least and the largest MTU
//! server office 198.51.100.100/24 dns 198.51.100.53                  DHCP's offer to whoever asks on a link
//! server6 eth0 2001:db8:d::5/128
//! hostname one
//! controller 203.0.113.1
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use muster_agent::plan::network::twin::Twin;
use muster_agent::plan::network::{Family, LEASED_METRIC};
use muster_protocol::Mac;
use muster_protocol::desired::{self, LeaseUse, MAIN_TABLE};
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{Address, Admin, Dhcp, Lease, Link, LinkKind, Network, Origin, Route, WakeOnLan};

/// See the module.
pub struct Machine {
    pub twin: Twin,
    pub controllers: Vec<IpAddr>,
}

impl Machine {
    /// Reads the lines.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut network = Network::default();
        let (mut offers, mut controllers) = (Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let read = match words.next() {
                Some("nic") => nic(&mut words, &mut network),
                Some("server") => offer(&mut words, Family::V4).map(|offer| offers.push(offer)),
                Some("server6") => offer(&mut words, Family::V6).map(|offer| offers.push(offer)),
                Some("hostname") => next(&mut words).map(|name| network.hostname = name),
                Some("controller") => next(&mut words).map(|ip| controllers.push(ip)),
                _ => Err("neither a nic nor a server, a hostname or a controller".to_owned()),
            };
            read.map_err(|problem| format!("{line:?}: {problem}"))?;
        }
        for lease in network.links.iter().filter_map(|link| link.dhcp4.lease()) {
            network.nameservers.extend(&lease.nameservers);
            network.search.extend(lease.search.iter().cloned());
            network.ntp.extend(lease.ntp.iter().map(ToString::to_string));
        }
        let mut twin = Twin::new(network);
        for (link, family, lease) in offers {
            twin.offer(&link, family, lease);
        }
        Ok(Self { twin, controllers })
    }
}

type Words<'a> = std::str::SplitWhitespace<'a>;

fn next<T: FromStr>(words: &mut Words<'_>) -> Result<T, String> {
    let word = words.next().ok_or("a word is missing")?;
    word.parse().map_err(|_| format!("{word:?} is not what stands there"))
}

fn nic(words: &mut Words<'_>, network: &mut Network) -> Result<(), String> {
    let index = network.links.len() as u32 + 2;
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, index as u8]);
    let mut link = Link {
        driver: "e1000e".to_owned(),
        admin: Admin::Up,
        carrier: Carrier::Present,
        ..Link::bare(index, &next::<String>(words)?, mac, LinkKind::Ethernet)
    };
    let route = |to: &str, via, origin| Route {
        to: to.parse().expect("a prefix"),
        via: Some(via),
        link: index,
        metric: LEASED_METRIC,
        table: MAIN_TABLE,
        origin,
    };
    while let Some(word) = words.next() {
        match word {
            "mac" => {
                link.mac = next(words)?;
                link.permanent_mac = link.mac;
            }
            "driver" => link.driver = next(words)?,
            "mtu" => link.mtu = next(words)?,
            "takes" => (link.min_mtu, link.max_mtu) = (next(words)?, next(words)?),
            "down" => link.admin = Admin::Down,
            "no-carrier" => link.carrier = Carrier::Absent,
            "can-wake" => link.wake_on_lan = WakeOnLan::Off,
            "wakes" => link.wake_on_lan = WakeOnLan::On,
            "by-hand" => link.addresses.push(Address { net: next(words)?, origin: Origin::Static }),
            "announced" => link.addresses.push(Address { net: next(words)?, origin: Origin::Ra }),
            "router" => network.routes.push(route("::/0", next(words)?, Origin::Ra)),
            "lease" => {
                let lease = lease(next(words)?);
                link.addresses.push(Address { net: lease.address, origin: Origin::Dhcp });
                link.dhcp4 = Dhcp::Bound(LeaseUse::default(), Box::new(lease));
            }
            "gateway" => network.routes.push(route("0.0.0.0/0", next(words)?, Origin::Dhcp)),
            word => match &mut link.dhcp4 {
                Dhcp::Bound(_, lease) => brought(lease, word, words)?,
                _ => return Err(format!("{word} is what a lease brings")),
            },
        }
    }
    link.addresses.sort();
    network.links.push(link);
    Ok(())
}

fn lease(address: IpNet) -> Lease {
    let server = address.hosts().next().expect("a network has hosts");
    Lease { address, server, nameservers: Vec::new(), search: Vec::new(), ntp: Vec::new() }
}

fn brought(lease: &mut Lease, word: &str, words: &mut Words<'_>) -> Result<(), String> {
    match word {
        "dns" => lease.nameservers.push(next(words)?),
        "search" => lease.search.push(next(words)?),
        "ntp" => lease.ntp.push(next(words)?),
        word => return Err(format!("there is no {word}")),
    }
    Ok(())
}

fn offer(words: &mut Words<'_>, family: Family) -> Result<(String, Family, Lease), String> {
    let link = next(words)?;
    let mut lease = lease(next(words)?);
    while let Some(word) = words.next() {
        brought(&mut lease, word, words)?;
    }
    Ok((link, family, lease))
}

/// The lines of a machine that a document speaks of: a NIC for each ethernet, booted by the first, and a DHCP server
/// wherever an address is asked for.
pub fn of_document(document: &desired::Network) -> String {
    let mut out = String::new();
    let is_nic = |link: &&desired::Link| matches!(link.kind, desired::LinkKind::Ethernet(_));
    for (at, entry) in document.links.iter().filter(is_nic).enumerate() {
        let desired::LinkKind::Ethernet(ethernet) = &entry.kind else { continue };
        let desired::Select { name, mac, drivers } = &ethernet.select;
        let any = |pattern: &String| pattern.replace(['*', '?'], "0");
        let name = if ethernet.select.is_by_id() { Some(entry.id.clone()) } else { name.as_ref().map(any) };
        out.push_str(&format!("nic {}", name.unwrap_or_else(|| format!("eth{at}"))));
        mac.iter().for_each(|mac| out.push_str(&format!(" mac {mac}")));
        drivers.iter().take(1).for_each(|driver| out.push_str(&format!(" driver {}", any(driver))));
        if ethernet.wake_on_lan == desired::WakeOnLan::On {
            out.push_str(" can-wake");
        }
        if at == 0 {
            out.push_str(" lease 192.0.2.100/24 gateway 192.0.2.1 dns 192.0.2.53");
        }
        out.push('\n');
    }
    let first = document.links.iter().find(is_nic).map(|link| &link.id);
    let asks = document.links.iter().filter(|link| link.settings.dhcp4.is_on() && Some(&link.id) != first);
    for (at, link) in asks.enumerate() {
        out.push_str(&format!("server {} 198.51.{}.100/24\n", link.id, 100 + at));
    }
    out.push_str("controller 203.0.113.1\n");
    out
}

/// A network as lines, with names where the kernel has indexes; without carriers, which come with cables, and without what
/// routers announced and the kernel made by itself: nobody can bring that back but they.
pub fn told(network: &Network) -> BTreeSet<String> {
    let name = |index: u32| {
        let link = network.links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("link {index}"), |link| link.name.clone())
    };
    let ours = |origin| matches!(origin, Origin::Static | Origin::Dhcp);
    let mut lines = BTreeSet::new();
    for link in &network.links {
        let on = &link.name;
        let mut tell = |what: String| lines.insert(format!("{on}: {what}"));
        tell(match &link.kind {
            LinkKind::Vlan { parent, tag } => format!("VLAN {tag} on {}", name(*parent)),
            LinkKind::Bond(bond) => {
                let primary = bond.primary.map(name);
                format!("bond {:?} primary {primary:?} asks {:?} {:?}", bond.mode, bond.arp_ip_targets, bond.options)
            }
            LinkKind::Bridge(bridge) => format!("bridge {:?}", bridge.options),
            LinkKind::Ethernet => format!("NIC {} {} {}", link.mac, link.permanent_mac, link.driver),
            LinkKind::Foreign(kind) => kind.clone(),
        });
        tell(format!("{:?} MTU {}", link.admin, link.mtu));
        tell(format!("advertisements {:?}, privacy {:?}, wakes {:?}", link.accept_ra, link.privacy, link.wake_on_lan));
        tell(format!("DHCP {:?}", link.dhcp4));
        tell(format!("DHCPv6 {:?}", link.dhcp6));
        if let Some(port) = link.port {
            tell(format!("port of {} cost {} priority {}", name(port.of), port.path_cost, port.priority));
        }
        for Address { net, origin } in link.addresses.iter().filter(|address| ours(address.origin)) {
            tell(format!("address {net} {origin:?}"));
        }
        for neighbor in &link.neighbors {
            tell(format!("neighbor {} is {}", neighbor.address, neighbor.mac));
        }
    }
    for Route { to, via, link, metric, table, origin } in network.routes.iter().filter(|route| ours(route.origin)) {
        lines.insert(format!("route {to} via {via:?} by {} metric {metric} table {table} {origin:?}", name(*link)));
    }
    lines.extend(network.rules.iter().map(|rule| format!("rule {rule:?}")));
    lines.insert(format!("resolvers {:?} search {:?}", network.nameservers, network.search));
    lines.insert(format!("NTP {:?} hostname {:?}", network.ntp, network.hostname));
    lines
}
