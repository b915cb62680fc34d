//! A mirror of two disks of different kinds, and on it an encrypted volume group: made, read from outside, found again after a
//! reboot, kept up without a disk, and whole again with another one in its place.
//!
//! Beside it lies a mirror that is not encrypted, into which somebody writes while the machine is off: what is read from the
//! disk that came last was never written to it by anybody but the array. Another disk has a volume that only the machine's TPM
//! opens, and a group that is not encrypted, which LVM reads from outside: that one is on USB.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use muster_protocol::Digest;
use muster_tests::artifacts::output;
use muster_tests::attached::{self, Attached};
use muster_tests::lab::{self, BOOT, Lab, SOON, text};
use muster_tests::qemu::{Boot, Disk, DiskKind, Firmware, Machine, Tpm};
use muster_tests::{disks, eventually};
use serde_json::Value;

use super::arrays::{Member, in_filesystem};
use super::start;

const DOCUMENT: &str = "storage:
  disks:
    - {device: 'serial:LEFT', partitions: [{label: left-plain, size_mib: 64}, {label: left}]}
    - {device: 'serial:RIGHT', partitions: [{label: right-plain, size_mib: 64}, {label: right}]}
    - {device: 'serial:ALONE', partitions: [{label: sealed, size_mib: 64}, {label: rows}]}
  raid:
    - {name: plain, level: raid1, devices: [/dev/disk/by-partlabel/left-plain, /dev/disk/by-partlabel/right-plain]}
    - {name: pair, level: raid1, devices: [/dev/disk/by-partlabel/left, /dev/disk/by-partlabel/right]}
  luks:
    - {name: vault, label: safe, device: /dev/md/pair}
    - {name: sealed, label: sealed, device: /dev/disk/by-partlabel/sealed, clevis: {tpm2: true}}
  volume_groups:
    - name: office
      physical_volumes: [/dev/mapper/vault]
      logical_volumes: [{name: books, size_mib: 96}, {name: swap, size_mib: 32}]
    - name: rows
      physical_volumes: [/dev/disk/by-partlabel/rows]
      logical_volumes:
        - {name: log, size_mib: 64}
        - {name: pool, thin_pool: true, size_mib: 96}
        - {name: sheet, pool: pool, size_mib: 256}
  filesystems:
    - {device: /dev/md/plain, format: ext4, label: plain, path: /srv/plain}
    - {device: /dev/office/books, format: ext4, label: books, path: /srv/books}
    - {device: /dev/office/swap, format: swap, label: swap}
    - {device: /dev/mapper/sealed, format: ext4, label: sealed, path: /srv/sealed}
    - {device: /dev/rows/log, format: ext4, label: log, path: /srv/log}
    - {device: /dev/rows/sheet, format: ext4, label: sheet, path: /srv/sheet}
";

/// Where the disks are among the machine's.
const RIGHT: usize = 1;
const ALONE: usize = 3;

