//! What switches a machine from outside: its BMC, a smart outlet, and NICs that wake it.
//!
//! Passwords, and URLs that may have some in them, are taken and never told again.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use muster_protocol::Digest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::decide;
use crate::api::Api;
use crate::api::http::{Body, Caller, Operator, Params, Problem, Refused, Segment};
use crate::api::view::machine::MachineView;
use crate::fleet::machine::controls::{self, BmcAddress, Hooks, Method, Trust, Wake};
use crate::fleet::record::Machine;
use crate::fleet::{Draft, Refusal, machine};
use crate::pki::DiskSeal;
use crate::power;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(set_bmc, forget_bmc))
        .routes(routes!(set_outlet, forget_outlet))
        .routes(routes!(wake))
        .routes(routes!(certificate))
}

/// Where a machine's BMC is, who it must be, and how to sign in. One of `redfish` and `ipmi` is said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BmcBody {
    /// `https://` and the host of a BMC that speaks Redfish.
    redfish: Option<String>,
    /// Redfish's id of the system, where the BMC has several and none of them has the machine's UUID.
    #[serde(default)]
    system: String,
    /// SHA-256 of the BMC's certificate, 64 hex digits: then it must show that one.
    fingerprint: Option<String>,
    /// CAs in PEM: then it must show a certificate for its name by one of them.
    ca: Option<String>,
    /// It must show a certificate for its name by a CA that the controller's host trusts.
    #[serde(default)]
    system_cas: bool,
    /// Name or address of a BMC that speaks IPMI 2.0 over LAN.
    ipmi: Option<String>,
    /// IPMI's UDP port, 623 where it is left out.
    port: Option<u16>,
    /// Who signs in.
    user: String,
    /// With what. Never told again.
    #[schema(write_only)]
    password: String,
}

impl BmcBody {
    fn address(&self) -> Result<BmcAddress, Problem> {
        match (&self.redfish, &self.ipmi) {
            (Some(url), None) => {
                if self.port.is_some() {
                    return Err(Problem::invalid("port", "is for IPMI; Redfish's stands in its URL"));
                }
                let url = url.trim_end_matches('/').to_owned();
                Ok(BmcAddress::Redfish { url, system: self.system.clone(), trust: self.trust()? })
            }
            (None, Some(host)) => {
                if self.fingerprint.is_some() || self.ca.is_some() || self.system_cas || !self.system.is_empty() {
                    let problem = "IPMI knows no certificates and one system alone; leave out fingerprint, ca, \
                                   system_cas and system";
                    return Err(Problem::invalid("ipmi", problem));
                }
                Ok(BmcAddress::Ipmi { host: host.clone(), port: self.port.unwrap_or(623) })
            }
            _ => Err(Problem::invalid("redfish", "say one of redfish, with a URL, and ipmi, with a host")),
        }
    }

    fn trust(&self) -> Result<Trust, Problem> {
        match (&self.fingerprint, &self.ca, self.system_cas) {
            (Some(text), None, false) => {
                // As openssl and BMCs themselves write it.
                let plain = text.replace(':', "").to_ascii_lowercase();
                let digest = plain.parse::<Digest>();
                let digest = digest.map_err(|_| Problem::invalid("fingerprint", "must be a SHA-256, 64 hex digits"))?;
                Ok(Trust::Pinned(digest))
            }
            (None, Some(pem), false) => Ok(Trust::Cas(pem.clone())),
            (None, None, true) => Ok(Trust::System),
            _ => {
                let problem = "say by what the BMC is known: one of fingerprint, ca and system_cas. \
                               GET /bmc/certificate tells the fingerprint of what it shows now";
                Err(Problem::invalid("fingerprint", problem))
            }
        }
    }
}

/// Names the BMC that switches a machine, in place of the one before. Nothing is asked of it yet.
#[utoipa::path(put, path = "/machines/{machine}/bmc", tag = "power", request_body = BmcBody,
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 200, body = MachineView), Refused))]
async fn set_bmc(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<BmcBody>,
) -> Result<impl IntoResponse, Problem> {
    let (address, seal) = (body.value.address()?, seal(&api)?);
    let BmcBody { user, password, .. } = body.value;
    decide(&api, caller, name, body.digest, move |draft, id| {
        controls::set_bmc(draft, &seal, id, address, &user, &password)
    })
    .await
}

/// The certificate that a BMC shows now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ShownCertificate)]
struct ShownView {
    /// SHA-256 of the certificate in DER: what `fingerprint` is of.
    fingerprint: String,
    /// Whom it is for, by its own word.
    subject: String,
    /// Until when it is good, by its own word; a pinned one is good for longer.
    until: String,
}

