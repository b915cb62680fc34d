//! Names of disks and partitions in documents.
//!
//! Called by [`super::storage`]. A disk is named by what is printed on it, its WWN or serial, or by the slot that it is in;
//! a name that depends on the order in which the kernel found things (`/dev/sda`) is refused, with the remedy.
//!
//! | form | meaning |
//! | --- | --- |
//! | `wwn:0x5000c500a1b2c3d4`, `serial:WD-WX12345` | as Muster itself prints it |
//! | `/dev/disk/by-id/wwn-0x…`, `nvme-eui.…`, `nvme-nvme.…`, `scsi-3…`, `scsi-2…` | a WWN |
//! | `/dev/disk/by-id/ata-MODEL_SERIAL`, `nvme-MODEL_SERIAL`, `scsi-SVENDOR_MODEL_SERIAL`, `scsi-1ATA_MODEL_SERIAL`, `virtio-SERIAL` | a serial |
//! | `/dev/disk/by-path/pci-0000:00:1f.2-ata-1.0` | whichever disk is in this slot |
//! | any of them with `-part3` | a partition, for filesystems |
//! | `/dev/disk/by-partlabel/LABEL` | a partition of the same document |
//! | `/dev/md/NAME`, `/dev/mapper/NAME`, `/dev/GROUP/VOLUME` | an array, LUKS device or logical volume of the same document |
//!
//! The links in `/dev/disk/by-id` are named by systemd's `60-persistent-storage.rules`, whose `ID_SERIAL` is
//! `MODEL_SERIAL` with blanks written as `_`; a model may hold `_` itself, so the serial is what follows the last one.

use muster_protocol::DiskId;
use muster_protocol::desired::{ARRAYS, DiskSelect, OPENED};

/// What a `device:` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Device {
    /// A whole disk.
    Disk(DiskSelect),
    /// A partition of a disk.
    Partition(DiskSelect, u32),
    /// A partition by its GPT label.
    Label(String),
    /// An array by its name.
    Array(String),
    /// A LUKS device by its name.
    Mapped(String),
    /// A logical volume by its group's name and its own.
    Volume(String, String),
}

/// Where udev names partitions by their labels.
pub(super) const LABELS: &str = "/dev/disk/by-partlabel/";
/// Where udev names disks by their slots.
pub(super) const SLOTS: &str = "/dev/disk/by-path/";
const REMEDY: &str = "name the disk by its WWN or serial, such as wwn:0x5000c500a1b2c3d4, serial:WD-WX12345 or \
                      /dev/disk/by-id/wwn-…; `muster machine show` lists them";

