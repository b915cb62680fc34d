//! The whole disks that /sys/block shows, and how they are named on their labels.
//!
//! Called by `inventory` and by `Disks`. Opens no disk.

use std::path::Path;

use muster_protocol::bounded::DISKS;
use muster_protocol::inventory::{Attachment, Disk, Medium, Transport};

use crate::linux::sysfs;
use crate::linux::text::{clean, clean_bytes};

/// What is no disk of the machine although it has a `device`: optical and floppy drives.
const NOT_DISKS: [&str; 2] = ["sr", "fd"];

/// Whole disks with a medium in them, in natural order of their names. `root` is `/`, or a test's.
pub fn list(root: &Path) -> Vec<Disk> {
    let block = root.join("sys/block");
    let names = sysfs::names(&block);
    names.iter().filter_map(|name| disk(name, &block.join(name))).take(DISKS).collect()
}

fn disk(name: &str, path: &Path) -> Option<Disk> {
    let device = path.join("device");
    // Loop, RAM, zram, device mapper, md and nbd have no hardware below; the paths of an NVMe multipath are hidden;
    // an eMMC's boot areas are listed as disks of their own with the same serial.
    let real = device.exists()
        && !NOT_DISKS.iter().any(|kind| is_kind(name, kind))
        && sysfs::number::<u8>(path.join("hidden")) != Some(1)
        && !(name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb")));
    // Sysfs counts in 512 bytes whatever the disk's sectors are.
    let size_bytes = sysfs::number::<u64>(path.join("size"))?.saturating_mul(512);
    if !real || size_bytes == 0 {
        return None;
    }
    let logical_sector = sysfs::number(path.join("queue/logical_block_size")).unwrap_or(512);
    let transport = transport(name, &device);
    Some(Disk {
        name: clean(name),
        size_bytes,
        logical_sector,
        physical_sector: sysfs::number(path.join("queue/physical_block_size")).unwrap_or(logical_sector),
        medium: match sysfs::number::<u8>(path.join("queue/rotational")) {
            Some(1) => Medium::Rotational,
            _ => Medium::SolidState,
        },
        // `removable` says whether the medium leaves its drive; a USB disk leaves as a whole where it does not.
        attachment: match (transport, sysfs::number::<u8>(path.join("removable"))) {
            (_, Some(1)) => Attachment::Removable,
            // A bridge of which the kernel does not say what it has may have a card.
            (Transport::Usb, None) => Attachment::Removable,
            (Transport::Usb, Some(_)) => Attachment::External,
            _ => Attachment::Fixed,
        },
        transport,
        model: model(&device),
        serial: serial(path, &device, transport),
        wwn: wwn(path, &device),
    })
}

fn is_kind(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// By the path of devices that leads to the disk: the nearest bus that has a name wins.
fn transport(name: &str, device: &Path) -> Transport {
    if name.starts_with("nvme") {
        return Transport::Nvme;
    }
    if name.starts_with("mmcblk") {
        return Transport::Mmc;
    }
    let path = sysfs::resolved(device).unwrap_or_default();
    let parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let any = |kind: &str| parts.iter().any(|part| is_kind(part, kind));
    if any("usb") {
        Transport::Usb
    } else if any("ata") {
        Transport::Ata
    } else if any("host") {
        Transport::Scsi
    } else if any("virtio") {
        Transport::Virtio
    } else {
        Transport::Unknown
    }
}

/// SCSI's own model field is cut to 16 bytes; ATA disks say the whole of it on the VPD page that SATL made of
/// their IDENTIFY DEVICE data (T10 SAT, page 89h: the data begins at byte 60, the model is its words 27 to 46).
fn model(device: &Path) -> String {
    let identify = || {
        let page = std::fs::read(device.join("vpd_pg89")).ok()?;
        let words = page.get(60 + 2 * 27..60 + 2 * 47)?;
        let swapped: Vec<u8> = words.chunks_exact(2).flat_map(|word| [word[1], word[0]]).collect();
        Some(clean_bytes(&swapped)).filter(|model| !model.is_empty())
    };
    identify()
        .or_else(|| sysfs::text(device.join("model")))
        .or_else(|| sysfs::text(device.join("name")))
        .unwrap_or_default()
}

fn serial(disk: &Path, device: &Path, transport: Transport) -> Option<String> {
    // T10 SPC, page 80h: four bytes of header, then the serial.
    let vpd = || {
        let page = std::fs::read(device.join("vpd_pg80")).ok()?;
        let len = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
        Some(clean_bytes(page.get(4..)?.get(..len)?)).filter(|serial| !serial.is_empty())
    };
    let usb = || {
        let path = sysfs::resolved(device).filter(|_| transport == Transport::Usb)?;
        let bridge = path.ancestors().find(|above| above.join("idVendor").exists())?;
        sysfs::text(bridge.join("serial"))
    };
    let found = sysfs::text(disk.join("serial")).or_else(vpd).or_else(|| sysfs::text(device.join("serial")));
    let is_none = |serial: &String| is_junk(serial) || transport == Transport::Usb && counts_up(serial);
    found.or_else(usb).filter(|serial| !is_none(serial))
}

/// `naa.…` and `eui.…`, which are registered; `t10.…` and `nvme.…` are the kernel's makeshifts out of model and serial.
fn wwn(disk: &Path, device: &Path) -> Option<String> {
    let wwid = sysfs::text(disk.join("wwid")).or_else(|| sysfs::text(device.join("wwid")))?;
    let registered = ["naa.", "eui.", "uuid."].iter().find_map(|kind| wwid.strip_prefix(kind))?;
    (!is_junk(registered)).then_some(wwid)
}

/// Zeros alone, or F alone, name nothing.
fn is_junk(id: &str) -> bool {
    ['0', 'f', 'F', ' ', '-'].iter().any(|junk| id.chars().all(|c| c == *junk))
}

/// What makers of bridges leave where their customers should put a number.
fn counts_up(serial: &str) -> bool {
    let counts = |text: &str| text.contains(&serial.to_ascii_uppercase());
    serial.len() >= 8 && (counts("0123456789ABCDEF0123456789ABCDEF") || counts("01234567890123456789"))
}
