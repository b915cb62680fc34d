//! The chain: what shows, what is stored, and what a log that was pruned still proves.

use super::*;
use crate::fleet::access::ledger;
use crate::fleet::draft::tests::draft;
use crate::fleet::state::{stored_key, stored_value};
use crate::fleet::{Author, Fleet, Refusal};
use crate::store::{Batch, MemoryStore, Store, Write};

/// A store that holds what a draft wrote.
fn stored(draft: Draft) -> MemoryStore {
    let store = MemoryStore::new();
    commit(&store, draft.finish().1);
    store
}

/// Somebody writes to the store beside the controller, or a controller does.
fn commit(store: &MemoryStore, writes: Vec<Write>) {
    let mut store = store.clone();
    let expected = store.load(ledger::PREFIX).expect("loads").revision;
    store.commit(&Batch { expected, writes }).expect("commits");
}

fn put(store: &MemoryStore, entry: AuditEntry) {
    commit(store, vec![Write::Put { key: ledger::key(entry.seq), value: stored_value(&entry) }]);
}

fn delete(store: &MemoryStore, seq: u64) {
    commit(store, vec![Write::Delete { key: ledger::key(seq) }]);
}

fn of(store: &MemoryStore) -> Ledger {
    Ledger::new(store.archive())
}

fn whole(store: &MemoryStore) -> Result<Head, Broken> {
    check(&of(store), Extent::Whole)
}

fn log(entries: usize) -> Draft {
    let mut draft = draft();
    for n in 0..entries {
        draft.audit("location.set", format!("loc{n}"), Facts::none(), Facts::one("name", "“new”\n\u{7f}"));
    }
    draft
}

fn lines(draft: &Draft) -> Vec<String> {
    draft.audited().iter().map(|entry| Line::of(entry).text()).collect()
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
    assert_eq!(read(&lines(&draft), Some(head)), Ok(head));
    assert_eq!(head.to_string().parse(), Ok(head));
    assert_eq!((head.seq, whole(&stored(draft))), (5, Ok(head)));
    assert_eq!((whole(&MemoryStore::new()), read(&[], None)), (Ok(Head::START), Ok(Head::START)));
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
    assert_eq!(changed(&|lines| drop(lines.remove(0))), Err(Broken::Beginning { first: 2 }));
    assert_eq!(changed(&|lines| lines.swap(1, 2)), Err(Broken::Gap { after: 1, found: 3 }));
    assert_eq!(changed(&|lines| lines.truncate(3)), Err(Broken::Cut { end: 3, seq: 5 }));
    assert_eq!(changed(&|lines| lines[4] = lines[4].replace("loc4", "loc5")), Err(Broken::Other { seq: 5 }));
    assert!(matches!(changed(&|lines| lines[2].truncate(9)), Err(Broken::Unreadable { after: 2, .. })));
}

