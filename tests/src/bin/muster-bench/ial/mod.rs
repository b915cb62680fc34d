//! Cycle's calls by 64 clients at one time, each beside a bare server that answers as many bytes, and what is acknowledged as
//! durable beside bare writes to the same disk.
//!
//! The controller is the release build, and so are the clients and the bare servers (`muster-load`), which are served by the
//! code that serves the controller's HTTPS: what differs is what is behind it.
//! All of them take turns, since others may have work for this computer: what counts is how they compare within a round.

mod load;
mod site;

use anyhow::Result;
use muster_tests::artifacts;
use serde_json::{Value, json};

use super::row;
use load::{Bare, Called, call, write};
use site::{MACHINES, Site, allocation};

/// Clients at one time.
const CLIENTS: usize = 64;

/// Of them that write, where others read.
const WRITERS: usize = 8;

/// Where the catalog is.
const PROVIDER: &str = "/v1/infrastructure/provider";

/// How often everything has its turn.
const ROUNDS: usize = 5;

/// Bytes that one change is on the disk, about: its record, its event, and its entry in the audit log.
const RECORD: usize = 1024;

/// Builds a fleet, and calls.
pub fn measure() -> Result<()> {
    let site = Site::build()?;
    let bare = Bare::start(&super::folder("bench-bare")?, &artifacts::released("muster-load")?)?;
    let to_us = load::Server {
        address: site.address(),
        ca: site.controller.data().join("ca.crt"),
        pid: site.controller.pid()?,
    };
    catalog(&site, &to_us, &bare)?;
    beside_writers(&site, &to_us, &bare)?;
    durable(&site, &to_us, &bare)
}

/// What changes nothing, each beside an empty handler that answers as many bytes.
fn catalog(site: &Site, to_us: &load::Server, bare: &Bare) -> Result<()> {
    let (server, location) = &site.servers[0];
    let calls = [
        ("verify", "/v1/auth/verify".to_owned(), Value::Null),
        ("locations", format!("{PROVIDER}/locations"), Value::Null),
        ("server models", format!("{PROVIDER}/server-models"), Value::Null),
        ("configure", "/v1/infrastructure/location/configure".to_owned(), json!({ "location_id": location })),
        ("provision status", "/v1/infrastructure/server/provision-status".to_owned(), json!({ "server_id": server })),
    ];
    let mut turns: Vec<Vec<(Called, Called)>> = calls.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((_, path, request), turns) in calls.iter().zip(&mut turns) {
            let ours = call(to_us, CLIENTS, 1.0, &json!([{ "path": path, "body": site.body(request) }]))?;
            let ask = json!([{ "path": format!("/empty/{}", ours.bytes), "body": site.body(request) }]);
            turns.push((ours, call(&bare.server, CLIENTS, 1.0, &ask)?));
        }
    }
    for ((name, ..), turns) in calls.iter().zip(&turns) {
        compared(name, turns);
    }
    Ok(())
}

/// A row with what is ours and the floor, by round.
fn compared(name: &str, turns: &[(Called, Called)]) {
    let (ours, floor): (Vec<&Called>, Vec<&Called>) = turns.iter().map(|(ours, floor)| (ours, floor)).unzip();
    let against = |of: fn(&Called) -> f64| ratios(turns.iter().map(|(ours, floor)| of(ours) / of(floor)));
    let beside = format!(
        "an empty handler that answers as many bytes {}; of its calls a second {}, its CPU {}, its median {}",
        said(&floor),
        against(|called| called.per_second),
        against(|called| called.cpu_us),
        against(|called| called.asks[0].median_us)
    );
    let bytes = ours.first().map_or(0, |called| called.bytes);
    row(&format!("IAL {name}: {CLIENTS} clients, {MACHINES} machines, {bytes} bytes"), &said(&ours), &beside);
}

/// The catalog while the store is written to all the time.
fn beside_writers(site: &Site, to_us: &load::Server, bare: &Bare) -> Result<()> {
    let models = json!([{ "path": format!("{PROVIDER}/server-models"), "body": site.body(&Value::Null) }]);
    let (asks, mut turns) = (changes(site), Vec::new());
    // Longer than what is measured, which begins when clients are connected.
    let written_to = |part: &dyn Fn() -> Result<Called>| {
        std::thread::scope(|scope| {
            let writers = scope.spawn(|| call(to_us, WRITERS, 2.0, &asks));
            let called = part();
            writers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            called
        })
    };
    for _ in 0..ROUNDS {
        let ours = written_to(&|| call(to_us, CLIENTS, 1.0, &models))?;
        let ask = json!([{ "path": format!("/empty/{}", ours.bytes), "body": site.body(&Value::Null) }]);
        turns.push((ours, written_to(&|| call(&bare.server, CLIENTS, 1.0, &ask))?));
    }
    compared(&format!("server models while {WRITERS} clients have addresses allocated and released"), &turns);
    Ok(())
}

/// What has its turn in a round of [`durable`].
struct Round {
    /// Bare writes, each made durable: by one loop, and by as many as there are clients.
    alone: load::Took,
    crowd: load::Took,
    /// A handler with nothing behind it, and one with nothing but the disk: by all clients.
    empty: Called,
    shared: Called,
    /// Ours, by all clients: allocate and release, and provision status, which answers what is durable.
    changes: Called,
    status: Called,
    /// Changes by one client.
    single: Called,
}

