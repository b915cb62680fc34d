//! Handing a leased machine over to its holder's own image, such as Cycle's: at which boots, where to, and with what network.
//!
//! A machine goes there from the boot after its lease became ready to the last one before the lease ends: it asks the
//! controller at every boot, and again whenever it is not given what it is sent to, so the end is noticed.
//! Pure; asked by `boot` for the script, by leases for whom they may take, and by whoever shows locations.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use muster_ipxe::param::BootUrl;
use muster_ipxe::script::Static;
use muster_protocol::MachineId;
use muster_protocol::inventory::FirmwareKind;

use crate::fleet::State;
use crate::fleet::location::reservation;
use crate::fleet::record::{Lease, LeaseState, Lifecycle, Location, Machine, Maintenance};

/// Where a machine goes in the agent's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover<'s> {
    /// The location's boot target.
    pub target: &'s BootUrl,
    /// What its lease gave it of IPv4, where it did.
    pub network: Option<Static>,
}

/// Where this machine goes at its next boot; `None` where it starts the agent, as one in maintenance does.
pub fn of(state: &State, id: MachineId) -> Option<Handover<'_>> {
    let machine = state.machines.get(&id).filter(|machine| machine.maintenance == Maintenance::Off)?;
    let lease = ready(state, machine)?;
    let target = state.locations.get(&lease.location)?.boot_target.as_ref()?;
    let network = reservation::of_machine(state, id).next().map(|reserved| Static {
        mac: reserved.mac,
        address: Ipv4Net::new_assert(reserved.address, reserved.net.prefix_len()),
        gateway: reserved.gateway,
        nameserver: reserved.nameservers.first().copied(),
    });
    Some(Handover { target, network })
}

/// The lease in whose hands a machine is.
pub fn ready<'s>(state: &'s State, machine: &Machine) -> Option<&'s Lease> {
    let Lifecycle::Leased { lease } = &machine.lifecycle else { return None };
    state.leases.get(lease).filter(|lease| match &lease.state {
        LeaseState::Ready { seat } => seat.machine == machine.id,
        LeaseState::Seeking { .. }
        | LeaseState::Preparing { .. }
        | LeaseState::Failed { .. }
        | LeaseState::Ending { .. } => false,
    })
}

/// Why a machine cannot be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// It starts from a sealed medium, which asks nobody what to start.
    SealedMedium,
    /// Its medium believes the boot CA alone, and the target is another's by HTTPS.
    PinnedCa,
}

/// What keeps a machine from its location's boot target; `None` where nothing does, or there is no target.
pub fn held_by(state: &State, location: &Location, machine: &Machine) -> Option<HeldBy> {
    let target = location.boot_target.as_ref()?;
    let iso = state.isos.get(&machine.iso)?;
    let firmware = state.inventories.get(&machine.id).map(|record| record.inventory.firmware.kind);
    if iso.sealed.is_some() {
        Some(HeldBy::SealedMedium)
    } else if target.is_https() && iso.boot_ca.is_some() && firmware == Some(FirmwareKind::Uefi) {
        Some(HeldBy::PinnedCa)
    } else {
        None
    }
}

/// Whose machine speaks from this address: the lease's, of a machine that is ready. Public addresses count where a router
/// translates.
pub fn by_address(state: &State, address: IpAddr) -> Option<(&Machine, &Lease)> {
    let id = reservation::holder(state, address)?;
    let machine = state.machines.get(&id)?;
    Some((machine, ready(state, machine)?))
}

#[cfg(test)]
mod tests {
    use muster_protocol::Digest;
    use muster_protocol::to_agent::PowerAction;

    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::iso::tests::{built, built_sealed};
    use crate::fleet::lease::model::tests::box_with;
    use crate::fleet::lease::model::{self, Hardware};
    use crate::fleet::lease::tests::{confirm, everyone, now, order, provisioned, ready, seat, site};
    use crate::fleet::lease::{Order, decommission, provision};
    use crate::fleet::record::{Iso, Operation, OperationKind, OperationState};
    use crate::fleet::{Draft, Refusal, location, machine, operation};

    /// The location with something else to start while machines are leased, or without.
    fn set_target(draft: &mut Draft, target: Option<&str>) {
        let location = draft.need::<Location>(&"ber1".to_owned()).expect("a location");
        let boot_target = target.map(|url| url.to_owned().try_into().expect("a URL"));
        location::put(draft, Location { boot_target, ..location }).expect("changed");
    }

