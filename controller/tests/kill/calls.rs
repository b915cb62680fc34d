//! A thousand mixed calls of Cycle's from concurrent clients, and a controller that is killed at random moments.
//!
//! Each client plays a hub's worker with a server of its own: it orders, looks, takes addresses, gives them back, gives
//! the server back, orders the next. A call without an answer is asked again, as Cycle would. In the end the database is
//! counted: what was acknowledged is there, once, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use muster_controller::fleet::record::{AddressHolder, LeaseState, Lifecycle};
use muster_controller::fleet::{Fleet, State};
use muster_controller::ial::check::caller::post;
use muster_controller::ial::check::calls::{
    ALLOCATE, DECOMMISSION, PROVISION, Place, RELEASE, RESTART, STATUS, Server, wrapped,
};
use muster_controller::ial::check::door::Door;
use muster_controller::store::SledStore;
use serde_json::{Value, json};

use crate::stand::{Stand, every, until};

const CLIENTS: u64 = 8;
const MACHINES: u16 = 6;
const CALLS: usize = 1000;
const KILLS: usize = 7;

/// Names another seed than this one: the same seed is the same calls and the same kills, as far as threads allow.
const SEED: &str = "MUSTER_TEST_SEED";

/// Numbers that look random (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let _ = [(); 8].map(|()| dice.below(2));
        dice
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

/// What clients and the killer share.
struct Common {
    door: Door,
    auth: Value,
    place: Place,
    /// How often the controller was started.
    starts: Mutex<u32>,
    started: Condvar,
    answered: AtomicUsize,
    retries: AtomicUsize,
    is_over: AtomicBool,
}

/// What a client was told.
#[derive(Default)]
struct Told {
    server: Option<Server>,
    identity: Option<Value>,
    /// Cycle's ids of pools, with the order, and what it was answered with.
    pools: BTreeMap<String, (Value, Value)>,
    /// How often each call was answered with success.
    done: BTreeMap<&'static str, u64>,
}

/// Whatever ends the killer ends the clients.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Common {
    /// Asks until there is an answer.
    fn ask(&self, path: &'static str, request: &Value) -> Value {
        loop {
            let starts = *self.starts.lock().expect("no panics");
            if let Ok(reply) = self.door.ask(&post(path, &wrapped(&self.auth, request))) {
                self.answered.fetch_add(1, Ordering::Relaxed);
                assert!(reply.status != 500, "{path}: {}", String::from_utf8_lossy(&reply.body));
                return serde_json::from_slice(&reply.body).expect("an answer is JSON");
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            assert!(!self.is_over.load(Ordering::Relaxed), "{path}: nobody answers any more");
            // It was killed, and is started again, or was already.
            let lock = self.starts.lock().expect("no panics");
            let wait = self.started.wait_timeout_while(lock, Duration::from_millis(500), |now| *now == starts);
            drop(wait.expect("no panics"));
        }
    }
}

