//! Secrets at rest: encrypted with a passphrase where the operator gives one.
//!
//! A secret is one PEM block. Encrypted it is what PKCS #8 calls an EncryptedPrivateKeyInfo (RFC 5958, section 3), by scrypt
//! and AES-256 (RFC 8018, RFC 7914), so that `openssl pkey` opens the CA's key too. Used by [`super::Pki`], which says
//! what is secret and which bytes are the right ones.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use pem::Pem;
use pkcs8::EncryptedPrivateKeyInfoOwned;
use pkcs8::der::asn1::OctetString;
use pkcs8::der::{Decode, Encode};
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::pkcs5::scrypt::Params;

use super::{PkiError, random};

/// The variable that holds the passphrase; with [`FILE`] after it, the one that names a file with it; with [`NEW`] after
/// it, what takes its place.
const PASSPHRASE: &str = "MUSTER_PASSPHRASE";
const FILE: &str = "_FILE";
const NEW: &str = "_NEW";

/// Longer ones are a mistake: somebody named another file.
const LONGEST: usize = 1024;

/// What stands before the name of a block that is encrypted.
const ENCRYPTED: &str = "ENCRYPTED ";

/// scrypt's cost: 16 MiB five times, a quarter of a second. More memory at once, and OpenSSL refuses to open it.
const COST: (u8, u32, u32) = (14, 8, 5);

/// The passphrase, the one that is to take its place, or none.
#[derive(Clone, Default)]
pub struct Vault {
    now: Option<Passphrase>,
    next: Next,
}

#[derive(Clone)]
struct Passphrase {
    text: String,
    variable: String,
}

#[derive(Clone, Default)]
enum Next {
    #[default]
    Same,
    Plain,
    Other(Passphrase),
}

/// How a block was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// As it should be.
    Right,
    /// Readable, and to be written anew: in the clear, or with another passphrase.
    ToBeWritten,
}

