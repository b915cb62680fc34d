//! Arrays, volume groups and LUKS devices as mdadm, LVM and cryptsetup make them, beside what we read of them.
//!
//! Needs root, loop devices, and a kernel with md and the device mapper; many kernels that tests run on have neither. What
//! needs them is ignored here, and run with all of this file in the kernel that machines have: `tests/tests/system/kernel.rs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use muster_agent::linux::storage::disks::{Disks, arrays};
use muster_protocol::inventory::{self, ArrayState, Attachment, Disk, Medium, Transport};
use muster_protocol::observed::{
    self, Contents, Headers, Layers, LvmId, MemberState, Metadata, RaidMember, Role, Volume, md_uuid,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A machine whose disks are loop devices.
struct Lab {
    folder: tempfile::TempDir,
    devices: Vec<String>,
    disks: Disks,
    /// What ends what a test started, last things first.
    undo: Vec<Vec<String>>,
}

impl Lab {
    fn new(sizes: &[u64]) -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests need root for loop devices");
        let folder = tempfile::tempdir().expect("a folder");
        let attach = |(number, size): (usize, &u64)| {
            let image = folder.path().join(format!("image{number}"));
            File::create(&image).expect("a file").set_len(*size).expect("a sparse file");
            run("losetup", &["--find", "--show", text(&image)]).trim().to_owned()
        };
        let devices: Vec<String> = sizes.iter().enumerate().map(attach).collect();
        let disk = |(device, size_bytes): (&String, &u64)| Disk {
            name: kernel_name(device),
            size_bytes: *size_bytes,
            logical_sector: 512,
            physical_sector: 512,
            medium: Medium::SolidState,
            attachment: Attachment::Fixed,
            transport: Transport::Virtio,
            model: "loop".into(),
            serial: Some(kernel_name(device)),
            wwn: None,
        };
        let disks = devices.iter().zip(sizes).map(disk).collect();
        let disks = Disks::given(disks, &folder.path().join("run"));
        Self { folder, devices, disks, undo: Vec::new() }
    }

    fn observe(&self) -> (Vec<observed::Disk>, Layers) {
        self.disks.observe_all().expect("observed")
    }

    /// Notes what ends something.
    fn undo(&mut self, command: &[&str]) {
        self.undo.push(command.iter().map(|&word| word.to_owned()).collect());
    }

    /// The volumes of this group are taken out of the kernel.
    fn undo_group(&mut self, group: &str) {
        let config = config(self);
        self.undo(&["lvm", "vgchange", "--activate", "n", group, "--config", &config]);
    }

    fn key(&self) -> PathBuf {
        let path = self.folder.path().join("key");
        fs::write(&path, "only a test").expect("written");
        path
    }

    fn member(&self, disk: usize) -> RaidMember {
        match self.observe().0.swap_remove(disk).contents {
            Contents::Raid(member) => *member,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for command in self.undo.iter().rev() {
            let _ = Command::new(&command[0]).args(&command[1..]).env("DM_DISABLE_UDEV", "1").output();
        }
        for device in &self.devices {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).env("LC_ALL", "C").env("DM_DISABLE_UDEV", "1").output();
    let out = out.unwrap_or_else(|e| panic!("{program} is needed: {e}; run scripts/setup"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

/// A command of LVM, on these devices alone and without a daemon.
fn lvm(lab: &Lab, args: &[&str]) -> String {
    run("lvm", &[args, &["--config", &config(lab)]].concat())
}

fn config(lab: &Lab) -> String {
    let filter: Vec<String> = lab.devices.iter().map(|device| format!("\"a|^{device}$|\"")).collect();
    let md = "\"a|^/dev/md|\", \"a|^/dev/mapper/|\"";
    format!(
        "devices {{ filter = [{}, {md}, \"r|.*|\"] use_devicesfile = 0 }} \
         activation {{ udev_sync = 0 udev_rules = 0 monitoring = 0 }} backup {{ backup = 0 archive = 0 }} \
         global {{ thin_check_executable = \"\" }}",
        filter.join(", ")
    )
}

/// The rows of a report of LVM.
fn report(lab: &Lab, args: &[&str], rows: &str) -> Vec<BTreeMap<String, String>> {
    let text = lvm(lab, &[args, &["--reportformat", "json", "--units", "b", "--nosuffix"]].concat());
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let rows = report["report"][0][rows].as_array().expect("rows").iter();
    let row = |row: &Value| {
        let row = row.as_object().expect("a row");
        row.iter().map(|(key, value)| (key.clone(), value.as_str().expect("a text").to_owned())).collect()
    };
    rows.map(row).collect()
}

/// `KEY=VALUE` lines.
fn export(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn kernel_name(device: &str) -> String {
    device.trim_start_matches("/dev/").into()
}

/// Waits until something is so. What the kernel does in the background takes its time.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match look() {
            Some(found) => return found,
            None if Instant::now() > end => panic!("{what} has not come about"),
            None => std::thread::yield_now(),
        }
    }
}

/// Our word of a member, beside mdadm's.
fn agrees_with_mdadm(lab: &Lab, disk: usize) -> RaidMember {
    let member = lab.member(disk);
    let said = export(&run("mdadm", &["--examine", "--export", &lab.devices[disk]]));
    let details = run("mdadm", &["--examine", &lab.devices[disk]]);
    assert_eq!(said["MD_LEVEL"], member.level, "{said:?}");
    assert_eq!(said["MD_DEVICES"], member.devices.to_string(), "{said:?}");
    assert_eq!(said["MD_UUID"], member.array_uuid(), "{said:?}");
    assert_eq!(said.get("MD_NAME").map(String::as_str).unwrap_or_default(), member.name, "{said:?}");
    let line = |key: &str| {
        let line =
            details.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_else(|| panic!("{details}"));
        line.trim_start_matches([' ', ':']).to_owned()
    };
    assert_eq!(line("Events"), member.events.to_string());
    match member.role {
        Role::Member(slot) if member.metadata != Metadata::V0_90 => {
            assert_eq!(line("Device Role"), format!("Active device {slot}"), "{details}");
        }
        Role::Spare if member.metadata != Metadata::V0_90 => assert_eq!(line("Device Role"), "spare", "{details}"),
        _ => {}
    }
    member
}

#[test]
#[ignore = "needs a kernel with md: run in a booted machine by tests/tests/system/kernel.rs"]
fn members_of_every_metadata_and_level_are_told_as_mdadm_tells_them() {
    let cases = [
        ("1.2", "raid1", 2, 1, Metadata::V1_2),
        ("1.1", "raid5", 3, 0, Metadata::V1_1),
        ("1.0", "raid10", 4, 0, Metadata::V1_0),
        ("1.2", "raid6", 4, 0, Metadata::V1_2),
        ("1.2", "raid0", 2, 0, Metadata::V1_2),
        ("0.90", "raid1", 2, 1, Metadata::V0_90),
    ];
    for (number, (metadata, level, devices, spares, form)) in cases.into_iter().enumerate() {
        let mut lab = Lab::new(&vec![24 * MIB; devices + spares]);
        let device = format!("/dev/md{}", 50 + number);
        let (count, extra) = (format!("--raid-devices={devices}"), format!("--spare-devices={spares}"));
        let name = format!("--name=set{number}");
        let mut args = vec!["--create", &device, "--run", "--metadata", metadata, "--level", level, &count];
        args.extend((spares > 0).then_some(extra.as_str()));
        args.extend((form != Metadata::V0_90).then_some(["--homehost=lab", name.as_str()]).into_iter().flatten());
        args.extend(lab.devices.iter().map(String::as_str));
        run("mdadm", &args);
        lab.undo(&["mdadm", "--stop", &device]);

        // A new RAID 5 is one that lacks its last member, and that is filled.
        let running = eventually("a whole array at rest", || {
            let array = lab.observe().1.arrays.pop()?;
            (array.sync.is_none() && array.array.state == ArrayState::Whole).then_some(array)
        });
        assert_eq!(running.array.level, level, "{running:?}");
        assert_eq!((running.array.name.as_str(), running.array.devices), (&device[5..], devices as u16));
        let said = export(&run("mdadm", &["--detail", "--export", &device]));
        assert_eq!(running.uuid.as_ref().map(md_uuid).as_deref(), Some(said["MD_UUID"].as_str()));
        let spare = |m: &&observed::ArrayMember| m.state == MemberState::Spare;
        assert_eq!(running.members.iter().filter(spare).count(), spares, "{running:?}");
        assert!(lab.observe().0.iter().all(|disk| disk.held.is_empty()), "an array that nobody uses is told as one");
        run("mdadm", &["--stop", &device]);
        for disk in 0..devices + spares {
            assert_eq!(agrees_with_mdadm(&lab, disk).metadata, form);
        }
        let (disks, layers) = lab.observe();
        assert!(disks.iter().all(|disk| disk.held.is_empty()), "what does not run holds nothing");
        let stopped = &layers.arrays[0];
        assert_eq!((stopped.array.state, stopped.uuid), (ArrayState::Stopped, running.uuid), "{stopped:?}");
        assert_eq!(stopped.members.len(), devices + spares);
        assert_eq!(stopped.array.missing.iter().count(), 0, "{stopped:?}");
    }
}

#[test]
#[ignore = "needs a kernel with md: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_failed_member_is_seen_and_so_is_the_one_that_takes_its_place() {
    let mut lab = Lab::new(&[24 * MIB, 24 * MIB, 24 * MIB]);
    let devices = lab.devices.clone();
    let [one, two, three] = &devices[..] else { panic!("three disks") };
    run("mdadm", &["--create", "/dev/md60", "--run", "--metadata=1.2", "--level=1", "--raid-devices=2", one, two]);
    lab.undo(&["mdadm", "--stop", "/dev/md60"]);
    let now = || -> inventory::Array {
        let mut all = arrays(Path::new("/"));
        all.retain(|array| array.name == "md60");
        all.pop().expect("the array")
    };
    eventually("two members in sync", || (now().state == ArrayState::Whole).then_some(()));

    run("mdadm", &["/dev/md60", "--fail", two]);
    let failed = eventually("a failed member", || Some(now()).filter(|array| !array.faulty.is_empty()));
    let told = format!("md60 (raid1): degraded, lacks member 1 of 2; faulty: {}", kernel_name(two));
    assert_eq!(failed.in_words(), told);
    run("mdadm", &["/dev/md60", "--remove", two]);
    assert_eq!(now().in_words(), "md60 (raid1): degraded, lacks member 1 of 2");
    run("mdadm", &["/dev/md60", "--add", three]);
    let healed = eventually("a whole array", || Some(now()).filter(|array| array.state == ArrayState::Whole));
    assert_eq!(healed.in_words(), "md60 (raid1): whole");

    run("mdadm", &["--stop", "/dev/md60"]);
    let stopped = lab.observe().1.arrays.remove(0);
    let left_behind = kernel_name(two);
    assert_eq!(stopped.array.faulty, left_behind, "its superblock is older than those of the others: {stopped:?}");
    assert_eq!(stopped.array.missing.iter().count(), 0);
    drop(lab.member(1));
}

/// A volume by its name.
fn volume<'a>(layers: &'a Layers, name: &str) -> &'a Volume {
    layers.volumes.iter().find(|volume| volume.name == name).unwrap_or_else(|| panic!("no {name} in {layers:?}"))
}

