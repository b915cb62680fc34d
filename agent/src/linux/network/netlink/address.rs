//! Addresses (linux/if_addr.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use muster_protocol::observed::Origin;

use super::wire::{ACK, CREATE, DUMP, REPLACE, Request, attribute, u32_at};

/// `RTM_NEWADDR`: the answer to [`dump`].
pub const NEW: u16 = 20;
const DELETE: u16 = 21;
const GET: u16 = 22;

/// Bytes of `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const FIXED: usize = 8;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

/// For IPv6; for IPv4 the same bit says that an address is not the first of its prefix.
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_PERMANENT: u32 = 0x80;

/// `IFAPROT_KERNEL_LO`, `_RA`, `_LL`: the kernel's own marks (since Linux 5.18).
const PROTO_LOOPBACK: u8 = 1;
const PROTO_RA: u8 = 2;
const PROTO_LINK_LOCAL: u8 = 3;
/// Muster's marks: the numbers that routes have for the same (`RTPROT_STATIC`, `RTPROT_DHCP`).
const PROTO_STATIC: u8 = 4;
const PROTO_DHCP: u8 = 16;

/// Linux's numbers for the families.
pub(super) fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

/// The bytes of an address, as the kernel has them.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An address from its bytes: four or sixteen.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// An address as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Interface index.
    pub link: u32,
    /// Address and prefix length.
    pub net: IpNet,
    /// Where it comes from.
    pub origin: Origin,
    /// How far duplicate address detection is.
    pub uniqueness: Uniqueness,
    /// Whether the kernel made it for privacy, beside the one that it was told to make.
    pub is_temporary: bool,
}

/// How far duplicate address detection is (RFC 4862, section 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uniqueness {
    /// In use; always so for IPv4.
    Assured,
    /// Under test.
    Tentative,
    /// Somebody else has it, and it is not used.
    Duplicate,
}

/// Reads the body of a [`NEW`]; `None` where it is malformed or of another family.
pub fn decode(body: &[u8]) -> Option<Address> {
    let prefix = *body.get(1)?;
    let rest = body.get(FIXED..)?;
    // For a point-to-point address, IFA_ADDRESS is the peer's; IPv6 has IFA_LOCAL only then.
    let address = ip(attribute(rest, IFA_LOCAL).or_else(|| attribute(rest, IFA_ADDRESS))?)?;
    if family(address) != *body.first()? {
        return None;
    }
    let flags = attribute(rest, IFA_FLAGS).and_then(|v| u32_at(v, 0)).unwrap_or(u32::from(*body.get(2)?));
    let proto = attribute(rest, IFA_PROTO).and_then(|v| v.first().copied());
    let is_temporary = address.is_ipv6() && flags & IFA_F_TEMPORARY != 0;
    Some(Address {
        link: u32_at(body, 4)?,
        is_temporary,
        net: IpNet::new(address, prefix).ok()?,
        origin: if is_temporary { Origin::Ra } else { origin(address, flags, proto) },
        uniqueness: match flags {
            flags if flags & IFA_F_DADFAILED != 0 => Uniqueness::Duplicate,
            flags if flags & IFA_F_TENTATIVE != 0 => Uniqueness::Tentative,
            _ => Uniqueness::Assured,
        },
    })
}

/// For IPv4 only a lifetime tells: Linux 6.1 keeps the old mark when an address is replaced.
/// For IPv6 the mark decides where there is one, and the lifetime on kernels without marks.
fn origin(address: IpAddr, flags: u32, proto: Option<u8>) -> Origin {
    let ends = flags & IFA_F_PERMANENT == 0;
    match (address, proto) {
        (IpAddr::V4(_), _) if ends => Origin::Dhcp,
        (IpAddr::V4(_), _) => Origin::Static,
        (_, Some(PROTO_LOOPBACK | PROTO_LINK_LOCAL)) => Origin::Kernel,
        (_, Some(PROTO_RA)) => Origin::Ra,
        (_, Some(PROTO_STATIC)) => Origin::Static,
        (_, Some(PROTO_DHCP)) => Origin::Dhcp,
        (IpAddr::V6(ip), _) if ip.is_unicast_link_local() => Origin::Kernel,
        (IpAddr::V6(_), _) if ends => Origin::Ra,
        (IpAddr::V6(_), _) => Origin::Static,
    }
}

/// How long an address is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is removed.
    Forever,
    /// So many seconds; then the kernel removes it by itself.
    Seconds(u32),
    /// The same, and for new connections only the first.
    Leased {
        /// Seconds; `u32::MAX` is for ever.
        preferred: u32,
        /// Seconds.
        valid: u32,
    },
}

fn fixed(net: IpNet, link: u32) -> [u8; FIXED] {
    let mut fixed = [family(net.addr()), net.prefix_len(), 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    fixed
}

fn request(kind: u16, flags: u16, link: u32, net: IpNet) -> Request {
    let ip = octets(net.addr());
    Request::new(kind, flags, &fixed(net, link)).attribute(IFA_LOCAL, &ip).attribute(IFA_ADDRESS, &ip)
}

/// Asks for all addresses.
pub fn dump() -> Request {
    Request::new(GET, DUMP, &[0; FIXED])
}

/// Adds an address, or gives the one that is there this origin and lifetime.
pub fn add(link: u32, net: IpNet, origin: Origin, lifetime: Lifetime) -> Request {
    // u32::MAX would mean for ever, which is what tells a static address, and 0 is refused.
    let ends = |seconds: u32| seconds.clamp(1, u32::MAX - 1);
    let (preferred, valid) = match lifetime {
        Lifetime::Forever => (u32::MAX, u32::MAX),
        Lifetime::Seconds(seconds) => (ends(seconds), ends(seconds)),
        Lifetime::Leased { preferred, valid } => (preferred.min(ends(valid)), ends(valid)),
    };
    let mut cacheinfo = [0; 16];
    cacheinfo[0..4].copy_from_slice(&preferred.to_ne_bytes());
    cacheinfo[4..8].copy_from_slice(&valid.to_ne_bytes());
    let mark = if origin == Origin::Dhcp { PROTO_DHCP } else { PROTO_STATIC };
    let request = request(NEW, ACK | CREATE | REPLACE, link, net)
        .attribute(IFA_CACHEINFO, &cacheinfo)
        .attribute(IFA_PROTO, &[mark]);
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => request.attribute(IFA_BROADCAST, &net.broadcast().octets()),
        IpNet::V4(_) | IpNet::V6(_) => request,
    }
}

/// Removes an address.
pub fn remove(link: u32, net: IpNet) -> Request {
    request(DELETE, ACK, link, net)
}
