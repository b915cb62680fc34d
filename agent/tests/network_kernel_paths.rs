//! Rules, routes of all tables, neighbors, duplicate addresses and the watch: steps made by hand, shown by iproute2.
//! What the agent's loop makes of changes by hand is in [`drift`].
//!
//! Every step is done twice: see [`steps::does`].

#[path = "network_kernel/drift.rs"]
mod drift;
#[path = "network_kernel/gateways.rs"]
mod gateways;
#[path = "network_kernel/lab.rs"]
#[allow(dead_code, reason = "the lab has more than is needed here")]
mod lab;
#[path = "network_kernel/steps.rs"]
#[allow(dead_code, reason = "others need more of it")]
mod steps;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use lab::{Lab, MAC, eventually};
use muster_agent::linux::network::Network;
use muster_agent::linux::{LinuxMachine, Role};
use muster_agent::machine::Machine;
use muster_agent::plan::network::twin::Twin;
use muster_agent::plan::network::{Change, NewWay, PROOF_MARK, PROOF_TABLE, Route};
use muster_protocol::Mac;
use muster_protocol::desired::{AcceptRa, MAIN_TABLE, Neighbor, Reach, Rule};
use muster_protocol::observed::{Address, Admin, Network as Observed, Origin};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use steps::{attempt, does, join, refused, seen, set_admin};

