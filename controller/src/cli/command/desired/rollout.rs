//! `muster rollout`, and following one to its end.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::client::{Client, with_query};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::follow::{Progress, until};
use crate::cli::interrupt;
use crate::cli::show::{Column, Show, age, lines, print, table, text};
use crate::words::counted;

/// Machines that `show` tells of, for each of the states that matter.
const SHOWN: usize = 20;

/// `muster rollout`
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// List rollouts, newest first
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one rollout, and its machines that failed, left or are at work
    Show(ShowOne),
    /// Follow a rollout to its end; ends with exit code 1 where it stops
    Watch(Watch),
    /// Hold a rollout: no other machine is given anything
    ///
    /// Machines that have their desired states go on, and one of them that fails still stops the rollout.
    Pause(Turn),
    /// Let a rollout go on that was held
    Resume(Turn),
    /// End a rollout: no other machine is given anything
    ///
    /// Machines that have their desired states keep them: `muster apply` gives them others.
    Cancel(Turn),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only these: running, paused, stopped, finished, cancelled
    #[arg(long)]
    state: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct ShowOne {
    /// Its number
    rollout: u64,
    /// List its machines instead, all of them
    #[arg(long)]
    machines: bool,
    /// List its machines that are so: waiting, applying, offline, confirmed, failed, there, left
    #[arg(long)]
    state: Option<String>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// Its number
    rollout: u64,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Turn {
    /// Its number
    rollout: u64,
    #[command(flatten)]
    connect: Connect,
}

const COLUMNS: &[Column] = &[
    Column("rollout", |r| text(r, "/number")),
    Column("machines", |r| text(r, "/selector")),
    Column("state", |r| text(r, "/state")),
    Column("progress", tally),
    Column("age", |r| age(r, "/created")),
    Column("why", |r| text(r, "/why")),
];

const FACTS: &[Column] = &[
    Column("rollout", |r| text(r, "/number")),
    Column("machines", |r| format!("{}: {}", text(r, "/machines"), text(r, "/selector"))),
    Column("state", |r| text(r, "/state")),
    Column("why", |r| text(r, "/why")),
    Column("wave", wave),
    Column("waits for", |r| waits(r).unwrap_or_default()),
    Column("progress", tally),
    Column("pace", pace),
    Column("asked by", |r| text(r, "/who")),
    Column("asked at", |r| text(r, "/created")),
    Column("ended at", |r| text(r, "/ended")),
];

const MEMBERS: &[Column] = &[
    Column("place", |m| text(m, "/place")),
    Column("machine", |m| text(m, "/name")),
    Column("state", |m| text(m, "/state")),
    Column("wave", |m| match m["wave"].as_u64() {
        Some(0) => "canary".into(),
        Some(wave) => wave.to_string(),
        None => String::new(),
    }),
    Column("generation", |m| text(m, "/generation")),
    Column("operation", |m| text(m, "/operation").chars().take(8).collect()),
    Column("why", |m| text(m, "/why")),
];

/// Counts that are not 0, in words.
fn tally(rollout: &Value) -> String {
    // Of one that is over, nobody waits for anything.
    let waiting = if rollout["ended"].is_null() { "waiting" } else { "left as they were" };
    let parts = [
        ("confirmed", "confirmed"),
        ("there", "as desired before"),
        ("failed", "failed"),
        ("applying", "applying"),
        ("offline", "offline, to follow when back"),
        ("left", "no longer in it"),
        ("waiting", waiting),
    ];
    let count = |key: &str| rollout["progress"][key].as_u64().filter(|count| *count > 0);
    let said = parts.iter().filter_map(|(key, words)| Some(format!("{} {words}", count(key)?)));
    said.collect::<Vec<_>>().join(", ")
}

fn wave(rollout: &Value) -> String {
    match (rollout["wave"].as_u64(), rollout["ended"].is_null()) {
        (_, false) | (None, _) => String::new(),
        (Some(0), true) => "the canary's".into(),
        (Some(wave), true) => wave.to_string(),
    }
}

fn pace(rollout: &Value) -> String {
    let [canary, size, soak, failures] =
        ["/canary", "/wave_size", "/soak_s", "/max_failures"].map(|pointer| text(rollout, pointer));
    format!("canary {canary}, then waves of {size}, soak {soak} s, {failures} may fail")
}

fn waits(rollout: &Value) -> Option<String> {
    let waits = rollout.get("waits")?;
    let machine = text(waits, "/machine");
    Some(match waits["what"].as_str()? {
        "canary" => "a machine that is online".into(),
        "return" => format!("{machine} to come back"),
        "soak" => format!("the end of the soak of {} s", text(rollout, "/soak_s")),
        _ => match waits["count"].as_u64().unwrap_or(1) as usize {
            0 | 1 => machine,
            count => format!("{machine} and {}", counted(count - 1, "other")),
        },
    })
}

fn path(rollout: u64) -> String {
    format!("/rollouts/{rollout}")
}

impl RolloutCommand {
    pub(in crate::cli::command) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { state, limit, show, connect }) => {
                let limit = limit.to_string();
                let query = [("state", state.as_deref()), ("limit", Some(limit.as_str()))];
                let mut page = connect.client()?.get(&with_query("/rollouts", &query))?;
                let Value::Array(items) = page["items"].take() else { return Ok(()) };
                show.list(&items, COLUMNS);
                Ok(())
            }
            Self::Show(command) => command.run(),
            Self::Watch(Watch { rollout, connect }) => follow(&connect.client()?, rollout),
            Self::Pause(turn) => turn.run("pause"),
            Self::Resume(turn) => turn.run("resume"),
            Self::Cancel(turn) => turn.run("cancel"),
        }
    }
}

