//! The network in netplan's words, version 2, normalized.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Bond, Bridge};
use crate::ids::{Mac, VlanTag};

/// The routing table in which routes are where a document says nothing (linux/rtnetlink.h, RT_TABLE_MAIN).
pub const MAIN_TABLE: u32 = 254;

/// The table of Muster's own in which a new way to the controller is that the main table has no room for yet. No
/// document may have it, nor the next two: they are there while a way is proven.
pub const PROOF_TABLE: u32 = 19_797;
/// What the packets of a proof carry (`fwmark`), for a rule that is to have them alone.
pub const PROOF_MARK: u32 = 19_797;
/// Where that rule stands: before those of documents, which would have its packets too.
pub const PROOF_PRIORITY: u32 = 1;

/// The network, netplan version 2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Links in the order of the document; a link may come before those that it is made of. At most 256.
    pub links: Vec<Link>,
    /// The machine's name for itself: 1 to 64 bytes. `None` leaves it as it is.
    pub hostname: Option<String>,
    /// NTP servers, names or addresses, that keep the clock; at most 16. Empty: those that leases bring, if any.
    pub ntp: Vec<String>,
}

/// One configured link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The key in the document, to which other links refer; of a link that Muster makes also its name, 1 to 15 bytes.
    pub id: String,
    /// What it is.
    pub kind: LinkKind,
    /// Addresses and so on.
    pub settings: Settings,
}

/// What a link is, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkKind {
    /// netplan's `ethernets:`.
    Ethernet(Ethernet),
    /// netplan's `bonds:`.
    Bond(Bond),
    /// netplan's `bridges:`.
    Bridge(Bridge),
    /// netplan's `vlans:`.
    Vlan {
        /// netplan's `id:`.
        tag: VlanTag,
        /// netplan's `link:`, the id of another link.
        parent: String,
    },
}

impl Link {
    /// The links that this one is made of, by id: a bond's and a bridge's ports, a VLAN's parent.
    pub fn below(&self) -> &[String] {
        match &self.kind {
            LinkKind::Ethernet(_) => &[],
            LinkKind::Bond(bond) => &bond.ports,
            LinkKind::Bridge(bridge) => &bridge.ports,
            LinkKind::Vlan { parent, .. } => std::slice::from_ref(parent),
        }
    }

    /// netplan's word for links of this kind: `ethernets`, `bonds`, `bridges`, `vlans`.
    pub fn section(&self) -> &'static str {
        match self.kind {
            LinkKind::Ethernet(_) => "ethernets",
            LinkKind::Bond(_) => "bonds",
            LinkKind::Bridge(_) => "bridges",
            LinkKind::Vlan { .. } => "vlans",
        }
    }
}

/// A NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ethernet {
    /// Which.
    pub select: Select,
    /// netplan's `set-name`: the name it gets, 1 to 15 bytes.
    pub set_name: Option<String>,
    /// netplan's `wakeonlan`.
    pub wake_on_lan: WakeOnLan,
}

/// Which NICs an ethernet is: those for which all that is given holds. Nothing given: the one with the entry's id for a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Select {
    /// netplan's `match: {name: …}`, a [pattern](matches_pattern) of the kernel's name.
    pub name: Option<String>,
    /// netplan's `match: {macaddress: …}`: the permanent MAC where any NIC has it, else the one in use.
    pub mac: Option<Mac>,
    /// netplan's `match: {driver: …}`, [patterns](matches_pattern) of which one has to fit; at most 16.
    pub drivers: Vec<String>,
}

impl Select {
    /// Whether nothing is given, so that the entry's id is the NIC's name.
    pub fn is_by_id(&self) -> bool {
        self.name.is_none() && self.mac.is_none() && self.drivers.is_empty()
    }
}

/// Whether `text` fits a shell pattern, as netplan has them: `*` any characters, `?` one, `[a-c]` one of these, `[!a]` none.
/// What is no whole bracket stands for itself.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    matches_bytes(pattern.as_bytes(), text.as_bytes())
}

