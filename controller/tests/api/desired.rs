//! Plan, apply, diff, power, and the operations that follow.

use axum::http::Method;
use muster_controller::fleet::{Author, Draft, machine};
use muster_protocol::desired::{Desired, Link, LinkKind};
use muster_protocol::hello::{Progress, Reason, Times};
use muster_protocol::to_agent::{Answer, Call, Impact, Plan, Refusal, Step};
use muster_protocol::{Digest, DiskId, Generation};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::lease::leased;

const NETWORK: &str = "network:\n  version: 2\n  ethernets:\n    eth0:\n      addresses: [192.0.2.7/24]\n";
const STORAGE: &str = "storage:\n  disks:\n    - device: serial:D1\n      partitions: [{number: 1, label: data}]\n";

fn document(text: &str) -> Value {
    json!({"document": text})
}

#[tokio::test]
async fn an_applied_document_is_desired_and_followed_by_an_operation() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let path = format!("/machines/{id}/apply");
    let applied = lab.post(&*path, document(NETWORK)).await.succeeds();
    assert_eq!(applied.status, 202);
    assert_eq!((applied.text("/kind"), applied.text("/state")), ("apply", "queued"));
    let location = applied.header("location").to_owned();
    assert_eq!(lab.get(location.replace("/api/v1", "")).await.succeeds().text("/id"), applied.text("/id"));

    let desired = lab.get(format!("/machines/{id}/desired")).await.succeeds();
    assert_eq!((desired.header("etag"), desired.body["generation"].as_u64()), ("\"1\"", Some(1)));
    assert_eq!(desired.body["document"]["network"]["ethernets"]["eth0"]["addresses"], json!(["192.0.2.7/24"]));

    // A document about storage leaves the network as it was.
    lab.post(&*path, document(STORAGE)).await.succeeds();
    let both = lab.get(format!("/machines/{id}/desired")).await.succeeds();
    assert!(both.body["document"]["network"].is_object() && both.body["document"]["storage"].is_object());

    // The first operation has been overtaken.
    let first = lab.get(location.replace("/api/v1", "")).await.succeeds();
    assert_eq!(first.text("/state"), "failed");
    assert!(first.text("/error").contains("generation 2"));
}

#[tokio::test]
async fn an_apply_repeated_with_its_key_is_one_generation() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let apply = || {
        let path = format!("/machines/{id}/apply");
        lab.ask(Method::POST, path).header("idempotency-key", "k").json(document(NETWORK)).send()
    };
    let (first, again) = (apply().await.succeeds(), apply().await.succeeds());
    assert_eq!((first.text("/id"), again.status.as_u16()), (again.text("/id"), 202));
    assert_eq!(lab.get(format!("/machines/{id}")).await.body["generation"], 1);
}

#[tokio::test]
async fn an_apply_to_what_somebody_else_changed_is_refused() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let apply = |tag: &str| {
        let path = format!("/machines/{id}/apply");
        lab.ask(Method::POST, path).header("if-match", tag).json(document(NETWORK)).send()
    };
    apply("\"0\"").await.succeeds();
    apply("\"0\"").await.refuses(412, "outdated", "If-Match");
    apply("\"1\"").await.succeeds();
}

#[tokio::test]
async fn a_wrong_document_is_refused_with_every_line() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let text = "network:\n  ethernets:\n    eth0:\n      adresses: []\n  wifis: {}\n";
    for verb in ["plan", "diff", "apply"] {
        let reply = lab.post(format!("/machines/{id}/{verb}"), document(text)).await;
        reply.refuses(422, "document-invalid", "document");
        assert_eq!(
            reply.body["problems"],
            json!([
                {"line": 4, "column": 7, "field": "network.ethernets.eth0.adresses",
                 "problem": "adresses is not a known key; did you mean addresses?"},
                {"line": 5, "column": 3, "field": "network.wifis",
                 "problem": "wifis is not supported yet; supported here: bonds, bridges, ethernets, hostname, ntp, renderer, version, vlans"},
            ])
        );
    }
    assert_eq!(lab.get(format!("/machines/{id}")).await.body["generation"], 0);
}

