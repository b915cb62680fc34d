//! Rollouts: begun, seen, held and ended.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_protocol::{Digest, MachineId};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::machines::Nothing;
use super::several::{self, SelectorBody};
use crate::api::http::{Body, Caller, Operator, Page, Params, Problem, Refused, Segment, Viewer, etag};
use crate::api::view::rollout::{MEMBER_WORDS, MemberView, RolloutView, member_word};
use crate::api::{Api, PREFIX};
use crate::clock::now_unix_ms;
use crate::fleet::answered::{Outcome, repeated};
use crate::fleet::rollout::create::{Wish, create};
use crate::fleet::rollout::record::{MemberKey, Pace, Rollout, RolloutState, WaveSize, members};
use crate::fleet::rollout::waves::Contact;
use crate::fleet::{Draft, Refusal, State as FleetState, rollout};

/// The least time between two looks for news: a look goes over all machines of the rollout.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, begin))
        .routes(routes!(several::plan))
        .routes(routes!(several::diff))
        .routes(routes!(show))
        .routes(routes!(machines))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
}

/// What is to be rolled out, to whom, and how.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RolloutBody {
    /// netplan, Butane, or both in one, with `{{ … }}` where machines differ.
    document: String,
    /// For which machines.
    selector: SelectorBody,
    /// Machines of the first wave; 1 where nothing is said.
    canary: Option<u32>,
    /// Machines of each wave after it: a number, or a share like `25%`, which it is where nothing is said.
    wave: Option<String>,
    /// How long a wave's machines must have been in contact before the next one begins; 30 s where nothing is said.
    soak_s: Option<u64>,
    /// Machines that may fail, those of the first wave excepted; none where nothing is said.
    max_failures: Option<u32>,
}

impl RolloutBody {
    fn pace(&self) -> Result<Pace, Problem> {
        let wave = self.wave.as_deref().map(str::parse).transpose()?.unwrap_or(WaveSize::Percent(25));
        let pace = Pace {
            canary: self.canary.unwrap_or(1),
            wave,
            soak_ms: self.soak_s.unwrap_or(30).saturating_mul(1000),
            max_failures: self.max_failures.unwrap_or(0),
        };
        rollout::check_pace(&pace)?;
        Ok(pace)
    }
}

/// Begins a rollout: the template is read for every machine that is selected, and where it is wrong for one, nothing
/// begins. Then the first wave is given its desired states.
#[utoipa::path(post, path = "/rollouts", tag = "rollouts", request_body = RolloutBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 202, body = RolloutView), Refused))]
async fn begin(
    Operator(caller): Operator,
    State(api): State<Api>,
    body: Body<RolloutBody>,
) -> Result<impl IntoResponse, Problem> {
    let pace = body.value.pace()?;
    let selector = body.value.selector.read()?;
    let key = caller.request_key(body.digest);
    let number = match repeated(&api.fleet.state(), key, now_unix_ms())? {
        Some(subject) => subject,
        None => {
            let template = Digest::of(body.value.document.as_bytes());
            let in_words = selector.to_string();
            let machines = several::prepare(&api, selector, body.value.document).await?;
            let wish = Wish { selector: in_words, template, pace, machines };
            let (fleet, author, contact) = (api.fleet.clone(), caller.author.clone(), contacts(&api));
            // On a task of its own: it must come to its end though the caller goes away.
            let created = tokio::spawn(async move {
                create(&fleet, author, key, wish, move |id| matches!(contact(id), Contact::Online { .. })).await
            });
            match created.await.map_err(|_| Refusal::Internal)?? {
                Outcome::Done(number) => number.to_string(),
                Outcome::Repeated { subject } => subject,
            }
        }
    };
    let location = [(header::LOCATION, format!("{PREFIX}/rollouts/{number}"))];
    let (tag, view) = seen(&api, &api.fleet.state(), lookup(&api.fleet.state(), &number)?)?;
    Ok((StatusCode::ACCEPTED, location, etag::header(&tag), Json(view)))
}

/// Who is in contact, as rollouts see it.
fn contacts(api: &Api) -> Arc<dyn Fn(MachineId) -> Contact + Send + Sync> {
    crate::api::live::contacts(api.live.clone(), api.site.started_unix_ms)
}

/// A rollout as it is now, and the tag of that.
fn seen(api: &Api, state: &FleetState, number: u64) -> Result<(String, RolloutView), Refusal> {
    let record = state.rollouts.get(&number).ok_or_else(|| not_found(&number.to_string()))?;
    let view = RolloutView::of(state, record, &*contacts(api), now_unix_ms());
    Ok((etag::of(&view), view))
}

