//! Undoing that cannot hold: the NIC by which the machine was reached is pulled out of it in the middle of a push, and the
//! controller is away just then.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use muster_tests::eventually;
use muster_tests::ground::{Ground, Seat};
use muster_tests::lab::{Lab, SOON, text};
use muster_tests::switch::{Fault, Lost};
use serde_json::Value;

use super::table::Push;
use super::{Went, report, stand, until_ended};

/// The first machine can get an address by the NIC that is left. The second cannot, and has its NIC put in again.
const SEATS: usize = 2;

/// For the turn with what a machine had, and its boot's worth of a session.
const TURNS: Duration = Duration::from_secs(180);

/// What agents say.
const UNDOES: &str = "is undone: ";
const FAILED: &str = "could not be undone after ";
const ASKS: &str = "start DHCP on";
const LOOKS: &str = "no controller within";
const AS_BEFORE: &str = "no controller within 60 s; trying the network before the last change again";
const HOME: &str = "in session with";

#[test]
fn a_machine_that_loses_the_nic_it_was_reached_by_in_the_middle_of_a_push_comes_home_by_itself_and_says_so()
-> Result<()> {
    let mut ground = Ground::open("pulled-pushes", SEATS)?;
    let way = "two: {addresses: [10.N.2.50/24], routes: [{to: default, via: 10.N.2.1}]}";
    let before = Push::read("static by the second NIC", &[way])?;
    let kept = ground.seats.iter().map(|seat| stand(&before, &ground.lab, seat)).collect::<Result<Vec<_>>>()?;
    let boots = ground.seats.iter().map(|seat| boot(&ground.lab, seat)).collect::<Result<Vec<_>>>()?;

    // Nobody is there to give the second machine an address, nor to ask about the one that was leased to it when it booted.
    ground.seats[1].switch.set_faults(&[Fault { vlan: 1.try_into()?, lost: Lost::All }]);
    let wrong = "two: {addresses: [10.N.2.51/24], routes: [{to: default, via: 10.N.2.99}]}";
    let push = Push::read("a gateway that is nobody's", &[wrong])?;
    let mut asked = Vec::new();
    for seat in &ground.seats {
        asked.push(text(&seat.push(&ground.lab, &push.document(seat))?, "/id")?.to_owned());
    }
    for seat in &ground.seats {
        eventually(SOON, "the agent is at it", || {
            let now = seat.state(&ground.lab)?;
            ensure!(now["progress"]["state"] == "applying", "{now}");
            Ok(())
        })?;
    }
    ground.lab.controller.kill();
    ground.seats.iter().try_for_each(|seat| seat.pull_out(2))?;
    for seat in &ground.seats {
        let console = &seat.machine()?.console;
        console.wait_for(UNDOES, 0, SOON)?;
        let failed = console.wait_for(FAILED, 0, SOON)?;
        ensure!(failed.text.contains(&is_gone(seat)), "it says what is missing: {}", failed.text);
        ensure!(failed.text.contains(ASKS), "it says what it does about it: {}", failed.text);
    }
    ground.seats[1].put_in(2)?;
    let ask = ground.seats.iter().map(|seat| Ok(seat.machine()?.console.len())).collect::<Result<Vec<_>>>()?;
    ground.lab.controller.start_again()?;

    for (seat, mark) in ground.seats.iter().zip(&ask) {
        seat.machine()?.console.wait_for(HOME, *mark, TURNS)?;
    }
    let mut went = Vec::new();
    for ((seat, operation), boot_before) in ground.seats.iter().zip(&asked).zip(boots) {
        let ended = until_ended(&ground.lab, operation)?;
        ensure!(ended["state"] == "failed" && ended["outcome"] == "revert-failed", "{ended}");
        let shown = ground.lab.controller.muster(&["operation", "show", operation])?;
        ensure!(shown.contains("revert-failed") && shown.contains(&is_gone(seat)), "it says what is missing: {shown}");
        ensure!(boot(&ground.lab, seat)? == boot_before, "it did not have to boot");
        went.push(Went::of(seat, &push.name, &ended)?);
    }
    report(&ground.lab, &went)?;

    // The first one is home by what is left of it, and the second by what it had.
    let [first, second] = &ground.seats[..] else { bail!("{SEATS} seats") };
    let leased = first.observed(&ground.lab)?.to_string();
    ensure!(leased.contains("10.1.1.1") && !leased.contains("10.1.2."), "{leased}");
    second.machine()?.console.wait_for(AS_BEFORE, ask[1], SOON)?;
    eventually(SOON, "the network is as it was", || {
        let [had, now] = [kept[1].clone(), second.observed(&ground.lab)?].map(without_wake_on_lan);
        ensure!(now == had, "it is {now}\nand was {had}");
        Ok(())
    })?;

    // Whatever is right for what they are now is kept, and nobody looks for the way any more.
    let lease = Push::read("a lease by the first NIC", &["one: {dhcp4: true}"])?.document(first);
    let lease: String = lease.lines().filter(|line| !line.contains(&first.mac(2))).flat_map(|l| [l, "\n"]).collect();
    for (seat, document) in [(first, lease), (second, before.document(second))] {
        let asked = seat.push(&ground.lab, &document)?;
        let ended = until_ended(&ground.lab, text(&asked, "/id")?)?;
        ensure!(ended["state"] == "succeeded" && ended["outcome"] == "confirmed", "{ended}");
        let now = seat.state(&ground.lab)?;
        ensure!(now["drift"].is_null(), "{now}");
    }
    let said = first.machine()?.console.lines(ask[0]);
    ensure!(said.iter().all(|line| !line.text.contains(LOOKS)), "the first way led home");
    Ok(())
}

/// What is said of the NIC that was pulled out, whatever its name.
fn is_gone(seat: &Seat) -> String {
    format!("({}) is gone", seat.mac(2))
}

/// The emulated firmware lets no NIC wake the machine that was not there when it started.
fn without_wake_on_lan(mut network: Value) -> Value {
    for link in network["links"].as_array_mut().into_iter().flatten() {
        link.as_object_mut().and_then(|link| link.remove("wakeonlan"));
    }
    network
}

/// Which one the machine is in.
fn boot(lab: &Lab, seat: &Seat) -> Result<Value> {
    let state = seat.state(lab)?;
    ensure!(state["presence"]["state"] == "online", "{state}");
    Ok(state["presence"]["boot"].clone())
}
