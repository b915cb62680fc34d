//! A change in the making: the working state, what it wrote so far, and who asked for it when.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::access::ledger;
use super::audit::Head;
use super::location::edge::Edges;
use super::record::{AuditEntry, AuditHead, AuditResult, Event};
use super::state::{self, Record, State};
use super::{Facts, Refusal};
use crate::store::{BATCH_LIMIT, VALUE_LIMIT, Write};

/// How many events are kept for those who follow the feed.
const EVENTS_KEPT: u64 = 10_000;

/// Who asks for a change; goes into the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// `token:NAME/ID`, `ial:HUB`, `machine:ID`, or `controller`.
    pub who: String,
    /// Where the request came from.
    pub from: Option<SocketAddr>,
    /// Its id, empty for what the controller does by itself.
    pub request: String,
}

impl Author {
    /// Somebody whose request came in.
    pub fn new(who: impl Into<String>, from: Option<SocketAddr>, request: impl Into<String>) -> Self {
        Self { who: who.into(), from, request: request.into() }
    }

    /// The controller itself: timers and the converge loop.
    pub fn controller() -> Self {
        Self::new("controller", None, "")
    }
}

/// More than any one thing writes, be it a machine that is given up with its operations and its lease.
const ONE_THING: usize = 100;

/// Of what was changed, and of the reason why it was not.
const AUDITED_WORDS: usize = 512;

/// The beginning of a text, with a mark where something is missing.
pub fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
    }
    text
}

/// See the module.
pub struct Draft {
    /// Who asks.
    pub author: Author,
    now_unix_ms: u64,
    /// Where it began.
    base: State,
    state: State,
    /// What was done to the one since, and gives the other.
    done: Vec<Redo>,
    /// Whether something had to be taken back.
    has_refused: bool,
    /// The newest audit entry that is stored already.
    audited: u64,
    writes: Vec<Write>,
    fresh: FreshBytes,
}

/// A change of the state that can be made once more.
type Redo = Box<dyn Fn(&mut State) + Send>;

type FreshBytes = Box<dyn FnMut(&mut [u8]) + Send>;

impl Draft {
    /// A draft on top of `state`, with the system's randomness.
    pub fn new(state: State, now_unix_ms: u64) -> Self {
        let fresh = |bytes: &mut [u8]| getrandom::fill(bytes).expect("the kernel's random source does not fail");
        let audited = Head::of(&state).seq;
        Self {
            author: Author::controller(),
            now_unix_ms,
            base: state.clone(),
            state,
            done: Vec::new(),
            has_refused: false,
            audited,
            writes: Vec::new(),
            fresh: Box::new(fresh),
        }
    }

    /// The state as this draft would make it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Milliseconds since 1970 UTC.
    pub fn now_unix_ms(&self) -> u64 {
        self.now_unix_ms
    }

