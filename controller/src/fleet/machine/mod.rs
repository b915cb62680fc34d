//! Machines: approval, what sessions tell of them, what operators want of them.
//!
//! Called by the sessions (what agents say) and the operator API (what people want), inside [`super::Fleet::change`].

mod arrays;
pub mod controls;
pub mod health;
pub mod keys;

use std::collections::BTreeMap;

use muster_protocol::desired::{Checked, Desired, Permit};
use muster_protocol::hello::{Progress, Times};
use muster_protocol::inventory::{Disk, Inventory};
use muster_protocol::to_agent::PowerAction;
use muster_protocol::{BootId, Digest, Generation, MachineId, OperationId};

use super::lease::primary;
use super::operation::{self, confirmed, outcome, proven};
use super::record::{DesiredState, Lifecycle, Machine, MachineInventory, Maintenance, Operation, OperationKind};
use super::{Draft, Facts, Refusal, State, address, check_text, enrollment, lease};

/// Of a desired state that is stored: how it came out must have room beside it in one record.
const DESIRED_LIMIT: usize = crate::store::VALUE_LIMIT - 2048;

/// A session said hello: notes its boot and where it stands, and moves on whatever waited for that.
///
/// The answer is the machine as it is now.
pub fn hello(draft: &mut Draft, id: MachineId, boot: BootId, progress: Progress) -> Result<Machine, Refusal> {
    let mut machine = draft.need::<Machine>(&id)?;
    if machine.boot != Some(boot) {
        machine.boot = Some(boot);
        machine.drift.found = Default::default();
        // Strangers must not be able to push everything else out of the feed.
        if machine.lifecycle != Lifecycle::Pending {
            draft.event("machine.booted", id, format!("{} started, boot {boot}", machine.name));
        }
        save(draft, machine);
        operation::booted(draft, id, boot)?;
        if let Some(generation) = operation::cut_off(draft.state(), id) {
            let undone = confirmed::interrupted(draft.state(), id, generation);
            self::progress(draft, id, &undone)?;
        }
    } else {
        operation::stayed(draft, id, boot)?;
    }
    proven::outlived(draft, id, &progress);
    // Whoever waits for approval was given nothing that it could have reached.
    if draft.need::<Machine>(&id)?.lifecycle != Lifecycle::Pending {
        self::progress(draft, id, &progress)?;
    }
    draft.need::<Machine>(&id)
}

/// Replaces a machine's inventory; one that says what is known already changes nothing.
///
/// Errors: over the size that can be stored.
pub fn inventory(draft: &mut Draft, id: MachineId, inventory: Inventory) -> Result<(), Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    let before = draft.get::<MachineInventory>(&id);
    if before.is_some_and(|before| before.inventory == inventory) {
        return Ok(());
    }
    let primary = primary::carries(&inventory, before.and_then(|before| before.primary));
    let was = before.map(|before| before.inventory.arrays.clone()).unwrap_or_default();
    let is = inventory.arrays.clone();
    let had = |disk: &Disk| before.is_some_and(|before| before.inventory.disks.iter().any(|d| d.id() == disk.id()));
    let has_come = inventory.disks.iter().any(|disk| disk.attachment.may_be_written() && !had(disk));
    let record = MachineInventory { machine: id, at_unix_ms: draft.now_unix_ms(), inventory, primary };
    if super::state::stored_value(&record).len() > crate::store::VALUE_LIMIT {
        return Err(Refusal::invalid("inventory", "over 64 KiB"));
    }
    draft.put(record);
    if has_come {
        confirmed::disk_came(draft, id);
    }
    // Whoever waits for approval could fill the feed with it.
    if machine.lifecycle != Lifecycle::Pending {
        draft.event("machine.inventory", id, format!("{} reported its inventory", machine.name));
        arrays::tell(draft, &machine, &was, &is);
    }
    Ok(())
}

