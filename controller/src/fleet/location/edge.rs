//! Up to where subnets are full: so that whoever takes the lowest free block need not look at all that are held below it.
//!
//! An index of [`super::super::state::State`]: what [`free::lowest`] found, and what became of addresses since. It is not
//! stored, and where it knows nothing the search begins at the beginning.

use imbl::OrdMap;
use ipnet::IpNet;

use super::free::{Reach, to_number};
use crate::fleet::record::{Address, AddressHolder};

/// Which blocks are looked for: of this subnet, for this reach, of this prefix length.
pub(super) type Wanted = (IpNet, Reach, u8);

/// How far they are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    /// No such block that begins below this address is free,
    pub(super) at: u128,
    /// before this time: then the first quarantine below it ends.
    pub(super) until_unix_ms: u64,
}

/// An edge, and what it was before an address below it was given back. A record that is only written anew is taken out of
/// the indexes and entered again.
#[derive(Debug, Clone, Copy)]
struct Known {
    edge: Edge,
    before: Option<(IpNet, u128)>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Edges(OrdMap<Wanted, Known>);

impl Edges {
    /// What is known at this time.
    pub(super) fn get(&self, wanted: &Wanted, now_unix_ms: u64) -> Option<Edge> {
        self.0.get(wanted).map(|known| known.edge).filter(|edge| now_unix_ms < edge.until_unix_ms)
    }

    /// What was found.
    pub(super) fn set(&mut self, wanted: Wanted, edge: Edge) {
        self.0.insert(wanted, Known { edge, before: None });
    }

    /// A record comes or goes.
    pub fn index(&mut self, address: &Address, is_there: bool) {
        let all = (address.subnet, Reach::Public, 0)..=(address.subnet, Reach::Local, u8::MAX);
        let wanted: Vec<Wanted> = self.0.range(all).map(|(wanted, _)| *wanted).collect();
        let first = to_number(address.block.network());
        for wanted in wanted {
            let Some(known) = self.0.get_mut(&wanted) else { continue };
            match is_there {
                true => known.come(address, first),
                // The block that is looked for may begin before what was given back.
                false => known.go(address, first & !(size(&wanted) - 1)),
            }
        }
    }

    /// What is withheld of a subnet may be other from now on.
    pub fn forget(&mut self, subnet: IpNet) {
        self.0 = self.0.iter().filter(|((net, ..), _)| *net != subnet).map(|(key, known)| (*key, *known)).collect();
    }
}

impl Known {
    fn go(&mut self, address: &Address, first: u128) {
        let at = self.edge.at;
        self.before = (first < at).then_some((address.block, at));
        self.edge.at = at.min(first);
    }

    fn come(&mut self, address: &Address, first: u128) {
        if let Some((block, at)) = self.before.take()
            && block == address.block
        {
            self.edge.at = at;
        }
        if let AddressHolder::Quarantine { until_unix_ms } = address.holder
            && first < self.edge.at
        {
            self.edge.until_unix_ms = self.edge.until_unix_ms.min(until_unix_ms);
        }
    }
}

/// How many addresses such a block has. A length is that of its family at most.
fn size((net, _, length): &Wanted) -> u128 {
    1 << (net.max_prefix_len() - length)
}

#[cfg(test)]
mod tests {
    use super::super::address::{self, Family};
    use super::super::free;
    use super::super::subnet::add as add_subnet;
    use super::super::subnet::tests::{paired, pool, site, subnet};
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::record::Subnet;
    use crate::fleet::{Draft, State};
    use muster_protocol::MachineId;

    /// What is found by beginning at the beginning.
    fn lowest_of_all(state: &State, subnet: &Subnet, wanted: (Reach, u8), now: u64) -> Option<IpNet> {
        let mut state = state.clone();
        state.edges_mut().forget(subnet.net);
        free::lowest(&state, subnet, wanted.0, wanted.1, now)
    }

