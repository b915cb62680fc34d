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
use rustls::ServerConfig;
use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, ECDSA_NISTP384_SHA384, ECDSA_NISTP521_SHA512};
use rustls::server::{Acceptor, ResolvesServerCert};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::idle::Idle;
use crate::boot::LocalAddress;
use crate::metrics::{Door, Metrics, Reason};
use crate::pki::{self, ForBooting, OwnCertificate, PublicCertificate};
use crate::sessions::places::Places;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// From the first byte of a request's head to its end, and between two requests of a connection.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Connections at once, for each listener; for HTTPS as many again of machines that start.
pub const CONNECTIONS: usize = 1024;

/// How long requests that are under way may take when the controller stops.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// After a failed accept: out of files, most likely, and then it fails again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are opened.
#[derive(Clone)]
pub enum Transport {
    /// As they come, from machines that start.
    Plain,
    /// With TLS.
    Tls(Arc<Tls>),
}

/// TLS, for two kinds of clients that are told apart by how they begin: iPXE knows RSA alone. Machines that start are shown a
/// certificate by the boot CA, and served by a router of their own.
pub struct Tls {
    own: Arc<OwnCertificate>,
    operators: Arc<ServerConfig>,
    starting: Arc<ServerConfig>,
    starts: Router,
}

impl Tls {
    /// TLS 1.2 and 1.3 with the controller's certificate, or the public one; `starts` is what machines that start are served.
    pub fn new(own: Arc<OwnCertificate>, public: PublicCertificate, starts: Router) -> Result<Self, rustls::Error> {
        let config = |versions: &[_], resolver: Arc<dyn ResolvesServerCert>| -> Result<_, rustls::Error> {
            let config = ServerConfig::builder_with_provider(pki::provider()).with_protocol_versions(versions)?;
            Ok(config.with_no_client_auth().with_cert_resolver(resolver))
        };
        let mut operators = config(&[&TLS13, &TLS12], Arc::new(public))?;
        operators.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let starting = config(&[&TLS12], Arc::new(ForBooting(own.clone())))?;
        Ok(Self { own, operators: operators.into(), starting: starting.into(), starts })
    }

    /// A connection, and whether it is a machine's that starts.
    async fn open(&self, stream: TcpStream, local: IpAddr) -> std::io::Result<(TlsStream<TcpStream>, bool)> {
        self.own.cover(local);
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let is_elliptic =
            |scheme| matches!(scheme, &ECDSA_NISTP256_SHA256 | &ECDSA_NISTP384_SHA384 | &ECDSA_NISTP521_SHA512);
        let starts = !begun.client_hello().signature_schemes().iter().any(is_elliptic);
        let config = if starts { &self.starting } else { &self.operators };
        Ok((begun.into_stream(config.clone()).await?, starts))
    }
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
                Transport::Plain => converse(stream, peer, local, router, Speaks::Http1, watcher).await,
                Transport::Tls(tls) => match timeout(HANDSHAKE_WITHIN, tls.open(stream, local)).await {
                    Ok(Ok((stream, false))) => converse(stream, peer, local, router, Speaks::Any, watcher).await,
                    Ok(Ok((stream, true))) => match starts.take(source) {
                        Some(its_own) => {
                            place = its_own;
                            converse(stream, peer, local, tls.starts.clone(), Speaks::Http1, watcher).await;
                        }
                        None => metrics.refused(Door::Boot, Reason::TooMany),
                    },
                    Ok(Err(_)) => metrics.refused(door, Reason::HandshakeFailed),
                    Err(_) => metrics.refused(door, Reason::HandshakeTimeout),
                },
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

/// What a connection may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Any,
    /// One request at a time: what machines load is large, and nobody needs more than one of it.
    Http1,
}

type Watcher = hyper_util::server::graceful::Watcher;

async fn converse<S>(stream: S, peer: SocketAddr, local: IpAddr, router: Router, speaks: Speaks, watcher: Watcher)
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
    if speaks == Speaks::Http1 {
        builder = builder.http1_only();
    }
    let connection = builder.serve_connection(TokioIo::new(Idle::new(stream)), service).into_owned();
    // A peer that breaks off is no news.
    let _ = watcher.watch(connection).await;
}
