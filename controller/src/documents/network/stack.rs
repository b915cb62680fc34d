//! Links that are made of others: bonds, bridges, VLANs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use muster_protocol::VlanTag;
use muster_protocol::desired::{Bond, BondMode, BondOption, Bridge, BridgeOption, LinkKind, PortCost};

use super::settings::link_keys;
use super::{list, texts};
use crate::documents::reader::{Fields, Findings, Keys};
use crate::documents::words::{self, Form};

pub(super) const BOND: Keys = link_keys!(["interfaces", "parameters"], []);
pub(super) const BRIDGE: Keys = link_keys!(["interfaces", "parameters"], []);
pub(super) const VLAN: Keys = link_keys!(["id", "link"], []);

pub(super) const BOND_PARAMETERS: Keys = Keys {
    supported: &[
        "mode",
        "primary",
        "arp-ip-targets",
        "mii-monitor-interval",
        "up-delay",
        "down-delay",
        "lacp-rate",
        "ad-select",
        "min-links",
        "transmit-hash-policy",
        "all-members-active",
        "all-slaves-active",
        "arp-interval",
        "arp-validate",
        "arp-all-targets",
        "fail-over-mac-policy",
        "gratuitous-arp",
        "gratuitious-arp",
        "primary-reselect-policy",
        "resend-igmp",
        "learn-packet-interval",
        "packets-per-member",
        "packets-per-slave",
    ],
    known: &[],
};
pub(super) const BRIDGE_PARAMETERS: Keys = Keys {
    supported: &[
        "stp",
        "forward-delay",
        "hello-time",
        "max-age",
        "ageing-time",
        "aging-time",
        "priority",
        "path-cost",
        "port-priority",
    ],
    known: &[],
};

/// netplan's other spellings of its own keys.
const SPELLINGS: [(&str, &str); 4] = [
    ("all-members-active", "all-slaves-active"),
    ("packets-per-member", "packets-per-slave"),
    ("gratuitous-arp", "gratuitious-arp"),
    ("ageing-time", "aging-time"),
];

pub(super) fn bond(fields: &Fields<'_>, findings: &mut Findings) -> Bond {
    let mut bond = Bond { ports: ports(fields, findings), ..Bond::default() };
    let Some(parameters) = parameters(fields, &BOND_PARAMETERS, findings) else { return bond };
    if let Some(mode) = parameters.get("mode") {
        let name = findings.text(&parameters, "mode");
        let found = BondMode::ALL.into_iter().find(|mode| name == Some(mode.name()));
        if let (None, Some(_)) = (found, name) {
            let words = BondMode::ALL.map(BondMode::name).join(", ");
            findings.wrong(mode, &parameters.path("mode"), &format!("one of {words}"));
        }
        bond.mode = found.unwrap_or_default();
    }
    bond.primary = findings.text(&parameters, "primary").map(str::to_owned);
    bond.arp_ip_targets = list::<Ipv4Addr>(&parameters, "arp-ip-targets", "an IPv4 address", findings);
    for option in BondOption::ALL {
        let value = number(&parameters, option.name(), words::bond(option), findings);
        bond.options.extend(value.map(|value| (option, value)));
    }
    // networkd gives the kernel what belongs to the bond's mode, and leaves the rest. Watching by ARP it gives in any mode,
    // and has no bond where the mode cannot.
    let asks = |option: BondOption, value: u32| {
        matches!(option, BondOption::ArpInterval | BondOption::ArpValidate) && value > 0
    };
    bond.options.retain(|option, value| option.is_of(bond.mode) || asks(*option, *value));
    // The kernel counts a delay in whole intervals (drivers/net/bonding/bond_options.c, bond_option_updelay_set).
    let interval = bond.option(BondOption::MiiMonitorInterval);
    for delay in [BondOption::UpDelay, BondOption::DownDelay] {
        if let (Some(ms), 1..) = (bond.options.get_mut(&delay), interval) {
            *ms -= *ms % interval;
        }
    }
    bond
}

pub(super) fn bridge(fields: &Fields<'_>, findings: &mut Findings) -> Bridge {
    let mut bridge = Bridge { ports: ports(fields, findings), ..Bridge::default() };
    let Some(parameters) = parameters(fields, &BRIDGE_PARAMETERS, findings) else { return bridge };
    for option in BridgeOption::ALL {
        let value = number(&parameters, option.name(), words::bridge(option), findings);
        bridge.options.extend(value.map(|value| (option, value)));
    }
    let mut costs: BTreeMap<String, PortCost> = BTreeMap::new();
    for (port, cost) in by_port(&parameters, "path-cost", findings) {
        costs.entry(port).or_default().path_cost = Some(cost);
    }
    for (port, priority) in by_port(&parameters, "port-priority", findings) {
        costs.entry(port).or_default().priority = Some(priority);
    }
    bridge.costs = costs;
    bridge
}

pub(super) fn vlan(fields: &Fields<'_>, findings: &mut Findings) -> Option<LinkKind> {
    let expected = "a VLAN id from 1 to 4094";
    findings.require(fields, "id", expected);
    findings.require(fields, "link", "the id of the link it runs on");
    let number = findings.number::<u16>(fields, "id", expected);
    let parent = findings.text(fields, "link");
    let tag = VlanTag::try_from(number?).ok();
    if let (None, Some(node)) = (tag, fields.get("id")) {
        findings.wrong(node, &fields.path("id"), expected);
    }
    Some(LinkKind::Vlan { tag: tag?, parent: parent?.to_owned() })
}

fn ports(fields: &Fields<'_>, findings: &mut Findings) -> Vec<String> {
    texts(fields, "interfaces", "the id of a link in this document", findings)
}

fn parameters<'n>(fields: &Fields<'n>, keys: &Keys, findings: &mut Findings) -> Option<Fields<'n>> {
    findings.fields(fields.get("parameters")?, &fields.path("parameters"), keys)
}

/// A parameter in either of its spellings.
fn number(parameters: &Fields<'_>, key: &str, form: Form, findings: &mut Findings) -> Option<u32> {
    let value = findings.formed(parameters, key, form);
    let Some((_, other)) = SPELLINGS.iter().find(|(name, _)| *name == key) else { return value };
    let Some(node) = parameters.get(other) else { return value };
    if parameters.get(key).is_some() {
        let problem = format!("{key} is the same parameter, and given too; leave one of them out");
        findings.add(node.place, parameters.path(other), problem);
    }
    findings.note_as(parameters.path(key), parameters.path(other));
    findings.formed(parameters, other, form)
}

fn by_port(parameters: &Fields<'_>, key: &str, findings: &mut Findings) -> Vec<(String, u32)> {
    let Some(node) = parameters.get(key) else { return Vec::new() };
    let path = parameters.path(key);
    let ports = findings.named(node, &path);
    let read = |(port, _, node): (&str, _, _)| {
        let number = findings.item_formed(node, &format!("{path}.{port}"), Form::Count)?;
        Some((port.to_owned(), number))
    };
    ports.into_iter().filter_map(read).collect()
}
