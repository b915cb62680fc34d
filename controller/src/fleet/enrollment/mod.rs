//! Enrollment: who may join, and which machine a box is.
//!
//! Called by the sessions with what an agent asks, inside [`super::Fleet::change`], and by the operator API where somebody
//! says which machine a box is.
//! A box shows a [`ticket`], is recognized by what its hardware says of itself ([`identity`]), and where it is new it
//! waits for approval, by an operator or by a [`policy`]. The [`iso`] that it came from vouches for it.

pub mod identity;
pub mod iso;
mod junk;
pub mod marks;
pub mod policy;
pub mod room;
pub mod ticket;
pub mod told;
pub mod trust;

use std::collections::BTreeMap;

use muster_protocol::enroll::{Identity, Leave, Refusal as Enrollment};
use muster_protocol::hello::{Awaits, Progress};
use muster_protocol::{Digest, Generation, MachineId};

use super::lease::primary;
use super::machine::{self, save};
use super::record::{Lifecycle, Machine, MachineInventory, Maintenance, TicketBound, Told};
use super::{Draft, Facts, Refusal, State};
use identity::Match;
use marks::Mark;

/// What an enrollment leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The machine this box is.
    pub machine: MachineId,
    /// Its lifecycle at this moment.
    pub lifecycle: Lifecycle,
}

/// What the sessions see at the moment of an enrollment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Machines that look like the box and answer: it is another one.
    pub alive: Vec<MachineId>,
    /// A machine that waits for approval and is not there, as [`room::forgettable`] says: it may be forgotten where there
    /// is no place left.
    pub absent: Option<MachineId>,
    /// So many newcomers came lately that this one is not told in the event feed: strangers must not push it out.
    pub untold: bool,
}

/// Whether a machine lives, as far as can be said without asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    /// It has a session, or is about to.
    Yes,
    /// The controller has just started: it may be on its way back.
    Perhaps,
    /// It is not there.
    No,
}

/// Whether there is any use in looking at the machines that a box may be: it shows a key that is known, a ticket that it
/// may use, or the credential of a medium that is known; one that is revoked does for what may be a machine that started
/// from it before, and no longer waits.
///
/// Errors: the ticket's, [`Enrollment::NoMedium`], [`Enrollment::MediumRevoked`], [`Enrollment::Rejected`],
/// [`Enrollment::Retired`].
pub fn is_heard(state: &State, leave: &Leave, identity: &Identity, key: Digest, now_ms: u64) -> Result<(), Enrollment> {
    is_kept_out(state, key)?;
    match holder(state, key) {
        Some(_) => Ok(()),
        None => match leave {
            Leave::Ticket(secret) => ticket::check(state, secret, identity, now_ms).map(drop),
            Leave::Site(credential) => {
                let iso = iso::sealed(state, credential).ok_or(Enrollment::NoMedium)?;
                let came = |machine: &Machine| machine.iso == iso.id && machine.lifecycle != Lifecycle::Pending;
                let came = |id: &MachineId| state.machines.get(id).is_some_and(came);
                let is_of_use = iso.is_good() || identity::candidates(state, identity).iter().any(came);
                if is_of_use { Ok(()) } else { Err(Enrollment::MediumRevoked) }
            }
        },
    }
}

