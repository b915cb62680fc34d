//! Operations: durable work with a kind, a state, a progress and a receipt.
//!
//! An operation is driven from outside: [`next_call`] says what the agent must be told, the other functions take in what
//! came of it. All of it is decided from durable state, so a controller that was killed goes on where it was.

pub mod confirmed;
pub mod drift;
pub mod outcome;
pub mod proven;
pub mod record;
#[cfg(test)]
mod stored;
pub mod switch;
pub mod wipe;

use muster_protocol::hello::{Progress, Times};
use muster_protocol::to_agent::{Call, Power, PowerAction, Wipe};
use muster_protocol::to_controller::{WipeReceipt, Work};
use muster_protocol::{BootId, Generation, MachineId, OperationId};

use super::draft::cut;
use super::machine::controls::Switch;
use super::record::{Decommission, Operation, OperationKind, OperationState, OperationStep};
use super::{Draft, Facts, Refusal, State};
use outcome::{Ending, Outcome};
use record::Switching;

/// A reboot, a power-off or a wipe that no agent took on within this time fails: nobody wants one of last week.
pub const BEGIN_WITHIN_MS: u64 = 10 * 60 * 1000;

/// A machine that accepted a reboot and is not back so long after the command's own deadline is taken for lost.
const REBOOTS_WITHIN_MS: u64 = 20 * 60 * 1000;

/// How many operations that have ended are kept; the first to end goes first.
const ENDED_KEPT: usize = 20_000;

/// How many steps are kept; later ones replace the last.
const STEPS_KEPT: usize = 64;

/// Of one step's text: all of them stay well below what a record may have.
const STEP_BYTES: usize = 512;

/// Begins an operation in state queued.
pub fn open(
    draft: &mut Draft,
    machine: MachineId,
    kind: OperationKind,
    begin_by_unix_ms: Option<u64>,
) -> Result<Operation, Refusal> {
    let operation = Operation {
        id: OperationId::from_bytes(draft.random()),
        machine,
        kind,
        state: OperationState::Queued,
        percent: 0,
        steps: Vec::new(),
        receipt: String::new(),
        outcome: None,
        who: draft.author.who.clone(),
        created_unix_ms: draft.now_unix_ms(),
        ended_unix_ms: None,
        begin_by_unix_ms,
    };
    draft.put(operation.clone());
    forget_old(draft);
    draft.event("operation.queued", operation.id, describe(&operation.kind));
    Ok(operation)
}

/// Two that ended go where one begins, so that there are never many more than [`ENDED_KEPT`].
fn forget_old(draft: &mut Draft) {
    for _ in 0..2 {
        if let Some(oldest) = draft.state().ended_beyond(ENDED_KEPT) {
            draft.delete::<Operation>(&oldest);
        }
    }
}

/// What an operation does, in a few words.
pub fn describe(kind: &OperationKind) -> String {
    match kind {
        OperationKind::Apply { generation } => format!("apply generation {generation}"),
        OperationKind::Power { action: PowerAction::Reboot, .. } => "reboot".into(),
        OperationKind::Power { action: PowerAction::Off, .. } => "power off".into(),
        OperationKind::Wipe { disks, level } => {
            let level = wipe::word(*level);
            match disks.len() {
                1 => format!("wipe 1 disk, level {level}"),
                count => format!("wipe {count} disks, level {level}"),
            }
        }
        OperationKind::Provision { lease, .. } => format!("provision for lease {lease}"),
        OperationKind::Decommission { lease, .. } => format!("decommission lease {lease}"),
        OperationKind::Switch { action, .. } => format!("{} the machine from outside", action.word()),
    }
}

