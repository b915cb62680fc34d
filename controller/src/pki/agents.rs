//! What agents show: signing requests, and certificates, which are judged by the CAs in force at that moment.
//!
//! Used by `sessions`. Who gets a certificate is decided there.

use std::sync::Arc;

use muster_protocol::{Digest, MachineId};
use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::Pki;

/// An uncompressed P-256 point: 4, x, y (SEC 1, section 2.3.3).
const P256_POINT: usize = 65;

/// A signing request that holds what it should: an ECDSA P-256 key, and proof that the asker has it.
pub struct AgentRequest {
    pub(super) key: PublicKey,
}

/// Why bytes are not a signing request that is signed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not PKCS #10, or an unknown kind of key, or not signed by its own key.
    #[error("not a certificate signing request that is signed by its own key")]
    Malformed,
    /// Another kind of key.
    #[error("the key is not ECDSA P-256")]
    KeyKind,
}

impl AgentRequest {
    /// Reads a signing request in DER. Only its key is used: names and extensions that it asks for are not heard.
    pub fn read(der: &[u8]) -> Result<Self, RequestError> {
        let der = CertificateSigningRequestDer::from(der);
        let request = CertificateSigningRequestParams::from_der(&der).map_err(|_| RequestError::Malformed)?;
        let key = request.public_key;
        // The signature's algorithm says SHA-256, and the length of the point says which curve.
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != P256_POINT {
            return Err(RequestError::KeyKind);
        }
        Ok(Self { key })
    }

    /// What a machine's record keeps of the key; equal to [`AgentCertificate::key`] of a certificate made for it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.key.subject_public_key_info())
    }
}

/// Who a peer's certificate says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCertificate {
    /// The subject's common name.
    pub machine: MachineId,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    pub key: Digest,
    /// Good until, in seconds since 1970 UTC.
    pub not_after_unix_s: i64,
    /// The name of the CA that signed it, in DER; see [`super::Authority::has_signed`].
    pub issuer: Vec<u8>,
}

impl AgentCertificate {
    /// Reads a certificate that was verified already. `None` where it is not one that this controller makes.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let machine = certificate.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()?;
        let key = Digest::of(certificate.public_key().raw);
        let (not_after, issuer) = (certificate.validity().not_after, certificate.issuer().as_raw().to_vec());
        Some(Self { machine, key, not_after_unix_s: not_after.timestamp(), issuer })
    }
}

/// Judges agents' certificates by whichever CAs are in force, handshake by handshake. To show none is allowed: whether one
/// is needed depends on what the agent wants.
pub struct AgentVerifier(Arc<Pki>);

impl AgentVerifier {
    /// By the CAs of this authority.
    pub fn new(pki: Arc<Pki>) -> Self {
        Self(pki)
    }

    fn now(&self) -> Arc<dyn ClientCertVerifier> {
        self.0.authority().agents.clone()
    }
}

impl ClientCertVerifier for AgentVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// An agent has one certificate and needs no hint which one is meant.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.now().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.now().verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.now().verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.now().supported_verify_schemes()
    }
}

impl std::fmt::Debug for AgentVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentVerifier")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;
    use crate::pki::tests::request;

    #[test]
    fn a_request_that_is_not_signed_by_its_own_key_is_refused() {
        let (_, mut der) = request();
        let last = der.len() - 1;
        der[last] ^= 1;
        assert_eq!(AgentRequest::read(&der).err(), Some(RequestError::Malformed));
    }

    #[test]
    fn a_request_for_another_kind_of_key_is_refused() {
        for kind in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(kind).expect("a key");
            let der = CertificateParams::default().serialize_request(&key).expect("a request").der().to_vec();
            assert_eq!(AgentRequest::read(&der).err(), Some(RequestError::KeyKind));
        }
    }

    #[test]
    fn bytes_that_are_no_request_are_refused() {
        let (_, der) = request();
        for end in 0..der.len() {
            assert!(AgentRequest::read(&der[..end]).is_err());
        }
        for at in 0..der.len() {
            let mut bad = der.clone();
            bad[at] ^= 0x55;
            // Only the frame around the signed part may change and still be read, and then it says the same.
            if let Ok(read) = AgentRequest::read(&bad) {
                assert_eq!(read.digest(), AgentRequest::read(&der).expect("good").digest(), "byte {at}");
            }
        }
    }
}
