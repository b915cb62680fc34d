//! Who may join, on real machines: the claim code on the screen, a policy, twins, and a revoked ISO.

mod clock;
mod https;
mod sealed;
mod twins;

use std::fs;

use anyhow::{Context, Result, ensure};
use muster_tests::lab::{self, BOOT, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, Machine, Spec, Tpm};
use muster_tests::{artifacts, eventually};
use serde_json::Value;

/// The machine that has a NIC with this MAC, where it is in session.
fn online(lab: &Lab, mac: &str) -> Result<Value> {
    let machines = lab.controller.api()?.get("/api/v1/machines")?;
    let ids = machines["items"].as_array().into_iter().flatten().filter_map(|machine| machine["id"].as_str());
    for id in ids {
        let machine = lab.controller.api()?.get(&format!("/api/v1/machines/{id}"))?;
        if machine["presence"]["state"] == "online" && machine["inventory"]["nics"].to_string().contains(mac) {
            return Ok(machine);
        }
    }
    anyhow::bail!("no machine with {mac} is online: {machines}")
}

/// Waits until the boot program has written something, and answers the whole screen.
fn until_on_screen(machine: &Machine, words: &str) -> Result<String> {
    eventually(BOOT, words, || {
        let screen = machine.text_screen()?;
        // A long line goes on in the next one.
        ensure!(screen.replace('\n', "").contains(words), "{screen}");
        Ok(screen)
    })
}

/// The lab's machine with other NICs: same UUID, same serials, the twin that firmware makes of a whole batch.
fn twin(lab: &Lab, number: u8) -> Result<(Spec, String)> {
    let mut spec = lab::machine(Firmware::Bios, Boot::Cd(lab.folder.join("site.iso")))?;
    spec.disks.truncate(1);
    spec.disks[0].serial = format!("LAB-DISK-{number}");
    spec.nics.truncate(1);
    let mac = format!("52:54:00:4c:42:{number:02x}");
    spec.nics[0].mac = mac.parse()?;
    Ok((spec, mac))
}

#[test]
fn twins_from_one_iso_are_two_machines_that_share_no_permit_approved_by_claim_code_and_policy_and_outlive_their_iso()
-> Result<()> {
    let lab = Lab::open("join", &[])?;
    lab.iso()?;
    let isos = lab.controller.muster_json(&["iso", "list"])?;
    let iso = text(&isos, "/0/id")?.to_owned();
    let folder = |number: u8| lab.folder.join(format!("machine-{number}"));
    let image = |number| twins::disk().path(&folder(number));
    let start = |number| -> Result<(Machine, String)> {
        let (mut spec, mac) = twin(&lab, number)?;
        spec.disks.push(twins::disk());
        fs::create_dir_all(folder(number))?;
        twins::fill(&image(number))?;
        Ok((Machine::start(&spec, &folder(number))?, mac))
    };

    // The first: let in by what stands on its screen.
    let (first, first_mac) = start(1)?;
    let pending = eventually(BOOT, "the first machine waits for approval", || online(&lab, &first_mac))?;
    ensure!(pending["lifecycle"] == "pending" && text(&pending, "/iso")? == iso, "{pending}");
    let claim = text(&pending, "/claim")?;
    first.console.wait_for(claim, 0, SOON)?;
    lab.controller.muster(&["machine", "approve", &claim.to_lowercase()])?;

    // The second has the same UUID and serials: another machine, let in by a policy for its ISO.
    lab.controller.muster(&["policy", "create", "sticks", "--iso", &iso])?;
    let (_second, second_mac) = start(2)?;
    let second = eventually(BOOT, "the second machine is let in", || {
        let machine = online(&lab, &second_mac)?;
        ensure!(machine["lifecycle"] == "available", "{machine}");
        Ok(machine)
    })?;
    let one = online(&lab, &first_mac).context("the first is not disturbed by its twin")?;
    ensure!(one["id"] == pending["id"] && one["lifecycle"] == "available", "{one}");
    ensure!(
        one["id"] != second["id"] && one["uuid"] == second["uuid"] && one["serial"] == second["serial"],
        "{second}"
    );
    twins::share_no_permit(&lab, [&one, &second], [&image(1), &image(2)])?;
    let one = online(&lab, &first_mac)?;

    // A revoked ISO: a third box is turned away on its screen, and those that are in start from it as before.
    lab.controller.muster(&["iso", "revoke", &iso, "--yes"])?;
    let (third, third_mac) = start(3)?;
    until_on_screen(&third, &format!("ISO {iso}")).context("the screen names the medium")?;
    until_on_screen(&third, "this boot medium was revoked")?;
    // Written after that: the screen may be looked at in between.
    until_on_screen(&third, "asking again in")?;
    ensure!(online(&lab, &third_mac).is_err(), "it got nothing");
    let name = text(&one, "/name")?;
    lab.controller.muster(&["power", "reboot", name])?;
    let again = eventually(BOOT, "the first is back in another boot", || {
        let machine = online(&lab, &first_mac)?;
        ensure!(machine["presence"]["boot"] != one["presence"]["boot"], "{machine}");
        Ok(machine)
    })?;
    ensure!(again["id"] == one["id"] && again["lifecycle"] == "available", "{again}");
    Ok(())
}

