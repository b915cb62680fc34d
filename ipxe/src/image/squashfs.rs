//! Filesystems in the kernel's squashfs format, version 4.0 (Documentation/filesystems/squashfs.rst, fs/squashfs).
//!
//! The same files give the same bytes: sorted by path, everything owned by root, dated 1970.
//! Writes only what a tools image needs: folders and files, each file in blocks of its own, compressed with zstd; no links,
//! no fragments, no reading.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Bytes of a file that are compressed together. A machine that reads a page unpacks one of these: larger ones are smaller
/// on the wire (1 MiB: 5 %), and dear where memory is short.
const BLOCK: usize = 128 << 10;
/// Bytes of inodes or names that are compressed together; the format's own number.
const METADATA: usize = 8 << 10;
/// zstd's.
const LEVEL: i32 = 19;
/// A block device is read in whole sectors, and the kernel wants no byte of the filesystem behind its end.
const PADDING: usize = 4 << 10;
/// Where there is nothing of a kind.
const NONE: u64 = u64::MAX;
/// Names behind one header of a listing.
const LISTED_TOGETHER: usize = 256;
const FOLDER: u16 = 1;
const FILE: u16 = 2;

/// A filesystem being put together: files by path, with their permissions.
#[derive(Debug, Default)]
pub struct Squashfs {
    files: BTreeMap<String, (u16, Vec<u8>)>,
}

/// A folder, or a file by its path.
#[derive(Debug)]
enum Node {
    Folder(BTreeMap<String, Node>),
    File(String),
}

/// Where an inode lies: the block of the table, and the byte in it once unpacked.
#[derive(Debug, Clone, Copy)]
struct Place {
    block: u32,
    offset: u16,
}

/// One line of a folder's listing.
struct Line<'a> {
    name: &'a str,
    kind: u16,
    number: u32,
    at: Place,
}

/// Inodes or listings, compressed as they come.
#[derive(Default)]
struct Table {
    written: Vec<u8>,
    block: Vec<u8>,
}

impl Table {
    /// Where the next byte comes.
    fn place(&self) -> Place {
        Place { block: self.written.len() as u32, offset: self.block.len() as u16 }
    }

    fn add(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(METADATA - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == METADATA {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        const AS_IT_IS: u16 = 1 << 15;
        if self.block.is_empty() {
            return Ok(());
        }
        let packed = zstd::bulk::compress(&self.block, LEVEL)?;
        let (mark, bytes) = if packed.len() < self.block.len() { (0, &packed) } else { (AS_IT_IS, &self.block) };
        self.written.extend_from_slice(&(bytes.len() as u16 | mark).to_le_bytes());
        self.written.extend_from_slice(bytes);
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        self.flush()?;
        Ok(self.written)
    }
}

/// What is known while the tree is written.
struct Writer<'a> {
    files: &'a BTreeMap<String, (u16, Vec<u8>)>,
    /// Each file's first byte in the image, and its blocks' lengths as the format has them.
    data: BTreeMap<&'a str, (u32, Vec<u32>)>,
    inodes: Table,
    listings: Table,
    count: u32,
}

impl Squashfs {
    /// Adds a file, and the folders above it. Permission bits in octal, as in `0o755`.
    pub fn file(&mut self, path: &str, mode: u16, bytes: Vec<u8>) {
        self.files.insert(path.trim_matches('/').to_owned(), (mode, bytes));
    }

    /// How many bytes its files have.
    pub fn unpacked(&self) -> u64 {
        self.files.values().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// The image. `progress` hears how many of the files' bytes are compressed.
    ///
    /// Errors: zstd's. Panics where the image is over 4 GiB or a folder's listing over 64 KiB: then it is no tools image.
    pub fn to_bytes(&self, progress: &mut dyn FnMut(u64)) -> io::Result<Vec<u8>> {
        let blocks: Vec<&[u8]> = self.files.values().flat_map(|(_, bytes)| bytes.chunks(BLOCK)).collect();
        let mut packed = pack(&blocks, progress)?.into_iter().zip(blocks);
        let mut image = vec![0; SUPERBLOCK];
        let mut data = BTreeMap::new();
        for (path, (_, bytes)) in &self.files {
            let start = at(&image);
            let mut lengths = vec![];
            for (packed, block) in packed.by_ref().take(bytes.len().div_ceil(BLOCK)) {
                const AS_IT_IS: u32 = 1 << 24;
                let (mark, stored) = if packed.len() < block.len() { (0, &packed[..]) } else { (AS_IT_IS, block) };
                image.extend_from_slice(stored);
                lengths.push(stored.len() as u32 | mark);
            }
            data.insert(path.as_str(), (start, lengths));
        }

        let mut root = BTreeMap::new();
        for path in self.files.keys() {
            insert(&mut root, path, path);
        }
        let (inodes, listings) = (Table::default(), Table::default());
        let mut writer = Writer { files: &self.files, data, inodes, listings, count: 0 };
        let inodes_wanted = count(&root);
        // The root's parent is nobody: a number that no inode has.
        let (_, root) = writer.folder(&root, inodes_wanted + 1)?;
        let mut ids = Table::default();
        ids.add(&0_u32.to_le_bytes())?;

        let inode_table = u64::from(at(&image));
        image.extend(writer.inodes.finish()?);
        let listing_table = u64::from(at(&image));
        image.extend(writer.listings.finish()?);
        let id_block = u64::from(at(&image));
        image.extend(ids.finish()?);
        let id_table = u64::from(at(&image));
        image.extend(id_block.to_le_bytes());
        let used = u64::from(at(&image));

        let mut head = vec![];
        let no_fragments_and_no_attributes = 0x0010_u16 | 0x0200;
        put32(&mut head, &[0x7371_7368, writer.count, 0, BLOCK as u32, 0]);
        put16(&mut head, &[6, BLOCK.ilog2() as u16, no_fragments_and_no_attributes, 1, 4, 0]);
        let root = u64::from(root.block) << 16 | u64::from(root.offset);
        for field in [root, used, id_table, NONE, inode_table, listing_table, NONE, NONE] {
            head.extend(field.to_le_bytes());
        }
        image[..SUPERBLOCK].copy_from_slice(&head);
        image.resize(image.len().next_multiple_of(PADDING), 0);
        Ok(image)
    }
}

const SUPERBLOCK: usize = 96;

/// Compresses each block for itself, on all processors, in the order in which they were given.
fn pack(blocks: &[&[u8]], progress: &mut dyn FnMut(u64)) -> io::Result<Vec<Vec<u8>>> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut packed = vec![vec![]; blocks.len()];
    let next = &AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for send in vec![send; processors] {
            scope.spawn(move || {
                let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                // Nobody listens any more where one of them could not be compressed.
                numbers
                    .map_while(|at| Some((at, blocks.get(at)?)))
                    .all(|(at, block)| send.send((at, zstd::bulk::compress(block, LEVEL))).is_ok());
            });
        }
        let mut done = 0;
        for (at, bytes) in receive {
            packed[at] = bytes?;
            done += blocks[at].len() as u64;
            progress(done);
        }
        Ok(packed)
    })
}

