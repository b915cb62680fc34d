//! What switches a machine from outside, without anything that must not be known.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fleet::machine::controls::{BmcAddress, Controls, Trust, Wake};

/// What switches a machine from outside.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Controls)]
pub struct ControlsView {
    /// Its baseboard management controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcView>,
    /// Scheme and host of what switches the outlet that its plug is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlet: Option<String>,
    /// Whether magic packets switch it on.
    pub wake_on_lan: bool,
}

/// A baseboard management controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Bmc)]
pub struct BmcView {
    /// `redfish` or `ipmi`.
    pub protocol: String,
    /// URL or host.
    pub address: String,
    /// IPMI's UDP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Redfish's id of the system, where one was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// SHA-256 of the certificate that it must show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// `fingerprint`, `ca` or `system-cas`: by what it is known; absent for IPMI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_by: Option<String>,
    /// Who signs in.
    pub user: String,
}

impl ControlsView {
    /// Where anything was named.
    pub fn of(controls: &Controls) -> Option<Self> {
        let bmc = controls.bmc.as_ref().map(|bmc| {
            let user = bmc.user.clone();
            match &bmc.address {
                BmcAddress::Redfish { url, system, trust } => {
                    let (known_by, fingerprint) = match trust {
                        Trust::Pinned(digest) => ("fingerprint", Some(digest.to_string())),
                        Trust::Cas(_) => ("ca", None),
                        Trust::System => ("system-cas", None),
                    };
                    BmcView {
                        protocol: "redfish".into(),
                        address: url.clone(),
                        port: None,
                        system: Some(system.clone()).filter(|system| !system.is_empty()),
                        fingerprint,
                        known_by: Some(known_by.into()),
                        user,
                    }
                }
                BmcAddress::Ipmi { host, port } => BmcView {
                    protocol: "ipmi".into(),
                    address: host.clone(),
                    port: Some(*port),
                    system: None,
                    fingerprint: None,
                    known_by: None,
                    user,
                },
            }
        });
        let outlet = controls.outlet.as_ref().map(|outlet| outlet.at.clone());
        let view = Self { bmc, outlet, wake_on_lan: controls.wake == Wake::OnLan };
        (view != Self::default()).then_some(view)
    }
}
