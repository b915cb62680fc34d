//! Plans the network: what is desired and what the kernel says, in; steps in order, out.
//!
//! Called by the reconcile loop. Pure: no sockets, no clock; [`twin`] is what the kernel makes of the steps, for
//! simulated machines and for tests.
//! A revert is a plan too: both are [`steps::between`] a [`target::Target`] and what is there.
//!
//! What the document says of a link is the whole truth about that link: addresses, routes and VLANs on it that are not
//! listed go. Links that it does not name are given back where the document in force described them ([`Past`]), and left
//! alone where nobody did; so is what the kernel and routers make by themselves.

mod gone;
mod home;
mod past;
mod resolvers;
#[cfg(test)]
pub(crate) mod samples;
mod steps;
mod target;
pub mod twin;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use muster_protocol::desired::{
    AcceptRa, BondMode, BondOption, BridgeOption, LeaseUse, MAIN_TABLE, Neighbor, PortCost, Privacy, Reach, Rule, Take,
    WakeOnLan,
};
use muster_protocol::observed::{Address, Admin, Origin};
use muster_protocol::to_agent::Impact;
use muster_protocol::{VlanTag, desired, observed, to_agent};

use super::Impossible;
pub use gone::Gone;
pub use home::home;
pub use muster_protocol::desired::{PROOF_MARK, PROOF_TABLE};
pub use past::{BootNic, Past, see};
pub use resolvers::{in_force, ntp_in_force};
use target::Target;

/// One thing to do, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub change: Change,
    /// What it costs, judged by what was observed when the plan was made.
    pub impact: Impact,
}

