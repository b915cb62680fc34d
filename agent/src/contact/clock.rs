//! What time it is for judging certificates: never the hardware clock's word where the controller's is known.
//!
//! A machine's hardware clock may stand at 1970, because its battery is empty, or in 2099, because somebody set it there.
//! Whoever writes the boot script also writes which CA is to be trusted, so that script is believed about the time too
//! (docs/decisions/0006). Used by `tls` and `dial`; setting the machine's own clock is [`Machine`](crate::machine)'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::time::Instant;

/// No certificate was ever made before this second: the build's own time where the builder gives one.
pub(super) const BUILT: Duration = Duration::from_secs(match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => decimal(text),
    None => 1_795_000_000,
});

const fn decimal(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}

/// The time for judging certificates. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock {
    since: Instant,
    /// What a controller, or its boot script, said that it was at `since`, in milliseconds since 1970 UTC; 0 where none
    /// has said anything.
    told_ms: Arc<AtomicU64>,
}

impl Clock {
    /// `told_unix_s` is the time now, as far as the boot script tells; 0 where it tells nothing.
    pub fn new(told_unix_s: u64) -> Self {
        let clock = Self { since: Instant::now(), told_ms: Arc::default() };
        if told_unix_s > 0 {
            clock.set(told_unix_s.saturating_mul(1000));
        }
        clock
    }

    /// A controller that is believed says that it is this now, in milliseconds since 1970 UTC.
    pub fn set(&self, unix_ms: u64) {
        let told = unix_ms.max(BUILT.as_millis() as u64);
        let passed = self.since.elapsed().as_millis() as u64;
        self.told_ms.store(told.saturating_sub(passed), Ordering::Relaxed);
    }

    /// Whether a controller or its boot script said what time it is.
    pub fn is_told(&self) -> bool {
        self.told_ms.load(Ordering::Relaxed) != 0
    }

    /// Since 1970 UTC.
    pub fn now(&self) -> Duration {
        self.judge(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The hardware's word counts only where nobody else has said anything.
    fn judge(&self, hardware: Duration) -> Duration {
        let passed = self.since.elapsed();
        match self.told_ms.load(Ordering::Relaxed) {
            0 => hardware.max(BUILT + passed),
            told_ms => Duration::from_millis(told_ms) + passed,
        }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    /// 2030 and 2099.
    const SCRIPT: Duration = Duration::from_secs(1_893_456_000);
    const WILD: Duration = Duration::from_secs(4_070_908_800);

    #[tokio::test(start_paused = true)]
    async fn the_boot_scripts_time_counts_and_goes_on_whatever_the_hardware_says() {
        for hardware in [Duration::ZERO, SCRIPT + DAY, WILD] {
            let clock = Clock::new(SCRIPT.as_secs());
            assert_eq!(clock.judge(hardware), SCRIPT, "{hardware:?}");
            tokio::time::advance(DAY).await;
            assert_eq!(clock.judge(hardware), SCRIPT + DAY, "{hardware:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_script_the_hardware_counts_unless_it_is_older_than_the_program() {
        let clock = Clock::new(0);
        assert_eq!(clock.judge(WILD), WILD);
        assert_eq!(clock.judge(Duration::ZERO), BUILT);
        tokio::time::advance(DAY).await;
        assert_eq!(clock.judge(Duration::ZERO), BUILT + DAY);
    }

    #[test]
    fn a_script_of_a_controller_whose_clock_is_older_than_the_program_is_not_believed() {
        assert!(Clock::new(1).judge(WILD) >= BUILT);
        assert!(Clock::new(1).judge(WILD) < BUILT + DAY);
    }

    #[tokio::test(start_paused = true)]
    async fn the_controllers_word_replaces_the_scripts_and_the_hardwares_for_every_clone() {
        for clock in [Clock::new(SCRIPT.as_secs()), Clock::new(0)] {
            let clone = clock.clone();
            tokio::time::advance(DAY).await;
            clock.set((SCRIPT + 7 * DAY).as_millis() as u64);
            assert_eq!(clone.judge(WILD), SCRIPT + 7 * DAY);
            tokio::time::advance(DAY).await;
            assert_eq!(clone.judge(WILD), SCRIPT + 8 * DAY);
        }
    }
}
