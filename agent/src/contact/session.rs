//! What a session answers to the controller's requests: pure, no sockets, no clock, no machine.
//!
//! Called by `talk` for each request that arrives; outlives single sessions, because "at most once" must.
//! It decides what is done; how it is done, and in which order, is `reconcile`'s business.

use std::collections::BTreeSet;

use muster_protocol::desired::Desired;
use muster_protocol::hello::{Awaits, Standing};
use muster_protocol::to_agent::{Answer, Apply, CAS, Call, Power, PowerAction, Refusal, Wipe};
use muster_protocol::{BootId, Digest, OperationId};

use crate::options::Manage;

/// What must be remembered between requests.
#[derive(Debug)]
pub struct Session {
    boot: BootId,
    manage: Manage,
    standing: Standing,
    /// Power requests that were accepted in this boot.
    powers: BTreeSet<OperationId>,
    /// Accepted, and not begun: it is owed however the session that brought it ends.
    due: Option<Due>,
}

/// A power request that must be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    operation: OperationId,
    /// What to do.
    pub action: PowerAction,
}

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// Answer this, and no more.
    Answer(Answer),
    /// Look at the machine, and answer what is seen.
    Observe,
    /// Make a plan, and answer it.
    Plan(Desired),
    /// Offer it to the reconcile loop, and answer what that says.
    Apply(Apply),
    /// Offer it to the reconcile loop, and answer what that says.
    Wipe(Wipe),
    /// Keep that these CAs are believed, and answer whether it is kept.
    Trust(Vec<Digest>),
    /// Answer "accepted", see that the answer arrives, end the session, do what is [`Session::due`].
    Power,
}

impl Session {
    /// A machine is pending until a controller welcomes it as something else.
    pub fn new(boot: BootId, manage: Manage) -> Self {
        let standing = Standing::Pending { claim: String::new(), awaits: Awaits::Approval };
        Self { boot, manage, standing, powers: BTreeSet::new(), due: None }
    }

