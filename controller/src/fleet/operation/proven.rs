//! What a machine has proven, and has not yet said that it keeps.
//!
//! A machine keeps a change only when the answer to its confirmation arrives, and nobody but the machine knows whether it
//! did. So what was confirmed before stays what is confirmed until the machine itself says how it came out. Up to then
//! this is kept of what it proved: a newer generation may be desired meanwhile, and then nothing else would know of it.

use std::cmp::Ordering;

use muster_protocol::desired::Desired;
use muster_protocol::hello::{Progress, Times};
use muster_protocol::{Digest, Generation, MachineId};
use serde::{Deserialize, Serialize};

use crate::fleet::record::DesiredState;
use crate::fleet::{Draft, Refusal, State, operation};

/// What a machine proved last, and has not said more of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Whose.
    pub machine: MachineId,
    /// Which one of the machine's.
    pub generation: Generation,
    /// The whole of it.
    pub desired: Desired,
    /// [`Digest::of_value`] of `desired`.
    pub digest: Digest,
    /// How long it took, by the machine's own clock.
    pub times: Times,
}

/// The machine reached the controller over what is desired of it. The same again changes nothing but how long it took: an
/// answer that was lost is asked for again.
///
/// Errors: [`Refusal::Conflict`] where this is neither desired now nor proven already.
pub fn note(
    draft: &mut Draft,
    id: MachineId,
    generation: Generation,
    digest: Digest,
    times: Times,
) -> Result<(), Refusal> {
    let is_same = |proven: &&Proven| proven.generation == generation && proven.digest == digest;
    if let Some(proven) = draft.get::<Proven>(&id).filter(is_same).cloned() {
        if proven.times != times {
            draft.put(Proven { times, ..proven });
        }
        return Ok(());
    }
    let wanted = draft.get::<DesiredState>(&id);
    let wanted = wanted.filter(|wanted| wanted.generation == generation && wanted.digest == digest);
    let Some(DesiredState { desired, .. }) = wanted.cloned() else {
        return Err(Refusal::Conflict(format!("generation {generation} is not what is desired now")));
    };
    draft.put(Proven { machine: id, generation, desired, digest, times });
    operation::applying(draft, id, generation, 99, "the controller has answered over the new network")
}

/// The machine says how a generation came out: what it had proven of that one is settled, and answered.
pub fn settle(draft: &mut Draft, id: MachineId, said: &Progress) -> Option<Proven> {
    let proven = draft.get::<Proven>(&id)?;
    let is_settled = said.is_settled() && said.generation() == Some(proven.generation);
    let proven = is_settled.then(|| proven.clone())?;
    draft.delete::<Proven>(&id);
    Some(proven)
}

/// An agent that knows nothing of it says hello: it was given up in some way that nobody told.
pub fn outlived(draft: &mut Draft, id: MachineId, said: &Progress) {
    if draft.get::<Proven>(&id).is_some_and(|proven| said.generation() < Some(proven.generation)) {
        draft.delete::<Proven>(&id);
    }
}

/// Whether the machine has yet to say how it came out; it is given no other generation meanwhile, or it would not say it.
pub fn is_open(state: &State, id: MachineId, said: &Progress) -> bool {
    let Some(proven) = state.proven.get(&id) else { return false };
    match said.generation().cmp(&Some(proven.generation)) {
        Ordering::Less => true,
        Ordering::Equal => !said.is_settled(),
        Ordering::Greater => false,
    }
}

#[cfg(test)]
mod tests {
    use muster_protocol::BootId;
    use muster_protocol::desired::Network;
    use muster_protocol::hello::Reason;

    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::machine;
    use crate::fleet::operation::confirmed::tests::{
        FIRST, SECOND, THIRD, applying, confirm, events, given, handed, member, prove, reverted, want,
    };
    use crate::fleet::operation::confirmed::{Confirmed, in_force};
    use crate::fleet::operation::outcome::{Ending, Outcome};
    use crate::fleet::record::{Machine, Operation, OperationKind, OperationState};

    const TWO: Generation = Generation(2);
    const CONFIRMED: Progress = Progress::Confirmed { generation: TWO };

    /// A machine that was confirmed to be `one`, and is on its way to `two`; and the operation that follows it there.
    fn on_its_way() -> (Draft, MachineId, Operation) {
        let mut draft = draft();
        let id = member(&mut draft);
        want(&mut draft, id, "one");
        confirm(&mut draft, id);
        let operation = want(&mut draft, id, "two");
        machine::progress(&mut draft, id, &applying(2)).expect("noted");
        (draft, id, operation)
    }

    fn says(draft: &mut Draft, id: MachineId, progress: &Progress) {
        machine::progress(draft, id, progress).expect("noted");
    }

    fn hello(draft: &mut Draft, id: MachineId, boot: BootId, progress: &Progress) {
        machine::hello(draft, id, boot, progress.clone()).expect("hello");
    }

    fn revert_failed() -> Progress {
        let (generation, why) = (TWO, "no gateway".to_owned());
        Progress::RevertFailed { generation, reason: Reason::NoGateway, why, times: Times::default() }
    }

