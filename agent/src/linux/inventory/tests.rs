//! Inventories of machines that are folders: a small copy of what /proc and /sys show of known hardware.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use muster_protocol::inventory::{Attachment, Carrier, Disk, LinkKind, Medium, PciId, Transport};
use muster_protocol::observed::{Bond, Origin};
use muster_protocol::{Mac, VlanTag};

use super::*;
use crate::linux::network::netlink::address::{Address, Uniqueness};
use crate::linux::network::netlink::link::{Kind, Link, Port};

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
        fs::write(path, bytes).expect("written");
        self
    }

    /// A link from `path` to `to`, both below the root.
    fn link(&self, path: &str, to: &str) -> &Self {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
        fs::create_dir_all(self.root().join(to)).expect("made");
        symlink(self.root().join(to), path).expect("linked");
        self
    }

    /// A disk of 1 GiB whose hardware is at `device` in sys/devices.
    fn disk(&self, name: &str, device: &str) -> &Self {
        self.link(&format!("sys/block/{name}/device"), &format!("sys/devices/{device}"))
            .file(&format!("sys/block/{name}/size"), "2097152\n")
            .file(&format!("sys/block/{name}/removable"), "0\n")
            .file(&format!("sys/block/{name}/queue/logical_block_size"), "512\n")
            .file(&format!("sys/block/{name}/queue/physical_block_size"), "4096\n")
            .file(&format!("sys/block/{name}/queue/rotational"), "0\n")
    }

    fn disks(&self) -> Vec<Disk> {
        gather(self.root(), &Links::default()).disks
    }

    fn inventory(&self, links: &Links) -> Inventory {
        gather(self.root(), links)
    }
}

fn vpd80(serial: &str) -> Vec<u8> {
    [&[0, 0x80, 0, serial.len() as u8], serial.as_bytes()].concat()
}

#[test]
fn a_virtio_disk_is_named_by_its_serial() {
    let tree = Tree::new();
    tree.disk("vda", "pci0000:00/0000:00:04.0/virtio1").file("sys/block/vda/serial", "MU-0001");
    assert_eq!(
        tree.disks(),
        [Disk {
            name: "vda".into(),
            size_bytes: 1 << 30,
            logical_sector: 512,
            physical_sector: 4096,
            medium: Medium::SolidState,
            attachment: Attachment::Fixed,
            transport: Transport::Virtio,
            model: String::new(),
            serial: Some("MU-0001".into()),
            wwn: None,
        }]
    );
}

#[test]
fn an_ata_disk_tells_its_whole_model_its_serial_and_its_wwn() {
    let device = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
    let mut page = vec![0; 60 + 512];
    let model = b"WDC WD40EFRX-68N32N0 with a long name   ";
    for (word, pair) in page[60 + 54..60 + 94].chunks_exact_mut(2).zip(model.chunks_exact(2)) {
        word.copy_from_slice(&[pair[1], pair[0]]);
    }
    let tree = Tree::new();
    tree.disk("sda", device)
        .file("sys/block/sda/queue/rotational", "1\n")
        .file(&format!("sys/devices/{device}/model"), "WDC WD40EFRX-68N\n")
        .file(&format!("sys/devices/{device}/vpd_pg89"), page)
        .file(&format!("sys/devices/{device}/vpd_pg80"), vpd80("     WD-WCC7K0ABCDEF"))
        .file(&format!("sys/devices/{device}/wwid"), "naa.50014ee2b1234567\n");
    let disk = &tree.disks()[0];
    assert_eq!((disk.transport, disk.medium), (Transport::Ata, Medium::Rotational));
    assert_eq!(disk.model, "WDC WD40EFRX-68N32N0 with a long name");
    assert_eq!(disk.serial.as_deref(), Some("WD-WCC7K0ABCDEF"));
    assert_eq!(disk.wwn.as_deref(), Some("naa.50014ee2b1234567"));
    assert_eq!(disk.id().map(|id| id.to_string()).as_deref(), Some("wwn:0x50014ee2b1234567"));
}

