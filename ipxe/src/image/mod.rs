//! The boot image: a Debian kernel, and an initramfs with the agent as PID 1 and drivers for common x86 hardware.
//!
//! Called by `muster image build`. The same agent, packages and firmware give the same bytes, whatever the host.
//! There is no shell, no libc and no program in it but the agent. What only storage needs is beside it, in the tools image
//! that the initramfs names.

pub mod cpio;
pub mod drivers;
pub mod elf;
pub mod modules;
pub mod program;
pub mod squashfs;
pub mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use muster_protocol::tools::{self as pinned, Pinned};
use muster_protocol::{Digest, handed};
use serde::{Deserialize, Serialize};

use crate::packages::{Freshness, Node, Package, PackageError, Packages, at};
use crate::{EVERYBODY, Progress, write_whole};
use cpio::Archive;
use elf::Elf;
use modules::{Catalog, Choice, ModuleError};
use tools::Tools;

/// File name of the kernel in an image's folder.
pub const KERNEL: &str = "kernel";
/// File name of the initramfs in an image's folder.
pub const INITRAMFS: &str = "initramfs";
/// File name of the [`Manifest`] in an image's folder.
pub const MANIFEST: &str = "manifest.json";

/// One more initramfs, for a machine that is handed a network: a file at [`handed::PATH`] with these bytes, for root alone.
/// Its length is a multiple of four, so that another initramfs may follow it in memory.
pub fn handed_archive(bytes: Vec<u8>) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file(handed::PATH, 0o600, bytes);
    archive.to_bytes()
}

/// What to build, from what.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// The agent, a static program for x86-64.
    pub agent: PathBuf,
    /// Where fetched packages are kept; may be shared with other builds.
    pub cache: PathBuf,
    /// Folder for [`KERNEL`], [`INITRAMFS`], [`tools::FOLDER`] and [`MANIFEST`]; made where it is missing, an image in it is replaced.
    pub out: PathBuf,
    /// A folder like `/lib/firmware`; files that the drivers name are taken from it.
    pub firmware: Option<PathBuf>,
    /// Whether packages from an earlier build will do.
    pub freshness: Freshness,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The agent cannot be PID 1.
    #[error("{} cannot be the agent of an image: {problem}", path.display())]
    Agent {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The kernel's modules.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A program for the image.
    #[error(transparent)]
    Program(#[from] program::ProgramError),
    /// A file of the image.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// There is no image in a folder, or a damaged one.
    #[error("{} holds no image: {problem}; build one with `muster image build`", folder.display())]
    NoImage {
        /// Which folder.
        folder: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What an image is made of. Holds no time and no path of the host, so it is reproducible as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// `uname -r` of the kernel.
    pub kernel_release: String,
    /// The kernel.
    pub kernel: Part,
    /// The compressed initramfs.
    pub initramfs: Part,
    /// The initramfs as it lies in the machine's memory.
    pub unpacked: Part,
    /// The agent in it.
    pub agent: Part,
    /// What it leaves to be fetched.
    pub tools: Tools,
    /// Debian packages in it, and their versions.
    pub packages: BTreeMap<String, String>,
    /// Kernel modules in it.
    pub modules: BTreeSet<String>,
    /// Modules that were wanted and are part of the kernel.
    pub built_in: BTreeSet<String>,
    /// Modules that were wanted and that this kernel does not have.
    pub missing: BTreeSet<String>,
    /// Firmware files in it.
    pub firmware: BTreeSet<String>,
    /// SHA-256 over agent, packages and the way they are put together: an image of the same inputs is not built again.
    pub inputs: String,
}

/// A file's size and contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256, 64 lower-case hex digits.
    pub sha256: String,
}

impl Part {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: Digest::of(bytes).to_string() }
    }
}

/// What turns the inputs into an image, digested with them: whoever changes it need not remember to say so.
const RECIPE: [&str; 8] = [
    include_str!("mod.rs"),
    include_str!("cpio.rs"),
    include_str!("drivers.rs"),
    include_str!("elf.rs"),
    include_str!("modules.rs"),
    include_str!("program.rs"),
    include_str!("squashfs.rs"),
    include_str!("tools.rs"),
];

