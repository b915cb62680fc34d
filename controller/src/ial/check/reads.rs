//! Cases that change nothing: credentials, the catalog, and the ways in which both may be asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::caller::{Answer, Dress, Fault, Step, Stop, ask, fault, post, shaped};
use super::calls::{LOCATIONS, MODELS, VERIFY, flat, wrapped};
use super::door::{Ask, Reply};
use super::shape::{self, Shape};
use super::stage::Stage;

/// How many ask for the catalog at one time.
const CROWD: usize = 32;

/// How often the catalog is read in a day.
const RESYNCS: usize = 4;

/// Six hours, compressed.
const BETWEEN_RESYNCS: Duration = Duration::from_millis(250);

/// One way to ask for something, and what says that it is one.
pub struct Reading {
    /// In words.
    pub words: String,
    /// As it is sent.
    pub ask: Ask,
}

/// At least one reading has to be served, and all that are have to say the same, which is answered.
pub fn readings(stage: &mut Stage, all: Vec<Reading>, check: impl Fn(&Value) -> Step<()>) -> Step<Value> {
    let mut served: Option<(Value, String)> = None;
    let mut refused = Vec::new();
    for Reading { words, ask } in all {
        let reply = stage.caller.raw(&ask)?;
        let data = match reply.status {
            400..=499 | 501 => Err(reply.status),
            _ => match stage.caller.read(&ask.path, &reply)? {
                Answer::Data(data) => Ok(data),
                Answer::Refused(refused) => Err(refused.status),
            },
        };
        match (data, &served) {
            (Err(status), _) => refused.push(format!("{words} is answered with {status}")),
            (Ok(data), Some((before, other))) if *before != data => {
                return fault(format!("{words}: the answer that {other} has"), data.to_string());
            }
            (Ok(_), Some(_)) => {}
            (Ok(data), None) => {
                check(&data)?;
                served = Some((data, words));
            }
        }
    }
    let Some((data, _)) = served else { return fault("one reading at least that is served", refused.join("; ")) };
    for words in refused {
        stage.note(format!("{words}: Cycle's documents differ, and its platform may well use another reading"));
    }
    Ok(data)
}

fn is_valid(data: &Value) -> Step<()> {
    shaped(data, shape::VERIFY)?;
    if data["valid"] == true { Ok(()) } else { fault("data/valid: true", data.to_string()) }
}

/// What to do where the server does not know the credentials. Another one may be right, and its answer wrong.
const NOT_KNOWN: &str = "give a credential that the server knows, with --key and --secret-file or with --auth, and its \
                         --hub-id where it is for one hub; where it does know this one: answer valid: true";

/// The good credentials are good. Where nobody answers, or nobody who knows them, nothing else is worth trying.
pub fn verify(stage: &mut Stage) -> Step<()> {
    let reply = match stage.caller.raw(&post(VERIFY, &wrapped(&stage.caller.auth, &Value::Null))) {
        Err(Stop::Fault(mut fault)) => {
            stage.closed = Some("the first call was not answered");
            if fault.remedy.is_empty() {
                fault.remedy = "see whether the server runs, whether host and port of the URL are its own, and whether \
                                it begins with http:// or https://";
            }
            return Err(Stop::Fault(fault));
        }
        other => other?,
    };
    let data = match stage.caller.read(VERIFY, &reply) {
        Ok(Answer::Data(data)) => data,
        Ok(Answer::Refused(refused)) if matches!(refused.status, 401 | 403 | 429) => {
            return not_known(stage, refused.words());
        }
        Ok(Answer::Refused(refused)) => return fault(format!("POST {VERIFY}: success"), refused.words()),
        Err(Stop::Fault(mut fault)) if serde_json::from_slice::<Value>(&reply.body).is_err() => {
            stage.closed = Some("the first call was not answered in JSON");
            fault.remedy = "see whether this is the base URL of an IAL server: Cycle puts /v1/… behind it";
            return Err(Stop::Fault(fault));
        }
        Err(stop) => return Err(stop),
    };
    shaped(&data, shape::VERIFY)?;
    if data["valid"] != true {
        return not_known(stage, data.to_string());
    }
    if stage.caller.dress() == Some(Dress::Bare) {
        stage.note("answers are bare payloads, as Cycle's OpenAPI file has them; its prose demands {data, error}");
    }
    Ok(())
}

fn not_known(stage: &mut Stage, got: String) -> Step<()> {
    stage.closed = Some("needs a credential that the server knows");
    Err(Stop::Fault(Fault { expected: "data/valid: true".into(), got, remedy: NOT_KNOWN }))
}

