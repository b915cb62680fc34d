//! Links above and below each other: what making, joining, leaving, raising and deleting one does to the others.

use muster_protocol::desired::{Bond as DesiredBond, BondMode, BondOption, BridgeOption};
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{Admin, Bond, Bridge, Dhcp, Link, LinkKind, Port};

use super::{Done, Twin};
use crate::plan::network::{Family, NewLink, needs_a_new_bond};
use crate::sort;

/// What a new bond or bridge has.
const MTU: u32 = 1500;
/// What the kernel gives a bridge's port of 1 Gbit/s and of any priority.
const PORT: Port = Port { of: 0, path_cost: 4, priority: 32, forwards: true };

impl Twin {
    pub(super) fn create(&mut self, name: &str, kind: &NewLink) -> Done {
        let (kind, mtu) = match kind {
            NewLink::Vlan { parent, tag } => {
                let parent = self.link(parent)?;
                (LinkKind::Vlan { parent: parent.index, tag: *tag }, parent.mtu)
            }
            NewLink::Bond { mode } => (LinkKind::Bond(Box::new(new_bond(*mode))), MTU),
            NewLink::Bridge => {
                // The kernel's default is no spanning tree.
                let value = |option: BridgeOption| if option == BridgeOption::Stp { 0 } else { option.default_value() };
                let options = sort::map(BridgeOption::ALL.into_iter().map(|option| (option, value(option))));
                (LinkKind::Bridge(Box::new(Bridge { options })), MTU)
            }
        };
        let taken = |other: &Link| other.name == name || matches!(kind, LinkKind::Vlan { .. }) && other.kind == kind;
        if self.network.links.iter().any(taken) {
            return Err("File exists");
        }
        self.last_index += 1;
        let index = self.last_index;
        let mac = muster_protocol::Mac::from_bytes([2, 0xfe, 0, 0, 0, index as u8]);
        self.network.links.push(Link { mtu, ..Link::bare(index, name, mac, kind) });
        Ok(())
    }

    pub(super) fn rename(&mut self, name: &str, to: &str) -> Done {
        if name == to {
            return Ok(());
        }
        if self.network.links.iter().any(|link| link.name == to) {
            return Err("File exists");
        }
        let link = self.link(name)?;
        if link.admin == Admin::Up {
            return Err("Device or resource busy");
        }
        // Clients go by name: one that is not stopped before is lost.
        (link.dhcp4, link.dhcp6) = (Dhcp::Off, Dhcp::Off);
        to.clone_into(&mut link.name);
        // Its cable stays where it is, and so does the server there.
        for family in [Family::V4, Family::V6] {
            let offer = self.offers.remove(&(name.to_owned(), family));
            self.offers.extend(offer.map(|offer| ((to.to_owned(), family), offer)));
        }
        Ok(())
    }

    pub(super) fn set_bond(&mut self, name: &str, option: BondOption, value: u32) -> Done {
        let index = self.link(name)?.index;
        let has_ports = self.ports(index).next().is_some();
        let is_up = self.link(name)?.admin == Admin::Up;
        let bond = self.bond(name)?;
        if !option.is_of(bond.mode) {
            return Err("option cannot be set in this mode");
        }
        if needs_a_new_bond(option) && (has_ports || is_up) && bond.options.get(&option) != Some(&value) {
            return Err("Device or resource busy");
        }
        // The two ways of watching ports exclude each other.
        let other = match option {
            BondOption::MiiMonitorInterval => BondOption::ArpInterval,
            _ => BondOption::MiiMonitorInterval,
        };
        if matches!(option, BondOption::MiiMonitorInterval | BondOption::ArpInterval)
            && value > 0
            && other.is_of(bond.mode)
        {
            bond.options.insert(other, 0);
        }
        bond.options.insert(option, value);
        Ok(())
    }