/// What a step does. Links go by name: one that is still to be made has no index.
///
/// Each may be repeated: what is there already, or gone already, is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// End a DHCP client; what it set stays until it is removed by name.
    StopDhcp {
        /// On which link.
        link: String,
        /// Which of the two.
        family: Family,
    },
    /// Delete a bond, bridge or VLAN, and all that is on it. Its ports are set free.
    Delete {
        /// Which one.
        link: String,
    },
    /// Give a NIC another name. It has to be down.
    Rename {
        /// Its name so far.
        link: String,
        /// Its name from now on.
        to: String,
    },
    /// Make a link; it is down at first, and without ports.
    Create {
        /// Its name.
        link: String,
        /// What it is.
        kind: NewLink,
    },
    /// Set one option of a bond.
    SetBond {
        /// Which one.
        link: String,
        /// Which option.
        option: BondOption,
        /// As a document has it.
        value: u32,
    },
    /// Set whom a bond asks for by ARP.
    SetArpTargets {
        /// Which bond.
        link: String,
        /// All of them.
        targets: Vec<Ipv4Addr>,
    },
    /// Set the port that a bond prefers.
    SetPrimary {
        /// Which bond.
        link: String,
        /// One of its ports; `None` for no preference.
        port: Option<String>,
    },
    /// Set one option of a bridge.
    SetBridge {
        /// Which one.
        link: String,
        /// Which option.
        option: BridgeOption,
        /// As a document has it.
        value: u32,
    },
    /// Make a link a port. A bond's new port has to be down before, and comes up by it.
    Join {
        /// The port to be.
        link: String,
        /// The bond or bridge.
        of: String,
    },
    /// Make a port an ordinary link. A bond's former port is down afterwards.
    Leave {
        /// The port.
        link: String,
    },
    /// Say what spanning tree reckons with at a bridge's port. What is `None` stays.
    SetPort {
        /// The port.
        link: String,
        /// Path cost and priority.
        cost: PortCost,
    },
    /// Set the MTU.
    SetMtu {
        /// Of which link.
        link: String,
        /// Bytes.
        mtu: u32,
    },
    /// Say whether a NIC wakes the machine when it hears a magic packet.
    SetWakeOnLan {
        /// Which one.
        link: String,
        /// `Keep` is never planned.
        wake_on_lan: WakeOnLan,
    },
    /// Say what the kernel does with router advertisements; where it takes them again, ask for one.
    SetAcceptRa {
        /// On which link.
        link: String,
        /// What it does.
        accept_ra: AcceptRa,
    },
    /// Say whether a link has temporary IPv6 addresses.
    SetPrivacy {
        /// On which link.
        link: String,
        /// Whether it has.
        privacy: Privacy,
    },
    /// Bring a link up or down.
    SetAdmin {
        /// Which one.
        link: String,
        /// Up or down.
        admin: Admin,
    },
    /// Wait until spanning tree lets frames pass at one port of a bridge at least; at most twice the forward delay and some.
    AwaitForwarding {
        /// The bridge.
        link: String,
    },
    /// Add an address, or make the one that is there of this origin.
    AddAddress {
        /// To which link.
        link: String,
        /// Static or DHCP.
        address: Address,
    },
    /// Remove an address and nothing else: others of its prefix stay, and so does this one if it is of another origin by
    /// now (a lease may bring the very address that was static).
    RemoveAddress {
        /// From which link.
        link: String,
        /// Which one.
        address: Address,
    },
    /// Set a neighbor's MAC for good.
    AddNeighbor {
        /// On which link.
        link: String,
        /// Who.
        neighbor: Neighbor,
    },
    /// Forget a neighbor whose MAC was set for good.
    RemoveNeighbor {
        /// On which link.
        link: String,
        /// Who.
        neighbor: Neighbor,
    },
    /// Start a DHCP client, with the lease this link had before where that is still good; or have the one that runs use
    /// its lease so.
    StartDhcp {
        /// On which link.
        link: String,
        /// Which of the two.
        family: Family,
        /// What of the lease counts.
        uses: LeaseUse,
    },
    /// Wait, for seconds, until the DHCP client has a lease: routes that follow need its prefix.
    AwaitLease {
        /// On which link.
        link: String,
        /// Which of the two.
        family: Family,
    },
    /// Add a route beside those that are there.
    AddRoute(Route),
    /// Wait, for seconds, until a router has announced itself and an address on a link, and add a route from there by it.
    AddAnnounced(Route),
    /// Wait, for seconds, until duplicate address detection is through (RFC 4862, section 5.4; RFC 5227 for IPv4).
    AwaitUnique {
        /// On which link.
        link: String,
    },
    /// Remove a route.
    RemoveRoute(Route),
    /// Add a routing policy rule.
    AddRule(Rule),
    /// Remove a routing policy rule; it has its priority.
    RemoveRule(Rule),
    /// Use these resolvers and search domains before those that DHCP leases bring.
    SetResolvers {
        /// Resolvers.
        nameservers: Vec<IpAddr>,
        /// Search domains.
        search: Vec<String>,
    },
    /// Keep the clock by these NTP servers; by those that leases bring where there are none.
    SetNtp {
        /// Names or addresses.
        servers: Vec<String>,
    },
    /// Give the machine a name for itself.
    SetHostname {
        /// The name.
        name: String,
    },
    /// Reach the controller over a way that stands beside the present one. The kernel has no part in it.
    Prove(NewWay),
}

/// A way to the controller that is not in use yet: packets take it that are sent by this link, from this address, with
/// [`PROOF_MARK`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWay {
    /// By which link; where there are several, by whichever of them the kernel takes. Nothing else leads there then.
    pub links: Vec<String>,
    /// From which address; `None` where a lease or a router brings it.
    pub source: Option<IpAddr>,
    /// To which of the controller's addresses, where it is not the one in use: the session has to be begun anew there.
    pub controller: Option<IpAddr>,
}

/// IPv4's or IPv6's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// DHCPv4 (RFC 2131).
    V4,
    /// DHCPv6 (RFC 8415).
    V6,
}

