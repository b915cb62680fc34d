//! What fuzzing begins with: good inputs of every kind, made by the program's own code and so never out of date.

use std::path::Path;

use muster_protocol::desired::{Desired, Permit, Problem};
use muster_protocol::drift::{Drift, DriftEnd, OnDrift};
use muster_protocol::enroll::{self, Identity, Leave, Ticket, Tpm};
use muster_protocol::frame::{self, HEADER, Message};
use muster_protocol::hello::{Awaits, Hello, InventoryWish, Progress, Reason, Standing, Times, Welcome};
use muster_protocol::inventory::health::{Drive, Health, Readings, Said};
use muster_protocol::inventory::{
    Attachment, Carrier, Cpu, Dimm, Disk, Home, Inventory, Link, LinkKind, Medium, Memory, Nic, PciId, Transport,
};
use muster_protocol::observed::{
    BootEntry, BootOrder, Contents, Firmware, GroupMember, GroupName, Headers, Layers, Luks, LvmId, Observed, Partition, Volume, VolumeGroup,
};
use muster_protocol::to_agent::{self, Apply, Impact, Plan, Power, PowerAction, Step, Wipe};
use muster_protocol::to_controller::{self, WipeReceipt, Work};
use muster_protocol::{BootId, Digest, Generation, Mac, MachineId, OperationId, VlanTag};

/// Puts `seeds` where `cargo fuzz` looks for the corpus of `target`.
pub fn plant(target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("the corpus can be written");
    for (number, seed) in seeds.into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:02}")), seed).expect("the corpus can be written");
    }
}

/// A signing request as an agent makes it.
pub fn signing_request() -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    rcgen::CertificateParams::default().serialize_request(&key).expect("a request").der().to_vec()
}

/// An enrollment as an agent asks for it.
pub fn enrollment() -> enroll::Request {
    let identity = Identity {
        uuid: Some([0x11; 16]),
        system_serial: "S1".into(),
        board_serial: "B1".into(),
        macs: vec![mac()],
        disks: vec!["wwn:0x5000c500a1b2c3d4".parse().expect("a disk's id")],
        tpm: Tpm::Claimed { key: Digest::of(b"key") },
    };
    enroll::Request { leave: Leave::Ticket(Ticket::from_bytes([0x77; 32])), csr: signing_request(), identity }
}

/// The answers of a TPM that makes its key when it is asked to, each behind two bytes of length.
pub fn tpm_that_makes_a_key() -> Vec<u8> {
    let (public, name) = endorsement_key();
    // Neither creationData nor its hash, an empty ticket; and behind all, an authorization without contents.
    let parameters = [&sized(&public)[..], &[0; 10], &[0; 2], &sized(&name)].concat();
    let length = (parameters.len() as u32).to_be_bytes();
    let body = [&[0x80, 0, 0, 0][..], &length, &parameters, &[0, 0, 1, 0, 0]].concat();
    [sized(&tpm_answer(0x8002, 0, &body)), sized(&tpm_answer(0x8001, 0, &[]))].concat()
}

/// The same of one that refuses, and has one that was kept.
pub fn tpm_that_keeps_a_key() -> Vec<u8> {
    let (public, name) = endorsement_key();
    let qualified = tpm_name(&[&[0x40, 0, 0, 0x0b], &name[..]].concat());
    let kept = [sized(&public), sized(&name), sized(&qualified)].concat();
    [sized(&tpm_answer(0x8001, 0x9a2, &[])), sized(&tpm_answer(0x8001, 0, &kept))].concat()
}

/// The public area that the agent's first command asks for, with a point in it, and its name.
fn endorsement_key() -> (Vec<u8>, Vec<u8>) {
    let mut first = None;
    let _ = muster_agent::linux::tpm::learn(&mut |command| {
        first.get_or_insert(command.to_vec());
        Err(std::io::ErrorKind::TimedOut.into())
    });
    let create = first.expect("it asks something");
    // Behind header, handle, authorization and inSensitive; before outsideInfo and creationPCR.
    let mut public = create[35..create.len() - 6].to_vec();
    let x = public.len() - 66;
    public[x..x + 32].fill(0x11);
    public[x + 34..].fill(0x22);
    let name = tpm_name(&public);
    (public, name)
}

