//! Drift: what machines are told to do about it, and what they tell.

use muster_protocol::drift::{Drift, DriftEnd, OnDrift};

use super::*;
use crate::fleet::operation::drift::{self, DriftRule};

fn call(number: u32, end: DriftEnd) -> to_controller::Call {
    to_controller::Call::Drift(Drift { number, differences: vec!["bring lan up".repeat(1_000)], end })
}

#[tokio::test]
async fn what_a_machine_tells_of_drift_is_kept_and_counted_once_and_cut() {
    let world = world();
    let who = world.member().await;
    let session = world.session(&who).await;
    let failed = || call(1, DriftEnd::Failed { why: "x".repeat(5_000) });
    for call in [failed(), failed(), call(2, DriftEnd::Repaired { milliseconds: 7 }), call(3, DriftEnd::Gone)] {
        assert_eq!(ask::<_, to_controller::Answer>(&session, &call).await, to_controller::Answer::Accepted);
    }
    let counted = ["failed", "repaired", "gone", "reported"].map(|outcome| world.metrics.drifts(outcome));
    assert_eq!(counted, [1, 1, 1, 0]);
    let state = world.fleet.state();
    let found = &state.machines.get(&who.machine).expect("there").drift.found;
    assert_eq!((found.number, found.differences[0].len()), (3, 256));
    let events: Vec<_> = state.events.iter().filter(|event| event.kind == "machine.drift").collect();
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|event| event.text.len() < 2_000 && event.subject == who.machine.to_string()));
}

#[tokio::test]
async fn another_rule_reaches_the_machine_at_once_by_another_welcome() {
    let world = world();
    let who = world.member().await;
    let session = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    assert_eq!(welcome(&session).await.on_drift, OnDrift::Repair);
    let id = who.machine;
    let set = |rule| world.fleet.change(Author::controller(), move |draft| drift::set(draft, id, rule));
    set(DriftRule::Always(OnDrift::Report)).await.expect("set");
    assert_eq!(closed(&session).await.0, close::CHANGED);
    let session = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    assert_eq!(welcome(&session).await.on_drift, OnDrift::Report);
    set(DriftRule::AsConfigured).await.expect("set");
    assert_eq!(closed(&session).await.0, close::CHANGED);
}

#[tokio::test]
async fn who_waits_for_approval_tells_nothing_of_drift() {
    let world = world();
    let who = world.enrolled().await;
    let session = world.session(&who).await;
    let answer: to_controller::Answer = ask(&session, &call(1, DriftEnd::Reported)).await;
    assert_eq!(answer, to_controller::Answer::Refused(Refusal::BadRequest));
    assert_eq!(world.metrics.drifts("reported"), 0);
}
