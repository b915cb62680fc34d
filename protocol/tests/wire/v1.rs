//! Version 1 as it travels. If a test in this module fails, do not change the test: the change breaks machines that are
//! running. Growth is a new enum variant at the end of its enum.
//!
//! Until the first release the bytes may still change; CHANGELOG.md says when they were frozen.

use std::net::IpAddr;

use muster_protocol::desired::{
    self, AcceptRa, Bond, BondMode, BondOption, Boot, Bridge, BridgeOption, Desired, Dhcp, Disk, DiskSelect, Ethernet,
    Existing, Filesystem, Format, Image, IoLimit, Key, LeaseUse, Link, LinkKind, LogicalVolume, MAIN_TABLE, Mount,
    Neighbor, Network, Partition, Permit, Place, PortCost, Privacy, Raid, RaidLevel, Rates, Reach, Resize, Route, Rule,
    Seed, Select, Settings, Storage, Table, Take, Tree, TreeMount, Use, VolumeId, VolumeKind, VolumeSize, WakeOnLan,
};
use muster_protocol::drift::{Drift, DriftEnd, OnDrift};
use muster_protocol::enroll::{self, Identity, Leave, SiteCredential, Ticket, Tpm};
use muster_protocol::frame::{self, HEADER, Message};
use muster_protocol::handed::Handed;
use muster_protocol::hello::{Awaits, Hello, InventoryWish, Progress, Reason, Standing, Times, Welcome};
use muster_protocol::inventory::{self, Carrier, Home, Inventory, Nic, PciId};
use muster_protocol::observed::{
    Array, ArrayMember, BootEntry, BootOrder, Contents, Firmware, GroupMember, GroupName, Headers, Layers, Luks, LvmId,
    MemberState, Metadata, Observed, Opened, PhysicalVolume, RaidMember, Role, Sync, Volume, VolumeGroup,
};
use muster_protocol::to_agent::{self, Apply, Impact, Plan, Power, PowerAction, Step, Wipe, WipeLevel};
use muster_protocol::to_controller::{self, WipeReceipt, Work};
use muster_protocol::{BootId, Digest, DiskKey, Generation, Mac, MachineId, OperationId, VlanTag};

/// `value` travels as exactly `hex`, and `hex` reads as `value`.
#[track_caller]
fn golden<M: Message + PartialEq + std::fmt::Debug>(value: &M, hex: &str) {
    let frame = frame::encode(value).expect("within the limit");
    let text: String = frame[HEADER..].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text, hex.replace([' ', '\n'], ""));
    assert_eq!(&frame::decode::<M>(&frame[HEADER..]).expect("decodes"), value);
}

fn boot() -> BootId {
    BootId::from_bytes([0xb0; 16])
}

fn operation() -> OperationId {
    OperationId::from_bytes([0x0e; 16])
}

fn digest() -> Digest {
    Digest::from_bytes([0xd1; 32])
}

#[test]
fn enroll_request() {
    let identity = Identity {
        uuid: Some([0x11; 16]),
        system_serial: "S1".into(),
        board_serial: String::new(),
        macs: vec![Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, 0x56])],
        disks: vec!["serial:D1".parse().expect("an id")],
        tpm: Tpm::Absent,
    };
    let leave = Leave::Ticket(Ticket::from_bytes([0x77; 32]));
    let request = enroll::Request { leave, csr: vec![0x30, 0], identity };
    golden(&request, &format!("{ENROLL_REQUEST} 00"));
    let sealed = enroll::Request { leave: Leave::Site(SiteCredential::from_bytes([0x5c; 32])), ..request.clone() };
    golden(&sealed, &format!("{ENROLL_REQUEST_SEALED} 00"));
    let telling = |tpm| {
        let identity = Identity { tpm, ..request.identity.clone() };
        enroll::Request { identity, ..request.clone() }
    };
    golden(&telling(Tpm::Silent), &format!("{ENROLL_REQUEST} 01"));
    golden(&telling(Tpm::Claimed { key: digest() }), &format!("{ENROLL_REQUEST} 02 {}", "d1".repeat(32)));
}

