//! The tools image in the kernel that machines run: mounted as the agent mounts it, its programs run, its drivers loaded.
//!
//! For the guest of tests/tests/system/kernel.rs, which has the image at `/tools.image` and nothing else of what the image
//! brings; elsewhere these tests are left out, and say why.

mod layers;
mod steps;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use muster_agent::linux::{modules, tools};
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