/// Uses up a ticket, or looks at a sealed medium's credential, and says which machine this box is: one that is known, or
/// a new one that waits for approval.
///
/// `key` is what the request proves to have. Whoever has the key of a machine's last certificate is that machine, and
/// needs no ticket: its certificate ended while it was cut off, or the answer to its enrollment was lost.
///
/// Errors: the ticket's, [`Enrollment::Rejected`], [`Enrollment::Retired`], [`Enrollment::NoMedium`],
/// [`Enrollment::MediumRevoked`], [`Enrollment::Full`].
pub fn enroll(
    draft: &mut Draft,
    leave: impl Into<Leave>,
    identity: Identity,
    seen: Seen,
    key: Digest,
) -> Result<Enrolled, Refusal> {
    if let Some(machine) = holder(draft.state(), key) {
        return Ok(Enrolled { machine: machine.id, lifecycle: machine.lifecycle.clone() });
    }
    is_kept_out(draft.state(), key)?;
    let like = identity::find(draft.state(), &identity, &seen.alive);
    let leave = leave.into();
    let is_sealed = matches!(leave, Leave::Site(_));
    let ticket = match leave {
        Leave::Ticket(secret) => ticket::redeem(draft, &secret, &identity)?,
        Leave::Site(credential) => iso::leave(draft.state(), &credential)?,
    };
    let mut machine = match &like {
        Match::Known(id) => draft.need::<Machine>(id)?,
        Match::New | Match::Doubtful(_) => {
            let source = draft.author.from.map(|from| crate::source::whole(from.ip()));
            room::make(draft, source, seen.absent)?;
            let machine = Machine { source, ..new_machine(draft, &ticket.location) };
            if !seen.untold {
                tell(draft, &machine, &identity, &like);
            }
            machine
        }
    };
    if let Match::Doubtful(doubt) = like {
        machine.doubt = doubt;
    }
    if machine.lifecycle == Lifecycle::Rejected {
        return Err(Enrollment::Rejected.into());
    }
    let is_in = machine.lifecycle.is_in();
    // The boot script was asked for with numbers that anybody may claim: whoever is in needs no ISO, and this is not one.
    if !is_in && !ticket.joins {
        return Err(Enrollment::NoMedium.into());
    }
    // Between the boot script and this it may have been revoked. A sealed one that is has no leave to give but to those that
    // are in and started from it before: with it somebody else would only need to know what a machine is made of.
    let needs_none = is_in && !(is_sealed && machine.iso != ticket.iso);
    if !needs_none && !ticket.iso.is_empty() && !iso::is_good(draft.state(), &ticket.iso) {
        return Err(Enrollment::MediumRevoked.into());
    }
    let before = standing(&machine);
    machine.identity = identity;
    machine.certificate = key;
    machine.trusts = Vec::new();
    machine.iso = ticket.iso;
    // Whoever started over the network does not say where it is, or claims it; a machine in somebody's hands is not moved.
    machine.invited = ticket.bound == TicketBound::Bearer && !ticket.location.is_empty();
    let is_vouched = iso::is_good(draft.state(), &machine.iso) || machine.invited;
    let may_move = match machine.lifecycle {
        Lifecycle::Pending => true,
        Lifecycle::Available => is_vouched || machine.location.is_empty(),
        _ => false,
    };
    if may_move && !ticket.location.is_empty() {
        machine.location = ticket.location;
    }
    // Boxes that nobody let in are in the event feed, which forgets: strangers must not be able to fill the audit log.
    // Nor must those who claim to be a machine that is in.
    if is_in && let Some(left_out) = told::take(&mut machine.told, draft.now_unix_ms()) {
        let left_out = match left_out {
            0 => String::new(),
            count => format!("{count} enrollments of it before this one"),
        };
        draft.audit("machine.enrolled", machine.id, before, standing(&machine).and("left_out", left_out));
    }
    let machine = save(draft, machine);
    let machine = policy::consider(draft, machine)?;
    Ok(Enrolled { machine: machine.id, lifecycle: machine.lifecycle })
}

/// Tells of a machine that is new here.
fn tell(draft: &mut Draft, machine: &Machine, identity: &Identity, like: &Match) {
    let Machine { id, name: own, claim, .. } = machine;
    let mut text = format!("{own} is new here and waits for approval, claim code {claim}");
    if let Some(retired) = identity::retired(draft.state(), identity) {
        text.push_str(&format!("; it has parts of {}, which was retired: no policy lets it in", retired.name));
    }
    draft.event("machine.pending", id, text);
    if let Match::Doubtful(doubt) = like {
        let candidates = candidates(draft.state(), identity, doubt);
        let text = format!("{own} may be {candidates}; say which with `muster machine resolve {claim}`");
        draft.event("machine.doubtful", id, text);
    }
}

fn forget(draft: &mut Draft, id: MachineId) {
    draft.delete::<MachineInventory>(&id);
    machine::health::forget(draft, id);
    machine::controls::forget(draft, id);
    draft.delete::<Machine>(&id);
}

fn name(state: &State, id: MachineId) -> String {
    state.machines.get(&id).map_or_else(|| id.to_string(), |machine| machine.name.clone())
}

