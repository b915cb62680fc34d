//! Connections that prove a way: beside a session, in the place of none, and good for nothing else.

use muster_protocol::OperationId;
use muster_protocol::hello::Reason as Why;
use muster_protocol::to_controller::{Answer, Call, PROOF_REQUESTS, PROOF_SECONDS, Work};

use super::*;
use crate::fleet::operation::outcome::{Ending, Outcome};
use crate::fleet::record::{Operation, OperationState};
use crate::metrics::{Door, Reason};

/// Proofs of one machine at once.
const AT_ONCE: usize = 8;

const TIMES: Times =
    Times { make_ms: 1_100, prove_beside_ms: 2_000, switch_ms: 300, verify_ms: 40, prove_ms: 600, revert_ms: 0 };

impl World {
    /// A machine that is to become something, and how the operation is called that follows it.
    async fn wanting(&self) -> (Identified, OperationId) {
        let who = self.member().await;
        (who.clone(), self.wish(who.machine).await)
    }

    async fn wish(&self, id: MachineId) -> OperationId {
        let nothing = check(Desired::default()).expect("nothing is wrong with nothing");
        let set = move |draft: &mut Draft| machine::set_desired(draft, id, nothing, None, None);
        self.fleet.change(Author::controller(), set).await.expect("set").id
    }

    async fn decided<F>(&self, decide: F)
    where
        F: FnOnce(&mut Draft) -> Result<Machine, crate::fleet::Refusal> + Send + 'static,
    {
        self.fleet.change(Author::controller(), decide).await.expect("decided");
    }

    async fn dialed(&self, who: &Identified) -> Connection {
        self.dial(ALPN_SESSION, Some(who)).await.expect("dials")
    }

    /// A proof that was heard.
    async fn proof(&self, who: &Identified) -> Connection {
        let connection = self.dialed(who).await;
        assert_eq!(told(&connection, &prove(1)).await, Answer::Accepted);
        connection
    }

    fn operation(&self, id: OperationId) -> Operation {
        self.fleet.state().operations.get(&id).cloned().expect("it is there")
    }

