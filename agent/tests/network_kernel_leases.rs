//! Leases of both families and the clock against this machine's kernel, dnsmasq and iproute2, in namespaces of their own.
//!
//! Steps are applied one by one: what a document makes of them is the planner's, and tried elsewhere.
//! No clock is set: the one that is kept here is made up, but for one test that is ignored on hosts for it.

#[path = "network_kernel/lab.rs"]
mod lab;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use lab::{Lab, eventually};
use muster_agent::linux::network::Network;
use muster_agent::linux::network::ntp::{Clock, Reading, SystemClock};
use muster_agent::machine::chain;
use muster_agent::plan::network::{Change, Family, Step};
use muster_protocol::desired::{LeaseUse, Take};
use muster_protocol::observed::{self, Address, Dhcp, Origin};
use muster_protocol::to_agent::Impact;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

fn net(text: &str) -> IpNet {
    text.parse().expect("a test's prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

fn apply(network: &Network, change: Change) {
    let step = Step { change, impact: Impact::None };
    network.apply(&step).unwrap_or_else(|error| panic!("{}", chain(&error)));
}

/// Starts a client and waits for its lease.
fn lease(network: &Network, family: Family, uses: LeaseUse) -> observed::Lease {
    apply(network, Change::StartDhcp { link: "eth0".into(), family, uses });
    apply(network, Change::AwaitLease { link: "eth0".into(), family });
    held(network, family).expect("a lease")
}

fn eth0(network: &Network) -> observed::Link {
    let seen = network.observe().expect("observed");
    seen.links.into_iter().find(|link| link.name == "eth0").expect("eth0")
}

fn dhcp(network: &Network, family: Family) -> Dhcp {
    let link = eth0(network);
    match family {
        Family::V4 => link.dhcp4,
        Family::V6 => link.dhcp6,
    }
}

fn held(network: &Network, family: Family) -> Option<observed::Lease> {
    dhcp(network, family).lease().cloned()
}

fn resolv_conf(lab: &Lab) -> Vec<String> {
    let text = std::fs::read_to_string(lab.resolv_conf()).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// Gateways and metrics of the default routes that `ip -j route` shows as a lease's.
fn leased_routes(lab: &Lab) -> Vec<(String, u64)> {
    let routes = lab.json("-4 route show default proto dhcp");
    let shown =
        |route: &Value| (route["gateway"].as_str().unwrap_or("-").to_owned(), route["metric"].as_u64().unwrap_or(0));
    routes.iter().map(shown).collect()
}

/// What `ip -j address` shows of IPv6 addresses that are not link-local.
fn shown_v6(lab: &Lab) -> Vec<Value> {
    let all = lab.json("-6 address show dev eth0 scope global");
    let infos = all.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    // iproute2 6.1 shows an empty object for what its filter leaves out.
    infos.filter(|info| info["local"].is_string()).cloned().collect()
}

/// The lab with a DHCP server that tells of a router, a resolver and an NTP server.
fn lab_with_dhcp() -> Lab {
    let mut lab = Lab::new();
    lab.ip("link set eth0 up");
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 192.0.2.1/24 dev lan0");
    lab.dnsmasq(
        "--dhcp-range=192.0.2.100,192.0.2.150,255.255.255.0,120s --dhcp-option=option:router,192.0.2.1 \
         --dhcp-option=option:dns-server,192.0.2.53 --dhcp-option=option:domain-name,lan.example \
         --dhcp-option=option:ntp-server,192.0.2.123,192.0.2.124",
    );
    lab
}

/// The lab with a router that has a DHCPv6 server, or another kind of one.
fn lab_with_dhcpv6(range: &str) -> Lab {
    let mut lab = Lab::new();
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "1").expect("written");
    lab.ip("link set eth0 up");
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 2001:db8::1/64 dev lan0 nodad");
    // While that is being checked, the server answers from its other address.
    let link_local = || lab.peer_ip("-6 address show dev lan0 scope link -tentative").contains("fe80::").then_some(());
    eventually("the server has an address of the link", link_local);
    lab.dnsmasq(&format!(
        "--enable-ra --dhcp-range={range} --dhcp-option=option6:dns-server,[2001:db8::53] \
         --dhcp-option=option6:domain-search,lan.example,example.org --dhcp-option=option6:ntp-server,[2001:db8::123]"
    ));
    lab
}

#[test]
fn what_of_a_lease_counts_is_as_asked_for() {
    let lab = lab_with_dhcp();
    let network = lab.network(None);
    let uses = LeaseUse { dns: Take::No, ntp: Take::Yes, routes: Take::Yes, route_metric: Some(77) };
    let lease = lease(&network, Family::V4, uses);
    assert_eq!(lease.nameservers, [ip("192.0.2.53")], "what it brought is told all the same");
    assert_eq!(lease.ntp, [ip("192.0.2.123"), ip("192.0.2.124")]);
    assert_eq!(leased_routes(&lab), [("192.0.2.1".to_owned(), 77)]);
    let beside = "default via 192.0.2.1 dev eth0 table 7 proto dhcp";
    lab.ip(&format!("route add {beside}"));
    apply(
        &network,
        Change::StartDhcp { link: "eth0".into(), family: Family::V4, uses: LeaseUse { route_metric: None, ..uses } },
    );
    assert_eq!(leased_routes(&lab), [("192.0.2.1".to_owned(), 1024)]);
    assert_eq!(lab.json("-4 route show table 7").len(), 1, "no lease brought that");
    apply(&network, Change::StartDhcp { link: "eth0".into(), family: Family::V4, uses });
    assert_eq!(resolv_conf(&lab), [""; 0]);
    let seen = network.observe().expect("observed");
    assert_eq!(seen.ntp, ["192.0.2.123", "192.0.2.124"]);
    assert_eq!(dhcp(&network, Family::V4).lease_use(), Some(uses));

    apply(&network, Change::SetNtp { servers: vec!["time.example".to_owned()] });
    assert_eq!(network.observe().expect("observed").ntp, ["time.example"], "those that are configured count alone");
    apply(&network, Change::SetNtp { servers: Vec::new() });
    apply(&network, Change::StopDhcp { link: "eth0".into(), family: Family::V4 });
    assert_eq!(network.observe().expect("observed").ntp, [""; 0]);
}

/// As a bridge does when it gets a port: servers answer the MAC that they are asked by.
#[test]
fn a_link_that_gets_another_mac_asks_by_that_one() {
    let lab = lab_with_dhcp();
    let network = lab.network(None);
    let by_old = lease(&network, Family::V4, LeaseUse::default());
    lab.ip("link set eth0 address 02:00:5e:10:00:07");
    // The server has given the address to the old one.
    eventually("another lease", || held(&network, Family::V4).filter(|now| now.address != by_old.address));
    let addresses = eth0(&network).addresses;
    assert!(!addresses.iter().any(|address| address.net == by_old.address), "{addresses:?}");
}

/// What is built on it before would go with it: the kernel forgets every route by a link that has lost its last address.
#[test]
fn a_lease_that_was_had_before_is_waited_for_until_a_server_stands_by_it() {
    let mut lab = lab_with_dhcp();
    let network = lab.network(None);
    let had = lease(&network, Family::V4, LeaseUse::default());
    apply(&network, Change::StopDhcp { link: "eth0".into(), family: Family::V4 });
    assert_eq!(lease(&network, Family::V4, LeaseUse::default()).address, had.address, "its server stands by it");

    apply(&network, Change::StopDhcp { link: "eth0".into(), family: Family::V4 });
    lab.stop_servers();
    assert_eq!(lease(&network, Family::V4, LeaseUse::default()).address, had.address, "nobody says no");

    apply(&network, Change::StopDhcp { link: "eth0".into(), family: Family::V4 });
    lab.dnsmasq("--dhcp-authoritative --dhcp-range=192.0.2.200,192.0.2.210,255.255.255.0,120s");
    let now = lease(&network, Family::V4, LeaseUse::default()).address;
    assert_ne!(now, had.address, "another server does not know of it");
    let addresses = eth0(&network).addresses;
    assert!(addresses.iter().any(|address| address.net == now), "{addresses:?}");
}

#[test]
fn another_use_of_a_lease_takes_effect_at_once_and_never_leaves_it_without_a_route() {
    let lab = lab_with_dhcp();
    let network = lab.network(None);
    let got = lease(&network, Family::V4, LeaseUse::default());
    assert_eq!(leased_routes(&lab), [("192.0.2.1".to_owned(), 1024)]);
    assert_eq!(resolv_conf(&lab), ["search lan.example", "nameserver 192.0.2.53"]);
    let asked = lab.logged("DHCPREQUEST");

    let log = lab.folder.path().join("routes");
    let mut monitor = Command::new("ip")
        .args(["-n", &lab.machine, "monitor", "route"])
        .stdout(File::create(&log).expect("a file"))
        .stdin(Stdio::null())
        .spawn()
        .expect("ip monitor starts");
    let heard = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the monitor listens", || {
        lab.ip("route replace 203.0.113.0/24 dev eth0");
        lab.ip("route del 203.0.113.0/24 dev eth0");
        heard().contains("203.0.113.0/24").then_some(())
    });
    let uses = LeaseUse { dns: Take::No, ntp: Take::No, route_metric: Some(50), ..LeaseUse::default() };
    apply(&network, Change::StartDhcp { link: "eth0".into(), family: Family::V4, uses });
    assert_eq!(leased_routes(&lab), [("192.0.2.1".to_owned(), 50)]);
    assert_eq!(resolv_conf(&lab), [""; 0]);
    assert_eq!(network.observe().expect("observed").ntp, [""; 0]);
    let text = eventually("both were heard of", || Some(heard()).filter(|text| text.contains("metric 1024")));
    let _ = monitor.kill();
    let _ = monitor.wait();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what:?} in {text}"));
    assert!(at("metric 50") < at("metric 1024") && text.contains("Deleted default"), "{text}");

    let none = LeaseUse { routes: Take::No, ..uses };
    apply(&network, Change::StartDhcp { link: "eth0".into(), family: Family::V4, uses: none });
    assert_eq!(leased_routes(&lab), []);
    apply(&network, Change::StartDhcp { link: "eth0".into(), family: Family::V4, uses: LeaseUse::default() });
    assert_eq!(leased_routes(&lab), [("192.0.2.1".to_owned(), 1024)]);
    assert_eq!(resolv_conf(&lab), ["search lan.example", "nameserver 192.0.2.53"]);
    assert_eq!(held(&network, Family::V4), Some(got));
    assert_eq!(lab.logged("DHCPREQUEST"), asked, "nobody was asked for anything");
}

