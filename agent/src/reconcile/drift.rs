//! Drift: somebody else changed the network, or the limits of disks. It is seen, at once where the kernel gives notice of it, and
//! repaired or reported.
//!
//! Called by the reconcile loop while no work changes the network, so that our own changes are none: what counts is how it
//! differs from what was confirmed, or from what was accepted and asked for no change of it. What a cable, a lease or a router does by itself is
//! not counted: a carrier that is gone changes no plan, and what waits for a lease waits.
//!
//! A repair takes the steps that lead to the confirmed configuration. It needs no proof, since that network was proven, and
//! no controller: the change may have cut the way there.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::desired::Network;
use muster_protocol::drift::{DIFFERENCES, Drift, DriftEnd, OnDrift};
use muster_protocol::hello::Progress;
use muster_protocol::observed::{self, Limit};
use muster_protocol::to_agent::Impact;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Busy, Reconciler, kept};
use crate::machine::{Lost, Machine, chain};
use crate::options::Manage;
use crate::plan::network::{Change, Past, Step, repair};
use crate::plan::storage;

/// Where [`Kept`] lies.
pub const NAME: &str = "drift";

/// From a notice to the look: who changes one thing often changes the next. Not counted anew by notices that follow.
const GATHER: Duration = Duration::from_millis(200);
/// From the first look that differs to the second: a lease or a router may be in the middle of it.
const SECOND_LOOK: Duration = Duration::from_millis(250);
/// Between two looks at least, however many notices there are; and after the first drift.
const PACE: Duration = Duration::from_secs(1);
/// The longest pause for one who makes the same change again and again.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// After so long without drift, what was is forgotten.
const CALM: Duration = Duration::from_secs(2 * 300);
/// So often in a row, somebody fights for it.
const A_FIGHT: u32 = 4;
/// How long a repair may take until the kernel says so.
const VERIFY_WITHIN: Duration = Duration::from_secs(5);
/// Drifts that are remembered to know them again.
const REMEMBERED: usize = 16;
/// Longest text of one difference that is told.
const TEXT: usize = 160;

/// What must outlive the agent's process: the change may cut the session, and a restarted agent goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What the controller said last.
    policy: OnDrift,
    /// What was found last.
    pub found: Drift,
}

/// When to look, and how often there was something lately.
pub struct Watch {
    /// `None` where the kernel gives no notice.
    changed: Option<Arc<Notify>>,
    /// When to look, where that is known already.
    at: Option<Instant>,
    not_before: Instant,
    lately: Lately,
}

/// What there was since the last calm.
#[derive(Default)]
struct Lately {
    drifts: BTreeSet<Vec<String>>,
    repeats: u32,
    last: Option<Instant>,
}

/// What differs, and what sets it right.
#[derive(Default)]
struct Seen {
    differences: Vec<String>,
    steps: Vec<Step>,
    limits: Vec<Limit>,
}

impl Watch {
    /// Listens from now on, in the network namespace of the calling thread.
    pub fn begin(machine: &dyn Machine, manage: Manage) -> Self {
        let changed = manage.network.then(|| machine.changes()).and_then(|changes| {
            changes.inspect_err(|error| crate::warn!("changes by hand will not be seen: {}", chain(error))).ok()
        });
        let now = Instant::now();
        // Before there was anybody to listen something may have changed.
        Self { changed, at: Some(now + GATHER), not_before: now, lately: Lately::default() }
    }

    /// Waits until it is time to look. Cancel-safe.
    pub async fn due(&mut self, look_again: &Notify) {
        let changed = async {
            match &self.changed {
                Some(changed) => changed.notified().await,
                None => pending().await,
            }
        };
        let at = match self.at {
            Some(at) => at,
            None => {
                // Cancel-safe: the one that is not taken keeps its notice.
                tokio::select! {
                    () = changed => {}
                    () = look_again.notified() => {}
                }
                *self.at.insert((Instant::now() + GATHER).max(self.not_before))
            }
        };
        sleep_until(at).await;
    }

    /// Something was accepted and is done: what was before does not count any more.
    pub fn begin_anew(&mut self) {
        self.lately = Lately::default();
        self.not_before = Instant::now();
        self.at = Some(Instant::now() + GATHER);
    }

    fn looked(&mut self) {
        self.at = None;
        self.not_before = Instant::now() + PACE;
    }

    /// Notes a drift. Answers how long nothing is done about the next one.
    fn note(&mut self, differences: &[String]) -> Duration {
        let now = Instant::now();
        let lately = &mut self.lately;
        if lately.last.replace(now).is_none_or(|last| now - last > CALM) {
            *lately = Lately { last: lately.last, ..Lately::default() };
        }
        if lately.drifts.contains(differences) || lately.drifts.len() == REMEMBERED {
            lately.repeats += 1;
        } else {
            lately.repeats = lately.repeats.max(1);
            lately.drifts.insert(differences.to_vec());
        }
        let pause = PACE.saturating_mul(1 << (lately.repeats - 1).min(20)).min(LONGEST_PAUSE);
        self.not_before = now + pause;
        pause
    }

