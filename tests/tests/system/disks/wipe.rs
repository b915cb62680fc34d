//! What `muster machine wipe` destroys, and what it leaves.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_protocol::Digest;
use muster_tests::disks;
use muster_tests::lab::{self, Lab, text};
use muster_tests::qemu::{Boot, Disk, DiskKind, Firmware, Machine};
use serde_json::{Value, json};

#[test]
fn a_wipe_destroys_what_the_named_disk_carries_as_thoroughly_as_was_asked_and_nothing_else() -> Result<()> {
    let lab = Lab::open("wipe", &[])?;
    let mut spec = lab::machine(Firmware::Bios, Boot::Cd(lab.iso()?))?;
    spec.disks = vec![
        Disk::new(DiskKind::Virtio, "QUICK", 256),
        Disk::new(DiskKind::Nvme, "SECURE", 256),
        Disk::new(DiskKind::Scsi { wwn: 0x5000_c500_1234_5678 }, "SIGNATURES", 256),
        Disk::new(DiskKind::Nvme, "BESIDE", 256),
        Disk::new(DiskKind::Sata { wwn: 0x5000_c500_0000_0005 }, "SATA", 64),
    ];
    let folder = lab.folder.join("machine");
    std::fs::create_dir_all(&folder)?;
    for disk in &spec.disks {
        File::create(disk.path(&folder))?.set_len(disk.size_mib << 20)?;
        disks::scribble(&disk.path(&folder))?;
    }
    let image = |n: usize| spec.disks[n].path(&folder);
    let fingerprint = |n: usize| anyhow::Ok(Digest::of(&std::fs::read(image(n))?));
    let before = (0..spec.disks.len()).map(fingerprint).collect::<Result<Vec<_>>>()?;
    let _machine = Machine::start(&spec, &folder)?;
    let machine = lab.admit()?;
    let name = text(&machine, "/name")?;
    let wipe =
        |disk: &str, level: &str| lab.controller.muster(&["machine", "wipe", name, disk, "--level", level, "--yes"]);

    // Drives are asked when the agent has settled, and told beside the inventory.
    let healthy = |drive: &Value| drive["verdict"] == "good" && drive["warnings"] == json!([]);
    let shown = lab.until(Duration::from_secs(60), "its NVMe and SATA drives tell of their health", |machine| {
        machine["drives"].as_array().is_some_and(|all| all.len() == 3 && all.iter().all(healthy))
    })?;
    ensure!(shown["drives"][0]["disk"] == "serial:BESIDE" && shown["drives"][0]["temperature_c"].is_i64(), "{shown}");
    let listed = lab.controller.muster(&["machine", "disk", "list", name])?;
    ensure!(listed.contains("serial:SECURE") && listed.contains("good"), "{listed}");
    // By SMART READ DATA: QEMU's ATA drives are always as warm.
    let sata = listed.lines().find(|line| line.contains("wwn:0x5000c50000000005"));
    ensure!(sata.is_some_and(|line| line.contains("good") && line.contains("31")), "{listed}");

    let unknown = lab.controller.command(&["machine", "wipe", name, "serial:NONE", "--yes"])?.output()?;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(
        unknown.status.code() == Some(2)
            && said.contains("it has wwn:0x")
            && said.contains("wwn:0x5000c50012345678 (sd"),
        "{said}"
    );
    let unasked = lab.controller.refusal(&["machine", "wipe", name, "serial:QUICK"])?;
    ensure!(unasked.contains("--yes"), "{unasked}");

    let receipt = wipe("serial:SECURE", "secure")?;
    ensure!(receipt.contains("NVMe format"), "a drive erases itself: {receipt}");
    ensure!(disks::first_data(&image(1))?.is_none(), "all of it is zero");

    let receipt = wipe("serial:QUICK", "quick")?;
    ensure!(receipt.contains("discarded"), "it guarantees zeros: {receipt}");
    ensure!(disks::first_data(&image(0))?.is_none(), "all of it is zero");

    wipe("wwn:0x5000c50012345678", "signatures")?;
    let left = disks::first_data(&image(2))?.context("its data stays")?;
    ensure!(left >= 2 << 20, "data at byte {left}");
    let found = std::process::Command::new("wipefs").arg(image(2)).output()?;
    ensure!(found.status.success() && found.stdout.is_empty(), "nothing is recognized: {found:?}");

    ensure!(fingerprint(3)? == before[3], "the disk beside them is as it was");
    Ok(())
}
