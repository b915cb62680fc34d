//! The certificate authority: made on first start, signs agents and the controller itself.
//!
//! Everything it keeps lies in one folder, `pki` in the data directory: `ca.pem` (key and certificate, for the
//! controller alone) and `reset.key` (QUIC's stateless reset key, kept so that agents notice a restart at once).
//! The certificate for people and `curl --cacert` is `ca.crt` in the data directory itself.
//! It does not decide who gets a certificate (`sessions`), and keeps no list of those it made: a machine's record holds
//! the key that is in force.

mod own;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_protocol::{CONTROLLER_NAME, Digest, MachineId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub use own::OwnCertificate;

use crate::files;

/// How long the CA is good.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long the controller's own certificate is good; a new one is made when half of it has passed.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Certificates begin a little in the past, for peers whose clocks are behind.
const AGENT_BACKDATE: Duration = Duration::from_secs(5 * 60);
const OWN_BACKDATE: Duration = Duration::from_secs(24 * 3600);

/// An uncompressed P-256 point: 4, x, y (SEC 1, section 2.3.3).
const P256_POINT: usize = 65;

/// The cryptography behind every TLS and QUIC connection of the controller; the one place that names it.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authority and its secrets.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
    reset_key: [u8; 64],
}

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot use {}", file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} does not hold {expected}; restore it from a backup", file.display())]
    Contents {
        /// Which one.
        file: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// A certificate that was made is not taken by TLS.
    #[error("cannot use a certificate")]
    Tls(#[source] rustls::Error),
}

/// A signing request that holds what it should: an ECDSA P-256 key, and proof that the asker has it.
pub struct AgentRequest {
    key: PublicKey,
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
}

impl AgentCertificate {
    /// Reads a certificate that was verified already. `None` where it is not one that this controller makes.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let machine = certificate.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()?;
        let key = Digest::of(certificate.public_key().raw);
        Some(Self { machine, key, not_after_unix_s: certificate.validity().not_after.timestamp() })
    }
}

impl Pki {
    /// Opens the authority in `data`, making it on first start.
    pub fn open(data: &Path) -> Result<Self, PkiError> {
        let folder = data.join("pki");
        let in_file = |cause| PkiError::File { file: folder.clone(), cause };
        std::fs::create_dir_all(&folder).map_err(in_file)?;

        let file = folder.join("ca.pem");
        let bytes = read_or_make(&file, make_ca)?;
        let wrong = || PkiError::Contents { file: file.clone(), expected: "a CA's key and certificate" };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&bytes).map_err(|_| wrong())?;
        let ca = CertificateDer::from_pem_slice(&bytes).map_err(|_| wrong())?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(|_| wrong())?;
        let issuer = Issuer::from_ca_cert_der(&ca, key).map_err(|_| wrong())?;

        let file = folder.join("reset.key");
        let bytes = read_or_make(&file, || Ok(random::<64>().to_vec()))?;
        let wrong = |_| PkiError::Contents { file: file.clone(), expected: "64 random bytes" };
        let reset_key = bytes.try_into().map_err(wrong)?;

        let pki = Self { issuer, ca, reset_key };
        let public = data.join("ca.crt");
        files::replace(&public, pki.ca_pem().as_bytes(), files::PUBLIC)
            .map_err(|cause| PkiError::File { file: public, cause })?;
        Ok(pki)
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The CA's certificate for people.
    pub fn ca_pem(&self) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", self.ca.to_vec()))
    }

    /// What boot media carry: agents trust exactly the CA with this fingerprint.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.ca)
    }

    /// QUIC's stateless reset key (RFC 9000, section 10.3).
    pub fn reset_key(&self) -> &[u8; 64] {
        &self.reset_key
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

    /// A certificate for the controller itself, with a key of its own: good for agents, which look for
    /// [`CONTROLLER_NAME`], and for people who come by one of `names` or `addresses`.
    pub fn sign_controller(&self, names: &[String], addresses: &[IpAddr], now: SystemTime) -> Result<Leaf, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Certificate)?;
        let mut params = params(CONTROLLER_NAME, now - OWN_BACKDATE, now + LEAF_LIFETIME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in std::iter::once(CONTROLLER_NAME).chain(names.iter().map(String::as_str)) {
            // A name that is an address goes where clients look for addresses.
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.try_into().map_err(PkiError::Certificate)?),
            });
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let leaf = params.signed_by(&key, &self.issuer).map_err(PkiError::Certificate)?;
        let chain = vec![leaf.der().clone(), self.ca.clone()];
        Ok(Leaf { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) })
    }
}

