//! Every kind of filesystem: made, labeled, mounted, grown, interrupted; judged by the formats' own tools.

use muster_agent::linux::storage::disks::{Region, Room};
use muster_protocol::desired::{UNFINISHED, VolumeId};

use super::*;

const FORMATS: [(Format, u64); 5] =
    [(Format::Ext4, 64), (Format::Xfs, 320), (Format::Btrfs, 256), (Format::Vfat, 64), (Format::Swap, 64)];

fn label(format: Format) -> &'static str {
    if format == Format::Vfat { "DATA" } else { "data" }
}

fn volume_id(format: Format) -> VolumeId {
    match format {
        Format::Vfat => VolumeId::Serial(0x1a2b_3c4d),
        // Each its own: the kernel mounts no second XFS or Btrfs with the same.
        _ => {
            let text = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("random");
            format.volume_id(text.trim()).expect("a UUID")
        }
    }
}

/// One partition with one filesystem, not mounted.
fn one(format: Format, size_mib: Option<u64>) -> Storage {
    let mut storage = want(&[("p", size_mib)], &[(1, label(format), None)]);
    storage.filesystems[0].format = format;
    storage
}

fn mounted(mut storage: Storage, path: &str, options: &[&str]) -> Storage {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    storage.filesystems[0].used = Use::Mount(Mount { path: path.into(), options });
    storage
}

/// Its own tools find no fault with a filesystem that is not mounted.
fn is_sound(format: Format, device: &str) {
    match format {
        Format::Ext4 => drop(run("e2fsck", &["-f", "-n", device])),
        Format::Xfs => drop(run("xfs_repair", &["-n", device])),
        Format::Btrfs => drop(run("btrfs", &["check", device])),
        Format::Vfat => drop(run("fsck.vfat", &["-n", device])),
        Format::Swap => drop(run("swaplabel", &[device])),
    }
}

fn mountinfo(path: &str) -> String {
    let all = fs::read_to_string("/proc/self/mountinfo").expect("read");
    all.lines().find(|line| line.split(' ').nth(4) == Some(path)).unwrap_or_default().to_owned()
}

fn every_format_is_made(sector: u32) {
    let lab = Lab::with(1024 * MIB, sector);
    let parts: Vec<(&str, Option<u64>)> =
        ["e", "x", "b", "v", "s"].into_iter().zip(FORMATS.map(|(_, size)| Some(size))).collect();
    let mut desired = want(&parts, &[1, 2, 3, 4, 5].map(|number| (number, "", None)));
    for (filesystem, (format, _)) in desired.filesystems.iter_mut().zip(FORMATS) {
        (filesystem.format, filesystem.label, filesystem.uuid) =
            (format, label(format).into(), Some(volume_id(format)));
        filesystem.used = match format {
            Format::Swap => Use::Swap,
            // Not every kernel that tests run on knows it.
            Format::Vfat => Use::Later,
            _ => Use::Mount(Mount { path: lab.mount_point(format.name()), options: vec![] }),
        };
    }
    lab.converge(&desired);
    let observed = lab.observe();
    assert_eq!(observed.held, "", "mounts and swap of the agent's own hold nothing");
    for (i, filesystem) in desired.filesystems.iter().enumerate() {
        let partition = format!("p{}", i + 1);
        let said = ["TYPE", "LABEL", "UUID"].map(|tag| lab.blkid(&partition, tag));
        let uuid = filesystem.uuid.expect("each has one").to_string();
        assert_eq!(said, [filesystem.format.name().to_owned(), filesystem.label.clone(), uuid.clone()]);
        let Contents::Filesystem(found) = &observed.partitions[i].contents else { panic!("{observed:?}") };
        assert_eq!([&found.kind, &found.label, &found.uuid], [&said[0], &said[1], &said[2]]);
        let left = observed.partitions[i].size_bytes - found.size_bytes;
        assert!(filesystem.format == Format::Vfat || left < 16 * MIB, "{found:?}");
        if let Use::Mount(mount) = &filesystem.used {
            fs::write(format!("{}/hello", mount.path), "world").expect("it is mounted");
        }
    }
    assert!(fs::read_to_string("/proc/swaps").expect("read").contains(&format!("{}p5", lab.device)));

    // As after a reboot.
    for mount in desired.filesystems.iter().filter_map(|filesystem| filesystem.used.mount()) {
        run("umount", &[&mount.path]);
    }
    run("swapoff", &[&format!("{}p5", lab.device)]);
    for (i, (format, _)) in FORMATS.iter().enumerate() {
        is_sound(*format, &format!("{}p{}", lab.device, i + 1));
    }
    let steps = lab.plan(&desired);
    assert!(steps.iter().all(|step| matches!(step, Step::Mount { .. } | Step::SwapOn { .. })), "{steps:?}");
    assert_eq!(steps.len(), 4);
    lab.converge(&desired);
    for mount in desired.filesystems.iter().filter_map(|filesystem| filesystem.used.mount()) {
        assert_eq!(fs::read_to_string(format!("{}/hello", mount.path)).expect("still there"), "world");
    }
}

