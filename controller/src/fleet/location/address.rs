//! The addresses of subnets: lowest free first, each to one holder.
//!
//! Called by the operator API, by leases (a machine's own addresses) and by the IAL (pools of Cycle's).
//! That no address has two holders follows from the one writer: looking for a free one and taking it are one change.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::MachineId;

use super::free::{self, Reach, before, is_over, recorded};
use crate::fleet::record::{Address, AddressHolder, Lifecycle, Machine, Subnet};
use crate::fleet::{Draft, Facts, Refusal, State};
use crate::words::counted;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Takes the lowest free address of `family` at a location, for a pool the lowest free block where the subnet says so.
/// Subnets are used in the order of their prefixes.
///
/// Errors: [`Refusal::Exhausted`], also where no subnet of that family is declared there.
pub fn take(
    draft: &mut Draft,
    location: &str,
    family: Family,
    holder: AddressHolder,
) -> Result<(Address, Subnet), Refusal> {
    let declared: Vec<Subnet> = subnets(draft.state(), location, family).cloned().collect();
    if declared.is_empty() {
        return Err(Refusal::Exhausted(format!("no {family} subnet is declared at {location}")));
    }
    take_of(draft, &format!("at {location}"), &declared, holder)
}

/// Gives a machine an address of its own, for as long as an operator wants: for its configuration. Asking again is answered
/// with the address that it has.
///
/// Errors: no such machine or subnet; one that is leased, retired or not in; another location's; none free.
pub fn assign(draft: &mut Draft, id: MachineId, net: IpNet) -> Result<Address, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    let subnet = draft.need::<Subnet>(&net)?;
    match machine.lifecycle {
        Lifecycle::Available => {}
        Lifecycle::Leased { .. } | Lifecycle::Cleaning { .. } => {
            let why = format!("{} is leased, and has the addresses of its lease", machine.name);
            return Err(Refusal::Conflict(why));
        }
        Lifecycle::Pending | Lifecycle::Rejected | Lifecycle::Retired => {
            return Err(Refusal::Conflict(format!("{} is not in; approve it first", machine.name)));
        }
    }
    if machine.location != subnet.location {
        let at = if machine.location.is_empty() { "no location" } else { &machine.location };
        return Err(Refusal::invalid(
            "subnet",
            format!("{net} is at {}, and {} at {at}", subnet.location, machine.name),
        ));
    }
    let holder = AddressHolder::Assigned { machine: id };
    if let Some(has) = recorded(draft.state(), &subnet).find(|address| address.holder == holder) {
        return Ok(has.clone());
    }
    take_of(draft, &format!("of {net}"), &[subnet], holder).map(|(address, _)| address)
}

/// From the first of these subnets that has one. `of` is how an error calls them.
fn take_of(
    draft: &mut Draft,
    of: &str,
    subnets: &[Subnet],
    holder: AddressHolder,
) -> Result<(Address, Subnet), Refusal> {
    let (state, now) = (draft.state(), draft.now_unix_ms());
    let reach = match &holder {
        AddressHolder::Assigned { .. } => Reach::Local,
        _ => Reach::Public,
    };
    let length = |subnet: &Subnet| match (&holder, subnet.block) {
        (AddressHolder::Pool { .. }, Some(length)) => length,
        _ => subnet.net.max_prefix_len(),
    };
    let mut edges = Vec::new();
    let mut lowest = |subnet: &Subnet| {
        let (found, edge) = free::search(state, subnet, reach, length(subnet), now);
        edges.push(((subnet.net, reach, length(subnet)), edge));
        found
    };
    let Some((block, subnet)) = subnets.iter().find_map(|subnet| Some((lowest(subnet)?, subnet.clone()))) else {
        return Err(Refusal::Exhausted(none_free(state, of, subnets, reach, now)));
    };
    // Quarantines that have ended are only records by now.
    let over: Vec<IpNet> =
        free::overlapping(state, block).filter(|old| is_over(old, now)).map(|old| old.block).collect();
    for (wanted, edge) in edges {
        draft.edges().set(wanted, edge);
    }
    for block in over {
        draft.delete::<Address>(&block);
    }
    let record = Address { block, subnet: subnet.net, holder, since_unix_ms: now };
    draft.audit("address.taken", name(block), Facts::none(), holder_facts(&record.holder));
    draft.event("address.taken", name(block), format!("{} of {} is handed out", name(block), subnet.net));
    draft.put(record.clone());
    Ok((record, subnet))
}

