//! Destroying what a disk carries, and proving it.
//!
//! Called by the glue when a machine is wiped or decommissioned. How thoroughly is the caller's word; what a disk cannot do
//! itself is done by overwriting it, and read back it is in any case.

mod ata;
mod nvme;

use std::io;
use std::time::Instant;

use muster_protocol::DiskId;
use muster_protocol::inventory::Transport;
use muster_protocol::observed::{Contents, Disk, Partition};
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::to_controller::WipeReceipt;
use rustix::fs::OFlags;

use self::ata::Erased;
use super::device::{CHUNK, Device, Share};
use super::signatures::{HEAD, TAIL};
use super::{mounts, trees};
use crate::linux::drive;
use crate::linux::storage::disks::{Disks, Node};
use crate::linux::sysfs;
use crate::machine::{MachineError, Percent};
use crate::plan::storage::{Slot, Target, in_words};
use crate::sort;

/// Bytes overwritten between two words about progress.
const STRETCH: u64 = 64 << 20;
/// Disks up to this size are read back whole.
const WHOLE: u64 = 4 << 30;
/// Of larger ones: this much at both ends …
const ENDS: u64 = 16 << 20;
/// … and so many stretches of [`CHUNK`] bytes between them.
const SAMPLES: u64 = 1024;
/// So many pieces of a drive that erases itself are read before, to see that they are gone.
const PIECES: u64 = 64;
const PIECE: u64 = 4096;

/// A stretch: first byte, bytes.
type Stretch = (u64, u64);

/// Wipes a disk, its partitions and tables included. Takes as long as the level does: from seconds to the time in which the
/// whole disk is written. Repeating it does no harm.
///
/// Errors: somebody else uses the disk, and then nothing was written; or it could not be written or read back.
pub fn wipe_on(
    disks: &Disks,
    id: &DiskId,
    level: WipeLevel,
    progress: Percent<'_>,
) -> Result<WipeReceipt, MachineError> {
    let begun = Instant::now();
    let failed = |source| MachineError::os(format!("wipe {id}"), source);
    unlock(disks, id)?;
    let disk = disks.observe_one(id)?;
    if !disk.held.is_empty() {
        return Err(MachineError::Unable(format!("wipe {id}: {}", disk.held)));
    }
    let node = disks.node(&disk.name).ok_or_else(|| MachineError::Missing(id.to_string()))?;
    let usage = disks.usage()?;
    let parts = disks.partition_nodes(&node);
    let layers: Vec<String> = [&node]
        .into_iter()
        .chain(parts.iter().map(|(_, part)| part))
        .filter_map(|node| usage.layers_on(node))
        .collect();
    if !layers.is_empty() {
        let why = format!("wipe {id}: {}; reboot the machine, after which nothing runs", layers.join(", "));
        return Err(MachineError::Unable(why));
    }
    // What is mounted inside something else of ours leaves first.
    let mut own: Vec<_> = disk.partitions.iter().filter_map(|p| Some((p.contents.mounted_at()?, p))).collect();
    sort::short(&mut own, |(one, a), (other, b)| (one, a.number).cmp(&(other, b.number)));
    trees::detach_all(disks, &own.iter().map(|(path, _)| *path).collect::<Vec<_>>())?;
    for (path, partition) in own.into_iter().rev() {
        mounts::take_out(disks, &Target::partition(id, &Slot::of(partition)), path)?;
    }
    let device = Device::open(disks, &node, disk.size_bytes, Share::Exclusive).map_err(failed)?;

    let stretches = match level {
        WipeLevel::Signatures => signatures_of(disk.size_bytes, &disk.partitions),
        WipeLevel::Quick | WipeLevel::Full | WipeLevel::Secure => vec![(0, device.size)],
    };
    let to_read = match level {
        WipeLevel::Signatures => stretches.clone(),
        WipeLevel::Quick | WipeLevel::Full | WipeLevel::Secure => to_verify(device.size),
    };
    let itself = if level == WipeLevel::Secure { device.size } else { 0 };
    let mut meter = Meter { progress, done: 0, of: itself + bytes(&stretches) + bytes(&to_read), told: 0 };
    (meter.progress)(0);
    let method = match level {
        WipeLevel::Signatures => overwrite(&device, &stretches, &mut meter).map(|()| "signatures overwritten"),
        WipeLevel::Full => overwrite(&device, &stretches, &mut meter).map(|()| "overwritten"),
        WipeLevel::Quick => clear(&device, &mut meter),
        WipeLevel::Secure => {
            match erase_itself(&disk, &node, &device, &mut meter)? {
                // It may read as anything now.
                Erased::By(method) => clear(&device, &mut meter).map(|_| method),
                Erased::Not(instead) => overwrite(&device, &stretches, &mut meter).map(|()| instead),
            }
        }
    };
    let method = method.map_err(failed)?.to_owned();
    device.drop_cache().map_err(failed)?;
    for &(start, len) in &to_read {
        if !device.is_zero(start, len).map_err(failed)? {
            let found = format!("not zero between bytes {start} and {}", start + len);
            return Err(MachineError::ReadBack { what: format!("zeros on {id}"), found });
        }
        meter.add(len);
    }
    device.set_partitions(disks, &node, &[]).map_err(failed)?;
    let size_bytes = device.size;
    drop(device);
    match disks.observe_one(id)?.contents {
        Contents::Blank => {}
        // Somebody's data that nothing tells the name of.
        Contents::Unknown if level == WipeLevel::Signatures => {}
        other => return Err(MachineError::ReadBack { what: format!("zeros on {id}"), found: in_words(&other, &[]) }),
    }
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (bytes, verified_bytes) = (bytes(&stretches), bytes(&to_read));
    Ok(WipeReceipt { disk: id.clone(), method, size_bytes, bytes, verified_bytes, milliseconds })
}

