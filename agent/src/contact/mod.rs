//! The way to the controller: finding it, believing it, being believed, and talking.
//!
//! [`dial`] is the loop, [`prove`] proves a changed network, and both use `reach`; [`tls`] says whom it believes, by
//! [`trust`] and at [`clock`]'s time, [`identity`] who it is, both with `crypto`; [`quic`] carries bytes, [`talk`] is one
//! session, and [`session`] decides, without any I/O, what a session answers.

pub mod backoff;
pub mod clock;
mod crypto;
pub mod dial;
pub mod home;
pub mod identity;
pub mod prove;
pub mod quic;
mod reach;
pub mod session;
pub mod talk;
pub mod tls;
pub mod trust;
