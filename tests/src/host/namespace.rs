//! A network of one's own: the calling thread, and whatever it starts from then on, moves into a new network namespace.
//!
//! There is no name to clash and nothing to clean up: the namespace ends with the last process in it.
//! Every test that uses fixed ports, addresses or taps enters one first.
//! Needs root, or a user namespace that maps to it (`make test` makes one for ordinary users).

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Enters a new namespace in which only the loopback interface is up.
///
/// Call it before starting threads or runtimes: those that run already stay where they are.
pub fn enter() -> Result<()> {
    unshare_network().context("a network namespace needs root; run `make test`, which sees to that")?;
    ip(&["link", "set", "lo", "up"])
}

/// Runs `ip` in the namespace of the calling thread.
pub fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("starting ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[allow(unsafe_code)]
fn unshare_network() -> rustix::io::Result<()> {
    // SAFETY: only the network namespace of this thread changes; no file descriptor, memory or credential does.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}
