//! Rollouts from their first machine to their last, on a clock that is pushed.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use muster_protocol::Generation;
use muster_protocol::desired::check;
use muster_protocol::enroll::Identity;
use muster_protocol::hello::{Progress, Reason, Times};

use super::check::Prepared;
use super::record::Member;
use super::waves::{AWAY_MS, LOST_MS, Tally, Waits, look};
use super::*;
use crate::fleet::draft::tests::draft;
use crate::fleet::enrollment::tests::enrolled;
use crate::fleet::record::DesiredState;
use crate::fleet::state::{Record, read_value, stored_key, stored_value};
use crate::store::{BATCH_LIMIT, Write};

const SOAK_MS: u64 = 30_000;

/// A fleet, and who of it is there since when.
struct World {
    draft: Draft,
    machines: Vec<MachineId>,
    contacts: Rc<RefCell<HashMap<MachineId, Contact>>>,
}

fn reverted(generation: Generation) -> Progress {
    let (reason, times) = (Reason::NoGateway, Times::default());
    Progress::Reverted { generation, reason, why: "no gateway".into(), times }
}

fn revert_failed(generation: Generation) -> Progress {
    let (reason, times) = (Reason::NoGateway, Times::default());
    Progress::RevertFailed { generation, reason, why: "no gateway".into(), times }
}

fn pace() -> Pace {
    Pace { canary: 1, wave: WaveSize::Percent(25), soak_ms: SOAK_MS, max_failures: 0 }
}

/// A document that differs with `n`.
fn wish(n: u16) -> Desired {
    let text = format!("network: {{ethernets: {{lan: {{mtu: {}}}}}}}", 1400 + n);
    crate::documents::parse(&text).expect("a document").into_inner()
}

impl World {
    /// With so many machines, all there.
    fn of(count: u16) -> Self {
        let mut draft = draft();
        let one = |n: u16| {
            let id = enrolled(&mut draft, Identity { system_serial: format!("SYS-{n}"), ..Identity::default() });
            machine::approve(&mut draft, id).expect("approved");
            machine::rename(&mut draft, id, &format!("m{n:05}")).expect("renamed");
            id
        };
        let machines: Vec<MachineId> = (0..count).map(one).collect();
        let contacts = machines.iter().map(|id| (*id, Contact::Online { since_unix_ms: 0 })).collect();
        Self { draft, machines, contacts: Rc::new(RefCell::new(contacts)) }
    }

    fn contact(&self) -> impl Fn(MachineId) -> Contact + use<> {
        let contacts = self.contacts.clone();
        move |machine| contacts.borrow()[&machine]
    }

    fn leaves(&self, n: usize) {
        let since_unix_ms = self.draft.now_unix_ms();
        self.contacts.borrow_mut().insert(self.machines[n], Contact::Offline { since_unix_ms });
    }

    fn comes(&self, n: usize) {
        let since_unix_ms = self.draft.now_unix_ms();
        self.contacts.borrow_mut().insert(self.machines[n], Contact::Online { since_unix_ms });
    }

    /// Rolls `wish(1)` out over these machines.
    fn rolls(&mut self, pace: Pace, over: impl IntoIterator<Item = usize>) -> Result<u64, Refusal> {
        let contact = self.contact();
        let number = begin(&mut self.draft, "all machines".into(), muster_protocol::Digest::of(b"t"), pace);
        for (place, n) in (1..).zip(over) {
            let machine = self.draft.need::<Machine>(&self.machines[n]).expect("there");
            let whole = machine::whole(self.draft.state(), machine.id, wish(1));
            let one = Prepared {
                machine: machine.id,
                seen: machine.generation,
                is_there: is_there(self.draft.state(), &machine, &whole),
                desired: check(wish(1)).expect("sound"),
            };
            let state = match one.is_there {
                true => MemberState::There,
                false => MemberState::Waiting { desired: Box::new(one.desired.into_inner()), seen: one.seen },
            };
            self.draft.put(Member { key: MemberKey { rollout: number, place }, machine: one.machine, state });
        }
        let online = move |machine| matches!(contact(machine), Contact::Online { .. });
        start(&mut self.draft, number, online).map(|rollout| rollout.number).inspect_err(|_| {
            assert!(remove(&mut self.draft, number));
        })
    }

