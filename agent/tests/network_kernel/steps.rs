//! Steps made by hand, and what iproute2 shows of what they did.

use muster_agent::linux::network::Network;
use muster_agent::machine::{MachineError, chain};
use muster_agent::plan::network::{Change, Step};
use muster_protocol::observed::{self, Admin};
use muster_protocol::to_agent::Impact;
use serde_json::Value;

use super::lab::{Lab, run};

/// What every namespace of a lab has: steps are applied in the one that the test's thread is in.
pub fn attempt(network: &Network, change: Change) -> Result<(), MachineError> {
    network.apply(&Step { change, impact: Impact::None })
}

/// Does a step, and does it again: what is done already is no error.
pub fn does(network: &Network, change: Change) {
    for again in ["", " a second time"] {
        attempt(network, change.clone())
            .unwrap_or_else(|error| panic!("{}{again}: {}", change.action(), chain(&error)));
    }
}

/// Why a step is refused.
pub fn refused(network: &Network, change: Change) -> String {
    let action = change.action();
    chain(&attempt(network, change).expect_err(&action))
}

/// Brings a link up or down.
pub fn set_admin(network: &Network, link: &str, admin: Admin) {
    does(network, Change::SetAdmin { link: link.to_owned(), admin });
}

/// Makes a link a port.
pub fn join(network: &Network, link: &str, of: &str) {
    does(network, Change::Join { link: link.to_owned(), of: of.to_owned() });
}

/// A link as the agent sees it.
pub fn seen(network: &Network, name: &str) -> observed::Link {
    found(network, name).unwrap_or_else(|| panic!("{name} is there"))
}

/// The same where it may not be there.
pub fn found(network: &Network, name: &str) -> Option<observed::Link> {
    network.observe().expect("observed").links.into_iter().find(|link| link.name == name)
}

/// A link as `ip -j -d link` shows it.
pub fn shown(lab: &Lab, name: &str) -> Value {
    lab.json(&format!("-d link show dev {name}")).swap_remove(0)
}

/// A port as `bridge -j -d link` shows it.
pub fn shown_port(lab: &Lab, name: &str) -> Value {
    let text = run(&format!("bridge -n {} -j -d link show dev {name}", lab.machine));
    serde_json::from_str::<Vec<Value>>(&text).expect("JSON of bridge").swap_remove(0)
}
