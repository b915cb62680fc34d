//! Subnets and the addresses handed out from them: lowest free first, each to one holder.
//!
//! Called by the operator API (subnets), by leases (a machine's own addresses) and by the IAL (pools of Cycle's).
//! That no address has two holders follows from the one writer: looking for a free one and taking it are one change.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use muster_protocol::MachineId;

use crate::fleet::record::{Address, AddressHolder, AddressRange, Subnet};
use crate::fleet::{Draft, Facts, Refusal, State, location};
use crate::words::counted;

/// The most reserved ranges and nameservers of one subnet.
const LIST_LIMIT: usize = 64;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One address, `FIRST-LAST`, or a prefix such as `192.0.2.8/29`.
impl FromStr for AddressRange {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            let shown: String = text.chars().take(80).collect();
            Refusal::invalid(
                "reserved",
                format!("{shown:?} is no address, FIRST-LAST or prefix, like 192.0.2.1-192.0.2.9"),
            )
        };
        if let Ok(net) = text.trim().parse::<IpNet>() {
            return Ok(Self { first: net.network(), last: net.broadcast() });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let read = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| wrong());
        let (first, last) = (read(first)?, read(last)?);
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(wrong());
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Declares a subnet.
///
/// Errors: no such location; host bits, a prefix nobody can hand out from, or one that overlaps with another subnet;
/// a gateway or a reserved range outside of it.
pub fn add_subnet(draft: &mut Draft, subnet: Subnet) -> Result<Subnet, Refusal> {
    location::choose(draft.state(), "location", &subnet.location)?;
    check_subnet(&subnet)?;
    let overlaps = |other: &&Subnet| other.net.contains(&subnet.net) || subnet.net.contains(&other.net);
    if let Some(other) = draft.state().subnets.iter().find(overlaps) {
        let at = &other.location;
        return Err(Refusal::Conflict(format!(
            "{} overlaps with {}, which is declared at {at}",
            subnet.net, other.net
        )));
    }
    draft.audit("subnet.added", subnet.net, Facts::none(), facts(&subnet));
    draft.event("subnet.added", subnet.net, format!("{} may be handed out at {}", subnet.net, subnet.location));
    draft.put(subnet.clone());
    Ok(subnet)
}

/// Removes a subnet from which nothing is handed out.
pub fn remove_subnet(draft: &mut Draft, net: IpNet) -> Result<(), Refusal> {
    let subnet = draft.need::<Subnet>(&net)?;
    let held = taken(draft.state(), &subnet).count();
    if held > 0 {
        return Err(Refusal::Conflict(format!("{net} still has {} handed out", counted(held, "address"))));
    }
    draft.audit("subnet.removed", net, facts(&subnet), Facts::none());
    draft.event("subnet.removed", net, format!("{net} is no longer handed out"));
    draft.delete::<Subnet>(&net);
    Ok(())
}

fn facts(subnet: &Subnet) -> Facts {
    fn list<T: ToString>(items: &[T]) -> String {
        items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
    Facts::of([
        ("location", subnet.location.clone()),
        ("gateway", subnet.gateway.map(|gateway| gateway.to_string()).unwrap_or_default()),
        ("nameservers", list(&subnet.nameservers)),
        ("reserved", list(&subnet.reserved)),
    ])
}

fn check_subnet(subnet: &Subnet) -> Result<(), Refusal> {
    let net = subnet.net;
    if net != net.trunc() {
        return Err(Refusal::invalid("net", format!("{net} has host bits set; write {}", net.trunc())));
    }
    let useful = match net {
        IpNet::V4(net) => (8..=30).contains(&net.prefix_len()),
        IpNet::V6(net) => (32..=126).contains(&net.prefix_len()),
    };
    if !useful {
        let problem =
            format!("{net} cannot be handed out from: a prefix has 8 to 30 bits for IPv4, 32 to 126 for IPv6");
        return Err(Refusal::invalid("net", problem));
    }
    if !is_unicast(net.network()) || !is_unicast(net.broadcast()) {
        return Err(Refusal::invalid("net", format!("{net} is not for hosts; take a unicast prefix")));
    }
    if let Some(gateway) = subnet.gateway {
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let inside = usable(net).contains(gateway) || (link_local && matches!(net, IpNet::V6(_)));
        if !inside {
            return Err(Refusal::invalid("gateway", format!("{gateway} is not a host's address within {net}")));
        }
    }
    for range in &subnet.reserved {
        if !net.contains(&range.first) || !net.contains(&range.last) || range.first > range.last {
            return Err(Refusal::invalid("reserved", format!("{range} is not within {net}")));
        }
    }
    if subnet.reserved.len() > LIST_LIMIT || subnet.nameservers.len() > 16 {
        return Err(Refusal::invalid("reserved", "a subnet has at most 64 reserved ranges and 16 nameservers"));
    }
    if let Some(not_one) = subnet.nameservers.iter().find(|a| !is_unicast(**a)) {
        return Err(Refusal::invalid("nameservers", format!("{not_one} cannot be a nameserver's address")));
    }
    Ok(())
}

fn is_unicast(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !special && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
}

/// How full a subnet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Handed out.
    pub taken: u128,
    /// Could be handed out now.
    pub free: u128,
}

