//! Locations: the sites that machines stand at.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use muster_ipxe::param::{BootUrl, ParamError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::machines::wipe::WipeLevel;
use crate::api::Api;
use crate::api::http::{Body, Operator, Page, Params, Problem, Refused, Segment, Viewer, etag};
use crate::fleet::lease::handover;
use crate::fleet::record::{Geographic, Lifecycle, Location, Machine};
use crate::fleet::{Refusal, location};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, put, remove))
        .routes(routes!(metadata, set_metadata))
}

/// A site.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Location)]
struct LocationView {
    /// Short and stable: `ber1`.
    code: String,
    /// For people.
    name: String,
    /// For maps, such as `BER`.
    abbreviation: String,
    /// Availability zones.
    zones: Vec<String>,
    /// City.
    city: String,
    /// State or province.
    state: String,
    /// Country.
    country: String,
    /// Region, such as `europe`.
    region: String,
    /// How thoroughly disks of machines here are wiped when a lease ends; `full` where nothing else is said.
    wipe: WipeLevel,
    /// What machines here start while they are leased, in the agent's place: an `http` or `https` URL of a boot script or
    /// program for iPXE, such as Cycle's. Empty where they go on with the agent.
    boot_target: String,
    /// Degrees, north is positive.
    latitude: f64,
    /// Degrees, east is positive.
    longitude: f64,
    /// Operators' own words.
    annotations: BTreeMap<String, String>,
    /// Machines that stand there, retired ones left out.
    machines: usize,
    /// Those of them whose boot media cannot hand them over to the boot target: they are not leased while there is one.
    held_by_media: usize,
}

/// What is said of a location. What is left out is empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct LocationBody {
    /// For people.
    name: String,
    /// For maps, such as `BER`.
    abbreviation: String,
    /// Availability zones.
    zones: Vec<String>,
    /// City.
    city: String,
    /// State or province.
    state: String,
    /// Country.
    country: String,
    /// Region, such as `europe`.
    region: String,
    /// How thoroughly disks of machines here are wiped when a lease ends; `full` where nothing else is said.
    wipe: WipeLevel,
    /// What machines here start while they are leased, in the agent's place: an `http` or `https` URL of a boot script or
    /// program for iPXE, such as Cycle's. Empty where they go on with the agent.
    boot_target: String,
    /// Degrees, north is positive.
    latitude: f64,
    /// Degrees, east is positive.
    longitude: f64,
    /// Operators' own words.
    annotations: BTreeMap<String, String>,
}

fn micro(degrees: f64) -> i32 {
    (degrees * 1e6).round() as i32
}

/// What leased machines of a location are told, by the metadata service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = LocationMetadata)]
#[serde(default, deny_unknown_fields)]
struct MetadataBody {
    /// OpenSSH public keys, 8 at most.
    ssh_keys: Vec<String>,
    /// For the first boot of whatever they start: cloud-init's `user-data`, 16 KiB at most.
    user_data: String,
}

/// What is said of a location; what its machines are told stays as it was.
fn record(code: String, body: LocationBody, told: MetadataBody) -> Result<Location, Refusal> {
    let target = Some(body.boot_target).filter(|url| !url.is_empty());
    let wrong = |error: ParamError| Refusal::invalid("boot_target", error.to_string());
    Ok(Location {
        code,
        name: body.name,
        geographic: Geographic {
            latitude_micro: micro(body.latitude),
            longitude_micro: micro(body.longitude),
            city: body.city,
            state: body.state,
            country: body.country,
            region: body.region,
        },
        abbreviation: body.abbreviation,
        zones: body.zones,
        wipe: body.wipe.into(),
        boot_target: target.map(BootUrl::try_from).transpose().map_err(wrong)?,
        ssh_keys: told.ssh_keys,
        user_data: told.user_data,
        annotations: body.annotations,
    })
}

fn view(api: &Api, record: &Location) -> LocationView {
    let state = api.fleet.state();
    let here = |m: &&Machine| m.location == record.code && m.lifecycle != Lifecycle::Retired;
    let held = |m: &&Machine| handover::held_by(&state, record, m).is_some();
    let Location { code, name, geographic, abbreviation, zones, wipe, boot_target, annotations, .. } = record.clone();
    LocationView {
        machines: state.machines.iter().filter(here).count(),
        held_by_media: state.machines.iter().filter(here).filter(held).count(),
        code,
        name,
        abbreviation,
        zones,
        wipe: wipe.into(),
        boot_target: boot_target.map(String::from).unwrap_or_default(),
        city: geographic.city,
        state: geographic.state,
        country: geographic.country,
        region: geographic.region,
        latitude: f64::from(geographic.latitude_micro) / 1e6,
        longitude: f64::from(geographic.longitude_micro) / 1e6,
        annotations,
    }
}

