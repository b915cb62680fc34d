//! What machines are found by: an index from each number that names hardware to the machines that have it, and from each
//! key to the machine whose certificate is for it.
//!
//! [`State`] enters a machine's and an inventory's marks with the record and takes them out with it, so that the index is
//! in step by construction; [`super::identity`] says what counts as a mark, and looks at nobody who shares none.

use std::net::IpAddr;

use imbl::OrdSet;
use muster_protocol::{Digest, DiskId, Mac, MachineId};

use super::identity;
use crate::fleet::State;
use crate::fleet::record::{Lifecycle, Machine, MachineInventory};

/// Something that one machine should be alone in having; what is on many boxes by mistake is no mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The TPM's key.
    Tpm(Digest),
    /// Board serial.
    Board(String),
    /// System serial.
    System(String),
    /// SMBIOS UUID.
    Uuid([u8; 16]),
    /// MAC of a NIC.
    Mac(Mac),
    /// A fixed disk.
    Disk(DiskId),
    /// The key that the last certificate is for.
    Certificate(Digest),
    /// It waits for approval, and came from there. The last of the marks: [`Marks::pending`] goes on to the end.
    Pending(Option<IpAddr>),
}

/// The machines that have each mark.
#[derive(Debug, Clone, Default)]
pub struct Marks(OrdSet<(Mark, MachineId)>);

impl Marks {
    /// The machines with this mark, in the order of their ids.
    pub fn of(&self, mark: Mark) -> impl Iterator<Item = MachineId> {
        let first = (mark.clone(), MachineId::from_bytes([0; 16]));
        let last = (mark, MachineId::from_bytes([0xff; 16]));
        self.0.range(first..=last).map(|(_, machine)| *machine)
    }

    /// The machines that wait for approval, wherever they came from.
    pub fn pending(&self) -> impl Iterator<Item = MachineId> {
        let first = (Mark::Pending(None), MachineId::from_bytes([0; 16]));
        self.0.range(first..).map(|(_, machine)| *machine)
    }

    fn set(&mut self, machine: MachineId, marks: impl IntoIterator<Item = Mark>, is_there: bool) {
        for mark in marks {
            match is_there {
                true => drop(self.0.insert((mark, machine))),
                false => drop(self.0.remove(&(mark, machine))),
            }
        }
    }
}

/// Enters a machine's marks, or takes them out.
pub fn index_machine(state: &mut State, machine: &Machine, is_there: bool) {
    let mut marks = identity::marks(&machine.identity);
    marks.push(Mark::Certificate(machine.certificate));
    if machine.lifecycle == Lifecycle::Pending {
        marks.push(Mark::Pending(machine.source));
    }
    state.marks_mut().set(machine.id, marks, is_there);
}

