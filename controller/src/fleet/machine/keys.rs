//! Keys of machines' encrypted volumes: made when a volume is, given to its own machine alone, and destroyed when all of that
//! machine's disks were wiped.
//!
//! Called by the sessions inside [`crate::fleet::Fleet::change`]. A key is nowhere but in its record, sealed, and in the one
//! answer to its machine: no event, entry of the audit log, log or view of the API has it.

use muster_protocol::desired::{Desired, Key};
use muster_protocol::to_controller::{self, KeyUse};
use muster_protocol::{DiskKey, MachineId};
use serde::{Deserialize, Serialize};

use crate::fleet::operation::confirmed;
use crate::fleet::record::{DesiredState, Machine};
use crate::fleet::state::StoredKey;
use crate::fleet::{Draft, Facts, Refusal, State};
use crate::pki::{DiskSeal, Sealed};

/// A machine has no more: each volume that is made anew gets another UUID and another key, and the old ones stay.
const MOST: usize = 256;

/// A machine that asks for the same key again within this time gets it without another entry in the log.
const NOTED_EVERY_MS: u64 = 10_000;

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyOf {
    /// Of which machine.
    pub machine: MachineId,
    /// UUID in the header of its volume.
    pub uuid: [u8; 16],
}

impl StoredKey for KeyOf {
    fn bytes(&self) -> Vec<u8> {
        [&self.machine.as_bytes()[..], &self.uuid].concat()
    }
    fn text(&self) -> Vec<u8> {
        format!("{} of {}", in_words(&self.uuid), self.machine).into_bytes()
    }
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeKey {
    /// Which one.
    pub of: KeyOf,
    /// What its volume was called when it was made.
    pub name: String,
    /// The key itself.
    pub sealed: Sealed,
    /// When it was made.
    pub made_unix_ms: u64,
    /// When it was given last, as far as that was noted.
    pub given_unix_ms: u64,
}

/// What a machine is answered that asks for a key.
pub type Given = Result<DiskKey, to_controller::Refusal>;

/// Gives a machine the key of a volume that its document describes; makes it where the volume is about to be made.
pub fn ask(
    draft: &mut Draft,
    seal: &DiskSeal,
    id: MachineId,
    (name, uuid): (&str, [u8; 16]),
    use_for: KeyUse,
) -> Result<Given, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    if !is_described(draft.state(), id, name) {
        return Ok(Err(to_controller::Refusal::NotDesired));
    }
    let (of, now) = (KeyOf { machine: id, uuid }, draft.now_unix_ms());
    let volume = format!("{name} ({})", in_words(&uuid));
    let known = draft.get::<VolumeKey>(&of).cloned();
    let (mut record, key) = match (known, use_for) {
        (Some(record), _) => match seal.open(id, &uuid, &record.sealed) {
            Some(key) => (record, key),
            None => {
                tracing::error!(machine = %id, volume, "a key does not open: pki/disks.key is not the one it was sealed with");
                return Ok(Err(to_controller::Refusal::NoSuchKey));
            }
        },
        (None, KeyUse::Open) => {
            tracing::warn!(machine = %id, volume, "a machine asks for a key that is not here");
            return Ok(Err(to_controller::Refusal::NoSuchKey));
        }
        (None, KeyUse::Make) if of_machine(draft.state(), id).count() >= MOST => {
            return Ok(Err(to_controller::Refusal::TooManyKeys));
        }
        (None, KeyUse::Make) => {
            let key = DiskKey::new(draft.random());
            let sealed = seal.seal(id, &uuid, &key);
            draft.event("key.made", id, format!("{}: a key for {volume}", machine.name));
            draft.audit("key.made", id, Facts::none(), Facts::one("volume", &volume));
            (VolumeKey { of, name: name.to_owned(), sealed, made_unix_ms: now, given_unix_ms: 0 }, key)
        }
    };
    if now.saturating_sub(record.given_unix_ms) >= NOTED_EVERY_MS {
        record.given_unix_ms = now;
        draft.event("key.given", id, format!("{} was given the key of {volume}", machine.name));
        draft.audit("key.given", id, Facts::none(), Facts::one("volume", &volume));
        draft.put(record);
    }
    Ok(Ok(key))
}

