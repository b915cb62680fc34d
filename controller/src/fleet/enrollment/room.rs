//! How many machines may wait for approval: so many in all, and a share of them from one address, so that nobody who sends
//! boxes that do not exist keeps everybody else out.
//!
//! Where there is no room, one that is not there gives way: the one that left first, or never came and enrolled first.
//! One that is there never does: an operator may be typing its claim code.

use std::net::IpAddr;

use muster_protocol::MachineId;
use muster_protocol::enroll::Refusal as Enrollment;

use super::marks::Mark;
use crate::fleet::record::{Lifecycle, Machine};
use crate::fleet::{Draft, Refusal, State};

/// The most machines that wait for approval.
pub const PENDING_LIMIT: usize = 1_000;

/// The most of them from one source: four of those are needed to fill the fleet's door, and a delivery that an office
/// unpacks in one day still fits.
pub const SHARE: usize = PENDING_LIMIT / 4;

/// Among whom a place has to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Among {
    /// There is room as it is.
    Nobody,
    /// Those from the newcomer's own source, which has its share.
    Own,
    /// Everybody who waits.
    All,
}

/// The machine that gives way to a newcomer from `source`; `None` where there is room without that, or nobody who may.
///
/// `left` is since when a machine is not there, in milliseconds since 1970, and `None` for one that is.
pub fn forgettable(state: &State, source: Option<IpAddr>, left: impl Fn(&Machine) -> Option<u64>) -> Option<MachineId> {
    let among = among(state, source);
    if among == Among::Nobody {
        return None;
    }
    let pending = state.marks().pending().filter_map(|id| state.machines.get(&id));
    let may = pending.filter(|machine| may_give_way(machine, among, source));
    may.filter_map(|machine| Some((left(machine)?, machine.id))).min().map(|(_, id)| id)
}

/// Leaves a place for one more machine that waits for approval, which comes from `source`; `absent` is what
/// [`forgettable`] said.
pub fn make(draft: &mut Draft, source: Option<IpAddr>, absent: Option<MachineId>) -> Result<(), Refusal> {
    let among = among(draft.state(), source);
    if among == Among::Nobody {
        return Ok(());
    }
    let absent = absent.and_then(|id| draft.get::<Machine>(&id));
    match absent.filter(|machine| may_give_way(machine, among, source)).map(|machine| machine.id) {
        Some(id) => {
            super::forget(draft, id);
            Ok(())
        }
        None => Err(Enrollment::Full.into()),
    }
}

fn among(state: &State, source: Option<IpAddr>) -> Among {
    let own = state.marks().of(Mark::Pending(source)).count();
    match (own >= SHARE, state.marks().pending().count() >= PENDING_LIMIT) {
        (true, _) => Among::Own,
        (false, true) => Among::All,
        (false, false) => Among::Nobody,
    }
}

fn may_give_way(machine: &Machine, among: Among, source: Option<IpAddr>) -> bool {
    let is_one = match among {
        Among::Nobody => false,
        Among::Own => machine.source == source,
        Among::All => true,
    };
    is_one && machine.lifecycle == Lifecycle::Pending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Author;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::{Seen, enroll};
    use crate::fleet::ticket::{self, Grant};
    use muster_protocol::enroll::Identity;

    fn number(n: usize) -> Identity {
        Identity { board_serial: format!("N-{n:05}-X"), ..Identity::default() }
    }

    fn come(draft: &mut Draft, from: &str, n: usize, absent: Option<MachineId>) -> Result<MachineId, Refusal> {
        draft.author = Author::new("enrollment", Some(format!("{from}:4711").parse().expect("an address")), "");
        draft.advance_ms(1);
        let ticket = ticket::issue(draft, Grant::bearer("ber1", 60_000))?;
        let seen = Seen { absent, ..Seen::default() };
        enroll(draft, &ticket, number(n), seen, ticket.digest()).map(|enrolled| enrolled.machine)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn one_source_has_its_share_and_the_rest_of_the_world_still_comes_in() {
        let mut draft = draft();
        let office: Vec<_> = (0..SHARE).map(|n| come(&mut draft, "203.0.113.7", n, None).expect("a place")).collect();
        assert_eq!(come(&mut draft, "203.0.113.7", 9_000, None), Err(Enrollment::Full.into()));
        assert_eq!(come(&mut draft, "203.0.113.7", 7, None), Ok(office[7]), "who waits already needs no place");
        let other = come(&mut draft, "203.0.113.8", 9_001, None).expect("the others have theirs");
        // One of its own gives way to it, and none of another's.
        assert_eq!(come(&mut draft, "203.0.113.7", 9_000, Some(other)), Err(Enrollment::Full.into()));
        let left = |machine: &Machine| (machine.id == other || machine.id == office[3]).then_some(1);
        let absent = forgettable(draft.state(), ip("203.0.113.7"), left);
        assert_eq!(absent, Some(office[3]));
        come(&mut draft, "203.0.113.7", 9_000, absent).expect("a place");
        assert!(draft.get::<Machine>(&office[3]).is_none());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_share_one_share() {
        let mut draft = draft();
        for n in 0..SHARE {
            come(&mut draft, &format!("[2001:db8::{n:x}]"), n, None).expect("a place");
        }
        assert_eq!(come(&mut draft, "[2001:db8::ffff:1]", 9_000, None), Err(Enrollment::Full.into()));
        come(&mut draft, "[2001:db8:0:1::1]", 9_000, None).expect("another network");
    }

    #[test]
    fn where_all_places_are_taken_the_one_that_left_first_gives_way_and_nobody_who_is_there() {
        let mut draft = draft();
        let from = |n: usize| format!("192.0.2.{}", n / SHARE);
        let ids: Vec<_> = (0..PENDING_LIMIT).map(|n| come(&mut draft, &from(n), n, None).expect("a place")).collect();
        let newcomer = ip("198.51.100.1");
        assert_eq!(forgettable(draft.state(), newcomer, |_| None), None);
        assert_eq!(come(&mut draft, "198.51.100.1", 9_000, None), Err(Enrollment::Full.into()));
        // The first that enrolled came back in the meantime.
        let left = |machine: &Machine| match ids.iter().position(|id| *id == machine.id) {
            Some(0) => Some(9_000),
            Some(700) => Some(5_000),
            Some(800) => Some(6_000),
            _ => None,
        };
        let absent = forgettable(draft.state(), newcomer, left);
        assert_eq!(absent, Some(ids[700]));
        come(&mut draft, "198.51.100.1", 9_000, absent).expect("a place");
        assert!(draft.get::<Machine>(&ids[700]).is_none() && draft.get::<Machine>(&ids[0]).is_some());
    }
}
