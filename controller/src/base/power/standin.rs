//! A small HTTP server in a BMC's or an outlet's place, for tests: what it answers is a function's to say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use muster_protocol::Digest;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::pki;

/// What was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: Value,
}

/// What is answered: a status, more headers, and a body. None: the connection is cut.
pub type Answered = Option<(u16, String, Value)>;

type Says = Box<dyn Fn(&Asked) -> Answered + Send>;

pub struct StandIn {
    pub at: SocketAddr,
    pub log: Arc<Mutex<Vec<Asked>>>,
    /// Its certificate, where it speaks TLS.
    pub certificate: Option<Digest>,
    /// The same in PEM.
    pub pem: String,
}

impl StandIn {
    /// One that speaks TLS, with a certificate that it signed itself, for a name that is not its own.
    pub fn secure(says: impl Fn(&Asked) -> Answered + Send + 'static) -> Self {
        Self::named("idrac.example", says)
    }

    pub fn named(name: &str, says: impl Fn(&Asked) -> Answered + Send + 'static) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed");
        let der = certificate.der().clone();
        let config = ServerConfig::builder_with_provider(pki::provider())
            .with_safe_default_protocol_versions()
            .expect("ring has all of them")
            .with_no_client_auth()
            .with_single_cert(vec![der.clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("its own");
        Self::start(Some(Arc::new(config)), Some(Digest::of(&der)), certificate.pem(), Box::new(says))
    }

    pub fn plain(says: impl Fn(&Asked) -> Answered + Send + 'static) -> Self {
        Self::start(None, None, String::new(), Box::new(says))
    }

    fn start(tls: Option<Arc<ServerConfig>>, certificate: Option<Digest>, pem: String, says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("bound");
        let log = Arc::<Mutex<Vec<Asked>>>::default();
        let noted = log.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                match &tls {
                    None => drop(serve(stream, &says, &noted)),
                    Some(config) => {
                        let Ok(connection) = ServerConnection::new(config.clone()) else { continue };
                        drop(serve(StreamOwned::new(connection, stream), &says, &noted));
                    }
                }
            }
        });
        Self { at, log, certificate, pem }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", if self.certificate.is_some() { "https" } else { "http" }, self.at)
    }

    /// What was asked: methods and paths.
    pub fn asked(&self) -> Vec<String> {
        let log = self.log.lock().expect("no test panics inside");
        log.iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }
}

fn serve(mut stream: impl Read + Write, says: &Says, log: &Mutex<Vec<Asked>>) -> Option<TcpStream> {
    let mut bytes = Vec::new();
    let end = loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    while bytes.len() < end + 4 + length.unwrap_or(0) {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
    }
    let mut first = head.lines().next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let body = serde_json::from_slice(&bytes[end + 4..]).unwrap_or_default();
    let asked = Asked { method, path, head, body };
    log.lock().expect("no test panics inside").push(asked.clone());
    let (status, headers, body) = says(&asked)?;
    let body = body.to_string();
    let answer =
        format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).ok()?;
    stream.flush().ok()?;
    None
}
