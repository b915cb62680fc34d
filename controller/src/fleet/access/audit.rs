//! The audit log: every change with its author, each entry chained to the one before, so that an edit or a cut shows.
//!
//! What is hashed is what is exported: one line of JSON for each entry ([`Line`]), whose `previous` is the SHA-256 of the
//! line before it, zeros for the first. So an export is proof by itself, for [`Chain`], or for `sha256sum`.
//! The store keeps the newest entry's number and digest beside the entries ([`AuditHead`]), and the controller's log
//! names it now and then: without either, a chain that was cut at its end would be a whole one.
//!
//! A log that was pruned says so in an entry that names the last one that went, and begins after that one.
//!
//! [`super::super::Draft`] writes entries; nothing here does.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use muster_protocol::Digest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ledger::{Ledger, LedgerError};
use crate::api::view::Time;
use crate::fleet::record::{AuditEntry, AuditHead, AuditResult};
use crate::fleet::{Draft, Facts, State};

/// One entry as it is shown, exported and hashed.
///
/// The order of the keys is a part of the format: a released version's lines hash to the same for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditEntry)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Grows by one.
    pub seq: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// Who: `token:NAME/ID`, `ial:HUB`, `enrollment`, `controller`.
    pub who: String,
    /// From which address and port; empty for the controller itself.
    pub from: String,
    /// The request's id, as in the header `X-Request-Id` of its answer; empty for the controller itself.
    pub request: String,
    /// What was done, stable and dotted: `machine.approved`; `request.refused` for what was not.
    pub action: String,
    /// On what; for a refused request its method and path.
    pub subject: String,
    /// What it was, field by field; nothing where it was not.
    pub before: Facts,
    /// What it is; nothing where it is no more.
    pub after: Facts,
    /// `done`, or `refused: ` and why.
    pub result: String,
    /// SHA-256 of the line before this one, in hex; zeros in the first.
    pub previous: String,
}

impl Line {
    /// An entry's line.
    pub fn of(entry: &AuditEntry) -> Self {
        let AuditEntry { seq, at_unix_ms, who, from, request, action, subject, before, after, result, previous } =
            entry.clone();
        let result = match result {
            AuditResult::Done => "done".to_owned(),
            AuditResult::Refused { why } => format!("refused: {why}"),
        };
        let (at, previous) = (Time(at_unix_ms), previous.to_string());
        Self { seq, at, who, from, request, action, subject, before, after, result, previous }
    }

    /// The line itself: JSON without spaces or a line break.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers always encode")
    }
}

/// The newest entry of a chain: its number and the digest of its line. Reads and writes as `SEQ:SHA256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 0 for a chain without entries.
    pub seq: u64,
    /// Zeros for a chain without entries.
    pub digest: Digest,
}

impl Head {
    /// Of a chain without entries.
    pub const START: Self = Self { seq: 0, digest: Digest::from_bytes([0; 32]) };

    /// Where the chain stands with `entry` at its end.
    pub fn at(entry: &AuditEntry) -> Self {
        Self { seq: entry.seq, digest: Digest::of(Line::of(entry).text().as_bytes()) }
    }

    /// What the next entry is chained to.
    pub fn of(state: &State) -> Self {
        state.audit_head.get(&0).map_or(Self::START, |head| Self { seq: head.seq, digest: head.digest })
    }
}

impl Default for Head {
    fn default() -> Self {
        Self::START
    }
}

impl From<Head> for AuditHead {
    fn from(head: Head) -> Self {
        Self { seq: head.seq, digest: head.digest }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.digest)
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no head: SEQ:SHA256, as `muster audit verify` prints it");
        let (seq, digest) = text.trim().split_once(':').ok_or_else(wrong)?;
        Ok(Self { seq: seq.parse().map_err(|_| wrong())?, digest: digest.parse().map_err(|_| wrong())? })
    }
}

