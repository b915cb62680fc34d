//! Disk images on real block devices, judged by sgdisk, fsck.vfat and mtools.

use std::io::{self, Read};

use muster_agent::linux::storage::write_image_on;
use muster_agent::machine::chain;
use muster_protocol::Digest;
use muster_protocol::desired::{Boot, Image, Seed};
use muster_protocol::disk::{CHUNK, Header, Next};

use super::*;

const IMAGE: u64 = 24 * MIB;

/// A disk with two partitions, the first one behind the second, and a boot loader in sector 0.
fn source(sector: u32) -> Vec<u8> {
    let lab = Lab::with(IMAGE, sector);
    let args = ["--new=2:1M:+2M", "--typecode=2:ef02", "--new=1:4M:0", "--change-name=1:root", lab.device.as_str()];
    run("sgdisk", &args);
    lab.write(0, b"boot loader");
    // 24 MiB less what is before it and the second table.
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "system", "-E", "offset=4194304", &lab.device, "16M"]);
    lab.write(2 * MIB, &[7; 4096]);
    fs::read(lab.image()).expect("read")
}

/// What the controller makes of it.
fn packed(disk: &[u8]) -> Vec<u8> {
    let mut pieces = Vec::new();
    for (i, chunk) in disk.chunks(CHUNK).enumerate() {
        if i == 0 || chunk.iter().any(|byte| *byte != 0) {
            pieces.extend(Next::Piece { at: (i * CHUNK) as u64, len: chunk.len() }.to_bytes());
            pieces.extend(chunk);
        }
    }
    let header = Header { source: Digest::of(disk), size: disk.len() as u64, name: "test".into() }.to_bytes();
    let sum = Digest::of(&[&pieces[..], &header[..]].concat());
    [&header[..], &pieces, &Next::End.to_bytes(), sum.as_bytes()].concat()
}

fn seed() -> Seed {
    Seed {
        meta_data: "{\"instance-id\": \"one\"}\n".into(),
        user_data: format!("#cloud-config\n# {}\n", "x".repeat(9000)),
        network_config: "version: 2\n".into(),
    }
}

fn installed(disk: &[u8], seed: Option<Seed>) -> Storage {
    let image =
        Image { select: DiskSelect::Id(id()), digest: Digest::of(disk), table: Table::Keep, seed, boot: Boot::Agent };
    Storage { images: vec![image], ..Storage::default() }
}

/// Takes the image as it comes, up to where it ends.
fn install(lab: &Lab, desired: &Storage, mut coming: &[u8]) -> Result<(), MachineError> {
    let steps = lab.plan(desired);
    let [step] = &steps[..] else { panic!("{steps:?}") };
    write_image_on(&lab.disks, step, &mut coming, &mut |_| {})
}

#[test]
fn an_image_becomes_a_larger_disk_with_its_seed_behind_it() {
    for sector in [512, 4096] {
        let (disk, lab) = (source(sector), Lab::with(200 * MIB, sector));
        // What lies in holes of the image must not show through.
        let desired = installed(&disk, Some(seed()));
        install(&lab, &desired, &packed(&disk)).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(differences(&desired, &lab.seen()), [""; 0]);
        assert!(run("sgdisk", &["--verify", &lab.device]).contains("No problems found"));
        let dump = run("sfdisk", &["--dump", &lab.device]);
        let guid = MachineId::from_bytes(desired.images[0].guid()).to_string().to_uppercase();
        assert!(dump.contains(&guid), "{dump}");
        let unit = u64::from(sector);
        let field = |number: u32, key: &str| {
            let line = dump.lines().find(|line| line.contains(&format!("p{number} :"))).expect("the partition");
            let rest = line.split(key).nth(1).expect("the field").trim_start();
            rest.split(',').next().and_then(|number| number.trim().parse::<u64>().ok()).expect("a number") * unit
        };
        assert_eq!(field(1, "start="), 4 * MIB);
        assert_eq!(field(1, "start=") + field(1, "size="), field(3, "start="), "it grew up to the seed");
        assert!(dump.contains("name=\"root\"") && dump.contains("name=\"CIDATA\""), "{dump}");
        let now = fs::read(lab.image()).expect("read");
        assert_eq!(&now[..11], b"boot loader");
        assert!(now[MIB as usize..IMAGE as usize - (64 << 10)] == disk[MIB as usize..IMAGE as usize - (64 << 10)]);
        let part = |number: u32| {
            let (start, size) = (field(number, "start=") as usize, field(number, "size=") as usize);
            let file = lab.folder.path().join(format!("part{number}"));
            fs::write(&file, &now[start..start + size]).expect("written");
            text(&file).to_owned()
        };
        run("e2fsck", &["-n", "-f", &part(1)]);
        let volume = part(3);
        let tag = |tag: &str| run("blkid", &["--probe", "--output", "value", "--match-tag", tag, &volume]);
        assert_eq!((tag("TYPE").trim(), tag("LABEL").trim()), ("vfat", "CIDATA"));
        run("fsck.vfat", &["-n", &volume]);
        for (name, text) in [
            ("meta-data", seed().meta_data),
            ("user-data", seed().user_data),
            ("network-config", seed().network_config),
        ] {
            assert_eq!(run("mtype", &["-i", &volume, &format!("::/{name}")]), text);
        }
    }
}

