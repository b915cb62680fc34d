//! Cases that lease machines: from configure to decommission, in the documented order and out of it.

use std::time::Instant;

use serde_json::{Value, json};

use super::caller::{Answer, Fault, Refused, Step, Stop, ask, fault, post, shaped};
use super::calls::{
    CHECK, CONFIGURE, DECOMMISSION, PROVISION, Place, RESTART, STATUS, Server, ZERO, flat, without_nulls, wrapped,
};
use super::door::Ask;
use super::reads::{Reading, ids, look_again, readings};
use super::shape;
use super::stage::Stage;

/// How often a provisioned server is looked at again.
const LOOKS: usize = 3;

/// How many ask the same at one time.
const TWINS: usize = 3;

/// Chooses a location and a model, and prepares the location for the first time.
pub fn configure(stage: &mut Stage) -> Step<()> {
    let Some(orders) = stage.orders else { return Err(Stop::LeftOut("needs --provision".into())) };
    let (location, model) = choose(stage, orders.location.as_deref(), orders.model.as_deref())?;
    let configuration = configured(stage, &Place::configure(&location, "", &Value::Null))?.1;
    let zone = orders.zone.clone().map_or(Value::Null, Value::from);
    stage.place = Some(Place { location, zone, model, configuration });
    Ok(())
}

fn configured(stage: &mut Stage, request: &Value) -> Step<(Value, Value)> {
    let (data, _) = stage.caller.shaped(CONFIGURE, request, shape::CONFIGURE)?;
    if data["configured"] != true {
        return fault("data/configured: true", data["configured"].to_string());
    }
    Ok((data["version"].clone(), data["configuration_latest"].clone()))
}

/// What was asked for, or the first compatible model with a place.
fn choose(stage: &Stage, location: Option<&str>, model: Option<&str>) -> Step<(String, Value)> {
    let known = ids(&stage.locations, "location_id");
    let at = |candidate: &Value| {
        let offered = candidate["provider"]["locations"].as_array().cloned().unwrap_or_default();
        let offered: Vec<String> = offered.iter().filter_map(|l| l.as_str().map(str::to_owned)).collect();
        match location {
            // A model that names no location may be at any.
            Some(wanted) => (offered.is_empty() || offered.iter().any(|l| l == wanted)).then(|| wanted.to_owned()),
            None => offered.into_iter().find(|l| known.contains(l)),
        }
    };
    let fits = |candidate: &&Value| match model {
        Some(id) => candidate["provider"]["model_id"] == id,
        None => candidate["compatible"] != false,
    };
    let found = stage.models.iter().filter(fits).find_map(|candidate| Some((at(candidate)?, candidate.clone())));
    if let Some(found) = found {
        return Ok(found);
    }
    if location.is_none() && model.is_none() {
        let more = match stage.models.len() {
            0 => "",
            _ => ", only such as --model takes all the same",
        };
        return Err(Stop::LeftOut(format!("server-models lists no compatible model at a location{more}")));
    }
    let listed = |ids: Vec<String>| if ids.is_empty() { "nothing".to_owned() } else { ids.join(", ") };
    let (models, locations) = (listed(ids(&stage.models, "model_id")), listed(known));
    let words = |what: &str, given: Option<&str>| given.map_or(format!("any compatible {what}"), str::to_owned);
    Err(Stop::Fault(Fault {
        expected: format!("server-models: {} at {}", words("model", model), words("location", location)),
        got: format!("no such model there; of models {models} is listed, of locations {locations}"),
        remedy: "name the ids that the catalog has, with --location and --model",
    }))
}

/// The same again is the same: what it answered handed back, and with absent keys.
pub fn configure_again(stage: &mut Stage) -> Step<()> {
    let place = stage.place()?;
    let (version, latest) = configured(stage, &Place::configure(&place.location, "", &Value::Null))?;
    let first = Place::configure(&place.location, version.as_str().unwrap_or_default(), &latest);
    let more = json!({ "location_id": place.location, "version": "", "unheard_of": { "a": [1] } });
    for request in [first, more, without_nulls(&Place::configure(&place.location, "", &Value::Null))] {
        let again = configured(stage, &request)?;
        if again != (version.clone(), latest.clone()) {
            return fault(
                format!("version {version} and configuration {latest}"),
                format!("{} and {}", again.0, again.1),
            );
        }
    }
    Ok(())
}