/// Where a chain is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Not a line of an audit log.
    #[error("the line after entry {after} is no audit entry: {why}")]
    Unreadable {
        /// The last good one.
        after: u64,
        /// The reader's words.
        why: String,
    },
    /// Entries are missing, or stand in another order.
    #[error("entry {found} follows entry {after}: what was between them is missing")]
    Gap {
        /// The last good one.
        after: u64,
        /// What came instead of the next.
        found: u64,
    },
    /// An entry, or the one before it, was changed.
    #[error("entry {seq} does not continue entry {} as it is now: one of them was changed", seq - 1)]
    Changed {
        /// The one whose `previous` does not hold.
        seq: u64,
    },
    /// The chain ends before an entry that is known to have been in it.
    #[error("the chain ends at entry {end}, and has had entry {seq}: its end was cut off")]
    Cut {
        /// Where it ends.
        end: u64,
        /// What it had.
        seq: u64,
    },
    /// The chain has another entry in the place of one that is known.
    #[error("entry {seq} is not the one that it was")]
    Other {
        /// Which.
        seq: u64,
    },
    /// What is known is not in the part that was read.
    #[error("this part of the chain begins at entry {begin}, and entry {seq} is not in it")]
    Before {
        /// The first that was read.
        begin: u64,
        /// The one that is known.
        seq: u64,
    },
    /// There are entries, and nothing says where they end.
    #[error("the record of the log's end is missing")]
    NoHead,
    /// The chain does not begin with its first entry, nor where it says that it was pruned.
    #[error(
        "the log begins with entry {first}, and none says that it was pruned up to there: its beginning was cut off"
    )]
    Beginning {
        /// The first that is there.
        first: u64,
    },
    /// The store does not give it.
    #[error("the log cannot be read: {why}")]
    Unread {
        /// The store's words.
        why: String,
    },
}

impl From<LedgerError> for Broken {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unreadable { seq } => {
                Self::Unreadable { after: seq.saturating_sub(1), why: error.to_string() }
            }
            LedgerError::Store(_) => Self::Unread { why: error.to_string() },
        }
    }
}

/// The action of the entry that says up to where the log was pruned.
const PRUNED: &str = "audit.pruned";

/// The field of it that names the last entry that went, as a [`Head`].
const UP_TO: &str = "up to";

/// Reads a chain from its beginning, line by line.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    head: Head,
    anchors: Vec<Head>,
    /// Whether the first line may be any, because nothing before it was asked for.
    may_be_part: bool,
    begin: u64,
    /// The entry before the first line that was taken, as that one has it.
    before: Head,
    /// Up to where the log says that it was pruned.
    pruned: Option<Head>,
}

impl Chain {
    /// A chain that must have all of `anchors` in it.
    pub fn with(anchors: impl IntoIterator<Item = Head>) -> Self {
        Self { anchors: anchors.into_iter().collect(), ..Self::default() }
    }

    /// A chain, or the part of one from some entry on, that must have all of `anchors` in it.
    pub fn part_with(anchors: impl IntoIterator<Item = Head>) -> Self {
        Self { may_be_part: true, ..Self::with(anchors) }
    }

    /// The number of the first line that was taken; 0 before.
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// Where it stands.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Takes the next line.
    pub fn add(&mut self, text: &str) -> Result<Line, Broken> {
        let after = self.head.seq;
        let line: Line =
            serde_json::from_str(text).map_err(|error| Broken::Unreadable { after, why: error.to_string() })?;
        self.take(&line, text)?;
        Ok(line)
    }

    fn take(&mut self, line: &Line, text: &str) -> Result<(), Broken> {
        if self.begin == 0 {
            self.begin = line.seq;
            // What was before is not at hand; its newest line's digest is, for whoever knows that one.
            if let (2.., Ok(digest)) = (line.seq, line.previous.parse()) {
                self.before = Head { seq: line.seq - 1, digest };
                self.head = self.before;
                self.is_known(self.head)?;
            }
        }
        let (after, seq) = (self.head.seq, line.seq);
        if seq != after + 1 {
            return Err(Broken::Gap { after, found: seq });
        }
        if line.previous != self.head.digest.to_string() {
            return Err(Broken::Changed { seq });
        }
        self.head = Head { seq, digest: Digest::of(text.as_bytes()) };
        if line.action == PRUNED {
            let up_to = line.after.get(UP_TO).and_then(|text| text.parse().ok());
            self.pruned = self.pruned.into_iter().chain(up_to).max_by_key(|head| head.seq);
        }
        self.is_known(self.head)
    }

