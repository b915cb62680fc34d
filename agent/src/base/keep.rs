//! What an agent keeps beyond its own process: in RAM for PID 1's worker, in a folder for an ordinary process.
//!
//! Used by `identity` (key and certificate) and `reconcile` (what it was at). Names are fixed, values are bytes.
//! Nothing here is promised to survive a reboot of a machine, and nothing needs to.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Where an agent keeps things.
#[derive(Debug, Clone)]
pub enum Keep {
    /// In this process: for simulated machines. Clones share it, so that a restarted agent finds it again.
    Memory(Arc<Mutex<BTreeMap<&'static str, Vec<u8>>>>),
    /// In this folder, which is made with mode 0700, in files of mode 0600.
    Folder(PathBuf),
}

impl Keep {
    /// An empty place in memory.
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// What was kept under this name; `None` where nothing was or it cannot be read.
    pub fn read(&self, name: &'static str) -> Option<Vec<u8>> {
        match self {
            Self::Memory(map) => map.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned(),
            Self::Folder(folder) => fs::read(folder.join(name)).ok(),
        }
    }

    /// Keeps `bytes` under this name, in place of what was there; afterwards either all of it is there or the old.
    pub fn write(&self, name: &'static str, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(map) => {
                map.lock().unwrap_or_else(PoisonError::into_inner).insert(name, bytes.to_vec());
                Ok(())
            }
            Self::Folder(folder) => {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                let new = folder.join(format!("{name}.new"));
                // A file left by a crash may have another owner's mode: the new one is always made afresh.
                let _ = fs::remove_file(&new);
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
                file.write_all(bytes)?;
                file.sync_all()?;
                fs::rename(new, folder.join(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_gives_back_what_it_was_given_and_shows_it_to_nobody() {
        let folder = std::env::temp_dir().join(format!("muster-keep-{}", std::process::id()));
        let keep = Keep::Folder(folder.clone());
        assert_eq!(keep.read("identity"), None);
        keep.write("identity", b"one").expect("written");
        keep.write("identity", b"two").expect("written again");
        assert_eq!(keep.read("identity").as_deref(), Some(&b"two"[..]));
        let mode = |path: &PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("identity"))), (0o700, 0o600));
        fs::remove_dir_all(folder).expect("removed");
    }
}
