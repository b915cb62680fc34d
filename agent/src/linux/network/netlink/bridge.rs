//! Bridges and their ports (linux/if_link.h; net/bridge/br_netlink.c).
//!
//! A part of [`link`](super::link): what is special about links of this kind.

use muster_protocol::desired::{BridgeOption, PortCost};
use muster_protocol::observed::Bridge;

use super::link;
use super::wire::{Request, attribute, u16_at, u32_at};
use crate::sort;

const IFLA_BR_PRIORITY: u16 = 6;
const IFLA_BR_TOPOLOGY_CHANGE: u16 = 14;

const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_PRIORITY: u16 = 2;
const IFLA_BRPORT_COST: u16 = 3;

/// `BR_STATE_DISABLED`, `BR_STATE_FORWARDING` (linux/if_bridge.h).
const STATE_DISABLED: u8 = 0;
const STATE_FORWARDING: u8 = 3;

/// The kernel's number of an option, `IFLA_BR_*`. Times are in hundredths of a second on every architecture (USER_HZ).
fn number(option: BridgeOption) -> u16 {
    match option {
        BridgeOption::Stp => 5,
        BridgeOption::ForwardDelay => 1,
        BridgeOption::HelloTime => 2,
        BridgeOption::MaxAge => 3,
        BridgeOption::AgeingTime => 4,
        BridgeOption::Priority => IFLA_BR_PRIORITY,
    }
}

/// Reads what the kernel says of a bridge. It does not say the ageing time that was set while the topology changes, but the
/// one that holds until it has (net/bridge/br_stp.c, __br_set_topology_change); then nothing is known of it.
pub(super) fn decode(data: &[u8]) -> Bridge {
    let changes = attribute(data, IFLA_BR_TOPOLOGY_CHANGE).is_some_and(|value| value.first() == Some(&1));
    let value = |option| match (attribute(data, number(option))?, option) {
        (value, BridgeOption::Priority) => u16_at(value, 0).map(u32::from),
        // 2 is a spanning tree that a program keeps instead of the kernel.
        (_, BridgeOption::AgeingTime) if changes => None,
        (value, BridgeOption::Stp) => u32_at(value, 0).map(|stp| stp.min(1)),
        (value, _) => u32_at(value, 0),
    };
    Bridge { options: sort::map(BridgeOption::ALL.into_iter().filter_map(|option| Some((option, value(option)?)))) }
}

/// What a bridge has noted of its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// What spanning tree reckons with.
    pub cost: u32,
    /// From 0 to 63.
    pub priority: u32,
    /// How far spanning tree is with it.
    pub state: State,
}

/// How far spanning tree is with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The port or the bridge is down, or there is no carrier.
    Disabled,
    /// It listens or learns, or is kept shut because it would close a circle.
    Waiting,
    /// Frames pass.
    Forwarding,
}

/// Reads what the kernel says of a bridge's port.
pub(super) fn decode_port(data: &[u8]) -> Option<Port> {
    Some(Port {
        cost: u32_at(attribute(data, IFLA_BRPORT_COST)?, 0)?,
        priority: u16_at(attribute(data, IFLA_BRPORT_PRIORITY)?, 0)?.into(),
        state: match *attribute(data, IFLA_BRPORT_STATE)?.first()? {
            STATE_DISABLED => State::Disabled,
            STATE_FORWARDING => State::Forwarding,
            _ => State::Waiting,
        },
    })
}

/// Makes a bridge; it is down, and has no ports.
pub fn create(name: &str) -> Request {
    link::create(name, "bridge", |data| data)
}

/// Sets one option of a bridge.
pub fn set(index: u32, option: BridgeOption, value: u32) -> Request {
    link::change(index, "bridge", |data| match option {
        // Checked documents have nothing wider here.
        BridgeOption::Priority => data.attribute(IFLA_BR_PRIORITY, &(value as u16).to_ne_bytes()),
        option => data.number(number(option), value),
    })
}

/// Says what spanning tree reckons with at a port.
pub fn set_port(index: u32, cost: PortCost) -> Request {
    link::change_port(index, "bridge", |mut data| {
        if let Some(cost) = cost.path_cost {
            data = data.number(IFLA_BRPORT_COST, cost);
        }
        if let Some(priority) = cost.priority {
            data = data.attribute(IFLA_BRPORT_PRIORITY, &(priority as u16).to_ne_bytes());
        }
        data
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_of_the_ageing_time_while_the_topology_changes() {
        let says = |topology_changes: u8| {
            let ageing = [&8_u16.to_ne_bytes()[..], &4_u16.to_ne_bytes(), &3_000_u32.to_ne_bytes()].concat();
            let changes = [&5_u16.to_ne_bytes()[..], &14_u16.to_ne_bytes(), &[topology_changes, 0, 0, 0]].concat();
            decode(&[ageing, changes].concat()).options.get(&BridgeOption::AgeingTime).copied()
        };
        assert_eq!((says(0), says(1)), (Some(3_000), None));
    }
}
