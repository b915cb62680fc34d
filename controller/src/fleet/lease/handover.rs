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
