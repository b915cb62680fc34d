//! Arrays of disks: what machines tell of them with their inventories.

use muster_protocol::inventory::{Array, ArrayState};

use super::*;

#[tokio::test]
async fn a_failed_member_is_told_once_and_so_is_that_the_array_is_whole_again() {
    let world = world();
    let who = world.member().await;
    let session = world.session(&who).await;
    let array = |state, missing: &[u16], faulty: &str| Array {
        name: "md127".into(),
        level: "raid1".into(),
        devices: 2,
        state,
        missing: missing.iter().copied().collect(),
        faulty: faulty.into(),
    };
    let whole = || array(ArrayState::Whole, &[], "");
    let failed = || array(ArrayState::Degraded, &[1], "sdb1");
    let mut told = 0;
    for array in [whole(), failed(), failed(), whole()] {
        // Something else in it changes each time.
        told += 1;
        let mut inventory = Inventory { arrays: vec![array], ..Inventory::default() };
        inventory.memory.total_bytes = told;
        let call = to_controller::Call::Inventory(Box::new(inventory));
        assert_eq!(ask::<_, to_controller::Answer>(&session, &call).await, to_controller::Answer::Accepted);
    }
    let state = world.fleet.state();
    let events: Vec<_> = state.events.iter().filter(|event| event.kind == "machine.array").collect();
    assert_eq!(events.len(), 2, "{events:?}");
    let [first, second] = [&events[0], &events[1]].map(|event| event.text.as_str());
    assert!(first.ends_with(": the array md127 (raid1): degraded, lacks member 1 of 2; faulty: sdb1"), "{first}");
    assert!(second.ends_with(": the array md127 (raid1): whole again"), "{second}");
    assert!(events.iter().all(|event| event.subject == who.machine.to_string()));
}
