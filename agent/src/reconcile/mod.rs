//! The one loop that changes the machine: accept a generation, plan, apply, verify, confirm, or revert.
//!
//! Sessions call [`Reconciler::plan`], [`Reconciler::apply`], [`Reconciler::wipe`] and get an answer at once.
//! The work is done one piece after the other in [`Reconciler::run`]; how it goes is written to the [`Outbox`], which
//! whatever session is up tells the controller. Sessions come and go meanwhile: the work may cut the very one that asked.
//! While none of it changes the network it looks after the one that was confirmed, see [`drift`], or for a way home where an
//! undoing did not hold, see [`stranded`].
//!
//! It does not talk to anybody, and it does not know how a step is done.

mod apply;
mod diagnose;
mod drift;
mod images;
mod kept;
mod keys;
mod rule;
mod start;
mod stranded;
#[cfg(test)]
mod tests;
mod tools;
mod undo;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_protocol::desired::{Desired, check};
use muster_protocol::hello::Progress;
use muster_protocol::observed::{self, Observed};
use muster_protocol::to_agent::{Answer, Apply, Refusal, Wipe};
use muster_protocol::to_controller::Work;
use muster_protocol::{BootId, Digest, DiskId, OperationId};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::keep::Keep;
use crate::machine::{Machine, chain};
use crate::options::Manage;
use crate::outbox::Outbox;
use crate::plan;
use crate::plan::network::Past;

use kept::Kept;
use rule::Verdict;
pub(crate) use stranded::{Patience, TURN};
pub(crate) use undo::DEAD_MAN;

/// Bounds of [`Apply::confirm_within_s`].
const CONFIRM_WITHIN: (u16, u16) = (5, 300);

/// See the module.
pub struct Reconciler {
    machine: Arc<dyn Machine>,
    keep: Keep,
    boot: BootId,
    manage: Manage,
    outbox: watch::Sender<Outbox>,
    /// Where the controller is, the address by which it was reached last first.
    controller: watch::Receiver<Vec<SocketAddr>>,
    state: Mutex<State>,
    /// One offer is judged at a time, from the rule to the acceptance.
    one_offer: tokio::sync::Mutex<()>,
    settled: tokio::sync::OnceCell<()>,
    /// Told when there may be another thing to do about drift, although the network did not change.
    look_again: Notify,
    jobs: mpsc::Sender<Job>,
    /// How long the dead man waits, by the time that there is for the proof and the steps that are taken.
    dead_man_waits: undo::Waits,
}

struct State {
    kept: Kept,
    drift: drift::Kept,
    busy: Busy,
    /// Whether a newer generation was offered since the one that is under way was accepted.
    is_overtaken: bool,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    Nothing,
    /// The network of a boot that has no session yet.
    Starting,
    Applying,
    Wiping(OperationId),
}

/// Accepted work. Only [`Reconciler::run`] takes it.
pub struct Job(Accepted);

enum Accepted {
    Apply(Box<apply::Work>, oneshot::Receiver<()>),
    Wipe(Wipe),
}

