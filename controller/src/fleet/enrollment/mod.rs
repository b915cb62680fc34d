//! Enrollment: who may join, and which machine a box is.
//!
//! Called by the sessions with what an agent asks, inside [`super::Fleet::change`].
//! A box shows a [`ticket`], is recognized by what its hardware says of itself ([`identity`]), and waits for approval
//! where it is new.

pub mod identity;
pub mod ticket;

use std::collections::BTreeMap;

use muster_protocol::enroll::{Identity, Refusal as Enrollment, Ticket};
use muster_protocol::hello::Progress;
use muster_protocol::{Digest, Generation, MachineId};

use super::machine::save;
use super::record::{Lifecycle, Machine, Maintenance};
use super::{Draft, Refusal, State};
use identity::Match;

/// What an enrollment leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The machine this box is.
    pub machine: MachineId,
    /// Its lifecycle at this moment.
    pub lifecycle: Lifecycle,
}

/// Uses up a ticket and says which machine this box is: one that is known, or a new one that waits for approval.
///
/// `alive` is a machine that answers in a session at this moment: a box that looks like it is another one.
///
/// `key` is what the request proves to have. Whoever has the key of a machine's last certificate is that machine, and
/// needs no ticket: its certificate ended while it was cut off, or the answer to its enrollment was lost.
///
/// Errors: the ticket's, [`Enrollment::Rejected`].
pub fn enroll(
    draft: &mut Draft,
    secret: &Ticket,
    identity: Identity,
    alive: Option<MachineId>,
    key: Digest,
) -> Result<Enrolled, Refusal> {
    if let Some(machine) = holder(draft.state(), key) {
        return Ok(Enrolled { machine: machine.id, lifecycle: machine.lifecycle.clone() });
    }
    let ticket = ticket::redeem(draft, secret, &identity)?;
    let like = match identity::find(draft.state(), &identity) {
        Match::Known(id) if alive == Some(id) => Match::Doubtful(vec![id]),
        other => other,
    };
    let mut machine = match like {
        Match::Known(id) => draft.need::<Machine>(&id)?,
        Match::New => new_machine(draft, &ticket.location),
        Match::Doubtful(like) => {
            let machine = new_machine(draft, &ticket.location);
            let names: Vec<String> = like.iter().map(ToString::to_string).collect();
            draft.event("machine.doubtful", machine.id, format!("may be one of {}", names.join(", ")));
            machine
        }
    };
    if machine.lifecycle == Lifecycle::Rejected {
        return Err(Enrollment::Rejected.into());
    }
    let is_new = draft.get::<Machine>(&machine.id).is_none();
    let before = if is_new { String::new() } else { standing(&machine) };
    machine.identity = identity;
    machine.certificate = key;
    if machine.lifecycle == Lifecycle::Pending || machine.lifecycle == Lifecycle::Available {
        machine.location = ticket.location;
    }
    let answer = Enrolled { machine: machine.id, lifecycle: machine.lifecycle.clone() };
    let action = if is_new { "machine.pending" } else { "machine.enrolled" };
    draft.audit(action, machine.id, before, standing(&machine));
    save(draft, machine);
    Ok(answer)
}

/// What an enrollment decides of a machine, for the audit log.
fn standing(machine: &Machine) -> String {
    let Machine { name, location, lifecycle, certificate, .. } = machine;
    format!("{name} at {location:?}, {lifecycle:?}, certificate for the key {certificate}")
}

/// The machine whose last certificate was issued for this key, where it may have another.
fn holder(state: &State, key: Digest) -> Option<&Machine> {
    let may = |machine: &Machine| !matches!(machine.lifecycle, Lifecycle::Rejected | Lifecycle::Retired);
    state.machines.iter().find(|machine| machine.certificate == key && may(machine))
}

