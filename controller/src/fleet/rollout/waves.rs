//! What comes next in a rollout. Pure: the state, who is in contact, and the time, in; a step, or what is waited for, out.
//!
//! **A wave** is over when each of its machines that is there has confirmed, and has been in contact without a break for
//! the soak since. Machines that were offline when they got their desired states hold nobody up: they come last, and
//! follow when they are back.
//!
//! **A failure** is a machine that refused or reverted, one that had begun and has not been seen for [`LOST_MS`], and one
//! that confirmed and is away for longer than [`AWAY_MS`] before its wave is over. One of the canary's stops a rollout
//! always, others when they are more than it allows.

use std::fmt;

use muster_protocol::hello::Progress;
use muster_protocol::{Generation, MachineId};

use super::name;
use super::record::{Member, MemberKey, MemberState, Reach, Rollout, RolloutState, WaveSize, members};
use crate::fleet::State;
use crate::fleet::record::{Machine, OperationState};
use crate::words::counted;

/// A machine that has begun and is away for so long has failed.
pub const LOST_MS: u64 = 5 * 60 * 1000;

/// A machine that has confirmed and is away for so long has failed, as long as its wave is not over.
pub const AWAY_MS: u64 = 30 * 1000;

/// How many machines a reason names.
const NAMED: usize = 3;

/// Whether a machine can be spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It has a session.
    Online {
        /// Since then without a break.
        since_unix_ms: u64,
    },
    /// It has none.
    Offline {
        /// Since then at least; where that is still to come, whether it is away is not known before.
        since_unix_ms: u64,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These get their desired states, in this order.
    Give(Vec<MemberKey>),
    /// The wave is over, and there are more machines.
    NextWave,
    /// The wave is over, and every machine has had its turn.
    Finish,
    /// Too many have failed.
    Stop(String),
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waits {
    /// Nothing.
    Nothing,
    /// A machine that could be the canary.
    Canary,
    /// Machines that have not come out yet.
    Machines {
        /// How many.
        count: usize,
        /// One of them.
        one: MachineId,
    },
    /// A machine that has confirmed and is away.
    Return(MachineId),
    /// The end of the soak.
    Soak {
        /// When that is, if nothing comes in between.
        until_unix_ms: u64,
    },
}

/// What a look at a rollout finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What is to be done now.
    pub step: Option<Step>,
    /// What is waited for where nothing is to be done.
    pub waits: Waits,
    /// When to look again though nothing has changed.
    pub again_unix_ms: Option<u64>,
}

impl Look {
    fn wait(waits: Waits, again_unix_ms: Option<u64>) -> Self {
        Self { step: None, waits, again_unix_ms }
    }

    fn step(step: Step) -> Self {
        Self { step: Some(step), waits: Waits::Nothing, again_unix_ms: None }
    }
}

/// What comes next.
pub fn look(state: &State, rollout: &Rollout, contact: &dyn Fn(MachineId) -> Contact, now_unix_ms: u64) -> Look {
    let is_paused = match rollout.state {
        RolloutState::Running => false,
        RolloutState::Paused => true,
        _ => return Look::wait(Waits::Nothing, None),
    };
    let mut found = Found { state, rollout, now_unix_ms, ..Found::new(state, rollout) };
    for member in members(state, rollout.number) {
        found.take(member, contact);
    }
    if let Some(why) = found.too_many() {
        return Look::step(Step::Stop(why));
    }
    if is_paused {
        return Look::wait(Waits::Nothing, found.again);
    }
    let has_more = !found.online.is_empty() || !found.offline.is_empty() || found.awaited.is_some();
    match found.next() {
        Turn::Of(next) => return Look::step(Step::Give(next)),
        Turn::OfNobodyYet => return Look::wait(Waits::Canary, None),
        Turn::OfWhoIsAwaited(machine) if found.pending.is_none() => {
            return Look::wait(Waits::Return(machine), found.again);
        }
        Turn::OfWhoIsAwaited(_) | Turn::Over => {}
    }
    if let Some((one, count)) = found.pending {
        return Look::wait(Waits::Machines { count, one }, found.again);
    }
    if let Some(machine) = found.away {
        return Look::wait(Waits::Return(machine), found.again);
    }
    match found.soaked_unix_ms {
        until if until > now_unix_ms => Look::wait(Waits::Soak { until_unix_ms: until }, Some(until)),
        _ if has_more => Look::step(Step::NextWave),
        _ => Look::step(Step::Finish),
    }
}