/// Rollouts, newest first.
#[utoipa::path(get, path = "/rollouts", tag = "rollouts",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("state" = Option<String>, Query, description = "only these: `running`, `stopped`, …"),
    ),
    responses((status = 200, body = Page<RolloutView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<RolloutView>>, Problem> {
    const STATES: [&str; 5] = ["running", "paused", "stopped", "finished", "cancelled"];
    let limit = params.limit()?;
    let cursor: Option<u64> = params.cursor()?;
    let word = params.text("state");
    params.finish()?;
    if let Some(word) = word.as_deref().filter(|word| !STATES.contains(word)) {
        return Err(Problem::invalid("state", format!("must be one of {}, and is {word:?}", STATES.join(", "))));
    }
    let (state, contact, now) = (api.fleet.state(), contacts(&api), now_unix_ms());
    let wanted = |rollout: &&Rollout| {
        rollout.state != RolloutState::Preparing
            && word.as_deref().is_none_or(|word| word == rollout.state.word())
            && cursor.is_none_or(|cursor| rollout.number < cursor)
    };
    let found = state.rollouts.iter().rev().filter(wanted);
    let view = |rollout: &Rollout| RolloutView::of(&state, rollout, &*contact, now);
    Ok(Json(Page::take(found, limit, |rollout| rollout.number.to_string(), view)))
}

/// One rollout. With `wait` the answer comes as soon as it differs from the one whose `ETag` is given as
/// `If-None-Match`, or 304 when the time is over.
#[utoipa::path(get, path = "/rollouts/{rollout}", tag = "rollouts",
    params(
        ("rollout" = u64, Path, description = "its number"),
        ("wait" = Option<u64>, Query, description = "seconds to wait for news, at most 60"),
        ("If-None-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 200, body = RolloutView), (status = 304, description = "no news"), Refused))]
async fn show(
    _: Viewer,
    State(api): State<Api>,
    Segment(text): Segment,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wait = params.wait()?;
    params.finish()?;
    let before = etag::seen(&headers);
    let until = Instant::now() + wait;
    let mut news = api.fleet.watch();
    let number = lookup(&news.borrow(), &text)?;
    loop {
        let state = news.borrow_and_update().clone();
        let (tag, view) = seen(&api, &state, number)?;
        if before.as_ref() != Some(&tag) {
            return Ok((etag::header(&tag), Json(view)).into_response());
        }
        let is_ended = state.rollouts.get(&number).is_none_or(|rollout| rollout.state.is_ended());
        if is_ended || Instant::now() >= until {
            return Ok((StatusCode::NOT_MODIFIED, etag::header(&tag), ()).into_response());
        }
        // Presence and time are no part of the state, so both are looked at again now and then.
        let again = (Instant::now() + Duration::from_secs(1)).min(until);
        let _ = timeout_at(again, news.changed()).await;
        tokio::time::sleep_until((Instant::now() + LOOK_EVERY).min(until)).await;
    }
}

/// A rollout's machines, in the order of their places.
#[utoipa::path(get, path = "/rollouts/{rollout}/machines", tag = "rollouts",
    params(
        ("rollout" = u64, Path, description = "its number"),
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("state" = Option<String>, Query, description = "only these: `waiting`, `failed`, …"),
    ),
    responses((status = 200, body = Page<MemberView>), Refused))]
async fn machines(
    _: Viewer,
    State(api): State<Api>,
    Segment(text): Segment,
    mut params: Params,
) -> Result<Json<Page<MemberView>>, Problem> {
    let limit = params.limit()?;
    let cursor: u32 = params.cursor()?.unwrap_or(0);
    let word = params.text("state");
    params.finish()?;
    if let Some(word) = word.as_deref().filter(|word| !MEMBER_WORDS.contains(word)) {
        return Err(Problem::invalid("state", format!("must be one of {}, and is {word:?}", MEMBER_WORDS.join(", "))));
    }
    let (state, contact) = (api.fleet.state(), contacts(&api));
    let number = lookup(&state, &text)?;
    let after = MemberKey { rollout: number, place: cursor };
    let found = members(&state, number)
        .skip_while(|member| member.key <= after)
        .map(|member| (member, contact(member.machine)))
        .filter(|(member, contact)| word.as_deref().is_none_or(|word| word == member_word(member, *contact)));
    let view = |(member, contact)| MemberView::of(&state, member, contact);
    Ok(Json(Page::take(found, limit, |(member, _)| member.key.place.to_string(), view)))
}

macro_rules! turns {
    ($($(#[$doc:meta])* $name:ident: $path:literal;)*) => {$(
        $(#[$doc])*
        #[utoipa::path(post, path = $path, tag = "rollouts",
            params(
                ("rollout" = u64, Path, description = "its number"),
                ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
                ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
            ),
            responses((status = 200, body = RolloutView), Refused))]
        async fn $name(
            Operator(caller): Operator,
            State(api): State<Api>,
            Segment(text): Segment,
            body: Body<Nothing>,
        ) -> Result<impl IntoResponse, Problem> {
            turn(&api, caller, text, body.digest, rollout::$name).await
        }
    )*};
}

turns! {
    /// Holds a rollout: machines that have their desired states go on, no other gets one.
    pause: "/rollouts/{rollout}/pause";
    /// Lets a rollout go on that was held.
    resume: "/rollouts/{rollout}/resume";
    /// Ends a rollout: machines that have their desired states keep them, no other gets one.
    cancel: "/rollouts/{rollout}/cancel";
}

async fn turn(
    api: &Api,
    caller: Caller,
    text: String,
    body: Digest,
    change: fn(&mut Draft, u64) -> Result<Rollout, Refusal>,
) -> Result<impl IntoResponse + use<>, Problem> {
    let (condition, asked) = (caller.condition.clone(), api.clone());
    let outcome = api
        .once(&caller, body, move |draft| {
            let number = lookup(draft.state(), &text)?;
            let (tag, _) = seen(&asked, draft.state(), number)?;
            condition.check("rollout", Some(&tag))?;
            change(draft, number)?;
            Ok((number.to_string(), number.to_string()))
        })
        .await?;
    let (Outcome::Done(number) | Outcome::Repeated { subject: number }) = outcome;
    let state = api.fleet.state();
    let (tag, view) = seen(api, &state, lookup(&state, &number)?)?;
    Ok((etag::header(&tag), Json(view)))
}

fn lookup(state: &FleetState, text: &str) -> Result<u64, Refusal> {
    let number = text.parse::<u64>().ok().filter(|number| state.rollouts.get(number).is_some());
    number.ok_or_else(|| not_found(text))
}

fn not_found(text: &str) -> Refusal {
    Refusal::NotFound { kind: "rollout", name: text.chars().take(80).collect() }
}
