//! What there is to be had: verify, locations, server models, configure. Changes nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Ial;
use super::answer::{Answer, Error, Told};
use super::call::{Call, Caller};
use super::takes;
use crate::fleet::model::{self, Hypervisor, Model, Place};
use crate::fleet::record::{Geographic, Lifecycle, Location, PlaceRule};
use crate::fleet::{State, location};

/// Bumped when locations need work of ours before servers can be had there; there is none.
const CONFIGURATION: &str = "1";

/// Wrong credentials are an answer here, and no error.
pub(super) fn verify(ial: &Ial, call: &Call) -> Answer {
    let valid = matches!(call.caller(&ial.fleet.state()), Ok(Caller::Hub(_)));
    Ok(json!({ "valid": valid }))
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Locations,
    Models,
}

/// Declared locations, and those that only the machines there tell of. The catalog is no secret: a call without
/// credentials is served, since a GET may have no place for them; wrong ones are refused.
pub(super) async fn locations(ial: &Ial, call: &Call) -> Result<Told, Error> {
    list(ial, call, List::Locations).await
}

/// All models. `extra.available` says how many of each are free, by location, and `extra.available_in_zones` how many in each
/// zone of it; both are ours, and Cycle passes them over.
pub(super) async fn models(ial: &Ial, call: &Call) -> Result<Told, Error> {
    list(ial, call, List::Models).await
}

async fn list(ial: &Ial, call: &Call, list: List) -> Result<Told, Error> {
    let places = match call.caller(&ial.fleet.state())? {
        Caller::Nobody => PlaceRule::Anywhere,
        Caller::Hub(hub) => hub.places,
    };
    Ok(Told::Body(ial.kept.body(ial, list, &places).await))
}

/// The `data` that a credential for these places is told.
pub(super) fn locations_view(locations: &[Location], places: &PlaceRule) -> Value {
    let seen = locations.iter().filter(|location| places.allows(&location.code));
    json!({ "locations": seen.map(location_view).collect::<Vec<_>>(), "extra": {} })
}

/// All locations, as far as machines tell of them.
pub(super) fn known(state: &State) -> Vec<Location> {
    let mut locations: Vec<Location> = state.locations.iter().cloned().collect();
    for machine in state.machines.iter() {
        let counts = match machine.lifecycle {
            Lifecycle::Pending | Lifecycle::Rejected | Lifecycle::Retired => false,
            Lifecycle::Available | Lifecycle::Leased { .. } | Lifecycle::Cleaning { .. } => {
                !machine.location.is_empty()
            }
        };
        if counts && !locations.iter().any(|l| l.code == machine.location) {
            let code = machine.location.clone();
            locations.push(Location { name: code.clone(), code, ..Location::default() });
        }
    }
    locations.sort_by(|a, b| a.code.cmp(&b.code));
    locations
}

fn location_view(location: &Location) -> Value {
    let Location { code, name, geographic, abbreviation, zones, annotations, .. } = location;
    let or_code = |text: &String| if text.is_empty() { code.to_uppercase() } else { text.clone() };
    json!({
        "name": if name.is_empty() { code } else { name },
        "geographic": geographic_view(geographic),
        "provider": { "location_id": code, "code": code.to_uppercase(), "availability_zones": zones },
        "features": { "available": ["bare-metal"], "supported": ["bare-metal"] },
        "abbreviation": or_code(abbreviation),
        "annotations": annotations,
        "compatible": true,
    })
}

/// `null` where nobody said where it is: 0° 0° would be a place in the sea.
fn geographic_view(geographic: &Geographic) -> Value {
    if *geographic == Geographic::default() {
        return Value::Null;
    }
    let Geographic { latitude_micro, longitude_micro, city, state, country, region } = geographic;
    let degrees = |micro: &i32| f64::from(*micro) / 1e6;
    json!({
        "latitude": degrees(latitude_micro), "longitude": degrees(longitude_micro),
        "city": city, "state": state, "country": country, "region": region,
    })
}

