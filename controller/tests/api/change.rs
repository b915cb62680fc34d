//! What operators decide: at most once, on what they saw, durable when it is answered.

use axum::http::Method;
use muster_controller::fleet::Author;
use muster_controller::fleet::operation::drift;
use muster_protocol::drift::{Drift, DriftEnd};
use serde_json::{Value, json};

use crate::lab::Lab;

#[tokio::test]
async fn a_decision_with_the_same_key_is_taken_once() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let approve = || lab.ask(Method::POST, format!("/machines/{id}/approve")).header("idempotency-key", "a").send();
    let first = approve().await.succeeds();
    assert_eq!(first.text("/lifecycle"), "available");
    assert_eq!(first.body.get("claim"), None);

    // In between it was retired; the repetition does not approve it again, and shows it as it is.
    lab.post(format!("/machines/{id}/retire"), json!({})).await.succeeds();
    assert_eq!(approve().await.succeeds().text("/lifecycle"), "retired");

    let other = lab.ask(Method::POST, format!("/machines/{id}/reject")).header("idempotency-key", "a").send().await;
    other.refuses(422, "invalid", "Idempotency-Key");
    let empty = lab.ask(Method::POST, format!("/machines/{id}/reject")).header("idempotency-key", "").send().await;
    empty.refuses(400, "malformed", "Idempotency-Key");
}

#[tokio::test]
async fn keys_of_different_tokens_never_meet() {
    let lab = Lab::new().await;
    let (one, two) = (lab.enrolled("S1").await, lab.enrolled("S2").await);
    let approve = |id, token: &str| {
        let path = format!("/machines/{id}/approve");
        lab.ask(Method::POST, path).token(Some(token)).header("idempotency-key", "a").send()
    };
    assert_eq!(approve(one, &lab.operator).await.succeeds().text("/id"), one.to_string());
    assert_eq!(approve(two, &lab.admin).await.succeeds().text("/id"), two.to_string());
}

#[tokio::test]
async fn a_change_of_what_somebody_else_changed_is_refused() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let seen = lab.get(format!("/machines/{id}")).await.header("etag").to_owned();
    let rename = |name: &str, tag: &str| {
        let body = json!({"name": name, "labels": {"rack": "4"}, "maintenance": true});
        lab.ask(Method::PATCH, format!("/machines/{id}")).header("if-match", tag).json(body).send()
    };
    let renamed = rename("kitchen", &seen).await.succeeds();
    assert_eq!((renamed.text("/name"), renamed.text("/labels/rack")), ("kitchen", "4"));
    assert_eq!(renamed.body["maintenance"], true);
    assert_ne!(renamed.header("etag"), seen);

    rename("cellar", &seen).await.refuses(412, "outdated", "If-Match");
    rename("cellar", "no quotes").await.refuses(400, "malformed", "If-Match");
    assert_eq!(lab.get("/machines/kitchen").await.succeeds().text("/id"), id.to_string());
}

#[tokio::test]
async fn a_change_is_whole_or_not_at_all() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let before = lab.get(format!("/machines/{id}")).await.body;
    let body = json!({"name": "kitchen", "labels": {"bad key!": "x"}});
    let reply = lab.ask(Method::PATCH, format!("/machines/{id}")).json(body).send().await;
    reply.refuses(422, "invalid", "labels");
    assert_eq!(lab.get(format!("/machines/{id}")).await.body, before);
}

#[tokio::test]
async fn what_a_machine_does_about_drift_is_said_and_what_still_differs_is_shown() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let on_drift = |wish| lab.ask(Method::PATCH, format!("/machines/{id}")).json(json!({"on_drift": wish})).send();
    let shown = lab.get(format!("/machines/{id}")).await.succeeds();
    assert_eq!((shown.text("/on_drift"), shown.body.get("drift")), ("default", None));
    for wish in ["report", "repair", "default", "report"] {
        assert_eq!(on_drift(wish).await.succeeds().text("/on_drift"), wish);
    }
    on_drift("ignore").await.refuses(422, "invalid", "on_drift");

    let tell = |number, end| {
        let drift = Drift { number, differences: vec!["bring lan up".into()], end };
        lab.fleet.change(Author::controller(), move |draft| drift::told(draft, id, drift))
    };
    tell(1, DriftEnd::Reported).await.expect("told");
    let shown = lab.get(format!("/machines/{id}")).await.succeeds();
    assert_eq!(shown.body["drift"], json!({"state": "reported", "differences": ["bring lan up"]}));
    tell(2, DriftEnd::Failed { why: "no such device".into() }).await.expect("told");
    let shown = lab.get("/machines").await.succeeds();
    assert_eq!(shown.text("/items/0/drift/why"), "no such device");
    tell(3, DriftEnd::Repaired { milliseconds: 7 }).await.expect("told");
    assert_eq!(lab.get(format!("/machines/{id}")).await.succeeds().body.get("drift"), None);
    let events = lab.get("/events").await.succeeds().body["items"].clone();
    let told = |event: &&Value| event["kind"] == "machine.drift";
    assert_eq!(events.as_array().expect("a list").iter().filter(told).count(), 3);
}

