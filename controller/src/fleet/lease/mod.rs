//! Leases: a machine in somebody's hands, from provision to decommission.

pub mod model;

use super::record::Operation;
use super::{Draft, Refusal};

/// An operation came to an end: moves on the lease that waited for it.
pub fn ended(_draft: &mut Draft, _operation: &Operation) -> Result<(), Refusal> {
    Ok(())
}