/// What the machine's agent must be told now for this operation; `None` where it is not the agent's turn.
///
/// Sending it twice does no harm: agents know operations by their id. Desired states travel by generation and not here.
pub fn next_call(operation: &Operation) -> Option<Call> {
    let id = operation.id;
    if operation.state.is_ended() {
        return None;
    }
    match &operation.kind {
        OperationKind::Apply { .. } | OperationKind::Provision { .. } | OperationKind::Switch { .. } => None,
        OperationKind::Power { action, boot } => {
            Some(Call::Power(Power { operation: id, boot: *boot, action: *action }))
        }
        OperationKind::Wipe { disks, level }
        | OperationKind::Decommission { disks, level, stage: Decommission::Wipe, .. } => {
            Some(Call::Wipe(Wipe { operation: id, disks: disks.clone(), level: *level }))
        }
        OperationKind::Decommission { stage: Decommission::Reboot { boot }, .. } => {
            Some(Call::Power(Power { operation: id, boot: *boot, action: PowerAction::Reboot }))
        }
    }
}

/// The agent has taken it on.
pub fn accepted(draft: &mut Draft, id: OperationId) -> Result<(), Refusal> {
    let mut operation = draft.need::<Operation>(&id)?;
    if operation.state == OperationState::Queued {
        operation.state = OperationState::Running;
        note(draft, &mut operation, "accepted by the agent");
        draft.event("operation.running", id, describe(&operation.kind));
        draft.put(operation);
    }
    Ok(())
}

/// The agent refuses: the operation has failed.
pub fn refused(draft: &mut Draft, id: OperationId, why: &str) -> Result<(), Refusal> {
    let operation = draft.need::<Operation>(&id)?;
    end(draft, operation, OperationState::Failed { why: why.to_owned() }, "")
}

/// The machine is at work on a generation; kept in the operation that follows it.
pub fn applying(
    draft: &mut Draft,
    machine: MachineId,
    generation: Generation,
    percent: u8,
    step: &str,
) -> Result<(), Refusal> {
    outlived(draft, machine, generation)?;
    let Some(mut operation) = following(draft, machine, generation) else { return Ok(()) };
    let news = operation.steps.last().is_none_or(|last| last.text != step);
    if operation.state == OperationState::Running && !news {
        return Ok(());
    }
    operation.state = OperationState::Running;
    operation.percent = percent.min(100);
    note(draft, &mut operation, step);
    draft.put(operation);
    Ok(())
}

/// A generation came to an end on the machine; so does the operation that follows it.
/// `confirmed` is how long it took where it was confirmed.
pub fn settled(
    draft: &mut Draft,
    machine: MachineId,
    generation: Generation,
    how: &Progress,
    confirmed: Times,
) -> Result<(), Refusal> {
    // What is refused may be so beside a generation that is under way.
    if !matches!(how, Progress::Refused { .. }) {
        outlived(draft, machine, generation)?;
    }
    let Some(mut operation) = following(draft, machine, generation) else { return Ok(()) };
    let state = match how {
        Progress::Idle | Progress::Applying { .. } => return Ok(()),
        Progress::Confirmed { .. } => OperationState::Succeeded,
        Progress::Refused { why, .. } => OperationState::Failed { why: format!("refused: {why}") },
        Progress::Reverted { reason, why, .. } => {
            OperationState::Failed { why: format!("reverted: {}: {why}", outcome::word(*reason)) }
        }
        Progress::RevertFailed { reason, why, .. } => {
            OperationState::Failed { why: format!("revert failed: {}: {why}", outcome::word(*reason)) }
        }
    };
    operation.outcome = Outcome::of(how, confirmed);
    end(draft, operation, state, &format!("generation {generation} is in force"))
}

