//! What a lease promises, whatever machines and the controller do meanwhile.

use std::collections::BTreeSet;

use muster_protocol::Digest;
use muster_protocol::enroll::Identity;
use muster_protocol::hello::{Reason, Times};
use muster_protocol::inventory::{Attachment, Disk, Inventory};
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::to_controller::Work;
use muster_protocol::{BootId, Mac};

use super::model::Hardware;
use super::model::tests::{box_with, disk};
use super::*;
use crate::fleet::draft::tests::draft;
use crate::fleet::enrollment::tests::enrolled;
use crate::fleet::record::{Address, Maintenance, Subnet};
use crate::fleet::{Author, Fleet, location, subnet};
use crate::store::MemoryStore;

const HUB: &str = "acme";

/// A site with this many machines of one model, and as many addresses as the subnet has.
pub(super) fn site(draft: &mut Draft, machines: u8, net: &str) -> Vec<MachineId> {
    location::put(draft, Location { code: "ber1".into(), ..Location::default() }).expect("a location");
    // Without quarantine: these tests count who has an address, to the last one.
    let subnet = Subnet { quarantine_s: 0, ..Subnet::new(net.parse().expect("a prefix"), "ber1") };
    subnet::add(draft, subnet).expect("a subnet");
    (1..=machines).map(|n| member(draft, n, box_with(&format!("DISK{n}"), n))).collect()
}

fn member(draft: &mut Draft, n: u8, inventory: Inventory) -> MachineId {
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, n]);
    let id = enrolled(draft, Identity { macs: vec![mac], ..Identity::default() });
    machine::rename(draft, id, &format!("m{n}")).expect("a name");
    machine::approve(draft, id).expect("approved");
    machine::inventory(draft, id, inventory).expect("stored");
    boot(draft, id, n);
    id
}

fn boot(draft: &mut Draft, id: MachineId, n: u8) {
    machine::hello(draft, id, BootId::from_bytes([n; 16]), Progress::Idle).expect("hello");
}

pub(super) fn order(cycle_server: &str) -> Order {
    Order {
        hub: HUB.into(),
        cycle_server: cycle_server.into(),
        hostname: "srv.example.net".into(),
        model: Hardware::of(&box_with("S", 1)).id(),
        location: "ber1".into(),
        zone: String::new(),
    }
}

pub(super) fn everyone(_: MachineId) -> bool {
    true
}

pub(super) fn provisioned(draft: &mut Draft, cycle_server: &str) -> Lease {
    provision(draft, order(cycle_server), &everyone).expect("a lease")
}

pub(super) fn seat(lease: &Lease) -> Seat {
    match &lease.state {
        LeaseState::Preparing { seat, .. } | LeaseState::Ready { seat } => seat.clone(),
        state => panic!("no machine: {state:?}"),
    }
}

pub(super) fn now(draft: &Draft, lease: &Lease) -> Lease {
    draft.need(&lease.id).expect("the lease is there")
}

/// The machine's agent proves what is desired of it, and keeps it.
pub(super) fn confirm(draft: &mut Draft, id: MachineId) {
    let DesiredState { generation, digest, .. } = draft.need(&id).expect("something is desired");
    machine::confirm(draft, id, generation, digest, Times::default()).expect("answered");
    machine::progress(draft, id, &Progress::Confirmed { generation }).expect("noted");
}

fn refuse(draft: &mut Draft, id: MachineId) {
    let generation = draft.need::<DesiredState>(&id).expect("something is desired").generation;
    let why = "disk serial:D carries an LVM2_member".into();
    machine::progress(draft, id, &Progress::Refused { generation, why }).expect("noted");
}

fn lifecycle(draft: &Draft, id: MachineId) -> Lifecycle {
    draft.need::<Machine>(&id).expect("there").lifecycle
}

fn cleaning(draft: &Draft, id: MachineId) -> Operation {
    match lifecycle(draft, id) {
        Lifecycle::Cleaning { operation } => draft.need(&operation).expect("there"),
        other => panic!("not being cleaned: {other:?}"),
    }
}

/// The machine's agent does its part of a cleaning, and comes back with boot `n`.
fn clean_up(draft: &mut Draft, id: MachineId, n: u8) {
    let operation = cleaning(draft, id);
    let running = draft.need::<Machine>(&id).expect("there").boot.expect("a boot");
    if operation::next_call(&operation).is_some() {
        operation::work(draft, id, operation.id, running, Work::Done { receipts: Vec::new() }).expect("noted");
    }
    boot(draft, id, n);
}

