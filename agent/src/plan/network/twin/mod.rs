//! A pure twin of the kernel's network: what it makes of each step, refusals and side effects included.
//!
//! Used by the planner, to know what is there after the steps so far; by simulated machines; and by the tests that hold
//! plans and reverts against it.
//! It knows the rules that plans depend on (Linux 6.1: net/ipv4/devinet.c, net/ipv4/fib_semantics.c,
//! net/ipv6/addrconf.c, net/8021q/vlan.c, net/bridge/br_if.c, drivers/net/bonding/bond_main.c) and no others: frames do
//! not flow here.

mod layers;
mod leases;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use muster_protocol::desired::{LeaseUse, Reach, Rule};
use muster_protocol::observed::{Address, Admin, Dhcp, Lease, Link, LinkKind, Network, Origin, Route, WakeOnLan};

use super::resolvers::{fixed_part, in_force, leases, ntp_in_force};
use super::{Change, Family, Route as NamedRoute};
use crate::sort;
use leases::Withheld;
pub(super) use leases::used;

/// Why the kernel would not do a step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {why}")]
pub struct Refused {
    /// [`Change::action`].
    pub action: String,
    /// In the kernel's words where it has any.
    pub why: &'static str,
}

type Done = Result<(), &'static str>;

/// The kernel's own rules for the main and the default table.
const FIRST_OWN_RULE: u32 = 32_766;

/// A machine's network, without the machine.
#[derive(Debug, Clone)]
pub struct Twin {
    network: Network,
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
    ntp: Vec<String>,
    /// What DHCP servers would give, by link name. A client that starts gets it at once.
    offers: BTreeMap<(String, Family), Lease>,
    /// What leases brought and nobody wants of them.
    withheld: Vec<Withheld>,
    /// The bridges whose MTU was set, by index: the others follow their ports.
    mtu_by_hand: BTreeSet<u32>,
    /// The highest interface index that there ever was: the kernel gives none twice.
    last_index: u32,
}

impl Twin {
    /// A machine that looks like `network`; what its leases do not explain of resolvers and NTP servers was configured, and
    /// the MTU of a bridge was set where it is not that of its smallest port.
    pub fn new(network: Network) -> Self {
        let brought = Brought::of(&network);
        let mut offers = BTreeMap::new();
        for link in &network.links {
            for (family, dhcp) in [(Family::V4, &link.dhcp4), (Family::V6, &link.dhcp6)] {
                offers.extend(dhcp.lease().map(|lease| ((link.name.clone(), family), lease.clone())));
            }
        }
        let mut twin = Self {
            offers,
            nameservers: fixed_part(&network.nameservers, &brought.nameservers),
            search: fixed_part(&network.search, &brought.search),
            ntp: if network.ntp == brought.ntp { Vec::new() } else { network.ntp.clone() },
            last_index: network.links.iter().map(|link| link.index).max().unwrap_or(1),
            mtu_by_hand: BTreeSet::new(),
            withheld: Vec::new(),
            network,
        };
        let is_set =
            |link: &&Link| matches!(link.kind, LinkKind::Bridge(_)) && link.mtu != twin.mtu_of_ports(link.index);
        twin.mtu_by_hand = twin.network.links.iter().filter(is_set).map(|link| link.index).collect();
        twin
    }

    /// Puts a DHCP server on a link: a client that starts there gets this lease.
    pub fn offer(&mut self, link: &str, family: Family, lease: Lease) {
        self.offers.insert((link.to_owned(), family), lease);
    }

    /// Pulls a NIC out, and all that is on it goes with it. Answers it as it was; `None` where there is none of this name.
    pub fn pull_out(&mut self, nic: &str) -> Option<Link> {
        let link = self.link(nic).ok()?.clone();
        self.delete(link.index);
        Some(link)
    }

    /// Puts a NIC in: to the kernel it is a new one, which nobody has set up.
    pub fn put_in(&mut self, nic: &Link) {
        self.last_index += 1;
        self.network.links.push(Link {
            driver: nic.driver.clone(),
            carrier: nic.carrier,
            wake_on_lan: WakeOnLan::Off,
            min_mtu: nic.min_mtu,
            max_mtu: nic.max_mtu,
            ..Link::bare(self.last_index, &nic.name, nic.permanent_mac, LinkKind::Ethernet)
        });
    }

    /// Takes all DHCP servers away: what a lease would bring is not known.
    pub(super) fn without_offers(mut self) -> Self {
        self.offers.clear();
        self
    }

    /// What there is now.
    pub fn observe(&self) -> &Network {
        &self.network
    }

    /// Does one step.
    ///
    /// Errors: what the kernel would refuse; then nothing changed.
    pub fn apply(&mut self, change: &Change) -> Result<(), Refused> {
        self.act(change).map_err(|why| Refused { action: change.action(), why })?;
        for link in &mut self.network.links {
            sort::short(&mut link.addresses, Ord::cmp);
            sort::short(&mut link.neighbors, Ord::cmp);
        }
        sort::short(&mut self.network.rules, Ord::cmp);
        self.settle_mtus();
        self.settle_carriers();
        let brought = Brought::of(&self.network);
        self.network.nameservers = in_force(&self.nameservers, brought.nameservers);
        self.network.search = in_force(&self.search, brought.search);
        self.network.ntp = ntp_in_force(&self.ntp, brought.ntp);
        Ok(())
    }

