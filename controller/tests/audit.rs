//! An audit log of a million entries: what it costs in memory, which is bounded, and at the start, which is told. By hand:
//! `cargo test --release -p muster-controller --test audit -- --ignored --nocapture`.

use std::time::Instant;

use muster_controller::fleet::{Author, Draft, Facts, Fleet};
use muster_controller::store::SledStore;

const ENTRIES: u64 = 1_000_000;

/// Of one change; a batch has room for several.
const AT_ONCE: u64 = 400;

/// Resident memory of this process in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}

fn start(folder: &std::path::Path) -> (Fleet, tokio::sync::oneshot::Receiver<muster_controller::fleet::Ended>) {
    Fleet::start(SledStore::open(folder).expect("opens")).expect("starts")
}

#[tokio::test]
#[ignore = "writes a million entries, more than a minute: run by hand when the audit log is changed"]
async fn a_million_entries_are_not_kept_in_memory() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let (fleet, ended) = start(folder.path());
    let before = resident_mib();
    for part in 0..ENTRIES / AT_ONCE {
        let write = move |draft: &mut Draft| {
            (0..AT_ONCE).for_each(|n| {
                let text = "generation 17 of digest 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
                let (subject, facts) =
                    (format!("3f2a9c1e0b7d4c559a512f6d1e0c{part:04x}{n:04x}"), Facts::one("desired", text));
                draft.audit("machine.desired", subject, facts.clone(), facts);
            });
            Ok(())
        };
        let author = Author::new("token:olga", "[2001:db8::7]:4711".parse().ok(), "0b7d4c559a512f6d");
        fleet.change(author, write).await.expect("written");
    }
    println!("after writing: {} MiB more", resident_mib().saturating_sub(before));
    drop(fleet);
    ended.await.expect("ends");

    let begin = Instant::now();
    let (fleet, _ended) = start(folder.path());
    let took = begin.elapsed();
    let more = resident_mib().saturating_sub(before);
    println!("after a start of {took:?}: {more} MiB more than at first");
    // The store's own cache and the map of its pages; the entries alone would be ten times as much.
    assert!(more < 200, "{more} MiB more");
    assert_eq!(fleet.state().next_audit(), ENTRIES + 1);
}