#[test]
fn every_format_is_made_and_used_as_other_tools_see_it() {
    every_format_is_made(512);
}

#[test]
fn every_format_is_made_on_sectors_of_4096_bytes() {
    every_format_is_made(4096);
}

#[test]
fn a_filesystem_without_a_label_has_none() {
    for (format, _) in FORMATS {
        let lab = Lab::new(400 * MIB);
        let mut desired = one(format, None);
        desired.filesystems[0].label = String::new();
        lab.converge(&desired);
        assert_eq!((lab.blkid("p1", "TYPE"), lab.observe().partitions.len()), (format.name().into(), 1));
        let blkid = Command::new("blkid").args(["-p", "-s", "LABEL", &format!("{}p1", lab.device)]).output();
        assert!(!String::from_utf8_lossy(&blkid.expect("blkid").stdout).contains("LABEL"), "{format:?}");
        is_sound(format, &format!("{}p1", lab.device));
    }
}

#[test]
fn its_mkfs_is_given_the_options() {
    let lab = Lab::new(64 * MIB);
    let mut desired = one(Format::Ext4, None);
    desired.filesystems[0].options = ["-m", "0", "-N", "4096"].map(str::to_owned).to_vec();
    lab.converge(&desired);
    let told = run("dumpe2fs", &["-h", &format!("{}p1", lab.device)]);
    let field = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(field("Reserved block count").ends_with(" 0") && field("Inode count").ends_with(" 4096"), "{told}");

    // One that the program itself does not take: what it says is told, and what it leaves is no filesystem.
    let lab = Lab::new(64 * MIB);
    desired.filesystems[0].options = vec!["-b".into(), "333".into()];
    let steps = lab.plan(&desired);
    let error = lab.apply(&steps).expect_err("no such block size").to_string();
    assert!(error.contains("mke2fs failed") && error.contains("block size"), "{error}");
    assert_eq!(lab.observe().partitions[0].contents, Contents::Blank);
}

/// As where a disk broke off within the superblock: the label is there, and its checksum is not.
#[test]
fn a_filesystem_with_half_a_superblock_is_not_kept() {
    for (format, label_at) in [(Format::Ext4, 1024 + 120), (Format::Btrfs, 65536 + 299)] {
        let lab = Lab::new(400 * MIB);
        let mut desired = one(format, None);
        desired.filesystems[0].label = "this".into();
        lab.converge(&desired);
        assert_eq!(lab.plan(&desired), [], "{format:?} is kept");
        lab.write(MIB + label_at, b"that");
        desired.filesystems[0].label = "that".into();
        let refused = plan(&desired, &[lab.observe()]).expect_err("it is damaged").to_string();
        assert!(refused.contains(&format!("damaged {}; say `wipe_filesystem: true`", format.name())), "{refused}");
    }
}

#[test]
fn a_fat_has_its_label_wherever_others_look_for_it() {
    for bits in ["12", "16", "32"] {
        let lab = Lab::new(40 * MIB);
        let mut desired = one(Format::Vfat, Some(if bits == "12" { 8 } else { 36 }));
        desired.filesystems[0].options = ["-F", bits].map(str::to_owned).to_vec();
        lab.converge(&desired);
        let node = format!("{}p1", lab.device);
        let found = run("blkid", &["--probe", "--output", "export", &node]);
        for said in ["LABEL=DATA\n", "LABEL_FATBOOT=DATA\n"] {
            assert!(found.contains(said), "FAT{bits}: {found}");
        }
        // It compares the boot sector with its copy.
        is_sound(Format::Vfat, &node);
    }
}

#[test]
fn another_uuid_is_another_filesystem() {
    let lab = Lab::new(64 * MIB);
    lab.converge(&one(Format::Ext4, None));
    let mut other = one(Format::Ext4, None);
    other.filesystems[0].uuid = Some(volume_id(Format::Ext4));
    let refused = plan(&other, &[lab.observe()]).expect_err("it has another").to_string();
    assert!(refused.contains("with the UUID") && refused.contains("wipe_filesystem"), "{refused}");
    other.filesystems[0].existing = Existing::Replace;
    assert!(lab.plan(&other)[0].is_destructive());
    lab.converge(&other);
}

