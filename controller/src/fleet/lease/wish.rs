//! What a leased machine should be, decided from its inventory and the addresses it was given.
//!
//! **Network.** One NIC is configured, the primary one, and wholly: its static addresses take the place of what DHCP gave
//! it, default routes go through the subnets' gateways, resolvers are the subnets'. DHCP is off on it afterwards, so that
//! what a hub is told of its server does not depend on a DHCP server any more. That the controller is still reached that
//! way is not assumed here: the agent proves it or goes back, and then the lease tries another machine.
//! Other NICs are not named and stay as they are. Router advertisements stay as the kernel has them.
//!
//! **Storage.** The largest fixed disk gets a GPT with one partition over all of it and an ext4 named `muster-data`,
//! mounted at `/srv/data`. Nothing is replaced: a disk that carries anything else makes the agent refuse, and the lease
//! tries another machine. After a reboot the same wish only mounts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use muster_protocol::DiskId;
use muster_protocol::desired::{
    Checked, Desired, Disk, DiskSelect, Ethernet, Existing, Filesystem, Format, Link, LinkKind, MAIN_TABLE, Mount,
    Network, Partition, Place, Reach, Route, Select, Settings, Storage, Table, Use, check,
};
use muster_protocol::inventory::{Attachment, Inventory};

use super::primary;
use crate::fleet::Refusal;
use crate::fleet::record::{MachineInventory, Subnet};

/// GPT name of the partition and label of the filesystem; ext4 takes 16 bytes.
const LABEL: &str = "muster-data";

/// Where it is mounted.
const MOUNT: &str = "/srv/data";

/// Why a machine cannot be leased although it is free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has not said what it is made of.
    #[error("it has not reported its inventory")]
    NoInventory,
    /// There is nothing to give an address to.
    #[error("no NIC has a carrier")]
    NoNic,
    /// It could not be wiped at the end, since nothing would name the disk without doubt.
    #[error("disk {name} has no serial number or WWN of its own")]
    NamelessDisk {
        /// Kernel name.
        name: String,
    },
}

/// Names of all fixed disks: those that a hub may write to, and that are wiped after it.
///
/// Errors: a disk has no name, or shares it with another one.
pub fn fixed_disks(inventory: &Inventory) -> Result<Vec<DiskId>, Unfit> {
    let mut names = BTreeSet::new();
    for disk in inventory.disks.iter().filter(|d| d.attachment == Attachment::Fixed) {
        let named = disk.id().is_some_and(|id| names.insert(id));
        if !named {
            return Err(Unfit::NamelessDisk { name: disk.name.clone() });
        }
    }
    Ok(names.into_iter().collect())
}

/// The whole desired state. `addresses` are the machine's own, each with the subnet it is from.
pub fn desired(record: &MachineInventory, addresses: &[(IpAddr, Subnet)]) -> Result<Checked<Desired>, Refusal> {
    let nic = primary::cabled(record).map_err(|why| Refusal::Conflict(why.to_string()))?;
    let select = Select { mac: Some(nic.permanent_mac), ..Select::default() };
    let network = Network {
        links: vec![Link {
            id: "primary".into(),
            kind: LinkKind::Ethernet(Ethernet { select, ..Ethernet::default() }),
            settings: settings(addresses),
        }],
        ..Network::default()
    };
    let desired = Desired { network: Some(network), storage: storage(&record.inventory) };
    check(desired).map_err(|problems| {
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Refusal::Conflict(format!("the subnet makes no sound configuration: {}", text.join("; ")))
    })
}