#[test]
fn makeshift_names_are_no_wwns() {
    let tree = Tree::new();
    let ata = "pci0/ata1/host0/target0:0:0/0:0:0:0";
    tree.disk("sda", ata)
        .file(&format!("sys/devices/{ata}/wwid"), "t10.ATA     QEMU HARDDISK                           QM00001 \n")
        .file(&format!("sys/devices/{ata}/vpd_pg80"), vpd80("QM00001"));
    tree.disk("nvme0n1", "pci0/0000:00:05.0/nvme/nvme0")
        .file("sys/block/nvme0n1/wwid", "nvme.1b36-4d552d3130-51454d55204e564d65204374726c-00000001\n")
        .file("sys/devices/pci0/0000:00:05.0/nvme/nvme0/serial", "MU-10      \n")
        .file("sys/devices/pci0/0000:00:05.0/nvme/nvme0/model", "QEMU NVMe Ctrl      \n");
    tree.disk("nvme1n1", "pci0/0000:00:06.0/nvme/nvme1")
        .file("sys/block/nvme1n1/wwid", "eui.0025388b01c8b0a2\n")
        .file("sys/devices/pci0/0000:00:06.0/nvme/nvme1/serial", "0000000000\n");
    tree.disk("nvme2n1", "pci0/0000:00:07.0/nvme/nvme2").file("sys/block/nvme2n1/wwid", "eui.0000000000000000\n");
    let names: Vec<_> =
        tree.disks().iter().map(|d| (d.name.clone(), d.transport, d.id().map(|id| id.to_string()))).collect();
    assert_eq!(
        names,
        [
            ("sda".into(), Transport::Ata, Some("serial:QM00001".into())),
            ("nvme0n1".into(), Transport::Nvme, Some("serial:MU-10".into())),
            ("nvme1n1".into(), Transport::Nvme, Some("wwn:eui.0025388b01c8b0a2".into())),
            ("nvme2n1".into(), Transport::Nvme, None),
        ]
    );
}

#[test]
fn a_disk_on_usb_is_the_machines_never_and_takes_its_serial_from_the_usb_device() {
    let usb = "pci0000:00/0000:00:14.0/usb2/2-1";
    let scsi = format!("{usb}/2-1:1.0/host6/target6:0:0/6:0:0:0");
    let tree = Tree::new();
    tree.disk("sdb", &scsi)
        .file(&format!("sys/devices/{usb}/idVendor"), "0781\n")
        .file(&format!("sys/devices/{usb}/serial"), "4C530001\n");
    for (said, attachment) in
        [("0\n", Attachment::External), ("1\n", Attachment::Removable), ("?\n", Attachment::Removable)]
    {
        tree.file("sys/block/sdb/removable", said);
        let disk = &tree.disks()[0];
        assert_eq!((disk.transport, disk.attachment), (Transport::Usb, attachment), "{said}");
        assert_eq!(disk.serial.as_deref(), Some("4C530001"));
        assert_eq!(identify(tree.root(), &Links::default()).disks, []);
    }
    for nobodys in ["000000000000", "0123456789ABCDEF", "123456789abc", "012345678901"] {
        tree.file(&format!("sys/devices/{usb}/serial"), nobodys);
        assert_eq!(tree.disks()[0].serial, None, "{nobodys}");
    }
}

#[test]
fn what_is_no_disk_of_the_machine_is_left_out() {
    let tree = Tree::new();
    for name in ["loop0", "ram0", "zram0", "dm-0", "md0", "nbd0"] {
        tree.file(&format!("sys/block/{name}/size"), "100\n");
    }
    tree.disk("sr0", "a/host0").disk("fd0", "a/floppy").disk("mmcblk0boot0", "a/mmc0").disk("nvme0c0n1", "a/nvme0");
    tree.file("sys/block/nvme0c0n1/hidden", "1\n");
    tree.disk("sdc", "a/host1").file("sys/block/sdc/size", "0\n");
    tree.disk("mmcblk0", "a/mmc1").disk("vdb", "a/virtio3");
    assert_eq!(tree.disks().iter().map(|d| &*d.name).collect::<Vec<_>>(), ["vdb", "mmcblk0"]);
}