/// All locations, by code.
#[utoipa::path(get, path = "/locations", tag = "locations",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<LocationView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<LocationView>>, Problem> {
    let limit = params.limit()?;
    let cursor: String = params.cursor()?.unwrap_or_default();
    params.finish()?;
    let state = api.fleet.state();
    Ok(Json(Page::take(state.locations.after(&cursor), limit, |l| l.code.clone(), |l| view(&api, l))))
}

/// One location.
#[utoipa::path(get, path = "/locations/{code}", tag = "locations",
    params(("code" = String, Path)),
    responses((status = 200, body = LocationView), Refused))]
async fn show(_: Viewer, State(api): State<Api>, Segment(code): Segment) -> Result<impl IntoResponse, Problem> {
    let state = api.fleet.state();
    let record = state.locations.get(&code).ok_or(Refusal::NotFound { kind: "location", name: code })?;
    Ok((etag::header(&etag::of(record)), Json(view(&api, record))))
}

/// Makes a location, or says anew what it is.
#[utoipa::path(put, path = "/locations/{code}", tag = "locations", request_body = LocationBody,
    params(
        ("code" = String, Path, description = "1 to 32 lower-case letters, digits or hyphens"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
        ("If-None-Match" = Option<String>, Header, description = "`*` to make a new one only"),
    ),
    responses((status = 200, body = LocationView), Refused))]
async fn put(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(code): Segment,
    body: Body<LocationBody>,
) -> Result<impl IntoResponse, Problem> {
    let about = body.value;
    let record = api
        .fleet
        .change(caller.author, move |draft| {
            let before = draft.get::<Location>(&code).cloned();
            caller.condition.check("location", before.as_ref().map(etag::of).as_deref())?;
            let told = before.map(told).unwrap_or_default();
            location::put(draft, record(code, about, told)?)
        })
        .await?;
    Ok((etag::header(&etag::of(&record)), Json(view(&api, &record))))
}

fn told(record: Location) -> MetadataBody {
    MetadataBody { ssh_keys: record.ssh_keys, user_data: record.user_data }
}

/// What leased machines of a location are told. For operators: user data may hold secrets.
#[utoipa::path(get, path = "/locations/{code}/metadata", tag = "locations",
    params(("code" = String, Path)),
    responses((status = 200, body = MetadataBody), Refused))]
async fn metadata(_: Operator, State(api): State<Api>, Segment(code): Segment) -> Result<impl IntoResponse, Problem> {
    let state = api.fleet.state();
    let record = state.locations.get(&code).ok_or(Refusal::NotFound { kind: "location", name: code })?;
    Ok((etag::header(&etag::of(record)), Json(told(record.clone()))))
}

/// Says anew what leased machines of a location are told.
#[utoipa::path(put, path = "/locations/{code}/metadata", tag = "locations", request_body = MetadataBody,
    params(("code" = String, Path), ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen")),
    responses((status = 200, body = MetadataBody), Refused))]
async fn set_metadata(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(code): Segment,
    body: Body<MetadataBody>,
) -> Result<impl IntoResponse, Problem> {
    let MetadataBody { ssh_keys, user_data } = body.value;
    let record = api
        .fleet
        .change(caller.author, move |draft| {
            let before = draft.need::<Location>(&code)?;
            caller.condition.check("location", Some(&etag::of(&before)))?;
            location::put(draft, Location { ssh_keys, user_data, ..before })
        })
        .await?;
    Ok((etag::header(&etag::of(&record)), Json(told(record))))
}

/// Removes a location at which nothing stands.
#[utoipa::path(delete, path = "/locations/{code}", tag = "locations",
    params(("code" = String, Path), ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen")),
    responses((status = 204, description = "it is gone"), Refused))]
async fn remove(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(code): Segment,
) -> Result<StatusCode, Problem> {
    api.fleet
        .change(caller.author, move |draft| {
            let before = draft.need::<Location>(&code)?;
            caller.condition.check("location", Some(&etag::of(&before)))?;
            location::remove(draft, &code)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
