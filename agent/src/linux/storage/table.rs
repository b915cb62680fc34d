//! Writing partition tables.
//!
//! Called by `apply`. A power cut between the two copies of a table leaves a damaged one, which is told as such and
//! never taken for blank.

use muster_protocol::DiskId;
use muster_protocol::observed::{Contents, Disk};
use rustix::rand::{GetRandomFlags, getrandom};

use super::device::{Device, Share};
use super::unchanged;
use crate::linux::storage::disks::{Disks, Region};
use crate::linux::storage::gpt::{self, Entry, Found, Geometry, Image, Table};
use crate::linux::storage::signatures::{HEAD, TAIL};
use crate::machine::MachineError;
use crate::plan::storage::{Before, Slot, in_words};

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
            let (head, tail) = (size.min(HEAD as u64), size.min(TAIL as u64));
            device.zero(start, head).and_then(|()| device.zero(start + size - tail, tail)).map_err(failed)?;
        }
        // The old table must be gone before the new one comes: a power cut must never show half of each as a whole.
        device.sync().map_err(failed)?;
    }
    let entries = slots.iter().map(|slot| entry(slot, geometry)).collect::<Result<_, _>>()?;
    let table = Table { guid: random_guid()?, entries, capacity: 128 };
    let Image { head, tail } = gpt::encode(&table, geometry);
    device
        .write(device.size - tail.len() as u64, &tail)
        .and_then(|()| device.write(0, &head))
        .and_then(|()| device.sync())
        .map_err(failed)?;
    tell_kernel(disks, id, &disk, &device, &table, geometry)?;
    drop(device);
    verify(disks, id, slots)
}

/// Adds entries to the table that is there; the rest of it stays to the bit.
pub(super) fn extend(disks: &Disks, id: &DiskId, before: &Before, added: &[Slot]) -> Result<(), MachineError> {
    let failed = |source| MachineError::os(format!("extend the GPT of {id}"), source);
    let mounted = |disk: &Disk| disk.partitions.iter().any(|p| p.contents.mounted_at().is_some());
    let share = if mounted(&disks.observe_one(id)?) { Share::WithOwnMounts } else { Share::Exclusive };
    let device = open(disks, id, share)?;
    let disk = unchanged(disks, id, before)?;
    let geometry = geometry(id, &disk)?;
    are_blank(&device, id, added)?;
    let (head, tail) = Region { file: device.file(), start: 0, size: device.size }.ends().map_err(failed)?;
    let mut table = match gpt::read(&head, &tail, geometry) {
        Found::Table(table) if table.capacity == 128 => table,
        Found::Table(table) => {
            return Err(MachineError::Unable(format!("extend the GPT of {id}: it has room for {}", table.capacity)));
        }
        Found::Damaged | Found::Nothing => {
            return Err(MachineError::Changed { what: id.to_string(), now: "without a GPT".into() });
        }
    };
    for slot in added {
        table.entries.push(entry(slot, geometry)?);
    }
    let Image { head, tail } = gpt::encode(&table, geometry);
    // Sector 0 stays: it may hold a boot loader.
    let sector = geometry.sector as usize;
    device
        .write(device.size - tail.len() as u64, &tail)
        .and_then(|()| device.write(sector as u64, &head[sector..]))
        .and_then(|()| device.sync())
        .map_err(failed)?;
    tell_kernel(disks, id, &disk, &device, &table, geometry)?;
    drop(device);
    verify(disks, id, added)
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
        let contents = region.contents().map_err(|source| MachineError::os(format!("read {id}"), source))?;
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
        guid: random_guid()?,
        first: slot.start_bytes / sector,
        last: (slot.start_bytes + slot.size_bytes) / sector - 1,
        attributes: 0,
        name: gpt::name(&slot.label),
    })
}

/// A version 4 UUID (RFC 9562).
fn random_guid() -> Result<[u8; 16], MachineError> {
    let mut guid = [0; 16];
    // Requests of up to 256 bytes are never answered in part (getrandom(2)).
    getrandom(&mut guid, GetRandomFlags::empty()).map_err(|source| MachineError::os("get random bytes", source))?;
    guid[6] = guid[6] & 0x0f | 0x40;
    guid[8] = guid[8] & 0x3f | 0x80;
    Ok(guid)
}
