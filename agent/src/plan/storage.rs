//! Storage steps: from what should be and what the disks carry to what to do, in which order.

use muster_protocol::to_agent;

/// One thing to do to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {}

impl Step {
    /// For people and permits.
    pub fn describe(&self) -> to_agent::Step {
        match *self {}
    }
}
