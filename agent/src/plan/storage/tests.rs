//! What the planner promises, with the dangerous cases first.

use muster_protocol::desired::{
    self, DiskRule, DiskSelect, Existing, Format, LINUX_FILESYSTEM, Mount, Pick, Place, Storage, Table, Tree,
    TreeMount, Use,
};
use muster_protocol::inventory::{Attachment, Medium, Transport};
use muster_protocol::observed::{
    Contents, Disk, Filesystem, GroupName, Headers, Luks, Metadata, Partition, PhysicalVolume, RaidMember, Role, SWAP,
};
use muster_protocol::to_agent::Impact;
use proptest::test_runner::{Config as ProptestConfig, RngSeed};

use super::*;

mod formats;
mod machines;
mod properties;
mod stacks;
mod trees;

pub(super) const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

type Change = fn(&mut Disk);

/// On disks alone.
pub(super) fn plan(desired: &Storage, disks: &[Disk]) -> Result<Vec<Step>, Impossible> {
    super::plan(desired, disks, &Layers::default())
}

/// On disks alone.
pub(super) fn apply_to_model(step: &Step, disks: &mut [Disk], random: [u8; 16]) {
    let mut model = Model::new(disks.to_vec());
    super::apply_to_model(step, &mut model, random);
    disks.clone_from_slice(&model.disks);
}

/// On disks alone.
pub(super) fn look_again(step: &Step, disks: &[Disk]) -> Result<(), (String, String)> {
    super::look_again(step, &Model::new(disks.to_vec()))
}

pub(super) fn id(text: &str) -> DiskId {
    text.parse().expect("a disk id")
}

/// A 10 GiB disk with this serial and no WWN.
pub(super) fn disk(serial: &str, contents: Contents, partitions: Vec<Partition>) -> Disk {
    Disk {
        name: "vda".into(),
        wwn: None,
        serial: Some(serial.into()),
        size_bytes: 10 * GIB,
        logical_sector: 512,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Virtio,
        model: String::new(),
        by_path: None,
        contents,
        partitions,
        held: String::new(),
    }
}

pub(super) fn gpt() -> Contents {
    Contents::Gpt { guid: [9; 16] }
}

pub(super) fn ext4(label: &str, mounted_at: &str) -> Contents {
    let (label, mounted_at) = (label.into(), mounted_at.into());
    let fs = Filesystem { kind: "ext4".into(), label, uuid: "u".into(), mounted_at, ..Filesystem::default() };
    Contents::Filesystem(fs.into())
}

pub(super) fn there(number: u32, label: &str, start_mib: u64, size_mib: u64, contents: Contents) -> Partition {
    let (start_bytes, size_bytes, label) = (start_mib * MIB, size_mib * MIB, label.into());
    Partition {
        number,
        start_bytes,
        size_bytes,
        label,
        type_guid: LINUX_FILESYSTEM,
        guid: [number as u8; 16],
        contents,
    }
}

pub(super) fn part(number: u32, label: &str, size_mib: impl Into<Option<u64>>) -> desired::Partition {
    desired::Partition::new(number, label, size_mib.into())
}

pub(super) fn fs(partition: u32, label: &str, mount: &str) -> desired::Filesystem {
    desired::Filesystem {
        place: Place::Partition { disk: 0, partition: partition as u16 - 1 },
        format: Format::Ext4,
        label: label.into(),
        uuid: None,
        options: vec![],
        used: match mount {
            "" => Use::Later,
            path => Use::Mount(Mount { path: path.into(), options: vec![] }),
        },
        existing: Existing::Keep,
    }
}

fn raid_member() -> Contents {
    Contents::Raid(Box::new(RaidMember {
        array: [1; 16],
        name: "host:data".into(),
        level: "raid1".into(),
        devices: 2,
        role: Role::Member(1),
        events: 17,
        used_bytes: 9 * GIB,
        metadata: Metadata::V1_2,
    }))
}

fn physical_volume() -> Contents {
    let id = |letter: u8| [letter; 32].try_into().expect("an id");
    let group = Some(GroupName { name: "vg0".into(), uuid: id(b'g') });
    Contents::Lvm(Box::new(PhysicalVolume { uuid: id(b'p'), group, is_damaged: false }))
}

