//! The door of the API: every request is named, its caller found out, and every refusal is logged, audited where it
//! would have changed something, and slowed where it is somebody without a good token.
//!
//! Tokens are always looked at first: one that is good works, whatever came before it from the same address. So an office
//! behind one address is never shut out by one of its own, and somebody who guesses learns nothing by being told to
//! wait: 256 random bits are not guessed, the limit is for noise.

use std::net::SocketAddr;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::caller::{self, Denied, Holder};
use super::failures::{Failures, RETRY_AFTER_S};
use super::problem::Problem;
use super::refusals::Refusals;
use super::request::{self, RequestId};
use crate::api::PREFIX;
use crate::fleet::{Author, Fleet};

/// What changes nothing although it is a POST: a document travels in its body.
const READ_BY_POST: [&str; 4] =
    ["/machines/{machine}/plan", "/machines/{machine}/diff", "/rollouts/plan", "/rollouts/diff"];

/// See the module; clones are the same door.
#[derive(Clone)]
pub struct Door {
    fleet: Fleet,
    failures: Failures,
    refusals: Refusals,
}

impl Door {
    /// For requests that go to this fleet.
    pub fn new(fleet: Fleet) -> Self {
        Self { fleet: fleet.clone(), failures: Failures::default(), refusals: Refusals::new(fleet) }
    }
}

/// Lets a request through and sees to its answer.
pub async fn pass(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let id = RequestId::read(request.headers());
    request.extensions_mut().insert(id.clone());
    let found = caller::identify(request.headers(), request.extensions(), &door.fleet.state());
    request.extensions_mut().insert(found.clone());
    let asked = Asked::of(&request, id);
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = door.refuse(problem, &asked, found).await;
    }
    response.headers_mut().insert(request::HEADER, asked.id.header());
    response
}

/// What is said of a request that was refused.
struct Asked {
    id: RequestId,
    from: Option<SocketAddr>,
    method: Method,
    path: String,
    changes: bool,
}

impl Asked {
    fn of(request: &Request, id: RequestId) -> Self {
        let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
        let reads = request.method().is_safe() || READ_BY_POST.iter().any(|path| template.ends_with(path));
        Self {
            id,
            from: caller::peer(request.extensions()),
            method: request.method().clone(),
            // What is nested sees its own part of the path only, and what leads nowhere there has no template.
            path: match template.is_empty() || template.starts_with(PREFIX) {
                true => format!("{PREFIX}{}", request.uri().path()),
                false => request.uri().path().to_owned(),
            },
            changes: !reads,
        }
    }
}

impl Door {
    async fn refuse(&self, problem: Problem, asked: &Asked, found: Result<Holder, Denied>) -> Response {
        let Asked { id, from, method, path, changes } = asked;
        let from_text = from.map(|from| from.to_string()).unwrap_or_default();
        match found {
            Err(denied) if problem.status() == StatusCode::UNAUTHORIZED => {
                if self.failures.is_too_much(*from) {
                    tracing::debug!(request = %id, from = from_text, "too many requests without a good token");
                    return too_much(id);
                }
                let reason = denied.reason();
                tracing::info!(request = %id, from = from_text, %method, path, reason = reason.text(), "refused");
                let mut response = problem.response(Some(id));
                response.extensions_mut().insert(reason);
                return response;
            }
            found => {
                let author = found.map_or_else(|_| Author::new("", *from, id.as_str()), |holder| holder.author);
                let (who, code, detail) = (&author.who, problem.code(), &problem.detail);
                if problem.status().is_server_error() {
                    tracing::warn!(request = %id, from = from_text, who, %method, path, code, detail, "failed");
                } else {
                    tracing::info!(request = %id, from = from_text, who, %method, path, code, detail, "refused");
                }
                if *changes && !who.is_empty() {
                    let why = match code {
                        "invalid" | "malformed" => format!("{code}: {}: {detail}", problem.field),
                        _ => format!("{code}: {detail}"),
                    };
                    self.refusals.note(author, &format!("{method} {path}"), &why).await;
                }
            }
        }
        problem.response(Some(id))
    }
}

fn too_much(id: &RequestId) -> Response {
    let detail =
        "too many requests without a good token came from this address; wait, or send one: it is never kept out";
    let mut response = Problem::too_many("Authorization", detail).response(Some(id));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    response
}
