//! One generation: its steps, the proofs, and the way back.
//!
//! The tools that storage needs are fetched before all. Storage steps first, then network steps (see [`plan::Plan`]). Where the new way to the controller can stand beside the
//! present one, the controller must answer over it before the present one is touched. At the end everything is read back,
//! and the controller must answer over a connection that was begun after the change. Where the network was touched and
//! any of this fails, it is set back to what was observed before. Storage steps are never undone: they added, or they were
//! permitted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::desired::{BondOption, Checked, Desired, Network};
use muster_protocol::hello::{Progress, Reason, Times};
use muster_protocol::observed::{self, Observed};
use muster_protocol::outcome;
use muster_protocol::to_agent::Impact;
use muster_protocol::{Digest, Generation};
use tokio::time::{Instant, sleep, timeout};

use super::undo::{self, DeadMan, Helm, REVERT_WITHIN};
use super::{Reconciler, diagnose};
use crate::machine::{Machine, MachineError, chain, why_not};
use crate::outbox::{Asked, Outbox, Proof, Proven, milliseconds};
use crate::plan::network::{Change, NewWay, Past, Step};
use crate::plan::{self, Plan};

/// How long the kernel may take until what was set is what it says: carriers, IPv6 address checks, leases.
const VERIFY_WITHIN: Duration = Duration::from_secs(10);
/// How long a new way has to hold before the present one is given up for it, or before it is kept where that is gone.
pub(super) const SOAK: Duration = Duration::from_secs(2);
/// For a session to be begun anew beside the present one.
const MOVE_WITHIN: Duration = Duration::from_secs(5);
/// A bond that looks at its ports by ARP has given them up after so many intervals.
const ARP_INTERVALS: u32 = 4;
/// For the controller to answer over a network that could not be set back, before more is tried.
const REACH_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// An accepted generation.
pub struct Work {
    pub generation: Generation,
    /// Digest of `desired`.
    pub contents: Digest,
    pub desired: Checked<Desired>,
    /// What the plan had to know beside.
    pub past: Past,
    pub plan: Plan,
    /// What the plan was made for, and what a revert goes back to.
    pub before: Observed,
    /// To prove the change in, once it is made.
    pub within: Duration,
    /// The network that is in force meanwhile, where no step changes it and one is known.
    pub holds: Option<Network>,
}

/// How far it came before it failed.
struct Failure {
    reason: Reason,
    why: String,
    storage_steps_done: usize,
}

/// A step that has begun, for telling how far the whole is.
#[derive(Clone)]
pub(super) struct Begun {
    generation: Generation,
    step: String,
    number: usize,
    count: usize,
}

impl Reconciler {
    /// Carries it out to the end, whatever the end is.
    pub(super) async fn do_apply(&self, work: Work) {
        let generation = work.generation;
        let mut times = Times::default();
        // He watches until it is proven, or undone.
        let mut dead_man = None;
        let outcome = match self.carry_out(&work, &mut times, &mut dead_man).await {
            Ok(()) => Progress::Confirmed { generation },
            Err(failure) => self.give_up(&work, failure, times, dead_man.as_ref()).await,
        };
        if let Some(dead_man) = dead_man {
            self.dismiss(dead_man).await;
        }
        crate::info!("{}", outcome::said(generation, &outcome, times));
        self.settle(outcome, Some(work.desired));
    }

    /// Keeps how it came out, in one write: an agent that died between two would take what is kept for what was interrupted.
    fn settle(&self, outcome: Progress, desired: Option<Checked<Desired>>) {
        self.note(|kept| {
            if let (Progress::Confirmed { .. }, Some(desired)) = (&outcome, desired) {
                kept.confirmed = Some(desired.into_inner());
            }
            kept.before = None;
            if !matches!(outcome, Progress::RevertFailed { .. }) {
                (kept.stranded, kept.home) = (None, None);
            }
            kept.progress = outcome.clone();
        });
        self.outbox.send_modify(|out| out.progress = outcome);
    }

