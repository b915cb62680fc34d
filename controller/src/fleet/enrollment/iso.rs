//! Boot media: each ISO carries a site credential of its own, by which it is known, trusted and revoked.
//!
//! Called by the operator API when one was built or is to be revoked, and by the boot listener when a machine shows a
//! credential.

use std::collections::BTreeSet;

use muster_ipxe::param::{BOOT_PORT, Endpoint};
use muster_ipxe::script::iso_id;
use muster_protocol::Digest;
use muster_protocol::enroll::{Refusal as Enrollment, SiteCredential};

use super::policy;
use crate::fleet::location::unknown;
use crate::fleet::record::{Iso, IsoRule, Location, Ticket, TicketBound};
use crate::fleet::state::Table;
use crate::fleet::{Draft, Facts, Refusal, State};

/// The most media that are kept, revoked ones included.
const KEPT: usize = 10_000;

/// An ISO that was built, as its builder describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Code of the location that it is for.
    pub location: String,
    /// Where its machines reach the controller.
    pub controllers: Vec<String>,
    /// Where it was written.
    pub file: String,
    /// Size.
    pub bytes: u64,
    /// Of the whole medium.
    pub sha256: Digest,
    /// Of the site credential on it.
    pub credential: Digest,
    /// The CA that it pins, where it is sealed.
    pub sealed: Option<Digest>,
    /// The boot CA that it pins, where it is not.
    pub boot_ca: Option<Digest>,
}

/// Addresses and DNS names of controllers on good media: a certificate names them all, and iPXE has to read it.
const HOSTS: usize = 64;

/// What is wrong with a credential that a medium shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// No ISO with it is known.
    #[error("its boot medium is not known here")]
    Unknown,
    /// Revoked by an operator.
    #[error("its boot medium was revoked")]
    Revoked,
}

/// Takes note of an ISO: from now on its credential is good.
///
/// Errors: no such location; a text too long; the same credential is on another ISO.
pub fn add(draft: &mut Draft, built: Built) -> Result<Iso, Refusal> {
    let Built { location, controllers, file, bytes, sha256, credential, sealed, boot_ca } = built;
    if draft.get::<Location>(&location).is_none() {
        return Err(unknown(draft.state(), "location", &location));
    }
    if controllers.is_empty() || controllers.len() > 8 || controllers.iter().any(|c| c.is_empty() || c.len() > 300) {
        return Err(Refusal::invalid("controllers", "an ISO names 1 to 8 controllers"));
    }
    for (number, controller) in controllers.iter().enumerate() {
        let field = format!("controllers[{number}]");
        Endpoint::parse(&field, controller, BOOT_PORT).map_err(|e| Refusal::invalid("controllers", e.to_string()))?;
    }
    if file.len() > 4096 || file.contains(char::is_control) {
        return Err(Refusal::invalid("file", "a path has at most 4096 bytes and no control characters"));
    }
    let id = iso_id(&credential);
    if draft.get::<Iso>(&id).is_some() {
        return Err(Refusal::Conflict(format!("there is an ISO {id} already; build it anew")));
    }
    if draft.state().isos.len() >= KEPT {
        return Err(Refusal::Exhausted(format!("there are {KEPT} ISOs, and no more are kept")));
    }
    let created_unix_ms = draft.now_unix_ms();
    let iso = Iso {
        id,
        location,
        controllers,
        file,
        bytes,
        sha256,
        credential,
        sealed,
        boot_ca,
        created_unix_ms,
        revoked_unix_ms: None,
    };
    let pinning = draft.state().isos.iter().filter(|known| known.is_good() && known.boot_ca.is_some());
    let named: BTreeSet<String> = pinning.chain([&iso]).flat_map(dialed).collect();
    if iso.boot_ca.is_some() && named.len() > HOSTS {
        return Err(Refusal::Exhausted(format!(
            "the ISOs that are good name {HOSTS} addresses and names of controllers, and no more have room in a \
             certificate; revoke ISOs that are not used, or name their controllers alike"
        )));
    }
    let kind = if iso.sealed.is_some() { "sealed" } else { "network" };
    let facts = Facts::of([("file", iso.file.clone()), ("kind", kind.to_owned()), ("location", iso.location.clone())]);
    draft.audit("iso.built", &iso.id, Facts::none(), facts);
    draft.event("iso.built", &iso.id, format!("an ISO for {} was built: {}", iso.location, iso.file));
    draft.put(iso.clone());
    Ok(iso)
}

