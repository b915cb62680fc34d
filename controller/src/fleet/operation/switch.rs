//! Switching a machine from outside: a durable operation of a few tries, each of which asks what was named for the machine, in
//! order: its BMC, its outlet, its NICs.
//!
//! All decided here, on durable state; [`keep`] is the loop that carries it out. A try is on record before anybody is told.
//! So whoever comes after a controller that was killed knows that somebody may have been: what does no harm twice is tried
//! again, a restart is not.

pub mod keep;

use muster_protocol::{MachineId, OperationId};

use super::record::Switching;
use super::{end, note, open};
use crate::base::power::Failure;
use crate::fleet::machine::controls::{self, Controls, Switch};
use crate::fleet::record::{Operation, OperationKind, OperationState};
use crate::fleet::{Draft, Facts, Refusal, State, machine};

/// The pauses between tries; after the last one there is none.
const PAUSES_MS: [u64; 5] = [5_000, 15_000, 30_000, 60_000, 120_000];

/// Asking for the same so short a time after it was done is the same wish: answers get lost.
const SAME_MS: u64 = 20_000;

/// Has a machine switched from outside. Asking again while that is under way, or has just been done, is one wish.
///
/// Errors: the machine is not in; [`Refusal::Unswitchable`].
pub fn ask(draft: &mut Draft, id: MachineId, action: Switch) -> Result<Operation, Refusal> {
    if !controls::can(draft.state(), id, action) {
        return Err(Refusal::Unswitchable { wish: action });
    }
    machine::needs_in(draft, id)?;
    let is_same = |o: &Operation| matches!(o.kind, OperationKind::Switch { action: other, .. } if other == action);
    if let Some(running) = draft.state().unfinished(id).find(|o| is_same(o)) {
        return Ok(running.clone());
    }
    let mut known = draft.need::<Controls>(&id)?;
    let now = draft.now_unix_ms();
    let last = known.last.and_then(|last| draft.get::<Operation>(&last));
    let just = |o: &&Operation| {
        is_same(o) && o.state == OperationState::Succeeded && now.saturating_sub(o.ended_unix_ms.unwrap_or(0)) < SAME_MS
    };
    if let Some(done) = last.filter(just) {
        return Ok(done.clone());
    }
    let who = draft.get::<Operation>(&known.last.unwrap_or(OperationId::from_bytes([0; 16]))).map(|o| o.id);
    let before = who.map_or_else(Facts::none, |last| Facts::one("last", last));
    draft.audit("machine.switched", id, before, Facts::one("from outside", action.word()));
    let kind = OperationKind::Switch { action, tries: 0, stage: Switching::Waiting { until_unix_ms: now } };
    let operation = open(draft, id, kind, None)?;
    known.last = Some(operation.id);
    draft.put(known);
    Ok(operation)
}

/// The operations whose next try may begin, one for each machine, and when the next one may.
pub fn due(state: &State, now_unix_ms: u64) -> (Vec<OperationId>, Option<u64>) {
    let mut due: Vec<&Operation> = Vec::new();
    let mut next = None::<u64>;
    for operation in state.all_unfinished() {
        let OperationKind::Switch { stage: Switching::Waiting { until_unix_ms }, .. } = &operation.kind else {
            continue;
        };
        if *until_unix_ms > now_unix_ms {
            next = Some(next.map_or(*until_unix_ms, |next| next.min(*until_unix_ms)));
            continue;
        }
        // All of a machine's come together; the one that was asked for first goes first.
        match due.last_mut() {
            Some(other) if other.machine == operation.machine => {
                if operation.created_unix_ms < other.created_unix_ms {
                    *other = operation;
                }
            }
            _ => due.push(operation),
        }
    }
    (due.into_iter().map(|operation| operation.id).collect(), next)
}

/// A try begins: somebody is about to be told. Answers what is to be done; `None` where it is not any more.
pub fn begin(draft: &mut Draft, id: OperationId) -> Result<Option<(MachineId, Switch)>, Refusal> {
    let mut operation = draft.need::<Operation>(&id)?;
    let OperationKind::Switch { action, tries, stage: Switching::Waiting { .. } } = operation.kind else {
        return Ok(None);
    };
    if operation.state.is_ended() {
        return Ok(None);
    }
    operation.kind = OperationKind::Switch { action, tries: tries.saturating_add(1), stage: Switching::Telling };
    if operation.state == OperationState::Queued {
        operation.state = OperationState::Running;
        draft.event("operation.running", id, super::describe(&operation.kind));
    }
    operation.percent = 10;
    let answer = (operation.machine, action);
    draft.put(operation);
    Ok(Some(answer))
}

/// What came of asking one of those that were named, with its name.
pub type Told = (String, Result<String, Failure>);

/// Whether the next one is to be asked after this one.
pub fn goes_on(action: Switch, told: &Result<String, Failure>) -> bool {
    match told {
        Ok(_) => false,
        Err(Failure::Untold(_) | Failure::Refused(_)) => true,
        // Whoever was told may do it yet.
        Err(Failure::Unknown(_)) => action.is_idempotent(),
    }
}

/// A try came to an end: with the operation, or with another try to come.
pub fn tried(draft: &mut Draft, id: OperationId, told: &[Told]) -> Result<(), Refusal> {
    let mut operation = draft.need::<Operation>(&id)?;
    let OperationKind::Switch { action, tries, stage: Switching::Telling } = operation.kind else { return Ok(()) };
    if operation.state.is_ended() {
        return Ok(());
    }
    let said = told.iter().map(|(name, told)| match told {
        Ok(how) => format!("{name}: {how}"),
        Err(why) => format!("{name}: {why}"),
    });
    let said = said.collect::<Vec<_>>().join("; ");
    if told.iter().any(|(_, told)| told.is_ok()) {
        return end(draft, operation, OperationState::Succeeded, &said);
    }
    let is_unknown = told.iter().any(|(_, told)| matches!(told, Err(Failure::Unknown(_))));
    if is_unknown && !action.is_idempotent() {
        let why = format!("{said}. It may have been done, so it is not told again; look, and ask again if it was not");
        return end(draft, operation, OperationState::Failed { why }, "");
    }
    let is_final = told.iter().all(|(_, told)| matches!(told, Err(Failure::Refused(_))));
    let pause = PAUSES_MS.get(usize::from(tries).saturating_sub(1));
    match pause {
        Some(pause) if !is_final => {
            note(draft, &mut operation, &format!("{said}; the next try follows in {} s", pause / 1000));
            let stage = Switching::Waiting { until_unix_ms: draft.now_unix_ms() + pause };
            operation.kind = OperationKind::Switch { action, tries, stage };
            draft.put(operation);
            Ok(())
        }
        _ => end(draft, operation, OperationState::Failed { why: said }, ""),
    }
}

/// Ends tries that a controller before this one began and never ended. Answers whether there are more than a batch takes.
pub fn left_over(draft: &mut Draft) -> Result<bool, Refusal> {
    let telling = |o: &&Operation| matches!(o.kind, OperationKind::Switch { stage: Switching::Telling, .. });
    let all: Vec<OperationId> = draft.state().all_unfinished().filter(telling).map(|o| o.id).collect();
    for id in all {
        if !draft.has_room() {
            return Ok(true);
        }
        let why = Failure::Unknown("the controller ended while it was being told".into());
        tried(draft, id, &[("nobody knows".into(), Err(why))])?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
