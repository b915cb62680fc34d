//! Subnets: what may be handed out at a location, declared whole.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::free::{held, recorded, to_address, to_number, usable};
use crate::fleet::record::{Address, AddressHolder, AddressRange, NatRange, Subnet};
use crate::fleet::{Draft, Facts, Refusal, location};
use crate::words::counted;

/// The most reserved ranges and pairs of one subnet.
const LIST_LIMIT: usize = 64;

/// How long an address that was given back is nobody's, unless its subnet says otherwise: neighbors and firewalls forget
/// whom they knew by it within minutes, and resolvers within what most names are good for.
pub const QUARANTINE_S: u32 = 600;

/// The longest quarantine, 30 days.
const QUARANTINE_LIMIT_S: u32 = 30 * 24 * 3600;

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

/// `PRIVATE=PUBLIC`: two addresses, or two prefixes of one length, such as `10.0.0.16/28=203.0.113.16/28`.
impl FromStr for NatRange {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            let shown: String = text.chars().take(80).collect();
            Refusal::invalid("nat", format!("{shown:?} is no PRIVATE=PUBLIC, like 10.0.0.16/28=203.0.113.16/28"))
        };
        let read = |part: &str| {
            let part = part.trim();
            part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)).map_err(|_| wrong())
        };
        let (private, public) = text.split_once('=').ok_or_else(wrong)?;
        Ok(Self { private: read(private)?, public: read(public)? })
    }
}

impl fmt::Display for NatRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |net: IpNet| {
            if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
        };
        write!(f, "{}={}", show(self.private), show(self.public))
    }
}

impl Subnet {
    /// Of this prefix at this location, with nothing else said: no gateway, all of it handed out one by one.
    pub fn new(net: IpNet, location: impl Into<String>) -> Self {
        Self {
            net,
            location: location.into(),
            gateway: None,
            nameservers: Vec::new(),
            reserved: Vec::new(),
            nat: Vec::new(),
            block: None,
            quarantine_s: QUARANTINE_S,
        }
    }

    /// By which address the world reaches one of this subnet: the public one of its pair, or itself.
    pub fn public(&self, address: IpAddr) -> IpAddr {
        let pair = self.nat.iter().find(|pair| pair.private.contains(&address));
        pair.map_or(address, |NatRange { private, public }| {
            to_address(*public, to_number(public.network()) + (to_number(address) - to_number(private.network())))
        })
    }
}

/// Declares a subnet.
///
/// Errors: no such location; host bits, a prefix nobody can hand out from, or one that overlaps with another subnet;
/// a gateway, a reserved range or a pair outside of it; a block or a quarantine that is none.
pub fn add(draft: &mut Draft, subnet: Subnet) -> Result<Subnet, Refusal> {
    location::choose(draft.state(), "location", &subnet.location)?;
    check(&subnet)?;
    for other in draft.state().subnets.iter() {
        if let Some((own, held)) =
            nets(&subnet).find_map(|own| Some((own, nets(other).find(|net| overlap(own, *net))?)))
        {
            let at = &other.location;
            return Err(Refusal::Conflict(format!("{own} overlaps with {held}, which is declared at {at}")));
        }
    }
    draft.audit("subnet.added", subnet.net, Facts::none(), facts(&subnet));
    draft.event("subnet.added", subnet.net, format!("{} may be handed out at {}", subnet.net, subnet.location));
    draft.put(subnet.clone());
    Ok(subnet)
}

/// Removes a subnet from which nothing is handed out.
pub fn remove(draft: &mut Draft, net: IpNet) -> Result<(), Refusal> {
    let subnet = draft.need::<Subnet>(&net)?;
    let now = draft.now_unix_ms();
    let is_taken = |address: &&Address| !matches!(address.holder, AddressHolder::Quarantine { .. });
    let taken = held(draft.state(), &subnet, now).filter(is_taken).count();
    if taken > 0 {
        return Err(Refusal::Conflict(format!("{net} still has {} handed out", counted(taken, "address"))));
    }
    // With the subnet goes what is left of it: quarantines.
    let left: Vec<IpNet> = recorded(draft.state(), &subnet).map(|address| address.block).collect();
    for block in left {
        draft.delete::<Address>(&block);
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
        ("nat", list(&subnet.nat)),
        ("block", subnet.block.map(|length| format!("/{length}")).unwrap_or_default()),
        ("quarantine", format!("{} s", subnet.quarantine_s)),
    ])
}