#[tokio::test]
async fn an_operation_says_how_its_machine_came_out_of_it_why_and_how_long_it_took() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let apply = async || {
        let applied = lab.post(format!("/machines/{id}/apply"), document(NETWORK)).await.succeeds();
        assert_eq!([&applied.body["outcome"], &applied.body["reason"], &applied.body["times"]], [&json!(null); 3]);
        format!("/operations/{}", applied.text("/id"))
    };
    let tell = async |progress: Progress| {
        lab.fleet
            .change(Author::controller(), move |draft| machine::progress(draft, id, &progress))
            .await
            .expect("told");
    };
    let times = Times { switch_ms: 300, prove_ms: 10_000, revert_ms: 2_000, ..Times::default() };
    let why = "192.0.2.1 does not answer".to_owned();

    let path = apply().await;
    tell(Progress::Reverted { generation: Generation(1), reason: Reason::NoGateway, why: why.clone(), times }).await;
    let ended = lab.get(path).await.succeeds();
    assert_eq!((ended.text("/state"), ended.text("/outcome")), ("failed", "reverted"));
    assert_eq!((ended.text("/reason"), ended.text("/error")), ("no-gateway", &*format!("reverted: no-gateway: {why}")));
    let said = json!({"make_ms": 0, "prove_beside_ms": 0, "switch_ms": 300, "verify_ms": 0, "prove_ms": 10_000,
                      "revert_ms": 2_000, "total_ms": 12_300});
    assert_eq!(ended.body["times"], said);
    let progress = lab.get(format!("/machines/{id}")).await.succeeds().body["progress"].take();
    assert_eq!(progress, json!({"state": "reverted", "generation": 1, "reason": "no-gateway", "why": why}));
    let event = lab.get("/events").await.succeeds().body.to_string();
    assert!(event.contains("was reverted after 12.3 s: no-gateway: 192.0.2.1 does not answer"), "{event}");

    let path = apply().await;
    tell(Progress::RevertFailed { generation: Generation(2), reason: Reason::VerifyDiffers, why, times }).await;
    let ended = lab.get(path).await.succeeds();
    assert_eq!((ended.text("/outcome"), ended.text("/reason")), ("revert-failed", "verify-differs"));

    let path = apply().await;
    let confirm = move |draft: &mut Draft| {
        let digest = draft.state().desired.get(&id).expect("something is desired").digest;
        machine::confirm(draft, id, Generation(3), digest, times)
    };
    lab.fleet.change(Author::controller(), confirm).await.expect("answered");
    assert_eq!(
        lab.get(path.clone()).await.succeeds().text("/state"),
        "running",
        "the machine has not said yet that it keeps it"
    );
    tell(Progress::Confirmed { generation: Generation(3) }).await;
    let ended = lab.get(path).await.succeeds();
    assert_eq!((ended.text("/state"), ended.text("/outcome")), ("succeeded", "confirmed"));
    assert_eq!((&ended.body["reason"], &ended.body["times"]), (&json!(null), &said));
}

#[tokio::test]
async fn a_permit_names_a_plan_and_disks() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let apply = |permit| lab.post(format!("/machines/{id}/apply"), json!({"document": STORAGE, "permit": permit}));
    apply(json!({"plan": "abc", "disks": []})).await.refuses(422, "invalid", "permit.plan");
    let plan = Digest::of(b"plan").to_string();
    apply(json!({"plan": plan, "disks": ["serial:D1", "/dev/sda"]})).await.refuses(422, "invalid", "permit.disks[1]");
    apply(json!({"plan": plan, "disks": "serial:D1"})).await.refuses(422, "invalid", "permit.disks");
    apply(json!({"plan": plan, "disks": ["serial:D1"]})).await.succeeds();
    let permit = lab.fleet.state().desired.get(&id).and_then(|d| d.permit.clone()).expect("kept");
    assert_eq!(permit.disks, ["serial:D1".parse::<DiskId>().expect("an id")]);
}

