//! The programs that storage steps run: those of the tools image where one is mounted, else those of the machine's system.
//!
//! [`run`] is for whoever needs a program; [`image`] brings them to a machine that boots from Muster's image. Nothing is
//! remembered here: what is mounted is found again by an agent that was restarted.

pub mod image;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::machine::MachineError;

/// Where a tools image is mounted.
pub const MOUNTED: &str = "/run/muster/tools";

/// The loader and the libraries in it.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// Where an ordinary system has its programs.
const FOLDERS: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];
/// Bytes of its output that an error repeats.
const OUTPUT: usize = 500;

/// Whether a tools image is mounted.
pub fn are_here() -> bool {
    Path::new(MOUNTED).join(LOADER).exists()
}

/// Runs a program to its end. Nobody is there to answer its questions. Takes seconds to minutes: a large disk is discarded
/// before a filesystem is made on it.
///
/// Errors: there is none of this name, or it failed; what it was to write then carries anything.
pub fn run(program: &'static str, args: &[&OsStr]) -> Result<(), MachineError> {
    run_told(program, args, &[])
}

/// The same, and the program is told something on its standard input: a secret, which neither an argument nor a file may
/// hold. Not more than a pipe takes at once.
pub fn run_told(program: &'static str, args: &[&OsStr], told: &[u8]) -> Result<(), MachineError> {
    let mut command = command(program)?;
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let talk = || -> io::Result<_> {
        let mut child = command.spawn()?;
        // It ends when this is dropped. Who does not listen says why himself.
        let _ = child.stdin.take().map(|mut pipe| pipe.write_all(told));
        child.wait_with_output()
    };
    let run = { talk }().map_err(|source| MachineError::os(format!("run {program}"), source))?;
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
pub fn run_alone(program: &'static str, args: &[&OsStr]) -> Result<(), MachineError> {
    for _ in 0..40 {
        match run(program, args) {
            Err(MachineError::Program { output, .. })
                if ["busy", "in use by", "exclusive access"].iter().any(|word| output.contains(word)) =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
    run(program, args)
}

/// A program of this name, without arguments yet. It speaks English.
///
/// Errors: there is none.
pub fn command(program: &str) -> Result<Command, MachineError> {
    let mut command = of_image(Path::new(MOUNTED), program)
        .or_else(|| of_system(program))
        .ok_or_else(|| MachineError::Unable(format!("run {program}: it is not there; install {}", package(program))))?;
    command.env("LC_ALL", "C");
    // The device mapper's programs make their nodes in /dev themselves, and wait for no udev; LVM reads no configuration.
    command.env("DM_DISABLE_UDEV", "1").env("LVM_SYSTEM_DIR", "").env("LVM_SUPPRESS_FD_WARNINGS", "1");
    Ok(command)
}

/// The machine has no libraries of its own where programs look for them: the image's own loader is told where they are.
fn of_image(mounted: &Path, program: &str) -> Option<Command> {
    let file = Some(mounted.join("bin").join(program)).filter(|file| file.exists())?;
    let mut command = Command::new(mounted.join(LOADER));
    command.arg("--inhibit-cache").arg("--library-path").arg(mounted.join(LIBRARIES)).arg(file);
    command.env("MKE2FS_CONFIG", mounted.join("etc/mke2fs.conf"));
    Some(command)
}

/// The Debian package that has it.
fn package(program: &str) -> &'static str {
    match program {
        "mkfs.xfs" | "xfs_db" | "xfs_growfs" => "xfsprogs",
        "mkfs.btrfs" | "btrfs" => "btrfs-progs",
        "mkfs.vfat" => "dosfstools",
        "mdadm" => "mdadm",
        "cryptsetup" => "cryptsetup-bin",
        "lvm" => "lvm2",
        _ => "e2fsprogs",
    }
}

fn of_system(program: &str) -> Option<Command> {
    let places = FOLDERS.iter().map(|folder| Path::new(folder).join(program));
    places.filter(|path| path.exists()).map(Command::new).next()
}

/// The drivers of the tools image for a kernel of this release.
pub fn modules(release: &str) -> PathBuf {
    Path::new(MOUNTED).join("lib/modules").join(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_how_and_one_that_lacks_is_named() {
        run("true", &[]).expect("every system has it");
        let error = run("ls", &[OsStr::new("/no/such/folder")]).expect_err("it fails").to_string();
        assert!(error.starts_with("ls failed: exit status: 2: ") && error.contains("/no/such/folder"), "{error}");
        let error = run("no-such-program", &[]).expect_err("it lacks").to_string();
        assert!(error.starts_with("this machine cannot run no-such-program"), "{error}");
    }
}
