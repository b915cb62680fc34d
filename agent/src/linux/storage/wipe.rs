//! Destroying what a disk carries, and proving it.
//!
//! Called by the glue when a machine is decommissioned. The whole disk is overwritten with zeros and read back.
//! It does not use a drive's own sanitize or secure erase, so blocks that a drive has set aside are not reached.

use std::time::Instant;

use muster_protocol::DiskId;
use muster_protocol::observed::Contents;
use muster_protocol::to_controller::WipeReceipt;

use super::device::{CHUNK, Device, Share};
use super::mounts;
use crate::linux::storage::disks::Disks;
use crate::machine::{MachineError, Percent};
use crate::plan::storage::in_words;
use crate::sort;

/// Bytes overwritten between two words about progress.
const STRETCH: u64 = 64 << 20;
/// Disks up to this size are read back whole.
const WHOLE: u64 = 4 << 30;
/// Of larger ones: this much at both ends …
const ENDS: u64 = 16 << 20;
/// … and so many stretches of [`CHUNK`] bytes between them.
const SAMPLES: u64 = 1024;

/// Overwrites a disk with zeros, its partitions and tables included. Takes as long as writing the whole disk does.
/// Repeating it does no harm.
///
/// Errors: somebody else uses the disk, and then nothing was written; or it could not be written or read back.
pub fn wipe_on(disks: &Disks, id: &DiskId, progress: Percent<'_>) -> Result<WipeReceipt, MachineError> {
    let begun = Instant::now();
    let failed = |source| MachineError::os(format!("wipe {id}"), source);
    let disk = disks.observe_one(id)?;
    if !disk.held.is_empty() {
        return Err(MachineError::Unable(format!("wipe {id}: {}", disk.held)));
    }
    // What is mounted inside something else of ours leaves first.
    let mut own: Vec<_> = disk.partitions.iter().filter_map(|p| Some((p.contents.mounted_at()?, p.number))).collect();
    sort::short(&mut own, Ord::cmp);
    for (path, number) in own.into_iter().rev() {
        mounts::unmount(disks, id, number, path)?;
    }
    let node = disks.node(&disk.name).ok_or_else(|| MachineError::Missing(id.to_string()))?;
    let device = Device::open(disks, &node, disk.size_bytes, Share::Exclusive).map_err(failed)?;

    progress(0);
    let regions = to_verify(device.size);
    let work = device.size + regions.iter().map(|(_, len)| len).sum::<u64>();
    let (mut done, mut last) = (0_u64, 0);
    let mut told = |more: u64| {
        done += more;
        let percent = (u128::from(done) * 100 / u128::from(work.max(1))).min(100) as u8;
        if percent != last {
            last = percent;
            progress(percent);
        }
    };
    for start in (0..device.size).step_by(STRETCH as usize) {
        let len = STRETCH.min(device.size - start);
        device.zero(start, len).map_err(failed)?;
        told(len);
    }
    device.drop_cache().map_err(failed)?;
    let mut verified_bytes = 0;
    for (start, len) in regions {
        if !device.is_zero(start, len).map_err(failed)? {
            let found = format!("not zero between bytes {start} and {}", start + len);
            return Err(MachineError::ReadBack { what: format!("zeros on {id}"), found });
        }
        verified_bytes += len;
        told(len);
    }
    device.set_partitions(disks, &node, &[]).map_err(failed)?;
    let bytes = device.size;
    drop(device);
    match disks.observe_one(id)?.contents {
        Contents::Blank => {}
        other => return Err(MachineError::ReadBack { what: format!("zeros on {id}"), found: in_words(&other, &[]) }),
    }
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(WipeReceipt { disk: id.clone(), method: "zeroed".into(), bytes, verified_bytes, milliseconds })
}

/// What is read back of a disk of this size: stretches that do not overlap, in order.
fn to_verify(size: u64) -> Vec<(u64, u64)> {
    if size <= WHOLE {
        return (0..size).step_by(STRETCH as usize).map(|start| (start, STRETCH.min(size - start))).collect();
    }
    let between = size - 2 * ENDS;
    let chunk = CHUNK as u64;
    let sample = |i: u64| (ENDS + (u128::from(between - chunk) * u128::from(i) / u128::from(SAMPLES)) as u64, chunk);
    [(0, ENDS)].into_iter().chain((0..SAMPLES).map(sample)).chain([(size - ENDS, ENDS)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_disks_are_read_back_whole_and_large_ones_all_over() {
        for size in [0, 1, STRETCH, WHOLE - 512, WHOLE, WHOLE + 512, 20 << 40] {
            let regions = to_verify(size);
            let mut end = 0;
            for (start, len) in &regions {
                assert!(*start >= end && *len > 0 && start + len <= size, "{size}: {start} {len}");
                end = start + len;
            }
            assert_eq!(end, size, "the last byte is read");
            if size <= WHOLE {
                assert_eq!(regions.iter().map(|(_, len)| len).sum::<u64>(), size);
            } else {
                assert!(regions.len() as u64 > SAMPLES);
            }
        }
    }
}
