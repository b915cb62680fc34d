//! Where `make build` and `make image` put what the tests use.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

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

/// A program as it is released: what is slow in one for tests says nothing.
pub fn released(name: &str) -> Result<PathBuf> {
    let target = muster()?.ancestors().nth(2).map(PathBuf::from).context("a program lies in target/PROFILE")?;
    let program = target.join("release").join(name);
    if !program.is_file() {
        bail!("there is no {}; run `make bench PARTS=ial`, which builds it", program.display());
    }
    Ok(program)
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

/// The tools of that image.
pub fn tools() -> Result<PathBuf> {
    let folder = image()?;
    let manifest = muster_ipxe::image::read(&folder)?;
    Ok(folder.join(muster_ipxe::image::tools::FOLDER).join(manifest.tools.image.sha256))
}

/// A Debian on the disk of a machine that starts by UEFI or a BIOS, with cloud-init in it.
pub fn system() -> Result<PathBuf> {
    let file = scratch::build().join("system/system.qcow2");
    if !file.is_file() {
        bail!("there is no {}; run `make {}` first", file.display(), "build/system/system.qcow2");
    }
    Ok(file)
}

/// Where tests keep Debian's packages, so that only the first run downloads anything.
pub fn package_cache() -> PathBuf {
    std::env::var_os("MUSTER_CACHE").map_or_else(|| scratch::build().join("cache"), PathBuf::from)
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

/// The workspace's test programs whose names match `pattern` (`network_kernel*`), in their order.
///
/// Asks cargo, which builds what is not built yet, exactly as it does for all tests; so none of them is stale.
pub fn test_programs(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["test", "--workspace", "--test", pattern, "--no-run", "--locked", "--offline"]);
    cargo.args(["--quiet", "--message-format=json"]).current_dir(scratch::repository());
    // What cargo says of this test's own package to this test: build scripts that look at it would be run again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|start| name.to_string_lossy().starts_with(start))
        {
            cargo.env_remove(name);
        }
    }
    let mut programs = Vec::new();
    for line in output(&mut cargo)?.lines() {
        let message: Value = serde_json::from_str(line).with_context(|| format!("{line:?} is no JSON"))?;
        if message["reason"] == "compiler-artifact"
            && message["profile"]["test"] == true
            && let Some(program) = message["executable"].as_str()
        {
            programs.push(PathBuf::from(program));
        }
    }
    programs.sort();
    Ok(programs)
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
