//! What somebody hostile in an office does to the machines beside it: nothing, however fast he is.

use std::cell::Cell;
use std::pin::pin;
use std::time::Instant;

use futures_util::future::{Either, join_all, select};

use super::sealed::CREDENTIAL;
use super::*;
use crate::metrics::{Door, Reason};
use crate::sessions::limit::{FAILURES, ONE_MORE_FAILURE};

/// Attempts of a flood, at most.
const FLOOD: u32 = 1_000;

/// So many connections of it at once.
const AT_ONCE: usize = 8;

/// Attempts before the first honest machine boots.
const BEFORE: u32 = 100;

/// Honest machines, one after the other.
const HONEST: u8 = 24;

impl World {
    /// The session of somebody who is never silent for long.
    async fn kept(&self, who: &Identified) -> Connection {
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(3)));
        let mut client = client(self.pki.authority().ca().clone(), ALPN_SESSION, |tls| identified(tls, Some(who)));
        client.transport_config(Arc::new(transport));
        let connection = self.connect(client).await.expect("dials");
        welcome(&connection).await;
        connection
    }
}

/// A request with this leave, and the key that it proves to have.
fn asked(leave: impl Into<Leave>, csr: Vec<u8>, number: u8) -> Vec<u8> {
    let request = enroll::Request { leave: leave.into(), csr, identity: box_number(number) };
    frame::encode(&request).expect("fits")
}

fn bad_ticket() -> Vec<u8> {
    asked(&Ticket::from_bytes([9; 32]), request().1, 99)
}

/// The answer to these bytes; `None` where there is none.
async fn attempt(world: &World, bytes: &[u8]) -> Option<enroll::Answer> {
    attempt_from(world, Ipv4Addr::LOCALHOST, bytes).await
}

async fn attempt_from(world: &World, source: Ipv4Addr, bytes: &[u8]) -> Option<enroll::Answer> {
    let stranger = client(world.pki.authority().ca().clone(), ALPN_ENROLL, |tls| identified(tls, None));
    let endpoint = Endpoint::client((source, 0).into()).expect("a port");
    let connection = endpoint.connect_with(stranger, world.address, CONTROLLER_NAME).expect("dials").await.ok()?;
    let answer = say(&connection, bytes).await.ok()?;
    frame::decode(answer.get(frame::HEADER..)?).ok()
}

async fn refusal(world: &World, bytes: &[u8]) -> enroll::Refusal {
    match attempt(world, bytes).await {
        Some(enroll::Answer::Refused(refusal)) => refusal,
        other => panic!("not refused in words: {other:?}"),
    }
}

/// What an honest machine hears at its first attempt: who it is.
async fn enrolled(world: &World, what: &str, bytes: &[u8]) -> MachineId {
    match attempt(world, bytes).await {
        Some(enroll::Answer::Enrolled { machine, .. }) => machine,
        other => panic!("{what} is not let in: {other:?}"),
    }
}

/// Sends `junk` so many times, as fast as it can.
async fn flood(world: &World, junk: &[u8], count: u32, begun: &Cell<u32>) {
    let flooder = async || {
        while begun.get() < count {
            begun.set(begun.get() + 1);
            attempt(world, junk).await;
        }
    };
    join_all((0..AT_ONCE).map(|_| flooder())).await;
}

/// `crowding`, however long that takes on a busy host: the time that is given to those who say nothing stands still.
async fn while_no_time_runs_out(crowding: impl Future<Output = ()>) {
    // A paused clock goes on by itself where nothing is to be done, but not beside such a task.
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let held = tokio::task::spawn_blocking(move || ends.recv());
    tokio::time::pause();
    crowding.await;
    tokio::time::resume();
    drop(end);
    held.await.expect("it has only waited").expect_err("nothing was sent");
}

/// `honest`, while the same address sends `junk` as fast as it can.
async fn amid_a_flood<T>(world: &World, junk: &[u8], honest: impl Future<Output = T>) -> T {
    let begun = Cell::new(0);
    let honest = async {
        while begun.get() < BEFORE {
            tokio::task::yield_now().await;
        }
        honest.await
    };
    match select(pin!(honest), pin!(flood(world, junk, FLOOD, &begun))).await {
        Either::Left((heard, _)) => heard,
        Either::Right(_) => panic!("the flood was over before the honest machines were in"),
    }
}

