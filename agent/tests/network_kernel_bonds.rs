//! Bonds, VLANs, and bridges on them: steps made by hand, shown by iproute2, in namespaces.
//!
//! Every step is done twice: see [`steps::does`].

#[path = "network_kernel/lab.rs"]
#[allow(dead_code, reason = "the lab has more than is needed here")]
mod lab;
#[path = "network_kernel/steps.rs"]
#[allow(dead_code, reason = "others need more of it")]
mod steps;

use std::net::Ipv4Addr;

use lab::{Lab, MAC, eventually};
use muster_agent::linux::network::Network;
use muster_agent::plan::network::{Change, NewLink};
use muster_protocol::VlanTag;
use muster_protocol::desired::{BondMode, BondOption};
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Address, Admin, LinkKind, Origin, Port};
use serde_json::{Value, json};
use steps::{does, found, join, refused, seen, set_admin, shown};

fn create(network: &Network, mode: BondMode) {
    does(network, Change::Create { link: "bond7".to_owned(), kind: NewLink::Bond { mode } });
}

fn set_change(option: BondOption, value: u32) -> Change {
    Change::SetBond { link: "bond7".to_owned(), option, value }
}

fn set(network: &Network, option: BondOption, value: u32) {
    does(network, set_change(option, value));
}

fn bond(network: &Network) -> observed::Bond {
    match seen(network, "bond7").kind {
        LinkKind::Bond(bond) => *bond,
        kind => panic!("bond7 is {kind:?}"),
    }
}

fn shown_data(lab: &Lab) -> Value {
    shown(lab, "bond7")["linkinfo"]["info_data"].clone()
}

/// Two more NICs, `eth1` and `eth2`, whose cables end beside that of `eth0`.
fn more_nics(lab: &Lab) {
    for number in [1, 2] {
        lab.ip(&format!(
            "link add eth{number} address 02:00:00:00:01:0{number} type veth peer name lan{number} netns {}",
            lab.peer
        ));
    }
    for number in [0, 1, 2] {
        lab.peer_ip(&format!("link set lan{number} up"));
    }
}

