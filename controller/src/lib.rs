//! The controller: keeps the fleet, speaks with agents, operators and Cycle.

pub mod fleet;
pub mod store;
