//! Live feeds: server-sent events that go on until the caller leaves, or may not read any more.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::watch;

use super::caller::{Caller, Holder};
use crate::clock::now_unix_ms;
use crate::fleet::{Fleet, State};

/// A silent feed says so often that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Of a token's lifetime, the most that is slept through at once.
const SLEEP: Duration = Duration::from_secs(3600);

/// How many records are looked at before what was found is sent.
pub const AT_ONCE: usize = 100;

/// What came after a number.
pub struct Unread {
    /// To be sent, in order.
    pub events: Vec<Event>,
    /// The number of the last record that was looked at.
    pub seen: u64,
}

/// Whether the request accepts an answer of this media type, by its own word.
pub fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default().contains(kind)
}

/// Where a feed that broke off was.
pub fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok())
}

/// Everything that `unread` finds after the record `after`, now and with every change of the fleet.
///
/// Ends within a moment where the caller's token is revoked or ends, and where `unread` finds that it cannot read.
pub fn live<F>(fleet: &Fleet, caller: Caller, after: u64, unread: F) -> Response
where
    F: Fn(Arc<State>, u64) -> BoxFuture<'static, Option<Unread>> + Send + 'static,
{
    let begin = Feed { news: fleet.watch(), holder: caller.holder, after, waiting: VecDeque::new(), unread };
    let events = stream::unfold(begin, |mut feed| async move {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

struct Feed<F> {
    news: watch::Receiver<Arc<State>>,
    holder: Holder,
    after: u64,
    waiting: VecDeque<Event>,
    unread: F,
}

impl<F: Fn(Arc<State>, u64) -> BoxFuture<'static, Option<Unread>>> Feed<F> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            let (state, now) = (self.news.borrow_and_update().clone(), now_unix_ms());
            if !self.holder.is_good(&state, now) {
                return None;
            }
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            let Unread { events, seen } = (self.unread)(state, self.after).await?;
            if seen > self.after {
                self.after = seen;
                self.waiting.extend(events);
                continue;
            }
            let left = self.holder.left_ms(now).map_or(SLEEP, Duration::from_millis).min(SLEEP);
            // Both arms are cancel-safe. The first fails where the writer has ended, and the process with it.
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}
