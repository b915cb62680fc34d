//! Keeps leases: a thread that drives the DHCP clients of all links and hears of links that come and go.
//!
//! A thread and no task, because a lease must be renewed even while something blocks for minutes.
//! What it does to the kernel and to resolv.conf happens under one lock, so that a client that was stopped stays stopped.
//! It decides nothing but what DHCP decides, and, while a machine boots, that its NICs come up.

mod install;
mod kept;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use muster_protocol::desired::LeaseUse;
use muster_protocol::observed::Dhcp;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::linux::network::dhcp;
use crate::linux::network::netlink::link::{self, Kind, Link};
use crate::linux::network::netlink::{Netlink, NetlinkError, Watch};
use crate::linux::network::ntp::Ntp;
use crate::linux::network::resolv::{ResolvConf, Resolvers};
use crate::machine::Lost;
use crate::options;
use crate::plan::network::{Change, Family};
use crate::{info, warn};
use install::Effects;
use kept::{Action, Client, Kept, Lease, Socket};

/// How long the NIC of a lease that was handed over may take to appear, before DHCP is tried on all that are there.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a server may take to say whether a lease from before still holds, asked a second time after 2.5 s at most: what is
/// built on one that does not is lost with it.
const DOUBT: Duration = Duration::from_secs(4);
/// Answers that are read at a stretch before others get their turn.
const AT_ONCE: usize = 32;
/// No wait is longer, however far the next deadline.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Whose lease: the link's name, and which of its two.
pub(super) type LeaseOf = (String, Family);

/// The handle; the thread is started when there is something to keep.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A client did something: it may have a lease by now, or know that a server stands by it.
    changed: Condvar,
    /// The thread is to look again.
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    effects: Effects,
    clients: Vec<Kept>,
    /// Leases of clients that were stopped: a revert wants them back.
    stopped: Vec<(LeaseOf, Lease)>,
    boot: Boot,
    thread: Thread,
}

#[derive(Debug, PartialEq, Eq)]
enum Thread {
    NotStarted,
    Started,
}

/// What happens to NICs that nobody has configured.
#[derive(Debug)]
enum Boot {
    /// Nothing: not asked for, or a configuration was applied.
    Off,
    /// They come up, and the lease is taken over by its NIC.
    Lease { lease: options::Lease, seen: Vec<u32>, until: Instant },
    /// They come up.
    LeaseTaken { seen: Vec<u32> },
    /// They come up, and get an address by DHCP.
    Dhcp { seen: Vec<u32> },
}

