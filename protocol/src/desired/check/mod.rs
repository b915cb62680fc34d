//! What a network may not say: names that refer to nothing, things said twice, numbers out of range.

mod settings;
pub(super) mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Bond, BondOption, Bridge, BridgeOption, Ethernet, Link, LinkKind, Network, Problems, Settings};

/// It is nobody's to configure: what is put on it is reached from nowhere without routes on other machines.
const LOOPBACK: &str = "lo";

pub(super) fn check(network: &Network, problems: &mut Problems) {
    problems.at_most("network", network.links.len(), 256);
    // One by one here and below: `collect` would sort first, with code of its own for every type.
    let mut by_id = BTreeMap::new();
    by_id.extend(network.links.iter().map(|link| (link.id.as_str(), link)));
    let mut seen = Seen { names: fixed_names(network), ..Seen::default() };
    let addresses =
        network.links.iter().flat_map(|link| link.settings.addresses.iter().map(move |net| (net.addr(), link)));
    let mut own = BTreeMap::new();
    own.extend(addresses.map(|(address, link)| (address, link.id.as_str())));
    for link in &network.links {
        let field = format!("network.{}.{}", link.section(), link.id);
        if !seen.ids.insert(&link.id) {
            problems.add(&field, "this id is used twice; every link needs its own");
        }
        match &link.kind {
            LinkKind::Ethernet(ethernet) => check_ethernet(&field, &link.id, ethernet, &mut seen, problems),
            LinkKind::Bond(bond) => check_bond(&field, &link.id, bond, &by_id, problems),
            LinkKind::Bridge(bridge) => check_bridge(&field, &link.id, bridge, &by_id, problems),
            LinkKind::Vlan { parent, .. } => {
                check_name(&field, &link.id, problems);
                if !by_id.contains_key(parent.as_str()) {
                    problems.add(format!("{field}.link"), format!("there is no link {parent:?} in this document"));
                }
            }
        }
        settings::check(&field, link, &own, &mut seen.addresses, problems);
    }
    check_ports(network, problems);
    check_stack(network, &by_id, problems);
    check_mtus(network, &by_id, problems);
    let mut tags = BTreeSet::new();
    for link in &network.links {
        if let LinkKind::Vlan { tag, parent } = &link.kind
            && !tags.insert((parent.as_str(), *tag))
        {
            problems.add(format!("network.vlans.{}.id", link.id), format!("tag {tag} is used twice on {parent}"));
        }
    }
    check_machine(network, problems);
}

#[derive(Default)]
struct Seen<'a> {
    ids: BTreeSet<&'a str>,
    addresses: BTreeSet<IpAddr>,
    selected: BTreeSet<String>,
    names: BTreeSet<&'a str>,
}

/// What NICs that are chosen by their name and links that Muster makes are called, so that no other NIC may be.
fn fixed_names(network: &Network) -> BTreeSet<&str> {
    let name = |link: &'_ Link| match &link.kind {
        LinkKind::Ethernet(Ethernet { set_name: Some(_), .. }) => false,
        LinkKind::Ethernet(Ethernet { select, .. }) => select.is_by_id(),
        LinkKind::Bond(_) | LinkKind::Bridge(_) | LinkKind::Vlan { .. } => true,
    };
    let mut names = BTreeSet::new();
    names.extend(network.links.iter().filter(|link| name(link)).map(|link| link.id.as_str()));
    names
}

fn check_machine(network: &Network, problems: &mut Problems) {
    if let Some(name) = &network.hostname
        && !is_host(name, 64)
    {
        let problem = format!(
            "{name:?} is no hostname: letters, digits, '-' and '.', at most 64, none of the last two at an end"
        );
        problems.add("network.hostname", problem);
    }
    problems.at_most("network.ntp.servers", network.ntp.len(), 16);
    for (i, server) in network.ntp.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() && !is_host(server, 253) {
            problems.add(
                format!("network.ntp.servers[{i}]"),
                format!("{server:?} is neither an IP address nor a host's name"),
            );
        }
    }
}

/// A name as DNS has them (RFC 1123, section 2.1).
fn is_host(name: &str, limit: usize) -> bool {
    let label = |label: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(legal) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= limit && name.split('.').all(label)
}

