//! Which kernel modules go into an image, and the index files by which the agent finds them.
//!
//! Everything is read from the modules themselves (their `.modinfo`), so that no depmod is needed on the host that
//! builds; a test holds the index files against depmod's.
//! Pure: whoever reads the kernel's package shows each file to [`Catalog::add`] first, and what [`Catalog::take`] says
//! is wanted goes into the image.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;

use super::elf::{Elf, ElfError};

/// Why modules cannot be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// A module that is none.
    #[error("{path} is no kernel module")]
    Malformed {
        /// Which one.
        path: String,
        /// What is wrong with it.
        #[source]
        source: ElfError,
    },
    /// A module that cannot be unpacked.
    #[error("{path} cannot be unpacked: {problem}")]
    Compression {
        /// Which one.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A kernel package that lacks a part.
    #[error("module {module} needs {needs}, which this kernel does not have")]
    Incomplete {
        /// The one that needs.
        module: String,
        /// What it needs.
        needs: String,
    },
}

/// What one module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module {
    /// Path below `lib/modules/RELEASE`, without any compression's suffix: `kernel/drivers/net/veth.ko`.
    pub path: String,
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// `pre: a b post: c`: what should be loaded with it, by name or alias.
    pub softdeps: Vec<String>,
    /// Patterns of what it drives.
    pub aliases: Vec<String>,
    /// Files that it may ask for.
    pub firmware: Vec<String>,
}

impl Module {
    fn from_modinfo(path: String, pairs: &[(&str, &str)]) -> Self {
        let all = |key: &str| -> Vec<String> {
            pairs.iter().filter(|(k, _)| *k == key).map(|(_, value)| (*value).to_owned()).collect()
        };
        let depends = all("depends");
        let depends = depends.iter().flat_map(|list| list.split(',')).map(normal).filter(|name| !name.is_empty());
        Self {
            path,
            depends: depends.collect(),
            softdeps: all("softdep"),
            aliases: all("alias"),
            firmware: all("firmware"),
        }
    }
}

/// Bytes; the largest module of Debian's kernels has 20 MB.
const MODULE_MAX: u64 = 256 << 20;

/// The kernel takes `-` and `_` in names for the same.
fn normal(name: &str) -> String {
    name.trim().replace('-', "_")
}

/// A name from a path: `kernel/drivers/net/hv-sock.ko` is `hv_sock`.
pub(super) fn name_of(path: &str) -> String {
    normal(path.rsplit('/').next().unwrap_or_default().split('.').next().unwrap_or_default())
}

/// Every module of a kernel.
#[derive(Debug, Default)]
pub struct Catalog {
    modules: BTreeMap<String, Module>,
    /// `modules.builtin` as the package has it.
    built_in_text: String,
    built_in: BTreeSet<String>,
}

/// What was chosen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Names, with everything they need.
    pub modules: BTreeSet<String>,
    /// Names that were wanted and are part of the kernel itself.
    pub built_in: BTreeSet<String>,
    /// Names that were wanted and that this kernel does not have.
    pub missing: BTreeSet<String>,
}

impl Catalog {
    /// Takes note of a file of the kernel; `path` is below `lib/modules/RELEASE`. Other files than modules are ignored.
    pub fn add(&mut self, path: &str, bytes: &[u8]) -> Result<(), ModuleError> {
        if path == "modules.builtin" {
            self.built_in_text = String::from_utf8_lossy(bytes).into_owned();
            self.built_in = self.built_in_text.lines().map(name_of).collect();
        } else if let Some(plain) = plain_path(path) {
            let module = with_elf(path, bytes, |elf| Module::from_modinfo(plain, &elf.modinfo()))?;
            self.modules.insert(name_of(path), module);
        }
        Ok(())
    }

    /// A module's path and contents in the image, uncompressed and without ballast; `None` where it was not chosen.
    pub fn take(&self, choice: &Choice, path: &str, bytes: &[u8]) -> Result<Option<(String, Vec<u8>)>, ModuleError> {
        match plain_path(path).filter(|_| choice.modules.contains(&name_of(path))) {
            None => Ok(None),
            Some(plain) => Ok(Some((plain, with_elf(path, bytes, |elf| elf.without_ballast())?))),
        }
    }

