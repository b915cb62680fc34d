//! `muster events` and `muster audit`.

use clap::Args;
use serde_json::Value;

use super::Failure;
use super::client::{Client, encode};
use super::output::{Column, Form, Output, text};

/// What happens
#[derive(Args)]
pub(super) struct Events {
    /// Go on until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// How many of the newest to begin with
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    last: u16,
    #[command(flatten)]
    output: Output,
}

const EVENT: [Column; 3] = [("WHEN", |e| text(e, "at")), ("KIND", |e| text(e, "kind")), ("WHAT", |e| text(e, "text"))];

impl Events {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        let path = format!("/events?last={}", self.last);
        if self.follow {
            return client.follow(&path, |event| match self.output.output {
                Form::Table => {
                    println!("{}  {:<22} {}", text(&event, "at"), text(&event, "kind"), text(&event, "text"))
                }
                // One document a line, in either form: JSON is YAML.
                Form::Json | Form::Yaml => println!("{event}"),
            });
        }
        let page = client.get(&format!("{path}&limit=1000"))?;
        let events = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        self.output.list(events, &EVENT);
        Ok(())
    }
}

/// Who changed what, newest first
#[derive(Args)]
pub(super) struct Audit {
    /// Only what this one did, such as token:ci or ial:acme
    #[arg(long)]
    who: Option<String>,
    /// Only what was done on this
    #[arg(long)]
    subject: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    last: u16,
    #[command(flatten)]
    output: Output,
}

const AUDIT: [Column; 6] = [
    ("WHEN", |e| text(e, "at")),
    ("WHO", |e| text(e, "who")),
    ("FROM", |e| text(e, "from")),
    ("WHAT", |e| text(e, "action")),
    ("ON", |e| text(e, "subject")),
    ("NOW", |e| text(e, "after").chars().take(60).collect()),
];

impl Audit {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        let filter =
            |key: &str, value: Option<String>| value.map(|v| format!("&{key}={}", encode(&v))).unwrap_or_default();
        let filters = filter("who", self.who) + &filter("subject", self.subject);
        let page = client.get(&format!("/audit?limit={}{filters}", self.last.clamp(1, 1_000)))?;
        let entries = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        self.output.list(entries, &AUDIT);
        Ok(())
    }
}