/// Our word of all groups and volumes, beside LVM's.
fn agrees_with_lvm(lab: &Lab) -> Layers {
    let (_, layers) = lab.observe();
    let id = |row: &BTreeMap<String, String>, key: &str| row[key].parse::<LvmId>().expect("an id");
    let number = |row: &BTreeMap<String, String>, key: &str| row[key].parse::<u64>().expect("a number");
    let columns = "vg_name,vg_uuid,vg_seqno,vg_extent_size,vg_extent_count,vg_free_count,pv_count";
    let groups = report(lab, &["vgs", "-o", columns], "vg");
    assert_eq!(groups.len(), layers.groups.len());
    for (row, ours) in groups.iter().zip(&layers.groups) {
        assert_eq!((row["vg_name"].as_str(), id(row, "vg_uuid")), (ours.name.name.as_str(), ours.name.uuid));
        assert_eq!(
            (number(row, "vg_seqno"), number(row, "vg_extent_size")),
            (u64::from(ours.seqno), ours.extent_bytes)
        );
        assert_eq!((number(row, "vg_extent_count"), number(row, "vg_free_count")), (ours.extents, ours.free_extents));
        assert_eq!(number(row, "pv_count"), ours.members.len() as u64);
    }
    let physical = report(lab, &["pvs", "-o", "pv_name,pv_uuid,pv_pe_count,pv_pe_alloc_count"], "pv");
    for row in physical.iter().filter(|row| row["pv_name"].starts_with("/dev/")) {
        let mut members = layers.groups.iter().flat_map(|group| &group.members);
        let ours = members.find(|member| member.uuid == id(row, "pv_uuid")).expect("told");
        assert_eq!(ours.device, kernel_name(&row["pv_name"]));
        assert_eq!(
            (number(row, "pv_pe_count"), number(row, "pv_pe_alloc_count")),
            (ours.extents, ours.extents - ours.free_extents)
        );
    }
    let columns = "lv_name,lv_uuid,lv_size,segtype,pool_lv,origin,lv_active";
    let mut volumes = report(lab, &["lvs", "-o", columns], "lv");
    // A volume of several segments has a row for each.
    volumes.dedup_by_key(|row| row["lv_uuid"].clone());
    assert_eq!(volumes.len(), layers.volumes.len(), "{volumes:?} {:?}", layers.volumes);
    for row in &volumes {
        let ours = volume(&layers, &row["lv_name"]);
        assert_eq!((id(row, "lv_uuid"), number(row, "lv_size")), (ours.uuid, ours.size_bytes), "{row:?}");
        assert_eq!((row["pool_lv"].as_str(), row["origin"].as_str()), (&*ours.pool, &*ours.origin), "{row:?}");
        // lvs tells a snapshot by its attributes, and its segments as what it stores its differences on.
        let kind = if ours.kind == "snapshot" { "linear" } else { &ours.kind };
        assert_eq!(row["segtype"], kind, "{row:?}");
        assert_eq!(row["lv_active"] == "active", !ours.device.is_empty(), "{row:?} {ours:?}");
    }
    layers
}

