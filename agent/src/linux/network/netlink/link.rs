//! Links (linux/if_link.h): what there is, up and down, MTU, VLANs.

use muster_protocol::{Mac, VlanTag};

use super::wire::{ACK, CREATE, DUMP, EXCL, Request, attribute, text, u16_at, u32_at};

/// `RTM_NEWLINK`: the answer to [`dump`].
pub const NEW: u16 = 16;
const DELETE: u16 = 17;
const GET: u16 = 18;

/// Bytes of `struct ifinfomsg`: family, pad, hardware type, index, flags, which flags to change.
const FIXED: usize = 16;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;

/// Leaves counters out of answers.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x10000;
/// IEEE 802.1Q as an Ethernet type; 802.1ad, the provider's outer tag, has another.
const ETH_P_8021Q: [u8; 2] = [0x81, 0x00];

/// A link as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC in use; zeros where the link has none of six bytes.
    pub mac: Mac,
    /// MAC in the hardware, where the driver says.
    pub permanent_mac: Option<Mac>,
    /// What it is.
    pub kind: Kind,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it is up and has a signal.
    pub carrier: bool,
    /// How often the carrier came, so that a short absence is not missed; 0 where the kernel does not count.
    pub carrier_ups: u32,
    /// Bytes.
    pub mtu: u32,
}

/// What a link is, as far as Muster cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The loopback.
    Loopback,
    /// Ethernet without a driver of the kernel's own making, or one end of a veth pair: what a container has for a NIC.
    Ethernet,
    /// IEEE 802.1Q on a link of the same namespace.
    Vlan {
        /// Interface index of the link below.
        parent: u32,
        /// Its tag.
        tag: VlanTag,
    },
    /// Something else, by the kernel's name for it.
    Foreign(String),
}

/// Reads the body of a [`NEW`]; `None` where it is malformed.
pub fn decode(body: &[u8]) -> Option<Link> {
    let hardware = u16_at(body, 2)?;
    let index = u32_at(body, 4)?;
    let flags = u32_at(body, 8)?;
    let rest = body.get(FIXED..)?;
    let mac = |kind| attribute(rest, kind).and_then(|v| v.try_into().ok()).map(Mac::from_bytes);
    Some(Link {
        index,
        name: text(attribute(rest, IFLA_IFNAME)?),
        mac: mac(IFLA_ADDRESS).unwrap_or(Mac::from_bytes([0; 6])),
        permanent_mac: mac(IFLA_PERM_ADDRESS).filter(|mac| *mac.as_bytes() != [0; 6]),
        kind: decode_kind(hardware, rest),
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0,
        carrier_ups: attribute(rest, IFLA_CARRIER_UP_COUNT).and_then(|v| u32_at(v, 0)).unwrap_or(0),
        mtu: u32_at(attribute(rest, IFLA_MTU)?, 0)?,
    })
}

fn decode_kind(hardware: u16, rest: &[u8]) -> Kind {
    let info = attribute(rest, IFLA_LINKINFO).unwrap_or_default();
    let kind = attribute(info, IFLA_INFO_KIND).map(text).unwrap_or_default();
    match kind.as_str() {
        "" | "veth" if hardware == ARPHRD_ETHER => Kind::Ethernet,
        "" if hardware == ARPHRD_LOOPBACK => Kind::Loopback,
        "" => Kind::Foreign(format!("hardware type {hardware}")),
        "vlan" => decode_vlan(rest, attribute(info, IFLA_INFO_DATA).unwrap_or_default()).unwrap_or(Kind::Foreign(kind)),
        _ => Kind::Foreign(kind),
    }
}

fn decode_vlan(rest: &[u8], data: &[u8]) -> Option<Kind> {
    let parent = u32_at(attribute(rest, IFLA_LINK)?, 0)?;
    let tag = VlanTag::try_from(u16_at(attribute(data, IFLA_VLAN_ID)?, 0)?).ok()?;
    let is_8021q = attribute(data, IFLA_VLAN_PROTOCOL).is_none_or(|protocol| protocol == ETH_P_8021Q);
    let parent_is_here = attribute(rest, IFLA_LINK_NETNSID).is_none();
    (is_8021q && parent_is_here).then_some(Kind::Vlan { parent, tag })
}

fn fixed(index: u32, flags: u32, change: u32) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

/// Asks for all links.
pub fn dump() -> Request {
    Request::new(GET, DUMP, &fixed(0, 0, 0)).number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/// Sets a link up.
pub fn up(index: u32) -> Request {
    Request::new(NEW, ACK, &fixed(index, IFF_UP, IFF_UP))
}

/// Sets a link down.
pub fn down(index: u32) -> Request {
    Request::new(NEW, ACK, &fixed(index, 0, IFF_UP))
}

/// Sets the MTU.
pub fn set_mtu(index: u32, mtu: u32) -> Request {
    Request::new(NEW, ACK, &fixed(index, 0, 0)).number(IFLA_MTU, mtu)
}

/// Makes a VLAN.
pub fn create_vlan(name: &str, parent: u32, tag: VlanTag) -> Request {
    let name = [name.as_bytes(), &[0]].concat();
    Request::new(NEW, ACK | CREATE | EXCL, &fixed(0, 0, 0))
        .number(IFLA_LINK, parent)
        .attribute(IFLA_IFNAME, &name)
        .nested(IFLA_LINKINFO, |info| {
            info.attribute(IFLA_INFO_KIND, b"vlan")
                .nested(IFLA_INFO_DATA, |data| data.attribute(IFLA_VLAN_ID, &tag.get().to_ne_bytes()))
        })
}

/// Deletes a virtual link.
pub fn delete(index: u32) -> Request {
    Request::new(DELETE, ACK, &fixed(index, 0, 0))
}