/// Of a box whose only NIC was exchanged nobody can know, so somebody is asked; and a rejected one is told so.
#[test]
fn a_machine_with_another_nic_is_a_question_and_a_rejected_one_reads_so_on_its_screen() -> Result<()> {
    let lab = Lab::open("doubt", &[])?;
    lab.iso()?;
    let (mut spec, mac) = twin(&lab, 1)?;
    let folder = lab.folder.join("machine");
    let mut machine = Machine::start(&spec, &folder)?;
    let pending = eventually(BOOT, "the machine waits for approval", || online(&lab, &mac))?;
    lab.controller.muster(&["machine", "approve", text(&pending, "/claim")?])?;
    lab.controller.muster(&["machine", "rename", text(&pending, "/id")?, "kitchen"])?;
    machine.unplug();
    eventually(BOOT, "it is missed", || {
        let list = lab.controller.api()?.get("/api/v1/machines?presence=offline")?;
        ensure!(list["items"].as_array().is_some_and(|items| items.len() == 1), "{list}");
        Ok(())
    })?;

    let other = "52:54:00:4c:42:99";
    spec.nics[0].mac = other.parse()?;
    let machine = Machine::start(&spec, &folder)?;
    let doubtful = eventually(BOOT, "the box with another NIC waits", || online(&lab, other))?;
    ensure!(doubtful["may_be"].to_string().contains("kitchen"), "{doubtful}");
    let claim = text(&doubtful, "/claim")?;
    let refused = lab.controller.refusal(&["machine", "approve", claim])?;
    ensure!(refused.contains("muster machine resolve"), "{refused}");
    lab.controller.muster(&["machine", "resolve", claim, "--same-as", "kitchen"])?;
    let same = eventually(SOON, "the box is the kitchen's machine, without a reboot", || {
        let machine = online(&lab, other)?;
        ensure!(machine["lifecycle"] == "available", "{machine}");
        Ok(machine)
    })?;
    ensure!(same["id"] == pending["id"] && same["name"] == "kitchen", "{same}");
    ensure!(same["presence"]["boot"] == doubtful["presence"]["boot"], "{same}");
    drop(machine);

    // A stranger is rejected, and its screen says so from its next start on.
    let (mut spec, mac) = twin(&lab, 7)?;
    (spec.uuid, spec.serial) = ("4c4c4544-0042-3510-8052-b4c04f4e3177".into(), "LAB<\"77\">".into());
    let machine = Machine::start(&spec, &lab.folder.join("stranger"))?;
    let stranger = eventually(BOOT, "the stranger waits", || online(&lab, &mac))?;
    lab.controller.muster(&["machine", "reject", text(&stranger, "/id")?])?;
    machine.reset()?;
    until_on_screen(&machine, "this machine was rejected by an operator")?;
    Ok(())
}

