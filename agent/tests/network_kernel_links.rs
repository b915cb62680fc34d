//! Bridges, their ports, and what can be said of every link: steps made by hand, shown by iproute2, in namespaces.
//!
//! Every step is done twice: see [`steps::does`].

#[path = "network_kernel/lab.rs"]
#[allow(dead_code, reason = "the lab has more than is needed here")]
mod lab;
#[path = "network_kernel/layers.rs"]
mod layers;
#[path = "network_kernel/steps.rs"]
#[allow(dead_code, reason = "others need more of it")]
mod steps;

use std::fs;
use std::time::{Duration, Instant};

use lab::{Lab, eventually};
use muster_agent::linux::network::Network;
use muster_agent::plan::network::{Change, NewLink};
use muster_protocol::desired::{BridgeOption, PortCost, Privacy, WakeOnLan};
use muster_protocol::observed::{self, Admin, LinkKind, Origin};
use serde_json::{Value, json};
use steps::{attempt, does, found, join, refused, seen, set_admin, shown, shown_port};

fn create_bridge(network: &Network, name: &str) {
    does(network, Change::Create { link: name.to_owned(), kind: NewLink::Bridge });
}

fn set(network: &Network, link: &str, option: BridgeOption, value: u32) {
    does(network, Change::SetBridge { link: link.to_owned(), option, value });
}

fn options(network: &Network, name: &str) -> observed::Bridge {
    match seen(network, name).kind {
        LinkKind::Bridge(bridge) => *bridge,
        kind => panic!("{name} is {kind:?}"),
    }
}

/// The key of `ip -j -d link` for an option.
fn key(option: BridgeOption) -> &'static str {
    match option {
        BridgeOption::Stp => "stp_state",
        BridgeOption::ForwardDelay => "forward_delay",
        BridgeOption::HelloTime => "hello_time",
        BridgeOption::MaxAge => "max_age",
        BridgeOption::AgeingTime => "ageing_time",
        BridgeOption::Priority => "priority",
    }
}

#[test]
fn a_bridge_is_made_with_every_option_changed_and_deleted() {
    let lab = Lab::new();
    let network = lab.network(None);
    create_bridge(&network, "br0");
    assert_eq!(
        (seen(&network, "br0").admin, shown(&lab, "br0")["linkinfo"]["info_kind"].as_str()),
        (Admin::Down, Some("bridge"))
    );
    for value in
        [[1, 400, 300, 700, 12_300, 4_096], [0, 3_000, 200, 2_000, 0, 65_535], [1, 1_500, 1_000, 4_000, 30_000, 0]]
    {
        for (option, value) in BridgeOption::ALL.into_iter().zip(value) {
            set(&network, "br0", option, value);
            assert_eq!(shown(&lab, "br0")["linkinfo"]["info_data"][key(option)], value, "{}", option.name());
        }
        assert_eq!(options(&network, "br0").options, BridgeOption::ALL.into_iter().zip(value).collect());
    }
    does(&network, Change::Delete { link: "br0".to_owned() });
    assert_eq!(found(&network, "br0"), None);
    assert!(!lab.ip("link").contains("br0"));
}

#[test]
fn what_a_document_does_not_say_of_a_bridge_is_what_the_kernel_sets() {
    let lab = Lab::new();
    let network = lab.network(None);
    create_bridge(&network, "br0");
    let mut kernel = options(&network, "br0").options;
    assert_eq!(kernel.insert(BridgeOption::Stp, 1), Some(0), "netplan's default is on, the kernel's is off");
    let defaults = BridgeOption::ALL.into_iter().map(|option| (option, option.default_value())).collect();
    assert_eq!(kernel, defaults);
}

#[test]
fn spanning_tree_that_is_switched_on_makes_a_forward_delay_long_enough() {
    let lab = Lab::new();
    let network = lab.network(None);
    create_bridge(&network, "br0");
    set(&network, "br0", BridgeOption::ForwardDelay, 0);
    assert_eq!(shown(&lab, "br0")["linkinfo"]["info_data"]["forward_delay"], 0);
    set(&network, "br0", BridgeOption::Stp, 1);
    assert_eq!(options(&network, "br0").options.get(&BridgeOption::ForwardDelay), Some(&200));
    let too_short = Change::SetBridge { link: "br0".to_owned(), option: BridgeOption::ForwardDelay, value: 100 };
    assert!(refused(&network, too_short).contains("out of range"));
    set(&network, "br0", BridgeOption::Stp, 0);
    set(&network, "br0", BridgeOption::ForwardDelay, 0);
}

