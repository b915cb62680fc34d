//! What a credential is for, who is in the audit log, and what a flood of wrong ones does to good ones.

use muster_controller::fleet::record::{AuditResult, HubRule, Lifecycle, Machine, PlaceRule};
use muster_controller::fleet::{Draft, credential, machine};
use serde_json::{Value, json};

use crate::site::{Reply, Site, allocation};

const SERVER: &str = "6516a1f2a6078e98982dbd92";

/// Credentials of the same hub that are for `ham1` and no other.
async fn for_ham1(site: &Site) -> Value {
    let places = PlaceRule::Only(vec!["ham1".into()]);
    let make = move |draft: &mut _| credential::create(draft, "acme", HubRule::Any, places);
    let (record, secret) = site.change(make).await;
    json!({ "api_key": record.key, "secret": secret })
}

async fn ask(site: &Site, auth: &Value, path: &str, request: Value) -> Reply {
    site.json("POST", path, &json!({ "auth": auth, "request": request })).await
}

fn refuses(reply: &Reply, code: &str) {
    assert_eq!(reply.body["error"]["code"], code, "{}", reply.body);
}

#[tokio::test]
async fn a_credential_for_one_location_sees_and_touches_nothing_elsewhere() {
    let site = Site::with(2).await;
    let (berlin, hamburg) = (site.auth.clone(), for_ham1(&site).await);
    let server = site.server(SERVER).await;
    let pool = json!("6516b3a4a6078e98982dbd94");
    let held = site.data("/v1/infrastructure/ip/allocate", allocation(&server, "ipv4", pool.clone())).await;
    let order = site.order("6516a1f2a6078e98982dbd99").await;
    let before = (site.state().leases.clone(), site.state().addresses.len(), site.state().operations.len());

    let locations = ask(&site, &hamburg, "/v1/infrastructure/provider/locations", Value::Null).await;
    let codes: Vec<&Value> = locations.body["data"]["locations"].as_array().expect("a list").iter().collect();
    assert_eq!(codes.iter().map(|l| &l["provider"]["location_id"]).collect::<Vec<_>>(), ["ham1"]);
    let models = ask(&site, &hamburg, "/v1/infrastructure/provider/server-models", Value::Null).await;
    assert_eq!(models.body["data"], json!({ "models": [], "extra": { "available": {}, "available_in_zones": {} } }));
    assert!(!site.data("/v1/infrastructure/provider/server-models", Value::Null).await["models"][0].is_null());

    let there = json!({ "location_id": "ber1" });
    refuses(&ask(&site, &hamburg, "/v1/location/configure", there).await, "404.infrastructure.location");
    let provision = "/v1/infrastructure/server/provision";
    refuses(&ask(&site, &hamburg, provision, order).await, "404.infrastructure.location");
    for path in ["provision-status", "restart", "decommission"] {
        let reply =
            ask(&site, &hamburg, &format!("/v1/infrastructure/server/{path}"), json!({ "server_id": server })).await;
        refuses(&reply, "403.not-allowed");
    }
    let mut allocate = allocation(&server, "ipv4", Value::Null);
    refuses(
        &ask(&site, &hamburg, "/v1/infrastructure/ip/allocate", allocate.clone()).await,
        "404.infrastructure.location",
    );
    allocate["location_id"] = json!("ham1");
    refuses(&ask(&site, &hamburg, "/v1/infrastructure/ip/allocate", allocate).await, "403.not-allowed");
    let mut release = allocation(&server, "ipv4", pool);
    for key in ["ip_id", "ip_assignment_id", "cidr"] {
        release[key] = held[key].clone();
    }
    refuses(&ask(&site, &hamburg, "/v1/infrastructure/ip/release", release.clone()).await, "403.not-allowed");
    let after = (site.state().leases.clone(), site.state().addresses.len(), site.state().operations.len());
    assert_eq!((after.0.len(), after.1, after.2), (before.0.len(), before.1, before.2));
    assert_eq!(after.0.iter().next(), before.0.iter().next());

    let released = ask(&site, &berlin, "/v1/infrastructure/ip/release", release).await;
    assert_eq!(released.body["data"], json!(true), "the hub's other credential may");
}

