//! Which disks a document means.
//!
//! Called by `plan` only. A disk that is chosen by what it is or by where it sits goes by its WWN or serial from here on:
//! that is what steps name, and what is looked for again just before writing.

use muster_protocol::DiskId;
use muster_protocol::desired::{self, DiskRule, DiskSelect, Pick, Place, Storage, matches_pattern};
use muster_protocol::inventory::{Attachment, Medium, Transport};
use muster_protocol::observed::Disk;

use super::{find, line, size};
use crate::plan::Impossible;
use crate::sort;

/// A disk that the document means.
pub(super) struct Chosen<'a> {
    /// As the document names it, or by its WWN, or by its serial.
    pub(super) id: DiskId,
    /// Its position in the document's disks.
    pub(super) entry: usize,
    /// Where it stands in the document.
    field: String,
    /// What it should be.
    pub(super) want: &'a desired::Disk,
    /// What it is.
    pub(super) have: &'a Disk,
}

impl Chosen<'_> {
    /// What does not fit.
    pub(super) fn impossible(&self, problem: String) -> Impossible {
        Impossible { field: self.field.clone(), problem }
    }
}

/// A disk that the document names, of which nothing but members of arrays is described, and that is not there.
pub(super) struct Missing {
    /// Its position in the document's disks.
    pub(super) entry: usize,
    /// Why nothing can be as desired where it is needed.
    pub(super) needed: Impossible,
}

/// The disks that are meant, in the order of the document, and those that arrays may have to do without.
///
/// Errors: one is not there that something else needs, more or fewer fit than were asked for, one has no identity, or one is
/// meant twice.
pub(super) fn choose<'a>(
    storage: &'a Storage,
    observed: &'a [Disk],
) -> Result<(Vec<Chosen<'a>>, Vec<Missing>), Impossible> {
    let (mut chosen, mut missing): (Vec<Chosen<'a>>, _) = (Vec::new(), Vec::new());
    for (entry, want) in storage.disks.iter().enumerate() {
        let field = storage.disk_field(entry);
        let problem = |problem| Impossible { field: field.clone(), problem };
        let found = match selected(&want.select, observed).map_err(problem) {
            Err(needed) if is_missing(&want.select, observed) && bears_only_members(storage, entry) => {
                missing.push(Missing { entry, needed });
                continue;
            }
            found => found?,
        };
        for (id, have) in found {
            if let Some(first) = chosen.iter().find(|other| std::ptr::eq(other.have, have)) {
                let first = storage.disk_name(first.entry);
                return Err(problem(format!("this is the same disk as {first}: {}; describe it once", line(have))));
            }
            chosen.push(Chosen { id, entry, field: field.clone(), want, have });
        }
    }
    Ok((chosen, missing))
}

/// Whether nothing answers to a disk's name. A rule names none.
fn is_missing(select: &DiskSelect, observed: &[Disk]) -> bool {
    !observed.iter().any(|disk| match select {
        DiskSelect::Id(id) => id.names(disk.wwn.as_deref(), disk.serial.as_deref()),
        DiskSelect::Path(path) => disk.by_path.as_deref().is_some_and(|is| is_same_slot(is, path)),
        DiskSelect::Rule(_) => true,
    })
}

/// Whether all that stands directly on a disk are members of arrays, and one at least does.
fn bears_only_members(storage: &Storage, entry: usize) -> bool {
    let is_on = |place: &Place| matches!(place, Place::Partition { disk, .. } if usize::from(*disk) == entry);
    let mut others = (storage.filesystems.iter().map(|filesystem| &filesystem.place))
        .chain(storage.luks.iter().map(|luks| &luks.place))
        .chain(storage.groups.iter().flat_map(|group| &group.members));
    storage.raid.iter().flat_map(|raid| &raid.members).any(is_on) && !others.any(is_on)
}

/// The disks that are meant by one of the ways to choose.
pub(super) fn selected<'a>(select: &DiskSelect, observed: &'a [Disk]) -> Result<Vec<(DiskId, &'a Disk)>, String> {
    match select {
        DiskSelect::Id(id) => {
            let found = find(id, observed).map_err(|impossible| impossible.problem)?;
            Ok(vec![(id.clone(), found)])
        }
        DiskSelect::Path(path) => Ok(vec![named(in_slot(path, observed)?, observed)?]),
        DiskSelect::Rule(rule) => fitting(rule, observed)?.into_iter().map(|disk| named(disk, observed)).collect(),
    }
}

/// A disk and its lasting name, if it has one that no other disk answers to.
fn named<'a>(disk: &'a Disk, observed: &'a [Disk]) -> Result<(DiskId, &'a Disk), String> {
    let id = disk.id().ok_or_else(|| {
        format!("{} cannot be told from another one: it has neither WWN nor serial, and is left alone", line(disk))
    })?;
    find(&id, observed).map_err(|impossible| impossible.problem)?;
    Ok((id, disk))
}