#[test]
fn dhcpv6_sets_an_address_and_what_comes_with_it_and_takes_them_away() {
    let lab = lab_with_dhcpv6("2001:db8::100,2001:db8::1ff,64,120");
    let network = lab.network(None);
    let got = lease(&network, Family::V6, LeaseUse::default());
    assert!(net("2001:db8::100/120").contains(&got.address), "{got:?}");
    assert_eq!(got.address.prefix_len(), 128);
    assert_eq!((got.nameservers.clone(), got.ntp.clone()), (vec![ip("2001:db8::53")], vec![ip("2001:db8::123")]));
    assert!(matches!(got.server, IpAddr::V6(server) if server.is_unicast_link_local()), "{got:?}");
    let shown = shown_v6(&lab);
    assert_eq!(
        (shown[0]["local"].as_str(), shown[0]["prefixlen"].as_u64()),
        (Some(&*got.address.addr().to_string()), Some(128))
    );
    let seconds = shown[0]["valid_life_time"].as_u64().expect("seconds");
    assert!((60..=120).contains(&seconds), "the kernel itself ends the lease: {shown:?}");
    let leased = Address { net: got.address, origin: Origin::Dhcp };
    assert!(eth0(&network).addresses.contains(&leased), "{:?}", eth0(&network));
    assert_eq!(resolv_conf(&lab), ["search lan.example example.org", "nameserver 2001:db8::53"]);
    assert_eq!(network.observe().expect("observed").ntp, ["2001:db8::123"]);
    eventually("a default route, by the router", || {
        let routes = network.observe().expect("observed").routes;
        let default = routes.iter().find(|route| route.to == net("::/0"));
        default.map(|route| assert_eq!(route.origin, Origin::Ra))
    });

    apply(&network, Change::StopDhcp { link: "eth0".into(), family: Family::V6 });
    assert!(eth0(&network).addresses.contains(&leased), "it stays until it is removed");
    apply(&network, Change::RemoveAddress { link: "eth0".into(), address: leased });
    assert_eq!((shown_v6(&lab), resolv_conf(&lab)), (vec![], vec![]));
    assert_eq!(dhcp(&network, Family::V6), Dhcp::Off);

    // A revert wants it back.
    let solicited = lab.logged("DHCPSOLICIT");
    apply(&network, Change::StartDhcp { link: "eth0".into(), family: Family::V6, uses: LeaseUse::default() });
    assert_eq!(held(&network, Family::V6), Some(got));
    assert!(eth0(&network).addresses.contains(&leased), "at once");
    eventually("it asks whether it still belongs here", || (lab.logged("DHCPCONFIRM") > 0).then_some(()));
    assert_eq!(lab.logged("DHCPSOLICIT"), solicited);
}

