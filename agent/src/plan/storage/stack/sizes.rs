//! How much of what is below is left above: what layers take for themselves.
//!
//! Used by the planner, by the model, and by who makes volumes: all count alike. What a program takes depends on its
//! version; here is the least that any takes, so that what is refused for want of room had none.

use muster_protocol::desired::{RaidLevel, VolumeSize};

const MIB: u64 = 1 << 20;

/// Bytes that LUKS2 takes for its headers (cryptsetup: `LUKS2_DEFAULT_HDR_SIZE`).
pub(in super::super) const LUKS_BYTES: u64 = 16 * MIB;

/// Bytes of an array of so many members, the smallest of which has so many.
pub(in super::super) fn array_bytes(level: RaidLevel, members: usize, least: u64) -> u64 {
    level.data_bytes(members as u64, least.saturating_sub(MIB) / 65536 * 65536)
}

/// Extents of a physical volume of so many bytes: its label and metadata take the first MiB.
pub(in super::super) fn extents(size_bytes: u64, extent_bytes: u64) -> u64 {
    size_bytes.saturating_sub(MIB) / extent_bytes.max(1)
}

/// Extents that a volume is to have, in a group that has so many and so many for it.
pub fn volume_extents(size: VolumeSize, all: u64, free: u64, extent_bytes: u64) -> u64 {
    match size {
        VolumeSize::Mib(mib) => mib.saturating_mul(MIB).div_ceil(extent_bytes.max(1)),
        VolumeSize::Percent(percent) => all.saturating_mul(u64::from(percent)) / 100,
        VolumeSize::Rest => free,
    }
}

/// Extents of a thin pool that is to have so many, in a group with so many free: its own, and those of its metadata,
/// which are taken twice, since LVM2 keeps as many for repairs. Where there is too little, the pool is smaller.
pub fn pool_extents(wanted: u64, free: u64, extent_bytes: u64) -> (u64, u64) {
    // 64 bytes for each chunk of 64 KiB. LVM2 has larger chunks in pools that would need more.
    let bytes = (wanted.saturating_mul(extent_bytes) / 1024).clamp(4 * MIB, 128 * MIB);
    let metadata = bytes.div_ceil(extent_bytes.max(1));
    (wanted.min(free.saturating_sub(2 * metadata)), metadata)
}
