//! Conversations with agents over QUIC: enrollment, sessions, and who is online.
//!
//! `server` opens the port with [`Sessions::listen`]; the API asks through [`crate::api::Live`], and the converge loop
//! tells machines what to do through [`converge::Agents`].
//! Nothing durable is kept here: what must survive goes through [`Fleet::change`].

mod endpoint;
mod enroll;
mod files;
mod follow;
pub mod limit;
pub mod places;
mod proof;
mod registry;
mod reunion;
mod session;
mod stream;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use muster_protocol::to_agent::{Answer, Call};
use muster_protocol::{Digest, MachineId};
use quinn::{Connection, Endpoint, VarInt};
use rustls::server::ResolvesServerCert;
use tokio::sync::{Semaphore, watch};

pub use endpoint::ListenError;
use places::Places;

use crate::api::{Alive, CallError, Live, Presence};
use crate::config::Agents;
use crate::fleet::{Author, Fleet, converge};
use crate::metrics::Metrics;
use crate::pki::Pki;

/// Peers at once between their first packet and their hello or their enrollment. A handshake costs a fifth of a
/// millisecond of CPU, so this is far beyond what two cores have in work.
const HANDSHAKES: usize = 1024;

/// From so many on, peers have to prove their addresses first (RFC 9000, section 8.1): the places of those who claim
/// somebody else's address are these and no more.
const UNPROVED: usize = HANDSHAKES / 4;

/// Enrollments at once that come with leave and are decided.
const ENROLLMENTS: usize = 512;

/// Newcomers that the event feed is told of at once: a delivery may be unpacked in one day.
const NEWCOMERS: u32 = 1000;

/// Enrollments with one good ticket, or with the key of one machine, that are looked at in earnest: whoever has a ticket may
/// still be refused and try again, and whoever has a key may ask for certificates without end.
const TRIES: u32 = 20;

/// After this time one more is.
const ONE_MORE_TRY: Duration = Duration::from_secs(3);

/// Refused enrollments that the event feed gets at once, whoever caused them.
const TOLD: u32 = 60;

/// After this time it gets one more: strangers would need a week to push everything else out of the feed.
const ONE_MORE_TOLD: Duration = Duration::from_secs(60);

/// All conversations; clones are the same ones.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

struct Shared {
    fleet: Fleet,
    pki: Arc<Pki>,
    agents: Agents,
    metrics: Metrics,
    files: files::Files,
    registry: registry::Registry,
    reunion: Mutex<reunion::Reunion>,
    proofs: proof::Proofs,
    handshakes: Places,
    enrollments: Places,
    asking: Places,
    failures: Mutex<limit::Buckets>,
    tried: Mutex<limit::Buckets<Digest>>,
    telling: Semaphore,
    told: Mutex<limit::Ration>,
    newcomers: Mutex<limit::Ration>,
    sealed: Mutex<limit::Buckets<(Digest, IpAddr)>>,
}

impl Sessions {
    /// No port is open yet, and nobody is online. Machines are sent the files in `files`. To be called inside a tokio
    /// runtime.
    pub fn start(fleet: Fleet, pki: Arc<Pki>, agents: Agents, files: PathBuf, metrics: Metrics) -> Self {
        Self::started(fleet, pki, agents, files::Files::new(files), metrics, Instant::now())
    }

    /// The same, at that moment.
    fn started(
        fleet: Fleet,
        pki: Arc<Pki>,
        agents: Agents,
        files: files::Files,
        metrics: Metrics,
        at: Instant,
    ) -> Self {
        let reunion = reunion::Reunion::begin(&fleet.state(), at);
        let sessions = Self(Arc::new(Shared {
            fleet,
            pki,
            agents,
            metrics,
            files,
            registry: registry::Registry::default(),
            reunion: Mutex::new(reunion),
            proofs: proof::Proofs::default(),
            handshakes: Places::new(HANDSHAKES),
            enrollments: Places::new(ENROLLMENTS),
            asking: Places::new(HANDSHAKES),
            failures: Mutex::new(limit::failures()),
            tried: Mutex::new(limit::Buckets::new(TRIES, ONE_MORE_TRY)),
            telling: Semaphore::new(follow::TOLD_AT_ONCE),
            told: Mutex::new(limit::Ration::new(TOLD, ONE_MORE_TOLD)),
            newcomers: Mutex::new(limit::Ration::new(NEWCOMERS, ONE_MORE_TOLD)),
            sealed: Mutex::new(limit::Buckets::new(limit::STARTS, limit::ONE_MORE_START)),
        }));
        tokio::spawn(session::watch_records(Arc::downgrade(&sessions.0), sessions.0.fleet.watch()));
        sessions
    }

    /// How many machines are online.
    pub fn count(&self) -> usize {
        self.0.registry.count()
    }

    /// How many peers are between their first packet and their hello or enrollment.
    pub fn handshakes(&self) -> usize {
        self.0.handshakes.count()
    }

    fn awaits(&self, machine: MachineId) -> Option<Duration> {
        self.0.reunion.lock().unwrap_or_else(PoisonError::into_inner).awaits(machine, Instant::now())
    }

    /// Opens the agents' port on a bound socket. `own` gives the controller's certificate.
    pub fn listen(&self, own: Arc<dyn ResolvesServerCert>, socket: UdpSocket) -> Result<Port, ListenError> {
        let endpoint = endpoint::open(&self.0.pki, own, socket)?;
        tokio::spawn(endpoint::accept(self.clone(), endpoint.clone()));
        Ok(Port(endpoint))
    }
}

impl Live for Sessions {
    fn presence(&self, machine: MachineId) -> Presence {
        self.0.registry.presence(machine)
    }

    fn moves(&self) -> u64 {
        self.0.registry.moves()
    }

    fn alive(&self, machine: MachineId) -> Alive {
        match self.0.registry.newest(machine) {
            Some(_) => Alive::Yes,
            None if self.awaits(machine).is_some() => Alive::Perhaps,
            None => Alive::No,
        }
    }

    fn call(&self, machine: MachineId, call: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(async move {
            let peer = self.0.registry.get(machine).ok_or(CallError::Offline)?;
            peer.call(&call).await
        })
    }
}

impl converge::Agents for Sessions {
    fn online(&self) -> Vec<converge::Online> {
        self.0.registry.online()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.registry.watch()
    }

    async fn call(&self, machine: MachineId, call: Call) -> Result<Answer, String> {
        Live::call(self, machine, call).await.map_err(|e| e.to_string())
    }
}

/// An open port for agents.
pub struct Port(Endpoint);

impl Port {
    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Says goodbye to every agent and waits until they heard, a second at most.
    pub async fn close(self) {
        self.0.close(VarInt::from_u32(muster_protocol::close::DONE), b"the controller is stopping");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.wait_idle()).await;
    }
}

/// Where a peer comes from; an IPv4 peer of a socket for both versions is shown as what it is.
fn remote(connection: &Connection) -> SocketAddr {
    let address = connection.remote_address();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn machine_author(machine: MachineId, from: SocketAddr) -> Author {
    Author::new(format!("machine:{machine}"), Some(from), "")
}

/// Texts that agents send are for people: so long, and no longer.
fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests;