/// What the name of no thing has, and a terminal would act on.
fn has_control(text: &str) -> bool {
    text.contains(char::is_control)
}

/// IFNAMSIZ is 16 with the closing zero; the kernel refuses `/`, `:` and blanks (net/core/dev.c, dev_valid_name) and counts
/// where it reads `%d`; `all` and `default` are folders beside the links' own in /proc/sys/net/ipv4/conf.
fn check_name(field: &str, name: &str, problems: &mut Problems) {
    let legal = |c: char| c.is_ascii_graphic() && !"/:%".contains(c);
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || !name.chars().all(legal) {
        let problem =
            format!("{name:?} is no interface name: 1 to 15 visible ASCII characters, none of '/', ':' and '%'");
        problems.add(field, problem);
    } else if ["all", "default", LOOPBACK].contains(&name) {
        problems.add(field, format!("{name} is a name that the kernel has a use for; choose another"));
    }
}

fn check_ethernet<'a>(field: &str, id: &str, ethernet: &'a Ethernet, seen: &mut Seen<'a>, problems: &mut Problems) {
    let Ethernet { select, set_name, .. } = ethernet;
    problems.at_most(&format!("{field}.match.driver"), select.drivers.len(), 16);
    if select.is_by_id() {
        check_name(field, id, problems);
    } else if has_control(id) {
        problems.add(field, format!("{id:?} has control characters; leave them out"));
    }
    let patterns = select.drivers.iter().enumerate().map(|(i, driver)| (format!("driver[{i}]"), driver));
    for (key, pattern) in select.name.iter().map(|name| ("name".to_owned(), name)).chain(patterns) {
        if has_control(pattern) {
            problems.add(format!("{field}.match.{key}"), format!("{pattern:?} has control characters; leave them out"));
        }
    }
    let name = if select.is_by_id() { Some(id) } else { select.name.as_deref() };
    if name == Some(LOOPBACK) && !select.is_by_id() {
        problems
            .add(format!("{field}.match.name"), "the loopback is not configured; put its addresses on another link");
    }
    // A MAC is one NIC's, whatever else is said.
    let selected = match select.mac {
        Some(mac) => mac.to_string(),
        None => format!("{name:?} {:?}", select.drivers),
    };
    if !seen.selected.insert(selected) {
        problems.add(format!("{field}.match"), "two entries select the same NIC");
    }
    let Some(name) = set_name else { return };
    let field = format!("{field}.set-name");
    check_name(&field, name, problems);
    if select.is_by_id() {
        problems.add(&field, "give match: {macaddress: …} with it; the entry's own name does not say which NIC it is");
    }
    if !seen.names.insert(name) {
        problems.add(&field, format!("two links cannot both be {name}"));
    }
}