/// Where anything could be recognized: both ends of the disk and of each partition. In order; none overlaps another.
fn signatures_of(disk_bytes: u64, partitions: &[Partition]) -> Vec<Stretch> {
    let parts = partitions.iter().map(|partition| (partition.start_bytes, partition.size_bytes));
    let mut ends: Vec<Stretch> = Vec::new();
    for (start, size) in parts.chain([(0, disk_bytes)]) {
        let start = start.min(disk_bytes);
        let size = size.min(disk_bytes - start);
        let (head, tail) = (size.min(HEAD as u64), size.min(TAIL as u64));
        ends.extend([(start, head), (start + size - tail, tail)]);
    }
    sort::short(&mut ends, Ord::cmp);
    let mut apart: Vec<Stretch> = Vec::new();
    for (start, len) in ends.into_iter().filter(|(_, len)| *len > 0) {
        match apart.last_mut() {
            Some((before, covered)) if start <= *before + *covered => {
                *covered = (*covered).max(start + len - *before);
            }
            _ => apart.push((start, len)),
        }
    }
    apart
}

fn bytes(stretches: &[Stretch]) -> u64 {
    stretches.iter().map(|(_, len)| len).sum()
}

fn overwrite(device: &Device, stretches: &[Stretch], meter: &mut Meter<'_>) -> io::Result<()> {
    for &(start, len) in stretches {
        for at in (start..start + len).step_by(STRETCH as usize) {
            let now = STRETCH.min(start + len - at);
            device.zero(at, now)?;
            meter.add(now);
        }
    }
    Ok(())
}