#[test]
fn a_cable_plugged_in_again_has_the_v6_address_confirmed() {
    let lab = lab_with_dhcpv6("2001:db8::100,2001:db8::1ff,64,120");
    let network = lab.network(None);
    let got = lease(&network, Family::V6, LeaseUse::default());
    lab.peer_ip("link set lan0 down");
    eventually("no carrier", || (eth0(&network).carrier == muster_protocol::inventory::Carrier::Absent).then_some(()));
    lab.peer_ip("link set lan0 up");
    // The kernel takes it away when its link goes down.
    lab.peer_ip("address add 2001:db8::1/64 dev lan0 nodad");
    eventually("it asks whether it still belongs here", || (lab.logged("DHCPCONFIRM") > 0).then_some(()));
    assert_eq!(held(&network, Family::V6), Some(got));
    assert_eq!(shown_v6(&lab).len(), 1);
}

#[test]
fn a_server_without_addresses_tells_resolvers_and_the_like() {
    let lab = lab_with_dhcpv6("2001:db8::,ra-stateless,64,3600");
    let network = lab.network(None);
    let got = lease(&network, Family::V6, LeaseUse { ntp: Take::No, ..LeaseUse::default() });
    assert_eq!(got.address, net("::/128"));
    assert_eq!(resolv_conf(&lab), ["search lan.example example.org", "nameserver 2001:db8::53"]);
    assert_eq!((got.ntp, network.observe().expect("observed").ntp), (vec![ip("2001:db8::123")], vec![]));
    assert!(!eth0(&network).addresses.iter().any(|address| address.origin == Origin::Dhcp));
}