#[tokio::test]
async fn a_plan_comes_from_the_machine() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let disk: DiskId = "serial:D1".parse().expect("an id");
    let steps = vec![
        Step { action: "add address 192.0.2.7/24 to eth0".into(), impact: Impact::None },
        Step { action: "write a GPT".into(), impact: Impact::Destroys(vec![disk]) },
    ];
    lab.answers(Answer::Planned(Plan { steps, notices: vec![], digest: Digest::of(b"plan") }));
    let plan = lab.post(format!("/machines/{id}/plan"), document(NETWORK)).await.succeeds();
    assert_eq!(plan.body["destroys"], json!(["serial:D1"]));
    assert_eq!((plan.text("/steps/1/impact"), plan.text("/steps/1/disks/0")), ("destroys", "serial:D1"));
    assert_eq!(plan.text("/digest").len(), 64);
    let asked = lab.machines.asked.lock().expect("no test panics inside").clone();
    let [Call::Plan(Desired { network: Some(network), storage: None })] = asked.as_slice() else {
        panic!("asked {asked:?}")
    };
    assert!(matches!(network.links.as_slice(), [Link { kind: LinkKind::Ethernet(_), .. }]));

    lab.answers(Answer::Refused(Refusal::Impossible("there is no NIC eth0".into())));
    let refused = lab.post(format!("/machines/{id}/plan"), document(NETWORK)).await;
    refused.refuses(409, "machine-refused", "machine");
    assert_eq!(refused.text("/detail"), "there is no NIC eth0");
}

#[tokio::test]
async fn only_a_machine_that_is_there_is_asked() {
    let lab = Lab::new().await;
    let (there, gone) = (lab.online("S1").await, lab.enrolled("S2").await);
    lab.post(format!("/machines/{gone}/plan"), document(NETWORK)).await.refuses(409, "machine-offline", "machine");
    lab.get(format!("/machines/{gone}/observed")).await.refuses(409, "machine-offline", "machine");
    lab.get(format!("/machines/{there}/observed")).await.refuses(504, "machine-unanswered", "machine");
    lab.answers(Answer::Observed(Box::default()));
    assert_eq!(lab.get(format!("/machines/{there}/observed")).await.succeeds().body["links"], json!([]));
}

#[tokio::test]
async fn a_pending_machine_is_given_nothing() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    lab.post(format!("/machines/{id}/apply"), document(NETWORK)).await.refuses(409, "conflict", "state");
}

#[tokio::test]
async fn a_difference_is_told_without_asking_the_machine() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let diff = lab.post(format!("/machines/{id}/diff"), document(NETWORK)).await.succeeds();
    assert_eq!((diff.body["generation"].as_u64(), diff.text("/changes/0/field")), (Some(0), "network"));
    assert!(lab.machines.asked.lock().expect("no test panics inside").is_empty());
}

#[tokio::test]
async fn power_acts_on_the_boot_that_is_up_and_only_where_it_can() {
    let lab = Lab::new().await;
    let (there, gone) = (lab.online("S1").await, lab.enrolled("S2").await);
    let power = |id, action: &str| lab.post(format!("/machines/{id}/power"), json!({"action": action}));
    let first = power(there, "reboot").await.succeeds();
    assert_eq!((first.status.as_u16(), first.text("/kind")), (202, "reboot"));
    assert_eq!(power(there, "reboot").await.succeeds().text("/id"), first.text("/id"));
    power(there, "on").await.refuses(409, "conflict", "action");
    power(there, "cycle").await.refuses(409, "cannot-switch-on", "action");
    power(gone, "on").await.refuses(409, "cannot-switch-on", "action");
    power(gone, "off").await.refuses(409, "machine-offline", "machine");
    power(there, "explode").await.refuses(422, "invalid", "action");
}