/// Makes an ISO useless for joining, at once. Machines that are in stay in, and start from it as before.
pub fn revoke(draft: &mut Draft, id: &str) -> Result<Iso, Refusal> {
    let mut iso = draft.need::<Iso>(&id.to_owned())?;
    if iso.revoked_unix_ms.is_some() {
        return Ok(iso);
    }
    iso.revoked_unix_ms = Some(draft.now_unix_ms());
    draft.audit("iso.revoked", id, Facts::one("state", "good"), Facts::one("state", "revoked"));
    draft.event("iso.revoked", id, format!("the ISO {id} for {} lets nobody join any more", iso.location));
    draft.put(iso.clone());
    let only = IsoRule::Only(id.to_owned());
    let useless: Vec<String> =
        draft.state().policies.iter().filter(|policy| policy.iso == only).map(|policy| policy.name.clone()).collect();
    useless.iter().try_for_each(|name| policy::delete(draft, name))?;
    Ok(iso)
}

/// The ISO that carries this credential.
pub fn check<'a>(state: &'a State, credential: &Digest) -> Result<&'a Iso, Wrong> {
    let iso = carrying(state, credential).ok_or(Wrong::Unknown)?;
    if iso.is_good() { Ok(iso) } else { Err(Wrong::Revoked) }
}

fn carrying<'a>(state: &'a State, credential: &Digest) -> Option<&'a Iso> {
    state.isos.get(&iso_id(credential)).filter(|iso| iso.credential == *credential)
}

/// The sealed ISO that carries this credential, revoked or not.
///
/// Another ISO's credential is no leave to enroll: it travels in the clear to the boot listener, which gives a ticket for it.
pub fn sealed<'a>(state: &'a State, credential: &SiteCredential) -> Option<&'a Iso> {
    carrying(state, &credential.digest()).filter(|iso| iso.sealed.is_some())
}

/// What a sealed ISO's credential is worth: a ticket, made and used up at once. Nothing that a revoked one says of a place
/// counts.
///
/// Errors: no sealed ISO carries it.
pub fn leave(state: &State, credential: &SiteCredential) -> Result<Ticket, Enrollment> {
    let iso = sealed(state, credential).ok_or(Enrollment::NoMedium)?;
    let location = if iso.is_good() { iso.location.clone() } else { String::new() };
    let bound = TicketBound::Machine { uuid: None, macs: Vec::new() };
    let (iso, digest) = (iso.id.clone(), iso.credential);
    Ok(Ticket { digest, location, iso, joins: true, hands: None, bound, expires_unix_ms: 0 })
}

/// By which addresses and DNS names UEFI machines reach the controller, as far as their media know: at most [`HOSTS`], those
/// of good media first, and of these the oldest.
pub fn hosts(isos: &Table<String, Iso>) -> BTreeSet<String> {
    let mut pinning: Vec<&Iso> = isos.iter().filter(|iso| iso.boot_ca.is_some()).collect();
    pinning.sort_by_key(|iso| (!iso.is_good(), iso.created_unix_ms));
    let mut hosts = BTreeSet::new();
    for host in pinning.into_iter().flat_map(dialed) {
        if hosts.len() < HOSTS {
            hosts.insert(host);
        }
    }
    hosts
}

fn dialed(iso: &Iso) -> impl Iterator<Item = String> {
    iso.controllers.iter().filter_map(|at| Endpoint::parse("controllers", at, BOOT_PORT).ok()).map(|at| at.host())
}

