//! Disks of machines, looked at from outside before and after.

mod choose;
mod cuts;
mod dangers;
mod install;
mod shapes;
mod stacks;
mod tools;
mod wipe;