#[test]
fn both_families_have_leases_of_their_own_on_one_link() {
    let mut lab = lab_with_dhcp();
    lab.stop_servers();
    lab.peer_ip("address add 2001:db8::1/64 dev lan0 nodad");
    lab.dnsmasq(
        "--dhcp-range=192.0.2.100,192.0.2.150,255.255.255.0,120s --dhcp-option=option:dns-server,192.0.2.53 \
         --dhcp-range=2001:db8::100,2001:db8::1ff,64,120 --dhcp-option=option6:dns-server,[2001:db8::53]",
    );
    let network = lab.network(None);
    let v6 = lease(&network, Family::V6, LeaseUse::default());
    let v4 = lease(&network, Family::V4, LeaseUse::default());
    let addresses = eth0(&network).addresses;
    let leased: Vec<_> = addresses.iter().filter(|address| address.origin == Origin::Dhcp).map(|it| it.net).collect();
    assert_eq!(leased, [v4.address, v6.address]);
    assert_eq!(resolv_conf(&lab), ["nameserver 192.0.2.53", "nameserver 2001:db8::53"]);
    apply(&network, Change::StopDhcp { link: "eth0".into(), family: Family::V4 });
    assert_eq!(resolv_conf(&lab), ["nameserver 2001:db8::53"]);
    assert!(held(&network, Family::V6).is_some());
}

