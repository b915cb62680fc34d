//! What a machine's kernel says now.

mod disk;
mod network;

use muster_protocol::observed::Observed;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use disk::{ObservedDiskView, ObservedPartitionView};
pub use network::{BondView, LeaseView, LinkView, PortView, RouteView, RuleView, VlanView};

/// Network and disks at the moment of asking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Observed)]
pub struct ObservedView {
    /// The machine's name for itself.
    pub hostname: String,
    /// All links but the loopback.
    pub links: Vec<LinkView>,
    /// Routes of all tables but the kernel's own.
    pub routes: Vec<RouteView>,
    /// Routing policy rules that configuration made.
    pub rules: Vec<RuleView>,
    /// Resolvers in force.
    pub nameservers: Vec<String>,
    /// Search domains in force.
    pub search: Vec<String>,
    /// NTP servers in force.
    pub ntp: Vec<String>,
    /// Whole disks.
    pub disks: Vec<ObservedDiskView>,
}

impl From<&Observed> for ObservedView {
    fn from(observed: &Observed) -> Self {
        let network = &observed.network;
        Self {
            hostname: network.hostname.clone(),
            links: network.links.iter().map(|link| network::link_view(link, network)).collect(),
            routes: network.routes.iter().map(|route| network::route_view(route, network)).collect(),
            rules: network.rules.iter().map(network::rule_view).collect(),
            nameservers: network.nameservers.iter().map(ToString::to_string).collect(),
            search: network.search.clone(),
            ntp: network.ntp.clone(),
            disks: observed.disks.iter().map(disk::disk_view).collect(),
        }
    }
}
