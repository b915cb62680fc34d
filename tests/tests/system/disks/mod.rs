//! Disks of machines, looked at from outside before and after.

mod arrays;
mod choose;
mod cuts;
pub mod dangers;
mod install;
mod refused;
mod shapes;
mod stacks;
mod tools;
mod wipe;

use std::path::Path;

use anyhow::Result;
use muster_tests::artifacts;
use muster_tests::lab::Lab;
use muster_tests::qemu::{Boot, Machine, Spec};

/// Kernel and initramfs are put into its memory: that is not what is looked at here.
fn start(lab: &Lab, spec: &mut Spec, folder: &Path) -> Result<Machine> {
    let (kernel, cmdline) = (artifacts::image()?.join("kernel"), lab.command_line(spec)?);
    let initramfs = lab.initramfs(&cmdline, folder)?;
    spec.boot = Boot::Kernel { kernel, initramfs, cmdline };
    Machine::start(spec, folder)
}
