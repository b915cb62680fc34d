//! Which known machine is this? Decided from what the hardware says of itself.
//!
//! Weighted, for and against: the TPM's key is worth more than all the rest together, then board serial and permanent MACs,
//! the SMBIOS UUID least, since whole batches share one; what [`super::junk`] knows counts for nothing.
//! A NIC that moved to another box does not take the machine with it, and a box without any of the NICs that are known of
//! it is never taken for certain: then an operator is asked ([`Match::Doubtful`]). So it is of a box without the TPM's key
//! that is known of it, or with another: a new board looks like that, and so does an impostor.
//! All of it is what a box says. Nothing here proves that it has the key that it names.

use std::collections::BTreeSet;

use muster_protocol::enroll::{Identity, Tpm};
use muster_protocol::inventory::{Attachment, Disk, Inventory};
use muster_protocol::{Digest, DiskId, Mac, MachineId};

use super::junk::{is_junk_key, is_junk_mac, is_junk_serial, is_junk_uuid};
use super::marks::Mark;
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

/// The same counts for more than all the rest can speak against.
const TPM: Worth = Worth { same: 20, other: -4 };
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
    /// It may be one of these, those that are in before others and the likeliest first: somebody must say.
    Doubtful(Vec<MachineId>),
}

/// A machine that is like an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Like {
    machine: MachineId,
    points: i32,
    /// Whether all but the TPM says that it is this one, and nothing that it is not.
    alike: bool,
    /// Whether it is this one, where it is not alive.
    certain: bool,
}

/// Whether whoever describes a box could have asked its TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Describer {
    /// An agent: a key that it does not tell is missing.
    Agent,
    /// iPXE, which tells numbers alone.
    BootProgram,
}

/// Finds the machine that `identity` describes; retired ones are not looked at.
///
/// `alive` are machines that answer in a session at this moment: whoever looks like one of them is another box, and two
/// live machines are never merged.
pub fn find(state: &State, identity: &Identity, alive: &[MachineId]) -> Match {
    decide(state, ranked(state, identity, Describer::Agent), alive)
}

/// As [`find`] for a box that has only its boot program yet, whoever is alive: a key that it does not tell is no sign.
pub fn find_booting(state: &State, identity: &Identity) -> Match {
    decide(state, ranked(state, identity, Describer::BootProgram), &[])
}

fn decide(state: &State, mut like: Vec<Like>, alive: &[MachineId]) -> Match {
    let is_alive = |like: &Like| alive.contains(&like.machine);
    let certain: Vec<Like> = like.iter().copied().filter(|l| l.certain && !is_alive(l)).collect();
    // A TPM in a box whose every other part is another machine's was moved there, or that machine's parts were.
    let is_best = |l: &&Like| l.points == certain[0].points || l.alike && !certain[0].alike;
    let best: Vec<MachineId> = certain.iter().filter(is_best).map(|like| like.machine).collect();
    match best.as_slice() {
        [only] => return Match::Known(*only),
        [] => {}
        _ => {
            // One that somebody let in does not give way to a look-alike that nobody did.
            let mut members = best.iter().filter(|id| state.is_in(**id));
            return match (members.next(), members.next()) {
                (Some(only), None) => Match::Known(*only),
                _ => asked(state, best),
            };
        }
    }
    // One that is alive and only perhaps like it is simply another machine.
    like.retain(|like| like.certain || like.alike || !is_alive(like));
    match like.is_empty() {
        true => Match::New,
        false => asked(state, like.into_iter().map(|like| like.machine).collect()),
    }
}

/// The question that an operator is asked. Machines that are in come first, however many look-alikes wait for approval:
/// whoever can make the question long must not be able to leave the answer out.
fn asked(state: &State, mut like: Vec<MachineId>) -> Match {
    like.sort_by_key(|id| !state.is_in(*id));
    like.truncate(ASKED);
    Match::Doubtful(like)
}

/// Whom `identity` might be, whoever is alive: those to be asked for a sign of life before [`find`].
pub fn candidates(state: &State, identity: &Identity) -> Vec<MachineId> {
    ranked(state, identity, Describer::Agent).into_iter().map(|like| like.machine).collect()
}

/// Whether a machine that was retired had the TPM's key, a serial number or a MAC of these.
pub fn was_retired(state: &State, identity: &Identity) -> bool {
    retired(state, identity).is_some()
}

/// The machine that was retired and had them. Retired ones are no [`Match`]: they do not come back, and what enrolls with
/// their numbers is new, but not unknown.
pub fn retired<'a>(state: &'a State, identity: &Identity) -> Option<&'a Machine> {
    // A UUID is on whole batches, and disks are exchanged.
    let names_it = |mark: &Mark| !matches!(mark, Mark::Uuid(_) | Mark::Disk(_));
    let ids = marks(identity).into_iter().filter(names_it).flat_map(|mark| state.marks().of(mark));
    ids.filter_map(|id| state.machines.get(&id)).find(|machine| machine.lifecycle == Lifecycle::Retired)
}

