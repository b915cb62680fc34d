//! What a machine that is switched from outside may count on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_protocol::enroll::Identity;
use muster_protocol::hello::Progress;
use muster_protocol::{BootId, MachineId};

use super::keep::{Carry, Means, keep};
use super::*;
use crate::fleet::draft::tests::draft;
use crate::fleet::enrollment::tests::enrolled;
use crate::fleet::machine::controls::{BmcAddress, Hooks, Method, Wake, set_bmc, set_outlet, set_wake};
use crate::fleet::record::OperationStep;
use crate::fleet::state::{read_value, stored_value};
use crate::fleet::{Author, Fleet, operation};
use crate::pki::Pki;
use crate::store::MemoryStore;

fn seal() -> Arc<crate::pki::DiskSeal> {
    let data = tempfile::tempdir().expect("a temporary folder");
    Pki::open(data.path()).expect("opens").disks().expect("made")
}

fn bmc() -> BmcAddress {
    BmcAddress::Ipmi { host: "10.0.9.8".into(), port: 623 }
}

fn member(draft: &mut Draft) -> MachineId {
    let id = enrolled(draft, Identity::default());
    machine::approve(draft, id).expect("approved");
    machine::hello(draft, id, BootId::from_bytes([1; 16]), Progress::Idle).expect("hello");
    id
}

fn with_bmc(draft: &mut Draft) -> MachineId {
    let id = member(draft);
    set_bmc(draft, &seal(), id, bmc(), "admin", "secret").expect("named");
    id
}

fn now(draft: &Draft, operation: &Operation) -> Operation {
    draft.need(&operation.id).expect("there")
}

fn untold() -> Vec<Told> {
    vec![("IPMI at 10.0.9.8".into(), Err(Failure::Untold("no answer".into())))]
}

fn unknown() -> Vec<Told> {
    vec![("IPMI at 10.0.9.8".into(), Err(Failure::Unknown("told, no answer".into())))]
}

#[test]
fn what_could_not_be_told_is_tried_again_with_pauses_and_a_cap() {
    let mut draft = draft();
    let id = with_bmc(&mut draft);
    let operation = ask(&mut draft, id, Switch::Restart).expect("asked");
    let mut tries = 0;
    while !now(&draft, &operation).state.is_ended() {
        let (ready, next) = due(draft.state(), draft.now_unix_ms());
        if ready.is_empty() {
            let next = next.expect("there is a next one");
            draft.advance_ms(next - draft.now_unix_ms());
            continue;
        }
        assert_eq!(begin(&mut draft, operation.id), Ok(Some((id, Switch::Restart))));
        assert_eq!(begin(&mut draft, operation.id), Ok(None), "nobody else begins the same");
        assert_eq!(due(draft.state(), draft.now_unix_ms()), (vec![], None));
        tried(&mut draft, operation.id, &untold()).expect("noted");
        tries += 1;
    }
    assert_eq!(tries, PAUSES_MS.len() + 1);
    let ended = now(&draft, &operation);
    assert!(
        matches!(&ended.state, OperationState::Failed { why } if why == "IPMI at 10.0.9.8: no answer"),
        "{ended:?}"
    );
    assert_eq!(ended.steps.len(), PAUSES_MS.len());
}

#[test]
fn a_restart_that_may_have_been_made_is_not_told_again_and_switching_on_is() {
    for (action, is_over) in [(Switch::Restart, true), (Switch::Cycle, true), (Switch::On, false), (Switch::Off, false)]
    {
        for is_crash in [false, true] {
            let mut draft = draft();
            let id = with_bmc(&mut draft);
            let operation = ask(&mut draft, id, action).expect("asked");
            begin(&mut draft, operation.id).expect("begun");
            match is_crash {
                false => tried(&mut draft, operation.id, &unknown()).expect("noted"),
                true => assert_eq!(left_over(&mut draft), Ok(false)),
            }
            let after = now(&draft, &operation);
            assert_eq!(after.state.is_ended(), is_over, "{action:?}: {after:?}");
            assert_eq!(goes_on(action, &unknown()[0].1), !is_over);
        }
    }
}

