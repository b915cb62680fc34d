//! Pushing a network to a machine that is reached over that very network.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use muster_tests::lab::{self, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, Machine};
use muster_tests::site::{self, Site};
use muster_tests::slot::Slot;
use muster_tests::{eventually, namespace, scratch};
use serde_json::Value;

/// Within this a machine is back in contact after a push that cut it off (10 s to confirm, then the way back).
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// BIOS, the NIC's ROM: inventory; an advertised address; static addresses and a VLAN are kept; a wrong gateway and a
/// wrong VLAN are undone.
#[test]
fn a_machine_booted_by_its_network_card_keeps_a_good_network_and_undoes_a_bad_one() -> Result<()> {
    let slot = Slot::take()?;
    namespace::enter()?;
    let folder = scratch::scratch("network")?;
    let site = Site::build(&folder)?;
    let lab = Lab::open_here(&folder, &[site::CONTROLLER], slot)?;
    let mut spec = lab::machine(Firmware::Bios, Boot::Network)?;
    spec.nics[0].net = site.port();
    let mac = spec.nics[0].mac;
    let _machine = Machine::start(&spec, &lab.folder.join("machine"))?;

    lab.until_inventoried(&spec)?;
    // Before anything is pushed: what the site's router advertises is taken and shown.
    lab.until(SOON, "the machine has an address that was advertised", |m| addresses(m).any(is_advertised))?;
    let approved = lab.admit()?;
    let name = text(&approved, "/name")?;

    // Good: static IPv4 and IPv6, routes, resolvers and a VLAN.
    let good = document(&format!(
        "lan:\n      match: {{macaddress: \"{mac}\"}}\n      addresses: [10.77.0.50/24, \"fd77::50/64\"]\n      \
         routes: [{{to: default, via: 10.77.0.1}}]\n      nameservers: {{addresses: [10.77.0.1], search: [lab.example.net]}}\n  \
         vlans:\n    office:\n      id: 42\n      link: lan\n      addresses: [10.77.42.50/24, \"fd77:42::50/64\"]\n"
    ));
    apply(&lab, name, "good", &good)?;
    let kept = settled(&lab, "confirmed")?;
    for address in ["10.77.0.50", "fd77::50", "10.77.42.50", "fd77:42::50"] {
        let address: IpAddr = address.parse()?;
        eventually(SOON, "the machine has its address", || site::is_alive(address))?;
    }

    // A gateway that is nobody's: the controller is behind it.
    let wrong_gateway = good.replace("via: 10.77.0.1}", "via: 10.77.0.99}");
    check_undone(&lab, name, "wrong-gateway", &wrong_gateway, &kept)?;

    // A VLAN that the switch does not carry, with the way to the controller on it.
    let wrong_vlan = document(&format!(
        "lan:\n      match: {{macaddress: \"{mac}\"}}\n  vlans:\n    office:\n      id: 43\n      link: lan\n      \
         addresses: [10.77.42.50/24]\n      routes: [{{to: default, via: 10.77.42.1}}]\n"
    ));
    check_undone(&lab, name, "wrong-vlan", &wrong_vlan, &kept)?;

    // The same VLAN with its right tag works: what was undone above was the mistake and nothing else.
    apply(&lab, name, "right-vlan", &wrong_vlan.replace("id: 43", "id: 42"))?;
    settled(&lab, "confirmed")?;
    eventually(SOON, "the machine has its address", || site::is_alive("10.77.42.50".parse()?))?;
    ensure!(site::is_alive("10.77.0.50".parse()?).is_err(), "the address that is not desired any more is gone");
    Ok(())
}

/// Pushes a network that cuts the machine off, and sees it undone: the operator is told why, and all is as it was.
fn check_undone(lab: &Lab, name: &str, what: &str, bad: &str, kept: &Value) -> Result<()> {
    // The command fails, which is how a script learns of it; the agent alone undoes it either way.
    if let Ok(said) = apply(lab, name, what, bad) {
        bail!("muster apply calls {what} a success: {said}");
    }
    let undone = settled(lab, "reverted")?;
    let why = text(&undone, "/progress/why")?;
    ensure!(why.contains("controller"), "the reason names what was lost: {why:?}");
    ensure!(undone["presence"]["boot"] == kept["presence"]["boot"], "it did not have to boot: {undone}");
    site::is_alive("10.77.0.50".parse()?)?;
    site::is_alive("10.77.42.50".parse()?)?;
    let operations = lab.controller.muster_json(&["operation", "list"])?;
    let failed = operations.to_string();
    ensure!(failed.contains("reverted"), "the operation says that it was reverted: {operations}");
    Ok(())
}

/// Waits until the machine is online and done with the newest generation, in this way.
fn settled(lab: &Lab, how: &str) -> Result<Value> {
    lab.until(BACK_WITHIN, &format!("the machine is {how}"), |m| {
        m["presence"]["state"] == "online"
            && m["progress"]["state"] == how
            && m["progress"]["generation"] == m["generation"]
    })
}

/// The addresses of the machine's NICs, without their prefix lengths.
fn addresses(machine: &Value) -> impl Iterator<Item = IpAddr> {
    let all = machine["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    all.filter_map(|net| net.split('/').next()?.parse().ok())
}

/// Whether an address is of the network that the site's router advertises, `fd77::/64`.
fn is_advertised(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.segments()[..4] == [0xfd77, 0, 0, 0],
    }
}

fn apply(lab: &Lab, name: &str, what: &str, document: &str) -> Result<String> {
    let path = lab.folder.join(format!("{what}.yaml"));
    std::fs::write(&path, document)?;
    lab.controller.muster(&["apply", "-m", name, "-f", &path.display().to_string()])
}

/// A netplan document whose first ethernet begins `ethernets`.
fn document(ethernets: &str) -> String {
    format!("network:\n  version: 2\n  ethernets:\n    {ethernets}")
}
