//! Policies: rules by which machines are approved without an operator's hand.
//!
//! A policy's conditions are a list of hardware, an ISO's credential, a location, a number and a date; all that it names
//! must hold. It never approves a machine whose identity is in doubt, nor one that was retired.
//! What hardware says of itself is a claim and no proof (see docs/threat-model.md): a list keeps honest strangers out.

use muster_protocol::MachineId;
use muster_protocol::enroll::is_serial;

use super::junk::{is_junk_mac, is_junk_serial, is_junk_uuid};
use super::{identity, iso};
use crate::api::view::Time;
use crate::fleet::location::{check_code, choose};
use crate::fleet::machine;
use crate::fleet::record::{Hardware, Iso, IsoRule, Lifecycle, Machine, Policy};
use crate::fleet::{Draft, Facts, Refusal, State};

/// The most policies that there may be.
const KEPT: usize = 1_000;

/// The most entries of one list of hardware.
const HARDWARE: usize = 1_000;

/// What a policy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// For people; unique.
    pub name: String,
    /// Code of a location, empty for all of them.
    pub location: String,
    /// One of these; empty for any.
    pub hardware: Vec<Hardware>,
    /// An ISO's credential.
    pub iso: IsoRule,
    /// At most so many machines.
    pub machines: Option<u32>,
    /// Until then.
    pub until_unix_ms: Option<u64>,
}

/// Makes a policy, and approves those for whom it was made and who wait already, oldest first.
///
/// Errors: a condition that cannot be; no such location or ISO; a policy that would let anybody in for ever.
pub fn create(draft: &mut Draft, conditions: Conditions) -> Result<Policy, Refusal> {
    let created_unix_ms = draft.now_unix_ms();
    check(draft, &conditions)?;
    let Conditions { name, location, hardware, iso, machines, until_unix_ms } = conditions;
    let policy = Policy { name, location, hardware, iso, machines, until_unix_ms, approved: 0, created_unix_ms };
    draft.audit("policy.created", &policy.name, Facts::none(), facts(&policy));
    draft.event("policy.created", &policy.name, format!("machines are approved by the policy {}", policy.name));
    draft.put(policy.clone());
    let is_pending = |machine: &&Machine| machine.lifecycle == Lifecycle::Pending;
    let mut waiting: Vec<Machine> = draft.state().machines.iter().filter(is_pending).cloned().collect();
    waiting.sort_by_key(|machine| machine.created_unix_ms);
    for machine in waiting {
        // Whoever finds no room in this change is approved when it starts the next time.
        if !draft.has_room() {
            break;
        }
        consider(draft, machine)?;
    }
    draft.need(&policy.name)
}

/// Takes a policy away. Whom it approved stays.
pub fn delete(draft: &mut Draft, name: &str) -> Result<(), Refusal> {
    let policy = draft.need::<Policy>(&name.to_owned())?;
    draft.audit("policy.deleted", name, facts(&policy), Facts::none());
    draft.event("policy.deleted", name, format!("the policy {name} approves nobody any more"));
    draft.delete::<Policy>(&policy.name);
    Ok(())
}

/// Approves a pending machine where a policy says so; the answer is the machine as it is then.
pub fn consider(draft: &mut Draft, machine: Machine) -> Result<Machine, Refusal> {
    if machine.lifecycle != Lifecycle::Pending || !machine.doubt.is_empty() {
        return Ok(machine);
    }
    // Somebody took it out for good, perhaps because it was stolen: only somebody may let it in again.
    if identity::was_retired(draft.state(), &machine.identity) {
        return Ok(machine);
    }
    let now = draft.now_unix_ms();
    let Some(mut policy) = draft.state().policies.iter().find(|p| admits(draft.state(), p, &machine, now)).cloned()
    else {
        return Ok(machine);
    };
    policy.approved += 1;
    let by = format!("policy:{}", policy.name);
    let told = format!("was approved by the policy {}", policy.name);
    draft.put(policy);
    let author = draft.author.clone();
    draft.author.who = by;
    let approved = machine::move_to(draft, machine, Lifecycle::Available, "machine.approved", &told);
    draft.author = author;
    approved
}

