//! Which known machine is this? Decided from what the hardware says of itself.
//!
//! Weighted, for and against: board serial and permanent MACs are worth most, the SMBIOS UUID least, since whole batches
//! share one; what [`super::junk`] knows counts for nothing.
//! A NIC that moved to another box does not take the machine with it, and a box without any of the NICs that are known of
//! it is never taken for certain: then an operator is asked ([`Match::Doubtful`]).

use muster_protocol::enroll::Identity;
use muster_protocol::inventory::{Attachment, Disk};
use muster_protocol::{DiskId, Mac, MachineId};

use super::junk::{is_junk_mac, is_junk_serial, is_junk_uuid};
use crate::fleet::State;
use crate::fleet::record::{Lifecycle, Machine};

/// Points from which two descriptions are of one machine, where nothing speaks against it.
const SAME: i32 = 4;

/// Points from which they may be.
const PERHAPS: i32 = 3;

/// Most machines that an operator is asked about.
const ASKED: usize = 4;

/// What something is worth where both sides have it: the same, or another.
struct Worth {
    same: i32,
    other: i32,
}

const BOARD_SERIAL: Worth = Worth { same: 4, other: -3 };
const MACS: Worth = Worth { same: 4, other: -3 };
const SYSTEM_SERIAL: Worth = Worth { same: 3, other: -2 };
/// Disks are exchanged, and move between machines: others are no sign.
const DISKS: Worth = Worth { same: 2, other: 0 };
const UUID: Worth = Worth { same: 2, other: -2 };

/// What the fleet knows of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It is this machine.
    Known(MachineId),
    /// None is like it.
    New,
    /// It may be one of these, the likeliest first: somebody must say.
    Doubtful(Vec<MachineId>),
}

/// A machine that is like an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Like {
    machine: MachineId,
    points: i32,
    certain: bool,
}

/// Finds the machine that `identity` describes; retired ones are not looked at.
///
/// `alive` are machines that answer in a session at this moment: whoever looks like one of them is another box, and two
/// live machines are never merged.
pub fn find(state: &State, identity: &Identity, alive: &[MachineId]) -> Match {
    let mut like = ranked(state, identity);
    let is_alive = |like: &Like| alive.contains(&like.machine);
    let certain: Vec<Like> = like.iter().copied().filter(|l| l.certain && !is_alive(l)).collect();
    let best: Vec<MachineId> =
        certain.iter().filter(|l| l.points == certain[0].points).map(|like| like.machine).collect();
    match best.as_slice() {
        [only] => return Match::Known(*only),
        [] => {}
        _ => {
            // One that somebody let in does not give way to a look-alike that nobody did.
            let is_in = |id: &&MachineId| {
                let machine = state.machines.get(id);
                machine.is_some_and(|m| !matches!(m.lifecycle, Lifecycle::Pending | Lifecycle::Rejected))
            };
            let mut members = best.iter().filter(is_in);
            return match (members.next(), members.next()) {
                (Some(only), None) => Match::Known(*only),
                _ => Match::Doubtful(best),
            };
        }
    }
    // One that is alive and only perhaps like it is simply another machine.
    like.retain(|like| like.certain || !is_alive(like));
    like.truncate(ASKED);
    match like.is_empty() {
        true => Match::New,
        false => Match::Doubtful(like.into_iter().map(|like| like.machine).collect()),
    }
}

/// Whom `identity` might be, whoever is alive: those to be asked for a sign of life before [`find`].
pub fn candidates(state: &State, identity: &Identity) -> Vec<MachineId> {
    ranked(state, identity).into_iter().map(|like| like.machine).collect()
}

