//! From power-on to online on every road, and what happens to a machine that is online.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_tests::lab::{self, BOOT, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, Machine};

/// The promise: a machine that is gone shows as offline within this.
const OFFLINE_WITHIN: Duration = Duration::from_secs(30);

/// BIOS, CD: inventory, reboot, a controller that is killed, and the plug.
#[test]
fn a_machine_on_cd_and_bios_is_inventoried_reboots_outlives_its_controller_and_is_missed() -> Result<()> {
    let mut lab = Lab::open("bios-cd", None)?;
    let spec = lab::machine(Firmware::Bios, Boot::Cd(lab.iso()?))?;
    let mut machine = Machine::start(&spec, &lab.folder.join("machine"))?;

    let online = lab.until_inventoried(&spec)?;
    ensure!(online["lifecycle"] == "pending", "a machine never seen before waits for an operator: {online}");
    ensure!(online["location"] == lab::LOCATION, "its medium says where it is: {online}");
    machine.console.wait_for(text(&online, "/claim")?, 0, SOON)?;
    let approved = lab.admit()?;
    let (name, first_boot) = (text(&approved, "/name")?, text(&approved, "/presence/boot")?);

    // Reboot: acknowledged, and back with a new boot.
    lab.controller.muster(&["power", "reboot", name])?;
    let again = lab.until_online(Some(first_boot))?;
    ensure!(again["id"] == approved["id"] && again["lifecycle"] == "available", "it is known again: {again}");
    let second_boot = text(&again, "/presence/boot")?;

    // SIGKILL of the controller: what was acknowledged is there, the machine is back by itself, in the same boot.
    lab.controller.muster(&["machine", "label", name, "rack=b2"])?;
    lab.controller.kill();
    lab.controller.start_again()?;
    let back = lab.until(SOON, "the machine is back", |m| m["presence"]["state"] == "online")?;
    ensure!(back["labels"]["rack"] == "b2" && back["lifecycle"] == "available", "nothing was lost: {back}");
    ensure!(text(&back, "/presence/boot")? == second_boot, "it did not boot again: {back}");

    // The plug.
    let began = Instant::now();
    machine.unplug();
    lab.until(OFFLINE_WITHIN, "the machine shows as offline", |m| m["presence"]["state"] == "offline")?;
    ensure!(began.elapsed() <= OFFLINE_WITHIN, "it took {:?}", began.elapsed());
    Ok(())
}

/// UEFI, stick: inventory, and off means off.
#[test]
fn a_machine_on_a_stick_and_uefi_is_inventoried_and_stays_away_when_it_is_switched_off() -> Result<()> {
    let lab = Lab::open("uefi-stick", None)?;
    let spec = lab::machine(Firmware::Uefi, Boot::Usb(lab.iso()?))?;
    let mut machine = Machine::start(&spec, &lab.folder.join("machine"))?;

    lab.until_inventoried(&spec)?;
    let approved = lab.admit()?;

    lab.controller.muster(&["power", "off", text(&approved, "/name")?])?;
    machine.wait_off(BOOT)?;
    let away = lab.until(OFFLINE_WITHIN, "the machine shows as offline", |m| m["presence"]["state"] == "offline")?;
    ensure!(away["presence"]["boot"] == approved["presence"]["boot"], "no other boot was seen: {away}");
    Ok(())
}
