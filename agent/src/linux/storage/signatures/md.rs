//! Superblocks of Linux md, versions 0.90 and 1.x (Linux kernel, include/uapi/linux/raid/md_p.h).
//!
//! Called by `signatures`; pure. A superblock counts where its checksum holds and it lies where it says that it lies,
//! as for the kernel. What only has the magic is told as a signature: it may be somebody's all the same.
//! It knows nothing of other members: which arrays they make up is told by `disks`.

use muster_protocol::observed::{Contents, Metadata, RaidMember, Role};

use super::{Ends, signature};
use crate::linux::text::{clean, clean_bytes};

const MAGIC: u32 = 0xa92b_4efc;
/// A superblock of version 1 is never larger.
const V1_BYTES: usize = 4096;
/// Where its list of roles begins.
const V1_ROLES: usize = 256;
const V0_BYTES: usize = 4096;

/// Metadata 1.0 (8 KiB before the end, on a 4 KiB boundary) and 0.90 (in the last whole 64 KiB).
pub(super) fn at_the_end(ends: Ends<'_>) -> Option<Contents> {
    let v1 = (ends.size / 512).checked_sub(16).map(|sector| (sector & !7) * 512);
    let v0 = (ends.size & !0xffff).checked_sub(0x1_0000);
    v1.and_then(|at| version_1(ends, at, Metadata::V1_0)).or_else(|| v0.and_then(|at| version_0(ends, at)))
}

/// Metadata 1.1 and 1.2.
pub(super) fn at_the_start(ends: Ends<'_>) -> Option<Contents> {
    version_1(ends, 0, Metadata::V1_1).or_else(|| version_1(ends, 4096, Metadata::V1_2))
}

fn version_1(ends: Ends<'_>, at: u64, metadata: Metadata) -> Option<Contents> {
    if ends.u32_le(at) != Some(MAGIC) || ends.u32_le(at.saturating_add(4)) != Some(1) {
        return None;
    }
    let found = read_v1(ends, at, metadata).map(|member| Contents::Raid(Box::new(member)));
    Some(found.unwrap_or_else(|| signature("linux_raid_member")))
}

fn read_v1(ends: Ends<'_>, at: u64, metadata: Metadata) -> Option<RaidMember> {
    let u32_at = |offset: u64| ends.u32_le(at + offset);
    let u64_at = |offset: u64| ends.number(at + offset).map(u64::from_le_bytes);
    let roles = usize::try_from(u32_at(220)?).ok().filter(|roles| *roles <= (V1_BYTES - V1_ROLES) / 2)?;
    let whole = ends.at(at, V1_ROLES + 2 * roles)?;
    if u64_at(144)? != at / 512 || checksum_v1(whole) != u32_at(216)? {
        return None;
    }
    let own = usize::try_from(u32_at(160)?).ok()?;
    // The kernel takes one that is not in the list for a spare.
    let role = whole[V1_ROLES..].chunks_exact(2).nth(own).map_or(0xffff, |role| u16::from_le_bytes([role[0], role[1]]));
    let devices = u16::try_from(u32_at(92)?).ok()?;
    Some(RaidMember {
        array: ends.number(at + 16)?,
        name: ends.at(at + 32, 32).map(clean_bytes)?,
        level: level(u32_at(72)?),
        devices,
        role: match role {
            0xffff => Role::Spare,
            0xfffe => Role::Faulty,
            0xfffd => Role::Journal,
            slot => Role::Member(slot),
        },
        events: u64_at(200)?,
        used_bytes: u64_at(80)?.saturating_mul(512),
        metadata,
    })
}

/// The sum of all words but its own, folded once.
fn checksum_v1(whole: &[u8]) -> u32 {
    const OWN: usize = 216 / 4;
    let (words, rest) = whole.as_chunks::<4>();
    let sum = |(i, word): (usize, &[u8; 4])| if i == OWN { 0 } else { u64::from(u32::from_le_bytes(*word)) };
    let last = rest.first_chunk().map_or(0, |half| u64::from(u16::from_le_bytes(*half)));
    fold(words.iter().enumerate().map(sum).sum::<u64>() + last)
}

