//! How a machine came out of a change of its configuration: stored with the operation that follows it, and in words, the
//! same ones for the API, the events, the metrics and the command line.
//!
//! Frozen once released, as all of [`crate::fleet::record`].

use muster_protocol::Generation;
use muster_protocol::hello::{Progress, Reason, Times};

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
    /// Stable: `confirmed`, `reverted` or `revert-failed`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Reverted { .. } => "reverted",
            Self::RevertFailed { .. } => "revert-failed",
        }
    }

    /// Why it was not kept, where it was not.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Confirmed => None,
            Self::Reverted { reason } | Self::RevertFailed { reason } => Some(reason),
        }
    }
}

/// What the event feed says where a generation has come to an end: the kind, and a text that follows the machine's name.
/// `confirmed` is as in [`Outcome::of`].
pub fn event(generation: Generation, how: &Progress, confirmed: Times) -> (&'static str, String) {
    match how {
        Progress::Confirmed { .. } => {
            ("machine.confirmed", format!("generation {generation} is confirmed{}", after(confirmed)))
        }
        Progress::Refused { why, .. } => ("machine.refused", format!("generation {generation} was refused: {why}")),
        Progress::Reverted { reason, why, times, .. } => {
            let (reason, after) = (word(*reason), after(*times));
            ("machine.reverted", format!("generation {generation} was reverted{after}: {reason}: {why}"))
        }
        Progress::RevertFailed { reason, why, times, .. } => {
            let (reason, after) = (word(*reason), after(*times));
            let text = format!("generation {generation} failed and could not be undone{after}: {reason}: {why}");
            ("machine.revert-failed", text)
        }
        // Neither is an end.
        Progress::Idle | Progress::Applying { .. } => ("machine.applying", format!("generation {generation}")),
    }
}

/// A reason as it is written everywhere; stable.
pub fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::StepFailed => "step-failed",
        Reason::NoCarrier => "no-carrier",
        Reason::NoLease => "no-lease",
        Reason::DuplicateAddress => "duplicate-address",
        Reason::NoGateway => "no-gateway",
        Reason::NoRoute => "no-route",
        Reason::ControllerSilent => "controller-silent",
        Reason::VerifyDiffers => "verify-differs",
        Reason::Interrupted => "interrupted",
    }
}

/// The phases of a change in their order: their stable names, and how many milliseconds each took.
pub fn phases(times: Times) -> [(&'static str, u32); 6] {
    let Times { make_ms, prove_beside_ms, switch_ms, verify_ms, prove_ms, revert_ms } = times;
    [
        ("make", make_ms),
        ("prove-beside", prove_beside_ms),
        ("switch", switch_ms),
        ("verify", verify_ms),
        ("prove", prove_ms),
        ("revert", revert_ms),
    ]
}

/// All phases together, in milliseconds.
pub fn total_ms(times: Times) -> u64 {
    phases(times).into_iter().map(|(_, ms)| u64::from(ms)).sum()
}

/// ` after 4.2 s`, and nothing where nobody measured.
pub fn after(times: Times) -> String {
    match total_ms(times) {
        0 => String::new(),
        ms => format!(" after {}", seconds(ms)),
    }
}

/// Milliseconds for people: `4.2 s`.
pub fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_change_takes_as_long_as_all_of_its_phases() {
        let times = Times { make_ms: 1_100, prove_beside_ms: 2_000, switch_ms: 300, prove_ms: 849, ..Times::default() };
        assert_eq!((total_ms(times), after(times).as_str()), (4_249, " after 4.2 s"));
        assert_eq!(after(Times::default()), "");
        let longest = Times { make_ms: u32::MAX, revert_ms: u32::MAX, ..Times::default() };
        assert_eq!(total_ms(longest), 2 * u64::from(u32::MAX), "whatever an agent says");
    }
}