    /// Each phase that was begun is in `times`, however it ended.
    async fn carry_out(&self, work: &Work, times: &mut Times, dead_man: &mut Option<DeadMan>) -> Result<(), Failure> {
        let plan = &work.plan;
        let begun = Instant::now();
        let made = self.make(work, dead_man).await;
        times.make_ms = milliseconds(begun);
        made?;
        let failed = |(reason, why)| work.failed(reason, why);
        let helm = dead_man.as_ref().map(DeadMan::helm);
        let proves = |within| {
            if let Some(helm) = helm {
                helm.next(within, &[]);
            }
        };
        let proof = work.proof();
        if let Some((at, way)) = proof {
            let begun = Instant::now();
            proves(work.within);
            let proven = self.prove_beside(work, at, way, begun + work.within).await;
            if let (Ok(()), Some(to)) = (&proven, way.controller) {
                self.move_session(to).await;
            }
            times.prove_beside_ms = milliseconds(begun);
            proven.map_err(failed)?;
        }
        let begun = Instant::now();
        let switched = self.take(work, helm, proof.map_or(0, |(at, _)| at + 1)..plan.network.len()).await;
        if !plan.network.is_empty() {
            self.outbox.send_modify(|out| out.changes += 1);
        }
        times.switch_ms = milliseconds(begun);
        switched.map_err(failed)?;
        // The seconds to prove it in begin here; reading back is part of them.
        let begun = Instant::now();
        let deadline = begun + work.within;
        let verified = self.verify(work, helm).await;
        times.verify_ms = milliseconds(begun);
        verified.map_err(|why| failed((Reason::VerifyDiffers, why)))?;
        let begun = Instant::now();
        proves(work.within);
        let proven = self.confirm(work, begun, deadline, *times).await;
        times.prove_ms = milliseconds(begun);
        proven.map_err(failed)?;
        if helm.is_some_and(|helm| !helm.end()) {
            return Err(failed(undone_meanwhile("the end of the proof")));
        }
        Ok(())
    }

    /// Storage, and what can stand beside the present way. From the first step of the network on there is a dead man.
    async fn make(&self, work: &Work, dead_man: &mut Option<DeadMan>) -> Result<(), Failure> {
        if let Some(pinned) = work.plan.tools {
            let fetched = self.fetch_tools(pinned, work.begin(0)).await;
            fetched.map_err(|(reason, why)| Failure { reason, why, storage_steps_done: 0 })?;
        }
        let stored = self.store(work).await;
        if work.plan.storage.iter().any(|step| step.key().is_some()) {
            self.blocking(|machine| machine.forget_keys()).await;
        }
        stored?;
        if !work.plan.network.is_empty() {
            self.note(|kept| kept.before = Some(work.before.network.clone()));
            *dead_man = Some(self.arm(&work.before.network));
        }
        let steps = 0..work.proof().map_or(0, |(at, _)| at);
        let made = self.take(work, dead_man.as_ref().map(DeadMan::helm), steps).await;
        made.map_err(|(reason, why)| work.failed(reason, why))
    }

    async fn store(&self, work: &Work) -> Result<(), Failure> {
        for (number, step) in work.plan.storage.iter().enumerate() {
            let begun = work.begin(work.plan.first_of_storage() + number);
            let failed = |(reason, why)| Failure { reason, why, storage_steps_done: number };
            self.have_key(step, &begun).await.map_err(failed)?;
            let done = match step {
                plan::storage::Step::Image { image, .. } => self.write_image(step.clone(), image.digest, begun).await,
                _ => {
                    let done = self.apply_storage(step.clone(), begun.clone()).await;
                    done.map_err(|error| (Reason::StepFailed, why_not(&begun.step, &error)))
                }
            };
            done.map_err(failed)?;
        }
        Ok(())
    }

