//! Links and what is theirs in netplan's words, and in Muster's beside them.

use muster_protocol::desired::{
    AcceptRa, Bond, BondMode, Bridge, Dhcp, Ethernet, LeaseUse, Link, LinkKind, MAIN_TABLE, Neighbor, Network, Privacy,
    Reach, Route, Rule, Select, Settings, Take, WakeOnLan,
};
use serde_json::{Map, Value, json};

use super::{put, put_some};
use crate::documents::words;

/// The value of `network:`.
pub fn render_network(network: &Network) -> Value {
    let mut out = Map::from_iter([("version".to_owned(), json!(2))]);
    for section in ["ethernets", "bonds", "bridges", "vlans"] {
        let links = network.links.iter().filter(|link| link.section() == section);
        put_some(&mut out, section, links.map(|link| (link.id.clone(), render_link(link))).collect::<Map<_, _>>());
    }
    put_some(&mut out, "hostname", network.hostname.clone());
    if !network.ntp.is_empty() {
        put(&mut out, "ntp", json!({"servers": network.ntp}));
    }
    Value::Object(out)
}

fn render_link(link: &Link) -> Value {
    let mut out = settings(&link.settings);
    match &link.kind {
        LinkKind::Ethernet(card) => ethernet(card, &mut out),
        LinkKind::Bond(made) => {
            put(&mut out, "interfaces", made.ports.clone());
            put_some(&mut out, "parameters", bond(made));
        }
        LinkKind::Bridge(made) => {
            put(&mut out, "interfaces", made.ports.clone());
            put_some(&mut out, "parameters", bridge(made));
        }
        LinkKind::Vlan { tag, parent } => {
            put(&mut out, "id", tag.get());
            put(&mut out, "link", parent.as_str());
        }
    }
    Value::Object(out)
}

fn ethernet(ethernet: &Ethernet, out: &mut Map<String, Value>) {
    let Ethernet { select: Select { name, mac, drivers }, set_name, wake_on_lan } = ethernet;
    let mut select = Map::new();
    put_some(&mut select, "name", name.clone());
    put_some(&mut select, "macaddress", mac.map(|mac| mac.to_string()));
    match &drivers[..] {
        [driver] => put(&mut select, "driver", driver.as_str()),
        drivers => put_some(&mut select, "driver", drivers),
    }
    put_some(out, "match", select);
    put_some(out, "set-name", set_name.clone());
    match wake_on_lan {
        WakeOnLan::Keep => {}
        WakeOnLan::On => put(out, "wakeonlan", true),
        WakeOnLan::Off => put(out, "wakeonlan", false),
    }
}

fn bond(bond: &Bond) -> Map<String, Value> {
    let mut out = Map::new();
    if bond.mode != BondMode::default() {
        put(&mut out, "mode", bond.mode.name());
    }
    put_some(&mut out, "primary", bond.primary.clone());
    put_some(&mut out, "arp-ip-targets", texts(&bond.arp_ip_targets));
    for (option, value) in &bond.options {
        put(&mut out, option.name(), words::bond(*option).write(*value));
    }
    out
}

fn bridge(bridge: &Bridge) -> Map<String, Value> {
    let mut out = Map::new();
    for (option, value) in &bridge.options {
        put(&mut out, option.name(), words::bridge(*option).write(*value));
    }
    let costs = |number: fn(&muster_protocol::desired::PortCost) -> Option<u32>| {
        let said = bridge.costs.iter().filter_map(|(port, cost)| Some((port.clone(), json!(number(cost)?))));
        said.collect::<Map<_, _>>()
    };
    put_some(&mut out, "path-cost", costs(|cost| cost.path_cost));
    put_some(&mut out, "port-priority", costs(|cost| cost.priority));
    out
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

fn settings(settings: &Settings) -> Map<String, Value> {
    let mut out = Map::new();
    put_some(&mut out, "addresses", texts(&settings.addresses));
    put_some(&mut out, "routes", settings.routes.iter().map(route).collect::<Vec<_>>());
    put_some(&mut out, "routing-policy", settings.rules.iter().map(rule).collect::<Vec<_>>());
    put_some(&mut out, "neighbors", settings.neighbors.iter().map(neighbor).collect::<Vec<_>>());
    let mut nameservers = Map::new();
    put_some(&mut nameservers, "addresses", texts(&settings.nameservers));
    put_some(&mut nameservers, "search", settings.search.clone());
    put_some(&mut out, "nameservers", nameservers);
    put_some(&mut out, "mtu", settings.mtu);
    dhcp("dhcp4", &settings.dhcp4, &mut out);
    dhcp("dhcp6", &settings.dhcp6, &mut out);
    match settings.accept_ra {
        AcceptRa::Default => {}
        AcceptRa::On => put(&mut out, "accept-ra", true),
        AcceptRa::Off => put(&mut out, "accept-ra", false),
    }
    match settings.privacy {
        Privacy::Off => {}
        Privacy::On => put(&mut out, "ipv6-privacy", true),
    }
    out
}

fn dhcp(key: &str, dhcp: &Dhcp, out: &mut Map<String, Value>) {
    let Dhcp::On(uses) = dhcp else { return };
    let LeaseUse { dns, ntp, routes, route_metric } = uses;
    put(out, key, true);
    let mut overrides = Map::new();
    for (key, take) in [("use-dns", dns), ("use-ntp", ntp), ("use-routes", routes)] {
        match take {
            Take::Yes => {}
            Take::No => put(&mut overrides, key, false),
        }
    }
    put_some(&mut overrides, "route-metric", *route_metric);
    put_some(out, &format!("{key}-overrides"), overrides);
}

fn route(route: &Route) -> Value {
    let mut out = Map::new();
    match route.via {
        Some(via) => {
            let is_default = route.to.prefix_len() == 0 && route.to.addr().is_ipv4() == via.is_ipv4();
            put(&mut out, "to", if is_default { "default".to_owned() } else { route.to.to_string() });
            put(&mut out, "via", via.to_string());
        }
        None => {
            put(&mut out, "to", route.to.to_string());
            put(&mut out, "scope", "link");
        }
    }
    put_some(&mut out, "metric", route.metric);
    table(route.table, &mut out);
    match route.reach {
        Reach::Prefix => {}
        Reach::OnLink => put(&mut out, "on-link", true),
    }
    Value::Object(out)
}

fn table(table: u32, out: &mut Map<String, Value>) {
    if table != MAIN_TABLE {
        put(out, "table", table);
    }
}

fn rule(rule: &Rule) -> Value {
    let mut out = Map::new();
    put_some(&mut out, "from", rule.from.map(|net| net.to_string()));
    put_some(&mut out, "to", rule.to.map(|net| net.to_string()));
    table(rule.table, &mut out);
    put_some(&mut out, "priority", rule.priority);
    put_some(&mut out, "mark", rule.mark);
    put_some(&mut out, "type-of-service", rule.tos);
    Value::Object(out)
}

fn neighbor(neighbor: &Neighbor) -> Value {
    json!({"address": neighbor.address.to_string(), "macaddress": neighbor.mac.to_string()})
}
