//! What the API needs of the live sessions: who is there, and a question to one of them.
//!
//! The sessions implement [`Live`]; tests have a fleet of their own making.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use muster_protocol::hello::Progress;
use muster_protocol::to_agent::{Answer, Call};
use muster_protocol::{BootId, MachineId};

pub use crate::fleet::enrollment::Alive;
use crate::fleet::rollout::keep::Contacts;
use crate::fleet::rollout::waves::Contact;

/// How long a controller that has just started waits for machines to dial in before it counts them as away.
const SETTLE_MS: u64 = 120_000;

/// Whether a machine can be spoken with now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It has a session.
    Online(Session),
    /// It has none.
    Offline {
        /// When the last one ended; absent where there was none since the controller started.
        since_unix_ms: Option<u64>,
    },
}

/// A session that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// When it said hello.
    pub since_unix_ms: u64,
    /// The boot it belongs to.
    pub boot: BootId,
    /// Where it comes from.
    pub from: SocketAddr,
    /// The agent's version.
    pub agent: String,
    /// What it last said of its desired state.
    pub progress: Progress,
}

/// Why a machine did not answer a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It has no session.
    #[error("the machine is offline")]
    Offline,
    /// It has one, and did not answer in time or broke off; it may or may not have heard.
    #[error("the machine did not answer: {0}")]
    Unanswered(String),
    /// The call is larger than a frame.
    #[error("the call is too large to send")]
    TooLarge,
}

/// The live sessions.
pub trait Live: Send + Sync + 'static {
    /// Whether the machine is there; never waits.
    fn presence(&self, machine: MachineId) -> Presence;

    /// Counts comings and goings: while it stays the same, nobody came and nobody went.
    fn moves(&self) -> u64;

    /// Whether the machine lives; never waits, so that it may be asked inside a change of the fleet.
    fn alive(&self, machine: MachineId) -> Alive;

    /// Asks an online machine and waits for its answer, within a limit of the implementation's choice.
    /// Only for calls that change nothing: what changes a machine goes through the fleet.
    fn call(&self, machine: MachineId, call: Call) -> BoxFuture<'_, Result<Answer, CallError>>;
}

/// Who is in contact, for rollouts. Who was not seen since the controller started is not taken for away before everybody
/// could dial in.
pub fn contacts(live: Arc<dyn Live>, started_unix_ms: u64) -> Contacts {
    Arc::new(move |machine| match live.presence(machine) {
        Presence::Online(session) => Contact::Online { since_unix_ms: session.since_unix_ms },
        Presence::Offline { since_unix_ms } => {
            Contact::Offline { since_unix_ms: since_unix_ms.unwrap_or(started_unix_ms + SETTLE_MS) }
        }
    })
}
