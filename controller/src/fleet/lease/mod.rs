//! Leases: a machine in a hub's hands, from order to wipe.
//!
//! Called by the IAL (orders, restarts, ends), by operations that end ([`ended`]) and by whoever looks after leases now
//! and then ([`reconcile`]). What is to be done is always readable from the records, so a controller that was killed
//! goes on where it was.
//!
//! ```text
//!            provision                  confirmed                 decommission
//!   (none) ───────────▶ Preparing ───────────────────▶ Ready ───────────────────▶ Ending ──▶ (none)
//!                        ▲     │ refused, reverted, gone                            ▲  disks wiped, rebooted
//!                        └─ Seeking ──▶ Failed ─── provision again, or decommission ┘
//! ```
//!
//! Where the location has a boot target, a machine that is ready reboots, and is handed over: see [`handover`].
//!
//! An address stays with its machine until that machine cannot use it any more: given back only after the agent said
//! that it undid the change, or after another boot.

mod back;
pub mod handover;
pub mod model;
mod place;
pub mod primary;
#[cfg(test)]
mod stored;
#[cfg(test)]
mod tests;
pub mod wish;

use muster_protocol::hello::Progress;
use muster_protocol::inventory::{Attachment, Disk};
use muster_protocol::to_agent::PowerAction;
use muster_protocol::{DiskId, Generation, MachineId};

pub use place::Online;

use super::address::{self, Family};
use super::machine::controls::Switch;
use super::operation::{self, confirmed};
use super::record::{
    AddressHolder, Decommission, DesiredState, Lease, LeaseState, Lifecycle, Location, Machine, Operation,
    OperationKind, OperationState, Seat,
};
use super::{Author, Draft, Facts, Refusal, State, machine};

/// How many machines are tried for one order.
const TRIES: usize = 3;

/// How long a machine that left while it was being prepared is waited for.
const ABSENT_MS: u64 = 5 * 60 * 1000;

/// How long preparing may take altogether.
const PREPARE_MS: u64 = 30 * 60 * 1000;

/// The least time between two attempts to bring a ready machine back to what it was.
const RENEW_MS: u64 = 5 * 60 * 1000;

/// What a hub orders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Who orders.
    pub hub: String,
    /// Cycle's id of the server; with `hub` the key that makes a repeated order one order. Empty for no key.
    pub cycle_server: String,
    /// For people.
    pub hostname: String,
    /// [`model::Hardware::id`].
    pub model: String,
    /// Code of the location.
    pub location: String,
    /// One of the location's zones, empty for any.
    pub zone: String,
}

/// Leases a machine and begins to prepare it. A repeated order is the same lease, whatever became of it; one that failed
/// is tried again.
///
/// Errors: no such location, zone or model; no machine or no address free; the lease of this key is ending.
pub fn provision(draft: &mut Draft, order: Order, online: Online<'_>) -> Result<Lease, Refusal> {
    let lease = match find(draft.state(), &order.hub, &order.cycle_server).cloned() {
        None => new_lease(draft, order)?,
        Some(lease) => match lease.state {
            LeaseState::Seeking { .. } | LeaseState::Preparing { .. } | LeaseState::Ready { .. } => return Ok(lease),
            LeaseState::Failed { .. } => Lease { tried: Vec::new(), ..lease },
            LeaseState::Ending { .. } => {
                let why = "this server is being decommissioned; ask again when that is done";
                return Err(Refusal::Conflict(why.into()));
            }
        },
    };
    prepare(draft, lease, online)
}

/// The lease that was ordered with this key.
pub fn find<'a>(state: &'a State, hub: &str, cycle_server: &str) -> Option<&'a Lease> {
    let same = |lease: &&Lease| lease.hub == hub && lease.cycle_server == cycle_server;
    if cycle_server.is_empty() { None } else { state.leases.iter().find(same) }
}

fn new_lease(draft: &mut Draft, order: Order) -> Result<Lease, Refusal> {
    super::location::need(draft.state(), &order.location)?;
    let zones = draft.get::<Location>(&order.location).map(|l| l.zones.clone()).unwrap_or_default();
    if !order.zone.is_empty() && !zones.contains(&order.zone) {
        return Err(Refusal::invalid("zone_id", format!("{} has no zone {:?}", order.location, order.zone)));
    }
    let id: String = draft.random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Lease {
        id: format!("srv-{id}"),
        hub: order.hub,
        cycle_server: order.cycle_server,
        hostname: order.hostname,
        model: order.model,
        location: order.location,
        zone: order.zone,
        created_unix_ms: draft.now_unix_ms(),
        tried: Vec::new(),
        state: LeaseState::Seeking { why: String::new() },
    })
}