#[test]
fn a_stack_on_a_mirror_comes_back_after_a_reboot_outlives_a_disk_and_is_whole_with_another_in_its_place() -> Result<()>
{
    let lab = Lab::open("stacks", &[])?;
    let mut spec = lab::machine(Firmware::Bios, Boot::Network)?;
    let scsi = |wwn: u64| DiskKind::Scsi { wwn: 0x5000_c500_0000_0020 + wwn };
    spec.disks = vec![
        Disk::new(DiskKind::Sata { wwn: 0x5000_c500_0000_0023 }, "LEFT", 320),
        Disk::new(scsi(1), "RIGHT", 320),
        Disk::new(DiskKind::Virtio, "BESIDE", 64),
        Disk::new(DiskKind::Usb, "ALONE", 320),
    ];
    let tpm = tempfile::tempdir()?;
    spec.tpm = Some(Tpm { model: "tpm-crb", state: tpm.path().to_owned() });
    let folder = lab.folder.join("machine");
    fs::create_dir_all(&folder)?;
    let image = |serial: &str| folder.join(format!("{serial}.img"));
    File::create(image("BESIDE"))?.set_len(64 << 20)?;
    disks::scribble(&image("BESIDE"))?;
    let beside = Digest::of(&fs::read(image("BESIDE"))?);

    let mut machine = start(&lab, &mut spec, &folder)?;
    let admitted = lab.admit()?;
    let at = Seen { lab: &lab, name: text(&admitted, "/name")?, id: text(&admitted, "/id")? };
    let file = lab.folder.join("stack.yaml");
    fs::write(&file, DOCUMENT)?;
    let file = file.display().to_string();
    lab.controller.muster(&["apply", "-m", at.name, "-f", &file])?;
    let plan = || lab.controller.muster(&["plan", "-m", at.name, "-f", &file]);
    let is_done = || {
        let plan = plan()?;
        ensure!(plan.starts_with("nothing to do"), "{plan}");
        anyhow::Ok(plan)
    };
    // By itself: nobody applies anything.
    let comes_back = |before: &str| {
        lab.until_online(Some(before))?;
        eventually(SOON * 2, "the machine has what is desired", is_done)
    };
    is_done()?;
    let inside = at.inside()?;
    let header = inside.headers.get("vault").context("the mirror's header")?;
    let mut boot = at.off(&mut machine)?;
    drop(machine);

    // What others read from the images.
    for serial in ["LEFT", "RIGHT"] {
        let attached = Attached::new(&image(serial), 512)?;
        attached.table()?;
        for (number, name) in [(1, "plain"), (2, "pair")] {
            let member = Member::of(&attached, number)?;
            ensure!(member.name == name && member.level == "raid1" && member.state == "AA", "{serial}: {member:?}");
        }
    }
    let pair = Member::of(&Attached::new(&image("LEFT"), 512)?, 2)?.read(&image("LEFT"), 2, &lab.folder)?;
    let said = output(Command::new("cryptsetup").arg("luksDump").arg(&pair))?;
    let has = |name: &str, value: &str| said.lines().any(|line| line.split_whitespace().eq([name, value]));
    ensure!(has("Version:", "2") && has("Label:", "safe") && has("UUID:", header), "{said}");
    ensure!(!said.contains("muster-unfinished"), "{said}");
    let plain = Member::of(&Attached::new(&image("LEFT"), 512)?, 1)?;
    let copy = plain.read(&image("LEFT"), 1, &lab.folder)?;
    let probed = output(Command::new("blkid").args(["--probe", "--output", "export"]).arg(&copy))?;
    ensure!(probed.contains("TYPE=ext4") && probed.contains("LABEL=plain"), "{probed}");
    let alone = Attached::new(&image("ALONE"), 512)?;
    alone.table()?;
    let sealed = output(Command::new("cryptsetup").arg("luksDump").arg(alone.partition(1)))?;
    let own = inside.headers.get("sealed").context("the sealed volume's header")?;
    ensure!(sealed.contains(own) && sealed.contains("sealed"), "{sealed}");
    group_is_sound(&alone.partition(2), &lab.folder)?;
    drop(alone);
    // Somebody's data, the same on both sides.
    let data = vec![7_u8; 1 << 20];
    in_filesystem(&copy, |at| Ok(fs::write(at.join("kept"), &data)?))?;
    for serial in ["LEFT", "RIGHT"] {
        plain.write(&copy, &image(serial), 1)?;
    }

    // A reboot: all of it comes back by itself, and no key is made that nobody needs. The disk on USB comes later than the
    // machine waits for one.
    spec.disks[ALONE].is_pulled = true;
    let mut machine = start(&lab, &mut spec, &folder)?;
    spec.disks[ALONE].is_pulled = false;
    eventually(BOOT, "the machine refuses what it cannot be without that disk", || {
        ensure!(at.events("machine.refused")? == 1, "{}", at.events("machine.refused")?);
        Ok(())
    })?;
    machine.put_usb_disk(ALONE, "ALONE")?;
    comes_back(&boot)?;
    ensure!(at.inside()? == inside, "the same volumes in the same headers");
    // Of the two encrypted volumes only one has a key of the controller's.
    ensure!(at.events("key.made")? == 1, "one key for one volume");

    // A disk is pulled, and the array is told to lack a member as soon as it is written to.
    let before = at.events("machine.array")?;
    machine.pull_disk(RIGHT)?;
    let mut more = DOCUMENT.to_owned();
    for name in ["plain", "books"] {
        more.push_str(&format!("    - {{what: /srv/{name}/new, where: /mnt/{name}, options: [bind]}}\n"));
    }
    let more = more.replacen("    - {what", "  mounts:\n    - {what", 1);
    fs::write(&file, &more)?;
    lab.controller.muster(&["apply", "-m", at.name, "-f", &file])?;
    eventually(SOON, "both arrays are told to lack a member", || {
        ensure!(at.events("machine.array")? >= before + 2, "{}", at.events("machine.array")?);
        let shown = lab.controller.muster(&["machine", "show", at.name])?;
        ensure!(shown.contains("degraded"), "{shown}");
        Ok(())
    })?;
    let plan = is_done()?;
    for name in ["plain", "pair"] {
        let note = format!("note: serial:RIGHT is missing: the array /dev/md/{name} runs without it");
        ensure!(plan.contains(&note), "{plan}");
    }
    boot = at.off(&mut machine)?;
    drop(machine);

    // A boot without it, and with a blank disk beside what is left.
    spec.disks[RIGHT] = Disk::new(scsi(2), "NEW", 320);
    let mut machine = start(&lab, &mut spec, &folder)?;
    ensure!(comes_back(&boot)?.contains("serial:RIGHT is missing"), "the data is there, and what lacks is told");
    ensure!(at.inside()? == inside, "the same volumes in the same headers");
    let shown = lab.controller.muster(&["machine", "show", at.name])?;
    ensure!(shown.contains("degraded"), "{shown}");

    // One command puts another disk in its place.
    let replace = ["machine", "disk", "replace", at.name, "serial:RIGHT", "wwn:0x5000c50000000022"];
    let shown = lab.controller.muster(&[&replace[..], &["--plan"]].concat())?;
    ensure!(
        shown.contains("to the array /dev/md/pair, which lacks a member") && !shown.contains("DESTROYS"),
        "{shown}"
    );
    lab.controller.muster(&replace)?;
    eventually(SOON * 2, "the arrays are whole again", || {
        let observed = at.observed()?;
        let arrays = observed["arrays"].as_array().context("arrays")?;
        let is_whole =
            |array: &Value| array["state"] == "whole" && array["sync"].as_str().unwrap_or_default().is_empty();
        ensure!(arrays.len() == 2 && arrays.iter().all(is_whole), "{observed}");
        Ok(())
    })?;
    ensure!(at.inside()? == inside, "the same volumes in the same headers");
    at.off(&mut machine)?;
    drop(machine);

    let attached = Attached::new(&image("NEW"), 512)?;
    for (number, name) in [(1, "plain"), (2, "pair")] {
        let member = Member::of(&attached, number)?;
        ensure!(member.name == name && member.state == "AA", "{member:?}");
    }
    let plain = Member::of(&attached, 1)?;
    in_filesystem(&plain.read(&image("NEW"), 1, &lab.folder)?, |at| {
        ensure!(fs::read(at.join("kept"))? == data, "the data went to the disk that came");
        ensure!(at.join("new").is_dir(), "and so did what the machine wrote");
        Ok(())
    })?;
    ensure!(at.events("key.made")? == 1, "one key for one volume");
    ensure!(Digest::of(&fs::read(image("BESIDE"))?) == beside, "the disk beside them is as it was");
    Ok(())
}

