//! The audit log: every change with its author, each entry chained to the one before, so that an edit or a cut shows.
//!
//! What is hashed is what is exported: one line of JSON for each entry ([`Line`]), whose `previous` is the SHA-256 of the
//! line before it, zeros for the first. So an export is proof by itself, for [`Chain`], or for `sha256sum`.
//! The store keeps the newest entry's number and digest beside the entries ([`AuditHead`]), and the controller's log
//! names it now and then: without either, a chain that was cut at its end would be a whole one.
//!
//! [`super::super::Draft`] writes entries; nothing here does.

use std::fmt;
use std::str::FromStr;

use muster_protocol::Digest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::view::Time;
use crate::fleet::record::{AuditEntry, AuditHead, AuditResult};
use crate::fleet::{Facts, State};

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

    /// What the next entry is chained to: the head as it was stored, or where none was, the newest entry's.
    pub fn of(state: &State) -> Self {
        let stored = state.audit_head.get(&0).map(|head| Self { seq: head.seq, digest: head.digest });
        stored.or_else(|| state.audit.iter().next_back().map(Self::at)).unwrap_or(Self::START)
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
}

/// Reads a chain from its beginning, line by line.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    head: Head,
    anchors: Vec<Head>,
    /// Whether the first line may be any, because nothing before it was asked for.
    may_be_part: bool,
    begin: u64,
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
            if let (true, 2.., Ok(digest)) = (self.may_be_part, line.seq, line.previous.parse()) {
                // What was before is not at hand; its newest line's digest is, for whoever knows that one.
                self.head = Head { seq: line.seq - 1, digest };
                let is_other = |anchor: &Head| anchor.seq == self.head.seq && *anchor != self.head;
                if self.anchors.iter().any(is_other) {
                    return Err(Broken::Other { seq: self.head.seq });
                }
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
        let is_other = |anchor: &Head| anchor.seq == seq && *anchor != self.head;
        if self.anchors.iter().any(is_other) { Err(Broken::Other { seq }) } else { Ok(()) }
    }

    /// No more lines come.
    pub fn end(self) -> Result<Head, Broken> {
        match self.anchors.iter().find(|anchor| anchor.seq > self.head.seq) {
            Some(anchor) => Err(Broken::Cut { end: self.head.seq, seq: anchor.seq }),
            None => match self.anchors.iter().find(|anchor| self.may_be_part && anchor.seq + 1 < self.begin) {
                Some(anchor) => Err(Broken::Before { begin: self.begin, seq: anchor.seq }),
                None => Ok(self.head),
            },
        }
    }
}

