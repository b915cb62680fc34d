//! What may not be said of any link: addresses nobody can have, gateways and nameservers nobody can ask, things said twice.
//!
//! Called for each link by [`super::check`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::desired::{
    AcceptRa, Dhcp, Link, PROOF_MARK, PROOF_PRIORITY, PROOF_TABLE, Privacy, Problems, Route, Rule, Settings, Take,
};

/// `RT_TABLE_LOCAL`: the kernel's own.
const LOCAL_TABLE: u32 = 255;
/// The kernel's own rules are at 0, 32,766 and 32,767, and before the others there is a proof's.
const RULE_PRIORITIES: std::ops::RangeInclusive<u32> = PROOF_PRIORITY + 1..=32_765;
/// Of a link with less, the kernel takes IPv6 away (RFC 8200, section 5).
pub(super) const IPV6_MTU: u32 = 1280;

/// `own` are the addresses of the whole document, each with the id of its link.
pub(super) fn check(
    field: &str,
    link: &Link,
    own: &BTreeMap<IpAddr, &str>,
    seen: &mut BTreeSet<IpAddr>,
    problems: &mut Problems,
) {
    let settings = &link.settings;
    problems.at_most(&format!("{field}.addresses"), settings.addresses.len(), 64);
    problems.at_most(&format!("{field}.routes"), settings.routes.len(), 256);
    problems.at_most(&format!("{field}.routing-policy"), settings.rules.len(), 64);
    problems.at_most(&format!("{field}.neighbors"), settings.neighbors.len(), 256);
    problems.at_most(&format!("{field}.nameservers.addresses"), settings.nameservers.len(), 16);
    problems.at_most(&format!("{field}.nameservers.search"), settings.search.len(), 16);
    for (i, net) in settings.addresses.iter().enumerate() {
        let at = format!("{field}.addresses[{i}]");
        let address = net.addr();
        if let Some(what) = nobody(address) {
            problems.add(at, format!("{net} cannot be a link's own address: {what}"));
        } else if let Some(what) = not_between(net) {
            problems.add(at, format!("{net} is {what}; choose one between the first and the last"));
        } else if !seen.insert(address) {
            problems.add(at, format!("{address} is given twice in this document"));
        }
    }
    for (i, route) in settings.routes.iter().enumerate() {
        check_route(&format!("{field}.routes[{i}]"), route, link, own, problems);
    }
    for (i, rule) in settings.rules.iter().enumerate() {
        check_rule(&format!("{field}.routing-policy[{i}]"), rule, problems);
    }
    let mut known = BTreeSet::new();
    for (i, neighbor) in settings.neighbors.iter().enumerate() {
        let at = |key: &str| format!("{field}.neighbors[{i}].{key}");
        let address = neighbor.address;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            problems.add(at("address"), format!("{address} is nobody's neighbor"));
        } else if !neighbor.mac.is_unicast() {
            problems.add(at("macaddress"), format!("{} is no NIC's MAC address", neighbor.mac));
        } else if !known.insert(address) {
            problems.add(at("address"), format!("{address} is given twice"));
        }
    }
    if let Some(mtu) = settings.mtu {
        let floor = if has_ipv6(settings) { IPV6_MTU } else { 68 };
        if !(floor..=65_535).contains(&mtu) {
            problems.add(format!("{field}.mtu"), format!("{mtu} is not between {floor} and 65535"));
        }
    }
    if let Dhcp::On(lease) = settings.dhcp6
        && (lease.routes == Take::No || lease.route_metric.is_some())
    {
        let problem = "DHCPv6 brings no routes: routers announce them; leave use-routes and route-metric out";
        problems.add(format!("{field}.dhcp6-overrides"), problem);
    }
    for (i, server) in settings.nameservers.iter().enumerate() {
        // On the loopback there may be one.
        if let Some(what) = nobody(*server).filter(|_| !server.is_loopback()) {
            let problem = format!("{server} cannot be a nameserver: {what}; give the server's own address");
            problems.add(format!("{field}.nameservers.addresses[{i}]"), problem);
        }
    }
    for (i, domain) in settings.search.iter().enumerate() {
        if !is_domain(domain) {
            let problem = format!(
                "{domain:?} is not a domain name: letters, digits, '-' and '_', 1 to 63 between two dots and 253 in all"
            );
            problems.add(format!("{field}.nameservers.search[{i}]"), problem);
        }
    }
}

/// Whether a link has something that the kernel refuses where there is no IPv6.
pub(super) fn has_ipv6(settings: &Settings) -> bool {
    let Settings { addresses, routes, neighbors, dhcp6, accept_ra, privacy, .. } = settings;
    addresses.iter().any(|net| net.addr().is_ipv6())
        || routes.iter().any(|route| route.to.addr().is_ipv6())
        || neighbors.iter().any(|neighbor| neighbor.address.is_ipv6())
        || dhcp6.is_on()
        || *accept_ra == AcceptRa::On
        || *privacy == Privacy::On
}

/// As resolv.conf has them: a dot at the end is legal, and the root alone.
fn is_domain(domain: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(legal);
    let name = domain.strip_suffix('.').unwrap_or(domain);
    domain == "." || name.len() <= 253 && name.split('.').all(label)
}

