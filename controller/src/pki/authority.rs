//! The CAs in force: the one that signs, and while machines leave it, the one before.
//!
//! All that makes them is one text in PEM, `pki/ca.pem`, so that going from one state to the next is replacing one file:
//! the key and the certificate of the CA that signs, and in an overlap two more certificates: the one that the CA before
//! made for its successor, and its own. The key of the CA before is not kept: it has nothing more to sign.
//!
//! Whoever trusts the CA before finds the way from there to a certificate of its successor in the chain that the
//! controller sends, so no machine has to be reached before the change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_protocol::{Digest, MachineId};
use pem::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{AgentRequest, PkiError, provider, random};

/// How long a CA is good.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates begin a little in the past, for peers whose clocks are behind.
const AGENT_BACKDATE: Duration = Duration::from_secs(5 * 60);
pub(super) const OWN_BACKDATE: Duration = Duration::from_secs(24 * 3600);

/// PEM's words for what the file holds.
pub(super) const KEY: &str = "PRIVATE KEY";
pub(super) const CERTIFICATE: &str = "CERTIFICATE";

/// See the module.
pub struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
    before: Option<Before>,
    pub(super) agents: Arc<dyn ClientCertVerifier>,
}

/// The CA before.
struct Before {
    ca: CertificateDer<'static>,
    /// The certificate that it made for its successor.
    cross: CertificateDer<'static>,
}

/// What people are told of a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// SHA-256 of its certificate in DER.
    pub fingerprint: Digest,
    /// Its common name.
    pub name: String,
    /// Good until, in seconds since 1970 UTC.
    pub not_after_unix_s: i64,
}

impl Authority {
    /// Reads what the file holds. `None` for anything else.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let blocks = pem::parse_many(text).ok()?;
        let (key, certificates) = blocks.split_first()?;
        if key.tag() != KEY || certificates.iter().any(|block| block.tag() != CERTIFICATE) {
            return None;
        }
        let der = |block: &Pem| CertificateDer::from(block.contents().to_vec());
        let (ca, before) = match certificates {
            [ca] => (der(ca), None),
            [ca, cross, before] => (der(ca), Some(Before { ca: der(before), cross: der(cross) })),
            _ => return None,
        };
        let key = PrivatePkcs8KeyDer::from(key.contents().to_vec());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).ok()?;
        if let Some(Before { ca: before, cross }) = &before {
            let ends = [subject(&ca)?, issuer(cross)?];
            if ends != [subject(cross)?, subject(before)?] {
                return None;
            }
        }
        let issuer = is_of(&ca, &key).then(|| Issuer::from_ca_cert_der(&ca, key).ok())??;
        let mut roots = rustls::RootCertStore::empty();
        for ca in std::iter::once(&ca).chain(before.as_ref().map(|before| &before.ca)) {
            roots.add(ca.clone()).ok()?;
        }
        let agents = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let agents = agents.allow_unauthenticated().build().ok()?;
        Some(Self { issuer, ca, before, agents })
    }

    /// A new one, as its file.
    pub(super) fn make() -> Result<Vec<u8>, PkiError> {
        let (key, params) = new_ca()?;
        let ca = params.self_signed(&key).map_err(PkiError::Certificate)?;
        Ok(text(key.serialize_der(), [ca.der()]))
    }

    /// A new one with this one as the one before, as its file.
    pub(super) fn successor(&self) -> Result<Vec<u8>, PkiError> {
        let (key, params, ca) = loop {
            let (key, params) = new_ca()?;
            let ca = params.self_signed(&key).map_err(PkiError::Certificate)?;
            // CAs are told apart by their names, and these are random.
            if subject(ca.der()) != subject(&self.ca) {
                break (key, params, ca);
            }
        };
        let cross = params.signed_by(&key, &self.issuer).map_err(PkiError::Certificate)?;
        Ok(text(key.serialize_der(), [ca.der(), cross.der(), &self.ca]))
    }

    /// This one without the one before, as its file.
    pub(super) fn alone(&self) -> Vec<u8> {
        text(self.issuer.key().serialize_der(), [&self.ca])
    }

    /// The certificate of the CA that signs.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// What is told of the CA that signs.
    pub fn current(&self) -> Described {
        describe(&self.ca)
    }

    /// What is told of the CA before, while machines leave it.
    pub fn before(&self) -> Option<Described> {
        self.before.as_ref().map(|before| describe(&before.ca))
    }

    /// SHA-256 of the certificates of all CAs that are trusted, the one that signs first.
    pub fn trusted(&self) -> Vec<Digest> {
        std::iter::once(&self.ca)
            .chain(self.before.as_ref().map(|before| &before.ca))
            .map(|ca| Digest::of(ca))
            .collect()
    }

    /// The CAs' certificates for people, in PEM.
    pub fn pem(&self) -> String {
        let all = std::iter::once(&self.ca).chain(self.before.as_ref().map(|before| &before.ca));
        all.map(|ca| block(&Pem::new(CERTIFICATE, ca.to_vec()))).collect()
    }

    /// Whether one of the CAs in force has this name: it is an issuer's, in DER, from a certificate that was verified.
    pub fn has_signed(&self, name: &[u8]) -> bool {
        let named = |ca: &CertificateDer<'_>| subject(ca).is_some_and(|subject| subject == name);
        named(&self.ca) || self.before.as_ref().is_some_and(|before| named(&before.ca))
    }

    /// The name of the CA that signs, in DER.
    pub fn name(&self) -> Vec<u8> {
        subject(&self.ca).unwrap_or_default()
    }

    /// What the controller sends below its own certificate: a way up for whoever trusts any of the CAs in force.
    pub(super) fn chain(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        let (cross, before) = self.before.as_ref().map(|before| (before.cross.clone(), before.ca.clone())).unzip();
        cross.into_iter().chain([self.ca.clone()]).chain(before)
    }

    /// A certificate for a machine's key, leaf first, CA last.
    pub fn sign_agent(
        &self,
        machine: MachineId,
        request: &AgentRequest,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Vec<Vec<u8>>, PkiError> {
        let mut params = params(&machine.to_string(), now - AGENT_BACKDATE, now + lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&request.key, &self.issuer).map_err(PkiError::Certificate)?;
        Ok(vec![leaf.der().to_vec(), self.ca.to_vec()])
    }
}

