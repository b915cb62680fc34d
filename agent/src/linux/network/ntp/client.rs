//! When NTP servers are asked, and what is made of their answers: answers and time in, one verdict out.
//!
//! Driven by the thread beside it. No sockets and no clock, so its tests jump in time.
//! The clock is only ever moved within what a controller said that the time is: NTP knows nobody, and whoever answers
//! first on a strange network could otherwise have certificates judged by a time of theirs.

use std::time::{Duration, Instant};

use super::packet::{Answer, Sample};

/// Between two rounds at first, and after whatever was a surprise.
const SHORTEST: Duration = Duration::from_secs(64);
/// Between two rounds of a clock that is kept, and of servers that do not answer.
const LONGEST: Duration = Duration::from_secs(1024);
/// A server that wants to be asked less often is left out for so long.
const TOO_OFTEN: Duration = Duration::from_secs(2048);
/// A server that does not want to be asked at all is left out for so long.
const NOT_WANTED: Duration = Duration::from_secs(86_400);
/// A clock that is off by more is set; one that is off by less runs faster or slower. More than this the kernel does not
/// slew (linux/timex.h, MAXPHASE).
const SLEWED_NS: i64 = 500_000_000;
/// How far from a controller's word the clock may be kept.
const LEASH: Duration = Duration::from_secs(600);
/// And one part in so many of the time since then: quartz is off by a tenth of a thousandth at most.
const DRIFT: u32 = 5_000;

/// What the machine's clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Nanoseconds since 1970 UTC: the clock that is kept.
    pub unix_ns: i64,
    /// Since some moment, by a clock that nobody moves or slews.
    pub raw: Duration,
}

impl Reading {
    /// Whether the clock was set between two readings: slewed, it would not be off by so much.
    pub fn was_set_since(&self, before: Self) -> bool {
        let passed = i64::try_from(self.raw.saturating_sub(before.raw).as_nanos()).unwrap_or(i64::MAX);
        self.unix_ns.saturating_sub(before.unix_ns).saturating_sub(passed).unsigned_abs() > 50_000_000
    }
}

/// What to do with the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Set it: add so many nanoseconds at once.
    Step(i64),
    /// Have it run faster or slower until so many nanoseconds are added.
    Slew {
        /// How many.
        offset_ns: i64,
        /// When it is looked at next.
        until_next: Duration,
    },
    /// Let it run as it would by itself: the servers say what cannot be.
    LetGo {
        /// Nanoseconds from the controller's time to theirs.
        apart_ns: i64,
    },
    /// Nothing: nobody answered, or they contradict each other.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    unix_ns: i64,
    raw: Duration,
}

/// The state between rounds.
#[derive(Debug)]
pub struct Client {
    interval: Duration,
    next: Instant,
    left_out: Vec<(String, Instant)>,
    told: Option<Told>,
    /// Until when the last good round counts.
    kept_until: Option<Instant>,
}

impl Client {
    /// One that asks at once, as soon as a controller has said what time it is.
    pub fn new(now: Instant) -> Self {
        Self { interval: SHORTEST, next: now, left_out: Vec::new(), told: None, kept_until: None }
    }

    /// Other servers: what was learned of those before counts no more.
    pub fn restart(&mut self, now: Instant) {
        *self = Self { told: self.told, ..Self::new(now) };
    }

    /// When the next round is due; `None` while nobody has said what time it is.
    pub fn due(&self) -> Option<Instant> {
        self.told.map(|_| self.next)
    }

    /// Of these servers, those that may be asked now.
    pub fn willing<'a>(&self, servers: &'a [String], now: Instant) -> Vec<&'a String> {
        let is_left_out = |server: &&String| self.left_out.iter().any(|(name, until)| name == *server && *until > now);
        servers.iter().filter(|server| !is_left_out(server)).collect()
    }

    /// A controller says what time it is. Returns whether the clock is to be left alone all the same, because it is kept
    /// and not far from that.
    pub fn hear(&mut self, unix_ns: i64, reading: Reading, now: Instant) -> bool {
        self.told = Some(Told { unix_ns, raw: reading.raw });
        let is_kept = self.kept_until.is_some_and(|until| now < until);
        let is_near = self.apart(reading.unix_ns, reading.raw).is_some_and(|(_, is_near)| is_near);
        // Else the clock is set by this word, and servers are asked soon how good it was.
        if !(is_kept && is_near) {
            self.next = self.next.min(now + SHORTEST);
        }
        is_kept && is_near
    }

    /// A round is over.
    pub fn judge(&mut self, answers: &[(String, Answer)], reading: Reading, now: Instant) -> Verdict {
        self.left_out.retain(|(_, until)| *until > now);
        let mut samples = Vec::new();
        for (server, answer) in answers {
            match answer {
                Answer::Sample(sample) => samples.push(*sample),
                Answer::Kiss(code) => {
                    let pause = if code == b"RATE" { TOO_OFTEN } else { NOT_WANTED };
                    self.left_out.push((server.clone(), now + pause));
                }
            }
        }
        let slower = (self.interval * 2).min(LONGEST);
        let Some(Sample { offset_ns, .. }) = agreed(&samples) else {
            self.wait(slower, now);
            return Verdict::Nothing;
        };
        let (apart_ns, is_near) =
            self.apart(reading.unix_ns.saturating_add(offset_ns), reading.raw).unwrap_or((i64::MAX, false));
        if !is_near {
            self.kept_until = None;
            self.wait(slower, now);
            return Verdict::LetGo { apart_ns };
        }
        let verdict = if offset_ns.abs() > SLEWED_NS {
            self.wait(SHORTEST, now);
            Verdict::Step(offset_ns)
        } else {
            let until_next = self.interval;
            self.wait(until_next, now);
            self.interval = slower;
            Verdict::Slew { offset_ns, until_next }
        };
        // One round may be missed.
        self.kept_until = Some(self.next + 2 * LONGEST);
        verdict
    }

    fn wait(&mut self, interval: Duration, now: Instant) {
        self.interval = interval;
        self.next = now + interval;
    }

    /// Nanoseconds from the controller's time to this one, and whether that is near enough.
    fn apart(&self, unix_ns: i64, raw: Duration) -> Option<(i64, bool)> {
        let told = self.told?;
        let passed = raw.saturating_sub(told.raw);
        let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let apart = unix_ns.saturating_sub(told.unix_ns.saturating_add(nanoseconds(passed)));
        let leash = nanoseconds(LEASH + passed / DRIFT);
        Some((apart, apart.unsigned_abs() <= leash.unsigned_abs()))
    }
}

/// What more than half of them agree on, by the surest of those (after Marzullo 1984): each says between which offsets
/// the truth lies. `None` where there is no such half.
fn agreed(samples: &[Sample]) -> Option<Sample> {
    let holds =
        |sample: &Sample, offset: i64| sample.offset_ns.saturating_sub(offset).saturating_abs() <= sample.distance_ns;
    // Where most overlap, one of them begins.
    let starts = samples.iter().map(|sample| sample.offset_ns.saturating_sub(sample.distance_ns));
    let supporters = |at: i64| samples.iter().filter(move |sample| holds(sample, at));
    let at = starts.max_by_key(|at| supporters(*at).count())?;
    let is_majority = supporters(at).count() * 2 > samples.len();
    supporters(at).min_by_key(|sample| sample.distance_ns).copied().filter(|_| is_majority)
}

#[cfg(test)]
mod tests;
