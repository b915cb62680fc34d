//! Small files that must be whole: keys, tokens, images' lists. Written beside their place, synced, and renamed into it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// For the controller's user alone.
pub const SECRET: u32 = 0o600;

/// For everybody on this computer to read.
pub const PUBLIC: u32 = 0o644;

/// Replaces a file as a whole, and durably: after a power cut it holds the old or the new bytes.
///
/// `mode` is the new file's, whatever the old one's was.
pub fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut name = file.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let fresh = folder.join(name);
    // One that a crash left may have another mode, and a mode only counts when a file is made.
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&fresh, file)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_replaced_file_has_the_new_bytes_and_the_new_mode() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("token");
        replace(&file, b"old", PUBLIC).expect("written");
        std::fs::write(folder.path().join("token.new"), b"left by a crash").expect("written");
        replace(&file, b"new", SECRET).expect("replaced");
        assert_eq!(std::fs::read(&file).expect("there"), b"new");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
    }
}
