//! The target that is an earlier state, for the links that plans touch.

use std::collections::BTreeMap;

use muster_protocol::desired::{Dhcp, LeaseUse, PortCost, Reach, WakeOnLan};
use muster_protocol::observed::{self, Link, LinkKind, Network, Origin};

use super::{BondTarget, KindTarget, LinkTarget, PortTarget, Target, can_be_made};
use crate::plan::network::Route;
use crate::plan::network::steps::{is_in_proof, is_proofs};

impl Target {
    /// The target that is the state `before`, now that it is as `now`.
    pub(in crate::plan::network) fn of_observed(before: &Network, now: &Network) -> Self {
        let is_new = |link: &&Link| can_be_made(link) && !before.links.iter().any(|old| old.name == link.name);
        let mut links: Vec<_> = before.links.iter().filter_map(|link| of_link(link, before, now)).collect();
        // A NIC that was pulled out cannot be brought back, nor what was made of it alone.
        loop {
            let names: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
            let count = links.len();
            links.retain(|link| match &link.kind {
                KindTarget::Vlan { parent, .. } => {
                    names.contains(parent) || now.links.iter().any(|link| link.name == *parent)
                }
                KindTarget::Ethernet | KindTarget::Bond(_) | KindTarget::Bridge(_) => true,
            });
            for link in &mut links {
                link.port = link.port.take().filter(|port| names.contains(&port.of));
            }
            if links.len() == count {
                break;
            }
        }
        let (nameservers, search, ntp) = Self::configured(before);
        let unwanted = now.links.iter().filter(is_new).map(|link| link.name.clone()).collect();
        let hostname = Some(before.hostname.clone()).filter(|name| !name.is_empty());
        // A bond that is made anew has the MAC of the port that joins first.
        let gives_mac = |link: &LinkTarget| {
            let had = before.links.iter().find(|had| had.name == link.name);
            let owner =
                had.and_then(|had| before.links.iter().find(|owner| Some(owner.index) == had.port.map(|p| p.of)));
            had.zip(owner).is_some_and(|(had, owner)| had.permanent_mac == owner.mac)
        };
        crate::sort::short(&mut links, |a, b| gives_mac(b).cmp(&gives_mac(a)));
        // What was left of a proof then is nothing to go back to.
        let rules = before.rules.iter().filter(|rule| !is_proofs(rule)).cloned().collect();
        Self { links: below_first(links), unwanted, rules, nameservers, search, ntp, hostname }
    }
}

