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
//! | `kept` | what the catalog told last, for as long as it holds |
//! | `presence` | who can be had now |
//! | `server` | provision, its status, restart, decommission |
//! | `address` | allocate, release |
//! | `takes` | what each call takes: the fields of its request |
//! | `openapi` | the OpenAPI document, made of `takes` and of the paths here |
//! | `keep` | looks after leases that wait |
//! | `check` | the mock Cycle, which plays the platform against any IAL server |

mod address;
mod answer;
mod call;
mod catalog;
pub mod check;
mod keep;
mod kept;
mod openapi;
mod presence;
mod server;
mod takes;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use muster_protocol::MachineId;

pub use answer::Envelope;
use answer::{Error, Told};
use call::{Call, Caller};
pub use keep::keep;
use kept::Kept;
pub use presence::{Presence, Present, There, presence};

use crate::api::http::failures::{Failures, RETRY_AFTER_S};
use crate::api::http::refusals::Refusals;
use crate::api::http::{RequestId, request};
use crate::fleet::{Draft, Fleet, Refusal};

/// The IAL of a fleet.
#[derive(Clone)]
struct Ial {
    fleet: Fleet,
    online: Presence,
    envelope: Envelope,
    refusals: Refusals,
    failures: Failures,
    openapi: Bytes,
    kept: Arc<Kept>,
}

/// Everything under `/v1`. Answers other paths there with Cycle's own 404.
///
/// The OpenAPI document of it is there too, without credentials: it tells nothing of the fleet.
pub fn router(fleet: Fleet, online: Presence, envelope: Envelope) -> Router {
    // Paths are matched by hand, since the matcher of axum takes slashes at their word. A base URL that ends in a slash
    // gives a path that begins with two.
    let mut router = Router::new();
    for path in ["/v1", "/v1/", "/v1/{*rest}", "//v1", "//v1/", "//v1/{*rest}"] {
        router = router.route(path, any(serve));
    }
    let refusals = Refusals::new(fleet.clone());
    let openapi = openapi::openapi(envelope).to_string().into();
    let (failures, kept) = (Failures::default(), Arc::default());
    router.with_state(Ial { fleet, online, envelope, refusals, failures, openapi, kept })
}

/// Where each call is: under each of the names that Cycle's documents give it.
const PATHS: &[(&str, Endpoint)] = &[
    ("/v1/auth/verify", Endpoint::Verify),
    ("/v1/infrastructure/provider/locations", Endpoint::Locations),
    ("/v1/infrastructure/provider/server-models", Endpoint::Models),
    ("/v1/location/configure", Endpoint::Configure),
    ("/v1/infrastructure/location/configure", Endpoint::Configure),
    ("/v1/infrastructure/server/provision", Endpoint::Provision),
    ("/v1/infrastructure/server/provision-status", Endpoint::ProvisionStatus),
    ("/v1/infrastructure/server/provision-check", Endpoint::ProvisionStatus),
    ("/v1/infrastructure/server/restart", Endpoint::Restart),
    ("/v1/infrastructure/server/decommission", Endpoint::Decommission),
    ("/v1/infrastructure/ip/allocate", Endpoint::Allocate),
    ("/v1/infrastructure/ip/release", Endpoint::Release),
];

/// Where the OpenAPI document is.
const OPENAPI: &str = "/v1/openapi.json";

fn is_at(uri: &Uri, path: &str) -> bool {
    fn parts(path: &str) -> impl Iterator<Item = &str> {
        path.split('/').filter(|part| !part.is_empty())
    }
    parts(uri.path()).eq(parts(path))
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
        PATHS.iter().find(|(path, _)| is_at(uri, path)).map(|(_, endpoint)| *endpoint)
    }

    /// By which it is served.
    fn verbs(self) -> &'static [&'static str] {
        if self.may_be_read() { &["GET", "POST"] } else { &["POST"] }
    }

    /// Whether it is served by GET too.
    fn may_be_read(self) -> bool {
        !self.changes() && self != Self::Configure
    }

    /// Whether something is other than before where it is not refused.
    fn changes(self) -> bool {
        match self {
            Self::Verify | Self::Locations | Self::Models | Self::ProvisionStatus | Self::Configure => false,
            Self::Provision | Self::Restart | Self::Decommission | Self::Allocate | Self::Release => true,
        }
    }
}

async fn serve(State(ial): State<Ial>, mut request: Request<Body>) -> Response {
    let id = RequestId::read(request.headers());
    request.extensions_mut().insert(id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if method == Method::GET && is_at(request.uri(), OPENAPI) {
        let headers =
            [(header::CONTENT_TYPE, HeaderValue::from_static("application/json")), (request::HEADER, id.header())];
        return (headers, ial.openapi).into_response();
    }
    let answer = ial.answer(request).await;
    match &answer {
        Ok(_) => tracing::debug!(request = %id, %method, path, "served to Cycle"),
        Err(error) => {
            tracing::info!(request = %id, %method, path, code = error.code, title = error.title, "refused to Cycle");
        }
    }
    let mut response = ial.envelope.wrap(answer).into_response();
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response.headers_mut().insert(request::HEADER, id.header());
    response
}

impl Ial {
    async fn answer(&self, request: Request<Body>) -> Result<Told, Error> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let endpoint = Endpoint::at(request.uri()).ok_or_else(|| Error::no_such_path(&path))?;
        if method != Method::POST && !(method == Method::GET && endpoint.may_be_read()) {
            return Err(Error::no_such_path(&path).detail(format!("{method} is not served here; use POST")));
        }
        let call = Call::read(request).await?;
        let caller = call.caller(&self.fleet.state());
        let answer = self.act(endpoint, &call).await;
        match (&answer, caller) {
            (Err(error), Ok(Caller::Hub(hub))) if endpoint.changes() => {
                self.refusals.note(call.author(&hub.name), &format!("{method} {path}"), &error.words()).await;
            }
            // Also where verify answers that they are wrong.
            (_, Err(_)) if self.failures.is_too_much(call.from()) => return Err(Error::too_many()),
            (Err(error), Ok(Caller::Nobody)) if error.status == 401 && self.failures.is_too_much(call.from()) => {
                return Err(Error::too_many());
            }
            _ => {}
        }
        answer
    }

    async fn act(&self, endpoint: Endpoint, call: &Call) -> Result<Told, Error> {
        let data = match endpoint {
            Endpoint::Locations => return catalog::locations(self, call).await,
            Endpoint::Models => return catalog::models(self, call).await,
            Endpoint::Verify => catalog::verify(self, call),
            Endpoint::ProvisionStatus => server::provision_status(self, call),
            Endpoint::Release => address::release(self, call).await,
            Endpoint::Configure => catalog::configure(self, call),
            Endpoint::Provision => server::provision(self, call).await,
            Endpoint::Restart => server::restart(self, call).await,
            Endpoint::Decommission => server::decommission(self, call).await,
            Endpoint::Allocate => address::allocate(self, call).await,
        };
        data.map(Told::Data)
    }

    /// Whether a machine can be had now.
    fn is_there(&self) -> impl Fn(MachineId) -> bool + Send + use<> {
        let online = Arc::clone(&self.online);
        move |machine| online.there(machine).is
    }

    /// Runs a change in the fleet on behalf of a hub; refusals point into the request.
    async fn change<T, F>(&self, hub: &str, call: &Call, decide: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft) -> Result<T, Refusal> + Send + 'static,
    {
        self.fleet.change(call.author(hub), decide).await.map_err(|refusal| Error::of(refusal, call.at()))
    }
}