#[test]
fn what_was_done_to_the_stored_log_shows() {
    let store = || stored(log(5));
    let entry = |store: &MemoryStore, seq| of(store).from(seq, seq, 1).expect("read").remove(0);
    let edited = store();
    put(&edited, AuditEntry { who: "token:nobody".into(), ..entry(&edited, 3) });
    assert_eq!(whole(&edited), Err(Broken::Changed { seq: 4 }));
    let last = store();
    put(&last, AuditEntry { after: Facts::none(), ..entry(&last, 5) });
    assert_eq!(whole(&last), Err(Broken::Other { seq: 5 }));
    let cut = store();
    delete(&cut, 5);
    assert_eq!(whole(&cut), Err(Broken::Cut { end: 4, seq: 5 }));
    let begun_later = store();
    delete(&begun_later, 1);
    assert_eq!(whole(&begun_later), Err(Broken::Beginning { first: 2 }));
    let emptied = store();
    (1..=5).for_each(|seq| delete(&emptied, seq));
    assert_eq!(whole(&emptied), Err(Broken::Cut { end: 0, seq: 5 }));
    let added = store();
    put(&added, AuditEntry { seq: 6, previous: Head::at(&entry(&added, 5)).digest, ..entry(&added, 5) });
    assert_eq!(whole(&added), Err(Broken::Other { seq: 6 }));
    let damaged = store();
    commit(&damaged, vec![Write::Put { key: ledger::key(2), value: vec![0xff] }]);
    assert!(matches!(whole(&damaged), Err(Broken::Unreadable { after: 1, .. })));
    let headless = store();
    commit(&headless, vec![Write::Delete { key: stored_key::<AuditHead>(&0) }]);
    assert_eq!(whole(&headless), Err(Broken::NoHead));
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
fn the_newest_part_is_checked_without_reading_the_rest() {
    let store = stored(log(50));
    let entry = |seq| of(&store).from(seq, seq, 1).expect("read").remove(0);
    let newest = |count| check(&of(&store), Extent::Newest(count));
    let head = Head::at(&entry(50));
    put(&store, AuditEntry { who: "token:nobody".into(), ..entry(20) });
    assert_eq!([newest(1), newest(30), newest(29)], [Ok(head), Ok(head), Ok(head)]);
    assert_eq!([newest(31), newest(50), newest(51), whole(&store)], [(); 4].map(|()| Err(Broken::Changed { seq: 21 })));
    put(&store, AuditEntry { who: "token:nobody".into(), ..entry(49) });
    assert_eq!(newest(10), Err(Broken::Changed { seq: 50 }));
}

#[test]
fn a_log_that_was_pruned_proves_what_is_left_and_says_from_where() {
    let mut old = draft();
    let mut ages = |count: usize| {
        (0..count).for_each(|n| old.audit("location.set", n, Facts::none(), Facts::none()));
        old.advance_ms(1_000);
    };
    ages(10);
    ages(5);
    let (now, gone) = (old.now_unix_ms(), old.audited()[7].clone());
    let store = stored(old);
    let (first, to) = prunable(&of(&store), now - 1_500).expect("read").expect("ten are older");
    assert_eq!((first, to.seq), (1, 10));
    assert_eq!(prunable(&of(&store), 0).expect("read"), None);
    assert_eq!(prunable(&of(&store), u64::MAX).expect("read").map(|(_, to)| to.seq), Some(14), "the newest one stays");

    let next = |change: &dyn Fn(&mut Draft)| {
        let mut state = State::default();
        state.put(AuditHead::from(of(&store).head().expect("read").expect("there")));
        let mut draft = Draft::new(state, now);
        change(&mut draft);
        commit(&store, draft.finish().1);
    };
    next(&|draft| announce(draft, first, to));
    assert!(whole(&store).is_ok());
    // Stopped in the middle, and then finished.
    next(&|draft| prune(draft, 1..=4));
    assert!(whole(&store).is_ok());
    next(&|draft| prune(draft, 5..=10));
    let head = whole(&store).expect("what is left is whole");
    assert_eq!(of(&store).from(0, u64::MAX, 1).expect("read")[0].seq, 11);

    let left: Vec<String> = of(&store).all(0, u64::MAX).map(|entry| Line::of(&entry.expect("read")).text()).collect();
    let mut chain = Chain::with([head, to]);
    left.iter().for_each(|line| drop(chain.add(line).expect("whole")));
    assert!(chain.was_pruned());
    assert_eq!((chain.begin(), chain.end()), (11, Ok(head)), "and the last one that went is known by its digest");
    assert_eq!(read(&left, Some(Head { digest: head.digest, ..to })), Err(Broken::Other { seq: 10 }));
    assert_eq!(read(&left, Some(Head::at(&gone))), Err(Broken::Before { begin: 11, seq: 8 }));
    // One more than was announced.
    assert_eq!(read(&left[1..], None), Err(Broken::Beginning { first: 12 }));
    delete(&store, 11);
    assert_eq!(whole(&store), Err(Broken::Beginning { first: 12 }));
}

#[test]
fn what_was_cut_off_is_missed_for_ever() {
    let store = stored(log(5));
    let mut state = State::default();
    state.put(AuditHead::from(of(&store).head().expect("read").expect("there")));
    delete(&store, 5);
    let mut draft = Draft::new(state, 0);
    draft.audit("location.set", "ber1", Facts::none(), Facts::none());
    commit(&store, draft.finish().1);
    assert_eq!(whole(&store), Err(Broken::Gap { after: 4, found: 6 }));
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
    assert_eq!(whole(&stored(draft)).map(|head| head.seq), Ok(3));
}

#[tokio::test]
async fn the_chain_is_whole_after_restarts_with_many_changes_in_a_batch_and_refused_ones_among_them() {
    let store = MemoryStore::new();
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
        assert_eq!(check(&fleet.ledger(), Extent::Whole).map(|head| head.seq), Ok(restart * 600));
        drop(fleet);
        ended.await.expect("the writer ends");
    }
}
