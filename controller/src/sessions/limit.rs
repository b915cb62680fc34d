//! How often one source may do something: a bucket for each that is emptied by doing and fills by time.
//!
//! Used for enrollments, where only failures cost (a rack of machines behind one address enrolls as fast as it boots, and
//! somebody who guesses is soon not listened to), for boot scripts, each of which writes a ticket, and for requests that
//! are refused.
//! Time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Sources that are remembered. Beyond, the one that was heard of longest ago is forgotten.
const SOURCES: usize = 4096;

/// Boot scripts that one source gets at once, and enrollments without one: a site whose machines all start again is one
/// source where it is behind a router that translates addresses.
pub const STARTS: u32 = 500;

/// After this time it gets one more. Each one is a write.
pub const ONE_MORE_START: Duration = Duration::from_millis(200);

/// Whoever has a bucket.
pub trait Source: Clone + Eq + Hash {
    /// The one that stands for all that share a bucket with this one.
    fn whole(self) -> Self {
        self
    }
}

/// One household is one source.
impl Source for IpAddr {
    fn whole(self) -> Self {
        crate::source::whole(self)
    }
}

/// Somebody with a name.
impl Source for String {}

/// A bucket for each source.
#[derive(Debug)]
pub struct Buckets<S = IpAddr> {
    size: u32,
    refill: Duration,
    sources: HashMap<S, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    at: Instant,
}

impl<S: Source> Buckets<S> {
    /// Full buckets hold `size`, and get one more every `refill`.
    pub fn new(size: u32, refill: Duration) -> Self {
        Self { size, refill, sources: HashMap::new() }
    }

    /// Whether there is anything left for `source`.
    pub fn has(&self, source: S, now: Instant) -> bool {
        self.left(self.sources.get(&source.whole()), now) > 0
    }

    /// Takes one from the bucket of `source`.
    pub fn take(&mut self, source: S, now: Instant) {
        let source = source.whole();
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            let oldest = self.sources.iter().min_by_key(|(_, bucket)| bucket.at).map(|(source, _)| source.clone());
            oldest.map(|oldest| self.sources.remove(&oldest));
        }
        let left = self.left(self.sources.get(&source), now).saturating_sub(1);
        self.sources.insert(source, Bucket { left, at: now });
    }

    fn left(&self, bucket: Option<&Bucket>, now: Instant) -> u32 {
        let Some(bucket) = bucket else { return self.size };
        let gained = now.saturating_duration_since(bucket.at).as_millis() / self.refill.as_millis().max(1);
        self.size.min(bucket.left.saturating_add(u32::try_from(gained).unwrap_or(self.size)))
    }
}

/// Something that is done so often and no more, whoever causes it. Remembers how often it was left out.
#[derive(Debug)]
pub struct Ration {
    bucket: Buckets,
    left_out: u64,
}

impl Ration {
    /// `size` at once, and one more every `refill`.
    pub fn new(size: u32, refill: Duration) -> Self {
        Self { bucket: Buckets::new(size, refill), left_out: 0 }
    }

    /// How many were left out since the last one, where there is one now; `None` where this one is left out.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        const ALL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        if !self.bucket.has(ALL, now) {
            self.left_out += 1;
            return None;
        }
        self.bucket.take(ALL, now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    const SIZE: u32 = 20;
    const REFILL: Duration = Duration::from_secs(3);

    #[test]
    fn a_source_that_took_all_gets_more_when_time_has_passed() {
        let (mut buckets, mut now) = (Buckets::<IpAddr>::new(SIZE, REFILL), Instant::now());
        for _ in 0..SIZE {
            assert!(buckets.has(ip("192.0.2.1"), now));
            buckets.take(ip("192.0.2.1"), now);
        }
        assert!(!buckets.has(ip("192.0.2.1"), now));
        assert!(!buckets.has(ip("::ffff:192.0.2.1"), now), "the same source by another spelling");
        assert!(buckets.has(ip("192.0.2.2"), now));
        now += REFILL;
        assert!(buckets.has(ip("192.0.2.1"), now));
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let (mut buckets, now) = (Buckets::<IpAddr>::new(SIZE, REFILL), Instant::now());
        for i in 0..SIZE {
            buckets.take(ip(&format!("2001:db8::{i}")), now);
        }
        assert!(!buckets.has(ip("2001:db8::ffff"), now));
        assert!(buckets.has(ip("2001:db8:0:1::1"), now));
    }

    #[test]
    fn a_ration_says_how_many_were_left_out() {
        let (mut ration, mut now) = (Ration::new(2, REFILL), Instant::now());
        assert_eq!(
            [ration.take(now), ration.take(now), ration.take(now), ration.take(now)],
            [Some(0), Some(0), None, None]
        );
        now += REFILL;
        assert_eq!([ration.take(now), ration.take(now)], [Some(2), None]);
        now += REFILL;
        assert_eq!(ration.take(now), Some(1));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut buckets, now) = (Buckets::<IpAddr>::new(SIZE, REFILL), Instant::now());
        for i in 0..SOURCES as u32 + 100 {
            buckets.take(std::net::Ipv4Addr::from_bits(i).into(), now);
        }
        assert!(buckets.sources.len() <= SOURCES);
    }
}
