//! The audit log: read in pages, exported as lines, or followed live; always filtered here.
//!
//! An export's lines are what is hashed, so that whoever has them verifies them without trust in this controller.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::http::feed::{self, AT_ONCE, Unread};
use crate::api::http::{Operator, Page, Params, Problem, Refused, when};
use crate::clock::now_unix_ms;
use crate::fleet::State as FleetState;
use crate::fleet::audit::{Head, Line};
use crate::fleet::ledger::{Ledger, LedgerError};
use crate::fleet::machine;
use crate::fleet::record::{AuditEntry, AuditResult};

/// The media type of an export (https://jsonlines.org).
const LINES: &str = "application/jsonl";

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(audit)).routes(routes!(head))
}

/// Which entries are asked for.
#[derive(Debug, Clone, Default)]
struct Filter {
    who: Option<String>,
    /// As it was given, and where that is a machine's or a token's name, its id.
    subject: Option<Vec<String>>,
    action: Option<String>,
    request: Option<String>,
    result: Option<Wanted>,
    since_unix_ms: Option<u64>,
    until_unix_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Done,
    Refused,
}

impl Filter {
    fn read(params: &mut Params, state: &FleetState) -> Result<Self, Problem> {
        let result = match params.text("result").as_deref() {
            None => None,
            Some("done") => Some(Wanted::Done),
            Some("refused") => Some(Wanted::Refused),
            Some(other) => {
                return Err(Problem::invalid("result", format!("must be done or refused, and is {other:?}")));
            }
        };
        let mut moment = |key| match params.text(key) {
            None => Ok(None),
            Some(text) => when::past(key, &text, now_unix_ms()).map(|time| Some(time.0)),
        };
        Ok(Self {
            since_unix_ms: moment("since")?,
            until_unix_ms: moment("until")?,
            who: params.text("who"),
            subject: params.text("subject").map(|text| subjects(state, text)),
            action: params.text("action"),
            request: params.text("request"),
            result,
        })
    }

    fn wants(&self, entry: &AuditEntry) -> bool {
        let is = |wish: &Option<String>, text: &str| wish.as_deref().is_none_or(|wish| wish == text);
        let result = match entry.result {
            AuditResult::Done => Wanted::Done,
            AuditResult::Refused { .. } => Wanted::Refused,
        };
        let is_by = |wish: &str| entry.who == wish || entry.who.split_once('/').is_some_and(|(name, _)| name == wish);
        self.who.as_deref().is_none_or(is_by)
            && self.subject.as_ref().is_none_or(|subjects| subjects.contains(&entry.subject))
            && is(&self.request, &entry.request)
            && self.action.as_deref().is_none_or(|beginning| entry.action.starts_with(beginning))
            && self.result.is_none_or(|wish| wish == result)
            && self.since_unix_ms.is_none_or(|since| entry.at_unix_ms >= since)
            && self.until_unix_ms.is_none_or(|until| entry.at_unix_ms <= until)
    }
}

/// What a subject's name may stand for in the log, where ids are written.
fn subjects(state: &FleetState, text: String) -> Vec<String> {
    let machine = machine::lookup(state, &text).ok().map(|id| id.to_string());
    let tokens = state.tokens.iter().filter(|token| token.name == text).map(|token| token.id.clone());
    machine.into_iter().chain(tokens).chain([text.clone()]).collect()
}

/// Who changed what, and who was refused: JSON in pages, newest first; `application/jsonl` where the request accepts it,
/// oldest first and all of it; or server-sent events where it accepts `text/event-stream`, from now on.
///
/// A line of the export, as of the live feed, is exactly what is hashed: `previous` is the SHA-256 of the line before it.
#[utoipa::path(get, path = "/audit", tag = "events",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default; of an export the newest so many, all by \
             default; means nothing to a live feed"),
        ("cursor" = Option<u64>, Query, description = "`next` of the page before; means nothing to an export or a live feed"),
        ("after" = Option<u64>, Query, description = "only entries after the one with this number"),
        ("who" = Option<String>, Query, description = "only what this one did, such as `token:ci`, or of several of that name one: `token:ci/1a2b3c4d`"),
        ("subject" = Option<String>, Query, description = "only what was done on this: an id, a code, or the name of a machine or of a token"),
        ("action" = Option<String>, Query, description = "only actions that begin like this, such as `machine.`"),
        ("request" = Option<String>, Query, description = "only what the request of this id brought about"),
        ("result" = Option<String>, Query, description = "`done` or `refused`"),
        ("since" = Option<String>, Query, description = "not before: a span like `2h` or `7d`, a date, or RFC 3339"),
        ("until" = Option<String>, Query, description = "not after, as `since`"),
        ("Last-Event-ID" = Option<String>, Header, description = "as `after`, sent by browsers that come back"),
    ),
    responses(
        (status = 200, content(
            (Page<Line> = "application/json"),
            (String = "application/jsonl"),
            (String = "text/event-stream"),
        )),
        Refused,
    ))]