#[test]
fn enroll_answers() {
    let machine = MachineId::from_bytes([0xaa; 16]);
    let enrolled = enroll::Answer::Enrolled { machine, certificates: vec![vec![0x30]], time_unix_ms: 1_000 };
    golden(&enrolled, ENROLLED);
    golden(&enroll::Answer::Refused(enroll::Refusal::TicketExpired), "0101");
    golden(&enroll::Answer::Refused(enroll::Refusal::Full), "0107");
    golden(&enroll::Answer::Refused(enroll::Refusal::NoMedium), "0108");
    golden(&enroll::Answer::Refused(enroll::Refusal::Awaited { seconds: 60 }), "0109 3c");
    golden(&enroll::Answer::Refused(enroll::Refusal::Retired), "010a");
    golden(&enroll::Answer::Refused(enroll::Refusal::BadSerial), "010b");
}

#[test]
fn hello_and_welcome() {
    let hello = Hello {
        versions: vec![1],
        boot: boot(),
        agent: "0.1.0".into(),
        inventory: digest(),
        progress: Progress::Confirmed { generation: Generation(7) },
    };
    golden(&to_controller::Call::Hello(hello), HELLO);
    let welcome = Welcome {
        version: 1,
        time_unix_ms: 1_000,
        standing: Standing::Pending { claim: "KX4M-7QPD".into(), awaits: Awaits::Approval },
        inventory: InventoryWish::Wanted,
        name: "ber1-aaaaaa".into(),
        on_drift: OnDrift::Report,
    };
    golden(&to_controller::Answer::Welcome(welcome), WELCOME);
}

#[test]
fn an_inventory() {
    let mac = Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    let link = |name: &str, kind, port_of: Option<&str>, addresses| inventory::Link {
        name: name.into(),
        kind,
        mac,
        carrier: Carrier::Absent,
        port_of: port_of.map(str::to_owned),
        addresses,
    };
    let nic = Nic {
        name: "eth0".into(),
        mac,
        permanent_mac: mac,
        driver: "igb".into(),
        speed_mbps: Some(1000),
        carrier: Carrier::Present,
        pci: Some(PciId { vendor: 0x8086, device: 0x1521 }),
        port_of: Some("bond0".into()),
        addresses: vec!["192.0.2.7/24".parse().expect("a prefix")],
    };
    let vlan = inventory::LinkKind::Vlan { tag: VlanTag::try_from(42).expect("a tag"), parent: "bond0".into() };
    let array = inventory::Array {
        name: "md0".into(),
        level: "raid1".into(),
        devices: 2,
        state: inventory::ArrayState::Degraded,
        missing: [1].into_iter().collect(),
        faulty: "sdb1".into(),
    };
    let disk = inventory::Disk {
        name: "sdb".into(),
        size_bytes: 1 << 30,
        logical_sector: 512,
        physical_sector: 4096,
        medium: inventory::Medium::Rotational,
        attachment: inventory::Attachment::External,
        transport: inventory::Transport::Usb,
        model: String::new(),
        serial: Some("U1".into()),
        wwn: None,
    };
    let inventory = Inventory {
        disks: vec![disk],
        arrays: vec![array],
        nics: vec![nic],
        links: vec![
            link("bond0", inventory::LinkKind::Bond, None, Vec::new()),
            link("br0", inventory::LinkKind::Bridge, None, vec!["2001:db8::7/64".parse().expect("a prefix")]),
            link("office", vlan, Some("br0"), Vec::new()),
        ],
        home: Some(Home { link: "br0".into(), nics: vec!["eth0".into()] }),
        bmc: Some(inventory::Bmc { address: Some([10, 0, 9, 7].into()), mac: None }),
        software: inventory::Software {
            leaves: inventory::Leaves { storage: true, ..inventory::Leaves::default() },
            ..inventory::Software::default()
        },
        ..Inventory::default()
    };
    golden(&to_controller::Call::Inventory(Box::new(inventory)), INVENTORY);
}

