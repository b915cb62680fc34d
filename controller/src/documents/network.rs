//! netplan's `network:` into [`Network`].
//!
//! Called by [`super::parse`]. Keys and defaults are those of netplan's YAML reference, version 2.
//! References between links, ranges and duplicates are checked afterwards by [`muster_protocol::desired::check`].

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::Mac;
use muster_protocol::VlanTag;
use muster_protocol::desired::{AcceptRa, Dhcp4, Link, Network, Reach, Route, Select, Settings};

use super::reader::{Fields, Findings, Keys};
use super::yaml::{Node, Place, Value};

const NETWORK: Keys = Keys {
    supported: &["version", "renderer", "ethernets", "vlans"],
    known: &[
        "bonds",
        "bridges",
        "dummy-devices",
        "modems",
        "tunnels",
        "virtual-ethernets",
        "vrfs",
        "wifis",
        "nm-devices",
        "openvswitch",
    ],
};

const RENDERERS: [&str; 2] = ["networkd", "NetworkManager"];

/// What every kind of link may have.
macro_rules! link_keys {
    ([$($own:literal),*], [$($own_known:literal),*]) => {
        Keys {
            supported: &[
                $($own,)* "addresses", "routes", "gateway4", "gateway6", "nameservers", "mtu", "dhcp4", "dhcp6",
                "accept-ra", "optional", "renderer", "link-local",
            ],
            known: &[
                $($own_known,)* "activation-mode", "critical", "dhcp-identifier", "dhcp4-overrides", "dhcp6-overrides",
                "ignore-carrier", "ipv6-address-generation", "ipv6-address-token", "ipv6-mtu", "ipv6-privacy",
                "macaddress", "neigh-suppress", "networkmanager", "openvswitch", "optional-addresses",
                "routing-policy",
            ],
        }
    };
}

const ETHERNET: Keys = link_keys!(
    ["match", "wakeonlan"],
    [
        "set-name",
        "auth",
        "link",
        "emit-lldp",
        "virtual-function-count",
        "embedded-switch-mode",
        "delay-virtual-functions-rebind",
        "infiniband-mode",
        "receive-checksum-offload",
        "transmit-checksum-offload",
        "tcp-segmentation-offload",
        "tcp6-segmentation-offload",
        "generic-segmentation-offload",
        "generic-receive-offload",
        "large-receive-offload"
    ]
);
const VLAN: Keys = link_keys!(["id", "link"], []);
const MATCH: Keys = Keys { supported: &["macaddress", "name"], known: &["driver"] };
const NAMESERVERS: Keys = Keys { supported: &["addresses", "search"], known: &[] };
const ROUTE: Keys = Keys {
    supported: &["to", "via", "metric", "on-link", "scope", "table", "type"],
    known: &["from", "mtu", "congestion-window", "advertised-receive-window", "advertised-mss"],
};

/// Reads the value of `network:`. `None` where it is no mapping.
pub(super) fn read(node: &Node, findings: &mut Findings) -> Option<Network> {
    let network = findings.fields(node, "network", &NETWORK)?;
    if let Some(version) = findings.text(&network, "version")
        && version != "2"
    {
        let place = network.get("version").map_or(network.place, |node| node.place);
        findings.add(place, "network.version", format!("version {version} is not supported; write version: 2"));
    }
    findings.only(&network, "renderer", &RENDERERS);
    let mut links: Vec<(Place, Link)> = Vec::new();
    for kind in ["ethernets", "vlans"] {
        let Some(node) = network.get(kind) else { continue };
        for (id, place, node) in findings.named(node, &network.path(kind)) {
            // netplan lets `renderer` stand among the links, for all of them.
            if id == "renderer" && matches!(node.value, Value::Text(_)) {
                continue;
            }
            let at = format!("network.{kind}.{id}");
            let link = match kind {
                "vlans" => vlan(id, node, &at, findings),
                _ => ethernet(id, node, &at, findings),
            };
            links.extend(link.map(|link| (place, link)));
        }
    }
    links.sort_by_key(|(place, _)| *place);
    Some(Network { links: links.into_iter().map(|(_, link)| link).collect() })
}

fn ethernet(id: &str, node: &Node, at: &str, findings: &mut Findings) -> Option<Link> {
    let fields = findings.fields(node, at, &ETHERNET)?;
    findings.only(&fields, "wakeonlan", &["false"]);
    let settings = settings(&fields, findings);
    let select = match fields.get("match") {
        None => Select::Name(id.to_owned()),
        Some(node) => select(node, &fields.path("match"), findings)?,
    };
    Some(Link::Ethernet { id: id.to_owned(), select, settings })
}

fn select(node: &Node, at: &str, findings: &mut Findings) -> Option<Select> {
    let fields = findings.fields(node, at, &MATCH)?;
    match (fields.get("macaddress"), fields.get("name")) {
        (Some(_), None) => {
            findings.parsed::<Mac>(&fields, "macaddress", "a MAC address like 52:54:00:12:34:56").map(Select::Mac)
        }
        (None, Some(node)) => {
            let name = findings.text(&fields, "name")?;
            if name.contains(['*', '?', '[']) {
                let problem = "patterns are not supported yet; give the exact name, or match by macaddress";
                findings.add(node.place, fields.path("name"), problem);
                return None;
            }
            Some(Select::Name(name.to_owned()))
        }
        // Another key, which was refused already.
        (None, None) if !fields.is_empty() => None,
        _ => {
            findings.add(node.place, at, "give exactly one of macaddress and name");
            None
        }
    }
}