#[test]
fn ports_of_a_bridge_join_have_their_costs_and_leave() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    let network = lab.network(None);
    create_bridge(&network, "br0");
    set_admin(&network, "br0", Admin::Up);
    set_admin(&network, "eth0", Admin::Up);
    join(&network, "eth0", "br0");
    let br0 = seen(&network, "br0").index;
    eventually("the port forwards", || seen(&network, "eth0").port.filter(|port| port.forwards));
    assert_eq!(shown_port(&lab, "eth0")["master"], "br0");
    // A veth pair says that it has 10 Gbit/s, for which the kernel reckons with 2.
    let (path_cost, priority) = (2, 32);
    assert_eq!(seen(&network, "eth0").port, Some(observed::Port { of: br0, path_cost, priority, forwards: true }));

    for cost in [
        PortCost { path_cost: Some(77), priority: Some(9) },
        PortCost { path_cost: None, priority: Some(63) },
        PortCost { path_cost: Some(65_535), priority: None },
    ] {
        does(&network, Change::SetPort { link: "eth0".to_owned(), cost });
    }
    let port = shown_port(&lab, "eth0");
    assert_eq!((&port["cost"], &port["priority"]), (&json!(65_535), &json!(63)));
    let (path_cost, priority) = (65_535, 63);
    assert_eq!(seen(&network, "eth0").port, Some(observed::Port { of: br0, path_cost, priority, forwards: true }));

    does(&network, Change::Leave { link: "eth0".to_owned() });
    assert_eq!((seen(&network, "eth0").port, seen(&network, "eth0").admin), (None, Admin::Up));
    assert_eq!(shown(&lab, "eth0").get("master"), None);
    join(&network, "eth0", "br0");
    does(&network, Change::Delete { link: "br0".to_owned() });
    assert_eq!(
        (seen(&network, "eth0").port, seen(&network, "eth0").admin),
        (None, Admin::Up),
        "its ports are set free"
    );
}

#[test]
fn a_port_goes_from_one_bridge_to_another_in_one_step() {
    let lab = Lab::new();
    let network = lab.network(None);
    create_bridge(&network, "br0");
    create_bridge(&network, "br1");
    join(&network, "eth0", "br0");
    join(&network, "eth0", "br1");
    assert_eq!(seen(&network, "eth0").port.map(|port| port.of), Some(seen(&network, "br1").index));
}

#[test]
fn spanning_tree_is_waited_for_until_frames_pass() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    let network = lab.network(None);
    create_bridge(&network, "br0");
    set(&network, "br0", BridgeOption::Stp, 1);
    set(&network, "br0", BridgeOption::ForwardDelay, 200);
    join(&network, "eth0", "br0");
    set_admin(&network, "eth0", Admin::Up);
    let start = Instant::now();
    set_admin(&network, "br0", Admin::Up);
    assert_eq!(seen(&network, "eth0").port.map(|port| port.forwards), Some(false), "it listens first");
    attempt(&network, Change::AwaitForwarding { link: "br0".to_owned() }).expect("waited");
    assert!(start.elapsed() >= Duration::from_secs(3), "it listens for 2 s and learns for 2 s: {:?}", start.elapsed());
    assert_eq!(shown_port(&lab, "eth0")["state"], "forwarding");
    assert_eq!(seen(&network, "eth0").port.map(|port| port.forwards), Some(true));
}

