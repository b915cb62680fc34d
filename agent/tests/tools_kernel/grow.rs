//! What a document lets grow, from the partition up to what is mounted, by the plans that the agent makes of what it sees.

use std::fs;

use muster_agent::linux::storage::layers::keys::Keys;
use muster_agent::linux::storage::{apply_with, wipe_on};
use muster_agent::machine::MachineError;
use muster_agent::plan::storage::{Before, Step, plan_all, take_down};
use muster_protocol::desired::{
    Disk, DiskSelect, Existing, Filesystem, Format, Key, LogicalVolume, Luks, Mount, Partition, Place, Resize, Storage,
    Table, Use, VolumeGroup, VolumeKind, VolumeSize,
};
use muster_protocol::observed::{Layers, Observed};
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::{DiskId, DiskKey};

use super::layers::{Done, Lab, MIB};

const UUID: [u8; 16] = [0x6c; 16];

/// A partition that is encrypted, a group on it, and filesystems of the three kinds that grow in its volumes; `more` gives the
/// group another disk.
fn document(lab: &Lab, partition_mib: u64, more: bool, volumes: [(&str, u64, Format); 3]) -> Storage {
    let disk = |at: usize, size_mib| {
        let select = DiskSelect::Id(format!("serial:{}", lab.devices[at]).parse().expect("a disk id"));
        let partition = Partition { resize: Resize::Grow, ..Partition::new(1, "part", size_mib) };
        Disk { select, table: Table::Keep, partitions: vec![partition] }
    };
    let at = |disk: u16| Place::Partition { disk, partition: 0 };
    let (existing, options) = (Existing::Keep, Vec::new());
    let luks = Luks {
        name: "vault".into(),
        place: at(0),
        label: String::new(),
        uuid: Some(UUID),
        key: Key::Controller,
        discard: false,
        // AES with the shorter key: all that is looked at in the volumes is decrypted by emulated instructions.
        options: vec!["--key-size=256".into()],
        existing,
    };
    let filesystem = |(at, (name, _, format)): (usize, &(&str, u64, Format))| {
        let path = lab.folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let (label, options, used) = (String::new(), options.clone(), Use::Mount(Mount { path, options: vec![] }));
        let (place, uuid) = (Place::Volume { group: 0, volume: at as u16 }, None);
        Filesystem { place, format: *format, label, uuid, options, used, existing }
    };
    let filesystems = volumes.iter().enumerate().map(filesystem).collect();
    let volume = |(name, mib, _): &(&str, u64, Format)| LogicalVolume {
        name: (*name).into(),
        kind: VolumeKind::Linear,
        size: VolumeSize::Mib(*mib),
    };
    let mut members = vec![Place::Luks(0)];
    members.extend(more.then(|| at(1)));
    let volumes = volumes.iter().map(volume).collect();
    let group = VolumeGroup { name: "office".into(), members, extent_mib: 4, volumes, existing };
    let mut disks = vec![disk(0, Some(partition_mib))];
    disks.extend(more.then(|| disk(1, None)));
    Storage { disks, luks: vec![luks], groups: vec![group], filesystems, ..Storage::default() }
}

fn steps(lab: &Lab, storage: &Storage) -> Vec<Step> {
    let (disks, layers) = lab.disks.observe_all().done("observed");
    plan_all(storage, &Observed { disks, layers, ..Observed::default() }).expect("it fits")
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn what_is_mounted_grows_with_all_that_is_below_it_and_is_seen_to_have_grown() {
    let lab = Lab::new(&[640 * MIB, 192 * MIB]);
    let keys = Keys::default();
    keys.keep("vault", UUID, DiskKey::new([9; 32]));
    let sized =
        |xfs, ext4, btrfs| [("xfs", xfs, Format::Xfs), ("ext4", ext4, Format::Ext4), ("btrfs", btrfs, Format::Btrfs)];
    let did = |storage: &Storage| -> Vec<&'static str> {
        let steps = steps(&lab, storage);
        for step in &steps {
            apply_with(&lab.disks, &keys, step, &mut |_| {}).done(&step.describe().action);
        }
        let kind = |step: &Step| match step {
            Step::Edit { .. } => Some("partition"),
            Step::GrowLuks { .. } => Some("luks"),
            Step::GrowMember { .. } => Some("member"),
            Step::ExtendGroup { .. } => Some("group"),
            Step::GrowVolume { .. } => Some("volume"),
            Step::Grow { .. } => Some("filesystem"),
            _ => None,
        };
        steps.iter().filter_map(kind).collect()
    };
    let left =
        |storage: &Storage| -> Vec<String> { steps(&lab, storage).iter().map(|step| step.describe().action).collect() };

    let small = document(&lab, 480, false, sized(304, 32, 116));
    assert_eq!(did(&small), Vec::<&str>::new());
    assert_eq!(left(&small), Vec::<String>::new());
    let names = ["xfs", "ext4", "btrfs"];
    let page = |name: &str| lab.folder.path().join(name).join("page");
    names.iter().for_each(|name| fs::write(page(name), name).expect("written"));

    // What runs on a partition keeps it in the table.
    let disk: DiskId = format!("serial:{}", lab.devices[0]).parse().expect("a disk id");
    let before = Before::of(&lab.disks.observe_one(&disk).done("a disk"));
    let (deleted, grown, added, also) = (vec![1], vec![], vec![], vec![]);
    let delete = Step::Edit { disk, before, deleted, grown, added, also };
    let refused = apply_with(&lab.disks, &keys, &delete, &mut |_| {});
    assert!(matches!(refused, Err(MachineError::Changed { .. })), "{refused:?}");

    // A Btrfs that would be smaller than 256 MiB afterwards does not grow.
    let larger = document(&lab, 638, false, sized(328, 56, 140));
    let expected = ["partition", "luks", "member", "volume", "volume", "volume", "filesystem", "filesystem"];
    assert_eq!(did(&larger), expected);
    assert_eq!(left(&larger), Vec::<String>::new());

    let wider = document(&lab, 638, true, sized(328, 56, 288));
    assert_eq!(did(&wider), ["group", "volume", "filesystem"]);
    assert_eq!(left(&wider), Vec::<String>::new());
    names.iter().for_each(|name| assert_eq!(fs::read_to_string(page(name)).expect("read"), *name));

    // Nothing is left of it for who wipes all of its disks.
    let (disks, layers) = lab.disks.observe_all().done("observed");
    let both: Vec<DiskId> = disks.iter().filter_map(|disk| disk.id()).collect();
    let observed = Observed { disks, layers, ..Observed::default() };
    let alone = take_down(&both[..1], &observed).expect_err("the group is on both");
    assert!(alone.problem.contains("wipe both together"), "{alone}");
    let wiped = |disk: &DiskId| wipe_on(&lab.disks, disk, WipeLevel::Signatures, &mut |_| {});
    let refused = wiped(&both[0]).expect_err("something runs on it").to_string();
    assert!(refused.contains("nothing runs"), "{refused}");
    for step in take_down(&both, &observed).expect("possible") {
        apply_with(&lab.disks, &keys, &step, &mut |_| {}).done(&step.describe().action);
    }
    for disk in &both {
        wiped(disk).done("wiped");
    }
    assert_eq!(lab.layers(), Layers::default());
}
