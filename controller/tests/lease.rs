//! Leases over the whole road: Cycle's calls in, the controller's one writer and its sessions, real QUIC, and real agents on
//! simulated machines.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use muster_agent::keep::Keep;
use muster_agent::machine::Machine as _;
use muster_agent::options::{Endpoint, Manage, Options, Pace, WhenRefused};
use muster_agent::sim::SimMachine;
use muster_controller::api::{Live, Presence};
use muster_controller::config::Config;
use muster_controller::documents;
use muster_controller::fleet::record::{HubRule, Lifecycle, Location, Machine, PlaceRule, Subnet};
use muster_controller::fleet::ticket::Grant;
use muster_controller::fleet::{Author, Draft, Refusal, State, credential, lease, location, machine, subnet, ticket};
use muster_controller::ial::check::door::Door;
use muster_controller::ial::check::{Check, Orders, Went};
use muster_controller::ial::{self, Envelope};
use muster_controller::server::Server;
use muster_protocol::observed::{Contents, Layers, Volume};
use muster_protocol::{BootId, Digest, DiskId, MachineId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tower::ServiceExt;

const DEADLINE: Duration = Duration::from_secs(60);

struct Road {
    server: Server,
    ial: Router,
    auth: Value,
    ca: Digest,
    data_folder: tempfile::TempDir,
}

impl Road {
    async fn open() -> Arc<Self> {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::with_data(data.path().into());
        let any = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        (config.listen.agents, config.listen.https, config.listen.boot) = (any.clone(), any.clone(), any);
        let server = Server::start(config).await.expect("starts");
        let online = ial::presence(server.sessions.clone());
        let declare = |draft: &mut Draft| {
            location::put(draft, Location { code: "ber1".into(), ..Location::default() })?;
            let subnet = Subnet {
                gateway: "203.0.113.1".parse().ok(),
                nameservers: vec!["203.0.113.1".parse().expect("an address")],
                quarantine_s: 0,
                ..Subnet::new("203.0.113.0/28".parse().expect("a prefix"), "ber1")
            };
            subnet::add(draft, subnet)?;
            credential::create(draft, "acme", HubRule::Any, PlaceRule::Anywhere)
        };
        let (record, secret) = server.fleet.change(Author::controller(), declare).await.expect("declared");
        let ca = CertificateDer::from_pem_file(data.path().join("ca.crt")).expect("the CA's certificate");
        Arc::new(Self {
            ial: ial::router(server.fleet.clone(), online, Envelope::Plain),
            auth: json!({ "api_key": record.key, "secret": secret }),
            ca: Digest::of(&ca),
            server,
            data_folder: data,
        })
    }

    async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Draft) -> Result<T, Refusal> + Send + 'static,
    ) -> T {
        self.server.fleet.change(Author::controller(), decide).await.expect("the fleet takes it")
    }

    /// Switches a machine on: each boot is an agent of its own, as from the boot medium.
    fn plug_in(self: &Arc<Self>, number: u16) -> Arc<SimMachine> {
        let sim = Arc::new(SimMachine::new(number));
        let (road, plugged) = (Arc::clone(self), Arc::clone(&sim));
        tokio::spawn(async move {
            for boot in 1_u8.. {
                let made = road.change(|draft| ticket::issue(draft, Grant::bearer("ber1", 60_000)));
                let mut id = [boot; 16];
                id[..2].copy_from_slice(&number.to_be_bytes());
                let options = Options {
                    controllers: vec![Endpoint {
                        host: road.server.agents[0].ip().to_string(),
                        port: road.server.agents[0].port(),
                    }],
                    ca: road.ca,
                    leave: Some((&made.await).into()),
                    time_unix_s: 0,
                    lease: None,
                    handed: None,
                    manage: Manage::ALL,
                    keep: Keep::memory(),
                    boot: BootId::from_bytes(id),
                    refused: WhenRefused::End,
                    pace: Pace { backoff_first: Duration::from_millis(20), ..Pace::default() },
                };
                muster_agent::run(options, plugged.clone()).await;
            }
        });
        sim
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

    fn is_online(&self, id: MachineId) -> bool {
        matches!(self.server.sessions.presence(id), Presence::Online(_))
    }

    /// The machine of this simulated box, once it is there with its inventory.
    async fn admit(&self, sim: &SimMachine) -> MachineId {
        let macs = sim.identity().macs;
        let known = |state: &State| {
            let machine = state.machines.iter().find(|m| m.identity.macs == macs)?;
            (state.inventories.get(&machine.id).is_some() && self.is_online(machine.id)).then_some(machine.id)
        };
        let id = self.until("a machine dials in", known).await;
        self.change(move |draft| machine::approve(draft, id)).await;
        id
    }

    async fn post(&self, path: &str, request: Value) -> Value {
        let body = json!({ "auth": self.auth, "request": request }).to_string();
        let request = Request::post(format!("/v1/{path}")).body(Body::from(body)).expect("a request");
        let response = self.ial.clone().oneshot(request).await.expect("answered");
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    async fn data(&self, path: &str, request: Value) -> Value {
        let answer = self.post(path, request).await;
        assert_eq!(answer["error"], Value::Null, "{path}");
        answer["data"].clone()
    }

    async fn provision(&self, cycle_server: &str) -> String {
        let models = self.data("infrastructure/provider/server-models", Value::Null).await;
        let model = models["models"][0]["provider"]["model_id"].clone();
        let order = json!({ "model_id": model, "location_id": "ber1", "cycle": { "server_id": cycle_server } });
        let data = self.data("infrastructure/server/provision", order).await;
        data["server_id"].as_str().expect("an id").to_owned()
    }

    /// What provision-status says once the server is ready.
    async fn identity(&self, server: &str) -> Value {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let data = self.data("infrastructure/server/provision-status", json!({ "server_id": server })).await;
            if data["provisioned"] == json!(true) {
                return data["auth"].clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "not provisioned in time");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn lifecycle(&self, id: MachineId) -> Lifecycle {
        self.server.fleet.state().machines.get(&id).expect("there").lifecycle.clone()
    }
}

fn addresses(sim: &SimMachine) -> Vec<String> {
    let network = sim.observe().expect("observed").network;
    let all = network.links.iter().flat_map(|link| link.addresses.iter());
    all.map(|address| address.net.to_string()).filter(|net| !net.starts_with("fe80")).collect()
}

fn boot_of(state: &State, id: MachineId) -> BootId {
    state.machines.get(&id).and_then(|m: &Machine| m.boot).expect("it said hello")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_prepared_on_its_machine_restarted_and_wiped() {
    let road = Road::open().await;
    let sim = road.plug_in(7);
    let id = road.admit(&sim).await;
    let server = road.provision("6516a1f2a6078e98982dbd92").await;
    let identity = road.identity(&server).await;
    let expected = json!({
        "uuid": "51000000-0000-0000-0000-000000000007", "initial_ips": ["203.0.113.2"],
        "mac_addr": sim.identity().macs[0].to_string(),
    });
    assert_eq!(identity, expected);
    assert_eq!(addresses(&sim), ["203.0.113.2/28"], "the static address took the place of the other one");
    let mounted = |sim: &SimMachine| {
        let disks = sim.observe().expect("observed").disks;
        let partitions = disks.iter().flat_map(|disk| disk.partitions.iter());
        let contents = partitions.filter_map(|partition| match &partition.contents {
            Contents::Filesystem(filesystem) => Some((filesystem.label.clone(), filesystem.mounted_at.clone())),
            _ => None,
        });
        contents.collect::<Vec<_>>()
    };
    assert_eq!(mounted(&sim), [("muster-data".to_owned(), "/srv/data".to_owned())]);

    let first = boot_of(&road.server.fleet.state(), id);
    for _ in 0..3 {
        assert_eq!(road.data("infrastructure/server/restart", json!({ "server_id": server })).await, json!(true));
    }
    let back = |state: &State| (boot_of(state, id) != first && road.is_online(id)).then_some(());
    road.until("the machine is back", back).await;
    assert_eq!(sim.powered().len(), 1, "three wishes for one boot are one reboot");
    assert_eq!(road.identity(&server).await, expected);
    let settled = |state: &State| state.operations.iter().all(|o| o.state.is_ended()).then_some(());
    road.until("nothing is left to do", settled).await;

    for _ in 0..2 {
        assert_eq!(road.data("infrastructure/server/decommission", json!({ "server_id": server })).await, json!(true));
    }
    let free = |state: &State| (road.lifecycle(id) == Lifecycle::Available && state.leases.is_empty()).then_some(());
    road.until("the machine is available again", free).await;
    assert!(road.server.fleet.state().addresses.is_empty());
    let disks = sim.observe().expect("observed").disks;
    assert!(disks.iter().all(|disk| disk.contents == Contents::Blank && disk.partitions.is_empty()));

    // What was given back can be had again.
    road.until("the machine is back", |_| road.is_online(id).then_some(())).await;
    let next = road.provision("6516a1f2a6078e98982dbd92").await;
    assert_ne!(next, server);
    assert_eq!(road.identity(&next).await["initial_ips"], json!(["203.0.113.2"]));
}

/// What a lease's first disk carries, and on the second one a mirror of its partitions, encrypted, with a group in it.
const STACK: &str = "storage:
  disks:
    - {device: 'serial:SIM00011A', partitions: [{number: 1, label: muster-data}]}
    - {device: 'serial:SIM00011B', partitions: [{number: 1, label: left, size_mib: 1024}, {number: 2, label: right, size_mib: 1024}]}
  raid:
    - {name: pair, level: raid1, devices: [/dev/disk/by-partlabel/left, /dev/disk/by-partlabel/right]}
  luks:
    - {name: vault, device: /dev/md/pair}
  volume_groups:
    - {name: office, physical_volumes: [/dev/mapper/vault], logical_volumes: [{name: books, size_mib: 256}]}
  filesystems:
    - {device: /dev/disk/by-partlabel/muster-data, format: ext4, label: muster-data, path: /srv/data}
    - {device: /dev/office/books, format: ext4, label: books, path: /srv/books}
";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stacked_on_the_disks_of_a_lease_is_taken_down_and_wiped_and_its_key_destroyed() {
    let road = Road::open().await;
    let sim = road.plug_in(11);
    let id = road.admit(&sim).await;
    let server = road.provision("6516a1f2a6078e98982dbd92").await;
    road.identity(&server).await;
    let stack = documents::parse(STACK).unwrap_or_else(|problems| panic!("{}", problems[0]));
    road.change(move |draft| machine::set_desired(draft, id, stack, None, None)).await;
    let layers = || sim.observe().expect("observed").layers;
    let stands = |state: &State| {
        let at = |volume: &Volume| volume.contents.as_ref()?.mounted_at().map(str::to_owned);
        let is_mounted = |volume: &Volume| at(volume).as_deref() == Some("/srv/books");
        let is_done = state.operations.iter().all(|operation| operation.state.is_ended());
        (is_done && layers().volumes.iter().any(is_mounted)).then(|| state.volume_keys.iter().count())
    };
    assert_eq!(road.until("all of it stands", stands).await, 1, "of one encrypted volume");

    assert_eq!(road.data("infrastructure/server/decommission", json!({ "server_id": server })).await, json!(true));
    let free = |state: &State| (road.lifecycle(id) == Lifecycle::Available && state.leases.is_empty()).then_some(());
    road.until("the machine is available again", free).await;
    assert_eq!(layers(), Layers::default());
    let disks = sim.observe().expect("observed").disks;
    assert!(disks.iter().all(|disk| disk.contents == Contents::Blank && disk.partitions.is_empty()), "{disks:?}");
    assert_eq!(road.server.fleet.state().volume_keys.iter().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_disk_carries_something_is_left_as_it_is_and_nothing_is_provisioned_on_it() {
    let road = Road::open().await;
    let sim = road.plug_in(9);
    let before = addresses(&sim);
    let disks: Vec<DiskId> = sim.inventory().disks.iter().filter_map(|disk| disk.id()).collect();
    disks.iter().for_each(|disk| sim.put_filesystem(disk, "ntfs"));
    let id = road.admit(&sim).await;
    let server = road.provision("6516a1f2a6078e98982dbd92").await;
    let refused = |state: &State| {
        let machine = state.machines.get(&id)?;
        (machine.lifecycle == Lifecycle::Available && state.addresses.is_empty()).then_some(machine.outcome.clone())
    };
    let outcome = road.until("the agent refuses", refused).await;
    assert!(format!("{outcome:?}").contains("Refused"), "{outcome:?}");
    assert_eq!(addresses(&sim), before);
    // A controller that has just started waits a minute before it looks elsewhere; here nobody waits.
    road.change(|draft| lease::reconcile(draft, &|_| true)).await;
    let answer = road.post("infrastructure/server/provision-status", json!({ "server_id": server })).await;
    assert_eq!(answer["error"]["code"], "422.max-exceeded", "{answer}");
    assert!(sim.observe().expect("observed").disks.iter().any(|d| matches!(d.contents, Contents::Filesystem(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mock_cycle_leases_real_agents_over_https_and_finds_nothing() {
    let road = Road::open().await;
    for number in [7, 8] {
        let sim = road.plug_in(number);
        road.admit(&sim).await;
    }
    let models = road.data("infrastructure/provider/server-models", Value::Null).await;
    // Its disks are too small for Cycle, so it has to be named.
    let model = models["models"][0]["provider"]["model_id"].as_str().map(str::to_owned);
    let ca = CertificateDer::from_pem_file(road.data_folder.path().join("ca.crt")).expect("the CA's certificate");
    let make = |draft: &mut Draft| credential::create(draft, "other", HubRule::Any, PlaceRule::Anywhere);
    let (other, secret) = road.change(make).await;
    let check = Check {
        second: Some(json!({ "api_key": other.key, "secret": secret })),
        door: Door::new(&format!("https://{}", road.server.https[0]), vec![ca]).expect("a URL"),
        auth: road.auth.clone(),
        orders: Some(Orders { model, most: 3, ..Orders::default() }),
        poll: Duration::from_millis(100),
        wait: DEADLINE,
    };
    let run = move || check.run(&AtomicBool::new(false), &mut |_| {}).expect("random bytes");
    let report = tokio::task::spawn_blocking(run).await.expect("no panic");
    let held: Vec<_> = report.lines.iter().filter(|line| line.went != Went::Passed).collect();
    let held: Vec<_> = held.iter().map(|line| (line.case.name, &line.went)).collect();
    assert!(held.is_empty(), "{held:#?}");
    let free = |state: &State| (state.leases.is_empty() && state.addresses.is_empty()).then_some(());
    road.until("everything was given back", free).await;
}
