//! One generation: its steps, the proof, and the way back.
//!
//! Storage steps first, then network steps (see [`plan::Plan`]), then everything is read back, then the controller must
//! answer over a connection that was begun after the change. Where the network was touched and any of this fails, it is
//! set back to what was observed before. Storage steps are never undone: they added, or they were permitted.

use std::time::Duration;

use muster_protocol::desired::{Checked, Desired};
use muster_protocol::hello::Progress;
use muster_protocol::observed::{self, Observed};
use muster_protocol::{Digest, Generation};
use tokio::time::{Instant, sleep};

use super::{Reconciler, diagnose};
use crate::machine::{MachineError, chain};
use crate::outbox::{Proof, Proven};
use crate::plan::{self, Plan};

/// How long the kernel may take until what was set is what it says: carriers, IPv6 address checks, leases.
const VERIFY_WITHIN: Duration = Duration::from_secs(10);
/// How long undoing may take.
const REVERT_WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// An accepted generation.
pub struct Work {
    pub generation: Generation,
    /// Digest of `desired`.
    pub contents: Digest,
    pub desired: Checked<Desired>,
    pub plan: Plan,
    /// What the plan was made for, and what a revert goes back to.
    pub before: Observed,
    /// To prove the change in, once it is made.
    pub within: Duration,
}

/// How far it came before it failed.
struct Failure {
    why: String,
    storage_steps_done: usize,
    network: Touched,
}

#[derive(PartialEq, Eq)]
enum Touched {
    No,
    Yes,
}

impl Reconciler {
    /// Carries it out to the end, whatever the end is.
    pub(super) async fn do_apply(&self, work: Work) {
        let generation = work.generation;
        let outcome = match self.carry_out(&work).await {
            Ok(()) => {
                self.note(|kept| kept.confirmed = Some(work.desired.get().clone()));
                Progress::Confirmed { generation }
            }
            Err(failure) => self.give_up(&work, failure).await,
        };
        crate::info!("generation {generation}: {outcome:?}");
        self.settle(outcome);
    }

    fn settle(&self, outcome: Progress) {
        self.note(|kept| kept.before = None);
        self.set_progress(outcome);
    }