/// Another boot of the machine said hello: what waited for that is done.
///
/// A reboot that nobody is known to have accepted is done as well: the answer was lost, or it came about by other means.
pub fn booted(draft: &mut Draft, machine: MachineId, now: BootId) -> Result<(), Refusal> {
    let waiting: Vec<Operation> = unfinished(draft, machine);
    for operation in waiting {
        match &operation.kind {
            OperationKind::Power { boot, action } if *boot != now => match (action, &operation.state) {
                (PowerAction::Reboot, _) => {
                    end(draft, operation, OperationState::Succeeded, &format!("the machine is back with boot {now}"))?;
                }
                (PowerAction::Off, OperationState::Running) => {
                    end(
                        draft,
                        operation,
                        OperationState::Succeeded,
                        "the machine was off, and has been switched on since",
                    )?;
                }
                _ => {
                    let why = "the machine started anew before the command reached it".to_owned();
                    end(draft, operation, OperationState::Failed { why }, "")?;
                }
            },
            OperationKind::Decommission { stage: Decommission::Reboot { boot }, .. } if *boot != now => {
                end(draft, operation, OperationState::Succeeded, &format!("disks wiped, clean agent with boot {now}"))?;
            }
            // Also where nobody was told, or nobody knows what came of that: it is what was wanted.
            OperationKind::Switch { action: Switch::On | Switch::Restart | Switch::Cycle, .. } => {
                end(draft, operation, OperationState::Succeeded, &format!("the machine is back with boot {now}"))?;
            }
            // A wipe that a reboot interrupted begins again: it is the same wish, and wiping twice does no harm.
            _ => {}
        }
    }
    Ok(())
}

/// A boot said hello that had accepted to end: it could not.
pub fn stayed(draft: &mut Draft, machine: MachineId, boot: BootId) -> Result<(), Refusal> {
    for operation in unfinished(draft, machine) {
        if matches!(operation.kind, OperationKind::Power { boot: ends, .. } if ends == boot)
            && operation.state == OperationState::Running
        {
            let why = "the machine accepted it and is still up; its console says why, then ask again".to_owned();
            end(draft, operation, OperationState::Failed { why }, "")?;
        }
    }
    Ok(())
}

/// Whether this is done as soon as its machine has gone: a power-off, and a reboot to where no agent comes back from.
pub fn ends_by_leaving(state: &State, operation: &Operation) -> bool {
    operation.state == OperationState::Running
        && match &operation.kind {
            OperationKind::Power { action: PowerAction::Off, .. } => true,
            OperationKind::Power { action: PowerAction::Reboot, .. } => {
                super::lease::handover::of(state, operation.machine).is_some()
            }
            _ => false,
        }
}

/// A machine that accepted to leave, as [`ends_by_leaving`] says, has been seen to go.
pub fn gone(draft: &mut Draft, machine: MachineId, was: BootId) -> Result<(), Refusal> {
    for operation in unfinished(draft, machine) {
        if ends_by_leaving(draft.state(), &operation)
            && matches!(operation.kind, OperationKind::Power { boot, .. } if boot == was)
        {
            end(draft, operation, OperationState::Succeeded, "the machine left after it accepted")?;
        }
    }
    Ok(())
}

/// What an agent tells of a wipe.
pub fn work(draft: &mut Draft, machine: MachineId, id: OperationId, boot: BootId, state: Work) -> Result<(), Refusal> {
    let mut operation = draft.need::<Operation>(&id)?;
    if operation.machine != machine {
        return Err(Refusal::NotFound { kind: "operation", name: id.to_string() });
    }
    if operation.state.is_ended() {
        return Ok(());
    }
    match state {
        Work::Running { percent, step } => {
            operation.state = OperationState::Running;
            operation.percent = percent.min(100);
            note(draft, &mut operation, &step);
            draft.put(operation);
            Ok(())
        }
        Work::Failed { why } => end(draft, operation, OperationState::Failed { why }, ""),
        Work::Done { receipts } => {
            let receipt = receipts.iter().map(describe_receipt).collect::<Vec<_>>().join("; ");
            match operation.kind.clone() {
                OperationKind::Wipe { disks, .. } => {
                    if super::lease::is_all(draft.state(), operation.machine, &disks) {
                        super::machine::keys::destroy(draft, operation.machine);
                    }
                    end(draft, operation, OperationState::Succeeded, &receipt)
                }
                OperationKind::Decommission { lease, disks, level, stage: Decommission::Wipe } => {
                    let stage = Decommission::Reboot { boot };
                    operation.kind = OperationKind::Decommission { lease, disks, level, stage };
                    operation.receipt = receipt.clone();
                    operation.percent = 90;
                    note(draft, &mut operation, &receipt);
                    draft.put(operation);
                    Ok(())
                }
                _ => Ok(()),
            }
        }
    }
}

