//! Storage steps: what each does, to which devices, what it costs, and how people are told.
//!
//! Made by `plan`, shown to people and permits, carried out by `linux::storage` and on values by `model`.
//! It does not choose kernel names: a disk is its WWN or serial, and what stands on disks is its own name and theirs,
//! until the very moment of writing.

mod words;

use muster_protocol::desired::{self, Format, Key, RaidLevel, TreeMount, VolumeId, VolumeKind, VolumeSize};
use muster_protocol::observed::{self, Contents, Disk, LvmId, SWAP};
use muster_protocol::to_agent::{self, Impact};
use muster_protocol::{Digest, DiskId};
use serde::Serialize;

use super::{Header, Written, size};
use crate::sort;

/// One thing to do to disks, or to what stands on them. Carries what the plan saw, so that whoever writes can look again first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Step {
    /// Take a filesystem that the agent mounted out of the tree.
    Unmount {
        /// What it is on.
        on: Target,
        /// Where it is.
        path: String,
    },
    /// Write a GPT with exactly these partitions.
    Partition {
        /// Which disk.
        disk: DiskId,
        /// What it carries.
        before: Before,
        /// The new table.
        slots: Vec<Slot>,
        /// Other disks that lose with it what stands on them together.
        also: Vec<DiskId>,
    },
    /// Change some entries of the GPT that is there; all others stay to the bit.
    Edit {
        /// Which disk.
        disk: DiskId,
        /// What it carries.
        before: Before,
        /// Numbers of the partitions that go, with what they carry.
        deleted: Vec<u32>,
        /// Those that get larger where they are, as they will be.
        grown: Vec<Slot>,
        /// The new ones.
        added: Vec<Slot>,
        /// Other disks that lose with it what stands on them together.
        also: Vec<DiskId>,
    },
    /// Write a disk image, its table last, and what its operating system is told.
    Image {
        /// Which disk.
        disk: DiskId,
        /// What it carries.
        before: Before,
        /// What it gets.
        image: Written,
    },
    /// Make a filesystem.
    Format {
        /// Where.
        on: Over,
        /// What to make.
        make: Make,
        /// Other disks that lose with it what stands on them together.
        also: Vec<DiskId>,
    },
    /// Mount a filesystem.
    Mount {
        /// What it is on.
        on: Target,
        /// What it is.
        format: Format,
        /// Where to; directories that lack are made.
        mount: desired::Mount,
    },
    /// Change the options that every filesystem has of one that the agent mounted.
    Remount {
        /// What it is on.
        on: Target,
        /// Where it is, and the new options.
        mount: desired::Mount,
    },
    /// Let a mounted filesystem have all of its device.
    Grow {
        /// What it is on.
        on: Target,
        /// What it is.
        format: Format,
        /// Where it is mounted.
        path: String,
        /// Bytes that it takes now.
        from_bytes: u64,
    },
    /// Swap to a swap area.
    SwapOn {
        /// What it is on.
        on: Target,
    },
    /// Take what was swapped back into memory.
    SwapOff {
        /// What it is on.
        on: Target,
    },
    /// Make an array. It has its name only once all of it is there and reads as blank.
    MakeArray {
        /// The new device.
        array: Target,
        /// How data is spread.
        level: RaidLevel,
        /// Its members, the last of them spares.
        members: Vec<Over>,
        /// How many of them are spares.
        spares: u16,
        /// More words for mdadm.
        options: Vec<String>,
        /// Other disks that lose with it what stands on them together.
        also: Vec<DiskId>,
    },
    /// Run an array that is there.
    Assemble {
        /// Which.
        array: Target,
        /// Those of its members that are up to date.
        members: Vec<Target>,
    },
    /// Give an array that lacks a member another one.
    AddMember {
        /// Which array.
        array: Target,
        /// The new member.
        member: Over,
        /// Other disks that lose with it what stands on them together.
        also: Vec<DiskId>,
    },
    /// Stop an array. What it carries stays.
    Stop {
        /// Which.
        array: Target,
    },
    /// Make a LUKS device. It has its label only once its inside reads as blank, and is left closed.
    MakeLuks {
        /// Where.
        on: Over,
        /// What to make.
        luks: MakeLuks,
        /// Other disks that lose with it what stands on them together.
        also: Vec<DiskId>,
    },
    /// Open a LUKS device.
    Open {
        /// What it is called then.
        luks: Target,
        /// What it is on.
        on: Target,
        /// Which header it has.
        header: Header,
        /// Where its key comes from.
        key: Key,
        /// Whether what is freed above is freed below.
        discard: bool,
    },
    /// Close a LUKS device. What it carries stays.
    Close {
        /// Which.
        luks: Target,
    },
    /// Let an open LUKS device have all of what it is on.
    GrowLuks {
        /// Which.
        luks: Target,
        /// What it is on.
        on: Target,
    },
    /// Make a volume group.
    MakeGroup {
        /// Which.
        group: Group,
        /// Its physical volumes.
        members: Vec<Over>,
        /// Bytes of an extent.
        extent_bytes: u64,
        /// Other disks that lose with it what stands on them together.
        also: Vec<DiskId>,
    },
    /// Give a volume group more physical volumes.
    ExtendGroup {
        /// Which.
        group: Group,
        /// The new ones.
        members: Vec<Over>,
        /// Other disks that lose with it what stands on them together.
        also: Vec<DiskId>,
    },
    /// Let a volume group have all of a physical volume.
    GrowMember {
        /// Which.
        group: Group,
        /// The physical volume.
        member: Target,
    },
    /// Make logical volumes appear.
    Activate {
        /// Of which group.
        group: Group,
        /// Their names.
        volumes: Vec<String>,
    },
    /// Make logical volumes disappear. What they carry stays.
    Deactivate {
        /// Of which group.
        group: Group,
        /// Their names.
        volumes: Vec<String>,
    },
    /// Make a logical volume. It has its name only once it reads as blank.
    MakeVolume {
        /// The new device.
        volume: Target,
        /// Of which group.
        group: Group,
        /// What it is.
        kind: VolumeKind,
        /// How large.
        size: VolumeSize,
    },
    /// Make a logical volume larger.
    GrowVolume {
        /// Which.
        volume: Target,
        /// Of which group.
        group: Group,
        /// How large it becomes.
        size: VolumeSize,
        /// Bytes that it has now.
        from_bytes: u64,
    },
    /// Mount what is on no disk of its own.
    Attach {
        /// What, where and how.
        tree: TreeMount,
    },
    /// Change the options of such a mount where it is.
    Reattach {
        /// What and where, and the new options.
        tree: TreeMount,
    },
    /// Take such a mount of the agent's out of the tree.
    Detach {
        /// As it is.
        tree: TreeMount,
    },
    /// Let the programs of a cgroup read and write a disk so fast.
    Limit {
        /// How fast.
        limit: observed::Limit,
    },
    /// Take such a limit of the agent's away.
    Unlimit {
        /// As it is.
        limit: observed::Limit,
    },
    /// Have the firmware start these disks, and none of those that an earlier document named, where what starts the machine
    /// now gives up.
    Start {
        /// Which disks, and the images that they hold.
        from: Vec<(DiskId, Digest)>,
        /// How.
        how: StartBy,
    },
}

