//! How long changes took, from their operations; medians and the worst.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_tests::eventually;
use muster_tests::http::Http;
use muster_tests::lab::text;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// For the bench to give up waiting.
const PATIENCE: Duration = Duration::from_secs(180);

/// The phases of a change, as an operation names them, and in words.
const PHASES: [(&str, &str); 6] = [
    ("make_ms", "made beside"),
    ("prove_beside_ms", "proven beside"),
    ("switch_ms", "switched"),
    ("verify_ms", "read back"),
    ("prove_ms", "proven"),
    ("revert_ms", "undone"),
];

/// How one change went, by the controller's clock.
pub struct Took {
    /// When it was asked for.
    pub began: OffsetDateTime,
    /// When its machine had told how it went.
    pub ended: OffsetDateTime,
    /// The reason for which it was undone; `None` where it was kept.
    pub undone: Option<String>,
    times: Value,
}

impl Took {
    /// Waits until an operation has ended.
    pub fn follow(api: &Http, operation: &str) -> Result<Self> {
        let ended = eventually(PATIENCE, "the operation ends", || {
            let operation = api.get(&format!("/api/v1/operations/{operation}"))?;
            ensure!(!operation["ended"].is_null(), "{operation}");
            Ok(operation)
        })?;
        let time = |pointer| anyhow::Ok(OffsetDateTime::parse(text(&ended, pointer)?, &Rfc3339)?);
        let undone = match text(&ended, "/state")? {
            "succeeded" => None,
            _ => Some(text(&ended, "/reason").with_context(|| ended.to_string())?.to_owned()),
        };
        Ok(Self { began: time("/created")?, ended: time("/ended")?, undone, times: ended["times"].clone() })
    }

    /// From the request to its end.
    pub fn whole(&self) -> Duration {
        (self.ended - self.began).try_into().unwrap_or_default()
    }

    fn phase(&self, key: &str) -> Duration {
        Duration::from_millis(self.times[key].as_u64().unwrap_or_default())
    }
}

/// The medians of the phases that there were.
pub fn phases(all: &[Took]) -> String {
    let phase = |(key, word)| {
        let median = median(all.iter().map(|took| took.phase(key)).collect());
        (!median.is_zero()).then(|| format!("{word} {}", seconds(median)))
    };
    PHASES.into_iter().filter_map(phase).collect::<Vec<_>>().join(", ")
}

/// The one in the middle; nothing of nothing.
pub fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// The median and the longest.
pub fn spread(all: Vec<Duration>) -> String {
    let worst = all.iter().max().copied().unwrap_or_default();
    format!("{}, worst of {} {}", seconds(median(all.clone())), all.len(), seconds(worst))
}

pub fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f32())
}

pub fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
