//! Every request's name: in its answer's header, in the log, in a problem document and in the audit log.

use std::fmt;

use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue};

/// Said by a caller who knows its requests by name, and by every answer.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name that is taken from a caller.
const LENGTH: usize = 64;

/// 1 to 64 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The caller's own name for its request, or where it gave none that is sane, a fresh one.
    pub fn read(headers: &HeaderMap) -> Self {
        let given = headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let sane = (1..=LENGTH).contains(&given.len()) && given.bytes().all(|byte| byte.is_ascii_graphic());
        if sane { Self(given.to_owned()) } else { Self::fresh() }
    }

    /// A name that no other request has: 16 hex digits.
    pub fn fresh() -> Self {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the kernel's random source does not fail");
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As it was noted when the request came in.
    pub fn noted(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(Self::fresh)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For the header of the answer.
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("visible ASCII is a header's value")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_name_is_kept_and_any_other_is_replaced() {
        let read = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).expect("a header's value");
            RequestId::read(&HeaderMap::from_iter([(HEADER, value)])).to_string()
        };
        assert_eq!(read(b"01JD-abc.7/x"), "01JD-abc.7/x");
        assert_eq!(read(&[b'x'; 64]), "x".repeat(64));
        for insane in [&b""[..], b"two words", &[b'x'; 65], b"\xc3\xa4", b"tab\there"] {
            let made = read(insane);
            assert!(made.len() == 16 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        }
        assert_ne!(RequestId::read(&HeaderMap::new()), RequestId::read(&HeaderMap::new()));
    }
}