fn check_bond(field: &str, id: &str, bond: &Bond, links: &BTreeMap<&str, &Link>, problems: &mut Problems) {
    check_name(field, id, problems);
    let at = format!("{field}.interfaces");
    problems.at_most(&at, bond.ports.len(), 64);
    for (i, port) in bond.ports.iter().enumerate() {
        let at = format!("{at}[{i}]");
        match links.get(port.as_str()).map(|link| &link.kind) {
            Some(LinkKind::Ethernet(_)) => {}
            Some(_) => problems.add(at, format!("{port:?} is no ethernet; a bond is made of ethernets")),
            None => problems.add(at, format!("there is no link {port:?} in this document")),
        }
    }
    let at = |option: BondOption| format!("{field}.parameters.{}", option.name());
    for (option, value) in &bond.options {
        if !option.is_of(bond.mode) {
            problems
                .add(at(*option), format!("a bond of mode {} has no such parameter; leave it out", bond.mode.name()));
        } else if !option.range().contains(value) {
            let range = option.range();
            problems.add(at(*option), format!("{value} is not between {} and {}", range.start(), range.end()));
        }
    }
    let interval = bond.option(BondOption::MiiMonitorInterval);
    for delay in [BondOption::UpDelay, BondOption::DownDelay] {
        let ms = bond.option(delay);
        if ms > 0 && interval == 0 {
            let problem = "it is counted in intervals of mii-monitor-interval, and that is off here; leave it out";
            problems.add(at(delay), problem);
        } else if ms > 0 && !ms.is_multiple_of(interval) {
            let problem = format!("{ms} ms is no multiple of mii-monitor-interval, which is {interval} ms");
            problems.add(at(delay), problem);
        }
    }
    if bond.option(BondOption::ArpInterval) > 0 {
        if interval > 0 {
            problems.add(
                at(BondOption::ArpInterval),
                "ports are watched by arp-interval or by mii-monitor-interval; give one",
            );
        }
        if bond.arp_ip_targets.is_empty() {
            problems.add(at(BondOption::ArpInterval), "give arp-ip-targets with it, the addresses to ask for");
        }
    } else if interval == 0 && !bond.mode.may_watch_by_arp() {
        let problem = format!("a bond of mode {} needs it; leave it out for 100 ms", bond.mode.name());
        problems.add(at(BondOption::MiiMonitorInterval), problem);
    }
    let targets = format!("{field}.parameters.arp-ip-targets");
    problems.at_most(&targets, bond.arp_ip_targets.len(), 16);
    for (i, target) in bond.arp_ip_targets.iter().enumerate() {
        if target.is_unspecified() || target.is_broadcast() || target.is_multicast() {
            problems.add(format!("{targets}[{i}]"), format!("{target} cannot be asked for"));
        } else if bond.arp_ip_targets[..i].contains(target) {
            problems.add(format!("{targets}[{i}]"), format!("{target} is given twice; leave one out"));
        }
    }
    if let Some(primary) = &bond.primary {
        let at = format!("{field}.parameters.primary");
        if !bond.mode.has_primary() {
            let problem = "only a bond of mode active-backup, balance-tlb or balance-alb has one; leave it out";
            problems.add(at, problem);
        } else if !bond.ports.contains(primary) {
            problems.add(at, format!("{primary:?} is none of the bond's interfaces"));
        }
    }
}

fn check_bridge(field: &str, id: &str, bridge: &Bridge, links: &BTreeMap<&str, &Link>, problems: &mut Problems) {
    check_name(field, id, problems);
    let at = format!("{field}.interfaces");
    problems.at_most(&at, bridge.ports.len(), 128);
    for (i, port) in bridge.ports.iter().enumerate() {
        let at = format!("{at}[{i}]");
        match links.get(port.as_str()).map(|link| &link.kind) {
            Some(LinkKind::Bridge(_)) => {
                problems.add(at, format!("{port:?} is a bridge, and a bridge is no port of one"))
            }
            Some(_) => {}
            None => problems.add(at, format!("there is no link {port:?} in this document")),
        }
    }
    for (option, value) in &bridge.options {
        let range = option.range();
        // What the kernel refuses while spanning tree is on (net/bridge/br_stp.c, br_set_forward_delay).
        let least = match option {
            BridgeOption::ForwardDelay if bridge.option(BridgeOption::Stp) == 1 => 200,
            _ => *range.start(),
        };
        if !(least..=*range.end()).contains(value) {
            let at = format!("{field}.parameters.{}", option.name());
            let problem = match option {
                BridgeOption::Stp | BridgeOption::Priority => {
                    format!("{value} is not between {least} and {}", range.end())
                }
                BridgeOption::ForwardDelay => {
                    format!("it is between {} and {} s; less than 2 s needs stp: false", least / 100, range.end() / 100)
                }
                _ => format!("it is between {} and {} s", least / 100, range.end() / 100),
            };
            problems.add(at, problem);
        }
    }
    for (port, cost) in &bridge.costs {
        let at = |key: &str| format!("{field}.parameters.{key}.{port}");
        if !bridge.ports.contains(port) {
            let key = if cost.path_cost.is_some() { "path-cost" } else { "port-priority" };
            problems.add(at(key), format!("{port:?} is none of the bridge's interfaces"));
        }
        if cost.path_cost.is_some_and(|cost| !(1..=65_535).contains(&cost)) {
            problems.add(at("path-cost"), "it is between 1 and 65535");
        }
        if cost.priority.is_some_and(|priority| priority > 63) {
            problems.add(at("port-priority"), "it is between 0 and 63");
        }
    }
}

