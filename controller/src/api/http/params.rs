//! What stands in the URL: names in the path, parameters in the query, and lists in pages.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;

/// Items on a page where the caller does not say.
const PAGE: usize = 100;
/// The most items on a page.
const PAGE_LIMIT: usize = 1_000;
/// The longest that a request waits for news, in seconds.
const WAIT_LIMIT: u64 = 60;

/// One name in the path.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text)).map_err(|_| Problem::malformed("path", "the path is not valid UTF-8"))
    }
}

/// The parameters of the query. [`Params::finish`] refuses those that nobody asked for.
pub struct Params {
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let pairs: Query<Vec<(String, String)>> =
            Query::try_from_uri(&parts.uri).map_err(|_| Problem::malformed("query", "the query cannot be read"))?;
        let mut given = BTreeMap::new();
        for (key, value) in pairs.0 {
            if given.contains_key(&key) {
                return Err(Problem::malformed(key, "given twice"));
            }
            given.insert(key, value);
        }
        Ok(Self { given, known: Vec::new() })
    }
}

impl Params {
    /// Whether something was given for it.
    pub fn has(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.given.remove(key)
    }

    /// A text that reads as `T`; `expected` says what would be right.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Problem::invalid(key, format!("must be {expected}, and is {text:?}"))),
        }
    }

    /// `limit`, 1 to 1,000.
    pub fn limit(&mut self) -> Result<usize, Problem> {
        let expected = "a number from 1 to 1000";
        let limit = self.parsed("limit", expected)?.unwrap_or(PAGE);
        if (1..=PAGE_LIMIT).contains(&limit) {
            Ok(limit)
        } else {
            Err(Problem::invalid("limit", format!("must be {expected}, and is \"{limit}\"")))
        }
    }

    /// `cursor`, as it came in a page's `next`.
    pub fn cursor<T: FromStr>(&mut self) -> Result<Option<T>, Problem> {
        self.parsed("cursor", "what came in \"next\" of the page before")
    }

    /// `wait`: how long the answer may wait for news; not at all where it is not given.
    pub fn wait(&mut self) -> Result<Duration, Problem> {
        let expected = format!("seconds from 0 to {WAIT_LIMIT}");
        let wait: u64 = self.parsed("wait", &expected)?.unwrap_or(0);
        if wait > WAIT_LIMIT {
            return Err(Problem::invalid("wait", format!("must be {expected}, and is \"{wait}\"")));
        }
        Ok(Duration::from_secs(wait))
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<(), Problem> {
        match self.given.into_keys().next() {
            None => Ok(()),
            Some(key) => {
                let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
                Err(Problem::malformed(key, format!("there is no such parameter here; known: {known}")))
            }
        }
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// Give it as `cursor` to get what follows; absent where this is the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The first `limit` of `records`, as `view` shows them; `cursor` names the last one that was shown.
    pub fn take<R>(
        records: impl Iterator<Item = R>,
        limit: usize,
        cursor: impl Fn(&R) -> String,
        view: impl FnMut(R) -> T,
    ) -> Self {
        // One more than is shown tells whether anything follows.
        let mut records: Vec<R> = records.take(limit + 1).collect();
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(cursor);
        Self { items: records.into_iter().map(view).collect(), next }
    }
}
