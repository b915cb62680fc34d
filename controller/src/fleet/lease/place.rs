//! Which machine an order gets.
//!
//! Pure, and the same for the first try as for those after a machine that could not be prepared.

use muster_protocol::hello::Progress;
use muster_protocol::inventory::Leaves;
use muster_protocol::{BootId, MachineId};

use super::model::{self, Hardware};
use super::{handover, primary, wish};
use crate::fleet::record::{Lease, Lifecycle, Machine, MachineInventory, Maintenance};
use crate::fleet::{Refusal, State, location, machine};
use crate::words::counted;

/// Says which machines have a session now.
pub type Online<'a> = &'a dyn Fn(MachineId) -> bool;

/// The label with which an operator puts a machine into a zone of its location.
const ZONE_LABEL: &str = "zone";

/// Why the machines of a model at a location were not taken; the numbers add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Passed {
    leased: usize,
    maintenance: usize,
    offline: usize,
    zone: usize,
    unfit: usize,
    held: usize,
    left: usize,
    tried: usize,
}

/// A machine for a lease, with what it is made of.
///
/// One that did well the last time comes first: a disk that carries something makes a machine refuse each time.
///
/// Errors: no such location or model; [`Refusal::Exhausted`] with the reasons.
pub(super) fn choose(state: &State, lease: &Lease, online: Online<'_>) -> Result<(Machine, MachineInventory), Refusal> {
    location::need(state, &lease.location)?;
    let mut passed = Passed::default();
    let mut best: Option<(&Machine, &MachineInventory)> = None;
    let mut total = 0;
    for machine in state.machines.iter().filter(|m| m.location == lease.location) {
        let Some(record) = state.inventories.get(&machine.id) else { continue };
        let counts = match machine.lifecycle {
            Lifecycle::Pending | Lifecycle::Rejected | Lifecycle::Retired => false,
            Lifecycle::Available | Lifecycle::Leased { .. } | Lifecycle::Cleaning { .. } => true,
        };
        if !counts || Hardware::of(&record.inventory).id() != lease.model {
            continue;
        }
        total += 1;
        match standing(state, machine, record, online) {
            Standing::Maintenance => passed.maintenance += 1,
            Standing::Leased => passed.leased += 1,
            _ if !lease.zone.is_empty() && !is_in(machine, &lease.zone) => passed.zone += 1,
            _ if lease.tried.contains(&machine.id) => passed.tried += 1,
            Standing::Offline => passed.offline += 1,
            Standing::Unfit => passed.unfit += 1,
            Standing::Held => passed.held += 1,
            Standing::Left => passed.left += 1,
            Standing::Free if best.is_none_or(|(other, _)| rank(machine) < rank(other)) => {
                best = Some((machine, record));
            }
            Standing::Free => {}
        }
    }
    match best {
        Some((machine, record)) => Ok((machine.clone(), record.clone())),
        None if total == 0 && !model::is_known(state, &lease.model) => {
            Err(Refusal::NotFound { kind: "server model", name: lease.model.chars().take(80).collect() })
        }
        None => Err(Refusal::Exhausted(passed.text(&lease.location, total))),
    }
}

/// The zones of its location that an order may name and get this machine.
pub(super) fn zones<'a>(state: &'a State, machine: &'a Machine) -> impl Iterator<Item = &'a String> {
    let all = state.locations.get(&machine.location).map_or(&[][..], |location| &location.zones);
    all.iter().filter(|zone| is_in(machine, zone))
}

/// A machine that was put into no zone is in each.
fn is_in(machine: &Machine, zone: &str) -> bool {
    machine.labels.get(ZONE_LABEL).is_none_or(|own| own.is_empty() || own == zone)
}

/// Whether a machine that is in could be leased now, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Free,
    Maintenance,
    Leased,
    Offline,
    Unfit,
    /// What it starts from cannot hand it over to its location's boot target.
    Held,
    /// Its agent was not started to manage all of it, and would refuse what is ordered.
    Left,
}

/// Asked for whoever orders, and for the number of machines that are said to be free, which is the same thing.
pub(super) fn standing(state: &State, machine: &Machine, record: &MachineInventory, online: Online<'_>) -> Standing {
    let held =
        || state.locations.get(&machine.location).is_some_and(|at| handover::held_by(state, at, machine).is_some());
    if machine.maintenance == Maintenance::On {
        Standing::Maintenance
    } else if !machine::is_leasable(machine) {
        Standing::Leased
    } else if !online(machine.id) {
        Standing::Offline
    } else if record.inventory.software.leaves != Leaves::default() {
        Standing::Left
    } else if wish::fixed_disks(&record.inventory).is_err() || primary::cabled(record).is_err() {
        Standing::Unfit
    } else if held() {
        Standing::Held
    } else {
        Standing::Free
    }
}

/// Lower is taken first.
fn rank(machine: &Machine) -> (bool, &str) {
    let did_badly = match machine.outcome {
        Progress::Idle | Progress::Applying { .. } | Progress::Confirmed { .. } => false,
        Progress::Refused { .. } | Progress::Reverted { .. } | Progress::RevertFailed { .. } => true,
    };
    (did_badly, &machine.name)
}

impl Passed {
    fn text(self, location: &str, total: usize) -> String {
        let parts = [
            (self.leased, "leased or being cleaned"),
            (self.maintenance, "in maintenance"),
            (self.offline, "offline"),
            (self.zone, "in another zone"),
            (self.unfit, "with no carrier or with a disk that nothing names"),
            (self.held, "on boot media that cannot hand over to the boot target"),
            (self.left, "whose agent only looks at a part of it"),
            (self.tried, "that could not be prepared"),
        ];
        let parts: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let reasons = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        format!("of {} of this model at {location} none is free{reasons}", counted(total, "machine"))
    }
}

/// The boot to wait for the end of; zeros, which no boot has, where none ever said hello.
pub(super) fn running_boot(machine: &Machine) -> BootId {
    machine.boot.unwrap_or(BootId::from_bytes([0; 16]))
}
