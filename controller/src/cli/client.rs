//! Finds the controller and speaks with its API.
//!
//! The controller's certificate comes from its own CA, so the client believes that one CA and no other.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use super::Failure;
use crate::api::PREFIX;
use crate::config::default_data;

/// How long the controller may take for one answer. It asks machines for some.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Which controller, and as whom.
#[derive(Args)]
pub(super) struct Target {
    /// The controller's address; on its own host it is found by itself
    #[arg(long, global = true, env = "MUSTER_URL", value_name = "https://HOST:8443")]
    pub url: Option<String>,
    /// A token from `muster token create`; on the controller's own host the admin token is found by itself
    #[arg(long, global = true, env = "MUSTER_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The controller's CA certificate, the file ca.crt in its data directory
    #[arg(long, global = true, env = "MUSTER_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The controller's data directory, on its own host
    #[arg(long, global = true, env = "MUSTER_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
}

impl Target {
    /// The controller's data directory, named or by default.
    pub fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(default_data)
    }
}

/// A controller's API.
pub(super) struct Client {
    agent: Agent,
    base: String,
    token: String,
}

impl Client {
    /// Finds the controller that is meant, without speaking with it yet.
    pub fn find(target: &Target) -> Result<Self, Failure> {
        let data = target.data();
        let kept = |name: &str| std::fs::read_to_string(data.join(name)).map(|text| text.trim().to_owned());
        let url = match &target.url {
            Some(url) => url.clone(),
            None => kept("endpoint").map_err(|_| {
                Failure::failed(format!(
                    "no controller has been started with the data directory {}; start one with `muster serve`, \
                     name its directory with --data, or one elsewhere with --url and --token",
                    data.display()
                ))
            })?,
        };
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("https://") {
            return Err(Failure::Usage(format!("--url must begin with https://, and is {url:?}")));
        }
        let token = match &target.token {
            Some(token) => token.clone(),
            None => kept("admin-token").map_err(|e| {
                Failure::failed(format!(
                    "no token: set MUSTER_TOKEN, or run as the user who may read {} ({e})",
                    data.join("admin-token").display()
                ))
            })?,
        };
        let file = target.ca.clone().unwrap_or_else(|| data.join("ca.crt"));
        let pem = std::fs::read(&file).map_err(|e| {
            Failure::failed(format!("the controller's CA certificate {}: {e}; name it with --ca", file.display()))
        })?;
        let ca = Certificate::from_pem(&pem)
            .map_err(|_| Failure::failed(format!("{} is no certificate in PEM", file.display())))?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&[ca]))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder().tls_config(tls).http_status_as_error(false).build().into();
        Ok(Self { agent, base, token })
    }

    /// Where the controller is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Reads one thing.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        read(self.heard(request.config().timeout_global(Some(ANSWER_WITHIN)).build().call())?)
    }

    /// Reads a whole list, page by page. `path` may have a query.
    pub fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let mut page = self.get(&format!("{path}{join}limit=1000{cursor}"))?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => cursor = format!("&cursor={}", encode(next)),
                None => return Ok(items),
            }
        }
    }

    /// Asks for something.
    pub fn post(&self, path: &str, body: Value) -> Result<Value, Failure> {
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        read(self.heard(request.config().timeout_global(Some(ANSWER_WITHIN)).build().send_json(body))?)
    }

    /// Changes a part of something.
    pub fn patch(&self, path: &str, body: Value) -> Result<Value, Failure> {
        let request = self.agent.patch(self.url(path)).header("authorization", self.bearer());
        read(self.heard(request.config().timeout_global(Some(ANSWER_WITHIN)).build().send_json(body))?)
    }

    /// Makes or replaces something.
    pub fn put(&self, path: &str, body: Value) -> Result<Value, Failure> {
        let request = self.agent.put(self.url(path)).header("authorization", self.bearer());
        read(self.heard(request.config().timeout_global(Some(ANSWER_WITHIN)).build().send_json(body))?)
    }

    /// Removes something.
    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.delete(self.url(path)).header("authorization", self.bearer());
        read(self.heard(request.config().timeout_global(Some(ANSWER_WITHIN)).build().call())?)
    }

    /// Hands every event of a live feed to `each`, until the controller ends it.
    pub fn follow(&self, path: &str, mut each: impl FnMut(Value)) -> Result<(), Failure> {
        let request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        let response = self.heard(request.header("accept", "text/event-stream").call())?;
        if !response.status().is_success() {
            return read(response).map(drop);
        }
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.map_err(|e| Failure::failed(format!("the feed broke off: {e}")))?;
            if let Some(event) = line.strip_prefix("data:").and_then(|data| serde_json::from_str(data.trim()).ok()) {
                each(event);
            }
        }
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{PREFIX}{path}", self.base)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn heard(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Failure> {
        response.map_err(|e| {
            Failure::failed(format!("the controller at {} cannot be reached: {e}; is it running there?", self.base))
        })
    }
}

/// The body of a success, or the problem in words.
fn read(mut response: Response<Body>) -> Result<Value, Failure> {
    let status = response.status();
    let text =
        response.body_mut().read_to_string().map_err(|e| Failure::failed(format!("the answer broke off: {e}")))?;
    let body: Value = match text.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text)
            .map_err(|_| Failure::failed(format!("this is no Muster controller: it answered {status} and no JSON")))?,
    };
    if status.is_success() { Ok(body) } else { Err(Failure::Failed(problem(&body))) }
}

/// A problem document in words: every finding on a line of its own.
fn problem(body: &Value) -> String {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let findings = body.get("problems").and_then(Value::as_array).filter(|list| !list.is_empty());
    match findings {
        Some(findings) => {
            let line = |finding: &Value| match finding.get("line").and_then(Value::as_u64) {
                Some(line) => format!("line {line}: {}", text(finding, "detail")),
                None => text(finding, "detail"),
            };
            findings.iter().map(line).collect::<Vec<_>>().join("\n        ")
        }
        None => match (text(body, "field"), text(body, "detail")) {
            (field, detail) if field.is_empty() || detail.starts_with(&field) => detail,
            (field, detail) => format!("{field}: {detail}"),
        },
    }
}

/// Percent-encodes what goes into a path or a query (RFC 3986, unreserved characters stay).
pub(super) fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(encode("a/../b?c=d&e ü"), "a%2F..%2Fb%3Fc%3Dd%26e%20%C3%BC");
    }

    #[test]
    fn a_problem_names_its_field_or_its_lines() {
        assert_eq!(problem(&json!({"field": "name", "detail": "is empty"})), "name: is empty");
        let findings = json!({"problems": [{"line": 3, "detail": "no such key"}, {"detail": "and this"}]});
        assert_eq!(problem(&findings), "line 3: no such key\n        and this");
    }
}