#[test]
fn an_agent_that_starts_again_gets_the_leases_back_that_it_had() {
    let mut lab = lab_with_dhcp();
    lab.stop_servers();
    lab.peer_ip("address add 2001:db8::1/64 dev lan0 nodad");
    lab.dnsmasq(
        "--dhcp-range=192.0.2.100,192.0.2.150,255.255.255.0,120s --dhcp-range=2001:db8::100,2001:db8::1ff,64,120",
    );
    // A server of IPv6 answers from one address of its own or another.
    let leases = |network: &Network, uses| [Family::V4, Family::V6].map(|family| lease(network, family, uses).address);
    let before = leases(&lab.network(None), LeaseUse::default());
    // The first one's addresses and routes are still there, and go where they are not the lease's any more.
    let again = lab.network(None);
    assert_eq!(dhcp(&again, Family::V6), Dhcp::Off);
    let uses = LeaseUse { route_metric: Some(9), ..LeaseUse::default() };
    assert_eq!(leases(&again, uses), before);
    assert_eq!(leased_routes(&lab), [("192.0.2.1".to_owned(), 9)]);
    assert_eq!(shown_v6(&lab).len(), 1);
}

/// Something on the other side that answers datagrams, until it is dropped.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `answer` gets a datagram, and says what goes back.
    fn start(
        lab: &Lab,
        at: SocketAddr,
        open: impl FnOnce(&UdpSocket) + Send + 'static,
        mut answer: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let namespace = File::open(format!("/run/netns/{}", lab.peer)).expect("the namespace");
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("moved");
            let socket = UdpSocket::bind(at).expect("the port is free");
            open(&socket);
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            ready.send(()).expect("somebody waits");
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(bytes) = answer(&buffer[..len]) {
                    let _ = socket.send_to(&bytes, from);
                }
            }
        });
        is_ready.recv().expect("it listens");
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A DHCPv6 server that gives 2001:db8::77 for some seconds, and counts what it is asked, by kind.
fn impatient_server(lab: &Lab, asked: Arc<[AtomicU8; 12]>) -> Server {
    let link: Value = serde_json::from_str(&lab.peer_ip("-j link show dev lan0")).expect("JSON of ip");
    let index = link[0]["ifindex"].as_u64().expect("an index") as u32;
    let join = move |socket: &UdpSocket| {
        let group = "ff02::1:2".parse::<Ipv6Addr>().expect("an address");
        socket.join_multicast_v6(&group, index).expect("joined");
    };
    Server::start(lab, "[::]:547".parse().expect("an address"), join, move |bytes| {
        let kind = usize::from(bytes[0]);
        asked[kind].fetch_add(1, Ordering::Relaxed);
        let reply = match kind {
            1 => 2,
            3 | 5 | 6 => 7,
            _ => return None,
        };
        // The client's DUID is its first option; the association has its MAC's end for a number.
        let mut answer = [&[reply], &bytes[1..4], &bytes[4..18]].concat();
        answer.extend_from_slice(&[0, 2, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1]);
        answer.extend_from_slice(&[0, 3, 0, 40, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 3]);
        answer.extend_from_slice(&[0, 5, 0, 24, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77]);
        answer.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 6]);
        Some(answer)
    })
}

