//! Problem documents (RFC 9457): what every refusal of the API looks like.
//!
//! `code` is stable and for programs, `field` says which part of the request is meant, `detail` is for people and names the
//! remedy. More than one problem with a document is listed in `problems`.

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::request::RequestId;
use crate::api::live::CallError;
use crate::documents::DocumentProblem;
use crate::fleet::Refusal;
use crate::fleet::machine::controls::Switch;

/// How a token may be shown (RFC 9110, section 11.6.1).
const CHALLENGE: &str = "Bearer realm=\"muster\", Basic realm=\"muster\", charset=\"UTF-8\"";

/// Why a request was refused. Nothing was changed, unless the code is `store-failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: &'static Kind,
    /// See [`ProblemView::field`].
    pub field: String,
    /// See [`ProblemView::detail`].
    pub detail: String,
    /// See [`ProblemView::problems`].
    pub problems: Vec<Finding>,
}

/// What the problems of one code have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Stable, for programs.
    pub code: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// The code in words.
    pub title: &'static str,
}

/// Why a request was refused. Nothing was changed, unless `code` is `store-failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemView {
    /// `urn:muster:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Stable, for programs: `not-found`, `invalid`, `conflict`, ….
    pub code: String,
    /// Which part of the request: a field of the body, a query parameter, a header, or a part of the path.
    pub field: String,
    /// What is wrong and what would be right.
    pub detail: String,
    /// Where more than one thing is wrong with a document.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Finding>,
    /// The request's id: the controller's log and, where something was to be changed, its audit log have more of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Finding)]
pub struct Finding {
    /// Name of the machine that it is wrong for, where it is about several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Counted from 1; absent where blocks of a template keep it from being known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Counted from 1; absent where the line is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// Path of keys in the document.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident: $status:ident, $code:literal, $title:literal;)*) => {
        impl Problem {
            $($(#[$doc])*
            pub fn $name(field: impl Into<String>, detail: impl Into<String>) -> Self {
                const KIND: &Kind = &Kind { code: $code, status: StatusCode::$status, title: $title };
                Self { kind: KIND, field: field.into(), detail: detail.into(), problems: Vec::new() }
            })*

            /// Every code with its status and title.
            pub const KINDS: &[Kind] =
                &[$(Kind { code: $code, status: StatusCode::$status, title: $title }),*];
        }
    };
}

problems! {
    /// The request is not what HTTP or JSON allow.
    malformed: BAD_REQUEST, "malformed", "the request cannot be read";
    /// No token, or none that is good.
    unauthenticated: UNAUTHORIZED, "unauthenticated", "a token is needed";
    /// The token may not do this.
    forbidden: FORBIDDEN, "forbidden", "the token's role does not allow this";
    /// Others without a good token came from there.
    too_many: TOO_MANY_REQUESTS, "too-many-attempts", "too many attempts failed";
    /// There is no such thing.
    not_found: NOT_FOUND, "not-found", "there is no such thing";
    /// The path exists, the method does not.
    method_not_allowed: METHOD_NOT_ALLOWED, "method-not-allowed", "the method does not exist here";
    /// The thing's state does not allow it.
    conflict: CONFLICT, "conflict", "the present state does not allow this";
    /// There is none left.
    exhausted: CONFLICT, "exhausted", "there is none left";
    /// The machine would have to be asked and is not there.
    offline: CONFLICT, "machine-offline", "the machine is offline";
    /// Nothing here can switch a machine on.
    cannot_switch_on: CONFLICT, "cannot-switch-on", "nothing can switch the machine on";
    /// `If-Match` or `If-None-Match` do not hold.
    outdated: PRECONDITION_FAILED, "outdated", "it was changed by somebody else";
    /// The body is over the limit.
    too_large: PAYLOAD_TOO_LARGE, "too-large", "the body is too large";
    /// The body is not JSON by its own word.
    unsupported: UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "the body must be JSON";
    /// A value is not acceptable.
    invalid: UNPROCESSABLE_ENTITY, "invalid", "a value is not acceptable";
    /// A netplan or Butane text is not acceptable.
    document_invalid: UNPROCESSABLE_ENTITY, "document-invalid", "the document is not acceptable";
    /// The machine refuses.
    machine_refused: CONFLICT, "machine-refused", "the machine refuses";
    /// A mistake in the controller.
    internal: INTERNAL_SERVER_ERROR, "internal", "the controller made a mistake";
    /// The machine did not answer.
    unanswered: GATEWAY_TIMEOUT, "machine-unanswered", "the machine did not answer";
    /// The store takes no more writes.
    store_refused: INSUFFICIENT_STORAGE, "store-refused", "the controller cannot write";
    /// The store failed: the only code after which the change may have been made.
    store_failed: SERVICE_UNAVAILABLE, "store-failed", "the controller's database failed";
}