/// What is acknowledged once it is on the disk, beside a bare loop of write and fdatasync, beside a handler with nothing but
/// a disk behind it, and beside one with nothing at all.
fn durable(site: &Site, to_us: &load::Server, bare: &Bare) -> Result<()> {
    let changes = changes(site);
    let status = json!({ "server_id": site.servers[0].0 });
    let status = json!([{ "path": "/v1/infrastructure/server/provision-status", "body": site.body(&status) }]);
    let bare_asks = |path: String| json!([{ "path": path, "body": site.body(&Value::Null) }]);
    let (empty, shared) = (bare_asks("/empty/200".into()), bare_asks(format!("/durable/200/{RECORD}")));
    let mut rounds = Vec::new();
    // Disks are other ones from one second to the next where others write to them too.
    for _ in 0..3 * ROUNDS {
        rounds.push(Round {
            alone: write(&bare.folder.join("alone"), 1, RECORD, 0.5)?,
            crowd: write(&bare.folder.join("crowd"), CLIENTS, RECORD, 0.5)?,
            changes: call(to_us, CLIENTS, 0.5, &changes)?,
            shared: call(&bare.server, CLIENTS, 0.5, &shared)?,
            status: call(to_us, CLIENTS, 0.5, &status)?,
            empty: call(&bare.server, CLIENTS, 0.5, &empty)?,
            single: call(to_us, 1, 0.5, &changes)?,
        });
    }
    let of = |of: &dyn Fn(&Round) -> f64| middle(rounds.iter().map(of));
    row(
        &format!("write and fdatasync of {RECORD} bytes, in a bare loop"),
        &format!("median {}, p99 {}", ms(of(&|round| round.alone.median_us)), ms(of(&|round| round.alone.p99_us))),
        &format!(
            "{CLIENTS} such loops at one time {}; {CLIENTS} clients of an empty handler {}, of one whose clients share \
             fdatasyncs {}",
            ms(of(&|round| round.crowd.median_us)),
            ms(of(&|round| round.empty.asks[0].median_us)),
            ms(of(&|round| round.shared.asks[0].median_us))
        ),
    );
    let one = |index: usize| format!("; one client alone {}", ms(of(&|round| round.single.asks[index].median_us)));
    durable_row("allocate", &rounds, |round| (&round.changes, 0), &one(0));
    durable_row("release", &rounds, |round| (&round.changes, 1), &one(1));
    durable_row("provision status", &rounds, |round| (&round.status, 0), "");
    Ok(())
}

/// A row with how one of our calls compares, round by round.
fn durable_row(name: &str, rounds: &[Round], which: fn(&Round) -> (&Called, usize), also: &str) {
    let median = |round: &Round| {
        let (called, index) = which(round);
        called.asks[index].median_us
    };
    let against = |other: &dyn Fn(&Round) -> f64| ratios(rounds.iter().map(|round| median(round) / other(round)));
    let of = |of: fn((&Called, usize)) -> f64| middle(rounds.iter().map(|round| of(which(round))));
    let measured = format!(
        "median {}, p99 {}, {:.0}/s, {:.0} µs of CPU each{also}",
        ms(middle(rounds.iter().map(median))),
        ms(of(|(called, index)| called.asks[index].p99_us)),
        of(|(called, _)| called.per_second),
        of(|(called, _)| called.cpu_us)
    );
    let beside = format!(
        "of the bare fdatasync {} times, of that in {CLIENTS} loops {} times, of the empty handler whose clients share \
         fdatasyncs {} times, of the empty handler {} times",
        against(&|round| round.alone.median_us),
        against(&|round| round.crowd.median_us),
        against(&|round| round.shared.asks[0].median_us),
        against(&|round| round.empty.asks[0].median_us)
    );
    row(&format!("IAL {name}, durable: {CLIENTS} clients, {} addresses held", site::POOLS), &measured, &beside);
}

/// An address is taken, and given back.
fn changes(site: &Site) -> Value {
    let (server, location) = &site.servers[0];
    json!([
        {
            "path": "/v1/infrastructure/ip/allocate",
            "body": site.body(&allocation(server, location, "{n}")),
            "keep": ["/data/ip_id", "/data/ip_assignment_id"],
        },
        {
            "path": "/v1/infrastructure/ip/release",
            "body": site.body(&json!({ "kind": "ipv4", "ip_id": "{0}", "ip_assignment_id": "{1}" })),
        },
    ])
}

fn said(turns: &[&Called]) -> String {
    let of = |of: fn(&Called) -> f64| middle(turns.iter().map(|called| of(called)));
    format!(
        "{:.0}/s, median {}, p99 {}, {:.0} µs of CPU each",
        of(|called| called.per_second),
        ms(of(|called| called.asks[0].median_us)),
        ms(of(|called| called.asks[0].p99_us)),
        of(|called| called.cpu_us)
    )
}

fn ms(us: f64) -> String {
    format!("{:.2} ms", us / 1e3)
}

fn sorted(all: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all
}

fn middle(all: impl Iterator<Item = f64>) -> f64 {
    let all = sorted(all);
    all[all.len() / 2]
}

/// The middle one, with the lowest and the highest.
fn ratios(all: impl Iterator<Item = f64>) -> String {
    let all = sorted(all);
    format!("{:.2} ({:.2} to {:.2})", all[all.len() / 2], all[0], all[all.len() - 1])
}
