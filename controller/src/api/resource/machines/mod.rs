//! Machines: who is there, and what operators decide about them.

mod controls;
mod disks;
mod power;
pub(super) mod wipe;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use muster_protocol::drift::OnDrift;
use muster_protocol::{Digest, MachineId};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::{Body, Caller, Operator, Page, Params, Problem, Refused, Segment, Viewer, etag};
use crate::api::view::machine::{MachineView, lifecycle};
use crate::api::{Api, Presence};
use crate::fleet::answered::Outcome;
use crate::fleet::operation::drift::{self, DriftRule};
use crate::fleet::record::{Machine, Maintenance};
use crate::fleet::{Draft, Refusal, State as FleetState, enrollment, location, machine};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, change))
        .routes(routes!(approve))
        .routes(routes!(reject))
        .routes(routes!(retire))
        .routes(routes!(resolve))
        .merge(controls::router())
        .merge(disks::router())
        .merge(power::router())
        .merge(wipe::router())
}

/// All machines, in the order of their ids.
#[utoipa::path(get, path = "/machines", tag = "machines",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("lifecycle" = Option<String>, Query, description = "only these: `pending`, `available`, …"),
        ("presence" = Option<String>, Query, description = "only these: `online` or `offline`"),
        ("location" = Option<String>, Query, description = "only those at the location with this code"),
        ("label" = Option<String>, Query, description = "only those with this label: `key` or `key=value`"),
        ("iso" = Option<String>, Query, description = "only those that last started from the ISO with this id"),
    ),
    responses((status = 200, body = Page<MachineView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<MachineView>>, Problem> {
    let limit = params.limit()?;
    let cursor: Option<MachineId> = params.cursor()?;
    let state = api.fleet.state();
    let filter = Filter::read(&mut params, &state)?;
    params.finish()?;
    let from = cursor.unwrap_or(MachineId::from_bytes([0; 16]));
    let machines = state.machines.after(&from).filter(|machine| filter.takes(&api, machine));
    Ok(Json(Page::take(machines, limit, |m| m.id.to_string(), |m| MachineView::short(&state, &*api.live, m))))
}

struct Filter {
    lifecycle: Option<String>,
    online: Option<bool>,
    location: Option<String>,
    label: Option<String>,
    iso: Option<String>,
}

impl Filter {
    fn read(params: &mut Params, state: &FleetState) -> Result<Self, Problem> {
        const LIFECYCLES: [&str; 6] = ["pending", "rejected", "available", "leased", "cleaning", "retired"];
        let lifecycle = params.text("lifecycle");
        if let Some(word) = lifecycle.as_deref().filter(|word| !LIFECYCLES.contains(word)) {
            return Err(Problem::invalid(
                "lifecycle",
                format!("must be one of {}, and is {word:?}", LIFECYCLES.join(", ")),
            ));
        }
        let online = match params.text("presence").as_deref() {
            None => None,
            Some("online") => Some(true),
            Some("offline") => Some(false),
            Some(other) => {
                return Err(Problem::invalid("presence", format!("must be online or offline, and is {other:?}")));
            }
        };
        let location = params.text("location");
        if let Some(code) = location.as_deref().filter(|code| !code.is_empty()) {
            location::choose(state, "location", code)?;
        }
        let iso = params.text("iso");
        if let Some(id) = iso.as_ref().filter(|id| state.isos.get(id).is_none()) {
            return Err(Problem::invalid("iso", format!("there is no ISO {id:?}; `muster iso list` shows them")));
        }
        Ok(Self { lifecycle, online, location, label: params.text("label"), iso })
    }

    fn takes(&self, api: &Api, machine: &Machine) -> bool {
        let is_online = || matches!(api.live.presence(machine.id), Presence::Online(_));
        let has_label = |label: &str| match label.split_once('=') {
            Some((key, value)) => machine.labels.get(key).is_some_and(|has| has == value),
            None => machine.labels.contains_key(label),
        };
        self.lifecycle.as_deref().is_none_or(|word| word == lifecycle(&machine.lifecycle))
            && self.location.as_deref().is_none_or(|code| code == machine.location)
            && self.label.as_deref().is_none_or(has_label)
            && self.iso.as_deref().is_none_or(|id| id == machine.iso)
            && self.online.is_none_or(|online| online == is_online())
    }
}

/// One machine with its inventory. `{machine}` is an id, the beginning of one that no other has, or a name.
#[utoipa::path(get, path = "/machines/{machine}", tag = "machines",
    params(("machine" = String, Path, description = "id, unique beginning of an id, or name")),
    responses((status = 200, body = MachineView), Refused))]
async fn show(_: Viewer, State(api): State<Api>, Segment(name): Segment) -> Result<impl IntoResponse, Problem> {
    let id = machine::lookup(&api.fleet.state(), &name)?;
    answer(&api, id)
}

/// What changes about a machine; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MachineChange {
    /// 1 to 63 letters, digits, `-`, `.`; unique.
    name: Option<String>,
    /// Sets labels; `null` removes one.
    #[serde(default)]
    labels: BTreeMap<String, Option<String>>,
    /// Leaves it out of leases, or takes it in again.
    maintenance: Option<bool>,
    /// What it does where somebody changes its network by hand; `default` is what the controller's configuration says.
    on_drift: Option<DriftWish>,
}

