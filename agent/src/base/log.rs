//! The agent's log: one line an event on standard error, stamped with the seconds since the kernel started.
//!
//! A logging framework costs 200 kB in a program that aims at 2 MB, and nobody filters here.
//! Libraries and tests are silent until [`enable`] is called. Keys, tickets and private parts are never logged.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::time::{ClockId, clock_gettime};

static ENABLED: AtomicBool = AtomicBool::new(false);

/// From now on lines are written.
pub fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Writes one line. Use [`info!`](crate::info) and [`warn!`](crate::warn).
pub fn line(level: &str, message: Arguments<'_>) {
    if !ENABLED.load(Ordering::Relaxed) {
        return;
    }
    let since_boot = clock_gettime(ClockId::Boottime);
    let millis = since_boot.tv_nsec / 1_000_000;
    // One write a line: the console is shared with the kernel. A console that is gone is no reason to stop.
    let text = format!("[{:5}.{millis:03}] muster: {level}{message}\n", since_boot.tv_sec);
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// One line per change of state.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::line("", format_args!($($arg)*)) };
}

/// Unexpected, and recovered from.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::log::line("warning: ", format_args!($($arg)*)) };
}
