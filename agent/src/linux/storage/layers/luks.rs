//! Devices encrypted with LUKS2, by cryptsetup.
//!
//! Keys go to cryptsetup through a pipe and no other way: not by an argument, which every process can read, and not by a
//! file. One is made with the subsystem [`UNFINISHED`], which is taken away last.
//!
//! Keys are 256 random bits, or as good, so nothing is gained by making it slow to try them: PBKDF2 with the least number of
//! rounds. Argon2id guards words that people choose; what it takes for that, up to a gigabyte of memory for each attempt,
//! machines with 192 MiB do not have.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{UNFINISHED, clear, named, settle};
use crate::linux::modules;
use crate::linux::storage::disks::{Disks, Node};
use crate::linux::tools::run_told;
use crate::machine::MachineError;

/// A device that is to be encrypted.
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    /// As cryptsetup prints it.
    pub uuid: &'a str,
    /// Empty for none.
    pub label: &'a str,
    /// More words for `cryptsetup luksFormat`.
    pub options: &'a [String],
}

/// What dm-crypt and cryptsetup ask the kernel for: nobody answers its own asking.
const MODULES: [&str; 5] = ["dm_crypt", "xts", "ecb", "algif_skcipher", "algif_hash"];

/// Makes one. All that the device carries is lost.
pub fn create(disks: &Disks, new: &New<'_>, device: &Node, key: &[u8]) -> Result<(), MachineError> {
    make(disks, new, device, key)?;
    finish(disks, new, device, key)
}

/// Makes it as far as it is whole and bears the mark.
pub fn make(disks: &Disks, new: &New<'_>, device: &Node, key: &[u8]) -> Result<(), MachineError> {
    load()?;
    clear(disks, device)?;
    let label = ["--label", new.label];
    let mut words = vec!["luksFormat", "--batch-mode", "--type", "luks2", "--key-file", "-", "--uuid", new.uuid];
    words.extend(["--subsystem", UNFINISHED]);
    if !new.options.iter().any(|word| word.starts_with("--pbkdf") || word.starts_with("--iter-time")) {
        words.extend(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    }
    words.extend(label.iter().filter(|_| !new.label.is_empty()));
    words.extend(new.options.iter().map(String::as_str));
    cryptsetup(disks, &words, Some(device), key)?;
    settle(disks, device)
}

/// Clears what will be seen when it is open, and takes the mark away. It is closed then.
pub fn finish(disks: &Disks, new: &New<'_>, device: &Node, key: &[u8]) -> Result<(), MachineError> {
    open(disks, device, UNFINISHED, false, key)?;
    let cleared = named(&path(UNFINISHED)).and_then(|inner| clear(disks, &inner));
    // Also where that failed: nothing else would close it.
    close(disks, UNFINISHED).and(cleared)?;
    let words = ["config", "--batch-mode", "--label", new.label, "--subsystem", ""];
    cryptsetup(disks, &words, Some(device), &[])?;
    settle(disks, device)
}

/// Opens one as /dev/mapper/`name`. `discards` lets what is freed above be seen below: which blocks are in use.
pub fn open(disks: &Disks, device: &Node, name: &str, discards: bool, key: &[u8]) -> Result<(), MachineError> {
    load()?;
    // In the kernel's keyring nobody could read the key back to let the device grow.
    let mut words = vec!["open", "--batch-mode", "--type", "luks2", "--disable-keyring", "--key-file", "-"];
    words.extend(discards.then_some("--allow-discards"));
    let path = disks.device_path(device);
    let words = words.into_iter().map(OsStr::new).chain([path.as_os_str(), OsStr::new(name)]);
    run_told("cryptsetup", &words.collect::<Vec<_>>(), key)
}

/// Lets one that is open have all of a device that has grown.
pub fn grow(disks: &Disks, name: &str) -> Result<(), MachineError> {
    cryptsetup(disks, &["resize", "--batch-mode", name], None, &[])
}

/// Closes one that nobody uses; its key leaves the kernel.
pub fn close(disks: &Disks, name: &str) -> Result<(), MachineError> {
    cryptsetup(disks, &["close", name], None, &[])
}

/// The device of one that is open under this name.
pub fn path(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

fn cryptsetup(disks: &Disks, words: &[&str], device: Option<&Node>, key: &[u8]) -> Result<(), MachineError> {
    let path = device.map(|device| disks.device_path(device));
    let words = words.iter().map(OsStr::new).chain(path.as_deref().map(|path| path.as_os_str()));
    run_told("cryptsetup", &words.collect::<Vec<_>>(), key)
}

fn load() -> Result<(), MachineError> {
    // Quicker where the processor can, and not needed.
    let _ = modules::load("aesni_intel");
    MODULES.iter().try_for_each(|module| modules::load(module))
}
