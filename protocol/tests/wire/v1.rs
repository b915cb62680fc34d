//! Version 1 as it travels. If a test in this module fails, do not change the test: the change breaks machines that are
//! running. Growth is a new enum variant at the end of its enum.
//!
//! Until the first release the bytes may still change; CHANGELOG.md says when they were frozen.

use muster_protocol::desired::{
    AcceptRa, Desired, Dhcp4, Disk, Existing, Filesystem, Format, LINUX_FILESYSTEM, Link, Network, Partition, Permit,
    Reach, Route, Select, Settings, Storage, Table,
};
use muster_protocol::enroll::{self, Identity, Leave, SiteCredential, Ticket, Tpm};
use muster_protocol::frame::{self, HEADER, Message};
use muster_protocol::hello::{Awaits, Hello, InventoryWish, Progress, Standing, Welcome};
use muster_protocol::to_agent::{self, Apply, Impact, Plan, Power, PowerAction, Step, Wipe};
use muster_protocol::to_controller::{self, WipeReceipt, Work};
use muster_protocol::{BootId, Digest, Generation, Mac, MachineId, OperationId, VlanTag};

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
    };
    golden(&to_controller::Answer::Welcome(welcome), WELCOME);
}

#[test]
fn what_agents_tell() {
    use to_controller::Call;
    let reverted = Progress::Reverted { generation: Generation(7), why: "no gateway".into() };
    golden(&Call::Progress(reverted), "02 04 07 0a 6e6f2067617465776179");
    golden(&Call::Confirm { generation: Generation(7), desired: digest() }, CONFIRM);
    let receipt = WipeReceipt {
        disk: "serial:D1".parse().expect("a disk id"),
        method: "zeroed".into(),
        bytes: 512,
        verified_bytes: 512,
        milliseconds: 9,
    };
    golden(&Call::Work { operation: operation(), state: Work::Done { receipts: vec![receipt] } }, WORK);
    golden(&Call::Renew { csr: vec![0x30] }, "05 01 30");
    golden(&to_controller::Answer::Accepted, "01");
}

#[test]
fn what_controllers_ask() {
    use to_agent::Call;
    golden(&Call::Observe, "02");
    let power = Power { operation: operation(), boot: boot(), action: PowerAction::Off };
    golden(&Call::Power(power), POWER);
    let wipe = Wipe { operation: operation(), disks: vec!["wwn:0x1".parse().expect("a disk id")] };
    golden(&Call::Wipe(wipe), WIPE);
    let permit = Permit { plan: digest(), disks: vec!["serial:D1".parse().expect("a disk id")] };
    let apply = Apply { generation: Generation(7), desired: desired(), permit: Some(permit), confirm_within_s: 20 };
    golden(&Call::Apply(apply), APPLY);
    golden(&Call::Trust { cas: vec![digest()] }, TRUST);
}

#[test]
fn what_agents_answer() {
    use to_agent::{Answer, Refusal};
    let disk: muster_protocol::DiskId = "serial:D1".parse().expect("a disk id");
    let steps = vec![
        Step { action: "a".into(), impact: Impact::ControlPath },
        Step { action: "b".into(), impact: Impact::Destroys(disk.clone()) },
    ];
    golden(&Answer::Planned(Plan { steps, digest: digest() }), PLANNED);
    golden(&Answer::Accepted, "01");
    golden(&Answer::Refused(Refusal::PermitNeeded { disks: vec![disk], plan: digest() }), PERMIT_NEEDED);
    golden(&Answer::Refused(Refusal::Pending), "0308");
}

fn desired() -> Desired {
    let ethernet = Link::Ethernet {
        id: "lan".into(),
        select: Select::Mac(Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, 0x56])),
        settings: Settings {
            addresses: vec!["192.0.2.7/24".parse().expect("a prefix"), "2001:db8::7/64".parse().expect("a prefix")],
            routes: vec![Route {
                to: "0.0.0.0/0".parse().expect("a prefix"),
                via: "192.0.2.1".parse().expect("an address"),
                metric: Some(100),
                reach: Reach::OnLink,
            }],
            nameservers: vec!["192.0.2.1".parse().expect("an address")],
            search: vec!["example.net".into()],
            mtu: Some(1400),
            dhcp4: Dhcp4::On,
            accept_ra: AcceptRa::Off,
        },
    };
    let vlan = Link::Vlan {
        id: "office".into(),
        tag: VlanTag::try_from(12).expect("a tag"),
        parent: "lan".into(),
        settings: Settings::default(),
    };
    let disk: muster_protocol::DiskId = "serial:D1".parse().expect("a disk id");
    let partition = Partition { number: 1, label: "data".into(), size_mib: None, type_guid: LINUX_FILESYSTEM };
    let filesystem = Filesystem {
        disk: disk.clone(),
        partition: 1,
        format: Format::Ext4,
        label: "data".into(),
        mount: Some("/srv/data".into()),
        existing: Existing::Replace,
    };
    Desired {
        network: Some(Network { links: vec![ethernet, vlan] }),
        storage: Some(Storage {
            disks: vec![Disk { disk, table: Table::Replace, partitions: vec![partition] }],
            filesystems: vec![filesystem],
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
const WELCOME: &str = "0001e80700094b58344d2d3751504400010b626572312d616161616161";
const CONFIRM: &str = "0307d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1";
const WORK: &str = "\
    040e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e01010973657269616c3a4431067a65726f65648004800409";
const POWER: &str = "030e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0eb0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b001";
const WIPE: &str = "040e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e010777776e3a307831";
const TRUST: &str = "0501d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1";
const APPLY: &str = "\
    0107010200036c616e005254001234560200c0000207180120010db80000000000000000000000074001000000000000\
    00c00002010164010100c0000201010b6578616d706c652e6e657401f80a010201066f66666963650c036c616e000000\
    0000000001010973657269616c3a44310101010464617461000fc63daf848347728e793d69d8477de401097365726961\
    6c3a44310100046461746101092f7372762f646174610101d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1\
    d1d1d1d1d1d1d1d1010973657269616c3a443114";
const PLANNED: &str = "\
    00020161020162030973657269616c3a4431d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1\
    d1d1";
const PERMIT_NEEDED: &str = "\
    0304010973657269616c3a4431d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1";
