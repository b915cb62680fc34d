//! What Cycle gets back: `{data, error}`, and errors in the shape and with the codes of Cycle's own API.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::OPENAPI;
use crate::fleet::Refusal;

/// The `data` of an answer, or why there is none.
pub(super) type Answer = Result<Value, Error>;

/// What a call is told that is not refused.
pub(super) enum Told {
    /// Its `data`.
    Data(Value),
    /// The whole body, wrapped once for many calls.
    Body(Bytes),
}

/// How `data` is wrapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Envelope {
    /// `{data, error}`: what Cycle's prose demands.
    #[default]
    Plain,
    /// The fields of `data` stand beside it once more, for a client that reads what Cycle's OpenAPI files show: the bare
    /// payload. Answers that are a bare boolean cannot be both.
    Superset,
}

impl Envelope {
    pub(super) fn wrap(self, answer: Result<Told, Error>) -> Wrapped {
        match answer {
            Ok(Told::Body(body)) => Wrapped(StatusCode::OK, body),
            Ok(Told::Data(data)) => Wrapped(StatusCode::OK, self.body(data)),
            Err(error) => {
                let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Wrapped(status, text(&json!({ "data": null, "error": error.view() })))
            }
        }
    }

    /// The body of an answer with this `data`.
    pub(super) fn body(self, data: Value) -> Bytes {
        let mut body = match (&data, self) {
            (Value::Object(fields), Self::Superset) => fields.clone(),
            _ => serde_json::Map::new(),
        };
        body.insert("data".into(), data);
        body.insert("error".into(), Value::Null);
        text(&Value::Object(body))
    }
}

fn text(body: &Value) -> Bytes {
    body.to_string().into()
}

/// An answer on its way out.
pub(super) struct Wrapped(StatusCode, Bytes);

impl IntoResponse for Wrapped {
    fn into_response(self) -> Response {
        (self.0, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], self.1).into_response()
    }
}

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Error {
    pub(super) status: u16,
    /// `STATUS.SLUG`, one of Cycle's.
    pub(super) code: &'static str,
    pub(super) title: String,
    detail: Option<String>,
    /// JSON pointer (RFC 6901) into the request's body.
    source: Option<String>,
}

impl Error {
    /// `code` begins with the HTTP status.
    pub(super) fn new(code: &'static str, title: impl Into<String>) -> Self {
        let status = code.split('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(500);
        Self { status, code, title: title.into(), detail: None, source: None }
    }

    pub(super) fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    pub(super) fn source(self, pointer: impl Into<String>) -> Self {
        Self { source: Some(pointer.into()), ..self }
    }

    pub(super) fn no_such_path(path: &str) -> Self {
        let path: String = path.chars().take(120).collect();
        Self::new("404.uri", format!("There is nothing at {path}")).detail(format!("see {OPENAPI} for what there is"))
    }

    /// A hub asks for what another hub has.
    pub(super) fn wrong_hub(pointer: impl Into<String>) -> Self {
        Self::new("403.wrong-hub", "This belongs to another hub").source(pointer)
    }

    /// Not there, or not for this credential.
    pub(super) fn no_such_location(pointer: impl Into<String>) -> Self {
        Self::new("404.infrastructure.location", "There is no such location").source(pointer)
    }

    /// A hub asks with a credential that is for other locations.
    pub(super) fn elsewhere(pointer: impl Into<String>) -> Self {
        Self::new("403.not-allowed", "This is at a location that these credentials are not for").source(pointer)
    }

    /// Too many wrong credentials came from one address.
    pub(super) fn too_many() -> Self {
        Self::new("429.rate-limiting", "Too many calls with wrong credentials came from this address")
            .detail("wait, or show good ones: they are never kept out")
            .source("/auth")
    }

    /// What the fleet refused, for a call whose fields are at `at`.
    pub(super) fn of(refusal: Refusal, at: &str) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NotFound { kind: "location", .. } => Self::no_such_location(format!("{at}/location_id")),
            Refusal::NotFound { kind: "server model", .. } => {
                Self::new("404.infrastructure.model", "There is no such server model").source(format!("{at}/model_id"))
            }
            Refusal::NotFound { kind: "lease", .. } => {
                Self::new("404.infrastructure.server", "There is no such server").source(format!("{at}/server_id"))
            }
            Refusal::Invalid { field, problem } => {
                return Self::new("422.invalid-argument", problem).source(format!("{at}/{field}"));
            }
            Refusal::Conflict(why) => return Self::new("403.invalid-state", why),
            Refusal::Offline => Self::new("503.not-ready", "The machine is offline now"),
            Refusal::Unswitchable { .. } => {
                Self::new("504.not-available", "The machine is not online, so it cannot be told")
            }
            Refusal::Exhausted(why) => return Self::new("422.max-exceeded", why),
            Refusal::Outdated { .. } => Self::new("409.duplicate-found", "Somebody else changed this at the same time"),
            Refusal::StoreRefused(_) => Self::new("503.not-ready", "The controller takes no changes now"),
            Refusal::StoreFailed => Self::new("500.database", "The controller's database failed"),
            Refusal::NotFound { .. } | Refusal::Enrollment(_) | Refusal::Internal => {
                Self::new("500.unknown", "The controller made a mistake")
            }
        }
        .detail(text)
    }

    /// In one line, for the audit log.
    pub(super) fn words(&self) -> String {
        let Self { code, title, detail, .. } = self;
        match detail {
            None => format!("{code}: {title}"),
            Some(detail) => format!("{code}: {title}: {detail}"),
        }
    }

    fn view(&self) -> Value {
        let Self { status, code, title, detail, source } = self;
        let mut error = json!({ "status": status, "code": code, "title": title });
        for (key, text) in [("detail", detail), ("source", source)] {
            if let Some(text) = text {
                error[key] = json!(text);
            }
        }
        error
    }
}