fn net(text: &str) -> IpNet {
    text.parse().expect("a test's prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

fn mac(text: &str) -> Mac {
    text.parse().expect("a test's MAC")
}

fn rule(from: Option<&str>, to: Option<&str>, table: u32, priority: Option<u32>) -> Rule {
    Rule { from: from.map(net), to: to.map(net), table, priority, mark: None, tos: None }
}

fn rules(network: &Network) -> Vec<Rule> {
    network.observe().expect("observed").rules
}

/// The rules that `ip -j rule` shows with the mark of configuration.
fn shown_rules(lab: &Lab, family: &str) -> Vec<Value> {
    let all = lab.json(&format!("-N {family} rule show"));
    all.into_iter().filter(|rule| rule["protocol"] == "4").collect()
}

fn static_address(link: &str, address: &str) -> Change {
    Change::AddAddress { link: link.to_owned(), address: Address { net: net(address), origin: Origin::Static } }
}

#[test]
fn rules_of_both_families_are_added_with_all_they_say_and_removed() {
    let lab = Lab::new();
    let network = lab.network(None);
    let whole = |from, to| Rule { mark: Some(0x2a), tos: Some(0x10), ..rule(Some(from), Some(to), 100_000, Some(77)) };
    let all = [
        whole("192.0.2.0/24", "198.51.100.0/25"),
        whole("2001:db8::/32", "2001:db8:1::/48"),
        rule(Some("203.0.113.7/32"), None, 7, Some(100)),
        rule(None, Some("2001:db8::7/128"), 254, Some(32_765)),
    ];
    for rule in &all {
        does(&network, Change::AddRule(rule.clone()));
    }
    assert_eq!(rules(&network), all);
    let [v4, v6] = ["-4", "-6"].map(|family| shown_rules(&lab, family));
    let told = json!({"priority": 77, "src": "192.0.2.0", "srclen": 24, "dst": "198.51.100.0", "dstlen": 25,
        "tos": "0x10", "fwmark": "0x2a", "table": "100000", "protocol": "4"});
    assert_eq!(v4[0], told);
    assert_eq!((v4.len(), &v4[1]["src"], &v4[1]["table"]), (2, &json!("203.0.113.7"), &json!("7")));
    assert_eq!((v6.len(), &v6[0]["src"], &v6[0]["fwmark"]), (2, &json!("2001:db8::"), &json!("0x2a")));
    assert_eq!(
        (&v6[1]["dst"], &v6[1]["table"], &v6[1]["priority"]),
        (&json!("2001:db8::7"), &json!("254"), &json!(32_765))
    );

    for rule in &all {
        does(&network, Change::RemoveRule(rule.clone()));
    }
    assert_eq!(rules(&network), []);
    assert_eq!(lab.json("rule show").len(), 3, "the kernel's own are there");
}

#[test]
fn a_rule_without_a_priority_gets_one_and_is_told_with_it() {
    let lab = Lab::new();
    let network = lab.network(None);
    does(&network, Change::AddRule(rule(Some("192.0.2.0/24"), None, 7, None)));
    does(&network, Change::AddRule(rule(Some("198.51.100.0/24"), None, 8, None)));
    // The kernel puts each before those that are there.
    let [first, second] =
        [rule(Some("198.51.100.0/24"), None, 8, Some(32_764)), rule(Some("192.0.2.0/24"), None, 7, Some(32_765))];
    assert_eq!(rules(&network), [first.clone(), second.clone()]);
    does(&network, Change::RemoveRule(second));
    assert_eq!(rules(&network), [first]);
}

#[test]
fn the_twin_gives_rules_without_a_priority_those_that_the_kernel_gives() {
    let lab = Lab::new();
    let network = lab.network(None);
    let mut twin = Twin::new(Observed::default());
    let rules_of =
        |table| [rule(None, Some("192.0.2.0/24"), table, None), rule(None, Some("2001:db8::/32"), table, None)];
    let proofs = rule(None, Some("203.0.113.1/32"), PROOF_TABLE, Some(1));
    let changes = [rules_of(7).to_vec(), vec![proofs.clone()], rules_of(8).to_vec(), rules_of(9).to_vec()].concat();
    for change in changes.into_iter().map(Change::AddRule).chain([Change::RemoveRule(proofs)]) {
        does(&network, change.clone());
        twin.apply(&change).expect("the twin does it");
        let [kernels, twins] = [rules(&network), twin.observe().rules.clone()].map(BTreeSet::from_iter);
        assert_eq!(kernels, twins, "after {change:?}");
    }
    let first = rules(&network).into_iter().filter(|rule| rule.priority == Some(0));
    assert_eq!(first.count(), 2, "before which nothing can stand");
}

#[test]
fn an_address_alone_draws_nothing_and_makes_room_for_itself_with_its_prefix() {
    let lab = Lab::new();
    let network = lab.network(None);
    set_admin(&network, "eth0", Admin::Up);
    lab.ip("address add 192.0.2.7/24 dev eth0");
    lab.ip("route add default via 192.0.2.1 dev eth0");
    let way = || {
        let all = lab.json("route get 203.0.113.1");
        ["gateway", "prefsrc"].map(|key| all[0][key].as_str().unwrap_or_default().to_owned())
    };
    does(&network, static_address("eth0", "203.0.113.7/32"));
    assert_eq!(way(), ["192.0.2.1", "192.0.2.7"]);
    does(&network, static_address("eth0", "203.0.113.7/24"));
    assert_eq!(way(), ["", "203.0.113.7"]);
    let address = Address { net: net("203.0.113.7/32"), origin: Origin::Static };
    does(&network, Change::RemoveAddress { link: "eth0".to_owned(), address });
    assert_eq!(way(), ["", "203.0.113.7"]);
    let local = lab.json("route get 203.0.113.7");
    assert_eq!(local[0]["type"], "local", "it is the machine's own still: {local:?}");
}

#[test]
fn exactly_the_rule_that_is_meant_is_removed() {
    let lab = Lab::new();
    let network = lab.network(None);
    // The kernel takes the first that says as much or more: all of these would fit the last one.
    let more = [
        Rule { mark: Some(5), ..rule(Some("192.0.2.0/24"), Some("198.51.100.0/24"), 7, Some(50)) },
        Rule { tos: Some(4), ..rule(Some("192.0.2.0/24"), None, 7, Some(50)) },
    ];
    let meant = rule(Some("192.0.2.0/24"), None, 7, Some(50));
    for rule in more.iter().chain([&meant]) {
        does(&network, Change::AddRule(rule.clone()));
    }
    lab.ip("rule add from 192.0.2.0/24 table 7 priority 50 protocol boot");
    does(&network, Change::RemoveRule(meant));
    assert_eq!(rules(&network).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(more));
    let all = lab.json("-N rule show");
    assert_eq!(all.iter().filter(|rule| rule["protocol"] == "3").count(), 1, "that of somebody else is there: {all:?}");
}

#[test]
fn rules_of_others_are_not_seen() {
    let lab = Lab::new();
    let network = lab.network(None);
    for command in [
        "rule add from 192.0.2.0/24 table 7 priority 50",
        "rule add from 192.0.2.0/24 table 7 priority 51 protocol static iif eth0",
        "rule add from 192.0.2.0/24 table 7 priority 52 protocol static ipproto 17",
        "rule add not from 192.0.2.0/24 table 7 priority 53 protocol static",
        "rule add from 192.0.2.0/24 blackhole priority 54 protocol static",
        "rule add from 192.0.2.0/24 table 7 priority 55 protocol static suppress_prefixlength 0",
        "rule add from 192.0.2.0/24 fwmark 1/3 table 7 priority 56 protocol static",
    ] {
        lab.ip(command);
    }
    assert_eq!(rules(&network), [], "they are not of configuration, or say what no document can say");
    lab.ip("rule add from 192.0.2.0/24 table 7 priority 57 protocol static");
    assert_eq!(rules(&network), [rule(Some("192.0.2.0/24"), None, 7, Some(57))]);
}

#[test]
fn prefixes_of_no_length_are_told_as_the_kernel_keeps_them() {
    let lab = Lab::new();
    let network = lab.network(None);
    for (given, kept) in [
        (rule(Some("0.0.0.0/0"), Some("192.0.2.0/24"), 7, Some(50)), rule(None, Some("192.0.2.0/24"), 7, Some(50))),
        (rule(Some("2001:db8::/32"), Some("::/0"), 7, Some(51)), rule(Some("2001:db8::/32"), None, 7, Some(51))),
        (rule(Some("0.0.0.0/0"), None, 7, Some(52)), rule(Some("0.0.0.0/0"), None, 7, Some(52))),
        (rule(None, Some("::/0"), 7, Some(53)), rule(Some("::/0"), None, 7, Some(53))),
    ] {
        does(&network, Change::AddRule(given.clone()));
        assert_eq!(rules(&network), [kept]);
        does(&network, Change::RemoveRule(given));
        assert_eq!(rules(&network), []);
    }
}

fn route(to: &str, via: Option<&str>, table: u32) -> Route {
    let (link, to, via) = ("eth0".to_owned(), net(to), via.map(ip));
    let metric = if to.addr().is_ipv4() { 0 } else { 1024 };
    Route { link, to, via, metric, table, origin: Origin::Static, reach: Reach::Prefix }
}

/// `to table` of the static routes that `ip -j route show table all` shows.
fn shown_routes(lab: &Lab) -> BTreeSet<(String, String)> {
    let all = ["-4", "-6"].iter().flat_map(|family| lab.json(&format!("-N {family} route show table all")));
    let ours = all.filter(|route| route["protocol"] == "4");
    ours.map(|route| {
        let table = route["table"].as_str().unwrap_or("254").to_owned();
        (route["dst"].as_str().unwrap_or("?").to_owned(), table)
    })
    .collect()
}

#[test]
fn routes_of_all_tables_are_added_seen_and_removed_one_by_one() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    let network = lab.network(None);
    set_admin(&network, "eth0", Admin::Up);
    for address in ["192.0.2.7/24", "2001:db8::7/64"] {
        does(&network, static_address("eth0", address));
    }
    let tables = [100, 1_000_000, MAIN_TABLE, 253];
    let all: Vec<Route> = tables
        .iter()
        .flat_map(|&table| {
            [
                route("0.0.0.0/0", Some("192.0.2.1"), table),
                route("192.0.2.0/24", None, table),
                route("::/0", Some("2001:db8::1"), table),
            ]
        })
        // The kernel has the prefix in the main table by itself.
        .filter(|route| route.via.is_some() || route.table != MAIN_TABLE)
        .collect();
    for route in &all {
        does(&network, Change::AddRoute(route.clone()));
    }
    let text = |table: u32| table.to_string();
    let wanted = |routes: &[Route]| -> BTreeSet<(String, String)> {
        let to = |to: IpNet| if to.prefix_len() == 0 { "default".to_owned() } else { to.to_string() };
        routes.iter().map(|route| (to(route.to), text(route.table))).collect()
    };
    let observed = |network: &Network| -> BTreeSet<(String, u32)> {
        network.observe().expect("observed").routes.iter().map(|route| (route.to.to_string(), route.table)).collect()
    };
    assert_eq!(shown_routes(&lab), wanted(&all));
    assert_eq!(observed(&network), all.iter().map(|route| (route.to.to_string(), route.table)).collect());
    for at in 0..all.len() {
        does(&network, Change::RemoveRoute(all[at].clone()));
        assert_eq!(shown_routes(&lab), wanted(&all[at + 1..]), "after {}", all[at]);
    }
}

#[test]
fn removing_from_a_link_that_is_gone_is_done_already() {
    let lab = Lab::new();
    let network = lab.network(None);
    let gone = "gone".to_owned();
    let neighbor = Neighbor { address: ip("192.0.2.9"), mac: mac("02:00:00:00:00:09") };
    let address = Address { net: net("192.0.2.7/24"), origin: Origin::Static };
    does(&network, Change::RemoveAddress { link: gone.clone(), address });
    does(&network, Change::RemoveNeighbor { link: gone.clone(), neighbor });
    does(&network, Change::RemoveRoute(Route { link: gone.clone(), ..route("0.0.0.0/0", Some("192.0.2.1"), 7) }));
    does(&network, Change::Leave { link: gone.clone() });
    does(&network, Change::Delete { link: gone.clone() });
    assert_eq!(refused(&network, Change::AddNeighbor { link: gone, neighbor }), "gone is not there");
}

#[test]
fn gateways_of_both_families_that_do_not_answer_are_told_from_those_that_do() {
    let lab = Lab::new();
    lab.ip("link set eth0 up");
    lab.peer_ip("link set lan0 up");
    for (network, there) in [("192.0.2.5/24", "192.0.2.1/24"), ("2001:db8::5/64", "2001:db8::1/64")] {
        lab.ip(&format!("address add {network} dev eth0{}", if network.contains(':') { " nodad" } else { "" }));
        lab.peer_ip(&format!("address add {there} dev lan0{}", if there.contains(':') { " nodad" } else { "" }));
    }
    lab.ip("address add fe80::5/64 dev eth0 nodad");
    lab.peer_ip("address add fe80::1/64 dev lan0 nodad");
    let network = lab.network(None);
    let link = seen(&network, "eth0").index;
    let ask = |address: &str| {
        let scope = if address.starts_with("fe80") { link } else { 0 };
        let to = match ip(address) {
            IpAddr::V4(ip) => SocketAddr::from((ip, 9)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, 9, 0, scope).into(),
        };
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        socket.send_to(b"who is there", to).expect("sent");
    };
    let silent = ["192.0.2.9", "2001:db8::9", "fe80::9"];
    let answering = ["192.0.2.1", "2001:db8::1", "fe80::1"];
    answering.iter().chain(&silent).for_each(|address| ask(address));
    let told = || -> BTreeSet<(u32, IpAddr)> { network.unanswered().expect("asked").into_iter().collect() };
    let missed: BTreeSet<_> = silent.map(|address| (link, ip(address))).into();
    eventually("those that answer are known, the others are missed", || (told() == missed).then_some(()));
    let failed = || lab.json("neigh show dev eth0 nud failed").len();
    eventually("the kernel has given them up", || (failed() == silent.len()).then_some(()));
    assert_eq!(told(), missed);
}

/// Permanent neighbors that `ip -j neigh` shows on `eth0`.
fn shown_neighbors(lab: &Lab) -> BTreeSet<(String, String)> {
    let all = lab.json("neigh show dev eth0 nud permanent");
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    all.iter().map(|neighbor| (text(&neighbor["dst"]), text(&neighbor["lladdr"]))).collect()
}

#[test]
fn neighbors_are_set_replaced_and_forgotten() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    let network = lab.network(None);
    set_admin(&network, "eth0", Admin::Up);
    let neighbor =
        |address: &str, last: u8| Neighbor { address: ip(address), mac: Mac::from_bytes([2, 0, 0, 0, 0, last]) };
    let add = |neighbor| does(&network, Change::AddNeighbor { link: "eth0".to_owned(), neighbor });
    let remove = |neighbor| does(&network, Change::RemoveNeighbor { link: "eth0".to_owned(), neighbor });
    let pair = |address: &str, last: u8| (address.to_owned(), format!("02:00:00:00:00:{last:02x}"));
    // One that the kernel learned by itself becomes one for good.
    lab.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 dev eth0 nud stale");
    assert_eq!(seen(&network, "eth0").neighbors, []);
    add(neighbor("192.0.2.9", 9));
    add(neighbor("2001:db8::9", 10));
    add(neighbor("fe80::9", 11));
    assert_eq!(shown_neighbors(&lab), [pair("192.0.2.9", 9), pair("2001:db8::9", 10), pair("fe80::9", 11)].into());
    let all = [neighbor("192.0.2.9", 9), neighbor("2001:db8::9", 10), neighbor("fe80::9", 11)];
    assert_eq!(seen(&network, "eth0").neighbors, all);

    add(neighbor("192.0.2.9", 12));
    remove(neighbor("192.0.2.9", 9));
    assert!(shown_neighbors(&lab).contains(&pair("192.0.2.9", 12)), "what was replaced is not removed by its old MAC");
    remove(neighbor("192.0.2.9", 12));
    remove(neighbor("2001:db8::9", 10));
    assert_eq!(seen(&network, "eth0").neighbors, [neighbor("fe80::9", 11)]);
    assert_eq!(shown_neighbors(&lab), [pair("fe80::9", 11)].into());
}

