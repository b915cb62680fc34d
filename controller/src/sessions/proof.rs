//! A connection that proves a way: a machine shows itself that it reaches its controller over the network that it shall
//! have, beside the session that it has over the present one.
//!
//! It is as good as a session in who may open it, and no session in anything else: it takes the place of none, nobody is
//! online by it, and nothing is asked over it. It keeps the place of a handshake for as long as it lasts, so that there
//! are no more peers than there were, and gives way as those do that have not said hello.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_protocol::to_controller::{Answer, Call, PROOF_REQUESTS, PROOF_SECONDS, Refusal};
use muster_protocol::{Digest, Generation, MachineId, close};
use quinn::{Connection, SendStream};
use tokio::sync::Semaphore;

use super::places::{Lost, Place};
use super::session::{self, End};
use super::stream::{self, StreamError};
use super::{Sessions, machine_author, remote};
use crate::fleet::{Draft, State, machine};
use crate::metrics::Reason;
use crate::pki::AgentCertificate;

/// Proofs of one machine at once. One that tries again leaves those behind of which its controller has not heard that they
/// are over.
const AT_ONCE: usize = 8;

/// How many proofs there are of each machine.
#[derive(Default)]
pub struct Proofs(Mutex<HashMap<MachineId, usize>>);

/// One of them; over when this is dropped.
struct Held<'p> {
    proofs: &'p Proofs,
    machine: MachineId,
}

impl Proofs {
    fn take(&self, machine: MachineId) -> Option<Held<'_>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(machine).or_default();
        if *own >= AT_ONCE {
            return None;
        }
        *own += 1;
        Some(Held { proofs: self, machine })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut all = self.proofs.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.machine) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(all.remove(&self.machine)),
        }
    }
}

/// Whether this is the generation that the machine is to reach.
pub fn proves(state: &State, machine: MachineId, generation: Generation) -> Answer {
    match state.desired.get(&machine) {
        Some(desired) if desired.generation == generation => Answer::Accepted,
        _ => Answer::Refused(Refusal::Outdated),
    }
}

/// Whether a machine may prove anything: those who wait for approval have sessions, and nothing to prove.
fn admitted(state: &State, machine: MachineId, key: Digest) -> Result<(), End> {
    session::standing(state, machine, key, None)?;
    match state.is_in(machine) {
        true => Ok(()),
        false => {
            let reason = "this machine waits for approval, and has nothing to prove";
            Err(End::Refuse(Reason::Invalid, close::UNAUTHORIZED, reason.into()))
        }
    }
}

/// Serves a connection whose first request is [`Call::Prove`], which is answered on `send`. Always ends.
pub async fn serve(
    sessions: &Sessions,
    connection: &Connection,
    certificate: &AgentCertificate,
    handshake: &Place,
    first: (SendStream, Generation),
) -> End {
    let Some(_held) = sessions.0.proofs.take(certificate.machine) else {
        let reason = "this machine proves too many ways at once; try again later";
        return End::Refuse(Reason::TooMany, close::BUSY, reason.into());
    };
    let proof =
        tokio::time::timeout(Duration::from_secs(PROOF_SECONDS), talk(sessions, connection, certificate, first));
    // Whatever is dropped here was asked and is not answered; a confirmation is made by the writer, whole or not at all.
    match handshake.hold(proof).await {
        Ok(Ok(end)) => end,
        Ok(Err(_)) => End::breach(Reason::ProofOver, format!("a proof lasts {PROOF_SECONDS} s and no longer")),
        Err(Lost) => {
            End::Refuse(Reason::TooMany, close::BUSY, "too many machines come in at once; try again later".into())
        }
    }
}

async fn talk(
    sessions: &Sessions,
    connection: &Connection,
    certificate: &AgentCertificate,
    (mut send, generation): (SendStream, Generation),
) -> End {
    let mut call = Call::Prove { generation };
    for _ in 0..PROOF_REQUESTS {
        let answer = match answer(sessions, connection, certificate, call).await {
            Ok(answer) => answer,
            Err(end) => return end,
        };
        match stream::write(&mut send, &answer).await {
            // One answer is not wanted any more; the next one may be.
            Ok(()) | Err(StreamError::Reset) => {}
            Err(error) => return error.into(),
        }
        (send, call) = match next(connection).await {
            Ok(asked) => asked,
            Err(end) => return end,
        };
    }
    End::breach(Reason::ProofOver, format!("a proof asks {PROOF_REQUESTS} times and no more"))
}

async fn next(connection: &Connection) -> Result<(SendStream, Call), End> {
    loop {
        let (send, mut receive) = connection.accept_bi().await.map_err(|_| End::Gone)?;
        match stream::read::<Call>(&mut receive, &Semaphore::new(1)).await {
            // One request was given up; the proof goes on.
            Err(StreamError::Reset) => {}
            read => return Ok((send, read?)),
        }
    }
}

/// What came of one request. A confirmation is durable before this answers.
///
/// Errors: the machine may not come in any more, or this is none of a proof's requests.
async fn answer(
    sessions: &Sessions,
    connection: &Connection,
    certificate: &AgentCertificate,
    call: Call,
) -> Result<Answer, End> {
    let (id, key) = (certificate.machine, certificate.key);
    let state = sessions.0.fleet.state();
    admitted(&state, id, key)?;
    match call {
        Call::Prove { generation } => Ok(proves(&state, id, generation)),
        Call::Confirm { generation, desired, times } => {
            let author = machine_author(id, remote(connection));
            let confirm = move |draft: &mut Draft| {
                // What was decided since.
                match admitted(draft.state(), id, key) {
                    Ok(()) => machine::confirm(draft, id, generation, desired, times).map(Ok),
                    Err(end) => Ok(Err(end)),
                }
            };
            match sessions.0.fleet.change(author, confirm).await {
                Ok(Ok(())) => Ok(Answer::Accepted),
                Ok(Err(end)) => Err(end),
                Err(error) => Ok(session::refused(id, &error)),
            }
        }
        Call::Hello(_)
        | Call::Inventory(_)
        | Call::Progress(_)
        | Call::Work { .. }
        | Call::Renew { .. }
        | Call::Drift(_)
        | Call::Health(_)
        | Call::Fetch { .. }
        | Call::Key { .. } => {
            Err(End::breach(Reason::ProofMisused, "a proof is no session: it proves and confirms, and no more"))
        }
    }
}