impl Keeper {
    /// Opens what it needs, and starts nothing.
    pub(super) fn new(resolv_conf: &Path, ntp: Ntp) -> io::Result<Self> {
        let effects = Effects { netlink: Netlink::open()?, resolv: ResolvConf::new(resolv_conf), ntp };
        let state =
            State { effects, clients: Vec::new(), stopped: Vec::new(), boot: Boot::Off, thread: Thread::NotStarted };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), wake }) })
    }

    /// Brings all NICs up, now and when they appear, and takes the lease over or starts DHCP, until [`Self::configured`].
    pub(super) fn boot(&self, lease: Option<options::Lease>) -> io::Result<()> {
        let mut state = self.shared.lock();
        let seen = Vec::new();
        state.boot = match lease {
            Some(lease) => Boot::Lease { lease, seen, until: Instant::now() + PATIENCE },
            None => Boot::Dhcp { seen },
        };
        state.look(Instant::now());
        self.shared.start_thread(&mut state)
    }

    /// From now on configuration says what happens to NICs.
    pub(super) fn configured(&self) {
        self.shared.lock().boot = Boot::Off;
    }

    /// Starts a client, with the lease it had when it was stopped where that is still good. Where one runs, its lease is
    /// used as `uses` says from now on.
    pub(super) fn start(&self, link: &Link, family: Family, uses: LeaseUse) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.start(link, family, uses, Instant::now());
        self.shared.start_thread(&mut state)
    }

    /// Ends a client. What it installed stays, but for its resolvers and the clock's servers.
    pub(super) fn stop(&self, link: &str, family: Family) {
        let mut state = self.shared.lock();
        if let Some(at) = state.clients.iter().position(|kept| kept.is_of(link, family)) {
            let kept = state.clients.swap_remove(at);
            state.remember(&kept);
            state.effects.forget(&kept.of);
        }
    }

    /// Waits until a client has a lease that a server stands by, or, where none answers, one from before that has not ended.
    /// Returns whether it has.
    pub(super) fn await_lease(&self, link: &str, family: Family, patience: Duration) -> bool {
        let wait = |most: Duration, is_good: fn(&Client) -> bool| {
            let is_awaited = |state: &mut State| state.client(link, family).is_none_or(|kept| !is_good(&kept.client));
            let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), most, is_awaited);
            !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
        };
        let first = patience.min(DOUBT);
        wait(first, |client| client.lease().is_some() && !client.is_in_doubt())
            || wait(patience - first, |client| client.lease().is_some())
    }

    /// What the clients of each link do; links without are off.
    pub(super) fn observe(&self) -> Vec<(LeaseOf, Dhcp)> {
        self.shared.lock().clients.iter().map(|kept| (kept.of.clone(), kept.observed())).collect()
    }

    /// What of the clients' leases is not in force any more.
    pub(super) fn lost(&self) -> Result<Vec<Lost>, NetlinkError> {
        let mut state = self.shared.lock();
        let State { effects, clients, .. } = &mut *state;
        let mut lost = Vec::new();
        for kept in clients {
            let Some(lease) = kept.client.lease() else { continue };
            let (link, family) = kept.of.clone();
            let again = Change::StartDhcp { link, family, uses: kept.uses };
            let is_lost = |what| Lost { action: format!("{what}, which is leased"), again: again.clone() };
            lost.extend(effects.lost(kept, &lease)?.into_iter().map(is_lost));
        }
        Ok(lost)
    }

    /// How long an address of a link's lease is good, running or stopped; `None` where no lease has it.
    pub(super) fn lifetime(&self, link: &str, net: IpNet) -> Option<u32> {
        let mut state = self.shared.lock();
        let family = if net.addr().is_ipv4() { Family::V4 } else { Family::V6 };
        let running = state.client(link, family).and_then(|kept| kept.client.lease());
        let lease = running.or_else(|| state.stopped(link, family)).filter(|lease| lease.net() == Some(net))?;
        Some(lease.seconds_left(Instant::now()))
    }

    /// Sets the resolvers that come before those of leases.
    pub(super) fn resolvers(&self, resolvers: Resolvers) -> io::Result<()> {
        self.shared.lock().effects.resolv.configure(resolvers)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread, in the network namespace of the caller, or wakes it.
    fn start_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if state.thread == Thread::Started {
            rustix::io::write(&self.wake, &1_u64.to_ne_bytes())?;
            return Ok(());
        }
        let watch = Watch::links()?;
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("network".to_owned()).stack_size(128 * 1024);
        thread.spawn(move || shared.keep(&watch))?;
        state.thread = Thread::Started;
        Ok(())
    }

    fn keep(&self, watch: &Watch) {
        loop {
            let (sockets, wait) = {
                let mut state = self.lock();
                let now = Instant::now();
                state.tend(now, &self.changed);
                let sockets: Vec<Arc<Socket>> = state.clients.iter().filter_map(|kept| kept.socket.clone()).collect();
                let wait = state.deadline().map_or(LONGEST_WAIT, |at| at.saturating_duration_since(now));
                (sockets, wait.min(LONGEST_WAIT))
            };
            let mut fds = vec![
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN),
            ];
            fds.extend(sockets.iter().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
            let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            // Interrupted or failed: look at everything; nothing below blocks.
            let _ = poll(&mut fds, Some(&wait));
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            if watch.heard() {
                self.lock().look(Instant::now());
            }
            for socket in &sockets {
                let answers = std::iter::from_fn(|| socket.receive()).take(AT_ONCE);
                for heard in answers {
                    let mut state = self.lock();
                    let now = Instant::now();
                    let still_asks = |kept: &Kept| kept.socket.as_ref().is_some_and(|s| Arc::ptr_eq(s, socket));
                    if let Some(at) = state.clients.iter().position(still_asks) {
                        let actions = state.clients[at].client.handle(&heard, now);
                        state.perform(at, actions, now, &self.changed);
                    }
                }
            }
        }
    }
}

impl State {
    /// When something is to be done without anything happening first.
    fn deadline(&self) -> Option<Instant> {
        let until = match &self.boot {
            Boot::Lease { until, .. } => Some(*until),
            Boot::Off | Boot::LeaseTaken { .. } | Boot::Dhcp { .. } => None,
        };
        self.clients.iter().map(|kept| kept.client.deadline()).chain(until).min()
    }

    /// Does what is due.
    fn tend(&mut self, now: Instant, changed: &Condvar) {
        if let Boot::Lease { lease, until, .. } = &self.boot
            && now >= *until
        {
            warn!("no NIC with MAC {} has appeared; asking for an address on those that have", lease.mac);
            self.boot = Boot::Dhcp { seen: Vec::new() };
            self.look(now);
        }
        for at in 0..self.clients.len() {
            let actions = self.clients[at].client.poll(now);
            self.perform(at, actions, now, changed);
        }
    }

    /// Looks at all links: new ones, gone ones, cables plugged in.
    fn look(&mut self, now: Instant) {
        let links = match self.effects.netlink.dump(&link::dump(), link::NEW, link::decode) {
            Ok(links) => links.into_iter().flatten().collect::<Vec<_>>(),
            Err(error) => return warn!("cannot list links: {error}"),
        };
        for at in (0..self.clients.len()).rev() {
            let kept = &mut self.clients[at];
            let is_it = |link: &&Link| link.index == kept.index && link.name == kept.of.0;
            let Some(link) = links.iter().find(is_it) else {
                // Gone, or called something else: who wants a client there starts it.
                let kept = self.clients.swap_remove(at);
                self.remember(&kept);
                self.effects.forget(&kept.of);
                continue;
            };
            // A bridge has the MAC of a port of its, and a bond that of its first: servers answer there, and nowhere else.
            if kept.mac != link.mac {
                *kept = Kept::new(link, kept.of.1, kept.uses, kept.client.lease(), now);
            }
            let carrier = (link.carrier, link.carrier_ups);
            if link.carrier && kept.carrier != carrier {
                kept.client.carrier_returned(now);
            }
            kept.carrier = carrier;
        }
        for link in &links {
            self.boot_link(link, now);
        }
    }