/// Everybody who has leave to come in: with a ticket, with the key of a machine of ours and no leave beside it, and with
/// the credential of a sealed ISO.
async fn everybody_comes_in(world: &World) {
    for number in 1..=HONEST {
        let ticket = world.ticket(TicketBound::Bearer).await;
        let (_, csr) = request();
        let newcomer = asked(&ticket, csr, number);
        let machine = enrolled(world, &format!("newcomer {number}"), &newcomer).await;
        assert_eq!(enrolled(world, &format!("holder {number}, whose ticket is used up"), &newcomer).await, machine);
        let from_medium = asked(Leave::Site(CREDENTIAL), request().1, HONEST + number);
        assert_ne!(enrolled(world, &format!("{number} from a sealed ISO"), &from_medium).await, machine);
    }
}

#[tokio::test]
async fn a_flood_of_bad_tickets_keeps_no_machine_of_a_new_office_out() {
    let world = world();
    world.sealed().await;
    amid_a_flood(&world, &bad_ticket(), everybody_comes_in(&world)).await;
}

#[tokio::test]
async fn a_flood_of_bad_tickets_keeps_no_machine_of_an_office_of_ours_out() {
    let world = world();
    world.sealed().await;
    let member = world.enroll(&world.ticket(TicketBound::Bearer).await, box_number(90)).await.expect("enrolls");
    let id = member.machine;
    world.fleet.change(Author::controller(), move |draft| machine::approve(draft, id)).await.expect("approved");
    let session = world.kept(&member).await;
    // However much an office of ours might be forgiven.
    flood(&world, &bad_ticket(), 1_200, &Cell::default()).await;
    amid_a_flood(&world, &bad_ticket(), everybody_comes_in(&world)).await;
    assert!(session.close_reason().is_none());
}

#[tokio::test]
async fn a_flood_of_garbage_keeps_no_machine_out() {
    let world = world();
    world.sealed().await;
    amid_a_flood(&world, b"\0\0\0\x04\xff\xff\xff\xff", everybody_comes_in(&world)).await;
}

/// Two addresses that somebody hostile has, one of them the honest machines'.
const HOSTILE: [Ipv4Addr; 2] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];

/// A way out from each of them.
fn ways_out() -> [Endpoint; 2] {
    HOSTILE.map(|source| Endpoint::client((source, 0).into()).expect("a port"))
}

#[tokio::test]
async fn those_who_say_nothing_keep_no_machine_out_however_many_they_are() {
    let world = world();
    world.sealed().await;
    let stranger = client(world.pki.authority().ca().clone(), ALPN_ENROLL, |tls| identified(tls, None));
    let (mut silent, from) = (Vec::new(), ways_out());
    let gave_way = || world.metrics.refusals(Door::Enroll, Reason::TooMany);
    let crowding = while_no_time_runs_out(async {
        while world.sessions.handshakes() < super::super::HANDSHAKES || gave_way() == 0 {
            assert!(silent.len() < 8 * super::super::HANDSHAKES, "they do not get the places that they have");
            for endpoint in &from {
                silent.push(
                    endpoint.connect_with(stranger.clone(), world.address, CONTROLLER_NAME).expect("dials").await,
                );
            }
        }
    });
    crowding.await;
    let before = gave_way();
    everybody_comes_in(&world).await;
    assert!(gave_way() > before, "those who had waited longest gave way");
}

