//! The certificate authority: made on first start, signs agents and the controller itself.
//!
//! Everything it keeps lies in one folder, `pki` in the data directory: `ca.pem` (the CAs in force, for the controller
//! alone), `boot.pem` (the boot CA, where there is one: [`boot`]), `disks.key` (what the keys of machines' encrypted volumes
//! and the passwords of their BMCs are sealed with, where there are any: [`disks`]) and `reset.key` (QUIC's stateless reset
//! key, kept so that agents notice a restart at once). Where the operator gives a passphrase, all of them are encrypted
//! ([`vault`]).
//! The certificates for people and `curl --cacert` are `ca.crt` in the data directory itself.
//! It does not decide who gets a certificate (`sessions`), and keeps no list of those it made: a machine's record holds
//! the key that is in force.

mod agents;
mod authority;
mod boot;
mod disks;
mod own;
mod public;
mod vault;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use muster_protocol::{CONTROLLER_NAME, Digest};
use pem::Pem;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

pub use agents::{AgentCertificate, AgentRequest, AgentVerifier, RequestError};
pub use authority::{Authority, Described};
pub use boot::BootAuthority;
pub use disks::{DiskSeal, Sealed, SealedText};
pub use own::{ForBooting, Hosts, OwnCertificate};
pub use public::{PublicCertificate, PublicFiles};
pub use vault::{PassphraseError, Vault};

#[cfg(test)]
pub(crate) use own::tests as own_tests;

use crate::files;
use authority::{OWN_BACKDATE, block, params};
use vault::Found;

/// Everything that makes the CAs, in the folder of secrets; see [`authority`].
const CA: &str = "ca.pem";

/// What makes the boot CA; see [`boot`].
const BOOT: &str = "boot.pem";

/// QUIC's stateless reset key: its bytes, or one block of PEM where it is encrypted.
const RESET: &str = "reset.key";
const RESET_BYTES: usize = 64;
const RESET_KEY: &str = "RESET KEY";

/// What the keys of machines' encrypted volumes are sealed with; see [`disks`].
const DISKS: &str = "disks.key";
const DISKS_KEY: &str = "DISKS KEY";

/// How long the controller's own certificate is good; a new one is made when half of it has passed.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// The cryptography behind every TLS and QUIC connection of the controller; the one place that names it.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authority and its secrets.
pub struct Pki {
    data: PathBuf,
    vault: Vault,
    authority: watch::Sender<Arc<Authority>>,
    boot: OnceLock<Arc<BootAuthority>>,
    /// Held by whoever replaces the authority, or makes that for booting.
    changing: Mutex<()>,
    reset_key: [u8; 64],
    disks: OnceLock<Arc<DiskSeal>>,
}

/// The authority as it is to be. Nothing has happened before [`Pki::commit`].
pub struct Change {
    from: Arc<Authority>,
    to: Arc<Authority>,
    file: Vec<u8>,
}

impl Change {
    /// As it is.
    pub fn from(&self) -> &Authority {
        &self.from
    }

