//! Disks of machines, looked at from outside before and after.

mod choose;
mod tools;
mod wipe;
