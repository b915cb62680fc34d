//! A certificate that somebody else signed for the name by which Cycle and operators know the controller: two files in PEM,
//! which whoever renews it (certbot, lego, an operator) writes anew.
//!
//! Shown over HTTPS to who asks for one of its names (SNI, RFC 6066, section 3). Everybody else, agents and this computer's
//! own commands among them, is shown the controller's own certificate as before.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{OwnCertificate, PkiError, provider};

/// From one look at the files to the next; only while somebody asks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What `https.certificate` should be.
const CHAIN: &str = "name the certificate with those of the CAs in between, such as certbot's fullchain.pem";

/// What `https.key` should be.
const KEY: &str = "name the key of https.certificate in PKCS#8, SEC 1 or PKCS#1, such as certbot's privkey.pem";

/// Where the certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicFiles {
    /// The certificate, and behind it those of the CAs in between.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, SEC 1 or PKCS#1, not encrypted.
    pub key: PathBuf,
}

/// What HTTPS shows: see the module.
#[derive(Debug)]
pub struct PublicCertificate {
    own: Arc<OwnCertificate>,
    public: Option<Public>,
}

#[derive(Debug)]
struct Public {
    files: PublicFiles,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    /// What the files were when they were read last, whatever came of that.
    seen: Seen,
    look_at: Instant,
}

/// When each file was written, and its bytes.
type Seen = [Option<(SystemTime, u64)>; 2];

impl PublicCertificate {
    /// The controller's own, and that in the files where there are some.
    ///
    /// Errors: a file cannot be read, is no PEM of the kind, or the key is another certificate's.
    pub fn open(own: Arc<OwnCertificate>, files: Option<PublicFiles>) -> Result<Self, PkiError> {
        let open = |files: PublicFiles| -> Result<_, PkiError> {
            let seen = seen(&files);
            let loaded = Loaded { key: load(&files)?, seen, look_at: Instant::now() + LOOK_EVERY };
            Ok(Public { files, loaded: Mutex::new(loaded) })
        };
        Ok(Self { own, public: files.map(open).transpose()? })
    }

    /// What is shown to who asks for this name.
    fn shown(&self, name: &str, now: Instant) -> Option<Arc<CertifiedKey>> {
        let key = self.public.as_ref()?.current(now);
        let name = ServerName::try_from(name).ok()?;
        let leaf = ParsedCertificate::try_from(key.cert.first()?).ok()?;
        verify_server_name(&leaf, &name).is_ok().then_some(key)
    }
}

impl Public {
    /// The files' certificate; where they were changed to something that is none, the one before.
    fn current(&self, now: Instant) -> Arc<CertifiedKey> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= loaded.look_at {
            loaded.look_at = now + LOOK_EVERY;
            // Before they are read: what is written meanwhile is seen the next time.
            let seen = seen(&self.files);
            if seen != loaded.seen {
                loaded.seen = seen;
                match load(&self.files) {
                    Ok(key) => loaded.key = key,
                    // Whoever writes two files is between them for a moment.
                    Err(error) => {
                        let error = anyhow::Error::from(error);
                        tracing::error!(error = format!("{error:#}"), "the certificate of before is shown on");
                    }
                }
            }
        }
        loaded.key.clone()
    }
}

fn seen(files: &PublicFiles) -> Seen {
    [&files.certificate, &files.key].map(|file| {
        let about = std::fs::metadata(file).ok()?;
        Some((about.modified().ok()?, about.len()))
    })
}

fn load(files: &PublicFiles) -> Result<Arc<CertifiedKey>, PkiError> {
    let PublicFiles { certificate, key } = files;
    let unusable = |file: &Path, why: String| PkiError::Unusable { file: file.to_owned(), why };
    let read = |file: &Path, field: &str| {
        let why =
            |cause| unusable(file, format!("{field} cannot be read: {cause}; see that it is there for this user"));
        std::fs::read(file).map_err(why)
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(certificate, "https.certificate")?)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(certificate, format!("https.certificate is no PEM: {error}; {CHAIN}")))?;
    let Some(leaf) = chain.first() else {
        return Err(unusable(certificate, format!("https.certificate has no certificate in PEM; {CHAIN}")));
    };
    let (_, about) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| unusable(certificate, format!("https.certificate cannot be read: {error}; {CHAIN}")))?;
    let validity = about.validity();
    let (begins, ends) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let subject = about.subject().to_string();
    let until = validity.not_after.to_string();
    let private = PrivateKeyDer::from_pem_slice(&read(key, "https.key")?).map_err(|error| {
        let why = format!("https.key has no private key in PEM that is not encrypted: {error}; {KEY}");
        unusable(key, why)
    })?;
    let certified = CertifiedKey::from_der(chain.clone(), private, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let leaf = certificate.display();
            unusable(key, format!("https.key is not the key of {leaf}; name two files that were written together"))
        }
        other => unusable(key, format!("https.key cannot be used: {other}; {KEY}")),
    })?;
    let file = certificate.display();
    match now {
        _ if now >= ends => tracing::error!(%file, subject, until, "the certificate of HTTPS has expired; renew it"),
        _ if now < begins => {
            tracing::error!(%file, subject, "the certificate of HTTPS is not good yet; is the clock right?")
        }
        _ => tracing::info!(%file, subject, until, "HTTPS shows this certificate to who asks for its names"),
    }
    Ok(Arc::new(certified))
}

