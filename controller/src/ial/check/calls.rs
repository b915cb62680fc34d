//! What Cycle's platform puts into its calls: paths, bodies, and ids of its own.

use serde_json::{Value, json};

/// Are these credentials good?
pub const VERIFY: &str = "/v1/auth/verify";
/// The locations.
pub const LOCATIONS: &str = "/v1/infrastructure/provider/locations";
/// The server models.
pub const MODELS: &str = "/v1/infrastructure/provider/server-models";
/// Prepares a location.
pub const CONFIGURE: &str = "/v1/location/configure";
/// Asks for a server.
pub const PROVISION: &str = "/v1/infrastructure/server/provision";
/// Is it ready?
pub const STATUS: &str = "/v1/infrastructure/server/provision-status";
/// The same, by the name that it has elsewhere in the documents.
pub const CHECK: &str = "/v1/infrastructure/server/provision-check";
/// Restarts it.
pub const RESTART: &str = "/v1/infrastructure/server/restart";
/// Gives it back.
pub const DECOMMISSION: &str = "/v1/infrastructure/server/decommission";
/// One more address.
pub const ALLOCATE: &str = "/v1/infrastructure/ip/allocate";
/// Gives it back.
pub const RELEASE: &str = "/v1/infrastructure/ip/release";

/// An id of Cycle's that was never set.
pub const ZERO: &str = "000000000000000000000000";

/// Where a server is wanted and what it should be, as the catalog has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// `location_id` of the location.
    pub location: String,
    /// One of its zones, or null.
    pub zone: Value,
    /// All that server-models says of the model.
    pub model: Value,
    /// What configure answered.
    pub configuration: Value,
}

/// A server that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// How it was asked for.
    pub order: Value,
    /// Its server's name for it.
    pub id: String,
    /// What came with it, handed back in later calls.
    pub extra: Value,
}

impl Place {
    /// The model's id.
    pub fn model_id(&self) -> &str {
        self.model["provider"]["model_id"].as_str().unwrap_or_default()
    }

    /// The body of provision. `key` is Cycle's own id of the server.
    pub fn order(&self, key: &str) -> Value {
        let Self { location, zone, model, configuration } = self;
        let provider = &model["provider"];
        json!({
            "hostname": format!("srv-{}.check.example.net", &key[key.len().saturating_sub(8)..]),
            "model_id": provider["model_id"], "location_id": location, "zone_id": zone,
            "model_features": model["specs"]["features"], "provision_options": null,
            "location_configuration": configuration,
            "cycle": {
                "server_id": key, "model_class": provider["class"].as_str().unwrap_or_default(),
                "model_category": provider["category"], "model_id": "6516a120a6078e98982dbd93",
                "location_id": "6516a0d1a6078e98982dbd91",
            },
        })
    }

    /// The body of configure.
    pub fn configure(location: &str, version: &str, current: &Value) -> Value {
        json!({
            "location_id": location, "version": version, "configuration_current": current,
            "cycle": { "location_id": "6516a0d1a6078e98982dbd91" },
        })
    }
}

impl Server {
    /// The body of provision-status.
    pub fn status(&self) -> Value {
        let mut request = self.order.clone();
        if let Value::Object(map) = &mut request {
            map.retain(|key, _| key != "hostname" && key != "model_id");
        }
        self.named(request)
    }

    /// The body of restart and of decommission.
    pub fn act(&self) -> Value {
        let mut request = self.order.clone();
        if let Value::Object(map) = &mut request {
            map.retain(|key, _| {
                !matches!(key.as_str(), "model_features" | "provision_options" | "location_configuration")
            });
        }
        self.named(request)
    }

    fn named(&self, mut request: Value) -> Value {
        request["server_id"] = self.id.as_str().into();
        request["extra"] = self.extra.clone();
        request
    }

    /// The body of allocate. `pool` is Cycle's own id of what it gets, or null.
    pub fn allocate(&self, kind: &str, pool: &Value) -> Value {
        let (order, meta) = (&self.order, &self.order["cycle"]);
        json!({
            "kind": kind, "server_id": self.id, "location_id": order["location_id"], "zone_id": order["zone_id"],
            "location_configuration": order["location_configuration"],
            "cycle": {
                "pool_id": pool, "server_id": meta["server_id"], "server_model_class": meta["model_class"],
                "server_model_category": meta["model_category"], "location_id": meta["location_id"],
            },
        })
    }

    /// The body of release, for an address that allocate answered with.
    pub fn release(&self, kind: &str, pool: &Value, address: &Value) -> Value {
        let mut request = self.allocate(kind, pool);
        for key in ["ip_id", "ip_assignment_id", "cidr", "nat_private_ip"] {
            request[key] = address[key].clone();
        }
        request
    }
}

/// `request` with its credentials, as all requests are said to come.
pub fn wrapped(auth: &Value, request: &Value) -> Value {
    json!({ "auth": auth, "request": request })
}

/// The fields of `request` at the top, as the OpenAPI file has one call.
pub fn flat(auth: &Value, request: &Value) -> Value {
    let mut body = request.clone();
    if body.is_object() && !auth.is_null() {
        body["auth"] = auth.clone();
    }
    body
}

/// `value` without what is null in it: absent and null are the same to who reads it.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        other => other.clone(),
    }
}
