//! netplan's `network:` into [`Network`].
//!
//! Called by [`super::parse`]. Keys and defaults are those of netplan's YAML reference, version 2, but for three keys of
//! Muster's own: `hostname`, `ntp` and a link's `neighbors`.
//! References between links, ranges and duplicates are checked afterwards by [`muster_protocol::desired::check`].

mod ethernet;
mod lease;
mod route;
mod settings;
mod stack;

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use muster_protocol::desired::{Link, LinkKind, Network};

use super::reader::{Fields, Findings, Keys};
use super::yaml::{Node, Place, Value};

const NETWORK: Keys = Keys {
    supported: &["version", "renderer", "ethernets", "bonds", "bridges", "vlans", "hostname", "ntp"],
    known: &["dummy-devices", "modems", "tunnels", "virtual-ethernets", "vrfs", "wifis", "nm-devices", "openvswitch"],
};
const NTP: Keys = Keys { supported: &["servers"], known: &[] };

const RENDERERS: [&str; 2] = ["networkd", "NetworkManager"];

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
    for section in ["ethernets", "bonds", "bridges", "vlans"] {
        let Some(node) = network.get(section) else { continue };
        for (id, place, node) in findings.named(node, &network.path(section)) {
            // netplan lets `renderer` stand among the links, for all of them.
            if id == "renderer" && matches!(node.value, Value::Text(_)) {
                continue;
            }
            links.extend(link(section, id, node, findings).map(|link| (place, link)));
        }
    }
    links.sort_by_key(|(place, _)| *place);
    Some(Network {
        links: links.into_iter().map(|(_, link)| link).collect(),
        hostname: findings.text(&network, "hostname").map(str::to_owned),
        ntp: ntp(&network, findings),
    })
}

fn link(section: &str, id: &str, node: &Node, findings: &mut Findings) -> Option<Link> {
    let at = format!("network.{section}.{id}");
    let keys = match section {
        "ethernets" => &ethernet::KEYS,
        "bonds" => &stack::BOND,
        "bridges" => &stack::BRIDGE,
        _ => &stack::VLAN,
    };
    let fields = findings.fields(node, &at, keys)?;
    let settings = settings::read(&fields, findings);
    let kind = match section {
        "ethernets" => LinkKind::Ethernet(ethernet::read(&fields, findings)?),
        "bonds" => LinkKind::Bond(stack::bond(&fields, findings)),
        "bridges" => LinkKind::Bridge(stack::bridge(&fields, findings)),
        _ => stack::vlan(&fields, findings)?,
    };
    Some(Link { id: id.to_owned(), kind, settings })
}

fn ntp(network: &Fields<'_>, findings: &mut Findings) -> Vec<String> {
    let Some(node) = network.get("ntp") else { return Vec::new() };
    let Some(fields) = findings.fields(node, &network.path("ntp"), &NTP) else { return Vec::new() };
    texts(&fields, "servers", "a server's name or address", findings)
}

/// An address with its prefix length. Numbers with leading zeros are octal to some programs, and so to none here.
struct Prefix(IpNet);

impl FromStr for Prefix {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, _) = text.split_once('/').ok_or(())?;
        address.parse::<IpAddr>().map_err(|_| ())?;
        text.parse().map(Self).map_err(|_| ())
    }
}

/// A list of texts.
fn texts(fields: &Fields<'_>, key: &str, expected: &str, findings: &mut Findings) -> Vec<String> {
    let items = findings.items(fields, key);
    items.iter().filter_map(|(path, node)| findings.item_text(node, path, expected).map(str::to_owned)).collect()
}

/// A list of what texts mean.
fn list<T: FromStr>(fields: &Fields<'_>, key: &str, expected: &str, findings: &mut Findings) -> Vec<T> {
    findings.items(fields, key).iter().filter_map(|(path, node)| findings.item_parsed(node, path, expected)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_guide_names_every_key() {
        let guide = include_str!("../../../../docs/operating.md");
        let (_, chapter) = guide.split_once("## Documents").expect("the guide has a chapter on documents");
        let all = [&NETWORK, &NTP, &ethernet::KEYS, &ethernet::MATCH, &stack::BOND, &stack::BRIDGE, &stack::VLAN];
        let more = [&stack::BOND_PARAMETERS, &stack::BRIDGE_PARAMETERS, &settings::NAMESERVERS, &settings::NEIGHBOR];
        let rest = [&lease::OVERRIDES, &route::ROUTE, &route::RULE];
        for key in all.iter().chain(&more).chain(&rest).flat_map(|keys| keys.supported) {
            let is_named = [format!("`{key}`"), format!("`{key}: ")].iter().any(|name| chapter.contains(name));
            assert!(is_named, "{key} is not in docs/operating.md");
        }
    }
}
