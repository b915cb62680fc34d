//! Bad input: each is refused with the right status, code and pointer, and changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::site::{Reply, Site, allocation};

/// Everything that a refused call could have changed.
fn fingerprint(site: &Site) -> (u64, usize, usize, usize) {
    let state = site.state();
    (state.next_event(), state.leases.len(), state.addresses.len(), state.operations.len())
}

fn check(what: &str, reply: &Reply, status: u16, code: &str, source: Option<&str>) {
    let error = &reply.body["error"];
    assert_eq!(reply.status.as_u16(), status, "{what}: {}", reply.body);
    assert_eq!(error["status"], json!(status), "{what}");
    assert_eq!(error["code"], json!(code), "{what}: {error}");
    assert_eq!(error.get("source").and_then(Value::as_str), source, "{what}: {error}");
    assert!(error["title"].as_str().is_some_and(|title| !title.is_empty()), "{what}");
    assert_eq!(reply.body.get("data"), Some(&Value::Null), "{what}");
}

const PROVISION: &str = "/v1/infrastructure/server/provision";
const STATUS: &str = "/v1/infrastructure/server/provision-status";
const RESTART: &str = "/v1/infrastructure/server/restart";
const DECOMMISSION: &str = "/v1/infrastructure/server/decommission";
const ALLOCATE: &str = "/v1/infrastructure/ip/allocate";
const RELEASE: &str = "/v1/infrastructure/ip/release";
const CONFIGURE: &str = "/v1/location/configure";
const LOCATIONS: &str = "/v1/infrastructure/provider/locations";

/// `value` with one field changed.
fn with(mut value: Value, key: &str, to: Value) -> Value {
    value[key] = to;
    value
}

