//! What was acknowledged is there after SIGKILL, for hundreds of rounds on one database.
//!
//! The test starts itself again as a child that writes through the fleet and prints each acknowledgement; the parent
//! kills it in the middle of its work and looks at what the disk holds.
//! A killed process is not a power cut: what the disk's own cache loses, only a real one shows.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use muster_controller::fleet::record::{Geographic, Location};
use muster_controller::fleet::{Author, Fleet};
use muster_controller::store::SledStore;

const ROUNDS: u64 = 300;
const WRITERS: u64 = 8;
/// So that journals are exchanged many times a round, and kills come in the middle of it too.
const TURN_BYTES: u64 = 64 << 10;
const CHILD: &str = "MUSTER_TEST_KILL_CHILD";

#[test]
fn acknowledged_writes_survive_kill() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut known = BTreeMap::new();
    for round in 0..ROUNDS {
        // How many acknowledgements are awaited before the kill differs from round to round, without a random source.
        let patience = 1 + (round * 7919) % 61;
        for (writer, count) in run_and_kill(folder.path(), patience) {
            known.insert(writer, count);
        }
        let stored = stored(folder.path());
        for (writer, acknowledged) in &known {
            let found = stored.get(writer).copied().unwrap_or(0);
            assert!(found >= *acknowledged, "round {round}: {writer} has {found}, {acknowledged} was acknowledged");
            // The one change that a writer waits for may be on the disk and not acknowledged; never two.
            assert!(found <= acknowledged + 1, "round {round}: {writer} has {found} after {acknowledged}");
        }
        known.extend(stored);
    }
    assert_eq!(known.len() as u64, WRITERS);
}

/// What every writer's record says, as a controller that starts now would read it.
fn stored(folder: &Path) -> BTreeMap<String, u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (fleet, ended) = Fleet::start(SledStore::open(folder).expect("opens after a kill")).expect("loads");
    let found = fleet.state().locations.iter().map(|l| (l.code.clone(), l.name.parse().expect("a count"))).collect();
    drop(fleet);
    runtime.block_on(ended).expect("the writer ends with the last handle");
    found
}

fn run_and_kill(folder: &Path, patience: u64) -> Vec<(String, u64)> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "writes::acknowledged_writes_survive_kill", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts itself");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut seen = Vec::new();
    // What comes before the first acknowledgement is the test harness's own heading.
    let mut take = |line: String| {
        let (writer, count) = line.split_once(' ')?;
        seen.push((writer.to_owned(), count.parse().ok().filter(|_| writer.starts_with("writer-"))?));
        Some(())
    };
    let mut left = patience;
    while left > 0 {
        let line = lines.next().expect("the child writes until it is killed").expect("readable");
        left -= u64::from(take(line).is_some());
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    // Written before the kill and not read yet: acknowledged all the same. One write is one line, so none is cut.
    lines.map_while(Result::ok).for_each(|line| {
        take(line);
    });
    seen
}

fn write_until_killed(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let store = SledStore::open(folder).expect("opens").turning_after(TURN_BYTES);
    let (fleet, _ended) = Fleet::start(store).expect("loads");
    runtime.block_on(async {
        let writers = (0..WRITERS).map(|n| tokio::spawn(count_up(fleet.clone(), format!("writer-{n}"))));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("writes until it is killed");
        }
    });
}

async fn count_up(fleet: Fleet, code: String) {
    loop {
        let code = code.clone();
        let (code, count) = fleet
            .change(Author::controller(), move |draft| {
                let count = draft.get::<Location>(&code).map_or(1, |l| l.name.parse::<u64>().expect("a count") + 1);
                draft.put(Location {
                    code: code.clone(),
                    name: count.to_string(),
                    geographic: Geographic::default(),
                    abbreviation: String::new(),
                    zones: Vec::new(),
                    annotations: BTreeMap::new(),
                    ..Location::default()
                });
                Ok((code, count))
            })
            .await
            .expect("durable");
        let mut out = std::io::stdout().lock();
        out.write_all(format!("{code} {count}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
    }
}
