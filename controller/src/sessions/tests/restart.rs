//! After a restart of the controller, and in the moment between a handshake and a hello: nobody is taken for gone who is
//! on the way, and nobody comes in who was put out.

use std::pin::pin;
use std::sync::mpsc;
use std::time::Instant;

use futures_util::poll;

use super::super::files::Files;
use super::super::reunion::AWAITED;
use super::*;

impl World {
    /// The next run of this controller, which began so long ago. Nobody is told that the one before has ended.
    fn restarted(self, ago: Duration) -> Self {
        let agents = crate::config::Config::with_data(self._data.path().into()).agents;
        let at = Instant::now() - ago;
        let (fleet, pki, metrics) = (self.fleet.clone(), self.pki.clone(), self.metrics.clone());
        let files = Files::new(self._data.path().join("files"));
        let sessions = Sessions::started(fleet, pki, agents, files, metrics, at);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = sessions.listen(self.own.clone(), socket).expect("listens").address().expect("bound");
        Self { sessions, address, ..self }
    }

    /// Whatever is changed from now on waits in the order in which it was asked for, until this is dropped.
    async fn hold_the_writer(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let fleet = self.fleet.clone();
        tokio::spawn(async move {
            let held = fleet.change(Author::controller(), move |_| {
                let _ = begin.send(());
                let _ = released.recv();
                Ok(())
            });
            held.await.expect("nothing is changed");
        });
        begun.await.expect("the writer runs");
        release
    }

