//! The converge loop: brings what machines are closer to what is wanted of them, one call at a time.
//!
//! Level-triggered: what to say to a machine is decided by [`next`] from the durable state and from what its session says
//! now, and from nothing else, so a controller that was killed goes on where it was.
//! Started by the server, one task; sessions reach it through [`Agents`] only.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::hello::Progress;
use muster_protocol::to_agent::{Answer, Apply, Call, Refusal};
use muster_protocol::{BootId, Generation, MachineId, OperationId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::operation::confirmed::{self, Confirmed};
use super::operation::proven;
use super::record::{DesiredState, Operation, OperationKind, OperationState};
use super::{Author, Fleet, State, machine, operation};

/// The pause after a call that came to nothing; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between two tries at one machine.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often overdue operations are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// How long a controller that has just started waits for machines to dial in before it believes that one is gone.
const SETTLE: Duration = Duration::from_secs(120);

/// How many machines are spoken to at once.
const AT_ONCE: usize = 64;

/// A machine that has a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Online {
    /// Which one.
    pub machine: MachineId,
    /// This run of its agent.
    pub boot: BootId,
    /// Where it says it stands.
    pub progress: Progress,
}

/// What the loop needs of the sessions.
pub trait Agents: Clone + Send + Sync + 'static {
    /// Every machine that has a session now.
    fn online(&self) -> Vec<Online>;

    /// Changes whenever [`Agents::online`] may answer something else.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Asks one machine; `Err` where no answer came, in words.
    fn call(&self, machine: MachineId, call: Call) -> impl Future<Output = Result<Answer, String>> + Send;
}

/// What a call is for, so that its answer is noted in the right place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Reach this generation.
    Desired(Generation),
    /// Carry on this operation.
    Operation(OperationId),
}

/// What a machine must be told now, if anything.
///
/// Operations go before desired states: a machine that is to be wiped or rebooted needs no new network first.
/// `confirm_within_s` is how long a change of the network may take to prove itself.
pub fn next(state: &State, online: &Online, confirm_within_s: u16) -> Option<(Purpose, Call)> {
    let machine = state.machines.get(&online.machine)?;
    if !machine.lifecycle.is_in() {
        return None;
    }
    let mut open: Vec<_> = state.unfinished(online.machine).collect();
    if open.iter().any(|o| is_ending(o, online.boot)) {
        return None;
    }
    open.sort_by_key(|o| o.created_unix_ms);
    if let Some((operation, call)) = open.iter().find_map(|o| Some((o.id, operation::next_call(o)?))) {
        return Some((Purpose::Operation(operation), call));
    }
    if proven::is_open(state, online.machine, &online.progress) {
        return None;
    }
    let at = online.progress.generation();
    let (generation, desired, permit) = match state.desired.get(&online.machine) {
        Some(wanted) if !confirmed::is_given_up(wanted, &machine.outcome) => {
            let DesiredState { generation, desired, permit, .. } = wanted;
            at.is_none_or(|at| at < *generation).then(|| (*generation, desired.clone(), permit.clone()))?
        }
        // A boot that has nothing yet: what was confirmed last still holds. It destroys nothing any more.
        _ if at.is_none() => {
            let Confirmed { generation, desired, .. } = confirmed::fallback(state, online.machine, online.boot)?;
            (*generation, desired.clone(), None)
        }
        _ => return None,
    };
    let apply = Apply { generation, desired, permit, confirm_within_s };
    Some((Purpose::Desired(generation), Call::Apply(apply)))
}

/// Whether this boot has taken on to end: such a machine is left alone until another boot says hello.
fn is_ending(operation: &Operation, boot: BootId) -> bool {
    operation.state == OperationState::Running
        && matches!(operation.kind, OperationKind::Power { boot: ends, .. } if ends == boot)
}

