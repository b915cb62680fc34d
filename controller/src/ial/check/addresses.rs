//! Cases of addresses: allocated once, kept apart, given back.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::caller::{Answer, Step, Stop, fault, post};
use super::calls::{ALLOCATE, RELEASE, Server, ZERO, flat, wrapped};
use super::reads::{Reading, readings};
use super::stage::Stage;

/// How many are asked for at one time.
const CROWD: usize = 4;

fn kind_of(server: &Stage) -> Step<Server> {
    server.identity.as_ref().ok_or_else(|| Stop::LeftOut("no server was provisioned".into()))?;
    server.server()
}

fn net(address: &Value) -> Step<IpNet> {
    let text = address["cidr"].as_str().unwrap_or_default();
    text.parse().or_else(|_| fault("data/cidr: an address with its prefix length", text))
}

fn take(stage: &Stage, server: &Server, kind: &str, pool: &Value) -> Step<Value> {
    match stage.allocate(server, kind, pool)? {
        Ok(address) => Ok(address),
        Err(refused) => fault(format!("an address of {kind}"), refused.words()),
    }
}

fn give(stage: &Stage, server: &Server, kind: &str, pool: &Value, address: &Value) -> Step<()> {
    stage.caller.is_true(RELEASE, &server.release(kind, pool, address))?;
    stage.released(address);
    Ok(())
}

/// No two of these share an address, nor has the server any of them.
fn apart(stage: &Stage, all: &[Value]) -> Step<()> {
    let nets = all.iter().map(net).collect::<Step<Vec<_>>>()?;
    for (at, one) in nets.iter().enumerate() {
        if let Some(other) = nets[..at].iter().find(|other| other.contains(one) || one.contains(*other)) {
            return fault(format!("{other} belongs to one pool"), format!("{one} went to another one"));
        }
    }
    let own = stage.identity.as_ref().and_then(|auth| auth["initial_ips"].as_array().cloned()).unwrap_or_default();
    let own: Vec<IpAddr> = own.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    match nets.iter().find(|net| own.iter().any(|ip| net.contains(ip))) {
        Some(net) => fault("an address that is not the server's first one", net.to_string()),
        None => Ok(()),
    }
}

/// One of each kind, and what is said of it.
pub fn allocate(stage: &mut Stage) -> Step<()> {
    let server = kind_of(stage)?;
    let mut offered = 0;
    for kind in ["ipv4", "ipv6"] {
        let pool = json!(stage.id());
        let address = match stage.allocate(&server, kind, &pool)? {
            Ok(address) => address,
            Err(refused) if refused.status < 500 => {
                stage.note(format!("{kind} is not to be had: {}", refused.words()));
                continue;
            }
            Err(refused) => return fault(format!("an address of {kind}"), refused.words()),
        };
        offered += 1;
        say(stage, kind, &address)?;
        apart(stage, std::slice::from_ref(&address))?;
        give(stage, &server, kind, &pool, &address)?;
    }
    if offered == 0 { fault("ipv4 or ipv6", "neither of them") } else { Ok(()) }
}

fn say(stage: &mut Stage, kind: &str, address: &Value) -> Step<()> {
    let block = net(address)?;
    if block.addr().is_ipv4() != (kind == "ipv4") {
        return fault(format!("data/cidr: {kind}"), block.to_string());
    }
    if kind == "ipv4" && block.prefix_len() != 32 {
        stage.note(format!("cidr {block} is no single address: /32 is what says so, and the documents leave it open"));
    }
    if kind == "ipv4" && address.get("netmask").is_none() {
        stage.note("netmask is absent: Cycle's OpenAPI file demands it, its own types have it no more");
    }
    let network = address["network"].as_str().and_then(|text| text.parse::<IpNet>().ok());
    let side = match address["nat_private_ip"].as_str().and_then(|text| text.parse::<IpAddr>().ok()) {
        Some(private) => private,
        None => block.addr(),
    };
    match network {
        None => stage.note("network is null"),
        Some(network) if !network.contains(&side) => {
            return fault(format!("data/network: the network that {side} is on"), network.to_string());
        }
        Some(_) => {}
    }
    if address["gateway"].is_null() {
        stage.note("gateway is null: Cycle's OpenAPI file demands one");
    }
    Ok(())
}