#[test]
fn what_agents_tell() {
    use to_controller::Call;
    let times = Times { make_ms: 1, prove_beside_ms: 2, switch_ms: 3, verify_ms: 4, prove_ms: 5, revert_ms: 6 };
    let (generation, reason) = (Generation(7), Reason::NoGateway);
    let reverted = Progress::Reverted { generation, reason, why: "no gateway".into(), times };
    golden(&Call::Progress(reverted), "02 04 07 04 0a 6e6f2067617465776179 010203040506");
    golden(&Call::Confirm { generation, desired: digest(), times }, CONFIRM);
    golden(&Call::Prove { generation }, "06 07");
    let receipt = WipeReceipt {
        disk: "serial:D1".parse().expect("a disk id"),
        method: "zeroed".into(),
        size_bytes: 1024,
        bytes: 512,
        verified_bytes: 512,
        milliseconds: 9,
    };
    golden(&Call::Work { operation: operation(), state: Work::Done { receipts: vec![receipt] } }, WORK);
    golden(&Call::Renew { csr: vec![0x30] }, "05 01 30");
    let drift = |end| Call::Drift(Drift { number: 3, differences: vec!["a".into()], end });
    golden(&drift(DriftEnd::Gone), "07 03 01 01 61 00");
    golden(&drift(DriftEnd::Repaired { milliseconds: 300 }), "07 03 01 01 61 01 ac02");
    golden(&drift(DriftEnd::Contested { pause_s: 8 }), "07 03 01 01 61 02 08");
    golden(&drift(DriftEnd::Reported), "07 03 01 01 61 03");
    golden(&drift(DriftEnd::Failed { why: "b".into() }), "07 03 01 01 61 04 01 62");
    golden(&to_controller::Answer::Accepted, "01");
}

#[test]
fn how_drives_are() {
    use muster_protocol::inventory::health::{Drive, Health, Readings, Said, Verdict};
    let drive = |said| Drive { disk: "serial:D".parse().expect("an id"), name: "sda".into(), said };
    let readings = Readings {
        verdict: Verdict::Failing,
        critical: 4,
        temperature_c: Some(-1),
        critical_c: Some(70),
        hours: Some(300),
        used_percent: Some(3),
        spare_percent: Some(97),
        spare_threshold: Some(10),
        reallocated: Some(1),
        pending: Some(2),
        uncorrectable: Some(3),
        media_errors: Some(4),
        unsafe_shutdowns: None,
    };
    let health = Health { drives: vec![drive(Said::Asleep), drive(Said::Told(readings))] };
    let one = "08 73657269616c3a44 03 736461";
    let told = "02 04 0101 018c01 01ac02 0103 0161 010a 0101 0102 0103 0104 00";
    golden(&to_controller::Call::Health(health), &format!("09 02 {one} 00 {one} 01 {told}"));
}

#[test]
fn a_file_that_an_agent_fetches() {
    use to_controller::{Answer, Call, Refusal};
    golden(&Call::Fetch { digest: digest(), offset: 300 }, &format!("08 {} ac02", "d1".repeat(32)));
    golden(&Answer::File { bytes: 300 }, "04 ac02");
    golden(&Answer::Refused(Refusal::NoSuchFile), "03 07");
}

