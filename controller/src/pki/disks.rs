//! Keys of machines' encrypted volumes and passwords of what switches machines, sealed: what lies in the database, and in
//! copies of it, opens with `disks.key` alone.
//!
//! AES-256-GCM with a nonce that is drawn anew each time, bound to the machine and the volume, or to what the password is for:
//! what is put in another's place does not open. Called by `fleet::machine`'s `keys` and `controls`.

use muster_protocol::secret::DISK_KEY_BYTES;
use muster_protocol::{Digest, DiskKey, MachineId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::random;

/// Bytes of the key that seals.
pub(super) const SEAL_BYTES: usize = 32;

/// What seals them.
pub struct DiskSeal(LessSafeKey);

/// A key that only its [`DiskSeal`] opens: the nonce, then key and tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(Vec<u8>);

/// A text that only its [`DiskSeal`] opens: the nonce, then text and tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedText(Vec<u8>);

impl DiskSeal {
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        Some(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?)))
    }

    /// Seals the key of this volume of this machine.
    pub fn seal(&self, machine: MachineId, uuid: &[u8; 16], key: &DiskKey) -> Sealed {
        Sealed(self.sealed(of(machine, uuid), key.bytes()))
    }

    /// Seals a text of this machine's, for what this digest is of.
    pub fn seal_text(&self, machine: MachineId, bound: &Digest, text: &str) -> SealedText {
        SealedText(self.sealed(of_text(machine, bound), text.as_bytes()))
    }

    /// Opens it; `None` where it was sealed by another one, or for something else.
    pub fn open_text(&self, machine: MachineId, bound: &Digest, sealed: &SealedText) -> Option<String> {
        let mut bytes = self.opened(of_text(machine, bound), &sealed.0)?;
        let text = std::str::from_utf8(&bytes).ok().map(str::to_owned);
        bytes.zeroize();
        text
    }

    fn sealed(&self, bound: Vec<u8>, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random();
        let mut bytes = [&nonce[..], plain].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(bound), &mut bytes[NONCE_LEN..]);
        bytes.extend_from_slice(tag.expect("far below what one nonce may seal").as_ref());
        bytes
    }

    /// What comes out is the caller's to overwrite.
    fn opened(&self, bound: Vec<u8>, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
        let mut bytes = rest.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.0.open_in_place(nonce, Aad::from(bound), &mut bytes).ok()?.len();
        bytes.truncate(plain);
        Some(bytes)
    }

    /// Opens it; `None` where it was sealed by another one, or for another volume.
    pub fn open(&self, machine: MachineId, uuid: &[u8; 16], sealed: &Sealed) -> Option<DiskKey> {
        let mut bytes = self.opened(of(machine, uuid), &sealed.0)?;
        let key = <[u8; DISK_KEY_BYTES]>::try_from(&*bytes).ok().map(DiskKey::new);
        bytes.zeroize();
        key
    }
}

fn of(machine: MachineId, uuid: &[u8; 16]) -> Vec<u8> {
    [&machine.as_bytes()[..], uuid].concat()
}

/// Longer than what a volume's key is bound to, so that neither opens as the other.
fn of_text(machine: MachineId, bound: &Digest) -> Vec<u8> {
    [&machine.as_bytes()[..], b"text", bound.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::Pki;
    use super::*;

    const UUID: [u8; 16] = [7; 16];

    #[test]
    fn a_sealed_key_opens_for_its_volume_after_a_restart_and_for_no_other() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (machine, key) = (MachineId::from_bytes([1; 16]), DiskKey::new([0xa7; 32]));
        let seal = Pki::open(data.path()).expect("opens").disks().expect("made");
        let sealed = seal.seal(machine, &UUID, &key);
        assert!(!sealed.0.windows(4).any(|window| window == [0xa7; 4]), "it is not in what is stored");
        assert_ne!(seal.seal(machine, &UUID, &key), sealed, "no nonce comes twice");

        let again = Pki::open(data.path()).expect("opens again").disks().expect("there");
        assert_eq!(again.open(machine, &UUID, &sealed), Some(key));
        assert_eq!(again.open(machine, &[8; 16], &sealed), None);
        assert_eq!(again.open(MachineId::from_bytes([2; 16]), &UUID, &sealed), None);
        for length in 0..sealed.0.len() {
            assert_eq!(again.open(machine, &UUID, &Sealed(sealed.0[..length].to_vec())), None);
        }
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let other = Pki::open(elsewhere.path()).expect("opens").disks().expect("made");
        assert_eq!(other.open(machine, &UUID, &sealed), None);
    }
}
