//! Network steps: from what should be and what is to what to do, in which order, and back again.

use muster_protocol::to_agent;

/// One thing to do to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {}

impl Step {
    /// For people and permits.
    pub fn describe(&self) -> to_agent::Step {
        match *self {}
    }
}
