//! `muster machine` and `muster power`.

use clap::{Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::client::{Client, encode};
use super::output::{Column, Output, bytes, table, text};
use super::{Failure, operation};

/// List, show, approve, reject, label, rename and retire machines
#[derive(Subcommand)]
pub(super) enum Machine {
    /// All machines
    List {
        /// Only these: pending, rejected, available, leased, cleaning or retired
        #[arg(long)]
        lifecycle: Option<String>,
        /// Only these: online or offline
        #[arg(long)]
        presence: Option<String>,
        /// Only those at this location
        #[arg(long)]
        location: Option<String>,
        /// Only those with this label: KEY or KEY=VALUE
        #[arg(long)]
        label: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// One machine with its inventory
    Show {
        /// Id, unique beginning of an id, or name
        machine: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let pending machines in
    Approve {
        /// Id, unique beginning of an id, or name
        #[arg(required = true)]
        machines: Vec<String>,
    },
    /// Keep a pending machine out
    Reject {
        /// Id, unique beginning of an id, or name
        machine: String,
    },
    /// Set labels, or remove them
    Label {
        /// Id, unique beginning of an id, or name
        machine: String,
        /// KEY=VALUE sets, KEY- removes
        #[arg(required = true, value_name = "KEY=VALUE | KEY-")]
        labels: Vec<String>,
    },
    /// Call a machine something else
    Rename {
        /// Id, unique beginning of an id, or name
        machine: String,
        /// 1 to 63 letters, digits, '-' or '.'
        name: String,
    },
    /// Leave a machine out of leases, or take it in again
    Maintenance {
        /// Id, unique beginning of an id, or name
        machine: String,
        /// On leaves it out
        wish: Switch,
    },
    /// Take a machine out of the fleet for good
    Retire {
        /// Id, unique beginning of an id, or name
        machine: String,
    },
    /// Make a ticket for an agent that is started as a process
    Ticket {
        /// Code of the location where the machine stands
        #[arg(long)]
        location: String,
        #[command(flatten)]
        output: Output,
    },
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    /// Left out of leases
    On,
    /// In use
    Off,
}

const COLUMNS: [Column; 7] = [
    ("NAME", |m| text(m, "name")),
    ("ID", |m| text(m, "id").chars().take(8).collect()),
    ("LOCATION", |m| text(m, "location")),
    ("LIFECYCLE", lifecycle),
    ("PRESENCE", |m| text(m, "presence.state")),
    ("CONFIGURATION", progress),
    ("ADDRESSES", |m| text(m, "addresses")),
];

fn lifecycle(machine: &Value) -> String {
    let word = text(machine, "lifecycle");
    let maintenance = machine.get("maintenance") == Some(&Value::Bool(true));
    if maintenance { format!("{word}, maintenance") } else { word }
}

fn progress(machine: &Value) -> String {
    match (text(machine, "progress.state").as_str(), text(machine, "progress.generation")) {
        ("idle", _) => "-".into(),
        ("applying", generation) => format!("applying {generation}, {} %", text(machine, "progress.percent")),
        (state, generation) => format!("{state} {generation}"),
    }
}

impl Machine {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::List { lifecycle, presence, location, label, output } => {
                let filters =
                    [("lifecycle", lifecycle), ("presence", presence), ("location", location), ("label", label)];
                let given =
                    filters.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_ref()?))));
                let query = given.collect::<Vec<_>>().join("&");
                let path = if query.is_empty() { "/machines".into() } else { format!("/machines?{query}") };
                output.list(client.list(&path)?, &COLUMNS);
                Ok(())
            }
            Self::Show { machine, output } => {
                output.one(&client.get(&path(&machine))?, show);
                Ok(())
            }
            Self::Approve { machines } => {
                machines.iter().try_for_each(|machine| decide(client, machine, "approve", "approved"))
            }
            Self::Reject { machine } => decide(client, &machine, "reject", "rejected"),
            Self::Retire { machine } => decide(client, &machine, "retire", "retired"),
            Self::Label { machine, labels } => {
                let labels = labels.iter().map(|text| label(text)).collect::<Result<Map<_, _>, _>>()?;
                let machine = client.patch(&path(&machine), json!({ "labels": labels }))?;
                println!("{}: {}", text(&machine, "name"), machine["labels"]);
                Ok(())
            }
            Self::Rename { machine, name } => {
                client.patch(&path(&machine), json!({ "name": name }))?;
                println!("{machine} is called {name}");
                Ok(())
            }
            Self::Maintenance { machine, wish } => {
                let machine = client.patch(&path(&machine), json!({ "maintenance": wish == Switch::On }))?;
                println!("{} is {}", text(&machine, "name"), lifecycle(&machine));
                Ok(())
            }
            Self::Ticket { location, output } => {
                output.one(&client.post("/tickets", json!({ "location": location }))?, |ticket| {
                    let controllers = text(ticket, "controllers").replace(' ', ",");
                    let (ca, secret) = (text(ticket, "ca"), text(ticket, "ticket"));
                    format!("muster-agent --controller {controllers} --ca {ca} --ticket {secret}")
                });
                Ok(())
            }
        }
    }
}

fn path(machine: &str) -> String {
    format!("/machines/{}", encode(machine))
}

fn decide(client: &Client, machine: &str, verb: &str, done: &str) -> Result<(), Failure> {
    let machine = client.post(&format!("{}/{verb}", path(machine)), json!({}))?;
    println!("{} is {done}", text(&machine, "name"));
    Ok(())
}

fn label(text: &str) -> Result<(String, Value), Failure> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) => Ok((key.to_owned(), value.into())),
        (None, Some(key)) => Ok((key.to_owned(), Value::Null)),
        (None, None) => {
            Err(Failure::Usage(format!("{text:?} is no label: write KEY=VALUE to set it, KEY- to remove it")))
        }
    }
}