/// What is not known beside the credentials is nobody's business.
pub fn verify_unknown_keys(stage: &mut Stage) -> Step<()> {
    let mut auth = stage.caller.auth.clone();
    auth["key_id"] = json!("unknown");
    auth["cycle"]["hub_color"] = json!(7);
    for request in [Value::Null, json!({}), json!({ "unheard_of": [1, 2.5, { "a": null }] })] {
        let mut body = wrapped(&auth, &request);
        body["trace"] = json!({ "id": 1 });
        match stage.caller.ask(&post(VERIFY, &body))? {
            Answer::Data(data) => is_valid(&data)?,
            Answer::Refused(refused) => return fault("data/valid: true", refused.words()),
        }
    }
    // A wrapper without `request` at all.
    match stage.caller.ask(&post(VERIFY, &json!({ "auth": auth })))? {
        Answer::Data(data) => is_valid(&data),
        Answer::Refused(refused) => fault("data/valid: true", refused.words()),
    }
}

/// Wrong credentials, and none.
pub fn verify_strangers(stage: &mut Stage) -> Step<()> {
    for (auth, words) in [(stranger(&stage.caller.auth), "a wrong secret"), (Value::Null, "no credentials")] {
        match stage.caller.ask(&post(VERIFY, &wrapped(&auth, &Value::Null)))? {
            Answer::Data(data) => {
                shaped(&data, shape::VERIFY)?;
                if data["valid"] == true {
                    return fault(format!("data/valid: false for {words}"), "true");
                }
            }
            Answer::Refused(refused) if refused.status < 500 => {
                stage.note(format!("{words}: refused with {} in place of valid: false", refused.status));
            }
            Answer::Refused(refused) => return fault("data/valid: false", refused.words()),
        }
    }
    Ok(())
}

/// These credentials with another secret.
pub fn stranger(auth: &Value) -> Value {
    let mut auth = auth.clone();
    for (key, value) in auth.as_object_mut().into_iter().flatten() {
        if value.is_string() && key != "region" && key != "namespace" {
            *value = json!("bm90LXRoaXMtb25l");
        }
    }
    auth
}

/// Slashes too many, and none of them a redirect.
pub fn slashes(stage: &mut Stage) -> Step<()> {
    let body = wrapped(&stage.caller.auth, &Value::Null);
    let paths = [VERIFY.to_owned(), format!("{VERIFY}/"), format!("/{VERIFY}"), VERIFY.replacen("/auth", "//auth", 1)];
    let all = paths.iter().map(|path| Reading { words: format!("POST {path}"), ask: post(path, &body) });
    readings(stage, all.collect(), is_valid).map(drop)
}

/// The type of the body, said in more ways than one.
pub fn content_types(stage: &mut Stage) -> Step<()> {
    let plain = post(VERIFY, &wrapped(&stage.caller.auth, &Value::Null));
    let types = ["content-type: application/json\r\n", "content-type: application/json; charset=utf-8\r\n", ""];
    let all = types.iter().map(|line| Reading {
        words: if line.is_empty() { "no content-type".into() } else { line.trim().to_owned() },
        ask: Ask { headers: (*line).to_owned(), ..plain.clone() },
    });
    readings(stage, all.collect(), is_valid)?;
    let kind = stage.caller.raw(&plain)?.header("content-type").to_owned();
    if !kind.to_ascii_lowercase().starts_with("application/json") {
        stage.note(format!("answers come with content-type {kind:?}, and the documents have application/json"));
    }
    Ok(())
}

/// The catalog by GET without a body and with one, and by POST.
fn catalog(stage: &mut Stage, path: &'static str, shape: Shape) -> Step<Value> {
    let auth = stage.caller.auth.clone();
    let body = wrapped(&auth, &Value::Null);
    let all = vec![
        Reading { words: format!("GET {path} with a body"), ask: ask("GET", path, &body) },
        Reading {
            words: format!("GET {path} without a body"),
            ask: Ask { method: "GET", path: path.to_owned(), ..Ask::default() },
        },
        Reading { words: format!("POST {path}"), ask: post(path, &body) },
        Reading { words: format!("GET {path}, flat"), ask: ask("GET", path, &flat(&auth, &json!({}))) },
    ];
    let data = readings(stage, all, |data| shaped(data, shape).map(drop))?;
    for missed in shaped(&data, shape)? {
        stage.note(format!("{missed} is absent: Cycle's own types have it, its OpenAPI file has not"));
    }
    Ok(data)
}

/// Every location, with an id of its own.
pub fn locations(stage: &mut Stage) -> Step<()> {
    let data = catalog(stage, LOCATIONS, shape::LOCATIONS)?;
    stage.locations = list(&data, "locations");
    unique(&ids(&stage.locations, "location_id"), "location_id")?;
    if stage.locations.is_empty() {
        stage.note("there is no location: nothing can be provisioned");
    }
    Ok(())
}

