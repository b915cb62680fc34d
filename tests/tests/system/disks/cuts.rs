//! Power cuts, at every write: what a machine wrote to a disk is written once more, write by write, and at each point the
//! agent of the next boot says what it would do.
//!
//! It may go on: then what it keeps is whole, and what it makes leads to what is desired. Or it may refuse: then it says what
//! is there and what helps. It never destroys anything by itself, and never keeps half of anything.
//! A write may be torn, and a disk may lose whatever was not flushed yet; so writes are done in halves too, and of what lies
//! between two flushes parts are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use muster_agent::linux::storage::apply_on;
use muster_agent::linux::storage::disks::Disks;
use muster_agent::plan::storage::{Device, Over, Step, Target, differences, plan_all};
use muster_protocol::desired::{
    self, DiskSelect, Entry, Existing, Format, Partition, Place, Presence, Resize, Storage, Table, Use,
};
use muster_protocol::inventory::{Attachment, Medium, Transport};
use muster_protocol::observed::{self, Contents, Observed};
use muster_tests::artifacts::output;
use muster_tests::attached::Attached;
use muster_tests::qemu::Disk;
use muster_tests::writes::{What, Write, Writes};

const MIB: u64 = 1 << 20;
/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// A blank disk is divided, and gets four kinds of what disks carry.
const FIRST: &str = "storage:
  disks:
    - device: serial:LOGGED
      partitions:
        - {number: 1, label: esp, size_mib: 64}
        - {number: 2, label: swap, size_mib: 64}
        - {number: 3, label: system, size_mib: 128}
        - {number: 4, label: data, size_mib: 320}
  filesystems:
    - {device: /dev/disk/by-partlabel/esp, format: vfat, label: ESP, with_mount_unit: false}
    - {device: /dev/disk/by-partlabel/swap, format: swap, label: swap, with_mount_unit: false}
    - {device: /dev/disk/by-partlabel/system, format: ext4, label: system, with_mount_unit: false}
    - {device: /dev/disk/by-partlabel/data, format: xfs, label: data, with_mount_unit: false}
";

/// One partition goes, under a permit, one grows, one comes; two stay as they are.
const SECOND: &str = "storage:
  disks:
    - device: serial:LOGGED
      partitions:
        - {number: 1, label: esp, size_mib: 64}
        - {number: 2, should_exist: false, wipe_partition_entry: true}
        - {number: 3, label: system, size_mib: 128}
        - {number: 4, label: data, size_mib: 400, resize: true}
        - {number: 5, label: more, size_mib: 200}
  filesystems:
    - {device: /dev/disk/by-partlabel/esp, format: vfat, label: ESP, with_mount_unit: false}
    - {device: /dev/disk/by-partlabel/system, format: ext4, label: system, with_mount_unit: false}
    - {device: /dev/disk/by-partlabel/data, format: xfs, label: data, with_mount_unit: false}
    - {device: /dev/disk/by-partlabel/more, format: btrfs, label: more, with_mount_unit: false}
";

/// What the second document may not touch: the first byte, and the first one behind.
const KEPT: [(u64, u64); 3] = [(MIB, 65 * MIB), (129 * MIB, 257 * MIB), (257 * MIB, 577 * MIB)];

/// A copy of the disk as one power cut left it.
const STOPPED: &str = "stopped.img";

/// What a machine wrote while both documents were applied to a blank disk.
pub struct Log {
    path: PathBuf,
    disk: Disk,
    /// Where the log of the first document ends.
    between: u64,
}

impl Log {
    /// Applies both to the disk, which is logged.
    pub fn make(disk: &Disk, folder: &Path, apply: impl Fn(&str) -> Result<()>) -> Result<Self> {
        apply(FIRST)?;
        let between = fs::metadata(disk.log(folder))?.len();
        apply(SECOND)?;
        Ok(Self { path: disk.log(folder), disk: disk.clone(), between })
    }

    /// Applies the first document to what [`Self::check`] has left.
    pub fn go_on(apply: impl Fn(&str) -> Result<()>) -> Result<()> {
        apply(FIRST)
    }

