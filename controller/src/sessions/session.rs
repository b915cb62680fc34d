//! One session: hello, then whatever the agent tells, one request after the other. What the agent is told to do comes
//! from [`crate::fleet::converge`]. A connection that begins with a proof is none: see [`super::proof`].
//!
//! Requests are taken one at a time, in the order in which the agent opened their streams: what it says of its progress
//! arrives in the order in which it happened, and a peer fills one request's memory and not four.

use std::pin::pin;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use muster_protocol::drift::{Drift, DriftEnd};
use muster_protocol::frame::Message;
use muster_protocol::hello::{Hello, InventoryWish, Progress, Standing, Welcome, version};
use muster_protocol::to_controller::{Answer, Call, Refusal, Work};
use muster_protocol::{Digest, MachineId, close, to_agent, to_controller};
use quinn::{Connection, SendStream};
use tokio::sync::{Semaphore, watch};

use super::endpoint::WINDOW;
use super::files::Asked;
use super::places::{Lost, Place};
use super::registry::{Opening, Peer, Welcomed};
use super::stream::shut;
use super::stream::{self, StreamError};
use super::{Sessions, Shared, cut, machine_author, proof, remote};
use crate::clock::now_unix_ms;
use crate::fleet::operation::drift;
use crate::fleet::operation::outcome::{self, Outcome};
use crate::fleet::record::{Lifecycle, Machine};
use crate::fleet::{self, Draft, State, machine, operation};
use crate::metrics::{Door, Reason};
use crate::pki::{AgentCertificate, AgentRequest};

/// From the handshake to the hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// From the first byte of a request to the last of its answer.
const REQUEST_WITHIN: Duration = Duration::from_secs(20);

/// Longest version text of an agent that is kept.
const VERSION_BYTES: usize = 64;

/// Longest text of an agent about its progress that is kept.
const TEXT_BYTES: usize = 1024;

/// Longest text of one difference between a network and what was confirmed that is kept.
const DIFFERENCE_BYTES: usize = 256;

/// Most receipts of one wipe that are kept: with their texts they stay below what one record may hold.
const RECEIPTS: usize = 128;

/// Why a session ends.
pub enum End {
    /// The connection is gone.
    Gone,
    /// It is closed from here, though the agent did nothing wrong: a code of [`close`], and a reason for people.
    Close(u32, String),
    /// The same, because the agent is refused.
    Refuse(Reason, u32, String),
}

impl End {
    /// Closed from here.
    pub fn close(code: u32, reason: impl Into<String>) -> Self {
        Self::Close(code, reason.into())
    }

    /// The agent breaks the protocol.
    pub fn breach(reason: Reason, text: impl Into<String>) -> Self {
        Self::Refuse(reason, close::PROTOCOL, text.into())
    }
}

impl From<StreamError> for End {
    fn from(e: StreamError) -> Self {
        e.breach().map_or(Self::Gone, |reason| Self::breach(reason, e.to_string()))
    }
}

/// Serves one connection of ALPN `muster/1` whose certificate is good.
/// `handshake` is its place among those who are not in yet, until its hello, or until the end where it says none.
pub async fn serve(sessions: &Sessions, connection: Connection, certificate: AgentCertificate, handshake: Place) {
    let (machine, from) = (certificate.machine, remote(&connection));
    let opened = open(sessions, &connection, certificate, &handshake).await;
    drop(handshake);
    let end = match opened {
        Ok(peer) => {
            tracing::info!(%machine, boot = %peer.boot, %from, "online");
            let end = live(sessions, &peer).await;
            let offline = leave(sessions, &peer);
            let (reason, rtt_ms) = (connection.close_reason(), connection.rtt().as_millis() as u64);
            let reason = match &end {
                End::Close(_, reason) | End::Refuse(_, _, reason) => reason.clone(),
                End::Gone => reason.map(|e| e.to_string()).unwrap_or_default(),
            };
            if offline {
                tracing::info!(%machine, boot = %peer.boot, %from, %reason, rtt_ms, "offline");
            }
            end
        }
        Err(end) => end,
    };
    match end {
        End::Gone => {}
        End::Close(code, reason) => shut(&connection, code, &reason),
        End::Refuse(why, code, reason) => {
            sessions.0.metrics.refused(Door::Agents, why);
            tracing::warn!(%machine, %from, %reason, "session refused");
            shut(&connection, code, &reason);
        }
    }
}