/// Runs until the fleet or the sessions end.
pub async fn run(fleet: Fleet, agents: impl Agents, confirm_within_s: u16) {
    let (done, mut finished) = mpsc::channel(AT_ONCE);
    let mut states = fleet.watch();
    let mut changes = agents.changes();
    let mut pace = Pace::default();
    let mut departures = Departures { since: Instant::now(), seen: HashMap::new() };
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        let looked_at = Instant::now();
        let state = states.borrow_and_update().clone();
        changes.borrow_and_update();
        let online = agents.online();
        for (machine, boot) in departures.look(&state, &online) {
            // A refusal means that the store takes no writes now; the next look finds the same again.
            let _ = fleet.change(Author::controller(), move |draft| operation::gone(draft, machine, boot)).await;
        }
        for (machine, purpose, call) in choose(&state, &online, &pace, confirm_within_s) {
            pace.busy.insert(machine);
            let (fleet, agents, done) = (fleet.clone(), agents.clone(), done.clone());
            tokio::spawn(async move {
                tell(&fleet, &agents, machine, purpose, call).await;
                // The loop outlives its calls unless the process ends.
                let _ = done.send((machine, purpose)).await;
            });
        }
        let look = looked_at.elapsed();
        // Every arm is cancel-safe: what one misses, the next look at the state finds.
        tokio::select! {
            Some((machine, purpose)) = finished.recv() => pace.rest(machine, purpose),
            ended = news(&mut states, &state) => if ended { return },
            changed = changes.changed() => if changed.is_err() { return },
            () = pace.next_try() => {}
            _ = sweep.tick() => {
                let _ = fleet.change(Author::controller(), operation::expire).await;
            }
        }
        // A look goes over everybody. Pausing for as long as the last one took lets changes gather: with 10,000 machines
        // that change one after the other, looking after each would be all that the controller does.
        tokio::time::sleep(look).await;
        while let Ok((machine, purpose)) = finished.try_recv() {
            pace.rest(machine, purpose);
        }
    }
}

/// Resolves when there is a state in which machines may have to be told something else than in this one, or none any more:
/// then with true.
async fn news(states: &mut watch::Receiver<Arc<State>>, seen: &State) -> bool {
    states.wait_for(|new| !new.is_same_for_machines(seen)).await.is_err()
}

fn choose(state: &State, online: &[Online], pace: &Pace, confirm_within_s: u16) -> Vec<(MachineId, Purpose, Call)> {
    let idle = online.iter().filter(|online| !pace.busy.contains(&online.machine));
    idle.filter_map(|online| {
        let (purpose, call) = next(state, online, confirm_within_s)?;
        (!pace.is_resting(online.machine, purpose)).then_some((online.machine, purpose, call))
    })
    .take(AT_ONCE.saturating_sub(pace.busy.len()))
    .collect()
}

/// Makes one call and notes its answer in the fleet. What came to nothing is found again by the next look.
async fn tell(fleet: &Fleet, agents: &impl Agents, id: MachineId, purpose: Purpose, call: Call) {
    let author = Author::controller();
    let noted = match (purpose, agents.call(id, call).await) {
        (_, Err(_) | Ok(Answer::Refused(Refusal::Busy(_)) | Answer::Planned(_) | Answer::Observed(_))) => Ok(()),
        // How it goes comes as progress.
        (Purpose::Desired(_), Ok(Answer::Accepted)) => Ok(()),
        (Purpose::Desired(generation), Ok(Answer::Refused(why))) => {
            let progress = Progress::Refused { generation, why: why.to_string() };
            fleet.change(author, move |draft| machine::progress(draft, id, &progress)).await
        }
        (Purpose::Operation(operation), Ok(Answer::Accepted)) => {
            fleet.change(author, move |draft| operation::accepted(draft, operation)).await
        }
        (Purpose::Operation(operation), Ok(Answer::Refused(why))) => {
            let why = why.to_string();
            fleet.change(author, move |draft| operation::refused(draft, operation, &why)).await
        }
    };
    if let Err(refusal) = noted {
        tracing::warn!(machine = %id, %refusal, "an agent's answer could not be noted");
    }
}

