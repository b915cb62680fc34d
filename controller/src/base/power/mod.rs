//! Switches machines from outside: BMCs by Redfish and IPMI, smart outlets by HTTP, NICs by magic packets.
//!
//! Called by `fleet::operation::switch`'s loop, on threads that may block. Knows nothing of the fleet: what is switched and
//! what is known of it comes as arguments, and what came of it is said in a way that tells whether it may be tried again.

pub mod http;
pub mod ipmi;
pub mod outlet;
pub mod redfish;
#[cfg(test)]
mod standin;
pub mod wake;

use std::fmt;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// On, where it is off.
    On,
    /// Off, at once.
    Off,
    /// Started anew, or on where it is off.
    Restart,
    /// Off, and on again.
    Cycle,
}

/// What may be tried again, and what may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing was told that could have switched anything; it may be tried again.
    #[error("{0}")]
    Untold(String),
    /// It will not do it, or must not be asked: trying again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// It was told, and nobody knows what came of that.
    #[error("{0}")]
    Unknown(String),
}

/// A password or a URL with one in it: says nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What it is.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}
