//! The bare servers: an axum handler with nothing behind it, and one with nothing but a disk behind it. Both are served by
//! the code that serves the controller's HTTPS, TLS included.
//!
//! | path | what it answers |
//! | --- | --- |
//! | `/empty/N` | N bytes |
//! | `/durable/N/M` | N bytes, once M bytes are on the disk: whoever waits shares one fdatasync |

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path as In, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::any;
use bytes::Bytes;
use muster_controller::metrics::Metrics;
use muster_controller::pki::{OwnCertificate, Pki, PublicCertificate};
use muster_controller::server::http;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use super::disk;

/// The longest answer.
const MOST: usize = 1 << 20;

/// Serves until the process ends, with a CA of its own in `folder`.
pub fn serve(folder: &Path, address: SocketAddr) -> Result<()> {
    let pki = Arc::new(Pki::open(folder)?);
    let own = Arc::new(OwnCertificate::new(pki, &[], Box::new(|| Arc::new(BTreeSet::new())))?);
    let public = PublicCertificate::open(own.clone(), None)?;
    let tls = http::Transport::Tls(Arc::new(http::Tls::new(own, public, Router::new())?));
    let router = Router::new().route("/empty/{size}", any(empty)).with_state(Bytes::from(vec![b' '; MOST]));
    let router = router.merge(
        Router::new()
            .route("/durable/{size}/{bytes}", any(durable))
            .with_state((Bytes::from(vec![b' '; MOST]), writer(folder)?)),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        // Nobody says so: the process is ended.
        let (_stop, stopped) = watch::channel(false);
        http::serve(listener, tls, router, Metrics::default(), http::CONNECTIONS, stopped).await;
        Ok(())
    })
}

async fn empty(State(body): State<Bytes>, In(size): In<usize>) -> impl IntoResponse {
    answer(&body, size)
}

fn answer(body: &Bytes, size: usize) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body.slice(..size.min(MOST)))
}

/// So many bytes, and whom to tell that they are durable.
type Record = (usize, oneshot::Sender<()>);

async fn durable(
    State((body, records)): State<(Bytes, mpsc::Sender<Record>)>,
    In((size, bytes)): In<(usize, usize)>,
) -> Result<impl IntoResponse, StatusCode> {
    let (done, is_done) = oneshot::channel();
    records.send((bytes.min(MOST), done)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    is_done.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(answer(&body, size))
}

/// One thread that writes what waits, makes all of it durable at once, and says so.
fn writer(folder: &Path) -> Result<mpsc::Sender<Record>> {
    let (records, waiting) = mpsc::channel::<Record>();
    let mut file = disk::create(&folder.join("durable"))?;
    std::thread::spawn(move || {
        while let Ok(first) = waiting.recv() {
            let all: Vec<Record> = std::iter::once(first).chain(waiting.try_iter()).collect();
            let bytes = vec![0x5a; all.iter().map(|(bytes, _)| bytes).sum()];
            if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
                eprintln!("cannot write: {error}");
                return;
            }
            for (_, done) in all {
                // A client may have gone away.
                let _ = done.send(());
            }
        }
    });
    Ok(records)
}
