//! The boot CA: what UEFI machines believe until their agent runs.
//!
//! The iPXE of Debian verifies RSA alone, so this is a CA beside the other one. Site ISOs pin it, by the SHA-256 of its
//! certificate. It signs one kind of certificate, the controller's own for HTTPS, and with the same key: it exists only so
//! that a pin lasts while names and addresses change.
//!
//! Neither of its certificates ever ends: a machine without a battery begins in 1970, and a clock may be wrong the other way.
//! Nothing is lost by that, because the key of the one lies where the key of the other does.
//!
//! What makes it is one text in PEM, `pki/boot.pem`: the key and the certificate.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use muster_protocol::CONTROLLER_NAME;
use pem::Pem;
use rand_core::OsRng;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256};
use rsa::RsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::authority::{CERTIFICATE, Described, KEY, describe, is_of, params, text};
use super::{Leaf, PkiError, random, serve_as};

/// What every TLS client that knows RSA takes, iPXE's included.
const KEY_BITS: usize = 2048;

/// 9999-12-31 23:59:59.
const NEVER: Duration = Duration::from_secs(253_402_300_799);

/// See the module.
pub struct BootAuthority {
    issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
}

impl BootAuthority {
    /// A new one, as its file.
    pub(super) fn make() -> Result<Vec<u8>, PkiError> {
        // ring makes no RSA keys; what is done with this one, ring does.
        let key = RsaPrivateKey::new(&mut OsRng, KEY_BITS).map_err(|_| PkiError::Key)?;
        let der = key.to_pkcs8_der().map_err(|_| PkiError::Key)?;
        let key = key_pair(der.as_bytes()).ok_or(PkiError::Key)?;
        let mut params = timeless(&format!("Muster boot CA {:08x}", u32::from_be_bytes(random())));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = params.self_signed(&key).map_err(PkiError::Certificate)?;
        Ok(text(der.as_bytes().to_vec(), [ca.der()]))
    }

    /// Reads what the file holds. `None` for anything else.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let blocks = pem::parse_many(text).ok()?;
        let [key, ca] = blocks.as_slice() else { return None };
        if [key, ca].map(Pem::tag) != [KEY, CERTIFICATE] {
            return None;
        }
        let ca = CertificateDer::from(ca.contents().to_vec());
        let key = key_pair(key.contents())?;
        let issuer = is_of(&ca, &key).then(|| Issuer::from_ca_cert_der(&ca, key).ok())??;
        Some(Self { issuer, ca })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// What is told of it.
    pub fn described(&self) -> Described {
        describe(&self.ca)
    }

    /// A certificate for the controller, for those who come by one of `names` (addresses may be among them) or `addresses`.
    pub(super) fn sign(&self, names: &[String], addresses: &[IpAddr]) -> Result<Leaf, PkiError> {
        let mut params = timeless(CONTROLLER_NAME);
        serve_as(&mut params, names.iter().map(String::as_str), addresses)?;
        let leaf = params.signed_by(self.issuer.key(), &self.issuer).map_err(PkiError::Certificate)?;
        let key = PrivateKeyDer::Pkcs8(self.issuer.key().serialize_der().into());
        // iPXE holds the CA's fingerprint alone, so the CA goes with it.
        Ok(Leaf { chain: vec![leaf.der().clone(), self.ca.clone()], key })
    }
}

/// Whether this is a key that it can have.
pub(super) fn is_key(der: &[u8]) -> bool {
    key_pair(der).is_some()
}

fn key_pair(der: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_RSA_SHA256).ok()
}

/// From the first second of 1970 to what RFC 5280, section 4.1.2.5, has for no well-defined end.
fn timeless(common_name: &str) -> CertificateParams {
    params(common_name, UNIX_EPOCH, UNIX_EPOCH + NEVER)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{BootAuthority, Pki, Vault};

    #[test]
    fn it_is_made_when_it_is_asked_for_and_is_the_same_from_then_on() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::open(data.path()).expect("opens");
        let file = data.path().join("pki/boot.pem");
        assert!(pki.boot_made().is_none() && !file.exists());
        let made = pki.boot().expect("made").described();
        assert!(made.name.starts_with("Muster boot CA "), "{made:?}");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(pki.boot().expect("there").described(), made);
        let again = Pki::open_with(data.path(), Vault::default()).expect("opens");
        assert_eq!(again.boot_made().expect("there").described(), made);
    }

    #[test]
    fn what_does_not_belong_together_is_an_error_and_never_replaced() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::open(data.path()).expect("opens");
        pki.boot().expect("made");
        let file = data.path().join("pki/boot.pem");
        let blocks = pem::parse_many(std::fs::read(&file).expect("there")).expect("PEM");
        let ecdsa = std::fs::read(data.path().join("pki/ca.pem")).expect("there");
        let swapped = pem::encode_many(&[blocks[1].clone(), blocks[0].clone()]).into_bytes();
        let lonely = pem::encode(&blocks[0]).into_bytes();
        let other = BootAuthority::make().expect("made");
        let other = pem::parse_many(other).expect("PEM");
        let halves = pem::encode_many(&[other[0].clone(), blocks[1].clone()]).into_bytes();
        for wrong in [b"nothing".to_vec(), ecdsa, swapped, lonely, halves] {
            std::fs::write(&file, &wrong).expect("written");
            let error = Pki::open(data.path()).err().expect("refused").to_string();
            assert!(
                error.contains("pki/boot.pem does not hold the boot CA's key") && error.contains("delete it"),
                "{error}"
            );
            assert_eq!(std::fs::read(&file).expect("there"), wrong);
        }
    }
}
