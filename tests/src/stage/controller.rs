//! A real controller: `muster serve` with a data directory of its own, killed and started again at will.
//!
//! It runs on its default ports, so whoever starts one is in a namespace of his own, or has the computer to himself.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::artifacts::{self, output};
use crate::child::Process;
use crate::eventually;
use crate::http::Http;

/// HTTPS and QUIC.
pub const PORT: u16 = 8443;

/// Boot media.
pub const BOOT_PORT: u16 = 8080;

/// A start makes keys and a database.
const START: Duration = Duration::from_secs(30);

/// See the module.
pub struct Controller {
    program: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
}

impl Controller {
    /// Starts one with its data and log in `folder`, and with `config` as its configuration file.
    pub fn start(folder: &Path, config: &str) -> Result<Self> {
        Self::start_program(artifacts::muster()?, folder, config)
    }

    /// The same with another build of `muster`. Its operator has the one of the tests.
    pub fn start_program(program: PathBuf, folder: &Path, config: &str) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("muster.toml"), config)?;
        let mut controller = Self { program, folder: folder.to_owned(), process: None };
        controller.start_again()?;
        Ok(controller)
    }

    /// SIGKILL: it gets no chance to write or say anything.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it on what the last one left, and waits until it answers.
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--config").arg(self.folder.join("muster.toml")).arg("--data").arg(self.data());
        let log = self.folder.join("controller.log");
        let mut process = Process::start("muster serve", &mut command, &log)?;
        let ended = eventually(START, "the controller answers", || {
            if let Some(status) = process.ended()? {
                return Ok(Some(status));
            }
            self.api()?.get("/api/v1/machines")?;
            // The last thing that a start writes.
            std::fs::metadata(self.data().join("endpoint"))?;
            Ok(None)
        })?;
        if let Some(status) = ended {
            bail!("the controller ended with {status}: {}", last_lines(&log));
        }
        self.process = Some(process);
        Ok(())
    }

    /// Where everything durable is.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where agents reach it from here.
    pub fn agents(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, PORT).into()
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> Result<Vec<u8>> {
        let path = self.data().join("ca.crt");
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Its HTTPS, as somebody without a token.
    pub fn anonymous(&self) -> Result<Http> {
        Http::with_ca(&format!("https://127.0.0.1:{PORT}"), &self.ca_pem()?)
    }

    /// Its HTTPS, as the admin.
    pub fn api(&self) -> Result<Http> {
        let path = self.data().join("admin-token");
        let token = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(self.anonymous()?.with_token(token.trim()))
    }

    /// Its HTTP for boot media.
    pub fn boot(&self) -> Http {
        Http::plain(&format!("http://127.0.0.1:{BOOT_PORT}"))
    }

    /// Runs `muster` as the operator on the controller's own host.
    ///
    /// Errors: it fails; with what it wrote.
    pub fn muster(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.command(arguments)?)
    }

    /// The same for a reading command, asked for JSON.
    pub fn muster_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.muster(&[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("muster {}: {text:?} is no JSON", arguments.join(" ")))
    }

    /// Runs `muster` as that operator where it has to fail, and answers what it wrote of it.
    ///
    /// Errors: it succeeds, or does not end with 1, which is "refused or failed".
    pub fn refusal(&self, arguments: &[&str]) -> Result<String> {
        let done = self.command(arguments)?.output().context("starting muster")?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        if done.status.code() != Some(1) {
            let out = String::from_utf8_lossy(&done.stdout);
            bail!("muster {} ended with {}: {} {}", arguments.join(" "), done.status, out.trim(), said.trim());
        }
        Ok(said)
    }

    /// `muster` with these arguments, for this controller.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(artifacts::muster()?);
        command.args(arguments).env("MUSTER_DATA", self.data());
        Ok(command)
    }

    /// How often somebody was refused at `door` for `reason` since its last start.
    pub fn refusals(&self, door: &str, reason: &str) -> Result<u64> {
        self.metric(&format!("muster_refusals_total{{door=\"{door}\",reason=\"{reason}\"}}"))
    }

    /// What `GET /metrics` says of one series; 0 where it is not there.
    pub fn metric(&self, series: &str) -> Result<u64> {
        let text = self.api()?.send("GET", "/metrics", &[], None)?.text();
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.map_or(Ok(0), |value| value.parse().with_context(|| format!("{series} is {value}")))
    }

    /// Bytes of memory that it has now, and from here on counts as the most that it had.
    pub fn watch_memory(&self) -> Result<u64> {
        // proc_pid_clear_refs(5): 5 forgets the peak.
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()?), "5")?;
        self.memory("VmRSS:")
    }

    /// The most bytes of memory that it had since [`Self::watch_memory`].
    pub fn most_memory(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).context("the kernel says how much")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// The number of its process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("it runs")?.id())
    }

    /// Everything it logged since its first start.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("controller.log"))?)
    }
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