#[tokio::test]
async fn those_who_do_not_take_their_answers_keep_no_machine_out() {
    // From each address as many as would take every place among the enrollments that one has, and more.
    const TICKETS: u32 = 14;
    let world = world();
    world.sealed().await;
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(0_u32.into());
    let mut deaf = client(world.pki.authority().ca().clone(), ALPN_ENROLL, |tls| identified(tls, None));
    deaf.transport_config(Arc::new(transport));
    let (mut held, from) = (Vec::new(), ways_out());
    for ticket in 0..TICKETS * 2 {
        // Such a ticket is for those who are in, and no box here is.
        let grant = Grant { joins: false, ..Grant::bearer("ber1", 60_000) };
        let issue = move |draft: &mut Draft| ticket::issue(draft, grant);
        let useless = world.fleet.change(Author::controller(), issue).await.expect("issued");
        let bytes = asked(&useless, request().1, 99);
        for _ in 1..super::super::TRIES {
            let dialing = from[ticket as usize % 2].connect_with(deaf.clone(), world.address, CONTROLLER_NAME);
            let connection = dialing.expect("dials").await.expect("there is room");
            let (mut send, receive) = connection.open_bi().await.expect("the connection is up");
            send.write_all(&bytes).await.expect("it is heard");
            send.finish().expect("it is open");
            held.push((connection, receive));
        }
    }
    // Each was refused for its ticket, or for want of a place.
    let refused = |reason| world.metrics.refusals(Door::Enroll, reason);
    while refused(Reason::IsoMissing) + refused(Reason::TooMany) < held.len() as u64 {
        tokio::task::yield_now().await;
    }
    for (number, source) in [(201, HOSTILE[0]), (202, HOSTILE[1]), (203, Ipv4Addr::new(127, 0, 0, 3))] {
        let good = asked(&world.ticket(TicketBound::Bearer).await, request().1, number);
        let answer = attempt_from(&world, source, &good).await;
        assert!(matches!(answer, Some(enroll::Answer::Enrolled { .. })), "{source} is not let in: {answer:?}");
    }
    everybody_comes_in(&world).await;
    let is_held = |(connection, _): &&(Connection, quinn::RecvStream)| connection.close_reason().is_none();
    assert!(held.iter().filter(is_held).count() > 0, "they were gone before the honest machines came");
}

#[tokio::test]
async fn those_who_look_like_a_machine_that_takes_no_question_keep_no_other_out() {
    let world = world();
    world.sealed().await;
    let member = world.enroll(&world.ticket(TicketBound::Bearer).await, box_number(99)).await.expect("enrolls");
    let id = member.machine;
    world.fleet.change(Author::controller(), move |draft| machine::approve(draft, id)).await.expect("approved");
    let _mute = world.mute(&member).await;
    let like = client(world.pki.authority().ca().clone(), ALPN_ENROLL, |tls| identified(tls, None));
    let [from, _] = ways_out();
    let (mut held, mut tries, mut ticket) = (Vec::new(), 0, None);
    // More than one address has places for, where they do not give way.
    let crowding = while_no_time_runs_out(async {
        while world.sessions.0.asking.count() <= super::super::ENROLLMENTS / 2 {
            assert!(held.len() < 20 * super::super::ENROLLMENTS, "they are not asked about");
            if tries % (super::super::TRIES - 1) == 0 {
                ticket = Some(world.ticket(TicketBound::Bearer).await);
            }
            tries += 1;
            let bytes = asked(ticket.as_ref().expect("just made"), request().1, 99);
            let dialing = from.connect_with(like.clone(), world.address, CONTROLLER_NAME).expect("dials");
            let connection = dialing.await.expect("there is room");
            let (mut send, receive) = connection.open_bi().await.expect("the connection is up");
            send.write_all(&bytes).await.expect("it is heard");
            send.finish().expect("it is open");
            held.push((connection, receive));
        }
    });
    crowding.await;
    everybody_comes_in(&world).await;
}

#[tokio::test]
async fn a_machine_that_may_not_come_in_hears_why_in_the_midst_of_a_flood() {
    let world = world();
    let mine = TicketBound::Machine { uuid: None, macs: box_number(1).macs };
    let foreign = asked(&world.ticket(mine).await, request().1, 2);
    let issue = |draft: &mut Draft| ticket::issue(draft, Grant::bearer("ber1", 0));
    let expired = asked(&world.fleet.change(Author::controller(), issue).await.expect("issued"), request().1, 3);
    let honest = async {
        assert_eq!(refusal(&world, &expired).await, enroll::Refusal::TicketExpired);
        assert_eq!(refusal(&world, &foreign).await, enroll::Refusal::TicketForeign);
    };
    amid_a_flood(&world, &bad_ticket(), honest).await;
}

