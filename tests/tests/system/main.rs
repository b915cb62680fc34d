//! Whole-system tests: real programs, real QUIC, real machines under QEMU, one promise each or a few in a row.
//!
//! One program for all, so that it is linked once. A test that boots a machine waits for a processor first.
//! What it leaves behind (consoles, logs, disks) lies in `build/tests/NAME`.

mod boot;
mod cycle;
mod disks;
mod fleet;
mod hostile;
mod join;
mod kernel;
mod process;
mod pushes;
mod refusals;
mod rollout;
