//! A controller's API without its listeners: the real router and fleet, a store in memory, machines that are made up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use futures_util::future::BoxFuture;
use muster_controller::api::{self, Alive, Api, CallError, Live, Presence, Session, Site};
use muster_controller::fleet::enrollment::{self, Seen};
use muster_controller::fleet::record::Role;
use muster_controller::fleet::ticket::{self, Grant};
use muster_controller::fleet::{Author, Fleet, access, machine};
use muster_controller::pki::Pki;
use muster_controller::store::MemoryStore;
use muster_protocol::enroll::Identity;
use muster_protocol::hello::Progress;
use muster_protocol::inventory::{Attachment, Carrier, Disk, Inventory, Medium, Nic, Transport};
use muster_protocol::to_agent::{Answer, Call};
use muster_protocol::{BootId, Digest, Mac, MachineId};
use serde_json::Value;
use tower::ServiceExt;

/// Where requests come from.
const FROM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 5555);

/// The boot of a made-up machine.
const BOOT: BootId = BootId::from_bytes([7; 16]);

/// What the made-up machines say.
#[derive(Default)]
pub struct Machines {
    online: Mutex<HashMap<MachineId, Session>>,
    /// What was asked, in order.
    pub asked: Mutex<Vec<Call>>,
    /// What is answered to the next question.
    pub answer: Mutex<Option<Answer>>,
}

impl Machines {
    /// A machine has a session from now on.
    pub fn come(&self, machine: MachineId) {
        let session = Session {
            since_unix_ms: 1_795_245_304_000,
            boot: BOOT,
            from: "192.0.2.7:40000".parse().expect("an address"),
            agent: "0.1.0".into(),
            progress: Progress::Idle,
        };
        self.online.lock().expect("no test panics inside").insert(machine, session);
    }
}

impl Live for Machines {
    fn presence(&self, machine: MachineId) -> Presence {
        let online = self.online.lock().expect("no test panics inside");
        online.get(&machine).cloned().map_or(Presence::Offline { since_unix_ms: None }, Presence::Online)
    }

    fn moves(&self) -> u64 {
        // They only come.
        self.online.lock().expect("no test panics inside").len() as u64
    }

    fn alive(&self, machine: MachineId) -> Alive {
        match self.presence(machine) {
            Presence::Online(_) => Alive::Yes,
            Presence::Offline { .. } => Alive::No,
        }
    }

    fn call(&self, machine: MachineId, call: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        let known = self.online.lock().expect("no test panics inside").contains_key(&machine);
        self.asked.lock().expect("no test panics inside").push(call);
        let answer = self.answer.lock().expect("no test panics inside").take();
        Box::pin(async move {
            if !known {
                return Err(CallError::Offline);
            }
            answer.ok_or(CallError::Unanswered("it is a made-up machine".into()))
        })
    }
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    /// A text in the body; empty where there is none.
    pub fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII")).unwrap_or_default()
    }

    /// Holds the answer against a problem's status, code and field.
    #[track_caller]
    pub fn refuses(&self, status: u16, code: &str, field: &str) {
        assert_eq!(self.status.as_u16(), status, "{:#}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!((self.text("/code"), self.text("/field")), (code, field), "{:#}", self.body);
        assert_eq!(self.body["status"], status);
        assert_eq!(self.text("/type"), format!("urn:muster:problem:{code}"));
        assert!(!self.text("/detail").is_empty() && !self.text("/title").is_empty());
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert!(self.status.is_success(), "{} {:#}", self.status, self.body);
        self
    }
}

pub struct Lab {
    pub fleet: Fleet,
    pub store: MemoryStore,
    pub machines: Arc<Machines>,
    pub router: Router,
    pub admin: String,
    pub operator: String,
    pub viewer: String,
    /// Holds images.
    pub files: tempfile::TempDir,
}

/// One request in the making.
pub struct Ask<'l> {
    lab: &'l Lab,
    method: Method,
    path: String,
    token: Option<String>,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    from: SocketAddr,
}

