//! The harness of the whole-system tests: real processes, virtual machines, and namespaces to put them in.
//!
//! Called by the tests in `tests/tests/`, by `make run` and by `make bench`.
//! It knows the programs by what users hold in their hands only: command lines, ports, HTTP, consoles, disk images.
//! It asserts nothing about Muster itself; that is for its callers.

pub mod artifacts;
pub mod host;
pub mod players;
pub mod qemu;
pub mod stage;

pub use host::eventually::eventually;
pub use host::{child, http, namespace, scratch, slot, switch};
pub use players::{bmc, cycle, image, peer, simulated, stalled};
pub use qemu::{attached, disks, writes};
pub use stage::{controller, ground, guest, lab, site};