fn in_slot<'a>(path: &str, observed: &'a [Disk]) -> Result<&'a Disk, String> {
    let mut found = observed.iter().filter(|disk| disk.by_path.as_deref().is_some_and(|is| is_same_slot(is, path)));
    let problem = match (found.next(), found.next()) {
        (Some(disk), None) => return Ok(disk),
        (Some(_), Some(_)) => "several disks are in this slot",
        (None, _) => "there is no disk in this slot",
    };
    let slot = |disk: &Disk| match &disk.by_path {
        Some(path) => format!("{} is in {path}", line(disk)),
        None => format!("the slot of {} has no name", line(disk)),
    };
    let all: Vec<String> = observed.iter().map(slot).collect();
    Err(format!("{problem}; {}", if all.is_empty() { "this machine has no disks".into() } else { all.join(", ") }))
}

/// Older systems wrote `ata-1` for `ata-1.0`, and `virtio-pci-…` for `pci-…`.
fn is_same_slot(is: &str, named: &str) -> bool {
    let named = named.strip_prefix("virtio-").unwrap_or(named);
    is == named || named.contains("-ata-") && is.strip_suffix(".0") == Some(named)
}

/// The disks that a rule means, in the order in which the kernel names them.
fn fitting<'a>(rule: &DiskRule, observed: &'a [Disk]) -> Result<Vec<&'a Disk>, String> {
    let asked = usize::from(rule.count);
    let mut fit: Vec<&Disk> = observed.iter().filter(|disk| unfit(rule, disk).is_none()).collect();
    match rule.pick {
        Pick::All => {}
        Pick::Smallest => sort::short(&mut fit, |a, b| a.size_bytes.cmp(&b.size_bytes)),
        Pick::Largest => sort::short(&mut fit, |a, b| b.size_bytes.cmp(&a.size_bytes)),
    }
    let is_clear = match (fit.get(asked.wrapping_sub(1)), fit.get(asked)) {
        (Some(_), None) => true,
        (Some(last), Some(next)) => rule.pick != Pick::All && last.size_bytes != next.size_bytes,
        (None, _) => false,
    };
    if is_clear {
        fit.truncate(asked);
        return Ok(fit);
    }
    let word = match rule.pick {
        Pick::All => "",
        Pick::Smallest => ", the smallest,",
        Pick::Largest => ", the largest,",
    };
    let tie = if fit.len() > asked && rule.pick != Pick::All { ", of which some are equally large" } else { "" };
    let each = |disk: &Disk| {
        let why = unfit(rule, disk).unwrap_or_else(|| "fits".into());
        format!("{}: {why}", in_full(disk))
    };
    let all = if observed.is_empty() {
        "this machine has no disks".into()
    } else {
        observed.iter().map(each).collect::<Vec<_>>().join("; ")
    };
    let (verb, be) = (if fit.len() == 1 { "fits" } else { "fit" }, if asked == 1 { "is" } else { "are" });
    Err(format!("{asked}{word} {be} asked for, and {} {verb}{tie}: {all}", fit.len()))
}

/// The first way in which a disk does not fit a rule.
fn unfit(rule: &DiskRule, disk: &Disk) -> Option<String> {
    let bytes = |mib: u64| mib.saturating_mul(1 << 20);
    match disk.attachment {
        Attachment::Removable => return Some("a removable medium".into()),
        // Somebody plugged it in: it must not change what "the largest disk" is.
        Attachment::External if rule.transport != Some(Transport::Usb) => {
            return Some("connected by usb, which a rule has to ask for by `transport: usb`".into());
        }
        Attachment::External | Attachment::Fixed => {}
    }
    if let Some(least) = rule.min_size_mib.map(bytes).filter(|least| disk.size_bytes < *least) {
        return Some(format!("smaller than {}", size(least)));
    }
    if let Some(most) = rule.max_size_mib.map(bytes).filter(|most| disk.size_bytes > *most) {
        return Some(format!("larger than {}", size(most)));
    }
    if rule.medium.is_some_and(|medium| disk.medium != medium) {
        return Some(medium(disk.medium).into());
    }
    if let Some(wanted) = rule.transport.filter(|wanted| disk.transport != *wanted) {
        return Some(format!("connected by {} and not by {}", disk.transport.name(), wanted.name()));
    }
    let pattern = rule.model.as_ref().filter(|pattern| !matches_pattern(pattern, &disk.model))?;
    Some(format!("its model is not like {pattern:?}"))
}

/// A disk with all that a rule may ask for: `serial:MU-0001 (sda, 10.0 GiB, solid, ata, "WDC WDS")`.
fn in_full(disk: &Disk) -> String {
    let model = if disk.model.is_empty() { String::new() } else { format!(", {:?}", disk.model) };
    let line = line(disk);
    let head = line.strip_suffix(')').unwrap_or(&line);
    format!("{head}, {}, {}{model})", medium(disk.medium), disk.transport.name())
}

fn medium(medium: Medium) -> &'static str {
    match medium {
        Medium::SolidState => "not rotational",
        Medium::Rotational => "rotational",
    }
}
