//! Changes by hand against this machine's kernel, in namespaces: `ip` changes the network, the agent's loop sees it by
//! notification, and `ip -j` shows what became of it.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::lab::{Lab, eventually};
use muster_agent::keep::Keep;
use muster_agent::linux::network::Network;
use muster_agent::machine::{Lost, Machine, MachineError, Percent};
use muster_agent::options::Manage;
use muster_agent::outbox::{Outbox, Proven};
use muster_agent::plan;
use muster_agent::plan::network::NewWay;
use muster_agent::reconcile::Reconciler;
use muster_protocol::desired::{
    self, Desired, Dhcp, Ethernet, LeaseUse, Link, LinkKind, MAIN_TABLE, Reach, Route, Rule, Select, Settings,
};
use muster_protocol::drift::{Drift, DriftEnd, OnDrift};
use muster_protocol::enroll::Identity;
use muster_protocol::hello::Progress;
use muster_protocol::inventory::Inventory;
use muster_protocol::observed::{self, Observed};
use muster_protocol::to_agent::{Answer, Apply, PowerAction, WipeLevel};
use muster_protocol::to_controller::WipeReceipt;
use muster_protocol::{BootId, DiskId, Generation, VlanTag};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// The lab's network, and of a machine nothing else.
struct OnlyNetwork(Network);

impl Machine for OnlyNetwork {
    fn identity(&self) -> Identity {
        Identity::default()
    }

    fn inventory(&self) -> Inventory {
        Inventory::default()
    }

    fn observe(&self) -> Result<Observed, MachineError> {
        Ok(Observed { network: self.0.observe()?, ..Observed::default() })
    }

    fn observe_network(&self) -> Result<observed::Network, MachineError> {
        self.0.observe()
    }

    fn changes(&self) -> Result<Arc<Notify>, MachineError> {
        self.0.changes()
    }

    fn lost(&self) -> Result<Vec<Lost>, MachineError> {
        self.0.lost()
    }

    fn apply_network(&self, step: &plan::network::Step) -> Result<(), MachineError> {
        self.0.apply(step)
    }

    fn apply_storage(&self, _: &plan::storage::Step, _: Percent<'_>) -> Result<(), MachineError> {
        Err(MachineError::Unable("store anything".into()))
    }

    fn wipe(&self, _: &DiskId, _: WipeLevel, _: Percent<'_>) -> Result<WipeReceipt, MachineError> {
        Err(MachineError::Unable("wipe anything".into()))
    }

    fn socket(&self, _: IpAddr, _: Option<&NewWay>) -> Result<UdpSocket, MachineError> {
        Err(MachineError::Unable("reach anybody".into()))
    }

    fn unanswered(&self) -> Vec<(u32, IpAddr)> {
        Vec::new()
    }

    fn set_clock(&self, _: u64) {}

    fn power(&self, _: PowerAction) -> Result<(), MachineError> {
        Err(MachineError::Unable("switch itself off".into()))
    }
}

/// An agent's loop with a network that is confirmed.
struct Agent {
    reconciler: Arc<Reconciler>,
    outbox: watch::Sender<Outbox>,
}

impl Agent {
    /// In the calling thread's network namespace.
    async fn confirmed(lab: &Lab, links: Vec<Link>) -> Self {
        let (outbox, _) = watch::channel(Outbox::default());
        let (_, controller) = watch::channel(Vec::new());
        let machine = Arc::new(OnlyNetwork(lab.network(None)));
        let boot = BootId::from_bytes([1; 16]);
        let (reconciler, jobs) =
            Reconciler::new(machine, Keep::memory(), boot, Manage::ALL, outbox.clone(), controller);
        let (running, proofs) = (reconciler.clone(), outbox.clone());
        tokio::spawn(async move { running.run(jobs).await });
        tokio::spawn(async move {
            let mut asked = proofs.subscribe();
            while asked.wait_for(|out| out.waiting_proof().is_some()).await.is_ok() {
                proofs.send_modify(|out| out.proof.iter_mut().for_each(|proof| proof.answer = Proven::Yes));
            }
        });
        let desired = Desired { network: Some(desired::Network { links, ..Default::default() }), storage: None };
        let generation = Generation(1);
        let offer = Apply { generation, desired, permit: None, confirm_within_s: 60 };
        let (answer, begin) = reconciler.apply(offer).await;
        assert_eq!(answer, Answer::Accepted);
        drop(begin);
        let agent = Self { reconciler, outbox };
        agent.until("the network is confirmed", |out| out.progress == Progress::Confirmed { generation }).await;
        agent
    }

    async fn until(&self, what: &str, is_so: impl FnMut(&Outbox) -> bool) -> Drift {
        let mut outbox = self.outbox.subscribe();
        let waited = timeout(Duration::from_secs(60), outbox.wait_for(is_so)).await;
        waited.unwrap_or_else(|_| panic!("not within 60 s: {what}")).expect("the outbox lives").drift.clone()
    }

