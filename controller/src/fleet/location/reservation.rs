//! Which NIC of which machine has which IPv4 address: what a DHCP server is to say.
//!
//! Of leases and of what operators assigned; for as long as the address is the machine's, so also while it is prepared or
//! cleaned. IPv6 is not here: it comes from routers and from documents.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use muster_protocol::{Mac, MachineId};

use crate::fleet::State;
use crate::fleet::lease::primary;
use crate::fleet::record::{Address, AddressHolder, LeaseState, Subnet};

/// What one NIC is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Whose NIC it is.
    pub machine: MachineId,
    /// Permanent MAC.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// The subnet that it is from.
    pub net: Ipv4Net,
    /// Code of the location.
    pub location: String,
    /// The host name: the lease's, or the machine's own; `None` where that is no name for a host.
    pub hostname: Option<String>,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers.
    pub nameservers: Vec<Ipv4Addr>,
    /// For how many seconds the address is nobody's once it was given back.
    pub quarantine_s: u32,
}

/// All of them, in the order of their addresses.
pub fn list(state: &State) -> impl Iterator<Item = Reservation> + '_ {
    state.addresses.iter().filter_map(|address| read(state, address))
}

/// Those of one machine.
pub fn of_machine(state: &State, id: MachineId) -> impl Iterator<Item = Reservation> + '_ {
    let its = move |address: &&Address| machine_of(address) == Some(id);
    state.addresses.iter().filter(its).filter_map(|address| read(state, address))
}

/// Those of the machine with this NIC.
pub fn of_mac(state: &State, mac: Mac) -> impl Iterator<Item = Reservation> + '_ {
    list(state).filter(move |reserved| reserved.mac == mac)
}

/// The machine that has this address for itself, or whose public address it is.
pub fn holder(state: &State, address: IpAddr) -> Option<MachineId> {
    let is_it = |held: &&Address| {
        let own = held.block.addr();
        let public = || state.subnets.get(&held.subnet).map(|subnet| subnet.public(own));
        own == address || public() == Some(address)
    };
    state.addresses.iter().filter(|held| machine_of(held).is_some()).find(is_it).and_then(machine_of)
}

fn machine_of(address: &Address) -> Option<MachineId> {
    match &address.holder {
        AddressHolder::Machine { machine, .. } | AddressHolder::Assigned { machine } => Some(*machine),
        AddressHolder::Pool { .. } | AddressHolder::Quarantine { .. } => None,
    }
}

fn read(state: &State, address: &Address) -> Option<Reservation> {
    let machine = state.machines.get(&machine_of(address)?)?;
    let lease = match &address.holder {
        AddressHolder::Machine { lease, .. } => state.leases.get(lease),
        AddressHolder::Assigned { .. } | AddressHolder::Pool { .. } | AddressHolder::Quarantine { .. } => None,
    };
    let seat = lease.and_then(|lease| match &lease.state {
        LeaseState::Preparing { seat, .. } | LeaseState::Ready { seat } => Some(seat),
        LeaseState::Seeking { .. } | LeaseState::Failed { .. } | LeaseState::Ending { .. } => None,
    });
    let primary = || state.inventories.get(&machine.id).and_then(|record| primary::nic(record).ok());
    let mac = seat.map(|seat| seat.mac).or_else(|| primary().map(|nic| nic.permanent_mac))?;
    let (IpNet::V4(net), IpAddr::V4(own)) = (address.subnet, address.block.addr()) else { return None };
    let subnet: &Subnet = state.subnets.get(&address.subnet)?;
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    };
    let names = lease.map(|lease| &lease.hostname).into_iter().chain([&machine.name]);
    Some(Reservation {
        machine: machine.id,
        mac,
        address: own,
        net,
        location: subnet.location.clone(),
        hostname: names.filter(|name| is_host_name(name)).map(|name| name.to_ascii_lowercase()).next(),
        gateway: subnet.gateway.as_ref().and_then(v4),
        nameservers: subnet.nameservers.iter().filter_map(v4).collect(),
        quarantine_s: subnet.quarantine_s,
    })
}

/// RFC 1123, section 2.1: labels of letters, digits and hyphens. Nothing else may stand in a DHCP server's file.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let legal = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        legal && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
pub(crate) mod tests {
    use muster_protocol::enroll::Identity;

    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::model::tests::box_with;
    use crate::fleet::record::{Lease, Lifecycle, Location, Machine, Seat};
    use crate::fleet::{Draft, address, location, machine, subnet};