async fn audit(
    Operator(caller): Operator,
    State(api): State<Api>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let state = api.fleet.state();
    let filter = Filter::read(&mut params, &state)?;
    let (is_limited, limit) = (params.has("limit"), params.limit()?);
    let cursor: Option<u64> = params.cursor()?;
    let after: Option<u64> = params.parsed("after", "the number of an entry")?;
    params.finish()?;
    let (newest, ledger) = (Head::of(&state).seq, api.fleet.ledger());
    if feed::accepts(&headers, "text/event-stream") {
        let after = feed::last_event_id(&headers).or(after).unwrap_or(newest);
        let filter = Arc::new(filter);
        return Ok(feed::live(&api.fleet, caller, after, move |state, after| {
            let (ledger, filter) = (ledger.clone(), filter.clone());
            Box::pin(async move { unread(ledger, Head::of(&state).seq, after, filter).await })
        }));
    }
    let after = after.unwrap_or(0);
    if feed::accepts(&headers, LINES) {
        let after = match is_limited {
            false => after,
            true => {
                let (ledger, filter) = (ledger.clone(), filter.clone());
                reading(move || first_of(&ledger, after, newest, &filter, limit)).await?
            }
        };
        return Ok(lines(ledger, after, newest, filter));
    }
    let last = cursor.map_or(newest, |cursor| newest.min(cursor.saturating_sub(1)));
    let page = reading(move || {
        let mut failed = None;
        let newest_first = sound(ledger.all_back(after.saturating_add(1), last), &mut failed);
        let entries = newest_first.filter(|entry| filter.wants(entry));
        let page = Page::take(entries, limit, |entry| entry.seq.to_string(), |entry| Line::of(&entry));
        failed.map_or(Ok(page), Err)
    });
    Ok(Json(page.await?).into_response())
}

/// Runs what waits for the disk.
async fn reading<T, F>(read: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, LedgerError> + Send + 'static,
{
    let failed = |error: &dyn std::error::Error| {
        tracing::error!(%error, "the audit log cannot be read");
        Problem::internal("audit", "the audit log cannot be read; the controller's log says why")
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|error| failed(&error))?;
    read.map_err(|error| failed(&error))
}

/// The entries up to one that cannot be read, which is `failed` then.
fn sound(
    entries: impl Iterator<Item = Result<AuditEntry, LedgerError>>,
    failed: &mut Option<LedgerError>,
) -> impl Iterator<Item = AuditEntry> {
    entries.map_while(|entry| entry.map_err(|error| *failed = Some(error)).ok())
}

/// At most [`AT_ONCE`] entries after `after`, those that are wanted.
async fn unread(ledger: Ledger, newest: u64, after: u64, filter: Arc<Filter>) -> Option<Unread> {
    let mut found = Unread { events: Vec::new(), seen: after };
    if after < newest {
        for entry in reading(move || ledger.from(after.saturating_add(1), newest, AT_ONCE)).await.ok()? {
            found.seen = entry.seq;
            if filter.wants(&entry) {
                let event = sse::Event::default().id(entry.seq.to_string()).event(&entry.action);
                found.events.push(event.data(Line::of(&entry).text()));
            }
        }
    }
    Some(found)
}

/// After which entry the newest `limit` of those begin that are wanted.
fn first_of(ledger: &Ledger, after: u64, newest: u64, filter: &Filter, limit: usize) -> Result<u64, LedgerError> {
    let mut failed = None;
    let wanted =
        sound(ledger.all_back(after.saturating_add(1), newest), &mut failed).filter(|entry| filter.wants(entry));
    let first = wanted.take(limit).last().map_or(after, |first| first.seq - 1);
    failed.map_or(Ok(first), Err)
}

/// The lines after the entry `after`, up to the one that was the newest when they were asked for.
fn lines(ledger: Ledger, after: u64, newest: u64, filter: Filter) -> Response {
    let filter = Arc::new(filter);
    let parts = stream::try_unfold(after, move |after| {
        let (ledger, filter) = (ledger.clone(), filter.clone());
        async move {
            let found = reading(move || ledger.from(after.saturating_add(1), newest, AT_ONCE)).await;
            // Whoever reads has to see that this is not all.
            let found = found.map_err(|_| std::io::Error::other("the audit log cannot be read"))?;
            let Some(last) = found.last().map(|entry| entry.seq) else { return Ok(None) };
            let wanted = found.iter().filter(|entry| filter.wants(entry));
            let text: String = wanted.map(|entry| Line::of(entry).text() + "\n").collect();
            Ok::<_, std::io::Error>(Some((text, last)))
        }
    });
    ([(header::CONTENT_TYPE, LINES), (header::CACHE_CONTROL, "no-store")], Body::from_stream(parts)).into_response()
}

/// Where the audit log ends, as the controller has it on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AuditHead)]
struct HeadView {
    /// Number of the newest entry, 0 where there is none.
    seq: u64,
    /// SHA-256 of its line in hex.
    sha256: String,
    /// Both, to be noted elsewhere: `muster audit verify --head` finds out whether the log still has it.
    head: String,
}

/// Where the audit log ends.
#[utoipa::path(get, path = "/audit/head", tag = "events",
    responses((status = 200, body = HeadView), Refused))]
async fn head(_: Operator, State(api): State<Api>) -> Json<HeadView> {
    let head = Head::of(&api.fleet.state());
    Json(HeadView { seq: head.seq, sha256: head.digest.to_string(), head: head.to_string() })
}
