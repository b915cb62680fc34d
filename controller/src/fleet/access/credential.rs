//! IAL credentials: what a hub of Cycle's shows in the `auth` of each call.
//!
//! The key finds the record, the secret is compared by its hash and in constant time, as with operators' tokens.

use muster_protocol::Digest;
use subtle::ConstantTimeEq;

use super::hex;
use crate::fleet::record::{Credential, HubRule, PlaceRule};
use crate::fleet::{Draft, Facts, Refusal, State, location};

/// The most locations of one credential.
const PLACES: usize = 64;

/// What a call shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown<'a> {
    /// `auth.api_key`.
    pub key: &'a str,
    /// `auth.secret`.
    pub secret: &'a str,
    /// `auth.cycle.hub_id`, empty where absent.
    pub hub_id: &'a str,
}

/// What is wrong with what a call shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// No such key, or not its secret.
    #[error("these credentials are not known here")]
    Credentials,
    /// Made for another hub.
    #[error("these credentials were made for another hub")]
    Hub,
}

/// Makes a credential for a hub. The answer holds the only copy of its secret.
///
/// `hub` is the operator's name for the holder: 1 to 63 letters, digits, `-`, `_`, `.`.
/// Cycle shows the first five characters of both texts followed by `...`, so neither is shorter or ends like that.
///
/// Errors: a name or an id that cannot be; no location, too many, or one that is not known.
pub fn create(
    draft: &mut Draft,
    hub: &str,
    good_for: HubRule,
    places: PlaceRule,
) -> Result<(Credential, String), Refusal> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if hub.is_empty() || hub.len() > 63 || !hub.chars().all(legal) {
        return Err(Refusal::invalid("hub", "a hub's name has 1 to 63 letters, digits, '-', '_' or '.'"));
    }
    if let HubRule::Only(id) = &good_for
        && (id.is_empty() || id.len() > 64 || !id.chars().all(|c| c.is_ascii_alphanumeric()))
    {
        return Err(Refusal::invalid("hub_id", "Cycle's id of a hub has 24 hex digits, like 651586fca6078e98982dbd90"));
    }
    if let PlaceRule::Only(codes) = &places {
        if codes.is_empty() || codes.len() > PLACES {
            return Err(Refusal::invalid(
                "locations",
                format!("name 1 to {PLACES} locations, or leave it out for all"),
            ));
        }
        for code in codes {
            location::choose(draft.state(), "locations", code)?;
        }
    }
    let key = hex(&draft.random::<8>());
    let secret = hex(&draft.random::<32>());
    let digest = Digest::of(secret.as_bytes());
    let made_at = draft.now_unix_ms();
    let hub = hub.to_owned();
    let record = Credential { key: key.clone(), hub, good_for, places, secret: digest, created_unix_ms: made_at };
    draft.audit("credential.created", &key, Facts::none(), facts(&record));
    draft.event("credential.created", &key, format!("{} may use the IAL", record.hub));
    draft.put(record.clone());
    Ok((record, secret))
}

/// A credential without its secret, for the audit log.
fn facts(record: &Credential) -> Facts {
    let Credential { hub, good_for, places, .. } = record;
    let hub_id = match good_for {
        HubRule::Any => "any".to_owned(),
        HubRule::Only(id) => id.clone(),
    };
    let locations = match places {
        PlaceRule::Anywhere => "all".to_owned(),
        PlaceRule::Only(codes) => codes.join(", "),
    };
    Facts::of([("hub", hub.clone()), ("hub_id", hub_id), ("locations", locations)])
}

/// Makes a credential useless at once. The hub's leases stay.
pub fn revoke(draft: &mut Draft, key: &str) -> Result<(), Refusal> {
    let of = |record: &&Credential| record.hub == key;
    let of: Vec<String> = draft.state().credentials.iter().filter(of).map(|record| record.key.clone()).collect();
    if draft.get::<Credential>(&key.to_owned()).is_none() && !of.is_empty() {
        return Err(Refusal::invalid(
            "key",
            format!("{key} is a hub; give the API key of one of its: {}", of.join(", ")),
        ));
    }
    let record = draft.need::<Credential>(&key.to_owned())?;
    draft.audit("credential.revoked", key, facts(&record), Facts::none());
    draft.event("credential.revoked", key, format!("{} may no longer use the IAL with {key}", record.hub));
    draft.delete::<Credential>(&record.key);
    Ok(())
}