#[test]
fn an_ipv4_address_that_somebody_else_has_is_told_with_his_mac() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 192.0.2.7/24 dev lan0");
    let network = lab.network(None);
    set_admin(&network, "eth0", Admin::Up);
    eventually("a carrier", || lab.ip("link show dev eth0").contains("LOWER_UP").then_some(()));
    does(&network, static_address("eth0", "192.0.2.6/24"));
    does(&network, Change::AwaitUnique { link: "eth0".to_owned() });
    does(&network, static_address("eth0", "192.0.2.7/24"));
    assert_eq!(
        refused(&network, Change::AwaitUnique { link: "eth0".to_owned() }),
        "could not wait until the addresses of eth0 are known to be unique: \
         192.0.2.7 is in use by another machine on this link, 02:00:00:00:00:01"
    );
}

#[test]
fn an_address_on_two_nics_of_this_machine_is_no_conflict() {
    let lab = Lab::new();
    // The peer is a switch with both NICs on it.
    lab.peer_ip("link add switch type bridge");
    lab.ip(&format!("link add eth1 address 02:00:00:00:00:06 type veth peer name lan1 netns {}", lab.peer));
    for port in ["lan0", "lan1"] {
        lab.peer_ip(&format!("link set {port} master switch up"));
    }
    lab.peer_ip("link set switch up");
    let network = lab.network(None);
    for link in ["eth0", "eth1"] {
        set_admin(&network, link, Admin::Up);
        does(&network, static_address(link, "192.0.2.7/24"));
    }
    let carriers = || lab.ip("link").matches("LOWER_UP").count() == 3;
    eventually("carriers", || carriers().then_some(()));
    // That the other NIC answers is seen by whoever does not know it.
    does(&network, Change::AwaitUnique { link: "eth0".to_owned() });
    lab.peer_ip("address add 192.0.2.7/24 dev switch");
    let text = refused(&network, Change::AwaitUnique { link: "eth0".to_owned() });
    assert!(text.contains("192.0.2.7 is in use by another machine"), "{text}");
}

