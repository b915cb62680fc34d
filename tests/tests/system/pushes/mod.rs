//! Networks pushed to machines that are reached over them: tables of wrong ones, each of which must be undone, and of right
//! ones, each of which must be kept.
//!
//! A new push is one more entry in `wrong.txt` or `right.txt`; [`table`] says how they are written, and
//! [`muster_tests::ground`] what there is. How long each took stands in `build/tests/*-pushes/pushes.txt`.

mod by_card;
mod cut;
mod home;
mod pulled;
mod right;
mod table;
mod usable;
mod wrong;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use muster_tests::eventually;
use muster_tests::ground::{Ground, Seat};
use muster_tests::lab::{CONFIRM_WITHIN, Lab, SOON, text};
use serde_json::Value;
use table::Push;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use usable::Silent;

/// The product's promise: from the deadline to contact, by the controller's clock.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// For the test to give up waiting; the promise is looked at afterwards.
const PATIENCE: Duration = Duration::from_secs(180);

/// How a push went.
struct Went {
    seat: usize,
    name: String,
    /// From the request to its end, by the controller's clock.
    took: Duration,
    why: String,
    /// For how long the session brought no answer, where that was looked at.
    silent: Option<Silent>,
}

impl Went {
    fn of(seat: &Seat, name: &str, operation: &Value) -> Result<Self> {
        let time = |pointer| anyhow::Ok(OffsetDateTime::parse(text(operation, pointer)?, &Rfc3339)?);
        let why = operation["error"].as_str().unwrap_or_default().to_owned();
        let took = (time("/ended")? - time("/created")?).try_into()?;
        Ok(Self { seat: seat.number, name: name.to_owned(), took, why, silent: None })
    }
}

/// Whether the phases of a push are as long as it says it took, and as the clock lets them be.
fn check_times(operation: &Value, took: Duration) -> Result<()> {
    let ms = |phase: &str| operation["times"][phase].as_u64().unwrap_or_default();
    let proof = ms("prove_beside_ms") + ms("verify_ms") + ms("prove_ms");
    let tried = ms("make_ms") + proof + ms("switch_ms");
    ensure!(tried + ms("revert_ms") == ms("total_ms"), "all phases together: {operation}");
    // Two computers' clocks.
    let most = took + Duration::from_secs(1);
    ensure!(Duration::from_millis(ms("total_ms")) <= most, "longer than {} s: {operation}", took.as_secs_f64());
    if operation["outcome"] == "confirmed" {
        ensure!(ms("prove_ms") > 0, "to ask over the new network takes some time: {operation}");
    }
    if ["no-lease", "duplicate-address"].map(Value::from).contains(&operation["reason"]) {
        ensure!(ms("make_ms") + ms("switch_ms") > 0, "so does waiting in vain: {operation}");
    }
    if operation["error"].as_str().is_some_and(|why| why.contains("the controller did not answer")) {
        // Each is cut to whole milliseconds.
        ensure!(Duration::from_millis(proof + 3) >= CONFIRM_WITHIN, "it had so long to answer: {operation}");
    }
    Ok(())
}

/// Pushes it, and waits until its operation has ended.
fn carry_out(push: &Push, lab: &Lab, seat: &Seat) -> Result<(Value, Went)> {
    push.begin(seat)?;
    let asked = seat.push(lab, &push.document(seat)).and_then(|asked| Ok(text(&asked, "/id")?.to_owned()));
    let ended = asked.and_then(|operation| until_ended(lab, &operation));
    push.end(seat)?;
    let ended = ended?;
    let went = Went::of(seat, &push.name, &ended)?;
    Ok((ended, went))
}

fn until_ended(lab: &Lab, operation: &str) -> Result<Value> {
    eventually(PATIENCE, "the operation ends", || {
        let operation = lab.controller.api()?.get(&format!("/api/v1/operations/{operation}"))?;
        ensure!(!operation["ended"].is_null(), "{operation}");
        Ok(operation)
    })
}

/// Gives the machine what it is to have before, and answers what its kernel says of it.
fn stand(before: &Push, lab: &Lab, seat: &Seat) -> Result<Value> {
    let (operation, _) = carry_out(before, lab, seat)?;
    ensure!(operation["state"] == "succeeded", "{}: {operation}", before.name);
    eventually(SOON, "every cable is noticed", || {
        let observed = seat.observed(lab)?;
        let links = observed["links"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(links.iter().all(|link| link["up"] == link["carrier"]), "{observed}");
        Ok(observed)
    })
}

/// Whether a push that has ended just now was undone: so long after its deadline at most, with a reason, and to what was
/// there before.
fn check_undone(lab: &Lab, seat: &Seat, operation: &Value, within: Duration, kept: &Value) -> Result<()> {
    let went = Went::of(seat, "", operation)?;
    let why = went.why.strip_prefix("reverted: ").with_context(|| format!("it was not reverted: {operation}"))?;
    ensure!(!why.is_empty(), "it says why: {operation}");
    let late = went.took.saturating_sub(CONFIRM_WITHIN);
    ensure!(late <= within, "{} s after the deadline: {operation}", late.as_secs());
    eventually(within - late, "the network is as it was", || {
        let now = seat.observed(lab)?;
        ensure!(now == *kept, "it is {now}\nand was {kept}");
        Ok(())
    })?;
    let now = seat.state(lab)?;
    ensure!(now["presence"]["state"] == "online" && now["progress"]["state"] == "reverted", "{now}");
    Ok(())
}

/// Does each seat's part at the same time, and gathers what became of it.
fn side_by_side(
    ground: &Ground,
    part: impl Fn(&Lab, &Seat, &mut Vec<Went>, &mut Vec<String>) -> Result<()> + Sync,
) -> Result<()> {
    let (lab, part) = (&ground.lab, &part);
    let (mut all, mut failures) = (vec![], vec![]);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for seat in &ground.seats {
            running.push(scope.spawn(move || {
                let (mut went, mut failures) = (vec![], vec![]);
                let result = part(lab, seat, &mut went, &mut failures);
                failures.extend(result.err().map(|error| format!("no further push: {error:#}")));
                (went, failures.into_iter().map(|why| format!("seat {}: {why}", seat.number)).collect::<Vec<_>>())
            }));
        }
        for one in running {
            let (went, failed) = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.extend(went);
            failures.extend(failed);
        }
    });
    report(lab, &all)?;
    if failures.is_empty() { Ok(()) } else { bail!("{} failed:\n{}", failures.len(), failures.join("\n")) }
}

/// Writes down how all went.
fn report(lab: &Lab, went: &[Went]) -> Result<()> {
    let mut table = String::new();
    for Went { seat, name, took, why, silent } in went {
        let after = took.as_secs_f64() - CONFIRM_WITHIN.as_secs_f64();
        let silent = silent.as_ref().map(Silent::to_string).unwrap_or_default();
        let _ = writeln!(table, "{seat}  {:5.1} s  deadline {after:+5.1} s  {name}  {silent}{why}", took.as_secs_f64());
    }
    let path = lab.folder.join("pushes.txt");
    std::fs::write(&path, &table).with_context(|| format!("writing {}", path.display()))?;
    println!("{table}");
    Ok(())
}