/// The machine, as an operator sees it.
struct Seen<'a> {
    lab: &'a Lab,
    name: &'a str,
    id: &'a str,
}

impl Seen<'_> {
    fn observed(&self) -> Result<Value> {
        self.lab.controller.api()?.get(&format!("/api/v1/machines/{}/observed", self.id))
    }

    /// What is in the arrays and partitions now, all of it running.
    fn inside(&self) -> Result<Inside> {
        let observed = self.observed()?;
        let named = |all: &Value| -> Result<BTreeMap<String, String>> {
            let all = all.as_array().with_context(|| observed.to_string())?;
            all.iter().map(|one| Ok((text(one, "/name")?.to_owned(), text(one, "/uuid")?.to_owned()))).collect()
        };
        let groups = observed["volume_groups"].as_array().with_context(|| observed.to_string())?;
        let volumes = groups.iter().map(|group| named(&group["volumes"])).collect::<Result<Vec<_>>>()?;
        let volumes: BTreeMap<_, _> = volumes.into_iter().flatten().collect();
        let headers = named(&observed["encrypted"])?;
        let opened: Vec<&Value> = observed["encrypted"].as_array().into_iter().flatten().collect();
        let sealed = opened.iter().find(|one| one["name"] == "sealed").map(|one| one["contents"].to_string());
        ensure!(["books", "swap", "log", "sheet"].iter().all(|name| volumes.contains_key(*name)), "{observed}");
        Ok(Inside { volumes, headers, sealed: sealed.filter(|it| it.contains("ext4")).context("a filesystem in it")? })
    }

    /// How many events of this kind there were.
    fn events(&self, kind: &str) -> Result<usize> {
        let events = self.lab.controller.api()?.get("/api/v1/events?last=1000")?;
        let all = events["items"].as_array().with_context(|| events.to_string())?;
        Ok(all.iter().filter(|event| event["kind"] == kind).count())
    }

    /// Switches it off. Answers the boot that has ended.
    fn off(&self, machine: &mut Machine) -> Result<String> {
        let boot = text(&self.lab.machine()?, "/presence/boot")?.to_owned();
        self.lab.controller.muster(&["power", "off", self.name])?;
        machine.wait_off(BOOT)?;
        Ok(boot)
    }
}

