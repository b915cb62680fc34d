//! How many connections there are at once, in all and from one source.
//!
//! Used for whatever costs something before it is known who comes: handshakes and enrollments here, HTTP in `server`.
//! A connection over the limit is not served: a peer who tries again is better than one who holds a place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::limit::Source;

/// Between two words in the log about connections that were not served.
const QUIET: Duration = Duration::from_secs(10);

/// So many places; clones are the same ones.
#[derive(Clone)]
pub struct Places(Arc<Limited>);

struct Limited {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
    warned: Option<Instant>,
}

/// One connection's. It is given back when this is dropped.
pub struct Place {
    places: Places,
    source: IpAddr,
}

impl Places {
    /// This many in all. One source gets half of them: a site behind one address may boot together, and leaves room for
    /// others.
    pub fn new(all: usize) -> Self {
        Self(Arc::new(Limited { all, each: all / 2, taken: Mutex::default() }))
    }

    /// A place for a connection from `peer`; `None` where there is none left.
    pub fn take(&self, peer: IpAddr) -> Option<Place> {
        let source = peer.whole();
        let mut taken = self.taken();
        let own = taken.by.get(&source).copied().unwrap_or_default();
        if taken.all >= self.0.all || own >= self.0.each {
            if taken.warned.is_none_or(|at| at.elapsed() > QUIET) {
                taken.warned = Some(Instant::now());
                tracing::warn!(%peer, its_own = own, all = taken.all, "too many connections; new ones are not served");
            }
            return None;
        }
        taken.all += 1;
        taken.by.insert(source, own + 1);
        Some(Place { places: self.clone(), source })
    }

    /// How many are taken.
    pub fn count(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        match taken.by.get_mut(&self.source) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.by.remove(&self.source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_leaves_room_for_others_and_gives_back_what_it_took() {
        let places = Places::new(10);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        // The addresses of one IPv6 network are one source.
        let mut held: Vec<_> =
            (0..5).map(|n| places.take(ip(&format!("2001:db8::{n}"))).expect("there is room")).collect();
        assert!(places.take(ip("2001:db8::ffff")).is_none());
        let others: Vec<_> = (0..5).map(|_| places.take(ip("192.0.2.2")).expect("there is room")).collect();
        assert!(places.take(ip("192.0.2.3")).is_none(), "no more in all");
        held.pop();
        assert!(places.take(ip("2001:db8::ffff")).is_some());
        drop((held, others));
        assert_eq!((places.count(), places.taken().by.len()), (0, 0));
    }
}
