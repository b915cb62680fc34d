//! The certificate authority: which CA signs, who trusts it, and how a fleet goes from one to the next.

use axum::Json;
use axum::extract::State;
use muster_protocol::Digest;
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::http::{Admin, Body, Caller, Operator, Problem, Refused, Viewer};
use crate::api::resource::machines::Nothing;
use crate::api::view::Time;
use crate::fleet::answered::Outcome;
use crate::fleet::enrollment::trust::{self, Lost};
use crate::fleet::{Draft, Refusal};
use crate::pki::{Change, Described, PkiError};

pub(in super::super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(boot)).routes(routes!(rotate)).routes(routes!(finish))
}

/// One CA.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Ca)]
struct CaView {
    /// SHA-256 of its certificate.
    fingerprint: String,
    /// Its common name.
    name: String,
    /// Good until.
    #[schema(value_type = String, format = DateTime)]
    expires: Time,
}

impl From<Described> for CaView {
    fn from(ca: Described) -> Self {
        let expires = Time(u64::try_from(ca.not_after_unix_s).unwrap_or_default().saturating_mul(1000));
        Self { fingerprint: ca.fingerprint.to_string(), name: ca.name, expires }
    }
}

/// The CAs in force, and who believes them.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Authority)]
struct AuthorityView {
    /// The one that signs.
    current: CaView,
    /// The one before, while machines leave it.
    before: Option<CaView>,
    /// Machines of the fleet that know only the one before.
    behind: usize,
    /// The names of the first hundred of them.
    behind_names: Vec<String>,
    /// The one that site ISOs pin for their UEFI machines; absent before the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<CaView>,
    /// The certificates of all CAs in force but that one, in PEM, as for `curl --cacert`.
    pem: String,
}

const NAMES: usize = 100;

impl AuthorityView {
    fn of(api: &Api) -> Self {
        let authority = api.pki.authority();
        let (current, before) = (authority.current(), authority.before());
        let state = api.fleet.state();
        let mut behind_names = Vec::new();
        if before.is_some() {
            behind_names.extend(trust::behind(&state, current.fingerprint).map(|machine| machine.name.clone()));
        }
        let behind = behind_names.len();
        behind_names.truncate(NAMES);
        let (before, boot) = (before.map(Into::into), api.pki.boot_made().map(|boot| boot.described().into()));
        Self { current: current.into(), before, behind, behind_names, boot, pem: authority.pem() }
    }
}

/// How to finish.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FinishBody {
    /// Do it even where machines know only the CA before; they have to boot again. `false` by default.
    #[serde(default)]
    force: bool,
}

/// The CAs in force, and who believes them.
#[utoipa::path(get, path = "/ca", tag = "controller", responses((status = 200, body = AuthorityView), Refused))]
async fn show(_: Viewer, State(api): State<Api>) -> Json<AuthorityView> {
    Json(AuthorityView::of(&api))
}

/// Makes the boot CA that site ISOs pin for their UEFI machines. Where there is one, nothing changes.
#[utoipa::path(post, path = "/ca/boot", tag = "controller", request_body = Nothing,
    responses((status = 200, body = AuthorityView), Refused))]
async fn boot(
    Operator(caller): Operator,
    State(api): State<Api>,
    _: Body<Nothing>,
) -> Result<Json<AuthorityView>, Problem> {
    let work = async move {
        if api.pki.boot_made().is_none() {
            let pki = api.pki.clone();
            let made = tokio::task::spawn_blocking(move || pki.boot()).await.map_err(broken)?.map_err(failed)?;
            let ca = made.described().fingerprint;
            let audit = move |draft: &mut Draft| {
                trust::boot_made(draft, ca);
                Ok(())
            };
            api.fleet.change(caller.author, audit).await?;
        }
        Ok(Json(AuthorityView::of(&api)))
    };
    tokio::spawn(work).await.map_err(broken)?
}

/// Makes a new CA, which signs from now on. The one before is trusted as well until that is ended by `/ca/finish`.
#[utoipa::path(post, path = "/ca/rotate", tag = "controller", request_body = Nothing,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 200, body = AuthorityView), Refused))]
async fn rotate(
    Admin(caller): Admin,
    State(api): State<Api>,
    body: Body<Nothing>,
) -> Result<Json<AuthorityView>, Problem> {
    let change = api.pki.rotation().map_err(failed)?;
    let decide = move |draft: &mut Draft| {
        let change = change.ok_or_else(|| {
            let problem = "the CA was changed a while ago and machines leave the one before; end that first, with \
                               muster ca finish";
            Refusal::Conflict(problem.into())
        })?;
        let [from, to] = [change.from(), change.to()].map(|authority| authority.current().fingerprint);
        trust::rotated(draft, from, to);
        Ok((change, to.to_string()))
    };
    carry_out(api, caller, body.digest, decide).await
}

/// Ends the trust in the CA before. Refused while machines of the fleet know only that one.
#[utoipa::path(post, path = "/ca/finish", tag = "controller", request_body = FinishBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 200, body = AuthorityView), Refused))]
async fn finish(
    Admin(caller): Admin,
    State(api): State<Api>,
    body: Body<FinishBody>,
) -> Result<Json<AuthorityView>, Problem> {
    let change = api.pki.end_of_overlap().map_err(failed)?;
    let lost = if body.value.force { Lost::Accept } else { Lost::Refuse };
    let decide = move |draft: &mut Draft| {
        let nothing = || Refusal::Conflict("there is no CA before that could be ended".into());
        let change = change.ok_or_else(nothing)?;
        let before = change.from().before().ok_or_else(nothing)?.fingerprint;
        let current = change.to().current().fingerprint;
        trust::ended(draft, before, current, lost)?;
        Ok((change, current.to_string()))
    };
    carry_out(api, caller, body.digest, decide).await
}

/// Once it is written down that a change is made, it is made: also where whoever asked hangs up meanwhile.
async fn carry_out<F>(api: Api, caller: Caller, body: Digest, decide: F) -> Result<Json<AuthorityView>, Problem>
where
    F: FnOnce(&mut Draft) -> Result<(Change, String), Refusal> + Send + 'static,
{
    let work = async move {
        if let Outcome::Done(change) = api.once(&caller, body, decide).await? {
            let pki = api.pki.clone();
            let committed = tokio::task::spawn_blocking(move || pki.commit(change)).await;
            committed.map_err(broken)?.map_err(failed)?;
        }
        Ok(Json(AuthorityView::of(&api)))
    };
    tokio::spawn(work).await.map_err(broken)?
}

fn broken(error: JoinError) -> Problem {
    Problem::internal("ca", error.to_string())
}

fn failed(error: PkiError) -> Problem {
    match error {
        PkiError::Overtaken => Problem::conflict("ca", error.to_string()),
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "the CA could not be changed");
            Problem::internal("ca", format!("nothing has changed: {error}"))
        }
    }
}
