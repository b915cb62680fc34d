//! An operation: durable work and how far it is.

use muster_protocol::to_agent::PowerAction;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;
use crate::fleet::record::{Operation, OperationKind, OperationState};
use crate::fleet::{State, operation};

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Operation)]
pub struct OperationView {
    /// Its name.
    pub id: String,
    /// `apply`, `reboot`, `power-off`, `wipe`, `provision` or `decommission`.
    pub kind: String,
    /// What it does, in words.
    pub description: String,
    /// Id of the machine.
    pub machine: String,
    /// The machine's name, empty where it is not known any more.
    pub machine_name: String,
    /// The generation that it brings about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The disks that lose what they carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// The lease that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// Why it failed, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// 0 to 100.
    pub percent: u8,
    /// What happened so far.
    pub steps: Vec<StepView>,
    /// What proves that it was done; empty before.
    pub receipt: String,
    /// Who asked.
    pub who: String,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Time>,
}

/// One thing that happened in an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Step)]
pub struct StepView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// In words.
    pub text: String,
}

impl OperationView {
    /// As it is now.
    pub fn of(state: &State, record: &Operation) -> Self {
        let (error, word) = match &record.state {
            OperationState::Failed { why } => (Some(why.clone()), "failed"),
            other => (None, state_word(other)),
        };
        let (kind, generation, disks, lease) = match &record.kind {
            OperationKind::Apply { generation } => ("apply", Some(generation), &[][..], None),
            OperationKind::Power { action: PowerAction::Reboot, .. } => ("reboot", None, &[][..], None),
            OperationKind::Power { action: PowerAction::Off, .. } => ("power-off", None, &[][..], None),
            OperationKind::Wipe { disks } => ("wipe", None, &disks[..], None),
            OperationKind::Provision { generation, lease } => ("provision", Some(generation), &[][..], Some(lease)),
            OperationKind::Decommission { lease, disks, .. } => ("decommission", None, &disks[..], Some(lease)),
        };
        Self {
            id: record.id.to_string(),
            kind: kind.into(),
            description: operation::describe(&record.kind),
            machine: record.machine.to_string(),
            machine_name: state.machines.get(&record.machine).map(|m| m.name.clone()).unwrap_or_default(),
            generation: generation.map(|generation| generation.0),
            disks: disks.iter().map(ToString::to_string).collect(),
            lease: lease.cloned(),
            state: word.into(),
            error,
            percent: record.percent,
            steps: record
                .steps
                .iter()
                .map(|step| StepView { at: Time(step.at_unix_ms), text: step.text.clone() })
                .collect(),
            receipt: record.receipt.clone(),
            who: record.who.clone(),
            created: Time(record.created_unix_ms),
            ended: record.ended_unix_ms.map(Time),
        }
    }
}

/// A state as the API writes it.
pub fn state_word(state: &OperationState) -> &'static str {
    match state {
        OperationState::Queued => "queued",
        OperationState::Running => "running",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed { .. } => "failed",
        OperationState::Cancelled => "cancelled",
    }
}
