//! What a desired state may not say, and the words in which it is told.

use muster_protocol::desired::{
    Desired, Disk, Existing, Filesystem, Format, LINUX_FILESYSTEM, Link, Network, Partition, Reach, Route, Select,
    Settings, Storage, Table, check,
};
use muster_protocol::{DiskId, VlanTag};

fn ethernet(id: &str, settings: Settings) -> Link {
    Link::Ethernet { id: id.into(), select: Select::Name(id.into()), settings }
}

fn vlan(id: &str, tag: u16, parent: &str) -> Link {
    let tag = VlanTag::try_from(tag).expect("a tag");
    Link::Vlan { id: id.into(), tag, parent: parent.into(), settings: Settings::default() }
}

fn addresses(list: &[&str]) -> Settings {
    Settings { addresses: list.iter().map(|a| a.parse().expect("a prefix")).collect(), ..Settings::default() }
}

fn route(to: &str, via: &str) -> Settings {
    let route = Route {
        to: to.parse().expect("a prefix"),
        via: via.parse().expect("an address"),
        metric: None,
        reach: Reach::Prefix,
    };
    Settings { routes: vec![route], ..addresses(&["192.0.2.7/24"]) }
}

fn disk() -> DiskId {
    "serial:D1".parse().expect("a disk id")
}

fn partition(number: u32, label: &str, size_mib: Option<u64>) -> Partition {
    Partition { number, label: label.into(), size_mib, type_guid: LINUX_FILESYSTEM }
}

fn filesystem(partition: u32, mount: Option<&str>) -> Filesystem {
    Filesystem {
        disk: disk(),
        partition,
        format: Format::Ext4,
        label: String::new(),
        mount: mount.map(Into::into),
        existing: Existing::Keep,
    }
}

