//! What is stored of operations.

use muster_protocol::to_agent::{PowerAction, WipeLevel};
use muster_protocol::{BootId, DiskId, Generation, MachineId, OperationId};
use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use crate::fleet::machine::controls::Switch;

/// A durable piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its name.
    pub id: OperationId,
    /// On which machine.
    pub machine: MachineId,
    /// What is to be done.
    pub kind: OperationKind,
    /// How far it is.
    pub state: OperationState,
    /// 0 to 100.
    pub percent: u8,
    /// What happened so far, oldest first, at most 64.
    pub steps: Vec<OperationStep>,
    /// What proves that it was done, in words; empty before.
    pub receipt: String,
    /// How the machine came out of it; `None` until it has, and where it changed nothing.
    pub outcome: Option<Outcome>,
    /// Who asked.
    pub who: String,
    /// When it was asked for.
    pub created_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// When it fails if it has not begun by then.
    pub begin_by_unix_ms: Option<u64>,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationKind {
    /// Bring the machine to a generation.
    Apply {
        /// Which one.
        generation: Generation,
    },
    /// Reboot or power off.
    Power {
        /// Which of them.
        action: PowerAction,
        /// The boot that is to end.
        boot: BootId,
    },
    /// Destroy what disks carry.
    Wipe {
        /// Which disks.
        disks: Vec<DiskId>,
        /// How thoroughly.
        level: WipeLevel,
    },
    /// Bring a leased machine to its first generation.
    Provision {
        /// Which one.
        generation: Generation,
        /// The lease.
        lease: String,
    },
    /// Wipe all disks, reboot into a clean agent, give back the addresses.
    Decommission {
        /// The lease that ends.
        lease: String,
        /// The disks to wipe.
        disks: Vec<DiskId>,
        /// How thoroughly, as the location said when the lease ended.
        level: WipeLevel,
        /// How far it is.
        stage: Decommission,
    },
    /// Switch the machine from outside, by what was named for that.
    Switch {
        /// What is to be done.
        action: Switch,
        /// How often it was tried.
        tries: u8,
        /// How far it is.
        stage: Switching,
    },
}

/// Stages of a try to switch a machine from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Switching {
    /// The next try begins at this time.
    Waiting {
        /// Milliseconds since 1970 UTC.
        until_unix_ms: u64,
    },
    /// Somebody is being told; what comes of it nobody knows yet.
    Telling,
}

/// Stages of a decommission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decommission {
    /// Disks lose what they carry.
    Wipe,
    /// The machine starts anew; ends when another boot says hello.
    Reboot {
        /// The boot that is to end.
        boot: BootId,
    },
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationState {
    /// Nobody has begun.
    Queued,
    /// The machine has taken it on.
    Running,
    /// Done.
    Succeeded,
    /// Given up.
    Failed {
        /// For the operator.
        why: String,
    },
    /// Taken back by an operator before it began.
    Cancelled,
}

impl OperationState {
    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed { .. } | Self::Cancelled => true,
        }
    }
}

/// One thing that happened in an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStep {
    /// When.
    pub at_unix_ms: u64,
    /// In words.
    pub text: String,
}
