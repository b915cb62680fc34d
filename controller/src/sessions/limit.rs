//! How often one source may do something: a bucket for each that is emptied by doing and fills by time.
//!
//! Used for what failures leave behind (lines in the log, events, entries in the audit log: their causes are answered
//! however many there are), for boot scripts, each of which writes a ticket, and for what one ticket or key may cost.
//! Time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use muster_protocol::Digest;

/// Sources that are remembered. Beyond, the one that was heard of longest ago is forgotten.
const SOURCES: usize = 4096;

/// Boot scripts that one source gets at once, and enrollments without one by each sealed ISO: a site whose machines all
/// start again is one source where it is behind a router that translates addresses.
pub const STARTS: u32 = 500;

/// After this time it gets one more. Each one is a write.
pub const ONE_MORE_START: Duration = Duration::from_millis(200);

/// Attempts from one source that led to nothing and are written in the log, and from there may get into the event feed.
/// All are answered and counted: who fails on purpose fails beside honest machines.
pub const FAILURES: u32 = 20;

/// After this time one more is.
pub const ONE_MORE_FAILURE: Duration = Duration::from_secs(3);

/// What failures leave behind.
pub fn failures() -> Buckets {
    Buckets::new(FAILURES, ONE_MORE_FAILURE)
}

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

/// Leave to enroll: a ticket or a key, by what is stored of it.
impl Source for Digest {}

/// Leave that many have, such as a boot medium's: copies of it in one household are one.
impl Source for (Digest, IpAddr) {
    fn whole(self) -> Self {
        (self.0, self.1.whole())
    }
}

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
    left_out: u64,
}

impl<S: Source> Buckets<S> {
    /// Full buckets hold `size`, and get one more every `refill`.
    pub fn new(size: u32, refill: Duration) -> Self {
        Self { size, refill, sources: HashMap::new() }
    }

    /// Whether there is anything left for `source`.
    fn has(&self, source: S, now: Instant) -> bool {
        self.left(self.sources.get(&source.whole()), now) > 0
    }

    /// Takes one from the bucket of `source`.
    fn take(&mut self, source: S, now: Instant) {
        let source = source.whole();
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            let oldest = self.sources.iter().min_by_key(|(_, bucket)| bucket.at).map(|(source, _)| source.clone());
            oldest.map(|oldest| self.sources.remove(&oldest));
        }
        let left = self.left(self.sources.get(&source), now).saturating_sub(1);
        self.sources.insert(source, Bucket { left, at: now, left_out: 0 });
    }

    /// Takes one where there is one, and answers how many were left out since the one before; `None` where there is none,
    /// and this one is left out as well.
    pub fn draw(&mut self, source: S, now: Instant) -> Option<u64> {
        let source = source.whole();
        let (has, bucket) = (self.has(source.clone(), now), self.sources.get_mut(&source));
        if has {
            let left_out = bucket.map_or(0, |bucket| bucket.left_out);
            self.take(source, now);
            return Some(left_out);
        }
        if let Some(bucket) = bucket {
            bucket.left_out += 1;
        }
        None
    }

    fn left(&self, bucket: Option<&Bucket>, now: Instant) -> u32 {
        let Some(bucket) = bucket else { return self.size };
        let gained = now.saturating_duration_since(bucket.at).as_millis() / self.refill.as_millis().max(1);
        self.size.min(bucket.left.saturating_add(u32::try_from(gained).unwrap_or(self.size)))
    }
}

/// Whoever causes it: what is done for all together.
const ALL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Something that is done so often and no more, whoever causes it. Remembers how often it was left out.
#[derive(Debug)]
pub struct Ration {
    bucket: Buckets,
    unasked: u64,
}

impl Ration {
    /// `size` at once, and one more every `refill`.
    pub fn new(size: u32, refill: Duration) -> Self {
        Self { bucket: Buckets::new(size, refill), unasked: 0 }
    }

    /// How many were left out since the last one, where there is one now; `None` where this one is left out.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let left_out = self.bucket.draw(ALL, now)?;
        Some(left_out + std::mem::take(&mut self.unasked))
    }

    /// This one is left out for another reason.
    pub fn leave_out(&mut self) {
        self.unasked += 1;
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
        ration.leave_out();
        assert_eq!(ration.take(now), Some(2));
    }

    #[test]
    fn what_is_left_out_is_counted_for_each_source() {
        let (mut buckets, mut now) = (Buckets::<IpAddr>::new(2, REFILL), Instant::now());
        let drawn = |buckets: &mut Buckets, now| buckets.draw(ip("192.0.2.1"), now);
        assert_eq!([0; 5].map(|_| drawn(&mut buckets, now)), [Some(0), Some(0), None, None, None]);
        assert_eq!(buckets.draw(ip("192.0.2.2"), now), Some(0), "others are not kept from it");
        now += REFILL;
        assert_eq!([0; 2].map(|_| drawn(&mut buckets, now)), [Some(3), None]);
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