fn luks() -> Contents {
    let (uuid, label) = ("6ba7b810-9dad-41d1-80b4-00c04fd430c8".into(), "vault".into());
    let (subsystem, headers) = (String::new(), Headers::Whole);
    Contents::Luks(Box::new(Luks { version: 2, uuid, label, subsystem, headers }))
}

#[test]
fn a_member_that_its_array_has_changed_since_is_not_what_the_plan_saw() {
    let seen = disk("S1", raid_member(), vec![]);
    let mut now = seen.clone();
    let Contents::Raid(member) = &mut now.contents else { unreachable!() };
    member.events += 1;
    assert_ne!(Before::of(&seen), Before::of(&now));
}

fn want(partitions: Vec<desired::Partition>, filesystems: Vec<desired::Filesystem>) -> Storage {
    let disk = desired::Disk { select: DiskSelect::Id(id("serial:S1")), table: Table::Keep, partitions };
    Storage { disks: vec![disk], filesystems, ..Storage::default() }
}

pub(super) fn seen(disks: &[Disk]) -> Observed {
    Observed { disks: disks.to_vec(), ..Observed::default() }
}

fn replacing(mut storage: Storage) -> Storage {
    storage.disks.iter_mut().for_each(|d| d.table = Table::Replace);
    storage
}

fn reformatting(mut storage: Storage) -> Storage {
    storage.filesystems.iter_mut().for_each(|f| f.existing = Existing::Replace);
    storage
}

/// The same documents and disks each time, unless others are asked for: `PROPTEST_RNG_SEED=7`.
pub(super) fn seeded() -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(5),
        asked_for => asked_for,
    };
    ProptestConfig { failure_persistence: None, rng_seed, ..default }
}

/// The usual wish: 100 MiB `boot` at /srv/boot, the rest `data` at /srv/data.
fn usual() -> Storage {
    want(
        vec![part(1, "boot", 100), part(2, "data", None)],
        vec![fs(1, "boot", "/srv/boot"), fs(2, "data", "/srv/data")],
    )
}

/// What the usual wish makes of a blank 10 GiB disk.
fn usual_disk() -> Disk {
    let first = there(1, "boot", 1, 100, ext4("boot", "/srv/boot"));
    disk("S1", gpt(), vec![first, there(2, "data", 101, 10 * 1024 - 102, ext4("data", "/srv/data"))])
}

fn words(storage: &Storage, disks: &[Disk]) -> Vec<String> {
    let step = |s: &Step| format!("{}{}", if s.is_destructive() { "DESTROYS " } else { "" }, s.describe().action);
    plan(storage, disks).map_or_else(|no| panic!("{no}"), |steps| steps.iter().map(step).collect())
}

fn refusal(storage: &Storage, disks: &[Disk]) -> String {
    match plan(storage, disks) {
        Ok(steps) => panic!("planned {steps:?}"),
        Err(no) => no.to_string(),
    }
}

#[test]
fn a_partition_that_is_described_by_its_number_is_not_found_by_the_label_that_it_has_now() {
    let renamed = desired::Partition { entry: desired::Entry::Replace, ..part(4, "", 1) };
    let storage = want(vec![renamed, part(0, "b", None)], vec![]);
    let mut disks = [disk("S1", gpt(), vec![there(4, "b", 1, 1, Contents::Blank)])];
    let steps = plan(&storage, &disks).expect("a plan");
    steps.iter().for_each(|step| apply_to_model(step, &mut disks, [1; 16]));
    let labels: Vec<_> = disks[0].partitions.iter().map(|p| (p.number, p.label.as_str())).collect();
    assert_eq!(labels, [(1, "b"), (4, "")]);
    assert_eq!(plan(&storage, &disks), Ok(vec![]), "nothing is left to do");
}

// ---- what must never happen ----

#[test]
fn two_disks_with_one_serial_are_both_named_and_neither_is_touched() {
    let twin = Disk { name: "vdb".into(), ..disk("S1", Contents::Blank, vec![]) };
    let text = refusal(&replacing(usual()), &[disk("S1", Contents::Blank, vec![]), twin]);
    assert!(text.contains("2 disks") && text.contains("(vda,") && text.contains("(vdb,"), "{text}");
}