/// Takes note of how far a machine is with its desired state. Only what is settled is durable; the rest is presence.
pub fn progress(draft: &mut Draft, id: MachineId, progress: &Progress) -> Result<(), Refusal> {
    let mut machine = draft.need::<Machine>(&id)?;
    if let Progress::Applying { generation, percent, step } = progress {
        return operation::applying(draft, id, *generation, *percent, step);
    }
    if !progress.is_settled() {
        return Ok(());
    }
    let proven = proven::settle(draft, id, progress);
    if confirmed::told_again(draft, &machine, progress) || machine.outcome == *progress {
        return Ok(());
    }
    let times = proven.as_ref().map(|proven| proven.times).unwrap_or_default();
    let Some(generation) = progress.generation() else { return Ok(()) };
    let (kind, text) = outcome::event(generation, progress, times);
    draft.event(kind, id, format!("{}: {text}", machine.name));
    machine.outcome = progress.clone();
    save(draft, machine);
    if let Progress::Confirmed { .. } = progress {
        confirmed::note(draft, id, generation, proven);
    }
    operation::settled(draft, id, generation, progress, times)
}

/// The agent reached the controller over its new configuration. Durable before it is answered; it is the agent that says
/// then, by its progress, whether the answer came and the change is kept.
///
/// Errors: [`Refusal::Conflict`] where another generation is desired by now, or the machine gave this one up.
pub fn confirm(
    draft: &mut Draft,
    id: MachineId,
    generation: Generation,
    desired: Digest,
    times: Times,
) -> Result<(), Refusal> {
    let outcome = draft.need::<Machine>(&id)?.outcome;
    if confirmed::is(draft.state(), id, generation, desired) {
        // It is given again after a boot.
        return Ok(());
    }
    if outcome.generation() == Some(generation) && !matches!(outcome, Progress::Confirmed { .. }) {
        // It comes late, over another connection than what has become of it since.
        return Err(Refusal::Conflict(format!("generation {generation} was given up by its machine")));
    }
    proven::note(draft, id, generation, desired, times)
}

/// Lets a pending or rejected machine in.
pub fn approve(draft: &mut Draft, id: MachineId) -> Result<Machine, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    match machine.lifecycle {
        Lifecycle::Pending | Lifecycle::Rejected if !machine.doubt.is_empty() => {
            Err(Refusal::Conflict(enrollment::question(draft.state(), &machine).unwrap_or_default()))
        }
        Lifecycle::Pending | Lifecycle::Rejected => {
            move_to(draft, machine, Lifecycle::Available, "machine.approved", "was approved")
        }
        Lifecycle::Available | Lifecycle::Leased { .. } | Lifecycle::Cleaning { .. } => Ok(machine),
        Lifecycle::Retired => Err(Refusal::Conflict(format!("{} is retired and does not come back", machine.name))),
    }
}

/// Keeps a pending machine out.
pub fn reject(draft: &mut Draft, id: MachineId) -> Result<Machine, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    match machine.lifecycle {
        Lifecycle::Pending => move_to(draft, machine, Lifecycle::Rejected, "machine.rejected", "was rejected"),
        Lifecycle::Rejected => Ok(machine),
        Lifecycle::Retired => Err(Refusal::Conflict(format!("{} is retired and does not come back", machine.name))),
        _ => Err(Refusal::Conflict(format!("{} is no longer pending; retire it instead", machine.name))),
    }
}

/// Takes a machine out of the fleet for good. Its record stays, with the key by which its agent is told so.
pub fn retire(draft: &mut Draft, id: MachineId) -> Result<Machine, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    match machine.lifecycle {
        Lifecycle::Retired => Ok(machine),
        Lifecycle::Leased { .. } | Lifecycle::Cleaning { .. } => {
            Err(Refusal::Conflict(format!("{} is leased; end the lease first", machine.name)))
        }
        Lifecycle::Pending | Lifecycle::Rejected | Lifecycle::Available => {
            confirmed::forget(draft, id);
            let open: Vec<_> = draft.state().unfinished(id).map(|operation| operation.id).collect();
            open.into_iter().try_for_each(|o| operation::refused(draft, o, "the machine was retired"))?;
            address::release_assigned(draft, id);
            controls::forget(draft, id);
            move_to(draft, machine, Lifecycle::Retired, "machine.retired", "was retired")
        }
    }
}