fn describe_receipt(receipt: &WipeReceipt) -> String {
    let WipeReceipt { disk, method, size_bytes, bytes, verified_bytes, milliseconds } = receipt;
    format!("{disk} {method}: {bytes} of {size_bytes} bytes, {verified_bytes} read back as zeros, {milliseconds} ms")
}

/// Takes an operation back that nobody has begun.
pub fn cancel(draft: &mut Draft, id: OperationId) -> Result<(), Refusal> {
    let operation = draft.need::<Operation>(&id)?;
    match (&operation.state, &operation.kind) {
        (
            OperationState::Queued | OperationState::Running,
            OperationKind::Switch { stage: Switching::Waiting { .. }, .. },
        )
        | (OperationState::Queued, OperationKind::Power { .. } | OperationKind::Wipe { .. }) => {
            let word = if operation.state == OperationState::Queued { "queued" } else { "running" };
            draft.audit("operation.cancelled", id, Facts::one("state", word), Facts::one("state", "cancelled"));
            end(draft, operation, OperationState::Cancelled, "")
        }
        (OperationState::Queued, OperationKind::Apply { .. }) => {
            Err(Refusal::Conflict("a desired state is taken back by applying another one".into()))
        }
        (OperationState::Queued, _) => {
            Err(Refusal::Conflict("the lease decides about this operation; end the lease".into()))
        }
        (OperationState::Running, _) => {
            Err(Refusal::Conflict("the machine is at work on it; it cannot be taken back".into()))
        }
        _ => Err(Refusal::Conflict("the operation is over".into())),
    }
}

/// Fails what should have begun by now, and reboots that nobody came back from; as much of it as one batch takes.
pub fn expire(draft: &mut Draft) -> Result<(), Refusal> {
    let now = draft.now_unix_ms();
    let is_reboot = |o: &Operation| matches!(o.kind, OperationKind::Power { action: PowerAction::Reboot, .. });
    let late = |o: &&Operation| match (&o.state, o.begin_by_unix_ms) {
        (OperationState::Queued, Some(by)) => by < now,
        (OperationState::Running, Some(by)) => is_reboot(o) && by + REBOOTS_WITHIN_MS < now,
        _ => false,
    };
    let overdue: Vec<Operation> = draft.state().all_unfinished().filter(late).cloned().collect();
    for operation in overdue {
        if !draft.has_room() {
            break;
        }
        let why = match operation.state {
            OperationState::Running => "the machine accepted it and did not come back in time; look at its console",
            _ => "the machine was not reached in time; ask again when it is online",
        };
        let why = why.to_owned();
        end(draft, operation, OperationState::Failed { why }, "")?;
    }
    Ok(())
}

/// Ends the operations that follow a generation before `generation`. A document's that its machine has begun ends when the
/// machine says what came of it: nobody else knows.
pub fn supersede(draft: &mut Draft, machine: MachineId, generation: Generation) -> Result<(), Refusal> {
    for mut operation in earlier(draft, machine, generation) {
        if operation.state == OperationState::Running && matches!(operation.kind, OperationKind::Apply { .. }) {
            let why =
                format!("generation {generation} is to take its place; its machine undoes what is not proven of it");
            note(draft, &mut operation, &why);
            super::rollout::overtaken(draft, &operation, &why);
            draft.put(operation);
        } else {
            let why = format!("superseded: generation {generation} took its place before its machine had begun");
            end_superseded(draft, operation, why)?;
        }
    }
    Ok(())
}

/// The machine speaks of `generation`: it is not at work on an earlier one any more, and will not say how that came out.
fn outlived(draft: &mut Draft, machine: MachineId, generation: Generation) -> Result<(), Refusal> {
    for operation in earlier(draft, machine, generation) {
        let why = format!("superseded: generation {generation} took its place, and its machine said no more of it");
        end_superseded(draft, operation, why)?;
    }
    Ok(())
}

