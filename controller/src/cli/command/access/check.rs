//! `muster ial check`: what is asked of whom, and how it is told. What is tried is `ial::check`'s business.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};

use crate::cli::connect::{DataDir, from_env, trusted};
use crate::cli::error::CliError;
use crate::cli::interrupt;
use crate::cli::show::{Column, Show, table, text};
use crate::ial::check::calls::ZERO;
use crate::ial::check::door::Door;
use crate::ial::check::{Case, Check, Orders, Report, Takes};
use crate::words::counted;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster ial check https://muster.example:8443 --key 5f0c9a7e21b3d864 --secret-file secret
  muster ial check https://muster.example:8443 --auth hub.json --provision --location ber1
  muster ial check https://ial.example.net --auth hub.json --output json > report.json

With --provision it orders servers, so machines are prepared, and wiped when they are given back.")]
pub struct CheckArgs {
    /// The base URL as it is entered in Cycle, such as https://muster.example:8443
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    url: String,
    /// The key of a hub's credential: `api_key` [env: MUSTER_IAL_KEY]
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// Its secret, which others on this host can see; better --secret-file [env: MUSTER_IAL_SECRET]
    #[arg(long, value_name = "SECRET", conflicts_with = "secret_file")]
    secret: Option<String>,
    /// A file with the secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Cycle's id of the hub, where the credential is for that hub alone
    #[arg(long, value_name = "ID", default_value = "6516a1f2a6078e9800000001", value_parser = hub_id)]
    hub_id: String,
    /// A file with the whole `auth` object in JSON, for servers that want other fields of it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "secret", "secret_file", "hub_id"])]
    auth: Option<PathBuf>,
    /// The CA to trust, in PEM; else those that this host trusts, and the controller's on it [env: MUSTER_CA]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    second: Second,
    #[command(flatten)]
    provision: Provision,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "A second hub, to try that two of them never get one machine")]
struct Second {
    /// The key of another hub's credential [env: MUSTER_IAL_SECOND_KEY]
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    second_key: Option<String>,
    /// Its secret; better --second-secret-file [env: MUSTER_IAL_SECOND_SECRET]
    #[arg(long, value_name = "SECRET", conflicts_with = "second_secret_file")]
    second_secret: Option<String>,
    /// A file with its secret
    #[arg(long, value_name = "FILE")]
    second_secret_file: Option<PathBuf>,
    /// Cycle's id of that hub
    #[arg(long, value_name = "ID", default_value = "6516a1f2a6078e9800000002", value_parser = hub_id)]
    second_hub_id: String,
    /// A file with its whole `auth` object
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["second_key", "second_secret", "second_secret_file", "second_hub_id"])]
    second_auth: Option<PathBuf>,
}

/// What was given of one hub.
struct Hub<'a> {
    /// What stands before the names of its options.
    prefix: &'static str,
    name: &'static str,
    key: Option<&'a String>,
    secret: Option<&'a String>,
    secret_file: Option<&'a PathBuf>,
    id: &'a str,
    auth: Option<&'a PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Servers")]
struct Provision {
    /// Order servers and addresses too, and give all of them back, also when this is interrupted
    #[arg(long)]
    provision: bool,
    /// At this location, by the id that the catalog has for it; else at the first one with a compatible model
    #[arg(long, value_name = "ID", requires = "provision")]
    location: Option<String>,
    /// In this zone of it
    #[arg(long, value_name = "ID", requires = "location")]
    zone: Option<String>,
    /// Of this model, by its id; else of the first compatible one
    #[arg(long, value_name = "ID", requires = "provision")]
    model: Option<String>,
    /// The most servers at one time: one more than there are machines of the model tries who gets the last one
    #[arg(long, value_name = "COUNT", default_value_t = 4, requires = "provision",
        value_parser = clap::value_parser!(u8).range(1..=64))]
    servers: u8,
    /// The time from one look at a server to the next; Cycle's is 5 to 10 s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    poll: Duration,
    /// How long a server may take to be ready, and a machine to be free again
    #[arg(long, value_name = "TIME", default_value = "45m", value_parser = span)]
    wait: Duration,
}