fn at(image: &[u8]) -> u32 {
    u32::try_from(image.len()).expect("a tools image has a few MB")
}

fn insert(folder: &mut BTreeMap<String, Node>, rest: &str, path: &str) {
    match rest.split_once('/') {
        None => drop(folder.insert(rest.to_owned(), Node::File(path.to_owned()))),
        Some((name, rest)) => match folder.entry(name.to_owned()).or_insert_with(|| Node::Folder(BTreeMap::new())) {
            Node::Folder(below) => insert(below, rest, path),
            Node::File(_) => unreachable!("a path that goes on is no file's: {path}"),
        },
    }
}

/// How many inodes a folder and all below it have.
fn count(folder: &BTreeMap<String, Node>) -> u32 {
    let below = folder.values().map(|node| match node {
        Node::Folder(below) => count(below),
        Node::File(_) => 1,
    });
    1 + below.sum::<u32>()
}

impl Writer<'_> {
    /// Writes what is in a folder, then its listing, then itself: each tells where the one before lies. Answers its number
    /// and place.
    fn folder(&mut self, folder: &BTreeMap<String, Node>, parent: u32) -> io::Result<(u32, Place)> {
        self.count += 1;
        let number = self.count;
        let mut lines = vec![];
        let mut folders = 0;
        for (name, node) in folder {
            let (kind, (number, at)) = match node {
                Node::Folder(below) => {
                    folders += 1;
                    (FOLDER, self.folder(below, number)?)
                }
                Node::File(path) => (FILE, self.file(path)?),
            };
            lines.push(Line { name, kind, number, at });
        }
        let listing = self.listings.place();
        let bytes = listing_of(&lines);
        self.listings.add(&bytes)?;

        let at = self.inodes.place();
        let mut inode = head_of(FOLDER, 0o755, number);
        put32(&mut inode, &[listing.block, 2 + folders]);
        // The kernel counts `.` and `..` as three bytes.
        let length = u16::try_from(bytes.len() + 3).expect("a folder of a tools image has some dozen files");
        put16(&mut inode, &[length, listing.offset]);
        put32(&mut inode, &[parent]);
        self.inodes.add(&inode)?;
        Ok((number, at))
    }

    fn file(&mut self, path: &str) -> io::Result<(u32, Place)> {
        self.count += 1;
        let (mode, bytes) = &self.files[path];
        let (start, lengths) = &self.data[path];
        let at = self.inodes.place();
        let mut inode = head_of(FILE, *mode, self.count);
        // No fragment holds its end.
        put32(&mut inode, &[*start, u32::MAX, 0, bytes.len() as u32]);
        put32(&mut inode, lengths);
        self.inodes.add(&inode)?;
        Ok((self.count, at))
    }
}

fn head_of(kind: u16, mode: u16, number: u32) -> Vec<u8> {
    let (owner, group, time) = (0, 0, 0);
    let mut inode = vec![];
    put16(&mut inode, &[kind, mode, owner, group]);
    put32(&mut inode, &[time, number]);
    inode
}

/// Behind each header stand names whose inodes lie in one block.
fn listing_of(lines: &[Line<'_>]) -> Vec<u8> {
    let mut out = vec![];
    for same_block in lines.chunk_by(|a, b| a.at.block == b.at.block) {
        for together in same_block.chunks(LISTED_TOGETHER) {
            let Some(first) = together.first() else { continue };
            put32(&mut out, &[together.len() as u32 - 1, first.at.block, first.number]);
            for line in together {
                // Signed; what is in a folder was numbered with it.
                let further = line.number.wrapping_sub(first.number) as u16;
                put16(&mut out, &[line.at.offset, further, line.kind, line.name.len() as u16 - 1]);
                out.extend_from_slice(line.name.as_bytes());
            }
        }
    }
    out
}

fn put16(out: &mut Vec<u8>, fields: &[u16]) {
    fields.iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
}

fn put32(out: &mut Vec<u8>, fields: &[u32]) {
    fields.iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
}
