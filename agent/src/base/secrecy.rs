//! What the agent holds in memory stays there: keys of volumes among it.
//!
//! Called once, at the start of each of its processes.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core of this process is written from now on, nor any by the kernel of the programs that it starts.
pub fn forbid_cores() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // The limit says nothing to a program that the kernel hands cores to.
    let done = setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = done {
        crate::warn!("the agent's memory may end up in a core: {error}");
    }
}

/// Nothing of this process is swapped out from now on, to a disk that a document swaps to for one.
pub fn forbid_swapping() {
    // What is never touched is not fetched for it: threads have far more stack than they use.
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        crate::warn!("the agent's memory may end up in swap: {error}");
    }
}
