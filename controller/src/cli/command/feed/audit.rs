//! `muster audit`: read, followed, exported, verified.
//!
//! Verifying trusts nobody: the lines are fetched or read from a file, and hashed here.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use muster_protocol::MachineId;
use serde_json::Value;

use super::follow;
use crate::cli::client::{Client, with_query};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Format, Show, fitting, print, text, yaml};
use crate::fleet::Facts;
use crate::fleet::audit::{Broken, Chain, Head};
use crate::words::counted;

/// Entries that are shown where nobody says how many.
const SHOWN: u16 = 50;

/// Who changed what, and who was refused
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  muster audit --who token:ci --since 7d
  muster audit --action machine. --follow
  muster audit --output jsonl > audit.jsonl
  muster audit verify --file audit.jsonl"
)]
pub struct Audit {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    /// Go on until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    filter: Filter,
    /// The newest so many; 50 by default, all with --output jsonl
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: Option<u16>,
    /// How to print what was read; jsonl is what is hashed, oldest first
    #[arg(long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Filter {
    /// Only what this one did, such as token:ci, or of several of that name one: token:ci/1a2b3c4d
    #[arg(long)]
    who: Option<String>,
    /// Only what was done on this: the name or id of a machine or a token, a location's code, …
    #[arg(long)]
    subject: Option<String>,
    /// Only actions that begin like this, such as machine.
    #[arg(long)]
    action: Option<String>,
    /// Only what the request of this id brought about
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Only what was done, or only what was refused
    #[arg(long, value_parser = ["done", "refused"])]
    result: Option<String>,
    /// Not before: a span like 2h or 7d, a date, or a time like 2026-11-21T07:15:04Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not after, as --since
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
    /// One entry a line, as it is hashed
    Jsonl,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Whether every entry is there and as it was written
    ///
    /// Recomputes the whole chain here, and says where it ends.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Verify {
    /// An export to read instead of asking the controller; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What an earlier verification printed, or the controller's log: the chain must still have it
    #[arg(long, value_name = "SEQ:SHA256")]
    head: Option<Head>,
    #[command(flatten)]
    connect: Connect,
}

const COLUMNS: &[Column] = &[
    Column("at", |e| text(e, "/at")),
    Column("who", |e| text(e, "/who")),
    Column("action", |e| text(e, "/action")),
    Column("subject", subject),
    Column("change", outcome),
    Column("from", |e| text(e, "/from")),
];

/// A machine's id as other tables have it.
fn subject(entry: &Value) -> String {
    let subject = text(entry, "/subject");
    match subject.parse::<MachineId>() {
        Ok(_) => subject.chars().take(8).collect(),
        Err(_) => subject,
    }
}

/// What changed, or why nothing did.
fn outcome(entry: &Value) -> String {
    let facts = |key: &str| serde_json::from_value::<Facts>(entry[key].clone()).unwrap_or_default();
    match text(entry, "/result") {
        result if result == "done" => Facts::change(&facts("before"), &facts("after")),
        refused => refused,
    }
}

impl Audit {
    pub(in crate::cli::command) fn run(self) -> Result<(), CliError> {
        if let Some(AuditCommand::Verify(verify)) = self.command {
            return verify.run();
        }
        let client = self.connect.client()?;
        if self.follow {
            return self.follow(client);
        }
        if self.output == Output::Jsonl {
            let limit = self.limit.map(|limit| limit.to_string());
            let path = with_query("/audit", &[&self.filter.query()[..], &[("limit", limit.as_deref())]].concat());
            return client.lines(&path, &mut |line| {
                print(&format!("{line}\n"));
                Ok(())
            });
        }
        let entries = self.page(&client, None)?;
        self.show().list(&entries, COLUMNS);
        Ok(())
    }

    /// The newest entries before `cursor`, newest first.
    fn page(&self, client: &Client, cursor: Option<u64>) -> Result<Vec<Value>, CliError> {
        let (limit, cursor) = (self.limit.unwrap_or(SHOWN).to_string(), cursor.map(|cursor| cursor.to_string()));
        let more = [("limit", Some(limit.as_str())), ("cursor", cursor.as_deref())];
        let mut page = client.get(&with_query("/audit", &[&self.filter.query()[..], &more].concat()))?;
        match page["items"].take() {
            Value::Array(entries) => Ok(entries),
            _ => Ok(Vec::new()),
        }
    }