/// The first order.
pub fn provision(stage: &mut Stage) -> Step<()> {
    let order = stage.place()?.order(&stage.id());
    match stage.order(&order)? {
        Ok((server, missed)) => {
            for missed in missed {
                stage.note(format!("{missed} is absent: Cycle's own types have it, its OpenAPI file has not"));
            }
            stage.server = Some(server);
            Ok(())
        }
        Err(refused) => fault("a server: server-models lists this model here", refused.words()),
    }
}

/// The same order again and at the same time, with absent keys and with unknown ones.
pub fn provision_again(stage: &mut Stage) -> Step<()> {
    let server = stage.server()?;
    let mut more = server.order.clone();
    more["unheard_of"] = json!({ "a": [1, null] });
    more["cycle"]["unheard_of"] = json!("x");
    let orders = [server.order.clone(), without_nulls(&server.order), more];
    let stage: &Stage = stage;
    let answers = stage.at_once(orders.len(), |n| stage.caller.shaped(PROVISION, &orders[n], shape::PROVISION))?;
    answers.iter().try_for_each(|(data, _)| is_same(&server, data))
}

pub fn is_same(server: &Server, data: &Value) -> Step<()> {
    if data["server_id"] == server.id.as_str() {
        return Ok(());
    }
    fault(format!("{} again: it is the same order", server.id), format!("another server: {}", data["server_id"]))
}

/// Before it is ready nothing may break by it.
pub fn too_early(stage: &mut Stage) -> Step<()> {
    let server = stage.server()?;
    match stage.caller.call(RESTART, &server.act())? {
        Answer::Data(Value::Bool(true)) => Ok(()),
        Answer::Data(other) => fault("true, or a refusal", other.to_string()),
        Answer::Refused(_) => Ok(()),
    }
}

/// The zero id is no key: two orders are two servers. They are given back while they are being prepared.
pub fn zero_id(stage: &mut Stage) -> Step<()> {
    let order = stage.place()?.order(ZERO);
    if stage.orders.is_some_and(|orders| orders.most < stage.held() + 2) {
        return Err(Stop::LeftOut("needs two machines more; see --servers".into()));
    }
    let Ok((first, _)) = stage.order(&order)? else {
        return Err(Stop::LeftOut("no machine was free for it".into()));
    };
    // Refused for want of a machine it was no repetition either.
    let second = stage.order(&order)?.ok().map(|(server, _)| server);
    let is_same = second.as_ref().is_some_and(|second| second.id == first.id);
    for server in [Some(&first), second.as_ref()].into_iter().flatten() {
        stage.decommission(server)?;
        is_gone(stage, server)?;
    }
    if is_same {
        return fault("two servers: the zero id is no key", format!("{} for both", first.id));
    }
    Ok(())
}

/// A server that was given back is not provisioned, now or later.
fn is_gone(stage: &Stage, server: &Server) -> Step<()> {
    match stage.caller.call(STATUS, &server.status())? {
        Answer::Refused(_) => Ok(()),
        Answer::Data(data) if data["provisioned"] == false => Ok(()),
        Answer::Data(data) => fault(format!("{} is gone, or going", server.id), data.to_string()),
    }
}

/// The answer to an order is lost; asked again by several at once, it is one server.
pub fn lost_order(stage: &mut Stage) -> Step<()> {
    let order = stage.place()?.order(&stage.id());
    if stage.orders.is_some_and(|orders| orders.most <= stage.held()) {
        return Err(Stop::LeftOut("needs one machine more; see --servers".into()));
    }
    stage.expect_server(&order);
    let asked = post(PROVISION, &wrapped(&stage.caller.auth, &order));
    stage.caller.door.hang_up(&asked).or_else(|error| fault("a connection", error.to_string()))?;
    let stage: &Stage = stage;
    let began = Instant::now();
    let server = loop {
        let answers = stage.at_once(TWINS, |_| stage.order(&order))?;
        let mut served = answers.into_iter().filter_map(Result::ok).map(|(server, _)| server);
        match served.next() {
            Some(server) => {
                served.try_for_each(|twin| is_same(&server, &json!({ "server_id": twin.id })))?;
                break server;
            }
            None if began.elapsed() > stage.wait => return Err(Stop::LeftOut("no machine was free for it".into())),
            None => stage.pause()?,
        }
    };
    is_same(&server, &stage.caller.data(PROVISION, &order)?)?;
    match &stage.server {
        Some(first) if first.id == server.id => fault("another server than that of another order", server.id),
        _ => Ok(()),
    }
}

