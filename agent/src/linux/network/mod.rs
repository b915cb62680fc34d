//! The network of the real machine: observe, and apply one step.
//!
//! Called by `linux` for the `Machine` trait. What to do is decided in `plan::network`; how leases are kept is the
//! keeper's. All links, addresses and routes go through route netlink, in the network namespace of the thread that made
//! the [`Network`].

pub mod dhcp;
mod keeper;
pub mod netlink;
pub mod resolv;
pub mod sockopt;
mod solicit;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_protocol::desired::AcceptRa;
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Admin, LinkKind, Origin};
use rustix::io::Errno;

use crate::linux::modules;
use crate::machine::MachineError;
use crate::options;
use crate::plan::network::{Change, Route, Step};
use crate::sort;
use keeper::Keeper;
use netlink::address::{self, Lifetime, Uniqueness};
use netlink::link::{self, Kind, Link};
use netlink::{Netlink, NetlinkError, route};
use resolv::Resolvers;

/// Where programs look for resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long a step waits for a lease.
const LEASE_PATIENCE: Duration = Duration::from_secs(15);
/// How long a step waits for duplicate address detection: it takes 2 seconds at most once there is a carrier.
const UNIQUE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks while waiting.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a leased address lasts that a revert puts back when its lease is not known any more: the client that is
/// started next finds out.
const BORROWED_SECONDS: u32 = 300;

/// The network of this machine.
#[derive(Debug)]
pub struct Network {
    netlink: Mutex<Netlink>,
    keeper: Keeper,
    resolv_conf: PathBuf,
    lease: Option<options::Lease>,
}

impl Network {
    /// Opens sockets and starts nothing. `lease` is taken over by [`Self::bring_up`].
    pub fn new(lease: Option<options::Lease>) -> Result<Self, MachineError> {
        Self::with_resolv_conf(lease, Path::new(RESOLV_CONF))
    }

    /// The same with another file for resolvers.
    pub fn with_resolv_conf(lease: Option<options::Lease>, path: &Path) -> Result<Self, MachineError> {
        let os = |error| MachineError::os("open a netlink socket", error);
        let netlink = Mutex::new(Netlink::open().map_err(os)?);
        Ok(Self { netlink, keeper: Keeper::new(path).map_err(os)?, resolv_conf: path.to_owned(), lease })
    }

    /// For a machine that boots: brings the loopback and every NIC up, and takes the lease over that was handed over, or
    /// gets one for each NIC. NICs that appear later are treated alike, until the first step is applied.
    ///
    /// Returns at once; a thread of its own keeps the leases for ever.
    pub fn bring_up(&self) -> Result<(), MachineError> {
        self.keeper.boot(self.lease.clone()).map_err(|error| MachineError::os("start to keep leases", error))
    }

    /// What the kernel says now. Needs no privilege.
    pub fn observe(&self) -> Result<observed::Network, MachineError> {
        let os =
            |error: NetlinkError| MachineError::os("ask the kernel for links, addresses and routes", error.into_io());
        let mut dhcp = self.keeper.observe();
        let mut netlink = self.lock();
        let links = netlink.dump(&link::dump(), link::NEW, link::decode).map_err(os)?;
        let addresses = netlink.dump(&address::dump(), address::NEW, address::decode).map_err(os)?;
        let routes = netlink.dump(&route::dump(), route::NEW, route::decode).map_err(os)?;
        drop(netlink);

        let observe_link = |link: Link| {
            let kind = match link.kind {
                Kind::Loopback => return None,
                Kind::Ethernet => LinkKind::Ethernet,
                Kind::Vlan { parent, tag } => LinkKind::Vlan { parent, tag },
                Kind::Foreign(kind) => LinkKind::Foreign(kind),
            };
            let mut on_link: Vec<observed::Address> = addresses
                .iter()
                .flatten()
                .filter(|address| address.link == link.index)
                .map(|address| observed::Address { net: address.net, origin: address.origin })
                .collect();
            sort::short(&mut on_link, Ord::cmp);
            let client = dhcp.iter_mut().find(|(name, _)| *name == link.name);
            let doing = client.map(|(_, doing)| std::mem::take(doing)).unwrap_or_default();
            Some(observed::Link {
                index: link.index,
                mac: link.mac,
                permanent_mac: link.permanent_mac.unwrap_or(link.mac),
                kind,
                admin: if link.up { Admin::Up } else { Admin::Down },
                carrier: if link.carrier { Carrier::Present } else { Carrier::Absent },
                mtu: link.mtu,
                addresses: on_link,
                dhcp4: doing,
                accept_ra: accept_ra(&link.name),
                name: link.name,
            })
        };
        let mut links: Vec<_> = links.into_iter().flatten().filter_map(observe_link).collect();
        sort::short(&mut links, |a, b| a.index.cmp(&b.index));
        let routes = routes
            .into_iter()
            .flatten()
            .filter(|route| route.origin() != Origin::Kernel && links.iter().any(|link| link.index == route.link))
            .map(|route| observed::Route {
                to: route.to,
                via: route.via,
                link: route.link,
                metric: route.metric,
                origin: route.origin(),
            })
            .collect();
        let Resolvers { nameservers, search } = resolv::read(&self.resolv_conf);
        Ok(observed::Network { links, routes, nameservers, search })
    }

