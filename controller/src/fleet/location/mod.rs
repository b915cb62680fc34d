//! Locations: the sites that machines stand at.

pub mod address;
pub mod edge;
pub mod free;
pub mod pool;
pub mod reservation;
mod ssh_key;
pub mod subnet;

use muster_protocol::Digest;

use super::draft::cut;
use std::collections::BTreeSet;

use super::record::{Lifecycle, Location, Machine, Subnet};
use super::{Draft, Facts, Refusal, State, check_text};

/// Makes a location, or replaces the one with its code.
///
/// Errors: the code is not 1 to 32 lower-case letters, digits or hyphens; angles out of range; too much text, or such as is not
/// seen for what it is.
pub fn put(draft: &mut Draft, location: Location) -> Result<Location, Refusal> {
    check_code("code", &location.code)?;
    for zone in &location.zones {
        check_code("zones", zone)?;
    }
    let geo = &location.geographic;
    if geo.latitude_micro.unsigned_abs() > 90_000_000 {
        return Err(Refusal::invalid("latitude", "a latitude is between -90 and 90 degrees"));
    }
    if geo.longitude_micro.unsigned_abs() > 180_000_000 {
        return Err(Refusal::invalid("longitude", "a longitude is between -180 and 180 degrees"));
    }
    let texts = [
        ("name", &location.name),
        ("abbreviation", &location.abbreviation),
        ("city", &geo.city),
        ("state", &geo.state),
        ("country", &geo.country),
        ("region", &geo.region),
    ];
    for (field, text) in texts {
        check_text(field, text, 128)?;
    }
    if location.zones.len() > 32 {
        return Err(Refusal::invalid("zones", "there are at most 32"));
    }
    if let Some(zone) = location.zones.iter().enumerate().find(|(i, zone)| location.zones[..*i].contains(zone)) {
        return Err(Refusal::invalid("zones", format!("{:?} is there twice", zone.1)));
    }
    if location.annotations.len() > 64 || location.annotations.contains_key("") {
        return Err(Refusal::invalid("annotations", "there are at most 64, with keys of 1 to 63 bytes"));
    }
    for (key, value) in &location.annotations {
        check_text("annotations", key, 63)?;
        check_text(format!("annotations.{key}"), value, 255)?;
    }
    check_told(&location)?;
    let before = draft.get::<Location>(&location.code).map(facts).unwrap_or_default();
    draft.audit("location.set", &location.code, before, facts(&location));
    draft.event("location.set", &location.code, format!("{} is a location", location.code));
    draft.put(location.clone());
    Ok(location)
}

/// What EC2 takes of user data.
const USER_DATA: usize = 16 * 1024;

/// What leased machines are told beside their addresses.
fn check_told(location: &Location) -> Result<(), Refusal> {
    if let Some(place) = location.ssh_keys.iter().position(|key| !ssh_key::is_public_key(key)) {
        let problem = "this is no OpenSSH public key in one line, all of it, like \"ssh-ed25519 AAAA… name\"; an \
                       id_ed25519.pub holds one";
        return Err(Refusal::invalid(format!("ssh_keys[{place}]"), problem));
    }
    if location.ssh_keys.len() > 8 {
        return Err(Refusal::invalid("ssh_keys", "at most 8"));
    }
    if location.user_data.len() > USER_DATA {
        let problem = format!("at most {} KiB; have the machine fetch the rest: #include", USER_DATA >> 10);
        return Err(Refusal::invalid("user_data", problem));
    }
    Ok(())
}

