//! The change feed.

use std::time::Duration;

use axum::http::Method;
use futures_util::StreamExt;
use serde_json::json;

use crate::lab::Lab;

/// Reads from a live feed until it has said `text`.
pub async fn read_until(response: axum::response::Response, text: &str) -> String {
    let mut stream = response.into_body().into_data_stream();
    let mut read = String::new();
    let all = async {
        while !read.contains(text) {
            let part = stream.next().await.expect("a live feed does not end").expect("readable");
            read.push_str(&String::from_utf8_lossy(&part));
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap_or_else(|_| panic!("no {text:?} came"));
    read
}

#[tokio::test]
async fn a_live_feed_tells_what_happens_from_now_on() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    let feed = lab.ask(Method::GET, "/events").header("accept", "text/event-stream").open().await;
    assert_eq!(feed.headers()["content-type"], "text/event-stream");
    lab.post(format!("/machines/{id}/approve"), json!({})).await.succeeds();
    let read = read_until(feed, "machine.approved").await;
    assert!(!read.contains("machine.pending"), "{read}");
    assert!(read.contains("event: machine.approved\n") && read.contains(&format!("\"subject\":\"{id}\"")), "{read}");
}

#[tokio::test]
async fn a_feed_goes_on_where_it_was_left() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await;
    lab.post(format!("/machines/{id}/approve"), json!({})).await.succeeds();
    lab.post(format!("/machines/{id}/retire"), json!({})).await.succeeds();
    let page = lab.get("/events?limit=1").await.succeeds();
    assert_eq!(page.text("/items/0/kind"), "machine.pending");
    let next = page.text("/next");
    let rest = lab.get(format!("/events?cursor={next}")).await.succeeds();
    assert_eq!(rest.text("/items/0/kind"), "machine.approved");

    for ask in [
        lab.ask(Method::GET, "/events").header("last-event-id", next),
        lab.ask(Method::GET, format!("/events?cursor={next}")),
    ] {
        let feed = ask.header("accept", "text/event-stream").open().await;
        let read = read_until(feed, "machine.retired").await;
        assert!(read.contains("machine.approved") && !read.contains("machine.pending"), "{read}");
    }
    assert_eq!(lab.get("/events?last=1").await.succeeds().text("/items/0/kind"), "machine.retired");
}