fn held(draft: &Draft) -> Vec<String> {
    draft.state().addresses.iter().map(|a: &Address| a.block.to_string()).collect()
}

pub(super) fn ready(draft: &mut Draft, cycle_server: &str) -> (Lease, MachineId) {
    let lease = provisioned(draft, cycle_server);
    let machine = seat(&lease).machine;
    confirm(draft, machine);
    (now(draft, &lease), machine)
}

#[test]
fn a_lease_is_ready_when_the_agent_has_confirmed_and_does_not_change_any_more() {
    let mut draft = draft();
    let ids = site(&mut draft, 2, "203.0.113.0/28");
    let lease = provisioned(&mut draft, "c1");
    let promised = seat(&lease);
    assert_eq!(promised.machine, ids[0]);
    assert_eq!(promised.mac, Mac::from_bytes([2, 0, 0, 0, 0, 1]));
    assert_eq!(promised.uuid, Some([1; 16]));
    assert_eq!(promised.addresses, ["203.0.113.1".parse::<std::net::IpAddr>().expect("an address")]);
    assert!(matches!(lease.state, LeaseState::Preparing { .. }));
    assert_eq!(lifecycle(&draft, ids[0]), Lifecycle::Leased { lease: lease.id.clone() });
    confirm(&mut draft, ids[0]);
    let ready = now(&draft, &lease);
    assert_eq!(ready.state, LeaseState::Ready { seat: promised });
    // Another boot, another inventory, a late complaint: nothing of it changes what was said.
    boot(&mut draft, ids[0], 9);
    machine::inventory(&mut draft, ids[0], Inventory::default()).expect("stored");
    refuse(&mut draft, ids[0]);
    assert_eq!(now(&draft, &lease), ready);
    assert_eq!(provisioned(&mut draft, "c1"), ready);
}

#[test]
fn a_repeated_order_is_the_same_lease_and_orders_without_a_key_are_not() {
    let mut draft = draft();
    site(&mut draft, 4, "203.0.113.0/28");
    let first = provisioned(&mut draft, "c1");
    assert_eq!(provisioned(&mut draft, "c1").id, first.id);
    assert_ne!(provisioned(&mut draft, "c2").id, first.id);
    let other_hub = Order { hub: "other".into(), ..order("c1") };
    assert_ne!(provision(&mut draft, other_hub, &everyone).expect("a lease").id, first.id);
    assert_eq!(draft.state().leases.len(), 3);
    provisioned(&mut draft, "");
    assert!(matches!(provision(&mut draft, order(""), &everyone), Err(Refusal::Exhausted(_))));
    assert_eq!(draft.state().leases.len(), 4);
}

#[test]
fn a_machine_that_refuses_is_available_again_and_the_next_one_is_tried() {
    let mut draft = draft();
    let ids = site(&mut draft, 2, "203.0.113.0/30");
    let lease = provisioned(&mut draft, "c1");
    refuse(&mut draft, ids[0]);
    assert_eq!(lifecycle(&draft, ids[0]), Lifecycle::Available);
    assert!(matches!(now(&draft, &lease).state, LeaseState::Seeking { .. }));
    assert_eq!(held(&draft), [""; 0]);
    assert!(draft.get::<DesiredState>(&ids[0]).is_none());
    assert!(is_due(draft.state()));
    reconcile(&mut draft, &everyone).expect("looked after");
    let second = now(&draft, &lease);
    assert_eq!((seat(&second).machine, held(&draft).len()), (ids[1], 1));
    confirm(&mut draft, ids[1]);
    assert!(matches!(now(&draft, &lease).state, LeaseState::Ready { .. }));
    // The one that refused is still there for the next order, after all others.
    assert_eq!(seat(&provisioned(&mut draft, "c2")).machine, ids[0]);
}

#[test]
fn an_order_that_no_machine_can_serve_fails_with_the_reason_and_can_be_repeated() {
    let mut draft = draft();
    let ids = site(&mut draft, 1, "203.0.113.0/30");
    let lease = provisioned(&mut draft, "c1");
    refuse(&mut draft, ids[0]);
    reconcile(&mut draft, &everyone).expect("looked after");
    let LeaseState::Failed { why } = now(&draft, &lease).state else { panic!("it did not fail") };
    assert!(
        why.contains("m1: refused: disk serial:D carries") && why.contains("1 that could not be prepared"),
        "{why}"
    );
    let again = provisioned(&mut draft, "c1");
    assert_eq!((again.id.as_str(), again.tried.len()), (lease.id.as_str(), 0));
    confirm(&mut draft, ids[0]);
    assert!(matches!(now(&draft, &lease).state, LeaseState::Ready { .. }));
}

