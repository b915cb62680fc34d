//! What the cases of one check share: what was learned so far, what was taken, and the way to give it back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::caller::{Answer, Caller, Refused, Step, Stop, ask, fault, post, shaped};
use super::calls::{ALLOCATE, CHECK, DECOMMISSION, PROVISION, Place, RELEASE, STATUS, Server, ZERO, wrapped};
use super::{Orders, shape};

/// How often something is asked to be taken back.
const TRIES: u32 = 5;

/// Why cases of two hubs are left out.
const SECOND: &str = "needs a second hub: --second-key and --second-secret-file";

/// See the module.
pub struct Stage<'a> {
    /// The hub that calls.
    pub caller: Caller<'a>,
    /// What another hub has taken and how it calls, where there is one.
    pub second: Option<Box<Stage<'a>>>,
    /// What may be leased.
    pub orders: Option<&'a Orders>,
    /// The time from one look to the next.
    pub poll: Duration,
    /// How long a server may take to be ready, and a machine to be free again.
    pub wait: Duration,
    /// What is worth knowing of the case that runs.
    pub notes: Vec<String>,
    /// The catalog, once it was read.
    pub locations: Vec<Value>,
    /// The same for models.
    pub models: Vec<Value>,
    /// Where servers are ordered, once that is known.
    pub place: Option<Place>,
    /// The server that most is tried on.
    pub server: Option<Server>,
    /// What it is known by, once it is provisioned.
    pub identity: Option<Value>,
    /// Whether that server was given back.
    pub is_over: bool,
    /// Why nothing else can be tried, where the first call showed that.
    pub closed: Option<&'static str>,
    /// The verb and the path that the status is served by.
    status_by: Mutex<Option<(&'static str, &'static str)>>,
    taken: Mutex<Taken>,
    run: [u8; 8],
    ids: u32,
}

/// What has to be given back.
#[derive(Default)]
struct Taken {
    servers: Vec<Server>,
    pools: Vec<Pool>,
}

/// An order for an address, and the address once it is known.
#[derive(Clone)]
struct Pool {
    request: Value,
    address: Value,
    kind: String,
    server: Server,
}

impl<'a> Stage<'a> {
    /// An empty one. `run` makes ids of this check that no other one uses.
    pub fn new(caller: Caller<'a>, orders: Option<&'a Orders>, poll: Duration, wait: Duration, run: [u8; 8]) -> Self {
        let (notes, locations, models) = Default::default();
        let (second, place, server, identity) = Default::default();
        let (is_over, closed, status_by, taken, ids) = Default::default();
        Self {
            caller,
            second,
            orders,
            poll,
            wait,
            notes,
            locations,
            models,
            place,
            server,
            identity,
            is_over,
            closed,
            status_by,
            taken,
            run,
            ids,
        }
    }

    /// A new id of Cycle's.
    pub fn id(&mut self) -> String {
        self.ids += 1;
        let run: String = self.run.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{run}{:08x}", self.ids)
    }

    /// Notes what is no fault, and good to know.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// The place, or nothing to try this on.
    pub fn place(&self) -> Step<Place> {
        self.place.clone().ok_or_else(|| Stop::LeftOut("no location with a model was found".into()))
    }

    /// The server that most is tried on.
    pub fn server(&self) -> Step<Server> {
        self.server.clone().ok_or_else(|| Stop::LeftOut("no server was provisioned".into()))
    }

