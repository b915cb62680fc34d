//! What a desired state may not say, and the words in which it is told.

use muster_protocol::desired::{
    Bond, BondMode, BondOption, Bridge, BridgeOption, Desired, Dhcp, Disk, DiskSelect, Ethernet, Existing, Filesystem,
    Format, LeaseUse, Link, LinkKind, MAIN_TABLE, Mount, Neighbor, Network, Partition, Place, PortCost, Reach, Route,
    Rule, Select, Settings, Storage, Table, Take, Use, VolumeId, check,
};
use muster_protocol::{DiskId, Mac, VlanTag};

fn ethernet(id: &str, settings: Settings) -> Link {
    Link { id: id.into(), kind: LinkKind::Ethernet(Ethernet::default()), settings }
}

fn nic(id: &str, select: Select, set_name: Option<&str>) -> Link {
    let kind = LinkKind::Ethernet(Ethernet { select, set_name: set_name.map(Into::into), ..Ethernet::default() });
    Link { id: id.into(), kind, settings: Settings::default() }
}

fn by_mac(last: u8) -> Select {
    Select { mac: Some(Mac::from_bytes([2, 0, 0, 0, 0, last])), ..Select::default() }
}

fn by_driver(driver: &str) -> Select {
    Select { drivers: vec![driver.into()], ..Select::default() }
}

fn bond(id: &str, bond: Bond) -> Link {
    Link { id: id.into(), kind: LinkKind::Bond(bond), settings: Settings::default() }
}

fn bridge(id: &str, bridge: Bridge) -> Link {
    Link { id: id.into(), kind: LinkKind::Bridge(bridge), settings: Settings::default() }
}

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn bond_of(ids: &[&str]) -> Bond {
    Bond { ports: names(ids), ..Bond::default() }
}

fn bridge_of(ids: &[&str]) -> Bridge {
    Bridge { ports: names(ids), ..Bridge::default() }
}

fn rule(from: Option<&str>, to: Option<&str>) -> Rule {
    let net = |text: &str| text.parse().expect("a prefix");
    Rule { from: from.map(net), to: to.map(net), table: 101, priority: None, mark: None, tos: None }
}

fn neighbor(address: &str, mac: [u8; 6]) -> Neighbor {
    Neighbor { address: address.parse().expect("an address"), mac: Mac::from_bytes(mac) }
}

fn vlan(id: &str, tag: u16, parent: &str) -> Link {
    let tag = VlanTag::try_from(tag).expect("a tag");
    Link { id: id.into(), kind: LinkKind::Vlan { tag, parent: parent.into() }, settings: Settings::default() }
}

fn addresses(list: &[&str]) -> Settings {
    Settings { addresses: list.iter().map(|a| a.parse().expect("a prefix")).collect(), ..Settings::default() }
}

fn route(to: &str, via: &str) -> Settings {
    let route = Route {
        to: to.parse().expect("a prefix"),
        via: Some(via.parse().expect("an address")),
        metric: None,
        table: MAIN_TABLE,
        reach: Reach::Prefix,
    };
    Settings { routes: vec![route], ..addresses(&["192.0.2.7/24"]) }
}

fn disk() -> DiskId {
    "serial:D1".parse().expect("a disk id")
}

fn partition(number: u32, label: &str, size_mib: Option<u64>) -> Partition {
    Partition::new(number, label, size_mib)
}

fn filesystem(partition: u16, mount: Option<&str>) -> Filesystem {
    Filesystem {
        place: Place::Partition { disk: 0, partition },
        format: Format::Ext4,
        label: String::new(),
        uuid: None,
        options: vec![],
        used: mount.map_or(Use::Later, |path| Use::Mount(Mount { path: path.into(), options: vec![] })),
        existing: Existing::Keep,
    }
}

