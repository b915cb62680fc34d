//! What a machine's kernel says now, as far as configuration can change it.

mod disk;
mod layers;
mod network;

use serde::{Deserialize, Serialize};

use crate::bounded::{self, at_most};

pub use disk::{Contents, Disk, Filesystem, Partition};
pub use layers::{
    Array, ArrayMember, GroupMember, GroupName, Headers, Layers, Luks, LvmId, MemberState, Metadata, NotAnLvmId,
    Opened, PhysicalVolume, RaidMember, Role, Sync, Volume, VolumeGroup, md_uuid,
};
pub use network::{Address, Admin, Bond, Bridge, Dhcp, Lease, Link, LinkKind, Network, Origin, Port, Route, WakeOnLan};

/// Network and disks at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Links, addresses, routes, resolvers.
    pub network: Network,
    /// Whole disks that have an identity or not.
    #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
    pub disks: Vec<Disk>,
    /// What stands on them.
    pub layers: Layers,
}
