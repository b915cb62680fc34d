//! Requests to the operator API, and its refusals as errors.

use std::io::{BufRead, BufReader, ErrorKind};
use std::time::Duration;

use http::{Method, Request, Response, Uri};
use serde_json::{Value, json};
use ureq::Body;

use super::error::CliError;
use super::show::one_line;
use crate::api::PREFIX;

/// The largest answer that is read: a page of a thousand machines is far below.
const ANSWER_LIMIT: u64 = 64 << 20;

/// How often a request that broke off is sent again: never for what could act twice.
const TRIES: u32 = 3;

/// A controller's API.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    token: String,
}

/// What the controller answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Tag of what is shown, empty where there is none.
    pub etag: String,
    /// JSON, `null` where there is none.
    pub body: Value,
}

impl Client {
    pub(super) fn new(agent: ureq::Agent, url: String, token: String) -> Self {
        Self { agent, url, token }
    }

    /// The controller's port.
    pub fn port(&self) -> u16 {
        self.url.parse::<Uri>().ok().and_then(|url| url.port_u16()).unwrap_or(443)
    }

    /// Reads one thing.
    pub fn get(&self, path: &str) -> Result<Value, CliError> {
        Ok(self.send(Method::GET, path, None, &[])?.body)
    }

    /// Reads a whole list, page by page.
    pub fn all(&self, path: &str, query: &[(&str, Option<&str>)]) -> Result<Vec<Value>, CliError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.extend([("limit", Some("1000")), ("cursor", cursor.as_deref())]);
            let mut page = self.get(&with_query(path, &query))?;
            match page["items"].take() {
                Value::Array(more) => items.extend(more),
                _ => return Err(not_an_answer("a list was expected")),
            }
            match page["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(items),
            }
        }
    }

    /// Asks for a change that may be repeated without harm: each call has a key of its own.
    pub fn post(&self, path: &str, body: Value) -> Result<Value, CliError> {
        self.post_to(path, body, &[])
    }

    /// The same with headers: `If-Match` for one.
    pub fn post_to(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Result<Value, CliError> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|e| CliError::Failed(format!("no random bytes: {e}")))?;
        let key = crate::api::view::uuid(key);
        let headers = [&[("idempotency-key", key.as_str())][..], headers].concat();
        Ok(self.send(Method::POST, path, Some(body), &headers)?.body)
    }

    /// Changes something in place.
    pub fn patch(&self, path: &str, body: Value) -> Result<Value, CliError> {
        Ok(self.send(Method::PATCH, path, Some(body), &[])?.body)
    }

    /// Says what something is.
    pub fn put(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Result<Value, CliError> {
        Ok(self.send(Method::PUT, path, Some(body), headers)?.body)
    }

    /// Removes something.
    pub fn delete(&self, path: &str) -> Result<(), CliError> {
        self.send(Method::DELETE, path, None, &[]).map(drop)
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// Errors: the controller cannot be reached, or refuses.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Result<Reply, CliError> {
        let named = path.split('?').next().unwrap_or_default();
        if named.ends_with('/') || named.contains("//") {
            return Err(CliError::Usage("a name or an id that was given is empty".into()));
        }
        let is_repeatable = method == Method::GET || headers.iter().any(|(name, _)| *name == "idempotency-key");
        let text = body.map(|body| body.to_string());
        let mut tries = if is_repeatable { TRIES } else { 1 };
        let mut response = loop {
            tries -= 1;
            match self.once(&method, path, text.clone(), headers) {
                Err(error) if tries > 0 && broke_off(&error) => std::thread::sleep(Duration::from_millis(300)),
                other => break other.map_err(|error| self.unreachable(&error))?,
            }
        };
        let status = response.status().as_u16();
        let header = response.headers().get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default();
        let etag = header.to_owned();
        let read = response.body_mut().with_config().limit(ANSWER_LIMIT).read_to_string();
        let text = read.map_err(|error| self.unreachable(&error))?;
        let body = match text.is_empty() {
            true => Value::Null,
            false => serde_json::from_str(&text).map_err(|_| not_an_answer(&text))?,
        };
        if status >= 400 { Err(refused(status, &body)) } else { Ok(Reply { status, etag, body }) }
    }

    /// Opens the live feed; `each` is given the data of every event, until it answers that it has enough.
    pub fn follow(&self, path: &str, each: &mut dyn FnMut(&str) -> bool) -> Result<(), CliError> {
        let mut response = self
            .once(&Method::GET, path, None, &[("accept", "text/event-stream")])
            .map_err(|error| self.unreachable(&error))?;
        if response.status().as_u16() >= 400 {
            let text = response.body_mut().read_to_string().unwrap_or_default();
            return Err(refused(response.status().as_u16(), &serde_json::from_str(&text).unwrap_or_default()));
        }
        let broken = |error: std::io::Error| CliError::Connect(format!("{} broke off: {error}", self.url));
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line.map_err(broken)?;
            if let Some(data) = line.strip_prefix("data:")
                && !each(data.trim())
            {
                return Ok(());
            }
        }
        Err(CliError::Connect(format!("{} ended the feed", self.url)))
    }

    /// Reads JSON lines as they come.
    pub fn lines(&self, path: &str, each: &mut dyn FnMut(&str) -> Result<(), CliError>) -> Result<(), CliError> {
        let mut response = self
            .once(&Method::GET, path, None, &[("accept", "application/jsonl")])
            .map_err(|error| self.unreachable(&error))?;
        if response.status().as_u16() >= 400 {
            let text = response.body_mut().read_to_string().unwrap_or_default();
            return Err(refused(response.status().as_u16(), &serde_json::from_str(&text).unwrap_or_default()));
        }
        let broken = |error: std::io::Error| CliError::Connect(format!("{} broke off: {error}", self.url));
        BufReader::new(response.body_mut().as_reader()).lines().try_for_each(|line| each(&line.map_err(broken)?))
    }

    fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<String>,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{PREFIX}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match body {
            None => self.agent.run(request.body(()).map_err(ureq::Error::Http)?),
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent.run(request.body(body).map_err(ureq::Error::Http)?)
            }
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> CliError {
        let url = &self.url;
        let cause = match error {
            ureq::Error::Io(error) => error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()),
            ureq::Error::Rustls(error) => Some(error),
            _ => None,
        };
        let is_plain = url.starts_with("http:");
        let remedy = match error {
            _ if matches!(cause, Some(rustls::Error::InvalidMessage(_))) => {
                "; what is there speaks no TLS: is this the port of listen.https?"
            }
            ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => "; is `muster serve` running?",
            _ if cause.is_some() => "; if this is the controller, give its ca.crt with --ca",
            _ if is_plain => "; the controller speaks HTTPS: write https:// in place of http://",
            _ => "",
        };
        CliError::Connect(format!("cannot reach the controller at {url}: {error}{remedy}"))
    }
}

