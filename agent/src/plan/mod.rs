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

/// Everything that has to be done, storage before network.
///
/// Storage goes first because it is told over a way that is known to be good, because a failed step then leaves the
/// network untouched, and because the seconds between the change of the network and its proof are spent on nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
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
    controllers: &[IpAddr],
) -> Result<Plan, Impossible> {
    let desired = desired.get();
    let storage = desired.storage.as_ref().map_or(Ok(Vec::new()), |want| storage::plan_all(want, observed))?;
    let network = |want| network::plan(want, past, &observed.network, controllers);
    let network = desired.network.as_ref().map_or(Ok(Vec::new()), network)?;
    let steps: Vec<to_agent::Step> = (storage.iter().map(|step| storage::describe(step, &observed.disks)))
        .chain(network.iter().map(network::Step::describe))
        .collect();
    // Equal words over other contents are another plan: a permit must not outlive what it was given for.
    let touched: Vec<_> = observed
        .disks
        .iter()
        .filter(|disk| storage.iter().any(|step| step.is_of(disk)))
        .map(|disk| (disk.id(), storage::Before::of(disk)))
        .collect();
    let occasion = storage.iter().any(storage::Step::is_destructive).then_some(occasion);
    let digest = Digest::of_value(&(&steps, touched, occasion));
    Ok(Plan { storage, network, shown: to_agent::Plan { steps, digest } })
}

/// What is not as desired, in words; empty where everything is.
pub fn differences(desired: &Checked<Desired>, past: &network::Past, observed: &Observed) -> Vec<String> {
    let desired = desired.get();
    let storage = desired.storage.iter().flat_map(|want| storage::differences(want, observed));
    let network = desired.network.iter().flat_map(|want| network::differences(want, past, &observed.network));
    storage.chain(network).collect()
}

impl Plan {
    /// The disks that lose what they carry, each once.
    pub fn destroys(&self) -> Vec<DiskId> {
        let mut disks = Vec::new();
        for step in &self.shown.steps {
            if let Impact::Destroys(disk) = &step.impact
                && !disks.contains(disk)
            {
                disks.push(disk.clone());
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