/// Two ways in which machines speak to their TPMs; a TPM is a part like others, and goes from one box to the next.
#[test]
fn a_tpm_makes_its_machine_known_in_another_box_and_another_tpm_in_the_same_box_is_a_question() -> Result<()> {
    let lab = Lab::open("tpm", &[])?;
    let images = artifacts::image()?;
    let start = |name: &str, mut spec: Spec, state: &tempfile::TempDir, model| -> Result<Machine> {
        let cmdline = lab.command_line(&spec)?;
        let [kernel, initramfs] = ["kernel", "initramfs"].map(|name| images.join(name));
        spec.boot = Boot::Kernel { kernel, initramfs, cmdline };
        spec.tpm = Some(Tpm { model, state: state.path().to_owned() });
        Machine::start(&spec, &lab.folder.join(name))
    };
    let [tpm, other_tpm] = [tempfile::tempdir()?, tempfile::tempdir()?];

    let (spec, mac) = twin(&lab, 1)?;
    let machine = start("kitchen", spec, &tpm, "tpm-tis")?;
    let pending = eventually(BOOT, "the machine waits for approval", || online(&lab, &mac))?;
    let key = text(&pending, "/tpm/key")?.to_owned();
    ensure!(pending["tpm"]["state"] == "claimed" && key.len() == 64, "{pending}");
    let id = text(&pending, "/id")?;
    lab.controller.muster(&["machine", "approve", text(&pending, "/claim")?])?;
    lab.controller.muster(&["machine", "rename", id, "kitchen"])?;
    let shown = lab.controller.muster(&["machine", "show", "kitchen"])?;
    ensure!(shown.contains(&key), "{shown}");
    drop(machine);

    let (mut spec, mac) = twin(&lab, 2)?;
    (spec.uuid, spec.serial) = ("4c4c4544-0042-3510-8052-b4c04f4e3177".into(), "LAB-0002".into());
    spec.board_serial = "LAB-BOARD-0002".into();
    let machine = start("same", spec.clone(), &tpm, "tpm-crb")?;
    let same = eventually(BOOT, "it is the kitchen's machine, with nothing left of it but the TPM", || {
        let machine = online(&lab, &mac)?;
        ensure!(machine["lifecycle"] == "available", "{machine}");
        Ok(machine)
    })?;
    ensure!(same["id"] == id && same["name"] == "kitchen" && same["tpm"]["key"] == key, "{same}");
    ensure!(same["serial"] == "LAB-0002", "{same}");
    drop(machine);

    let _machine = start("other", spec, &other_tpm, "tpm-crb")?;
    let other = eventually(BOOT, "the same box with another TPM is another machine", || {
        let machine = online(&lab, &mac)?;
        ensure!(machine["id"] != id, "{machine}");
        Ok(machine)
    })?;
    ensure!(other["lifecycle"] == "pending" && other["may_be"].to_string().contains("kitchen"), "{other}");
    ensure!(text(&other, "/tpm/key")? != key, "{other}");
    let refused = lab.controller.refusal(&["machine", "approve", text(&other, "/claim")?])?;
    ensure!(refused.contains("kitchen (whose TPM key was another)"), "{refused}");
    Ok(())
}

/// Replayed, another machine's, and no ticket at all: the screen says which, and the operator is told.
#[test]
fn a_machine_whose_ticket_is_no_good_says_why_on_its_console_and_raises_an_event() -> Result<()> {
    let lab = Lab::open("tickets", &[])?;
    let images = artifacts::image()?;
    let start = |number: u8, cmdline: &str| -> Result<(Machine, String)> {
        let (mut spec, mac) = twin(&lab, number)?;
        let [kernel, initramfs] = ["kernel", "initramfs"].map(|name| images.join(name));
        spec.boot = Boot::Kernel { kernel, initramfs, cmdline: cmdline.to_owned() };
        Ok((Machine::start(&spec, &lab.folder.join(format!("machine-{number}")))?, mac))
    };
    let (first, _) = twin(&lab, 1)?;
    let line = lab.command_line(&first)?;

    let (thief, _) = start(2, &line)?;
    thief.console.wait_for("the boot ticket was given to another machine", 0, BOOT)?;
    drop(thief);
    let (machine, mac) = start(1, &line)?;
    eventually(BOOT, "whose ticket it is gets in with it", || online(&lab, &mac))?;
    drop(machine);
    let (again, _) = start(1, &line)?;
    again.console.wait_for("the boot ticket is unknown or was used before", 0, BOOT)?;
    drop(again);
    let ticket = line.split_whitespace().find(|word| word.starts_with("muster.ticket=")).context("a ticket")?;
    let (confused, _) = start(3, &line.replace(ticket, "muster.ticket=nonsense"))?;
    confused.console.wait_for("muster.ticket", 0, BOOT)?;
    drop(confused);

    let events = lab.controller.api()?.get("/api/v1/events?last=1000")?.to_string();
    ensure!(events.contains("enrollment.refused"), "{events}");
    ensure!(events.contains("given to another machine") && events.contains("unknown or was used before"), "{events}");
    ensure!(events.matches("\"machine.pending\"").count() == 1, "one machine got in: {events}");
    Ok(())
}
