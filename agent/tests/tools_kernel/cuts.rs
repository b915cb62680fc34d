//! Power cuts in the middle of mdadm, cryptsetup, vgcreate, lvcreate, vgextend and lvextend: all that they write to a disk is
//! logged by dm-log-writes, and written once more up to some flushes of each, whole or without the first half of what was not
//! flushed. At each of these points the next boot's agent plans, and destroys nothing, or refuses with what helps; and from one
//! or two points in each program it goes on until what that program makes is as desired, and what was kept in it is there.
//! What the agent and mke2fs write themselves is cut on a machine (`disks/shapes.rs` of the system tests).
//!
//! All of it is on one disk, whose writes have one order: a mirror of two of its partitions, and beside it a group in an
//! encrypted partition, which gets another one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use muster_agent::linux::modules;
use muster_agent::linux::storage::apply_with;
use muster_agent::linux::storage::disks::Disks;
use muster_agent::linux::storage::layers::keys::Keys;
use muster_agent::machine::{MachineError, chain};
use muster_agent::plan::storage::{Step, plan_all};
use muster_protocol::DiskKey;
use muster_protocol::desired::{
    self, DiskSelect, Existing, Key, LogicalVolume, Luks, Partition, Place, Raid, RaidLevel, Storage, Table,
    VolumeGroup, VolumeKind, VolumeSize,
};
use muster_protocol::inventory::{Attachment, Disk, Medium, Transport};
use muster_protocol::observed::Observed;
use rustix::fs::{SeekFrom, seek};

use super::layers::{Done, MIB, run};
use super::mounted;

const UUID: [u8; 16] = [0x6c; 16];
const SIZE: u64 = 76 * MIB;
const SECTOR: u64 = 512;
/// What is kept in the volume, and where.
const PAGE: [u8; 4096] = [0x70; 4096];
const PAGE_AT: u64 = 9 * MIB;

/// A step that runs a program which writes in several places.
struct Program {
    /// How its description begins.
    step: &'static str,
    /// What it makes is seen from outside, and not only when the volume is open that it lies in.
    is_seen: bool,
}

const PROGRAMS: [Program; 6] = [
    Program { step: "make_the_raid1", is_seen: true },
    Program { step: "encrypt", is_seen: true },
    Program { step: "make_the_volume_group", is_seen: false },
    Program { step: "make_the_logical", is_seen: false },
    Program { step: "extend", is_seen: true },
    Program { step: "grow_/dev/office", is_seen: true },
];

/// Of a program's writes, so many places are cut.
const CUTS: usize = 4;

/// What is desired one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// A mirror.
    Pair,
    /// An encrypted partition.
    Vault,
    /// A group in it.
    Office,
    /// With a volume.
    Books,
    /// The group has another partition, and the volume has all of it.
    Wider,
}

const STAGES: [Stage; 5] = [Stage::Pair, Stage::Vault, Stage::Office, Stage::Books, Stage::Wider];

fn document(stage: Stage) -> Storage {
    let partition = |(number, label, size)| Partition::new(number, label, Some(size));
    let partitions = [(1, "one", 12), (2, "two", 12), (3, "safe", 40), (4, "more", 8)].map(partition).to_vec();
    let on = |partition| Place::Partition { disk: 0, partition };
    let mut members = vec![Place::Luks(0)];
    members.extend((stage == Stage::Wider).then(|| on(3)));
    let size = if stage == Stage::Wider { VolumeSize::Rest } else { VolumeSize::Mib(16) };
    let books = LogicalVolume { name: "books".into(), kind: VolumeKind::Linear, size };
    let pair = Raid {
        name: "pair".into(),
        level: RaidLevel::Raid1,
        members: vec![on(0), on(1)],
        spares: 0,
        options: vec![],
        existing: Existing::Keep,
    };
    let vault = Luks {
        name: "vault".into(),
        place: on(2),
        label: "safe".into(),
        uuid: Some(UUID),
        key: Key::Controller,
        discard: false,
        options: vec!["--key-size=256".into()],
        existing: Existing::Keep,
    };
    let office = VolumeGroup {
        name: "office".into(),
        members,
        extent_mib: 1,
        volumes: (stage >= Stage::Books).then_some(books).into_iter().collect(),
        existing: Existing::Keep,
    };
    Storage {
        disks: vec![desired::Disk {
            select: DiskSelect::Id("serial:LOGGED".parse().expect("a disk id")),
            table: Table::Keep,
            partitions,
        }],
        raid: (stage == Stage::Pair).then_some(pair).into_iter().collect(),
        luks: (stage >= Stage::Vault).then_some(vault).into_iter().collect(),
        groups: (stage >= Stage::Office).then_some(office).into_iter().collect(),
        ..Storage::default()
    }
}

