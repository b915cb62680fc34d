//! How many connections there are at once, in all and from one source.
//!
//! Used for whatever costs something before it is known who comes: handshakes and enrollments here, HTTP in `server`.
//! A connection over the limit is not served: a peer who tries again is better than one who holds a place. Or, where
//! whoever is honest needs his place for a moment only, the one that has held one for longest gives way to it: then those
//! who hold places on purpose keep nobody out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::limit::Source;

/// For so long a place is held before it is taken away: two round trips around the world take less. It also limits how many
/// connections that are over QUIC has to remember, each for about three seconds (RFC 9000, section 10.2).
const HELD: Duration = Duration::from_secs(1);

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
    /// Those of each source in the order in which they were taken, since when, and whom to tell to give way.
    by: HashMap<IpAddr, BTreeMap<u64, (Instant, Arc<Notify>)>>,
    number: u64,
    warned: Option<Instant>,
}

/// One connection's. It is given back when this is dropped.
pub struct Place {
    places: Places,
    source: IpAddr,
    number: u64,
    lost: Arc<Notify>,
}

/// Another connection has the place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

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
        let own = taken.of(source);
        if taken.all >= self.0.all || own >= self.0.each {
            if taken.warns() {
                tracing::warn!(%peer, its_own = own, all = taken.all, "too many connections; new ones are not served");
            }
            return None;
        }
        Some(self.place(&mut taken, source, Instant::now()))
    }

    /// The same; where there is none left, the one that was taken first gives way, of this source where it has its share,
    /// else of the one that has most. None does before it was held for [`HELD`].
    pub fn make(&self, peer: IpAddr) -> Option<Place> {
        self.make_at(peer, Instant::now())
    }

    fn make_at(&self, peer: IpAddr, now: Instant) -> Option<Place> {
        let source = peer.whole();
        let mut taken = self.taken();
        let own = taken.of(source);
        let from = match own >= self.0.each {
            true => Some(source),
            // Only where there is no room: this looks at all sources.
            false if taken.all >= self.0.all => taken.most(),
            false => None,
        };
        if let Some(from) = from {
            if taken.warns() {
                tracing::warn!(%peer, its_own = own, all = taken.all, "too many connections; the oldest give way");
            }
            taken.oust(from, now)?;
        }
        Some(self.place(&mut taken, source, now))
    }

    fn place(&self, taken: &mut Taken, source: IpAddr, now: Instant) -> Place {
        taken.all += 1;
        taken.number += 1;
        let (number, lost) = (taken.number, Arc::<Notify>::default());
        taken.by.entry(source).or_default().insert(number, (now, lost.clone()));
        Place { places: self.clone(), source, number, lost }
    }

    /// How many are taken.
    pub fn count(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn of(&self, source: IpAddr) -> usize {
        self.by.get(&source).map_or(0, BTreeMap::len)
    }

    /// Who has most.
    fn most(&self) -> Option<IpAddr> {
        self.by.iter().max_by_key(|(_, places)| places.len()).map(|(source, _)| *source)
    }

    fn warns(&mut self) -> bool {
        let is_due = self.warned.is_none_or(|at| at.elapsed() > QUIET);
        if is_due {
            self.warned = Some(Instant::now());
        }
        is_due
    }

    /// Takes the first one of a source away from whoever has it; `None` where it is too early.
    fn oust(&mut self, source: IpAddr, now: Instant) -> Option<()> {
        let (number, (since, lost)) = self.by.get(&source)?.first_key_value()?;
        if now.saturating_duration_since(*since) < HELD {
            return None;
        }
        lost.notify_one();
        let number = *number;
        self.give_back(source, number);
        Some(())
    }

    fn give_back(&mut self, source: IpAddr, number: u64) {
        let Some(own) = self.by.get_mut(&source) else { return };
        // It may have been taken away.
        if own.remove(&number).is_some() {
            self.all -= 1;
        }
        if own.is_empty() {
            self.by.remove(&source);
        }
    }
}

impl Place {
    /// Does `part` for as long as the place is held.
    pub async fn hold<T>(&self, part: impl Future<Output = T>) -> Result<T, Lost> {
        tokio::select! {
            // What is done is done. Neither is polled again once the other is ready.
            biased;
            done = part => Ok(done),
            () = self.lost.notified() => Err(Lost),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().give_back(self.source, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

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

    #[tokio::test]
    async fn the_one_that_holds_its_place_for_longest_gives_way_to_its_own_or_to_those_who_have_less() {
        let (places, mut now) = (Places::new(10), Instant::now());
        let ip = |last: u8| IpAddr::from([192, 0, 2, last]);
        let is_lost = async |place: &Place| futures_util::poll!(pin!(place.hold(pending::<()>()))).is_ready();
        let mut hostile: Vec<Place> = (0..5).filter_map(|_| places.make_at(ip(1), now)).collect();
        assert!(places.make_at(ip(1), now).is_none(), "whoever is honest has a moment");
        now += HELD;
        hostile.push(places.make_at(ip(1), now).expect("half of them are its share"));
        assert!(is_lost(&hostile.remove(0)).await);

        let honest: Vec<Place> = (2..=6).filter_map(|last| places.make_at(ip(last), now)).collect();
        let newcomer = places.make_at(ip(7), now).expect("all are taken, and one source has most");
        assert!(is_lost(&hostile.remove(0)).await);
        for place in honest.iter().chain(&hostile).chain([&newcomer]) {
            assert!(!is_lost(place).await);
        }
        assert_eq!((honest.len(), places.count()), (5, 10));
        drop((hostile, honest, newcomer));
        assert_eq!((places.count(), places.taken().by.len()), (0, 0));
    }
}