    /// As it will be.
    pub fn to(&self) -> &Authority {
        &self.to
    }
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
    /// The boot CA's file holds something else.
    #[error(
        "{} does not hold the boot CA's key and certificate; restore it from a backup, or delete it and make the ISOs anew",
        file.display()
    )]
    Boot {
        /// Which one.
        file: PathBuf,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// An RSA key cannot be made.
    #[error("cannot make an RSA key")]
    Key,
    /// There should be a passphrase, and none can be had.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// A file is encrypted, and no passphrase was given.
    #[error("{} is encrypted; give its passphrase in MUSTER_PASSPHRASE, or in a file that MUSTER_PASSPHRASE_FILE names", file.display())]
    Locked {
        /// Which one.
        file: PathBuf,
    },
    /// A file is encrypted with another passphrase.
    #[error("{} does not open with the passphrase that {variable} gives; nothing was changed", file.display())]
    WrongPassphrase {
        /// Which one.
        file: PathBuf,
        /// Of the environment.
        variable: String,
    },
    /// Two at once.
    #[error("the CA was changed by somebody else meanwhile; look at it with muster ca show")]
    Overtaken,
    /// A file that an operator named cannot be used.
    #[error("cannot use {}: {why}", file.display())]
    Unusable {
        /// Which one.
        file: PathBuf,
        /// Which key of the configuration names it, and why not.
        why: String,
    },
    /// A certificate that was made is not taken by TLS.
    #[error("cannot use a certificate")]
    Tls(#[source] rustls::Error),
}

impl Pki {
    /// Opens the authority in `data`, making it on first start, without a passphrase.
    pub fn open(data: &Path) -> Result<Self, PkiError> {
        Self::open_with(data, Vault::default())
    }

    /// The same with the passphrase of `vault`. What is found to be in the clear, or to be encrypted with the passphrase
    /// that is replaced, is written anew once all of it could be opened.
    ///
    /// Errors: whatever cannot be opened; then nothing was changed.
    pub fn open_with(data: &Path, vault: Vault) -> Result<Self, PkiError> {
        let folder = data.join("pki");
        std::fs::create_dir_all(&folder).map_err(|cause| PkiError::File { file: folder.clone(), cause })?;

        let file = folder.join(CA);
        let wrong = || not_a_ca(&file);
        let (ca, ca_found) = match open_ca(&vault, &file, authority::is_key)? {
            None => (Authority::make()?, Found::ToBeWritten),
            Some(opened) => opened,
        };
        let authority = Authority::read(&ca).ok_or_else(wrong)?;

        let file = folder.join(BOOT);
        let boot = open_ca(&vault, &file, boot::is_key)?;
        let boot_authority = match &boot {
            None => OnceLock::new(),
            Some((text, _)) => Arc::new(BootAuthority::read(text).ok_or_else(|| not_a_ca(&file))?).into(),
        };

        let file = folder.join(RESET);
        let wrong = || PkiError::Contents { file: file.clone(), expected: "64 random bytes" };
        let (reset, reset_found) = match read(&file)? {
            None => (Pem::new(RESET_KEY, random::<RESET_BYTES>()), Found::ToBeWritten),
            Some(bytes) => {
                let found = match bytes.len() {
                    RESET_BYTES => Pem::new(RESET_KEY, bytes),
                    _ => pem::parse(&bytes).map_err(|_| wrong())?,
                };
                vault.open(&file, &found, |plain| plain.len() == RESET_BYTES)?
            }
        };
        let reset_key = reset.contents().try_into().map_err(|_| wrong())?;

        let file = folder.join(DISKS);
        let disks = match read(&file)? {
            None => None,
            Some(bytes) => {
                let wrong =
                    || PkiError::Contents { file: file.clone(), expected: "the key that disk keys are sealed with" };
                let found = pem::parse(&bytes).map_err(|_| wrong())?;
                let (plain, found) = vault.open(&file, &found, |plain| plain.len() == disks::SEAL_BYTES)?;
                Some((DiskSeal::of(plain.contents()).ok_or_else(wrong)?, plain, found))
            }
        };
        let (disk_seal, disks_written) = match disks {
            None => (OnceLock::new(), None),
            Some((seal, plain, found)) => (Arc::new(seal).into(), (found == Found::ToBeWritten).then_some(plain)),
        };

        let authority = watch::Sender::new(Arc::new(authority));
        let changing = Mutex::default();
        let pki = Self {
            data: data.to_owned(),
            vault,
            authority,
            boot: boot_authority,
            changing,
            reset_key,
            disks: disk_seal,
        };
        if ca_found == Found::ToBeWritten {
            pki.write_ca(CA, &ca)?;
        }
        if let Some((text, Found::ToBeWritten)) = boot {
            pki.write_ca(BOOT, &text)?;
        }
        if reset_found == Found::ToBeWritten {
            let sealed = pki.vault.seal(&reset);
            let plain = sealed.tag() == RESET_KEY;
            let bytes = if plain { reset_key.to_vec() } else { block(&sealed).into_bytes() };
            pki.write(RESET, &bytes)?;
        }
        if let Some(plain) = disks_written {
            pki.write(DISKS, block(&pki.vault.seal(&plain)).as_bytes())?;
        }
        pki.publish()?;
        Ok(pki)
    }

    /// Writes a file that begins with a CA's key, the key encrypted where there is a passphrase.
    fn write_ca(&self, name: &str, text: &[u8]) -> Result<(), PkiError> {
        let mut blocks = pem::parse_many(text).unwrap_or_default();
        if let Some(key) = blocks.first_mut() {
            *key = self.vault.seal(key);
        }
        self.write(name, blocks.iter().map(block).collect::<String>().as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), PkiError> {
        let file = self.data.join("pki").join(name);
        files::replace(&file, bytes, files::SECRET).map_err(|cause| PkiError::File { file: file.clone(), cause })?;
        tracing::info!(file = %file.display(), "written {}", self.vault.says());
        Ok(())
    }

    /// Writes the certificates for people, also after a crash between the two files.
    fn publish(&self) -> Result<(), PkiError> {
        let file = self.data.join("ca.crt");
        files::replace(&file, self.authority().pem().as_bytes(), files::PUBLIC)
            .map_err(|cause| PkiError::File { file, cause })
    }

    /// The CAs that are in force now.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.borrow().clone()
    }

    /// The same, for whoever must follow their changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Authority>> {
        self.authority.subscribe()
    }

    /// What boot media carry: agents trust exactly the CA with this fingerprint, until they are told of another.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(self.authority().ca())
    }

    /// The boot CA, which is made when it is first asked for: half a second of work, and of waiting for the disk.
    pub fn boot(&self) -> Result<Arc<BootAuthority>, PkiError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(boot) = self.boot.get() {
            return Ok(boot.clone());
        }
        let text = BootAuthority::make()?;
        let made = Arc::new(BootAuthority::read(&text).ok_or_else(|| not_a_ca(Path::new(BOOT)))?);
        self.write_ca(BOOT, &text)?;
        Ok(self.boot.get_or_init(|| made).clone())
    }

    /// The boot CA where there is one: else there is no medium that could believe it.
    pub fn boot_made(&self) -> Option<&Arc<BootAuthority>> {
        self.boot.get()
    }

    /// What keys of machines' encrypted volumes and passwords of their BMCs are sealed with, made when it is first asked for.
    ///
    /// Errors: it cannot be written; then there is none.
    pub fn disks(&self) -> Result<Arc<DiskSeal>, PkiError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(disks) = self.disks.get() {
            return Ok(disks.clone());
        }
        let plain = Pem::new(DISKS_KEY, random::<{ disks::SEAL_BYTES }>());
        let made = DiskSeal::of(plain.contents()).expect("it has as many bytes");
        self.write(DISKS, block(&self.vault.seal(&plain)).as_bytes())?;
        Ok(self.disks.get_or_init(|| Arc::new(made)).clone())
    }

    /// QUIC's stateless reset key (RFC 9000, section 10.3).
    pub fn reset_key(&self) -> &[u8; 64] {
        &self.reset_key
    }

    /// A new CA, with the one that signs now as the one before. `None` while there is one before already.
    pub fn rotation(&self) -> Result<Option<Change>, PkiError> {
        let from = self.authority();
        match from.before() {
            Some(_) => Ok(None),
            None => Self::change(from.successor()?, from).map(Some),
        }
    }

    /// The end of the CA before. `None` where there is none.
    pub fn end_of_overlap(&self) -> Result<Option<Change>, PkiError> {
        let from = self.authority();
        match from.before() {
            Some(_) => Self::change(from.alone(), from).map(Some),
            None => Ok(None),
        }
    }

    fn change(file: Vec<u8>, from: Arc<Authority>) -> Result<Change, PkiError> {
        let expected = "what was just made for it";
        let to = Authority::read(&file).ok_or_else(|| PkiError::Contents { file: CA.into(), expected })?;
        Ok(Change { from, to: Arc::new(to), file })
    }

    /// Makes a change durable, and then true for every handshake that begins. Blocks while the disk writes.
    ///
    /// Errors: [`PkiError::Overtaken`], or it cannot be written; then nothing has changed.
    pub fn commit(&self, change: Change) -> Result<(), PkiError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&self.authority(), &change.from) {
            return Err(PkiError::Overtaken);
        }
        self.write_ca(CA, &change.file)?;
        self.authority.send_replace(change.to);
        if let Err(error) = self.publish() {
            // What is there leads to the controller still, and the next start writes it anew.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the CA's certificate for people is not up to date"
            );
        }
        Ok(())
    }

    /// A certificate for the controller itself by this authority, with a key of its own: good for agents, which look for
    /// [`CONTROLLER_NAME`], and for people who come by one of `names` or `addresses`.
    pub fn sign_controller(
        authority: &Authority,
        names: &[String],
        addresses: &[IpAddr],
        now: SystemTime,
    ) -> Result<Leaf, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Certificate)?;
        let mut params = params(CONTROLLER_NAME, now - OWN_BACKDATE, now + LEAF_LIFETIME);
        serve_as(&mut params, std::iter::once(CONTROLLER_NAME).chain(names.iter().map(String::as_str)), addresses)?;
        let leaf = params.signed_by(&key, &authority.issuer).map_err(PkiError::Certificate)?;
        let chain = std::iter::once(leaf.der().clone()).chain(authority.chain()).collect();
        Ok(Leaf { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) })
    }
}

