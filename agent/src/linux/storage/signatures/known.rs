//! The signatures that are known, as data: name, places, bytes, and where label and UUID lie.
//!
//! Names are blkid's, because that is what people look up.
//! Offsets are the formats' own; the tests compare each row with what blkid says of the same bytes.

/// Where a signature lies.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    /// Bytes from the start.
    Start(u64),
    /// Bytes before the end.
    End(u64),
}

use At::{End, Start};

/// Something that marks a disk or partition as part of something else, which only its own tools can read.
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) at: &'static [At],
    pub(super) magic: &'static [u8],
}

/// What lies at the end and owns the whole disk, whatever the start looks like: a mirror's disk may begin with a GPT.
pub(super) const AT_THE_END: &[Member] = &[
    Member { name: "isw_raid_member", at: &[End(1024), End(8192)], magic: b"Intel Raid ISM Cfg Sig. " },
    Member { name: "ddf_raid_member", at: &[End(512), End(4096), End(131_584)], magic: &[0xde, 0x11, 0xde, 0x11] },
    Member { name: "ddf_raid_member", at: &[End(512), End(4096), End(131_584)], magic: &[0x11, 0xde, 0x11, 0xde] },
];

/// Members of larger things, before filesystems: what is inside them is not ours to look at.
pub(super) const MEMBERS: &[Member] = &[
    Member { name: "crypto_LUKS", at: &[Start(0)], magic: b"LUKS\xba\xbe" },
    // LUKS2's second header, which survives a wiped first one: at one of these places by the first one's size.
    Member {
        name: "crypto_LUKS",
        at: &[
            Start(0x4000),
            Start(0x8000),
            Start(0x1_0000),
            Start(0x2_0000),
            Start(0x4_0000),
            Start(0x8_0000),
            Start(0x10_0000),
            Start(0x20_0000),
        ],
        magic: b"SKUL\xba\xbe",
    },
    Member { name: "LVM2_member", at: &[Start(24), Start(536), Start(1048), Start(1560)], magic: b"LVM2 001" },
    Member { name: "BitLocker", at: &[Start(3)], magic: b"-FVE-FS-" },
    Member { name: "ceph_bluestore", at: &[Start(0)], magic: b"bluestore block device" },
    Member {
        name: "bcache",
        at: &[Start(4096 + 24)],
        magic: b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    },
    Member {
        name: "bcachefs",
        at: &[Start(4096 + 24)],
        magic: b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    },
    Member { name: "VMFS_volume_member", at: &[Start(0x10_0000)], magic: &[0x0d, 0xd0, 0x01, 0xc0] },
    Member { name: "VMFS", at: &[Start(0x20_0000)], magic: &[0x5e, 0xf1, 0xab, 0x2f] },
    Member { name: "swap", at: &[Start(8182), Start(16_374), Start(32_758), Start(65_526)], magic: b"SWAPSPACE2" },
    Member { name: "swap", at: SWAP, magic: b"SWAP-SPACE" },
    Member { name: "swsuspend", at: SWAP, magic: b"S1SUSPEND" },
    Member { name: "swsuspend", at: SWAP, magic: b"LINHIB0001" },
    Member { name: "DM_integrity", at: &[Start(0)], magic: b"integrt\0" },
    Member { name: "DM_verity_hash", at: &[Start(0)], magic: b"verity\0\0" },
    Member { name: "DM_snapshot_cow", at: &[Start(0)], magic: b"SnAp" },
    Member { name: "oracleasm", at: &[Start(32)], magic: b"ORCLDISK" },
    Member { name: "drbd", at: &[End(4096 - 60)], magic: &[0x83, 0x74, 0x02] },
];

/// The last ten bytes of the first page, for every page size that Linux has had.
const SWAP: &[At] = &[Start(4086), Start(8182), Start(16_374), Start(32_758), Start(65_526)];

/// A filesystem that can be told from its first bytes.
pub(super) struct Format {
    pub(super) kind: &'static str,
    pub(super) at: u64,
    pub(super) magic: &'static [u8],
    pub(super) label: Label,
    pub(super) uuid: Uuid,
}

/// Where a volume's label lies.
#[derive(Clone, Copy)]
pub(super) enum Label {
    /// Not at a fixed place, or there is none.
    None,
    /// Offset and bytes, UTF-8 closed by a zero or padded with blanks.
    Text(u64, usize),
    /// The same for DOS: `NO NAME` is none.
    Dos(u64),
    /// Offset and UTF-16LE units.
    Utf16(u64, usize),
}