#[test]
fn a_group_of_volumes_that_do_not_run_is_told_as_lvm_tells_it() {
    let lab = Lab::new(&[48 * MIB, 24 * MIB]);
    let [one, two] = &lab.devices[..] else { panic!("two disks") };
    // A copy of the metadata at the end as well, and on the second disk none.
    lvm(&lab, &["pvcreate", "--pvmetadatacopies", "2", one]);
    lvm(&lab, &["pvcreate", "--pvmetadatacopies", "0", two]);
    lvm(&lab, &["vgcreate", "--physicalextentsize", "1M", "office", one, two]);
    let create = |args: &[&str]| {
        let common = ["lvcreate", "--driverloaded", "n", "--activate", "n", "--zero", "n", "--wipesignatures", "n"];
        lvm(&lab, &[&common, args].concat());
    };
    create(&["--name", "data", "--extents", "12", "office"]);
    create(&["--name", "wide", "--stripes", "2", "--extents", "6", "office"]);
    create(&["--name", "my-data", "--extents", "1", "office"]);
    lvm(&lab, &["lvextend", "--driverloaded", "n", "--extents", "+3", "office/data"]);

    let (disks, layers) = lab.observe();
    let Contents::Lvm(first) = &disks[0].contents else { panic!("{:?}", disks[0]) };
    assert_eq!(first.group.as_ref().map(|group| group.name.as_str()), Some("office"));
    let Contents::Lvm(second) = &disks[1].contents else { panic!("{:?}", disks[1]) };
    assert_eq!(second.group, None, "it has no metadata of its own");
    assert_eq!(
        layers.groups[0].members.iter().map(|m| &m.device).collect::<Vec<_>>(),
        [&kernel_name(one), &kernel_name(two)]
    );
    let kinds: Vec<_> = layers.volumes.iter().map(|v| (v.name.as_str(), v.kind.as_str(), v.size_bytes / MIB)).collect();
    assert_eq!(kinds, [("data", "linear", 15), ("my-data", "linear", 1), ("wide", "striped", 6)]);
    agrees_with_lvm(&lab);

    // The metadata at the start is gone, and the label with it: nothing is told of what cannot be believed.
    run("dd", &["if=/dev/zero", &format!("of={one}"), "bs=512", "seek=8", "count=1", "conv=notrunc,fsync"]);
    let (_, layers) = lab.observe();
    assert_eq!(layers.volumes.len(), 3, "the copy at the end is read");
}