#[test]
fn whatever_a_power_cut_leaves_of_a_mkfs_is_never_kept_unless_it_is_whole() {
    for (format, size) in FORMATS {
        let lab = Lab::new((size + 2) * MIB);
        lab.converge(&want(&[("p", Some(size))], &[]));
        let steps = lab.plan(&one(format, Some(size)));
        let copies = lab.folder.path().join("copies");
        fs::create_dir(&copies).expect("made");
        let (image, partition) = (lab.image(), size * MIB);
        let count = std::thread::scope(|scope| {
            let making = scope.spawn(|| lab.apply(&steps));
            let mut count = 0;
            while !making.is_finished() && count < 200 {
                // What the kernel has written back so far is what a power cut leaves.
                let copy = copies.join(count.to_string());
                run("cp", &["--sparse=always", text(&image), text(&copy)]);
                count += 1;
            }
            making.join().expect("no panic").unwrap_or_else(|e| panic!("{}", muster_agent::machine::chain(&e)));
            count
        });
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..count {
            let copy = copies.join(i.to_string());
            let file = File::open(&copy).expect("a copy");
            let contents =
                Region { file: &file, start: MIB, size: partition }.contents(&mut Room::default()).expect("read");
            seen.insert(storage::in_words(&contents, &[]));
            let is_called_so = |fs: &observed::Filesystem| fs.label == label(format);
            if matches!(&contents, Contents::Filesystem(fs) if is_called_so(fs)) {
                let alone = lab.folder.path().join("alone");
                let offset = format!("skip={MIB}");
                let (from, to) = (format!("if={}", text(&copy)), format!("of={}", text(&alone)));
                let flags = ["iflag=skip_bytes,count_bytes", "conv=sparse", "bs=1M", "status=none"];
                run("dd", &[&[&*from, &*to, &*offset, &format!("count={partition}")], &flags[..]].concat());
                is_sound(format, text(&alone));
            }
        }
        assert!(count > 0, "{format:?} was made before anybody looked");
        println!("{format:?}: {count} copies, {seen:?}");
    }
}

#[test]
fn a_filesystem_that_was_not_finished_is_told_and_replaced_only_with_leave() {
    for (format, _) in FORMATS.into_iter().filter(|(format, _)| *format != Format::Swap) {
        let lab = Lab::new(400 * MIB);
        lab.converge(&want(&[("p", None)], &[]));
        let node = format!("{}p1", lab.device);
        match format {
            Format::Vfat => run("mkfs.vfat", &["-n", &UNFINISHED.to_uppercase(), &node]),
            Format::Ext4 => run("mkfs.ext4", &["-q", "-L", UNFINISHED, &node]),
            _ => run(&format!("mkfs.{}", format.name()), &["-q", "-L", UNFINISHED, &node]),
        };
        let mut desired = one(format, None);
        desired.filesystems[0].label = label(format).into();
        let refused = plan(&desired, &[lab.observe()]).expect_err("it is not finished").to_string();
        assert!(refused.contains(&format!("an unfinished {}", format.name())), "{refused}");
        desired.filesystems[0].existing = Existing::Replace;
        assert!(lab.plan(&desired)[0].is_destructive());
        lab.converge(&desired);
        is_sound(format, &node);
    }
}

#[test]
fn mount_options_are_the_kernels_and_change_without_unmounting_where_that_is_possible() {
    let lab = Lab::new(64 * MIB);
    let at = lab.mount_point("data");
    let desired = |options: &[&str]| mounted(one(Format::Ext4, None), &at, options);
    lab.converge(&desired(&["nosuid", "noexec", "noatime", "errors=remount-ro"]));
    let info = mountinfo(&at);
    assert!(info.contains(" rw,nosuid,noexec,noatime ") && info.contains("errors=remount-ro"), "{info}");
    let open = File::create(format!("{at}/open")).expect("writable");

    // Somebody reads a file of it all the time.
    drop(open);
    let open = File::open(format!("{at}/open")).expect("readable");
    let steps = lab.plan(&desired(&["ro", "nodev", "errors=remount-ro"]));
    assert!(matches!(&steps[..], [Step::Remount { .. }]), "{steps:?}");
    lab.converge(&desired(&["ro", "nodev", "errors=remount-ro"]));
    let info = mountinfo(&at);
    assert!(info.contains(" ro,nodev,relatime ") && info.contains("errors=remount-ro"), "{info}");
    lab.converge(&desired(&["strictatime", "lazytime", "errors=remount-ro"]));
    assert!(mountinfo(&at).contains(" rw ") && mountinfo(&at).contains("lazytime"), "{}", mountinfo(&at));

    // The filesystem's own options come with a mount alone, and that waits for nobody.
    let steps = lab.plan(&desired(&["commit=7"]));
    assert!(matches!(&steps[..], [Step::Unmount { .. }, Step::Mount { .. }]), "{steps:?}");
    let error = lab.apply(&steps).expect_err("a file is open");
    assert!(muster_agent::machine::chain(&error).contains("could not unmount"), "{error}");
    drop(open);
    lab.converge(&desired(&["commit=7"]));
    assert!(mountinfo(&at).contains("commit=7"), "{}", mountinfo(&at));

    // What somebody changed by hand is put right.
    run("mount", &["-o", "remount,ro", &at]);
    assert!(matches!(&lab.plan(&desired(&["commit=7"]))[..], [Step::Remount { .. }]));
    lab.converge(&desired(&["commit=7"]));
    assert!(fs::write(format!("{at}/again"), "yes").is_ok());
}

