//! Links: names, kinds, ports, properties.

use muster_protocol::desired::{BondOption, BridgeOption, PortCost, WakeOnLan};
use muster_protocol::observed::{self, Admin, Link, LinkKind};

use super::{Half, Planner};
use crate::plan::network::target::{KindTarget, LinkTarget};
use crate::plan::network::{Change, Family, NewLink, Step, needs_a_new_bond};
use crate::sort;

/// A name that a NIC has while others exchange theirs.
const SPARE_NAME: &str = "muster-spare";

impl<'a> Planner<'a> {
    /// Gives NICs their names. A NIC has to be down for it.
    pub(super) fn rename(&mut self, half: Half) {
        for wanted in &self.target.links {
            let Some(now) = self.nic(wanted).filter(|now| *now != wanted.name) else { continue };
            // Who has the wanted name is a NIC that gets another one: it steps aside first.
            let aside = self.named(&wanted.name).map(|link| link.name.clone());
            let is_spared = |name: &String| {
                let down = Change::SetAdmin { link: name.clone(), admin: Admin::Down };
                half == Half::Beside && self.would_cut(&down)
            };
            if is_spared(&now) || aside.as_ref().is_some_and(is_spared) {
                self.deferred.insert(&wanted.name);
                continue;
            }
            if let Some(other) = aside {
                self.take_down(&other);
                let spare = (0..).map(|number| format!("{SPARE_NAME}{number}")).find(|to| self.named(to).is_none());
                let to = spare.expect("there are more numbers than links");
                self.must(Change::Rename { link: other, to });
            }
            self.take_down(&now);
            self.must(Change::Rename { link: now, to: wanted.name.clone() });
        }
        if half == Half::Whole {
            self.deferred.clear();
        }
    }

    /// The name that a NIC has after the steps so far.
    fn nic(&self, wanted: &LinkTarget) -> Option<String> {
        let present = wanted.present.as_ref().filter(|_| wanted.kind == KindTarget::Ethernet)?;
        let index = self.observed.links.iter().find(|link| link.name == *present)?.index;
        let now = self.twin.observe().links.iter().find(|link| link.index == index)?;
        Some(now.name.clone())
    }

    /// Sets a NIC down, after the clients on it and on its VLANs, which lose what they had.
    fn take_down(&mut self, name: &str) {
        for name in self.with_those_on(name) {
            self.stop_clients(&name);
        }
        if self.named(name).is_some_and(|link| link.port.is_some()) {
            self.must(Change::Leave { link: name.to_owned() });
        }
        if self.named(name).is_some_and(|link| link.admin == Admin::Up) {
            self.must(Change::SetAdmin { link: name.to_owned(), admin: Admin::Down });
        }
    }

    /// A link and the VLANs on it, at any depth.
    fn with_those_on(&self, name: &str) -> Vec<String> {
        let mut all = vec![name.to_owned()];
        let mut at = 0;
        while let Some(below) = all.get(at) {
            let index = self.named(below).map(|link| link.index);
            let on = |link: &&Link| matches!(link.kind, LinkKind::Vlan { parent, .. } if Some(parent) == index);
            let above: Vec<String> =
                self.twin.observe().links.iter().filter(on).map(|link| link.name.clone()).collect();
            all.extend(above);
            at += 1;
        }
        all
    }

    /// Ends the DHCP clients of a link that goes or changes its nature.
    fn stop_clients(&mut self, name: &str) {
        for family in [Family::V4, Family::V6] {
            let runs = |link: &Link| match family {
                Family::V4 => link.dhcp4 != observed::Dhcp::Off,
                Family::V6 => link.dhcp6 != observed::Dhcp::Off,
            };
            if self.named(name).is_some_and(runs) {
                self.must(Change::StopDhcp { link: name.to_owned(), family });
            }
        }
    }