/// A link that can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewLink {
    /// IEEE 802.1Q on another link.
    Vlan {
        /// The link below, by name.
        parent: String,
        /// Its tag.
        tag: VlanTag,
    },
    /// Several NICs as one link. Options follow as steps of their own, but for those that cannot change afterwards.
    Bond {
        /// How it works.
        mode: BondMode,
    },
    /// A switch inside the machine.
    Bridge,
}

/// A route to add or remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// By which link.
    pub link: String,
    /// Destination.
    pub to: IpNet,
    /// Gateway; `None` where the destination is on the link.
    pub via: Option<IpAddr>,
    /// As the kernel will report it; see [`metric_in_force`].
    pub metric: u32,
    /// The table it is in; 254 is the main one.
    pub table: u32,
    /// Static or DHCP; for removal, whatever was observed.
    pub origin: Origin,
    /// How the gateway is reached.
    pub reach: Reach,
}

/// What Ethernet has unless somebody says otherwise.
const ETHERNET_MTU: u32 = 1500;

/// The metric of routes that leases bring, unless a document says another: any configured one wins.
pub const LEASED_METRIC: u32 = 1024;

/// How long a step waits for a router that announces itself: it may take 3.5 s to answer, and two more go by until the
/// address is known to be unique (RFC 4861, section 6.2.6; RFC 4862, section 5.4).
pub const ROUTER_PATIENCE: Duration = Duration::from_secs(15);
/// How long a step waits for a lease.
pub const LEASE_PATIENCE: Duration = Duration::from_secs(15);
/// How long a step waits for duplicate address detection: it takes 2 seconds at most once there is a carrier.
pub const UNIQUE_PATIENCE: Duration = Duration::from_secs(5);
/// What a port of a bridge may take beyond the two delays that it listens and learns for.
pub const FORWARDING_SLACK: Duration = Duration::from_secs(5);
/// The longest that spanning tree makes a bridge wait: twice its largest forward-delay (IEEE 802.1D).
const LONGEST_FORWARDING: Duration = Duration::from_secs(2 * 30);

/// Whether a bond has to be made anew for another value: the kernel changes it only while the bond is down or without ports
/// (drivers/net/bonding/bond_options.c, BOND_OPTFLAG_IFDOWN and BOND_OPTFLAG_NOSLAVES).
pub fn needs_a_new_bond(option: BondOption) -> bool {
    matches!(option, BondOption::LacpRate | BondOption::AdSelect | BondOption::FailOverMac)
}

/// A rule as the kernel will tell it: see [`decode`] for prefixes of length 0.
pub fn as_kept(rule: &Rule) -> Rule {
    let said = |net: Option<IpNet>| net.filter(|net| net.prefix_len() > 0);
    match (said(rule.from), said(rule.to)) {
        (None, None) => Rule { from: rule.from.or(rule.to), to: None, ..rule.clone() },
        (from, to) => Rule { from, to, ..rule.clone() },
    }
}

/// The metric that the kernel reports for a route asked for with `metric`.
///
/// IPv6 has no metric 0: it becomes 1024 (include/net/ip6_route.h, IP6_RT_PRIO_USER).
pub fn metric_in_force(to: &IpNet, metric: Option<u32>) -> u32 {
    match (to, metric) {
        (IpNet::V4(_), metric) => metric.unwrap_or(0),
        (IpNet::V6(_), None | Some(0)) => 1024,
        (IpNet::V6(_), Some(metric)) => metric,
    }
}

/// What must be done to make the network as desired; empty where it is so already.
///
/// Order: links and MTU, new addresses, DHCP, new routes, a check that new addresses are unique, and only then old
/// routes, old addresses, old links, and resolvers: the old path lives as long as it can. Where the way to the controller
/// is touched, all that can stand beside it is made and [proven](Change::Prove) first.
/// What the document in force described and this one does not goes: links are deleted, and NICs are what they were when the
/// machine booted, asking for an address.
/// `controllers` are the addresses by which the controller is reached, the one in use first; none where it is not known.
/// Errors: the first thing that does not fit this machine; it names the field and the remedy.
pub fn plan(
    desired: &desired::Network,
    past: &Past,
    observed: &observed::Network,
    controllers: &[IpAddr],
) -> Result<Vec<Step>, Impossible> {
    Ok(steps::between(&Target::of_desired(desired, past, observed)?, observed, controllers))
}

