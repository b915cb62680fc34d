//! Sealed ISOs: kernel, agent and CA come from the medium, and nobody on the network has a say in them.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Result, ensure};
use muster_tests::lab::{self, BOOT, LOCATION, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, HardwareClock, Machine};
use muster_tests::{artifacts, eventually};

#[test]
fn a_sealed_iso_starts_machines_whatever_their_clocks_say_and_asks_nobody_over_http() -> Result<()> {
    let mut lab = Lab::open("sealed", &[])?;
    lab.controller.kill();
    OpenOptions::new().append(true).open(lab.folder.join("muster.toml"))?.write_all(b"\n[listen]\nboot = []\n")?;
    lab.controller.start_again()?;
    let iso = lab.folder.join("sealed.iso");
    let path = iso.display().to_string();
    let image = artifacts::image()?.display().to_string();
    let sealed = ["iso", "build", "--sealed", "--image", &image, "--location", LOCATION, "--controller", "10.0.2.2"];
    lab.controller.muster(&[&sealed[..], &["--output", &path]].concat())?;
    let isos = lab.controller.muster_json(&["iso", "list"])?;
    let (id, ca) = (text(&isos, "/0/id")?.to_owned(), text(&isos, "/0/sealed_ca")?.to_owned());
    let authority = lab.controller.muster_json(&["ca", "show"])?;
    ensure!(authority["current"]["fingerprint"] == ca, "{authority}");

    // BIOS, from CD; to its clock the controller's certificate ended long ago.
    let mut spec = lab::machine(Firmware::Bios, Boot::Cd(iso.clone()))?;
    spec.clock = HardwareClock::Year(2099);
    let mut machine = Machine::start(&spec, &lab.folder.join("machine-bios"))?;
    let pending = lab.until_inventoried(&spec)?;
    machine.console.wait_for("and is set to ", 0, SOON)?;
    ensure!(pending["lifecycle"] == "pending" && pending["location"] == LOCATION, "{pending}");
    ensure!(pending["iso"] == id.as_str(), "{pending}");
    lab.admit()?;
    machine.unplug();

    // The same box as a UEFI machine, from a stick, without a battery: it is known, and it is in.
    spec = lab::machine(Firmware::Uefi, Boot::Usb(iso.clone()))?;
    spec.clock = HardwareClock::Year(1970);
    let before = text(&pending, "/presence/boot")?;
    let mut machine = Machine::start(&spec, &lab.folder.join("machine-uefi"))?;
    let member = lab.until_online(Some(before))?;
    ensure!(member["id"] == pending["id"] && member["lifecycle"] == "available", "{member}");

    // Revoked: whoever is in starts from it as before, and a new box reads why it does not join.
    lab.controller.muster(&["iso", "revoke", &id, "--yes"])?;
    machine.reset()?;
    let member = lab.until_online(Some(text(&member, "/presence/boot")?))?;
    ensure!(member["id"] == pending["id"], "{member}");
    machine.unplug();

    let mut other = lab::machine(Firmware::Bios, Boot::Cd(iso))?;
    other.uuid = "5f0c4d1e-7b1a-4d6e-9a53-1f6f1d9f0001".into();
    (other.serial, other.board_serial) = ("OTHER-1".into(), "OTHER-BOARD-1".into());
    for (number, nic) in other.nics.iter_mut().enumerate() {
        nic.mac = format!("52:54:00:4c:43:{number:02x}").parse()?;
    }
    other.disks.truncate(1);
    other.disks[0].serial = "OTHER-DISK-1".into();
    let machine = Machine::start(&other, &lab.folder.join("machine-other"))?;
    machine.console.wait_for("the boot medium was revoked", 0, BOOT)?;
    let list = lab.controller.api()?.get("/api/v1/machines")?;
    ensure!(list["items"].as_array().is_some_and(|items| items.len() == 1), "{list}");
    eventually(SOON, "the event feed tells of it", || {
        let events = lab.controller.muster(&["events"])?;
        ensure!(events.contains("enrollment.refused") && events.contains("the boot medium was revoked"), "{events}");
        Ok(())
    })?;
    Ok(())
}
