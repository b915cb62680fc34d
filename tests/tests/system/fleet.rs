//! Many simulated machines over real QUIC: what a fleet's operator is promised, without a virtual machine for each.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use muster_agent::machine::Machine;
use muster_agent::plan::network::Change;
use muster_agent::sim::Wire;
use muster_protocol::observed::{Address, Origin};
use muster_protocol::to_agent::PowerAction;
use muster_tests::controller::{Controller, PORT};
use muster_tests::http::Http;
use muster_tests::lab::{LOCATION, SOON, text};
use muster_tests::simulated::Machines;
use muster_tests::{eventually, namespace, scratch};
use serde_json::{Value, json};

/// How many machines.
const COUNT: u16 = 50;

/// A killed controller is noticed at the next keep-alive, 10 s, and not at the idle timeout.
const ALL_BACK: Duration = Duration::from_secs(20);

/// For so long after its start a controller takes every machine for alive: one that boots then waits.
const AWAITED: Duration = Duration::from_secs(60);

pub fn start(name: &str) -> Result<Controller> {
    namespace::enter()?;
    let folder = scratch::scratch(name)?;
    // Simulated machines boot without loading anything, but boot scripts are given only where there is an image.
    let images = folder.join("images");
    std::fs::create_dir_all(&images)?;
    for name in ["kernel", "initramfs"] {
        std::fs::write(images.join(name), name)?;
    }
    // A proof that the controller's death cuts off begins anew after up to 10 s, and a busy host makes that longer: what
    // is promised here is that nothing is lost, not how soon a change is undone.
    let config = format!("[boot]\nimages = {images:?}\n[agents]\nconfirm_within = \"60s\"\n");
    let controller = Controller::start(&folder, &config)?;
    controller.muster(&["location", "add", LOCATION, "--name", "The lab"])?;
    Ok(controller)
}

