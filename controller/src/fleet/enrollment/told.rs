//! How often the enrollments of one machine go into the audit log, which forgets nothing: whoever claims to be a machine
//! that is off can enroll as it again and again.
//!
//! Some at once, for a machine that is being repaired, and then one now and then, which says how many were left out.

use serde::{Deserialize, Serialize};

/// How often something went into the audit log lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The time that the entries so far are good for.
    pub until_unix_ms: u64,
    /// How often it was left out since the newest entry.
    pub left_out: u64,
}

/// So many at once.
const AT_ONCE: u64 = 10;

/// After this time one more, in milliseconds.
const ONE_MORE_MS: u64 = 10 * 60 * 1000;

/// How many were left out since the last one, where there is one now; `None` where this one is left out.
pub fn take(told: &mut Told, now_unix_ms: u64) -> Option<u64> {
    // A clock that was ahead has no effect for longer than a full measure.
    let begin = told.until_unix_ms.clamp(now_unix_ms, now_unix_ms + AT_ONCE * ONE_MORE_MS);
    if begin > now_unix_ms + (AT_ONCE - 1) * ONE_MORE_MS {
        told.left_out += 1;
        return None;
    }
    told.until_unix_ms = begin + ONE_MORE_MS;
    Some(std::mem::take(&mut told.left_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_told_at_once_and_then_one_now_and_then_with_how_many_were_left_out() {
        let (mut told, mut now) = (Told::default(), 1_000_000);
        for _ in 0..AT_ONCE {
            assert_eq!(take(&mut told, now), Some(0));
        }
        for _ in 0..1_000 {
            assert_eq!(take(&mut told, now), None);
        }
        now += ONE_MORE_MS;
        assert_eq!([take(&mut told, now), take(&mut told, now)], [Some(1_000), None]);
        now += AT_ONCE * ONE_MORE_MS;
        assert_eq!(take(&mut told, now), Some(1));
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_not_silence_the_log_for_years() {
        let mut told = Told { until_unix_ms: u64::MAX / 2, left_out: 0 };
        assert_eq!(take(&mut told, 1_000_000), None);
        assert_eq!(take(&mut told, 1_000_000 + ONE_MORE_MS), None, "the measure is full, and no more than full");
        told.until_unix_ms = 1_000_000 + AT_ONCE * ONE_MORE_MS;
        assert_eq!(take(&mut told, 1_000_000 + ONE_MORE_MS), Some(2));
    }
}
