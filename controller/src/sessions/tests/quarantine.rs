//! Machines that wait for approval: what they may tell, how often, and what is kept of them.

use super::*;

#[tokio::test]
async fn who_waits_for_approval_tells_what_it_is_made_of_and_nothing_else() {
    let world = world();
    let who = world.enrolled().await;
    let session = world.session(&who).await;
    let (generation, desired) = (Generation(1), Digest::of(b""));
    let confirm = to_controller::Call::Confirm { generation, desired, times: Times::default() };
    let prove = to_controller::Call::Prove { generation };
    let progress = to_controller::Call::Progress(Progress::Confirmed { generation: Generation(1) });
    for call in [confirm, prove, progress] {
        let answer: to_controller::Answer = ask(&session, &call).await;
        assert_eq!(answer, to_controller::Answer::Refused(Refusal::BadRequest));
    }
    let inventory = to_controller::Call::Inventory(Box::default());
    assert_eq!(ask::<_, to_controller::Answer>(&session, &inventory).await, to_controller::Answer::Accepted);
    let state = world.fleet.state();
    assert_eq!(state.machines.get(&who.machine).expect("there").outcome, Progress::Idle);
}

#[tokio::test]
async fn so_many_inventories_are_taken_from_a_session_and_no_more() {
    let world = world();
    let who = world.enrolled().await;
    let session = world.session(&who).await;
    let mut taken = 0;
    loop {
        let mut inventory = Inventory::default();
        inventory.system.serial = format!("S-{taken}");
        let call = to_controller::Call::Inventory(Box::new(inventory));
        match ask::<_, to_controller::Answer>(&session, &call).await {
            to_controller::Answer::Accepted => taken += 1,
            other => break assert_eq!(other, to_controller::Answer::Refused(Refusal::Busy)),
        }
        assert!(taken < 100, "inventories are taken for ever");
    }
    assert!(taken >= 20, "drivers come one after the other: {taken}");
    // Another session is no other machine.
    session.close(0_u32.into(), b"");
    let session = world.session(&who).await;
    let call = to_controller::Call::Inventory(Box::default());
    let answer: to_controller::Answer = ask(&session, &call).await;
    assert_eq!(answer, to_controller::Answer::Refused(Refusal::Busy));
}

#[tokio::test]
async fn a_machine_that_is_forgotten_is_forgotten_in_memory_too() {
    let world = world();
    let mut gone = Vec::new();
    for number in [1, 2] {
        let ticket = world.ticket(TicketBound::Bearer).await;
        let who = world.enroll(&ticket, box_number(number)).await.expect("enrolls");
        let session = world.session(&who).await;
        if number == 2 {
            session.close(0_u32.into(), b"");
            world.presence(who.machine, |p| matches!(p, Presence::Offline { since_unix_ms: Some(_) })).await;
        }
        gone.push((who.machine, session));
    }
    let ids: Vec<MachineId> = gone.iter().map(|(id, _)| *id).collect();
    let forget = move |draft: &mut Draft| {
        ids.iter().for_each(|id| draft.delete::<Machine>(id));
        Ok(())
    };
    world.fleet.change(Author::controller(), forget).await.expect("forgotten");
    for (id, _) in &gone {
        world.presence(*id, |p| *p == Presence::Offline { since_unix_ms: None }).await;
    }
}