fn check_table(at: &str, table: u32, problems: &mut Problems) {
    if table == 0 || table == LOCAL_TABLE {
        problems.add(
            format!("{at}.table"),
            format!("table {table} is the kernel's own; use 254, the main one, or a number from 1 to 252"),
        );
    }
    if table == PROOF_TABLE {
        problems.add(format!("{at}.table"), taken("table", table));
    }
}

/// That a number is the one of proofs.
fn taken(what: &str, number: u32) -> String {
    format!("{what} {number} is Muster's own while it proves a way; take another")
}

fn check_route(at: &str, route: &Route, link: &Link, own: &BTreeMap<IpAddr, &str>, problems: &mut Problems) {
    let settings = &link.settings;
    check_table(at, route.table, problems);
    if route.to.addr() != route.to.network() {
        problems.add(format!("{at}.to"), format!("{} has host bits set; write {}", route.to, route.to.trunc()));
    }
    let Some(via) = route.via else { return };
    let at = format!("{at}.via");
    // What the kernel refuses (net/ipv4/fib_semantics.c, fib_check_nh; net/ipv6/route.c, ip6_validate_gw), and an own
    // address in IPv4, which it takes for no gateway at all unless it is to be on the link. The network's own address it
    // takes, and so do we.
    if route.to.addr().is_ipv4() != via.is_ipv4() {
        problems.add(at, format!("{} via {via}: one is IPv4, the other IPv6", route.to));
    } else if via.is_unspecified() {
        problems.add(at, format!("{via} is nobody; leave via out where {} is on the link itself", route.to));
    } else if let Some(what) = nobody(via) {
        problems.add(at, format!("{via} cannot be a gateway: {what}; give the router's own address"));
    } else if settings.addresses.iter().any(|net| net.addr() == via) {
        problems.add(at, format!("the gateway {via} is this link's own address; give the router's"));
    } else if let Some(other) = own.get(&via).filter(|_| !is_link_local(via)) {
        let problem = format!("the gateway {via} is this machine's own address, on {other}; give the router's");
        problems.add(at, problem);
    } else if let Some(net) = settings.addresses.iter().find(|net| is_broadcast(net, via)) {
        let problem = format!("{via} is the broadcast address of {}; give the router's own address", net.trunc());
        problems.add(at, problem);
    }
}

fn check_rule(at: &str, rule: &Rule, problems: &mut Problems) {
    check_table(at, rule.table, problems);
    match (rule.from, rule.to) {
        (None, None) => problems.add(at, "give from or to, or both"),
        (Some(from), Some(to)) if from.addr().is_ipv4() != to.addr().is_ipv4() => {
            problems.add(format!("{at}.to"), format!("from {from} to {to}: one is IPv4, the other IPv6"));
        }
        _ => {}
    }
    for (key, net) in [("from", rule.from), ("to", rule.to)] {
        if let Some(net) = net.filter(|net| net.addr() != net.network()) {
            problems.add(format!("{at}.{key}"), format!("{net} has host bits set; write {}", net.trunc()));
        }
    }
    if let Some(priority) = rule.priority.filter(|priority| !RULE_PRIORITIES.contains(priority)) {
        let problem = match priority {
            PROOF_PRIORITY => taken("priority", priority),
            _ => format!("priority {priority} is not between {} and 32765", RULE_PRIORITIES.start()),
        };
        problems.add(format!("{at}.priority"), problem);
    }
    if rule.mark == Some(PROOF_MARK) {
        problems.add(format!("{at}.mark"), taken("mark", PROOF_MARK));
    }
    for (key, value) in [("mark", rule.mark), ("type-of-service", rule.tos.map(u32::from))] {
        if value == Some(0) {
            problems.add(format!("{at}.{key}"), format!("a {key} of 0 is none; leave it out"));
        }
    }
    // The two lowest bits are congestion's, and for IPv4 the kernel knows RFC 1349's alone (net/ipv4/fib_rules.c).
    let is_ipv4 = rule.from.or(rule.to).is_some_and(|net| net.addr().is_ipv4());
    let most = if is_ipv4 { 28 } else { 252 };
    if let Some(tos) = rule.tos.filter(|tos| !tos.is_multiple_of(4) || *tos > most) {
        problems.add(
            format!("{at}.type-of-service"),
            format!("type-of-service {tos} is not a multiple of 4 from 4 to {most}"),
        );
    }
}

/// What an address is that no machine has on a link.
fn nobody(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("it is no address"),
        _ if address.is_loopback() => Some("it is the machine itself, on its loopback"),
        _ if address.is_multicast() => Some("it is a multicast group"),
        IpAddr::V4(address) if address.is_broadcast() => Some("it is everybody"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Whether another machine may have it on another link.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// What an address is of its own network, where no machine should have it. A network of two has only machines (RFC 3021).
fn not_between(net: &IpNet) -> Option<&'static str> {
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 && net.addr() == net.network() => Some("the network's own address"),
        _ if is_broadcast(net, net.addr()) => Some("the network's broadcast address"),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// Whether `address` is all machines of a network.
fn is_broadcast(net: &IpNet, address: IpAddr) -> bool {
    matches!(net, IpNet::V4(net) if net.prefix_len() < 31 && net.broadcast() == address)
}
