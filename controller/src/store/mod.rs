//! The durable store: keys and values, written in batches that are on the disk when [`Store::commit`] returns.
//!
//! One owner, the fleet's writer thread, holds the store; everybody else reads the image that the writer publishes, or
//! through an [`Archive`] what is too much for an image.
//! The trait is what a distributed store could offer as well: [`Batch::expected`] is a compare-and-swap on the revision.
//! No file outside this folder knows which store it is.

mod ahead;
mod journal;
mod memory;
mod sled;

use std::ops::RangeInclusive;
use std::sync::Arc;

pub use self::sled::SledStore;
pub use memory::MemoryStore;

/// The largest value in bytes; larger things are files named by their digest.
pub const VALUE_LIMIT: usize = 64 * 1024;

/// The most writes in one batch. Larger ones make sled hold hundreds of megabytes (measured).
pub const BATCH_LIMIT: usize = 1_000;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the database open.
    #[error("the database in {path} is in use; is another controller running on this data directory?")]
    InUse {
        /// The data directory.
        path: String,
    },
    /// Too little room is left to accept writes; nothing was written.
    #[error("only {free_mib} MiB are free where the database lies, and {needed_mib} MiB must stay free; make room")]
    Full {
        /// What is left.
        free_mib: u64,
        /// The watermark.
        needed_mib: u64,
    },
    /// Somebody else committed in between; nothing was written.
    #[error("the store is at revision {actual}, not {expected}: another controller writes to it")]
    Conflict {
        /// What the batch expected.
        expected: u64,
        /// What the store has.
        actual: u64,
    },
    /// The batch is too large; nothing was written.
    #[error("{what} is over the store's limit")]
    TooLarge {
        /// What, with numbers.
        what: String,
    },
    /// The disk or the database failed: nothing may be assumed about the last batch, the process must end.
    #[error("the database failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Whether the store is as it was before the batch, so that the process may go on.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Full { .. } | Self::TooLarge { .. } => true,
            Self::InUse { .. } | Self::Conflict { .. } | Self::Failed(_) => false,
        }
    }
}

/// Writes that become durable together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The revision this batch was decided on; see [`StoreError::Conflict`].
    pub expected: u64,
    /// In order; a later write to the same key wins.
    pub writes: Vec<Write>,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Set a value.
    Put {
        /// Key.
        key: Vec<u8>,
        /// At most [`VALUE_LIMIT`] bytes.
        value: Vec<u8>,
    },
    /// Remove a key; nothing happens where it is absent.
    Delete {
        /// Key.
        key: Vec<u8>,
    },
}

/// Everything that a store holds, read once at start.
#[derive(Debug, Default)]
pub struct Contents {
    /// Grows by one with each batch; 0 for a new store.
    pub revision: u64,
    /// Keys and values in the order of the keys.
    pub entries: Vec<Entry>,
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// From which end a range is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the lowest key on.
    Ascending,
    /// From the highest key on.
    Descending,
}

/// Reads a store beside its writer, from any thread. It may see what is not durable yet: whoever reads knows up to where
/// it is.
pub trait Archive: Send + Sync + 'static {
    /// The first `most` of the keys and values between two keys, both included. Reads the disk: not for async code.
    fn range(&self, keys: RangeInclusive<Vec<u8>>, order: Order, most: usize) -> Result<Vec<Entry>, StoreError>;
}

/// A durable map from keys to values with one writer.
pub trait Store: Send + 'static {
    /// Reads everything but what is left in the archive: the keys that begin with `archived`.
    fn load(&mut self, archived: &[u8]) -> Result<Contents, StoreError>;

    /// For reading while it is written to. The store is in use for as long as one of these is there.
    fn archive(&self) -> Arc<dyn Archive>;

    /// Makes a batch durable: when this returns `Ok`, a power cut cannot take it back.
    ///
    /// Errors: after one that is no refusal ([`StoreError::is_refusal`]) the store must not be used again.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;
}

/// Refuses what no store here takes.
fn check_limits(batch: &Batch) -> Result<(), StoreError> {
    if batch.writes.len() > BATCH_LIMIT {
        return Err(StoreError::TooLarge { what: format!("a batch of {} writes", batch.writes.len()) });
    }
    for write in &batch.writes {
        if let Write::Put { key, value } = write
            && value.len() > VALUE_LIMIT
        {
            let key = String::from_utf8_lossy(key).into_owned();
            return Err(StoreError::TooLarge { what: format!("a value of {} bytes for {key:?}", value.len()) });
        }
    }
    Ok(())
}
