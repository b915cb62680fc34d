//! Machines from sealed ISOs: no boot script, no ticket, the medium's credential.

use muster_protocol::enroll::{Refusal, SiteCredential};

use super::*;
use crate::fleet::iso;
use crate::fleet::record::Iso;

pub(super) const CREDENTIAL: SiteCredential = SiteCredential::from_bytes([0x5c; 32]);

impl World {
    /// Takes note of a sealed ISO with [`CREDENTIAL`], and answers its id.
    pub(super) async fn sealed(&self) -> String {
        self.sealed_with(CREDENTIAL).await
    }

    async fn sealed_with(&self, credential: SiteCredential) -> String {
        let ca = self.pki.fingerprint();
        let add = move |draft: &mut Draft| {
            let iso = Iso { sealed: Some(ca), ..iso::tests::noted(draft, credential.digest()) };
            draft.put(iso.clone());
            Ok(iso)
        };
        self.fleet.change(Author::controller(), add).await.expect("added").id
    }

    async fn enroll_by_medium(&self, credential: SiteCredential, number: u8) -> enroll::Answer {
        let (_, csr) = request();
        self.enroll_by(enroll::Request { leave: Leave::Site(credential), csr, identity: box_number(number) }).await
    }

    async fn enroll_by(&self, request: enroll::Request) -> enroll::Answer {
        let connection = self.dial(ALPN_ENROLL, None).await.expect("nobody needs a certificate to enroll");
        ask(&connection, &request).await
    }
}

fn refused(answer: &enroll::Answer) -> Option<Refusal> {
    match answer {
        enroll::Answer::Refused(refusal) => Some(*refusal),
        enroll::Answer::Enrolled { .. } => None,
    }
}

#[tokio::test]
async fn a_machine_from_a_sealed_iso_needs_no_ticket_until_the_iso_is_revoked() {
    let world = world();
    let unknown = world.enroll_by_medium(CREDENTIAL, 1).await;
    assert_eq!(refused(&unknown), Some(Refusal::NoMedium), "nobody has told of such an ISO");
    let id = world.sealed().await;
    let answer = world.enroll_by_medium(CREDENTIAL, 1).await;
    let enroll::Answer::Enrolled { machine, .. } = answer else { panic!("{answer:?}") };
    let joined = world.fleet.state().machines.get(&machine).cloned().expect("there");
    assert_eq!((joined.iso, joined.location.as_str()), (id.clone(), "ber1"));

    world.fleet.change(Author::controller(), move |draft| machine::approve(draft, machine)).await.expect("approved");
    world.fleet.change(Author::controller(), move |draft| iso::revoke(draft, &id)).await.expect("revoked");
    let again = world.enroll_by_medium(CREDENTIAL, 1).await;
    assert!(matches!(again, enroll::Answer::Enrolled { machine: id, .. } if id == machine), "it is in: {again:?}");
    assert_eq!(refused(&world.enroll_by_medium(CREDENTIAL, 2).await), Some(Refusal::MediumRevoked));
}

#[tokio::test]
async fn who_shows_an_isos_credential_without_end_has_to_wait_and_those_of_another_iso_have_not() {
    let world = world();
    world.sealed().await;
    let other = SiteCredential::from_bytes([0x5d; 32]);
    world.sealed_with(other).await;
    let (mut heard, mut csr) = (0, None);
    let refusal = loop {
        let request = enroll::Request { leave: Leave::Site(CREDENTIAL), csr: request().1, identity: box_number(1) };
        let answer = world.enroll_by(request.clone()).await;
        if let Some(refusal) = refused(&answer) {
            break refusal;
        }
        (heard, csr) = (heard + 1, Some(request.csr));
        assert!(heard < 10_000, "it is heard without end");
    };
    assert_eq!(refusal, Refusal::Busy);
    assert!(heard >= crate::sessions::limit::STARTS, "{heard}");
    assert_eq!(refused(&world.enroll_by_medium(other, 2).await), None, "the ration is the ISO's own");

    // Whoever has the key of a machine is that machine, and is not counted.
    let holder = csr.expect("it was heard once");
    let request = enroll::Request { leave: Leave::Site(CREDENTIAL), csr: holder, identity: box_number(1) };
    assert_eq!(refused(&world.enroll_by(request).await), None);
}