/// Makes it the certificate of a server that is reached by `names` (addresses may be among them) and `addresses`.
fn serve_as<'a>(
    params: &mut CertificateParams,
    names: impl Iterator<Item = &'a str>,
    addresses: &[IpAddr],
) -> Result<(), PkiError> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        // A name that is an address goes where clients look for addresses.
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into().map_err(PkiError::Certificate)?),
        });
    }
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    Ok(())
}

/// The controller's own certificate.
pub struct Leaf {
    /// Leaf first, then what leads to the CAs in force.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail");
    bytes
}

/// Opens a file that begins with a CA's key; `None` where there is none.
fn open_ca(vault: &Vault, file: &Path, is_key: fn(&[u8]) -> bool) -> Result<Option<(Vec<u8>, Found)>, PkiError> {
    let Some(bytes) = read(file)? else { return Ok(None) };
    let blocks = pem::parse_many(&bytes).map_err(|_| not_a_ca(file))?;
    let (key, certificates) = blocks.split_first().ok_or_else(|| not_a_ca(file))?;
    let (key, found) = vault.open(file, key, is_key)?;
    let text: String = std::iter::once(&key).chain(certificates).map(block).collect();
    Ok(Some((text.into_bytes(), found)))
}

fn not_a_ca(file: &Path) -> PkiError {
    let file = file.to_owned();
    match file.ends_with(BOOT) {
        true => PkiError::Boot { file },
        false => PkiError::Contents { file, expected: "a CA's key and certificate" },
    }
}