/// Every problem as one line.
fn problems(desired: Desired) -> Vec<String> {
    check(desired).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn network(links: Vec<Link>) -> Vec<String> {
    problems(Desired { network: Some(Network { links, ..Network::default() }), storage: None })
}

fn storage(partitions: Vec<Partition>, filesystems: Vec<Filesystem>) -> Vec<String> {
    let disks = vec![Disk { select: DiskSelect::Id(disk()), table: Table::Keep, partitions }];
    problems(Desired { network: None, storage: Some(Storage { disks, filesystems, ..Storage::default() }) })
}

#[test]
fn a_sound_document_is_accepted() {
    assert_eq!(
        network(vec![ethernet("eth0", addresses(&["192.0.2.7/24", "2001:db8::7/64"])), vlan("v12", 12, "eth0")]),
        [""; 0]
    );
    assert_eq!(storage(vec![partition(1, "data", None)], vec![filesystem(0, Some("/srv/data"))]), [""; 0]);
    assert_eq!(problems(Desired::default()), [""; 0]);
}

#[test]
fn every_network_problem_names_its_field_and_the_remedy() {
    let eth = |settings| vec![ethernet("eth0", settings)];
    let cases: [(Vec<Link>, &str); 12] = [
        (vec![vlan("v12", 12, "eth9")], "network.vlans.v12.link: there is no link \"eth9\" in this document"),
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
             1 to 15 visible ASCII characters, none of '/', ':' and '%'",
        ),
        (
            eth(addresses(&["192.0.2.0/24"])),
            "network.ethernets.eth0.addresses[0]: 192.0.2.0/24 is the network's own address; \
             choose one between the first and the last",
        ),
        (
            eth(addresses(&["127.0.0.1/8"])),
            "network.ethernets.eth0.addresses[0]: 127.0.0.1/8 cannot be a link's own address: \
             it is the machine itself, on its loopback",
        ),
        (
            eth(addresses(&["192.0.2.7/24", "192.0.2.7/25"])),
            "network.ethernets.eth0.addresses[1]: 192.0.2.7 is given twice in this document",
        ),
        (
            eth(route("0.0.0.0/0", "2001:db8::1")),
            "network.ethernets.eth0.routes[0].via: 0.0.0.0/0 via 2001:db8::1: one is IPv4, the other IPv6",
        ),
        (
            eth(route("198.51.100.9/24", "192.0.2.1")),
            "network.ethernets.eth0.routes[0].to: 198.51.100.9/24 has host bits set; write 198.51.100.0/24",
        ),
        (
            eth(route("0.0.0.0/0", "192.0.2.7")),
            "network.ethernets.eth0.routes[0].via: the gateway 192.0.2.7 is this link's own address; give the router's",
        ),
        (
            eth(Settings { mtu: Some(1_000), ..addresses(&["2001:db8::7/64"]) }),
            "network.ethernets.eth0.mtu: 1000 is not between 1280 and 65535",
        ),
        (
            eth(Settings { search: vec!["exa mple".into()], ..Settings::default() }),
            "network.ethernets.eth0.nameservers.search[0]: \"exa mple\" is not a domain name: letters, digits, '-' and '_', \
             1 to 63 between two dots and 253 in all",
        ),
    ];
    for (links, expected) in cases {
        assert_eq!(network(links), [expected]);
    }
}

#[test]
fn a_stack_of_every_kind_is_accepted() {
    let mut lacp = bond_of(&["eth0", "eth1"]);
    lacp.mode = BondMode::Lacp;
    lacp.options = [(BondOption::LacpRate, 1), (BondOption::UpDelay, 200)].into();
    let mut quick = bridge_of(&["v12", "eth2"]);
    quick.options = [(BridgeOption::Stp, 0), (BridgeOption::ForwardDelay, 0)].into();
    quick.costs = [("eth2".to_owned(), PortCost { path_cost: Some(65_535), priority: Some(0) })].into();
    let mut links: Vec<_> = ["eth0", "eth1", "eth2"].map(|id| ethernet(id, Settings::default())).into();
    // Above comes before below: the order means nothing.
    links.insert(0, bridge("br0", quick));
    links.insert(1, vlan("inner", 100, "v13"));
    links.extend([vlan("v12", 12, "bond0"), vlan("v13", 13, "bond0"), bond("bond0", lacp)]);
    assert_eq!(network(links), [""; 0]);
}

#[test]
fn nics_that_change_names_are_accepted() {
    let links = vec![
        nic("a", by_mac(1), Some("eth1")),
        nic("b", by_mac(2), Some("eth0")),
        nic("c", by_driver("mlx5_core"), Some("storage0")),
        nic("d", Select { name: Some("en*s0".into()), ..by_driver("ixgbe") }, None),
        nic("e", Select { name: Some("en*s0".into()), ..by_driver("igb") }, None),
    ];
    assert_eq!(network(links), [""; 0]);
}

