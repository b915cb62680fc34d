//! What each kind of filesystem can be: its labels, its UUIDs, its sizes, and the options that its mkfs takes.
//!
//! Called by the check of a document, by the reader of documents and by plans, which know how large a partition is.
//! Options are passed on word by word, so nothing passes that could name another device, another size or a file.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{MachineId, parse_uuid};

/// Kinds of filesystems that the agent can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Format {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs, on this one partition.
    Btrfs,
    /// FAT with long names; 12, 16 or 32 bits by its size.
    Vfat,
    /// A swap area.
    Swap,
}

/// What a filesystem is called by, beside its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VolumeId {
    /// A UUID, in the byte order in which it is printed.
    Uuid([u8; 16]),
    /// A FAT's serial number.
    Serial(u32),
}

impl fmt::Display for VolumeId {
    /// As blkid prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(bytes) => MachineId::from_bytes(*bytes).fmt(f),
            Self::Serial(number) => write!(f, "{:04X}-{:04X}", number >> 16, number & 0xffff),
        }
    }
}

/// The label of a filesystem that is being made: it gets its own with its last write, so that after a power cut nothing
/// half made can be taken for what was desired.
pub const UNFINISHED: &str = "muster-mkfs";

impl Format {
    /// All of them, the usual one first.
    pub const ALL: [Self; 5] = [Self::Ext4, Self::Xfs, Self::Btrfs, Self::Vfat, Self::Swap];

    /// As blkid and documents name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
            Self::Swap => "swap",
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The fewest bytes that it can be made in.
    pub fn min_bytes(self) -> u64 {
        const MIB: u64 = 1 << 20;
        match self {
            // Smaller ones never have a journal.
            Self::Ext4 => 2 * MIB,
            // xfsprogs 5.19 and later.
            Self::Xfs => 300 * MIB,
            // Two copies of the metadata, and 8 MiB of data.
            Self::Btrfs => 114 * MIB,
            Self::Vfat | Self::Swap => MIB,
        }
    }

    /// The most bytes that it can be made in.
    pub fn max_bytes(self) -> u64 {
        match self {
            // Sectors of 512 bytes are counted in 32 bits.
            Self::Vfat => (1 << 41) - 512,
            // Pages of 4 KiB are counted in 32 bits.
            Self::Swap => 1 << 44,
            Self::Ext4 | Self::Xfs | Self::Btrfs => u64::MAX,
        }
    }

    /// Why it cannot be made in a partition of this size.
    pub fn refuses_size(self, bytes: u64) -> Option<String> {
        let name = self.name();
        if bytes < self.min_bytes() {
            return Some(format!(
                "{name} needs at least {} MiB, and this partition has {}",
                self.min_bytes() >> 20,
                bytes >> 20
            ));
        }
        (bytes > self.max_bytes()).then(|| {
            format!("{name} ends at {} GiB, and this partition has {}", self.max_bytes().div_ceil(1 << 30), bytes >> 30)
        })
    }

    /// Why it cannot have this label.
    pub fn refuses_label(self, label: &str) -> Option<String> {
        if label.eq_ignore_ascii_case(UNFINISHED) {
            return Some(format!("{label:?} marks filesystems that are not finished; choose another label"));
        }
        let text_of = |bytes: usize| {
            let is_fine = label.len() <= bytes && !label.contains(char::is_control) && label.trim() == label;
            (!is_fine).then(|| format!("at most {bytes} bytes, no control characters and no blanks at its ends"))
        };
        let problem = match self {
            Self::Ext4 => text_of(16),
            Self::Btrfs => text_of(255),
            Self::Swap => text_of(15),
            Self::Xfs => {
                let is_fine =
                    label.len() <= 12 && label.bytes().all(|b| b.is_ascii_graphic()) && !label.starts_with('-');
                (!is_fine).then(|| "at most 12 characters of ASCII, no blanks and no '-' at the start".to_owned())
            }
            Self::Vfat => {
                let is_fine = |b: u8| {
                    (b.is_ascii_graphic() || b == b' ')
                        && !b.is_ascii_lowercase()
                        && !b"*?.,;:/\\|+=<>[]\"".contains(&b)
                };
                let all_fine = label.bytes().all(is_fine) && label.trim() == label && !label.starts_with('-');
                (label.len() > 11 || !all_fine || label == "NO NAME").then(|| {
                    "at most 11 characters of ASCII in upper case, no punctuation such as '.' or '/', and is not NO NAME".to_owned()
                })
            }
        };
        let article = if matches!(self, Self::Ext4 | Self::Xfs) { "an" } else { "a" };
        problem.map(|rule| format!("{article} {} label has {rule}", self.name()))
    }