/// All that are like it, the likeliest first.
fn ranked(state: &State, identity: &Identity, by: Describer) -> Vec<Like> {
    // Only what both have in common speaks for their being one: nobody else can be like it.
    let said = marks(identity).into_iter().chain(identity.disks.iter().cloned().map(Mark::Disk));
    let ids: BTreeSet<MachineId> = said.flat_map(|mark| state.marks().of(mark)).collect();
    sorted(state, ids.iter().filter_map(|id| state.machines.get(id)), identity, by)
}

fn sorted<'a>(
    state: &State,
    machines: impl Iterator<Item = &'a Machine>,
    identity: &Identity,
    by: Describer,
) -> Vec<Like> {
    let live = machines.filter(|machine| machine.lifecycle != Lifecycle::Retired);
    let mut like: Vec<Like> = live.filter_map(|machine| likeness(state, machine, identity, by)).collect();
    like.sort_by_key(|like| (!like.certain, -like.points, like.machine));
    like
}

/// What is found by the index, and what a look at every machine finds.
#[cfg(test)]
pub fn found_both_ways(state: &State, identity: &Identity) -> [String; 2] {
    let is_like = |known: &Identity| {
        of_one(own_key(known), own_key(identity)) == Some(true)
            || of_one(serial(&known.board_serial), serial(&identity.board_serial)) == Some(true)
            || of_one(serial(&known.system_serial), serial(&identity.system_serial)) == Some(true)
            || of_many(&own_macs(known), &own_macs(identity)) == Some(true)
    };
    let mut retired = state.machines.iter().filter(|machine| machine.lifecycle == Lifecycle::Retired);
    let retired = [was_retired(state, identity), retired.any(|machine| is_like(&machine.identity))];
    let by = [Describer::Agent, Describer::BootProgram];
    let indexed = by.map(|by| ranked(state, identity, by));
    let scanned = by.map(|by| sorted(state, state.machines.iter(), identity, by));
    [format!("{indexed:?} {}", retired[0]), format!("{scanned:?} {}", retired[1])]
}

fn likeness(state: &State, machine: &Machine, identity: &Identity, by: Describer) -> Option<Like> {
    let known = &machine.identity;
    let tpm = of_one(own_key(known), own_key(identity));
    let board = of_one(serial(&known.board_serial), serial(&identity.board_serial));
    let system = of_one(serial(&known.system_serial), serial(&identity.system_serial));
    let uuid = of_one(own_uuid(known), own_uuid(identity));
    let macs = of_many(&own_macs(known), &own_macs(identity));
    let inventory = state.inventories.get(&machine.id).into_iter();
    let own_disks: Vec<DiskId> = inventory.flat_map(|record| disks(&record.inventory)).collect();
    let disks = of_many(&own_disks, &identity.disks);
    // A new board brings its own NICs and its own TPM: that speaks against it once.
    let on_board = |same: Option<bool>| same.filter(|same| *same || board != Some(false));
    let worths = [
        (board, BOARD_SERIAL),
        (system, SYSTEM_SERIAL),
        (uuid, UUID),
        (on_board(macs), MACS),
        (disks, DISKS),
        (on_board(tpm), TPM),
    ];
    let points = |worths: &[(Option<bool>, Worth)]| -> i32 {
        worths.iter().map(|(same, worth)| same.map_or(0, |same| if same { worth.same } else { worth.other })).sum()
    };
    let alike = points(&worths[..5]) >= SAME && macs != Some(false) && board != Some(false);
    let points = points(&worths);
    let is_missing = by == Describer::Agent && own_key(known).is_some() && own_key(identity).is_none();
    let certain = tpm.unwrap_or(alike && !is_missing);
    (certain || alike || points >= PERHAPS).then_some(Like { machine: machine.id, points, alike, certain })
}

/// What their TPMs say of whether a box is a machine, for whoever has to say which it is; empty where that is nothing.
pub fn compare_tpms(known: &Identity, said: &Identity) -> &'static str {
    match (own_key(known), own_key(said), said.tpm) {
        (None, _, _) => "",
        (Some(known), Some(said), _) if known == said => " (whose TPM key it tells)",
        (Some(_), Some(_), _) => " (whose TPM key was another)",
        (Some(_), None, Tpm::Silent) => " (whose TPM told a key; this one's tells none)",
        (Some(_), None, Tpm::Absent | Tpm::Claimed { .. }) => " (whose TPM told a key; this one has none)",
    }
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

