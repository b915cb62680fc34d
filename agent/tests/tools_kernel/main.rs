//! The tools image in the kernel that machines run: mounted as the agent mounts it, its programs run, its drivers loaded; and
//! how fast that kernel lets programs read a disk.
//!
//! For the guest of tests/tests/system/kernel.rs, which has the image at `/tools.image` and nothing else of what the image
//! brings; elsewhere these tests are left out, and say why.

mod cuts;
mod grow;
mod layers;
mod steps;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use muster_agent::linux::storage::disks::Disks;
use muster_agent::linux::{limits, modules, storage, tools};
use muster_agent::plan::storage::Step;
use muster_protocol::desired::Rates;
use muster_protocol::inventory::{Attachment, Disk, Medium, Transport};
use muster_protocol::observed::Limit;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Mounted once for all tests.
fn mounted() {
    static MOUNTED: OnceLock<()> = OnceLock::new();
    MOUNTED.get_or_init(|| {
        assert!(!tools::are_here());
        let file = File::open("/tools.image").expect("the guest has the tools image");
        tools::image::mount_at(&file, tools::MOUNTED).expect("the kernel reads what we wrote");
        assert!(tools::are_here(), "an agent that was restarted finds it");
    });
}

fn said(program: &str, argument: &str) -> String {
    let output = tools::command(program).expect("it is there").arg(argument).output().expect("it starts");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {argument}: {}: {text}", output.status);
    text
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn every_program_runs_on_the_kernel_of_machines() {
    mounted();
    for (program, argument, says) in [
        ("mke2fs", "-V", "mke2fs 1."),
        ("e2fsck", "-V", "e2fsck 1."),
        ("mkfs.xfs", "-V", "mkfs.xfs version"),
        ("xfs_db", "-V", "xfs_db version"),
        ("mkfs.btrfs", "--version", "btrfs-progs"),
        ("lvm", "version", "LVM version"),
        ("mdadm", "--version", "mdadm - v4"),
        ("cryptsetup", "--version", "cryptsetup 2."),
    ] {
        let said = said(program, argument);
        assert!(said.contains(says), "{program}: {said}");
    }
    // It prints its help and calls that a failure.
    let vfat = tools::command("mkfs.vfat").expect("it is there").arg("--help").output().expect("it starts");
    assert!(String::from_utf8_lossy(&[vfat.stdout, vfat.stderr].concat()).contains("mkfs.fat 4."));
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn what_the_programs_make_is_mounted_by_the_drivers_beside_them() {
    mounted();
    for (program, options, kind, mib) in [
        ("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "data"][..], "ext4", 32),
        ("mkfs.xfs", &["-q", "-f", "-L", "data"], "xfs", 320),
        ("mkfs.btrfs", &["-q", "-f", "-L", "data"], "btrfs", 128),
        ("mkfs.vfat", &["-n", "DATA"], "vfat", 32),
    ] {
        let disk = format!("/tmp/{kind}.disk");
        File::create(&disk).and_then(|file| file.set_len(mib << 20)).expect("a sparse file");
        let args: Vec<&OsStr> = options.iter().copied().chain([disk.as_str()]).map(OsStr::new).collect();
        tools::run(program, &args).expect(program);
        // What the kernel would ask a modprobe program for in the middle of mounting.
        let character_sets: &[_] = if kind == "vfat" { &["nls_cp437", "nls_ascii"] } else { &[] };
        for module in character_sets.iter().chain([&kind]) {
            modules::load(module).unwrap_or_else(|error| panic!("{module}: {}", muster_agent::machine::chain(&error)));
        }
        let device = Command::new("losetup").args(["--find", "--show", &disk]).output().expect("losetup");
        let device = String::from_utf8(device.stdout).expect("a name").trim().to_owned();
        let at = format!("/tmp/{kind}");
        fs::create_dir_all(&at).expect("a folder");
        mount(&device, &at, kind, MountFlags::empty(), None).unwrap_or_else(|error| panic!("{kind}: {error}"));
        fs::write(Path::new(&at).join("hello"), "world").expect("it can be written to");
        unmount(&at, UnmountFlags::empty()).expect("unmounted");
        Command::new("losetup").args(["--detach", &device]).status().expect("losetup");
        fs::remove_file(&disk).expect("removed");
    }
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn drivers_of_raid_lvm_and_encryption_are_loaded_from_it() {
    mounted();
    for module in ["raid1", "raid456", "dm_thin_pool", "dm_raid", "dm_crypt", "xts", "algif_skcipher"] {
        modules::load(module).unwrap_or_else(|error| panic!("{module}: {}", muster_agent::machine::chain(&error)));
        assert!(Path::new("/sys/module").join(module).exists(), "{module}");
    }
}

/// What is read of the loop device, in the unit that is limited, a second.
fn rate(device: &Path, chunk: usize, times: usize, of: impl Fn(usize) -> f64) -> f64 {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT;
    let file = File::from(rustix::fs::open(device, flags, rustix::fs::Mode::empty()).expect("it opens"));
    let mut room = vec![0_u8; chunk + 4096];
    let aligned = room.as_ptr().align_offset(4096);
    let begun = Instant::now();
    for i in 0..times {
        file.read_exact_at(&mut room[aligned..aligned + chunk], (i * chunk) as u64).expect("it is read");
    }
    of(times) / begun.elapsed().as_secs_f64()
}

/// Held against the limit itself: how fast the host is does not matter, only that it is faster.
#[test]
#[ignore = "needs the kernel of machines: run by the system tests, in a guest"]
fn what_the_programs_of_a_cgroup_read_is_limited_in_bytes_and_in_requests_until_the_limit_goes() {
    let root = Path::new("/sys/fs/cgroup");
    if !root.join("cgroup.controllers").exists() {
        fs::create_dir_all(root).expect("a folder");
        mount("cgroup2", root, "cgroup2", MountFlags::empty(), None).expect("the kernel has cgroups");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.img");
    File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("an image");
    let device = Command::new("losetup").args(["-f", "--show"]).arg(&image).output().expect("losetup runs");
    let device = String::from_utf8(device.stdout).expect("a path").trim().to_owned();
    let disk = Disk {
        name: device.trim_start_matches("/dev/").into(),
        size_bytes: 16 << 20,
        logical_sector: 512,
        physical_sector: 512,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Unknown,
        model: String::new(),
        serial: Some("LIMITED".into()),
        wwn: None,
    };
    let disks = Disks::given(vec![disk], &folder.path().join("run"));
    let device = Path::new(&device);
    let limit =
        |rates| Limit { disk: "serial:LIMITED".parse().expect("an id"), cgroup: "muster-test/deep".into(), rates };
    let does = |step: Step| storage::apply_on(&disks, &step, &mut |_| {}).expect("done");
    let bytes = || rate(device, 64 << 10, 48, |times| (times << 16) as f64);
    let requests = || rate(device, 4 << 10, 60, |times| times as f64);

    const BYTES: u64 = 2 << 20;
    const REQUESTS: u32 = 50;
    let slow = limit(Rates { read_bytes: Some(BYTES), ..Rates::default() });
    does(Step::Limit { limit: slow.clone() });
    fs::write(root.join("muster-test/deep/cgroup.procs"), "0").expect("this process moves");
    let limited = bytes() / BYTES as f64;
    assert!((0.5..1.25).contains(&limited), "{limited} of the limit");
    assert_eq!(limits::observe(&disks), [slow]);

    let few = limit(Rates { read_iops: Some(REQUESTS), ..Rates::default() });
    does(Step::Limit { limit: few.clone() });
    assert_eq!(limits::observe(&disks), std::slice::from_ref(&few), "one takes the place of the other");
    let limited = requests() / f64::from(REQUESTS);
    assert!((0.5..1.25).contains(&limited), "{limited} of the limit");
    let free = bytes() / BYTES as f64;
    assert!(free > 0.75, "bytes are not limited any more: {free}");

    // By hand another one, and then none: both are what drift is made of, and what the agent repairs.
    let number = fs::read_to_string(Path::new("/sys/block").join(device.file_name().expect("a name")).join("dev"));
    let number = number.expect("it has one").trim().to_owned();
    assert_eq!(limits::lost(&disks), []);
    for rate in ["riops=49", "riops=max"] {
        fs::write(root.join("muster-test/deep/io.max"), format!("{number} {rate}")).expect("changed");
        assert_eq!(limits::lost(&disks), std::slice::from_ref(&few), "{rate}");
        does(Step::Limit { limit: few.clone() });
        assert_eq!(limits::lost(&disks), [], "{rate}");
    }

    does(Step::Unlimit { limit: few.clone() });
    does(Step::Unlimit { limit: few });
    assert_eq!(limits::lost(&disks), []);
    assert_eq!(limits::observe(&disks), []);
    let free = requests() / f64::from(REQUESTS);
    assert!(free > 2.0, "{free} of what was the limit");
    fs::write(root.join("cgroup.procs"), "0").expect("this process moves back");
    let gone = Command::new("losetup").arg("-d").arg(device).status().expect("losetup runs");
    assert!(gone.success());
}