#[test]
fn two_names_for_one_disk_are_refused() {
    let mut storage = usual();
    storage.disks.push(desired::Disk { select: DiskSelect::Id(id("wwn:0x5")), table: Table::Keep, partitions: vec![] });
    let both = Disk { wwn: Some("naa.5".into()), ..disk("S1", Contents::Blank, vec![]) };
    assert!(refusal(&storage, &[both]).contains("same disk as serial:S1"));
}

#[test]
fn a_missing_disk_is_refused_with_those_that_are_there() {
    let text = refusal(&usual(), &[disk("S2", Contents::Blank, vec![]), disk("S3", Contents::Blank, vec![])]);
    assert!(text.contains("no such disk") && text.contains("serial:S2 (vda, 10.0 GiB), serial:S3"), "{text}");
    assert!(refusal(&usual(), &[]).contains("has none"));
}

#[test]
fn another_disk_under_the_same_kernel_name_is_not_taken_for_it() {
    let other = Disk { name: "vda".into(), ..disk("S9", Contents::Blank, vec![]) };
    assert!(refusal(&replacing(usual()), &[other]).contains("no such disk"));
}

#[test]
fn a_disk_without_identity_is_never_meant() {
    let nameless = Disk { serial: None, ..disk("", Contents::Blank, vec![]) };
    assert!(refusal(&usual(), &[nameless]).contains("a disk without WWN and serial (vda"));
}

#[test]
fn whatever_a_disk_carries_is_kept_unless_the_document_says_otherwise() {
    let carried = [
        (Contents::Signature("zfs_member".into()), "zfs_member"),
        (Contents::Signature("LVM2_member".into()), "LVM2_member"),
        (Contents::Signature("crypto_LUKS".into()), "crypto_LUKS"),
        (Contents::Signature("linux_raid_member".into()), "linux_raid_member"),
        (raid_member(), "member 1 of the RAID array \"host:data\" (raid1 of 2)"),
        (physical_volume(), "a physical volume of the volume group \"vg0\""),
        (luks(), "LUKS2 labeled \"vault\" (6ba7b810-9dad-41d1-80b4-00c04fd430c8)"),
        (Contents::Unknown, "data of an unknown kind"),
        (Contents::Dos, "an MBR"),
        (ext4("data", ""), "ext4 labeled \"data\""),
    ];
    for (contents, name) in carried {
        let disks = [disk("S1", contents, vec![])];
        let text = refusal(&usual(), &disks);
        assert!(text.contains(name) && text.contains("wipe_table: true") && text.contains("serial:S1"), "{text}");
        assert!(refusal(&reformatting(usual()), &disks).contains(name), "wipe_filesystem does not replace a table");

        let steps = plan(&replacing(usual()), &disks).expect("a plan");
        let destroying: Vec<_> = steps.iter().filter(|s| s.is_destructive()).collect();
        assert_eq!(destroying.len(), 1, "the table alone destroys: {steps:?}");
        assert_eq!(destroying[0].describe().impact, Impact::Destroys(vec![id("serial:S1")]));
        assert!(destroying[0].describe().action.contains(name), "the permit names what is lost");
    }
}

#[test]
fn a_held_disk_is_refused_whatever_the_document_says() {
    for held in ["part 1 is mounted at /", "it is the boot medium", "vda is a member of md0"] {
        let blank = Disk { held: held.into(), ..disk("S1", Contents::Blank, vec![]) };
        let zfs = Disk { held: held.into(), ..disk("S1", Contents::Signature("zfs_member".into()), vec![]) };
        for have in [blank, zfs] {
            let text = refusal(&replacing(usual()), std::slice::from_ref(&have));
            assert!(text.contains("may not be written to") && text.contains(held), "{text}");
            assert!(refusal(&usual(), &[have]).contains(held));
        }
    }
}

#[test]
fn a_held_disk_that_is_as_desired_is_left_alone() {
    let held = Disk { held: "vda1 is mounted at /x".into(), ..usual_disk() };
    assert_eq!(words(&replacing(usual()), &[held]), [""; 0]);
}

