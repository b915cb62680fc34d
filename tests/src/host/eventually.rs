//! Waiting for something that another process does: look, look again, give up at a deadline.
//!
//! Nothing else in the tests waits, so that a slow machine makes a test slow and never wrong.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long to wait between two looks. Short beside everything that is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// Calls `look` until it answers, at most for `deadline`.
///
/// Errors: what was waited for, and what the last look saw instead.
pub fn eventually<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(seen) if Instant::now() > end => {
                return Err(anyhow!("after {} s: {what}: {seen:#}", deadline.as_secs()));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