/// Enters the marks of what a machine is made of, or takes them out.
pub fn index_inventory(state: &mut State, record: &MachineInventory, is_there: bool) {
    let disks = identity::disks(&record.inventory).map(Mark::Disk);
    state.marks_mut().set(record.machine, disks, is_there);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use muster_protocol::enroll::{Identity, Tpm};
    use muster_protocol::inventory::{Attachment, Disk, Inventory, Medium, Transport};
    use proptest::prelude::*;

    use super::*;
    use crate::fleet::Draft;
    use crate::fleet::draft::tests::draft;

    /// What happens to one of a few machines.
    #[derive(Debug, Clone)]
    enum Change {
        Enrolls(u8, Identity, Lifecycle),
        Reports(u8, Vec<DiskId>, Attachment),
        Leaves(u8),
        LosesItsInventory(u8),
    }

    fn an_id(n: u8) -> MachineId {
        MachineId::from_bytes([n; 16])
    }

    fn disks() -> impl Strategy<Value = Vec<DiskId>> {
        prop::collection::vec((0..4).prop_map(|n| format!("serial:DSK-{n}").parse().expect("an id")), 0..3)
    }

    /// Of few values, junk among them, so that boxes have much in common.
    fn identity() -> impl Strategy<Value = Identity> {
        let serial = |kind: &'static str| {
            let junk = ["", "Default string"].map(str::to_owned);
            let own = (0..3).map(move |n| format!("{kind}-{n}"));
            prop::sample::select(junk.into_iter().chain(own).chain([format!(" {kind}-0 ")]).collect::<Vec<_>>())
        };
        let uuid = prop::option::of(prop_oneof![Just([0xff; 16]), (0..3_u8).prop_map(|n| [0xc0 | n; 16])]);
        let key = |n: u8| Tpm::Claimed { key: Digest::of(&[n]) };
        let tpm = prop_oneof![2 => Just(Tpm::Absent), 1 => Just(Tpm::Silent), 3 => (0..3_u8).prop_map(key)];
        let macs = prop::collection::vec((0..5_u8).prop_map(|n| Mac::from_bytes([2, 0, 0, 0, 0, n])), 0..3);
        (uuid, serial("SYS"), serial("BRD"), macs, disks(), tpm).prop_map(
            |(uuid, system_serial, board_serial, macs, disks, tpm)| Identity {
                uuid,
                system_serial,
                board_serial,
                macs,
                disks,
                tpm,
            },
        )
    }

    fn change() -> impl Strategy<Value = Change> {
        let lifecycle = prop::sample::select(vec![
            Lifecycle::Pending,
            Lifecycle::Rejected,
            Lifecycle::Available,
            Lifecycle::Retired,
        ]);
        let attachment = prop::sample::select(vec![Attachment::Fixed, Attachment::Removable, Attachment::External]);
        let which = 0..8_u8;
        prop_oneof![
            4 => (which.clone(), identity(), lifecycle).prop_map(|(n, i, l)| Change::Enrolls(n, i, l)),
            3 => (which.clone(), disks(), attachment).prop_map(|(n, d, a)| Change::Reports(n, d, a)),
            1 => which.clone().prop_map(Change::Leaves),
            1 => which.prop_map(Change::LosesItsInventory),
        ]
    }

    fn make(draft: &mut Draft, change: Change) {
        match change {
            Change::Enrolls(n, identity, lifecycle) => {
                let certificate = Digest::of(identity.board_serial.as_bytes());
                let machine = crate::fleet::enrollment::new_machine(draft, "ber1");
                let source = identity.uuid.map(IpAddr::from);
                draft.put(Machine { id: an_id(n), identity, certificate, lifecycle, source, ..machine });
            }
            Change::Reports(n, disks, attachment) => {
                let disk = |id: &DiskId| Disk {
                    name: "sda".into(),
                    size_bytes: 1,
                    logical_sector: 512,
                    physical_sector: 512,
                    medium: Medium::SolidState,
                    attachment,
                    transport: Transport::Ata,
                    model: String::new(),
                    serial: Some(id.to_string().replace("serial:", "")),
                    wwn: None,
                };
                let inventory = Inventory { disks: disks.iter().map(disk).collect(), ..Inventory::default() };
                draft.put(MachineInventory { machine: an_id(n), at_unix_ms: 0, inventory, primary: None });
            }
            Change::Leaves(n) => draft.delete::<Machine>(&an_id(n)),
            Change::LosesItsInventory(n) => draft.delete::<MachineInventory>(&an_id(n)),
        }
    }

    proptest! {
        #[test]
        fn whom_the_index_finds_is_whom_a_look_at_every_machine_finds(
            changes in prop::collection::vec(change(), 0..40),
            boxes in prop::collection::vec(identity(), 1..8),
        ) {
            let mut draft = draft();
            for change in changes {
                // One that is refused leaves the index as it was.
                let again = change.clone();
                let refused: Result<(), _> = draft.attempt(|draft| {
                    make(draft, again);
                    Err(crate::fleet::Refusal::Internal)
                });
                prop_assert!(refused.is_err());
                make(&mut draft, change);
            }
            for identity in boxes {
                let [indexed, scanned] = identity::found_both_ways(draft.state(), &identity);
                prop_assert_eq!(indexed, scanned);
                let key = Digest::of(identity.board_serial.as_bytes());
                let with_key: Vec<MachineId> = draft.state().marks().of(Mark::Certificate(key)).collect();
                let machines = draft.state().machines.iter();
                let scanned: Vec<MachineId> = machines.filter(|m| m.certificate == key).map(|m| m.id).collect();
                prop_assert_eq!(with_key, scanned);
            }
            let waits = |m: &&Machine| m.lifecycle == Lifecycle::Pending;
            let machines: Vec<&Machine> = draft.state().machines.iter().filter(waits).collect();
            let pending: BTreeSet<MachineId> = draft.state().marks().pending().collect();
            prop_assert_eq!(pending, machines.iter().map(|m| m.id).collect::<BTreeSet<_>>());
            for machine in &machines {
                let mark = Mark::Pending(machine.source);
                let of_source = draft.state().marks().of(mark).count();
                prop_assert_eq!(of_source, machines.iter().filter(|m| m.source == machine.source).count());
            }
            (0..8).for_each(|n| make(&mut draft, Change::Leaves(n)));
            (0..8).for_each(|n| make(&mut draft, Change::LosesItsInventory(n)));
            prop_assert!(draft.state().marks().0.is_empty(), "nothing is left of who is gone");
        }
    }
}
