//! The controller itself: how it is, and the boot images it has.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use muster_ipxe::image::{self, Manifest, Part};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::{Page, Params, Problem, Refused, Viewer};
use crate::api::view::Time;
use crate::api::view::machine::lifecycle;
use crate::api::{Api, Presence};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(images))
}

/// How the controller and its fleet are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Status)]
struct StatusView {
    /// Of the controller.
    version: String,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    started: Time,
    /// SHA-256 of the CA's certificate.
    ca: String,
    /// Machines by lifecycle.
    machines: BTreeMap<String, usize>,
    /// Machines that can be spoken with now.
    online: usize,
    /// Operations that are not over.
    operations: usize,
    /// Number of the newest event.
    events: u64,
}

/// How the controller and its fleet are.
#[utoipa::path(get, path = "/status", tag = "controller", responses((status = 200, body = StatusView), Refused))]
async fn status(_: Viewer, State(api): State<Api>) -> Result<Json<StatusView>, Problem> {
    let state = api.fleet.state();
    let mut machines = BTreeMap::new();
    let mut online = 0;
    for machine in state.machines.iter() {
        *machines.entry(lifecycle(&machine.lifecycle).to_owned()).or_default() += 1;
        online += usize::from(matches!(api.live.presence(machine.id), Presence::Online(_)));
    }
    Ok(Json(StatusView {
        version: env!("CARGO_PKG_VERSION").into(),
        started: Time(api.site.started_unix_ms),
        ca: api.pki.fingerprint().to_string(),
        machines,
        online,
        operations: state.all_unfinished().count(),
        events: state.next_event() - 1,
    }))
}

/// A file's size and contents.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Part)]
struct PartView {
    /// Bytes.
    bytes: u64,
    /// SHA-256 in hex.
    sha256: String,
}

impl From<Part> for PartView {
    fn from(part: Part) -> Self {
        Self { bytes: part.bytes, sha256: part.sha256 }
    }
}

/// A boot image.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Image)]
struct ImageView {
    /// `uname -r` of the kernel.
    kernel_release: String,
    /// The kernel.
    kernel: PartView,
    /// The initramfs as it is handed out.
    initramfs: PartView,
    /// The initramfs as it lies in the machine's memory.
    unpacked: PartView,
    /// The agent in it.
    agent: PartView,
    /// What only storage needs, which machines fetch when a plan needs it.
    tools: PartView,
    /// Debian packages and their versions.
    packages: BTreeMap<String, String>,
    /// Kernel modules in it.
    modules: Vec<String>,
}

impl From<Manifest> for ImageView {
    fn from(manifest: Manifest) -> Self {
        Self {
            kernel_release: manifest.kernel_release,
            kernel: manifest.kernel.into(),
            initramfs: manifest.initramfs.into(),
            unpacked: manifest.unpacked.into(),
            agent: manifest.agent.into(),
            tools: manifest.tools.image.into(),
            packages: manifest.packages,
            modules: manifest.modules.into_iter().collect(),
        }
    }
}

/// The boot image that this controller hands out; none where it has not been built.
#[utoipa::path(get, path = "/images", tag = "controller",
    responses((status = 200, body = Page<ImageView>), Refused))]
async fn images(_: Viewer, State(api): State<Api>, params: Params) -> Result<Json<Page<ImageView>>, Problem> {
    params.finish()?;
    let folder = api.site.images.clone();
    // Few small files, but a disk may be slow.
    let found = tokio::task::spawn_blocking(move || image::read(&folder).ok()).await.ok().flatten();
    Ok(Json(Page { items: found.into_iter().map(Into::into).collect(), next: None }))
}
