//! `muster machine disk replace`: another disk where one stood in what is desired of a machine.
//!
//! The document is the one that holds, with the new disk's name in place of the old one's wherever it stands: what is on its
//! partitions, members of arrays among them, follows by planning alone.

use clap::Args;
use serde_json::{Value, json};

use super::{carried_out, destroyed, permit, steps};
use crate::cli::command::machine::path;
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{print, text};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster machine disk replace kitchen serial:WD-OLD serial:WD-NEW --plan     shows what it would do
  muster machine disk replace kitchen serial:WD-OLD serial:WD-NEW
  muster machine disk replace kitchen serial:WD-OLD serial:WD-NEW --wipe-table --permit-destroy=serial:WD-NEW")]
pub struct Replace {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// The disk that goes, as the document names it: `muster machine desired` shows it
    old: String,
    /// The disk that takes its place, by its WWN or serial number as `muster machine show` has it
    new: String,
    /// Show the plan, and change nothing
    #[arg(long)]
    plan: bool,
    /// The new disk carries something that may go: it gets a new table
    #[arg(long)]
    wipe_table: bool,
    /// Permit what the plan destroys, or only what these disks carry
    #[arg(long, value_name = "DISK,…", num_args = 0..=1, require_equals = true, default_missing_value = "",
          value_delimiter = ',')]
    permit_destroy: Option<Vec<String>>,
    /// Do not ask before anything is destroyed; needed where nobody can be asked and no disk is named
    #[arg(short, long)]
    yes: bool,
    /// Do not wait until it is carried out
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Replace {
    pub(in crate::cli::command) fn run(self) -> Result<(), CliError> {
        let client = self.connect.client()?;
        let shown = client.get(&path(&self.machine))?;
        let machine = path(&text(&shown, "/id"));
        let disks = shown["inventory"]["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let known: Vec<String> = disks.iter().map(|disk| text(disk, "/id")).filter(|id| !id.is_empty()).collect();
        if !known.contains(&self.new) {
            let problem = format!("{} has no disk {}; it has {}", text(&shown, "/name"), self.new, known.join(", "));
            return Err(CliError::Failed(problem));
        }
        let desired = client.get(&format!("{machine}/desired"))?;
        let storage =
            replaced(&desired["document"], &self.old, &self.new, self.wipe_table).map_err(CliError::Failed)?;
        let document = format!("{:#}", json!({"storage": storage}));
        let plan = client.post(&format!("{machine}/plan"), json!({"document": document}))?;
        if self.plan {
            print(&steps(&plan));
            return Ok(());
        }
        eprint!("{}", steps(&plan));
        let mut body = json!({"document": document});
        match &self.permit_destroy {
            Some(disks) => {
                if let Some(permit) = permit(&plan, disks, self.yes)? {
                    body["permit"] = permit;
                }
            }
            None if destroyed(&plan).is_empty() => {}
            None => {
                let disks = destroyed(&plan).join(",");
                let problem = format!("the plan destroys what {disks} carry; permit it with --permit-destroy={disks}");
                return Err(CliError::Failed(format!("{problem}; nothing was changed")));
            }
        }
        // What somebody else desires of it meanwhile is not undone.
        let generation = format!("\"{}\"", text(&desired, "/generation"));
        let operation = client.post_to(&format!("{machine}/apply"), body, &[("if-match", &generation)])?;
        carried_out(&client, &machine, &operation, self.no_wait)
    }
}

/// The document's storage with another disk in the place of one.
///
/// Errors: why not, and what can be done.
fn replaced(document: &Value, old: &str, new: &str, wipe_table: bool) -> Result<Value, String> {
    let mut storage = document["storage"].clone();
    let disks = storage["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named: Vec<String> = disks.iter().map(|disk| text(disk, "/device")).filter(|name| !name.is_empty()).collect();
    if named.iter().any(|name| name == new) {
        return Err(format!("{new} is in the document already; nothing was changed"));
    }
    let Some(at) = disks.iter().position(|disk| text(disk, "/device") == old) else {
        let chosen = disks.iter().any(|disk| disk.get("match").is_some() || text(disk, "/device").starts_with("/dev/"));
        let chosen = if chosen {
            "; of those that go by a slot or a rule, put the new disk in and apply the document again"
        } else {
            ""
        };
        let named = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
        return Err(format!("the document names no disk {old}; it names {named}{chosen}"));
    };
    if wipe_table {
        storage["disks"][at]["wipe_table"] = true.into();
    }
    rename(&mut storage, old, new);
    Ok(storage)
}

/// The disk itself, and its partitions.
fn rename(value: &mut Value, old: &str, new: &str) {
    match value {
        Value::String(name) => {
            let is_part = |rest: &str| {
                let number = rest.strip_prefix("-part").unwrap_or_default();
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            };
            if let Some(rest) = name.strip_prefix(old).filter(|rest| rest.is_empty() || is_part(rest)) {
                *name = format!("{new}{rest}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, old, new)),
        Value::Object(fields) => fields.values_mut().for_each(|field| rename(field, old, new)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({"network": {}, "storage": {
            "disks": [
                {"device": "serial:A", "partitions": [{"number": 1, "label": "one"}]},
                {"device": "serial:A-part1x", "partitions": [{"number": 1, "label": "other"}]},
            ],
            "raid": [{"name": "data", "devices": ["serial:A-part1", "serial:B-part1"]}],
            "filesystems": [{"device": "serial:A-part12", "label": "serial:AB", "format": "ext4"}],
        }})
    }

    #[test]
    fn the_new_disk_stands_wherever_the_old_one_stood_and_nowhere_else() {
        let storage = replaced(&document(), "serial:A", "wwn:0x5", false).expect("replaced");
        let text = storage.to_string();
        assert_eq!(storage["disks"][0]["device"], "wwn:0x5");
        assert_eq!(storage["raid"][0]["devices"], json!(["wwn:0x5-part1", "serial:B-part1"]));
        assert_eq!(storage["filesystems"][0]["device"], "wwn:0x5-part12");
        assert!(text.contains("serial:A-part1x") && text.contains("serial:AB"), "others stay: {text}");
        assert!(!text.contains("wipe_table"));
        let storage = replaced(&document(), "serial:A", "wwn:0x5", true).expect("replaced");
        assert_eq!((&storage["disks"][0]["wipe_table"], storage["disks"][1].get("wipe_table")), (&json!(true), None));
    }

    #[test]
    fn a_disk_that_the_document_does_not_name_or_names_already_is_refused_with_what_to_do() {
        let error = replaced(&document(), "serial:C", "wwn:0x5", false).expect_err("not there");
        assert_eq!(error, "the document names no disk serial:C; it names serial:A, serial:A-part1x");
        let mut rule = document();
        rule["storage"]["disks"] = json!([{"match": {"count": 1}}]);
        let error = replaced(&rule, "serial:C", "wwn:0x5", false).expect_err("not there");
        assert!(error.contains("it names none; of those that go by a slot or a rule, put the new disk in"), "{error}");
        let error = replaced(&document(), "serial:A", "serial:A-part1x", false).expect_err("there already");
        assert!(error.contains("is in the document already"), "{error}");
        assert!(replaced(&json!({}), "serial:A", "serial:B", false).is_err());
    }
}
