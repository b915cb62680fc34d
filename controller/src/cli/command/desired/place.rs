//! The line of a document that a machine speaks of: a machine refuses a field, and has not seen the file.

use serde_json::Value;

use crate::cli::error::CliError;
use crate::documents::Places;

/// A file, and where its fields stand.
pub struct Placed {
    file: String,
    places: Option<Places>,
}

impl Placed {
    /// A document for one machine.
    pub fn document(file: &str, text: &str) -> Self {
        Self { file: file.to_owned(), places: Places::of(text) }
    }

    /// A template for several.
    pub fn template(file: &str, text: &str) -> Self {
        Self { file: file.to_owned(), places: Places::of_template(text) }
    }

    /// A refusal with file and line behind each field that it names, where they are known.
    pub fn error(&self, error: CliError) -> CliError {
        match error {
            CliError::Refused { code, detail } if matches!(code.as_str(), "machine-refused" | "invalid") => {
                CliError::Refused { detail: self.said(&detail), code }
            }
            CliError::Failed(why) => CliError::Failed(self.said(&why)),
            other => other,
        }
    }

    /// The same for those of several machines, one plan each.
    pub fn plans(&self, mut plans: Value) -> Value {
        for item in plans["items"].as_array_mut().into_iter().flatten() {
            let told = item["problem"].as_str().map(|problem| self.said(problem));
            if let Some(told) = told {
                item["problem"] = told.into();
            }
        }
        plans
    }

    fn said(&self, text: &str) -> String {
        // A field is a word that ends with a colon; what a machine says of it comes after.
        let Some((start, end)) = field(text) else { return text.to_owned() };
        match self.places.as_ref().and_then(|places| places.line(&text[start..end])) {
            Some(line) => format!("{} ({}:{line}){}", &text[..end], self.file, &text[end..]),
            None => text.to_owned(),
        }
    }
}

/// Where in a text the first field of a document is named.
fn field(text: &str) -> Option<(usize, usize)> {
    let begins = |(at, _): &(usize, &str)| *at == 0 || text[..*at].ends_with(' ');
    let network = text.match_indices("network.").find(begins);
    let storage = text.match_indices("storage.").find(begins);
    let (start, _) = network.into_iter().chain(storage).min()?;
    let length = text[start..].find(": ")?;
    let is_path = !text[start..start + length].contains(char::is_whitespace);
    is_path.then_some((start, start + length))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "network:\n  ethernets:\n    eth7:\n      mtu: 9000\nstorage:\n  disks:\n  - device: serial:A\n";

    #[test]
    fn what_a_machine_refuses_is_named_with_file_and_line() {
        let placed = Placed::document("a b.yaml", TEXT);
        for (said, expected) in [
            ("network.ethernets.eth7: no NIC", "network.ethernets.eth7 (a b.yaml:3): no NIC"),
            (
                "apply generation 7: refused: network.ethernets.eth7.mtu: too large",
                "apply generation 7: refused: network.ethernets.eth7.mtu (a b.yaml:4): too large",
            ),
            ("storage.disks.serial:A: no such disk", "storage.disks.serial:A (a b.yaml:7): no such disk"),
            ("network.ethernets.eth8: no NIC", "network.ethernets.eth8: no NIC"),
            ("the machine is busy: network", "the machine is busy: network"),
            ("the network. It: is", "the network. It: is"),
            ("", ""),
        ] {
            let error = CliError::Refused { code: "machine-refused".into(), detail: said.into() };
            assert_eq!(placed.error(error).to_string(), expected);
        }
        let other = CliError::Refused { code: "conflict".into(), detail: "network.ethernets.eth7: no".into() };
        assert_eq!(placed.error(other).to_string(), "network.ethernets.eth7: no");
    }

    #[test]
    fn each_machine_of_a_template_is_told_of_with_its_line() {
        let placed = Placed::template("t.yaml", "network: {ethernets: {\n  {{ labels.nic }}: {},\n  eth1: {}}}\n");
        let plans = json!({"items": [
            {"name": "a", "plan": {"steps": []}},
            {"name": "b", "problem": "it refuses: network.ethernets.eth1: no NIC"},
            {"name": "c", "problem": "it refuses: network.ethernets.eth0: no NIC"},
        ]});
        let told = placed.plans(plans);
        assert_eq!(told["items"][1]["problem"], "it refuses: network.ethernets.eth1 (t.yaml:3): no NIC");
        assert_eq!(told["items"][2]["problem"], "it refuses: network.ethernets.eth0: no NIC");
        assert!(told["items"][0].get("problem").is_none());
    }
}
