//! Agents of every kind against a real port on loopback: honest ones, ones without leave, and ones that talk garbage.

mod arrays;
mod drift;
mod files;
mod mute;
mod neighbors;
mod proofs;
mod quarantine;
mod refusals;
mod restart;
mod revocation;
mod rotation;
mod sealed;
mod twins;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_protocol::desired::{Desired, check};
use muster_protocol::enroll::{self, Identity, Leave, Ticket};
use muster_protocol::frame::{self, Message};
use muster_protocol::hello::{Awaits, Hello, InventoryWish, Progress, Standing, Times, Welcome};
use muster_protocol::inventory::Inventory;
use muster_protocol::to_controller::{self, Refusal};
use muster_protocol::{
    ALPN_ENROLL, ALPN_SESSION, BootId, CONTROLLER_NAME, Digest, Generation, Mac, MachineId, close, to_agent,
};
use quinn::{Connection, ConnectionError, Endpoint, ReadToEndError};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::Sessions;
use crate::api::{Alive, CallError, Live, Presence};
use crate::clock::now_unix_ms;
use crate::fleet::enrollment::{self, Seen};
use crate::fleet::record::{Machine, TicketBound};
use crate::fleet::ticket::{self, Grant};
use crate::fleet::{Author, Draft, Fleet, machine};
use crate::metrics::Metrics;
use crate::pki::tests::request;
use crate::pki::{AgentRequest, OwnCertificate, Pki};
use crate::store::MemoryStore;

/// Longer than anything here takes; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

const BOOT: BootId = BootId::from_bytes([1; 16]);

/// A controller's agent side.
struct World {
    fleet: Fleet,
    pki: Arc<Pki>,
    sessions: Sessions,
    own: Arc<OwnCertificate>,
    address: SocketAddr,
    metrics: Metrics,
    _data: tempfile::TempDir,
}

fn world() -> World {
    let data = tempfile::tempdir().expect("a temporary folder");
    let pki = Arc::new(Pki::open(data.path()).expect("a CA"));
    let (fleet, _) = Fleet::start(MemoryStore::new()).expect("starts");
    let agents = crate::config::Config::with_data(data.path().into()).agents;
    let metrics = Metrics::default();
    let files = data.path().join("files");
    let sessions = Sessions::start(fleet.clone(), pki.clone(), agents, files, metrics.clone());
    let own = Arc::new(OwnCertificate::new(pki.clone(), &[], Box::new(Arc::default)).expect("a certificate"));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = sessions.listen(own.clone(), socket).expect("listens").address().expect("bound");
    World { fleet, pki, sessions, own, address, metrics, _data: data }
}

/// What an agent has after its enrollment.
#[derive(Clone)]
struct Identified {
    machine: MachineId,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// A client of TLS that trusts somebody, and has not said who it is.
type Unidentified = rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>;

impl World {
    async fn ticket(&self, bound: TicketBound) -> Ticket {
        let issue = move |draft: &mut Draft| ticket::issue(draft, Grant { bound, ..Grant::bearer("ber1", 60_000) });
        self.fleet.change(Author::controller(), issue).await.expect("issued")
    }

    /// A connection as somebody with this certificate.
    async fn dial(&self, alpn: &[u8], who: Option<&Identified>) -> Result<Connection, ConnectionError> {
        self.dial_trusting(self.pki.authority().ca().clone(), alpn, who).await
    }

    /// The same, by somebody who trusts this CA.
    async fn dial_trusting(
        &self,
        ca: CertificateDer<'static>,
        alpn: &[u8],
        who: Option<&Identified>,
    ) -> Result<Connection, ConnectionError> {
        self.dial_as(ca, alpn, |tls| identified(tls, who)).await
    }

    /// A connection as whoever `own` makes of it.
    async fn dial_with<F>(&self, alpn: &[u8], own: F) -> Result<Connection, ConnectionError>
    where
        F: FnOnce(Unidentified) -> rustls::ClientConfig,
    {
        self.dial_as(self.pki.authority().ca().clone(), alpn, own).await
    }