#[test]
fn a_dhcpv6_lease_is_renewed_in_time_and_ends_where_nobody_renews_it() {
    let lab = Lab::new();
    lab.ip("link set eth0 up");
    lab.peer_ip("link set lan0 up");
    let asked: Arc<[AtomicU8; 12]> = Arc::default();
    let count = |kind: usize| asked[kind].load(Ordering::Relaxed);
    let server = impatient_server(&lab, asked.clone());
    let network = lab.network(None);
    let got = lease(&network, Family::V6, LeaseUse::default());
    assert_eq!(got.address, net("2001:db8::77/128"));
    eventually("renewals for longer than it was good", || (count(5) >= 7).then_some(()));
    assert_eq!(count(3), 1, "it is the same lease");
    assert_eq!(shown_v6(&lab).len(), 1);

    drop(server);
    eventually("the kernel or the agent takes it away", || shown_v6(&lab).is_empty().then_some(()));
    eventually("it looks for another", || (dhcp(&network, Family::V6).lease().is_none()).then_some(()));
}

/// A clock that is read off this machine's and never moves it.
#[derive(Default)]
struct MadeUp {
    offset_ns: Mutex<i64>,
    done: Mutex<Vec<String>>,
}

impl MadeUp {
    fn new(offset_s: i64) -> Arc<Self> {
        Arc::new(Self { offset_ns: Mutex::new(offset_s * 1_000_000_000), done: Mutex::default() })
    }

    fn note(&self, what: String) {
        self.done.lock().expect("nobody panicked").push(what);
    }

    fn done(&self) -> Vec<String> {
        self.done.lock().expect("nobody panicked").clone()
    }
}

impl Clock for MadeUp {
    fn read(&self) -> Reading {
        let mut reading = SystemClock.read();
        reading.unix_ns += *self.offset_ns.lock().expect("nobody panicked");
        reading
    }

    fn step(&self, offset_ns: i64) -> io::Result<()> {
        *self.offset_ns.lock().expect("nobody panicked") += offset_ns;
        self.note(format!("step by {} s", (offset_ns as f64 / 1e9).round()));
        Ok(())
    }

    fn slew(&self, offset_ns: i64, until_next: Duration) -> io::Result<()> {
        assert!(offset_ns.abs() < 100_000_000, "{offset_ns}");
        self.note(format!("slew until {} s from now", until_next.as_secs()));
        Ok(())
    }

    fn let_go(&self) -> io::Result<()> {
        self.note("let go".to_owned());
        Ok(())
    }
}

/// What this machine's clock says, which is the truth here.
fn truth_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as i64
}

/// An NTP server whose clock is ahead by so many seconds.
fn ntp_server(lab: &Lab, ahead_s: u64, asked: Arc<AtomicU8>) -> Server {
    Server::start(
        lab,
        "0.0.0.0:123".parse().expect("an address"),
        |_| {},
        move |question| {
            asked.fetch_add(1, Ordering::Relaxed);
            assert_eq!((question.len(), question[0]), (48, 0x23));
            let mut answer = vec![0; 48];
            (answer[0], answer[1]) = (0x24, 2);
            answer[24..32].copy_from_slice(&question[40..48]);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            let seconds = (now.as_secs() + 2_208_988_800 + ahead_s) as u32;
            let parts = ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000) as u32;
            for at in [32, 40] {
                answer[at..at + 4].copy_from_slice(&seconds.to_be_bytes());
                answer[at + 4..at + 8].copy_from_slice(&parts.to_be_bytes());
            }
            Some(answer)
        },
    )
}

