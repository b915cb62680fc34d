//! Where partitions go on a disk.
//!
//! Called by `table` only. What has a place of its own is put there first, then what has a size goes into the largest room,
//! at its beginning, as Butane has it; what takes what is left comes last. So one document gives one layout.

use muster_protocol::desired::Partition;
use muster_protocol::observed::Disk;

use super::table::{ALIGNMENT, usable_end};
use super::{Slot, line};

/// What is taken of a disk, and what is free.
pub(super) struct Room<'a> {
    disk: &'a Disk,
    /// First byte and the first one behind, sorted.
    taken: Vec<(u64, u64)>,
}

impl<'a> Room<'a> {
    /// The room beside these partitions: first byte, bytes.
    pub(super) fn beside(disk: &'a Disk, kept: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut room = Self { disk, taken: Vec::new() };
        kept.for_each(|(start, size)| room.take(start, start.saturating_add(size)));
        room
    }

    /// Puts the partitions somewhere. The slots are in the order in which they were given.
    ///
    /// Errors: the first one for which there is no room.
    pub(super) fn place(&mut self, wanted: &[(u32, &Partition)]) -> Result<Vec<Slot>, String> {
        let mut slots: Vec<Option<Slot>> = wanted.iter().map(|_| None).collect();
        for (with_start, with_size) in [(true, true), (true, false), (false, true), (false, false)] {
            for (slot, (number, wanted)) in slots.iter_mut().zip(wanted) {
                if (wanted.start_mib.is_some(), wanted.size_mib.is_some()) == (with_start, with_size) {
                    let (start_bytes, size_bytes) = self.find(*number, wanted)?;
                    self.take(start_bytes, start_bytes + size_bytes);
                    let (label, type_guid, guid) = (wanted.label.clone(), wanted.type_guid, wanted.guid);
                    *slot = Some(Slot { number: *number, start_bytes, size_bytes, label, type_guid, guid });
                }
            }
        }
        Ok(slots.into_iter().flatten().collect())
    }

    /// The first byte behind `end` that is taken, or that no partition may have.
    pub(super) fn until(&self, end: u64) -> u64 {
        let next = self.taken.iter().map(|(start, _)| *start).find(|start| *start >= end);
        next.unwrap_or(u64::MAX).min(usable_end(self.disk.size_bytes, self.disk.logical_sector)) / ALIGNMENT * ALIGNMENT
    }

    /// Marks a stretch as taken.
    pub(super) fn take(&mut self, start: u64, end: u64) {
        let at = self.taken.partition_point(|(other, _)| *other < start);
        self.taken.insert(at, (start, end));
    }

    fn find(&self, number: u32, wanted: &Partition) -> Result<(u64, u64), String> {
        let size = wanted.size_mib.map(|mib| mib.saturating_mul(1 << 20));
        let (start, left, at) = match wanted.start_mib {
            Some(mib) => {
                let start = mib.saturating_mul(1 << 20);
                let is_free = !self.taken.iter().any(|(from, to)| *from <= start && start < *to);
                let left = if is_free { self.until(start).saturating_sub(start) } else { 0 };
                (start, left, format!(" at {mib} MiB"))
            }
            None => {
                let (start, left) = self.largest();
                (start, left, String::new())
            }
        };
        let size = size.unwrap_or(left.max(ALIGNMENT));
        if size <= left {
            return Ok((start, size));
        }
        Err(format!(
            "there is no room for partition {number}{at}: it needs {} MiB and {} MiB are left{} of {}",
            size >> 20,
            left >> 20,
            if at.is_empty() { "" } else { " there" },
            line(self.disk)
        ))
    }

    /// The largest room: first byte, bytes; of two the first.
    fn largest(&self) -> (u64, u64) {
        let mut best = (ALIGNMENT, 0);
        let mut at = ALIGNMENT;
        let ends = self.taken.iter().map(|(_, end)| *end);
        for from in std::iter::once(ALIGNMENT).chain(ends) {
            at = at.max(from.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX));
            let left = self.until(at).saturating_sub(at);
            if left > best.1 {
                best = (at, left);
            }
        }
        best
    }
}
