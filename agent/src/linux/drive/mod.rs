//! Drives, asked by their own commands, without tools: how they are. What reads answers is pure.
//!
//! Called by the glue of the real machine. Reads only, never fails: a drive that does not answer tells nothing. One whose
//! disks stand still is not woken.

pub mod ata;
pub mod nvme;
pub mod scsi;
pub mod smart;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use muster_protocol::inventory::health::{Drive, Health, Readings, Said, Verdict};
use muster_protocol::inventory::{Attachment, Disk, Medium, Transport};
use rustix::fs::OFlags;

use crate::linux::storage::disks::Disks;
use crate::linux::sysfs;

/// Once this has gone by, no further drive is asked: whoever waits has others to hear from.
const ROUND: Duration = Duration::from_secs(120);

/// Asks all drives of this machine. Takes milliseconds a drive, and [`ROUND`] and one drive's patience at most.
pub fn health() -> Health {
    let disks = Disks::of_this_machine();
    let begun = Instant::now();
    let mut drives = Vec::new();
    for disk in disks.list() {
        if begun.elapsed() > ROUND {
            crate::warn!("{} and the drives after it were not asked how they are: others took too long", disk.name);
            break;
        }
        if let Some(drive) = ask(&disks, &disk) {
            drives.push(drive);
        }
    }
    Health { drives }
}

fn ask(disks: &Disks, disk: &Disk) -> Option<Drive> {
    let id = disk.id()?;
    let node = disks.node(&disk.name)?;
    let way = way(disk, &node.path)?;
    // Nobody waits for a medium.
    let device = disks.open(&node, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let said = match may_sleep(disk) && is_asleep(way, &device) {
        true => Said::Asleep,
        false => Said::Told(read(way, &device)?),
    };
    Some(Drive { disk: id, name: disk.name.clone(), said })
}

/// Whether a drive takes ATA commands for more than being asked how it is: those behind USB bridges may not arrive whole.
pub fn is_ata(transport: Transport, sys: &Path) -> bool {
    match transport {
        Transport::Ata => true,
        Transport::Scsi => has_ata_page(sys),
        Transport::Nvme | Transport::Usb | Transport::Virtio | Transport::Mmc | Transport::Unknown => false,
    }
}

/// The kernel has seen SAT's page of it: an ATA drive behind a host adapter or a bridge.
fn has_ata_page(sys: &Path) -> bool {
    sys.join("device/vpd_pg89").exists()
}

/// How a drive is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Nvme,
    Ata,
    Scsi,
}

fn way(disk: &Disk, sys: &Path) -> Option<Way> {
    match disk.transport {
        Transport::Nvme => Some(Way::Nvme),
        Transport::Ata => Some(Way::Ata),
        Transport::Scsi | Transport::Usb if has_ata_page(sys) => Some(Way::Ata),
        // Sticks and old bridges may hang at a command that they do not know; those that speak UAS refuse it.
        Transport::Usb => {
            let path = sysfs::resolved(sys.join("device"))?;
            let mut above = path.ancestors().take_while(|at| at.components().count() > 2);
            above.any(|at| sysfs::link_name(at.join("driver")).as_deref() == Some("uas")).then_some(Way::Ata)
        }
        Transport::Scsi if disk.attachment == Attachment::Fixed => Some(Way::Scsi),
        Transport::Scsi | Transport::Virtio | Transport::Mmc | Transport::Unknown => None,
    }
}

fn may_sleep(disk: &Disk) -> bool {
    disk.medium == Medium::Rotational
}

fn is_asleep(way: Way, device: &File) -> bool {
    match way {
        Way::Nvme => false,
        Way::Ata => ata::is_asleep(device),
        Way::Scsi => scsi::is_asleep(device),
    }
}

fn read(way: Way, device: &File) -> Option<Readings> {
    match way {
        Way::Nvme => nvme::read(device).ok(),
        Way::Ata => ata::read(device),
        Way::Scsi => Some(scsi::read(device)).filter(|readings| *readings != Readings::default()),
    }
}
