//! NTP packets as bytes (RFC 5905, section 7.3), and what an answer is worth.
//!
//! A question says nothing of the machine: its transmit timestamp is a number drawn by chance, which the server has to
//! send back, so that nobody who does not see the question can answer it.
//! Reading never panics and believes nothing.

use std::time::Duration;

/// Bytes of a packet without extensions.
pub const LENGTH: usize = 48;
/// Seconds from 1900, where NTP begins, to 1970.
const FROM_1900_TO_1970: u64 = 2_208_988_800;
/// A server further than this from a reference clock, or as uncertain, is none (RFC 5905, MAXDIST).
const FARTHEST: Duration = Duration::from_millis(1_500);
/// Strata above are no servers' (RFC 5905, MAXSTRAT).
const STRATA: std::ops::RangeInclusive<u8> = 1..=15;

const CLIENT: u8 = 3;
const SERVER: u8 = 4;
const VERSION: u8 = 4;
const UNSYNCHRONIZED: u8 = 3;

/// A question with this number in it.
pub fn question(nonce: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = VERSION << 3 | CLIENT;
    bytes[40..48].copy_from_slice(&nonce.to_be_bytes());
    bytes
}

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The time.
    Sample(Sample),
    /// To be left alone (RFC 5905, section 7.4): `RATE`, `DENY`, `RSTR`, …
    Kiss([u8; 4]),
}

/// How far the machine's clock is off, by one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds to add to the clock.
    pub offset_ns: i64,
    /// Nanoseconds by which that may be wrong, if the server is honest.
    pub distance_ns: i64,
}

/// Why an answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too short, of an unknown version, or no server's.
    #[error("no answer of a server")]
    Malformed,
    /// It answers another question.
    #[error("the answer to something that was not asked")]
    NotAsked,
    /// It says so itself.
    #[error("the server does not know the time itself")]
    Unsynchronized,
    /// Times that cannot be.
    #[error("times that cannot be")]
    Absurd,
    /// Too many hops, or too slow ones.
    #[error("too far from a reference clock")]
    TooFar,
}

/// Reads an answer. `sent_unix_ns` is the machine's clock when the question left, `took` what passed until it came.
pub fn read(bytes: &[u8], nonce: u64, sent_unix_ns: i64, took: Duration) -> Result<Answer, Refused> {
    let bytes = bytes.first_chunk::<LENGTH>().ok_or(Refused::Malformed)?;
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let stamp = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    let (leap, version, mode, stratum) = (bytes[0] >> 6, bytes[0] >> 3 & 7, bytes[0] & 7, bytes[1]);
    if mode != SERVER || !(3..=VERSION).contains(&version) {
        return Err(Refused::Malformed);
    }
    if stamp(24) != nonce {
        return Err(Refused::NotAsked);
    }
    if stratum == 0 {
        return Ok(Answer::Kiss(word(12).to_be_bytes()));
    }
    if leap == UNSYNCHRONIZED || !STRATA.contains(&stratum) {
        return Err(Refused::Unsynchronized);
    }
    let (received, transmitted) = (stamp(32), stamp(40));
    if received == 0 || transmitted == 0 {
        return Err(Refused::Absurd);
    }
    // Differences only: NTP's seconds begin anew in 2036, and what is nearer than 68 years is right all the same.
    let sent = of_unix(sent_unix_ns);
    let there = difference(received, sent);
    let back = difference(transmitted, sent) - i128::from(duration_ns(took));
    let held = difference(transmitted, received);
    let delay = i128::from(duration_ns(took)) - held;
    // Nobody holds an answer for longer than it took, give or take what clocks tick.
    if held < 0 || delay < -1_000_000 {
        return Err(Refused::Absurd);
    }
    let root = short_ns(word(4)) / 2 + short_ns(word(8));
    let distance = root + delay.max(0) / 2;
    if distance > FARTHEST.as_nanos() as i128 {
        return Err(Refused::TooFar);
    }
    let offset = (there + back) / 2;
    let small = |value: i128| i64::try_from(value).map_err(|_| Refused::Absurd);
    Ok(Answer::Sample(Sample { offset_ns: small(offset)?, distance_ns: small(distance)? }))
}

/// NTP's timestamp of a time since 1970: seconds and their 2^32nd parts, in whatever era.
pub fn of_unix(unix_ns: i64) -> u64 {
    let seconds = unix_ns.div_euclid(1_000_000_000).cast_unsigned().wrapping_add(FROM_1900_TO_1970);
    let nanoseconds = unix_ns.rem_euclid(1_000_000_000).cast_unsigned();
    (seconds << 32) | ((nanoseconds << 32) / 1_000_000_000)
}

/// Nanoseconds from `b` to `a`.
fn difference(a: u64, b: u64) -> i128 {
    (i128::from(a.wrapping_sub(b).cast_signed()) * 1_000_000_000) >> 32
}

