//! What a machine should be: network in netplan's words, storage in Butane's, normalized.
//!
//! The texts that operators write are parsed by the controller; this is what they mean.
//! [`Checked`] is the only form that planning accepts, and [`check`] its only source: whoever holds one knows that names
//! refer to something, that nothing is said twice, and that every number is in range.
//! What the hardware says (is there such a MAC, is there such a disk) is for the plan to find out.

mod bond;
mod bridge;
mod check;
mod disks;
mod format;
mod image;
mod limit;
mod mount;
mod network;
mod stack;
mod storage;

use serde::{Deserialize, Serialize};

pub use bond::{Bond, BondMode, BondOption};
pub use bridge::{Bridge, BridgeOption, PortCost};
pub use disks::{Disk, DiskRule, DiskSelect, Entry, LINUX_FILESYSTEM, Partition, Pick, Presence, Resize, Table};
pub use format::{Format, UNFINISHED, VolumeId};
pub use image::{Boot, Image, MARK, Seed, unfinished};
pub use limit::{IoLimit, Rates};
pub use mount::{FLAGS, Mount, Mountable, Tree, TreeMount, is_flag, mount_options};
pub use network::{
    AcceptRa, Dhcp, Ethernet, LeaseUse, Link, LinkKind, MAIN_TABLE, Neighbor, Network, PROOF_MARK, PROOF_PRIORITY,
    PROOF_TABLE, Privacy, Reach, Route, Rule, Select, Settings, Take, WakeOnLan, matches_pattern,
};
pub use stack::{
    ARRAYS, Key, LogicalVolume, Luks, OPENED, Raid, RaidLevel, UNFINISHED_LAYER, UNFINISHED_PV, VolumeGroup,
    VolumeKind, VolumeSize,
};
pub use storage::{Existing, Filesystem, Layer, Permit, Place, Storage, Use, is_at_or_below};

/// A machine's whole desired state. What is absent is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Links, addresses, routes, resolvers.
    pub network: Option<Network>,
    /// Disks and filesystems.
    pub storage: Option<Storage>,
}

/// A value that passed its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked<T>(T);

impl<T> Checked<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// One thing that is wrong with a desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Problem {
    /// Where, as a path in the normalized document: `network.vlans.office.link`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Finds everything that is wrong with `desired` without looking at a machine.
///
/// Errors: all problems, in the order of the document; never empty.
pub fn check(desired: Desired) -> Result<Checked<Desired>, Vec<Problem>> {
    let mut problems = Problems::default();
    if let Some(network) = &desired.network {
        check::check(network, &mut problems);
    }
    if let Some(storage) = &desired.storage {
        storage::check(storage, &mut problems);
    }
    if problems.0.is_empty() { Ok(Checked(desired)) } else { Err(problems.0) }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Problem { field: field.into(), problem: problem.into() });
    }

    fn at_most(&mut self, field: &str, count: usize, limit: usize) {
        if count > limit {
            self.add(field, format!("{count} entries are over the limit of {limit}"));
        }
    }
}