#[test]
fn a_bridge_without_a_cable_is_not_waited_for_longer_than_a_carrier_takes() {
    let lab = Lab::new();
    let network = lab.network(None);
    create_bridge(&network, "br0");
    set(&network, "br0", BridgeOption::Stp, 1);
    set(&network, "br0", BridgeOption::ForwardDelay, 3_000);
    set_admin(&network, "br0", Admin::Up);
    let start = Instant::now();
    attempt(&network, Change::AwaitForwarding { link: "br0".to_owned() }).expect("given up");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_link_that_is_down_gets_another_name() {
    let lab = Lab::new();
    let network = lab.network(None);
    let index = seen(&network, "eth0").index;
    does(&network, Change::Rename { link: "eth0".to_owned(), to: "wan".to_owned() });
    assert_eq!(seen(&network, "wan").index, index);
    assert_eq!(shown(&lab, "wan")["ifname"], "wan");
    let text = refused(&network, Change::Rename { link: "eth0".to_owned(), to: "lan".to_owned() });
    assert_eq!(text, "eth0 is not there");
    create_bridge(&network, "br0");
    let text = refused(&network, Change::Rename { link: "wan".to_owned(), to: "br0".to_owned() });
    assert_eq!(text, "could not rename wan to br0: File exists (os error 17)");
}

#[test]
fn only_links_that_can_be_made_can_be_deleted() {
    let lab = Lab::new();
    let network = lab.network(None);
    let text = refused(&network, Change::Delete { link: "eth0".to_owned() });
    assert_eq!(text, "eth0 is not what the plan saw: it is no bond, bridge or VLAN");
    assert!(found(&network, "eth0").is_some());
    does(&network, Change::Delete { link: "gone".to_owned() });
}

#[test]
fn the_mtu_of_a_bridge_follows_its_smallest_port_until_it_is_set() {
    let lab = Lab::new();
    let network = lab.network(None);
    let mtu = |link: &str, mtu| does(&network, Change::SetMtu { link: link.to_owned(), mtu });
    create_bridge(&network, "br0");
    mtu("eth0", 1_400);
    // What is so already is not set by that.
    mtu("br0", 1_500);
    join(&network, "eth0", "br0");
    assert_eq!(seen(&network, "br0").mtu, 1_400);
    mtu("br0", 1_300);
    mtu("eth0", 1_500);
    assert_eq!((seen(&network, "br0").mtu, &shown(&lab, "br0")["mtu"]), (1_300, &json!(1_300)));
}

/// Temporary addresses that `ip -j address` shows.
fn temporary(lab: &Lab) -> Vec<Value> {
    let all = lab.json("-6 address show dev eth0");
    let infos = all.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    infos.filter(|info| info["temporary"] == true).cloned().collect()
}

#[test]
fn temporary_addresses_come_by_the_next_advertisement_and_go_at_once() {
    let mut lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 2001:db8::1/64 dev lan0 nodad");
    let switch = || fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/use_tempaddr").expect("read").trim().to_owned();
    let network = lab.network(None);
    let privacy = |privacy| does(&network, Change::SetPrivacy { link: "eth0".to_owned(), privacy });
    privacy(Privacy::Off);
    set_admin(&network, "eth0", Admin::Up);
    lab.dnsmasq("--enable-ra --dhcp-range=2001:db8::,ra-only,64,3600");
    let of_router = || {
        let addresses = seen(&network, "eth0").addresses;
        addresses.into_iter().filter(|address| address.origin == Origin::Ra).collect::<Vec<_>>()
    };
    eventually("an address", || (of_router().len() == 1).then_some(()));
    assert_eq!((temporary(&lab).len(), switch()), (0, "0".to_owned()));

    privacy(Privacy::On);
    assert_eq!((seen(&network, "eth0").privacy, switch()), (Privacy::On, "2".to_owned()));
    // The next advertisement by itself would come after minutes.
    eventually("a temporary address", || (temporary(&lab).len() == 1).then_some(()));
    assert_eq!(of_router().len(), 2, "it is of the router's origin as well");

    privacy(Privacy::Off);
    assert_eq!((seen(&network, "eth0").privacy, switch()), (Privacy::Off, "0".to_owned()));
    assert_eq!((temporary(&lab).len(), of_router().len()), (0, 1));
}

#[test]
fn a_link_without_magic_packets_is_told_so() {
    let lab = Lab::new();
    let network = lab.network(None);
    assert_eq!(seen(&network, "eth0").wake_on_lan, observed::WakeOnLan::Unable);
    let wake = |wake_on_lan| Change::SetWakeOnLan { link: "eth0".to_owned(), wake_on_lan };
    does(&network, wake(WakeOnLan::Off));
    let text = refused(&network, wake(WakeOnLan::On));
    assert_eq!(text, "this machine cannot turn wake-on-LAN of eth0 on: its driver knows no magic packet");
}

#[test]
#[allow(unsafe_code)]
fn the_machine_gets_its_name() {
    let lab = Lab::new();
    let network = lab.network(None);
    // SAFETY: it takes no memory or descriptors apart, only the thread's view of the hostname.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUTS) }.expect("a hostname of its own");
    for name in ["box7.example.org", "a"] {
        does(&network, Change::SetHostname { name: name.to_owned() });
        assert_eq!(network.observe().expect("observed").hostname, name);
        let told = fs::read_to_string("/proc/sys/kernel/hostname").expect("readable");
        assert_eq!(told.trim(), name);
    }
}
