//! Two gateways on one link, told apart by who answers behind them: the planned proof goes by the new one, everything else by
//! the present one until that is given up.

use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use muster_agent::linux::{LinuxMachine, Role};
use muster_agent::machine::Machine;
use muster_agent::plan::network::{Change, NewWay, Past, Step, plan, revert};
use muster_protocol::desired::{self, Ethernet, MAIN_TABLE, Reach, Select, Settings};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::lab::{Lab, run};
use super::{attempt, ip, net};

/// Both gateways have it, so that whoever gets a packet answers.
const CONTROLLER: &str = "203.0.113.1";
const PORT: u16 = 8443;

/// A second machine on the link, with a name of its own.
struct Other(String);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

impl Other {
    /// The peer becomes a switch, and this one is at it.
    fn at(lab: &Lab) -> Self {
        let other = Self(format!("{}-other", lab.peer));
        run(&format!("ip netns add {}", other.0));
        lab.peer_ip("link add switch type bridge");
        lab.peer_ip(&format!("link add port type veth peer name lan1 netns {}", other.0));
        for port in ["lan0", "port"] {
            lab.peer_ip(&format!("link set {port} master switch up"));
        }
        lab.peer_ip("link set switch up");
        other.ip("link set lo up");
        other.ip("link set lan1 up");
        other
    }

    fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.0));
    }
}

/// Answers everything that comes to the controller's address in a namespace, for as long as the test runs.
fn answers(namespace: &str, answer: &'static [u8]) {
    let namespace = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
    let bind = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("moved");
        UdpSocket::bind((CONTROLLER, PORT)).expect("bound")
    };
    let socket = std::thread::spawn(bind).join().expect("a socket");
    std::thread::spawn(move || {
        let mut byte = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut byte) {
            let _ = socket.send_to(answer, from);
        }
    });
}

/// Who answers a socket; `None` where nobody does in time, which is short since whoever is there answers at once.
fn who_answers(socket: &UdpSocket) -> Option<String> {
    let mut answer = [0; 16];
    for _ in 0..10 {
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        let _ = socket.send_to(b"?", (CONTROLLER, PORT));
        if let Ok((length, _)) = socket.recv_from(&mut answer) {
            return Some(String::from_utf8_lossy(&answer[..length]).into_owned());
        }
    }
    None
}

/// eth0 with these addresses and this gateway.
fn document(addresses: &[&str], via: &str) -> desired::Network {
    let select = Select { name: Some("eth0".to_owned()), ..Select::default() };
    let kind = desired::LinkKind::Ethernet(Ethernet { select, ..Ethernet::default() });
    let (to, via, metric) = (net("0.0.0.0/0"), Some(ip(via)), None);
    let routes = vec![desired::Route { to, via, metric, table: MAIN_TABLE, reach: Reach::Prefix }];
    let addresses = addresses.iter().map(|address| net(address)).collect();
    let settings = Settings { addresses, routes, ..Settings::default() };
    desired::Network {
        links: vec![desired::Link { id: "eth0".to_owned(), kind, settings }],
        ..desired::Network::default()
    }
}

/// A machine that stands on the present gateway, the other one beside it, and somebody who answers behind each.
fn two_gateways() -> (Lab, Other) {
    let lab = Lab::new();
    let other = Other::at(&lab);
    lab.peer_ip("address add 192.0.2.1/24 dev switch");
    lab.peer_ip(&format!("address add {CONTROLLER}/32 dev lo"));
    other.ip("address add 192.0.2.254/24 dev lan1");
    other.ip("address add 198.51.100.254/24 dev lan1");
    other.ip(&format!("address add {CONTROLLER}/32 dev lo"));
    answers(&lab.peer, b"present");
    answers(&other.0, b"new");
    (lab, other)
}

/// The steps up to the proof, and the rest.
fn halves(steps: &[Step]) -> (&[Step], &NewWay, &[Step]) {
    let proof = steps.iter().position(|step| matches!(step.change, Change::Prove(_))).expect("it is proven beside");
    let Change::Prove(way) = &steps[proof].change else { panic!("it is one") };
    (&steps[..proof], way, &steps[proof + 1..])
}