    fn rollout(&self, number: u64) -> Rollout {
        self.draft.need::<Rollout>(&number).expect("there")
    }

    /// Does what comes next until nothing does, and says what is waited for then.
    fn goes_on(&mut self, number: u64) -> Waits {
        let contact = self.contact();
        for _ in 0..10_000 {
            let look = look(self.draft.state(), &self.rollout(number), &contact, self.draft.now_unix_ms());
            if look.step.is_none() {
                return look.waits;
            }
            advance(&mut self.draft, number, &contact).expect("goes on");
        }
        panic!("it never waits: {:?}", self.rollout(number));
    }

    /// Which machines were given anything, by their numbers.
    fn touched(&self) -> Vec<usize> {
        let is_touched = |n: &usize| self.generation(*n) > Generation(0);
        (0..self.machines.len()).filter(is_touched).collect()
    }

    fn generation(&self, n: usize) -> Generation {
        self.draft.need::<Machine>(&self.machines[n]).expect("there").generation
    }

    fn says(&mut self, n: usize, progress: impl Fn(Generation) -> Progress) {
        let progress = progress(self.generation(n));
        machine::progress(&mut self.draft, self.machines[n], &progress).expect("noted");
    }

    fn confirms(&mut self, n: usize) {
        self.says(n, |generation| Progress::Confirmed { generation });
    }

    fn reverts(&mut self, n: usize) {
        self.says(n, reverted);
    }

    /// Somebody else's wish.
    fn applies(&mut self, n: usize) {
        let desired = check(wish(9)).expect("sound");
        machine::set_desired(&mut self.draft, self.machines[n], desired, None, None).expect("set");
    }

    /// All that were touched and have not said how it went, confirm; then the soak passes.
    fn all_confirm_and_soak(&mut self) {
        for n in self.touched() {
            let machine = self.draft.need::<Machine>(&self.machines[n]).expect("there");
            let is_there = matches!(self.contact()(machine.id), Contact::Online { .. });
            if is_there && machine.outcome.generation() != Some(machine.generation) {
                self.confirms(n);
            }
        }
        self.draft.advance_ms(SOAK_MS);
    }

    fn why(&self, number: u64) -> String {
        match self.rollout(number).state {
            RolloutState::Stopped { why } => why,
            other => panic!("it has not stopped: {other:?}"),
        }
    }

    fn events(&self) -> Vec<String> {
        let of_rollouts = |event: &&crate::fleet::record::Event| event.kind.starts_with("rollout.");
        self.draft.state().events.iter().filter(of_rollouts).map(|event| event.kind.clone()).collect()
    }
}

#[test]
fn a_rollout_begins_with_its_canary_and_goes_on_in_waves() {
    let mut world = World::of(10);
    let number = world.rolls(pace(), 0..10).expect("starts");
    for expected in [1, 4, 7, 10] {
        let waits = world.goes_on(number);
        assert!(matches!(waits, Waits::Machines { .. }), "{waits:?}");
        assert_eq!(world.touched(), (0..expected).collect::<Vec<_>>());
        world.all_confirm_and_soak();
    }
    assert_eq!(world.goes_on(number), Waits::Nothing);
    assert_eq!(world.rollout(number).state, RolloutState::Finished);
    let waves = ["rollout.wave"; 3];
    assert_eq!(world.events(), [&["rollout.started"][..], &waves, &["rollout.finished"]].concat());
}

