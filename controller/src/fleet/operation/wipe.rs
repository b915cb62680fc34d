//! Wiping disks because an operator says so. What is wiped when a lease ends is [`crate::fleet::lease`]'s to say.

use muster_protocol::desired::Storage;
use muster_protocol::inventory::Disk;
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::{DiskId, MachineId};

use super::confirmed;
use crate::fleet::record::{Lifecycle, Machine, Operation, OperationKind};
use crate::fleet::{Draft, Facts, Refusal, operation};

/// The level's name, for people and requests.
pub fn word(level: WipeLevel) -> &'static str {
    match level {
        WipeLevel::Signatures => "signatures",
        WipeLevel::Quick => "quick",
        WipeLevel::Full => "full",
        WipeLevel::Secure => "secure",
    }
}

/// Has an available machine wipe these disks, each of which is named by its WWN or serial number.
///
/// Errors: the machine is leased, or not in hands; its document describes disks; a name is not that of one disk that may be
/// written to.
pub fn wipe(draft: &mut Draft, id: MachineId, disks: Vec<DiskId>, level: WipeLevel) -> Result<Operation, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    let conflict = |why: &str| Err(Refusal::Conflict(format!("{} {why}", machine.name)));
    match machine.lifecycle {
        Lifecycle::Available => {}
        Lifecycle::Leased { .. } => return conflict("is leased; its disks are wiped when its lease ends"),
        Lifecycle::Cleaning { .. } => return conflict("is being cleaned, which wipes its disks"),
        Lifecycle::Pending | Lifecycle::Rejected => return conflict("is not approved; approve it first"),
        Lifecycle::Retired => return conflict("is retired"),
    }
    let described = confirmed::in_force(draft.state(), id).desired.storage.as_ref().is_some_and(describes);
    if described {
        return conflict("has disks in its document, which would come to differ; apply it with `storage: {}` first");
    }
    if disks.is_empty() {
        return Err(Refusal::invalid("disks", "say which, by WWN or serial number"));
    }
    let inventory = draft.state().inventories.get(&id).map(|record| record.inventory.clone()).unwrap_or_default();
    let mut named: Vec<&Disk> = Vec::new();
    for (i, name) in disks.iter().enumerate() {
        let invalid = |problem: String| Refusal::invalid(format!("disks[{i}]"), problem);
        let answers = |disk: &&Disk| name.names(disk.wwn.as_deref(), disk.serial.as_deref());
        let found: Vec<&Disk> = inventory.disks.iter().filter(answers).collect();
        let [disk] = found[..] else {
            let which = if found.is_empty() { "no disk of this machine" } else { "the name of more than one disk" };
            return Err(invalid(format!("{name} is {which}; {}", these(&inventory.disks))));
        };
        if !disk.attachment.may_be_written() {
            return Err(invalid(format!("{name} is a removable medium ({})", disk.name)));
        }
        if named.iter().any(|other| std::ptr::eq(*other, disk)) {
            return Err(invalid(format!("{name} is named twice ({})", disk.name)));
        }
        named.push(disk);
    }
    let kind = OperationKind::Wipe { disks: disks.clone(), level };
    // Asking twice for the same while it goes on is one wish.
    if let Some(running) = draft.state().unfinished(id).find(|operation| operation.kind == kind) {
        return Ok(running.clone());
    }
    let all = disks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    draft.audit("machine.wiped", id, Facts::one("disks", all), Facts::one("level", word(level)));
    let begin_by = draft.now_unix_ms() + operation::BEGIN_WITHIN_MS;
    operation::open(draft, id, kind, Some(begin_by))
}

fn describes(storage: &Storage) -> bool {
    !storage.disks.is_empty() || !storage.filesystems.is_empty()
}

