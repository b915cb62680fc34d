//! Power cuts in the middle of mdadm, cryptsetup, vgcreate, lvcreate, vgextend and lvextend, and of mke2fs on what they make:
//! all that is written to a disk is logged by dm-log-writes, and written once more. At each point the next boot's agent plans,
//! and destroys nothing, or refuses with what helps; where it goes on, it does so until what was being done is as desired, and
//! what was kept in it is there and sound.
//! What the agent writes to disks themselves is cut on a machine (`disks/shapes.rs` of the system tests).
//!
//! A step is cut before its first write, after its last one, and at its flushes: at some of them, without the first half of
//! what was not flushed, and gone on from once or twice; or, which takes its time, at every flush, with the last write alone of
//! what came before it, with every other one, with the second half and with all of it, and gone on from wherever the plan is
//! another one or cannot be told from outside (`make cuts-test`).
//! A point at which the disk has nothing else than at the one before is none.
//!
//! All of it is on one disk, whose writes have one order: a mirror of two of its partitions, one of which fails and is replaced,
//! and beside it a group in an encrypted partition, which gets another one; then all of it is taken down and brought up.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use muster_agent::linux::modules;
use muster_agent::linux::storage::apply_with;
use muster_agent::linux::storage::disks::Disks;
use muster_agent::linux::storage::layers::{keys::Keys, raid};
use muster_agent::machine::{MachineError, chain};
use muster_agent::plan::storage::{Step, plan_all, take_down as steps_down};
use muster_protocol::DiskKey;
use muster_protocol::desired::{
    self, DiskSelect, Existing, Filesystem, Format, Key, LogicalVolume, Luks, Mount, Partition, Place, Raid, RaidLevel,
    Storage, Table, Use, VolumeGroup, VolumeKind, VolumeSize,
};
use muster_protocol::inventory::{ArrayState, Attachment, Disk, Medium, Transport};
use muster_protocol::observed::{Array, Observed};
use rustix::fs::{SeekFrom, seek};

use super::layers::{Done, MIB, eventually, run};
use super::mounted;

const UUID: [u8; 16] = [0x6c; 16];
const SIZE: u64 = 92 * MIB;
const SECTOR: u64 = 512;
/// What is kept: in the array, where its filesystem has nothing, and in a file of the volume's.
const PAGE: [u8; 4096] = [0x70; 4096];
const PAGE_AT: u64 = 6 * MIB;
/// Where the volume is mounted.
const BOOKS: &str = "/tmp/books";

/// A step that writes in several places.
struct Program {
    /// How its description begins.
    step: &'static str,
    /// Whether what it makes is seen from outside, and not only when the layer runs that it lies in.
    is_seen: bool,
    /// Whether it is gone on from even where time is short.
    is_gone_on_from: bool,
}

const fn program(step: &'static str, is_seen: bool, is_gone_on_from: bool) -> Program {
    Program { step, is_seen, is_gone_on_from }
}

impl Program {
    /// Whether the kernel's ext4 writes it, which is mounted then: what such a disk loses is its journal's business and is not
    /// tried here.
    fn is_the_journals(&self) -> bool {
        ["grow_ext4", "mount", "unmount"].contains(&self.step)
    }
}

const PROGRAMS: [Program; 15] = [
    program("make_the_raid1", true, true),
    program("make_ext4_on_/dev/md/pair", false, false),
    program("add_partition", true, true),
    program("encrypt", true, true),
    program("make_the_volume_group", false, true),
    program("make_the_logical", false, true),
    program("make_ext4_on_/dev/office/books", false, true),
    program("extend", true, true),
    program("grow_/dev/office", true, true),
    program("grow_ext4", false, false),
    // What was there is run and stopped: the superblocks of the array and of the filesystem say so.
    program("run_the_array", true, false),
    program("mount", false, false),
    program("unmount", false, false),
    program("deactivate", false, false),
    program("stop_the_array", true, false),
];

/// How many cuts there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cuts {
    /// Of a step's flushes at most so many, the first and the last among them.
    Some(usize),
    /// All.
    Every,
}

/// Where it is gone on from at the latest.
const AFTER: &str = "after the last write";