fn end_superseded(draft: &mut Draft, mut operation: Operation, why: String) -> Result<(), Refusal> {
    operation.outcome = Some(Outcome { ending: Ending::Superseded, times: Times::default() });
    end(draft, operation, OperationState::Failed { why }, "")
}

/// Those that follow a generation before this one.
fn earlier(draft: &Draft, machine: MachineId, than: Generation) -> Vec<Operation> {
    let is_earlier = |operation: &Operation| match operation.kind {
        OperationKind::Apply { generation } | OperationKind::Provision { generation, .. } => generation < than,
        _ => false,
    };
    unfinished(draft, machine).into_iter().filter(is_earlier).collect()
}

/// The generation that a boot was at work on and did not bring to an end, where that was an operator's wish. A lease's is
/// given again: nobody has it yet who could miss what was before.
pub fn cut_off(state: &State, machine: MachineId) -> Option<Generation> {
    let running = |o: &&Operation| o.state == OperationState::Running;
    state.unfinished(machine).filter(running).find_map(|o| match o.kind {
        OperationKind::Apply { generation } => Some(generation),
        _ => None,
    })
}

fn following(draft: &Draft, machine: MachineId, of: Generation) -> Option<Operation> {
    unfinished(draft, machine).into_iter().find(|o| match o.kind {
        OperationKind::Apply { generation } | OperationKind::Provision { generation, .. } => generation == of,
        _ => false,
    })
}

fn unfinished(draft: &Draft, machine: MachineId) -> Vec<Operation> {
    draft.state().unfinished(machine).cloned().collect()
}

fn note(draft: &Draft, operation: &mut Operation, text: &str) {
    let step = OperationStep { at_unix_ms: draft.now_unix_ms(), text: cut(text.to_owned(), STEP_BYTES) };
    operation.steps.truncate(STEPS_KEPT - 1);
    operation.steps.push(step);
}

/// Adds a step to one that has not ended, where its last step is another one.
pub(super) fn note_once(draft: &mut Draft, id: OperationId, text: &str) -> Result<(), Refusal> {
    let mut operation = draft.need::<Operation>(&id)?;
    if !operation.state.is_ended() && operation.steps.last().is_none_or(|last| last.text != text) {
        note(draft, &mut operation, text);
        draft.put(operation);
    }
    Ok(())
}

fn end(draft: &mut Draft, mut operation: Operation, state: OperationState, receipt: &str) -> Result<(), Refusal> {
    if operation.state.is_ended() {
        return Ok(());
    }
    let (kind, text) = match &state {
        OperationState::Succeeded => ("operation.succeeded", String::new()),
        OperationState::Failed { why } => ("operation.failed", format!(": {why}")),
        _ => ("operation.cancelled", String::new()),
    };
    if state == OperationState::Succeeded {
        operation.percent = 100;
        if operation.receipt.is_empty() {
            operation.receipt = receipt.to_owned();
        }
        note(draft, &mut operation, receipt);
    }
    operation.ended_unix_ms = Some(draft.now_unix_ms());
    operation.state = state;
    draft.event(kind, operation.id, format!("{}{text}", describe(&operation.kind)));
    draft.put(operation.clone());
    super::rollout::settled(draft, &operation);
    super::lease::ended(draft, &operation)
}

#[cfg(test)]
mod tests {
    use muster_protocol::hello::Reason;

    use super::confirmed::tests::{FIRST, SECOND, applying, confirm, given, member, want};
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::machine;
    use muster_protocol::to_agent::WipeLevel;

    /// A machine that is at work on generation 2 when a third one is desired, and the operations of both.
    fn overtaken() -> (Draft, MachineId, [Operation; 2]) {
        let mut draft = draft();
        let id = member(&mut draft);
        want(&mut draft, id, "one");
        confirm(&mut draft, id);
        let second = want(&mut draft, id, "two");
        machine::progress(&mut draft, id, &applying(2)).expect("noted");
        let third = want(&mut draft, id, "three");
        (draft, id, [second, third])
    }

    fn now(draft: &Draft, operation: &Operation) -> Operation {
        draft.need::<Operation>(&operation.id).expect("there")
    }