fn facts(location: &Location) -> Facts {
    let Location { code, name, geographic, abbreviation, zones, wipe, boot_target, ssh_keys, user_data, annotations } =
        location;
    let degrees = |micro: i32| if micro == 0 { String::new() } else { (f64::from(micro) / 1e6).to_string() };
    let own = [
        ("code", code.clone()),
        ("name", name.clone()),
        ("abbreviation", abbreviation.clone()),
        ("zones", zones.join(", ")),
        ("wipe", super::operation::wipe::word(*wipe).to_owned()),
        ("boot_target", boot_target.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("latitude", degrees(geographic.latitude_micro)),
        ("longitude", degrees(geographic.longitude_micro)),
        ("ssh_keys", ssh_keys.join(", ")),
        // It may hold secrets.
        (
            "user_data",
            if user_data.is_empty() { String::new() } else { format!("sha256 {}", Digest::of(user_data.as_bytes())) },
        ),
        ("city", geographic.city.clone()),
        ("state", geographic.state.clone()),
        ("country", geographic.country.clone()),
        ("region", geographic.region.clone()),
    ];
    let own = own.map(|(field, value)| (field.to_owned(), value));
    Facts::of(own.into_iter().chain(annotations.iter().map(|(k, v)| (format!("annotations.{k}"), format!("{v:?}")))))
}

/// Whether there is such a location: declared, or the one that some machine's boot medium names.
pub fn need(state: &State, code: &str) -> Result<(), Refusal> {
    let stands_there = |m: &Machine| m.location == code && m.lifecycle != Lifecycle::Retired;
    let known = state.locations.get(&code.to_owned()).is_some() || state.machines.iter().any(stands_there);
    let name = || code.chars().take(80).collect();
    if known && !code.is_empty() { Ok(()) } else { Err(Refusal::NotFound { kind: "location", name: name() }) }
}

/// As [`need`], for an operator who names one: the refusal says which there are.
pub fn choose(state: &State, field: &str, code: &str) -> Result<(), Refusal> {
    need(state, code).map_err(|_| unknown(state, field, code))
}

/// There is no such location, for an operator who named it.
pub fn unknown(state: &State, field: &str, code: &str) -> Refusal {
    let short: String = code.chars().take(80).collect();
    let standing = state.machines.iter().filter(|m| m.lifecycle != Lifecycle::Retired).map(|m| &m.location);
    let all: BTreeSet<&String> = state.locations.iter().map(|location| &location.code).chain(standing).collect();
    let mut named: Vec<&str> = all.into_iter().map(String::as_str).filter(|code| !code.is_empty()).collect();
    if named.len() > NAMED {
        named.truncate(NAMED);
        named.push("…");
    }
    let known = match named.as_slice() {
        [] => "none is made yet".to_owned(),
        named => format!("there are {}", named.join(", ")),
    };
    Refusal::invalid(
        field,
        format!("there is no location {short:?}, {known}; make one with `muster location add CODE`"),
    )
}

/// So many locations are named in a refusal.
const NAMED: usize = 20;

/// Removes a location that nothing stands at.
pub fn remove(draft: &mut Draft, code: &str) -> Result<(), Refusal> {
    let location = draft.need::<Location>(&code.to_owned())?;
    if let Some(machine) = draft.state().machines.iter().find(|m: &&Machine| m.location == code) {
        return Err(Refusal::Conflict(format!("machine {} stands at {code}", machine.name)));
    }
    if let Some(subnet) = draft.state().subnets.iter().find(|s: &&Subnet| s.location == code) {
        return Err(Refusal::Conflict(format!("subnet {} is declared at {code}", subnet.net)));
    }
    draft.audit("location.removed", code, facts(&location), Facts::none());
    draft.delete::<Location>(&code.to_owned());
    Ok(())
}

/// Codes end up in URLs, file names and boot scripts, so they are plain.
pub fn check_code(field: &str, code: &str) -> Result<(), Refusal> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if code.is_empty() || code.len() > 32 || !code.chars().all(legal) || code.starts_with('-') {
        let shown = cut(code.to_owned(), 64);
        return Err(Refusal::invalid(
            field,
            format!("{shown:?} is no code: 1 to 32 lower-case letters, digits or hyphens, like ber1"),
        ));
    }
    Ok(())
}