#[test]
fn a_wave_takes_as_many_machines_as_were_asked_for() {
    for (wave, after_canaries) in [(WaveSize::Machines(3), 5), (WaveSize::Percent(100), 7), (WaveSize::Percent(1), 3)] {
        let mut world = World::of(7);
        let number = world.rolls(Pace { canary: 2, wave, ..pace() }, 0..7).expect("starts");
        world.goes_on(number);
        assert_eq!(world.touched(), [0, 1]);
        world.all_confirm_and_soak();
        world.goes_on(number);
        assert_eq!(world.touched().len(), after_canaries, "{wave}");
    }
}

#[test]
fn nobody_is_given_anything_before_the_wave_before_has_soaked() {
    let mut world = World::of(4);
    let number = world.rolls(pace(), 0..4).expect("starts");
    world.goes_on(number);
    let machine = world.machines[0];
    assert_eq!(world.goes_on(number), Waits::Machines { count: 1, one: machine });
    world.confirms(0);
    let until_unix_ms = world.draft.now_unix_ms() + SOAK_MS;
    assert_eq!(world.goes_on(number), Waits::Soak { until_unix_ms });
    world.draft.advance_ms(SOAK_MS - 1);
    assert_eq!(world.goes_on(number), Waits::Soak { until_unix_ms });
    assert_eq!(world.touched(), [0]);
    world.draft.advance_ms(1);
    world.goes_on(number);
    assert_eq!(world.touched(), [0, 1]);
}

#[test]
fn a_canary_that_reverts_stops_the_rollout_and_no_other_machine_is_touched() {
    for says in [reverted, revert_failed, |generation| Progress::Refused { generation, why: "no gateway".into() }] {
        let mut world = World::of(10);
        // However many may fail: one of them is not the canary.
        let number = world.rolls(Pace { max_failures: 5, ..pace() }, 0..10).expect("starts");
        world.goes_on(number);
        world.says(0, says);
        assert_eq!(world.goes_on(number), Waits::Nothing);
        assert_eq!(world.touched(), [0]);
        let why = world.why(number);
        assert!(why.starts_with("m00000: ") && why.contains("no gateway"), "{why}");
        world.draft.advance_ms(3_600_000);
        world.goes_on(number);
        assert_eq!(world.touched(), [0]);
        assert_eq!(world.events(), ["rollout.started", "rollout.stopped"]);
    }
}

#[test]
fn a_canary_that_proved_its_network_and_reverted_all_the_same_stops_the_rollout() {
    let mut world = World::of(10);
    let number = world.rolls(pace(), 0..10).expect("starts");
    world.goes_on(number);
    let canary = world.machines[0];
    let wanted = world.draft.need::<DesiredState>(&canary).expect("it was given something");
    machine::confirm(&mut world.draft, canary, wanted.generation, wanted.digest, Times::default()).expect("answered");
    world.draft.advance_ms(SOAK_MS);
    assert_eq!(world.goes_on(number), Waits::Machines { count: 1, one: canary }, "it has not said that it keeps it");
    // The answer was lost.
    world.reverts(0);
    assert_eq!(world.goes_on(number), Waits::Nothing);
    assert!(world.why(number).starts_with("m00000: "));
    assert_eq!(world.touched(), [0]);
}

#[test]
fn machines_of_later_waves_may_fail_as_many_as_were_allowed() {
    let mut world = World::of(8);
    let wave = WaveSize::Machines(3);
    let number = world.rolls(Pace { max_failures: 1, wave, ..pace() }, 0..8).expect("starts");
    world.goes_on(number);
    world.all_confirm_and_soak();
    world.goes_on(number);
    world.reverts(2);
    world.all_confirm_and_soak();
    assert!(matches!(world.goes_on(number), Waits::Machines { .. }));
    assert_eq!(world.touched().len(), 7, "one was allowed");
    world.reverts(4);
    world.goes_on(number);
    assert_eq!(world.why(number).matches("no gateway").count(), 2);
    assert_eq!(world.touched().len(), 7);
}

