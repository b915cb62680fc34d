//! The network of the real machine: observe, and apply one step.
//!
//! Called by `linux` for the `Machine` trait. What to do is decided in `plan::network`; how leases are kept is the
//! keeper's. All links, addresses and routes go through route netlink, in the network namespace of the thread that made
//! the [`Network`].

mod device;
pub mod dhcp;
pub mod dhcp6;
mod keeper;
mod links;
pub mod netlink;
pub mod ntp;
mod paths;
pub mod resolv;
pub mod sockopt;
mod unique;
mod watch;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_protocol::desired::Privacy;
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{self, Admin, LinkKind, Origin};
use rustix::io::Errno;
use rustix::system::{sethostname, uname};
use tokio::sync::Notify;

use crate::linux::sysfs;
use crate::machine::{Lost, MachineError};
use crate::options;
use crate::plan::network::{Change, Family, LEASE_PATIENCE, Step, UNIQUE_PATIENCE};
use crate::sort;
use device::{sysctl, wake};
use keeper::Keeper;
use netlink::address::{self, Lifetime};
use netlink::link::{self, Kind, Link};
use netlink::{Netlink, NetlinkError, bond, bridge, neighbor, route};
use ntp::{Clock, Ntp};
use resolv::Resolvers;

/// What NTP servers are configured, beside the file for resolvers.
const NTP_CONF: &str = "muster-ntp.conf";
/// Where programs look for resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
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
    ntp: Ntp,
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
        let ntp = Ntp::new(path.with_file_name(NTP_CONF));
        let keeper = Keeper::new(path, ntp.clone()).map_err(os)?;
        Ok(Self { netlink, keeper, ntp, resolv_conf: path.to_owned(), lease })
    }

    /// From now on this clock is kept by NTP servers, as soon as [`Self::hear_time`] was called and there are any.
    pub fn keep_clock(&self, clock: Arc<dyn Clock>) {
        self.ntp.keep(clock);
    }

    /// A controller says what time it is, in nanoseconds since 1970 UTC. Returns whether the clock is to be left alone,
    /// because NTP servers keep it and it is not far from that.
    pub fn hear_time(&self, unix_ns: i64) -> bool {
        self.ntp.hear(unix_ns)
    }

    /// For a machine that boots: brings the loopback and every NIC up, and takes the lease over that was handed over, or
    /// gets one for each NIC. NICs that appear later are treated alike, until the first step is applied.
    ///
    /// Returns at once; a thread of its own keeps the leases for ever.
    pub fn bring_up(&self) -> Result<(), MachineError> {
        self.keeper.boot(self.lease.clone()).map_err(|error| MachineError::os("start to keep leases", error))
    }

    /// Told after links, addresses, routes or rules changed, by this agent or anybody else, since it was last waited for.
    ///
    /// A thread of its own listens, in the network namespace of the calling thread.
    pub fn changes(&self) -> Result<Arc<Notify>, MachineError> {
        watch::changes().map_err(|error| MachineError::os("listen for changes of the network", error))
    }

    /// What of the leases that are kept is not in force although nobody gave it up.
    pub fn lost(&self) -> Result<Vec<Lost>, MachineError> {
        self.keeper.lost().map_err(|error| MachineError::os("look for what leases brought", error.into_io()))
    }

    /// What the kernel says now. Needs no privilege, but that drivers say nothing of wake-on-LAN without.
    pub fn observe(&self) -> Result<observed::Network, MachineError> {
        let os =
            |error: NetlinkError| MachineError::os("ask the kernel for links, addresses and routes", error.into_io());
        let mut dhcp = self.keeper.observe();
        let mut netlink = self.lock();
        let links = netlink.dump(&link::dump(), link::NEW, link::decode).map_err(os)?;
        let addresses = netlink.dump(&address::dump(), address::NEW, address::decode).map_err(os)?;
        let routes = netlink.dump(&route::dump(), route::NEW, route::decode).map_err(os)?;
        let neighbors = netlink.dump(&neighbor::dump(), neighbor::NEW, neighbor::decode).map_err(os)?;
        drop(netlink);
        let mut rules = self.rules("ask the kernel for rules")?;
        sort::short(&mut rules, |a, b| a.priority.cmp(&b.priority).then_with(|| a.cmp(b)));

        let observe_link = |link: Link| {
            let (mut driver, mut wake_on_lan) = (String::new(), observed::WakeOnLan::Unable);
            let kind = match link.kind {
                Kind::Loopback => return None,
                Kind::Ethernet => {
                    driver = driver_of(&link.name, link.index);
                    wake_on_lan = wake::read(&*self.lock(), &link.name);
                    LinkKind::Ethernet
                }
                Kind::Vlan { parent, tag } => LinkKind::Vlan { parent, tag },
                Kind::Bond(bond) => LinkKind::Bond(bond),
                Kind::Bridge(bridge) => LinkKind::Bridge(bridge),
                Kind::Foreign(kind) => LinkKind::Foreign(kind),
            };
            let mine = neighbors.iter().flatten().filter(|(of, _)| *of == link.index).map(|(_, neighbor)| *neighbor);
            let mut neighbors: Vec<_> = mine.collect();
            sort::short(&mut neighbors, Ord::cmp);
            let mut on_link: Vec<observed::Address> = addresses
                .iter()
                .flatten()
                .filter(|address| address.link == link.index)
                .map(|address| observed::Address { net: address.net, origin: address.origin })
                .collect();
            sort::short(&mut on_link, Ord::cmp);
            let mut doing = |family| {
                let client = dhcp.iter_mut().find(|((name, of), _)| *name == link.name && *of == family);
                client.map(|(_, doing)| std::mem::take(doing)).unwrap_or_default()
            };
            Some(observed::Link {
                index: link.index,
                mac: link.mac,
                permanent_mac: link.permanent_mac.unwrap_or(link.mac),
                kind,
                admin: if link.up { Admin::Up } else { Admin::Down },
                carrier: if link.carrier { Carrier::Present } else { Carrier::Absent },
                mtu: link.mtu,
                min_mtu: link.min_mtu,
                max_mtu: link.max_mtu,
                addresses: on_link,
                driver,
                port: link.port.map(observe_port),
                neighbors,
                dhcp4: doing(Family::V4),
                dhcp6: doing(Family::V6),
                accept_ra: sysctl::accept_ra(&link.name),
                privacy: sysctl::privacy(&link.name),
                wake_on_lan,
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
                table: route.table,
                origin: route.origin(),
            })
            .collect();
        let Resolvers { nameservers, search } = resolv::read(&self.resolv_conf);
        let ntp = self.ntp.in_force();
        let hostname = uname().nodename().to_string_lossy().into_owned();
        Ok(observed::Network { links, routes, rules, nameservers, search, ntp, hostname })
    }

    /// Neighbors of both families that were asked for and have not answered, each with its link's index.
    pub fn unanswered(&self) -> Result<Vec<(u32, IpAddr)>, MachineError> {
        let silent = self.lock().dump(&neighbor::dump(), neighbor::NEW, neighbor::decode_silent);
        let silent = silent.map_err(|error| MachineError::os("ask the kernel for neighbors", error.into_io()))?;
        Ok(silent.into_iter().flatten().collect())
    }

    /// Does one step; see [`Change`] for what each promises. Blocks for milliseconds, and for seconds where it waits.
    pub fn apply(&self, step: &Step) -> Result<(), MachineError> {
        self.keeper.configured();
        let action = step.change.action();
        let os = |error: io::Error| MachineError::os(action.clone(), error);
        match &step.change {
            Change::StopDhcp { link, family } => {
                self.keeper.stop(link, *family);
                Ok(())
            }
            Change::Delete { link } => self.delete(link, &action),
            Change::Rename { link, to } => self.rename(link, to, &action),
            Change::Create { link, kind } => self.create(link, kind, &action),
            Change::SetBond { link, option, value } => self.set_bond(link, *option, *value, &action),
            Change::SetArpTargets { link, targets } => {
                self.ask(bond::set_arp_targets(self.bond(link)?.0, targets), &[], &action)
            }
            Change::SetPrimary { link, port } => self.set_primary(link, port.as_deref(), &action),
            Change::SetBridge { link, option, value } => {
                self.ask(bridge::set(self.find(link)?.index, *option, *value), &[], &action)
            }
            Change::Join { link, of } => self.join(link, of, &action),
            Change::Leave { link } => self.leave(link, &action),
            Change::SetPort { link, cost } => self.ask(bridge::set_port(self.find(link)?.index, *cost), &[], &action),
            Change::SetMtu { link, mtu } => self.ask(link::set_mtu(self.find(link)?.index, *mtu), &[], &action),
            Change::SetWakeOnLan { link, wake_on_lan } => self.set_wake(link, *wake_on_lan, &action),
            Change::SetAcceptRa { link, accept_ra } => sysctl::set_accept_ra(&self.find(link)?, *accept_ra).map_err(os),
            Change::SetPrivacy { link, privacy } => {
                let link = self.find(link)?;
                sysctl::set_privacy(&link, *privacy).map_err(os)?;
                if *privacy == Privacy::Off { self.remove_temporary(link.index, &action) } else { Ok(()) }
            }
            Change::SetAdmin { link, admin: Admin::Up } => self.ask(link::up(self.find(link)?.index), &[], &action),
            Change::SetAdmin { link, admin: Admin::Down } => self.ask(link::down(self.find(link)?.index), &[], &action),
            Change::AwaitForwarding { link } => self.await_forwarding(link),
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
            Change::StartDhcp { link, family, uses } => {
                self.keeper.start(&self.find(link)?, *family, *uses).map_err(os)
            }
            Change::AwaitLease { link, family } => match self.keeper.await_lease(link, *family, LEASE_PATIENCE) {
                true => Ok(()),
                false => Err(os(io::Error::new(io::ErrorKind::TimedOut, "no DHCP server gave one in time"))),
            },
            Change::AddNeighbor { link, neighbor } => self.add_neighbor(link, neighbor, &action),
            Change::RemoveNeighbor { link, neighbor } => self.remove_neighbor(link, neighbor, &action),
            Change::AddRoute(route) => self.add_route(route, &action),
            Change::AddAnnounced(route) => self.add_announced(route, &action),
            Change::AwaitUnique { link } => self.await_unique(link, &action),
            Change::RemoveRoute(route) => self.remove_route(route, &action),
            Change::AddRule(rule) => self.add_rule(rule, &action),
            Change::RemoveRule(rule) => self.remove_rule(rule, &action),
            // The controller is reached by whoever applies the plan.
            Change::Prove(_) => Ok(()),
            Change::SetHostname { name } => sethostname(name.as_bytes()).map_err(|error| os(error.into())),
            Change::SetResolvers { nameservers, search } => {
                let resolvers = Resolvers { nameservers: nameservers.clone(), search: search.clone() };
                self.keeper.resolvers(resolvers).map_err(os)
            }
            Change::SetNtp { servers } => self.ntp.configure(servers).map_err(os),
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

    fn look(&self, name: &str) -> Result<Option<Link>, MachineError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    fn find(&self, name: &str) -> Result<Link, MachineError> {
        self.look(name)?.ok_or_else(|| MachineError::Missing(name.to_owned()))
    }
}

fn observe_port(port: link::Port) -> observed::Port {
    match port.in_bridge {
        None => observed::Port { of: port.of, path_cost: 0, priority: 0, forwards: true },
        Some(bridge::Port { cost, priority, state }) => {
            observed::Port { of: port.of, path_cost: cost, priority, forwards: state == bridge::State::Forwarding }
        }
    }
}

/// /sys may show another network namespace than that of this thread: the index tells in most cases.
fn driver_of(name: &str, index: u32) -> String {
    let folder = Path::new("/sys/class/net").join(name);
    let is_it = sysfs::number(folder.join("ifindex")) == Some(index);
    sysfs::link_name(folder.join("device/driver")).filter(|_| is_it).unwrap_or_default()
}