    /// A controller said where the machine stands.
    pub fn welcomed(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// Decides about one request. `cut` says why the machine must not be rebooted right now.
    pub fn decide(&mut self, call: Call, cut: Result<(), Refusal>) -> Act {
        let pending = matches!(self.standing, Standing::Pending { .. });
        match call {
            Call::Observe => Act::Observe,
            // A machine that waits for approval must not be left behind with a CA that goes.
            Call::Trust { cas } if (1..=CAS).contains(&cas.len()) => Act::Trust(cas),
            Call::Trust { cas } => {
                let problem = format!("a machine trusts 1 to {CAS} CAs, and not {}", cas.len());
                Act::Answer(Answer::Refused(Refusal::Impossible(problem)))
            }
            _ if pending => Act::Answer(Answer::Refused(Refusal::Pending)),
            Call::Plan(desired) => Act::Plan(desired),
            Call::Apply(apply) => Act::Apply(apply),
            Call::Wipe(wipe) => Act::Wipe(wipe),
            Call::Power(power) => match self.may_power(&power, cut) {
                Err(refusal) => Act::Answer(Answer::Refused(refusal)),
                // A repetition of what was accepted: it acts already.
                Ok(()) if !self.powers.insert(power.operation) => Act::Answer(Answer::Accepted),
                Ok(()) => {
                    self.due = Some(Due { operation: power.operation, action: power.action });
                    Act::Power
                }
            },
        }
    }

    /// What was accepted and is to be done now. Answers it once.
    pub fn take_due(&mut self) -> Option<Due> {
        self.due.take()
    }

    /// It could not be done: the same request may be sent again.
    pub fn power_failed(&mut self, due: Due) {
        self.powers.remove(&due.operation);
    }

    fn may_power(&self, power: &Power, cut: Result<(), Refusal>) -> Result<(), Refusal> {
        if power.boot != self.boot {
            return Err(Refusal::OtherBoot);
        }
        if !self.manage.power {
            return Err(Refusal::ObserveOnly);
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::Generation;
    use muster_protocol::to_agent::WipeLevel;

    const BOOT: BootId = BootId::from_bytes([1; 16]);

    fn member() -> Session {
        let mut session = Session::new(BOOT, Manage::ALL);
        session.welcomed(Standing::Member);
        session
    }

    fn reboot(boot: BootId, operation: u8) -> Call {
        let operation = OperationId::from_bytes([operation; 16]);
        Call::Power(Power { operation, boot, action: PowerAction::Reboot })
    }

    #[test]
    fn a_pending_machine_is_looked_at_and_not_touched() {
        let mut session = Session::new(BOOT, Manage::ALL);
        let (generation, desired) = (Generation(1), Desired::default());
        let apply = Apply { generation, desired: desired.clone(), permit: None, confirm_within_s: 30 };
        let wipe = Wipe { operation: OperationId::from_bytes([1; 16]), disks: Vec::new(), level: WipeLevel::Full };
        for call in [Call::Plan(desired), Call::Apply(apply), Call::Wipe(wipe), reboot(BOOT, 1)] {
            assert_eq!(session.decide(call, Ok(())), Act::Answer(Answer::Refused(Refusal::Pending)));
        }
        assert_eq!(session.decide(Call::Observe, Ok(())), Act::Observe);
    }

    #[test]
    fn whom_to_trust_is_told_to_pending_machines_too_and_is_never_nobody_or_a_crowd() {
        let mut session = Session::new(BOOT, Manage::default());
        let cas = |count: u8| (0..count).map(|n| Digest::from_bytes([n; 32])).collect::<Vec<_>>();
        for count in 1..=CAS as u8 {
            assert_eq!(session.decide(Call::Trust { cas: cas(count) }, Ok(())), Act::Trust(cas(count)));
        }
        for count in [0, CAS as u8 + 1, 200] {
            let act = session.decide(Call::Trust { cas: cas(count) }, Ok(()));
            assert!(matches!(act, Act::Answer(Answer::Refused(Refusal::Impossible(_)))), "{act:?}");
        }
    }

    #[test]
    fn a_power_command_acts_at_most_once() {
        let mut session = member();
        assert_eq!(session.decide(reboot(BOOT, 1), Ok(())), Act::Power);
        // The controller may ask again over another session, because it never saw the answer.
        session.welcomed(Standing::Member);
        assert_eq!(session.decide(reboot(BOOT, 1), Ok(())), Act::Answer(Answer::Accepted));
        assert_eq!(session.take_due().map(|due| due.action), Some(PowerAction::Reboot), "still to be done");
        assert_eq!(session.take_due(), None);
        assert_eq!(session.decide(reboot(BOOT, 2), Ok(())), Act::Power);
    }

    #[test]
    fn a_power_command_that_could_not_be_carried_out_may_be_asked_again() {
        let mut session = member();
        assert_eq!(session.decide(reboot(BOOT, 1), Ok(())), Act::Power);
        let due = session.take_due().expect("it is due");
        session.power_failed(due);
        assert_eq!(session.decide(reboot(BOOT, 1), Ok(())), Act::Power);
    }

    #[test]
    fn a_power_command_for_another_boot_is_refused() {
        let another = BootId::from_bytes([2; 16]);
        let refused = Act::Answer(Answer::Refused(Refusal::OtherBoot));
        assert_eq!(member().decide(reboot(another, 1), Ok(())), refused);
    }

    #[test]
    fn a_refused_power_command_may_be_asked_again() {
        let mut session = member();
        let busy = Refusal::Busy("applying generation 1".into());
        assert_eq!(session.decide(reboot(BOOT, 1), Err(busy.clone())), Act::Answer(Answer::Refused(busy)));
        assert_eq!(session.decide(reboot(BOOT, 1), Ok(())), Act::Power);
    }

    #[test]
    fn an_agent_that_only_observes_does_not_reboot() {
        let mut session = Session::new(BOOT, Manage::default());
        session.welcomed(Standing::Member);
        let refused = Act::Answer(Answer::Refused(Refusal::ObserveOnly));
        assert_eq!(session.decide(reboot(BOOT, 1), Ok(())), refused);
    }
}