    /// What is handed over at the next boot, and what is taken for what a document leaves out.
    fn holds(draft: &Draft, id: MachineId) -> (String, String) {
        let in_force = in_force(draft.state(), id).desired.into_owned().network.and_then(|network| network.hostname);
        (handed(draft, id).expect("something is").1, in_force.expect("something is"))
    }

    fn now(draft: &Draft, operation: &Operation) -> Operation {
        draft.need::<Operation>(&operation.id).expect("there")
    }

    #[test]
    fn what_is_proven_is_confirmed_when_the_machine_says_so_and_told_once() {
        for in_a_hello in [false, true] {
            let (mut draft, id, operation) = on_its_way();
            let digest = Digest::of_value(&*in_force(draft.state(), id).desired);
            let times = Times { prove_ms: 800, ..Times::default() };
            let first = Times { prove_ms: 300, ..times };
            machine::confirm(&mut draft, id, TWO, digest, first).expect("it is answered, and that is lost");
            machine::confirm(&mut draft, id, TWO, digest, times).expect("it is answered");
            let running = now(&draft, &operation);
            assert_eq!((running.state, running.percent, running.outcome), (OperationState::Running, 99, None));
            assert_eq!(holds(&draft, id), ("one".into(), "two".into()));
            let told =
                |draft: &Draft| events(draft, "machine.confirmed").len() + events(draft, "operation.succeeded").len();
            assert_eq!(told(&draft), 2, "those of the generation before");

            match in_a_hello {
                true => hello(&mut draft, id, FIRST, &CONFIRMED),
                false => says(&mut draft, id, &CONFIRMED),
            }
            let ended = now(&draft, &operation);
            let outcome = Some(Outcome { ending: Ending::Confirmed, times });
            assert_eq!((ended.state, ended.outcome), (OperationState::Succeeded, outcome));
            assert_eq!(holds(&draft, id), ("two".into(), "two".into()));
            assert_eq!(draft.get::<Proven>(&id), None);
            // Copies that were on their way.
            machine::confirm(&mut draft, id, TWO, digest, times).expect("it is so");
            says(&mut draft, id, &CONFIRMED);
            assert_eq!((draft.get::<Proven>(&id), told(&draft)), (None, 4));
        }
    }

    #[test]
    fn what_is_proven_and_given_up_all_the_same_was_never_confirmed() {
        for (given_up, ending) in [
            (reverted(2), Ending::Reverted { reason: Reason::NoGateway }),
            (revert_failed(), Ending::RevertFailed { reason: Reason::NoGateway }),
        ] {
            for in_a_hello in [false, true] {
                let (mut draft, id, operation) = on_its_way();
                prove(&mut draft, id);
                match in_a_hello {
                    true => hello(&mut draft, id, FIRST, &given_up),
                    false => says(&mut draft, id, &given_up),
                }
                assert_eq!(holds(&draft, id), ("one".into(), "one".into()));
                let ended = now(&draft, &operation);
                assert!(matches!(ended.state, OperationState::Failed { .. }), "{ended:?}");
                assert_eq!(ended.outcome.map(|outcome| outcome.ending), Some(ending));
                assert_eq!(draft.need::<Machine>(&id).expect("there").outcome, given_up);
                assert_eq!(given(&draft, id, FIRST, given_up.clone()), None, "it went back by itself");
                assert_eq!(events(&draft, "machine.confirmed").len(), 1, "the one before");
                // The confirmation comes once more, late.
                let digest = Digest::of_value(&draft.need::<DesiredState>(&id).expect("there").desired);
                let late = machine::confirm(&mut draft, id, TWO, digest, Times::default());
                assert!(matches!(late, Err(Refusal::Conflict(_))));
                assert_eq!(holds(&draft, id), ("one".into(), "one".into()));
                hello(&mut draft, id, SECOND, &Progress::Idle);
                assert_eq!(given(&draft, id, SECOND, Progress::Idle), Some(1));
            }
        }
    }

