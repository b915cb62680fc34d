//! From power-on to online on every road, and what happens to a machine that is online.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_tests::disks::Partition;
use muster_tests::lab::{self, BOOT, Lab, SOON, text};
use muster_tests::qemu::{Bmc, Boot, Firmware, Machine, Spec};
use muster_tests::{disks, eventually};

/// The promise: a machine that is gone shows as offline within this.
const OFFLINE_WITHIN: Duration = Duration::from_secs(30);

/// BIOS, CD: inventory, reboot, a controller that is killed, and the plug.
#[test]
fn a_machine_on_cd_and_bios_is_inventoried_reboots_outlives_its_controller_and_is_missed() -> Result<()> {
    let mut lab = Lab::open("bios-cd", &[])?;
    let spec = Spec { cpus: 2, bmc: Bmc::Ipmi, ..lab::machine(Firmware::Bios, Boot::Cd(lab.iso()?))? };
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

/// UEFI, stick: inventory, a disk that is prepared and kept, and off means off.
#[test]
fn a_machine_on_a_stick_and_uefi_prepares_a_disk_keeps_its_data_and_stays_away_when_switched_off() -> Result<()> {
    let lab = Lab::open("uefi-stick", &[])?;
    let spec = lab::machine(Firmware::Uefi, Boot::Usb(lab.iso()?))?;
    let folder = lab.folder.join("machine");
    let mut machine = Machine::start(&spec, &folder)?;

    lab.until_inventoried(&spec)?;
    let approved = lab.admit()?;
    let (name, id) = (text(&approved, "/name")?, text(&approved, "/id")?);

    // A blank disk is partitioned, formatted and mounted; that it is so is seen from outside.
    let disk = &spec.disks[0];
    let image = disk.path(&folder);
    let data = lab.folder.join("data.yaml").display().to_string();
    std::fs::write(&data, storage(&disk.serial, "data", false))?;
    lab.controller.muster(&["apply", "-m", name, "-f", &data])?;
    lab.until(SOON, "the disk is prepared", |m| {
        m["presence"]["state"] == "online"
            && m["progress"]["state"] == "confirmed"
            && m["progress"]["generation"] == m["generation"]
    })?;
    let observed = lab.controller.api()?.get(&format!("/api/v1/machines/{id}/observed"))?;
    ensure!(observed["disks"].to_string().contains("mounted at /srv/data"), "it is mounted: {observed}");
    let (partitions, filesystem) = eventually(SOON, "the image carries a GPT and an ext4", || on_disk(&image))?;
    let names: Vec<_> = partitions.iter().map(|partition| partition.name.as_str()).collect();
    ensure!(names == ["data"], "one partition: {partitions:?}");
    ensure!(filesystem[1] == "data", "the filesystem is labeled: {filesystem:?}");

    // A document that would replace it needs a permit, and without one nothing happens.
    let other = lab.folder.join("other.yaml").display().to_string();
    std::fs::write(&other, storage(&disk.serial, "other", true))?;
    let said = lab.controller.refusal(&["apply", "-m", name, "-f", &other])?;
    let disk_id = format!("serial:{}", disk.serial);
    ensure!(said.contains(&format!("--permit-destroy={disk_id}")), "which disk, and what it takes: {said}");
    let shown = lab.until(SOON, "the refusal is shown", |m| m["progress"]["state"] == "refused")?;
    ensure!(shown["progress"]["generation"] == shown["generation"], "the newest generation was refused: {shown}");
    let observed = lab.controller.api()?.get(&format!("/api/v1/machines/{id}/observed"))?;
    ensure!(observed["disks"].to_string().contains("mounted at /srv/data"), "it is mounted still: {observed}");

    lab.controller.muster(&["power", "off", name])?;
    machine.wait_off(BOOT)?;
    let away = lab.until(OFFLINE_WITHIN, "the machine shows as offline", |m| m["presence"]["state"] == "offline")?;
    ensure!(away["presence"]["boot"] == approved["presence"]["boot"], "no other boot was seen: {away}");
    let left = on_disk(&image)?;
    ensure!(left == (partitions, filesystem), "the disk carries what it did: {left:?}");
    Ok(())
}

/// A Butane document about one virtio disk: a partition with an ext4 of the same label, mounted below `/srv`.
fn storage(serial: &str, label: &str, wipe_table: bool) -> String {
    format!(
        "variant: fcos\nversion: 1.5.0\nstorage:\n  disks:\n    - device: /dev/disk/by-id/virtio-{serial}\n      \
         wipe_table: {wipe_table}\n      partitions: [{{number: 1, label: {label}, size_mib: 256}}]\n  filesystems:\n    \
         - {{device: /dev/disk/by-partlabel/{label}, path: /srv/{label}, format: ext4, label: {label}}}\n"
    )
}

/// The partitions of a disk, and the UUID and label of the ext4 in the first one.
fn on_disk(image: &Path) -> Result<(Vec<Partition>, [String; 2])> {
    let partitions = disks::partitions(image)?;
    let fields = disks::ext4(image, partitions.first().context("it has a partition")?)?;
    let field = |name: &str| fields.get(name).cloned().with_context(|| format!("{name} in {fields:?}"));
    let identity = [field("Filesystem UUID")?, field("Filesystem volume name")?];
    Ok((partitions, identity))
}
