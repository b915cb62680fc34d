//! What a frame becomes in memory: a peer must not turn few bytes on the wire into many here.
//!
//! A program of its own, because its allocator counts, and one test alone, because others would be counted with it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use muster_protocol::frame::{self, FrameError, Message};
use muster_protocol::inventory::{
    self, Attachment, Carrier, Cpu, Dimm, Disk, Home, Inventory, Link, LinkKind, Medium, Memory, Nic, Transport,
};
use muster_protocol::to_agent::{self, Answer, Impact, Plan, Refusal, Step};
use muster_protocol::to_controller::{self, Call};
use muster_protocol::{Mac, VlanTag, bounded, desired, enroll, observed};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; only sizes are added up.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were allocated at a time while `frame` was decoded, and whether it is a message.
fn cost<M: Message>(frame: &[u8]) -> (usize, Result<(), FrameError>) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let decoded = frame::decode::<M>(frame).map(drop);
    (PEAK.load(Relaxed) - before, decoded)
}

/// The frame of a value that no honest peer sends.
fn value<M: Message>(message: &M) -> Vec<u8> {
    frame::encode(message).expect("within the frame's limit").split_off(frame::HEADER)
}

/// A number as postcard writes it, for lists that lie about their length.
fn number(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

fn disk(text: &str) -> Disk {
    Disk {
        name: text.into(),
        size_bytes: 0,
        logical_sector: 0,
        physical_sector: 0,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Nvme,
        model: text.into(),
        serial: Some(text.into()),
        wwn: Some(text.into()),
    }
}

fn nic(addresses: usize) -> Nic {
    Nic {
        name: String::new(),
        mac: Mac::from_bytes([0; 6]),
        permanent_mac: Mac::from_bytes([0; 6]),
        driver: String::new(),
        speed_mbps: None,
        carrier: Carrier::Absent,
        pci: None,
        port_of: Some(String::new()),
        addresses: vec!["0.0.0.0/0".parse().expect("a prefix"); addresses],
    }
}

fn link(addresses: usize) -> Link {
    Link {
        name: String::new(),
        kind: LinkKind::Vlan { tag: VlanTag::try_from(1).expect("a tag"), parent: String::new() },
        mac: Mac::from_bytes([0; 6]),
        carrier: Carrier::Absent,
        port_of: Some(String::new()),
        addresses: vec!["0.0.0.0/0".parse().expect("a prefix"); addresses],
    }
}

fn home(nics: usize) -> Option<Home> {
    Some(Home { link: String::new(), nics: vec![String::new(); nics] })
}

/// An inventory with as many of everything, and nothing in it but `text`.
fn inventory(flags: usize, dimms: usize, disks: usize, nics: usize, addresses: usize, text: &str) -> Inventory {
    let module = || Dimm {
        slot: text.into(),
        kind: text.into(),
        vendor: text.into(),
        part: text.into(),
        serial: text.into(),
        ..Dimm::default()
    };
    Inventory {
        cpu: Cpu { flags: vec![text.into(); flags], ..Cpu::default() },
        memory: Memory { dimms: (0..dimms).map(|_| module()).collect(), ..Memory::default() },
        disks: (0..disks).map(|_| disk(text)).collect(),
        nics: (0..nics).map(|_| nic(addresses)).collect(),
        ..Inventory::default()
    }
}

fn called(inventory: Inventory) -> Vec<u8> {
    value(&Call::Inventory(Box::new(inventory)))
}

#[test]
fn what_a_peer_sends_takes_no_more_memory_than_its_kind_is_allowed() {
    use bounded::{DIMMS, DISKS, FLAGS, LINK_ADDRESSES, LINKS, NIC_ADDRESSES, NICS};

    let array = inventory::Array {
        name: String::new(),
        level: String::new(),
        devices: 0,
        state: inventory::ArrayState::Whole,
        missing: inventory::Places::default(),
        faulty: String::new(),
    };
    // The largest legal inventory: every list full, and the rest of the frame in one text.
    let mut largest = inventory(FLAGS, DIMMS, DISKS, NICS, NIC_ADDRESSES, "");
    largest.links = (0..LINKS).map(|_| link(LINK_ADDRESSES)).collect();
    largest.arrays = vec![array.clone(); bounded::ARRAYS];
    largest.home = home(NICS);
    largest.cpu.model = "x".repeat(1 << 14);
    let rest = Call::LIMIT - called(largest.clone()).len();
    largest.cpu.model.push_str(&"x".repeat(rest));
    let largest = called(largest);
    assert_eq!(largest.len(), Call::LIMIT);
    let (bytes, decoded) = cost::<Call>(&largest);
    assert_eq!(decoded, Ok(()), "this one is legal");
    assert!(bytes <= to_controller::MEMORY, "{bytes} bytes for the largest legal inventory");

    // One list that is too long: refused before there is memory for it.
    for (what, inventory) in [
        ("flags", inventory(FLAGS + 1, 0, 0, 0, 0, "")),
        ("all flags that a frame takes", inventory(60_000, 0, 0, 0, 0, "")),
        ("dimms", inventory(0, 8_000, 0, 0, 0, "")),
        ("disks", inventory(0, 0, 5_000, 0, 0, "")),
        ("arrays", Inventory { arrays: vec![array.clone(); 9_000], ..Inventory::default() }),
        ("nics", inventory(0, 0, 0, 3_000, 0, "")),
        ("addresses", inventory(0, 0, 0, 1, 10_000, "")),
        ("links", Inventory { links: (0..3_000).map(|_| link(0)).collect(), ..Inventory::default() }),
        ("addresses of links", Inventory { links: vec![link(9)], ..Inventory::default() }),
        ("nics beneath", Inventory { home: home(65), ..Inventory::default() }),
    ] {
        let (bytes, decoded) = cost::<Call>(&called(inventory));
        assert!(matches!(decoded, Err(FrameError::Malformed { .. })), "{what}: {decoded:?}");
        assert!(bytes < 4096, "{what}: {bytes} bytes for what is refused");
    }
    let drive = |name: &str| inventory::health::Drive {
        disk: "wwn:1".parse().expect("an id"),
        name: name.into(),
        said: inventory::health::Said::Told(Default::default()),
    };
    let health = |count| value(&Call::Health(inventory::health::Health { drives: vec![drive(""); count] }));
    let (bytes, decoded) = cost::<Call>(&health(DISKS));
    assert!(decoded.is_ok() && bytes <= to_controller::MEMORY, "{bytes} bytes for the health of all drives");
    let (bytes, decoded) = cost::<Call>(&health(DISKS + 1));
    assert!(decoded.is_err() && bytes < 4096, "{bytes} bytes for the health of too many drives");
    // Lists that say that they are long, and are not.
    for (what, before, lie) in [
        ("versions", &[0][..], 1 << 20),
        ("flags", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], usize::MAX),
        ("receipts", &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 1 << 20),
        ("a signing request", &[5], 1 << 30),
    ] {
        let (bytes, decoded) = cost::<Call>(&[before, &number(lie), &[0; 64]].concat());
        assert!(decoded.is_err() && bytes < 4096, "{what}: {bytes} bytes for a lie, {decoded:?}");
    }
    let lie = [&[0; 32][..], &number(1 << 20), &[0; 64]].concat();
    let (bytes, decoded) = cost::<enroll::Request>(&lie);
    assert!(decoded.is_err() && bytes < 4096, "an enrollment: {bytes} bytes, {decoded:?}");
    let identity = enroll::Identity { macs: vec![Mac::from_bytes([0; 6]); 1_000], ..enroll::Identity::default() };
    let request = enroll::Request {
        leave: enroll::Leave::Ticket(enroll::Ticket::from_bytes([0; 32])),
        csr: Vec::new(),
        identity,
    };
    let (bytes, decoded) = cost::<enroll::Request>(&value(&request));
    assert!(decoded.is_err() && bytes < 4096, "an enrollment: {bytes} bytes, {decoded:?}");

    // Answers to the controller's own questions, each as full as its frame allows of what costs most.
    let step = Step { action: String::new(), impact: Impact::None };
    let problem = desired::Problem { field: String::new(), problem: String::new() };
    let partition = observed::Partition {
        number: 0,
        start_bytes: 0,
        size_bytes: 0,
        label: String::new(),
        type_guid: [0; 16],
        guid: [0; 16],
        contents: observed::Contents::Blank,
    };
    let whole = |partitions| observed::Disk {
        name: String::new(),
        wwn: None,
        serial: None,
        size_bytes: 0,
        logical_sector: 0,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Unknown,
        model: String::new(),
        by_path: None,
        contents: observed::Contents::Blank,
        partitions: vec![partition.clone(); partitions],
        held: String::new(),
    };
    let disks = |count, partitions| {
        let disks = (0..count).map(|_| whole(partitions)).collect();
        Answer::Observed(Box::new(observed::Observed { disks, ..observed::Observed::default() }))
    };
    let filesystems = |count, partitions| {
        let mut disk = whole(partitions);
        let bare = || observed::Contents::Filesystem(Box::default());
        disk.partitions.iter_mut().for_each(|partition| partition.contents = bare());
        Answer::Observed(Box::new(observed::Observed { disks: vec![disk; count], ..observed::Observed::default() }))
    };
    let layers = |layers| Answer::Observed(Box::new(observed::Observed { layers, ..observed::Observed::default() }));
    let lvm = observed::LvmId::try_from([b'a'; 32]).expect("an id");
    let array = observed::Array {
        array: array.clone(),
        members: vec![
            observed::ArrayMember { name: String::new(), slot: None, state: observed::MemberState::Spare };
            bounded::ARRAY_MEMBERS
        ],
        uuid: None,
        label: String::new(),
        size_bytes: 0,
        sync: None,
        contents: None,
    };
    let volume = observed::Volume {
        group: 0,
        name: String::new(),
        uuid: lvm,
        size_bytes: 0,
        kind: String::new(),
        pool: String::new(),
        origin: String::new(),
        device: String::new(),
        contents: None,
    };
    let member = observed::GroupMember { uuid: lvm, device: String::new(), extents: 0, free_extents: 0 };
    let group = observed::VolumeGroup {
        name: observed::GroupName { name: String::new(), uuid: lvm },
        seqno: 0,
        extent_bytes: 0,
        extents: 0,
        free_extents: 0,
        members: vec![member; bounded::GROUP_MEMBERS],
    };
    let opened = observed::Opened {
        name: String::new(),
        device: String::new(),
        uuid: String::new(),
        on: String::new(),
        size_bytes: 0,
        contents: None,
    };
    let fullest = observed::Layers {
        arrays: vec![array.clone(); bounded::ARRAYS],
        groups: vec![group.clone(); bounded::GROUPS],
        volumes: vec![volume.clone(); bounded::VOLUMES],
        opened: vec![opened; bounded::OPENED],
    };
    let route = observed::Route {
        to: "0.0.0.0/0".parse().expect("a prefix"),
        via: None,
        link: 0,
        metric: 0,
        table: 0,
        origin: observed::Origin::Kernel,
    };
    let bond = observed::Bond { options: [(desired::BondOption::UpDelay, 0)].into(), ..observed::Bond::default() };
    let kind = observed::LinkKind::Bond(Box::new(bond));
    // As few bytes as it can be.
    let bond = observed::Link { mtu: 0, ..observed::Link::bare(0, "", Mac::from_bytes([0; 6]), kind) };
    let network = |network| Answer::Observed(Box::new(observed::Observed { network, ..observed::Observed::default() }));
    let digest = muster_protocol::Digest::from_bytes([0; 32]);
    for (what, answer) in [
        ("steps", Answer::Planned(Plan { steps: vec![step.clone(); 4_096], notices: vec![], digest })),
        ("too many steps", Answer::Planned(Plan { steps: vec![step; 60_000], notices: vec![], digest })),
        ("too many notices", Answer::Planned(Plan { steps: vec![], notices: vec![String::new(); 60_000], digest })),
        ("problems", Answer::Refused(Refusal::Invalid(vec![problem.clone(); 1_024]))),
        ("too many problems", Answer::Refused(Refusal::Invalid(vec![problem; 60_000]))),
        ("disks and partitions", disks(DISKS, 12)),
        ("partitions", disks(25, 128)),
        ("filesystems", filesystems(12, 128)),
        ("too many disks", disks(10_000, 0)),
        ("layers", layers(fullest)),
        ("too many arrays", layers(observed::Layers { arrays: vec![array; 500], ..Default::default() })),
        ("too many groups", layers(observed::Layers { groups: vec![group; 50], ..Default::default() })),
        ("too many volumes", layers(observed::Layers { volumes: vec![volume; 3_000], ..Default::default() })),
        ("routes", network(observed::Network { routes: vec![route; 8_192], ..Default::default() })),
        ("links", network(observed::Network { links: vec![bond; 2_048], ..Default::default() })),
        ("too many domains", network(observed::Network { search: vec![String::new(); 100_000], ..Default::default() })),
    ] {
        let (bytes, decoded) = cost::<Answer>(&value(&answer));
        assert_eq!(decoded.is_err(), what.starts_with("too many"), "{what}: {decoded:?}");
        assert!(bytes <= to_agent::ANSWER_MEMORY, "{what}: {bytes} bytes");
    }
}