/// The `data` that a credential for these places is told.
pub(super) fn models_view(state: &State, models: &[Model], places: &PlaceRule) -> Value {
    let mut models = models.to_vec();
    models.retain_mut(|model| {
        model.places.retain(|code, _| places.allows(code));
        !model.places.is_empty()
    });
    let available: Map<String, Value> = models.iter().map(|model| (model.id.clone(), free_view(model))).collect();
    let in_zones: Map<String, Value> = models.iter().map(|model| (model.id.clone(), zones_view(model))).collect();
    let views: Vec<Value> = models.iter().map(|model| model_view(state, model)).collect();
    json!({ "models": views, "extra": { "available": available, "available_in_zones": in_zones } })
}

fn free_view(model: &Model) -> Value {
    model.places.iter().map(|(location, at)| (location.clone(), json!(at.count.free))).collect::<Map<_, _>>().into()
}

fn zones_view(model: &Model) -> Value {
    let free = |at: &Place| -> Map<_, _> { at.zones.iter().map(|(zone, n)| (zone.clone(), json!(n.free))).collect() };
    model.places.iter().map(|(location, at)| (location.clone(), free(at).into())).collect::<Map<_, _>>().into()
}

fn model_view(state: &State, model: &Model) -> Value {
    let Model { id, hardware, memory_kind, hypervisor, card, places } = model;
    let places: BTreeMap<&String, &Place> = places.iter().filter(|(_, at)| at.count.total > 0).collect();
    // Those with machines of the model, in the operator's order.
    let zones = |code: &String, at: &Place| -> Vec<&String> {
        let all = state.locations.get(code).map_or(&[][..], |location| &location.zones);
        all.iter().filter(|zone| at.zones.contains_key(*zone)).collect()
    };
    let zones: Map<String, Value> = places.iter().map(|(code, at)| ((*code).clone(), json!(zones(code, at)))).collect();
    let places: Vec<&String> = places.into_keys().collect();
    let or_unknown = |text: &String| if text.is_empty() { "unknown".to_owned() } else { text.clone() };
    let per = |whole: u16, parts: u16| (whole > 0 && parts > 0).then(|| parts / whole);
    let storage = hardware
        .disks
        .iter()
        .map(|d| json!({ "count": d.count, "size_gb": d.size_gb, "type": d.kind.to_string(), "extra": {} }));
    // Cycle's list has no count for NICs: one entry each.
    let nics = hardware.nics.iter().flat_map(|n| {
        let view = json!({ "scope": "public", "type": "ethernet", "throughput": model::throughput(n.mbps) });
        (0..n.count).map(move |_| view.clone())
    });
    json!({
        "name": card.name,
        "drivers": [],
        "description": card.description,
        "specs": {
            "cpu": {
                "count": hardware.sockets.max(1),
                "cores": per(hardware.sockets, hardware.cores),
                "threads": per(hardware.cores, hardware.threads),
                "type": or_unknown(&hardware.cpu),
                "shared": false,
                "extra": {},
            },
            "gpu": null,
            "memory": { "size_gb": hardware.memory_gb, "type": or_unknown(memory_kind), "extra": {} },
            "storage": storage.collect::<Vec<_>>(),
            "network": nics.collect::<Vec<_>>(),
            "features": { "raid": null, "hypervisor": *hypervisor == Hypervisor::Able, "extra": {} },
        },
        "provider": {
            "category": card.category,
            "class": card.class,
            "model_id": id,
            "locations": places,
            "availability_zones": zones,
        },
        "pricing": { "hourly": card.hourly_mils, "monthly": card.monthly_mils },
        "compatible": hardware.is_compatible(),
    })
}

/// Nothing of ours needs configuring, so the answer is the same each time.
pub(super) fn configure(ial: &Ial, call: &Call) -> Answer {
    let state = ial.fleet.state();
    let hub = call.hub(&state)?;
    let fields = call.fields();
    fields.check(takes::CONFIGURE)?;
    let code = fields.text("location_id")?;
    hub.need(code, &fields)?;
    location::need(&state, code).map_err(|refusal| Error::of(refusal, call.at()))?;
    Ok(json!({ "configured": true, "version": CONFIGURATION, "configuration_latest": {} }))
}
