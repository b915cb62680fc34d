//! The audit log's entries: too many for memory, so they stay in the store and are read from there.
//!
//! Entries are written by [`super::super::Draft`] in one batch with the record of where the log ends. That record is in
//! the state, so what is read up to it is durable.

use std::sync::Arc;

use crate::fleet::record::{AuditEntry, AuditHead};
use crate::fleet::state::{read_value, stored_key};
use crate::store::{Archive, Entry, Order, StoreError};

use super::audit::Head;

/// First bytes of the keys of entries; never changes.
pub const PREFIX: &[u8] = b"audit/";

/// The key of the entry with this number.
pub fn key(seq: u64) -> Vec<u8> {
    [PREFIX, &seq.to_be_bytes()].concat()
}

/// Why entries cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store's words.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Written by a newer version, or damaged.
    #[error("the audit entry {seq} cannot be read; it was written by a newer version or is damaged")]
    Unreadable {
        /// Which.
        seq: u64,
    },
}

/// Reads entries; clones read the same ones. Waits for the disk: not for async code, but for `spawn_blocking`.
#[derive(Clone)]
pub struct Ledger(Arc<dyn Archive>);

impl Ledger {
    /// Of the store with this archive.
    pub fn new(archive: Arc<dyn Archive>) -> Self {
        Self(archive)
    }

    /// The first `most` entries from number `first` to number `last`, oldest first.
    pub fn from(&self, first: u64, last: u64, most: usize) -> Result<Vec<AuditEntry>, LedgerError> {
        self.read(first, last, Order::Ascending, most)
    }

    /// The last `most` entries from number `first` to number `last`, newest first.
    pub fn back(&self, first: u64, last: u64, most: usize) -> Result<Vec<AuditEntry>, LedgerError> {
        self.read(first, last, Order::Descending, most)
    }

    /// The entries from number `first` to number `last`, read in parts, oldest first.
    pub fn all(&self, first: u64, last: u64) -> impl Iterator<Item = Result<AuditEntry, LedgerError>> {
        let ledger = self.clone();
        parts(first, move |from| ledger.from(from, last, AT_ONCE), |entry| entry.seq.checked_add(1))
    }

    /// The same, newest first.
    pub fn all_back(&self, first: u64, last: u64) -> impl Iterator<Item = Result<AuditEntry, LedgerError>> {
        let ledger = self.clone();
        parts(last, move |to| ledger.back(first, to, AT_ONCE), |entry| entry.seq.checked_sub(1))
    }

    /// Where the store says that the log ends; `None` where it does not say.
    pub fn head(&self) -> Result<Option<Head>, LedgerError> {
        let key = stored_key::<AuditHead>(&0);
        let found = self.0.range(key.clone()..=key, Order::Ascending, 1)?;
        let read = |(_, value): &Entry| read_value::<AuditHead>(value);
        let unreadable = LedgerError::Unreadable { seq: 0 };
        let head = found.first().map(|entry| read(entry).ok_or(unreadable)).transpose()?;
        Ok(head.map(|AuditHead { seq, digest }: AuditHead| Head { seq, digest }))
    }

    fn read(&self, first: u64, last: u64, order: Order, most: usize) -> Result<Vec<AuditEntry>, LedgerError> {
        if first > last {
            return Ok(Vec::new());
        }
        let found = self.0.range(key(first)..=key(last), order, most)?;
        found.iter().map(|(key, value)| entry(key, value)).collect()
    }
}

/// So many are in memory at once.
const AT_ONCE: usize = 500;

/// What `read` finds from `begin` on, part by part; `next` says where the part after an entry begins.
fn parts(
    begin: u64,
    read: impl Fn(u64) -> Result<Vec<AuditEntry>, LedgerError>,
    next: impl Fn(&AuditEntry) -> Option<u64>,
) -> impl Iterator<Item = Result<AuditEntry, LedgerError>> {
    let mut at = Some(begin);
    let part = move || {
        let found = match read(at?) {
            Ok(found) => found,
            Err(error) => {
                at = None;
                return Some(vec![Err(error)]);
            }
        };
        at = found.last().and_then(&next);
        (!found.is_empty()).then(|| found.into_iter().map(Ok).collect::<Vec<_>>())
    };
    std::iter::from_fn(part).flatten()
}

fn entry(key: &[u8], value: &[u8]) -> Result<AuditEntry, LedgerError> {
    let seq = key.get(PREFIX.len()..).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
    read_value::<AuditEntry>(value).filter(|entry| entry.seq == seq).ok_or(LedgerError::Unreadable { seq })
}