/// What an entry of a document is on this machine, found as a plan finds it; nothing where it fits nothing.
pub fn links_of<'a>(
    entry: &desired::Link,
    past: &Past,
    observed: &'a observed::Network,
) -> impl Iterator<Item = &'a observed::Link> {
    let indexes = target::indexes(entry, past, observed);
    observed.links.iter().filter(move |link| indexes.contains(&link.index))
}

/// What sets the network right that was as desired once: one half, since there is nothing to prove.
///
/// Errors: the first thing that does not fit this machine any more.
pub fn repair(desired: &desired::Network, past: &Past, observed: &observed::Network) -> Result<Vec<Step>, Impossible> {
    Ok(steps::back(&Target::of_desired(desired, past, observed)?, observed))
}

/// What must be done to have the network as it was `before`, now that it is as `now`.
///
/// Addresses from router advertisements come back from the router and not from here.
pub fn revert(before: &observed::Network, now: &observed::Network) -> Vec<Step> {
    steps::back(&Target::of_observed(before, now), now)
}

/// The NICs that had a part in the network as it was `before` and are not there `now`: what [`revert`] cannot bring back. One
/// that had nothing is not among them.
///
/// `controllers` are the addresses of the controller. Where none is known, or nothing led to any of them, each of the NICs may
/// have been the way.
pub fn gone(before: &observed::Network, now: &observed::Network, controllers: &[IpAddr]) -> Vec<Gone> {
    gone::gone(before, now, controllers)
}

/// What must be done to have the network as on a machine that has just started: nothing that anybody set, and every NIC asks
/// for an address, by DHCP and of routers. Names stay, for nobody knows others.
pub fn as_it_boots(now: &observed::Network) -> Vec<Step> {
    let is_hardware = |link: &&observed::Link| link.kind == observed::LinkKind::Ethernet;
    let bare = |link: &observed::Link| observed::Link {
        admin: Admin::Up,
        mtu: ETHERNET_MTU,
        port: None,
        addresses: link.addresses.iter().filter(|address| address.origin != Origin::Static).copied().collect(),
        neighbors: Vec::new(),
        dhcp4: observed::Dhcp::Searching(LeaseUse::default()),
        dhcp6: observed::Dhcp::Off,
        accept_ra: AcceptRa::Default,
        privacy: Privacy::Off,
        ..link.clone()
    };
    let links: Vec<_> = now.links.iter().filter(is_hardware).map(bare).collect();
    let stays =
        |route: &&observed::Route| route.origin != Origin::Static && links.iter().any(|link| link.index == route.link);
    let routes = now.routes.iter().filter(stays).cloned().collect();
    let hostname = now.hostname.clone();
    revert(&observed::Network { links, routes, hostname, ..observed::Network::default() }, now)
}

/// By which link, and over which gateway if any, an address is reached.
pub fn next_hop(network: &observed::Network, to: IpAddr) -> Option<(u32, Option<IpAddr>)> {
    steps::way(network, to)
}

/// What is not as desired, in the words of the steps that would make it so; empty where nothing is.
pub fn differences(desired: &desired::Network, past: &Past, observed: &observed::Network) -> Vec<String> {
    match plan(desired, past, observed, &[]) {
        Ok(steps) => steps.iter().map(|step| format!("still to do: {}", step.change.action())).collect(),
        Err(impossible) => vec![impossible.to_string()],
    }
}

