//! A site's boot medium: one ISO for CD and USB stick, for BIOS and UEFI machines.
//!
//! Called by `muster iso build`. It carries Debian's iPXE, the site's script and its credential, which is its only secret,
//! and nothing that grows old with the controller: kernel and agent come over the network, on UEFI machines by HTTPS of the
//! boot CA that it pins.
//! A sealed one carries kernel, initramfs and the CA's fingerprint as well, so that nobody on the network has a say in
//! what its machines run; it is made anew for another image or another CA.
//! BIOS machines start it by isolinux, UEFI machines by a FAT image in it; on a stick, an MBR and a GPT lead to both.
//! The same inputs give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_protocol::Digest;
use muster_protocol::enroll::SiteCredential;
use serde::{Deserialize, Serialize};

use crate::image::{self, ImageError, Manifest, Part};
use crate::packages::{Freshness, Package, PackageError, Packages, Tree, at};
use crate::param::Site;
use crate::script::Scheme;
use crate::{EVERYBODY, OWNER, Progress, Written, script};

/// The volume's label, by which a running system can tell the medium from a disk.
pub const LABEL: &str = "MUSTER";

/// What to build.
#[derive(Debug, Clone)]
pub struct IsoSpec {
    /// What the medium knows.
    pub site: Site,
    /// What it carries.
    pub kind: Kind,
    /// Where fetched packages are kept; may be shared with other builds.
    pub cache: PathBuf,
    /// The file to write; one that is there is replaced. [`IsoManifest`] lies beside it, with `.json` added to its name.
    pub out: PathBuf,
    /// Whether packages from an earlier build will do.
    pub freshness: Freshness,
}

/// What a medium carries beside what it knows.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Nothing: kernel and agent come over the network.
    Network {
        /// Without it, machines come as if they had started over the network.
        vouched: Option<Vouched>,
    },
    /// Everything.
    Sealed {
        /// What it vouches for its machines with.
        credential: SiteCredential,
        /// SHA-256 of the controller CA's certificate in DER: the only one that its machines believe at first.
        ca: Digest,
        /// Folder of the [`image`].
        image: PathBuf,
    },
}

/// What a medium that asks over the network has from its controller.
#[derive(Debug, Clone)]
pub struct Vouched {
    /// What it vouches for its machines with.
    pub credential: SiteCredential,
    /// SHA-256 of the boot CA's certificate in DER: UEFI machines ask nobody else.
    pub boot_ca: Digest,
    /// TCP port of the controllers' HTTPS.
    pub https_port: u16,
}

impl Kind {
    fn credential(&self) -> Option<&SiteCredential> {
        match self {
            Self::Network { vouched } => vouched.as_ref().map(|vouched| &vouched.credential),
            Self::Sealed { credential, .. } => Some(credential),
        }
    }

    /// A medium with a credential is a key, and so for its owner alone.
    fn mode(&self) -> u32 {
        if self.credential().is_some() { OWNER } else { EVERYBODY }
    }
}

/// Why there is no ISO.
#[derive(Debug, thiserror::Error)]
pub enum IsoError {
    /// A package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// xorriso is not there, or failed.
    #[error("xorriso failed: {0}; install it with: apt-get install xorriso")]
    Xorriso(String),
    /// A file of the ISO, or the ISO.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The image for a sealed one.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Another iPXE than those that are known.
    #[error(
        "{package} holds the fingerprint of iPXE's own CA {found} times and not once, so that the boot CA cannot take its \
         place; make a sealed ISO, or one without a credential"
    )]
    Root {
        /// The package, with its version.
        package: String,
        /// How often.
        found: usize,
    },
    /// A kernel would not read all of what it is told.
    #[error("the controllers' names are too long: {0} bytes of a kernel command line that may have {COMMAND_LINE}")]
    Controllers(usize),
    /// The file cannot be one.
    #[error("{} cannot be an ISO's file name: give a path that ends in .iso", path.display())]
    Name {
        /// What was given.
        path: PathBuf,
    },
}

/// What an ISO is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsoManifest {
    /// What it knows.
    pub site: Site,
    /// Of one that asks by HTTPS: SHA-256 of the boot CA's certificate in DER, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_ca: Option<String>,
    /// Of a sealed one: the CA that it pins, 64 hex digits, with the kernel and the initramfs that it carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Contents>,
    /// The ISO.
    pub iso: Part,
    /// Debian packages and their versions.
    pub packages: BTreeMap<String, String>,
}

/// What a sealed ISO carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// SHA-256 of the CA's certificate in DER, 64 hex digits.
    pub ca: String,
    /// The kernel.
    pub kernel: Part,
    /// The initramfs.
    pub initramfs: Part,
}