    /// Deletes the links in whose place another is to be made: of the same name, or with the same tag on the same parent.
    pub(super) fn clear_the_way(&mut self, half: Half) {
        let names: Vec<String> = self.twin.observe().links.iter().map(|link| link.name.clone()).collect();
        for name in names {
            let Some(link) = self.named(&name) else { continue };
            let is_in_the_way = self.target.links.iter().any(|wanted| self.is_in_the_way(link, wanted));
            if !is_in_the_way {
                continue;
            }
            if !self.delete(&name, half) {
                let wanted = self
                    .target
                    .links
                    .iter()
                    .filter(|wanted| self.named(&name).is_some_and(|link| self.is_in_the_way(link, wanted)));
                let names: Vec<&'a str> = wanted.map(|wanted| wanted.name.as_str()).collect();
                self.deferred.extend(names);
            }
        }
    }

    fn is_in_the_way(&self, link: &Link, wanted: &LinkTarget) -> bool {
        let same_name = link.name == wanted.name;
        match (&link.kind, &wanted.kind) {
            (LinkKind::Vlan { parent, tag }, KindTarget::Vlan { parent: wanted_parent, tag: wanted_tag }) => {
                let parent = self.twin.observe().links.iter().find(|link| link.index == *parent);
                let same_place = parent.is_some_and(|link| link.name == *wanted_parent) && tag == wanted_tag;
                same_name != same_place
            }
            (LinkKind::Bond(bond), KindTarget::Bond(target)) => {
                let differs = |(option, value): (&BondOption, &u32)| {
                    needs_a_new_bond(*option) && bond.options.get(option) != Some(value)
                };
                same_name && (bond.mode != target.mode || target.options.iter().any(differs))
            }
            (LinkKind::Bridge(_), KindTarget::Bridge(_)) | (LinkKind::Ethernet | LinkKind::Foreign(_), _) => false,
            (LinkKind::Vlan { .. } | LinkKind::Bond(_) | LinkKind::Bridge(_), _) => same_name,
        }
    }

    /// Deletes a link with its clients and those on it. Returns whether it did.
    fn delete(&mut self, name: &str, half: Half) -> bool {
        let change = Change::Delete { link: name.to_owned() };
        if half == Half::Beside && self.would_cut(&change) {
            return false;
        }
        for name in self.with_those_on(name) {
            self.stop_clients(&name);
        }
        self.must(change);
        true
    }

    pub(super) fn delete_unwanted(&mut self) {
        for name in &self.target.unwanted {
            if self.named(name).is_some() {
                self.delete(name, Half::Whole);
            }
        }
    }

    /// Makes a link that is not there.
    pub(super) fn create(&mut self, wanted: &'a LinkTarget, half: Half) {
        if self.waits(wanted) || self.named(&wanted.name).is_some() {
            return;
        }
        let kind = match &wanted.kind {
            KindTarget::Ethernet => return,
            KindTarget::Bond(bond) => NewLink::Bond { mode: bond.mode },
            KindTarget::Bridge(_) => NewLink::Bridge,
            KindTarget::Vlan { parent, tag } => {
                let is_missing = self.named(parent).is_none() || self.deferred.contains(parent.as_str());
                if half == Half::Beside && is_missing {
                    self.deferred.insert(&wanted.name);
                    return;
                }
                NewLink::Vlan { parent: parent.clone(), tag: *tag }
            }
        };
        self.must(Change::Create { link: wanted.name.clone(), kind });
    }

    /// Takes links out of bonds and bridges: those that are not to be ports there, and those of which a described bond or
    /// bridge does not speak.
    pub(super) fn leave(&mut self, half: Half) {
        let target = self.target;
        let mut leaving = Vec::new();
        for link in &self.twin.observe().links {
            let owner = link.port.and_then(|port| self.twin.observe().links.iter().find(|link| link.index == port.of));
            let Some(owner) = owner else { continue };
            let wanted = target.link(&link.name);
            let stays = match wanted {
                Some(wanted) => wanted.port.as_ref().is_some_and(|port| port.of == owner.name),
                None => target.link(&owner.name).is_none(),
            };
            if !stays {
                leaving.push((link.name.clone(), wanted));
            }
        }
        for (link, wanted) in leaving {
            if wanted.is_some_and(|wanted| self.waits(wanted)) {
                continue;
            }
            if !self.add(Change::Leave { link }, half) {
                self.deferred.extend(wanted.map(|wanted| wanted.name.as_str()));
            }
        }
    }

