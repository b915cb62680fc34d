//! The kernel modules that an image carries, by purpose.
//!
//! Chosen for x86 boxes of the last fifteen years, from an office's odd desktop to a rack's servers.
//! Names that a kernel has built in, or does not have, do no harm; the manifest tells.
//! What these need comes along by itself, so libraries and buses are named only where nothing would ask for them.

/// Modules for one purpose.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What for.
    pub purpose: &'static str,
    /// Module names.
    pub modules: &'static [&'static str],
}

/// What every image carries.
pub const GROUPS: &[Group] = &[
    Group {
        purpose: "network cards of desktops and small boxes",
        modules: &[
            "e100",
            "e1000",
            "e1000e",
            "igb",
            "igbvf",
            "igc", // Intel
            "r8169",
            "8139cp",
            "8139too", // Realtek
            "tg3",
            "b44", // Broadcom
            "alx",
            "atl1c",
            "atl1e",
            "forcedeth",
            "jme",
            "skge",
            "sky2",
            "via_rhine",
            "via_velocity", // others
            "amd_xgbe",
        ],
    },
    Group {
        purpose: "network cards of servers",
        modules: &[
            "ixgbe",
            "ixgbevf",
            "i40e",
            "iavf",
            "ice",     // Intel
            "bnxt_en", // Broadcom
            "mlx4_core",
            "mlx4_en",
            "mlx5_core", // Mellanox
            "atlantic",
            "be2net",
            "enic", // Aquantia, Emulex, Cisco
        ],
    },
    Group {
        purpose: "network cards of virtual machines",
        modules: &["virtio_net", "vmxnet3", "hv_netvsc", "pci_hyperv", "xen_netfront"],
    },
    Group {
        purpose: "network adapters on USB",
        modules: &[
            "r8152",
            "r8153_ecm",
            "ax88179_178a",
            "asix",
            "aqc111",
            "cdc_ether",
            "cdc_ncm",
            "smsc75xx",
            "smsc95xx",
            "lan78xx",
        ],
    },
    Group {
        purpose: "PHYs, which ask for their module by a number that only a running kernel knows",
        modules: &["realtek", "broadcom", "marvell", "marvell10g", "aquantia", "bcm87xx", "micrel", "at803x"],
    },
    Group {
        purpose: "disks",
        modules: &[
            "ahci",
            "ata_piix",
            "ata_generic",
            "sata_mv",
            "sata_nv",
            "sata_sil",
            "sata_via", // SATA, PATA
            "nvme",
            "vmd", // NVMe
            "sd_mod",
            "sr_mod",
            "sg",
            "ses", // SCSI
            "usb_storage",
            "uas", // USB
            "mmc_block",
            "sdhci_pci",
            "sdhci_acpi",
            "rtsx_pci_sdmmc", // eMMC, SD
            "virtio_blk",
            "virtio_scsi",
            "vmw_pvscsi",
            "hv_storvsc",
            "xen_blkfront",
            "mptspi",
            "mptsas", // virtual
            "loop",
        ],
    },
    Group {
        purpose: "disk controllers of servers",
        modules: &[
            "megaraid_sas",
            "mpt3sas",
            "mpi3mr",
            "hpsa",
            "aacraid",
            "smartpqi",
            "isci",
            "arcmsr",
            "mvsas",
            "3w_9xxx",
        ],
    },
    Group {
        purpose: "RAID, LVM, encryption",
        modules: &[
            "raid0",
            "raid1",
            "raid10",
            "raid456", // md
            "dm_mod",
            "dm_crypt",
            "dm_mirror",
            "dm_raid",
            "dm_snapshot",
            "dm_thin_pool", // device mapper
            "xts",
            "cbc",
            "ecb",
            "essiv",
            "aesni_intel",
            "sha256_generic", // what dm-crypt asks the kernel for
        ],
    },
    Group { purpose: "VLANs, bonds, bridges", modules: &["8021q", "bonding", "bridge", "stp", "llc", "dummy", "veth"] },
    Group {
        purpose: "filesystems",
        modules: &[
            "ext4",
            "xfs",
            "vfat",
            "isofs",
            "udf",
            "squashfs",
            "overlay", //
            "nls_cp437",
            "nls_iso8859_1",
            "nls_utf8",
            "nls_ascii",
            "crc32c_generic",
            "crc32c_intel",
        ],
    },
    Group {
        purpose: "USB and keyboards",
        modules: &["xhci_pci", "ehci_pci", "ohci_pci", "uhci_hcd", "usbhid", "hid_generic", "hid_hyperv"],
    },
    Group {
        purpose: "virtual machines",
        modules: &[
            "virtio_pci",
            "virtio_mmio",
            "virtio_rng",
            "virtio_balloon",
            "virtio_console",
            "hv_vmbus",
            "hv_utils",
            "hv_balloon",
        ],
    },
    Group {
        purpose: "watchdogs, sensors of identity, firmware",
        modules: &[
            "iTCO_wdt",
            "i6300esb",
            "sp5100_tco",
            "hpwdt",
            "wdat_wdt",
            "softdog", // watchdogs
            "tpm_tis",
            "tpm_crb",
            "ipmi_si",
            "ipmi_devintf",
            "ipmi_watchdog",
            "acpi_ipmi", // TPM, BMC
            "efivarfs",
            "i2c_i801",
            "i2c_piix4",
            "intel_lpss_pci",
        ],
    },
];

/// Drivers that do nothing without firmware which Debian keeps out of its main archive: carried only where the firmware
/// is given.
pub const WITH_FIRMWARE: Group =
    Group { purpose: "network cards that need firmware", modules: &["bnx2", "bnx2x", "qede"] };

/// Every module for an image, with or without those that need firmware.
pub fn wanted(with_firmware: bool) -> impl Iterator<Item = &'static str> {
    let more = with_firmware.then_some(&WITH_FIRMWARE);
    GROUPS.iter().chain(more).flat_map(|group| group.modules).copied()
}
