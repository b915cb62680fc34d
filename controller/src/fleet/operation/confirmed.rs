//! What a machine was confirmed to be last: what its boot script hands it, and what it is brought to after a boot where
//! what is desired by now could not be reached.
//!
//! Kept apart from [`DesiredState`], which an attempt that fails replaces. Written when the machine itself says that it
//! keeps what it has proven (see [`super::proven`]), and gone when the machine leaves somebody's hands: nobody comes up
//! with another one's network.

use std::borrow::Cow;

use muster_protocol::desired::{Boot, Desired, Network};
use muster_protocol::hello::{Progress, Reason, Times};
use muster_protocol::{BootId, Digest, Generation, MachineId};
use serde::{Deserialize, Serialize};

use super::outcome;
use super::proven::Proven;
use crate::fleet::record::{DesiredState, Lifecycle, Machine, Maintenance};
use crate::fleet::{Draft, State};

/// What a machine was confirmed to be last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Whose.
    pub machine: MachineId,
    /// Which one of the machine's.
    pub generation: Generation,
    /// The whole of it.
    pub desired: Desired,
    /// [`Digest::of_value`] of `desired`.
    pub digest: Digest,
    /// What became of it when it was given again in place of a newer one that had failed; `None` where it never was.
    pub again: Option<Again>,
}

/// How a generation came out that was given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// In which boot.
    pub boot: BootId,
    /// How.
    pub how: Progress,
}

/// The machine keeps this generation: what it has proven of it, or what is desired where that is this one.
pub fn note(draft: &mut Draft, id: MachineId, generation: Generation, proven: Option<Proven>) {
    let is_known = |before: &Confirmed| before.generation == generation;
    if draft.get::<Confirmed>(&id).is_some_and(is_known) {
        return;
    }
    let wanted = || draft.get::<DesiredState>(&id).filter(|wanted| wanted.generation == generation).cloned();
    let (desired, digest) = match proven {
        Some(Proven { desired, digest, .. }) => (desired, digest),
        None => match wanted() {
            Some(DesiredState { desired, digest, .. }) => (desired, digest),
            None => return,
        },
    };
    draft.put(Confirmed { machine: id, generation, desired, digest, again: None });
}

/// Takes note of what became of the generation that was given again, once for each boot. Answers whether this is one that
/// was confirmed, and that a newer one has followed since: then that one's outcome stays the machine's.
pub fn told_again(draft: &mut Draft, machine: &Machine, how: &Progress) -> bool {
    let Some(mut record) = draft.get::<Confirmed>(&machine.id).cloned() else { return false };
    let generation = record.generation;
    if how.generation() != Some(generation) {
        return false;
    }
    let is_followed = machine.outcome.generation() > Some(generation);
    let Some(boot) = machine.boot else { return is_followed };
    let again = Again { boot, how: how.clone() };
    if (is_followed || !is_confirmed(how)) && record.again.as_ref() != Some(&again) {
        if is_followed {
            let (kind, text) = outcome::event(generation, how, Times::default());
            draft.event(kind, machine.id, format!("{}: {text}, as it was before", machine.name));
        }
        record.again = Some(again);
        draft.put(record);
    }
    is_followed
}

/// A disk has come. Where the machine refused in this boot what was confirmed, it may be the one that was missing: it is given
/// that once more.
pub fn disk_came(draft: &mut Draft, id: MachineId) {
    let Some(mut record) = draft.get::<Confirmed>(&id).cloned() else { return };
    let is_refused = record.again.as_ref().is_some_and(|again| matches!(again.how, Progress::Refused { .. }));
    if is_refused && record.desired.storage.is_some() {
        record.again = None;
        draft.put(record);
    }
}

/// Whether this is what the machine was confirmed to be.
pub fn is(state: &State, id: MachineId, generation: Generation, desired: Digest) -> bool {
    state.confirmed.get(&id).is_some_and(|record| record.generation == generation && record.digest == desired)
}

/// What the machine is given after a boot where the newest generation failed, be it this very one: what led home once may
/// have been missed in one boot alone, by a router that was late. `None` where this boot has had it.
pub fn fallback(state: &State, id: MachineId, boot: BootId) -> Option<&Confirmed> {
    let record = state.confirmed.get(&id)?;
    let is_spent = record.again.as_ref().is_some_and(|again| again.boot == boot);
    (!is_spent).then_some(record)
}