#[test]
fn machines_that_are_offline_come_last_and_hold_nobody_up() {
    let mut world = World::of(6);
    [0, 1].into_iter().for_each(|n| world.leaves(n));
    let number = world.rolls(Pace { wave: WaveSize::Machines(2), ..pace() }, 0..6).expect("starts");
    for expected in [&[2][..], &[2, 3, 4]] {
        world.goes_on(number);
        assert_eq!(world.touched(), expected);
        world.all_confirm_and_soak();
    }
    // One of them is there, and is waited for; the other one has what it will find when it is back.
    world.goes_on(number);
    assert_eq!(world.touched(), [0, 2, 3, 4, 5]);
    world.all_confirm_and_soak();
    assert_eq!(world.goes_on(number), Waits::Nothing);
    assert_eq!(world.rollout(number).state, RolloutState::Finished);
    let tally = Tally::of(world.draft.state(), &world.rollout(number), &world.contact());
    assert_eq!(tally, Tally { confirmed: 4, offline: 2, ..Tally::default() });
    // What becomes of it is noted afterwards too.
    world.comes(0);
    world.confirms(0);
    let tally = Tally::of(world.draft.state(), &world.rollout(number), &world.contact());
    assert_eq!((tally.confirmed, tally.offline), (5, 1));
}

#[test]
fn nobody_is_passed_over_as_offline_before_he_could_come_back_to_a_controller_that_has_just_started() {
    let mut world = World::of(6);
    let number = world.rolls(Pace { wave: WaveSize::Machines(2), ..pace() }, 0..6).expect("starts");
    world.goes_on(number);
    world.all_confirm_and_soak();
    let since_unix_ms = world.draft.now_unix_ms() + 120_000;
    for n in 1..6 {
        world.contacts.borrow_mut().insert(world.machines[n], Contact::Offline { since_unix_ms });
    }
    assert_eq!((world.goes_on(number), world.touched()), (Waits::Return(world.machines[1]), vec![0]));
    world.comes(4);
    world.goes_on(number);
    world.all_confirm_and_soak();
    assert_eq!((world.goes_on(number), world.touched()), (Waits::Return(world.machines[1]), vec![0, 4]));
    world.draft.advance_ms(120_000);
    assert_eq!(world.goes_on(number), Waits::Nothing);
    let tally = Tally::of(world.draft.state(), &world.rollout(number), &world.contact());
    assert_eq!(tally, Tally { confirmed: 2, offline: 4, ..Tally::default() });
}

#[test]
fn a_machine_that_comes_back_while_the_rollout_goes_on_is_waited_for_and_may_stop_it() {
    let mut world = World::of(4);
    world.leaves(1);
    let number = world.rolls(Pace { wave: WaveSize::Machines(3), ..pace() }, 0..4).expect("starts");
    world.goes_on(number);
    world.all_confirm_and_soak();
    world.goes_on(number);
    world.comes(1);
    world.confirms(2);
    world.confirms(3);
    assert_eq!(world.goes_on(number), Waits::Machines { count: 1, one: world.machines[1] });
    world.reverts(1);
    world.goes_on(number);
    assert!(world.why(number).starts_with("m00001: "));
}

#[test]
fn a_machine_that_began_and_is_not_seen_again_stops_the_rollout() {
    let mut world = World::of(3);
    let number = world.rolls(pace(), 0..3).expect("starts");
    world.goes_on(number);
    world.leaves(0);
    assert!(matches!(world.goes_on(number), Waits::Machines { .. }), "it may be on its way back");
    world.draft.advance_ms(LOST_MS - 1);
    assert!(matches!(world.goes_on(number), Waits::Machines { .. }));
    world.draft.advance_ms(1);
    world.goes_on(number);
    assert!(world.why(number).contains("has not come back"), "{}", world.why(number));
    assert_eq!(world.touched(), [0]);
}

