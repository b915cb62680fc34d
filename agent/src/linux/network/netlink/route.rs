//! Routes of all tables but the local one (linux/rtnetlink.h).

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::desired::Reach;
use muster_protocol::observed::Origin;

use super::address::{family, ip, octets};
use super::wire::{ACK, APPEND, CREATE, DUMP, Request, attribute, u16_at, u32_at};

/// `RTM_NEWROUTE`: the answer to [`dump`].
pub const NEW: u16 = 24;
const DELETE: u16 = 25;
const GET: u16 = 26;

/// Bytes of `struct rtmsg`: family, destination's and source's prefix lengths, TOS, table, protocol, scope, type, flags.
const FIXED: usize = 12;
/// Bytes of `struct rtnexthop`: length, flags, hops, index.
const NEXT_HOP: usize = 8;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

/// The kernel's own addresses; nobody else's business.
const TABLE_LOCAL: u32 = 255;
const TYPE_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
/// A cached exception and no route of its own.
const FLAG_CLONED: u32 = 0x200;
const NEXT_HOP_ONLINK: u32 = 4;

const PROTOCOL_REDIRECT: u8 = 1;
const PROTOCOL_KERNEL: u8 = 2;
const PROTOCOL_STATIC: u8 = 4;
const PROTOCOL_RA: u8 = 9;
/// `RTPROT_DHCP`: marks what a lease brought.
pub const PROTOCOL_DHCP: u8 = 16;

/// A route as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Gateway; for IPv4 it can be an IPv6 one (RFC 5549).
    pub via: Option<IpAddr>,
    /// Interface index it leaves by.
    pub link: u32,
    /// Lower wins.
    pub metric: u32,
    /// The table it is in; 254 is the main one.
    pub table: u32,
    /// Who made it: `RTPROT_*`.
    pub protocol: u8,
}

impl Route {
    /// Who made it, in Muster's terms.
    pub fn origin(&self) -> Origin {
        match self.protocol {
            PROTOCOL_KERNEL | PROTOCOL_REDIRECT => Origin::Kernel,
            PROTOCOL_RA => Origin::Ra,
            PROTOCOL_DHCP => Origin::Dhcp,
            _ => Origin::Static,
        }
    }
}

/// Reads the body of a [`NEW`]: the unicast routes in it, one for each of several gateways.
///
/// Empty for the local table and anything else, and where it is malformed.
pub fn decode(body: &[u8]) -> Vec<Route> {
    decode_some(body).unwrap_or_default()
}

fn decode_some(body: &[u8]) -> Option<Vec<Route>> {
    let &[family_number, prefix, _, tos, table, protocol, _, kind] = body.first_chunk()?;
    let flags = u32_at(body, 8)?;
    let rest = body.get(FIXED..)?;
    let table = attribute(rest, RTA_TABLE).and_then(|v| u32_at(v, 0)).unwrap_or(table.into());
    let unspecified: IpAddr = match family_number {
        2 => [0; 4].into(),
        10 => [0; 16].into(),
        _ => return None,
    };
    if table == TABLE_LOCAL || kind != TYPE_UNICAST || tos != 0 || flags & FLAG_CLONED != 0 {
        return None;
    }
    let to = attribute(rest, RTA_DST).map_or(Some(unspecified), ip)?;
    if family(to) != family_number {
        return None;
    }
    let to = IpNet::new(to, prefix).ok()?;
    let metric = attribute(rest, RTA_PRIORITY).and_then(|v| u32_at(v, 0)).unwrap_or(0);
    let route = |via, link| Route { to, via, link, metric, table, protocol };
    match attribute(rest, RTA_MULTIPATH) {
        Some(hops) => Some(next_hops(hops).map(|(via, link)| route(via, link)).collect()),
        None => Some(vec![route(gateway(rest), u32_at(attribute(rest, RTA_OIF)?, 0)?)]),
    }
}

fn gateway(attributes: &[u8]) -> Option<IpAddr> {
    // RTA_VIA is a family in two bytes, then the address.
    let other_family = || ip(attribute(attributes, RTA_VIA)?.get(2..)?);
    attribute(attributes, RTA_GATEWAY).and_then(ip).or_else(other_family)
}

fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = (Option<IpAddr>, u32)> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let link = u32_at(bytes, 4)?;
        let attributes = bytes.get(NEXT_HOP..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((gateway(attributes), link))
    })
}

/// Asks for all routes of all tables, of both families.
pub fn dump() -> Request {
    Request::new(GET, DUMP, &[0; FIXED])
}

fn request(kind: u16, flags: u16, route: &Route, scope: u8, next_hop_flags: u32) -> Request {
    let mut fixed = [0; FIXED];
    fixed[0] = family(route.to.addr());
    fixed[1] = route.to.prefix_len();
    // Where the number does not fit here, it follows below.
    fixed[4] = u8::try_from(route.table).unwrap_or(0);
    fixed[5] = route.protocol;
    fixed[6] = scope;
    fixed[7] = TYPE_UNICAST;
    fixed[8..12].copy_from_slice(&next_hop_flags.to_ne_bytes());
    let mut request = Request::new(kind, flags, &fixed)
        .attribute(RTA_DST, &octets(route.to.addr()))
        .number(RTA_OIF, route.link)
        .number(RTA_PRIORITY, route.metric);
    if fixed[4] == 0 {
        request = request.number(RTA_TABLE, route.table);
    }
    match route.via {
        None => request,
        Some(via) if family(via) == family(route.to.addr()) => request.attribute(RTA_GATEWAY, &octets(via)),
        Some(via) => {
            let family = u16::from(family(via)).to_ne_bytes();
            request.attribute(RTA_VIA, &[&family[..], &octets(via)].concat())
        }
    }
}

/// Adds a route beside those to the same destination: after them for IPv4, as a second path for IPv6.
///
/// [`Route::protocol`] is taken from `origin`.
pub fn add(route: &Route, origin: Origin, reach: Reach) -> Request {
    let protocol = if origin == Origin::Dhcp { PROTOCOL_DHCP } else { PROTOCOL_STATIC };
    // The kernel refuses a gateway in the scope of a link, and takes a missing one only there; IPv6 has no scopes.
    let scope = if route.via.is_none() && route.to.addr().is_ipv4() { SCOPE_LINK } else { SCOPE_UNIVERSE };
    let flags = if reach == Reach::OnLink && route.via.is_some() { NEXT_HOP_ONLINK } else { 0 };
    request(NEW, ACK | CREATE | APPEND, &Route { protocol, ..*route }, scope, flags)
}

/// The same, for packets that are not from an address yet: they get this one.
pub fn add_from(source: IpAddr, route: &Route) -> Request {
    add(route, Origin::Static, Reach::Prefix).attribute(RTA_PREFSRC, &octets(source))
}

/// Removes exactly this route.
pub fn remove(route: &Route) -> Request {
    request(DELETE, ACK, route, SCOPE_NOWHERE, 0)
}
