//! The way home of a machine that boots: by the network that was confirmed, which it is handed with its boot script; and
//! where that leads nowhere any more, by asking for addresses. What the controller knows of that way is the same before and
//! after.

use anyhow::{Result, ensure};
use muster_tests::eventually;
use muster_tests::lab::{self, BOOT, LOCATION, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, Machine};
use muster_tests::site::{self, Site};
use muster_tests::slot::Slot;
use muster_tests::switch::Lost;
use muster_tests::{namespace, scratch};
use serde_json::{Value, json};

/// What the agent says of what it was handed.
const HANDED: &str = "this machine was handed the network of generation 3";
const ASKS: &str = "no controller within 60 s over the network that was handed; asking for addresses";

/// First as a UEFI machine over HTTPS, then as a BIOS machine by its NIC's ROM: each of them hands it over in its own way.
#[test]
fn a_machine_whose_only_way_home_is_a_vlan_on_a_bond_comes_home_after_a_reboot_and_by_dhcp_once_that_vlan_is_gone()
-> Result<()> {
    let slot = Slot::take()?;
    namespace::enter()?;
    let folder = scratch::scratch("home")?;
    let site = Site::build(&folder)?;
    let lab = Lab::open_here(&folder, &[site::CONTROLLER], slot)?;
    let iso = folder.join("site.iso");
    let (path, controller) = (iso.display().to_string(), "10.99.0.1");
    lab.controller.muster(&["iso", "build", "--location", LOCATION, "--controller", controller, "--output", &path])?;
    let mut spec = lab::machine(Firmware::Uefi, Boot::Cd(iso))?;
    spec.disks = vec![];
    (spec.nics[0].net, spec.nics[1].net) = (site.port(), site.spare());
    // Named in the order in which they are plugged in.
    spec.nics[1].model = spec.nics[0].model;
    let mut machine = Machine::start(&spec, &folder.join("machine-uefi"))?;
    let member = lab.admit()?;
    let name = text(&member, "/name")?;

    let document = folder.join("office.yaml").display().to_string();
    let [mac, spare] = [spec.nics[0].mac, spec.nics[1].mac];
    std::fs::write(
        &document,
        format!(
            "network:\n  version: 2\n  ethernets:\n    lan:\n      match: {{macaddress: \"{mac}\"}}\n    spare:\n      \
             match: {{macaddress: \"{spare}\"}}\n  bonds:\n    both:\n      interfaces: [lan, spare]\n      \
             parameters: {{mode: active-backup, primary: lan, mii-monitor-interval: 100}}\n  vlans:\n    \
             office:\n      id: 42\n      link: both\n      addresses: [10.77.42.50/24]\n      \
             routes: [{{to: default, via: 10.77.42.1}}]\n"
        ),
    )?;
    is_reached_by(&lab, &["eth0"], "eth0")?;
    lab.controller.muster(&["apply", "-m", name, "-f", &document])?;
    is_reached_by(&lab, &["eth0", "eth1"], "office")?;

    // Boot programs still ask over the untagged network, by TCP. No agent is heard there any more.
    site.lose(1, Lost::Udp(8443))?;
    // What does not describe the VLAN is not proven over it, for it would not lead home.
    let forgets = folder.join("name.yaml").display().to_string();
    std::fs::write(&forgets, "network: {version: 2, hostname: rack3-u12}\n")?;
    let refused = lab.controller.refusal(&["apply", "-m", name, "-f", &forgets])?;
    ensure!(refused.contains("reverted"), "{refused}");
    lab.controller.muster(&["apply", "-m", name, "-f", &document])?;
    let mark = machine.console.len();
    machine.reset()?;
    let back = lab.until_online(Some(text(&member, "/presence/boot")?))?;
    ensure!(back["id"] == member["id"] && back["lifecycle"] == "available", "{back}");
    machine.console.wait_for(HANDED, mark, SOON)?;
    let said = machine.console.lines(mark);
    ensure!(!said.iter().any(|line| line.text.contains(ASKS)), "it came home at the first attempt");
    site::is_alive("10.77.42.50".parse()?)?;
    is_reached_by(&lab, &["eth0", "eth1"], "office")?;
    let list = lab.controller.muster(&["machine", "list"])?;
    ensure!(list.contains("10.77.42.50/24"), "{list}");
    let sheet = lab.controller.muster(&["machine", "show", name])?;
    for said in ["office over eth0, eth1", "VLAN 42", "10.77.42.50/24"] {
        ensure!(sheet.contains(said), "{said}: {sheet}");
    }
    let shown = |line: &str| line.contains("VLAN 42 on both") && line.contains("10.77.42.50/24");
    eventually(SOON, "the machine's own screen shows the address", || {
        ensure!(machine.console.lines(mark).iter().any(|line| shown(&line.text)), "it does not");
        Ok(())
    })?;
    let confirmed = lab.until(SOON, "it is what was confirmed", |m| {
        m["progress"]["state"] == "confirmed" && m["progress"]["generation"] == 3
    })?;
    let plan = lab.controller.muster_json(&["plan", "-m", name, "-f", &document])?;
    ensure!(plan["steps"].as_array().is_some_and(Vec::is_empty), "nothing is left to do: {plan}");

    // It moves to where there is no such VLAN.
    machine.unplug();
    site.lose(42, Lost::All)?;
    (spec.firmware, spec.boot) = (Firmware::Bios, Boot::Network);
    let machine = Machine::start(&spec, &folder.join("machine-bios"))?;
    machine.console.wait_for(HANDED, 0, BOOT)?;
    machine.console.wait_for(ASKS, 0, BOOT)?;
    let back = lab.until_online(Some(text(&confirmed, "/presence/boot")?))?;
    ensure!(back["id"] == member["id"], "{back}");
    let undone = lab.until(BOOT, "what does not hold here is undone, and the machine stays in contact", |m| {
        m["presence"]["state"] == "online" && m["progress"]["state"] == "reverted"
    })?;
    ensure!(undone["presence"]["boot"] == back["presence"]["boot"], "it did not have to boot: {undone}");
    is_reached_by(&lab, &["eth0"], "eth0")
}

/// Waits until the controller knows that the machine is reached by this link over these NICs, of which the first is its
/// primary one.
fn is_reached_by(lab: &Lab, nics: &[&str], link: &str) -> Result<()> {
    let home = json!({ "link": link, "nics": nics });
    let is_told = |machine: &Value| {
        let inventory = &machine["inventory"];
        inventory["home"] == home && inventory["primary"] == nics[0]
    };
    lab.until(SOON, &format!("it is known to be reached by {link}"), is_told).map(drop)
}
