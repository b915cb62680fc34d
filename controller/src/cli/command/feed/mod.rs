//! `muster events`, `muster status`; `muster audit` has its own file.

mod audit;

use std::time::Duration;

pub use audit::Audit;
use clap::Args;
use serde_json::Value;

use crate::cli::client::{Client, with_query};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Format, Show, lines, print, text, yaml};

/// What happens, as it happens
#[derive(Debug, Args)]
pub struct Events {
    /// Go on until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Begin with the newest so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1000))]
    last: u16,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

/// How the controller and its fleet are
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

/// Follows a live feed to the end of time: goes on where it was when the controller comes back, also where it comes back
/// with another CA or at another port of this host, as its files say then.
///
/// `path` says where a feed begins whose last record had this number; `each` gets every record and its text.
fn follow(
    connect: &Connect,
    mut client: Client,
    path: impl Fn(Option<u64>) -> String,
    each: &mut dyn FnMut(&Value, &str),
) -> Result<(), CliError> {
    let mut seen = None;
    loop {
        let end = client.follow(&path(seen), &mut |data| {
            let record: Value = serde_json::from_str(data).unwrap_or_default();
            seen = record["seq"].as_u64().or(seen);
            each(&record, data);
            true
        });
        match end {
            Err(CliError::Connect(why)) => {
                eprintln!("{why}; trying again");
                std::thread::sleep(Duration::from_secs(1));
                // Where they cannot be read at this moment, what was read before may do.
                client = connect.client().unwrap_or(client);
            }
            other => return other,
        }
    }
}

const EVENTS: &[Column] =
    &[Column("at", |e| text(e, "/at")), Column("kind", |e| text(e, "/kind")), Column("text", |e| text(e, "/text"))];

const STATUS: &[Column] = &[
    Column("version", |s| text(s, "/version")),
    Column("started", |s| text(s, "/started")),
    Column("CA", |s| text(s, "/ca")),
    Column("machines", |s| {
        let machines = s["machines"].as_object().cloned().unwrap_or_default();
        let counts: Vec<String> = machines.iter().map(|(word, count)| format!("{count} {word}")).collect();
        if counts.is_empty() { "none".into() } else { counts.join(", ") }
    }),
    Column("online", |s| text(s, "/online")),
    Column("operations", |s| format!("{} unfinished", text(s, "/operations"))),
];

impl Events {
    pub(in crate::cli::command) fn run(self) -> Result<(), CliError> {
        let client = self.connect.client()?;
        let last = self.last.to_string();
        let query = [("last", Some(last.as_str())), ("limit", Some("1000"))];
        let path = with_query("/events", &query);
        if !self.follow {
            let mut page = client.get(&path)?;
            let Value::Array(events) = page["items"].take() else { return Ok(()) };
            self.show.list(&events, EVENTS);
            return Ok(());
        }
        let again = |seen: Option<u64>| seen.map_or(path.clone(), |seq| format!("/events?cursor={seq}"));
        follow(&self.connect, client, again, &mut |event, _| self.print(event))
    }

    fn print(&self, event: &Value) {
        match self.show.output {
            Format::Table => {
                print(&format!("{}  {:<22} {}\n", text(event, "/at"), text(event, "/kind"), text(event, "/text")));
            }
            // One event a line, as programs read streams.
            Format::Json => print(&format!("{event}\n")),
            Format::Yaml => print(&format!("---\n{}", yaml(event))),
        }
    }
}

impl Status {
    pub(in crate::cli::command) fn run(self) -> Result<(), CliError> {
        let status = self.connect.client()?.get("/status")?;
        self.show.one(&status, |status| lines(status, STATUS));
        Ok(())
    }
}
