//! What somebody hostile in an office does to the machines beside it: nothing.

use super::*;

/// More than is put up with from a stranger, with what fills up meanwhile; far less than from an office of ours.
const FLOOD: usize = 120;

/// Whether a guess at a ticket is heard at all.
async fn guess(world: &World) -> bool {
    let connection = world.dial(ALPN_ENROLL, None).await.expect("dials");
    let (_, csr) = request();
    let request = enroll::Request { leave: Leave::Ticket(Ticket::from_bytes([9; 32])), csr, identity: box_number(9) };
    say(&connection, &frame::encode(&request).expect("fits")).await.is_ok()
}

async fn flood(world: &World) -> usize {
    let mut heard = 0;
    for _ in 0..FLOOD {
        heard += usize::from(guess(world).await);
    }
    heard
}

#[tokio::test]
async fn a_hostile_machine_in_an_office_does_not_keep_its_neighbors_from_enrolling() {
    let world = world();
    let member = world.member().await;
    let session = world.session(&member).await;
    assert_eq!(flood(&world).await, FLOOD, "one of ours is there, so the others are heard");
    let ticket = world.ticket(TicketBound::Bearer).await;
    world.enroll(&ticket, box_number(2)).await.expect("its neighbor enrolls");

    // It goes for a while: its office is remembered.
    session.close(0_u32.into(), b"");
    world.presence(member.machine, |presence| matches!(presence, Presence::Offline { .. })).await;
    let ticket = world.ticket(TicketBound::Bearer).await;
    world.enroll(&ticket, box_number(3)).await.expect("another neighbor enrolls");
}

#[tokio::test]
async fn a_machine_that_waits_for_approval_does_not_vouch_for_its_address() {
    let world = world();
    let pending = world.enrolled().await;
    let _session = world.session(&pending).await;
    assert!(flood(&world).await < FLOOD, "strangers vouch for strangers");
}