/// How many machines the wave that is under way has, at most.
pub fn size(rollout: &Rollout) -> u32 {
    match (rollout.wave, rollout.pace.wave) {
        (0, _) => rollout.pace.canary,
        (_, WaveSize::Machines(count)) => count,
        (_, WaveSize::Percent(percent)) => {
            (u64::from(rollout.machines) * u64::from(percent)).div_ceil(100).max(1) as u32
        }
    }
}

/// A wave for people.
pub fn called(wave: u32) -> String {
    if wave == 0 { "the canary's wave".into() } else { format!("wave {wave}") }
}

/// Whose turn it is in the wave that is under way.
enum Turn {
    Of(Vec<MemberKey>),
    /// Nobody is there who could be the canary.
    OfNobodyYet,
    /// One who may be on the way back.
    OfWhoIsAwaited(MachineId),
    /// All of them had theirs.
    Over,
}

struct Found<'s> {
    state: &'s State,
    rollout: &'s Rollout,
    now_unix_ms: u64,
    /// Waiting members.
    online: Vec<MemberKey>,
    offline: Vec<MemberKey>,
    /// One of those that have not been here since the controller's start: whether they are away is not known yet.
    awaited: Option<MachineId>,
    /// Members of this wave that are at work or have confirmed.
    in_wave: usize,
    /// Machines that have not come out yet.
    pending: Option<(MachineId, usize)>,
    /// A machine of this wave that has confirmed and is away.
    away: Option<MachineId>,
    soaked_unix_ms: u64,
    again: Option<u64>,
    failures: usize,
    canaries: usize,
    reasons: Vec<String>,
}

impl<'s> Found<'s> {
    fn new(state: &'s State, rollout: &'s Rollout) -> Self {
        Self {
            state,
            rollout,
            now_unix_ms: 0,
            online: Vec::new(),
            offline: Vec::new(),
            awaited: None,
            in_wave: 0,
            pending: None,
            away: None,
            soaked_unix_ms: 0,
            again: None,
            failures: 0,
            canaries: 0,
            reasons: Vec::new(),
        }
    }

    fn take(&mut self, member: &Member, contact: &dyn Fn(MachineId) -> Contact) {
        let id = member.machine;
        if let MemberState::Given { wave, .. } | MemberState::Confirmed { wave, .. } = &member.state {
            self.in_wave += usize::from(*wave == self.rollout.wave);
        }
        match &member.state {
            MemberState::There | MemberState::Left { .. } => {}
            MemberState::Waiting { .. } => match contact(id) {
                Contact::Online { .. } => self.online.push(member.key),
                Contact::Offline { since_unix_ms } if !self.is_over(since_unix_ms) => {
                    self.awaited.get_or_insert(id);
                }
                Contact::Offline { .. } => self.offline.push(member.key),
            },
            MemberState::Failed { wave, why, .. } => self.fail(id, *wave, why),
            MemberState::Given { wave, generation, reach } => match contact(id) {
                Contact::Online { .. } => self.pend(id),
                Contact::Offline { since_unix_ms } if has_begun(self.state, id, *generation, *reach) => {
                    self.pend(id);
                    if self.is_over(since_unix_ms + LOST_MS) {
                        self.fail(id, *wave, "it was given its desired state and has not come back since");
                    }
                }
                Contact::Offline { .. } => {}
            },
            MemberState::Confirmed { wave, generation, at_unix_ms } if *wave == self.rollout.wave => {
                let Some(machine) = self.state.machines.get(&id) else { return };
                if machine.generation != *generation {
                    // Somebody else's by now.
                    return;
                }
                if let Some(why) = undone(machine, *generation) {
                    return self.fail(id, *wave, why);
                }
                match contact(id) {
                    Contact::Online { since_unix_ms } => {
                        let from = since_unix_ms.max(*at_unix_ms);
                        self.soaked_unix_ms = self.soaked_unix_ms.max(from + self.rollout.pace.soak_ms);
                    }
                    Contact::Offline { since_unix_ms } => {
                        self.away.get_or_insert(id);
                        if self.is_over(since_unix_ms.max(*at_unix_ms) + AWAY_MS) {
                            self.fail(id, *wave, "it confirmed, and then it went away");
                        }
                    }
                }
            }
            MemberState::Confirmed { .. } => {}
        }
    }

