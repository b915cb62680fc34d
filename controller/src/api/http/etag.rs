//! Conditional requests (RFC 9110, section 13): change it only if it is still what I saw.
//!
//! A tag is made of the record, so it changes exactly when the record does.
//! The condition is checked inside the change, by the writer, so nothing can come in between.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{AppendHeaders, IntoResponseParts};
use muster_protocol::Digest;
use serde::Serialize;

use super::problem::Problem;
use crate::fleet::Refusal;

/// The tag in `If-None-Match`, for whoever reads: what the caller has already.
pub fn seen(headers: &HeaderMap) -> Option<String> {
    headers.get("if-none-match").and_then(|tag| tag.to_str().ok()).map(|tag| tag.trim_matches('"').to_owned())
}

/// What the caller saw before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing was said.
    Any,
    /// `If-Match`: one of these tags.
    Is(Vec<String>),
    /// `If-Match: *`: it is there.
    There,
    /// `If-None-Match: *`: it is not there.
    NotThere,
}

impl Condition {
    /// Reads the headers. A tag in `If-None-Match` is for reading and means nothing here.
    pub fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
        match (text("if-match"), text("if-none-match")) {
            (Some("*"), _) => Ok(Self::There),
            (Some(tags), _) => tags
                .split(',')
                .map(|tag| {
                    let tag = tag.trim().strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
                    tag.map(str::to_owned).ok_or_else(|| {
                        Problem::malformed("If-Match", "must be * or a tag as it came in ETag, quotes included")
                    })
                })
                .collect::<Result<_, _>>()
                .map(Self::Is),
            (None, Some("*")) => Ok(Self::NotThere),
            (None, _) => Ok(Self::Any),
        }
    }

    /// Whether it holds for a thing that has this tag now, or is not there.
    ///
    /// Errors: [`Refusal::Outdated`].
    pub fn check(&self, kind: &'static str, now: Option<&str>) -> Result<(), Refusal> {
        let holds = match (self, now) {
            (Self::Any, _) => true,
            (Self::Is(tags), Some(now)) => tags.iter().any(|tag| tag == now),
            (Self::Is(_), None) | (Self::There, None) | (Self::NotThere, Some(_)) => false,
            (Self::There, Some(_)) | (Self::NotThere, None) => true,
        };
        if holds { Ok(()) } else { Err(Refusal::Outdated { kind }) }
    }
}

/// The tag of a record.
pub fn of<R: Serialize>(record: &R) -> String {
    Digest::of_value(record).to_string()[..16].to_owned()
}

/// The `ETag` header.
pub fn header(tag: &str) -> impl IntoResponseParts + use<> {
    // Tags are hex digits or numbers.
    AppendHeaders(HeaderValue::from_str(&format!("\"{tag}\"")).ok().map(|value| (header::ETAG, value)))
}
