//! Policies: rules by which machines are approved without an operator's hand.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use muster_protocol::Mac;
use muster_protocol::ids::parse_uuid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::http::{Body, Operator, Page, Params, Problem, Refused, Segment, Viewer, when};
use crate::api::view::{Time, uuid};
use crate::clock::now_unix_ms;
use crate::fleet::answered::Outcome;
use crate::fleet::policy::{self, Conditions};
use crate::fleet::record::{Hardware, IsoRule, Policy};
use crate::fleet::{Refusal, State as FleetState};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete))
}

/// What an ISO is called that may be any of them.
const ANY: &str = "any";

/// A rule by which machines are approved. All that it names must hold.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Policy)]
struct PolicyView {
    /// For people; unique.
    name: String,
    /// Only machines at the location with this code; everywhere where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    /// Only machines with one of these system or board serials, or one of `uuids` or `macs`.
    serials: Vec<String>,
    /// Or one of these SMBIOS UUIDs.
    uuids: Vec<String>,
    /// Or one of these MACs.
    macs: Vec<String>,
    /// Only machines that started from the ISO with this id, or from `any` whose credential is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    iso: Option<String>,
    /// At most so many machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    machines: Option<u32>,
    /// Nobody after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Time>,
    /// Has approved so many.
    approved: u32,
    /// Made.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
}

impl From<&Policy> for PolicyView {
    fn from(policy: &Policy) -> Self {
        let (mut serials, mut uuids, mut macs) = (Vec::new(), Vec::new(), Vec::new());
        for hardware in &policy.hardware {
            match hardware {
                Hardware::Serial(serial) => serials.push(serial.clone()),
                Hardware::Uuid(bytes) => uuids.push(uuid(*bytes)),
                Hardware::Mac(mac) => macs.push(mac.to_string()),
            }
        }
        Self {
            name: policy.name.clone(),
            location: Some(policy.location.clone()).filter(|code| !code.is_empty()),
            serials,
            uuids,
            macs,
            iso: match &policy.iso {
                IsoRule::Unasked => None,
                IsoRule::Any => Some(ANY.into()),
                IsoRule::Only(id) => Some(id.clone()),
            },
            machines: policy.machines,
            until: policy.until_unix_ms.map(Time),
            approved: policy.approved,
            created: Time(policy.created_unix_ms),
        }
    }
}

/// A policy to make. It must name hardware or an ISO, or else both `machines` and `until`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PolicyBody {
    /// 1 to 32 lower-case letters, digits or hyphens; unique.
    name: String,
    /// Only machines at the location with this code.
    location: Option<String>,
    /// Only machines with one of these system or board serials, or one of `uuids` or `macs`; at most 1,000 in all.
    #[serde(default)]
    serials: Vec<String>,
    /// Or one of these SMBIOS UUIDs.
    #[serde(default)]
    uuids: Vec<String>,
    /// Or one of these MACs.
    #[serde(default)]
    macs: Vec<String>,
    /// Only machines that started from the ISO with this id, or from `any` whose credential is good.
    iso: Option<String>,
    /// At most so many machines.
    machines: Option<u32>,
    /// Nobody after this time: a span like `12h` or `7d`, a date, or a time.
    until: Option<String>,
}

impl PolicyBody {
    fn conditions(self) -> Result<Conditions, Problem> {
        let mut hardware: Vec<Hardware> =
            self.serials.into_iter().map(|serial| Hardware::Serial(serial.trim().to_owned())).collect();
        for text in self.uuids {
            let bytes = parse_uuid(&text).ok_or_else(|| Problem::invalid("uuids", format!("{text:?} is no UUID")))?;
            hardware.push(Hardware::Uuid(bytes));
        }
        for text in self.macs {
            let mac = text.parse::<Mac>().map_err(|e| Problem::invalid("macs", e.to_string()))?;
            hardware.push(Hardware::Mac(mac));
        }
        let until = self.until.map(|text| when::future("until", &text, now_unix_ms())).transpose()?;
        Ok(Conditions {
            name: self.name,
            location: self.location.unwrap_or_default(),
            hardware,
            iso: match self.iso {
                None => IsoRule::Unasked,
                Some(word) if word == ANY => IsoRule::Any,
                Some(id) => IsoRule::Only(id),
            },
            machines: self.machines,
            until_unix_ms: until.map(|time| time.0),
        })
    }
}

/// All policies, by name.
#[utoipa::path(get, path = "/policies", tag = "machines",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<PolicyView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<PolicyView>>, Problem> {
    let limit = params.limit()?;
    let cursor: String = params.cursor()?.unwrap_or_default();
    params.finish()?;
    let state = api.fleet.state();
    Ok(Json(Page::take(state.policies.after(&cursor), limit, |p| p.name.clone(), Into::into)))
}

/// One policy.
#[utoipa::path(get, path = "/policies/{name}", tag = "machines",
    params(("name" = String, Path)),
    responses((status = 200, body = PolicyView), Refused))]
async fn show(_: Viewer, State(api): State<Api>, Segment(name): Segment) -> Result<Json<PolicyView>, Problem> {
    view(&api.fleet.state(), name)
}

fn view(state: &FleetState, name: String) -> Result<Json<PolicyView>, Problem> {
    Ok(Json(state.policies.get(&name).ok_or(Refusal::NotFound { kind: "policy", name })?.into()))
}

/// Makes a policy, and approves those for whom it was made and who wait already.
#[utoipa::path(post, path = "/policies", tag = "machines", request_body = PolicyBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 201, body = PolicyView), Refused))]
async fn create(
    Operator(caller): Operator,
    State(api): State<Api>,
    body: Body<PolicyBody>,
) -> Result<impl IntoResponse, Problem> {
    let conditions = body.value.conditions()?;
    let outcome = api
        .once(&caller, body.digest, move |draft| policy::create(draft, conditions).map(|p| (p.name.clone(), p.name)))
        .await?;
    let (Outcome::Done(name) | Outcome::Repeated { subject: name }) = outcome;
    Ok((StatusCode::CREATED, view(&api.fleet.state(), name)?))
}

/// Takes a policy away. Whom it approved stays in.
#[utoipa::path(delete, path = "/policies/{name}", tag = "machines",
    params(("name" = String, Path)),
    responses((status = 204, description = "it is gone"), Refused))]
async fn delete(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    api.fleet.change(caller.author, move |draft| policy::delete(draft, &name)).await?;
    Ok(StatusCode::NO_CONTENT)
}
