//! Keeps leases: a thread that drives the DHCPv4 clients of all links and hears of links that come and go.
//!
//! A thread and no task, because a lease must be renewed even while something blocks for minutes.
//! What it does to the kernel and to resolv.conf happens under one lock, so that a client that was stopped stays stopped.
//! It decides nothing but what DHCP decides, and, while a machine boots, that its NICs come up.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use muster_protocol::desired::Reach;
use muster_protocol::observed::{Dhcp4, Origin};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::linux::network::dhcp::{Action, Client, Lease, Listening, Socket};
use crate::linux::network::netlink::address::{self, Lifetime};
use crate::linux::network::netlink::link::{self, Kind, Link};
use crate::linux::network::netlink::{LinkWatch, Netlink, NetlinkError, route};
use crate::linux::network::resolv::{ResolvConf, Resolvers};
use crate::options;
use crate::{info, warn};

/// The metric of routes that leases bring: any configured one wins.
const METRIC: u32 = 1024;
/// How long the NIC of a lease that was handed over may take to appear, before DHCP is tried on all that are there.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers that are read at a stretch before others get their turn.
const AT_ONCE: usize = 32;
/// No wait is longer, however far the next deadline.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The handle; the thread is started when there is something to keep.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A lease was installed.
    bound: Condvar,
    /// The thread is to look again.
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    netlink: Netlink,
    resolv: ResolvConf,
    clients: Vec<Kept>,
    /// Leases of clients that were stopped: a revert wants them back.
    stopped: Vec<(String, Lease)>,
    boot: Boot,
    thread: Thread,
}

#[derive(Debug)]
struct Kept {
    name: String,
    index: u32,
    /// When the link was last looked at: whether there was one, and how often it had come.
    carrier: (bool, u32),
    client: Client,
    socket: Option<Arc<Socket>>,
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
    pub(super) fn new(resolv_conf: &Path) -> io::Result<Self> {
        let state = State {
            netlink: Netlink::open()?,
            resolv: ResolvConf::new(resolv_conf),
            clients: Vec::new(),
            stopped: Vec::new(),
            boot: Boot::Off,
            thread: Thread::NotStarted,
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { shared: Arc::new(Shared { state: Mutex::new(state), bound: Condvar::new(), wake }) })
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

    /// Starts a client, with the lease it had when it was stopped where that is still good. Does nothing where one runs.
    pub(super) fn start(&self, link: &Link) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.start(link, Instant::now());
        self.shared.start_thread(&mut state)
    }

    /// Ends a client. What it installed stays, but for its resolvers.
    pub(super) fn stop(&self, link: &str) {
        let mut state = self.shared.lock();
        if let Some(at) = state.clients.iter().position(|kept| kept.name == link) {
            let kept = state.clients.swap_remove(at);
            state.stopped.retain(|(name, _)| name != link);
            state.stopped.extend(kept.client.lease().map(|lease| (link.to_owned(), lease.clone())));
            let written = state.resolv.lease(link, None);
            warn_on(link, "write resolv.conf", written);
        }
    }

