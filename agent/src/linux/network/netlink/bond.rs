//! Bonds (linux/if_link.h; drivers/net/bonding/bond_netlink.c).
//!
//! A part of [`link`](super::link): what is special about links of this kind.

use std::net::{IpAddr, Ipv4Addr};

use muster_protocol::Mac;
use muster_protocol::desired::{BondMode, BondOption};
use muster_protocol::observed::Bond;

use super::address::ip;
use super::link;
use super::wire::{Request, attribute, attributes, u32_at};
use crate::sort;

const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_ARP_IP_TARGET: u16 = 8;
const IFLA_BOND_PRIMARY: u16 = 11;

const IFLA_BOND_SLAVE_PERM_HWADDR: u16 = 4;

/// The kernel's number of an option, `IFLA_BOND_*`, and its width in bytes.
fn layout(option: BondOption) -> (u16, usize) {
    match option {
        BondOption::MiiMonitorInterval => (3, 4),
        BondOption::UpDelay => (4, 4),
        BondOption::DownDelay => (5, 4),
        BondOption::LacpRate => (21, 1),
        BondOption::AdSelect => (22, 1),
        BondOption::MinLinks => (18, 4),
        BondOption::TransmitHashPolicy => (14, 1),
        BondOption::AllMembersActive => (17, 1),
        BondOption::ArpInterval => (7, 4),
        BondOption::ArpValidate => (9, 4),
        BondOption::ArpAllTargets => (10, 4),
        BondOption::FailOverMac => (13, 1),
        BondOption::GratuitousArp => (16, 1),
        BondOption::PrimaryReselect => (12, 1),
        BondOption::ResendIgmp => (15, 4),
        BondOption::LearnPacketInterval => (19, 4),
        BondOption::PacketsPerMember => (20, 4),
    }
}

/// Reads what the kernel says of a bond; `None` where it is malformed, or of a mode that is not known here.
pub(super) fn decode(data: &[u8]) -> Option<Bond> {
    let number = *attribute(data, IFLA_BOND_MODE)?.first()?;
    let mode = *BondMode::ALL.get(usize::from(number))?;
    let value = |option: BondOption| match (attribute(data, layout(option).0)?, layout(option).1) {
        (value, 1) => value.first().map(|byte| u32::from(*byte)),
        (value, _) => u32_at(value, 0),
    };
    let known = BondOption::ALL.into_iter().filter(|option| option.is_of(mode));
    let targets = attributes(attribute(data, IFLA_BOND_ARP_IP_TARGET).unwrap_or_default());
    Some(Bond {
        mode,
        primary: attribute(data, IFLA_BOND_PRIMARY).and_then(|v| u32_at(v, 0)),
        arp_ip_targets: targets
            .filter_map(|(_, target)| match ip(target)? {
                IpAddr::V4(target) => Some(target),
                IpAddr::V6(_) => None,
            })
            .collect(),
        options: sort::map(known.filter_map(|option| Some((option, value(option)?)))),
    })
}

/// Reads what the kernel says of a bond's port: the MAC that it had before it was one.
pub(super) fn decode_port(data: &[u8]) -> Option<Mac> {
    Some(Mac::from_bytes(attribute(data, IFLA_BOND_SLAVE_PERM_HWADDR)?.try_into().ok()?))
}

/// Makes a bond; it is down, and has no ports.
pub fn create(name: &str, mode: BondMode) -> Request {
    // The kernel's numbers are those of the list.
    link::create(name, "bond", |data| data.attribute(IFLA_BOND_MODE, &[mode as u8]))
}

/// Sets options of a bond at once. The kernel takes them in its own order and stops at the first that it refuses.
pub fn set(index: u32, options: &[(BondOption, u32)]) -> Request {
    link::change(index, "bond", |data| {
        options.iter().fold(data, |data, &(option, value)| {
            match layout(option) {
                // Checked documents have nothing wider here.
                (kind, 1) => data.attribute(kind, &[value as u8]),
                (kind, _) => data.number(kind, value),
            }
        })
    })
}

/// Sets whom a bond asks for by ARP, instead of those that it asked for.
pub fn set_arp_targets(index: u32, targets: &[Ipv4Addr]) -> Request {
    link::change(index, "bond", |data| {
        data.nested(IFLA_BOND_ARP_IP_TARGET, |list| {
            // They are at most 16.
            (0..).zip(targets).fold(list, |list, (at, target)| list.attribute(at, &target.octets()))
        })
    })
}

/// Sets the port that a bond prefers, by interface index; `None` for no preference.
pub fn set_primary(index: u32, port: Option<u32>) -> Request {
    link::change(index, "bond", |data| data.number(IFLA_BOND_PRIMARY, port.unwrap_or(0)))
}
