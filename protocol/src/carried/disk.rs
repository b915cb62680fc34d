//! A disk image on its way to a machine: what of a disk is not all zeros, piece by piece, in the order of the disk.
//!
//! Written by the controller from raw, zstd, xz and qcow2 files, read by the agent while it comes; pure.
//! A header of [`HEADER`] bytes; then pieces, each a head of [`PIECE`] bytes and its data; then an end, which is a head
//! and the SHA-256 of all pieces, heads included, with the header behind them. Numbers are little-endian.
//! What no piece holds is zeros, and must be so on the disk.

use crate::Digest;

/// Bytes of the header.
pub const HEADER: usize = 256;
/// Bytes before each piece.
pub const PIECE: usize = 16;
/// The most bytes of a piece. The first piece holds so many from the beginning of the disk, zeros or not: the table is
/// there, and whoever writes the disk looks at it first and writes it last.
pub const CHUNK: usize = 1 << 20;
/// Bytes of the longest name of an image that is kept.
pub const NAME: usize = HEADER - 16 - 32 - 8;
/// The largest disk that an image may be of, in bytes.
pub const LARGEST: u64 = 16 << 40;

const MAGIC: &[u8; 16] = b"muster-disk-1\n\0\0";

/// What an image begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// SHA-256 of the file that the image was made from, as its publisher tells it. Names the image.
    pub source: Digest,
    /// Bytes of the disk that it is of, a multiple of 512, at least two chunks.
    pub size: u64,
    /// What the file was called; for people.
    pub name: String,
}

impl Header {
    /// Its bytes; a longer name is cut.
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..48].copy_from_slice(self.source.as_bytes());
        bytes[48..56].copy_from_slice(&self.size.to_le_bytes());
        let name = &self.name.as_bytes()[..self.name.floor_char_boundary(NAME)];
        bytes[56..56 + name.len()].copy_from_slice(name);
        bytes
    }

    /// `None` where these are not the first bytes of an image.
    pub fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let source = Digest::from_bytes(bytes[16..48].try_into().ok()?);
        let size = u64::from_le_bytes(bytes[48..56].try_into().ok()?);
        let name = bytes[56..].split(|byte| *byte == 0).next().unwrap_or_default();
        let is_sound = bytes.starts_with(MAGIC) && (2 * CHUNK as u64..=LARGEST).contains(&size) && size % 512 == 0;
        is_sound.then(|| Self { source, size, name: String::from_utf8_lossy(name).into_owned() })
    }
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Data of the disk.
    Piece {
        /// Its first byte.
        at: u64,
        /// Bytes, 1 to [`CHUNK`].
        len: usize,
    },
    /// 32 bytes of SHA-256, and nothing more.
    End,
}

impl Next {
    /// Its bytes.
    pub fn to_bytes(self) -> [u8; PIECE] {
        let (at, len) = match self {
            Self::Piece { at, len } => (at, len as u64),
            Self::End => (u64::MAX, 32),
        };
        let mut bytes = [0; PIECE];
        bytes[..8].copy_from_slice(&at.to_le_bytes());
        bytes[8..].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    /// `None` where this cannot come in an image of a disk of `size` bytes, of which pieces up to `done` came.
    pub fn read(bytes: &[u8; PIECE], done: u64, size: u64) -> Option<Self> {
        let at = u64::from_le_bytes(bytes[..8].try_into().ok()?);
        let len = u64::from_le_bytes(bytes[8..].try_into().ok()?);
        if at == u64::MAX {
            return (len == 32 && done > 0).then_some(Self::End);
        }
        let is_first = at == 0 && len == CHUNK as u64;
        let fits = at.checked_add(len).is_some_and(|end| end <= size);
        let is_next = if done == 0 { is_first } else { at >= done && (1..=CHUNK as u64).contains(&len) };
        (is_next && fits).then_some(Self::Piece { at, len: len as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 8 << 20;

    #[test]
    fn what_is_written_reads_back() {
        let header = Header { source: Digest::of(b"image"), size: SIZE, name: "debian-12.qcow2".into() };
        assert_eq!(Header::read(&header.to_bytes()), Some(header.clone()));
        let long = Header { name: "é".repeat(200), ..header };
        assert_eq!(Header::read(&long.to_bytes()).expect("it is one").name, "é".repeat(100));
        let first = Next::Piece { at: 0, len: CHUNK };
        assert_eq!(Next::read(&first.to_bytes(), 0, SIZE), Some(first));
        let next = Next::Piece { at: 3 << 20, len: 4096 };
        assert_eq!(Next::read(&next.to_bytes(), 1 << 20, SIZE), Some(next));
        assert_eq!(Next::read(&Next::End.to_bytes(), SIZE, SIZE), Some(Next::End));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let header = |size| Header { source: Digest::of(b""), size, name: String::new() }.to_bytes();
        for size in [0, 1 << 20, SIZE + 1, LARGEST + 512, u64::MAX] {
            assert_eq!(Header::read(&header(size)), None, "{size}");
        }
        assert_eq!(Header::read(&[0; HEADER]), None);
        let piece = |at, len| Next::Piece { at, len }.to_bytes();
        for (bytes, done) in [
            (piece(4096, CHUNK), 0),
            (piece(0, 4096), 0),
            (piece(0, CHUNK), CHUNK as u64),
            (piece(SIZE, 1), CHUNK as u64),
            (piece(SIZE - 1, 2), CHUNK as u64),
            (piece(2 << 20, 0), CHUNK as u64),
            (piece(2 << 20, CHUNK + 1), CHUNK as u64),
            (piece(u64::MAX - 1, 4), CHUNK as u64),
            (Next::End.to_bytes(), 0),
        ] {
            assert_eq!(Next::read(&bytes, done, SIZE), None, "{bytes:?} after {done}");
        }
    }
}
