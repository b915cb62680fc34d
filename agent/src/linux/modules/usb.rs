//! Disks on USB, which come late: a second after their driver has them, or once they have spun up.
//!
//! Called by `hotplug`. Reads /sys only.

use std::path::{Path, PathBuf};

use crate::linux::sysfs;

/// What an interface for disks calls itself (USB-IF, class codes).
const MASS_STORAGE: &str = "08";

/// Whether there is a disk on USB that a driver has and that is no block device yet. `root` is `/`, or a test's.
pub fn is_disk_coming(root: &Path) -> bool {
    let interfaces = inside(&root.join("sys/bus/usb/devices"), "");
    interfaces.iter().any(|interface| is_storage(interface) && !is_looked_at(interface))
}

fn is_storage(interface: &Path) -> bool {
    sysfs::text(interface.join("bInterfaceClass")).as_deref() == Some(MASS_STORAGE) && interface.join("driver").exists()
}

/// The driver makes a host, the host finds units after a while, and a unit that is a disk (T10 SPC, type 0) becomes a block
/// device when it is ready.
fn is_looked_at(interface: &Path) -> bool {
    let mut units = Vec::new();
    for host in inside(interface, "host") {
        for target in inside(&host, "target") {
            units.extend(inside(&target, "").into_iter().filter(|unit| unit.join("type").exists()));
        }
    }
    let is_ready = |unit: &PathBuf| {
        sysfs::text(unit.join("type")).as_deref() != Some("0") || !sysfs::names(unit.join("block")).is_empty()
    };
    !units.is_empty() && units.iter().all(is_ready)
}

fn inside(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let names = sysfs::names(folder);
    names.iter().filter(|name| name.starts_with(kind)).map(|name| folder.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_disk_on_usb_is_coming_from_when_it_has_its_driver_until_it_is_there() {
        let root = tempfile::tempdir().expect("a folder");
        let interface = root.path().join("sys/bus/usb/devices/2-1:1.0");
        let make = |path: &str, text: &str| {
            let path = interface.join(path);
            fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
            fs::write(path, text).expect("written");
        };
        let is_coming = |expected: bool, when: &str| assert_eq!(is_disk_coming(root.path()), expected, "{when}");
        is_coming(false, "there is no USB");
        make("bInterfaceClass", "08\n");
        is_coming(false, "nobody serves it");
        make("driver/module", "");
        is_coming(true, "the driver has it");
        make("host6/scsi_host", "");
        is_coming(true, "its host is there");
        make("host6/target6:0:0/6:0:0:0/type", "0\n");
        is_coming(true, "the host has found it");
        make("host6/target6:0:0/6:0:0:0/block/sdb/size", "0\n");
        is_coming(false, "it is there, medium or not");
        make("host6/target6:0:0/6:0:0:1/type", "5\n");
        is_coming(false, "a CD drive is none");
        make("host6/target6:0:0/6:0:0:2/type", "0\n");
        is_coming(true, "a second disk in the same case");
        make("bInterfaceClass", "03\n");
        is_coming(false, "a keyboard");
    }
}
