//! What each call may be refused with.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::ial::Endpoint;

/// Of every call: the body, its size, the form of its texts, and too many wrong credentials.
const ALL: &[&str] = &["400.invalid-syntax", "422.invalid-argument", "429.rate-limiting"];

/// Where wrong credentials are refused, and none where they are needed.
const KNOWN: &[&str] = &["401.auth-invalid", "403.wrong-hub"];

/// Where something is changed.
const CHANGE: &[&str] = &["403.invalid-state", "500.database", "500.unknown", "503.not-ready"];

impl Endpoint {
    /// The codes of its refusals.
    fn refusals(self) -> Vec<&'static str> {
        let own: &[&[&str]] = match self {
            Self::Verify => &[],
            Self::Locations | Self::Models => &[KNOWN],
            Self::Configure => &[KNOWN, &["404.infrastructure.location", "422.missing-argument"]],
            Self::Provision => &[
                KNOWN,
                CHANGE,
                &["404.infrastructure.location", "404.infrastructure.model"],
                &["422.max-exceeded", "422.missing-argument"],
            ],
            Self::ProvisionStatus => {
                &[KNOWN, &["403.not-allowed", "404.infrastructure.server", "422.max-exceeded", "422.missing-argument"]]
            }
            Self::Restart => &[
                KNOWN,
                CHANGE,
                &["403.not-allowed", "404.infrastructure.server", "422.missing-argument", "504.not-available"],
            ],
            Self::Decommission => &[KNOWN, CHANGE, &["403.not-allowed", "422.missing-argument"]],
            Self::Allocate => &[
                KNOWN,
                CHANGE,
                &["403.not-allowed", "404.infrastructure.location", "404.infrastructure.server"],
                &["422.max-exceeded", "422.missing-argument", "422.not-compatible"],
            ],
            Self::Release => {
                &[KNOWN, CHANGE, &["403.not-allowed", "404.infrastructure.ips.pool", "422.missing-argument"]]
            }
        };
        ALL.iter().chain(own.iter().copied().flatten()).copied().collect()
    }
}

/// By status, for the OpenAPI document.
pub(super) fn responses(endpoint: Endpoint) -> Value {
    let mut by_status: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for code in endpoint.refusals() {
        by_status.entry(code.split('.').next().unwrap_or(code)).or_default().push(code);
    }
    let response = |status: &str, codes: Vec<&str>| {
        let error = json!({
            "allOf": [{ "$ref": "#/components/schemas/Error" }],
            "properties": { "status": { "const": status.parse::<u16>().unwrap_or_default() }, "code": { "enum": codes } },
        });
        let refused = json!({
            "type": "object",
            "properties": { "data": { "type": "null" }, "error": error },
            "required": ["data", "error"],
        });
        let mut headers = json!({ "X-Request-Id": { "$ref": "#/components/headers/RequestId" } });
        if status == "429" {
            headers["Retry-After"] = json!({ "$ref": "#/components/headers/RetryAfter" });
        }
        json!({
            "description": codes.join(", "), "headers": headers, "content": { "application/json": { "schema": refused } },
        })
    };
    by_status.into_iter().map(|(status, codes)| (status.to_owned(), response(status, codes))).collect()
}