fn admits(state: &State, policy: &Policy, machine: &Machine, now_unix_ms: u64) -> bool {
    let is_one = |hardware: &Hardware| match hardware {
        // As it stands on a label, or on papers that somebody typed.
        Hardware::Serial(serial) => [&machine.identity.system_serial, &machine.identity.board_serial]
            .iter()
            .any(|own| own.trim().eq_ignore_ascii_case(serial.trim())),
        Hardware::Uuid(uuid) => machine.identity.uuid == Some(*uuid),
        Hardware::Mac(mac) => machine.identity.macs.contains(mac),
    };
    let iso = match &policy.iso {
        IsoRule::Unasked => true,
        IsoRule::Any => iso::is_good(state, &machine.iso),
        IsoRule::Only(id) => machine.iso == *id && iso::is_good(state, id),
    };
    // Over the network anybody claims to be anywhere: see docs/threat-model.md.
    let is_there = || policy.location == machine.location && (machine.invited || iso::is_good(state, &machine.iso));
    iso && (policy.location.is_empty() || is_there())
        && (policy.hardware.is_empty() || policy.hardware.iter().any(is_one))
        && policy.machines.is_none_or(|most| policy.approved < most)
        && policy.until_unix_ms.is_none_or(|until| now_unix_ms < until)
}

fn check(draft: &Draft, conditions: &Conditions) -> Result<(), Refusal> {
    let Conditions { name, location, hardware, iso, machines, until_unix_ms } = conditions;
    check_code("name", name)?;
    if draft.get::<Policy>(name).is_some() {
        return Err(Refusal::Conflict(format!("there is a policy {name:?} already; delete it first")));
    }
    if draft.state().policies.len() >= KEPT {
        return Err(Refusal::Exhausted(format!("there are {KEPT} policies, and no more are kept")));
    }
    if !location.is_empty() {
        choose(draft.state(), "location", location)?;
    }
    if let IsoRule::Only(id) = iso
        && draft.need::<Iso>(id)?.revoked_unix_ms.is_some()
    {
        return Err(Refusal::Conflict(format!("the ISO {id} is revoked")));
    }
    if hardware.len() > HARDWARE {
        return Err(Refusal::invalid("hardware", format!("a policy lists at most {HARDWARE} of them")));
    }
    for one in hardware {
        if let Hardware::Serial(serial) = one
            && !is_serial(serial)
        {
            let problem =
                format!("{serial:?} is longer than 128 bytes, or has characters that do not show: type it anew");
            return Err(Refusal::invalid("serials", problem));
        }
        let (field, text, says_nothing) = match one {
            Hardware::Serial(serial) => ("serials", serial.clone(), is_junk_serial(serial)),
            Hardware::Uuid(uuid) => ("uuids", MachineId::from_bytes(*uuid).to_string(), is_junk_uuid(uuid)),
            Hardware::Mac(mac) => ("macs", mac.to_string(), is_junk_mac(mac)),
        };
        if says_nothing {
            return Err(Refusal::invalid(field, format!("{text:?} is on many machines and names none")));
        }
    }
    if *machines == Some(0) {
        return Err(Refusal::invalid("machines", "a policy for no machine approves nobody"));
    }
    if until_unix_ms.is_some_and(|until| until <= draft.now_unix_ms()) {
        return Err(Refusal::invalid("until", "this is in the past"));
    }
    // Without a list or a credential it is open to whoever comes: then it must have both ends.
    if hardware.is_empty() && *iso == IsoRule::Unasked && (machines.is_none() || until_unix_ms.is_none()) {
        return Err(Refusal::invalid(
            "policy",
            "this would let in whoever comes, for ever: name serials, UUIDs, MACs or an ISO, or else both a number of \
             machines and a date",
        ));
    }
    Ok(())
}

