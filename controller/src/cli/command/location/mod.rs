//! `muster location`, and what lies at one: subnets, addresses, DHCP.

pub mod dhcp;
pub mod subnet;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::api::WipeLevel;
use crate::cli::client::{escape, object, or_null};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, joined, lines, print, text};
use crate::fleet::location::check_code;
use crate::words::counted;

/// `muster location`
#[derive(Debug, Subcommand)]
pub enum LocationCommand {
    /// List locations
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one location
    Show(One),
    /// Make a location
    Add(About),
    /// Change what is said of a location; what is left out stays
    Set(About),
    /// Say what leased machines are told by the metadata service, or show it
    ///
    /// With nothing to change it shows what is told. User data may hold secrets: it is shown to operators, and told to leased
    /// machines of this location by plain HTTP on their own wire.
    Metadata(Metadata),
    /// Remove a location at which nothing stands
    #[command(visible_alias = "rm")]
    Remove(Remove),
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
    /// Code of the location
    code: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Metadata {
    /// Code of the location
    code: String,
    /// cloud-init's user-data, from this file; - for standard input, '' for none
    #[arg(long, value_name = "FILE")]
    user_data: Option<String>,
    /// An OpenSSH public key in one line; may be given more than once, and takes the place of all there are; '' for none
    #[arg(long = "ssh-key", value_name = "KEY")]
    ssh_keys: Option<Vec<String>>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Code of the location
    code: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster location add ber1 --name 'Berlin office' --city Berlin --country Germany --latitude 52.52 --longitude 13.4
  muster location set ber1 --zone ber1-a --zone ber1-b
  muster location set ber1 --boot-target https://boot.example.net/cycle.ipxe")]
pub struct About {
    /// 1 to 32 lower-case letters, digits or hyphens, like ber1; boot media carry it
    code: String,
    /// For people
    #[arg(long)]
    name: Option<String>,
    /// For maps, such as BER
    #[arg(long)]
    abbreviation: Option<String>,
    /// An availability zone; may be given more than once
    #[arg(long = "zone", value_name = "ZONE")]
    zones: Option<Vec<String>>,
    /// How thoroughly disks are wiped when a lease ends; see `muster machine wipe --help`
    #[arg(long, value_name = "LEVEL", value_enum)]
    wipe: Option<WipeLevel>,
    /// What machines start while they are leased, in the agent's place: an http or https URL, such as that of Cycle's iPXE
    /// script; '' for none
    #[arg(long, value_name = "URL")]
    boot_target: Option<String>,
    /// City
    #[arg(long)]
    city: Option<String>,
    /// State or province
    #[arg(long)]
    state: Option<String>,
    /// Country
    #[arg(long)]
    country: Option<String>,
    /// Region, such as europe
    #[arg(long)]
    region: Option<String>,
    /// Degrees, north is positive
    #[arg(long, allow_hyphen_values = true, value_parser = degrees)]
    latitude: Option<f64>,
    /// Degrees, east is positive
    #[arg(long, allow_hyphen_values = true, value_parser = degrees)]
    longitude: Option<f64>,
    /// Your own words; may be given more than once
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = annotation)]
    annotations: Option<Vec<(String, String)>>,
    #[command(flatten)]
    connect: Connect,
}

fn degrees(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|degrees: &f64| degrees.is_finite()).ok_or("write degrees, such as -33.87".into())
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

const COLUMNS: &[Column] = &[
    Column("code", |l| text(l, "/code")),
    Column("name", |l| text(l, "/name")),
    Column("city", |l| text(l, "/city")),
    Column("country", |l| text(l, "/country")),
    Column("zones", |l| joined(l, "/zones")),
    Column("machines", |l| text(l, "/machines")),
];

const FACTS: &[Column] = &[
    Column("code", |l| text(l, "/code")),
    Column("name", |l| text(l, "/name")),
    Column("abbreviation", |l| text(l, "/abbreviation")),
    Column("zones", |l| joined(l, "/zones")),
    Column("wipe", |l| text(l, "/wipe")),
    Column("boot target", |l| text(l, "/boot_target")),
    Column("city", |l| text(l, "/city")),
    Column("state", |l| text(l, "/state")),
    Column("country", |l| text(l, "/country")),
    Column("region", |l| text(l, "/region")),
    Column("latitude", |l| text(l, "/latitude")),
    Column("longitude", |l| text(l, "/longitude")),
    Column("annotations", |l| text(l, "/annotations")),
    Column("machines", |l| text(l, "/machines")),
];