fn own_key(identity: &Identity) -> Option<Digest> {
    identity.tpm.key().filter(|key| !is_junk_key(key))
}

fn own_uuid(identity: &Identity) -> Option<[u8; 16]> {
    identity.uuid.filter(|uuid| !is_junk_uuid(uuid))
}

fn own_macs(identity: &Identity) -> Vec<Mac> {
    identity.macs.iter().copied().filter(|mac| !is_junk_mac(mac)).collect()
}

/// What a machine is found by, but for its disks.
pub fn marks(identity: &Identity) -> Vec<Mark> {
    let board = serial(&identity.board_serial).map(|text| Mark::Board(text.to_owned()));
    let system = serial(&identity.system_serial).map(|text| Mark::System(text.to_owned()));
    let (tpm, uuid) = (own_key(identity).map(Mark::Tpm), own_uuid(identity).map(Mark::Uuid));
    let macs = own_macs(identity).into_iter().map(Mark::Mac);
    [tpm, board, system, uuid].into_iter().flatten().chain(macs).collect()
}

/// From the inventory: at enrollment not all drivers are there yet. Sticks and disks on USB wander, so they name no
/// machine.
pub fn disks(inventory: &Inventory) -> impl Iterator<Item = DiskId> {
    inventory.disks.iter().filter(|disk| disk.attachment == Attachment::Fixed).filter_map(Disk::id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::machine;
    use crate::fleet::record::MachineInventory;
    use muster_protocol::inventory::{Medium, Transport};

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
    fn look_alikes_that_nobody_let_in_do_not_push_a_machine_out_of_the_question() {
        let mut draft = draft();
        let looks = with_tpm(1, "key");
        let member = enrolled(&mut draft, with_board("BRD-1", identity(1, "another", 1)));
        machine::approve(&mut draft, member).expect("approved");
        let record = draft.need::<Machine>(&member).expect("there");
        for n in 0..8 {
            let id = MachineId::from_bytes([n; 16]);
            draft.put(Machine { id, identity: looks.clone(), lifecycle: Lifecycle::Pending, ..record.clone() });
        }
        let is_asked = |identity: &Identity, alive: &[MachineId]| {
            let Match::Doubtful(asked) = find(draft.state(), identity, alive) else { panic!("somebody was chosen") };
            assert_eq!((asked.len(), asked[0]), (ASKED, member));
        };
        // They have more in common with it than the machine has, and all of them are there.
        let there: Vec<MachineId> = draft.state().machines.iter().map(|machine| machine.id).collect();
        is_asked(&looks, &there);
        is_asked(&Identity { tpm: Tpm::Absent, ..looks.clone() }, &[member]);
    }

    #[test]
    fn of_many_that_it_may_be_an_operator_is_asked_about_a_few() {
        let mut draft = draft();
        let looks = with_tpm(1, "key");
        let first = enrolled(&mut draft, looks.clone());
        let record = draft.need::<Machine>(&first).expect("there");
        for n in 0..8 {
            draft.put(Machine { id: MachineId::from_bytes([n; 16]), ..record.clone() });
        }
        let Match::Doubtful(asked) = find(draft.state(), &looks, &[]) else { panic!("one of nine was chosen") };
        assert_eq!(asked.len(), ASKED);
    }

    /// A box whose every number is made of `n`, but for its TPM's key.
    fn with_tpm(n: u8, key: &str) -> Identity {
        let tpm = if key.is_empty() { Tpm::Absent } else { Tpm::Claimed { key: Digest::of(key.as_bytes()) } };
        Identity { tpm, ..with_board(&format!("BRD-{n}"), identity(n, &format!("SYS-{n}"), n)) }
    }

    #[test]
    fn a_tpms_key_is_the_same_machine_whatever_else_is_another() {
        let mut draft = draft();
        let id = enrolled(&mut draft, with_tpm(1, "key"));
        assert_eq!(find(draft.state(), &with_tpm(2, "key"), &[]), Match::Known(id));
        assert_eq!(find(draft.state(), &with_tpm(2, "key"), &[id]), Match::Doubtful(vec![id]), "it answers");
        let twin = enrolled(&mut draft, with_tpm(2, ""));
        let found = find(draft.state(), &with_tpm(1, "key"), &[]);
        assert_eq!(found, Match::Known(id), "{twin} has nothing of it");
    }

    #[test]
    fn a_tpm_that_moved_to_a_machine_that_is_known_is_a_question() {
        let mut draft = draft();
        let [from, to] = [with_tpm(1, "key"), with_tpm(2, "")].map(|identity| enrolled(&mut draft, identity));
        assert_eq!(find(draft.state(), &with_tpm(2, "key"), &[]), Match::Doubtful(vec![from, to]));
        assert_eq!(find(draft.state(), &with_tpm(2, "key"), &[to]), Match::Known(from), "the other one answers");
    }

    #[test]
    fn another_tpm_with_the_same_everything_is_never_the_same_by_itself() {
        let mut draft = draft();
        let id = enrolled(&mut draft, with_tpm(1, "key"));
        let other = with_tpm(1, "another key");
        assert_eq!(find(draft.state(), &other, &[]), Match::Doubtful(vec![id]));
        assert_eq!(find(draft.state(), &other, &[id]), Match::Doubtful(vec![id]), "no policy lets its copy in");
        let nics_alone = |key| Identity { macs: vec![mac(7)], tpm: with_tpm(1, key).tpm, ..Identity::default() };
        let id = enrolled(&mut draft, nics_alone("third"));
        assert_eq!(find(draft.state(), &nics_alone("fourth"), &[]), Match::Doubtful(vec![id]));
        assert_eq!(enrolled(&mut draft, nics_alone("third")), id);
    }

    #[test]
    fn twins_of_a_batch_are_told_apart_by_their_tpms_without_a_question() {
        let mut draft = draft();
        let twin = |nic: u8, key| Identity { macs: vec![mac(nic)], ..with_tpm(1, key) };
        let first = enrolled(&mut draft, twin(1, "first"));
        assert_eq!(find(draft.state(), &twin(2, ""), &[]), Match::Doubtful(vec![first]), "nobody could know");
        assert_eq!(find(draft.state(), &twin(2, "second"), &[]), Match::New);
        assert_eq!(find(draft.state(), &twin(1, "first"), &[]), Match::Known(first));
    }

    #[test]
    fn a_machine_with_another_board_is_a_question() {
        let mut draft = draft();
        let old = with_tpm(1, "old board");
        let id = enrolled(&mut draft, old.clone());
        let card_stays = Identity { board_serial: "BRD-9".into(), tpm: with_tpm(1, "new board").tpm, ..old };
        assert_eq!(find(draft.state(), &card_stays, &[]), Match::Doubtful(vec![id]));

        let disk: DiskId = "serial:D-1".parse().expect("an id");
        let disks = vec![Disk {
            name: "sda".into(),
            size_bytes: 1,
            logical_sector: 512,
            physical_sector: 512,
            medium: Medium::SolidState,
            attachment: Attachment::Fixed,
            transport: Transport::Ata,
            model: String::new(),
            serial: Some("D-1".into()),
            wwn: None,
        }];
        let inventory = Inventory { disks, ..Inventory::default() };
        draft.put(MachineInventory { machine: id, inventory, at_unix_ms: 0, primary: None });
        let disks_stay = Identity { macs: vec![mac(9)], disks: vec![disk], ..card_stays };
        assert_eq!(find(draft.state(), &disks_stay, &[]), Match::Doubtful(vec![id]));
    }

    #[test]
    fn a_machine_that_had_a_tpm_and_comes_without_is_a_question_and_not_to_its_boot_program() {
        let mut draft = draft();
        let id = enrolled(&mut draft, with_tpm(1, "key"));
        for tpm in [Tpm::Absent, Tpm::Silent, Tpm::Claimed { key: Digest::from_bytes([0; 32]) }] {
            let without = Identity { tpm, ..with_tpm(1, "") };
            assert_eq!(find(draft.state(), &without, &[]), Match::Doubtful(vec![id]), "{tpm:?}");
            assert_eq!(find_booting(draft.state(), &without), Match::Known(id));
            assert!(compare_tpms(&with_tpm(1, "key"), &without).contains("told a key"));
        }
        assert_eq!(find(draft.state(), &with_tpm(1, "key"), &[]), Match::Known(id));
    }

    #[test]
    fn a_machine_whose_tpm_was_switched_on_is_the_machine_that_it_was() {
        let mut draft = draft();
        let id = enrolled(&mut draft, with_tpm(1, ""));
        assert_eq!(enrolled(&mut draft, with_tpm(1, "key")), id);
        assert_eq!(enrolled(&mut draft, with_tpm(2, "key")), id, "and is known by its key from then on");
    }

    #[test]
    fn a_machine_that_was_retired_is_remembered_by_its_tpm() {
        let mut draft = draft();
        let id = enrolled(&mut draft, with_tpm(1, "key"));
        machine::retire(&mut draft, id).expect("retired");
        assert!(was_retired(draft.state(), &with_tpm(2, "key")));
        assert!(!was_retired(draft.state(), &with_tpm(2, "another")));
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
            tpm: Tpm::Claimed { key: Digest::from_bytes([0; 32]) },
        };
        enrolled(&mut draft, junk.clone());
        assert_eq!(find(draft.state(), &junk, &[]), Match::New);
    }
}
