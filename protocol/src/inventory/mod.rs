//! What a machine is made of.
//!
//! A whole report, replaced and never patched.
//! It travels only when its digest is one the controller does not have.
//! Texts from firmware are trimmed, cut to 128 bytes, and empty where the firmware says nothing.

pub mod health;

use std::net::Ipv4Addr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::bounded::{self, at_most};
use crate::ids::{Digest, DiskId, Mac, VlanTag};

/// Everything, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The box.
    pub system: System,
    /// What started it.
    pub firmware: Firmware,
    /// Processors.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Whole disks, by kernel name; no partitions, loop or RAM devices, at most [`bounded::DISKS`].
    #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
    pub disks: Vec<Disk>,
    /// Arrays of Linux md that run, by kernel name, at most [`bounded::ARRAYS`].
    #[serde(deserialize_with = "at_most::<{ bounded::ARRAYS }, _, _>")]
    pub arrays: Vec<Array>,
    /// Physical network interfaces, by kernel name, at most [`bounded::NICS`].
    #[serde(deserialize_with = "at_most::<{ bounded::NICS }, _, _>")]
    pub nics: Vec<Nic>,
    /// VLANs, bonds and bridges, by kernel name, at most [`bounded::LINKS`].
    #[serde(deserialize_with = "at_most::<{ bounded::LINKS }, _, _>")]
    pub links: Vec<Link>,
    /// The link that carries the session; `None` where no link of the machine's does, such as the loopback.
    pub home: Option<Home>,
    /// What runs on it.
    pub software: Software,
    /// What switches it from outside, as it looks from inside; `None` where there is none, or none that is told of.
    pub bmc: Option<Bmc>,
}

impl Inventory {
    /// What [`crate::hello::Hello`] offers.
    pub fn digest(&self) -> Digest {
        Digest::of_value(self)
    }

    /// Refuses texts that no agent sends. The lists are bounded already where they are read.
    pub fn check(&self) -> Result<(), TextTooLong> {
        let mut texts = vec![
            &self.system.vendor,
            &self.system.product,
            &self.system.serial,
            &self.system.board_serial,
            &self.firmware.vendor,
            &self.firmware.version,
            &self.firmware.date,
            &self.cpu.model,
            &self.software.kernel,
            &self.software.agent,
        ];
        texts.extend(&self.cpu.flags);
        for Dimm { slot, kind, vendor, part, serial, .. } in &self.memory.dimms {
            texts.extend([slot, kind, vendor, part, serial]);
        }
        for Disk { name, model, serial, wwn, .. } in &self.disks {
            texts.extend([name, model]);
            texts.extend(serial.iter().chain(wwn));
        }
        for Array { name, level, faulty, .. } in &self.arrays {
            texts.extend([name, level, faulty]);
        }
        for Nic { name, driver, port_of, .. } in &self.nics {
            texts.extend([name, driver]);
            texts.extend(port_of);
        }
        for Link { name, kind, port_of, .. } in &self.links {
            texts.push(name);
            texts.extend(port_of);
            match kind {
                LinkKind::Vlan { parent, .. } => texts.push(parent),
                LinkKind::Bond | LinkKind::Bridge => {}
            }
        }
        if let Some(Home { link, nics }) = &self.home {
            texts.push(link);
            texts.extend(nics);
        }
        let long = texts.into_iter().map(String::len).find(|bytes| *bytes > TEXT);
        long.map_or(Ok(()), |bytes| Err(TextTooLong { bytes }))
    }
}

/// Bytes of any text.
const TEXT: usize = 128;

/// A text that is longer than any in an inventory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a text of {bytes} bytes is over an inventory's limit of {TEXT}")]
pub struct TextTooLong {
    /// How long it is.
    pub bytes: usize,
}

/// SMBIOS types 1 and 2 (DMTF DSP0134).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Manufacturer.
    pub vendor: String,
    /// Product name.
    pub product: String,
    /// Serial number.
    pub serial: String,
    /// Serial number of the board.
    pub board_serial: String,
    /// System UUID in the byte order in which it is printed.
    pub uuid: Option<[u8; 16]>,
}

/// A baseboard management controller, as SMBIOS type 38 or IPMI's own driver tells of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bmc {
    /// Where it can be reached; `None` where it does not say, or has no address.
    pub address: Option<Ipv4Addr>,
    /// Of its own NIC.
    pub mac: Option<Mac>,
}

/// SMBIOS type 0, and how the machine was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// Which boot path was taken.
    pub kind: FirmwareKind,
    /// Vendor.
    pub vendor: String,
    /// Version.
    pub version: String,
    /// Release date as the firmware writes it, usually `MM/DD/YYYY`.
    pub date: String,
}

/// How the machine was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FirmwareKind {
    /// Legacy BIOS, or a UEFI's compatibility module.
    #[default]
    Bios,
    /// UEFI.
    Uefi,
}

