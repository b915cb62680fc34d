//! `muster model`.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::client::{escape, object, or_null};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, lines, print, text};

/// `muster model`
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// List models with how many machines are free where
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one model
    Show(One),
    /// Name and price a model; what is left out stays, an empty text goes back to the hardware's
    Set(About),
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct One {
    /// Id of the model, m-…
    model: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster model set m-3f2a9c1e0b7d --name 'small' --hourly-mils 120 --monthly-mils 79000")]
pub struct About {
    /// Id of the model, m-…
    model: String,
    /// For people
    #[arg(long)]
    name: Option<String>,
    /// For people
    #[arg(long)]
    description: Option<String>,
    /// First of the two words that Cycle groups models by
    #[arg(long)]
    category: Option<String>,
    /// Second of them
    #[arg(long)]
    class: Option<String>,
    /// Price of an hour in thousandths of a dollar
    #[arg(long, value_name = "MILS")]
    hourly_mils: Option<u64>,
    /// Price of a month in thousandths of a dollar
    #[arg(long, value_name = "MILS")]
    monthly_mils: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

const COLUMNS: &[Column] = &[
    Column("id", |m| text(m, "/id")),
    Column("name", |m| text(m, "/name")),
    Column("free/all", |m| {
        let place = |(code, at): (&String, &Value)| match counts(&at["zones"], &count) {
            zones if zones.is_empty() => count((code, at)),
            zones => format!("{} ({zones})", count((code, at))),
        };
        counts(&m["places"], &place)
    }),
    Column("fits cycle", |m| if m["compatible"] == true { "yes".into() } else { "no".into() }),
    Column("hourly", |m| text(m, "/hourly_mils")),
    Column("monthly", |m| text(m, "/monthly_mils")),
];

/// `ber1 2/3`
fn count((name, at): (&String, &Value)) -> String {
    format!("{name} {}/{}", text(at, "/free"), text(at, "/total"))
}

fn counts(all: &Value, each: &dyn Fn((&String, &Value)) -> String) -> String {
    all.as_object().into_iter().flatten().map(each).collect::<Vec<_>>().join(", ")
}

const FACTS: &[Column] = &[
    Column("id", |m| text(m, "/id")),
    Column("name", |m| text(m, "/name")),
    Column("description", |m| text(m, "/description")),
    Column("category", |m| text(m, "/category")),
    Column("class", |m| text(m, "/class")),
    Column("free/all", COLUMNS[2].1),
    Column("fits Cycle", COLUMNS[3].1),
    Column("hypervisor", |m| if m["hypervisor"] == true { "yes".into() } else { "no".into() }),
    Column("hourly mils", |m| text(m, "/hourly_mils")),
    Column("monthly mils", |m| text(m, "/monthly_mils")),
];

impl ModelCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { show, connect }) => {
                show.list(&connect.client()?.all("/models", &[])?, COLUMNS);
                Ok(())
            }
            Self::Show(One { model, show, connect }) => {
                let model = connect.client()?.get(&format!("/models/{}", escape(&model)))?;
                show.one(&model, |model| lines(model, FACTS));
                Ok(())
            }
            Self::Set(about) => {
                let body = object([
                    ("name", or_null(about.name)),
                    ("description", or_null(about.description)),
                    ("category", or_null(about.category)),
                    ("class", or_null(about.class)),
                    ("hourly_mils", or_null(about.hourly_mils)),
                    ("monthly_mils", or_null(about.monthly_mils)),
                ]);
                let model = about.connect.client()?.patch(&format!("/models/{}", escape(&about.model)), body)?;
                print(&lines(&model, FACTS));
                Ok(())
            }
        }
    }
}
