//! Routing policy rules (linux/fib_rules.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use muster_protocol::desired::Rule;

use super::address::{family, ip, octets};
use super::wire::{ACK, CREATE, DUMP, Request, attribute, attributes, u32_at};

/// `RTM_NEWRULE`: the answer to [`dump`].
pub const NEW: u16 = 32;
const DELETE: u16 = 33;
const GET: u16 = 34;

/// Bytes of `struct fib_rule_hdr`: family, destination's and source's prefix lengths, TOS, table, two unused, action, flags.
const FIXED: usize = 12;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;

/// `FR_ACT_TO_TBL`.
const ACTION_LOOKUP: u8 = 1;
/// `RTPROT_STATIC`: what configuration made. Others mark theirs otherwise, and the kernel its own three.
const PROTOCOL_STATIC: u8 = 4;
/// What an attribute says that is not in use.
const NONE: u32 = u32::MAX;

/// Reads the body of a [`NEW`]: a rule that configuration made and that a document can say, with its priority.
///
/// The kernel does not keep prefixes of length 0; a rule without any is told with the source `0.0.0.0/0` or `::/0`.
pub fn decode(body: &[u8]) -> Option<Rule> {
    let &[family_number, to_length, from_length, tos, table, _, _, action] = body.first_chunk()?;
    let flags = u32_at(body, 8)?;
    let rest = body.get(FIXED..)?;
    let number = |kind| attribute(rest, kind).and_then(|v| u32_at(v, 0));
    let ours = attribute(rest, FRA_PROTOCOL)?.first() == Some(&PROTOCOL_STATIC);
    let mark = number(FRA_FWMARK).filter(|mark| *mark != 0);
    let plain = |(kind, _): (u16, &[u8])| match kind {
        FRA_DST | FRA_SRC | FRA_PRIORITY | FRA_FWMARK | FRA_TABLE | FRA_PAD | FRA_PROTOCOL => true,
        FRA_SUPPRESS_PREFIXLEN => number(kind) == Some(NONE),
        FRA_FWMASK => mark.is_none() || number(kind) == Some(NONE),
        _ => false,
    };
    // Flags say that it is turned around, or that the link it names is not there.
    if !ours || action != ACTION_LOOKUP || flags != 0 || !attributes(rest).all(plain) {
        return None;
    }
    let prefix = |kind, length| match attribute(rest, kind).map(ip) {
        None => Some(None),
        Some(address) => {
            let address = address.filter(|address| family(*address) == family_number)?;
            IpNet::new(address, length).ok().map(Some)
        }
    };
    let (mut from, to) = (prefix(FRA_SRC, from_length)?, prefix(FRA_DST, to_length)?);
    if from.is_none() && to.is_none() {
        from = Some(any(family_number)?);
    }
    Some(Rule {
        from,
        to,
        table: number(FRA_TABLE).unwrap_or(table.into()),
        priority: Some(number(FRA_PRIORITY).unwrap_or(0)),
        mark,
        tos: Some(tos).filter(|tos| *tos != 0),
    })
}

/// `0.0.0.0/0` or `::/0`.
fn any(family_number: u8) -> Option<IpNet> {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let any = all.into_iter().find(|any| family(*any) == family_number)?;
    IpNet::new(any, 0).ok()
}

/// Asks for all rules, of both families.
pub fn dump() -> Request {
    Request::new(GET, DUMP, &[0; FIXED])
}

fn request(kind: u16, flags: u16, rule: &Rule) -> Request {
    let Rule { from, to, table, priority, mark, tos } = *rule;
    let length = |net: Option<IpNet>| net.map_or(0, |net| net.prefix_len());
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut fixed = [0; FIXED];
    fixed[0] = family(from.or(to).map_or(any, |net| net.addr()));
    fixed[1] = length(to);
    fixed[2] = length(from);
    fixed[3] = tos.unwrap_or(0);
    fixed[7] = ACTION_LOOKUP;
    let mut request =
        Request::new(kind, flags, &fixed).number(FRA_TABLE, table).attribute(FRA_PROTOCOL, &[PROTOCOL_STATIC]);
    for (kind, net) in [(FRA_DST, to), (FRA_SRC, from)] {
        if let Some(net) = net.filter(|net| net.prefix_len() > 0) {
            request = request.attribute(kind, &octets(net.addr()));
        }
    }
    for (kind, number) in [(FRA_PRIORITY, priority), (FRA_FWMARK, mark)] {
        if let Some(number) = number {
            request = request.number(kind, number);
        }
    }
    request
}

/// Adds a rule, a second one where it is there already. Without a priority, the kernel gives it the one before that of its
/// own second rule: it is asked first.
pub fn add(rule: &Rule) -> Request {
    request(NEW, ACK | CREATE, rule)
}

/// Removes the first rule for which all that is said of this one holds: it may say more.
pub fn remove(rule: &Rule) -> Request {
    request(DELETE, ACK, rule)
}