/// For the audit log.
fn facts(policy: &Policy) -> Facts {
    let Policy { location, hardware, iso, machines, until_unix_ms, approved, .. } = policy;
    let one = |hardware: &Hardware| match hardware {
        Hardware::Serial(serial) => format!("serial {serial}"),
        Hardware::Uuid(uuid) => format!("UUID {}", MachineId::from_bytes(*uuid)),
        Hardware::Mac(mac) => format!("MAC {mac}"),
    };
    let iso = match iso {
        IsoRule::Unasked => String::new(),
        IsoRule::Any => "any".to_owned(),
        IsoRule::Only(id) => id.clone(),
    };
    Facts::of([
        ("location", location.clone()),
        ("hardware", hardware.iter().map(one).collect::<Vec<_>>().join(", ")),
        ("iso", iso),
        ("machines", machines.map_or_else(String::new, |most| format!("at most {most}"))),
        ("until", until_unix_ms.map_or("for ever".to_owned(), |at| Time(at).text())),
        ("approved", approved.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::iso::tests::built;
    use crate::fleet::enrollment::tests::{enrolled, enrolled_from};
    use crate::fleet::enrollment::ticket::{self, Grant};
    use crate::fleet::enrollment::{Seen, enroll};
    use crate::fleet::record::TicketBound;
    use muster_protocol::Mac;
    use muster_protocol::enroll::Identity;

    fn open(name: &str) -> Conditions {
        let hardware = Vec::new();
        Conditions {
            name: name.into(),
            location: String::new(),
            hardware,
            iso: IsoRule::Unasked,
            machines: None,
            until_unix_ms: None,
        }
    }

    fn a_box(n: u8) -> Identity {
        let mut uuid = [0x51; 16];
        uuid[15] = n;
        let macs = vec![Mac::from_bytes([2, 0, 0, 0, 0, n])];
        Identity { uuid: Some(uuid), system_serial: format!("SYS-{n}"), macs, ..Identity::default() }
    }

    fn lifecycle(draft: &Draft, id: MachineId) -> Lifecycle {
        draft.need::<Machine>(&id).expect("there").lifecycle
    }

    #[test]
    fn a_list_of_serials_uuids_and_macs_approves_those_and_no_others() {
        let mut draft = draft();
        let hardware = vec![
            Hardware::Serial("sys-1".into()),
            Hardware::Uuid(a_box(2).uuid.expect("has one")),
            Hardware::Mac(a_box(3).macs[0]),
        ];
        create(&mut draft, Conditions { hardware, ..open("rack") }).expect("made");
        for n in 1..=3 {
            let id = enrolled(&mut draft, a_box(n));
            assert_eq!(lifecycle(&draft, id), Lifecycle::Available, "box {n}");
        }
        let stranger = enrolled(&mut draft, a_box(4));
        assert_eq!(lifecycle(&draft, stranger), Lifecycle::Pending);
        assert_eq!(draft.need::<Policy>(&"rack".to_owned()).expect("there").approved, 3);
        assert!(draft.audited().iter().any(|entry| entry.who == "policy:rack"));
    }

    #[test]
    fn those_who_wait_already_are_approved_when_their_policy_is_made() {
        let mut draft = draft();
        let id = enrolled(&mut draft, a_box(1));
        create(&mut draft, Conditions { hardware: vec![Hardware::Serial("SYS-1".into())], ..open("late") })
            .expect("made");
        assert_eq!(lifecycle(&draft, id), Lifecycle::Available);
    }

    #[test]
    fn so_many_machines_until_a_date_and_not_one_more_nor_later() {
        let mut draft = draft();
        let until = draft.now_unix_ms() + 60_000;
        let party = Conditions { machines: Some(2), until_unix_ms: Some(until), ..open("party") };
        create(&mut draft, party.clone()).expect("made");
        let ids: Vec<MachineId> = (1..=3).map(|n| enrolled(&mut draft, a_box(n))).collect();
        let states: Vec<Lifecycle> = ids.iter().map(|id| lifecycle(&draft, *id)).collect();
        assert_eq!(states, [Lifecycle::Available, Lifecycle::Available, Lifecycle::Pending]);
        create(&mut draft, Conditions { name: "next".into(), machines: Some(9), ..party }).expect("made");
        assert_eq!(lifecycle(&draft, ids[2]), Lifecycle::Available);
        draft.advance_ms(60_000);
        let late = enrolled(&mut draft, a_box(4));
        assert_eq!(lifecycle(&draft, late), Lifecycle::Pending);
    }

    #[test]
    fn the_credential_of_an_iso_approves_until_it_is_revoked() {
        let mut draft = draft();
        let iso = built(&mut draft, b"secret");
        create(&mut draft, Conditions { iso: IsoRule::Only(iso.id.clone()), ..open("stick") }).expect("made");
        let without = enrolled(&mut draft, a_box(1));
        assert_eq!(lifecycle(&draft, without), Lifecycle::Pending);
        let with = enrolled_from(&mut draft, &iso.id, a_box(2)).expect("enrolls").machine;
        assert_eq!(lifecycle(&draft, with), Lifecycle::Available);
        iso::revoke(&mut draft, &iso.id).expect("revoked");
        assert!(draft.state().policies.is_empty(), "a policy that asks for nothing but a revoked ISO is over");
        assert!(enrolled_from(&mut draft, &iso.id, a_box(3)).is_err());
        assert_eq!(lifecycle(&draft, with), Lifecycle::Available, "who is in stays in");
    }

    #[test]
    fn a_location_that_is_only_claimed_counts_for_no_policy_and_one_of_an_iso_or_an_operators_ticket_does() {
        let mut draft = draft();
        let iso = built(&mut draft, b"secret").id;
        let hardware = (1..=4).map(|n| Hardware::Mac(a_box(n).macs[0])).collect();
        create(&mut draft, Conditions { location: "ber1".into(), hardware, ..open("site") }).expect("made");
        let starts = |draft: &mut Draft, n: u8, iso: &str| {
            let bound = TicketBound::Machine { uuid: a_box(n).uuid, macs: a_box(n).macs };
            let ticket = ticket::issue(draft, Grant { bound, iso: iso.into(), ..Grant::bearer("ber1", 60_000) })
                .expect("issued");
            enroll(draft, &ticket, a_box(n), Seen::default(), ticket.digest()).expect("enrolls").machine
        };
        let claimed = starts(&mut draft, 1, "");
        assert_eq!(draft.need::<Machine>(&claimed).expect("there").location, "ber1", "an operator sees what it claims");
        assert_eq!(lifecycle(&draft, claimed), Lifecycle::Pending);
        let from_iso = starts(&mut draft, 2, &iso);
        assert_eq!(lifecycle(&draft, from_iso), Lifecycle::Available);
        let invited = enrolled(&mut draft, a_box(3));
        assert_eq!(lifecycle(&draft, invited), Lifecycle::Available);

        // What vouched for it once does not when it comes without, and claims another place.
        delete(&mut draft, "site").expect("deleted");
        let once = enrolled(&mut draft, a_box(4));
        assert_eq!(starts(&mut draft, 4, ""), once);
        let hardware = vec![Hardware::Mac(a_box(4).macs[0])];
        create(&mut draft, Conditions { location: "ber1".into(), hardware, ..open("later") }).expect("made");
        assert_eq!(lifecycle(&draft, once), Lifecycle::Pending);
    }

    #[test]
    fn a_machine_in_doubt_is_approved_by_no_policy() {
        let mut draft = draft();
        let hardware = vec![Hardware::Serial("SYS-1".into())];
        create(&mut draft, Conditions { hardware, ..open("rack") }).expect("made");
        let first = enrolled(&mut draft, Identity { board_serial: "BRD-1".into(), ..a_box(1) });
        let other_nics = Identity { board_serial: "BRD-1".into(), macs: a_box(9).macs, ..a_box(1) };
        let doubtful = enrolled(&mut draft, other_nics);
        assert_ne!(doubtful, first);
        assert_eq!(lifecycle(&draft, doubtful), Lifecycle::Pending);
    }

    #[test]
    fn a_machine_that_was_retired_comes_back_by_no_policy() {
        let mut draft = draft();
        let hardware = ["SYS-1", "SYS-7"].map(|serial| Hardware::Serial(serial.into())).to_vec();
        create(&mut draft, Conditions { hardware, ..open("rack") }).expect("made");
        let id = enrolled(&mut draft, a_box(1));
        machine::retire(&mut draft, id).expect("retired");
        for again in [a_box(1), Identity { macs: a_box(9).macs, ..a_box(1) }] {
            let again = enrolled(&mut draft, again);
            assert_ne!(again, id);
            assert_eq!(lifecycle(&draft, again), Lifecycle::Pending);
            machine::approve(&mut draft, again).expect("an operator may");
            machine::retire(&mut draft, again).expect("retired");
        }
        let other = enrolled(&mut draft, a_box(7));
        assert_eq!(lifecycle(&draft, other), Lifecycle::Available, "the policy goes on for others");
    }

    #[test]
    fn a_policy_that_lets_anybody_in_or_cannot_be_is_refused_by_field() {
        let mut draft = draft();
        let now = draft.now_unix_ms();
        let serial = |text: &str| vec![Hardware::Serial(text.into())];
        for (conditions, part) in [
            (open("all"), "whoever comes"),
            (Conditions { machines: Some(3), ..open("all") }, "whoever comes"),
            (Conditions { until_unix_ms: Some(now + 1), ..open("all") }, "whoever comes"),
            (Conditions { hardware: serial("Default string"), ..open("junk") }, "serials: "),
            (Conditions { hardware: serial("7C\u{202e}Z"), ..open("turned") }, "do not show"),
            (Conditions { hardware: vec![Hardware::Uuid([0xff; 16])], ..open("junk") }, "uuids: "),
            (Conditions { machines: Some(0), hardware: serial("S-1"), ..open("none") }, "machines: "),
            (Conditions { until_unix_ms: Some(now), hardware: serial("S-1"), ..open("late") }, "until: "),
            (Conditions { location: "muc1".into(), hardware: serial("S-1"), ..open("far") }, "no location"),
            (Conditions { iso: IsoRule::Only("x".into()), ..open("stick") }, "no ISO"),
            (Conditions { hardware: serial("S-1"), ..open("No Name") }, "name: "),
        ] {
            let refused = create(&mut draft, conditions).expect_err(part).to_string();
            assert!(refused.contains(part), "{refused}");
        }
        assert!(draft.state().policies.is_empty());
    }
}
