//! Pushes in the middle of which something else happens: the controller, the agent or the machine dies, or another one comes.

use anyhow::{Context, Result, ensure};
use muster_tests::eventually;
use muster_tests::ground::{Ground, Seat};
use muster_tests::lab::{BOOT, CONFIRM_WITHIN, Lab, SOON, text};

use super::table::Push;
use super::{BACK_WITHIN, Went, check_times, check_undone, report, stand, until_ended};

/// At one machine after the other: what one could hide, the other shows.
const SEATS: usize = 2;

#[test]
fn a_push_in_the_middle_of_which_something_dies_or_another_one_comes_is_undone() -> Result<()> {
    let mut ground = Ground::open("cut-pushes", SEATS)?;
    let wrong = "one: {addresses: [10.N.1.51/24], routes: [{to: default, via: 10.N.1.99}]}";
    let right =
        "vlans: {office: {id: 42, link: one, addresses: [10.N.42.50/24], routes: [{to: default, via: 10.N.42.1}]}}";
    let mut went = Vec::new();

    // The VLAN is all that the machines have: that is what they come back with.
    let before = Push::read("a VLAN", &[right])?;
    ground.seats.iter().try_for_each(|seat| stand(&before, &ground.lab, seat).map(drop))?;
    let push = Push::read("the power fails", &[wrong])?;
    let within = BACK_WITHIN + BOOT;
    went.extend(check(&mut ground, &push, within, |ground| {
        ground.seats.iter_mut().for_each(Seat::cut_power);
        ground.seats.iter_mut().try_for_each(|seat| seat.switch_on(&ground.lab))?;
        ground.seats.iter().try_for_each(is_back_soon_after_its_kernel_started)
    })?);

    let before = Push::read("static", &["one: {addresses: [10.N.1.50/24], routes: [{to: default, via: 10.N.1.1}]}"])?;
    ground.seats.iter().try_for_each(|seat| stand(&before, &ground.lab, seat).map(drop))?;
    let push = Push::read("the agent dies", &[wrong])?;
    went.extend(check(&mut ground, &push, BACK_WITHIN, |ground| {
        ground.seats.iter().try_for_each(|seat| seat.machine()?.kill_processes())
    })?);

    // What is pushed is right: but nobody is there to say so in time.
    let push = Push::read("the controller dies", &[right])?;
    went.extend(check(&mut ground, &push, BACK_WITHIN, |ground| {
        let marks = ground.seats.iter().map(|seat| Ok(seat.machine()?.console.len())).collect::<Result<Vec<_>>>()?;
        ground.lab.controller.kill();
        for (seat, mark) in ground.seats.iter().zip(marks) {
            seat.machine()?.console.wait_for("is undone: ", mark, SOON)?;
        }
        ground.lab.controller.start_again()
    })?);

    // What is wrong is given up long before its deadline, and what is right follows it.
    let push = Push::read("another one comes", &[wrong])?;
    let newer = Push::read("the other one", &[right])?;
    for seat in &ground.seats {
        let id = begin(&ground.lab, seat, &push)?;
        let newer = text(&seat.push(&ground.lab, &newer.document(seat))?, "/id")?.to_owned();
        let ended = until_ended(&ground.lab, &id)?;
        let overtaken = Went::of(seat, &push.name, &ended)?;
        ensure!(ended["outcome"] == "reverted" && ended["reason"] == "interrupted", "{ended}");
        ensure!(overtaken.took < CONFIRM_WITHIN, "its deadline is not waited for: {ended}");
        check_times(&ended, overtaken.took)?;
        let followed = until_ended(&ground.lab, &newer)?;
        ensure!(followed["outcome"] == "confirmed", "{followed}");
        eventually(SOON, "the newer way is the one home", || {
            let now = seat.state(&ground.lab)?;
            ensure!(now["presence"]["state"] == "online" && now["inventory"]["home"]["link"] == "office", "{now}");
            Ok(())
        })?;
        went.extend([overtaken, Went::of(seat, "the other one", &followed)?]);
    }
    report(&ground.lab, &went)
}

/// How long firmware and emulation take is not the product's: what the machine says first is said by its kernel or agent.
fn is_back_soon_after_its_kernel_started(seat: &Seat) -> Result<()> {
    let console = &seat.machine()?.console;
    let in_session = console.wait_for("in session with", 0, BOOT)?.at;
    let began = console.lines(0).first().context("it said something")?.at;
    let took = in_session.duration_since(began);
    ensure!(took <= BACK_WITHIN, "seat {}: {} s from the kernel's start to contact", seat.number, took.as_secs());
    Ok(())
}

/// Pushes it, and waits until the agent is at it; answers its operation.
fn begin(lab: &Lab, seat: &Seat, push: &Push) -> Result<String> {
    let id = text(&seat.push(lab, &push.document(seat))?, "/id")?.to_owned();
    eventually(SOON, "the agent is at it", || {
        let now = lab.controller.api()?.get(&format!("/api/v1/operations/{id}"))?;
        ensure!(now["state"] == "running", "{now}");
        Ok(())
    })?;
    Ok(id)
}

/// Pushes it to every seat, has something die when all agents are at it, and sees it undone.
fn check(
    ground: &mut Ground,
    push: &Push,
    within: std::time::Duration,
    dies: impl FnOnce(&mut Ground) -> Result<()>,
) -> Result<Vec<Went>> {
    let kept = ground.seats.iter().map(|seat| seat.observed(&ground.lab)).collect::<Result<Vec<_>>>()?;
    let asked = ground.seats.iter().map(|seat| begin(&ground.lab, seat, push)).collect::<Result<Vec<_>>>()?;
    dies(ground)?;
    let mut all = Vec::new();
    for ((seat, id), kept) in ground.seats.iter().zip(asked).zip(kept) {
        let ended = until_ended(&ground.lab, &id)?;
        let undone = check_undone(&ground.lab, seat, &ended, within, &kept);
        undone.with_context(|| format!("{} at seat {}", push.name, seat.number))?;
        all.push(Went::of(seat, &push.name, &ended)?);
    }
    Ok(all)
}