/// Why there is no passphrase although there should be one.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The file cannot be read.
    #[error("cannot read the passphrase from {}, which {variable} names", file.display())]
    File {
        /// Of the environment.
        variable: String,
        /// What it names.
        file: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// It is none.
    #[error("{variable} {problem}")]
    Value {
        /// Of the environment.
        variable: String,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
}

impl Vault {
    /// From `MUSTER_PASSPHRASE` or the file that `MUSTER_PASSPHRASE_FILE` names, and the same with `_NEW` in it.
    pub fn from_env() -> Result<Self, PassphraseError> {
        Self::read(|name| std::env::var_os(name))
    }

    fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, PassphraseError> {
        let wrong = |variable: &str, problem| Err(PassphraseError::Value { variable: variable.to_owned(), problem });
        let now = given(&get, PASSPHRASE)?;
        let next = given(&get, &format!("{PASSPHRASE}{NEW}"))?;
        if let Some(Passphrase { text, variable }) = &now
            && text.is_empty()
        {
            return wrong(variable, "is empty; give a passphrase, or none at all");
        }
        let next = match next {
            None => Next::Same,
            Some(next) if next.text.is_empty() => Next::Plain,
            Some(next) => Next::Other(next),
        };
        Ok(Self { now, next })
    }

    /// Opens a block where it is encrypted; `is_right` judges what comes out.
    ///
    /// Errors: [`PkiError::Locked`], [`PkiError::WrongPassphrase`], or it is not even encrypted.
    pub(super) fn open(
        &self,
        file: &Path,
        block: &Pem,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<(Pem, Found), PkiError> {
        let Some(tag) = block.tag().strip_prefix(ENCRYPTED) else {
            let found = if self.wanted().is_none() { Found::Right } else { Found::ToBeWritten };
            return Ok((block.clone(), found));
        };
        let expected = "what it says that it holds";
        let sealed = EncryptedPrivateKeyInfoOwned::from_der(block.contents())
            .map_err(|_| PkiError::Contents { file: file.to_owned(), expected })?;
        let open = |passphrase: &Passphrase| {
            let plain = sealed.encryption_algorithm.decrypt(&passphrase.text, sealed.encrypted_data.as_bytes()).ok()?;
            is_right(&plain).then(|| Pem::new(tag, plain))
        };
        if let Some(plain) = self.now.as_ref().and_then(open) {
            let found = if matches!(self.next, Next::Same) { Found::Right } else { Found::ToBeWritten };
            return Ok((plain, found));
        }
        // A change of the passphrase may have been cut off between two files.
        if let Next::Other(next) = &self.next
            && let Some(plain) = open(next)
        {
            return Ok((plain, Found::Right));
        }
        let file = file.to_owned();
        Err(match &self.now {
            None => PkiError::Locked { file },
            Some(passphrase) => PkiError::WrongPassphrase { file, variable: passphrase.variable.clone() },
        })
    }

    /// Encrypts a block, where there is a passphrase.
    pub(super) fn seal(&self, plain: &Pem) -> Pem {
        let Some(passphrase) = self.wanted() else { return plain.clone() };
        let (log_n, r, p) = COST;
        let params = Params::new(log_n, r, p).expect("within scrypt's limits");
        let algorithm = Parameters::generate_scrypt_aes256cbc(params, &random::<16>(), random())
            .expect("within the limits of PBES2");
        let data = algorithm.encrypt(&passphrase.text, plain.contents()).expect("the parameters are good");
        let sealed = EncryptedPrivateKeyInfoOwned {
            encryption_algorithm: algorithm.into(),
            encrypted_data: OctetString::new(data).expect("far below 256 MiB"),
        };
        Pem::new(format!("{ENCRYPTED}{}", plain.tag()), sealed.to_der().expect("its parts encode"))
    }

    /// In words, for the log.
    pub(super) fn says(&self) -> &'static str {
        if self.wanted().is_some() { "encrypted with the passphrase" } else { "in the clear" }
    }

    fn wanted(&self) -> Option<&Passphrase> {
        match &self.next {
            Next::Same => self.now.as_ref(),
            Next::Plain => None,
            Next::Other(next) => Some(next),
        }
    }
}

fn given(get: &impl Fn(&str) -> Option<OsString>, variable: &str) -> Result<Option<Passphrase>, PassphraseError> {
    let by_file = format!("{variable}{FILE}");
    let wrong = |variable: &str, problem| Err(PassphraseError::Value { variable: variable.to_owned(), problem });
    let (bytes, variable) = match (get(variable), get(&by_file)) {
        (Some(_), Some(_)) => return wrong(variable, "and the same with _FILE are both set; give one of them"),
        (None, None) => return Ok(None),
        (Some(text), None) => (text.into_encoded_bytes(), variable.to_owned()),
        (None, Some(name)) => {
            let file = PathBuf::from(name);
            let mut bytes = Vec::new();
            let read =
                std::fs::File::open(&file).and_then(|opened| opened.take(LONGEST as u64 + 2).read_to_end(&mut bytes));
            if let Err(cause) = read {
                return Err(PassphraseError::File { variable: by_file, file, cause });
            }
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            (bytes, by_file)
        }
    };
    if bytes.len() > LONGEST {
        return wrong(&variable, "gives more than 1024 bytes; that is no passphrase");
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(Passphrase { text, variable })),
        Err(_) => wrong(&variable, "gives what is not UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use muster_protocol::Digest;

    use super::super::Pki;
    use super::*;

    /// What the environment with these variables makes.
    fn vault(variables: &[(&str, &str)]) -> Result<Vault, PassphraseError> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Vault::read(get)
    }

    fn problem(variables: &[(&str, &str)]) -> String {
        vault(variables).err().expect("refused").to_string()
    }

    #[test]
    fn a_passphrase_comes_from_a_variable_or_from_a_file_without_its_last_line_end() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("passphrase");
        let name = file.to_str().expect("UTF-8");
        let text = |variables: &[(&str, &str)]| vault(variables).expect("read").now.map(|p| p.text);
        assert_eq!(text(&[]), None);
        assert_eq!(text(&[("MUSTER_PASSPHRASE", "correct horse\n")]).as_deref(), Some("correct horse\n"));
        for (written, read) in [("battery", "battery"), ("battery\n", "battery"), ("a\nb\n\n", "a\nb\n")] {
            std::fs::write(&file, written).expect("written");
            assert_eq!(text(&[("MUSTER_PASSPHRASE_FILE", name)]).as_deref(), Some(read));
        }
    }

    #[test]
    fn what_is_no_passphrase_is_an_error_that_names_the_variable() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path.to_str().expect("UTF-8").to_owned()
        };
        let missing = folder.path().join("missing").to_str().expect("UTF-8").to_owned();
        for (variable, value, part) in [
            ("MUSTER_PASSPHRASE", String::new(), "is empty"),
            ("MUSTER_PASSPHRASE", "x".repeat(1025), "more than 1024 bytes"),
            ("MUSTER_PASSPHRASE_FILE", file("empty", b"\n"), "is empty"),
            ("MUSTER_PASSPHRASE_FILE", file("long", &[b'x'; 5000]), "more than 1024 bytes"),
            ("MUSTER_PASSPHRASE_FILE", file("binary", &[0xff; 16]), "not UTF-8"),
            ("MUSTER_PASSPHRASE_FILE", missing.clone(), "cannot read the passphrase from"),
            ("MUSTER_PASSPHRASE_NEW_FILE", missing.clone(), "cannot read the passphrase from"),
        ] {
            let text = problem(&[(variable, &value)]);
            assert!(text.contains(variable) && text.contains(part), "{text}");
            assert!(value.len() < 1000 || !text.contains(&value), "what was given is not repeated");
        }
        let both = problem(&[("MUSTER_PASSPHRASE", "a"), ("MUSTER_PASSPHRASE_FILE", &missing)]);
        assert!(both.contains("both set"), "{both}");
    }

    const CORRECT: (&str, &str) = ("MUSTER_PASSPHRASE", "correct horse");

    fn open(data: &Path, variables: &[(&str, &str)]) -> Result<Pki, PkiError> {
        Pki::open_with(data, vault(variables).expect("read"))
    }

    fn files(data: &Path) -> [Vec<u8>; 2] {
        ["pki/ca.pem", "pki/reset.key"].map(|name| std::fs::read(data.join(name)).expect("there"))
    }

    /// Whether the first and the second of the files are encrypted.
    fn sealed(data: &Path) -> [bool; 2] {
        files(data).map(|bytes| bytes.starts_with(b"-----BEGIN ENCRYPTED "))
    }

    fn secrets(pki: &Pki) -> (Digest, [u8; 64]) {
        (pki.fingerprint(), *pki.reset_key())
    }

    #[test]
    fn with_a_passphrase_all_secrets_are_encrypted_in_place_and_nothing_else_changes() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let before = secrets(&open(data.path(), &[]).expect("opens"));
        let [ca, reset] = files(data.path());
        assert_eq!(secrets(&open(data.path(), &[CORRECT]).expect("opens")), before);
        assert_eq!(sealed(data.path()), [true, true]);
        let key = pem::parse(ca).expect("the key comes first").contents().to_vec();
        for bytes in files(data.path()) {
            let shown = pem::parse_many(&bytes).expect("PEM");
            // The number that is the key lies behind what says which kind of key it is (RFC 5915), 32 bytes long.
            for part in [&key[36..68], &reset[..32]] {
                assert!(!shown.iter().any(|block| block.contents().windows(32).any(|window| window == part)));
            }
        }
        for name in ["ca.pem", "reset.key"] {
            let mode = std::fs::metadata(data.path().join("pki").join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let kept = files(data.path());
        assert_eq!(secrets(&open(data.path(), &[CORRECT]).expect("opens again")), before);
        assert_eq!(files(data.path()), kept, "what is right is not written again");
    }

    #[test]
    fn without_the_passphrase_or_with_a_wrong_one_the_error_says_so_and_nothing_is_changed() {
        let data = tempfile::tempdir().expect("a temporary folder");
        open(data.path(), &[CORRECT]).expect("made");
        let kept = files(data.path());
        let problem = |variables: &[(&str, &str)]| open(data.path(), variables).err().expect("refused").to_string();
        let text = problem(&[]);
        assert!(text.contains("pki/ca.pem is encrypted; give its passphrase in MUSTER_PASSPHRASE"), "{text}");
        for variables in [
            &[("MUSTER_PASSPHRASE", "wrong horse")][..],
            &[("MUSTER_PASSPHRASE", "wrong horse"), ("MUSTER_PASSPHRASE_NEW", "battery")],
            &[("MUSTER_PASSPHRASE", "wrong horse"), ("MUSTER_PASSPHRASE_NEW", "")],
        ] {
            let text = problem(variables);
            assert!(
                text.contains("pki/ca.pem does not open with the passphrase that MUSTER_PASSPHRASE gives"),
                "{text}"
            );
            assert!(!text.contains("horse"), "{text}");
        }
        assert_eq!(files(data.path()), kept);
    }

    #[test]
    fn a_passphrase_is_replaced_and_taken_away_also_where_that_is_cut_off_between_two_files() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let before = secrets(&open(data.path(), &[CORRECT]).expect("made"));
        let old = files(data.path());
        let replace = [CORRECT, ("MUSTER_PASSPHRASE_NEW", "battery staple")];
        let new = [("MUSTER_PASSPHRASE", "battery staple")];
        for cut_off in [false, true] {
            assert_eq!(secrets(&open(data.path(), &replace).expect("opens")), before);
            if cut_off {
                std::fs::write(data.path().join("pki/reset.key"), &old[1]).expect("written");
                assert_eq!(secrets(&open(data.path(), &replace).expect("goes on")), before);
            }
            assert!(open(data.path(), &[CORRECT]).is_err(), "the old one is good for nothing");
            assert_eq!(secrets(&open(data.path(), &new).expect("opens")), before);
        }
        let new_files = files(data.path());
        let remove = [new[0], ("MUSTER_PASSPHRASE_NEW", "")];
        for cut_off in [false, true] {
            assert_eq!(secrets(&open(data.path(), &remove).expect("opens")), before);
            if cut_off {
                std::fs::write(data.path().join("pki/reset.key"), &new_files[1]).expect("written");
                assert_eq!(secrets(&open(data.path(), &remove).expect("goes on")), before);
            }
            assert_eq!(sealed(data.path()), [false, false]);
            assert_eq!(secrets(&open(data.path(), &[]).expect("opens")), before);
        }
    }

    #[test]
    fn a_rotated_ca_is_encrypted_like_the_one_before() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let pki = open(data.path(), &[CORRECT]).expect("made");
        let change = pki.rotation().expect("made").expect("there is no overlap");
        pki.commit(change).expect("written");
        assert_eq!(sealed(data.path()), [true, true]);
        assert_eq!(open(data.path(), &[CORRECT]).expect("opens").authority().trusted(), pki.authority().trusted());
        assert!(open(data.path(), &[]).is_err());
    }

    #[test]
    fn the_boot_ca_is_encrypted_whether_it_was_there_before_the_passphrase_or_not() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let file = data.path().join("pki/boot.pem");
        let is_sealed = || std::fs::read(&file).expect("there").starts_with(b"-----BEGIN ENCRYPTED ");
        let boot = |pki: &Pki| pki.boot_made().expect("there").described();
        let made = open(data.path(), &[]).expect("opens").boot().expect("made").described();
        assert!(!is_sealed());
        assert_eq!(boot(&open(data.path(), &[CORRECT]).expect("opens")), made);
        assert!(is_sealed() && open(data.path(), &[]).is_err());
        let replace = [CORRECT, ("MUSTER_PASSPHRASE_NEW", "battery staple")];
        assert_eq!(boot(&open(data.path(), &replace).expect("opens")), made);
        let new = [("MUSTER_PASSPHRASE", "battery staple")];
        assert_eq!(boot(&open(data.path(), &new).expect("opens")), made);
        std::fs::remove_file(&file).expect("removed");
        open(data.path(), &new).expect("opens").boot().expect("made");
        assert!(is_sealed());
    }

    #[test]
    fn an_encrypted_file_that_is_damaged_is_an_error() {
        let data = tempfile::tempdir().expect("a temporary folder");
        open(data.path(), &[CORRECT]).expect("made");
        let file = data.path().join("pki/ca.pem");
        let mut blocks = pem::parse_many(std::fs::read(&file).expect("there")).expect("PEM");
        blocks[0] = Pem::new(blocks[0].tag(), &blocks[0].contents()[..40]);
        std::fs::write(&file, pem::encode_many(&blocks)).expect("written");
        let text = open(data.path(), &[CORRECT]).err().expect("refused").to_string();
        assert!(text.contains("restore it from a backup"), "{text}");
    }

    #[test]
    fn openssl_opens_the_encrypted_key_of_the_ca() {
        let data = tempfile::tempdir().expect("a temporary folder");
        open(data.path(), &[CORRECT]).expect("made");
        let read = |passphrase: &str| {
            let mut openssl = Command::new("openssl");
            openssl.args(["pkey", "-noout", "-passin", &format!("pass:{passphrase}"), "-in"]);
            openssl.arg(data.path().join("pki/ca.pem")).output().expect("openssl is installed: see scripts/setup")
        };
        let done = read("correct horse");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(!read("wrong horse").status.success());
    }
}