/// An operator says that a box that waits for approval is a machine that is known: it becomes that machine, which goes
/// on as what it was. The box enrolls again by itself, with the key that it has.
///
/// `alive` is whether the other one is, at this moment: two live machines are never merged.
pub fn same_as(draft: &mut Draft, id: MachineId, other: MachineId, alive: Alive) -> Result<Machine, Refusal> {
    let machine = waiting(draft, id)?;
    let mut known = draft.need::<Machine>(&other)?;
    if id == other {
        return Err(Refusal::invalid("same_as", "a machine is itself already"));
    }
    if matches!(known.lifecycle, Lifecycle::Retired | Lifecycle::Rejected) {
        return Err(Refusal::Conflict(format!("{} is out of the fleet and does not come back", known.name)));
    }
    let why = match alive {
        Alive::Yes => Some("is online at this moment: two live machines are never merged"),
        Alive::Perhaps => {
            Some("may be on its way back to this controller, which has just started: ask again in a minute")
        }
        Alive::No => None,
    };
    if let Some(why) = why {
        return Err(Refusal::Conflict(format!("{} {why}", known.name)));
    }
    let waiting = Facts::of([("machine", id.to_string()), ("name", machine.name.clone())]);
    let is = Facts::of([("machine", other.to_string()), ("name", known.name.clone())]);
    draft.audit("machine.resolved", other, waiting, is);
    draft.event("machine.resolved", other, format!("{} is {}", machine.name, known.name));
    if let Some(record) = draft.get::<MachineInventory>(&id).cloned() {
        let before = draft.get::<MachineInventory>(&other).and_then(|before| before.primary);
        let primary = primary::carries(&record.inventory, before.or(record.primary));
        draft.put(MachineInventory { machine: other, primary, ..record });
    }
    forget(draft, id);
    (known.identity, known.certificate, known.iso) = (machine.identity, machine.certificate, machine.iso);
    (known.trusts, known.invited) = (machine.trusts, machine.invited);
    Ok(save(draft, known))
}

/// An operator says that a box in doubt is a machine of its own. It waits for approval like any other.
pub fn separate(draft: &mut Draft, id: MachineId) -> Result<Machine, Refusal> {
    let mut machine = waiting(draft, id)?;
    if machine.doubt.is_empty() {
        return Ok(machine);
    }
    let doubt: Vec<String> = machine.doubt.drain(..).map(|id| name(draft.state(), id)).collect();
    draft.audit("machine.resolved", id, Facts::one("is", doubt.join(" or ")), Facts::one("is", "a machine of its own"));
    draft.event("machine.resolved", id, format!("{} is a machine of its own", machine.name));
    let machine = save(draft, machine);
    policy::consider(draft, machine)
}

impl Machine {
    /// What an operator has to say while it waits.
    pub fn awaits(&self) -> Awaits {
        if self.doubt.is_empty() { Awaits::Approval } else { Awaits::Resolution }
    }
}

fn waiting(draft: &Draft, id: MachineId) -> Result<Machine, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    match machine.lifecycle {
        Lifecycle::Pending | Lifecycle::Rejected => Ok(machine),
        _ => Err(Refusal::Conflict(format!("{} does not wait for approval; what it is was decided", machine.name))),
    }
}

/// Who a box may be, and what their TPMs say of that.
fn candidates(state: &State, identity: &Identity, doubt: &[MachineId]) -> String {
    let named = |id: &MachineId| {
        let tpms = state.machines.get(id).map_or("", |known| identity::compare_tpms(&known.identity, identity));
        format!("{}{tpms}", name(state, *id))
    };
    doubt.iter().map(named).collect::<Vec<_>>().join(" or ")
}

/// Why an operator has to say something before this machine is approved; `None` where there is no doubt.
pub fn question(state: &State, machine: &Machine) -> Option<String> {
    let first = name(state, *machine.doubt.first()?);
    let candidates = candidates(state, &machine.identity, &machine.doubt);
    let Machine { name: own, claim, .. } = machine;
    Some(format!(
        "{own} may be {candidates}; say so with `muster machine resolve {claim} --same-as {first}`, or that it is a machine \
         of its own with `muster machine resolve {claim} --separate`"
    ))
}

/// What an enrollment decides of a machine, for the audit log.
fn standing(machine: &Machine) -> Facts {
    let Machine { name, location, lifecycle, certificate, .. } = machine;
    Facts::of([
        ("name", name.clone()),
        ("location", location.clone()),
        ("lifecycle", lifecycle.word().to_owned()),
        ("key", certificate.to_string()),
    ])
}

