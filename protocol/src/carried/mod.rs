//! What is carried to an agent: what an initramfs has for the one that boots from it, and keys.

pub mod handed;
pub mod secret;
pub mod tools;