    /// Reads a UUID in the form that this kind has.
    pub fn volume_id(self, text: &str) -> Option<VolumeId> {
        if self != Self::Vfat {
            return parse_uuid(text).filter(|bytes| *bytes != [0; 16]).map(VolumeId::Uuid);
        }
        let digits = match text.split_once('-') {
            Some((high, low)) if high.len() == 4 && low.len() == 4 => [high, low].concat(),
            None if text.len() == 8 => text.to_owned(),
            _ => return None,
        };
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        // None at all reads back as zero.
        u32::from_str_radix(&digits, 16).ok().filter(|number| is_hex && *number != 0).map(VolumeId::Serial)
    }

    /// What [`Self::volume_id`] reads, for people.
    pub fn volume_id_form(self) -> &'static str {
        match self {
            Self::Vfat => "a FAT's serial number like 1A2B-3C4D",
            _ => "a UUID like 9d3c2c5e-6a4b-4f4e-8d9c-0a1b2c3d4e5f",
        }
    }

    /// Whether a volume id has the form that this kind has.
    pub(super) fn has_ids_like(self, id: VolumeId) -> bool {
        match id {
            VolumeId::Uuid(bytes) => self != Self::Vfat && bytes != [0; 16],
            VolumeId::Serial(number) => self == Self::Vfat && number != 0,
        }
    }

    /// The first of these words that its mkfs is not given, by its place, and why.
    pub fn refuses_options(self, options: &[String]) -> Option<(usize, String)> {
        refuses(self.name(), self.switches(), options)
    }

    /// What its mkfs may be given. Labels, UUIDs and sizes have their own keys; devices and files have no place there.
    fn switches(self) -> &'static [Switch] {
        match self {
            Self::Ext4 => EXT4,
            Self::Xfs => XFS,
            Self::Btrfs => BTRFS,
            Self::Vfat => VFAT,
            Self::Swap => &[],
        }
    }
}

/// The first of these words that a program is not given, by its place, and why.
pub(super) fn refuses(name: &str, switches: &[Switch], options: &[String]) -> Option<(usize, String)> {
    let taken = || {
        let names: Vec<&str> = switches.iter().map(|switch| switch.name).collect();
        match names.is_empty() {
            true => format!("{name} takes no options"),
            false => format!("{name} takes {}", names.join(", ")),
        }
    };
    let mut at = 0;
    while let Some(word) = options.get(at) {
        let joined = |switch: &&Switch| match switch.name.strip_prefix("--") {
            Some(_) => word.strip_prefix(switch.name).is_some_and(|rest| rest.starts_with('=')),
            None => switch.value.is_some() && word.len() > 2 && word.starts_with(switch.name),
        };
        let whole = switches.iter().find(|switch| *word == switch.name);
        let Some(switch) = whole.or_else(|| switches.iter().find(joined)) else {
            return Some((at, format!("{word:?} is not passed on: {}", taken())));
        };
        let value = match (switch.value, whole) {
            (None, _) => None,
            (Some(_), None) => Some(word[switch.name.len()..].trim_start_matches('=')),
            (Some(_), Some(_)) => {
                at += 1;
                match options.get(at) {
                    Some(value) => Some(value.as_str()),
                    None => return Some((at - 1, format!("{word} needs a value behind it"))),
                }
            }
        };
        if let (Some(value), Some(forbidden)) = (value, switch.value)
            && let Some(problem) = refuses_value(value, forbidden)
        {
            return Some((at, format!("{} is not passed on with {value:?}: {problem}", switch.name)));
        }
        at += 1;
    }
    None
}

