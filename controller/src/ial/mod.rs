//! Cycle's Infrastructure Abstraction Layer under `/v1`: the fleet as a provider of servers.
//!
//! `server` mounts [`router`] and runs [`keep`] beside it. Providers' words (server, server model, pool) live here and are
//! translated at this edge; what they mean is decided in `fleet`.
//!
//! Cycle's documents contradict each other, and no client is public. So every reading is served that does no harm:
//! both names and both verbs of a call, bodies on GET or none, wrapped and flat bodies, slashes too many. There is never
//! a redirect, since some clients turn a redirected POST into a GET. Unknown keys are ignored; what Muster leaves out of
//! an answer is `null`.
//!
//! | file | what it is |
//! | --- | --- |
//! | `call` | a request as it arrives: body, credentials, fields and their checks |
//! | `answer` | the envelope and Cycle's error shape |
//! | `catalog` | verify, locations, server models, configure |
//! | `server` | provision, its status, restart, decommission |
//! | `address` | allocate, release |
//! | `keep` | looks after leases that wait |

mod address;
mod answer;
mod call;
mod catalog;
mod keep;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use muster_protocol::MachineId;

pub use answer::Envelope;
use answer::{Answer, Error};
use call::Call;
pub use keep::keep;

use crate::api::Live;
use crate::api::Presence::{Offline, Online};
use crate::fleet::{Author, Fleet};

/// Says whether a machine can be had now; never waits.
pub type Presence = Arc<dyn Fn(MachineId) -> bool + Send + Sync>;

/// A machine whose session ended this short a time ago is taken to be there: it dials again after every change of its
/// network and of its standing, and what it is told waits for it anyway.
const REDIAL: Duration = Duration::from_secs(15);

/// The [`Presence`] that the live sessions tell of.
pub fn presence(sessions: impl Live) -> Presence {
    Arc::new(move |machine| match sessions.presence(machine) {
        Online(_) => true,
        Offline { since_unix_ms } => since_unix_ms.is_some_and(|since| {
            let since = UNIX_EPOCH + Duration::from_millis(since);
            SystemTime::now().duration_since(since).is_ok_and(|gone| gone < REDIAL)
        }),
    })
}

/// The IAL of a fleet.
#[derive(Clone)]
struct Ial {
    fleet: Fleet,
    online: Presence,
    envelope: Envelope,
}

/// Everything under `/v1`. Answers other paths there with Cycle's own 404.
pub fn router(fleet: Fleet, online: Presence, envelope: Envelope) -> Router {
    // Paths are matched by hand, since the matcher of axum takes slashes at their word. A base URL that ends in a slash
    // gives a path that begins with two.
    let mut router = Router::new();
    for path in ["/v1", "/v1/", "/v1/{*rest}", "//v1", "//v1/", "//v1/{*rest}"] {
        router = router.route(path, any(serve));
    }
    router.with_state(Ial { fleet, online, envelope })
}

/// The ten calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Verify,
    Locations,
    Models,
    Configure,
    Provision,
    ProvisionStatus,
    Restart,
    Decommission,
    Allocate,
    Release,
}

impl Endpoint {
    /// By its path, whatever slashes are too many in it.
    fn at(uri: &Uri) -> Option<Self> {
        let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        match parts[..] {
            ["v1", "auth", "verify"] => Some(Self::Verify),
            ["v1", "location", "configure"] | ["v1", "infrastructure", "location", "configure"] => {
                Some(Self::Configure)
            }
            ["v1", "infrastructure", "provider", "locations"] => Some(Self::Locations),
            ["v1", "infrastructure", "provider", "server-models"] => Some(Self::Models),
            ["v1", "infrastructure", "server", "provision"] => Some(Self::Provision),
            ["v1", "infrastructure", "server", "provision-status" | "provision-check"] => Some(Self::ProvisionStatus),
            ["v1", "infrastructure", "server", "restart"] => Some(Self::Restart),
            ["v1", "infrastructure", "server", "decommission"] => Some(Self::Decommission),
            ["v1", "infrastructure", "ip", "allocate"] => Some(Self::Allocate),
            ["v1", "infrastructure", "ip", "release"] => Some(Self::Release),
            _ => None,
        }
    }

    /// Whether it is served by GET too: only what changes nothing.
    fn may_be_read(self) -> bool {
        match self {
            Self::Verify | Self::Locations | Self::Models | Self::ProvisionStatus => true,
            Self::Configure | Self::Provision | Self::Restart | Self::Decommission | Self::Allocate | Self::Release => {
                false
            }
        }
    }
}

async fn serve(State(ial): State<Ial>, request: Request<Body>) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = ial.answer(request).await;
    match &answer {
        Ok(_) => tracing::debug!(%method, path, "served to Cycle"),
        Err(error) => tracing::info!(%method, path, code = error.code, title = error.title, "refused to Cycle"),
    }
    ial.envelope.wrap(answer).into_response()
}

impl Ial {
    async fn answer(&self, request: Request<Body>) -> Answer {
        let endpoint = Endpoint::at(request.uri()).ok_or_else(|| Error::no_such_path(request.uri().path()))?;
        let method = request.method();
        if method != Method::POST && !(method == Method::GET && endpoint.may_be_read()) {
            return Err(
                Error::no_such_path(request.uri().path()).detail(format!("{method} is not served here; use POST"))
            );
        }
        let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let call = Call::read(request).await?;
        let ial = self;
        match endpoint {
            Endpoint::Verify => catalog::verify(ial, &call),
            Endpoint::Locations => catalog::locations(ial, &call),
            Endpoint::Models => catalog::models(ial, &call),
            Endpoint::ProvisionStatus => server::provision_status(ial, &call),
            Endpoint::Release => address::release(ial, &call, from).await,
            Endpoint::Configure => catalog::configure(ial, &call),
            Endpoint::Provision => server::provision(ial, &call, from).await,
            Endpoint::Restart => server::restart(ial, &call, from).await,
            Endpoint::Decommission => server::decommission(ial, &call, from).await,
            Endpoint::Allocate => address::allocate(ial, &call, from).await,
        }
    }

    /// Runs a change in the fleet on behalf of a hub; refusals point into the request.
    async fn change<T, F>(&self, hub: &str, from: Option<SocketAddr>, call: &Call, decide: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut crate::fleet::Draft) -> Result<T, crate::fleet::Refusal> + Send + 'static,
    {
        let author = Author { who: format!("ial:{hub}"), from };
        self.fleet.change(author, decide).await.map_err(|refusal| Error::of(refusal, call.at()))
    }
}
