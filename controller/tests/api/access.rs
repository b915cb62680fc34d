//! Who may do what.

use axum::http::Method;
use muster_controller::api::openapi;
use serde_json::json;

use crate::lab::Lab;

#[tokio::test]
async fn no_route_answers_without_a_good_token() {
    let lab = Lab::new().await;
    let document = serde_json::to_value(openapi()).expect("a document");
    let mut routes = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("methods").keys() {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let path = path.replace("/api/v1", "").replace(['{', '}'], "");
            for token in [None, Some("muster_00000000_00"), Some("nonsense"), Some("")] {
                // Each from an address of its own: an attempt is no news where there were many.
                let from = format!("192.0.2.{routes}");
                let ask = lab.ask(method.clone(), &*path).token(token).from(&from).json(json!({}));
                ask.send().await.refuses(401, "unauthenticated", "Authorization");
            }
            routes += 1;
        }
    }
    assert!(routes > 30, "only {routes} routes");
    let reply = lab.ask(Method::GET, "/status").token(None).send().await;
    assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"muster\", Basic realm=\"muster\", charset=\"UTF-8\"");
}

#[tokio::test]
async fn a_role_too_low_is_told_so_and_changes_nothing() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let viewer = Some(lab.viewer.as_str());
    let approve = lab.ask(Method::POST, format!("/machines/{id}/approve")).token(viewer).send().await;
    approve.refuses(403, "forbidden", "Authorization");
    assert!(approve.text("/detail").contains("this needs operator"));
    lab.get("/tokens").await.refuses(403, "forbidden", "Authorization");
    lab.post("/ial/credentials", json!({"hub": "h"})).await.refuses(403, "forbidden", "Authorization");

    let shown = lab.ask(Method::GET, format!("/machines/{id}")).token(viewer).send().await.succeeds();
    assert_eq!(shown.text("/lifecycle"), "pending");
}

#[tokio::test]
async fn a_token_is_told_once_and_ends_when_it_is_revoked() {
    let lab = Lab::new().await;
    let admin = lab.admin.clone();
    let make = || {
        let body = json!({"name": "ci", "role": "viewer", "expires_in_days": 3});
        lab.ask(Method::POST, "/tokens").token(Some(&admin)).header("idempotency-key", "k1").json(body).send()
    };
    let made = make().await.succeeds();
    assert_eq!(made.status, 201);
    assert_eq!(made.header("cache-control"), "no-store");
    let token = made.text("/token").to_owned();
    lab.ask(Method::GET, "/status").token(Some(&token)).send().await.succeeds();

    let again = make().await.succeeds();
    assert_eq!(again.text("/id"), made.text("/id"));
    assert_eq!(again.body.get("token"), None);

    let list = lab.ask(Method::GET, "/tokens").token(Some(&admin)).send().await.succeeds();
    assert_eq!(list.body["items"].as_array().map(Vec::len), Some(4));
    assert!(!list.body.to_string().contains(&token));

    let path = format!("/tokens/{}", made.text("/id"));
    assert_eq!(lab.ask(Method::DELETE, path).token(Some(&admin)).send().await.status, 204);
    lab.ask(Method::GET, "/status").token(Some(&token)).send().await.refuses(401, "unauthenticated", "Authorization");
}

#[tokio::test]
async fn the_last_admin_token_stays() {
    let lab = Lab::new().await;
    let id = lab.admin.split('_').nth(1).expect("an id").to_owned();
    let reply = lab.ask(Method::DELETE, format!("/tokens/{id}")).token(Some(&lab.admin)).send().await;
    reply.refuses(409, "conflict", "state");
}

#[tokio::test]
async fn a_ticket_comes_with_all_that_an_agent_needs() {
    let lab = Lab::new().await;
    let reply = lab.post("/tickets", json!({"location": "ber1"})).await.succeeds();
    assert_eq!(reply.status, 201);
    assert_eq!(reply.text("/ticket").len(), 64);
    assert_eq!(reply.text("/ca").len(), 64);
    assert_eq!(reply.body["controllers"], json!(["muster.example:8443"]));

    let ask =
        || lab.ask(Method::POST, "/tickets").header("idempotency-key", "k").json(json!({"location": "ber1"})).send();
    ask().await.succeeds();
    ask().await.refuses(409, "conflict", "Idempotency-Key");
    lab.post("/tickets", json!({"location": "Nowhere!"})).await.refuses(422, "invalid", "location");
}

#[tokio::test]
async fn a_credential_is_told_once() {
    let lab = Lab::new().await;
    let admin = Some(lab.admin.as_str());
    let body = json!({"hub": "berlin", "hub_id": "651586fca6078e98982dbd90"});
    let made = lab.ask(Method::POST, "/ial/credentials").token(admin).json(body).send().await.succeeds();
    assert_eq!(made.text("/secret").len(), 64);
    let list = lab.ask(Method::GET, "/ial/credentials").token(admin).send().await.succeeds();
    assert_eq!(list.text("/items/0/hub_id"), "651586fca6078e98982dbd90");
    assert!(!list.body.to_string().contains(made.text("/secret")));
    let path = format!("/ial/credentials/{}", made.text("/key"));
    assert_eq!(lab.ask(Method::DELETE, &*path).token(admin).send().await.status, 204);
    lab.ask(Method::DELETE, path).token(admin).send().await.refuses(404, "not-found", "IAL credential");
}
