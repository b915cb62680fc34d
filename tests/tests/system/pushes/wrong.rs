//! Every entry of `wrong.txt` is undone.

use anyhow::{Context, Result, bail, ensure};
use muster_tests::ground::{Ground, Seat};
use muster_tests::lab::Lab;
use serde_json::Value;

use super::table::{self, Push, Session};
use super::usable::{self, Silent};
use super::{BACK_WITHIN, Went, carry_out, side_by_side, stand};

#[test]
fn every_wrong_push_is_undone_and_the_machine_is_back_within_30_s_as_it_was() -> Result<()> {
    let lists = table::read(include_str!("wrong.txt"))?;
    // At the last seat nothing happens.
    let ground = Ground::open("wrong-pushes", lists.len() + 1)?;
    let idle = ground.seats.last().context("there are seats")?;
    side_by_side(&ground, |lab, seat, went, failures| {
        let Some(list) = lists.get(seat.number - 1) else { return Ok(()) };
        let mut kept = stand(&list.before, lab, seat)?;
        for push in &list.pushes {
            match check(push, lab, seat, idle, &kept) {
                Ok(how) => went.push(how),
                Err(error) => {
                    failures.push(format!("{}: {error:#}", push.name));
                    // The rest is looked at all the same.
                    kept = stand(&list.before, lab, seat)?;
                }
            }
        }
        Ok(())
    })
}

/// Pushes it, and sees that it is undone without a reboot, and where it says so without the session's noticing.
fn check(push: &Push, lab: &Lab, seat: &Seat, idle: &Seat, kept: &Value) -> Result<Went> {
    let boot = seat.state(lab)?["presence"]["boot"].take();
    let (operation, went) = match push.session {
        Session::MayBeAnother => carry_out(push, lab, seat)?,
        Session::GoesOn => {
            let asked = usable::while_asked(lab, seat, idle, push.session, || carry_out(push, lab, seat));
            let ((operation, went), silent) = asked?;
            (operation, Went { silent: Some(silent), ..went })
        }
        Session::Moves => bail!("what is undone leaves the session where it is"),
    };
    super::check_undone(lab, seat, &operation, push.waits + BACK_WITHIN, kept).context(push.document(seat))?;
    super::check_times(&operation, went.took)?;
    if let Some(reason) = &push.reason {
        ensure!(operation["reason"] == **reason, "it is not undone for {reason}: {operation}");
    }
    let now = seat.state(lab)?;
    ensure!(now["presence"]["boot"] == boot, "it did not have to boot: {now}");
    went.silent.as_ref().map_or(Ok(()), Silent::check)?;
    Ok(went)
}
