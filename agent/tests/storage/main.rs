//! Storage on real block devices: loop devices over sparse files, judged by sfdisk, sgdisk and blkid.
//!
//! Needs root, loop devices, and the programs of fdisk, gdisk, e2fsprogs, xfsprogs, btrfs-progs, dosfstools,
//! mtools and util-linux; fails where one lacks.

mod formats;
mod images;
mod trees;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_agent::linux::storage::disks::Disks;
use muster_agent::linux::storage::{apply_on, wipe_on};
use muster_agent::machine::MachineError;
use muster_agent::plan::Impossible;
use muster_agent::plan::storage::{self, Step, differences, plan_all};
use muster_protocol::desired::{
    self, DiskSelect, Entry, Existing, Format, Mount, Place, Presence, Resize, Storage, Table, Use,
};
use muster_protocol::inventory::{Attachment, Disk, Medium, Transport};
use muster_protocol::observed::{self, Contents};
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::{DiskId, MachineId};

const MIB: u64 = 1 << 20;

/// On disks alone.
fn plan(desired: &Storage, disks: &[observed::Disk]) -> Result<Vec<Step>, Impossible> {
    storage::plan(desired, disks, &observed::Layers::default())
}

/// A machine whose only disk, `serial:S1`, is a loop device.
struct Lab {
    folder: tempfile::TempDir,
    device: String,
    disks: Disks,
}

impl Lab {
    fn new(size: u64) -> Self {
        Self::with(size, 512)
    }

    fn with(size: u64, sector: u32) -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests need root for loop devices and mounts");
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("image");
        File::create(&image).expect("a file").set_len(size).expect("a sparse file");
        let sector_text = sector.to_string();
        let device = run("losetup", &["--partscan", "--find", "--show", "--sector-size", &sector_text, text(&image)]);
        let device = device.trim().to_owned();
        let disks = Disks::given(vec![disk(&device, "S1", size, sector)], &folder.path().join("run"));
        Self { folder, device, disks }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount_point(&self, name: &str) -> String {
        text(&self.folder.path().join("mnt").join(name)).to_owned()
    }

    fn seen(&self) -> observed::Observed {
        let mounts = self.disks.usage().expect("read").trees();
        observed::Observed { disks: self.disks.observe().expect("observed"), mounts, ..Default::default() }
    }

    fn observe(&self) -> observed::Disk {
        self.disks.observe().expect("observed").remove(0)
    }

    fn plan(&self, desired: &Storage) -> Vec<Step> {
        plan_all(desired, &self.seen()).expect("a plan")
    }

    fn apply(&self, steps: &[Step]) -> Result<(), MachineError> {
        steps.iter().try_for_each(|step| apply_on(&self.disks, step, &mut |_| {}))
    }

    /// Plans and applies, and holds the result to the promise that nothing is left to do.
    fn converge(&self, desired: &Storage) {
        let steps = self.plan(desired);
        self.apply(&steps).unwrap_or_else(|error| panic!("{}", muster_agent::machine::chain(&error)));
        assert_eq!(differences(desired, &self.seen()), [""; 0]);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let device = File::options().write(true).open(&self.device).expect("the loop device");
        device.write_all_at(bytes, at).expect("written");
        device.sync_all().expect("written");
    }

    /// A digest of all that lies on the disk.
    fn fingerprint(&self) -> String {
        File::options().write(true).open(&self.device).and_then(|device| device.sync_all()).expect("flushed");
        run("b2sum", &[text(&self.image())])
    }