    /// A VLAN's MTU is at most that of the link below, which may become a bond's port, and that of a bridge follows its ports
    /// until it is set: theirs come when all ports are where they belong. A bond gives its ports its own.
    pub(super) fn mtu(&mut self, wanted: &LinkTarget, half: Half) {
        let (Some(now), Some(mtu)) = (self.now(wanted), wanted.mtu) else { return };
        let is_bond = |link: &LinkTarget| matches!(link.kind, KindTarget::Bond(_));
        if wanted.port.as_ref().and_then(|port| self.target.link(&port.of)).is_some_and(is_bond) {
            return;
        }
        let change = Change::SetMtu { link: wanted.name.clone(), mtu };
        // Nobody can tell whether the MTU of a bridge that is there was set, and so whether it really followed its ports.
        let stayed = matches!(now.kind, LinkKind::Bridge(_))
            && self.observed.links.iter().any(|link| link.index == now.index && link.mtu != mtu)
            && !self.has(&change);
        if now.mtu != mtu || stayed {
            self.add(change, half);
        }
    }

    /// What can be set of a link, ports, MTU and addresses apart.
    pub(super) fn properties(&mut self, wanted: &LinkTarget, half: Half) {
        let Some(now) = self.now(wanted) else { return };
        let link = || wanted.name.clone();
        let mut changes = Vec::new();
        match (&now.kind, &wanted.kind) {
            (LinkKind::Bond(bond), KindTarget::Bond(target)) => {
                if bond.arp_ip_targets != target.arp_ip_targets {
                    changes.push(Change::SetArpTargets { link: link(), targets: target.arp_ip_targets.clone() });
                }
                let mut options: Vec<(BondOption, u32)> = target.options.iter().map(|(o, v)| (*o, *v)).collect();
                // One way of watching ports ends before the other begins.
                let watches = |option| matches!(option, BondOption::MiiMonitorInterval | BondOption::ArpInterval);
                let key = |(option, value): &(BondOption, u32)| (!(watches(*option) && *value == 0), *option);
                sort::short(&mut options, |a, b| key(a).cmp(&key(b)));
                let is = |option: &BondOption, value: &u32| bond.options.get(option) == Some(value);
                let interval = BondOption::MiiMonitorInterval;
                let beats = target.options.get(&interval).is_none_or(|value| is(&interval, value));
                for (option, value) in options {
                    // The kernel keeps delays as multiples of the interval.
                    let delay = matches!(option, BondOption::UpDelay | BondOption::DownDelay) && value > 0;
                    if !is(&option, &value) || delay && !beats {
                        changes.push(Change::SetBond { link: link(), option, value });
                    }
                }
            }
            (LinkKind::Bridge(bridge), KindTarget::Bridge(target)) => {
                // What is not known is what was set before.
                let differs =
                    |(option, value): &(&BridgeOption, &u32)| bridge.options.get(option).is_some_and(|is| is != *value);
                let set = |(option, value): (&BridgeOption, &u32)| Change::SetBridge {
                    link: link(),
                    option: *option,
                    value: *value,
                };
                // Spanning tree first, as the options are sorted: its bounds hold for the others while it is on, and
                // turning it on raises what is below them.
                changes.extend(target.iter().filter(differs).map(set));
            }
            _ => {}
        }
        let wakes = match now.wake_on_lan {
            observed::WakeOnLan::On => WakeOnLan::On,
            observed::WakeOnLan::Off | observed::WakeOnLan::Unable => WakeOnLan::Off,
        };
        if wanted.wake_on_lan != WakeOnLan::Keep && wanted.wake_on_lan != wakes {
            changes.push(Change::SetWakeOnLan { link: link(), wake_on_lan: wanted.wake_on_lan });
        }
        // Before links come up, so that an unwanted advertisement is never taken. A new link has what the system says.
        let is_new = !self.observed.links.iter().any(|link| link.index == now.index && link.name == now.name)
            && wanted.kind != KindTarget::Ethernet;
        let ra = Change::SetAcceptRa { link: link(), accept_ra: wanted.accept_ra };
        if now.accept_ra != wanted.accept_ra || is_new && !self.has(&ra) {
            changes.push(ra);
        }
        if now.privacy != wanted.privacy {
            changes.push(Change::SetPrivacy { link: link(), privacy: wanted.privacy });
        }
        for change in changes {
            self.add(change, half);
        }
    }