fn work(common: &Common, client: u64, seed: u64) -> Told {
    let mut dice = Dice::new(seed ^ (client + 1));
    let mut told = Told::default();
    let mut made = 0_u64;
    let mut id = |kind: u64| {
        made += 1;
        format!("{:08x}{client:08x}{:08x}", 0x6516_0000 + kind, made)
    };
    // The order that was refused is made again, with the same id.
    let mut order: Option<Value> = None;
    while !common.is_over.load(Ordering::Relaxed) {
        let Some(server) = told.server.clone() else {
            let wanted = order.take().unwrap_or_else(|| common.place.order(&id(1)));
            let answer = common.ask(PROVISION, &wanted);
            match answer["data"]["server_id"].as_str() {
                Some(id) => {
                    told.server = Some(Server { order: wanted, id: id.to_owned(), extra: Value::Null });
                    *told.done.entry("provision").or_default() += 1;
                }
                None => {
                    assert!(answer["error"]["status"].as_u64().is_some_and(|s| s == 422 || s == 503), "{answer}");
                    order = Some(wanted);
                    // Polling is no work: it is not counted, and leaves the others time.
                    common.answered.fetch_sub(1, Ordering::Relaxed);
                    thread::park_timeout(Duration::from_millis(100));
                }
            }
            continue;
        };
        match dice.below(100) {
            0..30 => status(common, &server, &mut told),
            30..58 => {
                let pool = id(2);
                let request = server.allocate("ipv4", &json!(pool));
                let answer = common.ask(ALLOCATE, &request);
                if answer["error"].is_null() {
                    told.pools.insert(pool, (request, answer["data"].clone()));
                    *told.done.entry("allocate").or_default() += 1;
                }
            }
            58..66 => {
                let Some((request, address)) = told.pools.values().next() else { continue };
                if request["server_id"] == server.id.as_str() {
                    assert_eq!(common.ask(ALLOCATE, request)["data"], *address, "one pool is one address");
                }
            }
            66..86 => {
                let Some(pool) = told.pools.keys().next_back().cloned() else { continue };
                let (request, address) = told.pools.remove(&pool).expect("there");
                let mut release = request;
                for key in ["ip_id", "ip_assignment_id", "cidr"] {
                    release[key] = address[key].clone();
                }
                assert_eq!(common.ask(RELEASE, &release)["data"], json!(true));
                *told.done.entry("release").or_default() += 1;
            }
            86..95 => {
                let answer = common.ask(PROVISION, &server.order);
                assert_eq!(answer["data"]["server_id"], server.id.as_str(), "one order is one server: {answer}");
            }
            95..97 => drop(common.ask(RESTART, &server.act())),
            _ if dice.below(2) == 0 => {}
            _ => {
                assert_eq!(common.ask(DECOMMISSION, &server.act())["data"], json!(true));
                (told.server, told.identity) = (None, None);
                *told.done.entry("decommission").or_default() += 1;
            }
        }
    }
    told
}

fn status(common: &Common, server: &Server, told: &mut Told) {
    let answer = common.ask(STATUS, &server.status());
    assert_eq!(answer["error"], Value::Null, "{answer}");
    match (answer["data"]["provisioned"] == true, &told.identity) {
        (true, Some(before)) => assert_eq!(answer["data"]["auth"], *before, "what was said stays"),
        (true, None) => {
            told.identity = Some(answer["data"]["auth"].clone());
            *told.done.entry("provisioned").or_default() += 1;
        }
        (false, before) => assert_eq!(*before, None, "provisioned once is provisioned for ever: {answer}"),
    }
}

