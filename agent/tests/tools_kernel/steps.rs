//! Steps about arrays, encrypted devices and volumes, carried out one after the other as a plan would have them, taken down,
//! and brought up again as after a reboot.

use std::fs;

use muster_agent::linux::storage::layers::keys::Keys;
use muster_agent::linux::storage::{apply_with, header_on};
use muster_agent::machine::MachineError;
use muster_agent::plan::storage::{Before, Carries, Device, Group, Header, Make, MakeLuks, Over, Slot, Step, Target};
use muster_protocol::desired::{Format, Key, LINUX_FILESYSTEM, Mount, RaidLevel, VolumeKind, VolumeSize};
use muster_protocol::inventory::ArrayState;
use muster_protocol::observed::Contents;
use muster_protocol::{DiskId, DiskKey};

use super::layers::{Done, Lab, MIB, eventually};

const UUID: [u8; 16] = [0x6b; 16];

fn id(lab: &Lab, disk: usize) -> DiskId {
    format!("serial:{}", lab.devices[disk]).parse().expect("a disk id")
}

fn over(on: Target) -> Over {
    Over { on, carries: Carries::Nothing }
}

fn target(device: Device, disks: &[DiskId]) -> Target {
    Target { device, disks: disks.to_vec(), size_bytes: 0 }
}

