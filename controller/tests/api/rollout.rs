//! Rollouts: looked at, begun, seen, held and ended.

use std::time::Duration;

use axum::http::Method;
use muster_controller::api::contacts;
use muster_controller::fleet::rollout::keep::keep;
use muster_controller::fleet::{Author, Draft, machine};
use muster_protocol::hello::{Progress, Reason, Times};
use muster_protocol::to_agent::{Answer, Call, Impact, Plan, Step};
use muster_protocol::{Digest, Generation, MachineId};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::lab::{Lab, Reply};

const TEMPLATE: &str = "network:\n  ethernets:\n    lan:\n      match: {macaddress: \"{{ nics[0].mac }}\"}\n      \
                        addresses: [\"{{ labels.ip }}/24\"]\n";

/// Machines called `m1`, `m2`, …, online, each with an address in its label `ip`.
async fn machines<const N: usize>(lab: &Lab) -> [MachineId; N] {
    let serials = ["S1", "S2", "S3", "S4", "S5", "S6"];
    let mut ids = Vec::new();
    for (n, serial) in serials.into_iter().take(N).enumerate() {
        let id = lab.online(serial).await;
        let labels = json!({"ip": format!("192.0.2.{}", n + 1), "role": "web"});
        let named = json!({"name": format!("m{}", n + 1), "labels": labels});
        lab.ask(Method::PATCH, format!("/machines/{id}")).json(named).send().await.succeeds();
        ids.push(id);
    }
    ids.try_into().expect("as many as there are serials")
}

fn everywhere() -> Value {
    json!({"document": TEMPLATE, "selector": {"role": "web"}, "soak_s": 0})
}

/// Lets rollouts go on, as a controller does, for as long as it is held.
fn kept(lab: &Lab) -> watch::Sender<u64> {
    let (sender, changes) = watch::channel(0);
    tokio::spawn(keep(lab.fleet.clone(), contacts(lab.machines.clone(), 0), changes));
    sender
}

