//! Somebody who begins a handshake and never goes on: QUIC without a runtime, so that thousands cost a test nothing.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::BytesMut;
use muster_protocol::{ALPN_ENROLL, CONTROLLER_NAME};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Connection, DatagramEvent, Endpoint, EndpointConfig};

use crate::peer;

/// A controller answers a first packet at once, or not at all.
const ANSWER: Duration = Duration::from_secs(2);

/// How strangers begin: clones are cheap.
#[derive(Clone)]
pub struct Beginning {
    controller: SocketAddr,
    config: ClientConfig,
}

/// A handshake that was begun.
pub struct Stalled {
    socket: UdpSocket,
    endpoint: Endpoint,
    connection: Connection,
}

/// What a controller answers to a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Its part of the handshake, or a refusal.
    Handshake,
    /// That the address is to be proved first (RFC 9000, section 8.1.2).
    Retry,
    /// Nothing.
    Nothing,
}

impl Beginning {
    /// Of enrollments, for which nobody needs a certificate.
    pub fn new(controller: SocketAddr, ca_pem: &[u8]) -> Result<Self> {
        let crypto = QuicClientConfig::try_from(peer::tls(ca_pem, ALPN_ENROLL, None)?)?;
        Ok(Self { controller, config: ClientConfig::new(Arc::new(crypto)) })
    }

    /// Sends the first packet from `source`, an address of the loopback, and a port of its own.
    pub fn begin(&self, source: Ipv4Addr) -> Result<Stalled> {
        let socket = UdpSocket::bind((source, 0))?;
        socket.connect(self.controller)?;
        socket.set_read_timeout(Some(ANSWER))?;
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let (_, connection) =
            endpoint.connect(Instant::now(), self.config.clone(), self.controller, CONTROLLER_NAME)?;
        let mut stalled = Stalled { socket, endpoint, connection };
        stalled.send()?;
        Ok(stalled)
    }
}

impl Stalled {
    /// Waits for the answer to the first packet, and does nothing about it: as one who claims another's address.
    pub fn hear(&self) -> Result<Heard> {
        Ok(self.receive()?.map_or(Heard::Nothing, |datagram| kind(&datagram)))
    }

    /// The same, and proves its address where it is asked to; the answer is the one to that.
    pub fn prove(&mut self) -> Result<Heard> {
        let Some(datagram) = self.receive()? else { return Ok(Heard::Nothing) };
        if kind(&datagram) != Heard::Retry {
            return Ok(kind(&datagram));
        }
        let remote = self.socket.peer_addr()?;
        let data = BytesMut::from(&datagram[..]);
        match self.endpoint.handle(Instant::now(), remote, None, None, data, &mut Vec::new()) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => self.connection.handle_event(event),
            _ => anyhow::bail!("a Retry that is not for this connection"),
        }
        self.send()?;
        self.hear()
    }

    fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut datagram = vec![0; 2048];
        match self.socket.recv(&mut datagram) {
            Ok(length) => {
                datagram.truncate(length);
                Ok(Some(datagram))
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn send(&mut self) -> Result<()> {
        let mut datagram = Vec::new();
        let transmit =
            self.connection.poll_transmit(Instant::now(), 1, &mut datagram).context("there is one to send")?;
        self.socket.send(&datagram[..transmit.size])?;
        Ok(())
    }
}

/// By the type of its long header: RFC 9000, section 17.2.
fn kind(datagram: &[u8]) -> Heard {
    match datagram.first().map(|byte| byte & 0b1111_0000) {
        Some(0b1111_0000) => Heard::Retry,
        _ => Heard::Handshake,
    }
}
