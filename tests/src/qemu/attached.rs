//! A disk image as a block device of this host: what is on it is asked of the formats' own programs, and its filesystems
//! are mounted, while no machine runs on it.
//!
//! Needs root and loop devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::artifacts::output;

/// Lets go of the device when it is dropped.
#[derive(Debug)]
pub struct Attached {
    device: String,
    image: PathBuf,
}

impl Attached {
    /// The image with sectors of so many bytes.
    pub fn new(image: &Path, sector: u32) -> Result<Self> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--partscan", "--sector-size", &sector.to_string()]).arg(image);
        let attached = Self { device: output(&mut losetup)?.trim().to_owned(), image: image.to_owned() };
        // Not every kernel reads a GPT; one that does knows them already, and where there is no table there are none.
        let _ = Command::new("partx").args(["--add", &attached.device]).output();
        Ok(attached)
    }

    /// The whole disk.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// One of its partitions.
    pub fn partition(&self, number: u32) -> String {
        format!("{}p{number}", self.device)
    }

    /// What sfdisk tells of its table, once it has found no error in it: `--dump`, one line a partition.
    pub fn table(&self) -> Result<String> {
        let verdict = output(Command::new("sfdisk").args(["--verify", &self.device]))?;
        ensure!(verdict.contains("No errors detected"), "sfdisk about {}: {}", self.image.display(), verdict.trim());
        let verdict = output(Command::new("sgdisk").args(["--verify", &self.device]))?;
        ensure!(verdict.contains("No problems found"), "sgdisk about {}: {}", self.image.display(), verdict.trim());
        output(Command::new("sfdisk").args(["--dump", &self.device]))
    }

    /// What blkid reads from a partition, by its own names: TYPE, LABEL, UUID.
    pub fn probe(&self, number: u32) -> Result<BTreeMap<String, String>> {
        let text = output(Command::new("blkid").args(["--probe", "--output", "export", &self.partition(number)]))?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The format's own program finds no fault with what a partition carries.
    pub fn is_sound(&self, number: u32, format: &str) -> Result<()> {
        is_sound(&self.partition(number), format).with_context(|| self.image.display().to_string())
    }

    /// Has somebody work in the filesystem of a partition.
    pub fn mounted(&self, number: u32, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let folder = tempfile::tempdir()?;
        output(Command::new("mount").arg(self.partition(number)).arg(folder.path()))?;
        let done = work(folder.path());
        output(Command::new("umount").arg(folder.path()))?;
        done
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Whoever fails has told why; a device that stays is seen by `losetup`.
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// Checks a filesystem or swap area that nobody uses, and changes nothing.
pub fn is_sound(device: &str, format: &str) -> Result<()> {
    let checked = match format {
        "ext4" => output(Command::new("e2fsck").args(["-f", "-n", device])),
        "xfs" => output(Command::new("xfs_repair").args(["-n", device])),
        "btrfs" => output(Command::new("btrfs").args(["check", device])),
        "vfat" => output(Command::new("fsck.vfat").args(["-n", device])),
        "swap" => output(Command::new("swaplabel").arg(device)),
        other => bail!("nobody checks {other}"),
    };
    checked.map(drop)
}
