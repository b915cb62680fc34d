//! A site's boot medium, as the API shows it.

use muster_protocol::Digest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;
use crate::fleet::State;
use crate::fleet::record::Iso;

/// A boot medium.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Iso)]
pub struct IsoView {
    /// Shown on the screen of a machine that starts from it.
    pub id: String,
    /// Code of the location that it is for.
    pub location: String,
    /// Where its machines reach the controller.
    pub controllers: Vec<String>,
    /// Where it was written, on the host that built it.
    pub file: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// SHA-256 of the CA's certificate that a sealed one pins, in hex; absent for one that asks over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_ca: Option<String>,
    /// SHA-256 of the boot CA's certificate that another one pins for its UEFI machines, in hex; absent where they ask by
    /// plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_ca: Option<String>,
    /// Whether the CA that it pins is in force. With another nothing that starts from a sealed one comes in, and of what
    /// starts from another no UEFI machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_in_force: Option<bool>,
    /// When it was built.
    #[schema(value_type = String, format = DateTime)]
    pub made: Time,
    /// Since when it lets nobody join; absent while it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked: Option<Time>,
    /// Machines that last started from it.
    pub machines: usize,
}

impl IsoView {
    /// What is known of it. `cas` are those in force, the boot CA among them.
    pub fn of(state: &State, iso: &Iso, cas: &[Digest]) -> Self {
        Self {
            id: iso.id.clone(),
            location: iso.location.clone(),
            controllers: iso.controllers.clone(),
            file: iso.file.clone(),
            bytes: iso.bytes,
            sha256: iso.sha256.to_string(),
            sealed_ca: iso.sealed.map(|ca| ca.to_string()),
            boot_ca: iso.boot_ca.map(|ca| ca.to_string()),
            ca_in_force: iso.sealed.or(iso.boot_ca).map(|ca| cas.contains(&ca)),
            made: Time(iso.created_unix_ms),
            revoked: iso.revoked_unix_ms.map(Time),
            machines: state.machines.iter().filter(|machine| machine.iso == iso.id).count(),
        }
    }
}
