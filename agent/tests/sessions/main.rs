//! Real agents on simulated machines, over real QUIC on loopback, against a controller that says what the test wants.

mod controller;

use std::sync::Arc;
use std::time::Duration;

use controller::Controller;
use muster_agent::agent::{Agent, Contact};
use muster_agent::dial::Ended;
use muster_agent::keep::Keep;
use muster_agent::machine::Machine;
use muster_agent::options::{Endpoint, Manage, Options, Pace, WhenRefused};
use muster_agent::plan::Tools;
use muster_agent::quic;
use muster_agent::run::run_agent;
use muster_agent::sim::{SimMachine, Wire};
use muster_protocol::desired::{
    self, Desired, Ethernet, Link, LinkKind, MAIN_TABLE, Network, Reach, Route, Select, Settings, Storage,
};
use muster_protocol::enroll::{Leave, Refusal, Request, Ticket};
use muster_protocol::hello::{Awaits, Progress, Standing};
use muster_protocol::to_agent::{self, Apply, Power, PowerAction};
use muster_protocol::to_controller::{self, Answer, Call};
use muster_protocol::tools::Pinned;
use muster_protocol::{BootId, Digest, Generation, OperationId, close, frame};
use quinn::{Connection, ConnectionError, SendStream, VarInt};
use rcgen::{CertificateSigningRequestParams, PublicKeyData};
use rustls::pki_types::CertificateSigningRequestDer;
use tokio::task::JoinHandle;

/// Nothing here takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(20);
const BOOT: BootId = BootId::from_bytes([3; 16]);

struct Started {
    machine: Arc<SimMachine>,
    agent: Arc<Agent>,
    running: JoinHandle<Ended>,
}

fn start(controller: &Controller, keep: Keep) -> Started {
    start_with(controller, keep, controller.ca())
}

fn start_with(controller: &Controller, keep: Keep, ca: Digest) -> Started {
    start_as(Options { ca, ..options(controller, keep) })
}

fn options(controller: &Controller, keep: Keep) -> Options {
    Options {
        controllers: vec![controller.endpoint()],
        ca: controller.ca(),
        leave: Some(Leave::Ticket(Ticket::from_bytes([9; 32]))),
        time_unix_s: 0,
        lease: None,
        handed: None,
        manage: Manage::ALL,
        keep,
        boot: BOOT,
        refused: WhenRefused::End,
        pace: Pace { backoff_first: Duration::from_millis(20), ..Pace::default() },
    }
}