#[tokio::test]
async fn a_label_is_removed_by_null() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let label = |labels| lab.ask(Method::PATCH, format!("/machines/{id}")).json(json!({"labels": labels})).send();
    label(json!({"rack": "4", "row": "B"})).await.succeeds();
    let left = label(json!({"rack": null})).await.succeeds();
    assert_eq!(left.body["labels"], json!({"row": "B"}));
}

#[tokio::test]
async fn who_did_it_is_in_the_audit_log() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    lab.post(format!("/machines/{id}/approve"), json!({})).await.succeeds();
    let log = lab.get(format!("/audit?subject={id}")).await.succeeds();
    let entry = &log.body["items"][0];
    assert_eq!(
        (entry["who"].as_str(), entry["from"].as_str()),
        (Some(lab.who("olga").as_str()), Some("198.51.100.9:5555"))
    );
    assert_eq!(
        (&entry["before"], &entry["after"]),
        (&json!({"lifecycle": "pending"}), &json!({"lifecycle": "available"}))
    );
}

#[tokio::test]
async fn what_the_disk_did_not_take_is_not_acknowledged() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    lab.store.fail_after(0);
    let reply = lab.post(format!("/machines/{id}/approve"), json!({})).await;
    reply.refuses(503, "store-failed", "store");
}

#[tokio::test]
async fn a_location_is_made_changed_and_removed() {
    let lab = Lab::new().await;
    let put = |body| lab.ask(Method::PUT, "/locations/ber1").json(body);
    let body = json!({"name": "Berlin", "city": "Berlin", "latitude": 52.52, "longitude": 13.405, "zones": ["a"]});
    let made = put(body.clone()).header("if-none-match", "*").send().await.succeeds();
    assert_eq!((made.text("/code"), made.text("/name")), ("ber1", "Berlin"));
    assert_eq!(made.body["latitude"], 52.52);
    put(body.clone()).header("if-none-match", "*").send().await.refuses(412, "outdated", "If-Match");
    put(json!({"latitude": 91.0})).send().await.refuses(422, "invalid", "latitude");
    put(json!({"region": "x".repeat(129)})).send().await.refuses(422, "invalid", "region");
    put(json!({"city": "a\u{1b}[31m"})).send().await.refuses(422, "invalid", "city");
    for name in ["\u{202e}nilreB", " ", "Berlin ", "a\nb", "a\u{200b}b", "a\u{a0}b"] {
        let refused = put(json!({"name": name})).send().await;
        assert!(refused.text("/detail").contains("no blank at its ends"), "{name:?}: {:#}", refused.body);
        refused.refuses(422, "invalid", "name");
        put(json!({"annotations": {"rack": name}})).send().await.refuses(422, "invalid", "annotations.rack");
    }
    put(json!({"zones": ["a", "b", "a"]})).send().await.refuses(422, "invalid", "zones");
    put(json!({"annotations": {"": "x"}})).send().await.refuses(422, "invalid", "annotations");
    put(json!({"boot_target": "http://boot.example:99999/x"})).send().await.refuses(422, "invalid", "boot_target");
    put(json!({"altitude": 3})).send().await.refuses(422, "invalid", "altitude");
    put(json!({"zones": "a"})).send().await.refuses(422, "invalid", "zones");
    put(json!({"name": "Berlin 1"})).header("if-match", made.header("etag")).send().await.succeeds();
    for url in ["ftp://192.0.2.9/x", "http://192.0.2.9/${ip}"] {
        put(json!({"boot_target": url})).send().await.refuses(422, "invalid", "boot_target");
    }
    let tell = |body| lab.ask(Method::PUT, "/locations/ber1/metadata").json(body).send();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGEga2V5IG9mIG5vYm9keSB0aGF0IG9wZW5zIG5vbmUh ops";
    tell(json!({"ssh_keys": [key], "user_data": "#cloud-config"})).await.succeeds();
    tell(json!({"ssh_keys": [key, "AAAA"]})).await.refuses(422, "invalid", "ssh_keys[1]");
    tell(json!({"ssh_keys": ["ssh-ed25519 AAAA"]})).await.refuses(422, "invalid", "ssh_keys[0]");
    tell(json!({"user_data": "x".repeat(16_385)})).await.refuses(422, "invalid", "user_data");
    put(json!({"name": "Berlin 2", "boot_target": "http://192.0.2.9/x"})).send().await.succeeds();
    let told = lab.get("/locations/ber1/metadata").await.succeeds().body;
    assert_eq!(told, json!({"ssh_keys": [key], "user_data": "#cloud-config"}), "saying what it is leaves that");
    assert!(!lab.get("/locations/ber1").await.succeeds().body.to_string().contains("cloud-config"), "viewers see this");
    lab.ask(Method::PUT, "/locations/Ber%201").json(json!({})).send().await.refuses(422, "invalid", "code");

    lab.enrolled("S1").await;
    let remove = || lab.ask(Method::DELETE, "/locations/ber1").send();
    remove().await.refuses(409, "conflict", "state");
    lab.ask(Method::PUT, "/locations/ams1").json(json!({})).send().await.succeeds();
    assert_eq!(lab.ask(Method::DELETE, "/locations/ams1").send().await.status, 204);
    lab.get("/locations/ams1").await.refuses(404, "not-found", "location");
}