#[test]
#[ignore = "needs a kernel with the device mapper: run in a booted machine by tests/tests/system/kernel.rs"]
fn volumes_of_every_kind_are_told_as_lvm_tells_them() {
    let mut lab = Lab::new(&[96 * MIB, 96 * MIB]);
    let devices = lab.devices.clone();
    let [one, two] = &devices[..] else { panic!("two disks") };
    lvm(&lab, &["vgcreate", "--yes", "--physicalextentsize", "1M", "vg-one", one, two]);
    lab.undo_group("vg-one");
    let create = |args: &[&str]| lvm(&lab, &[&["lvcreate", "--yes", "--zero", "n"], args].concat());
    create(&["--name", "data", "--size", "16M", "vg-one"]);
    create(&["--name", "wide", "--stripes", "2", "--size", "8M", "vg-one"]);
    create(&["--name", "twice", "--type", "raid1", "--mirrors", "1", "--size", "8M", "--nosync", "vg-one"]);
    lvm(&lab, &["lvcreate", "--yes", "--name", "before", "--snapshot", "--size", "4M", "vg-one/data"]);
    lvm(&lab, &["lvcreate", "--yes", "--name", "pool", "--type", "thin-pool", "--size", "16M", "vg-one"]);
    lvm(&lab, &["lvcreate", "--yes", "--name", "thin", "--thin", "--virtualsize", "64M", "vg-one/pool"]);
    lvm(&lab, &["lvcreate", "--yes", "--name", "later", "--snapshot", "vg-one/thin"]);
    create(&["--name", "off", "--activate", "n", "--size", "4M", "vg-one"]);

    let layers = agrees_with_lvm(&lab);
    run("mke2fs", &["-q", "-t", "ext4", "-L", "books", &format!("/dev/{}", volume(&layers, "data").device)]);
    run("mkswap", &["-L", "deep", &format!("/dev/{}", volume(&layers, "thin").device)]);
    let (disks, layers) = lab.observe();
    let Some(Contents::Filesystem(books)) = &volume(&layers, "data").contents else { panic!("{layers:?}") };
    assert_eq!((books.kind.as_str(), books.label.as_str()), ("ext4", "books"));
    assert!(volume(&layers, "thin").contents.as_ref().is_some_and(|found| *found != Contents::Blank), "{layers:?}");
    assert_eq!((&volume(&layers, "off").contents, &volume(&layers, "pool").contents), (&None, &None));
    assert_eq!(disks[0].held, "", "volumes are told as such");

    lvm(&lab, &["vgchange", "--activate", "n", "vg-one"]);
    let (disks, layers) = lab.observe();
    assert_eq!(disks[0].held, "", "what is not active holds nothing");
    assert!(layers.volumes.iter().all(|volume| volume.device.is_empty() && volume.contents.is_none()));
    assert_eq!(agrees_with_lvm(&lab).volumes.len(), layers.volumes.len());

    run("dd", &["if=/dev/zero", &format!("of={two}"), "bs=1M", "count=4", "conv=fsync"]);
    let (_, layers) = lab.observe();
    let missing: Vec<bool> = layers.groups[0].members.iter().map(|member| member.device.is_empty()).collect();
    assert_eq!(missing, [false, true], "a disk that is gone is told as missing");
}

