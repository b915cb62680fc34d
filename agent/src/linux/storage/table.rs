//! Writing partition tables.
//!
//! Called by `apply`. A power cut between the two copies of a table leaves a damaged one, which is told as such and
//! never taken for blank.

use std::io;
use std::os::unix::fs::FileExt;

use muster_protocol::DiskId;
use muster_protocol::observed::{Contents, Disk};

use super::device::{Device, Share};
use super::unchanged;
use crate::linux::storage::disks::{Disks, Region, Room};
use crate::linux::storage::gpt::{self, Entry, Found, Geometry, Image, Table};
use crate::linux::storage::signatures::{HEAD, TAIL};
use crate::machine::MachineError;
use crate::plan::storage::{Before, Slot, in_words};
use crate::random;

/// Writes a new table; where something was there before, its signatures are cleared.
pub(super) fn write(disks: &Disks, id: &DiskId, before: &Before, slots: &[Slot]) -> Result<(), MachineError> {
    let failed = |source| MachineError::os(format!("write a GPT to {id}"), source);
    let device = open(disks, id, Share::Exclusive)?;
    // Only now that nobody else can take it: what is there must be what the plan saw.
    let disk = unchanged(disks, id, before)?;
    let geometry = geometry(id, &disk)?;
    if disk.contents == Contents::Blank {
        are_blank(&device, id, slots)?;
    } else {
        let regions = slots.iter().map(|slot| (slot.start_bytes, slot.size_bytes));
        for (start, size) in regions.chain([(0, disk.size_bytes)]) {
            clear_ends(&device, start, size).map_err(failed)?;
        }
        // The old table must be gone before the new one comes: a power cut must never show half of each as a whole.
        device.sync().map_err(failed)?;
    }
    let entries = slots.iter().map(|slot| entry(slot, geometry)).collect::<Result<_, _>>()?;
    let table = Table { guid: random::uuid(), entries, capacity: 128, alternate: geometry.sectors - 1 };
    let Image { head, tail } = gpt::encode(&table, geometry);
    copies(&device, &tail, || device.write(0, &head)).map_err(failed)?;
    tell_kernel(disks, id, &disk, &device, &table, geometry)?;
    drop(device);
    verify(disks, id, slots)
}

/// What changes in a table that stays.
pub(super) struct Edit<'a> {
    /// Numbers of entries that go.
    pub(super) deleted: &'a [u32],
    /// Entries that get larger, as they will be.
    pub(super) grown: &'a [Slot],
    /// Entries that lack.
    pub(super) added: &'a [Slot],
}

