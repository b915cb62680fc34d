//! The DHCPv6 client of one link as a state machine (RFC 8415, section 18.2): events and time in, actions out.
//!
//! Driven by `network::keeper`. No sockets and no clock, so its tests jump in time.
//! Keeps one address. Where servers have none but know resolvers and the like, it keeps these.
//! Left out, knowingly: DECLINE, RELEASE (a revert may want the lease back), RECONFIGURE, prefixes.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv6Net};
use muster_protocol::observed;

use super::message::{Given, Identity, Question, Reply, ReplyKind, Request, Status};

/// How often servers are asked for an address before they are asked for the rest alone, by turns.
const TRIES: u32 = 4;
/// How often an advertised address is asked for (REQ_MAX_RC).
const TAKE_TRIES: u32 = 10;
/// How long a server may take to say that an address does not belong here (CNF_MAX_RD).
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
/// Between two questions that nobody answers, at most, unless a server says otherwise: RFC 8415's hour is a long time for
/// a machine that nobody can reach, so it is RFC 3315's.
const LONGEST: Duration = Duration::from_secs(120);
/// What a server may make of it.
const LONGEST_RANGE: std::ops::RangeInclusive<u32> = 60..=86_400;
/// Information is asked for anew after so many seconds where nobody says (IRT_DEFAULT), and not sooner than
/// (IRT_MINIMUM).
const REFRESH: u32 = 86_400;
const REFRESH_SHORTEST: u32 = 600;
/// No renewal is due sooner: a server that says 0 would have us renew without a pause.
const SOONEST: Duration = Duration::from_secs(1);

/// A lease with its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address; `None` where there are only options.
    pub address: Option<Ipv6Addr>,
    /// The DUID of who gave it.
    pub server: Vec<u8>,
    /// Where its answer came from.
    pub from: Ipv6Addr,
    /// Resolvers.
    pub nameservers: Vec<Ipv6Addr>,
    /// Search domains.
    pub search: Vec<String>,
    /// NTP servers.
    pub ntp: Vec<Ipv6Addr>,
    /// When to ask its server for more (T1), or anybody for newer information.
    pub renew_at: Instant,
    /// When to ask any server (T2).
    pub rebind_at: Instant,
    /// When nothing new should use it any more.
    pub preferred_until: Instant,
    /// When it must not be used any more.
    pub ends_at: Instant,
}

impl Lease {
    /// Times count from when it was asked for: a little less than the server means, and never more.
    fn of_reply(reply: &Reply, from: Ipv6Addr, given: Option<(Given, u32, u32)>, asked_at: Instant) -> Option<Self> {
        let after = |seconds: u32| asked_at + Duration::from_secs(seconds.into());
        let (address, renew, rebind, preferred, valid) = match given {
            Some((Given { address, preferred, valid }, t1, t2)) => {
                let (t1, t2) = times(t1, t2, if preferred == 0 { valid } else { preferred })?;
                (Some(address), t1, t2.min(valid), preferred, valid)
            }
            None => {
                let refresh = reply.refresh.unwrap_or(REFRESH).clamp(REFRESH_SHORTEST, REFRESH);
                (None, refresh, refresh, u32::MAX, u32::MAX)
            }
        };
        Some(Self {
            address,
            server: reply.server.clone(),
            from,
            nameservers: reply.nameservers.clone(),
            search: reply.search.clone(),
            ntp: reply.ntp.clone(),
            renew_at: after(renew).max(asked_at + SOONEST),
            rebind_at: after(rebind).max(asked_at + SOONEST),
            preferred_until: after(preferred),
            ends_at: after(valid),
        })
    }

    /// The address as it is installed: the prefix is the routers' to tell.
    pub fn net(&self) -> Option<IpNet> {
        self.address.map(|address| IpNet::V6(Ipv6Net::from(address)))
    }

    /// The lease as it is reported.
    pub fn observed(&self) -> observed::Lease {
        observed::Lease {
            address: self.net().unwrap_or(IpNet::V6(Ipv6Net::from(Ipv6Addr::UNSPECIFIED))),
            server: self.from.into(),
            nameservers: self.nameservers.iter().copied().map(IpAddr::V6).collect(),
            search: self.search.clone(),
            ntp: self.ntp.iter().copied().map(IpAddr::V6).collect(),
        }
    }
}