/// Whether the request may not have been heard.
fn broke_off(error: &ureq::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        ureq::Error::Io(e) => {
            matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        }
        _ => false,
    }
}

fn not_an_answer(text: &str) -> CliError {
    let short: String = text.chars().take(200).collect();
    CliError::Connect(format!("this is no Muster controller, or another version of it; it said: {short}"))
}

/// A problem document (RFC 9457) as an error.
fn refused(status: u16, body: &Value) -> CliError {
    let text = |key: &str| body[key].as_str().unwrap_or_default();
    let (code, field, detail) = (text("code"), text("field"), text("detail"));
    if code.is_empty() {
        return CliError::Connect(format!("the controller answered with status {status} and no reason"));
    }
    let findings = body["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lines: Vec<String> = findings.iter().map(finding).collect();
    let detail = match lines.as_slice() {
        [] if code == "invalid" || code == "malformed" => format!("{field}: {detail}"),
        [] => detail.to_owned(),
        lines => lines.join("\n"),
    };
    CliError::Refused { code: code.to_owned(), detail }
}

fn finding(finding: &Value) -> String {
    let text = |key: &str| finding[key].as_str().unwrap_or_default();
    let [machine, field] =
        ["machine", "field"].map(|key| if text(key).is_empty() { String::new() } else { format!("{}: ", text(key)) });
    let place = match (&finding["line"], &finding["column"]) {
        (Value::Null, _) | (_, Value::Null) => String::new(),
        (line, column) => format!("line {line}, column {column}: "),
    };
    one_line(format!("{machine}{place}{field}{}", text("problem")))
}

/// A path with the parameters that have a value.
pub fn with_query(path: &str, query: &[(&str, Option<&str>)]) -> String {
    let mut out = path.to_owned();
    for (key, value) in query {
        if let Some(value) = value {
            out.push(if out.contains('?') { '&' } else { '?' });
            out.push_str(&format!("{key}={}", escape(value)));
        }
    }
    out
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A body without the keys that have no value.
pub fn object<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let given = entries.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(key, value)| (key.to_owned(), value)).collect())
}

/// `null` where absent.
pub fn or_null<T: serde::Serialize>(value: Option<T>) -> Value {
    json!(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_is_wrong_and_where() {
        let one = json!({"code": "invalid", "field": "name", "detail": "too long"});
        assert_eq!(refused(422, &one).to_string(), "name: too long");
        let state = json!({"code": "conflict", "field": "state", "detail": "it is retired"});
        assert_eq!(refused(409, &state).to_string(), "it is retired");
        let document = json!({"code": "document-invalid", "field": "document", "detail": "…", "problems": [
            {"line": 4, "column": 7, "field": "network.bonds", "problem": "not yet"},
            {"line": 9, "column": 1, "field": "", "problem": "not\nYAML"},
        ]});
        assert_eq!(
            refused(422, &document).to_string(),
            "line 4, column 7: network.bonds: not yet\nline 9, column 1: not YAML"
        );
        let several = json!({"code": "document-invalid", "field": "document", "detail": "…", "problems": [
            {"machine": "kitchen", "line": 4, "column": 7, "field": "template", "problem": "labels.ip is not known of it"},
        ]});
        let expected = "kitchen: line 4, column 7: template: labels.ip is not known of it";
        assert_eq!(refused(422, &several).to_string(), expected);
        let nowhere = json!({"code": "document-invalid", "detail": "…", "problems": [
            {"machine": "kitchen", "field": "network.ntp", "problem": "not yet"},
        ]});
        assert_eq!(refused(422, &nowhere).to_string(), "kitchen: network.ntp: not yet");
        assert!(matches!(refused(502, &Value::Null), CliError::Connect(_)));
    }

    #[test]
    fn parameters_are_escaped_and_left_out_where_absent() {
        let path = with_query("/machines", &[("label", Some("a=b c")), ("location", None), ("limit", Some("1"))]);
        assert_eq!(path, "/machines?label=a%3Db%20c&limit=1");
        assert_eq!(escape("192.0.2.0/24"), "192.0.2.0%2F24");
    }
}