/// Processors, all together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Model name of the first one.
    pub model: String,
    /// Physical packages.
    pub sockets: u16,
    /// Physical cores, over all sockets.
    pub cores: u16,
    /// Hardware threads, over all cores.
    pub threads: u16,
    /// Of the flags in /proc/cpuinfo, those someone chooses machines by: `vmx`, `svm`, `aes`, `avx2`, `avx512f`, `sha_ni`, …
    /// At most [`bounded::FLAGS`].
    #[serde(deserialize_with = "at_most::<{ bounded::FLAGS }, _, _>")]
    pub flags: Vec<String>,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes that the kernel can use: less than what is plugged in.
    pub total_bytes: u64,
    /// Populated slots, SMBIOS type 17, at most [`bounded::DIMMS`].
    #[serde(deserialize_with = "at_most::<{ bounded::DIMMS }, _, _>")]
    pub dimms: Vec<Dimm>,
}

/// One memory module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimm {
    /// Slot as printed on the board, such as `DIMM_A1`.
    pub slot: String,
    /// Bytes.
    pub size_bytes: u64,
    /// `DDR4`, `DDR5`, …, empty where unknown.
    pub kind: String,
    /// Megatransfers a second, 0 where unknown.
    pub speed_mts: u32,
    /// Maker.
    pub vendor: String,
    /// Part number.
    pub part: String,
    /// Serial number.
    pub serial: String,
}

/// One whole disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name in this boot, such as `nvme0n1`. For people only.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes addressed by one block number.
    pub logical_sector: u32,
    /// Bytes written without a read before.
    pub physical_sector: u32,
    /// Spinning or not.
    pub medium: Medium,
    /// Whether it belongs to the machine.
    pub attachment: Attachment,
    /// How it is connected.
    pub transport: Transport,
    /// Model, empty where unknown.
    pub model: String,
    /// Serial number.
    pub serial: Option<String>,
    /// World wide name as the kernel writes it, such as `naa.5000c500a1b2c3d4`, `eui.0025388b01c8b0a2` or `0x…`.
    pub wwn: Option<String>,
}

impl Disk {
    /// The name to use wherever a mistake would cost data; `None` for a disk that has neither WWN nor serial.
    pub fn id(&self) -> Option<DiskId> {
        DiskId::best(self.wwn.as_deref(), self.serial.as_deref())
    }
}

/// Spinning or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// Flash, or a virtual disk that says so.
    SolidState,
    /// Spinning.
    Rotational,
}

/// Whether a disk belongs to the machine, or can be pulled out at will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// Belongs to the machine.
    Fixed,
    /// A stick, a card: a medium that leaves its drive. Never written to.
    Removable,
    /// A disk in a case of its own, on USB. Written to where it is asked for, and never the machine's.
    External,
}

impl Attachment {
    /// What the API calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Removable => "removable",
            Self::External => "external",
        }
    }

    /// Whether a document or an operator may have it written to.
    pub const fn may_be_written(self) -> bool {
        match self {
            Self::Fixed | Self::External => true,
            Self::Removable => false,
        }
    }
}

/// How a disk is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// NVM Express.
    Nvme,
    /// SATA or PATA.
    Ata,
    /// SCSI, SAS or Fibre Channel.
    Scsi,
    /// USB.
    Usb,
    /// virtio-blk.
    Virtio,
    /// eMMC or SD.
    Mmc,
    /// The kernel does not say.
    Unknown,
}

impl Transport {
    /// What documents, the API and refusals call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nvme => "nvme",
            Self::Ata => "sata",
            Self::Scsi => "scsi",
            Self::Usb => "usb",
            Self::Virtio => "virtio",
            Self::Mmc => "mmc",
            Self::Unknown => "unknown",
        }
    }
}

/// An array of Linux md. How far md is with anything is not here: an inventory is told again when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Kernel name in this boot, such as `md127`; empty for one that does not run.
    pub name: String,
    /// As md names it: `raid1`, `raid10`, `linear`, ….
    pub level: String,
    /// Members that it has when it is whole, spares not counted.
    pub devices: u16,
    /// How it is.
    pub state: ArrayState,
    /// The places that no member has.
    pub missing: Places,
    /// Kernel names of members that failed, or were left behind by the others, with blanks between them.
    pub faulty: String,
}

/// Places in an array, as far as they are among its first 64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places(u64);

impl Places {
    /// From 0, in their order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..64).filter(move |place| self.0 >> place & 1 == 1)
    }
}

impl FromIterator<u16> for Places {
    fn from_iter<I: IntoIterator<Item = u16>>(places: I) -> Self {
        Self(places.into_iter().filter(|place| *place < 64).fold(0, |all, place| all | 1 << place))
    }
}

