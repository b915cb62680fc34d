//! ext4, made by e2fsprogs' own program.
//!
//! Called by `apply`. Whether the partition may be written to was decided and checked before.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::machine::MachineError;

/// Where the program may be: in Muster's image, or on a machine that has a system of its own.
const PATHS: [&str; 4] = ["/sbin/mke2fs", "/usr/sbin/mke2fs", "/bin/mke2fs", "/usr/bin/mke2fs"];
/// Bytes of its output that an error repeats.
const OUTPUT: usize = 500;

/// Makes a filesystem on a device. Takes seconds to minutes: large disks are discarded first.
///
/// Errors: there is no mke2fs, or it failed; then the device carries anything.
pub(super) fn make(device: &Path, label: &str) -> Result<(), MachineError> {
    let Some(program) = PATHS.iter().find(|path| Path::new(path).exists()) else {
        return Err(MachineError::Unable("make ext4: there is no mke2fs; install e2fsprogs".into()));
    };
    // -F: it would ask whether to go on where it sees something on the device. We have looked, and there is nobody to ask.
    let run = Command::new(program)
        .args(["-q", "-F", "-t", "ext4", "-L", label])
        .arg(device)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| MachineError::os(format!("run {program}"), source))?;
    if run.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&run.stderr);
    let start = text.len().saturating_sub(OUTPUT);
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    Err(MachineError::Program { program: "mke2fs", output: format!("{}: {}", run.status, text[start..].trim()) })
}
