//! The OpenAPI document, held against what is served: `site` holds every call of these tests against it, and what it
//! says by itself is asked for here.

use muster_controller::ial::Envelope;
use serde_json::{Map, Value, json};

use crate::site::{Reply, Site};

/// Fails where an answer is not what the document says of this call, or a request that was understood is.
pub fn hold(document: &Value, method: &str, path: &str, request: Option<&Value>, reply: &Reply) {
    let what = format!("{method} {path}: {} {}", reply.status, reply.body);
    let Some(operation) = operation(document, method, path) else {
        assert_eq!(reply.body["error"]["code"], "404.uri", "not described: {what}");
        return;
    };
    let response = &operation["responses"][reply.status.as_str()];
    assert!(response.is_object(), "this status is not described: {what}");
    let headers = response["headers"].as_object().expect("headers");
    assert!(headers.keys().all(|name| reply.headers.contains_key(name)), "{what}");
    assert_eq!(reply.headers["content-type"], "application/json", "{what}");
    let schema = &response["content"]["application/json"]["schema"];
    let of = Schemas { document, is_closed: true };
    of.check(&reply.body, schema).unwrap_or_else(|wrong| panic!("{wrong}: {what}"));

    let Some(request) = request else { return };
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let valid = Schemas { document, is_closed: false }.check(request, schema);
    match reply.body["error"]["code"].as_str() {
        None => assert_eq!(valid, Ok(()), "{request} is taken, and not described: {what}"),
        Some("400.invalid-syntax" | "422.missing-argument") => {
            assert!(valid.is_err(), "{request} is described, and not taken: {what}");
        }
        Some(_) => {}
    }
}

fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let path = path.split('?').next().unwrap_or(path).split('/').filter(|part| !part.is_empty());
    let path = path.fold(String::new(), |path, part| path + "/" + part);
    document["paths"].get(&path)?.get(method.to_lowercase())
}

/// As much of JSON Schema as the document uses; a keyword that is not known here is no schema.
struct Schemas<'a> {
    document: &'a Value,
    /// Whether keys that are not described are wrong.
    is_closed: bool,
}