/// Puts a machine into the lease's hands and begins to prepare it.
fn prepare(draft: &mut Draft, mut lease: Lease, online: Online<'_>) -> Result<Lease, Refusal> {
    let (machine, record) = place::choose(draft.state(), &lease, online)?;
    let nic = primary::cabled(&record).map_err(|why| Refusal::Conflict(why.to_string()))?;
    let mut given = Vec::new();
    for family in offered(draft.state(), &lease.location)? {
        let holder = AddressHolder::Machine { machine: machine.id, lease: lease.id.clone() };
        let (address, subnet) = address::take(draft, &lease.location, family, holder)?;
        given.push((address.block.addr(), subnet));
    }
    let desired = wish::desired(&record, &given)?.into_inner();
    let seat = Seat {
        machine: machine.id,
        uuid: record.inventory.system.uuid.or(machine.identity.uuid),
        mac: nic.permanent_mac,
        addresses: given.iter().map(|(address, subnet)| subnet.public(*address)).collect(),
    };
    let held = Lifecycle::Leased { lease: lease.id.clone() };
    let text = format!("is being prepared for lease {} of {}", lease.id, lease.hub);
    let machine = machine::move_to(draft, machine, held, "machine.leased", &text)?;
    let generation = Generation(machine.generation.0 + 1);
    let kind = OperationKind::Provision { generation, lease: lease.id.clone() };
    let operation = machine::want(draft, machine, desired, None, kind)?.id;
    enter(draft, &mut lease, LeaseState::Preparing { seat, operation });
    Ok(lease)
}

/// Moves a lease on, with an entry in the audit log.
fn enter(draft: &mut Draft, lease: &mut Lease, state: LeaseState) {
    let before = draft.get::<Lease>(&lease.id).map(facts).unwrap_or_default();
    lease.state = state;
    let action = match &lease.state {
        LeaseState::Seeking { .. } => "lease.seeking",
        LeaseState::Preparing { .. } => "lease.preparing",
        LeaseState::Ready { .. } => "lease.ready",
        LeaseState::Failed { .. } => "lease.failed",
        LeaseState::Ending { .. } => "lease.ending",
    };
    draft.audit(action, &lease.id, before, facts(lease));
    draft.put(lease.clone());
}

/// How a lease stands, for the audit log.
fn facts(lease: &Lease) -> Facts {
    let Lease { hub, hostname, model, location, .. } = lease;
    let state = match &lease.state {
        LeaseState::Seeking { why } => format!("seeks a machine: {why}"),
        LeaseState::Preparing { seat, .. } => format!("machine {} is prepared", seat.machine),
        LeaseState::Ready { seat } => format!("has machine {}", seat.machine),
        LeaseState::Failed { why } => format!("failed: {why}"),
        LeaseState::Ending { machine } => format!("gave back machine {machine}"),
    };
    Facts::of([
        ("hub", hub.clone()),
        ("hostname", hostname.clone()),
        ("model", model.clone()),
        ("location", location.clone()),
        ("state", state),
    ])
}

/// One address of each family that the location has a subnet of, IPv4 first.
fn offered(state: &State, location: &str) -> Result<Vec<Family>, Refusal> {
    let families: Vec<Family> =
        [Family::V4, Family::V6].into_iter().filter(|f| address::is_offered(state, location, *f)).collect();
    if families.is_empty() {
        let why = format!("no subnet is declared at {location}; an operator declares one with muster subnet add");
        return Err(Refusal::Exhausted(why));
    }
    Ok(families)
}