    fn is_a_fight(&self) -> bool {
        self.lately.repeats >= A_FIGHT
    }
}

impl Reconciler {
    /// Says what is to be done about drift from now on, also after a restart of the agent in this boot.
    pub fn on_drift(&self, policy: OnDrift) {
        if self.state().drift.policy != policy {
            self.note_drift(|kept| kept.policy = policy);
            self.look_again.notify_one();
        }
    }

    /// A look at what gives no notice; what differs is looked at as if it did.
    pub async fn look_at_limits(&self) {
        if !self.blocking(|machine| machine.lost_limits()).await.is_empty() {
            self.look_again.notify_one();
        }
    }

    /// One look between two pieces of work. No configuration is accepted meanwhile: it is planned for what is there afterwards.
    pub(super) async fn look_while_idle(&self, watch: &mut Watch) {
        let _one = self.one_offer.lock().await;
        if self.state().busy != Busy::Nothing {
            // What was accepted is next; what looks for the way home at the start of a boot takes a while.
            watch.looked();
            watch.at = Some(watch.not_before);
            return;
        }
        self.look_for_drift(watch, self.confirmed_network()).await;
    }

    /// One look, and what it asks for where the network is not as `wanted`, or a limit not as it was set. Nobody else may be changing
    /// the network.
    pub(super) async fn look_for_drift(&self, watch: &mut Watch, wanted: Option<Network>) {
        watch.looked();
        let wanted = wanted.as_ref();
        let begun = Instant::now();
        let seen = match self.differs(wanted).await {
            Ok(first) if first.differences.is_empty() => first,
            Ok(first) => {
                sleep(SECOND_LOOK).await;
                match self.differs(wanted).await {
                    Ok(mut second) => {
                        let differs = !second.differences.is_empty();
                        second.differences.retain(|difference| first.differences.contains(difference));
                        if differs && second.differences.is_empty() {
                            // Somebody is in the middle of it.
                            watch.at = Some(watch.not_before);
                            return;
                        }
                        second
                    }
                    Err(error) => return self.cannot_look(watch, &error),
                }
            }
            Err(error) => return self.cannot_look(watch, &error),
        };
        if seen.differences.is_empty() {
            if self.state().drift.found.is_standing() {
                self.tell_drift(Vec::new(), DriftEnd::Gone);
            }
            return;
        }
        let policy = self.state().drift.policy;
        match policy {
            OnDrift::Report => {
                if self.tell_drift(seen.differences.clone(), DriftEnd::Reported) {
                    watch.note(&seen.differences);
                }
            }
            OnDrift::Repair => {
                let Seen { differences, steps, limits } = seen;
                let failed = self.repair(wanted, steps, limits).await;
                let pause = watch.note(&differences);
                let end = match failed {
                    Some(why) => DriftEnd::Failed { why },
                    None if watch.is_a_fight() => {
                        DriftEnd::Contested { pause_s: u32::try_from(pause.as_secs()).unwrap_or(u32::MAX) }
                    }
                    None => DriftEnd::Repaired { milliseconds: crate::outbox::milliseconds(begun) },
                };
                // Whatever stands is looked at again without a notice.
                if matches!(end, DriftEnd::Failed { .. } | DriftEnd::Contested { .. }) {
                    watch.at = Some(watch.not_before);
                }
                self.tell_drift(differences, end);
            }
        }
    }

    fn cannot_look(&self, watch: &mut Watch, error: &str) {
        crate::warn!("cannot look for changes by hand: {error}");
        watch.at = Some(Instant::now() + VERIFY_WITHIN);
    }

    /// The network that is in force, unless a change is under way or left something that nobody described.
    pub(super) fn confirmed_network(&self) -> Option<Network> {
        let state = self.state();
        let is_settled = !matches!(state.kept.progress, Progress::Applying { .. } | Progress::RevertFailed { .. });
        let confirmed = state.kept.confirmed.as_ref().filter(|_| is_settled && state.kept.before.is_none());
        confirmed.and_then(|desired| desired.network.clone())
    }

    /// Which steps a restarted agent takes to make the confirmed network true again. What its process did ended with it, the
    /// rest ended by another hand.
    pub(super) fn what_restores(&self) -> fn(&Step) -> bool {
        let policy = self.state().drift.policy;
        match policy {
            OnDrift::Repair => |_| true,
            OnDrift::Report => |step| {
                matches!(
                    step.change,
                    Change::StopDhcp { .. }
                        | Change::StartDhcp { .. }
                        | Change::AwaitLease { .. }
                        | Change::SetResolvers { .. }
                        | Change::SetNtp { .. }
                )
            },
        }
    }

    async fn differs(&self, wanted: Option<&Network>) -> Result<Seen, String> {
        let mut all = Seen::default();
        if let Some(wanted) = wanted {
            let seen = self.blocking(|machine| (machine.observe_network(), machine.lost())).await;
            let observed = seen.0.map_err(|error| chain(&error))?;
            let lost = seen.1.map_err(|error| chain(&error))?;
            all = judge(wanted, &self.past(&observed), &observed, lost);
        }
        // A piece of work may be changing them.
        let is_applying = self.state().busy == Busy::Applying;
        if !is_applying {
            all.limits = self.blocking(|machine| machine.lost_limits()).await;
            all.differences.extend(all.limits.iter().map(|limit| set(limit).describe().action));
        }
        Ok(all)
    }

