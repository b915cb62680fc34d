//! The OpenAPI document of the IAL, for whoever writes a client or a hub's tooling.
//!
//! Made of the very tables by which paths are found and requests are checked; `answers` says what comes back, and tests
//! hold every answer that they get against it.

mod answers;
mod refusals;

use serde_json::{Map, Value, json};

use answers::said;

use super::answer::Envelope;
use super::call::{BODY_LIMIT, TEXT_LIMIT};
use super::takes::{self, Field, Kind};
use super::{Endpoint, PATHS};

/// The document for answers that are wrapped like this.
pub(super) fn openapi(envelope: Envelope) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for (path, endpoint) in PATHS {
        let mut item = Map::new();
        for verb in endpoint.verbs() {
            item.insert((*verb).to_lowercase(), operation(verb, path, *endpoint, envelope));
        }
        paths.insert((*path).into(), item.into());
    }
    let mut schemas = answers::schemas();
    for (name, takes) in [
        ("ConfigureRequest", takes::CONFIGURE),
        ("ProvisionRequest", takes::PROVISION),
        ("ProvisionStatusRequest", takes::STATUS),
        ("ServerRequest", takes::ACT),
        ("AllocateRequest", takes::ALLOCATE),
        ("ReleaseRequest", takes::RELEASE),
        ("Auth", takes::AUTH),
    ] {
        schemas.insert(name.into(), object(takes));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Muster IAL",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": about(),
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {
                "RequestId": {
                    "description": "Of this request, as the controller's log has it; the caller's own where it gave one.",
                    "required": true,
                    "schema": { "type": "string" },
                },
                "RetryAfter": {
                    "description": "Seconds.", "required": true, "schema": { "type": "integer", "minimum": 0 },
                },
            },
            "securitySchemes": {
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The key for a user, the secret for a password: for calls whose body has no `auth`. \
                                    Credentials that are good for one hub alone have to be in the body, with its id.",
                },
            },
        },
        // `auth` in the body is nothing that OpenAPI has a word for.
        "security": [{}, { "basic": [] }],
    })
}

fn about() -> String {
    format!(
        "Cycle's Infrastructure Abstraction Layer, served by Muster: the fleet as a provider of servers.\n\n\
         Credentials stand in `auth` of the body, as `api_key` and `secret`, or in the header. The fields of a call stand \
         in `request` (`{{\"auth\": …, \"request\": {{…}}}}`) or at the top, beside `auth`. What may be absent may be null; \
         unknown keys are passed over. A body has at most {BODY_LIMIT} bytes of JSON, whatever its content type says; a \
         text has at most {TEXT_LIMIT} bytes and no control characters, and blanks around it do not count.\n\n\
         Every answer is `{{\"data\": …, \"error\": …}}`, one of them null, in which `source` points into the body that was \
         sent. There are no redirects; slashes too many in a path do not count. What is not described here is answered \
         with 404 and `404.uri`, other verbs too. Where many wrong credentials come from one address, wrong ones are \
         answered with 429; good ones never are."
    )
}

impl Endpoint {
    /// What its request is made of; `None` where it needs nothing.
    fn takes(self) -> Option<(&'static str, &'static [Field])> {
        match self {
            Self::Verify | Self::Locations | Self::Models => None,
            Self::Configure => Some(("ConfigureRequest", takes::CONFIGURE)),
            Self::Provision => Some(("ProvisionRequest", takes::PROVISION)),
            Self::ProvisionStatus => Some(("ProvisionStatusRequest", takes::STATUS)),
            Self::Restart | Self::Decommission => Some(("ServerRequest", takes::ACT)),
            Self::Allocate => Some(("AllocateRequest", takes::ALLOCATE)),
            Self::Release => Some(("ReleaseRequest", takes::RELEASE)),
        }
    }

    /// In one line, and more of it.
    fn about(self) -> (&'static str, &'static str) {
        match self {
            Self::Verify => ("Whether the credentials are good", "Wrong ones are an answer here, and no error."),
            Self::Locations => (
                "Where servers can be had",
                "Needs no credentials; with those that are for some locations alone, the others are not listed.",
            ),
            Self::Models => (
                "Which servers can be had",
                "Needs no credentials. `extra.available` says how many of each model are free, by location, and \
                 `extra.available_in_zones` by zone.",
            ),
            Self::Configure => {
                ("Prepares a location", "There is nothing to prepare: the answer is the same each time.")
            }
            Self::Provision => (
                "Orders a server",
                "Answered when the order is durable, before the machine is ready: ask for its status. The same order, \
                 by `cycle.server_id`, is the same server.",
            ),
            Self::ProvisionStatus => (
                "Whether a server is ready",
                "`provisioned` turns true once, and what is said then does not change. An error is final. Where the body \
                 has no fields, `server_id` may stand in the query.",
            ),
            Self::Restart => ("Reboots a server", "Asking again within one boot is one reboot."),
            Self::Decommission => (
                "Gives a server back",
                "True as soon as that is durable; the machine's disks are wiped before anybody else gets it. True for a \
                 server that is unknown, too.",
            ),
            Self::Allocate => (
                "Takes an address, or a block of IPv6",
                "The same order, by `cycle.pool_id` and `kind`, is the same address.",
            ),
            Self::Release => (
                "Gives an address back",
                "True for one that came back before. A flat body needs no credentials: whoever knows `ip_assignment_id` \
                 had it told by allocate.",
            ),
        }
    }
}

