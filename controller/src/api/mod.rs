//! The operator API under `/api/v1`.
//!
//! `server` mounts [`router`]. Reading takes the fleet's newest state; changing goes through the fleet's writer, and is
//! answered when it is durable. Nothing here speaks with agents but through [`Live`], and only to ask.
//!
//! | part | what it is |
//! | --- | --- |
//! | `http/` | what all resources share: who calls, bodies, pages, ETags, problem documents |
//! | `view/` | the shapes of the JSON |
//! | `resource/` | one file per resource: its routes and what they do |

pub mod http;
mod live;
mod resource;
pub mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware;
use muster_protocol::Digest;

use crate::fleet::answered::{Outcome, once};
use crate::fleet::{Draft, Fleet, Refusal};
use crate::pki::Pki;
use http::door::{self, Door};
use http::{Caller, Problem};
pub use live::{Alive, CallError, Live, Presence, Session, contacts};
pub use resource::{ReservationView, WipeLevel, openapi};

/// Where the API lives.
pub const PREFIX: &str = "/api/v1";

/// What the API is made of; clones are the same.
#[derive(Clone)]
pub struct Api {
    /// What is known and wanted.
    pub fleet: Fleet,
    /// Who is there.
    pub live: Arc<dyn Live>,
    /// Whom machines trust.
    pub pki: Arc<Pki>,
    /// What the operator configured.
    pub site: Arc<Site>,
}

/// What the API tells of this controller.
#[derive(Debug, Clone)]
pub struct Site {
    /// `host:port` that agents dial; where empty, the host that the request was made to and `agents_port`.
    pub controllers: Vec<String>,
    /// UDP port of the agents' listener.
    pub agents_port: u16,
    /// How long a ticket made by an operator is good.
    pub ticket_lifetime: Duration,
    /// Where the boot image lies.
    pub images: PathBuf,
    /// When this controller started.
    pub started_unix_ms: u64,
}

impl FromRef<Api> for Fleet {
    fn from_ref(api: &Api) -> Fleet {
        api.fleet.clone()
    }
}

/// The routes, their paths beginning with [`PREFIX`]. Every answer below it that is no success is a problem document.
///
/// The audit log names the peer where requests carry an `axum::extract::ConnectInfo<SocketAddr>` extension.
pub fn router(api: Api) -> Router {
    let door = Door::new(api.fleet.clone());
    let inner = resource::router()
        .0
        .fallback(|| async { Problem::not_found("path", "there is nothing here; see /api/v1/openapi.json") })
        .method_not_allowed_fallback(|| async {
            Problem::method_not_allowed("method", "this method does nothing here; see /api/v1/openapi.json")
        })
        .layer(middleware::from_fn_with_state(door, door::pass))
        .with_state(api);
    Router::new().nest(PREFIX, inner)
}

impl Api {
    /// Runs a change at most once for each `Idempotency-Key`; `body` is the digest of what was sent.
    ///
    /// `decide` answers its value and the subject, from which a repetition is answered.
    async fn once<T, F>(&self, caller: &Caller, body: Digest, decide: F) -> Result<Outcome<T>, Problem>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft) -> Result<(T, String), Refusal> + Send + 'static,
    {
        let key = caller.request_key(body);
        let author = caller.author.clone();
        Ok(self.fleet.change(author, move |draft| once(draft, key, decide)).await?)
    }
}