/// Refuses the key of a machine that an operator keeps out or took out; it should read so, and not look for another ticket.
fn is_kept_out(state: &State, key: Digest) -> Result<(), Enrollment> {
    with_key(state, key).try_for_each(|machine| match machine.lifecycle {
        Lifecycle::Rejected => Err(Enrollment::Rejected),
        Lifecycle::Retired => Err(Enrollment::Retired),
        _ => Ok(()),
    })
}

/// Whether a machine has its certificate for this key, and may have another: then it needs nothing else.
pub fn is_holder(state: &State, key: Digest) -> bool {
    holder(state, key).is_some()
}

/// The machine whose last certificate was issued for this key, where it may have another.
fn holder(state: &State, key: Digest) -> Option<&Machine> {
    let may = |machine: &Machine| !matches!(machine.lifecycle, Lifecycle::Rejected | Lifecycle::Retired);
    with_key(state, key).find(|machine| may(machine))
}

fn with_key(state: &State, key: Digest) -> impl Iterator<Item = &Machine> {
    state.marks().of(Mark::Certificate(key)).filter_map(|id| state.machines.get(&id))
}

fn new_machine(draft: &mut Draft, location: &str) -> Machine {
    let place = if location.is_empty() { "machine" } else { location };
    let (id, name) = loop {
        let id = MachineId::from_bytes(draft.random());
        let name = format!("{place}-{}", &id.to_string()[..6]);
        if draft.state().machines.iter().all(|machine| machine.name != name) {
            break (id, name);
        }
    };
    let mut claim = claim_code(draft.random());
    // Whoever types one means one machine.
    while draft.state().machines.iter().any(|machine| machine.claim == claim) {
        claim = claim_code(draft.random());
    }
    Machine {
        id,
        name,
        location: location.to_owned(),
        labels: BTreeMap::new(),
        lifecycle: Lifecycle::Pending,
        maintenance: Maintenance::Off,
        identity: Identity::default(),
        claim,
        doubt: Vec::new(),
        source: None,
        told: Told::default(),
        iso: String::new(),
        invited: false,
        certificate: Digest::from_bytes([0; 32]),
        trusts: Vec::new(),
        created_unix_ms: draft.now_unix_ms(),
        boot: None,
        generation: Generation(0),
        outcome: Progress::Idle,
        drift: Default::default(),
        version: 0,
    }
}

/// Of claim codes: characters that nobody confuses. No vowels, no 0, 1, I, O.
const LETTERS: &[u8; 28] = b"23456789BCDFGHJKLMNPQRSTVWXZ";

/// Whether a text is what somebody types who reads a claim code, with or without its hyphen.
pub fn is_claim_code(text: &str) -> bool {
    let letters = match text.split_once('-') {
        Some((first, second)) if first.len() == 4 && second.len() == 4 => [first, second].concat(),
        Some(_) => return false,
        None => text.to_owned(),
    };
    letters.len() == 8 && letters.bytes().all(|byte| LETTERS.contains(&byte.to_ascii_uppercase()))
}

