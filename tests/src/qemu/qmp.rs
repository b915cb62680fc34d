//! QEMU's control socket (QMP, one JSON object a line), as little of it as tests need.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// One conversation.
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Greets the machine whose socket is `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        // The greeting; then capabilities are negotiated, of which there are none.
        qmp.read()?;
        qmp.run("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments.
    pub fn run(&mut self, command: &str) -> Result<()> {
        self.run_with(command, json!({}))
    }

    /// Runs a command.
    pub fn run_with(&mut self, command: &str, arguments: Value) -> Result<()> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let answer = self.read()?;
            if let Some(error) = answer.get("error") {
                bail!("qemu refuses {command}: {error}");
            }
            // Events come in between.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    /// Waits for an event of this name, with such data, that comes after the last answer.
    pub fn wait_for(&mut self, event: &str, is_it: impl Fn(&Value) -> bool) -> Result<()> {
        loop {
            let said = self.read().with_context(|| format!("waiting for {event}"))?;
            if said["event"] == event && is_it(&said["data"]) {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("qemu closed its control socket");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