fn take(network: &muster_agent::linux::network::Network, steps: &[Step]) {
    steps.iter().for_each(|step| {
        attempt(network, step.change.clone()).unwrap_or_else(|error| panic!("{}: {error}", step.change.action()));
    });
}

/// What is there for proofs, as iproute2 shows it.
fn of_proofs(lab: &Lab) -> String {
    let routes = lab.ip("-N route show table all");
    let rules = lab.ip("-N rule show");
    routes.lines().chain(rules.lines()).filter(|line| line.contains("19797")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_proof_goes_by_the_other_gateway_behind_the_same_address_and_everything_else_by_the_present_one() {
    let (lab, _other) = two_gateways();
    let network = lab.network(None);
    let controller: IpAddr = ip(CONTROLLER);
    let observed = || network.observe().expect("observed");
    let planned =
        |to: &desired::Network| plan(to, &Past::default(), &observed(), &[controller]).expect("it fits this machine");
    take(&network, &planned(&document(&["192.0.2.7/24"], "192.0.2.1")));
    let session = UdpSocket::bind(("0.0.0.0", 0)).expect("bound");
    assert_eq!(who_answers(&session).as_deref(), Some("present"));

    let machine = LinuxMachine::new(Role::Guest, None).expect("the machine");
    // By the same address, by one more of the same network, and by one of another network.
    for (addresses, via) in [
        (&["192.0.2.7/24"][..], "192.0.2.254"),
        (&["192.0.2.7/24", "192.0.2.8/24"], "192.0.2.254"),
        (&["192.0.2.7/24", "198.51.100.7/24"], "198.51.100.254"),
    ] {
        let before = observed();
        let steps = planned(&document(addresses, via));
        let (first, way, _) = halves(&steps);
        take(&network, first);
        // A reverse path is looked for by link, and both ways have the same.
        for filter in ["1", "2", "0"] {
            for link in ["all", "eth0"] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), filter).expect("written");
            }
            let proof = machine.socket(controller, Some(way)).expect("a way");
            assert_eq!(proof.local_addr().ok().map(|from| from.ip()), way.source);
            assert_eq!(who_answers(&proof).as_deref(), Some("new"), "{addresses:?} with rp_filter {filter}");
            let unmarked = UdpSocket::bind(("0.0.0.0", 0)).expect("bound");
            for (what, socket) in [("the session", &session), ("a new connection", &unmarked)] {
                assert_eq!(who_answers(socket).as_deref(), Some("present"), "{what}");
            }
        }
        assert!(!of_proofs(&lab).is_empty());
        take(&network, &revert(&before, &observed()));
        assert_eq!(of_proofs(&lab), "", "nothing of it stays");
        assert_eq!(observed(), before);
    }

    let to = document(&["192.0.2.7/24"], "192.0.2.254");
    let steps = planned(&to);
    take(&network, &steps);
    assert_eq!(who_answers(&session).as_deref(), Some("new"), "the session goes on by it from now on");
    assert_eq!(of_proofs(&lab), "");
    assert_eq!(planned(&to), []);
}

#[test]
fn a_gateway_that_passes_nothing_on_answers_no_proof_and_disturbs_nobody() {
    let (lab, other) = two_gateways();
    other.ip(&format!("address delete {CONTROLLER}/32 dev lo"));
    let network = lab.network(None);
    let controller: IpAddr = ip(CONTROLLER);
    let observed = || network.observe().expect("observed");
    let planned =
        |to: &desired::Network| plan(to, &Past::default(), &observed(), &[controller]).expect("it fits this machine");
    take(&network, &planned(&document(&["192.0.2.7/24"], "192.0.2.1")));
    let session = UdpSocket::bind(("0.0.0.0", 0)).expect("bound");
    assert_eq!(who_answers(&session).as_deref(), Some("present"));
    let steps = planned(&document(&["192.0.2.7/24"], "192.0.2.254"));
    let (first, way, _) = halves(&steps);
    take(&network, first);
    // Its neighbor entry is good, and the present gateway's has aged: that is when the kernel would prefer it, if it could.
    lab.ip("neigh replace 192.0.2.254 lladdr 02:00:00:00:00:98 dev eth0 nud reachable");
    lab.ip("neigh change 192.0.2.1 dev eth0 nud stale");
    let machine = LinuxMachine::new(Role::Guest, None).expect("the machine");
    let proof = machine.socket(controller, Some(way)).expect("a way");
    let unmarked = UdpSocket::bind(("0.0.0.0", 0)).expect("bound");
    for socket in [&session, &unmarked] {
        assert_eq!(who_answers(socket).as_deref(), Some("present"));
    }
    assert_eq!(who_answers(&proof), None);
}

