//! A store in memory, for tests: forgets everything with the process, and fails on demand.
//!
//! Clones share their contents, so that a test can open "the same disk" again after a simulated crash.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Archive, Batch, Contents, Entry, Order, Store, StoreError, Write, check_limits};

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

impl Archive for MemoryStore {
    fn range(&self, keys: RangeInclusive<Vec<u8>>, order: Order, most: usize) -> Result<Vec<Entry>, StoreError> {
        let inner = self.inner();
        let found = inner.entries.range(keys).map(|(key, value)| (key.clone(), value.clone()));
        Ok(match order {
            Order::Ascending => found.take(most).collect(),
            Order::Descending => found.rev().take(most).collect(),
        })
    }
}

impl Store for MemoryStore {
    fn load(&mut self, archived: &[u8]) -> Result<Contents, StoreError> {
        let inner = self.inner();
        let kept = inner.entries.iter().filter(|(key, _)| !key.starts_with(archived));
        Ok(Contents { revision: inner.revision, entries: kept.map(|(k, v)| (k.clone(), v.clone())).collect() })
    }

    fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(self.clone())
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