    async fn carry_out(&self, work: &Work) -> Result<(), Failure> {
        let Work { generation, plan, .. } = work;
        let count = plan.shown.steps.len();
        let mut step_number = 0;
        let mut begin = |network: Touched| {
            let step = plan.shown.steps.get(step_number).map(|s| s.action.clone()).unwrap_or_default();
            let begun = Begun { generation: *generation, step, number: step_number, count };
            step_number += 1;
            (begun, network)
        };
        let failed = |begun: &Begun, network, error: MachineError| Failure {
            why: format!("{}: {}", begun.step, chain(&error)),
            storage_steps_done: begun.number.min(plan.storage.len()),
            network,
        };
        for step in &plan.storage {
            let (begun, network) = begin(Touched::No);
            self.apply_storage(step.clone(), begun.clone()).await.map_err(|error| failed(&begun, network, error))?;
        }
        if !plan.network.is_empty() {
            self.note(|kept| kept.before = Some(work.before.network.clone()));
        }
        for step in &plan.network {
            let (begun, network) = begin(Touched::Yes);
            self.set_progress(begun.at(0));
            let step = step.clone();
            let done = self.blocking(move |machine| machine.apply_network(&step)).await;
            done.map_err(|error| failed(&begun, network, error))?;
        }
        let late = |why| Failure {
            why,
            storage_steps_done: plan.storage.len(),
            network: if plan.network.is_empty() { Touched::No } else { Touched::Yes },
        };
        // The seconds to prove it in begin here; reading back is part of them.
        let deadline = Instant::now() + work.within;
        self.verify(work).await.map_err(late)?;
        self.prove(work, deadline).await.map_err(late)
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
    async fn verify(&self, work: &Work) -> Result<(), String> {
        let step = "reading back".to_owned();
        self.set_progress(Progress::Applying { generation: work.generation, percent: 97, step });
        let deadline = Instant::now() + VERIFY_WITHIN.min(work.within);
        loop {
            let differs = match self.read_back(work).await {
                Ok(observed) => plan::differences(&work.desired, &observed),
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

    /// Disks are looked at only where something is desired of them.
    async fn read_back(&self, work: &Work) -> Result<Observed, MachineError> {
        if work.desired.get().storage.is_some() {
            return self.blocking(|machine| machine.observe()).await;
        }
        let network = self.blocking(|machine| machine.observe_network()).await?;
        Ok(Observed { network, disks: Vec::new() })
    }

    /// Waits until the controller has answered over a way that is newer than the change.
    ///
    /// Where no network step was taken, the session that is up will do, and there is no deadline: nothing would be undone.
    async fn prove(&self, work: &Work, deadline: Instant) -> Result<(), String> {
        let step = "waiting for the controller's answer over the new network".to_owned();
        self.set_progress(Progress::Applying { generation: work.generation, percent: 99, step });
        let touched = !work.plan.network.is_empty();
        self.outbox.send_modify(|out| {
            let begun_before = if touched { out.connection } else { 0 };
            let (generation, desired) = (work.generation, work.contents);
            out.proof =
                Some(Proof { generation, desired, begun_before, answer: Proven::Waiting, trouble: String::new() });
        });
        let mut outbox = self.outbox.subscribe();
        let answered = outbox.wait_for(|out| out.proof.as_ref().is_none_or(|proof| proof.answer == Proven::Yes));
        let in_time = match touched {
            true => tokio::time::timeout_at(deadline, answered).await.is_ok(),
            false => answered.await.is_ok(),
        };
        let mut proof = None;
        self.outbox.send_modify(|out| proof = out.proof.take());
        if in_time {
            return Ok(());
        }
        let mut causes = vec![format!("the controller did not answer within {} s", work.within.as_secs())];
        if let Some(network) = work.desired.get().network.clone() {
            let seen = self.blocking(|machine| (machine.observe_network(), machine.unanswered())).await;
            if let (Ok(observed), unanswered) = seen {
                causes.extend(diagnose::diagnose(&network, &observed, &unanswered));
            }
        }
        causes.extend(proof.map(|proof| proof.trouble).filter(|text| !text.is_empty()));
        Err(causes.join("; "))
    }

    async fn give_up(&self, work: &Work, failure: Failure) -> Progress {
        let Failure { mut why, storage_steps_done, network } = failure;
        let generation = work.generation;
        if storage_steps_done > 0 {
            why.push_str(&format!("; {storage_steps_done} storage steps were done before and stay"));
        }
        if network == Touched::No {
            return Progress::Reverted { generation, why };
        }
        let step = "undoing the network's change".to_owned();
        self.set_progress(Progress::Applying { generation, percent: 99, step });
        self.revert(generation, work.before.network.clone(), why).await
    }

    /// Sets the network back and reads back that it is so.
    async fn revert(&self, generation: Generation, before: observed::Network, why: String) -> Progress {
        crate::warn!("generation {generation} is undone: {why}");
        let deadline = Instant::now() + REVERT_WITHIN;
        loop {
            let wanted = before.clone();
            let left = self
                .blocking(move |machine| {
                    let now = machine.observe_network().map_err(|error| chain(&error))?;
                    let steps = plan::network::revert(&wanted, &now);
                    let mut left = Vec::new();
                    for step in &steps {
                        // One step that fails does not keep the others from being undone.
                        let error = machine.apply_network(step).err();
                        let error = error.map_or_else(String::new, |error| format!(": {}", chain(&error)));
                        left.push(format!("{}{error}", step.describe().action));
                    }
                    Ok::<_, String>(left)
                })
                .await;
            let left = match left {
                // Nothing to do on a fresh look: it is as it was.
                Ok(left) if left.is_empty() => return Progress::Reverted { generation, why },
                Ok(left) => left.join("; "),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Progress::RevertFailed { generation, why: format!("{why}; undoing it did not hold: {left}") };
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The agent died in the middle of a generation: what is known is what was before.
    pub(super) async fn undo_interrupted(&self, generation: Generation, before: Option<observed::Network>) {
        let why = "the agent was restarted in the middle; storage steps that were done stay".to_owned();
        let outcome = match before {
            Some(network) => self.revert(generation, network, why).await,
            None => Progress::Reverted { generation, why },
        };
        self.settle(outcome);
    }

    /// A restarted agent makes the confirmed network true again: what the kernel holds is there still, but DHCP clients
    /// ended with the process that ran them.
    pub(super) async fn restore(&self, desired: Desired) {
        let Some(network) = desired.network else { return };
        self.blocking(move |machine| {
            let restored = machine.observe_network().map_err(|error| chain(&error)).and_then(|observed| {
                let steps = plan::network::plan(&network, &observed).map_err(|error| error.to_string())?;
                steps.iter().try_for_each(|step| machine.apply_network(step).map_err(|error| chain(&error)))
            });
            if let Err(why) = restored {
                crate::warn!("the confirmed network could not be restored: {why}");
            }
        })
        .await;
    }
}

/// A step that has begun, for telling how far the whole is.
#[derive(Clone)]
struct Begun {
    generation: Generation,
    step: String,
    number: usize,
    count: usize,
}

impl Begun {
    /// The last three percent are for reading back and the proof.
    fn at(&self, percent: u8) -> Progress {
        let done = self.number * 100 + usize::from(percent.min(100));
        let percent = (done * 97 / (self.count.max(1) * 100)) as u8;
        Progress::Applying { generation: self.generation, percent, step: self.step.clone() }
    }
}
