//! The audit log: every change has an author, a before and an after, and its place in the chain.

use std::collections::BTreeSet;

use axum::http::Method;
use muster_controller::api::openapi;
use muster_controller::fleet::audit::{Chain, Head};
use muster_controller::fleet::enrollment::{self, Seen};
use muster_controller::fleet::record::{AddressHolder, Location, Subnet};
use muster_controller::fleet::ticket::{self, Grant};
use muster_controller::fleet::{Author, address, location, machine, operation, subnet};
use muster_protocol::hello::Progress;
use muster_protocol::{BootId, Digest, MachineId};
use serde_json::{Value, json};

use crate::feed::read_until;
use crate::join::iso;
use crate::lab::{Lab, Reply};
use crate::lease::leased;

/// A change that is asked for: its method, its route as the OpenAPI document has it, its path and its body.
type Change = (Method, &'static str, String, Value);

fn patch(route: &'static str, path: impl Into<String>, body: Value) -> Change {
    (Method::PATCH, route, path.into(), body)
}

fn post(route: &'static str, path: impl Into<String>, body: Value) -> Change {
    (Method::POST, route, path.into(), body)
}

fn put(route: &'static str, path: impl Into<String>, body: Value) -> Change {
    (Method::PUT, route, path.into(), body)
}

fn delete(route: &'static str, path: impl Into<String>) -> Change {
    (Method::DELETE, route, path.into(), Value::Null)
}

/// One of every change that the API knows, in an order in which each is possible.
async fn changes(lab: &Lab) -> Vec<Change> {
    let (pending, stranger, old) = (lab.enrolled("P1").await, lab.enrolled("P2").await, lab.online("P3").await);
    let online = lab.online("S1").await;
    lab.joins("", "BRD-1", 1).await.expect("joins");
    let doubtful = lab.joins("", "BRD-1", 2).await.expect("joins");
    let (_, lease) = leased(lab, "L1").await;
    let (gone, _) = leased(lab, "L2").await;
    let (unclean, other) = leased(lab, "L3").await;
    let fail = move |draft: &mut muster_controller::fleet::Draft| {
        muster_controller::fleet::lease::decommission(draft, &other)?;
        let cleaning: Vec<_> = draft.state().unfinished(unclean).map(|operation| operation.id).collect();
        cleaning.into_iter().try_for_each(|id| operation::refused(draft, id, "an I/O error"))
    };
    lab.fleet.change(Author::controller(), fail).await.expect("its cleaning fails");
    let taken = lab.fleet.change(Author::controller(), |draft| {
        location::put(draft, Location { code: "ams1".into(), ..Location::default() })?;
        location::put(draft, Location { code: "ber1".into(), ..Location::default() })?;
        for (net, at) in [("198.51.100.0/24", "ams1"), ("10.0.0.0/24", "ber1")] {
            subnet::add(draft, Subnet::new(net.parse().expect("a prefix"), at))?;
        }
        let holder = AddressHolder::Pool {
            hub: "acme".into(),
            pool: "p".into(),
            lease: "l".into(),
            assignment: "feedfacefeedfacefeedfacefeedface".into(),
        };
        Ok(address::take(draft, "ams1", address::Family::V4, holder)?.0.block.addr())
    });
    let address = taken.await.expect("taken");
    let model = lab.get("/models").await.succeeds().text("/items/0/id").to_owned();
    let machine = |id: MachineId, what: &str| format!("/machines/{id}{what}");
    let document = "network:\n  ethernets:\n    eth0:\n      addresses: [192.0.2.7/24]\n";
    vec![
        post("/machines/{machine}/approve", machine(pending, "/approve"), json!({})),
        post("/machines/{machine}/reject", machine(stranger, "/reject"), json!({})),
        post("/machines/{machine}/resolve", machine(doubtful, "/resolve"), json!({"separate": true})),
        post("/machines/{machine}/retire", machine(old, "/retire"), json!({})),
        patch("/machines/{machine}", machine(online, ""), json!({"name": "kitchen"})),
        patch("/machines/{machine}", machine(online, ""), json!({"labels": {"rack": "4"}})),
        patch("/machines/{machine}", machine(online, ""), json!({"maintenance": true})),
        patch("/machines/{machine}", machine(online, ""), json!({"on_drift": "report"})),
        post("/machines/{machine}/apply", machine(online, "/apply"), json!({"document": document})),
        post("/machines/{machine}/power", machine(online, "/power"), json!({"action": "reboot"})),
        post(
            "/machines/{machine}/wipe",
            machine(online, "/wipe"),
            json!({"disks": ["serial:DISK-S1"], "level": "quick"}),
        ),
        post("/operations/{operation}/cancel", "", Value::Null),
        put(
            "/machines/{machine}/bmc",
            machine(online, "/bmc"),
            json!({"ipmi": "10.0.9.8", "user": "admin", "password": "hunter2hunter2"}),
        ),
        delete("/machines/{machine}/bmc", machine(online, "/bmc")),
        put(
            "/machines/{machine}/outlet",
            machine(online, "/outlet"),
            json!({"on": "http://u:hunter2@10.0.9.9/on", "off": "http://10.0.9.9/off?key=hunter2"}),
        ),
        delete("/machines/{machine}/outlet", machine(online, "/outlet")),
        put("/machines/{machine}/wake", machine(online, "/wake"), json!({"on_lan": true})),
        post("/rollouts", "/rollouts", json!({"document": document, "selector": {"labels": "rack=4"}})),
        post("/rollouts/{rollout}/pause", "/rollouts/1/pause", json!({})),
        post("/rollouts/{rollout}/resume", "/rollouts/1/resume", json!({})),
        post("/rollouts/{rollout}/cancel", "/rollouts/1/cancel", json!({})),
        post("/leases/{lease}/end", format!("/leases/{lease}/end"), json!({})),
        post("/machines/{machine}/clean", machine(unclean, "/clean"), json!({})),
        post("/machines/{machine}/write-off", machine(gone, "/write-off"), json!({})),
        put("/locations/{code}", "/locations/ham1", json!({"name": "Hamburg"})),
        put("/locations/{code}", "/locations/ham1", json!({"name": "Harburg"})),
        put("/locations/{code}/metadata", "/locations/ham1/metadata", json!({"user_data": "#cloud-config"})),
        post("/subnets", "/subnets", json!({"net": "192.0.2.0/24", "location": "ham1"})),
        delete("/subnets/{net}", "/subnets/192.0.2.0%2F24"),
        delete("/locations/{code}", "/locations/ham1"),
        post("/addresses", "/addresses", json!({"machine": online.to_string(), "subnet": "10.0.0.0/24"})),
        delete("/addresses/{address}", format!("/addresses/{address}")),
        patch("/models/{model}", format!("/models/{model}"), json!({"name": "small"})),
        post("/tickets", "/tickets", json!({"location": "ams1"})),
        post("/isos", "/isos", iso(0xab, "ams1")),
        post("/isos/{id}/revoke", "/isos/ab0000000000/revoke", json!({})),
        post("/policies", "/policies", json!({"name": "rack", "serials": ["X-1"]})),
        delete("/policies/{name}", "/policies/rack"),
        post("/tokens", "/tokens", json!({"name": "ci", "role": "viewer"})),
        delete("/tokens/{id}", ""),
        post("/ial/credentials", "/ial/credentials", json!({"hub": "berlin"})),
        delete("/ial/credentials/{key}", ""),
        post("/ca/boot", "/ca/boot", json!({})),
        post("/ca/rotate", "/ca/rotate", json!({})),
        post("/ca/finish", "/ca/finish", json!({"force": true})),
    ]
}

/// What a change that was made before it needs to know of.
fn follows(change: &mut Change, before: &[Reply]) {
    let last = before.last().map(|reply| &reply.body).unwrap_or(&Value::Null);
    let id = |key: &str| last[key].as_str().expect("made just before").to_owned();
    match (change.1, change.2.is_empty()) {
        ("/operations/{operation}/cancel", true) => change.2 = format!("/operations/{}/cancel", id("id")),
        ("/tokens/{id}", true) => change.2 = format!("/tokens/{}", id("id")),
        ("/ial/credentials/{key}", true) => change.2 = format!("/ial/credentials/{}", id("key")),
        _ => {}
    }
}

#[tokio::test]
async fn every_change_that_the_api_can_make_is_in_the_audit_log_with_its_author() {
    let lab = Lab::new().await;
    let (mut replies, mut called) = (Vec::new(), BTreeSet::new());
    for (n, mut change) in changes(&lab).await.into_iter().enumerate() {
        follows(&mut change, &replies);
        let (method, route, path, body) = change;
        let request = format!("request-{n}");
        let ask = lab.ask(method.clone(), &*path).token(Some(&lab.admin)).header("x-request-id", &*request);
        let reply = if body.is_null() { ask.send().await } else { ask.json(body).send().await }.succeeds();
        assert_eq!(reply.header("x-request-id"), request);
        let log = lab.get(format!("/audit?request={request}")).await.succeeds();
        let entries = log.body["items"].as_array().expect("a list");
        assert!(!entries.is_empty(), "{method} {path} is not in the audit log");
        for entry in entries {
            assert_eq!((&entry["who"], &entry["result"]), (&json!(lab.who("root")), &json!("done")), "{entry:#}");
            assert_eq!(entry["from"], "198.51.100.9:5555");
            assert_ne!(entry["before"], entry["after"], "{method} {path} does not say what changed: {entry:#}");
        }
        called.insert((method.to_string().to_lowercase(), route.to_owned()));
        replies.push(reply);
    }
    let document = serde_json::to_value(openapi()).expect("a document");
    let mut known = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let methods = item.as_object().expect("methods").keys().filter(|method| *method != "get");
        known.extend(methods.map(|method| (method.clone(), path.replace("/api/v1", ""))));
    }
    for reads in ["/machines/{machine}/plan", "/machines/{machine}/diff", "/rollouts/plan", "/rollouts/diff"] {
        assert!(known.remove(&("post".to_owned(), reads.to_owned())));
    }
    assert_eq!(called, known, "a change that the API can make is not asked for here");
    verify(&lab).await;
}

