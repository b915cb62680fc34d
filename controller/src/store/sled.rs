//! The store on disk: sled, used the one way that was found safe.
//!
//! - One tree with key prefixes: sled's batches are atomic per tree only.
//! - `apply_batch`, then `flush`, then `sync_data` on the database file: sled's flush alone leaves data in the disk's
//!   write cache, and the file's growth unrecorded (it calls sync_file_range, which promises neither).
//! - Never `flush_async`: it deadlocks with concurrent callers.
//! - Values stay small: sled writes those over 128 KiB without any sync.
//! - A database on a full disk cannot be opened again, so writes stop while there is still room.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Archive, Batch, Contents, Entry, Order, Store, StoreError, Write, check_limits};

/// sled's cache. The image that readers use lies in our own memory, so this serves the writer and the archive's readers.
const CACHE_BYTES: u64 = 32 << 20;

/// Writes are refused while less than this is free.
const WATERMARK_BYTES: u64 = 64 << 20;

/// How often free space is looked at; a write burst cannot fill the watermark in between.
const SPACE_CHECK: Duration = Duration::from_secs(1);

/// How long a lock that the last process is about to drop is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Holds the revision, eight bytes big endian. Sorts before every prefix of the fleet's keys.
const REVISION_KEY: &[u8] = b"\0revision";

/// See the module.
#[derive(Debug)]
pub struct SledStore {
    tree: ::sled::Db,
    file: File,
    folder: PathBuf,
    revision: u64,
    space_checked: Option<Instant>,
    watermark: u64,
}

impl SledStore {
    /// Opens the database in `folder`, making both where they are missing.
    ///
    /// Errors: [`StoreError::InUse`] while another process has it, [`StoreError::Full`], [`StoreError::Failed`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(failed)?;
        check_space(folder, WATERMARK_BYTES)?;
        let config = ::sled::Config::new()
            .path(folder)
            .mode(::sled::Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        let give_up = Instant::now() + LOCK_WAIT;
        let tree = loop {
            match config.open() {
                Ok(tree) => break tree,
                Err(::sled::Error::Io(e)) if is_lock(&e) => {
                    if Instant::now() > give_up {
                        return Err(StoreError::InUse { path: folder.display().to_string() });
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(e) => return Err(failed(e)),
            }
        };
        // The file and the folder's entry for it must survive a power cut from the first write on.
        tree.flush().map_err(failed)?;
        let file = File::open(folder.join("db")).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        File::open(folder).and_then(|f| f.sync_all()).map_err(failed)?;
        let revision = match tree.get(REVISION_KEY).map_err(failed)? {
            None => 0,
            Some(bytes) => u64::from_be_bytes(
                bytes.as_ref().try_into().map_err(|_| failed("the stored revision is not eight bytes"))?,
            ),
        };
        Ok(Self { tree, file, folder: folder.to_owned(), revision, space_checked: None, watermark: WATERMARK_BYTES })
    }
}

impl SledStore {
    /// Whether nothing was ever committed to it, as far as it knows.
    pub fn is_new(&self) -> bool {
        self.revision == 0
    }
}

impl Store for SledStore {
    fn load(&mut self, archived: &[u8]) -> Result<Contents, StoreError> {
        let mut entries = Vec::new();
        let mut read = |part: ::sled::Iter| {
            for entry in part {
                let (key, value) = entry.map_err(failed)?;
                if key.as_ref() != REVISION_KEY && !key.starts_with(archived) {
                    entries.push((key.to_vec(), value.to_vec()));
                }
            }
            Ok(())
        };
        // What is left out is not even looked at.
        read(self.tree.range(..archived))?;
        if let Some(after) = after_all(archived) {
            read(self.tree.range(after..))?;
        }
        Ok(Contents { revision: self.revision, entries })
    }

    fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(SledArchive(self.tree.clone()))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        check_limits(batch)?;
        if batch.expected != self.revision {
            return Err(StoreError::Conflict { expected: batch.expected, actual: self.revision });
        }
        if self.space_checked.is_none_or(|at| at.elapsed() > SPACE_CHECK) {
            check_space(&self.folder, self.watermark)?;
            self.space_checked = Some(Instant::now());
        }
        let mut writes = ::sled::Batch::default();
        for write in &batch.writes {
            match write {
                Write::Put { key, value } => writes.insert(key.as_slice(), value.as_slice()),
                Write::Delete { key } => writes.remove(key.as_slice()),
            }
        }
        let revision = self.revision + 1;
        writes.insert(REVISION_KEY, &revision.to_be_bytes());
        self.tree.apply_batch(writes).map_err(failed)?;
        self.tree.flush().map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.revision = revision;
        Ok(())
    }
}

/// See [`Store::archive`].
struct SledArchive(::sled::Db);

impl Archive for SledArchive {
    fn range(&self, keys: RangeInclusive<Vec<u8>>, order: Order, most: usize) -> Result<Vec<Entry>, StoreError> {
        let found = self.0.range(keys).map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())));
        let found: Result<Vec<Entry>, _> = match order {
            Order::Ascending => found.take(most).collect(),
            Order::Descending => found.rev().take(most).collect(),
        };
        found.map_err(failed)
    }
}