fn tpm_name(of: &[u8]) -> Vec<u8> {
    [&[0, 0x0b], &Digest::of(of).as_bytes()[..]].concat()
}

fn tpm_answer(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let size = (10 + body.len()) as u32;
    [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// The value of a message's frame.
pub fn value<M: Message>(message: &M) -> Vec<u8> {
    frame::encode(message).expect("a seed fits").split_off(HEADER)
}

fn mac() -> Mac {
    Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, 0x56])
}

fn inventory() -> Inventory {
    let disk = Disk {
        name: "sda".into(),
        size_bytes: 1 << 40,
        logical_sector: 512,
        physical_sector: 4096,
        medium: Medium::Rotational,
        attachment: Attachment::Fixed,
        transport: Transport::Ata,
        model: "M".into(),
        serial: Some("S".into()),
        wwn: Some("naa.5000c500a1b2c3d4".into()),
    };
    let nic = Nic {
        name: "eth0".into(),
        mac: mac(),
        permanent_mac: mac(),
        driver: "igb".into(),
        speed_mbps: Some(1000),
        carrier: Carrier::Present,
        pci: Some(PciId { vendor: 1, device: 2 }),
        port_of: Some("bond0".into()),
        addresses: vec!["192.0.2.7/24".parse().expect("a prefix"), "2001:db8::7/64".parse().expect("a prefix")],
    };
    let link = |name: &str, kind, addresses: &[&str]| Link {
        name: name.into(),
        kind,
        mac: mac(),
        carrier: Carrier::Present,
        port_of: None,
        addresses: addresses.iter().map(|net| net.parse().expect("a prefix")).collect(),
    };
    let tag = VlanTag::try_from(42).expect("a tag");
    Inventory {
        cpu: Cpu { model: "C".into(), flags: vec!["aes".into()], ..Cpu::default() },
        memory: Memory { total_bytes: 1 << 34, dimms: vec![Dimm { slot: "A1".into(), ..Dimm::default() }] },
        disks: vec![disk],
        nics: vec![nic],
        links: vec![
            link("bond0", LinkKind::Bond, &[]),
            link("office", LinkKind::Vlan { tag, parent: "bond0".into() }, &["10.77.42.50/24"]),
        ],
        home: Some(Home { link: "office".into(), nics: vec!["eth0".into()] }),
        ..Inventory::default()
    }
}

fn observed() -> Observed {
    let partition = Partition {
        number: 1,
        start_bytes: 1 << 20,
        size_bytes: 1 << 30,
        label: "data".into(),
        type_guid: [7; 16],
        guid: [8; 16],
        contents: Contents::Signature("zfs_member".into()),
    };
    let disk = muster_protocol::observed::Disk {
        name: "sda".into(),
        wwn: Some("0x5000c500a1b2c3d4".into()),
        serial: None,
        size_bytes: 1 << 40,
        logical_sector: 512,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Ata,
        model: "WDC".into(),
        by_path: Some("pci-0000:00:1f.2-ata-1.0".into()),
        contents: Contents::Gpt { guid: [9; 16] },
        partitions: vec![partition],
        held: String::new(),
    };
    let entry = BootEntry { number: 4, option: vec![1, 0, 0, 0] };
    let firmware = Firmware::Uefi(BootOrder { current: Some(1), order: vec![1, 4], entries: vec![entry] });
    Observed { disks: vec![disk], layers: layers(), firmware, ..Observed::default() }
}

fn layers() -> Layers {
    let uuid = LvmId::try_from([b'g'; 32]).expect("an id");
    let luks = Luks { version: 2, uuid: "u".into(), label: "l".into(), subsystem: "s".into(), headers: Headers::Whole };
    let member = GroupMember { uuid, device: "sda1".into(), extents: 9, free_extents: 1 };
    let name = GroupName { name: "vg0".into(), uuid };
    let group =
        VolumeGroup { name, seqno: 1, extent_bytes: 1 << 22, extents: 9, free_extents: 1, members: vec![member] };
    let volume = Volume {
        group: 0,
        name: "data".into(),
        uuid,
        size_bytes: 1 << 24,
        kind: "linear".into(),
        pool: String::new(),
        origin: String::new(),
        device: "dm-0".into(),
        contents: Some(Contents::Luks(Box::new(luks))),
    };
    Layers { groups: vec![group], volumes: vec![volume], ..Layers::default() }
}