/// The first exchange: afterwards the machine is online.
async fn open(
    sessions: &Sessions,
    connection: &Connection,
    certificate: AgentCertificate,
    handshake: &Place,
) -> Result<Arc<Peer>, End> {
    standing(&sessions.0.fleet.state(), certificate.machine, certificate.key, None)?;
    // Taken at once, so that of two sessions of a machine the one that dialed later stays.
    let number = sessions.0.registry.next_number();
    let talk = async {
        let (send, mut receive) = connection.accept_bi().await.map_err(|_| End::Gone)?;
        Ok::<_, End>((send, stream::read::<Call>(&mut receive, &Semaphore::new(1)).await?))
    };
    let no_hello = || End::breach(Reason::HelloLate, format!("no hello within {} s", HELLO_WITHIN.as_secs()));
    let crowded =
        |Lost| End::Refuse(Reason::TooMany, close::BUSY, "too many machines come in at once; try again later".into());
    let talk = tokio::time::timeout(HELLO_WITHIN, talk);
    let (mut send, call) = handshake.hold(talk).await.map_err(crowded)?.map_err(|_| no_hello())??;
    let hello = match call {
        Call::Hello(hello) => hello,
        Call::Prove { generation } => {
            return Err(proof::serve(sessions, connection, &certificate, handshake, (send, generation)).await);
        }
        _ => return refuse(&mut send, Refusal::HelloFirst, Reason::HelloMissing, close::PROTOCOL).await,
    };
    let Hello { versions, boot, mut agent, inventory, mut progress } = hello;
    let spoken = |v: &u16| (version::MIN..=version::CURRENT).contains(v);
    let Some(version) = versions.into_iter().take(16).filter(spoken).max() else {
        return refuse(&mut send, Refusal::Version, Reason::Version, close::PROTOCOL).await;
    };
    cut(&mut agent, VERSION_BYTES);
    shorten(&mut progress);

    let id = certificate.machine;
    let (said, key) = (progress.clone(), certificate.key);
    let author = machine_author(id, remote(connection));
    // What is decided while its hello waits for the writer must not take it for one that is not there.
    let arriving = sessions.0.registry.arrive(id, number);
    let hello = move |draft: &mut Draft| match standing(draft.state(), id, key, None) {
        Ok(()) => machine::hello(draft, id, boot, said).map(Ok),
        // What was decided since its handshake.
        Err(end) => Ok(Err(end)),
    };
    let machine = match sessions.0.fleet.change(author, hello).await {
        Ok(Ok(machine)) => machine,
        Ok(Err(end)) => return Err(end),
        Err(error) => {
            tracing::warn!(machine = %id, %error, "hello failed");
            return refuse(&mut send, Refusal::Busy, Reason::Busy, close::BUSY).await;
        }
    };
    let state = sessions.0.fleet.state();
    let known = state.inventories.get(&id).map(|record| record.inventory.digest());
    let (standing, welcomed) = match machine.lifecycle {
        Lifecycle::Pending => {
            let awaits = machine.awaits();
            (Standing::Pending { claim: machine.claim.clone(), awaits }, Welcomed::Pending(awaits))
        }
        _ => (Standing::Member, Welcomed::Member),
    };
    let on_drift = machine.drift.rule.policy(sessions.0.agents.drift);
    let opening = Opening {
        machine: id,
        key: certificate.key,
        expires_unix_s: certificate.not_after_unix_s,
        issuer: certificate.issuer,
        boot,
        agent,
        progress,
        welcomed,
        on_drift,
        since_unix_ms: now_unix_ms(),
        inventories: sessions.0.registry.inventories(id),
        metrics: sessions.0.metrics.clone(),
    };
    let peer = Arc::new(Peer::new(number, opening, connection.clone()));
    if sessions.0.registry.enter(&peer).is_err() {
        return Err(End::close(close::REPLACED, "a newer session of this machine is there already"));
    }
    drop(arriving);
    sessions.0.reunion.lock().unwrap_or_else(PoisonError::into_inner).came(id);
    let welcome = Welcome {
        version,
        time_unix_ms: now_unix_ms(),
        standing,
        inventory: if known == Some(inventory) { InventoryWish::Known } else { InventoryWish::Wanted },
        name: machine.name,
        on_drift,
    };
    match stream::write(&mut send, &Answer::Welcome(welcome)).await {
        Ok(()) => Ok(peer),
        Err(e) => {
            leave(sessions, &peer);
            Err(e.into())
        }
    }
}