#[test]
fn no_more_than_three_machines_are_tried() {
    let mut draft = draft();
    site(&mut draft, 5, "203.0.113.0/28");
    let lease = provisioned(&mut draft, "c1");
    for _ in 0..3 {
        let machine = seat(&now(&draft, &lease)).machine;
        refuse(&mut draft, machine);
        reconcile(&mut draft, &everyone).expect("looked after");
    }
    assert!(matches!(now(&draft, &lease).state, LeaseState::Failed { why } if why.contains("3 machines were tried")));
    assert_eq!(held(&draft), [""; 0]);
    decommission(&mut draft, &lease.id).expect("ended");
    assert!(draft.state().leases.is_empty());
}

#[test]
fn an_address_stays_with_a_machine_whose_revert_failed_until_another_boot() {
    let mut draft = draft();
    let ids = site(&mut draft, 2, "203.0.113.0/29");
    let lease = provisioned(&mut draft, "c1");
    let generation = draft.need::<DesiredState>(&ids[0]).expect("there").generation;
    let (reason, times) = (Reason::NoLease, Times::default());
    let failed = Progress::RevertFailed { generation, reason, why: "both".into(), times };
    machine::progress(&mut draft, ids[0], &failed).expect("noted");
    reconcile(&mut draft, &everyone).expect("looked after");
    assert_eq!(seat(&now(&draft, &lease)).machine, ids[1]);
    assert_eq!(held(&draft), ["203.0.113.1/32", "203.0.113.2/32"]);
    let operation = cleaning(&draft, ids[0]);
    assert!(matches!(operation::next_call(&operation), Some(muster_protocol::to_agent::Call::Power(_))));
    boot(&mut draft, ids[0], 7);
    assert_eq!(lifecycle(&draft, ids[0]), Lifecycle::Available);
    assert_eq!(held(&draft), ["203.0.113.2/32"]);
    confirm(&mut draft, ids[1]);
    assert!(matches!(now(&draft, &lease).state, LeaseState::Ready { .. }));
}

#[test]
fn a_machine_that_leaves_while_it_is_prepared_is_given_up_in_time_and_clean_when_it_is_back() {
    let mut draft = draft();
    let ids = site(&mut draft, 2, "203.0.113.0/29");
    let lease = provisioned(&mut draft, "c1");
    let others = |id| id != ids[0];
    reconcile(&mut draft, &others).expect("looked after");
    draft.advance_ms(ABSENT_MS + 1);
    reconcile(&mut draft, &everyone).expect("looked after");
    assert_eq!(seat(&now(&draft, &lease)).machine, ids[0]);
    reconcile(&mut draft, &others).expect("looked after");
    reconcile(&mut draft, &others).expect("looked after");
    assert_eq!(seat(&now(&draft, &lease)).machine, ids[1]);
    // It did not hear of that: what it confirms now is no longer wanted, and its address is still its own.
    let stale = Digest::of(b"what it has");
    assert!(machine::confirm(&mut draft, ids[0], Generation(1), stale, Times::default()).is_err());
    assert_eq!(held(&draft).len(), 2);
    boot(&mut draft, ids[0], 7);
    assert_eq!((lifecycle(&draft, ids[0]), held(&draft).len()), (Lifecycle::Available, 1));
}

#[test]
fn preparing_does_not_take_for_ever() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/29");
    let lease = provisioned(&mut draft, "c1");
    draft.advance_ms(PREPARE_MS + 1);
    reconcile(&mut draft, &everyone).expect("looked after");
    reconcile(&mut draft, &everyone).expect("looked after");
    assert!(matches!(now(&draft, &lease).state, LeaseState::Failed { why } if why.contains("too long")));
}

