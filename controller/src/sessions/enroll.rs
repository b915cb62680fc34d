//! Enrollment: a ticket and a signing request come in, a certificate goes out. One exchange, then the connection ends.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use muster_protocol::enroll::{Answer, Identity, Leave, Refusal, Request, SiteCredential};
use muster_protocol::{Digest, MachineId, close};
use quinn::Connection;
use tokio::sync::Semaphore;

use super::places::{Lost, Place};
use super::registry::Life;
use super::stream::shut;
use super::stream::{self, StreamError};
use super::{Sessions, remote};
use crate::api::http::RequestId;
use crate::api::{Alive, Live, Presence};
use crate::clock::now_unix_ms;
use crate::fleet::enrollment::{self, Seen, room};
use crate::fleet::identity::{self, Match};
use crate::fleet::record::Machine;
use crate::fleet::{self, Author, State};
use crate::metrics::{Door, Reason};
use crate::pki::AgentRequest;

/// From the handshake to the whole request, and again from the answer to its acknowledgment. What the controller itself
/// has to do and to wait for in between is not its peer's failure.
const WITHIN: Duration = Duration::from_secs(10);

/// Serves one connection of ALPN `muster-enroll/1`; `handshake` is the place that it had until now, and keeps until its
/// request was read.
pub async fn serve(sessions: &Sessions, connection: &Connection, handshake: Place) {
    match exchange(sessions, connection, handshake).await {
        Ok(()) => shut(connection, close::DONE, "enrollment is over"),
        Err(Broken::Stream(e)) => {
            if let Some(reason) = e.breach() {
                sessions.broken(connection, reason, &e.to_string()).await;
            }
        }
        Err(Broken::Late(text)) => sessions.broken(connection, Reason::Timeout, text).await,
        Err(Broken::Crowded) => {
            sessions.0.metrics.refused(Door::Enroll, Reason::TooMany);
            shut(connection, close::BUSY, "too many machines enroll at once; try again later");
        }
    }
}