/// Who is being spoken to, and who was told what not long ago.
#[derive(Default)]
struct Pace {
    busy: HashSet<MachineId>,
    resting: HashMap<MachineId, Rest>,
}

/// A machine is not told the same thing again before `until`; anything else it hears at once.
struct Rest {
    purpose: Purpose,
    until: Instant,
    pause: Duration,
}

impl Pace {
    fn is_resting(&self, machine: MachineId, purpose: Purpose) -> bool {
        let told = |rest: &Rest| rest.purpose == purpose && rest.until > Instant::now();
        self.resting.get(&machine).is_some_and(told)
    }

    fn rest(&mut self, machine: MachineId, purpose: Purpose) {
        self.busy.remove(&machine);
        let last = self.resting.get(&machine).filter(|rest| rest.purpose == purpose);
        let pause = last.map_or(FIRST_PAUSE, |rest| (rest.pause * 2).min(LONGEST_PAUSE));
        self.resting.insert(machine, Rest { purpose, until: Instant::now() + pause, pause });
    }

    /// Resolves when the first of those that rest may be tried again; never where none does.
    async fn next_try(&self) {
        let now = Instant::now();
        match self.resting.values().map(|rest| rest.until).filter(|until| *until > now).min() {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

/// Finds the machines that accepted to leave and have gone.
struct Departures {
    since: Instant,
    seen: HashMap<MachineId, BootId>,
}

impl Departures {
    /// Machines whose leaving is done, with the boot that ended.
    ///
    /// A controller that has just started has seen nobody yet: it gives everyone [`SETTLE`] to dial in before it takes
    /// absence for departure.
    fn look(&mut self, state: &State, online: &[Online]) -> Vec<(MachineId, BootId)> {
        let here: HashMap<MachineId, BootId> = online.iter().map(|o| (o.machine, o.boot)).collect();
        let settled = self.since.elapsed() > SETTLE;
        let leaving = state.all_unfinished().filter_map(|o| match o.kind {
            OperationKind::Power { boot, .. } if operation::ends_by_leaving(state, o) => Some((o.machine, boot)),
            _ => None,
        });
        let gone = |(machine, boot): &(MachineId, BootId)| {
            here.get(machine) != Some(boot) && (settled || self.seen.get(machine) == Some(boot))
        };
        let gone = leaving.filter(gone).collect();
        self.seen.extend(here);
        gone
    }
}

#[cfg(test)]
mod tests {
    use muster_protocol::hello::{Reason, Times};
    use muster_protocol::to_agent::PowerAction;
    use std::sync::Mutex;

    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::{Draft, machine};
    use crate::store::MemoryStore;
    use muster_protocol::desired::{Desired, check};
    use muster_protocol::enroll::Identity;

    const BOOT: BootId = BootId::from_bytes([7; 16]);

    fn online(machine: MachineId, progress: Progress) -> Online {
        Online { machine, boot: BOOT, progress }
    }

    fn call(draft: &Draft, online: &Online) -> Option<(Purpose, Call)> {
        next(draft.state(), online, 20)
    }

    fn member(draft: &mut Draft) -> MachineId {
        let id = enrolled(draft, Identity::default());
        machine::approve(draft, id).expect("approved");
        machine::hello(draft, id, BOOT, Progress::Idle).expect("hello");
        id
    }

    fn want_nothing(draft: &mut Draft, id: MachineId) {
        let nothing = check(Desired::default()).expect("nothing is wrong with nothing");
        machine::set_desired(draft, id, nothing, None, None).expect("set");
    }

    #[test]
    fn a_pending_machine_is_told_nothing() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        assert_eq!(call(&draft, &online(id, Progress::Idle)), None);
    }

    #[test]
    fn a_machine_hears_of_its_newest_generation_until_it_speaks_of_it() {
        let mut draft = draft();
        let id = member(&mut draft);
        assert_eq!(call(&draft, &online(id, Progress::Idle)), None);
        want_nothing(&mut draft, id);
        let told = |progress| call(&draft, &online(id, progress)).map(|(purpose, _)| purpose);
        let generation = Generation(1);
        assert_eq!(told(Progress::Idle), Some(Purpose::Desired(generation)));
        assert_eq!(told(Progress::Confirmed { generation }), None);
        assert_eq!(told(Progress::Applying { generation, percent: 0, step: String::new() }), None);
    }

    #[test]
    fn what_a_machine_reverted_is_not_tried_again_after_its_next_boot() {
        let mut draft = draft();
        let id = member(&mut draft);
        want_nothing(&mut draft, id);
        let (generation, reason, times) = (Generation(1), Reason::NoGateway, Times::default());
        let reverted = Progress::Reverted { generation, reason, why: "no gateway".into(), times };
        machine::progress(&mut draft, id, &reverted).expect("noted");
        assert_eq!(call(&draft, &online(id, Progress::Idle)), None);
        want_nothing(&mut draft, id);
        assert!(call(&draft, &online(id, Progress::Idle)).is_some());
    }

    #[test]
    fn a_machine_that_took_on_to_reboot_is_left_alone_until_it_is_back() {
        let mut draft = draft();
        let id = member(&mut draft);
        let operation = machine::power(&mut draft, id, PowerAction::Reboot, BOOT).expect("asked");
        want_nothing(&mut draft, id);
        let (purpose, _) = call(&draft, &online(id, Progress::Idle)).expect("it is told to reboot first");
        assert_eq!(purpose, Purpose::Operation(operation.id));
        operation::accepted(&mut draft, operation.id).expect("noted");
        assert_eq!(call(&draft, &online(id, Progress::Idle)), None);
        let boot = BootId::from_bytes([8; 16]);
        machine::hello(&mut draft, id, boot, Progress::Idle).expect("hello");
        let back = Online { boot, ..online(id, Progress::Idle) };
        assert_eq!(call(&draft, &back).map(|(purpose, _)| purpose), Some(Purpose::Desired(Generation(1))));
    }

    /// Agents that accept everything and remember it.
    #[derive(Clone)]
    struct Meek {
        online: Arc<Mutex<Vec<Online>>>,
        calls: Arc<Mutex<Vec<Call>>>,
        changes: watch::Sender<u64>,
    }

    impl Agents for Meek {
        fn online(&self) -> Vec<Online> {
            self.online.lock().expect("no test panics with it").clone()
        }

        fn changes(&self) -> watch::Receiver<u64> {
            self.changes.subscribe()
        }

        async fn call(&self, _: MachineId, call: Call) -> Result<Answer, String> {
            self.calls.lock().expect("no test panics with it").push(call);
            Ok(Answer::Accepted)
        }
    }

    #[tokio::test]
    async fn a_power_off_is_told_once_and_done_when_the_machine_has_gone() {
        let (fleet, _ended) = Fleet::start(MemoryStore::new()).expect("starts");
        let id = fleet.change(Author::controller(), |draft| Ok(member(draft))).await.expect("made");
        let agents = Meek {
            online: Arc::new(Mutex::new(vec![online(id, Progress::Idle)])),
            calls: Arc::default(),
            changes: watch::Sender::new(0),
        };
        tokio::spawn(run(fleet.clone(), agents.clone(), 20));
        let operation = fleet
            .change(Author::controller(), move |draft| machine::power(draft, id, PowerAction::Off, BOOT))
            .await
            .expect("asked");
        let mut states = fleet.watch();
        let mut until = async |wanted: OperationState| {
            let reached = |state: &Arc<State>| state.operations.get(&operation.id).is_some_and(|o| o.state == wanted);
            let seen = tokio::time::timeout(Duration::from_secs(30), states.wait_for(reached)).await;
            seen.expect("in time").expect("the fleet runs");
        };
        until(OperationState::Running).await;
        agents.online.lock().expect("no test panics with it").clear();
        agents.changes.send_replace(1);
        until(OperationState::Succeeded).await;
        assert_eq!(agents.calls.lock().expect("no test panics with it").len(), 1);
    }
}