#[test]
fn the_end_of_a_lease_wipes_every_fixed_disk_and_frees_the_machine_and_its_address() {
    let mut draft = draft();
    let ids = site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    let mut two = box_with("DISK1", 1);
    two.disks.push(disk("DISK9", 500_107_862_016));
    // What somebody has plugged in, and may come for.
    two.disks.push(Disk { attachment: Attachment::External, ..disk("OUTSIDE", 8_000_000_000_000) });
    machine::inventory(&mut draft, id, two).expect("stored");
    assert!(confirmed::network(draft.state(), id).is_some(), "it would come back with it");
    let location = draft.need::<Location>(&"ber1".to_owned()).expect("a location");
    location::put(&mut draft, Location { wipe: WipeLevel::Secure, ..location }).expect("changed");
    decommission(&mut draft, &lease.id).expect("accepted");
    assert!(draft.get::<DesiredState>(&id).is_none());
    // Its next boot is the clean one: nobody gets what this hub had.
    assert!(draft.get::<confirmed::Confirmed>(&id).is_none());
    let operation = cleaning(&draft, id);
    let OperationKind::Decommission { disks, level, stage: Decommission::Wipe, .. } = &operation.kind else {
        panic!("no wipe")
    };
    assert_eq!(*level, WipeLevel::Secure, "as the location says");
    let names: Vec<String> = disks.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["serial:DISK1", "serial:DISK9"]);
    // Repeating it starts nothing new, and the order's key is taken until it is done.
    decommission(&mut draft, &lease.id).expect("accepted");
    assert_eq!(cleaning(&draft, id).id, operation.id);
    assert!(matches!(provision(&mut draft, order("c1"), &everyone), Err(Refusal::Conflict(_))));
    assert_eq!(held(&draft).len(), 1);
    clean_up(&mut draft, id, 5);
    assert_eq!((lifecycle(&draft, ids[0]), held(&draft).len()), (Lifecycle::Available, 0));
    assert!(draft.state().leases.is_empty());
    decommission(&mut draft, &lease.id).expect("it has ended already");
    decommission(&mut draft, "srv-unknown").expect("so has what never was");
    // The same key is a new lease of its own then.
    machine::inventory(&mut draft, id, box_with("DISK1", 1)).expect("stored");
    assert_ne!(provisioned(&mut draft, "c1").id, lease.id);
}

#[test]
fn a_failed_wipe_keeps_the_machine_out_until_a_repeated_one_succeeds() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    decommission(&mut draft, &lease.id).expect("accepted");
    let first = cleaning(&draft, id);
    let running = BootId::from_bytes([1; 16]);
    let failed = Work::Failed { why: "sda: I/O error at 4096".into() };
    operation::work(&mut draft, id, first.id, running, failed).expect("noted");
    assert!(matches!(lifecycle(&draft, id), Lifecycle::Cleaning { .. }));
    let event = draft.state().events.iter().find(|e| e.kind == "machine.unclean").expect("an event");
    assert!(event.text.contains("sda: I/O error"), "{}", event.text);
    boot(&mut draft, id, 5);
    assert!(matches!(lifecycle(&draft, id), Lifecycle::Cleaning { .. }), "a reboot alone cleans no disk");
    assert_eq!(held(&draft).len(), 1);
    decommission(&mut draft, &lease.id).expect("accepted");
    assert_ne!(cleaning(&draft, id).id, first.id);
    clean_up(&mut draft, id, 6);
    assert_eq!((lifecycle(&draft, id), draft.state().leases.len()), (Lifecycle::Available, 0));
}

#[test]
fn a_disk_that_came_after_the_wipe_began_keeps_the_machine_out_until_it_is_wiped_too() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    decommission(&mut draft, &lease.id).expect("accepted");
    let mut two = box_with("DISK1", 1);
    two.disks.push(disk("LATE", 500_107_862_016));
    machine::inventory(&mut draft, id, two).expect("stored");
    clean_up(&mut draft, id, 5);
    assert!(matches!(lifecycle(&draft, id), Lifecycle::Cleaning { .. }));
    let operation = clean_again(&mut draft, id).expect("begun");
    assert!(matches!(&operation.kind, OperationKind::Decommission { disks, .. } if disks.len() == 2));
    clean_up(&mut draft, id, 6);
    assert_eq!(lifecycle(&draft, id), Lifecycle::Available);
    assert!(matches!(clean_again(&mut draft, id), Err(Refusal::Conflict(_))));
}