#[test]
fn the_key_of_an_encrypted_volume() {
    use to_controller::{Answer, Call, KeyUse, Refusal};
    let key = |use_for| Call::Key { name: "vault".into(), uuid: [0x1d; 16], use_for };
    golden(&key(KeyUse::Make), &format!("0a 05 7661756c74 {} 00", "1d".repeat(16)));
    golden(&key(KeyUse::Open), &format!("0a 05 7661756c74 {} 01", "1d".repeat(16)));
    golden(&Answer::Key(DiskKey::new([0x5e; 32])), &format!("05 {}", "5e".repeat(32)));
    golden(&Answer::Refused(Refusal::NotDesired), "03 08");
    golden(&Answer::Refused(Refusal::NoSuchKey), "03 09");
    golden(&Answer::Refused(Refusal::TooManyKeys), "03 0a");
}

#[test]
fn what_controllers_ask() {
    use to_agent::Call;
    golden(&Call::Observe, "02");
    let power = Power { operation: operation(), boot: boot(), action: PowerAction::Off };
    golden(&Call::Power(power), POWER);
    let disks = vec!["wwn:0x1".parse().expect("a disk id")];
    golden(&Call::Wipe(Wipe { operation: operation(), disks, level: WipeLevel::Full }), WIPE);
    let permit = Permit { plan: digest(), disks: vec!["serial:D1".parse().expect("a disk id")] };
    let apply = Apply { generation: Generation(7), desired: desired(), permit: Some(permit), confirm_within_s: 20 };
    golden(&Call::Apply(apply), APPLY);
    golden(&Call::Trust { cas: vec![digest()] }, TRUST);
}

#[test]
fn what_a_boot_script_hands_over() {
    let network = desired().network.expect("there is one");
    // As in a call, where it follows the generation and stands before the storage.
    let apply = APPLY.replace([' ', '\n'], "");
    let end = apply.find("0101000973657269616c").expect("storage");
    golden(&Handed::V1 { generation: Generation(7), network }, &format!("0007{}", &apply[6..end]));
}

#[test]
fn what_agents_answer() {
    use to_agent::{Answer, Refusal};
    let disk: muster_protocol::DiskId = "serial:D1".parse().expect("a disk id");
    let steps = vec![
        Step { action: "a".into(), impact: Impact::ControlPath },
        Step { action: "b".into(), impact: Impact::Destroys(vec![disk.clone()]) },
    ];
    let notices = vec!["n".into()];
    golden(&Answer::Planned(Plan { steps, notices, digest: digest() }), PLANNED);
    golden(&Answer::Accepted, "01");
    golden(&Answer::Refused(Refusal::PermitNeeded { disks: vec![disk.clone()], plan: digest() }), PERMIT_NEEDED);
    let void = PERMIT_NEEDED.replacen("0304", "0309", 1);
    golden(&Answer::Refused(Refusal::PermitVoid { disks: vec![disk], plan: digest() }), &void);
    golden(&Answer::Refused(Refusal::Pending), "0308");
}

#[test]
fn what_stands_on_disks() {
    let id = |letter: u8| LvmId::try_from([letter; 32]).expect("an id");
    let raid = RaidMember {
        array: [0xa1; 16],
        name: "h:d".into(),
        level: "raid1".into(),
        devices: 2,
        role: Role::Member(1),
        events: 300,
        used_bytes: 512,
        metadata: Metadata::V1_2,
    };
    let group = GroupName { name: "vg0".into(), uuid: id(b'g') };
    let luks =
        Luks { version: 2, uuid: "u".into(), label: "l".into(), subsystem: "s".into(), headers: Headers::FirstAlone };
    let array = Array {
        array: inventory::Array {
            name: "md0".into(),
            level: "raid1".into(),
            devices: 2,
            state: inventory::ArrayState::Rebuilding,
            missing: inventory::Places::default(),
            faulty: String::new(),
        },
        members: vec![ArrayMember { name: "sda".into(), slot: Some(0), state: MemberState::InSync }],
        uuid: Some([0xa1; 16]),
        label: "h:d".into(),
        size_bytes: 512,
        sync: Some(Sync { action: "recover".into(), percent: 25 }),
        contents: Some(Contents::Lvm(Box::new(PhysicalVolume {
            uuid: id(b'p'),
            group: Some(group.clone()),
            is_damaged: false,
        }))),
    };
    let member = GroupMember { uuid: id(b'p'), device: "md0".into(), extents: 100, free_extents: 90 };
    let group = VolumeGroup {
        name: group,
        seqno: 3,
        extent_bytes: 4096,
        extents: 100,
        free_extents: 90,
        members: vec![member],
    };
    let volume = Volume {
        group: 0,
        name: "data".into(),
        uuid: id(b'v'),
        size_bytes: 512,
        kind: "thin".into(),
        pool: "p".into(),
        origin: "o".into(),
        device: "dm-0".into(),
        contents: Some(Contents::Luks(Box::new(luks))),
    };
    let opened = Opened {
        name: "vault".into(),
        device: "dm-1".into(),
        uuid: "u".into(),
        on: "dm-0".into(),
        size_bytes: 512,
        contents: Some(Contents::Raid(Box::new(raid))),
    };
    let layers = Layers { arrays: vec![array], groups: vec![group], volumes: vec![volume], opened: vec![opened] };
    golden(&to_agent::Answer::Observed(Box::new(Observed { layers, ..Observed::default() })), LAYERS);
}

