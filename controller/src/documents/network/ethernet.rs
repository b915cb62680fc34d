//! Which NICs an ethernet is, and what only a NIC has.

use muster_protocol::Mac;
use muster_protocol::desired::{Ethernet, Select, WakeOnLan};

use super::settings::link_keys;
use super::texts;
use crate::documents::reader::{Fields, Findings, Keys};
use crate::documents::yaml::{Node, Value};

pub(super) const KEYS: Keys = link_keys!(
    ["match", "set-name", "wakeonlan"],
    [
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
pub(super) const MATCH: Keys = Keys { supported: &["macaddress", "name", "driver"], known: &[] };

pub(super) fn read(fields: &Fields<'_>, findings: &mut Findings) -> Option<Ethernet> {
    let set_name = findings.text(fields, "set-name").map(str::to_owned);
    let wake_on_lan = match findings.boolean(fields, "wakeonlan") {
        None => WakeOnLan::Keep,
        Some(true) => WakeOnLan::On,
        Some(false) => WakeOnLan::Off,
    };
    let select = match fields.get("match") {
        None => Select::default(),
        Some(node) => select(node, &fields.path("match"), findings)?,
    };
    Some(Ethernet { select, set_name, wake_on_lan })
}

fn select(node: &Node, at: &str, findings: &mut Findings) -> Option<Select> {
    let fields = findings.fields(node, at, &MATCH)?;
    if fields.is_empty() {
        findings.add(node.place, at, "this would be every NIC; give at least one of macaddress, name and driver");
        return None;
    }
    const EXPECTED: &str = "a MAC address like 52:54:00:12:34:56";
    let name = findings.text(&fields, "name").map(str::to_owned);
    let mac = findings.parsed::<Mac>(&fields, "macaddress", EXPECTED);
    let drivers = match fields.get("driver").map(|node| &node.value) {
        Some(Value::Text(_)) => findings.text(&fields, "driver").map(str::to_owned).into_iter().collect(),
        _ => texts(&fields, "driver", "a driver's name, such as e1000e", findings),
    };
    let select = Select { name, mac, drivers };
    // Nothing given would be another thing: the NIC with the entry's id for a name.
    let is_nothing = select.is_by_id();
    if is_nothing && findings.is_clean() {
        findings.add(node.place, fields.path("driver"), "an empty list matches no NIC; name a driver, or leave it out");
    }
    (!is_nothing).then_some(select)
}