/// How a machine's firmware comes to start a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum StartBy {
    /// An entry in its boot order.
    Entry,
    /// It is a BIOS, which is given its first disk by iPXE; nothing is written.
    FirstDisk,
    /// It tries disks by itself, or it is told by hand; nothing can be written.
    Itself {
        /// Why not.
        why: String,
    },
}

/// A device that a step is about, by what it is called whatever the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Device {
    /// A partition.
    Partition {
        /// Of which disk.
        disk: DiskId,
        /// Which one, and where it lies.
        slot: Slot,
    },
    /// An array of Linux md.
    Array {
        /// The name in its superblocks, without that of a host; empty where it has none.
        name: String,
        /// UUID of one that was seen; `None` for one that an earlier step makes.
        uuid: Option<[u8; 16]>,
    },
    /// A LUKS device that is open, or is to be.
    Luks {
        /// /dev/mapper/NAME.
        name: String,
    },
    /// A logical volume.
    Volume {
        /// Name of its group.
        group: String,
        /// Name in the group.
        name: String,
    },
}

/// A device, and what it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Which one.
    pub device: Device,
    /// All disks beneath it, each once. One of the same name that stands on any other disk is not this one.
    pub disks: Vec<DiskId>,
    /// Bytes: exact for what is there and for partitions, an estimate for what an earlier step makes, 0 where it is not
    /// known before it runs.
    pub size_bytes: u64,
}

