//! The writer thread: takes changes from the queue, many at a time, makes them durable in one batch, then answers.
//!
//! Order: decide all, commit, publish the new state, answer. Nobody sees what is not on the disk.
//!
//! Whoever was answered together comes back together. Where a disk takes long, the first of them is held back until the
//! others are there: otherwise they would wait for its commit and then for their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::audit::Head;
use super::ledger::{self, Ledger};
use super::record::AuditHead;
use super::{Draft, Refusal, Request, State};
use crate::clock::now_unix_ms;
use crate::store::{Batch, Store, StoreError};

/// The most changes that share one batch.
const CHANGES_PER_BATCH: usize = 512;

/// Commits that take less are not worth waiting for company.
const LONG: Duration = Duration::from_millis(1);

/// The longest that anybody is held back.
const HELD_BACK: Duration = Duration::from_millis(10);

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
            let writer = Writer { store, queue, publish, state, revision, took: Default::default(), company: 0 };
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
    /// How long the last two commits took: one alone says more of what else the computer does than of the disk.
    took: [Duration; 2],
    /// How many were answered with it or had come meanwhile.
    company: usize,
}

impl Writer {
    fn run(mut self) -> Ended {
        while let Some(first) = self.queue.blocking_recv() {
            self.wait_for_company();
            if let Err(e) = self.round(first) {
                return Ended::StoreFailed(e);
            }
        }
        Ended::Idle
    }

    /// Waits until as many are there as lately, for half as long as their commit will take.
    fn wait_for_company(&self) {
        let took = self.took[0].min(self.took[1]);
        if took < LONG {
            return;
        }
        let end = Instant::now() + (took / 2).min(HELD_BACK);
        while self.queue.len() + 1 < self.company.min(CHANGES_PER_BATCH) && Instant::now() < end {
            std::thread::sleep(LONG / 10);
        }
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
            let began = Instant::now();
            let committed = self.store.commit(&Batch { expected: self.revision, writes });
            self.took = [self.took[1], began.elapsed()];
            self.company = answers.len() + self.queue.len();
            match committed {
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
