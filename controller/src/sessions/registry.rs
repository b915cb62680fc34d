//! Who is online. In memory only: after a restart everybody dials again.
//!
//! One session owns a machine. The registry decides which, hands out questions to it, and wakes it when something
//! about its machine has changed. It says nothing about what the machine should do.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_protocol::drift::OnDrift;
use muster_protocol::frame;
use muster_protocol::hello::{Awaits, Progress};
use muster_protocol::to_agent::{Answer, Call};
use muster_protocol::{BootId, Digest, MachineId, close};
use quinn::Connection;
use tokio::sync::{Notify, Semaphore, watch};

use super::limit::Ration;
use super::remote;
use super::stream::{self, StreamError};
use crate::api::{CallError, Presence, Session};
use crate::fleet::converge::Online;
use crate::metrics::{Door, Metrics};

/// How long an agent has to answer a call. Nothing long is awaited on a stream, but a slow disk may have to be read.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Nothing at all heard for so long after a call was sent: the peer is dead. Its QUIC acknowledges within a round trip,
/// whatever its agent is at. With the idle timeout before, a dead machine is offline within 30 s.
const SILENT: Duration = Duration::from_secs(8);

/// Inventories that a machine is heard with at once: drivers come one after the other when a machine starts.
const INVENTORIES: u32 = 20;

/// After this time one more.
const ONE_MORE_INVENTORY: Duration = Duration::from_secs(10);

/// How long a living peer needs at most to acknowledge what it was sent.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(3);

/// A machine's session, from hello to its end.
pub struct Peer {
    /// Grows with every session of this controller run: of two sessions of a machine the higher one stays.
    pub number: u64,
    /// Whose.
    pub machine: MachineId,
    /// The key that it proved to have; see [`crate::pki::AgentCertificate::key`].
    pub key: Digest,
    /// The boot it said hello with.
    pub boot: BootId,
    /// The agent's version.
    pub agent: String,
    /// When it said hello.
    pub since_unix_ms: u64,
    /// Whether it was welcomed as one that waits for approval.
    pub welcomed: Welcomed,
    /// What it was told to do about drift.
    pub on_drift: OnDrift,
    /// Woken when the machine's record has changed.
    pub wake: Notify,
    /// Larger frames are read one at a time.
    pub turn: Semaphore,
    connection: Connection,
    /// Inventories are large and each is written: hardware does not change that often.
    inventories: Inventories,
    metrics: Metrics,
    expires_unix_s: AtomicI64,
    issuer: Mutex<Vec<u8>>,
    progress: Mutex<Progress>,
}

/// What asking a session for a sign of life brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It acknowledged.
    Sign,
    /// It did not, within the time that a living one needs at most.
    NoSign,
    /// It could not be asked.
    Unasked,
}

/// What the agent was told that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcomed {
    /// Not approved yet.
    Pending(Awaits),
    /// Approved.
    Member,
}

/// What a session is made of, beside its number.
pub struct Opening {
    /// Whose.
    pub machine: MachineId,
    /// The key that it proved to have.
    pub key: Digest,
    /// When its certificate ends.
    pub expires_unix_s: i64,
    /// The name of the CA that signed it, in DER.
    pub issuer: Vec<u8>,
    /// From the hello.
    pub boot: BootId,
    /// From the hello.
    pub agent: String,
    /// From the hello.
    pub progress: Progress,
    /// What the welcome says.
    pub welcomed: Welcomed,
    /// What the welcome says of drift.
    pub on_drift: OnDrift,
    /// Now.
    pub since_unix_ms: u64,
    /// The machine's, from [`Registry::inventories`].
    pub inventories: Inventories,
    /// Where its breaches are counted.
    pub metrics: Metrics,
}

impl Peer {
    /// A session of this number.
    pub fn new(number: u64, opening: Opening, connection: Connection) -> Self {
        let Opening {
            machine,
            key,
            expires_unix_s,
            issuer,
            boot,
            agent,
            progress,
            welcomed,
            on_drift,
            since_unix_ms,
            inventories,
            metrics,
        } = opening;
        Self {
            number,
            machine,
            key,
            boot,
            agent,
            since_unix_ms,
            welcomed,
            on_drift,
            wake: Notify::new(),
            turn: Semaphore::new(1),
            connection,
            inventories,
            metrics,
            expires_unix_s: AtomicI64::new(expires_unix_s),
            issuer: Mutex::new(issuer),
            progress: Mutex::new(progress),
        }
    }

