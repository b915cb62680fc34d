//! Who talks to a controller in tests, beside operators: Cycle, machines that are simulated, a BMC, and strangers.

pub mod bmc;
pub mod cycle;
pub mod image;
pub mod peer;
pub mod simulated;
pub mod stalled;