    /// Waits until so many places of handshakes are taken.
    async fn handshaking(&self, count: usize) {
        let waiting = async {
            while self.sessions.handshakes() != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("in time");
    }
}

fn prove(generation: u64) -> Call {
    Call::Prove { generation: Generation(generation) }
}

fn confirm(generation: u64) -> Call {
    let desired = Digest::of_value(&Desired::default());
    Call::Confirm { generation: Generation(generation), desired, times: TIMES }
}

async fn told(connection: &Connection, call: &Call) -> Answer {
    ask(connection, call).await
}

#[tokio::test]
async fn a_proof_beside_a_session_leaves_it_online_and_changes_nothing() {
    let world = world();
    let (who, _) = world.wanting().await;
    let session = world.session(&who).await;
    world.handshaking(0).await;
    let before = world.sessions.presence(who.machine);
    let (newest, changes) = (world.sessions.0.registry.newest(who.machine), world.sessions.0.registry.watch());
    let state = world.fleet.state();

    let proofs = [world.proof(&who).await, world.proof(&who).await];
    for proof in &proofs {
        assert_eq!(told(proof, &prove(1)).await, Answer::Accepted);
        assert_eq!(told(proof, &prove(2)).await, Answer::Refused(Refusal::Outdated), "it goes on after that");
        assert_eq!(told(proof, &prove(1)).await, Answer::Accepted);
    }
    let (mut send, _receive) = proofs[0].open_bi().await.expect("the connection is up");
    send.write_all(&[0]).await.expect("it is heard");
    send.reset(0_u32.into()).expect("it is open");
    assert_eq!(told(&proofs[0], &prove(1)).await, Answer::Accepted, "a request that was taken back is not one");
    assert_eq!(world.sessions.handshakes(), proofs.len(), "they keep the places of their handshakes");
    assert_eq!((world.sessions.presence(who.machine), world.sessions.count()), (before.clone(), 1));
    assert_eq!(world.sessions.0.registry.newest(who.machine), newest);
    assert!(!changes.has_changed().expect("the registry is there"), "the converge loop sees nothing of it");
    assert!(Arc::ptr_eq(&state, &world.fleet.state()), "nothing is written");
    assert_eq!(told(&session, &prove(1)).await, Answer::Accepted, "a session proves its way as well");
    assert_eq!(told(&session, &prove(2)).await, Answer::Refused(Refusal::Outdated));

    proofs.iter().for_each(|proof| proof.close(0_u32.into(), b""));
    world.handshaking(0).await;
    assert_eq!(world.sessions.presence(who.machine), before);
    assert_eq!(told(&session, &Call::Progress(Progress::Idle)).await, Answer::Accepted);
}

#[tokio::test]
async fn nobody_is_online_by_a_proof() {
    let world = world();
    let (who, _) = world.wanting().await;
    let proof = world.proof(&who).await;
    assert_eq!(world.sessions.presence(who.machine), Presence::Offline { since_unix_ms: None });
    assert_eq!(Live::call(&world.sessions, who.machine, to_agent::Call::Observe).await, Err(CallError::Offline));
    assert!(proof.close_reason().is_none());
}

#[tokio::test]
async fn a_confirmation_over_a_proof_and_the_machines_word_end_the_operation_with_its_times() {
    let world = world();
    let (who, operation) = world.wanting().await;
    let session = world.session(&who).await;
    let (generation, step) = (Generation(1), "proving".to_owned());
    let applying = Progress::Applying { generation, percent: 50, step };
    assert_eq!(told(&session, &Call::Progress(applying.clone())).await, Answer::Accepted);

    let proof = world.proof(&who).await;
    let other = Call::Confirm { generation, desired: Digest::of(b"other"), times: TIMES };
    for wrong in [other, confirm(2)] {
        assert_eq!(told(&proof, &wrong).await, Answer::Refused(Refusal::Outdated));
    }
    assert_eq!(world.operation(operation).state, OperationState::Running);
    for _ in 0..2 {
        assert_eq!(told(&proof, &confirm(1)).await, Answer::Accepted, "an answer that was lost is given again");
        // What was answered is durable, and so is seen at once.
        assert!(world.fleet.state().proven.get(&who.machine).is_some());
        let Presence::Online(seen) = world.sessions.presence(who.machine) else { panic!("offline") };
        assert_eq!(
            (&seen.progress, world.operation(operation).outcome),
            (&applying, None),
            "nobody knows who heard it"
        );
    }
    assert_eq!(told(&session, &Call::Progress(Progress::Confirmed { generation })).await, Answer::Accepted);
    let ended = world.operation(operation);
    let outcome = Outcome { ending: Ending::Confirmed, times: TIMES };
    assert_eq!((ended.state, ended.outcome), (OperationState::Succeeded, Some(outcome)));
    assert_eq!(told(&proof, &confirm(1)).await, Answer::Accepted, "a copy that comes late");
    assert_eq!(world.operation(operation).outcome, Some(outcome));
    counted_outcomes(&world, "confirmed", "", 1).await;
}

#[tokio::test]
async fn how_changes_come_out_is_counted_once_by_outcome_and_reason() {
    let world = world();
    let (who, operation) = world.wanting().await;
    let session = world.session(&who).await;
    let (generation, reason, times) = (Generation(1), Why::NoGateway, TIMES);
    let reverted = Call::Progress(Progress::Reverted { generation, reason, why: "no answer".into(), times });
    for _ in 0..2 {
        assert_eq!(told(&session, &reverted).await, Answer::Accepted);
    }
    let outcome = Outcome { ending: Ending::Reverted { reason }, times };
    assert_eq!(world.operation(operation).outcome, Some(outcome));
    // Another one after it, so that a second count of the first would have been seen.
    world.wish(who.machine).await;
    assert_eq!(told(&world.dialed(&who).await, &confirm(2)).await, Answer::Refused(Refusal::HelloFirst));
    let proof = world.dialed(&who).await;
    assert_eq!(told(&proof, &prove(2)).await, Answer::Accepted);
    assert_eq!(told(&proof, &confirm(2)).await, Answer::Accepted);
    let confirmed = Call::Progress(Progress::Confirmed { generation: Generation(2) });
    assert_eq!(told(&session, &confirmed).await, Answer::Accepted);
    counted_outcomes(&world, "confirmed", "", 1).await;
    assert_eq!(world.metrics.outcomes("reverted", "no-gateway"), 1);
}

async fn counted_outcomes(world: &World, outcome: &'static str, reason: &'static str, count: u64) {
    let waiting = async {
        while world.metrics.outcomes(outcome, reason) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("in time");
    assert_eq!(world.metrics.outcomes(outcome, reason), count);
}

#[tokio::test]
async fn whoever_may_have_no_session_proves_nothing() {
    let world = world();
    let first = world.enrolled().await;
    let who = world.enrolled().await;
    assert_eq!(first.machine, who.machine, "the same box, with a new key");
    let id = who.machine;
    let shut_out = async |who: &Identified, reason| {
        let before = world.metrics.refusals(Door::Agents, reason);
        let connection = world.dialed(who).await;
        // It is closed in the midst of the words, or before them.
        if let Ok((mut send, _receive)) = connection.open_bi().await {
            let _ = send.write_all(&frame::encode(&prove(1)).expect("fits")).await;
            let _ = send.finish();
        }
        assert_eq!(closed(&connection).await.0, close::UNAUTHORIZED);
        world.counted(Door::Agents, reason, before + 1).await;
    };
    shut_out(&world.signed(&world.pki, MachineId::from_bytes([0xee; 16]), SystemTime::now()), Reason::UnknownMachine)
        .await;
    shut_out(&first, Reason::Superseded).await;
    shut_out(&who, Reason::Invalid).await;
    world.decided(move |draft| machine::reject(draft, id)).await;
    shut_out(&who, Reason::Rejected).await;
    world.decided(move |draft| machine::approve(draft, id)).await;
    world.wish(id).await;
    // What is decided later counts from the next request on, a confirmation too.
    let [proof, other] = [world.proof(&who).await, world.proof(&who).await];
    world.decided(move |draft| machine::retire(draft, id)).await;
    for (connection, call) in [(proof, prove(1)), (other, confirm(1))] {
        assert!(say(&connection, &frame::encode(&call).expect("fits")).await.is_err());
        assert_eq!(closed(&connection).await, (close::UNAUTHORIZED, "this machine was retired by an operator".into()));
    }
    assert_eq!(world.fleet.state().machines.get(&id).expect("there").outcome, Progress::Idle);
    shut_out(&who, Reason::Retired).await;
}

#[tokio::test]
async fn whoever_says_anything_else_on_a_proof_is_shut_out_and_not_heard() {
    let world = world();
    let (who, operation) = world.wanting().await;
    let session = world.session(&who).await;
    let (boot, state) = (BootId::from_bytes([9; 16]), Work::Failed { why: "no".into() });
    let words = [
        Call::Hello(hello(boot)),
        Call::Inventory(Box::default()),
        Call::Progress(Progress::Confirmed { generation: Generation(1) }),
        Call::Work { operation, state },
        Call::Renew { csr: request().1 },
    ];
    let before = world.fleet.state();
    for (count, call) in words.iter().enumerate() {
        let proof = world.proof(&who).await;
        assert!(say(&proof, &frame::encode(call).expect("fits")).await.is_err(), "{call:?}");
        assert_eq!(closed(&proof).await.0, close::PROTOCOL, "{call:?}");
        world.counted(Door::Agents, Reason::ProofMisused, count as u64 + 1).await;
    }
    for (reason, bytes) in [(Reason::TooLarge, vec![0xff; 4]), (Reason::Malformed, vec![0, 0, 0, 1, 0xff])] {
        let proof = world.proof(&who).await;
        assert!(say(&proof, &bytes).await.is_err());
        assert_eq!(closed(&proof).await.0, close::PROTOCOL);
        world.counted(Door::Agents, reason, 1).await;
    }
    assert!(Arc::ptr_eq(&before, &world.fleet.state()), "nothing is written");
    let Presence::Online(seen) = world.sessions.presence(who.machine) else { panic!("offline") };
    assert_eq!(seen.boot, BOOT);
    assert_eq!(told(&session, &Call::Progress(Progress::Idle)).await, Answer::Accepted);
}

#[tokio::test]
async fn a_proof_asks_so_often_and_no_more_however_fast() {
    let world = world();
    let (who, _) = world.wanting().await;
    let session = world.session(&who).await;
    let proof = world.dialed(&who).await;
    for _ in 0..PROOF_REQUESTS {
        assert_eq!(told(&proof, &prove(1)).await, Answer::Accepted);
    }
    assert!(say(&proof, &frame::encode(&prove(1)).expect("fits")).await.is_err());
    assert_eq!(closed(&proof).await, (close::PROTOCOL, "a proof asks 64 times and no more".into()));
    world.counted(Door::Agents, Reason::ProofOver, 1).await;

    // And one that waits for no answer.
    let flood = world.dialed(&who).await;
    let asks = frame::encode(&prove(1)).expect("fits");
    let mut answers = Vec::new();
    while let Ok((mut send, receive)) = flood.open_bi().await {
        let _ = send.write_all(&asks).await;
        let _ = send.finish();
        answers.push(receive);
        assert!(answers.len() <= PROOF_REQUESTS + 8, "it asks without end");
    }
    assert_eq!(closed(&flood).await.0, close::PROTOCOL);
    world.counted(Door::Agents, Reason::ProofOver, 2).await;
    assert_eq!(told(&session, &prove(1)).await, Answer::Accepted);
}

#[tokio::test]
async fn a_proof_lasts_so_long_and_no_longer() {
    let world = world();
    let (who, _) = world.wanting().await;
    let proof = world.proof(&who).await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    // Often enough that it is not taken for dead.
    let mut asked = 1;
    while proof.close_reason().is_none() {
        assert_eq!(told(&proof, &prove(1)).await, Answer::Accepted);
        asked += 1;
        assert!(asked < PROOF_REQUESTS, "it lasts for ever");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(closed(&proof).await, (close::PROTOCOL, "a proof lasts 60 s and no longer".into()));
    assert!(begun.elapsed() >= Duration::from_secs(PROOF_SECONDS - 1) && asked > 5, "{:?}, {asked}", begun.elapsed());
    world.counted(Door::Agents, Reason::ProofOver, 1).await;
    assert_eq!(world.sessions.handshakes(), 0);
}

#[tokio::test]
async fn a_machine_proves_so_many_ways_at_once_and_no_more() {
    let world = world();
    let (who, _) = world.wanting().await;
    let mut proofs = Vec::new();
    for _ in 0..AT_ONCE {
        proofs.push(world.proof(&who).await);
    }
    let one_more = world.dialed(&who).await;
    assert!(say(&one_more, &frame::encode(&prove(1)).expect("fits")).await.is_err());
    assert_eq!(closed(&one_more).await.0, close::BUSY);
    world.counted(Door::Agents, Reason::TooMany, 1).await;
    for proof in &proofs {
        assert_eq!(told(proof, &prove(1)).await, Answer::Accepted, "those that are there stay");
    }
    world.session(&who).await;

    let gone = proofs.pop().expect("there are some");
    gone.close(0_u32.into(), b"");
    world.handshaking(proofs.len()).await;
    world.proof(&who).await;
}

#[tokio::test]
async fn a_proof_gives_way_as_those_do_who_have_not_said_hello() {
    let world = world();
    let (who, _) = world.wanting().await;
    let proof = world.proof(&who).await;
    // Others who come from there: one more than there is room for, once it has held its place for a moment.
    let mut others = Vec::new();
    let crowding = async {
        while others.len() < super::super::HANDSHAKES / 2 {
            others.extend(world.sessions.0.handshakes.make(Ipv4Addr::LOCALHOST.into()));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, crowding).await.expect("in time");
    assert_eq!(closed(&proof).await.0, close::BUSY);
    world.counted(Door::Agents, Reason::TooMany, 1).await;
    drop(others);
    world.proof(&who).await;
}