/// T1 and T2 as they are meant (RFC 8415, section 21.4); `None` where they contradict each other.
fn times(t1: u32, t2: u32, preferred: u32) -> Option<(u32, u32)> {
    // For ever stays for ever.
    let share =
        |tenths: u64| if preferred == u32::MAX { u32::MAX } else { (u64::from(preferred) * tenths / 10) as u32 };
    match (t1, t2) {
        (t1, t2) if t2 > 0 && t1 > t2 => None,
        (0, 0) => Some((share(5), share(8))),
        (0, t2) => Some((share(5).min(t2), t2)),
        (t1, 0) => Some((t1, share(8).max(t1))),
        both => Some(both),
    }
}

/// What the client wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this to the servers on the link.
    Send(Vec<u8>),
    /// Make the link as the lease says; of an older lease, leave nothing.
    Install(Lease),
    /// Leave nothing of the lease that was installed.
    Withdraw,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Soliciting,
    Requesting(Offer),
    Informing,
    Confirming,
    Bound,
    Renewing,
    Rebinding,
}

/// What a server would give.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offer {
    server: Vec<u8>,
    address: Ipv6Addr,
    preference: u8,
}

/// What servers said to SOLICIT so far.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// They have no addresses.
    NoAddress,
    Offer(Offer),
}

/// The client of one link.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    random: u64,
    phase: Phase,
    heard: Heard,
    /// What is installed; kept while another is looked for.
    held: Option<Lease>,
    transaction: u32,
    /// When this exchange began.
    began_at: Instant,
    /// When the last message was sent.
    asked_at: Instant,
    tries: u32,
    /// Messages since anybody answered, while there is no address.
    silence: u32,
    /// The pause before the last message (RT).
    pause: Duration,
    longest: Duration,
    next: Instant,
}

impl Client {
    /// A client that has nothing. `seed` spreads the retries of machines that start together.
    pub fn new(identity: Identity, seed: u64, now: Instant) -> Self {
        let mut client = Self {
            identity,
            random: seed | 1,
            phase: Phase::Soliciting,
            heard: Heard::Nothing,
            held: None,
            transaction: 0,
            began_at: now,
            asked_at: now,
            tries: 0,
            silence: 0,
            pause: Duration::ZERO,
            longest: LONGEST,
            next: now,
        };
        client.search(now);
        client
    }

    /// A client that has a lease already and asks whether it belongs here. The caller installs it.
    pub fn with_lease(identity: Identity, seed: u64, lease: Lease, now: Instant) -> Self {
        let mut client = Self::new(identity, seed, now);
        client.held = Some(lease);
        client.carrier_returned(now);
        client
    }

    /// What is installed.
    pub fn lease(&self) -> Option<&Lease> {
        self.held.as_ref()
    }

    /// Whether it asks if the lease still holds, and nobody has answered yet.
    pub fn is_in_doubt(&self) -> bool {
        self.phase == Phase::Confirming
    }

    /// When to call [`Self::poll`] next.
    pub fn deadline(&self) -> Instant {
        self.held.as_ref().map_or(self.next, |lease| self.next.min(lease.ends_at))
    }

    /// Whether answers may come in.
    pub fn awaits_answer(&self) -> bool {
        self.phase != Phase::Bound
    }

    /// The cable was plugged in again, perhaps elsewhere: does the address still belong here?
    pub fn carrier_returned(&mut self, now: Instant) {
        match self.address() {
            Some(_) => self.enter(Phase::Confirming, now),
            None => self.search(now),
        }
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.held.as_ref().is_some_and(|lease| now >= lease.ends_at) {
            actions.extend(self.lose(now));
        }
        if now < self.next {
            return actions;
        }
        // Phases that have run their course; each leads to one that sends, or to waiting.
        match (&self.phase, &self.held) {
            (Phase::Soliciting | Phase::Informing, _) => {
                if let Heard::Offer(offer) = &self.heard {
                    let offer = offer.clone();
                    self.enter(Phase::Requesting(offer), now);
                } else {
                    self.turn(now);
                }
            }
            (Phase::Requesting(_), _) if self.tries >= TAKE_TRIES => self.search(now),
            // Nobody says no: RFC 8415 has it used on.
            (Phase::Confirming, Some(lease)) if self.tries > 0 && now >= self.began_at + CONFIRM_WITHIN => {
                let renew_at = lease.renew_at;
                self.rest(renew_at, now);
                return actions;
            }
            (Phase::Bound, Some(Lease { address: Some(_), rebind_at, .. })) => {
                let anyone = now >= *rebind_at;
                self.enter(if anyone { Phase::Rebinding } else { Phase::Renewing }, now);
            }
            (Phase::Renewing, Some(lease)) if now >= lease.rebind_at => self.enter(Phase::Rebinding, now),
            // Information is old; perhaps there are addresses by now.
            (Phase::Bound, _) => self.search(now),
            _ => {}
        }
        actions.push(self.send(now));
        actions
    }

