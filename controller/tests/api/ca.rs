//! The CA over the API: who may change it, what is refused, and what is written down.

use axum::http::Method;
use serde_json::{Value, json};

use crate::lab::{Lab, Reply};

async fn change(lab: &Lab, what: &str, token: &str, body: Value) -> Reply {
    lab.ask(Method::POST, format!("/ca/{what}")).token(Some(token)).json(body).send().await
}

#[tokio::test]
async fn only_an_admin_changes_the_ca_and_every_change_has_an_author() {
    let lab = Lab::new().await;
    let old = lab.get("/ca").await.succeeds().text("/current/fingerprint").to_owned();
    for token in [&lab.viewer, &lab.operator] {
        change(&lab, "rotate", token, json!({})).await.refuses(403, "forbidden", "Authorization");
        change(&lab, "finish", token, json!({})).await.refuses(403, "forbidden", "Authorization");
    }
    assert_eq!(lab.get("/ca").await.text("/current/fingerprint"), old, "nothing has changed");
    change(&lab, "finish", &lab.admin, json!({})).await.refuses(409, "conflict", "state");

    let rotated = change(&lab, "rotate", &lab.admin, json!({})).await.succeeds();
    let new = rotated.text("/current/fingerprint").to_owned();
    assert_eq!(rotated.text("/before/fingerprint"), old);
    assert_eq!(rotated.text("/pem").matches("BEGIN CERTIFICATE").count(), 2);
    assert!(!rotated.text("/pem").contains("PRIVATE"));
    change(&lab, "rotate", &lab.admin, json!({})).await.refuses(409, "conflict", "state");
    assert_eq!(lab.get("/status").await.text("/ca"), new, "boot scripts and tickets carry the new one");

    let finished = change(&lab, "finish", &lab.admin, json!({})).await.succeeds();
    assert_eq!((finished.text("/current/fingerprint"), &finished.body["before"]), (new.as_str(), &Value::Null));
    for action in ["ca.rotated", "ca.finished"] {
        let audit = lab.ask(Method::GET, "/audit?limit=10").token(Some(&lab.admin)).send().await.succeeds();
        let lines = audit.body["items"].as_array().expect("a list").clone();
        let line = lines.iter().find(|line| line["action"] == action).expect(action);
        assert_eq!((&line["who"], &line["after"]["ca"]), (&json!(lab.who("root")), &json!(new)), "{line}");
    }
}

#[tokio::test]
async fn a_boot_ca_is_made_once_by_an_operator_and_by_nobody_who_only_looks() {
    let lab = Lab::new().await;
    let boot = |token: &str| lab.ask(Method::POST, "/ca/boot").token(Some(token)).json(json!({})).send();
    boot(&lab.viewer).await.refuses(403, "forbidden", "Authorization");
    assert_eq!(lab.get("/ca").await.succeeds().body["boot"], Value::Null);
    let made = boot(&lab.operator).await.succeeds().text("/boot/fingerprint").to_owned();
    assert_eq!(boot(&lab.operator).await.succeeds().text("/boot/fingerprint"), made);
    assert_eq!(lab.get("/ca").await.succeeds().text("/boot/fingerprint"), made);
    let audit = lab.ask(Method::GET, "/audit?action=ca.boot-made").token(Some(&lab.admin)).send().await.succeeds();
    let lines = audit.body["items"].as_array().expect("a list");
    assert_eq!((lines.len(), &lines[0]["after"]["ca"]), (1, &json!(made)));
}

#[tokio::test]
async fn an_overlap_ends_only_by_force_while_machines_would_be_lost() {
    let lab = Lab::new().await;
    lab.online("S1").await;
    let name = lab.get("/machines").await.text("/items/0/name").to_owned();
    change(&lab, "rotate", &lab.admin, json!({})).await.succeeds();
    let shown = lab.get("/ca").await.succeeds();
    assert_eq!((&shown.body["behind"], &shown.body["behind_names"]), (&json!(1), &json!([name])));
    let refused = change(&lab, "finish", &lab.admin, json!({})).await;
    refused.refuses(409, "conflict", "state");
    assert!(refused.text("/detail").contains(&name) && refused.text("/detail").contains("--force"), "{refused:?}");
    assert_ne!(lab.get("/ca").await.body["before"], Value::Null, "nothing has changed");
    change(&lab, "finish", &lab.admin, json!({"force": true})).await.succeeds();
}

#[tokio::test]
async fn a_rotation_that_is_asked_for_again_with_the_same_key_happens_once() {
    let lab = Lab::new().await;
    let rotate = || {
        let ask = lab.ask(Method::POST, "/ca/rotate").token(Some(&lab.admin));
        ask.header("idempotency-key", "k1").json(json!({})).send()
    };
    let first = rotate().await.succeeds();
    let second = rotate().await.succeeds();
    assert_eq!(first.body, second.body);
}