#[test]
fn what_all_refuse_fails_at_once_and_what_one_does_is_done() {
    let mut draft = draft();
    let id = with_bmc(&mut draft);
    let refused = |name: &str| (name.to_owned(), Err(Failure::Refused("wrong password".into())));
    let first = ask(&mut draft, id, Switch::Cycle).expect("asked");
    begin(&mut draft, first.id).expect("begun");
    tried(&mut draft, first.id, &[refused("BMC"), refused("outlet")]).expect("noted");
    assert!(matches!(now(&draft, &first).state, OperationState::Failed { .. }));
    let second = ask(&mut draft, id, Switch::Cycle).expect("asked");
    assert_ne!(second.id, first.id);
    begin(&mut draft, second.id).expect("begun");
    tried(&mut draft, second.id, &[refused("BMC"), ("outlet".into(), Ok("off and on".into()))]).expect("noted");
    let done = now(&draft, &second);
    assert_eq!((&done.state, done.percent), (&OperationState::Succeeded, 100));
    assert_eq!(done.receipt, "BMC: wrong password; outlet: off and on");
    assert_eq!(ask(&mut draft, id, Switch::Cycle).expect("asked").id, second.id, "a lost answer is asked for again");
    draft.advance_ms(SAME_MS);
    assert_ne!(ask(&mut draft, id, Switch::Cycle).expect("asked").id, second.id);
}

#[test]
fn a_machine_that_comes_back_by_itself_ends_what_was_to_bring_it_back() {
    let mut draft = draft();
    let id = with_bmc(&mut draft);
    let restart = ask(&mut draft, id, Switch::Restart).expect("asked");
    let off = ask(&mut draft, id, Switch::Off).expect("asked");
    assert_eq!(due(draft.state(), draft.now_unix_ms()).0, [restart.id], "one at a time");
    begin(&mut draft, restart.id).expect("begun");
    machine::hello(&mut draft, id, BootId::from_bytes([2; 16]), Progress::Idle).expect("hello");
    assert_eq!(now(&draft, &restart).state, OperationState::Succeeded);
    tried(&mut draft, restart.id, &unknown()).expect("too late");
    assert_eq!(now(&draft, &restart).state, OperationState::Succeeded);
    operation::cancel(&mut draft, off.id).expect("nobody was told");
    assert_eq!(now(&draft, &off).state, OperationState::Cancelled);
}

#[test]
fn only_a_machine_that_is_in_is_switched_and_only_by_what_can() {
    let mut draft = draft();
    let id = member(&mut draft);
    for action in [Switch::On, Switch::Off, Switch::Restart, Switch::Cycle] {
        assert_eq!(ask(&mut draft, id, action), Err(Refusal::Unswitchable { wish: action }));
    }
    set_wake(&mut draft, id, Wake::OnLan).expect("named");
    assert!(ask(&mut draft, id, Switch::On).is_ok());
    assert_eq!(ask(&mut draft, id, Switch::Off), Err(Refusal::Unswitchable { wish: Switch::Off }));
    let pending = enrolled(&mut draft, Identity::default());
    set_wake(&mut draft, pending, Wake::OnLan).expect("named");
    assert!(matches!(ask(&mut draft, pending, Switch::On), Err(Refusal::Conflict(_))));
}

#[test]
fn what_was_named_is_asked_in_order_and_what_does_not_open_is_told() {
    let (mut draft, seal) = (draft(), seal());
    let id = member(&mut draft);
    set_wake(&mut draft, id, Wake::OnLan).expect("named");
    let hooks = Hooks { on: "http://10.0.9.9/on".into(), off: "http://10.0.9.9/off".into(), cycle: None };
    set_outlet(&mut draft, &seal, id, Method::Get, &hooks).expect("named");
    set_bmc(&mut draft, &seal, id, bmc(), "admin", "secret").expect("named");
    let names = |action| -> Vec<String> {
        keep::means(draft.state(), &seal, id, action).into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(Switch::On), ["IPMI at 10.0.9.8", "the outlet at http://10.0.9.9", "Wake-on-LAN"]);
    assert_eq!(names(Switch::Restart), ["IPMI at 10.0.9.8", "the outlet at http://10.0.9.9"]);
    let other = self::seal();
    let closed = keep::means(draft.state(), &other, id, Switch::Restart);
    assert!(closed.iter().all(|(_, means)| matches!(means, Means::Closed)), "{closed:?}");
    let said = keep::carry()(&Means::Closed, Switch::Restart);
    assert!(matches!(said, Err(Failure::Refused(why)) if why.contains("disks.key")));
}