#[test]
fn a_machine_that_goes_away_in_the_soak_stops_the_rollout_and_a_short_break_makes_the_soak_longer() {
    let mut world = World::of(3);
    let number = world.rolls(pace(), 0..3).expect("starts");
    world.goes_on(number);
    world.confirms(0);
    world.draft.advance_ms(SOAK_MS - 1);
    world.leaves(0);
    assert_eq!(world.goes_on(number), Waits::Return(world.machines[0]));
    world.draft.advance_ms(1_000);
    world.comes(0);
    let until_unix_ms = world.draft.now_unix_ms() + SOAK_MS;
    assert_eq!(world.goes_on(number), Waits::Soak { until_unix_ms });
    world.leaves(0);
    world.draft.advance_ms(AWAY_MS);
    world.goes_on(number);
    assert!(world.why(number).contains("went away"), "{}", world.why(number));
    assert_eq!(world.touched(), [0]);
}

#[test]
fn what_reverts_after_it_was_confirmed_stops_the_rollout_while_its_wave_soaks() {
    let mut world = World::of(3);
    let number = world.rolls(pace(), 0..3).expect("starts");
    world.goes_on(number);
    world.confirms(0);
    world.goes_on(number);
    world.reverts(0);
    world.goes_on(number);
    assert!(world.why(number).contains("no gateway"));
}

#[test]
fn what_somebody_else_asks_of_a_machine_takes_it_out_of_the_rollout_and_is_no_failure() {
    let mut world = World::of(4);
    let number = world.rolls(Pace { wave: WaveSize::Machines(1), ..pace() }, 0..4).expect("starts");
    world.goes_on(number);
    // The canary before it came out, at which it was at work: another one has to be the canary.
    world.says(0, |generation| Progress::Applying { generation, percent: 1, step: "a step".into() });
    world.applies(0);
    world.says(0, |_| reverted(Generation(1)));
    world.reverts(0);
    assert_eq!(world.goes_on(number), Waits::Machines { count: 1, one: world.machines[1] });
    assert_eq!((world.rollout(number).wave, world.generation(1)), (0, Generation(1)));
    // One that has not had its turn stays as somebody else wants it.
    world.applies(2);
    world.all_confirm_and_soak();
    world.goes_on(number);
    assert_eq!([2, 3].map(|n| world.generation(n)), [Generation(1), Generation(1)]);
    let theirs = world.draft.state().desired.get(&world.machines[2]).expect("theirs").desired.clone();
    assert_eq!(theirs, wish(9));
    // One that has confirmed, and is given something else in the soak, holds nothing up.
    world.confirms(3);
    world.applies(3);
    world.leaves(3);
    world.goes_on(number);
    assert_eq!(world.rollout(number).state, RolloutState::Finished);
    let tally = Tally::of(world.draft.state(), &world.rollout(number), &world.contact());
    assert_eq!(tally, Tally { confirmed: 2, left: 2, ..Tally::default() });
}

#[test]
fn a_machine_that_is_retired_or_cannot_take_anything_leaves_the_rollout() {
    let mut world = World::of(4);
    let number = world.rolls(Pace { wave: WaveSize::Machines(9), ..pace() }, 0..4).expect("starts");
    machine::retire(&mut world.draft, world.machines[1]).expect("retired");
    world.goes_on(number);
    world.all_confirm_and_soak();
    world.goes_on(number);
    machine::retire(&mut world.draft, world.machines[2]).expect("retired");
    world.all_confirm_and_soak();
    world.goes_on(number);
    assert_eq!(world.rollout(number).state, RolloutState::Finished);
    let tally = Tally::of(world.draft.state(), &world.rollout(number), &world.contact());
    assert_eq!(tally, Tally { confirmed: 2, left: 2, ..Tally::default() });
}

