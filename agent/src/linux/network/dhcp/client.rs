//! The DHCPv4 client of one link as a state machine (RFC 2131, section 4.4): events and time in, actions out.
//!
//! Driven by `network::keeper`. No sockets and no clock, so its tests jump in time.
//! Left out, knowingly: DHCPDECLINE after an ARP probe, DHCPRELEASE (a revert may want the lease back), DHCPINFORM.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use muster_protocol::{Mac, observed};

use super::message::{Question, Reply, ReplyKind, Request};

/// How often an offer is asked for, or an old lease, before the client looks for any server again.
const TRIES: u32 = 4;
/// Shortest lease that is taken seriously: below, renewals would be all that happens.
const SHORTEST: u32 = 20;
/// No renewal is repeated faster (RFC 2131, section 4.4.5).
const RENEW_PAUSE: Duration = Duration::from_secs(60);
/// How long a lease is good that was handed over without its times, unless a server says more.
const HANDED_OVER: Duration = Duration::from_secs(3600);

/// A lease with its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Address and prefix length.
    pub address: Ipv4Net,
    /// Who gave it.
    pub server: Option<Ipv4Addr>,
    /// Destinations with their gateways; no gateway where the destination is on the link.
    pub routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
    /// Resolvers.
    pub nameservers: Vec<Ipv4Addr>,
    /// Search domains.
    pub search: Vec<String>,
    /// NTP servers.
    pub ntp: Vec<Ipv4Addr>,
    /// When to ask its server for more (T1).
    pub renew_at: Instant,
    /// When to ask any server (T2).
    pub rebind_at: Instant,
    /// When it must not be used any more.
    pub ends_at: Instant,
}

impl Lease {
    /// A lease whose times nobody told, such as one that a boot loader hands over.
    pub fn handed_over(
        address: Ipv4Net,
        gateway: Option<Ipv4Addr>,
        dns: Option<Ipv4Addr>,
        server: Option<Ipv4Addr>,
        now: Instant,
    ) -> Self {
        let ends_at = now + HANDED_OVER;
        Self {
            address,
            server,
            routes: gateway.map(|via| (Ipv4Net::default(), Some(via))).into_iter().collect(),
            nameservers: dns.into_iter().collect(),
            search: Vec::new(),
            ntp: Vec::new(),
            renew_at: ends_at,
            rebind_at: ends_at,
            ends_at,
        }
    }

    /// From a reply to a request sent at `asked_at`: that is when it begins (RFC 2131, section 4.4.1).
    fn of_reply(reply: &Reply, asked_at: Instant) -> Option<Self> {
        let seconds = reply.lease_seconds?.max(SHORTEST);
        let whole = Duration::from_secs(seconds.into());
        let (mut t1, mut t2) = (whole / 2, whole * 7 / 8);
        let given = |seconds: Option<u32>| seconds.map(|s| Duration::from_secs(s.into()));
        if let Some(given) = given(reply.t2).filter(|t2| *t2 < whole) {
            t2 = given;
            t1 = t1.min(t2);
        }
        if let Some(given) = given(reply.t1).filter(|t1| *t1 <= t2) {
            t1 = given;
        }
        // A server that says 0 would have us renew without a pause.
        t1 = t1.max(Duration::from_secs(1));
        t2 = t2.max(t1);
        Some(Self {
            address: reply.address?,
            server: reply.server,
            routes: reply.routes.clone(),
            nameservers: reply.nameservers.clone(),
            search: reply.domain.clone().into_iter().collect(),
            ntp: reply.ntp.clone(),
            renew_at: asked_at + t1,
            rebind_at: asked_at + t2,
            ends_at: asked_at + whole,
        })
    }

