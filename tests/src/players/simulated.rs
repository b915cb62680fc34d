//! Simulated machines: the agent's own code over real QUIC to a real controller, on hardware that is kept in memory.
//!
//! Each boots as a real one does, by asking for its boot script, and boots again when it is told to reboot.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use muster_agent::dial::Ended;
use muster_agent::keep::Keep;
use muster_agent::machine::Machine;
use muster_agent::options::{self, Options};
use muster_agent::sim::SimMachine;
use muster_protocol::BootId;
use muster_protocol::to_agent::PowerAction;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::controller::BOOT_PORT;
use crate::http::Http;

/// Machines that run; unplugged when dropped.
pub struct Machines {
    // Dropped first: it stops what runs on it.
    runtime: Runtime,
    all: Vec<Simulated>,
}

/// One of them.
pub struct Simulated {
    /// Its hardware.
    pub machine: Arc<SimMachine>,
    task: JoinHandle<()>,
}

impl Machines {
    /// Plugs in `count` machines at `location`, in the calling thread's namespace.
    pub fn plug(count: u16, location: &str) -> Result<Self> {
        Self::plug_from(1, count, location)
    }

    /// The same, with numbers that begin with `first`.
    pub fn plug_from(first: u16, count: u16, location: &str) -> Result<Self> {
        Self::plug_built(first, count, location, |_, _| ())
    }

    /// The same, each built as `build` says before it starts, by its number.
    pub fn plug_built(first: u16, count: u16, location: &str, build: impl Fn(u16, &SimMachine)) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut machines = Self { runtime, all: Vec::new() };
        for number in first..first + count {
            let machine = Arc::new(SimMachine::new(number));
            build(number, &machine);
            let task = machines.start(&machine, location);
            machines.all.push(Simulated { machine, task });
        }
        Ok(machines)
    }

    /// All of them, in the order of their numbers, which start at 1.
    pub fn all(&self) -> &[Simulated] {
        &self.all
    }

    /// Pulls a machine's plug.
    pub fn unplug(&self, index: usize) {
        self.all[index].task.abort();
    }

    fn start(&self, machine: &Arc<SimMachine>, location: &str) -> JoinHandle<()> {
        let (machine, location) = (machine.clone(), location.to_owned());
        self.runtime.spawn(async move {
            for boot in 0_u64.. {
                let (asked, asker) = (machine.clone(), location.clone());
                let script = tokio::task::spawn_blocking(move || boot_options(&asked, &asker, boot)).await;
                // A controller that is away is asked again, as iPXE does.
                let Ok(Ok(options)) = script else {
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    continue;
                };
                if muster_agent::run(options, machine.clone()).await == Ended::Power(PowerAction::Off) {
                    return;
                }
            }
        })
    }
}

/// What a boot script tells the agent of this machine.
fn boot_options(machine: &SimMachine, location: &str, boot: u64) -> Result<Options> {
    let identity = machine.identity();
    let macs: Vec<_> = identity.macs.iter().map(ToString::to_string).collect();
    let uuid = identity.uuid.context("a simulated machine has a UUID")?.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let path = format!(
        "/boot/script?uuid={uuid}&serial={}&macs={}&location={location}",
        identity.system_serial,
        macs.join(",")
    );
    let reply = Http::plain(&format!("http://127.0.0.1:{BOOT_PORT}")).send("GET", &path, &[], None)?;
    ensure!(reply.status == 200, "no boot script: {}", reply.text());
    // The same machine in another boot must be another boot.
    let mut id = [0; 16];
    id[..8].copy_from_slice(&boot.to_be_bytes());
    id[8..].copy_from_slice(&std::time::UNIX_EPOCH.elapsed()?.subsec_nanos().to_be_bytes().repeat(2));
    let (options, _) = options::from_cmdline(&reply.text(), BootId::from_bytes(id))?;
    Ok(Options { keep: Keep::memory(), ..options })
}