/// A device that is written over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Over {
    /// Which one.
    pub on: Target,
    /// What it carries.
    pub carries: Carries,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What it is called.
    pub name: String,
    /// UUID of one that was seen; `None` for one that an earlier step makes.
    pub uuid: Option<LvmId>,
    /// All disks beneath it, each once.
    pub disks: Vec<DiskId>,
}

/// A LUKS device that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MakeLuks {
    /// What it will be called when it is open.
    pub name: String,
    /// Label in its header, empty for none.
    pub label: String,
    /// UUID in its header; `None` leaves the choice to who makes it.
    pub uuid: Option<[u8; 16]>,
    /// Where its key comes from.
    pub key: Key,
    /// More words for cryptsetup.
    pub options: Vec<String>,
}

/// A filesystem that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Make {
    /// What.
    pub format: Format,
    /// Volume label, empty for none.
    pub label: String,
    /// UUID; `None` leaves the choice to its mkfs.
    pub uuid: Option<VolumeId>,
    /// More words for its mkfs.
    pub options: Vec<String>,
}

/// A whole disk as the plan saw it. Kernel names and mount points are left out: they may change and mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Before {
    /// World wide name.
    pub wwn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Model, empty where unknown.
    pub model: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes addressed by one block number.
    pub logical_sector: u32,
    /// What the disk itself carries.
    pub contents: Contents,
    /// Its partitions and what they carry.
    pub partitions: Vec<observed::Partition>,
}

impl Before {
    /// What `disk` is now, in the form that can be compared with what the plan saw.
    pub fn of(disk: &Disk) -> Self {
        let unmounted = |p: &observed::Partition| observed::Partition { contents: p.contents.unmounted(), ..p.clone() };
        Self {
            wwn: disk.wwn.clone(),
            serial: disk.serial.clone(),
            model: disk.model.clone(),
            size_bytes: disk.size_bytes,
            logical_sector: disk.logical_sector,
            contents: disk.contents.unmounted(),
            partitions: disk.partitions.iter().map(unmounted).collect(),
        }
    }

    /// Who the disk is, how large, and a short form of what it carries: `"MODEL", serial S1, wwn 0x5, 10.0 GiB, 1a2b3c4d`.
    pub fn in_words(&self) -> String {
        let model = Some(format!("{:?}", self.model)).filter(|_| !self.model.is_empty());
        let serial = self.serial.as_ref().map(|serial| format!("serial {serial}"));
        let wwn = self.wwn.as_ref().map(|wwn| format!("wwn {wwn}"));
        let seen = Digest::of_value(&(&self.contents, &self.partitions)).to_string();
        let rest = [Some(size(self.size_bytes)), Some(format!("contents {}", &seen[..8]))];
        [model, serial, wwn].into_iter().chain(rest).flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A partition: its number, its place in bytes, its name and type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// 1 to 128.
    pub number: u32,
    /// First byte, from the start of the disk.
    pub start_bytes: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// GPT name.
    pub label: String,
    /// GPT type GUID in the byte order in which it is printed.
    pub type_guid: [u8; 16],
    /// Its own GUID in the byte order in which it is printed; `None` for a random one.
    pub guid: Option<[u8; 16]>,
}

impl Slot {
    /// Where a partition lies that is there.
    pub fn of(there: &observed::Partition) -> Self {
        Self {
            number: there.number,
            start_bytes: there.start_bytes,
            size_bytes: there.size_bytes,
            label: there.label.clone(),
            type_guid: there.type_guid,
            guid: Some(there.guid),
        }
    }
}

/// What a device carries that is written over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Carries {
    /// Nothing, and it must be so still.
    Nothing,
    /// A piece of ours that was never finished, and nothing else.
    Ours(Contents),
    /// This, and nothing else; it is lost.
    This(Contents),
    /// Whatever the replaced partition table left there. An earlier step of the same plan destroys it.
    Remains,
}