fn settings(addresses: &[(IpAddr, Subnet)]) -> Settings {
    let mut settings = Settings::default();
    for (address, subnet) in addresses {
        settings.addresses.extend(IpNet::new(*address, subnet.net.prefix_len()));
        settings.routes.extend(subnet.gateway.map(|via| {
            let everywhere = match via {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let to = IpNet::new_assert(everywhere, 0);
            Route { to, via: Some(via), metric: None, table: MAIN_TABLE, reach: Reach::Prefix }
        }));
        for nameserver in &subnet.nameservers {
            if !settings.nameservers.contains(nameserver) {
                settings.nameservers.push(*nameserver);
            }
        }
    }
    settings.nameservers.truncate(16);
    settings
}

/// `None` for a machine without a fixed disk.
fn storage(inventory: &Inventory) -> Option<Storage> {
    let fixed = inventory.disks.iter().filter(|d| d.attachment == Attachment::Fixed);
    // Of two equally large ones the one whose name sorts first, so that the same wish comes out each time.
    let mut named: Vec<(u64, DiskId)> = fixed.filter_map(|d| Some((d.size_bytes, d.id()?))).collect();
    named.sort_by(|(a_size, a), (b_size, b)| b_size.cmp(a_size).then_with(|| a.cmp(b)));
    let (_, disk) = named.into_iter().next()?;
    let partition = Partition::new(1, LABEL, None);
    Some(Storage {
        disks: vec![Disk { select: DiskSelect::Id(disk), table: Table::Keep, partitions: vec![partition] }],
        filesystems: vec![Filesystem {
            place: Place::Partition { disk: 0, partition: 0 },
            format: Format::Ext4,
            label: LABEL.into(),
            uuid: None,
            options: Vec::new(),
            used: Use::Mount(Mount { path: MOUNT.into(), options: Vec::new() }),
            existing: Existing::Keep,
        }],
        ..Storage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::model::tests::{box_with, disk};
    use muster_protocol::desired::{AcceptRa, Dhcp};
    use muster_protocol::inventory::Disk;
    use muster_protocol::{Mac, MachineId};

    fn subnet(net: &str, gateway: &str) -> Subnet {
        Subnet {
            gateway: gateway.parse().ok(),
            nameservers: vec!["192.0.2.53".parse().expect("an address")],
            ..Subnet::new(net.parse().expect("a prefix"), "ber1")
        }
    }

    fn given(address: &str, subnet: Subnet) -> (IpAddr, Subnet) {
        (address.parse().expect("an address"), subnet)
    }

    fn a_box() -> MachineInventory {
        let (machine, inventory) = (MachineId::from_bytes([1; 16]), box_with("S1", 1));
        MachineInventory { machine, at_unix_ms: 0, inventory, primary: None }
    }

    #[test]
    fn the_primary_nic_gets_static_addresses_with_a_default_route_each_and_no_dhcp() {
        let addresses = [
            given("203.0.113.2", subnet("203.0.113.0/28", "203.0.113.1")),
            given("2001:db8::2", subnet("2001:db8::/64", "fe80::1")),
        ];
        let desired = desired(&a_box(), &addresses).expect("sound").into_inner();
        let network = desired.network.expect("there");
        let [Link { kind: LinkKind::Ethernet(ethernet), settings, .. }] = &network.links[..] else {
            panic!("one ethernet")
        };
        assert_eq!(ethernet.select.mac, Some(Mac::from_bytes([2, 0, 0, 0, 0, 1])));
        let texts: Vec<String> = settings.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["203.0.113.2/28", "2001:db8::2/64"]);
        let routes: Vec<String> = settings.routes.iter().map(|r| format!("{} {:?}", r.to, r.via)).collect();
        assert_eq!(routes, ["0.0.0.0/0 Some(203.0.113.1)", "::/0 Some(fe80::1)"]);
        assert_eq!((settings.nameservers.len(), settings.dhcp4, settings.accept_ra), (1, Dhcp::Off, AcceptRa::Default));
    }

    #[test]
    fn a_subnet_without_a_gateway_gives_no_route() {
        let addresses = [given("203.0.113.2", subnet("203.0.113.0/28", ""))];
        let desired = desired(&a_box(), &addresses).expect("sound").into_inner();
        assert_eq!(desired.network.expect("there").links[0].settings.routes, []);
    }

    #[test]
    fn the_largest_fixed_disk_is_prepared_and_nothing_is_replaced() {
        let mut inventory = box_with("SMALL", 1);
        inventory.disks.push(disk("LARGE", 4_000_000_000_000));
        let mut stick = disk("STICK", 8_000_000_000_000);
        stick.attachment = Attachment::Removable;
        inventory.disks.push(stick);
        inventory.disks.push(Disk { attachment: Attachment::External, ..disk("OUTSIDE", 8_000_000_000_000) });
        let storage = storage(&inventory).expect("a disk");
        assert_eq!(storage.disks.len(), 1);
        let prepared = &storage.disks[0];
        let large = "serial:LARGE".parse().expect("an id");
        assert_eq!((&prepared.select, prepared.table), (&DiskSelect::Id(large), Table::Keep));
        assert_eq!(prepared.partitions[0].size_mib, None);
        let made = &storage.filesystems[0];
        assert_eq!(
            (made.label.as_str(), made.used.mount().map(|mount| &*mount.path)),
            ("muster-data", Some("/srv/data"))
        );
        assert_eq!(made.existing, Existing::Keep);
        inventory.disks.clear();
        assert_eq!(super::storage(&inventory), None);
    }

    #[test]
    fn every_fixed_disk_must_have_a_name_of_its_own() {
        let mut inventory = box_with("S1", 1);
        inventory.disks.push(disk("S2", 1));
        assert_eq!(fixed_disks(&inventory).map(|d| d.len()), Ok(2));
        inventory.disks[1].serial = Some("S1".into());
        assert!(matches!(fixed_disks(&inventory), Err(Unfit::NamelessDisk { .. })));
        inventory.disks[1].serial = None;
        assert!(matches!(fixed_disks(&inventory), Err(Unfit::NamelessDisk { .. })));
        for not_its_own in [Attachment::Removable, Attachment::External] {
            inventory.disks[1].attachment = not_its_own;
            assert_eq!(fixed_disks(&inventory).map(|d| d.len()), Ok(1));
        }
    }
}