#[tokio::test]
async fn what_has_no_session_is_switched_by_what_was_named_for_it() {
    let lab = Lab::new().await;
    let (there, gone) = (lab.online("S1").await, lab.enrolled("S2").await);
    lab.post(format!("/machines/{gone}/approve"), json!({})).await.succeeds();
    let put = |id, what: &str, body: Value| lab.ask(Method::PUT, format!("/machines/{id}/{what}")).json(body).send();
    let power = |id, action: &str| lab.post(format!("/machines/{id}/power"), json!({"action": action}));
    let fingerprint = "AB:".repeat(31) + "AB";
    let redfish =
        json!({"redfish": "https://10.0.9.7/", "user": "admin", "password": "hunter2", "fingerprint": fingerprint});
    let shown = put(gone, "bmc", redfish.clone()).await.succeeds();
    assert_eq!(shown.text("/controls/bmc/address"), "https://10.0.9.7");
    assert_eq!(shown.text("/controls/bmc/fingerprint"), "ab".repeat(32));
    put(gone, "outlet", json!({"on": "http://u:hunter2@10.0.9.9/on", "off": "http://10.0.9.9/off"})).await.succeeds();
    put(gone, "wake", json!({"on_lan": true})).await.succeeds();
    let whole = lab.get(format!("/machines/{gone}")).await.succeeds();
    assert_eq!(
        (whole.text("/controls/outlet"), &whole.body["controls"]["wake_on_lan"]),
        ("http://10.0.9.9", &json!(true))
    );
    for path in [format!("/machines/{gone}"), "/machines".into(), "/audit".into(), "/events".into()] {
        let body = lab.get(path.clone()).await.body.to_string();
        assert!(!body.contains("hunter2"), "{path}: {body}");
    }
    for (action, kind) in [("reboot", "reboot"), ("off", "power-off"), ("on", "power-on"), ("cycle", "power-cycle")] {
        assert_eq!(power(gone, action).await.succeeds().text("/kind"), kind);
    }
    put(there, "bmc", redfish.clone()).await.succeeds();
    assert!(power(there, "reboot").await.succeeds().text("/description").starts_with("reboot"), "its agent does it");
    power(there, "on").await.refuses(409, "conflict", "action");
    assert_eq!(power(there, "cycle").await.succeeds().text("/kind"), "power-cycle");

    let with = |key: &str, value: Value| {
        let mut body = redfish.clone();
        body[key] = value;
        body
    };
    for (body, field) in [
        (with("fingerprint", Value::Null), "fingerprint"),
        (with("fingerprint", json!("abc")), "fingerprint"),
        (with("system_cas", json!(true)), "fingerprint"),
        (with("ipmi", json!("10.0.9.7")), "redfish"),
        (with("redfish", json!("http://10.0.9.7")), "redfish"),
        (with("password", json!("")), "password"),
        (with("port", json!(623)), "port"),
        (json!({"ipmi": "10.0.9.7", "user": "u", "password": "p", "system_cas": true}), "ipmi"),
    ] {
        put(gone, "bmc", body).await.refuses(422, "invalid", field);
    }
    put(gone, "outlet", json!({"on": "file:///etc/passwd", "off": "http://h/off"})).await.refuses(422, "invalid", "on");
    for what in ["bmc", "outlet"] {
        let forget = lab.ask(Method::DELETE, format!("/machines/{gone}/{what}")).send().await;
        assert_eq!(forget.status.as_u16(), 204);
    }
    let left = lab.get(format!("/machines/{gone}")).await.succeeds();
    assert_eq!(left.body["controls"], json!({"wake_on_lan": true}));
    let url = "/bmc/certificate?url=http%3A%2F%2F10.0.9.7";
    lab.get(url).await.refuses(422, "invalid", "url");
    lab.get("/bmc/certificate?url=https%3A%2F%2F127.0.0.1%3A1").await.refuses(504, "machine-unanswered", "url");
}