    /// A message came in.
    pub fn handle(&mut self, reply: &Reply, from: Ipv6Addr, now: Instant) -> Vec<Action> {
        if reply.transaction != self.transaction || reply.client != self.identity.duid() {
            return Vec::new();
        }
        let ours = reply.associations.iter().find(|association| association.number == self.identity.association);
        let given = ours.and_then(|ours| Some((ours.given?, ours.t1, ours.t2)));
        let status = match (reply.status, ours) {
            (Status::Success, Some(ours)) => ours.status,
            (status, _) => status,
        };
        if let Some(longest) = reply.longest.filter(|seconds| LONGEST_RANGE.contains(seconds)) {
            self.longest = Duration::from_secs(longest.into());
        }
        match (&self.phase, reply.kind) {
            (Phase::Soliciting, ReplyKind::Advertise) => self.weigh(reply, given.map(|(given, ..)| given), now),
            (Phase::Soliciting, ReplyKind::Reply) if !reply.rapid => Vec::new(),
            // Some say it so (dnsmasq) and not by an advertisement.
            (Phase::Soliciting, ReplyKind::Reply) if given.is_none() => self.weigh(reply, None, now),
            (Phase::Requesting(offer), _) if offer.server != reply.server => Vec::new(),
            (Phase::Bound, _) | (_, ReplyKind::Advertise) => Vec::new(),
            (Phase::Informing, ReplyKind::Reply) => match status {
                Status::Success => self.take(reply, from, None, now),
                _ => Vec::new(),
            },
            (Phase::Confirming, ReplyKind::Reply) => match (status, &self.held) {
                (Status::NotOnLink, _) => self.lose(now),
                (_, Some(lease)) => {
                    let renew_at = lease.renew_at;
                    self.rest(renew_at, now);
                    Vec::new()
                }
                (_, None) => Vec::new(),
            },
            (Phase::Soliciting, ReplyKind::Reply) => self.take(reply, from, given, now),
            (Phase::Requesting(_), ReplyKind::Reply) => {
                if given.is_some() && status == Status::Success {
                    return self.take(reply, from, given, now);
                }
                // A server that offers and then refuses would make us spin.
                self.search(now);
                self.next = now + self.around(Duration::from_secs(5));
                Vec::new()
            }
            (Phase::Renewing | Phase::Rebinding, ReplyKind::Reply) => self.extended(reply, from, status, given, now),
        }
    }

    /// An offer, or that there is none: the best of the first second is taken, and afterwards the first.
    fn weigh(&mut self, reply: &Reply, given: Option<Given>, now: Instant) -> Vec<Action> {
        let at_once = self.silence > 1 || given.is_some() && reply.preference == 255;
        match (given, &self.heard) {
            (Some(_), Heard::Offer(best)) if best.preference >= reply.preference => return Vec::new(),
            (Some(Given { address, .. }), _) => {
                let offer = Offer { server: reply.server.clone(), address, preference: reply.preference };
                self.heard = Heard::Offer(offer);
            }
            // An address that is held is better than none.
            (None, Heard::Nothing) if self.address().is_none() => {
                self.heard = Heard::NoAddress;
                self.silence = 0;
            }
            (None, _) => return Vec::new(),
        }
        if at_once {
            self.next = now;
            return self.poll(now);
        }
        Vec::new()
    }

    /// The answer to RENEW and REBIND (RFC 8415, section 18.2.10.1).
    fn extended(
        &mut self,
        reply: &Reply,
        from: Ipv6Addr,
        status: Status,
        given: Option<(Given, u32, u32)>,
        now: Instant,
    ) -> Vec<Action> {
        let is_its = |lease: &Lease| self.phase == Phase::Rebinding || lease.server == reply.server;
        let Some(held) = self.held.as_ref().filter(|lease| is_its(lease)) else { return Vec::new() };
        let Some(address) = held.address else { return Vec::new() };
        match status {
            Status::NoBinding => {
                let offer = Offer { server: reply.server.clone(), address, preference: 0 };
                self.enter(Phase::Requesting(offer), now);
                vec![self.send(now)]
            }
            Status::NotOnLink => self.lose(now),
            Status::Success if given.is_some() => self.take(reply, from, given, now),
            // The server names it and gives it no more time.
            Status::Success if reply.associations.iter().any(|it| it.number == self.identity.association) => {
                self.lose(now)
            }
            _ => Vec::new(),
        }
    }

