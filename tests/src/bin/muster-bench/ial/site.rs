//! What is called: a controller as it is released, with simulated machines of several models at several locations, some of
//! them leased, and addresses in the hands of Cycle's pools.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_tests::controller::{Controller, PORT};
use muster_tests::cycle::Cycle;
use muster_tests::lab::text;
use muster_tests::simulated::Machines;
use muster_tests::{artifacts, eventually};
use serde_json::{Value, json};

use super::super::fleet;
use super::CLIENTS;

/// How many machines.
pub const MACHINES: u16 = 1000;

/// So many start at one time: of those that wait for approval one address has a quarter.
const AT_ONCE: u16 = 125;

/// Where they are.
const LOCATIONS: [&str; 4] = ["ber1", "fra1", "ham1", "muc1"];

/// Each location has so many zones.
const ZONES: u16 = 2;

/// How many kinds of machines there are.
const MODELS: u16 = 12;

/// Addresses in the hands of pools before anything is measured.
pub const POOLS: usize = 1000;

/// Operators' programs at one time.
const HANDS: usize = 8;

/// For what is asked of many machines.
const PATIENCE: Duration = Duration::from_secs(300);

/// See the module.
pub struct Site {
    pub controller: Controller,
    /// What every call shows.
    pub auth: Value,
    /// Servers that are ready, one for each client, with their locations.
    pub servers: Vec<(String, String)>,
    _machines: Vec<Machines>,
}

impl Site {
    pub fn build() -> Result<Self> {
        let controller = fleet::start("bench-ial", artifacts::released("muster")?)?;
        let api = controller.api()?;
        for (number, location) in LOCATIONS.iter().enumerate() {
            let zones: Vec<String> = (0..ZONES).map(|zone| format!("{location}-{zone}")).collect();
            let about = json!({ "name": format!("The bench in {location}"), "city": location, "zones": zones,
                "latitude": 52.5, "longitude": 13.4, "annotations": { "floor": "2" } });
            api.json("PUT", &format!("/api/v1/locations/{location}"), &about)?.success(location)?;
            let net = json!({ "net": format!("10.{}.0.0/16", 100 + number), "gateway": format!("10.{}.0.1", 100 + number),
                "location": location, "quarantine_s": 0 });
            api.post("/api/v1/subnets", &net)?;
        }
        let mut machines = Vec::new();
        for first in (1..=MACHINES).step_by(AT_ONCE.into()) {
            let location = LOCATIONS[usize::from(first / AT_ONCE) % LOCATIONS.len()];
            machines.push(Machines::plug_built(first, AT_ONCE, location, |number, machine| {
                let bytes = u64::from(60 + 20 * (number % MODELS)) * 1_000_000_000;
                machine.exchange_disks(|disks| disks.iter_mut().for_each(|disk| disk.size_bytes = bytes));
            })?);
            let all = fleet::let_in(&api, usize::from(first + AT_ONCE - 1))?;
            eprintln!("{} of {MACHINES} simulated machines are in", all.len());
        }
        let all = api.get("/api/v1/machines?limit=1000")?;
        let all: Vec<&Value> = all["items"].as_array().into_iter().flatten().collect();
        side_by_side(&all, |number, machine| {
            let zone = format!("{}-{}", text(machine, "/location")?, number as u16 % ZONES);
            let path = format!("/api/v1/machines/{}", text(machine, "/id")?);
            api.json("PATCH", &path, &json!({ "labels": { "zone": zone } }))?.success(&path).map(drop)
        })?;

        let credential = controller.muster_json(&["ial", "credential", "create", "bench"])?;
        let (key, secret) = (text(&credential, "/key")?, text(&credential, "/secret")?);
        let auth = json!({ "api_key": key, "secret": secret, "cycle": { "hub_name": "Bench", "hub_id": "651586fca6078e98982dbd90" } });
        let cycle = Cycle::new(controller.anonymous()?, key, secret);
        let servers = lease(&cycle)?;
        let mut site = Self { controller, auth, servers, _machines: machines };
        site.fill_pools(&cycle)?;
        Ok(site)
    }

    /// What a call of Cycle's sends.
    pub fn body(&self, request: &Value) -> String {
        json!({ "auth": self.auth, "request": request }).to_string()
    }

    /// Where clients connect.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{PORT}")
    }

    /// Pools that are held for as long as the bench runs.
    fn fill_pools(&mut self, cycle: &Cycle) -> Result<()> {
        let pools: Vec<usize> = (0..POOLS).collect();
        side_by_side(&pools, |_, pool| {
            let (server, location) = &self.servers[pool % self.servers.len()];
            let path = "/v1/infrastructure/ip/allocate";
            cycle.call("POST", path, &allocation(server, location, &format!("{pool:024x}"))).map(drop)
        })
    }
}

/// The request for one more IPv4 address.
pub fn allocation(server: &str, location: &str, pool: &str) -> Value {
    json!({
        "kind": "ipv4", "server_id": server, "location_id": location, "zone_id": null, "location_configuration": {},
        "cycle": { "pool_id": pool, "server_id": "6516a1f2a6078e98982dbd92", "location_id": "6516a0d1a6078e98982dbd91" },
    })
}

/// One server for each client, once all of them are ready.
fn lease(cycle: &Cycle) -> Result<Vec<(String, String)>> {
    let models = cycle.models()?;
    ensure!(models.len() == usize::from(MODELS), "{} models", models.len());
    let orders: Vec<usize> = (0..CLIENTS).collect();
    let servers = Mutex::new(Vec::new());
    side_by_side(&orders, |_, order| {
        let location = LOCATIONS[order % LOCATIONS.len()];
        let model = models.iter().filter(|model| {
            model["provider"]["locations"].as_array().is_some_and(|all| all.contains(&json!(location)))
        });
        let model = model.clone().nth(order % model.count()).context("every location has models")?;
        let server = cycle.provision(model, location, &json!({}), *order as u32)?;
        servers.lock().expect("nobody panics").push((server, location.to_owned()));
        Ok(())
    })?;
    let servers = servers.into_inner().expect("nobody panics");
    eventually(PATIENCE, "all servers are ready", || {
        for (server, _) in &servers {
            cycle.provision_status(server)?.context("one is not ready")?;
        }
        Ok(())
    })?;
    Ok(servers.into_iter().map(|(server, location)| (server.id, location)).collect())
}

/// Does something with each, so many at one time.
fn side_by_side<T: Sync>(all: &[T], part: impl Fn(usize, &T) -> Result<()> + Sync) -> Result<()> {
    let part = &part;
    std::thread::scope(|scope| {
        let hand = |hand: usize| {
            let mut mine = all.iter().enumerate().skip(hand).step_by(HANDS);
            scope.spawn(move || mine.try_for_each(|(number, one)| part(number, one)))
        };
        let hands: Vec<_> = (0..HANDS).map(hand).collect();
        hands.into_iter().try_for_each(|hand| hand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
