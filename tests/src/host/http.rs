//! HTTP as the tests speak it: any method with or without a body, every status an answer and no error.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Request};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Longer than anything that answers at once, and short enough to notice what hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// Somebody who calls one server.
#[derive(Clone)]
pub struct Http {
    agent: Agent,
    base: String,
    token: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Http {
    /// Calls `base`, such as `https://127.0.0.1:8443`, trusting the CA in `ca_pem` and nobody else.
    pub fn with_ca(base: &str, ca_pem: &[u8]) -> Result<Self> {
        let ca = Certificate::from_pem(ca_pem).context("reading the CA's certificate")?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[ca]))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        Ok(Self::with_tls(base, tls))
    }

    /// Calls `base`, such as `http://127.0.0.1:8080`, in the clear.
    pub fn plain(base: &str) -> Self {
        Self::with_tls(base, TlsConfig::default())
    }

    fn with_tls(base: &str, tls: TlsConfig) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .timeout_global(Some(DEADLINE))
            // A server that was killed leaves dead connections behind.
            .max_idle_connections(0)
            .tls_config(tls)
            .build();
        Self { agent: config.new_agent(), base: base.to_owned(), token: None }
    }

    /// The same, showing `token` as a bearer token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Sends a request.
    ///
    /// Errors: no answer came. Every status is an answer.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Result<Reply> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = match body {
            Some(body) => self.agent.run(request.body(body.to_vec())?),
            None => self.agent.run(request.body(())?),
        };
        let mut answer = sent.with_context(|| format!("{method} {}{path}", self.base))?;
        let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec()?;
        Ok(Reply { status: answer.status().as_u16(), headers: answer.headers().clone(), body })
    }

    /// Sends JSON.
    pub fn json(&self, method: &str, path: &str, body: &Value) -> Result<Reply> {
        self.send(method, path, &[("content-type", "application/json")], Some(body.to_string().as_bytes()))
    }

    /// GET, and the JSON that a success carries.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, &[], None)?.success(path)
    }

    /// POST, and the JSON that a success carries.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json("POST", path, body)?.success(path)
    }
}

impl Reply {
    /// The body as JSON.
    pub fn value(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} is no JSON", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// One header; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The JSON of a success; null where it has no body.
    ///
    /// Errors: any other status, with the body.
    pub fn success(&self, path: &str) -> Result<Value> {
        match self.status {
            200..=299 if self.body.is_empty() => Ok(Value::Null),
            200..=299 => self.value(),
            status => bail!("{path} answers {status}: {}", self.text()),
        }
    }
}
