//! `storage.images:` into [`Image`]s: which disk gets which operating system, and what that is told.
//!
//! Butane has no word for it. The disk is chosen as under `disks`, and the seed has the names of the files that cloud-init's
//! NoCloud source reads; `hostname` and `ssh_authorized_keys` (Butane's word) are what `meta-data` is made of where it is not given.

use muster_protocol::Digest;
use muster_protocol::desired::{Boot, DiskSelect, Image, Seed, Table};
use serde_json::{Map, json};

use super::disks;
use super::reader::{Fields, Findings, Keys};
use super::yaml::{Node, Value};

const IMAGE: Keys = Keys {
    supported: &["device", "match", "sha256", "wipe_table", "seed", "boot"],
    known: &["source", "url", "sha512"],
};
const SEED: Keys = Keys {
    supported: &["hostname", "ssh_authorized_keys", "meta_data", "user_data", "network_config"],
    known: &["vendor_data"],
};

/// Reads the value of `images:`.
pub(super) fn read(storage: &Fields<'_>, findings: &mut Findings) -> Vec<Image> {
    let items = findings.items(storage, "images");
    items.into_iter().filter_map(|(at, node)| image(node, &at, findings)).collect()
}

fn image(node: &Node, at: &str, findings: &mut Findings) -> Option<Image> {
    let fields = findings.fields(node, at, &IMAGE)?;
    let select = disks::select(&fields, findings);
    let expected = "the SHA-256 of the image's file, as muster disk-image list shows it";
    findings.require(&fields, "sha256", expected);
    let digest = findings.parsed::<Digest>(&fields, "sha256", expected);
    let table = match findings.boolean(&fields, "wipe_table") {
        Some(true) => Table::Replace,
        Some(false) | None => Table::Keep,
    };
    let seed = match fields.get("seed") {
        Some(node) => Some(seed(node, &fields.path("seed"), findings)?),
        None => None,
    };
    let boot = match findings.boolean(&fields, "boot") {
        Some(true) => Boot::Disk,
        Some(false) | None => Boot::Agent,
    };
    let (select, digest) = (select?, digest?);
    // The names under which the check and machines speak of it.
    match &select {
        DiskSelect::Id(id) => findings.note_as(format!("storage.images.{id}"), at),
        DiskSelect::Path(path) => findings.note_as(format!("storage.images.path:{path}"), at),
        DiskSelect::Rule(_) => {}
    }
    Some(Image { select, digest, table, seed, boot })
}

fn seed(node: &Node, at: &str, findings: &mut Findings) -> Option<Seed> {
    let fields = findings.fields(node, at, &SEED)?;
    let hostname = findings.text(&fields, "hostname");
    let keys: Vec<&str> = {
        let items = findings.items(&fields, "ssh_authorized_keys");
        let text = |(path, node): (String, _)| findings.item_text(node, &path, "an SSH public key in one line");
        items.into_iter().filter_map(text).collect()
    };
    let user_data = lines(&fields, "user_data", findings).unwrap_or_default();
    let network_config = lines(&fields, "network_config", findings).unwrap_or_default();
    let meta_data = match (fields.get("meta_data"), hostname) {
        (None, _) => meta_data(hostname, &keys, &user_data, &network_config),
        (Some(_), None) if keys.is_empty() => lines(&fields, "meta_data", findings)?,
        (Some(node), _) => {
            let problem = "it holds host name and keys itself; leave hostname and ssh_authorized_keys out, or this";
            findings.add(node.place, fields.path("meta_data"), problem);
            return None;
        }
    };
    Some(Seed { meta_data, user_data, network_config })
}

/// A text of several lines.
fn lines(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<String> {
    let node = fields.get(key)?;
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    match &node.value {
        Value::Text(text) if text.chars().all(is_plain) => return Some(text.clone()),
        Value::Text(_) => findings.add(node.place, fields.path(key), "it has control characters"),
        _ => findings.wrong(node, &fields.path(key), "a text of lines, after a |"),
    }
    None
}

/// What cloud-init calls the instance by is another one for another seed: its first boot is done again then.
/// JSON is YAML, and needs no quoting of its own.
fn meta_data(hostname: Option<&str>, keys: &[&str], user_data: &str, network_config: &str) -> String {
    let digest = Digest::of_value(&(hostname, keys, user_data, network_config)).to_string();
    let mut out = Map::new();
    out.insert("instance-id".into(), json!(format!("muster-{}", &digest[..16])));
    if let Some(hostname) = hostname {
        out.insert("local-hostname".into(), json!(hostname));
    }
    if !keys.is_empty() {
        out.insert("public-keys".into(), json!(keys));
    }
    let mut text = serde_json::Value::Object(out).to_string();
    text.push('\n');
    text
}
