//! What every part of the agent may use, and what uses none of them.

pub mod keep;
pub mod log;
pub mod random;
pub mod secrecy;
pub mod sort;
#[cfg(all(target_env = "musl", panic = "abort"))]
mod unwind;