    /// The newest entries, then every other as it comes; goes on where it was when the controller comes back.
    fn follow(&self, client: Client) -> Result<(), CliError> {
        let head = client.get("/audit/head")?["seq"].as_u64().unwrap_or_default();
        for entry in self.page(&client, Some(head + 1))?.iter().rev() {
            self.print(entry, &line(entry)?);
        }
        let path = |seen: Option<u64>| {
            let after = seen.unwrap_or(head).to_string();
            with_query("/audit", &[&self.filter.query()[..], &[("after", Some(after.as_str()))]].concat())
        };
        follow(&self.connect, client, path, &mut |entry, line| self.print(entry, line))
    }

    fn show(&self) -> Show {
        let output = match self.output {
            Output::Table => Format::Table,
            Output::Json | Output::Jsonl => Format::Json,
            Output::Yaml => Format::Yaml,
        };
        Show { output }
    }

    fn print(&self, entry: &Value, line: &str) {
        match self.output {
            Output::Table => {
                let field = |name: &str| text(entry, name);
                let head =
                    format!("{}  {:<20} {:<20} {}", field("/at"), field("/who"), field("/action"), subject(entry));
                print(&fitting(&format!("{head}  {}", outcome(entry)).replace(char::is_control, " ")));
            }
            Output::Json | Output::Jsonl => print(&format!("{line}\n")),
            Output::Yaml => print(&format!("---\n{}", yaml(entry))),
        }
    }
}

impl Filter {
    fn query(&self) -> [(&'static str, Option<&str>); 7] {
        [
            ("who", self.who.as_deref()),
            ("subject", self.subject.as_deref()),
            ("action", self.action.as_deref()),
            ("request", self.request.as_deref()),
            ("result", self.result.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
        ]
    }
}

/// An entry of a page as its own line.
fn line(entry: &Value) -> Result<String, CliError> {
    let read: Result<crate::fleet::audit::Line, _> = serde_json::from_value(entry.clone());
    read.map(|line| line.text()).map_err(|error| CliError::Connect(format!("this is no audit entry: {error}")))
}

impl Verify {
    fn run(self) -> Result<(), CliError> {
        let mut found = Found::default();
        match &self.file {
            Some(file) => {
                found.chain = Chain::part_with(self.head);
                read(file, &mut found)?;
            }
            None => {
                let client = self.connect.client()?;
                // Before the lines: what is written meanwhile comes after it.
                let stored = client.get("/audit/head")?["head"].as_str().unwrap_or_default().parse();
                found.chain = Chain::with(self.head.into_iter().chain([stored.map_err(CliError::Connect)?]));
                client.lines("/audit", &mut |line| found.add(line))?;
            }
        }
        let Found { chain, first, last } = found;
        let (begin, was_pruned) = (chain.begin(), chain.was_pruned());
        let head = chain.end().map_err(|broken| failed(&broken))?;
        match was_pruned {
            true => print(&format!("pruned: begins at entry {begin}, as the log itself says\n")),
            false if begin > 1 => print(&format!("partial: begins at entry {begin}\n")),
            false => {}
        }
        let count = counted((head.seq + 1).saturating_sub(begin.max(1)) as usize, "entry");
        let span = match (first, last) {
            (Some(first), Some(last)) => format!(", {first} to {last}"),
            _ => String::new(),
        };
        print(&format!("{count}{span}, none changed, none missing\nhead: {head}\n"));
        if self.head.is_none() {
            let end = match self.file {
                Some(_) => "Whether entries after the last one are missing is unchecked",
                None => "The end is unchecked: where it is, only the controller says",
            };
            eprintln!(
                "{end}. Keep the head elsewhere; `muster audit verify --head {head}` finds out later whether the log still \
                 has it."
            );
        }
        Ok(())
    }
}

#[derive(Default)]
struct Found {
    chain: Chain,
    first: Option<String>,
    last: Option<String>,
}

impl Found {
    fn add(&mut self, line: &str) -> Result<(), CliError> {
        let at = self.chain.add(line).map_err(|broken| failed(&broken))?.at.text();
        self.first.get_or_insert_with(|| at.clone());
        self.last = Some(at);
        Ok(())
    }
}

fn failed(broken: &Broken) -> CliError {
    let hint = match broken {
        Broken::Before { .. } => return CliError::Failed(format!("this cannot be checked: {broken}")),
        Broken::Gap { .. } => "; an export that was filtered cannot be verified",
        _ => "",
    };
    CliError::Failed(format!("the audit log is broken: {broken}{hint}"))
}

fn read(file: &Path, found: &mut Found) -> Result<(), CliError> {
    let error = |cause| CliError::File { verb: "read", path: file.to_owned(), cause };
    let input: Box<dyn BufRead> = match file.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(file).map_err(error)?)),
    };
    input.lines().try_for_each(|line| found.add(&line.map_err(error)?))
}
