//! Disks that are chosen by a rule or by their slot, and a permit that was used.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use muster_protocol::Digest;
use muster_tests::lab::{self, BOOT, Lab, SOON, text};
use muster_tests::qemu::{Boot, Disk, DiskKind, Firmware, Machine, Spec};
use muster_tests::{disks, eventually};

#[test]
fn disks_are_chosen_by_rule_and_slot_and_a_used_permit_is_void_after_a_boot() -> Result<()> {
    let lab = Lab::open("choose", &[])?;
    let mut spec = lab::machine(Firmware::Bios, Boot::Cd(lab.iso()?))?;
    spec.disks = vec![
        Disk::new(DiskKind::Virtio, "FULL", 256),
        Disk::new(DiskKind::Nvme, "FAST", 256),
        Disk::new(DiskKind::Scsi { wwn: 0x5000_c500_1234_5678 }, "SLOT", 256),
        Disk::new(DiskKind::Virtio, "BESIDE", 512),
    ];
    let folder = lab.folder.join("machine");
    fs::create_dir_all(&folder)?;
    for disk in &spec.disks {
        File::create(disk.path(&folder))?.set_len(disk.size_mib << 20)?;
    }
    let image = |n: usize| spec.disks[n].path(&folder);
    let fingerprint = |n: usize| anyhow::Ok(Digest::of(&fs::read(image(n))?));
    disks::scribble(&image(0))?;
    disks::scribble(&image(3))?;
    let kept = lab.folder.join("kept");
    fs::copy(image(0), &kept)?;
    let before = (0..spec.disks.len()).map(fingerprint).collect::<Result<Vec<_>>>()?;
    let mut machine = Machine::start(&spec, &folder)?;
    let admitted = lab.admit()?;
    let (name, id) = (text(&admitted, "/name")?, text(&admitted, "/id")?);

    let observed = lab.controller.api()?.get(&format!("/api/v1/machines/{id}/observed"))?;
    let slot = |serial: &str| {
        let all = observed["disks"].as_array().into_iter().flatten();
        let one = all.clone().find(|disk| disk["id"].as_str().is_some_and(|id| id.ends_with(serial)));
        one.and_then(|disk| disk["by_path"].as_str())
            .map(str::to_owned)
            .with_context(|| format!("{serial}: {observed}"))
    };
    let (virtio, nvme, scsi) = (slot("FULL")?, slot("FAST")?, slot("5678")?);
    ensure!(virtio.starts_with("pci-0000:00:") && virtio.len() == "pci-0000:00:04.0".len(), "{virtio}");
    ensure!(nvme.starts_with("pci-0000:00:") && nvme.ends_with(".0-nvme-1"), "{nvme}");
    ensure!(scsi.starts_with("pci-0000:00:") && scsi.contains(".0-scsi-0:0:"), "{scsi}");

    let file = lab.folder.join("disks.yaml").display().to_string();
    let apply = |document: String, more: &[&str]| {
        fs::write(&file, document)?;
        lab.controller.muster(&[&["apply", "-m", name, "-f", &file], more].concat())
    };
    // Two disks of 256 MiB are blank, and the rule asks for one.
    fs::write(&file, "storage: {disks: [{match: {max_size_mib: 300}, partitions: [{label: any}]}]}\n")?;
    let said = lab.controller.refusal(&["plan", "-m", name, "-f", &file])?;
    ensure!(said.contains("1 is asked for, and 3 fit") && said.contains("larger than 300.0 MiB"), "{said}");

    let chosen = format!(
        "storage:\n  disks:\n    - {{match: {{transport: nvme}}, partitions: [{{label: fast}}]}}\n    \
         - {{device: /dev/disk/by-path/{scsi}, partitions: [{{label: slot, start_mib: 64, size_mib: 32}}]}}\n"
    );
    apply(chosen.clone(), &[])?;
    for (n, name) in [(1, "fast"), (2, "slot")] {
        let found = eventually(SOON, "the image carries a GPT", || disks::partitions(&image(n)))?;
        ensure!(found.len() == 1 && found[0].name == name, "{found:?}");
    }
    for n in [0, 3] {
        ensure!(fingerprint(n)? == before[n], "disk {n} is as it was");
    }

    // What the disk carries is lost with leave, and comes back by hand: the leave does not.
    let replaced = format!("{chosen}    - {{device: serial:FULL, wipe_table: true, partitions: [{{label: new}}]}}\n");
    apply(replaced, &["--permit-destroy=serial:FULL"])?;
    ensure!(disks::partitions(&image(0))?.len() == 1, "it was permitted");
    lab.controller.muster(&["power", "off", name])?;
    machine.wait_off(BOOT)?;
    drop(machine);
    fs::copy(&kept, image(0))?;
    // The other disk sits in its place, and it in the other's.
    let swapped = Spec { disks: [3, 1, 2, 0].map(|n| spec.disks[n].clone()).to_vec(), ..spec.clone() };
    let _machine = Machine::start(&swapped, &folder)?;
    lab.until_online(Some(text(&admitted, "/presence/boot")?))?;
    lab.until(SOON, "the machine refuses", |m| m["progress"]["state"] == "refused")?;
    for n in [0, 3] {
        ensure!(fingerprint(n)? == before[n], "disk {n} is as it was");
    }
    Ok(())
}