/// Changes entries of the table that is there; the rest of it stays to the bit, and what is mounted stays in use.
pub(super) fn edit(disks: &Disks, id: &DiskId, before: &Before, change: Edit<'_>) -> Result<(), MachineError> {
    let failed = |source| MachineError::os(format!("change the GPT of {id}"), source);
    let share = if in_use(disks, &disks.observe_one(id)?, |_| true)?.is_some() {
        Share::WithOwnMounts
    } else {
        Share::Exclusive
    };
    let device = open(disks, id, share)?;
    let disk = unchanged(disks, id, before)?;
    let geometry = geometry(id, &disk)?;
    let mut room = Room::default();
    let region = Region { file: device.file(), start: 0, size: device.size };
    let ends = region.ends(&mut room).map_err(failed)?;
    let mut table = match gpt::read(ends.head, ends.tail, geometry) {
        Found::Table(table) if table.capacity == 128 => table,
        Found::Table(table) => {
            return Err(MachineError::Unable(format!("change the GPT of {id}: it has room for {}", table.capacity)));
        }
        Found::Damaged | Found::Nothing => {
            return Err(MachineError::Changed { what: id.to_string(), now: "without a GPT".into() });
        }
    };
    let is_gone = |number: u32| change.deleted.contains(&number);
    let gone: Vec<_> = disk.partitions.iter().filter(|p| is_gone(p.number)).collect();
    if let Some(now) = in_use(disks, &disk, is_gone)? {
        return Err(MachineError::Changed { what: id.to_string(), now });
    }
    // Of what is free now, nothing may carry anything but the backup of the table, where the disk was smaller once.
    let mut backup = table.old_backup(geometry);
    if let Some((start, end)) = backup {
        let mut bytes = vec![0; (end - start) as usize];
        device.file().read_exact_at(&mut bytes, start).map_err(failed)?;
        backup = backup.filter(|_| gpt::is_backup(&bytes, geometry));
    }
    let known = gone.iter().map(|p| (p.start_bytes, p.start_bytes + p.size_bytes)).chain(backup).collect::<Vec<_>>();
    let larger = change.grown.iter().filter_map(|slot| {
        let there = disk.partitions.iter().find(|p| p.number == slot.number)?;
        let start_bytes = there.start_bytes + there.size_bytes;
        let size_bytes = (slot.start_bytes + slot.size_bytes).checked_sub(start_bytes)?;
        Some(Slot { start_bytes, size_bytes, ..slot.clone() })
    });
    let free: Vec<Slot> = larger.chain(change.added.iter().cloned()).flat_map(|slot| without(&slot, &known)).collect();
    are_blank(&device, id, &free)?;

    for (start, size) in gone.iter().map(|p| (p.start_bytes, p.size_bytes)) {
        clear_ends(&device, start, size).map_err(failed)?;
    }
    if !gone.is_empty() {
        // What was at the new partitions' ends inside of the old ones would be found there again.
        for slot in change.added {
            clear_ends(&device, slot.start_bytes, slot.size_bytes).map_err(failed)?;
        }
        device.sync().map_err(failed)?;
    }
    if let Some((start, end)) = backup {
        device.zero(start, end - start).and_then(|()| device.sync()).map_err(failed)?;
    }
    table.entries.retain(|entry| !is_gone(entry.number));
    let sector = u64::from(geometry.sector);
    for slot in change.grown {
        let entry = table.entries.iter_mut().find(|entry| entry.number == slot.number);
        let missing = || MachineError::Missing(format!("partition {} of {id}", slot.number));
        entry.ok_or_else(missing)?.last = (slot.start_bytes + slot.size_bytes) / sector - 1;
    }
    for slot in change.added {
        table.entries.push(entry(slot, geometry)?);
    }
    let first = gpt::covering(ends.head[..sector as usize].to_vec(), geometry);
    let Image { head, tail } = gpt::encode(&table, geometry);
    let first_copy = || {
        device.write(sector, &head[sector as usize..])?;
        device.write(0, &first)
    };
    copies(&device, &tail, first_copy).map_err(failed)?;
    tell_kernel(disks, id, &disk, &device, &table, geometry)?;
    drop(device);
    verify(disks, id, change.grown)?;
    verify(disks, id, change.added)
}

/// What of the agent's uses one of these partitions: a mount, or a layer that runs on it.
fn in_use(disks: &Disks, disk: &Disk, which: impl Fn(u32) -> bool) -> Result<Option<String>, MachineError> {
    let mounted = disk.partitions.iter().filter(|p| which(p.number)).find_map(|p| p.contents.mounted_at());
    if let Some(path) = mounted {
        return Ok(Some(format!("mounted at {path}")));
    }
    let usage = disks.usage()?;
    let nodes = disks.node(&disk.name).map(|node| disks.partition_nodes(&node)).unwrap_or_default();
    Ok(nodes.iter().filter(|(number, _)| which(*number)).find_map(|(_, node)| usage.layers_on(node)))
}

/// Clears the places in which signatures are.
fn clear_ends(device: &Device, start: u64, size: u64) -> io::Result<()> {
    let (head, tail) = (size.min(HEAD as u64), size.min(TAIL as u64));
    device.zero(start, head)?;
    device.zero(start + size - tail, tail)
}

/// Writes the copy at the end, and only when that is on the medium the first one: a disk that loses what it was not told to
/// keep must not be left with a first copy alone, which everybody reads and nobody would ever make whole.
fn copies(device: &Device, tail: &[u8], first: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    device.write(device.size - tail.len() as u64, tail)?;
    device.sync()?;
    first()?;
    device.sync()
}

