//! Keys of encrypted volumes on their way from the controller to a machine, and their place in memory.
//!
//! A key is overwritten when it is let go, and says nothing of itself in any log: not in [`fmt::Debug`] of what holds it
//! either. What carries it, the buffers of QUIC and TLS, is not overwritten; while a volume is open the machine's kernel has
//! its key in memory as well.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Bytes of a key.
pub const DISK_KEY_BYTES: usize = 32;

/// The key of one encrypted volume: 256 bits that nobody can guess.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskKey([u8; DISK_KEY_BYTES]);

impl DiskKey {
    /// These bytes.
    pub fn new(bytes: [u8; DISK_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// For whoever opens the volume, and for nobody else.
    pub fn bytes(&self) -> &[u8; DISK_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for DiskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskKey(not shown)")
    }
}

impl Drop for DiskKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_nothing_of_itself() {
        let key = DiskKey::new([0xab; DISK_KEY_BYTES]);
        let shown = format!("{key:?} {:#?}", Some(&key));
        assert!(!shown.contains("ab") && !shown.contains("171") && shown.contains("not shown"), "{shown}");
    }
}
