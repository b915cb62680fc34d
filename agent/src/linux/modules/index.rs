//! The text files that depmod makes of a folder of modules: which file a name means, what it depends on, and which
//! hardware it is for (modules.dep(5), kmod's depmod).
//!
//! Pure but for [`Index::read`]. The texts are kept as they are: the lookups of one boot do not pay for a better form.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a folder of modules says about itself.
#[derive(Debug, Default)]
pub struct Index {
    /// The folder: paths are relative to it.
    pub folder: PathBuf,
    /// Another one, for what is not in that.
    pub beside: Option<PathBuf>,
    /// modules.dep: `path: path path …`.
    pub dependencies: String,
    /// modules.alias: `alias PATTERN MODULE`.
    pub aliases: String,
    /// modules.softdep: `softdep MODULE pre: … post: …`.
    pub soft_dependencies: String,
    /// modules.builtin: one path a line.
    pub built_in: String,
}

/// A module to load, in its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Its name.
    pub name: String,
    /// Whether those after it cannot do without it.
    pub is_needed: bool,
}

/// A module's name as the kernel says it: `-` and `_` are the same to it.
pub fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

impl Index {
    /// Reads a folder. `None` where it has no modules.dep.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = |name: &str| fs::read_to_string(folder.join(name));
        Some(Self {
            folder: folder.to_owned(),
            beside: None,
            dependencies: text("modules.dep").ok()?,
            aliases: text("modules.alias").unwrap_or_default(),
            soft_dependencies: text("modules.softdep").unwrap_or_default(),
            built_in: text("modules.builtin").unwrap_or_default(),
        })
    }

    /// The file of a module, absolute.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let (path, _) = self.line(name)?;
        let own = self.folder.join(path);
        let beside = self.beside.as_ref().filter(|_| !own.exists());
        Some(beside.map_or(own, |folder| folder.join(path)))
    }

    /// Whether the kernel has it anyway.
    pub fn is_built_in(&self, name: &str) -> bool {
        let name = normalized(name);
        self.built_in.lines().any(|path| stem(path) == name)
    }

    /// The modules that are made for this hardware, or answer to this alias; each once, in the order of the file.
    pub fn wanted_by(&self, alias: &str) -> Vec<String> {
        let mut modules: Vec<String> = Vec::new();
        for line in self.aliases.lines() {
            let Some((pattern, module)) = line.strip_prefix("alias ").and_then(|rest| rest.rsplit_once(' ')) else {
                continue;
            };
            if matches(pattern.as_bytes(), alias.as_bytes()) && !modules.iter().any(|have| have == module) {
                modules.push(module.to_owned());
            }
        }
        modules
    }

    /// Appends a module and everything that must be there before and after it, in the order of loading.
    /// `seen` ends circles, which softdeps may have.
    pub fn order(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<Turn>) {
        self.add(name, true, seen, order);
    }

    fn add(&self, name: &str, is_needed: bool, seen: &mut BTreeSet<String>, order: &mut Vec<Turn>) {
        let name = normalized(name);
        if !seen.insert(name.clone()) {
            return;
        }
        let (before, after) = self.soft(&name);
        before.iter().for_each(|soft| self.add_soft(soft, seen, order));
        // depmod lists the nearest dependency first: the last one has none itself.
        let needs: Vec<String> = self.line(&name).map_or_else(Vec::new, |(_, needs)| needs.map(stem).collect());
        needs.iter().rev().for_each(|need| self.add(need, is_needed, seen, order));
        order.push(Turn { name, is_needed });
        after.iter().for_each(|soft| self.add_soft(soft, seen, order));
    }

    /// A softdep names a module, or an alias such as `crypto-crc32c`, to which several may answer.
    fn add_soft(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<Turn>) {
        if self.path(name).is_some() {
            self.add(name, false, seen, order);
        } else {
            self.wanted_by(name).iter().for_each(|module| self.add(module, false, seen, order));
        }
    }

    /// The line of modules.dep that is about this module: its path, and the paths that it needs.
    fn line(&self, name: &str) -> Option<(&str, impl DoubleEndedIterator<Item = &str>)> {
        let name = normalized(name);
        let mut lines = self.dependencies.lines().filter_map(|line| line.split_once(':'));
        let (path, needs) = lines.find(|(path, _)| stem(path) == name)?;
        Some((path, needs.split_ascii_whitespace()))
    }

    /// What is better loaded before and after this module.
    fn soft(&self, name: &str) -> (Vec<&str>, Vec<&str>) {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for line in self.soft_dependencies.lines() {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("softdep") || words.next().map(normalized).as_deref() != Some(name) {
                continue;
            }
            let mut list = &mut before;
            for word in words {
                match word {
                    "pre:" => list = &mut before,
                    "post:" => list = &mut after,
                    module => list.push(module),
                }
            }
        }
        (before, after)
    }
}

/// `kernel/drivers/net/e1000-x.ko.xz` is `e1000_x`.
fn stem(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    normalized(file.split_once(".ko").map_or(file, |(name, _)| name))
}

/// Whether a pattern of modules.alias (fnmatch(3): `*`, `?`, `[…]`) covers this text. `-` and `_` are the same.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit: the star takes one more byte.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let fits = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            None => None,
            Some(_) if t == text.len() => return false,
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(byte) => same(*byte, text[t]).then_some(1),
        };
        match (fits, star) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, Some((after, at))) if at < text.len() => {
                star = Some((after, at + 1));
                (p, t) = (after, at + 1);
            }
            (None, _) => return false,
        }
    }
}

fn same(one: u8, other: u8) -> bool {
    let one_of = |byte| if byte == b'-' { b'_' } else { byte };
    one_of(one) == one_of(other)
}

