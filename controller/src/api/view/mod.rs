//! The shapes of the JSON that the API answers with.
//!
//! Wire and stored types carry no JSON attributes; these do, and they are read back by the command line.
//! Enumerations become lower-case words, ids and addresses their text forms, times RFC 3339 in UTC.

pub mod controls;
pub mod drive;
pub mod inventory;
pub mod machine;
pub mod medium;
pub mod observed;
pub mod operation;
pub mod plan;
pub mod rollout;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment, in milliseconds since 1970 UTC; in JSON `2026-11-21T07:15:04.250Z`, always of that length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// RFC 3339, UTC.
    pub fn text(self) -> String {
        let seconds = i64::try_from(self.0 / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        let text = seconds.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
        text.replace('Z', &format!(".{:03}Z", self.0 % 1000))
    }

    /// Reads RFC 3339 in any zone.
    pub fn parse(text: &str) -> Option<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("expected a time like 2026-11-21T07:15:04Z"))
    }
}

/// A UUID's text form.
pub fn uuid(bytes: [u8; 16]) -> String {
    muster_protocol::MachineId::from_bytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_what_it_writes() {
        let time = Time(1_795_245_304_250);
        assert_eq!(time.text(), "2026-11-21T07:15:04.250Z");
        assert_eq!(Time::parse(&time.text()), Some(time));
        assert_eq!(Time::parse("2026-11-21T08:15:04.25+01:00"), Some(time));
        assert_eq!(Time::parse("yesterday"), None);
    }
}