/// A port belongs to one link, and what it carries is that link's: it has no addresses of its own. From a bridge the kernel
/// keeps what a VLAN on the port takes (net/core/dev.c, __netif_receive_skb_core: VLANs come before bridges); a bond's ports
/// go down one by one, and a VLAN on one of them with it.
fn check_ports(network: &Network, problems: &mut Problems) {
    let mut owners: BTreeMap<&str, &Link> = BTreeMap::new();
    for link in network.links.iter().filter(|link| matches!(link.kind, LinkKind::Bond(_) | LinkKind::Bridge(_))) {
        for (i, port) in link.below().iter().enumerate() {
            if let Some(other) = owners.insert(port, link) {
                let field = format!("network.{}.{}.interfaces[{i}]", link.section(), link.id);
                problems.add(field, format!("{port} is a port of {} already", other.id));
            }
        }
    }
    for link in &network.links {
        let Some(owner) = owners.get(link.id.as_str()) else { continue };
        let Settings { addresses, routes, rules, neighbors, nameservers, search, dhcp4, dhcp6, .. } = &link.settings;
        let is_silent = addresses.is_empty() && routes.is_empty() && rules.is_empty() && neighbors.is_empty();
        let is_used = !is_silent || !nameservers.is_empty() || !search.is_empty() || dhcp4.is_on() || dhcp6.is_on();
        let field = format!("network.{}.{}", link.section(), link.id);
        let of = &owner.id;
        if is_used {
            problems.add(&field, format!("it is a port of {of}; addresses, routes and DHCP belong to {of}"));
        }
        if matches!(owner.kind, LinkKind::Bridge(_)) {
            continue;
        }
        for above in &network.links {
            if matches!(&above.kind, LinkKind::Vlan { parent, .. } if *parent == link.id) {
                let field = format!("network.vlans.{}.link", above.id);
                problems.add(field, format!("{} is a port of {of}; put the VLAN on {of}", link.id));
            }
        }
    }
}

/// No link is made of itself.
fn check_stack(network: &Network, links: &BTreeMap<&str, &Link>, problems: &mut Problems) {
    for link in &network.links {
        let mut seen = BTreeSet::new();
        let mut below = link.below().iter();
        let Some(i) = below.position(|id| is_made_of(id, &link.id, links, &mut seen)) else { continue };
        let key = match link.kind {
            LinkKind::Vlan { .. } => "link".to_owned(),
            LinkKind::Ethernet(_) | LinkKind::Bond(_) | LinkKind::Bridge(_) => format!("interfaces[{i}]"),
        };
        let field = format!("network.{}.{}.{key}", link.section(), link.id);
        problems.add(field, format!("{} is made of itself", link.id));
    }
}

/// A link of which no MTU is said has that of those that it is made of, and that is to be enough for its IPv6.
fn check_mtus(network: &Network, links: &BTreeMap<&str, &Link>, problems: &mut Problems) {
    let mut told = BTreeSet::new();
    let is_above = |link: &&Link| link.settings.mtu.is_none() && settings::has_ipv6(&link.settings);
    for link in network.links.iter().filter(is_above) {
        let mut seen = BTreeSet::new();
        let mut below: Vec<&str> = link.below().iter().map(String::as_str).collect();
        while let Some(id) = below.pop() {
            let Some(other) = links.get(id).filter(|_| seen.insert(id)) else { continue };
            let Some(mtu) = other.settings.mtu else {
                below.extend(other.below().iter().map(String::as_str));
                continue;
            };
            // Of one that has IPv6 itself it is told already.
            if mtu < settings::IPV6_MTU && !settings::has_ipv6(&other.settings) && told.insert(id) {
                let problem = format!(
                    "{mtu} is under {least}, which IPv6 on {} needs; write {least} or more",
                    link.id,
                    least = settings::IPV6_MTU
                );
                problems.add(format!("network.{}.{id}.mtu", other.section()), problem);
            }
        }
    }
}

/// Whether `id` is `other`, or made of it by links that are not `seen`: those are known not to be.
fn is_made_of<'a>(id: &'a str, other: &str, links: &BTreeMap<&str, &'a Link>, seen: &mut BTreeSet<&'a str>) -> bool {
    let mut below = vec![id];
    while let Some(id) = below.pop() {
        if id == other {
            return true;
        }
        if seen.insert(id)
            && let Some(link) = links.get(id)
        {
            below.extend(link.below().iter().map(String::as_str));
        }
    }
    false
}