/// The session is over. Answers whether the machine is offline now.
fn leave(sessions: &Sessions, peer: &Peer) -> bool {
    let offline = sessions.0.registry.leave(peer, now_unix_ms());
    if sessions.0.fleet.state().machines.get(&peer.machine).is_none() {
        sessions.0.registry.forget(peer.machine);
    }
    offline
}

/// Answers with a refusal, and closes once it has arrived.
async fn refuse<T>(send: &mut SendStream, refusal: Refusal, why: Reason, code: u32) -> Result<T, End> {
    let _ = stream::write(send, &Answer::Refused(refusal)).await;
    arrived(send).await;
    Err(End::Refuse(why, code, refusal.to_string()))
}

/// Gives the last answer of a session time to arrive: closing takes it back.
async fn arrived(send: &mut SendStream) {
    let _ = tokio::time::timeout(Duration::from_secs(3), send.stopped()).await;
}

/// Whether a certificate's holder may have a session, and one that was welcomed like this.
pub fn standing(state: &State, machine: MachineId, key: Digest, welcomed: Option<Welcomed>) -> Result<(), End> {
    let unauthorized = |why, reason: &str| Err(End::Refuse(why, close::UNAUTHORIZED, reason.into()));
    let Some(machine): Option<&Machine> = state.machines.get(&machine) else {
        return unauthorized(Reason::UnknownMachine, "this machine is not known here");
    };
    if machine.certificate != key {
        return unauthorized(Reason::Superseded, "a certificate that was issued later has taken this one's place");
    }
    match (&machine.lifecycle, welcomed) {
        (Lifecycle::Rejected, _) => unauthorized(Reason::Rejected, "this machine was rejected by an operator"),
        (Lifecycle::Retired, _) => unauthorized(Reason::Retired, "this machine was retired by an operator"),
        (Lifecycle::Pending, Some(Welcomed::Member)) => {
            Err(End::close(close::CHANGED, "this machine waits for approval again"))
        }
        (Lifecycle::Pending, Some(Welcomed::Pending(told))) if told != machine.awaits() => {
            Err(End::close(close::CHANGED, "this machine waits for something else now"))
        }
        (Lifecycle::Available | Lifecycle::Leased { .. } | Lifecycle::Cleaning { .. }, Some(Welcomed::Pending(_))) => {
            Err(End::close(close::CHANGED, "this machine was approved"))
        }
        _ => Ok(()),
    }
}

/// From the welcome to the end.
async fn live(sessions: &Sessions, peer: &Arc<Peer>) -> End {
    // Each of the four ends the session; what the others were at is dropped with it. What they change in the fleet is
    // made by the writer, whole or not at all, whether or not somebody still waits for it.
    tokio::select! {
        end = requests(sessions, peer) => end,
        end = authority(sessions, peer) => end,
        end = expiry(peer) => end,
        end = super::follow::follow(sessions, peer) => end,
    }
}

