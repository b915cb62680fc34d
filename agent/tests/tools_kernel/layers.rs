//! Arrays, encrypted devices and volume groups as the agent has them made, on loop devices; read back by its own readers
//! and by the programs. Cut off between every two commands, what is left is known for what it is.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use muster_agent::linux::storage::disks::{Disks, Node};
use muster_agent::linux::storage::layers::{UNFINISHED, luks, lvm, named, raid};
use muster_agent::linux::{modules, tools};
use muster_agent::machine::chain;
use muster_protocol::inventory::{ArrayState, Attachment, Disk, Medium, Transport};
use muster_protocol::observed::{Array, Contents, Layers, MemberState, Volume, md_uuid};

use super::mounted;

pub const MIB: u64 = 1 << 20;

/// A machine whose disks are loop devices.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub devices: Vec<String>,
    pub disks: Disks,
}

impl Lab {
    pub fn new(sizes: &[u64]) -> Self {
        mounted();
        modules::load("loop").expect("loop devices");
        let folder = tempfile::tempdir().expect("a folder");
        let attach = |(number, size): (usize, &u64)| {
            let image = folder.path().join(format!("image{number}"));
            File::create(&image).expect("a file").set_len(*size).expect("a sparse file");
            let image = image.to_str().expect("UTF-8");
            run("losetup", &["--find", "--show", image]).trim().trim_start_matches("/dev/").to_owned()
        };
        let devices: Vec<String> = sizes.iter().enumerate().map(attach).collect();
        let disk = |(name, size_bytes): (&String, &u64)| Disk {
            name: name.clone(),
            size_bytes: *size_bytes,
            logical_sector: 512,
            physical_sector: 512,
            medium: Medium::SolidState,
            attachment: Attachment::Fixed,
            transport: Transport::Virtio,
            model: "loop".into(),
            serial: Some(name.clone()),
            wwn: None,
        };
        let disks = devices.iter().zip(sizes).map(disk).collect();
        let disks = Disks::given(disks, &folder.path().join("run"));
        Self { folder, devices, disks }
    }

    fn nodes(&self) -> Vec<Node> {
        self.devices.iter().map(|name| self.disks.node(name).expect("a node")).collect()
    }

    pub fn layers(&self) -> Layers {
        self.disks.observe_all().expect("observed").1
    }

    fn contents(&self, disk: usize) -> Contents {
        self.disks.observe().expect("observed").swap_remove(disk).contents
    }

    /// The only array.
    pub fn array(&self) -> Array {
        let mut arrays = self.layers().arrays;
        assert_eq!(arrays.len(), 1, "{arrays:?}");
        arrays.remove(0)
    }

    pub fn array_node(&self) -> Node {
        self.disks.node(&self.array().array.name).expect("it runs")
    }

    fn volume(&self, name: &str) -> Volume {
        let layers = self.layers();
        let found = layers.volumes.iter().find(|volume| volume.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {layers:?}")).clone()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for device in &self.devices {
            let _ = Command::new("losetup").args(["--detach", &format!("/dev/{device}")]).status();
        }
    }
}

pub fn run(program: &str, args: &[&str]) -> String {
    let out = tools::command(program).expect("it is there").args(args).output().expect("it starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

pub trait Done<T> {
    fn done(self, what: &str) -> T;
}

impl<T> Done<T> for Result<T, muster_agent::machine::MachineError> {
    fn done(self, what: &str) -> T {
        self.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)))
    }
}

