//! Disk images that machines may be given, as files beside the boot image.
//!
//! `muster disk-image` adds, lists and removes them, on the controller's own host; `sessions::files` sends them.
//! Each is called by the SHA-256 of the file that it was made from, which is what its publisher tells and documents name;
//! it holds the disk in one form, whatever the file's was (decision 38).

mod convert;
pub mod qcow2;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use muster_protocol::Digest;
use muster_protocol::disk::{HEADER, Header};
use ring::digest::{Context, SHA256};
use rustix::fs::statvfs;

/// The folder beside kernel and initramfs in which they lie.
pub const FOLDER: &str = "disks";
/// What is left free where an image is written: the controller's own database may lie there.
const LEFT_FREE: u64 = 1 << 30;
/// Bytes after which it is looked how much is free.
const LOOK_AFTER: u64 = 64 << 20;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum DiskImageError {
    /// A file cannot be read or written.
    #[error("a file cannot be read or written")]
    Io(#[from] io::Error),
    /// The file is none that can be written to a disk.
    #[error("{0}")]
    Refused(String),
    /// It is another file.
    #[error("its SHA-256 is {found} and not {expected}: it is another file, or damaged; nothing was kept")]
    Other {
        /// What it is.
        found: Digest,
        /// What it should be.
        expected: Digest,
    },
    /// The disk is getting full.
    #[error("there would be less than 1 GiB left in {}; nothing was kept", .0.display())]
    Full(PathBuf),
}

fn refused(why: impl Into<String>) -> DiskImageError {
    DiskImageError::Refused(why.into())
}

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskImage {
    /// What it is of.
    pub header: Header,
    /// Bytes that are kept, and sent.
    pub bytes: u64,
}

/// Takes a file in as an image. `progress` hears percents and what is being done.
///
/// Errors: among others it is not the one that was expected. Then what was there before is still there, and no more.
pub fn add(
    folder: &Path,
    file: &Path,
    name: &str,
    expected: Option<Digest>,
    progress: &mut dyn FnMut(u64, &str),
) -> Result<DiskImage, DiskImageError> {
    let mut source = File::open(file)?;
    let length = source.metadata()?.len().max(1);
    let found = digest(&mut source, &mut |done| progress(done * 30 / length, "reading"))?;
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(DiskImageError::Other { found, expected });
    }
    let place = folder.join(found.to_string());
    if let Some(image) = read(&place)? {
        return Ok(image);
    }
    fs::create_dir_all(folder)?;
    let mut out = Unfinished::new(folder, &found)?;
    source.rewind()?;
    let mut looked = 0;
    let mut goes_on = |done: u64| {
        progress(30 + (done * 70 / length).min(69), "converting");
        if done - looked >= LOOK_AFTER {
            looked = done;
            has_room(folder)?;
        }
        Ok(())
    };
    has_room(folder)?;
    let mut written = BufWriter::new(&mut out.file);
    let header = convert::convert(source, found, name, &mut written, &mut goes_on)?;
    written.flush()?;
    drop(written);
    out.keep(&place)?;
    let bytes = fs::metadata(&place)?.len();
    Ok(DiskImage { header, bytes })
}

/// A file on its way; it goes with the value unless it is kept.
struct Unfinished {
    file: File,
    path: PathBuf,
    is_kept: bool,
}

impl Unfinished {
    fn new(folder: &Path, digest: &Digest) -> io::Result<Self> {
        let path = folder.join(format!("{digest}.new"));
        Ok(Self { file: File::create(&path)?, path, is_kept: false })
    }

    fn keep(mut self, place: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, place)?;
        self.is_kept = true;
        File::open(place.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Errors: less than [`LEFT_FREE`] is left.
pub fn has_room(folder: &Path) -> Result<(), DiskImageError> {
    let free = statvfs(folder).map_err(io::Error::from)?;
    match free.f_bavail.saturating_mul(free.f_frsize) < LEFT_FREE {
        true => Err(DiskImageError::Full(folder.to_owned())),
        false => Ok(()),
    }
}

fn digest(file: &mut impl Read, progress: &mut dyn FnMut(u64)) -> io::Result<Digest> {
    let (mut sum, mut chunk, mut done) = (Context::new(&SHA256), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            count => {
                sum.update(&chunk[..count]);
                done += count as u64;
                progress(done);
            }
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(sum.finish().as_ref());
    Ok(Digest::from_bytes(out))
}

/// Those that are here, in the order of their digests.
pub fn list(folder: &Path) -> Result<Vec<DiskImage>, DiskImageError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut images = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_one = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<Digest>().is_ok());
        if is_one {
            images.extend(read(&path)?);
        }
    }
    images.sort_by_key(|image| image.header.source);
    Ok(images)
}

/// Removes one; `false` where it is not here. A machine that is being sent it gets the rest of what its stream has begun.
pub fn remove(folder: &Path, digest: &Digest) -> Result<bool, DiskImageError> {
    match fs::remove_file(folder.join(digest.to_string())) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What a file says of itself; `None` where it is not there or is none.
fn read(path: &Path) -> Result<Option<DiskImage>, DiskImageError> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let bytes = file.metadata()?.len();
    let mut header = [0; HEADER];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    Ok(Header::read(&header).map(|header| DiskImage { header, bytes }))
}