#[test]
fn every_problem_of_a_nic_names_its_field_and_the_remedy() {
    let named = |name: &str| Select { name: Some(name.into()), ..Select::default() };
    let many = Select { drivers: names(&["igb"; 17]), ..Select::default() };
    let remedy = "give match: {macaddress: …} with it; the entry's own name does not say which NIC it is";
    let no_name = "is no interface name: 1 to 15 visible ASCII characters, none of '/', ':' and '%'";
    let cases: Vec<(Vec<Link>, String)> = vec![
        (vec![nic("a", Select::default(), Some("lan0"))], format!("a.set-name: {remedy}")),
        (vec![nic("a", by_mac(1), Some("lan%d"))], format!("a.set-name: \"lan%d\" {no_name}")),
        (
            vec![nic("a", by_mac(1), Some("all"))],
            "a.set-name: all is a name that the kernel has a use for; choose another".into(),
        ),
        (
            vec![nic("a", by_mac(1), Some("x")), nic("b", by_mac(2), Some("x"))],
            "b.set-name: two links cannot both be x".into(),
        ),
        (
            vec![nic("a", by_mac(1), Some("eth0")), ethernet("eth0", Settings::default())],
            "a.set-name: two links cannot both be eth0".into(),
        ),
        (
            vec![nic("a", by_mac(1), Some("br0")), bridge("br0", Bridge::default())],
            "a.set-name: two links cannot both be br0".into(),
        ),
        (vec![nic("a", many, None)], "a.match.driver: 17 entries are over the limit of 16".into()),
        (vec![nic("a", by_mac(1), None), nic("b", by_mac(1), None)], "b.match: two entries select the same NIC".into()),
        (
            vec![ethernet("eth0", Settings::default()), nic("b", named("eth0"), None)],
            "b.match: two entries select the same NIC".into(),
        ),
        (
            vec![nic("a", named("lo"), None)],
            "a.match.name: the loopback is not configured; put its addresses on another link".into(),
        ),
        (
            vec![nic("a", named("en\u{1b}*"), None)],
            "a.match.name: \"en\\u{1b}*\" has control characters; leave them out".into(),
        ),
        (
            vec![nic("a", by_driver("\r"), None)],
            "a.match.driver[0]: \"\\r\" has control characters; leave them out".into(),
        ),
        (vec![nic("a\n", by_mac(1), None)], "a\n: \"a\\n\" has control characters; leave them out".into()),
        (
            vec![ethernet("lo", Settings::default())],
            "lo: lo is a name that the kernel has a use for; choose another".into(),
        ),
    ];
    for (links, expected) in cases {
        assert_eq!(network(links), [format!("network.ethernets.{expected}")]);
    }
}

