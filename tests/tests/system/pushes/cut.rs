//! Pushes in the middle of which something dies: the controller, the agent, the machine.

use anyhow::{Context, Result, ensure};
use muster_tests::eventually;
use muster_tests::ground::{Ground, Seat};
use muster_tests::lab::{BOOT, SOON, text};

use super::table::Push;
use super::{BACK_WITHIN, Went, check_undone, report, stand, until_ended};

/// At one machine after the other: what one could hide, the other shows.
const SEATS: usize = 2;

#[test]
fn a_push_in_the_middle_of_which_something_dies_is_undone() -> Result<()> {
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

/// Pushes it to every seat, has something die when all agents are at it, and sees it undone.
fn check(
    ground: &mut Ground,
    push: &Push,
    within: std::time::Duration,
    dies: impl FnOnce(&mut Ground) -> Result<()>,
) -> Result<Vec<Went>> {
    let kept = ground.seats.iter().map(|seat| seat.observed(&ground.lab)).collect::<Result<Vec<_>>>()?;
    let operation = |id: &str| ground.lab.controller.api()?.get(&format!("/api/v1/operations/{id}"));
    let mut asked = Vec::new();
    for seat in &ground.seats {
        asked.push(text(&seat.push(&ground.lab, &push.document(seat))?, "/id")?.to_owned());
    }
    for id in &asked {
        eventually(SOON, "the agent is at it", || {
            let now = operation(id)?;
            ensure!(now["state"] == "running", "{now}");
            Ok(())
        })?;
    }
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
