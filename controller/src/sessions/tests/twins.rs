//! Boxes that look like a machine that is known: two live machines are never merged.

use super::*;

#[tokio::test]
async fn a_box_that_looks_like_a_machine_which_is_alive_is_another_machine() {
    let world = world();
    let first = world.member().await;
    let session = world.session(&first).await;
    let twin = world.enrolled().await;
    assert_ne!(twin.machine, first.machine);
    assert!(session.close_reason().is_none(), "the first is not disturbed");
}

#[tokio::test]
async fn a_machine_that_has_no_stream_left_to_be_asked_on_is_not_taken_for_dead() {
    let world = world();
    let first = world.member().await;
    let session = world.session(&first).await;
    let mut unanswered = tokio::task::JoinSet::new();
    let mut streams = Vec::new();
    // QUIC's own default, which is what the agent of this test grants.
    for _ in 0..100 {
        let (sessions, id) = (world.sessions.clone(), first.machine);
        unanswered.spawn(async move { sessions.call(id, to_agent::Call::Observe).await });
        streams.push(session.accept_bi().await.expect("asked"));
    }
    let ticket = world.ticket(TicketBound::Bearer).await;
    let twin = world.enroll(&ticket, box_number(1)).await.map(|twin| twin.machine);
    assert_ne!(twin, Ok(first.machine), "two live machines were merged");
    assert!(session.close_reason().is_none(), "the first is not disturbed");
}

#[tokio::test]
async fn a_box_that_is_said_to_be_a_machine_of_its_own_asks_for_approval_from_then_on() {
    let world = world();
    let known = world.member().await;
    let _session = world.session(&known).await;
    let twin = world.enrolled().await;
    let waiting = world.session(&twin).await;
    let id = twin.machine;
    let separate = move |draft: &mut Draft| enrollment::separate(draft, id);
    world.fleet.change(Author::controller(), separate).await.expect("resolved");
    assert_eq!(closed(&waiting).await.0, close::CHANGED);
    let again = world.dial(ALPN_SESSION, Some(&twin)).await.expect("dials");
    let standing = welcome(&again).await.standing;
    assert!(matches!(standing, Standing::Pending { awaits: Awaits::Approval, .. }), "{standing:?}");
}

#[tokio::test]
async fn who_has_no_good_ticket_does_not_disturb_the_machines_that_it_claims_to_be() {
    let world = world();
    let first = world.member().await;
    let session = world.session(&first).await;
    let refused = world.enroll(&Ticket::from_bytes([9; 32]), box_number(1)).await.map(|thief| thief.machine);
    assert_eq!(refused, Err(enroll::Refusal::TicketUnknown));
    let (sessions, id) = (world.sessions.clone(), first.machine);
    let plan = tokio::spawn(async move { sessions.call(id, to_agent::Call::Plan(Desired::default())).await });
    let (_send, mut receive) = session.accept_bi().await.expect("asked");
    let asked = receive.read_to_end(1 << 16).await.expect("whole");
    let asked: to_agent::Call = frame::decode(&asked[frame::HEADER..]).expect("decodes");
    assert_eq!(asked, to_agent::Call::Plan(Desired::default()), "it was asked for a sign of life before");
    plan.abort();
}

#[tokio::test]
async fn a_box_in_doubt_becomes_the_machine_that_an_operator_says_it_is_without_another_ticket() {
    let world = world();
    let known = world.member().await;
    let session = world.session(&known).await;
    let (key, csr) = request();
    let (there, key) = (&world, &key);
    let enroll = |ticket: Ticket| {
        let request = enroll::Request { leave: Leave::Ticket(ticket), csr: csr.clone(), identity: box_number(1) };
        async move {
            let connection = there.dial(ALPN_ENROLL, None).await.expect("dials");
            match ask(&connection, &request).await {
                enroll::Answer::Enrolled { machine, certificates, .. } => {
                    let chain = certificates.into_iter().map(CertificateDer::from).collect();
                    Identified { machine, chain, key: key.serialize_der() }
                }
                enroll::Answer::Refused(refusal) => panic!("{refusal}"),
            }
        }
    };
    let doubtful = enroll(world.ticket(TicketBound::Bearer).await).await;
    assert_ne!(doubtful.machine, known.machine, "the one that it looks like is alive");
    let waiting = world.dial(ALPN_SESSION, Some(&doubtful)).await.expect("dials");
    let standing = welcome(&waiting).await.standing;
    assert!(matches!(standing, Standing::Pending { awaits: Awaits::Resolution, .. }), "{standing:?}");
    // The old box is switched off for good, and an operator knows it.
    session.close(0_u32.into(), b"");
    world.presence(known.machine, |p| matches!(p, Presence::Offline { .. })).await;
    let (id, other) = (doubtful.machine, known.machine);
    let same = move |draft: &mut Draft| enrollment::same_as(draft, id, other, Alive::No);
    world.fleet.change(Author::controller(), same).await.expect("resolved");
    assert_eq!(closed(&waiting).await.0, close::UNAUTHORIZED);
    let back = enroll(Ticket::from_bytes([9; 32])).await;
    assert_eq!(back.machine, known.machine);
    let connection = world.dial(ALPN_SESSION, Some(&back)).await.expect("dials");
    assert_eq!(welcome(&connection).await.standing, Standing::Member);
}
