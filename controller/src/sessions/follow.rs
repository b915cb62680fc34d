//! Going with the CA: tells the agent of a session whom to believe, and ends the session when its own CA has gone.
//!
//! Level-triggered, as everything: what is told is the CAs in force, whenever the machine's record does not say that its
//! agent knows them. After a crash at any point it is told again, which changes nothing.

use std::time::Duration;

use muster_protocol::{close, to_agent};

use super::registry::Peer;
use super::session::End;
use super::{Sessions, machine_author, remote};
use crate::fleet::enrollment::trust;

/// Agents that are told at once: each asks for a new certificate then, and a fleet's are not to be signed all at once.
pub const TOLD_AT_ONCE: usize = 64;

/// Before an agent that did not take it is told again.
const AGAIN: Duration = Duration::from_secs(30);

/// Ends only where the CA of the session's certificate is not in force any more.
pub async fn follow(sessions: &Sessions, peer: &Peer) -> End {
    let mut authorities = sessions.0.pki.watch();
    loop {
        let authority = authorities.borrow_and_update().clone();
        if !authority.has_signed(&peer.issuer()) {
            return End::close(close::UNAUTHORIZED, "the CA that signed this certificate is not in use any more");
        }
        let trusted = authority.trusted();
        let is_news = {
            let state = sessions.0.fleet.state();
            state.machines.get(&peer.machine).is_some_and(|machine| trust::must_be_told(machine, &trusted))
        };
        let wait = match is_news && !tell(sessions, peer, trusted).await {
            true => AGAIN,
            false => Duration::MAX,
        };
        // Cancel-safe: a change that is not taken here is seen in the next round. The authority outlives every session.
        let _ = tokio::time::timeout(wait, authorities.changed()).await;
    }
}

/// Whether the agent has it now, and the record says so.
async fn tell(sessions: &Sessions, peer: &Peer, cas: Vec<muster_protocol::Digest>) -> bool {
    let Ok(_turn) = sessions.0.telling.acquire().await else { return false };
    let id = peer.machine;
    match peer.call(&to_agent::Call::Trust { cas: cas.clone() }).await {
        Ok(to_agent::Answer::Accepted) => {
            let author = machine_author(id, remote(peer.connection()));
            let kept = sessions.0.fleet.change(author, move |draft| trust::told(draft, id, cas)).await;
            if let Err(error) = &kept {
                tracing::warn!(machine = %id, %error, "it is not kept that a machine follows the CA");
            }
            kept.is_ok()
        }
        Ok(answer) => {
            tracing::warn!(machine = %id, ?answer, "a machine does not follow the CA");
            false
        }
        Err(error) => {
            tracing::warn!(machine = %id, %error, "a machine could not be told of the CA");
            false
        }
    }
}
