//! Keeps the machine's clock by NTP servers (RFC 5905, section 14: a client that serves nobody).
//!
//! A thread of its own, started when there is a clock, a server, and a controller that said what time it is: names are
//! looked up here, which may take long. Our own and minimal, because the size of the agent counts.
//! Certificates are judged by `contact::clock`, which this never touches.

pub mod client;
pub mod clock;
mod exchange;
pub mod packet;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::linux::network::keeper::LeaseOf;
use crate::plan::network::ntp_in_force;
use crate::sort;
use crate::{info, warn};
pub use client::{Client, Reading, Verdict};
pub use clock::{Clock, SystemClock};

/// What is at the top of the file, for people who wonder.
const HEADER: &str = "# Written by muster-agent; changes made here do not last.\n";
/// The most servers that are asked.
const MOST: usize = 16;
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The handle. Clones are the same.
#[derive(Debug, Clone)]
pub struct Ntp {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something new.
    changed: Condvar,
}

struct State {
    /// What is configured is here too, so that an agent that starts again goes on with it.
    path: PathBuf,
    /// `None` where somebody else keeps the clock.
    clock: Option<Arc<dyn Clock>>,
    configured: Vec<String>,
    /// By link and family, sorted.
    leased: Vec<(LeaseOf, Vec<IpAddr>)>,
    client: Client,
    /// Counts what makes a round that is under way worthless.
    generation: u64,
    thread: Thread,
}

#[derive(Debug, PartialEq, Eq)]
enum Thread {
    NotStarted,
    Started,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("in_force", &self.in_force())
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Ntp {
    /// Reads what was configured before from the file at `path`; keeps no clock until it is given one.
    pub(super) fn new(path: PathBuf) -> Self {
        let state = State {
            configured: read(&path),
            path,
            clock: None,
            leased: Vec::new(),
            client: Client::new(Instant::now()),
            generation: 0,
            thread: Thread::NotStarted,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// From now on this clock is kept.
    pub(super) fn keep(&self, clock: Arc<dyn Clock>) {
        self.change(|state| state.clock = Some(clock));
    }

    /// Sets the servers that keep the clock instead of those of leases.
    pub(super) fn configure(&self, servers: &[String]) -> io::Result<()> {
        self.change(|state| {
            state.configured = servers.to_vec();
            write(&state.path, servers)
        })
    }

    /// Sets the servers that a lease brought; none takes them away.
    pub(super) fn lease(&self, of: LeaseOf, servers: Vec<IpAddr>) {
        self.change(|state| {
            state.leased.retain(|(link, _)| *link != of);
            state.leased.extend((!servers.is_empty()).then_some((of, servers)));
            sort::short(&mut state.leased, |(a, _), (b, _)| a.cmp(b));
        });
    }

    /// The servers that keep the clock.
    pub(super) fn in_force(&self) -> Vec<String> {
        self.lock().in_force()
    }

    /// A controller says what time it is, in nanoseconds since 1970 UTC. Returns whether the clock is kept by NTP and near
    /// enough to be left alone.
    pub(super) fn hear(&self, unix_ns: i64) -> bool {
        self.change(|state| {
            let Some(clock) = &state.clock else { return false };
            state.client.hear(unix_ns, clock.read(), Instant::now())
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, begins anew where other servers are in force by it, and sees to it that the thread runs.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let before = state.in_force();
        let result = change(&mut state);
        if state.in_force() != before {
            state.generation += 1;
            state.client.restart(Instant::now());
        }
        let is_needed = state.clock.is_some() && state.client.due().is_some() && !state.in_force().is_empty();
        if is_needed && state.thread == Thread::NotStarted {
            let shared = Arc::clone(&self.shared);
            // Names are looked up on it.
            let thread = std::thread::Builder::new().name("clock".to_owned()).stack_size(256 * 1024);
            match thread.spawn(move || shared.keep()) {
                Ok(_) => state.thread = Thread::Started,
                Err(error) => warn!("no thread to keep the clock: {error}"),
            }
        }
        self.shared.changed.notify_all();
        result
    }
}

impl Shared {
    fn keep(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let due = state.client.due().filter(|_| !state.in_force().is_empty());
            let wait = due.map_or(LONGEST_WAIT, |due| due.saturating_duration_since(now)).min(LONGEST_WAIT);
            let clock = match &state.clock {
                Some(clock) if wait.is_zero() => Arc::clone(clock),
                _ => {
                    let waited = self.changed.wait_timeout(state, wait);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
            };
            let generation = state.generation;
            let servers: Vec<String> = state.client.willing(&state.in_force(), now).into_iter().cloned().collect();
            drop(state);
            let before = clock.read();
            let answers = exchange::ask(&servers, &*clock);
            let after = clock.read();
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            // Offsets are from a clock that somebody has set meanwhile, such as a controller's word.
            if state.generation != generation || after.was_set_since(before) {
                state.client.restart(Instant::now());
                continue;
            }
            let verdict = state.client.judge(&answers, after, Instant::now());
            act(&*clock, verdict, answers.len(), servers.len());
        }
    }
}

fn act(clock: &dyn Clock, verdict: Verdict, answered: usize, asked: usize) {
    let done = match verdict {
        Verdict::Step(offset_ns) => {
            info!("the clock is set by NTP: {} ms are added", offset_ns / 1_000_000);
            clock.step(offset_ns)
        }
        Verdict::Slew { offset_ns, until_next } => clock.slew(offset_ns, until_next),
        Verdict::LetGo { apart_ns } => {
            warn!("NTP servers are not believed: their time is {} s from the controller's", apart_ns / 1_000_000_000);
            clock.let_go()
        }
        Verdict::Nothing => {
            warn!("of {asked} NTP servers {answered} answered, and no more than half of those agree what time it is");
            Ok(())
        }
    };
    if let Err(error) = done {
        warn!("could not set the clock: {error}");
    }
}

impl State {
    fn in_force(&self) -> Vec<String> {
        let leased = self.leased.iter().flat_map(|(_, servers)| servers).map(ToString::to_string);
        let mut all = ntp_in_force(&self.configured, leased.collect());
        all.truncate(MOST);
        all
    }
}

/// Lines `server NAME`, as other programs have them in theirs.
fn read(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("server ")).map(str::to_owned).take(MOST).collect()
}

/// Writes the file, or removes it where there is nothing to say.
fn write(path: &Path, servers: &[String]) -> io::Result<()> {
    if servers.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let lines: String = servers.iter().map(|server| format!("server {server}\n")).collect();
    let new = path.with_extension("new");
    fs::write(&new, HEADER.to_owned() + &lines)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests;
