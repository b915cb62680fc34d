//! From one CA to the next: nobody is locked out on the way, and nobody is let in by the CA that has gone.

use super::*;
use crate::pki::Change;

impl World {
    fn change(&self, change: Option<Change>) {
        self.pki.commit(change.expect("it can be changed")).expect("written");
    }

    fn rotate(&self) {
        self.change(self.pki.rotation().expect("made"));
    }

    fn finish(&self) {
        self.change(self.pki.end_of_overlap().expect("made"));
    }

    async fn until_it_trusts(&self, machine: MachineId, cas: &[Digest]) {
        let mut states = self.fleet.watch();
        let told = states.wait_for(|state| state.machines.get(&machine).is_some_and(|m| m.trusts == cas));
        tokio::time::timeout(DEADLINE, told).await.expect("in time").expect("the fleet is there");
    }
}

/// Answers the next thing that the controller asks, and says what it was.
async fn accept_one(session: &Connection) -> to_agent::Call {
    let accepted = async {
        let (mut send, mut receive) = session.accept_bi().await.expect("a call");
        let call = receive.read_to_end(1 << 20).await.expect("read");
        send.write_all(&frame::encode(&to_agent::Answer::Accepted).expect("fits")).await.expect("written");
        send.finish().expect("finished");
        frame::decode(&call[frame::HEADER..]).expect("decodes")
    };
    tokio::time::timeout(DEADLINE, accepted).await.expect("in time")
}

async fn renewed(session: &Connection, who: &Identified) -> Identified {
    let key = rcgen::KeyPair::try_from(who.key.as_slice()).expect("a key");
    let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("a request").der().to_vec();
    let answer: to_controller::Answer = ask(session, &to_controller::Call::Renew { csr }).await;
    let to_controller::Answer::Renewed { certificates } = answer else { panic!("{answer:?}") };
    Identified { chain: certificates.into_iter().map(CertificateDer::from).collect(), ..who.clone() }
}

#[tokio::test]
async fn a_machine_in_session_is_told_of_the_new_ca_at_once_and_of_the_end_of_the_old() {
    let world = world();
    let who = world.member().await;
    let session = world.session(&who).await;
    let old = world.pki.fingerprint();
    world.rotate();
    let new = world.pki.fingerprint();
    assert_eq!(accept_one(&session).await, to_agent::Call::Trust { cas: vec![new, old] });
    world.until_it_trusts(who.machine, &[new, old]).await;
    let followed = renewed(&session, &who).await;
    assert_eq!(followed.chain[1], *world.pki.authority().ca(), "the new CA signs");
    world.finish();
    assert_eq!(accept_one(&session).await, to_agent::Call::Trust { cas: vec![new] });
    world.until_it_trusts(who.machine, &[new]).await;
    assert!(session.close_reason().is_none(), "whoever has followed keeps its session");
    world.session(&followed).await;
}

#[tokio::test]
async fn a_machine_that_was_away_and_knows_the_old_ca_alone_comes_back_in_the_overlap() {
    let world = world();
    let who = world.member().await;
    let old = world.pki.authority().ca().clone();
    let first = world.pki.fingerprint();
    world.rotate();
    let session =
        world.dial_trusting(old.clone(), ALPN_SESSION, Some(&who)).await.expect("it believes and is believed");
    welcome(&session).await;
    assert_eq!(accept_one(&session).await, to_agent::Call::Trust { cas: vec![world.pki.fingerprint(), first] });
    // So does one that only now enrolls, from a boot script of yesterday.
    world.dial_trusting(old, ALPN_ENROLL, None).await.expect("it believes");
}

#[tokio::test]
async fn a_session_of_the_old_ca_ends_within_a_second_of_its_end_and_its_certificate_is_refused() {
    let world = world();
    let who = world.member().await;
    let session = world.session(&who).await;
    let old = world.pki.authority().ca().clone();
    world.rotate();
    world.finish();
    let end = tokio::time::timeout(Duration::from_secs(1), session.closed()).await.expect("within a second");
    assert!(
        matches!(&end, ConnectionError::ApplicationClosed(c) if c.error_code == close::UNAUTHORIZED.into()),
        "{end:?}"
    );
    let end = match world.dial(ALPN_SESSION, Some(&who)).await {
        Err(end) => end,
        Ok(connection) => tokio::time::timeout(DEADLINE, connection.closed()).await.expect("in time"),
    };
    assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    world.dial_trusting(old, ALPN_ENROLL, None).await.expect_err("nothing leads from the old CA to the controller");
}

#[tokio::test]
async fn the_controllers_new_certificate_is_shown_at_the_next_handshake_and_sessions_stay() {
    let world = world();
    let who = world.member().await;
    let shown = |connection: &Connection| {
        let chain = connection.peer_identity().expect("TLS").downcast::<Vec<CertificateDer<'static>>>();
        chain.expect("certificates")[0].clone()
    };
    let first = world.session(&who).await;
    // As after half of its life: another address that the certificate must be good for.
    world.own.cover("198.51.100.7".parse().expect("an address"));
    let second = world.dial(ALPN_ENROLL, None).await.expect("dials");
    assert_ne!(shown(&first), shown(&second));
    assert!(first.close_reason().is_none());
    world.rotate();
    let third = world.dial(ALPN_ENROLL, None).await.expect("dials, trusting the new CA");
    assert_ne!(shown(&second), shown(&third));
    assert!(first.close_reason().is_none());
}

#[tokio::test]
async fn a_certificate_is_renewed_for_its_own_key_only() {
    let world = world();
    let who = world.member().await;
    let session = world.session(&who).await;
    let (_, foreign) = request();
    let answer: to_controller::Answer = ask(&session, &to_controller::Call::Renew { csr: foreign }).await;
    assert_eq!(answer, to_controller::Answer::Refused(Refusal::BadRequest));
    world.session(&renewed(&session, &who).await).await;
    world.session(&who).await;
}