/// Reboots a leased machine: by its agent where that has a session, else by what switches it from outside. Asking again
/// within one boot is one wish.
///
/// Errors: no such lease; the machine is not ready, or is on its way out; it has no session, and nothing else restarts it.
pub fn restart(draft: &mut Draft, id: &str, online: Online<'_>) -> Result<Operation, Refusal> {
    let lease = draft.need::<Lease>(&id.to_owned())?;
    let machine = match &lease.state {
        LeaseState::Ready { seat } => draft.need::<Machine>(&seat.machine)?,
        LeaseState::Seeking { .. } | LeaseState::Preparing { .. } | LeaseState::Failed { .. } => {
            return Err(Refusal::Conflict("this server is not provisioned yet".into()));
        }
        LeaseState::Ending { .. } => return Err(Refusal::Conflict("this server is being decommissioned".into())),
    };
    let is_reboot = |o: &&Operation| matches!(o.kind, OperationKind::Power { action: PowerAction::Reboot, .. });
    // A repeated one finds its machine away because of the first.
    if let Some(running) = draft.state().unfinished(machine.id).find(is_reboot) {
        return Ok(running.clone());
    }
    if !online(machine.id) {
        return operation::switch::ask(draft, machine.id, Switch::Restart);
    }
    let boot = place::running_boot(&machine);
    machine::power(draft, machine.id, PowerAction::Reboot, boot)
}

/// Ends a lease: the machine is wiped, now or when it is back ([`reconcile`] has it started anew), and is available afterwards. A lease that is unknown has
/// ended already. Where an earlier wipe failed it is tried again.
pub fn decommission(draft: &mut Draft, id: &str) -> Result<(), Refusal> {
    let Some(lease) = draft.get::<Lease>(&id.to_owned()).cloned() else { return Ok(()) };
    match lease.state.clone() {
        LeaseState::Seeking { .. } | LeaseState::Failed { .. } => {
            end(draft, &lease);
            Ok(())
        }
        // The hub never had it, so there is nothing of the hub's on its disks.
        LeaseState::Preparing { seat, .. } => give_back(draft, lease, seat.machine, Wipe::Nothing),
        LeaseState::Ready { seat } => give_back(draft, lease, seat.machine, Wipe::FixedDisks),
        LeaseState::Ending { machine } => clean_again(draft, machine).map(drop),
    }
}

fn give_back(draft: &mut Draft, mut lease: Lease, machine: MachineId, wipe: Wipe) -> Result<(), Refusal> {
    draft.event("lease.ending", &lease.id, format!("{} gave its server back", lease.hub));
    // First, so that the end of the machine's other work does not move the lease.
    enter(draft, &mut lease, LeaseState::Ending { machine });
    clean(draft, machine, &lease.id, wipe).map(drop)
}

/// What a machine loses before somebody else may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wipe {
    /// Everything on its fixed disks.
    FixedDisks,
    /// Nothing: no hub has used it. It boots anew, so that nothing of the configuration is left.
    Nothing,
}

/// Takes a machine out of use until it is as clean as on its first day.
fn clean(draft: &mut Draft, id: MachineId, lease: &str, wipe: Wipe) -> Result<Operation, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    confirmed::forget(draft, id);
    end_operations(draft, id, "the machine is being cleaned", |kind| {
        matches!(kind, OperationKind::Apply { .. } | OperationKind::Provision { .. })
    })?;
    let disks = match wipe {
        Wipe::Nothing => Vec::new(),
        Wipe::FixedDisks => named_disks(draft.state(), id),
    };
    let stage = if disks.is_empty() {
        Decommission::Reboot { boot: place::running_boot(&machine) }
    } else {
        Decommission::Wipe
    };
    let level = draft.get::<Location>(&machine.location).map(|location| location.wipe).unwrap_or_default();
    let kind = OperationKind::Decommission { lease: lease.to_owned(), disks, level, stage };
    let operation = operation::open(draft, id, kind, None)?;
    let machine = draft.need::<Machine>(&id)?;
    let cleaning = Lifecycle::Cleaning { operation: operation.id };
    machine::move_to(draft, machine, cleaning, "machine.cleaning", "is being cleaned")?;
    Ok(operation)
}

fn end_operations(
    draft: &mut Draft,
    id: MachineId,
    why: &str,
    which: impl Fn(&OperationKind) -> bool,
) -> Result<(), Refusal> {
    let open: Vec<_> = draft.state().unfinished(id).filter(|o| which(&o.kind)).map(|o| o.id).collect();
    open.into_iter().try_for_each(|operation| operation::refused(draft, operation, why))
}