/// Whether the machine refused or reverted this desired state, in whatever boot: only a newer generation changes that mind.
pub fn is_given_up(desired: &DesiredState, outcome: &Progress) -> bool {
    matches!(outcome, Progress::Refused { .. } | Progress::Reverted { .. } | Progress::RevertFailed { .. })
        && outcome.generation() == Some(desired.generation)
}

/// Whether a machine starts from its disk and not the agent: it has confirmed a disk image that is to be started, and
/// nothing newer is desired of it, nor is it in maintenance or being wiped.
pub fn boots_from_disk(state: &State, id: MachineId) -> bool {
    let (Some(machine), Some(record)) = (state.machines.get(&id), state.confirmed.get(&id)) else { return false };
    let is_free = matches!(machine.lifecycle, Lifecycle::Available | Lifecycle::Leased { .. });
    let images = record.desired.storage.iter().flat_map(|storage| &storage.images);
    is_free
        && machine.maintenance == Maintenance::Off
        && machine.generation == record.generation
        && images.into_iter().any(|image| image.boot == Boot::Disk)
}

/// What a machine is, or is on its way to.
pub struct InForce<'s> {
    /// Which one of the machine's; 0 where it is as it boots.
    pub generation: Generation,
    /// The whole of it.
    pub desired: Cow<'s, Desired>,
    /// How what is desired of it came to nothing, where it did: then this is what was confirmed last.
    pub given_up: Option<&'s Progress>,
}

/// What the machine is, or is on its way to: what is desired of it, and where it gave that up, what was confirmed last.
pub fn in_force(state: &State, id: MachineId) -> InForce<'_> {
    let outcome = state.machines.get(&id).map(|machine| &machine.outcome);
    let wanted = state.desired.get(&id);
    let given_up = outcome.filter(|outcome| wanted.is_some_and(|wanted| is_given_up(wanted, outcome)));
    let wanted = wanted.filter(|_| given_up.is_none()).map(|wanted| (wanted.generation, &wanted.desired));
    let confirmed = || state.confirmed.get(&id).map(|record| (record.generation, &record.desired));
    match wanted.or_else(confirmed) {
        Some((generation, desired)) => InForce { generation, desired: Cow::Borrowed(desired), given_up },
        None => InForce { generation: Generation(0), desired: Cow::default(), given_up },
    }
}

/// What the machine's boot script hands to it.
pub fn network(state: &State, id: MachineId) -> Option<(Generation, &Network)> {
    let is_used = match state.machines.get(&id)?.lifecycle {
        Lifecycle::Available | Lifecycle::Leased { .. } => true,
        Lifecycle::Pending | Lifecycle::Rejected | Lifecycle::Cleaning { .. } | Lifecycle::Retired => false,
    };
    let record = state.confirmed.get(&id).filter(|_| is_used)?;
    Some((record.generation, record.desired.network.as_ref()?))
}

/// The machine is to be as on its first day: nothing is desired of it any more, and nothing is handed to it.
pub fn forget(draft: &mut Draft, id: MachineId) {
    draft.delete::<DesiredState>(&id);
    draft.delete::<Confirmed>(&id);
    draft.delete::<Proven>(&id);
}

fn is_confirmed(outcome: &Progress) -> bool {
    matches!(outcome, Progress::Confirmed { .. })
}

/// The boot in which the machine was at work on this generation has ended: whatever it had done of it went with that boot.
pub fn interrupted(state: &State, id: MachineId, generation: Generation) -> Progress {
    let before = match state.confirmed.get(&id) {
        Some(record) => format!("it comes back with generation {}, which was confirmed last", record.generation),
        None => "it comes back as it boots, since nothing was confirmed before".to_owned(),
    };
    let why = format!("the machine started anew in the middle of it; {before}");
    Progress::Reverted { generation, reason: Reason::Interrupted, why, times: Times::default() }
}

#[cfg(test)]
pub(super) mod tests {
    use muster_protocol::desired::check;
    use muster_protocol::enroll::Identity;
    use muster_protocol::inventory::Inventory;
    use muster_protocol::to_agent::{Apply, Call};

    use super::*;
    use crate::fleet::converge::{self, Online};
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::lease::model::tests::disk;
    use crate::fleet::machine;
    use crate::fleet::record::{Operation, OperationState};