#[test]
fn an_address_that_nobody_else_has_is_announced() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 192.0.2.1/24 dev lan0");
    let network = lab.network(None);
    set_admin(&network, "eth0", Admin::Up);
    eventually("a carrier", || lab.ip("link show dev eth0").contains("LOWER_UP").then_some(()));
    // The peer remembers who had it before.
    lab.peer_ip("neigh replace 192.0.2.7 lladdr 02:00:00:00:00:99 dev lan0 nud stale");
    does(&network, static_address("eth0", "192.0.2.7/24"));
    attempt(&network, Change::AwaitUnique { link: "eth0".to_owned() }).expect("unique");
    eventually("the peer knows who has it now", || lab.peer_ip("neigh show 192.0.2.7").contains(MAC).then_some(()));
}

#[test]
fn every_change_by_hand_is_told() {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.ip("link set eth0 up");
    lab.ip("address add 192.0.2.5/24 dev eth0");
    let network = lab.network(None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for command in [
        "address add 192.0.2.6/24 dev eth0",
        "address add 2001:db8::5/64 dev eth0 nodad",
        "route add 198.51.100.0/24 via 192.0.2.1",
        "-6 route add 2001:db8:1::/48 via 2001:db8::1",
        "route add 198.51.100.0/24 via 192.0.2.1 table 7",
        "rule add from 192.0.2.5 table 7",
        "-6 rule add from 2001:db8::5 table 7",
        "link set eth0 mtu 1400",
        "link add br0 type bridge",
    ] {
        // Listening anew each time: what came before is not heard.
        let changes = network.changes().expect("listening");
        lab.ip(command);
        let told = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), changes.notified()).await });
        assert!(told.is_ok(), "{command} was not told");
    }
}