/// Frames' values, each behind the number of its kind: see the target `frames`.
pub fn frames() -> Vec<Vec<u8>> {
    let kind = |number: u8, value: Vec<u8>| [vec![number], value].concat();
    let (operation, digest, disk) = (OperationId::from_bytes([1; 16]), Digest::from_bytes([2; 32]), "serial:D1");
    let disk: muster_protocol::DiskId = disk.parse().expect("a disk's id");
    let hello = Hello {
        versions: vec![1],
        boot: BootId::from_bytes([3; 16]),
        agent: "0.1.0".into(),
        inventory: digest,
        progress: Progress::Reverted {
            generation: Generation(7),
            reason: Reason::NoGateway,
            why: "no gateway".into(),
            times: Times::default(),
        },
    };
    let confirm = to_controller::Call::Confirm { generation: Generation(7), desired: digest, times: Times::default() };
    let receipt = WipeReceipt {
        disk: disk.clone(),
        method: "zeroed".into(),
        size_bytes: 512,
        bytes: 512,
        verified_bytes: 512,
        milliseconds: 9,
    };
    let welcome = Welcome {
        version: 1,
        time_unix_ms: 1_000,
        standing: Standing::Pending { claim: "KX4M-7QPD".into(), awaits: Awaits::Approval },
        inventory: InventoryWish::Wanted,
        name: "ber1-aaaaaa".into(),
        on_drift: OnDrift::Report,
    };
    let end = DriftEnd::Failed { why: "no such device".into() };
    let drift = Drift { number: 1, differences: vec!["bring lan up".into()], end };
    let told = |said| Drive { disk: disk.clone(), name: "sda".into(), said };
    let health = Health { drives: vec![told(Said::Asleep), told(Said::Told(Readings::default()))] };
    let apply = Apply {
        generation: Generation(7),
        desired: Desired::default(),
        permit: Some(Permit { plan: digest, disks: vec![disk.clone()] }),
        confirm_within_s: 20,
    };
    let power = Power { operation, boot: BootId::from_bytes([3; 16]), action: PowerAction::Off };
    let step = Step { action: "erase".into(), impact: Impact::Destroys(vec![disk.clone()]) };
    let problem = Problem { field: "network".into(), problem: "none".into() };
    let refused = enroll::Answer::Refused(enroll::Refusal::TicketExpired);
    let enrolled = enroll::Answer::Enrolled {
        machine: MachineId::from_bytes([4; 16]),
        certificates: vec![vec![0x30]],
        time_unix_ms: 1_000,
    };
    vec![
        kind(0, value(&enrollment())),
        kind(1, value(&refused)),
        kind(1, value(&enrolled)),
        kind(2, value(&to_agent::Call::Apply(apply))),
        kind(2, value(&to_agent::Call::Power(power))),
        kind(2, value(&to_agent::Call::Wipe(Wipe { operation, disks: vec![disk], level: to_agent::WipeLevel::Full }))),
        kind(3, value(&to_agent::Answer::Planned(Plan { steps: vec![step], notices: vec![], digest }))),
        kind(3, value(&to_agent::Answer::Observed(Box::new(observed())))),
        kind(3, value(&to_agent::Answer::Refused(to_agent::Refusal::Invalid(vec![problem])))),
        kind(4, value(&to_controller::Call::Hello(hello))),
        kind(4, value(&to_controller::Call::Inventory(Box::new(inventory())))),
        kind(4, value(&to_controller::Call::Work { operation, state: Work::Done { receipts: vec![receipt] } })),
        kind(4, value(&confirm)),
        kind(4, value(&to_controller::Call::Prove { generation: Generation(7) })),
        kind(4, value(&to_controller::Call::Drift(drift))),
        kind(4, value(&to_controller::Call::Health(health))),
        kind(5, value(&to_controller::Answer::Welcome(welcome))),
        kind(5, value(&to_controller::Answer::Renewed { certificates: vec![vec![0x30]] })),
    ]
}