#[test]
fn every_problem_of_a_bond_names_its_field_and_the_remedy() {
    let with = |mode, options: &[(BondOption, u32)]| Bond {
        mode,
        options: options.iter().copied().collect(),
        ..bond_of(&["eth0", "eth1"])
    };
    let many: Vec<String> = (0..65).map(|i| format!("eth{i}")).collect();
    let targets = |list: &[[u8; 4]]| Bond {
        arp_ip_targets: list.iter().map(|ip| (*ip).into()).collect(),
        ..with(BondMode::ActiveBackup, &[])
    };
    let primary = |mode, id: &str| Bond { primary: Some(id.into()), ..with(mode, &[]) };
    let cases: Vec<(Bond, &str)> = vec![
        (bond_of(&["eth99"]), "interfaces[0]: there is no link \"eth99\" in this document"),
        (bond_of(&["other"]), "interfaces[0]: \"other\" is no ethernet; a bond is made of ethernets"),
        (bond_of(&["eth0", "eth0"]), "interfaces[1]: eth0 is a port of bond0 already"),
        (Bond { ports: many, ..Bond::default() }, "interfaces: 65 entries are over the limit of 64"),
        (
            with(BondMode::ActiveBackup, &[(BondOption::LacpRate, 1)]),
            "parameters.lacp-rate: a bond of mode active-backup has no such parameter; leave it out",
        ),
        (
            with(BondMode::BalanceRr, &[(BondOption::PrimaryReselect, 1)]),
            "parameters.primary-reselect-policy: a bond of mode balance-rr has no such parameter; leave it out",
        ),
        (
            with(BondMode::BalanceRr, &[(BondOption::PacketsPerMember, 70_000)]),
            "parameters.packets-per-member: 70000 is not between 0 and 65535",
        ),
        (
            with(BondMode::Lacp, &[(BondOption::UpDelay, 250)]),
            "parameters.up-delay: 250 ms is no multiple of mii-monitor-interval, which is 100 ms",
        ),
        (
            with(BondMode::BalanceXor, &[(BondOption::DownDelay, 50), (BondOption::MiiMonitorInterval, 0)]),
            "parameters.down-delay: it is counted in intervals of mii-monitor-interval, and that is off here; leave it out",
        ),
        (
            Bond {
                arp_ip_targets: vec![[192, 0, 2, 1].into()],
                ..with(BondMode::ActiveBackup, &[(BondOption::ArpInterval, 100), (BondOption::MiiMonitorInterval, 100)])
            },
            "parameters.arp-interval: ports are watched by arp-interval or by mii-monitor-interval; give one",
        ),
        (
            with(BondMode::ActiveBackup, &[(BondOption::ArpInterval, 100)]),
            "parameters.arp-interval: give arp-ip-targets with it, the addresses to ask for",
        ),
        (
            with(BondMode::BalanceTlb, &[(BondOption::MiiMonitorInterval, 0)]),
            "parameters.mii-monitor-interval: a bond of mode balance-tlb needs it; leave it out for 100 ms",
        ),
        (
            targets(&(0..17).map(|last| [192, 0, 2, last]).collect::<Vec<_>>()),
            "parameters.arp-ip-targets: 17 entries are over the limit of 16",
        ),
        (targets(&[[192, 0, 2, 1]; 2]), "parameters.arp-ip-targets[1]: 192.0.2.1 is given twice; leave one out"),
        (targets(&[[255, 255, 255, 255]]), "parameters.arp-ip-targets[0]: 255.255.255.255 cannot be asked for"),
        (
            primary(BondMode::Lacp, "eth0"),
            "parameters.primary: only a bond of mode active-backup, balance-tlb or balance-alb has one; leave it out",
        ),
        (primary(BondMode::BalanceAlb, "eth2"), "parameters.primary: \"eth2\" is none of the bond's interfaces"),
    ];
    for (made, expected) in cases {
        let mut links: Vec<_> = (0..65).map(|i| ethernet(&format!("eth{i}"), Settings::default())).collect();
        links.extend([bond("bond0", made), bond("other", Bond::default())]);
        assert_eq!(network(links), [format!("network.bonds.bond0.{expected}")]);
    }
    assert_eq!(
        network(vec![bond("bond:0", Bond::default())]),
        [
            "network.bonds.bond:0: \"bond:0\" is no interface name: 1 to 15 visible ASCII characters, none of '/', ':' and '%'"
        ]
    );
}

#[test]
fn a_bond_looks_at_carriers_unless_it_asks_by_arp() {
    let interval = |options: &[(BondOption, u32)]| {
        let bond = Bond { options: options.iter().copied().collect(), ..Bond::default() };
        bond.option(BondOption::MiiMonitorInterval)
    };
    assert_eq!(interval(&[]), 100);
    assert_eq!(interval(&[(BondOption::ArpInterval, 0)]), 100);
    assert_eq!(interval(&[(BondOption::ArpInterval, 500)]), 0);
    assert_eq!(interval(&[(BondOption::MiiMonitorInterval, 0)]), 0);
}

#[test]
fn every_problem_of_a_bridge_names_its_field_and_the_remedy() {
    let with =
        |options: &[(BridgeOption, u32)]| Bridge { options: options.iter().copied().collect(), ..bridge_of(&["eth0"]) };
    let cost = |port: &str, path_cost, priority| Bridge {
        costs: [(port.to_owned(), PortCost { path_cost, priority })].into(),
        ..bridge_of(&["eth0"])
    };
    let many: Vec<String> = (0..129).map(|i| format!("eth{i}")).collect();
    let cases: Vec<(Bridge, &str)> = vec![
        (bridge_of(&["eth999"]), "interfaces[0]: there is no link \"eth999\" in this document"),
        (bridge_of(&["other"]), "interfaces[0]: \"other\" is a bridge, and a bridge is no port of one"),
        (Bridge { ports: many, ..Bridge::default() }, "interfaces: 129 entries are over the limit of 128"),
        (
            with(&[(BridgeOption::ForwardDelay, 199)]),
            "parameters.forward-delay: it is between 2 and 30 s; less than 2 s needs stp: false",
        ),
        (
            with(&[(BridgeOption::ForwardDelay, 3_001), (BridgeOption::Stp, 0)]),
            "parameters.forward-delay: it is between 0 and 30 s; less than 2 s needs stp: false",
        ),
        (with(&[(BridgeOption::HelloTime, 99)]), "parameters.hello-time: it is between 1 and 10 s"),
        (with(&[(BridgeOption::MaxAge, 4_001)]), "parameters.max-age: it is between 6 and 40 s"),
        (with(&[(BridgeOption::AgeingTime, 100_000_001)]), "parameters.ageing-time: it is between 0 and 1000000 s"),
        (with(&[(BridgeOption::Priority, 65_536)]), "parameters.priority: 65536 is not between 0 and 65535"),
        (with(&[(BridgeOption::Stp, 2)]), "parameters.stp: 2 is not between 0 and 1"),
        (cost("eth1", Some(1), None), "parameters.path-cost.eth1: \"eth1\" is none of the bridge's interfaces"),
        (cost("eth1", None, Some(1)), "parameters.port-priority.eth1: \"eth1\" is none of the bridge's interfaces"),
        (cost("eth0", Some(0), None), "parameters.path-cost.eth0: it is between 1 and 65535"),
        (cost("eth0", None, Some(64)), "parameters.port-priority.eth0: it is between 0 and 63"),
    ];
    for (made, expected) in cases {
        let mut links: Vec<_> = (0..129).map(|i| ethernet(&format!("eth{i}"), Settings::default())).collect();
        links.extend([bridge("br0", made), bridge("other", Bridge::default())]);
        assert_eq!(network(links), [format!("network.bridges.br0.{expected}")]);
    }
}