    pub(super) fn join(&mut self, name: &str, of: &str) -> Done {
        let above = self.link(of)?;
        let (index, mtu, is_bond) = (above.index, above.mtu, matches!(above.kind, LinkKind::Bond(_)));
        let link = self.link(name)?;
        if link.port.is_some_and(|port| port.of == index) {
            return Ok(());
        }
        if link.port.is_some() {
            return Err("Device or resource busy");
        }
        if is_bond {
            if link.admin == Admin::Up {
                return Err("Device can not be enslaved while up");
            }
            if !takes(link, mtu) {
                return Err("Invalid argument");
            }
            link.port = Some(Port { of: index, path_cost: 0, priority: 0, forwards: true });
            (link.admin, link.mtu) = (Admin::Up, mtu);
            let port = link.index;
            self.clamp_mtu(port, mtu);
        } else {
            link.port = Some(Port { of: index, ..PORT });
        }
        Ok(())
    }

    /// A bond sets a port down when it lets go of it.
    pub(super) fn leave(&mut self, index: u32) {
        let Some(of) = self.by_index(index).and_then(|link| link.port).map(|port| port.of) else { return };
        let is_bond = self.by_index(of).is_some_and(|above| matches!(above.kind, LinkKind::Bond(_)));
        if is_bond {
            self.down(index);
        }
        for link in &mut self.network.links {
            if link.index == index {
                link.port = None;
            }
            if let (LinkKind::Bond(bond), true) = (&mut link.kind, link.index == of) {
                bond.primary = bond.primary.filter(|primary| *primary != index);
            }
        }
    }

    fn ports(&self, index: u32) -> impl Iterator<Item = &Link> {
        self.network.links.iter().filter(move |link| link.port.is_some_and(|port| port.of == index))
    }

    fn vlans_on(&self, index: u32) -> Vec<u32> {
        let on = |link: &&Link| matches!(link.kind, LinkKind::Vlan { parent, .. } if parent == index);
        self.network.links.iter().filter(on).map(|link| link.index).collect()
    }

    pub(super) fn delete(&mut self, index: u32) {
        for vlan in self.vlans_on(index) {
            self.delete(vlan);
        }
        let ports: Vec<u32> = self.ports(index).map(|port| port.index).collect();
        for port in ports {
            self.leave(port);
        }
        self.network.links.retain(|link| link.index != index);
        self.network.routes.retain(|route| route.link != index);
    }

    /// A VLAN's MTU is at most its parent's, and follows it down; a bond's ports have the bond's.
    ///
    /// What is so already is no change: a bridge whose MTU is set to what it is goes on to follow its ports.
    pub(super) fn set_mtu(&mut self, name: &str, mtu: u32) -> Done {
        let link = self.link(name)?;
        let (index, kind) = (link.index, link.kind.clone());
        if link.mtu == mtu {
            return Ok(());
        }
        if !takes(link, mtu) {
            return Err("Invalid argument");
        }
        if let LinkKind::Vlan { parent, .. } = kind
            && self.by_index(parent).is_some_and(|parent| parent.mtu < mtu)
        {
            return Err("Numerical result out of range");
        }
        if matches!(kind, LinkKind::Bond(_)) && self.ports(index).any(|port| !takes(port, mtu)) {
            return Err("Invalid argument");
        }
        self.link(name)?.mtu = mtu;
        if matches!(kind, LinkKind::Bond(_)) {
            let ports: Vec<u32> = self.ports(index).map(|port| port.index).collect();
            for port in ports {
                self.network.links.iter_mut().filter(|link| link.index == port).for_each(|link| link.mtu = mtu);
                self.clamp_mtu(port, mtu);
            }
        }
        if matches!(kind, LinkKind::Bridge(_)) {
            self.mtu_by_hand.insert(index);
        }
        self.clamp_mtu(index, mtu);
        Ok(())
    }

    /// What the MTU of a bridge is where nobody set it: that of its smallest port.
    pub(super) fn mtu_of_ports(&self, bridge: u32) -> u32 {
        self.ports(bridge).map(|port| port.mtu).min().unwrap_or(MTU)
    }

