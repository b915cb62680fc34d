//! Who may do what.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::to_bytes;
use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{StreamExt, poll};
use muster_controller::api::openapi;
use muster_controller::fleet::record::Role;
use muster_controller::fleet::{Author, access};
use serde_json::json;

use crate::lab::Lab;

/// Longer than anything here takes, and shorter than the silence after which a feed says that it is still there.
const DEADLINE: Duration = Duration::from_secs(10);

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
        let body = json!({"name": "ci", "role": "viewer", "expires": "3d"});
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
    lab.post("/tickets", json!({"location": "ber1"})).await.refuses(422, "invalid", "location");
    lab.ask(Method::PUT, "/locations/ber1").json(json!({})).send().await.succeeds();
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

#[tokio::test]
async fn a_token_ends_when_it_was_said_to() {
    let lab = Lab::new().await;
    let count = std::cell::Cell::new(0);
    let make = |expires: &'static str| {
        count.set(count.get() + 1);
        let body = json!({"name": format!("ci{}", count.get()), "role": "viewer", "expires": expires});
        lab.ask(Method::POST, "/tokens").token(Some(&lab.admin)).json(body).send()
    };
    for wrong in ["soon", "90", "1y", "2026-13-01", "2001-01-01", "0d", ""] {
        make(wrong).await.refuses(422, "invalid", "expires");
    }
    assert_eq!(make("2100-01-31").await.succeeds().text("/expires"), "2100-01-31T00:00:00.000Z");
    assert_eq!(make("2100-01-31T12:00:00+02:00").await.succeeds().text("/expires"), "2100-01-31T10:00:00.000Z");
    let spans = [make("12h").await.succeeds(), make("90d").await.succeeds()];
    assert!(spans[0].text("/expires") < spans[1].text("/expires"));
    let forever = lab.ask(Method::POST, "/tokens").token(Some(&lab.admin)).json(json!({"name": "x", "role": "viewer"}));
    assert!(forever.send().await.succeeds().body["expires"].is_null());
}

/// A token that was good until a moment ago.
async fn expiring(lab: &Lab, ms: u64) -> String {
    let make = move |draft: &mut muster_controller::fleet::Draft| {
        let end = draft.now_unix_ms() + ms;
        access::create(draft, "short", Role::Viewer, Some(end))
    };
    lab.fleet.change(Author::controller(), make).await.expect("made").1
}