/// Whether this is a key that a CA can have.
pub(super) fn is_key(der: &[u8]) -> bool {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ECDSA_P256_SHA256).is_ok()
}

fn new_ca() -> Result<(KeyPair, CertificateParams), PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Certificate)?;
    let now = SystemTime::now();
    let number = u32::from_be_bytes(random());
    let mut params = params(&format!("Muster CA {number:08x}"), now - OWN_BACKDATE, now + CA_LIFETIME);
    // One below it: its successor, which it certifies when it goes.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((key, params))
}

pub(super) fn params(common_name: &str, from: SystemTime, until: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = from.into();
    params.not_after = until.into();
    params.use_authority_key_identifier_extension = true;
    // rcgen takes the serial from the key, and a renewed certificate has the key of the one before.
    // RFC 5280, section 4.1.2.2: positive, at most 20 bytes.
    let mut serial = random::<16>();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

pub(super) fn text<'a>(key: Vec<u8>, certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Vec<u8> {
    let certificates = certificates.into_iter().map(|der| Pem::new(CERTIFICATE, der.to_vec()));
    let blocks: Vec<Pem> = std::iter::once(Pem::new(KEY, key)).chain(certificates).collect();
    blocks.iter().map(block).collect::<String>().into_bytes()
}

/// With the line ends of this system: the crate's own choice is that of mail.
pub(super) fn block(pem: &Pem) -> String {
    pem::encode_config(pem, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

/// Whether this certificate is for this key.
pub(super) fn is_of(der: &CertificateDer<'_>, key: &KeyPair) -> bool {
    x509_parser::parse_x509_certificate(der)
        .is_ok_and(|(_, read)| read.public_key().raw == key.subject_public_key_info())
}

fn subject(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    x509_parser::parse_x509_certificate(der).ok().map(|(_, read)| read.subject().as_raw().to_vec())
}

fn issuer(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    x509_parser::parse_x509_certificate(der).ok().map(|(_, read)| read.issuer().as_raw().to_vec())
}

pub(super) fn describe(ca: &CertificateDer<'_>) -> Described {
    let read = x509_parser::parse_x509_certificate(ca).ok().map(|(_, read)| read);
    let name = read.as_ref().and_then(|ca| ca.subject().iter_common_name().next()?.as_str().ok()).unwrap_or_default();
    Described {
        fingerprint: Digest::of(ca),
        name: name.to_owned(),
        not_after_unix_s: read.as_ref().map_or(0, |ca| ca.validity().not_after.timestamp()),
    }
}