/// Accepted work waits for this to be dropped: the answer leaves before the change that may cut its way.
#[must_use = "the work begins when this is dropped"]
pub struct Begin(#[expect(dead_code, reason = "only its end is looked at")] oneshot::Sender<()>);

/// Work that was accepted and waits for [`Reconciler::run`].
pub type Jobs = mpsc::Receiver<Job>;

/// Whether nothing was configured in this boot yet, so that links are to be brought up as at the start.
pub fn is_untouched(keep: &Keep, boot: BootId) -> bool {
    let kept = kept::load::<Kept>(keep, kept::NAME, boot);
    let network = kept.confirmed.and_then(|desired| desired.network);
    network.is_none() && kept.before.is_none() && kept.home.is_none()
}

impl Reconciler {
    /// Remembers what was kept in this boot. Nothing is done before [`Reconciler::run`].
    pub fn new(
        machine: Arc<dyn Machine>,
        keep: Keep,
        boot: BootId,
        manage: Manage,
        outbox: watch::Sender<Outbox>,
        controller: watch::Receiver<Vec<SocketAddr>>,
    ) -> (Arc<Self>, Jobs) {
        let kept = kept::load::<Kept>(&keep, kept::NAME, boot);
        let drift = kept::load::<drift::Kept>(&keep, drift::NAME, boot);
        outbox.send_modify(|out| {
            (out.progress, out.drift) = (kept.progress.clone(), drift.found.clone());
            // No session was heard of yet.
            out.changes += u64::from(kept.stranded.is_some());
        });
        let (jobs, queue) = mpsc::channel(1);
        let state = Mutex::new(State { kept, drift, busy: Busy::Nothing, is_overtaken: false });
        let reconciler = Self {
            machine,
            keep,
            boot,
            manage,
            outbox,
            controller,
            state,
            one_offer: Default::default(),
            settled: Default::default(),
            look_again: Notify::new(),
            jobs,
            dead_man_waits: undo::dead_man_waits,
        };
        (Arc::new(reconciler), queue)
    }

    /// Waits for [`Machine::settle`], once for all who ask: what is looked at earlier lacks disks.
    pub async fn settled(&self) {
        let settle = async || {
            let seen = self.blocking(|machine| {
                machine.settle();
                machine.observe_network()
            });
            // Nothing was done to any NIC yet in this boot, or it was seen before.
            if let Ok(network) = seen.await {
                self.past(&network);
            }
        };
        self.settled.get_or_init(settle).await;
    }

    /// What a plan has to know of this machine that cannot be seen `now`.
    fn past(&self, now: &observed::Network) -> Past {
        let mut nics = self.state().kept.nics.clone();
        if plan::network::see(&mut nics, now) {
            self.note(|kept| kept.nics.clone_from(&nics));
        }
        self.known_past()
    }

    /// The same, as far as it was seen.
    fn known_past(&self) -> Past {
        let kept = &self.state().kept;
        let in_force = kept.confirmed.as_ref().and_then(|desired| desired.network.clone());
        Past { in_force, nics: kept.nics.clone() }
    }

    /// What would an apply do?
    pub async fn plan(&self, desired: Desired) -> Answer {
        match self.make_plan(desired).await {
            Ok((_, _, plan, _)) => Answer::Planned(plan.shown),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// Takes a generation on, or says why not. The generation rule comes first: what was accepted is never refused later.
    /// What was taken on begins when the second value is dropped.
    pub async fn apply(&self, offer: Apply) -> (Answer, Option<Begin>) {
        let _one = self.one_offer.lock().await;
        match self.accept(offer).await {
            Ok(begin) => (Answer::Accepted, begin),
            Err(refusal) => (Answer::Refused(refusal), None),
        }
    }

    async fn accept(&self, offer: Apply) -> Result<Option<Begin>, Refusal> {
        let Apply { generation, desired, permit, confirm_within_s } = offer;
        let contents = Digest::of_value(&desired);
        let accepted = self.state().kept.accepted;
        match rule::judge(accepted, generation, contents) {
            Verdict::Newer => {}
            Verdict::Same => return Ok(None),
            Verdict::Outdated(current) => return Err(Refusal::Outdated { offered: generation, current }),
            Verdict::Conflict => return Err(Refusal::Conflict { generation }),
        }
        if desired.network.is_some() && !self.manage.network || desired.storage.is_some() && !self.manage.storage {
            return Err(Refusal::ObserveOnly);
        }
        self.must_be_idle().inspect_err(|_| self.overtake())?;
        let (desired, past, plan, before) = self.make_plan(desired).await?;
        let disks = plan.destroys();
        let is_used = !disks.is_empty();
        if !plan.is_permitted(permit.as_ref()) {
            let plan = plan.shown.digest;
            let is_void = permit.is_some_and(|permit| permit.plan != plan);
            return Err(if is_void {
                Refusal::PermitVoid { disks, plan }
            } else {
                Refusal::PermitNeeded { disks, plan }
            });
        }
        let (least, most) = CONFIRM_WITHIN;
        let within = Duration::from_secs(confirm_within_s.clamp(least, most).into());
        let known = desired.get().network.clone().or_else(|| self.confirmed_network());
        let holds = known.filter(|_| plan.network.is_empty());
        {
            let mut state = self.state();
            (state.busy, state.is_overtaken) = (Busy::Applying, false);
        }
        self.note(|kept| {
            kept.accepted = Some((generation, contents));
            kept.permits_used += u32::from(is_used);
        });
        self.set_progress(Progress::Applying { generation, percent: 0, step: "accepted".into() });
        crate::info!("generation {generation} accepted, {} steps", plan.shown.steps.len());
        let work = apply::Work { generation, contents, desired, past, plan, before, within, holds };
        let (begin, begun) = oneshot::channel();
        self.enqueue(Accepted::Apply(Box::new(work), begun))?;
        Ok(Some(Begin(begin)))
    }

    /// A generation that is under way is not what is desired any more. The controller would not take a proof of it: none is
    /// waited for, and the newer one is taken on as soon as it is undone.
    fn overtake(&self) {
        let mut state = self.state();
        state.is_overtaken = state.busy == Busy::Applying;
        if state.is_overtaken {
            drop(state);
            self.outbox.send_modify(Outbox::overtake);
        }
    }

    /// Takes a wipe on. The same operation again starts nothing, and has its result told again.
    pub async fn wipe(&self, wipe: Wipe) -> Answer {
        let _one = self.one_offer.lock().await;
        match self.accept_wipe(wipe).await {
            Ok(()) => Answer::Accepted,
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    async fn accept_wipe(&self, wipe: Wipe) -> Result<(), Refusal> {
        if self.outbox.borrow().work(&wipe.operation).is_some() {
            self.outbox.send_modify(|out| out.repeat_work(&wipe.operation));
            return Ok(());
        }
        if !self.manage.storage {
            return Err(Refusal::ObserveOnly);
        }
        self.must_be_idle()?;
        let observed = self.observe().await?;
        for id in &wipe.disks {
            let disk = plan::storage::find(id, &observed.disks).map_err(|e| Refusal::Impossible(e.to_string()))?;
            if !disk.held.is_empty() {
                return Err(Refusal::Impossible(format!("{id} cannot be wiped: {}", disk.held)));
            }
        }
        plan::storage::take_down(&wipe.disks, &observed).map_err(|e| Refusal::Impossible(e.to_string()))?;
        self.state().busy = Busy::Wiping(wipe.operation);
        let running = Work::Running { percent: 0, step: "accepted".into() };
        self.outbox.send_modify(|out| out.set_work(wipe.operation, running));
        self.enqueue(Accepted::Wipe(wipe))
    }

    /// What is under way that a reboot must not cut: a disk that is being written or a network that is being changed.
    /// A wipe may be cut: it leaves nothing behind that could be mistaken for data, and is asked for again.
    pub fn must_not_be_cut(&self) -> Result<(), Refusal> {
        // The guard must be gone before the state is looked at again.
        let busy = self.state().busy;
        match busy {
            Busy::Applying => self.must_be_idle(),
            Busy::Nothing | Busy::Starting | Busy::Wiping(_) => Ok(()),
        }
    }

    fn must_be_idle(&self) -> Result<(), Refusal> {
        let state = self.state();
        match state.busy {
            Busy::Nothing => Ok(()),
            Busy::Starting => Err(Refusal::Busy("looking for the way to a controller".into())),
            Busy::Wiping(operation) => Err(Refusal::Busy(format!("wiping disks for operation {operation}"))),
            Busy::Applying => {
                let generation = state.kept.accepted.map_or(0, |(generation, _)| generation.0);
                Err(Refusal::Busy(format!("applying generation {generation}")))
            }
        }
    }

    async fn make_plan(
        &self,
        desired: Desired,
    ) -> Result<(muster_protocol::desired::Checked<Desired>, Past, plan::Plan, Observed), Refusal> {
        let desired = check(desired).map_err(Refusal::Invalid)?;
        let observed = self.observe().await?;
        let past = self.past(&observed.network);
        let occasion = plan::Occasion { boot: self.boot, permits_used: self.state().kept.permits_used };
        let tools = self.blocking(|machine| machine.tools()).await;
        let plan = plan::plan(&desired, occasion, &past, &observed, &tools, &self.controllers())
            .map_err(|impossible| Refusal::Impossible(impossible.to_string()))?;
        Ok((desired, past, plan, observed))
    }

    /// What the kernel says now, once the hardware that was there at the start is there for it too.
    pub async fn observe(&self) -> Result<Observed, Refusal> {
        self.settled().await;
        let observed = self.blocking(|machine| machine.observe()).await;
        observed.map_err(|error| Refusal::Impossible(chain(&error)))
    }

    /// The addresses of the controller, the one in use first; none where it was not reached yet.
    fn controllers(&self) -> Vec<IpAddr> {
        self.controller.borrow().iter().map(SocketAddr::ip).collect()
    }

    fn enqueue(&self, job: Accepted) -> Result<(), Refusal> {
        // There is room: nothing is accepted while something is under way.
        self.jobs.try_send(Job(job)).map_err(|_| Refusal::Busy("the agent is ending".into()))
    }

    /// Finishes what an earlier run of the agent left, so that the hello of the next session tells the truth.
    pub async fn recover(&self) {
        let kept = self.state().kept.clone();
        match kept.progress {
            Progress::Applying { generation, .. } => {
                let undoes = kept.before.is_some();
                self.undo_interrupted(generation, kept.before).await;
                if undoes {
                    return;
                }
            }
            Progress::RevertFailed { .. } if self.manage.network => return self.strand().await,
            _ => {}
        }
        if let Some(desired) = kept.confirmed.filter(|_| self.manage.network) {
            self.restore(desired).await;
        }
    }

    /// Does what was accepted, and beside what leaves the network alone what drift asks for, for ever.
    pub async fn run(&self, mut jobs: Jobs) {
        let mut watch = drift::Watch::begin(&*self.machine, self.manage);
        let mut turns = stranded::Turns::begin();
        loop {
            // All are cancel-safe: what is accepted waits in its queue, the watch remembers what it has heard, and the turns
            // when the next one is.
            let job = tokio::select! {
                biased;
                job = jobs.recv() => job,
                () = watch.due(&self.look_again) => {
                    self.look_while_idle(&mut watch).await;
                    continue;
                }
                found = self.found_home(&turns) => {
                    self.take_a_turn(found, &mut turns).await;
                    continue;
                }
            };
            let Some(Job(mut job)) = job else { return };
            let holds = match &mut job {
                Accepted::Apply(work, _) => work.holds.take(),
                Accepted::Wipe(_) => self.confirmed_network(),
            };
            let mut work = pin!(self.carry(job));
            loop {
                // Both are cancel-safe: the work is not dropped, and the watch remembers what it has heard.
                tokio::select! {
                    biased;
                    () = &mut work => break,
                    () = watch.due(&self.look_again), if holds.is_some() => {
                        self.look_for_drift(&mut watch, holds.clone()).await;
                    }
                }
            }
            self.state().busy = Busy::Nothing;
            watch.begin_anew();
            turns = stranded::Turns::begin();
        }
    }

    async fn carry(&self, job: Accepted) {
        match job {
            Accepted::Apply(work, begun) => {
                // An error is the other side's end, and that is what is waited for.
                let _ = begun.await;
                self.do_apply(*work).await;
            }
            Accepted::Wipe(wipe) => self.do_wipe(wipe).await,
        }
    }

    async fn do_wipe(&self, wipe: Wipe) {
        let Wipe { operation, disks, level } = wipe;
        let count = disks.len().max(1);
        let mut receipts = Vec::with_capacity(count);
        if let Err(why) = self.take_down(operation, disks.clone()).await {
            crate::warn!("wiping failed: {why}");
            let why = format!("{why}; nothing was wiped");
            return self.outbox.send_modify(|out| out.set_work(operation, Work::Failed { why }));
        }
        for (at, disk) in disks.into_iter().enumerate() {
            crate::info!("wiping {disk}");
            let outbox = self.outbox.clone();
            let wiped = self
                .blocking(move |machine| {
                    let mut shown = None;
                    let mut progress = |percent: u8| {
                        let percent = ((at * 100 + usize::from(percent.min(100))) / count) as u8;
                        if shown.replace(percent) != Some(percent) {
                            let state = Work::Running { percent, step: format!("wiping {disk}") };
                            outbox.send_modify(|out| out.set_work(operation, state));
                        }
                    };
                    machine.wipe(&disk, level, &mut progress).map_err(|error| format!("{disk}: {}", chain(&error)))
                })
                .await;
            match wiped {
                Ok(receipt) => receipts.push(receipt),
                Err(why) => {
                    crate::warn!("wiping failed: {why}");
                    let why = format!("{why}; {} of {count} disks were wiped before", receipts.len());
                    return self.outbox.send_modify(|out| out.set_work(operation, Work::Failed { why }));
                }
            }
        }
        self.outbox.send_modify(|out| out.set_work(operation, Work::Done { receipts }));
    }

    /// Stops what runs on disks that are to be wiped.
    async fn take_down(&self, operation: OperationId, disks: Vec<DiskId>) -> Result<(), String> {
        let observed = self.blocking(|machine| machine.observe()).await.map_err(|error| chain(&error))?;
        for step in plan::storage::take_down(&disks, &observed).map_err(|error| error.to_string())? {
            let action = step.describe().action;
            crate::info!("{action}, for its disks are to be wiped");
            let state = Work::Running { percent: 0, step: action.clone() };
            self.outbox.send_modify(|out| out.set_work(operation, state));
            let done = self.blocking(move |machine| machine.apply_storage(&step, &mut |_| {})).await;
            done.map_err(|error| format!("{action}: {}", chain(&error)))?;
        }
        Ok(())
    }

    /// Sets what is told and what is kept.
    fn set_progress(&self, progress: Progress) {
        self.note(|kept| kept.progress = progress.clone());
        self.outbox.send_modify(|out| out.progress = progress);
    }

    fn note(&self, change: impl FnOnce(&mut Kept)) {
        let mut state = self.state();
        change(&mut state.kept);
        kept::save(&self.keep, kept::NAME, self.boot, &state.kept);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&dyn Machine) -> T + Send + 'static) -> T {
        crate::machine::blocking(&self.machine, work).await
    }
}
