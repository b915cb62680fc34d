//! A store in memory, for tests: forgets everything with the process, and fails on demand.
//!
//! Clones share their contents, so that a test can open "the same disk" again after a simulated crash.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Batch, Contents, Store, StoreError, Write, check_limits};

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    commits_until_failure: Option<u32>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `commits` more batches through, then fails every one, as a dying disk would.
    pub fn fail_after(&self, commits: u32) {
        self.inner().commits_until_failure = Some(commits);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let inner = self.inner();
        let entries = inner.entries.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Contents { revision: inner.revision, entries })
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        check_limits(batch)?;
        let mut inner = self.inner();
        match &mut inner.commits_until_failure {
            Some(0) => return Err(StoreError::Failed("the test's disk failed".into())),
            Some(left) => *left -= 1,
            None => {}
        }
        if inner.revision != batch.expected {
            return Err(StoreError::Conflict { expected: batch.expected, actual: inner.revision });
        }
        for write in &batch.writes {
            match write {
                Write::Put { key, value } => inner.entries.insert(key.clone(), value.clone()),
                Write::Delete { key } => inner.entries.remove(key),
            };
        }
        inner.revision += 1;
        Ok(())
    }
}