/// The fixed disks that can be named; [`unwiped`] finds the others once the rest is done.
fn named_disks(state: &State, id: MachineId) -> Vec<DiskId> {
    let inventory = state.inventories.get(&id).map(|r| r.inventory.clone()).unwrap_or_default();
    wish::fixed_disks(&inventory).unwrap_or_else(|_| {
        let mut disks: Vec<DiskId> = inventory.disks.iter().filter(|d| is_fixed(d)).filter_map(|d| d.id()).collect();
        disks.sort();
        disks.dedup();
        disks
    })
}

fn is_fixed(disk: &Disk) -> bool {
    disk.attachment == Attachment::Fixed
}

/// Cleans a machine once more whose cleaning failed. Answers the operation that is at it.
///
/// Errors: the machine is not being cleaned.
pub fn clean_again(draft: &mut Draft, id: MachineId) -> Result<Operation, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    let Lifecycle::Cleaning { operation } = machine.lifecycle else {
        return Err(Refusal::Conflict(format!("{} is not being cleaned", machine.name)));
    };
    let last = draft.need::<Operation>(&operation)?;
    let OperationKind::Decommission { lease, disks, .. } = &last.kind else {
        return Err(Refusal::Internal);
    };
    if !last.state.is_ended() {
        return Ok(last);
    }
    let wipe = if disks.is_empty() { Wipe::Nothing } else { Wipe::FixedDisks };
    let next = clean(draft, id, lease, wipe)?;
    draft.audit("machine.cleaned-again", id, Facts::one("operation", operation), Facts::one("operation", next.id));
    Ok(next)
}

/// Takes a leased machine out of the books that will not come back: it is retired, its lease ends, its addresses are free.
/// For an operator who knows that the box is off for good; one that is still on would share its address with another.
///
/// Errors: the machine is not leased, nor being cleaned.
pub fn write_off(draft: &mut Draft, id: MachineId) -> Result<Machine, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    let lease = match machine.lifecycle.clone() {
        Lifecycle::Leased { lease } => lease,
        Lifecycle::Cleaning { operation } => match draft.need::<Operation>(&operation)?.kind {
            OperationKind::Decommission { lease, .. } => lease,
            _ => return Err(Refusal::Internal),
        },
        _ => return Err(Refusal::Conflict(format!("{} is not leased; retire it", machine.name))),
    };
    // Both first, so that the end of the machine's work moves neither of them.
    let machine = machine::move_to(draft, machine, Lifecycle::Retired, "machine.written-off", "was written off")?;
    if let Some(lease) = draft.get::<Lease>(&lease).cloned()
        && seat_of(&lease) == Some(id)
    {
        end(draft, &lease);
    }
    confirmed::forget(draft, id);
    address::release_machine(draft, id);
    machine::controls::forget(draft, id);
    end_operations(draft, id, "the machine was written off", |_| true)?;
    Ok(machine)
}

/// The machine in a lease's hands.
pub fn seat_of(lease: &Lease) -> Option<MachineId> {
    match &lease.state {
        LeaseState::Preparing { seat, .. } | LeaseState::Ready { seat } => Some(seat.machine),
        LeaseState::Ending { machine } => Some(*machine),
        LeaseState::Seeking { .. } | LeaseState::Failed { .. } => None,
    }
}

/// An operation came to an end: moves on the lease that waited for it.
pub fn ended(draft: &mut Draft, operation: &Operation) -> Result<(), Refusal> {
    match &operation.kind {
        OperationKind::Provision { lease, generation } => {
            let Some(lease) = draft.get::<Lease>(lease).cloned() else { return Ok(()) };
            match lease.state.clone() {
                LeaseState::Preparing { seat, operation: waited_for } if waited_for == operation.id => {
                    prepared(draft, lease, seat, *generation, &operation.state)
                }
                _ => Ok(()),
            }
        }
        OperationKind::Decommission { lease, disks, .. } => {
            let machine = draft.need::<Machine>(&operation.machine)?;
            if machine.lifecycle == (Lifecycle::Cleaning { operation: operation.id }) {
                cleaned(draft, machine, lease, disks, &operation.state)
            } else {
                Ok(())
            }
        }
        OperationKind::Apply { .. }
        | OperationKind::Power { .. }
        | OperationKind::Wipe { .. }
        | OperationKind::Switch { .. } => Ok(()),
    }
}