/// Makes the whole device read as zeros, by discarding it where it guarantees that, and answers how.
fn clear(device: &Device, meter: &mut Meter<'_>) -> io::Result<&'static str> {
    for start in (0..device.size).step_by(STRETCH as usize) {
        let len = STRETCH.min(device.size - start);
        if !device.discard(start, len)? {
            overwrite(device, &[(start, device.size - start)], meter)?;
            return Ok("overwritten");
        }
        meter.add(len);
    }
    Ok("discarded")
}

/// Takes our password off a drive that lost its power while it erased itself: before that nothing of it can be read.
fn unlock(disks: &Disks, id: &DiskId) -> Result<(), MachineError> {
    let disk = disks.find(id)?;
    let Some(node) = disks.node(&disk.name).filter(|node| drive::is_ata(disk.transport, &node.path)) else {
        return Ok(());
    };
    let failed = |source| MachineError::os(format!("unlock {id}"), source);
    let device = disks.open(&node, OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed)?;
    if ata::release(&device).map_err(failed)? {
        crate::info!("{id} was locked by an erase that was cut off, and is unlocked");
    }
    Ok(())
}

/// Has a drive erase itself that can, and sees that what it carried is gone.
fn erase_itself(disk: &Disk, node: &Node, device: &Device, meter: &mut Meter<'_>) -> Result<Erased, MachineError> {
    let failed = |source| MachineError::os(format!("have {} erase itself", disk.name), source);
    let namespace = sysfs::number::<u32>(node.path.join("nsid"));
    let before = pieces(device).map_err(failed)?;
    let begun = meter.done;
    let mut tell = |percent: u8| meter.set(begun + device.size / 100 * u64::from(percent.min(100)));
    let erased = match (disk.transport, namespace) {
        (Transport::Nvme, Some(namespace)) => {
            let method = nvme::erase(device.file(), namespace, &mut tell).map_err(failed)?;
            method.map_or(Erased::Not("overwritten"), Erased::By)
        }
        (transport, _) if drive::is_ata(transport, &node.path) => ata::erase(device.file()).map_err(failed)?,
        _ => Erased::Not("overwritten"),
    };
    meter.set(begun + device.size);
    if let Erased::By(_) = erased {
        device.drop_cache().map_err(failed)?;
        let is_left = |(at, piece): &(u64, Vec<u8>)| Ok(device.read(*at, PIECE)? == *piece);
        for piece in &before {
            if is_left(piece).map_err(failed)? {
                let found = format!("what was there before at byte {}", piece.0);
                return Err(MachineError::ReadBack { what: format!("erased {}", disk.name), found });
            }
        }
    }
    Ok(erased)
}

/// What lies on a device here and there, zeros left out.
fn pieces(device: &Device) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    for i in 0..PIECES {
        let at = device.size / PIECES * i / PIECE * PIECE;
        let piece = device.read(at, PIECE.min(device.size - at))?;
        if piece.iter().any(|byte| *byte != 0) {
            found.push((at, piece));
        }
    }
    Ok(found)
}

/// Says how far the whole is, whenever that is another percent.
struct Meter<'a> {
    progress: Percent<'a>,
    done: u64,
    of: u64,
    told: u8,
}

impl Meter<'_> {
    fn add(&mut self, more: u64) {
        self.set(self.done + more);
    }

    fn set(&mut self, done: u64) {
        self.done = done;
        let percent = (u128::from(done) * 100 / u128::from(self.of.max(1))).min(100) as u8;
        if percent != self.told {
            self.told = percent;
            (self.progress)(percent);
        }
    }
}

/// What is read back of a disk of this size: stretches that do not overlap, in order.
fn to_verify(size: u64) -> Vec<Stretch> {
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

    #[test]
    fn signatures_lie_at_both_ends_of_the_disk_and_of_each_partition_and_nothing_is_cleared_twice() {
        const MIB: u64 = 1 << 20;
        let (head, tail) = (HEAD as u64, TAIL as u64);
        let partition = |number: u32, start_bytes, size_bytes| {
            let (label, type_guid, guid, contents) = (String::new(), [0; 16], [0; 16], Contents::Blank);
            Partition { number, start_bytes, size_bytes, label, type_guid, guid, contents }
        };
        let partitions = [partition(1, MIB, 500 * MIB), partition(2, 501 * MIB, 9 * MIB)];
        let expected = [(0, MIB + head), (500 * MIB, MIB + head), (509 * MIB, MIB), (1000 * MIB - tail, tail)];
        assert_eq!(signatures_of(1000 * MIB, &partitions), expected);
        // A table may tell of more than there is.
        assert_eq!(signatures_of(2 * MIB, &partitions), [(0, 2 * MIB)]);
    }
}
