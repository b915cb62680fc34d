//! What a plan has to know of a machine that nobody can see of it any more: how its NICs were when it booted, and which
//! document is in force.
//!
//! A document means the same after every boot, whatever was in force before it: so NICs go by the names that they boot with,
//! and what the document in force described and the next one does not is given back.

use muster_protocol::observed::{Link, LinkKind, Network};
use muster_protocol::{Mac, desired};
use serde::{Deserialize, Serialize};

/// See the module. The default is a machine of which nothing is known but what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// The document in force; `None` where there is none.
    pub in_force: Option<desired::Network>,
    /// All NICs that were seen in this boot, as they were when they were seen first.
    pub nics: Vec<BootNic>,
}

/// A NIC as it was before anything was done to it in this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootNic {
    index: u32,
    permanent_mac: Mac,
    name: String,
    mtu: u32,
}

/// Adds to `known` the NICs that were not seen before, as they are now. Answers whether there were any.
pub fn see(known: &mut Vec<BootNic>, now: &Network) -> bool {
    let before = known.len();
    for link in nics(now) {
        if known_as(known, link, now).is_none() {
            let Link { index, permanent_mac, mtu, .. } = *link;
            known.push(BootNic { index, permanent_mac, name: link.name.clone(), mtu });
        }
    }
    known.len() > before
}

impl Past {
    /// The same machine with its NICs under the names that they boot with.
    pub(super) fn as_named_at_boot(&self, now: &Network) -> Network {
        let mut named = now.clone();
        for link in named.links.iter_mut().filter(|link| link.kind == LinkKind::Ethernet) {
            if let Some(booted) = known_as(&self.nics, link, now) {
                link.name.clone_from(&booted.name);
            }
        }
        named
    }

    /// The MTU with which a NIC boots, where that is known.
    pub(super) fn boot_mtu(&self, nic: &Link, now: &Network) -> Option<u32> {
        known_as(&self.nics, nic, now).map(|booted| booted.mtu)
    }

    /// Whether anything is known of it.
    pub(super) fn is_known(&self) -> bool {
        !self.nics.is_empty()
    }
}

/// The NIC of this index, or one that was pulled out and put in again: that is known by its own MAC, unless several have it.
fn known_as<'a>(known: &'a [BootNic], nic: &Link, now: &Network) -> Option<&'a BootNic> {
    let is_it = |booted: &&BootNic| booted.permanent_mac == nic.permanent_mac;
    if let Some(same) = known.iter().filter(is_it).find(|booted| booted.index == nic.index) {
        return Some(same);
    }
    let is_one = nics(now).filter(|other| other.permanent_mac == nic.permanent_mac).count() == 1;
    let mut found = known.iter().filter(is_it);
    found.next().filter(|_| is_one && found.next().is_none())
}

fn nics(network: &Network) -> impl Iterator<Item = &Link> {
    network.links.iter().filter(|link| link.kind == LinkKind::Ethernet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::network::samples::nic;

    #[test]
    fn a_nic_goes_by_the_name_it_booted_with_whatever_it_is_called_now_and_however_often_it_was_pulled_out() {
        let booted = Network { links: vec![nic(2, "eth0"), nic(3, "eth1")], ..Network::default() };
        let mut nics = Vec::new();
        assert!(see(&mut nics, &booted) && !see(&mut nics, &booted), "each once");
        let mut now = booted.clone();
        now.links[0].name = "lan0".to_owned();
        // Put in again: another index, and the name that was free.
        now.links[1] = Link { index: 7, name: "eth0".to_owned(), ..now.links[1].clone() };
        assert!(!see(&mut nics, &now), "nobody is new");
        now.links.push(nic(9, "eth2"));
        assert!(see(&mut nics, &now));
        let past = Past { in_force: None, nics };
        let names: Vec<_> = past.as_named_at_boot(&now).links.into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["eth0", "eth1", "eth2"]);
    }
}
