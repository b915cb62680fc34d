//! Bad input: a clear refusal that names the field, and nothing changed.

use axum::http::Method;
use muster_controller::api::http::Problem;
use serde_json::json;

use crate::lab::Lab;

#[tokio::test]
async fn every_code_is_said_once_and_described() {
    let mut codes: Vec<&str> = Problem::KINDS.iter().map(|kind| kind.code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), Problem::KINDS.len());
    assert!(Problem::KINDS.iter().all(|kind| !kind.code.is_empty() && !kind.status.is_success()));
}

#[tokio::test]
async fn a_body_is_limited_in_size_depth_and_kind() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let ask = || lab.ask(Method::POST, format!("/machines/{id}/apply"));
    ask().body(vec![b' '; (1 << 20) + 1]).send().await.refuses(413, "too-large", "body");
    ask().body("[".repeat(100_000)).send().await.refuses(400, "malformed", "body");
    ask().body("{\"document\": ").send().await.refuses(400, "malformed", "body");
    ask().body("{\"document\": \"\"} {}").send().await.refuses(400, "malformed", "body");
    ask().body([0xff, 0xfe]).send().await.refuses(400, "malformed", "body");
    ask().header("content-type", "text/yaml").body("a: b").send().await.refuses(
        415,
        "unsupported-media-type",
        "Content-Type",
    );
}

#[tokio::test]
async fn a_wrong_type_or_an_unknown_key_is_named() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let patch = |body| lab.ask(Method::PATCH, format!("/machines/{id}")).json(body).send();
    patch(json!({"name": 7})).await.refuses(422, "invalid", "name");
    patch(json!({"labels": {"rack": 4}})).await.refuses(422, "invalid", "labels.rack");
    patch(json!({"labels": []})).await.refuses(422, "invalid", "labels");
    patch(json!({"maintenance": "yes"})).await.refuses(422, "invalid", "maintenance");
    patch(json!({"lifecycle": "available"})).await.refuses(422, "invalid", "lifecycle");
    patch(json!([])).await.refuses(422, "invalid", "body");
    patch(json!({"name": "no blanks"})).await.refuses(422, "invalid", "name");
    lab.post(format!("/machines/{id}/apply"), json!({})).await.refuses(422, "invalid", "document");
    lab.post(format!("/machines/{id}/approve"), json!({"force": true})).await.refuses(422, "invalid", "force");
}

#[tokio::test]
async fn a_parameter_that_nobody_knows_is_refused() {
    let lab = Lab::new().await;
    for (path, status, code, field) in [
        ("/machines?limit=0", 422, "invalid", "limit"),
        ("/machines?limit=1001", 422, "invalid", "limit"),
        ("/machines?limit=ten", 422, "invalid", "limit"),
        ("/machines?cursor=nonsense", 422, "invalid", "cursor"),
        ("/machines?lifecycle=happy", 422, "invalid", "lifecycle"),
        ("/machines?presence=maybe", 422, "invalid", "presence"),
        ("/machines?state=pending", 400, "malformed", "state"),
        ("/machines?limit=1&limit=2", 400, "malformed", "limit"),
        ("/operations?cursor=1.2", 422, "invalid", "cursor"),
        ("/operations?state=done", 422, "invalid", "state"),
        ("/operations?machine=nobody", 404, "not-found", "machine"),
        ("/events?cursor=x", 422, "invalid", "cursor"),
        ("/subnets?cursor=x", 422, "invalid", "cursor"),
        ("/audit?limit=-1", 422, "invalid", "limit"),
    ] {
        lab.get(path).await.refuses(status, code, field);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_not_to_be() {
    let lab = Lab::new().await;
    lab.get("/nowhere").await.refuses(404, "not-found", "path");
    lab.get("/machines/nobody").await.refuses(404, "not-found", "machine");
    lab.get("/machines/%FF").await.refuses(400, "malformed", "path");
    lab.get("/operations/nothing").await.refuses(404, "not-found", "operation");
    lab.post("/machines/nobody/power", json!({"action": "off"})).await.refuses(404, "not-found", "machine");
    lab.ask(Method::PUT, "/machines").send().await.refuses(405, "method-not-allowed", "method");
}
