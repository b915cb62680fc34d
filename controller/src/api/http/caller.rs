//! Who calls: a bearer token, its role, and the headers that say how the call is meant.
//!
//! A handler names the least role it needs by the extractor it takes ([`Viewer`], [`Operator`], [`Admin`]), so none can
//! forget to ask. No token or a bad one is 401, a good one of too low a role is 403.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use muster_protocol::Digest;

use super::etag::Condition;
use super::problem::Problem;
use crate::api::Api;
use crate::fleet::answered::RequestKey;
use crate::fleet::record::Role;
use crate::fleet::{Author, access};

/// A caller whose token is good.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For the audit log.
    pub author: Author,
    /// What the token may do.
    pub role: Role,
    /// `If-Match` and `If-None-Match`.
    pub condition: Condition,
    key: Option<Digest>,
    target: String,
}

impl Caller {
    /// What to recognize this request by, where it carries an `Idempotency-Key`.
    /// `body` is the digest of what was sent.
    pub fn request_key(&self, body: Digest) -> Option<RequestKey> {
        let request = Digest::of(format!("{} {body}", self.target).as_bytes());
        self.key.map(|key| RequestKey { key, request })
    }
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub struct $name(pub Caller);

        impl FromRequestParts<Api> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
                caller(parts, api, Role::$name).map(Self)
            }
        }
    )*};
}

roles! {
    /// May read.
    Viewer;
    /// May change machines, addresses, locations.
    Operator;
    /// May make tokens and credentials.
    Admin;
}

fn caller(parts: &Parts, api: &Api, needed: Role) -> Result<Caller, Problem> {
    let unauthenticated = |detail: &str| Problem::unauthenticated("Authorization", detail);
    let text = parts
        .headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| unauthenticated("send a token: \"Authorization: Bearer muster_…\""))?
        .to_str()
        .ok()
        .and_then(bearer)
        .ok_or_else(|| unauthenticated("the header must read \"Bearer\" and a token, such as muster_…"))?;
    let state = api.fleet.state();
    let token = access::check(&state, text, now_unix_ms())
        .ok_or_else(|| unauthenticated("the token is not known, was revoked or has ended"))?;
    if token.role < needed {
        let (has, needs) = (name(token.role), name(needed));
        let detail = format!("the token {:?} is a {has}'s; this needs {needs}", token.name);
        return Err(Problem::forbidden("Authorization", detail));
    }
    let from = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let who = format!("token:{}", token.name);
    Ok(Caller {
        role: token.role,
        condition: Condition::read(&parts.headers)?,
        key: idempotency_key(&parts.headers, &token.id)?,
        target: format!("{} {}", parts.method, parts.uri),
        author: Author { who, from },
    })
}

/// RFC 6750, section 2.1; the scheme's name has no case (RFC 9110, section 11.1).
fn bearer(text: &str) -> Option<&str> {
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Keys of different tokens never meet.
fn idempotency_key(headers: &HeaderMap, token: &str) -> Result<Option<Digest>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > 255 {
        return Err(Problem::malformed("Idempotency-Key", "must be 1 to 255 visible ASCII characters"));
    }
    Ok(Some(Digest::of(format!("{token}\0{text}").as_bytes())))
}

/// A role as the API writes it.
pub fn name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

/// Milliseconds since 1970 UTC.
pub fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
