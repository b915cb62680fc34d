//! How often one source may fail to enroll: a bucket of attempts that fills slowly.
//!
//! Only failures cost: a rack of machines behind one address enrolls as fast as it boots, and somebody who guesses is
//! soon not listened to. Time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures in a row that are put up with.
const BURST: u32 = 20;

/// Time after which one more failure is put up with.
const REFILL: Duration = Duration::from_secs(3);

/// Sources that are remembered. Beyond, the one that failed longest ago is forgotten.
const SOURCES: usize = 4096;

/// Remembers who failed.
#[derive(Debug, Default)]
pub struct Failures(HashMap<IpAddr, Bucket>);

#[derive(Debug)]
struct Bucket {
    left: u32,
    at: Instant,
}

impl Bucket {
    fn refilled(&self, now: Instant) -> u32 {
        let gained = now.saturating_duration_since(self.at).as_millis() / REFILL.as_millis();
        BURST.min(self.left.saturating_add(u32::try_from(gained).unwrap_or(BURST)))
    }
}

impl Failures {
    /// Whether `source` is listened to.
    pub fn is_heard(&self, source: IpAddr, now: Instant) -> bool {
        self.0.get(&whole(source)).is_none_or(|bucket| bucket.refilled(now) > 0)
    }

    /// Notes a failure.
    pub fn failed(&mut self, source: IpAddr, now: Instant) {
        let source = whole(source);
        if self.0.len() >= SOURCES && !self.0.contains_key(&source) {
            self.0.retain(|_, bucket| bucket.refilled(now) < BURST);
            let oldest = self.0.iter().min_by_key(|(_, bucket)| bucket.at).map(|(source, _)| *source);
            if let Some(oldest) = oldest.filter(|_| self.0.len() >= SOURCES) {
                self.0.remove(&oldest);
            }
        }
        let bucket = self.0.entry(source).or_insert(Bucket { left: BURST, at: now });
        *bucket = Bucket { left: bucket.refilled(now).saturating_sub(1), at: now };
    }
}

/// One household is one source: an IPv6 /64 is what the smallest network gets.
fn whole(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_source_that_keeps_failing_is_not_heard_until_time_has_passed() {
        let (mut failures, mut now) = (Failures::default(), Instant::now());
        for _ in 0..BURST {
            assert!(failures.is_heard(ip("192.0.2.1"), now));
            failures.failed(ip("192.0.2.1"), now);
        }
        assert!(!failures.is_heard(ip("192.0.2.1"), now));
        assert!(!failures.is_heard(ip("::ffff:192.0.2.1"), now), "the same source by another spelling");
        assert!(failures.is_heard(ip("192.0.2.2"), now));
        now += REFILL;
        assert!(failures.is_heard(ip("192.0.2.1"), now));
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for i in 0..BURST {
            failures.failed(ip(&format!("2001:db8::{i}")), now);
        }
        assert!(!failures.is_heard(ip("2001:db8::ffff"), now));
        assert!(failures.is_heard(ip("2001:db8:0:1::1"), now));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for i in 0..2 * SOURCES as u32 {
            failures.failed(std::net::Ipv4Addr::from_bits(i).into(), now);
        }
        assert!(failures.0.len() <= SOURCES);
    }
}