    /// Takes a route for added although its gateway is in no prefix yet: a lease will bring it.
    pub(super) fn assume(&mut self, route: &NamedRoute) {
        // What else is wrong with it shows when it is really added.
        let _ = self.add_route(&NamedRoute { reach: Reach::OnLink, ..route.clone() });
    }

    fn act(&mut self, change: &Change) -> Done {
        match change {
            Change::StopDhcp { link, family } => *self.dhcp(link, *family)? = Dhcp::Off,
            Change::Delete { link } => {
                if let Ok(link) = self.link(link) {
                    let index = link.index;
                    self.delete(index);
                }
            }
            Change::Rename { link, to } => return self.rename(link, to),
            Change::Create { link, kind } => return self.create(link, kind),
            Change::SetBond { link, option, value } => return self.set_bond(link, *option, *value),
            Change::SetArpTargets { link, targets } => self.bond(link)?.arp_ip_targets.clone_from(targets),
            Change::SetPrimary { link, port } => {
                let port = port.as_deref().map(|port| self.link(port).map(|port| port.index)).transpose()?;
                self.bond(link)?.primary = port;
            }
            Change::SetBridge { link, option, value } => {
                self.bridge(link)?.options.insert(*option, *value);
            }
            Change::Join { link, of } => return self.join(link, of),
            Change::Leave { link } => {
                let index = self.link(link)?.index;
                self.leave(index);
            }
            Change::SetPort { link, cost } => {
                let port = self.link(link)?.port.as_mut().ok_or("Invalid argument")?;
                port.path_cost = cost.path_cost.unwrap_or(port.path_cost);
                port.priority = cost.priority.unwrap_or(port.priority);
            }
            Change::SetMtu { link, mtu } => return self.set_mtu(link, *mtu),
            Change::SetWakeOnLan { link, wake_on_lan } => {
                let link = self.link(link)?;
                if link.wake_on_lan == WakeOnLan::Unable {
                    return Err("Operation not supported");
                }
                let on = *wake_on_lan == muster_protocol::desired::WakeOnLan::On;
                link.wake_on_lan = if on { WakeOnLan::On } else { WakeOnLan::Off };
            }
            Change::SetAcceptRa { link, accept_ra } => self.link(link)?.accept_ra = *accept_ra,
            Change::SetPrivacy { link, privacy } => self.link(link)?.privacy = *privacy,
            Change::SetAdmin { link, admin: Admin::Up } => return self.up(link),
            Change::SetAdmin { link, admin: Admin::Down } => {
                let index = self.link(link)?.index;
                self.down(index);
            }
            Change::AddAddress { link, address } => return self.add_address(link, address),
            Change::RemoveAddress { link, address } => return self.remove_address(link, address),
            Change::AddNeighbor { link, neighbor } => {
                let neighbors = &mut self.link(link)?.neighbors;
                neighbors.retain(|have| have.address != neighbor.address);
                neighbors.push(*neighbor);
            }
            Change::RemoveNeighbor { link, neighbor } => self.link(link)?.neighbors.retain(|have| have != neighbor),
            Change::StartDhcp { link, family, uses } => return self.start_dhcp(link, *family, *uses),
            Change::AwaitLease { link, family } => {
                if self.dhcp(link, *family)?.lease().is_none() {
                    return Err("no lease within the time");
                }
            }
            // Whose it is, is known once it is there.
            Change::AddRoute(route) | Change::AddAnnounced(route) => return self.add_route(route),
            Change::RemoveRoute(route) => return self.remove_route(route),
            Change::AddRule(rule) => self.add_rule(rule),
            Change::RemoveRule(rule) => self.network.rules.retain(|have| have != rule),
            Change::AwaitUnique { link } | Change::AwaitForwarding { link } => {
                self.link(link)?;
            }
            Change::Prove(_) => {}
            Change::SetResolvers { nameservers, search } => {
                self.nameservers.clone_from(nameservers);
                self.search.clone_from(search);
            }
            Change::SetNtp { servers } => self.ntp.clone_from(servers),
            Change::SetHostname { name } => self.network.hostname.clone_from(name),
        }
        Ok(())
    }