/// Every problem as one line.
fn problems(desired: Desired) -> Vec<String> {
    check(desired).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn network(links: Vec<Link>) -> Vec<String> {
    problems(Desired { network: Some(Network { links }), storage: None })
}

fn storage(partitions: Vec<Partition>, filesystems: Vec<Filesystem>) -> Vec<String> {
    let disks = vec![Disk { disk: disk(), table: Table::Keep, partitions }];
    problems(Desired { network: None, storage: Some(Storage { disks, filesystems }) })
}

#[test]
fn a_sound_document_is_accepted() {
    assert_eq!(
        network(vec![ethernet("eth0", addresses(&["192.0.2.7/24", "2001:db8::7/64"])), vlan("v12", 12, "eth0")]),
        [""; 0]
    );
    assert_eq!(storage(vec![partition(1, "data", None)], vec![filesystem(1, Some("/srv/data"))]), [""; 0]);
    assert_eq!(problems(Desired::default()), [""; 0]);
}

#[test]
fn every_network_problem_names_its_field_and_the_remedy() {
    let eth = |settings| vec![ethernet("eth0", settings)];
    let cases: [(Vec<Link>, &str); 13] = [
        (vec![vlan("v12", 12, "eth9")], "network.vlans.v12.link: there is no link \"eth9\" in this document"),
        (
            vec![ethernet("eth0", Settings::default()), vlan("v1", 1, "eth0"), vlan("v2", 2, "v1")],
            "network.vlans.v2.link: a VLAN on a VLAN is not supported; name an ethernet",
        ),
        (
            vec![ethernet("eth0", Settings::default()), vlan("v1", 5, "eth0"), vlan("v2", 5, "eth0")],
            "network.vlans.v2.id: tag 5 is used twice on eth0",
        ),
        (
            vec![ethernet("eth0", Settings::default()), ethernet("eth1", Settings::default()), vlan("eth1", 5, "eth0")],
            "network.vlans.eth1: this id is used twice; every link needs its own",
        ),
        (
            vec![ethernet("eth0", Settings::default()), vlan("a-name-that-is-too-long", 5, "eth0")],
            "network.vlans.a-name-that-is-too-long: \"a-name-that-is-too-long\" is no interface name: \
             1 to 15 visible ASCII characters, no '/' or ':'",
        ),
        (
            eth(addresses(&["192.0.2.0/24"])),
            "network.ethernets.eth0.addresses: 192.0.2.0/24 is the network's own or broadcast address; choose one between",
        ),
        (
            eth(addresses(&["127.0.0.1/8"])),
            "network.ethernets.eth0.addresses: 127.0.0.1/8 cannot be a link's own address",
        ),
        (
            eth(addresses(&["192.0.2.7/24", "192.0.2.7/25"])),
            "network.ethernets.eth0.addresses: 192.0.2.7 is given twice in this document",
        ),
        (
            eth(route("0.0.0.0/0", "2001:db8::1")),
            "network.ethernets.eth0.routes: 0.0.0.0/0 via 2001:db8::1: one is IPv4, the other IPv6",
        ),
        (
            eth(route("198.51.100.9/24", "192.0.2.1")),
            "network.ethernets.eth0.routes: 198.51.100.9/24 has host bits set; write 198.51.100.0/24",
        ),
        (
            eth(route("0.0.0.0/0", "192.0.2.7")),
            "network.ethernets.eth0.routes: the gateway 192.0.2.7 is this link's own address",
        ),
        (
            eth(Settings { mtu: Some(1_000), ..addresses(&["2001:db8::7/64"]) }),
            "network.ethernets.eth0.mtu: 1000 is not between 1280 and 65535",
        ),
        (
            eth(Settings { search: vec!["exa mple".into()], ..Settings::default() }),
            "network.ethernets.eth0.nameservers.search: \"exa mple\" is not a domain name",
        ),
    ];
    for (links, expected) in cases {
        assert_eq!(network(links), [expected]);
    }
}

#[test]
fn every_storage_problem_names_its_field_and_the_remedy() {
    let one = || vec![partition(1, "data", None)];
    let cases: [(Vec<Partition>, Vec<Filesystem>, &str); 8] = [
        (
            vec![partition(0, "", None)],
            vec![],
            "storage.disks.serial:D1.partitions.0.number: a partition's number is 1 to 128",
        ),
        (
            vec![partition(1, "a", None), partition(2, "b", None)],
            vec![],
            "storage.disks.serial:D1.partitions.1.size_mib: only the last partition may take what is left",
        ),
        (
            vec![partition(1, "a", Some(9)), partition(2, "a", None)],
            vec![],
            "storage.disks.serial:D1.partitions.2.label: this label is used twice",
        ),
        (
            vec![partition(1, "a", Some(0))],
            vec![],
            "storage.disks.serial:D1.partitions.1.size_mib: leave the key out to take what is left",
        ),
        (
            one(),
            vec![filesystem(2, None)],
            "storage.filesystems.serial:D1/2.device: no partition of this document is meant; describe it under disks",
        ),
        (
            one(),
            vec![filesystem(1, None), filesystem(1, None)],
            "storage.filesystems.serial:D1/1: this partition holds two filesystems",
        ),
        (
            one(),
            vec![filesystem(1, Some("/etc/x"))],
            "storage.filesystems.serial:D1/1.path: \"/etc/x\" is no mount point: an absolute path such as /srv/data, \
             not a system directory, no '.' or '..'",
        ),
        (
            one(),
            vec![filesystem(1, Some("/srv/../etc"))],
            "storage.filesystems.serial:D1/1.path: \"/srv/../etc\" is no mount point: an absolute path such as /srv/data, \
             not a system directory, no '.' or '..'",
        ),
    ];
    for (partitions, filesystems, expected) in cases {
        assert_eq!(storage(partitions, filesystems), [expected]);
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let links = vec![ethernet("eth0", addresses(&["127.0.0.1/8", "192.0.2.0/24"])), vlan("v1", 1, "eth9")];
    assert_eq!(network(links).len(), 3);
}