#[test]
fn no_address_and_no_machine_is_lost_or_had_twice_and_nothing_is_stuck_when_the_controller_is_killed() {
    let seed = std::env::var(SEED).ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_123);
    println!("{SEED}={seed}");
    let mut stand = Stand::start();
    let (auth, place) = stand.prepare(MACHINES);
    let common = Common {
        door: stand.door().expect("it serves"),
        auth,
        place,
        starts: Mutex::new(1),
        started: Condvar::new(),
        answered: AtomicUsize::new(0),
        retries: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    };
    let told: Vec<Told> = thread::scope(|scope| {
        let common = &common;
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || work(common, n, seed))).collect();
        let over = Over(&common.is_over);
        let answered = || common.answered.load(Ordering::Relaxed);
        let is_well = || assert!(clients.iter().all(|client| !client.is_finished()), "a client found something");
        let mut dice = Dice::new(seed);
        for kill in 0..KILLS {
            // A random one of this share of the calls, and then somewhere between two of them.
            let share = CALLS / (KILLS + 1);
            let mark = kill * share + share / 2 + dice.below(share as u64) as usize;
            until("calls are answered", || {
                is_well();
                (answered() >= mark).then_some(())
            });
            (0..dice.below(20_000)).for_each(|_| std::hint::spin_loop());
            stand.kill();
            stand.start_again();
            *common.starts.lock().expect("no panics") += 1;
            common.started.notify_all();
        }
        until("every call is answered", || {
            is_well();
            (answered() >= CALLS).then_some(())
        });
        drop(over);
        clients.into_iter().map(|client| client.join().expect("nothing wrong was answered")).collect()
    });

    every(Duration::from_millis(250), "nothing is left to do", || {
        let open = stand.api("GET", "/operations?state=unfinished", &Value::Null)?;
        open["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let state = load(&stand.end());
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    told.iter().flat_map(|told| &told.done).for_each(|(call, count)| *done.entry(*call).or_default() += count);
    let (answered, retries) = (common.answered.into_inner(), common.retries.into_inner());
    println!("{answered} calls answered, {retries} asked again, {KILLS} kills, of them successful: {done:?}");
    count(&state, &told);
    assert!(retries > 0, "kills hit calls");
    for (call, least) in [("provision", 8), ("provisioned", 4), ("allocate", 60), ("release", 30), ("decommission", 4)]
    {
        assert!(done.get(call).is_some_and(|count| *count >= least), "{call} is hardly tried: {done:?}");
    }
}

/// What a controller that starts now would read.
fn load(folder: &std::path::Path) -> std::sync::Arc<State> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (fleet, ended) = Fleet::start(SledStore::open(folder).expect("opens after a kill")).expect("loads");
    let state = fleet.state();
    drop(fleet);
    runtime.block_on(ended).expect("the writer ends with the last handle");
    state
}

/// Compares what is there with what was acknowledged.
fn count(state: &State, told: &[Told]) {
    let servers: BTreeSet<&str> = told.iter().filter_map(|told| Some(told.server.as_ref()?.id.as_str())).collect();
    let leases: BTreeSet<&str> = state.leases.iter().map(|lease| lease.id.as_str()).collect();
    assert_eq!(leases, servers, "a lease was lost, or is nobody's");
    let keys: BTreeSet<&str> = state.leases.iter().map(|lease| lease.cycle_server.as_str()).collect();
    assert_eq!(keys.len(), leases.len(), "one order became two leases");

    let mut seated = BTreeSet::new();
    for lease in state.leases.iter() {
        let LeaseState::Ready { seat } = &lease.state else { panic!("{} is {:?}", lease.id, lease.state) };
        assert!(seated.insert(seat.machine), "{} is leased twice", seat.machine);
    }
    let leased: BTreeSet<_> = state
        .machines
        .iter()
        .filter_map(|machine| match &machine.lifecycle {
            Lifecycle::Leased { lease } if leases.contains(lease.as_str()) => Some(machine.id),
            Lifecycle::Available => None,
            other => panic!("{} is {other:?}", machine.name),
        })
        .collect();
    assert_eq!(leased, seated, "machines and leases say the same");
    assert_eq!(state.machines.len(), usize::from(MACHINES), "no machine became two");

    let known: BTreeSet<(String, String)> = told
        .iter()
        .flat_map(|told| told.pools.values())
        .map(|(_, address)| {
            let text = |key: &str| address[key].as_str().expect("a text").to_owned();
            (text("cidr"), text("ip_assignment_id"))
        })
        .collect();
    let (mut pools, mut own, mut blocks) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for address in state.addresses.iter() {
        assert!(blocks.insert(address.block), "{} is there twice", address.block);
        match &address.holder {
            AddressHolder::Pool { assignment, .. } => {
                pools.insert((address.block.to_string(), assignment.clone()));
            }
            AddressHolder::Machine { machine, lease } => {
                assert!(leases.contains(lease.as_str()) && own.insert(*machine), "{address:?}");
            }
            other => panic!("{}: {other:?}", address.block),
        }
    }
    assert_eq!(pools, known, "an address was lost, or is nobody's");
    assert_eq!(own, seated, "each leased machine has one address");
    let told_of: BTreeSet<&str> = known.iter().map(|(cidr, _)| cidr.as_str()).collect();
    assert_eq!(told_of.len(), known.len(), "two clients were told of one address");
    assert!(state.operations.iter().all(|operation| operation.state.is_ended()), "an operation is stuck");
    println!(
        "{} leases, {} machines, {} addresses of pools: none lost, none twice",
        leases.len(),
        leased.len(),
        pools.len()
    );
}