/// Counts a subnet's addresses.
pub fn usage(state: &State, subnet: &Subnet) -> Usage {
    let (mut kept, mut from) = (0, to_number(usable(subnet.net).first));
    let last = to_number(usable(subnet.net).last);
    for range in withheld(subnet) {
        let first = to_number(range.first).max(from);
        let end = to_number(range.last).min(last);
        if first <= end {
            kept += end - first + 1;
            from = end + 1;
        }
    }
    let taken = taken(state, subnet).count() as u128;
    let all = last - to_number(usable(subnet.net).first) + 1;
    Usage { taken, free: all.saturating_sub(kept).saturating_sub(taken) }
}

/// Takes the lowest free address of `family` at a location. Subnets are used in the order of their prefixes.
///
/// Errors: [`Refusal::Exhausted`], also where no subnet of that family is declared there.
pub fn take(
    draft: &mut Draft,
    location: &str,
    family: Family,
    holder: AddressHolder,
) -> Result<(Address, Subnet), Refusal> {
    let state = draft.state();
    let free = subnets(state, location, family).find_map(|s| lowest_free(state, s).map(|at| (at, s.clone())));
    let Some((address, subnet)) = free else {
        let declared = subnets(state, location, family).count();
        let why = if declared == 0 {
            format!("no {family} subnet is declared at {location}")
        } else {
            format!("every {family} address at {location} is handed out ({declared} subnets)")
        };
        return Err(Refusal::Exhausted(why));
    };
    let record =
        Address { block: IpNet::from(address), subnet: subnet.net, holder, since_unix_ms: draft.now_unix_ms() };
    draft.audit("address.taken", address, Facts::none(), holder_facts(&record.holder));
    draft.event("address.taken", address, format!("{address} of {} is handed out", subnet.net));
    draft.put(record.clone());
    Ok((record, subnet))
}

/// Whether a subnet of this family is declared at a location.
pub fn is_offered(state: &State, location: &str, family: Family) -> bool {
    subnets(state, location, family).next().is_some()
}

/// Gives an address back. Nothing happens where nobody has it.
pub fn release(draft: &mut Draft, block: IpNet) {
    if let Some(address) = draft.get::<Address>(&block) {
        let before = holder_facts(&address.holder);
        draft.audit("address.released", block.addr(), before, Facts::none());
        draft.event("address.released", block.addr(), format!("{} is free again", block.addr()));
        draft.delete::<Address>(&block);
    }
}

/// Who has an address, for the audit log. The name of its handing-out is left out: whoever knows it may give it back.
fn holder_facts(holder: &AddressHolder) -> Facts {
    match holder {
        AddressHolder::Machine { machine, lease } => {
            Facts::of([("machine", machine.to_string()), ("lease", lease.clone())])
        }
        AddressHolder::Pool { hub, pool, lease, .. } => {
            Facts::of([("hub", hub.clone()), ("pool", pool.clone()), ("lease", lease.clone())])
        }
    }
}