/// What a reboot must not change: UUIDs by name.
#[derive(Debug, PartialEq, Eq)]
struct Inside {
    volumes: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    /// What the volume carries that the TPM opens.
    sealed: String,
}

/// The group on this partition, as LVM tells it without making its volumes appear here, and what its linear volume carries.
fn group_is_sound(partition: &str, folder: &Path) -> Result<()> {
    let lvm = |command: &str, fields: &str| {
        let options = ["--driverloaded", "n", "--devices", partition, "--noheadings", "--units", "b", "--nosuffix"];
        output(Command::new("lvm").arg(command).args(options).args(["--separator", ",", "--options", fields]))
    };
    output(Command::new("lvm").args(["vgck", "--driverloaded", "n", "--devices", partition, "rows"]))?;
    let told = lvm("lvs", "lv_name,lv_size,pool_lv,lv_layout")?;
    for (name, mib, rest) in [("log", 64_u64, ",linear"), ("sheet", 256, "pool,thin,sparse")] {
        let line = format!("{name},{},{rest}", mib << 20);
        ensure!(told.lines().any(|told| told.trim() == line), "{line} is not in {told}");
    }
    ensure!(told.contains("pool,"), "{told}");
    let number = |text: &str| text.trim().parse::<u64>().with_context(|| text.to_owned());
    let (begins, extent) = (number(&lvm("pvs", "pe_start")?)?, number(&lvm("vgs", "vg_extent_size")?)?);
    let told = lvm("lvs", "lv_name,seg_start_pe,seg_pe_ranges")?;
    let range = told.lines().filter_map(|line| line.trim().strip_prefix("log,0,")).next().context("its extents")?;
    let (_, extents) = range.rsplit_once(':').context("its extents")?;
    let (first, last) = extents.split_once('-').context("its extents")?;
    let mut bytes = vec![0; usize::try_from((number(last)? - number(first)? + 1) * extent)?];
    File::open(partition)?.read_exact_at(&mut bytes, begins + number(first)? * extent)?;
    let copy = folder.join("log.inside");
    fs::write(&copy, bytes)?;
    attached::is_sound(copy.to_str().context("UTF-8")?, "ext4")?;
    let probed = output(Command::new("blkid").args(["--probe", "--output", "export"]).arg(&copy))?;
    ensure!(probed.contains("LABEL=log"), "{probed}");
    Ok(())
}

impl Member {
    /// What the array carries, copied from one member's partition.
    fn read(&self, image: &Path, number: usize, folder: &Path) -> Result<PathBuf> {
        let mut bytes = vec![0; usize::try_from(self.data.1)?];
        File::open(image)?.read_exact_at(&mut bytes, self.start(image, number)?)?;
        let copy = folder.join(format!("{}.inside", self.name));
        fs::write(&copy, bytes)?;
        Ok(copy)
    }

    fn write(&self, copy: &Path, image: &Path, number: usize) -> Result<()> {
        let start = self.start(image, number)?;
        Ok(File::options().write(true).open(image)?.write_all_at(&fs::read(copy)?, start)?)
    }

    fn start(&self, image: &Path, number: usize) -> Result<u64> {
        let partition = disks::partitions(image)?.into_iter().nth(number - 1).context("a partition")?;
        Ok(partition.start + self.data.0)
    }
}