#[test]
fn a_lease_that_ends_before_it_was_ready_wipes_nothing_and_boots_anew() {
    let mut draft = draft();
    let ids = site(&mut draft, 2, "203.0.113.0/29");
    let lease = provisioned(&mut draft, "c1");
    decommission(&mut draft, &lease.id).expect("accepted");
    assert!(matches!(now(&draft, &lease).state, LeaseState::Ending { .. }));
    let operation = cleaning(&draft, ids[0]);
    assert!(
        matches!(&operation.kind, OperationKind::Decommission { disks, stage: Decommission::Reboot { .. }, .. } if disks.is_empty())
    );
    reconcile(&mut draft, &everyone).expect("looked after");
    assert!(!is_due(draft.state()), "no other machine is sought");
    boot(&mut draft, ids[0], 5);
    assert_eq!((lifecycle(&draft, ids[0]), draft.state().leases.len()), (Lifecycle::Available, 0));
}

#[test]
fn a_machine_that_is_offline_when_its_lease_ends_is_wiped_when_it_is_back() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    decommission(&mut draft, &lease.id).expect("accepted");
    boot(&mut draft, id, 5);
    let operation = cleaning(&draft, id);
    assert!(matches!(operation::next_call(&operation), Some(muster_protocol::to_agent::Call::Wipe(_))));
    clean_up(&mut draft, id, 6);
    assert_eq!(lifecycle(&draft, id), Lifecycle::Available);
}

#[test]
fn a_restart_is_one_wish_per_boot_and_only_for_a_server_that_is_ready() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let lease = provisioned(&mut draft, "c1");
    assert!(matches!(restart(&mut draft, &lease.id, &|_| true), Err(Refusal::Conflict(_))));
    confirm(&mut draft, seat(&lease).machine);
    let first = restart(&mut draft, &lease.id, &|_| true).expect("asked");
    assert_eq!(restart(&mut draft, &lease.id, &|_| true).expect("asked").id, first.id);
    operation::accepted(&mut draft, first.id).expect("running");
    assert_eq!(restart(&mut draft, &lease.id, &|_| true).expect("asked").id, first.id);
    boot(&mut draft, seat(&lease).machine, 5);
    assert_eq!(draft.need::<Operation>(&first.id).expect("there").state, OperationState::Succeeded);
    assert_ne!(restart(&mut draft, &lease.id, &|_| true).expect("asked").id, first.id);
    assert!(matches!(restart(&mut draft, "srv-unknown", &|_| true), Err(Refusal::NotFound { kind: "lease", .. })));
    decommission(&mut draft, &lease.id).expect("accepted");
    assert!(matches!(restart(&mut draft, &lease.id, &|_| true), Err(Refusal::Conflict(_))));
}

#[test]
fn only_a_machine_that_can_be_had_and_wiped_is_leased_and_the_refusal_counts_the_others() {
    let mut draft = draft();
    let ids = site(&mut draft, 3, "203.0.113.0/28");
    let mut nameless = box_with("X", 4);
    nameless.disks[0].serial = None;
    let hidden = member(&mut draft, 4, nameless);
    machine::maintain(&mut draft, ids[0], Maintenance::On).expect("noted");
    assert_eq!(seat(&provisioned(&mut draft, "c1")).machine, ids[1]);
    let Err(Refusal::Exhausted(why)) = provision(&mut draft, order("c2"), &|id| id == hidden) else { panic!("leased") };
    assert_eq!(
        why,
        "of 4 machines of this model at ber1 none is free: 1 leased or being cleaned, 1 in maintenance, 1 offline, \
         1 with no carrier or with a disk that nothing names"
    );
    let unknown = Order { model: "m-none".into(), ..order("c3") };
    assert!(matches!(provision(&mut draft, unknown, &everyone), Err(Refusal::NotFound { kind: "server model", .. })));
    let nowhere = Order { location: "nowhere".into(), ..order("c3") };
    assert!(matches!(provision(&mut draft, nowhere, &everyone), Err(Refusal::NotFound { kind: "location", .. })));
    let no_zone = Order { zone: "z".into(), ..order("c3") };
    assert!(matches!(provision(&mut draft, no_zone, &everyone), Err(Refusal::Invalid { .. })));
    assert_eq!(draft.state().leases.len(), 1);
}

#[test]
fn an_order_without_an_address_for_it_changes_nothing() {
    let mut draft = draft();
    let ids = site(&mut draft, 3, "203.0.113.0/30");
    provisioned(&mut draft, "c1");
    provisioned(&mut draft, "c2");
    let refusal = draft.attempt(|draft| provision(draft, order("c3"), &everyone));
    assert!(matches!(refusal, Err(Refusal::Exhausted(why)) if why.contains("every IPv4 address")));
    assert_eq!((lifecycle(&draft, ids[2]), draft.state().leases.len()), (Lifecycle::Available, 2));
}