fn start_as(options: Options) -> Started {
    let machine = Arc::new(SimMachine::new(1));
    let (agent, jobs) = Agent::new(options, machine.clone());
    let running = agent.clone();
    let running = tokio::spawn(async move { run_agent(&running, jobs).await });
    Started { machine, agent, running }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn ask(session: &Connection, call: to_agent::Call) -> to_agent::Answer {
    in_time("an answer", quic::ask(session, &call)).await.expect("an answer")
}

/// How the agent ended the connection.
async fn ended(session: &Connection) -> (u32, String) {
    match in_time("the end of the session", session.closed()).await {
        ConnectionError::ApplicationClosed(closed) => {
            let code = u64::from(closed.error_code) as u32;
            (code, String::from_utf8_lossy(&closed.reason).into_owned())
        }
        other => panic!("ended by {other}"),
    }
}

#[tokio::test]
async fn enrolls_says_hello_and_reports_its_inventory() {
    let controller = Controller::start();
    let keep = Keep::memory();
    let own = start(&controller, keep.clone());
    let request = in_time("an enrollment", controller.enroll()).await;
    assert_eq!(request.leave, Leave::Ticket(Ticket::from_bytes([9; 32])));
    let (session, hello) = in_time("a session", controller.welcome(Standing::Member)).await;
    assert_eq!((hello.boot, &hello.progress), (BOOT, &Progress::Idle));
    let Call::Inventory(inventory) = in_time("an inventory", controller.told(&session, Answer::Accepted)).await else {
        panic!("the inventory was wanted")
    };
    assert_eq!(inventory.digest(), hello.inventory);
    assert_eq!(inventory.disks.len(), 2);
    assert_eq!(inventory.home.as_ref().map(|home| &*home.link), Some("eth0"), "by what this session goes");
    assert!(matches!(ask(&session, to_agent::Call::Observe).await, to_agent::Answer::Observed(_)));

    // A restarted agent is the same machine without another ticket.
    own.running.abort();
    drop(session);
    let _again = start(&controller, keep);
    in_time("a session without an enrollment", controller.welcome(Standing::Member)).await;
}

#[tokio::test]
async fn a_controller_of_another_ca_learns_nothing() {
    let controller = Controller::start();
    let own = start_with(&controller, Keep::memory(), Digest::of(b"another CA"));
    let mut status = own.agent.status.subscribe();
    let trouble = |status: &muster_agent::agent::Status| status.trouble.contains("told to trust");
    in_time("a handshake that fails", controller.fail_handshake()).await;
    in_time("a clear word on the console", status.wait_for(trouble)).await.expect("the agent lives");
}

#[tokio::test]
async fn an_agent_to_whom_its_controllers_certificate_has_ended_says_that_a_clock_is_wrong() {
    let controller = Controller::start();
    // The year 4188, which is after the end of every certificate that the controller's makers know of.
    let own = start_as(Options { time_unix_s: 70_000_000_000, ..options(&controller, Keep::memory()) });
    let mut status = own.agent.status.subscribe();
    in_time("a handshake that fails", controller.fail_handshake()).await;
    let trouble = status.wait_for(|status| status.trouble.contains("set the clock"));
    in_time("a clear word on the console", trouble).await.expect("the agent lives");
}

#[tokio::test]
async fn a_refused_enrollment_ends_an_ordinary_process() {
    let controller = Controller::start();
    let own = start(&controller, Keep::memory());
    in_time("an enrollment", controller.refuse(Refusal::TicketUnknown)).await;
    assert_eq!(in_time("its end", own.running).await.expect("no panic"), Ended::Refused(Refusal::TicketUnknown));
}

#[tokio::test]
async fn a_machine_that_its_controller_makes_wait_says_why_and_asks_again_by_itself() {
    let controller = Controller::start();
    let pace = Pace { boot_again: Duration::ZERO, ..Pace::default() };
    let own = start_as(Options { refused: WhenRefused::BootAgain, pace, ..options(&controller, Keep::memory()) });
    let mut status = own.agent.status.subscribe();
    in_time("an enrollment", controller.refuse(Refusal::Awaited { seconds: 1 })).await;
    let trouble = status.wait_for(|status| status.trouble.contains("has just started"));
    in_time("a clear word on the console", trouble).await.expect("the agent lives");
    in_time("another enrollment, with no boot between", controller.enroll()).await;
    assert!(own.machine.powered().is_empty());
}

#[tokio::test]
async fn a_machine_that_is_retired_while_it_runs_says_so_on_its_console() {
    let controller = Controller::start();
    let own = start_as(Options { refused: WhenRefused::BootAgain, ..options(&controller, Keep::memory()) });
    let mut status = own.agent.status.subscribe();
    in_time("an enrollment", controller.enroll()).await;
    let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    session.close(VarInt::from_u32(close::UNAUTHORIZED), b"this machine was retired by an operator");
    for said in ["certificate: this machine was retired", "enrollment refused: this machine was retired"] {
        let trouble = status.wait_for(|status| status.trouble.contains(said));
        in_time(said, trouble).await.expect("the agent lives");
        if said.starts_with("certificate") {
            in_time("another enrollment", controller.refuse(Refusal::Retired)).await;
        }
    }
    assert!(own.machine.powered().is_empty());
}

#[tokio::test]
async fn a_machine_whose_ticket_is_no_good_boots_for_another() {
    let controller = Controller::start();
    let pace = Pace { boot_again: Duration::from_millis(50), ..Pace::default() };
    let own = start_as(Options { refused: WhenRefused::BootAgain, pace, ..options(&controller, Keep::memory()) });
    let machine = own.machine.clone();
    let refusing = async {
        loop {
            controller.refuse(Refusal::TicketUnknown).await;
        }
    };
    let ended = tokio::select! {
        ended = in_time("a reboot", own.running) => ended.expect("no panic"),
        () = refusing => unreachable!("it goes on for ever"),
    };
    assert_eq!((ended, machine.powered()), (Ended::Power(PowerAction::Reboot), vec![PowerAction::Reboot]));
}

#[tokio::test]
async fn a_machine_whose_certificate_ended_while_it_was_cut_off_enrolls_with_the_key_that_it_had() {
    let controller = Controller::start();
    let keep = Keep::memory();
    let own = start(&controller, keep.clone());
    let first = in_time("an enrollment", controller.enroll()).await;
    in_time("a session", controller.welcome(Standing::Member)).await;
    own.running.abort();

    let later = std::time::UNIX_EPOCH.elapsed().expect("after 1970") + Duration::from_secs(48 * 3600);
    let _late = start_as(Options { time_unix_s: later.as_secs(), leave: None, ..options(&controller, keep) });
    let second = in_time("another enrollment", controller.enroll()).await;
    let key = |request: &Request| {
        let csr = CertificateSigningRequestDer::from(request.csr.as_slice());
        CertificateSigningRequestParams::from_der(&csr).expect("a signing request").public_key.der_bytes().to_vec()
    };
    assert_eq!(key(&first), key(&second));
}

#[tokio::test]
async fn a_pending_machine_shows_its_claim_code_and_dials_again_when_it_is_approved() {
    let controller = Controller::start();
    let own = start(&controller, Keep::memory());
    in_time("an enrollment", controller.enroll()).await;
    let claim = Standing::Pending { claim: "KX4M-7QPD".into(), awaits: Awaits::Approval };
    let (session, _) = in_time("a session", controller.welcome(claim)).await;
    let mut status = own.agent.status.subscribe();
    let shown = Contact::Pending { claim: "KX4M-7QPD".into(), awaits: Awaits::Approval };
    in_time("the claim code", status.wait_for(|status| status.contact == shown)).await.expect("the agent lives");
    let answer = ask(&session, to_agent::Call::Plan(Desired::default())).await;
    assert_eq!(answer, to_agent::Answer::Refused(to_agent::Refusal::Pending));

    session.close(VarInt::from_u32(close::CHANGED), b"approved");
    let _session = in_time("another session", controller.welcome(Standing::Member)).await;
    in_time("online", status.wait_for(|status| status.contact == Contact::Online)).await.expect("the agent lives");
}

#[tokio::test]
async fn garbage_closes_the_session_with_a_reason_and_the_agent_dials_again() {
    let controller = Controller::start();
    let _own = start(&controller, Keep::memory());
    in_time("an enrollment", controller.enroll()).await;
    for (garbage, reason) in [
        (&b"\xff\xff\xff\xff"[..], "over this message kind's limit"),
        (b"\0\0\0\x02\xff\xff", "does not hold the expected message"),
        (b"\0\0\0\x01\x02leftover", "left over"),
    ] {
        let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
        let (mut send, _receive) = in_time("a stream", session.open_bi()).await.expect("a stream");
        send.write_all(garbage).await.expect("sent");
        let _ = send.finish();
        let (code, text) = ended(&session).await;
        assert_eq!(code, close::PROTOCOL, "{text}");
        assert!(text.contains(reason), "{text}");
    }
    let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    // A stream that is given up is no garbage.
    let (mut send, _receive) = in_time("a stream", session.open_bi()).await.expect("a stream");
    send.write_all(b"\0\0").await.expect("sent");
    send.reset(VarInt::from_u32(0)).expect("reset");
    assert!(matches!(ask(&session, to_agent::Call::Observe).await, to_agent::Answer::Observed(_)));
}

/// Static addresses, and a default route by `gateway`.
fn network(gateway: &str) -> Desired {
    let to = "0.0.0.0/0".parse().expect("a prefix");
    let via = gateway.parse().expect("an address");
    let settings = Settings {
        addresses: vec!["10.0.5.7/24".parse().expect("an address")],
        routes: vec![Route { to, via: Some(via), metric: None, table: MAIN_TABLE, reach: Reach::Prefix }],
        ..Settings::default()
    };
    let select = Select { name: Some("eth0".into()), ..Select::default() };
    let kind = LinkKind::Ethernet(Ethernet { select, ..Ethernet::default() });
    let links = vec![Link { id: "lan".into(), kind, settings }];
    Desired { network: Some(Network { links, ..Network::default() }), storage: None }
}

#[tokio::test]
async fn how_far_a_change_is_does_not_wait_for_a_controller_that_has_no_time_for_the_inventory() {
    let controller = Controller::start();
    let _own = start(&controller, Keep::memory());
    in_time("an enrollment", controller.enroll()).await;
    let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let busy = Answer::Refused(to_controller::Refusal::Busy);
    assert!(matches!(in_time("an inventory", controller.told(&session, busy.clone())).await, Call::Inventory(_)));
    let apply = Apply { generation: Generation(1), desired: network("10.0.5.1"), permit: None, confirm_within_s: 20 };
    assert_eq!(ask(&session, to_agent::Call::Apply(apply)).await, to_agent::Answer::Accepted);
    let next = async {
        loop {
            // It asks besides whether the session outlived the change.
            match controller.told(&session, Answer::Accepted).await {
                Call::Prove { .. } => {}
                told => return told,
            }
        }
    };
    let next = in_time("how far it is", next).await;
    assert!(matches!(next, Call::Progress(_)), "{next:?}");
}

#[tokio::test]
async fn a_change_of_the_network_is_confirmed_over_a_connection_of_its_own_and_the_session_goes_on() {
    let controller = Controller::start();
    let _own = start(&controller, Keep::memory());
    in_time("an enrollment", controller.enroll()).await;
    let (first, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let desired = network("10.0.5.1");
    let contents = Digest::of_value(&desired);
    let (generation, permit, confirm_within_s) = (Generation(1), None, 20);
    let apply = Apply { generation, desired, permit, confirm_within_s };
    assert_eq!(ask(&first, to_agent::Call::Apply(apply)).await, to_agent::Answer::Accepted);

    let proven = async {
        let proof = controller.connected().await;
        assert_eq!(controller.told(&proof, Answer::Accepted).await, Call::Prove { generation });
        let confirm = controller.told(&proof, Answer::Accepted).await;
        assert!(
            matches!(confirm, Call::Confirm { generation: of, desired, .. } if (of, desired) == (generation, contents))
        );
        // Whoever hangs up takes back the answer that is on its way.
        proof.closed().await;
    };
    let told = async {
        let confirmed = Call::Progress(Progress::Confirmed { generation });
        while controller.told(&first, Answer::Accepted).await != confirmed {}
    };
    // What is told meanwhile is told in the session that asked.
    in_time("a proof and the outcome", async { tokio::join!(proven, told) }).await;
}

#[tokio::test]
async fn a_session_that_is_to_go_on_at_another_address_is_begun_there_before_the_first_one_ends() {
    let controller = Controller::start_at("0.0.0.0:0");
    let at = |host: &str| Endpoint { host: host.to_owned(), ..controller.endpoint() };
    let controllers = vec![at("127.0.0.1"), at("127.0.0.2")];
    let own = start_as(Options { controllers, ..options(&controller, Keep::memory()) });
    in_time("an enrollment", controller.enroll()).await;
    let (first, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let is_in = |status: &muster_agent::agent::Status| status.contact == Contact::Online;
    in_time("a welcome", own.agent.status.subscribe().wait_for(is_in)).await.expect("the agent lives");
    let reached = own.agent.controller.borrow()[0].ip();
    let other = own.agent.controller.borrow()[1].ip();

    own.agent.outbox.send_modify(|out| out.moves_to = Some(other));
    let second = in_time("a connection beside the session", controller.connected()).await;
    assert_eq!(first.close_reason(), None, "nobody has ended it");
    in_time("a hello", controller.welcome_on(&second, Standing::Member)).await;
    first.close(VarInt::from_u32(close::REPLACED), b"a newer session has its place");
    assert!(matches!(ask(&second, to_agent::Call::Observe).await, to_agent::Answer::Observed(_)));
    let moved = |out: &muster_agent::outbox::Outbox| out.moves_to.is_none();
    in_time("word of it", own.agent.outbox.subscribe().wait_for(moved)).await.expect("the agent lives");
    assert_eq!(*own.agent.controller.borrow().iter().map(|at| at.ip()).collect::<Vec<_>>(), [other, reached]);

    // Where it is already, and where nobody is, it stays as it is.
    for elsewhere in [other, "127.0.0.3".parse().expect("an address")] {
        own.agent.outbox.send_modify(|out| out.moves_to = Some(elsewhere));
        in_time("word of it", own.agent.outbox.subscribe().wait_for(moved)).await.expect("the agent lives");
        assert!(matches!(ask(&second, to_agent::Call::Observe).await, to_agent::Answer::Observed(_)));
    }

    // What a resolver does not tell of any more is tried all the same.
    let known = std::net::SocketAddr::new("127.0.0.3".parse().expect("an address"), controller.endpoint().port);
    own.agent.controller.send_modify(|addresses| addresses.push(known));
    own.agent.outbox.send_modify(|out| out.moves_to = Some(known.ip()));
    in_time("a connection to where it was known to be", controller.connected()).await;
}

#[tokio::test]
async fn a_change_that_cuts_the_machine_off_is_undone_and_told() {
    let controller = Controller::start();
    let own = start(&controller, Keep::memory());
    in_time("an enrollment", controller.enroll()).await;
    own.machine.set_wire(Wire::Gateway([10, 77, 0, 1].into()));
    let (first, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let apply = Apply { generation: Generation(1), desired: network("10.0.5.1"), permit: None, confirm_within_s: 5 };
    assert_eq!(ask(&first, to_agent::Call::Apply(apply)).await, to_agent::Answer::Accepted);
    // Loopback is not cut with the simulated wire: the session lives, and what became of it is told in it.
    let mut told = Progress::Idle;
    while !told.is_settled() {
        if let Call::Progress(progress) = in_time("the outcome", controller.told(&first, Answer::Accepted)).await {
            told = progress;
        }
    }
    let Progress::Reverted { why, .. } = told else { panic!("{told:?}") };
    assert!(why.contains("did not answer within 5 s"), "{why}");
    assert!(why.contains("could not reach 127.0.0.1"), "{why}");
}

#[tokio::test]
async fn a_power_command_is_acknowledged_before_it_acts() {
    let controller = Controller::start();
    let own = start(&controller, Keep::memory());
    in_time("an enrollment", controller.enroll()).await;
    let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let operation = OperationId::from_bytes([1; 16]);
    let another_boot = BootId::from_bytes([4; 16]);
    let power = |boot| to_agent::Call::Power(Power { operation, boot, action: PowerAction::Reboot });
    let refused = to_agent::Answer::Refused(to_agent::Refusal::OtherBoot);
    assert_eq!(ask(&session, power(another_boot)).await, refused);
    assert_eq!(ask(&session, power(BOOT)).await, to_agent::Answer::Accepted);
    assert_eq!(ended(&session).await.0, close::DONE);
    assert_eq!(in_time("its end", own.running).await.expect("no panic"), Ended::Power(PowerAction::Reboot));
    assert_eq!(own.machine.powered(), [PowerAction::Reboot]);
}

#[tokio::test]
async fn a_power_command_that_is_replayed_acts_once_and_one_of_an_earlier_boot_never() {
    let controller = Controller::start();
    let own = start(&controller, Keep::memory());
    in_time("an enrollment", controller.enroll()).await;
    let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let command = Power { operation: OperationId::from_bytes([1; 16]), boot: BOOT, action: PowerAction::Reboot };
    let frame = frame::encode(&to_agent::Call::Power(command.clone())).expect("fits");
    // The very same bytes on as many streams as an agent takes, before any answer.
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (mut send, receive) = session.open_bi().await.expect("opens");
        // The first that is heard may end the session already.
        let _ = send.write_all(&frame).await;
        let _ = send.finish();
        streams.push(receive);
    }
    assert_eq!(in_time("its end", own.running).await.expect("no panic"), Ended::Power(PowerAction::Reboot));
    assert_eq!(own.machine.powered(), [PowerAction::Reboot]);

    // The machine has booted: what was said to the boot before is refused.
    let options = Options { boot: BootId::from_bytes([7; 16]), ..options(&controller, Keep::memory()) };
    let again = start_as(options);
    in_time("an enrollment", controller.enroll()).await;
    let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let refused = to_agent::Answer::Refused(to_agent::Refusal::OtherBoot);
    assert_eq!(ask(&session, to_agent::Call::Power(command)).await, refused);
    assert_eq!(again.machine.powered(), []);
}

#[tokio::test]
async fn a_certificate_past_two_thirds_of_its_life_is_renewed_in_the_session() {
    let controller = Controller::start();
    let keep = Keep::memory();
    let _own = start(&controller, keep.clone());
    in_time("an enrollment", controller.enroll_with_old_certificate()).await;
    let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let before = keep.read("identity");
    let mut renewed = false;
    while !renewed {
        renewed = in_time("a renewal", controller.renew(&session)).await;
    }
    in_time("the new certificate to be kept", async {
        while keep.read("identity") == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(ask(&session, to_agent::Call::Observe).await, to_agent::Answer::Observed(_)), "it goes on");
}

#[tokio::test]
async fn a_refused_renewal_is_asked_for_again_in_the_same_session() {
    let controller = Controller::start();
    let _own = start(&controller, Keep::memory());
    // So near its end that the pause is a second and not a minute.
    in_time("an enrollment", controller.enroll_with_dying_certificate()).await;
    let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let busy = |_: &[u8]| Answer::Refused(to_controller::Refusal::Busy);
    while !in_time("a request to renew", controller.answer_renewal(&session, busy)).await {}
    while !in_time("another request to renew", controller.renew(&session)).await {}
    assert!(matches!(ask(&session, to_agent::Call::Observe).await, to_agent::Answer::Observed(_)), "it goes on");
}

/// A partition with an ext4, which takes a program to make.
fn storage() -> Desired {
    let select = desired::DiskSelect::Id("serial:SIM00001A".parse().expect("a disk id"));
    let partition = desired::Partition::new(1, "data", None);
    let disks = vec![desired::Disk { select, table: desired::Table::Replace, partitions: vec![partition] }];
    let filesystem = desired::Filesystem {
        place: desired::Place::Partition { disk: 0, partition: 0 },
        format: desired::Format::Ext4,
        label: "data".into(),
        uuid: None,
        options: vec![],
        used: desired::Use::Later,
        existing: desired::Existing::Keep,
    };
    Desired { network: None, storage: Some(Storage { disks, filesystems: vec![filesystem], ..Storage::default() }) }
}

/// Accepts whatever the agent says until it asks for a file: where the answer goes, which file it is, and from where.
async fn asked_for_a_file(session: &Connection) -> (SendStream, Digest, u64) {
    loop {
        let (mut send, mut receive) = session.accept_bi().await.expect("a stream");
        match quic::read(&mut receive).await.expect("a call") {
            Call::Fetch { digest, offset } => return (send, digest, offset),
            _ => quic::write(&mut send, &Answer::Accepted).await.expect("answered"),
        }
    }
}

async fn send_file(mut send: SendStream, length: usize, bytes: &[u8]) -> SendStream {
    let header = frame::encode(&Answer::File { bytes: length as u64 }).expect("fits");
    send.write_all(&header).await.expect("sent");
    send.write_all(bytes).await.expect("sent");
    send
}

#[tokio::test]
async fn what_came_of_a_file_stays_when_its_stream_or_its_session_ends() {
    let file: Vec<u8> = (0..400_000_u32).map(|n| (n / 3) as u8).collect();
    let pinned = Pinned { digest: Digest::of(&file), bytes: file.len() as u64 };
    let controller = Controller::start();
    let own = start(&controller, Keep::memory());
    own.machine.set_tools(Tools::Away { pinned, free_bytes: u64::MAX });
    in_time("an enrollment", controller.enroll()).await;
    let (first, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let apply = Apply { generation: Generation(1), desired: storage(), permit: None, confirm_within_s: 20 };
    assert_eq!(ask(&first, to_agent::Call::Apply(apply)).await, to_agent::Answer::Accepted);

    // A controller that is busy, one whose stream breaks off, and one whose session ends.
    let (mut send, digest, offset) = in_time("a request", asked_for_a_file(&first)).await;
    assert_eq!((digest, offset), (pinned.digest, 0));
    let busy = Answer::Refused(to_controller::Refusal::Busy);
    quic::write(&mut send, &busy).await.expect("answered");
    let (send, _, offset) = in_time("another request", asked_for_a_file(&first)).await;
    assert_eq!(offset, 0);
    let mut send = send_file(send, file.len(), &file[..100_000]).await;
    send.finish().expect("it ends early");
    let (send, _, offset) = in_time("a request for the rest", asked_for_a_file(&first)).await;
    assert_eq!(offset, 100_000);
    let _cut = send_file(send, file.len(), &file[100_000..300_000]).await;
    let mut outbox = own.agent.outbox.subscribe();
    let most = |out: &muster_agent::outbox::Outbox| out.fetch.as_ref().is_some_and(|fetch| fetch.got > 200_000);
    in_time("most of it", outbox.wait_for(most)).await.expect("the agent lives");
    first.close(VarInt::from_u32(close::DONE), b"the controller is stopping");

    let (second, _) = in_time("a session", controller.welcome(Standing::Member)).await;
    let (send, _, offset) = in_time("a request for the rest", asked_for_a_file(&second)).await;
    assert!((200_000..=300_000).contains(&offset), "{offset}");
    let mut send = send_file(send, file.len(), &file[offset as usize..]).await;
    send.finish().expect("all of it");
    let goes_on = |out: &muster_agent::outbox::Outbox| match &out.progress {
        Progress::Applying { step, .. } => !step.contains("fetch"),
        progress => panic!("{progress:?}"),
    };
    in_time("the next step", outbox.wait_for(goes_on)).await.expect("the agent lives");
    assert_eq!(own.machine.tools(), Tools::Here, "they are what was asked for");
}

#[tokio::test]
async fn a_file_that_the_controller_does_not_have_any_more_is_no_reason_to_wait() {
    for (answer, says) in [
        (Answer::Refused(to_controller::Refusal::NoSuchFile), "booted an older image; reboot it"),
        (Answer::File { bytes: 4 }, "the controller's have 4 bytes"),
    ] {
        let pinned = Pinned { digest: Digest::of(b"tools"), bytes: 5 };
        let controller = Controller::start();
        let own = start(&controller, Keep::memory());
        own.machine.set_tools(Tools::Away { pinned, free_bytes: u64::MAX });
        in_time("an enrollment", controller.enroll()).await;
        let (session, _) = in_time("a session", controller.welcome(Standing::Member)).await;
        let apply = Apply { generation: Generation(1), desired: storage(), permit: None, confirm_within_s: 20 };
        assert_eq!(ask(&session, to_agent::Call::Apply(apply)).await, to_agent::Answer::Accepted);
        let (mut send, ..) = in_time("a request", asked_for_a_file(&session)).await;
        quic::write(&mut send, &answer).await.expect("answered");
        let mut outbox = own.agent.outbox.subscribe();
        let settled = in_time("the outcome", outbox.wait_for(|out| out.progress.is_settled())).await;
        let progress = settled.expect("the agent lives").progress.clone();
        assert!(matches!(&progress, Progress::Reverted { why, .. } if why.contains(says)), "{progress:?}");
    }
}