/// The key of `ip -j -d link` for an option, and what is shown there for two values that are not the default.
fn samples(option: BondOption) -> (&'static str, [(u32, Value); 2]) {
    match option {
        BondOption::MiiMonitorInterval => ("miimon", [(50, json!(50)), (200, json!(200))]),
        BondOption::UpDelay => ("updelay", [(400, json!(400)), (1_000, json!(1_000))]),
        BondOption::DownDelay => ("downdelay", [(600, json!(600)), (2_000, json!(2_000))]),
        BondOption::LacpRate => ("ad_lacp_rate", [(1, json!("fast")), (0, json!("slow"))]),
        BondOption::AdSelect => ("ad_select", [(1, json!("bandwidth")), (2, json!("count"))]),
        BondOption::MinLinks => ("min_links", [(2, json!(2)), (1, json!(1))]),
        BondOption::TransmitHashPolicy => ("xmit_hash_policy", [(1, json!("layer3+4")), (4, json!("encap3+4"))]),
        BondOption::AllMembersActive => ("all_slaves_active", [(1, json!(1)), (0, json!(0))]),
        BondOption::ArpInterval => ("arp_interval", [(500, json!(500)), (1_000, json!(1_000))]),
        BondOption::ArpValidate => ("arp_validate", [(3, json!("all")), (1, json!("active"))]),
        BondOption::ArpAllTargets => ("arp_all_targets", [(1, json!("all")), (0, json!("any"))]),
        BondOption::FailOverMac => ("fail_over_mac", [(1, json!("active")), (2, json!("follow"))]),
        BondOption::GratuitousArp => ("num_peer_notif", [(3, json!(3)), (255, json!(255))]),
        BondOption::PrimaryReselect => ("primary_reselect", [(1, json!("better")), (2, json!("failure"))]),
        BondOption::ResendIgmp => ("resend_igmp", [(4, json!(4)), (255, json!(255))]),
        BondOption::LearnPacketInterval => ("lp_interval", [(30, json!(30)), (2, json!(2))]),
        BondOption::PacketsPerMember => ("packets_per_slave", [(5, json!(5)), (65_535, json!(65_535))]),
    }
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn bonds_of_all_modes_are_made_with_every_option_changed_and_deleted() {
    let lab = Lab::new();
    let network = lab.network(None);
    for mode in BondMode::ALL {
        create(&network, mode);
        assert_eq!((bond(&network).mode, seen(&network, "bond7").admin), (mode, Admin::Down));
        assert_eq!(shown_data(&lab)["mode"], mode.name());
        let known: Vec<_> = BondOption::ALL.into_iter().filter(|option| option.is_of(mode)).collect();
        assert!(bond(&network).options.keys().eq(&known), "{mode:?}: {:?}", bond(&network).options);
        for option in known {
            let (key, samples) = samples(option);
            for (value, text) in samples {
                set(&network, option, value);
                assert_eq!(bond(&network).options.get(&option), Some(&value), "{mode:?} {option:?}");
                assert_eq!(shown_data(&lab)[key], text, "{mode:?} {option:?}");
            }
        }
        does(&network, Change::Delete { link: "bond7".to_owned() });
        assert_eq!(found(&network, "bond7"), None);
    }
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn what_a_document_does_not_say_of_a_bond_is_what_the_kernel_sets() {
    let lab = Lab::new();
    let network = lab.network(None);
    for mode in BondMode::ALL {
        create(&network, mode);
        let mut kernel = bond(&network).options;
        let interval = kernel.insert(BondOption::MiiMonitorInterval, 100);
        // Only modes that cannot ask by ARP look at the carrier by themselves.
        assert_eq!(interval, Some(if mode.may_watch_by_arp() { 0 } else { 100 }), "{mode:?}");
        let document = muster_protocol::desired::Bond { mode, ..Default::default() };
        let known = BondOption::ALL.into_iter().filter(|option| option.is_of(mode));
        assert_eq!(kernel, known.map(|option| (option, option.default_in(&document))).collect(), "{mode:?}");
        does(&network, Change::Delete { link: "bond7".to_owned() });
    }
}

/// Options that cannot change while a bond is up and has ports, and what the kernel says then. All others can.
const FIXED: [(BondOption, &str); 3] = [
    (BondOption::LacpRate, "Device or resource busy (os error 16)"),
    (BondOption::AdSelect, "Device or resource busy (os error 16)"),
    (BondOption::FailOverMac, "Directory not empty (os error 39)"),
];

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn while_a_bond_is_up_three_options_are_refused_unless_they_are_so_already() {
    let lab = Lab::new();
    more_nics(&lab);
    let network = lab.network(None);
    for mode in BondMode::ALL {
        create(&network, mode);
        join(&network, "eth1", "bond7");
        set_admin(&network, "bond7", Admin::Up);
        for option in BondOption::ALL.into_iter().filter(|option| option.is_of(mode)) {
            let [(one, _), (other, _)] = samples(option).1;
            let Some((_, why)) = FIXED.iter().find(|(fixed, _)| *fixed == option) else {
                set(&network, option, one);
                set(&network, option, other);
                continue;
            };
            let text = refused(&network, set_change(option, 1));
            assert!(text.contains(why), "{mode:?} {option:?}: {text}");
            set(&network, option, 0);
        }
        does(&network, Change::Delete { link: "bond7".to_owned() });
    }
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn what_is_refused_while_a_bond_is_up_is_taken_while_it_is_down_and_without_ports() {
    let lab = Lab::new();
    more_nics(&lab);
    let network = lab.network(None);
    create(&network, BondMode::Lacp);
    join(&network, "eth1", "bond7");
    set_admin(&network, "bond7", Admin::Up);
    set_admin(&network, "bond7", Admin::Down);
    set(&network, BondOption::LacpRate, 1);
    set(&network, BondOption::AdSelect, 2);
    does(&network, Change::Leave { link: "eth1".to_owned() });
    set_admin(&network, "bond7", Admin::Up);
    set(&network, BondOption::FailOverMac, 1);
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn delays_need_an_interval_unless_they_are_none() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, BondMode::ActiveBackup);
    set(&network, BondOption::MiiMonitorInterval, 0);
    for option in [BondOption::UpDelay, BondOption::DownDelay] {
        set(&network, option, 0);
        let text = refused(&network, set_change(option, 200));
        assert!(text.contains("Operation not permitted (os error 1)"), "{text}");
    }
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn delays_stay_what_they_are_when_the_interval_changes() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, BondMode::ActiveBackup);
    for (option, value) in
        [(BondOption::MiiMonitorInterval, 100), (BondOption::UpDelay, 400), (BondOption::DownDelay, 800)]
    {
        set(&network, option, value);
    }
    for interval in [200, 50, 400] {
        set(&network, BondOption::MiiMonitorInterval, interval);
        let data = shown_data(&lab);
        assert_eq!(
            (&data["miimon"], &data["updelay"], &data["downdelay"]),
            (&json!(interval), &json!(400), &json!(800))
        );
    }
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn looking_at_the_carrier_and_asking_by_arp_turn_each_other_off() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, BondMode::ActiveBackup);
    let value = |option| bond(&network).options.get(&option).copied();
    set(&network, BondOption::MiiMonitorInterval, 100);
    set(&network, BondOption::ArpInterval, 500);
    assert_eq!(value(BondOption::MiiMonitorInterval), Some(0));
    set(&network, BondOption::ArpValidate, 3);
    set(&network, BondOption::MiiMonitorInterval, 100);
    assert_eq!((value(BondOption::ArpInterval), value(BondOption::ArpValidate)), (Some(0), Some(0)));
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn whom_a_bond_asks_by_arp_is_set_changed_and_cleared() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, BondMode::ActiveBackup);
    set(&network, BondOption::ArpInterval, 500);
    let sixteen: Vec<Ipv4Addr> = (1..=16).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
    for targets in [&sixteen[..], &sixteen[3..5], &sixteen[..1], &[]] {
        does(&network, Change::SetArpTargets { link: "bond7".to_owned(), targets: targets.to_vec() });
        assert_eq!(bond(&network).arp_ip_targets, targets);
        let shown = shown_data(&lab)["arp_ip_target"].as_array().cloned().unwrap_or_default();
        assert_eq!(shown, targets.iter().map(|target| json!(target.to_string())).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn ports_of_a_bond_join_while_down_come_up_and_leave_down() {
    let lab = Lab::new();
    more_nics(&lab);
    let network = lab.network(None);
    create(&network, BondMode::ActiveBackup);
    set(&network, BondOption::MiiMonitorInterval, 100);
    set_admin(&network, "eth1", Admin::Up);
    let text = refused(&network, Change::Join { link: "eth1".to_owned(), of: "bond7".to_owned() });
    assert!(text.contains("Device can not be enslaved while up"), "{text}");
    set_admin(&network, "eth1", Admin::Down);
    for port in ["eth1", "eth2"] {
        join(&network, port, "bond7");
        let index = seen(&network, "bond7").index;
        let noted = Port { of: index, path_cost: 0, priority: 0, forwards: true };
        assert_eq!((seen(&network, port).port, seen(&network, port).admin), (Some(noted), Admin::Up));
        assert_eq!(
            (&shown(&lab, port)["master"], &shown(&lab, port)["linkinfo"]["info_slave_kind"]),
            (&json!("bond7"), &json!("bond"))
        );
    }
    // All have the MAC of the first.
    let macs = ["eth1", "eth2", "bond7"].map(|link| seen(&network, link).mac.to_string());
    assert_eq!(macs, ["02:00:00:00:01:01"; 3]);
    let own = ["eth1", "eth2"].map(|link| seen(&network, link).permanent_mac.to_string());
    assert_eq!(own, ["02:00:00:00:01:01", "02:00:00:00:01:02"]);
    set_admin(&network, "bond7", Admin::Up);
    eventually("a carrier", || shown(&lab, "bond7")["flags"].to_string().contains("LOWER_UP").then_some(()));

    does(&network, Change::Leave { link: "eth2".to_owned() });
    let eth2 = seen(&network, "eth2");
    assert_eq!((eth2.port, eth2.admin, eth2.mac.to_string().as_str()), (None, Admin::Down, "02:00:00:00:01:02"));
    does(&network, Change::Delete { link: "bond7".to_owned() });
    assert_eq!((seen(&network, "eth1").port, seen(&network, "eth1").admin), (None, Admin::Down), "it is set free");
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn the_port_that_a_bond_prefers_is_set_changed_and_cleared() {
    let lab = Lab::new();
    more_nics(&lab);
    let network = lab.network(None);
    create(&network, BondMode::ActiveBackup);
    set(&network, BondOption::MiiMonitorInterval, 100);
    let primary = |port: Option<&str>| {
        does(&network, Change::SetPrimary { link: "bond7".to_owned(), port: port.map(str::to_owned) });
    };
    ["eth1", "eth2"].into_iter().for_each(|port| join(&network, port, "bond7"));
    set_admin(&network, "bond7", Admin::Up);
    for port in ["eth2", "eth1"] {
        primary(Some(port));
        assert_eq!(bond(&network).primary, Some(seen(&network, port).index));
        assert_eq!(shown_data(&lab)["primary"], port);
        eventually("it is in use", || (shown_data(&lab)["active_slave"] == port).then_some(()));
    }
    primary(None);
    assert_eq!((bond(&network).primary, shown_data(&lab).get("primary")), (None, None));
    // One that is no port yet is noted by the kernel, told by nobody, and becomes the primary when it joins.
    primary(None);
    let before = Change::SetPrimary { link: "bond7".to_owned(), port: Some("eth0".to_owned()) };
    does(&network, before);
    assert_eq!(bond(&network).primary, None);
    join(&network, "eth0", "bond7");
    assert_eq!(bond(&network).primary, Some(seen(&network, "eth0").index));
    does(&network, Change::Leave { link: "eth0".to_owned() });
    assert_eq!(bond(&network).primary, None);
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_primary_is_none_already_in_a_mode_that_has_none() {
    let lab = Lab::new();
    let network = lab.network(None);
    create(&network, BondMode::BalanceRr);
    does(&network, Change::SetPrimary { link: "bond7".to_owned(), port: None });
    let text = refused(&network, Change::SetPrimary { link: "bond7".to_owned(), port: Some("eth0".to_owned()) });
    assert!(text.contains("Permission denied (os error 13)"), "{text}");
}

fn vlan(name: &str, parent: &str, tag: u16) -> Change {
    let (parent, tag) = (parent.to_owned(), VlanTag::try_from(tag).expect("a tag"));
    Change::Create { link: name.to_owned(), kind: NewLink::Vlan { parent, tag } }
}

fn add(network: &Network, link: &str, address: &str) {
    let address = Address { net: address.parse().expect("a prefix"), origin: Origin::Static };
    does(network, Change::AddAddress { link: link.to_owned(), address });
}

/// Nobody listens there: that this is said at all proves that packets pass in both directions.
fn refused_by(peer: &str) -> Option<()> {
    let timeout = std::time::Duration::from_secs(1);
    let error = std::net::TcpStream::connect_timeout(&peer.parse().expect("an address"), timeout).err()?;
    (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_bridge_on_a_vlan_on_a_bond_carries_packets() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("link add link lan0 name lan0.7 type vlan id 7");
    lab.peer_ip("link set lan0.7 up");
    lab.peer_ip("address add 198.51.100.1/24 dev lan0.7");
    let network = lab.network(None);
    create(&network, BondMode::ActiveBackup);
    set(&network, BondOption::MiiMonitorInterval, 100);
    join(&network, "eth0", "bond7");
    does(&network, vlan("office", "bond7", 7));
    does(&network, Change::Create { link: "br0".to_owned(), kind: NewLink::Bridge });
    join(&network, "office", "br0");
    ["bond7", "office", "br0"].into_iter().for_each(|link| set_admin(&network, link, Admin::Up));
    add(&network, "br0", "198.51.100.7/24");
    eventually("an answer", || refused_by("198.51.100.1:9"));

    let bond7 = seen(&network, "bond7").index;
    let office = seen(&network, "office");
    assert_eq!(office.kind, LinkKind::Vlan { parent: bond7, tag: VlanTag::try_from(7).expect("a tag") });
    assert_eq!(office.port.map(|port| port.of), Some(seen(&network, "br0").index));
    assert_eq!(seen(&network, "br0").mac.to_string(), MAC, "a bridge has the lowest MAC of its ports");
    let all = [shown(&lab, "office")["link"].clone(), shown(&lab, "office")["linkinfo"]["info_data"]["id"].clone()];
    assert_eq!(all, [json!("bond7"), json!(7)]);

    // What is on a link goes with it.
    does(&network, Change::Delete { link: "bond7".to_owned() });
    assert_eq!((found(&network, "bond7"), found(&network, "office")), (None, None));
    assert_eq!(seen(&network, "eth0").port, None);
}

/// Of a port's state as LACP tells it (IEEE 802.1AX, 6.4.2.3): it asks to be told every second, takes frames, sends frames.
const FAST_AND_CARRIES: u64 = 0x02 | 0x10 | 0x20;

/// Whether both ends show that all these ports, and no others, carry frames in one aggregate whose partner is the other end.
/// Each end is a namespace, its bond, and the ports of that.
fn agree(ends: [(&str, &str, &[&str]); 2]) -> Option<()> {
    let show = |namespace: &str, name: &str| {
        let text = lab::run(&format!("ip -n {namespace} -j -d link show dev {name}"));
        serde_json::from_str::<Vec<Value>>(&text).expect("JSON of ip").swap_remove(0)
    };
    let bonds = ends.map(|(namespace, bond, _)| show(namespace, bond));
    let agrees = |end: usize| {
        let (namespace, _, ports) = ends[end];
        let aggregate = &bonds[end]["linkinfo"]["info_data"]["ad_info"];
        let carries = |port: &&str| {
            let port = show(namespace, port);
            let port = &port["linkinfo"]["info_slave_data"];
            let state = |whose: &str| port[format!("ad_{whose}_oper_port_state")].as_u64().unwrap_or_default();
            port["ad_aggregator_id"] == aggregate["aggregator"]
                && port["mii_status"] == "UP"
                && [state("actor"), state("partner")].iter().all(|state| state & FAST_AND_CARRIES == FAST_AND_CARRIES)
        };
        aggregate["partner_mac"] == bonds[1 - end]["address"]
            && aggregate["num_ports"] == ports.len()
            && ports.iter().all(carries)
    };
    (agrees(0) && agrees(1)).then_some(())
}

#[test]
#[ignore = "needs a kernel with bonding: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_bond_of_lacp_agrees_with_a_partner_and_goes_on_when_one_port_loses_its_carrier() {
    let lab = Lab::new();
    more_nics(&lab);
    // The partner is iproute2's, and the kernel speaks for both.
    lab.peer_ip("link add bond9 type bond mode 802.3ad miimon 100 lacp_rate fast");
    for port in ["lan1", "lan2"] {
        lab.peer_ip(&format!("link set {port} down"));
        lab.peer_ip(&format!("link set {port} master bond9"));
        lab.peer_ip(&format!("link set {port} up"));
    }
    lab.peer_ip("address add 198.51.100.1/24 dev bond9");
    lab.peer_ip("link set bond9 up");

    let network = lab.network(None);
    create(&network, BondMode::Lacp);
    for (option, value) in [
        (BondOption::MiiMonitorInterval, 100),
        (BondOption::LacpRate, 1),
        (BondOption::MinLinks, 1),
        (BondOption::TransmitHashPolicy, 1),
    ] {
        set(&network, option, value);
    }
    ["eth1", "eth2"].into_iter().for_each(|port| join(&network, port, "bond7"));
    set_admin(&network, "bond7", Admin::Up);
    add(&network, "bond7", "198.51.100.7/24");

    let both = [(&*lab.machine, "bond7", &["eth1", "eth2"][..]), (&*lab.peer, "bond9", &["lan1", "lan2"][..])];
    eventually("the two agree on both ports", || agree(both));
    eventually("an answer", || refused_by("198.51.100.1:9"));

    lab.peer_ip("link set lan1 down");
    eventually("the port without a carrier is left out", || {
        agree([(&lab.machine, "bond7", &["eth2"]), (&lab.peer, "bond9", &["lan2"])])
    });
    assert_eq!(seen(&network, "eth1").carrier, Carrier::Absent);
    assert_eq!(seen(&network, "bond7").carrier, Carrier::Present);
    eventually("an answer by the other port", || refused_by("198.51.100.1:9"));

    lab.peer_ip("link set lan1 up");
    eventually("the two agree on both ports again", || agree(both));
}
