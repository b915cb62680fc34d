//! Dangers that need a machine: what happens to disks between a plan and its permit, under an apply, and disks that are
//! not to be written to at all. `dangers.txt` is the list of all of them, wherever they are tested.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use muster_protocol::Digest;
use muster_tests::artifacts::output;
use muster_tests::lab::{self, Lab, SOON, text};
use muster_tests::qemu::{Boot, Disk, DiskKind, Firmware, Machine};
use muster_tests::{artifacts, disks, eventually, scratch};
use serde_json::{Value, json};

use super::refused;

#[test]
fn whatever_happens_between_plan_and_apply_nothing_is_written_that_no_permit_names() -> Result<()> {
    let lab = Lab::open("dangers", &[])?;
    let mut spec = lab::machine(Firmware::Bios, Boot::Network)?;
    spec.disks = vec![
        Disk::new(DiskKind::Scsi { wwn: 0x5000_c500_0000_0011 }, "CHANGED", 256),
        Disk::new(DiskKind::Scsi { wwn: 0x5000_c500_0000_0012 }, "PULLED", 768),
        Disk::new(DiskKind::Scsi { wwn: 0x5000_c500_0000_0013 }, "REPLACED", 256),
        Disk::new(DiskKind::Stick, "STICK", 64),
        Disk::new(DiskKind::Virtio, "MEDIUM", 64),
        Disk::new(DiskKind::Virtio, "LAPTOP", 256),
        Disk::new(DiskKind::Nvme, "BESIDE", 64),
        // Muster's stick, where it says that it is none.
        Disk::new(DiskKind::Usb, "MEDIUM-USB", 64),
        Disk::new(DiskKind::Usb, "OUTSIDE", 96),
    ];
    spec.disks.extend(refused::disks());
    let folder = lab.folder.join("machine");
    fs::create_dir_all(&folder)?;
    let image = |serial: &str| folder.join(format!("{serial}.img"));
    for disk in &spec.disks {
        File::create(image(&disk.serial))?.set_len(disk.size_mib << 20)?;
    }
    for serial in ["CHANGED", "REPLACED"] {
        output(Command::new("mkfs.ext4").args(["-q", "-L", "theirs"]).arg(image(serial)))?;
    }
    for serial in ["STICK", "LAPTOP", "BESIDE", "OUTSIDE"] {
        disks::scribble(&image(serial))?;
    }
    refused::fill(image)?;
    // An installer's stick, with a table of the old kind, and our own on a disk that is none.
    let script = "printf 'label: dos\\nstart=2048, type=7\\n' | sfdisk --quiet --force";
    output(Command::new("sh").args(["-c", &format!("{script} {}", image("LAPTOP").display())]))?;
    let iso = lab.iso()?;
    for medium in spec.disks.iter_mut().filter(|disk| disk.serial.starts_with("MEDIUM")) {
        fs::copy(&iso, image(&medium.serial))?;
        medium.size_mib = fs::metadata(&iso)?.len() >> 20;
    }
    let fingerprint = |serial: &str| anyhow::Ok(Digest::of(&fs::read(image(serial))?));

    let (kernel, cmdline) = (artifacts::image()?.join("kernel"), lab.command_line(&spec)?);
    spec.boot = Boot::Kernel { kernel, initramfs: artifacts::image()?.join("initramfs"), cmdline };
    let machine = Machine::start(&spec, &folder)?;
    let admitted = lab.admit()?;
    let at = Target { lab: &lab, name: text(&admitted, "/name")?, id: text(&admitted, "/id")? };
    let mut before = BTreeMap::new();
    for disk in &spec.disks {
        before.insert(disk.serial.as_str(), fingerprint(&disk.serial)?);
    }

    // Never, whatever is permitted.
    let said = at.refusal(&over("serial:STICK"))?;
    ensure!(said.contains("a removable medium"), "{said}");
    for serial in ["MEDIUM", "MEDIUM-USB"] {
        let said = at.refusal(&over(&format!("serial:{serial}")))?;
        ensure!(said.contains("a Muster boot medium") && !said.contains("removable"), "{said}");
    }
    // Not without leave, and leave for one disk is none for another.
    let said = at.refusal("storage: {disks: [{device: 'serial:LAPTOP', partitions: [{label: new}]}]}\n")?;
    ensure!(said.contains("an MBR") && said.contains("wipe_table: true"), "{said}");
    let laptop = at.plan(&over("serial:LAPTOP"))?;
    let ended =
        at.apply(&over("serial:LAPTOP"), Some(&json!({ "plan": laptop["digest"], "disks": ["serial:BESIDE"] })))?;
    ensure!(why(&ended).contains("serial:LAPTOP"), "{ended}");

    // Twenty and more documents that are refused as they are; with what follows and came before, over thirty dangers.
    ensure!(refused::check(|document| at.refusal(document))? > 20, "the table is shorter than it says");

    // What was permitted is another disk by then: other contents, larger, smaller.
    let seen = at.plan(&over("wwn:0x5000c50000000011"))?;
    let permit = json!({ "plan": seen["digest"], "disks": seen["destroys"] });
    let is_void = |what: &str| {
        let as_it_is = fingerprint("CHANGED")?;
        let ended = at.apply(&over("wwn:0x5000c50000000011"), Some(&permit))?;
        ensure!(ended["state"] == "failed" && why(&ended).contains("permit"), "{what}: {ended}");
        ensure!(fingerprint("CHANGED")? == as_it_is, "{what}: nothing was written");
        anyhow::Ok(())
    };
    output(Command::new("tune2fs").args(["-L", "other"]).arg(image("CHANGED")))?;
    is_void("other contents")?;
    output(Command::new("tune2fs").args(["-L", "theirs"]).arg(image("CHANGED")))?;
    for size_mib in [384, 128] {
        machine.resize_disk(0, size_mib)?;
        at.until_size("5000c50000000011", size_mib)?;
        is_void(&format!("{size_mib} MiB"))?;
    }
    before.insert("CHANGED", fingerprint("CHANGED")?);

    // Another disk came in its place, with the same serial; then one that calls itself like a disk that is there.
    let seen = at.plan(&over("serial:REPLACED"))?;
    let permit = json!({ "plan": seen["digest"], "disks": seen["destroys"] });
    machine.pull_disk(2)?;
    machine.put_disk(2, "REPLACED", 0x5000_c500_0000_0014)?;
    at.until_size("5000c50000000014", 256)?;
    let ended = at.apply(&over("serial:REPLACED"), Some(&permit))?;
    ensure!(ended["state"] == "failed" && why(&ended).contains("permit"), "{ended}");
    machine.pull_disk(2)?;
    machine.put_disk(2, "PULLED", 0x5000_c500_0000_0014)?;
    at.until_size("5000c50000000014", 256)?;
    let said = at.refusal(&over("serial:PULLED"))?;
    ensure!(said.contains("2 disks answer to this name"), "{said}");
    machine.pull_disk(2)?;

    // It is gone in the middle of an apply.
    let filling = filling();
    let running = at.begin(&filling, None)?;
    eventually(SOON, "a filesystem is being made", || {
        let now = lab.controller.api()?.get(&format!("/api/v1/operations/{running}"))?;
        ensure!(now["steps"].to_string().contains("make xfs") || !now["ended"].is_null(), "{now}");
        Ok(())
    })?;
    machine.pull_disk(1)?;
    let ended = at.ended(&running)?;
    ensure!(ended["state"] == "failed" && !why(&ended).is_empty(), "{ended}");
    lab.until(SOON, "the machine is there still", |m| m["presence"]["state"] == "online")?;
    machine.put_disk(1, "PULLED", 0x5000_c500_0000_0012)?;
    at.until_size("5000c50000000012", 768)?;
    // It goes on, or says what lies there and what helps.
    let ended = at.apply(&filling, None)?;
    let goes_on = ended["state"] == "succeeded";
    ensure!(goes_on || why(&ended).contains("wipe_filesystem: true"), "{ended}");
    ensure!(disks::partitions(&image("PULLED"))?.len() == 2, "its table is whole");

    // A permit was used, and the disk carries the same again.
    let theirs = fs::read(image("NTFS"))?;
    let seen = at.plan(&over("serial:NTFS"))?;
    let permit = json!({ "plan": seen["digest"], "disks": seen["destroys"] });
    let ended = at.apply(&over("serial:NTFS"), Some(&permit))?;
    ensure!(ended["state"] == "succeeded" && disks::partitions(&image("NTFS"))?.len() == 1, "{ended}");
    File::options().write(true).open(image("NTFS"))?.write_all_at(&theirs, 0)?;
    let ended = at.apply(&over("serial:NTFS"), Some(&permit))?;
    ensure!(ended["state"] == "failed" && why(&ended).contains("permit"), "{ended}");

    // The kernel calls the disks otherwise than when it was planned: what was permitted is done to the disk that was meant.
    let seen = at.plan(&over("serial:CHANGED"))?;
    let permit = json!({ "plan": seen["digest"], "disks": seen["destroys"] });
    let called = at.called("5000c50000000011")?;
    machine.pull_disk(0)?;
    machine.put_disk(2, "REPLACED", 0x5000_c500_0000_0013)?;
    at.until_size("5000c50000000013", 256)?;
    machine.put_disk(0, "CHANGED", 0x5000_c500_0000_0011)?;
    at.until_size("5000c50000000011", 128)?;
    ensure!(at.called("5000c50000000013")? == called, "the other disk has its name");
    let ended = at.apply(&over("serial:CHANGED"), Some(&permit))?;
    ensure!(ended["state"] == "succeeded" && disks::partitions(&image("CHANGED"))?.len() == 1, "{ended}");

    before.remove("PULLED");
    before.remove("CHANGED");
    for (serial, before) in before {
        ensure!(fingerprint(serial)? == before, "{serial} is as it was");
    }
    Ok(())
}

