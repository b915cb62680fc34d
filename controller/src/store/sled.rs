//! The store on disk: sled behind a [`journal`] of our own, which makes a batch durable with one write and one flush of the
//! disk. sled gets what is in a journal when that is full, all at once and from a thread of its own, while the other one
//! is written to. What is in no journal any more is durable in sled.
//!
//! sled is used the one way that was found safe:
//!
//! - One tree with key prefixes: sled's batches are atomic per tree only.
//! - `apply_batch`, then `flush`, then `sync_data` on the database file: sled's flush alone leaves data in the disk's
//!   write cache, and the file's growth unrecorded (it calls sync_file_range, which promises neither).
//! - Large batches make it hold hundreds of megabytes. So it gets what it gets in parts, and the revision with the last of
//!   them: an open that finds an earlier one does all of them again.
//! - Never `flush_async`: it deadlocks with concurrent callers.
//! - Values stay small: sled writes those over 128 KiB without any sync.
//! - A database on a full disk cannot be opened again, so writes stop while there is still room.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ahead::{Ahead, Change, Writes};
use super::journal::{self, Journal, Record, Salt};
use super::{Archive, BATCH_LIMIT, Batch, Contents, Entry, Order, Store, StoreError, check_limits};

/// sled's cache. The image that readers use lies in our own memory, so this serves the writer and the archive's readers.
const CACHE_BYTES: u64 = 32 << 20;

/// Writes are refused while less than this is free.
const WATERMARK_BYTES: u64 = 64 << 20;

/// How often free space is looked at; a write burst cannot fill the watermark in between.
const SPACE_CHECK: Duration = Duration::from_secs(1);

/// How much is written to one journal before the other's turn.
const TURN_BYTES: u64 = 4 << 20;

/// How long a lock that the last process is about to drop is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// First byte of our own keys. They sort before every prefix of the fleet's.
const OWN: u8 = 0;

/// Holds the revision, eight bytes big endian.
const REVISION_KEY: &[u8] = b"\0revision";

/// Holds what the records in the journals are known by.
const SALT_KEY: &[u8] = b"\0journal";

/// The journals, beside the database.
const JOURNALS: [&str; 2] = ["journal.0", "journal.1"];

/// See the module.
#[derive(Debug)]
pub struct SledStore {
    database: Arc<Database>,
    salt: Salt,
    journals: [Journal; 2],
    /// Which of them is written to.
    current: usize,
    /// Puts what is in the other one into the database.
    settling: Option<JoinHandle<Result<(), StoreError>>>,
    folder: PathBuf,
    revision: u64,
    space_checked: Option<Instant>,
    watermark: u64,
    turn_bytes: u64,
}

/// sled, and what it does not have yet.
#[derive(Debug)]
struct Database {
    tree: ::sled::Db,
    file: File,
    ahead: Mutex<Ahead>,
}

