//! Rollouts over the whole road: the controller's one writer and its sessions, real QUIC, and real agents on simulated
//! machines that prove their new networks or go back to what they had.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use muster_agent::keep::Keep;
use muster_agent::machine::Machine as _;
use muster_agent::options::{Endpoint, Manage, Options, Pace as AgentPace, WhenRefused};
use muster_agent::plan::network::{Change, Route};
use muster_agent::sim::{SimMachine, Wire};
use muster_controller::api::{Live, Presence};
use muster_controller::config::Config;
use muster_controller::fleet::answered::Outcome;
use muster_controller::fleet::rollout::check::prepare;
use muster_controller::fleet::rollout::create::{Wish, create};
use muster_controller::fleet::rollout::record::{MemberState, Pace, Rollout, RolloutState, WaveSize, members};
use muster_controller::fleet::rollout::select::Selector;
use muster_controller::fleet::ticket::Grant;
use muster_controller::fleet::{Author, Fleet, State, machine, ticket};
use muster_controller::server::Server;
use muster_protocol::desired::Reach;
use muster_protocol::hello::Progress;
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{Admin, Link};
use muster_protocol::{BootId, Digest, Generation, MachineId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::UdpSocket;

const DEADLINE: Duration = Duration::from_secs(90);

/// How many machines.
const COUNT: u16 = 6;

/// The only way to the controller.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

struct Road {
    server: Server,
    machines: Vec<(MachineId, Arc<SimMachine>)>,
    /// How many more packets the first machine does not get, of those that the controller sends it from the moment on in
    /// which it has taken note of a confirmation until it has heard how that came out.
    loses: Arc<AtomicUsize>,
    _data: tempfile::TempDir,
}

impl Road {
    /// A controller with machines that are in, each with its number as a label.
    async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    /// The same with machines to which something was done before.
    async fn open_with(done: impl Fn(&SimMachine)) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::with_data(data.path().into());
        let any = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        (config.listen.agents, config.listen.https, config.listen.boot) = (any.clone(), any.clone(), any);
        config.agents.confirm_within = Duration::from_secs(5);
        let server = Server::start(config).await.expect("starts");
        let ca = CertificateDer::from_pem_file(data.path().join("ca.crt")).expect("the CA's certificate");
        let mut road = Self { server, machines: Vec::new(), loses: Arc::default(), _data: data };
        for number in 1..=COUNT {
            let sim = Arc::new(SimMachine::new(number));
            sim.set_wire(Wire::Gateway(GATEWAY));
            done(&sim);
            road.plug_in(number, &sim, Digest::of(&ca)).await;
            let macs = sim.identity().macs;
            let known = |state: &State| state.machines.iter().find(|m| m.identity.macs == macs).map(|m| m.id);
            let id = road.until("a machine dials in", known).await;
            let admit = move |draft: &mut muster_controller::fleet::Draft| {
                machine::approve(draft, id)?;
                machine::rename(draft, id, &format!("m{number}"))?;
                machine::label(draft, id, BTreeMap::from([("n".into(), Some(number.to_string()))]))
            };
            road.server.fleet.change(Author::controller(), admit).await.expect("admitted");
            road.machines.push((id, sim));
        }
        // An approval has agents dial anew.
        let all_there = |state: &State| {
            let is_there = |id| state.inventories.get(&id).is_some() && road.is_online(id);
            road.machines.iter().all(|(id, _)| is_there(*id)).then_some(())
        };
        road.until("all are online", all_there).await;
        road
    }

    async fn plug_in(&self, number: u16, sim: &Arc<SimMachine>, ca: Digest) {
        let issue = |draft: &mut muster_controller::fleet::Draft| ticket::issue(draft, Grant::bearer("ber1", 60_000));
        let made = self.server.fleet.change(Author::controller(), issue).await.expect("a ticket");
        let controller = match number {
            1 => relay(self.server.agents[0], self.server.fleet.clone(), self.loses.clone()).await,
            _ => self.server.agents[0],
        };
        let (host, port) = (controller.ip().to_string(), controller.port());
        let options = Options {
            controllers: vec![Endpoint { host, port }],
            ca,
            leave: Some((&made).into()),
            time_unix_s: 0,
            lease: None,
            handed: None,
            manage: Manage::ALL,
            keep: Keep::memory(),
            boot: BootId::from_bytes([number as u8; 16]),
            refused: WhenRefused::End,
            pace: AgentPace { backoff_first: Duration::from_millis(20), ..AgentPace::default() },
        };
        tokio::spawn(muster_agent::run(options, sim.clone()));
    }

    fn is_online(&self, id: MachineId) -> bool {
        matches!(self.server.sessions.presence(id), Presence::Online(_))
    }

    /// Waits until the durable state, with who is online, has it.
    async fn until<T>(&self, what: &str, find: impl Fn(&State) -> Option<T>) -> T {
        let look = async {
            // Presence is no part of the state, so it is looked at again now and then.
            let mut again = tokio::time::interval(Duration::from_millis(50));
            loop {
                if let Some(found) = find(&self.server.fleet.state()) {
                    return found;
                }
                again.tick().await;
            }
        };
        let found = tokio::time::timeout(DEADLINE, look).await;
        found.unwrap_or_else(|_| {
            let state = self.server.fleet.state();
            let events: Vec<String> = state.events.iter().map(|e| format!("{} {}", e.kind, e.text)).collect();
            panic!("not in time: {what}\n{}", events.join("\n"))
        })
    }

    /// Rolls static addresses that begin like this out, with this gateway, and answers the rollout when it is over.
    async fn rolls_out(&self, addresses: &str, gateway: &str) -> Rollout {
        let template = format!(
            "network:\n  ethernets:\n    lan:\n      match: {{macaddress: \"{{{{ primary.mac }}}}\"}}\n      \
             addresses: [\"{addresses}.{{{{ labels.n }}}}/16\"]\n      routes: [{{to: default, via: {gateway}}}]\n"
        );
        self.rolls(&template).await
    }

    /// Rolls a template out over all machines, and answers the rollout when it is over.
    async fn rolls(&self, template: &str) -> Rollout {
        let machines = prepare(&self.server.fleet.state(), &Selector::default(), template).expect("it is right");
        let pace = Pace { canary: 1, wave: WaveSize::Percent(50), soak_ms: 500, max_failures: 0 };
        let wish = Wish { selector: "all machines".into(), template: Digest::of(template.as_bytes()), pace, machines };
        let sessions = self.server.sessions.clone();
        let online = move |id| matches!(sessions.presence(id), Presence::Online(_));
        let created = create(&self.server.fleet, Author::controller(), None, wish, online).await;
        let Ok(Outcome::Done(number)) = created else { panic!("{created:?}") };
        let over = |state: &State| state.rollouts.get(&number).filter(|rollout| rollout.state.is_ended()).cloned();
        self.until("the rollout is over", over).await
    }

    /// What each machine's kernel says of its first NIC, in the order of their numbers.
    fn addresses(&self) -> Vec<String> {
        let of = |sim: &SimMachine| {
            let link = sim.observe().expect("observed").network.links.remove(0);
            link.addresses.into_iter().map(|address| address.net.to_string()).collect::<Vec<_>>().join(" ")
        };
        self.machines.iter().map(|(_, sim)| of(sim)).collect()
    }
}

