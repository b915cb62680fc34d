//! UEFI machines ask by HTTPS of the boot CA that their ISO pins, and are started by nobody else.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Result, ensure};
use muster_tests::eventually;
use muster_tests::lab::{self, BOOT, LOCATION, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, HardwareClock, Machine};

#[test]
fn a_uefi_machine_starts_over_https_whatever_its_clock_says_and_by_the_controller_alone_that_its_iso_pins() -> Result<()>
{
    let mut lab = Lab::open("https", &[])?;
    lab.controller.kill();
    // Nothing is there to fall back on.
    OpenOptions::new().append(true).open(lab.folder.join("muster.toml"))?.write_all(b"\n[listen]\nboot = []\n")?;
    lab.controller.start_again()?;
    let iso = lab.iso()?;
    let isos = lab.controller.muster_json(&["iso", "list"])?;
    let authority = lab.controller.muster_json(&["ca", "show"])?;
    ensure!(isos[0]["boot_ca"] == authority["boot"]["fingerprint"], "{isos} {authority}");
    ensure!(isos[0]["ca_in_force"] == true, "{isos}");

    let mut spec = lab::machine(Firmware::Uefi, Boot::Cd(iso.clone()))?;
    spec.clock = HardwareClock::Year(2099);
    let mut machine = Machine::start(&spec, &lab.folder.join("machine-2099"))?;
    let pending = lab.until_inventoried(&spec)?;
    ensure!(pending["location"] == LOCATION && pending["iso"] == isos[0]["id"], "{pending}");
    let member = lab.admit()?;
    machine.unplug();

    // Somebody else answers at the controller's address, with a boot CA of its own.
    let secret = lab.controller.data().join("pki/boot.pem");
    let kept = std::fs::read(&secret)?;
    lab.controller.kill();
    std::fs::remove_file(&secret)?;
    lab.controller.start_again()?;
    let path = lab.folder.join("other.iso").display().to_string();
    let build = ["iso", "build", "--location", LOCATION, "--controller", "10.0.2.2", "--output", &path];
    lab.controller.muster(&build)?;
    let other = lab.controller.muster_json(&["ca", "show"])?;
    ensure!(text(&other, "/boot/fingerprint")? != text(&authority, "/boot/fingerprint")?, "{other}");
    let listed = lab.controller.muster_json(&["iso", "list"])?;
    let ours = listed.as_array().and_then(|all| all.iter().find(|iso| iso["id"] == isos[0]["id"]));
    ensure!(ours.is_some_and(|iso| iso["ca_in_force"] == false), "the list says so: {listed}");
    spec.boot = Boot::Usb(iso);
    spec.clock = HardwareClock::Year(1970);
    let machine = Machine::start(&spec, &lab.folder.join("machine-1970"))?;
    machine.console.wait_for(
        "where they answer and it does not work, this medium is of another boot CA: make it anew",
        0,
        BOOT,
    )?;
    eventually(SOON, "it is counted", || {
        ensure!(lab.controller.refusals("api", "handshake_failed")? >= 1, "it is not");
        Ok(())
    })?;
    ensure!(lab.machine()?["presence"]["boot"] == member["presence"]["boot"], "it was not started");

    // The true one is back: the machine has been asking all the time.
    lab.controller.kill();
    std::fs::write(&secret, kept)?;
    lab.controller.start_again()?;
    let back = lab.until_online(Some(text(&member, "/presence/boot")?))?;
    ensure!(back["id"] == member["id"] && back["lifecycle"] == "available", "{back}");
    Ok(())
}