impl Problem {
    /// The same about another field.
    pub fn at(self, field: impl Into<String>) -> Self {
        Self { field: field.into(), ..self }
    }

    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        self.kind.code
    }

    /// A netplan or Butane text with everything that is wrong with it.
    pub fn document(problems: Vec<DocumentProblem>) -> Self {
        Self::findings(problems.into_iter().map(Finding::from).collect())
    }

    /// The same, for a text that is about several machines.
    pub fn findings(problems: Vec<Finding>) -> Self {
        let detail = match problems.as_slice() {
            [] => "the document was refused".to_owned(),
            [only] => only.to_string(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        };
        Self { problems, ..Self::document_invalid("document", detail) }
    }
}

impl From<DocumentProblem> for Finding {
    fn from(DocumentProblem { line, column, field, problem }: DocumentProblem) -> Self {
        Self { machine: None, line: Some(line), column: Some(column), field, problem }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, line, column, field, problem } = self;
        if let Some(machine) = machine {
            write!(f, "{machine}: ")?;
        }
        if let (Some(line), Some(column)) = (line, column) {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(problem)
    }
}

impl Problem {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.kind.status
    }

    /// The answer to the request of this id.
    pub fn response(self, request: Option<&RequestId>) -> Response {
        let Self { kind: Kind { code, status, title }, field, detail, problems } = self;
        let view = ProblemView {
            kind: format!("urn:muster:problem:{code}"),
            title: (*title).to_owned(),
            status: status.as_u16(),
            code: (*code).to_owned(),
            field,
            detail,
            problems,
            request_id: request.map(ToString::to_string),
        };
        let body = serde_json::to_string(&view).unwrap_or_default();
        let mut response = (*status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if *status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        response
    }
}

/// What the door takes it from, to answer with the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.clone().response(None);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::NotFound { kind, .. } => Self::not_found(kind, detail),
            Refusal::Invalid { field, problem } => Self::invalid(field, problem),
            Refusal::Conflict(_) => Self::conflict("state", detail),
            Refusal::Offline => Self::offline("machine", detail),
            Refusal::Unswitchable { wish: Switch::On | Switch::Cycle } => Self::cannot_switch_on("action", detail),
            Refusal::Unswitchable { wish: Switch::Off | Switch::Restart } => Self::offline("machine", detail),
            Refusal::Exhausted(_) => Self::exhausted("state", detail),
            Refusal::Outdated { .. } => Self::outdated("If-Match", detail),
            Refusal::Enrollment(_) => Self::conflict("ticket", detail),
            Refusal::StoreRefused(_) => Self::store_refused("store", detail),
            Refusal::StoreFailed => Self::store_failed("store", detail),
            Refusal::Internal => Self::internal("controller", detail),
        }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Offline => Self::offline("machine", "the machine is offline, and only it can answer this"),
            CallError::Unanswered(_) => Self::unanswered("machine", error.to_string()),
            CallError::TooLarge => Self::invalid("document", error.to_string()),
        }
    }
}
