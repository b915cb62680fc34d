//! Enrollment: a ticket and a signing request come in, a certificate goes out. One exchange, then the connection ends.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use muster_protocol::enroll::{Answer, Identity, Refusal, Request};
use muster_protocol::{MachineId, close};
use quinn::Connection;
use tokio::sync::Semaphore;

use super::stream::shut;
use super::stream::{self, StreamError};
use super::{Sessions, now_unix_ms, remote};
use crate::fleet::identity::{self, Match};
use crate::fleet::{self, Author, enrollment};
use crate::pki::AgentRequest;

/// From the handshake to the whole request, and again from the answer to its acknowledgment.
const WITHIN: Duration = Duration::from_secs(10);

/// Longest serial number that is taken.
const SERIAL_BYTES: usize = 128;

/// Most MACs that are taken.
const MACS: usize = 64;

/// Serves one connection of ALPN `muster-enroll/1`.
pub async fn serve(sessions: &Sessions, connection: &Connection) {
    let source = remote(connection).ip();
    let Ok(_place) = sessions.0.enrollments.try_acquire() else {
        return shut(connection, close::BUSY, "too many machines enroll at once; try again later");
    };
    if !sessions.is_heard(source) {
        return shut(connection, close::BUSY, "too many attempts from this address failed; try again later");
    }
    match tokio::time::timeout(WITHIN, exchange(sessions, connection)).await {
        Ok(Ok(())) => shut(connection, close::DONE, "enrollment is over"),
        Ok(Err(e)) => {
            if e.is_breach() {
                sessions.failed(source);
                shut(connection, close::PROTOCOL, &e.to_string());
            }
        }
        Err(_) => {
            sessions.failed(source);
            shut(connection, close::PROTOCOL, "the enrollment request did not come in time");
        }
    }
}

async fn exchange(sessions: &Sessions, connection: &Connection) -> Result<(), StreamError> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    // The limit of a request is small; there is nobody to take turns with.
    let request: Request = stream::read(&mut receive, &Semaphore::new(1)).await?;
    let answer = match decide(sessions, connection, request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            sessions.refused(connection, refusal).await;
            Answer::Refused(refusal)
        }
    };
    stream::write(&mut send, &answer).await?;
    // The connection must not be closed before the answer has arrived.
    let _ = send.stopped().await;
    Ok(())
}

async fn decide(sessions: &Sessions, connection: &Connection, request: Request) -> Result<Answer, Refusal> {
    let Request { ticket, csr, identity } = request;
    // Everything that can be wrong with the request is found before the ticket is used up.
    let csr = AgentRequest::read(&csr).map_err(|_| Refusal::BadRequest)?;
    check(&identity)?;
    let elsewhere = sessions.answering_elsewhere(&identity).await;
    let (from, key) = (remote(connection), csr.digest());
    let author = Author { who: "enrollment".into(), from: Some(from) };
    let enrolled = sessions
        .0
        .fleet
        .change(author, move |draft| enrollment::enroll(draft, &ticket, identity, elsewhere, key))
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
        .sign_agent(enrolled.machine, &csr, SystemTime::now(), sessions.0.agents.certificate_lifetime)
        .map_err(|error| {
            tracing::error!(%from, ?error, "cannot sign a certificate");
            Refusal::Busy
        })?;
    tracing::info!(machine = %enrolled.machine, %from, "enrolled");
    Ok(Answer::Enrolled { machine: enrolled.machine, certificates, time_unix_ms: now_unix_ms() })
}

fn check(identity: &Identity) -> Result<(), Refusal> {
    let sane = |serial: &str| serial.len() <= SERIAL_BYTES && !serial.contains(char::is_control);
    let fine = identity.macs.len() <= MACS && sane(&identity.system_serial) && sane(&identity.board_serial);
    fine.then_some(()).ok_or(Refusal::BadRequest)
}

impl Sessions {
    /// The machine that this identity looks like, where it is alive in a session: then this is another box that looks
    /// like it, and two live machines are never merged. A machine that started anew does not answer any more.
    async fn answering_elsewhere(&self, identity: &Identity) -> Option<MachineId> {
        let Match::Known(id) = identity::find(&self.0.fleet.state(), identity) else { return None };
        let peer = self.0.registry.get(id)?;
        if peer.is_alive().await {
            return Some(id);
        }
        // Its session must not outlive it only because it was spoken to.
        peer.close(close::DONE, "no sign of life");
        None
    }

    fn is_heard(&self, source: IpAddr) -> bool {
        self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).has(source, Instant::now())
    }

    fn failed(&self, source: IpAddr) {
        self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).take(source, Instant::now());
    }

    /// A ticket that is used twice or by another machine is something to look at.
    async fn refused(&self, connection: &Connection, refusal: Refusal) {
        let from = remote(connection);
        tracing::warn!(%from, reason = %refusal, "enrollment refused");
        if refusal == Refusal::Busy {
            return;
        }
        self.failed(from.ip());
        let author = Author { who: "enrollment".into(), from: Some(from) };
        let told = self.0.fleet.change(author, move |draft| {
            draft.event("enrollment.refused", from.ip(), refusal.to_string());
            Ok(())
        });
        if let Err(error) = told.await {
            tracing::warn!(%error, "a refused enrollment is not in the event feed");
        }
    }
}