    /// Resolves when the machine counts as alive.
    async fn arrives(&self, machine: MachineId) {
        let arrived = async {
            while self.sessions.alive(machine) != Alive::Yes {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, arrived).await.expect("in time");
    }

    async fn claim(&self) -> Result<MachineId, enroll::Refusal> {
        let ticket = self.ticket(TicketBound::Bearer).await;
        self.enroll(&ticket, box_number(1)).await.map(|who| who.machine)
    }
}

#[tokio::test]
async fn nobody_takes_the_place_of_a_machine_that_a_restarted_controller_has_not_heard_of_yet() {
    let world = world();
    let member = world.member().await;
    let _session = world.session(&member).await;
    let world = world.restarted(Duration::ZERO);
    let ticket = world.ticket(TicketBound::Bearer).await;
    let claim = world.enroll(&ticket, box_number(1)).await.map(|who| who.machine);
    assert!(matches!(claim, Err(enroll::Refusal::Awaited { seconds: 1..=60 })), "{claim:?}");
    assert_eq!(world.fleet.state().machines.get(&member.machine).map(|m| m.certificate), Some(key_of(&member)));
    // The machine is back, and whoever claims to be it is another one; its ticket was not used up.
    let back = world.session(&member).await;
    let other = world.enroll(&ticket, box_number(1)).await.expect("enrolls").machine;
    assert_ne!(other, member.machine);
    // Once it was there, it is gone when it is gone.
    back.close(0_u32.into(), b"");
    world.presence(member.machine, |p| matches!(p, Presence::Offline { since_unix_ms: Some(_) })).await;
    assert_eq!(world.sessions.alive(member.machine), Alive::No);
}

#[tokio::test]
async fn a_machine_that_boots_while_its_controller_starts_is_let_in_within_a_minute() {
    let world = world();
    let member = world.member().await.machine;
    let world = world.restarted(AWAITED - Duration::from_secs(30));
    let claim = world.claim().await;
    assert!(matches!(claim, Err(enroll::Refusal::Awaited { seconds: 1..=30 })), "{claim:?}");
    assert_eq!(world.sessions.alive(member), Alive::Perhaps);
    let world = world.restarted(AWAITED);
    assert_eq!(world.claim().await, Ok(member));
}

#[tokio::test]
async fn a_new_machine_and_one_with_the_key_of_its_certificate_do_not_wait_for_others() {
    let world = world();
    let (_, csr) = request();
    let ticket = world.ticket(TicketBound::Bearer).await;
    let request = enroll::Request { leave: (&ticket).into(), csr, identity: box_number(1) };
    let enrolls = async |world: &World| {
        let connection = world.dial(ALPN_ENROLL, None).await.expect("dials");
        match ask(&connection, &request).await {
            enroll::Answer::Enrolled { machine, .. } => machine,
            enroll::Answer::Refused(refusal) => panic!("{refusal}"),
        }
    };
    let known = enrolls(&world).await;
    let world = world.restarted(Duration::ZERO);
    let ticket = world.ticket(TicketBound::Bearer).await;
    let other = world.enroll(&ticket, box_number(2)).await.expect("it is like nobody").machine;
    assert_ne!(other, known);
    assert_eq!(world.sessions.alive(other), Alive::No, "it enrolled in this run");
    // Its ticket was used up before: what it has is its key.
    assert_eq!(enrolls(&world).await, known);
}

#[tokio::test]
async fn an_operator_does_not_merge_a_machine_that_may_be_on_its_way_back() {
    let world = world();
    let (member, doubtful) = (world.member().await.machine, box_number(2));
    let ticket = world.ticket(TicketBound::Bearer).await;
    let doubtful = world.enroll(&ticket, doubtful).await.expect("enrolls").machine;
    let world = world.restarted(Duration::ZERO);
    let live = world.sessions.clone();
    let same = move |draft: &mut Draft| enrollment::same_as(draft, doubtful, member, live.alive(member));
    let refused = world.fleet.change(Author::controller(), same).await.expect_err("it may be alive").to_string();
    assert!(refused.contains("ask again in a minute"), "{refused}");
}

#[tokio::test]
async fn a_machine_that_is_rejected_between_its_handshake_and_its_hello_is_told_so_and_changes_nothing() {
    let world = world();
    let who = world.enrolled().await;
    let connection = world.dial(ALPN_SESSION, Some(&who)).await.expect("dials");
    let release = world.hold_the_writer().await;
    let id = who.machine;
    let mut rejected = pin!(world.fleet.change(Author::controller(), move |draft| machine::reject(draft, id)));
    assert!(poll!(rejected.as_mut()).is_pending(), "it waits for the writer");
    let said = frame::encode(&to_controller::Call::Hello(hello(BOOT))).expect("fits");
    let heard = async {
        world.arrives(id).await;
        drop(release);
    };
    let (answer, ()) = tokio::join!(say(&connection, &said), heard);
    rejected.await.expect("rejected");
    assert!(answer.is_err(), "it is not welcomed: {answer:?}");
    assert_eq!(closed(&connection).await, (close::UNAUTHORIZED, "this machine was rejected by an operator".into()));
    assert_eq!(world.fleet.state().machines.get(&id).expect("there").boot, None);
    assert_eq!(world.sessions.presence(id), Presence::Offline { since_unix_ms: None });
}

#[tokio::test]
async fn a_machine_whose_hello_waits_for_the_writer_is_alive_for_whoever_comes_after_it() {
    let world = world();
    let member = world.member().await;
    let ticket = world.ticket(TicketBound::Bearer).await;
    let doubtful = world.enroll(&ticket, box_number(2)).await.expect("enrolls").machine;
    let connection = world.dial(ALPN_SESSION, Some(&member)).await.expect("dials");
    let release = world.hold_the_writer().await;
    let said = frame::encode(&to_controller::Call::Hello(hello(BOOT))).expect("fits");
    let id = member.machine;
    let merged = async {
        world.arrives(id).await;
        let live = world.sessions.clone();
        let same = move |draft: &mut Draft| enrollment::same_as(draft, doubtful, id, live.alive(id));
        let mut merged = pin!(world.fleet.change(Author::controller(), same));
        assert!(poll!(merged.as_mut()).is_pending(), "it waits for the writer");
        drop(release);
        merged.await
    };
    let (welcome, merged) = tokio::join!(say(&connection, &said), merged);
    assert!(welcome.is_ok() && merged.is_err_and(|refusal| refusal.to_string().contains("never merged")));
    world.presence(id, |p| matches!(p, Presence::Online(_))).await;
}

#[tokio::test]
async fn a_machine_that_comes_while_another_claims_to_be_it_keeps_its_place() {
    let world = world();
    let member = world.member().await;
    let ticket = world.ticket(TicketBound::Bearer).await;
    let connection = world.dial(ALPN_SESSION, Some(&member)).await.expect("dials");
    let release = world.hold_the_writer().await;
    let claim = world.enroll(&ticket, box_number(1));
    let come = async {
        // The claim has looked at who is there when it waits for the writer: nobody.
        while world.sessions.0.enrollments.count() == 0 || world.fleet.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let said = frame::encode(&to_controller::Call::Hello(hello(BOOT))).expect("fits");
        let arrived = async {
            world.arrives(member.machine).await;
            drop(release);
        };
        tokio::join!(say(&connection, &said), arrived).0
    };
    let (claim, welcome) = tokio::join!(claim, come);
    assert_eq!(claim.map(|who| who.machine), Err(enroll::Refusal::Busy));
    assert!(welcome.is_ok());
    world.presence(member.machine, |p| matches!(p, Presence::Online(_))).await;
}

#[tokio::test]
async fn a_machine_that_is_about_to_say_hello_when_another_claims_to_be_it_keeps_its_place() {
    let world = world();
    let member = world.member().await;
    let ticket = world.ticket(TicketBound::Bearer).await;
    let connection = world.dial(ALPN_SESSION, Some(&member)).await.expect("dials");
    let release = world.hold_the_writer().await;
    let said = frame::encode(&to_controller::Call::Hello(hello(BOOT))).expect("fits");
    let claim = async {
        world.arrives(member.machine).await;
        let claim = world.enroll(&ticket, box_number(1));
        let both_wait = async {
            while world.fleet.waiting() < 2 {
                tokio::task::yield_now().await;
            }
            drop(release);
        };
        tokio::join!(claim, both_wait).0
    };
    let (welcome, claim) = tokio::join!(say(&connection, &said), claim);
    assert_eq!(claim.map(|who| who.machine), Err(enroll::Refusal::Busy));
    assert!(welcome.is_ok());
    world.presence(member.machine, |p| matches!(p, Presence::Online(_))).await;
}

/// The digest of the key in its certificate.
fn key_of(who: &Identified) -> Digest {
    crate::pki::AgentCertificate::read(&who.chain[0]).expect("one of ours").key
}
