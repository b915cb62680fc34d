//! Which resolvers, search domains and NTP servers are in force: the configured ones, and those that leases bring.
//!
//! Used by the planner, by its twin of the kernel, and by whoever writes /etc/resolv.conf, so that all agree.

use std::net::IpAddr;

use muster_protocol::desired::Take;
use muster_protocol::observed::{Dhcp, Network};

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

/// The NTP servers that keep the clock: configured ones keep it alone.
pub fn ntp_in_force(fixed: &[String], leased: Vec<String>) -> Vec<String> {
    if fixed.is_empty() { in_force(&[], leased) } else { in_force(fixed, []) }
}

/// The clients of some links, by the links' names: an index changes when a link is made again.
pub(super) struct Leases<'a>(Vec<&'a Dhcp>);

/// The clients of the links for which `keep` holds.
pub(super) fn leases(network: &Network, keep: impl Fn(&str) -> bool) -> Leases<'_> {
    let mut links: Vec<_> = network.links.iter().filter(|link| keep(&link.name)).collect();
    sort::short(&mut links, |a, b| a.name.cmp(&b.name));
    Leases(links.into_iter().flat_map(|link| [&link.dhcp4, &link.dhcp6]).collect())
}

impl Leases<'_> {
    /// The resolvers, search domains and NTP servers of their leases that count.
    pub(super) fn brought(&self) -> (Vec<IpAddr>, Vec<String>, Vec<String>) {
        let (mut servers, mut domains, mut ntp) = (Vec::new(), Vec::new(), Vec::new());
        for dhcp in &self.0 {
            let (Some(uses), Some(lease)) = (dhcp.lease_use(), dhcp.lease()) else { continue };
            if uses.dns == Take::Yes {
                servers.extend_from_slice(&lease.nameservers);
                domains.extend_from_slice(&lease.search);
            }
            if uses.ntp == Take::Yes {
                ntp.extend(lease.ntp.iter().map(ToString::to_string));
            }
        }
        (servers, domains, ntp)
    }
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