    /// Takes the steps, and reads back. Answers what is not as it should be, if anything is not.
    async fn repair(&self, wanted: Option<&Network>, steps: Vec<Step>, limits: Vec<Limit>) -> Option<String> {
        if steps.is_empty() && limits.is_empty() {
            return Some("there is nothing that would set it right".into());
        }
        let changes_network = !steps.is_empty();
        let failed = self.blocking(move |machine| take(machine, &steps, &limits)).await;
        if changes_network {
            // The session may be one that cannot go on.
            self.outbox.send_modify(|out| out.changes += 1);
        }
        let deadline = Instant::now() + VERIFY_WITHIN;
        loop {
            let left = match self.differs(wanted).await {
                Ok(seen) if seen.differences.is_empty() => return None,
                Ok(seen) => seen.differences,
                Err(error) => vec![error],
            };
            if Instant::now() >= deadline || !failed.is_empty() {
                let left = if failed.is_empty() { left } else { failed };
                return Some(shown(left).join("; "));
            }
            sleep(SECOND_LOOK).await;
        }
    }

    /// Keeps and tells what was found, where it is news. Answers whether it is.
    fn tell_drift(&self, differences: Vec<String>, end: DriftEnd) -> bool {
        let differences = shown(differences);
        let known = |found: &Drift| found.is_standing() && found.differences == differences && found.end == end;
        if known(&self.state().drift.found) {
            return false;
        }
        crate::info!("changed by another hand: {}: {end:?}", differences.join("; "));
        self.note_drift(|kept| {
            let number = kept.found.number.saturating_add(1);
            kept.found = Drift { number, differences, end };
        });
        let found = self.state().drift.found.clone();
        self.outbox.send_modify(|out| out.drift = found);
        true
    }

    fn note_drift(&self, change: impl FnOnce(&mut Kept)) {
        let mut state = self.state();
        change(&mut state.drift);
        kept::save(&self.keep, NAME, self.boot, &state.drift);
    }
}

fn judge(wanted: &Network, past: &Past, observed: &observed::Network, lost: Vec<Lost>) -> Seen {
    let mut steps = match repair(wanted, past, observed) {
        Ok(steps) => steps,
        Err(impossible) => return Seen { differences: vec![impossible.to_string()], ..Seen::default() },
    };
    let mut differences: Vec<String> =
        steps.iter().filter(|step| counts(&step.change, &steps)).map(|step| step.change.action()).collect();
    for lost in lost {
        differences.push(lost.action);
        steps.push(Step { change: lost.again, impact: Impact::ControlPath });
    }
    Seen { differences, steps, limits: Vec::new() }
}

/// Whether a step sets right what somebody changed: one that only waits does not, nor one that a lease is needed for.
fn counts(change: &Change, steps: &[Step]) -> bool {
    match change {
        Change::AwaitLease { .. } | Change::AwaitForwarding { .. } | Change::AwaitUnique { .. } | Change::Prove(_) => {
            false
        }
        Change::AddRoute(route) => {
            let waits = |step: &Step| matches!(&step.change, Change::AwaitLease { link, .. } if *link == route.link);
            !steps.iter().any(waits)
        }
        _ => true,
    }
}

/// Takes steps, and tells what failed. Then nothing more is taken away: it may be the only way that is left.
fn take(machine: &dyn Machine, steps: &[Step], limits: &[Limit]) -> Vec<String> {
    let mut failed = Vec::new();
    for step in steps {
        let is_taken = match &step.change {
            Change::AwaitForwarding { .. } | Change::AwaitUnique { .. } | Change::AwaitLease { .. } => false,
            Change::StopDhcp { .. }
            | Change::Delete { .. }
            | Change::Leave { .. }
            | Change::RemoveAddress { .. }
            | Change::RemoveNeighbor { .. }
            | Change::RemoveRoute(_)
            | Change::RemoveRule(_) => failed.is_empty(),
            _ => true,
        };
        if !is_taken {
            continue;
        }
        if let Err(error) = machine.apply_network(step) {
            failed.push(format!("{}: {}", step.change.action(), chain(&error)));
        }
    }
    for step in limits.iter().map(set) {
        if let Err(error) = machine.apply_storage(&step, &mut |_| {}) {
            failed.push(format!("{}: {}", step.describe().action, chain(&error)));
        }
    }
    failed
}

fn set(limit: &Limit) -> storage::Step {
    storage::Step::Limit { limit: limit.clone() }
}

/// As much as is told.
fn shown(mut texts: Vec<String>) -> Vec<String> {
    if texts.len() > DIFFERENCES {
        let more = texts.len() - (DIFFERENCES - 1);
        texts.truncate(DIFFERENCES - 1);
        texts.push(format!("and {more} more"));
    }
    for text in &mut texts {
        let end = (0..=TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    texts
}
