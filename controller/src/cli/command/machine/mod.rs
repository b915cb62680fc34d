//! `muster machine`.

mod controls;
mod decide;
mod disk;
mod sheet;
pub(super) mod wipe;

use std::collections::BTreeMap;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::cli::ask;
use crate::cli::client::{Client, escape, with_query};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, age, joined, print, text, yaml};

/// `muster machine`
#[derive(Debug, Subcommand)]
pub enum MachineCommand {
    /// List machines
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one machine with all that is known of it
    Show(One),
    /// What a machine should be, in netplan's and Butane's words
    Desired(One),
    /// What a machine's kernel says now; the machine itself is asked
    Observed(One),
    /// Let machines in that wait for approval, by name or by the claim code on their screens
    Approve(decide::Approve),
    /// Keep machines out that wait for approval
    Reject(decide::Reject),
    /// Say which machine a box is whose hardware leaves a doubt
    ///
    /// A box with other NICs, or a twin of another one, waits for approval until somebody says what it is.
    Resolve(Resolve),
    /// Set labels (KEY=VALUE) and remove them (KEY-)
    Label(Label),
    /// Give a machine another name
    Rename(Rename),
    /// Leave a machine out of leases, or take it in again
    Maintenance(Maintenance),
    /// Say what a machine does where somebody changes its network by hand
    ///
    /// Whatever is not as it was confirmed is seen at once. A machine repairs it by itself, also where the change cut it off,
    /// or only tells. `muster events` says what was found; `muster machine show` what still differs.
    Drift(Drift),
    /// Disks of a machine: how they are and were, and another one in place of one
    #[command(subcommand)]
    Disk(disk::DiskCommand),
    /// The BMC that switches a machine from outside, by Redfish or IPMI
    #[command(subcommand)]
    Bmc(controls::BmcCommand),
    /// The smart outlet that a machine's plug is in
    #[command(subcommand)]
    Outlet(controls::OutletCommand),
    /// Say whether a magic packet (Wake-on-LAN) switches a machine on
    Wake(controls::Wake),
    /// Destroy what disks of a machine carry
    ///
    /// The machine must be available and online. Cannot be undone.
    Wipe(wipe::Wipe),
    /// Take machines out of the fleet for good
    ///
    /// Cannot be undone. The machine's certificate is revoked: its session ends within a second and it gets no other. What
    /// is desired of it is forgotten, its disks keep what they carry, its record and its history stay.
    ///
    /// To come back the box must join anew, as a new machine, and an operator must approve it: no policy does. To keep a
    /// machine out of leases for a while, use `muster machine maintenance`.
    Retire(decide::Retire),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster machine list --lifecycle pending
  muster machine list --location ber1 --presence offline --output json
  muster machine list --iso 3f2a9c1e0b7d       whoever started from the stick that is gone")]
pub struct List {
    /// Only these: pending, rejected, available, leased, cleaning or retired
    #[arg(long)]
    lifecycle: Option<String>,
    /// Only these: online or offline
    #[arg(long)]
    presence: Option<String>,
    /// Only those at the location with this code
    #[arg(long, value_name = "CODE")]
    location: Option<String>,
    /// Only those with this label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Option<String>,
    /// Only those that last started from the ISO with this id, revoked or not
    #[arg(long, value_name = "ID")]
    iso: Option<String>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct One {
    /// Id, unique beginning of an id, or name
    machine: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("answer").required(true).args(["same_as", "separate"]), after_help = "Examples:
  muster machine resolve ber1-3f2a9c --same-as kitchen     it is the kitchen's box with a new NIC
  muster machine resolve ber1-3f2a9c --separate            it is another box, which only looks like it")]
pub struct Resolve {
    /// The one that waits: id, unique beginning of an id, name, or claim code
    machine: String,
    /// It is this machine, which must be offline
    #[arg(long, value_name = "MACHINE")]
    same_as: Option<String>,
    /// It is a machine of its own
    #[arg(long)]
    separate: bool,
    /// Do not ask where that machine is none of those that it may be; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster machine label kitchen rack=b2 owner-      set rack, remove owner")]
pub struct Label {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// KEY=VALUE sets, KEY- removes
    #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = label)]
    labels: Vec<(String, Option<String>)>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Rename {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// 1 to 63 letters, digits, '-' or '.'
    name: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Maintenance {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// Whether it is left out
    wish: Switch,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster machine drift kitchen report      while somebody tries something out on it
  muster machine drift kitchen default     what agents.drift in muster.toml says, as all others")]
pub struct Drift {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// What it does
    wish: OnDrift,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnDrift {
    /// Make the network as it was confirmed
    Repair,
    /// Leave it as it is, and tell
    Report,
    /// What the controller's configuration says
    Default,
}

impl OnDrift {
    fn word(self) -> &'static str {
        match self {
            Self::Repair => "repair",
            Self::Report => "report",
            Self::Default => "default",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Leave it out
    On,
    /// Take it in
    Off,
}

fn label(text: &str) -> Result<(String, Option<String>), String> {
    if let Some((key, value)) = text.split_once('=') {
        return Ok((key.to_owned(), Some(value.to_owned())));
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() => Ok((key.to_owned(), None)),
        _ => Err("write KEY=VALUE to set a label, KEY- to remove one".into()),
    }
}

/// The path of a machine.
pub(super) fn path(name: &str) -> String {
    format!("/machines/{}", escape(name))
}

const COLUMNS: &[Column] = &[
    Column("name", |m| text(m, "/name")),
    Column("id", |m| text(m, "/id").chars().take(8).collect()),
    Column("location", |m| text(m, "/location")),
    Column("lifecycle", lifecycle),
    Column("presence", presence),
    Column("progress", |m| {
        let progress = format!("{} {}", text(m, "/progress/state"), text(m, "/progress/generation"));
        let drift = if m["drift"].is_object() { ", drift" } else { "" };
        let arrays = m["troubled_arrays"].as_array().is_some_and(|arrays| !arrays.is_empty());
        let arrays = if arrays { ", array in trouble" } else { "" };
        let disks = m["troubled_disks"].as_array().is_some_and(|disks| !disks.is_empty());
        let disks = if disks { ", disk in trouble" } else { "" };
        format!("{}{drift}{arrays}{disks}", progress.trim())
    }),
    Column("addresses", |m| joined(m, "/addresses")),
    Column("model", |m| text(m, "/model")),
];

fn lifecycle(machine: &Value) -> String {
    let mut words = vec![text(machine, "/lifecycle")];
    if machine["may_be"].as_array().is_some_and(|names| !names.is_empty()) {
        words.push(format!("may be {}", joined(machine, "/may_be").replace(", ", " or ")));
    }
    if let Some(retired) = machine["has_parts_of"].as_str() {
        words.push(format!("has parts of {retired}, which was retired"));
    }
    if machine["maintenance"] == true {
        words.push("maintenance".into());
    }
    words.join(", ")
}

fn presence(machine: &Value) -> String {
    format!("{} {}", text(machine, "/presence/state"), age(machine, "/presence/since")).trim().to_owned()
}

impl MachineCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(one) => {
                let client = one.connect.client()?;
                let machine = client.get(&path(&one.machine))?;
                one.show.one(&machine, |machine| match machine["lifecycle"] == "retired" {
                    true => sheet::sheet(machine, &retirement(&client, machine)),
                    false => sheet::sheet(machine, ""),
                });
                Ok(())
            }
            Self::Desired(one) => {
                let desired = one.connect.client()?.get(&format!("{}/desired", path(&one.machine)))?;
                one.show.one(&desired, |desired| {
                    let document = &desired["document"];
                    match document.as_object().is_some_and(Map::is_empty) {
                        true => "nothing is desired of it\n".into(),
                        false => {
                            let generation = text(desired, "/generation");
                            format!("# generation {generation}\n{}", yaml(document))
                        }
                    }
                });
                Ok(())
            }
            Self::Observed(one) => {
                let observed = one.connect.client()?.get(&format!("{}/observed", path(&one.machine)))?;
                one.show.one(&observed, yaml);
                Ok(())
            }
            Self::Approve(approve) => approve.run(),
            Self::Reject(reject) => reject.run(),
            Self::Retire(retire) => retire.run(),
            Self::Disk(disk) => disk.run(),
            Self::Bmc(bmc) => bmc.run(),
            Self::Outlet(outlet) => outlet.run(),
            Self::Wake(wake) => wake.run(),
            Self::Wipe(wipe) => wipe.run(),
            Self::Resolve(resolve) => resolve.run(),
            Self::Label(Label { machine, labels, connect }) => {
                change(&connect, &machine, json!({"labels": labels.into_iter().collect::<BTreeMap<_, _>>()}))
            }
            Self::Rename(Rename { machine, name, connect }) => change(&connect, &machine, json!({"name": name})),
            Self::Maintenance(Maintenance { machine, wish, connect }) => {
                change(&connect, &machine, json!({"maintenance": wish == Switch::On}))
            }
            Self::Drift(Drift { machine, wish, connect }) => {
                change(&connect, &machine, json!({"on_drift": wish.word()}))
            }
        }
    }
}

impl Resolve {
    fn run(self) -> Result<(), CliError> {
        let client = self.connect.client()?;
        let body = match &self.same_as {
            None => json!({"separate": true}),
            Some(other) => {
                let (waits, known) = (client.get(&path(&self.machine))?, client.get(&path(other))?);
                let is_likely = waits["may_be"].as_array().is_some_and(|all| all.contains(&known["name"]));
                let (one, other) = (text(&waits, "/name"), text(&known, "/name"));
                let problem =
                    format!("{one} does not look like {other}, whose name, configuration and lease it would get");
                if !is_likely && !self.yes && !ask::is_meant(&format!("{problem}.")).unwrap_or_default() {
                    let problem = format!("not confirmed, nothing was changed: {problem}; to do it, add --yes");
                    return Err(CliError::Failed(problem));
                }
                json!({"same_as": known["id"]})
            }
        };
        said(&client.post(&format!("{}/resolve", path(&self.machine)), body)?);
        Ok(())
    }
}

impl List {
    fn run(self) -> Result<(), CliError> {
        let query = [
            ("lifecycle", self.lifecycle.as_deref()),
            ("presence", self.presence.as_deref()),
            ("location", self.location.as_deref()),
            ("label", self.label.as_deref()),
            ("iso", self.iso.as_deref()),
        ];
        let mut machines = self.connect.client()?.all("/machines", &query)?;
        machines.sort_by_key(|machine| text(machine, "/name"));
        self.show.list(&machines, COLUMNS);
        Ok(())
    }
}

/// When it was retired and by whom, from the audit log; nothing for whoever may not read that.
fn retirement(client: &Client, machine: &Value) -> String {
    let id = text(machine, "/id");
    let query = [("subject", Some(id.as_str())), ("action", Some("machine.retired")), ("limit", Some("1"))];
    let log = client.get(&with_query("/audit", &query)).unwrap_or_default();
    match log.pointer("/items/0") {
        Some(entry) => format!("{} by {}", text(entry, "/at"), text(entry, "/who")),
        None => String::new(),
    }
}

fn change(connect: &Connect, machine: &str, body: Value) -> Result<(), CliError> {
    let machine = connect.client()?.patch(&path(machine), body)?;
    said(&machine);
    Ok(())
}

fn said(machine: &Value) {
    let labels = machine["labels"].as_object().cloned().unwrap_or_default();
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", text(value, ""))).collect();
    let name = text(machine, "/name");
    let line = [name, lifecycle(machine), labels.join(" ")].join("  ");
    print(&format!("{}\n", line.trim_end()));
}
