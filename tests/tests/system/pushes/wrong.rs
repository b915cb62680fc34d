//! Every entry of `wrong.txt` is undone.

use anyhow::{Context, Result, ensure};
use muster_tests::ground::{Ground, Seat};
use muster_tests::lab::Lab;
use serde_json::Value;

use super::table::{self, Push};
use super::{BACK_WITHIN, Went, carry_out, side_by_side, stand};

#[test]
fn every_wrong_push_is_undone_and_the_machine_is_back_within_30_s_as_it_was() -> Result<()> {
    let lists = table::read(include_str!("wrong.txt"))?;
    let ground = Ground::open("wrong-pushes", lists.len())?;
    side_by_side(&ground, |lab, seat, went, failures| {
        let list = &lists[seat.number - 1];
        let mut kept = stand(&list.before, lab, seat)?;
        for push in &list.pushes {
            match check(push, lab, seat, &kept) {
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

/// Pushes it, and sees that it is undone without a reboot.
fn check(push: &Push, lab: &Lab, seat: &Seat, kept: &Value) -> Result<Went> {
    let boot = seat.state(lab)?["presence"]["boot"].take();
    let (operation, went) = carry_out(push, lab, seat)?;
    super::check_undone(lab, seat, &operation, push.waits + BACK_WITHIN, kept).context(push.document(seat))?;
    super::check_times(&operation, went.took)?;
    let now = seat.state(lab)?;
    ensure!(now["presence"]["boot"] == boot, "it did not have to boot: {now}");
    Ok(went)
}