    /// Finds what was gone on with whole.
    pub fn check_whole(&self) -> Result<()> {
        let attached = Attached::new(&self.path.with_extension("img"), 512)?;
        attached.table()?;
        [(1, "vfat"), (2, "swap"), (3, "ext4"), (4, "xfs")]
            .iter()
            .try_for_each(|(n, format)| attached.is_sound(*n, format))
    }

    /// See the module. Leaves in place of the disk what it was like when the XFS alone was still to be made.
    pub fn check(&self) -> Result<()> {
        // In memory, where every copy is made at once and nothing waits for a medium.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let writes = Writes::read(&self.path)?;
        let second = writes.all.iter().position(|write| write.end > self.between).context("a second document")?;
        for write in &writes.all[second..] {
            let is_over = |&&(start, end): &&(u64, u64)| write.start < end && start < write.start + write.size;
            ensure!(KEPT.iter().find(is_over).is_none(), "{write:?} goes to what stays");
        }
        let mut replay = Replay::new(folder.path(), self.disk.size_mib * MIB, &writes)?;
        replay.part(&first(), 0..second)?;
        replay.part(&self::second(), second..writes.all.len())?;
        let disk = self.path.with_extension("img");
        output(Command::new("cp").arg("--sparse=always").arg(folder.path().join(STOPPED)).arg(disk))?;
        let Seen { points, kept, plans, refusals } = &replay.seen;
        println!("{points} power cuts: {kept} times something was there that is kept, {} plans:", plans.len());
        plans.iter().for_each(|(plan, count)| println!("{count:4} {plan}"));
        refusals.iter().for_each(|(why, count)| println!("{count:4} refused: {why}"));
        ensure!(*points > 300 && *kept > 200 && plans.len() > 7, "the log shows too little: {points} points");
        Ok(())
    }
}

/// A disk that is written once more.
struct Replay<'a> {
    writes: &'a Writes,
    folder: &'a Path,
    image: PathBuf,
    size: u64,
    /// Whether a table was there before the document.
    is_divided: bool,
    /// Partitions whose filesystem was found sound as it is now.
    sound: BTreeSet<u32>,
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    points: usize,
    kept: usize,
    /// What is planned, in words, and how often.
    plans: BTreeMap<String, usize>,
    refusals: BTreeMap<String, usize>,
}

impl<'a> Replay<'a> {
    fn new(folder: &'a Path, size: u64, writes: &'a Writes) -> Result<Self> {
        let image = folder.join("replayed.img");
        File::create(&image)?.set_len(size)?;
        Ok(Self { writes, folder, image, size, is_divided: false, sound: BTreeSet::new(), seen: Seen::default() })
    }

    /// The writes of one document, which the machine is given again after the power cut.
    fn part(&mut self, desired: &Storage, range: std::ops::Range<usize>) -> Result<()> {
        let disk = File::options().read(true).write(true).open(&self.image)?;
        let all = &self.writes.all[range.clone()];
        self.judge(desired, None, &[], "before the first write")?;
        for (i, write) in all.iter().enumerate() {
            let name = format!("write {} {write:?}", range.start + i);
            // The window that begins after a flush: without its first writes, with its last one alone, with every other one.
            if i == 0 || all[i - 1].what == What::Flush {
                let len = all[i..].iter().position(|write| write.what == What::Flush).unwrap_or(all.len() - i);
                let window = &all[i..i + len];
                let subsets: [fn(usize, usize) -> bool; 3] =
                    [|at, len| at >= len / 2, |at, len| at + 1 == len, |at, _| at % 2 == 1];
                for subset in subsets.into_iter().filter(|_| len > 1) {
                    let done: Vec<Write> =
                        window.iter().enumerate().filter(|(at, _)| subset(*at, len)).map(|(_, write)| *write).collect();
                    self.judge_copy(desired, &done, &format!("a part of the window of {name}"))?;
                }
            }
            for half in halves(write) {
                self.judge_copy(desired, &[half], &format!("half of {name}"))?;
            }
            self.writes.replay(write, &disk)?;
            if write.what != What::Flush {
                self.judge(desired, None, &[*write], &name)?;
            }
        }
        let last = look(&self.image, self.size, |disks| Ok(differences(desired, &seen(disks)?)))?;
        ensure!(last.is_empty(), "all of it was written: {last:?}");
        self.is_divided = true;
        Ok(())
    }

