//! Cases of two hubs: what one of them has is not there for the other.

use std::time::Instant;

use serde_json::{Value, json};

use super::caller::{Answer, Fault, Step, Stop, fault, shaped};
use super::calls::{DECOMMISSION, RESTART, STATUS, Server, VERIFY};
use super::reads::unique;
use super::servers::{distinct, is_as_before, is_same, none_is_free};
use super::shape;
use super::stage::Stage;

/// How often each hub asks at one time.
const TWINS: usize = 2;

/// What to do where the server does not know the second hub.
const NOT_KNOWN: &str = "give a credential of another hub that the server knows, with --second-key and \
                         --second-secret-file or with --second-auth, and its --second-hub-id where it is for one hub";

/// The second hub's credentials are good too.
pub fn verify(stage: &mut Stage) -> Step<()> {
    let got = match stage.second()?.caller.call(VERIFY, &Value::Null)? {
        Answer::Data(data) => {
            shaped(&data, shape::VERIFY)?;
            if data["valid"] == true {
                return Ok(());
            }
            data.to_string()
        }
        Answer::Refused(refused) => refused.words(),
    };
    if let Some(second) = &mut stage.second {
        second.closed = Some("needs a second credential that the server knows");
    }
    Err(Stop::Fault(Fault { expected: "data/valid: true".into(), got, remedy: NOT_KNOWN }))
}

/// What the second hub asks of the first one's server is refused, and changes nothing.
pub fn others_server(stage: &mut Stage) -> Step<()> {
    let pool = json!(stage.id());
    let (second, server) = (stage.second()?, stage.server()?);
    let auth = stage.identity.clone().ok_or_else(|| Stop::LeftOut("no server was provisioned".into()))?;
    for (path, request) in [(STATUS, server.status()), (RESTART, server.act())] {
        if let Answer::Data(data) = second.caller.call(path, &request)? {
            return fault(format!("{path}: a refusal, {} is another hub's", server.id), format!("success: {data}"));
        }
    }
    if let Ok(address) = second.allocate(&server, "ipv4", &pool)? {
        return fault(format!("no address: {} is another hub's", server.id), format!("success: {address}"));
    }
    // True would be no harm, as for what is unknown, as long as nothing comes of it.
    second.caller.call(DECOMMISSION, &server.act())?;
    is_as_before(stage, &server, &auth)
}

/// One id of Cycle's from two hubs is two orders.
pub fn same_id(stage: &mut Stage) -> Step<()> {
    room(stage)?;
    let order = stage.place()?.order(&stage.id());
    let served = contest(stage, [&order, &order])?;
    // Where one of them was refused for want of a machine, its order was no repetition either.
    if let [Some(first), Some(second)] = &served
        && first.id == second.id
    {
        return fault("two servers: the orders are two hubs'", format!("{} for both", first.id));
    }
    give(stage, served)
}

/// The last machine, asked for by two hubs at one time, goes to one of them.
pub fn last_machine(stage: &mut Stage) -> Step<()> {
    room(stage)?;
    let (place, most) = (stage.place()?, stage.orders.map_or(0, |orders| orders.most));
    // All but the last one, as far as they are free by now.
    let mut filled = Vec::new();
    while stage.held() + 2 < most {
        let order = place.order(&stage.id());
        match stage.order(&order)? {
            Ok((server, _)) => filled.push(server),
            Err(_) => {
                filled.pop().map_or(Ok(()), |last| stage.decommission(&last))?;
                break;
            }
        }
    }
    loop {
        let orders = [place.order(&stage.id()), place.order(&stage.id())];
        match contest(stage, [&orders[0], &orders[1]])? {
            [Some(first), Some(second)] => {
                apart(stage)?;
                // One more was free: it stays with the first hub, and they ask for the next one.
                filled.push(first);
                stage.second()?.decommission(&second)?;
            }
            one => {
                give(stage, one)?;
                break;
            }
        }
        if room(stage).is_err() {
            stage.note("all orders of both hubs were served, so the last machine was not reached; see --servers");
            break;
        }
    }
    filled.iter().try_for_each(|server| stage.decommission(server))
}

/// No server of one hub is one of the other's.
fn apart(stage: &Stage) -> Step<()> {
    let hubs = [stage, stage.second()?];
    let all = hubs.into_iter().flat_map(|hub| hub.servers().into_iter().map(move |server| (hub, server)));
    let all: Vec<(&Stage, Server)> = all.collect();
    unique(&all.iter().map(|(_, server)| server.id.clone()).collect::<Vec<_>>(), "server_id")?;
    let known = all.iter().map(|(hub, server)| Ok((server.id.clone(), hub.until_provisioned(server)?)));
    distinct(&known.collect::<Step<Vec<_>>>()?)
}

/// Errors: two servers more are more than it may have.
fn room(stage: &Stage) -> Step<()> {
    let held = stage.held() + stage.second()?.held();
    match stage.orders {
        Some(orders) if orders.most < held + 2 => {
            Err(Stop::LeftOut("needs two servers more at one time; see --servers".into()))
        }
        _ => Ok(()),
    }
}

/// Both hubs ask at one time, each more than once, again and again until one of them is served.
fn contest(stage: &Stage, orders: [&Value; 2]) -> Step<[Option<Server>; 2]> {
    let hubs = [stage, stage.second()?];
    let began = Instant::now();
    loop {
        let answers = stage.at_once(2 * TWINS, |n| hubs[n % 2].order(orders[n % 2]))?;
        none_is_free(answers.iter().filter_map(|answer| answer.as_ref().err()))?;
        let mut served = [None, None];
        for (n, answer) in answers.into_iter().enumerate() {
            let Ok((server, _)) = answer else { continue };
            match &served[n % 2] {
                Some(twin) => is_same(twin, &json!({ "server_id": server.id }))?,
                None => served[n % 2] = Some(server),
            }
        }
        if served.iter().any(Option::is_some) {
            return Ok(served);
        }
        if began.elapsed() > stage.wait {
            return Err(Stop::LeftOut("no machine was free for it".into()));
        }
        stage.pause()?;
    }
}

/// Gives back what either of them got.
fn give(stage: &Stage, [first, second]: [Option<Server>; 2]) -> Step<()> {
    for (hub, server) in [(stage, first), (stage.second()?, second)] {
        server.map_or(Ok(()), |server| hub.decommission(&server))?;
    }
    Ok(())
}
