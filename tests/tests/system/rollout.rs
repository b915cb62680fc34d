//! A template over a fleet of simulated machines, as an operator rolls it out: with the real program, against a controller
//! that is killed in the middle of it.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use muster_agent::sim::Wire;
use muster_tests::controller::Controller;
use muster_tests::lab::{LOCATION, SOON, text};
use muster_tests::simulated::Machines;
use muster_tests::{eventually, scratch};
use serde_json::Value;

use crate::fleet::{is_online, start, until};

/// How many machines.
const COUNT: u16 = 12;

/// For all waves, with a controller that is away in between: agents come back within a keep-alive.
const ROLLED_OUT: Duration = Duration::from_secs(180);

#[test]
fn a_rollout_goes_on_after_its_controller_was_killed_and_one_that_goes_wrong_ends_with_its_canary() -> Result<()> {
    let mut controller = start("rollout")?;
    let machines = Machines::plug(COUNT, LOCATION)?;
    for machine in machines.all() {
        machine.machine.set_wire(Wire::Gateway("10.77.0.1".parse()?));
    }
    let pending = until(&controller, SOON, "all are online and pending", COUNT, is_online)?;
    for (n, machine) in pending.iter().enumerate() {
        let (id, name, ip) = (text(machine, "/id")?, format!("m{n:02}"), format!("ip=10.77.9.{}", n + 1));
        controller.muster(&["machine", "approve", id])?;
        controller.muster(&["machine", "rename", id, &name])?;
        controller.muster(&["machine", "label", &name, &ip, "role=web"])?;
    }
    until(&controller, SOON, "all are available", COUNT, |m| is_online(m) && m["lifecycle"] == "available")?;

    // It is killed when the canary has confirmed and a wave is under way.
    let right = template("right", "10.77.0.1")?;
    let arguments = ["--role", "web", "-f", &right, "--wave", "3", "--soak", "1s"];
    controller.muster(&[&["apply", "--no-wait"], &arguments[..]].concat())?;
    eventually(SOON, "a wave is under way", || {
        let rollout = controller.muster_json(&["rollout", "show", "1"])?;
        ensure!(rollout["wave"].as_u64() > Some(0) && rollout["state"] == "running", "{rollout}");
        Ok(())
    })?;
    controller.kill();
    controller.start_again()?;
    let finished = until_over(&controller, 1)?;
    ensure!(finished["state"] == "finished", "{finished}");
    ensure!(finished["progress"]["confirmed"] == COUNT, "{finished}");
    let configured = until(&controller, SOON, "all have what they were given, once", COUNT, |machine| {
        is_online(machine) && machine["generation"] == 1 && machine["addresses"].to_string().contains("10.77.9.")
    })?;

    // The same again: nobody is given anything.
    let said = controller.muster(&[&["apply"], &arguments[..]].concat())?;
    ensure!(said == format!("rollout 2 is finished: {COUNT} as desired before\n"), "{said}");

    // A gateway that is nobody's ends with the canary, and the command says so.
    let wrong = template("wrong", "10.77.0.99")?;
    let stopped = controller.refusal(&["apply", "--all", "-f", &wrong, "--soak", "1s"])?;
    ensure!(stopped.contains("rollout 3 has stopped: m00: reverted: "), "{stopped}");
    let watched = controller.refusal(&["rollout", "watch", "3"])?;
    ensure!(watched.contains("11 left as they were"), "{watched}");
    let after = until(&controller, SOON, "all are there", COUNT, is_online)?;
    let addresses = |machines: &[Value]| machines.iter().map(|m| m["addresses"].clone()).collect::<Vec<_>>();
    ensure!(addresses(&after) == addresses(&configured), "every machine is as it was: {after:#?}");
    let touched = after.iter().filter(|machine| machine["generation"] == 2).count();
    ensure!(touched == 1, "the canary alone was given anything");
    Ok(())
}

fn until_over(controller: &Controller, number: u64) -> Result<Value> {
    eventually(ROLLED_OUT, "the rollout is over", || {
        let rollout = controller.muster_json(&["rollout", "show", &number.to_string()])?;
        if rollout["ended"].is_null() {
            bail!("{rollout}");
        }
        Ok(rollout)
    })
}

/// A file with a static network over this gateway.
fn template(name: &str, gateway: &str) -> Result<String> {
    let text = format!(
        "network:\n  ethernets:\n    lan:\n      match: {{macaddress: \"{{{{ primary.mac }}}}\"}}\n      \
         addresses: [\"{{{{ labels.ip }}}}/16\"]\n      routes: [{{to: default, via: {gateway}}}]\n"
    );
    let path = scratch::build().join("tests").join("rollout").join(format!("{name}.yaml"));
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}
