//! An IAL server of a few lines, right by itself, with one fault at a time.
//!
//! Written from the facts alone, on nothing of ours: what the check finds right in it is right for others too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What it does wrong, or otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Bare payloads: no fault, another reading.
    Bare,
    /// Only GET for the status, and only its list's name: no fault either.
    FewReadings,
    RedirectsSlashes,
    AnybodyIsValid,
    RefusesUnknownKeys,
    LacksKey,
    TextForNumber,
    NumberForThroughput,
    ModelsElsewhere,
    TwoLocationsOfOneId,
    IdsChange,
    EnvelopeNowAndThen,
    NoBodyLimit,
    DeepBodiesPanic,
    ErrorsInAnotherShape,
    ErrorsWithStatus200,
    StrangersAreServed,
    UnknownServerIsPending,
    ConfigureChanges,
    ListsWhatItHasNot,
    OrdersAgainAreOthers,
    ZeroIsAKey,
    NeverReady,
    FlipsBack,
    IdentityChanges,
    IpsWithPrefix,
    NothingToKnowItBy,
    ChecksAnotherServer,
    RacesWithItself,
    DoubleLease,
    RestartForgets,
    DecommissionOnce,
    RisesAgain,
    KeepsMachines,
    PrefixMissing,
    OtherNetwork,
    DoubleAddress,
    PoolsHaveNoKey,
    ReleaseOnce,
    LateReleaseTakes,
    HubsShareIds,
    HubsAreBlind,
    HubsActForOthers,
}

pub const SECRET: &str = "s3cr3t-value-01";
/// Another hub's.
pub const SECOND: &str = "s3cr3t-value-02";

/// How many machines it has.
const MACHINES: usize = 3;

/// How often a server is looked at until it is ready.
const LOOKS: u32 = 2;

#[derive(Default)]
struct World {
    servers: BTreeMap<String, Server>,
    /// Pool, or a number where it has none, to the last byte of the address and its assignment.
    pools: BTreeMap<String, (u8, u32)>,
    next: u32,
    answers: u32,
    /// Of the locations.
    reads: u32,
}

#[derive(Clone)]
struct Server {
    hub: String,
    key: String,
    machine: usize,
    looks: u32,
    ended: bool,
}

#[derive(Clone)]
struct Wrong {
    fault: Fault,
    world: Arc<Mutex<World>>,
}

/// Serves it until the test ends.
pub async fn serve(fault: Fault) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let wrong = Wrong { fault, world: Arc::default() };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer).with_state(wrong)).await });
    address
}

