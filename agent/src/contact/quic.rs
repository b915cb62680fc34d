//! QUIC as the agent uses it: one connection, small windows, one stream per request, frames on streams.
//!
//! Used by `dial` (connecting) and `talk` (frames). It knows bytes and limits, not what messages mean.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::frame::{self, FrameError, HEADER, Message};
use muster_protocol::{CONTROLLER_NAME, close};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    IdleTimeout, ReadExactError, RecvStream, SendStream, TokioRuntime, TransportConfig, VarInt,
};
use tokio::time::timeout;

use crate::linux::text::clean_bytes;
use crate::random;

/// Shorter than what home routers and firewalls forget UDP flows after, and what bounds noticing a dead peer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A controller shows a dead machine as offline within 30 s.
const IDLE: Duration = Duration::from_secs(20);
/// For a handshake, retransmissions included.
const HANDSHAKE: Duration = Duration::from_secs(8);
/// For one whole request and its answer.
pub const EXCHANGE: Duration = Duration::from_secs(20);

/// Bytes that the controller may send before they are read.
const WINDOW: u32 = 64 * 1024;
/// The same of a file that is fetched, beside all else: no more than this comes in the time of a round trip.
const FETCHING: u32 = 256 * 1024;

/// A connection whose window is wide, until this is dropped.
pub struct Wide<'c>(&'c Connection);

/// Lets a file come as fast as the way carries it. Whatever else the controller says has its own room: a file may have to wait
/// for a disk.
pub fn widen(connection: &Connection) -> Wide<'_> {
    connection.set_receive_window(VarInt::from_u32(WINDOW + FETCHING));
    Wide(connection)
}

impl Drop for Wide<'_> {
    fn drop(&mut self) {
        self.0.set_receive_window(VarInt::from_u32(WINDOW));
    }
}

/// Why bytes did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// Nobody answered.
    #[error("no answer from {0} within {t} s", t = HANDSHAKE.as_secs())]
    Silent(SocketAddr),
    /// Whoever answered is not the controller that this machine was told to trust.
    #[error(
        "what answers at {0} does not hold the CA that this machine was told to trust; \
         boot it with a medium or script made by this controller, or correct the address"
    )]
    ForeignCa(SocketAddr),
    /// The controller's certificate is not good at the time that it is here.
    #[error(
        "the certificate of {0} is not good at the time that it is on this machine: set the clock of whichever is wrong"
    )]
    WrongTime(SocketAddr),
    /// The connection failed or ended.
    #[error("the connection to the controller ended: {0}")]
    Connection(#[from] ConnectionError),
    /// The stream ended in the middle of a frame, or was reset.
    #[error("the controller ended a stream in the middle of a message")]
    Stream,
    /// The peer does not speak the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A request was not answered.
    #[error("the controller did not answer a request within {t} s", t = EXCHANGE.as_secs())]
    Late,
    /// No socket, or a TLS configuration that cannot be used.
    #[error("could not open a connection: {0}")]
    Local(String),
}

/// Connects to one address over this socket, which is nobody else's.
pub async fn connect(
    address: SocketAddr,
    socket: UdpSocket,
    tls: rustls::ClientConfig,
) -> Result<Connection, QuicError> {
    let local = |error: &dyn std::fmt::Display| QuicError::Local(error.to_string());
    let mut endpoint_config = EndpointConfig::default();
    // Random ids make a restarted controller's stateless resets certain; hashed ones collide now and then.
    endpoint_config.cid_generator(|| Box::new(RandomIds));
    // What one receive buffer is a multiple of.
    endpoint_config.max_udp_payload_size(1472).map_err(|e| local(&e))?;
    let endpoint = Endpoint::new(endpoint_config, None, socket, Arc::new(TokioRuntime)).map_err(|e| local(&e))?;
    let tls = QuicClientConfig::try_from(tls).map_err(|e| local(&e))?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    let connecting = endpoint.connect_with(config, address, CONTROLLER_NAME).map_err(|e| local(&e))?;
    match timeout(HANDSHAKE, connecting).await {
        Err(_) | Ok(Err(ConnectionError::TimedOut)) => Err(QuicError::Silent(address)),
        Ok(Err(error)) => Err(match our_alert(&error) {
            Some(UNKNOWN_CA) => QuicError::ForeignCa(address),
            Some(CERTIFICATE_EXPIRED) => QuicError::WrongTime(address),
            _ => error.into(),
        }),
        Ok(Ok(connected)) => Ok(connected),
    }
}