#[tokio::test]
async fn a_body_that_is_too_large_is_heard_to_its_end_so_that_its_sender_hears_the_refusal() {
    let site = Site::with(0).await;
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    let pieces = futures_util::stream::iter(0..8).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(vec![b' '; 64 << 10])
    });
    let reply = site.send("POST", "/v1/auth/verify", &[], Body::from_stream(pieces)).await;
    assert_eq!((reply.status, &reply.body["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("400.invalid-syntax")));
    assert_eq!(heard.load(Ordering::Relaxed), 8);
}

#[tokio::test]
async fn fields_that_are_not_what_they_should_be() {
    let site = Site::with(2).await;
    let server = site.server("6516a1f2a6078e98982dbd92").await;
    let order = site.order("6516a1f2a6078e98982dbd99").await;
    let pool = allocation(&server, "ipv4", json!("6516b3a4a6078e98982dbd94"));
    let held = site.data(ALLOCATE, pool.clone()).await;
    let mut release = pool.clone();
    for key in ["ip_id", "ip_assignment_id", "cidr"] {
        release[key] = held[key].clone();
    }
    let status = json!({ "server_id": server });
    let long = json!("x".repeat(257));
    let (syntax, missing, invalid) = ("400.invalid-syntax", "422.missing-argument", "422.invalid-argument");
    let cases: Vec<(&str, Value, u16, &str, Option<&str>)> = vec![
        (CONFIGURE, Value::Null, 422, missing, Some("/request/location_id")),
        (CONFIGURE, json!({ "location_id": " " }), 422, missing, Some("/request/location_id")),
        (CONFIGURE, json!({ "location_id": 7 }), 400, syntax, Some("/request/location_id")),
        (CONFIGURE, json!({ "location_id": long }), 422, invalid, Some("/request/location_id")),
        (CONFIGURE, json!({ "location_id": "a\u{7}b" }), 422, invalid, Some("/request/location_id")),
        (
            CONFIGURE,
            json!({ "location_id": "nowhere" }),
            404,
            "404.infrastructure.location",
            Some("/request/location_id"),
        ),
        (CONFIGURE, json!({ "location_id": "ber1", "version": 1 }), 400, syntax, Some("/request/version")),
        (
            CONFIGURE,
            json!({ "location_id": "ber1", "configuration_current": [] }),
            400,
            syntax,
            Some("/request/configuration_current"),
        ),
        (CONFIGURE, json!({ "location_id": "ber1", "cycle": "x" }), 400, syntax, Some("/request/cycle")),
        (PROVISION, json!({}), 422, missing, Some("/request/model_id")),
        (PROVISION, with(order.clone(), "model_id", Value::Null), 422, missing, Some("/request/model_id")),
        (PROVISION, with(order.clone(), "model_id", json!(["m"])), 400, syntax, Some("/request/model_id")),
        (
            PROVISION,
            with(order.clone(), "model_id", json!("m-none")),
            404,
            "404.infrastructure.model",
            Some("/request/model_id"),
        ),
        (PROVISION, with(order.clone(), "location_id", json!("")), 422, missing, Some("/request/location_id")),
        (
            PROVISION,
            with(order.clone(), "location_id", json!("nowhere")),
            404,
            "404.infrastructure.location",
            Some("/request/location_id"),
        ),
        (
            PROVISION,
            with(order.clone(), "location_id", json!("BER1")),
            404,
            "404.infrastructure.location",
            Some("/request/location_id"),
        ),
        (
            PROVISION,
            with(with(order.clone(), "location_id", json!("ham1")), "zone_id", Value::Null),
            422,
            "422.max-exceeded",
            Some("/request/model_id"),
        ),
        (PROVISION, with(order.clone(), "zone_id", json!("ber1-b")), 422, invalid, Some("/request/zone_id")),
        (PROVISION, with(order.clone(), "zone_id", json!(1)), 400, syntax, Some("/request/zone_id")),
        (PROVISION, with(order.clone(), "hostname", json!({})), 400, syntax, Some("/request/hostname")),
        (PROVISION, with(order.clone(), "hostname", long.clone()), 422, invalid, Some("/request/hostname")),
        (PROVISION, with(order.clone(), "model_features", json!("raid")), 400, syntax, Some("/request/model_features")),
        (
            PROVISION,
            with(order.clone(), "provision_options", json!(true)),
            400,
            syntax,
            Some("/request/provision_options"),
        ),
        (
            PROVISION,
            with(order.clone(), "location_configuration", json!(1)),
            400,
            syntax,
            Some("/request/location_configuration"),
        ),
        (PROVISION, with(order.clone(), "cycle", json!([])), 400, syntax, Some("/request/cycle")),
        (
            PROVISION,
            with(order.clone(), "cycle", json!({ "server_id": 1 })),
            400,
            syntax,
            Some("/request/cycle/server_id"),
        ),
        (
            PROVISION,
            with(order.clone(), "cycle", json!({ "server_id": long })),
            422,
            invalid,
            Some("/request/cycle/server_id"),
        ),
        (STATUS, json!({}), 422, missing, Some("/request/server_id")),
        (STATUS, json!({ "server_id": 1.5 }), 400, syntax, Some("/request/server_id")),
        (STATUS, json!({ "server_id": "srv-none" }), 404, "404.infrastructure.server", Some("/request/server_id")),
        (STATUS, with(status.clone(), "extra", json!("x")), 400, syntax, Some("/request/extra")),
        (RESTART, json!({}), 422, missing, Some("/request/server_id")),
        (RESTART, json!({ "server_id": "srv-none" }), 404, "404.infrastructure.server", Some("/request/server_id")),
        (RESTART, with(status.clone(), "hostname", json!(1)), 400, syntax, Some("/request/hostname")),
        (DECOMMISSION, json!({}), 422, missing, Some("/request/server_id")),
        (DECOMMISSION, json!({ "server_id": true }), 400, syntax, Some("/request/server_id")),
        (DECOMMISSION, with(status.clone(), "cycle", json!(1)), 400, syntax, Some("/request/cycle")),
        (ALLOCATE, json!({}), 422, missing, Some("/request/kind")),
        (ALLOCATE, with(pool.clone(), "kind", json!("IPv4")), 422, invalid, Some("/request/kind")),
        (ALLOCATE, with(pool.clone(), "kind", json!(4)), 400, syntax, Some("/request/kind")),
        (ALLOCATE, with(pool.clone(), "server_id", Value::Null), 422, missing, Some("/request/server_id")),
        (
            ALLOCATE,
            with(pool.clone(), "server_id", json!("srv-none")),
            404,
            "404.infrastructure.server",
            Some("/request/server_id"),
        ),
        (
            ALLOCATE,
            with(pool.clone(), "location_id", json!("nowhere")),
            404,
            "404.infrastructure.location",
            Some("/request/location_id"),
        ),
        (
            ALLOCATE,
            with(allocation(&server, "ipv4", Value::Null), "location_id", json!("ham1")),
            422,
            invalid,
            Some("/request/location_id"),
        ),
        (
            ALLOCATE,
            with(allocation(&server, "ipv6", Value::Null), "location_id", json!("ham1")),
            422,
            "422.not-compatible",
            Some("/request/kind"),
        ),
        (ALLOCATE, with(pool.clone(), "cycle", json!({ "pool_id": [] })), 400, syntax, Some("/request/cycle/pool_id")),
        (ALLOCATE, with(pool.clone(), "zone_id", json!(false)), 400, syntax, Some("/request/zone_id")),
        (RELEASE, json!({}), 422, missing, Some("/request/kind")),
        (RELEASE, with(release.clone(), "ip_id", Value::Null), 422, missing, Some("/request/ip_id")),
        (
            RELEASE,
            with(release.clone(), "ip_id", json!("ip-17")),
            404,
            "404.infrastructure.ips.pool",
            Some("/request/ip_id"),
        ),
        (
            RELEASE,
            with(release.clone(), "ip_assignment_id", json!("")),
            422,
            missing,
            Some("/request/ip_assignment_id"),
        ),
        (RELEASE, with(release.clone(), "ip_assignment_id", json!(1)), 400, syntax, Some("/request/ip_assignment_id")),
        (RELEASE, with(release.clone(), "kind", json!("ipv6")), 422, invalid, Some("/request/kind")),
        (RELEASE, with(release.clone(), "cidr", json!("203.0.113.9/32")), 422, invalid, Some("/request/cidr")),
        (RELEASE, with(release.clone(), "cidr", json!("x")), 422, invalid, Some("/request/cidr")),
        (RELEASE, with(release.clone(), "nat_private_ip", json!({})), 400, syntax, Some("/request/nat_private_ip")),
    ];
    assert!(cases.len() >= 40);
    let before = fingerprint(&site);
    for (path, request, status, code, source) in cases {
        let what = format!("{path} {request}");
        check(&what, &site.post(path, request).await, status, code, source);
        assert_eq!(fingerprint(&site), before, "{what} changed something");
    }
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be() {
    let site = Site::with(0).await;
    let syntax = "400.invalid-syntax";
    let deep = format!("{}{}", "[".repeat(100_000 / 2), "]".repeat(100_000 / 4));
    let nested = format!("{{\"request\":{}{}}}", "{\"a\":".repeat(1_000), "1".to_owned() + &"}".repeat(1_000));
    let cases: Vec<(String, Option<&str>)> = vec![
        ("{".into(), None),
        ("{\"auth\":}".into(), None),
        ("nul".into(), None),
        ("{} {}".into(), None),
        ("\u{feff}{}".into(), None),
        (deep, None),
        (nested, None),
        ("x".repeat(70_000), None),
        (format!("{{\"request\":{{\"a\":\"{}\"}}}}", "x".repeat(70_000)), None),
        ("[]".into(), Some("")),
        ("\"text\"".into(), Some("")),
        ("7".into(), Some("")),
        ("true".into(), Some("")),
        ("{\"auth\":\"key\"}".into(), Some("/auth")),
        ("{\"auth\":[]}".into(), Some("/auth")),
        ("{\"auth\":{\"api_key\":7}}".into(), Some("/auth/api_key")),
        ("{\"auth\":{\"secret\":{}}}".into(), Some("/auth/secret")),
        ("{\"auth\":{\"cycle\":\"x\"}}".into(), Some("/auth/cycle")),
        ("{\"auth\":{\"cycle\":{\"hub_id\":1}}}".into(), Some("/auth/cycle/hub_id")),
        ("{\"request\":[]}".into(), Some("/request")),
        ("{\"request\":\"x\"}".into(), Some("/request")),
    ];
    let before = fingerprint(&site);
    for path in ["/v1/auth/verify", LOCATIONS, CONFIGURE, PROVISION, STATUS, RELEASE] {
        for (body, source) in &cases {
            let shown: String = body.chars().take(60).collect();
            let reply = site.send("POST", path, &[], body.clone()).await;
            check(&format!("{path} {shown}"), &reply, 400, syntax, *source);
        }
        let reply = site.send("POST", path, &[], vec![0xff, 0xfe, 0x00, 0x80]).await;
        check("no UTF-8", &reply, 400, syntax, None);
    }
    assert_eq!(fingerprint(&site), before);
}

#[tokio::test]
async fn callers_that_are_not_who_they_should_be() {
    let site = Site::with(1).await;
    let order = site.order("6516a1f2a6078e98982dbd92").await;
    let right = |key: &str| site.auth[key].clone();
    let cases = [
        (Value::Null, 401, "401.auth-invalid", "/auth"),
        (json!({}), 401, "401.auth-invalid", "/auth"),
        (json!({ "api_key": right("api_key"), "secret": "no" }), 401, "401.auth-invalid", "/auth"),
        (json!({ "api_key": "no", "secret": right("secret") }), 401, "401.auth-invalid", "/auth"),
        (json!({ "api_key": right("api_key") }), 401, "401.auth-invalid", "/auth"),
        (json!({ "api_key": right("api_key"), "secret": right("secret") }), 403, "403.wrong-hub", "/auth/cycle/hub_id"),
        (
            json!({ "api_key": right("api_key"), "secret": right("secret"), "cycle": { "hub_id": "6515" } }),
            403,
            "403.wrong-hub",
            "/auth/cycle/hub_id",
        ),
    ];
    let before = fingerprint(&site);
    for path in [CONFIGURE, PROVISION, STATUS, RESTART, DECOMMISSION, ALLOCATE, RELEASE] {
        for (auth, status, code, source) in &cases {
            let reply = site.json("POST", path, &json!({ "auth": auth, "request": order })).await;
            check(&format!("{path} {auth}"), &reply, *status, code, Some(source));
        }
    }
    assert_eq!(fingerprint(&site), before);
}

#[tokio::test]
async fn paths_and_verbs_that_are_not_served() {
    let site = Site::with(0).await;
    for (method, path) in [
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("POST", "//v1/"),
        ("GET", "/v1/nothing"),
        ("POST", "/v1/auth"),
        ("POST", "/v1/auth/verify/more"),
        ("POST", "/v1/infrastructure/server/power-off"),
        ("POST", "/v1/AUTH/verify"),
        ("POST", "/v1/auth/%76erify"),
        ("POST", "/v1/./auth/verify"),
        ("GET", PROVISION),
        ("GET", DECOMMISSION),
        ("PUT", RESTART),
        ("DELETE", RELEASE),
        ("PATCH", LOCATIONS),
        ("OPTIONS", CONFIGURE),
        ("BREW", ALLOCATE),
    ] {
        let reply = site.json(method, path, &json!({ "auth": site.auth, "request": {} })).await;
        check(&format!("{method} {path}"), &reply, 404, "404.uri", None);
    }
}

#[tokio::test]
async fn states_that_do_not_allow_it() {
    let site = Site::with(1).await;
    let cycle_server = "6516a1f2a6078e98982dbd92";
    let server = site.provision(cycle_server).await;
    let named = json!({ "server_id": server });
    check("too early", &site.post(RESTART, named.clone()).await, 403, "403.invalid-state", None);
    let more = site.order("6516a1f2a6078e98982dbd93").await;
    let reply = site.post(PROVISION, more).await;
    check("the last one is taken", &reply, 422, "422.max-exceeded", Some("/request/model_id"));
    assert!(reply.body["error"]["title"].as_str().expect("a text").contains("1 leased"), "{}", reply.body);
    site.confirm().await;
    site.data(DECOMMISSION, named.clone()).await;
    let before = fingerprint(&site);
    check("on its way out", &site.post(RESTART, named.clone()).await, 403, "403.invalid-state", None);
    let reply = site.post(STATUS, named).await;
    check("on its way out", &reply, 404, "404.infrastructure.server", Some("/request/server_id"));
    let reply = site.post(PROVISION, site.order(cycle_server).await).await;
    check("on its way out", &reply, 403, "403.invalid-state", None);
    let reply = site.post(ALLOCATE, allocation(&server, "ipv4", Value::Null)).await;
    check("on its way out", &reply, 403, "403.invalid-state", None);
    assert_eq!(fingerprint(&site), before);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_not_waited_for() {
    let site = Site::with(0).await;
    let never = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let reply = site.send("POST", "/v1/auth/verify", &[], Body::from_stream(never)).await;
    check("a body that stops", &reply, 400, "400.invalid-syntax", None);
}
