//! What is stored of a rollout: itself, and each of its machines apart, so that no record grows with the fleet.
//!
//! Frozen once released: see `Stored` in [`crate::fleet::state`].

use muster_protocol::desired::Desired;
use muster_protocol::{Digest, Generation, MachineId};
use serde::{Deserialize, Serialize};

use crate::fleet::state::{State, StoredKey};

/// One template on its way over many machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its name; each has the number after the one before.
    pub number: u64,
    /// Which machines were selected, in words.
    pub selector: String,
    /// SHA-256 of the template.
    pub template: Digest,
    /// How it goes on.
    pub pace: Pace,
    /// Who asked.
    pub who: String,
    /// When it was asked for.
    pub created_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// How many machines it has.
    pub machines: u32,
    /// How far it is.
    pub state: RolloutState,
    /// The wave that is under way, 0 for the canary's.
    pub wave: u32,
    /// Machines of this wave that are still to be given their desired states.
    pub left: u32,
}

/// How a rollout goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Machines of the first wave.
    pub canary: u32,
    /// Machines of each wave after it.
    pub wave: WaveSize,
    /// How long the machines of a wave must have been in contact before the next one begins.
    pub soak_ms: u64,
    /// Machines that may fail, those of the first wave excepted.
    pub max_failures: u32,
}

/// How many machines a wave has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaveSize {
    /// So many.
    Machines(u32),
    /// So many of a hundred of the rollout's, and one at least.
    Percent(u8),
}

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutState {
    /// Its machines are being written; nobody was told of it.
    Preparing,
    /// One wave comes after the other.
    Running,
    /// An operator holds it.
    Paused,
    /// Too many machines failed.
    Stopped {
        /// Which, and why.
        why: String,
    },
    /// Every machine had its turn.
    Finished,
    /// An operator ended it.
    Cancelled,
}

impl RolloutState {
    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Preparing | Self::Running | Self::Paused => false,
            Self::Stopped { .. } | Self::Finished | Self::Cancelled => true,
        }
    }

    /// As the API and the audit log write it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped { .. } => "stopped",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where a machine stands in a rollout; members are in the order of their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberKey {
    /// The rollout's number.
    pub rollout: u64,
    /// Counted from 1.
    pub place: u32,
}

impl StoredKey for MemberKey {
    fn bytes(&self) -> Vec<u8> {
        [&self.rollout.to_be_bytes()[..], &self.place.to_be_bytes()].concat()
    }
    fn text(&self) -> Vec<u8> {
        format!("{}.{}", self.rollout, self.place).into_bytes()
    }
}

/// One machine of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it stands.
    pub key: MemberKey,
    /// Which machine.
    pub machine: MachineId,
    /// How far it is.
    pub state: MemberState,
}

/// How far a machine of a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It has not had its turn.
    Waiting {
        /// What it will be given.
        desired: Box<Desired>,
        /// The generation that it had to reach when the rollout was asked for: with another one it is somebody else's.
        seen: Generation,
    },
    /// It has to reach this generation.
    Given {
        /// In which wave.
        wave: u32,
        /// Which generation.
        generation: Generation,
        /// Whether it was there.
        reach: Reach,
    },
    /// It has reached it.
    Confirmed {
        /// In which wave.
        wave: u32,
        /// Which generation.
        generation: Generation,
        /// When.
        at_unix_ms: u64,
    },
    /// It refused, or went back to what it had.
    Failed {
        /// In which wave.
        wave: u32,
        /// Which generation.
        generation: Generation,
        /// In its words.
        why: String,
    },
    /// It was so already.
    There,
    /// It is in the rollout no more, which is no failure.
    Left {
        /// What became of it.
        why: String,
    },
}

/// Whether a machine had a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// It had.
    Online,
    /// It had none.
    Offline,
}

impl Member {
    /// Whether its machine is at work on what the rollout gave it: at most one rollout has it then.
    pub fn is_given(&self) -> bool {
        matches!(self.state, MemberState::Given { .. })
    }

    /// Whether the rollout has a say in its machine.
    pub fn is_in(&self) -> bool {
        !matches!(self.state, MemberState::There | MemberState::Left { .. })
    }
}

/// The members of a rollout, in the order of their places.
pub fn members(state: &State, rollout: u64) -> impl Iterator<Item = &Member> {
    let before = MemberKey { rollout, place: 0 };
    state.members.after(&before).take_while(move |member| member.key.rollout == rollout)
}