    /// Makes a link a port. A bond takes it only while it is down.
    pub(super) fn join(&mut self, wanted: &'a LinkTarget, half: Half) {
        let Some(port) = &wanted.port else { return };
        let Some(now) = self.now(wanted) else { return };
        let Some(of) = self.named(&port.of).filter(|_| !self.deferred.contains(port.of.as_str())) else { return };
        if now.port.is_some_and(|port| port.of == of.index) {
            return;
        }
        let is_bond = matches!(of.kind, LinkKind::Bond(_));
        let change = Change::Join { link: wanted.name.clone(), of: port.of.clone() };
        if half == Half::Beside && self.would_cut(&change) {
            self.deferred.insert(&wanted.name);
            return;
        }
        self.stop_clients(&wanted.name);
        if is_bond {
            self.take_down(&wanted.name);
        }
        self.must(change);
    }

    /// What is said of ports, once they are ports.
    pub(super) fn ports(&mut self, wanted: &LinkTarget, half: Half) {
        let Some(now) = self.now(wanted) else { return };
        if let (Some(port), Some(PortCost { path_cost, priority })) = (now.port, wanted.port.as_ref().map(|p| p.cost)) {
            let cost = PortCost {
                path_cost: path_cost.filter(|cost| *cost != port.path_cost),
                priority: priority.filter(|priority| *priority != port.priority),
            };
            if cost != PortCost::default() {
                self.must(Change::SetPort { link: wanted.name.clone(), cost });
            }
        }
        let Some(now) = self.now(wanted) else { return };
        let (LinkKind::Bond(bond), KindTarget::Bond(target)) = (&now.kind, &wanted.kind) else { return };
        let primary = target.primary.as_ref().and_then(|name| self.named(name));
        let is_port = primary.is_some_and(|link| link.port.is_some_and(|port| port.of == now.index));
        let index = primary.map(|link| link.index).filter(|_| is_port);
        // In the first half the port that is preferred may still be elsewhere.
        if bond.primary != index && (is_port || target.primary.is_none()) {
            self.add(Change::SetPrimary { link: wanted.name.clone(), port: target.primary.clone() }, half);
        }
    }

    /// Up from below; down only where a revert says so.
    pub(super) fn admin(&mut self, wanted: &LinkTarget, half: Half) {
        let Some(now) = self.now(wanted) else { return };
        if now.admin != wanted.admin {
            self.add(Change::SetAdmin { link: wanted.name.clone(), admin: wanted.admin }, half);
        }
    }

    /// A bridge with spanning tree passes nothing on for a while after it got a port.
    pub(super) fn await_forwarding(&mut self, wanted: &LinkTarget) {
        let KindTarget::Bridge(options) = &wanted.kind else { return };
        let is_new_port = |step: &Step| matches!(&step.change, Change::Join { of, .. } if *of == wanted.name);
        let awaits = Change::AwaitForwarding { link: wanted.name.clone() };
        let has_new_port = self.steps.iter().any(is_new_port);
        if options.get(&BridgeOption::Stp) == Some(&1) && has_new_port && !self.has(&awaits) {
            self.must(awaits);
        }
    }
}
