//! Whom the agent believes.
//!
//! Used by `dial`. The only trust is in CA certificates known by their SHA-256 and sent by the controller in its own chain;
//! names are no help, because controllers are reached by address.

use std::sync::Arc;

use muster_protocol::{CONTROLLER_NAME, Digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore, SignatureScheme,
};

use super::clock::{BUILT, Clock};
use super::crypto;
use super::identity::Credentials;

/// Whether this machine knows what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// As well as can be.
    Known,
    /// The hardware clock says something, and that may be wrong in either direction (docs/decisions/0010).
    Unknown,
}

/// A configuration for one attempt: this ALPN, any of these CAs, and the agent's certificate where it has one.
///
/// Errors: the key or chain of `credentials` is not usable.
pub fn config(
    alpn: &[u8],
    cas: Vec<Digest>,
    clock: &Clock,
    time: Time,
    credentials: Option<&Credentials>,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(crypto::provider());
    let verifier = Arc::new(PinnedCas { cas, time, provider: provider.clone() });
    let builder = ClientConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credentials {
        Some(own) => {
            let chain = own.chain.iter().cloned().map(CertificateDer::from).collect();
            let key = PrivateKeyDer::try_from(own.key.clone()).map_err(|text| Error::General(text.into()))?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    // Handshakes are rare, and a resumed one would show a certificate that may be revoked by now.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts a controller's certificate that was issued by exactly one of these CAs, perhaps by way of a certificate that
/// this one made for its successor.
#[derive(Debug)]
struct PinnedCas {
    cas: Vec<Digest>,
    time: Time,
    provider: Arc<CryptoProvider>,
}

impl PinnedCas {
    /// The time at which to judge again, after a certificate was not valid at another: a machine that does not know the
    /// time takes that certificate's word, back to the time when this program was built.
    fn another_time(&self, error: &Error) -> Option<UnixTime> {
        let Error::InvalidCertificate(error) = error else { return None };
        let then = match (self.time, error) {
            (Time::Known, _) => None,
            (Time::Unknown, CertificateError::NotValidYetContext { not_before, .. }) => Some(*not_before),
            (Time::Unknown, CertificateError::ExpiredContext { not_after, .. }) => Some(*not_after),
            (Time::Unknown, _) => None,
        };
        then.filter(|then| then.as_secs() >= BUILT.as_secs())
    }
}

impl ServerCertVerifier for PinnedCas {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut roots = RootCertStore::empty();
        for ca in intermediates.iter().filter(|certificate| self.cas.contains(&Digest::of(certificate))) {
            roots.add(ca.clone())?;
        }
        if roots.is_empty() {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let verify =
            |at| verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, at, algorithms);
        verify(now).or_else(|error| self.another_time(&error).map_or(Err(error), verify))?;
        let name = ServerName::try_from(CONTROLLER_NAME).map_err(|e| Error::General(e.to_string()))?;
        verify_server_name(&certificate, &name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    struct Site {
        ca: CertifiedIssuer<'static, KeyPair>,
        leaf: CertificateDer<'static>,
    }

    fn site(name: &str, not_after_year: i32) -> Site {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(not_after_year, 1, 1);
        let leaf = params.signed_by(&KeyPair::generate().expect("a key"), &ca).expect("a leaf").der().clone();
        Site { ca, leaf }
    }

    fn verify(pinned: Digest, leaf: &CertificateDer<'static>, sent: &CertificateDer<'static>) -> Result<(), Error> {
        verify_chain(&[pinned], leaf, std::slice::from_ref(sent))
    }

    fn verify_chain(
        cas: &[Digest],
        leaf: &CertificateDer<'static>,
        sent: &[CertificateDer<'static>],
    ) -> Result<(), Error> {
        let provider = Arc::new(crypto::provider());
        let name = ServerName::try_from("10.0.2.2").expect("an address");
        let now = UnixTime::since_unix_epoch(Clock::new(0).now());
        PinnedCas { cas: cas.to_vec(), time: Time::Known, provider }
            .verify_server_cert(leaf, sent, &name, &[], now)
            .map(drop)
    }

    #[test]
    fn believes_the_pinned_ca_and_no_other() {
        let (ours, theirs) = (site(CONTROLLER_NAME, 2999), site(CONTROLLER_NAME, 2999));
        let pin = Digest::of(ours.ca.der());
        verify(pin, &ours.leaf, ours.ca.der()).expect("our controller");
        let error = verify(pin, &theirs.leaf, theirs.ca.der()).expect_err("another controller");
        assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
        // The right CA beside a certificate that it did not issue proves nothing.
        verify(pin, &theirs.leaf, ours.ca.der()).expect_err("issued by another CA");
    }

    #[test]
    fn another_name_and_an_ended_certificate_are_refused() {
        let machine = site("machine.muster.internal", 2999);
        verify(Digest::of(machine.ca.der()), &machine.leaf, machine.ca.der()).expect_err("no controller");
        let ended = site(CONTROLLER_NAME, 2020);
        verify(Digest::of(ended.ca.der()), &ended.leaf, ended.ca.der()).expect_err("ended");
    }

    #[test]
    fn who_does_not_know_the_time_takes_the_certificates_word_and_believes_no_other_ca_for_it() {
        let verify = |site: &Site, pin: &Site, hardware: u64| {
            let provider = Arc::new(crypto::provider());
            let pinned = PinnedCas { cas: vec![Digest::of(pin.ca.der())], time: Time::Unknown, provider };
            let name = ServerName::try_from("10.0.2.2").expect("an address");
            let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(hardware));
            pinned.verify_server_cert(&site.leaf, std::slice::from_ref(site.ca.der()), &name, &[], at).map(drop)
        };
        let (ours, theirs) = (site(CONTROLLER_NAME, 2030), site(CONTROLLER_NAME, 2030));
        for hardware in [BUILT.as_secs(), 1_850_000_000, 4_070_908_800, 400_000_000_000] {
            verify(&ours, &ours, hardware).expect("our controller");
            verify(&theirs, &ours, hardware).expect_err("another controller");
        }
        // It ended before this program was built: nobody shows it any more but who stole its key.
        verify(&site(CONTROLLER_NAME, 2020), &ours, 4_070_908_800).expect_err("another CA and an ended certificate");
        let ended = site(CONTROLLER_NAME, 2020);
        verify(&ended, &ended, 4_070_908_800).expect_err("an ended certificate");
    }

    #[test]
    fn a_successor_that_the_pinned_ca_certified_is_believed_and_a_stranger_beside_it_is_not() {
        let certified = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let authority = |name: &str| {
            CertifiedIssuer::self_signed(certified(name), KeyPair::generate().expect("a key")).expect("a CA")
        };
        let (old, new, stranger) = (authority("old"), authority("new"), authority("new"));
        let cross = certified("new").signed_by(new.key(), &old).expect("a certificate").der().clone();
        let params = CertificateParams::new(vec![CONTROLLER_NAME.to_owned()]).expect("a name");
        let leaf = |ca| params.signed_by(&KeyPair::generate().expect("a key"), ca).expect("a leaf").der().clone();

        let [pin_old, pin_new] = [&old, &new].map(|ca| Digest::of(ca.der()));
        let sent = [cross, new.der().clone(), old.der().clone()];
        for pins in [&[pin_old][..], &[pin_new], &[pin_new, pin_old], &[pin_old, pin_new]] {
            verify_chain(pins, &leaf(&new), &sent).expect("our controller");
            verify_chain(pins, &leaf(&stranger), &sent).expect_err("another CA of the same name");
        }
        verify_chain(&[pin_old], &leaf(&new), &sent[1..]).expect_err("nothing leads from the one to the other");
        verify_chain(&[pin_new], &leaf(&old), &sent).expect_err("the old CA alone, to whom has left it");
    }
}
