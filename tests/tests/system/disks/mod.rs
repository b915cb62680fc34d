//! Disks of machines, looked at from outside before and after.

mod choose;
mod cuts;
mod shapes;
mod tools;
mod wipe;
