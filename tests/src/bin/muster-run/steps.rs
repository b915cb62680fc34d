//! A person watches: steps with their times, a moving line while one takes long, plain lines where nobody watches.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Result;

/// How often the moving line moves.
const TICK: Duration = Duration::from_millis(100);

/// The moving sign.
const SPINNER: [char; 8] = ['⣾', '⣽', '⣻', '⢿', '⡿', '⣟', '⣯', '⣷'];

/// Counts and shows steps.
pub struct Steps {
    total: usize,
    done: usize,
    started: Instant,
    watched: bool,
}

impl Steps {
    /// `total` steps are to come.
    pub fn new(total: usize) -> Self {
        Self { total, done: 0, started: Instant::now(), watched: std::io::stdout().is_terminal() }
    }

    /// Does one step and shows how it went: `work` answers with a result and with what to say about it.
    pub fn step<T, S: Display>(&mut self, title: &str, work: impl FnOnce() -> Result<(T, S)>) -> Result<T> {
        self.done += 1;
        let began = Instant::now();
        let label = format!("{:>2}/{} {title}", self.done, self.total);
        let result = if self.watched { watched(&label, work) } else { work() };
        let took = began.elapsed().as_secs_f32();
        match result {
            Ok((value, said)) => {
                println!("✔ {label} ({took:.1} s)\n        {said}");
                Ok(value)
            }
            Err(error) => {
                println!("✘ {label} ({took:.1} s)\n        {error:#}");
                Err(error)
            }
        }
    }

    /// Seconds since the first one.
    pub fn seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Whether every step was done.
    pub fn is_complete(&self) -> bool {
        self.done == self.total
    }
}

/// Does `work` here while another thread keeps the last line of the terminal moving.
fn watched<T>(label: &str, work: impl FnOnce() -> T) -> T {
    let (stop, stopped) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let began = Instant::now();
            for sign in SPINNER.iter().cycle() {
                print!("\r{sign} {label} {:.0} s\x1b[K", began.elapsed().as_secs_f32());
                // A terminal that went away is no reason to stop the work.
                let _ = std::io::stdout().flush();
                if stopped.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            print!("\r\x1b[K");
        });
        let result = work();
        drop(stop);
        result
    })
}
