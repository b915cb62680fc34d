//! A site with machines that do what their agents would, and a client that sends what Cycle might.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use muster_controller::fleet::enrollment::{self, Seen};
use muster_controller::fleet::record::{
    DesiredState, Geographic, HubRule, Lifecycle, Location, Machine, Operation, PlaceRule, Subnet,
};
use muster_controller::fleet::ticket::{self, Grant};
use muster_controller::fleet::{Author, Draft, Fleet, Refusal, State};
use muster_controller::fleet::{credential, location, machine, operation, subnet};
use muster_controller::ial::{self, Envelope, Present, There};
use muster_controller::store::MemoryStore;
use muster_protocol::enroll::Identity;
use muster_protocol::hello::{Progress, Times};
use muster_protocol::inventory::{
    Attachment, Carrier, Cpu, Dimm, Disk, Inventory, Medium, Memory, Nic, System, Transport,
};
use muster_protocol::to_controller::Work;
use muster_protocol::{BootId, Mac, MachineId};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::described;

pub const HUB_ID: &str = "651586fca6078e98982dbd90";

/// See the module.
pub struct Site {
    pub fleet: Fleet,
    pub router: Router,
    pub machines: Vec<MachineId>,
    pub auth: Value,
    /// What the router says of itself; every answer is held against it.
    pub openapi: Value,
    pub offline: Arc<Offline>,
    boots: Mutex<u8>,
}

/// Who is not there; everybody else is.
#[derive(Default)]
pub struct Offline {
    gone: Mutex<BTreeSet<MachineId>>,
    moves: AtomicU64,
    looks: AtomicU64,
}

impl Offline {
    /// How often it was asked about a machine.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<MachineId>) -> bool) {
        change(&mut self.gone.lock().expect("no panics"));
        self.moves.fetch_add(1, Ordering::SeqCst);
    }
}

impl Present for Offline {
    fn there(&self, id: MachineId) -> There {
        self.looks.fetch_add(1, Ordering::SeqCst);
        There::while_nobody_moves(!self.gone.lock().expect("no panics").contains(&id))
    }

    fn moves(&self) -> u64 {
        self.moves.load(Ordering::SeqCst)
    }
}

/// What came back. Two are the same where they say the same: headers name the request and are each one's own.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        (self.status, &self.body) == (other.status, &other.body)
    }
}

impl Site {
    /// `ber1` with a subnet of each family and this many machines of one model; `ham1` with nothing but IPv4 addresses.
    pub async fn with(machines: u8) -> Self {
        Self::serving(machines, Envelope::Plain).await
    }

    pub async fn serving(machines: u8, envelope: Envelope) -> Self {
        let (fleet, _ended) = Fleet::start(MemoryStore::new()).expect("starts");
        let build = move |draft: &mut Draft| {
            declare(draft)?;
            let ids = (1..=machines).map(|n| member(draft, n)).collect::<Result<Vec<_>, _>>()?;
            let (record, secret) =
                credential::create(draft, "acme", HubRule::Only(HUB_ID.into()), PlaceRule::Anywhere)?;
            Ok((ids, record.key, secret))
        };
        let (machines, key, secret) = fleet.change(Author::controller(), build).await.expect("built");
        let offline = Arc::new(Offline::default());
        let mut site = Self {
            router: ial::router(fleet.clone(), offline.clone(), envelope),
            fleet,
            openapi: Value::Null,
            machines,
            auth: json!({ "api_key": key, "secret": secret, "cycle": { "hub_name": "Acme", "hub_id": HUB_ID } }),
            offline,
            boots: Mutex::new(100),
        };
        site.openapi = send(&site.router, "GET", "/v1/openapi.json", &[], "").await.body;
        site
    }

    pub fn state(&self) -> Arc<State> {
        self.fleet.state()
    }

    pub fn leave(&self, id: MachineId) {
        self.offline.change(|gone| gone.insert(id));
    }

    pub fn come_back(&self, id: MachineId) {
        self.offline.change(|gone| gone.remove(&id));
    }

