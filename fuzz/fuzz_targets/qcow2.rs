//! What an operator takes for the image of a disk and somebody else has made: the reader of qcow2.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use muster_controller::disk_image::qcow2::{MAGIC, Qcow2};
use muster_fuzz::plant;

/// Bytes that are read at once.
const PIECE: usize = 1 << 12;

fuzz_target!(
    init: {
        let seeds = [image(2, false), image(3, false), image(3, true)];
        for seed in &seeds {
            let mut disk = Qcow2::open(Cursor::new(seed.clone())).unwrap_or_else(|why| panic!("a seed is none: {why}"));
            let mut out = [0; CLUSTER];
            let is_data = disk.read(0, &mut out).unwrap_or_else(|why| panic!("a seed cannot be read: {why}"));
            assert!(is_data && out == [7; CLUSTER], "a seed leads nowhere");
        }
        plant("qcow2", seeds)
    },
    |data: &[u8]| {
        let Ok(mut disk) = Qcow2::open(Cursor::new(data)) else { return };
        let mut out = vec![0; PIECE];
        let last = disk.size.saturating_sub(PIECE as u64);
        for at in [0, CLUSTER as u64, PIECE as u64, disk.size / 2, last] {
            let count = disk.size.saturating_sub(at).min(PIECE as u64) as usize;
            if disk.read(at, &mut out[..count]).is_err() {
                return;
            }
        }
    }
);

/// The smallest that there may be.
const CLUSTER: usize = 512;

/// A disk of eight clusters, of which the first one has data.
fn image(version: u32, is_packed: bool) -> Vec<u8> {
    let mut bytes = vec![0; 3 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, MAGIC);
    put(4, &version.to_be_bytes());
    put(20, &9_u32.to_be_bytes());
    put(24, &(8 * CLUSTER as u64).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(CLUSTER as u64).to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64 | 1 << 63).to_be_bytes());
    let data = 3 * CLUSTER as u64;
    // Compressed, and of two sectors; or there, and of nobody else's.
    let entry = if is_packed { data | 1 << 62 | 1 << 61 } else { data | 1 << 63 };
    put(2 * CLUSTER, &entry.to_be_bytes());
    // One block of deflate, of bytes as they are.
    let stored = [&[1, 0, 2, 0xff, 0xfd][..], &[7; CLUSTER]].concat();
    bytes.extend(if is_packed { stored } else { vec![7; CLUSTER] });
    bytes.resize(bytes.len().next_multiple_of(CLUSTER), 0);
    bytes
}