/// Tells which certificate a BMC shows to the controller now, to be compared with what its own papers or screens say. Nothing
/// is said to the BMC, no password either.
#[utoipa::path(get, path = "/bmc/certificate", tag = "power",
    params(("url" = String, Query, description = "`https://` and the host")),
    responses((status = 200, body = ShownView), Refused))]
async fn certificate(_: Operator, mut params: Params) -> Result<Json<ShownView>, Problem> {
    let url = params.text("url").unwrap_or_default();
    params.finish()?;
    let url = url.trim_end_matches('/').to_owned();
    controls::check_url(&url).map_err(|refusal| Problem::from(refusal).at("url"))?;
    let shown = tokio::task::spawn_blocking(move || power::http::shown(&url)).await;
    let der = match shown {
        Ok(Ok(der)) => der,
        Ok(Err(why)) => return Err(Problem::unanswered("url", format!("no certificate was shown: {why}"))),
        Err(_) => return Err(Problem::internal("controller", "asking it came to nothing; the log has the details")),
    };
    let (subject, until) = match x509_parser::parse_x509_certificate(&der) {
        Ok((_, known)) => (known.subject().to_string(), known.validity().not_after.to_string()),
        Err(_) => ("nobody who can be read".into(), "nobody knows when".into()),
    };
    let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(200).collect();
    Ok(Json(ShownView { fingerprint: Digest::of(&der).to_string(), subject: clean(subject), until: clean(until) }))
}

/// Forgets a machine's BMC, and its password.
#[utoipa::path(delete, path = "/machines/{machine}/bmc", tag = "power",
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 204, description = "it is forgotten"), Refused))]
async fn forget_bmc(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    forget(&api, caller, name, controls::forget_bmc).await
}

/// What switches the outlet that a machine's plug is in: URLs that are asked, without anything that Muster adds.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OutletBody {
    /// Switches on. Never told again, as all of them: many have a password or a token in them.
    #[schema(write_only)]
    on: String,
    /// Switches off.
    #[schema(write_only)]
    off: String,
    /// Switches off and on by itself; where it is left out, the outlet is switched off and on.
    #[schema(write_only)]
    cycle: Option<String>,
    /// `get` where it is left out, or `post`.
    #[serde(default)]
    method: HookMethod,
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HookMethod {
    #[default]
    Get,
    Post,
}

/// Names the smart outlet that a machine's plug is in, in place of the one before. Nothing is asked of it yet.
#[utoipa::path(put, path = "/machines/{machine}/outlet", tag = "power", request_body = OutletBody,
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 200, body = MachineView), Refused))]
async fn set_outlet(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<OutletBody>,
) -> Result<impl IntoResponse, Problem> {
    let seal = seal(&api)?;
    let OutletBody { on, off, cycle, method } = body.value;
    let hooks = Hooks { on, off, cycle };
    let method = match method {
        HookMethod::Get => Method::Get,
        HookMethod::Post => Method::Post,
    };
    decide(&api, caller, name, body.digest, move |draft, id| controls::set_outlet(draft, &seal, id, method, &hooks))
        .await
}

/// Forgets a machine's outlet, and what asks it.
#[utoipa::path(delete, path = "/machines/{machine}/outlet", tag = "power",
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 204, description = "it is forgotten"), Refused))]
async fn forget_outlet(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    forget(&api, caller, name, controls::forget_outlet).await
}

/// Whether magic packets switch a machine on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WakeBody {
    /// Whether they do.
    on_lan: bool,
}

/// Says whether a magic packet (Wake-on-LAN) switches a machine on. It must be allowed in the machine's firmware.
#[utoipa::path(put, path = "/machines/{machine}/wake", tag = "power", request_body = WakeBody,
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 200, body = MachineView), Refused))]
async fn wake(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<WakeBody>,
) -> Result<impl IntoResponse, Problem> {
    let wake = if body.value.on_lan { Wake::OnLan } else { Wake::Off };
    decide(&api, caller, name, body.digest, move |draft, id| controls::set_wake(draft, id, wake)).await
}

async fn forget(
    api: &Api,
    caller: Caller,
    name: String,
    forget: fn(&mut Draft, muster_protocol::MachineId) -> Result<Machine, Refusal>,
) -> Result<StatusCode, Problem> {
    api.fleet
        .change(caller.author, move |draft| {
            let id = machine::lookup(draft.state(), &name)?;
            let before: Machine = draft.need(&id)?;
            caller.condition.check("machine", Some(&before.version.to_string()))?;
            forget(draft, id)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn seal(api: &Api) -> Result<std::sync::Arc<DiskSeal>, Problem> {
    api.pki.disks().map_err(|error| {
        tracing::error!(?error, "passwords cannot be sealed");
        Problem::internal("controller", "the key that passwords are sealed with cannot be written; see the log")
    })
}