/// Whether the ISO with this id lets machines join.
pub fn is_good(state: &State, id: &str) -> bool {
    state.isos.get(&id.to_owned()).is_some_and(Iso::is_good)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;

    /// An ISO for a location that is made for it.
    pub(crate) fn built(draft: &mut Draft, credential: &[u8]) -> Iso {
        noted(draft, Digest::of(credential))
    }

    /// The same, by the digest of its credential.
    pub(crate) fn noted(draft: &mut Draft, credential: Digest) -> Iso {
        draft.put(Location { code: "ber1".into(), ..Location::default() });
        let built = Built {
            location: "ber1".into(),
            controllers: vec!["192.0.2.1:8080".into()],
            file: "/tmp/ber1.iso".into(),
            bytes: 1,
            sha256: Digest::of(b"iso"),
            credential,
            sealed: None,
            boot_ca: None,
        };
        add(draft, built).expect("added")
    }

    /// A sealed one.
    pub(crate) fn built_sealed(draft: &mut Draft, credential: &[u8]) -> Iso {
        let iso = Iso { sealed: Some(Digest::of(b"CA")), ..built(draft, credential) };
        draft.put(iso.clone());
        iso
    }

    #[test]
    fn a_credential_is_good_until_its_iso_is_revoked() {
        let mut draft = draft();
        assert_eq!(check(draft.state(), &Digest::of(b"secret")).err(), Some(Wrong::Unknown));
        let iso = built(&mut draft, b"secret");
        assert_eq!(check(draft.state(), &Digest::of(b"secret")), Ok(&iso));
        assert_eq!(check(draft.state(), &Digest::of(b"other")).err(), Some(Wrong::Unknown));
        revoke(&mut draft, &iso.id).expect("revoked");
        assert_eq!(check(draft.state(), &Digest::of(b"secret")).err(), Some(Wrong::Revoked));
        assert!(!is_good(draft.state(), &iso.id));
        revoke(&mut draft, &iso.id).expect("revoking twice is revoking");
        assert!(revoke(&mut draft, "nothing").is_err());
    }

    #[test]
    fn an_iso_for_no_location_and_a_second_one_with_the_same_credential_are_refused() {
        let mut draft = draft();
        let iso = built(&mut draft, b"secret");
        let Iso { controllers, file, bytes, sha256, credential, sealed, boot_ca, .. } = iso;
        let again = Built { location: "ber1".into(), controllers, file, bytes, sha256, credential, sealed, boot_ca };
        assert!(matches!(add(&mut draft, again.clone()), Err(Refusal::Conflict(_))));
        let nowhere = Built { location: "muc1".into(), credential: Digest::of(b"new"), ..again.clone() };
        assert!(matches!(add(&mut draft, nowhere), Err(Refusal::Invalid { field, .. }) if field == "location"));
        let escape =
            Built { controllers: vec!["a b\u{1b}[31m".into()], credential: Digest::of(b"new"), ..again.clone() };
        assert!(matches!(add(&mut draft, escape), Err(Refusal::Invalid { .. })));
        let nobody = Built { controllers: vec![], credential: Digest::of(b"new"), ..again };
        assert!(matches!(add(&mut draft, nobody), Err(Refusal::Invalid { .. })));
    }

    #[test]
    fn the_controllers_names_are_those_that_uefi_machines_dial_and_the_oldest_good_ones_stay() {
        let mut draft = draft();
        let pinning = |draft: &mut Draft, name: &str, controllers: Vec<String>| {
            let iso = Iso { boot_ca: Some(Digest::of(b"boot CA")), controllers, ..built(draft, name.as_bytes()) };
            draft.put(iso.clone());
            iso
        };
        let old = pinning(&mut draft, "old", vec!["a.example:80".into()]);
        pinning(&mut draft, "new", vec!["[2001:db8::7]:8080".into(), "192.0.2.2".into()]);
        built(&mut draft, b"over HTTP alone");
        let named = |draft: &Draft| hosts(&draft.state().isos).into_iter().collect::<Vec<_>>();
        assert_eq!(named(&draft), ["192.0.2.2", "2001:db8::7", "a.example"]);
        for number in 3..HOSTS {
            pinning(&mut draft, &number.to_string(), vec![format!("{number}.example")]);
        }
        assert_eq!(named(&draft).len(), HOSTS);
        let one_more = |host: &str| Built {
            location: "ber1".into(),
            controllers: vec![host.into()],
            file: "/srv/more.iso".into(),
            bytes: 1,
            sha256: Digest::of(b"iso"),
            credential: Digest::of(host.as_bytes()),
            sealed: None,
            boot_ca: Some(Digest::of(b"boot CA")),
        };
        assert!(matches!(add(&mut draft, one_more("more.example")), Err(Refusal::Exhausted(_))));
        add(&mut draft, one_more("192.0.2.2")).expect("a host that is named already");
        revoke(&mut draft, &old.id).expect("revoked");
        let both = Built { controllers: vec!["more.example".into(), "one.example".into()], ..one_more("both") };
        assert!(matches!(add(&mut draft, both), Err(Refusal::Exhausted(_))), "there is room for one of them");
        add(&mut draft, one_more("more.example")).expect("there is room now");
        let names = named(&draft);
        assert!(names.contains(&"more.example".into()) && !names.contains(&"a.example".into()), "{names:?}");
    }
}