#[tokio::test]
async fn a_credential_for_one_location_provisions_there_and_no_order_leads_it_elsewhere() {
    let site = Site::with(2).await;
    let hamburg = for_ham1(&site).await;
    let elsewhere = site.server(SERVER).await;
    // The second machine moves: a location follows from the medium that it booted from.
    let free = site.state().machines.iter().find(|m| m.lifecycle == Lifecycle::Available).map(|m| m.id);
    let moved = free.expect("one is free");
    let to_ham1 = move |draft: &mut Draft| {
        let machine = draft.need::<Machine>(&moved)?;
        Ok(machine::save(draft, Machine { location: "ham1".into(), ..machine }))
    };
    site.change(to_ham1).await;
    let order = |cycle_server: &str, order: Value| {
        let mut order = order;
        order["location_id"] = json!("ham1");
        order["zone_id"] = Value::Null;
        order["cycle"] = crate::site::cycle(cycle_server);
        order
    };
    let template = site.order(SERVER).await;
    let provision = "/v1/infrastructure/server/provision";
    let repeated = ask(&site, &hamburg, provision, order(SERVER, template.clone())).await;
    refuses(&repeated, "403.invalid-state");
    assert!(!repeated.body.to_string().contains(&elsewhere), "{}", repeated.body);
    let made = ask(&site, &hamburg, provision, order("6516a1f2a6078e98982dbd99", template)).await;
    let id = made.body["data"]["server_id"].as_str().unwrap_or_else(|| panic!("{}", made.body)).to_owned();
    let status = ask(&site, &hamburg, "/v1/infrastructure/server/provision-status", json!({ "server_id": id })).await;
    assert_eq!(status.body["data"]["provisioned"], false);
    let ended = ask(&site, &hamburg, "/v1/infrastructure/server/decommission", json!({ "server_id": id })).await;
    assert_eq!(ended.body["data"], json!(true));
}

#[tokio::test]
async fn a_flood_of_wrong_credentials_does_not_lock_out_good_ones() {
    let site = Site::with(0).await;
    let wrong = json!({ "api_key": "0000000000000000", "secret": "x" });
    let mut statuses = std::collections::BTreeMap::new();
    for n in 0..300 {
        let path = ["/v1/auth/verify", "/v1/infrastructure/provider/locations"][n % 2];
        let reply = ask(&site, &wrong, path, Value::Null).await;
        *statuses.entry(reply.status.as_u16()).or_insert(0) += 1;
        if reply.status == 429 {
            refuses(&reply, "429.rate-limiting");
            assert!(reply.headers.contains_key("retry-after"));
        }
    }
    assert!(statuses[&429] > 100 && statuses[&200] >= 30 && statuses[&401] >= 30, "{statuses:?}");
    assert_eq!(site.data("/v1/auth/verify", Value::Null).await, json!({ "valid": true }));
    // The catalog is no secret, and asks for no credentials.
    let reply = site.json("POST", "/v1/infrastructure/provider/locations", &json!({})).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn what_a_hub_changes_and_what_it_is_refused_is_in_the_audit_log_with_its_request() {
    let site = Site::with(1).await;
    let path = "/v1/infrastructure/server/provision";
    let order = json!({ "auth": site.auth, "request": site.order(SERVER).await }).to_string();
    let reply = site.send("POST", path, &[("x-request-id", "cycle-1")], order).await;
    assert_eq!((reply.status.as_u16(), &reply.headers["x-request-id"]), (200, &"cycle-1".parse().expect("a header")));
    let other = json!({ "auth": site.auth, "request": { "model_id": "m", "location_id": "nowhere" } }).to_string();
    let refused = site.send("POST", path, &[("x-request-id", "cycle-2")], other).await;
    refuses(&refused, "404.infrastructure.location");
    let unknown = json!({ "auth": { "api_key": "x", "secret": "y" }, "request": {} }).to_string();
    let stranger = site.send("POST", path, &[("x-request-id", "cycle-3")], unknown).await;
    assert_eq!(stranger.status, 401);

    let log: Result<Vec<_>, _> = site.fleet.ledger().all(0, u64::MAX).collect();
    let log = log.expect("read");
    let of = |request: &str| log.iter().filter(|entry| entry.request == request).collect::<Vec<_>>();
    let done = of("cycle-1");
    assert!(done.iter().all(|entry| entry.who == "ial:acme" && entry.result == AuditResult::Done));
    for action in ["lease.preparing", "machine.leased", "machine.desired", "address.taken"] {
        let entry = done.iter().find(|entry| entry.action == action).unwrap_or_else(|| panic!("no {action}"));
        assert_ne!(entry.before, entry.after, "{action}");
    }
    let [attempt] = of("cycle-2")[..] else { panic!("one entry") };
    assert_eq!((attempt.who.as_str(), attempt.subject.as_str()), ("ial:acme", &*format!("POST {path}")));
    assert!(matches!(&attempt.result, AuditResult::Refused { why } if why.starts_with("404.infrastructure.location")));
    assert!(of("cycle-3").is_empty(), "strangers write nothing");
}