#[test]
#[ignore = "needs the tools image: run by the system tests, in a guest"]
fn a_stack_of_layers_is_made_by_steps_found_again_after_a_reboot_and_outlives_a_disk() {
    let lab = Lab::new(&[96 * MIB, 96 * MIB, 96 * MIB]);
    let keys = Keys::default();
    keys.keep("vault", UUID, DiskKey::new([9; 32]));
    let attempt = |step: &Step| apply_with(&lab.disks, &keys, step, &mut |_| {});
    let apply = |step: &Step| attempt(step).done(&step.describe().action);
    let slot = |start: u64| Slot {
        number: 1,
        start_bytes: start,
        size_bytes: 80 * MIB,
        label: "member".into(),
        type_guid: LINUX_FILESYSTEM,
        guid: Some([0x11; 16]),
    };
    let partition = |disk: usize| Target::partition(&id(&lab, disk), &slot(MIB));
    for disk in 0..3 {
        let before = Before::of(&lab.disks.observe_one(&id(&lab, disk)).done("a disk"));
        apply(&Step::Partition { disk: id(&lab, disk), before, slots: vec![slot(MIB)], also: vec![] });
    }
    let both = [id(&lab, 0), id(&lab, 1)];
    let array = |uuid| target(Device::Array { name: "pair".into(), uuid }, &both);
    let luks = target(Device::Luks { name: "vault".into() }, &both);
    let volume = |name: &str| target(Device::Volume { group: "office".into(), name: name.into() }, &both);
    let group = Group { name: "office".into(), uuid: None, disks: both.to_vec() };
    let all = ["books".to_owned(), "thin".to_owned()];

    let make_array = Step::MakeArray {
        array: array(None),
        level: RaidLevel::Raid1,
        members: vec![over(partition(0)), over(partition(1))],
        spares: 0,
        options: vec![],
        also: vec![],
    };
    apply(&make_array);
    assert!(matches!(attempt(&make_array), Err(MachineError::Changed { .. } | MachineError::Os { .. })), "it is there");
    let encrypt =
        MakeLuks { name: "vault".into(), label: "safe".into(), uuid: None, key: Key::Controller, options: vec![] };
    apply(&Step::MakeLuks { on: over(array(None)), luks: encrypt, also: vec![] });
    assert!(lab.layers().opened.is_empty(), "it is left closed");
    let open = |header: Header, on: Target| {
        let luks = luks.clone();
        Step::Open { luks, on, header, key: Key::Controller, discard: true }
    };
    apply(&open(Header::Made, array(None)));
    let members = vec![over(luks.clone())];
    apply(&Step::MakeGroup { group: group.clone(), members, extent_bytes: MIB, also: vec![] });
    let make = |name: &str, kind, size| Step::MakeVolume { volume: volume(name), group: group.clone(), kind, size };
    apply(&make("books", VolumeKind::Linear, VolumeSize::Mib(16)));
    apply(&make("pool", VolumeKind::Pool, VolumeSize::Mib(12)));
    apply(&make("thin", VolumeKind::Thin { pool: "pool".into() }, VolumeSize::Mib(200)));
    let make = Make { format: Format::Ext4, label: "books".into(), uuid: None, options: vec![] };
    apply(&Step::Format { on: over(volume("books")), make, also: vec![] });
    let at = lab.folder.path().join("mnt").to_str().expect("UTF-8").to_owned();
    let mount = Mount { path: at.clone(), options: vec![] };
    let mount = Step::Mount { on: volume("books"), format: Format::Ext4, mount };
    apply(&mount);
    fs::write(format!("{at}/page"), "one").expect("written");
    assert!(lab.disks.observe().done("observed").iter().all(|disk| disk.held.is_empty()), "all of it is the agent's");
    let size = VolumeSize::Mib(24);
    apply(&Step::GrowVolume { volume: volume("books"), group: group.clone(), size, from_bytes: 16 * MIB });
    let (format, path) = (Format::Ext4, at.clone());
    apply(&Step::Grow { on: volume("books"), format, path, from_bytes: 16 * MIB });

    // What stands on another disk than was planned is another device.
    let foreign = target(Device::Luks { name: "vault".into() }, &[id(&lab, 2)]);
    assert!(matches!(attempt(&Step::Close { luks: foreign }), Err(MachineError::Changed { .. })));

    apply(&Step::Unmount { on: volume("books"), path: at.clone() });
    apply(&Step::Deactivate { group: group.clone(), volumes: all.to_vec() });
    let header = match lab.array().contents {
        Some(Contents::Luks(header)) => *header,
        other => panic!("{other:?}"),
    };
    assert_eq!((header.label.as_str(), header.subsystem.as_str()), ("safe", ""));
    for _ in 0..2 {
        apply(&Step::Close { luks: luks.clone() });
        apply(&Step::Stop { array: array(None) });
    }

    // As after a reboot, by what was seen then.
    let seen = lab.array();
    assert_eq!((seen.array.state, seen.label.as_str()), (ArrayState::Stopped, "pair"));
    let known = array(seen.uuid);
    let other = target(Device::Array { name: "other".into(), uuid: None }, &both);
    let refused = attempt(&Step::Assemble { array: other, members: vec![partition(0), partition(1)] });
    assert!(matches!(refused, Err(MachineError::Changed { .. })), "{refused:?}");
    // Its members may have been hidden when the plan was made.
    for known in [array(None), known.clone()] {
        apply(&Step::Assemble { array: known, members: vec![partition(0), partition(1)] });
    }
    let unseen = |label: &str| open(Header::Unseen { label: label.into(), uuid: None }, known.clone());
    let seen = Header::Seen("6ba7b810-9dad-41d1-80b4-00c04fd430c8".into());
    for another in [open(seen, known.clone()), unseen("vault")] {
        let refused = attempt(&another);
        assert!(matches!(refused, Err(MachineError::Changed { .. })), "{refused:?}");
        assert!(matches!(header_on(&lab.disks, &another), Err(MachineError::Changed { .. })), "no key is asked for");
    }
    keys.forget();
    let without = attempt(&open(Header::Seen(header.uuid.clone()), known.clone()));
    assert!(matches!(without, Err(MachineError::Unable(_))), "{without:?}");
    // The key is asked for by what is found in it now that it runs.
    let uuid = header_on(&lab.disks, &unseen("safe")).done("looked at");
    assert_eq!(uuid, UUID);
    keys.keep("vault", uuid, DiskKey::new([9; 32]));
    for _ in 0..2 {
        apply(&unseen("safe"));
        apply(&Step::Activate { group: group.clone(), volumes: all.to_vec() });
        apply(&mount);
    }
    assert_eq!(fs::read_to_string(format!("{at}/page")).expect("read"), "one");

    eventually("both members are in sync", || lab.array().sync.is_none());
    let running = lab.array_node();
    let failed = format!("{}p1", lab.devices[1]);
    fs::write(running.path.join("md").join(format!("dev-{failed}")).join("state"), "faulty").expect("it fails");
    eventually("it is seen", || lab.array().array.faulty == failed);
    apply(&Step::AddMember { array: known.clone(), member: over(partition(2)), also: vec![] });
    eventually("the new member is in sync", || lab.array().array.state == ArrayState::Whole);
    assert_eq!(fs::read_to_string(format!("{at}/page")).expect("read"), "one");

    let now = |target: &Target| Target { disks: vec![id(&lab, 0), id(&lab, 2)], ..target.clone() };
    apply(&Step::Unmount { on: now(&volume("books")), path: at });
    let group = Group { disks: vec![id(&lab, 0), id(&lab, 2)], ..group.clone() };
    apply(&Step::Deactivate { group, volumes: all.to_vec() });
    apply(&Step::Close { luks: now(&luks) });
    apply(&Step::Stop { array: now(&known) });
    assert!(lab.layers().arrays.iter().all(|array| array.array.state == ArrayState::Stopped), "{:?}", lab.layers());
}
