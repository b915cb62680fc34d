//! The way back: what was observed before is made so again, whoever asks for it.
//!
//! Called by the reconcile loop when a change is not kept, and by [`DeadMan`], a thread that needs nobody to be alive but
//! itself and the kernel. Blocks.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use muster_protocol::observed::Network;

use crate::machine::{Machine, chain};
use crate::plan::network::{self, Step};

const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// For everything else that is done meanwhile.
const DEAD_MAN_SLACK: Duration = Duration::from_secs(60);

/// How long the dead man waits: as long as the proof may take, and as those steps may that wait for something.
pub(super) fn dead_man_waits(proof: Duration, steps: &[Step]) -> Duration {
    proof + steps.iter().map(|step| step.change.patience()).sum::<Duration>() + DEAD_MAN_SLACK
}

/// Sets the network back once. Returns what had to be done; nothing means that it is as it was.
///
/// Errors: the kernel does not say how things are.
pub(super) fn back(machine: &dyn Machine, before: &Network) -> Result<Vec<String>, String> {
    let now = machine.observe_network().map_err(|error| chain(&error))?;
    let mut left = Vec::new();
    for step in &network::revert(before, &now) {
        // One step that fails does not keep the others from being undone.
        let error = machine.apply_network(step).err();
        let error = error.map_or_else(String::new, |error| format!(": {}", chain(&error)));
        left.push(format!("{}{error}", step.describe().action));
    }
    Ok(left)
}

/// Sets the network back, and if that does not hold within the time, asks for addresses wherever there is a cable.
fn back_for_sure(machine: &dyn Machine, before: &Network, within: Duration) {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if back(machine, before).is_ok_and(|left| left.is_empty()) {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    last_resort(machine);
}

/// Asks for addresses by DHCP on every NIC, whatever they were before. Returns what was done.
pub(super) fn last_resort(machine: &dyn Machine) -> String {
    let Ok(now) = machine.observe_network() else { return "the kernel does not say how things are".to_owned() };
    let mut done = Vec::new();
    for step in &network::last_resort(&now) {
        let error = machine.apply_network(step).err();
        let error = error.map_or_else(String::new, |error| format!(": {}", chain(&error)));
        done.push(format!("{}{error}", step.describe().action));
    }
    done.join("; ")
}

/// Undoes a change by itself unless it is told in time that the change is proven, or undone already.
pub(super) struct DeadMan(#[expect(dead_code, reason = "only its end is looked at")] mpsc::Sender<()>);

impl DeadMan {
    /// Begins to count. `revert_within` is for the undoing.
    pub(super) fn arm(machine: &Arc<dyn Machine>, before: &Network, within: Duration, revert_within: Duration) -> Self {
        let (alive, ended) = mpsc::channel();
        let (machine, before) = (machine.clone(), before.clone());
        let thread = std::thread::Builder::new().name("dead-man".to_owned()).stack_size(256 * 1024);
        let started = thread.spawn(move || {
            if ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
                crate::warn!("nobody has proven the change nor undone it: undoing it");
                back_for_sure(&*machine, &before, revert_within);
            }
        });
        if let Err(error) = started {
            crate::warn!("no thread to undo the change if all else fails: {error}");
        }
        Self(alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Faults, SimMachine};

    #[test]
    fn a_dead_man_does_not_undo_what_only_waits_for_spanning_tree_and_a_lease() {
        let (link, family) = ("br0".to_owned(), network::Family::V4);
        let waits = [
            network::Change::AwaitForwarding { link: link.clone() },
            network::Change::AwaitLease { link: link.clone(), family },
            network::Change::AwaitUnique { link },
        ];
        let impact = muster_protocol::to_agent::Impact::None;
        let steps = waits.map(|change| Step { change, impact: impact.clone() });
        // Twice the longest forward-delay, and some.
        let (proof, longest) = (Duration::from_secs(20), Duration::from_secs(60 + 5 + 15 + 5));
        assert!(dead_man_waits(proof, &steps) > longest + proof);
    }

    #[test]
    fn where_a_dead_mans_undoing_does_not_hold_every_nic_asks_for_an_address() {
        let machine = Arc::new(SimMachine::new(1));
        let mut before = machine.observe_network().expect("observes");
        before.hostname = "another".to_owned();
        machine.set_faults(Faults { refuse: vec!["set the hostname".into()], ..Faults::default() });
        let same: Arc<dyn Machine> = machine.clone();
        let _alive = DeadMan::arm(&same, &before, Duration::ZERO, Duration::ZERO);
        let asks = |network: &Network| network.links.iter().all(|link| link.dhcp4.lease_use().is_some());
        assert!(machine.wait_for_network(Duration::from_secs(60), asks));
    }
}
