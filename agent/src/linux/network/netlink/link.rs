//! Links (linux/if_link.h): what there is, up and down, names, MTU, ports, VLANs. Bonds and bridges have files of their own.

use muster_protocol::observed::{Bond, Bridge};
use muster_protocol::{Mac, VlanTag};

use super::wire::{ACK, CREATE, DUMP, EXCL, Request, attribute, text, u16_at, u32_at};
use super::{bond, bridge};

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
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
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
    /// MAC in the hardware, where the driver says, or the bond that it is a port of.
    pub permanent_mac: Option<Mac>,
    /// What it is.
    pub kind: Kind,
    /// The bond or bridge that it is a port of.
    pub port: Option<Port>,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it is up and has a signal.
    pub carrier: bool,
    /// How often the carrier came, so that a short absence is not missed; 0 where the kernel does not count.
    pub carrier_ups: u32,
    /// Bytes.
    pub mtu: u32,
    /// The least MTU that the driver takes; 0 where it does not say.
    pub min_mtu: u32,
    /// The largest one; 0 where it does not say.
    pub max_mtu: u32,
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
    /// Several NICs as one link.
    Bond(Box<Bond>),
    /// A switch inside the machine.
    Bridge(Box<Bridge>),
    /// Something else, by the kernel's name for it.
    Foreign(String),
}

/// What a link is a port of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Interface index of the bond or bridge.
    pub of: u32,
    /// What a bridge has noted of it; `None` for a bond's.
    pub in_bridge: Option<bridge::Port>,
}

/// Reads the body of a [`NEW`]; `None` where it is malformed.
pub fn decode(body: &[u8]) -> Option<Link> {
    let hardware = u16_at(body, 2)?;
    let index = u32_at(body, 4)?;
    let flags = u32_at(body, 8)?;
    let rest = body.get(FIXED..)?;
    let (port, mac_before) = decode_port(rest).unzip();
    let mac_before = mac_before.flatten();
    let mac = |kind| attribute(rest, kind).and_then(|v| v.try_into().ok()).map(Mac::from_bytes);
    let number = |kind| attribute(rest, kind).and_then(|v| u32_at(v, 0)).unwrap_or(0);
    Some(Link {
        index,
        name: text(attribute(rest, IFLA_IFNAME)?),
        mac: mac(IFLA_ADDRESS).unwrap_or(Mac::from_bytes([0; 6])),
        // A bond remembers what its port had where the driver does not say.
        permanent_mac: mac(IFLA_PERM_ADDRESS).filter(|mac| *mac.as_bytes() != [0; 6]).or(mac_before),
        kind: decode_kind(hardware, rest),
        port,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0,
        carrier_ups: number(IFLA_CARRIER_UP_COUNT),
        mtu: u32_at(attribute(rest, IFLA_MTU)?, 0)?,
        min_mtu: number(IFLA_MIN_MTU),
        max_mtu: number(IFLA_MAX_MTU),
    })
}

fn decode_kind(hardware: u16, rest: &[u8]) -> Kind {
    let info = attribute(rest, IFLA_LINKINFO).unwrap_or_default();
    let kind = attribute(info, IFLA_INFO_KIND).map(text).unwrap_or_default();
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    match kind.as_str() {
        "" | "veth" if hardware == ARPHRD_ETHER => Kind::Ethernet,
        "" if hardware == ARPHRD_LOOPBACK => Kind::Loopback,
        "" => Kind::Foreign(format!("hardware type {hardware}")),
        "vlan" => decode_vlan(rest, data).unwrap_or(Kind::Foreign(kind)),
        "bond" => bond::decode(data).map_or(Kind::Foreign(kind), |bond| Kind::Bond(Box::new(bond))),
        "bridge" => Kind::Bridge(Box::new(bridge::decode(data))),
        _ => Kind::Foreign(kind),
    }
}

/// What a link is a port of, and the MAC that it had before. Members of other things (VRFs, teams) are no ports.
fn decode_port(rest: &[u8]) -> Option<(Port, Option<Mac>)> {
    let of = u32_at(attribute(rest, IFLA_MASTER)?, 0)?;
    let info = attribute(rest, IFLA_LINKINFO)?;
    let data = attribute(info, IFLA_INFO_SLAVE_DATA).unwrap_or_default();
    match text(attribute(info, IFLA_INFO_SLAVE_KIND)?).as_str() {
        "bond" => Some((Port { of, in_bridge: None }, bond::decode_port(data))),
        "bridge" => Some((Port { of, in_bridge: Some(bridge::decode_port(data)?) }, None)),
        _ => None,
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

/// Gives a link another name. Kernels before Linux 6.2 refuse it while the link is up.
pub fn rename(index: u32, name: &str) -> Request {
    Request::new(NEW, ACK, &fixed(index, 0, 0)).attribute(IFLA_IFNAME, &closed(name))
}

/// Makes a link a port of a bond or bridge, or of nothing.
pub fn set_port_of(index: u32, of: Option<u32>) -> Request {
    Request::new(NEW, ACK, &fixed(index, 0, 0)).number(IFLA_MASTER, of.unwrap_or(0))
}

/// Makes a VLAN.
pub fn create_vlan(name: &str, parent: u32, tag: VlanTag) -> Request {
    let data = |data: Request| data.attribute(IFLA_VLAN_ID, &tag.get().to_ne_bytes());
    made(name, "vlan", Some(parent), data)
}

/// Makes a virtual link that is on no other.
pub(super) fn create(name: &str, kind: &str, fill: impl FnOnce(Request) -> Request) -> Request {
    made(name, kind, None, fill)
}

fn made(name: &str, kind: &str, on: Option<u32>, fill: impl FnOnce(Request) -> Request) -> Request {
    let mut request = Request::new(NEW, ACK | CREATE | EXCL, &fixed(0, 0, 0));
    if let Some(on) = on {
        request = request.number(IFLA_LINK, on);
    }
    let request = request.attribute(IFLA_IFNAME, &closed(name));
    with_info(request, [IFLA_INFO_KIND, IFLA_INFO_DATA], kind, fill)
}

/// Changes what is special about a virtual link of this kind.
pub(super) fn change(index: u32, kind: &str, fill: impl FnOnce(Request) -> Request) -> Request {
    with_info(Request::new(NEW, ACK, &fixed(index, 0, 0)), [IFLA_INFO_KIND, IFLA_INFO_DATA], kind, fill)
}

/// Changes what a link of this kind has noted of its port.
pub(super) fn change_port(port: u32, kind: &str, fill: impl FnOnce(Request) -> Request) -> Request {
    with_info(Request::new(NEW, ACK, &fixed(port, 0, 0)), [IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA], kind, fill)
}

fn with_info(request: Request, at: [u16; 2], kind: &str, fill: impl FnOnce(Request) -> Request) -> Request {
    request.nested(IFLA_LINKINFO, |info| info.attribute(at[0], kind.as_bytes()).nested(at[1], fill))
}

/// Text with its closing zero.
fn closed(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// Deletes a virtual link.
pub fn delete(index: u32) -> Request {
    Request::new(DELETE, ACK, &fixed(index, 0, 0))
}
