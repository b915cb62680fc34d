//! Disks to partition: which ones are meant, and what their tables should be.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Problems, Storage};
use crate::ids::DiskId;
use crate::inventory::{Medium, Transport};

/// The most disks that one rule may ask for, and that one document may describe.
const DISKS: usize = 64;
/// Bytes of a name in /dev/disk/by-path, as of any file name.
const PATH: usize = 255;
/// Bytes of a pattern for models; NVMe's have 40 bytes.
const MODEL: usize = 80;

/// One disk to partition, or several alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which one, and no other.
    pub select: DiskSelect,
    /// Butane's `wipe_table`.
    pub table: Table,
    /// In the order of their numbers, at most 128.
    pub partitions: Vec<Partition>,
}

impl Disk {
    /// How many disks are meant.
    pub fn count(&self) -> usize {
        match &self.select {
            DiskSelect::Id(_) | DiskSelect::Path(_) => 1,
            DiskSelect::Rule(rule) => usize::from(rule.count),
        }
    }
}

/// Which disks are meant. The plan names them by WWN or serial, whatever stands here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskSelect {
    /// The one with this WWN or serial.
    Id(DiskId),
    /// The one in this slot, by its name in `/dev/disk/by-path`.
    Path(String),
    /// The ones that fit this, on whichever machine.
    Rule(DiskRule),
}

/// Which disks are meant, by what they are. What is not said does not matter; removable media never fit, and disks on USB
/// only where their transport is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRule {
    /// How many there must be, 1 to 64. More or fewer are an error.
    pub count: u16,
    /// MiB, inclusive.
    pub min_size_mib: Option<u64>,
    /// MiB, inclusive.
    pub max_size_mib: Option<u64>,
    /// Spinning or not.
    pub medium: Option<Medium>,
    /// How it is connected.
    pub transport: Option<Transport>,
    /// Pattern with `*` and `?` for the whole model.
    pub model: Option<String>,
    /// Which of those that fit.
    pub pick: Pick,
}

/// Which of the disks that fit a rule are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pick {
    /// Every one of them.
    #[default]
    All,
    /// The smallest. Where one that is left out is as large as one that is taken, none is.
    Smallest,
    /// The largest, likewise.
    Largest,
}

/// What happens to a partition table that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// A matching GPT is kept, a blank disk gets one, anything else is refused.
    #[default]
    Keep,
    /// Butane's `wipe_table: true`: replaced unless it matches already. Destroys, so it needs a permit.
    Replace,
}

/// One GPT partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// 1 to 128; 0 for the one that has the label, or the next number that is free.
    pub number: u32,
    /// GPT name, at most 36 UTF-16 units, no `/`.
    pub label: String,
    /// MiB from the start of the disk; `None` for the beginning of the largest room that is left.
    pub start_mib: Option<u64>,
    /// MiB; `None` takes what is left behind its start.
    pub size_mib: Option<u64>,
    /// Type GUID in the byte order in which it is printed; Linux filesystem data where the document is silent.
    pub type_guid: [u8; 16],
    /// Its own GUID in the byte order in which it is printed; `None` for any.
    pub guid: Option<[u8; 16]>,
    /// Butane's `should_exist`.
    pub presence: Presence,
    /// Butane's `wipe_partition_entry`.
    pub entry: Entry,
    /// Butane's `resize`.
    pub resize: Resize,
}

impl Partition {
    /// The usual one: wherever there is room, of the usual type, as large as said or as there is room.
    pub fn new(number: u32, label: &str, size_mib: Option<u64>) -> Self {
        Self {
            number,
            label: label.to_owned(),
            start_mib: None,
            size_mib,
            type_guid: LINUX_FILESYSTEM,
            guid: None,
            presence: Presence::default(),
            entry: Entry::default(),
            resize: Resize::default(),
        }
    }

    /// How problems speak of it: by its number, or where it has none by its label.
    pub fn name(&self) -> String {
        if self.number == 0 { self.label.clone() } else { self.number.to_string() }
    }
}

/// Whether a partition should be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It is made where it lacks.
    #[default]
    Present,
    /// Butane's `should_exist: false`.
    Absent,
}

/// What happens to a partition that is not as described.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// It is refused.
    #[default]
    Keep,
    /// Butane's `wipe_partition_entry: true`: deleted, and made anew if it should be there. Destroys, so it needs a permit.
    Replace,
}

/// What happens to a partition that is as described but for being smaller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resize {
    /// It is not as described. One that is to take what is left stays as large as it is.
    #[default]
    Never,
    /// Butane's `resize: true`: it grows where it is. Nothing is lost, and what is mounted of it stays in use.
    Grow,
}

