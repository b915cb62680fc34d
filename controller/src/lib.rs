//! The controller.
//!
//! Intent flows down: HTTP (`api`, `ial`) → `fleet` (the one writer) → `store`; `sessions` carry it to the agents.
//! Facts flow up the same road.
//! `server` puts the parts together for `muster serve`; `cli` is everything else that the `muster` program does.

pub mod api;
pub mod base;
pub mod boot;
pub mod cli;
pub mod config;
pub mod documents;
pub mod fleet;
pub mod ial;
pub mod pki;
pub mod server;
pub mod sessions;
pub mod store;

pub use base::{clock, disk_image, files, metrics, power, source, words};
