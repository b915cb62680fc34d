//! Cycle's part: the ten calls of its Infrastructure Abstraction Layer, as its platform sends them.
//!
//! Every request is wrapped with its credentials in the body, every answer comes as `{data, error}`.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::http::{Http, Reply};

/// One hub of Cycle that calls one controller.
#[derive(Clone)]
pub struct Cycle {
    http: Http,
    auth: Value,
}

/// A server that Cycle has asked for.
#[derive(Debug, Clone)]
pub struct Server {
    /// The controller's name for it.
    pub id: String,
    /// What came with it, handed back in later calls.
    pub extra: Value,
    hostname: String,
    model: String,
    location: String,
    configuration: Value,
    meta: Value,
}

/// What Cycle learns once a server is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// SMBIOS UUID.
    pub uuid: String,
    /// Addresses, without prefix lengths.
    pub initial_ips: Vec<String>,
    /// MAC of the first NIC.
    pub mac_addr: String,
}

/// Hub, location and so on have ids of 24 hex digits on Cycle's side.
fn cycle_id(number: u32) -> String {
    format!("6516a1f2a6078e98{number:08x}")
}

impl Cycle {
    /// A hub with these credentials.
    pub fn new(http: Http, api_key: &str, secret: &str) -> Self {
        let auth = json!({
            "api_key": api_key,
            "secret": secret,
            "cycle": { "hub_name": "Lab", "hub_id": cycle_id(1) },
        });
        Self { http, auth }
    }

    /// Sends `request` in its envelope.
    pub fn send(&self, method: &str, path: &str, request: &Value) -> Result<Reply> {
        self.http.json(method, path, &json!({ "auth": self.auth, "request": request }))
    }

    /// The `data` of an answer that carries no error.
    pub fn call(&self, method: &str, path: &str, request: &Value) -> Result<Value> {
        let reply = self.send(method, path, request)?;
        let answer = reply.value()?;
        if reply.status != 200 || !answer["error"].is_null() {
            bail!("{path} answers {}: {answer}", reply.status);
        }
        match answer.get("data") {
            Some(data) => Ok(data.clone()),
            None => bail!("{path} answers without data: {answer}"),
        }
    }

    /// 1: are these credentials good?
    pub fn verify(&self) -> Result<bool> {
        self.call("POST", "/v1/auth/verify", &Value::Null)?["valid"].as_bool().context("`valid` is a boolean")
    }

    /// 2: the locations.
    pub fn locations(&self) -> Result<Vec<Value>> {
        list(self.call("GET", "/v1/infrastructure/provider/locations", &Value::Null)?, "locations")
    }

    /// 3: the server models.
    pub fn models(&self) -> Result<Vec<Value>> {
        list(self.call("GET", "/v1/infrastructure/provider/server-models", &Value::Null)?, "models")
    }

    /// 4: prepares a location; answers with what Cycle keeps of it.
    pub fn configure(&self, location: &str) -> Result<Value> {
        let request = json!({
            "location_id": location, "version": "", "configuration_current": null,
            "cycle": { "location_id": cycle_id(2) },
        });
        let data = self.call("POST", "/v1/location/configure", &request)?;
        if data["configured"] != json!(true) {
            bail!("the location is not configured: {data}");
        }
        Ok(data["configuration_latest"].clone())
    }

    /// 5: asks for a server. `number` is Cycle's own name for it: the same one asks for the same server again.
    pub fn provision(&self, model: &Value, location: &str, configuration: &Value, number: u32) -> Result<Server> {
        let provider = &model["provider"];
        let id = provider["model_id"].as_str().context("a model has an id")?;
        let meta = json!({
            "server_id": cycle_id(number), "model_class": provider["class"], "model_category": provider["category"],
            "model_id": cycle_id(3), "location_id": cycle_id(2),
        });
        let hostname = format!("srv-{number}.lab.example.net");
        let request = json!({
            "hostname": hostname, "model_id": id, "location_id": location, "zone_id": null,
            "model_features": model["specs"]["features"], "provision_options": null,
            "location_configuration": configuration, "cycle": meta,
        });
        let data = self.call("POST", "/v1/infrastructure/server/provision", &request)?;
        Ok(Server {
            id: data["server_id"].as_str().context("a server has an id")?.to_owned(),
            extra: data["extra"].clone(),
            hostname,
            model: id.to_owned(),
            location: location.to_owned(),
            configuration: configuration.clone(),
            meta,
        })
    }