/// What a subnet takes of the space of addresses: its own prefix, and the public ones of its pairs.
fn nets(subnet: &Subnet) -> impl Iterator<Item = IpNet> + '_ {
    std::iter::once(subnet.net).chain(subnet.nat.iter().map(|pair| pair.public))
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn check(subnet: &Subnet) -> Result<(), Refusal> {
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
    if subnet.reserved.len() > LIST_LIMIT {
        return Err(Refusal::invalid("reserved", format!("a subnet has at most {LIST_LIMIT} reserved ranges")));
    }
    if subnet.nameservers.len() > 16 {
        return Err(Refusal::invalid("nameservers", "a subnet has at most 16"));
    }
    check_nat(subnet)?;
    if let Some(length) = subnet.block
        && !(matches!(net, IpNet::V6(_)) && (net.prefix_len() < length && length <= 128))
    {
        let problem = format!("a block is for IPv6, and has more bits than {net} and at most 128");
        return Err(Refusal::invalid("block", problem));
    }
    if subnet.quarantine_s > QUARANTINE_LIMIT_S {
        return Err(Refusal::invalid("quarantine", "an address is kept back for 30 days at most"));
    }
    if let Some(not_one) = subnet.nameservers.iter().find(|a| !is_unicast(**a)) {
        return Err(Refusal::invalid("nameservers", format!("{not_one} cannot be a nameserver's address")));
    }
    Ok(())
}