fn new_machine(draft: &mut Draft, location: &str) -> Machine {
    let id = MachineId::from_bytes(draft.random());
    let short = &id.to_string()[..6];
    let name = if location.is_empty() { format!("machine-{short}") } else { format!("{location}-{short}") };
    let claim = claim_code(draft.random());
    draft.event("machine.pending", id, format!("{name} is new here and waits for approval, claim code {claim}"));
    Machine {
        id,
        name,
        location: location.to_owned(),
        labels: BTreeMap::new(),
        lifecycle: Lifecycle::Pending,
        maintenance: Maintenance::Off,
        identity: Identity::default(),
        claim,
        certificate: Digest::from_bytes([0; 32]),
        created_unix_ms: draft.now_unix_ms(),
        boot: None,
        generation: Generation(0),
        outcome: Progress::Idle,
        version: 0,
    }
}

/// Eight characters that nobody confuses: no vowels, no 0, 1, I, O.
fn claim_code(random: [u8; 8]) -> String {
    const LETTERS: &[u8; 28] = b"23456789BCDFGHJKLMNPQRSTVWXZ";
    let letter = |byte: &u8| LETTERS[usize::from(*byte) % LETTERS.len()] as char;
    let (first, second) = random.split_at(4);
    first.iter().map(letter).chain(['-']).chain(second.iter().map(letter)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::machine;
    use crate::fleet::record::TicketBound;

    /// A machine that has just enrolled, for tests of other nouns.
    pub(crate) fn enrolled(draft: &mut Draft, identity: Identity) -> MachineId {
        let ticket = ticket::issue(draft, "ber1".into(), TicketBound::Bearer, 1_000).expect("issued");
        enroll(draft, &ticket, identity, None, ticket.digest()).expect("enrolls").machine
    }

    #[test]
    fn two_live_machines_are_never_merged() {
        let mut draft = draft();
        let identity = Identity { system_serial: "SYS-1".into(), board_serial: "BRD-1".into(), ..Identity::default() };
        let first = enrolled(&mut draft, identity.clone());
        let ticket =
            |draft: &mut Draft| ticket::issue(draft, "ber1".into(), TicketBound::Bearer, 1_000).expect("issued");
        let again = ticket(&mut draft);
        assert_eq!(enroll(&mut draft, &again, identity.clone(), None, again.digest()).expect("enrolls").machine, first);
        let twin = ticket(&mut draft);
        let twin = enroll(&mut draft, &twin, identity, Some(first), twin.digest()).expect("enrolls");
        assert_ne!(twin.machine, first);
        assert_eq!(twin.lifecycle, Lifecycle::Pending);
        assert!(draft.state().events.iter().any(|e| e.kind == "machine.doubtful"));
    }

    #[test]
    fn whoever_has_the_key_of_a_machines_last_certificate_enrolls_without_a_ticket() {
        let mut draft = draft();
        let used = ticket::issue(&mut draft, "ber1".into(), TicketBound::Bearer, 60_000).expect("issued");
        let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
        let identity = Identity { system_serial: "SYS-1".into(), board_serial: "BRD-1".into(), ..Identity::default() };
        let id = enroll(&mut draft, &used, identity.clone(), None, first).expect("enrolls").machine;
        let again = |draft: &mut Draft, key| enroll(draft, &used, identity.clone(), None, key).map(|e| e.machine);
        assert_eq!(again(&mut draft, first), Ok(id), "its certificate ended, or the answer was lost");
        assert_eq!(again(&mut draft, second), Err(Enrollment::TicketUnknown.into()));
        // Another boot takes its place.
        let next = ticket::issue(&mut draft, "ber1".into(), TicketBound::Bearer, 60_000).expect("issued");
        enroll(&mut draft, &next, identity.clone(), None, second).expect("enrolls");
        assert_eq!(again(&mut draft, first), Err(Enrollment::TicketUnknown.into()), "superseded");
        machine::retire(&mut draft, id).expect("retired");
        assert_eq!(again(&mut draft, second), Err(Enrollment::TicketUnknown.into()), "retired");
    }
}