#[test]
fn a_machine_gets_one_address_of_each_family_that_its_location_has() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let gateway = "fe80::1".parse().ok();
    let six = Subnet { gateway, ..Subnet::new("2001:db8::/64".parse().expect("a prefix"), "ber1") };
    subnet::add(&mut draft, six).expect("a subnet");
    let addresses = seat(&provisioned(&mut draft, "c1")).addresses;
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["203.0.113.1", "2001:db8::1"]);
}

#[test]
fn an_operator_cannot_take_the_desired_state_from_under_a_lease_that_is_being_prepared() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let lease = provisioned(&mut draft, "c1");
    let id = seat(&lease).machine;
    let nothing = || muster_protocol::desired::check(Default::default()).expect("nothing is wrong with nothing");
    assert!(matches!(machine::set_desired(&mut draft, id, nothing(), None, None), Err(Refusal::Conflict(_))));
    confirm(&mut draft, id);
    assert!(machine::set_desired(&mut draft, id, nothing(), None, None).is_ok());
    assert!(matches!(now(&draft, &lease).state, LeaseState::Ready { .. }));
}

#[test]
fn a_machine_that_is_written_off_takes_its_lease_and_addresses_with_it_and_nothing_else() {
    let mut draft = draft();
    site(&mut draft, 3, "203.0.113.0/28");
    let (kept, _) = ready(&mut draft, "c1");
    let preparing = provisioned(&mut draft, "c2");
    let (ending, gone) = ready(&mut draft, "c3");
    decommission(&mut draft, &ending.id).expect("accepted");
    for machine in [seat(&preparing).machine, gone] {
        write_off(&mut draft, machine).expect("written off");
        assert_eq!(lifecycle(&draft, machine), Lifecycle::Retired);
        assert!(draft.state().unfinished(machine).next().is_none());
        assert!(matches!(write_off(&mut draft, machine), Err(Refusal::Conflict(_))));
    }
    assert_eq!(draft.state().leases.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(), [kept.id]);
    assert_eq!(held(&draft), ["203.0.113.1/32"]);
}

#[test]
fn a_ready_machine_that_could_not_prove_itself_after_a_reboot_is_asked_again_now_and_then() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    let wanted = |draft: &Draft| draft.need::<DesiredState>(&id).expect("something is desired");
    let first = wanted(&draft);
    let revert = |draft: &mut Draft| {
        let generation = wanted(draft).generation;
        let (reason, times) = (Reason::ControllerSilent, Times::default());
        let reverted = Progress::Reverted { generation, reason, why: "no answer".into(), times };
        machine::progress(draft, id, &reverted).expect("noted");
    };
    draft.advance_ms(RENEW_MS + 1);
    boot(&mut draft, id, 9);
    revert(&mut draft);
    reconcile(&mut draft, &|_| false).expect("looked after");
    assert_eq!(wanted(&draft), first, "nobody is there to ask");
    reconcile(&mut draft, &everyone).expect("looked after");
    let second = wanted(&draft);
    assert_eq!((second.generation, second.digest), (Generation(first.generation.0 + 1), first.digest));
    revert(&mut draft);
    reconcile(&mut draft, &everyone).expect("looked after");
    assert_eq!(wanted(&draft), second, "not at once");
    draft.advance_ms(RENEW_MS + 1);
    reconcile(&mut draft, &everyone).expect("looked after");
    confirm(&mut draft, id);
    draft.advance_ms(RENEW_MS + 1);
    reconcile(&mut draft, &everyone).expect("looked after");
    assert_eq!(wanted(&draft).generation, Generation(first.generation.0 + 2), "what is proved is left alone");
    assert_eq!(now(&draft, &lease).state, lease.state);
    // What an operator wants of it is not repeated.
    draft.author.who = "token:olga".into();
    let nothing = muster_protocol::desired::check(Default::default()).expect("nothing is wrong with nothing");
    machine::set_desired(&mut draft, id, nothing, None, None).expect("set");
    draft.author = Author::controller();
    revert(&mut draft);
    draft.advance_ms(RENEW_MS + 1);
    let operators = wanted(&draft);
    reconcile(&mut draft, &everyone).expect("looked after");
    assert_eq!(wanted(&draft), operators);
}

