//! Which resolvers and search domains are in force: the configured ones, then those that leases bring.
//!
//! Used by the planner, by its twin of the kernel, and by whoever writes /etc/resolv.conf, so that all three agree.

use muster_protocol::observed::{Dhcp4, Lease, Network};

use crate::sort;

/// `fixed`, then what of `leased` is not in it yet; nothing twice.
pub fn in_force<T: Clone + PartialEq>(fixed: &[T], leased: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = Vec::new();
    for item in fixed.iter().cloned().chain(leased) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}

/// The leases of the links for which `keep` holds, by name: an index changes when a VLAN is made again.
pub(super) fn leases<'a>(
    network: &'a Network,
    keep: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = &'a Lease> + Clone + 'a
where
{
    let mut links: Vec<_> = network.links.iter().filter(|link| keep(&link.name)).collect();
    sort::short(&mut links, |a, b| a.name.cmp(&b.name));
    links.into_iter().filter_map(|link| match &link.dhcp4 {
        Dhcp4::Bound(lease) => Some(lease),
        Dhcp4::Off | Dhcp4::Searching => None,
    })
}

/// The configured part of what is in force: the shortest one that together with `leased` explains it.
pub(super) fn fixed_part<T: Clone + PartialEq>(all: &[T], leased: &[T]) -> Vec<T> {
    let explains = |len: &usize| in_force(&all[..*len], leased.iter().cloned()) == all;
    let len = (0..all.len()).find(explains).unwrap_or(all.len());
    all[..len].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_part_is_what_leases_do_not_explain() {
        assert_eq!(fixed_part(&['a', 'b', 'c'], &['c']), ['a', 'b']);
        assert_eq!(fixed_part(&['a', 'b'], &['a']), ['a', 'b'], "a lease's resolver cannot come first by itself");
        assert_eq!(fixed_part(&['a'], &['a']), [' '; 0]);
        assert_eq!(fixed_part(&['a'], &['b']), ['a'], "the lease is newer than the file");
    }
}