/// Whether a machine that was retired had a serial number or a MAC of these. Retired ones are no [`Match`]: they do not
/// come back, and what enrolls with their numbers is new, but not unknown.
pub fn was_retired(state: &State, identity: &Identity) -> bool {
    let retired = state.machines.iter().filter(|machine| machine.lifecycle == Lifecycle::Retired);
    retired.map(|machine| &machine.identity).any(|known| {
        of_one(serial(&known.board_serial), serial(&identity.board_serial)) == Some(true)
            || of_one(serial(&known.system_serial), serial(&identity.system_serial)) == Some(true)
            || of_many(&own_macs(known), &own_macs(identity)) == Some(true)
    })
}

/// All that are like it, the likeliest first.
fn ranked(state: &State, identity: &Identity) -> Vec<Like> {
    let live = state.machines.iter().filter(|machine| machine.lifecycle != Lifecycle::Retired);
    let mut like: Vec<Like> = live.filter_map(|machine| likeness(state, machine, identity)).collect();
    like.sort_by_key(|like| (!like.certain, -like.points, like.machine));
    like
}

fn likeness(state: &State, machine: &Machine, identity: &Identity) -> Option<Like> {
    let known = &machine.identity;
    let board = of_one(serial(&known.board_serial), serial(&identity.board_serial));
    let system = of_one(serial(&known.system_serial), serial(&identity.system_serial));
    let uuid = of_one(own_uuid(known), own_uuid(identity));
    let macs = of_many(&own_macs(known), &own_macs(identity));
    // Most machines share nothing, and the inventory is only read for those that do.
    let disks = match [board, system, uuid, macs].contains(&Some(true)) || !identity.disks.is_empty() {
        true => of_many(&disks(state, machine), &identity.disks),
        false => None,
    };
    let worths = [(board, BOARD_SERIAL), (system, SYSTEM_SERIAL), (uuid, UUID), (macs, MACS), (disks, DISKS)];
    let points = worths.iter().map(|(same, worth)| same.map_or(0, |same| if same { worth.same } else { worth.other }));
    let points: i32 = points.sum();
    let certain = points >= SAME && macs != Some(false) && board != Some(false);
    (certain || points >= PERHAPS).then_some(Like { machine: machine.id, points, certain })
}

/// Whether both have it and it is the same; `None` where one of them has none.
fn of_one<T: PartialEq>(known: Option<T>, said: Option<T>) -> Option<bool> {
    Some(known? == said?)
}

/// Whether they have one in common; `None` where one of them has none.
fn of_many<T: PartialEq>(known: &[T], said: &[T]) -> Option<bool> {
    (!known.is_empty() && !said.is_empty()).then(|| known.iter().any(|one| said.contains(one)))
}

fn serial(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !is_junk_serial(text))
}

fn own_uuid(identity: &Identity) -> Option<[u8; 16]> {
    identity.uuid.filter(|uuid| !is_junk_uuid(uuid))
}

fn own_macs(identity: &Identity) -> Vec<Mac> {
    identity.macs.iter().copied().filter(|mac| !is_junk_mac(mac)).collect()
}