/// A step for people and permits. One that destroys says of which disks all that tells them from others.
pub fn describe(step: &Step, observed: &[Disk]) -> to_agent::Step {
    let mut said = step.describe();
    if let Impact::Destroys(disks) = &said.impact {
        let find = |id: &DiskId| observed.iter().find(|disk| id.names(disk.wwn.as_deref(), disk.serial.as_deref()));
        let words: Vec<String> = disks.iter().filter_map(find).map(|disk| Before::of(disk).in_words()).collect();
        if !words.is_empty() {
            said.action.push_str(&format!(" [{}]", words.join("; ")));
        }
    }
    said
}

impl Target {
    /// A partition.
    pub fn partition(disk: &DiskId, slot: &Slot) -> Self {
        let device = Device::Partition { disk: disk.clone(), slot: slot.clone() };
        Self { device, disks: vec![disk.clone()], size_bytes: slot.size_bytes }
    }

    /// Whether it is the partition of this number, of whichever disk.
    pub fn is_partition(&self, number: u32) -> bool {
        matches!(&self.device, Device::Partition { slot, .. } if slot.number == number)
    }

    /// Whether it is another's device, whatever is known of that now.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        match (&self.device, &other.device) {
            (Device::Partition { disk, slot }, Device::Partition { disk: other, slot: there }) => {
                disk == other && slot.number == there.number
            }
            (Device::Array { name, .. }, Device::Array { name: other, .. }) => name == other,
            (one, other) => one == other,
        }
    }
}

impl Over {
    /// Whether something is lost by it.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.carries, Carries::This(_))
    }
}

impl Step {
    /// For people and permits.
    pub fn describe(&self) -> to_agent::Step {
        let impact = if self.is_destructive() { Impact::Destroys(self.destroyed()) } else { Impact::None };
        to_agent::Step { action: self.action(), impact }
    }

    /// The disks that it touches, each once.
    pub fn disks(&self) -> Vec<&DiskId> {
        let mut disks: Vec<&DiskId> = match self {
            Self::Attach { .. } | Self::Reattach { .. } | Self::Detach { .. } => Vec::new(),
            // Nothing of the disk itself is touched.
            Self::Limit { .. } | Self::Unlimit { .. } | Self::Start { .. } => Vec::new(),
            Self::Partition { disk, .. } | Self::Edit { disk, .. } | Self::Image { disk, .. } => vec![disk],
            Self::Unmount { on, .. }
            | Self::Mount { on, .. }
            | Self::Remount { on, .. }
            | Self::Grow { on, .. }
            | Self::SwapOn { on }
            | Self::SwapOff { on }
            | Self::Format { on: Over { on, .. }, .. }
            | Self::MakeLuks { on: Over { on, .. }, .. } => on.disks.iter().collect(),
            Self::MakeArray { array: on, .. }
            | Self::Assemble { array: on, .. }
            | Self::Stop { array: on }
            | Self::Open { luks: on, .. }
            | Self::Close { luks: on }
            | Self::GrowLuks { luks: on, .. }
            | Self::MakeVolume { volume: on, .. }
            | Self::GrowVolume { volume: on, .. } => on.disks.iter().collect(),
            Self::AddMember { array, member, .. } => array.disks.iter().chain(&member.on.disks).collect(),
            Self::MakeGroup { group, members, .. } | Self::ExtendGroup { group, members, .. } => {
                group.disks.iter().chain(members.iter().flat_map(|member| &member.on.disks)).collect()
            }
            Self::GrowMember { group, .. } | Self::Activate { group, .. } | Self::Deactivate { group, .. } => {
                group.disks.iter().collect()
            }
        };
        disks.extend(self.also());
        sort::short(&mut disks, Ord::cmp);
        disks.dedup();
        disks
    }