    /// Does one step; see [`Change`] for what each promises. Blocks for milliseconds, and for seconds where it waits.
    pub fn apply(&self, step: &Step) -> Result<(), MachineError> {
        self.keeper.configured();
        let action = step.change.action();
        let os = |error: io::Error| MachineError::os(action.clone(), error);
        match &step.change {
            Change::StopDhcp { link } => {
                self.keeper.stop(link);
                Ok(())
            }
            Change::DeleteVlan { link } => self.delete_vlan(link, &action),
            Change::CreateVlan { link, parent, tag } => {
                let parent = self.find(parent)?.index;
                let kind = Kind::Vlan { parent, tag: *tag };
                if self.find(link).is_ok_and(|link| link.kind == kind) {
                    return Ok(());
                }
                modules::load("8021q")?;
                self.ask(link::create_vlan(link, parent, *tag), &[], &action)
            }
            Change::SetMtu { link, mtu } => self.ask(link::set_mtu(self.find(link)?.index, *mtu), &[], &action),
            Change::SetAcceptRa { link, accept_ra } => set_accept_ra(&self.find(link)?, *accept_ra).map_err(os),
            Change::SetAdmin { link, admin: Admin::Up } => self.ask(link::up(self.find(link)?.index), &[], &action),
            Change::SetAdmin { link, admin: Admin::Down } => self.ask(link::down(self.find(link)?.index), &[], &action),
            Change::AddAddress { link, address } => {
                let index = self.find(link)?.index;
                let lifetime = match address.origin {
                    Origin::Dhcp => {
                        Lifetime::Seconds(self.keeper.lifetime(link, address.net).unwrap_or(BORROWED_SECONDS))
                    }
                    Origin::Static | Origin::Ra | Origin::Kernel => Lifetime::Forever,
                };
                self.ask(address::add(index, address.net, address.origin, lifetime), &[], &action)
            }
            Change::RemoveAddress { link, address } => self.remove_address(link, *address, &action),
            Change::StartDhcp { link } => self.keeper.start(&self.find(link)?).map_err(os),
            Change::AwaitLease { link } => match self.keeper.await_lease(link, LEASE_PATIENCE) {
                true => Ok(()),
                false => Err(os(io::Error::new(io::ErrorKind::TimedOut, "no DHCP server gave one in time"))),
            },
            Change::AddRoute(route) => {
                let request = route::add(&self.route(route)?, route.origin, route.reach);
                self.ask(request, &[Errno::EXIST], &action)
            }
            Change::AwaitUnique { link } => self.await_unique(link, &action),
            Change::RemoveRoute(route) => self.remove_route(route, &action),
            Change::SetResolvers { nameservers, search } => {
                let resolvers = Resolvers { nameservers: nameservers.clone(), search: search.clone() };
                self.keeper.resolvers(resolvers).map_err(os)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Netlink> {
        self.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request; the `fine` refusals mean that it was so already.
    fn ask(&self, request: netlink::wire::Request, fine: &[Errno], action: &str) -> Result<(), MachineError> {
        match self.lock().request(request) {
            Err(error) if fine.iter().any(|errno| error.is(*errno)) => Ok(()),
            result => result.map_err(|error| MachineError::os(action, error.into_io())),
        }
    }

    fn links(&self) -> Result<Vec<Link>, MachineError> {
        let links = self.lock().dump(&link::dump(), link::NEW, link::decode);
        let links = links.map_err(|error| MachineError::os("list links", error.into_io()))?;
        Ok(links.into_iter().flatten().collect())
    }

    fn find(&self, name: &str) -> Result<Link, MachineError> {
        let found = self.links()?.into_iter().find(|link| link.name == name);
        found.ok_or_else(|| MachineError::Missing(name.to_owned()))
    }

    fn delete_vlan(&self, name: &str, action: &str) -> Result<(), MachineError> {
        match self.links()?.into_iter().find(|link| link.name == name) {
            None => Ok(()),
            Some(Link { index, kind: Kind::Vlan { .. }, .. }) => self.ask(link::delete(index), &[Errno::NODEV], action),
            Some(link) => {
                Err(MachineError::Changed { what: name.to_owned(), now: format!("it is {:?} and no VLAN", link.kind) })
            }
        }
    }

    /// Looks first: the kernel would remove whatever is like it, of whatever origin.
    fn remove_address(&self, name: &str, address: observed::Address, action: &str) -> Result<(), MachineError> {
        let index = self.find(name)?.index;
        let os = |error: NetlinkError| MachineError::os(action, error.into_io());
        let all = self.lock().dump(&address::dump(), address::NEW, address::decode).map_err(os)?;
        let is_it =
            |have: &address::Address| (have.link, have.net, have.origin) == (index, address.net, address.origin);
        if !all.iter().flatten().any(is_it) {
            return Ok(());
        }
        if address.net.addr().is_ipv4() {
            keep_secondaries(name);
        }
        self.ask(address::remove(index, address.net), &[Errno::ADDRNOTAVAIL], action)
    }

    fn route(&self, route: &Route) -> Result<route::Route, MachineError> {
        let Route { to, via, metric, .. } = *route;
        Ok(route::Route { to, via, link: self.find(&route.link)?.index, metric, protocol: 0 })
    }

    /// Looks first: what the kernel is not told exactly, it takes from the first route that fits.
    fn remove_route(&self, route: &Route, action: &str) -> Result<(), MachineError> {
        let wanted = self.route(route)?;
        let os = |error: NetlinkError| MachineError::os(action, error.into_io());
        let all = self.lock().dump(&route::dump(), route::NEW, route::decode).map_err(os)?;
        let is_it = |have: &&route::Route| {
            route::Route { protocol: wanted.protocol, ..**have } == wanted && have.origin() == route.origin
        };
        match all.iter().flatten().find(is_it) {
            None => Ok(()),
            Some(have) => self.ask(route::remove(have), &[Errno::SRCH], action),
        }
    }

    /// Without a carrier nothing can be found out, and nobody can be disturbed either.
    fn await_unique(&self, name: &str, action: &str) -> Result<(), MachineError> {
        let index = self.find(name)?.index;
        let os = |error: NetlinkError| MachineError::os(action, error.into_io());
        let deadline = Instant::now() + UNIQUE_PATIENCE;
        loop {
            let all = self.lock().dump(&address::dump(), address::NEW, address::decode).map_err(os)?;
            let is_mine = |have: &&address::Address| have.link == index && have.origin == Origin::Static;
            let mine = || all.iter().flatten().filter(is_mine);
            if let Some(twice) = mine().find(|address| address.uniqueness == Uniqueness::Duplicate) {
                let problem = format!("{} is in use by another machine on this link", twice.net.addr());
                return Err(MachineError::os(action, io::Error::new(io::ErrorKind::AddrInUse, problem)));
            }
            let pending = mine().any(|address| address.uniqueness == Uniqueness::Tentative);
            if !pending || Instant::now() >= deadline {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Without this, removing a link's first address of a prefix removes all others of that prefix (net/ipv4/devinet.c).
/// Best effort: where it cannot be set, verification finds what is missing.
fn keep_secondaries(link: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{link}/promote_secondaries"), "1");
}

fn accept_ra_path(link: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{link}/accept_ra")
}

/// 0 ignores advertisements, 1 takes them unless the machine forwards, 2 takes them always (ip-sysctl).
fn accept_ra(link: &str) -> AcceptRa {
    match fs::read_to_string(accept_ra_path(link)).as_deref().map(str::trim) {
        Ok("0") => AcceptRa::Off,
        Ok("2") => AcceptRa::On,
        // No IPv6 in this kernel: nothing can be said.
        Ok(_) | Err(_) => AcceptRa::Default,
    }
}

fn set_accept_ra(link: &Link, accept_ra: AcceptRa) -> io::Result<()> {
    let value = match accept_ra {
        AcceptRa::Off => "0",
        AcceptRa::Default => "1",
        AcceptRa::On => "2",
    };
    match fs::write(accept_ra_path(&link.name), value) {
        // No IPv6 in this kernel: nothing is taken anyway.
        Err(error) if error.kind() == io::ErrorKind::NotFound && accept_ra != AcceptRa::On => return Ok(()),
        result => result?,
    }
    if accept_ra != AcceptRa::Off && link.up {
        // Best effort: without it the next advertisement comes within minutes.
        let _ = solicit::routers(link.index);
    }
    Ok(())
}
