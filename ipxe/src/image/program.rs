//! A program from its packages with the libraries that it needs, for an image without anything else in it.

use std::collections::BTreeMap;

use super::elf::{Elf, ElfError};
use crate::packages::Tree;

/// Where Debian's libraries are, before and after its folders were merged into /usr.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// Why a program cannot be taken along.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// It, or a library that it needs, is not in the packages.
    #[error("{path} is not in the packages that were fetched for it")]
    Missing {
        /// Path in the image.
        path: String,
    },
    /// Not a program or library.
    #[error("{path} is no program")]
    Malformed {
        /// Path in the image.
        path: String,
        /// What is wrong with it.
        #[source]
        source: ElfError,
    },
}

/// The files by which `program` (such as `sbin/mke2fs`) runs: path in the image, contents.
///
/// All libraries land in the one folder that the loader looks into by itself.
pub fn collect(packages: &Tree, program: &str) -> Result<BTreeMap<String, Vec<u8>>, ProgramError> {
    let mut files = BTreeMap::new();
    let mut pending = vec![(program.to_owned(), vec![program.to_owned(), format!("usr/{program}")])];
    while let Some((path, places)) = pending.pop() {
        if files.contains_key(&path) {
            continue;
        }
        let bytes = places.iter().find_map(|place| packages.file(place));
        let bytes = bytes.ok_or_else(|| ProgramError::Missing { path: path.clone() })?;
        let elf = Elf::parse(bytes).map_err(|source| ProgramError::Malformed { path: path.clone(), source })?;
        if let Some(loader) = elf.interpreter() {
            let loader = loader.trim_start_matches('/');
            pending.push((loader.to_owned(), vec![loader.to_owned(), format!("usr/{loader}")]));
        }
        // The loader is needed by libc as well, by its bare name.
        for library in elf.needed().into_iter().filter(|name| !name.starts_with("ld-linux")) {
            let places = LIBRARIES.iter().map(|folder| format!("{folder}/{library}")).collect();
            pending.push((format!("{}/{library}", LIBRARIES[0]), places));
        }
        files.insert(path, bytes.to_vec());
    }
    Ok(files)
}