#[test]
fn a_rollout_that_is_held_gives_nothing_and_still_stops_by_itself() {
    let mut world = World::of(4);
    let number = world.rolls(pace(), 0..4).expect("starts");
    world.goes_on(number);
    pause(&mut world.draft, number).expect("paused");
    world.all_confirm_and_soak();
    assert_eq!(world.goes_on(number), Waits::Nothing);
    assert_eq!(world.touched(), [0]);
    resume(&mut world.draft, number).expect("resumed");
    world.goes_on(number);
    assert_eq!(world.touched(), [0, 1]);
    pause(&mut world.draft, number).expect("paused");
    world.reverts(1);
    world.goes_on(number);
    assert!(world.why(number).contains("m00001"));
    assert!(matches!(resume(&mut world.draft, number), Err(Refusal::Conflict(_))));
}

#[test]
fn a_rollout_that_was_cancelled_gives_nothing_any_more() {
    let mut world = World::of(4);
    let number = world.rolls(pace(), 0..4).expect("starts");
    world.goes_on(number);
    cancel(&mut world.draft, number).expect("cancelled");
    world.all_confirm_and_soak();
    world.goes_on(number);
    assert_eq!(world.touched(), [0]);
    assert!(world.rollout(number).ended_unix_ms.is_some());
    assert!(pause(&mut world.draft, number).is_err() && resume(&mut world.draft, number).is_err());
    let audited: Vec<_> = world.draft.audited().into_iter().map(|entry| entry.action).collect();
    assert_eq!(audited.iter().filter(|action| action.starts_with("rollout.")).count(), 2, "{audited:?}");
}

#[test]
fn two_rollouts_never_share_a_machine_unless_the_first_has_ended() {
    let mut world = World::of(8);
    let first = world.rolls(pace(), 0..7).expect("starts");
    let refused = world.rolls(pace(), 1..8).expect_err("they share six").to_string();
    assert!(refused.contains("m00001, m00002, m00003, m00004, m00005 and 1 more are in rollout 1"), "{refused}");
    assert_eq!(world.draft.state().members.len(), 7, "nothing of the second one is left");
    let other = world.rolls(pace(), 7..8).expect("they share none");
    assert_eq!(other, first + 1);
    cancel(&mut world.draft, first).expect("cancelled");
    world.rolls(pace(), 1..7).expect("the first has ended");
}

#[test]
fn nobody_is_touched_where_no_canary_is_there() {
    let mut world = World::of(2);
    [0, 1].into_iter().for_each(|n| world.leaves(n));
    let refused = world.rolls(pace(), 0..2).expect_err("nobody is there").to_string();
    assert!(refused.contains("none is online"), "{refused}");
    // One that leaves between the asking and its turn is waited for.
    world.comes(0);
    let number = world.rolls(pace(), 0..2).expect("starts");
    world.leaves(0);
    assert_eq!(world.goes_on(number), Waits::Canary);
    world.comes(1);
    world.goes_on(number);
    assert_eq!(world.touched(), [1]);
}

#[test]
fn machines_that_are_so_already_are_given_nothing() {
    let mut world = World::of(5);
    let number = world.rolls(Pace { wave: WaveSize::Percent(100), ..pace() }, 0..3).expect("starts");
    for _ in 0..3 {
        world.goes_on(number);
        world.all_confirm_and_soak();
    }
    assert_eq!(world.rollout(number).state, RolloutState::Finished);
    let again = world.rolls(pace(), 0..5).expect("starts");
    world.goes_on(again);
    assert_eq!(
        [0, 1, 2, 3].map(|n| world.generation(n)),
        [1, 1, 1, 1].map(Generation),
        "the canary is one that changes"
    );
    cancel(&mut world.draft, again).expect("cancelled");
    let nothing = world.rolls(pace(), 0..3).expect("starts");
    world.goes_on(nothing);
    assert_eq!(world.rollout(nothing).state, RolloutState::Finished);
    assert_eq!(world.touched(), [0, 1, 2, 3]);
}

