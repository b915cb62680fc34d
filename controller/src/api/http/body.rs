//! JSON bodies: limited in size and depth before they are understood, and refused by field.

use axum::body::Body as HttpBody;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use http_body_util::BodyExt;
use muster_protocol::Digest;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::problem::Problem;
use crate::api::Api;
use crate::words::plain;

/// The largest body in bytes: a document of 256 KiB fits even where every character of it is escaped.
pub const BODY_LIMIT: usize = 1 << 20;

/// What is read and thrown away of a larger one: whoever still writes does not read the refusal.
const DRAIN_LIMIT: usize = 16 << 20;

/// Objects within objects.
const DEPTH_LIMIT: usize = 16;

/// A body, and the digest of its bytes.
pub struct Body<T> {
    /// What was said.
    pub value: T,
    /// Of what was sent.
    pub digest: Digest,
}

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Api) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default().to_owned());
        let is_json =
            kind.as_deref().is_none_or(|kind| kind.split(';').next().map(str::trim) == Some("application/json"));
        if !is_json {
            return Err(Problem::unsupported("Content-Type", "send application/json"));
        }
        let bytes = collect(request.into_body(), BODY_LIMIT).await.map_err(|unread| match unread {
            Unread::BrokeOff => Problem::malformed("body", "the body broke off, or took too long"),
            Unread::TooLarge => Problem::too_large("body", format!("a body has at most {BODY_LIMIT} bytes")),
        })?;
        Ok(Self { value: read(&bytes)?, digest: Digest::of(&bytes) })
    }
}

/// Why a body could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It broke off, or took too long.
    BrokeOff,
    /// It has more bytes than it may.
    TooLarge,
}

/// The bytes of a body, of which there may be `limit`. Of one that has more the rest is read and thrown away.
pub async fn collect(mut body: HttpBody, limit: usize) -> Result<Vec<u8>, Unread> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::BrokeOff)?.into_data() else { continue };
        length += data.len();
        if length <= limit {
            bytes.extend_from_slice(&data);
        } else if length > DRAIN_LIMIT {
            break;
        }
    }
    if length > limit { Err(Unread::TooLarge) } else { Ok(bytes) }
}

/// Reads one JSON value. An empty body is an empty object.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { bytes };
    check_depth(bytes)?;
    // First whether it is JSON at all: read into fields, a text that breaks off would be refused for the field it breaks in.
    serde_json::from_slice::<IgnoredAny>(bytes)
        .map_err(|error| Problem::malformed("body", format!("not JSON: {error}")))?;
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::invalid("body", "must be an object, {…}"));
    }
    let reader = &mut serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(reader).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        let text = without_position(&cause);
        // serde names a key that is missing in its text only.
        let missing = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        let field = match (path.as_str(), missing) {
            (".", None) => "body".to_owned(),
            (".", Some(key)) => key.to_owned(),
            (_, None) => path,
            (_, Some(key)) => format!("{path}.{key}"),
        };
        Problem::invalid(field, words(&text))
    })
}

/// What serde says of a value, in the words of an API: they are for people who know JSON and not Rust. What its types say of
/// themselves stays as it is.
fn words(text: &str) -> String {
    let quoted = |list: &str| list.replace('`', "");
    let listed = |rest: &str| {
        let known = rest.split_once(", expected ").map(|(_, known)| known);
        known.map(|known| quoted(known.strip_prefix("one of ").unwrap_or(known)))
    };
    if text.starts_with("missing field ") {
        return "is missing".into();
    }
    if text.starts_with("duplicate field ") {
        return "is there twice".into();
    }
    if let Some(rest) = text.strip_prefix("unknown field ") {
        return match listed(rest) {
            Some(known) => format!("there is no such field; known are {}", known.replacen(" or ", " and ", 1)),
            None => "there is no such field; none is known here".into(),
        };
    }
    if let Some((given, Some(known))) = text.strip_prefix("unknown variant ").map(|rest| (rest, listed(rest))) {
        let given = given.split('`').nth(1).unwrap_or_default();
        return format!("must be one of {known}, and is {given:?}");
    }
    if text.starts_with("invalid length ") && text.contains(", expected struct ") {
        // A list in an object's place.
        return "must be an object, and is a list".into();
    }
    let of = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    match of.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((given, expected)) => format!("must be {}, and is {}", kind(expected), value(given)),
        None => text.to_owned(),
    }
}

