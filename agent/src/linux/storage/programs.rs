//! Programs that make, label and grow filesystems: those of the formats' own people.
//!
//! Called by `make` and `grow`. Which device they work on was decided and checked before.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::machine::MachineError;

/// Where programs may be: in Muster's image, or on a machine that has a system of its own.
const FOLDERS: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];
/// Bytes of its output that an error repeats.
const OUTPUT: usize = 500;

/// Runs one to its end. Takes seconds to minutes: large disks are discarded first.
///
/// Errors: there is no such program, or it failed.
pub(super) fn run(program: &'static str, args: &[&OsStr]) -> Result<(), MachineError> {
    let paths = FOLDERS.map(|folder| Path::new(folder).join(program));
    let Some(path) = paths.iter().find(|path| path.exists()) else {
        return Err(MachineError::Unable(format!("run {program}: it is not there; install {}", package(program))));
    };
    let run = Command::new(path)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| MachineError::os(format!("run {}", path.display()), source))?;
    if run.status.success() {
        return Ok(());
    }
    // Some complain where others answer.
    let text = [run.stdout, run.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let start = text.len().saturating_sub(OUTPUT);
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    Err(MachineError::Program { program, output: format!("{}: {}", run.status, text[start..].trim()) })
}

/// The same, for one that wants a device for itself. Somebody who looks at every new disk, udev for one, may have it
/// open for a moment, and so has a process that is being started just then and still holds what this one had open.
pub(super) fn run_alone(program: &'static str, args: &[&OsStr]) -> Result<(), MachineError> {
    for _ in 0..40 {
        match run(program, args) {
            Err(MachineError::Program { output, .. }) if output.contains("busy") || output.contains("in use by") => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
    run(program, args)
}

/// The Debian package that has it.
fn package(program: &str) -> &'static str {
    match program {
        "mkfs.xfs" | "xfs_db" | "xfs_growfs" => "xfsprogs",
        "mkfs.btrfs" | "btrfs" => "btrfs-progs",
        "mkfs.vfat" | "fatlabel" => "dosfstools",
        _ => "e2fsprogs",
    }
}