    pub const FIRST: BootId = BootId::from_bytes([1; 16]);
    pub const SECOND: BootId = BootId::from_bytes([2; 16]);
    pub const THIRD: BootId = BootId::from_bytes([3; 16]);

    pub fn member(draft: &mut Draft) -> MachineId {
        let id = enrolled(draft, Identity::default());
        machine::approve(draft, id).expect("approved");
        machine::hello(draft, id, FIRST, Progress::Idle).expect("hello");
        id
    }

    /// Wants a network that is told apart by its hostname.
    pub fn want(draft: &mut Draft, id: MachineId, hostname: &str) -> Operation {
        let network = Network { hostname: Some(hostname.into()), ..Network::default() };
        let desired = check(Desired { network: Some(network), storage: None }).expect("nothing is wrong with it");
        machine::set_desired(draft, id, desired, None, None).expect("set")
    }

    /// The machine reaches the controller over what is desired, and hears of it or not.
    pub fn prove(draft: &mut Draft, id: MachineId) -> Generation {
        let DesiredState { generation, digest, .. } = draft.need::<DesiredState>(&id).expect("something is desired");
        machine::confirm(draft, id, generation, digest, Times::default()).expect("it is answered");
        generation
    }

    pub fn confirm(draft: &mut Draft, id: MachineId) {
        let generation = prove(draft, id);
        machine::progress(draft, id, &Progress::Confirmed { generation }).expect("noted");
    }

    /// As an agent confirms what it was given after a boot.
    fn confirm_again(draft: &mut Draft, id: MachineId) {
        let Confirmed { generation, digest, .. } = draft.need::<Confirmed>(&id).expect("something was confirmed");
        machine::hello(draft, id, FIRST, Progress::Idle).expect("hello");
        machine::progress(draft, id, &Progress::Confirmed { generation }).expect("noted");
        assert!(is(draft.state(), id, generation, digest));
    }

    pub fn reverted(generation: u64) -> Progress {
        let (generation, why) = (Generation(generation), "no gateway".to_owned());
        Progress::Reverted { generation, reason: Reason::NoGateway, why, times: Times::default() }
    }

    pub fn applying(generation: u64) -> Progress {
        Progress::Applying { generation: Generation(generation), percent: 3, step: "a step".into() }
    }

    /// The generation that the machine is given, by a session of this boot that says this.
    pub fn given(draft: &Draft, machine: MachineId, boot: BootId, progress: Progress) -> Option<u64> {
        match converge::next(draft.state(), &Online { machine, boot, progress }, 20) {
            Some((_, Call::Apply(Apply { generation, .. }))) => Some(generation.0),
            _ => None,
        }
    }

    pub fn handed(draft: &Draft, id: MachineId) -> Option<(u64, String)> {
        let (generation, network) = network(draft.state(), id)?;
        Some((generation.0, network.hostname.clone()?))
    }

