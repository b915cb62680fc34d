//! A machine's primary NIC: the one that carries its session, whatever stands on it.
//!
//! Templates call it `primary`, and leases configure it. It is kept with the inventory, so that a bond of several NICs
//! means the same one for as long as it carries the session.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::Mac;
use muster_protocol::inventory::{Carrier, Inventory, Nic};

use super::wish::Unfit;
use crate::fleet::record::MachineInventory;

/// Which NIC carries the session, by its permanent MAC: the one that did `before`, where it still does or where nothing is
/// known; else of those beneath the link that does, one with a carrier, the first by name. `None` where it is not known.
pub fn carries(inventory: &Inventory, before: Option<Mac>) -> Option<Mac> {
    let named = |name: &String| inventory.nics.iter().find(|nic| nic.name == *name);
    let nics: Vec<&Nic> = inventory.home.iter().flat_map(|home| &home.nics).filter_map(named).collect();
    let still = |mac: &Mac| match nics.is_empty() {
        true => inventory.nics.iter().any(|nic| nic.permanent_mac == *mac),
        false => nics.iter().any(|nic| nic.permanent_mac == *mac),
    };
    let first = nics.iter().min_by_key(|nic| (nic.carrier == Carrier::Absent, by_name(nic)));
    before.filter(still).or_else(|| first.map(|nic| nic.permanent_mac))
}

/// The primary NIC; a guess by carriers and addresses where nobody has said yet what carries the session.
pub fn nic(record: &MachineInventory) -> Result<&Nic, Unfit> {
    let is_it = |nic: &&Nic| Some(nic.permanent_mac) == record.primary;
    record.inventory.nics.iter().find(is_it).or_else(|| guess(&record.inventory)).ok_or(Unfit::NoNic)
}

/// The NIC that a lease configures: the primary one, unless its cable is out.
pub fn cabled(record: &MachineInventory) -> Result<&Nic, Unfit> {
    let primary = nic(record).ok().filter(|nic| nic.carrier == Carrier::Present);
    primary.or_else(|| guess(&record.inventory)).ok_or(Unfit::NoNic)
}

/// Of those with a carrier, one with an address that reaches further than the wire; among those, one with an IPv4 address,
/// which is leased on the NIC that booted, while router advertisements give every NIC an IPv6 one; among equals the first by
/// name.
fn guess(inventory: &Inventory) -> Option<&Nic> {
    let rank = |nic: &&Nic| {
        let mute = !nic.addresses.iter().any(reaches);
        let unleased = !nic.addresses.iter().any(|net| net.addr().is_ipv4() && reaches(net));
        (mute, unleased, by_name(nic))
    };
    inventory.nics.iter().filter(|nic| nic.carrier == Carrier::Present).min_by_key(rank)
}

/// By length first, so that eth2 comes before eth10.
fn by_name(nic: &Nic) -> (usize, String) {
    (nic.name.len(), nic.name.clone())
}

