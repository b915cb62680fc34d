//! What a machine's kernel says now.

mod disk;
mod layers;
mod network;

use muster_protocol::desired::Rates;
use muster_protocol::observed::{Limit, Observed};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use disk::{ObservedDiskView, ObservedPartitionView};
pub use layers::{
    ArrayMemberView, ArrayView, ObservedArrayView, ObservedEncryptedView, ObservedPhysicalVolumeView,
    ObservedVolumeGroupView, ObservedVolumeView,
};
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
    /// Arrays of Linux md, those of which there are only members included.
    pub arrays: Vec<ObservedArrayView>,
    /// Volume groups of LVM2, by name.
    pub volume_groups: Vec<ObservedVolumeGroupView>,
    /// LUKS devices that are open, by name. Which devices are encrypted is told by what they carry.
    pub encrypted: Vec<ObservedEncryptedView>,
    /// How fast programs may read and write disks, as documents said it; limits of others are not here.
    pub io_limits: Vec<IoLimitView>,
}

/// How fast the programs of a cgroup may read and write a disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = IoLimit)]
pub struct IoLimitView {
    /// Which disk.
    pub disk: String,
    /// Path below the cgroup filesystem.
    pub cgroup: String,
    /// Absent where there is no limit, as of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_second: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_second: Option<u64>,
    /// Requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u32>,
    /// Requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u32>,
}

impl From<&Limit> for IoLimitView {
    fn from(limit: &Limit) -> Self {
        let Rates { read_bytes, write_bytes, read_iops, write_iops } = limit.rates;
        Self {
            disk: limit.disk.to_string(),
            cgroup: limit.cgroup.clone(),
            read_bytes_per_second: read_bytes,
            write_bytes_per_second: write_bytes,
            read_iops,
            write_iops,
        }
    }
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
            arrays: observed.layers.arrays.iter().map(layers::array_view).collect(),
            volume_groups: layers::group_views(&observed.layers),
            encrypted: observed.layers.opened.iter().map(layers::encrypted_view).collect(),
            io_limits: observed.limits.iter().map(Into::into).collect(),
        }
    }
}
