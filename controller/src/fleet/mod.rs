//! The fleet: everything that is known and wanted, and the one writer that changes it.
//!
//! Reading is free: [`Fleet::state`] hands out the newest durable [`State`], an immutable value that stays as it is for
//! as long as it is held.
//! Changing goes through [`Fleet::change`]: a plain function from a [`Draft`] to an answer, run by the writer thread,
//! answered when its writes are on the disk.
//! The functions live in the files named after what they decide about ([`machine`], [`operation`], …); they do no I/O
//! and take time and randomness from the draft, so that tests call them directly.

pub mod access;
pub mod answered;
pub mod converge;
pub mod draft;
pub mod enrollment;
pub mod lease;
pub mod location;
pub mod machine;
pub mod operation;
pub mod record;
pub mod rollout;
pub mod state;
mod writer;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

pub use access::facts::Facts;
pub use access::{audit, credential, ledger};
pub use draft::{Author, Draft};
pub use enrollment::{identity, iso, policy, ticket};
pub use lease::model;
pub use location::{address, free, pool, subnet};
pub use state::State;
pub use writer::Ended;

use crate::store::{Store, StoreError};
use crate::words::{hides, plain};

/// How many changes may wait for the writer before callers wait for a place.
const QUEUE: usize = 4096;

/// Why a change was not made. Nothing was changed.
///
/// The text is for the person who asked, and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// `machine`, `location`, ….
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A value is not acceptable.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which one, as the API names it.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The thing is in a state that does not allow it, or exists already.
    #[error("{0}")]
    Conflict(String),
    /// The machine would have to be asked, and is not there.
    #[error("the machine is offline, and only its agent can carry this out")]
    Offline,
    /// No agent can do this to the machine now, and nothing was named that could from outside.
    #[error(
        "no agent can {} the machine now, and nothing was named that could from outside; `muster machine bmc set` names its \
         BMC, `muster machine outlet set` its outlet", wish.word()
    )]
    Unswitchable {
        /// What was to be done.
        wish: machine::controls::Switch,
    },
    /// There is none left.
    #[error("{0}")]
    Exhausted(String),
    /// The change was made from a version of the thing that is no longer the current one.
    #[error("the {kind} was changed by somebody else; read it again")]
    Outdated {
        /// `machine`, ….
        kind: &'static str,
    },
    /// An enrollment was refused; the agent shows this reason.
    #[error("{0}")]
    Enrollment(#[from] muster_protocol::enroll::Refusal),
    /// The store takes no more writes; nothing was lost.
    #[error("the controller cannot write: {0}")]
    StoreRefused(String),
    /// The store failed and the controller is about to end.
    #[error("the controller's database failed; the change may or may not be there after its restart")]
    StoreFailed,
    /// A mistake in the controller.
    #[error("the controller made a mistake; the change was not made, its log has the details")]
    Internal,
}

impl Refusal {
    /// Shorthand for [`Refusal::Invalid`].
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

/// Whether this may be a name or another text of one line for people, which may be empty: each of its characters is seen for
/// what it is, and no blank stands at either end.
pub(crate) fn check_text(field: impl Into<String>, text: &str, most: usize) -> Result<(), Refusal> {
    if text.len() <= most && text.trim() == text && !text.contains(hides) {
        return Ok(());
    }
    let problem = format!(
        "{:?} is no text of one line: at most {most} bytes, no blank at its ends, no control characters and none that are \
         invisible or turn the writing around",
        plain(text, 80)
    );
    Err(Refusal::invalid(field, problem))
}

type Job = Box<dyn FnOnce(&mut Draft) -> Box<dyn FnOnce(Option<Refusal>) + Send> + Send>;

struct Request {
    author: Author,
    job: Job,
}

/// A handle to the fleet; clones are the same fleet.
#[derive(Clone)]
pub struct Fleet {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<Arc<State>>,
    ledger: ledger::Ledger,
}

impl Fleet {
    /// Loads what `store` holds and starts the writer thread.
    ///
    /// The receiver resolves when the writer ends: on a failed store, after which the process must end too, or when
    /// every handle is gone.
    ///
    /// Errors: the store cannot be read, or holds records that this version does not know.
    pub fn start(store: impl Store) -> Result<(Self, oneshot::Receiver<Ended>), StoreError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let ledger = ledger::Ledger::new(store.archive());
        let (state, ended) = writer::start(Box::new(store), &ledger, queue)?;
        Ok((Self { requests, state, ledger }, ended))
    }

    /// The entries of the audit log, which are not in the [`State`]; what it says of their end is durable.
    pub fn ledger(&self) -> ledger::Ledger {
        self.ledger.clone()
    }

    /// The newest durable state.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Tells of every new durable state, the newest only: what came in between is in it.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    /// How many changes wait for the writer, for tests that force an order.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.requests.max_capacity() - self.requests.capacity()
    }

    /// Runs `decide` in the writer and answers when what it wrote is durable.
    /// After an `Err` from `decide` nothing of what it wrote remains.
    ///
    /// Not cancel-safe in one sense: a dropped future does not stop a change that is already queued.
    pub async fn change<T, F>(&self, author: Author, decide: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft) -> Result<T, Refusal> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |draft| {
            let result = draft.attempt(decide);
            Box::new(move |failure| {
                // The asker may have gone away; the change stands all the same.
                let _ = answer.send(match failure {
                    None => result,
                    Some(refusal) => Err(refusal),
                });
            })
        });
        self.requests.send(Request { author, job }).await.map_err(|_| Refusal::StoreFailed)?;
        answered.await.map_err(|_| Refusal::StoreFailed)?
    }
}