fn matches_bytes(pattern: &[u8], text: &[u8]) -> bool {
    // The usual way with one place to go back to: work grows with the product of both lengths and no faster.
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match fits_one(&pattern[p..], text[t]) {
            _ if pattern.get(p) == Some(&b'*') => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(length) => {
                p += length;
                t += 1;
            }
            None => match back {
                Some((after_star, from)) => {
                    back = Some((after_star, from + 1));
                    (p, t) = (after_star, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// How many bytes of the pattern stand for this one byte; `None` where they do not.
fn fits_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => match bracket(&pattern[1..], byte) {
            Some((holds, length)) => holds.then_some(1 + length),
            None => (byte == b'[').then_some(1),
        },
        literal => (*literal == byte).then_some(1),
    }
}

/// Whether a bracket's inside holds for this byte, and its length up to and with `]`; `None` where it does not end.
fn bracket(inside: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(inside.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let (mut at, mut found) = (start, false);
    loop {
        match inside.get(at)? {
            b']' if at > start => return Some((found != negated, at + 1)),
            low => match inside.get(at + 1..at + 3) {
                Some(&[b'-', high]) if high != b']' => {
                    found |= (*low..=high).contains(&byte);
                    at += 3;
                }
                _ => {
                    found |= *low == byte;
                    at += 1;
                }
            },
        }
    }
}

/// Whether a NIC wakes the machine when it hears a magic packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WakeOnLan {
    /// As it is: firmware often turns it on.
    #[default]
    Keep,
    /// It does.
    On,
    /// It does not.
    Off,
}

/// What can be said of every kind of link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Static addresses with their prefix lengths, at most 64.
    pub addresses: Vec<IpNet>,
    /// Static routes, at most 256.
    pub routes: Vec<Route>,
    /// netplan's `routing-policy`, at most 64. Rules are the machine's and not the link's; netplan has them here.
    pub rules: Vec<Rule>,
    /// Neighbors whose MACs are known beforehand, at most 256.
    pub neighbors: Vec<Neighbor>,
    /// Resolvers, at most 16.
    pub nameservers: Vec<IpAddr>,
    /// Search domains, at most 16.
    pub search: Vec<String>,
    /// Bytes, 68 to 65,535 (1,280 at least where IPv6 is used).
    pub mtu: Option<u32>,
    /// DHCPv4.
    pub dhcp4: Dhcp,
    /// DHCPv6.
    pub dhcp6: Dhcp,
    /// IPv6 router advertisements.
    pub accept_ra: AcceptRa,
    /// netplan's `ipv6-privacy`.
    pub privacy: Privacy,
}

/// Whether a link gets an address by DHCP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dhcp {
    /// netplan's default.
    #[default]
    Off,
    /// A lease is got and kept.
    On(LeaseUse),
}

impl Dhcp {
    /// Whether a lease is wanted.
    pub fn is_on(&self) -> bool {
        matches!(self, Self::On(_))
    }
}

/// netplan's `dhcp4-overrides` and `dhcp6-overrides`: what of a lease counts beside its address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseUse {
    /// netplan's `use-dns`: its resolvers and, with them, its search domains.
    pub dns: Take,
    /// netplan's `use-ntp`.
    pub ntp: Take,
    /// netplan's `use-routes`. DHCPv6 has none.
    pub routes: Take,
    /// netplan's `route-metric`; 1024 where absent. DHCPv6 has no routes.
    pub route_metric: Option<u32>,
}

/// Whether something that a lease brings counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Take {
    /// netplan's default.
    #[default]
    Yes,
    /// It is left where it is.
    No,
}

/// Whether a link listens to router advertisements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcceptRa {
    /// The kernel's default, which accepts them.
    #[default]
    Default,
    /// Accept.
    On,
    /// Do not.
    Off,
}

/// Whether a link has temporary IPv6 addresses beside those made of its MAC, and prefers them (RFC 8981).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privacy {
    /// netplan's default.
    #[default]
    Off,
    /// It has.
    On,
}

/// One static route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` for netplan's `default`.
    pub to: IpNet,
    /// Gateway; `None` for netplan's `scope: link`, where the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// Lower wins; the kernel's default where absent (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// Routing table, [`MAIN_TABLE`] or another from 1 to 4,294,967,295; 255 is the kernel's own, [`PROOF_TABLE`] ours.
    pub table: u32,
    /// netplan's `on-link`: the gateway is reached by this link although no prefix says so.
    pub reach: Reach,
}

/// How a gateway is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// One of the link's prefixes holds it.
    #[default]
    Prefix,
    /// It is on the link although no prefix holds it.
    OnLink,
}

/// One routing policy rule: packets for which all that is given holds are routed by a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Source; this or `to` is given, of one family.
    pub from: Option<IpNet>,
    /// Destination.
    pub to: Option<IpNet>,
    /// The routing table that is asked, 1 to 4,294,967,295 but for 255 and [`PROOF_TABLE`].
    pub table: u32,
    /// Lower is asked first, 2 to 32,765; `None` leaves the choice to the kernel.
    pub priority: Option<u32>,
    /// Firewall mark, 1 at least, but for [`PROOF_MARK`].
    pub mark: Option<u32>,
    /// netplan's `type-of-service`, a multiple of 4: up to 28 for IPv4, 252 for IPv6.
    pub tos: Option<u8>,
}

/// A neighbor whose MAC is known beforehand: a static ARP or neighbor discovery entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbor {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: Mac,
}

#[cfg(test)]
mod tests {
    use super::matches_pattern;

    #[test]
    fn patterns_are_the_shells() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("en*", "enp1s0"),
            ("*s0", "enp1s0"),
            ("e?h0", "eth0"),
            ("eth[0-2]", "eth1"),
            ("eth[!0]", "eth1"),
            ("e*h*0", "ethhh0"),
            ("[]x]", "]"),
            ("[", "["),
            ("eth0", "eth0"),
        ] {
            assert!(matches_pattern(pattern, text), "{pattern} and {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("en*", "eth0"),
            ("eth?", "eth"),
            ("eth[0-2]", "eth3"),
            ("eth[!0]", "eth0"),
            ("*a", "b"),
            ("[a", "a"),
        ] {
            assert!(!matches_pattern(pattern, text), "{pattern} and {text}");
        }
    }

    #[test]
    fn a_pattern_full_of_stars_costs_little() {
        assert!(!matches_pattern(&"*a".repeat(5_000), &"a".repeat(4_999)));
    }
}
