//! HTTP to BMCs and outlets: no redirects, no proxies, little memory, and TLS that is verified in one of three ways.
//!
//! BMCs sign their certificates themselves, with any name in them. So one can be pinned by its digest, whatever it says; the
//! handshake still proves that the other side has its key. There is no way to verify nothing.

use std::fmt;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use muster_protocol::Digest;
use rustls::StreamOwned;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;
use ureq::http::{Method, Request, Uri, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, TcpConnector, Transport, TransportAdapter,
};

use super::Secret;
use crate::pki;

/// Where Debian keeps the certificate authorities that this host trusts.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What is read of an answer.
const ANSWER: u64 = 1 << 20;

/// Of one request, connecting included: BMCs are slow, some think for ten seconds about who signs in.
const WITHIN: Duration = Duration::from_secs(30);

/// Of connecting, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Who the other side must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trusted {
    /// Whoever has the key of the certificate with this SHA-256.
    Pinned(Digest),
    /// By one of these CAs, in PEM, and for its name.
    Cas(String),
    /// By one that this host trusts, and for its name.
    System,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no connection, so nothing was said. It may be tried again.
    #[error("{0}")]
    Unconnected(String),
    /// The other side is not who it must be. Nothing was said to it.
    #[error("{0}")]
    Untrusted(String),
    /// It was asked, or may have been, and no answer came.
    #[error("{0}")]
    Unanswered(String),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// What it is to be asked by from now on, where it says so.
    pub token: Option<Secret>,
    /// Path of what was made.
    pub location: Option<String>,
    /// `Null` where it is no JSON.
    pub body: Value,
}

/// By what a request shows who asks.
#[derive(Debug, Clone)]
pub enum Auth {
    /// By nothing.
    None,
    /// User and password, in each request.
    Basic {
        /// Who.
        user: String,
        /// With what.
        password: Secret,
    },
    /// What a session was opened with.
    Token(Secret),
}

/// Asks one server.
pub struct Client {
    agent: ureq::Agent,
    seen: Seen,
    expects: Option<Digest>,
    /// Whether the last request had a connection to go over.
    connected: Arc<AtomicBool>,
}

/// The certificate that was shown last.
type Seen = Arc<Mutex<Option<Vec<u8>>>>;

impl Client {
    /// Nothing is sent yet.
    ///
    /// Errors: the CAs cannot be read.
    pub fn new(trusted: &Trusted) -> Result<Self, String> {
        Self::within(trusted, WITHIN)
    }

    fn within(trusted: &Trusted, within: Duration) -> Result<Self, String> {
        let provider = pki::provider();
        let roots = match trusted {
            Trusted::Pinned(_) => None,
            Trusted::Cas(pem) => Some(roots(pem.as_bytes()).ok_or("the CA holds no certificate in PEM")?),
            Trusted::System => {
                let pem = std::fs::read(SYSTEM_CAS).map_err(|e| format!("cannot read {SYSTEM_CAS}: {e}"))?;
                Some(roots(&pem).ok_or_else(|| format!("{SYSTEM_CAS} holds no certificate"))?)
            }
        };
        let chain = match roots {
            None => None,
            Some(roots) => {
                let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
                Some(built.map_err(|e| e.to_string())?)
            }
        };
        let pinned = match trusted {
            Trusted::Pinned(digest) => Some(*digest),
            Trusted::Cas(_) | Trusted::System => None,
        };
        Ok(Self::with(Verifier { provider, chain, pinned, seen: Seen::default() }, within))
    }