#[test]
fn a_port_has_one_owner_and_nothing_of_its_own() {
    let plain = |id: &str| ethernet(id, Settings::default());
    let twice = vec![plain("eth0"), bond("bond0", bond_of(&["eth0"])), bridge("br0", bridge_of(&["eth0"]))];
    assert_eq!(network(twice), ["network.bridges.br0.interfaces[0]: eth0 is a port of bond0 already"]);

    let below = vec![plain("eth0"), vlan("v1", 1, "eth0"), bond("bond0", bond_of(&["eth0"]))];
    assert_eq!(network(below), ["network.vlans.v1.link: eth0 is a port of bond0; put the VLAN on bond0"]);
    // The kernel takes what a VLAN is for from a NIC before a bridge sees it.
    let beside = vec![plain("eth0"), vlan("v1", 1, "eth0"), bridge("br0", bridge_of(&["eth0"]))];
    assert_eq!(network(beside), [""; 0]);

    let lease = Dhcp::On(LeaseUse::default());
    for settings in [
        addresses(&["192.0.2.7/24"]),
        Settings { dhcp4: lease, ..Settings::default() },
        Settings { dhcp6: lease, ..Settings::default() },
        Settings { rules: vec![rule(Some("192.0.2.0/24"), None)], ..Settings::default() },
        Settings { neighbors: vec![neighbor("192.0.2.9", [2; 6])], ..Settings::default() },
        Settings { search: vec!["lab.example".into()], ..Settings::default() },
        Settings { nameservers: vec!["192.0.2.53".parse().expect("an address")], ..Settings::default() },
    ] {
        let links = vec![ethernet("eth0", settings), bridge("br0", bridge_of(&["eth0"]))];
        let expected = "network.ethernets.eth0: it is a port of br0; addresses, routes and DHCP belong to br0";
        assert_eq!(network(links), [expected]);
    }
    let tuned = Settings { mtu: Some(9_000), ..Settings::default() };
    assert_eq!(network(vec![ethernet("eth0", tuned), bridge("br0", bridge_of(&["eth0"]))]), [""; 0]);
}

#[test]
fn a_stack_that_contains_itself_is_refused_wherever_it_is_entered() {
    let links = vec![bridge("br0", bridge_of(&["v1"])), vlan("v1", 1, "v2"), vlan("v2", 2, "br0"), vlan("v3", 3, "v3")];
    assert_eq!(
        network(links),
        [
            "network.bridges.br0.interfaces[0]: br0 is made of itself",
            "network.vlans.v1.link: v1 is made of itself",
            "network.vlans.v2.link: v2 is made of itself",
            "network.vlans.v3.link: v3 is made of itself",
        ]
    );
}