/// Why there was no exchange.
enum Broken {
    Stream(StreamError),
    Late(&'static str),
    Crowded,
}

async fn exchange(sessions: &Sessions, connection: &Connection, handshake: Place) -> Result<(), Broken> {
    let read = async {
        let (send, mut receive) = connection.accept_bi().await?;
        // The limit of a request is small; there is nobody to take turns with.
        let request: Request = stream::read(&mut receive, &Semaphore::new(1)).await?;
        Ok((send, request))
    };
    let (mut send, request) = handshake.hold(within(read, "the enrollment request did not come in time")).await??;
    // Those who come without leave get no place among those who have it, and keep nobody from one.
    let (answer, handshake) = match hear(sessions, connection, request) {
        Err(refusal) => (Err(refusal), handshake),
        Ok(heard) => {
            let from = remote(connection).ip();
            let asking = sessions.0.asking.make(from).ok_or(Broken::Crowded)?;
            drop(handshake);
            let answer = match asking.hold(sessions.others(&heard)).await? {
                Err(refusal) => Err(refusal),
                Ok(others) => {
                    let deciding = sessions.0.enrollments.take(from).ok_or(Broken::Crowded)?;
                    drop(asking);
                    let answer = decide(sessions, connection, heard, others).await;
                    // That place gives way to nobody, so nobody has it for as long as he likes: whoever is waited for, and
                    // whoever waits for another, has one that does.
                    drop(deciding);
                    answer
                }
            };
            (answer, sessions.0.handshakes.make(from).ok_or(Broken::Crowded)?)
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(refusal) => {
            sessions.refused(connection, refusal).await;
            Answer::Refused(refusal)
        }
    };
    let write = async {
        stream::write(&mut send, &answer).await?;
        // The connection must not be closed before the answer has arrived.
        let _ = send.stopped().await;
        Ok(())
    };
    handshake.hold(within(write, "the answer to the enrollment request was not taken in time")).await?
}

impl From<Lost> for Broken {
    fn from(Lost: Lost) -> Self {
        Self::Crowded
    }
}

async fn within<T>(part: impl Future<Output = Result<T, StreamError>>, late: &'static str) -> Result<T, Broken> {
    match tokio::time::timeout(WITHIN, part).await {
        Ok(done) => done.map_err(Broken::Stream),
        Err(_) => Err(Broken::Late(late)),
    }
}

/// A request that comes with leave.
struct Heard {
    leave: Leave,
    csr: AgentRequest,
    identity: Identity,
}

/// Everything that can be wrong with a request, as far as it is seen without asking a machine or the fleet's writer: what
/// whoever sends bad ones without end can cause. A ticket is not used up by it.
fn hear(sessions: &Sessions, connection: &Connection, request: Request) -> Result<Heard, Refusal> {
    let Request { leave, csr, identity } = request;
    let csr = AgentRequest::read(&csr).map_err(|_| Refusal::BadRequest)?;
    identity.check()?;
    let (state, key) = (sessions.0.fleet.state(), csr.digest());
    enrollment::is_heard(&state, &leave, &identity, key, now_unix_ms())?;
    // What is rationed from here on is the leave's own: nobody's but those who have it.
    let may_ask = match &leave {
        _ if enrollment::is_holder(&state, key) => sessions.may_try(key),
        Leave::Ticket(ticket) => sessions.may_try(ticket.digest()),
        Leave::Site(credential) => sessions.may_ask_without_ticket(remote(connection).ip(), credential),
    };
    if may_ask { Ok(Heard { leave, csr, identity }) } else { Err(Refusal::Busy) }
}

async fn decide(
    sessions: &Sessions,
    connection: &Connection,
    heard: Heard,
    (alive, asked): Others,
) -> Result<Answer, Refusal> {
    let Heard { leave, csr, identity } = heard;
    let (from, key) = (remote(connection), csr.digest());
    let mut seen = Seen { alive, ..Seen::default() };
    let (live, claimed) = (sessions.clone(), identity.clone());
    let author = Author::new("enrollment", Some(from), RequestId::fresh().as_str());
    let enrolled = sessions
        .0
        .fleet
        .change(author, move |draft| {
            if !enrollment::is_holder(draft.state(), key) {
                // Whoever came in the meantime has to be asked for a sign of life as well, or counts as alive unasked.
                let came = live.came_since(draft.state(), &claimed, &asked);
                if came.iter().any(|id| draft.state().is_in(*id)) {
                    return Err(Refusal::Busy.into());
                }
                seen.alive.extend(came);
                seen.untold = live.is_untold(draft.state(), &claimed, &seen.alive);
            }
            let source = crate::source::whole(from.ip());
            seen.absent = room::forgettable(draft.state(), Some(source), |machine| live.left(machine));
            enrollment::enroll(draft, leave, identity, seen, key)
        })
        .await
        .map_err(|e| match e {
            fleet::Refusal::Enrollment(refusal) => refusal,
            other => {
                tracing::warn!(%from, error = %other, "enrollment failed");
                Refusal::Busy
            }
        })?;
    let certificates = sessions
        .0
        .pki
        .authority()
        .sign_agent(enrolled.machine, &csr, SystemTime::now(), sessions.0.agents.certificate_lifetime)
        .map_err(|error| {
            tracing::error!(%from, ?error, "cannot sign a certificate");
            Refusal::Busy
        })?;
    sessions.0.metrics.enrolled();
    tracing::info!(machine = %enrolled.machine, %from, "enrolled");
    Ok(Answer::Enrolled { machine: enrolled.machine, certificates, time_unix_ms: now_unix_ms() })
}

/// The session of each machine that looks like a box, in which it was asked for a sign of life.
type Asked = HashMap<MachineId, Option<u64>>;

/// Which machines that look like a box are alive, and who was asked for it.
type Others = (Vec<MachineId>, Asked);

impl Sessions {
    /// Who proves to be a machine is asked about nobody, and waits for nobody.
    async fn others(&self, heard: &Heard) -> Result<Others, Refusal> {
        match enrollment::is_holder(&self.0.fleet.state(), heard.csr.digest()) {
            true => Ok((Vec::new(), Asked::new())),
            false => self.alive_of(&heard.identity).await,
        }
    }

    /// Which of the machines that this identity looks like are alive in a session: then this is another box, and two live
    /// machines are never merged. A machine that started anew does not answer any more.
    ///
    /// One that nobody let in and that cannot be asked counts as alive: nothing is merged with it, and nobody has to wait
    /// for it. The numbers are those of the sessions that each of them had; see [`Self::came_since`].
    ///
    /// Errors: [`Refusal::Busy`] where one that is in cannot be asked now, [`Refusal::Awaited`].
    async fn alive_of(&self, identity: &Identity) -> Result<Others, Refusal> {
        let state = self.0.fleet.state();
        let (mut there, mut asked) = (Vec::new(), Asked::new());
        for id in identity::candidates(&state, identity) {
            let peer = self.0.registry.get(id);
            // One that is just arriving cannot be asked: it is newer than what was asked, and the box tries again.
            asked.insert(id, peer.as_ref().map(|peer| peer.number));
            match peer {
                Some(peer) => there.push(peer),
                None => {
                    if let Some(left) = self.awaits(id) {
                        return Err(Refusal::Awaited { seconds: left.as_secs() as u16 + 1 });
                    }
                }
            }
        }
        // All at once: however many do not answer, it takes no longer than one of them.
        let lives = join_all(there.iter().map(|peer| peer.life())).await;
        let mut alive = Vec::new();
        for (peer, life) in there.iter().zip(lives) {
            match life {
                Life::Sign => alive.push(peer.machine),
                // Its session must not outlive it only because it was spoken to.
                Life::NoSign => peer.close(close::DONE, "no sign of life"),
                // If it is dead, its session is over soon, and the box asks again.
                Life::Unasked if state.is_in(peer.machine) => return Err(Refusal::Busy),
                // In quarantine a machine has nothing to do that would leave it no time for a question.
                Life::Unasked => {
                    alive.push(peer.machine);
                    peer.close(close::DONE, "it takes no question");
                }
            }
        }
        Ok((alive, asked))
    }

    /// Whether it is new, and too many newcomers came lately for this one to be told of.
    fn is_untold(&self, state: &State, identity: &Identity, alive: &[MachineId]) -> bool {
        let is_known = matches!(identity::find(state, identity, alive), Match::Known(_));
        let newcomers = || self.0.newcomers.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        !is_known && newcomers().is_none()
    }

    /// Since when a machine is not there; `None` where it is, or may be.
    fn left(&self, machine: &Machine) -> Option<u64> {
        match (self.alive(machine.id), self.presence(machine.id)) {
            (Alive::No, Presence::Offline { since_unix_ms }) => Some(since_unix_ms.unwrap_or(machine.created_unix_ms)),
            _ => None,
        }
    }

    /// Whom this identity looks like and who has come since they were asked.
    fn came_since(&self, state: &State, identity: &Identity, asked: &Asked) -> Vec<MachineId> {
        let is_as_before = |id: &MachineId| asked.get(id).is_some_and(|seen| self.0.registry.newest(*id) <= *seen);
        identity::candidates(state, identity).into_iter().filter(|id| !is_as_before(id)).collect()
    }

    /// A ticket that is good and leads to nothing stays good, and so does a machine's key: each is tried so often, and then
    /// has to wait.
    fn may_try(&self, leave: Digest) -> bool {
        self.0.tried.lock().unwrap_or_else(PoisonError::into_inner).draw(leave, Instant::now()).is_some()
    }

    /// Who shows a sealed medium's credential is heard as often as there are boot scripts for the others. Those who show
    /// another's, a revoked one's too, take nothing from him.
    fn may_ask_without_ticket(&self, source: IpAddr, credential: &SiteCredential) -> bool {
        let mut sealed = self.0.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        sealed.draw((credential.digest(), source), Instant::now()).is_some()
    }

    /// A request that was understood and is refused.
    async fn refused(&self, connection: &Connection, refusal: Refusal) {
        self.0.metrics.refused(Door::Enroll, reason(refusal));
        // Whoever comes when there is no room, or too early, did nothing wrong.
        let is_told = !matches!(refusal, Refusal::Busy | Refusal::Awaited { .. });
        self.note(connection, &refusal.to_string(), is_told).await;
    }

    /// What came is no request.
    async fn broken(&self, connection: &Connection, reason: Reason, text: &str) {
        // First of all: nobody who sends garbage is waited with.
        shut(connection, close::PROTOCOL, text);
        self.0.metrics.refused(Door::Enroll, reason);
        self.note(connection, text, true).await;
    }

    /// Writes of an enrollment that led to nothing: so often for each source, and no more.
    async fn note(&self, connection: &Connection, text: &str, is_told: bool) {
        let from = remote(connection);
        let drawn = self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).draw(from.ip(), Instant::now());
        match drawn {
            Some(left_out) => {
                tracing::warn!(%from, reason = text, left_out, "enrollment refused");
                if is_told {
                    self.tell(from, text.to_owned()).await;
                }
            }
            None if is_told => self.0.told.lock().unwrap_or_else(PoisonError::into_inner).leave_out(),
            None => {}
        }
    }

    /// Puts a refusal into the event feed: somebody should look at it. Only so many, since strangers can cause them and
    /// the feed keeps a limited number of events.
    pub(super) async fn tell(&self, from: SocketAddr, mut text: String) {
        let ration = self.0.told.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Some(left_out) = ration else { return };
        if left_out > 0 {
            text.push_str(&format!(" ({left_out} refusals before this one are not in the feed)"));
        }
        let author = Author::new("enrollment", Some(from), RequestId::fresh().as_str());
        let told = self.0.fleet.change(author, move |draft| {
            draft.event("enrollment.refused", from.ip(), text);
            Ok(())
        });
        if let Err(error) = told.await {
            tracing::warn!(%error, "a refused enrollment is not in the event feed");
        }
    }
}

fn reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::TicketUnknown => Reason::TicketUnknown,
        Refusal::TicketExpired => Reason::TicketExpired,
        Refusal::TicketForeign => Reason::TicketForeign,
        Refusal::BadRequest | Refusal::BadSerial => Reason::Invalid,
        Refusal::Rejected => Reason::Rejected,
        Refusal::Busy => Reason::Busy,
        Refusal::MediumRevoked => Reason::IsoRevoked,
        Refusal::Full => Reason::PendingFull,
        Refusal::NoMedium => Reason::IsoMissing,
        Refusal::Awaited { .. } => Reason::Awaited,
        Refusal::Retired => Reason::Retired,
    }
}
