//! Links and their ports: what a step makes, changes and deletes.

use std::thread;
use std::time::{Duration, Instant};

use muster_protocol::desired::{BondOption, BridgeOption, WakeOnLan};
use muster_protocol::observed::{Bond, Bridge};
use rustix::io::Errno;

use super::device::wake;
use super::netlink::bridge::State;
use super::netlink::link::{self, Kind, Link};
use super::netlink::{bond, bridge};
use super::{Network, PAUSE};
use crate::linux::modules;
use crate::machine::MachineError;
use crate::plan::network::{FORWARDING_SLACK, NewLink};

/// How long a bridge may have no port that as much as listens: NICs find their carrier within seconds.
const CARRIER_PATIENCE: Duration = Duration::from_secs(5);

impl Network {
    pub(super) fn create(&self, name: &str, new: &NewLink, action: &str) -> Result<(), MachineError> {
        let there = self.look(name)?.map(|link| link.kind);
        let (module, request) = match new {
            NewLink::Vlan { parent, tag } => {
                let parent = self.find(parent)?.index;
                if there == Some(Kind::Vlan { parent, tag: *tag }) {
                    return Ok(());
                }
                ("8021q", link::create_vlan(name, parent, *tag))
            }
            NewLink::Bond { mode } => {
                if matches!(&there, Some(Kind::Bond(bond)) if bond.mode == *mode) {
                    return Ok(());
                }
                ("bonding", bond::create(name, *mode))
            }
            NewLink::Bridge => {
                if matches!(there, Some(Kind::Bridge(_))) {
                    return Ok(());
                }
                ("bridge", bridge::create(name))
            }
        };
        modules::load(module)?;
        self.ask(request, &[], action)
    }

    /// Looks first: a NIC cannot be deleted, and what others made is not for us to delete.
    pub(super) fn delete(&self, name: &str, action: &str) -> Result<(), MachineError> {
        let links = self.links()?;
        match links.iter().find(|link| link.name == name) {
            None => Ok(()),
            Some(Link { index, kind: Kind::Vlan { .. } | Kind::Bond(_) | Kind::Bridge(_), .. }) => {
                self.ask(link::delete(*index), &[Errno::NODEV], action)?;
                let ports = links.iter().filter(|link| link.port.is_some_and(|port| port.of == *index));
                ports.into_iter().try_for_each(|port| self.keep_mtu(port, action))
            }
            Some(_) => Err(changed(name, "it is no bond, bridge or VLAN")),
        }
    }

    /// A bond gives a port that it lets go of the MTU back that it had before it was one, which nobody knows of.
    fn keep_mtu(&self, before: &Link, action: &str) -> Result<(), MachineError> {
        match self.look(&before.name)? {
            Some(now) if now.mtu != before.mtu => self.ask(link::set_mtu(now.index, before.mtu), &[], action),
            _ => Ok(()),
        }
    }

    pub(super) fn rename(&self, name: &str, to: &str, action: &str) -> Result<(), MachineError> {
        match self.look(name)? {
            None if self.look(to)?.is_some() => Ok(()),
            None => Err(MachineError::Missing(name.to_owned())),
            Some(link) => self.ask(link::rename(link.index, to), &[], action),
        }
    }

    /// Looks first: the kernel refuses some options at some times even where nothing would change.
    ///
    /// It keeps delays as multiples of the interval; they are told again with it, so that they stay what they are in
    /// milliseconds.
    pub(super) fn set_bond(
        &self,
        name: &str,
        option: BondOption,
        value: u32,
        action: &str,
    ) -> Result<(), MachineError> {
        let (index, bond) = self.bond(name)?;
        if bond.options.get(&option) == Some(&value) {
            return Ok(());
        }
        let mut options = vec![(option, value)];
        if option == BondOption::MiiMonitorInterval && value > 0 {
            let delay = |delay| Some((delay, *bond.options.get(&delay)?));
            options.extend([BondOption::UpDelay, BondOption::DownDelay].into_iter().filter_map(delay));
        }
        self.ask(bond::set(index, &options), &[], action)
    }

    pub(super) fn set_primary(&self, name: &str, port: Option<&str>, action: &str) -> Result<(), MachineError> {
        let (index, bond) = self.bond(name)?;
        let port = port.map(|port| self.find(port)).transpose()?.map(|link| link.index);
        if bond.primary == port {
            return Ok(());
        }
        self.ask(bond::set_primary(index, port), &[], action)
    }

    pub(super) fn bond(&self, name: &str) -> Result<(u32, Bond), MachineError> {
        match self.find(name)? {
            Link { index, kind: Kind::Bond(bond), .. } => Ok((index, *bond)),
            _ => Err(changed(name, "it is no bond")),
        }
    }

    pub(super) fn join(&self, name: &str, of: &str, action: &str) -> Result<(), MachineError> {
        let of = self.find(of)?.index;
        self.ask(link::set_port_of(self.find(name)?.index, Some(of)), &[], action)
    }

    pub(super) fn leave(&self, name: &str, action: &str) -> Result<(), MachineError> {
        match self.look(name)?.filter(|link| link.port.is_some()) {
            None => Ok(()),
            Some(link) => {
                self.ask(link::set_port_of(link.index, None), &[], action)?;
                self.keep_mtu(&link, action)
            }
        }
    }

    pub(super) fn set_wake(&self, name: &str, wake: WakeOnLan, action: &str) -> Result<(), MachineError> {
        let is_on = match wake {
            WakeOnLan::Keep => return Ok(()),
            WakeOnLan::On => true,
            WakeOnLan::Off => false,
        };
        self.find(name)?;
        match wake::set(&*self.lock(), name, is_on) {
            Ok(true) => Ok(()),
            Ok(false) => Err(MachineError::Unable(format!("{action}: its driver knows no magic packet"))),
            Err(error) => Err(MachineError::os(action, error)),
        }
    }

    /// A bridge without any cable has nothing to wait for.
    pub(super) fn await_forwarding(&self, name: &str) -> Result<(), MachineError> {
        let start = Instant::now();
        loop {
            let links = self.links()?;
            let it = links.iter().find(|link| link.name == name);
            let Some(Link { index, kind: Kind::Bridge(bridge), .. }) = it else {
                return Err(it.map_or(MachineError::Missing(name.to_owned()), |_| changed(name, "it is no bridge")));
            };
            let states = || {
                let ports = links.iter().filter_map(|link| link.port).filter(|port| port.of == *index);
                ports.filter_map(|port| Some(port.in_bridge?.state))
            };
            let patience = if states().any(|state| state != State::Disabled) {
                2 * forward_delay(bridge) + FORWARDING_SLACK
            } else {
                CARRIER_PATIENCE
            };
            if states().any(|state| state == State::Forwarding) || start.elapsed() >= patience {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }
}

fn forward_delay(bridge: &Bridge) -> Duration {
    let hundredths = bridge.options.get(&BridgeOption::ForwardDelay).copied().unwrap_or(0);
    Duration::from_millis(10 * u64::from(hundredths))
}

fn changed(name: &str, now: &str) -> MachineError {
    MachineError::Changed { what: name.to_owned(), now: now.to_owned() }
}
