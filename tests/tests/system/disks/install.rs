//! An operating system that is installed by a document, and started from its disk.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use muster_protocol::Digest;
use muster_tests::lab::{self, BOOT, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, Machine, Spec};
use muster_tests::{artifacts, disks, eventually};

/// The image of what a BIOS starts, of an EFI system partition and of a system, and behind them the seed.
const PARTITIONS: [&str; 4] = ["bios", "esp", "system", "CIDATA"];
/// The firmware's boot order, as the installed system's own program tells it.
const CURRENT: &str = "BootCurrent: ";
const ORDER: &str = "BootOrder: ";

#[test]
#[ignore = "minutes of streaming and booting, and a Debian to be made before: make install-test"]
fn an_image_is_installed_and_either_firmware_starts_it_from_its_disk_as_its_seed_says() -> Result<()> {
    let lab = Lab::serving("install", |folder| {
        let images = folder.join("images");
        super::tools::copy(&artifacts::image()?, &images)?;
        Ok(images)
    })?;
    let iso = lab.iso()?;
    let spec = lab::machine(Firmware::Uefi, Boot::Usb(iso.clone()))?;
    let folder = lab.folder.join("machine");
    fs::create_dir_all(&folder)?;
    for disk in &spec.disks {
        File::create(disk.path(&folder))?.set_len(disk.size_mib << 20)?;
        disks::scribble(&disk.path(&folder))?;
    }
    let machine = Machine::start(&spec, &folder)?;

    // The controller's host takes it in while the machine boots.
    let images = lab.folder.join("images").display().to_string();
    let system = artifacts::system()?.display().to_string();
    lab.controller.muster(&["disk-image", "add", &system, "--images", &images])?;
    let known = lab.controller.muster_json(&["disk-image", "list", "--images", &images])?;
    let sha256 = text(&known, "/0/sha256")?;
    let admitted = lab.admit()?;
    let name = text(&admitted, "/name")?;

    let [disk, beside] = &spec.disks[..] else { anyhow::bail!("two disks") };
    let kept = Digest::of(&fs::read(beside.path(&folder))?);
    let document = lab.folder.join("system.yaml").display().to_string();
    fs::write(
        &document,
        format!(
            "storage:
  images:
    - device: serial:{serial}
      sha256: {sha256}
      wipe_table: true
      boot: true
      seed:
        hostname: web1
        ssh_authorized_keys: [ssh-ed25519 AAAAkeyOfTheSeed ops]
        network_config: |
          version: 2
          ethernets:
            lan: {{match: {{name: \"en*\"}}, dhcp4: true}}
        user_data: |
          #cloud-config
          runcmd:
            - [sh, -c, \"echo SEED $(hostname) $(cut -d' ' -f2 /home/debian/.ssh/authorized_keys) > /dev/ttyS0\"]
            - [sh, -c, \"echo ROOT $(df -m --output=size / | tail -n1) > /dev/ttyS0\"]
",
            serial = disk.serial
        ),
    )?;
    let plan = lab.controller.muster(&["plan", "-m", name, "-f", &document])?;
    ensure!(plan.contains(&format!("write disk image {}", &sha256[..16])), "{plan}");
    let refused = lab.controller.refusal(&["apply", "-m", name, "-f", &document])?;
    ensure!(refused.contains("permit-destroy"), "{refused}");
    let permit = format!("--permit-destroy=serial:{}", disk.serial);
    lab.controller.muster(&["apply", "-m", name, "-f", &document, &permit])?;
    let found = eventually(SOON, "the disk carries the image's table", || disks::partitions(&disk.path(&folder)))?;
    let names: Vec<_> = found.iter().map(|partition| partition.name.as_str()).collect();
    ensure!(names == PARTITIONS, "{found:?}");
    // The table is there before the rest of the plan is done.
    eventually(SOON, "nothing is left to do", || {
        let again = lab.controller.muster(&["plan", "-m", name, "-f", &document])?;
        ensure!(again.contains("nothing to do"), "{again}");
        Ok(())
    })?;
    ensure!(Digest::of(&fs::read(beside.path(&folder))?) == kept, "the other disk is as it was");
    let entry = format!("Muster disk image {}", &sha256[..16]);
    let variables = fs::read(folder.join("uefi-variables.fd"))?;
    let told: Vec<u8> = entry.encode_utf16().flat_map(u16::to_le_bytes).collect();
    ensure!(variables.windows(told.len()).any(|part| part == told), "the firmware's memory has no {entry:?}");

    let from = machine.console.len();
    // No agent comes back to say that it is done.
    lab.controller.muster(&["power", "reboot", name, "--no-wait"])?;
    machine.console.wait_for("Muster: starting from the disk", from, BOOT)?;
    // By the entry that was made for it, which is right behind the one of the stick.
    let current = machine.console.wait_for(CURRENT, from, BOOT)?;
    let current = current.text.rsplit(CURRENT).next().context("a number")?.trim().to_owned();
    let order = machine.console.wait_for(ORDER, from, SOON)?.text;
    let order: Vec<_> = order.rsplit(ORDER).next().context("numbers")?.trim().split(',').collect();
    ensure!(order.get(1) == Some(&current.as_str()), "{order:?}, started from {current}");
    let ours = machine.console.wait_for(&format!("Boot{current}* {entry}"), from, SOON)?.text;
    ensure!(ours.contains("HD(2,GPT,") && ours.contains(r"File(\EFI\BOOT\BOOTX64.EFI)"), "{ours}");
    machine.console.wait_for("STARTED BY UEFI", from, SOON)?;
    machine.console.wait_for("SEED web1 AAAAkeyOfTheSeed", from, BOOT)?;
    let root = machine.console.wait_for("ROOT ", from, SOON)?;
    let megabytes = root.text.rsplit(' ').find_map(|word| word.trim().parse::<u64>().ok()).context("a size")?;
    ensure!(megabytes > disk.size_mib * 3 / 4, "the system has the whole disk: {megabytes} MB");

    // The same machine with the other firmware.
    drop(machine);
    let machine = Machine::start(&Spec { firmware: Firmware::Bios, boot: Boot::Cd(iso), ..spec }, &folder)?;
    machine.console.wait_for("STARTED BY BIOS", 0, BOOT)?;
    // Its boot programs speak to the screen alone; whom they asked is known here.
    let log = fs::read_to_string(lab.folder.join("controller.log"))?;
    ensure!(log.matches("a machine starts from its disk").count() == 2, "once for each firmware");
    Ok(())
}
