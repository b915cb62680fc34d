//! What a template may say of a machine: itself, its labels, its location, its NICs, its lease and its addresses.
//!
//! What a machine does not have is not there, so that a template that needs it is refused instead of filled with nothing.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::MachineId;
use muster_protocol::inventory::{Carrier, Nic};
use serde_json::{Map, Value, json};

use super::select::ROLE;
use crate::fleet::State;
use crate::fleet::lease::primary::{self, reaches};
use crate::fleet::record::{AddressHolder, Lifecycle, Machine, MachineInventory, Subnet};

/// Looks up values for machines of one state, however many they are.
pub struct Values<'s> {
    state: &'s State,
    addresses: HashMap<MachineId, Vec<(IpAddr, &'s Subnet)>>,
}

impl<'s> Values<'s> {
    /// Of this state.
    pub fn new(state: &'s State) -> Self {
        let mut addresses: HashMap<_, Vec<_>> = HashMap::new();
        for record in state.addresses.iter() {
            if let AddressHolder::Machine { machine, .. } | AddressHolder::Assigned { machine } = &record.holder
                && let Some(subnet) = state.subnets.get(&record.subnet)
            {
                addresses.entry(*machine).or_default().push((record.block.addr(), subnet));
            }
        }
        Self { state, addresses }
    }

    /// Of one machine.
    pub fn of(&self, machine: &Machine) -> Value {
        let identity = &machine.identity;
        let record = self.state.inventories.get(&machine.id);
        let nics = record.map(|record| record.inventory.nics.as_slice()).unwrap_or_default();
        let addresses = self.addresses.get(&machine.id).map(Vec::as_slice).unwrap_or_default();
        known([
            (
                "machine",
                Some(known([
                    ("id", Some(json!(machine.id.to_string()))),
                    ("name", Some(json!(machine.name))),
                    ("role", machine.labels.get(ROLE).map(|role| json!(role))),
                    ("serial", text(&identity.system_serial)),
                    ("uuid", identity.uuid.map(|uuid| json!(MachineId::from_bytes(uuid).to_string()))),
                ])),
            ),
            ("labels", Some(json!(machine.labels))),
            ("location", self.location(machine)),
            ("nics", Some(nics.iter().map(|one| nic(one, &one.addresses)).collect())),
            ("primary", record.and_then(primary_nic)),
            ("addresses", Some(addresses.iter().map(address).collect())),
            ("lease", self.lease(machine)),
        ])
    }

    fn location(&self, machine: &Machine) -> Option<Value> {
        let code = text(&machine.location)?;
        let record = self.state.locations.get(&machine.location);
        Some(known([
            ("code", Some(code)),
            ("name", record.and_then(|location| text(&location.name))),
            ("abbreviation", record.and_then(|location| text(&location.abbreviation))),
            ("city", record.and_then(|location| text(&location.geographic.city))),
            ("country", record.and_then(|location| text(&location.geographic.country))),
            ("region", record.and_then(|location| text(&location.geographic.region))),
            ("annotations", Some(json!(record.map(|location| &location.annotations).cloned().unwrap_or_default()))),
        ]))
    }

    fn lease(&self, machine: &Machine) -> Option<Value> {
        let Lifecycle::Leased { lease } = &machine.lifecycle else { return None };
        let lease = self.state.leases.get(lease)?;
        Some(known([
            ("id", Some(json!(lease.id))),
            ("hub", Some(json!(lease.hub))),
            ("server", text(&lease.cycle_server)),
            ("hostname", text(&lease.hostname)),
            ("model", Some(json!(lease.model))),
            ("zone", text(&lease.zone)),
        ]))
    }
}

/// The primary NIC. Its addresses are its own and those of the link that carries its session, so that they are the same ones
/// when that link is put on it; those that lead nowhere else come last.
fn primary_nic(record: &MachineInventory) -> Option<Value> {
    let primary = primary::nic(record).ok()?;
    let mut addresses = primary.addresses.clone();
    let home = record.inventory.home.as_ref().filter(|home| home.nics.contains(&primary.name));
    let on_it = home.and_then(|home| record.inventory.links.iter().find(|link| link.name == home.link));
    addresses.extend(on_it.iter().flat_map(|link| &link.addresses));
    addresses.sort_by_key(|net| !reaches(net));
    Some(nic(primary, &addresses))
}

fn nic(nic: &Nic, addresses: &[IpNet]) -> Value {
    known([
        ("name", Some(json!(nic.name))),
        ("mac", Some(json!(nic.permanent_mac.to_string()))),
        ("driver", text(&nic.driver)),
        ("speed_mbps", nic.speed_mbps.map(|speed| json!(speed))),
        ("carrier", Some(json!(nic.carrier == Carrier::Present))),
        ("addresses", Some(addresses.iter().map(|net| json!(net.to_string())).collect())),
    ])
}

fn address((address, subnet): &(IpAddr, &Subnet)) -> Value {
    let nameservers: Vec<String> = subnet.nameservers.iter().map(ToString::to_string).collect();
    known([
        ("address", Some(json!(address.to_string()))),
        ("public", Some(json!(subnet.public(*address).to_string()))),
        ("cidr", Some(json!(format!("{address}/{}", subnet.net.prefix_len())))),
        ("prefix", Some(json!(subnet.net.prefix_len()))),
        ("family", Some(json!(if address.is_ipv4() { 4 } else { 6 }))),
        ("subnet", Some(json!(subnet.net.to_string()))),
        ("gateway", subnet.gateway.map(|gateway| json!(gateway.to_string()))),
        ("nameservers", Some(json!(nameservers))),
    ])
}

/// `None` for an empty text.
fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| json!(text))
}

fn known<const N: usize>(entries: [(&str, Option<Value>); N]) -> Value {
    let there = entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(Map::from_iter(there))
}