#[test]
fn a_change_between_two_waits_is_told_at_the_second() {
    let lab = Lab::new();
    let network = lab.network(None);
    let changes = network.changes().expect("listening");
    does(&network, Change::Create { link: "br0".to_owned(), kind: muster_agent::plan::network::NewLink::Bridge });
    join(&network, "eth0", "br0");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let wait = || runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), changes.notified()).await });
    assert!(wait().is_ok());
    set_admin(&network, "eth0", Admin::Up);
    assert!(wait().is_ok());
}

#[test]
fn nothing_is_dialed_from_an_address_of_the_link_while_the_global_one_is_being_checked() {
    let lab = Lab::new();
    let network = lab.network(None);
    lab.peer_ip("link set lan0 up");
    set_admin(&network, "eth0", Admin::Up);
    let link_local = || lab.ip("-6 addr show dev eth0 scope link -tentative").contains("fe80::").then_some(());
    eventually("the link has an address of its own", link_local);
    lab.ip("-6 route add default via fe80::1 dev eth0");
    let machine = LinuxMachine::new(Role::Guest, None).expect("the machine");
    let controller = ip("2001:db8:99::1");
    assert!(machine.socket(controller, None).is_ok(), "there is no other address, and none to come");

    // For as long as this test looks at it: the other address is checked many times.
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/dad_transmits", "200").expect("written");
    lab.ip("-6 addr add 2001:db8::5/64 dev eth0");
    let error = machine.socket(controller, None).expect_err("not yet");
    assert!(error.to_string().contains("find a route to 2001:db8:99::1"), "{error}");
    lab.ip("-6 addr del 2001:db8::5/64 dev eth0");
    lab.ip("-6 addr add 2001:db8::5/64 dev eth0 nodad");
    assert!(machine.socket(controller, None).is_ok());
}

