//! Which CAs machines believe, as far as they have said so, and who would be lost with the CA before.
//!
//! A machine's record says what its agent was told and has kept in this boot; nothing, where it knows what its boot script
//! said. CAs are named by the SHA-256 of their certificates, the one that signs first.

use muster_protocol::{Digest, MachineId};

use crate::fleet::machine::save;
use crate::fleet::record::{Iso, Machine};
use crate::fleet::{Draft, Facts, Refusal, State};
use crate::words::counted;

/// The names of so many machines are in a refusal.
const NAMED: usize = 5;

/// Whether a machine's agent has to be told that these are the CAs in force.
///
/// Where there is one alone, whoever was never told of any knows it from its boot script: else it would have no session.
pub fn must_be_told(machine: &Machine, trusted: &[Digest]) -> bool {
    machine.trusts != trusted && (trusted.len() > 1 || !machine.trusts.is_empty())
}

/// Takes note of what a machine's agent was told and has kept.
pub fn told(draft: &mut Draft, id: MachineId, cas: Vec<Digest>) -> Result<(), Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    if machine.trusts != cas {
        save(draft, Machine { trusts: cas, ..machine });
    }
    Ok(())
}

/// Machines of the fleet that are not known to believe this CA. Who waits for approval loses nothing, and may be anybody.
pub fn behind(state: &State, ca: Digest) -> impl Iterator<Item = &Machine> {
    members(state).filter(move |machine| !machine.trusts.contains(&ca))
}

fn members(state: &State) -> impl Iterator<Item = &Machine> {
    state.machines.iter().filter(|machine| machine.lifecycle.is_in())
}

/// Sealed media that pin this CA, and let machines join or are what a machine of the fleet starts from.
pub fn sealed_for(state: &State, ca: Digest) -> impl Iterator<Item = &Iso> {
    let is_used = |iso: &Iso| iso.is_good() || members(state).any(|machine| machine.iso == iso.id);
    state.isos.iter().filter(move |iso| iso.sealed == Some(ca) && is_used(iso))
}

/// Writes down that a boot CA was made.
pub fn boot_made(draft: &mut Draft, ca: Digest) {
    draft.audit("ca.boot-made", ca, Facts::none(), Facts::one("ca", ca));
    draft.event("ca.boot-made", ca, "the boot CA was made, which ISOs pin for their UEFI machines");
}

/// Writes down that the CA is changed, before it is.
pub fn rotated(draft: &mut Draft, from: Digest, to: Digest) {
    draft.audit("ca.rotated", to, Facts::one("ca", from), Facts::one("ca", to));
    draft.event(
        "ca.rotated",
        to,
        "another CA signs now; machines that are online follow, the others when they come back",
    );
}

/// Writes down that the CA before is not trusted any more, before that is so.
///
/// Errors: machines would be lost, unless `lost` says that they may.
pub fn ended(draft: &mut Draft, before: Digest, current: Digest, lost: Lost) -> Result<(), Refusal> {
    let names: Vec<&str> = behind(draft.state(), current).map(|machine| machine.name.as_str()).collect();
    let sealed: Vec<&str> = sealed_for(draft.state(), before).map(|iso| iso.id.as_str()).collect();
    let count = names.len();
    if count + sealed.len() > 0 && lost == Lost::Refuse {
        let mut problems = Vec::new();
        if count > 0 {
            problems.push(format!(
                "{} {} not followed yet and could come back only by booting again: {}; wait until they were online",
                counted(count, "machine"),
                if count == 1 { "has" } else { "have" },
                some(&names)
            ));
        }
        if !sealed.is_empty() {
            problems.push(format!(
                "{} {} the CA before alone, so that nothing that starts from it would come in any more: {}; flash new ones \
                 for the machines that start from them, and revoke these",
                counted(sealed.len(), "sealed ISO"),
                if sealed.len() == 1 { "believes" } else { "believe" },
                some(&sealed)
            ));
        }
        return Err(Refusal::Conflict(format!(
            "{}; or do it all the same with --force, where that is no loss",
            problems.join("; ")
        )));
    }
    let trusted = |ca: String| Facts::of([("ca", ca), ("left_behind", counted(count, "machine"))]);
    draft.audit("ca.finished", current, Facts::one("ca", format!("{current}, {before}")), trusted(current.to_string()));
    draft.event(
        "ca.finished",
        current,
        format!("the CA before is not trusted any more, left behind: {}", counted(count, "machine")),
    );
    Ok(())
}

/// The first few of many.
fn some(names: &[&str]) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
}

