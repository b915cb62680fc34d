//! Rollouts: one template over many machines, in waves behind a canary, stopping by itself where a machine fails.
//!
//! | file | what it is |
//! | --- | --- |
//! | `select`, `values`, `template`, `check` | who is meant, and what each would be given: looked at before anything begins |
//! | `record` | what is stored |
//! | this one | what changes a rollout |
//! | `waves` | what comes next, a pure function of the state, of who is in contact, and of the time |
//! | `create`, `keep` | writing many machines down, and the loop that lets it go on |
//!
//! A machine is given its desired state as `muster apply` gives it, when its wave comes and not before, so that those of
//! later waves are as they were whatever becomes of the earlier ones.
//! How a machine came out is noted in the change that ends its operation: nothing is lost between two looks.

pub mod check;
pub mod create;
pub mod keep;
mod missing;
pub mod record;
pub mod select;
pub mod template;
#[cfg(test)]
mod tests;
pub mod values;
pub mod waves;

use std::collections::HashMap;

use muster_protocol::MachineId;
use muster_protocol::desired::{Desired, check};

use self::check::is_there;
use self::record::{Member, MemberKey, MemberState, Pace, Reach, Rollout, RolloutState, WaveSize, members};
use self::waves::{Contact, Step};
use super::draft::cut;
use super::record::{Machine, Operation, OperationKind, OperationState};
use super::{Author, Draft, Facts, Refusal, State, machine};
use crate::words::counted;

/// Rollouts that have ended and are kept; the first to end goes first.
const ENDED_KEPT: usize = 100;

/// Machines of rollouts that have ended, all together, where there is more than one such rollout.
const MEMBERS_KEPT: usize = 50_000;

/// Machines that one change gives their desired states: each is about fifteen writes.
const GIVEN_AT_ONCE: usize = 25;

/// Members that one change removes.
const REMOVED_AT_ONCE: usize = 300;

/// How many machines a refusal names.
const NAMED: usize = 5;

/// The longest reason that is kept.
const WHY_BYTES: usize = 512;

/// Looks whether a pace can be gone.
///
/// Errors: a wave of nobody, or what no record takes.
pub fn check_pace(pace: &Pace) -> Result<(), Refusal> {
    let most = 1_000_000;
    if !(1..=most).contains(&pace.canary) {
        return Err(Refusal::invalid("canary", "a canary is one machine at least"));
    }
    match pace.wave {
        WaveSize::Machines(count) if !(1..=most).contains(&count) => {
            return Err(Refusal::invalid("wave", "a wave is one machine at least"));
        }
        WaveSize::Percent(percent) if !(1..=100).contains(&percent) => {
            return Err(Refusal::invalid("wave", "a wave is 1% to 100% of the machines"));
        }
        WaveSize::Machines(_) | WaveSize::Percent(_) => {}
    }
    if pace.soak_ms > 24 * 3600 * 1000 {
        return Err(Refusal::invalid("soak_s", "a soak is a day at most"));
    }
    Ok(())
}

/// Begins to write a rollout down. Nobody is told of it before [`start`].
pub fn begin(draft: &mut Draft, selector: String, template: muster_protocol::Digest, pace: Pace) -> u64 {
    let number = draft.state().rollouts.iter().next_back().map_or(1, |last| last.number + 1);
    draft.put(Rollout {
        number,
        selector,
        template,
        pace,
        who: draft.author.who.clone(),
        created_unix_ms: draft.now_unix_ms(),
        ended_unix_ms: None,
        machines: 0,
        state: RolloutState::Preparing,
        wave: 0,
        left: 0,
    });
    number
}