async fn lines(lab: &Lab, query: &str) -> Vec<String> {
    let response = lab.ask(Method::GET, format!("/audit{query}")).header("accept", "application/jsonl").open().await;
    assert_eq!(response.headers()["content-type"], "application/jsonl");
    let bytes = axum::body::to_bytes(response.into_body(), 64 << 20).await.expect("the body comes whole");
    String::from_utf8(bytes.to_vec()).expect("UTF-8").lines().map(str::to_owned).collect()
}

/// The export is whole, and ends where the controller says that it does.
async fn verify(lab: &Lab) -> Vec<String> {
    let head: Head = lab.get("/audit/head").await.succeeds().text("/head").parse().expect("a head");
    let mut chain = Chain::with([head]);
    let lines = lines(lab, "").await;
    lines.iter().for_each(|line| drop(chain.add(line).expect("the next one")));
    assert_eq!(chain.end(), Ok(head));
    lines
}

#[tokio::test]
async fn no_secret_is_ever_in_the_audit_log() {
    let lab = Lab::new().await;
    let mut secrets = vec![lab.admin.clone(), lab.operator.clone(), "feedfacefeedface".to_owned()];
    let mut replies = Vec::new();
    for mut change in changes(&lab).await {
        follows(&mut change, &replies);
        let (method, _, path, body) = change;
        let ask = lab.ask(method, path).token(Some(&lab.admin));
        let reply = if body.is_null() { ask.send().await } else { ask.json(body).send().await }.succeeds();
        secrets
            .extend(["token", "secret", "ticket"].iter().filter_map(|key| Some(reply.body[key].as_str()?.to_owned())));
        replies.push(reply);
    }
    let wrong = lab.ask(Method::GET, "/status").token(Some("muster_00000000_hunter2")).send().await;
    wrong.refuses(401, "unauthenticated", "Authorization");
    secrets.push("hunter2".into());
    assert_eq!(secrets.len(), 7);
    let log = verify(&lab).await.join("\n");
    for secret in secrets {
        let part = secret.rsplit('_').next().expect("one part at least");
        assert!(!log.contains(part) && !log.contains(&Digest::of(part.as_bytes()).to_string()), "{part}");
    }
}