/// Builds an image: a minute, most of it compression, and a 100 MB download where the packages are not there.
/// An image of the same inputs that is there already stays as it is; where firmware is given, it is always built.
///
/// Errors: see [`ImageError`]; an image that was in the folder before is then still whole.
pub fn build(spec: &ImageSpec, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Manifest, ImageError> {
    let agent = read_agent(&spec.agent)?;
    let mut packages = Packages::open(&spec.cache, spec.freshness)?;
    let any_kernel = packages.get("linux-image-amd64", &mut at(0, progress))?;
    let kernels = packages.get_behind(&any_kernel, "linux-image-", &mut at(2, progress))?;
    let storage = tools::fetch(&mut packages, &mut at(14, progress))?;
    let kernel = &kernels[0];
    let version = |package: &Package| (package.name.clone(), package.version.clone());
    let versions: BTreeMap<_, _> = kernels.iter().take(1).chain(&storage).map(version).collect();
    let inputs = Digest::of_value(&(RECIPE, Part::of(&agent), &versions)).to_string();
    if let Ok(manifest) = read(&spec.out)
        && manifest.inputs == inputs
        && spec.firmware.is_none()
        && manifest.firmware.is_empty()
    {
        progress(Progress { percent: 100, step: "the image is up to date" });
        return Ok(manifest);
    }

    progress(Progress { percent: 18, step: "choosing drivers" });
    let release = kernel.name.trim_start_matches("linux-image-").to_owned();
    let (vmlinuz, catalog) = read_kernel(kernel, &release)?;
    let boot = catalog.choose(drivers::wanted(spec.firmware.is_some()))?;
    let all = catalog.choose(drivers::wanted(spec.firmware.is_some()).chain(drivers::wanted_by_storage()))?;

    progress(Progress { percent: 26, step: "taking the drivers" });
    let mut files = take_modules(kernel, &release, &catalog, &all)?;
    let fetched: BTreeSet<_> = all.modules.difference(&boot.modules).cloned().collect();
    let of_tools = files.extract_if(.., |path, _| fetched.contains(&modules::name_of(path)));
    // Whoever has both folders looks modules up in this one's index: it knows all of them.
    let index = catalog.index(&all).into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes()));
    let of_tools = of_tools.chain(index).map(|(path, bytes)| (format!("{release}/{path}"), bytes)).collect();
    let mut packing = |percent: u8| {
        progress(Progress { percent: 34 + percent / 5, step: "compressing the tools" });
    };
    let (tools_image, tools) = tools::make(&storage, of_tools, fetched, &mut packing)?;

    let mut archive = skeleton();
    archive.file("init", 0o755, agent.clone());
    let index = catalog.index(&boot).into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes()));
    for (path, bytes) in files.into_iter().chain(index) {
        archive.file(&format!("lib/modules/{release}/{path}"), 0o644, bytes);
    }
    let firmware = add_firmware(&mut archive, &catalog, &boot, spec.firmware.as_deref());
    let pins = Pinned { digest: Digest::of(&tools_image), bytes: tools.image.bytes };
    archive.file(pinned::PATH, 0o644, pins.to_string().into_bytes());

    let unpacked = archive.to_bytes();
    let write_error = |name: &str| {
        let path = spec.out.join(name);
        |source| ImageError::Write { path, source }
    };
    let initramfs = compress(&unpacked, progress).map_err(write_error(INITRAMFS))?;
    let manifest = Manifest {
        kernel_release: release,
        kernel: Part::of(&vmlinuz),
        initramfs: Part::of(&initramfs),
        unpacked: Part::of(&unpacked),
        agent: Part::of(&agent),
        tools,
        packages: BTreeMap::from([version(kernel)]),
        modules: boot.modules,
        built_in: all.built_in,
        missing: all.missing,
        firmware,
        inputs,
    };
    progress(Progress { percent: 98, step: "writing the image" });
    fs::create_dir_all(&spec.out).map_err(write_error(""))?;
    // First: no machine is to boot what names tools that are not there.
    tools::write(&spec.out, &tools_image, &manifest.tools.image.sha256).map_err(write_error(tools::FOLDER))?;
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    for (name, bytes) in [(KERNEL, &vmlinuz), (INITRAMFS, &initramfs), (MANIFEST, &json)] {
        write_whole(&spec.out.join(name), bytes, EVERYBODY).map_err(write_error(name))?;
    }
    progress(Progress { percent: 100, step: "done" });
    Ok(manifest)
}

/// What is known of the image in `folder`, after a look at the files' sizes.
///
/// Errors: [`ImageError::NoImage`].
pub fn read(folder: &Path) -> Result<Manifest, ImageError> {
    let no_image = |problem: String| ImageError::NoImage { folder: folder.into(), problem };
    let json = fs::read(folder.join(MANIFEST)).map_err(|e| no_image(format!("{MANIFEST}: {e}")))?;
    let manifest: Manifest = serde_json::from_slice(&json).map_err(|e| no_image(format!("{MANIFEST}: {e}")))?;
    let tools = format!("{}/{}", tools::FOLDER, manifest.tools.image.sha256);
    let parts = [(KERNEL, &manifest.kernel), (INITRAMFS, &manifest.initramfs), (&tools, &manifest.tools.image)];
    for (name, part) in parts {
        let size = fs::metadata(folder.join(name)).map_err(|e| no_image(format!("{name}: {e}")))?.len();
        if size != part.bytes {
            return Err(no_image(format!("{name} has {size} bytes and should have {}", part.bytes)));
        }
    }
    Ok(manifest)
}

fn read_agent(path: &Path) -> Result<Vec<u8>, ImageError> {
    let refused = |problem: String| ImageError::Agent { path: path.into(), problem };
    let bytes = fs::read(path).map_err(|e| refused(e.to_string()))?;
    let elf = Elf::parse(&bytes).map_err(|e| refused(e.to_string()))?;
    match elf.interpreter() {
        None => Ok(bytes),
        Some(loader) => {
            Err(refused(format!("it needs {loader}; build it statically, with --target x86_64-unknown-linux-musl")))
        }
    }
}