#[test]
fn a_disk_that_grew_keeps_what_it_carries() {
    let grown = Disk { size_bytes: 20 * GIB, ..usual_disk() };
    assert_eq!(words(&replacing(usual()), &[grown]), [""; 0]);
}

#[test]
fn a_foreign_filesystem_in_a_matching_table_is_refused() {
    let mut have = usual_disk();
    let xfs = Filesystem { kind: "xfs".into(), label: "data".into(), uuid: "u".into(), ..Filesystem::default() };
    have.partitions[1].contents = Contents::Filesystem(xfs.into());
    let text = refusal(&usual(), std::slice::from_ref(&have));
    assert!(text.contains("partition 2") && text.contains("xfs") && text.contains("wipe_filesystem: true"), "{text}");
    assert!(refusal(&replacing(usual()), &[have]).contains("xfs"), "wipe_table does not replace a matching table");
}

#[test]
fn another_label_is_another_filesystem() {
    let mut have = usual_disk();
    have.partitions[1].contents = ext4("theirs", "");
    assert!(refusal(&usual(), std::slice::from_ref(&have)).contains("theirs"));
    assert_eq!(
        words(&reformatting(usual()), &[have]),
        [
            "DESTROYS make ext4 on partition 2 of serial:S1 (9.9 GiB, carries ext4 labeled \"theirs\"), labeled \"data\"",
            "mount partition 2 of serial:S1 at /srv/data",
        ]
    );
}

#[test]
fn every_way_in_which_a_table_differs_is_told() {
    let cases: [(&str, Change); 3] = [
        ("the size of partition 1", |d| d.partitions[0].size_bytes += 512),
        ("the label of partition 1", |d| d.partitions[0].label = "Boot".into()),
        ("the type of partition 2", |d| d.partitions[1].type_guid = [1; 16]),
    ];
    for (told, change) in cases {
        let mut have = usual_disk();
        change(&mut have);
        let text = refusal(&usual(), std::slice::from_ref(&have));
        assert!(text.contains(told), "{text}");
        let steps = words(&replacing(usual()), &[have]);
        assert_eq!(steps[0], "unmount /srv/data, partition 2 of serial:S1");
        assert_eq!(steps[1], "unmount /srv/boot, partition 1 of serial:S1");
        assert!(steps[2].starts_with("DESTROYS write a GPT"), "{steps:?}");
        assert!(steps[3].contains("remains of the replaced table"), "{steps:?}");
    }
}

// ---- what needs no leave ----

#[test]
fn a_blank_disk_gets_its_table_its_filesystems_and_its_mounts() {
    assert_eq!(
        words(&usual(), &[disk("S1", Contents::Blank, vec![])]),
        [
            "write a GPT to serial:S1 (10.0 GiB, blank): 1 \"boot\" 100.0 MiB, 2 \"data\" 9.9 GiB",
            "make ext4 on partition 1 of serial:S1 (100.0 MiB, blank), labeled \"boot\"",
            "make ext4 on partition 2 of serial:S1 (9.9 GiB, blank), labeled \"data\"",
            "mount partition 1 of serial:S1 at /srv/boot",
            "mount partition 2 of serial:S1 at /srv/data",
        ]
    );
}

#[test]
fn what_is_as_desired_gives_an_empty_plan() {
    assert_eq!(words(&usual(), &[usual_disk()]), [""; 0]);
    assert_eq!(words(&reformatting(replacing(usual())), &[usual_disk()]), [""; 0]);
    assert_eq!(differences(&usual(), &seen(&[usual_disk()])), [""; 0]);
}

#[test]
fn after_a_reboot_only_the_mounts_lack() {
    let mut have = usual_disk();
    have.partitions.iter_mut().for_each(|p| p.contents = p.contents.unmounted());
    assert_eq!(
        words(&replacing(usual()), &[have]),
        ["mount partition 1 of serial:S1 at /srv/boot", "mount partition 2 of serial:S1 at /srv/data"]
    );
}