#[test]
fn every_problem_of_routes_rules_leases_and_neighbors_names_its_field_and_the_remedy() {
    let rules = |rule: Rule| Settings { rules: vec![rule], ..Settings::default() };
    let from = || rule(Some("192.0.2.0/24"), None);
    let neighbors = |list: Vec<Neighbor>| Settings { neighbors: list, ..Settings::default() };
    let in_table = |table| {
        let mut settings = route("198.51.100.0/24", "192.0.2.1");
        settings.routes[0].table = table;
        settings
    };
    let six = |uses| Settings { dhcp6: Dhcp::On(uses), ..Settings::default() };
    let no_routes =
        "dhcp6-overrides: DHCPv6 brings no routes: routers announce them; leave use-routes and route-metric out";
    let own = "the kernel's own; use 254, the main one, or a number from 1 to 252";
    let proofs = "is Muster's own while it proves a way; take another";
    let cases: Vec<(Settings, String)> = vec![
        (in_table(255), format!("routes[0].table: table 255 is {own}")),
        (in_table(0), format!("routes[0].table: table 0 is {own}")),
        (
            route("198.51.100.0/24", "0.0.0.0"),
            "routes[0].via: 0.0.0.0 is nobody; leave via out where 198.51.100.0/24 is on the link itself".into(),
        ),
        (rules(rule(None, None)), "routing-policy[0]: give from or to, or both".into()),
        (rules(Rule { table: 255, ..from() }), format!("routing-policy[0].table: table 255 is {own}")),
        (
            rules(rule(Some("192.0.2.0/24"), Some("2001:db8::/32"))),
            "routing-policy[0].to: from 192.0.2.0/24 to 2001:db8::/32: one is IPv4, the other IPv6".into(),
        ),
        (
            rules(rule(None, Some("192.0.2.7/24"))),
            "routing-policy[0].to: 192.0.2.7/24 has host bits set; write 192.0.2.0/24".into(),
        ),
        (
            rules(Rule { priority: Some(32_766), ..from() }),
            "routing-policy[0].priority: priority 32766 is not between 2 and 32765".into(),
        ),
        (
            rules(Rule { priority: Some(0), ..from() }),
            "routing-policy[0].priority: priority 0 is not between 2 and 32765".into(),
        ),
        (rules(Rule { priority: Some(1), ..from() }), format!("routing-policy[0].priority: priority 1 {proofs}")),
        (rules(Rule { table: 19_797, ..from() }), format!("routing-policy[0].table: table 19797 {proofs}")),
        (rules(Rule { mark: Some(19_797), ..from() }), format!("routing-policy[0].mark: mark 19797 {proofs}")),
        (in_table(19_797), format!("routes[0].table: table 19797 {proofs}")),
        (rules(Rule { mark: Some(0), ..from() }), "routing-policy[0].mark: a mark of 0 is none; leave it out".into()),
        (
            rules(Rule { tos: Some(32), ..from() }),
            "routing-policy[0].type-of-service: type-of-service 32 is not a multiple of 4 from 4 to 28".into(),
        ),
        (
            rules(Rule { tos: Some(5), ..rule(Some("2001:db8::/32"), None) }),
            "routing-policy[0].type-of-service: type-of-service 5 is not a multiple of 4 from 4 to 252".into(),
        ),
        (
            Settings { rules: vec![from(); 65], ..Settings::default() },
            "routing-policy: 65 entries are over the limit of 64".into(),
        ),
        (neighbors(vec![neighbor("::", [2; 6])]), "neighbors[0].address: :: is nobody's neighbor".into()),
        (
            neighbors(vec![neighbor("192.0.2.9", [0xff; 6])]),
            "neighbors[0].macaddress: ff:ff:ff:ff:ff:ff is no NIC's MAC address".into(),
        ),
        (
            neighbors(vec![neighbor("192.0.2.9", [2; 6]), neighbor("192.0.2.9", [4; 6])]),
            "neighbors[1].address: 192.0.2.9 is given twice".into(),
        ),
        (six(LeaseUse { routes: Take::No, ..LeaseUse::default() }), no_routes.into()),
        (six(LeaseUse { route_metric: Some(7), ..LeaseUse::default() }), no_routes.into()),
        (Settings { mtu: Some(1_000), ..six(LeaseUse::default()) }, "mtu: 1000 is not between 1280 and 65535".into()),
    ];
    for (settings, expected) in cases {
        assert_eq!(network(vec![ethernet("eth0", settings)]), [format!("network.ethernets.eth0.{expected}")]);
    }
    // What IPv6 has and IPv4 has not.
    let expedited = rules(Rule { tos: Some(184), ..rule(None, Some("2001:db8::/32")) });
    assert_eq!(network(vec![ethernet("eth0", expedited)]), [""; 0]);
    for rule in [Rule { table: 19_796, mark: Some(19_798), ..from() }, Rule { priority: Some(2), ..from() }] {
        assert_eq!(network(vec![ethernet("eth0", rules(rule))]), [""; 0]);
    }
}