    /// Seconds that are left, at least 1.
    pub fn seconds_left(&self, now: Instant) -> u32 {
        let left = self.ends_at.saturating_duration_since(now).as_secs().max(1);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// The lease as it is reported.
    pub fn observed(&self) -> observed::Lease {
        observed::Lease {
            address: IpNet::V4(self.address),
            server: self.server.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            nameservers: self.nameservers.iter().copied().map(IpAddr::V4).collect(),
            search: self.search.clone(),
            ntp: self.ntp.iter().copied().map(IpAddr::V4).collect(),
        }
    }
}

/// What the client wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this to everyone on the link.
    Broadcast(Vec<u8>),
    /// Send this from the leased address to a server, as routing has it.
    Unicast {
        /// The leased address.
        from: Ipv4Addr,
        /// The server.
        to: Ipv4Addr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Make the link as the lease says; of an older lease, leave nothing.
    Install(Lease),
    /// Leave nothing of the lease that was installed.
    Withdraw,
}

/// Where answers will come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// None are awaited.
    Nowhere,
    /// As raw packets: the link may have no address yet.
    Raw,
    /// At the leased address.
    At(Ipv4Addr),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Selecting,
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    Rebooting,
    Bound,
    Renewing,
    Rebinding,
}

/// The client of one link.
#[derive(Debug)]
pub struct Client {
    mac: Mac,
    random: u64,
    phase: Phase,
    /// What is installed; kept while another is looked for.
    held: Option<Lease>,
    transaction: u32,
    /// When this exchange began.
    began_at: Instant,
    /// When the last message was sent.
    asked_at: Instant,
    tries: u32,
    next: Instant,
}

impl Client {
    /// A client that has nothing. `seed` spreads the retries of machines that start together.
    pub fn new(mac: Mac, seed: u64, now: Instant) -> Self {
        let mut client = Self {
            mac,
            random: seed | 1,
            phase: Phase::Selecting,
            held: None,
            transaction: 0,
            began_at: now,
            asked_at: now,
            tries: 0,
            next: now,
        };
        client.enter(Phase::Selecting, now);
        client
    }

    /// A client that has a lease already and asks whether it still holds. The caller installs it.
    pub fn with_lease(mac: Mac, seed: u64, lease: Lease, now: Instant) -> Self {
        let mut client = Self::new(mac, seed, now);
        client.held = Some(lease);
        client.enter(Phase::Rebooting, now);
        client
    }

    /// What is installed.
    pub fn lease(&self) -> Option<&Lease> {
        self.held.as_ref()
    }

    /// Whether it asks if the lease still holds, and nobody has answered yet.
    pub fn is_in_doubt(&self) -> bool {
        self.phase == Phase::Rebooting
    }

    /// When to call [`Self::poll`] next.
    pub fn deadline(&self) -> Instant {
        self.held.as_ref().map_or(self.next, |lease| self.next.min(lease.ends_at))
    }

    /// Where answers will come in.
    pub fn listening(&self) -> Listening {
        match (&self.phase, &self.held) {
            (Phase::Bound, _) => Listening::Nowhere,
            (Phase::Renewing, Some(lease)) => Listening::At(lease.address.addr()),
            _ => Listening::Raw,
        }
    }

    /// The cable was plugged in again, perhaps elsewhere: does the lease still hold?
    pub fn carrier_returned(&mut self, now: Instant) {
        let phase = if self.held.is_some() { Phase::Rebooting } else { Phase::Selecting };
        self.enter(phase, now);
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.held.as_ref().is_some_and(|lease| now >= lease.ends_at) {
            self.held = None;
            self.enter(Phase::Selecting, now);
            actions.push(Action::Withdraw);
        }
        if now < self.next {
            return actions;
        }
        // Phases that have run their course; each leads to one that sends.
        match (&self.phase, &self.held) {
            (Phase::Requesting { .. } | Phase::Rebooting, _) if self.tries >= TRIES => {
                self.enter(Phase::Selecting, now);
            }
            (Phase::Bound, Some(lease)) => {
                let anyone = lease.server.is_none() || now >= lease.rebind_at;
                self.enter(if anyone { Phase::Rebinding } else { Phase::Renewing }, now);
            }
            (Phase::Renewing, Some(lease)) if now >= lease.rebind_at => self.enter(Phase::Rebinding, now),
            _ => {}
        }
        actions.push(self.send(now));
        actions
    }

