//! Plans the network: what is desired and what the kernel says, in; steps in order, out.
//!
//! Called by the reconcile loop. Pure: no sockets, no clock; [`twin`] is what the kernel makes of the steps, for
//! simulated machines and for tests.
//! A revert is a plan too: both are [`steps::between`] a [`target::Target`] and what is there.
//!
//! What the document says of a link is the whole truth about that link: addresses, routes and VLANs on it that are not
//! listed go. Links that it does not name are left alone, and so is what the kernel and routers make by themselves.

mod resolvers;
mod steps;
mod target;
pub mod twin;

use std::net::IpAddr;

use ipnet::IpNet;
use muster_protocol::desired::{AcceptRa, Reach};
use muster_protocol::observed::{Address, Admin, Origin};
use muster_protocol::to_agent::Impact;
use muster_protocol::{VlanTag, desired, observed, to_agent};

pub use resolvers::in_force;
use target::Target;

use super::Impossible;

/// One thing to do, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub change: Change,
    /// What it costs, judged by what was observed when the plan was made.
    pub impact: Impact,
}

/// What a step does. Links go by name: a VLAN that is still to be made has no index.
///
/// Each may be repeated: what is there already, or gone already, is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// End the DHCPv4 client; what it set stays until it is removed by name.
    StopDhcp {
        /// On which link.
        link: String,
    },
    /// Delete a VLAN and all that is on it.
    DeleteVlan {
        /// Which one.
        link: String,
    },
    /// Make a VLAN; it is down at first.
    CreateVlan {
        /// Its name.
        link: String,
        /// The link below.
        parent: String,
        /// Its tag.
        tag: VlanTag,
    },
    /// Set the MTU.
    SetMtu {
        /// Of which link.
        link: String,
        /// Bytes.
        mtu: u32,
    },
    /// Say what the kernel does with router advertisements; where it takes them again, ask for one.
    SetAcceptRa {
        /// On which link.
        link: String,
        /// What it does.
        accept_ra: AcceptRa,
    },
    /// Bring a link up or down.
    SetAdmin {
        /// Which one.
        link: String,
        /// Up or down.
        admin: Admin,
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
    /// Start a DHCPv4 client, with the lease this link had before where that is still good.
    StartDhcp {
        /// On which link.
        link: String,
    },
    /// Wait, for seconds, until the DHCPv4 client has a lease: routes that follow need its prefix.
    AwaitLease {
        /// On which link.
        link: String,
    },
    /// Add a route beside those that are there.
    AddRoute(Route),
    /// Wait, for seconds, until duplicate address detection is through (RFC 4862, section 5.4).
    AwaitUnique {
        /// On which link.
        link: String,
    },
    /// Remove a route.
    RemoveRoute(Route),
    /// Use these resolvers and search domains before those that DHCP leases bring.
    SetResolvers {
        /// Resolvers.
        nameservers: Vec<IpAddr>,
        /// Search domains.
        search: Vec<String>,
    },
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
    /// Static or DHCP; for removal, whatever was observed.
    pub origin: Origin,
    /// How the gateway is reached.
    pub reach: Reach,
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
/// Order: links and MTU, new addresses, DHCP, new routes, a check that new IPv6 addresses are unique, and only then old
/// routes, old addresses, old VLANs, and resolvers: the old path lives as long as it can.
/// Errors: the first thing that does not fit this machine; it names the field and the remedy.
pub fn plan(desired: &desired::Network, observed: &observed::Network) -> Result<Vec<Step>, Impossible> {
    Ok(steps::between(&Target::of_desired(desired, observed)?, observed))
}

/// What must be done to have the network as it was `before`, now that it is as `now`.
///
/// Addresses from router advertisements come back from the router and not from here.
pub fn revert(before: &observed::Network, now: &observed::Network) -> Vec<Step> {
    steps::between(&Target::of_observed(before, now), now)
}

/// What is not as desired, in the words of the steps that would make it so; empty where nothing is.
pub fn differences(desired: &desired::Network, observed: &observed::Network) -> Vec<String> {
    match plan(desired, observed) {
        Ok(steps) => steps.iter().map(|step| format!("still to do: {}", step.change.action())).collect(),
        Err(impossible) => vec![impossible.to_string()],
    }
}

impl Step {
    /// The step for people.
    pub fn describe(&self) -> to_agent::Step {
        to_agent::Step { action: self.change.action(), impact: self.impact.clone() }
    }
}

impl Change {
    /// One line, imperative.
    pub fn action(&self) -> String {
        match self {
            Self::StopDhcp { link } => format!("stop DHCP on {link}"),
            Self::DeleteVlan { link } => format!("delete VLAN {link}"),
            Self::CreateVlan { link, parent, tag } => format!("create VLAN {link} with tag {tag} on {parent}"),
            Self::SetMtu { link, mtu } => format!("set the MTU of {link} to {mtu}"),
            Self::SetAcceptRa { link, accept_ra: AcceptRa::Off } => format!("ignore router advertisements on {link}"),
            Self::SetAcceptRa { link, accept_ra: AcceptRa::Default } => {
                format!("take router advertisements on {link} unless it forwards")
            }
            Self::SetAcceptRa { link, accept_ra: AcceptRa::On } => format!("take router advertisements on {link}"),
            Self::SetAdmin { link, admin: Admin::Up } => format!("bring {link} up"),
            Self::SetAdmin { link, admin: Admin::Down } => format!("bring {link} down"),
            Self::AddAddress { link, address } => format!("add address {} to {link}", address.net),
            Self::RemoveAddress { link, address } => format!("remove address {} from {link}", address.net),
            Self::StartDhcp { link } => format!("start DHCP on {link}"),
            Self::AwaitLease { link } => format!("wait for a DHCP lease on {link}"),
            Self::AddRoute(route) => format!("add route {route}"),
            Self::AwaitUnique { link } => format!("wait until the IPv6 addresses of {link} are known to be unique"),
            Self::RemoveRoute(route) => format!("remove route {route}"),
            Self::SetResolvers { nameservers, search } => {
                let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(" ") };
                let servers = list(nameservers.iter().map(ToString::to_string).collect());
                format!("set resolvers: {servers}, search domains: {}", list(search.clone()))
            }
        }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " by {} with metric {}", self.link, self.metric)
    }
}
