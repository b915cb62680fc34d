//! What is carried to an agent: what an initramfs has for the one that boots from it, what that fetches later, and keys.

pub mod disk;
pub mod handed;
pub mod secret;
pub mod tools;