/// Reads a `device:`.
///
/// Errors: why it does not say which disk is meant, and what would.
pub(super) fn read(text: &str) -> Result<Device, String> {
    if let Some(label) = text.strip_prefix(LABELS) {
        return Ok(Device::Label(unescape(label)));
    }
    if let Some(name) = text.strip_prefix(ARRAYS) {
        return Ok(Device::Array(name.to_owned()));
    }
    if let Some(name) = text.strip_prefix(OPENED) {
        return Ok(Device::Mapped(name.to_owned()));
    }
    if let Some((group, volume)) = text.strip_prefix("/dev/").and_then(|name| name.split_once('/'))
        && group != "disk"
        && !volume.contains('/')
    {
        return Ok(Device::Volume(group.to_owned(), volume.to_owned()));
    }
    let (whole, partition) = match text.rsplit_once("-part") {
        Some((whole, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
            (whole, Some(number.parse().map_err(|_| format!("there is no partition {number}"))?))
        }
        _ => (text, None),
    };
    let disk = match whole.strip_prefix("/dev/disk/by-id/") {
        Some(name) => DiskSelect::Id(by_id(name)?),
        None if let Some(name) = whole.strip_prefix(SLOTS) => DiskSelect::Path(slot(name)),
        None if whole.starts_with("/dev/") => {
            return Err(format!("{text:?} may be another disk after the next boot; {REMEDY}"));
        }
        None => DiskSelect::Id(whole.parse().map_err(|_| format!("{text:?} names no disk; {REMEDY}"))?),
    };
    Ok(match partition {
        None => Device::Disk(disk),
        Some(number) => Device::Partition(disk, number),
    })
}

/// The spelling of today: older systems wrote `virtio-pci-…` for `pci-…`.
fn slot(name: &str) -> String {
    name.strip_prefix("virtio-").unwrap_or(name).to_owned()
}

fn by_id(name: &str) -> Result<DiskId, String> {
    let unclear = || format!("\"/dev/disk/by-id/{name}\" does not say for sure which disk is meant; {REMEDY}");
    let (bus, rest) = name.split_once('-').ok_or_else(unclear)?;
    let id = match bus {
        "wwn" if rest.starts_with("0x") => format!("wwn:{rest}"),
        "nvme" if rest.starts_with("eui.") || rest.starts_with("nvme.") => format!("wwn:{rest}"),
        // Designators of SCSI's page 0x83: type 3 is NAA, type 2 is EUI-64.
        "scsi" if is_hex(rest) && rest.starts_with('3') => format!("wwn:0x{}", &rest[1..]),
        "scsi" if is_hex(rest) && rest.starts_with('2') => format!("wwn:eui.{}", &rest[1..]),
        "scsi" if rest.starts_with('S') || rest.starts_with("1ATA_") => {
            format!("serial:{}", last_part(rest).ok_or_else(unclear)?)
        }
        "ata" => format!("serial:{}", last_part(rest).ok_or_else(unclear)?),
        "nvme" => format!("serial:{}", last_part(without_namespace(rest)).ok_or_else(unclear)?),
        "virtio" => format!("serial:{rest}"),
        _ => return Err(unclear()),
    };
    id.parse().map_err(|_| unclear())
}

fn is_hex(text: &str) -> bool {
    text.len() > 8 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What follows the last `_`; `None` where that is too short to be a serial, and so rather the end of one with blanks.
fn last_part(text: &str) -> Option<&str> {
    text.trim_end_matches('_').rsplit_once('_').map(|(_, serial)| serial).filter(|serial| serial.len() >= 4)
}

/// Newer systemd adds the namespace: `nvme-MODEL_SERIAL_1`.
fn without_namespace(text: &str) -> &str {
    match text.rsplit_once('_') {
        Some((name, namespace)) if namespace.len() <= 3 && namespace.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => text,
    }
}

/// udev writes what may not stand in a file name as `\x20`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.strip_prefix(b"x").and_then(|after| after.get(..2));
        let byte = digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        match byte {
            Some(byte) if first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(text: &str) -> Result<String, String> {
        let name = |select| match select {
            DiskSelect::Id(id) => id.to_string(),
            DiskSelect::Path(path) => format!("slot {path}"),
            DiskSelect::Rule(rule) => panic!("{rule:?}"),
        };
        match read(text)? {
            Device::Disk(select) => Ok(name(select)),
            Device::Partition(select, number) => Ok(format!("{}/{number}", name(select))),
            Device::Label(label) => Ok(format!("label {label}")),
            Device::Array(name) => Ok(format!("array {name}")),
            Device::Mapped(name) => Ok(format!("mapped {name}")),
            Device::Volume(group, volume) => Ok(format!("volume {volume} of {group}")),
        }
    }

    #[test]
    fn reads_every_form_that_says_which_disk_it_is() {
        for (text, id) in [
            ("serial:WD-WX12345", "serial:WD-WX12345"),
            ("wwn:naa.5000C500A1B2C3D4", "wwn:0x5000c500a1b2c3d4"),
            ("/dev/disk/by-id/wwn-0x5000c500a1b2c3d4", "wwn:0x5000c500a1b2c3d4"),
            ("/dev/disk/by-id/wwn-0x5000c500a1b2c3d4-part2", "wwn:0x5000c500a1b2c3d4/2"),
            ("/dev/disk/by-id/nvme-eui.0025388b01c8b0a2", "wwn:eui.0025388b01c8b0a2"),
            ("/dev/disk/by-id/nvme-nvme.1b36-6d75-51454d55-00000001", "wwn:nvme.1b36-6d75-51454d55-00000001"),
            ("/dev/disk/by-id/nvme-Samsung_SSD_980_PRO_1TB_S5GXNX0T123456", "serial:S5GXNX0T123456"),
            ("/dev/disk/by-id/nvme-Samsung_SSD_980_PRO_1TB_S5GXNX0T123456_1", "serial:S5GXNX0T123456"),
            ("/dev/disk/by-id/ata-WDC_WD40EFRX-68N32N0_WD-WCC7K0123456", "serial:WD-WCC7K0123456"),
            ("/dev/disk/by-id/scsi-35000c500a1b2c3d4", "wwn:0x5000c500a1b2c3d4"),
            ("/dev/disk/by-id/scsi-SSEAGATE_ST4000NM0023_Z1Z0ABCD", "serial:Z1Z0ABCD"),
            ("/dev/disk/by-id/virtio-MUSTER-DISK-1", "serial:MUSTER-DISK-1"),
            ("/dev/disk/by-partlabel/data", "label data"),
            (r"/dev/disk/by-partlabel/my\x20data", "label my data"),
            ("serial:A-part3", "serial:A/3"),
            ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1.0", "slot pci-0000:00:1f.2-ata-1.0"),
            ("/dev/disk/by-path/pci-0000:03:00.0-nvme-1-part2", "slot pci-0000:03:00.0-nvme-1/2"),
            ("/dev/disk/by-path/virtio-pci-0000:00:04.0", "slot pci-0000:00:04.0"),
            ("/dev/md/data", "array data"),
            ("/dev/mapper/vault", "mapped vault"),
            ("/dev/vg0/home", "volume home of vg0"),
        ] {
            assert_eq!(disk(text).as_deref(), Ok(id), "{text}");
        }
    }

    #[test]
    fn refuses_what_may_be_another_disk_tomorrow() {
        for text in [
            "/dev/sda",
            "/dev/sda1",
            "/dev/nvme0n1",
            "/dev/disk/by-id/dm-name-root",
            "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_drive-scsi0",
            "/dev/disk/by-id/ata-QEMU_HARDDISK_1",
            "/dev/disk/by-id/ata-NOSERIAL",
            "/dev/disk/by-id/",
            "/dev/disk/by-id/wwn",
            "sda",
            "",
            "serial:",
            "wwn:0x1-part99999999999",
        ] {
            assert!(disk(text).is_err(), "{text}: {:?}", disk(text));
        }
    }
}
