//! Peers that show what they should not, and a good certificate in bad hands.

use anyhow::{Context, Result, ensure};
use muster_protocol::hello::{Progress, Times};
use muster_protocol::to_controller::{Answer, Call, Work};
use muster_protocol::{ALPN_SESSION, Digest, Generation, OperationId, close};
use muster_tests::eventually;
use muster_tests::lab::{SOON, text};
use muster_tests::peer::{Own, Peer};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;

use super::Siege;

/// A certificate that names `machine`, by a CA that anybody can make.
fn forged(machine: &str) -> Result<Own> {
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut ca = named("Muster CA 0000");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut leaf = named(machine);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
    Ok(Own { chain: vec![certificate.der().to_vec()], key: key.serialize_der() })
}

#[test]
fn whoever_has_no_certificate_of_this_controllers_is_refused_by_name_and_honest_machines_notice_nothing() -> Result<()>
{
    let siege = Siege::open("hostile-certificates")?;
    let (address, ca) = (siege.address(), &siege.ca_pem);
    for _ in 0..20 {
        ensure!(Peer::connect(address, ca, b"h3").is_err(), "another protocol");
        // TLS 1.3 tells a client only after its handshake that its certificate was missed or refused.
        let nobody = Peer::connect(address, ca, ALPN_SESSION).and_then(|peer| peer.say(b"\0\0\0\0"));
        ensure!(nobody.is_err(), "a session needs a certificate: {nobody:?}");
        let own = forged(text(&siege.honest[0], "/id")?)?;
        let forger = Peer::connect_as(address, ca, ALPN_SESSION, Some(&own)).and_then(|peer| peer.say(b"\0\0\0\0"));
        ensure!(forger.is_err(), "anybody can make a certificate: {forger:?}");
    }
    siege.refused("agents", "wrong_alpn", 20)?;
    siege.refused("agents", "no_certificate", 20)?;
    siege.refused("agents", "unknown_ca", 20)?;
    siege.stands()?;
    siege.held_little(60)
}

#[test]
fn a_hostile_machine_speaks_for_itself_alone_and_not_with_a_key_that_has_a_successor() -> Result<()> {
    let siege = Siege::open("hostile-machine")?;
    let api = siege.controller.api()?;
    // Something is under way for an honest machine that is not there: whoever could tell of it could end it.
    siege.machines.unplug(0);
    let victim = eventually(SOON, "one machine is offline", || {
        let list = api.get("/api/v1/machines?presence=offline")?;
        list["items"].get(0).cloned().context("none is")
    })?;
    let id = text(&victim, "/id")?.to_owned();
    let document = "network:\n  version: 2\n  ethernets:\n    eth0:\n      addresses: [10.99.0.7/16]\n";
    let wish = api.post(&format!("/api/v1/machines/{id}/apply"), &json!({ "document": document }))?;
    let operation: OperationId = text(&wish, "/id")?.parse()?;
    let seen = || -> Result<_> {
        let operation = api.get(&format!("/api/v1/operations/{operation}"))?;
        let machine = api.get(&format!("/api/v1/machines/{id}"))?;
        Ok([operation["state"].clone(), machine["progress"].clone(), machine["generation"].clone()])
    };
    let before = seen()?;

    let first = siege.enroll(1)?;
    let session = siege.session(&first)?;
    for call in [
        Call::Work { operation, state: Work::Failed { why: "it is mine".into() } },
        Call::Work { operation, state: Work::Done { receipts: Vec::new() } },
        Call::Confirm { generation: Generation(1), desired: Digest::from_bytes([0; 32]), times: Times::default() },
        Call::Progress(Progress::Confirmed { generation: Generation(1) }),
    ] {
        let _: Answer = session.ask(&call)?;
    }
    ensure!(seen()? == before, "what it says is of itself: {:?}", seen()?);

    // The same box boots again: its earlier key is worth nothing.
    drop(session);
    let second = siege.enroll(1)?;
    let late = Peer::connect_as(siege.address(), &siege.ca_pem, ALPN_SESSION, Some(&first))?.closed()?;
    ensure!(late.0 == u64::from(close::UNAUTHORIZED), "{late:?}");
    ensure!(siege.controller.refusals("agents", "superseded")? >= 1, "it is counted");
    siege.session(&second)?;
    Ok(())
}
