//! The IAL as Cycle meets it: every call through the real router, over a fleet in memory whose machines are played here.

mod bmc;
mod check;
mod described;
mod golden;
mod keep;
mod kept;
mod limit;
mod readings;
mod refused;
mod schemathesis;
mod site;
mod wrong;

#[path = "../kill/stand.rs"]
#[allow(dead_code)]
mod stand;