    /// Whether it touches this disk.
    pub fn is_of(&self, disk: &Disk) -> bool {
        self.disks().iter().any(|id| id.names(disk.wwn.as_deref(), disk.serial.as_deref()))
    }

    /// Whether it runs a program, or needs a driver, that is only in the tools image.
    pub fn needs_tools(&self) -> bool {
        match self {
            // A swap area is one page, which the agent writes itself.
            Self::Format { make, .. } => make.format != Format::Swap,
            // What is there already is mounted without: the initramfs has ext4.
            Self::Mount { format, .. } => *format != Format::Ext4,
            Self::Grow { .. }
            | Self::MakeArray { .. }
            | Self::Assemble { .. }
            | Self::AddMember { .. }
            | Self::Stop { .. }
            | Self::MakeLuks { .. }
            | Self::Open { .. }
            | Self::Close { .. }
            | Self::GrowLuks { .. }
            | Self::MakeGroup { .. }
            | Self::ExtendGroup { .. }
            | Self::GrowMember { .. }
            | Self::Activate { .. }
            | Self::Deactivate { .. }
            | Self::MakeVolume { .. }
            | Self::GrowVolume { .. } => true,
            Self::Unmount { .. }
            | Self::Remount { .. }
            | Self::Partition { .. }
            | Self::Image { .. }
            | Self::Edit { .. }
            | Self::SwapOn { .. }
            | Self::SwapOff { .. }
            | Self::Attach { .. }
            | Self::Reattach { .. }
            | Self::Detach { .. }
            | Self::Limit { .. }
            | Self::Unlimit { .. }
            | Self::Start { .. } => false,
        }
    }

    /// Whether something that is there now is lost, so that a permit is needed.
    pub fn is_destructive(&self) -> bool {
        match self {
            Self::Partition { before, .. } => before.contents != Contents::Blank,
            Self::Image { before, image, .. } => image.destroys(before),
            Self::Edit { deleted, .. } => !deleted.is_empty(),
            step => step.overs().iter().any(Over::is_lost),
        }
    }

    /// The devices that it writes over.
    pub(super) fn overs(&self) -> &[Over] {
        match self {
            Self::Format { on, .. } | Self::MakeLuks { on, .. } | Self::AddMember { member: on, .. } => {
                std::slice::from_ref(on)
            }
            Self::MakeArray { members, .. } | Self::MakeGroup { members, .. } | Self::ExtendGroup { members, .. } => {
                members
            }
            _ => &[],
        }
    }

    fn also(&self) -> &[DiskId] {
        match self {
            Self::Partition { also, .. }
            | Self::Edit { also, .. }
            | Self::Format { also, .. }
            | Self::MakeArray { also, .. }
            | Self::AddMember { also, .. }
            | Self::MakeLuks { also, .. }
            | Self::MakeGroup { also, .. }
            | Self::ExtendGroup { also, .. } => also,
            _ => &[],
        }
    }

    /// The disks that lose what they carry, or a part of it: each once, the step's own first.
    fn destroyed(&self) -> Vec<DiskId> {
        let mut disks: Vec<DiskId> = Vec::new();
        let own = match self {
            Self::Partition { disk, .. } | Self::Edit { disk, .. } | Self::Image { disk, .. } => vec![disk],
            step => {
                let lost = step.overs().iter().filter(|over| over.is_lost());
                lost.flat_map(|over| &over.on.disks).collect()
            }
        };
        for disk in own.into_iter().chain(self.also()) {
            if !disks.contains(disk) {
                disks.push(disk.clone());
            }
        }
        disks
    }
}

/// What takes a filesystem or swap area of the agent's out of use.
pub(super) fn take_out(on: Target, at: &str) -> Step {
    match at {
        SWAP => Step::SwapOff { on },
        path => Step::Unmount { on, path: path.into() },
    }
}
