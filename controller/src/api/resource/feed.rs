//! What happened: the change feed, followed live or read in pages, and the audit log.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::http::{Operator, Page, Params, Problem, Refused, Viewer};
use crate::api::view::Time;
use crate::fleet::State as FleetState;
use crate::fleet::record::{AuditEntry, Event};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(events)).routes(routes!(audit))
}

/// One line of the change feed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Event)]
struct EventView {
    /// Grows by one.
    seq: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// Stable and dotted: `machine.approved`. `feed.gap` says that older events were forgotten before they were read.
    kind: String,
    /// Which machine, operation, ….
    subject: String,
    /// For people.
    text: String,
}

impl From<&Event> for EventView {
    fn from(event: &Event) -> Self {
        let Event { seq, at_unix_ms, kind, subject, text } = event.clone();
        Self { seq, at: Time(at_unix_ms), kind, subject, text }
    }
}

/// The change feed, oldest first: JSON in pages, or server-sent events where the request accepts `text/event-stream`.
///
/// A live feed begins after `cursor` or `Last-Event-ID`, else with what happens from now on, and goes on until the
/// caller leaves. About 10,000 events are kept.
#[utoipa::path(get, path = "/events", tag = "events",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default; means nothing to a live feed"),
        ("cursor" = Option<u64>, Query, description = "begin after the event with this number"),
        ("last" = Option<u64>, Query, description = "begin with the newest so many, instead of a cursor"),
        ("Last-Event-ID" = Option<String>, Header, description = "as `cursor`, sent by browsers that come back"),
    ),
    responses(
        (status = 200, content(
            (Page<EventView> = "application/json"),
            (String = "text/event-stream"),
        )),
        Refused,
    ))]
async fn events(
    _: Viewer,
    State(api): State<Api>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let limit = params.limit()?;
    let cursor: Option<u64> = params.cursor()?;
    let last: Option<u64> = params.parsed("last", "a number of events")?;
    params.finish()?;
    let state = api.fleet.state();
    let newest = state.next_event() - 1;
    let begin = cursor.or(last.map(|count| newest.saturating_sub(count)));
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accepts.contains("text/event-stream") {
        let from = begin.unwrap_or(0);
        let page: Page<EventView> = Page::take(state.events.after(&from), limit, |e| e.seq.to_string(), Into::into);
        return Ok(Json(page).into_response());
    }
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let after = resumed.or(begin).unwrap_or(newest);
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    Ok(Sse::new(follow(api.fleet.watch(), after)).keep_alive(keep_alive).into_response())
}

/// Everything that happens after the event `after`, without end.
fn follow(news: watch::Receiver<Arc<FleetState>>, after: u64) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let begin = (news, after, VecDeque::<EventView>::new());
    stream::unfold(begin, |(mut news, mut after, mut waiting)| async move {
        loop {
            if let Some(event) = waiting.pop_front() {
                after = event.seq;
                return Some((Ok(sse_event(&event)), (news, after, waiting)));
            }
            let state = news.borrow_and_update().clone();
            waiting.extend(unread(&state, after));
            if waiting.is_empty() {
                // The writer has ended, and the process with it.
                news.changed().await.ok()?;
            }
        }
    })
}

/// At most 100 events after `after`, with a word where some were forgotten.
fn unread(state: &FleetState, after: u64) -> Vec<EventView> {
    let mut unread: Vec<EventView> = state.events.after(&after).take(100).map(Into::into).collect();
    if let Some(first) = unread.first()
        && first.seq > after + 1
    {
        let count = first.seq - after - 1;
        let gap = EventView {
            seq: first.seq - 1,
            at: first.at,
            kind: "feed.gap".into(),
            subject: String::new(),
            text: format!("{count} events were forgotten before they were read"),
        };
        unread.insert(0, gap);
    }
    unread
}

fn sse_event(event: &EventView) -> sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.seq.to_string()).event(&event.kind).data(data)
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditEntry)]
struct AuditView {
    /// Grows by one.
    seq: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// Who.
    who: String,
    /// From which address and port; empty for the controller itself.
    from: String,
    /// What was done.
    action: String,
    /// On what.
    subject: String,
    /// What it was.
    before: String,
    /// What it is.
    after: String,
}

impl From<&AuditEntry> for AuditView {
    fn from(entry: &AuditEntry) -> Self {
        let AuditEntry { seq, at_unix_ms, who, from, action, subject, before, after } = entry.clone();
        Self { seq, at: Time(at_unix_ms), who, from, action, subject, before, after }
    }
}

/// Who changed what, newest first.
#[utoipa::path(get, path = "/audit", tag = "events",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<u64>, Query, description = "`next` of the page before"),
        ("subject" = Option<String>, Query, description = "only what was done on this"),
        ("who" = Option<String>, Query, description = "only what this one did"),
    ),
    responses((status = 200, body = Page<AuditView>), Refused))]
async fn audit(_: Operator, State(api): State<Api>, mut params: Params) -> Result<Json<Page<AuditView>>, Problem> {
    let limit = params.limit()?;
    let cursor: Option<u64> = params.cursor()?;
    let subject = params.text("subject");
    let who = params.text("who");
    params.finish()?;
    let state = api.fleet.state();
    let wanted = |entry: &&AuditEntry| {
        cursor.is_none_or(|cursor| entry.seq < cursor)
            && subject.as_deref().is_none_or(|subject| subject == entry.subject)
            && who.as_deref().is_none_or(|who| who == entry.who)
    };
    let entries = state.audit.iter().rev().filter(wanted);
    Ok(Json(Page::take(entries, limit, |entry| entry.seq.to_string(), Into::into)))
}