/// All machines of a rollout are written: the canary's wave begins.
///
/// Errors: another rollout that has not ended has one of them; there is no canary, because nobody who would change is
/// online.
pub fn start(draft: &mut Draft, number: u64, online: impl Fn(MachineId) -> bool) -> Result<Rollout, Refusal> {
    let mut rollout = need(draft, number)?;
    if rollout.state != RolloutState::Preparing {
        return Err(Refusal::Conflict(format!("rollout {number} has begun")));
    }
    refuse_shared(draft.state(), number)?;
    let (mut all, mut changing, mut canary) = (0, 0, false);
    for member in members(draft.state(), number) {
        all += 1;
        changing += usize::from(member.is_in());
        canary |= member.is_in() && online(member.machine);
    }
    if changing > 0 && !canary {
        let who = counted(changing, "machine");
        let remedy = "the canary must be; wait for one, or apply to them one by one";
        return Err(Refusal::Conflict(format!("of {who} that would change none is online, and {remedy}")));
    }
    rollout.machines = all;
    rollout.left = rollout.pace.canary;
    rollout.state = RolloutState::Running;
    draft.audit("rollout.started", number, Facts::none(), facts(&rollout));
    let who = counted(all as usize, "machine");
    draft.event("rollout.started", number, format!("rollout {number} goes over {who}: {}", rollout.selector));
    draft.put(rollout.clone());
    Ok(rollout)
}

fn need(draft: &Draft, number: u64) -> Result<Rollout, Refusal> {
    draft.need::<Rollout>(&number)
}

/// Two rollouts never have a say in one machine.
fn refuse_shared(state: &State, number: u64) -> Result<(), Refusal> {
    let taken: HashMap<MachineId, u64> = (state.rollouts.iter())
        .filter(|other| other.number != number && matches!(other.state, RolloutState::Running | RolloutState::Paused))
        .flat_map(|other| members(state, other.number))
        .filter(|member| member.is_in())
        .map(|member| (member.machine, member.key.rollout))
        .collect();
    let shared: Vec<_> = members(state, number)
        .filter(|member| member.is_in())
        .filter_map(|member| Some((name(state, member.machine), *taken.get(&member.machine)?)))
        .collect();
    let Some((_, other)) = shared.first() else { return Ok(()) };
    let names: Vec<&str> = shared.iter().take(NAMED).map(|(name, _)| name.as_str()).collect();
    let more = shared.len() - names.len();
    let others = if more == 0 { String::new() } else { format!(" and {more} more") };
    let (names, is) = (names.join(", "), if shared.len() == 1 { "is" } else { "are" });
    Err(Refusal::Conflict(format!(
        "{names}{others} {is} in rollout {other}, which has not ended; wait for it, or end it with `muster rollout cancel {other}`"
    )))
}

/// What a machine is called.
pub fn name(state: &State, machine: MachineId) -> String {
    state.machines.get(&machine).map_or_else(|| machine.to_string(), |machine| machine.name.clone())
}

fn facts(rollout: &Rollout) -> Facts {
    let Pace { canary, wave, soak_ms, max_failures } = &rollout.pace;
    Facts::of([
        ("state", rollout.state.word().to_owned()),
        ("selector", rollout.selector.clone()),
        ("template", rollout.template.to_string()),
        ("machines", rollout.machines.to_string()),
        ("canary", canary.to_string()),
        ("wave", wave.to_string()),
        ("soak", format!("{} s", soak_ms / 1000)),
        ("max_failures", max_failures.to_string()),
    ])
}

impl std::fmt::Display for WaveSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Machines(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// `3`, or `25%`.
impl std::str::FromStr for WaveSize {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            let shown: String = text.chars().take(20).collect();
            Refusal::invalid(
                "wave",
                format!("must be a number of machines or a share of them like 25%, and is {shown:?}"),
            )
        };
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().map(Self::Percent).map_err(|_| wrong()),
            None => text.parse().map(Self::Machines).map_err(|_| wrong()),
        }
    }
}

/// Holds a rollout: machines that have their desired states go on, no other gets one.
pub fn pause(draft: &mut Draft, number: u64) -> Result<Rollout, Refusal> {
    turn(draft, number, "rollout.paused", RolloutState::Paused)
}

/// Lets a rollout go on that was held.
pub fn resume(draft: &mut Draft, number: u64) -> Result<Rollout, Refusal> {
    turn(draft, number, "rollout.resumed", RolloutState::Running)
}

/// Ends a rollout: machines that have their desired states keep them, no other gets one.
pub fn cancel(draft: &mut Draft, number: u64) -> Result<Rollout, Refusal> {
    turn(draft, number, "rollout.cancelled", RolloutState::Cancelled)
}