/// COMMAND_LINE_SIZE in arch/x86/include/asm/setup.h, less what loaders add.
const COMMAND_LINE: usize = 2048 - 64;

/// Builds an ISO of about 5 MB, in a second where the packages are there; a sealed one has twice the image's size more,
/// because BIOS and UEFI machines cannot read each other's part of it. [`Built::keep`] puts it in its place.
///
/// Errors: see [`IsoError`].
pub fn build(spec: &IsoSpec, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Built, IsoError> {
    if spec.out.extension().is_none_or(|e| e != "iso") {
        return Err(IsoError::Name { path: spec.out.clone() });
    }
    // What is not there is said before anything is fetched.
    let image = match &spec.kind {
        Kind::Network { .. } => None,
        Kind::Sealed { image, .. } => Some(read_image(image)?),
    };
    let mut packages = Packages::open(&spec.cache, spec.freshness)?;
    let ipxe = packages.get_recent("ipxe", &mut at(0, progress))?;
    let isolinux = packages.get("isolinux", &mut at(30, progress))?;
    let syslinux = packages.get("syslinux-common", &mut at(50, progress))?;

    progress(Progress { percent: 70, step: "putting the medium together" });
    let take = |package: &Package, paths: &[&str]| {
        let mut tree = Tree::default();
        package.read_into(&mut tree)?;
        let file = |path: &&str| tree.file(path).map(<[u8]>::to_vec).ok_or_else(|| package.lacks(path));
        paths.iter().map(file).collect::<Result<Vec<_>, _>>()
    };
    let ipxe_files = take(&ipxe, &["usr/lib/ipxe/ipxe.lkrn", "usr/lib/ipxe/ipxe-amd64.efi"])?;
    let isolinux_files = take(&isolinux, &["usr/lib/ISOLINUX/isolinux.bin", "usr/lib/ISOLINUX/isohdpfx.bin"])?;
    let syslinux_files = take(&syslinux, &["usr/lib/syslinux/modules/bios/ldlinux.c32"])?;

    // The medium's secret lies in it, until it is dropped.
    let scratch = tempfile::Builder::new().prefix("iso-").tempdir_in(&spec.cache);
    let scratch = scratch.map_err(|source| IsoError::Write { path: spec.cache.clone(), source })?;
    let work = scratch.path();
    let parts = match (&spec.kind, image) {
        (Kind::Sealed { credential, ca, .. }, Some(image)) => sealed(&spec.site, credential, *ca, image, &ipxe_files)?,
        (Kind::Network { vouched: Some(vouched) }, _) => {
            let package = || format!("{} {}", ipxe.name, ipxe.version);
            let efi = pinned(&ipxe_files[1], vouched.boot_ca)
                .map_err(|found| IsoError::Root { package: package(), found })?;
            network(&spec.site, Some(vouched), [&ipxe_files[0], &efi])
        }
        _ => network(&spec.site, None, [&ipxe_files[0], &ipxe_files[1]]),
    };
    let efi = efi_image(&parts.efi).map_err(|source| IsoError::Write { path: "boot/efi.img".into(), source })?;
    let own: [(&str, &[u8]); 5] = [
        ("tree/isolinux/isolinux.bin", &isolinux_files[0]),
        ("tree/isolinux/ldlinux.c32", &syslinux_files[0]),
        ("tree/boot/efi.img", &efi),
        ("tree/muster.json", &serde_json::to_vec_pretty(&spec.site).expect("a site is plain data")),
        ("isohdpfx.bin", &isolinux_files[1]),
    ];
    let bios = parts.bios.iter().map(|(name, bytes)| (*name, bytes.as_slice()));
    for (name, bytes) in own.into_iter().chain(bios) {
        let path = work.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
        made.map_err(|source| IsoError::Write { path, source })?;
    }
    progress(Progress { percent: 80, step: "writing the ISO" });
    run_xorriso(work)?;

    let write_error = |path: &Path| {
        let path = path.to_owned();
        |source| IsoError::Write { path, source }
    };
    let built = work.join("out.iso");
    let iso = fs::read(&built).map_err(write_error(&built))?;
    let packages = [&ipxe, &isolinux, &syslinux].map(|p| (p.name.clone(), p.version.clone())).into();
    let boot_ca = match &spec.kind {
        Kind::Network { vouched: Some(vouched) } => Some(vouched.boot_ca.to_string()),
        _ => None,
    };
    let manifest =
        IsoManifest { site: spec.site.clone(), boot_ca, sealed: parts.sealed, iso: Part::of(&iso), packages };
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    let iso = Written::beside(&spec.out, &iso, spec.kind.mode()).map_err(write_error(&spec.out))?;
    let path = manifest_path(&spec.out);
    let described = Written::beside(&path, &json, EVERYBODY).map_err(write_error(&path))?;
    progress(Progress { percent: 100, step: "done" });
    Ok(Built { manifest, iso, described })
}

/// An ISO that is whole and on the disk, and has not yet taken the place of the one that may be there. Dropped, it is gone.
#[derive(Debug)]
pub struct Built {
    /// What it is made of.
    pub manifest: IsoManifest,
    iso: Written,
    described: Written,
}

impl Built {
    /// Puts it where it is to be.
    ///
    /// Errors: [`IsoError::Write`]; an ISO that was there before is then still there.
    pub fn keep(self) -> Result<IsoManifest, IsoError> {
        for written in [&self.described, &self.iso] {
            let path = &written.path;
            written.take_place().map_err(|source| IsoError::Write { path: path.clone(), source })?;
        }
        Ok(self.manifest)
    }
}

/// The ISOs in `folder` that were built here and are still whole, by file name.
pub fn list(folder: &Path) -> io::Result<Vec<(PathBuf, IsoManifest)>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Ok(json) = fs::read(manifest_path(&path)) else { continue };
        let Ok(manifest) = serde_json::from_slice::<IsoManifest>(&json) else { continue };
        if fs::metadata(&path)?.len() == manifest.iso.bytes {
            found.push((path, manifest));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// `ber1.iso.json` for `ber1.iso`.
pub fn manifest_path(iso: &Path) -> PathBuf {
    let mut name = iso.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// What lies on a medium, for each of the two kinds of firmware.
struct Parts {
    /// By their paths in the ISO's scratch folder.
    bios: Vec<(&'static str, Vec<u8>)>,
    /// By their names on the FAT volume; the first is what the firmware starts.
    efi: Vec<(&'static str, Vec<u8>)>,
    sealed: Option<Contents>,
}

/// `bios` and `efi` are iPXE.
fn network(site: &Site, vouched: Option<&Vouched>, [bios, efi]: [&[u8]; 2]) -> Parts {
    let credential = vouched.map(|vouched| &vouched.credential);
    let scheme = vouched.map_or(Scheme::Http, |vouched| Scheme::Https { port: vouched.https_port });
    let script = |scheme| script::site(site, credential, scheme).into_bytes();
    // One choice, taken at once. iPXE as a Linux kernel reads its script from the initrd.
    let menu = "DEFAULT muster\nPROMPT 0\nLABEL muster\n  KERNEL ipxe.lkrn\n  INITRD site.ipxe\n";
    Parts {
        bios: vec![
            ("tree/isolinux/isolinux.cfg", menu.into()),
            ("tree/isolinux/ipxe.lkrn", bios.to_vec()),
            ("tree/isolinux/site.ipxe", script(Scheme::Http)),
        ],
        efi: vec![(EFI_PROGRAM, efi.to_vec()), (EFI_SCRIPT, script(scheme))],
        sealed: None,
    }
}

/// The only root that iPXE believes unless it is built with another: SHA-256 of its project's certificate (TRUSTED in
/// src/crypto/rootcert.c).
const IPXE_ROOT: &str = "9faf717b7f8ca2f93c256c79f8ac5591895d66d1ff3bee6397a70d29c65eed1a";

/// iPXE that believes this CA alone, beside those that the firmware holds.
///
/// Errors: how often its root is there, where that is not once.
fn pinned(ipxe: &[u8], ca: Digest) -> Result<Vec<u8>, usize> {
    let root = IPXE_ROOT.parse::<Digest>().expect("64 hex digits");
    let places: Vec<usize> =
        ipxe.windows(32).enumerate().filter(|(_, window)| window == root.as_bytes()).map(|(at, _)| at).collect();
    let [at] = places.as_slice() else { return Err(places.len()) };
    let mut pinned = ipxe.to_vec();
    pinned[*at..at + 32].copy_from_slice(ca.as_bytes());
    Ok(pinned)
}

/// Kernel and initramfs for a sealed medium.
struct Image {
    manifest: Manifest,
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
}

fn read_image(folder: &Path) -> Result<Image, ImageError> {
    let manifest = image::read(folder)?;
    let problem = |problem: String| ImageError::NoImage { folder: folder.into(), problem };
    let read = |name: &str, part: &Part| {
        let bytes = fs::read(folder.join(name)).map_err(|e| problem(format!("{name}: {e}")))?;
        let is_whole = *part == Part::of(&bytes);
        is_whole.then_some(bytes).ok_or_else(|| problem(format!("{name} is not what {} says", image::MANIFEST)))
    };
    let (kernel, initramfs) = (read(image::KERNEL, &manifest.kernel)?, read(image::INITRAMFS, &manifest.initramfs)?);
    Ok(Image { manifest, kernel, initramfs })
}

/// isolinux starts the kernel of a sealed medium by itself; UEFI machines have iPXE do it, which asks nobody.
fn sealed(
    site: &Site,
    credential: &SiteCredential,
    ca: Digest,
    image: Image,
    ipxe: &[Vec<u8>],
) -> Result<Parts, IsoError> {
    let Image { manifest, kernel, initramfs } = image;
    let arguments = script::sealed_arguments(site, ca, credential);
    if arguments.len() > COMMAND_LINE {
        return Err(IsoError::Controllers(arguments.len()));
    }
    let script = script::sealed(site, credential, &arguments);
    let (location, id) = (&site.location, script::iso_id(&credential.digest()));
    let menu = format!(
        "DEFAULT muster\nPROMPT 0\nSAY Muster: location {location}, sealed ISO {id}\nLABEL muster\n  LINUX kernel\n  \
         INITRD initrd\n  APPEND {arguments}\n"
    );
    let sealed = Contents { ca: ca.to_string(), kernel: manifest.kernel, initramfs: manifest.initramfs };
    Ok(Parts {
        bios: vec![
            ("tree/isolinux/isolinux.cfg", menu.into()),
            ("tree/isolinux/kernel", kernel.clone()),
            ("tree/isolinux/initrd", initramfs.clone()),
        ],
        efi: vec![
            (EFI_PROGRAM, ipxe[1].clone()),
            (EFI_SCRIPT, script.into()),
            (image::KERNEL, kernel),
            (image::INITRAMFS, initramfs),
        ],
        sealed: Some(sealed),
    })
}

/// What UEFI firmware starts from a removable medium (UEFI specification, section 3.5.1.1).
const EFI_PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";

/// What iPXE runs that was started from a volume.
const EFI_SCRIPT: &str = "autoexec.ipxe";

/// A FAT volume with these files.
fn efi_image(files: &[(&str, Vec<u8>)]) -> io::Result<Vec<u8>> {
    // What FAT needs for itself is well under 1 % and 64 KiB; whole cylinders of 32 KiB please old firmware.
    let contents: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let size = (contents + contents / 100 + 64 * 1024).next_multiple_of(32 * 1024);
    let mut image = Cursor::new(vec![0; size]);
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"MUSTER     ").volume_id(0x4d55_5354);
    fatfs::format_volume(&mut image, options)?;
    let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new())?;
    let root = volume.root_dir();
    root.create_dir("EFI")?.create_dir("BOOT")?;
    for (name, bytes) in files {
        root.create_file(name)?.write_all(bytes)?;
    }
    drop(root);
    volume.unmount()?;
    Ok(image.into_inner())
}

/// Makes `out.iso` of `tree/` in `work`.
fn run_xorriso(work: &Path) -> Result<(), IsoError> {
    // Every date on the medium, and the ids that xorriso derives from them. Debian 12's first day will do.
    let date = "2023061000000000";
    let mut xorriso = Command::new("xorriso");
    xorriso.current_dir(work).env("SOURCE_DATE_EPOCH", "1686355200").env("TZ", "UTC").env("LC_ALL", "C");
    xorriso.args(["-as", "mkisofs", "-quiet", "-V", LABEL, "-J", "-r", "-o", "out.iso"]);
    xorriso.arg(format!("--modification-date={date}")).arg("--set_all_file_dates").arg(date);
    // BIOS from CD, UEFI from CD, then both from a stick.
    xorriso.args(["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"]);
    xorriso.args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
    xorriso.args(["-eltorito-alt-boot", "-e", "boot/efi.img", "-no-emul-boot"]);
    xorriso.args(["-isohybrid-mbr", "isohdpfx.bin", "-isohybrid-gpt-basdat", "tree"]);
    crate::run(&mut xorriso).map(drop).map_err(IsoError::Xorriso)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_replaced_where_it_is_there_once_and_else_nothing_is() {
        let (root, ca) = (IPXE_ROOT.parse::<Digest>().expect("hex"), Digest::of(b"ours"));
        let with = |times: usize| [b"MZ".as_slice(), &root.as_bytes().repeat(times), b"end"].concat();
        assert_eq!(pinned(&with(1), ca), Ok([b"MZ".as_slice(), ca.as_bytes(), b"end"].concat()));
        assert_eq!(pinned(&with(0), ca), Err(0));
        assert_eq!(pinned(&with(2), ca), Err(2));
    }
}