/// What takes away that which came by itself and is not desired: a lease or an advertisement that arrived after the plan
/// was made, and before its client was stopped or the router was ignored. Nothing where more than that is to do.
pub fn uninvited(desired: &desired::Network, past: &Past, observed: &observed::Network) -> Vec<Step> {
    let comes = |origin| matches!(origin, Origin::Dhcp | Origin::Ra);
    let is_uninvited = |step: &Step| match &step.change {
        Change::RemoveAddress { address, .. } => comes(address.origin),
        Change::RemoveRoute(route) => comes(route.origin),
        _ => false,
    };
    let steps = plan(desired, past, observed, &[]).unwrap_or_default();
    if steps.iter().all(is_uninvited) { steps } else { Vec::new() }
}

impl Step {
    /// The step for people.
    pub fn describe(&self) -> to_agent::Step {
        to_agent::Step { action: self.change.action(), impact: self.impact.clone() }
    }
}

impl Change {
    /// How long it may wait for something else than the kernel.
    pub fn patience(&self) -> Duration {
        match self {
            Self::AwaitForwarding { .. } => LONGEST_FORWARDING + FORWARDING_SLACK,
            Self::AwaitLease { .. } => LEASE_PATIENCE,
            Self::AddAnnounced(_) => ROUTER_PATIENCE,
            Self::AwaitUnique { .. } => UNIQUE_PATIENCE,
            _ => Duration::ZERO,
        }
    }

    /// One line, imperative.
    pub fn action(&self) -> String {
        match self {
            Self::StopDhcp { link, family } => format!("stop {family} on {link}"),
            Self::Delete { link } => format!("delete {link}"),
            Self::Rename { link, to } => format!("rename {link} to {to}"),
            Self::Create { link, kind: NewLink::Vlan { parent, tag } } => {
                format!("create VLAN {link} with tag {tag} on {parent}")
            }
            Self::Create { link, kind: NewLink::Bond { mode } } => {
                format!("create bond {link} of mode {}", mode.name())
            }
            Self::Create { link, kind: NewLink::Bridge } => format!("create bridge {link}"),
            Self::SetBond { link, option, value } => format!("set {} of bond {link} to {value}", option.name()),
            Self::SetArpTargets { link, targets } => format!("set arp-ip-targets of bond {link} to {}", list(targets)),
            Self::SetPrimary { link, port } => {
                format!("set primary of bond {link} to {}", port.as_deref().unwrap_or("none"))
            }
            Self::SetBridge { link, option, value } => {
                let (value, unit) = match option {
                    BridgeOption::Stp | BridgeOption::Priority => (*value, ""),
                    // Hundredths of a second are nobody's words.
                    _ => (value.saturating_mul(10), " ms"),
                };
                format!("set {} of bridge {link} to {value}{unit}", option.name())
            }
            Self::Join { link, of } => format!("make {link} a port of {of}"),
            Self::Leave { link } => format!("take {link} out of the link that it is a port of"),
            Self::SetPort { link, cost: PortCost { path_cost, priority } } => {
                let mut said = Vec::new();
                said.extend(path_cost.map(|cost| format!("path-cost {cost}")));
                said.extend(priority.map(|priority| format!("port-priority {priority}")));
                format!("set {} of {link}", said.join(" and "))
            }
            Self::SetMtu { link, mtu } => format!("set the MTU of {link} to {mtu}"),
            Self::SetWakeOnLan { link, wake_on_lan: WakeOnLan::Off } => format!("turn wake-on-LAN of {link} off"),
            Self::SetWakeOnLan { link, .. } => format!("turn wake-on-LAN of {link} on"),
            Self::SetAcceptRa { link, accept_ra: AcceptRa::Off } => format!("ignore router advertisements on {link}"),
            Self::SetAcceptRa { link, accept_ra: AcceptRa::Default } => {
                format!("take router advertisements on {link} unless it forwards")
            }
            Self::SetAcceptRa { link, accept_ra: AcceptRa::On } => format!("take router advertisements on {link}"),
            Self::SetPrivacy { link, privacy: Privacy::Off } => format!("use no temporary addresses on {link}"),
            Self::SetPrivacy { link, privacy: Privacy::On } => format!("use temporary addresses on {link}"),
            Self::SetAdmin { link, admin: Admin::Up } => format!("bring {link} up"),
            Self::SetAdmin { link, admin: Admin::Down } => format!("bring {link} down"),
            Self::AwaitForwarding { link } => format!("wait until spanning tree lets frames pass on {link}"),
            Self::AddAddress { link, address } => format!("add address {} to {link}", address.net),
            Self::RemoveAddress { link, address } => format!("remove address {} from {link}", address.net),
            Self::AddNeighbor { link, neighbor } => {
                format!("set neighbor {} on {link} to {}", neighbor.address, neighbor.mac)
            }
            Self::RemoveNeighbor { link, neighbor } => format!("forget neighbor {} on {link}", neighbor.address),
            Self::StartDhcp { link, family, uses } => format!("start {family} on {link}{}", ShownUse(uses)),
            Self::AwaitLease { link, family } => format!("wait for a lease by {family} on {link}"),
            Self::AddRoute(route) => format!("add route {route}"),
            Self::AddAnnounced(route) => format!("add route {route}, over the router that announces itself there"),
            Self::AwaitUnique { link } => format!("wait until the addresses of {link} are known to be unique"),
            Self::RemoveRoute(route) => format!("remove route {route}"),
            Self::AddRule(rule) => format!("add rule {}", ShownRule(rule)),
            Self::RemoveRule(rule) => format!("remove rule {}", ShownRule(rule)),
            Self::SetResolvers { nameservers, search } => {
                format!("set resolvers: {}, search domains: {}", list(nameservers), list(search))
            }
            Self::SetNtp { servers } => format!("set NTP servers: {}", list(servers)),
            Self::SetHostname { name } => format!("set the hostname to {name}"),
            Self::Prove(way) => {
                let said = |word: &str, ip: Option<IpAddr>| ip.map_or_else(String::new, |ip| format!(" {word} {ip}"));
                let (at, from) = (said("at", way.controller), said("from", way.source));
                format!("reach the controller{at} by {way}{from}, beside the present way")
            }
        }
    }
}

