//! Keys of encrypted volumes while steps need them: those that the controller gave, in memory and nowhere else, and those
//! that the machine's TPM derives.

use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_protocol::DiskKey;
use muster_protocol::desired::Key;

use crate::linux::tpm;
use crate::machine::MachineError;

/// Those that the controller gave: the volume's name, the UUID in its header, and its key.
#[derive(Default)]
pub struct Keys(Mutex<Vec<(String, [u8; 16], DiskKey)>>);

impl Keys {
    /// Keeps one, in the place of one of the same name.
    pub fn keep(&self, name: &str, uuid: [u8; 16], key: DiskKey) {
        let mut kept = self.kept();
        kept.retain(|(other, ..)| other != name);
        kept.push((name.to_owned(), uuid, key));
    }

    /// Overwrites all.
    pub fn forget(&self) {
        self.kept().clear();
    }

    /// The UUID that was chosen for a volume when its key was asked for.
    pub fn uuid(&self, name: &str) -> Option<[u8; 16]> {
        self.kept().iter().find(|(other, ..)| other == name).map(|(_, uuid, _)| *uuid)
    }

    /// The key of this volume.
    pub(in super::super) fn key(&self, from: Key, name: &str, uuid: &[u8; 16]) -> Result<DiskKey, MachineError> {
        match from {
            Key::Controller => {
                let kept = self.kept();
                let found = kept.iter().find(|(other, of, _)| other == name && of == uuid);
                found.map(|(.., key)| key.clone()).ok_or_else(|| {
                    MachineError::Unable(format!("use {name}: the controller's key of it is not at hand"))
                })
            }
            Key::Tpm => tpm::volume_key(uuid)
                .map_err(|error| MachineError::Unable(format!("have the key of {name} derived by its TPM: {error}"))),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(String, [u8; 16], DiskKey)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_given_for_its_volume_alone_and_gone_when_it_is_forgotten() {
        let (keys, key) = (Keys::default(), DiskKey::new([1; 32]));
        keys.keep("vault", [7; 16], key.clone());
        let given = |name: &str, uuid: u8| keys.key(Key::Controller, name, &[uuid; 16]).ok();
        assert_eq!(given("vault", 7), Some(key));
        assert_eq!((given("vault", 8), given("cellar", 7)), (None, None));
        keys.forget();
        assert_eq!(given("vault", 7), None);
    }
}