#[test]
fn a_filesystem_grows_with_its_partition_while_it_is_in_use() {
    for format in [Format::Ext4, Format::Xfs, Format::Btrfs] {
        if format == Format::Ext4 && !may_resize_ext4() {
            eprintln!(
                "NOT TESTED HERE, but in a machine by tests/tests/system/disks/shapes.rs: needs CAP_SYS_RESOURCE"
            );
            continue;
        }
        let mut lab = Lab::new(400 * MIB);
        let at = lab.mount_point("data");
        let desired = mounted(one(format, None), &at, &[]);
        lab.converge(&desired);
        let mut open = File::create(format!("{at}/open")).expect("writable");

        // The disk grows, and its last partition with it.
        let size = 900 * MIB;
        File::options().write(true).open(lab.image()).and_then(|image| image.set_len(size)).expect("longer");
        run("losetup", &["--set-capacity", &lab.device]);
        run("sgdisk", &["--move-second-header", "--delete=1", "--new=1:2048:0", "--change-name=1:p", &lab.device]);
        run("partx", &["--update", &lab.device]);
        lab.disks = Disks::given(vec![disk(&lab.device, "S1", size, 512)], &lab.folder.path().join("run"));

        let steps = lab.plan(&desired);
        assert!(matches!(&steps[..], [Step::Grow { .. }]) && !steps[0].is_destructive(), "{format:?}: {steps:?}");
        lab.converge(&desired);
        std::io::Write::write_all(&mut open, &vec![7; 600 * MIB as usize]).expect("there is room");
        drop(open);
        assert_eq!(lab.plan(&desired), []);
        run("umount", &[&at]);
        is_sound(format, &format!("{}p1", lab.device));
        lab.converge(&desired);
        assert_eq!(fs::metadata(format!("{at}/open")).expect("still there").len(), 600 * MIB);
    }
}

/// Some containers take this from root (EXT4_IOC_RESIZE_FS, capabilities(7): CAP_SYS_RESOURCE is 24).
fn may_resize_ext4() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("read");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("capabilities");
    u64::from_str_radix(effective, 16).expect("hexadecimal") >> 24 & 1 == 1
}

#[test]
fn a_filesystem_whose_end_is_missing_is_not_mounted() {
    let lab = Lab::new(400 * MIB);
    lab.converge(&one(Format::Ext4, None));
    run("sgdisk", &["--delete=1", "--new=1:2048:+200M", "--change-name=1:p", &lab.device]);
    run("partx", &["--update", &lab.device]);
    let refused = plan(&one(Format::Ext4, None), &[lab.observe()]).expect_err("it is cut").to_string();
    assert!(refused.contains("its end is missing"), "{refused}");
}

#[test]
fn swap_is_given_up_before_its_disk_is_wiped_or_its_partition_used_otherwise() {
    let lab = Lab::new(400 * MIB);
    let mut desired = one(Format::Swap, None);
    desired.filesystems[0].used = Use::Swap;
    lab.converge(&desired);
    assert_eq!(lab.observe().held, "");
    desired.filesystems[0].used = Use::Later;
    assert!(matches!(&lab.plan(&desired)[..], [Step::SwapOff { .. }]));
    lab.converge(&desired);
    desired.filesystems[0].used = Use::Swap;
    lab.converge(&desired);

    let mut other = one(Format::Xfs, None);
    other.filesystems[0].existing = Existing::Replace;
    lab.converge(&other);
    assert_eq!(lab.blkid("p1", "TYPE"), "xfs");
    desired.filesystems[0].existing = Existing::Replace;
    lab.converge(&desired);
    wipe_on(&lab.disks, &id(), WipeLevel::Full, &mut |_| {}).expect("wiped");
    assert!(!fs::read_to_string("/proc/swaps").expect("read").contains(&lab.device));

    // Somebody else's is not.
    lab.converge(&one(Format::Swap, None));
    run("swapon", &[&format!("{}p1", lab.device)]);
    assert!(lab.observe().held.contains("in use as swap"));
    assert!(wipe_on(&lab.disks, &id(), WipeLevel::Full, &mut |_| {}).is_err());
    run("swapoff", &[&format!("{}p1", lab.device)]);
}
