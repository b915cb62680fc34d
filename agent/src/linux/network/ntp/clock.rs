//! The clock that NTP keeps: a seam, so that no test sets the clock of the machine it runs on.

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::client::Reading;

/// A clock that can be read and moved.
pub trait Clock: Send + Sync {
    /// What it says.
    fn read(&self) -> Reading;

    /// Adds so many nanoseconds at once.
    fn step(&self, offset_ns: i64) -> io::Result<()>;

    /// Adds so many nanoseconds little by little, less than half a second, and runs on as fast as it has to so that less
    /// is to be added the next time.
    fn slew(&self, offset_ns: i64, until_next: Duration) -> io::Result<()>;

    /// Runs as fast as it would by itself.
    fn let_go(&self) -> io::Result<()>;
}

/// The clock of this machine. Moving it needs CAP_SYS_TIME.
#[derive(Debug)]
pub struct SystemClock;

/// linux/timex.h; `libc` has these for some C libraries and not for others.
const ADJ_OFFSET: u32 = 0x0001;
const ADJ_FREQUENCY: u32 = 0x0002;
const ADJ_MAXERROR: u32 = 0x0004;
const ADJ_ESTERROR: u32 = 0x0008;
const ADJ_STATUS: u32 = 0x0010;
const ADJ_TIMECONST: u32 = 0x0020;
const ADJ_SETOFFSET: u32 = 0x0100;
const ADJ_NANO: u32 = 0x2000;
const STA_PLL: i32 = 0x0001;
const STA_UNSYNC: i32 = 0x0040;

impl Clock for SystemClock {
    fn read(&self) -> Reading {
        let real = clock_gettime(ClockId::Realtime);
        let raw = clock_gettime(ClockId::MonotonicRaw);
        Reading {
            unix_ns: real.tv_sec.saturating_mul(1_000_000_000).saturating_add(real.tv_nsec),
            raw: Duration::new(raw.tv_sec.unsigned_abs(), raw.tv_nsec.unsigned_abs() as u32),
        }
    }

    fn step(&self, offset_ns: i64) -> io::Result<()> {
        adjust(|timex| {
            timex.modes = ADJ_SETOFFSET | ADJ_NANO | ADJ_STATUS | ADJ_MAXERROR | ADJ_ESTERROR;
            timex.status = STA_PLL;
            timex.time.tv_sec = offset_ns.div_euclid(1_000_000_000);
            timex.time.tv_usec = offset_ns.rem_euclid(1_000_000_000);
        })
    }

    fn slew(&self, offset_ns: i64, until_next: Duration) -> io::Result<()> {
        adjust(|timex| {
            // The kernel's own loop (RFC 5905, section 12), which learns how fast the quartz is.
            timex.modes = ADJ_OFFSET | ADJ_NANO | ADJ_STATUS | ADJ_TIMECONST | ADJ_MAXERROR | ADJ_ESTERROR;
            timex.status = STA_PLL;
            timex.offset = offset_ns;
            // As 2^n seconds; the kernel reckons with 16 of them.
            timex.constant = i64::from(until_next.as_secs().max(16).ilog2()) - 4;
        })
    }

    fn let_go(&self) -> io::Result<()> {
        adjust(|timex| {
            timex.modes = ADJ_OFFSET | ADJ_FREQUENCY | ADJ_STATUS;
            timex.status = STA_UNSYNC | STA_PLL;
        })
    }
}

/// clock_adjtime(2) of what `fill` says.
#[allow(unsafe_code)]
fn adjust(fill: impl FnOnce(&mut libc::timex)) -> io::Result<()> {
    // SAFETY: all zeros is a `timex` that asks for nothing; it has no references in it.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    fill(&mut timex);
    // SAFETY: the kernel reads and writes one `timex`, which is ours until the call returns.
    let result = unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, &raw mut timex) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_read_as_others_read_it() {
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
        let (first, second) = (SystemClock.read(), SystemClock.read());
        assert!((i128::from(first.unix_ns) - before as i128).abs() < 60_000_000_000, "{first:?}");
        assert!(second.raw >= first.raw);
    }

    #[test]
    fn asking_for_nothing_changes_nothing_and_works() {
        adjust(|_| {}).expect("the layout is the kernel's");
    }
}
