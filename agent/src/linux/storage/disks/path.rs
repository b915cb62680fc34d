//! The lasting name of the slot that a disk is in, as systemd's `path_id` makes it for `/dev/disk/by-path`.
//!
//! Called by `Disks` when it observes. Reads sysfs only: the folder of a device lies in that of the bus that leads to it,
//! and each one that has a lasting address adds its part in front.
//! Buses that Muster's image has no driver for are left out; a disk behind one has no such name.

use std::path::{Path, PathBuf};

use crate::linux::sysfs;

/// What leads to a disk.
#[derive(Default)]
struct Way {
    /// From the root down, joined by `-`.
    name: String,
    /// Whether something with an address of its own holds it.
    has_parent: bool,
    /// Whether the way from there to the disk says which one it is.
    is_told_apart: bool,
}

impl Way {
    fn prepend(&mut self, part: &str) {
        self.name = if self.name.is_empty() { part.to_owned() } else { format!("{part}-{}", self.name) };
    }
}

/// The name for the disk whose folder in /sys/block this is: `pci-0000:00:1f.2-ata-1.0`, `pci-0000:03:00.0-nvme-1`.
/// `None` where nothing on the way to it has a lasting address.
pub(super) fn by_path(disk: &Path) -> Option<String> {
    let disk = sysfs::resolved(disk)?;
    let mut way = Way::default();
    let mut at = Some(disk.parent()?.to_owned());
    while let Some(folder) = at {
        at = step(&disk, &folder, &mut way).parent().map(Path::to_owned);
    }
    (way.has_parent && way.is_told_apart).then_some(way.name)
}

/// Adds what the device in this folder has to say, and answers the topmost folder that is said with it.
fn step(disk: &Path, folder: &Path, way: &mut Way) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match sysfs::link_name(folder.join("subsystem")).as_deref() {
        Some("scsi") => {
            way.is_told_apart = true;
            scsi(folder, &name, way).unwrap_or_else(|| folder.to_owned())
        }
        Some("usb") => {
            if let Some((_, port)) = name.split_once('-') {
                way.prepend(&format!("usb-0:{port}"));
                way.is_told_apart = true;
            }
            topmost(folder, "usb")
        }
        Some(subsystem @ ("pci" | "platform")) => {
            way.prepend(&format!("{subsystem}-{name}"));
            way.has_parent = true;
            way.is_told_apart |= subsystem == "platform";
            topmost(folder, subsystem)
        }
        Some("virtio") => {
            way.is_told_apart = true;
            topmost(folder, "virtio")
        }
        // A host has one slot.
        Some("mmc_host") => {
            way.is_told_apart = true;
            folder.to_owned()
        }
        Some(subsystem @ ("nvme" | "nvme-subsystem")) => {
            if let Some(namespace) = sysfs::text(disk.join("nsid")) {
                way.prepend(&format!("nvme-{namespace}"));
                way.is_told_apart = true;
            }
            // A drive that could have several ways is no controller's in sysfs, but has one where there is one way.
            let controllers = || sysfs::names(folder).into_iter().filter(|name| is_controller(name));
            match (subsystem, controllers().next(), controllers().nth(1)) {
                ("nvme-subsystem", Some(only), None) => {
                    sysfs::resolved(folder.join(only)).unwrap_or_else(|| folder.to_owned())
                }
                _ => topmost(folder, subsystem),
            }
        }
        _ => folder.to_owned(),
    }
}

/// The topmost folder of those that follow upwards in the same subsystem.
fn topmost(folder: &Path, subsystem: &str) -> PathBuf {
    let is_of = |folder: &&Path| sysfs::link_name(folder.join("subsystem")).as_deref() == Some(subsystem);
    folder.ancestors().take_while(is_of).last().unwrap_or(folder).to_owned()
}