/// What to do about machines that would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Do not lose any.
    Refuse,
    /// They have to boot again.
    Accept,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::iso;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::machine;
    use muster_protocol::enroll::Identity;

    fn cas() -> [Digest; 2] {
        [Digest::of(b"old"), Digest::of(b"new")]
    }

    fn identity(serial: &str) -> Identity {
        Identity { system_serial: serial.into(), board_serial: serial.into(), ..Identity::default() }
    }

    fn member(draft: &mut Draft, serial: &str) -> MachineId {
        let id = enrolled(draft, identity(serial));
        machine::approve(draft, id).expect("approved").id
    }

    #[test]
    fn a_machine_is_told_of_a_rotation_once_and_of_its_end_once() {
        let ([old, new], mut draft) = (cas(), draft());
        let id = enrolled(&mut draft, identity("S-1"));
        let must =
            |draft: &Draft, trusted: &[Digest]| must_be_told(draft.state().machines.get(&id).expect("there"), trusted);
        assert!(!must(&draft, &[old]), "its boot script said so");
        assert!(must(&draft, &[new, old]));
        told(&mut draft, id, vec![new, old]).expect("known");
        assert!(!must(&draft, &[new, old]));
        assert!(must(&draft, &[new]), "the old one must be forgotten");
        told(&mut draft, id, vec![new]).expect("known");
        assert!(!must(&draft, &[new]));
    }

    #[test]
    fn a_ca_that_a_sealed_iso_pins_is_not_given_up_by_mistake() {
        let ([old, new], mut draft) = (cas(), draft());
        let sealed = Iso { sealed: Some(old), ..iso::tests::built(&mut draft, b"secret") };
        draft.put(sealed.clone());
        let member = member(&mut draft, "S-1");
        draft.put(Machine { iso: sealed.id.clone(), ..draft.need(&member).expect("there") });
        let refused = |draft: &mut Draft| ended(draft, old, new, Lost::Refuse).expect_err("a loss").to_string();
        let both = refused(&mut draft);
        assert!(both.contains("1 machine has not followed") && both.contains("1 sealed ISO believes"), "{both}");
        told(&mut draft, member, vec![new, old]).expect("known");
        iso::revoke(&mut draft, &sealed.id).expect("revoked");
        assert!(refused(&mut draft).contains(&sealed.id), "a machine of the fleet starts from it");
        draft.put(Machine { iso: String::new(), ..draft.need(&member).expect("there") });
        ended(&mut draft, old, new, Lost::Refuse).expect("nobody starts from it");
    }

    #[test]
    fn who_waits_for_approval_holds_up_no_change_of_the_ca() {
        let ([old, new], mut draft) = (cas(), draft());
        enrolled(&mut draft, identity("S-1"));
        assert_eq!(behind(draft.state(), new).count(), 0);
        ended(&mut draft, old, new, Lost::Refuse).expect("nobody of the fleet is lost");
    }

    #[test]
    fn a_machine_that_boots_again_counts_as_behind_until_it_was_told() {
        let ([old, new], mut draft) = (cas(), draft());
        let id = member(&mut draft, "S-1");
        told(&mut draft, id, vec![new, old]).expect("known");
        assert_eq!(behind(draft.state(), new).count(), 0);
        assert_eq!(enrolled(&mut draft, identity("S-1")), id);
        assert_eq!(behind(draft.state(), new).count(), 1, "its boot script may be older than the rotation");
    }

    #[test]
    fn the_old_ca_is_not_dropped_while_a_machine_of_the_fleet_would_be_lost_unless_forced() {
        let ([old, new], mut draft) = (cas(), draft());
        let ids = ["S-1", "S-2", "S-3"].map(|serial| member(&mut draft, serial));
        told(&mut draft, ids[0], vec![new, old]).expect("known");
        machine::retire(&mut draft, ids[1]).expect("retired");
        let name = draft.state().machines.get(&ids[2]).expect("there").name.clone();
        let refusal = ended(&mut draft, old, new, Lost::Refuse).expect_err("one would be lost").to_string();
        assert!(
            refusal.starts_with("1 machine has") && refusal.contains(&name) && refusal.contains("--force"),
            "{refusal}"
        );
        assert!(!refusal.contains("retire"), "a machine that is switched off is no reason to lose it: {refusal}");
        ended(&mut draft, old, new, Lost::Accept).expect("forced");
        told(&mut draft, ids[2], vec![new, old]).expect("known");
        ended(&mut draft, old, new, Lost::Refuse).expect("nobody is lost");
    }
}
