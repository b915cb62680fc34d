//! How long to wait before the next attempt: exponential, with full jitter, for ever.
//!
//! Full jitter (a wait is anything between nothing and the limit) spreads a fleet that lost its controller at the same
//! moment better than a jitter around the limit does.

use std::time::Duration;

/// Waits that grow until [`Backoff::reset`].
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first wait is at most `first`; each further one at most twice as long, up to `limit`.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, attempts: 0 }
    }

    /// The next wait; `random` is anything from 0 to `u64::MAX`, each as likely.
    pub fn next(&mut self, random: u64) -> Duration {
        let longest = self.first.saturating_mul(1 << self.attempts.min(16)).min(self.limit);
        self.attempts = self.attempts.saturating_add(1);
        longest.mul_f64(random as f64 / u64::MAX as f64)
    }

    /// It worked: begin again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_longest_wait_doubles_up_to_the_limit() {
        let mut backoff = Backoff::new(MS(500), MS(30_000));
        let longest: Vec<u128> = (0..9).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        (0..1000).for_each(|_| assert!(backoff.next(u64::MAX) <= MS(30_000)));
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX), MS(500));
    }

    #[test]
    fn the_jitter_is_full() {
        let after_three = |random| {
            let mut backoff = Backoff::new(MS(500), MS(30_000));
            for _ in 0..3 {
                backoff.next(0);
            }
            backoff.next(random)
        };
        assert_eq!(after_three(0), MS(0));
        assert_eq!(after_three(u64::MAX / 4).as_millis(), 1000);
        assert_eq!(after_three(u64::MAX / 2).as_millis(), 2000);
    }
}