/// Gives a machine another name: 1 to 63 letters, digits, `-`, `.`; unique, and neither an id nor a claim code by its looks.
pub fn rename(draft: &mut Draft, id: MachineId, name: &str) -> Result<Machine, Refusal> {
    let mut machine = draft.need::<Machine>(&id)?;
    check_name(name)?;
    let taken = |m: &Machine| m.name == name && m.id != id && m.lifecycle != Lifecycle::Retired;
    if draft.state().machines.iter().any(taken) {
        return Err(Refusal::Conflict(format!("another machine is called {name:?}")));
    }
    let before = std::mem::replace(&mut machine.name, name.to_owned());
    draft.audit("machine.renamed", id, Facts::one("name", before), Facts::one("name", name));
    Ok(save(draft, machine))
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if name.is_empty() || name.len() > 63 || !name.chars().all(legal) || name.starts_with(['-', '.']) {
        return Err(Refusal::invalid("name", format!("{name:?} is no name: 1 to 63 letters, digits, '-' or '.'")));
    }
    // Whoever types one must not mean another machine by it.
    let looks_like = match name {
        _ if is_id_like(name) => "the id of a machine",
        _ if enrollment::is_claim_code(name) => "the claim code of a machine",
        _ => return Ok(()),
    };
    Err(Refusal::invalid("name", format!("{name:?} looks like {looks_like}; put a word before it, such as box-{name}")))
}

/// Whether it could be the beginning of an id, of the eight digits that lists show or more.
fn is_id_like(text: &str) -> bool {
    let place = |(at, c): (usize, char)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_hexdigit(),
    };
    (8..=36).contains(&text.len()) && text.chars().enumerate().all(place)
}

/// Sets (`Some`) and removes (`None`) labels.
pub fn label(draft: &mut Draft, id: MachineId, changes: BTreeMap<String, Option<String>>) -> Result<Machine, Refusal> {
    let mut machine = draft.need::<Machine>(&id)?;
    let before = label_facts(&machine);
    for (key, value) in changes {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/');
        if key.is_empty() || key.len() > 63 || !key.chars().all(legal) {
            return Err(Refusal::invalid(
                "labels",
                format!("{key:?} is no key: 1 to 63 letters, digits, '-', '.', '_', '/'"),
            ));
        }
        value.as_ref().map_or(Ok(()), |value| check_text(format!("labels.{key}"), value, 255))?;
        match value {
            Some(value) => machine.labels.insert(key, value),
            None => machine.labels.remove(&key),
        };
    }
    if machine.labels.len() > 64 {
        return Err(Refusal::invalid("labels", "a machine has at most 64"));
    }
    draft.audit("machine.labeled", id, before, label_facts(&machine));
    Ok(save(draft, machine))
}

fn label_facts(machine: &Machine) -> Facts {
    Facts::of(machine.labels.iter().map(|(key, value)| (format!("labels.{key}"), format!("{value:?}"))))
}

/// Leaves a machine out of leases, or takes it in again.
pub fn maintain(draft: &mut Draft, id: MachineId, wish: Maintenance) -> Result<Machine, Refusal> {
    let mut machine = draft.need::<Machine>(&id)?;
    if machine.maintenance != wish {
        let word = |maintenance| match maintenance {
            Maintenance::Off => "off",
            Maintenance::On => "on",
        };
        let facts = |maintenance| Facts::one("maintenance", word(maintenance));
        draft.audit("machine.maintenance", id, facts(machine.maintenance), facts(wish));
        draft.event("machine.maintenance", id, format!("{}: maintenance {}", machine.name, word(wish)));
        machine.maintenance = wish;
        machine = save(draft, machine);
    }
    Ok(machine)
}

