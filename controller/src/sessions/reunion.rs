//! After the controller's start: which machines may be alive although none has a session yet.
//!
//! Whoever was online when the controller before this one stopped is on its way back, and others who claim to be it must
//! not be faster. So for a while all machines that have a certificate count as alive until they were here.
//! Nothing is stored for this, and time is an argument.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use muster_protocol::{Digest, MachineId};

use crate::fleet::State;
use crate::fleet::record::Lifecycle;

/// How long. An agent knows after 20 s at most that its session is over, and is then, or was already, between two
/// attempts to dial, which are 5 s of looking for a name, 8 s of a handshake and 30 s of waiting apart.
pub const AWAITED: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Reunion {
    missing: HashSet<MachineId>,
    until: Instant,
}

impl Reunion {
    /// The controller starts with this fleet.
    pub fn begin(state: &State, now: Instant) -> Self {
        let may_come = |lifecycle: &Lifecycle| !matches!(lifecycle, Lifecycle::Rejected | Lifecycle::Retired);
        let machines = state.machines.iter().filter(|machine| may_come(&machine.lifecycle));
        let certified = machines.filter(|machine| machine.certificate != Digest::from_bytes([0; 32]));
        Self { missing: certified.map(|machine| machine.id).collect(), until: now + AWAITED }
    }

    /// For how long the machine may still come, where it has not been here yet.
    pub fn awaits(&mut self, machine: MachineId, now: Instant) -> Option<Duration> {
        if now >= self.until {
            self.missing = HashSet::new();
        }
        self.missing.contains(&machine).then(|| self.until - now)
    }

    /// The machine has a session: what becomes of it from now on is seen.
    pub fn came(&mut self, machine: MachineId) {
        self.missing.remove(&machine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::machine;
    use muster_protocol::enroll::Identity;

    #[test]
    fn a_machine_is_awaited_until_it_came_or_has_had_its_time() {
        let (mut draft, now) = (draft(), Instant::now());
        let [member, pending, rejected, retired] = ["S-1", "S-2", "S-3", "S-4"]
            .map(|serial| enrolled(&mut draft, Identity { board_serial: serial.into(), ..Identity::default() }));
        machine::approve(&mut draft, member).expect("approved");
        machine::reject(&mut draft, rejected).expect("rejected");
        machine::retire(&mut draft, retired).expect("retired");
        let mut reunion = Reunion::begin(draft.state(), now);
        let all = [member, pending, rejected, retired].map(|id| reunion.awaits(id, now));
        assert_eq!(all, [Some(AWAITED), Some(AWAITED), None, None]);
        reunion.came(member);
        let late = now + AWAITED - Duration::from_millis(1);
        let left = [member, pending].map(|id| reunion.awaits(id, late));
        assert_eq!(left, [None, Some(Duration::from_millis(1))]);
        assert_eq!(reunion.awaits(pending, now + AWAITED), None);
        assert!(reunion.missing.is_empty(), "nothing is kept for ever");
    }
}
