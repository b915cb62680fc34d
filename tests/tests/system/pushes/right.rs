//! Every entry of `right.txt` is kept.

use anyhow::{Context, Result, ensure};
use muster_tests::eventually;
use muster_tests::ground::{Ground, Seat};
use muster_tests::lab::{Lab, SOON};
use muster_tests::site::is_alive;
use serde_json::json;

use super::table::{self, Push, Session};
use super::usable::{self, Silent};
use super::{Went, carry_out, side_by_side};

#[test]
fn every_right_push_is_kept() -> Result<()> {
    let lists = table::read(include_str!("right.txt"))?;
    // At the last seat nothing happens.
    let ground = Ground::open("right-pushes", lists.len() + 1)?;
    let idle = ground.seats.last().context("there are seats")?;
    side_by_side(&ground, |lab, seat, went, failures| {
        for push in lists.get(seat.number - 1).into_iter().flat_map(|list| &list.pushes) {
            match check(push, lab, seat, idle) {
                Ok(how) => went.push(how),
                Err(error) => failures.push(format!("{}: {error:#}", push.name)),
            }
        }
        Ok(())
    })
}

/// Pushes it, and sees that it is in force: the machine is where it should be, and would do nothing more.
fn check(push: &Push, lab: &Lab, seat: &Seat, idle: &Seat) -> Result<Went> {
    let (operation, went) = match push.session {
        Session::MayBeAnother => carry_out(push, lab, seat)?,
        Session::GoesOn | Session::Moves => {
            let asked = usable::while_asked(lab, seat, idle, push.session, || carry_out(push, lab, seat));
            let ((operation, went), silent) = asked?;
            (operation, Went { silent: Some(silent), ..went })
        }
    };
    let document = push.document(seat);
    ensure!(operation["state"] == "succeeded", "{operation}\n{document}");
    super::check_times(&operation, went.took)?;
    for address in &push.found_at {
        let address = seat.fill(address).parse().with_context(|| address.clone())?;
        eventually(SOON, "the machine has its address", || is_alive(address))?;
    }
    let path = format!("/api/v1/machines/{}/plan", seat.id);
    let plan = lab.controller.api()?.post(&path, &json!({ "document": document }))?;
    ensure!(plan["steps"].as_array().is_some_and(Vec::is_empty), "there is nothing left to do: {plan}");
    went.silent.as_ref().map_or(Ok(()), Silent::check)?;
    Ok(went)
}