fn concurrent(fleet: &Fleet, orders: usize) -> tokio::task::JoinSet<Result<Lease, Refusal>> {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..orders {
        let fleet = fleet.clone();
        // Each order comes twice, as from a client that did not wait for its answer.
        let order = order(&format!("c{}", n / 2));
        tasks
            .spawn(async move { fleet.change(Author::controller(), |draft| provision(draft, order, &everyone)).await });
    }
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_orders_never_share_a_machine_or_an_address() {
    let (fleet, _ended) = Fleet::start(MemoryStore::new()).expect("starts");
    let made = |draft: &mut Draft| Ok(site(draft, 20, "203.0.113.0/27"));
    fleet.change(Author::controller(), made).await.expect("made");
    let answers = concurrent(&fleet, 100).join_all().await;
    let leases: Vec<&Lease> = answers.iter().filter_map(|a| a.as_ref().ok()).collect();
    let ids: BTreeSet<&str> = leases.iter().map(|l| l.id.as_str()).collect();
    let machines: BTreeSet<MachineId> = leases.iter().map(|l| seat(l).machine).collect();
    let addresses: BTreeSet<_> = leases.iter().flat_map(|l| seat(l).addresses).collect();
    assert_eq!((ids.len(), machines.len(), addresses.len(), leases.len()), (20, 20, 20, 40));
    assert!(answers.iter().filter_map(|a| a.as_ref().err()).all(|e| matches!(e, Refusal::Exhausted(_))));
    let state = fleet.state();
    assert_eq!((state.leases.len(), state.addresses.len()), (20, 20));
}

/// Has something happen in the writer, as sessions do.
async fn happens(fleet: &Fleet, what: impl FnOnce(&mut Draft) + Send + 'static) {
    let change = |draft: &mut Draft| {
        what(draft);
        Ok(())
    };
    fleet.change(Author::controller(), change).await.expect("noted");
}

/// What a controller that was killed finds on its disk.
async fn restarted(store: &MemoryStore, fleet: Fleet) -> Fleet {
    drop(fleet);
    let (fleet, ended) = Fleet::start(store.clone()).expect("starts");
    // Kept alive by the fleet's own handles; nobody waits for the end here.
    drop(ended);
    fleet
}

#[tokio::test]
async fn a_controller_that_is_killed_at_any_point_of_a_lease_goes_on_with_it() {
    let store = MemoryStore::new();
    let (mut fleet, _ended) = Fleet::start(store.clone()).expect("starts");
    let ids = fleet.change(Author::controller(), |draft| Ok(site(draft, 2, "203.0.113.0/29"))).await.expect("made");
    let by = Author::controller;
    let lease = fleet.change(by(), |draft| provision(draft, order("c1"), &everyone)).await.expect("a lease");
    fleet = restarted(&store, fleet).await;
    let again = fleet.change(by(), |draft| provision(draft, order("c1"), &everyone)).await.expect("a lease");
    assert_eq!(again, lease);
    let first = ids[0];
    happens(&fleet, move |draft| refuse(draft, first)).await;
    fleet = restarted(&store, fleet).await;
    assert!(is_due(&fleet.state()));
    fleet.change(by(), |draft| reconcile(draft, &everyone)).await.expect("looked after");
    fleet = restarted(&store, fleet).await;
    let second = ids[1];
    happens(&fleet, move |draft| confirm(draft, second)).await;
    fleet = restarted(&store, fleet).await;
    let state = fleet.state();
    let LeaseState::Ready { seat } = &state.leases.get(&lease.id).expect("there").state else { panic!("not ready") };
    assert_eq!(seat.machine, second);
    let id = lease.id.clone();
    fleet.change(by(), move |draft| decommission(draft, &id)).await.expect("accepted");
    fleet = restarted(&store, fleet).await;
    happens(&fleet, move |draft| clean_up(draft, second, 8)).await;
    fleet = restarted(&store, fleet).await;
    let state = fleet.state();
    assert_eq!((state.leases.len(), state.addresses.len()), (0, 0));
    assert!(state.machines.iter().all(|m| m.lifecycle == Lifecycle::Available));
}

/// Its NICs switch it on, and its BMC does the rest.
fn name_bmc(draft: &mut Draft, id: MachineId) {
    let data = tempfile::tempdir().expect("a temporary folder");
    let seal = crate::pki::Pki::open(data.path()).expect("opens").disks().expect("made");
    let address = machine::controls::BmcAddress::Ipmi { host: "10.0.9.8".into(), port: 623 };
    machine::controls::set_bmc(draft, &seal, id, address, "admin", "secret").expect("named");
}

fn switches(draft: &Draft, id: MachineId) -> Vec<Operation> {
    draft.state().unfinished(id).filter(|o| matches!(o.kind, OperationKind::Switch { .. })).cloned().collect()
}

fn nobody(_: MachineId) -> bool {
    false
}

#[test]
fn a_server_without_an_agent_is_restarted_from_outside_or_not_at_all() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    let refused = restart(&mut draft, &lease.id, &nobody).expect_err("nothing can");
    assert!(refused.to_string().contains("no agent can restart the machine"), "{refused}");
    name_bmc(&mut draft, id);
    let first = restart(&mut draft, &lease.id, &nobody).expect("asked");
    assert_eq!(restart(&mut draft, &lease.id, &nobody).expect("asked").id, first.id, "it is one wish");
    assert_eq!(switches(&draft, id).len(), 1);
    let lease_now = now(&draft, &lease);
    assert!(matches!(lease_now.state, LeaseState::Ready { .. }));
}

