//! Serving HTTP: TLS where there is any, limits, and an orderly end. What is served is the routers' business.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::idle::Idle;
use crate::boot::LocalAddress;
use crate::metrics::{Door, Metrics, Reason};
use crate::pki::{self, OwnCertificate};
use crate::sessions::places::Places;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// From the first byte of a request's head to its end, and between two requests of a connection.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Connections at once, for each listener; for HTTPS as many again of machines that boot.
pub const CONNECTIONS: usize = 1024;

/// How long requests that are under way may take when the controller stops.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// After a failed accept: out of files, most likely, and then it fails again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// TLS 1.2 and 1.3 with the controller's certificate.
pub fn tls(own: Arc<OwnCertificate>) -> Result<TlsAcceptor, rustls::Error> {
    let mut tls = rustls::ServerConfig::builder_with_provider(pki::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(own);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// How connections are opened.
#[derive(Clone)]
pub enum Transport {
    /// As they come.
    Plain,
    /// With TLS, and a certificate that covers the address that they came by.
    Tls(TlsAcceptor, Arc<OwnCertificate>),
}

/// Serves so many connections at once until `stop` says so, and then what is under way.
pub async fn serve(
    listener: TcpListener,
    transport: Transport,
    router: Router,
    metrics: Metrics,
    connections: usize,
    mut stop: watch::Receiver<bool>,
) {
    let door = match transport {
        Transport::Plain => Door::Boot,
        Transport::Tls(..) => Door::Api,
    };
    // A site whose machines all start at once leaves operators their places.
    let (places, starts) = (Places::new(connections), Places::new(connections));
    let graceful = GracefulShutdown::new();
    let (cut, is_cut) = watch::channel(false);
    loop {
        // Both arms are cancel-safe: a connection that was not taken is still in the backlog.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Beyond the limit the connection is dropped: a peer who tries again is better than one who holds a place.
        let source = peer.ip().to_canonical();
        let Some(mut place) = places.take(source) else {
            metrics.refused(door, Reason::TooMany);
            continue;
        };
        let (transport, router, watcher) = (transport.clone(), router.clone(), graceful.watcher());
        let (mut is_cut, metrics, starts) = (is_cut.clone(), metrics.clone(), starts.clone());
        let conversation = async move {
            let Ok(local) = stream.local_addr() else { return };
            let local = local.ip().to_canonical();
            match transport {
                Transport::Plain => converse(stream, peer, local, router, watcher).await,
                Transport::Tls(tls, own) => {
                    own.cover(local);
                    match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            if is_starting(&stream) {
                                match starts.take(source) {
                                    Some(its_own) => place = its_own,
                                    None => return metrics.refused(door, Reason::TooMany),
                                }
                            }
                            converse(stream, peer, local, router, watcher).await;
                        }
                        Ok(Err(_)) => metrics.refused(door, Reason::HandshakeFailed),
                        Err(_) => metrics.refused(door, Reason::HandshakeTimeout),
                    }
                }
            }
            drop(place);
        };
        tokio::spawn(async move {
            // What is cut is dropped where it stands; its peer sees the connection end.
            tokio::select! {
                () = conversation => {}
                _ = is_cut.wait_for(|cut| *cut) => {}
            }
        });
    }
    drop(listener);
    // Those who follow a feed would stay for ever.
    if timeout(STOP_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::info!("some requests were cut off by the end of the controller");
    }
    cut.send_replace(true);
}

/// Whether it is a machine's iPXE: nobody else makes do with the certificate for those who know RSA alone.
fn is_starting<S>(stream: &TlsStream<S>) -> bool {
    use rustls::CipherSuite::{TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384};
    let suite = stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite());
    matches!(suite, Some(TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 | TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384))
}

type Watcher = hyper_util::server::graceful::Watcher;

async fn converse<S>(stream: S, peer: SocketAddr, local: IpAddr, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.ip().to_canonical(), peer.port())));
        request.extensions_mut().insert(LocalAddress(local));
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(32)
        .max_header_list_size(32 * 1024)
        .initial_connection_window_size(256 * 1024)
        .initial_stream_window_size(64 * 1024)
        .keep_alive_interval(HEAD_WITHIN);
    let connection = builder.serve_connection(TokioIo::new(Idle::new(stream)), service).into_owned();
    // A peer that breaks off is no news.
    let _ = watcher.watch(connection).await;
}