fn prepared(
    draft: &mut Draft,
    mut lease: Lease,
    seat: Seat,
    generation: Generation,
    how: &OperationState,
) -> Result<(), Refusal> {
    let why = match how {
        OperationState::Succeeded => {
            draft.event("lease.ready", &lease.id, format!("{} has its server", lease.hub));
            let machine = draft.need::<Machine>(&seat.machine)?;
            enter(draft, &mut lease, LeaseState::Ready { seat });
            if handover::of(draft.state(), machine.id).is_some() {
                machine::power(draft, machine.id, PowerAction::Reboot, place::running_boot(&machine))?;
            }
            return Ok(());
        }
        OperationState::Failed { why } => why.clone(),
        OperationState::Cancelled => "cancelled".to_owned(),
        OperationState::Queued | OperationState::Running => return Ok(()),
    };
    let machine = draft.need::<Machine>(&seat.machine)?;
    let why = format!("{}: {why}", machine.name);
    lease.tried.push(machine.id);
    enter(draft, &mut lease, LeaseState::Seeking { why });
    let undone = match &machine.outcome {
        Progress::Refused { generation: of, .. } | Progress::Reverted { generation: of, .. } => *of == generation,
        Progress::Idle | Progress::Applying { .. } | Progress::Confirmed { .. } | Progress::RevertFailed { .. } => {
            false
        }
    };
    if undone {
        // What an operator had confirmed before is in force again, and stays what the machine comes back with.
        draft.delete::<DesiredState>(&machine.id);
        address::release_machine(draft, machine.id);
        let text = "could not be prepared and is available again";
        machine::move_to(draft, machine, Lifecycle::Available, "machine.available", text)?;
        return Ok(());
    }
    // Nobody knows what of it is in force, so nobody gets its address before it has booted anew.
    clean(draft, seat.machine, &lease.id, Wipe::Nothing).map(drop)
}

fn cleaned(
    draft: &mut Draft,
    machine: Machine,
    lease: &str,
    wiped: &[DiskId],
    how: &OperationState,
) -> Result<(), Refusal> {
    let left = if wiped.is_empty() { None } else { unwiped(draft.state(), machine.id, wiped) };
    let why = match (how, left) {
        (OperationState::Succeeded, None) => None,
        (OperationState::Succeeded, Some(disk)) => Some(format!("disk {disk} came later and was not wiped")),
        (OperationState::Failed { why }, _) => Some(why.clone()),
        (OperationState::Cancelled, _) => Some("cancelled".to_owned()),
        (OperationState::Queued | OperationState::Running, _) => return Ok(()),
    };
    if let Some(why) = why {
        let text = format!("{} is not clean and stays out of use: {why}; have it cleaned again", machine.name);
        draft.event("machine.unclean", machine.id, text);
        return Ok(());
    }
    let id = machine.id;
    if !wiped.is_empty() {
        machine::keys::destroy(draft, id);
    }
    address::release_machine(draft, id);
    machine::move_to(draft, machine, Lifecycle::Available, "machine.available", "is clean and available again")?;
    // A lease that gave up on this machine goes on elsewhere.
    if let Some(lease) = draft.get::<Lease>(&lease.to_owned()).cloned()
        && lease.state == (LeaseState::Ending { machine: id })
    {
        end(draft, &lease);
    }
    Ok(())
}

/// A fixed disk that is there now and was not wiped.
fn unwiped(state: &State, id: MachineId, wiped: &[DiskId]) -> Option<String> {
    let inventory = &state.inventories.get(&id)?.inventory;
    let mut disks = inventory.disks.iter().filter(|d| is_fixed(d));
    disks.find(|d| !is_among(d, wiped)).map(|d| d.name.clone())
}

/// Whether all disks were wiped that are there now and may be written to: those in cases of their own too.
pub fn is_all(state: &State, id: MachineId, wiped: &[DiskId]) -> bool {
    let disks = state.inventories.get(&id).map(|record| &record.inventory.disks[..]).unwrap_or_default();
    disks.iter().all(|d| !d.attachment.may_be_written() || is_among(d, wiped))
}

