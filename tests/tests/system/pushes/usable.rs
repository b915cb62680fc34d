//! How long a session brings no answer while the network under it becomes another one.
//!
//! The machine is asked something small again and again, and so is one to which nothing is done. What the computer costs
//! that the test runs on is that one's longest silence, or, where that is more, by how much its answers came later than
//! usual while the other machine brought none: one silence may have several stalls in it.

use std::fmt::{self, Display, Formatter};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_tests::eventually;
use muster_tests::ground::Seat;
use muster_tests::lab::{Lab, SOON};

use super::table::Session;

/// The product's promise, where the new way stands beside the present one before that is given up.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// Between an answer and the next question.
const PACE: Duration = Duration::from_millis(100);

/// When answers came, one after the other.
type Answers = Vec<Instant>;

/// How long a machine was silent to which something was done, and what the computer had to do with that.
#[derive(Debug, PartialEq)]
pub(super) struct Silent {
    /// The longest silence.
    pushed: Duration,
    /// Another machine's over the same time, to which nothing was done.
    idle: Duration,
    /// For so much of `pushed` the other one's answers were later than usual.
    stalled: Duration,
}

impl Silent {
    fn of(pushed: &Answers, idle: &Answers) -> Self {
        let silences = |answers: &Answers| answers.windows(2).map(|two| (two[0], two[1])).collect::<Vec<_>>();
        let long = |(from, to): &(Instant, Instant)| *to - *from;
        let (pushed, idle) = (silences(pushed), silences(idle));
        let longest = pushed.iter().copied().max_by_key(long);
        let mut lengths: Vec<Duration> = idle.iter().map(long).collect();
        lengths.sort();
        let usual = lengths.get(lengths.len() / 2).copied().unwrap_or_default();
        let stall = |(from, to): (Instant, Instant)| {
            let within =
                |(begins, ends): &(Instant, Instant)| (*ends).min(to).saturating_duration_since(*begins.max(&from));
            idle.iter().map(|silence| within(silence).saturating_sub(usual)).sum()
        };
        Self {
            pushed: longest.as_ref().map(long).unwrap_or_default(),
            idle: lengths.last().copied().unwrap_or_default(),
            stalled: longest.map(stall).unwrap_or_default(),
        }
    }

    /// Whether the promise is kept.
    pub(super) fn check(&self) -> Result<()> {
        let Self { pushed, idle, stalled } = self;
        ensure!(
            *pushed <= SILENT_FOR + *idle.max(stalled),
            "the session brought no answer for {pushed:?}, an idle one's for {idle:?}; the computer stalled for {stalled:?}"
        );
        Ok(())
    }
}

impl Display for Silent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [pushed, idle, stalled] = [self.pushed, self.idle, self.stalled].map(|silent| silent.as_secs_f64());
        let of_which = format!("{stalled:.2} s of it the computer's");
        write!(f, "no answer for {pushed:.2} s at most, {of_which}, where nothing happens for {idle:.2} s  ")
    }
}

/// Does something to the machine at `seat`, and sees what became of its session. Nothing is done to `idle` meanwhile.
pub(super) fn while_asked<T>(
    lab: &Lab,
    seat: &Seat,
    idle: &Seat,
    session: Session,
    done: impl FnOnce() -> Result<T>,
) -> Result<(T, Silent)> {
    let shown = || {
        let presence = seat.state(lab)?["presence"].take();
        anyhow::Ok([presence["boot"].clone(), presence["since"].clone()])
    };
    let [boot, since] = shown()?;
    let (value, pushed, idle) = std::thread::scope(|scope| {
        let (ends, of_pushed) = mpsc::channel::<()>();
        let (idle_ends, of_idle) = mpsc::channel::<()>();
        let pushed = scope.spawn(move || answers(lab, seat, &of_pushed));
        let idle = scope.spawn(move || answers(lab, idle, &of_idle));
        let value = done();
        drop((ends, idle_ends));
        let [pushed, idle] =
            [pushed, idle].map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (value, pushed, idle)
    });
    let (value, silent) = (value?, Silent::of(&pushed?, &idle?));
    let [boot_after, since_after] = shown()?;
    ensure!(boot_after == boot, "it has booted");
    ensure!(
        (since_after == since) == (session == Session::GoesOn),
        "its session is of {since_after}, it was of {since}, where {session:?}; {silent}"
    );
    Ok((value, silent))
}

/// Asks the machine what its kernel says, until told to end and once more.
fn answers(lab: &Lab, seat: &Seat, ends: &Receiver<()>) -> Result<Answers> {
    let ask = || eventually(SOON, "the machine answers", || seat.observed(lab)).map(|_| Instant::now());
    let mut answers = vec![ask()?];
    loop {
        let goes_on = ends.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout);
        answers.push(ask()?);
        if !goes_on {
            return Ok(answers);
        }
    }
}

#[test]
fn a_stall_of_the_computer_counts_for_a_silence_only_while_it_lasts() {
    let begun = Instant::now();
    let at = |ms: &[u64]| ms.iter().map(|ms| begun + Duration::from_millis(*ms)).collect::<Answers>();
    let silent = |pushed, idle, stalled| {
        let [pushed, idle, stalled] = [pushed, idle, stalled].map(Duration::from_millis);
        Silent { pushed, idle, stalled }
    };
    // Three of the other's answers take 500 ms instead of 100.
    let slow = Silent::of(&at(&[0, 100, 200, 300, 1_900]), &at(&[0, 100, 200, 300, 800, 1_300, 1_800, 1_900, 2_000]));
    assert_eq!(slow, silent(1_600, 500, 1_200));
    assert!(slow.check().is_ok());
    // One took 800 ms, before the silence began.
    let usual: Vec<u64> = [0].into_iter().chain((800..=2_700).step_by(100)).collect();
    let early = Silent::of(&at(&[0, 800, 2_700]), &at(&usual));
    assert_eq!(early, silent(1_900, 800, 0));
    assert!(early.check().is_err());
}
