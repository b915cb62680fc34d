//! From power-on to the agent's first instruction: boot scripts, the boot image, the site's boot medium.
//!
//! The controller's HTTP listener takes its scripts from [`script`]; its command line builds images with [`image`] and
//! media with [`iso`].
//! There is no kernel and no iPXE in here: those come from Debian's [`packages`], on the host that builds.
//! Everything blocks and is meant for a thread that may.

pub mod image;
pub mod iso;
pub mod packages;
pub mod param;
pub mod script;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How far a piece of work is. Told whenever it changes, and while nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// 0 to 100, never less than before.
    pub percent: u8,
    /// What is being done, in words.
    pub step: &'a str,
}

/// Runs a program to its end and answers with what it wrote; the error is what it complained of last, or why it could
/// not be started.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(5)..].join("; ");
    Err(format!("{} ({last})", output.status))
}

/// A new file.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    // What a build that was cut off left behind has its own mode.
    let _ = fs::remove_file(path);
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Whom a file is for: its mode, as chmod(2) has it.
const EVERYBODY: u32 = 0o644;
/// Its owner alone.
const OWNER: u32 = 0o600;

/// A file that is whole and on the disk, beside the one whose place it is to take. Dropped, it is gone.
#[derive(Debug)]
struct Written {
    new: PathBuf,
    path: PathBuf,
}

impl Written {
    /// It has its mode, less the umask, from the beginning.
    fn beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let written = Self { new: path.with_file_name(name), path: path.to_owned() };
        let mut file = create(&written.new, mode)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(written)
    }

    /// Replaces what was there, or leaves it as it was.
    fn take_place(&self) -> io::Result<()> {
        fs::rename(&self.new, &self.path)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.new);
    }
}

/// Replaces `path` by a file with these bytes, or leaves it as it was.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Written::beside(path, bytes, mode)?.take_place()
}