/// What the kernel does in the background takes its time.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "{what} has not come about");
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn an_array_of_every_level_is_made_whole_and_a_half_bears_the_mark() {
    for (at, (level, members, spares)) in
        [("raid0", 2, 0), ("raid1", 3, 1), ("raid5", 3, 0), ("raid6", 4, 0), ("raid10", 4, 0)].into_iter().enumerate()
    {
        let lab = Lab::new(&vec![12 * MIB; members]);
        let nodes = lab.nodes();
        let new = raid::New { name: "data", uuid: [at as u8 + 1; 16], level, spares, options: &[] };
        if level == "raid5" {
            raid::make(&lab.disks, &new, &nodes).done(level);
            assert_eq!(lab.array().label, UNFINISHED);
            raid::stop(&lab.disks, &lab.array_node()).done("stopped");
            for half in (0..members).map(|disk| lab.contents(disk)) {
                assert!(matches!(&half, Contents::Raid(member) if member.name == UNFINISHED), "{half:?}");
            }
            // The same again, on what was left.
        }
        raid::create(&lab.disks, &new, &nodes).done(level);
        let array = lab.array();
        assert_eq!((array.label.as_str(), array.uuid, array.array.level.as_str()), ("data", Some(new.uuid), level));
        eventually("every member is in sync", || {
            let array = lab.array();
            array.array.state == ArrayState::Whole && array.sync.is_none()
        });
        let waiting = lab.array().members.iter().filter(|member| member.state == MemberState::Spare).count();
        assert_eq!(waiting, spares, "{level}");
        assert_eq!(lab.array().contents, Some(Contents::Blank), "{level}");
        let device = named(raid::device("data").as_ref()).done("it is called so in /dev");
        assert_eq!(device.number, lab.array_node().number);
        let said = run("mdadm", &["--detail", &raid::device("data")]);
        assert!(said.contains(&md_uuid(&new.uuid)) && said.contains("Name : data"), "{said}");
        assert_eq!(said.contains("Intent Bitmap : Internal"), level != "raid0", "{said}");

        raid::stop(&lab.disks, &device).done("stopped");
        assert_eq!(lab.array().array.state, ArrayState::Stopped);
        raid::assemble(&lab.disks, "data", &new.uuid, level, &nodes).done("assembled");
        assert_eq!(lab.array().array.state, ArrayState::Whole, "{level}");
        raid::stop(&lab.disks, &lab.array_node()).done("stopped");
    }
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn an_array_runs_without_a_member_and_takes_another_in_its_place() {
    let lab = Lab::new(&[12 * MIB; 3]);
    let nodes = lab.nodes();
    let new = raid::New { name: "data", uuid: [9; 16], level: "raid1", spares: 0, options: &[] };
    raid::create(&lab.disks, &new, &nodes[..2]).done("made");
    eventually("both members are in sync", || lab.array().array.state == ArrayState::Whole);
    let array = lab.array_node();
    let state = array.path.join("md").join(format!("dev-{}", nodes[1].name)).join("state");
    fs::write(&state, "faulty").expect("it fails");
    eventually("it is seen", || lab.array().array.faulty == nodes[1].name);
    eventually("it is let go", || raid::remove(&array, &nodes[1].name).is_ok());
    raid::stop(&lab.disks, &array).done("stopped");

    raid::assemble(&lab.disks, "data", &new.uuid, "raid1", &nodes[..1]).done("assembled without it");
    assert_eq!(lab.array().array.state, ArrayState::Degraded);
    raid::add(&lab.disks, &lab.array_node(), &nodes[2]).done("added");
    eventually("the new member is in sync", || lab.array().array.state == ArrayState::Whole);
    raid::stop(&lab.disks, &lab.array_node()).done("stopped");
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn an_encrypted_device_bears_the_mark_until_it_is_whole_and_opens_by_its_key_alone() {
    let lab = Lab::new(&[48 * MIB]);
    let node = &lab.nodes()[0];
    let header = || match lab.contents(0) {
        Contents::Luks(header) => *header,
        other => panic!("{other:?}"),
    };
    let uuid = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let (new, key) = (luks::New { uuid, label: "vault", options: &[] }, [0x5a; 32]);
    luks::make(&lab.disks, &new, node, &key).done("made");
    assert_eq!(header().subsystem, UNFINISHED);
    luks::create(&lab.disks, &new, node, &key).done("made again");
    let made = header();
    assert_eq!((made.subsystem.as_str(), made.label.as_str(), made.uuid.as_str()), ("", "vault", uuid));
    let said = run("cryptsetup", &["luksDump", &format!("/dev/{}", node.name)]);
    assert!(said.contains("PBKDF:      pbkdf2") && said.contains("aes-xts-plain64"), "{said}");

    let refused = luks::open(&lab.disks, node, "cellar", false, &[0x5b; 32]).expect_err("another key");
    assert!(!chain(&refused).contains("5b5b") && !chain(&refused).contains("[["), "{}", chain(&refused));
    luks::open(&lab.disks, node, "cellar", true, &key).done("opened");
    let opened = lab.layers().opened.remove(0);
    assert_eq!((opened.name.as_str(), opened.uuid.as_str(), &opened.on), ("cellar", uuid, &node.name));
    assert_eq!(opened.contents, Some(Contents::Blank), "not what a key makes of what was there");
    assert_eq!(named("/dev/mapper/cellar".as_ref()).done("it is called so in /dev").name, opened.device);
    let said = run("cryptsetup", &["status", "cellar"]);
    assert!(said.contains("flags:   discards"), "{said}");
    luks::close(&lab.disks, "cellar").done("closed");
    assert_eq!(lab.layers().opened, []);
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn groups_and_volumes_are_made_grown_and_found_again_and_show_nothing_of_what_was_there() {
    let lab = Lab::new(&[64 * MIB, 64 * MIB, 64 * MIB]);
    let nodes = lab.nodes();
    let [one, two, three] = &nodes[..] else { panic!("three disks") };
    for node in [one, two] {
        lvm::make_physical(&lab.disks, node, lvm::new_id()).done("prepared");
    }
    // Cut off here, it is known whose it is.
    let Contents::Lvm(alone) = lab.contents(0) else { panic!("{:?}", lab.contents(0)) };
    assert!(alone.uuid.to_string().starts_with(lvm::OURS) && alone.group.is_none(), "{alone:?}");
    let both = &nodes[..2];
    lvm::make_group(&lab.disks, "vg-one", Some(1), both).done("made");
    assert_eq!(lab.layers().groups[0].extent_bytes, MIB);

    let linear = lvm::Kind::Linear { extents: 20 };
    lvm::make_volume(&lab.disks, "vg-one", both, "my-data", linear).done("a volume");
    let of = |volume: &Volume| format!("/dev/{}", volume.device);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "old", &of(&lab.volume("my-data"))]);
    lvm::remove_volume(&lab.disks, "vg-one", both, "my-data").done("removed");
    lvm::begin_volume(&lab.disks, "vg-one", both, "my-data", linear).done("begun");
    let half = lab.volume(&lvm::unfinished("my-data"));
    assert!(matches!(half.contents, Some(Contents::Filesystem(_))), "what was there shows: {half:?}");
    lvm::finish_volume(&lab.disks, "vg-one", both, "my-data", linear).done("finished");
    let made = lab.volume("my-data");
    assert_eq!(made.contents, Some(Contents::Blank), "nothing of it shows");
    assert_eq!((made.kind.as_str(), made.size_bytes), ("linear", 20 * MIB));

    let pool = lvm::Kind::Pool { extents: 24, metadata_bytes: 4 * MIB };
    lvm::begin_volume(&lab.disks, "vg-one", both, "pool", pool).done("a pool begun");
    assert_eq!(lab.volume(&lvm::unfinished("pool")).kind, "thin-pool");
    lvm::remove_volume(&lab.disks, "vg-one", both, &lvm::unfinished("pool")).done("a half is taken away");
    lvm::make_volume(&lab.disks, "vg-one", both, "pool", pool).done("a pool");
    let thin = |mib: u64| lvm::Kind::Thin { pool: "pool", bytes: mib * MIB };
    lvm::make_volume(&lab.disks, "vg-one", both, "thin", thin(100)).done("a thin volume");
    let made = lab.volume("thin");
    assert_eq!((made.kind.as_str(), made.pool.as_str(), made.contents), ("thin", "pool", Some(Contents::Blank)));

    lvm::make_physical(&lab.disks, three, lvm::new_id()).done("prepared");
    lvm::extend_group(&lab.disks, "vg-one", both, std::slice::from_ref(three)).done("extended");
    let before = lab.layers().groups[0].extents;
    File::options()
        .write(true)
        .open(lab.folder.path().join("image2"))
        .and_then(|file| file.set_len(96 * MIB))
        .expect("it grows");
    run("losetup", &["--set-capacity", &format!("/dev/{}", three.name)]);
    lvm::grow_physical(&lab.disks, &nodes, three).done("grown");
    assert_eq!(lab.layers().groups[0].extents, before + 32);
    lvm::extend_volume(&lab.disks, "vg-one", &nodes, "my-data", lvm::Kind::Linear { extents: 60 }).done("larger");
    lvm::extend_volume(&lab.disks, "vg-one", &nodes, "thin", thin(120)).done("larger");
    lvm::extend_volume(&lab.disks, "vg-one", &nodes, "pool", lvm::Kind::Pool { extents: 30, metadata_bytes: 0 })
        .done("larger");
    let sizes = ["my-data", "thin", "pool"].map(|name| lab.volume(name).size_bytes / MIB);
    assert_eq!(sizes, [60, 120, 30]);

    let label = |volume: &str| run("tune2fs", &["-l", &of(&lab.volume(volume))]).contains("volume name:   kept");
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "kept", &of(&lab.volume("thin"))]);
    lvm::deactivate_all(&lab.disks, "vg-one", &nodes).done("deactivated");
    assert!(lab.layers().volumes.iter().all(|volume| volume.device.is_empty()));
    assert!(!lvm::device("vg-one", "thin").exists(), "nothing is left in /dev");
    lvm::activate(&lab.disks, "vg-one", &nodes, &["my-data".into(), "thin".into()]).done("activated");
    assert!(label("thin"));
    assert_eq!(named(&lvm::device("vg-one", "thin")).done("it is called so in /dev").name, lab.volume("thin").device);
    lvm::deactivate_all(&lab.disks, "vg-one", &nodes).done("deactivated");
}
