//! The seam between deciding and doing: everything the agent knows of a machine or does to it goes through [`Machine`].
//!
//! `linux` is the real machine, `sim` the simulated one, and both make the same promises.
//! Methods block; `reconcile` and `session` run them where blocking is allowed.
//! Nothing here decides anything: plans are made in `plan`, from data to data.

use std::any::Any;
use std::io::{self, Read};
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::enroll::Identity;
use muster_protocol::inventory::Inventory;
use muster_protocol::inventory::health::Health;
use muster_protocol::observed::{self, Observed};
use muster_protocol::to_agent::{PowerAction, WipeLevel};
use muster_protocol::to_controller::WipeReceipt;
use muster_protocol::tools::Pinned;
use muster_protocol::{DiskId, DiskKey};
use tokio::sync::Notify;

use crate::plan;

/// How far a long step is, from 0 to 100. Called as often as the step likes; whoever listens thins it out.
pub type Percent<'a> = &'a mut dyn FnMut(u8);

/// A machine that brings up new devices for longer than this is taken as it is.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// A machine, real or simulated.
pub trait Machine: Send + Sync + 'static {
    /// What it can say of itself before any driver but its NIC's is loaded. Waits for a slow TPM, for seconds at most.
    fn identity(&self) -> Identity;

    /// Waits until the hardware that was there at the start has its drivers: before that, disks seem to be missing.
    /// Takes seconds after a boot and at most [`SETTLES_WITHIN`]. Called once, by the reconcile loop.
    fn settle(&self) {}

    /// What it is made of, but for by what the controller is reached. Takes milliseconds to a second; never fails, what
    /// cannot be read is empty.
    fn inventory(&self) -> Inventory;

    /// How its drives say that they are. Takes milliseconds a drive where they answer, and minutes at most; never fails, what
    /// does not answer is not told. Drives that stand still are not woken.
    fn health(&self) -> Health {
        Health::default()
    }

    /// What its kernel says now.
    fn observe(&self) -> Result<Observed, MachineError>;

    /// The network alone: for undoing a change, which must not wait for a disk that does not answer.
    fn observe_network(&self) -> Result<observed::Network, MachineError>;

    /// Told after the network changed, by this agent or anybody else, since it was last waited for. For one who waits.
    fn changes(&self) -> Result<Arc<Notify>, MachineError>;

    /// What of the leases that are kept is not in force although nobody gave it up.
    fn lost(&self) -> Result<Vec<Lost>, MachineError>;

    /// The agent's own limits of disks that are not in force as they were set.
    fn lost_limits(&self) -> Vec<observed::Limit> {
        Vec::new()
    }

    /// Does one step. Idempotent: a step that is done already changes nothing.
    fn apply_network(&self, step: &plan::network::Step) -> Result<(), MachineError>;

    /// Does one step. Looks at the disk again before it writes, and fails where it is not what the plan saw.
    fn apply_storage(&self, step: &plan::storage::Step, progress: Percent<'_>) -> Result<(), MachineError>;

    /// Does the step of an image, which comes from `source`: all of it, or up to where it ends. Looks at the disk again before
    /// it writes, and writes its table when everything else is on the medium.
    fn write_image(
        &self,
        _step: &plan::storage::Step,
        _source: &mut dyn Read,
        _progress: Percent<'_>,
    ) -> Result<(), MachineError> {
        Err(MachineError::Unable("write disk images".into()))
    }

    /// Where the programs are that some steps run.
    fn tools(&self) -> plan::Tools {
        plan::Tools::Here
    }

    /// Keeps bytes of the tools image that lie there in it. Those at 0 begin it anew.
    fn keep_tools(&self, _at: u64, _bytes: &[u8]) -> Result<(), MachineError> {
        Err(MachineError::Unable("keep tools".into()))
    }

    /// All bytes are kept: the tools can be used from now on, if they are these.
    ///
    /// Errors: among others they are not; then they are thrown away.
    fn open_tools(&self, _pinned: &Pinned) -> Result<(), MachineError> {
        Err(MachineError::Unable("use tools".into()))
    }

    /// The UUID in the header of the encrypted volume that a step would open, looked at now.
    ///
    /// Errors: it is not the one that the step means.
    fn header(&self, _step: &plan::storage::Step) -> Result<[u8; 16], MachineError> {
        Err(MachineError::Unable("open encrypted volumes".into()))
    }

    /// Keeps the key of an encrypted volume of this name and with this UUID in its header, in memory and nowhere else, until
    /// [`Machine::forget_keys`].
    fn keep_key(&self, _name: &str, _uuid: [u8; 16], _key: DiskKey) {}

    /// Overwrites the keys that are kept: the steps that needed them are done.
    fn forget_keys(&self) {}

    /// Destroys what a disk carries, its partitions included, and proves it by reading back.
    fn wipe(&self, disk: &DiskId, level: WipeLevel, progress: Percent<'_>) -> Result<WipeReceipt, MachineError>;

    /// A socket for packets to this address, new each time, so that nothing of a network that is gone sticks to it. Where a
    /// way is given, they take it and no other.
    ///
    /// Errors: there is no route, or (a simulated machine) nobody who would carry them.
    fn socket(&self, to: IpAddr, way: Option<&plan::network::NewWay>) -> Result<UdpSocket, MachineError>;

    /// Neighbors that were asked for and did not answer (ARP, neighbor discovery), as far as the kernel remembers, each with
    /// its link's index: addresses of links are not the only ones of their kind.
    fn unanswered(&self) -> Vec<(u32, IpAddr)>;

    /// A controller says that it is this now, in milliseconds since 1970 UTC: sets the clock by it, unless it is near that
    /// already. Best effort.
    fn set_clock(&self, unix_ms: u64);

    /// Writes what is in flight to the disks, then acts. Returns only where it failed, or on a machine that is no PID 1's.
    fn power(&self, action: PowerAction) -> Result<(), MachineError>;
}

/// An address or route of a lease that somebody took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// In words: `add address 192.0.2.7/24 to lan, which is leased`.
    pub action: String,
    /// What brings it back.
    pub again: plan::network::Change,
}