    fn told(&self) -> u32 {
        self.outbox.borrow().drift.number
    }

    /// Runs `ip`, and waits for what is told of it.
    async fn by_hand(&self, lab: &Lab, commands: &[&str]) -> Drift {
        let before = self.told();
        commands.iter().for_each(|command| drop(lab.ip(command)));
        self.until(&format!("{commands:?} is told"), |out| out.drift.number > before).await
    }
}

fn eth0(settings: Settings) -> Link {
    let select = Select { name: Some("eth0".into()), ..Select::default() };
    Link { id: "eth0".into(), kind: LinkKind::Ethernet(Ethernet { select, ..Ethernet::default() }), settings }
}

fn route(to: &str, via: &str) -> Route {
    let (to, via) = (to.parse().expect("a prefix"), Some(via.parse().expect("an address")));
    Route { to, via, metric: None, table: MAIN_TABLE, reach: Reach::Prefix }
}

fn settings() -> Settings {
    let net = |text: &str| text.parse().expect("a prefix");
    let rule = Rule {
        from: Some(net("192.0.2.5/32")),
        to: None,
        table: MAIN_TABLE,
        priority: Some(10),
        mark: None,
        tos: None,
    };
    Settings {
        addresses: vec![net("192.0.2.5/24"), net("2001:db8::5/64")],
        routes: vec![route("0.0.0.0/0", "192.0.2.1"), route("::/0", "2001:db8::1")],
        rules: vec![rule],
        mtu: Some(1400),
        ..Settings::default()
    }
}

/// What `ip -j` says of a link, as far as it was configured.
fn shown(lab: &Lab, name: &str) -> Value {
    let link = &lab.json(&format!("address show dev {name}"))[0];
    let infos = link["addr_info"].as_array().expect("a list").iter();
    let mut addresses: Vec<String> = infos
        .filter(|info| info["scope"] == "global")
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap_or("?"), info["prefixlen"]))
        .collect();
    addresses.sort();
    let routes = |family: &str| -> Vec<String> {
        let routes = lab.json(&format!("{family} route show dev {name}"));
        let ours = routes.iter().filter(|route| route["protocol"] != "kernel");
        ours.map(|route| format!("{} via {}", route["dst"], route["gateway"])).collect()
    };
    let is_up = link["flags"].as_array().expect("a list").contains(&json!("UP"));
    let rules: Vec<u64> = lab.json("rule show").iter().filter_map(|rule| rule["priority"].as_u64()).collect();
    json!([is_up, link["mtu"], addresses, routes("-4"), routes("-6"), rules])
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.peer_ip("link set lan0 up");
    lab.ip("link set eth0 up");
    lab
}

/// On this thread alone, which is in the lab's namespace, and on those that it starts.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

#[test]
fn what_is_changed_by_hand_is_seen_and_repaired() {
    let lab = lab();
    run(async {
        let agent = Agent::confirmed(&lab, vec![eth0(settings())]).await;
        let confirmed = shown(&lab, "eth0");
        assert_eq!(
            confirmed,
            json!([
                true,
                1400,
                ["192.0.2.5/24", "2001:db8::5/64"],
                ["\"default\" via \"192.0.2.1\""],
                ["\"default\" via \"2001:db8::1\""],
                [0, 10, 32766, 32767]
            ])
        );
        for (commands, difference) in [
            (&["address del 192.0.2.5/24 dev eth0"][..], "add address 192.0.2.5/24 to eth0"),
            (&["-6 address del 2001:db8::5/64 dev eth0"], "add address 2001:db8::5/64 to eth0"),
            (
                &["address add 192.0.2.99/24 dev eth0", "-6 address add 2001:db8::99/64 dev eth0"],
                "remove address 192.0.2.99/24 from eth0",
            ),
            (&["link set eth0 down"], "bring eth0 up"),
            (&["link set eth0 mtu 1300"], "set the MTU of eth0 to 1400"),
            (&["route del default", "-6 route del default"], "add route 0.0.0.0/0 via 192.0.2.1 by eth0"),
            (
                &["route replace default via 192.0.2.9", "rule del priority 10", "link set eth0 mtu 1200"],
                "remove route 0.0.0.0/0 via 192.0.2.9 by eth0",
            ),
        ] {
            let told = agent.by_hand(&lab, commands).await;
            let is_it = |told: &String| told.starts_with(difference);
            assert!(told.differences.iter().any(is_it), "{commands:?}: {told:?}");
            assert!(matches!(told.end, DriftEnd::Repaired { .. }), "{commands:?}: {told:?}");
            assert_eq!(shown(&lab, "eth0"), confirmed, "{commands:?}");
        }
    });
}