    fn link(&mut self, name: &str) -> Result<&mut Link, &'static str> {
        self.network.links.iter_mut().find(|link| link.name == name).ok_or("No such device")
    }

    fn by_index(&self, index: u32) -> Option<&Link> {
        self.network.links.iter().find(|link| link.index == index)
    }

    fn dhcp(&mut self, name: &str, family: Family) -> Result<&mut Dhcp, &'static str> {
        let link = self.link(name)?;
        Ok(match family {
            Family::V4 => &mut link.dhcp4,
            Family::V6 => &mut link.dhcp6,
        })
    }

    fn add_address(&mut self, name: &str, address: &Address) -> Done {
        let link = self.link(name)?;
        let namesake = |have: &Address| have.net.addr() == address.net.addr();
        if address.net.addr().is_ipv6() && link.addresses.iter().any(|have| namesake(have) && have.net != address.net) {
            return Err("address already assigned");
        }
        link.addresses.retain(|have| have.net != address.net);
        link.addresses.push(*address);
        Ok(())
    }

    fn remove_address(&mut self, name: &str, address: &Address) -> Done {
        let link = self.link(name)?;
        let count = link.addresses.len();
        link.addresses.retain(|have| have != address);
        let index = link.index;
        let last = !link.addresses.iter().any(|have| have.net.addr().is_ipv4());
        if address.net.addr().is_ipv4() && last && link.addresses.len() < count {
            self.network.routes.retain(|route| route.link != index || route.to.addr().is_ipv6());
        }
        Ok(())
    }

    fn start_dhcp(&mut self, name: &str, family: Family, uses: LeaseUse) -> Done {
        let offer = self.offers.get(&(name.to_owned(), family)).cloned();
        let link = self.link(name)?.index;
        let dhcp = self.dhcp(name, family)?;
        let kept = dhcp.lease().cloned();
        let had = dhcp.lease_use().filter(|had| kept.is_some() && *had != uses);
        *dhcp = match kept.clone().or_else(|| offer.clone()) {
            Some(lease) => Dhcp::Bound(uses, Box::new(lease)),
            None => Dhcp::Searching(uses),
        };
        if let Some(had) = had.filter(|_| family == Family::V4) {
            self.use_otherwise(link, had, uses);
        }
        // A server of IPv6 may have no address to give, and options all the same.
        if let (None, Some(lease)) = (kept, offer.filter(|lease| !lease.address.addr().is_unspecified())) {
            let link = self.link(name)?;
            link.addresses.retain(|have| have.net != lease.address);
            link.addresses.push(Address { net: lease.address, origin: Origin::Dhcp });
        }
        Ok(())
    }

    fn add_route(&mut self, route: &NamedRoute) -> Done {
        let link = self.link(&route.link)?;
        if link.admin == Admin::Down {
            return Err("Network is down");
        }
        let index = link.index;
        if let Some(via) = route.via {
            let link_local = matches!(via, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let held = link.addresses.iter().any(|address| address.net.contains(&via));
            if route.reach == Reach::Prefix && !held && !link_local {
                return Err("Nexthop has invalid gateway");
            }
        }
        let same = |have: &Route| {
            (have.link, have.to, have.via, have.metric, have.table)
                == (index, route.to, route.via, route.metric, route.table)
        };
        // IPv4 tells routes apart by their origin too, IPv6 does not.
        let there = |have: &Route| same(have) && (route.to.addr().is_ipv6() || have.origin == route.origin);
        if !self.network.routes.iter().any(there) {
            let NamedRoute { to, via, metric, table, origin, .. } = *route;
            self.network.routes.push(Route { to, via, link: index, metric, table, origin });
        }
        Ok(())
    }

    fn remove_route(&mut self, route: &NamedRoute) -> Done {
        let index = self.link(&route.link)?.index;
        let NamedRoute { to, via, metric, table, origin, .. } = *route;
        let wanted = Route { to, via, link: index, metric, table, origin };
        self.network.routes.retain(|have| *have != wanted);
        Ok(())
    }

    /// The kernel puts a rule without a priority before all others of its family (net/core/fib_rules.c,
    /// fib_default_rule_pref).
    fn add_rule(&mut self, rule: &Rule) {
        let is_ipv4 = |rule: &Rule| rule.from.or(rule.to).is_none_or(|net| net.addr().is_ipv4());
        let alike = self.network.rules.iter().filter(|have| is_ipv4(have) == is_ipv4(rule));
        let first = alike.filter_map(|rule| rule.priority).min().unwrap_or(FIRST_OWN_RULE);
        let rule = Rule { priority: rule.priority.or(Some(first.saturating_sub(1))), ..rule.clone() };
        if !self.network.rules.contains(&rule) {
            self.network.rules.push(rule);
        }
    }
}

/// What leases brought.
struct Brought {
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
    ntp: Vec<String>,
}

impl Brought {
    fn of(network: &Network) -> Self {
        let (nameservers, search, ntp) = leases(network, |_| true).brought();
        Self { nameservers, search, ntp: in_force(&[], ntp) }
    }
}

/// The kind of a link that a step names, for those that only some links have.
impl Twin {
    fn bond(&mut self, name: &str) -> Result<&mut muster_protocol::observed::Bond, &'static str> {
        match &mut self.link(name)?.kind {
            LinkKind::Bond(bond) => Ok(bond),
            _ => Err("Operation not supported"),
        }
    }

    fn bridge(&mut self, name: &str) -> Result<&mut muster_protocol::observed::Bridge, &'static str> {
        match &mut self.link(name)?.kind {
            LinkKind::Bridge(bridge) => Ok(bridge),
            _ => Err("Operation not supported"),
        }
    }
}
