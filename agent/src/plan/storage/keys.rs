//! Which steps need the key of an encrypted volume.

use muster_protocol::desired::Key;
use muster_protocol::ids::parse_uuid;

use super::{Device, Step, Target};

impl Step {
    /// The volume whose key the step needs: what it is called, the UUID that its header has or is to have, where that is
    /// known, and where the key comes from.
    pub fn key(&self) -> Option<(&str, Option<[u8; 16]>, Key)> {
        match self {
            Self::MakeLuks { luks, .. } => Some((&luks.name, luks.uuid, luks.key)),
            Self::Open { luks: Target { device: Device::Luks { name }, .. }, uuid, key, .. } => {
                Some((name, parse_uuid(uuid), *key))
            }
            _ => None,
        }
    }
}
