//! Routes and routing policy rules.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use muster_protocol::desired::{MAIN_TABLE, Reach, Route, Rule};

use super::Prefix;
use crate::documents::reader::{Fields, Findings, Keys};
use crate::documents::yaml::{Node, Value};

pub(super) const ROUTE: Keys = Keys {
    supported: &["to", "via", "metric", "on-link", "scope", "table", "type"],
    known: &["from", "mtu", "congestion-window", "advertised-receive-window", "advertised-mss"],
};
pub(super) const RULE: Keys =
    Keys { supported: &["from", "to", "table", "priority", "mark", "type-of-service"], known: &[] };

const NUMBER: &str = "a number from 0 to 4294967295";
const TABLE: &str = "a table's number, such as 254, the main one";
const TO: &str = "default or a network such as 198.51.100.0/24";
const GATEWAY: &str = "the gateway's address, such as 192.0.2.1";

/// `routes`, and netplan's older words for a default route.
pub(super) fn routes(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Route> {
    let listed = findings.items(fields, "routes");
    let mut routes: Vec<_> = listed.iter().filter_map(|(at, node)| route(node, at, findings)).collect();
    let older = ["gateway4", "gateway6"].into_iter().filter(|key| fields.get(key).is_some());
    for (i, key) in older.enumerate() {
        findings.note_as(format!("{}[{}]", fields.path("routes"), listed.len() + i), fields.path(key));
        routes.extend(gateway(fields, key, findings));
    }
    routes
}

fn route(node: &Node, at: &str, findings: &mut Findings) -> Option<Route> {
    let fields = findings.fields(node, at, &ROUTE)?;
    findings.only(&fields, "type", &["unicast"]);
    findings.only(&fields, "scope", &["global", "link"]);
    findings.require(&fields, "to", TO);
    let on_link = findings.boolean(&fields, "on-link").unwrap_or(false);
    let metric = findings.number(&fields, "metric", NUMBER);
    let table = findings.number(&fields, "table", TABLE).unwrap_or(MAIN_TABLE);
    let via = match fields.get("via") {
        Some(_) => Some(findings.parsed::<IpAddr>(&fields, "via", GATEWAY)?),
        None => None,
    };
    scope(&fields, via, findings);
    let to = match findings.text(&fields, "to")? {
        "default" => match via {
            Some(via) => default_route(via),
            None => {
                let problem = "without via, it does not say which default; write 0.0.0.0/0 or ::/0, or give via";
                findings.add(fields.get("to")?.place, fields.path("to"), problem);
                return None;
            }
        },
        _ => network(&fields, "to", TO, findings)?,
    };
    // What is on the link itself has no gateway to be reached.
    let reach = if on_link && via.is_some() { Reach::OnLink } else { Reach::Prefix };
    Some(Route { to, via, metric, table, reach })
}

/// netplan's default scope is `link` without a gateway and `global` with one; the kernel takes nothing else.
fn scope(fields: &Fields<'_>, via: Option<IpAddr>, findings: &mut Findings) {
    let Some(node) = fields.get("scope") else { return };
    let problem = match (findings.text(fields, "scope"), via) {
        (Some("link"), Some(_)) => "a route of scope link has no gateway; leave via out, or scope",
        (Some("global"), None) => "a route of scope global has a gateway; give via, or write scope: link",
        _ => return,
    };
    findings.add(node.place, fields.path("scope"), problem);
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
    Some(Route { to: default_route(via), via: Some(via), metric: None, table: MAIN_TABLE, reach: Reach::Prefix })
}

fn default_route(via: IpAddr) -> IpNet {
    match via {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}

/// netplan reads an address alone as that one address, and networkd any address of a network as the network.
fn network(fields: &Fields<'_>, key: &str, expected: &str, findings: &mut Findings) -> Option<IpNet> {
    let alone = fields.get(key).and_then(|node| match &node.value {
        Value::Text(text) => text.parse::<IpAddr>().ok(),
        Value::List(_) | Value::Nothing | Value::Map(_) => None,
    });
    match alone {
        Some(address) => Some(address.into()),
        None => findings.parsed::<Prefix>(fields, key, expected).map(|Prefix(net)| net.trunc()),
    }
}

/// `routing-policy`.
pub(super) fn rules(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Rule> {
    findings.items(fields, "routing-policy").iter().filter_map(|(at, node)| rule(node, at, findings)).collect()
}

fn rule(node: &Node, at: &str, findings: &mut Findings) -> Option<Rule> {
    let fields = findings.fields(node, at, &RULE)?;
    let mut net = |key| network(&fields, key, "a network such as 198.51.100.0/24", findings);
    let (from, to) = (net("from"), net("to"));
    if let (None, None) = (fields.get("from"), fields.get("to")) {
        findings.add(node.place, at, "give from or to, or both; 0.0.0.0/0 and ::/0 are any");
    }
    Some(Rule {
        from,
        to,
        table: findings.number(&fields, "table", TABLE).unwrap_or(MAIN_TABLE),
        priority: findings.number(&fields, "priority", NUMBER),
        mark: findings.number(&fields, "mark", NUMBER),
        tos: findings.number(&fields, "type-of-service", "a number from 1 to 255"),
    })
}
