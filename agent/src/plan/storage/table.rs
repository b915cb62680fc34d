//! Whether a disk's partition table is the desired one, can become it by growing, or has to be written anew.
//!
//! Called by `plan` only. Knows nothing of what partitions carry: that is `filesystem`'s part.

use muster_protocol::desired::{self, Entry, Presence, Resize, Table};
use muster_protocol::observed::{Contents, Disk, Partition};

use super::choose::Chosen;
use super::place::Room;
use super::stack::{Node, Planner, State};
use super::step::{Before, Carries, Slot, Step, Target, take_out};
use super::{in_words, line, size};
use crate::plan::Impossible;
use crate::sort;

/// Partitions begin and end at multiples of this: right for every sector, erase block and stripe size in use.
pub const ALIGNMENT: u64 = 1 << 20;

/// How a table is told of that cannot be read.
const DAMAGED: &str = "damaged GPT";

/// The first byte that no partition may reach: behind it lie the backup table's 16 KiB of entries and its header,
/// and whatever does not fill an alignment unit.
pub fn usable_end(size_bytes: u64, logical_sector: u32) -> u64 {
    let tail = 16 * 1024 + u64::from(logical_sector);
    size_bytes.saturating_sub(tail) / ALIGNMENT * ALIGNMENT
}

/// How a disk's table relates to the desired one.
#[derive(Debug)]
enum Fit {
    /// It is the desired one, or nothing is desired of it.
    Same,
    /// It becomes the desired one by changing some of its entries.
    Edit(Edit),
    /// It is not, or there is none.
    Write(Vec<Slot>),
}

/// What changes in a table that stays.
#[derive(Debug, Default)]
struct Edit {
    /// Numbers of entries that go.
    deleted: Vec<u32>,
    /// Entries that get larger, as they will be.
    grown: Vec<Slot>,
    /// Entries that lack.
    added: Vec<Slot>,
}

impl<'a> Planner<'a> {
    /// Plans a disk's table, and finds the devices that its partitions are then.
    ///
    /// Errors: the disk carries something else and the document does not say `wipe_table`; there is not enough room; what
    /// is lost is lost on a disk with it that the document does not name.
    pub(super) fn plan_table(&mut self, chosen: &Chosen<'a>) -> Result<Vec<Option<Node<'a>>>, Impossible> {
        let (fit, numbers) = fit(chosen)?;
        let (disk, have) = (chosen.id.clone(), chosen.have);
        let gone = |p: &&Partition| match &fit {
            Fit::Same => false,
            Fit::Edit(change) => change.deleted.contains(&p.number),
            Fit::Write(_) => true,
        };
        let gone: Vec<&Partition> = have.partitions.iter().filter(gone).collect();
        let mut names: Vec<String> = gone.iter().map(|p| have.partition_name(p.number)).collect();
        if matches!(fit, Fit::Write(_)) {
            names.push(have.name.clone());
        }
        let also = self.also(&names, std::slice::from_ref(&disk)).map_err(|problem| chosen.impossible(problem))?;
        names.iter().for_each(|name| self.take_out(name));
        for there in gone {
            let out = there.contents.mounted_at().map(|at| take_out(Target::partition(&disk, &Slot::of(there)), at));
            self.steps.extend(out);
        }
        let before = Before::of(have);
        match &fit {
            Fit::Same => {}
            Fit::Edit(Edit { deleted, grown, added }) => {
                let (deleted, grown, added) = (deleted.clone(), grown.clone(), added.clone());
                self.steps.push(Step::Edit { disk, before, deleted, grown, added, also });
            }
            Fit::Write(slots) => self.steps.push(Step::Partition { disk, before, slots: slots.clone(), also }),
        }
        Ok(numbers.into_iter().map(|number| fit.node(number, chosen)).collect())
    }
}

impl Fit {
    /// What a partition is once the table is right; `None` for one that is not to be there.
    fn node<'a>(&self, number: u32, chosen: &Chosen<'a>) -> Option<Node<'a>> {
        let have = chosen.have;
        let find = |slots: &[Slot]| slots.iter().find(|slot| slot.number == number).cloned();
        let fresh = |slot: Slot, carries| {
            let target = Target::partition(&chosen.id, &slot);
            Node { target, name: None, state: State::Fresh(carries) }
        };
        match self {
            Self::Write(slots) if have.contents == Contents::Blank => Some(fresh(find(slots)?, Carries::Nothing)),
            Self::Write(slots) => Some(fresh(find(slots)?, Carries::Remains)),
            Self::Edit(change) if find(&change.added).is_some() => {
                let slot = find(&change.added)?;
                let carries = if change.is_on_remains(&slot, have) { Carries::Remains } else { Carries::Nothing };
                Some(fresh(slot, carries))
            }
            Self::Edit(Edit { deleted, .. }) if deleted.contains(&number) => None,
            Self::Edit(_) | Self::Same => {
                let there = partition(have, number)?;
                let grown = match self {
                    Self::Edit(change) => find(&change.grown),
                    Self::Same | Self::Write(_) => None,
                };
                let target = Target::partition(&chosen.id, &grown.unwrap_or_else(|| Slot::of(there)));
                let name = Some(have.partition_name(number));
                Some(Node { target, name, state: State::There(&there.contents) })
            }
        }
    }
}

