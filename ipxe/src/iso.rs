//! A site's boot medium: one ISO for CD and USB stick, for BIOS and UEFI machines.
//!
//! Called by `muster iso build`. It carries Debian's iPXE, the site's script and its credential, which is its only secret,
//! and nothing that grows old with the controller: kernel and agent come over the network.
//! BIOS machines start it by isolinux, UEFI machines by a FAT image in it; on a stick, an MBR and a GPT lead to both.
//! The same site, credential and packages give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_protocol::enroll::SiteCredential;
use serde::{Deserialize, Serialize};

use crate::image::Part;
use crate::packages::{Freshness, Package, PackageError, Packages, Tree, at};
use crate::param::Site;
use crate::{Progress, script, write_whole};

/// The volume's label, by which a running system can tell the medium from a disk.
pub const LABEL: &str = "MUSTER";

/// What to build.
#[derive(Debug, Clone)]
pub struct IsoSpec {
    /// What the medium knows.
    pub site: Site,
    /// What it vouches for its machines with; without one they come as if they had started over the network.
    pub credential: Option<SiteCredential>,
    /// Where fetched packages are kept; may be shared with other builds.
    pub cache: PathBuf,
    /// The file to write; one that is there is replaced. [`IsoManifest`] lies beside it, with `.json` added to its name.
    pub out: PathBuf,
    /// Whether packages from an earlier build will do.
    pub freshness: Freshness,
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
    /// The ISO.
    pub iso: Part,
    /// Debian packages and their versions.
    pub packages: BTreeMap<String, String>,
}

/// Builds an ISO of about 5 MB, in a second where the packages are there.
///
/// Errors: see [`IsoError`]; an ISO that was there before is then still whole.
pub fn build(spec: &IsoSpec, progress: &mut dyn FnMut(Progress<'_>)) -> Result<IsoManifest, IsoError> {
    if spec.out.extension().is_none_or(|e| e != "iso") {
        return Err(IsoError::Name { path: spec.out.clone() });
    }
    let mut packages = Packages::open(&spec.cache, spec.freshness)?;
    let ipxe = packages.ipxe(&mut at(0, progress))?;
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

    let work = packages.scratch("iso")?;
    let script = script::site(&spec.site, spec.credential.as_ref());
    let efi =
        efi_image(&ipxe_files[1], &script).map_err(|source| IsoError::Write { path: "boot/efi.img".into(), source })?;
    let files: [(&str, &[u8]); 8] = [
        ("tree/isolinux/isolinux.bin", &isolinux_files[0]),
        ("tree/isolinux/ldlinux.c32", &syslinux_files[0]),
        ("tree/isolinux/isolinux.cfg", ISOLINUX_CFG.as_bytes()),
        ("tree/isolinux/ipxe.lkrn", &ipxe_files[0]),
        ("tree/isolinux/site.ipxe", script.as_bytes()),
        ("tree/boot/efi.img", &efi),
        ("tree/muster.json", &serde_json::to_vec_pretty(&spec.site).expect("a site is plain data")),
        ("isohdpfx.bin", &isolinux_files[1]),
    ];
    for (name, bytes) in files {
        let path = work.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
        made.map_err(|source| IsoError::Write { path, source })?;
    }
    progress(Progress { percent: 80, step: "writing the ISO" });
    run_xorriso(&work)?;

    let write_error = |path: &Path| {
        let path = path.to_owned();
        |source| IsoError::Write { path, source }
    };
    let built = work.join("out.iso");
    let iso = fs::read(&built).map_err(write_error(&built))?;
    let packages = [&ipxe, &isolinux, &syslinux].map(|p| (p.name.clone(), p.version.clone())).into();
    let manifest = IsoManifest { site: spec.site.clone(), iso: Part::of(&iso), packages };
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    write_whole(&spec.out, &iso).map_err(write_error(&spec.out))?;
    let beside = manifest_path(&spec.out);
    write_whole(&beside, &json).map_err(write_error(&beside))?;
    let _ = fs::remove_dir_all(&work);
    progress(Progress { percent: 100, step: "done" });
    Ok(manifest)
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

/// One choice, taken at once. iPXE as a Linux kernel reads its script from the initrd.
const ISOLINUX_CFG: &str = "DEFAULT muster
PROMPT 0
LABEL muster
  KERNEL ipxe.lkrn
  INITRD site.ipxe
";

/// A FAT volume from which UEFI firmware starts iPXE, and iPXE the script.
fn efi_image(ipxe: &[u8], script: &str) -> io::Result<Vec<u8>> {
    // What FAT12 needs for itself is well under 32 KiB; whole cylinders of 32 KiB please old firmware.
    let size = (ipxe.len() + script.len() + 64 * 1024).next_multiple_of(32 * 1024);
    let mut image = Cursor::new(vec![0; size]);
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"MUSTER     ").volume_id(0x4d55_5354);
    fatfs::format_volume(&mut image, options)?;
    let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new())?;
    let root = volume.root_dir();
    root.create_dir("EFI")?.create_dir("BOOT")?.create_file("BOOTX64.EFI")?.write_all(ipxe)?;
    root.create_file("autoexec.ipxe")?.write_all(script.as_bytes())?;
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