fn is_controller(name: &str) -> bool {
    name.strip_prefix("nvme").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// A SCSI device: host, bus, target and unit, or what its transport knows it by. Answers the host's folder.
fn scsi(folder: &Path, name: &str, way: &mut Way) -> Option<PathBuf> {
    let mut numbers = name.split(':').map(str::parse::<u32>);
    let mut next = || numbers.next()?.ok();
    let (host_number, bus, target, unit) = (next()?, next()?, next()?, next()?);
    let above = |kind: &str| {
        let is_kind = |folder: &&Path| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
        };
        folder.ancestors().find(is_kind)
    };
    let host = above("host")?.to_owned();
    let holder = host.parent()?;
    let lun = if unit < 256 { format!("lun-{unit}") } else { format!("lun-0x{unit:04x}000000000000") };
    if let Some(end) = above("end_device") {
        let says =
            |folder: &Path, kind: &str, what: &str| sysfs::text(folder.join(kind).join(folder.file_name()?).join(what));
        let port = end.parent()?;
        let address = says(end, "sas_device", "sas_address")?;
        if says(port, "sas_port", "num_phys")? != "1" {
            way.prepend(&format!("sas-{address}-{lun}"));
        } else {
            let phy = says(end, "sas_device", "phy_identifier")?;
            match says(port.parent()?, "sas_device", "sas_address") {
                Some(expander) => way.prepend(&format!("sas-exp{expander}-phy{phy}-{lun}")),
                None => way.prepend(&format!("sas-phy{phy}-{lun}")),
            }
        }
    } else if let Some(remote) = above("rport") {
        let port = remote.join("fc_remote_ports").join(remote.file_name()?).join("port_name");
        way.prepend(&format!("fc-{}-{lun}", sysfs::text(port)?));
    } else if let Some(ata) = holder.file_name().filter(|name| name.to_string_lossy().starts_with("ata")) {
        let port = sysfs::text(holder.join("ata_port").join(ata).join("port_no"))?;
        // Behind a port multiplier the bus tells disks apart, elsewhere the target: master and slave.
        let which = if bus == 0 { format!("{target}") } else { format!("{bus}.0") };
        way.prepend(&format!("ata-{port}.{which}"));
    } else {
        // Numbers of hosts are the machine's; counted from the first of this adapter they last.
        let hosts = sysfs::names(holder);
        let hosts = hosts.iter().filter_map(|name| name.strip_prefix("host")?.parse::<u32>().ok());
        let first = hosts.min().unwrap_or(host_number);
        way.prepend(&format!("scsi-{}:{bus}:{target}:{unit}", host_number.saturating_sub(first)));
    }
    Some(host)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree of devices; each entry is a folder and its subsystem, or a file and what is in it.
    fn tree(folders: &[(&str, &str)], files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (folder, subsystem) in folders {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).expect("made");
            symlink(format!("/sys/bus/{subsystem}"), folder.join("subsystem")).expect("linked");
        }
        for (file, text) in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, text).expect("written");
        }
        root
    }

    fn named(folders: &[(&str, &str)], files: &[(&str, &str)]) -> Option<String> {
        let root = tree(folders, files);
        let (disk, _) = folders.last().expect("the disk comes last");
        by_path(&root.path().join(disk))
    }

    #[test]
    fn every_kind_of_disk_is_named_as_path_id_names_it() {
        let sata = "pci0000:00/0000:00:1f.2/ata3";
        let scsi = "pci0000:00/0000:00:05.0/virtio2/host4";
        let usb = "pci0000:00/0000:00:14.0/usb2/2-1/2-1.4";
        assert_eq!(
            named(
                &[
                    ("pci0000:00/0000:00:1f.2", "pci"),
                    (&format!("{sata}/host2"), "scsi"),
                    (&format!("{sata}/host2/target2:0:0"), "scsi"),
                    (&format!("{sata}/host2/target2:0:0/2:0:0:0"), "scsi"),
                    (&format!("{sata}/host2/target2:0:0/2:0:0:0/block/sda"), "block"),
                ],
                &[(&format!("{sata}/ata_port/ata3/port_no"), "1\n")],
            )
            .as_deref(),
            Some("pci-0000:00:1f.2-ata-1.0")
        );
        assert_eq!(
            named(
                &[
                    ("pci0000:00/0000:00:01.1", "pci"),
                    ("pci0000:00/0000:00:01.1/0000:03:00.0", "pci"),
                    ("pci0000:00/0000:00:01.1/0000:03:00.0/nvme/nvme0", "nvme"),
                    ("pci0000:00/0000:00:01.1/0000:03:00.0/nvme/nvme0/nvme0n1", "block"),
                ],
                &[("pci0000:00/0000:00:01.1/0000:03:00.0/nvme/nvme0/nvme0n1/nsid", "1\n")],
            )
            .as_deref(),
            Some("pci-0000:03:00.0-nvme-1"),
            "bridges on the way are not part of it"
        );
        assert_eq!(
            named(
                &[
                    ("pci0000:00/0000:00:05.0", "pci"),
                    ("pci0000:00/0000:00:05.0/virtio2", "virtio"),
                    ("pci0000:00/0000:00:05.0/virtio2/host3", "scsi"),
                    (&format!("{scsi}/target4:0:2"), "scsi"),
                    (&format!("{scsi}/target4:0:2/4:0:2:1"), "scsi"),
                    (&format!("{scsi}/target4:0:2/4:0:2:1/block/sdb"), "block"),
                ],
                &[],
            )
            .as_deref(),
            Some("pci-0000:00:05.0-scsi-1:0:2:1"),
            "the second host of the adapter"
        );
        assert_eq!(
            named(
                &[
                    ("pci0000:00/0000:00:14.0", "pci"),
                    ("pci0000:00/0000:00:14.0/usb2", "usb"),
                    ("pci0000:00/0000:00:14.0/usb2/2-1", "usb"),
                    (usb, "usb"),
                    (&format!("{usb}/2-1.4:1.0"), "usb"),
                    (&format!("{usb}/2-1.4:1.0/host6"), "scsi"),
                    (&format!("{usb}/2-1.4:1.0/host6/target6:0:0/6:0:0:0"), "scsi"),
                    (&format!("{usb}/2-1.4:1.0/host6/target6:0:0/6:0:0:0/block/sdc"), "block"),
                ],
                &[],
            )
            .as_deref(),
            Some("pci-0000:00:14.0-usb-0:1.4:1.0-scsi-0:0:0:0")
        );
        assert_eq!(
            named(
                &[
                    ("pci0000:00/0000:00:04.0", "pci"),
                    ("pci0000:00/0000:00:04.0/virtio1", "virtio"),
                    ("pci0000:00/0000:00:04.0/virtio1/block/vda", "block"),
                ],
                &[],
            )
            .as_deref(),
            Some("pci-0000:00:04.0")
        );
        assert_eq!(
            named(
                &[
                    ("platform/fe330000.mmc", "platform"),
                    ("platform/fe330000.mmc/mmc_host/mmc0", "mmc_host"),
                    ("platform/fe330000.mmc/mmc_host/mmc0/mmc0:0001", "mmc"),
                    ("platform/fe330000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "block"),
                ],
                &[],
            )
            .as_deref(),
            Some("platform-fe330000.mmc")
        );
    }

    #[test]
    fn disks_of_sas_go_by_their_phy_or_by_their_address() {
        let hba = "pci0000:00/0000:02:00.0/host0";
        let end = format!("{hba}/port-0:1/end_device-0:1");
        let device = format!("{end}/target0:0:1/0:0:1:0");
        let folders = [("pci0000:00/0000:02:00.0", "pci"), (hba, "scsi"), (&*device, "scsi")];
        let block = format!("{device}/block/sda");
        let disk = |files: &[(&str, &str)]| named(&[folders.as_slice(), &[(&block, "block")]].concat(), files);
        let address = format!("{end}/sas_device/end_device-0:1/sas_address");
        let phy = format!("{end}/sas_device/end_device-0:1/phy_identifier");
        let phys = format!("{hba}/port-0:1/sas_port/port-0:1/num_phys");
        let one = disk(&[(&address, "0x5000c50012345679\n"), (&phy, "3\n"), (&phys, "1\n")]);
        assert_eq!(one.as_deref(), Some("pci-0000:02:00.0-sas-phy3-lun-0"));
        let wide = disk(&[(&address, "0x5000c50012345679\n"), (&phy, "3\n"), (&phys, "2\n")]);
        assert_eq!(wide.as_deref(), Some("pci-0000:02:00.0-sas-0x5000c50012345679-lun-0"));
    }

    #[test]
    fn a_drive_of_several_ways_goes_by_the_only_one_there_is() {
        let disk = "virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
        let folders = [
            ("pci0000:00/0000:00:06.0", "pci"),
            ("pci0000:00/0000:00:06.0/nvme/nvme0", "nvme"),
            ("virtual/nvme-subsystem/nvme-subsys0", "nvme-subsystem"),
            (disk, "block"),
        ];
        let root = tree(&folders, &[(&format!("{disk}/nsid"), "2\n")]);
        let controller = root.path().join("pci0000:00/0000:00:06.0/nvme/nvme0");
        let subsystem = root.path().join("virtual/nvme-subsystem/nvme-subsys0");
        symlink(&controller, subsystem.join("nvme0")).expect("linked");
        assert_eq!(by_path(&root.path().join(disk)).as_deref(), Some("pci-0000:00:06.0-nvme-2"));
        symlink(&controller, subsystem.join("nvme1")).expect("linked");
        assert_eq!(by_path(&root.path().join(disk)), None);
    }

    #[test]
    fn a_disk_without_hardware_below_it_is_in_no_slot() {
        assert_eq!(named(&[("virtual/block/loop0", "block")], &[]), None);
        assert_eq!(named(&[("pci0000:00/0000:00:04.0", "pci"), ("pci0000:00/0000:00:04.0/x/y", "block")], &[]), None);
    }
}
