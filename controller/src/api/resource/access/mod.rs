//! Who may do what: operators' tokens, tickets for agents that run as processes, credentials of Cycle's hubs.
//!
//! Every secret is in one answer and nowhere else: a repeated request is answered without it.

pub(super) mod ca;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header, uri::Authority};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::http::{Admin, Body, Operator, Page, Params, Problem, Refused, Segment, when};
use crate::api::view::Time;
use crate::clock::now_unix_ms;
use crate::fleet::answered::Outcome;
use crate::fleet::record::{Credential, HubRule, PlaceRule, Role, Token};
use crate::fleet::ticket::Grant;
use crate::fleet::{Facts, Refusal, access, credential, location, ticket};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(tokens, create_token))
        .routes(routes!(revoke_token))
        .routes(routes!(create_ticket))
        .routes(routes!(credentials, create_credential))
        .routes(routes!(revoke_credential))
}

/// An operator's token.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Token)]
struct TokenView {
    /// Public part.
    id: String,
    /// Whose, or what for.
    name: String,
    /// `viewer`, `operator` or `admin`.
    role: String,
    /// Made.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// Good until; for ever where absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Time>,
    /// The token itself: in the first answer to its making and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl TokenView {
    fn of(record: &Token, token: Option<String>) -> Self {
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            role: record.role.word().into(),
            created: Time(record.created_unix_ms),
            expires: record.expires_unix_ms.map(Time),
            token,
        }
    }
}

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    /// Whose, or what for: 1 to 63 letters, digits, `-`, `_`, `.`, `@`, `+`; no other good token has it.
    name: String,
    /// `viewer`, `operator` or `admin`.
    #[schema(value_type = String)]
    role: Role,
    /// Until when it is good: a span like `90d` or `12h`, a date, or RFC 3339; for ever where absent.
    expires: Option<String>,
}

/// All tokens, without the tokens themselves.
#[utoipa::path(get, path = "/tokens", tag = "access",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<TokenView>), Refused))]
async fn tokens(_: Admin, State(api): State<Api>, mut params: Params) -> Result<Json<Page<TokenView>>, Problem> {
    let limit = params.limit()?;
    let cursor: String = params.cursor()?.unwrap_or_default();
    params.finish()?;
    let state = api.fleet.state();
    let records = state.tokens.after(&cursor);
    Ok(Json(Page::take(records, limit, |t| t.id.clone(), |t| TokenView::of(t, None))))
}

/// Makes a token. The answer holds the only copy.
#[utoipa::path(post, path = "/tokens", tag = "access", request_body = TokenBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 201, body = TokenView), Refused))]
async fn create_token(
    Admin(caller): Admin,
    State(api): State<Api>,
    body: Body<TokenBody>,
) -> Result<impl IntoResponse, Problem> {
    let TokenBody { name, role, expires } = body.value;
    let expires = expires.map(|text| when::future("expires", &text, now_unix_ms())).transpose()?.map(|time| time.0);
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            let (token, text) = access::create(draft, &name, role, expires)?;
            let id = token.id.clone();
            Ok(((token, text), id))
        })
        .await?;
    let view = match outcome {
        Outcome::Done((token, text)) => TokenView::of(&token, Some(text)),
        Outcome::Repeated { subject } => {
            let state = api.fleet.state();
            let record = state.tokens.get(&subject).ok_or(Refusal::NotFound { kind: "token", name: subject })?;
            TokenView::of(record, None)
        }
    };
    Ok((StatusCode::CREATED, no_store(), Json(view)))
}

/// Makes a token useless at once. The last admin token stays.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "access",
    params(("id" = String, Path)),
    responses((status = 204, description = "it is gone"), Refused))]
async fn revoke_token(
    Admin(caller): Admin,
    State(api): State<Api>,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    api.fleet.change(caller.author, move |draft| access::revoke(draft, &id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What an agent needs to enroll.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Ticket)]
struct TicketView {
    /// Good for one enrollment.
    ticket: String,
    /// SHA-256 of the controller CA's certificate.
    ca: String,
    /// `host:port` to dial.
    controllers: Vec<String>,
    /// Where the machine will stand.
    location: String,
    /// Good until.
    #[schema(value_type = String, format = DateTime)]
    expires: Time,
}

/// A ticket to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TicketBody {
    /// Code of the location where the machine stands.
    location: String,
}

/// Makes a boot ticket for an agent that is started as a process. The answer holds the only copy.
#[utoipa::path(post, path = "/tickets", tag = "access", request_body = TicketBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repetition is refused: a ticket is told once")),
    responses((status = 201, body = TicketView), Refused))]