#[tokio::test]
async fn a_subnet_is_declared_shown_and_removed() {
    let lab = Lab::new().await;
    lab.ask(Method::PUT, "/locations/ber1").json(json!({})).send().await.succeeds();
    let body = json!({
        "net": "192.0.2.0/24", "location": "ber1", "gateway": "192.0.2.1",
        "nameservers": ["192.0.2.53"], "reserved": ["192.0.2.2-192.0.2.9", "192.0.2.128/25"],
    });
    let made = lab.post("/subnets", body.clone()).await.succeeds();
    assert_eq!((made.status.as_u16(), made.header("location")), (201, "/api/v1/subnets/192.0.2.0%2F24"));
    assert_eq!((&made.body["taken"], &made.body["free"]), (&json!(0), &json!(118)));
    assert_eq!(lab.get("/subnets/192.0.2.0%2F24").await.succeeds().body, made.body);
    lab.post("/subnets", body.clone()).await.refuses(409, "conflict", "state");
    for (key, value, field) in [
        ("net", json!("192.0.2.0"), "net"),
        ("net", json!("192.0.2.1/24"), "net"),
        ("gateway", json!("192.0.3.1"), "gateway"),
        ("gateway", json!("router"), "gateway"),
        ("nameservers", json!(["one"]), "nameservers[0]"),
        ("reserved", json!(["192.0.2.1", "x"]), "reserved[1]"),
        ("location", json!("ams1"), "location"),
    ] {
        let mut wrong = body.clone();
        wrong[key] = value;
        let reply = lab.post("/subnets", wrong).await;
        assert_eq!((reply.text("/field"), reply.status.is_client_error()), (field, true), "{:#}", reply.body);
    }
    assert_eq!(lab.get("/addresses?subnet=192.0.2.0%2F24").await.succeeds().body, json!({"items": []}));
    lab.ask(Method::DELETE, "/addresses/192.0.2.7").send().await.refuses(404, "not-found", "address");
    assert_eq!(lab.ask(Method::DELETE, "/subnets/192.0.2.0%2F24").send().await.status, 204);
    assert_eq!(lab.get("/subnets").await.succeeds().body, json!({"items": []}));
}