/// How an array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArrayState {
    /// It runs and has all its members.
    Whole,
    /// It runs and lacks members. Nothing is lost, yet.
    Degraded,
    /// It lacks members, and what takes their places is being filled.
    Rebuilding,
    /// It lacks more members than it can: what it carries cannot be read as a whole.
    Failed,
    /// The kernel knows it and has not started it.
    Inactive,
    /// Only members were found; the kernel does not know it. Never in an inventory.
    Stopped,
}

impl ArrayState {
    /// As the API, events and metrics write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Degraded => "degraded",
            Self::Rebuilding => "rebuilding",
            Self::Failed => "failed",
            Self::Inactive => "inactive",
            Self::Stopped => "stopped",
        }
    }
}

impl Array {
    /// Whether somebody should do something about it.
    pub fn is_troubled(&self) -> bool {
        match self.state {
            ArrayState::Degraded | ArrayState::Rebuilding | ArrayState::Failed => true,
            ArrayState::Whole | ArrayState::Inactive | ArrayState::Stopped => false,
        }
    }

    /// In words: `md127 (raid1): degraded, lacks member 1 of 2; faulty: sdb1`.
    pub fn in_words(&self) -> String {
        let mut words = format!("{} ({}): {}", self.name, self.level, self.state.word());
        let missing: Vec<String> = self.missing.iter().map(|place| place.to_string()).collect();
        if !missing.is_empty() {
            words.push_str(&format!(", lacks member {} of {}", missing.join(", "), self.devices));
        }
        if !self.faulty.is_empty() {
            words.push_str(&format!("; faulty: {}", self.faulty));
        }
        words
    }
}

/// One physical network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Kernel name in this boot, such as `eth0`.
    pub name: String,
    /// MAC in use.
    pub mac: Mac,
    /// MAC in the hardware; equal to `mac` where the driver does not say.
    pub permanent_mac: Mac,
    /// Kernel driver, such as `igb`.
    pub driver: String,
    /// Mbit/s, where there is a carrier and the driver knows.
    pub speed_mbps: Option<u32>,
    /// Whether there is a signal on the wire.
    pub carrier: Carrier,
    /// PCI vendor and device, where it is a PCI device.
    pub pci: Option<PciId>,
    /// The bond or bridge that it is a port of, by its kernel name.
    pub port_of: Option<String>,
    /// Addresses with their prefix lengths, link-local ones included, sorted, at most [`bounded::NIC_ADDRESSES`].
    #[serde(deserialize_with = "at_most::<{ bounded::NIC_ADDRESSES }, _, _>")]
    pub addresses: Vec<IpNet>,
}

/// A link that stands on others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Kernel name, such as `office`.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// MAC in use.
    pub mac: Mac,
    /// Whether frames can pass.
    pub carrier: Carrier,
    /// The bond or bridge that it is a port of, by its kernel name.
    pub port_of: Option<String>,
    /// Addresses as a [`Nic`]'s, at most [`bounded::LINK_ADDRESSES`].
    #[serde(deserialize_with = "at_most::<{ bounded::LINK_ADDRESSES }, _, _>")]
    pub addresses: Vec<IpNet>,
}

/// What a link that stands on others is. The ports of a bond or bridge are the NICs and links that say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkKind {
    /// IEEE 802.1Q on another link.
    Vlan {
        /// Its tag.
        tag: VlanTag,
        /// The link below, by its kernel name.
        parent: String,
    },
    /// Several NICs as one link.
    Bond,
    /// A switch inside the machine.
    Bridge,
}

/// By what the controller is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The link, by its kernel name: a NIC, or what stands on some.
    pub link: String,
    /// The NICs beneath it, by their kernel names in the order of [`Inventory::nics`]; the link itself where it is one.
    #[serde(deserialize_with = "at_most::<{ bounded::NICS }, _, _>")]
    pub nics: Vec<String>,
}

/// Whether there is a signal on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// Yes.
    Present,
    /// No, or the interface is down.
    Absent,
}

/// PCI vendor and device numbers; the controller knows their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciId {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
}

/// What runs on a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// `uname -r`.
    pub kernel: String,
    /// The agent's version.
    pub agent: String,
    /// What the agent leaves as it is; nothing where it has the machine for itself.
    pub leaves: Leaves,
}

/// What an agent was not started to manage: it refuses whatever would change that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaves {
    /// Links, addresses, routes, resolvers.
    pub network: bool,
    /// Partitions, filesystems, mounts, wiping.
    pub storage: bool,
    /// Reboot and power off.
    pub power: bool,
}

impl Leaves {
    /// The areas, in the words of `--manage`.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let Self { network, storage, power } = self;
        let all = [(network, "network"), (storage, "storage"), (power, "power")];
        all.into_iter().filter_map(|(is_left, word)| is_left.then_some(word))
    }
}