fn none_free(state: &State, of: &str, subnets: &[Subnet], reach: Reach, now_unix_ms: u64) -> String {
    let family = subnets.first().map_or(Family::V4, |subnet| Family::of(subnet.net.addr()));
    let what = match (reach, subnets.iter().any(|subnet| !subnet.nat.is_empty())) {
        (Reach::Public, true) => "that stands for a public one ",
        (Reach::Local, true) => "that stands for no public one ",
        (_, false) => "",
    };
    let ends: Vec<u64> = subnets.iter().flat_map(|subnet| free::ends(state, subnet, now_unix_ms)).collect();
    let soon = ends.iter().min().map(|first| {
        let wait = first.saturating_sub(now_unix_ms).div_ceil(1000);
        format!("; {} in quarantine, the first one for {wait} s more", counted(ends.len(), "address"))
    });
    let declared = counted(subnets.len(), "subnet");
    format!("every {family} address {what}{of} is handed out ({declared}){}", soon.unwrap_or_default())
}

/// Whether a subnet of this family is declared at a location.
pub fn is_offered(state: &State, location: &str, family: Family) -> bool {
    subnets(state, location, family).next().is_some()
}

/// How many machines could be given an address of each family that is offered at a location; 0 where none is.
pub fn room(state: &State, location: &str, now_unix_ms: u64) -> u128 {
    let free = |family| {
        let count = |subnet| free::count(state, subnet, Reach::Public, now_unix_ms);
        let mut subnets = subnets(state, location, family).peekable();
        subnets.peek().is_some().then(|| subnets.map(count).fold(0, u128::saturating_add))
    };
    [Family::V4, Family::V6].into_iter().filter_map(free).min().unwrap_or(0)
}

/// When the next quarantine ends; `None` where none does.
pub fn next_end(state: &State, now_unix_ms: u64) -> Option<u64> {
    let ends = state.addresses.iter().filter_map(|address| match address.holder {
        AddressHolder::Quarantine { until_unix_ms } => Some(until_unix_ms),
        AddressHolder::Machine { .. } | AddressHolder::Pool { .. } | AddressHolder::Assigned { .. } => None,
    });
    ends.filter(|end| *end > now_unix_ms).min()
}

/// What is held under an address: the block that begins with it.
pub fn beginning(state: &State, address: IpAddr) -> impl Iterator<Item = &Address> {
    state.addresses.after(&before(address)).take_while(move |held| held.block.addr() == address)
}

/// Gives an address back, into quarantine. Nothing happens where nobody has it.
pub fn release(draft: &mut Draft, block: IpNet) {
    let Some(address) = draft.get::<Address>(&block).cloned() else { return };
    if matches!(address.holder, AddressHolder::Quarantine { .. }) {
        return;
    }
    let now = draft.now_unix_ms();
    let quarantine_s = draft.get::<Subnet>(&address.subnet).map_or(0, |subnet| subnet.quarantine_s);
    draft.audit("address.released", name(block), holder_facts(&address.holder), Facts::none());
    if quarantine_s == 0 {
        draft.event("address.released", name(block), format!("{} is free again", name(block)));
        draft.delete::<Address>(&block);
    } else {
        let text = format!("{} was given back, and is free again in {quarantine_s} s", name(block));
        draft.event("address.released", name(block), text);
        let holder = AddressHolder::Quarantine { until_unix_ms: now.saturating_add(u64::from(quarantine_s) * 1000) };
        draft.put(Address { holder, since_unix_ms: now, ..address });
    }
}

/// A single address without its length, a block with it.
fn name(block: IpNet) -> String {
    if block.prefix_len() == block.max_prefix_len() { block.addr().to_string() } else { block.to_string() }
}

/// Who has an address, for the audit log. The name of its handing-out is left out: whoever knows it may give it back.
fn holder_facts(holder: &AddressHolder) -> Facts {
    match holder {
        AddressHolder::Machine { machine, lease } => {
            Facts::of([("machine", machine.to_string()), ("lease", lease.clone())])
        }
        AddressHolder::Pool { hub, pool, lease, .. } => {
            Facts::of([("hub", hub.clone()), ("pool", pool.clone()), ("lease", lease.clone())])
        }
        AddressHolder::Assigned { machine } => Facts::one("machine", machine),
        AddressHolder::Quarantine { until_unix_ms } => Facts::one("quarantine-until-unix-ms", until_unix_ms),
    }
}

