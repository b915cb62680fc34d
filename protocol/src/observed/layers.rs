//! What stands between disks and filesystems: md arrays, volume groups of LVM2, devices that LUKS encrypts.
//!
//! Read by the agent without any tool, so that planning needs none: superblocks, labels and headers on the disks, and
//! sysfs for what runs. Which devices carry members is told by their own [`Contents`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Contents;
use crate::bounded::{self, at_most};
use crate::inventory;

/// All of them, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Arrays that run, by kernel name, then those of which there are only members.
    #[serde(deserialize_with = "at_most::<{ bounded::ARRAYS }, _, _>")]
    pub arrays: Vec<Array>,
    /// Volume groups, by name.
    #[serde(deserialize_with = "at_most::<{ bounded::GROUPS }, _, _>")]
    pub groups: Vec<VolumeGroup>,
    /// Logical volumes of all groups, in the order of `groups`, then by name; those that LVM hides are left out.
    #[serde(deserialize_with = "at_most::<{ bounded::VOLUMES }, _, _>")]
    pub volumes: Vec<Volume>,
    /// LUKS devices that are open, by name.
    #[serde(deserialize_with = "at_most::<{ bounded::OPENED }, _, _>")]
    pub opened: Vec<Opened>,
}

/// An array of Linux md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Its device, level, and how it is.
    pub array: inventory::Array,
    /// Its members, by kernel name.
    #[serde(deserialize_with = "at_most::<{ bounded::ARRAY_MEMBERS }, _, _>")]
    pub members: Vec<ArrayMember>,
    /// In the byte order in which mdadm prints it; `None` where no member could be read.
    pub uuid: Option<[u8; 16]>,
    /// The name in its superblocks, such as `data` or `host:data`; empty for metadata 0.90.
    pub label: String,
    /// Bytes; 0 where it does not run.
    pub size_bytes: u64,
    /// What md does with it in the background.
    pub sync: Option<Sync>,
    /// What it carries; `None` where it cannot be read.
    pub contents: Option<Contents>,
}

/// A device of an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayMember {
    /// Kernel name in this boot, such as `sda1`.
    pub name: String,
    /// Its place, from 0; `None` where it has none: a spare, or one that failed.
    pub slot: Option<u16>,
    /// How it is.
    pub state: MemberState,
}

/// How a member of an array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It has its part of the data.
    InSync,
    /// It is being filled.
    Rebuilding,
    /// It waits for one to fail.
    Spare,
    /// It failed, or was left behind by the others.
    Faulty,
    /// It keeps the journal.
    Journal,
}

impl MemberState {
    /// As the API and events write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::InSync => "in sync",
            Self::Rebuilding => "rebuilding",
            Self::Spare => "spare",
            Self::Faulty => "faulty",
            Self::Journal => "journal",
        }
    }
}

/// Work of md on an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// As sysfs names it: `resync`, `recover`, `reshape`, `check`, `repair`.
    pub action: String,
    /// 0 to 100.
    pub percent: u8,
}

/// What a member of an array says of itself in its superblock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaidMember {
    /// UUID of the array in the byte order in which mdadm prints it.
    pub array: [u8; 16],
    /// The array's name, such as `data` or `host:data`; empty for metadata 0.90.
    pub name: String,
    /// As mdadm names it: `raid1`, `raid10`, `linear`, ….
    pub level: String,
    /// Members of the whole array, spares not counted.
    pub devices: u16,
    /// What this one is in it.
    pub role: Role,
    /// Grows with every change of the array: a member that has fewer than others was left behind.
    pub events: u64,
    /// Bytes of each member that the array uses.
    pub used_bytes: u64,
    /// Which superblock.
    pub metadata: Metadata,
}

impl RaidMember {
    /// The array's UUID as mdadm prints it.
    pub fn array_uuid(&self) -> String {
        md_uuid(&self.array)
    }
}

/// Four groups of eight digits.
pub fn md_uuid(uuid: &[u8; 16]) -> String {
    let group = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    uuid.chunks_exact(4).map(group).collect::<Vec<_>>().join(":")
}

impl fmt::Display for RaidMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Member(slot) => write!(f, "member {slot}")?,
            Role::Spare => f.write_str("a spare")?,
            Role::Faulty => f.write_str("a failed member")?,
            Role::Journal => f.write_str("the journal")?,
        }
        let name = if self.name.is_empty() { self.array_uuid() } else { format!("{:?}", self.name) };
        write!(f, " of the RAID array {name} ({} of {})", self.level, self.devices)
    }
}

/// What a device is in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It has this place, from 0.
    Member(u16),
    /// It takes the place of the next one that fails.
    Spare,
    /// It failed.
    Faulty,
    /// It keeps the journal of a RAID 5 or 6.
    Journal,
}

/// Versions of md's superblock: where it lies, and its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metadata {
    /// In the last whole 64 KiB.
    V0_90,
    /// At the end.
    V1_0,
    /// At the start.
    V1_1,
    /// 4 KiB behind the start.
    V1_2,
}

impl Metadata {
    /// As mdadm writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::V0_90 => "0.90",
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        }
    }
}

/// A physical volume of LVM2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhysicalVolume {
    /// Its own.
    pub uuid: LvmId,
    /// The group that its own metadata tells of.
    pub group: Option<GroupName>,
    /// It would tell of a group, and what it tells does not hold or cannot be read: there may be volumes in it all the same.
    pub is_damaged: bool,
}

impl fmt::Display for PhysicalVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "a physical volume of the volume group {:?}", group.name),
            None if self.is_damaged => write!(f, "a physical volume of LVM whose metadata is damaged ({})", self.uuid),
            None => write!(f, "a physical volume of LVM that tells of no group ({})", self.uuid),
        }
    }
}