#[test]
fn a_gateway_is_another_machine_and_not_all_of_them() {
    let why = |via: &str| {
        let to = if via.contains(':') { "2001:db8:9::/48" } else { "10.1.0.0/16" };
        let own = ["192.0.2.7/24", "198.51.100.0/31", "203.0.113.9/32", "2001:db8::7/64", "2001:db8:1::/127"];
        let settings = Settings { routes: route(to, via).routes, ..addresses(&own) };
        let said = network(vec![ethernet("eth0", settings)]);
        said.first().map(|line| line.trim_start_matches("network.ethernets.eth0.routes[0].via: ").to_owned())
    };
    let own = |via| format!("the gateway {via} is this link's own address; give the router's");
    let cannot = |via, what| format!("{via} cannot be a gateway: {what}; give the router's own address");
    for (via, expected) in [
        ("0.0.0.0", "0.0.0.0 is nobody; leave via out where 10.1.0.0/16 is on the link itself".to_owned()),
        ("::", ":: is nobody; leave via out where 2001:db8:9::/48 is on the link itself".to_owned()),
        ("127.0.0.1", cannot("127.0.0.1", "it is the machine itself, on its loopback")),
        ("::1", cannot("::1", "it is the machine itself, on its loopback")),
        ("224.0.0.1", cannot("224.0.0.1", "it is a multicast group")),
        ("ff02::2", cannot("ff02::2", "it is a multicast group")),
        ("255.255.255.255", cannot("255.255.255.255", "it is everybody")),
        (
            "192.0.2.255",
            "192.0.2.255 is the broadcast address of 192.0.2.0/24; give the router's own address".to_owned(),
        ),
        ("198.51.100.0", own("198.51.100.0")),
        ("203.0.113.9", own("203.0.113.9")),
        ("2001:db8::7", own("2001:db8::7")),
        ("2001:db8:1::", own("2001:db8:1::")),
    ] {
        assert_eq!(why(via), Some(expected), "{via}");
    }
    for via in ["192.0.2.0", "192.0.2.1", "198.51.100.1", "203.0.113.10", "240.0.0.1", "fe80::1", "2001:db8::"] {
        assert_eq!(why(via), None, "{via}");
    }
}

#[test]
fn an_address_is_one_machines_own() {
    for (net, what) in [
        ("0.0.0.0/24", "cannot be a link's own address: it is no address"),
        ("255.255.255.255/32", "cannot be a link's own address: it is everybody"),
        ("224.0.0.1/24", "cannot be a link's own address: it is a multicast group"),
        ("::/64", "cannot be a link's own address: it is no address"),
        ("::1/128", "cannot be a link's own address: it is the machine itself, on its loopback"),
        ("ff02::1/64", "cannot be a link's own address: it is a multicast group"),
        ("192.0.2.64/30", "is the network's own address; choose one between the first and the last"),
        ("192.0.2.67/30", "is the network's broadcast address; choose one between the first and the last"),
    ] {
        let expected = format!("network.ethernets.eth0.addresses[0]: {net} {what}");
        assert_eq!(network(vec![ethernet("eth0", addresses(&[net]))]), [expected]);
    }
    for net in ["192.0.2.0/31", "192.0.2.1/31", "192.0.2.0/32", "240.0.0.1/24", "2001:db8::/64", "2001:db8::/127"] {
        assert_eq!(network(vec![ethernet("eth0", addresses(&[net]))]), [""; 0], "{net}");
    }
}

#[test]
fn names_of_machines_and_time_servers_are_those_of_dns() {
    let machine = |hostname: Option<&str>, ntp: &[&str]| {
        let network = Network { hostname: hostname.map(Into::into), ntp: names(ntp), ..Network::default() };
        problems(Desired { network: Some(network), storage: None })
    };
    let long = format!("{0}.{0}.{0}.{0}", "a".repeat(16));
    let sound = machine(Some("rack3-u12.lab.example"), &["ntp.example", "192.0.2.123", "2001:db8::123"]);
    assert_eq!(sound, [""; 0]);
    for name in ["", "-m1", "m1-", "m1.", ".m1", "m 1", "m_1", &"a".repeat(64), &long] {
        let problem = format!(
            "{name:?} is no hostname: letters, digits, '-' and '.', at most 64, none of the last two at an end"
        );
        assert_eq!(machine(Some(name), &[]), [format!("network.hostname: {problem}")]);
    }
    for server in ["", "ntp_1.example", "192.0.2.123/24"] {
        let problem = format!("network.ntp.servers[0]: {server:?} is neither an IP address nor a host's name");
        assert_eq!(machine(None, &[server]), [problem]);
    }
    assert_eq!(machine(None, &["a"; 17]), ["network.ntp.servers: 17 entries are over the limit of 16"]);
}