#[test]
fn what_a_firmware_starts() {
    let entries = vec![BootEntry { number: 2, option: Vec::new() }, BootEntry { number: 300, option: vec![1, 0xbb] }];
    let firmware = Firmware::Uefi(BootOrder { current: Some(2), order: vec![2, 300], entries });
    golden(&to_agent::Answer::Observed(Box::new(Observed { firmware, ..Observed::default() })), FIRMWARE);
    let firmware = Firmware::Closed { why: "ro".into() };
    golden(&to_agent::Answer::Observed(Box::new(Observed { firmware, ..Observed::default() })), CLOSED_FIRMWARE);
}

fn desired() -> Desired {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let net = |text: &str| text.parse().expect("a prefix");
    let ethernet = |id: &str, mac: u8, settings| Link {
        id: id.into(),
        kind: LinkKind::Ethernet(Ethernet {
            select: Select { mac: Some(Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, mac])), ..Select::default() },
            set_name: Some(id.into()),
            wake_on_lan: WakeOnLan::On,
        }),
        settings,
    };
    let lan = ethernet(
        "lan",
        0x56,
        Settings {
            addresses: vec![net("192.0.2.7/24"), net("2001:db8::7/64")],
            routes: vec![Route {
                to: net("0.0.0.0/0"),
                via: Some(ip("192.0.2.1")),
                metric: Some(100),
                table: MAIN_TABLE,
                reach: Reach::OnLink,
            }],
            rules: vec![Rule {
                from: Some(net("192.0.2.7/32")),
                to: None,
                table: 7,
                priority: Some(10),
                mark: None,
                tos: Some(8),
            }],
            neighbors: vec![Neighbor { address: ip("192.0.2.1"), mac: Mac::from_bytes([2, 0, 0, 0, 0, 1]) }],
            nameservers: vec![ip("192.0.2.1")],
            search: vec!["example.net".into()],
            mtu: Some(1400),
            dhcp4: Dhcp::On(LeaseUse { dns: Take::No, ntp: Take::No, routes: Take::Yes, route_metric: Some(50) }),
            dhcp6: Dhcp::Off,
            accept_ra: AcceptRa::Off,
            privacy: Privacy::On,
        },
    );
    let bond = Bond {
        ports: vec!["one".into()],
        mode: BondMode::ActiveBackup,
        primary: Some("one".into()),
        arp_ip_targets: Vec::new(),
        options: [(BondOption::UpDelay, 200)].into(),
    };
    let bridge = Bridge {
        ports: vec!["office".into()],
        options: [(BridgeOption::Stp, 0)].into(),
        costs: [("office".to_owned(), PortCost { path_cost: Some(4), priority: None })].into(),
    };
    let made = |id: &str, kind| Link { id: id.into(), kind, settings: Settings::default() };
    let tag = VlanTag::try_from(12).expect("a tag");
    let links = vec![
        lan,
        ethernet("one", 0x57, Settings::default()),
        made("bond0", LinkKind::Bond(bond)),
        made("office", LinkKind::Vlan { tag, parent: "bond0".into() }),
        made("br0", LinkKind::Bridge(bridge)),
    ];
    let disk: muster_protocol::DiskId = "serial:D1".parse().expect("a disk id");
    let partition = Partition { resize: Resize::Grow, ..Partition::new(1, "data", None) };
    let member = |partition| Place::Partition { disk: 0, partition };
    let raid = Raid {
        name: "array".into(),
        level: RaidLevel::Raid5,
        members: vec![member(1), member(2), member(3), member(4)],
        spares: 1,
        options: vec!["--chunk=64".into()],
        existing: Existing::Keep,
    };
    let luks = desired::Luks {
        name: "vault".into(),
        place: Place::Raid(0),
        label: "secret".into(),
        uuid: Some([0x1c; 16]),
        key: Key::Tpm,
        discard: true,
        options: vec!["--pbkdf=pbkdf2".into()],
        existing: Existing::Replace,
    };
    let volume = |name: &str, kind, size| LogicalVolume { name: name.into(), kind, size };
    let group = desired::VolumeGroup {
        name: "vg0".into(),
        members: vec![Place::Luks(0)],
        extent_mib: 4,
        volumes: vec![
            volume("pool", VolumeKind::Pool, VolumeSize::Percent(50)),
            volume("thin", VolumeKind::Thin { pool: "pool".into() }, VolumeSize::Mib(300)),
            volume("home", VolumeKind::Linear, VolumeSize::Rest),
        ],
        existing: Existing::Keep,
    };
    let filesystem = Filesystem {
        place: Place::Partition { disk: 0, partition: 0 },
        format: Format::Ext4,
        label: "data".into(),
        uuid: Some(VolumeId::Uuid([0x9d; 16])),
        options: vec!["-m".into(), "0".into()],
        used: Use::Mount(Mount { path: "/srv/data".into(), options: vec!["noatime".into()] }),
        existing: Existing::Replace,
    };
    let swap = Filesystem {
        place: Place::Volume { group: 0, volume: 2 },
        format: Format::Swap,
        label: String::new(),
        uuid: None,
        options: vec![],
        used: Use::Swap,
        existing: Existing::Keep,
    };
    Desired {
        network: Some(Network { links, hostname: Some("m1".into()), ntp: vec!["192.0.2.1".into()] }),
        storage: Some(Storage {
            disks: vec![Disk { select: DiskSelect::Id(disk), table: Table::Replace, partitions: vec![partition] }],
            raid: vec![raid],
            luks: vec![luks],
            groups: vec![group],
            filesystems: vec![filesystem, swap],
            mounts: vec![TreeMount {
                what: Tree::Bind("/srv/data/www".into()),
                mount: Mount { path: "/srv/www".into(), options: vec!["ro".into()] },
            }],
            images: vec![Image {
                select: DiskSelect::Path("pci-0000:00:1f.2-ata-2.0".into()),
                digest: Digest::from_bytes([0x77; 32]),
                table: Table::Keep,
                seed: Some(Seed {
                    meta_data: "{}".into(),
                    user_data: "#cloud-config".into(),
                    network_config: String::new(),
                }),
                boot: Boot::Disk,
            }],
            io_limits: vec![IoLimit {
                disk: DiskSelect::Path("p".into()),
                cgroup: "g".into(),
                rates: Rates { read_bytes: Some(300), write_iops: Some(1), ..Rates::default() },
            }],
        }),
    }
}

