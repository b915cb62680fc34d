//! An operation: durable work and how far it is.

use muster_protocol::hello::Times;
use muster_protocol::to_agent::PowerAction;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;
use crate::fleet::State;
use crate::fleet::machine::controls::Switch;
use crate::fleet::operation::{self, outcome};
use crate::fleet::record::{Operation, OperationKind, OperationState};

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Operation)]
pub struct OperationView {
    /// Its name.
    pub id: String,
    /// `apply`, `reboot`, `power-off`, `power-on`, `power-cycle`, `wipe`, `provision` or `decommission`.
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
    /// How the machine came out of it: `confirmed`, `reverted` or `revert-failed`; `superseded` where another document took
    /// its place before the machine began. Absent until it has, and where nothing of its configuration was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why the change was not kept: `no-carrier`, `no-lease`, `no-gateway`, `no-route`, `controller-silent`,
    /// `verify-differs`, `duplicate-address`, `step-failed` or `interrupted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took the machine; absent where it has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<TimesView>,
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

/// How long the phases of a change took on its machine, in milliseconds; 0 where there was no such phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Times)]
pub struct TimesView {
    /// Storage, and what was made beside the present way to the controller.
    pub make_ms: u32,
    /// Until the controller had answered over the new way for long enough, the present one still being there.
    pub prove_beside_ms: u32,
    /// The rest of the steps.
    pub switch_ms: u32,
    /// Until what was read back was what is desired.
    pub verify_ms: u32,
    /// Until the controller had answered, or was given up.
    pub prove_ms: u32,
    /// Until all was as before.
    pub revert_ms: u32,
    /// All of them.
    pub total_ms: u64,
}

impl TimesView {
    fn of(times: Times) -> Option<Self> {
        let Times { make_ms, prove_beside_ms, switch_ms, verify_ms, prove_ms, revert_ms } = times;
        let total_ms = outcome::total_ms(times);
        let view = Self { make_ms, prove_beside_ms, switch_ms, verify_ms, prove_ms, revert_ms, total_ms };
        (total_ms > 0).then_some(view)
    }
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
            OperationKind::Wipe { disks, .. } => ("wipe", None, &disks[..], None),
            OperationKind::Provision { generation, lease } => ("provision", Some(generation), &[][..], Some(lease)),
            OperationKind::Decommission { lease, disks, .. } => ("decommission", None, &disks[..], Some(lease)),
            OperationKind::Switch { action: Switch::On, .. } => ("power-on", None, &[][..], None),
            OperationKind::Switch { action: Switch::Off, .. } => ("power-off", None, &[][..], None),
            OperationKind::Switch { action: Switch::Restart, .. } => ("reboot", None, &[][..], None),
            OperationKind::Switch { action: Switch::Cycle, .. } => ("power-cycle", None, &[][..], None),
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
            outcome: record.outcome.map(|outcome| outcome.ending.word().into()),
            reason: record.outcome.and_then(|outcome| outcome.ending.reason()).map(|why| outcome::word(why).into()),
            times: record.outcome.and_then(|outcome| TimesView::of(outcome.times)),
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