/// All machines, once there are `count` and each is as `is_so` wants it.
pub fn until(
    controller: &Controller,
    deadline: Duration,
    what: &str,
    count: u16,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Vec<Value>> {
    eventually(deadline, what, || {
        let list = controller.api()?.get("/api/v1/machines?limit=1000")?;
        let machines = list["items"].as_array().cloned().unwrap_or_default();
        let right = machines.iter().filter(|machine| is_so(machine)).count();
        if right != usize::from(count) || machines.len() != right {
            bail!("{right} of {} are", machines.len());
        }
        Ok(machines)
    })
}

pub fn is_online(machine: &Value) -> bool {
    machine["presence"]["state"] == "online"
}

#[test]
fn fifty_machines_are_approved_and_configured_and_are_all_back_after_their_controller_was_killed() -> Result<()> {
    let mut controller = start("fleet")?;
    let machines = Machines::plug(COUNT, LOCATION)?;
    let pending = until(&controller, SOON, "all are online and pending", COUNT, |m| {
        is_online(m) && m["lifecycle"] == "pending" && m["location"] == LOCATION
    })?;
    let api = controller.api()?;
    for machine in &pending {
        api.post(&format!("/api/v1/machines/{}/approve", text(machine, "/id")?), &json!({}))?;
    }
    let approved =
        until(&controller, SOON, "all are available", COUNT, |m| is_online(m) && m["lifecycle"] == "available")?;

    // Each gets a document, and the controller dies in the middle of it.
    let mut wanted = Vec::new();
    for (n, machine) in approved.iter().enumerate() {
        let document = format!(
            "network:\n  version: 2\n  ethernets:\n    eth0:\n      addresses: [10.99.{n}.7/24]\n      \
             routes: [{{to: default, via: 10.99.{n}.1}}]\n"
        );
        let id = text(machine, "/id")?;
        let operation = api.post(&format!("/api/v1/machines/{id}/apply"), &json!({ "document": document }))?;
        wanted.push((id.to_owned(), text(&operation, "/id")?.to_owned()));
    }
    controller.kill();
    controller.start_again()?;
    let settled = until(&controller, ALL_BACK + SOON, "all are online and configured", COUNT, |m| {
        is_online(m) && m["progress"]["state"] == "confirmed" && m["progress"]["generation"] == m["generation"]
    })?;
    let api = controller.api()?;
    for (id, operation) in &wanted {
        let found = api.get(&format!("/api/v1/operations/{operation}"))?;
        ensure!(found["state"] == "succeeded", "what was acknowledged was carried out: {found}");
        let machine = api.get(&format!("/api/v1/machines/{id}"))?;
        ensure!(machine["addresses"].to_string().contains("10.99."), "{machine}");
    }

    // Nothing goes on now: kill it once more, and look at the time.
    controller.kill();
    controller.start_again()?;
    let back = until(&controller, ALL_BACK, "all are back within a keep-alive", COUNT, is_online)?;
    let boots = |machines: &[Value]| machines.iter().map(|m| m["presence"]["boot"].clone()).collect::<Vec<_>>();
    ensure!(boots(&back) == boots(&settled), "nobody had to boot");
    ensure!(machines.all().iter().all(|m| m.machine.powered().is_empty()), "nobody was rebooted");

    // A plug: that machine is missed, and no other.
    machines.unplug(0);
    eventually(Duration::from_secs(30), "one machine shows as offline", || {
        let list = controller.api()?.get("/api/v1/machines?presence=offline")?;
        ensure!(list["items"].as_array().is_some_and(|items| items.len() == 1), "{list}");
        Ok(())
    })?;
    Ok(())
}

/// Waits until so many machines know only the CA before.
fn until_behind(controller: &Controller, count: usize) -> Result<Value> {
    eventually(ALL_BACK + SOON, "all but those that are away have followed", || {
        let shown = controller.muster_json(&["ca", "show"])?;
        ensure!(shown["behind"] == count, "{shown}");
        Ok(shown)
    })
}

#[test]
fn fifty_machines_follow_the_ca_without_booting_and_one_that_was_away_comes_back_in_the_overlap() -> Result<()> {
    let mut controller = start("ca-rotation")?;
    let old_pem = controller.ca_pem()?;
    let with_old_ca = |controller: &Controller| -> Result<Http> {
        let token = std::fs::read_to_string(controller.data().join("admin-token"))?;
        Ok(Http::with_ca(&format!("https://127.0.0.1:{PORT}"), &old_pem)?.with_token(token.trim()))
    };
    let machines = Machines::plug(COUNT, LOCATION)?;
    // Who waits for approval is not waited for.
    let pending = until(&controller, SOON, "all are online", COUNT, is_online)?;
    for machine in &pending {
        controller.api()?.post(&format!("/api/v1/machines/{}/approve", text(machine, "/id")?), &json!({}))?;
    }
    let first =
        until(&controller, SOON, "all are available", COUNT, |m| is_online(m) && m["lifecycle"] == "available")?;
    let boots = |machines: &[Value]| machines.iter().map(|m| m["presence"]["boot"].clone()).collect::<Vec<_>>();

    // One is cut off; its session ends with the controller's process.
    let away = &machines.all()[0].machine;
    away.set_wire(Wire::Cut);
    controller.kill();
    controller.start_again()?;

    let old = text(&controller.muster_json(&["ca", "show"])?, "/current/fingerprint")?.to_owned();
    let rotated = controller.muster_json(&["ca", "rotate"])?;
    let new = text(&rotated, "/current/fingerprint")?.to_owned();
    ensure!(rotated["before"]["fingerprint"] == old.as_str() && new != old, "{rotated}");
    // Nothing that was begun is lost with the process.
    controller.kill();
    controller.start_again()?;
    until_behind(&controller, 1)?;
    with_old_ca(&controller)?.get("/api/v1/status").context("who has only the old CA's certificate is served still")?;
    let said = controller.refusal(&["ca", "finish"])?;
    ensure!(said.contains("1 machine has not followed"), "{said}");

    away.set_wire(Wire::Magic);
    until_behind(&controller, 0)?;
    controller.muster(&["ca", "finish"])?;
    controller.kill();
    controller.start_again()?;
    let last = until(&controller, ALL_BACK + SOON, "all are online under the new CA", COUNT, is_online)?;
    ensure!(boots(&last) == boots(&first), "nobody had to boot");
    ensure!(machines.all().iter().all(|m| m.machine.powered().is_empty()), "nobody was rebooted");
    let shown = controller.muster_json(&["ca", "show"])?;
    ensure!(shown["before"].is_null() && shown["current"]["fingerprint"] == new.as_str(), "{shown}");
    ensure!(with_old_ca(&controller)?.get("/api/v1/status").is_err(), "the old CA leads nowhere any more");
    let pem = String::from_utf8(controller.ca_pem()?)?;
    ensure!(controller.muster(&["ca", "show", "--pem"])?.trim() == pem.trim(), "the same for everybody: {pem}");
    Ok(())
}

#[test]
fn a_power_command_acts_at_most_once_however_often_it_is_sent() -> Result<()> {
    let mut controller = start("power-once")?;
    let machines = Machines::plug(1, LOCATION)?;
    let pending = until(&controller, SOON, "it is online", 1, is_online)?;
    let id = text(&pending[0], "/id")?.to_owned();
    controller.api()?.post(&format!("/api/v1/machines/{id}/approve"), &json!({}))?;
    let before = until(&controller, SOON, "it is available", 1, |m| is_online(m) && m["lifecycle"] == "available")?;
    let boot = before[0]["presence"]["boot"].clone();

    let send = |controller: &Controller| {
        let body = json!({ "action": "reboot" }).to_string();
        let headers = [("content-type", "application/json"), ("idempotency-key", "the-same-wish")];
        let path = format!("/api/v1/machines/{id}/power");
        controller.api()?.send("POST", &path, &headers, Some(body.as_bytes()))?.success(&path)
    };
    let first = send(&controller)?;
    let second = send(&controller)?;
    ensure!(first["id"] == second["id"], "one wish is one operation: {first} {second}");
    controller.kill();
    controller.start_again()?;
    let after = until(&controller, AWAITED + SOON, "it is back with a new boot", 1, |m| {
        is_online(m) && m["presence"]["boot"] != boot
    })?;
    // Sent again after it was carried out, by somebody who did not hear the answer, to a controller that has died since.
    let third = send(&controller)?;
    ensure!(third["id"] == first["id"], "still the same operation: {third}");
    let operation = eventually(SOON, "the operation has succeeded", || {
        let found = controller.api()?.get(&format!("/api/v1/operations/{}", text(&first, "/id")?))?;
        ensure!(found["state"] == "succeeded", "{found}");
        Ok(found)
    })?;
    ensure!(machines.all()[0].machine.powered() == [PowerAction::Reboot], "it acted once: {operation}");
    let last = until(&controller, SOON, "it is online", 1, is_online)?;
    ensure!(last[0]["presence"]["boot"] == after[0]["presence"]["boot"], "and not again: {last:?}");
    Ok(())
}

#[test]
fn what_somebody_changes_on_a_machine_is_repaired_or_left_and_its_operator_reads_of_it() -> Result<()> {
    let mut controller = start("drift")?;
    let machines = Machines::plug(1, LOCATION)?;
    let pending = until(&controller, SOON, "it is online", 1, is_online)?;
    let id = text(&pending[0], "/id")?.to_owned();
    controller.muster(&["machine", "approve", &id])?;
    let api = controller.api()?;
    let document = "network:\n  version: 2\n  ethernets:\n    eth0:\n      addresses: [10.99.1.7/24]\n      \
                    routes: [{to: default, via: 10.99.1.1}]\n\
                    storage:\n  io_limits:\n    - {device: serial:SIM00001A, read_bytes_per_second: 1048576}\n";
    api.post(&format!("/api/v1/machines/{id}/apply"), &json!({ "document": document }))?;
    until(&controller, SOON, "it is configured", 1, |m| m["progress"]["state"] == "confirmed")?;
    let machine = &machines.all()[0].machine;
    let address = |net: &str| -> Result<Address> { Ok(Address { net: net.parse()?, origin: Origin::Static }) };
    let (own, other) = (address("10.99.1.7/24")?, address("10.99.1.99/24")?);
    let on_eth0 = || -> Result<Vec<Address>> { Ok(machine.observe()?.network.links[0].addresses.clone()) };
    let told = |controller: &Controller, count: usize, words: &str| {
        eventually(SOON, words, || {
            let events = controller.api()?.get("/api/v1/events?limit=1000")?["items"].clone();
            let events = events.as_array().context("a list")?.iter().filter(|e| e["kind"] == "machine.drift");
            let events: Vec<_> = events.cloned().collect();
            let is_it = events.last().is_some_and(|event| event["text"].as_str().is_some_and(|t| t.contains(words)));
            ensure!(events.len() == count && is_it, "{events:#?}");
            Ok(())
        })
    };

    machine.by_hand(&Change::RemoveAddress { link: "eth0".into(), address: own });
    told(
        &controller,
        1,
        "add address 10.99.1.7/24 to eth0; add route 0.0.0.0/0 via 10.99.1.1 by eth0 with metric 0: repaired in",
    )?;
    ensure!(on_eth0()? == [own], "it has its address again");
    let limits = machine.observe()?.limits;
    machine.unlimit();
    told(&controller, 2, "let system.slice read 1048576 bytes/s of serial:SIM00001A and no more: repaired in")?;
    ensure!(limits.len() == 1 && machine.observe()?.limits == limits, "its disk is limited again");

    // The policy comes with another welcome; and nobody has to be there for it to hold.
    let since = |m: &Value| m["presence"]["since"].clone();
    let before = since(&api.get(&format!("/api/v1/machines/{id}"))?);
    controller.muster(&["machine", "drift", &id, "report"])?;
    until(&controller, SOON, "it is online anew", 1, |m| is_online(m) && since(m) != before)?;
    machine.by_hand(&Change::AddAddress { link: "eth0".into(), address: other });
    told(&controller, 3, "remove address 10.99.1.99/24 from eth0: left as it is")?;
    let sheet = controller.muster(&["machine", "show", &id])?;
    ensure!(sheet.contains("reported; to set it right: remove address 10.99.1.99/24 from eth0"), "{sheet}");
    ensure!(on_eth0()? == [own, other], "it is left");
    controller.kill();
    machine.by_hand(&Change::RemoveAddress { link: "eth0".into(), address: other });
    controller.start_again()?;
    until(&controller, ALL_BACK, "what was taken back meanwhile is shown no more", 1, |m| {
        is_online(m) && m.get("drift").is_none()
    })?;
    told(&controller, 4, "it is as it was confirmed again")
}