    /// A message came in.
    pub fn handle(&mut self, reply: &Reply, now: Instant) -> Vec<Action> {
        if reply.transaction != self.transaction || reply.mac != self.mac {
            return Vec::new();
        }
        match (&self.phase, reply.kind) {
            (Phase::Selecting, ReplyKind::Offer) => {
                if let (Some(address), Some(server), Some(_)) = (reply.address, reply.server, reply.lease_seconds) {
                    // The same transaction goes on (RFC 2131, section 4.4.1).
                    self.phase = Phase::Requesting { address: address.addr(), server };
                    self.tries = 0;
                    return vec![self.send(now)];
                }
                Vec::new()
            }
            (Phase::Requesting { server, .. }, _) if reply.server != Some(*server) => Vec::new(),
            (Phase::Selecting | Phase::Bound, _) | (_, ReplyKind::Offer) => Vec::new(),
            (_, ReplyKind::Ack) => self.take(reply, now),
            (Phase::Requesting { .. }, ReplyKind::Nak) => {
                self.enter(Phase::Selecting, now);
                // A server that offers and then refuses would make us spin.
                self.next = now + self.around(Duration::from_secs(5));
                Vec::new()
            }
            (_, ReplyKind::Nak) => {
                self.enter(Phase::Selecting, now);
                self.held.take().map(|_| Action::Withdraw).into_iter().collect()
            }
        }
    }

    fn take(&mut self, reply: &Reply, now: Instant) -> Vec<Action> {
        let Some(lease) = Lease::of_reply(reply, self.asked_at) else { return Vec::new() };
        self.phase = Phase::Bound;
        self.next = lease.renew_at.max(now);
        self.held = Some(lease.clone());
        vec![Action::Install(lease)]
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.transaction = self.draw() as u32;
        self.began_at = now;
        self.tries = 0;
        self.next = now;
    }

    /// The message of this phase. Sets when to repeat it.
    fn send(&mut self, now: Instant) -> Action {
        self.asked_at = now;
        self.tries += 1;
        let held = self.held.as_ref().map(|lease| lease.address.addr());
        let question = match (&self.phase, held) {
            (Phase::Requesting { address, server }, _) => Question::Take { address: *address, server: *server },
            (Phase::Rebooting, Some(address)) => Question::Confirm(address),
            (Phase::Renewing | Phase::Rebinding | Phase::Bound, Some(address)) => Question::Extend(address),
            (_, preferred) => Question::Discover(preferred),
        };
        let until = |end: Instant| now + (end.saturating_duration_since(now) / 2).max(RENEW_PAUSE);
        self.next = match (&self.phase, &self.held) {
            (Phase::Renewing, Some(lease)) => until(lease.rebind_at).min(lease.rebind_at),
            (Phase::Rebinding, Some(lease)) => until(lease.ends_at),
            _ => {
                // 2, 4, 8, … 64 seconds, each a bit more or less: RFC 2131 begins with 4, for slower networks.
                let pause = Duration::from_secs(1 << self.tries.min(6));
                now + self.around(pause)
            }
        };
        let seconds = now.saturating_duration_since(self.began_at).as_secs();
        let seconds = u16::try_from(seconds).unwrap_or(u16::MAX);
        let bytes = Request { question, transaction: self.transaction, mac: self.mac, seconds }.encode();
        match (&self.phase, held, self.held.as_ref().and_then(|lease| lease.server)) {
            (Phase::Renewing, Some(from), Some(to)) => Action::Unicast { from, to, bytes },
            _ => Action::Broadcast(bytes),
        }
    }

    /// `pause`, up to a quarter shorter or longer.
    fn around(&mut self, pause: Duration) -> Duration {
        let milliseconds = pause.as_millis() as u64;
        Duration::from_millis(milliseconds * 3 / 4 + self.draw() % (milliseconds / 2).max(1))
    }

    /// xorshift64 (Marsaglia 2003): nothing here is secret.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests;
