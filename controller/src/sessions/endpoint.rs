//! The agents' UDP port: one QUIC endpoint, two protocols, told apart by their ALPN.
//!
//! `muster/1` needs a certificate of our CA, `muster-enroll/1` cannot have one yet, so TLS asks for a certificate and
//! does without; whether it is needed is decided here, right after the handshake.
//! The transport is tuned for a control channel: few streams and small windows (DESIGN: a peer holds at most 256 KiB);
//! the one that is sent is widened while a machine fetches a file, see `files`.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::{ALPN_ENROLL, ALPN_SESSION, close};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Connection, ConnectionError, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use rustls::server::ResolvesServerCert;

use super::places::{Lost, Place};
use super::stream::shut;
use super::{Sessions, UNPROVED};
use crate::metrics::{Door, Reason};
use crate::pki::{self, AgentCertificate, AgentVerifier, Pki};

/// A handshake that takes longer is given up.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Silence after which a peer is taken for dead, so that a dead machine is offline within 30 s.
///
/// Agents keep sessions alive, every 10 s; the controller must not: the first packet that is sent into a silence starts the
/// silence anew (RFC 9000, section 10.1), and a keep-alive of our own would let a dead machine look alive for longer.
/// A call that is sent into it does the same, and so has [`SILENT`](super::registry) of its own.
const IDLE: Duration = Duration::from_secs(20);

/// Bytes that a peer may send on all its streams together before they are read.
pub const WINDOW: u32 = 32 * 1024;

/// Bytes that are kept for a peer until it has acknowledged them.
pub const SEND_WINDOW: u64 = 32 * 1024;

/// Why the agents' port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// TLS cannot be set up.
    #[error("cannot set up TLS for agents")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The socket cannot be used.
    #[error("cannot use the agents' socket")]
    Socket(#[from] std::io::Error),
}

/// Opens the endpoint on a bound socket.
pub fn open(pki: &Arc<Pki>, own: Arc<dyn ResolvesServerCert>, socket: UdpSocket) -> Result<Endpoint, ListenError> {
    let tls = tls(pki.clone(), own).map_err(ListenError::Tls)?;
    let tls = QuicServerConfig::try_from(tls).map_err(|e| ListenError::Tls(e.into()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(Arc::new(transport()));
    server.max_incoming(4096).incoming_buffer_size(16 * 1024).incoming_buffer_size_total(16 * 1024 * 1024);
    // Agents dial rarely, and a token would be one more thing to keep for each of them.
    server.validation_token_config(quinn::ValidationTokenConfig::default().sent(0).clone());

    // All three make an agent notice within one keep-alive that its controller was killed (reference measurement: 7 s
    // for 10,000 agents, against the idle timeout): a reset key that survives, no pause between resets, and random
    // connection ids, since hashed ones of the dead process collide with new ones.
    let mut endpoint = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, pki.reset_key())));
    endpoint.min_reset_interval(Duration::ZERO).cid_generator(|| Box::new(RandomIds));
    socket.set_nonblocking(true)?;
    Ok(Endpoint::new(endpoint, Some(server), socket, Arc::new(TokioRuntime))?)
}

fn tls(
    pki: Arc<Pki>,
    own: Arc<dyn ResolvesServerCert>,
) -> Result<rustls::ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = pki::provider();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AgentVerifier::new(pki)))
        .with_cert_resolver(own);
    tls.alpn_protocols = vec![ALPN_SESSION.to_vec(), ALPN_ENROLL.to_vec()];
    // A resumed handshake would not look at the certificate again.
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(tls)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(16 * 1024))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(16 * 1024)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE.as_millis() as u32).into()));
    transport
}

/// Random connection ids of eight bytes.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; 8];
        getrandom::fill(&mut id).expect("the kernel's random source does not fail");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Takes connections until the endpoint is closed.
pub async fn accept(sessions: Sessions, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let places = &sessions.0.handshakes;
        let count = |reason| sessions.0.metrics.refused(Door::Agents, reason);
        // Before anything is kept of it: who claims another's address never hears of this, and costs no memory. Retry
        // first, so that what is counted for a source from here on is its own.
        if places.count() >= UNPROVED && incoming.may_retry() {
            count(Reason::Retry);
            drop(incoming.retry());
            continue;
        }
        match places.make(incoming.remote_address().ip()) {
            Some(place) => drop(tokio::spawn(greet(sessions.clone(), incoming, place))),
            None => {
                count(Reason::TooMany);
                incoming.refuse();
            }
        }
    }
}

/// The handshake, and the decision who this is.
async fn greet(sessions: Sessions, incoming: Incoming, place: Place) {
    let refused = |reason| sessions.0.metrics.refused(Door::Agents, reason);
    // Dropped while it waits, the handshake is over for the peer as well.
    let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, incoming.into_future());
    let connection = match place.hold(handshake).await {
        Ok(Ok(Ok(connection))) => connection,
        Ok(Ok(Err(error))) => return refused(refusal(&error)),
        Ok(Err(_)) => return refused(Reason::HandshakeTimeout),
        Err(Lost) => return refused(Reason::TooMany),
    };
    match alpn(&connection).as_deref() {
        Some(ALPN_ENROLL) => super::enroll::serve(&sessions, &connection, place).await,
        Some(ALPN_SESSION) => match certificate(&connection) {
            Some(certificate) => super::session::serve(&sessions, connection, certificate, place).await,
            None => {
                refused(Reason::NoCertificate);
                shut(&connection, close::UNAUTHORIZED, "a session needs a certificate of this controller's CA");
            }
        },
        _ => {
            refused(Reason::WrongAlpn);
            shut(&connection, close::PROTOCOL, "unknown protocol");
        }
    }
}

/// Why a handshake failed. TLS says it with an alert, which QUIC carries as 0x100 plus its number (RFC 9001, section 4.8).
fn refusal(error: &ConnectionError) -> Reason {
    let ConnectionError::TransportError(error) = error else {
        return match error {
            ConnectionError::VersionMismatch => Reason::Version,
            ConnectionError::TimedOut => Reason::HandshakeTimeout,
            _ => Reason::HandshakeFailed,
        };
    };
    // The numbers are those of RFC 8446, section 6.
    match u64::from(error.code).checked_sub(0x100) {
        Some(120) => Reason::WrongAlpn,
        Some(116) => Reason::NoCertificate,
        Some(48) => Reason::UnknownCa,
        Some(45) => Reason::CertificateExpired,
        Some(42..=44 | 46 | 51) => Reason::BadCertificate,
        _ => Reason::HandshakeFailed,
    }
}

fn alpn(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// The peer's certificate, which TLS has verified: ours, in its time, and for clients.
fn certificate(connection: &Connection) -> Option<AgentCertificate> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    AgentCertificate::read(chain.first()?)
}
