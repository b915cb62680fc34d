//! Wiping disks of a machine.

use axum::extract::State;
use axum::response::IntoResponse;
use clap::ValueEnum;
use muster_protocol::DiskId;
use muster_protocol::to_agent;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::{Body, Operator, Problem, Refused, Segment};
use crate::api::resource::desired::accepted;
use crate::api::view::operation::OperationView;
use crate::api::{Api, Presence};
use crate::fleet::operation::wipe;
use crate::fleet::{Refusal, machine};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(wipe_disks))
}

/// Which disks, and how thoroughly.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WipeBody {
    /// Each by its WWN or serial number, as the machine's inventory has it: `wwn:0x5000c500a1b2c3d4`.
    disks: Vec<String>,
    /// `full` where it is left out.
    #[serde(default)]
    level: WipeLevel,
}

/// How thoroughly disks are wiped. What a disk cannot do itself is done by overwriting it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WipeLevel {
    /// Seconds: what tells what is there is overwritten, at both ends of the disk and of each partition; the data stays
    Signatures,
    /// Seconds to minutes: all of it is discarded where the disk guarantees that it reads as zeros then
    Quick,
    /// Hours: all of it is overwritten with zeros
    #[default]
    Full,
    /// The disk erases itself, spare blocks included: NVMe sanitize or format, ATA secure erase
    Secure,
}

impl WipeLevel {
    /// Its name, for requests.
    pub fn word(self) -> &'static str {
        wipe::word(self.into())
    }
}

impl From<WipeLevel> for to_agent::WipeLevel {
    fn from(level: WipeLevel) -> Self {
        match level {
            WipeLevel::Signatures => Self::Signatures,
            WipeLevel::Quick => Self::Quick,
            WipeLevel::Full => Self::Full,
            WipeLevel::Secure => Self::Secure,
        }
    }
}

impl From<to_agent::WipeLevel> for WipeLevel {
    fn from(level: to_agent::WipeLevel) -> Self {
        match level {
            to_agent::WipeLevel::Signatures => Self::Signatures,
            to_agent::WipeLevel::Quick => Self::Quick,
            to_agent::WipeLevel::Full => Self::Full,
            to_agent::WipeLevel::Secure => Self::Secure,
        }
    }
}

/// Wipes disks of an available machine that is online. Cannot be undone.
///
/// The operation says how far it is, and ends with a receipt for each disk: method, bytes, bytes read back, duration.
#[utoipa::path(post, path = "/machines/{machine}/wipe", tag = "machines", request_body = WipeBody,
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
    ),
    responses((status = 202, body = OperationView), Refused))]
async fn wipe_disks(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<WipeBody>,
) -> Result<impl IntoResponse, Problem> {
    let id = machine::lookup(&api.fleet.state(), &name)?;
    let level = body.value.level.into();
    let read = |(i, text): (usize, &String)| {
        text.parse::<DiskId>().map_err(|e| Problem::invalid(format!("disks[{i}]"), e.to_string()))
    };
    let disks = body.value.disks.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let is_online = matches!(api.live.presence(id), Presence::Online(_));
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            let operation = wipe::wipe(draft, id, disks, level)?;
            // One that is repeated may find its machine away.
            if !is_online {
                return Err(Refusal::Offline);
            }
            Ok((operation.id.to_string(), operation.id.to_string()))
        })
        .await?;
    accepted(&api, outcome)
}
