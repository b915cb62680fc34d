//! A machine: what is known of it, where it is in its life, whether it is there, how far it is.

use std::collections::BTreeMap;

use muster_protocol::drift::{Drift, DriftEnd};
use muster_protocol::enroll::Tpm;
use muster_protocol::hello::{Progress, Times};
use muster_protocol::inventory::{Array, Inventory};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::controls::ControlsView;
use super::drive::DriveView;
use super::inventory::InventoryView;
use super::{Time, uuid};
use crate::api::live::{Live, Presence};
use crate::fleet::State;
use crate::fleet::enrollment::identity;
use crate::fleet::lease::primary::reaches;
use crate::fleet::machine::health;
use crate::fleet::operation::drift;
use crate::fleet::operation::outcome::{self, Outcome};
use crate::fleet::record::{DriveRecord, Lifecycle, Machine, Maintenance};

/// One machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Machine)]
pub struct MachineView {
    /// For ever.
    pub id: String,
    /// For people.
    pub name: String,
    /// Code of its location, empty where its boot medium named none.
    pub location: String,
    /// `pending`, `rejected`, `available`, `leased`, `cleaning` or `retired`.
    pub lifecycle: String,
    /// `pending` until it is approved, `member` from then on.
    pub standing: String,
    /// Shown on its console too; absent once it is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Machines that this box may be, by their names, likeliest first: somebody has to say. Absent where there is no doubt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_be: Vec<String>,
    /// A machine that was retired and had a serial, a MAC or the TPM's key of this one, which no policy approves. Absent once
    /// it is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_parts_of: Option<String>,
    /// The ISO that it last started from; absent where it started otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<String>,
    /// The lease that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// The operation that cleans it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Whether it is left out of leases.
    pub maintenance: bool,
    /// Operators' own words.
    pub labels: BTreeMap<String, String>,
    /// Whether it can be spoken with now.
    pub presence: PresenceView,
    /// The generation it should reach; 0 where nothing was ever asked of it.
    pub generation: u64,
    /// How far it is.
    pub progress: ProgressView,
    /// What it does where somebody changes its network by hand: `repair`, `report`, or `default` for what the controller's
    /// configuration says.
    pub on_drift: String,
    /// How its network differs from what was confirmed; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftView>,
    /// Arrays of its disks that lack members or are being filled, in words, as it last said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubled_arrays: Vec<String>,
    /// Drives that somebody should look at, in words, as they last said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubled_disks: Vec<String>,
    /// Addresses of its NICs, and of VLANs, bonds and bridges on them, with their prefix lengths, link-local ones left out.
    pub addresses: Vec<String>,
    /// Manufacturer and product.
    pub model: String,
    /// SMBIOS serial number.
    pub serial: String,
    /// SMBIOS UUID.
    pub uuid: Option<String>,
    /// What its TPM said of itself.
    pub tpm: TpmView,
    /// What switches it from outside; absent where nothing was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controls: Option<ControlsView>,
    /// First enrollment.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// Grows with every change; the `ETag`.
    pub version: u64,
    /// What it is made of; only where one machine is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<InventoryView>,
    /// How its drives are, those that it still has; only where one machine is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<DriveView>,
}

/// A difference that stands between a machine's network and what was confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Drift)]
pub struct DriftView {
    /// `reported`, `failed` where it could not be repaired, or `contested` where it is made anew after each repair.
    pub state: String,
    /// What would set it right, at most 16.
    pub differences: Vec<String>,
    /// Why it could not be repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whether a machine can be spoken with now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Presence)]
pub struct PresenceView {
    /// `online` or `offline`.
    pub state: String,
    /// Since when, where it is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Time>,
    /// The boot that is up, or was the last one seen.
    pub boot: Option<String>,
    /// Where the session comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// What a machine's TPM 2.0 said of itself when it enrolled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Tpm)]
pub struct TpmView {
    /// `absent`, `silent` where there is one that tells no key, or `claimed`: the machine says that it has this key, and
    /// nothing proves it.
    pub state: String,
    /// SHA-256 of the public area of its endorsement key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// How far a machine is with what it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Progress)]
pub struct ProgressView {
    /// `idle`, `applying`, `confirmed`, `refused`, `reverted` or `revert-failed`.
    pub state: String,
    /// Which generation this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// 0 to 100, while applying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// The step at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why it was not kept, in one word: see `reason` of an operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it did not come to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl MachineView {
    /// A machine in a list: without its inventory.
    pub fn short(state: &State, live: &dyn Live, machine: &Machine) -> Self {
        let presence = live.presence(machine.id);
        let inventory = state.inventories.get(&machine.id).map(|record| &record.inventory);
        let system = inventory.map(|inventory| &inventory.system);
        let (lifecycle, lease, operation) = match &machine.lifecycle {
            Lifecycle::Leased { lease } => ("leased", Some(lease.clone()), None),
            Lifecycle::Cleaning { operation } => ("cleaning", None, Some(operation.to_string())),
            other => (lifecycle(other), None, None),
        };
        let waits = matches!(machine.lifecycle, Lifecycle::Pending | Lifecycle::Rejected);
        let progress = match &presence {
            // An agent that has nothing to tell since its boot does not undo what was known, and one that refused the
            // newest generation goes on with the one before.
            Presence::Online(session) if session.progress.generation() >= machine.outcome.generation() => {
                &session.progress
            }
            _ => &machine.outcome,
        };
        Self {
            id: machine.id.to_string(),
            name: machine.name.clone(),
            location: machine.location.clone(),
            lifecycle: lifecycle.into(),
            standing: if waits { "pending" } else { "member" }.into(),
            claim: waits.then(|| machine.claim.clone()),
            may_be: machine.doubt.iter().filter_map(|id| Some(state.machines.get(id)?.name.clone())).collect(),
            has_parts_of: Some(machine)
                .filter(|_| waits)
                .and_then(|machine| identity::retired(state, &machine.identity))
                .map(|retired| retired.name.clone()),
            iso: Some(machine.iso.clone()).filter(|iso| !iso.is_empty()),
            lease,
            operation,
            maintenance: machine.maintenance == Maintenance::On,
            labels: machine.labels.clone(),
            generation: machine.generation.0,
            progress: progress.into(),
            on_drift: machine.drift.rule.word().into(),
            drift: DriftView::of(&machine.drift.found),
            troubled_arrays: inventory.map(troubled_arrays).unwrap_or_default(),
            troubled_disks: drives(state, machine).filter_map(DriveRecord::trouble).collect(),
            addresses: inventory.map(addresses).unwrap_or_default(),
            model: system.map(|s| format!("{} {}", s.vendor, s.product).trim().to_owned()).unwrap_or_default(),
            serial: system.map_or_else(|| machine.identity.system_serial.clone(), |s| s.serial.clone()),
            uuid: machine.identity.uuid.map(uuid),
            tpm: machine.identity.tpm.into(),
            controls: state.controls.get(&machine.id).and_then(ControlsView::of),
            created: Time(machine.created_unix_ms),
            version: machine.version,
            presence: PresenceView::of(presence, machine),
            inventory: None,
            drives: Vec::new(),
        }
    }

