//! How many connections there are at once, in all and from one address.
//!
//! A connection over the limit is dropped: a peer who tries again is better than one who holds a place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections at once, for each listener.
const ALL: usize = 1024;

/// Of them, from one address: a site behind one address may boot together, and leaves room for others.
const EACH: usize = 512;

/// Between two words in the log about connections that were dropped.
const QUIET: Duration = Duration::from_secs(10);

/// A listener's places.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
    warned: Option<Instant>,
}

/// One connection's. It is given back when this is dropped.
pub struct Place {
    places: Places,
    peer: IpAddr,
}

impl Places {
    /// A place for a connection from `peer`; `None` where there is none left.
    pub fn take(&self, peer: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.by.get(&peer).copied().unwrap_or_default();
        if taken.all >= ALL || own >= EACH {
            if taken.warned.is_none_or(|at| at.elapsed() > QUIET) {
                taken.warned = Some(Instant::now());
                tracing::warn!(%peer, its_own = own, all = taken.all, "too many connections; new ones are dropped");
            }
            return None;
        }
        taken.all += 1;
        taken.by.insert(peer, own + 1);
        Some(Place { places: self.clone(), peer })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        match taken.by.get_mut(&self.peer) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.by.remove(&self.peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others_and_gives_back_what_it_took() {
        let places = Places::default();
        let [greedy, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().expect("an address"));
        let mut held: Vec<_> = (0..EACH).map(|_| places.take(greedy).expect("there is room")).collect();
        assert!(places.take(greedy).is_none());
        let others: Vec<_> = (EACH..ALL).map(|_| places.take(other).expect("there is room")).collect();
        assert!(places.take("192.0.2.3".parse().expect("an address")).is_none(), "no more in all");
        held.pop();
        assert!(places.take(greedy).is_some());
        drop((held, others));
        let taken = places.taken();
        assert_eq!((taken.all, taken.by.len()), (0, 0));
    }
}
