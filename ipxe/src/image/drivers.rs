//! The kernel modules that an image carries, by purpose: in the initramfs what leads to the controller and shows the
//! hardware, in the tools image what only storage needs.
//!
//! Chosen for x86 boxes of the last fifteen years, from an office's odd desktop to a rack's servers.
//! Names that a kernel has built in, or does not have, do no harm; the manifest tells.
//! What these need comes along by itself, so libraries and buses are named only where nothing would ask for them.

/// Modules for one purpose.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What for.
    pub purpose: &'static str,
    /// Module names, separated by blanks.
    pub modules: &'static str,
}

/// What every initramfs carries.
pub const GROUPS: &[Group] = &[
    Group {
        purpose: "network cards of desktops and small boxes: Intel, Realtek, Broadcom, others",
        modules: "e100 e1000 e1000e igb igbvf igc \
                  r8169 8139cp 8139too \
                  tg3 b44 \
                  alx amd_xgbe atl1c atl1e forcedeth jme skge sky2 via_rhine via_velocity",
    },
    Group {
        purpose: "network cards of servers: Intel, Broadcom, Mellanox, others",
        modules: "ixgbe ixgbevf i40e iavf ice \
                  bnxt_en \
                  mlx4_core mlx4_en mlx5_core \
                  atlantic be2net enic",
    },
    Group {
        purpose: "network cards of virtual machines",
        modules: "virtio_net vmxnet3 hv_netvsc pci_hyperv xen_netfront",
    },
    Group {
        purpose: "network adapters on USB",
        modules: "r8152 r8153_ecm ax88179_178a asix aqc111 cdc_ether cdc_ncm smsc75xx smsc95xx lan78xx",
    },
    Group {
        purpose: "PHYs, which ask for their module by a number that only a running kernel knows",
        modules: "realtek broadcom marvell marvell10g aquantia bcm87xx micrel at803x",
    },
    Group {
        purpose: "disks: SATA and PATA, NVMe, SCSI, USB, eMMC and SD, virtual ones",
        modules: "ahci ata_piix ata_generic sata_mv sata_nv sata_sil sata_via \
                  nvme vmd \
                  sd_mod sr_mod sg ses \
                  usb_storage uas \
                  mmc_block sdhci_pci sdhci_acpi rtsx_pci_sdmmc \
                  virtio_blk virtio_scsi vmw_pvscsi hv_storvsc xen_blkfront mptspi mptsas loop",
    },
    Group {
        purpose: "disk controllers of servers",
        modules: "megaraid_sas mpt3sas mpi3mr hpsa aacraid smartpqi isci arcmsr mvsas 3w_9xxx",
    },
    Group { purpose: "VLANs, bonds, bridges", modules: "8021q bonding bridge stp llc dummy veth" },
    Group {
        purpose: "ext4, so that what is there is mounted without tools, and what the tools image is mounted with",
        modules: "ext4 crc32c_generic crc32c_intel squashfs",
    },
    Group {
        purpose: "USB and keyboards",
        modules: "xhci_pci ehci_pci ohci_pci uhci_hcd usbhid hid_generic hid_hyperv",
    },
    Group {
        purpose: "virtual machines",
        modules: "virtio_pci virtio_mmio virtio_rng virtio_balloon virtio_console hv_vmbus hv_utils hv_balloon",
    },
    Group {
        purpose: "watchdogs, TPM, BMC, firmware, and the buses behind them",
        modules: "iTCO_wdt i6300esb sp5100_tco hpwdt wdat_wdt softdog \
                  tpm_tis tpm_crb \
                  ipmi_si ipmi_devintf ipmi_watchdog acpi_ipmi \
                  efivarfs i2c_i801 i2c_piix4 intel_lpss_pci",
    },
];

/// What every tools image carries, beside what its initramfs has already.
pub const TOOLS: &[Group] = &[
    Group {
        purpose: "filesystems and their character sets",
        modules: "xfs btrfs vfat isofs udf overlay nls_cp437 nls_iso8859_1 nls_utf8 nls_ascii",
    },
    Group {
        purpose: "RAID and LVM",
        modules: "raid0 raid1 raid10 raid456 linear dm_mod dm_mirror dm_raid dm_snapshot dm_thin_pool",
    },
    Group {
        purpose: "encryption with what it asks the kernel for, for itself (dm_crypt) and for cryptsetup (algif)",
        modules: "dm_crypt xts cbc ecb essiv aesni_intel sha256_generic algif_skcipher algif_hash",
    },
];

/// Drivers that do nothing without firmware which Debian keeps out of its main archive: carried only where the firmware
/// is given.
pub const WITH_FIRMWARE: Group = Group { purpose: "network cards that need firmware", modules: "bnx2 bnx2x qede" };

/// Every module for a tools image.
pub fn wanted_by_storage() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().flat_map(|group| group.modules.split_whitespace())
}

/// Every module for an initramfs, with or without those that need firmware.
pub fn wanted(with_firmware: bool) -> impl Iterator<Item = &'static str> {
    let more = with_firmware.then_some(&WITH_FIRMWARE);
    GROUPS.iter().chain(more).flat_map(|group| group.modules.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn every_kind_of_link_that_a_document_describes_has_its_module() {
        for module in ["8021q", "bonding", "bridge", "stp", "llc"] {
            assert!(wanted(false).any(|name| name == module), "{module}");
        }
    }
}