/// Runs `work` where blocking is allowed. A panic in it goes on in the caller.
pub async fn blocking<T: Send + 'static>(
    machine: &Arc<dyn Machine>,
    work: impl FnOnce(&dyn Machine) -> T + Send + 'static,
) -> T {
    let machine = machine.clone();
    let value = erased(Box::new(move || Box::new(work(&*machine)))).await;
    *value.downcast().expect("it is what the work gave")
}

/// Tasks are compiled anew for every type of work, more than a kilobyte each time: there is one type here.
async fn erased(work: Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>) -> Box<dyn Any + Send> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels, and then nobody waits for the value.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Why a machine did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The kernel refused.
    #[error("could not {action}")]
    Os {
        /// Imperative, with names: `add address 192.0.2.7/24 to eth0`.
        action: String,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A link, disk or partition is not there, or not any more.
    #[error("{0} is not there")]
    Missing(String),
    /// Something is not as it was when the plan was made; nothing was written.
    #[error("{what} is not what the plan saw: {now}")]
    Changed {
        /// The link, disk or partition.
        what: String,
        /// What it is now.
        now: String,
    },
    /// A program that was started for it failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Its exit status and the end of its output.
        output: String,
    },
    /// Done, read back, and not what was written.
    #[error("{what} reads back wrong: {found}")]
    ReadBack {
        /// What was written.
        what: String,
        /// What was read.
        found: String,
    },
    /// This machine has no such ability: a driver or a program is not in its image.
    #[error("this machine cannot {0}")]
    Unable(String),
}

impl MachineError {
    /// The kernel refused `action`, in the imperative and with names.
    pub fn os(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Os { action: action.into(), source: source.into() }
    }
}

/// Why a step could not be done. Errors that name it need no name before them.
pub fn why_not(step: &str, error: &MachineError) -> String {
    let why = chain(error);
    if why.contains(step) { why } else { format!("{step}: {why}") }
}

/// An error and its causes in one line, for reports to operators: `could not mount /srv: no such device`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
