//! What a machine's kernel says now, as far as configuration can change it.

mod disk;
mod firmware;
mod layers;
mod network;

use serde::{Deserialize, Serialize};

use crate::bounded::{self, at_most};
use crate::desired::TreeMount;

pub use disk::{Contents, Disk, Filesystem, Limit, Partition, SWAP};
pub use firmware::{BootEntry, BootOrder, Firmware};
pub use layers::{
    Array, ArrayMember, GroupMember, GroupName, Headers, Layers, Luks, LvmId, MemberState, Metadata, NotAnLvmId,
    Opened, PhysicalVolume, RaidMember, Role, Sync, Volume, VolumeGroup, md_uuid,
};
pub use network::{Address, Admin, Bond, Bridge, Dhcp, Lease, Link, LinkKind, Network, Origin, Port, Route, WakeOnLan};

/// Network, disks and firmware at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Links, addresses, routes, resolvers.
    pub network: Network,
    /// Whole disks that have an identity or not.
    #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
    pub disks: Vec<Disk>,
    /// What stands on them.
    pub layers: Layers,
    /// What the agent mounted that is on no disk of its own.
    #[serde(deserialize_with = "at_most::<128, _, _>")]
    pub mounts: Vec<TreeMount>,
    /// How fast programs may read and write disks, as the agent set it.
    #[serde(deserialize_with = "at_most::<128, _, _>")]
    pub limits: Vec<Limit>,
    /// What its firmware starts.
    pub firmware: Firmware,
}
