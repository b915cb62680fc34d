//! Pools of Cycle's: addresses that a hub asks for beside those of its servers, and gives back by itself.
//!
//! A pool outlives the server it was asked for: Cycle may hold it unassigned and release it later.

use ipnet::IpNet;

use super::address::{self, Family};
use crate::fleet::record::{Address, AddressHolder, Lease, LeaseState, Subnet};
use crate::fleet::{Draft, Refusal};

/// What a hub asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOrder {
    /// Who asks.
    pub hub: String,
    /// Cycle's id of the pool; with `hub` and `family` the key that makes a repeated order one order. Empty for no key.
    pub pool: String,
    /// For which lease.
    pub lease: String,
    /// Where; the lease's location.
    pub location: String,
    /// Of which family.
    pub family: Family,
}

/// Takes an address for a pool; a repeated order is answered with the same one.
///
/// Errors: no such lease, one that is ending or failed, or one elsewhere; no address free.
pub fn allocate(draft: &mut Draft, order: PoolOrder) -> Result<(Address, Subnet), Refusal> {
    if let Some(address) = find(draft, &order) {
        let subnet = draft.need::<Subnet>(&address.subnet)?;
        return Ok((address, subnet));
    }
    let lease = draft.need::<Lease>(&order.lease)?;
    match lease.state {
        LeaseState::Seeking { .. } | LeaseState::Preparing { .. } | LeaseState::Ready { .. } => {}
        LeaseState::Failed { .. } => return Err(Refusal::Conflict("this server could not be provisioned".into())),
        LeaseState::Ending { .. } => return Err(Refusal::Conflict("this server is being decommissioned".into())),
    }
    if lease.location != order.location {
        return Err(Refusal::invalid("location_id", format!("the server is at {}", lease.location)));
    }
    let assignment = draft.random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    let holder = AddressHolder::Pool { hub: order.hub, pool: order.pool, lease: order.lease, assignment };
    address::take(draft, &order.location, order.family, holder)
}

fn find(draft: &Draft, order: &PoolOrder) -> Option<Address> {
    draft.state().pool(&order.hub, &order.pool, order.family).cloned()
}

/// Gives back what was handed out under this name. What is handed out under another one by now stays where it is, so a
/// late repetition takes nothing from anybody.
pub fn release(draft: &mut Draft, block: IpNet, named: &str) -> Result<(), Refusal> {
    let holder = draft.get::<Address>(&block).map(|address| address.holder.clone());
    if let Some(AddressHolder::Pool { assignment, .. }) = holder
        && assignment == named
    {
        address::release(draft, block);
    }
    Ok(())
}