    /// Waits until a client has a lease. Returns whether it has.
    pub(super) fn await_lease(&self, link: &str, patience: Duration) -> bool {
        let has_none = |state: &mut State| state.client(link).is_none_or(|kept| kept.client.lease().is_none());
        let waited = self.shared.bound.wait_timeout_while(self.shared.lock(), patience, has_none);
        let (_state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }

    /// What the client of each link does; links without are off.
    pub(super) fn observe(&self) -> Vec<(String, Dhcp4)> {
        let doing = |kept: &Kept| kept.client.lease().map_or(Dhcp4::Searching, |lease| Dhcp4::Bound(lease.observed()));
        self.shared.lock().clients.iter().map(|kept| (kept.name.clone(), doing(kept))).collect()
    }

    /// How long an address of a link's lease is good, running or stopped; `None` where no lease has it.
    pub(super) fn lifetime(&self, link: &str, net: IpNet) -> Option<u32> {
        let mut state = self.shared.lock();
        let running = state.client(link).and_then(|kept| kept.client.lease()).cloned();
        let stopped = || state.stopped.iter().find(|(name, _)| name == link).map(|(_, lease)| lease.clone());
        let lease = running.or_else(stopped).filter(|lease| IpNet::V4(lease.address) == net)?;
        Some(lease.seconds_left(Instant::now()))
    }

    /// Sets the resolvers that come before those of leases.
    pub(super) fn resolvers(&self, resolvers: Resolvers) -> io::Result<()> {
        self.shared.lock().resolv.configure(resolvers)
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
        let watch = LinkWatch::open()?;
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("network".to_owned()).stack_size(128 * 1024);
        thread.spawn(move || shared.keep(&watch))?;
        state.thread = Thread::Started;
        Ok(())
    }

    fn keep(&self, watch: &LinkWatch) {
        loop {
            let (sockets, wait) = {
                let mut state = self.lock();
                let now = Instant::now();
                state.tend(now, &self.bound);
                let sockets: Vec<(String, Arc<Socket>)> = state
                    .clients
                    .iter()
                    .filter_map(|kept| Some((kept.name.clone(), Arc::clone(kept.socket.as_ref()?))))
                    .collect();
                let wait = state.deadline().map_or(LONGEST_WAIT, |at| at.saturating_duration_since(now));
                (sockets, wait.min(LONGEST_WAIT))
            };
            let mut fds = vec![
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN),
            ];
            fds.extend(sockets.iter().map(|(_, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
            let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            // Interrupted or failed: look at everything; nothing below blocks.
            let _ = poll(&mut fds, Some(&wait));
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            if watch.heard() {
                self.lock().look(Instant::now());
            }
            for (name, socket) in &sockets {
                let answers = std::iter::from_fn(|| socket.receive()).take(AT_ONCE);
                for reply in answers {
                    let mut state = self.lock();
                    let now = Instant::now();
                    let still_asks = |kept: &&mut Kept| kept.socket.as_ref().is_some_and(|s| Arc::ptr_eq(s, socket));
                    if let Some(kept) = state.client(name).filter(still_asks) {
                        let actions = kept.client.handle(&reply, now);
                        state.perform(name, actions, now, &self.bound);
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
    fn tend(&mut self, now: Instant, bound: &Condvar) {
        if let Boot::Lease { lease, until, .. } = &self.boot
            && now >= *until
        {
            warn!("no NIC with MAC {} has appeared; asking for an address on those that have", lease.mac);
            self.boot = Boot::Dhcp { seen: Vec::new() };
            self.look(now);
        }
        for at in 0..self.clients.len() {
            let kept = &mut self.clients[at];
            let (name, actions) = (kept.name.clone(), kept.client.poll(now));
            self.perform(&name, actions, now, bound);
        }
    }

    /// Looks at all links: new ones, gone ones, cables plugged in.
    fn look(&mut self, now: Instant) {
        let links = match self.netlink.dump(&link::dump(), link::NEW, link::decode) {
            Ok(links) => links.into_iter().flatten().collect::<Vec<_>>(),
            Err(error) => return warn!("cannot list links: {error}"),
        };
        self.clients.retain_mut(|kept| {
            let is_it = |link: &&Link| link.index == kept.index && link.name == kept.name;
            let Some(link) = links.iter().find(is_it) else { return false };
            let carrier = (link.carrier, link.carrier_ups);
            if link.carrier && kept.carrier != carrier {
                kept.client.carrier_returned(now);
            }
            kept.carrier = carrier;
            true
        });
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
        warn_on(&link.name, "bring it up", self.netlink.request(link::up(link.index)));
        if link.kind == Kind::Loopback {
            return;
        }
        match &mut self.boot {
            Boot::Dhcp { .. } => self.start(link, now),
            Boot::Lease { lease, seen, .. } if [Some(link.mac), link.permanent_mac].contains(&Some(lease.mac)) => {
                let lease = lease.clone();
                self.boot = Boot::LeaseTaken { seen: std::mem::take(seen) };
                info!("{}: taking over the lease of {}", link.name, lease.address);
                let lease = Lease::handed_over(lease.address, lease.gateway, lease.dns, lease.server, now);
                self.start_with(link, lease, now);
            }
            Boot::Off | Boot::Lease { .. } | Boot::LeaseTaken { .. } => {}
        }
    }

    fn start(&mut self, link: &Link, now: Instant) {
        if self.client(&link.name).is_some() {
            return;
        }
        match self.stopped.iter().find(|(name, lease)| *name == link.name && lease.ends_at > now) {
            Some((_, lease)) => self.start_with(link, lease.clone(), now),
            None => self.insert(link, Client::new(link.mac, seed(), now)),
        }
    }

    fn start_with(&mut self, link: &Link, lease: Lease, now: Instant) {
        install(&mut self.netlink, &mut self.resolv, &link.name, link.index, &lease, now);
        self.insert(link, Client::with_lease(link.mac, seed(), lease, now));
    }

    fn insert(&mut self, link: &Link, client: Client) {
        let carrier = (link.carrier, link.carrier_ups);
        self.clients.push(Kept { name: link.name.clone(), index: link.index, carrier, client, socket: None });
    }

    fn client(&mut self, link: &str) -> Option<&mut Kept> {
        self.clients.iter_mut().find(|kept| kept.name == link)
    }

    fn perform(&mut self, name: &str, actions: Vec<Action>, now: Instant, bound: &Condvar) {
        let Some(kept) = self.clients.iter_mut().find(|kept| kept.name == name) else { return };
        for action in actions {
            match action {
                // A message that cannot be sent is one that got lost: it is repeated.
                Action::Broadcast(bytes) => {
                    let sent = kept.socket(name, Listening::Raw).and_then(|socket| socket.broadcast(&bytes));
                    warn_on(name, "ask for an address", sent);
                }
                Action::Unicast { from, to, bytes } => {
                    let sent = kept.socket(name, Listening::At(from)).and_then(|socket| socket.unicast(to, &bytes));
                    warn_on(name, "renew its lease", sent);
                }
                Action::Install(lease) => {
                    info!("{name}: leased {} for {} s", lease.address, lease.seconds_left(now));
                    install(&mut self.netlink, &mut self.resolv, name, kept.index, &lease, now);
                    bound.notify_all();
                }
                Action::Withdraw => {
                    warn!("{name}: its lease has ended");
                    clear(&mut self.netlink, name, kept.index, None);
                    warn_on(name, "write resolv.conf", self.resolv.lease(name, None));
                }
            }
        }
        if kept.client.listening() == Listening::Nowhere {
            kept.socket = None;
        }
    }
}

impl Kept {
    /// The socket that is needed now; opened where there is none, or another.
    fn socket(&mut self, name: &str, listening: Listening) -> io::Result<&Socket> {
        let socket = match self.socket.take().filter(|socket| socket.listening() == listening) {
            Some(socket) => socket,
            None => Arc::new(Socket::open(name, self.index, listening)?),
        };
        Ok(self.socket.insert(socket))
    }
}

/// Makes a link as a lease says, first what is new, then without what an older lease left.
fn install(netlink: &mut Netlink, resolv: &mut ResolvConf, name: &str, index: u32, lease: &Lease, now: Instant) {
    let lifetime = Lifetime::Seconds(lease.seconds_left(now));
    let net = IpNet::V4(lease.address);
    warn_on(name, "add its leased address", netlink.request(address::add(index, net, Origin::Dhcp, lifetime)));
    for (to, via) in &lease.routes {
        let route = leased_route(index, *to, via.map(IpAddr::V4));
        let reach = if via.is_none_or(|via| lease.address.contains(&via)) { Reach::Prefix } else { Reach::OnLink };
        match netlink.request(route::add(&route, Origin::Dhcp, reach)) {
            Err(error) if error.is(rustix::io::Errno::EXIST) => {}
            result => warn_on(name, "add a route of its lease", result),
        }
    }
    clear(netlink, name, index, Some(lease));
    let resolvers = Resolvers {
        nameservers: lease.nameservers.iter().copied().map(IpAddr::V4).collect(),
        search: lease.search.clone(),
    };
    warn_on(name, "write resolv.conf", resolv.lease(name, Some(resolvers)));
}

fn leased_route(link: u32, to: Ipv4Net, via: Option<IpAddr>) -> route::Route {
    route::Route { to: IpNet::V4(to), via, link, metric: METRIC, protocol: route::PROTOCOL_DHCP }
}

/// Removes what leases brought, but for what `keep` says.
fn clear(netlink: &mut Netlink, name: &str, index: u32, keep: Option<&Lease>) {
    let mut cleared = || -> Result<(), NetlinkError> {
        let wanted: Vec<_> = keep.iter().flat_map(|lease| &lease.routes).collect();
        for route in netlink.dump(&route::dump(), route::NEW, route::decode)?.into_iter().flatten() {
            let is_kept = wanted.iter().any(|(to, via)| route == leased_route(index, *to, via.map(IpAddr::V4)));
            if route.link == index && route.protocol == route::PROTOCOL_DHCP && !is_kept {
                netlink.request(route::remove(&route))?;
            }
        }
        for have in netlink.dump(&address::dump(), address::NEW, address::decode)?.into_iter().flatten() {
            let is_kept = keep.is_some_and(|lease| IpNet::V4(lease.address) == have.net);
            if have.link == index && have.origin == Origin::Dhcp && !is_kept {
                super::keep_secondaries(name);
                netlink.request(address::remove(index, have.net))?;
            }
        }
        Ok(())
    };
    warn_on(name, "remove what its old lease brought", cleared());
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