/// A document that would replace whatever a disk carries.
fn over(disk: &str) -> String {
    format!("storage: {{disks: [{{device: '{disk}', wipe_table: true, partitions: [{{label: new}}]}}]}}\n")
}

fn filling() -> String {
    "storage:
  disks:
    - {device: 'serial:PULLED', partitions: [{label: one, size_mib: 320}, {label: two}]}
  filesystems:
    - {device: /dev/disk/by-partlabel/one, format: xfs, label: one, path: /srv/one}
    - {device: /dev/disk/by-partlabel/two, format: ext4, label: two, path: /srv/two}
"
    .into()
}

/// The machine, as an operator with the API has it.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub lab: &'a Lab,
    pub name: &'a str,
    pub id: &'a str,
}

impl Target<'_> {
    pub fn plan(&self, document: &str) -> Result<Value> {
        self.lab.controller.api()?.post(&format!("/api/v1/machines/{}/plan", self.id), &json!({ "document": document }))
    }

    fn begin(&self, document: &str, permit: Option<&Value>) -> Result<String> {
        let body = json!({ "document": document, "permit": permit });
        let operation = self.lab.controller.api()?.post(&format!("/api/v1/machines/{}/apply", self.id), &body)?;
        Ok(text(&operation, "/id")?.to_owned())
    }

    fn ended(&self, operation: &str) -> Result<Value> {
        eventually(SOON * 2, "the operation ends", || {
            let now = self.lab.controller.api()?.get(&format!("/api/v1/operations/{operation}"))?;
            ensure!(!now["ended"].is_null(), "{now}");
            Ok(now)
        })
    }

    pub fn apply(&self, document: &str, permit: Option<&Value>) -> Result<Value> {
        self.ended(&self.begin(document, permit)?)
    }

    /// What an operator reads who applies what he may not.
    fn refusal(&self, document: &str) -> Result<String> {
        let file = self.lab.folder.join("document.yaml");
        fs::write(&file, document)?;
        let file = file.display().to_string();
        self.lab.controller.refusal(&["apply", "-m", self.name, "-f", &file, "--permit-destroy", "--yes"])
    }

    /// What the machine's kernel calls the disk with this WWN.
    fn called(&self, wwn: &str) -> Result<String> {
        Ok(text(&self.observed(wwn)?, "/name")?.to_owned())
    }

    /// The disk with this WWN, as the machine sees it now.
    fn observed(&self, wwn: &str) -> Result<Value> {
        let observed = self.lab.controller.api()?.get(&format!("/api/v1/machines/{}/observed", self.id))?;
        let mut all = observed["disks"].as_array().into_iter().flatten();
        let is_it = |disk: &&Value| disk["id"].as_str().is_some_and(|id| id.contains(wwn));
        all.find(is_it).cloned().with_context(|| format!("{wwn}: {observed}"))
    }

    /// Waits until the machine sees a disk with this WWN and size.
    fn until_size(&self, wwn: &str, size_mib: u64) -> Result<()> {
        eventually(SOON, "the machine sees it", || {
            let disk = self.observed(wwn)?;
            ensure!(disk["size_bytes"] == size_mib << 20, "{disk}");
            Ok(())
        })
    }
}

pub fn why(operation: &Value) -> &str {
    operation["error"].as_str().unwrap_or_default()
}

/// `DANGER | FILE` or `DANGER | FILE | FUNCTION`, or how its name begins; what a line says is there.
#[test]
fn at_least_thirty_dangers_are_listed_with_the_test_that_has_each() -> Result<()> {
    let list = include_str!("dangers.txt");
    let mut dangers = BTreeSet::new();
    for line in list.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [danger, file, function @ ..] = &parts[..] else { anyhow::bail!("{line:?} names no test") };
        let path: PathBuf = scratch::repository().join(file);
        let text = fs::read_to_string(Path::new(&path)).with_context(|| file.to_string())?;
        match function {
            [] => ensure!(text.contains("## impossible") || text.contains("## plan"), "{file} is no case"),
            [function] => ensure!(text.contains(&format!("fn {function}")), "{file} has no {function}"),
            _ => anyhow::bail!("{line:?} says too much"),
        }
        ensure!(dangers.insert(danger.to_string()), "{danger} is there twice");
    }
    ensure!(dangers.len() >= 30, "only {}", dangers.len());
    Ok(())
}
