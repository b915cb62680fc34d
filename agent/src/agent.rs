//! One agent's parts: what its loops share. [`run`](crate::run) sets them going.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_protocol::MachineId;
use muster_protocol::hello::{Awaits, Progress};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::contact::clock::Clock;
use crate::contact::session::Session;
use crate::contact::trust::Trust;
use crate::machine::{self, Machine};
use crate::options::Options;
use crate::outbox::Outbox;
use crate::plan::network::home;
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

    /// Looks at the hardware and at the way to the controller, and has it told where it changed. Answers where the
    /// controller was.
    ///
    /// Before the controller was reached, what is seen is shown and not told: by which way it will be reached nobody knows.
    /// While a change is under way nothing is noted: it would be neither what was nor what will be.
    pub async fn look(&self) -> Option<IpAddr> {
        let controller = reached(&self.controller.borrow());
        let (mut inventory, network) = machine::blocking(&self.machine, move |machine| {
            (machine.inventory(), controller.and_then(|_| machine.observe_network().ok()))
        })
        .await;
        inventory.software.leaves = self.options.manage.leaves();
        self.outbox.send_if_modified(|out| {
            if matches!(out.progress, Progress::Applying { .. }) {
                return false;
            }
            let found = controller.zip(network).and_then(|(ip, network)| home(&network, ip, &inventory.nics));
            // Where there is no way at this moment, nobody is told that either.
            let before = out.inventory.take();
            inventory.home = found.or_else(|| before.as_ref()?.0.home.clone());
            let told = controller.map(|_| inventory.digest());
            let changed = before.as_ref().is_none_or(|(had, of)| *of != told || **had != inventory);
            out.inventory = if changed { Some((Arc::new(inventory), told)) } else { before };
            changed
        });
        controller
    }

    /// Asks the drives again and again how they are, and has it told where it changed. They are asked slowly: they measure
    /// slowly.
    pub async fn keep_asking_drives(&self) {
        loop {
            let health = machine::blocking(&self.machine, |machine| machine.health()).await;
            self.outbox.send_if_modified(|out| {
                let changed = *out.health != health;
                if changed {
                    out.health = Arc::new(health);
                }
                changed
            });
            sleep(self.options.pace.health).await;
        }
    }

    /// Looks again and again. `controller` is where it was when it was looked last.
    pub async fn keep_looking(&self, mut controller: Option<IpAddr>) {
        let mut looks = 1;
        loop {
            let pace = self.options.pace.rescan;
            let pace = if looks < EARLY_LOOKS { pace.min(EARLY_PACE) } else { pace };
            let before = self.outbox.borrow().progress.clone();
            let settled = |out: &Outbox| out.progress.is_settled() && out.progress != before;
            let (mut outbox, mut elsewhere) = (self.outbox.subscribe(), self.controller.subscribe());
            // What was just changed is told at once, and so is the way to a controller that was just reached. All are
            // cancel-safe: what is missed here is seen in the next round.
            tokio::select! {
                _ = outbox.wait_for(settled) => {}
                _ = elsewhere.wait_for(|now| reached(now) != controller) => {}
                () = sleep(pace) => {}
            }
            controller = self.look().await;
            self.reconciler.look_at_limits().await;
            looks += 1;
        }
    }
}

/// The address by which the controller was reached last.
fn reached(controller: &[SocketAddr]) -> Option<IpAddr> {
    controller.first().map(SocketAddr::ip)
}

#[cfg(test)]
mod tests {
    use muster_protocol::inventory::{Carrier, Home};
    use muster_protocol::observed::{Admin, Link};
    use muster_protocol::{BootId, Digest, Generation};

    use super::*;
    use crate::keep::Keep;
    use crate::options::{Manage, Pace, WhenRefused};
    use crate::plan::network::{Change, Route};
    use crate::sim::SimMachine;

    fn agent(machine: &Arc<SimMachine>) -> Arc<Agent> {
        managing(Manage::ALL, machine)
    }

    fn managing(manage: Manage, machine: &Arc<SimMachine>) -> Arc<Agent> {
        let options = Options {
            controllers: Vec::new(),
            ca: Digest::of(b"a CA"),
            leave: None,
            time_unix_s: 0,
            lease: None,
            handed: None,
            manage,
            keep: Keep::memory(),
            boot: BootId::from_bytes([1; 16]),
            refused: WhenRefused::BootAgain,
            pace: Pace::default(),
        };
        Agent::new(options, machine.clone()).0
    }

    /// From now on its default route leads out by its second NIC.
    fn reroute(machine: &SimMachine) {
        let network = machine.observe_network().expect("observes");
        let (address, route) = (network.links[0].addresses[0], &network.routes[0]);
        let second = machine.pull_out("eth1");
        machine.put_in(&Link { carrier: Carrier::Present, ..second });
        let default = |link: &str, metric| Route {
            link: link.into(),
            to: route.to,
            via: route.via,
            metric,
            table: route.table,
            origin: route.origin,
            reach: muster_protocol::desired::Reach::OnLink,
        };
        machine.by_hand(&Change::SetAdmin { link: "eth1".into(), admin: Admin::Up });
        machine.by_hand(&Change::AddAddress { link: "eth1".into(), address });
        machine.by_hand(&Change::AddRoute(default("eth1", route.metric + 1)));
        machine.by_hand(&Change::RemoveRoute(default("eth0", route.metric)));
    }

    fn home(agent: &Agent) -> Option<Home> {
        agent.outbox.borrow().inventory.as_ref().and_then(|(inventory, _)| inventory.home.clone())
    }

    fn by(link: &str) -> Option<Home> {
        Some(Home { link: link.into(), nics: vec![link.into()] })
    }

    #[tokio::test]
    async fn what_an_agent_was_not_started_to_manage_is_told() {
        let machine = Arc::new(SimMachine::new(1));
        for (manage, words) in [
            (Manage::ALL, &[][..]),
            (Manage { storage: false, ..Manage::ALL }, &["storage"]),
            (Manage::default(), &["network", "storage", "power"]),
        ] {
            let agent = managing(manage, &machine);
            agent.look().await;
            let seen = agent.outbox.borrow().inventory.clone().expect("it has looked").0;
            assert_eq!(seen.software.leaves.words().collect::<Vec<_>>(), words);
        }
    }

    #[tokio::test]
    async fn what_carries_the_session_is_told_once_it_is_known_and_again_only_when_it_is_another() {
        let machine = Arc::new(SimMachine::new(1));
        let agent = agent(&machine);
        agent.look().await;
        assert!(agent.outbox.borrow().inventory.is_some(), "there is something to show");
        assert_eq!((agent.outbox.borrow().inventory_digest(), home(&agent)), (None, None), "and nothing to tell");

        agent.controller.send_replace(vec!["192.0.2.1:8443".parse().expect("an address")]);
        agent.look().await;
        let told = agent.outbox.borrow().inventory_digest();
        assert_eq!((told.is_some(), home(&agent)), (true, by("eth0")));

        let changes = agent.outbox.subscribe();
        agent.look().await;
        assert!(!changes.has_changed().expect("the agent lives"), "nothing is another");

        reroute(&machine);
        let (generation, step) = (Generation(1), String::new());
        agent.outbox.send_modify(|out| out.progress = Progress::Applying { generation, percent: 0, step });
        agent.look().await;
        assert_eq!(home(&agent), by("eth0"), "it may be another again when the change is over");
        agent.outbox.send_modify(|out| out.progress = Progress::Confirmed { generation });
        agent.look().await;
        assert_eq!(home(&agent), by("eth1"));
        assert_ne!(agent.outbox.borrow().inventory_digest(), told);
    }
}