impl SledStore {
    /// Opens the database in `folder`, making both where they are missing.
    ///
    /// Errors: [`StoreError::InUse`] while another process has it, [`StoreError::Full`], [`StoreError::Failed`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(failed)?;
        check_space(folder, WATERMARK_BYTES)?;
        let tree = open_tree(folder)?;
        // The file and the folder's entry for it must survive a power cut from the first write on.
        tree.flush().map_err(failed)?;
        let file = File::open(folder.join("db")).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let database = Database { tree, file, ahead: Mutex::default() };
        let salt = match database.own::<16>(SALT_KEY)? {
            Some(salt) => salt,
            None => begin_journals(folder, &database)?,
        };
        let stored = database.own::<8>(REVISION_KEY)?.map_or(0, u64::from_be_bytes);
        let (first, mut records) = open_journal(folder, JOURNALS[0], &salt)?;
        let (second, more) = open_journal(folder, JOURNALS[1], &salt)?;
        records.extend(more);
        let revision = database.recover(stored, records)?;
        Ok(Self {
            database: Arc::new(database),
            salt,
            journals: [first, second],
            current: 0,
            settling: None,
            folder: folder.to_owned(),
            revision,
            space_checked: None,
            watermark: WATERMARK_BYTES,
            turn_bytes: TURN_BYTES,
        })
    }

    /// With shorter turns, for tests that want many of them.
    #[must_use]
    pub fn turning_after(self, bytes: u64) -> Self {
        let mut store = self;
        store.turn_bytes = bytes;
        store
    }

    /// Whether nothing was ever committed to it, as far as it knows.
    pub fn is_new(&self) -> bool {
        self.revision == 0
    }

    /// Goes on in the other journal, once the database has what is in that one.
    fn turn(&mut self) -> Result<(), StoreError> {
        self.settle()?;
        let writes = {
            let mut ahead = self.database.ahead();
            ahead.going = std::mem::take(&mut ahead.newest);
            ahead.going.clone()
        };
        let (database, revision) = (self.database.clone(), self.revision);
        let settle = move || {
            database.apply(&writes, revision)?;
            database.ahead().going = Writes::new();
            Ok(())
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(settle).map_err(failed)?;
        self.settling = Some(thread);
        self.current = 1 - self.current;
        self.journals[self.current].turn();
        Ok(())
    }

    /// Waits until the database has what is in the journal that is not written to.
    fn settle(&mut self) -> Result<(), StoreError> {
        let Some(thread) = self.settling.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(failed("the thread that writes the database panicked")))
    }
}