    /// A leased machine at ber1 whose NIC 02:00:00:00:00:01 has 203.0.113.2 of a /28, and 2001:db8::2.
    pub(crate) fn with_lease(draft: &mut Draft) -> MachineId {
        location::put(draft, Location { code: "ber1".into(), ..Location::default() }).expect("a location");
        let id = member(draft, 1);
        for (net, gateway, own) in
            [("203.0.113.0/28", "203.0.113.1", "203.0.113.2/32"), ("2001:db8::/64", "fe80::1", "2001:db8::2/128")]
        {
            let subnet = Subnet {
                gateway: gateway.parse().ok(),
                nameservers: vec![
                    "192.0.2.53".parse().expect("an address"),
                    "2001:db8::53".parse().expect("an address"),
                ],
                ..Subnet::new(net.parse().expect("a prefix"), "ber1")
            };
            let subnet = subnet::add(draft, subnet).expect("a subnet").net;
            let holder = AddressHolder::Machine { machine: id, lease: "srv-1".into() };
            draft.put(Address { block: own.parse().expect("a block"), subnet, holder, since_unix_ms: 0 });
        }
        let seat = Seat { machine: id, uuid: None, mac: Mac::from_bytes([2, 0, 0, 0, 0, 1]), addresses: Vec::new() };
        draft.put(Lease {
            id: "srv-1".into(),
            hub: "acme".into(),
            cycle_server: String::new(),
            hostname: "SRV-1.example.net".into(),
            model: String::new(),
            location: "ber1".into(),
            zone: String::new(),
            created_unix_ms: 0,
            tried: Vec::new(),
            state: LeaseState::Ready { seat },
        });
        let leased = draft.need::<Machine>(&id).expect("there");
        let held = Lifecycle::Leased { lease: "srv-1".into() };
        machine::move_to(draft, leased, held, "machine.leased", "is leased").expect("leased");
        id
    }

    fn member(draft: &mut Draft, n: u8) -> MachineId {
        let macs = vec![Mac::from_bytes([2, 0, 0, 0, 0, n])];
        let id = enrolled(draft, Identity { macs, ..Identity::default() });
        machine::rename(draft, id, &format!("m{n}")).expect("a name");
        machine::approve(draft, id).expect("approved");
        machine::inventory(draft, id, box_with(&format!("S{n}"), n)).expect("stored");
        id
    }

    #[test]
    fn the_nic_of_a_lease_has_its_ipv4_address_and_the_words_of_its_subnet() {
        let mut draft = draft();
        let id = with_lease(&mut draft);
        let all: Vec<Reservation> = list(draft.state()).collect();
        let expected = Reservation {
            machine: id,
            mac: Mac::from_bytes([2, 0, 0, 0, 0, 1]),
            address: Ipv4Addr::new(203, 0, 113, 2),
            net: "203.0.113.0/28".parse().expect("a prefix"),
            location: "ber1".into(),
            hostname: Some("srv-1.example.net".into()),
            gateway: Some(Ipv4Addr::new(203, 0, 113, 1)),
            nameservers: vec![Ipv4Addr::new(192, 0, 2, 53)],
            quarantine_s: 600,
        };
        assert_eq!(all, [expected]);
        for (text, found) in [("203.0.113.2", Some(id)), ("2001:db8::2", Some(id)), ("203.0.113.3", None)] {
            assert_eq!(holder(draft.state(), text.parse().expect("an address")), found, "{text}");
        }
    }

    #[test]
    fn what_an_operator_assigned_is_its_primary_nics_and_a_name_that_is_none_is_not_told() {
        let mut draft = draft();
        with_lease(&mut draft);
        let id = member(&mut draft, 2);
        machine::rename(&mut draft, id, "kitchen").expect("a name");
        address::assign(&mut draft, id, "203.0.113.0/28".parse().expect("a prefix")).expect("assigned");
        let own: Vec<Reservation> = of_machine(draft.state(), id).collect();
        assert_eq!(own.len(), 1);
        assert_eq!(own[0].mac, Mac::from_bytes([2, 0, 0, 0, 0, 2]));
        assert_eq!((own[0].hostname.as_deref(), own[0].address), (Some("kitchen"), Ipv4Addr::new(203, 0, 113, 3)));
        for (name, is_one) in [
            ("a-1.b", true),
            ("", false),
            ("a b", false),
            ("a;b", false),
            ("-a", false),
            ("a-", false),
            ("a..b", false),
            ("ä", false),
            ("a\nb", false),
        ] {
            assert_eq!(is_host_name(name), is_one, "{name:?}");
        }
    }

    #[test]
    fn a_public_address_that_stands_for_a_machines_own_is_its_too() {
        let mut draft = draft();
        let id = with_lease(&mut draft);
        let net: IpNet = "203.0.113.0/28".parse().expect("a prefix");
        let subnet = draft.need::<Subnet>(&net).expect("there");
        let nat = vec!["203.0.113.2=198.51.100.7".parse().expect("a pair")];
        draft.put(Subnet { nat, ..subnet });
        assert_eq!(holder(draft.state(), "198.51.100.7".parse().expect("an address")), Some(id));
    }
}
