//! Loads what the hardware asks for: everything that is there at the start, and what appears later.
//!
//! A thread of its own in PID 1's worker runs [`serve`]. The kernel names every device's driver by a modalias, in
//! /sys/devices and again in the message (uevent) that announces the device.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::{folder, index::Index, load_module, usb};
use crate::machine::{MachineError, chain};

/// Rounds over /sys/devices until nothing new asks: a loaded driver (a PCI bridge, a USB host) brings up further devices.
const ROUNDS: usize = 20;
/// The kernel's own messages; udev's are in group 2.
const KERNEL_GROUP: u32 = 1;

/// Disks appear a moment after their drivers: a second without news, and what was there at the start is there.
const QUIET: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Disks on USB that are on their way are waited for beyond that, for so many such seconds.
const USB_WITHIN: u32 = 15;

/// Whether the first round is over; told to whoever waits in [`settle`].
static SETTLED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Waits until what was there at the start has its drivers, at most so long.
pub fn settle(at_most: Duration) {
    let (settled, told) = &SETTLED;
    let settled = settled.lock().unwrap_or_else(PoisonError::into_inner);
    drop(told.wait_timeout_while(settled, at_most, |settled| !*settled));
}

/// Loads what is asked for, for ever. Returns only where there is nothing to load from, or the kernel tells nothing.
pub fn serve() {
    load_all();
    // Without news there is nothing to wait for.
    set_settled();
}

fn set_settled() {
    *SETTLED.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    SETTLED.1.notify_all();
}

/// Whether the kernel has nothing to tell for [`QUIET`].
fn is_quiet(socket: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(socket, PollFlags::IN)];
    matches!(poll(&mut watched, Some(&QUIET)), Ok(0))
}

fn load_all() {
    // First the ear, then the eyes: what appears in between is heard.
    let socket = match listen() {
        Ok(socket) => Some(socket),
        Err(error) => {
            crate::warn!("devices that appear later will not be noticed: {error}");
            None
        }
    };
    let mut asked = BTreeSet::new();
    coldplug(&mut asked);
    let mut message = vec![0; 16 * 1024];
    let (mut settled, mut quiet) = (false, 0);
    while let Some(socket) = &socket {
        if !settled && is_quiet(socket) {
            quiet += 1;
            if quiet < USB_WITHIN && usb::is_disk_coming(Path::new("/")) {
                continue;
            }
            settled = true;
            set_settled();
        }
        match recv(socket, message.as_mut_slice(), RecvFlags::empty()) {
            Ok((length, _)) => {
                if let Some(modalias) = added(&message[..length])
                    && asked.insert(modalias.to_owned())
                    && let Some(index) = Index::read(&folder())
                {
                    load_for(&index, modalias);
                }
            }
            Err(Errno::INTR) => {}
            // Messages were lost: look at everything again.
            Err(Errno::NOBUFS) => coldplug(&mut asked),
            Err(error) => return crate::warn!("devices are not noticed any more: {error}"),
        }
    }
}

fn listen() -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// The modalias of a device that this message announces.
fn added(message: &[u8]) -> Option<&str> {
    let mut parts = message.split(|&byte| byte == 0);
    // `add@/devices/…`, then KEY=VALUE pairs.
    parts.next().filter(|head| head.starts_with(b"add@"))?;
    parts.find_map(|part| std::str::from_utf8(part.strip_prefix(b"MODALIAS=")?).ok())
}

fn coldplug(asked: &mut BTreeSet<String>) {
    let folder = folder();
    let Some(index) = Index::read(&folder) else {
        return crate::warn!("there are no drivers for this kernel: {} has no modules.dep", folder.display());
    };
    for _ in 0..ROUNDS {
        let mut found = Vec::new();
        collect(Path::new("/sys/devices"), &mut found);
        found.retain(|modalias| !asked.contains(modalias));
        if found.is_empty() {
            return;
        }
        // The way to the controller goes first, and what its drivers bring up (a virtio NIC) before all the rest.
        if found.iter().any(|modalias| is_network(modalias)) {
            found.retain(|modalias| is_network(modalias));
        }
        for modalias in found {
            load_for(&index, &modalias);
            asked.insert(modalias);
        }
    }
}

/// PCI class 02, and virtio's transport and NICs.
fn is_network(modalias: &str) -> bool {
    modalias.starts_with("pci:") && (modalias.contains("bc02") || modalias.starts_with("pci:v00001AF4"))
        || modalias.starts_with("virtio:d00000001")
}

fn collect(folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // Links lead out of the tree or round in it.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        } else if entry.file_name() == "modalias"
            && let Ok(text) = fs::read_to_string(entry.path())
            && !text.trim().is_empty()
        {
            found.push(text.trim().to_owned());
        }
    }
}

fn load_for(index: &Index, modalias: &str) {
    for module in index.wanted_by(modalias) {
        match load_module(index, &module) {
            Ok(()) => {}
            // The driver looked, and the device is not one it can serve.
            Err(MachineError::Os { source, .. }) if source.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
            Err(error) => crate::warn!("{}", chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_announcements_of_new_devices_ask_for_a_driver() {
        let add = b"add@/devices/pci0000:00/0000:00:04.0\0ACTION=add\0MODALIAS=pci:v00008086d000010D3\0SEQNUM=9\0";
        assert_eq!(added(add), Some("pci:v00008086d000010D3"));
        let remove = b"remove@/devices/pci0000:00\0ACTION=remove\0MODALIAS=pci:v00008086d000010D3\0";
        for other in [&remove[..], b"add@/devices/x\0ACTION=add\0", b"", b"\0\0", b"add@/x\0MODALIAS=\xff\0"] {
            assert_eq!(added(other), None);
        }
    }

    #[test]
    fn nics_are_told_from_the_rest() {
        for nic in ["pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00", "virtio:d00000001v00001AF4"] {
            assert!(is_network(nic), "{nic}");
        }
        // A virtio disk's transport cannot be told from a NIC's by its vendor alone, and is quick to load.
        assert!(is_network("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00"));
        for other in ["acpi:PNP0C0A:", "virtio:d00000002v00001AF4", "pci:v00008086d00002922sv0sd0bc01sc06i01"] {
            assert!(!is_network(other), "{other}");
        }
    }
}