    /// The same of a copy to which these were done.
    fn judge_copy(&mut self, desired: &Storage, done: &[Write], when: &str) -> Result<()> {
        let copy = self.copy_of(&self.image, "cut.img")?;
        let file = File::options().write(true).open(&copy)?;
        done.iter().try_for_each(|write| self.writes.replay(write, &file))?;
        self.judge(desired, Some(&copy), done, when)
    }

    /// What the agent of the next boot makes of the disk, or of a copy of it, to which these were done since it was judged.
    fn judge(&mut self, desired: &Storage, copy: Option<&Path>, done: &[Write], when: &str) -> Result<()> {
        self.seen.points += 1;
        let image = copy.unwrap_or(&self.image).to_owned();
        let image = image.as_path();
        let (planned, there) = look(image, self.size, |disks| {
            let mut now = seen(disks)?;
            Ok((plan_all(desired, &now), now.disks.remove(0).partitions))
        })?;
        let is_done = |number: &u32| {
            let place = there.iter().find(|partition| partition.number == *number);
            let end = |partition: &observed::Partition| partition.start_bytes + partition.size_bytes;
            place.is_none_or(|p| done.iter().any(|w| w.start < end(p) && p.start_bytes < w.start + w.size))
        };
        let sound: BTreeSet<u32> = self.sound.iter().copied().filter(|number| !is_done(number)).collect();
        if copy.is_none() {
            self.sound.clone_from(&sound);
        }
        let steps = match planned {
            Ok(steps) => steps,
            Err(refused) => {
                let why = refused.to_string();
                let helps = ["wipe_filesystem: true", "wipe_table: true", "wipe_partition_entry: true"];
                ensure!(helps.iter().any(|what| why.contains(what)), "{when}: no remedy: {why}");
                // A table that had been there is there still, at one of its places, and the remedy brings it back.
                if why.contains("a damaged GPT") && self.is_divided {
                    let copy = self.copy_of(image, "repaired.img")?;
                    output(Command::new("sgdisk").arg("--move-second-header").arg(&copy))?;
                    let again = look(&copy, self.size, |disks| Ok(plan_all(desired, &seen(disks)?)))?;
                    again.with_context(|| format!("{when}: repaired"))?;
                }
                // The disk is called as it is here.
                let what = why.split_once(" carries ").map_or(why.as_str(), |(_, what)| what).to_owned();
                *self.seen.refusals.entry(what).or_default() += 1;
                return Ok(());
            }
        };
        let in_words = steps.iter().map(|step| step.describe().action).collect::<Vec<_>>().join("; ");
        // The second document's permit was for the disk as it was, and is not given again.
        let gone = |step: &Step| matches!(step, Step::Edit { deleted, .. } if *deleted == [2]);
        ensure!(steps.iter().all(|step| !step.is_destructive() || gone(step)), "{when}: {in_words}");
        let made: BTreeSet<u32> = steps.iter().filter_map(made).collect();
        let is_divided = steps.iter().any(|step| matches!(step, Step::Partition { .. }));
        let kept = there.iter().filter_map(|partition| match &partition.contents {
            Contents::Filesystem(found) if !is_divided && !made.contains(&partition.number) => {
                Some((partition.number, found.kind.as_str()))
            }
            _ => None,
        });
        let kept: Vec<(u32, &str)> = kept.collect();
        self.seen.kept += kept.len();
        let changed: Vec<_> = kept.into_iter().filter(|(number, _)| !sound.contains(number)).collect();
        if !changed.is_empty() {
            let attached = Attached::new(image, 512)?;
            for &(number, format) in &changed {
                attached.is_sound(number, format).with_context(|| format!("{when}: {format} is kept"))?;
            }
        }
        if copy.is_none() {
            self.sound.extend(changed.iter().map(|(number, _)| *number));
        }
        let stopped = self.folder.join(STOPPED);
        if !is_divided && made == BTreeSet::from([4]) && !stopped.exists() {
            self.copy_of(image, STOPPED)?;
        }
        let is_new = !self.seen.plans.contains_key(&in_words);
        *self.seen.plans.entry(in_words).or_default() += 1;
        if is_new {
            let copy = self.copy_of(image, "gone-on-with.img")?;
            look(&copy, self.size, |disks| {
                for step in &steps {
                    apply_on(disks, step, &mut |_| {})
                        .with_context(|| format!("{when}: {}", step.describe().action))?;
                }
                let left = differences(desired, &seen(disks)?);
                ensure!(left.is_empty(), "{when}: there is left {left:?}");
                Ok(())
            })?;
            let attached = Attached::new(&copy, 512)?;
            attached.table()?;
            made.iter().try_for_each(|&number| {
                let format = attached.probe(number)?.remove("TYPE").context("it was made")?;
                attached.is_sound(number, &format)
            })?;
        }
        Ok(())
    }