    /// What booting does to a link that is seen for the first time.
    fn boot_link(&mut self, link: &Link, now: Instant) {
        let is_new = match &mut self.boot {
            Boot::Off => false,
            Boot::Lease { seen, .. } | Boot::LeaseTaken { seen } | Boot::Dhcp { seen } => {
                let is_new = !seen.contains(&link.index);
                seen.extend(is_new.then_some(link.index));
                is_new
            }
        };
        if !is_new || !matches!(link.kind, Kind::Ethernet | Kind::Loopback) {
            return;
        }
        warn_on(&link.name, "bring it up", self.effects.netlink.request(link::up(link.index)));
        if link.kind == Kind::Loopback {
            return;
        }
        match &mut self.boot {
            Boot::Dhcp { .. } => self.start(link, Family::V4, LeaseUse::default(), now),
            Boot::Lease { lease, seen, .. } if [Some(link.mac), link.permanent_mac].contains(&Some(lease.mac)) => {
                let lease = lease.clone();
                self.boot = Boot::LeaseTaken { seen: std::mem::take(seen) };
                info!("{}: taking over the lease of {}", link.name, lease.address);
                let lease = dhcp::Lease::handed_over(lease.address, lease.gateway, lease.dns, lease.server, now);
                self.insert(link, Family::V4, LeaseUse::default(), Some(Lease::V4(lease)), now);
            }
            Boot::Off | Boot::Lease { .. } | Boot::LeaseTaken { .. } => {}
        }
    }

    fn start(&mut self, link: &Link, family: Family, uses: LeaseUse, now: Instant) {
        let running = self.clients.iter().position(|kept| kept.is_of(&link.name, family));
        let Some(at) = running.filter(|at| self.clients[*at].index == link.index) else {
            // One on a link that is gone, whose name this one has by now.
            running.map(|at| self.clients.swap_remove(at)).iter().for_each(|kept| self.remember(kept));
            let lease = self.stopped(&link.name, family).filter(|lease| lease.ends_at() > now);
            return self.insert(link, family, uses, lease, now);
        };
        let kept = &mut self.clients[at];
        kept.uses = uses;
        // Also where nothing differs: somebody may have taken away what it brought.
        if let Some(lease) = kept.client.lease() {
            self.effects.install(kept, &lease, now);
        }
    }

    fn insert(&mut self, link: &Link, family: Family, uses: LeaseUse, lease: Option<Lease>, now: Instant) {
        let kept = Kept::new(link, family, uses, lease.clone(), now);
        if let Some(lease) = lease {
            self.effects.install(&kept, &lease, now);
        }
        self.clients.push(kept);
    }

    fn client(&mut self, link: &str, family: Family) -> Option<&mut Kept> {
        self.clients.iter_mut().find(|kept| kept.is_of(link, family))
    }

    /// The lease that a client had when it was stopped.
    fn stopped(&self, link: &str, family: Family) -> Option<Lease> {
        let found = self.stopped.iter().find(|((name, of), _)| (name.as_str(), *of) == (link, family));
        found.map(|(_, lease)| lease.clone())
    }

    fn remember(&mut self, kept: &Kept) {
        self.stopped.retain(|(of, _)| *of != kept.of);
        self.stopped.extend(kept.client.lease().map(|lease| (kept.of.clone(), lease)));
    }

    fn perform(&mut self, at: usize, actions: Vec<Action>, now: Instant, changed: &Condvar) {
        let kept = &mut self.clients[at];
        for action in actions {
            let name = kept.of.0.clone();
            match action {
                // A message that cannot be sent is one that got lost: it is repeated.
                Action::Send(message) => warn_on(&name, "ask for a lease or renew it", kept.send(&message)),
                Action::Install(lease) => {
                    match lease.net() {
                        Some(net) => info!("{name}: leased {net} for {} s", lease.seconds_left(now)),
                        None => info!("{name}: learned what DHCPv6 servers tell without an address"),
                    }
                    self.effects.install(kept, &lease, now);
                }
                Action::Withdraw => {
                    warn!("{name}: its lease has ended");
                    self.effects.withdraw(kept);
                }
            }
        }
        if !kept.client.awaits_answer() {
            kept.socket = None;
        }
        changed.notify_all();
    }
}

/// Spreads the retries of machines that are switched on together.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Early in boot the kernel may have no randomness yet; then the clock has to do.
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec.cast_unsigned(),
    }
}

/// Nothing here can be given up because of an error: it is told, and tried again at the next occasion.
fn warn_on<E: std::error::Error>(link: &str, action: &str, result: Result<(), E>) {
    if let Err(error) = result {
        warn!("{link}: could not {action}: {error}");
    }
}