fn turn(draft: &mut Draft, number: u64, action: &'static str, to: RolloutState) -> Result<Rollout, Refusal> {
    let mut rollout = need(draft, number)?;
    match &rollout.state {
        state if *state == to => return Ok(rollout),
        RolloutState::Preparing => return Err(Refusal::NotFound { kind: "rollout", name: number.to_string() }),
        state if state.is_ended() => {
            return Err(Refusal::Conflict(format!("rollout {number} is over: it is {}", state.word())));
        }
        _ => {}
    }
    let before = Facts::one("state", rollout.state.word());
    rollout.state = to;
    draft.audit(action, number, before, Facts::one("state", rollout.state.word()));
    draft.event(action, number, format!("rollout {number} is {}", rollout.state.word()));
    end_if_over(draft, &mut rollout);
    draft.put(rollout.clone());
    Ok(rollout)
}

fn end_if_over(draft: &Draft, rollout: &mut Rollout) {
    if rollout.state.is_ended() {
        rollout.ended_unix_ms = Some(draft.now_unix_ms());
    }
}

/// Does what [`waves::look`] says comes next, as far as one change goes; nothing where nothing does.
pub fn advance(draft: &mut Draft, number: u64, contact: &dyn Fn(MachineId) -> Contact) -> Result<(), Refusal> {
    let mut rollout = need(draft, number)?;
    let Some(step) = waves::look(draft.state(), &rollout, contact, draft.now_unix_ms()).step else { return Ok(()) };
    match step {
        Step::Give(places) => {
            // It is done for whoever asked for the rollout.
            let controller =
                std::mem::replace(&mut draft.author, Author::new(&rollout.who, None, format!("rollout-{number}")));
            for place in places.into_iter().take(GIVEN_AT_ONCE) {
                if !draft.has_room() {
                    break;
                }
                give(draft, &mut rollout, place, contact)?;
            }
            draft.author = controller;
            draft.put(rollout);
            return Ok(());
        }
        Step::NextWave => {
            let done = waves::Tally::of(draft.state(), &rollout, contact);
            let wave = waves::called(rollout.wave);
            let text =
                format!("rollout {number}: {wave} is done, {} of {} are confirmed", done.confirmed, rollout.machines);
            draft.event("rollout.wave", number, text);
            rollout.wave += 1;
            rollout.left = waves::size(&rollout);
        }
        Step::Finish => {
            rollout.state = RolloutState::Finished;
            let tally = waves::Tally::of(draft.state(), &rollout, contact);
            draft.audit("rollout.finished", number, Facts::one("state", "running"), Facts::one("state", "finished"));
            draft.event("rollout.finished", number, format!("rollout {number} is finished: {tally}"));
        }
        Step::Stop(why) => {
            let why = cut(why, WHY_BYTES);
            let before = Facts::one("state", rollout.state.word());
            draft.audit(
                "rollout.stopped",
                number,
                before,
                Facts::of([("state", "stopped".into()), ("why", why.clone())]),
            );
            draft.event("rollout.stopped", number, format!("rollout {number} has stopped: {why}"));
            rollout.state = RolloutState::Stopped { why };
        }
    }
    end_if_over(draft, &mut rollout);
    draft.put(rollout);
    Ok(())
}

/// Gives one machine its desired state, unless it is in the rollout no more: then another one takes its place in the wave.
fn give(
    draft: &mut Draft,
    rollout: &mut Rollout,
    key: MemberKey,
    contact: &dyn Fn(MachineId) -> Contact,
) -> Result<(), Refusal> {
    let mut member = draft.need::<Member>(&key)?;
    let MemberState::Waiting { desired, seen } = member.state else { return Ok(()) };
    let id = member.machine;
    let machine = draft.need::<Machine>(&id)?;
    member.state = if machine.generation != seen {
        MemberState::Left { why: format!("generation {} was asked of it after the rollout began", machine.generation) }
    } else if is_there(draft.state(), &machine, &machine::whole(draft.state(), id, Desired::clone(&desired))) {
        MemberState::There
    } else {
        match draft.attempt(|draft| apply(draft, id, *desired)) {
            Ok(Operation { kind: OperationKind::Apply { generation }, .. }) => {
                rollout.left = rollout.left.saturating_sub(1);
                let reach = match contact(id) {
                    Contact::Online { .. } => Reach::Online,
                    Contact::Offline { .. } => Reach::Offline,
                };
                MemberState::Given { wave: rollout.wave, generation, reach }
            }
            Ok(_) => MemberState::Left { why: "it was given something else".into() },
            Err(why) => MemberState::Left { why: cut(why.to_string(), WHY_BYTES) },
        }
    };
    draft.put(member);
    Ok(())
}

