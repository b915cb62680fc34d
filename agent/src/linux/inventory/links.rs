//! VLANs, bonds and bridges, as netlink tells them.
//!
//! Called by `inventory`. What Muster does not configure is left out.

use muster_protocol::bounded::{LINK_ADDRESSES, LINKS};
use muster_protocol::inventory::{Carrier, Link, LinkKind};

use super::nics::Links;
use crate::linux::network::netlink::link::{self, Kind};
use crate::sort;

/// What stands on NICs, by name.
pub(super) fn links(seen: &Links) -> Vec<Link> {
    let mut links: Vec<Link> = seen.links.iter().filter_map(|link| told(link, seen)).collect();
    // Of too many, those stay by which the machine is reached.
    sort::short(&mut links, |a, b| {
        a.addresses.is_empty().cmp(&b.addresses.is_empty()).then_with(|| a.name.cmp(&b.name))
    });
    links.truncate(LINKS);
    sort::short(&mut links, |a, b| a.name.cmp(&b.name));
    links
}

fn told(link: &link::Link, seen: &Links) -> Option<Link> {
    let kind = match link.kind {
        Kind::Vlan { parent, tag } => LinkKind::Vlan { tag, parent: seen.name(parent)? },
        Kind::Bond(_) => LinkKind::Bond,
        Kind::Bridge(_) => LinkKind::Bridge,
        Kind::Loopback | Kind::Ethernet | Kind::Foreign(_) => return None,
    };
    Some(Link {
        name: link.name.clone(),
        kind,
        mac: link.mac,
        carrier: if link.carrier { Carrier::Present } else { Carrier::Absent },
        port_of: seen.port_of(link),
        addresses: seen.addresses_of(link, LINK_ADDRESSES),
    })
}