/// A type of Rust's as JSON has it.
fn kind(expected: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number, 0 at least".into(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a string" | "a borrowed string" | "string" | "str" => "a text".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        _ if expected.starts_with("struct ") => "an object".into(),
        _ if expected.starts_with("enum ") || expected == "string or map" => "a text or an object".into(),
        other => other.to_owned(),
    }
}

/// A value as serde shows one.
fn value(given: &str) -> String {
    match given {
        "sequence" => "a list".into(),
        "map" => "an object".into(),
        "unit value" => "null".into(),
        given if given.starts_with("string \"") => plain(&given["string ".len()..], 80),
        given => plain(given.rsplit_once(" `").map_or(given, |(_, value)| value.trim_end_matches('`')), 80),
    }
}

/// serde's message without "at line 1 column 9": bodies are written by programs, and the field is named.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

fn check_depth(bytes: &[u8]) -> Result<(), Problem> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_LIMIT {
            return Err(Problem::malformed("body", format!("nested deeper than {DEPTH_LIMIT}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        count: u8,
    }

    fn refused(text: &str) -> (String, String, String) {
        let problem = read::<Outer>(text.as_bytes()).expect_err("refused");
        (problem.code().to_owned(), problem.field, problem.detail)
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        let (code, field, detail) = refused(r#"{"inner": [{"count": 1}, {"count": "two"}]}"#);
        assert_eq!((code.as_str(), field.as_str()), ("invalid", "inner[1].count"));
        assert_eq!(detail, "must be a whole number from 0 to 255, and is \"two\"");
        assert_eq!(refused(r#"{"inner": [{"count": 300}]}"#).1, "inner[0].count");
        assert_eq!(refused(r#"{"outer": 1}"#).1, "outer");
        let (_, field, detail) = refused(r#"{"inner": [{}]}"#);
        assert_eq!((field.as_str(), detail.as_str()), ("inner[0].count", "is missing"));
    }

    #[test]
    fn what_is_wrong_is_said_in_words_for_json() {
        for (text, says) in [
            (r#"{"outer": 1}"#, "there is no such field; known are inner"),
            (r#"{"inner": 7}"#, "must be a list, and is 7"),
            (r#"{"inner": null}"#, "must be a list, and is null"),
            (r#"{"inner": {}}"#, "must be a list, and is an object"),
            (r#"{"inner": [7]}"#, "must be an object, and is 7"),
            (r#"{"inner": [[]]}"#, "must be an object, and is a list"),
            (r#"{"inner": [{"count": -1}]}"#, "must be a whole number from 0 to 255, and is -1"),
            (r#"{"inner": [{"count": 1.5}]}"#, "must be a whole number from 0 to 255, and is 1.5"),
            (r#"{"inner": [{"count": true}]}"#, "must be a whole number from 0 to 255, and is true"),
            (
                r#"{"inner": [{"count": ", expected u8"}]}"#,
                "must be a whole number from 0 to 255, and is \", expected u8\"",
            ),
            (r#"{"inner": [], "inner": []}"#, "is there twice"),
        ] {
            let (_, _, detail) = refused(text);
            assert_eq!(detail, says, "{text}");
        }
        let said = words("unknown variant `x`, expected one of `off`, `on`");
        assert_eq!(said, "must be one of off, on, and is \"x\"");
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for text in ["{", "{}}", "nope", "{\"inner\": [}", "\u{0}", "{\"a\":", "{\"inner\": [{\"count\": 1"] {
            assert_eq!(refused(text).0, "malformed", "{text}");
        }
        assert_eq!(read::<Outer>(b" \n"), Ok(Outer { inner: vec![] }));
    }

    #[test]
    fn only_objects_are_taken_and_lists_are_not_read_by_position() {
        for text in ["[]", "[[]]", "7", "null", "\"inner\""] {
            assert_eq!(refused(text).0, "invalid", "{text}");
        }
    }

    #[test]
    fn depth_is_limited_and_brackets_in_texts_do_not_count() {
        assert_eq!(refused(&"[".repeat(100_000)).2, "nested deeper than 16");
        let brackets = format!("{{\"inner\": [], \"{}\": 1}}", "[\\\"".repeat(40));
        assert_eq!(refused(&brackets).0, "invalid");
    }
}