    #[test]
    fn what_is_overtaken_while_its_machine_is_at_work_on_it_ends_as_the_machine_says() {
        let (mut draft, id, [second, third]) = overtaken();
        let running = now(&draft, &second);
        assert_eq!((running.state, running.outcome), (OperationState::Running, None));
        assert!(running.steps.last().is_some_and(|step| step.text.contains("generation 3 is to take its place")));
        assert_eq!(now(&draft, &third).state, OperationState::Queued);

        let (generation, reason, why) = (Generation(2), Reason::Interrupted, "another generation".to_owned());
        let times = Times { prove_beside_ms: 3_000, revert_ms: 400, ..Times::default() };
        let reverted = Progress::Reverted { generation, reason, why, times };
        machine::progress(&mut draft, id, &reverted).expect("noted");
        let ended = now(&draft, &second);
        assert!(
            matches!(&ended.state, OperationState::Failed { why } if why.contains("interrupted: another")),
            "{ended:?}"
        );
        assert_eq!(ended.outcome, Some(Outcome { ending: Ending::Reverted { reason }, times }));
        assert_eq!(given(&draft, id, FIRST, reverted), Some(3));
        machine::progress(&mut draft, id, &Progress::Confirmed { generation: Generation(3) }).expect("noted");
        assert_eq!(now(&draft, &third).state, OperationState::Succeeded);
        assert_eq!(now(&draft, &second), ended);
    }

    #[test]
    fn what_is_overtaken_before_its_machine_has_begun_is_superseded_at_once() {
        let mut draft = draft();
        let id = member(&mut draft);
        let first = want(&mut draft, id, "one");
        want(&mut draft, id, "two");
        let ended = now(&draft, &first);
        let said = "superseded: generation 2 took its place before its machine had begun";
        assert_eq!(ended.state, OperationState::Failed { why: said.to_owned() });
        assert_eq!(ended.outcome.map(|outcome| outcome.ending), Some(Ending::Superseded));
    }

    #[test]
    fn what_is_overtaken_ends_where_its_machine_speaks_of_the_newer_one_and_no_more_of_it() {
        for said in [applying(3), Progress::Confirmed { generation: Generation(3) }] {
            let (mut draft, id, [second, third]) = overtaken();
            machine::progress(&mut draft, id, &said).expect("noted");
            let ended = now(&draft, &second);
            assert!(
                matches!(&ended.state, OperationState::Failed { why } if why.contains("said no more")),
                "{ended:?}"
            );
            assert_eq!(ended.outcome.map(|outcome| outcome.ending), Some(Ending::Superseded));
            assert_ne!(now(&draft, &third).state, OperationState::Queued);
        }
    }