/// What a store holds after these writes.
fn written(store: &mut BTreeMap<Vec<u8>, Vec<u8>>, writes: Vec<Write>) {
    for write in writes {
        match write {
            Write::Put { key, value } => drop(store.insert(key, value)),
            Write::Delete { key } => drop(store.remove(&key)),
        }
    }
    store.retain(|key, _| !key.starts_with(crate::fleet::ledger::PREFIX));
}

#[test]
fn ten_thousand_machines_go_in_batches_that_the_store_takes_whenever_the_controller_is_killed() {
    let mut world = World::of(0);
    let mut store = BTreeMap::new();
    let count = 10_000_u16;
    for n in 0..count {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        let id = MachineId::from_bytes(id);
        let template = enrolled_once(&mut world.draft);
        world.draft.put(Machine { id, name: format!("m{n:05}"), ..template });
        world.machines.push(id);
    }
    let online = Contact::Online { since_unix_ms: 0 };
    let contacts = world.machines.iter().map(|id| (*id, online)).collect();
    *world.contacts.borrow_mut() = contacts;
    let number = world.rolls(Pace { soak_ms: 0, ..pace() }, 0..usize::from(count)).expect("starts");
    let now = world.draft.now_unix_ms();
    let (state, writes) = world.draft.finish();
    written(&mut store, writes);
    let contact = |_| online;
    let (mut state, mut batches) = (state, 0_u32);
    while !state.rollouts.get(&number).expect("there").state.is_ended() {
        let mut draft = Draft::new(state, now);
        draft.attempt(|draft| advance(draft, number, &contact)).expect("goes on");
        // Whoever was given something confirms at once.
        let given: Vec<MachineId> = draft.state().all_unfinished().map(|operation| operation.machine).collect();
        for id in given {
            let generation = draft.need::<Machine>(&id).expect("there").generation;
            machine::progress(&mut draft, id, &Progress::Confirmed { generation }).expect("noted");
        }
        let (next, writes) = draft.finish();
        assert!(writes.len() <= BATCH_LIMIT, "{} writes", writes.len());
        written(&mut store, writes);
        batches += 1;
        // A controller that is killed now finds this, now and then.
        state = match batches % 100 {
            0 => State::load(store.clone().into_iter().collect()).expect("loads"),
            _ => next,
        };
    }
    let rollout = state.rollouts.get(&number).expect("there").clone();
    assert_eq!((rollout.state.clone(), rollout.wave), (RolloutState::Finished, 4));
    assert_eq!(Tally::of(&state, &rollout, &contact), Tally { confirmed: count.into(), ..Tally::default() });
}

/// A machine as they all are after they were approved.
fn enrolled_once(draft: &mut Draft) -> Machine {
    if let Some(machine) = draft.state().machines.iter().next() {
        return machine.clone();
    }
    let id = enrolled(draft, Identity::default());
    machine::approve(draft, id).expect("approved")
}

#[test]
fn a_controller_that_is_killed_after_any_change_goes_on_where_it_was() {
    let run = |killed: bool| {
        let mut world = World::of(6);
        world.leaves(4);
        let number =
            world.rolls(Pace { wave: WaveSize::Machines(2), max_failures: 1, ..pace() }, 0..6).expect("starts");
        let (contact, mut store, mut trace) = (world.contact(), BTreeMap::new(), Vec::new());
        let (mut now, mut state) = (world.draft.now_unix_ms(), State::default());
        let (first, writes) = world.draft.finish();
        written(&mut store, writes);
        state.clone_from(&first);
        for _ in 0..200 {
            if killed {
                state = State::load(store.clone().into_iter().collect()).expect("loads");
            }
            let rollout = state.rollouts.get(&number).expect("there").clone();
            let look = look(&state, &rollout, &contact, now);
            trace.push(format!("{:?}", (&rollout.state, rollout.wave, &look.waits)));
            let mut draft = Draft::new(state.clone(), now);
            match look.waits {
                Waits::Machines { one, .. } => {
                    let generation = draft.need::<Machine>(&one).expect("there").generation;
                    let progress = match one == world.machines[3] {
                        true => reverted(generation),
                        false => Progress::Confirmed { generation },
                    };
                    machine::progress(&mut draft, one, &progress).expect("noted");
                }
                Waits::Soak { until_unix_ms } => now = until_unix_ms,
                Waits::Nothing if rollout.state.is_ended() => break,
                _ => advance(&mut draft, number, &contact).expect("goes on"),
            }
            let (next, writes) = draft.finish();
            written(&mut store, writes);
            state = next;
        }
        trace
    };
    let whole = run(false);
    assert!(whole.last().is_some_and(|last| last.contains("Finished")), "{whole:#?}");
    assert_eq!(run(true), whole);
}

