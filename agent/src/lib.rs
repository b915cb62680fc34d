//! The agent: the program in RAM on every machine.
//!
//! It is a library with a tiny binary, so that tests and simulated fleets run the code that real machines run.
//! Everything it does to a machine goes through [`machine::Machine`]; [`linux`] is the real one, [`sim`] the simulated.

pub mod agent;
pub mod base;
pub mod contact;
pub mod init;
pub mod linux;
pub mod machine;
pub mod options;
pub mod outbox;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod sim;

pub use base::{keep, log, random, secrecy, sort};
pub use contact::{dial, identity, quic};
pub use run::run;