#[tokio::test]
async fn what_was_refused_has_an_author_too_and_strangers_write_nothing() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let before = lab.fleet.state().next_audit();
    let approve = |token: &str| {
        let ask = lab.ask(Method::POST, format!("/machines/{id}/approve")).token(Some(token));
        ask.header("x-request-id", "try-7").json(json!({})).send()
    };
    let refused = approve(&lab.viewer).await;
    refused.refuses(403, "forbidden", "Authorization");
    assert_eq!((refused.header("x-request-id"), refused.text("/request_id")), ("try-7", "try-7"));
    approve("muster_00000000_00").await.refuses(401, "unauthenticated", "Authorization");
    lab.post("/machines/nobody/retire", json!({})).await.refuses(404, "not-found", "machine");
    lab.post("/machines/nobody/plan", json!({"document": ""})).await.refuses(422, "document-invalid", "document");
    lab.get("/machines/nobody").await.refuses(404, "not-found", "machine");
    lab.post("/tickets", json!({"location": 7})).await.refuses(422, "invalid", "location");

    let log = lab.get(format!("/audit?result=refused&after={}", before - 1)).await.succeeds();
    let items = log.body["items"].as_array().expect("a list");
    let said = |n: usize| (items[n]["who"].as_str(), items[n]["subject"].as_str(), items[n]["result"].as_str());
    assert_eq!(items.len(), 3, "{:#}", log.body);
    let path = format!("POST /api/v1/machines/{id}/approve");
    let why = "refused: forbidden: the token \"viola\" is a viewer's; this needs operator";
    assert_eq!(said(2), (Some(lab.who("viola").as_str()), Some(path.as_str()), Some(why)));
    assert_eq!((&items[2]["request"], &items[2]["action"]), (&json!("try-7"), &json!("request.refused")));
    assert_eq!(said(1).1, Some("POST /api/v1/machines/nobody/retire"));
    assert!(said(0).2.is_some_and(|why| why.starts_with("refused: invalid: location: ")), "{:?}", said(0));
    assert_eq!(lab.fleet.state().next_audit(), before + 3, "strangers and readers write nothing");
    verify(&lab).await;
}

