//! Programs from their packages with the libraries that they need, for an image without anything else in it.

use std::collections::{BTreeMap, BTreeSet};

use super::elf::{Elf, ElfError};
use crate::packages::Tree;

/// Where Debian's programs are, before and after its folders were merged into /usr.
const PROGRAMS: [&str; 4] = ["sbin", "bin", "usr/sbin", "usr/bin"];
/// The same of its libraries.
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

/// What programs run by.
#[derive(Debug, Default)]
pub struct Collected {
    /// Path in the image, contents. Programs are in `bin`, libraries in the one folder of theirs.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The packages that they are from, as they were named.
    pub packages: BTreeSet<String>,
}

/// The files by which `programs` run, from packages by name.
pub fn collect<'a>(
    packages: &BTreeMap<String, Tree>,
    programs: impl IntoIterator<Item = &'a str>,
) -> Result<Collected, ProgramError> {
    let mut collected = Collected::default();
    let named = |name: &str| PROGRAMS.iter().map(|folder| format!("{folder}/{name}")).collect::<Vec<_>>();
    let mut pending: Vec<_> = programs.into_iter().map(|name| (format!("bin/{name}"), named(name))).collect();
    while let Some((path, places)) = pending.pop() {
        if collected.files.contains_key(&path) {
            continue;
        }
        let mut found = packages.iter().filter_map(|(name, tree)| {
            let bytes = places.iter().find_map(|place| tree.file(place))?;
            Some((name, bytes))
        });
        let (package, bytes) = found.next().ok_or_else(|| ProgramError::Missing { path: path.clone() })?;
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
        collected.packages.insert(package.clone());
        collected.files.insert(path, bytes.to_vec());
    }
    Ok(collected)
}