impl LocationCommand {
    pub fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { show, connect }) => {
                show.list(&connect.client()?.all("/locations", &[])?, COLUMNS);
                Ok(())
            }
            Self::Show(One { code, show, connect }) => {
                show.one(&connect.client()?.get(&path(&code))?, |location| lines(location, FACTS));
                Ok(())
            }
            Self::Add(about) => {
                // An empty one would not even be a path.
                check_code("CODE", &about.code).map_err(|error| CliError::Usage(error.to_string()))?;
                let made = about.connect.client()?.put(&path(&about.code), about.body(), &[("if-none-match", "*")]);
                let made = made.map_err(|error| match error {
                    CliError::Refused { code, .. } if code == "outdated" => CliError::Failed(format!(
                        "{} is there already; change it with `muster location set`",
                        about.code
                    )),
                    other => other,
                })?;
                print(&format!("{} is a location\n{}", text(&made, "/code"), held(&made)));
                Ok(())
            }
            Self::Set(about) => about.set(),
            Self::Metadata(metadata) => metadata.run(),
            Self::Remove(Remove { code, connect }) => {
                connect.client()?.delete(&path(&code))?;
                print(&format!("{code} is gone\n"));
                Ok(())
            }
        }
    }
}

fn path(code: &str) -> String {
    format!("/locations/{}", escape(code))
}

impl Metadata {
    fn run(self) -> Result<(), CliError> {
        let client = self.connect.client()?;
        let path = format!("{}/metadata", path(&self.code));
        let mut before = client.send(Method::GET, &path, None, &[])?;
        if self.user_data.is_none() && self.ssh_keys.is_none() {
            self.show.one(&before.body, told);
            return Ok(());
        }
        if let Some(file) = self.user_data {
            let read = match &*file {
                "" => Ok(String::new()),
                "-" => std::io::read_to_string(std::io::stdin()),
                file => std::fs::read_to_string(file),
            };
            let read = read.map_err(|error| CliError::Failed(format!("cannot read {file}: {error}")))?;
            before.body["user_data"] = json!(read);
        }
        if let Some(keys) = self.ssh_keys {
            before.body["ssh_keys"] = keys.into_iter().filter(|key| !key.is_empty()).collect();
        }
        let tag = format!("\"{}\"", before.etag.trim_matches('"'));
        client.put(&path, before.body, &[("if-match", &tag)])?;
        print(&format!("leased machines of {} are told something else\n", self.code));
        Ok(())
    }
}

/// What leased machines are told, user data line by line as it is.
fn told(metadata: &Value) -> String {
    let keys = metadata["ssh_keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out: String = keys.iter().map(|key| format!("ssh key:    {}\n", text(key, ""))).collect();
    if let Some(data) = metadata["user_data"].as_str().filter(|data| !data.is_empty()) {
        out.push_str("user data:\n");
        out.extend(data.lines().map(|line| format!("  {}\n", text(&json!(line), ""))));
    }
    if out.is_empty() { "no keys and no user data: addresses and names alone\n".into() } else { out }
}

/// What an operator who sets a boot target has to know of machines that cannot go there.
fn held(location: &Value) -> String {
    match location["held_by_media"].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => format!(
            "{} started from media that start the agent and nothing else, and will not be leased: a sealed ISO, or for an \
             https target a UEFI machine whose ISO pins its controller; start them from others\n",
            counted(count as usize, "machine")
        ),
    }
}

impl About {
    fn body(&self) -> Value {
        let annotations: Option<BTreeMap<_, _>> = self.annotations.clone().map(|list| list.into_iter().collect());
        object([
            ("name", or_null(self.name.as_ref())),
            ("abbreviation", or_null(self.abbreviation.as_ref())),
            ("zones", or_null(self.zones.as_ref())),
            ("wipe", or_null(self.wipe.map(WipeLevel::word))),
            ("boot_target", or_null(self.boot_target.as_ref())),
            ("city", or_null(self.city.as_ref())),
            ("state", or_null(self.state.as_ref())),
            ("country", or_null(self.country.as_ref())),
            ("region", or_null(self.region.as_ref())),
            ("latitude", or_null(self.latitude)),
            ("longitude", or_null(self.longitude)),
            ("annotations", or_null(annotations)),
        ])
    }

    /// Reads, changes, and writes back only if nobody else wrote in between.
    fn set(self) -> Result<(), CliError> {
        if self.body().as_object().is_none_or(serde_json::Map::is_empty) {
            return Err(CliError::Usage("nothing to change was named; see `muster location set --help`".into()));
        }
        let client = self.connect.client()?;
        let before = client.send(Method::GET, &path(&self.code), None, &[])?;
        let mut body = before.body;
        if let (Value::Object(body), Value::Object(changes)) = (&mut body, self.body()) {
            // What the location is found by, and what is only counted, is not said anew.
            body.retain(|key, _| !matches!(key.as_str(), "code" | "machines" | "held_by_media"));
            body.extend(changes);
        }
        let tag = format!("\"{}\"", before.etag.trim_matches('"'));
        let changed = client.put(&path(&self.code), json!(body), &[("if-match", &tag)])?;
        print(&format!("{} is changed\n{}", text(&changed, "/code"), held(&changed)));
        Ok(())
    }
}
