//! Where `make build` and `make image` put what the tests use.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::scratch;

/// The `muster` program, beside the test that runs.
pub fn muster() -> Result<PathBuf> {
    let mut folder = std::env::current_exe()?;
    // target/debug/deps/TEST or target/debug/PROGRAM
    for _ in 0..2 {
        folder.pop();
        let program = folder.join("muster");
        if program.is_file() {
            return Ok(program);
        }
    }
    bail!("there is no muster program in {}; run `make build` first", folder.display())
}

/// The folder with `kernel` and `initramfs`.
pub fn image() -> Result<PathBuf> {
    let folder = scratch::build().join("image");
    for name in ["kernel", "initramfs"] {
        if !folder.join(name).is_file() {
            bail!("there is no {name} in {}; run `make image` first", folder.display());
        }
    }
    Ok(folder)
}

/// The agent as it runs on machines.
pub fn agent() -> Result<PathBuf> {
    let target = muster()?.ancestors().nth(2).map(PathBuf::from).context("a program lies in target/PROFILE")?;
    let program = target.join("x86_64-unknown-linux-musl/agent/muster-agent");
    if !program.is_file() {
        bail!("there is no agent at {}; run `make agent` first", program.display());
    }
    Ok(program)
}

/// Runs a command to its end and answers with its standard output.
///
/// Errors: it cannot be started, or fails; with what it wrote.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| format!("starting {program}"))?;
    if !done.status.success() {
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        bail!("{program} ended with {}: {} {}", done.status, out.trim(), err.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
