//! Requests are heard to their end before they are answered, whatever the answer is.
//!
//! A refusal may be clear from the head alone. Where it goes out while the body is still on its way, the connection ends
//! under whoever is sending, who then hears of a broken connection and not of the refusal; and whoever has sent all of it
//! may send the next request into a connection that is about to end.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

use crate::api::http::body::BODY_LIMIT;

/// How long what is left of a body is waited for.
const WITHIN: Duration = Duration::from_secs(5);

/// A layer: what the routes did not read of a request is read and thrown away, as far as a body may go.
pub async fn hear(request: Request, next: Next) -> Response {
    // Whoever asks first whether to send is told by the answer that there is no need to.
    if request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let mut rest = Shared(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(head, Body::new(rest.clone()))).await;
    let hear_out = async {
        let mut length = 0;
        while let Some(Ok(frame)) = rest.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > BODY_LIMIT {
                break;
            }
        }
    };
    // What takes longer is answered all the same.
    let _ = timeout(WITHIN, hear_out).await;
    response
}

/// A body that can be read on where somebody else has stopped.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn;
    use axum::routing::any;
    use futures_util::StreamExt;
    use tower::ServiceExt;

    use super::*;

    /// Sends a body in pieces of this size; answers with the status, and how many of them were heard.
    async fn send(path: &str, pieces: usize, bytes: usize, header: &str) -> (StatusCode, usize) {
        let heard = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&heard);
        let body = futures_util::stream::iter(0..pieces).then(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::task::yield_now().await;
                Ok::<_, std::io::Error>(vec![b' '; bytes])
            }
        });
        let read = async |body: Bytes| format!("{}", body.len());
        let router = Router::new()
            .route("/refused", any(async || StatusCode::UNAUTHORIZED))
            .route("/read", any(read))
            .layer(from_fn(hear));
        let request = Request::post(path).header(header, "100-continue").body(Body::from_stream(body)).expect("sound");
        let status = router.oneshot(request).await.expect("it answers").status();
        (status, heard.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_request_that_is_refused_by_its_head_is_heard_to_its_end() {
        assert_eq!(send("/refused", 4, 100, "x-other").await, (StatusCode::UNAUTHORIZED, 4));
        assert_eq!(send("/read", 4, 100, "x-other").await, (StatusCode::OK, 4));
        assert_eq!(send("/nothing", 4, 100, "x-other").await, (StatusCode::NOT_FOUND, 4));
    }

    #[tokio::test]
    async fn not_more_is_heard_than_a_body_may_have_and_nothing_where_the_sender_waits_to_be_told() {
        let (status, heard) = send("/refused", 64, 64 << 10, "x-other").await;
        assert_eq!((status, heard), (StatusCode::UNAUTHORIZED, BODY_LIMIT / (64 << 10) + 1));
        assert_eq!(send("/refused", 4, 100, "expect").await, (StatusCode::UNAUTHORIZED, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_not_waited_for() {
        let router = Router::new().route("/", any(async || StatusCode::UNAUTHORIZED)).layer(from_fn(hear));
        let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let request = Request::post("/").body(Body::from_stream(never)).expect("sound");
        assert_eq!(router.oneshot(request).await.expect("it answers").status(), StatusCode::UNAUTHORIZED);
    }
}