#[tokio::test]
async fn a_refusal_says_what_is_missing_or_wrong() {
    let lab = Lab::new().await;
    let says = |value: Option<String>| {
        let mut ask = lab.ask(Method::GET, "/status").token(None);
        if let Some(value) = value {
            ask = ask.header("authorization", value);
        }
        async move {
            let reply = ask.send().await;
            reply.refuses(401, "unauthenticated", "Authorization");
            assert!(
                reply.header("www-authenticate").contains("Bearer")
                    && reply.header("www-authenticate").contains("Basic")
            );
            reply.text("/detail").to_owned()
        }
    };
    let basic = |pair: String| Some(format!("Basic {}", BASE64.encode(pair)));
    assert!(says(None).await.contains("no token came"));
    assert!(says(Some("Digest x".into())).await.contains("must read \"Bearer\""));
    assert!(says(basic(format!("olga:{}", lab.operator))).await.contains("there are no users here"));
    assert!(says(Some("Bearer muster_00000000_00".into())).await.contains("not known, or was revoked"));
    assert!(says(basic("token:muster_00000000_00".into())).await.contains("not known, or was revoked"));
    let ended = expiring(&lab, 1).await;
    tokio::time::timeout(DEADLINE, async {
        while lab.ask(Method::GET, "/status").token(Some(&ended)).send().await.status != 401 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it ends");
    assert!(says(Some(format!("Bearer {ended}"))).await.contains("the token \"short\" has ended at 2"));
}

#[tokio::test]
async fn a_token_may_come_as_the_password_of_the_user_token() {
    let lab = Lab::new().await;
    let basic = |pair: String| {
        let value = format!("Basic {}", BASE64.encode(pair));
        lab.ask(Method::GET, "/audit").token(None).header("authorization", value).send()
    };
    basic(format!("token:{}", lab.operator)).await.succeeds();
    basic(format!("token:{}", lab.viewer)).await.refuses(403, "forbidden", "Authorization");
}

#[tokio::test]
async fn a_live_feed_ends_within_a_second_when_its_token_is_revoked_and_nothing_passes_after() {
    let lab = Lab::new().await;
    let open = |path: &'static str, token: &str| {
        lab.ask(Method::GET, path).token(Some(token)).header("accept", "text/event-stream").open()
    };
    let made = lab.ask(Method::POST, "/tokens").token(Some(&lab.admin));
    let made = made.json(json!({"name": "ci", "role": "operator"})).send().await.succeeds();
    let feeds = [open("/events", made.text("/token")).await, open("/audit", made.text("/token")).await];
    let unread = [open("/events", made.text("/token")).await, open("/audit", made.text("/token")).await];
    let others = open("/events", &lab.operator).await;
    let mut waiting = feeds.map(|feed| feed.into_body().into_data_stream());
    for feed in &mut waiting {
        assert!(poll!(feed.next()).is_pending(), "there is no news yet");
    }
    let revoke = lab.ask(Method::DELETE, format!("/tokens/{}", made.text("/id"))).token(Some(&lab.admin));
    assert_eq!(revoke.send().await.status, 204);
    // From here on no time passes but what everybody waits for.
    tokio::time::pause();
    for feed in &mut waiting {
        let next = tokio::time::timeout(Duration::from_secs(1), feed.next()).await;
        assert!(next.expect("it ends within a second, by itself").is_none(), "not even that it was revoked");
    }
    tokio::time::resume();
    lab.enrolled("S1").await;
    tokio::time::pause();
    for feed in unread {
        let read = tokio::time::timeout(Duration::from_secs(1), to_bytes(feed.into_body(), 1 << 20)).await;
        assert!(read.expect("it has ended").expect("readable").is_empty(), "what came after is not for it");
    }
    tokio::time::resume();
    crate::feed::read_until(others, "machine.pending").await;
}

#[tokio::test]
async fn a_live_feed_ends_with_its_token() {
    let lab = Lab::new().await;
    let open = |path: &'static str, token: &str| {
        lab.ask(Method::GET, path).token(Some(token)).header("accept", "text/event-stream").open()
    };
    // Silent for longer than this deadline, a feed says that it is still there: nothing else ends the wait.
    let short = expiring(&lab, 500).await;
    let feed = open("/events", &short).await;
    assert_eq!(feed.status(), 200);
    let read = tokio::time::timeout(DEADLINE, to_bytes(feed.into_body(), 1 << 20)).await;
    assert!(read.expect("it ends with its token").is_ok());
}

#[tokio::test]
async fn a_flood_of_bad_tokens_from_an_office_does_not_lock_out_its_operators() {
    let lab = Lab::new().await;
    let office = "203.0.113.7";
    let ask = |token: &str, from: &str| lab.ask(Method::GET, "/status").token(Some(token)).from(from).send();
    let mut statuses = BTreeMap::new();
    for n in 0..300 {
        let reply = ask(&format!("muster_00000000_{n}"), office).await;
        *statuses.entry(reply.status.as_u16()).or_insert(0) += 1;
        if reply.status == 429 {
            reply.refuses(429, "too-many-attempts", "Authorization");
            assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
        }
    }
    // What fills up while the flood lasts is far less than what it brings.
    assert!(statuses[&429] > 100 && statuses[&401] >= 60, "{statuses:?}");
    ask(&lab.operator, office).await.succeeds();
    ask("muster_00000000_00", "203.0.113.8").await.refuses(401, "unauthenticated", "Authorization");
    ask("muster_00000000_00", office).await.refuses(429, "too-many-attempts", "Authorization");
    let tagged = lab.ask(Method::GET, "/status").token(None).from(office).header("x-request-id", "mine").send().await;
    assert_eq!(
        (tagged.status.as_u16(), tagged.header("x-request-id"), tagged.text("/request_id")),
        (429, "mine", "mine")
    );
}

#[tokio::test]
async fn a_credential_is_for_known_locations_only() {
    let lab = Lab::new().await;
    let admin = Some(lab.admin.as_str());
    lab.ask(Method::PUT, "/locations/ber1").json(json!({})).send().await.succeeds();
    let make = |locations| {
        let body = json!({"hub": "berlin", "locations": locations});
        lab.ask(Method::POST, "/ial/credentials").token(admin).json(body).send()
    };
    assert_eq!(make(json!(["ber1"])).await.succeeds().body["locations"], json!(["ber1"]));
    make(json!(["ber1", "ham1"])).await.refuses(422, "invalid", "locations");
    make(json!([])).await.refuses(422, "invalid", "locations");
    assert_eq!(make(json!(null)).await.succeeds().body.get("locations"), None);
}