/// Gives back what a machine has for itself.
pub fn release_machine(draft: &mut Draft, id: MachineId) {
    let held = |a: &&Address| matches!(a.holder, AddressHolder::Machine { machine, .. } if machine == id);
    let blocks: Vec<IpNet> = draft.state().addresses.iter().filter(held).map(|a| a.block).collect();
    for block in blocks {
        release(draft, block);
    }
}

/// Gives back, at an operator's word, what a pool of Cycle's holds.
///
/// Errors: nobody has it; a machine has it for itself and gives it back when its lease ends.
pub fn reclaim(draft: &mut Draft, block: IpNet) -> Result<(), Refusal> {
    let address = draft.need::<Address>(&block)?;
    match &address.holder {
        AddressHolder::Machine { lease, .. } => {
            Err(Refusal::Conflict(format!("{block} belongs to a machine of lease {lease}; it is freed when that ends")))
        }
        AddressHolder::Pool { .. } => {
            release(draft, block);
            Ok(())
        }
    }
}

fn subnets<'a>(state: &'a State, location: &str, family: Family) -> impl Iterator<Item = &'a Subnet> {
    state.subnets.iter().filter(move |s| s.location == location && Family::of(s.net.addr()) == family)
}

/// What is handed out of a subnet, in order.
fn taken<'a>(state: &'a State, subnet: &Subnet) -> impl Iterator<Item = &'a Address> + use<'a> {
    let net = subnet.net;
    // Before every block within the subnet: same address, shorter prefix.
    let before = match net {
        IpNet::V4(net) => IpNet::V4(Ipv4Net::new(net.addr(), 0).unwrap_or(net)),
        IpNet::V6(net) => IpNet::V6(Ipv6Net::new(net.addr(), 0).unwrap_or(net)),
    };
    state.addresses.after(&before).take_while(move |a| net.contains(&a.block))
}

/// The addresses of a prefix that hosts can have: not the network's own, and for IPv4 not the broadcast address.
/// IPv6 has no broadcast, but its lowest address is every router's (RFC 4291, 2.6.1).
fn usable(net: IpNet) -> AddressRange {
    let (first, last) = (to_number(net.network()), to_number(net.broadcast()));
    match net {
        IpNet::V4(_) => AddressRange { first: to_address(net, first + 1), last: to_address(net, last - 1) },
        IpNet::V6(_) => AddressRange { first: to_address(net, first + 1), last: net.broadcast() },
    }
}