/// As Cycle has them. The zero id stands for one that was never set, so no hub has it.
fn hub_id(text: &str) -> Result<String, String> {
    let is_id = text.len() == ZERO.len() && text.chars().all(|c| c.is_ascii_hexdigit()) && text != ZERO;
    if is_id {
        return Ok(text.to_owned());
    }
    Err("a hub's id has 24 hexadecimal digits, and not all of them 0, like 651586fca6078e98982dbd90".into())
}

fn span(text: &str) -> Result<Duration, String> {
    let ms = crate::api::http::when::span_ms(text).ok_or("write a span like 30s, 5m or 1h")?;
    if ms < 1000 { Err("must be 1s at least".into()) } else { Ok(Duration::from_millis(ms)) }
}

const CASES: &[Column] = &[
    Column("case", |c| text(c, "/case")),
    Column("result", |c| text(c, "/result")),
    Column("what", |c| match c["result"].as_str() {
        Some("failed") if c["same_as"].is_string() => format!("as {}: {}", text(c, "/same_as"), text(c, "/got")),
        Some("failed") => text(c, "/got"),
        Some("left out") => text(c, "/why"),
        _ => text(c, "/proves"),
    }),
];

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (auth, second) = self.hubs()?;
        let roots = if self.url.to_ascii_lowercase().starts_with("https:") {
            trusted(self.ca.as_ref(), &self.data)?
        } else {
            Vec::new()
        };
        let door = Door::new(&self.url, roots).map_err(CliError::Usage)?;
        let Provision { provision, location, zone, model, servers, poll, wait } = self.provision;
        let orders = provision.then(|| Orders { location, zone, model, most: servers.into() });
        let mut progress = Progress { is_watched: std::io::stderr().is_terminal(), group: "" };
        let leases = orders.is_some();
        let check = Check { door, auth, second, orders, poll, wait };
        let report = check.run(interrupt::noted(), &mut |case| {
            // Others are left out at once.
            if leases || case.takes == Takes::Nothing {
                progress.begins(case);
            }
        });
        let report = report.map_err(|e| CliError::Failed(format!("no random bytes: {e}")))?;
        self.show.one(&report.view(), people);
        verdict(&report)
    }

    /// What stands in `auth`, of the first hub and of the second one.
    fn hubs(&self) -> Result<(Value, Option<Value>), CliError> {
        let first = Hub {
            prefix: "",
            name: "Check",
            key: self.key.as_ref(),
            secret: self.secret.as_ref(),
            secret_file: self.secret_file.as_ref(),
            id: &self.hub_id,
            auth: self.auth.as_ref(),
        };
        let Second { second_key, second_secret, second_secret_file, second_hub_id, second_auth } = &self.second;
        let second = Hub {
            prefix: "second-",
            name: "Second check",
            key: second_key.as_ref(),
            secret: second_secret.as_ref(),
            secret_file: second_secret_file.as_ref(),
            id: second_hub_id,
            auth: second_auth.as_ref(),
        };
        let Some(auth) = first.read()? else {
            let problem = "no credential: give --key with --secret-file, or --auth, or MUSTER_IAL_KEY and \
                           MUSTER_IAL_SECRET; `muster ial credential create` makes one";
            return Err(CliError::Usage(problem.into()));
        };
        let second = second.read()?;
        let is_same = |second: &Value| {
            let of = |auth: &Value, key: &str| auth["cycle"][key].as_str().map(str::to_ascii_lowercase);
            auth == *second || of(&auth, "hub_id").is_some() && of(&auth, "hub_id") == of(second, "hub_id")
        };
        if second.as_ref().is_some_and(is_same) {
            let problem = "both hubs are one: give --second-key and --second-hub-id, or --second-auth, of another hub";
            return Err(CliError::Usage(problem.into()));
        }
        Ok((auth, second))
    }
}