fn is_among(disk: &Disk, wiped: &[DiskId]) -> bool {
    disk.id().is_some_and(|id| wiped.contains(&id))
}

fn end(draft: &mut Draft, lease: &Lease) {
    draft.audit("lease.ended", &lease.id, facts(lease), Facts::none());
    draft.event("lease.ended", &lease.id, format!("the lease of {} has ended", lease.hub));
    draft.delete::<Lease>(&lease.id);
}

/// Whether [`reconcile`] has something to do for a lease that nothing else will bring about.
pub fn is_due(state: &State) -> bool {
    state.leases.iter().any(|l| matches!(l.state, LeaseState::Seeking { .. }))
}

/// Looks after leases: gives up on machines that left while they were being prepared, puts the next machine in the place of
/// one that could not be, asks ready machines again for what they lost with a reboot, and brings back those that are to be
/// cleaned and have no agent; as many as one batch takes.
/// Call it when [`is_due`] says so, and every few seconds for the sake of time limits.
///
/// `online` must be settled: a controller that has just started does not know yet who is there.
pub fn reconcile(draft: &mut Draft, online: Online<'_>) -> Result<(), Refusal> {
    let leases: Vec<Lease> = draft.state().leases.iter().cloned().collect();
    for lease in leases {
        if !draft.has_room() {
            break;
        }
        match &lease.state {
            LeaseState::Preparing { seat, operation } => {
                let began = draft.get::<Operation>(operation).map_or(0, |o| o.created_unix_ms);
                let age = draft.now_unix_ms().saturating_sub(began);
                let why = match online(seat.machine) {
                    false if age > ABSENT_MS => "it left while it was being prepared",
                    _ if age > PREPARE_MS => "preparing it took too long",
                    _ => continue,
                };
                operation::refused(draft, *operation, why)?;
            }
            LeaseState::Seeking { why } => seek(draft, &lease, why, online),
            LeaseState::Ready { seat } if online(seat.machine) => renew(draft, seat.machine)?,
            LeaseState::Ready { .. } | LeaseState::Failed { .. } | LeaseState::Ending { .. } => {}
        }
    }
    back::bring(draft, online)
}

/// Asks once more for what a ready machine has proved before and could not prove after a later boot: that boot may have
/// come while this controller was away. What an operator wants of it meanwhile is the operator's to repeat.
fn renew(draft: &mut Draft, id: MachineId) -> Result<(), Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    let Some(wanted) = draft.get::<DesiredState>(&id).cloned() else { return Ok(()) };
    let given_up = match &machine.outcome {
        Progress::Refused { generation, .. }
        | Progress::Reverted { generation, .. }
        | Progress::RevertFailed { generation, .. } => *generation == wanted.generation,
        Progress::Idle | Progress::Applying { .. } | Progress::Confirmed { .. } => false,
    };
    let Some(asked) = draft.get::<Operation>(&wanted.operation).cloned() else { return Ok(()) };
    let ours = match asked.kind {
        OperationKind::Provision { .. } => true,
        OperationKind::Apply { .. } => asked.who == Author::controller().who,
        _ => false,
    };
    if given_up && ours && draft.now_unix_ms().saturating_sub(asked.created_unix_ms) > RENEW_MS {
        let generation = Generation(machine.generation.0 + 1);
        machine::want(draft, machine, wanted.desired, wanted.permit, OperationKind::Apply { generation })?;
    }
    Ok(())
}

fn seek(draft: &mut Draft, lease: &Lease, why: &str, online: Online<'_>) {
    let next = if lease.tried.len() < TRIES {
        draft.attempt(|draft| prepare(draft, lease.clone(), online)).map(drop)
    } else {
        Err(Refusal::Exhausted(format!("{TRIES} machines were tried")))
    };
    if let Err(no_other) = next {
        let why = format!("{why}; {no_other}");
        draft.event("lease.failed", &lease.id, format!("{} gets no server: {why}", lease.hub));
        enter(draft, &mut lease.clone(), LeaseState::Failed { why });
    }
}

/// Whether a machine must keep the desired state it has, because a lease is about to prove it.
pub fn is_preparing(state: &State, id: MachineId) -> bool {
    let prepares = |l: &Lease| matches!(&l.state, LeaseState::Preparing { seat, .. } if seat.machine == id);
    state.leases.iter().any(prepares)
}