async fn until(lab: &Lab, path: &str, is_so: impl Fn(&Value) -> bool) -> Reply {
    let look = async {
        loop {
            let reply = lab.get(path).await.succeeds();
            if is_so(&reply.body) {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look).await.expect("in time")
}

async fn says(lab: &Lab, id: MachineId, progress: Progress) {
    let note = move |draft: &mut Draft| machine::progress(draft, id, &progress);
    lab.fleet.change(Author::controller(), note).await.expect("noted");
}

fn generation(lab: &Lab, id: MachineId) -> u64 {
    lab.fleet.state().machines.get(&id).expect("there").generation.0
}

#[tokio::test]
async fn a_template_that_is_wrong_for_one_machine_is_given_to_nobody() {
    let lab = Lab::new().await;
    let ids: [MachineId; 3] = machines(&lab).await;
    let relabel = |id: MachineId, ip: Value| {
        lab.ask(Method::PATCH, format!("/machines/{id}")).json(json!({"labels": {"ip": ip}})).send()
    };
    relabel(ids[0], json!(null)).await.succeeds();
    relabel(ids[2], json!("192.0.2.300")).await.succeeds();
    for path in ["/rollouts", "/rollouts/plan", "/rollouts/diff"] {
        let mut body = everywhere();
        if path != "/rollouts" {
            body.as_object_mut().expect("an object").remove("soak_s");
        }
        let refused = lab.post(path, body).await;
        refused.refuses(422, "document-invalid", "document");
        let problems = refused.body["problems"].as_array().expect("a list");
        assert_eq!(problems.len(), 2, "{problems:#?}");
        let [first, second] = [0, 1].map(|n| &problems[n]);
        assert_eq!((&first["machine"], &first["line"], &first["field"]), (&json!("m1"), &json!(5), &json!("template")));
        assert!(first["problem"].as_str().is_some_and(|text| text.starts_with("labels.ip is not known of it")));
        assert_eq!((&second["machine"], &second["line"]), (&json!("m3"), &json!(5)));
        assert!(second["problem"].as_str().is_some_and(|text| text.contains("192.0.2.300")), "{second}");
    }
    assert_eq!(lab.fleet.state().rollouts.len(), 0);
    assert_eq!(ids.map(|id| generation(&lab, id)), [0, 0, 0]);
    let broken = json!({"document": "a: {{ x", "selector": {"all": true}});
    let refused = lab.post("/rollouts", broken).await;
    refused.refuses(422, "document-invalid", "document");
    assert_eq!(refused.body["problems"][0].get("machine"), None);
}

#[tokio::test]
async fn who_is_meant_must_be_said() {
    let lab = Lab::new().await;
    let _: [MachineId; 1] = machines(&lab).await;
    let ask = |change: Value| {
        let mut body = everywhere();
        change.as_object().expect("an object").iter().for_each(|(key, value)| body[key] = value.clone());
        lab.post("/rollouts", body)
    };
    for (change, field) in [
        (json!({"selector": {}}), "selector"),
        (json!({"selector": {"all": true, "role": "web"}}), "selector.all"),
        (json!({"selector": {"labels": "a b"}}), "selector.labels"),
        (json!({"selector": {"label": "a"}}), "selector.label"),
        (json!({"selector": {"role": "db"}}), "selector"),
        (json!({"selector": {"location": "atlantis"}}), "location"),
        (json!({"canary": 0}), "canary"),
        (json!({"wave": "0%"}), "wave"),
        (json!({"wave": "101%"}), "wave"),
        (json!({"wave": "some"}), "wave"),
        (json!({"soak_s": 90_000}), "soak_s"),
        (json!({"max_failures": -1}), "max_failures"),
        (json!({"waves": "5"}), "waves"),
    ] {
        ask(change).await.refuses(422, "invalid", field);
    }
    assert_eq!(lab.fleet.state().rollouts.len(), 0);
    let viewer = lab.ask(Method::POST, "/rollouts").token(Some(&lab.viewer)).json(everywhere()).send().await;
    viewer.refuses(403, "forbidden", "Authorization");
    ask(json!({"selector": {"labels": "ip,role in (web,db)", "location": "ber1"}})).await.succeeds();
}

#[tokio::test]
async fn a_rollout_goes_from_its_canary_to_its_last_machine() {
    let lab = Lab::new().await;
    let ids: [MachineId; 5] = machines(&lab).await;
    let _keeper = kept(&lab);
    let begun = lab.post("/rollouts", everywhere()).await.succeeds();
    assert_eq!((begun.status.as_u16(), begun.header("location")), (202, "/api/v1/rollouts/1"));
    assert_eq!(
        (begun.text("/selector"), begun.text("/wave_size"), begun.text("/who")),
        ("role web", "25%", &*lab.who("olga"))
    );
    // One, then a quarter of five at a time.
    for (wave, expected) in [(0, [1, 0, 0, 0, 0]), (1, [1, 1, 1, 0, 0]), (2, [1, 1, 1, 1, 1])] {
        let is_given = |body: &Value| body["wave"] == wave && body["waits"]["what"] == "machines";
        until(&lab, "/rollouts/1", is_given).await;
        assert_eq!(ids.map(|id| generation(&lab, id)), expected);
        for id in ids.into_iter().filter(|id| generation(&lab, *id) == 1) {
            says(&lab, id, Progress::Confirmed { generation: Generation(1) }).await;
        }
    }
    let ended = until(&lab, "/rollouts/1", |body| body["state"] == "finished").await;
    assert_eq!((&ended.body["progress"]["confirmed"], &ended.body["machines"]), (&json!(5), &json!(5)));
    assert!(ended.body["waits"].is_null() && !ended.text("/ended").is_empty());
    let desired = lab.get(format!("/machines/{}/desired", ids[4])).await.succeeds();
    assert_eq!(desired.body["document"]["network"]["ethernets"]["lan"]["addresses"], json!(["192.0.2.5/24"]));
    // Whoever asked for the rollout asked for each of its machines.
    let log = lab.get(format!("/audit?subject={}&action=machine.desired", ids[4])).await.succeeds();
    assert_eq!((log.text("/items/0/who"), log.text("/items/0/request")), (&*lab.who("olga"), "rollout-1"));
    // All are so: another one changes nothing.
    lab.post("/rollouts", everywhere()).await.succeeds();
    let again = until(&lab, "/rollouts/2", |body| body["state"] == "finished").await;
    assert_eq!(again.body["progress"]["there"], 5);
}

#[tokio::test]
async fn a_canary_that_reverts_stops_the_rollout_with_its_reason_and_no_other_machine_is_touched() {
    let lab = Lab::new().await;
    let ids: [MachineId; 4] = machines(&lab).await;
    let _keeper = kept(&lab);
    lab.post("/rollouts", everywhere()).await.succeeds();
    until(&lab, "/rollouts/1", |body| body["waits"]["what"] == "machines").await;
    let (generation_one, why) = (Generation(1), "the gateway does not answer".to_owned());
    says(
        &lab,
        ids[0],
        Progress::Reverted { generation: generation_one, reason: Reason::NoGateway, why, times: Times::default() },
    )
    .await;
    let stopped = until(&lab, "/rollouts/1", |body| body["state"] == "stopped").await;
    assert_eq!(stopped.text("/why"), "m1: reverted: no-gateway: the gateway does not answer");
    assert_eq!(stopped.body["progress"]["waiting"], 3);
    assert_eq!(ids.map(|id| generation(&lab, id)), [1, 0, 0, 0]);
    let failed = lab.get("/rollouts/1/machines?state=failed").await.succeeds();
    assert_eq!((failed.text("/items/0/name"), failed.body["items"][0]["wave"].as_u64()), ("m1", Some(0)));
    assert!(failed.text("/items/0/why").contains("gateway"));
    for turn in ["pause", "resume", "cancel"] {
        lab.post(format!("/rollouts/1/{turn}"), json!({})).await.refuses(409, "conflict", "state");
    }
    // What was stopped keeps nobody from the next one.
    lab.post("/rollouts", everywhere()).await.succeeds();
    assert_eq!(lab.get("/rollouts?state=stopped").await.succeeds().body["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_repeated_request_is_one_rollout_and_another_one_for_the_same_machines_is_refused_with_their_names() {
    let lab = Lab::new().await;
    let _: [MachineId; 3] = machines(&lab).await;
    let begin = || lab.ask(Method::POST, "/rollouts").header("idempotency-key", "k").json(everywhere()).send();
    let (first, again) = (begin().await.succeeds(), begin().await.succeeds());
    assert_eq!((&first.body["number"], &again.body["number"]), (&json!(1), &json!(1)));
    let other = lab.post("/rollouts", everywhere()).await;
    other.refuses(409, "conflict", "state");
    assert!(other.text("/detail").starts_with("m1, m2, m3 are in rollout 1, which has not ended"), "{:?}", other.body);
    assert_eq!((lab.fleet.state().rollouts.len(), lab.fleet.state().members.len()), (1, 3));
    lab.post("/rollouts/1/cancel", json!({})).await.succeeds();
    lab.post("/rollouts", everywhere()).await.succeeds();
}

#[tokio::test]
async fn a_rollout_is_held_and_let_go_only_as_it_was_seen() {
    let lab = Lab::new().await;
    let ids: [MachineId; 2] = machines(&lab).await;
    let _keeper = kept(&lab);
    lab.post("/rollouts", everywhere()).await.succeeds();
    let seen = until(&lab, "/rollouts/1", |body| body["waits"]["what"] == "machines").await;
    let turn = |name: &str, tag: &str| {
        lab.ask(Method::POST, format!("/rollouts/1/{name}")).header("if-match", tag).json(json!({})).send()
    };
    turn("pause", "\"0000000000000000\"").await.refuses(412, "outdated", "If-Match");
    let paused = turn("pause", seen.header("etag")).await.succeeds();
    assert_eq!(paused.text("/state"), "paused");
    says(&lab, ids[0], Progress::Confirmed { generation: Generation(1) }).await;
    let held = lab.get("/rollouts/1").await.succeeds();
    assert_eq!((held.text("/state"), &held.body["progress"]["waiting"]), ("paused", &json!(1)));
    lab.post("/rollouts/1/resume", json!({})).await.succeeds();
    until(&lab, "/rollouts/1", |body| body["wave"] == 1 && body["progress"]["applying"] == 1).await;
    lab.get("/rollouts/7").await.refuses(404, "not-found", "rollout");
    lab.post("/rollouts/x/pause", json!({})).await.refuses(404, "not-found", "rollout");
}

#[tokio::test]
async fn news_of_a_rollout_are_waited_for() {
    let lab = Lab::new().await;
    let _: [MachineId; 2] = machines(&lab).await;
    lab.post("/rollouts", everywhere()).await.succeeds();
    let seen = lab.get("/rollouts/1").await.succeeds().header("etag").to_owned();
    let wait = |seconds: u8| {
        lab.ask(Method::GET, format!("/rollouts/1?wait={seconds}")).header("if-none-match", &*seen).send()
    };
    assert_eq!(wait(0).await.status, 304);
    let (news, _) = tokio::join!(wait(60), lab.post("/rollouts/1/cancel", json!({})));
    let news = news.succeeds();
    assert_eq!(news.text("/state"), "cancelled");
    let over = lab.ask(Method::GET, "/rollouts/1?wait=60").header("if-none-match", news.header("etag")).send();
    assert_eq!(over.await.status, 304, "what is over has no more news");
    lab.get("/rollouts/1?wait=61").await.refuses(422, "invalid", "wait");
}

#[tokio::test]
async fn rollouts_and_their_machines_come_in_pages() {
    let lab = Lab::new().await;
    let _: [MachineId; 3] = machines(&lab).await;
    for n in 1..=3 {
        lab.post("/rollouts", everywhere()).await.succeeds();
        lab.post(format!("/rollouts/{n}/cancel"), json!({})).await.succeeds();
    }
    let first = lab.get("/rollouts?limit=2").await.succeeds();
    let second = lab.get(format!("/rollouts?limit=2&cursor={}", first.text("/next"))).await.succeeds();
    let numbers = |reply: &Reply, pointer: &str| -> Vec<u64> {
        let items = reply.body["items"].as_array().expect("a list");
        items.iter().filter_map(|item| item.pointer(pointer).and_then(Value::as_u64)).collect()
    };
    assert_eq!([numbers(&first, "/number"), numbers(&second, "/number")].concat(), [3, 2, 1]);
    let first = lab.get("/rollouts/3/machines?limit=2").await.succeeds();
    let second = lab.get(format!("/rollouts/3/machines?limit=2&cursor={}", first.text("/next"))).await.succeeds();
    assert_eq!([numbers(&first, "/place"), numbers(&second, "/place")].concat(), [1, 2, 3]);
    lab.get("/rollouts?state=running").await.succeeds();
    lab.get("/rollouts?state=lost").await.refuses(422, "invalid", "state");
    lab.get("/rollouts/3/machines?state=lost").await.refuses(422, "invalid", "state");
}

#[tokio::test]
async fn each_machine_says_what_it_would_do_and_as_many_are_asked_as_were_to_be() {
    let lab = Lab::new().await;
    let ids: [MachineId; 3] = machines(&lab).await;
    let steps = vec![Step { action: "add address 192.0.2.1/24 to eth0".into(), impact: Impact::None }];
    lab.answers(Answer::Planned(Plan { steps, notices: vec![], digest: Digest::of(b"plan") }));
    let body = json!({"document": TEMPLATE, "selector": {"all": true}, "limit": 2});
    let plans = lab.post("/rollouts/plan", body).await.succeeds();
    assert_eq!((&plans.body["selected"], &plans.body["left_out"]), (&json!(3), &json!(1)));
    assert_eq!((plans.text("/items/0/name"), plans.text("/items/0/plan/steps/0/impact")), ("m1", "none"));
    assert!(plans.text("/items/1/problem").contains("did not answer"), "{:#}", plans.body);
    let asked = lab.machines.asked.lock().expect("no test panics inside").clone();
    assert!(asked.len() == 2 && asked.iter().all(|call| matches!(call, Call::Plan(_))), "{asked:?}");

    // What one has is no difference.
    let same = json!({"document": TEMPLATE.replace("{{ labels.ip }}", "192.0.2.2").replace("{{ nics[0].mac }}", &mac(&lab, ids[1]))});
    lab.post(format!("/machines/{}/apply", ids[1]), same).await.succeeds();
    let body = json!({"document": TEMPLATE, "selector": {"role": "web"}, "limit": 1});
    let diffs = lab.post("/rollouts/diff", body).await.succeeds();
    assert_eq!(
        (&diffs.body["selected"], &diffs.body["same"], &diffs.body["left_out"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert_eq!((diffs.text("/items/0/name"), diffs.text("/items/0/changes/0/field")), ("m1", "network"));
    lab.post("/rollouts/diff", json!({"document": TEMPLATE, "selector": {"all": true}, "limit": 101}))
        .await
        .refuses(422, "invalid", "limit");
    let viewer = json!({"document": TEMPLATE, "selector": {"all": true}});
    lab.ask(Method::POST, "/rollouts/diff").token(Some(&lab.viewer)).json(viewer).send().await.succeeds();
}

fn mac(lab: &Lab, id: MachineId) -> String {
    lab.fleet.state().inventories.get(&id).expect("reported").inventory.nics[0].permanent_mac.to_string()
}

#[tokio::test]
async fn a_rollout_that_was_being_written_when_the_controller_ended_is_gone_after_its_next_start() {
    use muster_controller::fleet::rollout::record::{Pace, WaveSize};
    let lab = Lab::new().await;
    let pace = Pace { canary: 1, wave: WaveSize::Machines(1), soak_ms: 0, max_failures: 0 };
    let begin = move |draft: &mut Draft| {
        Ok(muster_controller::fleet::rollout::begin(draft, "all machines".into(), Digest::of(b""), pace))
    };
    lab.fleet.change(Author::controller(), begin).await.expect("begun");
    assert_eq!(lab.get("/rollouts").await.succeeds().body["items"], json!([]), "nobody was told of it");
    let _keeper = kept(&lab);
    let gone = lab.fleet.watch().wait_for(|state| state.rollouts.is_empty()).await.map(drop);
    gone.expect("the fleet runs");
}
