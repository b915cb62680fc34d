//! Somebody on the agents' port who says whatever a test wants said: real QUIC, any ALPN, any certificate, any bytes.
//!
//! It knows the controller's CA, as anyone who saw a boot script does. It comes from an address of its own, because the
//! controller's limits are for each address, and honest machines have another one.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use muster_agent::identity;
use muster_protocol::enroll::{self, Identity, Leave, Ticket};
use muster_protocol::frame::{self, Message};
use muster_protocol::{ALPN_ENROLL, CONTROLLER_NAME};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::runtime::Runtime;

/// Longer than any answer takes, and shorter than any patience.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where peers come from.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// Peers are never silent for so long that they seem dead.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Own {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8, DER.
    pub key: Vec<u8>,
}

/// See the module. Blocks: a hostile peer of a test has nothing else to do.
pub struct Peer {
    runtime: Runtime,
    connection: Connection,
    // Dropped last: it closes what is still open.
    _endpoint: Endpoint,
}

impl Own {
    /// What a box with this identity gets for a ticket. It is a machine then, and nobody has approved it.
    pub fn enroll(controller: SocketAddr, ca_pem: &[u8], ticket: Ticket, identity: Identity) -> Result<Self> {
        let key = identity::new_key()?;
        let csr = identity::signing_request(&key)?;
        let request = enroll::Request { leave: Leave::Ticket(ticket), csr, identity };
        match Peer::connect(controller, ca_pem, ALPN_ENROLL)?.ask(&request)? {
            enroll::Answer::Enrolled { certificates, .. } => Ok(Self { chain: certificates, key }),
            enroll::Answer::Refused(refusal) => bail!("not enrolled: {refusal}"),
        }
    }
}

/// TLS as a client of this controller.
pub fn tls(ca_pem: &[u8], alpn: &[u8], own: Option<&Own>) -> Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut tls = match own {
        None => tls.with_no_client_auth(),
        Some(Own { chain, key }) => {
            let chain = chain.iter().cloned().map(CertificateDer::from).collect();
            tls.with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone())))?
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    Ok(tls)
}

impl Peer {
    /// Connects to the agents' port without a certificate.
    ///
    /// Errors: the handshake fails, with the reason that the controller gives.
    pub fn connect(controller: SocketAddr, ca_pem: &[u8], alpn: &[u8]) -> Result<Self> {
        Self::connect_as(controller, ca_pem, alpn, None)
    }

    /// The same with a certificate.
    pub fn connect_as(controller: SocketAddr, ca_pem: &[u8], alpn: &[u8], own: Option<&Own>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(KEEP_ALIVE));
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls(ca_pem, alpn, own)?)?));
        config.transport_config(Arc::new(transport));
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = Endpoint::client((STRANGER, 0).into())?;
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
                let answer = receive.read_to_end(1 << 20).await?;
                ensure!(!answer.is_empty(), "the stream ended without an answer");
                Ok(answer)
            };
            tokio::time::timeout(DEADLINE, talk).await.context("no answer")?
        })
    }

    /// Sends one message and decodes its answer.
    pub fn ask<Q: Message, A: Message>(&self, question: &Q) -> Result<A> {
        let answer = self.say(&frame::encode(question)?)?;
        Ok(frame::decode(answer.get(frame::HEADER..).unwrap_or_default())?)
    }

    /// Begins a stream with as many of `bytes` as the controller takes, and never ends it.
    pub fn begin(&self, bytes: Vec<u8>) {
        let connection = self.connection.clone();
        self.runtime.spawn(async move {
            let Ok((mut send, _receive)) = connection.open_bi().await else { return };
            // It fails when the connection ends, and until then the stream stays as it is.
            let _ = send.write_all(&bytes).await;
            connection.closed().await;
        });
    }

    /// The code and reason with which the controller closes the connection.
    pub fn closed(&self) -> Result<(u64, String)> {
        self.closed_within(DEADLINE)
    }

    /// The same for what takes longer.
    pub fn closed_within(&self, deadline: Duration) -> Result<(u64, String)> {
        let closing = async { tokio::time::timeout(deadline, self.connection.closed()).await };
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
    let socket = UdpSocket::bind((STRANGER, 0))?;
    for datagram in datagrams {
        socket.send_to(&datagram, controller)?;
    }
    Ok(())
}
