//! Neighbors whose MACs were set for good, and those that do not answer (linux/neighbour.h): ARP's and neighbor
//! discovery's alike.

use std::net::IpAddr;

use muster_protocol::Mac;
use muster_protocol::desired::Neighbor;

use super::address::{family, ip, octets};
use super::wire::{ACK, CREATE, DUMP, REPLACE, Request, attribute, u16_at, u32_at};

/// `RTM_NEWNEIGH`: the answer to [`dump`].
pub const NEW: u16 = 28;
const DELETE: u16 = 29;
const GET: u16 = 30;

/// Bytes of `struct ndmsg`: family, three unused, index, state, flags, type.
const FIXED: usize = 12;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// `NUD_PERMANENT`: it does not age, and nobody is asked.
const PERMANENT: u16 = 0x80;
/// `NUD_INCOMPLETE`, being asked for, and `NUD_FAILED`, which was asked for in vain.
const SILENT: u16 = 0x01 | 0x20;

/// Reads the body of a [`NEW`]: a neighbor that was set for good, and its link's interface index.
pub fn decode(body: &[u8]) -> Option<(u32, Neighbor)> {
    let rest = body.get(FIXED..)?;
    let address = ip(attribute(rest, NDA_DST)?)?;
    let mac = Mac::from_bytes(attribute(rest, NDA_LLADDR)?.try_into().ok()?);
    let is_ours = u16_at(body, 8)? == PERMANENT && *body.first()? == family(address);
    is_ours.then_some((u32_at(body, 4)?, Neighbor { address, mac }))
}

/// Reads the body of a [`NEW`]: a neighbor that was asked for and has not answered, and its link's interface index.
pub fn decode_silent(body: &[u8]) -> Option<(u32, IpAddr)> {
    let address = ip(attribute(body.get(FIXED..)?, NDA_DST)?)?;
    let is_silent = u16_at(body, 8)? & SILENT != 0 && *body.first()? == family(address);
    is_silent.then_some((u32_at(body, 4)?, address))
}

/// Asks for all neighbors, of both families.
pub fn dump() -> Request {
    Request::new(GET, DUMP, &[0; FIXED])
}

fn request(kind: u16, flags: u16, link: u32, neighbor: &Neighbor) -> Request {
    let mut fixed = [0; FIXED];
    fixed[0] = family(neighbor.address);
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    fixed[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    Request::new(kind, flags, &fixed).attribute(NDA_DST, &octets(neighbor.address))
}

/// Sets a neighbor's MAC, whatever was known of it.
pub fn set(link: u32, neighbor: &Neighbor) -> Request {
    request(NEW, ACK | CREATE | REPLACE, link, neighbor).attribute(NDA_LLADDR, neighbor.mac.as_bytes())
}

/// Forgets a neighbor.
pub fn remove(link: u32, neighbor: &Neighbor) -> Request {
    request(DELETE, ACK, link, neighbor)
}