/// Gives back what a machine has for itself by a lease.
pub fn release_machine(draft: &mut Draft, id: MachineId) {
    release_all(draft, |holder| matches!(holder, AddressHolder::Machine { machine, .. } if *machine == id));
}

/// Gives back what operators assigned to a machine.
pub fn release_assigned(draft: &mut Draft, id: MachineId) {
    release_all(draft, |holder| matches!(holder, AddressHolder::Assigned { machine } if *machine == id));
}

fn release_all(draft: &mut Draft, is_meant: impl Fn(&AddressHolder) -> bool) {
    let meant = draft.state().addresses.iter().filter(|address| is_meant(&address.holder));
    let blocks: Vec<IpNet> = meant.map(|address| address.block).collect();
    for block in blocks {
        release(draft, block);
    }
}

/// Gives back, at an operator's word, what a pool of Cycle's holds or what was assigned to a machine; ends the quarantine of
/// what was given back.
///
/// Errors: nobody has it; a machine has it for itself and gives it back when its lease ends.
pub fn reclaim(draft: &mut Draft, block: IpNet) -> Result<(), Refusal> {
    let address = draft.need::<Address>(&block)?;
    match &address.holder {
        AddressHolder::Machine { lease, .. } => {
            Err(Refusal::Conflict(format!("{block} belongs to a machine of lease {lease}; it is freed when that ends")))
        }
        AddressHolder::Pool { .. } | AddressHolder::Assigned { .. } => {
            release(draft, block);
            Ok(())
        }
        AddressHolder::Quarantine { .. } => {
            draft.audit("address.freed", name(block), holder_facts(&address.holder), Facts::none());
            draft.event("address.freed", name(block), format!("{} is out of quarantine and free", name(block)));
            draft.delete::<Address>(&block);
            Ok(())
        }
    }
}

fn subnets<'a>(state: &'a State, location: &str, family: Family) -> impl Iterator<Item = &'a Subnet> {
    state.subnets.iter().filter(move |s| s.location == location && Family::of(s.net.addr()) == family)
}

#[cfg(test)]
mod tests {
    use super::super::free::{Usage, usage};
    use super::super::subnet::add as add_subnet;
    use super::super::subnet::tests::{paired, pool, site, subnet};
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::machine;

    fn take_all(draft: &mut Draft, family: Family) -> Vec<String> {
        std::iter::from_fn(|| take(draft, "ber1", family, pool("p")).ok()).map(|(a, _)| a.block.to_string()).collect()
    }

    #[test]
    fn the_lowest_free_address_goes_first_and_gateway_reserved_network_and_broadcast_never() {
        let mut draft = draft();
        site(&mut draft);
        let reserved = ["203.0.113.2", "203.0.113.4-203.0.113.5", "203.0.113.12/31"];
        add_subnet(&mut draft, subnet("203.0.113.0/28", "203.0.113.7", &reserved)).expect("added");
        let last: Vec<u8> = vec![1, 3, 6, 8, 9, 10, 11, 14];
        let expected: Vec<String> = last.iter().map(|n| format!("203.0.113.{n}/32")).collect();
        assert_eq!(count(&draft), Usage { taken: 0, quarantined: 0, free: 8 });
        assert_eq!(take_all(&mut draft, Family::V4), expected);
        assert_eq!(count(&draft), Usage { taken: 8, quarantined: 0, free: 0 });
        assert!(matches!(take(&mut draft, "ber1", Family::V4, pool("p")), Err(Refusal::Exhausted(_))));
        release(&mut draft, "203.0.113.9/32".parse().expect("a block"));
        release(&mut draft, "203.0.113.9/32".parse().expect("a block"));
        release(&mut draft, "203.0.113.6/32".parse().expect("a block"));
        assert_eq!(take_all(&mut draft, Family::V4), ["203.0.113.6/32", "203.0.113.9/32"]);
    }