    /// Whether one more inventory is taken now.
    pub fn takes_inventory(&self) -> bool {
        self.inventories.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()).is_some()
    }

    /// What the agent last said of its desired state.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of what it says now; [`Registry::changed`] tells others.
    pub fn set_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// When its certificate ends, in seconds since 1970 UTC.
    pub fn expires_unix_s(&self) -> i64 {
        self.expires_unix_s.load(Ordering::Relaxed)
    }

    /// The name of the CA that signed its certificate, in DER.
    pub fn issuer(&self) -> Vec<u8> {
        self.issuer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of a renewed certificate: when it ends, and who signed it.
    pub fn renewed(&self, unix_s: i64, issuer: Vec<u8>) {
        self.expires_unix_s.store(unix_s, Ordering::Relaxed);
        *self.issuer.lock().unwrap_or_else(PoisonError::into_inner) = issuer;
    }

    /// The connection below.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Ends the session with a code of [`close`] and a reason for people.
    pub fn close(&self, code: u32, reason: &str) {
        stream::shut(&self.connection, code, reason);
    }

    /// Asks the agent and waits for its answer.
    pub async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        let frame = frame::encode(call).map_err(|_| CallError::TooLarge)?;
        let talk = async {
            let (mut send, mut receive) = self.connection.open_bi().await?;
            stream::send(&mut send, &frame).await?;
            stream::read::<Answer>(&mut receive, &self.turn).await
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout(ANSWER_WITHIN, talk) => answered,
            () = self.silence() => {
                self.close(close::DONE, "no sign of life");
                return Err(CallError::Unanswered(format!("no sign of life within {} s", SILENT.as_secs())));
            }
        };
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => {
                if let Some(reason) = e.breach() {
                    self.metrics.refused(Door::Agents, reason);
                    self.close(close::PROTOCOL, &e.to_string());
                }
                Err(CallError::Unanswered(e.to_string()))
            }
            Err(_) => Err(CallError::Unanswered(format!("not within {} s", ANSWER_WITHIN.as_secs()))),
        }
    }

    /// Resolves when nothing arrives for [`SILENT`] from now on; never, once something has.
    async fn silence(&self) {
        let heard = || self.connection.stats().udp_rx.datagrams;
        let before = heard();
        tokio::time::sleep(SILENT).await;
        if heard() != before {
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is life at the other end: a dead one's session stays until the idle timeout.
    pub async fn life(&self) -> Life {
        // An agent that is busy with all the questions that it takes at once says nothing by taking no other one.
        let stream = match tokio::time::timeout(ACKNOWLEDGE_WITHIN, self.connection.open_bi()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Life::NoSign,
            Err(_) => return Life::Unasked,
        };
        let acknowledged = async {
            let (mut send, _receive) = stream;
            let frame = frame::encode(&Call::Observe)?;
            stream::send(&mut send, &frame).await?;
            // Resolves when all of it was acknowledged, by the peer's QUIC and not by the agent's work.
            send.stopped().await.map_err(|_| StreamError::Reset)?;
            Ok::<_, StreamError>(())
        };
        match tokio::time::timeout(ACKNOWLEDGE_WITHIN, acknowledged).await {
            Ok(Ok(())) => Life::Sign,
            Ok(Err(_)) | Err(_) => Life::NoSign,
        }
    }

    fn session(&self) -> Session {
        Session {
            since_unix_ms: self.since_unix_ms,
            boot: self.boot,
            from: remote(&self.connection),
            agent: self.agent.clone(),
            progress: self.progress(),
        }
    }
}

enum Entry {
    Online(Arc<Peer>),
    Offline { since_unix_ms: u64, inventories: Inventories },
}

/// How many more inventories a machine is heard with, whichever its session is.
pub type Inventories = Arc<Mutex<Ration>>;

/// See the module.
pub struct Registry {
    entries: Mutex<HashMap<MachineId, Entry>>,
    arriving: Mutex<BTreeSet<(MachineId, u64)>>,
    number: AtomicU64,
    moves: AtomicU64,
    changes: watch::Sender<u64>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            arriving: Mutex::default(),
            number: AtomicU64::new(1),
            moves: AtomicU64::new(0),
            changes: watch::Sender::new(0),
        }
    }
}