impl Hub<'_> {
    /// What stands in `auth`; `None` where nothing was given.
    fn read(&self) -> Result<Option<Value>, CliError> {
        let prefix = self.prefix;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|cause| CliError::File { verb: "read", path: path.clone(), cause })
        };
        if let Some(path) = self.auth {
            let auth: Value = serde_json::from_str(&read(path)?)
                .map_err(|e| CliError::Usage(format!("--{prefix}auth: {} is no JSON: {e}", path.display())))?;
            if auth.is_object() {
                return Ok(Some(auth));
            }
            return Err(CliError::Usage(format!("--{prefix}auth: {} must hold an object", path.display())));
        }
        let env = |what: &str| {
            let prefix = prefix.to_ascii_uppercase().replace('-', "_");
            from_env(&format!("MUSTER_IAL_{prefix}{what}"))
        };
        let key = self.key.cloned().or_else(|| env("KEY"));
        let secret = match self.secret_file {
            Some(path) => Some(read(path)?),
            None => self.secret.cloned().or_else(|| env("SECRET")),
        };
        let (key, secret) = match (key, secret) {
            (Some(key), Some(secret)) => (key, secret),
            (None, None) => return Ok(None),
            _ => {
                let problem = format!("half a credential: give --{prefix}key with --{prefix}secret-file");
                return Err(CliError::Usage(problem));
            }
        };
        if key.trim().is_empty() || secret.trim().is_empty() {
            let problem = format!("the key or the secret is empty; look at --{prefix}key and --{prefix}secret-file");
            return Err(CliError::Usage(problem));
        }
        let hub = json!({ "hub_name": self.name, "hub_id": self.id });
        Ok(Some(json!({ "api_key": key.trim(), "secret": secret.trim(), "cycle": hub })))
    }
}

/// What is tried by now, for who waits: each case on a terminal; else each group, and each case that may take long.
struct Progress {
    is_watched: bool,
    group: &'static str,
}

impl Progress {
    fn begins(&mut self, case: &Case) {
        let group = case.name.split_once('/').map_or(case.name, |(group, _)| group);
        if self.is_watched || case.takes == Takes::Machines {
            eprintln!("{}", case.name);
        } else if group != self.group {
            eprintln!("{group}");
        }
        self.group = group;
    }
}

/// A table, then each reason with what to do, then the notes.
fn people(report: &Value) -> String {
    let cases = report["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = table(cases, CASES);
    for case in cases.iter().filter(|case| case["result"] == "failed" && case["same_as"].is_null()) {
        out.push_str(&format!("\n{}: {}\n", text(case, "/case"), text(case, "/proves")));
        for (key, word) in [("expected", "expected"), ("got", "got"), ("fact", "of the API"), ("remedy", "do")] {
            out.push_str(&format!("  {word}: {}\n", text(case, &format!("/{key}"))));
        }
        let same = cases.iter().filter(|other| other["same_as"] == case["case"]).map(|other| text(other, "/case"));
        let same: Vec<String> = same.collect();
        if !same.is_empty() {
            out.push_str(&format!("  for this reason too: {}\n", same.join(", ")));
        }
    }
    let notes = |case: &Value| case["notes"].as_array().cloned().unwrap_or_default();
    let all: Vec<String> = cases
        .iter()
        .flat_map(|case| {
            notes(case).into_iter().map(|note| format!("  {}: {}\n", text(case, "/case"), text(&note, "")))
        })
        .collect();
    if !all.is_empty() {
        out.push_str(&format!("\nNo faults, and good to know:\n{}", all.concat()));
    }
    let of = |key: &str| text(report, &format!("/{key}"));
    out.push_str(&format!("\n{} passed, {} failed, {} left out\n", of("passed"), of("failed"), of("left_out")));
    out
}

fn verdict(report: &Report) -> Result<(), CliError> {
    if report.is_interrupted {
        return Err(CliError::Interrupted("interrupted; what was not tried is left out".into()));
    }
    match report.count("failed") {
        0 => Ok(()),
        count => Err(CliError::Failed(format!("{} failed", counted(count, "case")))),
    }
}