#[test]
fn a_scsi_disk_behind_virtio_is_scsi() {
    let tree = Tree::new();
    tree.disk("sda", "pci0000:00/0000:00:05.0/virtio2/host2/target2:0:0/2:0:0:0");
    assert_eq!(tree.disks()[0].transport, Transport::Scsi);
}

fn link(index: u32, name: &str, mac: [u8; 6]) -> Link {
    let (mac, kind) = (Mac::from_bytes(mac), Kind::Ethernet);
    Link {
        index,
        name: name.into(),
        mac,
        permanent_mac: None,
        kind,
        port: None,
        up: true,
        carrier: true,
        carrier_ups: 1,
        min_mtu: 68,
        max_mtu: 9216,
        mtu: 1500,
    }
}

fn address(link: u32, net: &str, uniqueness: Uniqueness) -> Address {
    Address { link, net: net.parse().expect("an address"), origin: Origin::Kernel, uniqueness, is_temporary: false }
}

/// Two NICs of a virtual machine, one of them with a MAC that was set by hand, and three that are not physical.
fn nics() -> (Tree, Links) {
    let tree = Tree::new();
    for (name, pci, virtio) in [("eth0", "0000:00:03.0", "virtio0"), ("eth1", "0000:00:04.0", "virtio1")] {
        let (parent, device) = (format!("sys/devices/pci0/{pci}"), format!("sys/devices/pci0/{pci}/{virtio}"));
        tree.file(&format!("{parent}/vendor"), "0x1af4\n")
            .file(&format!("{parent}/device"), "0x1000\n")
            .link(&format!("{parent}/subsystem"), "sys/bus/pci")
            .file(&format!("{device}/device"), "0x0001\n")
            .file(&format!("{device}/vendor"), "0x1af4\n")
            .link(&format!("{device}/subsystem"), "sys/bus/virtio")
            .link(&format!("{device}/driver"), "sys/bus/virtio/drivers/virtio_net")
            .link(&format!("sys/class/net/{name}/device"), &device)
            .file(&format!("sys/class/net/{name}/type"), "1\n")
            .file(&format!("sys/class/net/{name}/address"), "52:54:00:00:00:09\n")
            .file(&format!("sys/class/net/{name}/speed"), "-1\n");
    }
    tree.file("sys/class/net/lo/type", "772\n").file("sys/class/net/bond0/type", "1\n");
    tree.link("sys/class/net/eth2/device", "sys/devices/vf").link("sys/devices/vf/physfn", "sys/devices/pf");
    tree.file("sys/class/net/eth2/type", "1\n");
    let second =
        Link { permanent_mac: Some(Mac::from_bytes([0x52, 0x54, 0, 0, 0, 2])), ..link(3, "eth1", [2, 0, 0, 0, 0, 1]) };
    let links = Links {
        links: vec![
            second,
            Link { up: false, carrier: false, ..link(2, "eth0", [0x52, 0x54, 0, 0, 0, 1]) },
            link(9, "bond0", [2; 6]),
        ],
        addresses: vec![
            address(3, "fe80::1/64", Uniqueness::Assured),
            address(3, "192.0.2.7/24", Uniqueness::Assured),
            address(3, "2001:db8::7/64", Uniqueness::Duplicate),
            address(9, "192.0.2.9/24", Uniqueness::Assured),
        ],
    };
    (tree, links)
}

