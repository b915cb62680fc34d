//! Who counts as one source: everything that is limited by where it comes from uses this.

use std::net::{IpAddr, Ipv6Addr};

/// The address that stands for all that count as one with this one: an IPv6 /64 is what the smallest network gets.
pub fn whole(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