    /// The modules in `wanted` and all that they depend on, hard or soft.
    ///
    /// Errors: a hard dependency that the kernel does not have.
    pub fn choose<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Result<Choice, ModuleError> {
        let mut choice = Choice::default();
        let mut pending = vec![];
        for name in wanted.into_iter().map(normal) {
            if self.modules.contains_key(&name) {
                pending.push(name);
            } else if self.built_in.contains(&name) {
                choice.built_in.insert(name);
            } else {
                choice.missing.insert(name);
            }
        }
        let mut by_alias: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for (name, module) in &self.modules {
            module.aliases.iter().for_each(|alias| by_alias.entry(alias).or_default().push(name));
        }
        while let Some(name) = pending.pop() {
            let Some(module) = self.modules.get(&name).filter(|_| !choice.modules.contains(&name)) else { continue };
            for needs in &module.depends {
                if self.modules.contains_key(needs) {
                    pending.push(needs.clone());
                } else if !self.built_in.contains(needs) {
                    return Err(ModuleError::Incomplete { module: name, needs: needs.clone() });
                }
            }
            let soft = module.softdeps.iter().flat_map(|text| text.split_whitespace());
            for word in soft.filter(|word| !word.ends_with(':')) {
                let providers = by_alias.get(word).into_iter().flatten().map(|name| (*name).clone());
                pending.extend(providers.chain(self.modules.contains_key(&normal(word)).then(|| normal(word))));
            }
            choice.modules.insert(name);
        }
        Ok(choice)
    }

    /// The chosen modules, by name.
    pub fn chosen(&self, choice: &Choice) -> impl Iterator<Item = (&str, &Module)> {
        let chosen = choice.modules.iter().filter_map(|name| self.modules.get_key_value(name));
        chosen.map(|(name, module)| (name.as_str(), module))
    }

    /// The index files for the chosen modules, by name, in depmod's formats (modules.dep(5)).
    pub fn index(&self, choice: &Choice) -> Vec<(&'static str, String)> {
        let (mut dep, mut alias, mut softdep) = (String::new(), String::new(), String::new());
        for (name, module) in self.chosen(choice) {
            let _ = write!(dep, "{}:", module.path);
            for needed in self.load_order(name).iter().rev() {
                let _ = write!(dep, " {}", needed.path);
            }
            dep.push('\n');
            module.aliases.iter().for_each(|pattern| {
                let _ = writeln!(alias, "alias {pattern} {name}");
            });
            module.softdeps.iter().for_each(|text| {
                let _ = writeln!(softdep, "softdep {name} {text}");
            });
        }
        let built_in = self.built_in_text.clone();
        vec![
            ("modules.dep", dep),
            ("modules.alias", alias),
            ("modules.softdep", softdep),
            ("modules.builtin", built_in),
        ]
    }

    /// What must be loaded before `name`, first things first. modules.dep has it the other way round.
    fn load_order<'a>(&'a self, name: &'a str) -> Vec<&'a Module> {
        let mut order = vec![];
        let mut seen = BTreeSet::from([name]);
        self.visit(name, &mut seen, &mut order);
        order.pop();
        order
    }

    fn visit<'a>(&'a self, name: &'a str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<&'a Module>) {
        let Some(module) = self.modules.get(name) else { return };
        for needs in &module.depends {
            if seen.insert(needs) {
                self.visit(needs, seen, order);
            }
        }
        order.push(module);
    }
}

/// The path of a module without its compression; `None` for other files.
fn plain_path(path: &str) -> Option<String> {
    [".ko", ".ko.xz"].iter().find_map(|end| path.strip_suffix(end)).map(|stem| format!("{stem}.ko"))
}