    /// All that is known.
    pub fn whole(state: &State, live: &dyn Live, machine: &Machine) -> Self {
        let inventory = state.inventories.get(&machine.id).map(Into::into);
        let drives = drives(state, machine).map(|drive| DriveView::short(state, drive)).collect();
        Self { inventory, drives, ..Self::short(state, live, machine) }
    }
}

/// A lifecycle as the API writes it.
pub fn lifecycle(lifecycle: &Lifecycle) -> &'static str {
    lifecycle.word()
}

/// The drives that the machine has.
fn drives<'a>(state: &'a State, machine: &Machine) -> impl Iterator<Item = &'a DriveRecord> + use<'a> {
    health::drives(state, machine.id).filter(|drive| health::is_there(state, drive))
}

fn troubled_arrays(inventory: &Inventory) -> Vec<String> {
    inventory.arrays.iter().filter(|array| array.is_troubled()).map(Array::in_words).collect()
}

fn addresses(inventory: &Inventory) -> Vec<String> {
    let of_nics = inventory.nics.iter().flat_map(|nic| &nic.addresses);
    let all = of_nics.chain(inventory.links.iter().flat_map(|link| &link.addresses));
    all.filter(|net| reaches(net)).map(ToString::to_string).collect()
}

impl DriftView {
    fn of(found: &Drift) -> Option<Self> {
        let why = match &found.end {
            DriftEnd::Failed { why } => Some(why.clone()),
            _ => None,
        };
        let view = Self { state: drift::word(&found.end).into(), differences: found.differences.clone(), why };
        found.is_standing().then_some(view)
    }
}

impl PresenceView {
    fn of(presence: Presence, machine: &Machine) -> Self {
        match presence {
            Presence::Online(session) => Self {
                state: "online".into(),
                since: Some(Time(session.since_unix_ms)),
                boot: Some(session.boot.to_string()),
                from: Some(session.from.to_string()),
                agent: Some(session.agent),
            },
            Presence::Offline { since_unix_ms } => Self {
                state: "offline".into(),
                since: since_unix_ms.map(Time),
                boot: machine.boot.map(|boot| boot.to_string()),
                from: None,
                agent: None,
            },
        }
    }
}

impl From<Tpm> for TpmView {
    fn from(tpm: Tpm) -> Self {
        let state = match tpm {
            Tpm::Absent => "absent",
            Tpm::Silent => "silent",
            Tpm::Claimed { .. } => "claimed",
        };
        Self { state: state.into(), key: tpm.key().map(|key| key.to_string()) }
    }
}

impl From<&Progress> for ProgressView {
    fn from(progress: &Progress) -> Self {
        let (state, percent, step, why) = match progress {
            Progress::Idle => ("idle", None, None, None),
            Progress::Applying { percent, step, .. } => ("applying", Some(*percent), Some(step.clone()), None),
            Progress::Confirmed { .. } => ("confirmed", None, None, None),
            Progress::Refused { why, .. } => ("refused", None, None, Some(why.clone())),
            Progress::Reverted { why, .. } => ("reverted", None, None, Some(why.clone())),
            Progress::RevertFailed { why, .. } => ("revert-failed", None, None, Some(why.clone())),
        };
        let reason = Outcome::of(progress, Times::default()).and_then(|outcome| outcome.ending.reason());
        let reason = reason.map(|reason| outcome::word(reason).into());
        Self { state: state.into(), generation: progress.generation().map(|g| g.0), percent, step, reason, why }
    }
}
