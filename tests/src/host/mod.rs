//! What tests take from the host and give back: processes, folders, namespaces, switches, HTTP, time,
//! and a turn at its processors.
//!
//! Knows nothing of Muster.

pub mod child;
pub mod eventually;
pub mod http;
pub mod namespace;
pub mod scratch;
pub mod slot;
pub mod switch;