/// Debian 12 ships modules as they are, Debian 13 compressed.
fn with_elf<T>(path: &str, bytes: &[u8], use_it: impl FnOnce(&Elf<'_>) -> T) -> Result<T, ModuleError> {
    let mut unpacked = vec![];
    let bytes = if path.ends_with(".xz") {
        let read = lzma_rust2::XzReader::new(bytes, false).take(MODULE_MAX).read_to_end(&mut unpacked);
        read.map_err(|e| ModuleError::Compression { path: path.to_owned(), problem: e.to_string() })?;
        &unpacked
    } else {
        bytes
    };
    let elf = Elf::parse(bytes).map_err(|source| ModuleError::Malformed { path: path.to_owned(), source })?;
    Ok(use_it(&elf))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel of which each line says `name: depends; softdeps; alias`.
    fn kernel(lines: &[&str]) -> Catalog {
        let mut catalog = Catalog { built_in: BTreeSet::from(["ipv6".to_owned()]), ..Catalog::default() };
        for line in lines {
            let (name, rest) = line.split_once(':').expect("a name");
            let mut parts = rest.splitn(3, ';').map(str::trim);
            let pairs = ["depends", "softdep", "alias"].map(|key| (key, parts.next().unwrap_or_default()));
            let pairs: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            catalog.modules.insert(normal(name), Module::from_modinfo(format!("kernel/{name}.ko"), &pairs));
        }
        catalog
    }

    fn names(choice: &Choice) -> Vec<&str> {
        choice.modules.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_module_brings_everything_that_it_needs() {
        let kernel = kernel(&["raid456: md-mod,async_xor", "md-mod:", "async_xor: xor", "xor:", "other:"]);
        let choice = kernel.choose(["raid456"]).expect("complete");
        assert_eq!(names(&choice), ["async_xor", "md_mod", "raid456", "xor"]);
    }

    #[test]
    fn soft_dependencies_come_along_by_name_and_by_alias_and_may_be_missing() {
        let kernel = kernel(&[
            "r8169: ; pre: realtek nothing",
            "realtek: libphy",
            "libphy:",
            "ext4: ; pre: crypto-crc32c",
            "crc32c-intel: ;; crypto-crc32c",
            "crc32c_generic: ;; crypto-crc32c",
        ]);
        assert_eq!(names(&kernel.choose(["r8169"]).expect("complete")), ["libphy", "r8169", "realtek"]);
        assert_eq!(names(&kernel.choose(["ext4"]).expect("complete")), ["crc32c_generic", "crc32c_intel", "ext4"]);
    }

    #[test]
    fn what_a_kernel_lacks_is_told_and_what_it_has_built_in_is_not_lacking() {
        let kernel = kernel(&["a: gone", "b:"]);
        let choice = kernel.choose(["b", "ipv6", "no-such"]).expect("complete");
        assert_eq!(names(&choice), ["b"]);
        assert_eq!(choice.built_in, BTreeSet::from(["ipv6".to_owned()]));
        assert_eq!(choice.missing, BTreeSet::from(["no_such".to_owned()]));
        let error = kernel.choose(["a"]).expect_err("a needs what is not there");
        assert_eq!(error.to_string(), "module a needs gone, which this kernel does not have");
    }

    #[test]
    fn modules_that_need_each_other_are_no_trap() {
        let kernel = kernel(&["a: b", "b: a"]);
        let choice = kernel.choose(["a"]).expect("complete");
        assert_eq!(names(&choice), ["a", "b"]);
        assert_eq!(kernel.index(&choice)[0].1, "kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n");
    }

    #[test]
    fn the_index_lists_what_to_load_last_things_first() {
        let kernel = kernel(&["top: mid,base; pre: x; pci:v*", "mid: base", "base:"]);
        let choice = kernel.choose(["top"]).expect("complete");
        let index = kernel.index(&choice);
        assert_eq!(index[0].0, "modules.dep");
        assert_eq!(
            index[0].1,
            "kernel/base.ko:\nkernel/mid.ko: kernel/base.ko\nkernel/top.ko: kernel/mid.ko kernel/base.ko\n"
        );
        assert_eq!(index[1].1, "alias pci:v* top\n");
        assert_eq!(index[2].1, "softdep top pre: x\n");
    }
}