impl Lab {
    pub async fn new() -> Self {
        let store = MemoryStore::new();
        let (fleet, _) = Fleet::start(store.clone()).expect("an empty store loads");
        let machines = Arc::new(Machines::default());
        let files = tempfile::tempdir().expect("a temporary folder");
        let site = Site {
            controllers: vec![],
            agents_port: 8443,
            ticket_lifetime: Duration::from_secs(600),
            images: files.path().join("images"),
            started_unix_ms: 0,
        };
        let pki = Arc::new(Pki::open(files.path()).expect("a CA"));
        let api = Api { fleet: fleet.clone(), live: machines.clone(), pki, site: Arc::new(site) };
        let make = |name: &'static str, role| {
            let fleet = fleet.clone();
            async move {
                let made = fleet.change(Author::controller(), move |draft| access::create(draft, name, role, None));
                made.await.expect("made").1
            }
        };
        let admin = make("root", Role::Admin).await;
        let operator = make("olga", Role::Operator).await;
        let viewer = make("viola", Role::Viewer).await;
        Self { fleet, store, machines, router: api::router(api), admin, operator, viewer, files }
    }

    /// The holder of the token of this name, as the audit log has it.
    pub fn who(&self, name: &str) -> String {
        let state = self.fleet.state();
        access::author(state.tokens.iter().find(|token| token.name == name).expect("made with the lab"))
    }

    /// A machine that has enrolled and reported its inventory.
    pub async fn enrolled(&self, serial: &'static str) -> MachineId {
        let mac = Mac::from_bytes(Digest::of(serial.as_bytes()).as_bytes()[..6].try_into().expect("six bytes"));
        let identity = Identity {
            uuid: Some(Digest::of(serial.as_bytes()).as_bytes()[..16].try_into().expect("sixteen bytes")),
            system_serial: serial.into(),
            macs: vec![mac],
            ..Identity::default()
        };
        let enrolled = self.fleet.change(Author::controller(), move |draft| {
            let ticket = ticket::issue(draft, Grant::bearer("ber1", 60_000))?;
            let id = enrollment::enroll(draft, &ticket, identity, Seen::default(), ticket.digest())?.machine;
            let nic = Nic {
                name: "eth0".into(),
                mac,
                permanent_mac: mac,
                driver: "igb".into(),
                speed_mbps: Some(1000),
                carrier: Carrier::Present,
                pci: None,
                port_of: None,
                addresses: ["192.0.2.7/24", "fe80::1/64"].map(|net| net.parse().expect("a prefix")).to_vec(),
            };
            let disk = Disk {
                name: "sda".into(),
                size_bytes: 1 << 30,
                logical_sector: 512,
                physical_sector: 4096,
                medium: Medium::SolidState,
                attachment: Attachment::Fixed,
                transport: Transport::Ata,
                model: "D".into(),
                serial: Some(format!("DISK-{serial}")),
                wwn: None,
            };
            let mut inventory = Inventory { nics: vec![nic], disks: vec![disk], ..Inventory::default() };
            inventory.system.serial = serial.into();
            machine::inventory(draft, id, inventory)?;
            Ok(id)
        });
        enrolled.await.expect("enrolls")
    }

    /// A machine that is approved and online.
    pub async fn online(&self, serial: &'static str) -> MachineId {
        let id = self.enrolled(serial).await;
        let approved = self.fleet.change(Author::controller(), move |draft| {
            machine::approve(draft, id)?;
            machine::hello(draft, id, BOOT, Progress::Idle)
        });
        approved.await.expect("approved");
        self.machines.come(id);
        id
    }

    /// What the next question to a machine is answered.
    pub fn answers(&self, answer: Answer) {
        *self.machines.answer.lock().expect("no test panics inside") = Some(answer);
    }

    pub fn ask(&self, method: Method, path: impl Into<String>) -> Ask<'_> {
        let path = path.into();
        let path = if path.starts_with('/') { format!("{}{path}", api::PREFIX) } else { path };
        let token = Some(self.operator.clone());
        Ask { lab: self, method, path, token, headers: Vec::new(), body: Vec::new(), from: FROM }
    }

    pub async fn get(&self, path: impl Into<String>) -> Reply {
        self.ask(Method::GET, path).send().await
    }

    pub async fn post(&self, path: impl Into<String>, body: Value) -> Reply {
        self.ask(Method::POST, path).json(body).send().await
    }
}

impl Ask<'_> {
    pub fn token(mut self, token: Option<&str>) -> Self {
        self.token = token.map(str::to_owned);
        self
    }

    /// From another address than the others.
    pub fn from(mut self, address: &str) -> Self {
        self.from = SocketAddr::new(address.parse().expect("an address"), 5555);
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json(self, body: Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn request(self) -> Request<Body> {
        let mut request = Request::builder().method(self.method).uri(&self.path).header("host", "muster.example:8443");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        request.extension(ConnectInfo(self.from)).body(Body::from(self.body)).expect("a request")
    }

    pub async fn send(self) -> Reply {
        let router = self.lab.router.clone();
        let response = router.oneshot(self.request()).await.expect("routers do not fail");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 16 << 20).await.expect("the body comes whole");
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("JSON") };
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// The answer with its body still to come.
    pub async fn open(self) -> axum::response::Response {
        let router = self.lab.router.clone();
        router.oneshot(self.request()).await.expect("routers do not fail")
    }
}