#[test]
fn nics_tell_their_hardware_and_their_addresses() {
    let (tree, links) = nics();
    tree.file("sys/class/net/eth1/speed", "10000\n").file("sys/class/net/eth0/speed", "1000\n");
    let nics = tree.inventory(&links).nics;
    assert_eq!(nics.iter().map(|n| &*n.name).collect::<Vec<_>>(), ["eth0", "eth1"]);
    let (first, second) = (&nics[0], &nics[1]);
    assert_eq!((first.carrier, first.speed_mbps, first.addresses.len()), (Carrier::Absent, None, 0));
    assert_eq!(first.permanent_mac, first.mac);
    assert_eq!((&*first.driver, first.pci), ("virtio_net", Some(PciId { vendor: 0x1af4, device: 0x1000 })));
    assert_eq!((second.carrier, second.speed_mbps), (Carrier::Present, Some(10_000)));
    assert_eq!(
        (second.mac.to_string(), second.permanent_mac.to_string()),
        ("02:00:00:00:00:01".into(), "52:54:00:00:00:02".into())
    );
    let addresses: Vec<_> = second.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.7/24", "fe80::1/64"]);
}

#[test]
fn vlans_bonds_and_bridges_tell_what_they_stand_on_and_their_addresses() {
    let (tree, mut links) = nics();
    let made = |index, name: &str, kind| Link { kind, ..link(index, name, [2; 6]) };
    let office = Kind::Vlan { parent: 9, tag: VlanTag::try_from(42).expect("a tag") };
    let port = |of| Some(Port { of, in_bridge: None });
    links.links.iter_mut().find(|link| link.index == 3).expect("eth1").port = port(9);
    links.links.iter_mut().find(|link| link.index == 9).expect("bond0").kind = Kind::Bond(Box::<Bond>::default());
    let lost = Kind::Vlan { parent: 77, tag: VlanTag::try_from(7).expect("a tag") };
    let tunnel = Kind::Foreign("wireguard".into());
    links.links.extend([made(12, "office", office), made(13, "lost", lost), made(14, "wg0", tunnel)]);
    links.links.iter_mut().find(|link| link.index == 12).expect("office").port = port(15);
    links.links.push(Link { carrier: false, ..made(15, "br0", Kind::Bridge(Box::default())) });
    links.addresses.push(address(15, "2001:db8::15/64", Uniqueness::Duplicate));
    links.addresses.push(address(15, "10.0.0.15/24", Uniqueness::Assured));
    let inventory = tree.inventory(&links);
    let of: Vec<_> = inventory.nics.iter().map(|nic| nic.port_of.as_deref()).collect();
    assert_eq!(of, [None, Some("bond0")]);
    let told: Vec<_> =
        inventory.links.iter().map(|link| (&*link.name, link.kind.clone(), link.port_of.as_deref())).collect();
    let vlan = LinkKind::Vlan { tag: VlanTag::try_from(42).expect("a tag"), parent: "bond0".into() };
    let expected = [("bond0", LinkKind::Bond, None), ("br0", LinkKind::Bridge, None), ("office", vlan, Some("br0"))];
    assert_eq!(told, expected, "by name, and what nobody here can say more of is left out");
    let addresses: Vec<Vec<String>> =
        inventory.links.iter().map(|link| link.addresses.iter().map(ToString::to_string).collect()).collect();
    assert_eq!(addresses, [vec!["192.0.2.9/24".to_owned()], vec!["10.0.0.15/24".to_owned()], vec![]]);
    assert_eq!((inventory.links[0].carrier, inventory.links[1].carrier), (Carrier::Present, Carrier::Absent));
}

#[test]
fn nics_are_told_without_netlink_as_well() {
    let (tree, _) = nics();
    tree.file("sys/class/net/eth0/carrier", "1\n");
    let nics = tree.inventory(&Links::default()).nics;
    assert_eq!((nics[0].mac.to_string(), nics[0].carrier), ("52:54:00:00:00:09".into(), Carrier::Present));
}

