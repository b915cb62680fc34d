//! How a change of a machine's configuration came out, in words: the same ones in its agent's log and in all that the
//! controller says of it.

use crate::Generation;
use crate::hello::{Progress, Reason, Times};

/// How a generation came out, for people: `generation 7 was reverted after 4.2 s: no-gateway: …`.
/// `confirmed` is how long it took where it was confirmed: that is no part of the progress.
pub fn said(generation: Generation, how: &Progress, confirmed: Times) -> String {
    match how {
        Progress::Confirmed { .. } => format!("generation {generation} is confirmed{}", after(confirmed)),
        Progress::Refused { why, .. } => format!("generation {generation} was refused: {why}"),
        Progress::Reverted { reason, why, times, .. } => {
            format!("generation {generation} was reverted{}: {}: {why}", after(*times), word(*reason))
        }
        Progress::RevertFailed { reason, why, times, .. } => {
            let (after, reason) = (after(*times), word(*reason));
            format!("generation {generation} failed and could not be undone{after}: {reason}: {why}")
        }
        // Neither is an end.
        Progress::Idle | Progress::Applying { .. } => format!("generation {generation}"),
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
    fn a_change_takes_as_long_as_all_of_its_phases() {
        let times = Times { make_ms: 1_100, prove_beside_ms: 2_000, switch_ms: 300, prove_ms: 849, ..Times::default() };
        assert_eq!((total_ms(times), after(times).as_str()), (4_249, " after 4.2 s"));
        assert_eq!(after(Times::default()), "");
        let longest = Times { make_ms: u32::MAX, revert_ms: u32::MAX, ..Times::default() };
        assert_eq!(total_ms(longest), 2 * u64::from(u32::MAX), "whatever an agent says");
    }

    #[test]
    fn an_end_is_told_in_the_words_of_operators() {
        let (generation, reason, why) = (Generation(2), Reason::NoGateway, || "the gateway is silent".to_owned());
        let times = Times { switch_ms: 300, prove_ms: 10_000, revert_ms: 2_000, ..Times::default() };
        for (how, words) in [
            (Progress::Confirmed { generation }, "generation 2 is confirmed after 12.3 s"),
            (Progress::Refused { generation, why: why() }, "generation 2 was refused: the gateway is silent"),
            (
                Progress::Reverted { generation, reason, why: why(), times },
                "generation 2 was reverted after 12.3 s: no-gateway: the gateway is silent",
            ),
            (
                Progress::RevertFailed { generation, reason, why: why(), times },
                "generation 2 failed and could not be undone after 12.3 s: no-gateway: the gateway is silent",
            ),
        ] {
            assert_eq!(said(generation, &how, times), words);
        }
    }
}