#[test]
fn an_address_in_the_controllers_network_is_tried_before_its_prefix_draws_the_session() {
    let (lab, other) = two_gateways();
    // Both have the controller's address on this link: this says who is the neighbor of that name.
    other.ip("link set lan1 address 02:00:00:00:00:98");
    other.ip("route add 203.0.113.0/24 dev lan1");
    let network = lab.network(None);
    let controller: IpAddr = ip(CONTROLLER);
    let observed = || network.observe().expect("observed");
    let planned =
        |to: &desired::Network| plan(to, &Past::default(), &observed(), &[controller]).expect("it fits this machine");
    take(&network, &planned(&document(&["192.0.2.7/24"], "192.0.2.1")));
    lab.ip(&format!("neigh replace {CONTROLLER} lladdr 02:00:00:00:00:98 dev eth0 nud reachable"));
    let session = UdpSocket::bind(("0.0.0.0", 0)).expect("bound");
    assert_eq!(who_answers(&session).as_deref(), Some("present"));

    let before = observed();
    let to = document(&["192.0.2.7/24", "203.0.113.7/24"], "192.0.2.1");
    let steps = planned(&to);
    let (first, way, second) = halves(&steps);
    take(&network, first);
    let machine = LinuxMachine::new(Role::Guest, None).expect("the machine");
    let proof = machine.socket(controller, Some(way)).expect("a way");
    assert_eq!(proof.local_addr().ok().map(|from| from.ip()), Some(ip("203.0.113.7")));
    assert_eq!(who_answers(&proof).as_deref(), Some("new"));
    let unmarked = UdpSocket::bind(("0.0.0.0", 0)).expect("bound");
    for socket in [&session, &unmarked] {
        assert_eq!(who_answers(socket).as_deref(), Some("present"));
    }
    take(&network, &revert(&before, &observed()));
    assert_eq!((of_proofs(&lab), observed()), (String::new(), before));

    take(&network, first);
    take(&network, second);
    assert_eq!(who_answers(&session).as_deref(), Some("new"), "the session goes on by it from now on");
    assert_eq!((of_proofs(&lab), planned(&to)), (String::new(), Vec::new()));
}

#[test]
fn what_an_agent_that_died_left_of_a_proof_is_taken_away_and_is_not_what_the_next_one_goes_by() {
    let (lab, _other) = two_gateways();
    let network = lab.network(None);
    let controller: IpAddr = ip(CONTROLLER);
    let observed = || network.observe().expect("observed");
    let planned =
        |to: &desired::Network| plan(to, &Past::default(), &observed(), &[controller]).expect("it fits this machine");
    take(&network, &planned(&document(&["192.0.2.7/24"], "192.0.2.1")));
    let before = observed();
    // It was about to prove one that leads where the present one does.
    lab.ip(&format!("route add {CONTROLLER} via 192.0.2.1 metric 4000000000 table 19797 proto static"));
    lab.ip(&format!("rule add priority 1 to {CONTROLLER} fwmark 19797 table 19797 protocol static"));
    let left = observed();
    assert_ne!(left, before);

    let steps = planned(&document(&["192.0.2.7/24"], "192.0.2.254"));
    let (first, way, _) = halves(&steps);
    take(&network, first);
    let machine = LinuxMachine::new(Role::Guest, None).expect("the machine");
    let proof = machine.socket(controller, Some(way)).expect("a way");
    assert_eq!(who_answers(&proof).as_deref(), Some("new"));
    take(&network, &revert(&left, &observed()));
    assert_eq!(of_proofs(&lab), "", "and a revert does not put it up again");
    assert_eq!(observed(), before);
}
