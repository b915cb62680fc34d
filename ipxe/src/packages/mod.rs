//! Debian's packages, fetched and read without installing anything.
//!
//! apt does the fetching and checks every signature, but in a folder of its own: the host's lists, pins and installed
//! packages stay as they are, and nobody needs to be root.
//! What was fetched once is kept, so that a second build needs no network; [`Freshness::Latest`] asks again.
//! Used by the image and the ISO; knows nothing of what is in a package.

mod sources;
mod tree;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sources::Source;
pub use tree::{Node, Tree};

use crate::Progress;

/// The first release whose `ipxe` package runs `autoexec.ipxe` from a UEFI boot medium, and whose `netplan-generator` brings
/// examples of every word that documents have.
const RECENT: (u32, &str) = (13, "trixie");

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The cache folder, or a file in it.
    #[error("cannot use {}", path.display())]
    Cache {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Not Debian, or a Debian without sources.
    #[error("this host's apt has no source for Debian's packages; build on Debian 12 or later, or give the host one")]
    NotDebian,
    /// A program that every Debian has is not there, or failed.
    #[error("{program} failed: {problem}")]
    Program {
        /// Which one.
        program: String,
        /// Its last words.
        problem: String,
    },
    /// The package is there and not what it was expected to be.
    #[error("package {package} {version} has no {missing}")]
    Unexpected {
        /// Package name.
        package: String,
        /// Its version.
        version: String,
        /// What was looked for.
        missing: String,
    },
}

/// Whether packages that were fetched before are good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Yes: the network is used only for what is missing.
    #[default]
    Cached,
    /// No: the newest versions, and an error where they cannot be had.
    Latest,
}

/// A package's file, in the cache.
#[derive(Debug, Clone)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Debian version.
    pub version: String,
    deb: PathBuf,
}

impl Package {
    /// Takes `NAME_VERSION_ARCHITECTURE.deb`, in which apt writes a colon as `%3a`.
    fn at(name: &str, deb: PathBuf) -> Self {
        let file = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = file.split('_').nth(1).unwrap_or_default().replace("%3a", ":");
        Self { name: name.to_owned(), version, deb }
    }

    /// Shows every file and link to `visit`, with its path relative to the root, in the package's order.
    pub fn visit(&self, visit: &mut dyn FnMut(&str, Node<'_>)) -> Result<(), PackageError> {
        let failed = |e: io::Error| PackageError::Program { program: "dpkg-deb".into(), problem: e.to_string() };
        let mut command = Command::new("dpkg-deb");
        command.arg("--fsys-tarfile").arg(&self.deb).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let read = tree::read_tar(io::BufReader::new(child.stdout.take().expect("it was piped")), visit);
        let status = child.wait().map_err(failed)?;
        read.map_err(failed)?;
        if !status.success() {
            return Err(failed(io::Error::other(format!("{status} at {}", self.deb.display()))));
        }
        Ok(())
    }

    /// Adds the package's files and links to `tree`.
    pub fn read_into(&self, tree: &mut Tree) -> Result<(), PackageError> {
        self.visit(&mut |path, node| tree.insert(path, node))
    }

    /// An error for a package that has no such file.
    pub fn lacks(&self, missing: &str) -> PackageError {
        PackageError::Unexpected {
            package: self.name.clone(),
            version: self.version.clone(),
            missing: missing.to_owned(),
        }
    }

    /// Names of the packages that this one depends on, first alternatives only.
    fn depends(&self) -> Result<Vec<String>, PackageError> {
        let mut names = vec![];
        for field in ["Pre-Depends", "Depends"] {
            let text = run(Command::new("dpkg-deb").arg("-f").arg(&self.deb).arg(field))?;
            let words = text.split(',').filter_map(|one| one.split_whitespace().next());
            names.extend(words.map(|word| word.trim_end_matches(":any").to_owned()));
        }
        Ok(names)
    }
}

/// Where fetched packages are kept where nothing else is said: they are the host's, and not one controller's.
pub fn default_cache() -> PathBuf {
    let home = std::env::var_os("HOME").filter(|_| !rustix::process::geteuid().is_root());
    home.map_or_else(|| "/var/cache/muster".into(), |home| Path::new(&home).join(".cache/muster"))
}

/// Debian as seen from this host.
pub struct Packages {
    cache: PathBuf,
    freshness: Freshness,
    /// The host's codename, such as `bookworm`.
    host: String,
    /// The host's, or a later one where that is older than [`RECENT`].
    recent: String,
    sources: Vec<Source>,
    /// Lists and packages that apt was asked for in this life, as `release` and `release/package`.
    asked: BTreeSet<String>,
    /// Held as long as this lives: two builds at once would undo each other's work.
    _lock: File,
}

impl Packages {
    /// Uses `cache` for what is fetched; waits while another build uses it.
    ///
    /// Errors: the folder cannot be written, or this is not Debian.
    pub fn open(cache: &Path, freshness: Freshness) -> Result<Self, PackageError> {
        make_folder(cache)?;
        let path = cache.join("lock");
        let lock = File::create(&path).and_then(|lock| lock.lock().map(|()| lock));
        let lock = lock.map_err(|source| PackageError::Cache { path, source })?;
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let (host, recent) = releases(&os).ok_or(PackageError::NotDebian)?;
        let sources = host_sources();
        if sources::for_release(&sources, &host, &host).is_empty() {
            return Err(PackageError::NotDebian);
        }
        Ok(Self { cache: cache.into(), freshness, host, recent, sources, asked: BTreeSet::new(), _lock: lock })
    }