/// Eight letters with a hyphen between four and four.
fn claim_code(random: [u8; 8]) -> String {
    let letter = |byte: &u8| LETTERS[usize::from(*byte) % LETTERS.len()] as char;
    let (first, second) = random.split_at(4);
    first.iter().map(letter).chain(['-']).chain(second.iter().map(letter)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use muster_protocol::Mac;
    use muster_protocol::enroll::{SiteCredential, Ticket};
    use ticket::Grant;

    /// A machine that has just enrolled, for tests of other nouns.
    pub(crate) fn enrolled(draft: &mut Draft, identity: Identity) -> MachineId {
        let ticket = ticket(draft);
        enroll(draft, &ticket, identity, Seen::default(), ticket.digest()).expect("enrolls").machine
    }

    /// One that shows the credential of an ISO.
    pub(crate) fn enrolled_from(draft: &mut Draft, iso: &str, identity: Identity) -> Result<Enrolled, Refusal> {
        let ticket = ticket::issue(draft, Grant { iso: iso.into(), ..Grant::bearer("ber1", 60_000) }).expect("issued");
        enroll(draft, &ticket, identity, Seen::default(), ticket.digest())
    }

    fn ticket(draft: &mut Draft) -> Ticket {
        ticket::issue(draft, Grant::bearer("ber1", 60_000)).expect("issued")
    }

    fn a_box(n: u8) -> Identity {
        let macs = vec![Mac::from_bytes([2, 0, 0, 0, 1, n])];
        Identity { system_serial: format!("SYS-{n}"), board_serial: format!("BRD-{n}"), macs, ..Identity::default() }
    }

    /// The box whose NICs were all exchanged.
    fn with_other_nics(identity: Identity) -> Identity {
        Identity { macs: vec![Mac::from_bytes([2, 0, 0, 0, 2, 0])], ..identity }
    }

    #[test]
    fn two_live_machines_are_never_merged() {
        let mut draft = draft();
        let first = enrolled(&mut draft, a_box(1));
        assert_eq!(enrolled(&mut draft, a_box(1)), first, "it started again");
        let twin = ticket(&mut draft);
        let alive = Seen { alive: vec![first], ..Seen::default() };
        let twin = enroll(&mut draft, &twin, a_box(1), alive, twin.digest()).expect("enrolls");
        assert_ne!(twin.machine, first);
        assert_eq!(twin.lifecycle, Lifecycle::Pending);
        assert!(draft.state().events.iter().any(|e| e.kind == "machine.doubtful"));
        // When the first starts again while its twin runs, it is the one that is left.
        let again = ticket(&mut draft);
        let seen = Seen { alive: vec![twin.machine], ..Seen::default() };
        assert_eq!(enroll(&mut draft, &again, a_box(1), seen, again.digest()).expect("enrolls").machine, first);
    }

    #[test]
    fn a_doubtful_box_is_a_question_until_an_operator_answers_it() {
        let mut draft = draft();
        let known = enrolled(&mut draft, a_box(1));
        machine::approve(&mut draft, known).expect("approved");
        let doubtful = enrolled(&mut draft, with_other_nics(a_box(1)));
        let refused = machine::approve(&mut draft, doubtful).expect_err("in doubt").to_string();
        assert!(refused.contains("muster machine resolve"), "{refused}");
        assert!(
            matches!(same_as(&mut draft, doubtful, known, Alive::Yes), Err(Refusal::Conflict(why)) if why.contains("online"))
        );

        let key = draft.need::<Machine>(&doubtful).expect("there").certificate;
        let merged = same_as(&mut draft, doubtful, known, Alive::No).expect("resolved");
        assert_eq!((merged.id, &merged.lifecycle), (known, &Lifecycle::Available));
        assert!(draft.get::<Machine>(&doubtful).is_none());
        // The box comes back with the key that it has, as the machine that it is.
        let used = Ticket::from_bytes([9; 32]);
        let back = enroll(&mut draft, &used, with_other_nics(a_box(1)), Seen::default(), key).expect("enrolls");
        assert_eq!(back.machine, known);
    }

    #[test]
    fn a_doubtful_box_that_is_a_machine_of_its_own_waits_for_approval_and_is_known_from_then_on() {
        let mut draft = draft();
        enrolled(&mut draft, a_box(1));
        let doubtful = enrolled(&mut draft, with_other_nics(a_box(1)));
        separate(&mut draft, doubtful).expect("resolved");
        assert_eq!(machine::approve(&mut draft, doubtful).expect("approved").lifecycle, Lifecycle::Available);
        assert_eq!(enrolled(&mut draft, with_other_nics(a_box(1))), doubtful);
        assert!(separate(&mut draft, doubtful).is_err(), "it was decided");
    }

    #[test]
    fn a_machine_that_is_in_starts_from_a_revoked_iso_and_a_new_one_does_not() {
        let mut draft = draft();
        let iso = iso::tests::built(&mut draft, b"secret").id;
        let [member, pending] = [1, 2].map(|n| enrolled_from(&mut draft, &iso, a_box(n)).expect("enrolls").machine);
        machine::approve(&mut draft, member).expect("approved");
        iso::revoke(&mut draft, &iso).expect("revoked");
        assert_eq!(enrolled_from(&mut draft, &iso, a_box(1)).expect("it is in").machine, member);
        assert_eq!(draft.need::<Machine>(&member).expect("there").iso, iso, "where it came from stays known");
        let refused = Err(Enrollment::MediumRevoked.into());
        assert_eq!(enrolled_from(&mut draft, &iso, a_box(2)), refused, "it waits for approval, and is not in");
        assert_eq!(enrolled_from(&mut draft, &iso, a_box(3)), refused);
        assert!(draft.get::<Machine>(&pending).is_some());
    }

    #[test]
    fn a_sealed_iso_lets_in_until_it_is_revoked_and_whoever_is_in_stays_in() {
        let mut draft = draft();
        let credential = SiteCredential::from_bytes([5; 32]);
        let iso = iso::tests::built_sealed(&mut draft, &[5; 32]).id;
        let ask = |draft: &mut Draft, credential: SiteCredential, n: u8| {
            enroll(draft, Leave::Site(credential), a_box(n), Seen::default(), Digest::of(&[n]))
        };
        let [member, retired] = [1, 4].map(|n| ask(&mut draft, credential, n).expect("enrolls").machine);
        let joined = draft.need::<Machine>(&member).expect("there");
        assert_eq!((joined.iso.as_str(), joined.location.as_str()), (iso.as_str(), "ber1"));
        machine::approve(&mut draft, member).expect("approved");
        machine::retire(&mut draft, retired).expect("retired");
        draft.put(Machine { location: "muc1".into(), ..draft.need(&member).expect("there") });
        let again = |draft: &mut Draft, n: u8, key: &[u8]| {
            enroll(draft, Leave::Site(credential), a_box(n), Seen::default(), Digest::of(key)).map(|e| e.machine)
        };
        let anew = again(&mut draft, 4, b"4 anew").expect("its box joins anew");
        assert_ne!(anew, retired);
        assert_eq!(draft.need::<Machine>(&anew).expect("there").lifecycle, Lifecycle::Pending);
        let told = draft.state().events.iter().any(|e| e.subject == anew.to_string() && e.text.contains("was retired"));
        assert!(told, "the operator who may let it in hears what it is");

        iso::revoke(&mut draft, &iso).expect("revoked");
        assert_eq!(again(&mut draft, 1, b"new"), Ok(member));
        assert_eq!(draft.need::<Machine>(&member).expect("there").location, "muc1", "a revoked ISO moves nobody");
        assert_eq!(again(&mut draft, 2, b"2"), Err(Enrollment::MediumRevoked.into()));
        let heard = |n: u8| is_heard(draft.state(), &Leave::Site(credential), &a_box(n), Digest::of(b"newer"), 0);
        assert_eq!(heard(1), Ok(()));
        assert_eq!(
            [heard(2), heard(3)],
            [Err(Enrollment::MediumRevoked); 2],
            "before anybody is asked for a sign of life"
        );
        let unknown = ask(&mut draft, SiteCredential::from_bytes([6; 32]), 3);
        assert_eq!(unknown, Err(Enrollment::NoMedium.into()));
    }

    #[test]
    fn the_credential_of_an_iso_that_is_not_sealed_is_no_leave_to_enroll() {
        let mut draft = draft();
        iso::tests::built(&mut draft, &[5; 32]);
        let leave = Leave::Site(SiteCredential::from_bytes([5; 32]));
        let refused = Err(Enrollment::NoMedium.into());
        assert_eq!(enroll(&mut draft, leave.clone(), a_box(1), Seen::default(), Digest::of(b"1")), refused);
        assert_eq!(is_heard(draft.state(), &leave, &a_box(1), Digest::of(b"1"), 0), Err(Enrollment::NoMedium));
    }

    #[test]
    fn a_revoked_sealed_iso_takes_the_place_of_no_machine_that_never_started_from_it() {
        let mut draft = draft();
        let stolen = iso::tests::built_sealed(&mut draft, &[5; 32]).id;
        let member = enrolled(&mut draft, a_box(1));
        machine::approve(&mut draft, member).expect("approved");
        iso::revoke(&mut draft, &stolen).expect("revoked");
        let leave = Leave::Site(SiteCredential::from_bytes([5; 32]));
        let refused = enroll(&mut draft, leave, a_box(1), Seen::default(), Digest::of(b"thief"));
        assert_eq!(refused, Err(Enrollment::MediumRevoked.into()));
    }

    #[test]
    fn a_machine_that_starts_over_the_network_stays_where_it_is() {
        let mut draft = draft();
        let id = enrolled(&mut draft, a_box(1));
        let nowhere = ticket::issue(&mut draft, Grant::bearer("", 60_000)).expect("issued");
        enroll(&mut draft, &nowhere, a_box(1), Seen::default(), nowhere.digest()).expect("enrolls");
        assert_eq!(draft.need::<Machine>(&id).expect("there").location, "ber1");
    }

    #[test]
    fn a_machine_that_is_in_is_moved_by_its_iso_and_not_by_what_a_request_claims() {
        let mut draft = draft();
        let id = enrolled(&mut draft, a_box(1));
        machine::approve(&mut draft, id).expect("approved");
        let iso = iso::tests::built(&mut draft, b"secret").id;
        let bound = TicketBound::Machine { uuid: None, macs: a_box(1).macs };
        for (from, expected) in [("", "ber1"), (iso.as_str(), "muc1")] {
            let grant = Grant { iso: from.into(), bound: bound.clone(), ..Grant::bearer("muc1", 60_000) };
            let ticket = ticket::issue(&mut draft, grant).expect("issued");
            enroll(&mut draft, &ticket, a_box(1), Seen::default(), ticket.digest()).expect("enrolls");
            assert_eq!(draft.need::<Machine>(&id).expect("there").location, expected);
        }
    }

    #[test]
    fn one_that_was_rejected_in_doubt_is_a_question_as_before() {
        let mut draft = draft();
        let known = enrolled(&mut draft, a_box(1));
        machine::approve(&mut draft, known).expect("approved");
        let doubtful = enrolled(&mut draft, with_other_nics(a_box(1)));
        machine::reject(&mut draft, doubtful).expect("rejected");
        assert!(machine::approve(&mut draft, doubtful).is_err());
        same_as(&mut draft, doubtful, known, Alive::No).expect("resolved");
    }

    #[test]
    fn whoever_claims_to_be_a_machine_that_is_off_does_not_fill_the_audit_log() {
        let mut draft = draft();
        let id = enrolled(&mut draft, a_box(1));
        machine::approve(&mut draft, id).expect("approved");
        let before = draft.state().next_audit();
        for _ in 0..1_000 {
            assert_eq!(enrolled(&mut draft, a_box(1)), id);
        }
        let entered = draft.state().next_audit() - before;
        assert!((1..=20).contains(&entered), "{entered} entries");
        draft.advance_ms(60 * 60 * 1000);
        assert_eq!(enrolled(&mut draft, a_box(1)), id);
        let last = draft.audited().pop().expect("there");
        assert_eq!(last.seq, before + entered, "an hour later there is one more");
        assert!(
            format!("{:?}", last.after).contains(&format!("{} enrollments of it before this one", 1_000 - entered)),
            "{:?}",
            last.after
        );
    }

    #[test]
    fn newcomers_without_end_are_not_told_without_end() {
        let mut draft = draft();
        let ticket = ticket(&mut draft);
        let seen = Seen { untold: true, ..Seen::default() };
        enroll(&mut draft, &ticket, a_box(1), seen, ticket.digest()).expect("enrolls");
        assert!(draft.state().events.is_empty());
        assert_eq!(draft.state().machines.len(), 1);
    }

    #[test]
    fn whoever_has_the_key_of_a_machines_last_certificate_enrolls_without_a_ticket() {
        let mut draft = draft();
        let used = ticket(&mut draft);
        let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
        let identity = Identity { system_serial: "SYS-1".into(), board_serial: "BRD-1".into(), ..Identity::default() };
        let id = enroll(&mut draft, &used, identity.clone(), Seen::default(), first).expect("enrolls").machine;
        let again =
            |draft: &mut Draft, key| enroll(draft, &used, identity.clone(), Seen::default(), key).map(|e| e.machine);
        assert_eq!(again(&mut draft, first), Ok(id), "its certificate ended, or the answer was lost");
        assert_eq!(again(&mut draft, second), Err(Enrollment::TicketUnknown.into()));
        // Another boot takes its place.
        let next = ticket(&mut draft);
        enroll(&mut draft, &next, identity.clone(), Seen::default(), second).expect("enrolls");
        assert_eq!(again(&mut draft, first), Err(Enrollment::TicketUnknown.into()), "superseded");
        machine::reject(&mut draft, id).expect("rejected");
        assert_eq!(again(&mut draft, second), Err(Enrollment::Rejected.into()), "rejected");
        machine::retire(&mut draft, id).expect("retired");
        assert_eq!(again(&mut draft, second), Err(Enrollment::Retired.into()), "retired");
        let heard = is_heard(draft.state(), &Leave::from(&used), &identity, second, draft.now_unix_ms());
        assert_eq!(heard, Err(Enrollment::Retired), "before anybody is asked for a sign of life");
    }
}