/// Gives a machine a new desired state, and answers the operation that follows it.
///
/// What `desired` leaves out is taken from the state before it, so that a network document does not undo storage.
/// `expected` is the generation that the asker saw; `None` takes whatever is there.
pub fn set_desired(
    draft: &mut Draft,
    id: MachineId,
    desired: Checked<Desired>,
    permit: Option<Permit>,
    expected: Option<Generation>,
) -> Result<Operation, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    match machine.lifecycle {
        Lifecycle::Leased { .. } if lease::is_preparing(draft.state(), id) => {
            return Err(Refusal::Conflict(format!(
                "{} is being prepared for a lease; wait until it is ready",
                machine.name
            )));
        }
        Lifecycle::Available | Lifecycle::Leased { .. } => {}
        Lifecycle::Pending | Lifecycle::Rejected => {
            return Err(Refusal::Conflict(format!("{} is not approved; approve it first", machine.name)));
        }
        Lifecycle::Cleaning { .. } => {
            return Err(Refusal::Conflict(format!("{} is being cleaned; wait until it is available", machine.name)));
        }
        Lifecycle::Retired => return Err(Refusal::Conflict(format!("{} is retired", machine.name))),
    }
    if expected.is_some_and(|seen| seen != machine.generation) {
        return Err(Refusal::Outdated { kind: "desired state" });
    }
    let whole = whole(draft.state(), id, desired.into_inner());
    let generation = Generation(machine.generation.0 + 1);
    want(draft, machine, whole, permit, OperationKind::Apply { generation })
}

/// `desired` with what it leaves out taken from what the machine is or is on its way to.
pub fn whole(state: &State, id: MachineId, desired: Desired) -> Desired {
    let before = confirmed::in_force(state, id).desired.into_owned();
    Desired { network: desired.network.or(before.network), storage: desired.storage.or(before.storage) }
}

/// Writes a desired state of the next generation and the operation of this `kind` that follows it.
/// Operations that followed an earlier generation end.
pub fn want(
    draft: &mut Draft,
    mut machine: Machine,
    desired: Desired,
    permit: Option<Permit>,
    kind: OperationKind,
) -> Result<Operation, Refusal> {
    let id = machine.id;
    let generation = Generation(machine.generation.0 + 1);
    operation::supersede(draft, id, generation)?;
    let operation = operation::open(draft, id, kind, None)?;
    let digest = Digest::of_value(&desired);
    let record = DesiredState { machine: id, generation, desired, permit, digest, operation: operation.id };
    if super::state::stored_value(&record).len() > DESIRED_LIMIT {
        let most = DESIRED_LIMIT >> 10;
        return Err(Refusal::invalid("document", format!("the whole desired state is over {most} KiB")));
    }
    let now = draft.get::<DesiredState>(&id).map(desired_facts).unwrap_or_default();
    draft.audit("machine.desired", id, now, desired_facts(&record));
    draft.event("machine.desired", id, format!("{} has generation {generation} to reach", machine.name));
    draft.put(record);
    machine.generation = generation;
    save(draft, machine);
    Ok(operation)
}

fn desired_facts(record: &DesiredState) -> Facts {
    let disks = record.permit.iter().flat_map(|permit| &permit.disks).map(ToString::to_string);
    Facts::of([
        ("generation", record.generation.to_string()),
        ("digest", record.digest.to_string()),
        ("may_destroy", disks.collect::<Vec<_>>().join(", ")),
    ])
}

/// Asks for a reboot or power-off of the boot that is running now.
///
/// `boot` is the boot that the asker saw, from the session that is up.
pub fn power(draft: &mut Draft, id: MachineId, action: PowerAction, boot: BootId) -> Result<Operation, Refusal> {
    needs_in(draft, id)?;
    // Asking twice for the same end of the same boot is one wish.
    let kind = OperationKind::Power { action, boot };
    if let Some(running) = draft.state().unfinished(id).find(|o| o.kind == kind) {
        return Ok(running.clone());
    }
    let word = match action {
        PowerAction::Reboot => "reboot",
        PowerAction::Off => "off",
    };
    draft.audit("machine.power", id, Facts::one("boot", boot), Facts::one("power", word));
    let begin_by = draft.now_unix_ms() + operation::BEGIN_WITHIN_MS;
    operation::open(draft, id, kind, Some(begin_by))
}