/// Linux filesystem data (UEFI discoverable partitions list).
pub const LINUX_FILESYSTEM: [u8; 16] =
    [0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

pub(super) fn check(storage: &Storage, problems: &mut Problems) {
    problems.at_most("storage.disks", storage.disks.len(), DISKS);
    let mut names = BTreeSet::new();
    for (i, disk) in storage.disks.iter().enumerate() {
        let field = storage.disk_field(i);
        if !names.insert(storage.disk_name(i)) {
            problems.add(&field, "this disk is described twice");
        }
        check_select(&field, &disk.select, problems);
        check_partitions(&field, &disk.partitions, problems);
    }
}

pub(super) fn check_select(field: &str, select: &DiskSelect, problems: &mut Problems) {
    match select {
        DiskSelect::Id(_) => {}
        DiskSelect::Path(path) => {
            let is_name = (1..=PATH).contains(&path.len()) && path.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
            if !is_name {
                problems.add(format!("{field}.device"), format!("{path:?} is no name in /dev/disk/by-path"));
            }
        }
        DiskSelect::Rule(rule) => check_rule(&format!("{field}.match"), rule, problems),
    }
}

fn check_rule(field: &str, rule: &DiskRule, problems: &mut Problems) {
    if !(1..=DISKS).contains(&usize::from(rule.count)) {
        problems.add(format!("{field}.count"), format!("a rule asks for 1 to {DISKS} disks"));
    }
    if let (Some(least), Some(most)) = (rule.min_size_mib, rule.max_size_mib)
        && least > most
    {
        problems.add(format!("{field}.max_size_mib"), format!("no disk has at least {least} and at most {most} MiB"));
    }
    if let Some(model) = &rule.model
        && (model.is_empty() || model.len() > MODEL || model.chars().any(char::is_control))
    {
        problems.add(format!("{field}.model"), format!("a model has 1 to {MODEL} bytes and no control characters"));
    }
}

fn check_partitions(field: &str, partitions: &[Partition], problems: &mut Problems) {
    problems.at_most(&format!("{field}.partitions"), partitions.len(), 128);
    let mut numbers = BTreeSet::new();
    let mut labels = BTreeSet::new();
    for (i, partition) in partitions.iter().enumerate() {
        let field = format!("{field}.partitions.{}", partition.name());
        let is_last_to_be_placed = i + 1 == partitions.len()
            || partitions[i + 1..].iter().all(|p| p.start_mib.is_some() || p.presence == Presence::Absent)
            || partition.presence == Presence::Absent;
        if partition.number == 0 && partition.label.is_empty() {
            problems.add(format!("{field}.number"), "a partition needs a number or a label");
        } else if partition.number > 128 {
            problems.add(format!("{field}.number"), "a partition's number is 1 to 128");
        } else if partition.number > 0 && !numbers.insert(partition.number) {
            problems.add(format!("{field}.number"), "this number is used twice");
        }
        if partition.label.encode_utf16().count() > 36 || partition.label.contains(|c: char| c == '/' || c.is_control())
        {
            let problem = "a GPT label has at most 36 characters, no '/' and no control characters";
            problems.add(format!("{field}.label"), problem);
        } else if !partition.label.is_empty() && !labels.insert(&partition.label) {
            problems.add(format!("{field}.label"), "this label is used twice");
        }
        match partition.size_mib {
            Some(0) => problems.add(format!("{field}.size_mib"), "leave the key out to take what is left"),
            Some(size) if size > 1 << 40 => problems.add(format!("{field}.size_mib"), "no disk is that large"),
            None if !is_last_to_be_placed && partition.start_mib.is_none() => {
                problems.add(format!("{field}.size_mib"), "only the last partition may take what is left");
            }
            _ => {}
        }
        match partition.start_mib {
            Some(0) => problems.add(format!("{field}.start_mib"), "leave the key out to have a place found"),
            Some(start) if start > 1 << 40 => problems.add(format!("{field}.start_mib"), "no disk is that large"),
            _ => {}
        }
        let (is_absent, replaces) = (partition.presence == Presence::Absent, partition.entry == Entry::Replace);
        let says_more = !partition.label.is_empty()
            || partition.size_mib.is_some()
            || partition.start_mib.is_some()
            || partition.guid.is_some()
            || partition.resize == Resize::Grow;
        if is_absent && (partition.number == 0 || says_more) {
            let problem = "a partition that should not be there goes by its number, and nothing else is said of it";
            problems.add(format!("{field}.should_exist"), problem);
        }
        if replaces && partition.resize == Resize::Grow {
            let problem = "a partition grows, or is made anew; leave resize or wipe_partition_entry out";
            problems.add(format!("{field}.resize"), problem);
        }
    }
}
