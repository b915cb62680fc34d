//! The way back: what was observed before is made so again, whoever asks for it.
//!
//! Called by the reconcile loop when a change is not kept, and by [`DeadMan`], a thread that needs nobody to be alive but
//! itself and the kernel. Blocks.

use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_protocol::observed::Network;

use crate::machine::{Machine, chain, why_not};
use crate::plan::network::{self, Step};

/// The name of his thread.
pub const DEAD_MAN: &str = "dead-man";

/// For how long nobody need be worried: for a proof of so long, and for these steps.
pub(super) type Waits = fn(Duration, &[Step]) -> Duration;

/// How long undoing may take.
pub(super) const REVERT_WITHIN: Duration = Duration::from_secs(20);

const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// For everything else that is done meanwhile.
const DEAD_MAN_SLACK: Duration = Duration::from_secs(60);

/// How long the dead man waits: as long as the proof may take, and as those steps may that wait for something.
pub(super) fn dead_man_waits(proof: Duration, steps: &[Step]) -> Duration {
    proof + steps.iter().map(|step| step.change.patience()).sum::<Duration>() + DEAD_MAN_SLACK
}

/// Sets the network back once. Returns what had to be done, and what cannot be: NICs that are gone and led home, or may have.
/// Nothing means that it is as it was. `may` is asked before each step.
///
/// Errors: the kernel does not say how things are.
pub(super) fn back(
    machine: &dyn Machine,
    before: &Network,
    controllers: &[IpAddr],
    may: &dyn Fn(&Step) -> bool,
) -> Result<Vec<String>, String> {
    let now = machine.observe_network().map_err(|error| chain(&error))?;
    let mut left = take(machine, &network::revert(before, &now), may);
    left.extend(network::gone(before, &now, controllers).into_iter().filter(|nic| nic.led_home).map(|nic| nic.said));
    Ok(left)
}

/// Whether the network is as it was, on a fresh look.
pub(super) fn is_back(machine: &dyn Machine, before: &Network, controllers: &[IpAddr]) -> bool {
    let is_so = |now: Network| {
        network::revert(before, &now).is_empty()
            && network::gone(before, &now, controllers).iter().all(|nic| !nic.led_home)
    };
    machine.observe_network().is_ok_and(is_so)
}

/// What is gone of the network that there was before, in words.
pub(super) fn gone(machine: &dyn Machine, before: &Network) -> Vec<String> {
    let now = machine.observe_network();
    now.map_or_else(|_| Vec::new(), |now| network::gone(before, &now, &[]).into_iter().map(|nic| nic.said).collect())
}

/// Has every NIC as it is when a machine boots: asking for addresses, with nothing in the way that anybody set. Returns what
/// was done.
pub(super) fn last_resort(machine: &dyn Machine, may: &dyn Fn(&Step) -> bool) -> String {
    let Ok(now) = machine.observe_network() else { return "the kernel does not say how things are".to_owned() };
    take(machine, &network::as_it_boots(&now), may).join("; ")
}

/// Takes steps, and tells what was done and what of it failed. One that fails does not keep the others from being taken. `may`
/// is asked before each.
pub(super) fn take(machine: &dyn Machine, steps: &[Step], may: &dyn Fn(&Step) -> bool) -> Vec<String> {
    let mut done = Vec::new();
    for step in steps {
        if !may(step) {
            done.push("the rest was left to the dead man".to_owned());
            break;
        }
        let action = step.change.action();
        done.push(match machine.apply_network(step) {
            Ok(()) => action,
            Err(error) => why_not(&action, &error),
        });
    }
    done
}

/// Sets the network back, and if that does not hold within the time, asks for addresses wherever there is a cable.
fn back_for_sure(machine: &dyn Machine, before: &Network, controllers: &[IpAddr], within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        if back(machine, before, controllers, &|_| true).is_ok_and(|left| left.is_empty()) {
            return;
        }
        if Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    // The steps may have waited for longer than that, and have done it.
    if !is_back(machine, before, controllers) {
        last_resort(machine, &|_| true);
    }
}

/// Undoes a change by himself where nobody was heard of for longer than the next thing may take, be that a step of the
/// change, its proof, or a step of its undoing. He does so once. Dropped, he does nothing any more.
pub(super) struct DeadMan(Arc<Helm>);

/// Who may change the network: the loop or its dead man, and never both.
pub(super) struct Helm {
    turn: Mutex<Turn>,
    passed: Condvar,
    waits: Waits,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The loop's, which is heard of again by then.
    Loop(Instant),
    /// The dead man's.
    DeadMan,
    /// The loop's, and nobody watches any more: he is done.
    Over,
}

impl DeadMan {
    /// Begins to watch. `revert_within` is for what he would do, and `controllers` say what led home.
    pub(super) fn arm(
        machine: &Arc<dyn Machine>,
        before: &Network,
        controllers: Vec<IpAddr>,
        waits: Waits,
        revert_within: Duration,
    ) -> Self {
        let turn = Mutex::new(Turn::Loop(Instant::now() + waits(Duration::ZERO, &[])));
        let helm = Arc::new(Helm { turn, passed: Condvar::new(), waits });
        let (his, machine, before) = (helm.clone(), machine.clone(), before.clone());
        let thread = std::thread::Builder::new().name(DEAD_MAN.to_owned()).stack_size(256 * 1024);
        let started = thread.spawn(move || {
            if his.is_left() {
                crate::warn!("nobody has proven the change nor undone it: undoing it");
                back_for_sure(&*machine, &before, &controllers, revert_within);
                *his.lock() = Turn::Over;
                his.passed.notify_all();
            }
        });
        if let Err(error) = started {
            crate::warn!("no thread to undo the change if all else fails: {error}");
        }
        Self(helm)
    }