/// The record that belongs to what a call shows.
pub fn check<'a>(state: &'a State, shown: Shown<'_>) -> Result<&'a Credential, Wrong> {
    let record = state.credentials.get(&shown.key.to_owned());
    // An unknown key costs the same work as a known one.
    let expected = record.map_or([0; 32], |r| *r.secret.as_bytes());
    let same: bool = Digest::of(shown.secret.as_bytes()).as_bytes().ct_eq(&expected).into();
    let record = record.filter(|_| same).ok_or(Wrong::Credentials)?;
    match &record.good_for {
        HubRule::Only(id) if !id.eq_ignore_ascii_case(shown.hub_id) => Err(Wrong::Hub),
        HubRule::Only(_) | HubRule::Any => Ok(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;

    #[test]
    fn only_the_whole_credential_is_good_and_only_until_it_is_revoked() {
        let mut draft = draft();
        let (record, secret) = create(&mut draft, "acme", HubRule::Any, PlaceRule::Anywhere).expect("made");
        assert!(record.key.len() > 5 && secret.len() > 5);
        let shown = Shown { key: &record.key, secret: &secret, hub_id: "" };
        assert_eq!(check(draft.state(), shown).map(|c| c.hub.as_str()), Ok("acme"));
        for (key, secret) in [
            (record.key.as_str(), &secret[1..]),
            (&record.key, ""),
            (&record.key, &format!("{secret}0")),
            ("", ""),
            ("0000000000000000", &secret),
        ] {
            assert_eq!(check(draft.state(), Shown { key, secret, hub_id: "" }), Err(Wrong::Credentials), "{key}");
        }
        let by_hub = revoke(&mut draft, "acme").expect_err("a hub may have several").to_string();
        assert!(by_hub.contains(&record.key), "{by_hub}");
        revoke(&mut draft, &record.key).expect("revoked");
        assert_eq!(check(draft.state(), shown), Err(Wrong::Credentials));
        assert!(revoke(&mut draft, &record.key).is_err());
    }

    #[test]
    fn a_credential_for_one_hub_is_no_use_to_another() {
        let mut draft = draft();
        let only = HubRule::Only("651586fca6078e98982dbd90".into());
        let (record, secret) = create(&mut draft, "acme", only, PlaceRule::Anywhere).expect("made");
        let show = |hub_id| Shown { key: &record.key, secret: &secret, hub_id };
        assert!(check(draft.state(), show("651586FCA6078e98982dbd90")).is_ok());
        for other in ["", "651586fca6078e98982dbd91"] {
            assert_eq!(check(draft.state(), show(other)), Err(Wrong::Hub));
        }
        for (hub, id) in [("", "a"), ("a b", "a"), ("acme", ""), ("acme", "x/y")] {
            assert!(create(&mut draft, hub, HubRule::Only(id.into()), PlaceRule::Anywhere).is_err(), "{hub} {id}");
        }
    }

    #[test]
    fn a_credential_for_a_location_that_is_not_known_is_not_made() {
        let mut draft = draft();
        let ber1 = crate::fleet::record::Location { code: "ber1".into(), ..Default::default() };
        location::put(&mut draft, ber1).expect("made");
        let mut only = |codes: &[&str]| {
            let places = PlaceRule::Only(codes.iter().map(ToString::to_string).collect());
            create(&mut draft, "acme", HubRule::Any, places).map(|(record, _)| record.places.allows("ber1"))
        };
        assert_eq!(only(&["ber1"]), Ok(true));
        for wrong in [&["ham1"][..], &["ber1", "ham1"], &[], &[""]] {
            assert!(matches!(only(wrong), Err(Refusal::Invalid { field, .. }) if field == "locations"), "{wrong:?}");
        }
    }
}
