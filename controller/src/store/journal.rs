//! A file in which batches are made durable one after the other, before the database has them.
//!
//! Each batch is one record that begins at a block's beginning, so that no block with an acknowledged record in it is ever
//! written again while it counts. The file is written over and over from its beginning, which needs no more than one flush
//! of the disk for a batch: it has all of its blocks already. What counts is told by the revisions: a record that is left
//! of an earlier turn has one that the database has.
//!
//! | bytes | what a record is |
//! | --- | --- |
//! | 8 | `MUSTERJ1` |
//! | 32 | SHA-256 of the salt, which the database holds, and all that follows |
//! | 4 | how long the writes are, little endian, as all numbers here |
//! | 8 | the revision |
//! | … | writes: 1 for a value, 0 for a key that goes; length of the key, the key; for a value its length, and it |

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::Write;

/// Disks and their caches write so many bytes whole, or fewer.
const BLOCK: usize = 4096;

/// By how much the file grows, in its first turn.
const GROWS: u64 = 128 << 10;

const MAGIC: [u8; 8] = *b"MUSTERJ1";

/// Where the bytes begin that the digest is of.
const SUMMED: usize = MAGIC.len() + SHA256_OUTPUT_LEN;

/// Bytes before the writes.
const HEAD: usize = SUMMED + 4 + 8;

/// Random bytes that tell this database's records from what anybody could have had stored as a value.
pub(super) type Salt = [u8; 16];

/// One batch, as it was made durable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Which it made.
    pub(super) revision: u64,
    /// In order.
    pub(super) writes: Vec<Write>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    at: u64,
    length: u64,
}

impl Journal {
    /// Makes an empty one. One that is there must be empty.
    pub(super) fn create(path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        if file.metadata()?.len() > 0 {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "it holds changes, and the database knows of none"));
        }
        file.sync_all()
    }

    /// The file, and every record in it that is whole.
    pub(super) fn open(path: &Path, salt: &Salt) -> io::Result<(Self, Vec<Record>)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        let mut records = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let found = decode(rest, salt);
            let length = found.as_ref().map_or(BLOCK, |(_, length)| length.next_multiple_of(BLOCK));
            records.extend(found.map(|(record, _)| record));
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok((Self { file, at: 0, length: bytes.len() as u64 }, records))
    }

    /// Whether this record belongs into the present turn, which is to have so many bytes. Into an empty one goes any.
    pub(super) fn has_room(&self, record: &[u8], bytes: u64) -> bool {
        self.at == 0 || self.at + record.len() as u64 <= bytes
    }

    /// Begins the next turn: what is in it counts no more.
    pub(super) fn turn(&mut self) {
        self.at = 0;
    }

    /// Makes a record durable. After an error nothing may be assumed of the file.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let end = self.at + record.len() as u64;
        if end > self.length {
            let length = end.next_multiple_of(GROWS);
            let zeros = vec![0; (length - end) as usize];
            self.file.write_all_at(&zeros, end)?;
            self.length = length;
        }
        self.file.write_all_at(record, self.at)?;
        self.file.sync_data()?;
        self.at = end;
        Ok(())
    }
}

/// A record, up to the end of its last block.
pub(super) fn encode(salt: &Salt, revision: u64, writes: &[Write]) -> Vec<u8> {
    let size = |write: &Write| match write {
        Write::Put { key, value } => 9 + key.len() + value.len(),
        Write::Delete { key } => 5 + key.len(),
    };
    let length: usize = writes.iter().map(size).sum();
    let mut record = Vec::with_capacity((HEAD + length).next_multiple_of(BLOCK));
    record.extend(MAGIC);
    record.extend([0; SHA256_OUTPUT_LEN]);
    record.extend((length as u32).to_le_bytes());
    record.extend(revision.to_le_bytes());
    let bytes = |bytes: &[u8], record: &mut Vec<u8>| {
        record.extend((bytes.len() as u32).to_le_bytes());
        record.extend(bytes);
    };
    for write in writes {
        match write {
            Write::Put { key, value } => {
                record.push(1);
                bytes(key, &mut record);
                bytes(value, &mut record);
            }
            Write::Delete { key } => {
                record.push(0);
                bytes(key, &mut record);
            }
        }
    }
    let sum = sum(salt, &record[SUMMED..]);
    record[MAGIC.len()..SUMMED].copy_from_slice(&sum);
    record.resize(record.len().next_multiple_of(BLOCK), 0);
    record
}