type Answer = Result<Value, (u16, &'static str)>;

async fn answer(State(wrong): State<Wrong>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if wrong.fault == Fault::RedirectsSlashes && path.ends_with('/') {
        let to = path.trim_end_matches('/').to_owned();
        return (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)]).into_response();
    }
    let limit = if wrong.fault == Fault::NoBodyLimit { usize::MAX } else { 64 << 10 };
    let answer = match to_bytes(body, limit).await {
        Err(_) => Err((400, "400.invalid-syntax")),
        Ok(bytes) => {
            let is_blind = wrong.looks_before_it_waits(&path, &bytes).await;
            wrong.act(&head.method, &path, &bytes, is_blind)
        }
    };
    wrong.dress(answer)
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panics")
    }

    /// Whether this order was unknown when it was looked for, some time before it is acted upon.
    async fn looks_before_it_waits(&self, path: &str, bytes: &[u8]) -> bool {
        if !self.is(Fault::RacesWithItself) || !path.ends_with("/provision") {
            return false;
        }
        let order: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let key = order["request"]["cycle"]["server_id"].as_str().unwrap_or_default().to_owned();
        let is_blind = !self.world().servers.values().any(|server| server.key == key);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        is_blind
    }

    fn dress(&self, answer: Answer) -> Response {
        let count = {
            let mut world = self.world();
            world.answers += 1;
            world.answers
        };
        let bare = self.is(Fault::Bare) || self.is(Fault::EnvelopeNowAndThen) && count.is_multiple_of(7);
        let (status, body) = match answer {
            Ok(data) if bare => (200, data),
            Ok(data) => (200, json!({ "data": data, "error": null })),
            Err((status, _)) if self.is(Fault::ErrorsInAnotherShape) => (status, json!({ "message": "no" })),
            Err((status, code)) => {
                let http = if self.is(Fault::ErrorsWithStatus200) { 200 } else { status };
                (http, json!({ "data": null, "error": { "status": status, "code": code, "title": "No" } }))
            }
        };
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (StatusCode::from_u16(status).expect("a status"), kind, body.to_string()).into_response()
    }

    fn act(&self, method: &Method, path: &str, bytes: &[u8], is_blind: bool) -> Answer {
        let syntax = Err((400, "400.invalid-syntax"));
        let body: Value = match bytes {
            [] => Value::Null,
            bytes => match serde_json::from_slice(bytes) {
                Ok(body) => body,
                Err(_) if self.is(Fault::DeepBodiesPanic) && bytes.len() > 20_000 => return Err((500, "500.unknown")),
                Err(_) => return syntax,
            },
        };
        if !(body.is_object() || body.is_null()) || !(body["auth"].is_object() || body["auth"].is_null()) {
            return syntax;
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let name = parts.last().copied().unwrap_or_default();
        let reads = matches!(name, "locations" | "server-models" | "provision-status" | "provision-check");
        let is_few = self.is(Fault::FewReadings) && name.starts_with("provision-");
        if !(method == Method::POST || method == Method::GET && reads)
            || is_few && (name == "provision-check" || method == Method::POST)
        {
            return Err((404, "404.uri"));
        }
        let request = body.get("request").unwrap_or(&body);
        if !(request.is_object() || request.is_null()) {
            return syntax;
        }
        let hub = body["auth"]["secret"].as_str().unwrap_or_default();
        let is_known = [SECRET, SECOND].contains(&hub);
        if self.is(Fault::RefusesUnknownKeys) && body["auth"].get("key_id").is_some() {
            return syntax;
        }
        match name {
            "verify" => return Ok(json!({ "valid": is_known || self.is(Fault::AnybodyIsValid) })),
            "locations" => return Ok(self.locations()),
            "server-models" => return Ok(self.models()),
            "release" if body.get("request").is_none() => {}
            _ if !is_known && !self.is(Fault::StrangersAreServed) => return Err((401, "401.auth-invalid")),
            _ => {}
        }
        let text = |key: &str| match &request[key] {
            Value::String(text) if !text.is_empty() && text.len() < 256 && !text.contains(char::is_control) => {
                Ok(text.clone())
            }
            Value::Null => Err((422, "422.missing-argument")),
            _ => Err((422, "422.invalid-argument")),
        };
        let cycle = |key: &str| {
            let id = request["cycle"][key].as_str().unwrap_or_default();
            let is_key = id.chars().any(|c| c != '0') || !id.is_empty() && self.is(Fault::ZeroIsAKey);
            is_key.then(|| id.to_owned())
        };
        let is_others = |id: &str| self.world().servers.get(id).is_some_and(|server| server.hub != hub);
        let is_refused = is_others(request["server_id"].as_str().unwrap_or_default()) && is_known;
        if is_refused && name != "release" && !self.is(Fault::HubsActForOthers) {
            return Err((403, "403.wrong-hub"));
        }
        match name {
            "configure" => self.configure(&text("location_id")?),
            "provision" => {
                text("model_id")
                    .and_then(|model| if model == "m" { Ok(()) } else { Err((404, "404.infrastructure.model")) })?;
                self.provision(hub, cycle("server_id"), is_blind)
            }
            "provision-status" => self.status(&text("server_id")?),
            "provision-check" if self.is(Fault::ChecksAnotherServer) => self.status("srv-other"),
            "provision-check" => self.status(&text("server_id")?),
            "restart" => self.restart(&text("server_id")?),
            "decommission" => self.decommission(&text("server_id")?),
            "allocate" => self.allocate(&text("kind")?, &text("server_id")?, cycle("pool_id")),
            "release" => {
                text("kind")?;
                self.release(&text("ip_id")?, &text("ip_assignment_id")?)
            }
            _ => Err((404, "404.uri")),
        }
    }

    fn locations(&self) -> Value {
        let reads = {
            let mut world = self.world();
            world.reads += 1;
            world.reads
        };
        let suffix = if self.is(Fault::IdsChange) && reads > 4 { "x" } else { "" };
        let mut location = json!({
            "name": "Berlin", "geographic": null, "abbreviation": "BER", "annotations": {}, "compatible": true,
            "provider": { "location_id": format!("ber1{suffix}"), "code": "BER1", "availability_zones": ["a"] },
            "features": { "available": null, "supported": [] },
        });
        if self.is(Fault::LacksKey) {
            location["provider"].as_object_mut().expect("an object").remove("code");
        }
        let list = if self.is(Fault::TwoLocationsOfOneId) { vec![location.clone(), location] } else { vec![location] };
        json!({ "locations": list, "extra": null })
    }

    fn models(&self) -> Value {
        let count = if self.is(Fault::TextForNumber) { json!("1") } else { json!(1) };
        let throughput = if self.is(Fault::NumberForThroughput) { json!(10) } else { json!("10 Gbps") };
        let at = if self.is(Fault::ModelsElsewhere) { "ham1" } else { "ber1" };
        json!({
            "models": [{
                "name": "m", "drivers": null, "description": "", "compatible": null,
                "specs": {
                    "cpu": { "count": count, "cores": null, "threads": 2, "type": "x" }, "gpu": null,
                    "memory": { "size_gb": 8, "type": "DDR4" }, "storage": null,
                    "network": [{ "scope": "public", "type": "ethernet", "throughput": throughput }],
                    "features": { "raid": null, "hypervisor": null },
                },
                "provider": { "category": "c", "model_id": "m", "locations": [at], "availability_zones": null },
                "pricing": { "hourly": 0, "monthly": 0 },
            }],
            "extra": {},
        })
    }

    fn configure(&self, location: &str) -> Answer {
        if location != "ber1" {
            return Err((404, "404.infrastructure.location"));
        }
        let version = if self.is(Fault::ConfigureChanges) { self.world().answers } else { 1 };
        Ok(json!({ "configured": true, "version": version.to_string(), "configuration_latest": { "vlan": 7 } }))
    }

    fn provision(&self, hub: &str, key: Option<String>, is_blind: bool) -> Answer {
        let mut world = self.world();
        let is_own = |server: &Server| server.hub == hub;
        let same = |key: &String| {
            let is_same = |s: &Server| s.key == *key && !s.ended && (is_own(s) || self.is(Fault::HubsShareIds));
            world.servers.iter().find(|(_, s)| is_same(s)).map(|(id, _)| id.clone())
        };
        let again = match &key {
            Some(key) if !self.is(Fault::OrdersAgainAreOthers) && !is_blind => same(key),
            _ => None,
        };
        let id = match again {
            Some(id) => id,
            None => {
                let taken: Vec<usize> = {
                    let seen = |s: &&Server| !s.ended && (is_own(s) || !self.is(Fault::HubsAreBlind));
                    world.servers.values().filter(seen).map(|s| s.machine).collect()
                };
                let free = (0..MACHINES).find(|machine| !taken.contains(machine));
                let is_kept = self.is(Fault::KeepsMachines) && world.servers.len() >= 3;
                let machine = match free {
                    Some(_) if is_kept || self.is(Fault::ListsWhatItHasNot) => return Err((422, "422.max-exceeded")),
                    Some(free) => free,
                    None if self.is(Fault::DoubleLease) => MACHINES - 1,
                    None => return Err((422, "422.max-exceeded")),
                };
                world.next += 1;
                let id = format!("srv-{}", world.next);
                let key = key.unwrap_or_default();
                world.servers.insert(id.clone(), Server { hub: hub.to_owned(), key, machine, looks: 0, ended: false });
                id
            }
        };
        Ok(json!({ "server_id": id, "location_modified": false, "extra": { "rack": 1 } }))
    }

    fn status(&self, id: &str) -> Answer {
        let mut world = self.world();
        let pending = |id: &str| {
            json!({
                "server_id": id, "provisioned": false, "extra": null,
                "auth": { "uuid": null, "initial_ips": null, "mac_addr": null },
            })
        };
        let Some(server) = world.servers.get_mut(id).filter(|server| !server.ended) else {
            let is_pending =
                self.is(Fault::UnknownServerIsPending) || self.is(Fault::ChecksAnotherServer) && id == "srv-other";
            return if is_pending { Ok(pending(id)) } else { Err((404, "404.infrastructure.server")) };
        };
        server.looks += 1;
        let is_flipped = self.is(Fault::FlipsBack) && server.looks == LOOKS + 2;
        if server.looks <= LOOKS || is_flipped || self.is(Fault::NeverReady) {
            return Ok(pending(id));
        }
        let machine = server.machine;
        let last = if self.is(Fault::IdentityChanges) { server.looks } else { 0 };
        let prefix = if self.is(Fault::IpsWithPrefix) { "/24" } else { "" };
        let mut auth = json!({
            "uuid": format!("4c4c4544-0042-3510-8052-b4c04f4e31{machine:02x}"),
            "initial_ips": [format!("198.51.{last}.{}{prefix}", machine + 2)],
            "mac_addr": format!("3c:ec:ef:12:34:{machine:02x}"),
        });
        if self.is(Fault::NothingToKnowItBy) {
            auth = json!({ "uuid": null, "initial_ips": null, "mac_addr": null });
        }
        Ok(json!({ "server_id": id, "provisioned": true, "auth": auth, "extra": { "rack": 1 } }))
    }

    fn restart(&self, id: &str) -> Answer {
        let mut world = self.world();
        let server = world.servers.get_mut(id).filter(|server| !server.ended || self.is(Fault::RisesAgain));
        let server = server.ok_or((404, "404.infrastructure.server"))?;
        if self.is(Fault::RestartForgets) && server.looks > LOOKS {
            server.looks = 0;
        }
        Ok(json!(true))
    }

    fn decommission(&self, id: &str) -> Answer {
        let mut world = self.world();
        match world.servers.get_mut(id) {
            Some(server) if server.ended && self.is(Fault::DecommissionOnce) => Ok(json!(false)),
            Some(server) => {
                server.ended = true;
                Ok(json!(true))
            }
            None => Ok(json!(true)),
        }
    }

    fn allocate(&self, kind: &str, server: &str, pool: Option<String>) -> Answer {
        let mut world = self.world();
        match kind {
            "ipv4" => {}
            "ipv6" => return Err((422, "422.not-compatible")),
            _ => return Err((422, "422.invalid-argument")),
        }
        if world.servers.get(server).is_none_or(|server| server.ended) {
            return Err((404, "404.infrastructure.server"));
        }
        world.next += 1;
        let number = world.next;
        let pool = pool.filter(|_| !self.is(Fault::PoolsHaveNoKey)).unwrap_or_else(|| format!("none-{number}"));
        let free = (10..20_u8).find(|last| !world.pools.values().any(|(taken, _)| taken == last));
        let last = if self.is(Fault::DoubleAddress) { Some(10) } else { free };
        let (last, assignment) = match world.pools.get(&pool) {
            Some(known) => *known,
            None => (last.ok_or((422, "422.max-exceeded"))?, number),
        };
        world.pools.insert(pool, (last, assignment));
        let prefix = if self.is(Fault::PrefixMissing) { "" } else { "/32" };
        let network = if self.is(Fault::OtherNetwork) { "192.0.2.0/28" } else { "203.0.113.0/24" };
        let assignment = if self.is(Fault::LateReleaseTakes) { "asg".to_owned() } else { format!("asg-{assignment}") };
        Ok(json!({
            "ip_id": format!("203.0.113.{last}"), "ip_assignment_id": assignment,
            "cidr": format!("203.0.113.{last}{prefix}"), "gateway": "203.0.113.1", "netmask": "255.255.255.0",
            "network": network, "nat_private_ip": null,
        }))
    }

    fn release(&self, ip: &str, assignment: &str) -> Answer {
        let mut world = self.world();
        let is_it = |(last, number): &(u8, u32)| {
            format!("203.0.113.{last}") == ip
                && (self.is(Fault::LateReleaseTakes) || format!("asg-{number}") == assignment)
        };
        let before = world.pools.len();
        world.pools.retain(|_, known| !is_it(known));
        if self.is(Fault::ReleaseOnce) && world.pools.len() == before && ip != "192.0.2.77" {
            return Ok(json!(false));
        }
        Ok(json!(true))
    }
}