#[test]
fn an_identity_is_serials_and_hardware_macs() {
    let (tree, links) = nics();
    let table =
        [&[1, 27, 0, 0, 0, 0, 0, 1][..], &[0x11; 16], &[0, 0, 0], b"SYS-1\0\0", &[2, 8, 0, 0, 0, 0, 0, 1], b"B-1\0\0"];
    tree.file("sys/firmware/dmi/tables/DMI", table.concat())
        .file("sys/firmware/dmi/tables/smbios_entry_point", b"_SM3_\0\x18\x03\0");
    let identity = identify(tree.root(), &links);
    assert_eq!((&*identity.system_serial, &*identity.board_serial, identity.uuid), ("SYS-1", "B-1", Some([0x11; 16])));
    let macs: Vec<_> = identity.macs.iter().map(ToString::to_string).collect();
    assert_eq!(macs, ["52:54:00:00:00:01", "52:54:00:00:00:02"]);
}

#[test]
fn sockets_cores_and_threads_are_counted_apart() {
    let tree = Tree::new();
    for cpu in 0..8 {
        let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        tree.file(&format!("{topology}/physical_package_id"), format!("{}\n", cpu / 4));
        tree.file(&format!("{topology}/core_id"), format!("{}\n", cpu / 2 % 2));
    }
    // Switched off, and no processors at all.
    tree.file("sys/devices/system/cpu/cpu8/online", "0\n").file("sys/devices/system/cpu/cpufreq/x", "");
    tree.file(
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: QEMU Virtual CPU\nflags\t\t: fpu vmx aes avx2 vme sha_ni\n\nprocessor\t: 1\nflags\t: svm\n",
    );
    let cpu = tree.inventory(&Links::default()).cpu;
    assert_eq!((cpu.sockets, cpu.cores, cpu.threads), (2, 4, 8));
    assert_eq!(cpu.flags, ["aes", "avx2", "sha_ni", "vmx"]);
    assert_eq!(cpu.model, "QEMU Virtual CPU");
}

#[test]
fn an_empty_machine_gives_an_empty_inventory_and_no_error() {
    let inventory = Tree::new().inventory(&Links::default());
    assert_eq!((inventory.disks.len(), inventory.nics.len(), inventory.cpu.threads), (0, 0, 0));
    assert_eq!(inventory.firmware.kind, FirmwareKind::Bios);
    assert_eq!(inventory.software.agent, env!("CARGO_PKG_VERSION"));
}

#[test]
fn uefi_is_told_by_its_folder() {
    let tree = Tree::new();
    tree.file("sys/firmware/efi/fw_platform_size", "64\n").file("proc/sys/kernel/osrelease", "6.1.0-44-amd64\n");
    let inventory = tree.inventory(&Links::default());
    assert_eq!((inventory.firmware.kind, &*inventory.software.kernel), (FirmwareKind::Uefi, "6.1.0-44-amd64"));
}

#[test]
fn the_same_machine_has_the_same_digest() {
    let (tree, links) = nics();
    tree.disk("vdb", "a/virtio4").disk("vda", "a/virtio3");
    let once = tree.inventory(&links);
    let mut shuffled = links.clone();
    shuffled.links.reverse();
    shuffled.addresses.reverse();
    assert_eq!(tree.inventory(&shuffled).digest(), once.digest());
    assert_eq!(once.disks.iter().map(|d| &*d.name).collect::<Vec<_>>(), ["vda", "vdb"]);
}

#[test]
fn this_machine_tells_processors_memory_and_kernel_and_twice_the_same() {
    let inventory = read();
    assert!(inventory.memory.total_bytes > 64 << 20, "{inventory:?}");
    assert!(inventory.cpu.threads >= 1 && inventory.cpu.cores >= 1 && inventory.cpu.sockets >= 1, "{inventory:?}");
    assert!(!inventory.cpu.model.is_empty() && !inventory.software.kernel.is_empty(), "{inventory:?}");
    let meminfo = fs::read_to_string("/proc/meminfo").expect("read");
    let kib: u64 = meminfo.split_whitespace().nth(1).expect("MemTotal").parse().expect("a number");
    assert_eq!(inventory.memory.total_bytes, kib * 1024);
    assert_eq!(read().disks, inventory.disks);
}
