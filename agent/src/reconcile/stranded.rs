//! A machine that nobody reaches, after an undoing that did not hold: what it had before, and asking for addresses on every
//! NIC, in turns, until the controller answers by one of them or gives it another generation.
//!
//! Called by the reconcile loop between two pieces of work. Neither of the two is known to lead home: what it had did not
//! become so again in time, and what gives addresses may not be there.

use std::time::Duration;

use muster_protocol::observed;
use tokio::time::{Instant, timeout, timeout_at};

use super::apply::SOAK;
use super::{Busy, Reconciler, undo};
use crate::machine::{Machine, chain};

/// For a turn to lead home: leases, spanning tree in the switch, the session.
pub const TURN: Duration = Duration::from_secs(60);
const LONGEST_TURN: Duration = Duration::from_secs(600);

/// How long a network that the machine is known to have had is tried for: twice as long each time, where asking for
/// addresses always has a [`TURN`].
pub struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(TURN)
    }
}

impl Patience {
    /// For this time.
    pub fn pass(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(LONGEST_TURN);
        now
    }
}

/// Whose turn it is, and for how long.
pub(super) struct Turns {
    lasts: Duration,
    until: Instant,
    next: Way,
    /// With what it had.
    patience: Patience,
}

#[derive(Clone, Copy)]
enum Way {
    AsBefore,
    AsItBoots,
}

/// What came of a turn.
pub(super) enum Found {
    Home,
    Nobody,
}

impl Turns {
    /// Every NIC has just begun to ask.
    pub(super) fn begin() -> Self {
        Self { lasts: TURN, until: Instant::now() + TURN, next: Way::AsBefore, patience: Patience::default() }
    }

    fn pass(&mut self) {
        (self.lasts, self.next) = match self.next {
            Way::AsBefore => (self.patience.pass(), Way::AsItBoots),
            Way::AsItBoots => (TURN, Way::AsBefore),
        };
        self.until = Instant::now() + self.lasts;
    }
}

/// Answers what was done.
fn go_back(machine: &dyn Machine, to: &observed::Network) -> String {
    undo::back(machine, to, &[], &|_| true).map(|done| done.join("; ")).unwrap_or_else(|error| error)
}

impl Reconciler {
    /// An agent that starts anew knows nobody by what there is, and its clients ended with the process before it. For one that
    /// an undoing that did not hold has left: what led home since is made so again, and where nothing did, every NIC asks.
    pub(super) async fn strand(&self) {
        let home = self.state().kept.home.clone();
        let (done, again) = self
            .blocking(move |machine| match home {
                Some(home) => (go_back(machine, &home), Some(home)),
                None => (undo::last_resort(machine, &|_| true), None),
            })
            .await;
        crate::info!("{done}");
        self.note(|kept| kept.stranded = again.or_else(|| kept.stranded.take()));
        self.outbox.send_modify(|out| out.changes += 1);
    }

    /// Waits until the machine is home or the turn is over; for ever where it is not stranded. Cancel-safe.
    pub(super) async fn found_home(&self, turns: &Turns) -> Found {
        if self.state().kept.stranded.is_none() {
            return std::future::pending().await;
        }
        let mut outbox = self.outbox.subscribe();
        loop {
            if timeout_at(turns.until, outbox.wait_for(|out| out.heard == out.changes)).await.is_err() {
                return Found::Nobody;
            }
            if timeout(SOAK, outbox.wait_for(|out| out.heard != out.changes)).await.is_err() {
                return Found::Home;
            }
        }
    }

    /// Stays with what leads home, or tries the other way.
    pub(super) async fn take_a_turn(&self, found: Found, turns: &mut Turns) {
        if matches!(found, Found::Home) {
            return match self.blocking(|machine| machine.observe_network()).await {
                Ok(home) => self.note(|kept| (kept.stranded, kept.home) = (None, Some(home))),
                Err(error) => crate::warn!("cannot look at what leads home: {}", chain(&error)),
            };
        }
        // What is being judged was found idle, and is next.
        let _one = self.one_offer.lock().await;
        let before = {
            let state = self.state();
            state.kept.stranded.clone().filter(|_| state.busy == Busy::Nothing)
        };
        let (Some(before), next, seconds) = (before, turns.next, turns.lasts.as_secs()) else {
            return *turns = Turns::begin();
        };
        let done = self.blocking(move |machine| match next {
            Way::AsBefore => {
                crate::warn!("no controller within {seconds} s; trying the network before the last change again");
                go_back(machine, &before)
            }
            Way::AsItBoots => {
                crate::warn!("no controller within {seconds} s that way either; asking for addresses on every NIC");
                undo::last_resort(machine, &|_| true)
            }
        });
        crate::info!("{}", done.await);
        turns.pass();
        self.outbox.send_modify(|out| out.changes += 1);
    }
}
