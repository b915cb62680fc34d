//! A controller that does what a test says, one step at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_agent::options::Endpoint;
use muster_agent::quic;
use muster_protocol::drift::OnDrift;
use muster_protocol::enroll;
use muster_protocol::hello::{Hello, InventoryWish, Standing, Welcome, version};
use muster_protocol::to_controller::{Answer, Call};
use muster_protocol::{ALPN_ENROLL, ALPN_SESSION, CONTROLLER_NAME, Digest, MachineId};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connection, ServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// A CA and a listener on loopback.
pub struct Controller {
    ca: CertifiedIssuer<'static, KeyPair>,
    endpoint: quinn::Endpoint,
}

impl Controller {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    /// At whatever of the machine's addresses this one stands for.
    pub fn start_at(address: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![CONTROLLER_NAME.to_owned()]).expect("a name");
        let leaf = params.signed_by(&key, &ca).expect("a certificate");

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).expect("a CA");
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let clients = clients.allow_unauthenticated().build().expect("a verifier");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![leaf.der().clone(), ca.der().clone()], key)
            .expect("a certificate");
        tls.alpn_protocols = vec![ALPN_SESSION.to_vec(), ALPN_ENROLL.to_vec()];
        let tls = QuicServerConfig::try_from(tls).expect("usable for QUIC");
        let config = ServerConfig::with_crypto(Arc::new(tls));
        let endpoint = quinn::Endpoint::server(config, address.parse().expect("an address")).expect("listens");
        Self { ca, endpoint }
    }

    pub fn ca(&self) -> Digest {
        Digest::of(self.ca.der())
    }

    pub fn endpoint(&self) -> Endpoint {
        let address = self.endpoint.local_addr().expect("bound");
        Endpoint { host: address.ip().to_string(), port: address.port() }
    }

    /// The agent breaks off before it has shown anything.
    pub async fn fail_handshake(&self) {
        let handshake = self.endpoint.accept().await.expect("an agent").await;
        assert!(handshake.is_err(), "the agent believed another CA");
    }

    async fn accept(&self, alpn: &[u8]) -> Connection {
        let connection = self.endpoint.accept().await.expect("an agent").await.expect("a handshake");
        let data = connection.handshake_data().expect("a handshake").downcast::<HandshakeData>().expect("of TLS");
        assert_eq!(data.protocol.as_deref(), Some(alpn));
        assert_eq!(connection.peer_identity().is_some(), alpn == ALPN_SESSION, "sessions show a certificate");
        connection
    }

    fn sign(&self, csr: &[u8], age_hours: u64, lifetime_hours: u64) -> Vec<Vec<u8>> {
        let hours = |count: u64| Duration::from_secs(count * 3600);
        self.sign_for(csr, hours(age_hours), hours(lifetime_hours))
    }

    fn sign_for(&self, csr: &[u8], age: Duration, lifetime: Duration) -> Vec<Vec<u8>> {
        let csr = CertificateSigningRequestDer::from(csr);
        let mut csr = CertificateSigningRequestParams::from_der(&csr).expect("a signing request");
        let begin = SystemTime::now() - age;
        csr.params.not_before = begin.into();
        csr.params.not_after = (begin + lifetime).into();
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = csr.signed_by(&self.ca).expect("a certificate");
        vec![leaf.der().to_vec(), self.ca.der().to_vec()]
    }

    /// Lets the next agent in, with a certificate of a day.
    pub async fn enroll(&self) -> enroll::Request {
        self.answer_enrollment(|request| self.enrolled(self.sign(&request.csr, 1, 24))).await
    }

    /// Lets the next agent in, with a certificate whose end is near.
    pub async fn enroll_with_old_certificate(&self) {
        self.answer_enrollment(|request| self.enrolled(self.sign(&request.csr, 23, 24))).await;
    }

    /// Lets the next agent in, with a certificate that has seconds left.
    pub async fn enroll_with_dying_certificate(&self) {
        let hour = Duration::from_secs(3600);
        let left = Duration::from_secs(10);
        self.answer_enrollment(|request| self.enrolled(self.sign_for(&request.csr, hour, hour + left))).await;
    }

    pub async fn refuse(&self, refusal: enroll::Refusal) {
        self.answer_enrollment(|_| enroll::Answer::Refused(refusal)).await;
    }

    fn enrolled(&self, certificates: Vec<Vec<u8>>) -> enroll::Answer {
        enroll::Answer::Enrolled { machine: MachineId::from_bytes([7; 16]), certificates, time_unix_ms: now_unix_ms() }
    }

    async fn answer_enrollment(&self, answer: impl Fn(&enroll::Request) -> enroll::Answer) -> enroll::Request {
        let connection = self.accept(ALPN_ENROLL).await;
        let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
        let request: enroll::Request = quic::read(&mut receive).await.expect("a request");
        quic::write(&mut send, &answer(&request)).await.expect("answered");
        connection.closed().await;
        request
    }

    /// Takes the next session in. The agent is told to send its inventory.
    pub async fn welcome(&self, standing: Standing) -> (Connection, Hello) {
        let connection = self.accept(ALPN_SESSION).await;
        let hello = self.welcome_on(&connection, standing).await;
        (connection, hello)
    }

    /// The same for one that has connected already.
    pub async fn welcome_on(&self, connection: &Connection, standing: Standing) -> Hello {
        let welcome = Welcome {
            version: version::CURRENT,
            time_unix_ms: now_unix_ms(),
            standing,
            inventory: InventoryWish::Wanted,
            name: "box".into(),
            on_drift: OnDrift::Repair,
        };
        let Call::Hello(hello) = self.told(connection, Answer::Welcome(welcome)).await else { panic!("no hello") };
        hello
    }

    /// Takes the next connection that shows a certificate and has said nothing yet.
    pub async fn connected(&self) -> Connection {
        self.accept(ALPN_SESSION).await
    }

    /// The next thing that the agent says, answered with this.
    pub async fn told(&self, connection: &Connection, answer: Answer) -> Call {
        let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
        let call = quic::read(&mut receive).await.expect("a call");
        quic::write(&mut send, &answer).await.expect("answered");
        call
    }

    /// Answers the next thing that the agent says; whether it was a request to renew, and was granted.
    pub async fn renew(&self, connection: &Connection) -> bool {
        self.answer_renewal(connection, |csr| Answer::Renewed { certificates: self.sign(csr, 0, 24) }).await
    }

    /// The same, with this answer to a request to renew.
    pub async fn answer_renewal(&self, connection: &Connection, answer: impl Fn(&[u8]) -> Answer) -> bool {
        let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
        let (answer, renewed) = match quic::read(&mut receive).await.expect("a call") {
            Call::Renew { csr } => (answer(&csr), true),
            _ => (Answer::Accepted, false),
        };
        quic::write(&mut send, &answer).await.expect("answered");
        renewed
    }
}

fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64
}