    proptest::proptest! {
        /// Whatever is taken, given back, taken back from its quarantine or declared anew in between.
        #[test]
        fn what_is_lowest_from_the_edge_is_lowest_of_all(
            steps in proptest::collection::vec((0_u8..12, proptest::prelude::any::<u16>()), 1..120),
            quarantine_s in 0_u32..4,
            has_pairs in proptest::prelude::any::<bool>(),
        ) {
            let mut draft = draft();
            site(&mut draft);
            let mut four = subnet("192.0.2.0/26", "192.0.2.9", &["192.0.2.3-192.0.2.4"]);
            if has_pairs {
                four.nat = paired("192.0.2.0/26", &["192.0.2.16/28=203.0.113.16/28"]).nat;
            }
            let six = Subnet { block: Some(124), ..subnet("2001:db8::/120", "2001:db8::1", &[]) };
            let nets = [four, six].map(|subnet| Subnet { quarantine_s, ..subnet });
            for net in &nets {
                add_subnet(&mut draft, net.clone()).expect("added");
            }
            for (step, number) in steps {
                let held: Vec<IpNet> = draft.state().addresses.iter().map(|address| address.block).collect();
                let one = held.get(usize::from(number) % held.len().max(1)).copied();
                let machine = MachineId::from_bytes([1; 16]);
                let take = |draft: &mut Draft, family, holder| drop(address::take(draft, "ber1", family, holder));
                match (step, one) {
                    (0..=2, _) => take(&mut draft, Family::V4, pool("p")),
                    (3..=4, _) => take(&mut draft, Family::V6, pool("p")),
                    (5, _) => take(&mut draft, Family::V6, AddressHolder::Machine { machine, lease: "l".into() }),
                    (6, _) => take(&mut draft, Family::V4, AddressHolder::Assigned { machine }),
                    (7..=8, Some(block)) => address::release(&mut draft, block),
                    (9, Some(block)) => drop(address::reclaim(&mut draft, block)),
                    (10, _) => draft.advance_ms(u64::from(number % 3000)),
                    (11, _) => {
                        // Another length of blocks, or something else that is withheld.
                        let net = &nets[usize::from(number % 2)];
                        let block = net.block.map(|_| 121 + (number / 2 % 8) as u8);
                        let gateway = net.gateway.filter(|_| number % 8 != 0);
                        draft.put(Subnet { block, gateway, ..net.clone() });
                    }
                    _ => {}
                }
                let (state, now) = (draft.state(), draft.now_unix_ms());
                for net in state.subnets.iter() {
                    for reach in [Reach::Public, Reach::Local] {
                        for length in net.block.into_iter().chain([net.net.max_prefix_len()]) {
                            let found = free::lowest(state, net, reach, length, now);
                            proptest::prop_assert_eq!(found, lowest_of_all(state, net, (reach, length), now));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_edge_stays_where_it_is_while_what_is_given_back_is_in_quarantine() {
        let mut draft = draft();
        site(&mut draft);
        let net = Subnet { quarantine_s: 60, ..subnet("192.0.2.0/26", "", &[]) };
        add_subnet(&mut draft, net.clone()).expect("added");
        for _ in 0..9 {
            address::take(&mut draft, "ber1", Family::V4, pool("p")).expect("free");
        }
        let wanted = (net.net, Reach::Public, 32);
        let last = |draft: &Draft| draft.state().edges().get(&wanted, draft.now_unix_ms()).map(|edge| edge.at as u8);
        assert_eq!(last(&draft), Some(9), "where the last one was found");
        address::release(&mut draft, "192.0.2.2/32".parse().expect("a block"));
        assert_eq!(last(&draft), Some(9));
        draft.advance_ms(60_000);
        assert_eq!(last(&draft), None, "its quarantine has ended");
        let (address, _) = address::take(&mut draft, "ber1", Family::V4, pool("p")).expect("free");
        assert_eq!((address.block.to_string().as_str(), last(&draft)), ("192.0.2.2/32", Some(2)));
    }
}