impl ResolvesServerCert for PublicCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let public = hello.server_name().and_then(|name| self.shown(name, Instant::now()));
        public.or_else(|| self.own.resolve(hello))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::pki::own_tests::own;

    /// A certificate of nobody's, with its key.
    fn write(folder: &Path, names: &[&str]) -> (PublicFiles, Vec<u8>) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).expect("names").self_signed(&key).expect("signed");
        let files = PublicFiles { certificate: folder.join("fullchain.pem"), key: folder.join("privkey.pem") };
        fs::write(&files.certificate, leaf.pem()).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
        (files, leaf.der().to_vec())
    }

    fn refusal(files: &PublicFiles) -> String {
        let (_data, own) = own();
        PublicCertificate::open(own, Some(files.clone())).expect_err("refused").to_string()
    }

    #[test]
    fn the_public_certificate_is_shown_for_its_names_and_the_controllers_own_for_all_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let (files, leaf) = write(folder.path(), &["muster.example.net", "*.muster.example.net"]);
        let (_data, own) = own();
        let public = PublicCertificate::open(own.clone(), Some(files)).expect("opens");
        let now = Instant::now();
        for name in ["muster.example.net", "MUSTER.example.net", "ber1.muster.example.net"] {
            assert_eq!(public.shown(name, now).expect(name).cert[0].as_ref(), leaf);
        }
        for name in ["localhost", "controller.muster", "example.net", "a.b.muster.example.net", "192.0.2.1", ""] {
            assert!(public.shown(name, now).is_none(), "{name}");
        }
        assert!(PublicCertificate::open(own, None).expect("opens").shown("muster.example.net", now).is_none());
    }

    #[test]
    fn a_renewed_certificate_is_shown_without_a_restart_and_half_of_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (files, first) = write(folder.path(), &["muster.example.net"]);
        let (_data, own) = own();
        let public = PublicCertificate::open(own, Some(files.clone())).expect("opens");
        let later = |looks: u32| Instant::now() + LOOK_EVERY * (2 * looks);
        let shown = |at| public.shown("muster.example.net", at).expect("ours").cert[0].to_vec();
        let other = tempfile::tempdir().expect("a folder");
        let (renewed, second) = write(other.path(), &["muster.example.net", "second.example.net"]);
        fs::copy(&renewed.certificate, &files.certificate).expect("written");
        assert_eq!(shown(later(1)), first, "the key is still the one of before");
        fs::write(&files.key, "no key at all").expect("written");
        assert_eq!(shown(later(2)), first);
        fs::copy(&renewed.key, &files.key).expect("written");
        assert_eq!(shown(later(3)), second);
        fs::remove_file(&files.certificate).expect("removed");
        assert_eq!(shown(later(4)), second, "what is gone is not missed before the next start");
    }

    #[test]
    fn files_that_are_no_certificate_with_its_key_are_refused_by_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let (files, _) = write(folder.path(), &["muster.example.net"]);
        let other = tempfile::tempdir().expect("a folder");
        let (others, _) = write(other.path(), &["muster.example.net"]);
        let another = PublicFiles { key: others.key, ..files.clone() };
        assert!(refusal(&another).contains("https.key is not the key of "), "{}", refusal(&another));
        let none = PublicFiles { key: files.certificate.clone(), ..files.clone() };
        assert!(refusal(&none).contains("https.key has no private key in PEM"), "{}", refusal(&none));
        let none = PublicFiles { certificate: files.key.clone(), ..files.clone() };
        assert!(refusal(&none).contains("https.certificate has no certificate"), "{}", refusal(&none));
        let away = PublicFiles { key: folder.path().join("nowhere"), ..files };
        let why = refusal(&away);
        assert!(why.contains("nowhere") && why.contains("https.key cannot be read: No such file"), "{why}");
    }
}