/// Every model, with an id of its own, at locations that are known.
pub fn models(stage: &mut Stage) -> Step<()> {
    let data = catalog(stage, MODELS, shape::MODELS)?;
    stage.models = list(&data, "models");
    unique(&ids(&stage.models, "model_id"), "model_id")?;
    let known: BTreeSet<String> = ids(&stage.locations, "location_id").into_iter().collect();
    for model in &stage.models {
        let provider = &model["provider"];
        let at = texts(&provider["locations"]);
        let zones = provider["availability_zones"].as_object();
        let named = at.iter().chain(zones.into_iter().flatten().map(|(location, _)| location));
        for location in named {
            if !known.contains(location) {
                let id = &provider["model_id"];
                return fault(format!("model {id} is at locations that are listed"), format!("{location} is not"));
            }
        }
        for (location, zones) in zones.into_iter().flatten() {
            let there = stage.locations.iter().find(|l| l["provider"]["location_id"] == location.as_str());
            let listed = there.map(|l| texts(&l["provider"]["availability_zones"])).unwrap_or_default();
            if let Some(zone) = texts(zones).into_iter().find(|zone| !listed.contains(zone)) {
                return fault(format!("zone {zone} of a model is a zone of {location}"), format!("it has {listed:?}"));
            }
        }
    }
    Ok(())
}

/// A day of resyncs: whatever is there again is what it was.
pub fn resync(stage: &mut Stage) -> Step<()> {
    for n in 0..RESYNCS {
        if n > 0 {
            std::thread::sleep(stage.poll.min(BETWEEN_RESYNCS));
        }
        look_again(stage)?;
    }
    Ok(())
}

/// Reads the catalog once more beside what is known of it.
pub fn look_again(stage: &Stage) -> Step<()> {
    let body = wrapped(&stage.caller.auth, &Value::Null);
    for (path, key, id, shape, before) in [
        (LOCATIONS, "locations", "location_id", shape::LOCATIONS, &stage.locations),
        (MODELS, "models", "model_id", shape::MODELS, &stage.models),
    ] {
        let answer = match stage.caller.ask(&ask("GET", path, &body))? {
            Answer::Refused(_) => stage.caller.call(path, &Value::Null)?,
            served => served,
        };
        let Answer::Data(data) = answer else { return fault(format!("{path}: what it was before"), "a refusal") };
        shaped(&data, shape)?;
        let now = list(&data, key);
        for old in before {
            let name = &old["provider"][id];
            match now.iter().find(|new| new["provider"][id] == *name) {
                Some(new) if new["specs"] != old["specs"] => {
                    return fault(format!("{name} is what it was: {}", old["specs"]), new["specs"].to_string());
                }
                // A model of which nothing is left may go.
                None if key == "locations" => {
                    return fault(format!("location {name} is listed again"), "it is gone");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Many at a time get the same catalog.
pub fn crowd(stage: &mut Stage) -> Step<()> {
    let stage: &Stage = stage;
    stage.at_once(CROWD, |_| look_again(stage)).map(drop)
}

/// Who hangs up is not missed, and asks again.
pub fn hang_up(stage: &mut Stage) -> Step<()> {
    let asked = post(VERIFY, &wrapped(&stage.caller.auth, &Value::Null));
    for n in 0..8 {
        // Whether it was heard is not known, and is not to matter.
        let _ = if n % 2 == 0 { stage.caller.door.hang_up(&asked) } else { stage.caller.door.break_off(&asked) };
    }
    is_valid(&stage.caller.data(VERIFY, &Value::Null)?)
}

/// What is answered, whatever was asked: no redirect and no fault of the server.
pub fn unharmed(stage: &Stage, reply: &Reply, path: &str) -> Step<()> {
    if reply.status >= 500 {
        return fault(format!("{path}: a refusal, 400 to 499"), format!("status {}", reply.status));
    }
    is_valid(&stage.caller.data(VERIFY, &Value::Null)?)
}

fn list(data: &Value, key: &str) -> Vec<Value> {
    data[key].as_array().cloned().unwrap_or_default()
}

/// The ids of what the catalog lists.
pub fn ids(list: &[Value], key: &str) -> Vec<String> {
    list.iter().filter_map(|entry| entry["provider"][key].as_str().map(str::to_owned)).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// Errors: one is there twice.
pub fn unique(all: &[String], what: &str) -> Result<(), Stop> {
    let mut seen = BTreeSet::new();
    match all.iter().find(|one| !seen.insert(*one)) {
        Some(twice) => fault(format!("each {what} is there once"), format!("{twice} is there twice")),
        None => Ok(()),
    }
}