impl Turn {
    fn run(self, to: &str) -> Result<(), CliError> {
        let rollout = self.connect.client()?.post(&format!("{}/{to}", path(self.rollout)), json!({}))?;
        print(&format!("rollout {}: {}; {}\n", self.rollout, text(&rollout, "/state"), tally(&rollout)));
        Ok(())
    }
}

impl ShowOne {
    fn run(self) -> Result<(), CliError> {
        let client = self.connect.client()?;
        let machines = format!("{}/machines", path(self.rollout));
        if self.machines || self.state.is_some() {
            self.show.list(&client.all(&machines, &[("state", self.state.as_deref())])?, MEMBERS);
            return Ok(());
        }
        let rollout = client.get(&path(self.rollout))?;
        let mut matter = Vec::new();
        for state in ["failed", "left", "applying", "offline"] {
            if rollout["progress"][state].as_u64().unwrap_or(0) > 0 {
                let limit = SHOWN.to_string();
                let query = [("state", Some(state)), ("limit", Some(limit.as_str()))];
                let mut page = client.get(&with_query(&machines, &query))?;
                matter.extend(page["items"].as_array_mut().map(std::mem::take).unwrap_or_default());
            }
        }
        self.show.one(&rollout, |rollout| match matter.is_empty() {
            true => lines(rollout, FACTS),
            false => format!("{}\n{}", lines(rollout, FACTS), table(&matter, MEMBERS)),
        });
        Ok(())
    }
}

/// A rollout has begun: follows it, or says how to.
pub fn begun(client: &Client, rollout: &Value, no_wait: bool) -> Result<(), CliError> {
    let number = rollout["number"].as_u64().unwrap_or_default();
    let machines = counted(rollout["machines"].as_u64().unwrap_or_default() as usize, "machine");
    if no_wait {
        print(&format!("rollout {number} goes over {machines}; muster rollout watch {number} follows it\n"));
        return Ok(());
    }
    eprintln!("rollout {number} goes over {machines}: {}", pace(rollout));
    follow(client, number)
}

/// Follows a rollout to its end.
///
/// Errors: it stopped or was cancelled; the controller is away for too long.
fn follow(client: &Client, number: u64) -> Result<(), CliError> {
    let _followed = interrupt::says(format!(
        "rollout {number} goes on; muster rollout watch {number} follows it, muster rollout show {number} says how far it \
         is, muster rollout cancel {number} ends it"
    ));
    let mut progress = Progress::new();
    let result = until_over(client, number, &mut progress);
    progress.clear();
    let ended = result?;
    let tally = tally(&ended);
    match ended["state"].as_str() {
        Some("finished") => {
            print(&format!("rollout {number} is finished: {tally}\n"));
            Ok(())
        }
        Some("cancelled") => Err(CliError::Failed(format!("rollout {number} was cancelled: {tally}"))),
        _ => {
            let why = text(&ended, "/why");
            Err(CliError::Failed(format!(
                "rollout {number} has stopped: {why}\n{tally}; see muster rollout show {number}"
            )))
        }
    }
}

fn until_over(client: &Client, number: u64, progress: &mut Progress) -> Result<Value, CliError> {
    until(client, &path(number), percent, progress, |rollout, progress| {
        let is_over = !rollout["ended"].is_null();
        if !is_over {
            progress.show(percent(rollout), &step(rollout));
        }
        is_over
    })
}

/// How many of a hundred of its machines came out.
fn percent(rollout: &Value) -> u64 {
    let count = |key: &str| rollout["progress"][key].as_u64().unwrap_or(0);
    // One that is offline may be at work: it is in between two networks.
    let done = count("confirmed") + count("failed") + count("there") + count("left");
    done * 100 / rollout["machines"].as_u64().unwrap_or(0).max(1)
}

fn step(rollout: &Value) -> String {
    let wave = match rollout["wave"].as_u64() {
        Some(0) | None => "canary".to_owned(),
        Some(wave) => format!("wave {wave}"),
    };
    let confirmed = rollout["progress"]["confirmed"].as_u64().unwrap_or(0);
    let so_far = format!("{confirmed} of {} confirmed", text(rollout, "/machines"));
    match (rollout["state"].as_str(), waits(rollout)) {
        (Some("paused"), _) => format!("paused in {wave}; {so_far}"),
        (_, Some(waits)) => format!("{wave}: waits for {waits}; {so_far}"),
        (_, None) => format!("{wave}; {so_far}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_says_where_it_is_and_what_it_waits_for() {
        let mut rollout = json!({
            "number": 7, "state": "running", "wave": 2, "machines": 40, "soak_s": 30,
            "progress": {"waiting": 20, "applying": 4, "offline": 1, "confirmed": 15, "failed": 0, "there": 0, "left": 0},
            "waits": {"what": "machines", "count": 4, "machine": "m9"},
        });
        assert_eq!(
            (percent(&rollout), step(&rollout)),
            (37, "wave 2: waits for m9 and 3 others; 15 of 40 confirmed".into())
        );
        assert_eq!(tally(&rollout), "15 confirmed, 4 applying, 1 offline, to follow when back, 20 waiting");
        rollout["waits"] = json!({"what": "soak", "until": "2026-11-21T07:15:04.000Z"});
        assert!(step(&rollout).contains("the end of the soak of 30 s"));
        rollout["state"] = json!("paused");
        assert!(step(&rollout).starts_with("paused in wave 2"));
        rollout["ended"] = json!("2026-11-21T07:15:09.000Z");
        assert!(tally(&rollout).ends_with("20 left as they were"));
    }
}