    /// 6: is it ready? `None` while it is not.
    pub fn provision_status(&self, server: &Server) -> Result<Option<Identity>> {
        let data = self.call("POST", "/v1/infrastructure/server/provision-status", &self.status_request(server))?;
        identity(&data)
    }

    /// The body of call 6, for those who send it in another way.
    pub fn status_request(&self, server: &Server) -> Value {
        json!({
            "server_id": server.id, "location_id": server.location, "zone_id": null,
            "model_features": { "raid": null, "hypervisor": null }, "provision_options": null,
            "location_configuration": server.configuration, "extra": server.extra, "cycle": server.meta,
        })
    }

    /// 7: restarts it.
    pub fn restart(&self, server: &Server) -> Result<()> {
        self.act("/v1/infrastructure/server/restart", server)
    }

    /// 8: gives it back.
    pub fn decommission(&self, server: &Server) -> Result<()> {
        self.act("/v1/infrastructure/server/decommission", server)
    }

    fn act(&self, path: &str, server: &Server) -> Result<()> {
        let request = json!({
            "server_id": server.id, "hostname": server.hostname, "model_id": server.model,
            "location_id": server.location, "zone_id": null, "extra": server.extra, "cycle": server.meta,
        });
        is_true(path, &self.call("POST", path, &request)?)
    }

    /// 9: one more address; `kind` is `ipv4` or `ipv6`, `pool` Cycle's own name for what it gets.
    pub fn allocate(&self, server: &Server, kind: &str, pool: u32) -> Result<Value> {
        self.call("POST", "/v1/infrastructure/ip/allocate", &self.address_request(server, kind, pool))
    }

    /// 10: gives an address back that [`Self::allocate`] answered with.
    pub fn release(&self, server: &Server, kind: &str, pool: u32, address: &Value) -> Result<()> {
        let path = "/v1/infrastructure/ip/release";
        let mut request = self.address_request(server, kind, pool);
        for key in ["ip_id", "ip_assignment_id", "cidr"] {
            request[key] = address[key].clone();
        }
        request["nat_private_ip"] = Value::Null;
        is_true(path, &self.call("POST", path, &request)?)
    }

    fn address_request(&self, server: &Server, kind: &str, pool: u32) -> Value {
        json!({
            "kind": kind, "server_id": server.id, "location_id": server.location, "zone_id": null,
            "location_configuration": server.configuration,
            "cycle": {
                "pool_id": cycle_id(pool), "server_id": server.meta["server_id"],
                "server_model_class": server.meta["model_class"],
                "server_model_category": server.meta["model_category"], "location_id": cycle_id(2),
            },
        })
    }
}

/// What the `data` of a provision-status answer says.
pub fn identity(data: &Value) -> Result<Option<Identity>> {
    let auth = data.get("auth").filter(|auth| auth.is_object()).context("`auth` is always an object")?;
    match data["provisioned"].as_bool().context("`provisioned` is a boolean")? {
        false => Ok(None),
        true => Ok(Some(Identity {
            uuid: auth["uuid"].as_str().context("a provisioned server has a uuid")?.to_owned(),
            mac_addr: auth["mac_addr"].as_str().context("a provisioned server has a MAC")?.to_owned(),
            initial_ips: auth["initial_ips"]
                .as_array()
                .context("a provisioned server has addresses")?
                .iter()
                .filter_map(|ip| ip.as_str().map(str::to_owned))
                .collect(),
        })),
    }
}

fn list(data: Value, key: &str) -> Result<Vec<Value>> {
    data[key].as_array().cloned().with_context(|| format!("`{key}` is an array"))
}

fn is_true(path: &str, data: &Value) -> Result<()> {
    match data.as_bool() {
        Some(true) => Ok(()),
        _ => bail!("{path} answers {data} and not true"),
    }
}