    fn take(&mut self, reply: &Reply, from: Ipv6Addr, given: Option<(Given, u32, u32)>, now: Instant) -> Vec<Action> {
        let Some(lease) = Lease::of_reply(reply, from, given, self.asked_at) else { return Vec::new() };
        self.rest(lease.renew_at, now);
        self.silence = 0;
        self.held = Some(lease.clone());
        vec![Action::Install(lease)]
    }

    /// What was held is over; looks for another at once.
    fn lose(&mut self, now: Instant) -> Vec<Action> {
        self.search(now);
        self.held.take().map(|_| Action::Withdraw).into_iter().collect()
    }

    fn address(&self) -> Option<Ipv6Addr> {
        self.held.as_ref().and_then(|lease| lease.address)
    }

    fn search(&mut self, now: Instant) {
        self.silence = 0;
        self.heard = Heard::Nothing;
        self.enter(Phase::Soliciting, now);
    }

    /// Which question is next while there is no address: for an address, or for the rest.
    fn turn(&mut self, now: Instant) {
        let phase = match self.silence {
            0..TRIES if self.heard == Heard::NoAddress => Phase::Informing,
            0..TRIES => Phase::Soliciting,
            // An address is not looked for instead of one that is held, nor is what came with it.
            silence if silence % 2 == 0 && self.address().is_none() => Phase::Informing,
            _ => Phase::Soliciting,
        };
        if phase != self.phase {
            self.enter(phase, now);
            if self.silence >= TRIES {
                self.heard = Heard::Nothing;
            }
        }
    }

    fn rest(&mut self, until: Instant, now: Instant) {
        self.phase = Phase::Bound;
        self.next = until.max(now);
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.transaction = self.draw() as u32 & 0x00ff_ffff;
        self.began_at = now;
        self.tries = 0;
        self.pause = Duration::ZERO;
        self.next = now;
    }

    /// The message of this phase. Sets when to repeat it.
    fn send(&mut self, now: Instant) -> Action {
        self.asked_at = now;
        self.tries += 1;
        let question = match (&self.phase, self.address(), &self.held) {
            (Phase::Requesting(Offer { server, address, .. }), ..) => {
                Question::Take { server: server.clone(), address: *address }
            }
            (Phase::Confirming, Some(address), _) => Question::Confirm(address),
            (Phase::Renewing, Some(address), Some(lease)) => Question::Renew { server: lease.server.clone(), address },
            (Phase::Rebinding, Some(address), _) => Question::Rebind(address),
            (Phase::Informing, ..) => Question::Inform,
            (_, preferred, _) => Question::Solicit(preferred),
        };
        let (first, longest) = match self.phase {
            Phase::Soliciting | Phase::Informing => (1, self.longest),
            Phase::Requesting(_) => (1, Duration::from_secs(30)),
            Phase::Confirming => (1, Duration::from_secs(4)),
            Phase::Renewing | Phase::Rebinding | Phase::Bound => (10, Duration::from_secs(600)),
        };
        if matches!(self.phase, Phase::Soliciting | Phase::Informing) {
            // Goes on growing when both take turns.
            self.pause = Duration::from_secs(1 << self.silence.min(20)) / 2;
            self.silence += 1;
        }
        // RFC 8415, section 15: twice the pause before, a bit more or less.
        let pause = if self.pause.is_zero() { Duration::from_secs(first) } else { self.pause * 2 };
        self.pause = pause.min(longest);
        self.next = now + self.around(self.pause);
        match (&self.phase, &self.held) {
            (Phase::Renewing, Some(lease)) => self.next = self.next.min(lease.rebind_at),
            (Phase::Confirming, _) => self.next = self.next.min(self.began_at + CONFIRM_WITHIN),
            _ => {}
        }
        let hundredths = now.saturating_duration_since(self.began_at).as_millis() / 10;
        let elapsed = u16::try_from(hundredths).unwrap_or(u16::MAX);
        let request = Request { question, transaction: self.transaction, identity: self.identity, elapsed };
        Action::Send(request.encode())
    }

    /// `pause`, up to a tenth longer, and for pauses that are not the first up to a tenth shorter.
    fn around(&mut self, pause: Duration) -> Duration {
        let milliseconds = pause.as_millis() as u64;
        let least = if self.tries > 1 { milliseconds * 9 / 10 } else { milliseconds };
        Duration::from_millis(least + self.draw() % (milliseconds * 11 / 10 - least).max(1))
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