/// The lowest key that comes after all that begin with `prefix`; none where there is no such key.
fn after_all(prefix: &[u8]) -> Option<Vec<u8>> {
    let (last, rest) = prefix.split_last()?;
    match last.checked_add(1) {
        Some(next) => Some([rest, &[next]].concat()),
        None => after_all(rest),
    }
}

fn failed(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Failed(e.into())
}

/// sled reports a held lock as an I/O error of kind `Other` with this text, or as `WouldBlock`.
fn is_lock(e: &std::io::Error) -> bool {
    e.kind() == std::io::ErrorKind::WouldBlock || e.to_string().contains("could not acquire lock")
}

fn check_space(folder: &Path, needed: u64) -> Result<(), StoreError> {
    let stat = rustix::fs::statvfs(folder).map_err(failed)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed {
        return Err(StoreError::Full { free_mib: free >> 20, needed_mib: needed >> 20 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(expected: u64, key: &str, value: &str) -> Batch {
        Batch { expected, writes: vec![Write::Put { key: key.into(), value: value.into() }] }
    }

    #[test]
    fn a_disk_that_is_nearly_full_refuses_writes_and_loses_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = SledStore::open(folder.path()).expect("opens");
        store.commit(&put(0, "m/1", "one")).expect("commits");
        (store.watermark, store.space_checked) = (u64::MAX, None);
        let refused = store.commit(&put(1, "m/2", "two")).expect_err("refused");
        assert!(matches!(refused, StoreError::Full { .. }) && refused.is_refusal(), "{refused}");
        // Somebody made room.
        (store.watermark, store.space_checked) = (0, None);
        store.commit(&put(1, "m/2", "two")).expect("commits");
        assert_eq!(store.load(b"log/").expect("loads").entries.len(), 2);
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = SledStore::open(folder.path()).expect("opens");
        store.commit(&put(0, "m/1", "one")).expect("commits");
        store.commit(&put(1, "m/2", "two")).expect("commits");
        store.commit(&Batch { expected: 2, writes: vec![Write::Delete { key: b"m/1".to_vec() }] }).expect("commits");
        drop(store);
        let contents = SledStore::open(folder.path()).expect("opens again").load(b"log/").expect("loads");
        assert_eq!(contents.revision, 3);
        assert_eq!(contents.entries, vec![(b"m/2".to_vec(), b"two".to_vec())]);
    }

    #[test]
    fn what_is_archived_is_read_in_ranges_and_not_loaded() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = SledStore::open(folder.path()).expect("opens");
        let keys = ["a/1", "log-end/", "log/1", "log/2", "log/3", "log0", "z/1"];
        for (revision, key) in keys.iter().enumerate() {
            store.commit(&put(revision as u64, key, key)).expect("commits");
        }
        let names = |entries: Vec<Entry>| -> Vec<String> {
            entries.into_iter().map(|(key, _)| String::from_utf8(key).expect("text")).collect()
        };
        assert_eq!(names(store.load(b"log/").expect("loads").entries), ["a/1", "log-end/", "log0", "z/1"]);
        let archive = store.archive();
        let range =
            |order, most| names(archive.range(b"log/".to_vec()..=b"log/3".to_vec(), order, most).expect("read"));
        assert_eq!(range(Order::Ascending, 2), ["log/1", "log/2"]);
        assert_eq!(range(Order::Descending, 9), ["log/3", "log/2", "log/1"]);
        assert_eq!([after_all(b"a\xff"), after_all(b"\xff"), after_all(b"")], [Some(b"b".to_vec()), None, None]);
    }

    #[test]
    fn a_batch_decided_on_an_old_revision_is_refused_and_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = SledStore::open(folder.path()).expect("opens");
        store.commit(&put(0, "m/1", "one")).expect("commits");
        assert!(matches!(store.commit(&put(0, "m/1", "other")), Err(StoreError::Conflict { expected: 0, actual: 1 })));
        assert_eq!(store.load(b"log/").expect("loads").entries, vec![(b"m/1".to_vec(), b"one".to_vec())]);
    }

    #[test]
    fn values_and_batches_over_the_limit_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = SledStore::open(folder.path()).expect("opens");
        let large = "x".repeat(super::super::VALUE_LIMIT + 1);
        assert!(store.commit(&put(0, "m/1", &large)).expect_err("too large").is_refusal());
        let many = Batch { expected: 0, writes: vec![Write::Delete { key: b"k".to_vec() }; 1_001] };
        assert!(store.commit(&many).expect_err("too many").is_refusal());
        assert_eq!(store.load(b"log/").expect("loads").revision, 0);
    }
}