    /// The other hub, or nothing to try this with.
    pub fn second(&self) -> Step<&Stage<'a>> {
        let second = self.second.as_ref().ok_or_else(|| Stop::LeftOut(SECOND.into()))?;
        second.closed.map_or(Ok(second), |why| Err(Stop::LeftOut(why.into())))
    }

    /// Calls so far, of all hubs.
    pub fn calls(&self) -> usize {
        self.caller.calls() + self.second.as_ref().map_or(0, |second| second.calls())
    }

    /// Lets the time between two looks pass.
    pub fn pause(&self) -> Step<()> {
        thread::sleep(self.poll);
        self.caller.go_on()
    }

    /// How many servers it has.
    pub fn held(&self) -> usize {
        self.taken().servers.len()
    }

    /// Those that it has.
    pub fn servers(&self) -> Vec<Server> {
        self.taken().servers.clone()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that this order may have been heard, whatever becomes of the answer.
    pub fn expect_server(&self, order: &Value) {
        let mut taken = self.taken();
        let is_known = order["cycle"]["server_id"] != ZERO && taken.servers.iter().any(|server| server.order == *order);
        if !is_known {
            taken.servers.push(Server { order: order.clone(), id: String::new(), extra: Value::Null });
        }
    }

    /// Orders a server; `None` where it is refused.
    pub fn order(&self, order: &Value) -> Step<Result<(Server, Vec<String>), Refused>> {
        self.expect_server(order);
        let answer = self.caller.call(PROVISION, order);
        let is_pending = |server: &Server| server.order == *order && server.id.is_empty();
        match answer? {
            Answer::Refused(refused) => {
                self.taken().servers.retain(|server| !is_pending(server));
                Ok(Err(refused))
            }
            Answer::Data(data) => {
                let text = data["server_id"].as_str().unwrap_or_default().to_owned();
                let server = Server { order: order.clone(), id: text, extra: data["extra"].clone() };
                let mut taken = self.taken();
                match taken.servers.iter().position(is_pending) {
                    Some(at) => taken.servers[at] = server.clone(),
                    None if !taken.servers.iter().any(|known| known.id == server.id) => {
                        taken.servers.push(server.clone());
                    }
                    None => {}
                }
                drop(taken);
                Ok(Ok((server, shaped(&data, shape::PROVISION)?)))
            }
        }
    }

    /// Orders one, again and again where none is free yet because what was given back is on its way.
    pub fn order_when_free(&self, order: &Value) -> Step<Result<Server, Refused>> {
        let began = Instant::now();
        loop {
            match self.order(order)? {
                Ok((server, _)) => return Ok(Ok(server)),
                Err(refused) if began.elapsed() > self.wait => return Ok(Err(refused)),
                Err(_) => self.pause()?,
            }
        }
    }

    /// What provision-status says, by the first of its readings that is served.
    pub fn status(&self, server: &Server) -> Step<Value> {
        let body = wrapped(&self.caller.auth, &server.status());
        let known = *self.status_by.lock().unwrap_or_else(PoisonError::into_inner);
        let ways = [("POST", STATUS), ("GET", STATUS), ("POST", CHECK), ("GET", CHECK)];
        let ways = known.map_or_else(|| ways.to_vec(), |way| vec![way]);
        let mut last = String::new();
        for (method, path) in ways {
            let reply = self.caller.raw(&ask(method, path, &body))?;
            if known.is_none() && matches!(reply.status, 404 | 405 | 501) {
                last = format!("{method} {path} is answered with {}", reply.status);
                continue;
            }
            *self.status_by.lock().unwrap_or_else(PoisonError::into_inner) = Some((method, path));
            let data = match self.caller.read(path, &reply)? {
                Answer::Data(data) => data,
                Answer::Refused(refused) => return fault(format!("{method} {path}: success"), refused.words()),
            };
            shaped(&data, shape::STATUS)?;
            if data["server_id"] != server.id.as_str() {
                return fault(format!("data/server_id: {}", server.id), data["server_id"].to_string());
            }
            return Ok(data);
        }
        fault("the status of a server that was ordered", last)
    }

    /// Looks until the server is ready, and answers with what it is known by.
    pub fn until_provisioned(&self, server: &Server) -> Step<Value> {
        let began = Instant::now();
        loop {
            let data = self.status(server)?;
            if data["provisioned"] == true {
                return Ok(data["auth"].clone());
            }
            if began.elapsed() > self.wait {
                return fault(format!("provisioned within {} s", self.wait.as_secs()), "provisioned is still false");
            }
            self.pause()?;
        }
    }

    /// Gives a server back.
    pub fn decommission(&self, server: &Server) -> Step<()> {
        self.caller.is_true(DECOMMISSION, &server.act())?;
        self.taken().servers.retain(|known| known.id != server.id || known.order != server.order);
        Ok(())
    }

    /// Asks for an address and does not hear the answer.
    pub fn expect_address(&self, server: &Server, kind: &str, pool: &Value) -> Value {
        let request = server.allocate(kind, pool);
        let pool = Pool { request: request.clone(), address: Value::Null, kind: kind.into(), server: server.clone() };
        self.taken().pools.push(pool);
        request
    }

    /// Takes an address; `None` where it is refused.
    pub fn allocate(&self, server: &Server, kind: &str, pool: &Value) -> Step<Result<Value, Refused>> {
        let request = server.allocate(kind, pool);
        let answer = self.caller.call(ALLOCATE, &request)?;
        let mut taken = self.taken();
        let at = taken.pools.iter().position(|known| known.request == request && known.address.is_null());
        match answer {
            Answer::Refused(refused) => {
                at.map(|at| taken.pools.remove(at));
                Ok(Err(refused))
            }
            Answer::Data(address) => {
                let pool = Pool { request, address: address.clone(), kind: kind.into(), server: server.clone() };
                match at {
                    Some(at) => taken.pools[at] = pool,
                    None => taken.pools.push(pool),
                }
                drop(taken);
                shaped(&address, shape::ADDRESS)?;
                Ok(Ok(address))
            }
        }
    }

    /// This address was given back.
    pub fn released(&self, address: &Value) {
        self.taken().pools.retain(|known| known.address != *address);
    }

    /// Gives back everything that was taken, interrupted or not. Answers with what could not be.
    pub fn give_back(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *self.taken());
        let mut left = self.second.as_ref().map(|second| second.give_back()).unwrap_or_default();
        for pool in taken.pools.iter().rev() {
            let mut address = pool.address.clone();
            if address.is_null() {
                // Its answer was lost: asked again it is the same.
                let Some(Answer::Data(data)) = self.insist(ALLOCATE, &pool.request) else { continue };
                address = data;
            }
            let request = pool.server.release(&pool.kind, &pool.request["cycle"]["pool_id"], &address);
            if !matches!(self.insist(RELEASE, &request), Some(Answer::Data(Value::Bool(true)))) {
                left.push(format!("address {}", address["cidr"].as_str().unwrap_or("?")));
            }
        }
        for server in &taken.servers {
            let mut server = server.clone();
            if server.id.is_empty() {
                let Some(Answer::Data(data)) = self.insist(PROVISION, &server.order) else { continue };
                server.id = data["server_id"].as_str().unwrap_or_default().to_owned();
                server.extra = data["extra"].clone();
            }
            if !matches!(self.insist(DECOMMISSION, &server.act()), Some(Answer::Data(Value::Bool(true)))) {
                left.push(format!("server {}", server.id));
            }
        }
        left
    }

    /// Asks until there is an answer, whoever wants to stop.
    fn insist(&self, path: &str, request: &Value) -> Option<Answer> {
        for n in 0..TRIES {
            let asked = post(path, &wrapped(&self.caller.auth, request));
            let read = self.caller.door.ask(&asked).ok().map(|reply| self.caller.read(path, &reply));
            match read {
                Some(Ok(answer)) => return Some(answer),
                Some(Err(_)) | None if n + 1 < TRIES => thread::sleep(self.poll),
                Some(Err(_)) | None => {}
            }
        }
        None
    }

    /// Does the same in several threads at once, each with its number.
    pub fn at_once<T: Send>(&self, count: usize, work: impl Fn(usize) -> Step<T> + Sync) -> Step<Vec<T>> {
        let work = &work;
        let all: Vec<Step<T>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
            let panicked = || Err(Stop::LeftOut("a thread of the check itself panicked".into()));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
        });
        all.into_iter().collect()
    }
}