#[test]
fn rollouts_that_ended_are_kept_for_long_and_not_for_ever() {
    let mut world = World::of(1);
    for _ in 0..=ENDED_KEPT {
        let number = world.rolls(pace(), 0..1).expect("starts");
        cancel(&mut world.draft, number).expect("cancelled");
        world.draft.advance_ms(1);
        while let Some(oldest) = outlived(world.draft.state()) {
            remove(&mut world.draft, oldest);
        }
    }
    let numbers: Vec<u64> = world.draft.state().rollouts.iter().map(|rollout| rollout.number).collect();
    assert_eq!((numbers.len(), numbers[0]), (ENDED_KEPT, 2));
    assert_eq!(world.draft.state().members.len(), ENDED_KEPT);
}

/// The bytes that rollouts leave in the store: a released controller's are read for ever.
#[test]
fn records() {
    fn stored<R: Record + PartialEq + std::fmt::Debug>(record: &R) -> String {
        let value = stored_value(record);
        assert_eq!(read_value::<R>(&value).as_ref(), Some(record));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let key = String::from_utf8_lossy(R::PREFIX.as_bytes()).into_owned();
        format!("{key}{} {}", hex(&stored_key::<R>(&record.key())[key.len()..]), hex(&value))
    }
    let rollout = |state| Rollout {
        number: 7,
        selector: "a=b".into(),
        template: muster_protocol::Digest::of(b""),
        pace: Pace { wave: WaveSize::Machines(3), ..pace() },
        who: "w".into(),
        created_unix_ms: 300,
        ended_unix_ms: None,
        machines: 9,
        state,
        wave: 1,
        left: 2,
    };
    let digest = muster_protocol::Digest::of(b"").to_string();
    for (state, bytes) in [
        (RolloutState::Preparing, "00"),
        (RolloutState::Running, "01"),
        (RolloutState::Paused, "02"),
        (RolloutState::Stopped { why: "w".into() }, "030177"),
        (RolloutState::Finished, "04"),
        (RolloutState::Cancelled, "05"),
    ] {
        let expected = format!("rollout/0000000000000007 000703613d62{digest}010003b0ea01000177ac020009{bytes}0102");
        assert_eq!(stored(&rollout(state)), expected);
    }
    let (wave, generation, why) = (1, Generation(5), "w".to_owned());
    for (state, bytes) in [
        (MemberState::Waiting { desired: Box::default(), seen: generation }, "00000005"),
        (MemberState::Given { wave, generation, reach: Reach::Online }, "01010500"),
        (MemberState::Given { wave, generation, reach: Reach::Offline }, "01010501"),
        (MemberState::Confirmed { wave, generation, at_unix_ms: 300 }, "020105ac02"),
        (MemberState::Failed { wave, generation, why: why.clone() }, "0301050177"),
        (MemberState::There, "04"),
        (MemberState::Left { why }, "050177"),
    ] {
        let member =
            Member { key: MemberKey { rollout: 7, place: 258 }, machine: MachineId::from_bytes([1; 16]), state };
        let expected =
            format!("rollout-member/000000000000000700000102 0007820201010101010101010101010101010101{bytes}");
        assert_eq!(stored(&member), expected);
    }
}