impl AddressRange {
    fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

/// What is never handed out of a subnet, by the first address.
fn withheld(subnet: &Subnet) -> Vec<AddressRange> {
    let gateway = subnet.gateway.filter(|a| subnet.net.contains(a)).map(|a| AddressRange { first: a, last: a });
    let mut ranges: Vec<AddressRange> = subnet.reserved.iter().copied().chain(gateway).collect();
    ranges.sort_by_key(|range| range.first);
    ranges
}

fn lowest_free(state: &State, subnet: &Subnet) -> Option<IpAddr> {
    let AddressRange { first, last } = usable(subnet.net);
    let (mut at, last) = (to_number(first), to_number(last));
    let mut withheld = withheld(subnet).into_iter().peekable();
    let mut taken = taken(state, subnet).peekable();
    while at <= last {
        if let Some(range) = withheld.next_if(|range| to_number(range.first) <= at) {
            at = at.max(to_number(range.last) + 1);
        } else if let Some(held) = taken.next_if(|held| to_number(held.block.network()) <= at) {
            at = at.max(to_number(held.block.broadcast()) + 1);
        } else {
            return Some(to_address(subnet.net, at));
        }
    }
    None
}

/// Addresses as numbers; no prefix that can be declared ends in the highest one, so `+ 1` stays in range.
fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn to_address(net: IpNet, number: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::record::Location;

    fn site(draft: &mut Draft) {
        for code in ["ber1", "ham1"] {
            let location = Location { code: code.into(), ..Location::default() };
            location::put(draft, location).expect("a location");
        }
    }

    fn subnet(net: &str, gateway: &str, reserved: &[&str]) -> Subnet {
        Subnet {
            net: net.parse().expect("a prefix"),
            location: "ber1".into(),
            gateway: gateway.parse().ok(),
            nameservers: Vec::new(),
            reserved: reserved.iter().map(|r| r.parse().expect("a range")).collect(),
        }
    }

    fn pool(name: &str) -> AddressHolder {
        let assignment = format!("a{name}");
        AddressHolder::Pool { hub: "acme".into(), pool: name.into(), lease: "l".into(), assignment }
    }

    fn take_all(draft: &mut Draft, family: Family) -> Vec<String> {
        std::iter::from_fn(|| take(draft, "ber1", family, pool("p")).ok()).map(|(a, _)| a.block.to_string()).collect()
    }

    #[test]
    fn the_lowest_free_address_goes_first_and_gateway_reserved_network_and_broadcast_never() {
        let mut draft = draft();
        site(&mut draft);
        let reserved = ["203.0.113.2", "203.0.113.4-203.0.113.5", "203.0.113.12/31"];
        add_subnet(&mut draft, subnet("203.0.113.0/28", "203.0.113.7", &reserved)).expect("added");
        let last: Vec<u8> = vec![1, 3, 6, 8, 9, 10, 11, 14];
        let expected: Vec<String> = last.iter().map(|n| format!("203.0.113.{n}/32")).collect();
        let record = draft.state().subnets.iter().next().cloned().expect("there");
        assert_eq!(usage(draft.state(), &record), Usage { taken: 0, free: 8 });
        assert_eq!(take_all(&mut draft, Family::V4), expected);
        assert_eq!(usage(draft.state(), &record), Usage { taken: 8, free: 0 });
        assert!(matches!(take(&mut draft, "ber1", Family::V4, pool("p")), Err(Refusal::Exhausted(_))));
        release(&mut draft, "203.0.113.9/32".parse().expect("a block"));
        release(&mut draft, "203.0.113.9/32".parse().expect("a block"));
        release(&mut draft, "203.0.113.6/32".parse().expect("a block"));
        assert_eq!(take_all(&mut draft, Family::V4), ["203.0.113.6/32", "203.0.113.9/32"]);
    }

    #[test]
    fn reserved_ranges_may_overlap_each_other_and_reach_to_the_end() {
        let mut draft = draft();
        site(&mut draft);
        let reserved = ["192.0.2.0-192.0.2.3", "192.0.2.2-192.0.2.5", "192.0.2.3", "192.0.2.6-192.0.2.7"];
        let record = add_subnet(&mut draft, subnet("192.0.2.0/29", "192.0.2.1", &reserved)).expect("added");
        assert_eq!(usage(draft.state(), &record), Usage { taken: 0, free: 0 });
        assert_eq!(take_all(&mut draft, Family::V4), [""; 0]);
    }

    #[test]
    fn several_subnets_of_one_location_are_used_in_order_and_other_locations_are_left_alone() {
        let mut draft = draft();
        site(&mut draft);
        add_subnet(&mut draft, Subnet { location: "ham1".into(), ..subnet("192.0.2.0/30", "", &[]) }).expect("added");
        add_subnet(&mut draft, subnet("203.0.113.4/30", "203.0.113.5", &[])).expect("added");
        add_subnet(&mut draft, subnet("198.51.100.0/30", "", &[])).expect("added");
        assert_eq!(take_all(&mut draft, Family::V4), ["198.51.100.1/32", "198.51.100.2/32", "203.0.113.6/32"]);
        assert!(
            matches!(take(&mut draft, "ber1", Family::V6, pool("p")), Err(Refusal::Exhausted(why)) if why.contains("no IPv6 subnet"))
        );
    }

    #[test]
    fn ipv6_addresses_are_single_and_the_routers_anycast_address_is_kept() {
        let mut draft = draft();
        site(&mut draft);
        let reserved = ["2001:db8:1::3-2001:db8:1::ffff"];
        add_subnet(&mut draft, subnet("2001:db8:1::/64", "2001:db8:1::1", &reserved)).expect("added");
        for expected in ["2001:db8:1::2/128", "2001:db8:1::1:0/128", "2001:db8:1::1:1/128"] {
            let (address, subnet) = take(&mut draft, "ber1", Family::V6, pool("p")).expect("free");
            assert_eq!((address.block.to_string().as_str(), subnet.net.prefix_len()), (expected, 64));
        }
    }

    #[test]
    fn a_subnet_that_overlaps_or_is_not_sound_is_refused_with_its_field() {
        let mut draft = draft();
        site(&mut draft);
        add_subnet(&mut draft, subnet("203.0.113.0/28", "203.0.113.1", &[])).expect("added");
        for net in ["203.0.113.0/28", "203.0.113.8/29", "203.0.112.0/23"] {
            assert!(matches!(add_subnet(&mut draft, subnet(net, "", &[])), Err(Refusal::Conflict(_))), "{net}");
        }
        let cases = [
            (subnet("192.0.2.1/24", "", &[]), "net"),
            (subnet("192.0.2.0/31", "", &[]), "net"),
            (subnet("0.0.0.0/8", "", &[]), "net"),
            (subnet("127.0.0.0/8", "", &[]), "net"),
            (subnet("224.0.0.0/24", "", &[]), "net"),
            (subnet("255.255.255.0/24", "", &[]), "net"),
            (subnet("fe80::/64", "", &[]), "net"),
            (subnet("2001:db8::/127", "", &[]), "net"),
            (subnet("192.0.2.0/24", "192.0.3.1", &[]), "gateway"),
            (subnet("192.0.2.0/24", "192.0.2.0", &[]), "gateway"),
            (subnet("192.0.2.0/24", "192.0.2.255", &[]), "gateway"),
            (subnet("192.0.2.0/24", "2001:db8::1", &[]), "gateway"),
            (subnet("192.0.2.0/24", "", &["192.0.3.1"]), "reserved"),
            (subnet("192.0.2.0/24", "", &["2001:db8::1"]), "reserved"),
        ];
        for (subnet, field) in cases {
            let text = format!("{subnet:?}");
            let refusal = add_subnet(&mut draft, subnet);
            assert!(matches!(&refusal, Err(Refusal::Invalid { field: f, .. }) if f == field), "{text}: {refusal:?}");
        }
        let nowhere = Subnet { location: "nowhere".into(), ..subnet("192.0.2.0/24", "", &[]) };
        assert!(matches!(add_subnet(&mut draft, nowhere), Err(Refusal::Invalid { field, .. }) if field == "location"));
        assert_eq!(draft.state().subnets.len(), 1);
    }

    #[test]
    fn a_subnet_leaves_only_when_nothing_is_handed_out_from_it() {
        let mut draft = draft();
        site(&mut draft);
        let net = add_subnet(&mut draft, subnet("192.0.2.0/30", "", &[])).expect("added").net;
        let (address, _) = take(&mut draft, "ber1", Family::V4, pool("p")).expect("free");
        assert!(matches!(remove_subnet(&mut draft, net), Err(Refusal::Conflict(_))));
        reclaim(&mut draft, address.block).expect("reclaimed");
        assert!(matches!(reclaim(&mut draft, address.block), Err(Refusal::NotFound { .. })));
        remove_subnet(&mut draft, net).expect("removed");
        assert!(matches!(remove_subnet(&mut draft, net), Err(Refusal::NotFound { .. })));
    }

    #[test]
    fn a_range_reads_what_it_writes_and_nothing_else() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1 - 192.0.2.9", "192.0.2.1-192.0.2.9"),
            ("192.0.2.8/30", "192.0.2.8-192.0.2.11"),
            ("2001:db8::1-2001:db8::2", "2001:db8::1-2001:db8::2"),
        ] {
            assert_eq!(text.parse::<AddressRange>().map(|r| r.to_string()).as_deref(), Ok(shown));
        }
        for text in ["", "-", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "a-b", "192.0.2.1-", "192.0.2.0/33"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