    #[test]
    fn a_machine_is_handed_over_from_the_end_of_its_preparation_to_the_end_of_its_lease() {
        let mut draft = draft();
        let [id] = site(&mut draft, 1, "203.0.113.0/29")[..] else { panic!("one machine") };
        set_target(&mut draft, Some("http://192.0.2.9/cycle.ipxe"));
        assert_eq!(of(draft.state(), id), None, "it is nobody's");
        let lease = provisioned(&mut draft, "c1");
        assert_eq!(of(draft.state(), id), None, "it is being prepared");
        confirm(&mut draft, id);
        let handed = of(draft.state(), id).expect("it is the hub's");
        assert_eq!(handed.target.to_string(), "http://192.0.2.9/cycle.ipxe");
        let network = handed.network.expect("it has an address");
        assert_eq!(
            (network.mac, network.address.to_string()),
            (seat(&now(&draft, &lease)).mac, "203.0.113.1/29".into())
        );
        assert_eq!((network.gateway, network.nameserver), (None, None), "the subnet has none");

        let reboots = |draft: &Draft| -> Vec<Operation> {
            let reboot = |o: &&Operation| matches!(o.kind, OperationKind::Power { action: PowerAction::Reboot, .. });
            draft.state().unfinished(id).filter(reboot).cloned().collect()
        };
        let [reboot] = &reboots(&draft)[..] else { panic!("it starts anew, once") };
        operation::accepted(&mut draft, reboot.id).expect("noted");
        let running = draft.need::<Machine>(&id).expect("there").boot.expect("a boot");
        operation::gone(&mut draft, id, running).expect("noted");
        let left = draft.need::<Operation>(&reboot.id).expect("there");
        assert_eq!(left.state, OperationState::Succeeded, "no agent is to come back from there");

        machine::maintain(&mut draft, id, Maintenance::On).expect("an operator wants the agent");
        assert_eq!(of(draft.state(), id), None);
        machine::maintain(&mut draft, id, Maintenance::Off).expect("no more");
        assert!(of(draft.state(), id).is_some());
        assert!(by_address(draft.state(), "203.0.113.1".parse().expect("an address")).is_some());
        decommission(&mut draft, &lease.id).expect("accepted");
        assert_eq!(of(draft.state(), id), None, "it comes back to be wiped");
        assert_eq!(by_address(draft.state(), "203.0.113.1".parse().expect("an address")), None);
    }

    #[test]
    fn without_a_boot_target_a_machine_that_is_ready_goes_on_with_the_agent() {
        let mut draft = draft();
        site(&mut draft, 1, "203.0.113.0/29");
        let (_, id) = ready(&mut draft, "c1");
        assert_eq!(of(draft.state(), id), None);
        assert_eq!(draft.state().unfinished(id).count(), 0, "nothing is asked of it");
        set_target(&mut draft, Some("http://192.0.2.9/cycle.ipxe"));
        assert!(of(draft.state(), id).is_some(), "from its next boot on");
    }

    #[test]
    fn a_machine_whose_medium_cannot_hand_it_over_is_not_leased_where_there_is_a_boot_target() {
        let mut draft = draft();
        let [id] = site(&mut draft, 1, "203.0.113.0/29")[..] else { panic!("one machine") };
        let sealed = built_sealed(&mut draft, b"sealed").id;
        let pinning = Iso { boot_ca: Some(Digest::of(b"a boot CA")), ..built(&mut draft, b"network") };
        draft.put(pinning.clone());
        let mut inventory = box_with("DISK1", 1);
        inventory.firmware.kind = FirmwareKind::Uefi;
        let model = Hardware::of(&inventory).id();
        machine::inventory(&mut draft, id, inventory).expect("stored");
        for (iso, target, is_held) in [
            (&sealed, None, false),
            (&sealed, Some("http://192.0.2.9/"), true),
            (&sealed, Some("https://cycle.example/"), true),
            (&pinning.id, Some("http://192.0.2.9/"), false),
            (&pinning.id, Some("https://cycle.example/"), true),
            (&String::new(), Some("https://cycle.example/"), false),
        ] {
            let machine = draft.need::<Machine>(&id).expect("there");
            draft.put(Machine { iso: iso.clone(), ..machine });
            set_target(&mut draft, target);
            let order = Order { model: model.clone(), ..order("c1") };
            let leased = draft.attempt(|draft| {
                let lease = provision(draft, order, &everyone)?;
                decommission(draft, &lease.id)?;
                Err::<(), _>(Refusal::Internal)
            });
            match leased {
                Err(Refusal::Exhausted(why)) if is_held => {
                    assert!(why.contains("1 on boot media that cannot"), "{why}")
                }
                Err(Refusal::Internal) if !is_held => {}
                other => panic!("{iso} to {target:?}: {other:?}"),
            }
            let free = model::list(draft.state(), &everyone, draft.now_unix_ms())[0].places["ber1"].count.free;
            assert_eq!(free, u64::from(!is_held), "as many as can be leased are told of");
        }
    }
}