/// `None` for links that plans never touch, and for NICs that are not there any more.
fn of_link(link: &Link, before: &Network, now: &Network) -> Option<LinkTarget> {
    let name_of = |index: u32| before.links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let kind = match &link.kind {
        LinkKind::Ethernet => KindTarget::Ethernet,
        LinkKind::Bond(bond) => KindTarget::Bond(BondTarget {
            mode: bond.mode,
            options: bond.options.clone(),
            arp_ip_targets: bond.arp_ip_targets.clone(),
            primary: bond.primary.and_then(name_of),
        }),
        LinkKind::Bridge(bridge) => KindTarget::Bridge(bridge.options.clone()),
        LinkKind::Vlan { parent, tag } => KindTarget::Vlan { parent: name_of(*parent)?, tag: *tag },
        LinkKind::Foreign(_) => return None,
    };
    let present = match link.kind {
        LinkKind::Ethernet => Some(same_nic(link, before, now)?),
        _ => now.links.iter().find(|there| there.name == link.name),
    };
    // One that was put in again may be nothing that the firmware lets wake the machine.
    let is_able = present.is_some_and(|there| there.wake_on_lan != observed::WakeOnLan::Unable);
    let port = link.port.and_then(|port| {
        let of = before.links.iter().find(|link| link.index == port.of)?;
        let is_bridge = matches!(of.kind, LinkKind::Bridge(_));
        // Costs that nobody set are not worth a step: the kernel finds the same again.
        let cost = PortCost { path_cost: Some(port.path_cost), priority: Some(port.priority) };
        Some(PortTarget { of: of.name.clone(), cost: if is_bridge { cost } else { PortCost::default() } })
    });
    let is_in_bond = port.as_ref().is_some_and(|port| {
        before.links.iter().any(|link| link.name == port.of && matches!(link.kind, LinkKind::Bond(_)))
    });
    let held = |via| link.addresses.iter().any(|address| address.net.contains(&via));
    let is_its = |route: &&observed::Route| {
        route.link == link.index && route.origin != Origin::Kernel && !is_in_proof(route.table, route.metric)
    };
    let routes = before.routes.iter().filter(is_its);
    let dhcp = |dhcp: &observed::Dhcp| dhcp.lease_use().map_or(Dhcp::Off, |uses: LeaseUse| Dhcp::On(uses));
    Some(LinkTarget {
        name: link.name.clone(),
        present: present.map(|there| there.name.clone()),
        kind,
        admin: link.admin,
        // A bond's port has the bond's.
        mtu: (!is_in_bond).then_some(link.mtu),
        port,
        wake_on_lan: match link.wake_on_lan {
            observed::WakeOnLan::On if is_able => WakeOnLan::On,
            observed::WakeOnLan::Off if is_able => WakeOnLan::Off,
            observed::WakeOnLan::On | observed::WakeOnLan::Off | observed::WakeOnLan::Unable => WakeOnLan::Keep,
        },
        dhcp4: dhcp(&link.dhcp4),
        dhcp6: dhcp(&link.dhcp6),
        accept_ra: link.accept_ra,
        privacy: link.privacy,
        addresses: link.addresses.iter().filter(|address| address.origin != Origin::Kernel).copied().collect(),
        routes: routes
            .map(|route| Route {
                link: link.name.clone(),
                to: route.to,
                via: route.via,
                metric: route.metric,
                table: route.table,
                origin: route.origin,
                // The kernel does not tell how a gateway was reached; what no prefix holds can only be on the link.
                reach: if route.via.is_none_or(held) { Reach::Prefix } else { Reach::OnLink },
            })
            .collect(),
        neighbors: link.neighbors.clone(),
    })
}

/// What a NIC of `before` is now: it keeps its index whatever its name, and its own MAC where it was pulled out and put in again.
/// `None` where it is not there.
pub(in crate::plan::network) fn same_nic<'a>(nic: &Link, before: &Network, now: &'a Network) -> Option<&'a Link> {
    let is_nic = |link: &&Link| link.kind == LinkKind::Ethernet && link.permanent_mac == nic.permanent_mac;
    let is_new = |link: &&Link| before.links.iter().all(|old| old.index != link.index);
    // Nobody knows which of two with the same MAC it would be.
    let is_known = || before.links.iter().filter(is_nic).count() == 1;
    let same = now.links.iter().find(|link| link.index == nic.index);
    same.or_else(|| now.links.iter().filter(is_new).find(is_nic).filter(|_| is_known()))
}

/// Sorts so that each link comes after those that it is made of, and otherwise as it was.
pub(super) fn below_first(links: Vec<LinkTarget>) -> Vec<LinkTarget> {
    let mut depths: BTreeMap<String, usize> = BTreeMap::new();
    // A stack of n links is settled after n rounds; what is made of itself was refused before.
    for _ in 0..links.len() {
        let before = depths.clone();
        let depth = |name: &str| before.get(name).copied().unwrap_or(0);
        for link in &links {
            let ports = links.iter().filter(|port| port.port.as_ref().is_some_and(|port| port.of == link.name));
            let mut under = ports.map(|port| depth(&port.name) + 1).max().unwrap_or(0);
            if let KindTarget::Vlan { parent, .. } = &link.kind {
                under = under.max(depth(parent) + 1);
                // A bond says what the MTU of its port is, and so of what is on that.
                let owner = links.iter().find(|link| link.name == *parent).and_then(|link| link.port.as_ref());
                under = under.max(owner.map_or(0, |owner| depth(&owner.of) + 1));
            }
            depths.insert(link.name.clone(), under);
        }
        if depths == before {
            break;
        }
    }
    let mut links = links;
    let depth = |link: &LinkTarget| depths.get(&link.name).copied().unwrap_or(0);
    crate::sort::short(&mut links, |a, b| depth(a).cmp(&depth(b)));
    links
}
