//! Addresses, routes, rules and neighbors: what a step adds and removes.
//!
//! Whatever is removed is looked for first: what the kernel is not told exactly, it takes from the first that fits.
//! On a link that is gone, it is gone already.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use muster_protocol::Mac;
use muster_protocol::desired::{MAIN_TABLE, Neighbor, Rule};
use muster_protocol::observed::{self, Origin};
use rustix::io::Errno;

use super::device::sysctl;
use super::netlink::address::{self, Uniqueness};
use super::netlink::wire::Request;
use super::netlink::{neighbor, route, rule};
use super::unique::Search;
use super::{Network, PAUSE, UNIQUE_PATIENCE};
use crate::machine::{MachineError, chain};
use crate::plan::network::{PROOF_TABLE, ROUTER_PATIENCE, Route, as_kept};

impl Network {
    fn all<T>(
        &self,
        request: Request,
        kind: u16,
        decode: impl Fn(&[u8]) -> T,
        action: &str,
    ) -> Result<Vec<T>, MachineError> {
        let all = self.lock().dump(&request, kind, decode);
        all.map_err(|error| MachineError::os(action, error.into_io()))
    }

    fn addresses(&self, action: &str) -> Result<impl Iterator<Item = address::Address>, MachineError> {
        Ok(self.all(address::dump(), address::NEW, address::decode, action)?.into_iter().flatten())
    }

    pub(super) fn remove_address(
        &self,
        name: &str,
        address: observed::Address,
        action: &str,
    ) -> Result<(), MachineError> {
        let Some(index) = self.look(name)?.map(|link| link.index) else { return Ok(()) };
        let is_it = |have: address::Address| (have.link, have.net, have.origin) == (index, address.net, address.origin);
        if !self.addresses(action)?.any(is_it) {
            return Ok(());
        }
        if address.net.addr().is_ipv4() {
            sysctl::keep_secondaries(name);
        }
        self.ask(address::remove(index, address.net), &[Errno::ADDRNOTAVAIL], action)
    }

    /// Removes the addresses that the kernel made for privacy.
    pub(super) fn remove_temporary(&self, link: u32, action: &str) -> Result<(), MachineError> {
        for address in self.addresses(action)?.filter(|address| address.link == link && address.is_temporary) {
            self.ask(address::remove(link, address.net), &[Errno::ADDRNOTAVAIL], action)?;
        }
        Ok(())
    }

    pub(super) fn add_route(&self, route: &Route, action: &str) -> Result<(), MachineError> {
        let link = self.find(&route.link)?.index;
        self.ask(route::add(&on(link, route), route.origin, route.reach), &[Errno::EXIST], action)
    }