    #[test]
    fn what_is_overtaken_ends_as_interrupted_where_its_machine_starts_anew() {
        let (mut draft, id, [second, third]) = overtaken();
        machine::hello(&mut draft, id, SECOND, Progress::Idle).expect("hello");
        let reverted = Ending::Reverted { reason: Reason::Interrupted };
        assert_eq!(now(&draft, &second).outcome.map(|outcome| outcome.ending), Some(reverted));
        assert_eq!(now(&draft, &third).state, OperationState::Queued);
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), Some(3));
    }

    #[test]
    fn a_power_command_that_nobody_took_fails_in_time_and_is_not_sent_any_more() {
        let mut draft = draft();
        let machine = MachineId::from_bytes([1; 16]);
        let kind = OperationKind::Power { action: PowerAction::Reboot, boot: BootId::from_bytes([1; 16]) };
        let by = draft.now_unix_ms() + BEGIN_WITHIN_MS;
        let operation = open(&mut draft, machine, kind, Some(by)).expect("opened");
        assert!(next_call(&operation).is_some());
        draft.advance_ms(BEGIN_WITHIN_MS + 1);
        expire(&mut draft).expect("looked");
        let operation = draft.need::<Operation>(&operation.id).expect("there");
        assert!(matches!(operation.state, OperationState::Failed { .. }));
        assert_eq!(next_call(&operation), None);
    }

    #[test]
    fn a_reboot_that_nobody_comes_back_from_fails_in_time() {
        let mut draft = draft();
        let machine = MachineId::from_bytes([1; 16]);
        let kind = OperationKind::Power { action: PowerAction::Reboot, boot: BootId::from_bytes([1; 16]) };
        let by = draft.now_unix_ms() + BEGIN_WITHIN_MS;
        let operation = open(&mut draft, machine, kind, Some(by)).expect("opened");
        accepted(&mut draft, operation.id).expect("running");
        let state = |draft: &Draft| draft.need::<Operation>(&operation.id).expect("there").state;
        draft.advance_ms(BEGIN_WITHIN_MS + 1);
        expire(&mut draft).expect("looked");
        assert_eq!(state(&draft), OperationState::Running, "firmware may take long");
        draft.advance_ms(REBOOTS_WITHIN_MS);
        expire(&mut draft).expect("looked");
        assert!(matches!(state(&draft), OperationState::Failed { why } if why.contains("did not come back")));
    }

    #[test]
    fn more_overdue_commands_than_a_batch_takes_fail_one_batch_after_the_other() {
        let by = BEGIN_WITHIN_MS;
        let mut draft = Draft::new(draft().state().clone(), 0);
        // Once the event feed is full, each event writes twice.
        (0..10_000).for_each(|n| draft.event("machine.booted", n, ""));
        for n in 0..2_000_u16 {
            let mut machine = [0; 16];
            machine[..2].copy_from_slice(&n.to_be_bytes());
            let kind = OperationKind::Power { action: PowerAction::Off, boot: BootId::from_bytes([1; 16]) };
            open(&mut draft, MachineId::from_bytes(machine), kind, Some(by)).expect("opened");
        }
        let mut batches = 0;
        while draft.state().operations.iter().any(|o| !o.state.is_ended()) {
            let mut batch = Draft::new(draft.state().clone(), by + 1);
            batch.attempt(expire).expect("looked");
            let (state, writes) = batch.finish();
            assert!((1..=crate::store::BATCH_LIMIT).contains(&writes.len()), "{} writes", writes.len());
            draft = Draft::new(state, by + 1);
            batches += 1;
        }
        assert!(batches > 1);
    }

    #[test]
    fn operations_that_ended_are_kept_for_long_and_not_for_ever() {
        let mut draft = Draft::new(draft().state().clone(), 0);
        let machine = MachineId::from_bytes([1; 16]);
        let mut first = None;
        for at in 0..=ENDED_KEPT as u64 {
            draft = Draft::new(draft.finish().0, at);
            let operation =
                open(&mut draft, machine, OperationKind::Wipe { disks: vec![], level: WipeLevel::Full }, None)
                    .expect("opened");
            refused(&mut draft, operation.id, "busy").expect("ended");
            first.get_or_insert(operation.id);
        }
        let waits = open(&mut draft, machine, OperationKind::Wipe { disks: vec![], level: WipeLevel::Full }, None)
            .expect("opened");
        assert_eq!(draft.get::<Operation>(&first.expect("there was a first")), None);
        assert_eq!(draft.state().operations.len(), ENDED_KEPT + 1, "and one that waits");
        assert_eq!(draft.state().unfinished(machine).map(|o| o.id).collect::<Vec<_>>(), [waits.id]);
    }

    #[test]
    fn what_another_machine_says_of_an_operation_is_not_heard() {
        let mut draft = draft();
        let (mine, other) = (MachineId::from_bytes([1; 16]), MachineId::from_bytes([2; 16]));
        let operation = open(&mut draft, mine, OperationKind::Wipe { disks: vec![], level: WipeLevel::Full }, None)
            .expect("opened");
        let boot = BootId::from_bytes([1; 16]);
        let done = Work::Done { receipts: vec![] };
        assert!(work(&mut draft, other, operation.id, boot, done.clone()).is_err());
        work(&mut draft, mine, operation.id, boot, done).expect("heard");
        assert_eq!(draft.need::<Operation>(&operation.id).expect("there").state, OperationState::Succeeded);
    }
}