async fn create_ticket(
    Operator(caller): Operator,
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body<TicketBody>,
) -> Result<impl IntoResponse, Problem> {
    let code = body.value.location;
    location::check_code("location", &code)?;
    let controllers = controllers(&api, &headers)?;
    let lifetime_ms = api.site.ticket_lifetime.as_millis() as u64;
    let there = code.clone();
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            location::choose(draft.state(), "location", &there)?;
            let secret = ticket::issue(draft, Grant::bearer(there.clone(), lifetime_ms))?;
            let digest = secret.digest().to_string();
            draft.audit("ticket.created", &digest[..16], Facts::none(), Facts::one("location", there));
            Ok(((secret, draft.now_unix_ms() + lifetime_ms), digest))
        })
        .await?;
    let Outcome::Done((secret, expires_unix_ms)) = outcome else {
        return Err(Problem::conflict("Idempotency-Key", "this ticket was told before; ask for another one"));
    };
    let view = TicketView {
        ticket: secret.to_string(),
        ca: api.pki.fingerprint().to_string(),
        controllers,
        location: code,
        expires: Time(expires_unix_ms),
    };
    Ok((StatusCode::CREATED, no_store(), Json(view)))
}

/// What the operator configured, else the host that this request was made to.
fn controllers(api: &Api, headers: &HeaderMap) -> Result<Vec<String>, Problem> {
    if !api.site.controllers.is_empty() {
        return Ok(api.site.controllers.clone());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let host = host.ok_or_else(|| {
        Problem::malformed("Host", "the request does not say how this controller is reached; set boot.controllers")
    })?;
    Ok(vec![format!("{}:{}", host.host(), api.site.agents_port)])
}

/// What a hub of Cycle's shows to use the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Credential)]
struct CredentialView {
    /// Cycle's `api_key`.
    key: String,
    /// Who holds it.
    hub: String,
    /// Cycle's id of the only hub that may use it; any may where absent.
    hub_id: Option<String>,
    /// Codes of the only locations that it is for; all where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    locations: Option<Vec<String>>,
    /// Made.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// Cycle's `secret`: in the first answer to its making and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl CredentialView {
    fn of(record: &Credential, secret: Option<String>) -> Self {
        Self {
            key: record.key.clone(),
            hub: record.hub.clone(),
            hub_id: match &record.good_for {
                HubRule::Any => None,
                HubRule::Only(id) => Some(id.clone()),
            },
            locations: match &record.places {
                PlaceRule::Anywhere => None,
                PlaceRule::Only(codes) => Some(codes.clone()),
            },
            created: Time(record.created_unix_ms),
            secret,
        }
    }
}

/// A credential to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CredentialBody {
    /// Who will hold it: 1 to 63 letters, digits, `-`, `_`, `.`. Credentials of one hub see the same leases.
    hub: String,
    /// Cycle's id of the only hub that may use it.
    hub_id: Option<String>,
    /// Codes of the only locations that it is for: elsewhere it sees nothing and touches nothing. All where absent.
    locations: Option<Vec<String>>,
}

/// All IAL credentials, without their secrets.
#[utoipa::path(get, path = "/ial/credentials", tag = "access",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<CredentialView>), Refused))]
async fn credentials(
    _: Admin,
    State(api): State<Api>,
    mut params: Params,
) -> Result<Json<Page<CredentialView>>, Problem> {
    let limit = params.limit()?;
    let cursor: String = params.cursor()?.unwrap_or_default();
    params.finish()?;
    let state = api.fleet.state();
    let records = state.credentials.after(&cursor);
    Ok(Json(Page::take(records, limit, |c| c.key.clone(), |c| CredentialView::of(c, None))))
}

/// Makes a credential for a hub of Cycle's. The answer holds the only copy of its secret.
#[utoipa::path(post, path = "/ial/credentials", tag = "access", request_body = CredentialBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 201, body = CredentialView), Refused))]
async fn create_credential(
    Admin(caller): Admin,
    State(api): State<Api>,
    body: Body<CredentialBody>,
) -> Result<impl IntoResponse, Problem> {
    let CredentialBody { hub, hub_id, locations } = body.value;
    let rule = hub_id.map_or(HubRule::Any, HubRule::Only);
    let places = locations.map_or(PlaceRule::Anywhere, PlaceRule::Only);
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            let (record, secret) = credential::create(draft, &hub, rule, places)?;
            let key = record.key.clone();
            Ok(((record, secret), key))
        })
        .await?;
    let view = match outcome {
        Outcome::Done((record, secret)) => CredentialView::of(&record, Some(secret)),
        Outcome::Repeated { subject } => {
            let state = api.fleet.state();
            let record = state.credentials.get(&subject);
            CredentialView::of(record.ok_or(Refusal::NotFound { kind: "IAL credential", name: subject })?, None)
        }
    };
    Ok((StatusCode::CREATED, no_store(), Json(view)))
}

/// Makes a credential useless at once. The hub's leases stay.
#[utoipa::path(delete, path = "/ial/credentials/{key}", tag = "access",
    params(("key" = String, Path)),
    responses((status = 204, description = "it is gone"), Refused))]
async fn revoke_credential(
    Admin(caller): Admin,
    State(api): State<Api>,
    Segment(key): Segment,
) -> Result<StatusCode, Problem> {
    api.fleet.change(caller.author, move |draft| credential::revoke(draft, &key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Secrets are for nobody's cache.
fn no_store() -> [(header::HeaderName, &'static str); 1] {
    [(header::CACHE_CONTROL, "no-store")]
}