    fn is_known(&self, head: Head) -> Result<(), Broken> {
        let is_other = |anchor: &Head| anchor.seq == head.seq && *anchor != head;
        if self.anchors.iter().any(is_other) { Err(Broken::Other { seq: head.seq }) } else { Ok(()) }
    }

    /// Whether it begins where it says that it was pruned. One that says so of more than is gone is being pruned at this
    /// moment, or was stopped in the middle of it.
    pub fn was_pruned(&self) -> bool {
        self.begin > 1 && self.pruned.is_some_and(|up_to| up_to == self.before || up_to.seq > self.before.seq)
    }

    /// No more lines come.
    pub fn end(self) -> Result<Head, Broken> {
        if self.begin > 1 && !self.may_be_part && !self.was_pruned() {
            return Err(Broken::Beginning { first: self.begin });
        }
        match self.anchors.iter().find(|anchor| anchor.seq > self.head.seq) {
            Some(anchor) => Err(Broken::Cut { end: self.head.seq, seq: anchor.seq }),
            None => match self.anchors.iter().find(|anchor| anchor.seq < self.before.seq) {
                Some(anchor) => Err(Broken::Before { begin: self.begin, seq: anchor.seq }),
                None => Ok(self.head),
            },
        }
    }
}

/// How much of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// The newest so many entries.
    Newest(u64),
}

/// Reads the log that is stored, or its newest part, and holds it against its stored head.
pub fn check(ledger: &Ledger, extent: Extent) -> Result<Head, Broken> {
    let Some(stored) = ledger.head()? else {
        return if ledger.back(0, u64::MAX, 1)?.is_empty() { Ok(Head::START) } else { Err(Broken::NoHead) };
    };
    let (mut chain, first) = match extent {
        Extent::Newest(count) if count < stored.seq => (Chain::part_with([stored]), stored.seq - count + 1),
        _ => (Chain::with([stored]), 0),
    };
    for entry in ledger.all(first, stored.seq) {
        let line = Line::of(&entry?);
        chain.take(&line, &line.text())?;
    }
    let head = chain.end()?;
    // More than the head tells of was written by nobody who knows the chain, or just now.
    let is_more = !ledger.from(stored.seq + 1, u64::MAX, 1)?.is_empty();
    if is_more && ledger.head()? == Some(stored) { Err(Broken::Other { seq: stored.seq + 1 }) } else { Ok(head) }
}

/// The newest entry that is older than `before_unix_ms`, as are all before it; never the newest of all. Reads no further.
pub fn prunable(ledger: &Ledger, before_unix_ms: u64) -> Result<Option<(u64, Head)>, LedgerError> {
    let Some(end) = ledger.head()? else { return Ok(None) };
    let (mut first, mut last) = (None, None);
    for entry in ledger.all(0, end.seq.saturating_sub(1)) {
        let entry = entry?;
        if entry.at_unix_ms >= before_unix_ms {
            break;
        }
        first.get_or_insert(entry.seq);
        last = Some(entry);
    }
    Ok(first.zip(last).map(|(first, last)| (first, Head::at(&last))))
}

/// Says in the log that the entries from `first` to `to` go, which [`prune`] then does in parts: what is left begins with
/// one whose `previous` is the digest that this names.
pub fn announce(draft: &mut Draft, first: u64, to: Head) {
    let before = if first > 1 { Facts::one(UP_TO, first - 1) } else { Facts::none() };
    draft.audit(PRUNED, "audit", before, Facts::one(UP_TO, to));
}

/// Takes entries out of the log, after [`announce`].
pub fn prune(draft: &mut Draft, entries: RangeInclusive<u64>) {
    entries.for_each(|seq| draft.prune_audit(seq));
}

#[cfg(test)]
mod tests;
