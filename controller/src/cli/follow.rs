//! Follows an operation to its end, with a line of progress on a terminal and plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use super::client::{Client, Reply, escape};
use super::error::CliError;
use super::interrupt;
use super::show::text;
use crate::fleet::operation::outcome::seconds;

/// How long a controller may be away before following is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The moving sign.
const SPINNER: [char; 8] = ['⣾', '⣽', '⣻', '⢿', '⡿', '⣟', '⣯', '⣷'];

/// Progress of long work, on standard error.
pub struct Progress {
    /// Whether it is a terminal, where the line moves.
    pub watched: bool,
    said: String,
    turn: usize,
    began: Instant,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        Self { watched: io::stderr().is_terminal(), said: String::new(), turn: 0, began: Instant::now() }
    }

    /// How far it is. On a terminal one line that moves, elsewhere one line for each new step.
    pub fn show(&mut self, percent: u64, step: &str) {
        let mut err = io::stderr().lock();
        // A terminal that went away is no reason to stop.
        if self.watched {
            let sign = SPINNER[self.turn % SPINNER.len()];
            self.turn += 1;
            let seconds = self.began.elapsed().as_secs();
            let _ = write!(err, "\r{sign} {percent:>3}% {step} ({seconds} s)\x1b[K");
            let _ = err.flush();
        } else if self.said != step {
            let _ = writeln!(err, "{percent:>3}% {step}");
            self.said = step.to_owned();
        }
    }

    /// Takes the moving line away.
    pub fn clear(&mut self) {
        if self.watched {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K");
            let _ = err.flush();
        }
    }
}

/// Waits until an operation is over and answers it.
///
/// Where it is interrupted meanwhile, the command ends and says that the operation goes on.
///
/// Errors: it failed or was cancelled; the controller is away for too long.
pub fn follow(client: &Client, operation: &Value) -> Result<Value, CliError> {
    let (id, what) = (text(operation, "/id"), text(operation, "/description"));
    let _followed = interrupt::says(format!(
        "{what} goes on as operation {id}; muster operation watch {id} follows it, muster operation show {id} says how it \
         came out"
    ));
    let mut progress = Progress::new();
    let result = until_over(client, &id, &mut progress);
    progress.clear();
    let ended = result?;
    match ended["state"].as_str() {
        Some("succeeded") => Ok(ended),
        Some("cancelled") => Err(CliError::Failed(format!("{}: cancelled", text(&ended, "/description")))),
        _ => {
            let took = match took(&ended) {
                took if took.is_empty() => took,
                took => format!("; it took {took}"),
            };
            Err(CliError::Failed(format!("{}: {}{took}", text(&ended, "/description"), text(&ended, "/error"))))
        }
    }
}

/// How long a change took its machine, in all and by phase: `4.2 s (made 1.1 s, …)`. Empty where it has not said.
pub fn took(operation: &Value) -> String {
    let ms = |field: &str| operation["times"][field].as_u64().unwrap_or_default();
    let phases = PHASES.iter().map(|(field, word)| (ms(field), word)).filter(|(ms, _)| *ms > 0);
    let phases: Vec<_> = phases.map(|(ms, word)| format!("{word} {}", seconds(ms))).collect();
    match phases.is_empty() {
        true => String::new(),
        false => format!("{} ({})", seconds(ms("total_ms")), phases.join(", ")),
    }
}

/// The phases of a change, and what each has done.
const PHASES: [(&str, &str); 6] = [
    ("make_ms", "made"),
    ("prove_beside_ms", "proven beside"),
    ("switch_ms", "switched"),
    ("verify_ms", "verified"),
    ("prove_ms", "proven"),
    ("revert_ms", "reverted"),
];

fn until_over(client: &Client, id: &str, progress: &mut Progress) -> Result<Value, CliError> {
    until(client, &format!("/operations/{}", escape(id)), percent, progress, |operation, progress| {
        let is_over = matches!(operation["state"].as_str(), Some("succeeded" | "failed" | "cancelled"));
        if !is_over {
            // What is done from outside waits for no agent, and one that is told no news is told that it waits.
            let waits = match is_from_outside(operation) || !is_away(client, operation) {
                true => "",
                false => "; the machine is offline, this goes on when it is back",
            };
            progress.show(percent(operation), &format!("{}{waits}", step(operation)));
        }
        is_over
    })
}

/// Asks for news of something until it is over. `percent` tells how far it is, and `look` shows each answer and says
/// whether it was the last.
///
/// Errors: the controller refuses, or is away for longer than [`PATIENCE`].
pub fn until(
    client: &Client,
    path: &str,
    percent: fn(&Value) -> u64,
    progress: &mut Progress,
    look: impl Fn(&Value, &mut Progress) -> bool,
) -> Result<Value, CliError> {
    // On a terminal the line moves every second; elsewhere only news matter.
    let wait = if progress.watched { 1 } else { 30 };
    let path = format!("{path}?wait={wait}");
    let mut seen = Reply { status: 0, etag: String::new(), body: Value::Null };
    let mut heard = Instant::now();
    loop {
        let tag = seen.etag.clone();
        let headers = [("if-none-match", tag.as_str())];
        match client.send(Method::GET, &path, None, if tag.is_empty() { &[] } else { &headers }) {
            Ok(reply) => {
                heard = Instant::now();
                if reply.status != 304 {
                    seen = reply;
                }
            }
            // The change that is followed may cut this very way, and comes back or is undone.
            Err(CliError::Connect(_)) if heard.elapsed() < PATIENCE => {
                progress.show(percent(&seen.body), "the controller does not answer; still trying");
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            Err(error) => return Err(error),
        }
        if look(&seen.body, progress) {
            return Ok(seen.body);
        }
    }
}

/// Whether the operation's machine is known to be offline.
fn is_from_outside(operation: &Value) -> bool {
    matches!(operation["kind"].as_str(), Some("power-on" | "power-cycle"))
        || text(operation, "/description").ends_with("from outside")
}

fn is_away(client: &Client, operation: &Value) -> bool {
    let path = format!("/machines/{}", escape(&text(operation, "/machine")));
    client.get(&path).is_ok_and(|machine| machine["presence"]["state"] == "offline")
}

fn percent(operation: &Value) -> u64 {
    operation["percent"].as_u64().unwrap_or(0)
}

fn step(operation: &Value) -> String {
    let description = text(operation, "/description");
    let last = operation["steps"].as_array().and_then(|steps| steps.last()).map(|step| text(step, "/text"));
    format!("{description}: {}", last.unwrap_or_else(|| text(operation, "/state")))
}