    /// For the loop, which asks it before all it does.
    pub(super) fn helm(&self) -> &Arc<Helm> {
        &self.0
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Helm {
    /// What the loop does next: a proof of so long, or these steps. It is the loop's own turn to do so unless the answer says
    /// otherwise.
    pub(super) fn next(&self, proof: Duration, steps: &[Step]) -> Turn {
        let mut turn = self.lock();
        if let Turn::Loop(until) = &mut *turn {
            *until = Instant::now() + (self.waits)(proof, steps);
            self.passed.notify_all();
        }
        *turn
    }

    /// Whether a step of a change may be taken: not once the dead man has begun to undo that.
    pub(super) fn may_change(&self, step: &Step) -> bool {
        matches!(self.next(Duration::ZERO, std::slice::from_ref(step)), Turn::Loop(_))
    }

    /// Whether a step that undoes the change may be taken.
    pub(super) fn may_undo(&self, step: &Step) -> bool {
        self.next(Duration::ZERO, std::slice::from_ref(step)) != Turn::DeadMan
    }

    /// Blocks until it is not the dead man's turn.
    pub(super) fn wait(&self) {
        self.next(Duration::ZERO, &[]);
        let his = |turn: &mut Turn| *turn == Turn::DeadMan;
        drop(self.passed.wait_while(self.lock(), his).unwrap_or_else(PoisonError::into_inner));
    }

    /// All is done, and he need not watch: blocks until he is done, too, if he has begun.
    pub(super) fn end_both(&self) {
        if !self.end() {
            self.wait();
        }
    }

    /// All is well, and he need not watch. Answers whether that came in time: what he has begun he carries out.
    pub(super) fn end(&self) -> bool {
        let mut turn = self.lock();
        let in_time = matches!(*turn, Turn::Loop(_));
        if in_time {
            *turn = Turn::Over;
            self.passed.notify_all();
        }
        in_time
    }

    /// Blocks the dead man. Answers whether it is his turn, for want of anybody else.
    fn is_left(&self) -> bool {
        let mut turn = self.lock();
        while let Turn::Loop(until) = *turn {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *turn = Turn::DeadMan;
            } else {
                turn = self.passed.wait_timeout(turn, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        *turn == Turn::DeadMan
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
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
        let _armed = DeadMan::arm(&same, &before, Vec::new(), |_, _| Duration::ZERO, Duration::ZERO);
        let asks = |network: &Network| network.links.iter().all(|link| link.dhcp4.lease_use().is_some());
        assert!(machine.wait_for_network(Duration::from_secs(60), asks));
    }

    #[test]
    fn an_undoing_of_a_dead_man_that_takes_all_the_time_there_is_and_holds_is_left_as_it_is() {
        let machine = Arc::new(SimMachine::new(1));
        let before = machine.observe_network().expect("observes");
        machine.by_hand(&network::Change::SetHostname { name: "another".to_owned() });
        back_for_sure(&*machine, &before, &[], Duration::ZERO);
        assert_eq!(machine.observe_network().expect("observes"), before);
    }

    #[test]
    fn who_ends_with_the_change_waits_for_a_dead_man_who_has_begun_to_undo_it() {
        let machine = Arc::new(SimMachine::new(1));
        let mut before = machine.observe_network().expect("observes");
        before.hostname = "another".to_owned();
        machine.set_faults(Faults { refuse: vec!["set the hostname".into()], ..Faults::default() });
        let same: Arc<dyn Machine> = machine.clone();
        let armed = DeadMan::arm(&same, &before, Vec::new(), |_, _| Duration::ZERO, Duration::from_millis(100));
        while armed.helm().next(Duration::ZERO, &[]) != Turn::DeadMan {
            std::thread::yield_now();
        }
        armed.helm().end_both();
        let left = machine.observe_network().expect("observes");
        assert!(left.links.iter().all(|link| link.dhcp4.lease_use().is_some()), "he is at it: {left:?}");
    }

    #[test]
    fn who_changes_the_network_is_told_when_the_dead_man_has_begun_to_undo_it_and_when_he_is_done() {
        let machine = Arc::new(SimMachine::new(1));
        let before = machine.observe_network().expect("observes");
        let same: Arc<dyn Machine> = machine.clone();
        let change = network::Change::SetHostname { name: "another".to_owned() };
        let step = Step { change, impact: muster_protocol::to_agent::Impact::None };

        let hour = |_, _: &[Step]| Duration::from_secs(3600);
        let in_time = DeadMan::arm(&same, &before, Vec::new(), hour, REVERT_WITHIN);
        assert!(in_time.helm().may_change(&step) && in_time.helm().may_undo(&step));
        assert!(in_time.helm().end(), "it came in time");

        let once = |_, steps: &[Step]| Duration::from_secs(if steps.is_empty() { 3600 } else { 0 });
        let late = DeadMan::arm(&same, &before, Vec::new(), once, REVERT_WITHIN);
        machine.apply_network(&step).expect("is taken");
        assert!(late.helm().may_change(&step), "it is told what is next, and that takes too long");
        assert!(machine.wait_for_network(Duration::from_secs(60), |now| *now == before));
        late.helm().wait();
        assert!(!late.helm().may_change(&step), "it is undone");
        assert!(late.helm().may_undo(&step), "and nobody else is at it");
        assert!(!late.helm().end());
    }
}