#[tokio::test]
async fn a_script_that_goes_wrong_does_not_fill_the_audit_log() {
    let lab = Lab::new().await;
    let before = lab.fleet.state().next_audit();
    for _ in 0..100 {
        lab.post("/machines/nobody/retire", json!({})).await.refuses(404, "not-found", "machine");
    }
    let written = lab.fleet.state().next_audit() - before;
    assert!((60..=70).contains(&written), "{written} entries");
    verify(&lab).await;
}

#[tokio::test]
async fn the_log_is_chosen_from_by_who_what_when_and_how_it_ended() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    lab.post(format!("/machines/{id}/approve"), json!({})).await.succeeds();
    lab.ask(Method::PUT, "/locations/ber1").token(Some(&lab.admin)).json(json!({})).send().await.succeeds();
    lab.post("/machines/nobody/retire", json!({})).await.refuses(404, "not-found", "machine");
    let all = lab.fleet.state().next_audit() - 1;
    let count = |query: &str| {
        let (page, query, lab) = (lab.get(format!("/audit?{query}")), format!("?{query}"), &lab);
        async move {
            let export = lines(lab, &query);
            let page = page.await.succeeds().body["items"].as_array().map(Vec::len);
            assert_eq!(page, Some(export.await.len()), "a page and an export are of the same entries");
            page.expect("a list") as u64
        }
    };
    let subject = format!("subject={id}");
    let by_name = format!("subject={}", lab.get(format!("/machines/{id}")).await.succeeds().text("/name"));
    let by_id = format!("who={}", lab.who("olga"));
    for (query, expected) in [
        ("who=token:olga", 2),
        ("who=token:nobody", 0),
        (&by_id, 2),
        (&subject, 1),
        (&by_name, 1),
        ("subject=nobody", 0),
        ("action=machine.", 1),
        ("action=machine.approved", 1),
        ("action=achine", 0),
        ("result=refused", 1),
        ("result=done", all - 1),
        ("since=1h", all),
        ("since=2100-01-01", 0),
        ("until=2100-01-01T00:00:00Z", all),
        ("until=1h", 0),
        ("who=token:olga&result=done", 1),
        ("limit=2", 2),
        (&format!("after={}", all - 1), 1),
    ] {
        assert_eq!(count(query).await, expected, "{query}");
    }
    for (query, field) in
        [("since=soon", "since"), ("until=-1d", "until"), ("result=maybe", "result"), ("after=x", "after")]
    {
        lab.get(format!("/audit?{query}")).await.refuses(422, "invalid", field);
    }
    // Pages follow each other, newest first.
    let first = lab.get("/audit?limit=3").await.succeeds();
    let second = lab.get(format!("/audit?limit=3&cursor={}", first.text("/next"))).await.succeeds();
    let seqs = |reply: &Reply| (0..3).map(|n| reply.body["items"][n]["seq"].as_u64()).collect::<Vec<_>>();
    assert_eq!([seqs(&first), seqs(&second)].concat(), (all - 5..=all).rev().map(Some).collect::<Vec<_>>());
    let viewer = lab.ask(Method::GET, "/audit").token(Some(&lab.viewer)).send().await;
    viewer.refuses(403, "forbidden", "Authorization");
}

