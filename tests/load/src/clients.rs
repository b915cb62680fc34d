//! Clients that call one server all the time, each over a connection of its own that stays open: HTTP/1.1 over TLS 1.3.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::took::Took;

/// What is called, and by how many.
#[derive(Debug, Clone, Deserialize)]
pub struct Load {
    /// `127.0.0.1:8443`.
    server: String,
    /// The server's CA, in PEM.
    ca: PathBuf,
    /// The process whose CPU time counts.
    pid: u32,
    clients: usize,
    /// For how long. Every client goes through `asks` to their end, again and again.
    seconds: f64,
    asks: Vec<Ask>,
}

/// One call. In its body `{client}` is the client's number, `{n}` a number that no other call has, and `{0}`, `{1}` are what
/// was kept of the answers before.
#[derive(Debug, Clone, Deserialize)]
struct Ask {
    path: String,
    body: String,
    /// JSON pointers into the answer: what is kept of it.
    #[serde(default)]
    keep: Vec<String>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Found {
    /// By call.
    asks: Vec<Took>,
    /// All calls.
    per_second: f64,
    /// CPU time of the server for each call, microseconds.
    cpu_us: f64,
    /// Bytes of an answer's body.
    bytes: usize,
}

/// Calls until the time is over.
///
/// Errors: an answer that is no success.
pub fn run(load: &Load) -> Result<Found> {
    // One thread: what the clients take of the computer is one processor at most.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(load))
}

async fn measure(load: &Load) -> Result<Found> {
    let connector = TlsConnector::from(Arc::new(tls(&load.ca)?));
    // Everybody is connected, and has called once, before the first call counts.
    let start = Arc::new(Barrier::new(load.clients + 1));
    let clients: Vec<_> = (0..load.clients)
        .map(|number| {
            let (load, connector, start) = (load.clone(), connector.clone(), start.clone());
            tokio::spawn(async move {
                let called = Client::connect(&load, &connector, number).await;
                start.wait().await;
                let mut client = called?;
                client.call_until(&load, Instant::now() + Duration::from_secs_f64(load.seconds)).await?;
                anyhow::Ok(client)
            })
        })
        .collect();
    start.wait().await;
    let (began, cpu) = (Instant::now(), cpu_time(load.pid)?);
    let mut took = vec![Vec::new(); load.asks.len()];
    let mut bytes = 0;
    for client in clients {
        let client = client.await??;
        bytes = client.bytes;
        took.iter_mut().zip(client.took).for_each(|(all, one)| all.extend(one));
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_time(load.pid)? - cpu);
    let calls = took.iter().map(Vec::len).sum::<usize>() as f64;
    Ok(Found {
        asks: took.into_iter().map(Took::of).collect(),
        per_second: calls / seconds,
        cpu_us: cpu.as_secs_f64() * 1e6 / calls,
        bytes,
    })
}

fn tls(ca: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).with_context(|| format!("reading {}", ca.display()))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// What all threads of a process have run, those that have ended too.
fn cpu_time(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name may be anything and stands in parentheses; user's and system's time are the 12th and 13th after it.
    let (_, after) = text.rsplit_once(')').context("stat has a name")?;
    let ticks: Vec<u64> = after.split_whitespace().skip(11).take(2).filter_map(|text| text.parse().ok()).collect();
    ensure!(ticks.len() == 2, "stat has times");
    // A tick of Linux is a hundredth of a second for whoever asks.
    Ok(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
}

struct Client {
    stream: TlsStream<TcpStream>,
    number: usize,
    calls: usize,
    kept: Vec<String>,
    read: Vec<u8>,
    /// Of the last answer.
    bytes: usize,
    /// By call.
    took: Vec<Vec<Duration>>,
}

impl Client {
    /// Connects, and goes through all calls once.
    async fn connect(load: &Load, connector: &TlsConnector, number: usize) -> Result<Self> {
        let stream =
            TcpStream::connect(&load.server).await.with_context(|| format!("connecting to {}", load.server))?;
        stream.set_nodelay(true)?;
        let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let took = vec![Vec::new(); load.asks.len()];
        let mut client = Self { stream, number, calls: 0, kept: Vec::new(), read: Vec::new(), bytes: 0, took };
        client.call_all(load).await?;
        client.took.iter_mut().for_each(Vec::clear);
        Ok(client)
    }

    async fn call_until(&mut self, load: &Load, end: Instant) -> Result<()> {
        while Instant::now() < end {
            self.call_all(load).await?;
        }
        Ok(())
    }

    async fn call_all(&mut self, load: &Load) -> Result<()> {
        self.kept.clear();
        for (index, ask) in load.asks.iter().enumerate() {
            let request = self.request(ask);
            let began = Instant::now();
            self.stream.write_all(&request).await?;
            let head = self.answer().await?;
            self.took[index].push(began.elapsed());
            let body = &self.read[head..];
            self.bytes = body.len();
            for pointer in &ask.keep {
                let answer: Value = serde_json::from_slice(body)?;
                let kept = answer.pointer(pointer).and_then(Value::as_str);
                self.kept.push(kept.with_context(|| format!("no {pointer} in {answer}"))?.to_owned());
            }
        }
        Ok(())
    }

    fn request(&mut self, ask: &Ask) -> Vec<u8> {
        self.calls += 1;
        // Like Cycle's ids: 24 hex digits.
        let n = format!("{:08x}{:04x}{:012x}", std::process::id(), self.number, self.calls);
        let mut body = ask.body.replace("{n}", &n).replace("{client}", &self.number.to_string());
        for (index, kept) in self.kept.iter().enumerate() {
            body = body.replace(&format!("{{{index}}}"), kept);
        }
        format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            ask.path,
            body.len()
        )
        .into_bytes()
    }

    /// Reads an answer to its end, and says where its body begins.
    async fn answer(&mut self) -> Result<usize> {
        self.read.clear();
        let mut end = None;
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                bail!("the server hung up");
            }
            if end.is_none()
                && let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n")
            {
                let head = std::str::from_utf8(&self.read[..at])?.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let length: usize = length.with_context(|| format!("no length in {head}"))?.trim().parse()?;
                end = Some((at + 4, at + 4 + length));
            }
            if let Some((body, end)) = end
                && self.read.len() >= end
            {
                let is_good = self.read.starts_with(b"HTTP/1.1 200 ");
                ensure!(is_good, "refused: {}", String::from_utf8_lossy(&self.read));
                return Ok(body);
            }
        }
    }
}
