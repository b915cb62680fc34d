//! The tools image that an initramfs pins: programs and drivers that only storage needs. They are no part of what a machine
//! boots; the agent fetches them from its controller when a plan needs them.
//!
//! Written when an image is built, read by the agent that boots from it. What booted is what is trusted, so it says which
//! tools are: whoever serves them, other bytes are not taken.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// Where it is said in the initramfs.
pub const PATH: &str = "muster/tools";

/// Which tools belong to an initramfs. As text it is one line, `DIGEST BYTES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// SHA-256 of the tools image.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

/// A text that pins no tools.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no SHA-256 of 64 hex digits with a number of bytes behind it")]
pub struct PinnedError(String);

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.digest, self.bytes)
    }
}

impl FromStr for Pinned {
    type Err = PinnedError;

    fn from_str(text: &str) -> Result<Self, PinnedError> {
        let wrong = || PinnedError(text.chars().take(100).collect());
        let (digest, bytes) = text.trim_end().split_once(' ').ok_or_else(wrong)?;
        let bytes = bytes.parse().ok().filter(|bytes| *bytes > 0).ok_or_else(wrong)?;
        Ok(Self { digest: digest.parse().map_err(|_| wrong())?, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pinned_reads_back_and_nothing_else_pins_anything() {
        let pinned = Pinned { digest: Digest::of(b"tools"), bytes: 9_000_000 };
        assert_eq!(pinned.to_string().parse(), Ok(pinned));
        let digest = pinned.digest;
        for text in ["", "\n", &format!("{digest}"), &format!("{digest} 0"), &format!("{digest} -1"), "abc 9", "é 9"] {
            assert!(text.parse::<Pinned>().is_err(), "{text:?}");
        }
    }
}
