//! A TPM 2.0 in software: a process of its own (swtpm) that QEMU hands the machine's commands to.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::child::Process;
use crate::eventually;

/// A TPM that can be plugged into one machine after another.
#[derive(Debug, Clone)]
pub struct Tpm {
    /// How the machine speaks to it: QEMU's `tpm-tis` or `tpm-crb`.
    pub model: &'static str,
    /// The folder of what it remembers, its seeds among that: another folder is another TPM. An empty one makes a new one.
    pub state: PathBuf,
}

impl Tpm {
    /// Starts it, waiting for QEMU at `socket`; its log lies in `folder`.
    pub(super) fn start(&self, socket: &Path, folder: &Path) -> Result<Process> {
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", self.state.display())]);
        command.args(["--ctrl", &format!("type=unixio,path={}", socket.display())]);
        let process = Process::start("swtpm", &mut command, &folder.join("swtpm.log"))?;
        eventually(Duration::from_secs(30), "the TPM listens", || {
            ensure!(socket.exists(), "see {}", folder.join("swtpm.log").display());
            Ok(())
        })?;
        Ok(process)
    }
}