impl NewWay {
    /// The link that packets are sent by, where it is known which.
    pub fn link(&self) -> Option<&str> {
        self.links.first().filter(|_| self.links.len() == 1).map(String::as_str)
    }
}

/// `eth0 or eth1`.
impl std::fmt::Display for NewWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.links.join(" or "))
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.iter().map(T::to_string).collect::<Vec<_>>().join(" ") }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "DHCP",
            Self::V6 => "DHCPv6",
        })
    }
}

/// What of a lease is used otherwise than by default.
struct ShownUse<'a>(&'a LeaseUse);

impl std::fmt::Display for ShownUse<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LeaseUse { dns, ntp, routes, route_metric } = self.0;
        for (what, take) in [("resolvers", dns), ("NTP servers", ntp), ("routes", routes)] {
            if *take == Take::No {
                write!(f, ", without its {what}")?;
            }
        }
        route_metric.iter().try_for_each(|metric| write!(f, ", its routes with metric {metric}"))
    }
}

/// A rule as `ip rule` writes it.
struct ShownRule<'a>(&'a Rule);

impl std::fmt::Display for ShownRule<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rule { from, to, table, priority, mark, tos } = self.0;
        if let Some(priority) = priority {
            write!(f, "{priority}: ")?;
        }
        from.iter().try_for_each(|from| write!(f, "from {from} "))?;
        to.iter().try_for_each(|to| write!(f, "to {to} "))?;
        mark.iter().try_for_each(|mark| write!(f, "fwmark {mark:#x} "))?;
        tos.iter().try_for_each(|tos| write!(f, "tos {tos:#x} "))?;
        write!(f, "lookup {table}")
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " by {} with metric {}", self.link, self.metric)?;
        if self.table == MAIN_TABLE { Ok(()) } else { write!(f, " in table {}", self.table) }
    }
}