    async fn dial_as<F>(&self, ca: CertificateDer<'static>, alpn: &[u8], own: F) -> Result<Connection, ConnectionError>
    where
        F: FnOnce(Unidentified) -> rustls::ClientConfig,
    {
        self.connect(client(ca, alpn, own)).await
    }

    async fn connect(&self, client: quinn::ClientConfig) -> Result<Connection, ConnectionError> {
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        endpoint.connect_with(client, self.address, CONTROLLER_NAME).expect("dials").await
    }

    async fn enroll(&self, ticket: &Ticket, identity: Identity) -> Result<Identified, enroll::Refusal> {
        let (key, csr) = request();
        let connection = self.dial(ALPN_ENROLL, None).await.expect("nobody needs a certificate to enroll");
        let request = enroll::Request { leave: Leave::Ticket(ticket.clone()), csr, identity };
        match ask(&connection, &request).await {
            enroll::Answer::Refused(refusal) => Err(refusal),
            enroll::Answer::Enrolled { machine, certificates, .. } => {
                let chain = certificates.into_iter().map(CertificateDer::from).collect();
                Ok(Identified { machine, chain, key: key.serialize_der() })
            }
        }
    }

    async fn enrolled(&self) -> Identified {
        let ticket = self.ticket(TicketBound::Bearer).await;
        self.enroll(&ticket, box_number(1)).await.expect("enrolls")
    }

    async fn member(&self) -> Identified {
        let who = self.enrolled().await;
        let id = who.machine;
        self.fleet.change(Author::controller(), move |draft| machine::approve(draft, id)).await.expect("approved");
        who
    }

    async fn session(&self, who: &Identified) -> Connection {
        let connection = self.dial(ALPN_SESSION, Some(who)).await.expect("dials");
        welcome(&connection).await;
        connection
    }

    async fn presence(&self, machine: MachineId, wanted: impl Fn(&Presence) -> bool) {
        let mut changes = self.sessions.0.registry.watch();
        let seen = async {
            while !wanted(&self.sessions.presence(machine)) {
                changes.changed().await.expect("the registry is there");
            }
        };
        tokio::time::timeout(DEADLINE, seen).await.expect("in time");
    }
}

/// Somebody with this certificate.
fn identified(tls: Unidentified, who: Option<&Identified>) -> rustls::ClientConfig {
    match who {
        None => tls.with_no_client_auth(),
        Some(who) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(who.key.clone()));
            tls.with_client_auth_cert(who.chain.clone(), key).expect("a certificate and its key")
        }
    }
}

