//! What stands between partitions and filesystems: arrays of Linux md, LUKS2, volume groups of LVM2, in any order.
//!
//! Each stands on [`Place`]s and is one itself. The check sees to it that nothing holds two things, and nothing itself.

use serde::{Deserialize, Serialize};

use super::format::{Switch, flag, refuses, with};
use super::{Existing, Place};

/// What arrays, LUKS devices and volumes are called, or carry, until they are whole: after a power cut nothing half made
/// can be taken for what was desired.
pub const UNFINISHED_LAYER: &str = "muster-unfinished";
/// How the UUID of a physical volume begins that Muster makes: one that is of no group is left from a power cut.
pub const UNFINISHED_PV: &str = "muster";
/// Where udev, and Butane with it, names arrays by what they are called.
pub const ARRAYS: &str = "/dev/md/";
/// Where LUKS devices appear that are open.
pub const OPENED: &str = "/dev/mapper/";

/// An array of Linux md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raid {
    /// /dev/md/NAME, and the name in its superblocks.
    pub name: String,
    /// How data is spread.
    pub level: RaidLevel,
    /// Its members, the last of them spares. A partition that several disks have stands for all of them.
    pub members: Vec<Place>,
    /// How many of the members wait for another one to fail.
    pub spares: u16,
    /// What `mdadm --create` is given beside that, word by word; at most 64. It says nothing of an array that is kept.
    pub options: Vec<String>,
    /// What happens to what the members carry.
    pub existing: Existing,
}

/// How an array spreads data over its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RaidLevel {
    /// Striped; nothing may fail.
    Raid0,
    /// Mirrored.
    Raid1,
    /// Striped, with parity for one.
    Raid5,
    /// Striped, with parity for two.
    Raid6,
    /// Striped and mirrored.
    Raid10,
}

impl RaidLevel {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raid0, Self::Raid1, Self::Raid5, Self::Raid6, Self::Raid10];

    /// As md, mdadm and documents name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Raid5 => "raid5",
            Self::Raid6 => "raid6",
            Self::Raid10 => "raid10",
        }
    }

    /// By its name; mdadm and Butane have several for some.
    pub fn named(name: &str) -> Option<Self> {
        let number = match name {
            "stripe" => "0",
            "mirror" => "1",
            other => other.strip_prefix("raid").unwrap_or(other),
        };
        Self::ALL.into_iter().find(|level| level.name().strip_prefix("raid") == Some(number))
    }

    /// The fewest members, spares not counted.
    pub fn min_members(self) -> usize {
        match self {
            Self::Raid0 | Self::Raid1 | Self::Raid10 => 2,
            Self::Raid5 => 3,
            Self::Raid6 => 4,
        }
    }

    /// Bytes of data where each of so many members has so many.
    pub fn data_bytes(self, members: u64, each: u64) -> u64 {
        match self {
            Self::Raid0 => each.saturating_mul(members),
            Self::Raid1 => each,
            Self::Raid5 => each.saturating_mul(members.saturating_sub(1)),
            Self::Raid6 => each.saturating_mul(members.saturating_sub(2)),
            Self::Raid10 => each.saturating_mul(members) / 2,
        }
    }
}

impl Raid {
    /// The first of the options that mdadm is not given, by its place, and why.
    pub fn refuses_options(&self) -> Option<(usize, String)> {
        // Older superblocks have no names, and those of others are not md's own.
        let version = |word: &str| {
            let rest = ["--metadata=", "-e"].iter().find_map(|switch| word.strip_prefix(switch))?.to_owned();
            Some(rest).filter(|rest| !rest.is_empty())
        };
        let words = self.options.iter().enumerate().map(|(i, word)| match (i.checked_sub(1), version(word)) {
            (_, Some(version)) => Some(version),
            (Some(before), None) if matches!(&*self.options[before], "-e" | "--metadata") => Some(word.clone()),
            _ => None,
        });
        let wrong = words.enumerate().find_map(|(i, version)| {
            let version = version.filter(|version| !matches!(&**version, "1.0" | "1.1" | "1.2"))?;
            Some((i, format!("{version:?} is not passed on: the metadata of an array is 1.0, 1.1 or 1.2")))
        });
        refuses("mdadm", MDADM, &self.options).or(wrong)
    }
}

/// A device that LUKS2 encrypts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luks {
    /// /dev/mapper/NAME once it is open.
    pub name: String,
    /// What it stands on.
    pub place: Place,
    /// Label in its header, empty for none.
    pub label: String,
    /// UUID in its header, in the byte order in which it is printed; `None` leaves the choice to the machine.
    pub uuid: Option<[u8; 16]>,
    /// Where its key comes from.
    pub key: Key,
    /// Whether what is freed above is freed below: whoever sees the device sees what is free.
    pub discard: bool,
    /// What `cryptsetup luksFormat` is given beside that, word by word; at most 64.
    pub options: Vec<String>,
    /// What happens to what is there.
    pub existing: Existing,
}

impl Luks {
    /// The first of the options that cryptsetup is not given, by its place, and why.
    pub fn refuses_options(&self) -> Option<(usize, String)> {
        refuses("cryptsetup", CRYPTSETUP, &self.options)
    }
}

/// Where the key of a LUKS device comes from. No document has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    /// The controller makes and keeps it, and gives it over the session.
    #[default]
    Controller,
    /// The machine's own TPM derives it; nobody keeps it.
    Tpm,
}

/// A volume group of LVM2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeGroup {
    /// /dev/NAME.
    pub name: String,
    /// Its physical volumes. A partition that several disks have stands for all of them.
    pub members: Vec<Place>,
    /// MiB of an extent, a power of two.
    pub extent_mib: u32,
    /// In the order in which they are made.
    pub volumes: Vec<LogicalVolume>,
    /// What happens to what its physical volumes carry.
    pub existing: Existing,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogicalVolume {
    /// /dev/GROUP/NAME.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
    /// How large.
    pub size: VolumeSize,
}

/// What a logical volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// A stretch of its group.
    Linear,
    /// A thin pool: room for thin volumes, and no device itself.
    Pool,
    /// A thin volume, which takes room from a pool where it is written to.
    Thin {
        /// Name of the pool, in the same group.
        pool: String,
    },
}

/// How large a logical volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSize {
    /// MiB, up to a whole extent.
    Mib(u64),
    /// Of all that its group has, down to a whole extent; 1 to 100.
    Percent(u8),
    /// What the others leave.
    Rest,
}

/// mdadm(8), "For create".
const MDADM: &[Switch] = &[
    with("-c"),
    with("--chunk"),
    with("-p"),
    with("--layout"),
    with("-b"),
    with("--bitmap"),
    with("--bitmap-chunk"),
    with("-e"),
    with("--metadata"),
    with("--data-offset"),
];

/// cryptsetup-luksFormat(8).
const CRYPTSETUP: &[Switch] = &[
    with("-c"),
    with("--cipher"),
    with("-s"),
    with("--key-size"),
    with("-h"),
    with("--hash"),
    with("-i"),
    with("--iter-time"),
    with("--sector-size"),
    with("--pbkdf"),
    with("--pbkdf-memory"),
    with("--pbkdf-parallel"),
    with("--pbkdf-force-iterations"),
    flag("--use-random"),
    flag("--use-urandom"),
];