/// One pool is one address, also where the first answer was lost.
pub fn lost_answer(stage: &mut Stage) -> Step<()> {
    let server = kind_of(stage)?;
    let pool = json!(stage.id());
    let request = stage.expect_address(&server, "ipv4", &pool);
    let asked = post(ALLOCATE, &wrapped(&stage.caller.auth, &request));
    stage.caller.door.hang_up(&asked).or_else(|error| fault("a connection", error.to_string()))?;
    let first = match stage.allocate(&server, "ipv4", &pool)? {
        Ok(address) => address,
        Err(refused) => return Err(Stop::LeftOut(format!("no IPv4: {}", refused.words()))),
    };
    let shared: &Stage = stage;
    for again in shared.at_once(3, |_| shared.caller.data(ALLOCATE, &request))? {
        if (&again["ip_id"], &again["cidr"]) != (&first["ip_id"], &first["cidr"]) {
            return fault(format!("{} again: it is the same pool", first["cidr"]), again["cidr"].to_string());
        }
    }
    give(stage, &server, "ipv4", &pool, &first)
}

/// Several pools at one time, and orders without a key: every one is another address.
pub fn at_once(stage: &mut Stage) -> Step<()> {
    let server = kind_of(stage)?;
    let mut pools: Vec<Value> = (0..CROWD).map(|_| json!(stage.id())).collect();
    // No key: a load balancer's host asks several times for one server.
    pools.extend([json!(ZERO), Value::Null]);
    let shared: &Stage = stage;
    let answers = shared.at_once(pools.len(), |n| shared.allocate(&server, "ipv4", &pools[n]))?;
    let taken: Vec<(usize, Value)> =
        answers.into_iter().enumerate().filter_map(|(n, answer)| answer.ok().map(|address| (n, address))).collect();
    if taken.len() < 2 {
        return Err(Stop::LeftOut("there are not two addresses free".into()));
    }
    let all: Vec<Value> = taken.iter().map(|(_, address)| address.clone()).collect();
    apart(shared, &all)?;
    for (n, address) in &taken {
        give(shared, &server, "ipv4", &pools[*n], address)?;
    }
    if taken.len() < pools.len() {
        stage.note(format!("{} of {} addresses at one time were to be had", taken.len(), pools.len()));
    }
    Ok(())
}

/// Given back wrapped, flat with credentials, flat without them.
pub fn release_readings(stage: &mut Stage) -> Step<()> {
    let server = kind_of(stage)?;
    let pool = json!(stage.id());
    let Ok(address) = stage.allocate(&server, "ipv4", &pool)? else {
        return Err(Stop::LeftOut("no IPv4 is to be had".into()));
    };
    let request = server.release("ipv4", &pool, &address);
    let auth = stage.caller.auth.clone();
    let bodies = [
        ("wrapped", wrapped(&auth, &request)),
        ("flat, with credentials", flat(&auth, &request)),
        ("flat, without credentials", request.clone()),
        ("wrapped, once more", wrapped(&auth, &request)),
    ];
    let all = bodies
        .into_iter()
        .map(|(words, body)| Reading { words: format!("POST {RELEASE}, {words}"), ask: post(RELEASE, &body) });
    readings(stage, all.collect(), |data| match data {
        Value::Bool(true) => Ok(()),
        other => fault("data: true", other.to_string()),
    })?;
    stage.released(&address);
    Ok(())
}

/// A release that comes late takes nothing from whoever has the address by then.
pub fn late_release(stage: &mut Stage) -> Step<()> {
    let server = kind_of(stage)?;
    let (old, new) = (json!(stage.id()), json!(stage.id()));
    let Ok(first) = stage.allocate(&server, "ipv4", &old)? else {
        return Err(Stop::LeftOut("no IPv4 is to be had".into()));
    };
    give(stage, &server, "ipv4", &old, &first)?;
    let second = take(stage, &server, "ipv4", &new)?;
    let late = stage.caller.call(RELEASE, &server.release("ipv4", &old, &first))?;
    if let Answer::Data(data) = &late
        && *data != json!(true)
    {
        return fault("true, or a refusal", data.to_string());
    }
    if matches!(late, Answer::Refused(_)) {
        stage.note("a release that is repeated is refused; true would let Cycle forget it");
    }
    // Whoever asks now gets what is free, and the second one is not.
    let other = json!(stage.id());
    let third = match stage.allocate(&server, "ipv4", &other)? {
        Ok(third) => third,
        Err(refused) => {
            stage.note(format!("a third address was not to be had: {}", refused.words()));
            return give(stage, &server, "ipv4", &new, &second);
        }
    };
    apart(stage, &[second.clone(), third.clone()])?;
    give(stage, &server, "ipv4", &other, &third)?;
    give(stage, &server, "ipv4", &new, &second)
}