/// Has a namespace say to neighbors that it is a router.
fn forward(namespace: &str) {
    let namespace = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
    let forwards = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("moved");
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("written");
    };
    std::thread::spawn(forwards).join().expect("written");
}

#[test]
fn what_a_router_announces_is_tried_beside_the_static_address_and_gateway_of_the_same_link() {
    let mut lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 2001:db8::1/64 dev lan0 nodad");
    lab.peer_ip("address add 2001:db8:99::1/128 dev lo");
    forward(&lab.peer);
    let network = lab.network(None);
    set_admin(&network, "eth0", Admin::Up);
    lab.ip("address add 2001:db8::7/64 dev eth0 nodad");
    // Nobody is there: what arrives was sent by the router.
    lab.ip("-6 route add default via 2001:db8::99 dev eth0");
    lab.dnsmasq("--enable-ra --dhcp-range=2001:db8::,ra-only,64,3600");
    does(&network, Change::SetAcceptRa { link: "eth0".to_owned(), accept_ra: AcceptRa::On });
    let beside = Route { metric: 4_000_000_000, ..route("2001:db8:99::1/128", None, PROOF_TABLE) };
    let marked = Rule { mark: Some(PROOF_MARK), ..rule(None, Some("2001:db8:99::1/128"), PROOF_TABLE, Some(1)) };
    does(&network, Change::AddAnnounced(beside.clone()));
    does(&network, Change::AddRule(marked.clone()));

    let machine = LinuxMachine::new(Role::Guest, None).expect("the machine");
    let way = NewWay { links: vec!["eth0".to_owned()], source: None, controller: None };
    let announced = || {
        let addresses = seen(&network, "eth0").addresses;
        addresses.into_iter().find(|address| address.origin == Origin::Ra).map(|address| address.net.addr())
    };
    let tried = machine.socket(ip("2001:db8:99::1"), Some(&way)).expect("a way");
    assert_eq!(tried.local_addr().ok().map(|from| from.ip()), announced());
    tried.connect(("2001:db8:99::1", 9)).expect("connected");
    tried.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    // Nobody listens there: that this is said at all proves that packets pass in both directions.
    let refused = tried.send(b"?").and_then(|_| tried.recv(&mut [0; 1])).map_err(|error| error.kind());
    assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
    let present = &lab.json("-6 route get 2001:db8:99::1")[0];
    assert_eq!(present["gateway"], "2001:db8::99", "nobody else goes by it: {present}");

    does(&network, Change::RemoveRule(marked));
    does(&network, Change::RemoveRoute(beside));
    let left = lab.ip("-6 route show table all");
    assert!(!left.contains("2001:db8:99::1"), "whoever it was that announced himself: {left}");
}