/// Orders at one time, one more than there should be machines: each gets a machine of its own, or none.
pub fn last_machine(stage: &mut Stage) -> Step<()> {
    let (place, first) = (stage.place()?, stage.server()?);
    let most = stage.orders.map_or(0, |orders| orders.most);
    let count = most.saturating_sub(stage.held());
    if count == 0 {
        return Err(Stop::LeftOut("needs more machines; see --servers".into()));
    }
    let orders: Vec<Value> = (0..count).map(|_| place.order(&stage.id())).collect();
    let shared: &Stage = stage;
    let answers = shared.at_once(count, |n| shared.order(&orders[n]))?;
    let refused: Vec<&Refused> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    none_is_free(refused.iter().copied())?;
    let mut all = vec![first.clone()];
    all.extend(answers.iter().filter_map(|answer| answer.as_ref().ok().map(|(server, _)| server.clone())));
    super::reads::unique(&all.iter().map(|server| server.id.clone()).collect::<Vec<_>>(), "server_id")?;
    let mut known = Vec::new();
    for server in &all {
        known.push((server.id.clone(), shared.until_provisioned(server)?));
    }
    distinct(&known)?;
    for server in &all[1..] {
        shared.decommission(server)?;
    }
    if refused.is_empty() {
        stage.note(format!("all of {count} orders were served, so the last machine was not reached; see --servers"));
    }
    Ok(())
}

/// What is refused for want of a machine says so.
pub fn none_is_free<'a>(mut refused: impl Iterator<Item = &'a Refused>) -> Step<()> {
    match refused.find(|refused| refused.status >= 500 && refused.status != 503) {
        Some(other) => fault("a refusal that says that none is free", other.words()),
        None => Ok(()),
    }
}

/// No two servers have anything in common.
pub fn distinct(known: &[(String, Value)]) -> Step<()> {
    for (at, (id, auth)) in known.iter().enumerate() {
        for (other, its) in &known[..at] {
            let is_shared = |key: &str| auth[key].is_string() && auth[key] == its[key];
            let ips = |auth: &Value| auth["initial_ips"].as_array().cloned().unwrap_or_default();
            if is_shared("uuid") || is_shared("mac_addr") || ips(auth).iter().any(|ip| ips(its).contains(ip)) {
                return fault(format!("{other} and {id} are two machines"), format!("{its} and {auth}"));
            }
        }
    }
    Ok(())
}

/// Polled until it is ready, with a resync in between.
pub fn provisioned(stage: &mut Stage) -> Step<()> {
    let server = stage.server()?;
    look_again(stage)?;
    stage.identity = Some(stage.until_provisioned(&server)?);
    look_again(stage)
}

/// By what it is known when it calls Cycle.
pub fn identity(stage: &mut Stage) -> Step<()> {
    let auth = known(stage)?;
    let texts: Vec<String> = auth["initial_ips"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|ip| match ip.as_str() {
            Some(text) => text.to_owned(),
            None => ip.to_string(),
        })
        .collect();
    if let Some(wrong) = texts.iter().find(|text| text.parse::<std::net::IpAddr>().is_err()) {
        return fault("initial_ips are addresses without prefix lengths", wrong.as_str());
    }
    if auth["uuid"].is_null() && auth["mac_addr"].is_null() && texts.is_empty() {
        return fault("uuid, mac_addr or initial_ips: Cycle lets a machine in by them", auth.to_string());
    }
    for key in ["uuid", "mac_addr", "initial_ips"] {
        if auth[key].is_null() || auth[key] == json!([]) {
            stage.note(format!("{key} is empty: which of the three Cycle looks at is not documented"));
        }
    }
    let lower = |key: &str, length: usize, mark: char| {
        let text = auth[key].as_str().unwrap_or_default();
        let is_fit = text.len() == length && text.contains(mark) && !text.contains(char::is_uppercase);
        auth[key].is_string() && !is_fit
    };
    if lower("mac_addr", 17, ':') {
        stage.note(format!("mac_addr {} is not written as 52:54:00:12:34:56; no form is documented", auth["mac_addr"]));
    }
    if lower("uuid", 36, '-') {
        stage.note(format!("uuid {} is not written in 8-4-4-4-12 lower-case digits", auth["uuid"]));
    }
    Ok(())
}

fn known(stage: &Stage) -> Step<Value> {
    stage.identity.clone().ok_or_else(|| Stop::LeftOut("no server was provisioned".into()))
}

/// Provisioned once, it stays so and says the same.
pub fn stays(stage: &mut Stage) -> Step<()> {
    let (server, auth) = (stage.server()?, known(stage)?);
    for _ in 0..LOOKS {
        stage.pause()?;
        is_as_before(stage, &server, &auth)?;
    }
    let stage: &Stage = stage;
    stage.at_once(TWINS, |_| is_as_before(stage, &server, &auth)).map(drop)
}

