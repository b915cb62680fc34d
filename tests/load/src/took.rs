//! Many times in three numbers.

use std::time::Duration;

use serde::Serialize;

/// How long something took that was done many times.
#[derive(Debug, Serialize)]
pub struct Took {
    /// How often.
    count: usize,
    /// Microseconds, half of them.
    median_us: f64,
    /// Microseconds, 99 of 100 of them.
    p99_us: f64,
}

impl Took {
    /// All of them; zeros where there are none.
    pub fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        let at = |part: usize| all.get(all.len() * part / 100).copied().unwrap_or_default().as_secs_f64() * 1e6;
        Self { count: all.len(), median_us: at(50), p99_us: at(99) }
    }
}
