//! Disks and what they carry.

use serde::{Deserialize, Serialize};

use super::{Luks, PhysicalVolume, RaidMember};
use crate::bounded::at_most;
use crate::desired::Rates;
use crate::ids::DiskId;
use crate::inventory::{Attachment, Medium, Transport};

/// Where a swap area is that is in use, as lsblk has it: no mount point is called so.
pub const SWAP: &str = "[SWAP]";

/// How fast the programs of a cgroup may read and write a disk, because a document said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Which disk.
    pub disk: DiskId,
    /// Path of the cgroup below the cgroup filesystem.
    pub cgroup: String,
    /// How fast.
    pub rates: Rates,
}

/// One whole disk and what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name in this boot.
    pub name: String,
    /// World wide name, as in the inventory.
    pub wwn: Option<String>,
    /// Serial number, as in the inventory.
    pub serial: Option<String>,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes addressed by one block number.
    pub logical_sector: u32,
    /// Spinning or not.
    pub medium: Medium,
    /// Whether it belongs to the machine.
    pub attachment: Attachment,
    /// How it is connected.
    pub transport: Transport,
    /// Model, empty where unknown.
    pub model: String,
    /// The slot it is in, by its name in `/dev/disk/by-path`; `None` where the way to it has no lasting name.
    pub by_path: Option<String>,
    /// What the disk itself carries.
    pub contents: Contents,
    /// Partitions, by number. Empty unless `contents` is a GPT or a DOS table.
    #[serde(deserialize_with = "at_most::<128, _, _>")]
    pub partitions: Vec<Partition>,
    /// Why nobody may write to it: mounted as the boot medium, held by another layer. Empty where free.
    pub held: String,
}

impl Disk {
    /// The name to use wherever a mistake would cost data; `None` for a disk that has neither WWN nor serial.
    pub fn id(&self) -> Option<DiskId> {
        DiskId::best(self.wwn.as_deref(), self.serial.as_deref())
    }

    /// What the kernel calls a partition of it in this boot: a `p` stands between digits.
    pub fn partition_name(&self, number: u32) -> String {
        let between = if self.name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        format!("{}{between}{number}", self.name)
    }
}

/// What a disk or partition carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// No signature of anything known, and the places where signatures live are all zeros.
    Blank,
    /// A GUID partition table (UEFI 2.10, section 5.3).
    Gpt {
        /// Disk GUID in the byte order in which it is printed.
        guid: [u8; 16],
    },
    /// An MBR partition table.
    Dos,
    /// A filesystem.
    Filesystem(Box<Filesystem>),
    /// A known signature that is none of the others, by its usual name: `zfs_member`, `bcache`, …; also `LVM2_member`,
    /// `crypto_LUKS` and `linux_raid_member` where no more than the signature can be read.
    Signature(String),
    /// Not blank, and no signature that is known: somebody's data all the same.
    Unknown,
    /// A member of an array of Linux md.
    Raid(Box<RaidMember>),
    /// A physical volume of LVM2.
    Lvm(Box<PhysicalVolume>),
    /// Encrypted by LUKS.
    Luks(Box<Luks>),
}

impl Contents {
    /// Where the filesystem is mounted; `None` for anything that is not.
    pub fn mounted_at(&self) -> Option<&str> {
        match self {
            Self::Filesystem(filesystem) => Some(filesystem.mounted_at.as_str()).filter(|path| !path.is_empty()),
            _ => None,
        }
    }

    /// The same, with nothing said of mounting: what is on the medium.
    pub fn unmounted(&self) -> Self {
        match self {
            Self::Filesystem(filesystem) => {
                let (mounted_at, mount_options) = (String::new(), Vec::new());
                Self::Filesystem(Box::new(Filesystem { mounted_at, mount_options, ..*filesystem.clone() }))
            }
            other => other.clone(),
        }
    }
}

/// A filesystem or swap area found on a disk or partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// As blkid names it: `ext4`, `xfs`, `vfat`, `ntfs`, `swap`, …
    pub kind: String,
    /// Volume label, empty where there is none.
    pub label: String,
    /// UUID as the filesystem's tools print it, empty where there is none.
    pub uuid: String,
    /// Bytes that it takes, by its own account; 0 where that is not known.
    pub size_bytes: u64,
    /// Where it is mounted, [`SWAP`] where it is swapped to, empty where it is neither.
    pub mounted_at: String,
    /// How, in the form of [`crate::desired::mount_options`]: what every filesystem has as the kernel has it now, the
    /// filesystem's own as the agent gave them.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub mount_options: Vec<String>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// 1 to 128.
    pub number: u32,
    /// First byte, from the start of the disk.
    pub start_bytes: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// GPT name, empty for DOS tables.
    pub label: String,
    /// GPT type GUID in the byte order in which it is printed; zeros for DOS tables.
    pub type_guid: [u8; 16],
    /// Its own GUID in the byte order in which it is printed; zeros for DOS tables.
    pub guid: [u8; 16],
    /// What it carries.
    pub contents: Contents,
}