/// All disks of a machine were wiped: its keys open nothing that is there, and what is there that escaped the wipe is not to
/// be opened either.
pub fn destroy(draft: &mut Draft, id: MachineId) {
    let all: Vec<KeyOf> = of_machine(draft.state(), id).map(|record| record.of).collect();
    if all.is_empty() {
        return;
    }
    for of in &all {
        draft.delete::<VolumeKey>(of);
    }
    let name = draft.get::<Machine>(&id).map(|machine| machine.name.clone()).unwrap_or_default();
    let keys = format!("{} of its encrypted volumes", all.len());
    draft.event("key.destroyed", id, format!("{name}: all of its disks were wiped, and the keys of {keys} with them"));
    draft.audit("key.destroyed", id, Facts::one("keys", keys), Facts::none());
}

fn of_machine(state: &State, id: MachineId) -> impl Iterator<Item = &VolumeKey> {
    let least = KeyOf { machine: id, uuid: [0; 16] };
    // No volume has the UUID of zeros.
    state.volume_keys.after(&least).take_while(move |record| record.of.machine == id)
}

/// Whether what the machine should be, or what it falls back to, has such a volume.
fn is_described(state: &State, id: MachineId, name: &str) -> bool {
    let wanted = state.desired.get(&id).map(|desired: &DesiredState| &desired.desired);
    let in_force = confirmed::in_force(state, id).desired;
    [wanted, Some(&in_force)].into_iter().flatten().any(|desired| has_volume(desired, name))
}

fn has_volume(desired: &Desired, name: &str) -> bool {
    let mut volumes = desired.storage.iter().flat_map(|storage| &storage.luks);
    volumes.any(|luks| luks.name == name && luks.key == Key::Controller)
}

