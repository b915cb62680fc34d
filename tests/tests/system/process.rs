//! The agent as an ordinary process on a Linux that somebody else runs: it looks, and changes only what it was told to
//! manage.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use muster_tests::artifacts::{self, output};
use muster_tests::child::Process;
use muster_tests::controller::Controller;
use muster_tests::lab::{LOCATION, SOON, is_welcomed_anew, text};
use muster_tests::{eventually, namespace, scratch};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Whoever says goodbye is missed within this; silence alone is noticed after 10 s at the earliest.
const GOODBYE: Duration = Duration::from_secs(8);

/// Starts what is given to it on a computer that cannot be shut down: if the promise is broken, nobody's work is lost.
const NO_SHUTDOWN: &str = r#"{ [ ! -e /sbin/shutdown ] || mount --bind /bin/false /sbin/shutdown; } && exec "$0" "$@""#;

#[test]
fn an_agent_started_as_a_process_looks_changes_nothing_and_says_goodbye() -> Result<()> {
    namespace::enter()?;
    let folder = scratch::scratch("process")?;
    let controller = Controller::start(&folder, "")?;
    controller.muster(&["location", "add", LOCATION, "--name", "The lab"])?;
    // A link with an address. Nothing is plugged in, so that the kernel has no reason to change anything about it.
    for arguments in ["tuntap add dev lan mode tap", "address add 10.77.0.1/24 dev lan", "link set lan up"] {
        namespace::ip(&arguments.split(' ').collect::<Vec<_>>())?;
    }
    let before = addresses()?;
    ensure!(before.to_string().contains("10.77.0.1"), "the address is there: {before}");

    // What the operator copies to the computer's shell.
    let ticket = controller.muster_json(&["ticket", "create", "--location", LOCATION])?;
    let mut agent = start_agent(&controller, &ticket, &folder)?;
    let pending = until(&controller, SOON, "it is online with its inventory", |machine| {
        machine["presence"]["state"] == "online" && !machine["inventory"].is_null()
    })?;
    ensure!(pending["lifecycle"] == "pending", "an operator has to approve it: {pending}");
    ensure!(pending["location"] == LOCATION, "the ticket says where it is: {pending}");
    let inventory = &pending["inventory"];
    ensure!(inventory["cpu"]["threads"] == threads()?, "the processors are this computer's: {}", inventory["cpu"]);
    ensure!(inventory["memory"]["total_bytes"] == memory()?, "the memory is this computer's: {}", inventory["memory"]);

    let name = text(&pending, "/name")?;
    controller.muster(&["machine", "approve", name])?;
    let approved = until(&controller, SOON, "it is available and online", |machine| {
        machine["lifecycle"] == "available" && is_welcomed_anew(machine, &pending)
    })?;

    // Neither a network nor a reboot.
    let document = folder.join("network.yaml");
    std::fs::write(&document, "network:\n  version: 2\n  ethernets:\n    lan:\n      addresses: [10.77.0.50/24]\n")?;
    for arguments in [
        &["apply", "-m", name, "-f", &document.display().to_string()][..],
        &["power", "reboot", name],
        &["power", "off", name],
    ] {
        let said = controller.refusal(arguments)?;
        ensure!(said.contains("only observes") && said.contains("--manage"), "why, and what helps: {said}");
    }
    let after = addresses()?;
    ensure!(after == before, "nothing was configured: {after}");
    ensure!(agent.ended()?.is_none(), "the agent runs");
    let online = machine(&controller)?;
    ensure!(online["presence"] == approved["presence"], "it is online, and was so all the time: {online}");

    // Whoever stops it sees that at once.
    kill_process(Pid::from_child(agent.child()), Signal::TERM)?;
    until(&controller, GOODBYE, "it is offline", |machine| machine["presence"]["state"] == "offline")?;
    let status = agent.wait(SOON)?;
    ensure!(status.success(), "it ends as asked: {status}");
    Ok(())
}

fn start_agent(controller: &Controller, ticket: &Value, folder: &Path) -> Result<Process> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", NO_SHUTDOWN]).arg(artifacts::agent()?);
    command.args(["--controller", &controller.agents().to_string()]);
    command.args(["--ca", text(ticket, "/ca")?, "--ticket", text(ticket, "/ticket")?]);
    command.arg("--state").arg(folder.join("agent"));
    Process::start("muster-agent", &mut command, &folder.join("agent.log"))
}

/// The only machine there is, with its inventory.
fn machine(controller: &Controller) -> Result<Value> {
    let api = controller.api()?;
    let list = api.get("/api/v1/machines")?;
    match list["items"].as_array().map(Vec::as_slice) {
        Some([one]) => api.get(&format!("/api/v1/machines/{}", text(one, "/id")?)),
        _ => bail!("not one machine: {list}"),
    }
}

/// The same, once it is as `is_so` wants it.
fn until(controller: &Controller, deadline: Duration, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(deadline, what, || {
        let machine = machine(controller)?;
        ensure!(is_so(&machine), "{machine}");
        Ok(machine)
    })
}

/// Every link of the namespace with its addresses, as the kernel says.
fn addresses() -> Result<Value> {
    Ok(serde_json::from_str(&output(Command::new("ip").args(["-j", "address"]))?)?)
}

/// Hardware threads, as the kernel says.
fn threads() -> Result<Value> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    Ok(json!(cpuinfo.lines().filter(|line| line.starts_with("processor")).count()))
}

/// Bytes of memory, as the kernel says.
fn memory() -> Result<Value> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    Ok(json!(total.context("the kernel says how much memory there is")?.parse::<u64>()? * 1024))
}
