//! Machines that take no question: whoever waits for approval and stands mute keeps nobody else out.

use super::*;

impl World {
    /// A session of a machine that lets nobody ask it anything.
    pub(super) async fn mute(&self, who: &Identified) -> Connection {
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_bidi_streams(0_u32.into());
        let mut client = client(self.pki.authority().ca().clone(), ALPN_SESSION, |tls| identified(tls, Some(who)));
        client.transport_config(Arc::new(transport));
        let connection = self.connect(client).await.expect("dials");
        welcome(&connection).await;
        connection
    }

    async fn enrolls(&self, identity: &Identity) -> Result<Identified, enroll::Refusal> {
        let ticket = self.ticket(TicketBound::Bearer).await;
        self.enroll(&ticket, identity.clone()).await
    }

    /// A member with so many NICs, and for each NIC a box that waits for approval and has nothing else of it.
    async fn look_alikes(&self, count: u8) -> (Identity, MachineId, Vec<Identified>) {
        let macs = (0..count).map(|last| Mac::from_bytes([2, 0, 0, 0, 1, last])).collect();
        let identity = Identity { macs, ..box_number(1) };
        let member = self.enrolls(&identity).await.expect("enrolls");
        let id = member.machine;
        self.fleet.change(Author::controller(), move |draft| machine::approve(draft, id)).await.expect("approved");
        let session = self.session(&member).await;
        let mut others = Vec::new();
        for mac in &identity.macs {
            let claimed = Identity { macs: vec![*mac], ..Identity::default() };
            let other = self.enrolls(&claimed).await.expect("enrolls");
            assert_ne!(other.machine, id, "the member is alive");
            others.push(other);
        }
        session.close(0_u32.into(), b"");
        self.presence(id, |p| matches!(p, Presence::Offline { .. })).await;
        (identity, id, others)
    }
}

#[tokio::test]
async fn a_look_alike_that_waits_for_approval_and_stands_mute_does_not_keep_a_machine_out() {
    let world = world();
    let (identity, member, others) = world.look_alikes(1).await;
    let mute = world.mute(&others[0]).await;
    assert_eq!(world.enrolls(&identity).await.map(|who| who.machine), Ok(member));
    assert_eq!(world.fleet.state().machines.get(&member).expect("there").doubt, []);
    assert_eq!(closed(&mute).await, (close::DONE, "it takes no question".into()));
}

#[tokio::test]
async fn a_look_alike_that_waits_for_approval_and_comes_back_again_and_again_does_not_keep_a_machine_out() {
    let world = world();
    let (identity, member, others) = world.look_alikes(1).await;
    let _first = world.mute(&others[0]).await;
    let claim = async { world.enrolls(&identity).await.map(|who| who.machine) };
    let again = async {
        while world.sessions.0.asking.count() == 0 {
            tokio::task::yield_now().await;
        }
        world.session(&others[0]).await
    };
    let (claim, _session) = tokio::join!(claim, again);
    assert_eq!(claim, Ok(member));
}

#[tokio::test]
async fn many_look_alikes_that_do_not_answer_are_asked_at_once_and_their_silence_is_nobody_elses() {
    let world = world();
    let (identity, member, others) = world.look_alikes(6).await;
    let mut mute = Vec::new();
    for other in &others {
        mute.push(world.mute(other).await);
    }
    // One after the other they would take longer than a request has.
    assert_eq!(world.enrolls(&identity).await.map(|who| who.machine), Ok(member));
    let state = world.fleet.state();
    assert_eq!(state.events.iter().filter(|event| event.kind == "enrollment.refused").count(), 0);
}
