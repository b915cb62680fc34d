//! PID 1's worker: the agent on a machine that is all its own.
//!
//! Started by the supervisor, and again whenever it ends. It takes everything from the kernel command line, and from
//! /run/muster what an earlier run of the same boot left there.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::Generation;
use muster_protocol::desired::Network;
use muster_protocol::frame::Message;
use muster_protocol::handed::{self, Handed};
use rustix::time::{ClockId, clock_gettime};

use super::console;
use crate::agent::{Agent, Contact, Status};
use crate::linux::modules::hotplug;
use crate::linux::{LinuxMachine, Role, boot_id};
use crate::machine::chain;
use crate::options::{self, Options};
use crate::{reconcile, run};

/// Between attempts to open what the kernel must have, such as netlink sockets.
const AGAIN: Duration = Duration::from_secs(5);
/// In session for so long, and what starting took is given back.
const IDLE: Duration = Duration::from_secs(10);

/// Works until the machine goes down. A return is a fall, after which the supervisor starts it again.
pub fn work() {
    crate::log::enable();
    crate::secrecy::forbid_swapping();
    // Whatever runs short of memory, the way to the controller goes last (proc(5)).
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        crate::warn!("could not be spared by the out-of-memory killer: {error}");
    }
    if let Err(error) = std::thread::Builder::new().stack_size(256 * 1024).spawn(hotplug::serve) {
        crate::warn!("no thread to load drivers: {error}");
    }
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let options = match options::from_cmdline(&cmdline, boot_id()) {
        Ok((options, ignored)) => {
            ignored.iter().for_each(|problem| crate::warn!("{problem}"));
            let options = Options { handed: handed(Path::new("/")), ..options };
            let since_kernel = clock_gettime(ClockId::Boottime).tv_sec;
            options.since_kernel(Duration::from_secs(since_kernel.unsigned_abs()))
        }
        Err(error) => {
            crate::warn!("{error}");
            console::show_trouble(&error.to_string());
            // Nothing can be done without it, and a person must be able to read it.
            loop {
                std::thread::park();
            }
        }
    };
    if let Err(error) = work_with(options) {
        crate::warn!("{error}");
        console::show_trouble(&error);
        std::thread::sleep(AGAIN);
    }
}

/// The network that the machine was handed in its initramfs, below `root`. One that cannot be read is none.
fn handed(root: &Path) -> Option<(Generation, Network)> {
    let file = File::open(root.join(handed::PATH)).ok()?;
    let mut bytes = Vec::new();
    // One byte more than there may be is enough to see that it is too long.
    let read = file.take(Handed::LIMIT as u64 + 1).read_to_end(&mut bytes);
    let handed =
        read.map_err(|error| error.to_string()).and_then(|_| Handed::from_bytes(&bytes).map_err(|e| e.to_string()));
    match handed {
        Ok(handed) => Some(handed),
        Err(why) => {
            crate::warn!("the network that was handed is not used: {why}");
            None
        }
    }
}

fn work_with(options: Options) -> Result<(), String> {
    let machine = LinuxMachine::new(Role::Owner, options.lease.clone()).map_err(|error| chain(&error))?;
    if reconcile::is_untouched(&options.keep, options.boot)
        && let Err(error) = machine.bring_up()
    {
        crate::warn!("{}", chain(&error));
    }
    let runtime = run::runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (agent, jobs) = Agent::new(options, Arc::new(machine));
        tokio::select! {
            ended = run::run_agent(&agent, jobs) => crate::warn!("the agent ended: {ended:?}"),
            () = console::show(&agent) => {}
            () = tell_memory(&agent) => {}
        }
    });
    Ok(())
}

/// Logs once what the agent and its supervisor take of the machine's memory. Never ends.
async fn tell_memory(agent: &Agent) {
    let in_session = |status: &Status| matches!(status.contact, Contact::Pending { .. } | Contact::Online);
    if agent.status.subscribe().wait_for(in_session).await.is_ok() {
        tokio::time::sleep(IDLE).await;
        let (own, supervisor) = (resident_kib("self"), resident_kib("1"));
        crate::info!("in session and idle: the agent takes {own} KiB of memory, its supervisor {supervisor} KiB");
    }
    std::future::pending().await
}

/// `VmRSS` of proc_pid_status(5); 0 where it cannot be read.
fn resident_kib(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_damaged_or_too_long_hands_over_nothing() {
        let root = std::env::temp_dir().join(format!("muster-handed-{}", std::process::id()));
        let file = root.join(handed::PATH);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        assert_eq!(handed(&root), None);
        let (generation, network) = (Generation(7), Network { hostname: Some("box".into()), ..Network::default() });
        let bytes = Handed::V1 { generation, network: network.clone() }.to_bytes().expect("small");
        for (bytes, expected) in [
            (bytes.clone(), Some((generation, network))),
            (bytes[1..].to_vec(), None),
            (Vec::new(), None),
            ([bytes, vec![0; Handed::LIMIT]].concat(), None),
        ] {
            fs::write(&file, bytes).expect("written");
            assert_eq!(handed(&root), expected);
        }
        fs::remove_dir_all(root).expect("removed");
    }
}