/// Whether an address means something beyond its link.
pub fn reaches(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::lease::model::tests::box_with;
    use muster_protocol::MachineId;
    use muster_protocol::inventory::Home;

    fn made(number: u8) -> Mac {
        Mac::from_bytes([2, 0, 0, 0, 0, number])
    }

    /// `eth0` to `eth2`, all cabled and without addresses, whose MACs end in 0 to 2.
    fn three() -> Inventory {
        let mut inventory = box_with("S1", 1);
        let base = inventory.nics.remove(0);
        inventory.nics = (0..3)
            .map(|n| Nic { name: format!("eth{n}"), permanent_mac: made(n), addresses: Vec::new(), ..base.clone() })
            .collect();
        inventory
    }

    fn over(link: &str, nics: &[&str]) -> Option<Home> {
        Some(Home { link: link.into(), nics: nics.iter().map(|nic| (*nic).to_owned()).collect() })
    }

    fn record(inventory: Inventory, primary: Option<Mac>) -> MachineInventory {
        MachineInventory { machine: MachineId::from_bytes([1; 16]), at_unix_ms: 0, inventory, primary }
    }

    #[test]
    fn the_nic_that_carries_the_session_stays_the_primary_one_whatever_is_put_on_it() {
        let mut inventory = three();
        inventory.home = over("eth1", &["eth1"]);
        let primary = carries(&inventory, None);
        assert_eq!(primary, Some(made(1)));
        for (link, nics) in
            [("office", &["eth1"][..]), ("bond0", &["eth0", "eth1"]), ("br0", &["eth1", "eth2"]), ("eth1", &["eth1"])]
        {
            inventory.home = over(link, nics);
            assert_eq!(carries(&inventory, primary), primary, "{link}");
        }
        inventory.home = over("bond0", &["eth0", "eth1"]);
        inventory.nics[1].carrier = Carrier::Absent;
        inventory.nics[1].name = "lan".into();
        inventory.home = over("bond0", &["eth0", "lan"]);
        assert_eq!(carries(&inventory, primary), primary, "with another name, and its cable out for a while");
        inventory.home = None;
        assert_eq!(carries(&inventory, primary), primary, "nobody says anything else");
    }

    #[test]
    fn where_another_nic_carries_the_session_that_one_is_primary() {
        let mut inventory = three();
        inventory.home = over("eth2", &["eth2"]);
        assert_eq!(carries(&inventory, Some(made(1))), Some(made(2)));
        inventory.home = over("bond0", &["eth0", "eth2"]);
        assert_eq!(carries(&inventory, Some(made(1))), Some(made(0)), "the first of them");
        inventory.nics[0].carrier = Carrier::Absent;
        assert_eq!(carries(&inventory, Some(made(1))), Some(made(2)), "of those with a cable");
        inventory.home = None;
        assert_eq!(carries(&inventory, Some(made(9))), None, "it was pulled out");
        inventory.home = over("wg0", &[]);
        assert_eq!(carries(&inventory, None), None, "what is beneath a tunnel is not known");
    }

    #[test]
    fn a_lease_takes_the_primary_nic_unless_its_cable_is_out() {
        let mut record = record(three(), Some(made(1)));
        assert_eq!(cabled(&record).map(|nic| &*nic.name), Ok("eth1"));
        record.inventory.nics[1].carrier = Carrier::Absent;
        assert_eq!(nic(&record).map(|nic| &*nic.name), Ok("eth1"));
        assert_eq!(cabled(&record).map(|nic| &*nic.name), Ok("eth0"));
        record.inventory.nics.iter_mut().for_each(|nic| nic.carrier = Carrier::Absent);
        assert_eq!(cabled(&record), Err(Unfit::NoNic));
    }

    #[test]
    fn until_it_is_known_what_carries_the_session_the_nic_that_reaches_furthest_is_taken_for_it() {
        let mut inventory = box_with("S1", 1);
        let base = inventory.nics.remove(0);
        let a_nic = |name: &str, address: Option<&str>, carrier| Nic {
            name: name.into(),
            carrier,
            addresses: address.iter().map(|a| a.parse().expect("a prefix")).collect(),
            ..base.clone()
        };
        let mut record = record(inventory, None);
        assert!(matches!(nic(&record), Err(Unfit::NoNic)));
        let mut first = |added| {
            record.inventory.nics.push(added);
            nic(&record).map(|n| n.name.clone()).ok()
        };
        assert_eq!(first(a_nic("eth0", None, Carrier::Absent)), None);
        assert_eq!(first(a_nic("eth10", Some("fe80::1/64"), Carrier::Present)).as_deref(), Some("eth10"));
        assert_eq!(first(a_nic("eth2", Some("169.254.1.1/16"), Carrier::Present)).as_deref(), Some("eth2"));
        assert_eq!(first(a_nic("eth1", Some("2001:db8::1/64"), Carrier::Present)).as_deref(), Some("eth1"));
        assert_eq!(first(a_nic("eth7", Some("10.0.0.7/8"), Carrier::Present)).as_deref(), Some("eth7"));
        assert_eq!(first(a_nic("eth3", Some("10.0.0.3/8"), Carrier::Absent)).as_deref(), Some("eth7"));
    }
}