    fn copy_of(&self, image: &Path, name: &str) -> Result<PathBuf> {
        let copy = self.folder.join(name);
        output(Command::new("cp").arg("--sparse=always").arg(image).arg(&copy))?;
        Ok(copy)
    }
}

fn made(step: &Step) -> Option<u32> {
    match step {
        Step::Format { on: Over { on: Target { device: Device::Partition { slot, .. }, .. }, .. }, .. } => {
            Some(slot.number)
        }
        _ => None,
    }
}

/// The first and the second half of what one write brings; none of one sector.
fn halves(write: &Write) -> Vec<Write> {
    let half = write.size / (2 * SECTOR) * SECTOR;
    match write.what {
        What::Data(at) if half > 0 => vec![
            Write { size: half, ..*write },
            Write { what: What::Data(at + half), start: write.start + half, size: write.size - half, ..*write },
        ],
        _ => vec![],
    }
}

/// The disk as an agent has it.
fn look<T>(image: &Path, size_bytes: u64, work: impl FnOnce(&Disks) -> Result<T>) -> Result<T> {
    let attached = Attached::new(image, 512)?;
    let run = tempfile::tempdir()?;
    let disk = muster_protocol::inventory::Disk {
        name: attached.device().trim_start_matches("/dev/").into(),
        size_bytes,
        logical_sector: 512,
        physical_sector: 512,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Virtio,
        model: String::new(),
        serial: Some("LOGGED".into()),
        wwn: None,
    };
    work(&Disks::given(vec![disk], run.path()))
}

fn seen(disks: &Disks) -> Result<Observed> {
    let disks = disks.observe()?;
    if let Some(held) = disks.iter().find(|disk| !disk.held.is_empty()) {
        bail!("{}", held.held);
    }
    Ok(Observed { disks, ..Observed::default() })
}

/// What [`FIRST`] says.
fn first() -> Storage {
    let partition = |(number, label, size)| Partition::new(number, label, Some(size));
    let partitions = [(1, "esp", 64), (2, "swap", 64), (3, "system", 128), (4, "data", 320)].map(partition);
    let filesystems =
        [(0, Format::Vfat, "ESP"), (1, Format::Swap, "swap"), (2, Format::Ext4, "system"), (3, Format::Xfs, "data")];
    storage(partitions.to_vec(), &filesystems)
}

/// What [`SECOND`] says.
fn second() -> Storage {
    let partition = |(number, label, size)| Partition::new(number, label, Some(size));
    let mut partitions =
        [(1, "esp", 64), (2, "", 0), (3, "system", 128), (4, "data", 400), (5, "more", 200)].map(partition);
    partitions[1] = Partition { presence: Presence::Absent, entry: Entry::Replace, ..Partition::new(2, "", None) };
    partitions[3].resize = Resize::Grow;
    let filesystems =
        [(0, Format::Vfat, "ESP"), (2, Format::Ext4, "system"), (3, Format::Xfs, "data"), (4, Format::Btrfs, "more")];
    storage(partitions.to_vec(), &filesystems)
}

fn storage(partitions: Vec<Partition>, filesystems: &[(u16, Format, &str)]) -> Storage {
    let filesystem = |&(partition, format, label): &(u16, Format, &str)| desired::Filesystem {
        place: Place::Partition { disk: 0, partition },
        format,
        label: label.into(),
        uuid: None,
        options: vec![],
        used: Use::Later,
        existing: Existing::Keep,
    };
    let select = DiskSelect::Id("serial:LOGGED".parse().expect("a disk id"));
    Storage {
        disks: vec![desired::Disk { select, table: Table::Keep, partitions }],
        filesystems: filesystems.iter().map(filesystem).collect(),
        ..Storage::default()
    }
}
