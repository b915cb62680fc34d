//! The agent: the program in RAM on every machine.
//!
//! It is a library with a tiny binary, so that tests and simulated fleets run the code that real machines run.
//! Everything it does to a machine goes through [`machine::Machine`]; [`linux`] is the real one, [`sim`] the simulated.

pub mod agent;
pub mod backoff;
pub mod console;
pub mod dial;
pub mod identity;
pub mod init;
pub mod keep;
pub mod linux;
pub mod log;
pub mod machine;
pub mod options;
pub mod outbox;
pub mod plan;
pub mod quic;
pub mod random;
pub mod reconcile;
pub mod session;
pub mod sim;
pub mod sort;
pub mod talk;
pub mod tls;

pub use agent::run;
