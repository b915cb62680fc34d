//! Servers: provision, its status, restart, decommission. A server of Cycle's is a lease here.
//!
//! No call waits for a machine: each is answered when what it changes is durable.

use muster_protocol::MachineId;
use muster_protocol::to_agent::PowerAction;
use serde_json::{Value, json};

use super::Ial;
use super::answer::{Answer, Error};
use super::call::{Call, Fields, Hub};
use super::takes;
use crate::fleet::lease::{self, Order};
use crate::fleet::machine::controls::{self, Switch};
use crate::fleet::record::{Lease, LeaseState, OperationKind, Seat};
use crate::fleet::{Draft, Refusal, State};

/// Why a credential gets nothing for a key of Cycle's that its hub has used at a location that it is not for.
pub(super) const ELSEWHERE: &str =
    "what was ordered with this id before is at a location that these credentials are not for";

/// Leases a machine. The same hub asking again for the same `cycle.server_id` gets the same server.
pub(super) async fn provision(ial: &Ial, call: &Call) -> Answer {
    let hub = call.hub(&ial.fleet.state())?;
    let fields = call.fields();
    fields.check(takes::PROVISION)?;
    let text = |key| fields.text_or_none(key).map(|text| text.unwrap_or_default().to_owned());
    let order = Order {
        hub: hub.name.clone(),
        cycle_server: fields.inner("cycle")?.cycle_id("server_id")?.unwrap_or_default().to_owned(),
        hostname: text("hostname")?,
        model: fields.text("model_id")?.to_owned(),
        location: fields.text("location_id")?.to_owned(),
        zone: text("zone_id")?,
    };
    let online = ial.is_there();
    hub.need(&order.location, &fields)?;
    let places = hub.places.clone();
    let provision = move |draft: &mut Draft| {
        // A repeated order is the server that it was, wherever that stands.
        let lease = lease::provision(draft, order, &online)?;
        if places.allows(&lease.location) { Ok(lease) } else { Err(Refusal::Conflict(ELSEWHERE.into())) }
    };
    let lease = ial.change(&hub.name, call, provision).await.map_err(|error| match error.code {
        "422.max-exceeded" => error.source(fields.pointer("model_id")),
        _ => error,
    })?;
    Ok(json!({ "server_id": lease.id, "location_modified": false, "extra": null }))
}

/// `provisioned` turns true once, and what is said then does not change any more. Errors are for what is final.
pub(super) fn provision_status(ial: &Ial, call: &Call) -> Answer {
    let state = ial.fleet.state();
    let hub = call.hub(&state)?;
    let fields = call.fields();
    fields.check(takes::STATUS)?;
    let id = fields.text("server_id")?;
    let Some(lease) = of_hub(&state, &hub, id, &fields)? else { return Err(no_such_server(&fields)) };
    match &lease.state {
        LeaseState::Seeking { .. } | LeaseState::Preparing { .. } => Ok(status_view(id, None)),
        LeaseState::Ready { seat } => Ok(status_view(id, Some(seat))),
        LeaseState::Failed { why } => {
            let error = Error::new("422.max-exceeded", "No machine could be prepared for this server");
            Err(error.detail(why).source(fields.pointer("server_id")))
        }
        LeaseState::Ending { .. } => {
            let error = Error::new("404.infrastructure.server", "This server is being decommissioned");
            Err(error.source(fields.pointer("server_id")))
        }
    }
}

fn status_view(id: &str, seat: Option<&Seat>) -> Value {
    // A machine id is written as UUIDs are: 8-4-4-4-12 lower-case digits.
    let uuid = seat.and_then(|seat| seat.uuid).map(|bytes| MachineId::from_bytes(bytes).to_string());
    let ips = seat.map(|seat| seat.addresses.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mac = seat.map(|seat| seat.mac.to_string());
    json!({
        "server_id": id,
        "provisioned": seat.is_some(),
        "auth": { "uuid": uuid, "initial_ips": ips, "mac_addr": mac },
        "extra": null,
    })
}

/// Reboots the machine, once per boot however often it is asked: by its agent, or by what switches it from outside.
pub(super) async fn restart(ial: &Ial, call: &Call) -> Answer {
    let state = ial.fleet.state();
    let hub = call.hub(&state)?;
    let fields = call.fields();
    fields.check(takes::ACT)?;
    let id = fields.text("server_id")?.to_owned();
    let Some(lease) = of_hub(&state, &hub, &id, &fields)? else { return Err(no_such_server(&fields)) };
    if let LeaseState::Ready { seat } = &lease.state
        && !ial.online.there(seat.machine).is
        && !is_rebooting(&state, seat.machine)
        && !controls::can(&state, seat.machine, Switch::Restart)
    {
        let error = Error::new("504.not-available", "The machine is not online, so it cannot be told to restart");
        let error = error.detail("It has no session, and no BMC and no outlet was named that could restart it");
        return Err(error.source(fields.pointer("server_id")));
    }
    let online = ial.is_there();
    ial.change(&hub.name, call, move |draft| lease::restart(draft, &id, &online)).await?;
    Ok(json!(true))
}

/// A repeated restart finds its machine away because of the first.
fn is_rebooting(state: &State, machine: MachineId) -> bool {
    let reboots = |kind: &OperationKind| matches!(kind, OperationKind::Power { action: PowerAction::Reboot, .. });
    state.unfinished(machine).any(|operation| reboots(&operation.kind))
}

/// Takes the server back. True as soon as that is on record: the wipe takes its time, and waits for a machine that is off.
pub(super) async fn decommission(ial: &Ial, call: &Call) -> Answer {
    let state = ial.fleet.state();
    let hub = call.hub(&state)?;
    let fields = call.fields();
    fields.check(takes::ACT)?;
    let id = fields.text("server_id")?.to_owned();
    // Unknown is over and done with: an error would keep Cycle from ever forgetting the server.
    if of_hub(&state, &hub, &id, &fields)?.is_some() {
        ial.change(&hub.name, call, move |draft| lease::decommission(draft, &id)).await?;
    }
    Ok(json!(true))
}

/// The lease of this id; `None` where there is none. A lease's hub never changes, so any state tells it.
///
/// Errors: it is another hub's, or at a location that the hub's credential is not for.
pub(super) fn of_hub<'a>(state: &'a State, hub: &Hub, id: &str, at: &Fields<'_>) -> Result<Option<&'a Lease>, Error> {
    match state.leases.get(&id.to_owned()) {
        Some(lease) if lease.hub != hub.name => Err(Error::wrong_hub(at.pointer("server_id"))),
        Some(lease) if !hub.places.allows(&lease.location) => Err(Error::elsewhere(at.pointer("server_id"))),
        found => Ok(found),
    }
}

pub(super) fn no_such_server(at: &Fields<'_>) -> Error {
    Error::new("404.infrastructure.server", "There is no such server").source(at.pointer("server_id"))
}