/// Ends the session when the machine's record says so; looks again whenever it is woken.
async fn authority(sessions: &Sessions, peer: &Peer) -> End {
    loop {
        let state = sessions.0.fleet.state();
        if let Err(end) = standing(&state, peer.machine, peer.key, Some(peer.welcomed)) {
            return end;
        }
        let rule = state.machines.get(&peer.machine).map(|machine| machine.drift.rule).unwrap_or_default();
        if rule.policy(sessions.0.agents.drift) != peer.on_drift {
            return End::close(close::CHANGED, "this machine is to do something else about drift");
        }
        drop(state);
        // A wake between the look and this is not lost: it leaves a permit.
        peer.wake.notified().await;
    }
}

/// Wakes the sessions of machines whose records change, forgets those whose records are gone, and counts how changes of
/// machines came out, until the fleet ends or nobody holds the sessions any more.
pub async fn watch_records(shared: Weak<Shared>, mut states: watch::Receiver<Arc<State>>) {
    let mut seen = states.borrow_and_update().clone();
    while states.changed().await.is_ok() {
        let now = states.borrow_and_update().clone();
        let Some(shared) = shared.upgrade() else { return };
        for machine in now.machines.touched_since(&seen.machines) {
            shared.registry.wake(*machine);
            if now.machines.get(machine).is_none() {
                shared.registry.forget(*machine);
            }
        }
        for operation in now.operations.touched_since(&seen.operations) {
            let outcome = |state: &State| state.operations.get(operation).and_then(|operation| operation.outcome);
            if let (None, Some(Outcome { ending, times })) = (outcome(&seen), outcome(&now)) {
                let reason = ending.reason().map_or("", outcome::word);
                shared.metrics.came_out(ending.word(), reason, outcome::phases(times));
            }
        }
        seen = now;
    }
}

/// The end of the certificate is the end of the session, unless it is renewed.
async fn expiry(peer: &Peer) -> End {
    loop {
        let now = (now_unix_ms() / 1000) as i64;
        let left = peer.expires_unix_s() - now;
        if left <= 0 {
            let reason = "the certificate has ended and was not renewed";
            return End::Refuse(Reason::CertificateExpired, close::UNAUTHORIZED, reason.into());
        }
        // In small steps: timers do not count the time in which the computer slept, and a renewal moves the end.
        tokio::time::sleep(Duration::from_secs(left.clamp(1, 600) as u64)).await;
    }
}

/// Requests one after the other, and beside them the file that the machine fetches.
async fn requests(sessions: &Sessions, peer: &Arc<Peer>) -> End {
    let mut sending: Option<BoxFuture<'_, ()>> = None;
    loop {
        let mut next = pin!(request(sessions, peer));
        let fetched = loop {
            // A request that has begun is not dropped, and neither is what is being sent.
            tokio::select! {
                fetched = &mut next => break fetched,
                () = async { sending.as_mut().expect("it is looked at first").await }, if sending.is_some() => {
                    sending = None;
                }
            }
        };
        match fetched {
            Ok(None) => {}
            // The one before, where there is one, is not wanted any more: the machine asks for one thing at a time.
            Ok(Some((asked, send))) => {
                sending = Some(Box::pin(async move {
                    sessions.0.files.send(&asked, send, peer.connection(), &sessions.0.metrics).await
                }));
            }
            Err(end) => return end,
        }
    }
}

/// The next request and its answer; where it is for a file, what was asked for, and where it is to be sent.
async fn request(sessions: &Sessions, peer: &Arc<Peer>) -> Result<Option<(Asked, SendStream)>, End> {
    let Ok((mut send, mut receive)) = peer.connection().accept_bi().await else { return Err(End::Gone) };
    let exchange = async {
        let (call, _turn) = stream::take::<Call>(&mut receive, &peer.turn).await?;
        if let Call::Fetch { digest, offset } = call
            && peer.welcomed == Welcomed::Member
        {
            return Ok(Said::Fetch(Asked { machine: peer.machine, digest, offset }));
        }
        let said = if matches!(call, Call::Hello(_)) { Said::HelloAgain } else { Said::Other };
        let answer = answer(sessions, peer, call).await;
        if matches!(answer, Answer::Refused(Refusal::BadRequest)) {
            sessions.0.metrics.refused(Door::Agents, Reason::Invalid);
        }
        stream::write(&mut send, &answer).await?;
        Ok::<_, StreamError>(said)
    };
    match tokio::time::timeout(REQUEST_WITHIN, exchange).await {
        Ok(Ok(Said::Other)) => Ok(None),
        Ok(Ok(Said::Fetch(asked))) => Ok(Some((asked, send))),
        Ok(Ok(Said::HelloAgain)) => {
            arrived(&mut send).await;
            Err(End::breach(Reason::HelloAgain, Refusal::HelloAgain.to_string()))
        }
        // One request was given up; the session goes on.
        Ok(Err(StreamError::Reset)) => Ok(None),
        Ok(Err(e)) => Err(e.into()),
        Err(_) => Err(End::breach(Reason::Timeout, "a request was not finished in time")),
    }
}