/// A machine with one disk, the loop device `name`, after a boot.
struct Machine {
    disks: Disks,
    keys: Keys,
}

impl Machine {
    fn new(name: &str, run: &Path) -> Self {
        let disk = Disk {
            name: name.into(),
            size_bytes: SIZE,
            logical_sector: 512,
            physical_sector: 512,
            medium: Medium::SolidState,
            attachment: Attachment::Fixed,
            transport: Transport::Virtio,
            model: "loop".into(),
            serial: Some("LOGGED".into()),
            wwn: None,
        };
        let keys = Keys::default();
        keys.keep("vault", UUID, DiskKey::new([9; 32]));
        Self { disks: Disks::given(vec![disk], run), keys }
    }

    fn plan(&self, desired: &Storage) -> Result<Vec<Step>, String> {
        let (disks, layers) = self.disks.observe_all().done("observed");
        plan_all(desired, &Observed { disks, layers, ..Observed::default() }).map_err(|why| why.to_string())
    }

    fn apply(&self, step: &Step) -> Result<(), MachineError> {
        apply_with(&self.disks, &self.keys, step, &mut |_| {})
    }

    /// Plans, which destroys nothing.
    ///
    /// Errors: why it is refused.
    fn judge(&self, desired: &Storage, when: &str) -> Result<Vec<Step>, String> {
        let steps = self.plan(desired)?;
        let destroys = steps.iter().find(|step| step.is_destructive());
        assert!(destroys.is_none(), "{when}: {destroys:?}");
        Ok(steps)
    }

    /// Applies until nothing is left to do, as an operator would who is told to apply again.
    ///
    /// Errors: why it is refused.
    fn go_on(&self, desired: &Storage, when: &str) -> Result<(), String> {
        let mut why = String::new();
        for _ in 0..6 {
            let steps = self.judge(desired, when)?;
            if steps.is_empty() {
                return Ok(());
            }
            for step in &steps {
                let action = step.describe().action;
                match self.apply(step) {
                    Ok(()) => {}
                    // What was hidden in a layer may not be what was hoped for.
                    Err(error @ MachineError::Changed { .. }) => {
                        why = format!("{action}: {}", chain(&error));
                        assert!(why.contains("apply again"), "{when}: {why}");
                        break;
                    }
                    Err(error) => panic!("{when}: {action}: {}", chain(&error)),
                }
            }
        }
        panic!("{when}: it comes to no end: {why}");
    }
}

/// All that stands on the disk is taken down, whatever it is.
fn take_down() {
    let quietly = |program: &str, args: &[&str]| {
        let _ = muster_agent::linux::tools::command(program).expect("it is there").args(args).output();
    };
    // The volume first, then what it lies in.
    for _ in 0..2 {
        quietly("dmsetup", &["remove_all"]);
    }
    let running =
        fs::read_dir("/sys/block").expect("sysfs").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in running.filter(|name| name.starts_with("md")) {
        quietly("mdadm", &["--stop", "--quiet", &format!("/dev/{name}")]);
    }
    // Names that a reboot leaves nothing of.
    for folder in ["/dev/office", "/dev/md"] {
        let _ = fs::remove_dir_all(folder);
    }
}

/// One write in the log: first byte, bytes, and where they lie in the log; or a flush.
#[derive(Debug, Clone, Copy)]
enum Write {
    Data { start: u64, size: u64, at: u64 },
    Gone { start: u64, size: u64 },
    Flush,
}

