//! Which known machine is this? Decided from what the hardware says of itself.
//!
//! Weighted: permanent MACs and serials are worth most, the SMBIOS UUID least, since whole batches share one.
//! Junk that vendors leave in their tables counts for nothing.

use muster_protocol::MachineId;
use muster_protocol::enroll::Identity;

use crate::fleet::State;
use crate::fleet::record::{Lifecycle, Machine};

/// Points from which two descriptions are taken to be of one machine.
const SAME: u32 = 4;

const SHARED_MAC: u32 = 4;
const SAME_BOARD_SERIAL: u32 = 3;
const SAME_SYSTEM_SERIAL: u32 = 3;
const SAME_UUID: u32 = 2;

/// What the fleet knows of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It is this machine.
    Known(MachineId),
    /// None is like it.
    New,
    /// More than one is equally like it.
    Doubtful(Vec<MachineId>),
}

/// Finds the machine that `identity` describes; retired ones are not looked at.
pub fn find(state: &State, identity: &Identity) -> Match {
    let mut best = SAME;
    let mut found: Vec<MachineId> = Vec::new();
    for machine in state.machines.iter().filter(|m| m.lifecycle != Lifecycle::Retired) {
        let points = likeness(machine, identity);
        if points > best {
            best = points;
            found.clear();
        }
        if points == best {
            found.push(machine.id);
        }
    }
    match found.as_slice() {
        [] => Match::New,
        [only] => Match::Known(*only),
        _ => Match::Doubtful(found),
    }
}

fn likeness(machine: &Machine, identity: &Identity) -> u32 {
    let known = &machine.identity;
    let same = |a: &str, b: &str| !is_junk(a) && a == b;
    let worth = |holds: bool, points: u32| if holds { points } else { 0 };
    let both_have_macs = !known.macs.is_empty() && !identity.macs.is_empty();
    let shares_mac = known.macs.iter().any(|mac| identity.macs.contains(mac));
    // Boxes of one batch may share every number but the MACs: with none in common they are two boxes,
    // unless a serial says that one had its NICs changed.
    let serials = worth(same(&known.board_serial, &identity.board_serial), SAME_BOARD_SERIAL)
        + worth(same(&known.system_serial, &identity.system_serial), SAME_SYSTEM_SERIAL);
    let uuid = worth(identity.uuid.is_some() && known.uuid == identity.uuid, SAME_UUID);
    if both_have_macs && !shares_mac && serials < SAME_BOARD_SERIAL + SAME_SYSTEM_SERIAL {
        return 0;
    }
    worth(shares_mac, SHARED_MAC) + serials + uuid
}

/// Texts that vendors leave in serial number fields.
fn is_junk(serial: &str) -> bool {
    const KNOWN: [&str; 9] = [
        "to be filled by o.e.m.",
        "default string",
        "system serial number",
        "base board serial number",
        "not specified",
        "not applicable",
        "none",
        "123456789",
        "0123456789",
    ];
    let text = serial.trim().to_ascii_lowercase();
    let mut bytes = text.bytes();
    let first = bytes.next();
    text.len() < 3 || KNOWN.contains(&text.as_str()) || bytes.all(|b| Some(b) == first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use muster_protocol::Mac;

    fn identity(uuid: u8, serial: &str, mac: u8) -> Identity {
        Identity {
            uuid: Some([uuid; 16]),
            system_serial: serial.into(),
            board_serial: String::new(),
            macs: vec![Mac::from_bytes([2, 0, 0, 0, 0, mac])],
        }
    }

    #[test]
    fn a_machine_is_known_again_by_a_mac_although_its_uuid_changed() {
        let mut draft = draft();
        let id = enrolled(&mut draft, identity(1, "S1", 1));
        assert_eq!(find(draft.state(), &identity(9, "S1", 1)), Match::Known(id));
    }

    #[test]
    fn two_boxes_with_one_uuid_are_two_machines() {
        let mut draft = draft();
        enrolled(&mut draft, identity(1, "To be filled by O.E.M.", 1));
        assert_eq!(find(draft.state(), &identity(1, "To be filled by O.E.M.", 2)), Match::New);
    }

    #[test]
    fn two_boxes_of_one_batch_with_one_serial_are_two_machines() {
        let mut draft = draft();
        enrolled(&mut draft, identity(1, "BATCH-7", 1));
        assert_eq!(find(draft.state(), &identity(1, "BATCH-7", 2)), Match::New);
    }

    #[test]
    fn a_box_that_is_like_two_machines_is_doubtful() {
        let mut draft = draft();
        let first = enrolled(&mut draft, identity(1, "AAA1", 1));
        let second = enrolled(&mut draft, identity(2, "BBB2", 2));
        let mut both = identity(3, "CCC3", 1);
        both.macs.push(Mac::from_bytes([2, 0, 0, 0, 0, 2]));
        let Match::Doubtful(mut found) = find(draft.state(), &both) else { panic!("one of two was chosen") };
        found.sort();
        let mut expected = vec![first, second];
        expected.sort();
        assert_eq!(found, expected);
    }
}