fn these(disks: &[Disk]) -> String {
    let written = disks.iter().filter(|disk| disk.attachment.may_be_written());
    let named: Vec<String> = written.filter_map(|disk| Some(format!("{} ({})", disk.id()?, disk.name))).collect();
    if named.is_empty() { "it has none that can be named".to_owned() } else { format!("it has {}", named.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::lease::model::tests::{box_with, disk};
    use crate::fleet::operation::{describe, next_call};
    use crate::fleet::{State, lease, machine};
    use muster_protocol::desired;
    use muster_protocol::desired::{Desired, DiskSelect, Table, check};
    use muster_protocol::enroll::Identity;
    use muster_protocol::inventory::Attachment;
    use muster_protocol::to_agent::Call;

    fn with_two_disks(draft: &mut Draft) -> MachineId {
        let id = enrolled(draft, Identity::default());
        machine::approve(draft, id).expect("approved");
        let mut inventory = box_with("DISK1", 1);
        inventory.disks.push(disk("DISK2", 1 << 40));
        inventory.disks.push(Disk { attachment: Attachment::Removable, ..disk("STICK", 1 << 30) });
        inventory.disks.push(Disk { attachment: Attachment::External, ..disk("OUTSIDE", 1 << 30) });
        machine::inventory(draft, id, inventory).expect("stored");
        id
    }

    fn names(names: &[&str]) -> Vec<DiskId> {
        names.iter().map(|name| name.parse().expect("a disk id")).collect()
    }

    fn unfinished(state: &State, id: MachineId) -> usize {
        state.unfinished(id).count()
    }

    #[test]
    fn the_named_disks_are_wiped_and_no_other_as_thoroughly_as_was_asked() {
        let mut draft = draft();
        let id = with_two_disks(&mut draft);
        let disks = names(&["serial:DISK2"]);
        let operation = wipe(&mut draft, id, disks.clone(), WipeLevel::Quick).expect("begun");
        assert_eq!(describe(&operation.kind), "wipe 1 disk, level quick");
        let Some(Call::Wipe(asked)) = next_call(&operation) else { panic!("the agent is asked") };
        assert_eq!((asked.disks, asked.level), (disks.clone(), WipeLevel::Quick));
        assert_eq!(wipe(&mut draft, id, disks, WipeLevel::Quick).expect("the same").id, operation.id);
        assert_eq!(unfinished(draft.state(), id), 1);
    }

    #[test]
    fn a_disk_on_usb_is_wiped_where_it_is_named() {
        let mut draft = draft();
        let id = with_two_disks(&mut draft);
        let disks = names(&["serial:OUTSIDE"]);
        let operation = wipe(&mut draft, id, disks.clone(), WipeLevel::Signatures).expect("begun");
        let Some(Call::Wipe(asked)) = next_call(&operation) else { panic!("the agent is asked") };
        assert_eq!(asked.disks, disks);
    }

    #[test]
    fn keys_stay_as_long_as_a_disk_is_there_that_may_bear_their_volume() {
        let mut draft = draft();
        let id = with_two_disks(&mut draft);
        let is_all = |wiped: &[&str]| lease::is_all(draft.state(), id, &names(wiped));
        assert!(!is_all(&["serial:DISK1"]));
        assert!(!is_all(&["serial:DISK1", "serial:DISK2"]), "the one on USB");
        assert!(is_all(&["serial:DISK1", "serial:DISK2", "serial:OUTSIDE"]), "never on a stick");
    }

    #[test]
    fn a_disk_that_is_not_named_without_doubt_is_not_wiped() {
        let mut draft = draft();
        let id = with_two_disks(&mut draft);
        for (disks, said) in [
            (&["serial:NONE"][..], "disks[0]: serial:NONE is no disk of this machine; it has serial:DISK1 (nvme0n1), "),
            (&["serial:DISK1", "serial:DISK1"], "disks[1]: serial:DISK1 is named twice"),
            (&["serial:DISK1", "serial:STICK"], "disks[1]: serial:STICK is a removable medium"),
            (&[], "disks: say which"),
        ] {
            let refused = wipe(&mut draft, id, names(disks), WipeLevel::Full).expect_err("no").to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
        let mut twins = box_with("SAME", 1);
        twins.disks.push(disk("SAME", 1 << 40));
        machine::inventory(&mut draft, id, twins).expect("stored");
        let refused = wipe(&mut draft, id, names(&["serial:SAME"]), WipeLevel::Full).expect_err("no").to_string();
        assert!(refused.contains("the name of more than one disk"), "{refused}");
        assert_eq!(unfinished(draft.state(), id), 0);
    }

    #[test]
    fn a_machine_whose_document_describes_disks_keeps_them() {
        let mut draft = draft();
        let id = with_two_disks(&mut draft);
        let described = |disks: Vec<desired::Disk>| {
            let storage = Storage { disks, ..Storage::default() };
            check(Desired { network: None, storage: Some(storage) }).expect("sound")
        };
        let [name] = &names(&["serial:DISK1"])[..] else { panic!("one") };
        let one = desired::Disk { select: DiskSelect::Id(name.clone()), table: Table::Keep, partitions: Vec::new() };
        machine::set_desired(&mut draft, id, described(vec![one]), None, None).expect("set");
        let refused = wipe(&mut draft, id, names(&["serial:DISK1"]), WipeLevel::Full).expect_err("no").to_string();
        assert!(refused.contains("`storage: {}`"), "{refused}");
        machine::set_desired(&mut draft, id, described(Vec::new()), None, None).expect("set");
        wipe(&mut draft, id, names(&["serial:DISK1"]), WipeLevel::Full).expect("begun");
    }
}
