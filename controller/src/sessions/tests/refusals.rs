//! Whoever is refused on the agents' port is counted by the reason.

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::*;
use crate::metrics::{Door, Reason};

impl World {
    /// Waits until exactly so many were refused for this reason.
    pub(super) async fn counted(&self, door: Door, reason: Reason, times: u64) {
        let seen = async {
            while self.metrics.refusals(door, reason) < times {
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::time::timeout(DEADLINE, seen).await;
        assert!(seen.is_ok(), "{reason:?} was not counted");
        assert_eq!(self.metrics.refusals(door, reason), times, "{reason:?}");
    }

    /// A certificate of this CA, for a key of the caller's.
    pub(super) fn signed(&self, by: &Pki, machine: MachineId, from: SystemTime) -> Identified {
        let (key, csr) = request();
        let csr = AgentRequest::read(&csr).expect("a request");
        let chain = by.authority().sign_agent(machine, &csr, from, Duration::from_secs(60)).expect("signed");
        Identified { machine, chain: chain.into_iter().map(CertificateDer::from).collect(), key: key.serialize_der() }
    }

    /// Dials as somebody who is refused by his certificate, and waits for the end.
    async fn turned_away(&self, who: &Identified) {
        // TLS 1.3 tells a client of its refused certificate after the handshake, as far as the client can see.
        let end = match self.dial(ALPN_SESSION, Some(who)).await {
            Err(end) => end,
            Ok(connection) => tokio::time::timeout(DEADLINE, connection.closed()).await.expect("in time"),
        };
        assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted_by_what_tls_says_of_it() {
    let world = world();
    let machine = world.enrolled().await.machine;
    assert!(world.dial(b"h3", None).await.is_err());
    world.counted(Door::Agents, Reason::WrongAlpn, 1).await;

    drop(world.dial(ALPN_SESSION, None).await);
    world.counted(Door::Agents, Reason::NoCertificate, 1).await;

    let data = tempfile::tempdir().expect("a temporary folder");
    let other = Pki::open(data.path()).expect("a CA");
    world.turned_away(&world.signed(&other, machine, SystemTime::now())).await;
    world.counted(Door::Agents, Reason::UnknownCa, 1).await;

    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    world.turned_away(&world.signed(&world.pki, machine, long_ago)).await;
    world.counted(Door::Agents, Reason::CertificateExpired, 1).await;
    assert_eq!(world.sessions.presence(machine), Presence::Offline { since_unix_ms: None });
}

/// Shows a certificate that it has seen, and signs with a key of its own.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesClientCert for Thief {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn another_machines_certificate_without_its_key_is_refused() {
    let world = world();
    let victim = world.member().await;
    let (own, _) = request();
    let own = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let own = crate::pki::provider().key_provider.load_private_key(own).expect("a key");
    let stolen = Thief(Arc::new(CertifiedKey::new(victim.chain.clone(), own)));
    let end = match world.dial_with(ALPN_SESSION, |tls| tls.with_client_cert_resolver(Arc::new(stolen))).await {
        Err(end) => end,
        Ok(connection) => tokio::time::timeout(DEADLINE, connection.closed()).await.expect("in time"),
    };
    assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    world.counted(Door::Agents, Reason::BadCertificate, 1).await;
    assert_eq!(world.sessions.presence(victim.machine), Presence::Offline { since_unix_ms: None });
}

#[tokio::test]
async fn a_good_certificate_of_a_machine_that_may_not_come_in_is_counted_by_why() {
    let world = world();
    let first = world.enrolled().await;
    let second = world.enrolled().await;
    assert_eq!(first.machine, second.machine, "the same box, with a new key");
    let shut_out = async |who: &Identified| {
        let connection = world.dial(ALPN_SESSION, Some(who)).await.expect("TLS has nothing against it");
        assert_eq!(closed(&connection).await.0, close::UNAUTHORIZED);
    };
    shut_out(&first).await;
    world.counted(Door::Agents, Reason::Superseded, 1).await;
    shut_out(&world.signed(&world.pki, MachineId::from_bytes([0xee; 16]), SystemTime::now())).await;
    world.counted(Door::Agents, Reason::UnknownMachine, 1).await;
    let id = second.machine;
    world.fleet.change(Author::controller(), move |draft| machine::reject(draft, id)).await.expect("rejected");
    shut_out(&second).await;
    world.counted(Door::Agents, Reason::Rejected, 1).await;
}

#[tokio::test]
async fn whoever_breaks_the_protocol_of_a_session_is_counted_by_how() {
    let world = world();
    let who = world.member().await;
    let good = frame::encode(&to_controller::Call::Progress(Progress::Idle)).expect("fits");
    for (reason, bytes) in [
        (Reason::Unfinished, good[..good.len() - 1].to_vec()),
        (Reason::TooLarge, vec![0xff; 4]),
        (Reason::Malformed, vec![0, 0, 0, 3, 0xff, 0xff, 0xff]),
        (Reason::Leftover, [&good[..], &[0]].concat()),
    ] {
        let session = world.session(&who).await;
        assert!(say(&session, &bytes).await.is_err(), "{reason:?}");
        world.counted(Door::Agents, reason, 1).await;
    }
    let early = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    let _: to_controller::Answer = ask(&early, &to_controller::Call::Progress(Progress::Idle)).await;
    world.counted(Door::Agents, Reason::HelloMissing, 1).await;
    let twice = world.session(&who).await;
    let _: to_controller::Answer = ask(&twice, &to_controller::Call::Hello(hello(BOOT))).await;
    world.counted(Door::Agents, Reason::HelloAgain, 1).await;
    let alien = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    let words = Hello { versions: vec![7], ..hello(BOOT) };
    let _: to_controller::Answer = ask(&alien, &to_controller::Call::Hello(words)).await;
    world.counted(Door::Agents, Reason::Version, 1).await;
}

#[tokio::test]
async fn whoever_keeps_the_controller_waiting_is_given_up_and_counted() {
    let world = world();
    let who = world.member().await;
    let session = world.session(&who).await;
    // A request that drips, so that its peer never seems dead; a session without a hello; an enrollment without a request.
    let (mut drip, _answer) = session.open_bi().await.expect("opens");
    let dripping = tokio::spawn(async move {
        drip.write_all(b"\0\0\x0f\xff").await.expect("a length");
        let mut drops = tokio::time::interval(Duration::from_secs(3));
        while drip.write_all(b"\0").await.is_ok() {
            drops.tick().await;
        }
    });
    let other = world.enroll(&world.ticket(TicketBound::Bearer).await, box_number(2)).await.expect("enrolls");
    let silent = world.dial(ALPN_SESSION, Some(&other)).await.expect("dials");
    let idle = world.dial(ALPN_ENROLL, None).await.expect("dials");
    for connection in [&session, &silent, &idle] {
        let end = tokio::time::timeout(2 * DEADLINE, connection.closed()).await.expect("in time");
        let is_breach = matches!(&end, ConnectionError::ApplicationClosed(c) if c.error_code == close::PROTOCOL.into());
        assert!(is_breach, "{end:?}");
    }
    dripping.await.expect("it ends with its session");
    world.counted(Door::Agents, Reason::HelloLate, 1).await;
    world.counted(Door::Agents, Reason::Timeout, 1).await;
    world.counted(Door::Enroll, Reason::Timeout, 1).await;
}

#[tokio::test]
async fn a_refused_enrollment_is_counted_by_its_reason() {
    let world = world();
    assert!(world.enroll(&Ticket::from_bytes([9; 32]), box_number(1)).await.is_err());
    world.counted(Door::Enroll, Reason::TicketUnknown, 1).await;
    let me = box_number(1);
    let bound = TicketBound::Machine { uuid: me.uuid, macs: me.macs.clone() };
    let ticket = world.ticket(bound).await;
    assert!(world.enroll(&ticket, box_number(2)).await.is_err());
    world.counted(Door::Enroll, Reason::TicketForeign, 1).await;

    let connection = world.dial(ALPN_ENROLL, None).await.expect("dials");
    let request = enroll::Request { leave: Leave::Ticket(ticket), csr: vec![0x30, 0], identity: me };
    let answer: enroll::Answer = ask(&connection, &request).await;
    assert_eq!(answer, enroll::Answer::Refused(enroll::Refusal::BadRequest));
    world.counted(Door::Enroll, Reason::Invalid, 1).await;
    for (reason, bytes) in [
        (Reason::TooLarge, vec![0xff; 4]),
        (Reason::Malformed, vec![0, 0, 0, 1, 0xff]),
        (Reason::Unfinished, vec![0, 0]),
    ] {
        let connection = world.dial(ALPN_ENROLL, None).await.expect("dials");
        assert!(say(&connection, &bytes).await.is_err());
        world.counted(Door::Enroll, reason, 1).await;
    }
}