/// What a machine does where somebody changes its network by hand.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum DriftWish {
    /// As configured.
    Default,
    /// Makes it as it was confirmed.
    Repair,
    /// Leaves it, and tells.
    Report,
}

/// Renames, labels, leaves out of leases, or says what it does about drift.
#[utoipa::path(patch, path = "/machines/{machine}", tag = "machines", request_body = MachineChange,
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 200, body = MachineView), Refused))]
async fn change(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<MachineChange>,
) -> Result<impl IntoResponse, Problem> {
    let MachineChange { name: new_name, labels, maintenance, on_drift } = body.value;
    decide(&api, caller, name, body.digest, move |draft, id| {
        if let Some(new_name) = new_name {
            machine::rename(draft, id, &new_name)?;
        }
        if !labels.is_empty() {
            machine::label(draft, id, labels)?;
        }
        if let Some(wish) = on_drift {
            let rule = match wish {
                DriftWish::Default => DriftRule::AsConfigured,
                DriftWish::Repair => DriftRule::Always(OnDrift::Repair),
                DriftWish::Report => DriftRule::Always(OnDrift::Report),
            };
            drift::set(draft, id, rule)?;
        }
        match maintenance {
            Some(true) => machine::maintain(draft, id, Maintenance::On),
            Some(false) => machine::maintain(draft, id, Maintenance::Off),
            None => draft.need(&id),
        }
    })
    .await
}

/// Nothing needs to be said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api::resource) struct Nothing {}

macro_rules! decisions {
    ($($(#[$doc:meta])* $name:ident: $path:literal;)*) => {$(
        $(#[$doc])*
        #[utoipa::path(post, path = $path, tag = "machines",
            params(
                ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
                ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
                ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
            ),
            responses((status = 200, body = MachineView), Refused))]
        async fn $name(
            Operator(caller): Operator,
            State(api): State<Api>,
            Segment(name): Segment,
            body: Body<Nothing>,
        ) -> Result<impl IntoResponse, Problem> {
            decide(&api, caller, name, body.digest, machine::$name).await
        }
    )*};
}

decisions! {
    /// Lets a pending or rejected machine in.
    approve: "/machines/{machine}/approve";
    /// Keeps a pending machine out.
    reject: "/machines/{machine}/reject";
    /// Takes a machine out of the fleet for good.
    retire: "/machines/{machine}/retire";
}

/// Which machine a box in doubt is. One of both is said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Resolution {
    /// It is this machine: id, unique beginning of an id, or name.
    same_as: Option<String>,
    /// It is a machine of its own.
    #[serde(default)]
    separate: bool,
}

/// Says which machine a box is whose hardware leaves a doubt.
///
/// With `same_as` the box becomes that machine, which must be offline: two live machines are never merged; the answer is
/// that machine. With `separate` it waits for approval as a machine of its own.
#[utoipa::path(post, path = "/machines/{machine}/resolve", tag = "machines", request_body = Resolution,
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
    ),
    responses((status = 200, body = MachineView), Refused))]
async fn resolve(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<Resolution>,
) -> Result<impl IntoResponse, Problem> {
    let other = match (body.value.same_as, body.value.separate) {
        (Some(other), false) => Some(machine::lookup(&api.fleet.state(), &other)?),
        (None, true) => None,
        _ => return Err(Problem::invalid("same_as", "say either same_as with a machine, or separate with true")),
    };
    let live = api.live.clone();
    decide(&api, caller, name, body.digest, move |draft, id| match other {
        // Asked inside the change: it may come while this waits for the writer.
        Some(other) => enrollment::same_as(draft, id, other, live.alive(other)),
        None => enrollment::separate(draft, id),
    })
    .await
}

async fn decide<F>(
    api: &Api,
    caller: Caller,
    name: String,
    body: Digest,
    change: F,
) -> Result<impl IntoResponse + use<F>, Problem>
where
    F: FnOnce(&mut Draft, MachineId) -> Result<Machine, Refusal> + Send + 'static,
{
    let condition = caller.condition.clone();
    let outcome = api
        .once(&caller, body, move |draft| {
            let id = machine::lookup(draft.state(), &name)?;
            let before: Machine = draft.need(&id)?;
            condition.check("machine", Some(&before.version.to_string()))?;
            change(draft, id).map(|machine| (machine.id, machine.id.to_string()))
        })
        .await?;
    let id = match outcome {
        Outcome::Done(id) => id,
        Outcome::Repeated { subject } => machine::lookup(&api.fleet.state(), &subject)?,
    };
    answer(api, id)
}

fn answer(api: &Api, id: MachineId) -> Result<impl IntoResponse + use<>, Problem> {
    let state = api.fleet.state();
    let not_found = || Problem::not_found("machine", format!("there is no machine {id}"));
    let machine = state.machines.get(&id).ok_or_else(not_found)?;
    let view = MachineView::whole(&state, &*api.live, machine);
    Ok((etag::header(&view.version.to_string()), Json(view)))
}