/// As it is usually written (RFC 9562).
fn in_words(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
pub(crate) mod tests {
    use muster_protocol::desired::{self, DiskSelect, Existing, Luks, Place, Storage, Table, check};
    use muster_protocol::enroll::Identity;

    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::machine;
    use crate::fleet::state::{read_value, stored_value};
    use crate::pki::Pki;

    const UUID: [u8; 16] = [7; 16];

    fn seal() -> std::sync::Arc<DiskSeal> {
        let data = tempfile::tempdir().expect("a temporary folder");
        Pki::open(data.path()).expect("opens").disks().expect("made")
    }

    pub fn member(draft: &mut Draft) -> MachineId {
        let id = enrolled(draft, Identity::default());
        machine::approve(draft, id).expect("approved");
        id
    }

    /// Its document has two encrypted volumes: `vault` with the controller's key, and `own` with one of the TPM's.
    pub fn describe(draft: &mut Draft, id: MachineId) {
        let partition = |number| desired::Partition::new(number, "", Some(64));
        let disk = desired::Disk {
            select: DiskSelect::Id("serial:DISK1".parse().expect("a disk id")),
            table: Table::Keep,
            partitions: vec![partition(1), partition(2)],
        };
        let luks = |name: &str, partition, key| Luks {
            name: name.into(),
            place: Place::Partition { disk: 0, partition },
            label: String::new(),
            uuid: None,
            key,
            discard: false,
            options: Vec::new(),
            existing: Existing::Keep,
        };
        let luks = vec![luks("vault", 0, Key::Controller), luks("own", 1, Key::Tpm)];
        let storage = Storage { disks: vec![disk], luks, ..Storage::default() };
        let desired = check(Desired { network: None, storage: Some(storage) }).expect("sound");
        machine::set_desired(draft, id, desired, None, None).expect("set");
    }

    #[test]
    fn a_key_is_made_once_and_given_to_its_machine_for_what_its_document_describes_alone() {
        let (mut draft, seal) = (draft(), seal());
        let id = member(&mut draft);
        let ask = |draft: &mut Draft, id, name: &str, uuid: u8, use_for| {
            ask(draft, &seal, id, (name, [uuid; 16]), use_for).expect("decided")
        };
        let none = Err(to_controller::Refusal::NotDesired);
        assert_eq!(ask(&mut draft, id, "vault", 7, KeyUse::Make), none, "it is not described yet");
        describe(&mut draft, id);
        assert_eq!(ask(&mut draft, id, "own", 7, KeyUse::Make), none, "the TPM's are no business of the controller's");
        let unknown = Err(to_controller::Refusal::NoSuchKey);
        assert_eq!(ask(&mut draft, id, "vault", 7, KeyUse::Open), unknown, "a new key would not open what is there");

        let key = ask(&mut draft, id, "vault", 7, KeyUse::Make).expect("made");
        assert_eq!(ask(&mut draft, id, "vault", 7, KeyUse::Make), Ok(key.clone()), "asking again makes no other");
        assert_eq!(ask(&mut draft, id, "vault", 7, KeyUse::Open), Ok(key.clone()));
        assert_ne!(ask(&mut draft, id, "vault", 8, KeyUse::Make), Ok(key.clone()), "made anew it has another");
        let other = member(&mut draft);
        describe(&mut draft, other);
        assert_eq!(ask(&mut draft, other, "vault", 7, KeyUse::Open), unknown, "another machine does not get it");
    }

    #[test]
    fn that_a_key_was_made_and_given_is_told_and_the_key_is_nowhere() {
        let (mut draft, seal) = (draft(), seal());
        let id = member(&mut draft);
        describe(&mut draft, id);
        let key = ask(&mut draft, &seal, id, ("vault", UUID), KeyUse::Make).expect("decided").expect("made");
        draft.advance_ms(NOTED_EVERY_MS);
        ask(&mut draft, &seal, id, ("vault", UUID), KeyUse::Open).expect("decided").expect("given");
        ask(&mut draft, &seal, id, ("vault", UUID), KeyUse::Open).expect("decided").expect("given");

        let audited: Vec<String> = draft.audited().iter().map(|entry| entry.action.clone()).collect();
        assert_eq!(audited.iter().filter(|action| *action == "key.made").count(), 1);
        assert_eq!(audited.iter().filter(|action| *action == "key.given").count(), 2, "not each time: {audited:?}");
        let events: Vec<&str> = draft.state().events.iter().map(|event| event.kind.as_str()).collect();
        assert!(events.contains(&"key.made") && events.contains(&"key.given"), "{events:?}");

        let hex: String = key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = format!("{:?} {:?}", draft.audited(), draft.state()).to_lowercase();
        let list = format!("{:?}", key.bytes());
        assert!(!shown.contains(&hex[..16]) && !shown.contains(list.trim_matches(['[', ']'])));
        let (_, writes) = draft.finish();
        let holds = |bytes: &[u8]| bytes.windows(8).any(|window| window == &key.bytes()[..8]);
        let is_in = writes.iter().any(|write| match write {
            crate::store::Write::Put { key, value } => holds(key) || holds(value),
            crate::store::Write::Delete { .. } => false,
        });
        assert!(!is_in, "the store has it sealed");
    }

    #[test]
    fn keys_go_when_all_disks_of_their_machine_were_wiped_and_no_other_machines() {
        let (mut draft, seal) = (draft(), seal());
        let (one, two) = (member(&mut draft), member(&mut draft));
        for id in [one, two] {
            describe(&mut draft, id);
            ask(&mut draft, &seal, id, ("vault", UUID), KeyUse::Make).expect("decided").expect("made");
        }
        destroy(&mut draft, one);
        let left: Vec<MachineId> = draft.state().volume_keys.iter().map(|record| record.of.machine).collect();
        assert_eq!(left, [two]);
        let open = ask(&mut draft, &seal, one, ("vault", UUID), KeyUse::Open).expect("decided");
        assert_eq!(open, Err(to_controller::Refusal::NoSuchKey));
    }

    /// A released controller's database is read for ever: see `operation::stored`.
    #[test]
    fn the_stored_bytes_of_a_key() {
        let of = KeyOf { machine: MachineId::from_bytes([2; 16]), uuid: UUID };
        let sealed = postcard::from_bytes(&[3, 9, 9, 9]).expect("a list of bytes");
        let record = VolumeKey { of, name: "vault".into(), sealed, made_unix_ms: 100, given_unix_ms: 300 };
        let bytes = [&[0][..], &[2; 16], &UUID, &[5], b"vault", &[3, 9, 9, 9], &[100], &[0xac, 0x02]].concat();
        assert_eq!(stored_value(&record), bytes);
        assert_eq!(read_value(&bytes), Some(record));
        assert_eq!(of.bytes(), [[2; 16], UUID].concat());
    }

    #[test]
    fn a_machine_has_no_more_keys_than_it_can_need() {
        let (mut draft, seal) = (draft(), seal());
        let id = member(&mut draft);
        describe(&mut draft, id);
        let mut make = |n: usize| {
            let uuid = std::array::from_fn(|i| if i < 2 { (n >> (8 * i)) as u8 } else { 1 });
            ask(&mut draft, &seal, id, ("vault", uuid), KeyUse::Make).expect("decided")
        };
        assert!((0..MOST).all(|n| make(n).is_ok()));
        assert_eq!(make(MOST), Err(to_controller::Refusal::TooManyKeys));
        assert!(make(0).is_ok(), "those that are there are given");
    }
}