    #[test]
    fn reserved_ranges_may_overlap_each_other_and_reach_to_the_end() {
        let mut draft = draft();
        site(&mut draft);
        let reserved = ["192.0.2.0-192.0.2.3", "192.0.2.2-192.0.2.5", "192.0.2.3", "192.0.2.6-192.0.2.7"];
        add_subnet(&mut draft, subnet("192.0.2.0/29", "192.0.2.1", &reserved)).expect("added");
        assert_eq!(count(&draft), Usage { taken: 0, quarantined: 0, free: 0 });
        assert_eq!(take_all(&mut draft, Family::V4), [""; 0]);
    }

    #[test]
    fn several_subnets_of_one_location_are_used_in_order_and_other_locations_are_left_alone() {
        let mut draft = draft();
        site(&mut draft);
        add_subnet(&mut draft, Subnet { location: "ham1".into(), ..subnet("192.0.2.0/30", "", &[]) }).expect("added");
        add_subnet(&mut draft, subnet("203.0.113.4/30", "203.0.113.5", &[])).expect("added");
        add_subnet(&mut draft, subnet("198.51.100.0/30", "", &[])).expect("added");
        assert_eq!(take_all(&mut draft, Family::V4), ["198.51.100.1/32", "198.51.100.2/32", "203.0.113.6/32"]);
        assert!(
            matches!(take(&mut draft, "ber1", Family::V6, pool("p")), Err(Refusal::Exhausted(why)) if why.contains("no IPv6 subnet"))
        );
    }

    #[test]
    fn ipv6_addresses_are_single_and_the_routers_anycast_address_is_kept() {
        let mut draft = draft();
        site(&mut draft);
        let reserved = ["2001:db8:1::3-2001:db8:1::ffff"];
        add_subnet(&mut draft, subnet("2001:db8:1::/64", "2001:db8:1::1", &reserved)).expect("added");
        for expected in ["2001:db8:1::2/128", "2001:db8:1::1:0/128", "2001:db8:1::1:1/128"] {
            let (address, subnet) = take(&mut draft, "ber1", Family::V6, pool("p")).expect("free");
            assert_eq!((address.block.to_string().as_str(), subnet.net.prefix_len()), (expected, 64));
        }
    }

    /// Of the only subnet.
    fn count(draft: &Draft) -> Usage {
        usage(draft.state(), draft.state().subnets.iter().next().expect("a subnet"), draft.now_unix_ms())
    }

    fn block(text: &str) -> IpNet {
        text.parse().expect("a block")
    }

    #[test]
    fn what_was_given_back_is_nobodys_until_its_quarantine_ends() {
        let mut draft = draft();
        site(&mut draft);
        let subnet = Subnet { quarantine_s: 60, ..subnet("192.0.2.0/29", "192.0.2.1", &[]) };
        add_subnet(&mut draft, subnet).expect("added");
        assert_eq!(take_all(&mut draft, Family::V4).len(), 5);
        release(&mut draft, block("192.0.2.3/32"));
        draft.advance_ms(20_000);
        // Giving it back once more makes it no longer.
        release(&mut draft, block("192.0.2.3/32"));
        release(&mut draft, block("192.0.2.2/32"));
        assert_eq!(count(&draft), Usage { taken: 3, quarantined: 2, free: 0 });
        let Err(Refusal::Exhausted(why)) = take(&mut draft, "ber1", Family::V4, pool("p")) else {
            panic!("it was handed out")
        };
        assert_eq!(
            why,
            "every IPv4 address at ber1 is handed out (1 subnet); 2 addresses in quarantine, the first one for 40 s more"
        );
        draft.advance_ms(39_999);
        assert!(take(&mut draft, "ber1", Family::V4, pool("p")).is_err());
        draft.advance_ms(1);
        assert_eq!(count(&draft), Usage { taken: 3, quarantined: 1, free: 1 });
        assert_eq!(take_all(&mut draft, Family::V4), ["192.0.2.3/32"]);
        // An operator does not have to wait.
        reclaim(&mut draft, block("192.0.2.2/32")).expect("freed");
        assert_eq!(take_all(&mut draft, Family::V4), ["192.0.2.2/32"]);
        assert_eq!(draft.state().addresses.len(), 5);
    }