/// What `file` holds; `None` where there is none.
fn read(file: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(PkiError::File { file: file.to_owned(), cause }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use muster_protocol::MachineId;
    use rcgen::{BasicConstraints, CertificateParams, IsCa};
    use rustls::pki_types::pem::PemObject;
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
        let chain = pki.authority().sign_agent(machine, &request, now, Duration::from_secs(3600)).expect("signed");
        assert_eq!(chain[1], pki.authority().ca().to_vec());
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
            pki.authority()
                .sign_agent(machine, &request, SystemTime::now(), Duration::from_secs(3600))
                .expect("signed")
                .remove(0)
        };
        let (first, second) = (sign(), sign());
        assert_ne!(first, second);
        assert_eq!(
            AgentCertificate::read(&first).expect("one of ours").key,
            AgentCertificate::read(&second).expect("one of ours").key
        );
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
        let chain =
            pki.authority().sign_agent(machine, &request, SystemTime::now(), Duration::from_secs(60)).expect("signed");
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("a certificate");
        assert!(!leaf.is_ca());
        assert!(leaf.subject_alternative_name().expect("readable").is_none());
    }

    fn rotated(pki: &Pki) -> Change {
        pki.rotation().expect("made").expect("there is no overlap")
    }

    #[test]
    fn a_rotation_is_there_after_opening_again_and_so_is_its_end() {
        let (data, pki) = pki();
        let old = pki.fingerprint();
        pki.commit(rotated(&pki)).expect("written");
        let new = pki.fingerprint();
        assert_ne!(new, old);
        assert!(pki.rotation().expect("made").is_none(), "one at a time");
        let again = Pki::open(data.path()).expect("opens");
        assert_eq!((again.authority().trusted(), again.fingerprint()), (vec![new, old], new));
        let end = again.end_of_overlap().expect("made").expect("there is an overlap");
        again.commit(end).expect("written");
        assert_eq!(Pki::open(data.path()).expect("opens").authority().trusted(), [new]);
        assert!(again.end_of_overlap().expect("made").is_none());
    }

    #[test]
    fn a_crash_at_any_point_of_a_change_leaves_the_old_or_the_new_and_never_half_of_it() {
        let read = |data: &Path| std::fs::read(data.join("ca.crt")).expect("there");
        let count = |data: &Path| CertificateDer::pem_slice_iter(&read(data)).count();
        let (data, pki) = pki();
        let (file, public) = (data.path().join("pki/ca.pem"), data.path().join("ca.crt"));
        for (change, before, after) in [(rotated as fn(&Pki) -> Change, 1, 2), (ended, 2, 1)] {
            let pki = Pki::open(data.path()).expect("opens");
            let trusted = pki.authority().trusted();
            let change = change(&pki);
            // Before the new file has its name.
            std::fs::write(data.path().join("pki/ca.pem.new"), &change.file[..change.file.len() / 2]).expect("written");
            assert_eq!(Pki::open(data.path()).expect("opens").authority().trusted(), trusted);
            assert_eq!(count(data.path()), before);
            // After that, and before the certificates for people are written.
            let (wanted, earlier) = (change.to().trusted(), read(data.path()));
            pki.commit(change).expect("written");
            std::fs::write(&public, earlier).expect("written");
            assert_eq!(Pki::open(data.path()).expect("opens").authority().trusted(), wanted);
            assert_eq!(count(data.path()), after);
        }
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        drop(pki);
    }

    fn ended(pki: &Pki) -> Change {
        pki.end_of_overlap().expect("made").expect("there is an overlap")
    }

    #[test]
    fn the_key_of_the_ca_before_is_not_kept() {
        let (data, pki) = pki();
        let key = |bytes: &[u8]| pem::parse(bytes).expect("the key comes first").contents().to_vec();
        let file = data.path().join("pki/ca.pem");
        let old = key(&std::fs::read(&file).expect("there"));
        pki.commit(rotated(&pki)).expect("written");
        let text = std::fs::read(&file).expect("there");
        assert_ne!(key(&text), old);
        assert_eq!(pem::parse_many(&text).expect("PEM").iter().filter(|block| block.tag() != "CERTIFICATE").count(), 1);
    }

    #[test]
    fn of_two_changes_that_were_made_of_the_same_state_the_second_is_refused() {
        let (_data, pki) = pki();
        let (first, second) = (rotated(&pki), rotated(&pki));
        pki.commit(first).expect("written");
        let now = pki.fingerprint();
        assert!(matches!(pki.commit(second), Err(PkiError::Overtaken)));
        assert_eq!(pki.fingerprint(), now);
    }

    #[test]
    fn certificates_that_do_not_belong_together_are_an_error() {
        let (data, pki) = pki();
        let file = data.path().join("pki/ca.pem");
        pki.commit(rotated(&pki)).expect("written");
        let good = pem::parse_many(std::fs::read(&file).expect("there")).expect("PEM");
        for order in [[0, 1, 3, 2], [0, 2, 1, 3], [0, 1, 1, 3], [1, 0, 2, 3], [0, 3, 2, 1]] {
            let text: String = order.iter().map(|&at| pem::encode(&good[at])).collect();
            std::fs::write(&file, text).expect("written");
            let error = Pki::open(data.path()).err().expect("refused").to_string();
            assert!(error.contains("ca.pem does not hold"), "{order:?}: {error}");
        }
    }
}
