//! The writer thread: takes changes from the queue, many at a time, makes them durable in one batch, then answers.
//!
//! Order: decide all, commit, publish the new state, answer. Nobody sees what is not on the disk.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::audit::Head;
use super::ledger::{self, Ledger};
use super::record::AuditHead;
use super::{Draft, Refusal, Request, State};
use crate::clock::now_unix_ms;
use crate::store::{Batch, Store, StoreError};

/// The most changes that share one batch.
const CHANGES_PER_BATCH: usize = 512;

/// How the writer ended.
#[derive(Debug)]
pub enum Ended {
    /// All handles are gone.
    Idle,
    /// The store failed: nothing may be assumed about the last batch.
    StoreFailed(StoreError),
}

type Started = (watch::Receiver<Arc<State>>, oneshot::Receiver<Ended>);

pub(super) fn start(
    mut store: Box<dyn Store>,
    ledger: &Ledger,
    queue: mpsc::Receiver<Request>,
) -> Result<Started, StoreError> {
    let contents = store.load(ledger::PREFIX)?;
    let revision = contents.revision;
    let mut state = State::load(contents.entries).map_err(|e| StoreError::Failed(e.into()))?;
    if state.audit_head.is_empty()
        && let Some(newest) = ledger.back(0, u64::MAX, 1).map_err(|e| StoreError::Failed(e.into()))?.first()
    {
        // Somebody took the record away: the log goes on where it is, and its check says so.
        state.put(AuditHead::from(Head::at(newest)));
    }
    let (publish, state_seen) = watch::channel(Arc::new(state.clone()));
    let (ended, ended_seen) = oneshot::channel();
    std::thread::Builder::new()
        .name("fleet-writer".into())
        .spawn(move || {
            let writer = Writer { store, queue, publish, state, revision };
            let _ = ended.send(writer.run());
        })
        .map_err(|e| StoreError::Failed(e.into()))?;
    Ok((state_seen, ended_seen))
}

struct Writer {
    store: Box<dyn Store>,
    queue: mpsc::Receiver<Request>,
    publish: watch::Sender<Arc<State>>,
    state: State,
    revision: u64,
}

impl Writer {
    fn run(mut self) -> Ended {
        while let Some(first) = self.queue.blocking_recv() {
            if let Err(e) = self.round(first) {
                return Ended::StoreFailed(e);
            }
        }
        Ended::Idle
    }

    /// Decides and commits one batch. Errors are fatal.
    fn round(&mut self, first: Request) -> Result<(), StoreError> {
        let mut draft = Draft::new(self.state.clone(), now_unix_ms());
        let mut answers = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next {
            draft.author = request.author;
            answers.push((request.job)(&mut draft));
            let room = answers.len() < CHANGES_PER_BATCH && draft.has_room();
            next = if room { self.queue.try_recv().ok() } else { None };
        }
        let (state, writes) = draft.finish();
        if !writes.is_empty() {
            match self.store.commit(&Batch { expected: self.revision, writes }) {
                Ok(()) => {
                    self.revision += 1;
                    self.state = state;
                    self.publish.send_replace(Arc::new(self.state.clone()));
                }
                Err(e) if e.is_refusal() => {
                    let refusal = Refusal::StoreRefused(e.to_string());
                    answers.into_iter().for_each(|answer| answer(Some(refusal.clone())));
                    return Ok(());
                }
                Err(e) => {
                    answers.into_iter().for_each(|answer| answer(Some(Refusal::StoreFailed)));
                    return Err(e);
                }
            }
        }
        answers.into_iter().for_each(|answer| answer(None));
        Ok(())
    }
}