    /// Lets bridges follow their ports.
    pub(super) fn settle_mtus(&mut self) {
        // A bridge may be below another, by a VLAN.
        for _ in 0..self.network.links.len() {
            let follows = |link: &&Link| {
                matches!(link.kind, LinkKind::Bridge(_))
                    && !self.mtu_by_hand.contains(&link.index)
                    && link.mtu != self.mtu_of_ports(link.index)
            };
            let Some(index) = self.network.links.iter().find(follows).map(|link| link.index) else { return };
            let mtu = self.mtu_of_ports(index);
            self.network.links.iter_mut().filter(|link| link.index == index).for_each(|link| link.mtu = mtu);
            self.clamp_mtu(index, mtu);
        }
    }

    fn clamp_mtu(&mut self, parent: u32, limit: u32) {
        for child in self.vlans_on(parent) {
            self.network.links.iter_mut().filter(|link| link.index == child).for_each(|l| l.mtu = l.mtu.min(limit));
            self.clamp_mtu(child, limit);
        }
    }

    /// VLANs come up with their parent, and cannot without it.
    pub(super) fn up(&mut self, name: &str) -> Done {
        if let LinkKind::Vlan { parent, .. } = self.link(name)?.kind
            && self.by_index(parent).is_some_and(|link| link.admin == Admin::Down)
        {
            return Err("Network is down");
        }
        let link = self.link(name)?;
        link.admin = Admin::Up;
        if link.kind == LinkKind::Ethernet {
            link.carrier = Carrier::Present;
        }
        let index = link.index;
        for child in self.vlans_on(index) {
            let name = self.by_index(child).map(|link| link.name.clone());
            name.map_or(Ok(()), |name| self.up(&name))?;
        }
        Ok(())
    }

    /// Going down costs a link its routes, its neighbors and its IPv6 addresses, and takes its VLANs along.
    pub(super) fn down(&mut self, index: u32) {
        for child in self.vlans_on(index) {
            self.down(child);
        }
        for link in self.network.links.iter_mut().filter(|link| link.index == index && link.admin == Admin::Up) {
            link.admin = Admin::Down;
            link.addresses.retain(|address| address.net.addr().is_ipv4());
            link.neighbors.clear();
            self.network.routes.retain(|route| route.link != index);
        }
    }

    /// A link that is made of others has a carrier when it is up and one of them has.
    pub(super) fn settle_carriers(&mut self) {
        // As deep as links can be stacked.
        for _ in 0..self.network.links.len().min(8) {
            let has = |index: u32| {
                self.by_index(index).is_some_and(|link| link.admin == Admin::Up && link.carrier == Carrier::Present)
            };
            let carriers: Vec<Option<bool>> = self
                .network
                .links
                .iter()
                .map(|link| match link.kind {
                    LinkKind::Ethernet | LinkKind::Foreign(_) => None,
                    LinkKind::Vlan { parent, .. } => Some(has(parent)),
                    LinkKind::Bond(_) | LinkKind::Bridge(_) => Some(self.ports(link.index).any(|port| has(port.index))),
                })
                .collect();
            for (link, carrier) in self.network.links.iter_mut().zip(carriers) {
                if let Some(has) = carrier {
                    link.carrier = if has && link.admin == Admin::Up { Carrier::Present } else { Carrier::Absent };
                }
            }
        }
    }
}

/// A bond as the kernel makes it: modes that cannot watch ports by ARP look at carriers, the others at nothing.
fn new_bond(mode: BondMode) -> Bond {
    let said = DesiredBond { mode, ..DesiredBond::default() };
    let value = |option: BondOption| match option {
        BondOption::MiiMonitorInterval if mode.may_watch_by_arp() => 0,
        option => option.default_in(&said),
    };
    let known = BondOption::ALL.into_iter().filter(|option| option.is_of(mode));
    Bond { mode, options: sort::map(known.map(|option| (option, value(option)))), ..Bond::default() }
}

/// Whether a link's driver takes an MTU.
fn takes(link: &Link, mtu: u32) -> bool {
    mtu >= link.min_mtu && (link.max_mtu == 0 || mtu <= link.max_mtu)
}
