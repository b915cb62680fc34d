//! Cases of bad input: each is refused in Cycle's shape, changes nothing, and leaves the server as well as it was.

use serde_json::{Value, json};

use super::caller::{Answer, Step, ask, fault, post};
use super::calls::{
    ALLOCATE, CONFIGURE, DECOMMISSION, LOCATIONS, PROVISION, RELEASE, RESTART, STATUS, VERIFY, flat, wrapped,
};
use super::door::Ask;
use super::reads::{stranger, unharmed};
use super::stage::Stage;

/// What is too much for a request that has about a thousand bytes.
const TOO_LARGE: usize = 4 << 20;

/// What a refused request may be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Refused.
    Refused,
    /// Refused, or true: it is over and done with.
    RefusedOrDone,
}

/// Sends one that has to be refused.
pub fn refuses(stage: &mut Stage, path: &str, request: &str, verdict: Verdict) -> Step<()> {
    let request: Value = serde_json::from_str(request).expect("the table of cases holds JSON");
    match stage.caller.call(path, &request)? {
        Answer::Refused(refused) if refused.status >= 500 => {
            fault(format!("{path}: a refusal, 400 to 499"), refused.words())
        }
        Answer::Refused(refused) => {
            if verdict == Verdict::RefusedOrDone {
                stage.note(format!("refused with {}; true would let Cycle forget it", refused.words()));
            }
            Ok(())
        }
        Answer::Data(Value::Bool(true)) if verdict == Verdict::RefusedOrDone => Ok(()),
        Answer::Data(data) => fault(format!("{path}: a refusal of {request}"), format!("success: {data}")),
    }
}

/// Sends a body that is none.
pub fn body(stage: &mut Stage, bytes: &[u8]) -> Step<()> {
    let asked = Ask { body: Some(bytes.to_vec()), ..post(PROVISION, &Value::Null) };
    match stage.caller.ask(&asked)? {
        Answer::Refused(refused) if refused.status < 500 => Ok(()),
        Answer::Refused(refused) => fault(format!("{PROVISION}: a refusal, 400 to 499"), refused.words()),
        Answer::Data(data) => fault(format!("{PROVISION}: a refusal"), format!("success: {data}")),
    }
}

/// Who is not known gets nothing and changes nothing, whatever he asks for.
pub fn strangers(stage: &mut Stage) -> Step<()> {
    let named = json!({
        "hostname": "h", "model_id": "check-none", "location_id": "check-nowhere", "server_id": "check-none",
        "kind": "ipv4", "ip_id": "192.0.2.1", "ip_assignment_id": "check-none", "cidr": "192.0.2.1/32",
    });
    for auth in [stranger(&stage.caller.auth), Value::Null] {
        for path in [CONFIGURE, PROVISION, STATUS, RESTART, DECOMMISSION, ALLOCATE, RELEASE] {
            match stage.caller.ask(&post(path, &wrapped(&auth, &named)))? {
                Answer::Refused(refused) if matches!(refused.status, 401 | 403) => {}
                Answer::Refused(refused) if refused.status < 500 => {
                    stage.note(format!("{path} tells strangers {}; 401 tells them less", refused.words()));
                }
                Answer::Refused(refused) => return fault(format!("{path}: 401"), refused.words()),
                // Release may come without credentials: what is given back there is nothing.
                Answer::Data(Value::Bool(true)) if path == RELEASE => {
                    stage.note("release answers true to strangers for what is nobody's");
                }
                Answer::Data(data) => return fault(format!("{path}: 401"), format!("success: {data}")),
            }
        }
    }
    Ok(())
}

/// Paths and verbs that are none.
pub fn paths(stage: &mut Stage) -> Step<()> {
    let body = wrapped(&stage.caller.auth, &json!({}));
    for (method, path) in [
        ("POST", "/v1/check/unheard-of"),
        ("PUT", VERIFY),
        ("DELETE", LOCATIONS),
        ("GET", PROVISION),
        ("GET", DECOMMISSION),
    ] {
        let reply = stage.caller.raw(&ask(method, path, &body))?;
        if (200..300).contains(&reply.status) {
            return fault(format!("{method} {path}: a refusal"), format!("status {}", reply.status));
        }
        unharmed(stage, &reply, path)?;
        if stage.caller.read(path, &reply).is_err() {
            stage.note(format!("{method} {path} is refused with {}, and not in Cycle's shape", reply.status));
        }
    }
    Ok(())
}

/// A body of four megabytes from somebody unknown.
pub fn too_large(stage: &mut Stage) -> Step<()> {
    let auth = stranger(&stage.caller.auth);
    let body = wrapped(&auth, &Value::Null).to_string();
    let padded = format!("{},\"padding\":\"{}\"}}", body.trim_end_matches('}'), "x".repeat(TOO_LARGE));
    let asked = Ask { body: Some(padded.into_bytes()), ..post(VERIFY, &Value::Null) };
    match stage.caller.door.ask(&asked) {
        // Hung up on: as good.
        Err(_) => stage.note("a body of 4 MiB is hung up on, so that who sent it does not hear why"),
        Ok(reply) if (200..300).contains(&reply.status) => {
            return fault(
                format!("{VERIFY}: a body of {TOO_LARGE} bytes is refused"),
                format!("status {}: it was read to its end, for somebody unknown", reply.status),
            );
        }
        Ok(reply) => {
            unharmed(stage, &reply, VERIFY)?;
            if stage.caller.read(VERIFY, &reply).is_err() {
                stage.note(format!("a body of 4 MiB is refused with {}, and not in Cycle's shape", reply.status));
            }
        }
    }
    stage.caller.data(VERIFY, &Value::Null).map(drop)
}

/// Objects within objects.
pub fn too_deep(stage: &mut Stage) -> Step<()> {
    let deep = format!("{{\"request\":{}1{}}}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    let lists = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    for text in [deep, lists] {
        let asked = Ask { body: Some(text.into_bytes()), ..post(PROVISION, &Value::Null) };
        let reply = stage.caller.raw(&asked)?;
        if (200..300).contains(&reply.status) {
            return fault(format!("{PROVISION}: a refusal"), format!("status {}", reply.status));
        }
        unharmed(stage, &reply, PROVISION)?;
    }
    Ok(())
}

/// An id of 32 KiB, and one with control characters.
pub fn long_texts(stage: &mut Stage) -> Step<()> {
    for id in ["x".repeat(32 << 10), "a\u{0}b\u{7}c\r\nd".to_owned()] {
        for request in
            [json!({ "server_id": id, "location_id": id }), flat(&stage.caller.auth, &json!({ "server_id": id }))]
        {
            match stage.caller.call(STATUS, &request)? {
                Answer::Refused(refused) if refused.status < 500 => {}
                Answer::Refused(refused) => return fault(format!("{STATUS}: 400 to 499"), refused.words()),
                Answer::Data(data) => return fault(format!("{STATUS}: a refusal"), format!("success: {data}")),
            }
        }
    }
    Ok(())
}