impl Edit {
    /// Whether this slot lies where a partition was that goes.
    fn is_on_remains(&self, slot: &Slot, have: &Disk) -> bool {
        let end = slot.start_bytes + slot.size_bytes;
        let overlaps = |p: &Partition| p.start_bytes < end && slot.start_bytes < p.start_bytes + p.size_bytes;
        have.partitions.iter().any(|p| self.deleted.contains(&p.number) && overlaps(p))
    }
}

/// Why a table cannot become the desired one by changing entries.
enum Unfit {
    /// In words, without the remedy.
    Differs(String),
    /// In words, with the remedy where there is one.
    Cannot(String),
}

/// Compares, and finds room for what lacks. Answers the numbers of the described partitions too, in their order.
///
/// Errors: the disk carries something else and the document does not say `wipe_table`; there is not enough room.
fn fit(chosen: &Chosen<'_>) -> Result<(Fit, Vec<u32>), Impossible> {
    let Chosen { want, have, .. } = *chosen;
    let replace = match want.table {
        Table::Keep => false,
        Table::Replace => true,
    };
    let is_present = |p: &&desired::Partition| p.presence == Presence::Present;
    let is_any = want.partitions.iter().any(|p| is_present(&p));
    if !replace && (want.partitions.is_empty() || have.contents == Contents::Blank && !is_any) {
        return Ok((Fit::Same, Vec::new()));
    }
    let fresh = || {
        let numbers = numbers(want, &[]).map_err(|problem| chosen.impossible(problem))?;
        let wanted: Vec<_> = numbers.iter().copied().zip(&want.partitions).filter(|(_, p)| is_present(p)).collect();
        let placed = Room::beside(have, std::iter::empty()).place(&wanted);
        Ok((Fit::Write(placed.map_err(|problem| chosen.impossible(problem))?), numbers))
    };
    if have.contents == Contents::Blank {
        return fresh();
    }
    let unfit = match &have.contents {
        Contents::Gpt { .. } => match edit(want, have, replace) {
            Ok((change, numbers)) if change.is_nothing() => return Ok((Fit::Same, numbers)),
            Ok((change, numbers)) => return Ok((Fit::Edit(change), numbers)),
            Err(unfit) => unfit,
        },
        Contents::Signature(name) if name == DAMAGED => Unfit::Cannot(format!(
            "{} carries a damaged GPT, as after a power cut while it was written; where its copy at the other end of the \
             disk is whole, sgdisk or fdisk repair it; `wipe_table: true` replaces it and all that it leads to, which then \
             needs a permit",
            line(have)
        )),
        _ => Unfit::Differs(format!("it carries {}", in_words(&have.contents, &have.partitions))),
    };
    match unfit {
        _ if replace => fresh(),
        Unfit::Cannot(problem) => Err(chosen.impossible(problem)),
        Unfit::Differs(problem) => Err(chosen.impossible(format!(
            "{} is neither blank nor partitioned as described: {problem}; \
             say `wipe_table: true` to replace what it carries, which then needs a permit",
            line(have)
        ))),
    }
}

/// The partition of this number.
fn partition(disk: &Disk, number: u32) -> Option<&Partition> {
    disk.partitions.iter().find(|p| p.number == number)
}

impl Edit {
    fn is_nothing(&self) -> bool {
        self.deleted.is_empty() && self.grown.is_empty() && self.added.is_empty()
    }
}

/// The number of each described partition: its own, or that of the one that has its label, or the next one that is free.
fn numbers(want: &desired::Disk, there: &[Partition]) -> Result<Vec<u32>, String> {
    let mut taken: Vec<u32> = want.partitions.iter().map(|p| p.number).chain(there.iter().map(|p| p.number)).collect();
    let mut numbers = Vec::new();
    let is_described = |number: u32| want.partitions.iter().any(|p| p.number == number);
    for wanted in &want.partitions {
        // One that is described by its number is no other one, whatever its label is now.
        let mut labeled = there.iter().filter(|p| p.label == wanted.label && !is_described(p.number));
        let number = match (wanted.number, labeled.next(), labeled.next()) {
            (0, Some(_), Some(_)) => {
                return Err(format!("two partitions have the label {:?}; say which by its number", wanted.label));
            }
            (0, Some(one), None) => one.number,
            (0, None, _) => (1..=128)
                .find(|number| !taken.contains(number))
                .ok_or_else(|| format!("there is no number left for the partition {:?}", wanted.label))?,
            (number, ..) => number,
        };
        taken.push(number);
        numbers.push(number);
    }
    Ok(numbers)
}