/// What a request was.
enum Said {
    HelloAgain,
    Fetch(Asked),
    Other,
}

/// What came of one request. Every change is durable before this answers.
async fn answer(sessions: &Sessions, peer: &Arc<Peer>, call: Call) -> Answer {
    let id = peer.machine;
    match call {
        Call::Hello(_) => Answer::Refused(Refusal::HelloAgain),
        // In quarantine there is nothing to tell but what the machine is made of.
        Call::Progress(_)
        | Call::Confirm { .. }
        | Call::Prove { .. }
        | Call::Work { .. }
        | Call::Drift(_)
        | Call::Health(_)
        | Call::Key { .. }
            if peer.welcomed != Welcomed::Member =>
        {
            Answer::Refused(Refusal::BadRequest)
        }
        // A member's is not answered here.
        Call::Fetch { .. } => Answer::Refused(Refusal::BadRequest),
        Call::Key { name, uuid, use_for } => {
            let seal = match sessions.0.pki.disks() {
                Ok(seal) => seal,
                Err(error) => {
                    tracing::error!(machine = %id, ?error, "the keys of encrypted volumes cannot be sealed");
                    return Answer::Refused(Refusal::Busy);
                }
            };
            let author = machine_author(id, remote(peer.connection()));
            let ask = move |draft: &mut Draft| machine::keys::ask(draft, &seal, id, (&name, uuid), use_for);
            match sessions.0.fleet.change(author, ask).await {
                Ok(Ok(key)) => Answer::Key(key),
                Ok(Err(refusal)) => Answer::Refused(refusal),
                Err(error) => refused(id, &error),
            }
        }
        Call::Inventory(inventory) => {
            if inventory.check().is_err() {
                return Answer::Refused(Refusal::BadRequest);
            }
            if !peer.takes_inventory() {
                sessions.0.metrics.refused(Door::Agents, Reason::RateLimited);
                return Answer::Refused(Refusal::Busy);
            }
            change(sessions, peer, move |draft| machine::inventory(draft, id, *inventory)).await
        }
        Call::Progress(mut progress) => {
            shorten(&mut progress);
            peer.set_progress(progress.clone());
            sessions.0.registry.changed();
            change(sessions, peer, move |draft| machine::progress(draft, id, &progress)).await
        }
        Call::Drift(mut drift) => {
            shorten_drift(&mut drift);
            let outcome = drift::word(&drift.end);
            let author = machine_author(id, remote(peer.connection()));
            match sessions.0.fleet.change(author, move |draft| drift::told(draft, id, drift)).await {
                Ok(is_news) => {
                    if is_news {
                        sessions.0.metrics.drifted(outcome);
                    }
                    Answer::Accepted
                }
                Err(error) => refused(id, &error),
            }
        }
        Call::Health(health) => change(sessions, peer, move |draft| machine::health::told(draft, id, health)).await,
        Call::Confirm { generation, desired, times } => {
            change(sessions, peer, move |draft| machine::confirm(draft, id, generation, desired, times)).await
        }
        Call::Prove { generation } => proof::proves(&sessions.0.fleet.state(), id, generation),
        Call::Work { operation: work, mut state } => {
            shorten_work(&mut state);
            let boot = peer.boot;
            let told = change(sessions, peer, move |draft| match operation::work(draft, id, work, boot, state) {
                // An operation that is not there any more is nothing to tell about, and nothing to try again.
                Err(fleet::Refusal::NotFound { .. }) => Ok(()),
                other => other,
            });
            told.await
        }
        Call::Renew { csr } => renew(sessions, peer, &csr),
    }
}

