//! Physical network interfaces: sysfs for what they are, netlink for how they are addressed.
//!
//! Called by `inventory`.

use std::path::Path;

use ipnet::IpNet;
use muster_protocol::Mac;
use muster_protocol::bounded::{NIC_ADDRESSES, NICS};
use muster_protocol::inventory::{Carrier, Nic, PciId};

use crate::linux::network::netlink::address::{self, Address, Uniqueness};
use crate::linux::network::netlink::link::{self, Link};
use crate::linux::network::netlink::{Netlink, NetlinkError};
use crate::linux::sysfs;
use crate::sort;

/// ARPHRD_ETHER: what has MACs of six bytes.
const ETHERNET: u16 = 1;

/// What netlink says of links and addresses, in one look.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
}

impl Links {
    /// Asks this machine's kernel.
    pub(super) fn read() -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let links = netlink.dump(&link::dump(), link::NEW, link::decode)?;
        let addresses = netlink.dump(&address::dump(), address::NEW, address::decode)?;
        Ok(Self { links: links.into_iter().flatten().collect(), addresses: addresses.into_iter().flatten().collect() })
    }

    /// The bond or bridge that a link is a port of, by its name.
    pub(super) fn port_of(&self, link: &Link) -> Option<String> {
        self.name(link.port?.of)
    }

    pub(super) fn name(&self, index: u32) -> Option<String> {
        self.links.iter().find(|link| link.index == index).map(|link| link.name.clone())
    }

    /// At most so many addresses of a link, sorted; without those that are another machine's.
    pub(super) fn addresses_of(&self, link: &Link, most: usize) -> Vec<IpNet> {
        let is_its_own = |address: &&Address| address.link == link.index && address.uniqueness != Uniqueness::Duplicate;
        let mut addresses: Vec<IpNet> = self.addresses.iter().filter(is_its_own).map(|address| address.net).collect();
        sort::short(&mut addresses, Ord::cmp);
        addresses.dedup();
        addresses.truncate(most);
        addresses
    }
}

/// Interfaces with hardware below them, in natural order of their names.
pub(super) fn nics(root: &Path, seen: &Links) -> Vec<Nic> {
    let folder = root.join("sys/class/net");
    sysfs::names(&folder).iter().filter_map(|name| nic(name, &folder.join(name), seen)).take(NICS).collect()
}

fn nic(name: &str, path: &Path, seen: &Links) -> Option<Nic> {
    let device = path.join("device");
    // A virtual function is a slice of a NIC that is listed itself.
    let is_physical = device.exists() && !device.join("physfn").exists();
    if !is_physical || sysfs::number::<u16>(path.join("type")) != Some(ETHERNET) {
        return None;
    }
    let link = seen.links.iter().find(|link| link.name == name);
    let mac = link.map(|link| link.mac).or_else(|| sysfs::text(path.join("address"))?.parse().ok())?;
    let carrier = link.map_or_else(|| sysfs::number::<u8>(path.join("carrier")) == Some(1), |link| link.carrier);
    Some(Nic {
        name: name.to_owned(),
        mac,
        permanent_mac: link.and_then(|link| link.permanent_mac).unwrap_or(mac),
        driver: sysfs::link_name(device.join("driver")).unwrap_or_default(),
        // -1 where the driver does not know; an error where there is no carrier.
        speed_mbps: sysfs::number(path.join("speed")).filter(|&speed: &u32| carrier && speed > 0 && speed < u32::MAX),
        carrier: if carrier { Carrier::Present } else { Carrier::Absent },
        pci: pci(&device),
        port_of: link.and_then(|link| seen.port_of(link)),
        addresses: link.map(|link| seen.addresses_of(link, NIC_ADDRESSES)).unwrap_or_default(),
    })
}

/// A virtio device numbers itself in its own way; the PCI device is the one above it.
fn pci(device: &Path) -> Option<PciId> {
    let device = sysfs::resolved(device)?;
    let kind = |device: &Path| sysfs::link_name(device.join("subsystem"));
    let device = match kind(&device).as_deref() {
        Some("virtio") => device.parent()?,
        _ => &device,
    };
    let is_pci = kind(device).as_deref() == Some("pci");
    let (vendor, number) = (sysfs::hex(device.join("vendor"))?, sysfs::hex(device.join("device"))?);
    is_pci.then_some(PciId { vendor, device: number })
}

/// Hardware MACs of all of them, sorted, without zeros.
pub(super) fn permanent_macs(nics: &[Nic]) -> Vec<Mac> {
    let mut macs: Vec<Mac> = nics.iter().map(|nic| nic.permanent_mac).filter(|mac| *mac.as_bytes() != [0; 6]).collect();
    sort::short(&mut macs, Ord::cmp);
    macs.dedup();
    macs
}
