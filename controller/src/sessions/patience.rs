//! How many failed enrollments are put up with from one address: few from strangers, and fifty times as many where a
//! machine of ours is, or was within the hour.
//!
//! An office is one address to us. Whoever fails there on purpose must not keep the machines beside it from enrolling,
//! and an address with an approved machine behind it is worth the work that it can cause: checking signatures.
//! Time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::limit::{Buckets, Source};

/// Failed enrollments in a row that are put up with from one source.
const FAILURES: u32 = 20;

/// After this time one more is put up with.
const ONE_MORE: Duration = Duration::from_secs(3);

/// So many times as much, where a machine of ours is.
const NEIGHBORS: u32 = 50;

/// For so long after the last of them left.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Addresses of machines that left that are remembered. Beyond, the one that was left longest ago is forgotten.
const LEFT: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Patience {
    strangers: Buckets,
    neighbors: Buckets,
    here: HashMap<IpAddr, u32>,
    left: HashMap<IpAddr, Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            strangers: Buckets::new(FAILURES, ONE_MORE),
            neighbors: Buckets::new(FAILURES * NEIGHBORS, ONE_MORE / NEIGHBORS),
            here: HashMap::new(),
            left: HashMap::new(),
        }
    }
}

impl Patience {
    /// An approved machine began a session from there.
    pub fn came(&mut self, source: IpAddr) {
        *self.here.entry(source.whole()).or_default() += 1;
    }

    /// The session of a machine that came from there is over.
    pub fn went(&mut self, source: IpAddr, now: Instant) {
        let source = source.whole();
        let Some(count) = self.here.get_mut(&source) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.here.remove(&source);
        self.left.insert(source, now);
        if self.left.len() > LEFT {
            let oldest = self.left.iter().min_by_key(|(_, at)| **at).map(|(source, _)| *source);
            oldest.map(|oldest| self.left.remove(&oldest));
        }
    }

    /// Whether an enrollment from there is listened to.
    pub fn hears(&self, source: IpAddr, now: Instant) -> bool {
        self.strangers.has(source, now) || (self.is_ours(source.whole(), now) && self.neighbors.has(source, now))
    }

    /// An enrollment from there failed.
    pub fn failed(&mut self, source: IpAddr, now: Instant) {
        self.strangers.take(source, now);
        self.neighbors.take(source, now);
    }

    fn is_ours(&self, source: IpAddr, now: Instant) -> bool {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < REMEMBERED;
        self.here.contains_key(&source) || self.left.get(&source).is_some_and(recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    /// How many failures are heard at one moment.
    fn heard(patience: &mut Patience, now: Instant) -> u32 {
        let mut count = 0;
        while patience.hears(OFFICE, now) {
            patience.failed(OFFICE, now);
            count += 1;
        }
        count
    }

    #[test]
    fn an_address_with_a_machine_of_ours_is_heard_fifty_times_as_long() {
        let now = Instant::now();
        assert_eq!(heard(&mut Patience::default(), now), FAILURES);
        let mut patience = Patience::default();
        patience.came(OFFICE);
        assert_eq!(heard(&mut patience, now), FAILURES * NEIGHBORS, "and not for ever");
        assert!(patience.hears(OFFICE, now + ONE_MORE / NEIGHBORS));
    }

    #[test]
    fn a_machine_that_comes_after_the_flood_ends_it_for_its_neighbors() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        heard(&mut patience, now);
        assert!(!patience.hears(OFFICE, now));
        patience.came(OFFICE);
        assert!(patience.hears(OFFICE, now));
    }

    #[test]
    fn an_hour_after_its_last_machine_left_an_address_is_a_strangers() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.came(OFFICE);
        patience.came("::ffff:203.0.113.7".parse().expect("the same by another spelling"));
        patience.went(OFFICE, now);
        assert_eq!((patience.here.len(), patience.left.len()), (1, 0));
        patience.went(OFFICE, now);
        assert_eq!((patience.here.len(), patience.left.len()), (0, 1));
        assert!(patience.is_ours(OFFICE, now + REMEMBERED / 2) && !patience.is_ours(OFFICE, now + REMEMBERED));
        patience.went(OFFICE, now);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        for i in 0..LEFT as u32 + 100 {
            let source = std::net::Ipv4Addr::from_bits(i).into();
            patience.came(source);
            patience.went(source, now);
        }
        assert!(patience.here.is_empty() && patience.left.len() <= LEFT);
    }
}
