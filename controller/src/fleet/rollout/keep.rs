//! The loop that lets rollouts go on: looks when anything has changed, and when a time has come.
//!
//! Started by the server, one task. Decides nothing: that is [`waves::look`], on durable state, presence and the time, so a
//! controller that was killed goes on where it was.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::MachineId;
use tokio::sync::watch;

use super::record::RolloutState;
use super::waves::{self, Contact};
use super::{advance, create, outlived, remove};
use crate::clock::now_unix_ms;
use crate::fleet::{Author, Draft, Fleet, Refusal, State};

/// The least time between two looks at what changes all the time.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest, whatever the clock does.
const LONGEST: Duration = Duration::from_secs(15);

/// After a change that could not be made.
const AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// Who is in contact.
pub type Contacts = Arc<dyn Fn(MachineId) -> Contact + Send + Sync>;

/// Runs until the fleet or the sessions end. Rollouts that were being written when the controller before ended are removed
/// first: call it before anybody can ask for new ones.
pub fn keep(fleet: Fleet, contacts: Contacts, changes: watch::Receiver<u64>) -> impl Future<Output = ()> {
    let is_left_over = |state: &State| -> Vec<u64> {
        let preparing = state.rollouts.iter().filter(|rollout| rollout.state == RolloutState::Preparing);
        preparing.map(|rollout| rollout.number).collect()
    };
    let left_over = is_left_over(&fleet.state());
    run(fleet, contacts, changes, left_over)
}

async fn run(fleet: Fleet, contacts: Contacts, mut changes: watch::Receiver<u64>, left_over: Vec<u64>) {
    for number in left_over {
        if let Err(refusal) = create::remove(&fleet, number).await {
            tracing::warn!(number, %refusal, "a rollout that was never started could not be removed");
        }
    }
    let mut states = fleet.watch();
    loop {
        let state = states.borrow_and_update().clone();
        changes.borrow_and_update();
        match turn(&fleet, &state, &contacts).await {
            Ok(Turn::Again) => continue,
            Ok(Turn::Until(again)) => {
                let ms = again.map_or(LONGEST.as_millis() as u64, |at| at.saturating_sub(now_unix_ms()) + 1);
                // Every arm is cancel-safe: what one misses, the next look at the state finds.
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { return },
                    changed = changes.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(Duration::from_millis(ms).min(LONGEST)) => {}
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(Refusal::StoreFailed) => return,
            Err(refusal) => {
                tracing::warn!(%refusal, "a rollout could not go on; the next look finds the same");
                tokio::time::sleep(AFTER_REFUSAL).await;
            }
        }
    }
}

enum Turn {
    /// Something was done.
    Again,
    /// Nothing is to be done before this time.
    Until(Option<u64>),
}

/// Does one thing for each rollout that has something to be done.
async fn turn(fleet: &Fleet, state: &State, contacts: &Contacts) -> Result<Turn, Refusal> {
    let (mut done, mut again) = (false, None::<u64>);
    for rollout in state.rollouts.iter().filter(|rollout| !rollout.state.is_ended()) {
        let look = waves::look(state, rollout, &**contacts, now_unix_ms());
        if look.step.is_some() {
            let (number, contacts) = (rollout.number, Arc::clone(contacts));
            let step = move |draft: &mut Draft| advance(draft, number, &*contacts);
            fleet.change(Author::controller(), step).await?;
            done = true;
        }
        again = [again, look.again_unix_ms].into_iter().flatten().min();
    }
    if let Some(number) = outlived(state) {
        fleet.change(Author::controller(), move |draft| Ok(remove(draft, number))).await?;
        done = true;
    }
    Ok(if done { Turn::Again } else { Turn::Until(again) })
}