/// Carries a machine's packets to the controller and back, and loses some. Answers where it listens.
async fn relay(controller: SocketAddr, fleet: Fleet, loses: Arc<AtomicUsize>) -> SocketAddr {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let front = Arc::new(bind().await.expect("a port"));
    let address = front.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut backs, mut packet) = (HashMap::new(), vec![0; 1 << 16]);
        loop {
            let Ok((length, from)) = front.recv_from(&mut packet).await else { continue };
            if let Entry::Vacant(place) = backs.entry(from) {
                let back = Arc::new(bind().await.expect("a port"));
                back.connect(controller).await.expect("an address");
                tokio::spawn(brings_back(back.clone(), front.clone(), from, fleet.clone(), loses.clone()));
                place.insert(back);
            }
            let _ = backs[&from].send(&packet[..length]).await;
        }
    });
    address
}

async fn brings_back(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    to: SocketAddr,
    fleet: Fleet,
    loses: Arc<AtomicUsize>,
) {
    let mut packet = vec![0; 1 << 16];
    loop {
        let Ok(length) = back.recv(&mut packet).await else { continue };
        // What is answered is durable before, so that no answer passes.
        let is_open = fleet.state().proven.iter().next().is_some();
        if !is_open || loses.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            let _ = front.send_to(&packet[..length], to).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_gateway_ends_with_the_canary_and_the_right_one_reaches_every_machine() {
    let road = Road::open().await;
    let before = road.addresses();

    let stopped = road.rolls_out("10.77.9", "10.77.0.99").await;
    let RolloutState::Stopped { why } = &stopped.state else { panic!("{stopped:?}") };
    assert!(why.starts_with("m1: reverted: "), "{why}");
    let state = road.server.fleet.state();
    let generation = |id: &MachineId| state.machines.get(id).expect("there").generation;
    let generations: Vec<_> = road.machines.iter().map(|(id, _)| generation(id)).collect();
    assert_eq!(generations, [1, 0, 0, 0, 0, 0].map(Generation), "no other machine was given anything");
    let is_waiting = |state: &MemberState| matches!(state, MemberState::Waiting { .. });
    assert_eq!(members(&state, stopped.number).filter(|member| is_waiting(&member.state)).count(), 5);
    assert_eq!(road.addresses(), before, "the canary is as it was, and so is every other machine");

    let finished = road.rolls_out("10.77.9", "10.77.0.1").await;
    assert_eq!(finished.state, RolloutState::Finished);
    let expected: Vec<String> = (1..=COUNT).map(|n| format!("10.77.9.{n}/16")).collect();
    assert_eq!(road.addresses(), expected);
    assert!(road.machines.iter().all(|(id, _)| road.is_online(*id)));
    let state = road.server.fleet.state();
    let is_confirmed = |state: &MemberState| matches!(state, MemberState::Confirmed { .. });
    assert!(members(&state, finished.number).all(|member| is_confirmed(&member.state)));
    drop(state);
    road.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_hears_no_answer_to_its_confirmation_stops_the_rollout_and_is_known_to_be_as_it_was() {
    let road = Road::open().await;
    let (canary, _) = road.machines[0];
    let expected = |addresses: &str| (1..=COUNT).map(|n| format!("{addresses}.{n}/16")).collect::<Vec<_>>();
    let confirmed = |state: &State| state.confirmed.get(&canary).map(|record| record.generation);

    // It asks again until it hears one.
    road.loses.store(2, Relaxed);
    let finished = road.rolls_out("10.77.8", "10.77.0.1").await;
    assert_eq!((finished.state, road.loses.load(Relaxed)), (RolloutState::Finished, 0));
    assert_eq!(road.addresses(), expected("10.77.8"));
    assert_eq!(confirmed(&road.server.fleet.state()), Some(Generation(1)));

    // It hears none, and goes back; then the way is there again.
    road.loses.store(usize::MAX, Relaxed);
    let goes_back = async {
        road.until("it proves the new network", |state| state.proven.get(&canary).map(|_| ())).await;
        let is_back = |_: &State| (road.addresses() == expected("10.77.8")).then_some(());
        road.until("it is as it was", is_back).await;
        road.loses.swap(0, Relaxed)
    };
    let (stopped, left) = tokio::join!(road.rolls_out("10.77.9", "10.77.0.1"), goes_back);
    assert!(left < usize::MAX, "nothing was lost");
    let RolloutState::Stopped { why } = &stopped.state else { panic!("{stopped:?}") };
    assert!(why.starts_with("m1: reverted: "), "{why}");
    assert_eq!(road.addresses(), expected("10.77.8"));
    let state = road.server.fleet.state();
    assert_eq!(confirmed(&state), Some(Generation(1)), "what is handed over at the next boot is what it has");
    let said = &state.machines.get(&canary).expect("there").outcome;
    assert!(matches!(said, Progress::Reverted { generation: Generation(2), .. }), "{said:?}");
    let of_it = |event: &&muster_controller::fleet::record::Event| event.kind == "machine.confirmed";
    let told = state.events.iter().filter(of_it).filter(|event| event.text.starts_with("m1: ")).count();
    assert_eq!(told, 1, "what it never kept was never told as confirmed");
    drop(state);

    let finished = road.rolls_out("10.77.9", "10.77.0.1").await;
    assert_eq!(finished.state, RolloutState::Finished);
    assert_eq!(road.addresses(), expected("10.77.9"));
    assert_eq!(confirmed(&road.server.fleet.state()), Some(Generation(3)));
    road.server.stop().await;
}

/// Gives it a cable in its second NIC, by which alone it is reached.
fn is_reached_by_its_second_nic(sim: &SimMachine) {
    let network = sim.observe_network().expect("observed");
    let (address, route) = (network.links[0].addresses[0], network.routes[0].clone());
    let second = sim.pull_out("eth1");
    sim.put_in(&Link { carrier: Carrier::Present, ..second });
    let default = |link: &str| Route {
        link: link.into(),
        to: route.to,
        via: route.via,
        metric: route.metric,
        table: route.table,
        origin: route.origin,
        reach: Reach::Prefix,
    };
    for change in [
        Change::RemoveRoute(default("eth0")),
        Change::RemoveAddress { link: "eth0".into(), address },
        Change::SetAdmin { link: "eth1".into(), admin: Admin::Up },
        Change::AddAddress { link: "eth1".into(), address },
        Change::AddRoute(default("eth1")),
    ] {
        sim.by_hand(&change);
    }
}

/// A VLAN on a bond of all NICs, of which the one that carries the session is preferred.
const STACKED: &str = r#"
network:
  ethernets:
    first:
      match: {macaddress: "{{ primary.mac }}"}
{% for nic in nics %}{% if nic.mac != primary.mac %}
    other:
      match: {macaddress: "{{ nic.mac }}"}
{% endif %}{% endfor %}
  bonds:
    both: {interfaces: [first, other], parameters: {mode: active-backup, primary: first}}
  vlans:
    office:
      id: 42
      link: both
      addresses: ["{{ primary.addresses[0] }}"]
      routes: [{to: default, via: 10.77.0.1}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_puts_a_vlan_on_a_bond_beneath_the_session_changes_nothing_when_it_is_given_again() {
    let road = Road::open_with(is_reached_by_its_second_nic).await;
    let primaries = |state: &State| {
        let of = |(id, _): &(MachineId, _)| Some(state.inventories.get(id)?.primary?.to_string());
        road.machines.iter().map(of).collect::<Option<Vec<_>>>()
    };
    let before = road.until("all tell what carries their sessions", primaries).await;
    let second = |(_, sim): &(MachineId, Arc<SimMachine>)| sim.identity().macs.pop().expect("two NICs").to_string();
    assert_eq!(before, road.machines.iter().map(second).collect::<Vec<_>>());

    let finished = road.rolls(STACKED).await;
    assert_eq!(finished.state, RolloutState::Finished);
    let is_moved = |state: &State| {
        let told = |id: &MachineId| state.inventories.get(id)?.inventory.home.clone();
        road.machines.iter().all(|(id, _)| told(id).is_some_and(|home| home.link == "office")).then_some(())
    };
    road.until("all tell that it is the VLAN", is_moved).await;
    let state = road.server.fleet.state();
    let inventory = &state.inventories.get(&road.machines[0].0).expect("told").inventory;
    assert!(
        inventory.nics.iter().all(|nic| nic.addresses.is_empty()),
        "no NIC has the address any more: {inventory:?}"
    );
    assert_eq!(inventory.home.as_ref().map(|home| home.nics.len()), Some(2));
    assert_eq!(primaries(&state), Some(before));

    let again = prepare(&state, &Selector::default(), STACKED).expect("it is right");
    assert!(again.iter().all(|one| one.is_there), "{again:?}");
    let finished = road.rolls(STACKED).await;
    assert_eq!(finished.state, RolloutState::Finished);
    let generations = |state: &State| state.machines.iter().map(|machine| machine.generation).collect::<Vec<_>>();
    assert_eq!(generations(&road.server.fleet.state()), [Generation(1); COUNT as usize]);
    drop(state);
    road.server.stop().await;
}