    /// A package that must be no older than Debian 13's: from there where the host's own release is.
    pub fn get_recent(&mut self, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Package, PackageError> {
        let release = self.recent.clone();
        self.fetch(&release, name, progress)
    }

    /// A package of the host's release.
    pub fn get(&mut self, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Package, PackageError> {
        let release = self.host.clone();
        self.fetch(&release, name, progress)
    }

    /// The packages that `package` depends on and whose names start with `prefix`, at least one: the kernel behind
    /// `linux-image-amd64`, the libraries of a program.
    pub fn get_behind(
        &mut self,
        package: &Package,
        prefix: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Vec<Package>, PackageError> {
        let names: Vec<_> = package.depends()?.into_iter().filter(|name| name.starts_with(prefix)).collect();
        if names.is_empty() {
            return Err(package.lacks(&format!("dependency on {prefix}…")));
        }
        names.iter().map(|name| self.get(name, progress)).collect()
    }

    /// These packages, and behind them all that they depend on and that is wanted, however far behind; each once, in the
    /// order in which they are asked for.
    pub fn get_with_all_behind<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        is_wanted: &dyn Fn(&str) -> bool,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Vec<Package>, PackageError> {
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut found = vec![];
        for at in 0.. {
            let Some(name) = names.get(at) else { break };
            let package = self.get(name, progress)?;
            for behind in package.depends()?.into_iter().filter(|name| is_wanted(name)) {
                if !names.contains(&behind) {
                    names.push(behind);
                }
            }
            found.push(package);
        }
        Ok(found)
    }

    /// An empty folder in the cache, for as long as `self` lives.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, PackageError> {
        let folder = self.cache.join(name);
        let _ = fs::remove_dir_all(&folder);
        make_folder(&folder).map(|()| folder)
    }

    /// The package's file. `cache/debs/RELEASE/PACKAGE/` holds exactly one.
    fn fetch(&mut self, release: &str, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Package, PackageError> {
        let folder = self.cache.join("debs").join(release).join(name);
        let key = format!("{release}/{name}");
        if (self.freshness == Freshness::Cached || self.asked.contains(&key))
            && let Some(deb) = only_deb(&folder)
        {
            return Ok(Package::at(name, deb));
        }
        self.update(release, progress)?;
        progress(&format!("fetching {name}"));
        // Only whole and checked files get out of this folder.
        let fresh = self.scratch("fetching")?;
        run(self.apt(release)?.arg("download").arg(name).current_dir(&fresh))?;
        let deb = only_deb(&fresh).ok_or_else(|| PackageError::Program {
            program: "apt-get download".into(),
            problem: format!("it fetched no file for {name}"),
        })?;
        let _ = fs::remove_dir_all(&folder);
        make_folder(&folder)?;
        let kept = folder.join(deb.file_name().unwrap_or_default());
        fs::rename(&deb, &kept).map_err(|source| PackageError::Cache { path: kept.clone(), source })?;
        self.asked.insert(key);
        Ok(Package::at(name, kept))
    }

    /// Brings apt's lists up to date, once in the life of `self`.
    fn update(&mut self, release: &str, progress: &mut dyn FnMut(&str)) -> Result<(), PackageError> {
        if self.asked.contains(release) {
            return Ok(());
        }
        progress(&format!("reading the package lists of {release}"));
        let folder = self.apt_folder(release);
        for name in ["sources", "preferences", "lists/partial", "cache/archives/partial"] {
            make_folder(&folder.join(name))?;
        }
        let path = folder.join("sources/debian.sources");
        let text = sources::for_release(&self.sources, &self.host, release);
        fs::write(&path, text).map_err(|source| PackageError::Cache { path, source })?;
        run(self.apt(release)?.arg("update"))?;
        self.asked.insert(release.to_owned());
        Ok(())
    }

    fn apt_folder(&self, release: &str) -> PathBuf {
        self.cache.join("apt").join(release)
    }

    /// An apt that knows `release` alone and keeps its state to itself.
    fn apt(&self, release: &str) -> Result<Command, PackageError> {
        let folder = self.apt_folder(release);
        let folder = folder.canonicalize().map_err(|source| PackageError::Cache { path: folder.clone(), source })?;
        let mut apt = Command::new("apt-get");
        apt.env("LC_ALL", "C.UTF-8").arg("-q");
        let at = |name: &str| folder.join(name).display().to_string();
        for option in [
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            format!("Dir::Etc::SourceParts={}", at("sources")),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            format!("Dir::Etc::PreferencesParts={}", at("preferences")),
            format!("Dir::State={}", at("")),
            format!("Dir::State::Lists={}", at("lists")),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={}", at("cache")),
            // The machines are x86, whatever this host is.
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            // apt's own user may not write into our folder.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ] {
            apt.arg("-o").arg(option);
        }
        Ok(apt)
    }
}

/// The host's codename, and that of the release that is recent enough, from the text of /etc/os-release.
fn releases(os: &str) -> Option<(String, String)> {
    let value = |key: &str| {
        let line = os.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.map(|v| v.trim_matches('"').to_owned())
    };
    let host = value("VERSION_CODENAME").filter(|_| value("ID").is_some_and(|id| id == "debian"))?;
    // Debian's testing has a codename and no number: it is newer than every number.
    let number = value("VERSION_ID").and_then(|id| id.parse().ok()).unwrap_or(u32::MAX);
    let recent = if number < RECENT.0 { RECENT.1.to_owned() } else { host.clone() };
    Some((host, recent))
}

/// Every source that the host's apt reads.
fn host_sources() -> Vec<Source> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(parts).collect();
    files.sort();
    let mut sources = vec![];
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match path.extension().and_then(|e| e.to_str()) {
            Some("sources") => sources.extend(sources::parse_deb822(&text)),
            Some("list") => sources.extend(sources::parse_list(&text)),
            _ => {}
        }
    }
    sources
}

fn only_deb(folder: &Path) -> Option<PathBuf> {
    let mut debs = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    debs.find(|path| path.extension().is_some_and(|e| e == "deb"))
}

fn make_folder(path: &Path) -> Result<(), PackageError> {
    fs::create_dir_all(path).map_err(|source| PackageError::Cache { path: path.into(), source })
}

/// Runs a program to its end and answers with what it wrote.
fn run(command: &mut Command) -> Result<String, PackageError> {
    crate::run(command).map_err(|problem| {
        let program = command.get_program().to_string_lossy().into_owned();
        PackageError::Program { program, problem }
    })
}

/// Turns the words of [`Packages`] into steps of a longer piece of work that stands at `percent`.
pub(crate) fn at<'a>(percent: u8, progress: &'a mut dyn FnMut(Progress<'_>)) -> impl FnMut(&str) + 'a {
    move |step| progress(Progress { percent, step })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_release_takes_its_ipxe_from_the_next_one() {
        let os =
            |number: &str, codename: &str| format!("ID=debian\nVERSION_ID=\"{number}\"\nVERSION_CODENAME={codename}\n");
        let both = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(releases(&os("12", "bookworm")), both("bookworm", "trixie"));
        assert_eq!(releases(&os("13", "trixie")), both("trixie", "trixie"));
        assert_eq!(releases("ID=debian\nVERSION_CODENAME=forky\n"), both("forky", "forky"));
        assert_eq!(releases("ID=ubuntu\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\n"), None);
        assert_eq!(releases(""), None);
    }

    #[test]
    fn a_packages_version_is_read_from_its_file_name() {
        let package = Package::at("isolinux", "/x/isolinux_3%3a6.04~git20190206+dfsg1-3_all.deb".into());
        assert_eq!(package.version, "3:6.04~git20190206+dfsg1-3");
    }
}