fn apply(draft: &mut Draft, id: MachineId, desired: Desired) -> Result<Operation, Refusal> {
    let checked = check(desired).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Refusal::Conflict(format!("this version does not take it any more: {}", problems.join("; ")))
    })?;
    machine::set_desired(draft, id, checked, None, None)
}

/// What an operation follows is not desired any more, and its machine has yet to say what came of it. For a rollout that
/// machine has left: how it comes out is not the rollout's doing.
pub fn overtaken(draft: &mut Draft, operation: &Operation, why: &str) {
    let OperationKind::Apply { generation: of } = operation.kind else { return };
    let member = draft.state().rolling(operation.machine).and_then(|key| draft.get::<Member>(&key)).cloned();
    let is_given = |member: &Member| matches!(member.state, MemberState::Given { generation, .. } if generation == of);
    if let Some(mut member) = member.filter(is_given) {
        member.state = MemberState::Left { why: cut(why.to_owned(), WHY_BYTES) };
        draft.put(member);
    }
}

/// An operation has ended; where a rollout waits for it, that is how its machine came out.
pub fn settled(draft: &mut Draft, operation: &Operation) {
    let OperationKind::Apply { generation: of } = operation.kind else { return };
    let Some(mut member) = draft.state().rolling(operation.machine).and_then(|key| draft.get::<Member>(&key)).cloned()
    else {
        return;
    };
    let MemberState::Given { wave, generation, .. } = member.state else { return };
    if generation != of {
        return;
    }
    // Whether the machine itself said so; everything else is somebody's wish.
    let is_outcome = |machine: &Machine| machine.outcome.generation() == Some(generation);
    let is_its_word = draft.get::<Machine>(&operation.machine).is_some_and(is_outcome);
    member.state = match &operation.state {
        OperationState::Succeeded => MemberState::Confirmed { wave, generation, at_unix_ms: draft.now_unix_ms() },
        OperationState::Failed { why } => {
            let why = cut(why.clone(), WHY_BYTES);
            if is_its_word { MemberState::Failed { wave, generation, why } } else { MemberState::Left { why } }
        }
        OperationState::Cancelled => MemberState::Left { why: "its operation was cancelled".into() },
        OperationState::Queued | OperationState::Running => return,
    };
    draft.put(member);
}

/// Removes a rollout that was not started, or that is kept no longer; as much of it as one change takes.
/// Answers whether it is gone.
pub fn remove(draft: &mut Draft, number: u64) -> bool {
    let keys: Vec<MemberKey> = members(draft.state(), number).map(|member| member.key).take(REMOVED_AT_ONCE).collect();
    let is_all = keys.len() < REMOVED_AT_ONCE;
    keys.iter().for_each(|key| draft.delete::<Member>(key));
    if is_all {
        draft.delete::<Rollout>(&number);
    }
    is_all
}

/// The rollout that is kept no longer, if there is one.
pub fn outlived(state: &State) -> Option<u64> {
    let ended = || state.rollouts.iter().filter(|rollout| rollout.state.is_ended());
    let (count, machines) = ended().fold((0, 0), |(n, sum), rollout| (n + 1, sum + rollout.machines as usize));
    // The newest stays: the next one's number comes after it.
    let is_too_much = count > ENDED_KEPT || (machines > MEMBERS_KEPT && count > 1);
    let oldest = || ended().min_by_key(|rollout| (rollout.ended_unix_ms, rollout.number)).map(|rollout| rollout.number);
    is_too_much.then(oldest)?
}
