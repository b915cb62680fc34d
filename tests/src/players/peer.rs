//! Somebody on the agents' port who says whatever a test wants said: real QUIC, any ALPN, any bytes.
//!
//! It knows the controller's CA, as anyone who saw a boot script does, and holds no certificate.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use muster_protocol::CONTROLLER_NAME;
use muster_protocol::frame::{self, Message};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Runtime;

/// Longer than any answer takes, and shorter than any patience.
const DEADLINE: Duration = Duration::from_secs(10);

/// See the module. Blocks: a hostile peer of a test has nothing else to do.
pub struct Peer {
    runtime: Runtime,
    connection: Connection,
    // Dropped last: it closes what is still open.
    _endpoint: Endpoint,
}

impl Peer {
    /// Connects to the agents' port.
    ///
    /// Errors: the handshake fails, with the reason that the controller gives.
    pub fn connect(controller: SocketAddr, ca_pem: &[u8], alpn: &[u8]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
            let connecting = endpoint.connect_with(config, controller, CONTROLLER_NAME)?;
            let connection = tokio::time::timeout(DEADLINE, connecting).await.context("no handshake")??;
            anyhow::Ok((endpoint, connection))
        })?;
        Ok(Self { runtime, connection, _endpoint: endpoint })
    }

    /// Sends `bytes` on a stream of their own and answers with all that comes back on it.
    ///
    /// Errors: the stream or the connection was closed, with the controller's code and reason.
    pub fn say(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.runtime.block_on(async {
            let talk = async {
                let (mut send, mut receive) = self.connection.open_bi().await?;
                send.write_all(bytes).await?;
                send.finish()?;
                anyhow::Ok(receive.read_to_end(1 << 20).await?)
            };
            tokio::time::timeout(DEADLINE, talk).await.context("no answer")?
        })
    }

    /// Sends one message and decodes its answer.
    pub fn ask<Q: Message, A: Message>(&self, question: &Q) -> Result<A> {
        let answer = self.say(&frame::encode(question)?)?;
        Ok(frame::decode(answer.get(frame::HEADER..).unwrap_or_default())?)
    }

    /// The code and reason with which the controller closes the connection.
    pub fn closed(&self) -> Result<(u64, String)> {
        let closing = async { tokio::time::timeout(DEADLINE, self.connection.closed()).await };
        match self.runtime.block_on(closing).context("the connection stays open")? {
            quinn::ConnectionError::ApplicationClosed(close) => {
                Ok((close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned()))
            }
            other => Err(other).context("not closed by the program"),
        }
    }
}

/// Sends datagrams that are not QUIC.
pub fn throw(controller: SocketAddr, datagrams: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    for datagram in datagrams {
        socket.send_to(&datagram, controller)?;
    }
    Ok(())
}