/// What has to change in the GPT that is there. Partitions that are not described stay, unless the table is to be replaced.
fn edit(want: &desired::Disk, have: &Disk, replace: bool) -> Result<(Edit, Vec<u32>), Unfit> {
    let numbers = numbers(want, &have.partitions).map_err(Unfit::Cannot)?;
    let mut change = Edit::default();
    let (mut lacking, mut growing) = (Vec::new(), Vec::new());
    for (&number, wanted) in numbers.iter().zip(&want.partitions) {
        match (wanted.presence, partition(have, number)) {
            (Presence::Absent, None) => {}
            (Presence::Absent, Some(_)) if wanted.entry == Entry::Replace => change.deleted.push(number),
            (Presence::Absent, Some(there)) => {
                return Err(Unfit::Cannot(format!(
                    "{} has a partition {number} ({}, {}), which should not be there; say `wipe_partition_entry: true` to \
                     delete it, which then needs a permit",
                    line(have),
                    size(there.size_bytes),
                    in_words(&there.contents, &[])
                )));
            }
            (Presence::Present, None) => lacking.push((number, wanted)),
            (Presence::Present, Some(there)) => match difference(wanted, there) {
                None if wanted.resize == Resize::Grow => growing.push((wanted, there)),
                None => {}
                Some(_) if wanted.entry == Entry::Replace => {
                    change.deleted.push(number);
                    lacking.push((number, wanted));
                }
                Some(problem) => return Err(Unfit::Differs(problem)),
            },
        }
    }
    let undescribed = have.partitions.iter().find(|there| !numbers.contains(&there.number));
    if let Some(there) = undescribed.filter(|_| replace) {
        let (number, size) = (there.number, size(there.size_bytes));
        return Err(Unfit::Differs(format!("it has a partition {number} ({size}), which is not described")));
    }
    let kept = have.partitions.iter().filter(|p| !change.deleted.contains(&p.number));
    let mut room = Room::beside(have, kept.map(|p| (p.start_bytes, p.size_bytes)));
    // What says how large it will be comes before what takes what is left.
    for takes_the_rest in [false, true] {
        for (wanted, there) in growing.iter().filter(|(wanted, _)| wanted.size_mib.is_none() == takes_the_rest) {
            change.grown.extend(grow(wanted, there, &mut room).map_err(Unfit::Cannot)?);
        }
        let part: Vec<_> = lacking.iter().copied().filter(|(_, p)| p.size_mib.is_none() == takes_the_rest).collect();
        change.added.extend(room.place(&part).map_err(Unfit::Cannot)?);
    }
    sort::short(&mut change.added, |a, b| a.number.cmp(&b.number));
    Ok((change, numbers))
}

/// What a partition that is there becomes by growing; `None` where it is large enough.
fn grow(wanted: &desired::Partition, there: &Partition, room: &mut Room<'_>) -> Result<Option<Slot>, String> {
    let end = there.start_bytes.saturating_add(there.size_bytes);
    let limit = room.until(end);
    let target = wanted.size_mib.map_or(limit, |mib| there.start_bytes.saturating_add(mib.saturating_mul(1 << 20)));
    if target <= end {
        return Ok(None);
    }
    if target > limit {
        return Err(format!(
            "partition {} cannot grow to {} MiB: {} MiB are left behind it",
            there.number,
            (target - there.start_bytes) >> 20,
            limit.saturating_sub(end) >> 20
        ));
    }
    room.take(end, target);
    Ok(Some(Slot { size_bytes: target - there.start_bytes, ..Slot::of(there) }))
}

/// The first way in which a partition contradicts the document, but for being smaller where it may grow.
fn difference(wanted: &desired::Partition, there: &Partition) -> Option<String> {
    let differs = |what: &str, is: &str, should: &str| {
        Some(format!("the {what} of partition {} is {is} and not {should}", there.number))
    };
    // Without a size it took what was left; the disk may have grown since, and that is no reason to lose data.
    let size_bytes = wanted.size_mib.map(|mib| mib.saturating_mul(1 << 20));
    let may_grow = |size: u64| wanted.resize == Resize::Grow && there.size_bytes < size;
    if let Some(size) = size_bytes.filter(|size| there.size_bytes != *size && !may_grow(*size)) {
        differs("size", &format!("{} bytes", there.size_bytes), &format!("{} MiB", size >> 20))
    } else if let Some(mib) = wanted.start_mib.filter(|mib| there.start_bytes != mib.saturating_mul(1 << 20)) {
        differs("start", &format!("at byte {}", there.start_bytes), &format!("at {mib} MiB"))
    } else if there.label != wanted.label {
        differs("label", &format!("{:?}", there.label), &format!("{:?}", wanted.label))
    } else if there.type_guid != wanted.type_guid {
        differs("type", &in_hex(there.type_guid), &in_hex(wanted.type_guid))
    } else if let Some(guid) = wanted.guid.filter(|guid| there.guid != *guid) {
        differs("GUID", &in_hex(there.guid), &in_hex(guid))
    } else {
        None
    }
}

fn in_hex(bytes: [u8; 16]) -> String {
    muster_protocol::MachineId::from_bytes(bytes).to_string()
}