/// Errors: the machine is not in.
pub(super) fn needs_in(draft: &Draft, id: MachineId) -> Result<(), Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    match machine.lifecycle {
        Lifecycle::Pending | Lifecycle::Rejected => {
            Err(Refusal::Conflict(format!("{} is not approved; approve it first", machine.name)))
        }
        Lifecycle::Retired => Err(Refusal::Conflict(format!("{} is retired", machine.name))),
        Lifecycle::Available | Lifecycle::Leased { .. } | Lifecycle::Cleaning { .. } => Ok(()),
    }
}

/// Finds a machine by id, by name, by the claim code that its screen shows or showed, by a prefix of its id that no other
/// has (4 characters at least), or by the name that it had when it was retired.
pub fn lookup(state: &State, text: &str) -> Result<MachineId, Refusal> {
    let not_found = || Refusal::NotFound { kind: "machine", name: text.chars().take(80).collect() };
    if let Ok(id) = text.parse::<MachineId>() {
        return state.machines.get(&id).map(|m| m.id).ok_or_else(not_found);
    }
    let live = || state.machines.iter().filter(|m| m.lifecycle != Lifecycle::Retired);
    if let Some(machine) = live().find(|m| m.name == text) {
        return Ok(machine.id);
    }
    let typed = |text: &str| text.replace('-', "").to_ascii_uppercase();
    // Also where it is on the screen no more: whoever types it again hears what became of it.
    if let Some(machine) = live().find(|m| typed(&m.claim) == typed(text)) {
        return Ok(machine.id);
    }
    let mut retired = state.machines.iter().filter(|m| m.lifecycle == Lifecycle::Retired && m.name == text);
    let mut gone = || match (retired.next(), retired.next()) {
        (None, _) => Err(not_found()),
        (Some(only), None) => Ok(only.id),
        (Some(one), Some(other)) => {
            let problem =
                format!("machines of this name were retired; write the id of one, such as {} or {}", one.id, other.id);
            Err(Refusal::invalid("machine", problem))
        }
    };
    if text.len() < 4 {
        return gone();
    }
    let mut found = state.machines.iter().filter(|m| m.id.to_string().starts_with(text)).map(|m| m.id);
    match (found.next(), found.next()) {
        (None, _) => gone(),
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            Err(Refusal::invalid("machine", format!("{text:?} begins more than one id; write more of it")))
        }
    }
}

/// Whether a lease may take it, presence aside.
pub fn is_leasable(machine: &Machine) -> bool {
    machine.lifecycle == Lifecycle::Available && machine.maintenance == Maintenance::Off
}

/// Moves a machine to another part of its life, with an event and an audit entry.
pub fn move_to(
    draft: &mut Draft,
    mut machine: Machine,
    to: Lifecycle,
    kind: &'static str,
    text: &str,
) -> Result<Machine, Refusal> {
    draft.audit(kind, machine.id, stage(&machine.lifecycle), stage(&to));
    draft.event(kind, machine.id, format!("{} {text}", machine.name));
    machine.lifecycle = to;
    Ok(save(draft, machine))
}

impl Lifecycle {
    /// As the API and the audit log write it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::Available => "available",
            Self::Leased { .. } => "leased",
            Self::Cleaning { .. } => "cleaning",
            Self::Retired => "retired",
        }
    }
}

fn stage(lifecycle: &Lifecycle) -> Facts {
    let (lease, operation) = match lifecycle {
        Lifecycle::Leased { lease } => (lease.clone(), String::new()),
        Lifecycle::Cleaning { operation } => (String::new(), operation.to_string()),
        Lifecycle::Pending | Lifecycle::Rejected | Lifecycle::Available | Lifecycle::Retired => Default::default(),
    };
    Facts::of([("lifecycle", lifecycle.word().to_owned()), ("lease", lease), ("operation", operation)])
}

/// Writes a machine with its next version.
pub fn save(draft: &mut Draft, mut machine: Machine) -> Machine {
    machine.version += 1;
    draft.put(machine.clone());
    machine
}