    pub fn events(draft: &Draft, kind: &str) -> Vec<String> {
        let of_kind = draft.state().events.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.text.clone()).collect()
    }

    #[test]
    fn what_was_confirmed_is_handed_over_until_something_else_is() {
        let mut draft = draft();
        let id = member(&mut draft);
        want(&mut draft, id, "one");
        assert_eq!(handed(&draft, id), None, "nobody has shown yet that it leads home");
        confirm(&mut draft, id);
        assert_eq!(handed(&draft, id), Some((1, "one".into())));
        want(&mut draft, id, "two");
        assert_eq!(handed(&draft, id), Some((1, "one".into())));
        machine::progress(&mut draft, id, &reverted(2)).expect("noted");
        assert_eq!(handed(&draft, id), Some((1, "one".into())));
        want(&mut draft, id, "three");
        confirm(&mut draft, id);
        assert_eq!(handed(&draft, id), Some((3, "three".into())));
        machine::retire(&mut draft, id).expect("retired");
        assert_eq!((handed(&draft, id), draft.get::<Confirmed>(&id)), (None, None));
    }

    #[test]
    fn after_a_boot_a_machine_gets_back_what_was_confirmed_where_the_newest_failed() {
        let mut draft = draft();
        let id = member(&mut draft);
        want(&mut draft, id, "one");
        confirm(&mut draft, id);
        want(&mut draft, id, "two");
        assert_eq!(given(&draft, id, FIRST, Progress::Confirmed { generation: Generation(1) }), Some(2));
        machine::progress(&mut draft, id, &reverted(2)).expect("noted");
        assert_eq!(given(&draft, id, FIRST, reverted(2)), None, "it went back by itself");

        machine::hello(&mut draft, id, SECOND, Progress::Idle).expect("hello");
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), Some(1));
        let digest = draft.need::<Confirmed>(&id).expect("kept").digest;
        machine::confirm(&mut draft, id, Generation(1), digest, Times::default()).expect("it is what it was before");
        assert_eq!(events(&draft, "machine.confirmed").len(), 1, "that it keeps it is for the machine to say");
        let is = Progress::Confirmed { generation: Generation(1) };
        for _ in 0..3 {
            machine::hello(&mut draft, id, SECOND, is.clone()).expect("hello");
            assert_eq!(given(&draft, id, SECOND, is.clone()), None);
        }
        let told = events(&draft, "machine.confirmed");
        assert_eq!(told.len(), 2, "once for each boot: {told:?}");
        assert!(told[1].ends_with("generation 1 is confirmed, as it was before"), "{told:?}");
        assert_eq!(draft.need::<Machine>(&id).expect("there").outcome, reverted(2), "what failed is still known");
        want(&mut draft, id, "three");
        assert_eq!(given(&draft, id, SECOND, is), Some(3), "an operator's next wish is another one");
    }

    #[test]
    fn what_cannot_be_had_back_is_not_tried_without_end() {
        let mut draft = draft();
        let id = member(&mut draft);
        want(&mut draft, id, "one");
        confirm(&mut draft, id);
        want(&mut draft, id, "two");
        machine::progress(&mut draft, id, &reverted(2)).expect("noted");
        machine::hello(&mut draft, id, SECOND, Progress::Idle).expect("hello");
        let refused = Progress::Refused { generation: Generation(1), why: "there is no such NIC".into() };
        machine::progress(&mut draft, id, &refused).expect("noted");
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), None, "not in this boot");
        assert_eq!(events(&draft, "machine.refused").len(), 1);
        machine::hello(&mut draft, id, THIRD, Progress::Idle).expect("hello");
        assert_eq!(given(&draft, id, THIRD, Progress::Idle), Some(1), "the next one may be better off");
    }

    #[test]
    fn what_a_boot_refused_is_given_to_it_once_more_when_a_disk_has_come() {
        let mut draft = draft();
        let id = member(&mut draft);
        let desired = check(Desired { network: None, storage: Some(Default::default()) }).expect("nothing is wrong");
        machine::set_desired(&mut draft, id, desired, None, None).expect("set");
        confirm(&mut draft, id);
        let refuse = |draft: &mut Draft| {
            let refused = Progress::Refused { generation: Generation(1), why: "no disk of this machine".into() };
            machine::progress(draft, id, &refused).expect("noted");
        };
        let has = |draft: &mut Draft, serials: &[&str]| {
            let disks = serials.iter().map(|serial| disk(serial, 1 << 30)).collect();
            machine::inventory(draft, id, Inventory { disks, ..Inventory::default() }).expect("stored");
        };
        has(&mut draft, &["A", "LATE"]);
        machine::hello(&mut draft, id, SECOND, Progress::Idle).expect("hello");
        has(&mut draft, &["A"]);
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), Some(1));
        refuse(&mut draft);
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), None, "it has had it");
        has(&mut draft, &[]);
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), None, "a disk that goes helps nobody");
        has(&mut draft, &["LATE"]);
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), Some(1));
        refuse(&mut draft);
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), None, "once for each disk that comes");
        has(&mut draft, &["LATE", "A"]);
        machine::progress(&mut draft, id, &Progress::Confirmed { generation: Generation(1) }).expect("noted");
        has(&mut draft, &["LATE", "A", "B"]);
        let is = Progress::Confirmed { generation: Generation(1) };
        assert_eq!(given(&draft, id, SECOND, is), None, "it is what it should be");
    }

    #[test]
    fn what_was_confirmed_and_failed_in_one_boot_is_tried_again_in_the_next() {
        let mut draft = draft();
        let id = member(&mut draft);
        want(&mut draft, id, "one");
        confirm(&mut draft, id);
        machine::hello(&mut draft, id, SECOND, Progress::Idle).expect("hello");
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), Some(1));
        for _ in 0..2 {
            machine::progress(&mut draft, id, &reverted(1)).expect("noted");
            assert_eq!(given(&draft, id, SECOND, Progress::Idle), None, "once in each boot");
        }
        assert_eq!(handed(&draft, id), Some((1, "one".into())));
        machine::hello(&mut draft, id, THIRD, Progress::Idle).expect("hello");
        assert_eq!(given(&draft, id, THIRD, Progress::Idle), Some(1), "a router may have been late");
        machine::progress(&mut draft, id, &reverted(1)).expect("noted");
        assert_eq!(given(&draft, id, THIRD, Progress::Idle), None, "the same again, in another boot");
        machine::hello(&mut draft, id, FIRST, Progress::Idle).expect("hello");
        confirm_again(&mut draft, id);
        assert_eq!(
            draft.need::<Machine>(&id).expect("there").outcome,
            Progress::Confirmed { generation: Generation(1) }
        );
    }

    #[test]
    fn what_a_document_leaves_out_is_what_holds_and_not_what_failed() {
        let mut draft = draft();
        let id = member(&mut draft);
        let left_out = |draft: &Draft| {
            let network = machine::whole(draft.state(), id, Desired::default()).network;
            network.and_then(|network| network.hostname)
        };
        want(&mut draft, id, "one");
        confirm(&mut draft, id);
        want(&mut draft, id, "two");
        assert_eq!(left_out(&draft), Some("two".into()), "it is on its way");
        machine::progress(&mut draft, id, &reverted(2)).expect("noted");
        assert_eq!(left_out(&draft), Some("one".into()));
    }

    #[test]
    fn a_push_in_the_middle_of_which_the_power_failed_ends_as_reverted_and_is_not_given_again() {
        for (confirmed_before, says) in [(true, "comes back with generation 1"), (false, "comes back as it boots")] {
            let mut draft = draft();
            let id = member(&mut draft);
            if confirmed_before {
                want(&mut draft, id, "one");
                confirm(&mut draft, id);
            }
            let operation = want(&mut draft, id, "two").id;
            let generation = draft.need::<Machine>(&id).expect("there").generation.0;
            machine::progress(&mut draft, id, &applying(generation)).expect("noted");
            machine::hello(&mut draft, id, SECOND, Progress::Idle).expect("hello");
            let ended = draft.need::<Operation>(&operation).expect("there");
            let OperationState::Failed { why } = ended.state else { panic!("it did not end: {ended:?}") };
            assert!(why.starts_with("reverted: interrupted: ") && why.contains(says), "{why}");
            let ending = ended.outcome.expect("it is known how the machine came out of it").ending;
            assert_eq!(ending, outcome::Ending::Reverted { reason: Reason::Interrupted });
            let next = confirmed_before.then_some(1);
            assert_eq!(given(&draft, id, SECOND, Progress::Idle), next);
        }
    }

    #[test]
    fn what_is_tried_again_in_another_boot_is_confirmed_there_over_whatever_way() {
        let mut draft = draft();
        let id = member(&mut draft);
        want(&mut draft, id, "one");
        confirm(&mut draft, id);
        machine::hello(&mut draft, id, SECOND, Progress::Idle).expect("hello");
        machine::progress(&mut draft, id, &reverted(1)).expect("noted");
        machine::hello(&mut draft, id, THIRD, Progress::Idle).expect("hello");
        assert_eq!(given(&draft, id, THIRD, Progress::Idle), Some(1));
        let digest = draft.need::<Confirmed>(&id).expect("kept").digest;
        machine::confirm(&mut draft, id, Generation(1), digest, Times::default()).expect("the router is there by now");
        let is = Progress::Confirmed { generation: Generation(1) };
        machine::progress(&mut draft, id, &is).expect("noted");
        assert_eq!(draft.need::<Machine>(&id).expect("there").outcome, is);
    }

    #[test]
    fn a_push_that_had_not_begun_when_the_machine_started_anew_is_given_to_it_then() {
        let mut draft = draft();
        let id = member(&mut draft);
        let operation = want(&mut draft, id, "one").id;
        machine::hello(&mut draft, id, SECOND, Progress::Idle).expect("hello");
        assert_eq!(draft.need::<Operation>(&operation).expect("there").state, OperationState::Queued);
        assert_eq!(given(&draft, id, SECOND, Progress::Idle), Some(1));
    }
}
