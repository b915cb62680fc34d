//! Whether a disk's partition table is the desired one, can become it by growing, or has to be written anew.
//!
//! Called by `plan_disk` only. Knows nothing of what partitions carry: that is `filesystem`'s part.

use muster_protocol::desired::{self, Table};
use muster_protocol::observed::{Contents, Disk, Partition};

use super::choose::Chosen;
use super::{Before, Slot, Step, in_words, line, size};
use crate::plan::Impossible;

/// Partitions begin and end at multiples of this: right for every sector, erase block and stripe size in use.
pub const ALIGNMENT: u64 = 1 << 20;

/// The first byte that no partition may reach: behind it lie the backup table's 16 KiB of entries and its header,
/// and whatever does not fill an alignment unit.
pub fn usable_end(size_bytes: u64, logical_sector: u32) -> u64 {
    let tail = 16 * 1024 + u64::from(logical_sector);
    size_bytes.saturating_sub(tail) / ALIGNMENT * ALIGNMENT
}

/// How a disk's table relates to the desired one.
#[derive(Debug)]
pub(super) enum Fit {
    /// It is the desired one, or nothing is desired of it.
    Same,
    /// It is a part of the desired one; these lack.
    Extend(Vec<Slot>),
    /// It is not, or there is none.
    Write(Vec<Slot>),
}

impl Fit {
    /// The steps that make the table right.
    pub(super) fn steps(&self, chosen: &Chosen<'_>) -> Vec<Step> {
        let (disk, have) = (chosen.id.clone(), chosen.have);
        match self {
            Self::Same => Vec::new(),
            Self::Extend(added) => vec![Step::Extend { disk, before: Before::of(have), added: added.clone() }],
            Self::Write(slots) => {
                let mut steps: Vec<Step> = have
                    .partitions
                    .iter()
                    .filter_map(|p| {
                        let path = p.contents.mounted_at()?.to_owned();
                        Some(Step::Unmount { disk: disk.clone(), partition: p.number, path })
                    })
                    .collect();
                steps.push(Step::Partition { disk, before: Before::of(have), slots: slots.clone() });
                steps
            }
        }
    }
}

/// Compares, and finds room for what lacks.
///
/// Errors: the disk carries something else and the document does not say `wipe_table`; there is not enough room.
pub(super) fn fit(chosen: &Chosen<'_>) -> Result<Fit, Impossible> {
    let Chosen { want, have, .. } = *chosen;
    let replace = match want.table {
        Table::Keep => false,
        Table::Replace => true,
    };
    if want.partitions.is_empty() && !replace {
        return Ok(Fit::Same);
    }
    let fresh = || place(chosen, want.partitions.iter(), ALIGNMENT).map(Fit::Write);
    if have.contents == Contents::Blank {
        return fresh();
    }
    let mismatch = match &have.contents {
        Contents::Gpt { .. } => mismatch(want, have),
        _ => Some(format!("it carries {}", in_words(&have.contents, &have.partitions))),
    };
    match mismatch {
        None => {
            let lacking: Vec<_> = want.partitions.iter().filter(|p| partition(have, p.number).is_none()).collect();
            if lacking.is_empty() {
                return Ok(Fit::Same);
            }
            let end = have.partitions.iter().map(|p| p.start_bytes.saturating_add(p.size_bytes)).max();
            let start = end.unwrap_or(0).max(ALIGNMENT).next_multiple_of(ALIGNMENT);
            match place(chosen, lacking.into_iter(), start) {
                Err(_) if replace => fresh(),
                placed => placed.map(Fit::Extend),
            }
        }
        Some(_) if replace => fresh(),
        Some(problem) => Err(chosen.impossible(format!(
            "{} is neither blank nor partitioned as described: {problem}; \
             say `wipe_table: true` to replace what it carries, which then needs a permit",
            line(have)
        ))),
    }
}

/// The partition of this number.
pub(super) fn partition(disk: &Disk, number: u32) -> Option<&Partition> {
    disk.partitions.iter().find(|p| p.number == number)
}

/// The first way in which the GPT that is there contradicts the document; partitions that only lack do not.
fn mismatch(want: &desired::Disk, have: &Disk) -> Option<String> {
    have.partitions.iter().find_map(|there| {
        let Some(wanted) = want.partitions.iter().find(|p| p.number == there.number) else {
            return Some(format!(
                "it has a partition {} ({}), which is not described",
                there.number,
                size(there.size_bytes)
            ));
        };
        let differs = |what: &str, is: &str, should: &str| {
            Some(format!("the {what} of partition {} is {is} and not {should}", there.number))
        };
        // Without a size it took what was left; the disk may have grown since, and that is no reason to lose data.
        if let Some(size_mib) = wanted.size_mib
            && there.size_bytes != size_mib.saturating_mul(1 << 20)
        {
            differs("size", &format!("{} bytes", there.size_bytes), &format!("{size_mib} MiB"))
        } else if there.label != wanted.label {
            differs("label", &format!("{:?}", there.label), &format!("{:?}", wanted.label))
        } else if there.type_guid != wanted.type_guid {
            differs("type", &guid(there.type_guid), &guid(wanted.type_guid))
        } else {
            None
        }
    })
}

/// Puts partitions one behind the other from `start`.
fn place<'a>(
    chosen: &Chosen<'_>,
    partitions: impl Iterator<Item = &'a desired::Partition>,
    start: u64,
) -> Result<Vec<Slot>, Impossible> {
    let have = chosen.have;
    let end = usable_end(have.size_bytes, have.logical_sector);
    let mut at = start;
    let mut slots = Vec::new();
    for wanted in partitions {
        let left = end.saturating_sub(at);
        let size_bytes = match wanted.size_mib {
            Some(mib) => mib.saturating_mul(1 << 20),
            None => left.max(ALIGNMENT),
        };
        if size_bytes > left {
            return Err(chosen.impossible(format!(
                "there is no room for partition {}: it needs {} MiB and {} MiB are left of {}",
                wanted.number,
                size_bytes >> 20,
                left >> 20,
                line(have)
            )));
        }
        let (number, label, type_guid) = (wanted.number, wanted.label.clone(), wanted.type_guid);
        slots.push(Slot { number, start_bytes: at, size_bytes, label, type_guid });
        at += size_bytes;
    }
    Ok(slots)
}

fn guid(bytes: [u8; 16]) -> String {
    muster_protocol::MachineId::from_bytes(bytes).to_string()
}