/// Lines of luksDump, `Key: value`.
fn dump(device: &str) -> BTreeMap<String, String> {
    let text = run("cryptsetup", &["luksDump", device]);
    let line = |line: &str| line.split_once(':').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    // The header's own lines come first.
    text.lines().rev().filter_map(line).collect()
}

fn format(lab: &Lab, device: &str, args: &[&str]) {
    let key = lab.key();
    let common = ["luksFormat", "-q", "--pbkdf-force-iterations", "1000", "--key-file", text(&key)];
    run("cryptsetup", &[&common, args, &[device]].concat());
}

#[test]
fn headers_of_luks_are_told_as_cryptsetup_tells_them() {
    let lab = Lab::new(&[24 * MIB, 8 * MIB]);
    let [two, one] = &lab.devices[..] else { panic!("two disks") };
    format(&lab, two, &["--type", "luks2", "--pbkdf", "pbkdf2", "--label", "vault", "--subsystem", "payroll"]);
    format(&lab, one, &["--type", "luks1"]);
    let header = |disk: usize| match lab.observe().0.swap_remove(disk).contents {
        Contents::Luks(luks) => *luks,
        other => panic!("{other:?}"),
    };
    let (ours, theirs) = (header(0), dump(two));
    assert_eq!((ours.version, theirs["Version"].as_str(), ours.headers), (2, "2", Headers::Whole));
    assert_eq!((&ours.uuid, &ours.label, &ours.subsystem), (&theirs["UUID"], &theirs["Label"], &theirs["Subsystem"]));
    let (ours, theirs) = (header(1), dump(one));
    assert_eq!((ours.version, theirs["Version"].as_str(), &ours.uuid), (1, "1", &theirs["UUID"]));

    let overwrite = |block: u64| {
        let seek = format!("seek={block}");
        run("dd", &["if=/dev/urandom", &format!("of={two}"), "bs=4096", &seek, "count=1", "conv=notrunc,fsync"]);
    };
    // The text behind the second header.
    overwrite(5);
    assert_eq!((header(0).headers, header(0).label.as_str()), (Headers::FirstAlone, "vault"));
    format(&lab, two, &["--type", "luks2", "--pbkdf", "pbkdf2", "--label", "vault"]);
    overwrite(0);
    assert_eq!((header(0).headers, header(0).label.as_str()), (Headers::SecondAlone, "vault"));
}

