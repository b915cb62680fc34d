//! Each contradiction in Cycle's documents, under each of its readings.

use axum::http::StatusCode;
use base64::Engine;
use muster_controller::ial::Envelope;
use serde_json::{Map, Value, json};

use crate::site::{Site, allocation, cycle};

const SERVER: &str = "6516a1f2a6078e98982dbd92";

fn basic(site: &Site) -> String {
    let text = |key: &str| site.auth[key].as_str().expect("a text").to_owned();
    let pair = format!("{}:{}", text("api_key"), text("secret"));
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// A credential that any hub may use, since a header has no place for a hub's id.
async fn for_any_hub(mut site: Site) -> Site {
    use muster_controller::fleet::credential;
    use muster_controller::fleet::record::{HubRule, PlaceRule};
    let (record, secret) =
        site.change(|draft| credential::create(draft, "acme", HubRule::Any, PlaceRule::Anywhere)).await;
    site.auth = json!({ "api_key": record.key, "secret": secret });
    site
}

#[tokio::test]
async fn the_status_has_two_names_two_verbs_and_three_bodies() {
    let site = for_any_hub(Site::with(1).await).await;
    let id = site.server(SERVER).await;
    let request = json!({ "server_id": id, "location_id": "ber1", "cycle": cycle(SERVER) });
    let wrapped = json!({ "auth": site.auth, "request": request });
    let mut flat = request.clone();
    flat["auth"] = site.auth.clone();
    let expected = site.post("/v1/infrastructure/server/provision-status", request).await;
    assert_eq!(expected.body["data"]["provisioned"], json!(true));
    for name in ["provision-status", "provision-check"] {
        let path = format!("/v1/infrastructure/server/{name}");
        for method in ["GET", "POST"] {
            for body in [&wrapped, &flat] {
                assert_eq!(site.json(method, &path, body).await, expected, "{method} {path} {body}");
            }
        }
        let query = format!("{path}?server_id={id}");
        assert_eq!(site.send("GET", &query, &[("authorization", &basic(&site))], "").await, expected);
        let anonymous = site.send("GET", &query, &[], "").await;
        assert_eq!(anonymous.body["error"]["code"], "401.auth-invalid");
    }
}

#[tokio::test]
async fn the_catalog_is_served_by_both_verbs_with_and_without_a_body_and_not_to_wrong_credentials() {
    let site = Site::with(1).await;
    for path in ["/v1/infrastructure/provider/locations", "/v1/infrastructure/provider/server-models"] {
        let expected = site.post(path, Value::Null).await;
        assert_eq!(expected.status, StatusCode::OK);
        for method in ["GET", "POST"] {
            for body in [
                String::new(),
                " \n".into(),
                "null".into(),
                "{}".into(),
                json!({ "request": null }).to_string(),
                json!({ "auth": null, "request": null }).to_string(),
                json!({ "auth": {}, "request": {} }).to_string(),
                json!({ "auth": site.auth }).to_string(),
                json!({ "auth": site.auth, "request": null }).to_string(),
                json!({ "auth": site.auth, "request": { "unknown": [1] }, "more": 1 }).to_string(),
            ] {
                assert_eq!(site.send(method, path, &[], body.clone()).await, expected, "{method} {path} {body}");
            }
            for auth in [
                json!({ "api_key": site.auth["api_key"], "secret": "no" }),
                json!({ "api_key": site.auth["api_key"] }),
                json!({ "secret": site.auth["secret"] }),
            ] {
                let reply = site.json(method, path, &json!({ "auth": auth, "request": null })).await;
                assert_eq!((reply.status.as_u16(), &reply.body["error"]["code"]), (401, &json!("401.auth-invalid")));
            }
            for header in ["Basic", "Basic !", "Basic bm9ib2R5Om5v", "basic bm9ib2R5"] {
                let reply = site.send(method, path, &[("authorization", header)], "").await;
                let expected = if header == "Basic" { 200 } else { 401 };
                assert_eq!(reply.status.as_u16(), expected, "{header}");
            }
        }
    }
}

#[tokio::test]
async fn configure_has_an_alias() {
    let site = Site::with(0).await;
    let request = json!({ "location_id": "ham1" });
    let expected = site.post("/v1/location/configure", request.clone()).await;
    assert_eq!(expected.status, StatusCode::OK);
    assert_eq!(site.post("/v1/infrastructure/location/configure", request).await, expected);
}

#[tokio::test]
async fn slashes_too_many_are_no_other_path() {
    let site = Site::with(0).await;
    for path in [
        "/v1/auth/verify/",
        "//v1/auth/verify",
        "//v1/auth/verify/",
        "/v1//auth/verify",
        "/v1/auth//verify//",
        "/v1/auth/verify?x=1",
    ] {
        let reply = site.post(path, Value::Null).await;
        assert_eq!(reply.body, json!({ "data": { "valid": true }, "error": null }), "{path}");
    }
}

#[tokio::test]
async fn flat_bodies_are_read_with_their_credentials_beside_the_fields() {
    let site = Site::with(1).await;
    let mut order = site.order(SERVER).await;
    order["auth"] = site.auth.clone();
    let reply = site.json("POST", "/v1/infrastructure/server/provision", &order).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    order["model_id"] = Value::Null;
    let reply = site.json("POST", "/v1/infrastructure/server/provision", &order).await;
    assert_eq!(reply.body["error"]["source"], "/model_id", "pointers point into the body that was sent");
}

#[tokio::test]
async fn a_flat_release_needs_no_credentials_but_what_only_the_hub_knows() {
    let site = Site::with(1).await;
    let server = site.server(SERVER).await;
    let path = "/v1/infrastructure/ip/release";
    let pool = site.data("/v1/infrastructure/ip/allocate", allocation(&server, "ipv4", Value::Null)).await;
    let held = site.state().addresses.len();
    let mut flat = allocation(&server, "ipv4", Value::Null);
    for key in ["ip_id", "cidr"] {
        flat[key] = pool[key].clone();
    }
    flat["ip_assignment_id"] = json!("00000000000000000000000000000000");
    assert_eq!(site.json("POST", path, &flat).await.body["data"], json!(true));
    // Nor does it take a server's own address, which has no such name.
    flat["ip_id"] = json!("203.0.113.2");
    flat["cidr"] = Value::Null;
    assert_eq!(site.json("POST", path, &flat).await.body["data"], json!(true));
    assert_eq!(site.state().addresses.len(), held, "a guess frees nothing");
    for key in ["ip_id", "ip_assignment_id", "cidr"] {
        flat[key] = pool[key].clone();
    }
    let wrapped = site.json("POST", path, &json!({ "auth": null, "request": flat })).await;
    assert_eq!(wrapped.status.as_u16(), 401, "a wrapped one has a place for them");
    assert_eq!(site.json("POST", path, &flat).await.body["data"], json!(true));
    assert_eq!(site.state().addresses.len(), held - 1);
}

#[tokio::test]
async fn the_superset_envelope_serves_those_who_read_the_bare_payload_too() {
    let site = Site::serving(1, Envelope::Superset).await;
    let body = site.post("/v1/auth/verify", Value::Null).await.body;
    assert_eq!(body, json!({ "data": { "valid": true }, "valid": true, "error": null }));
    let id = site.server(SERVER).await;
    let body = site.post("/v1/infrastructure/server/provision-status", json!({ "server_id": id })).await.body;
    assert_eq!((&body["provisioned"], &body["data"]["provisioned"]), (&json!(true), &json!(true)));
    let body = site.post("/v1/infrastructure/server/decommission", json!({ "server_id": id })).await.body;
    assert_eq!(body, json!({ "data": true, "error": null }));
    let body = site.post("/v1/infrastructure/server/decommission", Value::Null).await.body;
    assert_eq!(body["data"], Value::Null);
}

/// One request in each form that is served: wrapped and flat; with what may be null as null, and without it.
fn forms(site: &Site, request: &Value, needed: &[&str]) -> Vec<Value> {
    let fields = request.as_object().cloned().unwrap_or_default();
    let keep = |key: &String| needed.contains(&key.as_str());
    let null = |(key, value): (&String, &Value)| (key.clone(), if keep(key) { value.clone() } else { Value::Null });
    let nulls: Map<_, _> = fields.iter().map(null).collect();
    let least: Map<_, _> = fields.clone().into_iter().filter(|(key, _)| keep(key)).collect();
    let mut more = fields.clone();
    more.insert("unheard_of".into(), json!([{ "a": 2.5 }]));
    let mut bodies = Vec::new();
    for fields in [fields, nulls, least, more] {
        bodies.push(json!({ "auth": site.auth, "request": fields, "unheard_of": 1 }));
        let mut flat = Value::Object(fields);
        flat["auth"] = site.auth.clone();
        bodies.push(flat);
    }
    bodies
}

#[tokio::test]
async fn every_call_answers_the_same_to_each_form_of_its_body_by_each_of_its_names_in_either_envelope() {
    for envelope in [Envelope::Plain, Envelope::Superset] {
        let site = Site::serving(1, envelope).await;
        let order = site.order(SERVER).await;
        let id = site.server(SERVER).await;
        let pool = allocation(&id, "ipv4", json!("6516b3a4a6078e98982dbd94"));
        let taken = site.data("/v1/infrastructure/ip/allocate", pool.clone()).await;
        let mut release = pool.clone();
        for key in ["ip_id", "ip_assignment_id", "cidr", "nat_private_ip"] {
            release[key] = taken[key].clone();
        }
        let status = json!({
            "server_id": id, "location_id": "ber1", "zone_id": "ber1-a", "model_features": { "raid": null },
            "provision_options": { "storage_size": 60 }, "location_configuration": {}, "extra": {},
            "cycle": cycle(SERVER),
        });
        let act = json!({
            "server_id": id, "hostname": "h", "model_id": "m", "location_id": "ber1", "zone_id": "ber1-a",
            "extra": {}, "cycle": cycle(SERVER),
        });
        let configure = json!({
            "location_id": "ber1", "version": "1", "configuration_current": {},
            "cycle": { "location_id": "6516a0d1a6078e98982dbd91" },
        });
        let calls: [(&[&str], Value, &[&str]); 10] = [
            (&["auth/verify"], Value::Null, &[]),
            (&["infrastructure/provider/locations"], Value::Null, &[]),
            (&["infrastructure/provider/server-models"], Value::Null, &[]),
            (&["location/configure", "infrastructure/location/configure"], configure, &["location_id"]),
            (&["infrastructure/server/provision"], order, &["model_id", "location_id", "cycle"]),
            (
                &["infrastructure/server/provision-status", "infrastructure/server/provision-check"],
                status,
                &["server_id"],
            ),
            (&["infrastructure/server/restart"], act.clone(), &["server_id"]),
            (&["infrastructure/ip/allocate"], pool, &["kind", "server_id", "location_id", "cycle"]),
            (&["infrastructure/ip/release"], release, &["kind", "ip_id", "ip_assignment_id"]),
            (&["infrastructure/server/decommission"], act, &["server_id"]),
        ];
        for (names, request, needed) in calls {
            let expected = site.post(&format!("/v1/{}", names[0]), request.clone()).await;
            assert_eq!(expected.status, StatusCode::OK, "{names:?}: {}", expected.body);
            let mut wrapped = match (&expected.body["data"], envelope) {
                (Value::Object(fields), Envelope::Superset) => fields.clone(),
                _ => Map::new(),
            };
            wrapped.extend([("data".into(), expected.body["data"].clone()), ("error".into(), Value::Null)]);
            assert_eq!(expected.body, Value::Object(wrapped), "{names:?}");
            for name in names {
                let path = format!("/v1/{name}");
                let verbs = site.openapi["paths"][&path].as_object().expect("described").keys();
                for verb in verbs.map(|verb| verb.to_uppercase()) {
                    for body in forms(&site, &request, needed) {
                        assert_eq!(site.json(&verb, &path, &body).await, expected, "{verb} {path} {body}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn everything_that_may_be_null_may_be_absent_and_unknown_keys_are_ignored() {
    let site = Site::with(2).await;
    let model = site.model().await;
    let path = "/v1/infrastructure/server/provision";
    let least = json!({ "model_id": model, "location_id": "ber1" });
    let nulls = json!({
        "hostname": null, "model_id": model, "location_id": "ber1", "zone_id": null, "model_features": null,
        "provision_options": null, "location_configuration": null, "cycle": null, "unheard_of": { "a": [1, 2.5, "x"] },
    });
    let first = site.data(path, least).await;
    let second = site.data(path, nulls).await;
    assert_ne!(first["server_id"], second["server_id"], "without a key each order is one of its own");
}

#[tokio::test]
async fn the_zero_id_is_no_key_and_blank_texts_are_none() {
    let site = Site::with(2).await;
    let zero = "000000000000000000000000";
    let first = site.provision(zero).await;
    assert_ne!(site.provision(zero).await, first);
    let site = Site::with(1).await;
    let mut order = site.order(SERVER).await;
    order["zone_id"] = json!(" ");
    order["hostname"] = json!("");
    site.data("/v1/infrastructure/server/provision", order).await;
}

#[tokio::test]
async fn ids_of_cycles_are_opaque() {
    let site = Site::with(2).await;
    let uuid = site.provision("1b4e28ba-2fa1-11d2-883f-0016d3cca427").await;
    assert_eq!(site.provision("1b4e28ba-2fa1-11d2-883f-0016d3cca427").await, uuid);
    assert_ne!(site.provision("anything at all").await, uuid);
}

#[tokio::test]
async fn two_hubs_have_nothing_in_common() {
    let acme = Site::with(2).await;
    let id = acme.server(SERVER).await;
    let mine = acme.data("/v1/infrastructure/ip/allocate", allocation(&id, "ipv4", Value::Null)).await;
    let other = for_any_hub_named(acme, "other").await;
    assert_ne!(other.provision(SERVER).await, id, "the same id of Cycle's is another server for another hub");
    let before = (other.state().leases.len(), other.state().addresses.len(), other.state().next_event());
    let release = json!({ "kind": "ipv4", "ip_id": mine["ip_id"], "ip_assignment_id": mine["ip_assignment_id"] });
    for (path, request) in [
        ("server/provision-status", json!({ "server_id": id })),
        ("server/restart", json!({ "server_id": id })),
        ("server/decommission", json!({ "server_id": id })),
        ("ip/allocate", allocation(&id, "ipv4", Value::Null)),
        ("ip/release", release),
    ] {
        let reply = other.post(&format!("/v1/infrastructure/{path}"), request).await;
        assert_eq!((reply.status.as_u16(), &reply.body["error"]["code"]), (403, &json!("403.wrong-hub")), "{path}");
    }
    assert_eq!((other.state().leases.len(), other.state().addresses.len(), other.state().next_event()), before);
}

async fn for_any_hub_named(mut site: Site, hub: &'static str) -> Site {
    use muster_controller::fleet::credential;
    use muster_controller::fleet::record::{HubRule, PlaceRule};
    let (record, secret) =
        site.change(move |draft| credential::create(draft, hub, HubRule::Any, PlaceRule::Anywhere)).await;
    site.auth = json!({ "api_key": record.key, "secret": secret });
    site
}