/// What must be there before the agent mounts anything.
fn skeleton() -> Archive {
    let mut archive = Archive::default();
    for folder in ["dev", "etc", "proc", "run", "sys"] {
        archive.folder(folder, 0o755);
    }
    archive.folder("tmp", 0o1777);
    // The kernel opens it for PID 1 before anything is mounted; without it the agent would start mute.
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    archive
}

/// A path of the kernel's package relative to its modules' folder, wherever that release of Debian has it.
fn below_modules<'a>(path: &'a str, release: &str) -> Option<&'a str> {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    path.strip_prefix("lib/modules/")?.strip_prefix(release)?.strip_prefix('/')
}

/// The kernel itself, and what its modules say of themselves.
fn read_kernel(package: &Package, release: &str) -> Result<(Vec<u8>, Catalog), ImageError> {
    let name = format!("boot/vmlinuz-{release}");
    let (mut vmlinuz, mut catalog, mut added) = (None, Catalog::default(), Ok(()));
    package.visit(&mut |path, node| {
        let Node::File(bytes) = node else { return };
        if path == name {
            vmlinuz = Some(bytes.to_vec());
        } else if let Some(path) = below_modules(path, release).filter(|_| added.is_ok()) {
            added = catalog.add(path, bytes);
        }
    })?;
    added?;
    Ok((vmlinuz.ok_or_else(|| package.lacks(&name))?, catalog))
}

/// The chosen modules, by their path below `lib/modules/RELEASE`.
fn take_modules(
    package: &Package,
    release: &str,
    catalog: &Catalog,
    choice: &Choice,
) -> Result<BTreeMap<String, Vec<u8>>, ImageError> {
    let (mut files, mut failed) = (BTreeMap::new(), Ok(()));
    package.visit(&mut |path, node| {
        let (Some(path), Node::File(bytes)) = (below_modules(path, release), node) else { return };
        match catalog.take(choice, path, bytes) {
            Ok(taken) => files.extend(taken),
            Err(error) => failed = Err(error),
        }
    })?;
    failed?;
    Ok(files)
}

/// Adds those files below `folder` that a chosen driver names; drivers name more files than anybody has.
fn add_firmware(archive: &mut Archive, catalog: &Catalog, choice: &Choice, folder: Option<&Path>) -> BTreeSet<String> {
    let mut added = BTreeSet::new();
    let Some(folder) = folder else { return added };
    let names = catalog.chosen(choice).flat_map(|(_, module)| &module.firmware);
    for name in names.filter(|name| !name.split('/').any(|part| part == "..")) {
        if let Ok(bytes) = fs::read(folder.join(name)) {
            archive.file(&format!("lib/firmware/{name}"), 0o644, bytes);
            added.insert(name.clone());
        }
    }
    added
}

/// zstd at level 19 with a window of 2 MiB, on all processors; how many those are changes no byte.
///
/// Measured on 37 MB in a machine without KVM: xz is 8 % smaller and takes 1.2 s longer to unpack. A window of 8 MiB,
/// the level's own, is 2 % smaller, and the kernel's memory for it is what a machine of 128 MB then lacks.
fn compress(bytes: &[u8], progress: &mut dyn FnMut(Progress<'_>)) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(vec![], 19)?;
    encoder.window_log(21)?;
    encoder.multithread(std::thread::available_parallelism().map_or(1, usize::from) as u32)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
    let mut done = 0;
    for chunk in bytes.chunks(256 * 1024) {
        let percent = 54 + (done * 44 / bytes.len().max(1)) as u8;
        progress(Progress { percent, step: "compressing the initramfs" });
        encoder.write_all(chunk)?;
        done += chunk.len();
    }
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_firmware_that_is_given_what_a_chosen_driver_names_comes_along() {
        let mut catalog = Catalog::default();
        for (path, modinfo) in [
            ("kernel/r8169.ko", &b"firmware=rtl_nic/one.fw\0firmware=rtl_nic/absent.fw\0firmware=../secret\0"[..]),
            ("kernel/other.ko", b"firmware=other.fw\0"),
        ] {
            catalog.add(path, &elf::tests::object(&[(".modinfo", modinfo)])).expect("a module");
        }
        let choice = catalog.choose(["r8169"]).expect("complete");
        let folder = tempfile::tempdir().expect("a folder");
        let firmware = folder.path().join("firmware");
        fs::create_dir_all(firmware.join("rtl_nic")).expect("a folder");
        for path in ["firmware/rtl_nic/one.fw", "firmware/other.fw", "secret"] {
            fs::write(folder.path().join(path), b"patch").expect("a file");
        }
        let mut archive = Archive::default();
        let added = add_firmware(&mut archive, &catalog, &choice, Some(&firmware));
        assert_eq!(added, BTreeSet::from(["rtl_nic/one.fw".to_owned()]));
        assert!(archive.to_bytes().windows(28).any(|w| w == b"lib/firmware/rtl_nic/one.fw\0"));
        assert!(add_firmware(&mut archive, &catalog, &choice, None).is_empty());
    }
}