#[tokio::test]
async fn an_address_is_assigned_to_a_machine_taken_back_and_kept_from_others_for_a_while() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let code = lab.get(&format!("/machines/{id}")).await.succeeds().text("/location").to_owned();
    lab.ask(Method::PUT, format!("/locations/{code}")).json(json!({})).send().await.succeeds();
    let subnet = json!({
        "net": "10.0.0.0/29", "location": code, "gateway": "10.0.0.1", "nat": ["10.0.0.2=203.0.113.2"], "quarantine_s": 90,
    });
    let made = lab.post("/subnets", subnet.clone()).await.succeeds();
    assert_eq!(made.body["nat"], json!(["10.0.0.2=203.0.113.2"]));
    assert_eq!((&made.body["quarantine_s"], &made.body["block"]), (&json!(90), &Value::Null));
    let wish = |machine: &str, subnet: &str| json!({ "machine": machine, "subnet": subnet });
    let given = lab.post("/addresses", wish(&id.to_string(), "10.0.0.0/29")).await.succeeds();
    // Not the one that stands for a public one: leases need that.
    assert_eq!(
        (given.status.as_u16(), given.text("/address"), given.text("/holder")),
        (201, "10.0.0.3/32", "assigned")
    );
    assert_eq!(given.text("/machine_name"), lab.get(&format!("/machines/{id}")).await.succeeds().text("/name"));
    let banana = lab.ask(Method::DELETE, "/addresses/banana").send().await;
    banana.refuses(422, "invalid", "address");
    assert!(banana.text("/detail").starts_with("must be an address like 192.0.2.7, or a block like "), "{banana:?}");
    let again = lab.post("/addresses", wish(&id.to_string()[..8], "10.0.0.0/29")).await.succeeds();
    assert_eq!(again.body, given.body, "it has one");
    lab.post("/addresses", wish("nobody", "10.0.0.0/29")).await.refuses(404, "not-found", "machine");
    lab.post("/addresses", wish("S1", "10.0.0.0")).await.refuses(422, "invalid", "subnet");
    lab.post("/addresses", wish(&id.to_string(), "10.9.0.0/29")).await.refuses(404, "not-found", "subnet");

    let template = json!({
        "document": "network: {ethernets: {lan: {addresses: ['{{ addresses[0].cidr }}']}}}",
        "selector": {"all": true}, "limit": 1,
    });
    let diff = lab.post("/rollouts/diff", template).await.succeeds();
    assert!(diff.body.to_string().contains("10.0.0.3/29"), "{:#}", diff.body);

    assert_eq!(lab.ask(Method::DELETE, "/addresses/10.0.0.3").send().await.status, 204);
    let kept = lab.get("/addresses").await.succeeds();
    assert_eq!((kept.text("/items/0/holder"), kept.text("/items/0/address")), ("quarantine", "10.0.0.3/32"));
    assert!(kept.body["items"][0]["until"].is_string());
    let shown = lab.get("/subnets/10.0.0.0%2F29").await.succeeds().body;
    assert_eq!((&shown["quarantined"], &shown["quarantine_ends"]), (&json!(1), &kept.body["items"][0]["until"]));
    assert_eq!(lab.ask(Method::DELETE, "/addresses/10.0.0.3").send().await.status, 204, "at once");
    assert_eq!(lab.get("/addresses").await.succeeds().body, json!({"items": []}));
    for (key, value, field) in [
        ("nat", json!(["10.0.0.2=203.0.113.2", "x"]), "nat[1]"),
        ("block", json!(64), "block"),
        ("quarantine_s", json!(2_592_001), "quarantine"),
    ] {
        let mut wrong = subnet.clone();
        wrong["net"] = json!("10.1.0.0/29");
        wrong["gateway"] = Value::Null;
        wrong["nat"] = json!([]);
        wrong[key] = value;
        lab.post("/subnets", wrong).await.refuses(422, "invalid", field);
    }
}

#[tokio::test]
async fn a_model_is_named_and_priced() {
    let lab = Lab::new().await;
    lab.online("S1").await;
    let list = lab.get("/models").await.succeeds();
    assert_eq!(list.body["items"][0]["places"], json!({"ber1": {"total": 1, "free": 0, "zones": {}}}), "no address");
    lab.ask(Method::PUT, "/locations/ber1").json(json!({})).send().await.succeeds();
    lab.post("/subnets", json!({"net": "192.0.2.0/24", "location": "ber1"})).await.succeeds();
    let list = lab.get("/models").await.succeeds();
    let path = format!("/models/{}", list.text("/items/0/id"));
    assert_eq!(list.body["items"][0]["places"], json!({"ber1": {"total": 1, "free": 1, "zones": {}}}));
    let seen = lab.get(&*path).await.succeeds().header("etag").to_owned();
    let change = |body| lab.ask(Method::PATCH, &*path).header("if-match", &*seen).json(body).send();
    let named = change(json!({"name": "small", "hourly_mils": 120})).await.succeeds();
    assert_eq!((named.text("/name"), &named.body["hourly_mils"]), ("small", &json!(120)));
    change(json!({"name": "large"})).await.refuses(412, "outdated", "If-Match");
    let price = lab.ask(Method::PATCH, &*path).json(json!({"hourly_mils": -1})).send().await;
    price.refuses(422, "invalid", "hourly_mils");
    lab.get("/models/m-000000000000").await.refuses(404, "not-found", "model");
}