fn vlan(id: &str, node: &Node, at: &str, findings: &mut Findings) -> Option<Link> {
    let fields = findings.fields(node, at, &VLAN)?;
    let settings = settings(&fields, findings);
    let expected = "a VLAN id from 1 to 4094";
    findings.require(&fields, "id", expected);
    findings.require(&fields, "link", "the id of the ethernet it runs on");
    let number = findings.number::<u16>(&fields, "id", expected);
    let parent = findings.text(&fields, "link");
    let tag = VlanTag::try_from(number?).ok();
    if let (None, Some(node)) = (tag, fields.get("id")) {
        findings.wrong(node, &fields.path("id"), expected);
    }
    Some(Link::Vlan { id: id.to_owned(), tag: tag?, parent: parent?.to_owned(), settings })
}

fn settings(fields: &Fields<'_>, findings: &mut Findings) -> Settings {
    findings.only(fields, "renderer", &RENDERERS);
    findings.only(fields, "dhcp6", &["false", "no", "off"]);
    findings.only(fields, "link-local", &["ipv6"]);
    findings.boolean(fields, "optional");
    let mut routes = routes(fields, findings);
    routes.extend(gateway(fields, "gateway4", findings));
    routes.extend(gateway(fields, "gateway6", findings));
    let (nameservers, search) = nameservers(fields, findings);
    Settings {
        addresses: addresses(fields, findings),
        routes,
        nameservers,
        search,
        mtu: findings.number(fields, "mtu", "a number of bytes, such as 1500"),
        dhcp4: match findings.boolean(fields, "dhcp4") {
            Some(true) => Dhcp4::On,
            Some(false) | None => Dhcp4::Off,
        },
        accept_ra: match findings.boolean(fields, "accept-ra") {
            None => AcceptRa::Default,
            Some(true) => AcceptRa::On,
            Some(false) => AcceptRa::Off,
        },
    }
}

fn addresses(fields: &Fields<'_>, findings: &mut Findings) -> Vec<IpNet> {
    const EXPECTED: &str = "an address with its prefix length, such as 192.0.2.7/24";
    let path = fields.path("addresses");
    let mut addresses = Vec::new();
    for node in findings.items(fields, "addresses") {
        match &node.value {
            Value::Map(_) => {
                let problem = "label and lifetime of an address are not supported yet; write only the address";
                findings.add(node.place, &path, problem);
            }
            _ => addresses.extend(findings.item_parsed::<IpNet>(node, &path, EXPECTED)),
        }
    }
    addresses
}

fn nameservers(fields: &Fields<'_>, findings: &mut Findings) -> (Vec<IpAddr>, Vec<String>) {
    let Some(node) = fields.get("nameservers") else { return Default::default() };
    let Some(fields) = findings.fields(node, &fields.path("nameservers"), &NAMESERVERS) else {
        return Default::default();
    };
    let mut addresses = Vec::new();
    for node in findings.items(&fields, "addresses") {
        addresses.extend(findings.item_parsed::<IpAddr>(node, &fields.path("addresses"), "an IP address"));
    }
    let mut search = Vec::new();
    for node in findings.items(&fields, "search") {
        search.extend(findings.item_text(node, &fields.path("search"), "a domain name").map(str::to_owned));
    }
    (addresses, search)
}

fn routes(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Route> {
    let at = fields.path("routes");
    findings.items(fields, "routes").iter().filter_map(|node| route(node, &at, findings)).collect()
}

fn route(node: &Node, at: &str, findings: &mut Findings) -> Option<Route> {
    let fields = findings.fields(node, at, &ROUTE)?;
    findings.only(&fields, "scope", &["global"]);
    findings.only(&fields, "type", &["unicast"]);
    // 254 is the main table, netplan's default.
    findings.only(&fields, "table", &["254"]);
    findings.require(&fields, "to", "default or a network such as 198.51.100.0/24");
    findings.require(&fields, "via", "the gateway's address");
    let reach = match findings.boolean(&fields, "on-link") {
        Some(true) => Reach::OnLink,
        Some(false) | None => Reach::Prefix,
    };
    let metric = findings.number(&fields, "metric", "a number from 0 to 4294967295");
    let via = findings.parsed::<IpAddr>(&fields, "via", "the gateway's address, such as 192.0.2.1");
    let to_text = findings.text(&fields, "to")?;
    let to = match to_text {
        "default" => default_route(via?),
        // netplan reads an address alone as a route to that one address.
        text => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => findings.parsed(&fields, "to", "default or a network such as 198.51.100.0/24")?,
        },
    };
    Some(Route { to, via: via?, metric, reach })
}

fn gateway(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<Route> {
    let (expected, is_family): (_, fn(&IpAddr) -> bool) = match key {
        "gateway4" => ("an IPv4 address, such as 192.0.2.1", IpAddr::is_ipv4),
        _ => ("an IPv6 address, such as 2001:db8::1", IpAddr::is_ipv6),
    };
    let via = findings.parsed::<IpAddr>(fields, key, expected)?;
    if !is_family(&via) {
        findings.wrong(fields.get(key)?, &fields.path(key), expected);
        return None;
    }
    Some(Route { to: default_route(via), via, metric: None, reach: Reach::Prefix })
}

fn default_route(via: IpAddr) -> IpNet {
    match via {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}
