//! How an agent's parts run together.
//!
//! [`run`] is what the binary, PID 1's worker, and tests with simulated machines call. Dropping it stops everything.

use std::sync::Arc;
use std::time::Duration;

use crate::agent::Agent;
use crate::contact::dial::{self, Ended};
use crate::contact::{home, prove};
use crate::machine::Machine;
use crate::options::Options;
use crate::reconcile::Jobs;

/// What an agent's binary runs on: one thread, and a few small ones for what blocks. A simulated fleet has its own.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_stack_size(512 * 1024)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
}

/// Runs an agent on `machine` until it ends: on a simulated machine or in an ordinary process when a power command was
/// carried out, in an ordinary process also when its enrollment is refused for good.
pub async fn run(options: Options, machine: Arc<dyn Machine>) -> Ended {
    let (agent, jobs) = Agent::new(options, machine);
    run_agent(&agent, jobs).await
}

/// As [`run`], for whoever wants to watch the agent's status and outbox meanwhile.
pub async fn run_agent(agent: &Arc<Agent>, jobs: Jobs) -> Ended {
    // What an earlier run left undone is finished before anybody is told how things stand.
    agent.reconciler.recover().await;
    let handed = home::handed(agent);
    let stands = match handed {
        Some(network) => agent.reconciler.start_with(network).await,
        None => false,
    };
    let home = async {
        if let Some(network) = handed {
            home::come_home(agent, network, stands).await;
        }
    };
    // What is looked at too early lacks disks: an inventory without them would have the controller forget to wipe them,
    // and a plan would refuse what is only late. The session need not wait.
    let work = async {
        agent.reconciler.settled().await;
        let controller = agent.look().await;
        tokio::join!(agent.reconciler.run(jobs), agent.keep_looking(controller), agent.keep_asking_drives(), home);
    };
    tokio::select! {
        ended = dial::dial(agent) => ended,
        () = prove::prove(agent) => std::future::pending().await,
        () = work => std::future::pending().await,
    }
}