async fn change<F>(sessions: &Sessions, peer: &Peer, decide: F) -> Answer
where
    F: FnOnce(&mut Draft) -> Result<(), fleet::Refusal> + Send + 'static,
{
    let author = machine_author(peer.machine, remote(peer.connection()));
    match sessions.0.fleet.change(author, decide).await {
        Ok(()) => Answer::Accepted,
        Err(error) => refused(peer.machine, &error),
    }
}

/// How a machine hears that what it told was not taken.
pub fn refused(machine: MachineId, error: &fleet::Refusal) -> Answer {
    tracing::warn!(%machine, %error, "what a machine told was not taken");
    Answer::Refused(match error {
        fleet::Refusal::NotFound { .. } => Refusal::UnknownMachine,
        fleet::Refusal::Conflict(_)
        | fleet::Refusal::Offline
        | fleet::Refusal::Unswitchable { .. }
        | fleet::Refusal::Outdated { .. } => Refusal::Outdated,
        fleet::Refusal::Invalid { .. } | fleet::Refusal::Enrollment(_) => Refusal::BadRequest,
        fleet::Refusal::Exhausted(_)
        | fleet::Refusal::StoreRefused(_)
        | fleet::Refusal::StoreFailed
        | fleet::Refusal::Internal => Refusal::Busy,
    })
}

/// A new certificate for the key of this session. Nothing is stored: the record names the key, which stays.
fn renew(sessions: &Sessions, peer: &Peer, csr: &[u8]) -> Answer {
    let request = match AgentRequest::read(csr) {
        Ok(request) if request.digest() == peer.key => request,
        _ => return Answer::Refused(Refusal::BadRequest),
    };
    let lifetime = sessions.0.agents.certificate_lifetime;
    let authority = sessions.0.pki.authority();
    match authority.sign_agent(peer.machine, &request, SystemTime::now(), lifetime) {
        Ok(certificates) => {
            peer.renewed((now_unix_ms() / 1000 + lifetime.as_secs()) as i64, authority.name());
            tracing::info!(machine = %peer.machine, "certificate renewed");
            Answer::Renewed { certificates }
        }
        Err(error) => {
            tracing::error!(machine = %peer.machine, ?error, "cannot sign a certificate");
            Answer::Refused(Refusal::Busy)
        }
    }
}

fn shorten(progress: &mut Progress) {
    match progress {
        Progress::Idle | Progress::Confirmed { .. } => {}
        Progress::Applying { step: text, .. }
        | Progress::Refused { why: text, .. }
        | Progress::Reverted { why: text, .. }
        | Progress::RevertFailed { why: text, .. } => cut(text, TEXT_BYTES),
    }
}

fn shorten_drift(drift: &mut Drift) {
    drift.differences.iter_mut().for_each(|difference| cut(difference, DIFFERENCE_BYTES));
    if let DriftEnd::Failed { why } = &mut drift.end {
        cut(why, TEXT_BYTES);
    }
}

fn shorten_work(state: &mut Work) {
    match state {
        Work::Running { step: text, .. } | Work::Failed { why: text } => cut(text, TEXT_BYTES),
        Work::Done { receipts } => {
            receipts.truncate(RECEIPTS);
            receipts.iter_mut().for_each(|receipt| cut(&mut receipt.method, 64));
        }
    }
}

// The most that a peer makes us hold for as long as it likes: the connection's receive window and one large frame at a
// time, a request with what it is in memory until it was carried out, or an answer that is being read. An answer in memory
// is another matter: nobody sends one unasked, and it is gone when whoever asked has looked at it.
const _: () = assert!(WINDOW as usize + Call::LIMIT + to_controller::MEMORY <= 256 * 1024);
const _: () = assert!(WINDOW as usize + to_agent::Answer::LIMIT <= 256 * 1024);
