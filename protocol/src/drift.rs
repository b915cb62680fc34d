//! Drift: what somebody changed of a machine's network that nobody had asked the agent for.

use serde::{Deserialize, Serialize};

use crate::bounded::at_most;

/// The most differences that are told of one drift.
pub const DIFFERENCES: usize = 16;

/// What an agent does about drift. An operator's wish, told in every [`crate::hello::Welcome`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDrift {
    /// It makes the network as it was confirmed, at once.
    #[default]
    Repair,
    /// It leaves the network as it is, and tells.
    Report,
}

/// What was found last in this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// How often there was something to tell in this boot, this included; 0 where nothing ever was.
    pub number: u32,
    /// What is not as it was confirmed, in the words of the steps that set it right; at most [`DIFFERENCES`].
    #[serde(deserialize_with = "at_most::<DIFFERENCES, _, _>")]
    pub differences: Vec<String>,
    /// What became of it.
    pub end: DriftEnd,
}

/// What became of a drift.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriftEnd {
    /// There is none, or none any more.
    #[default]
    Gone,
    /// The network was made as it was confirmed, and read back.
    Repaired {
        /// From the first look that saw the drift.
        milliseconds: u32,
    },
    /// The same; but somebody makes the same change again and again, so nothing is done about it for so long.
    Contested {
        /// Seconds, more each time.
        pause_s: u32,
    },
    /// It was left as it is: that is the policy.
    Reported,
    /// It could not be repaired. What could be was, and it is tried again.
    Failed {
        /// For the operator.
        why: String,
    },
}

impl Drift {
    /// Whether the network is, or may be, another one than was confirmed.
    pub fn is_standing(&self) -> bool {
        match self.end {
            DriftEnd::Gone | DriftEnd::Repaired { .. } => false,
            DriftEnd::Contested { .. } | DriftEnd::Reported | DriftEnd::Failed { .. } => true,
        }
    }
}
