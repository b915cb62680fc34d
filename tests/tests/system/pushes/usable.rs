//! How long a session brings no answer while the network under it becomes another one.
//!
//! The machine is asked something small again and again, and so is one to which nothing is done: that one's longest silence
//! is what the computer costs that the test runs on.

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

/// The longest silences of two machines over the same time.
#[derive(Debug)]
pub(super) struct Silent {
    pushed: Duration,
    idle: Duration,
}

impl Silent {
    /// Whether the promise is kept.
    pub(super) fn check(&self) -> Result<()> {
        let Self { pushed, idle } = self;
        ensure!(
            *pushed <= SILENT_FOR + *idle,
            "the session brought no answer for {pushed:?}, an idle one's for {idle:?}"
        );
        Ok(())
    }
}

impl Display for Silent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [pushed, idle] = [self.pushed, self.idle].map(|silent| silent.as_secs_f64());
        write!(f, "no answer for {pushed:.2} s at most, where nothing happens for {idle:.2} s  ")
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
        let pushed = scope.spawn(move || longest_silence(lab, seat, &of_pushed));
        let idle = scope.spawn(move || longest_silence(lab, idle, &of_idle));
        let value = done();
        drop((ends, idle_ends));
        let [pushed, idle] =
            [pushed, idle].map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (value, pushed, idle)
    });
    let (value, silent) = (value?, Silent { pushed: pushed?, idle: idle? });
    let [boot_after, since_after] = shown()?;
    ensure!(boot_after == boot, "it has booted");
    ensure!(
        (since_after == since) == (session == Session::GoesOn),
        "its session is of {since_after}, it was of {since}, where {session:?}; {silent}"
    );
    Ok((value, silent))
}

/// Asks the machine what its kernel says, until told to end and once more. Returns the longest time between two answers.
fn longest_silence(lab: &Lab, seat: &Seat, ends: &Receiver<()>) -> Result<Duration> {
    let ask = || eventually(SOON, "the machine answers", || seat.observed(lab));
    ask()?;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    loop {
        let goes_on = ends.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout);
        ask()?;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if !goes_on {
            return Ok(longest);
        }
    }
}