#[tokio::test]
async fn failures_are_all_counted_and_few_of_one_source_are_in_the_event_feed() {
    const FAILED: u64 = 300;
    const GARBAGE: &[u8] = b"\0\0\0\x04\xff\xff\xff\xff";
    let world = world();
    let told = |by: Ipv4Addr| {
        let state = world.fleet.state();
        let refused = |kind: &str, subject: &str| kind == "enrollment.refused" && subject == by.to_string();
        state.events.iter().filter(|event| refused(&event.kind, &event.subject)).count()
    };
    let (bad, begun) = (bad_ticket(), Instant::now());
    for _ in 0..FAILED / 2 {
        assert_eq!(refusal(&world, &bad).await, enroll::Refusal::TicketUnknown);
        assert_eq!(attempt(&world, GARBAGE).await, None);
    }
    let counted = |reason| world.metrics.refusals(Door::Enroll, reason);
    assert_eq!([counted(Reason::TicketUnknown), counted(Reason::Malformed)], [FAILED / 2; 2]);
    // As many as there are at once, and what came to it meanwhile.
    let (events, at_once) = (told(Ipv4Addr::LOCALHOST), FAILURES as usize);
    let meanwhile = begun.elapsed().as_secs() / ONE_MORE_FAILURE.as_secs();
    assert!((at_once..=at_once + meanwhile as usize).contains(&events), "{events} events");

    let neighbor = Ipv4Addr::new(127, 0, 0, 2);
    let answer = attempt_from(&world, neighbor, &bad).await;
    assert_eq!(answer, Some(enroll::Answer::Refused(enroll::Refusal::TicketUnknown)));
    assert_eq!(told(neighbor), 1, "another source is heard of");
    let text = world.fleet.state().events.iter().next_back().expect("there is one").text.clone();
    assert!(text.contains("refusals before this one are not in the feed"), "{text}");
}

#[tokio::test]
async fn a_request_that_fails_anyway_asks_no_machine_and_changes_nothing() {
    let world = world();
    let member = world.member().await;
    // Whoever looks like it, and is asked about it, is told to try again.
    let _mute = world.mute(&member).await;
    let good = asked(&world.ticket(TicketBound::Bearer).await, request().1, 1);
    assert_eq!(refusal(&world, &good).await, enroll::Refusal::Busy);

    let id = world.sealed().await;
    world
        .fleet
        .change(Author::controller(), move |draft| crate::fleet::iso::revoke(draft, &id))
        .await
        .expect("revoked");
    let revoked = asked(Leave::Site(CREDENTIAL), request().1, 1);
    let unknown = asked(Leave::Site(enroll::SiteCredential::from_bytes([7; 32])), request().1, 1);
    let before = world.fleet.state();
    for (bytes, why) in [
        (asked(&Ticket::from_bytes([9; 32]), request().1, 1), enroll::Refusal::TicketUnknown),
        (asked(&Ticket::from_bytes([9; 32]), vec![0x30, 0], 1), enroll::Refusal::BadRequest),
        (revoked, enroll::Refusal::MediumRevoked),
        (unknown, enroll::Refusal::NoMedium),
    ] {
        assert_eq!(refusal(&world, &bytes).await, why);
    }
    let after = world.fleet.state();
    let of = |state: &crate::fleet::State| (state.machines.len(), state.tickets.len());
    assert_eq!(of(&before), of(&after));
    assert_eq!((world.sessions.0.asking.count(), world.sessions.0.enrollments.count()), (0, 0));
}

#[tokio::test]
async fn a_ticket_that_leads_to_nothing_or_a_key_is_tried_so_often_and_costs_no_other_one_anything() {
    let world = world();
    // Such a ticket is for those who are in, and this box is new.
    let grant = Grant { joins: false, ..Grant::bearer("ber1", 60_000) };
    let issue = move |draft: &mut Draft| ticket::issue(draft, grant);
    let useless = asked(&world.fleet.change(Author::controller(), issue).await.expect("issued"), request().1, 1);
    let mut tried = 0;
    loop {
        match refusal(&world, &useless).await {
            enroll::Refusal::NoMedium => tried += 1,
            other => break assert_eq!(other, enroll::Refusal::Busy),
        }
        assert!(tried < 10 * super::super::TRIES, "it is tried for ever");
    }
    assert!(tried >= super::super::TRIES, "{tried}");
    let ticket = world.ticket(TicketBound::Bearer).await;
    let holder = asked(&ticket, request().1, 2);
    let machine = enrolled(&world, "its neighbor", &holder).await;

    // Nor is anybody a machine more often than that, whoever has its key.
    let mut given = 0;
    while let Some(enroll::Answer::Enrolled { machine: id, .. }) = attempt(&world, &holder).await {
        assert_eq!(id, machine);
        given += 1;
        assert!(given < 10 * super::super::TRIES, "certificates are given for ever");
    }
    assert!(given >= super::super::TRIES, "{given}");
    enrolled(&world, "another", &asked(&world.ticket(TicketBound::Bearer).await, request().1, 3)).await;
}