/// Whoever `own` makes of it, who trusts this CA.
fn client<F>(ca: CertificateDer<'static>, alpn: &[u8], own: F) -> quinn::ClientConfig
where
    F: FnOnce(Unidentified) -> rustls::ClientConfig,
{
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).expect("a CA");
    let tls = rustls::ClientConfig::builder_with_provider(crate::pki::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut tls = own(tls);
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC");
    quinn::ClientConfig::new(Arc::new(tls))
}

fn box_number(number: u8) -> Identity {
    Identity { uuid: Some([number; 16]), macs: vec![Mac::from_bytes([2, 0, 0, 0, 0, number])], ..Identity::default() }
}

fn hello(boot: BootId) -> Hello {
    let inventory = Inventory::default().digest();
    Hello { versions: vec![1], boot, agent: "0.1.0".into(), inventory, progress: Progress::Idle }
}

async fn welcome(connection: &Connection) -> Welcome {
    match ask(connection, &to_controller::Call::Hello(hello(BOOT))).await {
        to_controller::Answer::Welcome(welcome) => welcome,
        other => panic!("{other:?}"),
    }
}

/// What comes back on a stream that carries these bytes.
async fn say(connection: &Connection, bytes: &[u8]) -> Result<Vec<u8>, ReadToEndError> {
    let (mut send, mut receive) = connection.open_bi().await.expect("the connection is up");
    // The other side may have had enough before it has heard all.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    tokio::time::timeout(DEADLINE, receive.read_to_end(1 << 20)).await.expect("in time")
}

async fn ask<Q: Message, A: Message>(connection: &Connection, question: &Q) -> A {
    let answer = say(connection, &frame::encode(question).expect("fits")).await.expect("an answer");
    frame::decode(&answer[frame::HEADER..]).expect("decodes")
}

/// The code and reason with which the controller closes.
async fn closed(connection: &Connection) -> (u32, String) {
    match tokio::time::timeout(DEADLINE, connection.closed()).await.expect("in time") {
        ConnectionError::ApplicationClosed(close) => {
            let code = u32::try_from(close.error_code.into_inner()).expect("one of ours");
            (code, String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_machine_enrolls_says_hello_and_is_online_until_it_leaves() {
    let world = world();
    let who = world.enrolled().await;
    let connection = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    let welcome = welcome(&connection).await;
    assert!(matches!(welcome.standing, Standing::Pending { claim, awaits: Awaits::Approval } if claim.len() == 9));
    assert_eq!((welcome.version, welcome.inventory), (1, InventoryWish::Wanted));
    let Presence::Online(session) = world.sessions.presence(who.machine) else { panic!("offline") };
    assert_eq!((session.boot, session.agent.as_str(), session.from.ip()), (BOOT, "0.1.0", Ipv4Addr::LOCALHOST.into()));

    let inventory = to_controller::Call::Inventory(Box::default());
    assert_eq!(ask::<_, to_controller::Answer>(&connection, &inventory).await, to_controller::Answer::Accepted);
    connection.close(0_u32.into(), b"");
    world.presence(who.machine, |p| matches!(p, Presence::Offline { since_unix_ms: Some(_) })).await;

    let connection = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    assert_eq!(self::welcome(&connection).await.inventory, InventoryWish::Known);
}

#[tokio::test]
async fn a_session_without_a_certificate_is_refused() {
    let world = world();
    let connection = world.dial(ALPN_SESSION, None).await.expect("TLS lets it pass");
    assert_eq!(closed(&connection).await.0, close::UNAUTHORIZED);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let world = world();
    let (key, csr) = request();
    let other = tempfile::tempdir().expect("a temporary folder");
    let other = Pki::open(other.path()).expect("a CA");
    let csr = AgentRequest::read(&csr).expect("a request");
    let machine = world.enrolled().await.machine;
    let chain =
        other.authority().sign_agent(machine, &csr, SystemTime::now(), Duration::from_secs(60)).expect("signed");
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let thief = Identified { machine, chain, key: key.serialize_der() };
    // TLS 1.3 tells a client of its refused certificate after the handshake, as far as the client can see.
    let end = match world.dial(ALPN_SESSION, Some(&thief)).await {
        Err(end) => end,
        Ok(connection) => tokio::time::timeout(DEADLINE, connection.closed()).await.expect("in time"),
    };
    assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    assert_eq!(world.sessions.presence(machine), Presence::Offline { since_unix_ms: None });
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_refused() {
    let world = world();
    let (key, csr) = request();
    let machine = world.enrolled().await.machine;
    let csr = AgentRequest::read(&csr).expect("a request");
    let then = SystemTime::now() - Duration::from_secs(3600);
    let chain = world.pki.authority().sign_agent(machine, &csr, then, Duration::from_secs(60)).expect("signed");
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let late = Identified { machine, chain, key: key.serialize_der() };
    let end = match world.dial(ALPN_SESSION, Some(&late)).await {
        Err(end) => end,
        Ok(connection) => tokio::time::timeout(DEADLINE, connection.closed()).await.expect("in time"),
    };
    assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
}

#[tokio::test]
async fn a_ticket_that_is_unknown_expired_used_or_anothers_enrolls_nobody() {
    let world = world();
    let unknown = Ticket::from_bytes([9; 32]);
    assert_eq!(world.enroll(&unknown, box_number(1)).await.err(), Some(enroll::Refusal::TicketUnknown));

    let bound = TicketBound::Machine { uuid: Some([1; 16]), macs: box_number(1).macs };
    let ticket = world.ticket(bound).await;
    assert_eq!(world.enroll(&ticket, box_number(2)).await.err(), Some(enroll::Refusal::TicketForeign));
    world.enroll(&ticket, box_number(1)).await.expect("it is good for its own machine");
    assert_eq!(world.enroll(&ticket, box_number(1)).await.err(), Some(enroll::Refusal::TicketUnknown));

    let issue = |draft: &mut Draft| ticket::issue(draft, Grant::bearer("ber1", 0));
    let expired = world.fleet.change(Author::controller(), issue).await.expect("issued");
    // The clock has milliseconds: the next one is enough.
    let until = now_unix_ms() + 2;
    while now_unix_ms() < until {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.enroll(&expired, box_number(1)).await.err(), Some(enroll::Refusal::TicketExpired));

    assert_eq!(world.fleet.state().machines.len(), 1);
    let told = world.fleet.state().events.iter().filter(|e| e.kind == "enrollment.refused").count();
    assert_eq!(told, 4, "each refused attempt is in the event feed");
}

#[tokio::test]
async fn a_bad_signing_request_does_not_use_the_ticket_up() {
    let world = world();
    let ticket = world.ticket(TicketBound::Bearer).await;
    let connection = world.dial(ALPN_ENROLL, None).await.expect("dials");
    let request =
        enroll::Request { leave: Leave::Ticket(ticket.clone()), csr: vec![0x30; 200], identity: box_number(1) };
    let answer: enroll::Answer = ask(&connection, &request).await;
    assert_eq!(answer, enroll::Answer::Refused(enroll::Refusal::BadRequest));
    world.enroll(&ticket, box_number(1)).await.expect("the ticket is still good");
}

#[tokio::test]
async fn a_certificate_for_an_earlier_key_loses_its_session_and_opens_no_other() {
    let world = world();
    let first = world.member().await;
    let session = world.session(&first).await;
    // The machine starts anew: its old agent does not answer any more.
    session.close(0_u32.into(), b"");
    world.presence(first.machine, |p| matches!(p, Presence::Offline { .. })).await;
    let session = world.session(&first).await;
    let ticket = world.ticket(TicketBound::Bearer).await;
    let id = first.machine;
    let (_, csr) = request();
    let key = AgentRequest::read(&csr).expect("a request").digest();
    let supersede = move |draft: &mut Draft| enrollment::enroll(draft, &ticket, box_number(1), Seen::default(), key);
    world.fleet.change(Author::controller(), supersede).await.expect("superseded");
    assert_eq!(closed(&session).await.0, close::UNAUTHORIZED);
    let again = world.dial(ALPN_SESSION, Some(&first)).await.expect("TLS lets it pass");
    assert_eq!(closed(&again).await.0, close::UNAUTHORIZED);
    world.presence(id, |p| matches!(p, Presence::Offline { .. })).await;
}

#[tokio::test]
async fn the_newer_of_two_sessions_stays() {
    let world = world();
    let who = world.member().await;
    let older = world.session(&who).await;
    let newer = world.session(&who).await;
    assert_eq!(closed(&older).await.0, close::REPLACED);
    assert!(newer.close_reason().is_none());
    assert!(matches!(world.sessions.presence(who.machine), Presence::Online(_)));
}

#[tokio::test]
async fn approval_and_rejection_reach_the_session_at_once() {
    let world = world();
    let who = world.enrolled().await;
    let session = world.session(&who).await;
    let id = who.machine;
    world.fleet.change(Author::controller(), move |draft| machine::approve(draft, id)).await.expect("approved");
    assert_eq!(closed(&session).await.0, close::CHANGED);
    let session = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    assert_eq!(welcome(&session).await.standing, Standing::Member);
    world.fleet.change(Author::controller(), move |draft| machine::retire(draft, id)).await.expect("retired");
    let told = (close::UNAUTHORIZED, "this machine was retired by an operator".to_owned());
    assert_eq!(closed(&session).await, told);
    let again = world.dial(ALPN_SESSION, Some(&who)).await.expect("TLS lets it pass");
    assert_eq!(closed(&again).await, told);
}

#[tokio::test]
async fn a_confirmation_counts_for_what_is_desired_now_and_for_nothing_else() {
    let world = world();
    let who = world.member().await;
    let session = world.session(&who).await;
    let id = who.machine;
    let nothing = check(Desired::default()).expect("nothing is wrong with nothing");
    let set = move |draft: &mut Draft| machine::set_desired(draft, id, nothing, None, None);
    world.fleet.change(Author::controller(), set).await.expect("set");
    let confirm = |generation: u64, desired| to_controller::Call::Confirm {
        generation: Generation(generation),
        desired,
        times: Times::default(),
    };
    let right = Digest::of_value(&Desired::default());
    let answer: to_controller::Answer = ask(&session, &confirm(1, Digest::of(b"other"))).await;
    assert_eq!(answer, to_controller::Answer::Refused(Refusal::Outdated));
    let confirmed = Progress::Confirmed { generation: Generation(1) };
    for call in [confirm(1, right), to_controller::Call::Progress(confirmed.clone())] {
        let answer: to_controller::Answer = ask(&session, &call).await;
        assert_eq!(answer, to_controller::Answer::Accepted);
    }
    let outcome = world.fleet.state().machines.get(&id).map(|m: &Machine| m.outcome.clone());
    assert_eq!(outcome, Some(confirmed));
}

#[tokio::test]
async fn an_agent_is_asked_and_answers() {
    let world = world();
    let who = world.member().await;
    assert_eq!(Live::call(&world.sessions, who.machine, to_agent::Call::Observe).await, Err(CallError::Offline));
    let session = world.session(&who).await;
    let agent = tokio::spawn(async move {
        let (mut send, mut receive) = session.accept_bi().await.expect("a call");
        let call = receive.read_to_end(1 << 20).await.expect("read");
        assert_eq!(frame::decode::<to_agent::Call>(&call[frame::HEADER..]), Ok(to_agent::Call::Observe));
        let answer = frame::encode(&to_agent::Answer::Refused(to_agent::Refusal::ObserveOnly)).expect("fits");
        send.write_all(&answer).await.expect("written");
        send.finish().expect("finished");
        let (mut send, _) = session.accept_bi().await.expect("another call");
        send.write_all(b"\xff\xff\xff\xff").await.expect("written");
        session.closed().await
    });
    let answer = Live::call(&world.sessions, who.machine, to_agent::Call::Observe).await;
    assert_eq!(answer, Ok(to_agent::Answer::Refused(to_agent::Refusal::ObserveOnly)));
    let answer = Live::call(&world.sessions, who.machine, to_agent::Call::Observe).await;
    assert!(matches!(answer, Err(CallError::Unanswered(_))), "an oversized answer is none: {answer:?}");
    let end = tokio::time::timeout(DEADLINE, agent).await.expect("in time").expect("no assertion failed");
    assert!(matches!(end, ConnectionError::ApplicationClosed(c) if c.error_code == close::PROTOCOL.into()));
}

#[tokio::test]
async fn a_call_to_a_machine_that_has_just_died_does_not_prolong_its_session() {
    let world = Arc::new(world());
    let who = world.member().await;
    // An agent that is gone without a word: its thread holds the socket and looks at it no more.
    let (up, is_up) = tokio::sync::oneshot::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let (there, dying) = (world.clone(), who.clone());
    let agent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let session = runtime.block_on(there.session(&dying));
        up.send(()).expect("the test waits");
        let _ = ended.recv();
        drop(session);
    });
    is_up.await.expect("the session is up");
    world.presence(who.machine, |p| matches!(p, Presence::Online(_))).await;
    // What it sent before lies in the socket, and is a sign of life until it was read.
    let peer = world.sessions.0.registry.get(who.machine).expect("it is online");
    let heard = || peer.connection().stats().udp_rx.datagrams;
    let mut before = None;
    while before.replace(heard()) != Some(heard()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let answer = Live::call(&world.sessions, who.machine, to_agent::Call::Observe).await;
    assert!(matches!(&answer, Err(CallError::Unanswered(why)) if why.contains("no sign of life")), "{answer:?}");
    world.presence(who.machine, |p| matches!(p, Presence::Offline { .. })).await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "with 20 s of silence before it, that is 30 s: on a paused clock"
    );
    drop(end);
    agent.join().expect("the agent ended");
}

#[tokio::test]
async fn whatever_is_not_the_protocol_closes_the_session_and_harms_nobody_else() {
    let world = world();
    let who = world.member().await;
    let good = frame::encode(&to_controller::Call::Progress(Progress::Idle)).expect("fits");
    let mut leftover = good.clone();
    leftover.push(0);
    let mut inside = good.clone();
    inside[3] += 1;
    inside.push(0);
    let cases: [(&str, Vec<u8>); 7] = [
        ("nothing", Vec::new()),
        ("half a header", vec![0, 0]),
        ("a length over the limit", vec![0xff; 4]),
        ("a frame that ends early", vec![0, 0, 0, 9, 1]),
        ("a value that is none", vec![0, 0, 0, 3, 0xff, 0xff, 0xff]),
        ("bytes after the frame", leftover),
        ("bytes after the value", inside),
    ];
    for (what, bytes) in cases {
        let session = world.session(&who).await;
        assert!(say(&session, &bytes).await.is_err(), "{what}");
        assert_eq!(closed(&session).await.0, close::PROTOCOL, "{what}");
    }
    let session = world.session(&who).await;
    let answer: to_controller::Answer = ask(&session, &to_controller::Call::Progress(Progress::Idle)).await;
    assert_eq!(answer, to_controller::Answer::Accepted);
}

#[tokio::test]
async fn garbage_closes_an_enrollment_and_harms_nobody_else() {
    let world = world();
    for bytes in [vec![0xff; 4], vec![0, 0, 0x20, 1], vec![0, 0, 0, 2, 0xff, 0xff], Vec::new()] {
        let connection = world.dial(ALPN_ENROLL, None).await.expect("dials");
        assert!(say(&connection, &bytes).await.is_err());
        assert_eq!(closed(&connection).await.0, close::PROTOCOL);
    }
    world.enrolled().await;
}

#[tokio::test]
async fn a_request_that_is_none_raises_an_event_and_strangers_cannot_flush_the_feed() {
    let world = world();
    let refused = |state: &crate::fleet::State| state.events.iter().filter(|e| e.kind == "enrollment.refused").count();
    let connection = world.dial(ALPN_ENROLL, None).await.expect("dials");
    assert!(say(&connection, b"\0\0\0\x02\xff\xff").await.is_err());
    let mut states = world.fleet.watch();
    let told = states.wait_for(|state| refused(state) == 1);
    tokio::time::timeout(DEADLINE, told).await.expect("in time").expect("the fleet is there");
    let event = world.fleet.state().events.iter().next_back().cloned().expect("there is one");
    assert_eq!((event.kind.as_str(), event.subject.as_str()), ("enrollment.refused", "127.0.0.1"));
    assert!(event.text.contains("does not hold the expected message"), "{event:?}");

    // As many as a hundred sources could cause in a moment.
    for n in 0..1000 {
        world.sessions.tell(SocketAddr::from((Ipv4Addr::LOCALHOST, n)), "again".into()).await;
    }
    assert_eq!(refused(&world.fleet.state()), super::TOLD as usize);
}

#[tokio::test]
async fn a_session_begins_with_one_hello() {
    let world = world();
    let who = world.member().await;
    let early = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    let answer: to_controller::Answer = ask(&early, &to_controller::Call::Progress(Progress::Idle)).await;
    assert_eq!(answer, to_controller::Answer::Refused(Refusal::HelloFirst));
    assert_eq!(closed(&early).await.0, close::PROTOCOL);

    let twice = world.session(&who).await;
    let answer: to_controller::Answer = ask(&twice, &to_controller::Call::Hello(hello(BOOT))).await;
    assert_eq!(answer, to_controller::Answer::Refused(Refusal::HelloAgain));

    let alien = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    let words = Hello { versions: vec![7, 9], ..hello(BOOT) };
    let answer: to_controller::Answer = ask(&alien, &to_controller::Call::Hello(words)).await;
    assert_eq!(answer, to_controller::Answer::Refused(Refusal::Version));
    let many = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    let words = Hello { versions: vec![9, 1], ..hello(BOOT) };
    let answer: to_controller::Answer = ask(&many, &to_controller::Call::Hello(words)).await;
    assert!(matches!(answer, to_controller::Answer::Welcome(w) if w.version == 1));
}

#[tokio::test]
async fn an_inventory_that_no_machine_has_is_refused() {
    let world = world();
    let who = world.member().await;
    let session = world.session(&who).await;
    let mut inventory = Inventory::default();
    inventory.cpu.model = "x".repeat(129);
    let call = to_controller::Call::Inventory(Box::new(inventory.clone()));
    let answer: to_controller::Answer = ask(&session, &call).await;
    assert_eq!(answer, to_controller::Answer::Refused(Refusal::BadRequest));
    // Lists are refused before there is memory for them, and so before there is an inventory to refuse.
    inventory.cpu.flags = vec![String::new(); 50_000];
    let call = to_controller::Call::Inventory(Box::new(inventory));
    assert!(say(&session, &frame::encode(&call).expect("fits")).await.is_err());
    assert_eq!(closed(&session).await.0, close::PROTOCOL);
    assert!(world.fleet.state().inventories.is_empty());
}

#[tokio::test]
async fn an_unknown_protocol_gets_no_connection() {
    let world = world();
    assert!(world.dial(b"h3", None).await.is_err());
}

#[test]
fn an_agent_notices_at_once_that_its_controller_was_killed_and_started_again() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("starts");
    let (killed, agents) = (runtime(), runtime());
    let world = killed.block_on(async { world() });
    let session = agents.block_on(async {
        let who = world.member().await;
        world.session(&who).await
    });
    let (pki, fleet, address) = (world.pki.clone(), world.fleet.clone(), world.address);
    // Its sockets are closed, and nobody has said goodbye.
    killed.shutdown_background();
    drop(world.sessions);

    let started_again = runtime();
    started_again.block_on(async {
        let agents = crate::config::Config::with_data("".into()).agents;
        let sessions = Sessions::start(fleet, pki.clone(), agents, "".into(), Metrics::default());
        let own = Arc::new(OwnCertificate::new(pki, &[], Box::new(Arc::default)).expect("a certificate"));
        let bind = async {
            loop {
                match UdpSocket::bind(address) {
                    Ok(socket) => return socket,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let socket = tokio::time::timeout(DEADLINE, bind).await.expect("the port is free in time");
        sessions.listen(own, socket).expect("listens");
    });
    let end = agents.block_on(async {
        // Whatever the agent sends next brings the reset: an acknowledgment that was still due, the keep-alive in life, or
        // a stream here.
        if let Ok((mut send, _receive)) = session.open_bi().await {
            let _ = send.write_all(b"hello?").await;
        }
        tokio::time::timeout(DEADLINE, session.closed()).await.expect("in time")
    });
    assert!(matches!(end, ConnectionError::Reset), "{end:?}");
}
