//! Kernel modules: what the hardware asks for, and what a configuration needs.
//!
//! [`load`] is for whoever is about to need a driver; [`hotplug`] serves what the hardware asks for, at the start and for
//! ever after. Which file that means is read from the text files that depmod makes ([`index`]); the kernel's own way of
//! asking for modules needs a modprobe program, and there is none in the image.

pub mod hotplug;
pub mod index;
mod usb;

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::system::{finit_module, uname};

use crate::linux::tools;
use crate::machine::MachineError;
use index::Index;

/// Where ordinary systems keep the program that knows everything about modules.
const MODPROBE: &str = "/sbin/modprobe";

/// Loads a module by name, or what answers to an alias such as `fs-ext4`, with all it depends on.
/// Quick and fine where it is loaded or built in.
///
/// Errors: [`MachineError::Unable`] where the image does not carry it, [`MachineError::Os`] where the kernel refuses it.
pub fn load(name: &str) -> Result<(), MachineError> {
    if is_loaded(&index::normalized(name)) {
        return Ok(());
    }
    let Some(index) = index() else {
        // A kernel without modules: whatever it can do is built in, and it will say so when it is asked.
        return Ok(());
    };
    let mut modules = vec![name.to_owned()];
    if index.path(name).is_none() && !index.is_built_in(name) {
        modules = index.wanted_by(name);
        if modules.is_empty() {
            return Err(MachineError::Unable(format!(
                "load the kernel module {name}: it is not in this image; build the image with it"
            )));
        }
    }
    modules.iter().try_for_each(|module| load_module(&index, module))
}

/// What the tools image says of all modules where it is there, else what the machine itself has.
fn index() -> Option<Index> {
    let (own, fetched) = (folder(), tools::modules(&uname().release().to_string_lossy()));
    match Index::read(&fetched) {
        Some(index) => Some(Index { folder: own, beside: Some(fetched), ..index }),
        None => Index::read(&own),
    }
}

/// `/lib/modules/` and the release of the kernel that runs.
fn folder() -> PathBuf {
    Path::new("/lib/modules").join(uname().release().to_string_lossy().as_ref())
}

fn is_loaded(normalized: &str) -> bool {
    Path::new("/sys/module").join(normalized).exists()
}

/// Loads a module after everything it depends on. What is named by a softdep may be missing.
fn load_module(index: &Index, name: &str) -> Result<(), MachineError> {
    let mut order = Vec::new();
    index.order(name, &mut BTreeSet::new(), &mut order);
    for module in order {
        match insert(index, &module.name) {
            Ok(()) => {}
            Err(error) if module.is_needed => return Err(error),
            Err(error) => crate::warn!("{}", crate::machine::chain(&error)),
        }
    }
    Ok(())
}

/// What a module is told when it is loaded: bonding makes a `bond0` of its own accord otherwise.
fn parameters(normalized: &str) -> &'static CStr {
    if normalized == "bonding" { c"max_bonds=0" } else { c"" }
}

/// Hands one file to the kernel.
fn insert(index: &Index, name: &str) -> Result<(), MachineError> {
    let normalized = index::normalized(name);
    let Some(path) = index.path(name).filter(|_| !is_loaded(&normalized)) else {
        return Ok(());
    };
    let action = || format!("load the kernel module {normalized}");
    if path.extension().is_some_and(|extension| extension != "ko") {
        return insert_compressed(&normalized, &path);
    }
    let file = File::open(&path).map_err(|error| MachineError::os(action(), error))?;
    match finit_module(&file, parameters(&normalized), 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(MachineError::os(action(), error)),
    }
}

/// Only an ordinary system has compressed modules, and then it has a modprobe as well.
fn insert_compressed(name: &str, path: &Path) -> Result<(), MachineError> {
    if !Path::new(MODPROBE).exists() {
        return Err(MachineError::Unable(format!(
            "load the kernel module {name}: {} is compressed; build the image with uncompressed modules",
            path.display()
        )));
    }
    let parameters = parameters(name).to_str().unwrap_or_default().split_ascii_whitespace();
    let output = Command::new(MODPROBE).arg(name).args(parameters).output();
    let output = output.map_err(|error| MachineError::os(format!("run {MODPROBE}"), error))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MachineError::Program { program: "modprobe", output: format!("{}: {text}", output.status) })
}

#[cfg(test)]
mod tests {
    use super::parameters;

    #[test]
    fn no_bond_is_made_that_nobody_asked_for() {
        assert_eq!(parameters("bonding"), c"max_bonds=0");
        assert_eq!(parameters("bridge"), c"");
    }
}