    /// Whoever announces himself first.
    pub(super) fn add_announced(&self, route: &Route, action: &str) -> Result<(), MachineError> {
        let link = self.find(&route.link)?.index;
        let deadline = Instant::now() + ROUTER_PATIENCE;
        loop {
            let routes = self.all(route::dump(), route::NEW, route::decode, action)?;
            let leads = |have: &&route::Route| {
                (have.link, have.table, have.origin()) == (link, MAIN_TABLE, Origin::Ra) && have.to.contains(&route.to)
            };
            let source = self.addresses(action)?.find(|have| {
                let comes = matches!(have.origin, Origin::Ra | Origin::Dhcp) && have.net.addr().is_ipv6();
                have.link == link && comes && !have.is_temporary && have.uniqueness == Uniqueness::Assured
            });
            let via = routes.iter().flatten().find(leads).and_then(|have| have.via);
            if let (Some(via), Some(source)) = (via, source) {
                let route = route::Route { via: Some(via), ..on(link, route) };
                return self.ask(route::add_from(source.net.addr(), &route), &[Errno::EXIST], action);
            }
            if Instant::now() >= deadline {
                let why = "no router has announced itself and an address in time";
                return Err(MachineError::os(action, io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            std::thread::sleep(PAUSE);
        }
    }

    pub(super) fn remove_route(&self, route: &Route, action: &str) -> Result<(), MachineError> {
        let Some(link) = self.look(&route.link)?.map(|link| link.index) else { return Ok(()) };
        let wanted = on(link, route);
        // Who would announce himself was not known when the plan was made.
        let is_any = route.table == PROOF_TABLE && route.via.is_none();
        let is_it = |have: &&route::Route| {
            let via = if is_any { None } else { have.via };
            route::Route { protocol: wanted.protocol, via, ..**have } == wanted && have.origin() == route.origin
        };
        let all = self.all(route::dump(), route::NEW, route::decode, action)?;
        match all.iter().flatten().find(is_it) {
            None => Ok(()),
            Some(have) => self.ask(route::remove(have), &[Errno::SRCH], action),
        }
    }

    /// Those of configuration; none where the kernel has no rules at all.
    pub(super) fn rules(&self, action: &str) -> Result<Vec<Rule>, MachineError> {
        match self.lock().dump(&rule::dump(), rule::NEW, rule::decode) {
            Err(error) if error.is(Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(MachineError::os(action, error.into_io())),
            Ok(all) => Ok(all.into_iter().flatten().collect()),
        }
    }

    pub(super) fn add_rule(&self, wanted: &Rule, action: &str) -> Result<(), MachineError> {
        let wanted = as_kept(wanted);
        let is_it = |have: &Rule| Rule { priority: wanted.priority.and(have.priority), ..have.clone() } == wanted;
        if self.rules(action)?.iter().any(is_it) {
            return Ok(());
        }
        self.ask(rule::add(&wanted), &[], action)
    }

    /// The kernel removes the first rule that says as much or more: those that went instead are put back.
    pub(super) fn remove_rule(&self, wanted: &Rule, action: &str) -> Result<(), MachineError> {
        let wanted = as_kept(wanted);
        let mut instead = Vec::new();
        loop {
            let before = self.rules(action)?;
            if !before.contains(&wanted) {
                break;
            }
            self.ask(rule::remove(&wanted), &[], action)?;
            let now = self.rules(action)?;
            instead.extend(before.into_iter().filter(|rule| *rule != wanted && !now.contains(rule)));
        }
        instead.iter().try_for_each(|rule| self.ask(rule::add(rule), &[], action))
    }

    pub(super) fn add_neighbor(&self, name: &str, neighbor: &Neighbor, action: &str) -> Result<(), MachineError> {
        self.ask(neighbor::set(self.find(name)?.index, neighbor), &[], action)
    }

    pub(super) fn remove_neighbor(&self, name: &str, wanted: &Neighbor, action: &str) -> Result<(), MachineError> {
        let Some(index) = self.look(name)?.map(|link| link.index) else { return Ok(()) };
        let all = self.all(neighbor::dump(), neighbor::NEW, neighbor::decode, action)?;
        if !all.contains(&Some((index, *wanted))) {
            return Ok(());
        }
        self.ask(neighbor::remove(index, wanted), &[Errno::NOENT], action)
    }

    /// Without a carrier nothing can be found out, and nobody can be disturbed either.
    pub(super) fn await_unique(&self, name: &str, action: &str) -> Result<(), MachineError> {
        let links = self.links()?;
        let link = links.iter().find(|link| link.name == name);
        let link = link.ok_or_else(|| MachineError::Missing(name.to_owned()))?;
        let deadline = Instant::now() + UNIQUE_PATIENCE;
        let mine = || {
            let all = self.addresses(action)?;
            Ok(all.filter(|address| address.link == link.index && address.origin == Origin::Static))
        };
        let in_use = |problem: String| Err(MachineError::os(action, io::Error::new(io::ErrorKind::AddrInUse, problem)));
        if link.carrier {
            let own: Vec<Mac> = links.iter().flat_map(|link| [Some(link.mac), link.permanent_mac]).flatten().collect();
            let ipv4 = mine()?.filter_map(|address| match address.net.addr() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
            let search = Search { link: link.index, mac: link.mac, own: &own, addresses: &ipv4.collect::<Vec<_>>() };
            match search.run() {
                Ok(None) => {}
                Ok(Some((address, mac))) => {
                    return in_use(format!("{address} is in use by another machine on this link, {mac}"));
                }
                // It is a courtesy: what cannot be asked is taken as good, as it was for ever before RFC 5227.
                Err(error) => crate::warn!("cannot ask by ARP on {name}: {}", chain(&error)),
            }
        }
        loop {
            if let Some(twice) = mine()?.find(|address| address.uniqueness == Uniqueness::Duplicate) {
                return in_use(format!("{} is in use by another machine on this link", twice.net.addr()));
            }
            let pending = mine()?.any(|address| address.uniqueness == Uniqueness::Tentative);
            if !pending || Instant::now() >= deadline {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn on(link: u32, route: &Route) -> route::Route {
    let Route { to, via, metric, table, .. } = *route;
    route::Route { to, via, link, metric, table, protocol: 0 }
}