    #[test]
    fn pools_get_blocks_of_ipv6_where_the_subnet_says_so_and_machines_single_addresses_between_them() {
        let mut draft = draft();
        site(&mut draft);
        let six = Subnet { block: Some(121), quarantine_s: 60, ..subnet("2001:db8:1::/118", "2001:db8:1::1", &[]) };
        add_subnet(&mut draft, six).expect("added");
        let machine = || AddressHolder::Machine { machine: MachineId::from_bytes([1; 16]), lease: "l".into() };
        let taken = |draft: &mut Draft, holder| {
            take(draft, "ber1", Family::V6, holder).map(|(address, _)| address.block.to_string()).unwrap_or_default()
        };
        assert_eq!(taken(&mut draft, machine()), "2001:db8:1::2/128");
        // The first block has the gateway in it.
        assert_eq!(taken(&mut draft, pool("a")), "2001:db8:1::80/121");
        assert_eq!(taken(&mut draft, pool("b")), "2001:db8:1::100/121");
        release(&mut draft, block("2001:db8:1::80/121"));
        assert_eq!(taken(&mut draft, pool("c")), "2001:db8:1::180/121");
        assert_eq!(count(&draft), Usage { taken: 257, quarantined: 128, free: 1024 - 2 - 257 - 128 });
        // What is left of a quarantine goes where a part of it is handed out.
        draft.advance_ms(60_000);
        for _ in 0..125 {
            taken(&mut draft, machine());
        }
        assert_eq!(taken(&mut draft, machine()), "2001:db8:1::80/128");
        assert!(draft.state().addresses.get(&block("2001:db8:1::80/121")).is_none());
        assert_eq!(taken(&mut draft, pool("d")), "2001:db8:1::200/121");
    }

    #[test]
    fn a_pair_of_the_gateways_own_address_is_nobodys_and_counted_for_nobody() {
        let mut draft = draft();
        site(&mut draft);
        for pairs in [&["10.0.0.1=203.0.113.77", "10.0.0.5=203.0.113.78"][..], &["10.0.0.0/29=203.0.113.8/29"]] {
            let gateway = "10.0.0.1".parse().ok();
            let net = add_subnet(&mut draft, Subnet { gateway, ..paired("10.0.0.0/29", pairs) }).expect("added").net;
            let room = room(draft.state(), "ber1", draft.now_unix_ms());
            assert_eq!(count(&draft).free, 5, "2 to 6, for whomever");
            let taken = take_all(&mut draft, Family::V4);
            assert_eq!((taken.len() as u128, taken.contains(&"10.0.0.1/32".to_owned())), (room, false), "{pairs:?}");
            for block in taken {
                release(&mut draft, block.parse().expect("a block"));
            }
            super::super::subnet::remove(&mut draft, net).expect("nothing is handed out");
        }
    }

    #[test]
    fn where_pairs_are_declared_leases_and_pools_get_those_and_operators_the_others() {
        let mut draft = draft();
        site(&mut draft);
        let pairs = ["10.0.0.5=203.0.113.77", "10.0.0.8/30=198.51.100.8/30"];
        let net = add_subnet(&mut draft, paired("10.0.0.0/28", &pairs)).expect("added").net;
        assert_eq!(room(draft.state(), "ber1", draft.now_unix_ms()), 5);
        let all: Vec<String> = ["5", "8", "9", "10", "11"].iter().map(|n| format!("10.0.0.{n}/32")).collect();
        assert_eq!(take_all(&mut draft, Family::V4), all);
        assert_eq!(room(draft.state(), "ber1", draft.now_unix_ms()), 0);
        let Err(Refusal::Exhausted(why)) = take(&mut draft, "ber1", Family::V4, pool("p")) else {
            panic!("it was handed out")
        };
        assert_eq!(why, "every IPv4 address that stands for a public one at ber1 is handed out (1 subnet)");
        let id = enrolled(&mut draft, muster_protocol::enroll::Identity::default());
        machine::approve(&mut draft, id).expect("approved");
        assert_eq!(assign(&mut draft, id, net).map(|a| a.block.to_string()).as_deref(), Ok("10.0.0.1/32"));
    }