    fn next(&mut self) -> Turn {
        let left = self.rollout.left as usize;
        let mut next = std::mem::take(&mut self.online);
        if self.rollout.wave > 0 {
            // Later waves take those first that are there.
            if self.awaited.is_none() {
                next.append(&mut self.offline);
            }
            next.truncate(left);
            return match (next.is_empty(), self.awaited) {
                (false, _) => Turn::Of(next),
                (true, Some(machine)) if left > 0 => Turn::OfWhoIsAwaited(machine),
                (true, _) => Turn::Over,
            };
        }
        // Somebody must be the canary: where it left the rollout, another one is. It must be there, and where fewer are
        // than were asked for, those are enough.
        let needed = if self.in_wave == 0 { left.max(1) } else { left };
        next.truncate(needed);
        match (next.is_empty(), self.in_wave, self.offline.is_empty() && self.awaited.is_none()) {
            (false, ..) => Turn::Of(next),
            (true, 0, false) => Turn::OfNobodyYet,
            (true, ..) => Turn::Over,
        }
    }

    fn pend(&mut self, id: MachineId) {
        self.pending.get_or_insert((id, 0)).1 += 1;
    }

    fn fail(&mut self, id: MachineId, wave: u32, why: &str) {
        self.failures += 1;
        self.canaries += usize::from(wave == 0);
        if self.reasons.len() < NAMED {
            self.reasons.push(format!("{}: {why}", name(self.state, id)));
        }
    }

    /// Whether this moment has come; the next look is then at the latest.
    fn is_over(&mut self, at_unix_ms: u64) -> bool {
        let is_over = at_unix_ms <= self.now_unix_ms;
        if !is_over {
            self.again = Some(self.again.map_or(at_unix_ms, |again| again.min(at_unix_ms)));
        }
        is_over
    }

    fn too_many(&self) -> Option<String> {
        if self.canaries == 0 && self.failures <= self.rollout.pace.max_failures as usize {
            return None;
        }
        let more = self.failures - self.reasons.len();
        let others = if more == 0 { String::new() } else { format!("; and {}", counted(more, "other machine")) };
        Some(format!("{}{others}", self.reasons.join("; ")))
    }
}

/// Whether a machine that is away may be on what it was given.
fn has_begun(state: &State, id: MachineId, generation: Generation, reach: Reach) -> bool {
    let is_running = || {
        let desired = state.desired.get(&id).filter(|desired| desired.generation == generation)?;
        Some(state.operations.get(&desired.operation)?.state == OperationState::Running)
    };
    reach == Reach::Online || is_running().unwrap_or(false)
}

/// What became of a generation after it was confirmed, if anything did.
fn undone(machine: &Machine, of: Generation) -> Option<&str> {
    match &machine.outcome {
        Progress::Refused { generation, why }
        | Progress::Reverted { generation, why, .. }
        | Progress::RevertFailed { generation, why, .. }
            if *generation == of =>
        {
            Some(why)
        }
        _ => None,
    }
}

/// How many machines are how far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Have not had their turn.
    pub waiting: usize,
    /// Are at work, or about to begin.
    pub applying: usize,
    /// Have their desired states, and are offline.
    pub offline: usize,
    /// Have confirmed.
    pub confirmed: usize,
    /// Have failed.
    pub failed: usize,
    /// Were so already.
    pub there: usize,
    /// Are in the rollout no more.
    pub left: usize,
}

impl Tally {
    /// Of a rollout.
    pub fn of(state: &State, rollout: &Rollout, contact: &dyn Fn(MachineId) -> Contact) -> Self {
        let mut tally = Self::default();
        for member in members(state, rollout.number) {
            *tally.count(member, contact(member.machine)) += 1;
        }
        tally
    }

    fn count(&mut self, member: &Member, contact: Contact) -> &mut usize {
        match (&member.state, contact) {
            (MemberState::Waiting { .. }, _) => &mut self.waiting,
            (MemberState::Given { .. }, Contact::Online { .. }) => &mut self.applying,
            (MemberState::Given { .. }, Contact::Offline { .. }) => &mut self.offline,
            (MemberState::Confirmed { .. }, _) => &mut self.confirmed,
            (MemberState::Failed { .. }, _) => &mut self.failed,
            (MemberState::There, _) => &mut self.there,
            (MemberState::Left { .. }, _) => &mut self.left,
        }
    }
}

/// `3 confirmed, 1 offline`: what there is none of is left out.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.confirmed, "confirmed"),
            (self.there, "as desired before"),
            (self.failed, "failed"),
            (self.applying, "applying"),
            (self.offline, "offline, to follow when back"),
            (self.left, "no longer in it"),
            (self.waiting, "waiting"),
        ];
        let said: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&said.join(", "))
    }
}
