//! `muster-load`: the clients, and the bare servers beside the controller.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use muster_tests::child::Process;
use muster_tests::{artifacts, eventually};
use serde_json::{Value, json};

/// Where the bare servers listen.
const PORT: u16 = 9443;

/// A start makes a CA.
const START: Duration = Duration::from_secs(30);

/// Something that clients call.
pub struct Server {
    pub address: String,
    pub ca: PathBuf,
    pub pid: u32,
}

/// The bare servers.
pub struct Bare {
    pub server: Server,
    /// On the same file system as the controller's database.
    pub folder: PathBuf,
    _process: Process,
}

impl Bare {
    pub fn start(folder: &Path, program: &Path) -> Result<Self> {
        let address = format!("127.0.0.1:{PORT}");
        let mut command = Command::new(program);
        command.arg("serve").arg(folder).arg(&address);
        let process = Process::start("muster-load", &mut command, &folder.join("log"))?;
        eventually(START, "the bare servers answer", || Ok(std::net::TcpStream::connect(&address).map(drop)?))?;
        let server = Server { address, ca: folder.join("ca.crt"), pid: process.id() };
        Ok(Self { server, folder: folder.to_owned(), _process: process })
    }
}

/// How long something took.
pub struct Took {
    pub median_us: f64,
    pub p99_us: f64,
}

/// What came of calls.
pub struct Called {
    /// By call.
    pub asks: Vec<Took>,
    pub per_second: f64,
    /// Of the server, for each call.
    pub cpu_us: f64,
    /// Of the last answer's body.
    pub bytes: u64,
}

/// Has so many clients call a server for so long.
pub fn call(server: &Server, clients: usize, seconds: f64, asks: &Value) -> Result<Called> {
    let Server { address, ca, pid } = server;
    let load = json!({ "server": address, "ca": ca, "pid": pid, "clients": clients, "seconds": seconds, "asks": asks });
    let found = run("call", &load)?;
    let asks = found["asks"].as_array().into_iter().flatten().map(took).collect::<Result<_>>()?;
    let bytes = found["bytes"].as_u64().context("bytes are a number")?;
    Ok(Called { asks, per_second: number(&found, "per_second")?, cpu_us: number(&found, "cpu_us")?, bytes })
}

/// Has so many loops write to a file each for so long, each write durable before the loop's next one.
pub fn write(file: &Path, loops: usize, bytes: usize, seconds: f64) -> Result<Took> {
    took(&run("write", &json!({ "file": file, "loops": loops, "bytes": bytes, "seconds": seconds }))?)
}

fn took(found: &Value) -> Result<Took> {
    Ok(Took { median_us: number(found, "median_us")?, p99_us: number(found, "p99_us")? })
}

fn number(found: &Value, key: &str) -> Result<f64> {
    found[key].as_f64().with_context(|| format!("no {key} in {found}"))
}

fn run(what: &str, asked: &Value) -> Result<Value> {
    let mut command = Command::new(artifacts::released("muster-load")?);
    let mut child =
        command.arg(what).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting muster-load")?;
    child.stdin.take().context("its input")?.write_all(asked.to_string().as_bytes())?;
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!("muster-load {what} ended with {}", done.status);
    }
    Ok(serde_json::from_slice(&done.stdout)?)
}
