//! Machines that are to be cleaned and have no agent, as those that ran Cycle's image: started anew from outside, so that the
//! agent comes up and is told to wipe.
//!
//! Where nothing was named that could do that, or it was of no use, the cleaning waits for the machine's next boot, whoever
//! brings that about.

use super::place::Online;
use crate::fleet::machine::controls::{self, Brought, Controls, Switch};
use crate::fleet::operation::{self, switch};
use crate::fleet::record::{Operation, OperationKind, OperationState};
use crate::fleet::{Draft, Refusal};

/// An agent that is about to dial in again is given this long.
const GRACE_MS: u64 = 60 * 1000;

/// One that has begun and left is given longer: it may be wiping while its network is away.
const AT_WORK_MS: u64 = 30 * 60 * 1000;

/// How long a machine may take from its start to its session.
const COMES_UP_MS: u64 = 15 * 60 * 1000;

/// How often one is started anew for the same cleaning.
const MOST: u8 = 3;

/// Looks at each machine that is being cleaned and has no session.
pub(super) fn bring(draft: &mut Draft, online: Online<'_>) -> Result<(), Refusal> {
    let waits = |o: &&Operation| matches!(o.kind, OperationKind::Decommission { .. }) && !online(o.machine);
    let waiting: Vec<Operation> = draft.state().all_unfinished().filter(waits).cloned().collect();
    for operation in waiting {
        if !draft.has_room() {
            break;
        }
        look(draft, &operation)?;
    }
    Ok(())
}

fn look(draft: &mut Draft, waiting: &Operation) -> Result<(), Refusal> {
    let (id, now) = (waiting.machine, draft.now_unix_ms());
    let since = |at: u64| now.saturating_sub(at);
    let heard = waiting.steps.last().map_or(waiting.created_unix_ms, |step| step.at_unix_ms);
    if since(waiting.created_unix_ms) < GRACE_MS
        || (waiting.state == OperationState::Running && since(heard) < AT_WORK_MS)
        || draft.state().unfinished(id).any(|other| matches!(other.kind, OperationKind::Switch { .. }))
    {
        return Ok(());
    }
    let action = [Switch::Restart, Switch::On].into_iter().find(|action| controls::can(draft.state(), id, *action));
    let brought = draft.get::<Controls>(&id).and_then(|known| known.brought).filter(|b| b.operation == waiting.id);
    let times = brought.map_or(0, |brought| brought.times);
    let Some(action) = action else {
        let why =
            "the machine has no session, and nothing was named that could restart it: this waits for its next boot";
        return operation::note_once(draft, waiting.id, why);
    };
    if brought.is_some_and(|brought| since(brought.at_unix_ms) < COMES_UP_MS) {
        return Ok(());
    }
    if times >= MOST {
        let why = format!("started anew {MOST} times, and no agent came up: this waits for the machine's next boot");
        return operation::note_once(draft, waiting.id, &why);
    }
    let began = switch::ask(draft, id, action)?;
    let mut known = draft.need::<Controls>(&id)?;
    known.brought = Some(Brought { operation: waiting.id, times: times + 1, at_unix_ms: now });
    draft.put(known);
    let text = format!("the machine has no session; operation {} is to {} it from outside", began.id, action.word());
    operation::note_once(draft, waiting.id, &text)
}
