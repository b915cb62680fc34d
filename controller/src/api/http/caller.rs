//! Who calls: a token, its role, and the headers that say how the call is meant.
//!
//! A handler names the least role it needs by the extractor it takes ([`Viewer`], [`Operator`], [`Admin`]), so none can
//! forget to ask. No token or a bad one is 401, a good one of too low a role is 403.
//! Who it is was found out at the door ([`super::door`]), once for each request.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use muster_protocol::Digest;

use super::etag::Condition;
use super::problem::Problem;
use super::request::RequestId;
use crate::api::Api;
use crate::api::view::Time;
use crate::clock::now_unix_ms;
use crate::fleet::access::{self, Unfit};
use crate::fleet::answered::RequestKey;
use crate::fleet::record::Role;
use crate::fleet::{Author, State};
use crate::metrics::Reason;
use crate::words::with_article;

/// The user of HTTP Basic, whose password is a token.
const BASIC_USER: &str = "token";

/// Whose token came with a request.
#[derive(Debug, Clone)]
pub struct Holder {
    /// For the audit log.
    pub author: Author,
    token: String,
    name: String,
    role: Role,
    expires_unix_ms: Option<u64>,
}

impl Holder {
    /// Whether the token is still good: for answers that go on for longer than a moment.
    pub fn is_good(&self, state: &State, now_unix_ms: u64) -> bool {
        state.tokens.get(&self.token).is_some() && self.expires_unix_ms.is_none_or(|at| at > now_unix_ms)
    }

    /// How long the token may be good from now on; `None` for ever.
    pub fn left_ms(&self, now_unix_ms: u64) -> Option<u64> {
        self.expires_unix_ms.map(|at| at.saturating_sub(now_unix_ms))
    }
}

/// Why nobody is known to call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No header.
    #[error("no token came with this; send \"Authorization: Bearer muster_…\"")]
    Missing,
    /// A header that nobody can read.
    #[error(
        "the header must read \"Bearer\" and a token, such as muster_…; or be Basic, user \"token\", with a token for its password"
    )]
    Malformed,
    /// HTTP Basic, with a user of its own.
    #[error("there are no users here: Basic takes the user \"token\", with a token for its password")]
    OtherUser,
    /// Not one of ours, or not any more.
    #[error("the token is not known, or was revoked; an admin makes one with `muster token create`")]
    Unknown,
    /// It was good.
    #[error("the token {name:?} has ended at {}; an admin makes another one with `muster token create`", at.text())]
    Expired {
        /// Whose.
        name: String,
        /// When.
        at: Time,
    },
}

impl Denied {
    /// For counting.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing => Reason::TokenMissing,
            Self::Malformed | Self::OtherUser => Reason::TokenMalformed,
            Self::Unknown => Reason::TokenUnknown,
            Self::Expired { .. } => Reason::TokenExpired,
        }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        Self::unauthenticated("Authorization", denied.to_string())
    }
}

/// Finds out who calls.
pub fn identify(headers: &HeaderMap, extensions: &Extensions, state: &State) -> Result<Holder, Denied> {
    let header = headers.get(header::AUTHORIZATION).ok_or(Denied::Missing)?;
    let text = credentials(header.to_str().map_err(|_| Denied::Malformed)?)?;
    let token = access::check(state, &text, now_unix_ms()).map_err(|unfit| match unfit {
        Unfit::Unknown => Denied::Unknown,
        Unfit::Expired { name, at_unix_ms } => Denied::Expired { name, at: Time(at_unix_ms) },
    })?;
    let request = RequestId::noted(extensions);
    Ok(Holder {
        author: Author::new(access::author(token), peer(extensions), request.as_str()),
        token: token.id.clone(),
        name: token.name.clone(),
        role: token.role,
        expires_unix_ms: token.expires_unix_ms,
    })
}

/// Where a request came from.
pub fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0)
}

/// The token in the header. The schemes' names have no case (RFC 9110, section 11.1).
fn credentials(header: &str) -> Result<String, Denied> {
    let (scheme, rest) = header.split_once(' ').ok_or(Denied::Malformed)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Denied::Malformed);
    }
    let pair = BASE64.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(Denied::Malformed)?;
    match pair.split_once(':') {
        Some((BASIC_USER, token)) => Ok(token.to_owned()),
        Some(_) => Err(Denied::OtherUser),
        None => Err(Denied::Malformed),
    }
}

/// A caller whose token is good.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For the audit log.
    pub author: Author,
    /// Whose token it is.
    pub holder: Holder,
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
    let holder = match parts.extensions.get::<Result<Holder, Denied>>() {
        Some(found) => found.clone()?,
        None => identify(&parts.headers, &parts.extensions, &api.fleet.state())?,
    };
    if holder.role < needed {
        let (has, needs) = (holder.role.word(), needed.word());
        let detail = format!("the token {:?} is {}'s; this needs {needs}", holder.name, with_article(has));
        return Err(Problem::forbidden("Authorization", detail));
    }
    Ok(Caller {
        condition: Condition::read(&parts.headers)?,
        key: idempotency_key(&parts.headers, &holder.token)?,
        target: format!("{} {}", parts.method, parts.uri),
        author: holder.author.clone(),
        holder,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_as_a_bearer_or_as_the_password_of_the_user_token() {
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair));
        for good in ["Bearer muster_a_b", "bearer  muster_a_b ", &basic("token:muster_a_b")] {
            assert_eq!(credentials(good).as_deref(), Ok("muster_a_b"), "{good}");
        }
        assert_eq!(credentials(&basic("olga:muster_a_b")), Err(Denied::OtherUser));
        assert_eq!(credentials(&basic("Token:muster_a_b")), Err(Denied::OtherUser));
        assert_eq!(credentials(&basic(":muster_a_b")), Err(Denied::OtherUser));
        for unreadable in ["", "muster_a_b", "Digest x", "Basic !!", "Basic /w==", &basic("token"), "Basic "] {
            assert_eq!(credentials(unreadable), Err(Denied::Malformed), "{unreadable}");
        }
    }
}