    fn blkid(&self, partition: &str, tag: &str) -> String {
        let node = format!("{}{partition}", self.device);
        run("blkid", &["--probe", "--output", "value", "--match-tag", tag, &node]).trim().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Whatever a failed test left mounted goes first, or the loop device would stay.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mine = mounts.lines().rev().filter(|line| line.starts_with(&format!("{}p", self.device)));
        for point in mine.filter_map(|line| line.split(' ').nth(1)) {
            let _ = Command::new("umount").arg(point).status();
        }
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        for area in swaps.lines().filter_map(|line| line.split(' ').next()).filter(|n| n.starts_with(&self.device)) {
            let _ = Command::new("swapoff").arg(area).status();
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn disk(device: &str, serial: &str, size_bytes: u64, sector: u32) -> Disk {
    Disk {
        name: device.trim_start_matches("/dev/").into(),
        size_bytes,
        logical_sector: sector,
        physical_sector: sector,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Virtio,
        model: "loop".into(),
        serial: Some(serial.into()),
        wwn: None,
    }
}

fn id() -> DiskId {
    "serial:S1".parse().expect("a disk id")
}

fn want(partitions: &[(&str, Option<u64>)], filesystems: &[(u32, &str, Option<String>)]) -> Storage {
    let partition =
        |(number, (label, size_mib)): (u32, &(&str, Option<u64>))| desired::Partition::new(number, label, *size_mib);
    let filesystem = |(partition, label, mount): &(u32, &str, Option<String>)| desired::Filesystem {
        place: Place::Partition { disk: 0, partition: *partition as u16 - 1 },
        format: Format::Ext4,
        label: (*label).into(),
        uuid: None,
        options: vec![],
        used: mount.clone().map_or(Use::Later, |path| Use::Mount(Mount { path, options: vec![] })),
        existing: Existing::Keep,
    };
    let partitions = (1..).zip(partitions).map(partition).collect();
    Storage {
        disks: vec![desired::Disk { select: DiskSelect::Id(id()), table: Table::Keep, partitions }],
        filesystems: filesystems.iter().map(filesystem).collect(),
        ..Storage::default()
    }
}

fn replacing(mut storage: Storage) -> Storage {
    storage.disks[0].table = Table::Replace;
    storage
}

fn is_changed(result: Result<(), MachineError>) -> String {
    match result {
        Err(error @ MachineError::Changed { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_blank_disk_becomes_what_is_desired_as_other_tools_see_it() {
    let lab = Lab::new(256 * MIB);
    let at = lab.mount_point("data");
    let desired = want(&[("boot", Some(32)), ("größe", None)], &[(1, "bootfs", None), (2, "data", Some(at.clone()))]);
    assert_eq!(lab.observe().contents, Contents::Blank);
    lab.converge(&desired);

    let dump = run("sfdisk", &["--dump", &lab.device]);
    assert!(dump.contains("label: gpt") && dump.contains("last-lba: 524254"), "{dump}");
    let one = dump.lines().find(|line| line.contains("p1 :")).expect("partition 1");
    assert!(one.contains("start=        2048, size=       65536, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4"), "{one}");
    assert!(one.contains("name=\"boot\""), "{one}");
    let two = dump.lines().find(|line| line.contains("p2 :")).expect("partition 2");
    assert!(two.contains("start=       67584, size=      454656") && two.contains(r"gr\xc3\xb6\xc3\x9fe"), "{two}");
    assert!(run("sgdisk", &["--verify", &lab.device]).contains("No problems found"));
    assert!(run("sfdisk", &["--verify", &lab.device]).contains("No errors detected"));

    assert_eq!((lab.blkid("p1", "TYPE"), lab.blkid("p1", "LABEL")), ("ext4".into(), "bootfs".into()));
    assert_eq!((lab.blkid("p2", "TYPE"), lab.blkid("p2", "LABEL")), ("ext4".into(), "data".into()));
    let observed = lab.observe();
    let Contents::Gpt { guid } = observed.contents else { panic!("{observed:?}") };
    assert!(dump.to_lowercase().contains(&MachineId::from_bytes(guid).to_string()), "the same GUID in the same order");
    let Contents::Filesystem(data) = &observed.partitions[1].contents else { panic!("{observed:?}") };
    assert_eq!((&data.uuid, &data.mounted_at), (&lab.blkid("p2", "UUID"), &at));
    assert_eq!(observed.held, "", "the agent's own mount holds nothing");

    fs::write(format!("{at}/hello"), "world").expect("the filesystem is there");
    assert!(run("findmnt", &["-n", "-o", "SOURCE", &at]).contains(&format!("{}p2", lab.device)));

    // As after a reboot: nothing is mounted, everything is kept.
    run("umount", &[&at]);
    let steps = lab.plan(&desired);
    assert!(matches!(&steps[..], [Step::Mount { .. }]), "{steps:?}");
    lab.converge(&desired);
    assert_eq!(fs::read_to_string(format!("{at}/hello")).expect("still there"), "world");
    run("e2fsck", &["-n", "-f", &format!("{}p1", lab.device)]);
}

#[test]
fn disks_with_sectors_of_4096_bytes_are_partitioned_as_well() {
    let lab = Lab::with(256 * MIB, 4096);
    lab.converge(&want(&[("a", Some(64)), ("b", None)], &[(1, "a", None)]));
    let dump = run("sfdisk", &["--dump", &lab.device]);
    assert!(dump.contains("sector-size: 4096") && dump.contains("start=         256, size=       16384"), "{dump}");
    assert!(run("sgdisk", &["--verify", &lab.device]).contains("No problems found"));
    assert_eq!(lab.blkid("p1", "TYPE"), "ext4");
}

#[test]
fn a_disk_beyond_the_reach_of_an_mbr_gets_a_sound_table() {
    let lab = Lab::new(8 << 40);
    lab.converge(&want(&[("a", Some(1)), ("b", None)], &[]));
    assert!(run("sgdisk", &["--verify", &lab.device]).contains("No problems found"));
    assert!(run("sfdisk", &["--verify", &lab.device]).contains("No errors detected"));
}

#[test]
fn partitions_are_added_while_the_others_are_in_use() {
    let lab = Lab::new(256 * MIB);
    let (a, b) = (lab.mount_point("a"), lab.mount_point("b"));
    lab.converge(&want(&[("a", Some(32))], &[(1, "a", Some(a.clone()))]));
    fs::write(format!("{a}/kept"), "yes").expect("written");
    let before = run("sfdisk", &["--dump", &lab.device]);

    lab.converge(&want(
        &[("a", Some(32)), ("b", Some(32)), ("c", None)],
        &[(1, "a", Some(a.clone())), (2, "b", Some(b.clone()))],
    ));
    let after = run("sfdisk", &["--dump", &lab.device]);
    for line in before.lines().filter(|line| line.contains("p1 :") || line.starts_with("label-id")) {
        assert!(after.contains(line), "{line} became\n{after}");
    }
    assert!(run("sgdisk", &["--verify", &lab.device]).contains("No problems found"));
    assert_eq!(fs::read_to_string(format!("{a}/kept")).expect("in use all the time"), "yes");
    fs::write(format!("{b}/new"), "yes").expect("written");
}

/// The disk gets larger, as a virtual one does, and the agent sees it.
fn grow_disk(lab: &mut Lab, size: u64, sector: u32) {
    File::options().write(true).open(lab.image()).and_then(|image| image.set_len(size)).expect("a larger file");
    run("losetup", &["--set-capacity", &lab.device]);
    lab.disks = Disks::given(vec![disk(&lab.device, "S1", size, sector)], &lab.folder.path().join("run"));
}

fn growing(mut storage: Storage, number: usize) -> Storage {
    storage.disks[0].partitions[number - 1].resize = Resize::Grow;
    storage
}

#[test]
fn the_last_partition_grows_while_it_is_in_use() {
    for sector in [512, 4096] {
        let mut lab = Lab::with(400 * MIB, sector);
        let at = lab.mount_point("data");
        let mut desired = growing(
            want(&[("boot", Some(16)), ("data", None)], &[(1, "boot", None), (2, "data", Some(at.clone()))]),
            2,
        );
        // Not everybody who is root here may grow an ext4.
        desired.filesystems[1].format = Format::Btrfs;
        lab.converge(&desired);
        fs::write(format!("{at}/kept"), "yes").expect("written");
        let before = run("sfdisk", &["--dump", &lab.device]);
        let first = run("sha256sum", &[&format!("{}p1", lab.device)]);

        grow_disk(&mut lab, 700 * MIB, sector);
        let steps = lab.plan(&desired);
        assert!(!steps.iter().any(Step::is_destructive), "{steps:?}");
        lab.converge(&desired);
        assert_eq!(fs::read_to_string(format!("{at}/kept")).expect("in use all the time"), "yes");
        let node = fs::read_to_string(format!("/sys/class/block/{}p2/size", lab.device.trim_start_matches("/dev/")));
        assert_eq!(node.expect("the kernel knows it").trim(), (682 * MIB / 512).to_string(), "the kernel's size");

        let after = run("sfdisk", &["--dump", &lab.device]);
        assert!(run("sgdisk", &["--verify", &lab.device]).contains("No problems found"), "{after}");
        assert!(run("sfdisk", &["--verify", &lab.device]).contains("No errors detected"));
        let size = (682 * MIB / u64::from(sector)).to_string();
        let two = after.lines().find(|line| line.contains("p2 :")).expect("partition 2");
        assert!(two.contains(&format!("size={size:>12}")), "{two}");
        let uuid = |dump: &str, part: &str| {
            let line = dump.lines().find(|line| line.contains(part)).expect("a partition").to_owned();
            line.split(", ").find(|word| word.starts_with("uuid=")).map(str::to_owned)
        };
        assert_eq!(uuid(&after, "p2 :"), uuid(&before, "p2 :"), "it is the same partition");
        assert!(after.contains(before.lines().find(|line| line.contains("p1 :")).expect("partition 1")), "{after}");
        assert_eq!(run("sha256sum", &[&format!("{}p1", lab.device)]), first, "the other one is as it was");
        run("umount", &[&at]);
        run("btrfs", &["check", &format!("{}p2", lab.device)]);
    }
}

#[test]
fn a_partition_does_not_grow_over_what_lies_behind_it() {
    let mut lab = Lab::new(128 * MIB);
    let desired = growing(want(&[("data", None)], &[(1, "data", None)]), 1);
    lab.converge(&desired);
    grow_disk(&mut lab, 256 * MIB, 512);
    lab.write(200 * MIB, &vec![7; 16 * MIB as usize]);
    let before = lab.fingerprint();
    assert!(is_changed(lab.apply(&lab.plan(&desired))).contains("the space for partition 1"));
    assert_eq!(lab.fingerprint(), before, "nothing was written");
}

#[test]
fn a_deleted_partition_takes_nothing_with_it_but_what_it_carried() {
    let lab = Lab::new(256 * MIB);
    let at = lab.mount_point("keep");
    let two = want(&[("keep", Some(32)), ("old", Some(64))], &[(1, "keep", Some(at.clone())), (2, "old", None)]);
    lab.converge(&two);
    fs::write(format!("{at}/kept"), "yes").expect("written");
    let first =
        |lab: &Lab| run("sfdisk", &["--dump", &lab.device]).lines().find(|l| l.contains("p1 :")).map(str::to_owned);
    let before = first(&lab);

    // Of another size and made anew, without leave and with it.
    let mut anew = want(&[("keep", Some(32)), ("new", Some(128))], &[(1, "keep", Some(at.clone())), (2, "new", None)]);
    let refused = plan(&anew, &[lab.observe()]).expect_err("it is another one").to_string();
    assert!(refused.contains("partition 2"), "{refused}");
    anew.disks[0].partitions[1].entry = Entry::Replace;
    assert_eq!(lab.plan(&anew).iter().filter(|step| step.is_destructive()).count(), 1);
    lab.converge(&anew);
    assert_eq!((first(&lab), lab.blkid("p2", "LABEL")), (before.clone(), "new".into()));

    let mut gone = want(&[("keep", Some(32)), ("", None)], &[(1, "keep", Some(at.clone()))]);
    let partition = &mut gone.disks[0].partitions[1];
    (partition.presence, partition.entry) = (Presence::Absent, Entry::Replace);
    lab.converge(&gone);
    assert!(!run("sfdisk", &["--dump", &lab.device]).contains("p2 :"));
    assert!(!Path::new(&format!("{}p2", lab.device)).exists(), "the kernel has forgotten it");
    assert!(run("sgdisk", &["--verify", &lab.device]).contains("No problems found"));
    assert_eq!((first(&lab), fs::read_to_string(format!("{at}/kept")).expect("in use")), (before, "yes".into()));
}

/// Cut after each step, as by a power failure: what is mounted then is mounted no more.
fn cut_everywhere(storage: &Storage, prepare: impl Fn(&Lab)) -> Vec<Result<(), String>> {
    let mut outcomes = Vec::new();
    for cut in 0.. {
        let lab = Lab::new(256 * MIB);
        prepare(&lab);
        let steps = lab.plan(storage);
        lab.apply(&steps[..cut.min(steps.len())]).expect("the first steps");
        let before = lab.fingerprint();
        outcomes.push(match plan(storage, &lab.disks.observe().expect("observed")) {
            Ok(_) => {
                lab.converge(storage);
                Ok(())
            }
            Err(refused) => {
                assert_eq!(lab.fingerprint(), before);
                Err(refused.to_string())
            }
        });
        if cut >= steps.len() {
            break;
        }
    }
    outcomes
}

#[test]
fn what_was_cut_by_a_power_failure_goes_on_or_is_refused_with_the_reason() {
    let desired = want(&[("a", Some(64)), ("b", None)], &[(1, "a", None), (2, "b", None)]);
    let blank = cut_everywhere(&desired, |_| {});
    assert_eq!(blank, vec![Ok(()); 4], "a blank disk is gone on with from everywhere");

    let full = |lab: &Lab| {
        run("mkfs.ext4", &["-q", "-L", "theirs", &lab.device]);
        lab.write(20 * MIB, &vec![7; 200 * MIB as usize]);
    };
    let outcomes = cut_everywhere(&replacing(desired.clone()), full);
    let refused: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!((outcomes.len(), refused.len()), (4, 2), "{outcomes:?}");
    assert!(refused.iter().all(|why| why.contains("data of an unknown kind") && why.contains("wipe_filesystem")));
    let mut all = replacing(desired);
    all.filesystems.iter_mut().for_each(|filesystem| filesystem.existing = Existing::Replace);
    assert_eq!(cut_everywhere(&all, full), vec![Ok(()); 4], "with leave for the filesystems too it goes on");
}

#[test]
fn a_damaged_table_is_refused_with_the_way_to_repair_it() {
    let lab = Lab::new(256 * MIB);
    let desired = want(&[("a", Some(64)), ("b", None)], &[(1, "a", None)]);
    lab.converge(&desired);
    // The first copy's entries, as where the power was cut within them.
    lab.write(2 * 512 + 56, &[b'x'; 2]);
    let refused = plan(&desired, &[lab.observe()]).expect_err("damaged").to_string();
    assert!(refused.contains("damaged GPT") && refused.contains("sgdisk"), "{refused}");
}

#[test]
fn partitions_lie_where_they_should_and_have_the_guid_that_they_should() {
    let lab = Lab::new(256 * MIB);
    let mut desired = want(&[("one", Some(16)), ("two", None)], &[]);
    let guid = *"3f2a9c1e-0b7d-4c55-9a51-2f6d1e0c8b7a".parse::<MachineId>().expect("a GUID").as_bytes();
    (desired.disks[0].partitions[0].start_mib, desired.disks[0].partitions[0].guid) = (Some(100), Some(guid));
    lab.converge(&desired);
    let dump = run("sfdisk", &["--dump", &lab.device]);
    let one = dump.lines().find(|line| line.contains("p1 :")).expect("partition 1");
    assert!(one.contains("start=      204800, size=       32768"), "{one}");
    assert!(one.contains("uuid=3F2A9C1E-0B7D-4C55-9A51-2F6D1E0C8B7A"), "{one}");
    let two = dump.lines().find(|line| line.contains("p2 :")).expect("partition 2");
    assert!(two.contains("start=      237568"), "the largest room is behind it: {two}");
}

#[test]
fn a_disk_that_changed_after_the_plan_is_not_written_to() {
    let lab = Lab::new(128 * MIB);
    let steps = lab.plan(&want(&[("a", None)], &[(1, "a", None)]));
    lab.write(128 * 1024, &0x00ba_b10c_u64.to_le_bytes());
    let before = lab.fingerprint();
    assert!(is_changed(lab.apply(&steps)).contains("zfs_member"));
    assert_eq!(lab.fingerprint(), before, "nothing was written");
}

#[test]
fn another_disk_under_the_name_that_was_planned_for_is_not_written_to() {
    let mut lab = Lab::new(128 * MIB);
    let steps = lab.plan(&want(&[("a", None)], &[]));
    let before = lab.fingerprint();
    lab.disks = Disks::given(vec![disk(&lab.device, "S2", 128 * MIB, 512)], &lab.folder.path().join("run"));
    assert!(matches!(lab.apply(&steps), Err(MachineError::Missing(_))));
    let twins = vec![disk(&lab.device, "S1", 128 * MIB, 512), disk("/dev/vdz", "S1", 128 * MIB, 512)];
    lab.disks = Disks::given(twins, &lab.folder.path().join("run"));
    assert!(is_changed(lab.apply(&steps)).contains("vdz"));
    assert_eq!(lab.fingerprint(), before);
}

#[test]
fn a_partition_that_changed_after_the_plan_is_not_formatted() {
    let lab = Lab::new(128 * MIB);
    lab.converge(&want(&[("a", None)], &[]));
    let steps = lab.plan(&want(&[("a", None)], &[(1, "a", None)]));
    run("mkfs.ext4", &["-q", "-L", "theirs", &format!("{}p1", lab.device)]);
    let before = lab.fingerprint();
    assert!(is_changed(lab.apply(&steps)).contains("theirs"));
    assert_eq!(lab.fingerprint(), before);
}

#[test]
fn remains_in_space_that_no_table_describes_are_not_overwritten() {
    let lab = Lab::new(256 * MIB);
    lab.converge(&want(&[("a", Some(32))], &[]));
    // A filesystem whose partition was deleted: 1 MiB for the table and 32 for the first partition lie before it.
    lab.write(33 * MIB + 1024 + 56, &[0x53, 0xef]);
    let steps = lab.plan(&want(&[("a", Some(32)), ("b", None)], &[]));
    let before = lab.fingerprint();
    assert!(is_changed(lab.apply(&steps)).contains("the space for partition 2"));
    assert_eq!(lab.fingerprint(), before);
}

#[test]
fn a_disk_with_only_its_ends_cleared_is_not_blank() {
    let lab = Lab::new(512 * MIB);
    let chunk = vec![0x5a; 64 * MIB as usize];
    lab.write(100 * MIB, &chunk);
    assert_eq!(lab.observe().contents, Contents::Unknown);
}

#[test]
fn a_table_is_replaced_only_by_a_step_that_says_what_it_destroys() {
    let lab = Lab::new(256 * MIB);
    let desired = want(&[("a", Some(32)), ("b", None)], &[(1, "fs", None)]);
    run("mkfs.ext4", &["-q", "-L", "theirs", &lab.device]);
    let refused = plan(&desired, &[lab.observe()]).expect_err("it carries something").to_string();
    assert!(refused.contains("theirs") && refused.contains("wipe_table"), "{refused}");
    assert!(lab.plan(&replacing(desired.clone()))[0].is_destructive());
    lab.converge(&replacing(desired.clone()));

    // Over a table of others as well, whose partition lies where ours will.
    let lab = Lab::new(256 * MIB);
    run("sgdisk", &["--new=1:2048:0", &lab.device]);
    run("partx", &["--update", &lab.device]);
    run("mkfs.ext4", &["-q", "-L", "theirs", &format!("{}p1", lab.device)]);
    lab.converge(&replacing(want(&[("x", Some(64)), ("y", None)], &[])));
    let observed = lab.observe();
    assert!(observed.partitions.iter().all(|p| p.label == "x" || p.label == "y"), "{observed:?}");
    assert!(!format!("{observed:?}").contains("theirs"), "old signatures are cleared");
}

#[test]
fn a_wiped_disk_is_zero_in_every_byte_and_has_no_partitions() {
    // A loop device erases nothing by itself.
    for (level, method) in
        [(WipeLevel::Full, "overwritten"), (WipeLevel::Quick, "discarded"), (WipeLevel::Secure, "overwritten")]
    {
        let lab = Lab::new(256 * MIB);
        let (outer, inner) = (lab.mount_point("outer"), lab.mount_point("outer/inner"));
        let desired =
            want(&[("a", Some(32)), ("b", None)], &[(1, "a", Some(inner.clone())), (2, "b", Some(outer.clone()))]);
        lab.converge(&desired);
        fs::write(format!("{inner}/secret"), vec![0x42; 1 << 20]).expect("written");
        lab.write(200 * MIB, &[7; 4096]);

        let mut percents = vec![];
        let receipt = wipe_on(&lab.disks, &id(), level, &mut |percent| percents.push(percent)).expect("wiped");
        assert_eq!((receipt.disk, &*receipt.method), (id(), method));
        assert_eq!((receipt.size_bytes, receipt.bytes, receipt.verified_bytes), (256 * MIB, 256 * MIB, 256 * MIB));
        assert!(percents.is_sorted() && percents.first() == Some(&0) && percents.last() == Some(&100), "{percents:?}");

        let image = fs::read(lab.image()).expect("read");
        assert!(image.iter().all(|&byte| byte == 0));
        let observed = lab.observe();
        assert_eq!((observed.contents, observed.partitions), (Contents::Blank, vec![]));
        assert!(!Path::new(&format!("{}p1", lab.device)).exists(), "the kernel forgot the partitions");
        assert!(!fs::read_to_string("/proc/self/mounts").expect("read").contains(&outer));

        wipe_on(&lab.disks, &id(), level, &mut |_| {}).expect("again does no harm");
        lab.converge(&desired);
    }
}

#[test]
fn a_disk_without_signatures_is_recognized_by_nobody_and_keeps_its_data() {
    let lab = Lab::new(256 * MIB);
    lab.converge(&want(&[("a", Some(32)), ("b", None)], &[(1, "a", None), (2, "b", None)]));
    lab.write(100 * MIB, &vec![7; 100 << 20]);
    let receipt = wipe_on(&lab.disks, &id(), WipeLevel::Signatures, &mut |_| {}).expect("wiped");
    assert_eq!(&*receipt.method, "signatures overwritten");
    assert!(receipt.bytes == receipt.verified_bytes && receipt.bytes < 16 * MIB, "{receipt:?}");
    let image = fs::read(lab.image()).expect("read");
    assert!(image[100 << 20..][..100 << 20].iter().all(|&byte| byte == 7));
    // The same table again shows nothing of what was there.
    let observed = lab.observe();
    assert!(observed.contents != Contents::Blank && observed.partitions.is_empty(), "{observed:?}");
    assert!(run("wipefs", &["--noheadings", &lab.device]).is_empty());
    run("sgdisk", &["--new=1:2048:+32M", "--new=2:0:0", &lab.device]);
    run("partx", &["--update", &lab.device]);
    for partition in ["p1", "p2"] {
        assert!(run("wipefs", &["--noheadings", &format!("{}{partition}", lab.device)]).is_empty());
    }
}

#[test]
fn what_others_mounted_is_neither_unmounted_nor_written_to() {
    let lab = Lab::new(128 * MIB);
    lab.converge(&want(&[("a", None)], &[(1, "a", None)]));
    let theirs = lab.mount_point("theirs");
    fs::create_dir_all(&theirs).expect("made");
    run("mount", &[&format!("{}p1", lab.device), &theirs]);
    fs::write(format!("{theirs}/file"), "kept").expect("written");

    let observed = lab.observe();
    assert!(observed.held.contains("is mounted at") && observed.held.contains(&theirs), "{}", observed.held);
    let error = wipe_on(&lab.disks, &id(), WipeLevel::Full, &mut |_| {}).expect_err("in use").to_string();
    assert!(error.contains(&theirs), "{error}");
    let refused = plan(&replacing(want(&[("b", None)], &[])), &[observed]).expect_err("in use").to_string();
    assert!(refused.contains("may not be written to"), "{refused}");
    assert_eq!(fs::read_to_string(format!("{theirs}/file")).expect("still mounted"), "kept");
}

#[test]
fn a_disk_that_came_into_use_after_the_plan_is_not_written_to() {
    let lab = Lab::new(128 * MIB);
    lab.converge(&want(&[("a", None)], &[(1, "a", None)]));
    let steps = lab.plan(&replacing(want(&[("b", None)], &[])));
    let theirs = lab.mount_point("theirs");
    fs::create_dir_all(&theirs).expect("made");
    run("mount", &[&format!("{}p1", lab.device), &theirs]);
    // The kernel itself refuses: somebody holds a partition, so nobody may have the whole disk.
    let error = lab.apply(&steps).expect_err("in use");
    assert!(
        matches!(&error, MachineError::Os { source, .. } if source.kind() == std::io::ErrorKind::ResourceBusy),
        "{error:?}"
    );
}

#[test]
fn swap_and_boot_media_hold_a_disk() {
    let lab = Lab::new(64 * MIB);
    run("mkswap", &[&lab.device]);
    run("swapon", &[&lab.device]);
    let held = lab.observe().held;
    run("swapoff", &[&lab.device]);
    assert!(held.contains("in use as swap"), "{held}");
    assert_eq!(lab.observe().held, "");

    let tree = lab.folder.path().join("tree");
    fs::create_dir(&tree).expect("made");
    let iso = lab.folder.path().join("iso");
    run("xorriso", &["-as", "mkisofs", "-V", "MUSTER", "-o", text(&iso), text(&tree)]);
    lab.write(0, &fs::read(iso).expect("read"));
    assert!(lab.observe().held.contains("Muster boot medium"));
    assert!(wipe_on(&lab.disks, &id(), WipeLevel::Full, &mut |_| {}).is_err());
}

#[test]
fn a_mount_point_behind_a_link_or_in_use_is_refused() {
    let lab = Lab::new(128 * MIB);
    let real = lab.folder.path().join("real");
    fs::create_dir_all(&real).expect("made");
    let link = lab.folder.path().join("link");
    std::os::unix::fs::symlink(&real, &link).expect("linked");
    let behind = want(&[("a", None)], &[(1, "a", Some(format!("{}/x", text(&link))))]);
    let error = lab.apply(&lab.plan(&behind)).expect_err("a link");
    assert!(muster_agent::machine::chain(&error).contains("symbolic link"), "{error}");

    run("mount", &["-t", "tmpfs", "none", text(&real)]);
    let taken = want(&[("a", None)], &[(1, "a", Some(text(&real).to_owned()))]);
    let error = lab.apply(&lab.plan(&taken)).expect_err("taken");
    run("umount", &[text(&real)]);
    assert!(muster_agent::machine::chain(&error).contains("something else is mounted"), "{error}");
    lab.converge(&taken);
}

#[test]
fn a_disk_that_cannot_be_read_counts_as_held_and_not_as_blank() {
    let lab = Lab::new(64 * MIB);
    let gone = Disks::given(vec![disk("/dev/vdz", "S1", 64 * MIB, 512)], lab.folder.path());
    let observed = gone.observe().expect("no error").remove(0);
    assert_eq!(observed.contents, Contents::Unknown);
    assert!(observed.held.contains("cannot be read"), "{}", observed.held);
    // A disk that shrank under us: its end is not where it was said to be.
    let shrunk = Disks::given(vec![disk(&lab.device, "S1", 65 * MIB, 512)], lab.folder.path());
    assert!(shrunk.observe().expect("no error")[0].held.contains("cannot be read"));
}
