//! From desired and observed to steps, without touching anything.
//!
//! [`network`] and [`storage`] each plan their half; [`Plan`] is both, in the order in which they are applied.
//! A revert is a plan too.

pub mod network;
pub mod storage;

use std::net::IpAddr;

use muster_protocol::desired::{Checked, Desired, Permit};
use muster_protocol::observed::Observed;
use muster_protocol::to_agent::{self, Impact};
use muster_protocol::tools::Pinned;
use muster_protocol::{BootId, Digest, DiskId};
use serde::Serialize;

/// A desired state that does not fit this machine: no such NIC, no such disk, no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Impossible {
    /// Where in the normalized document: `network.ethernets.lan.match`.
    pub field: String,
    /// What does not fit, and what the machine has instead.
    pub problem: String,
}

/// Where the programs are that some storage steps run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tools {
    /// Here, or nowhere: they were fetched in this boot, or a system of the machine's own has them.
    Here,
    /// At the controller.
    Away {
        /// Which ones belong to what this machine booted.
        pinned: Pinned,
        /// Bytes of memory that are free for them.
        free_bytes: u64,
    },
}

/// What programs need beside their own image, in bytes: their working memory, and what of the image is unpacked meanwhile.
pub const TOOLS_NEED: u64 = 32 << 20;

/// Everything that has to be done, storage before network.
///
/// Storage goes first because it is told over a way that is known to be good, because a failed step then leaves the
/// network untouched, and because the seconds between the change of the network and its proof are spent on nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Before all, where storage steps run programs that are not here: which are fetched.
    pub tools: Option<Pinned>,
    /// First.
    pub storage: Vec<storage::Step>,
    /// Then.
    pub network: Vec<network::Step>,
    /// What people see of it, with the digest that a permit names.
    pub shown: to_agent::Plan,
}

/// What makes a permit good once: no other machine and no other boot has the same, and using one makes it another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Occasion {
    /// The run of the machine in which the plan is made.
    pub boot: BootId,
    /// How many permits were used in it.
    pub permits_used: u32,
}

/// Plans `desired` for a machine that is as `observed`.
///
/// Errors: the first thing that does not fit.
pub fn plan(
    desired: &Checked<Desired>,
    occasion: Occasion,
    past: &network::Past,
    observed: &Observed,
    tools: &Tools,
    controllers: &[IpAddr],
) -> Result<Plan, Impossible> {
    let desired = desired.get();
    let storage = desired.storage.as_ref().map_or(Ok(Vec::new()), |want| storage::plan_all(want, observed))?;
    let tools = fetched(&storage, tools)?;
    let network = |want| network::plan(want, past, &observed.network, controllers);
    let network = desired.network.as_ref().map_or(Ok(Vec::new()), network)?;
    let mut steps: Vec<to_agent::Step> = (storage.iter().map(|step| storage::describe(step, &observed.disks)))
        .chain(network.iter().map(network::Step::describe))
        .collect();
    // Equal words over other contents are another plan: a permit must not outlive what it was given for.
    let touched: Vec<_> = observed
        .disks
        .iter()
        .filter(|disk| storage.iter().any(|step| step.is_of(disk)))
        .map(|disk| (disk.id(), storage::Before::of(disk)))
        .collect();
    // Fetching is left out: it destroys nothing, and a plan that went on after it is the same one.
    let occasion = storage.iter().any(storage::Step::is_destructive).then_some(occasion);
    let digest = Digest::of_value(&(&steps, touched, occasion));
    if let Some(Pinned { bytes, .. }) = &tools {
        let action = format!("fetch the storage tools from the controller, {} in memory", storage::size(*bytes));
        steps.insert(0, to_agent::Step { action, impact: Impact::None });
    }
    let notices = |want| storage::notices(want, &observed.disks, &observed.layers);
    let notices = desired.storage.as_ref().map(notices).unwrap_or_default();
    Ok(Plan { tools, storage, network, shown: to_agent::Plan { steps, notices, digest } })
}

/// Which tools these steps need that are not here.
///
/// Errors: there is no room for them.
fn fetched(storage: &[storage::Step], tools: &Tools) -> Result<Option<Pinned>, Impossible> {
    let Tools::Away { pinned, free_bytes } = tools else { return Ok(None) };
    if !storage.iter().any(storage::Step::needs_tools) {
        return Ok(None);
    }
    let needed = pinned.bytes.saturating_add(TOOLS_NEED);
    if *free_bytes < needed {
        let (free, needed) = (storage::size(*free_bytes), storage::size(needed));
        let problem = format!(
            "the storage tools need {needed} of memory, and {free} are free; give the machine more, or reboot it where \
             something else has taken it"
        );
        return Err(Impossible { field: "storage".into(), problem });
    }
    Ok(Some(*pinned))
}

/// What is not as desired, in words; empty where everything is.
pub fn differences(desired: &Checked<Desired>, past: &network::Past, observed: &Observed) -> Vec<String> {
    let desired = desired.get();
    let storage = desired.storage.iter().flat_map(|want| storage::differences(want, observed));
    let network = desired.network.iter().flat_map(|want| network::differences(want, past, &observed.network));
    storage.chain(network).collect()
}

impl Plan {
    /// Where in what people see the first storage step stands.
    pub fn first_of_storage(&self) -> usize {
        usize::from(self.tools.is_some())
    }

    /// Where in what people see the first step of the network stands.
    pub fn first_of_network(&self) -> usize {
        self.first_of_storage() + self.storage.len()
    }

    /// The disks that lose what they carry, each once.
    pub fn destroys(&self) -> Vec<DiskId> {
        let mut disks = Vec::new();
        for step in &self.shown.steps {
            let Impact::Destroys(lost) = &step.impact else { continue };
            for disk in lost {
                if !disks.contains(disk) {
                    disks.push(disk.clone());
                }
            }
        }
        disks
    }

    /// Whether it may be carried out: it destroys nothing, or the permit names this very plan and every disk.
    pub fn is_permitted(&self, permit: Option<&Permit>) -> bool {
        let disks = self.destroys();
        disks.is_empty()
            || permit.is_some_and(|p| p.plan == self.shown.digest && disks.iter().all(|d| p.disks.contains(d)))
    }
}