#[test]
fn the_clock_is_kept_by_the_server_that_a_lease_brought_once_a_controller_said_what_time_it_is() {
    let mut lab = Lab::new();
    lab.ip("link set eth0 up");
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 192.0.2.1/24 dev lan0");
    lab.dnsmasq("--dhcp-range=192.0.2.100,192.0.2.150,255.255.255.0,120s --dhcp-option=option:ntp-server,192.0.2.1");
    let asked = Arc::new(AtomicU8::new(0));
    let _server = ntp_server(&lab, 0, asked.clone());
    let network = lab.network(None);
    let clock = MadeUp::new(-120);
    network.keep_clock(clock.clone());
    lease(&network, Family::V4, LeaseUse::default());
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody has said how far NTP may go");

    assert!(!network.hear_time(truth_ns() + 3_000_000_000), "it is not kept yet");
    eventually("the clock is set", || (clock.done() == ["step by 120 s"]).then_some(()));
    assert!(network.hear_time(truth_ns() + 3_000_000_000), "the controller's clock is off by 3 s, and NTP's is not");
    assert!(!network.hear_time(truth_ns() + 3_600_000_000_000), "an hour is too much");
    assert!(network.hear_time(truth_ns()));

    // Another server is asked at once, and finds the clock right.
    apply(&network, Change::SetNtp { servers: vec!["192.0.2.2".to_owned(), "192.0.2.1".to_owned()] });
    eventually("the clock is right", || clock.done().contains(&"slew until 64 s from now".to_owned()).then_some(()));
}

#[test]
fn a_server_that_is_far_from_the_controllers_time_does_not_move_the_clock() {
    let lab = Lab::new();
    lab.ip("link set eth0 up");
    lab.ip("address add 192.0.2.5/24 dev eth0");
    lab.peer_ip("link set lan0 up");
    lab.peer_ip("address add 192.0.2.1/24 dev lan0");
    let asked = Arc::new(AtomicU8::new(0));
    let _server = ntp_server(&lab, 7_200, asked.clone());
    let network = lab.network(None);
    let clock = MadeUp::new(0);
    network.keep_clock(clock.clone());
    apply(&network, Change::SetNtp { servers: vec!["192.0.2.1".to_owned()] });
    assert!(!network.hear_time(truth_ns()));
    eventually("it is not believed", || (clock.done() == ["let go"]).then_some(()));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(!network.hear_time(truth_ns()), "nobody keeps it");

    // What is configured outlives the agent.
    assert_eq!(lab.network(None).observe().expect("observed").ntp, ["192.0.2.1"]);
}

#[test]
#[ignore = "sets the clock: run in a booted machine by tests/tests/system/kernel.rs"]
fn the_machines_clock_is_set_slewed_and_let_go() {
    let off_by = |before: Reading, after: Reading| {
        (after.unix_ns - before.unix_ns) as f64 / 1e9 - (after.raw - before.raw).as_secs_f64()
    };
    for seconds in [100.25, -3_600.5] {
        let before = SystemClock.read();
        SystemClock.step((seconds * 1e9) as i64).expect("set");
        let found = off_by(before, SystemClock.read());
        assert!((found - seconds).abs() < 0.01, "{found} instead of {seconds}");
    }
    let before = SystemClock.read();
    SystemClock.slew(400_000_000, Duration::from_secs(64)).expect("slewed");
    eventually("it runs faster", || (off_by(before, SystemClock.read()) > 0.002).then_some(()));
    assert!(off_by(before, SystemClock.read()) < 0.2, "and was not set");
    SystemClock.let_go().expect("let go");
    eventually("it runs as it would by itself", || {
        let before = SystemClock.read();
        std::thread::sleep(Duration::from_millis(1_100));
        (off_by(before, SystemClock.read()).abs() < 0.001).then_some(())
    });
}
