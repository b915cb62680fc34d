//! The first exchange of every session: who is there, what it speaks, and where it stands.

use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::drift::OnDrift;
use crate::ids::{BootId, Digest, Generation};

/// Versions of the session protocol.
///
/// An agent offers every version it speaks, the controller takes the highest that both know.
/// A released version's bytes never change: growth is a new enum variant, sent only to peers of a version that has it.
/// `protocol/tests/wire/` freezes them.
pub mod version {
    /// The oldest version this build still speaks.
    pub const MIN: u16 = 1;
    /// The version this build prefers.
    pub const CURRENT: u16 = 1;
}

/// An agent's first words on a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Versions offered, at most 16.
    #[serde(deserialize_with = "at_most::<16, _, _>")]
    pub versions: Vec<u16>,
    /// This run of the agent.
    pub boot: BootId,
    /// The agent's own version, such as `0.1.0`.
    pub agent: String,
    /// Digest of the inventory as it is now; the inventory follows only when the controller asks for it.
    pub inventory: Digest,
    /// Where the agent stands with its configuration.
    pub progress: Progress,
}

/// The controller's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both will speak.
    pub version: u16,
    /// The controller's time in milliseconds since 1970 UTC.
    pub time_unix_ms: u64,
    /// Whether the machine may be configured yet.
    pub standing: Standing,
    /// Whether the controller lacks the inventory of the offered digest.
    pub inventory: InventoryWish,
    /// How the machine is called by its operators; shown on its console.
    pub name: String,
    /// What it does where somebody else changes its network.
    pub on_drift: OnDrift,
}

/// Whether the controller wants the inventory sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InventoryWish {
    /// It has this digest already.
    Known,
    /// Send it.
    Wanted,
}

/// Where a machine stands with its controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Not approved: inventory only. The code is shown on the console for whoever stands in front of it.
    Pending {
        /// Eight characters, such as `KX4M-7QPD`.
        claim: String,
        /// What the console asks for.
        awaits: Awaits,
    },
    /// Approved.
    Member,
}

/// What an operator has to say of a machine that is not approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaits {
    /// That it may come in.
    Approval,
    /// Which machine it is, before it can be approved.
    Resolution,
}

/// How far an agent is with its desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Nothing was ever applied in this boot.
    #[default]
    Idle,
    /// At work on this generation.
    Applying {
        /// Which one.
        generation: Generation,
        /// 0 to 100.
        percent: u8,
        /// The step at work, in words.
        step: String,
    },
    /// Applied, verified, and confirmed by an exchange with the controller over the new configuration.
    Confirmed {
        /// Which one.
        generation: Generation,
    },
    /// Refused before anything was changed.
    Refused {
        /// Which one.
        generation: Generation,
        /// For the operator, with the remedy.
        why: String,
    },
    /// Failed after changes were made, and undone: the state before it is in force again, and verified.
    Reverted {
        /// Which one failed.
        generation: Generation,
        /// Why, in one word.
        reason: Reason,
        /// Why, for the operator.
        why: String,
        /// How long it took.
        times: Times,
    },
    /// Failed, and could not be undone.
    RevertFailed {
        /// Which one failed.
        generation: Generation,
        /// Why it was to be undone, in one word.
        reason: Reason,
        /// For the operator: both causes, and what was done at last.
        why: String,
        /// How long it took.
        times: Times,
    },
}

/// Why a change was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// The kernel, or a program, would not do a step.
    StepFailed,
    /// A link that should carry it has no carrier.
    NoCarrier,
    /// No DHCP server gave a lease.
    NoLease,
    /// Another machine has one of the addresses.
    DuplicateAddress,
    /// The gateway does not answer.
    NoGateway,
    /// No route leads to the controller.
    NoRoute,
    /// The controller did not answer over the new network.
    ControllerSilent,
    /// What was read back is not what was desired.
    VerifyDiffers,
    /// The machine or its agent started anew in the middle, or another generation was desired before this one was proven.
    Interrupted,
}

/// How long the phases of a change took, in milliseconds; 0 where there was no such phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Storage, and what was made beside the present way to the controller.
    pub make_ms: u32,
    /// Until the controller had answered over the new way for long enough, the present one still being there.
    pub prove_beside_ms: u32,
    /// The rest of the steps.
    pub switch_ms: u32,
    /// Until what is read back was what is desired.
    pub verify_ms: u32,
    /// Until the controller had answered, or was given up.
    pub prove_ms: u32,
    /// Until all was as before.
    pub revert_ms: u32,
}

impl Progress {
    /// The generation this is about; `None` while idle.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::Idle => None,
            Self::Applying { generation, .. }
            | Self::Confirmed { generation }
            | Self::Refused { generation, .. }
            | Self::Reverted { generation, .. }
            | Self::RevertFailed { generation, .. } => Some(*generation),
        }
    }

    /// Whether the agent is done with that generation, for better or worse.
    pub fn is_settled(&self) -> bool {
        !matches!(self, Self::Idle | Self::Applying { .. })
    }
}