fn fold(sum: u64) -> u32 {
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// Version 0 is in the byte order of the machine that wrote it: one of the other order is told and not read.
fn version_0(ends: Ends<'_>, at: u64) -> Option<Contents> {
    let (magic, major) = (ends.u32_le(at)?, ends.u32_le(at + 4)?);
    if !matches!(magic, MAGIC | SWAPPED) || major != 0 {
        return None;
    }
    let found = read_v0(ends, at).map(|member| Contents::Raid(Box::new(member)));
    Some(found.unwrap_or_else(|| signature("linux_raid_member")))
}

const SWAPPED: u32 = MAGIC.swap_bytes();

fn read_v0(ends: Ends<'_>, at: u64) -> Option<RaidMember> {
    const CHECKSUM: usize = 38;
    const OWN_DISK: u64 = 992;
    const FAULTY: u32 = 1 << 0;
    const ACTIVE: u32 = 1 << 1;
    const SYNC: u32 = 1 << 2;
    let word = |index: u64| ends.u32_le(at + 4 * index);
    let (words, _) = ends.at(at, V0_BYTES)?.as_chunks::<4>();
    let sum = |(i, word): (usize, &[u8; 4])| if i == CHECKSUM { 0 } else { u64::from(u32::from_le_bytes(*word)) };
    if word(0)? != MAGIC || fold(words.iter().enumerate().map(sum).sum()) != word(CHECKSUM as u64)? {
        return None;
    }
    let mut array = [0; 16];
    for (part, index) in array.chunks_exact_mut(4).zip([5, 13, 14, 15]) {
        part.copy_from_slice(&word(index)?.to_be_bytes());
    }
    let devices = u16::try_from(word(10)?).ok()?;
    let (slot, state) = (word(OWN_DISK + 3)?, word(OWN_DISK + 4)?);
    let role = match u16::try_from(slot) {
        _ if state & FAULTY != 0 => Role::Faulty,
        Ok(slot) if slot < devices && state & (ACTIVE | SYNC) != 0 => Role::Member(slot),
        _ => Role::Spare,
    };
    Some(RaidMember {
        array,
        name: String::new(),
        level: level(word(7)?),
        devices,
        role,
        events: u64::from(word(40)?) << 32 | u64::from(word(39)?),
        used_bytes: u64::from(word(8)?) * 1024,
        metadata: Metadata::V0_90,
    })
}

fn level(number: u32) -> String {
    match number as i32 {
        -1 => "linear".into(),
        -4 => "multipath".into(),
        -5 => "faulty".into(),
        number @ 0.. => format!("raid{number}"),
        number => clean(&format!("level {number}")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A superblock of version 1 with four roles, its checksum right.
    pub(in super::super) fn v1(at: u64, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut sb = vec![0_u8; V1_ROLES + 8];
        let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(4, &1_u32.to_le_bytes());
        put(16, &[0x11; 16]);
        put(32, b"host:data");
        put(72, &5_u32.to_le_bytes());
        put(80, &1000_u64.to_le_bytes());
        put(92, &3_u32.to_le_bytes());
        put(144, &(at / 512).to_le_bytes());
        put(160, &2_u32.to_le_bytes());
        put(200, &77_u64.to_le_bytes());
        put(220, &4_u32.to_le_bytes());
        put(256, &[0, 0, 1, 0, 2, 0, 0xff, 0xff]);
        change(&mut sb);
        let sum = checksum_v1(&sb);
        sb[216..220].copy_from_slice(&sum.to_le_bytes());
        sb
    }

    fn member(head: &[u8]) -> Option<RaidMember> {
        let ends = Ends { head, tail: &[], size: head.len() as u64 };
        match at_the_start(ends)? {
            Contents::Raid(member) => Some(*member),
            other => {
                assert_eq!(other, signature("linux_raid_member"));
                None
            }
        }
    }

    #[test]
    fn a_member_tells_its_array_and_its_place() {
        let found = member(&v1(0, |_| {})).expect("a member");
        assert_eq!((found.name.as_str(), found.level.as_str(), found.devices), ("host:data", "raid5", 3));
        assert_eq!((found.role, found.events, found.used_bytes), (Role::Member(2), 77, 512_000));
        assert_eq!((found.metadata, found.array), (Metadata::V1_1, [0x11; 16]));
        for (own, role) in [(3_u8, Role::Spare), (4, Role::Spare), (200, Role::Spare)] {
            assert_eq!(member(&v1(0, |sb| sb[160] = own)).map(|m| m.role), Some(role), "{own}");
        }
        assert_eq!(member(&v1(0, |sb| sb[260] = 0xfe)).map(|m| m.role), Some(Role::Member(0xfe)));
        assert_eq!(member(&v1(0, |sb| sb[260..262].fill(0xfe))).map(|m| m.role), Some(Role::Member(0xfefe)));
        assert_eq!(
            member(&v1(0, |sb| sb[260..262].copy_from_slice(&[0xfe, 0xff]))).map(|m| m.role),
            Some(Role::Faulty)
        );
    }

    #[test]
    fn a_superblock_that_does_not_hold_is_a_signature_and_no_member() {
        let mut garbled = v1(0, |_| {});
        garbled[40] ^= 1;
        assert_eq!(member(&garbled), None, "the checksum");
        assert_eq!(member(&v1(0, |sb| sb[144] = 8)), None, "it lies elsewhere");
        assert_eq!(member(&v1(0, |sb| sb[220..224].fill(0xff))), None, "more roles than there is room for");
        assert_eq!(member(&v1(0, |_| {})[..258]), None, "cut");
        assert_eq!(member(&v1(0, |sb| sb[94] = 1)), None, "more members than md can have");
    }
}
