//! Which addresses of a subnet can be handed out.
//!
//! Pure: a subnet, what is held of it, and the time. `address` decides who gets what is found here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::edge::Edge;
use crate::fleet::State;
use crate::fleet::record::{Address, AddressHolder, AddressRange, NatRange, Subnet};

/// Who must be able to reach what is handed out. Differs in subnets with [`NatRange`]s alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// The world: only addresses that stand for a public one.
    Public,
    /// The network it is on: only addresses that stand for no public one, of which there are few.
    Local,
}

/// How full a subnet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Single addresses that are handed out.
    pub taken: u128,
    /// Given back a short time ago, and nobody's for now.
    pub quarantined: u128,
    /// Could be handed out now.
    pub free: u128,
}

/// Counts a subnet's addresses at this time, Unix milliseconds.
pub fn usage(state: &State, subnet: &Subnet, now_unix_ms: u64) -> Usage {
    let (mut taken, mut quarantined) = (0, 0);
    for held in held(state, subnet, now_unix_ms) {
        match held.holder {
            AddressHolder::Quarantine { .. } => quarantined += size(held.block),
            AddressHolder::Machine { .. } | AddressHolder::Pool { .. } | AddressHolder::Assigned { .. } => {
                taken += size(held.block);
            }
        }
    }
    Usage { taken, quarantined, free: gaps(subnet, None, held(state, subnet, now_unix_ms)) }
}

/// How many single addresses of a subnet could be handed out for this reach.
pub(super) fn count(state: &State, subnet: &Subnet, reach: Reach, now_unix_ms: u64) -> u128 {
    gaps(subnet, Some(reach), held(state, subnet, now_unix_ms))
}

/// Addresses that lie in no withheld range and in nobody's hands.
fn gaps<'a>(subnet: &Subnet, reach: Option<Reach>, held: impl Iterator<Item = &'a Address>) -> u128 {
    let hosts = usable(subnet.net);
    let (mut from, last) = (to_number(hosts.first), to_number(hosts.last));
    let mut shut: Vec<AddressRange> = withheld(subnet, reach).into_iter().chain(held.map(|a| range(a.block))).collect();
    shut.sort_by_key(|range| range.first);
    let mut free = 0;
    for range in shut {
        let first = to_number(range.first).min(last + 1);
        free += first.saturating_sub(from);
        from = from.max(to_number(range.last) + 1);
    }
    free + (last + 1).saturating_sub(from)
}

/// The lowest free block of this prefix length, none of which is the network's, the gateway's, reserved or anybody's.
#[cfg(test)]
pub(super) fn lowest(state: &State, subnet: &Subnet, reach: Reach, length: u8, now_unix_ms: u64) -> Option<IpNet> {
    search(state, subnet, reach, length, now_unix_ms).0
}

/// The same, with the [edge](super::edge) below which there is none. The search begins at the one that is known.
pub(super) fn search(
    state: &State,
    subnet: &Subnet,
    reach: Reach,
    length: u8,
    now_unix_ms: u64,
) -> (Option<IpNet>, Edge) {
    let AddressRange { first, last } = usable(subnet.net);
    let size = 1_u128 << (subnet.net.max_prefix_len() - length);
    let aligned = |number: u128| number.next_multiple_of(size);
    let known = state.edges().get(&(subnet.net, reach, length), now_unix_ms);
    let mut until_unix_ms = known.map_or(u64::MAX, |edge| edge.until_unix_ms);
    let (first, last) = (known.map_or(to_number(first), |edge| edge.at.max(to_number(first))), to_number(last));
    let mut at = aligned(first);
    let mut withheld = withheld(subnet, Some(reach)).into_iter().peekable();
    let begin = to_address(subnet.net, first);
    let mut held = recorded_from(state, subnet, begin).filter(|address| !is_over(address, now_unix_ms)).peekable();
    while at + (size - 1) <= last {
        let end = at + (size - 1);
        let in_the_way = |range: &AddressRange| to_number(range.first) <= end;
        let range = withheld.next_if(in_the_way).or_else(|| {
            let held = held.next_if(|address| in_the_way(&range(address.block)))?;
            if let AddressHolder::Quarantine { until_unix_ms: end } = held.holder {
                until_unix_ms = until_unix_ms.min(end);
            }
            Some(range(held.block))
        });
        let Some(range) = range else {
            return (IpNet::new(to_address(subnet.net, at), length).ok(), Edge { at, until_unix_ms });
        };
        if to_number(range.last) >= at {
            at = aligned(to_number(range.last) + 1);
        }
    }
    (None, Edge { at, until_unix_ms })
}

/// What somebody has of a subnet, or has had until a short time ago, in order.
pub(super) fn held<'a>(
    state: &'a State,
    subnet: &Subnet,
    now_unix_ms: u64,
) -> impl Iterator<Item = &'a Address> + use<'a> {
    recorded(state, subnet).filter(move |address| !is_over(address, now_unix_ms))
}

