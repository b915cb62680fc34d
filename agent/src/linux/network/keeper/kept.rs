//! One client of either family with its socket: what both do alike.
//!
//! Used by the keeper beside this file. Which messages are sent when is decided in `dhcp` and `dhcp6`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};
use muster_protocol::Mac;
use muster_protocol::desired::{LeaseUse, Take};
use muster_protocol::observed;

use super::{LeaseOf, seed};
use crate::linux::network::dhcp::{self, Listening};
use crate::linux::network::dhcp6;
use crate::linux::network::netlink::address::Lifetime;
use crate::linux::network::netlink::link::{Kind, Link};
use crate::linux::network::resolv::Resolvers;
use crate::plan::network::Family;

/// A client that is driven.
#[derive(Debug)]
pub struct Kept {
    /// Whose it is.
    pub of: LeaseOf,
    /// Interface index.
    pub index: u32,
    /// By which servers know the client.
    pub mac: Mac,
    /// When the link was last looked at: whether there was a carrier, and how often it had come.
    pub carrier: (bool, u32),
    /// What of its lease counts.
    pub uses: LeaseUse,
    /// The client.
    pub client: Client,
    /// Open while answers may come in.
    pub socket: Option<Arc<Socket>>,
}

/// A client of either family.
#[derive(Debug)]
pub enum Client {
    /// DHCPv4.
    V4(dhcp::Client),
    /// DHCPv6.
    V6(dhcp6::Client),
}

/// A lease of either family.
#[derive(Debug, Clone)]
pub enum Lease {
    /// DHCPv4's.
    V4(dhcp::Lease),
    /// DHCPv6's.
    V6(dhcp6::Lease),
}

/// What a client wants done.
#[derive(Debug)]
pub enum Action {
    /// Send this.
    Send(Message),
    /// Make the link as the lease says; of an older lease, leave nothing.
    Install(Lease),
    /// Leave nothing of the lease that was installed.
    Withdraw,
}

/// What is sent, and where to.
#[derive(Debug)]
pub enum Message {
    /// DHCPv4, to everyone on the link.
    Broadcast(Vec<u8>),
    /// DHCPv4, from the leased address to its server.
    Unicast { from: Ipv4Addr, to: Ipv4Addr, bytes: Vec<u8> },
    /// DHCPv6, to the servers on the link.
    Multicast(Vec<u8>),
}

/// What came in.
#[derive(Debug)]
pub enum Heard {
    /// DHCPv4.
    V4(dhcp::message::Reply),
    /// DHCPv6, and who sent it.
    V6(dhcp6::message::Reply, Ipv6Addr),
}

/// A client's socket.
#[derive(Debug)]
pub enum Socket {
    /// DHCPv4's.
    V4(dhcp::Socket),
    /// DHCPv6's.
    V6(dhcp6::Socket),
}

impl Kept {
    /// A client for a link, with a lease where it has one already. Sends nothing yet.
    pub fn new(link: &Link, family: Family, uses: LeaseUse, lease: Option<Lease>, now: Instant) -> Self {
        let tag = if let Kind::Vlan { tag, .. } = &link.kind { tag.get() } else { 0 };
        let identity = dhcp6::Identity::new(link.mac, tag);
        let client = match (family, lease) {
            (Family::V4, Some(Lease::V4(lease))) => Client::V4(dhcp::Client::with_lease(link.mac, seed(), lease, now)),
            (Family::V4, _) => Client::V4(dhcp::Client::new(link.mac, seed(), now)),
            (Family::V6, Some(Lease::V6(lease))) => Client::V6(dhcp6::Client::with_lease(identity, seed(), lease, now)),
            (Family::V6, _) => Client::V6(dhcp6::Client::new(identity, seed(), now)),
        };
        let carrier = (link.carrier, link.carrier_ups);
        let of = (link.name.clone(), family);
        Self { of, index: link.index, mac: link.mac, carrier, uses, client, socket: None }
    }

    /// Whether it is this link's, of this family.
    pub fn is_of(&self, link: &str, family: Family) -> bool {
        (self.of.0.as_str(), self.of.1) == (link, family)
    }

    /// What it does, as it is reported.
    pub fn observed(&self) -> observed::Dhcp {
        match self.client.lease() {
            None => observed::Dhcp::Searching(self.uses),
            Some(lease) => observed::Dhcp::Bound(self.uses, Box::new(lease.observed())),
        }
    }

    /// Sends a message; opens the socket that it needs where there is none, or another.
    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        let (name, index) = (&self.of.0, self.index);
        let needed = match message {
            Message::Broadcast(_) => Some(Listening::Raw),
            Message::Unicast { from, .. } => Some(Listening::At(*from)),
            Message::Multicast(_) => None,
        };
        let is_it = |socket: &Arc<Socket>| match (&**socket, needed) {
            (Socket::V4(socket), Some(listening)) => socket.listening() == listening,
            (Socket::V6(_), None) => true,
            _ => false,
        };
        let socket = match self.socket.take().filter(is_it) {
            Some(socket) => socket,
            None => Arc::new(match needed {
                Some(listening) => Socket::V4(dhcp::Socket::open(name, index, listening)?),
                None => Socket::V6(dhcp6::Socket::open(name, index)?),
            }),
        };
        match (&**self.socket.insert(socket), message) {
            (Socket::V4(socket), Message::Broadcast(bytes)) => socket.broadcast(bytes),
            (Socket::V4(socket), Message::Unicast { to, bytes, .. }) => socket.unicast(*to, bytes),
            (Socket::V6(socket), Message::Multicast(bytes)) => match socket.send(bytes) {
                // The link-local address is still under test, or there is no carrier: nothing to tell anybody.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
                sent => sent,
            },
            (Socket::V4(_), Message::Multicast(_)) | (Socket::V6(_), _) => Ok(()),
        }
    }
}

