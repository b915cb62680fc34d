//! Drift: what machines tell of changes that nobody asked them for, and what they are to do about it.
//!
//! Called by the sessions (what agents say) and the operator API (what people want), inside [`crate::fleet::Fleet::change`].

use muster_protocol::MachineId;
use muster_protocol::drift::{Drift, DriftEnd, OnDrift};
use serde::{Deserialize, Serialize};

use crate::fleet::record::Machine;
use crate::fleet::{Draft, Facts, Refusal, machine};

/// What a machine's record holds of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drifting {
    /// An operator's wish.
    pub rule: DriftRule,
    /// What its agent told last in the boot that said hello last.
    pub found: Drift,
}

/// What an operator wants of one machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriftRule {
    /// What the controller's configuration says, as of all others.
    #[default]
    AsConfigured,
    /// This.
    Always(OnDrift),
}

impl DriftRule {
    /// As the API, the audit log and the command line write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::AsConfigured => "default",
            Self::Always(OnDrift::Repair) => "repair",
            Self::Always(OnDrift::Report) => "report",
        }
    }

    /// What the agent is told; `configured` is what holds where an operator said nothing else.
    pub fn policy(self, configured: OnDrift) -> OnDrift {
        match self {
            Self::AsConfigured => configured,
            Self::Always(policy) => policy,
        }
    }
}

/// What became of a drift, in one word, as metrics and the API write it.
pub fn word(end: &DriftEnd) -> &'static str {
    match end {
        DriftEnd::Gone => "gone",
        DriftEnd::Repaired { .. } => "repaired",
        DriftEnd::Contested { .. } => "contested",
        DriftEnd::Reported => "reported",
        DriftEnd::Failed { .. } => "failed",
    }
}

/// Takes note of what an agent found, with an event. The same again changes nothing; answers whether it was news.
pub fn told(draft: &mut Draft, id: MachineId, drift: Drift) -> Result<bool, Refusal> {
    let mut machine = draft.need::<Machine>(&id)?;
    let known = &machine.drift.found;
    if *known == drift {
        return Ok(false);
    }
    let list = drift.differences.join("; ");
    let found = format!("somebody changed its configuration; to set it right: {list}");
    let text = match &drift.end {
        DriftEnd::Gone => "it is as it was confirmed again".to_owned(),
        DriftEnd::Repaired { milliseconds } => format!("{found}: repaired in {milliseconds} ms"),
        DriftEnd::Contested { pause_s } => {
            format!("{found}: repaired, and made again each time; the next repair is in {pause_s} s at the earliest")
        }
        DriftEnd::Reported => format!("{found}: left as it is"),
        DriftEnd::Failed { why } => format!("{found}: not repaired: {why}"),
    };
    // Only the newest is told where several came while the machine was away.
    let untold = drift.number.saturating_sub(known.number).saturating_sub(1);
    let untold = if untold > 0 { format!(" ({untold} before it were not told)") } else { String::new() };
    draft.event("machine.drift", id, format!("{}: {text}{untold}", machine.name));
    machine.drift.found = drift;
    machine::save(draft, machine);
    Ok(true)
}

/// Says what a machine is to do about drift from now on.
pub fn set(draft: &mut Draft, id: MachineId, rule: DriftRule) -> Result<Machine, Refusal> {
    let mut machine = draft.need::<Machine>(&id)?;
    if machine.drift.rule != rule {
        let facts = |rule: DriftRule| Facts::one("drift", rule.word());
        draft.audit("machine.drift-rule", id, facts(machine.drift.rule), facts(rule));
        machine.drift.rule = rule;
        machine = machine::save(draft, machine);
    }
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use muster_protocol::BootId;
    use muster_protocol::enroll::Identity;
    use muster_protocol::hello::Progress;

    fn found(number: u32, end: DriftEnd) -> Drift {
        Drift { number, differences: vec!["bring lan up".into()], end }
    }

    fn events(draft: &Draft) -> Vec<String> {
        draft.state().events.iter().filter(|e| e.kind == "machine.drift").map(|e| e.text.clone()).collect()
    }

    #[test]
    fn what_is_told_twice_is_one_event_and_what_was_not_told_is_counted() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        let repaired = found(1, DriftEnd::Repaired { milliseconds: 412 });
        assert_eq!(told(&mut draft, id, repaired.clone()), Ok(true));
        assert_eq!(told(&mut draft, id, repaired), Ok(false));
        assert_eq!(told(&mut draft, id, found(4, DriftEnd::Failed { why: "no such device".into() })), Ok(true));
        let events = events(&draft);
        assert_eq!(events.len(), 2);
        let first = ": somebody changed its configuration; to set it right: bring lan up: repaired in 412 ms";
        assert!(events[0].ends_with(first), "{events:?}");
        assert!(events[1].ends_with(": not repaired: no such device (2 before it were not told)"), "{events:?}");
    }

    #[test]
    fn another_boot_begins_without_drift_and_keeps_the_rule() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        set(&mut draft, id, DriftRule::Always(OnDrift::Report)).expect("set");
        let boot = |n| BootId::from_bytes([n; 16]);
        machine::hello(&mut draft, id, boot(1), Progress::Idle).expect("hello");
        told(&mut draft, id, found(1, DriftEnd::Reported)).expect("told");
        machine::hello(&mut draft, id, boot(1), Progress::Idle).expect("hello");
        assert!(draft.need::<Machine>(&id).expect("there").drift.found.is_standing());
        machine::hello(&mut draft, id, boot(2), Progress::Idle).expect("hello");
        let drifting = draft.need::<Machine>(&id).expect("there").drift;
        assert_eq!(drifting, Drifting { rule: DriftRule::Always(OnDrift::Report), found: Drift::default() });
    }

    #[test]
    fn a_machines_own_rule_comes_before_what_is_configured() {
        for configured in [OnDrift::Repair, OnDrift::Report] {
            assert_eq!(DriftRule::AsConfigured.policy(configured), configured);
            assert_eq!(DriftRule::Always(OnDrift::Report).policy(configured), OnDrift::Report);
            assert_eq!(DriftRule::Always(OnDrift::Repair).policy(configured), OnDrift::Repair);
        }
    }
}