/// How long the class at the start of `pattern` is, where it holds the byte.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|&b| b == b']')?;
    let mut inside = &pattern[1..end];
    let wanted = match inside.split_first() {
        Some((b'!' | b'^', rest)) => {
            inside = rest;
            false
        }
        _ => true,
    };
    let mut found = false;
    while let [first, rest @ ..] = inside {
        match rest {
            [b'-', last, rest @ ..] => {
                found |= (*first..=*last).contains(&byte);
                inside = rest;
            }
            _ => {
                found |= *first == byte;
                inside = rest;
            }
        }
    }
    (found == wanted).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines out of Debian's 6.1 kernel.
    fn index() -> Index {
        Index {
            folder: "/lib/modules/6.1.0".into(),
            beside: None,
            dependencies: "\
kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko: kernel/drivers/ptp/ptp.ko kernel/drivers/pps/pps_core.ko
kernel/drivers/ptp/ptp.ko: kernel/drivers/pps/pps_core.ko
kernel/drivers/pps/pps_core.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/lib/crc16.ko:
kernel/fs/mbcache.ko:
kernel/fs/jbd2/jbd2.ko:
kernel/crypto/crc32c_generic.ko:
kernel/arch/x86/crypto/crc32c-intel.ko.xz:
"
            .into(),
            aliases: "\
# Aliases extracted from modules themselves.
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
alias pci:v00008086d00001502sv*sd*bc*sc*i* e1000e
alias virtio:d00000001v* virtio_net
alias virtio:d00000002v* virtio_blk
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci
alias cpu:type:x86,ven*fam*mod*:feature:*0094* crc32c_intel
alias usb:v0BDAp8153d*dc*dsc*dp*ic*isc*ip*in* r8152
alias usb:v0451p2790d010[0-9]*dc*dsc*dp*ic*isc*ip*in* sample
alias fs-ext4 ext4
alias fs-ext3 ext4
alias crypto-crc32c crc32c-intel
alias crypto-crc32c crc32c_generic
"
            .into(),
            soft_dependencies: "\
# Soft dependencies extracted from modules themselves.
softdep ext4 pre: crypto-crc32c post: quota_v2
"
            .into(),
            built_in: "kernel/drivers/tpm/tpm-crb.ko\nkernel/fs/ramfs/ramfs.ko\n".into(),
        }
    }

    #[test]
    fn hardware_gets_the_modules_that_are_made_for_it() {
        for (modalias, modules) in [
            ("pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00", &["e1000e"][..]),
            ("virtio:d00000001v00001AF4", &["virtio_net"]),
            ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", &["ahci"]),
            ("pci:v00001B36d0000000Dsv00001AF4sd00001100bc0Csc03i30", &["xhci_pci"]),
            ("cpu:type:x86,ven0000fam0006mod0055:feature:,0000,0002,0094,00F1,", &["crc32c_intel"]),
            ("usb:v0BDAp8153d3000dc00dsc00dp00icFFiscFFip00in00", &["r8152"]),
            ("usb:v0451p2790d0105dc00dsc00dp00icFFiscFFip00in00", &["sample"]),
            ("usb:v0451p2790d0110dc00dsc00dp00icFFiscFFip00in00", &[]),
            ("virtio:d00000009v00001AF4", &[]),
            ("", &[]),
        ] {
            assert_eq!(index().wanted_by(modalias), modules, "{modalias}");
        }
    }

    #[test]
    fn names_behind_an_alias_are_found() {
        assert_eq!(index().wanted_by("fs-ext3"), ["ext4"]);
        assert_eq!(index().wanted_by("fs_ext4"), ["ext4"], "- and _ are the same");
        assert_eq!(index().wanted_by("crypto-crc32c"), ["crc32c-intel", "crc32c_generic"]);
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let order = |name: &str| {
            let mut order = Vec::new();
            index().order(name, &mut BTreeSet::new(), &mut order);
            order.into_iter().map(|turn| turn.name + if turn.is_needed { "" } else { "?" }).collect::<Vec<_>>()
        };
        assert_eq!(order("e1000e"), ["pps_core", "ptp", "e1000e"]);
        assert_eq!(order("virtio-net"), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(order("ext4"), ["crc32c_intel?", "crc32c_generic?", "jbd2", "mbcache", "crc16", "ext4"]);
    }

    #[test]
    fn a_circle_of_softdeps_ends() {
        let soft_dependencies = "softdep a pre: b\nsoftdep b pre: a\n".into();
        let index = Index { dependencies: "a.ko:\nb.ko:\n".into(), soft_dependencies, ..Index::default() };
        let mut order = Vec::new();
        index.order("a", &mut BTreeSet::new(), &mut order);
        assert_eq!(order.len(), 2);
    }

    #[test]
    fn files_and_built_ins_are_found_by_either_spelling() {
        let index = index();
        let path = index.path("crc32c_intel").expect("there");
        assert_eq!(path, Path::new("/lib/modules/6.1.0/kernel/arch/x86/crypto/crc32c-intel.ko.xz"));
        assert!(index.path("crc32c").is_none());
        assert!(index.is_built_in("tpm_crb") && index.is_built_in("ramfs") && !index.is_built_in("tpm"));
    }

    #[test]
    fn no_pattern_makes_it_panic_or_hang() {
        for pattern in ["[", "[]", "[a", "[a-", "[!", "*[", "**", "a*b*c*d*e*f*", "?", "[^a-c]x"] {
            for text in ["", "a", "-", "abcdefghijklmnop", "zx"] {
                let _ = matches(pattern.as_bytes(), text.as_bytes());
            }
        }
        assert!(matches(b"[!a]x", b"zx") && !matches(b"[!a]x", b"ax") && matches(b"**", b""));
    }
}