/// From the inventory: at enrollment not all drivers are there yet. Sticks wander, so they name no machine.
fn disks(state: &State, machine: &Machine) -> Vec<DiskId> {
    let inventory = state.inventories.get(&machine.id);
    let disks = inventory.into_iter().flat_map(|record| &record.inventory.disks);
    disks.filter(|disk| disk.attachment == Attachment::Fixed).filter_map(Disk::id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::machine;

    fn mac(last: u8) -> Mac {
        Mac::from_bytes([2, 0, 0, 0, 0, last])
    }

    fn identity(uuid: u8, serial: &str, last: u8) -> Identity {
        let mut bytes = [0xc4; 16];
        bytes[15] = uuid;
        Identity { uuid: Some(bytes), system_serial: serial.into(), macs: vec![mac(last)], ..Identity::default() }
    }

    fn with_board(board: &str, identity: Identity) -> Identity {
        Identity { board_serial: board.into(), ..identity }
    }

    #[test]
    fn a_machine_is_known_again_by_a_mac_although_its_uuid_changed() {
        let mut draft = draft();
        let id = enrolled(&mut draft, identity(1, "S1A", 1));
        assert_eq!(find(draft.state(), &identity(9, "S1A", 1), &[]), Match::Known(id));
    }

    #[test]
    fn two_boxes_with_one_uuid_are_two_machines() {
        let mut draft = draft();
        enrolled(&mut draft, identity(1, "To be filled by O.E.M.", 1));
        assert_eq!(find(draft.state(), &identity(1, "To be filled by O.E.M.", 2), &[]), Match::New);
    }

    #[test]
    fn two_boxes_of_one_batch_with_one_serial_are_two_machines() {
        let mut draft = draft();
        enrolled(&mut draft, identity(1, "BATCH-7", 1));
        assert_eq!(find(draft.state(), &identity(1, "BATCH-7", 2), &[]), Match::New);
    }

    #[test]
    fn a_box_that_is_like_two_machines_is_doubtful() {
        let mut draft = draft();
        let nics = |last| Identity { macs: vec![mac(last)], ..Identity::default() };
        let (first, second) = (enrolled(&mut draft, nics(1)), enrolled(&mut draft, nics(2)));
        let both = Identity { macs: vec![mac(1), mac(2)], ..Identity::default() };
        let Match::Doubtful(mut found) = find(draft.state(), &both, &[]) else { panic!("one of two was chosen") };
        found.sort();
        let mut expected = vec![first, second];
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_nic_that_moved_does_not_take_its_machine_along() {
        let mut draft = draft();
        enrolled(&mut draft, with_board("BRD-1", identity(1, "SYS-1", 1)));
        let mut other = with_board("BRD-2", identity(2, "SYS-2", 2));
        other.macs.push(mac(1));
        assert_eq!(find(draft.state(), &other, &[]), Match::New);
    }

    #[test]
    fn a_box_with_none_of_its_nics_left_is_a_question() {
        let mut draft = draft();
        let id = enrolled(&mut draft, with_board("BRD-1", identity(1, "SYS-1", 1)));
        let other_nics = with_board("BRD-1", identity(1, "SYS-1", 9));
        assert_eq!(find(draft.state(), &other_nics, &[]), Match::Doubtful(vec![id]));
        assert_eq!(find(draft.state(), &other_nics, &[id]), Match::New, "it answers, so this is its twin");
    }

    #[test]
    fn a_box_that_looks_like_a_machine_that_answers_is_another_one() {
        let mut draft = draft();
        let looks = with_board("BRD-1", identity(1, "SYS-1", 1));
        let id = enrolled(&mut draft, looks.clone());
        assert_eq!(find(draft.state(), &looks, &[]), Match::Known(id));
        assert_eq!(find(draft.state(), &looks, &[id]), Match::Doubtful(vec![id]));
    }

    #[test]
    fn a_look_alike_that_nobody_let_in_does_not_push_a_machine_out() {
        let mut draft = draft();
        let looks = with_board("BRD-1", identity(1, "SYS-1", 1));
        let member = enrolled(&mut draft, looks.clone());
        machine::approve(&mut draft, member).expect("approved");
        let record = draft.need::<Machine>(&member).expect("there");
        draft.put(Machine { id: MachineId::from_bytes([9; 16]), lifecycle: Lifecycle::Pending, ..record });
        assert_eq!(find(draft.state(), &looks, &[]), Match::Known(member));
    }

    #[test]
    fn junk_counts_for_nothing() {
        let mut draft = draft();
        let junk = Identity {
            uuid: muster_protocol::ids::parse_uuid("03000200-0400-0500-0006-000700080009"),
            system_serial: "Default string".into(),
            board_serial: "To be filled by O.E.M.".into(),
            macs: vec![Mac::from_bytes([0, 0x11, 0x22, 0x33, 0x44, 0x55])],
            disks: vec![],
        };
        enrolled(&mut draft, junk.clone());
        assert_eq!(find(draft.state(), &junk, &[]), Match::New);
    }
}