#[test]
fn a_table_that_is_a_part_of_the_desired_one_grows() {
    let have = disk("S1", gpt(), vec![there(1, "boot", 1, 100, ext4("boot", "/srv/boot"))]);
    assert_eq!(
        words(&replacing(usual()), &[have]),
        [
            "add to the GPT of serial:S1: 2 \"data\" 9.9 GiB",
            "make ext4 on partition 2 of serial:S1 (9.9 GiB, blank), labeled \"data\"",
            "mount partition 2 of serial:S1 at /srv/data",
        ]
    );
}

#[test]
fn a_partition_that_lacks_in_the_middle_is_put_at_the_end() {
    let have = disk("S1", gpt(), vec![there(1, "a", 1, 10, Contents::Blank), there(3, "c", 50, 10, Contents::Blank)]);
    let storage = want(vec![part(1, "a", 10), part(2, "b", 10), part(3, "c", 10)], vec![]);
    match &plan(&storage, &[have]).expect("a plan")[..] {
        [Step::Edit { added, .. }] => assert_eq!((added[0].number, added[0].start_bytes), (2, 60 * MIB)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_document_without_partitions_asks_for_nothing() {
    for contents in [Contents::Blank, Contents::Unknown, gpt()] {
        assert_eq!(words(&want(vec![], vec![]), &[disk("S1", contents, vec![])]), [""; 0]);
    }
    let zfs = disk("S1", Contents::Signature("zfs_member".into()), vec![]);
    assert_eq!(
        words(&replacing(want(vec![], vec![])), &[zfs]),
        ["DESTROYS write a GPT to serial:S1 (10.0 GiB, zfs_member): no partitions"]
    );
}

#[test]
fn a_disk_is_found_by_its_wwn_in_either_spelling() {
    let mut storage = want(vec![part(1, "a", 10)], vec![]);
    storage.disks[0].select = DiskSelect::Id(id("wwn:0x5000c500a1b2c3d4"));
    let have = Disk { wwn: Some("naa.5000c500a1b2c3d4".into()), ..disk("S1", Contents::Blank, vec![]) };
    assert_eq!(words(&storage, &[have]).len(), 1);
}

// ---- room ----

#[test]
fn not_enough_room_is_told_with_numbers() {
    let storage = want(vec![part(1, "a", 9 * 1024), part(2, "b", 2 * 1024)], vec![]);
    let text = refusal(&storage, &[disk("S1", Contents::Blank, vec![])]);
    assert!(
        text.contains("partition 2") && text.contains("needs 2048 MiB") && text.contains("1022 MiB are left"),
        "{text}"
    );
    let full = want(vec![part(1, "a", 10 * 1024 - 2), part(2, "b", None)], vec![]);
    assert!(refusal(&full, &[disk("S1", Contents::Blank, vec![])]).contains("0 MiB are left"));
    let huge = want(vec![part(1, "a", 1 << 40)], vec![]);
    assert!(refusal(&huge, &[disk("S1", Contents::Blank, vec![])]).contains("no room"));
}

#[test]
fn no_room_to_grow_is_refused_or_with_leave_written_anew() {
    let have = disk("S1", gpt(), vec![there(1, "a", 1, 10, Contents::Blank), there(3, "c", 400, 200, Contents::Blank)]);
    let have = Disk { size_bytes: 1000 * MIB, ..have };
    let storage = want(vec![part(1, "a", 10), part(2, "b", 500), part(3, "c", 200)], vec![]);
    assert!(refusal(&storage, std::slice::from_ref(&have)).contains("no room for partition 2"));
    assert!(words(&replacing(storage), &[have])[0].starts_with("DESTROYS write a GPT"));
}

#[test]
fn partitions_never_reach_the_backup_table() {
    for (sectors, sector) in [(20_480_u64, 512_u32), (20_481, 512), (2_560, 4096), (4_194_304 + 7, 512)] {
        let size = sectors * u64::from(sector);
        let end = usable_end(size, sector);
        let entries = 16 * 1024 / u64::from(sector);
        assert!(end <= (sectors - 1 - entries) * u64::from(sector), "{sectors} sectors of {sector}");
        assert_eq!(end % ALIGNMENT, 0);
    }
    assert_eq!(usable_end(0, 512), 0);
}

// ---- mounts ----

#[test]
fn mounts_go_from_the_root_down_and_unmounts_from_the_leaves_up() {
    let storage = want(
        vec![part(1, "a", 10), part(2, "b", 10), part(3, "c", 10)],
        vec![fs(1, "a", "/srv/x/y"), fs(2, "b", "/srv"), fs(3, "c", "/srv/x")],
    );
    let blank = disk("S1", Contents::Blank, vec![]);
    let last3 = words(&storage, std::slice::from_ref(&blank)).split_off(4);
    assert_eq!(last3.iter().filter_map(|s| s.split(" at ").nth(1)).collect::<Vec<_>>(), ["/srv", "/srv/x", "/srv/x/y"]);

    let mut disks = [blank];
    let steps = plan(&storage, &disks).expect("a plan");
    steps.iter().for_each(|step| apply_to_model(step, &mut disks, [1; 16]));
    let mut elsewhere = storage.clone();
    elsewhere.filesystems.iter_mut().for_each(|f| f.used = Use::Later);
    assert_eq!(
        words(&elsewhere, &disks),
        [
            "unmount /srv/x/y, partition 1 of serial:S1",
            "unmount /srv/x, partition 3 of serial:S1",
            "unmount /srv, partition 2 of serial:S1"
        ]
    );
}

#[test]
fn what_a_new_mount_would_hide_is_put_back_on_top() {
    let parts = vec![part(1, "a", 10), part(2, "b", 10)];
    let have =
        disk("S1", gpt(), vec![there(1, "a", 1, 10, ext4("", "/srv/data")), there(2, "b", 11, 10, ext4("", ""))]);
    assert_eq!(
        words(&want(parts, vec![fs(1, "", "/srv/data"), fs(2, "", "/srv")]), &[have]),
        [
            "unmount /srv/data, partition 1 of serial:S1",
            "mount partition 2 of serial:S1 at /srv",
            "mount partition 1 of serial:S1 at /srv/data"
        ]
    );
}

#[test]
fn two_filesystems_may_swap_their_places() {
    let parts = vec![part(1, "a", 10), part(2, "b", 10)];
    let have =
        disk("S1", gpt(), vec![there(1, "a", 1, 10, ext4("", "/srv/a")), there(2, "b", 11, 10, ext4("", "/srv/b"))]);
    let steps = words(&want(parts, vec![fs(1, "", "/srv/b"), fs(2, "", "/srv/a")]), &[have]);
    assert_eq!(steps.len(), 4);
    assert!(steps[0].starts_with("unmount") && steps[1].starts_with("unmount"), "{steps:?}");
}

#[test]
fn a_path_that_another_disk_has_is_refused() {
    let other = disk("S2", gpt(), vec![there(1, "z", 1, 10, ext4("z", "/srv/data"))]);
    let text = refusal(&usual(), &[disk("S1", Contents::Blank, vec![]), other]);
    assert!(text.contains("storage.filesystems.serial:S1/2.path") && text.contains("serial:S2"), "{text}");
}

#[test]
fn a_mounted_filesystem_is_unmounted_before_it_is_replaced() {
    let mut have = usual_disk();
    have.partitions[1].contents = ext4("old", "/srv/data");
    let steps = words(&reformatting(usual()), &[have]);
    assert_eq!(steps[0], "unmount /srv/data, partition 2 of serial:S1");
    assert!(steps[1].starts_with("DESTROYS make ext4"), "{steps:?}");
    assert_eq!(steps[2], "mount partition 2 of serial:S1 at /srv/data");
}

#[test]
fn what_the_document_does_not_name_is_left_alone() {
    let other = disk("S2", Contents::Signature("zfs_member".into()), vec![]);
    let steps = plan(&usual(), &[other, disk("S1", Contents::Blank, vec![])]).expect("a plan");
    assert!(steps.iter().all(|s| s.disks() == [&id("serial:S1")]));
    assert_eq!(plan(&Storage::default(), &[usual_disk()]), Ok(vec![]));
}

#[test]
fn what_the_plan_saw_tells_every_change_of_contents_but_not_a_new_kernel_name() {
    let seen = Before::of(&usual_disk());
    let mut renamed = usual_disk();
    renamed.name = "vdz".into();
    renamed.partitions[0].contents = renamed.partitions[0].contents.unmounted();
    assert_eq!(Before::of(&renamed), seen);
    let changes: [Change; 4] = [
        |d| d.size_bytes += 512,
        |d| d.contents = Contents::Gpt { guid: [8; 16] },
        |d| d.partitions[0].contents = ext4("boots", ""),
        |d| drop(d.partitions.pop()),
    ];
    for change in changes {
        let mut other = usual_disk();
        change(&mut other);
        assert_ne!(Before::of(&other), seen);
    }
}

// ---- which disk ----

fn rule(rule: DiskRule) -> Storage {
    let disk =
        desired::Disk { select: DiskSelect::Rule(rule), table: Table::Keep, partitions: vec![part(1, "a", None)] };
    Storage { disks: vec![disk], ..Storage::default() }
}

fn any() -> DiskRule {
    DiskRule {
        count: 1,
        min_size_mib: None,
        max_size_mib: None,
        medium: None,
        transport: None,
        model: None,
        pick: Pick::All,
    }
}

/// Two SSDs, two disks that spin, a USB stick, and the largest of all on USB.
fn shelf() -> Vec<Disk> {
    let blank = |name: &str, serial: &str, gib: u64| Disk {
        name: name.into(),
        size_bytes: gib * GIB,
        ..disk(serial, Contents::Blank, vec![])
    };
    let nvme = Disk {
        transport: Transport::Nvme,
        model: "Fast 1".into(),
        by_path: Some("pci-0000:03:00.0-nvme-1".into()),
        ..blank("nvme0n1", "N", 400)
    };
    let ssd = Disk { transport: Transport::Ata, model: "Slow 2".into(), ..blank("sda", "A", 200) };
    let spin = |name, serial| Disk {
        medium: Medium::Rotational,
        transport: Transport::Ata,
        by_path: Some(format!("pci-0000:00:1f.2-ata-{}.0", if serial == "R1" { 1 } else { 2 })),
        ..blank(name, serial, 4000)
    };
    let stick = Disk { attachment: Attachment::Removable, transport: Transport::Usb, ..blank("sdd", "U", 16) };
    let outside = Disk { attachment: Attachment::External, transport: Transport::Usb, ..blank("sde", "X", 8000) };
    vec![nvme, ssd, spin("sdb", "R1"), spin("sdc", "R2"), stick, outside]
}

fn chosen(storage: &Storage, disks: &[Disk]) -> Vec<String> {
    plan(storage, disks).map_or_else(
        |no| panic!("{no}"),
        |s| s.iter().flat_map(|s| s.disks().into_iter().map(ToString::to_string)).collect(),
    )
}

#[test]
fn a_rule_chooses_by_what_disks_are() {
    let cases = [
        (DiskRule { transport: Some(Transport::Nvme), ..any() }, vec!["serial:N"]),
        (DiskRule { medium: Some(Medium::SolidState), pick: Pick::Smallest, ..any() }, vec!["serial:A"]),
        (DiskRule { medium: Some(Medium::SolidState), pick: Pick::Largest, ..any() }, vec!["serial:N"]),
        (DiskRule { medium: Some(Medium::Rotational), count: 2, ..any() }, vec!["serial:R1", "serial:R2"]),
        (DiskRule { count: 2, pick: Pick::Largest, ..any() }, vec!["serial:R1", "serial:R2"]),
        (DiskRule { count: 2, pick: Pick::Smallest, ..any() }, vec!["serial:A", "serial:N"]),
        (DiskRule { min_size_mib: Some(200 << 10), max_size_mib: Some(300 << 10), ..any() }, vec!["serial:A"]),
        (DiskRule { model: Some("Fast*".into()), ..any() }, vec!["serial:N"]),
        (DiskRule { transport: Some(Transport::Usb), ..any() }, vec!["serial:X"]),
    ];
    for (which, expected) in cases {
        assert_eq!(chosen(&rule(which.clone()), &shelf()), expected, "{which:?}");
    }
}

#[test]
fn a_rule_that_fits_more_or_fewer_disks_lists_all_and_why() {
    let text = refusal(&rule(DiskRule { medium: Some(Medium::SolidState), ..any() }), &shelf());
    assert_eq!(
        text,
        "storage.disks[0]: 1 is asked for, and 2 fit: \
         serial:N (nvme0n1, 400.0 GiB, not rotational, nvme, \"Fast 1\"): fits; \
         serial:A (sda, 200.0 GiB, not rotational, sata, \"Slow 2\"): fits; \
         serial:R1 (sdb, 3.9 TiB, rotational, sata): rotational; \
         serial:R2 (sdc, 3.9 TiB, rotational, sata): rotational; \
         serial:U (sdd, 16.0 GiB, not rotational, usb): a removable medium; \
         serial:X (sde, 7.8 TiB, not rotational, usb): connected by usb, which a rule has to ask for by `transport: usb`"
    );
    let big = DiskRule { min_size_mib: Some(3 << 20), transport: Some(Transport::Nvme), count: 2, ..any() };
    let text = refusal(&rule(big), &shelf());
    assert!(text.contains("2 are asked for, and 0 fit: "), "{text}");
    for why in ["): smaller than 3.0 TiB", "connected by sata and not by nvme", "a removable medium"] {
        assert!(text.contains(why), "{why}: {text}");
    }
    assert!(refusal(&rule(any()), &[]).contains("0 fit: this machine has no disks"));
}

#[test]
fn the_largest_of_two_alike_is_neither() {
    let text = refusal(&rule(DiskRule { pick: Pick::Largest, ..any() }), &shelf());
    assert!(text.contains("1, the largest, is asked for, and 4 fit, of which some are equally large"), "{text}");
    let both = DiskRule { pick: Pick::Largest, count: 2, ..any() };
    assert_eq!(chosen(&rule(both), &shelf()).len(), 2);
}

#[test]
fn a_rule_leaves_a_disk_alone_that_cannot_be_told_from_another() {
    let nvme = || rule(DiskRule { transport: Some(Transport::Nvme), ..any() });
    let mut nameless = shelf();
    nameless[0].serial = None;
    assert!(refusal(&nvme(), &nameless).contains("neither WWN nor serial"));
    let mut twins = shelf();
    twins[1].serial = Some("N".into());
    assert!(refusal(&nvme(), &twins).contains("2 disks answer to this name"));
}

#[test]
fn two_entries_that_mean_one_disk_are_refused() {
    let mut storage = rule(DiskRule { transport: Some(Transport::Nvme), ..any() });
    storage.disks.push(storage.disks[0].clone());
    assert!(refusal(&storage, &shelf()).contains("storage.disks[1]: this is the same disk as disks[0]: serial:N"));
}

#[test]
fn a_slot_means_the_disk_that_is_in_it_now() {
    let slot = |path: &str| {
        let mut storage = rule(any());
        storage.disks[0].select = DiskSelect::Path(path.into());
        storage
    };
    assert_eq!(chosen(&slot("pci-0000:00:1f.2-ata-2.0"), &shelf()), ["serial:R2"]);
    assert_eq!(chosen(&slot("pci-0000:00:1f.2-ata-2"), &shelf()), ["serial:R2"], "as older systems write it");
    assert_eq!(chosen(&slot("pci-0000:03:00.0-nvme-1"), &shelf()), ["serial:N"]);
    let text = refusal(&slot("pci-0000:03:00.0-nvme-2"), &shelf());
    assert!(
        text.contains("no disk in this slot; serial:N (nvme0n1, 400.0 GiB) is in pci-0000:03:00.0-nvme-1"),
        "{text}"
    );
    assert!(text.contains("the slot of serial:A (sda, 200.0 GiB) has no name"), "{text}");
}

#[test]
fn a_filesystem_stands_on_the_disk_that_the_rule_chose() {
    let mut storage = rule(DiskRule { transport: Some(Transport::Nvme), ..any() });
    storage.filesystems.push(fs(1, "data", "/srv/data"));
    assert_eq!(
        words(&storage, &shelf())[1..],
        [
            "make ext4 on partition 1 of serial:N (399.9 GiB, blank), labeled \"data\"",
            "mount partition 1 of serial:N at /srv/data"
        ]
    );
}
