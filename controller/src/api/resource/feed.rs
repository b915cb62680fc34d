//! What happened: the change feed, followed live or read in pages.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response, sse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::http::feed::{self, AT_ONCE, Unread};
use crate::api::http::{Page, Params, Problem, Refused, Viewer};
use crate::api::view::Time;
use crate::fleet::State as FleetState;
use crate::fleet::record::Event;
use crate::words::counted;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(events))
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
    Viewer(caller): Viewer,
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
    if !feed::accepts(&headers, "text/event-stream") {
        let from = begin.unwrap_or(0);
        let page: Page<EventView> = Page::take(state.events.after(&from), limit, |e| e.seq.to_string(), Into::into);
        return Ok(Json(page).into_response());
    }
    let after = feed::last_event_id(&headers).or(begin).unwrap_or(newest);
    Ok(feed::live(&api.fleet, caller, after, |state, after| {
        let events = unread(&state, after);
        let seen = events.last().map_or(after, |event| event.seq);
        let unread = Unread { events: events.iter().map(sse_event).collect(), seen };
        Box::pin(std::future::ready(Some(unread)))
    }))
}

/// At most 100 events after `after`, with a word where some were forgotten.
fn unread(state: &FleetState, after: u64) -> Vec<EventView> {
    let mut unread: Vec<EventView> = state.events.after(&after).take(AT_ONCE).map(Into::into).collect();
    if let Some(first) = unread.first()
        && first.seq > after + 1
    {
        let count = first.seq - after - 1;
        let gap = EventView {
            seq: first.seq - 1,
            at: first.at,
            kind: "feed.gap".into(),
            subject: String::new(),
            text: format!("forgotten before they were read: {}", counted(count as usize, "event")),
        };
        unread.insert(0, gap);
    }
    unread
}

fn sse_event(event: &EventView) -> sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.seq.to_string()).event(&event.kind).data(data)
}