/// Eight random bytes each.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&random::bytes::<8>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        // What a stream may take; all of them together may not take more than the connection.
        .stream_receive_window(VarInt::from_u32(FETCHING))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(64 * 1024)
        .crypto_buffer_size(16 * 1024)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    transport
}

const UNKNOWN_CA: u64 = 48;
/// Or not begun.
const CERTIFICATE_EXPIRED: u64 = 45;

/// The alert of TLS with which our own verifier ended a handshake (RFC 8446, section 6.2): QUIC carries it as an error of
/// 0x100 and the alert's number (RFC 9001, section 4.8).
fn our_alert(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::TransportError(error) => u64::from(error.code).checked_sub(0x100),
        _ => None,
    }
}

/// Where the controller ended a connection because of the certificate that the agent showed: what it says of it, for
/// people.
pub fn why_our_certificate_is_refused(error: &ConnectionError) -> Option<String> {
    let said = match error {
        ConnectionError::ApplicationClosed(closed) if closed.error_code == VarInt::from_u32(close::UNAUTHORIZED) => {
            clean_bytes(&closed.reason)
        }
        // bad_certificate (42) to certificate_unknown (46), unknown_ca, access_denied; certificate_required.
        ConnectionError::ConnectionClosed(closed)
            if matches!(u64::from(closed.error_code).checked_sub(0x100), Some(42..=46 | 48 | 49 | 116)) =>
        {
            String::new()
        }
        _ => return None,
    };
    Some(if said.is_empty() { "boot the machine again to get a new one".to_owned() } else { said })
}

/// Asks one thing over a stream of its own.
pub async fn ask<Q: Message, A: Message>(connection: &Connection, question: &Q) -> Result<A, QuicError> {
    let exchange = async {
        let (mut send, mut receive) = connection.open_bi().await?;
        write(&mut send, question).await?;
        let answer = read(&mut receive).await?;
        Ok(answer)
    };
    timeout(EXCHANGE, exchange).await.unwrap_or(Err(QuicError::Late))
}

/// Sends a message, and that no more will follow.
pub async fn write<M: Message>(send: &mut SendStream, message: &M) -> Result<(), QuicError> {
    let bytes = frame::encode(message)?;
    send.write_all(&bytes).await.map_err(|_| QuicError::Stream)?;
    send.finish().map_err(|_| QuicError::Stream)
}

/// Reads the one message of a stream. Its announced length is judged before anything is allocated for it, and what
/// follows it is an error.
pub async fn read<M: Message>(receive: &mut RecvStream) -> Result<M, QuicError> {
    let message = read_first(receive).await?;
    match receive.read(&mut [0; 1]).await {
        Ok(None) => Ok(message),
        Ok(Some(count)) => Err(FrameError::Leftover { count }.into()),
        Err(_) => Err(QuicError::Stream),
    }
}

/// The same of a stream on which more follows the message.
pub async fn read_first<M: Message>(receive: &mut RecvStream) -> Result<M, QuicError> {
    let mut header = [0; HEADER];
    exactly(receive, &mut header).await?;
    let mut value = vec![0; frame::length::<M>(header)?];
    exactly(receive, &mut value).await?;
    Ok(frame::decode(&value)?)
}

async fn exactly(receive: &mut RecvStream, bytes: &mut [u8]) -> Result<(), QuicError> {
    receive.read_exact(bytes).await.map_err(|error| match error {
        ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error)) => error.into(),
        ReadExactError::ReadError(_) | ReadExactError::FinishedEarly(_) => QuicError::Stream,
    })
}

/// Ends a connection with one of [`close`]'s codes.
pub fn end(connection: &Connection, code: u32, reason: &str) {
    connection.close(VarInt::from_u32(code), reason.as_bytes());
}