fn operation(verb: &str, path: &str, endpoint: Endpoint, envelope: Envelope) -> Value {
    let (summary, description) = endpoint.about();
    let id = format!("{verb}{}", path.strip_prefix("/v1").unwrap_or(path)).to_lowercase().replace(['/', '-'], "_");
    let mut operation = json!({
        "operationId": id,
        "summary": summary,
        "description": description,
        "requestBody": body(endpoint),
        "responses": refusals::responses(endpoint),
    });
    operation["responses"]["200"] = answers::response(endpoint, envelope);
    if endpoint == Endpoint::ProvisionStatus {
        let schema = text(&json!("string"), false);
        operation["parameters"] = json!([{
            "name": "server_id", "in": "query", "description": "for a call without a body", "schema": schema,
        }]);
    }
    operation
}

fn body(endpoint: Endpoint) -> Value {
    let auth = json!({ "anyOf": [{ "$ref": "#/components/schemas/Auth" }, { "type": "null" }] });
    let Some((name, takes)) = endpoint.takes() else {
        let anything = json!({ "type": ["object", "null"], "description": "nothing of it is read" });
        let schema = json!({ "type": ["object", "null"], "properties": { "auth": auth, "request": anything } });
        let example = json!({ "auth": example(takes::AUTH), "request": null });
        return json!({ "content": { "application/json": { "schema": schema, "example": example } } });
    };
    let wrapped = json!({
        "type": "object",
        "title": "wrapped",
        "properties": { "auth": auth, "request": { "$ref": format!("#/components/schemas/{name}") } },
        "required": ["request"],
    });
    let mut flat = object(takes);
    flat["title"] = json!("flat");
    flat["properties"]["auth"] = auth.clone();
    flat["properties"]["request"] = json!(false);
    let example = json!({ "auth": example(takes::AUTH), "request": example(takes) });
    let mut bodies = vec![wrapped, flat];
    if endpoint == Endpoint::ProvisionStatus {
        let bare = json!({ "type": ["object", "null"], "properties": { "auth": auth }, "additionalProperties": false });
        bodies.push(said("with `server_id` in the query", bare));
    }
    let schema = json!({ "anyOf": bodies });
    // One call may come without a body, and with its field in the query.
    let is_needed = endpoint != Endpoint::ProvisionStatus;
    json!({ "content": { "application/json": { "schema": schema, "example": example } }, "required": is_needed })
}

/// The schema of an object with these fields, and others that are passed over.
fn object(takes: &[Field]) -> Value {
    let needed = |field: &&Field| matches!(field.kind, Kind::Needed | Kind::Family);
    let properties: Map<_, _> = takes.iter().map(|field| (field.name.to_owned(), schema(field))).collect();
    let required: Vec<_> = takes.iter().filter(needed).map(|field| field.name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn schema(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Needed => text(&json!("string"), true),
        Kind::Family => json!({ "type": "string", "enum": ["ipv4", "ipv6"] }),
        Kind::Text => text(&json!(["string", "null"]), false),
        Kind::Any => json!({ "type": ["object", "null"] }),
        Kind::Inner(takes) => {
            let mut inner = object(takes);
            inner["type"] = json!(["object", "null"]);
            inner
        }
    };
    schema["description"] = json!(field.about);
    schema
}

fn text(types: &Value, is_needed: bool) -> Value {
    let mut schema = json!({ "type": types, "maxLength": TEXT_LIMIT, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*$" });
    if is_needed {
        schema["pattern"] = json!("^[^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]*$");
        schema["minLength"] = json!(1);
    }
    schema
}

fn example(takes: &[Field]) -> Value {
    let value = |field: &Field| serde_json::from_str(field.example).expect("a test reads all of them");
    takes.iter().map(|field| (field.name.to_owned(), value(field))).collect::<Map<_, _>>().into()
}