/// Everything of one machine, a block for each part.
fn show(machine: &Value) -> String {
    const DISKS: [Column; 7] = [
        ("DISK", |d| text(d, "name")),
        ("SIZE", |d| bytes(d["size_bytes"].as_u64().unwrap_or_default())),
        ("KIND", |d| format!("{}{}", text(d, "transport"), if d["rotational"] == true { ", rotational" } else { "" })),
        ("SECTORS", |d| format!("{}/{}", text(d, "logical_sector"), text(d, "physical_sector"))),
        ("MODEL", |d| text(d, "model")),
        ("SERIAL", |d| text(d, "serial")),
        ("WWN", |d| text(d, "wwn")),
    ];
    const NICS: [Column; 7] = [
        ("NIC", |n| text(n, "name")),
        ("MAC", |n| text(n, "mac")),
        ("PERMANENT", |n| text(n, "permanent_mac")),
        ("DRIVER", |n| text(n, "driver")),
        ("PCI", |n| text(n, "pci")),
        ("SPEED", speed),
        ("ADDRESSES", |n| text(n, "addresses")),
    ];
    const DIMMS: [Column; 6] = [
        ("DIMM", |d| text(d, "slot")),
        ("SIZE", |d| bytes(d["size_bytes"].as_u64().unwrap_or_default())),
        ("KIND", |d| text(d, "kind")),
        ("MT/S", |d| text(d, "speed_mts")),
        ("VENDOR", |d| text(d, "vendor")),
        ("PART", |d| text(d, "part")),
    ];
    let get = |path: &str| text(machine, path);
    let mut lines = vec![
        ("name", get("name")),
        ("id", get("id")),
        ("location", get("location")),
        ("lifecycle", lifecycle(machine)),
        (
            "presence",
            format!("{} since {}, boot {}", get("presence.state"), get("presence.since"), get("presence.boot")),
        ),
        ("configuration", progress(machine)),
        ("labels", get("labels")),
    ];
    let mut optional = |name, path: &str| {
        let value = text(machine, path);
        if value != "-" {
            lines.push((name, value));
        }
    };
    optional("why", "progress.why");
    optional("claim code", "claim");
    optional("lease", "lease");
    if machine.get("inventory").is_some_and(Value::is_object) {
        let inventory = |path: &str| text(machine, &format!("inventory.{path}"));
        let memory = machine.pointer("/inventory/memory/total_bytes").and_then(Value::as_u64).unwrap_or_default();
        lines.extend([
            (
                "system",
                format!(
                    "{} {}, serial {}",
                    inventory("system.vendor"),
                    inventory("system.product"),
                    inventory("system.serial")
                ),
            ),
            ("uuid", inventory("system.uuid")),
            (
                "firmware",
                format!(
                    "{}, {} {} {}",
                    inventory("firmware.kind"),
                    inventory("firmware.vendor"),
                    inventory("firmware.version"),
                    inventory("firmware.date")
                ),
            ),
            (
                "cpu",
                format!(
                    "{}, {} socket(s), {} core(s), {} thread(s)",
                    inventory("cpu.model"),
                    inventory("cpu.sockets"),
                    inventory("cpu.cores"),
                    inventory("cpu.threads")
                ),
            ),
            ("cpu flags", inventory("cpu.flags")),
            ("memory", bytes(memory)),
            ("software", format!("kernel {}, agent {}", inventory("kernel"), inventory("agent"))),
        ]);
    }
    let mut out: String = lines.into_iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect();
    for (part, columns) in [("memory/dimms", &DIMMS[..]), ("disks", &DISKS[..]), ("nics", &NICS[..])] {
        let items = machine.pointer(&format!("/inventory/{part}")).and_then(Value::as_array);
        if let Some(items) = items.filter(|items| !items.is_empty()) {
            out.push('\n');
            out.push_str(&table(items, columns));
        }
    }
    out
}

fn speed(nic: &Value) -> String {
    match (nic["carrier"].as_bool(), nic["speed_mbps"].as_u64()) {
        (Some(true), Some(speed)) => format!("{speed} Mbit/s"),
        (Some(true), None) => "up".into(),
        _ => "no carrier".into(),
    }
}

/// Reboot machines, or switch them off
#[derive(Subcommand)]
pub(super) enum Power {
    /// Switch a machine on; refused where nothing can
    On(Which),
    /// Switch a machine off
    Off(Which),
    /// Start a machine anew, through its firmware
    Reboot(Which),
    /// Off, and on again; refused where nothing can switch it on
    Cycle(Which),
}

/// Which machine, and whether to wait for it.
#[derive(clap::Args)]
pub(super) struct Which {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// Do not wait for the machine
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

impl Power {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        let (action, which) = match self {
            Self::On(which) => ("on", which),
            Self::Off(which) => ("off", which),
            Self::Reboot(which) => ("reboot", which),
            Self::Cycle(which) => ("cycle", which),
        };
        let operation = client.post(&format!("{}/power", path(&which.machine)), json!({ "action": action }))?;
        operation::follow(client, operation, which.no_wait, &which.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        assert_eq!(label("rack=3").expect("a label"), ("rack".to_owned(), json!("3")));
        assert_eq!(label("rack-").expect("a label"), ("rack".to_owned(), Value::Null));
        assert!(label("rack").is_err());
    }

    #[test]
    fn a_machine_without_inventory_can_be_shown() {
        let shown = show(&json!({"name": "kitchen", "lifecycle": "pending", "claim": "KX4M-7QPD"}));
        assert!(shown.contains("claim code     KX4M-7QPD"), "{shown}");
    }
}