/// The id of the operation that follows a machine's desired state.
pub fn following(state: &State, id: MachineId) -> Option<OperationId> {
    state.desired.get(&id).map(|d| d.operation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::operation::outcome::{Ending, Outcome};
    use crate::fleet::record::{Event, OperationState};
    use muster_protocol::desired::check;
    use muster_protocol::enroll::Identity;
    use muster_protocol::hello::Reason;

    fn approved(draft: &mut Draft) -> MachineId {
        let id = enrolled(draft, Identity::default());
        approve(draft, id).expect("approved");
        id
    }

    fn nothing() -> Checked<Desired> {
        check(Desired::default()).expect("nothing is wrong with nothing")
    }

    #[test]
    fn a_new_machine_waits_for_approval_and_may_not_be_configured() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        assert_eq!(draft.need::<Machine>(&id).expect("there").lifecycle, Lifecycle::Pending);
        assert!(matches!(set_desired(&mut draft, id, nothing(), None, None), Err(Refusal::Conflict(_))));
        approve(&mut draft, id).expect("approved");
        assert!(set_desired(&mut draft, id, nothing(), None, None).is_ok());
    }

    #[test]
    fn whoever_waits_for_approval_does_not_fill_the_event_feed_by_starting_again() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        let start = |draft: &mut Draft, n: u8| {
            hello(draft, id, BootId::from_bytes([n; 16]), Progress::Idle).expect("hello");
            draft.state().events.iter().filter(|event| event.kind == "machine.booted").count()
        };
        assert_eq!([start(&mut draft, 1), start(&mut draft, 2)], [0, 0]);
        approve(&mut draft, id).expect("approved");
        assert_eq!([start(&mut draft, 2), start(&mut draft, 3)], [0, 1]);
    }

    #[test]
    fn generations_only_grow_and_the_earlier_operation_ends() {
        let mut draft = draft();
        let id = approved(&mut draft);
        let first = set_desired(&mut draft, id, nothing(), None, None).expect("set");
        let second = set_desired(&mut draft, id, nothing(), None, Some(Generation(1))).expect("set");
        assert_eq!(second.kind, OperationKind::Apply { generation: Generation(2) });
        assert!(draft.need::<Operation>(&first.id).expect("there").state.is_ended());
        assert_eq!(
            set_desired(&mut draft, id, nothing(), None, Some(Generation(1))),
            Err(Refusal::Outdated { kind: "desired state" })
        );
    }

    #[test]
    fn a_confirmation_of_what_is_no_longer_desired_is_refused() {
        let mut draft = draft();
        let id = approved(&mut draft);
        set_desired(&mut draft, id, nothing(), None, None).expect("set");
        let digest = draft.need::<DesiredState>(&id).expect("there").digest;
        let times = Times { make_ms: 1_200, prove_ms: 800, ..Times::default() };
        assert!(confirm(&mut draft, id, Generation(2), digest, times).is_err());
        assert!(confirm(&mut draft, id, Generation(1), Digest::of(b"other"), times).is_err());
        confirm(&mut draft, id, Generation(1), digest, times).expect("answered");
        progress(&mut draft, id, &Progress::Confirmed { generation: Generation(1) }).expect("noted");
        let operation = following(draft.state(), id).and_then(|o| draft.get::<Operation>(&o).cloned()).expect("there");
        assert_eq!(operation.state, OperationState::Succeeded);
        assert_eq!(operation.outcome, Some(Outcome { ending: Ending::Confirmed, times }));
        assert!(newest(&draft).ends_with("generation 1 is confirmed after 2.0 s"), "{}", newest(&draft));
        // The agent says it again, and knows no times then.
        progress(&mut draft, id, &Progress::Confirmed { generation: Generation(1) }).expect("noted");
        assert_eq!(draft.need::<Operation>(&operation.id).expect("there"), operation);
    }

    #[test]
    fn what_a_machine_gave_up_is_confirmed_no_more() {
        let mut draft = draft();
        let id = approved(&mut draft);
        set_desired(&mut draft, id, nothing(), None, None).expect("set");
        let digest = draft.need::<DesiredState>(&id).expect("there").digest;
        let (generation, reason, times) = (Generation(1), Reason::ControllerSilent, Times::default());
        let given_up = Progress::Reverted { generation, reason, why: "no answer".into(), times };
        progress(&mut draft, id, &given_up).expect("noted");
        // It was on its way for long, over another connection.
        assert!(matches!(confirm(&mut draft, id, generation, digest, times), Err(Refusal::Conflict(_))));
        assert_eq!(draft.need::<Machine>(&id).expect("there").outcome, given_up);
    }

    #[test]
    fn what_was_reverted_is_seen_with_its_reason_and_its_times() {
        let mut draft = draft();
        let id = approved(&mut draft);
        let operation = set_desired(&mut draft, id, nothing(), None, None).expect("set");
        let (generation, reason) = (Generation(1), Reason::NoGateway);
        let times = Times { switch_ms: 300, prove_ms: 10_000, revert_ms: 2_000, ..Times::default() };
        let why = "192.0.2.1 does not answer".to_owned();
        let reverted = Progress::Reverted { generation, reason, why, times };
        progress(&mut draft, id, &reverted).expect("noted");
        assert_eq!(draft.need::<Machine>(&id).expect("there").outcome, reverted);
        let ended = draft.need::<Operation>(&operation.id).expect("there");
        let why = "reverted: no-gateway: 192.0.2.1 does not answer".to_owned();
        assert_eq!(ended.state, OperationState::Failed { why });
        assert_eq!(ended.outcome, Some(Outcome { ending: Ending::Reverted { reason }, times }));
        let told = draft.state().events.iter().find(|e| e.kind == "machine.reverted").expect("there").text.clone();
        assert!(
            told.ends_with("generation 1 was reverted after 12.3 s: no-gateway: 192.0.2.1 does not answer"),
            "{told}"
        );

        let operation = set_desired(&mut draft, id, nothing(), None, None).expect("set");
        let (generation, reason) = (Generation(2), Reason::VerifyDiffers);
        let failed = Progress::RevertFailed { generation, reason, why: "both".into(), times };
        progress(&mut draft, id, &failed).expect("noted");
        let ended = draft.need::<Operation>(&operation.id).expect("there");
        assert!(matches!(ended.state, OperationState::Failed { why } if why == "revert failed: verify-differs: both"));
        assert_eq!(ended.outcome, Some(Outcome { ending: Ending::RevertFailed { reason }, times }));
    }

    /// What the newest event about a machine says.
    fn newest(draft: &Draft) -> String {
        let of_machines = |event: &&Event| event.kind.starts_with("machine.");
        draft.state().events.iter().rev().find(of_machines).expect("there is one").text.clone()
    }

    #[test]
    fn a_power_wish_for_one_boot_is_one_operation_and_done_when_another_boot_comes() {
        let mut draft = draft();
        let id = approved(&mut draft);
        let (old, new) = (BootId::from_bytes([1; 16]), BootId::from_bytes([2; 16]));
        hello(&mut draft, id, old, Progress::Idle).expect("hello");
        let first = power(&mut draft, id, PowerAction::Reboot, old).expect("asked");
        let again = power(&mut draft, id, PowerAction::Reboot, old).expect("asked");
        assert_eq!(first.id, again.id);
        operation::accepted(&mut draft, first.id).expect("running");
        hello(&mut draft, id, new, Progress::Idle).expect("hello");
        assert_eq!(draft.need::<Operation>(&first.id).expect("there").state, OperationState::Succeeded);
    }

    #[test]
    fn a_reboot_whose_acceptance_was_lost_is_done_when_another_boot_comes_and_a_power_off_is_not() {
        let mut draft = draft();
        let id = approved(&mut draft);
        let (old, new) = (BootId::from_bytes([1; 16]), BootId::from_bytes([2; 16]));
        hello(&mut draft, id, old, Progress::Idle).expect("hello");
        let reboot = power(&mut draft, id, PowerAction::Reboot, old).expect("asked");
        let off = power(&mut draft, id, PowerAction::Off, old).expect("asked");
        hello(&mut draft, id, new, Progress::Idle).expect("hello");
        let state = |draft: &Draft, id| draft.need::<Operation>(&id).expect("there").state;
        assert_eq!(state(&draft, reboot.id), OperationState::Succeeded);
        assert!(matches!(state(&draft, off.id), OperationState::Failed { .. }));
    }

    #[test]
    fn a_power_command_that_was_accepted_and_came_to_nothing_has_failed() {
        let mut draft = draft();
        let id = approved(&mut draft);
        let boot = BootId::from_bytes([1; 16]);
        hello(&mut draft, id, boot, Progress::Idle).expect("hello");
        let operation = power(&mut draft, id, PowerAction::Reboot, boot).expect("asked");
        operation::accepted(&mut draft, operation.id).expect("running");
        hello(&mut draft, id, boot, Progress::Idle).expect("hello");
        let state = draft.need::<Operation>(&operation.id).expect("there").state;
        assert!(matches!(state, OperationState::Failed { why } if why.contains("still up")));
    }

    #[test]
    fn a_machine_is_found_by_id_prefix_name_and_claim_code() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        rename(&mut draft, id, "kitchen").expect("renamed");
        for text in [id.to_string(), id.to_string()[..6].to_owned(), "kitchen".to_owned()] {
            assert_eq!(lookup(draft.state(), &text), Ok(id), "{text}");
        }
        assert!(lookup(draft.state(), "cellar").is_err());
        let claim = draft.need::<Machine>(&id).expect("there").claim;
        for typed in [claim.clone(), claim.to_lowercase(), claim.replace('-', "")] {
            assert_eq!(lookup(draft.state(), &typed), Ok(id), "{typed}");
        }
        approve(&mut draft, id).expect("approved");
        assert_eq!(lookup(draft.state(), &claim), Ok(id), "it is approved already");
    }

    #[test]
    fn a_retired_machine_is_found_by_its_name_unless_another_one_has_it_now() {
        let mut draft = draft();
        let box_number = |n: u8| Identity { system_serial: format!("SYS-{n}"), ..Identity::default() };
        let [first, second] = [1, 2].map(|n| enrolled(&mut draft, box_number(n)));
        let (mut draft, rename_to_kitchen) =
            (draft, |draft: &mut Draft, id| rename(draft, id, "kitchen").expect("renamed"));
        rename_to_kitchen(&mut draft, first);
        retire(&mut draft, first).expect("retired");
        assert_eq!(lookup(draft.state(), "kitchen"), Ok(first));
        rename_to_kitchen(&mut draft, second);
        assert_eq!(lookup(draft.state(), "kitchen"), Ok(second));
        retire(&mut draft, second).expect("retired");
        let both = lookup(draft.state(), "kitchen").expect_err("which one?").to_string();
        assert!(both.contains(&first.to_string()) && both.contains(&second.to_string()), "{both}");
    }

    #[test]
    fn a_name_does_not_look_like_an_id_or_a_claim_code() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        for wrong in [&id.to_string(), &id.to_string()[..8], "DEADBEEF-0b7", "20261121", "KX4M-7QPD", "kx4m7qpd"] {
            let refused = rename(&mut draft, id, wrong).expect_err(wrong).to_string();
            assert!(refused.starts_with("name: ") && refused.contains("box-"), "{refused}");
        }
        for right in ["cafe", "rack-b2", "ber1-3f2a9c", "20261121.b", "box-20261121", "kitchens"] {
            rename(&mut draft, id, right).expect(right);
        }
        // One that was given before there was this rule stays, and is found by it.
        let machine = draft.need::<Machine>(&id).expect("there");
        save(&mut draft, Machine { name: "deadbeef".into(), ..machine });
        label(&mut draft, id, BTreeMap::from([("rack".into(), Some("b2".into()))])).expect("labeled");
        assert_eq!(lookup(draft.state(), "deadbeef"), Ok(id));
    }
}