/// One option of a program.
pub(super) struct Switch {
    name: &'static str,
    /// `None` for one that has no value; otherwise the keys that its value may not have.
    value: Option<&'static [&'static str]>,
}

pub(super) const fn flag(name: &'static str) -> Switch {
    Switch { name, value: None }
}

pub(super) const fn with(name: &'static str) -> Switch {
    Switch { name, value: Some(&[]) }
}

const fn but(name: &'static str, forbidden: &'static [&'static str]) -> Switch {
    Switch { name, value: Some(forbidden) }
}

/// mke2fs(8).
const EXT4: &[Switch] = &[
    with("-b"),
    with("-C"),
    but("-E", &["offset", "resize", "desc_size", "test_fs"]),
    with("-g"),
    with("-G"),
    with("-i"),
    with("-I"),
    but("-J", &["device"]),
    with("-m"),
    with("-N"),
    but("-O", &["journal_dev"]),
    with("-T"),
    flag("-j"),
];

/// mkfs.xfs(8).
const XFS: &[Switch] = &[
    with("-b"),
    but("-d", &["file", "name", "size"]),
    with("-i"),
    but("-l", &["file", "name", "logdev"]),
    but("-m", &["uuid"]),
    with("-n"),
    with("-s"),
    flag("-K"),
];

/// mkfs.btrfs(8).
const BTRFS: &[Switch] = &[
    with("-d"),
    with("--data"),
    with("-m"),
    with("--metadata"),
    flag("-M"),
    flag("--mixed"),
    with("-n"),
    with("--nodesize"),
    with("-s"),
    with("--sectorsize"),
    with("-O"),
    with("--features"),
    with("--csum"),
    with("--checksum"),
    flag("-K"),
    flag("--nodiscard"),
];

/// mkfs.fat(8).
const VFAT: &[Switch] = &[
    with("-F"),
    with("-s"),
    with("-S"),
    with("-R"),
    with("-r"),
    with("-f"),
    with("-g"),
    with("-h"),
    with("-D"),
    flag("-a"),
];

/// A value is a list of words and `key=word`, and no path.
fn refuses_value(value: &str, forbidden: &[&str]) -> Option<String> {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"_=,.:^%+-".contains(&b);
    if value.is_empty() || value.starts_with('-') || !value.bytes().all(is_fine) {
        return Some("a value has letters, digits and _=,.:^%+- and names no file".to_owned());
    }
    let key = value.split(',').map(|part| part.split('=').next().unwrap_or(part));
    let mut forbidden = key.filter(|key| forbidden.contains(key));
    forbidden.next().map(|key| format!("{key} would reach beyond this partition's filesystem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(format: Format, options: &[&str]) -> Option<usize> {
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        format.refuses_options(&options).map(|(at, _)| at)
    }

    #[test]
    fn options_of_each_mkfs_are_passed_on() {
        assert_eq!(
            refused(Format::Ext4, &["-m", "0", "-E", "lazy_itable_init=0,stride=16", "-O", "^has_journal", "-i8192"]),
            None
        );
        assert_eq!(refused(Format::Xfs, &["-d", "su=64k,sw=4", "-m", "reflink=0,rmapbt=1", "-K"]), None);
        assert_eq!(refused(Format::Btrfs, &["-m", "single", "--csum=xxhash", "--nodesize", "32768"]), None);
        assert_eq!(refused(Format::Vfat, &["-F", "32", "-s", "8"]), None);
        assert_eq!(refused(Format::Swap, &[]), None);
    }

    #[test]
    fn nothing_that_could_name_another_device_or_size_is_passed_on() {
        for (format, options, at) in [
            (Format::Btrfs, &["/dev/sdb"][..], 0),
            (Format::Btrfs, &["-K", "sdb"], 1),
            (Format::Btrfs, &["-b", "1G"], 0),
            (Format::Btrfs, &["-r", "/etc"], 0),
            (Format::Btrfs, &["--rootdir=/etc"], 0),
            (Format::Btrfs, &["--csum=/etc"], 0),
            (Format::Btrfs, &["-Kf"], 0),
            (Format::Ext4, &["-J", "device=LABEL=x"], 1),
            (Format::Ext4, &["-Jsize=4,device=UUID=x"], 0),
            (Format::Ext4, &["-E", "stride=1,offset=4096"], 1),
            (Format::Ext4, &["-O", "journal_dev"], 1),
            (Format::Ext4, &["-L", "x"], 0),
            (Format::Ext4, &["-U", "random"], 0),
            (Format::Ext4, &["-d", "etc"], 0),
            (Format::Ext4, &["-n"], 0),
            (Format::Ext4, &["-t", "ext2"], 0),
            (Format::Ext4, &["-m"], 0),
            (Format::Ext4, &["-m", "-n"], 1),
            (Format::Ext4, &["-m", "0", "1000"], 2),
            (Format::Ext4, &["--"], 0),
            (Format::Ext4, &[""], 0),
            (Format::Xfs, &["-l", "logdev=sdb"], 1),
            (Format::Xfs, &["-d", "name=sdb"], 1),
            (Format::Xfs, &["-d", "size=1g"], 1),
            (Format::Xfs, &["-r", "rtdev=sdb"], 0),
            (Format::Xfs, &["-p", "proto"], 0),
            (Format::Xfs, &["-m", "uuid=x"], 1),
            (Format::Xfs, &["-N"], 0),
            (Format::Vfat, &["-C"], 0),
            (Format::Vfat, &["-c"], 0),
            (Format::Vfat, &["-m", "motd"], 0),
            (Format::Vfat, &["--offset=8"], 0),
            (Format::Swap, &["-f"], 0),
        ] {
            assert_eq!(refused(format, options), Some(at), "{format:?} {options:?}");
        }
    }

    #[test]
    fn volume_ids_are_read_as_they_are_printed() {
        let uuid = "9d3c2c5e-6a4b-4f4e-8d9c-0a1b2c3d4e5f";
        for (format, text, printed) in [
            (Format::Ext4, "9D3C2C5E-6A4B-4F4E-8D9C-0A1B2C3D4E5F", Some(uuid)),
            (Format::Swap, uuid, Some(uuid)),
            (Format::Xfs, "00000000-0000-0000-0000-000000000000", None),
            (Format::Btrfs, "1A2B-3C4D", None),
            (Format::Vfat, "1a2b-3c4d", Some("1A2B-3C4D")),
            (Format::Vfat, "1A2B3C4D", Some("1A2B-3C4D")),
            (Format::Vfat, "0000-0000", None),
            (Format::Vfat, "+A2B-3C4D", None),
            (Format::Vfat, uuid, None),
        ] {
            let read = format.volume_id(text).map(|id| id.to_string());
            assert_eq!(read.as_deref(), printed, "{format:?} {text}");
        }
    }

    #[test]
    fn labels_are_what_the_format_can_hold() {
        for (format, fine, refused) in [
            (Format::Ext4, "sixteen-bytes-ok", "seventeen-bytes-x"),
            (Format::Xfs, "twelve-bytes", "two words"),
            (Format::Vfat, "EFI SYSTEM1", "lower"),
            (Format::Vfat, "", "NO NAME"),
            (Format::Swap, "fifteen-bytes-x", "sixteen-bytes-ok"),
            (Format::Btrfs, "größer", " blank"),
            (Format::Ext4, "a/b", "muster-mkfs"),
            (Format::Vfat, "A-B_C", "MUSTER-MKFS"),
        ] {
            assert_eq!(format.refuses_label(fine), None, "{format:?} {fine}");
            assert!(format.refuses_label(refused).is_some(), "{format:?} {refused}");
        }
        assert_eq!(Format::Btrfs.refuses_label(&"x".repeat(255)), None);
        assert!(Format::Btrfs.refuses_label(&"x".repeat(256)).is_some());
    }
}