/// What is left of a slot without these stretches: first byte, and the first one behind.
fn without(slot: &Slot, known: &[(u64, u64)]) -> Vec<Slot> {
    let mut left = vec![(slot.start_bytes, slot.start_bytes + slot.size_bytes)];
    for &(from, to) in known {
        let cut = |(start, end): (u64, u64)| [(start, end.min(from)), (start.max(to), end)];
        left = left.into_iter().flat_map(cut).filter(|(start, end)| start < end).collect();
    }
    let part = |(start, end): (u64, u64)| Slot { start_bytes: start, size_bytes: end - start, ..slot.clone() };
    left.into_iter().map(part).collect()
}

fn open(disks: &Disks, id: &DiskId, share: Share) -> Result<Device, MachineError> {
    let disk = disks.find(id)?;
    let node = disks.node(&disk.name).ok_or_else(|| MachineError::Missing(id.to_string()))?;
    Device::open(disks, &node, disk.size_bytes, share).map_err(|source| MachineError::os(format!("open {id}"), source))
}

fn tell_kernel(
    disks: &Disks,
    id: &DiskId,
    disk: &Disk,
    device: &Device,
    table: &Table,
    geometry: Geometry,
) -> Result<(), MachineError> {
    let sector = u64::from(geometry.sector);
    let place = |e: &Entry| (e.number, e.first * sector, (e.last - e.first + 1) * sector);
    let wanted: Vec<_> = table.entries.iter().map(place).collect();
    let node = disks.node(&disk.name).ok_or_else(|| MachineError::Missing(id.to_string()))?;
    device
        .set_partitions(disks, &node, &wanted)
        .map_err(|source| MachineError::os(format!("tell the kernel of the partitions of {id}"), source))
}

/// Partitions come out of space that no table describes; that it carries nothing is looked at here, before anything is written.
fn are_blank(device: &Device, id: &DiskId, slots: &[Slot]) -> Result<(), MachineError> {
    for slot in slots {
        let region = Region { file: device.file(), start: slot.start_bytes, size: slot.size_bytes };
        let contents =
            region.contents(&mut Room::default()).map_err(|source| MachineError::os(format!("read {id}"), source))?;
        if contents != Contents::Blank {
            let what = format!("the space for partition {} of {id}", slot.number);
            return Err(MachineError::Changed {
                what,
                now: format!("{}; wipe the disk to use it", in_words(&contents, &[])),
            });
        }
    }
    Ok(())
}

/// What the disk and the kernel say must be what was written.
fn verify(disks: &Disks, id: &DiskId, slots: &[Slot]) -> Result<(), MachineError> {
    let disk = disks.observe_one(id)?;
    for slot in slots {
        let there = super::partition(&disk, id, slot)?;
        if there.label != slot.label || there.type_guid != slot.type_guid {
            let what = format!("partition {} of {id}", slot.number);
            return Err(MachineError::ReadBack { what, found: format!("{:?} of another type or name", there.label) });
        }
        super::partition_node(disks, &disk, slot)?;
    }
    Ok(())
}

fn geometry(id: &DiskId, disk: &Disk) -> Result<Geometry, MachineError> {
    Geometry::new(disk.logical_sector, disk.size_bytes)
        .ok_or_else(|| MachineError::Unable(format!("put a GPT on {id}: {} bytes are too few", disk.size_bytes)))
}

fn entry(slot: &Slot, geometry: Geometry) -> Result<Entry, MachineError> {
    let sector = u64::from(geometry.sector);
    Ok(Entry {
        number: slot.number,
        type_guid: slot.type_guid,
        guid: slot.guid.unwrap_or_else(random::uuid),
        first: slot.start_bytes / sector,
        last: (slot.start_bytes + slot.size_bytes) / sector - 1,
        attributes: 0,
        name: gpt::name(&slot.label),
    })
}