/// What dm-log-writes has logged, and after how many writes each mark stands. Its format is in the kernel's
/// Documentation/admin-guide/device-mapper/log-writes.rst.
fn read_log(log: &File) -> (Vec<Write>, Vec<(String, usize)>) {
    let number = |at: u64| {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at).expect("read");
        u64::from_le_bytes(bytes)
    };
    assert_eq!(number(0), 0x006a_7366_7773_6872, "a log of writes");
    let (mut writes, mut marks, mut at) = (Vec::new(), Vec::new(), SECTOR);
    for _ in 0..number(16) {
        let [sector, sectors, flags, len] = [0, 8, 16, 24].map(|field| number(at + field));
        let (start, size) = (sector * SECTOR, sectors * SECTOR);
        let data = at + SECTOR;
        at = data;
        if flags & 8 != 0 {
            // The text of a mark stands in the block of its entry.
            let mut text = vec![0; len as usize];
            log.read_exact_at(&mut text, data - SECTOR + 32).expect("read");
            let text = String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
            marks.push((text, writes.len()));
            continue;
        }
        // A flush that comes with data is before it.
        if flags & 1 != 0 {
            writes.push(Write::Flush);
        }
        if flags & 4 != 0 {
            writes.push(Write::Gone { start, size });
        } else if size > 0 {
            writes.push(Write::Data { start, size, at: data });
            at += size;
        }
    }
    (writes, marks)
}

fn replay(log: &File, writes: &[Write], disk: &File) {
    for write in writes {
        let (bytes, start) = match *write {
            Write::Data { start, size, at } => {
                let mut bytes = vec![0; size as usize];
                log.read_exact_at(&mut bytes, at).expect("read");
                (bytes, start)
            }
            Write::Gone { start, size } => (vec![0; size as usize], start),
            Write::Flush => continue,
        };
        disk.write_all_at(&bytes, start).expect("written");
    }
}

/// A copy of what a disk has by now, which takes no more room.
fn copy(from: &File, to: &Path) {
    let copy = File::create(to).expect("a file");
    copy.set_len(SIZE).expect("a sparse file");
    let mut at = 0;
    while let Ok(begin) = seek(from, SeekFrom::Data(at)) {
        at = seek(from, SeekFrom::Hole(begin)).expect("it ends");
        let mut bytes = vec![0; (at - begin) as usize];
        from.read_exact_at(&mut bytes, begin).expect("read");
        copy.write_all_at(&bytes, begin).expect("written");
    }
}

/// Where the power is cut in a step: what comes before the first number is flushed, and what comes between the two is not.
/// The step's first flush and its end are among them.
fn cuts(writes: &[Write], begin: usize, end: usize) -> Vec<(usize, usize)> {
    let (mut all, mut flushed) = (Vec::new(), begin);
    for (at, write) in writes.iter().enumerate().take(end).skip(begin) {
        if matches!(write, Write::Flush) {
            all.extend((at > flushed).then_some((flushed, at)));
            flushed = at + 1;
        }
    }
    all.extend((end > flushed).then_some((flushed, end)));
    let last = all.len() - 1;
    let mut chosen: Vec<_> = (0..CUTS).map(|n| last * n / (CUTS - 1)).collect();
    chosen.dedup();
    chosen.into_iter().map(|n| all[n]).collect()
}

fn attach(options: &[&str], file: &str) -> String {
    run("losetup", &[&["--find", "--show"], options, &[file]].concat()).trim().to_owned()
}