impl Client {
    /// What is installed.
    pub fn lease(&self) -> Option<Lease> {
        match self {
            Self::V4(client) => client.lease().cloned().map(Lease::V4),
            Self::V6(client) => client.lease().cloned().map(Lease::V6),
        }
    }

    /// Whether it asks if the lease that is installed still holds, and nobody has answered yet.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            Self::V4(client) => client.is_in_doubt(),
            Self::V6(client) => client.is_in_doubt(),
        }
    }

    /// When to call [`Self::poll`] next.
    pub fn deadline(&self) -> Instant {
        match self {
            Self::V4(client) => client.deadline(),
            Self::V6(client) => client.deadline(),
        }
    }

    /// Whether answers may come in.
    pub fn awaits_answer(&self) -> bool {
        match self {
            Self::V4(client) => client.listening() != Listening::Nowhere,
            Self::V6(client) => client.awaits_answer(),
        }
    }

    /// The cable was plugged in again.
    pub fn carrier_returned(&mut self, now: Instant) {
        match self {
            Self::V4(client) => client.carrier_returned(now),
            Self::V6(client) => client.carrier_returned(now),
        }
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Instant) -> Vec<Action> {
        match self {
            Self::V4(client) => client.poll(now).into_iter().map(Action::from).collect(),
            Self::V6(client) => client.poll(now).into_iter().map(Action::from).collect(),
        }
    }

    /// Something came in.
    pub fn handle(&mut self, heard: &Heard, now: Instant) -> Vec<Action> {
        match (self, heard) {
            (Self::V4(client), Heard::V4(reply)) => client.handle(reply, now).into_iter().map(Action::from).collect(),
            (Self::V6(client), Heard::V6(reply, from)) => {
                client.handle(reply, *from, now).into_iter().map(Action::from).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl From<dhcp::Action> for Action {
    fn from(action: dhcp::Action) -> Self {
        match action {
            dhcp::Action::Broadcast(bytes) => Self::Send(Message::Broadcast(bytes)),
            dhcp::Action::Unicast { from, to, bytes } => Self::Send(Message::Unicast { from, to, bytes }),
            dhcp::Action::Install(lease) => Self::Install(Lease::V4(lease)),
            dhcp::Action::Withdraw => Self::Withdraw,
        }
    }
}

impl From<dhcp6::Action> for Action {
    fn from(action: dhcp6::Action) -> Self {
        match action {
            dhcp6::Action::Send(bytes) => Self::Send(Message::Multicast(bytes)),
            dhcp6::Action::Install(lease) => Self::Install(Lease::V6(lease)),
            dhcp6::Action::Withdraw => Self::Withdraw,
        }
    }
}

impl Lease {
    /// The address as it is installed; `None` where there is none.
    pub fn net(&self) -> Option<IpNet> {
        match self {
            Self::V4(lease) => Some(IpNet::V4(lease.address)),
            Self::V6(lease) => lease.net(),
        }
    }

    /// Destinations with their gateways, as far as they count; routers tell IPv6's.
    pub fn routes(&self, uses: LeaseUse) -> &[(Ipv4Net, Option<Ipv4Addr>)] {
        match self {
            Self::V4(lease) if uses.routes == Take::Yes => &lease.routes,
            Self::V4(_) | Self::V6(_) => &[],
        }
    }

    /// Resolvers and search domains, as far as they count.
    pub fn resolvers(&self, uses: LeaseUse) -> Option<Resolvers> {
        let observed::Lease { nameservers, search, .. } = self.observed();
        (uses.dns == Take::Yes).then_some(Resolvers { nameservers, search })
    }

    /// NTP servers, as far as they count.
    pub fn ntp(&self, uses: LeaseUse) -> Vec<IpAddr> {
        if uses.ntp == Take::Yes { self.observed().ntp } else { Vec::new() }
    }

    /// When it is over.
    pub fn ends_at(&self) -> Instant {
        match self {
            Self::V4(lease) => lease.ends_at,
            Self::V6(lease) => lease.ends_at,
        }
    }

    /// Seconds that are left, at least 1.
    pub fn seconds_left(&self, now: Instant) -> u32 {
        seconds(self.ends_at(), now).max(1)
    }

    /// How long the kernel is to keep the address.
    pub fn lifetime(&self, now: Instant) -> Lifetime {
        match self {
            Self::V4(_) => Lifetime::Seconds(self.seconds_left(now)),
            Self::V6(lease) => {
                Lifetime::Leased { preferred: seconds(lease.preferred_until, now), valid: self.seconds_left(now) }
            }
        }
    }

    /// The lease as it is reported.
    pub fn observed(&self) -> observed::Lease {
        match self {
            Self::V4(lease) => lease.observed(),
            Self::V6(lease) => lease.observed(),
        }
    }
}

fn seconds(until: Instant, now: Instant) -> u32 {
    u32::try_from(until.saturating_duration_since(now).as_secs()).unwrap_or(u32::MAX)
}

impl Socket {
    /// The next answer that waits; `None` once there is nothing more.
    pub fn receive(&self) -> Option<Heard> {
        match self {
            Self::V4(socket) => socket.receive().map(Heard::V4),
            Self::V6(socket) => socket.receive().map(|(reply, from)| Heard::V6(reply, from)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::V4(socket) => socket.as_fd(),
            Self::V6(socket) => socket.as_fd(),
        }
    }
}
