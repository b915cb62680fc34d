//! One agent's parts: what its loops share. [`run`](crate::run) sets them going.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_protocol::MachineId;
use muster_protocol::hello::Awaits;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::contact::clock::Clock;
use crate::contact::session::Session;
use crate::contact::trust::Trust;
use crate::machine::{self, Machine};
use crate::options::Options;
use crate::outbox::Outbox;
use crate::reconcile::{Jobs, Reconciler};

/// While hardware still appears, it is looked at more often.
const EARLY_LOOKS: u32 = 10;
const EARLY_PACE: Duration = Duration::from_secs(2);

/// An agent's parts. Each value has one writer: `outbox` is the reconcile loop's and the inventory's, `status` is `dial`'s.
pub struct Agent {
    /// What it was told.
    pub options: Options,
    /// What it runs on.
    pub machine: Arc<dyn Machine>,
    /// The time for judging certificates.
    pub clock: Clock,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// What there is to tell.
    pub outbox: watch::Sender<Outbox>,
    /// Where it stands with its controller, for the console.
    pub status: watch::Sender<Status>,
    /// Where the controller is, the address by which it was reached last first; nothing before it was.
    pub controller: watch::Sender<Vec<SocketAddr>>,
    /// The one loop that changes the machine.
    pub reconciler: Arc<Reconciler>,
    session: Mutex<Session>,
}

/// Where an agent stands with its controller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub contact: Contact,
    /// The controller that is spoken to, or was last; empty before the first answer.
    pub controller: String,
    /// Who this machine is there.
    pub machine: Option<MachineId>,
    /// How its operators call it.
    pub name: String,
    /// Why the last attempt failed, with the remedy; empty while all is well.
    pub trouble: String,
}

/// Contact with the controller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Contact {
    /// Not tried yet.
    #[default]
    Starting,
    /// Asking for a certificate.
    Enrolling,
    /// Looking for a controller to open a session with.
    Dialing,
    /// In session, and not approved yet.
    Pending {
        /// For whoever stands in front of the machine.
        claim: String,
        /// What has to be said of it.
        awaits: Awaits,
    },
    /// In session.
    Online,
}

impl Agent {
    /// Puts an agent together. Nothing happens before [`run_agent`](crate::run::run_agent).
    pub fn new(options: Options, machine: Arc<dyn Machine>) -> (Arc<Self>, Jobs) {
        let outbox = watch::Sender::new(Outbox::default());
        let (keep, boot, manage) = (options.keep.clone(), options.boot, options.manage);
        let controller = watch::Sender::new(Vec::new());
        let seen = controller.subscribe();
        let (reconciler, jobs) = Reconciler::new(machine.clone(), keep, boot, manage, outbox.clone(), seen);
        let clock = Clock::new(options.time_unix_s);
        let trust = Trust::load(options.keep.clone(), options.ca);
        let session = Mutex::new(Session::new(boot, manage));
        let status = watch::Sender::new(Status::default());
        (Arc::new(Self { options, machine, clock, trust, outbox, status, controller, reconciler, session }), jobs)
    }

    /// What sessions decide by. Held for a decision, never across a wait.
    pub fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the hardware, and has it told where it changed.
    pub async fn look(&self) {
        let inventory = machine::blocking(&self.machine, |machine| machine.inventory()).await;
        let digest = inventory.digest();
        self.outbox.send_if_modified(|out| {
            let changed = out.inventory.as_ref().is_none_or(|(_, before)| *before != digest);
            if changed {
                out.inventory = Some((Arc::new(inventory), digest));
            }
            changed
        });
    }

    /// Looks again and again.
    pub async fn keep_looking(&self) {
        let mut looks = 1;
        loop {
            let pace = self.options.pace.rescan;
            let pace = if looks < EARLY_LOOKS { pace.min(EARLY_PACE) } else { pace };
            // What was just changed is told at once.
            let before = self.outbox.borrow().progress.clone();
            let settled = |out: &Outbox| out.progress.is_settled() && out.progress != before;
            let _ = timeout(pace, self.outbox.subscribe().wait_for(settled)).await;
            self.look().await;
            looks += 1;
        }
    }
}