impl Schemas<'_> {
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(path) => self.document.pointer(path.strip_prefix('#').expect("within")).expect("it is there"),
            None => schema,
        }
    }

    fn check(&self, value: &Value, schema: &Value) -> Result<(), String> {
        let schema = self.resolve(schema);
        let Value::Object(words) = schema else {
            return if *schema == json!(false) { Err(format!("{value} is not allowed")) } else { Ok(()) };
        };
        words.iter().try_for_each(|(word, means)| match self.means(value, word, means) {
            true => Ok(()),
            false => Err(format!("{value} is not {word}: {means}")),
        })?;
        let Value::Object(map) = value else { return Ok(()) };
        let described = self.keys(schema);
        for (key, value) in map {
            match (schema["properties"].get(key), schema.get("additionalProperties")) {
                (Some(schema), _) | (None, Some(schema)) => self.check(value, schema)?,
                (None, None) if self.is_closed && !described.contains_key(key) => {
                    return Err(format!("{key} is not described"));
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// What an object of this schema may have.
    fn keys(&self, schema: &Value) -> Map<String, Value> {
        let schema = self.resolve(schema);
        let mut keys = schema["properties"].as_object().cloned().unwrap_or_default();
        for part in schema["allOf"].as_array().into_iter().flatten() {
            keys.extend(self.keys(part));
        }
        keys
    }

    fn means(&self, value: &Value, word: &str, means: &Value) -> bool {
        let length = value.as_str().map_or(0, |text| text.chars().count());
        let within = |limit: &Value| limit.as_f64().expect("a number");
        match word {
            "type" => match means {
                Value::Array(types) => types.iter().any(|means| is(value, means)),
                means => is(value, means),
            },
            "required" => means.as_array().expect("keys").iter().all(|key| {
                let key = key.as_str().expect("a key");
                value.as_object().is_none_or(|map| map.contains_key(key))
            }),
            "items" => value.as_array().into_iter().flatten().all(|item| self.check(item, means).is_ok()),
            "anyOf" => means.as_array().expect("schemas").iter().any(|schema| self.check(value, schema).is_ok()),
            // The other part says which keys there may be.
            "allOf" => {
                let open = Schemas { is_closed: false, ..*self };
                means.as_array().expect("schemas").iter().all(|schema| open.check(value, schema).is_ok())
            }
            "enum" => means.as_array().expect("values").contains(value),
            "const" => means == value,
            "minLength" => !value.is_string() || length >= within(means) as usize,
            "maxLength" => !value.is_string() || length <= within(means) as usize,
            "minimum" => value.as_f64().is_none_or(|number| number >= within(means)),
            "maximum" => value.as_f64().is_none_or(|number| number <= within(means)),
            "pattern" => value.as_str().is_none_or(|text| matches(text, means.as_str().expect("a pattern"))),
            "format" => means == "uuid" && value.as_str().is_none_or(|text| text.split('-').count() == 5),
            "properties" | "additionalProperties" | "description" | "title" => true,
            _ => panic!("{word} is not known here"),
        }
    }
}

fn is(value: &Value, means: &Value) -> bool {
    match means.as_str().expect("the name of a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

/// The patterns that there are.
fn matches(text: &str, pattern: &str) -> bool {
    const CONTROL: &str = "\\x00-\\x1f\\x7f-\\x9f";
    let sound = !text.contains(char::is_control);
    match pattern {
        _ if pattern == format!("^[^{CONTROL}]*$") => sound,
        _ if pattern == format!("^[^{CONTROL}]*[^\\s{CONTROL}][^{CONTROL}]*$") => sound && !text.trim().is_empty(),
        "^([0-9a-f]{2}:){5}[0-9a-f]{2}$" => text.len() == 17 && text.split(':').count() == 6,
        other => panic!("{other} is not known here"),
    }
}

#[tokio::test]
async fn an_answer_that_is_not_as_described_is_found() {
    let site = Site::with(1).await;
    let order = site.order("6516a1f2a6078e98982dbd92").await;
    let path = "/v1/infrastructure/server/provision";
    let server = site.post(path, order.clone()).await;
    let refused = site.post(path, json!({ "model_id": "m", "location_id": "nowhere" })).await;
    let of = Schemas { document: &site.openapi, is_closed: true };
    let responses = &operation(&site.openapi, "POST", path).expect("described")["responses"];
    let schema = |status: &str| &responses[status]["content"]["application/json"]["schema"];
    let is_described = |reply: &Reply, pointer: &str, value: Value| {
        let mut body = reply.body.clone();
        *body.pointer_mut(pointer).expect("there") = value;
        of.check(&body, schema(reply.status.as_str())).is_ok()
    };
    assert!(is_described(&server, "/data/server_id", json!("srv-other")));
    for (pointer, value) in [
        ("/data/server_id", json!("")),
        ("/data/server_id", json!(7)),
        ("/data/location_modified", Value::Null),
        ("/data", json!({ "server_id": "srv", "location_modified": false })),
        ("/data", json!({ "server_id": "srv", "location_modified": false, "extra": null, "more": 1 })),
        ("/error", json!({})),
    ] {
        assert!(!is_described(&server, pointer, value.clone()), "{pointer}: {value}");
    }
    assert!(is_described(&refused, "/error/code", json!("404.infrastructure.model")));
    for (pointer, value) in [
        ("/data", json!({})),
        ("/error/code", json!("404.infrastructure.ips.pool")),
        ("/error/status", json!(400)),
        ("/error", json!({ "status": 404, "code": "404.infrastructure.model" })),
        ("/error", json!({ "status": 404, "code": "404.infrastructure.model", "title": "t", "more": 1 })),
    ] {
        assert!(!is_described(&refused, pointer, value.clone()), "{pointer}: {value}");
    }
    let requests = &operation(&site.openapi, "POST", path).expect("described")["requestBody"]["content"];
    let takes = Schemas { document: &site.openapi, is_closed: false };
    for (request, is_right) in [
        (json!({ "request": order }), true),
        (order.clone(), true),
        (json!({ "request": order, "auth": null, "model_id": 7, "more": 1 }), true),
        (json!({ "request": null, "model_id": "m", "location_id": "ber1" }), false),
        (json!({ "auth": [], "model_id": "m", "location_id": "ber1" }), false),
        (json!({ "model_id": "m" }), false),
        (json!([]), false),
    ] {
        let checked = takes.check(&request, &requests["application/json"]["schema"]);
        assert_eq!(checked.is_ok(), is_right, "{request}: {checked:?}");
    }
}

#[tokio::test]
async fn every_path_and_verb_that_is_served_is_described_and_no_other() {
    let site = Site::with(0).await;
    let paths = site.openapi["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 10 + 2, "ten calls, two of them by two names");
    let mut described = 0;
    for path in paths.keys() {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let is_described = operation(&site.openapi, method, path).is_some();
            let reply = site.json(method, path, &json!({ "auth": site.auth, "request": {} })).await;
            assert_eq!(reply.body["error"]["code"] != "404.uri", is_described, "{method} {path}");
            described += usize::from(is_described);
        }
    }
    assert_eq!(described, 12 + 5, "five of the paths may be read by GET too");
}

#[tokio::test]
async fn the_document_needs_no_credentials_and_says_how_answers_are_wrapped() {
    for (envelope, beside) in [(Envelope::Plain, false), (Envelope::Superset, true)] {
        let site = Site::serving(0, envelope).await;
        assert_eq!(site.openapi["openapi"], "3.1.0");
        let verified =
            &site.openapi["paths"]["/v1/auth/verify"]["post"]["responses"]["200"]["content"]["application/json"];
        assert_eq!(verified["schema"]["properties"].get("valid").is_some(), beside);
        for path in ["/v1/openapi.json/", "//v1//openapi.json", "/v1/openapi.json?x=1"] {
            let reply = site.send("GET", path, &[], "").await;
            assert_eq!((reply.status.as_u16(), &reply.body), (200, &site.openapi), "{path}");
        }
        let elsewhere = site.send("GET", "/v1/openapi.yaml", &[], "").await;
        assert_eq!(elsewhere.body["error"]["detail"], "see /v1/openapi.json for what there is");
        assert_eq!(site.send("POST", "/v1/openapi.json", &[], "").await.body["error"]["code"], "404.uri");
    }
}

#[tokio::test]
async fn its_examples_are_requests_that_are_understood() {
    let site = Site::with(0).await;
    let mut tried = 0;
    for (path, item) in site.openapi["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("verbs") {
            let content = &operation["requestBody"]["content"]["application/json"];
            let mut request = content["example"].clone();
            let of = Schemas { document: &site.openapi, is_closed: true };
            assert_eq!(of.check(&request["auth"], &json!({ "$ref": "#/components/schemas/Auth" })), Ok(()));
            request["auth"] = site.auth.clone();
            let reply = site.json(&method.to_uppercase(), path, &request).await;
            let status = reply.status.as_u16();
            assert!(matches!(status, 200 | 404), "{method} {path}: {}", reply.body);
            tried += 1;
        }
    }
    assert_eq!(tried, 17);
}
