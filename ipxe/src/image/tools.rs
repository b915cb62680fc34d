//! The tools image: the programs and drivers that only storage needs, in a squashfs. A machine fetches it when a plan needs
//! it, and so no boot carries it.
//!
//! Called by `build`. The initramfs pins it by its digest ([`muster_protocol::tools`]), and a controller serves it by that:
//! machines that booted an image before this one ask for that one's. So the files are named by their digests, and the last
//! few of them stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use muster_protocol::Digest;
use serde::{Deserialize, Serialize};

use super::squashfs::Squashfs;
use super::{ImageError, Part, program};
use crate::packages::{Package, PackageError, Packages, Tree};
use crate::{EVERYBODY, write_whole};

/// The folder of tools images in an image's folder: each is called by its SHA-256.
pub const FOLDER: &str = "tools";

/// How many stay, the newest among them: they change where Debian's packages do, and machines run for months.
const KEPT: usize = 5;

/// The programs, by their packages.
const PROGRAMS: [(&str, &[&str]); 7] = [
    ("e2fsprogs", &["mke2fs", "e2fsck", "resize2fs", "tune2fs"]),
    ("xfsprogs", &["mkfs.xfs", "xfs_db", "xfs_growfs", "xfs_repair"]),
    ("btrfs-progs", &["mkfs.btrfs", "btrfs"]),
    ("dosfstools", &["mkfs.vfat", "fsck.vfat"]),
    ("lvm2", &["lvm"]),
    ("mdadm", &["mdadm"]),
    ("cryptsetup-bin", &["cryptsetup"]),
];

/// What mke2fs makes of a size, and by which name it finds that.
const SETTINGS: &str = "etc/mke2fs.conf";

/// What a tools image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// The image.
    pub image: Part,
    /// What its files have unpacked, in bytes.
    pub unpacked_bytes: u64,
    /// Debian packages and their versions.
    pub packages: BTreeMap<String, String>,
    /// Programs in it.
    pub programs: BTreeSet<String>,
    /// Kernel modules in it, which the initramfs does not have.
    pub modules: BTreeSet<String>,
}

/// Fetches the packages of the programs, and of all libraries that these may need.
pub fn fetch(packages: &mut Packages, progress: &mut dyn FnMut(&str)) -> Result<Vec<Package>, PackageError> {
    // xfs_scrub alone needs it, which nobody runs here: 35 MB.
    let is_library = |name: &str| (name.starts_with("lib") || name.starts_with("zlib")) && !name.starts_with("libicu");
    packages.get_with_all_behind(PROGRAMS.iter().map(|(package, _)| *package), &is_library, progress)
}

/// Puts an image together. `modules` are files below `lib/modules`, by path, with their index; `names` what they are.
pub fn make(
    packages: &[Package],
    modules: BTreeMap<String, Vec<u8>>,
    names: BTreeSet<String>,
    progress: &mut dyn FnMut(u8),
) -> Result<(Vec<u8>, Tools), ImageError> {
    let mut trees = BTreeMap::new();
    for package in packages {
        let mut tree = Tree::default();
        package.read_into(&mut tree)?;
        trees.insert(package.name.clone(), tree);
    }
    let programs = PROGRAMS.iter().flat_map(|(_, names)| names.iter().copied());
    let collected = program::collect(&trees, programs.clone())?;
    let settings = trees.values().find_map(|tree| tree.file(SETTINGS));
    let settings = settings.ok_or_else(|| packages[0].lacks(SETTINGS))?.to_vec();

    let mut image = Squashfs::default();
    image.file(SETTINGS, 0o644, settings);
    collected.files.into_iter().for_each(|(path, bytes)| image.file(&path, 0o755, bytes));
    modules.into_iter().for_each(|(path, bytes)| image.file(&format!("lib/modules/{path}"), 0o644, bytes));
    let unpacked_bytes = image.unpacked();
    let bytes = image.to_bytes(&mut |done| progress((done * 100 / unpacked_bytes.max(1)) as u8));
    let bytes = bytes.map_err(|source| ImageError::Write { path: FOLDER.into(), source })?;
    let used = packages.iter().filter(|package| collected.packages.contains(&package.name));
    let tools = Tools {
        image: Part::of(&bytes),
        unpacked_bytes,
        packages: used.map(|package| (package.name.clone(), package.version.clone())).collect(),
        programs: programs.map(str::to_owned).collect(),
        modules: names,
    };
    Ok((bytes, tools))
}

/// Writes an image into the folder of an image's folder. Those of images before it stay, as many as [`KEPT`] allows.
pub fn write(folder: &Path, bytes: &[u8], digest: &str) -> io::Result<()> {
    let folder = folder.join(FOLDER);
    fs::create_dir_all(&folder)?;
    write_whole(&folder.join(digest), bytes, EVERYBODY)?;
    // One that was made before, and is again, is the newest.
    File::options().write(true).open(folder.join(digest))?.set_modified(SystemTime::now())?;
    let mut there = vec![];
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        // Nothing else in it is ours.
        if entry.file_name().to_str().is_some_and(|name| name.parse::<Digest>().is_ok()) {
            there.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    there.sort();
    let too_many = there.len().saturating_sub(KEPT);
    there.iter().take(too_many).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_of_the_images_before_stay_for_the_machines_that_run_and_not_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let digests: Vec<_> = (0..KEPT as u8 + 2).map(|n| Digest::of(&[n]).to_string()).collect();
        let names = || -> BTreeSet<String> {
            let entries = fs::read_dir(folder.path().join(FOLDER)).expect("the folder");
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
        };
        fs::create_dir(folder.path().join(FOLDER)).expect("made");
        fs::write(folder.path().join(FOLDER).join("README"), b"an operator's").expect("written");
        let written = |n: usize| {
            write(folder.path(), &[n as u8], &digests[n]).expect("written");
            // Times of files are as coarse as a tick of the kernel's clock.
            let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n as u64);
            let file = File::options().write(true).open(folder.path().join(FOLDER).join(&digests[n]));
            file.and_then(|file| file.set_modified(long_ago)).expect("its time");
        };
        (0..KEPT).for_each(written);
        assert_eq!(names().len(), KEPT + 1);
        // The first one is made again, and so the second is the oldest.
        write(folder.path(), &[0], &digests[0]).expect("written");
        (KEPT..KEPT + 2).for_each(written);
        let gone: Vec<_> = digests.iter().filter(|digest| !names().contains(*digest)).collect();
        assert_eq!(gone, [&digests[1], &digests[2]]);
        assert!(names().contains("README"));
    }
}