/// What is desired one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// A mirror with a filesystem.
    Pair,
    /// With another partition in place of one that failed.
    Third,
    /// An encrypted partition.
    Vault,
    /// A group in it.
    Office,
    /// With a volume, and a filesystem in that.
    Books,
    /// The group has another partition, and volume and filesystem have all of it.
    Wider,
    /// All of it runs, the mirror too.
    Up,
    /// It is taken down.
    Down,
    /// It runs again.
    Again,
}

const STAGES: [Stage; 9] = [
    Stage::Pair,
    Stage::Third,
    Stage::Vault,
    Stage::Office,
    Stage::Books,
    Stage::Wider,
    Stage::Up,
    Stage::Down,
    Stage::Again,
];

fn document(stage: Stage) -> Storage {
    let partition = |(number, label, size)| Partition::new(number, label, Some(size));
    let partitions =
        [(1, "one", 12), (2, "two", 12), (3, "safe", 40), (4, "more", 12), (5, "third", 12)].map(partition).to_vec();
    let on = |partition| Place::Partition { disk: 0, partition };
    let mut members = vec![Place::Luks(0)];
    members.extend((stage >= Stage::Wider).then(|| on(3)));
    let size = if stage >= Stage::Wider { VolumeSize::Rest } else { VolumeSize::Mib(16) };
    let books = LogicalVolume { name: "books".into(), kind: VolumeKind::Linear, size };
    let pair = Raid {
        name: "pair".into(),
        level: RaidLevel::Raid1,
        members: vec![on(0), on(if stage == Stage::Pair { 1 } else { 4 })],
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
    let has_pair = stage <= Stage::Third || stage >= Stage::Up;
    let filesystem = |place, label: &str, used| Filesystem {
        place,
        format: Format::Ext4,
        label: label.into(),
        uuid: None,
        options: vec![],
        used,
        existing: Existing::Keep,
    };
    let on_pair = filesystem(Place::Raid(0), "pair", Use::Later);
    let mount = Mount { path: BOOKS.into(), options: vec![] };
    let in_books = filesystem(Place::Volume { group: 0, volume: 0 }, "books", Use::Mount(mount));
    Storage {
        disks: vec![desired::Disk {
            select: DiskSelect::Id("serial:LOGGED".parse().expect("a disk id")),
            table: Table::Keep,
            partitions,
        }],
        raid: has_pair.then_some(pair).into_iter().collect(),
        filesystems: has_pair
            .then_some(on_pair)
            .into_iter()
            .chain((stage >= Stage::Books).then_some(in_books))
            .collect(),
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

    /// All of it is taken out of use.
    fn plan_down(&self) -> Vec<Step> {
        let (disks, layers) = self.disks.observe_all().done("observed");
        let disk = disks[0].id().expect("it has a name");
        steps_down(&[disk], &Observed { disks, layers, ..Observed::default() }).expect("possible")
    }

    fn array(&self) -> Array {
        self.disks.observe_all().done("observed").1.arrays.remove(0)
    }

    fn fail_member(&self, member: &str) {
        let running = self.disks.node(&self.array().array.name).expect("it runs");
        fs::write(running.path.join("md").join(format!("dev-{member}")).join("state"), "faulty").expect("it fails");
        eventually("it is seen", || self.array().array.faulty == member);
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
    let _ = rustix::mount::unmount(BOOKS, rustix::mount::UnmountFlags::empty());
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

/// Answers whether anything is other than it was.
fn replay(log: &File, writes: &[Write], disk: &File) -> bool {
    let mut is_other = false;
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
        let mut before = vec![0; bytes.len()];
        disk.read_exact_at(&mut before, start).expect("read");
        if before != bytes {
            disk.write_all_at(&bytes, start).expect("written");
            is_other = true;
        }
    }
    is_other
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

/// Where a step is cut: what comes before the first number is flushed, and what comes between the two is not.
fn windows(writes: &[Write], begin: usize, end: usize) -> Vec<(usize, usize)> {
    let (mut all, mut flushed) = (Vec::new(), begin);
    for (at, write) in writes.iter().enumerate().take(end).skip(begin) {
        if matches!(write, Write::Flush) {
            all.extend((at > flushed).then_some((flushed, at)));
            flushed = at + 1;
        }
    }
    all.extend((end > flushed).then_some((flushed, end)));
    all
}

impl Cuts {
    /// Which of so many flushes.
    fn chosen(self, of: usize) -> BTreeSet<usize> {
        match self {
            Self::Every => (0..of).collect(),
            Self::Some(_) if of == 0 => BTreeSet::new(),
            Self::Some(most) => (0..most).map(|n| (of - 1) * n / (most - 1)).collect(),
        }
    }

    /// Of the writes that were not flushed, those that are on the disk all the same, one time after the other.
    fn parts(self, window: &[Write]) -> Vec<Vec<Write>> {
        let (len, all) = (window.len(), window.iter().copied());
        let second_half = all.clone().skip(len / 2).collect();
        match self {
            Self::Some(_) => vec![second_half],
            Self::Every => vec![all.clone().skip(len - 1).collect(), all.skip(1).step_by(2).collect(), second_half],
        }
    }
}

fn attach(options: &[&str], file: &str) -> String {
    run("losetup", &[&["--find", "--show"], options, &[file]].concat()).trim().to_owned()
}

/// Has all of it made on a disk whose writes are logged.
fn make_logged(folder: &Path, log: &Path) {
    let image = folder.join("image");
    for (file, size) in [(&*image, SIZE), (log, 3 * SIZE)] {
        File::create(file).expect("a file").set_len(size).expect("a sparse file");
    }
    let [below, logged] = [&*image, log].map(|file| attach(&[], file.to_str().expect("UTF-8")));
    let table = format!("0 {} log-writes {below} {logged}", SIZE / SECTOR);
    run("dmsetup", &["create", "--noudevsync", "logged", "--table", &table]);
    // Past the page cache: what is not flushed is in the log in the order in which it was written.
    let disk = attach(&["--direct-io=on"], "/dev/mapper/logged");
    let machine = Machine::new(disk.trim_start_matches("/dev/"), &folder.join("run"));
    for (number, stage) in STAGES.into_iter().enumerate() {
        match stage {
            Stage::Third => {
                let array = File::options().write(true).open(raid::device("pair")).expect("it is there");
                array.write_all_at(&PAGE, PAGE_AT).and_then(|()| array.sync_all()).expect("written");
                machine.fail_member(&format!("{}p2", disk.trim_start_matches("/dev/")));
            }
            Stage::Vault => {
                eventually("the new member is in sync", || machine.array().array.state == ArrayState::Whole);
                take_down();
            }
            Stage::Wider => {
                let page = File::create(format!("{BOOKS}/page")).expect("it is mounted");
                page.write_all_at(&PAGE, 0).and_then(|()| page.sync_all()).expect("written");
            }
            _ => {}
        }
        let steps =
            if stage == Stage::Down { machine.plan_down() } else { machine.plan(&document(stage)).expect("a plan") };
        for step in steps {
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

/// What is made of it at all points.
fn cut(how: Cuts) {
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
        if outcome.is_ok() {
            is_kept(stage, when);
        }
        take_down();
        run("losetup", &["--detach", &attached]);
        outcome
    };
    let mut seen = Seen::default();
    let mut replayed = 0;
    let ends = marks.iter().skip(1).map(|(_, at)| *at).chain([writes.len()]);
    for ((mark, begin), end) in marks.iter().zip(ends) {
        let Some((number, action)) = mark.split_once('_') else { continue };
        let Some(program) = PROGRAMS.iter().find(|program| action.starts_with(program.step)) else { continue };
        let stage = STAGES[number.parse::<usize>().expect("a number")];
        let mut judge = |point: &str, goes_on: bool| {
            seen.points += 1;
            let is_missed = program.is_gone_on_from && !seen.gone_on.contains(program.step);
            let goes_on = goes_on || point == AFTER && is_missed;
            let when = format!("{point} of {begin} to {end} in {action}");
            // Where all of them are tried, each plan is carried out once.
            let mut is_new = |steps: Vec<Step>| {
                let plan: Vec<String> = steps.iter().map(|step| step.describe().action).collect();
                how == Cuts::Every && seen.plans.insert((stage, plan))
            };
            let judged = program.is_seen.then(|| machine.judge(&document(stage), &when).map(&mut is_new));
            let mut outcome = judged.unwrap_or(Ok(false));
            if outcome == Ok(true) || outcome.is_ok() && goes_on {
                outcome = go_on(stage, &when).map(|()| true);
                seen.gone_on.extend(outcome.is_ok().then_some(program.step));
            }
            if let Err(why) = outcome {
                assert!(why.contains("wipe_"), "{when}: no remedy: {why}");
                seen.refused.push(format!("{when}: {why}"));
            }
        };
        replay(&log, &writes[replayed..*begin], &file);
        replayed = *begin;
        judge("before the first write", how == Cuts::Every && !program.is_seen);
        let windows = windows(&writes, *begin, end);
        let chosen = how.chosen(windows.len());
        // Where time is short it is gone on from the end, and where nothing is seen from outside from the first flush too.
        let (every, mut has_begun) = (how == Cuts::Every, program.is_seen || !program.is_gone_on_from);
        let mut has_ended = !program.is_gone_on_from;
        for (turn, &(flushed, to)) in windows.iter().enumerate() {
            replay(&log, &writes[replayed..flushed], &file);
            replayed = to;
            let is_last = turn + 1 == windows.len();
            let loses = chosen.contains(&turn) && !program.is_the_journals();
            let parts = if loses { how.parts(&writes[flushed..to]) } else { Vec::new() };
            let count = parts.len();
            for (n, part) in parts.into_iter().enumerate() {
                if replay(&log, &part, &file) {
                    let goes_on = every && !program.is_seen && n + 1 == count || is_last && !has_ended;
                    judge(&format!("a part of the window up to write {to}"), goes_on);
                    has_ended |= is_last;
                }
            }
            // And where nothing is lost.
            let is_other = replay(&log, &writes[flushed..to], &file);
            if is_other && (every || !has_begun) {
                judge(&format!("write {to}"), !program.is_seen);
                has_begun = true;
            }
        }
        judge(AFTER, !has_ended);
    }
    let Seen { points, gone_on, refused, .. } = seen;
    println!("{points} power cuts");
    refused.iter().for_each(|refusal| println!("refused: {refusal}"));
    let left: Vec<_> = PROGRAMS.iter().filter(|one| one.is_gone_on_from && !gone_on.contains(one.step)).collect();
    assert!(left.is_empty(), "{:?} of {marks:?}; {refused:#?}", left.iter().map(|one| one.step).collect::<Vec<_>>());
    // cryptsetup writes over where keys will lie before anything tells whose it is, and LVM says where its text lies without
    // waiting for that: what is left then is nobody's that Muster knows. Of mke2fs there may be an unfinished piece.
    let known = |why: &str| ["unknown kind", "is damaged", "an unfinished ext4"].iter().any(|what| why.contains(what));
    assert!(refused.iter().all(|why| known(why)), "{refused:#?}");
    run("losetup", &["--detach", &attached]);
}

#[derive(Default)]
struct Seen {
    points: usize,
    gone_on: BTreeSet<&'static str>,
    /// What was planned for a document, in words.
    plans: BTreeSet<(Stage, Vec<String>)>,
    refused: Vec<String>,
}

/// What is as desired is sound, and has what was kept in it.
fn is_kept(stage: Stage, when: &str) {
    let document = document(stage);
    if !document.raid.is_empty() {
        let array = raid::device("pair");
        run("e2fsck", &["-f", "-n", &array]);
        let mut page = [0; PAGE.len()];
        File::open(array).and_then(|array| array.read_exact_at(&mut page, PAGE_AT)).expect("read");
        assert!(stage == Stage::Pair || page == PAGE, "{when}: what was kept in the array is not there");
    }
    if stage >= Stage::Books {
        let page = fs::read(format!("{BOOKS}/page")).unwrap_or_default();
        assert!(stage == Stage::Books || page == PAGE, "{when}: what was kept in the volume is not there");
        rustix::mount::unmount(BOOKS, rustix::mount::UnmountFlags::empty()).expect("it was mounted");
        run("e2fsck", &["-f", "-n", "/dev/office/books"]);
    }
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn what_was_cut_while_it_was_made_or_extended_is_gone_on_with_or_refused_with_what_helps() {
    cut(Cuts::Some(4));
}

/// See the module.
#[test]
#[ignore = "needs the tools image and minutes: make cuts-test runs it, in a guest"]
fn whatever_was_cut_at_every_flush_is_gone_on_with_or_refused_with_what_helps() {
    cut(Cuts::Every);
}