    /// Random bytes, good for secrets.
    pub fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.fresh)(&mut bytes);
        bytes
    }

    /// The record with this key.
    pub fn get<R: Record>(&self, key: &R::Key) -> Option<&R> {
        R::table(&self.state).get(key)
    }

    /// The record with this key, or [`Refusal::NotFound`].
    pub fn need<R: Record>(&self, key: &R::Key) -> Result<R, Refusal> {
        let name = || String::from_utf8_lossy(&R::key_text(key)).into_owned();
        self.get::<R>(key).cloned().ok_or_else(|| Refusal::NotFound { kind: R::KIND, name: name() })
    }

    /// Writes a record, new or in place of the one with its key.
    pub fn put<R: Record>(&mut self, record: R) {
        let key = record.key();
        self.writes.push(Write::Put { key: state::stored_key::<R>(&key), value: state::stored_value(&record) });
        self.set(record);
    }

    fn set<R: Record>(&mut self, record: R) {
        let record = Arc::new(record);
        self.done(move |state| state.put_shared(record.clone()));
    }

    fn done(&mut self, redo: impl Fn(&mut State) + Send + 'static) {
        redo(&mut self.state);
        self.done.push(Box::new(redo));
    }

    /// Removes a record; nothing happens where there is none.
    pub fn delete<R: Record>(&mut self, key: &R::Key) {
        self.writes.push(Write::Delete { key: state::stored_key::<R>(key) });
        let key = key.clone();
        self.done(move |state| state.delete::<R>(&key));
    }

    /// Keeps in mind up to where subnets are full; nothing that is stored.
    pub(super) fn edges(&mut self) -> &mut Edges {
        self.state.edges_mut()
    }

    /// Adds to the change feed. `kind` is stable and dotted (`machine.approved`), `text` is for people.
    pub fn event(&mut self, kind: &'static str, subject: impl ToString, text: impl Into<String>) {
        let seq = self.state.next_event();
        let event = Event {
            seq,
            at_unix_ms: self.now_unix_ms,
            kind: kind.into(),
            subject: subject.to_string(),
            text: text.into(),
        };
        self.put(event);
        if seq > EVENTS_KEPT {
            self.delete::<Event>(&(seq - EVENTS_KEPT));
        }
    }

    /// Adds to the audit log: `action` on `subject`, with what it was before and is now.
    pub fn audit(&mut self, action: &str, subject: impl ToString, before: Facts, after: Facts) {
        self.enter(action, subject.to_string(), [before, after], AuditResult::Done);
    }

    /// Adds to the audit log what was asked for and not done.
    pub fn audit_refused(&mut self, action: &str, subject: impl ToString, why: impl Into<String>) {
        let why = cut(why.into(), AUDITED_WORDS);
        self.enter(action, subject.to_string(), Default::default(), AuditResult::Refused { why });
    }

    fn enter(&mut self, action: &str, subject: String, [before, after]: [Facts; 2], result: AuditResult) {
        let head = Head::of(&self.state);
        let entry = AuditEntry {
            seq: head.seq + 1,
            at_unix_ms: self.now_unix_ms,
            who: self.author.who.clone(),
            from: self.author.from.map(|a| a.to_string()).unwrap_or_default(),
            request: self.author.request.clone(),
            action: action.into(),
            subject: cut(subject, AUDITED_WORDS),
            before,
            after,
            result,
            previous: head.digest,
        };
        // Written by `finish`, once for all entries of a batch.
        self.set(AuditHead::from(Head::at(&entry)));
        self.writes.push(Write::Put { key: ledger::key(entry.seq), value: state::stored_value(&entry) });
    }

    /// Takes the audit entry of this number out of the log; see [`super::audit::pruned`].
    pub(super) fn prune_audit(&mut self, seq: u64) {
        self.writes.push(Write::Delete { key: ledger::key(seq) });
    }

    /// Whether one more thing can be changed in this batch: the other half of the store's limit is left for what that
    /// may write. Whoever goes over the whole fleet in one change stops here, and goes on in the next; what the last thing
    /// writes must fit into what one change may write.
    pub fn has_room(&self) -> bool {
        self.writes.len() < BATCH_LIMIT / 2 - ONE_THING
    }

    /// Runs one change on the draft and takes back what it wrote if it refuses or panics, or if no store takes it: what
    /// shares its batch must not be refused with it.
    ///
    /// What is taken back is told from what was done before it, since most changes refuse before they do anything, or not
    /// at all: a copy of the state for each would have every change copy its ways through the tables anew. Once that was
    /// necessary, whatever comes in the same batch has its copy.
    pub fn attempt<T>(&mut self, decide: impl FnOnce(&mut Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let (writes, done) = (self.writes.len(), self.done.len());
        let copy = self.has_refused.then(|| self.state.clone());
        let result = catch_unwind(AssertUnwindSafe(|| decide(self)));
        let has_panicked = result.is_err();
        let result = result.unwrap_or(Err(Refusal::Internal));
        let result = result.and_then(|value| self.fits_since(writes).map(|()| value));
        if result.is_err() && (has_panicked || (self.writes.len(), self.done.len()) != (writes, done)) {
            self.writes.truncate(writes);
            self.done.truncate(done);
            self.has_refused = true;
            self.state = copy.unwrap_or_else(|| {
                let mut state = self.base.clone();
                self.done.iter().for_each(|redo| redo(&mut state));
                state
            });
        }
        result
    }

    fn fits_since(&self, first: usize) -> Result<(), Refusal> {
        let writes = &self.writes[first..];
        if writes.len() > BATCH_LIMIT / 2 {
            let most = BATCH_LIMIT / 2;
            return Err(Refusal::Conflict(format!("this changes more than {most} things at once; do it in parts")));
        }
        for write in writes {
            if let Write::Put { key, value } = write
                && value.len() > VALUE_LIMIT
            {
                let kind = String::from_utf8_lossy(key.split(|&byte| byte == b'/').next().unwrap_or_default());
                return Err(Refusal::invalid(kind, format!("would be over {} KiB altogether", VALUE_LIMIT >> 10)));
            }
        }
        Ok(())
    }

    /// The state and the writes that lead to it.
    pub(super) fn finish(mut self) -> (State, Vec<Write>) {
        if let Some(head) = self.state.audit_head.get(&0).filter(|head| head.seq != self.audited) {
            self.writes.push(Write::Put { key: state::stored_key::<AuditHead>(&0), value: state::stored_value(head) });
        }
        (self.state, self.writes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A draft with a clock that stands still and bytes that count up.
    pub(crate) fn draft() -> Draft {
        let mut next = 0_u64;
        let fresh = move |bytes: &mut [u8]| {
            next += 1;
            bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&next.to_le_bytes()[..chunk.len()]));
        };
        Draft { fresh: Box::new(fresh), ..Draft::new(State::default(), 1_000_000) }
    }

    impl Draft {
        /// The audit entries that it wrote.
        pub(crate) fn audited(&self) -> Vec<AuditEntry> {
            let is_entry = |write: &&Write| matches!(write, Write::Put { key, .. } if key.starts_with(ledger::PREFIX));
            let read = |write: &Write| match write {
                Write::Put { value, .. } => state::read_value(value),
                Write::Delete { .. } => None,
            };
            self.writes.iter().filter(is_entry).filter_map(read).collect()
        }

        /// Lets time pass.
        pub(crate) fn advance_ms(&mut self, ms: u64) {
            self.now_unix_ms += ms;
        }
    }

    #[test]
    fn what_no_store_takes_is_refused_alone() {
        use crate::fleet::record::Answered;
        let mut draft = draft();
        let note = |subject: String| Answered {
            key: muster_protocol::Digest::of(subject.as_bytes()),
            request: muster_protocol::Digest::of(b""),
            subject,
            at_unix_ms: 0,
        };
        let mut put = |subjects: Vec<String>| {
            draft.attempt(|draft| {
                subjects.into_iter().for_each(|subject| draft.put(note(subject)));
                Ok(())
            })
        };
        let small = put(vec!["small".into()]);
        let large = put(vec!["x".repeat(VALUE_LIMIT)]);
        let many = put((0..BATCH_LIMIT).map(|n| n.to_string()).collect());
        assert_eq!(small, Ok(()));
        assert!(matches!(large, Err(Refusal::Invalid { field, .. }) if field == "answered"));
        assert!(matches!(many, Err(Refusal::Conflict(_))));
        assert_eq!((draft.state().answered.len(), draft.finish().1.len()), (1, 1));
    }

    #[test]
    fn what_is_refused_leaves_nothing_whatever_was_done_before_and_comes_after() {
        use crate::fleet::location::address::Family;
        use crate::fleet::record::{Address, AddressHolder, Location};
        let block = |n: u8| format!("192.0.2.{n}/32").parse().expect("a block");
        let pool = |n: u8, pool: &str| {
            let (hub, pool, lease) = ("acme".into(), pool.into(), "l".into());
            let holder = AddressHolder::Pool { hub, pool, lease, assignment: "a".into() };
            Address { block: block(n), subnet: "192.0.2.0/24".parse().expect("a net"), holder, since_unix_ms: 0 }
        };
        let mut draft = draft();
        draft.put(pool(1, "before"));
        let mut draft = Draft::new(draft.finish().0, 1_000_000);
        let location = |code: &str| Location { code: code.into(), ..Location::default() };
        let done = |draft: &mut Draft, n: u8| {
            draft.attempt(|draft| {
                draft.put(pool(n, "more"));
                draft.audit("address.taken", n, Facts::none(), Facts::none());
                draft.event("address.taken", n, "taken");
                Ok(())
            })
        };
        done(&mut draft, 2).expect("done");
        let (head, seen) = (Head::of(draft.state()), draft.writes.len());
        for way in 0..3 {
            let refused: Result<(), Refusal> = draft.attempt(|draft| {
                draft.delete::<Address>(&block(1));
                draft.put(pool(2, "other"));
                draft.put(location("ber1"));
                draft.event("address.taken", 2, "taken");
                draft.audit("address.taken", 2, Facts::none(), Facts::none());
                if way == 1 { panic!("a mistake") } else { Err(Refusal::Offline) }
            });
            assert_eq!(refused, Err(if way == 1 { Refusal::Internal } else { Refusal::Offline }));
            let state = draft.state();
            let found = |name| state.pool("acme", name, Family::V4).map(|address| address.block);
            assert_eq!([found("before"), found("more"), found("other")], [Some(block(1)), Some(block(2)), None]);
            assert_eq!((state.locations.len(), state.events.len(), Head::of(state)), (0, 1, head));
            assert_eq!(draft.writes.len(), seen);
        }
        done(&mut draft, 3).expect("done");
        let (state, writes) = draft.finish();
        assert_eq!((state.addresses.len(), state.events.len(), Head::of(&state).seq), (3, 2, 2));
        assert_eq!(writes.len(), 2 * seen + 1, "and the head of the audit log");
    }
}