#[test]
fn what_was_there_is_gone_and_holes_of_the_image_are_zeros() {
    let (disk, lab) = (source(512), Lab::new(64 * MIB));
    lab.write(8 * MIB, &[0xaa; 4 << 20]);
    lab.write(16 * MIB + 77, &[0xbb; 4096]);
    lab.write(0, b"somebody's data");
    let mut desired = installed(&disk, None);
    let refused = plan_all(&desired, &lab.seen()).expect_err("it is not blank");
    assert!(refused.problem.contains("wipe_table: true"), "{refused}");
    desired.images[0].table = Table::Replace;
    assert!(lab.plan(&desired).iter().all(Step::is_destructive));
    install(&lab, &desired, &packed(&disk)).expect("written");
    let now = fs::read(lab.image()).expect("read");
    assert!(now[MIB as usize..IMAGE as usize - (64 << 10)] == disk[MIB as usize..IMAGE as usize - (64 << 10)]);
    let table = run("sfdisk", &["--dump", &lab.device]);
    assert!(!table.contains("CIDATA"), "{table}");
}

#[test]
fn an_image_that_is_cut_off_is_no_disk_and_goes_on_without_another_permit() {
    let (disk, lab) = (source(512), Lab::new(64 * MIB));
    lab.write(0, b"somebody's data");
    let mut desired = installed(&disk, Some(seed()));
    desired.images[0].table = Table::Replace;
    let whole = packed(&disk);
    for share in [1, 5, 9] {
        install(&lab, &desired, &whole[..CHUNK + 4096 + (whole.len() - CHUNK - 4096) * share / 10]).expect_err("cut");
        let seen = lab.observe();
        let Contents::Signature(what) = &seen.contents else { panic!("{seen:?}") };
        assert!(what.starts_with("unfinished disk image") && seen.partitions.is_empty(), "{what}");
        assert!(!lab.plan(&desired).iter().any(Step::is_destructive), "it is our own");
        let other = Storage { images: vec![Image { seed: None, ..desired.images[0].clone() }], ..Storage::default() };
        assert!(lab.plan(&other).iter().any(Step::is_destructive), "another image wants its own permit");
    }
    install(&lab, &desired, &whole).expect("goes on");
    assert_eq!(differences(&desired, &lab.seen()), [""; 0]);
}

#[test]
fn what_is_no_such_image_or_does_not_fit_changes_nothing() {
    let disk = source(512);
    let whole = packed(&disk);
    let (large, small, wide) = (Lab::new(64 * MIB), Lab::new(16 * MIB), Lab::with(64 * MIB, 4096));
    let tight = Lab::new(IMAGE);
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (lab, coming, why) in [
        (&large, vec![], "to its end"),
        (&large, whole[..3000].to_vec(), "to its end"),
        (&large, changed(0), "header"),
        (&large, changed(20), "header"),
        (&large, changed(256), "a piece of it cannot be"),
        (&small, whole.clone(), "this one has"),
        (&wide, whole.clone(), "sectors of 4096"),
        (&tight, whole.clone(), "no room for the seed"),
    ] {
        let before = lab.fingerprint();
        let error = install(lab, &installed(&disk, Some(seed())), &coming).expect_err(why);
        assert!(chain(&error).contains(why), "{} and not {why}", chain(&error));
        assert_eq!(lab.fingerprint(), before, "{why}");
    }
    // Found out when most of it was written: the disk keeps its mark.
    let error = install(&large, &installed(&disk, None), &changed(whole.len() - 40_000)).expect_err("damaged");
    assert!(chain(&error).contains("SHA-256"), "{}", chain(&error));
    assert!(matches!(large.observe().contents, Contents::Signature(_)));
}

/// A stream that somebody changes the disk under.
struct Meanwhile<'a>(&'a Lab, &'a [u8]);

impl Read for Meanwhile<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.write(8 * MIB, b"new data of somebody else");
        self.0.write(0, b"and a beginning");
        self.1.read(out)
    }
}

#[test]
fn a_disk_that_changed_after_the_plan_is_left_alone() {
    let (disk, lab) = (source(512), Lab::new(64 * MIB));
    let steps = lab.plan(&installed(&disk, None));
    let whole = packed(&disk);
    let done = write_image_on(&lab.disks, &steps[0], &mut Meanwhile(&lab, &whole), &mut |_| {});
    is_changed(done);
    assert!(fs::read(lab.image()).expect("read").starts_with(b"and a beginning"));
}
