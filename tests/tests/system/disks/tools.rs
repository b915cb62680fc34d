//! The tools that a machine fetches when a plan needs them: those that belong to what it booted, and no others.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use muster_ipxe::image::{self, tools};
use muster_tests::lab::{self, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, Machine};
use muster_tests::{artifacts, disks, eventually};

/// A machine with as little memory as is promised to do. Changed, cut short, or gone: refused, and not a byte is written.
#[test]
fn a_small_machine_takes_the_tools_of_its_image_and_no_others_and_writes_nothing_before() -> Result<()> {
    let lab = Lab::serving("tools", |folder| {
        let images = folder.join("images");
        copy(&artifacts::image()?, &images)?;
        Ok(images)
    })?;
    let images = lab.folder.join("images");
    let manifest = image::read(&images)?;
    let file = images.join(tools::FOLDER).join(&manifest.tools.image.sha256);
    let right = std::fs::read(&file)?;

    let mut spec = lab::machine(Firmware::Bios, Boot::Network)?;
    spec.memory_mib = 192;
    let (cmdline, kernel, initramfs) = (lab.command_line(&spec)?, images.join("kernel"), images.join("initramfs"));
    spec.boot = Boot::Kernel { kernel, initramfs, cmdline };
    let folder = lab.folder.join("machine");
    let machine = Machine::start(&spec, &folder)?;
    let approved = lab.admit()?;
    let name = text(&approved, "/name")?;

    let disk = &spec.disks[0];
    let image = disk.path(&folder);
    let document = lab.folder.join("data.yaml").display().to_string();
    std::fs::write(
        &document,
        format!(
            "storage:\n  disks:\n    - device: /dev/disk/by-id/virtio-{}\n      \
             partitions: [{{number: 1, label: data, size_mib: 256}}]\n  filesystems:\n    \
             - {{device: /dev/disk/by-partlabel/data, path: /srv/data, format: ext4, label: data}}\n",
            disk.serial
        ),
    )?;
    let plan = lab.controller.muster(&["plan", "-m", name, "-f", &document])?;
    let first = plan.lines().find(|line| line.contains("fetch the storage tools")).context("it is fetched first")?;
    ensure!(first.starts_with("1. ") && first.ends_with("MiB in memory"), "{plan}");

    let mut changed = right.clone();
    changed[right.len() / 2] ^= 1;
    for (bytes, says) in [
        (Some(&changed[..]), "make the image anew with muster image build, and reboot"),
        (Some(&right[..right.len() - 4096]), "and the image of this machine names"),
        (None, "this machine booted an older image; reboot it"),
    ] {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes)?,
            None => std::fs::remove_file(&file)?,
        }
        let said = lab.controller.refusal(&["apply", "-m", name, "-f", &document])?;
        ensure!(said.contains(says) && said.contains("nothing was written"), "{said}");
        let data = disks::first_data(&image)?;
        ensure!(data.is_none(), "the disk carries data at byte {data:?}");
    }

    // What a machine booted before is served still.
    std::fs::write(&file, &right)?;
    lab.controller.muster(&["apply", "-m", name, "-f", &document])?;
    let partitions = eventually(SOON, "the image carries a GPT", || disks::partitions(&image))?;
    let names: Vec<_> = partitions.iter().map(|partition| partition.name.as_str()).collect();
    ensure!(names == ["data"], "one partition: {partitions:?}");

    // They are there for the rest of the boot.
    let other = std::fs::read_to_string(&document)?.replace("label: data}", "label: other}");
    let other = other
        .replace("format: ext4", "wipe_filesystem: true, format: ext4")
        .replace("by-partlabel/other", "by-partlabel/data");
    std::fs::write(&document, other)?;
    let plan = lab.controller.muster(&["plan", "-m", name, "-f", &document])?;
    ensure!(plan.contains("ext4") && !plan.contains("fetch"), "{plan}");
    drop(machine);
    Ok(())
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &place)?,
            false => drop(std::fs::copy(entry.path(), place)?),
        }
    }
    Ok(())
}