/// The controller's own certificate.
pub struct Leaf {
    /// Leaf first, CA last.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

fn make_ca() -> Result<Vec<u8>, PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Certificate)?;
    let now = SystemTime::now();
    let [a, b] = random::<2>();
    let mut params = params(&format!("Muster CA {a:02x}{b:02x}"), now - OWN_BACKDATE, now + CA_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&key).map_err(PkiError::Certificate)?;
    Ok((key.serialize_pem() + &ca.pem()).into_bytes())
}

fn params(common_name: &str, from: SystemTime, until: SystemTime) -> CertificateParams {
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

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail");
    bytes
}

/// What `file` holds; where it is missing, what `make` gives is written to it first.
fn read_or_make(file: &Path, make: impl FnOnce() -> Result<Vec<u8>, PkiError>) -> Result<Vec<u8>, PkiError> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let bytes = make()?;
            files::replace(file, &bytes, files::SECRET)
                .map_err(|cause| PkiError::File { file: file.to_owned(), cause })?;
            Ok(bytes)
        }
        Err(cause) => Err(PkiError::File { file: file.to_owned(), cause }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use std::os::unix::fs::PermissionsExt;

    /// A key and a request for it, as an agent makes them.
    pub(crate) fn request() -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        (key, request.der().to_vec())
    }

    fn pki() -> (tempfile::TempDir, Pki) {
        let data = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::open(data.path()).expect("a CA");
        (data, pki)
    }

    #[test]
    fn the_authority_is_the_same_after_opening_again_and_its_files_are_private() {
        let (data, pki) = pki();
        let again = Pki::open(data.path()).expect("opens");
        assert_eq!((again.fingerprint(), again.reset_key()), (pki.fingerprint(), pki.reset_key()));
        for file in ["ca.pem", "reset.key"] {
            let mode = std::fs::metadata(data.path().join("pki").join(file)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let public = std::fs::read_to_string(data.path().join("ca.crt")).expect("there");
        assert!(!public.contains("PRIVATE"));
        let ca = CertificateDer::from_pem_slice(public.as_bytes()).expect("a certificate");
        assert_eq!(Digest::of(&ca), pki.fingerprint());
    }

    #[test]
    fn a_damaged_authority_is_an_error_and_never_replaced() {
        let (data, _) = pki();
        let file = data.path().join("pki/ca.pem");
        std::fs::write(&file, "nothing").expect("written");
        let error = Pki::open(data.path()).err().expect("refused").to_string();
        assert!(error.contains("restore it from a backup"), "{error}");
        assert_eq!(std::fs::read(&file).expect("there"), b"nothing");
    }

    #[test]
    fn an_agents_certificate_names_its_machine_and_its_key() {
        let (_data, pki) = pki();
        let (_, der) = request();
        let request = AgentRequest::read(&der).expect("a good request");
        let machine = MachineId::from_bytes([7; 16]);
        let now = SystemTime::now();
        let chain = pki.sign_agent(machine, &request, now, Duration::from_secs(3600)).expect("signed");
        assert_eq!(chain[1], pki.ca().to_vec());
        let read = AgentCertificate::read(&chain[0]).expect("one of ours");
        assert_eq!((read.machine, read.key), (machine, request.digest()));
        let now = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
        assert!((now + 3599..=now + 3601).contains(&read.not_after_unix_s));
    }

    #[test]
    fn a_renewed_certificate_is_for_the_same_key_and_another_certificate() {
        let (_data, pki) = pki();
        let (_, der) = request();
        let request = AgentRequest::read(&der).expect("a good request");
        let sign = || {
            let machine = MachineId::from_bytes([7; 16]);
            pki.sign_agent(machine, &request, SystemTime::now(), Duration::from_secs(3600)).expect("signed").remove(0)
        };
        let (first, second) = (sign(), sign());
        assert_ne!(first, second);
        assert_eq!(
            AgentCertificate::read(&first).expect("one of ours").key,
            AgentCertificate::read(&second).expect("one of ours").key
        );
    }

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

    #[test]
    fn a_request_cannot_ask_for_another_name() {
        let (_data, pki) = pki();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = CertificateParams::new(vec![CONTROLLER_NAME.to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.serialize_request(&key).expect("a request").der().to_vec();
        let machine = MachineId::from_bytes([7; 16]);
        let request = AgentRequest::read(&der).expect("signed by its key");
        let chain = pki.sign_agent(machine, &request, SystemTime::now(), Duration::from_secs(60)).expect("signed");
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("a certificate");
        assert!(!leaf.is_ca());
        assert!(leaf.subject_alternative_name().expect("readable").is_none());
    }
}
