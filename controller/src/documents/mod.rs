//! The texts in which operators say what a machine should be: netplan for the network, Butane for storage.
//!
//! The operator API and the command line call [`parse`]; what comes out is the protocol's [`Desired`], checked.
//! Whether a machine has such a NIC or disk is not decided here: the agent's plan finds out.
//!
//! One file may hold `network:` (netplan, version 2), `storage:` (Butane, or Ignition's JSON of it), or both.
//! What differs from those two systems, and why:
//!
//! | words | here |
//! | --- | --- |
//! | `renderer: networkd` or `NetworkManager` | read and ignored: the agent is the renderer |
//! | `optional` | read and ignored: an agent waits for no link at boot |
//! | `gateway4`, `gateway6` | netplan deprecates them; they become default routes |
//! | keys at what happens anyway, such as `link-local: [ipv6]`, `dhcp-identifier: mac`, a route's `scope: global` | accepted |
//! | `dhcp6-overrides` with what DHCPv6 has none of | accepted where `dhcp4-overrides` says the same, as netplan wants it |
//! | `hostname`, `ntp`, a link's `neighbors` | Muster's own: netplan has no word for them |
//! | `disks[].device` | only names that say which disk or which slot it is, see `device.rs` |
//! | `disks[].match` | Muster's own: disks by what they are, see `disks.rs` |
//! | `path` | where the filesystem is mounted; `with_mount_unit: false` beside it leaves it unmounted |
//! | `raid`, `luks` | Butane's, and `wipe_volume` for arrays too; a key in the document is refused, see `stack.rs` |
//! | `volume_groups` | Muster's own: Butane has no word for LVM |
//! | `storage.mounts` | Muster's own: Butane has no word for tmpfs and bind mounts, see `mounts.rs` |
//! | `storage.images` | Muster's own: an operating system on a disk, with cloud-init's words for its seed, see `images.rs` |
//! | any other key | refused by name with its line, never ignored |

mod device;
mod disks;
mod images;
mod limits;
mod mounts;
mod network;
mod places;
mod reader;
mod render;
mod stack;
mod storage;
pub(crate) mod words;
mod yaml;

use std::fmt;

use muster_protocol::desired::{Checked, Desired, check};

pub use places::Places;
use reader::{Findings, Keys};
use yaml::Place;

use crate::words::plain;
pub use render::{render, render_network, render_storage};

/// The largest text that is read, in bytes.
pub const TEXT_LIMIT: usize = 256 * 1024;

/// One thing that is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentProblem {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// Where, as a path of keys: `network.vlans.office.id`. Empty where the text is not YAML at all.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Characters of a field in a refusal: deep in a document, with long names.
const FIELD_LIMIT: usize = 240;
/// Characters of a word in what is said of it: a name that somebody chose.
const WORD_LIMIT: usize = 120;
/// Characters of all that is said of it.
pub(crate) const PROBLEM_LIMIT: usize = 900;

impl DocumentProblem {
    /// A document's texts in it are cut, and made visible: people read it on a terminal.
    fn new(place: Place, field: &str, problem: &str) -> Self {
        let words: Vec<String> = problem.split(' ').map(|word| plain(word, WORD_LIMIT)).collect();
        let (field, problem) = (plain(field, FIELD_LIMIT), plain(&words.join(" "), PROBLEM_LIMIT));
        Self { line: place.line, column: place.column, field, problem }
    }
}

impl fmt::Display for DocumentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for DocumentProblem {}

/// Butane's and Ignition's header keys say nothing about a machine; the rest configures an operating system.
const TOP: Keys = Keys {
    supported: &["network", "storage", "variant", "version", "ignition"],
    known: &["passwd", "systemd", "kernel_arguments", "boot_device", "metadata", "grub", "openshift"],
};
const IGNITION: Keys = Keys { supported: &["version"], known: &["config", "security", "timeouts", "proxy"] };

/// Reads a netplan or Butane text, or both in one, in YAML or JSON.
///
/// Errors: everything that is wrong, in the order of the text; never empty.
pub fn parse(text: &str) -> Result<Checked<Desired>, Vec<DocumentProblem>> {
    let root = yaml::read(text)?;
    let mut findings = Findings::default();
    let desired = read(&root, &mut findings);
    findings.finish(|findings| match check(desired) {
        Ok(checked) => Some(checked),
        Err(problems) => {
            for problem in problems {
                findings.add_at_field(&problem.field, problem.problem);
            }
            None
        }
    })
}

/// What a tree means as far as it can be read; what is wrong with it is in `findings`.
fn read(root: &yaml::Node, findings: &mut Findings) -> Desired {
    let mut desired = Desired::default();
    if let Some(top) = findings.fields(root, "", &TOP) {
        if let Some(node) = top.get("network") {
            desired.network = network::read(node, findings);
        }
        if let Some(node) = top.get("storage") {
            desired.storage = storage::read(node, findings);
        }
        if let Some(node) = top.get("ignition")
            && let Some(ignition) = findings.fields(node, "ignition", &IGNITION)
        {
            findings.text(&ignition, "version");
        }
        findings.text(&top, "variant");
        findings.text(&top, "version");
        if top.get("network").is_none() && top.get("storage").is_none() && findings.is_clean() {
            findings.add(root.place, "", "nothing is described here; give network: (netplan) or storage: (Butane)");
        }
    }
    desired
}
