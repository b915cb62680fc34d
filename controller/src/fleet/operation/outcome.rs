//! How a machine came out of a change of its configuration: stored with the operation that follows it, and in words, the
//! same ones for the API, the events, the metrics and the command line.
//!
//! Frozen once released, as all of [`crate::fleet::record`].

use muster_protocol::Generation;
use muster_protocol::hello::{Progress, Reason, Times};
pub use muster_protocol::outcome::{phases, said, seconds, total_ms, word};

use serde::{Deserialize, Serialize};

/// How a machine came out of a change of its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What is in force now.
    pub ending: Ending,
    /// How long its phases took, by the machine's own clock.
    pub times: Times,
}

/// What is in force after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// What was desired.
    Confirmed,
    /// What was before.
    Reverted {
        /// Why.
        reason: Reason,
    },
    /// Neither.
    RevertFailed {
        /// Why it was to be undone.
        reason: Reason,
    },
    /// What another document says, which took the place of this one: the machine did not begin it, or never said how it
    /// came out.
    Superseded,
}

impl Outcome {
    /// What the end of a change leaves behind; `None` where it did not end, or changed nothing.
    /// `confirmed` is how long a confirmed one took: that comes with the confirmation, and is no part of the progress.
    pub fn of(progress: &Progress, confirmed: Times) -> Option<Self> {
        match progress {
            Progress::Idle | Progress::Applying { .. } | Progress::Refused { .. } => None,
            Progress::Confirmed { .. } => Some(Self { ending: Ending::Confirmed, times: confirmed }),
            Progress::Reverted { reason, times, .. } => {
                Some(Self { ending: Ending::Reverted { reason: *reason }, times: *times })
            }
            Progress::RevertFailed { reason, times, .. } => {
                Some(Self { ending: Ending::RevertFailed { reason: *reason }, times: *times })
            }
        }
    }
}

impl Ending {
    /// Stable: `confirmed`, `reverted`, `revert-failed` or `superseded`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Reverted { .. } => "reverted",
            Self::RevertFailed { .. } => "revert-failed",
            Self::Superseded => "superseded",
        }
    }

    /// Why it was not kept, where it was not.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Confirmed | Self::Superseded => None,
            Self::Reverted { reason } | Self::RevertFailed { reason } => Some(reason),
        }
    }
}

/// What the event feed says where a generation has come to an end: the kind, and a text that follows the machine's name.
/// `confirmed` is as in [`Outcome::of`].
pub fn event(generation: Generation, how: &Progress, confirmed: Times) -> (&'static str, String) {
    let kind = match how {
        Progress::Confirmed { .. } => "machine.confirmed",
        Progress::Refused { .. } => "machine.refused",
        Progress::Reverted { .. } => "machine.reverted",
        Progress::RevertFailed { .. } => "machine.revert-failed",
        // Neither is an end.
        Progress::Idle | Progress::Applying { .. } => "machine.applying",
    };
    (kind, said(generation, how, confirmed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_in_the_operators_guide() {
        let guide = include_str!("../../../../docs/operating.md");
        let reason = Reason::NoGateway;
        for ending in
            [Ending::Confirmed, Ending::Reverted { reason }, Ending::RevertFailed { reason }, Ending::Superseded]
        {
            assert!(guide.contains(&format!("| `{}` |", ending.word())), "{ending:?} is not in docs/operating.md");
        }
    }

    #[test]
    fn every_reason_is_in_the_operators_guide() {
        let guide = include_str!("../../../../docs/operating.md");
        let all = [
            Reason::StepFailed,
            Reason::NoCarrier,
            Reason::NoLease,
            Reason::DuplicateAddress,
            Reason::NoGateway,
            Reason::NoRoute,
            Reason::ControllerSilent,
            Reason::VerifyDiffers,
            Reason::Interrupted,
        ];
        for reason in all {
            assert!(guide.contains(&format!("`{}`", word(reason))), "{reason:?} is not in docs/operating.md");
        }
        for (phase, _) in phases(Times::default()) {
            assert!(guide.contains(&format!("`{phase}`")), "{phase} is not in docs/operating.md");
        }
    }
}