/// How a volume group is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupName {
    /// Two groups may have one name: disks of another machine.
    pub name: String,
    /// No two have this.
    pub uuid: LvmId,
}

/// A volume group, as the newest copy of its metadata describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeGroup {
    /// How it is called.
    pub name: GroupName,
    /// Grows with every change of the group.
    pub seqno: u32,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Extents of all its physical volumes.
    pub extents: u64,
    /// Those that no logical volume has.
    pub free_extents: u64,
    /// Its physical volumes.
    #[serde(deserialize_with = "at_most::<{ bounded::GROUP_MEMBERS }, _, _>")]
    pub members: Vec<GroupMember>,
}

/// A physical volume as its group knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    /// Its own.
    pub uuid: LvmId,
    /// Kernel name of the device that carries it; empty where it is missing.
    pub device: String,
    /// Extents.
    pub extents: u64,
    /// Those that no logical volume has.
    pub free_extents: u64,
}

/// A logical volume that LVM shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Which of [`Layers::groups`] it is of.
    pub group: u16,
    /// Name inside the group.
    pub name: String,
    /// Its own.
    pub uuid: LvmId,
    /// Bytes.
    pub size_bytes: u64,
    /// As lvs names the type of its segments: `linear`, `striped`, `thin-pool`, `thin`, `raid1`, …; `snapshot` for one
    /// that is no thin one.
    pub kind: String,
    /// The pool that a thin volume takes its room from; empty for others.
    pub pool: String,
    /// What it is a snapshot of; empty for others.
    pub origin: String,
    /// Kernel name where it is active; empty where it is not.
    pub device: String,
    /// What it carries; `None` where it is not active or cannot be read.
    pub contents: Option<Contents>,
}

/// A header of LUKS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luks {
    /// 1 or 2.
    pub version: u8,
    /// As cryptsetup prints it.
    pub uuid: String,
    /// Empty where there is none, and for version 1.
    pub label: String,
    /// The same.
    pub subsystem: String,
    /// Which copies of the header hold; version 1 has but one.
    pub headers: Headers,
}

impl fmt::Display for Luks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LUKS{}", self.version)?;
        if !self.label.is_empty() {
            write!(f, " labeled {:?}", self.label)?;
        }
        write!(f, " ({})", self.uuid)?;
        f.write_str(match self.headers {
            Headers::Whole => "",
            Headers::FirstAlone => ", its second header is damaged",
            Headers::SecondAlone => ", its first header is damaged",
            Headers::Damaged => ", its header is damaged",
        })
    }
}

/// Which of the two copies of a LUKS2 header hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Headers {
    /// Both, or nothing says otherwise.
    Whole,
    /// The first alone: the second is damaged, or is older.
    FirstAlone,
    /// The second alone: the first is damaged, or was overwritten.
    SecondAlone,
    /// None: the magic is there, and no checksum fits.
    Damaged,
}

/// A LUKS device that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The name that it was opened under: /dev/mapper/NAME.
    pub name: String,
    /// Kernel name.
    pub device: String,
    /// UUID in the header that it was opened by; empty where the kernel was not told.
    pub uuid: String,
    /// Kernel name of the device below; empty where there is none.
    pub on: String,
    /// Bytes.
    pub size_bytes: u64,
    /// What it carries; `None` where it cannot be read.
    pub contents: Option<Contents>,
}

/// A UUID of LVM2: 32 letters, digits, `!` and `#`, written `6-4-4-4-4-4-6`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[u8; 32]", into = "[u8; 32]")]
pub struct LvmId([u8; 32]);

/// Bytes or a text that are no UUID of LVM2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of LVM2, 32 letters and digits in groups of 6-4-4-4-4-4-6")]
pub struct NotAnLvmId;

impl TryFrom<[u8; 32]> for LvmId {
    type Error = NotAnLvmId;

    fn try_from(bytes: [u8; 32]) -> Result<Self, NotAnLvmId> {
        let is_one = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'#'));
        if is_one { Ok(Self(bytes)) } else { Err(NotAnLvmId) }
    }
}

impl From<LvmId> for [u8; 32] {
    fn from(id: LvmId) -> Self {
        id.0
    }
}

impl FromStr for LvmId {
    type Err = NotAnLvmId;

    /// With its dashes or without.
    fn from_str(text: &str) -> Result<Self, NotAnLvmId> {
        let bytes: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').take(33).collect();
        <[u8; 32]>::try_from(bytes).map_err(|_| NotAnLvmId)?.try_into()
    }
}

impl fmt::Display for LvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 6 | 10 | 14 | 18 | 22 | 26) {
                f.write_str("-")?;
            }
            write!(f, "{}", char::from(*byte))?;
        }
        Ok(())
    }
}

impl fmt::Debug for LvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_of_lvm_has_one_form_and_refuses_others() {
        let text = "6ba7b8-109d-ad11-d180-b400-c04f-d430c8";
        let id: LvmId = text.parse().expect("a UUID");
        assert_eq!(id.to_string(), text);
        assert_eq!(text.replace('-', "").parse(), Ok(id));
        for wrong in ["", "6ba7b8", "6ba7b8-109d-ad11-d180-b400-c04f-d430c8x", "6ba7b8-109d-ad11-d180-b400-c04f-d430c "]
        {
            assert_eq!(wrong.parse::<LvmId>(), Err(NotAnLvmId), "{wrong}");
        }
        assert_eq!(LvmId::try_from([b'/'; 32]), Err(NotAnLvmId), "it goes into names and lines");
    }
}
