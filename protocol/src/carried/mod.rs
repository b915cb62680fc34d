//! What an initramfs carries for the agent that boots from it.

pub mod handed;
pub mod tools;
