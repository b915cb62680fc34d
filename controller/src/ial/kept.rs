//! What the catalog told last, for as long as it holds: it is asked far more often than it changes.
//!
//! An answer is kept with everything that it was made of: tables of the fleet's state, comings and goings, and the time
//! for which it holds. It is made of those tables and nothing else ([`State::machines_alone`], [`State::addresses_alone`]), so
//! nothing can be forgotten; and they are compared with the newest durable state's at each call, so none is told that
//! does not hold when it is asked for, or between that and the answer.
//! In two parts, since addresses come and go more often than machines, and to look at all machines takes longest.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::catalog::{self, List};
use super::{Ial, Presence};
use crate::clock::now_unix_ms;
use crate::fleet::model::{self, Model};
use crate::fleet::record::{Location, PlaceRule};
use crate::fleet::{State, address};

/// See the module.
#[derive(Default)]
pub(super) struct Kept {
    listed: ArcSwapOption<Listed>,
    /// One makes it for all who wait.
    turn: tokio::sync::Mutex<()>,
    /// How often one began.
    begun: AtomicU64,
}

/// Everything that answers are made of, as it is now.
struct Now {
    state: Arc<State>,
    moves: u64,
    unix_ms: u64,
}

impl Now {
    fn of(ial: &Ial) -> Self {
        Self { state: ial.fleet.state(), moves: ial.online.moves(), unix_ms: now_unix_ms() }
    }
}

/// Machines by model and place, whatever addresses there are for them; and all locations.
struct Counted {
    of: State,
    moves: u64,
    holds: Range<u64>,
    models: Vec<Model>,
    locations: Vec<Location>,
}

impl Counted {
    fn make(now: &Now, online: &Presence) -> Self {
        let of = now.state.machines_alone();
        let until = Cell::new(u64::MAX);
        let is_there = |machine| {
            let there = online.there(machine);
            until.set(until.get().min(there.until_unix_ms.unwrap_or(u64::MAX)));
            there.is
        };
        let models = model::count(&of, &is_there);
        let locations = catalog::known(&of);
        Self { of, moves: now.moves, holds: now.unix_ms..until.get(), models, locations }
    }

    fn holds(&self, now: &Now) -> bool {
        self.moves == now.moves && self.holds.contains(&now.unix_ms) && self.of.is_same(&now.state.machines_alone())
    }
}

/// What can be had, and how it was told.
struct Listed {
    /// Which time it was.
    number: u64,
    counted: Arc<Counted>,
    of: State,
    holds: Range<u64>,
    models: Vec<Model>,
    /// As many as there are rules of credentials.
    bodies: Mutex<Vec<(List, PlaceRule, Bytes)>>,
}

impl Listed {
    fn make(number: u64, now: &Now, counted: Arc<Counted>) -> Self {
        let of = now.state.addresses_alone();
        let mut models = counted.models.clone();
        model::fit(&mut models, &of, now.unix_ms);
        let until = address::next_end(&of, now.unix_ms).unwrap_or(u64::MAX);
        Self { number, counted, of, holds: now.unix_ms..until, models, bodies: Mutex::default() }
    }

    fn holds(&self, now: &Now) -> bool {
        self.counted.holds(now) && self.holds.contains(&now.unix_ms) && self.of.is_same(&now.state.addresses_alone())
    }

    fn body(&self, list: List, places: &PlaceRule) -> Option<Bytes> {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |(of, rule, _): &&(List, PlaceRule, Bytes)| *of == list && rule == places;
        bodies.iter().find(is_it).map(|(.., body)| body.clone())
    }

    fn make_body(&self, ial: &Ial, list: List, places: &PlaceRule) -> Bytes {
        let data = match list {
            List::Locations => catalog::locations_view(&self.counted.locations, places),
            List::Models => catalog::models_view(&self.counted.of, &self.models, places),
        };
        let body = ial.envelope.body(data);
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).push((list, places.clone(), body.clone()));
        body
    }
}

impl Kept {
    /// The body of the answer for a credential that is for these places, as it is now.
    pub(super) async fn body(&self, ial: &Ial, list: List, places: &PlaceRule) -> Bytes {
        let begun = self.begun.load(Ordering::SeqCst);
        let now = Now::of(ial);
        if let Some(listed) = self.listed.load().as_ref().filter(|listed| listed.holds(&now))
            && let Some(body) = listed.body(list, places)
        {
            return body;
        }
        let _turn = self.turn.lock().await;
        let listed = self.made(ial, begun);
        listed.body(list, places).unwrap_or_else(|| listed.make_body(ial, list, places))
    }

    /// What holds now, made where it does not. What was begun later than a call came is good for that one, whatever has
    /// changed since: so nobody waits for more than two of them, however fast the fleet changes.
    fn made(&self, ial: &Ial, begun: u64) -> Arc<Listed> {
        let before = self.listed.load_full();
        let now = Now::of(ial);
        if let Some(listed) = before.as_ref().filter(|listed| listed.number > begun || listed.holds(&now)) {
            return listed.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let now = Now::of(ial);
        let counted = before.map(|listed| listed.counted.clone()).filter(|counted| counted.holds(&now));
        let counted = counted.unwrap_or_else(|| Arc::new(Counted::make(&now, &ial.online)));
        let listed = Arc::new(Listed::make(number, &now, counted));
        self.listed.store(Some(listed.clone()));
        listed
    }
}

#[cfg(test)]
mod tests {
    use muster_protocol::MachineId;
    use muster_protocol::enroll::Identity;

    use super::super::{Present, There};
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::machine;
    use crate::fleet::model::tests::box_with;
    use crate::fleet::record::{Address, AddressHolder};

    /// Everybody is there until then.
    struct Until(u64);

    impl Present for Until {
        fn there(&self, _: MachineId) -> There {
            There { is: true, until_unix_ms: Some(self.0) }
        }

        fn moves(&self) -> u64 {
            7
        }
    }

    #[test]
    fn what_ends_by_itself_is_told_until_then_and_after_that_looked_at_again() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        machine::approve(&mut draft, id).expect("approved");
        machine::inventory(&mut draft, id, box_with("S", 1)).expect("stored");
        let online: Presence = Arc::new(Until(5_000_000));
        let quarantine = Address {
            block: "203.0.113.5/32".parse().expect("a block"),
            subnet: "203.0.113.0/29".parse().expect("a net"),
            holder: AddressHolder::Quarantine { until_unix_ms: 3_000_000 },
            since_unix_ms: 0,
        };
        draft.put(quarantine);
        let now = |unix_ms, moves| Now { state: Arc::new(draft.state().clone()), moves, unix_ms };
        let counted = Arc::new(Counted::make(&now(2_000_000, 7), &online));
        let listed = Listed::make(1, &now(2_000_000, 7), counted.clone());
        assert!(listed.holds(&now(2_999_999, 7)));
        assert!(!listed.holds(&now(3_000_000, 7)) && counted.holds(&now(3_000_000, 7)), "an address is free again");
        let listed = Listed::make(2, &now(3_000_000, 7), counted.clone());
        assert!(listed.holds(&now(4_999_999, 7)));
        assert!(!listed.holds(&now(5_000_000, 7)), "a machine is gone");
        assert!(!listed.holds(&now(2_999_999, 7)), "the clock was set back");
        assert!(!listed.holds(&now(4_999_999, 8)), "somebody came or went");
    }
}
