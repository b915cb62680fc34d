//! Which of its keys a TPM is known by: the same one in every boot, whatever systems ran on the machine in between.
//!
//! Called by the thread in [`super`]; what carries commands to the TPM is given.

use std::io;

use muster_protocol::Digest;

use super::TpmError;
use super::wire::{self, Kind};

/// Carries one command to the TPM, and its answer back.
pub type Exchange<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>;

/// Where provisioned systems keep an RSA endorsement key, Windows among them (TCG TPM v2.0 Provisioning Guidance).
const RSA_KEY: u32 = 0x8101_0001;
/// And where an ECC one is kept beside it.
const P256_KEY: u32 = 0x8101_0002;

/// A way to learn a key.
#[derive(Clone, Copy)]
enum Way {
    /// Has it made, and forgotten again.
    Create,
    /// Reads what was made and kept.
    Read(u32),
}

/// In this order. The first is open on every TPM that nobody closed, and gives the same key always; a key that is kept
/// comes second, since systems keep and remove keys. They are the same key all the same: one that is kept counts only where
/// it is what [`Way::Create`] would make. The last is the slowest.
const WAYS: [(Kind, Way); 4] = [
    (Kind::P256, Way::Create),
    (Kind::P256, Way::Read(P256_KEY)),
    (Kind::Rsa2048, Way::Read(RSA_KEY)),
    (Kind::Rsa2048, Way::Create),
];

/// Asks a TPM for the name of its endorsement key. Leaves nothing behind in it.
///
/// Errors: the first way's, where no way leads to a key; at once where the TPM is busy, does not answer or answers
/// nonsense: then another way would only lead to another key than the next time.
pub fn learn(exchange: Exchange<'_>) -> Result<Digest, TpmError> {
    let mut first = None;
    for (kind, way) in WAYS {
        match try_one(exchange, kind, way) {
            Err(error) if error.is_final() => first = first.or(Some(error)),
            told => return told,
        }
    }
    Err(first.unwrap_or(TpmError::Malformed))
}

fn try_one(exchange: Exchange<'_>, kind: Kind, way: Way) -> Result<Digest, TpmError> {
    match way {
        Way::Read(handle) => wire::persisted(&exchange(&wire::read(handle))?, kind),
        Way::Create => {
            let answer = exchange(&wire::create(kind))?;
            let created = wire::created(&answer)?;
            // Whether it is forgotten now or when the device is closed makes no difference to the key.
            let _ = exchange(&wire::flush(created.handle));
            created.key(kind)
        }
    }
}