// Up to what the TPM says.
const ENROLL_REQUEST: &str = "\
    00777777777777777777777777777777777777777777777777777777777777777702300001111111111111111111111111\
    111111110253310001525400123456010973657269616c3a4431";
const ENROLL_REQUEST_SEALED: &str = "\
    015c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c02300001111111111111111111111111\
    111111110253310001525400123456010973657269616c3a4431";
const ENROLLED: &str = "00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa010130e807";
const HELLO: &str = "\
    000101b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b005302e312e30d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1\
    d1d1d1d1d1d1d1d1d10207";
const WELCOME: &str = "0001e80700094b58344d2d3751504400010b626572312d61616161616101";
const INVENTORY: &str = "\
    0100000000000000000000000000000000010373646280808080048004802001020300010255310001036d6430057261\
    69643102010204736462310104657468305254001234565254001234560369676201e8070001868102a12a0105626f6e\
    64300100c0000207180305626f6e64300152540012345601000003627230025254001234560100010120010db8000000\
    00000000000000000740066f6666696365002a05626f6e64305254001234560101036272300001036272300104657468\
    30000000010001010a00090700";
const LAYERS: &str = "\
    02000000000000000001036d643005726169643102020000010373646101000001a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1\
    a103683a64800401077265636f7665721901077070707070707070707070707070707070707070707070707070707070\
    707070010376673067676767676767676767676767676767676767676767676767676767676767670001037667306767\
    676767676767676767676767676767676767676767676767676767676767038020645a01707070707070707070707070\
    7070707070707070707070707070707070707070036d6430645a01000464617461767676767676767676767676767676\
    76767676767676767676767676767676768004047468696e0170016f04646d2d300108020175016c0173010105766175\
    6c7404646d2d31017504646d2d3080040106a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a103683a64057261696431020001ac\
    02800403000000";