#[test]
fn a_machine_that_is_to_be_wiped_and_has_no_agent_is_started_anew_a_few_times_and_never_for_ever() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    name_bmc(&mut draft, id);
    decommission(&mut draft, &lease.id).expect("accepted");
    reconcile(&mut draft, &nobody).expect("looked");
    assert_eq!(switches(&draft, id).len(), 0, "an agent that is about to dial in again is waited for");
    for time in 1..=3 {
        draft.advance_ms(16 * 60 * 1000);
        reconcile(&mut draft, &nobody).expect("looked");
        reconcile(&mut draft, &nobody).expect("looked");
        let [one] = &switches(&draft, id)[..] else { panic!("one at a time: {time}") };
        operation::refused(&mut draft, one.id, "the BMC is silent").expect("ended");
        reconcile(&mut draft, &nobody).expect("looked");
        assert_eq!(switches(&draft, id).len(), 0, "it is given time to come up");
    }
    draft.advance_ms(24 * 3600 * 1000);
    reconcile(&mut draft, &nobody).expect("looked");
    reconcile(&mut draft, &nobody).expect("looked");
    assert_eq!(switches(&draft, id).len(), 0);
    let steps = cleaning(&draft, id).steps;
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert!(steps.last().is_some_and(|step| step.text.contains("waits for the machine's next boot")), "{steps:?}");
    boot(&mut draft, id, 5);
    clean_up(&mut draft, id, 6);
    assert_eq!(lifecycle(&draft, id), Lifecycle::Available, "whoever brings it about");
}

#[test]
fn a_machine_that_is_to_be_wiped_and_that_nothing_restarts_says_what_it_waits_for() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    decommission(&mut draft, &lease.id).expect("accepted");
    for _ in 0..3 {
        draft.advance_ms(3600 * 1000);
        reconcile(&mut draft, &nobody).expect("looked");
    }
    let operation = cleaning(&draft, id);
    let texts: Vec<_> = operation.steps.iter().map(|step| step.text.as_str()).collect();
    assert!(matches!(texts[..], [only] if only.contains("nothing was named that could restart it")), "{texts:?}");
    assert_eq!(operation.state, OperationState::Queued);
}

#[test]
fn an_agent_that_is_wiping_and_whose_network_is_away_is_not_reset() {
    let mut draft = draft();
    site(&mut draft, 1, "203.0.113.0/30");
    let (lease, id) = ready(&mut draft, "c1");
    name_bmc(&mut draft, id);
    decommission(&mut draft, &lease.id).expect("accepted");
    let began = cleaning(&draft, id).id;
    operation::accepted(&mut draft, began).expect("noted");
    draft.advance_ms(10 * 60 * 1000);
    reconcile(&mut draft, &nobody).expect("looked");
    assert_eq!(switches(&draft, id).len(), 0);
    draft.advance_ms(25 * 60 * 1000);
    reconcile(&mut draft, &everyone).expect("looked");
    assert_eq!(switches(&draft, id).len(), 0, "it has a session");
    reconcile(&mut draft, &nobody).expect("looked");
    assert_eq!(switches(&draft, id).len(), 1);
}
