//! What every kind of link may have.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::Mac;
use muster_protocol::desired::{AcceptRa, Neighbor, Privacy, Settings};

use super::{Prefix, RENDERERS, lease, list, route, texts};
use crate::documents::reader::{Fields, Findings, Keys};
use crate::documents::yaml::{Node, Value};

/// The keys of a kind of link: its own, and what every kind may have.
macro_rules! link_keys {
    ([$($own:literal),*], [$($own_known:literal),*]) => {
        crate::documents::reader::Keys {
            supported: &[
                $($own,)* "addresses", "routes", "routing-policy", "neighbors", "gateway4", "gateway6", "nameservers",
                "mtu", "dhcp4", "dhcp6", "dhcp4-overrides", "dhcp6-overrides", "dhcp-identifier", "accept-ra",
                "ipv6-privacy", "optional", "renderer", "link-local",
            ],
            known: &[
                $($own_known,)* "activation-mode", "critical", "hairpin", "ignore-carrier", "ipv6-address-generation",
                "ipv6-address-token", "ipv6-mtu", "macaddress", "neigh-suppress", "networkmanager", "openvswitch",
                "optional-addresses", "port-mac-learning", "ra-overrides",
            ],
        }
    };
}
pub(super) use link_keys;

pub(super) const NAMESERVERS: Keys = Keys { supported: &["addresses", "search"], known: &[] };
pub(super) const NEIGHBOR: Keys = Keys { supported: &["address", "macaddress"], known: &[] };

pub(super) fn read(fields: &Fields<'_>, findings: &mut Findings) -> Settings {
    findings.only(fields, "renderer", &RENDERERS);
    findings.only(fields, "link-local", &["ipv6"]);
    // The agent's client says who it is by its MAC.
    findings.only(fields, "dhcp-identifier", &["mac"]);
    findings.boolean(fields, "optional");
    let (nameservers, search) = nameservers(fields, findings);
    let (dhcp4, dhcp6) = lease::read(fields, findings);
    Settings {
        addresses: addresses(fields, findings),
        routes: route::routes(fields, findings),
        rules: route::rules(fields, findings),
        neighbors: neighbors(fields, findings),
        nameservers,
        search,
        mtu: findings.number(fields, "mtu", "a number of bytes, such as 1500"),
        dhcp4,
        dhcp6,
        accept_ra: match findings.boolean(fields, "accept-ra") {
            None => AcceptRa::Default,
            Some(true) => AcceptRa::On,
            Some(false) => AcceptRa::Off,
        },
        privacy: match findings.boolean(fields, "ipv6-privacy") {
            None | Some(false) => Privacy::Off,
            Some(true) => Privacy::On,
        },
    }
}

fn addresses(fields: &Fields<'_>, findings: &mut Findings) -> Vec<IpNet> {
    const EXPECTED: &str = "an address with its prefix length, such as 192.0.2.7/24";
    let mut addresses = Vec::new();
    for (path, node) in findings.items(fields, "addresses") {
        match &node.value {
            Value::Map(_) => {
                let problem = "label and lifetime of an address are not supported yet; write only the address";
                findings.add(node.place, path, problem);
            }
            _ => addresses.extend(findings.item_parsed::<Prefix>(node, &path, EXPECTED).map(|Prefix(net)| net)),
        }
    }
    addresses
}

fn nameservers(fields: &Fields<'_>, findings: &mut Findings) -> (Vec<IpAddr>, Vec<String>) {
    let Some(node) = fields.get("nameservers") else { return Default::default() };
    let Some(fields) = findings.fields(node, &fields.path("nameservers"), &NAMESERVERS) else {
        return Default::default();
    };
    let addresses = list::<IpAddr>(&fields, "addresses", "an IP address", findings);
    (addresses, texts(&fields, "search", "a domain name", findings))
}

fn neighbors(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Neighbor> {
    findings.items(fields, "neighbors").iter().filter_map(|(at, node)| neighbor(node, at, findings)).collect()
}

fn neighbor(node: &Node, at: &str, findings: &mut Findings) -> Option<Neighbor> {
    const ADDRESS: &str = "the neighbor's address, such as 192.0.2.9";
    const MAC: &str = "the neighbor's MAC address, such as 52:54:00:12:34:56";
    let fields = findings.fields(node, at, &NEIGHBOR)?;
    findings.require(&fields, "address", ADDRESS);
    findings.require(&fields, "macaddress", MAC);
    let address = findings.parsed::<IpAddr>(&fields, "address", ADDRESS);
    let mac = findings.parsed::<Mac>(&fields, "macaddress", MAC);
    Some(Neighbor { address: address?, mac: mac? })
}