    pub async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Draft) -> Result<T, Refusal> + Send + 'static,
    ) -> T {
        self.fleet.change(Author::controller(), decide).await.expect("the fleet takes it")
    }

    /// Any request.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let reply = send(&self.router, method, path, headers, body).await;
        if reply.body != self.openapi {
            described::hold(&self.openapi, method, path, None, &reply);
        }
        reply
    }

    /// What Cycle sends: `request` beside its credentials.
    pub async fn post(&self, path: &str, request: Value) -> Reply {
        self.json("POST", path, &json!({ "auth": self.auth, "request": request })).await
    }

    pub async fn json(&self, method: &str, path: &str, body: &Value) -> Reply {
        let reply = send(&self.router, method, path, &[("content-type", "application/json")], body.to_string()).await;
        described::hold(&self.openapi, method, path, Some(body), &reply);
        reply
    }

    /// The `data` of a call that must succeed.
    pub async fn data(&self, path: &str, request: Value) -> Value {
        let reply = self.post(path, request).await;
        assert_eq!((reply.status, &reply.body["error"]), (StatusCode::OK, &Value::Null), "{path}: {}", reply.body);
        reply.body["data"].clone()
    }

    pub async fn model(&self) -> String {
        let data = self.data("/v1/infrastructure/provider/server-models", Value::Null).await;
        data["models"][0]["provider"]["model_id"].as_str().expect("an id").to_owned()
    }

    /// Orders a server; answers its id.
    pub async fn provision(&self, cycle_server: &str) -> String {
        let data = self.data("/v1/infrastructure/server/provision", self.order(cycle_server).await).await;
        data["server_id"].as_str().expect("an id").to_owned()
    }

    pub async fn order(&self, cycle_server: &str) -> Value {
        json!({
            "hostname": "srv-acme-01.example.net", "model_id": self.model().await, "location_id": "ber1",
            "zone_id": "ber1-a", "model_features": { "raid": null, "hypervisor": true }, "provision_options": null,
            "location_configuration": {}, "cycle": cycle(cycle_server),
        })
    }

    /// Orders a server and has its agent confirm.
    pub async fn server(&self, cycle_server: &str) -> String {
        let id = self.provision(cycle_server).await;
        self.confirm().await;
        id
    }

    /// Every agent confirms what is desired of its machine.
    pub async fn confirm(&self) {
        let confirm = |draft: &mut Draft| {
            let desired: Vec<DesiredState> = draft.state().desired.iter().cloned().collect();
            desired.into_iter().try_for_each(|d| {
                machine::confirm(draft, d.machine, d.generation, d.digest, Times::default())?;
                machine::progress(draft, d.machine, &Progress::Confirmed { generation: d.generation })
            })
        };
        self.change(confirm).await;
    }

    /// Every agent that has something to wipe or to reboot for does it and comes back.
    pub async fn work(&self) {
        let boot = {
            let mut boots = self.boots.lock().expect("no panics");
            *boots += 1;
            BootId::from_bytes([*boots; 16])
        };
        let work = move |draft: &mut Draft| {
            let open: Vec<Operation> =
                draft.state().operations.iter().filter(|o| operation::next_call(o).is_some()).cloned().collect();
            for o in open {
                operation::accepted(draft, o.id)?;
                let running = draft.need::<Machine>(&o.machine)?.boot.expect("it said hello");
                operation::work(draft, o.machine, o.id, running, Work::Done { receipts: Vec::new() })?;
                machine::hello(draft, o.machine, boot, Progress::Idle)?;
            }
            Ok(())
        };
        self.change(work).await;
    }

    /// Waits until the state has it.
    pub async fn until<T>(&self, deadline: std::time::Duration, mut find: impl FnMut(&State) -> Option<T>) -> T {
        let mut states = self.fleet.watch();
        let look = async {
            loop {
                if let Some(found) = find(&states.borrow_and_update()) {
                    return found;
                }
                states.changed().await.expect("the fleet runs");
            }
        };
        tokio::time::timeout(deadline, look).await.expect("in time")
    }

    pub fn lifecycle(&self, id: MachineId) -> Lifecycle {
        self.state().machines.get(&id).expect("there").lifecycle.clone()
    }
}

/// Sends any request to a router.
pub async fn send(router: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).expect("a verb")).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.into()).expect("a request");
    let response = router.clone().oneshot(request).await.expect("the router always answers");
    assert!(!response.status().is_redirection(), "{method} {path} is redirected");
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    Reply { status, headers, body: serde_json::from_slice(&bytes).expect("an answer is always JSON") }
}

/// Cycle's own words about a server.
pub fn cycle(server_id: &str) -> Value {
    json!({
        "server_id": server_id, "model_class": "general", "model_category": "bare-metal",
        "model_id": "6516a120a6078e98982dbd93", "location_id": "6516a0d1a6078e98982dbd91",
    })
}