    #[test]
    fn what_is_assigned_to_a_machine_is_one_address_of_a_subnet_until_it_is_taken_back_or_the_machine_retired() {
        let mut draft = draft();
        site(&mut draft);
        let near = add_subnet(&mut draft, subnet("192.0.2.0/30", "", &[])).expect("added").net;
        let far = Subnet { location: "ham1".into(), ..subnet("198.51.100.0/30", "", &[]) };
        let far = add_subnet(&mut draft, far).expect("added").net;
        let identity = |n| muster_protocol::enroll::Identity {
            macs: vec![muster_protocol::Mac::from_bytes([2, 0, 0, 0, 0, n])],
            ..Default::default()
        };
        let [a, b, c] = [1, 2, 3].map(|n| enrolled(&mut draft, identity(n)));
        assert!(matches!(assign(&mut draft, a, near), Err(Refusal::Conflict(_))), "it is not in");
        for id in [a, b, c] {
            machine::approve(&mut draft, id).expect("approved");
        }
        assert!(matches!(assign(&mut draft, a, far), Err(Refusal::Invalid { field, .. }) if field == "subnet"));
        let first = assign(&mut draft, a, near).expect("assigned");
        assert_eq!(assign(&mut draft, a, near).as_ref(), Ok(&first));
        let second = assign(&mut draft, b, near).expect("assigned");
        assert_ne!(first.block, second.block);
        assert!(matches!(assign(&mut draft, c, near), Err(Refusal::Exhausted(why)) if why.contains("of 192.0.2.0/30")));
        reclaim(&mut draft, first.block).expect("taken back");
        assert_eq!(assign(&mut draft, c, near).map(|address| address.block), Ok(first.block));
        machine::retire(&mut draft, b).expect("retired");
        assert_eq!(assign(&mut draft, a, near).map(|address| address.block), Ok(second.block));
    }

    proptest::proptest! {
        /// Against the plain way: every address looked at by itself.
        #[test]
        fn counting_and_finding_agree_with_looking_at_every_address(
            reserved in proptest::collection::vec((0_u8..64, 0_u8..64), 0..4),
            pairs in proptest::collection::btree_set(0_u8..16, 0..4),
            gateway in proptest::option::of(1_u8..63),
            held in proptest::collection::btree_set(1_u8..63, 0..40),
        ) {
            let mut draft = draft();
            site(&mut draft);
            let at = |n: u8| format!("192.0.2.{n}");
            let reserved: Vec<String> =
                reserved.iter().map(|(a, b)| format!("{}-{}", at(*a.min(b)), at(*a.max(b)))).collect();
            let pairs: Vec<String> =
                pairs.iter().map(|n| format!("{}/30=203.0.113.{}/30", at(n * 4), n * 4)).collect();
            let mut wanted = subnet("192.0.2.0/26", "", &reserved.iter().map(String::as_str).collect::<Vec<_>>());
            wanted.nat = paired("192.0.2.0/26", &pairs.iter().map(String::as_str).collect::<Vec<_>>()).nat;
            wanted.gateway = gateway.and_then(|n| at(n).parse().ok());
            add_subnet(&mut draft, wanted.clone()).expect("added");
            for n in held {
                let block = block(&format!("{}/32", at(n)));
                draft.put(Address { block, subnet: wanted.net, holder: pool("p"), since_unix_ms: 0 });
            }
            let (state, now) = (draft.state(), draft.now_unix_ms());
            let single = |n: u8| at(n).parse::<IpAddr>().expect("an address");
            let is_free = |n: &u8| {
                let ip = single(*n);
                Some(ip) != wanted.gateway
                    && !wanted.reserved.iter().any(|range| range.first <= ip && ip <= range.last)
                    && state.addresses.get(&IpNet::from(ip)).is_none()
            };
            let translated = |n: &u8| wanted.nat.iter().any(|pair| pair.private.contains(&single(*n)));
            let free: Vec<u8> = (1..63).filter(is_free).collect();
            proptest::prop_assert_eq!(usage(state, &wanted, now).free, free.len() as u128);
            for (reach, fits) in [
                (Reach::Public, free.iter().filter(|n| wanted.nat.is_empty() || translated(n)).collect::<Vec<_>>()),
                (Reach::Local, free.iter().filter(|n| !translated(n)).collect()),
            ] {
                proptest::prop_assert_eq!(free::count(state, &wanted, reach, now), fits.len() as u128);
                let lowest = free::lowest(state, &wanted, reach, 32, now).map(|block| block.addr());
                proptest::prop_assert_eq!(lowest, fits.first().map(|n| single(**n)));
            }
        }
    }
}