#[test]
fn every_storage_problem_names_its_field_and_the_remedy() {
    let one = || vec![partition(1, "data", None)];
    let cases: [(Vec<Partition>, Vec<Filesystem>, &str); 9] = [
        (
            vec![partition(1, "da\u{1b}ta", None)],
            vec![],
            "storage.disks.serial:D1.partitions.1.label: a GPT label has at most 36 characters, no '/' and no control \
             characters",
        ),
        (
            vec![partition(0, "", None)],
            vec![],
            "storage.disks.serial:D1.partitions..number: a partition needs a number or a label",
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
            vec![filesystem(1, None)],
            "storage.filesystems.serial:D1/2.device: no partition of this document is meant; describe it under disks",
        ),
        (
            one(),
            vec![filesystem(0, None), filesystem(0, None)],
            "storage.filesystems.serial:D1/1.device: serial:D1/1 holds a filesystem of type ext4 already",
        ),
        (
            one(),
            vec![filesystem(0, Some("/etc/x"))],
            "storage.filesystems.serial:D1/1.path: \"/etc/x\" is no mount point: an absolute path such as /srv/data, \
             not a system directory, no '.' or '..'",
        ),
        (
            one(),
            vec![filesystem(0, Some("/srv/../etc"))],
            "storage.filesystems.serial:D1/1.path: \"/srv/../etc\" is no mount point: an absolute path such as /srv/data, \
             not a system directory, no '.' or '..'",
        ),
    ];
    for (partitions, filesystems, expected) in cases {
        assert_eq!(storage(partitions, filesystems), [expected]);
    }
}

type Change = fn(&mut Filesystem);

#[test]
fn every_problem_with_a_filesystem_names_its_field_and_the_remedy() {
    let made = |change: fn(&mut Filesystem)| {
        let mut made = filesystem(0, Some("/srv/data"));
        change(&mut made);
        storage(vec![partition(1, "data", Some(200))], vec![made])
    };
    fn options(filesystem: &mut Filesystem, options: &[&str]) {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        filesystem.used = Use::Mount(Mount { path: "/srv/data".into(), options });
    }
    let cases: [(Change, &str); 8] = [
        (
            |f| f.label = "seventeen-bytes-x".into(),
            "label: an ext4 label has at most 16 bytes, no control characters and no blanks at its ends",
        ),
        (|f| f.format = Format::Xfs, "format: xfs needs at least 300 MiB, and this partition has 200"),
        (|f| f.uuid = Some(VolumeId::Serial(7)), "uuid: ext4 has a UUID like 9d3c2c5e-6a4b-4f4e-8d9c-0a1b2c3d4e5f"),
        (
            |f| (f.format, f.uuid) = (Format::Vfat, Some(VolumeId::Uuid([7; 16]))),
            "uuid: vfat has a FAT's serial number like 1A2B-3C4D",
        ),
        (
            |f| f.options = vec!["-m".into(), "0".into(), "/dev/sdb".into()],
            "options[2]: \"/dev/sdb\" is not passed on: ext4 takes -b, -C, -E, -g, -G, -i, -I, -J, -m, -N, -O, -T, -j",
        ),
        (|f| f.format = Format::Swap, "path: a swap area is mounted nowhere; leave the path out"),
        (|f| f.used = Use::Swap, "format: ext4 cannot be swapped to"),
        (|f| options(f, &["noatime", "ro"]), "mount_options: options are kept as ro,noatime"),
    ];
    for (change, expected) in cases {
        assert_eq!(made(change), [format!("storage.filesystems.serial:D1/1.{expected}")]);
    }
    let one = |partition| Filesystem { uuid: Some(VolumeId::Uuid([7; 16])), ..filesystem(partition, None) };
    let problem = "storage.filesystems.serial:D1/2.uuid: two filesystems have this UUID";
    assert_eq!(storage(vec![partition(1, "a", Some(9)), partition(2, "b", Some(9))], vec![one(0), one(1)]), [problem]);
}

#[test]
fn all_problems_are_told_at_once() {
    let links = vec![ethernet("eth0", addresses(&["127.0.0.1/8", "192.0.2.0/24"])), vlan("v1", 1, "eth9")];
    assert_eq!(network(links).len(), 3);
}
