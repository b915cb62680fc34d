//! What each call answers where it is not refused.
//!
//! The shapes of `check` say what Cycle can read of any server; these say what this one says, which is more.

use serde_json::{Map, Value, json};

use crate::ial::{Endpoint, Envelope};

impl Endpoint {
    /// The name of what stands in `data`.
    fn answers(self) -> &'static str {
        match self {
            Self::Verify => "Verified",
            Self::Locations => "Locations",
            Self::Models => "ServerModels",
            Self::Configure => "Configuration",
            Self::Provision => "Server",
            Self::ProvisionStatus => "ServerStatus",
            Self::Allocate => "Pool",
            Self::Restart | Self::Decommission | Self::Release => "Done",
        }
    }
}

/// Of a call that was not refused.
pub(super) fn response(endpoint: Endpoint, envelope: Envelope) -> Value {
    let name = endpoint.answers();
    let mut schema = match (envelope, &schemas()[name]) {
        // The fields of `data` stand beside it once more.
        (Envelope::Superset, data) if data["type"] == "object" => data.clone(),
        _ => object(json!({})),
    };
    schema["properties"]["data"] = reference(name);
    schema["properties"]["error"] = json!({ "type": "null" });
    if let Some(required) = schema["required"].as_array_mut() {
        required.extend(["data", "error"].map(Value::from));
    }
    json!({
        "description": "it is so, or it is done",
        "headers": { "X-Request-Id": { "$ref": "#/components/headers/RequestId" } },
        "content": { "application/json": { "schema": schema } },
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object that has all of these.
fn object(properties: Value) -> Value {
    let required: Vec<String> = properties.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// An object with keys that somebody chose, and values of this kind.
fn map_of(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

fn list_of(values: Value) -> Value {
    json!({ "type": "array", "items": values })
}

fn or_null(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    schema
}

pub(super) fn said(about: &str, mut schema: Value) -> Value {
    schema["description"] = json!(about);
    schema
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn word() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

/// Cycle's decoder takes no fraction and no text for these.
fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn nothing() -> Value {
    json!({ "type": "null" })
}

/// What stands in `data`, and in `error`.
pub(super) fn schemas() -> Map<String, Value> {
    let extra = || map_of(text());
    let schemas = json!({
        "Verified": object(json!({ "valid": flag() })),
        "Locations": object(json!({ "locations": list_of(reference("Location")), "extra": map_of(json!({})) })),
        "Location": object(json!({
            "name": word(),
            "geographic": said("null where nobody said where it is", or_null(object(json!({
                "latitude": { "type": "number", "minimum": -90, "maximum": 90 },
                "longitude": { "type": "number", "minimum": -180, "maximum": 180 },
                "city": text(), "state": text(), "country": text(), "region": text(),
            })))),
            "provider": object(json!({
                "location_id": word(), "code": word(), "availability_zones": list_of(word()),
            })),
            "features": object(json!({ "available": list_of(word()), "supported": list_of(word()) })),
            "abbreviation": word(),
            "annotations": map_of(text()),
            "compatible": flag(),
        })),
        "ServerModels": object(json!({
            "models": list_of(reference("ServerModel")),
            "extra": object(json!({
                "available": said("by model and location", map_of(map_of(count()))),
                "available_in_zones": said("by model, location and zone", map_of(map_of(map_of(count())))),
            })),
        })),
        "ServerModel": object(json!({
            "name": word(),
            "drivers": list_of(text()),
            "description": text(),
            "specs": object(json!({
                "cpu": object(json!({
                    "count": count(),
                    "cores": said("of each CPU", or_null(count())),
                    "threads": said("of each core", or_null(count())),
                    "type": word(),
                    "shared": flag(),
                    "extra": extra(),
                })),
                "gpu": nothing(),
                "memory": object(json!({ "size_gb": count(), "type": word(), "extra": extra() })),
                "storage": list_of(object(json!({
                    "count": count(), "size_gb": said("of each", count()), "type": word(), "extra": extra(),
                }))),
                "network": list_of(object(json!({
                    "scope": { "type": "string", "enum": ["public"] }, "type": word(), "throughput": word(),
                }))),
                "features": object(json!({ "raid": nothing(), "hypervisor": flag(), "extra": map_of(json!({})) })),
            })),
            "provider": object(json!({
                "category": word(),
                "class": word(),
                "model_id": word(),
                "locations": list_of(word()),
                "availability_zones": said("by location", map_of(list_of(word()))),
            })),
            "pricing": said(
                "in thousandths of a dollar",
                object(json!({ "hourly": count(), "monthly": count() })),
            ),
            "compatible": said("whether Cycle's image can run there", flag()),
        })),
        "Configuration": object(json!({
            "configured": flag(), "version": word(), "configuration_latest": map_of(json!({})),
        })),
        "Server": object(json!({ "server_id": word(), "location_modified": flag(), "extra": nothing() })),
        "ServerStatus": object(json!({
            "server_id": word(),
            "provisioned": flag(),
            "auth": said("by what Cycle knows the machine; null until it is provisioned", object(json!({
                "uuid": or_null(json!({ "type": "string", "format": "uuid" })),
                "initial_ips": or_null(list_of(word())),
                "mac_addr": or_null(json!({ "type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$" })),
            }))),
            "extra": nothing(),
        })),
        "Pool": {
            "type": "object",
            "properties": {
                "ip_id": said("an address", word()),
                "ip_assignment_id": said("a secret: whoever has it can give the address back", word()),
                "cidr": said("one address, or a block of IPv6", word()),
                "gateway": said("null where there is none", or_null(word())),
                "network": said("that the server is on, with its length", word()),
                "netmask": said("of IPv4 alone", word()),
                "nat_private_ip": said("where `cidr` is translated to it", or_null(word())),
            },
            "required": ["ip_id", "ip_assignment_id", "cidr", "gateway", "network", "nat_private_ip"],
        },
        "Done": { "type": "boolean", "const": true },
        "Error": {
            "type": "object",
            "properties": {
                "status": said("the HTTP status", count()),
                "code": said("its status and what is wrong, for programs", word()),
                "title": said("for people", word()),
                "detail": said("more of it", text()),
                "source": said("JSON pointer (RFC 6901) into the body that was sent", text()),
            },
            "required": ["status", "code", "title"],
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}