/// It is provisioned, and known by the same.
pub fn is_as_before(stage: &Stage, server: &Server, auth: &Value) -> Step<()> {
    let data = stage.status(server)?;
    if data["provisioned"] == true && data["auth"] == *auth {
        return Ok(());
    }
    fault(format!("provisioned: true and {auth}, as before"), data.to_string())
}

/// By both names, by both verbs, in every body.
pub fn status_readings(stage: &mut Stage) -> Step<()> {
    let (server, auth) = (stage.server()?, known(stage)?);
    let request = server.status();
    let least = json!({ "server_id": server.id, "location_id": request["location_id"], "unheard_of": [1] });
    let hub = stage.caller.auth.clone();
    let mut all = Vec::new();
    for path in [STATUS, CHECK] {
        for method in ["POST", "GET"] {
            let bodies = [
                ("wrapped", wrapped(&hub, &request)),
                ("without nulls", wrapped(&hub, &without_nulls(&request))),
                ("with nothing but the ids", wrapped(&hub, &least)),
                ("flat", flat(&hub, &request)),
            ];
            all.extend(bodies.into_iter().map(|(words, body)| Reading {
                words: format!("{method} {path}, {words}"),
                ask: ask(method, path, &body),
            }));
        }
    }
    let data = readings(stage, all, |data| shaped(data, shape::STATUS).map(drop))?;
    if data["auth"] == auth { Ok(()) } else { fault(auth.to_string(), data["auth"].to_string()) }
}

/// A GET that has its id in the query, where a body is dropped on the way.
pub fn status_query(stage: &mut Stage) -> Step<()> {
    let (server, _) = (stage.server()?, known(stage)?);
    let path = format!("{STATUS}?server_id={}", server.id);
    let reply = stage.caller.raw(&Ask { method: "GET", path: path.clone(), ..Ask::default() })?;
    if reply.status >= 500 {
        return fault("an answer, or a refusal", format!("status {}", reply.status));
    }
    Ok(())
}

/// Restarted, twice: the server is what it was.
pub fn restart(stage: &mut Stage) -> Step<()> {
    let (server, auth) = (stage.server()?, known(stage)?);
    for n in 0..2 {
        match stage.caller.call(RESTART, &server.act())? {
            Answer::Data(Value::Bool(true)) => {}
            Answer::Data(other) => return fault("data: true", other.to_string()),
            Answer::Refused(refused) if n > 0 && refused.status != 501 => {
                stage.note(format!("a restart that is repeated is refused: {}", refused.words()));
            }
            Answer::Refused(refused) => return fault("data: true", refused.words()),
        }
        is_as_before(stage, &server, &auth)?;
    }
    stage.pause()?;
    is_as_before(stage, &server, &auth)
}

/// Given back twice at once, and once more: it is over.
pub fn decommission(stage: &mut Stage) -> Step<()> {
    let server = stage.server()?;
    let shared: &Stage = stage;
    shared.at_once(2, |_| shared.caller.is_true(DECOMMISSION, &server.act()))?;
    shared.decommission(&server)?;
    is_gone(stage, &server)?;
    stage.is_over = true;
    Ok(())
}

/// What comes late, out of its order, brings nothing back.
pub fn after(stage: &mut Stage) -> Step<()> {
    let server = stage.server()?;
    if !stage.is_over {
        return Err(Stop::LeftOut("no server was given back".into()));
    }
    if let Answer::Data(data) = stage.caller.call(RESTART, &server.act())? {
        return fault("a refusal to restart it: it is gone", format!("success: {data}"));
    }
    let pool = json!(stage.id());
    if let Ok(address) = stage.allocate(&server, "ipv4", &pool)? {
        return fault("a refusal of an address: its server is gone", format!("success: {address}"));
    }
    if let Ok((again, _)) = stage.order(&server.order)?
        && again.id == server.id
    {
        return fault("a refusal, or another server", format!("{} again, which was given back", server.id));
    }
    Ok(())
}

/// What was given back can be had again.
pub fn had_again(stage: &mut Stage) -> Step<()> {
    if !stage.is_over {
        return Err(Stop::LeftOut("no server was given back".into()));
    }
    let order = stage.place()?.order(&stage.id());
    match stage.order_when_free(&order)? {
        Ok(server) => stage.decommission(&server),
        Err(refused) => fault("a server: machines were given back", refused.words()),
    }
}

/// Everything that was taken is given back.
pub fn given_back(stage: &mut Stage) -> Step<()> {
    let left = stage.give_back();
    if left.is_empty() { Ok(()) } else { fault("everything is given back", format!("left: {}", left.join(", "))) }
}
