//! Archives in the kernel's initramfs format: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same entries give the same bytes: sorted by path, everything owned by root, dated 1970, numbered in order.
//! Writes only what an initramfs needs: folders, files and character devices; no links, no reading.

use std::collections::BTreeMap;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    CharacterDevice { mode: u32, major: u32, minor: u32 },
}

/// An archive being put together.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a folder, and those above it. Permission bits in octal, as in `0o755`.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.insert(path, Entry::Folder { mode });
    }

    /// Adds a file, and the folders above it.
    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.insert(path, Entry::File { mode, bytes });
    }

    /// Adds a character device, and the folders above it.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.insert(path, Entry::CharacterDevice { mode, major, minor });
    }

    /// `path` is relative to the root, `/` first or not.
    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Folder { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive. A folder sorts before what is in it, as the kernel needs it.
    ///
    /// Panics where a file is over 4 GiB, which the format cannot say.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![];
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let (mode, links, data, device): (u32, u32, &[u8], (u32, u32)) = match entry {
                Entry::Folder { mode } => (0o040_000 | mode, 2, &[], (0, 0)),
                Entry::File { mode, bytes } => (0o100_000 | mode, 1, bytes, (0, 0)),
                Entry::CharacterDevice { mode, major, minor } => (0o020_000 | mode, 1, &[], (*major, *minor)),
            };
            header(&mut out, number as u32 + 1, mode, links, data.len(), device, path);
            out.extend_from_slice(data);
            pad(&mut out);
        }
        header(&mut out, 0, 0, 1, 0, (0, 0), "TRAILER!!!");
        out
    }
}

fn header(out: &mut Vec<u8>, inode: u32, mode: u32, links: u32, size: usize, device: (u32, u32), path: &str) {
    let size = u32::try_from(size).expect("nothing in an initramfs is over 4 GiB");
    let (uid, gid, mtime, disk_major, disk_minor, checksum) = (0, 0, 0, 0, 0, 0);
    let name_size = path.len() as u32 + 1;
    let fields =
        [inode, mode, uid, gid, links, mtime, size, disk_major, disk_minor, device.0, device.1, name_size, checksum];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
}

/// Header with name, and data, each end on a multiple of four.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let mut one = Archive::default();
        one.file("init", 0o755, b"#!".to_vec());
        one.folder("lib", 0o755);
        one.file("lib/a/b", 0o644, vec![]);
        let mut two = Archive::default();
        two.file("/lib/a/b", 0o644, vec![]);
        two.folder("lib/", 0o755);
        two.file("init", 0o755, b"#!".to_vec());
        assert_eq!(one.to_bytes(), two.to_bytes());
    }

    #[test]
    fn a_folders_mode_survives_what_is_put_into_it() {
        let mut archive = Archive::default();
        archive.folder("tmp", 0o1777);
        archive.file("tmp/x", 0o600, vec![]);
        // Magic, inode 1, then a folder with the sticky bit and every permission.
        assert!(archive.to_bytes().starts_with(b"07070100000001000043FF"));
    }
}