    #[test]
    fn a_machine_that_starts_anew_before_it_has_said_more_comes_back_as_it_was_before() {
        let (mut draft, id, operation) = on_its_way();
        prove(&mut draft, id);
        assert_eq!(handed(&draft, id), Some((1, "one".into())), "it led home until a moment ago");
        hello(&mut draft, id, SECOND, &Progress::Idle);
        let reason = Reason::Interrupted;
        assert_eq!(now(&draft, &operation).outcome.map(|o| o.ending), Some(Ending::Reverted { reason }));
        assert_eq!(holds(&draft, id), ("one".into(), "one".into()));
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), Some(1));
        confirm_as_given(&mut draft, id);
        want(&mut draft, id, "three");
        let is = Progress::Confirmed { generation: Generation(1) };
        assert_eq!(given(&draft, id, SECOND, is), Some(3), "nothing of it is waited for");
    }

    fn confirm_as_given(draft: &mut Draft, id: MachineId) {
        let Confirmed { generation, digest, .. } = draft.need::<Confirmed>(&id).expect("there");
        machine::confirm(draft, id, generation, digest, Times::default()).expect("it is answered");
        says(draft, id, &Progress::Confirmed { generation });
    }

    #[test]
    fn the_first_network_of_a_machine_that_starts_anew_before_it_has_said_more_is_not_handed_over() {
        let mut draft = draft();
        let id = member(&mut draft);
        let operation = want(&mut draft, id, "one");
        prove(&mut draft, id);
        assert_eq!(handed(&draft, id), None, "it comes home as it did when it had none");
        hello(&mut draft, id, SECOND, &Progress::Idle);
        assert!(now(&draft, &operation).state.is_ended());
        assert_eq!((handed(&draft, id), given(&draft, id, SECOND, Progress::Idle)), (None, None));
    }

    #[test]
    fn a_confirmation_whose_answer_was_lost_is_answered_again() {
        let (mut draft, id, operation) = on_its_way();
        for _ in 0..3 {
            prove(&mut draft, id);
        }
        let steps = now(&draft, &operation).steps;
        assert_eq!(steps.iter().filter(|step| step.text.contains("has answered")).count(), 1, "{steps:?}");
        // The connection over which it hears of it may be another one, and so may the session be.
        hello(&mut draft, id, FIRST, &applying(2));
        prove(&mut draft, id);
        says(&mut draft, id, &CONFIRMED);
        assert_eq!(now(&draft, &operation).state, OperationState::Succeeded);
        assert_eq!(holds(&draft, id), ("two".into(), "two".into()));
    }

    #[test]
    fn what_is_desired_next_waits_for_the_word_and_does_not_hide_what_was_proven() {
        for (says_two, before) in [(CONFIRMED, "two"), (reverted(2), "one")] {
            let (mut draft, id, _) = on_its_way();
            prove(&mut draft, id);
            want(&mut draft, id, "three");
            assert_eq!(given(&draft, id, FIRST, applying(2)), None, "it is about to say how it came out");
            prove_again(&mut draft, id);
            says(&mut draft, id, &says_two);
            assert_eq!(handed(&draft, id).map(|(_, hostname)| hostname).as_deref(), Some(before));
            assert_eq!(given(&draft, id, FIRST, says_two), Some(3));
            says(&mut draft, id, &reverted(3));
            assert_eq!(holds(&draft, id), (before.into(), before.into()), "it went back to that");
        }
    }

    /// The machine asks once more, though another generation is desired by now.
    fn prove_again(draft: &mut Draft, id: MachineId) {
        let Proven { generation, digest, .. } = draft.need::<Proven>(&id).expect("there");
        machine::confirm(draft, id, generation, digest, Times::default()).expect("it is answered as before");
    }

    #[test]
    fn an_agent_that_has_forgotten_what_it_proved_is_given_it_again() {
        let (mut draft, id, operation) = on_its_way();
        prove(&mut draft, id);
        hello(&mut draft, id, FIRST, &Progress::Idle);
        assert_eq!(draft.get::<Proven>(&id), None);
        assert_eq!(given(&draft, id, FIRST, Progress::Idle), Some(2));
        confirm(&mut draft, id);
        assert_eq!(now(&draft, &operation).state, OperationState::Succeeded);
    }

    #[test]
    fn nothing_that_was_proven_outlives_what_a_machine_was_in_somebodys_hands() {
        let (mut draft, id, _) = on_its_way();
        prove(&mut draft, id);
        machine::retire(&mut draft, id).expect("retired");
        assert_eq!((draft.get::<Proven>(&id), draft.get::<Confirmed>(&id)), (None, None));
    }

    #[test]
    fn whatever_is_desired_has_room_in_a_record_with_how_it_came_out() {
        let mut draft = draft();
        let id = member(&mut draft);
        let set = |draft: &mut Draft, bytes: usize| {
            let network = Network { hostname: Some("x".repeat(bytes)), ..Network::default() };
            let desired = Desired { network: Some(network), storage: None };
            let machine = draft.need::<Machine>(&id).expect("there");
            let kind = OperationKind::Apply { generation: Generation(machine.generation.0 + 1) };
            draft.attempt(|draft| machine::want(draft, machine, desired, None, kind))
        };
        let most = (0..70_000).rev().step_by(64).find(|bytes| set(&mut draft, *bytes).is_ok()).expect("some fit");
        assert!(most > 60 * 1024, "{most}");
        let times = Times { make_ms: u32::MAX, prove_ms: u32::MAX, revert_ms: u32::MAX, ..Times::default() };
        let DesiredState { generation, digest, .. } = draft.need::<DesiredState>(&id).expect("there");
        draft.attempt(|draft| machine::confirm(draft, id, generation, digest, times)).expect("it fits");
        draft.attempt(|draft| machine::progress(draft, id, &Progress::Confirmed { generation })).expect("it fits");
        let (reason, why) = (Reason::ControllerSilent, "x".repeat(1024));
        draft.attempt(|draft| machine::hello(draft, id, THIRD, Progress::Idle)).expect("hello");
        let again = Progress::Reverted { generation, reason, why, times };
        draft.attempt(|draft| machine::hello(draft, id, THIRD, again)).expect("it can say so, or never come in");
    }
}