    fn with(verifier: Verifier, within: Duration) -> Self {
        let (seen, expects, provider) = (verifier.seen.clone(), verifier.pinned, verifier.provider.clone());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has all of them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(0)
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_WITHIN.min(within)))
            .timeout_global(Some(within))
            .build();
        let connected = Arc::<AtomicBool>::default();
        let tls = TlsConnector { config: Arc::new(tls), connected: connected.clone() };
        let connector = TcpConnector::default().chain(tls);
        Self { agent: ureq::Agent::with_parts(config, connector, DefaultResolver::default()), seen, expects, connected }
    }

    /// Asks, and reads the answer.
    pub fn call(&self, method: &Method, url: &str, auth: &Auth, body: Option<&Value>) -> Result<Answer, CallError> {
        self.connected.store(false, Ordering::Relaxed);
        let unsound = |e: &dyn fmt::Display| CallError::Unconnected(format!("the request cannot be made: {e}"));
        let mut request = Request::builder().method(method.clone()).uri(url).header(header::ACCEPT, "application/json");
        match auth {
            Auth::None => {}
            Auth::Basic { user, password } => {
                use base64::Engine as _;
                let plain = Secret::new(format!("{user}:{}", password.reveal()));
                let word = base64::engine::general_purpose::STANDARD.encode(plain.reveal());
                request = request.header(header::AUTHORIZATION, format!("Basic {word}"));
            }
            Auth::Token(token) => request = request.header("x-auth-token", token.reveal()),
        }
        let answer = match body {
            Some(body) => {
                let request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
                self.agent.run(request.map_err(|e| unsound(&e))?)
            }
            None if *method == Method::POST => self.agent.run(request.body("").map_err(|e| unsound(&e))?),
            None => self.agent.run(request.body(()).map_err(|e| unsound(&e))?),
        };
        let mut answer = answer.map_err(|error| self.error(&error))?;
        let told = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
        let (token, location) = (told("x-auth-token").map(Secret::new), told("location"));
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(ANSWER).lossy_utf8(true).read_to_string();
        let text = text.map_err(|e| CallError::Unanswered(format!("its answer broke off: {e}")))?;
        Ok(Answer { status, token, location, body: serde_json::from_str(&text).unwrap_or_default() })
    }

    fn error(&self, error: &ureq::Error) -> CallError {
        let tls = match error {
            ureq::Error::Rustls(error) => Some(error.clone()),
            ureq::Error::Io(error) => error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()).cloned(),
            _ => None,
        };
        let is_timeout = matches!(error, ureq::Error::Timeout(_));
        match (tls, self.connected.load(Ordering::Relaxed)) {
            (Some(rustls::Error::InvalidCertificate(why)), false) => CallError::Untrusted(self.untrusted(&why)),
            (Some(error), false) => CallError::Unconnected(format!("TLS cannot be begun: {error}")),
            (None, false) if is_timeout => CallError::Unconnected("it cannot be reached: no answer in time".into()),
            (None, false) => CallError::Unconnected(format!("it cannot be reached: {error}")),
            (_, true) if is_timeout => CallError::Unanswered("it did not answer in time".into()),
            (_, true) => CallError::Unanswered(format!("it broke off: {error}")),
        }
    }

    fn untrusted(&self, why: &CertificateError) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = seen.as_ref().map(|der| Digest::of(der).to_string()).unwrap_or_default();
        match self.expects {
            Some(pinned) => format!(
                "it shows another certificate than the one that was named, so it was told nothing: SHA-256 {shown} \
                 in place of {pinned}; where that is right, name it anew with muster machine bmc set"
            ),
            None => format!("its certificate (SHA-256 {shown}) is not good: {why}; it was told nothing"),
        }
    }
}

/// The certificate that a server shows now, in DER; nothing is said to it.
///
/// Errors: it cannot be reached, or speaks no TLS.
pub fn shown(url: &str) -> Result<Vec<u8>, CallError> {
    let seen = Seen::default();
    let verifier = Verifier { provider: pki::provider(), chain: None, pinned: None, seen: seen.clone() };
    let failed = Client::with(verifier, CONNECT_WITHIN).call(&Method::GET, url, &Auth::None, None);
    let shown = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (shown, failed) {
        (Some(der), _) => Ok(der),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(CallError::Unconnected("it shows no certificate".into())),
    }
}

fn roots(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    (!roots.is_empty()).then_some(roots)
}

/// Takes one certificate, or what a CA stands for. With neither it takes none, and remembers what was shown.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    pinned: Option<Digest>,
    seen: Seen,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        match (&self.chain, self.pinned) {
            (Some(chain), _) => chain.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            (None, Some(pinned)) if Digest::of(end_entity) == pinned => Ok(ServerCertVerified::assertion()),
            (None, _) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// ureq's own TLS knows CAs alone.
struct TlsConnector {
    config: Arc<ClientConfig>,
    connected: Arc<AtomicBool>,
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails<'_>, below: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = below else { return Ok(None) };
        if !details.needs_tls() {
            self.connected.store(true, Ordering::Relaxed);
            return Ok(Some(Box::new(transport)));
        }
        let name = server_name(details.uri).ok_or(ureq::Error::Tls("the host's name is none for TLS"))?;
        let mut tls = ClientConnection::new(self.config.clone(), name)?;
        let mut below = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        below.set_timeout(details.timeout);
        shake_hands(&mut tls, &mut below)?;
        self.connected.store(true, Ordering::Relaxed);
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Box::new(TlsTransport { buffers, stream: StreamOwned { conn: tls, sock: below } })))
    }
}

/// As a whole, not only each read of it, within the time for connecting.
fn shake_hands(tls: &mut ClientConnection, below: &mut (impl Read + Write)) -> Result<(), ureq::Error> {
    let until = Instant::now() + CONNECT_WITHIN;
    while tls.is_handshaking() || tls.wants_write() {
        if Instant::now() > until {
            return Err(ureq::Error::Timeout(ureq::Timeout::Connect));
        }
        if tls.wants_write() {
            tls.write_tls(below)?;
        } else if tls.read_tls(below)? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        } else if let Err(error) = tls.process_new_packets() {
            // It may hear why.
            let _ = tls.write_tls(below);
            return Err(error.into());
        }
    }
    Ok(())
}

fn server_name(uri: &Uri) -> Option<ServerName<'static>> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).ok()
}

struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