#[tokio::test]
async fn the_loop_tells_those_who_can_and_puts_what_came_of_it_on_record() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let pki = Arc::new(Pki::open(data.path()).expect("opens"));
    let (fleet, _ended) = Fleet::start(MemoryStore::new()).expect("starts");
    let seal = pki.disks().expect("made");
    let begun = fleet.change(Author::controller(), move |draft| {
        let id = member(draft);
        set_bmc(draft, &seal, id, bmc(), "admin", "hunter2")?;
        let operation = ask(draft, id, Switch::Restart)?;
        let other = member(draft);
        set_bmc(draft, &seal, other, bmc(), "admin", "hunter2")?;
        let left = ask(draft, other, Switch::Restart)?;
        // A controller before this one was killed here.
        begin(draft, left.id)?;
        Ok((operation.id, left.id))
    });
    let (operation, left) = begun.await.expect("asked");
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = told.clone();
    let carry: Carry = Arc::new(move |means, action| {
        let Means::Ipmi(bmc) = means else { panic!("{means:?}") };
        noted.lock().expect("no test panics inside").push((bmc.password.reveal().to_owned(), action));
        Ok("reset".into())
    });
    let running = tokio::spawn(keep(fleet.clone(), pki, carry));
    let mut states = fleet.watch();
    let ended = |id: OperationId| {
        move |state: &Arc<State>| state.operations.get(&id).is_some_and(|operation| operation.state.is_ended())
    };
    let within = Duration::from_secs(30);
    tokio::time::timeout(within, states.wait_for(ended(operation))).await.expect("in time").expect("runs");
    tokio::time::timeout(within, states.wait_for(ended(left))).await.expect("in time").expect("runs");
    let state = fleet.state();
    assert_eq!(state.operations.get(&operation).expect("there").receipt, "IPMI at 10.0.9.8: reset");
    let failed = &state.operations.get(&left).expect("there").state;
    assert!(matches!(failed, OperationState::Failed { why } if why.contains("may have been done")), "{failed:?}");
    assert_eq!(*told.lock().expect("no test panics inside"), [("hunter2".to_owned(), Switch::Restart)]);
    running.abort();
}

/// A released controller's database is read for ever: see `operation::stored`.
#[test]
fn the_bytes_of_an_operation_that_switches_a_machine() {
    let stages = [
        (Switch::On, Switching::Waiting { until_unix_ms: 300 }, "0500 02 00ac02"),
        (Switch::Cycle, Switching::Telling, "0503 02 01"),
    ];
    for (action, stage, bytes) in stages {
        let operation = Operation {
            id: OperationId::from_bytes([1; 16]),
            machine: MachineId::from_bytes([2; 16]),
            kind: OperationKind::Switch { action, tries: 2, stage },
            state: OperationState::Running,
            percent: 9,
            steps: vec![OperationStep { at_unix_ms: 300, text: "s".into() }],
            receipt: "r".into(),
            outcome: None,
            who: "o".into(),
            created_unix_ms: 100,
            ended_unix_ms: None,
            begin_by_unix_ms: None,
        };
        let head = format!("00 {} {}", "01".repeat(16), "02".repeat(16));
        let expected = format!("{head} {bytes} 01 09 01ac020173 0172 00 016f 64 00 00").replace(' ', "");
        let value = stored_value(&operation);
        assert_eq!(value.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        assert_eq!(read_value::<Operation>(&value), Some(operation));
    }
}
