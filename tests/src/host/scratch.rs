//! One folder for each test: logs, consoles, disks.
//!
//! It is emptied when its test starts and stays when the test ends, so that a failure can be looked at.
//! `make test` prints where they are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace")
}

/// What the build leaves behind and git ignores.
pub fn build() -> PathBuf {
    repository().join("build")
}

/// An empty folder called `name`.
pub fn scratch(name: &str) -> Result<PathBuf> {
    scratch_in(&build().join("tests"), name)
}

/// An empty folder called `name` in another one.
pub fn scratch_in(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).with_context(|| format!("emptying {}", path.display()))?;
    }
    std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}