#[test]
#[ignore = "needs a kernel with md and the device mapper: run in a booted machine by tests/tests/system/kernel.rs"]
fn layers_on_layers_are_told_up_to_the_filesystem() {
    let mut lab = Lab::new(&[64 * MIB, 64 * MIB]);
    let devices = lab.devices.clone();
    let [one, two] = &devices[..] else { panic!("two disks") };
    run("mdadm", &["--create", "/dev/md70", "--run", "--metadata=1.2", "--level=1", "--raid-devices=2", one, two]);
    lab.undo(&["mdadm", "--stop", "/dev/md70"]);
    lvm(&lab, &["vgcreate", "--yes", "stack", "/dev/md70"]);
    lab.undo_group("stack");
    lvm(&lab, &["lvcreate", "--yes", "--zero", "n", "--name", "data", "--size", "40M", "stack"]);
    let inner = format!("/dev/{}", volume(&lab.observe().1, "data").device);
    format(&lab, &inner, &["--type", "luks2", "--pbkdf", "pbkdf2", "--label", "vault"]);
    let key = lab.key();
    run("cryptsetup", &["open", "--key-file", text(&key), &inner, "cellar"]);
    lab.undo(&["dmsetup", "remove", "cellar"]);
    let opened = lab.observe().1.opened.remove(0);
    run("mke2fs", &["-q", "-t", "ext4", "-L", "wine", &format!("/dev/{}", opened.device)]);
    let at = lab.folder.path().join("mnt");
    fs::create_dir(&at).expect("made");
    run("mount", &[&format!("/dev/{}", opened.device), text(&at)]);
    lab.undo(&["umount", text(&at)]);

    let (_, layers) = lab.observe();
    let Some(Contents::Lvm(physical)) = &layers.arrays[0].contents else { panic!("{layers:?}") };
    assert_eq!(physical.group.as_ref().map(|group| group.name.as_str()), Some("stack"));
    assert_eq!(layers.groups[0].members[0].device, "md70");
    let Some(Contents::Luks(luks)) = &volume(&layers, "data").contents else { panic!("{layers:?}") };
    let opened = &layers.opened[0];
    assert_eq!((&opened.uuid, opened.name.as_str()), (&luks.uuid, "cellar"));
    assert_eq!(opened.on, kernel_name(&inner));
    let Some(Contents::Filesystem(wine)) = &opened.contents else { panic!("{opened:?}") };
    assert_eq!((wine.label.as_str(), wine.mounted_at.as_str()), ("wine", text(&at)));
    let held = lab.observe().0.swap_remove(0).held;
    assert!(held.contains("is a member of the array md70: ") && held.contains(" is mounted at "), "{held}");

    run("umount", &[text(&at)]);
    run("dmsetup", &["suspend", "cellar"]);
    assert_eq!(lab.observe().1.opened[0].contents, None, "a suspended device is not asked: it would not answer");
    run("dmsetup", &["resume", "cellar"]);
}