/// Has all of it made on a disk whose writes are logged.
fn make_logged(folder: &Path, log: &Path) {
    let image = folder.join("image");
    for (file, size) in [(&*image, SIZE), (log, 2 * SIZE)] {
        File::create(file).expect("a file").set_len(size).expect("a sparse file");
    }
    let [below, logged] = [&*image, log].map(|file| attach(&[], file.to_str().expect("UTF-8")));
    let table = format!("0 {} log-writes {below} {logged}", SIZE / SECTOR);
    run("dmsetup", &["create", "--noudevsync", "logged", "--table", &table]);
    // Past the page cache: what is not flushed is in the log in the order in which it was written.
    let disk = attach(&["--direct-io=on"], "/dev/mapper/logged");
    let machine = Machine::new(disk.trim_start_matches("/dev/"), &folder.join("run"));
    for (number, stage) in STAGES.into_iter().enumerate() {
        if stage == Stage::Wider {
            let volume = File::options().write(true).open("/dev/office/books").expect("it is there");
            volume.write_all_at(&PAGE, PAGE_AT).and_then(|()| volume.sync_all()).expect("written");
        }
        let desired = document(stage);
        for step in machine.plan(&desired).expect("a plan") {
            let action = step.describe().action;
            run("dmsetup", &["message", "logged", "0", "mark", &format!("{number}_{}", action.replace(' ', "_"))]);
            machine.apply(&step).done(&action);
        }
    }
    take_down();
    run("losetup", &["--detach", &disk]);
    run("dmsetup", &["remove", "--noudevsync", "logged"]);
    [logged, below].iter().for_each(|device| drop(run("losetup", &["--detach", device])));
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn what_was_cut_while_it_was_made_or_extended_is_gone_on_with_or_refused_with_what_helps() {
    mounted();
    ["loop", "dm_mod", "dm_log_writes"].iter().for_each(|module| modules::load(module).done(module));
    let folder = tempfile::tempdir().expect("a folder");
    let [log, disk, cut] = ["log", "disk", "cut"].map(|name| folder.path().join(name));
    make_logged(folder.path(), &log);
    let log = File::open(&log).expect("the log");
    let (writes, marks) = read_log(&log);

    // Each write goes to this disk once, in its order.
    File::create(&disk).and_then(|file| file.set_len(SIZE)).expect("a sparse file");
    let file = File::options().read(true).write(true).open(&disk).expect("a file");
    let attached = attach(&[], disk.to_str().expect("UTF-8"));
    let machine = Machine::new(attached.trim_start_matches("/dev/"), &folder.path().join("run"));
    let go_on = |stage, when: &str| -> Result<(), String> {
        copy(&file, &cut);
        let attached = attach(&[], cut.to_str().expect("UTF-8"));
        let run_folder = tempfile::tempdir().expect("a folder");
        let next = Machine::new(attached.trim_start_matches("/dev/"), run_folder.path());
        let outcome = next.go_on(&document(stage), when);
        if outcome.is_ok() && stage == Stage::Wider {
            let mut page = [0; PAGE.len()];
            let volume = File::open("/dev/office/books").expect("it is there");
            volume.read_exact_at(&mut page, PAGE_AT).expect("read");
            assert!(page == PAGE, "{when}: what was kept is not there");
        }
        take_down();
        run("losetup", &["--detach", &attached]);
        outcome
    };
    let (mut replayed, mut gone_on, mut refused) = (0, BTreeSet::new(), Vec::new());
    let ends = marks.iter().skip(1).map(|(_, at)| *at).chain([writes.len()]);
    for ((mark, begin), end) in marks.iter().zip(ends) {
        let Some((number, action)) = mark.split_once('_') else { continue };
        let Some(program) = PROGRAMS.iter().find(|program| action.starts_with(program.step)) else { continue };
        let stage = STAGES[number.parse::<usize>().expect("a number")];
        let cuts = cuts(&writes, *begin, end);
        for (turn, &(flushed, to)) in cuts.iter().enumerate() {
            let when = format!("write {to} of {begin} to {end} in {action}");
            // The disk has lost half of what came after the last flush.
            replay(&log, &writes[replayed..flushed], &file);
            replay(&log, &writes[flushed + (to - flushed) / 2..to], &file);
            let mut outcome = if program.is_seen { machine.judge(&document(stage), &when).map(drop) } else { Ok(()) };
            if outcome.is_ok() && turn + 1 == cuts.len() {
                outcome = go_on(stage, &when);
                gone_on.extend(outcome.is_ok().then_some(program.step));
            }
            if let Err(why) = outcome {
                assert!(why.contains("wipe_"), "{when}: no remedy: {why}");
                refused.push(format!("{when}: {why}"));
            }
            replay(&log, &writes[flushed..to], &file);
            replayed = to;
            // And where it has lost nothing.
            if turn == 0 && !program.is_seen {
                go_on(stage, &when).unwrap_or_else(|why| panic!("{when}: {why}"));
                gone_on.insert(program.step);
            }
        }
    }
    refused.iter().for_each(|refusal| println!("refused: {refusal}"));
    assert_eq!(gone_on.len(), PROGRAMS.len(), "{gone_on:?} of {marks:?}; {refused:#?}");
    // cryptsetup writes over where keys will lie before anything tells whose it is, and LVM says where its text lies without
    // waiting for that: what is left then is nobody's that Muster knows.
    assert!(refused.iter().all(|why| why.contains("unknown kind") || why.contains("is damaged")), "{refused:#?}");
    run("losetup", &["--detach", &attached]);
}