/// Reads the whole log that is stored, and holds it against its stored head.
pub fn check(state: &State) -> Result<Head, Broken> {
    let stored = state.audit_head.get(&0).map(|head| Head { seq: head.seq, digest: head.digest });
    if stored.is_none() && !state.audit.is_empty() {
        return Err(Broken::NoHead);
    }
    let mut chain = Chain::with(stored);
    for entry in state.audit.iter() {
        let line = Line::of(entry);
        chain.take(&line, &line.text())?;
    }
    let head = chain.end()?;
    // More than the head tells of was written by nobody who knows the chain.
    if stored.is_some_and(|stored| stored != head) { Err(Broken::Other { seq: head.seq }) } else { Ok(head) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::{Draft, Refusal};

    fn log(entries: usize) -> Draft {
        let mut draft = draft();
        for n in 0..entries {
            draft.audit("location.set", format!("loc{n}"), Facts::none(), Facts::one("name", "“new”\n\u{7f}"));
        }
        draft
    }

    fn lines(draft: &Draft) -> Vec<String> {
        draft.state().audit.iter().map(|entry| Line::of(entry).text()).collect()
    }

    fn read(lines: &[String], anchor: Option<Head>) -> Result<Head, Broken> {
        let mut chain = Chain::with(anchor);
        lines.iter().try_for_each(|line| chain.add(line).map(drop))?;
        chain.end()
    }

    /// If this fails, do not change the test: logs that exist would no longer verify.
    #[test]
    fn the_line_that_is_hashed_never_changes() {
        let mut draft = draft();
        draft.author.from = "[2001:db8::7]:4711".parse().ok();
        draft.author.request = "r-1".into();
        draft.author.who = "token:olga \"ops\"".into();
        draft.audit(
            "machine.renamed",
            "m1",
            Facts::one("name", "Küche\\1"),
            Facts::one("name", "tab\there\u{1}\u{7f}\u{2028}</b>"),
        );
        draft.audit_refused("request.refused", "DELETE /api/v1/tokens/x", "forbidden: no");
        let zeros = "0".repeat(64);
        let first = format!(
            "{}{zeros}\"}}",
            r#"{"seq":1,"at":"1970-01-01T00:16:40.000Z","who":"token:olga \"ops\"","from":"[2001:db8::7]:4711","request":"r-1","action":"machine.renamed","subject":"m1","before":{"name":"Küche\\1"},"after":{"name":"tab\there\u0001"#
                .to_owned()
                + "\u{7f}\u{2028}"
                + r#"</b>"},"result":"done","previous":""#
        );
        let second = r#"{"seq":2,"at":"1970-01-01T00:16:40.000Z","who":"token:olga \"ops\"","from":"[2001:db8::7]:4711","request":"r-1","action":"request.refused","subject":"DELETE /api/v1/tokens/x","before":{},"after":{},"result":"refused: forbidden: no","previous":"DIGEST"}"#;
        let digest = Digest::of(first.as_bytes()).to_string();
        assert_eq!(lines(&draft), [first, second.replace("DIGEST", &digest)]);
        assert_eq!(
            Head::of(draft.state()).to_string(),
            "2:dbd352fb84fa6f62551a7b310a819fb74940aef08d07f6922e4a95e71f4dcc90"
        );
    }

    #[test]
    fn a_whole_chain_is_read_to_its_head() {
        let draft = log(5);
        let head = Head::of(draft.state());
        assert_eq!((head.seq, check(draft.state())), (5, Ok(head)));
        assert_eq!(read(&lines(&draft), Some(head)), Ok(head));
        assert_eq!(head.to_string().parse(), Ok(head));
        assert_eq!((check(&State::default()), read(&[], None)), (Ok(Head::START), Ok(Head::START)));
    }

    #[test]
    fn an_edit_a_cut_and_another_order_show() {
        let draft = log(5);
        let whole = lines(&draft);
        let changed = |change: &dyn Fn(&mut Vec<String>)| {
            let mut lines = whole.clone();
            change(&mut lines);
            read(&lines, Some(Head::of(draft.state())))
        };
        assert_eq!(changed(&|lines| lines[1] = lines[1].replace("loc1", "loc7")), Err(Broken::Changed { seq: 3 }));
        assert_eq!(changed(&|lines| lines[1].push(' ')), Err(Broken::Changed { seq: 3 }));
        assert_eq!(changed(&|lines| drop(lines.remove(2))), Err(Broken::Gap { after: 2, found: 4 }));
        assert_eq!(changed(&|lines| drop(lines.remove(0))), Err(Broken::Gap { after: 0, found: 2 }));
        assert_eq!(changed(&|lines| lines.swap(1, 2)), Err(Broken::Gap { after: 1, found: 3 }));
        assert_eq!(changed(&|lines| lines.truncate(3)), Err(Broken::Cut { end: 3, seq: 5 }));
        assert_eq!(changed(&|lines| lines[4] = lines[4].replace("loc4", "loc5")), Err(Broken::Other { seq: 5 }));
        assert!(matches!(changed(&|lines| lines[2].truncate(9)), Err(Broken::Unreadable { after: 2, .. })));
    }

    #[test]
    fn what_was_done_to_the_stored_log_shows() {
        let state = || log(5).finish().0;
        let entry = |state: &State, seq| state.audit.get(&seq).cloned().expect("there");
        let mut edited = state();
        edited.put(AuditEntry { who: "token:nobody".into(), ..entry(&edited, 3) });
        assert_eq!(check(&edited), Err(Broken::Changed { seq: 4 }));
        let mut last = state();
        last.put(AuditEntry { after: Facts::none(), ..entry(&last, 5) });
        assert_eq!(check(&last), Err(Broken::Other { seq: 5 }));
        let mut cut = state();
        cut.delete::<AuditEntry>(&5);
        assert_eq!(check(&cut), Err(Broken::Cut { end: 4, seq: 5 }));
        let mut added = state();
        let forged = AuditEntry { seq: 6, previous: Head::of(&added).digest, ..entry(&added, 5) };
        added.put(forged);
        assert_eq!(check(&added), Err(Broken::Other { seq: 6 }));
        let mut headless = state();
        headless.delete::<AuditHead>(&0);
        assert_eq!(check(&headless), Err(Broken::NoHead));
    }

    #[test]
    fn a_part_is_read_from_where_it_begins_and_held_against_what_is_known_of_it() {
        let draft = log(5);
        let (whole, head) = (lines(&draft), Head::of(draft.state()));
        let part = |from: usize, anchors: &[Head]| {
            let mut chain = Chain::part_with(anchors.iter().copied());
            whole[from..].iter().try_for_each(|line| chain.add(line).map(drop))?;
            let begin = chain.begin();
            chain.end().map(|end| (begin, end))
        };
        assert_eq!((part(0, &[]), part(3, &[head])), (Ok((1, head)), Ok((4, head))));
        let third = Head { seq: 3, digest: Digest::of(whole[2].as_bytes()) };
        assert_eq!(part(3, &[third]), Ok((4, head)), "the first line of the part says what was before it");
        let other = Head { digest: Digest::of(b"other"), ..third };
        assert_eq!(part(3, &[other]), Err(Broken::Other { seq: 3 }));
        assert_eq!(part(4, &[third]), Err(Broken::Before { begin: 5, seq: 3 }));
        let mut gap = Chain::part_with([]);
        gap.add(&whole[1]).expect("the first");
        assert_eq!(gap.add(&whole[3]), Err(Broken::Gap { after: 2, found: 4 }));
    }

    #[test]
    fn what_was_cut_off_is_missed_for_ever() {
        let mut cut = log(5).finish().0;
        cut.delete::<AuditEntry>(&5);
        let mut draft = Draft::new(cut, 0);
        draft.audit("location.set", "ber1", Facts::none(), Facts::none());
        assert_eq!(check(draft.state()), Err(Broken::Gap { after: 4, found: 6 }));
    }

    #[test]
    fn a_change_that_is_taken_back_leaves_no_hole() {
        let mut draft = log(2);
        let refused: Result<(), Refusal> = draft.attempt(|draft| {
            draft.audit("location.set", "x", Facts::none(), Facts::none());
            Err(Refusal::Internal)
        });
        assert!(refused.is_err());
        let taken = draft.attempt(|draft| {
            draft.audit("location.set", "y", Facts::none(), Facts::none());
            Ok(())
        });
        assert!(taken.is_ok());
        assert_eq!(check(draft.state()).map(|head| head.seq), Ok(3));
    }

    #[tokio::test]
    async fn the_chain_is_whole_after_restarts_with_many_changes_in_a_batch_and_refused_ones_among_them() {
        use crate::fleet::{Author, Fleet};
        let store = crate::store::MemoryStore::new();
        for restart in 1..=3 {
            let (fleet, ended) = Fleet::start(store.clone()).expect("starts");
            let change = |n: u64| {
                let fleet = fleet.clone();
                let decide = move |draft: &mut Draft| {
                    (0..3).for_each(|_| draft.audit("location.set", n, Facts::none(), Facts::none()));
                    if n.is_multiple_of(3) { Err(Refusal::Internal) } else { Ok(()) }
                };
                async move { fleet.change(Author::controller(), decide).await }
            };
            let results = futures_util::future::join_all((0..300).map(change)).await;
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 200);
            assert_eq!(check(&fleet.state()).map(|head| head.seq), Ok(restart * 600));
            drop(fleet);
            ended.await.expect("the writer ends");
        }
    }
}
