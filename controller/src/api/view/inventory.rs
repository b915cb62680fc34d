//! What a machine is made of.

use muster_protocol::inventory::{
    Carrier, Cpu, Dimm, Disk, Firmware, FirmwareKind, Home, Inventory, Link, LinkKind, Medium, Memory, Nic, System,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::observed::ArrayView;
use super::uuid;
use crate::fleet::lease::primary;
use crate::fleet::record::MachineInventory;

/// Everything, as the machine last said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Inventory)]
pub struct InventoryView {
    /// The box.
    pub system: SystemView,
    /// What started it.
    pub firmware: FirmwareView,
    /// Processors.
    pub cpu: CpuView,
    /// Memory.
    pub memory: MemoryView,
    /// Whole disks.
    pub disks: Vec<DiskView>,
    /// Arrays of Linux md that run.
    pub arrays: Vec<ArrayView>,
    /// Physical network interfaces.
    pub nics: Vec<NicView>,
    /// VLANs, bonds and bridges.
    pub links: Vec<LinkView>,
    /// By what the controller is reached; absent where no link of the machine's leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<HomeView>,
    /// Name of the primary NIC: the one that carries the session, whatever stands on it. Templates and leases mean it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// `uname -r`.
    pub kernel: String,
    /// The agent's version.
    pub agent: String,
    /// What the agent was not started to manage, of `network`, `storage` and `power`: it refuses to change that, and the
    /// machine is nobody's to lease. Absent where it manages all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<String>,
    /// Its BMC, as it looks from inside; absent where there is none, or none that is told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<SeenBmcView>,
}

/// A BMC as it looks from inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = SeenBmc)]
pub struct SeenBmcView {
    /// Where it can be reached, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// MAC of its own NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// The box; texts are empty where the firmware says nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = System)]
pub struct SystemView {
    /// Manufacturer.
    pub vendor: String,
    /// Product name.
    pub product: String,
    /// Serial number.
    pub serial: String,
    /// Serial number of the board.
    pub board_serial: String,
    /// SMBIOS UUID.
    pub uuid: Option<String>,
}

/// What started the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Firmware)]
pub struct FirmwareView {
    /// `bios` or `uefi`.
    pub kind: String,
    /// Vendor.
    pub vendor: String,
    /// Version.
    pub version: String,
    /// As the firmware writes it.
    pub date: String,
}

/// Processors, all together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Cpu)]
pub struct CpuView {
    /// Model of the first one.
    pub model: String,
    /// Packages.
    pub sockets: u16,
    /// Over all sockets.
    pub cores: u16,
    /// Over all cores.
    pub threads: u16,
    /// Those that matter: `vmx`, `aes`, `avx2`, ….
    pub flags: Vec<String>,
}

/// Memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Memory)]
pub struct MemoryView {
    /// What the kernel can use.
    pub total_bytes: u64,
    /// Populated slots.
    pub dimms: Vec<DimmView>,
}

/// One memory module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Dimm)]
pub struct DimmView {
    /// As printed on the board.
    pub slot: String,
    /// Size.
    pub size_bytes: u64,
    /// `DDR4`, ….
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Disk)]
pub struct DiskView {
    /// Kernel name in this boot. For people only.
    pub name: String,
    /// What to call it in documents and permits; absent for a disk without WWN and serial.
    pub id: Option<String>,
    /// Size.
    pub size_bytes: u64,
    /// Bytes addressed by one block number.
    pub logical_sector: u32,
    /// Bytes written without a read before.
    pub physical_sector: u32,
    /// Whether it spins.
    pub rotational: bool,
    /// `fixed`: the machine's; `removable`: a stick or a card, which is never written to; `external`: a disk on USB.
    pub attachment: String,
    /// `nvme`, `sata`, `scsi`, `usb`, `virtio`, `mmc` or `unknown`.
    pub transport: String,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: Option<String>,
    /// World wide name as the kernel writes it.
    pub wwn: Option<String>,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Nic)]
pub struct NicView {
    /// Kernel name in this boot.
    pub name: String,
    /// In use.
    pub mac: String,
    /// In the hardware.
    pub permanent_mac: String,
    /// Kernel driver.
    pub driver: String,
    /// Where there is a carrier and the driver knows.
    pub speed_mbps: Option<u32>,
    /// Whether there is a signal on the wire.
    pub carrier: bool,
    /// PCI vendor and device, such as `8086:1533`.
    pub pci: Option<String>,
    /// The bond or bridge that it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_of: Option<String>,
    /// With prefix lengths.
    pub addresses: Vec<String>,
}

/// A link that stands on others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = StackedLink)]
pub struct LinkView {
    /// Kernel name.
    pub name: String,
    /// `vlan`, `bond` or `bridge`.
    pub kind: String,
    /// Tag, for a VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// What it stands on: the link below a VLAN, the ports of a bond or bridge.
    pub on: Vec<String>,
    /// In use.
    pub mac: String,
    /// Whether frames can pass.
    pub carrier: bool,
    /// The bond or bridge that it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_of: Option<String>,
    /// With prefix lengths.
    pub addresses: Vec<String>,
}