/// When the quarantines of a subnet that have not ended do so, Unix milliseconds, by their addresses.
pub fn ends<'a>(state: &'a State, subnet: &Subnet, now_unix_ms: u64) -> impl Iterator<Item = u64> + use<'a> {
    held(state, subnet, now_unix_ms).filter_map(|address| match address.holder {
        AddressHolder::Quarantine { until_unix_ms } => Some(until_unix_ms),
        AddressHolder::Machine { .. } | AddressHolder::Pool { .. } | AddressHolder::Assigned { .. } => None,
    })
}

/// Every record of a subnet's addresses, in order.
pub(super) fn recorded<'a>(state: &'a State, subnet: &Subnet) -> impl Iterator<Item = &'a Address> + use<'a> {
    let net = subnet.net;
    // Before every block within the subnet: same address, shorter prefix.
    state.addresses.after(&before(net.addr())).take_while(move |a| net.contains(&a.block))
}

/// Those that do not end before this address.
fn recorded_from<'a>(state: &'a State, subnet: &Subnet, from: IpAddr) -> impl Iterator<Item = &'a Address> + use<'a> {
    let (net, last) = (subnet.net, subnet.net.broadcast());
    let reaches_in = state.addresses.before(&before(from)).next().filter(move |a| a.block.contains(&from));
    // Keys are in the order of addresses.
    reaches_in
        .into_iter()
        .chain(state.addresses.after(&before(from)))
        .take_while(move |a| a.block.addr() <= last)
        .filter(move |a| net.contains(&a.block.addr()))
}

/// The records that share addresses with a block. They share none with each other.
pub(super) fn overlapping<'a>(state: &'a State, block: IpNet) -> impl Iterator<Item = &'a Address> + use<'a> {
    let first = before(block.addr());
    let reaches_in = state.addresses.before(&first).next().filter(move |a| a.block.contains(&block));
    let within = state.addresses.after(&first).take_while(move |a| block.contains(&a.block.addr()));
    reaches_in.into_iter().chain(within)
}

/// A key that sorts before every block that begins with this address.
pub(super) fn before(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new_assert(v4, 0)),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new_assert(v6, 0)),
    }
}

/// Whether this was a quarantine that has ended: a record that holds nothing any more.
pub fn is_over(address: &Address, now_unix_ms: u64) -> bool {
    matches!(address.holder, AddressHolder::Quarantine { until_unix_ms } if until_unix_ms <= now_unix_ms)
}

/// The addresses of a prefix that hosts can have: not the network's own, and for IPv4 not the broadcast address.
/// IPv6 has no broadcast, but its lowest address is every router's (RFC 4291, 2.6.1).
pub(super) fn usable(net: IpNet) -> AddressRange {
    let (first, last) = (to_number(net.network()), to_number(net.broadcast()));
    match net {
        IpNet::V4(_) => AddressRange { first: to_address(net, first + 1), last: to_address(net, last - 1) },
        IpNet::V6(_) => AddressRange { first: to_address(net, first + 1), last: net.broadcast() },
    }
}

impl AddressRange {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

/// What is never handed out of a subnet to those of this reach, by the first address.
fn withheld(subnet: &Subnet, reach: Option<Reach>) -> Vec<AddressRange> {
    let gateway = subnet.gateway.filter(|a| subnet.net.contains(a)).map(|a| AddressRange { first: a, last: a });
    let mut ranges: Vec<AddressRange> = subnet.reserved.iter().copied().chain(gateway).collect();
    let translated = || subnet.nat.iter().map(|NatRange { private, .. }| range(*private));
    match reach {
        Some(Reach::Local) => ranges.extend(translated()),
        Some(Reach::Public) if !subnet.nat.is_empty() => ranges.extend(between(subnet.net, translated())),
        Some(Reach::Public) | None => {}
    }
    ranges.sort_by_key(|range| range.first);
    ranges
}

/// What of a prefix lies between ranges that do not overlap.
fn between(net: IpNet, ranges: impl Iterator<Item = AddressRange>) -> Vec<AddressRange> {
    let mut ranges: Vec<AddressRange> = ranges.collect();
    ranges.sort_by_key(|range| range.first);
    let (mut from, last) = (to_number(net.network()), to_number(net.broadcast()));
    let mut rest = Vec::new();
    let mut add = |from: u128, last: u128| {
        if from <= last {
            rest.push(AddressRange { first: to_address(net, from), last: to_address(net, last) });
        }
    };
    for range in ranges {
        add(from, to_number(range.first) - 1);
        from = to_number(range.last) + 1;
    }
    add(from, last);
    rest
}

fn range(block: IpNet) -> AddressRange {
    AddressRange { first: block.network(), last: block.broadcast() }
}

fn size(block: IpNet) -> u128 {
    to_number(block.broadcast()) - to_number(block.network()) + 1
}

/// Addresses as numbers; no prefix that can be declared begins with the lowest or ends in the highest one, so `- 1` and
/// `+ 1` stay in range.
pub(super) fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of the net's family with this number.
pub(super) fn to_address(net: IpNet, number: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}
