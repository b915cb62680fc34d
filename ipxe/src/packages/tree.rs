//! What is in a package: its tar, read as a stream, and files kept in memory with their links.
//!
//! Nothing of a package is written to the host's disk: a kernel is 400 MB, of which an image takes a tenth.
//! Reads what `dpkg-deb --fsys-tarfile` writes (tar(5), GNU names); bytes that are no tar are an error, never a panic.

use std::collections::BTreeMap;
use std::io::{self, Read};

/// One entry of a package; folders and devices are passed over.
#[derive(Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// A file's contents.
    File(&'a [u8]),
    /// Where a link points to; an absolute path starts at the package's root.
    Link(&'a str),
}

const BLOCK: usize = 512;
/// No file in a package is larger than this.
const FILE_MAX: u64 = 1 << 30;

/// Calls `visit` for each entry, with its path relative to the root.
pub fn read_tar(mut input: impl Read, visit: &mut dyn FnMut(&str, Node<'_>)) -> io::Result<()> {
    let (mut data, mut long_name, mut long_link) = (vec![], None, None);
    loop {
        let mut header = [0; BLOCK];
        input.read_exact(&mut header)?;
        if header.iter().all(|b| *b == 0) {
            // The end; what follows is padding, which the writer must be able to get rid of.
            return io::copy(&mut input, &mut io::sink()).map(drop);
        }
        let size = octal(&header[124..136]).filter(|size| *size <= FILE_MAX).ok_or_else(|| malformed("a size"))?;
        data.clear();
        let padded = size.next_multiple_of(BLOCK as u64);
        input.by_ref().take(padded).read_to_end(&mut data)?;
        if data.len() as u64 != padded {
            return Err(malformed("its end"));
        }
        data.truncate(size as usize);
        match header[156] {
            b'L' => long_name = Some(text(&data)),
            b'K' => long_link = Some(text(&data)),
            kind => {
                let path = long_name.take().unwrap_or_else(|| short_name(&header));
                let target = long_link.take().unwrap_or_else(|| text(&header[157..257]));
                let path = path.trim_start_matches("./").trim_start_matches('/');
                match kind {
                    0 | b'0' => visit(path, Node::File(&data)),
                    b'1' => visit(path, Node::Link(&format!("/{}", target.trim_start_matches("./")))),
                    b'2' => visit(path, Node::Link(&target)),
                    _ => {}
                }
            }
        }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the package's tar is damaged at {what}"))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn short_name(header: &[u8; BLOCK]) -> String {
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    // POSIX tar splits long names; GNU tar uses that place otherwise, and says so in its magic.
    if prefix.is_empty() || &header[257..263] != b"ustar\0" { name } else { format!("{prefix}/{name}") }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = text(field);
    u64::from_str_radix(text.trim(), 8).ok()
}

/// Files in memory.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    File(Vec<u8>),
    Link(String),
}

impl Tree {
    /// Keeps an entry.
    pub fn insert(&mut self, path: &str, node: Node<'_>) {
        let entry = match node {
            Node::File(bytes) => Entry::File(bytes.to_vec()),
            Node::Link(target) => Entry::Link(target.to_owned()),
        };
        self.0.insert(path.to_owned(), entry);
    }

    /// The file at `path`, through links on the way; `None` where that leads to no file.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        let mut rest: Vec<_> = path.split('/').rev().map(str::to_owned).collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            let above = at.rfind('/').map_or(0, |slash| slash);
            match part.as_str() {
                "" | "." => {}
                ".." => at.truncate(above),
                name => {
                    let before = at.len();
                    if !at.is_empty() {
                        at.push('/');
                    }
                    at.push_str(name);
                    if let Some(Entry::Link(target)) = self.0.get(&at) {
                        links += 1;
                        if links > 40 {
                            return None;
                        }
                        at.truncate(if target.starts_with('/') { 0 } else { before });
                        rest.extend(target.split('/').rev().map(str::to_owned));
                    }
                }
            }
        }
        match self.0.get(&at)? {
            Entry::File(bytes) => Some(bytes),
            Entry::Link(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: u8, target: &str, data: &[u8]) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let size = format!("{:011o}", data.len());
        header[124..135].copy_from_slice(size.as_bytes());
        header[156] = kind;
        header[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header[257..265].copy_from_slice(b"ustar  \0");
        header.extend_from_slice(data);
        header.resize(header.len().next_multiple_of(BLOCK), 0);
        header
    }

    fn sample() -> Vec<u8> {
        let long = format!("./{}/deep", "x".repeat(120));
        let entries = [
            entry("./", b'5', "", b""),
            entry("./usr/lib/ld.so.2", b'0', "", b"loader"),
            entry("./lib", b'2', "usr/lib", b""),
            entry("./lib64/ld.so", b'2', "/lib/ld.so.2", b""),
            entry("./lib64/out", b'2', "../../../lib64/ld.so", b""),
            entry("./round", b'2', "round", b""),
            entry("./same", b'1', "./usr/lib/ld.so.2", b""),
            entry("././@LongLink", b'L', "", format!("{long}\0").as_bytes()),
            entry("cut", b'0', "", &[7; 600]),
            vec![0; 2 * BLOCK],
        ];
        entries.concat()
    }

    #[test]
    fn links_are_followed_inside_the_package_only() {
        let mut tree = Tree::default();
        read_tar(&sample()[..], &mut |path, node| tree.insert(path, node)).expect("a tar");
        for path in ["usr/lib/ld.so.2", "lib/ld.so.2", "lib64/ld.so", "lib64/out", "same", "/lib64/../same"] {
            assert_eq!(tree.file(path), Some(&b"loader"[..]), "{path}");
        }
        assert_eq!(tree.file(&format!("{}/deep", "x".repeat(120))), Some(&[7; 600][..]));
        for path in ["round", "nothing", "", "lib", "usr/lib", "lib64/ld.so/x"] {
            assert_eq!(tree.file(path), None, "{path}");
        }
    }

    #[test]
    fn a_damaged_package_is_an_error() {
        let whole = sample();
        for length in 0..whole.len() - 2 * BLOCK {
            assert!(read_tar(&whole[..length], &mut |_, _| {}).is_err(), "{length} bytes of it");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            let _ = read_tar(&bytes[..], &mut |_, _| {});
        }
    }
}