#[tokio::test]
async fn an_operation_is_cancelled_only_before_it_begins() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let power = lab.post(format!("/machines/{id}/power"), json!({"action": "off"})).await.succeeds();
    let path = format!("/operations/{}", power.text("/id"));
    assert_eq!(lab.post(format!("{path}/cancel"), json!({})).await.succeeds().text("/state"), "cancelled");
    lab.post(format!("{path}/cancel"), json!({})).await.refuses(409, "conflict", "state");
    let applied = lab.post(format!("/machines/{id}/apply"), document(NETWORK)).await.succeeds();
    let path = format!("/operations/{}/cancel", applied.text("/id"));
    lab.post(path, json!({})).await.refuses(409, "conflict", "state");
}

#[tokio::test]
async fn news_of_an_operation_are_waited_for() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let power = lab.post(format!("/machines/{id}/power"), json!({"action": "off"})).await.succeeds();
    let path = format!("/operations/{}", power.text("/id"));
    let seen = lab.get(&*path).await.succeeds().header("etag").to_owned();
    let wait =
        |seconds: u8| lab.ask(Method::GET, format!("{path}?wait={seconds}")).header("if-none-match", &*seen).send();
    assert_eq!(wait(0).await.status, 304);

    let (news, _) = tokio::join!(wait(60), lab.post(format!("{path}/cancel"), json!({})));
    let news = news.succeeds();
    assert_eq!(news.text("/state"), "cancelled");
    // What is over has no more news: nobody is kept waiting.
    let over = lab.ask(Method::GET, format!("{path}?wait=60")).header("if-none-match", news.header("etag")).send();
    assert_eq!(over.await.status, 304);
    lab.get(format!("{path}?wait=61")).await.refuses(422, "invalid", "wait");
}

#[tokio::test]
async fn a_wipe_names_its_disks_and_its_level_and_needs_its_machine() {
    let lab = Lab::new().await;
    let (there, gone) = (lab.online("S1").await, lab.enrolled("S2").await);
    lab.post(format!("/machines/{gone}/approve"), json!({})).await.succeeds();
    let wipe = |id, body| lab.post(format!("/machines/{id}/wipe"), body);
    wipe(gone, json!({"disks": ["serial:DISK-S2"]})).await.refuses(409, "machine-offline", "machine");
    assert_eq!(lab.get(format!("/operations?machine={gone}")).await.succeeds().body["items"], json!([]));
    wipe(there, json!({"disks": ["sda"]})).await.refuses(422, "invalid", "disks[0]");
    wipe(there, json!({"disks": ["serial:DISK-S2"]})).await.refuses(422, "invalid", "disks[0]");
    wipe(there, json!({"disks": [], "level": "quick"})).await.refuses(422, "invalid", "disks");
    wipe(there, json!({"disks": ["serial:DISK-S1"], "level": "gone"})).await.refuses(422, "invalid", "level");

    let begun = wipe(there, json!({"disks": ["serial:DISK-S1"]})).await.succeeds();
    assert_eq!((begun.text("/kind"), begun.text("/disks/0")), ("wipe", "serial:DISK-S1"));
    assert_eq!(begun.text("/description"), "wipe 1 disk, level full");
    let (_, lease) = leased(&lab, "L1").await;
    let leased = lab.get(format!("/leases/{lease}")).await.succeeds().text("/machine").to_owned();
    let body = json!({"disks": ["serial:DISK-L1"]});
    lab.post(format!("/machines/{leased}/wipe"), body).await.refuses(409, "conflict", "state");
}

#[tokio::test]
async fn a_location_says_how_thoroughly_its_machines_are_wiped() {
    let lab = Lab::new().await;
    let put = |body| lab.ask(Method::PUT, "/locations/ham1").json(body).send();
    assert_eq!(put(json!({"name": "Hamburg"})).await.succeeds().text("/wipe"), "full");
    assert_eq!(put(json!({"wipe": "secure"})).await.succeeds().text("/wipe"), "secure");
    put(json!({"wipe": "shred"})).await.refuses(422, "invalid", "wipe");
}
