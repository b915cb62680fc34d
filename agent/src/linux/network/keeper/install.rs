//! What a lease does to the kernel, to resolv.conf and to the clock's servers.
//!
//! Used by the keeper, which holds its lock meanwhile. What is new comes before what is old goes, so that a lease whose
//! use changes is never without a route.

use std::net::IpAddr;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};
use muster_protocol::desired::{LeaseUse, MAIN_TABLE, Reach};
use muster_protocol::observed::Origin;
use rustix::io::Errno;

use super::kept::{Kept, Lease};
use super::{LeaseOf, warn_on};
use crate::linux::network::device::sysctl::keep_secondaries;
use crate::linux::network::netlink::{Netlink, NetlinkError, address, route};
use crate::linux::network::ntp::Ntp;
use crate::linux::network::resolv::ResolvConf;
use crate::plan::network::Family;

/// The metric of routes that leases bring where the document names none: any configured one wins.
const METRIC: u32 = 1024;

/// Where leases have their effect.
#[derive(Debug)]
pub struct Effects {
    /// Addresses and routes.
    pub netlink: Netlink,
    /// Resolvers.
    pub resolv: ResolvConf,
    /// The clock's servers.
    pub ntp: Ntp,
}

impl Effects {
    /// Makes a link as a lease says, first what is new, then without what an older lease or another use left.
    pub fn install(&mut self, kept: &Kept, lease: &Lease, now: Instant) {
        let name = kept.of.0.as_str();
        if let Some(net) = lease.net() {
            let request = address::add(kept.index, net, Origin::Dhcp, lease.lifetime(now));
            warn_on(name, "add its leased address", self.netlink.request(request));
        }
        for (to, via) in lease.routes(kept.uses) {
            let is_near = via.is_none_or(|via| lease.net().is_some_and(|net| net.contains(&IpAddr::V4(via))));
            let reach = if is_near { Reach::Prefix } else { Reach::OnLink };
            let route = leased_route(kept.index, *to, via.map(IpAddr::V4), kept.uses);
            match self.netlink.request(route::add(&route, Origin::Dhcp, reach)) {
                Err(error) if error.is(Errno::EXIST) => {}
                result => warn_on(name, "add a route of its lease", result),
            }
        }
        self.clear(kept, Some(lease));
        warn_on(name, "write resolv.conf", self.resolv.lease(&kept.of, lease.resolvers(kept.uses)));
        self.ntp.lease(kept.of.clone(), lease.ntp(kept.uses));
    }

    /// What of a lease is not there, in the words of the steps that would set it again.
    pub fn lost(&mut self, kept: &Kept, lease: &Lease) -> Result<Vec<String>, NetlinkError> {
        let name = kept.of.0.as_str();
        let mut lost = Vec::new();
        if let Some(net) = lease.net() {
            let there = self.netlink.dump(&address::dump(), address::NEW, address::decode)?;
            if !there.iter().flatten().any(|have| have.link == kept.index && have.net == net) {
                lost.push(format!("add address {net} to {name}"));
            }
        }
        if !lease.routes(kept.uses).is_empty() {
            let there = self.netlink.dump(&route::dump(), route::NEW, route::decode)?;
            for (to, via) in lease.routes(kept.uses) {
                let wanted = leased_route(kept.index, *to, via.map(IpAddr::V4), kept.uses);
                // Whatever its origin: a configured one does as well.
                let is_it = |have: &route::Route| route::Route { protocol: wanted.protocol, ..*have } == wanted;
                if !there.iter().flatten().any(is_it) {
                    let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
                    lost.push(format!("add route {to}{via} by {name}"));
                }
            }
        }
        Ok(lost)
    }

    /// Leaves nothing of a lease.
    pub fn withdraw(&mut self, kept: &Kept) {
        self.clear(kept, None);
        self.forget(&kept.of);
    }

    /// Its resolvers and its clock's servers count no more. Addresses and routes stay.
    pub fn forget(&mut self, of: &LeaseOf) {
        warn_on(&of.0, "write resolv.conf", self.resolv.lease(of, None));
        self.ntp.lease(of.clone(), Vec::new());
    }

    /// Removes what leases of this family brought, but for what `keep` says.
    fn clear(&mut self, kept: &Kept, keep: Option<&Lease>) {
        let (name, index) = (kept.of.0.as_str(), kept.index);
        let is_its = |net: &IpNet| match kept.of.1 {
            Family::V4 => net.addr().is_ipv4(),
            Family::V6 => net.addr().is_ipv6(),
        };
        let netlink = &mut self.netlink;
        let mut cleared = || -> Result<(), NetlinkError> {
            let wanted: Vec<_> = keep.iter().flat_map(|lease| lease.routes(kept.uses)).collect();
            for route in netlink.dump(&route::dump(), route::NEW, route::decode)?.into_iter().flatten() {
                let is_kept =
                    wanted.iter().any(|(to, via)| route == leased_route(index, *to, via.map(IpAddr::V4), kept.uses));
                // What is in other tables, no lease brought.
                let is_leased = route.protocol == route::PROTOCOL_DHCP && route.table == MAIN_TABLE;
                if route.link == index && is_leased && is_its(&route.to) && !is_kept {
                    netlink.request(route::remove(&route))?;
                }
            }
            for have in netlink.dump(&address::dump(), address::NEW, address::decode)?.into_iter().flatten() {
                let is_kept = keep.is_some_and(|lease| lease.net() == Some(have.net));
                if have.link == index && have.origin == Origin::Dhcp && is_its(&have.net) && !is_kept {
                    keep_secondaries(name);
                    netlink.request(address::remove(index, have.net))?;
                }
            }
            Ok(())
        };
        warn_on(name, "remove what its old lease brought", cleared());
    }
}

fn leased_route(link: u32, to: Ipv4Net, via: Option<IpAddr>, uses: LeaseUse) -> route::Route {
    let metric = uses.route_metric.unwrap_or(METRIC);
    route::Route { to: IpNet::V4(to), via, link, metric, table: MAIN_TABLE, protocol: route::PROTOCOL_DHCP }
}
