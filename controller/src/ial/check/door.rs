//! The way to an IAL server: HTTP/1.1 as plain as it comes, over TLS or in the clear.
//!
//! Written out here, since a client for general use helps where this one must not: it follows redirects, sends again
//! what broke off, drops the body of a GET. Each request has a connection of its own.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::pki;

/// How long a connection may take to stand.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long an answer may take. No call of the IAL waits for a machine.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The longest answer that is read.
const ANSWER_LIMIT: u64 = 8 << 20;

/// See the module.
#[derive(Clone)]
pub struct Door {
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    host: String,
    port: u16,
    base: String,
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// `GET`, `POST` or anything else.
    pub method: &'static str,
    /// Path and query, after the base URL.
    pub path: String,
    /// Further header lines, each with its end.
    pub headers: String,
    /// What comes after the head.
    pub body: Option<Vec<u8>>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header lines: names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Reply {
    /// One header; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Door {
    /// Looks at the URL and connects to nobody yet.
    ///
    /// Errors: what is wrong with it, for whoever typed it.
    pub fn new(url: &str, roots: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|e| format!("{url:?} is not a URL: {e}"))?;
        let host = uri.host().filter(|host| !host.is_empty()).map(str::to_owned);
        let wrong = || format!("the URL must read like https://muster.example:8443, and is {url:?}");
        let (Some(scheme @ ("http" | "https")), Some(host), None) = (uri.scheme_str(), host, uri.query()) else {
            return Err(wrong());
        };
        // Nothing else before or behind the host, and nothing that was read and dropped.
        let port = uri.port_u16().filter(|port| *port != 0);
        let authority = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        if uri.authority().is_none_or(|all| all.as_str() != authority) || url.contains('#') {
            return Err(wrong());
        }
        let tls = match scheme {
            "http" => None,
            _ => Some(tls(&host, roots)?),
        };
        let port = port.unwrap_or(if tls.is_some() { 443 } else { 80 });
        Ok(Self { tls, host, port, base: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Sends it and reads the answer, whatever its status.
    ///
    /// Errors: there is none.
    pub fn ask(&self, ask: &Ask) -> io::Result<Reply> {
        let mut stream = self.connect()?;
        // A server that refuses what is too large may not read it to its end: its answer counts, and not the pipe.
        let sent = self.send(&mut *stream, ask);
        match (read(&mut *stream), sent) {
            (Ok(reply), _) => Ok(reply),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }

    /// Sends it and goes away before the answer: whether it was heard, nobody here knows.
    pub fn hang_up(&self, ask: &Ask) -> io::Result<()> {
        self.send(&mut *self.connect()?, ask)
    }

    /// Announces a body, sends a part of it, and goes away.
    pub fn break_off(&self, ask: &Ask) -> io::Result<()> {
        let mut stream = self.connect()?;
        stream.write_all(self.head(ask, 1000).as_bytes())?;
        stream.write_all(b"{\"auth\":")?;
        stream.flush()
    }

    fn head(&self, ask: &Ask, length: usize) -> String {
        let Self { host, port, base, .. } = self;
        let Ask { method, path, headers, .. } = ask;
        let length =
            if length > 0 || *method != "GET" { format!("content-length: {length}\r\n") } else { String::new() };
        let agent = concat!("muster-ial-check/", env!("CARGO_PKG_VERSION"));
        format!(
            "{method} {base}{path} HTTP/1.1\r\nhost: {host}:{port}\r\nuser-agent: {agent}\r\n\
             accept: application/json\r\nconnection: close\r\n{headers}{length}\r\n"
        )
    }

    fn send(&self, stream: &mut dyn Stream, ask: &Ask) -> io::Result<()> {
        let body = ask.body.as_deref().unwrap_or_default();
        stream.write_all(&[self.head(ask, body.len()).as_bytes(), body].concat())?;
        stream.flush()
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let name = self.host.trim_matches(['[', ']']);
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address"));
        for address in (name, self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
                    stream.set_nodelay(true)?;
                    let Some((config, name)) = &self.tls else { return Ok(Box::new(stream)) };
                    let session = ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
                    return Ok(Box::new(StreamOwned::new(session, stream)));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn tls(host: &str, roots: Vec<CertificateDer<'static>>) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    let config = ClientConfig::builder_with_provider(pki::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok((Arc::new(config), name.map_err(|e| format!("{host:?} is no name of a server: {e}"))?))
}

/// What to do where there is no answer; empty where the case knows better.
pub fn remedy(error: &io::Error) -> &'static str {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext, UnknownIssuer};
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(UnknownIssuer)) => {
            "name the CA that the server's certificate is by, with --ca"
        }
        Some(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
            "ask by a name or an address that the server's certificate has"
        }
        Some(rustls::Error::InvalidCertificate(_)) => "give the server a certificate that can be believed",
        Some(rustls::Error::InvalidMessage(_)) => {
            "see whether the port is the right one: nobody speaks TLS there. Does the URL begin with http://?"
        }
        _ => "",
    }
}

/// Reads one response to its end.
fn read(stream: &mut dyn Stream) -> io::Result<Reply> {
    let mut bytes = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        if let Some(reply) = parse(&bytes, false)? {
            return Ok(reply);
        }
        let count = match stream.read(&mut part) {
            // A signal, such as Ctrl-C's: a read that has a timeout is not taken up again by the kernel. The answer may be
            // what has to be given back.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // Some servers end a TLS connection without a word.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let what = format!("no answer came within {} s", ANSWER_WITHIN.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            count => count?,
        };
        if count == 0 {
            let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before the answer did");
            return parse(&bytes, true)?.ok_or_else(broken);
        }
        bytes.extend_from_slice(&part[..count]);
        if bytes.len() as u64 > ANSWER_LIMIT {
            return Err(invalid("the answer has more than 8 MiB"));
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A response, once all of it is there.
fn parse(bytes: &[u8], is_end: bool) -> io::Result<Option<Reply>> {
    let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..at]).map_err(|_| invalid("the answer's head is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
    let status: u16 = status.ok_or_else(|| invalid("the answer is no HTTP/1.1"))?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let rest = &bytes[at + 4..];
    // 100 Continue and the like come before the answer.
    if (100..200).contains(&status) {
        return parse(rest, is_end);
    }
    let mut reply = Reply { status, headers, body: Vec::new() };
    let body = if reply.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        chunks(rest)?
    } else {
        match reply.header("content-length").parse::<usize>() {
            Ok(length) => rest.get(..length).map(<[u8]>::to_vec),
            Err(_) if matches!(status, 204 | 304) => Some(Vec::new()),
            Err(_) => is_end.then(|| rest.to_vec()),
        }
    };
    Ok(body.map(|body| {
        reply.body = body;
        reply
    }))
}

/// A chunked body, once all of it is there.
fn chunks(mut rest: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|line| line.split(';').next());
        let size = size.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let size = size.filter(|size| *size as u64 <= ANSWER_LIMIT).ok_or_else(|| invalid("a chunk of no size"))?;
        if size == 0 {
            return Ok(Some(body));
        }
        let (from, to) = (end + 2, end + 2 + size);
        let Some(chunk) = rest.get(from..to).filter(|_| rest.len() >= to + 2) else { return Ok(None) };
        body.extend_from_slice(chunk);
        rest = &rest[to + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read_with_lengths_in_chunks_and_to_the_end() {
        let reply = |text: &str, is_end| parse(text.as_bytes(), is_end).expect("HTTP").map(|reply| reply.body);
        assert_eq!(reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", false), Some(b"{}".to_vec()));
        assert_eq!(reply("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", false), None);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n";
        assert_eq!(reply(chunked, false), Some(b"{}".to_vec()));
        assert_eq!(reply(&chunked[..chunked.len() - 8], false), None);
        assert_eq!(reply("HTTP/1.1 200 OK\r\n\r\n{}", false), None);
        assert_eq!(reply("HTTP/1.1 200 OK\r\n\r\n{}", true), Some(b"{}".to_vec()));
        assert_eq!(reply("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", false), Some(Vec::new()));
        assert!(parse(b"SSH-2.0\r\n\r\n", true).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n", false).is_err());
    }

    #[test]
    fn a_url_that_cannot_be_is_refused_with_what_would_be_right() {
        for url in [
            "muster.example",
            "ftp://muster.example",
            "https://",
            "https://a b",
            "https://x/?y=1",
            "https://x/#y",
            "https://x:99999",
            "https://x:0",
            "https://key:secret@x",
        ] {
            let why = Door::new(url, Vec::new()).map(drop).expect_err(url);
            assert!(why.contains("URL"), "{why}");
        }
        for url in ["http://127.0.0.1:1", "https://[::1]:8443/", "https://muster.example/ial"] {
            assert!(Door::new(url, Vec::new()).is_ok(), "{url}");
        }
    }
}