/// What [`encode`] wrote at the beginning of these bytes, and how long it is.
fn decode(bytes: &[u8], salt: &Salt) -> Option<(Record, usize)> {
    let mut rest = bytes.strip_prefix(&MAGIC)?.get(SHA256_OUTPUT_LEN..)?;
    let length = number(&mut rest)? as usize;
    let revision = u64::from_le_bytes(rest.split_off(..8)?.try_into().ok()?);
    let mut body = rest.get(..length)?;
    let end = HEAD + length;
    if sum(salt, &bytes[SUMMED..end]) != bytes[MAGIC.len()..SUMMED] {
        return None;
    }
    let mut writes = Vec::new();
    while let Some(kind) = body.split_off_first() {
        let mut text = || {
            let length = number(&mut body)? as usize;
            body.split_off(..length).map(<[u8]>::to_vec)
        };
        writes.push(match kind {
            0 => Write::Delete { key: text()? },
            1 => Write::Put { key: text()?, value: text()? },
            _ => return None,
        });
    }
    Some((Record { revision, writes }, end))
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?))
}

fn sum(salt: &Salt, bytes: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(bytes);
    context.finish().as_ref().try_into().expect("SHA-256 is of this length")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = [7; 16];

    fn put(key: &str, bytes: usize) -> Write {
        Write::Put { key: key.into(), value: vec![0x5a; bytes] }
    }

    fn opened(path: &Path) -> (Journal, Vec<u64>) {
        let (journal, records) = Journal::open(path, &SALT).expect("opens");
        (journal, records.iter().map(|record| record.revision).collect())
    }

    /// Stored bytes are a protocol with the past.
    #[test]
    fn a_record_is_these_bytes() {
        let writes =
            [Write::Put { key: b"a/1".to_vec(), value: b"one".to_vec() }, Write::Delete { key: b"b".to_vec() }];
        let record = encode(&SALT, 258, &writes);
        assert_eq!(record.len(), BLOCK);
        let (head, rest) = record.split_at(SUMMED);
        assert_eq!(head[..8], *b"MUSTERJ1");
        let end = HEAD - SUMMED + 21;
        let expected = b"\x15\0\0\0\x02\x01\0\0\0\0\0\0\x01\x03\0\0\0a/1\x03\0\0\0one\0\x01\0\0\0b";
        assert_eq!(rest[..end], expected[..]);
        assert!(rest[end..].iter().all(|byte| *byte == 0));
        let hex: String = head[8..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "6f5323b0b5d49a0649e29096198dfa41500cb810de37d6e8b395e2bdd906a55c");
        assert_eq!(decode(&record, &SALT), Some((Record { revision: 258, writes: writes.to_vec() }, SUMMED + end)));
    }

    #[test]
    fn whole_records_are_found_and_what_was_torn_or_is_of_another_database_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("journal");
        Journal::create(&path).expect("made");
        let (mut journal, none) = opened(&path);
        assert_eq!(none, [0; 0]);
        for revision in 1..=4 {
            journal.append(&encode(&SALT, revision, &[put("a", 3 * BLOCK)])).expect("appended");
        }
        assert_eq!(opened(&path).1, [1, 2, 3, 4]);
        // In the second one a block is still what it was before, and the value of another holds a record that was made up.
        let made_up = encode(&[0; 16], 99, &[put("x", 1)]);
        journal.file.write_all_at(&made_up, 6 * BLOCK as u64).expect("written");
        assert_eq!(opened(&path).1, [1, 3, 4]);
        journal.turn();
        journal.append(&encode(&SALT, 5, &[put("b", 1)])).expect("appended");
        assert_eq!(opened(&path).1, [5, 3, 4]);
        assert!(Journal::create(&path).is_err(), "it holds something");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_record_or_none(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            at in 0_usize..120,
        ) {
            decode(&bytes, &SALT);
            let mut record = encode(&SALT, 1, &[put("a", 20), Write::Delete { key: b"b".to_vec() }]);
            let end = HEAD + 36;
            proptest::prop_assert!(decode(&record[..end], &SALT).is_some());
            proptest::prop_assert!(decode(&record[..at.min(end - 1)], &SALT).is_none());
            record[at.min(end - 1)] ^= 1;
            proptest::prop_assert!(decode(&record, &SALT).is_none());
        }
    }
}