const FIRMWARE: &str = "0200000000000000000000000000000201020202ac02020200ac020201bb";
const CLOSED_FIRMWARE: &str = "0200000000000000000000000000000102726f";
const CONFIRM: &str = "\
    0307d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1010203040506";
const WORK: &str = "\
    040e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e01010973657269616c3a4431067a65726f656480088004800409";
const POWER: &str = "030e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0eb0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b001";
const WIPE: &str = "040e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e010777776e3a30783102";
const TRUST: &str = "0501d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1";
const APPLY: &str = "\
    01070105036c616e0000015254001234560001036c616e010200c0000207180120010db8000000000000000000000007\
    40010000000000000100c00002010164fe0101010100c0000207200007010a0001080100c00002010200000000010100\
    c0000201010b6578616d706c652e6e657401f80a010101000132000201036f6e650000015254001234570001036f6e65\
    01000000000000000000000005626f6e64300101036f6e650101036f6e65000101c8010000000000000000000000066f\
    6666696365030c05626f6e64300000000000000000000000036272300201066f666669636501000001066f6666696365\
    010400000000000000000000000001026d3101093139322e302e322e310101000973657269616c3a4431010101046461\
    746100000fc63daf848347728e793d69d8477de40000000101056172726179020400000100000200000300000401010a\
    2d2d6368756e6b3d36340001057661756c74010006736563726574011c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c0101010e\
    2d2d70626b64663d70626b646632010103766730010200040304706f6f6c010132047468696e0204706f6f6c00ac0204\
    686f6d650002000200000000046461746101009d9d9d9d9d9d9d9d9d9d9d9d9d9d9d9d02022d6d013001092f7372762f\
    6461746101076e6f6174696d650103000204000000020001010d2f7372762f646174612f777777082f7372762f777777\
    0102726f0101187063692d303030303a30303a31662e322d6174612d322e307777777777777777777777777777777777\
    7777777777777777777777777777770001027b7d0d23636c6f75642d636f6e666967000101010170016701ac02000001\
    0101d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1010973657269616c3a443114";
const PLANNED: &str = "\
    0002016103016204010973657269616c3a443101016ed1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1\
    d1d1d1";
const PERMIT_NEEDED: &str = "\
    0304010973657269616c3a4431d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1";