/// By what the controller is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Home)]
pub struct HomeView {
    /// The link that carries the session.
    pub link: String,
    /// The NICs beneath it; the link itself where it is one.
    pub nics: Vec<String>,
}

impl From<&MachineInventory> for InventoryView {
    fn from(record: &MachineInventory) -> Self {
        let Inventory { system, firmware, cpu, memory, disks, arrays, nics, links, home, software, bmc } =
            &record.inventory;
        Self {
            system: system.into(),
            firmware: firmware.into(),
            cpu: cpu.into(),
            memory: memory.into(),
            disks: disks.iter().map(Into::into).collect(),
            arrays: arrays.iter().map(Into::into).collect(),
            nics: nics.iter().map(Into::into).collect(),
            links: links.iter().map(|link| link_view(link, &record.inventory)).collect(),
            home: home.as_ref().map(|Home { link, nics }| HomeView { link: link.clone(), nics: nics.clone() }),
            primary: primary::nic(record).ok().map(|nic| nic.name.clone()),
            kernel: software.kernel.clone(),
            agent: software.agent.clone(),
            leaves: software.leaves.words().map(str::to_owned).collect(),
            bmc: bmc.as_ref().map(|bmc| SeenBmcView {
                address: bmc.address.map(|address| address.to_string()),
                mac: bmc.mac.map(|mac| mac.to_string()),
            }),
        }
    }
}

impl From<&System> for SystemView {
    fn from(system: &System) -> Self {
        let System { vendor, product, serial, board_serial, uuid: id } = system.clone();
        Self { vendor, product, serial, board_serial, uuid: id.map(uuid) }
    }
}

impl From<&Firmware> for FirmwareView {
    fn from(firmware: &Firmware) -> Self {
        let Firmware { kind, vendor, version, date } = firmware.clone();
        let kind = match kind {
            FirmwareKind::Bios => "bios",
            FirmwareKind::Uefi => "uefi",
        };
        Self { kind: kind.into(), vendor, version, date }
    }
}

impl From<&Cpu> for CpuView {
    fn from(cpu: &Cpu) -> Self {
        let Cpu { model, sockets, cores, threads, flags } = cpu.clone();
        Self { model, sockets, cores, threads, flags }
    }
}

impl From<&Memory> for MemoryView {
    fn from(memory: &Memory) -> Self {
        let dimm = |dimm: &Dimm| {
            let Dimm { slot, size_bytes, kind, speed_mts, vendor, part, serial } = dimm.clone();
            DimmView { slot, size_bytes, kind, speed_mts, vendor, part, serial }
        };
        Self { total_bytes: memory.total_bytes, dimms: memory.dimms.iter().map(dimm).collect() }
    }
}

impl From<&Disk> for DiskView {
    fn from(disk: &Disk) -> Self {
        Self {
            name: disk.name.clone(),
            id: disk.id().map(|id| id.to_string()),
            size_bytes: disk.size_bytes,
            logical_sector: disk.logical_sector,
            physical_sector: disk.physical_sector,
            rotational: disk.medium == Medium::Rotational,
            attachment: disk.attachment.name().to_owned(),
            transport: disk.transport.name().into(),
            model: disk.model.clone(),
            serial: disk.serial.clone(),
            wwn: disk.wwn.clone(),
        }
    }
}

impl From<&Nic> for NicView {
    fn from(nic: &Nic) -> Self {
        Self {
            name: nic.name.clone(),
            mac: nic.mac.to_string(),
            permanent_mac: nic.permanent_mac.to_string(),
            driver: nic.driver.clone(),
            speed_mbps: nic.speed_mbps,
            carrier: nic.carrier == Carrier::Present,
            pci: nic.pci.map(|pci| format!("{:04x}:{:04x}", pci.vendor, pci.device)),
            port_of: nic.port_of.clone(),
            addresses: nic.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

fn link_view(link: &Link, inventory: &Inventory) -> LinkView {
    let ports = || {
        let nics = inventory.nics.iter().map(|nic| (&nic.name, &nic.port_of));
        let links = inventory.links.iter().map(|link| (&link.name, &link.port_of));
        nics.chain(links).filter(|(_, of)| of.as_ref() == Some(&link.name)).map(|(name, _)| name.clone()).collect()
    };
    let (kind, id, on) = match &link.kind {
        LinkKind::Vlan { tag, parent } => ("vlan", Some(tag.get()), vec![parent.clone()]),
        LinkKind::Bond => ("bond", None, ports()),
        LinkKind::Bridge => ("bridge", None, ports()),
    };
    LinkView {
        name: link.name.clone(),
        kind: kind.into(),
        id,
        on,
        mac: link.mac.to_string(),
        carrier: link.carrier == Carrier::Present,
        port_of: link.port_of.clone(),
        addresses: link.addresses.iter().map(ToString::to_string).collect(),
    }
}