impl Registry {
    /// A number for a session that begins.
    pub fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on until the guard is dropped, the machine counts as being there: its hello is being written down.
    pub fn arrive(&self, machine: MachineId, number: u64) -> Arriving<'_> {
        self.arriving().insert((machine, number));
        Arriving { registry: self, at: (machine, number) }
    }

    /// The number of the machine's newest session, one that is about to begin included.
    pub fn newest(&self, machine: MachineId) -> Option<u64> {
        // In this order: whoever arrives is entered before it stops arriving.
        let arriving = self.arriving().range((machine, 0)..=(machine, u64::MAX)).next_back().map(|(_, number)| *number);
        let there = self.entries().get(&machine).and_then(Entry::number);
        arriving.max(there)
    }

    /// Makes `peer` the session of its machine and ends the one that was.
    ///
    /// Errors: a newer session is there already.
    pub fn enter(&self, peer: &Arc<Peer>) -> Result<(), Replaced> {
        let before = {
            let mut entries = self.entries();
            if let Some(Entry::Online(other)) = entries.get(&peer.machine)
                && other.number > peer.number
            {
                return Err(Replaced);
            }
            entries.insert(peer.machine, Entry::Online(peer.clone()))
        };
        if let Some(Entry::Online(older)) = before {
            older.close(close::REPLACED, "a newer session of this machine took its place");
        }
        self.moved();
        Ok(())
    }

    /// The session is over. Answers whether the machine is offline now, and not merely in a newer session.
    pub fn leave(&self, peer: &Peer, now_unix_ms: u64) -> bool {
        let gone = {
            let mut entries = self.entries();
            match entries.get_mut(&peer.machine) {
                Some(entry @ Entry::Online(_)) if entry.number() == Some(peer.number) => {
                    *entry = Entry::Offline { since_unix_ms: now_unix_ms, inventories: peer.inventories.clone() };
                    true
                }
                _ => false,
            }
        };
        if gone {
            self.moved();
        }
        gone
    }

    /// For the machine's next session.
    pub fn inventories(&self, machine: MachineId) -> Inventories {
        match self.entries().get(&machine) {
            Some(Entry::Online(peer)) => peer.inventories.clone(),
            Some(Entry::Offline { inventories, .. }) => inventories.clone(),
            None => Arc::new(Mutex::new(Ration::new(INVENTORIES, ONE_MORE_INVENTORY))),
        }
    }

    /// There is no such machine any more: nothing is kept of one that is not there.
    pub fn forget(&self, machine: MachineId) {
        let gone = {
            let mut entries = self.entries();
            let is_offline = matches!(entries.get(&machine), Some(Entry::Offline { .. }));
            is_offline && entries.remove(&machine).is_some()
        };
        if gone {
            self.moved();
        }
    }

    /// The machine's session.
    pub fn get(&self, machine: MachineId) -> Option<Arc<Peer>> {
        match self.entries().get(&machine) {
            Some(Entry::Online(peer)) => Some(peer.clone()),
            Some(Entry::Offline { .. }) | None => None,
        }
    }

    /// Lets the machine's session look at its machine's record again.
    pub fn wake(&self, machine: MachineId) {
        if let Some(Entry::Online(peer)) = self.entries().get(&machine) {
            peer.wake.notify_one();
        }
    }

    /// Whether the machine is there.
    pub fn presence(&self, machine: MachineId) -> Presence {
        match self.entries().get(&machine) {
            Some(Entry::Online(peer)) => Presence::Online(peer.session()),
            Some(Entry::Offline { since_unix_ms, .. }) => Presence::Offline { since_unix_ms: Some(*since_unix_ms) },
            None => Presence::Offline { since_unix_ms: None },
        }
    }

    /// Everybody who is online.
    pub fn online(&self) -> Vec<Online> {
        let entries = self.entries();
        let peers = entries.values().filter_map(|entry| match entry {
            Entry::Online(peer) => Some(peer),
            Entry::Offline { .. } => None,
        });
        peers.map(|peer| Online { machine: peer.machine, boot: peer.boot, progress: peer.progress() }).collect()
    }

    /// How many are online.
    pub fn count(&self) -> usize {
        self.entries().values().filter(|entry| matches!(entry, Entry::Online(_))).count()
    }

    /// Counts comings, goings and progress; whoever watches it looks again.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Counts comings and goings alone: while it stays the same, so does who is there.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Somebody came or went, and was entered.
    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Release);
        self.changed();
    }

    /// Tells those who watch that something is different now.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn arriving(&self) -> MutexGuard<'_, BTreeSet<(MachineId, u64)>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<MachineId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Online(peer) => Some(peer.number),
            Self::Offline { .. } => None,
        }
    }
}

/// A machine between the controller's having heard its hello and its session.
pub struct Arriving<'r> {
    registry: &'r Registry,
    at: (MachineId, u64),
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.registry.arriving().remove(&self.at);
    }
}

/// A newer session owns the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced;