    fn arm(&self, before: &observed::Network) -> DeadMan {
        DeadMan::arm(&self.machine, before, self.controllers(), self.dead_man_waits, REVERT_WITHIN)
    }

    /// Nobody is to be at it any more when something else is begun: what he has begun he carries out.
    async fn dismiss(&self, dead_man: DeadMan) {
        self.blocking(move |_| dead_man.helm().end_both()).await;
    }

    /// Takes some of the network's steps.
    async fn take(
        &self,
        work: &Work,
        helm: Option<&Arc<Helm>>,
        steps: std::ops::Range<usize>,
    ) -> Result<(), (Reason, String)> {
        for at in steps {
            let (Some(step), Some(helm)) = (work.plan.network.get(at).cloned(), helm) else { continue };
            let begun = work.begin(work.plan.first_of_network() + at);
            self.set_progress(begun.at(0));
            let reason = match step.change {
                Change::AwaitLease { .. } => Reason::NoLease,
                Change::AwaitUnique { .. } => Reason::DuplicateAddress,
                Change::AddAnnounced(_) => Reason::NoRoute,
                _ => Reason::StepFailed,
            };
            match self.change(helm, step).await {
                Some(done) => done.map_err(|error| (reason, why_not(&begun.step, &error)))?,
                None => return Err(undone_meanwhile(&begun.step)),
            }
        }
        Ok(())
    }

    /// Takes a step unless the dead man has begun to undo the change.
    async fn change(&self, helm: &Arc<Helm>, step: Step) -> Option<Result<(), MachineError>> {
        let helm = helm.clone();
        self.blocking(move |machine| helm.may_change(&step).then(|| machine.apply_network(&step))).await
    }

    async fn apply_storage(&self, step: plan::storage::Step, begun: Begun) -> Result<(), MachineError> {
        self.set_progress(begun.at(0));
        let outbox = self.outbox.clone();
        self.blocking(move |machine| {
            let mut progress = |percent: u8| {
                let now = begun.at(percent);
                outbox.send_if_modified(|out| {
                    let differs = out.progress != now;
                    out.progress = now;
                    differs
                });
            };
            machine.apply_storage(&step, &mut progress)
        })
        .await
    }

