//! `muster events`, `muster audit`, `muster status`.

use std::time::Duration;

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

/// Who changed what
#[derive(Debug, Args)]
pub struct Audit {
    /// Only what was done on this: the id of a machine, a location's code, …
    #[arg(long)]
    subject: Option<String>,
    /// Only what this one did, such as token:ci
    #[arg(long)]
    who: Option<String>,
    /// At most so many, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
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

const EVENTS: &[Column] =
    &[Column("at", |e| text(e, "/at")), Column("kind", |e| text(e, "/kind")), Column("text", |e| text(e, "/text"))];

const AUDIT: &[Column] = &[
    Column("at", |e| text(e, "/at")),
    Column("who", |e| text(e, "/who")),
    Column("from", |e| text(e, "/from")),
    Column("action", |e| text(e, "/action")),
    Column("subject", |e| text(e, "/subject")),
    Column("before", |e| text(e, "/before")),
    Column("after", |e| text(e, "/after")),
];

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
    pub(super) fn run(self) -> Result<(), CliError> {
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
        self.follow(&client, path)
    }

    /// Goes on where it was when the controller comes back.
    fn follow(&self, client: &Client, mut path: String) -> Result<(), CliError> {
        loop {
            let mut seen = None;
            let end = client.follow(&path, &mut |data| {
                let event: Value = serde_json::from_str(data).unwrap_or_default();
                seen = event["seq"].as_u64().or(seen);
                self.print(&event);
                true
            });
            path = seen.map_or(path, |seq| format!("/events?cursor={seq}"));
            match end {
                Err(CliError::Connect(why)) => {
                    eprintln!("{why}; trying again");
                    std::thread::sleep(Duration::from_secs(1));
                }
                other => return other,
            }
        }
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

impl Audit {
    pub(super) fn run(self) -> Result<(), CliError> {
        let limit = self.limit.to_string();
        let query =
            [("subject", self.subject.as_deref()), ("who", self.who.as_deref()), ("limit", Some(limit.as_str()))];
        let mut page = self.connect.client()?.get(&with_query("/audit", &query))?;
        let Value::Array(entries) = page["items"].take() else { return Ok(()) };
        self.show.list(&entries, AUDIT);
        Ok(())
    }
}

impl Status {
    pub(super) fn run(self) -> Result<(), CliError> {
        let status = self.connect.client()?.get("/status")?;
        self.show.one(&status, |status| lines(status, STATUS));
        Ok(())
    }
}
