//! Superblocks that carry a checksum of themselves: a disk that breaks off within one leaves its right label with wrong
//! contents, and such a filesystem is none that may be kept.
//!
//! Called by `disks` for what is not mounted: what is mounted changes its superblock in memory first.

/// Where the superblock lies of a filesystem that may carry a checksum: first byte, and bytes.
pub fn superblock(kind: &str) -> Option<(u64, usize)> {
    match kind {
        "btrfs" => Some((64 << 10, 4096)),
        "ext4" => Some((1024, 1024)),
        _ => None,
    }
}

/// Whether its checksum is right, or it has none that is known here.
pub fn is_right(kind: &str, superblock: &[u8]) -> bool {
    let number = |at: usize| superblock.get(at..at + 4)?.try_into().map(u32::from_le_bytes).ok();
    let (covered, sum) = match kind {
        // Linux, fs/btrfs: the sum comes first, of all that follows its 32 bytes; its type is at 196, and 0 is CRC32C.
        "btrfs" if superblock.get(196..198) == Some(&[0, 0]) => (superblock.get(32..), number(0).map(|sum| !sum)),
        // Documentation/filesystems/ext4: with `metadata_csum` it comes last, and is not inverted.
        "ext4" if number(100).is_some_and(|features| features & 0x400 != 0) => (superblock.get(..1020), number(1020)),
        _ => return true,
    };
    covered.map(crc32c) == sum
}

/// Castagnoli's, bit by bit and without the inversion at its end: it is few bytes, and rarely.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_the_one_everybody_computes() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }
}
