//! What this machine is made of, out of /proc, /sys and SMBIOS.
//!
//! Called by the glue of the real machine. Reads only, never fails: what cannot be read is empty.
//! The same hardware in the same state gives the same value every time, because its digest decides whether it is sent.

pub mod bmc;
mod cpu;
mod links;
mod nics;
pub mod smbios;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use muster_protocol::DiskId;
use muster_protocol::enroll::{IDENTITY_DISKS, Identity, Tpm, shows};
use muster_protocol::inventory::{Attachment, Bmc, Disk, FirmwareKind, Inventory, Memory, Software};

use self::nics::Links;
use crate::linux::storage::disks;
use crate::linux::sysfs;
use smbios::Tables;

/// Everything that this machine's kernel and firmware tell now.
pub fn read() -> Inventory {
    gather(Path::new("/"), &links())
}

/// What this machine can say of itself before any driver but its NIC's is loaded, but for its TPM.
pub fn identity() -> Identity {
    identify(Path::new("/"), &links())
}

fn links() -> Links {
    // Without netlink, sysfs still tells which NICs there are.
    Links::read().unwrap_or_default()
}

fn gather(root: &Path, links: &Links) -> Inventory {
    let Tables { system, mut firmware, dimms, has_bmc } = tables(root);
    if root.join("sys/firmware/efi").exists() {
        firmware.kind = FirmwareKind::Uefi;
    }
    let asked = bmc::read(&root.join("dev/ipmi0"));
    Inventory {
        system,
        firmware,
        cpu: cpu::cpu(root),
        memory: Memory { total_bytes: sysfs::memory(root, "MemTotal:"), dimms },
        disks: disks::list(root),
        arrays: disks::arrays(root),
        nics: nics::nics(root, links),
        links: links::links(links),
        // Only whoever speaks with a controller knows.
        home: None,
        bmc: asked.or_else(|| has_bmc.then(Bmc::default)),
        software: Software {
            kernel: sysfs::text(root.join("proc/sys/kernel/osrelease")).unwrap_or_default(),
            agent: env!("CARGO_PKG_VERSION").into(),
            // Only the agent knows what it was told to leave.
            ..Software::default()
        },
    }
}

fn identify(root: &Path, links: &Links) -> Identity {
    let Tables { system, .. } = tables(root);
    Identity {
        uuid: system.uuid,
        system_serial: told(&system.serial),
        board_serial: told(&system.board_serial),
        macs: nics::permanent_macs(&nics::nics(root, links)),
        disks: fixed(&disks::list(root)),
        tpm: Tpm::Absent,
    }
}

/// A serial number as a controller takes it: firmware may hold anything, and that must not keep its machine out.
fn told(serial: &str) -> String {
    serial.chars().map(|c| if shows(c) { c } else { '?' }).collect()
}

/// The names of the disks that stay in the machine, as many as an identity has room for.
fn fixed(disks: &[Disk]) -> Vec<DiskId> {
    let fixed = disks.iter().filter(|disk| disk.attachment == Attachment::Fixed);
    fixed.filter_map(Disk::id).take(IDENTITY_DISKS).collect()
}

fn tables(root: &Path) -> Tables {
    let file = |name: &str| fs::read(root.join("sys/firmware/dmi/tables").join(name)).unwrap_or_default();
    smbios::decode(&file("smbios_entry_point"), &file("DMI"))
}