fn open_tree(folder: &Path) -> Result<::sled::Db, StoreError> {
    let config = ::sled::Config::new()
        .path(folder)
        .mode(::sled::Mode::LowSpace)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match config.open() {
            Ok(tree) => return Ok(tree),
            Err(::sled::Error::Io(e)) if is_lock(&e) => {
                if Instant::now() > give_up {
                    return Err(StoreError::InUse { path: folder.display().to_string() });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Makes the journals of a database that has none.
fn begin_journals(folder: &Path, database: &Database) -> Result<Salt, StoreError> {
    for name in JOURNALS {
        let path = folder.join(name);
        Journal::create(&path).map_err(|e| failed(format!("{}: {e}", path.display())))?;
    }
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed)?;
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(failed)?;
    database.tree.insert(SALT_KEY, &salt).map_err(failed)?;
    database.sync()?;
    Ok(salt)
}

fn open_journal(folder: &Path, name: &str, salt: &Salt) -> Result<(Journal, Vec<Record>), StoreError> {
    let path = folder.join(name);
    Journal::open(&path, salt).map_err(|e| {
        let path = path.display();
        failed(match e.kind() {
            ErrorKind::NotFound => format!(
                "{path} is not there, and may have held the newest changes; restore the whole folder from one backup, or \
                 make it as an empty file and go on without them"
            ),
            _ => format!("{path}: {e}"),
        })
    })
}

impl Database {
    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of our own values.
    fn own<const N: usize>(&self, key: &[u8]) -> Result<Option<[u8; N]>, StoreError> {
        let Some(bytes) = self.tree.get(key).map_err(failed)? else { return Ok(None) };
        let wrong = |_| failed(format!("the stored {:?} is not {N} bytes", String::from_utf8_lossy(&key[1..])));
        bytes.as_ref().try_into().map(Some).map_err(wrong)
    }

    /// Brings sled from the revision that it has to that of the newest record, and says which that is.
    ///
    /// A record is written when the one before it is durable. So one that is missing was acknowledged and is lost.
    fn recover(&self, stored: u64, mut records: Vec<Record>) -> Result<u64, StoreError> {
        records.retain(|record| record.revision > stored);
        records.sort_by_key(|record| record.revision);
        let mut ahead = Ahead::default();
        let mut revision = stored;
        for record in records {
            if record.revision != revision + 1 {
                return Err(failed(format!(
                    "it is damaged: change {} is not in it, and {} is; restore the whole folder from one backup",
                    revision + 1,
                    record.revision
                )));
            }
            revision = record.revision;
            ahead.add(&record.writes);
        }
        if revision > stored {
            self.apply(&ahead.newest, revision)?;
        }
        Ok(revision)
    }

    /// Puts writes into sled, durably.
    fn apply(&self, writes: &Writes, revision: u64) -> Result<(), StoreError> {
        let mut part = ::sled::Batch::default();
        for (number, (key, value)) in writes.iter().enumerate() {
            if number > 0 && number % BATCH_LIMIT == 0 {
                self.tree.apply_batch(std::mem::take(&mut part)).map_err(failed)?;
                // No part must be there without those before it: the last one has the revision.
                self.sync()?;
            }
            match value {
                Some(value) => part.insert(key.as_slice(), value.as_ref()),
                None => part.remove(key.as_slice()),
            }
        }
        part.insert(REVISION_KEY, &revision.to_be_bytes());
        self.tree.apply_batch(part).map_err(failed)?;
        self.sync()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.tree.flush().map_err(failed)?;
        self.file.sync_data().map_err(failed)
    }

    /// What is in this range, or will be once sled has it all.
    fn read<R: RangeBounds<Vec<u8>> + Clone>(
        &self,
        keys: R,
        order: Order,
        most: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        // First what sled has not: what it gets meanwhile is there twice then, and nothing is missing.
        let ahead = self.ahead().clone();
        let found = self.tree.range::<Vec<u8>, R>(keys.clone());
        let change = |found: Result<_, ::sled::Error>| -> Change {
            found.map(|(key, value): (::sled::IVec, ::sled::IVec)| (key.to_vec(), Some(value.to_vec()))).map_err(failed)
        };
        let found: Box<dyn Iterator<Item = Change>> = match order {
            Order::Ascending => Box::new(found.map(change)),
            Order::Descending => Box::new(found.rev().map(change)),
        };
        let all = ahead.over(found, keys, order);
        let there = all.filter_map(|change| change.map(|(key, value)| Some((key, value?))).transpose());
        there.take(most).collect()
    }
}

impl Store for SledStore {
    fn load(&mut self, archived: &[u8]) -> Result<Contents, StoreError> {
        // What is left out is not even looked at.
        let before = (Bound::Included(vec![OWN + 1]), Bound::Excluded(archived.to_vec()));
        let mut entries = self.database.read(before, Order::Ascending, usize::MAX)?;
        if let Some(after) = after_all(archived) {
            entries.extend(self.database.read(after.., Order::Ascending, usize::MAX)?);
        }
        Ok(Contents { revision: self.revision, entries })
    }

    fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(SledArchive(self.database.clone()))
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
        if self.settling.as_ref().is_some_and(JoinHandle::is_finished) {
            self.settle()?;
        }
        let revision = self.revision + 1;
        let record = journal::encode(&self.salt, revision, &batch.writes);
        if !self.journals[self.current].has_room(&record, self.turn_bytes) {
            self.turn()?;
        }
        self.journals[self.current].append(&record).map_err(failed)?;
        self.database.ahead().add(&batch.writes);
        self.revision = revision;
        Ok(())
    }
}

/// Who ends in order leaves everything in the database. Where that fails, the journals have it.
impl Drop for SledStore {
    fn drop(&mut self) {
        if self.settle().is_err() {
            return;
        }
        let Ahead { newest, going } = self.database.ahead().clone();
        // What comes later must not be there without what came before it.
        if going.is_empty() && !newest.is_empty() && self.database.apply(&newest, self.revision).is_err() {
            tracing::warn!("what is new goes into the database at the next start");
        }
    }
}

/// See [`Store::archive`].
struct SledArchive(Arc<Database>);

impl Archive for SledArchive {
    fn range(&self, keys: RangeInclusive<Vec<u8>>, order: Order, most: usize) -> Result<Vec<Entry>, StoreError> {
        self.0.read(keys, order, most)
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
    e.kind() == ErrorKind::WouldBlock || e.to_string().contains("could not acquire lock")
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
    use tempfile::TempDir;

    use super::super::Write;
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

    /// What a kill leaves at this moment, opened as the next start does.
    fn killed(store: &SledStore) -> (TempDir, Result<SledStore, StoreError>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&store.folder, folder.path());
        let opened = SledStore::open(folder.path());
        (folder, opened)
    }

    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).expect("there") {
            let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("there");
            if from.is_dir() {
                std::fs::create_dir(&to).expect("made");
                copy(&from, &to);
            } else {
                std::fs::copy(from, to).expect("copied");
            }
        }
    }

    #[test]
    fn what_was_committed_is_there_after_a_kill_at_any_moment_of_many_turns() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = SledStore::open(folder.path()).expect("opens").turning_after(5 * 4096);
        let mut expected = std::collections::BTreeMap::<Vec<u8>, Vec<u8>>::new();
        for revision in 0..60_u64 {
            let key = |n: u64| format!("m/{:02}", (revision * n) % 31).into_bytes();
            let value = revision.to_string().into_bytes();
            let writes = vec![Write::Put { key: key(7), value: value.clone() }, Write::Delete { key: key(13) }];
            expected.insert(key(7), value);
            expected.remove(&key(13));
            store.commit(&Batch { expected: revision, writes }).expect("commits");
            // A turn ago, in the middle of it, or just now.
            let is_settled = revision % 3 == 0 && store.settle().is_ok();
            if revision % 4 == 0 || is_settled {
                if !is_settled {
                    store.settle().expect("settled");
                    // As if sled had got some of what it does not have yet, and not the revision.
                    for (key, value) in store.database.ahead().newest.iter().step_by(2) {
                        if let Some(value) = value {
                            store.database.tree.insert(key, value.as_ref()).expect("inserted");
                        }
                    }
                    store.database.sync().expect("durable");
                }
                let (_folder, opened) = killed(&store);
                let contents = opened.and_then(|mut store| store.load(b"log/")).expect("opens after a kill");
                assert_eq!(contents.revision, revision + 1);
                assert_eq!(contents.entries, expected.clone().into_iter().collect::<Vec<_>>());
            }
            let now = store.load(b"log/").expect("loads").entries;
            assert_eq!(now, expected.clone().into_iter().collect::<Vec<_>>(), "read while it is written to");
        }
    }

    #[test]
    fn what_was_written_and_not_acknowledged_may_be_torn_and_what_was_acknowledged_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = SledStore::open(folder.path()).expect("opens");
        for (revision, key) in ["m/1", "m/2", "m/3"].iter().enumerate() {
            store.commit(&put(revision as u64, key, key)).expect("commits");
        }
        let damage = |record: u64| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            copy(&store.folder, folder.path());
            let journal = File::options().write(true).open(folder.path().join(JOURNALS[0])).expect("there");
            std::os::unix::fs::FileExt::write_all_at(&journal, b"torn", record * 4096 + 60).expect("written");
            SledStore::open(folder.path()).map(|store| store.revision)
        };
        assert!(matches!(damage(2), Ok(2)), "the last one may be one that nobody was told of");
        let error = damage(1).expect_err("the third one was written after the second one was acknowledged");
        assert!(matches!(error, StoreError::Failed(why) if why.to_string().contains("change 2 is not in it")));
    }

    #[test]
    fn a_journal_that_is_gone_is_missed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        drop(SledStore::open(folder.path()).expect("opens"));
        std::fs::remove_file(folder.path().join(JOURNALS[1])).expect("removed");
        let error = SledStore::open(folder.path()).expect_err("refused");
        assert!(matches!(error, StoreError::Failed(why) if why.to_string().contains("journal.1 is not there")));
        File::create(folder.path().join(JOURNALS[1])).expect("made");
        SledStore::open(folder.path()).expect("somebody goes on without it");
    }
}