    /// Reads back until everything is as desired.
    ///
    /// Errors: what still differs at the end.
    async fn verify(&self, work: &Work, helm: Option<&Arc<Helm>>) -> Result<(), String> {
        let step = "reading back".to_owned();
        self.set_progress(Progress::Applying { generation: work.generation, percent: 97, step });
        let deadline = Instant::now() + VERIFY_WITHIN.min(work.within);
        loop {
            if let Some(helm) = helm {
                // Disks may be slow to look at.
                helm.next(VERIFY_WITHIN, &[]);
            }
            let differs = match self.read_back(work).await {
                Ok(observed) => {
                    if let Some(helm) = helm {
                        self.take_away_uninvited(work, helm, &observed.network).await;
                    }
                    plan::differences(&work.desired, &work.past, &observed)
                }
                Err(error) => vec![chain(&error)],
            };
            if differs.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("verify differs: {}", differs.join("; ")));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Where it cannot be done, reading back says so.
    async fn take_away_uninvited(&self, work: &Work, helm: &Arc<Helm>, now: &observed::Network) {
        let Some(desired) = &work.desired.get().network else { return };
        for step in plan::network::uninvited(desired, &work.past, now) {
            let action = step.change.action();
            let Some(done) = self.change(helm, step).await else { return };
            let failed = done.map_or_else(|error| format!(", but {}", chain(&error)), |()| String::new());
            crate::info!("{action}, which came after the plan was made{failed}");
        }
    }

    /// Disks are looked at only where something is desired of them.
    async fn read_back(&self, work: &Work) -> Result<Observed, MachineError> {
        if work.desired.get().storage.is_some() {
            return self.blocking(|machine| machine.observe()).await;
        }
        let network = self.blocking(|machine| machine.observe_network()).await?;
        Ok(Observed { network, ..Observed::default() })
    }

    /// Waits until the controller has answered over a way that stands beside the present one, and has gone on to.
    async fn prove_beside(
        &self,
        work: &Work,
        at: usize,
        way: &NewWay,
        deadline: Instant,
    ) -> Result<(), (Reason, String)> {
        let step = format!("waiting for the controller's answer by {way}, beside the present way");
        self.set_progress(Begun { step, ..work.begin(work.plan.first_of_network() + at) }.at(0));
        match self.ask(work.generation, Asked::Beside(way.clone()), work.soak(), Some(deadline)).await {
            Ok(Proven::Overtaken) => Err(overtaken()),
            Ok(_) => Ok(()),
            Err(trouble) => Err(self.why_silent(work, Some(way), trouble).await),
        }
    }

    /// Has the session begun anew where the new way leads: it could not follow to another address. Where that fails the way
    /// is proven all the same, and a session will be begun when this one is lost.
    async fn move_session(&self, to: IpAddr) {
        let mut outbox = self.outbox.subscribe();
        self.outbox.send_modify(|out| out.moves_to = Some(to));
        let _ = timeout(MOVE_WITHIN, outbox.wait_for(|out| out.moves_to.is_none())).await;
        self.outbox.send_modify(|out| out.moves_to = None);
    }

    /// Waits until the controller has answered over the network as it is, and has taken note of it.
    ///
    /// Where no network step was taken there is no deadline: nothing would be undone.
    async fn confirm(
        &self,
        work: &Work,
        begun: Instant,
        deadline: Instant,
        times: Times,
    ) -> Result<(), (Reason, String)> {
        let step = "waiting for the controller's answer over the new network".to_owned();
        self.set_progress(Progress::Applying { generation: work.generation, percent: 99, step });
        let deadline = (!work.plan.network.is_empty()).then_some(deadline);
        // What was proven beside has held already, what is not on the way cannot end it, and a controller on this very
        // machine has none.
        let soaks = self.controllers().iter().any(|ip| !ip.is_loopback())
            && work.proof().is_none()
            && work.plan.network.iter().any(|step| step.impact == Impact::ControlPath);
        let soak = if soaks { work.soak() } else { Duration::ZERO };
        let asked = Asked::Confirm { desired: work.contents, times, begun };
        match self.ask(work.generation, asked, soak, deadline).await {
            // Nobody but this machine would know of a network that was kept now: a boot would not come up with it.
            Ok(Proven::Overtaken) if !work.plan.network.is_empty() => Err(overtaken()),
            Ok(_) => Ok(()),
            Err(trouble) => Err(self.why_silent(work, None, trouble).await),
        }
    }

    /// Has a proof made, and answers what came of it. Errors: why the last attempt failed, empty where there was none.
    async fn ask(
        &self,
        generation: Generation,
        asked: Asked,
        soak: Duration,
        deadline: Option<Instant>,
    ) -> Result<Proven, String> {
        let (answer, trouble) = (Proven::Waiting, String::new());
        self.outbox.send_modify(|out| out.proof = Some(Proof { generation, asked, soak, deadline, answer, trouble }));
        if self.state().is_overtaken {
            self.outbox.send_modify(Outbox::overtake);
        }
        let mut outbox = self.outbox.subscribe();
        let answered = outbox.wait_for(|out| out.proof.as_ref().is_none_or(|proof| proof.answer != Proven::Waiting));
        let in_time = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, answered).await.is_ok(),
            None => answered.await.is_ok(),
        };
        let mut proof = None;
        self.outbox.send_modify(|out| proof = out.proof.take());
        match proof {
            Some(proof) if !in_time => Err(proof.trouble),
            Some(proof) => Ok(proof.answer),
            None => Err(String::new()),
        }
    }

    /// What there is to be seen of why the controller did not answer.
    async fn why_silent(&self, work: &Work, way: Option<&NewWay>, trouble: String) -> (Reason, String) {
        let seconds = work.within.as_secs();
        let mut said = match way {
            Some(way) => vec![format!("the controller did not answer by {way} within {seconds} s")],
            None => vec![format!("the controller did not answer within {seconds} s")],
        };
        let mut reason = Reason::ControllerSilent;
        let controllers = self.controllers();
        if let Some(network) = work.desired.get().network.clone() {
            let seen = self.blocking(|machine| (machine.observe_network(), machine.unanswered())).await;
            if let (Ok(observed), unanswered) = seen {
                let causes = diagnose::diagnose(&network, &work.past, &observed, &unanswered, way, &controllers);
                reason = causes.first().map_or(reason, |(first, _)| *first);
                said.extend(causes.into_iter().map(|(_, text)| text));
            }
        }
        said.extend(Some(trouble).filter(|text| !text.is_empty()));
        (reason, said.join("; "))
    }

    /// Without a dead man there was no step of the network.
    async fn give_up(&self, work: &Work, failure: Failure, times: Times, dead_man: Option<&DeadMan>) -> Progress {
        let Failure { reason, mut why, storage_steps_done } = failure;
        let generation = work.generation;
        if storage_steps_done > 0 {
            why.push_str(&format!("; {storage_steps_done} storage steps were done before and stay"));
        }
        let Some(dead_man) = dead_man else { return Progress::Reverted { generation, reason, why, times } };
        let step = "undoing the network's change".to_owned();
        self.set_progress(Progress::Applying { generation, percent: 99, step });
        self.revert(generation, work.before.network.clone(), dead_man, reason, why, times).await
    }

    /// Sets the network back and reads back that it is so; where that fails, whatever may lead home is tried.
    async fn revert(
        &self,
        generation: Generation,
        before: observed::Network,
        dead_man: &DeadMan,
        reason: Reason,
        why: String,
        mut times: Times,
    ) -> Progress {
        crate::warn!("generation {generation} is undone: {why}");
        let begun = Instant::now();
        loop {
            let (wanted, controllers, helm) = (before.clone(), self.controllers(), dead_man.helm().clone());
            let undone = move |machine: &dyn Machine| {
                helm.wait();
                let left = undo::back(machine, &wanted, &controllers, &|step| helm.may_undo(step));
                let is_late = begun.elapsed() >= REVERT_WITHIN;
                // The steps may have waited for longer than there was time, and have done it.
                let is_back = is_late && undo::is_back(machine, &wanted, &controllers);
                (if is_back { Ok(Vec::new()) } else { left }, is_late)
            };
            let (left, is_late) = self.blocking(undone).await;
            let left = match left {
                // Nothing to do on a fresh look: it is as it was.
                Ok(left) if left.is_empty() => {
                    times.revert_ms = milliseconds(begun);
                    self.outbox.send_modify(|out| out.changes += 1);
                    // What nothing depended on that leads home.
                    let gone = self.blocking(move |machine| undo::gone(machine, &before)).await;
                    let why = [vec![why], gone].concat().join("; ");
                    return Progress::Reverted { generation, reason, why, times };
                }
                Ok(left) => left.join("; "),
                Err(error) => error,
            };
            if is_late {
                self.outbox.send_modify(|out| out.changes += 1);
                // Home is where a session holds, and not where one question is answered.
                self.note(|kept| (kept.stranded, kept.home) = (Some(before), None));
                let deadline = Instant::now() + REACH_WITHIN + SOAK;
                let done = match self.ask(generation, Asked::Reach, SOAK, Some(deadline)).await {
                    Ok(_) => "the controller answers all the same".to_owned(),
                    Err(_) => {
                        let helm = dead_man.helm().clone();
                        self.blocking(move |machine| undo::last_resort(machine, &|step| helm.may_undo(step))).await
                    }
                };
                times.revert_ms = milliseconds(begun);
                self.outbox.send_modify(|out| out.changes += 1);
                let why = format!("{why}; undoing it did not hold: {left}; at last: {done}");
                return Progress::RevertFailed { generation, reason, why, times };
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The agent died in the middle of a generation: what is known is what was before.
    pub(super) async fn undo_interrupted(&self, generation: Generation, before: Option<observed::Network>) {
        let why = "the agent was restarted in the middle; storage steps that were done stay".to_owned();
        let (reason, times) = (Reason::Interrupted, Times::default());
        let outcome = match before {
            Some(network) => {
                let dead_man = self.arm(&network);
                let outcome = self.revert(generation, network, &dead_man, reason, why, times).await;
                self.dismiss(dead_man).await;
                outcome
            }
            None => Progress::Reverted { generation, reason, why, times },
        };
        self.settle(outcome, None);
    }

    /// A restarted agent makes the confirmed network true again: what the kernel holds is there still, but DHCP clients
    /// ended with the process that ran them.
    pub(super) async fn restore(&self, desired: Desired) {
        let Some(network) = desired.network else { return };
        let (past, restores) = (self.known_past(), self.what_restores());
        self.blocking(move |machine| {
            let fit =
                |observed| plan::network::plan(&network, &past, &observed, &[]).map_err(|error| error.to_string());
            let planned = machine.observe_network().map_err(|error| chain(&error)).and_then(fit);
            let mut steps = match planned {
                Ok(steps) => steps,
                Err(why) => return crate::warn!("the confirmed network could not be restored: {why}"),
            };
            steps.retain(restores);
            // A lease that is late is no reason to go without what stands behind it.
            for done in undo::take(machine, &steps, &|_| true) {
                crate::info!("restoring the confirmed network: {done}");
            }
        })
        .await;
    }
}

impl Work {
    /// How long its way has to hold: what looks good at once may end by itself.
    fn soak(&self) -> Duration {
        let interval = |step: &Step| match step.change {
            Change::SetBond { option: BondOption::ArpInterval, value, .. } => value,
            _ => 0,
        };
        let longest = self.plan.network.iter().map(interval).max().unwrap_or(0);
        (Duration::from_millis(longest.into()) * ARP_INTERVALS).min(self.within / 2).max(SOAK)
    }

    /// Where in its network steps the new way is proven beside the present one, and which way that is.
    fn proof(&self) -> Option<(usize, &NewWay)> {
        self.plan.network.iter().enumerate().find_map(|(at, step)| match &step.change {
            Change::Prove(way) => Some((at, way)),
            _ => None,
        })
    }

    /// After all of its storage.
    fn failed(&self, reason: Reason, why: String) -> Failure {
        Failure { reason, why, storage_steps_done: self.plan.storage.len() }
    }

    /// The step of this number, as people see them.
    fn begin(&self, number: usize) -> Begun {
        let steps = &self.plan.shown.steps;
        let step = steps.get(number).map(|step| step.action.clone()).unwrap_or_default();
        Begun { generation: self.generation, step, number, count: steps.len() }
    }
}

impl Begun {
    /// What it does, in words.
    pub(super) fn step(&self) -> &str {
        &self.step
    }

    /// The last three percent are for reading back and the proof.
    pub(super) fn at(&self, percent: u8) -> Progress {
        let done = self.number * 100 + usize::from(percent.min(100));
        let percent = (done * 97 / (self.count.max(1) * 100)) as u8;
        Progress::Applying { generation: self.generation, percent, step: self.step.clone() }
    }
}

pub(super) fn overtaken() -> (Reason, String) {
    (Reason::Interrupted, "another generation was desired before this one was proven".to_owned())
}

fn undone_meanwhile(before: &str) -> (Reason, String) {
    (Reason::Interrupted, format!("the change took too long before \"{before}\", and was undone meanwhile"))
}
