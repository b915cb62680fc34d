//! PID 1: mounts what a Linux program expects, starts the agent as its child, reaps, and never ends.
//!
//! When PID 1 ends the kernel panics, so everything that can go wrong is left to the child, which is this same binary
//! ([`WORKER`]). Called by `main` alone. Nothing here is fatal: what cannot be mounted is said and done without.

pub mod console;
mod mounts;
pub mod worker;

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, wait};
use rustix::system::{RebootCommand, reboot, sethostname};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::linux::power;
use crate::machine::chain;
use muster_protocol::to_agent::PowerAction;

/// The argument that makes this binary PID 1's worker.
pub const WORKER: &str = "--pid1-worker";

/// Waits between restarts of the worker: short at first, so that a single fall is hardly noticed.
const RESTART: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// A worker that lived this long was well.
const WELL: Duration = Duration::from_secs(60);

/// Is PID 1, for ever.
pub fn supervise() -> ! {
    crate::log::enable();
    mounts::mount_all();
    if let Err(error) = sethostname(b"muster") {
        crate::warn!("could not set the host name: {error}");
    }
    // Ctrl-Alt-Del becomes a signal, so that disks are synced before the machine starts again.
    if let Err(error) = reboot(RebootCommand::CadOff) {
        crate::warn!("could not take Ctrl-Alt-Del over: {error}");
    }
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let error = match runtime {
            Ok(runtime) => runtime.block_on(keep_worker_running()),
            Err(error) => error,
        };
        crate::warn!("PID 1 cannot wait for signals, trying again: {error}");
        std::thread::sleep(RESTART.1);
    }
}

/// Returns only where signals cannot be received.
async fn keep_worker_running() -> std::io::Error {
    let (mut child, mut interrupt) = match (signal(SignalKind::child()), signal(SignalKind::interrupt())) {
        (Ok(child), Ok(interrupt)) => (child, interrupt),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    let mut restart_after = RESTART.0;
    loop {
        let begun = Instant::now();
        match start() {
            Ok(worker) => loop {
                tokio::select! {
                    // Both are cancel-safe: a signal that came meanwhile is still there.
                    _ = child.recv() => if reap(worker) { break },
                    _ = interrupt.recv() => restart_machine(),
                }
            },
            Err(error) => crate::warn!("could not start the agent: {error}"),
        }
        restart_after = if begun.elapsed() >= WELL { RESTART.0 } else { (restart_after * 2).min(RESTART.1) };
        crate::warn!("the agent ended; it is started again in {} ms", restart_after.as_millis());
        sleep(restart_after).await;
    }
}

fn start() -> std::io::Result<Pid> {
    let child = Command::new("/proc/self/exe").arg(WORKER).spawn()?;
    // Never waited for through std: this process waits for every child there is.
    Pid::from_raw(child.id() as i32).ok_or_else(|| std::io::Error::other("a child without a pid"))
}

/// Takes the ends of all children that ended, orphans included. Whether the worker was among them.
fn reap(worker: Pid) -> bool {
    let mut ended = false;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == worker {
            ended = true;
            crate::warn!(
                "the agent ended: exit status {:?}, signal {:?}",
                status.exit_status(),
                status.terminating_signal()
            );
        }
    }
    ended
}

fn restart_machine() {
    crate::info!("Ctrl-Alt-Del: the machine starts again");
    if let Err(error) = power::act(PowerAction::Reboot) {
        crate::warn!("{}", chain(&error));
    }
}
