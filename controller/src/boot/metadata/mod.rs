//! The metadata service: what leased machines are told of themselves over plain HTTP, as clouds do it.
//!
//! A listener of its own, off unless `listen.metadata` names where. Who asks is known by the address that the question comes
//! from, which nobody off that machine's own wire can use: a TCP connection has to come back to it. Everybody else gets
//! nothing. What is told may hold secrets, so no proxy may ask in a machine's name.

mod instance;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, FORWARDED, VIA};
use http::{HeaderMap, HeaderName, StatusCode, Uri};
use muster_protocol::Digest;

use crate::clock::now_unix_ms;
use crate::fleet::Fleet;

/// EC2's names for its tokens, in lower case as `http` wants them.
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Six hours, as EC2 has it.
const LONGEST_S: u64 = 21_600;

struct Metadata {
    fleet: Fleet,
    /// Of this run: tokens end with it.
    secret: [u8; 32],
}

/// The routes.
pub fn router(fleet: Fleet) -> Router {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("the kernel's random source does not fail");
    let metadata = Metadata { fleet, secret };
    Router::new().route("/latest/api/token", put(token)).fallback(get(serve)).with_state(Arc::new(metadata))
}

/// `PUT /latest/api/token`, IMDSv2: a client that wants one gets one. Not asking for one is allowed, as with IMDSv1.
async fn token(
    State(metadata): State<Arc<Metadata>>,
    Extension(ConnectInfo(from)): Extension<ConnectInfo<SocketAddr>>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = metadata.refuses(from.ip(), &headers) {
        return refused;
    }
    let wanted = headers.get(&TOKEN_TTL).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match wanted.filter(|seconds| (1..=LONGEST_S).contains(seconds)) {
        Some(seconds) => {
            let token = metadata.token(from.ip(), now_unix_ms() / 1000 + seconds);
            (StatusCode::OK, [(TOKEN_TTL, seconds.to_string())], token).into_response()
        }
        None => text(StatusCode::BAD_REQUEST, format!("{TOKEN_TTL} is to be a number from 1 to {LONGEST_S}\n")),
    }
}

async fn serve(
    State(metadata): State<Arc<Metadata>>,
    Extension(ConnectInfo(from)): Extension<ConnectInfo<SocketAddr>>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    if let Some(refused) = metadata.refuses(from.ip(), &headers) {
        return refused;
    }
    let Some(instance) = instance::of(&metadata.fleet.state(), from.ip().to_canonical()) else {
        return text(StatusCode::NOT_FOUND, "no leased machine has this address\n".to_owned());
    };
    let (files, path) = (instance.files(), path(uri.path()));
    match files.get(&path).cloned().or_else(|| instance::listing(&files, &path)) {
        Some(said) => {
            tracing::debug!(%from, path, "metadata");
            text(StatusCode::OK, said)
        }
        None => text(StatusCode::NOT_FOUND, "there is no such metadata\n".to_owned()),
    }
}

/// Slashes too many left out, and every version of EC2's and OpenStack's the latest.
fn path(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is_version =
        |part: &str| part == "1.0" || (part.len() == 10 && part.bytes().all(|b| b.is_ascii_digit() || b == b'-'));
    let at = usize::from(parts.first() == Some(&"openstack"));
    if let Some(part) = parts.get_mut(at).filter(|part| is_version(part)) {
        *part = "latest";
    }
    parts.join("/")
}

impl Metadata {
    /// Why whoever asks is not answered: it asks for another, or with a token that is no good.
    fn refuses(&self, from: IpAddr, headers: &HeaderMap) -> Option<Response> {
        if [FORWARDED_FOR, FORWARDED, VIA].iter().any(|name| headers.contains_key(name)) {
            let why = "metadata is told to the machine itself, and to no proxy\n";
            return Some(text(StatusCode::FORBIDDEN, why.to_owned()));
        }
        let shown = headers.get(&TOKEN)?;
        let ends = shown.to_str().ok().and_then(|shown| shown.split_once('-')?.0.parse::<u64>().ok());
        let is_good = ends
            .is_some_and(|ends| ends > now_unix_ms() / 1000 && shown.as_bytes() == self.token(from, ends).as_bytes());
        (!is_good).then(|| text(StatusCode::UNAUTHORIZED, "this token is no good; ask for another\n".to_owned()))
    }

    fn token(&self, from: IpAddr, ends_unix_s: u64) -> String {
        format!("{ends_unix_s}-{}", Digest::of_value(&(self.secret, from.to_canonical(), ends_unix_s)))
    }
}

fn text(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")], body).into_response()
}