/// NTP's short format: seconds and their 2^16th parts.
fn short_ns(value: u32) -> i128 {
    (i128::from(value) * 1_000_000_000) >> 16
}

fn duration_ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: u64 = 0x0123_4567_89ab_cdef;
    /// 2026-11-22 00:00:00.25 UTC.
    const NOW: i64 = 1_795_305_600_250_000_000;
    const SECOND: i64 = 1_000_000_000;

    /// What a server of stratum 2 answers whose clock is `ahead` of the machine's, 10 ms after the question left.
    fn answer(ahead: i64) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = 0x24;
        bytes[1] = 2;
        bytes[4..8].copy_from_slice(&0x0000_0800_u32.to_be_bytes());
        bytes[8..12].copy_from_slice(&0x0000_0100_u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&NONCE.to_be_bytes());
        bytes[32..40].copy_from_slice(&of_unix(NOW + ahead + 10_000_000).to_be_bytes());
        bytes[40..48].copy_from_slice(&of_unix(NOW + ahead + 11_000_000).to_be_bytes());
        bytes
    }

    fn heard(bytes: &[u8]) -> Result<Answer, Refused> {
        read(bytes, NONCE, NOW, Duration::from_millis(21))
    }

    #[test]
    fn a_question_is_a_clients_and_says_nothing_of_the_machine() {
        let mut wanted = [0; LENGTH];
        wanted[0] = 0b00_100_011;
        wanted[40..].copy_from_slice(&[0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!(question(NONCE), wanted);
    }

    #[test]
    fn timestamps_are_seconds_since_1900_in_whatever_era() {
        assert_eq!(of_unix(0), 2_208_988_800 << 32);
        assert_eq!(of_unix(500_000_000), 2_208_988_800 << 32 | 1 << 31);
        // RFC 5905, figure 4: the first day of 2000, and of era 1.
        assert_eq!(of_unix(946_684_800 * SECOND) >> 32, 3_155_673_600);
        assert_eq!(of_unix(2_085_978_496 * SECOND), 0);
    }

    #[test]
    fn the_offset_is_the_mean_of_both_ways() {
        for ahead in [0, 3 * SECOND, -5 * SECOND, 40_000_000, 20 * 365 * 86_400 * SECOND] {
            let Ok(Answer::Sample(sample)) = heard(&answer(ahead)) else { panic!("no sample") };
            assert!((sample.offset_ns - ahead).abs() < 10, "{} instead of {ahead}", sample.offset_ns);
            // Half of 2^-5 s, 2^-8 s, and half of the 20 ms on the way.
            assert!((sample.distance_ns - (15_625_000 + 3_906_250 + 10_000_000)).abs() < 10, "{}", sample.distance_ns);
        }
    }

    #[test]
    fn what_is_no_answer_of_a_server_that_knows_the_time_is_refused() {
        for (at, value, why) in [
            (0, 0x23, Refused::Malformed),
            (0, 0x25, Refused::Malformed),
            (0, 0x14, Refused::Malformed),
            (31, 0, Refused::NotAsked),
            (0, 0xe4, Refused::Unsynchronized),
            (1, 16, Refused::Unsynchronized),
            (5, 9, Refused::TooFar),
            (9, 2, Refused::TooFar),
            // It was sent before it was received.
            (35, 0xff, Refused::Absurd),
        ] {
            let mut bytes = answer(0);
            bytes[at] = value;
            assert_eq!(heard(&bytes), Err(why), "byte {at}");
        }
        assert_eq!(heard(&answer(0)[..47]), Err(Refused::Malformed));
        let mut bytes = answer(0);
        bytes[40..48].fill(0);
        assert_eq!(heard(&bytes), Err(Refused::Absurd));
        let slow = read(&answer(0), NONCE, NOW, Duration::from_secs(4));
        assert_eq!(slow, Err(Refused::TooFar), "an answer that took so long says little");
        let quick = read(&answer(0), NONCE, NOW, Duration::ZERO);
        assert!(matches!(quick, Ok(Answer::Sample(_))), "clocks tick in steps");
    }

    #[test]
    fn a_kiss_is_told_from_a_time_and_only_taken_where_it_was_asked_for() {
        let mut bytes = answer(0);
        bytes[1] = 0;
        bytes[12..16].copy_from_slice(b"RATE");
        assert_eq!(heard(&bytes), Ok(Answer::Kiss(*b"RATE")));
        bytes[24] ^= 1;
        assert_eq!(heard(&bytes), Err(Refused::NotAsked));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..80), sent in any::<i64>(), took in any::<u64>(), echo in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if echo && bytes.len() >= LENGTH {
                bytes[0] = 0x24;
                bytes[24..32].copy_from_slice(&NONCE.to_be_bytes());
            }
            let _ = read(&bytes, NONCE, sent, Duration::from_nanos(took));
        }
    }
}
