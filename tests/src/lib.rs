//! The harness of the whole-system tests: real processes, virtual machines, and namespaces to put them in.
//!
//! Called by the tests in `tests/tests/`, by `make run` and by `make bench`.
//! It knows the programs by what users hold in their hands only: command lines, ports, HTTP, consoles, disk images.
//! It asserts nothing about Muster itself; that is for its callers.

pub mod artifacts;
pub mod controller;
pub mod cycle;
pub mod disks;
pub mod eventually;
pub mod floor;
pub mod host;
pub mod http;
pub mod lab;
pub mod peer;
pub mod qemu;
pub mod simulated;
pub mod site;
pub mod steps;

pub use eventually::eventually;
pub use host::{child, namespace, scratch, slot, wire};
