//! Rollouts and their machines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;
use crate::fleet::State;
use crate::fleet::rollout::record::{Member, MemberState, Rollout, RolloutState};
use crate::fleet::rollout::waves::{Contact, Look, Tally, Waits};
use crate::fleet::rollout::{name, waves};
use muster_protocol::MachineId;

/// One template on its way over many machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Rollout)]
pub struct RolloutView {
    /// What it is called.
    pub number: u64,
    /// `running`, `paused`, `stopped`, `finished` or `cancelled`; `preparing` while its machines are being written.
    pub state: String,
    /// Why it has stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Which machines were selected.
    pub selector: String,
    /// SHA-256 of the template.
    pub template: String,
    /// The wave that is under way, 0 for the canary's.
    pub wave: u32,
    /// Machines of the first wave.
    pub canary: u32,
    /// Machines of each wave after it: a number, or a share like `25%`.
    pub wave_size: String,
    /// How long a wave's machines must have been in contact before the next one begins.
    pub soak_s: u64,
    /// Machines that may fail, those of the first wave excepted.
    pub max_failures: u32,
    /// How many machines there are.
    pub machines: u32,
    /// How many of them are how far.
    pub progress: ProgressView,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitsView>,
    /// Who asked.
    pub who: String,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Time>,
}

/// How many machines of a rollout are how far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RolloutProgress)]
pub struct ProgressView {
    /// Have not had their turn; what they have is what they had.
    pub waiting: usize,
    /// Have their desired states, and are at work.
    pub applying: usize,
    /// Have their desired states, and follow when they are back.
    pub offline: usize,
    /// Have confirmed.
    pub confirmed: usize,
    /// Have refused or reverted.
    pub failed: usize,
    /// Were so already.
    pub there: usize,
    /// Are in the rollout no more: somebody asked something else of them, or they were retired.
    pub left: usize,
}

/// What a rollout waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RolloutWaits)]
pub struct WaitsView {
    /// `canary`: a machine that is online; `machines`: those that are at work; `return`: one that confirmed and went
    /// away; `soak`: time.
    pub what: String,
    /// How many machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Name of one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Until then, if nothing comes in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Time>,
}

/// One machine of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RolloutMachine)]
pub struct MemberView {
    /// Its place in the rollout, counted from 1.
    pub place: u32,
    /// Id of the machine.
    pub machine: String,
    /// Its name.
    pub name: String,
    /// `waiting`, `applying`, `offline`, `confirmed`, `failed`, `there` or `left`, as in the rollout's `progress`.
    pub state: String,
    /// The wave in which it had its turn, 0 for the canary's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// The generation that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The operation that follows it, or did, until something else is desired of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Why it failed or left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl RolloutView {
    /// As it is now.
    pub fn of(state: &State, record: &Rollout, contact: &dyn Fn(MachineId) -> Contact, now_unix_ms: u64) -> Self {
        let look = waves::look(state, record, contact, now_unix_ms);
        Self {
            number: record.number,
            state: record.state.word().into(),
            why: match &record.state {
                RolloutState::Stopped { why } => Some(why.clone()),
                _ => None,
            },
            selector: record.selector.clone(),
            template: record.template.to_string(),
            wave: record.wave,
            canary: record.pace.canary,
            wave_size: record.pace.wave.to_string(),
            soak_s: record.pace.soak_ms / 1000,
            max_failures: record.pace.max_failures,
            machines: record.machines,
            progress: Tally::of(state, record, contact).into(),
            waits: waits(state, &look),
            who: record.who.clone(),
            created: Time(record.created_unix_ms),
            ended: record.ended_unix_ms.map(Time),
        }
    }
}

impl From<Tally> for ProgressView {
    fn from(tally: Tally) -> Self {
        let Tally { waiting, applying, offline, confirmed, failed, there, left } = tally;
        Self { waiting, applying, offline, confirmed, failed, there, left }
    }
}

fn waits(state: &State, look: &Look) -> Option<WaitsView> {
    let named = |what: &str, machine| WaitsView {
        what: what.into(),
        count: None,
        machine: Some(name(state, machine)),
        until: None,
    };
    match look.waits {
        Waits::Nothing => None,
        Waits::Canary => Some(WaitsView { what: "canary".into(), count: None, machine: None, until: None }),
        Waits::Machines { count, one } => Some(WaitsView { count: Some(count), ..named("machines", one) }),
        Waits::Return(machine) => Some(named("return", machine)),
        Waits::Soak { until_unix_ms } => {
            Some(WaitsView { what: "soak".into(), count: None, machine: None, until: Some(Time(until_unix_ms)) })
        }
    }
}

impl MemberView {
    /// As it is now.
    pub fn of(state: &State, record: &Member, contact: Contact) -> Self {
        let (wave, generation, why) = match &record.state {
            MemberState::Waiting { .. } | MemberState::There => (None, None, None),
            MemberState::Given { wave, generation, .. } | MemberState::Confirmed { wave, generation, .. } => {
                (Some(*wave), Some(generation.0), None)
            }
            MemberState::Failed { wave, generation, why } => (Some(*wave), Some(generation.0), Some(why.clone())),
            MemberState::Left { why } => (None, None, Some(why.clone())),
        };
        let desired = state.desired.get(&record.machine).filter(|desired| Some(desired.generation.0) == generation);
        Self {
            place: record.key.place,
            machine: record.machine.to_string(),
            name: name(state, record.machine),
            state: member_word(record, contact).into(),
            wave,
            generation,
            operation: desired.map(|desired| desired.operation.to_string()),
            why,
        }
    }
}

/// Every word of [`MemberView::state`].
pub const MEMBER_WORDS: [&str; 7] = ["waiting", "applying", "offline", "confirmed", "failed", "there", "left"];

/// A member's state as the API writes it.
pub fn member_word(member: &Member, contact: Contact) -> &'static str {
    match (&member.state, contact) {
        (MemberState::Waiting { .. }, _) => "waiting",
        (MemberState::Given { .. }, Contact::Online { .. }) => "applying",
        (MemberState::Given { .. }, Contact::Offline { .. }) => "offline",
        (MemberState::Confirmed { .. }, _) => "confirmed",
        (MemberState::Failed { .. }, _) => "failed",
        (MemberState::There, _) => "there",
        (MemberState::Left { .. }, _) => "left",
    }
}