#[test]
fn what_is_changed_by_hand_is_reported_and_left_alone_where_that_is_the_policy() {
    let lab = lab();
    run(async {
        let agent = Agent::confirmed(&lab, vec![eth0(settings())]).await;
        agent.reconciler.on_drift(OnDrift::Report);
        let confirmed = shown(&lab, "eth0");
        let told = agent.by_hand(&lab, &["address add 192.0.2.99/24 dev eth0"]).await;
        let differences = vec!["remove address 192.0.2.99/24 from eth0".to_owned()];
        assert_eq!(told, Drift { number: 1, differences, end: DriftEnd::Reported });
        let told = agent.by_hand(&lab, &["link set eth0 mtu 1300"]).await;
        assert_eq!((told.differences.len(), told.end), (2, DriftEnd::Reported));
        assert_eq!(shown(&lab, "eth0")[1], 1300);
        assert_eq!(shown(&lab, "eth0")[2], json!(["192.0.2.5/24", "192.0.2.99/24", "2001:db8::5/64"]));
        let told = agent.by_hand(&lab, &["address del 192.0.2.99/24 dev eth0", "link set eth0 mtu 1400"]).await;
        assert_eq!((told.differences, told.end), (Vec::new(), DriftEnd::Gone));
        assert_eq!(shown(&lab, "eth0"), confirmed);
    });
}

#[test]
fn a_cable_that_is_pulled_is_no_drift() {
    let lab = lab();
    run(async {
        let agent = Agent::confirmed(&lab, vec![eth0(settings())]).await;
        let has_carrier =
            || lab.json("link show eth0")[0]["flags"].as_array().expect("flags").contains(&json!("LOWER_UP"));
        lab.peer_ip("link set lan0 down");
        eventually("the carrier goes", || (!has_carrier()).then_some(()));
        lab.peer_ip("link set lan0 up");
        eventually("the carrier comes", || has_carrier().then_some(()));
        lab.peer_ip("link set lan0 down");
        // What comes next is the first that there is to tell, and the cable is no part of it.
        let told = agent.by_hand(&lab, &["link set eth0 mtu 1300"]).await;
        assert_eq!((told.number, told.differences), (1, vec!["set the MTU of eth0 to 1400".to_owned()]));
    });
}

#[test]
fn what_a_lease_brought_comes_back_when_it_is_taken_away() {
    let mut lab = lab();
    lab.peer_ip("address add 192.0.2.1/24 dev lan0");
    lab.dnsmasq("--dhcp-range=192.0.2.100,192.0.2.100,255.255.255.0,120s --dhcp-option=option:router,192.0.2.1");
    run(async {
        let dhcp4 = Dhcp::On(LeaseUse::default());
        let agent = Agent::confirmed(&lab, vec![eth0(Settings { dhcp4, ..Settings::default() })]).await;
        let has =
            |what: &Value| what[2] == json!(["192.0.2.100/24"]) && what[3] == json!(["\"default\" via \"192.0.2.1\""]);
        eventually("the lease", || has(&shown(&lab, "eth0")).then_some(()));
        assert_eq!(agent.told(), 0, "a lease that comes is no drift");
        let told = agent.by_hand(&lab, &["route del default"]).await;
        assert_eq!(told.differences, ["add route 0.0.0.0/0 via 192.0.2.1 by eth0, which is leased"]);
        assert!(matches!(told.end, DriftEnd::Repaired { .. }), "{told:?}");
        assert!(has(&shown(&lab, "eth0")));
        let told = agent.by_hand(&lab, &["address del 192.0.2.100/24 dev eth0"]).await;
        assert_eq!(told.differences[0], "add address 192.0.2.100/24 to eth0, which is leased");
        assert!(has(&shown(&lab, "eth0")), "{told:?}");
        assert_eq!(lab.logged("DHCPDISCOVER"), 1, "it is the lease that was kept");
    });
}

#[test]
#[ignore = "needs a kernel with 8021q: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_vlan_that_is_deleted_by_hand_comes_back_with_all_that_was_on_it() {
    let lab = lab();
    run(async {
        let net = |text: &str| text.parse().expect("a prefix");
        let kind = LinkKind::Vlan { tag: VlanTag::try_from(12).expect("a tag"), parent: "eth0".into() };
        let settings = Settings {
            addresses: vec![net("192.0.2.5/24")],
            routes: vec![route("0.0.0.0/0", "192.0.2.1")],
            ..Settings::default()
        };
        let vlan = Link { id: "office".into(), kind, settings };
        let agent = Agent::confirmed(&lab, vec![eth0(Settings::default()), vlan]).await;
        let confirmed = shown(&lab, "office");
        let told = agent.by_hand(&lab, &["link del office"]).await;
        assert_eq!(told.differences[0], "create VLAN office with tag 12 on eth0");
        assert!(matches!(told.end, DriftEnd::Repaired { .. }), "{told:?}");
        assert_eq!(shown(&lab, "office"), confirmed);
        let told = agent.by_hand(&lab, &["link set eth0 down"]).await;
        assert!(told.differences.contains(&"bring eth0 up".to_owned()), "{told:?}");
        assert_eq!(shown(&lab, "office"), confirmed);
    });
}