#[tokio::test]
async fn a_live_log_tells_the_very_lines_that_are_hashed() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let open = |path: &'static str| lab.ask(Method::GET, path).header("accept", "text/event-stream").open();
    let (all, approvals) = (open("/audit?after=0").await, open("/audit?action=machine.approved").await);
    lab.ask(Method::PUT, "/locations/ber1").json(json!({})).send().await.succeeds();
    lab.post(format!("/machines/{id}/approve"), json!({})).await.succeeds();
    let data = |read: &str| -> Vec<String> {
        read.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    };
    let lines = verify(&lab).await;
    assert_eq!(data(&read_until(all, "machine.approved\",").await), lines);
    assert_eq!(data(&read_until(approvals, "machine.approved\",").await), lines[lines.len() - 1..]);
}

#[tokio::test]
async fn an_enrollment_is_in_the_audit_log_with_the_key_that_it_was_for_and_strangers_are_not() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    assert_eq!(lab.get(format!("/audit?subject={id}")).await.succeeds().body["items"], json!([]));
    lab.post(format!("/machines/{id}/approve"), json!({})).await.succeeds();
    let again = move |draft: &mut muster_controller::fleet::Draft| {
        let identity = draft.state().machines.get(&id).expect("there").identity.clone();
        let ticket = ticket::issue(draft, Grant::bearer("ber1", 1_000))?;
        enrollment::enroll(draft, &ticket, identity, Seen::default(), Digest::of(b"another key"))?;
        machine::hello(draft, id, BootId::from_bytes([9; 16]), Progress::Idle)
    };
    lab.fleet.change(Author::new("enrollment", None, "r"), again).await.expect("enrolls again");
    let log = lab.get(format!("/audit?subject={id}")).await.succeeds();
    let key = Digest::of(b"another key").to_string();
    assert_eq!((log.text("/items/0/action"), log.text("/items/1/action")), ("machine.enrolled", "machine.approved"));
    assert!(log.text("/items/0/after/key") == key && !["", &key].contains(&log.text("/items/0/before/key")));
}
