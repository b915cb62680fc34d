//! From desired and observed to steps, without touching anything.
//!
//! [`network`] and [`storage`] each plan their half; [`Plan`] is both, in the order in which they are applied.
//! A revert is a plan too.

pub mod network;
pub mod storage;

/// A desired state that does not fit this machine: no such NIC, no such disk, no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Impossible {
    /// Where in the normalized document: `network.ethernets.lan.match`.
    pub field: String,
    /// What does not fit, and what the machine has instead.
    pub problem: String,
}