fn check_nat(subnet: &Subnet) -> Result<(), Refusal> {
    let wrong = |problem: String| Err(Refusal::invalid("nat", problem));
    if subnet.nat.len() > LIST_LIMIT {
        return wrong(format!("a subnet has at most {LIST_LIMIT} pairs"));
    }
    for (i, pair) in subnet.nat.iter().enumerate() {
        let NatRange { private, public } = *pair;
        if !matches!((private, public), (IpNet::V4(_), IpNet::V4(_))) {
            return wrong(format!("{pair} is not for IPv4; IPv6 needs no translation"));
        }
        if private != private.trunc() || public != public.trunc() {
            return wrong(format!("{pair} has host bits set; write {}={}", private.trunc(), public.trunc()));
        }
        if private.prefix_len() != public.prefix_len() || !subnet.net.contains(&private) {
            return wrong(format!("{pair} must be of one length, with the private one within {}", subnet.net));
        }
        if !is_unicast(public.network()) || !is_unicast(public.broadcast()) || overlap(public, subnet.net) {
            return wrong(format!("{public} cannot be the public addresses of {}", subnet.net));
        }
        let shared = |other: &NatRange| overlap(other.private, private) || overlap(other.public, public);
        if let Some(other) = subnet.nat[..i].iter().find(|other| shared(other)) {
            return wrong(format!("{pair} and {other} overlap"));
        }
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fleet::address;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::record::Location;

    pub(in crate::fleet::location) fn site(draft: &mut Draft) {
        for code in ["ber1", "ham1"] {
            let location = Location { code: code.into(), ..Location::default() };
            location::put(draft, location).expect("a location");
        }
    }

    /// Without quarantine.
    pub(in crate::fleet::location) fn subnet(net: &str, gateway: &str, reserved: &[&str]) -> Subnet {
        Subnet {
            gateway: gateway.parse().ok(),
            reserved: reserved.iter().map(|r| r.parse().expect("a range")).collect(),
            quarantine_s: 0,
            ..Subnet::new(net.parse().expect("a prefix"), "ber1")
        }
    }

    pub(in crate::fleet::location) fn paired(net: &str, pairs: &[&str]) -> Subnet {
        let nat = pairs.iter().map(|pair| pair.parse().expect("a pair")).collect();
        Subnet { nat, ..subnet(net, "", &[]) }
    }

    pub(in crate::fleet::location) fn pool(name: &str) -> AddressHolder {
        let assignment = format!("a{name}");
        AddressHolder::Pool { hub: "acme".into(), pool: name.into(), lease: "l".into(), assignment }
    }

    #[test]
    fn a_subnet_that_overlaps_or_is_not_sound_is_refused_with_its_field() {
        let mut draft = draft();
        site(&mut draft);
        add(&mut draft, subnet("203.0.113.0/28", "203.0.113.1", &[])).expect("added");
        for net in ["203.0.113.0/28", "203.0.113.8/29", "203.0.112.0/23"] {
            assert!(matches!(add(&mut draft, subnet(net, "", &[])), Err(Refusal::Conflict(_))), "{net}");
        }
        // Nor may the public addresses of pairs be anybody else's.
        add(&mut draft, paired("10.0.0.0/24", &["10.0.0.16/28=198.51.100.16/28"])).expect("added");
        let elsewhere = paired("10.0.1.0/24", &["10.0.1.5=198.51.100.20"]);
        for other in [subnet("198.51.100.0/24", "", &[]), elsewhere] {
            assert!(matches!(add(&mut draft, other.clone()), Err(Refusal::Conflict(_))), "{other:?}");
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
            (paired("192.0.2.0/24", &["192.0.3.1=198.51.100.1"]), "nat"),
            (paired("192.0.2.0/24", &["192.0.2.8/29=198.51.100.0/28"]), "nat"),
            (paired("192.0.2.0/24", &["192.0.2.9/29=198.51.100.8/29"]), "nat"),
            (paired("192.0.2.0/24", &["192.0.2.8/29=127.0.0.0/29"]), "nat"),
            (paired("192.0.2.0/24", &["192.0.2.8=192.0.2.9"]), "nat"),
            (paired("192.0.2.0/24", &["192.0.2.8=198.51.100.8", "192.0.2.8/29=198.51.100.16/29"]), "nat"),
            (paired("192.0.2.0/24", &["192.0.2.8=198.51.100.8", "192.0.2.9=198.51.100.8"]), "nat"),
            (paired("2001:db8:2::/64", &["2001:db8:2::8=2001:db8:3::8"]), "nat"),
            (Subnet { block: Some(28), ..subnet("192.0.2.0/24", "", &[]) }, "block"),
            (Subnet { block: Some(64), ..subnet("2001:db8:2::/64", "", &[]) }, "block"),
            (Subnet { block: Some(129), ..subnet("2001:db8:2::/64", "", &[]) }, "block"),
            (Subnet { quarantine_s: 30 * 24 * 3600 + 1, ..subnet("192.0.2.0/24", "", &[]) }, "quarantine"),
        ];
        for (subnet, field) in cases {
            let text = format!("{subnet:?}");
            let refusal = add(&mut draft, subnet);
            assert!(matches!(&refusal, Err(Refusal::Invalid { field: f, .. }) if f == field), "{text}: {refusal:?}");
        }
        let nowhere = Subnet { location: "nowhere".into(), ..subnet("192.0.2.0/24", "", &[]) };
        assert!(matches!(add(&mut draft, nowhere), Err(Refusal::Invalid { field, .. }) if field == "location"));
        assert_eq!(draft.state().subnets.len(), 2);
    }

    #[test]
    fn a_subnet_leaves_only_when_nothing_is_handed_out_from_it() {
        let mut draft = draft();
        site(&mut draft);
        let kept_back = Subnet { quarantine_s: 600, ..subnet("192.0.2.0/30", "", &[]) };
        let net = add(&mut draft, kept_back).expect("added").net;
        let (address, _) = address::take(&mut draft, "ber1", address::Family::V4, pool("p")).expect("free");
        assert!(matches!(remove(&mut draft, net), Err(Refusal::Conflict(_))));
        address::reclaim(&mut draft, address.block).expect("reclaimed");
        remove(&mut draft, net).expect("removed");
        assert!(matches!(remove(&mut draft, net), Err(Refusal::NotFound { .. })));
        assert_eq!(draft.state().addresses.len(), 0, "the quarantine went with the subnet");
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

    #[test]
    fn a_pair_reads_what_it_writes_and_stands_for_its_public_address() {
        for (text, shown) in [
            ("10.0.0.5=203.0.113.5", "10.0.0.5=203.0.113.5"),
            (" 10.0.0.16/28 = 203.0.113.32/28", "10.0.0.16/28=203.0.113.32/28"),
            ("10.0.0.5/32=203.0.113.5/32", "10.0.0.5=203.0.113.5"),
        ] {
            assert_eq!(text.parse::<NatRange>().map(|pair| pair.to_string()).as_deref(), Ok(shown));
        }
        for text in ["", "=", "10.0.0.5", "10.0.0.5=", "10.0.0.5=a", "10.0.0.0/33=203.0.113.0/33"] {
            assert!(text.parse::<NatRange>().is_err(), "{text}");
        }
        let subnet = paired("10.0.0.0/24", &["10.0.0.16/28=203.0.113.32/28", "10.0.0.5=198.51.100.1"]);
        for (private, public) in [
            ("10.0.0.16", "203.0.113.32"),
            ("10.0.0.31", "203.0.113.47"),
            ("10.0.0.5", "198.51.100.1"),
            ("10.0.0.6", "10.0.0.6"),
        ] {
            assert_eq!(subnet.public(private.parse().expect("an address")).to_string(), public);
        }
    }
}