pub fn pool(pool_id: Value) -> Value {
    json!({
        "pool_id": pool_id, "server_id": "6516a1f2a6078e98982dbd92", "server_model_class": "general",
        "server_model_category": "bare-metal", "location_id": "6516a0d1a6078e98982dbd91",
    })
}

pub fn allocation(server: &str, kind: &str, pool_id: Value) -> Value {
    json!({
        "kind": kind, "server_id": server, "location_id": "ber1", "zone_id": "ber1-a", "location_configuration": {},
        "cycle": pool(pool_id),
    })
}

fn declare(draft: &mut Draft) -> Result<(), Refusal> {
    let geographic = Geographic {
        latitude_micro: 52_520_000,
        longitude_micro: 13_405_000,
        city: "Berlin".into(),
        state: "BE".into(),
        country: "DE".into(),
        region: "europe".into(),
    };
    let berlin = Location {
        code: "ber1".into(),
        name: "Berlin DC1".into(),
        geographic,
        abbreviation: "BER".into(),
        zones: vec!["ber1-a".into()],
        annotations: [("floor".to_owned(), "2".to_owned())].into(),
        ..Location::default()
    };
    location::put(draft, berlin)?;
    location::put(draft, Location { code: "ham1".into(), ..Location::default() })?;
    for (net, gateway, at) in [
        ("203.0.113.0/28", "203.0.113.1", "ber1"),
        ("2001:db8:1::/64", "2001:db8:1::1", "ber1"),
        ("198.51.100.0/30", "198.51.100.1", "ham1"),
    ] {
        let subnet = Subnet {
            gateway: gateway.parse().ok(),
            nameservers: vec!["192.0.2.53".parse().expect("an address")],
            quarantine_s: 0,
            ..Subnet::new(net.parse().expect("a prefix"), at)
        };
        subnet::add(draft, subnet)?;
    }
    Ok(())
}

fn member(draft: &mut Draft, n: u8) -> Result<MachineId, Refusal> {
    let mac = Mac::from_bytes([0x3c, 0xec, 0xef, 0x12, 0x34, n]);
    let ticket = ticket::issue(draft, Grant::bearer("ber1", 1_000))?;
    let identity = Identity { macs: vec![mac], ..Identity::default() };
    let id = enrollment::enroll(draft, &ticket, identity, Seen::default(), ticket.digest())?.machine;
    machine::rename(draft, id, &format!("m{n}"))?;
    machine::approve(draft, id)?;
    machine::inventory(draft, id, inventory(n, mac))?;
    machine::hello(draft, id, BootId::from_bytes([n; 16]), Progress::Idle)?;
    Ok(id)
}

fn inventory(n: u8, mac: Mac) -> Inventory {
    let dimm = Dimm { size_bytes: 64 << 30, kind: "DDR4".into(), ..Dimm::default() };
    let disk = |letter: char| Disk {
        name: format!("nvme{letter}"),
        size_bytes: 960_197_124_096,
        logical_sector: 512,
        physical_sector: 4096,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Nvme,
        model: "D".into(),
        serial: Some(format!("S{n}{letter}")),
        wwn: None,
    };
    let nic = |name: &str, mac, carrier| Nic {
        name: name.into(),
        mac,
        permanent_mac: mac,
        driver: "ixgbe".into(),
        speed_mbps: Some(10_000),
        carrier,
        pci: None,
        port_of: None,
        addresses: Vec::new(),
    };
    let second = Mac::from_bytes([0x3c, 0xec, 0xef, 0x12, 0x35, n]);
    Inventory {
        system: System {
            uuid: Some([0x4c, 0x4c, 0x45, 0x44, 0, 0x42, 0x35, 0x10, 0x80, 0x52, 0xb4, 0xc0, 0x4f, 0x4e, 0x31, n]),
            ..System::default()
        },
        cpu: Cpu {
            model: "AMD EPYC 7313P 16-Core Processor".into(),
            sockets: 1,
            cores: 16,
            threads: 32,
            flags: vec!["svm".into()],
        },
        memory: Memory { total_bytes: 126 << 30, dimms: vec![dimm.clone(), dimm] },
        disks: vec![disk('a'), disk('b')],
        nics: vec![nic("eth0", mac, Carrier::Present), nic("eth1", second, Carrier::Absent)],
        ..Inventory::default()
    }
}