/// Where a volume's UUID lies and how its tools print it.
#[derive(Clone, Copy)]
pub(super) enum Uuid {
    /// There is none.
    None,
    /// 16 bytes, printed in their order.
    Plain(u64),
    /// 4 bytes, printed as `1234-ABCD`.
    Dos(u64),
    /// 8 bytes, printed as one number.
    Ntfs(u64),
}

/// Filesystems, the certain ones first. The ext family is not here: which one it is takes more than a magic.
pub(super) const FORMATS: &[Format] = &[
    // Version 1 of the header, in the first page of most machines. Others are members, see above.
    Format { kind: "swap", at: 4086, magic: b"SWAPSPACE2", label: Label::Text(1052, 16), uuid: Uuid::Plain(1036) },
    Format { kind: "xfs", at: 0, magic: b"XFSB", label: Label::Text(108, 12), uuid: Uuid::Plain(32) },
    Format {
        kind: "btrfs",
        at: 0x1_0040,
        magic: b"_BHRfS_M",
        label: Label::Text(0x1_012b, 256),
        uuid: Uuid::Plain(0x1_0020),
    },
    Format { kind: "ntfs", at: 3, magic: b"NTFS    ", label: Label::None, uuid: Uuid::Ntfs(72) },
    Format { kind: "exfat", at: 3, magic: b"EXFAT   ", label: Label::None, uuid: Uuid::Dos(100) },
    Format { kind: "ReFS", at: 0, magic: b"\0\0\0ReFS\0", label: Label::None, uuid: Uuid::None },
    Format { kind: "vfat", at: 82, magic: b"FAT32   ", label: Label::Dos(71), uuid: Uuid::Dos(67) },
    Format { kind: "vfat", at: 54, magic: b"FAT16   ", label: Label::Dos(43), uuid: Uuid::Dos(39) },
    Format { kind: "vfat", at: 54, magic: b"FAT12   ", label: Label::Dos(43), uuid: Uuid::Dos(39) },
    Format { kind: "vfat", at: 54, magic: b"FAT     ", label: Label::Dos(43), uuid: Uuid::Dos(39) },
    Format {
        kind: "f2fs",
        at: 1024,
        magic: &[0x10, 0x20, 0xf5, 0xf2],
        label: Label::Utf16(1024 + 0x7c, 512),
        uuid: Uuid::Plain(1024 + 0x6c),
    },
    Format {
        kind: "erofs",
        at: 1024,
        magic: &[0xe2, 0xe1, 0xf5, 0xe0],
        label: Label::Text(1024 + 64, 16),
        uuid: Uuid::Plain(1024 + 48),
    },
    Format { kind: "squashfs", at: 0, magic: b"hsqs", label: Label::None, uuid: Uuid::None },
    Format { kind: "squashfs", at: 0, magic: b"sqsh", label: Label::None, uuid: Uuid::None },
    Format { kind: "iso9660", at: 0x8001, magic: b"CD001", label: Label::Text(0x8028, 32), uuid: Uuid::None },
    Format { kind: "udf", at: 0x8001, magic: b"BEA01", label: Label::None, uuid: Uuid::None },
    Format {
        kind: "reiserfs",
        at: 0x1_0034,
        magic: b"ReIsEr",
        label: Label::Text(0x1_0064, 16),
        uuid: Uuid::Plain(0x1_0054),
    },
    Format { kind: "jfs", at: 0x8000, magic: b"JFS1", label: Label::Text(0x8098, 16), uuid: Uuid::Plain(0x8088) },
    Format { kind: "nilfs2", at: 0x406, magic: b"\x34\x34", label: Label::Text(0x498, 80), uuid: Uuid::Plain(0x488) },
    Format { kind: "apfs", at: 32, magic: b"NXSB", label: Label::None, uuid: Uuid::Plain(72) },
    Format { kind: "hfsplus", at: 1024, magic: b"H+\0\x04", label: Label::None, uuid: Uuid::None },
    Format { kind: "hfsplus", at: 1024, magic: b"HX\0\x05", label: Label::None, uuid: Uuid::None },
    Format { kind: "gfs2", at: 0x1_0000, magic: b"\x01\x16\x19\x70", label: Label::None, uuid: Uuid::None },
    Format { kind: "ocfs2", at: 0x2000, magic: b"OCFSV2", label: Label::None, uuid: Uuid::None },
    Format { kind: "ufs", at: 0x255c, magic: b"\x54\x19\x01\x00", label: Label::None, uuid: Uuid::None },
    Format { kind: "ufs", at: 0x1_055c, magic: b"\x19\x01\x54\x19", label: Label::None, uuid: Uuid::None },
];
