//! The real machine, made of its parts: network by netlink, disks, inventory, kernel modules, power.
//!
//! Each part does what it is told and reads what is there; none decides.

pub mod drive;
pub mod firmware;
pub mod inventory;
pub mod limits;
pub mod modules;
pub mod network;
pub mod power;
pub mod storage;
pub mod sysfs;
pub mod text;
pub mod tools;
pub mod tpm;

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;

use muster_protocol::enroll::Identity;
use muster_protocol::inventory::Inventory;
use muster_protocol::inventory::health::Health;
use muster_protocol::observed::{self, Observed};
use muster_protocol::to_agent::{PowerAction, WipeLevel};
use muster_protocol::to_controller::WipeReceipt;
use muster_protocol::tools::Pinned;
use muster_protocol::{BootId, DiskId, DiskKey};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use tokio::sync::Notify;

use crate::machine::{Lost, Machine, MachineError, Percent, SETTLES_WITHIN, chain};
use crate::plan::network::{NewWay, PROOF_MARK};
use crate::{options, plan, random};

/// Clocks that differ by less from the controller's are left alone.
const CLOCK_SLACK_MS: u64 = 1_000;

/// This machine.
pub struct LinuxMachine {
    network: network::Network,
    role: Role,
    tpm: tpm::Asked,
    keys: storage::layers::keys::Keys,
}

/// Whose machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The agent's: it is PID 1's worker, and nobody else sets the clock or reboots.
    Owner,
    /// Somebody else's: the agent is one process of many, and leaves to the init system what is its.
    Guest,
}

impl LinuxMachine {
    /// Opens what is needed to look, and asks the TPM who it is. Changes nothing.
    pub fn new(role: Role, lease: Option<options::Lease>) -> Result<Self, MachineError> {
        let network = network::Network::new(lease)?;
        if role == Role::Owner {
            network.keep_clock(Arc::new(network::ntp::SystemClock));
        }
        Ok(Self { network, role, tpm: tpm::Asked::begin(tpm::DEVICE), keys: Default::default() })
    }

    /// Brings all links up, and keeps the lease that was handed over or gets others. For machines that just booted.
    pub fn bring_up(&self) -> Result<(), MachineError> {
        self.network.bring_up()
    }
}

/// This boot, as the kernel names it: the same for every process that asks, another one after a reboot.
pub fn boot_id() -> BootId {
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let kernel = kernel.and_then(|text| text.trim().parse().ok());
    kernel.unwrap_or_else(|| BootId::from_bytes(random::bytes()))
}

impl Machine for LinuxMachine {
    fn identity(&self) -> Identity {
        Identity { tpm: self.tpm.answer(), ..inventory::identity() }
    }

    fn settle(&self) {
        // A guest's machine has been up for long.
        if self.role == Role::Owner {
            modules::hotplug::settle(SETTLES_WITHIN);
        }
    }

    fn inventory(&self) -> Inventory {
        if self.role == Role::Owner {
            inventory::bmc::open();
        }
        inventory::read()
    }

    fn health(&self) -> Health {
        drive::health()
    }

    fn observe(&self) -> Result<Observed, MachineError> {
        let (disks, layers) = storage::disks::observe()?;
        let mounts = storage::disks::mounts()?;
        let limits = limits::observe(&storage::disks::Disks::of_this_machine());
        let (network, firmware) = (self.network.observe()?, firmware::observe());
        Ok(Observed { network, disks, layers, mounts, limits, firmware })
    }

    fn lost_limits(&self) -> Vec<observed::Limit> {
        limits::lost(&storage::disks::Disks::of_this_machine())
    }

    fn observe_network(&self) -> Result<observed::Network, MachineError> {
        self.network.observe()
    }

    fn changes(&self) -> Result<Arc<Notify>, MachineError> {
        self.network.changes()
    }

    fn lost(&self) -> Result<Vec<Lost>, MachineError> {
        self.network.lost()
    }

    fn apply_network(&self, step: &plan::network::Step) -> Result<(), MachineError> {
        self.network.apply(step)
    }

    fn apply_storage(&self, step: &plan::storage::Step, progress: Percent<'_>) -> Result<(), MachineError> {
        storage::apply(&self.keys, step, progress)
    }

    fn header(&self, step: &plan::storage::Step) -> Result<[u8; 16], MachineError> {
        storage::header(step)
    }

    fn keep_key(&self, name: &str, uuid: [u8; 16], key: DiskKey) {
        self.keys.keep(name, uuid, key);
    }

    fn forget_keys(&self) {
        self.keys.forget();
    }

    fn write_image(
        &self,
        step: &plan::storage::Step,
        source: &mut dyn Read,
        progress: Percent<'_>,
    ) -> Result<(), MachineError> {
        storage::write_image(step, source, progress)
    }

    fn tools(&self) -> plan::Tools {
        match self.role {
            Role::Owner => tools::image::look(),
            // Its system has what it has.
            Role::Guest => plan::Tools::Here,
        }
    }

    fn keep_tools(&self, at: u64, bytes: &[u8]) -> Result<(), MachineError> {
        tools::image::keep(at, bytes)
    }

    fn open_tools(&self, pinned: &Pinned) -> Result<(), MachineError> {
        tools::image::open(pinned)
    }

    fn wipe(&self, disk: &DiskId, level: WipeLevel, progress: Percent<'_>) -> Result<WipeReceipt, MachineError> {
        let before = storage::disks::Disks::of_this_machine().observe_one(disk).ok();
        let receipt = storage::wipe(disk, level, progress)?;
        // It finds nothing there, and is taken out with the next document at the latest.
        if let Some(Err(error)) = before.map(|before| firmware::forget(&before)) {
            crate::warn!("an entry of the firmware for {disk} is left: {}", chain(&error));
        }
        Ok(receipt)
    }

    fn socket(&self, to: IpAddr, way: Option<&NewWay>) -> Result<UdpSocket, MachineError> {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let source = way.and_then(|way| way.source).filter(|source| source.is_ipv4() == to.is_ipv4()).unwrap_or(any);
        let bound = |source: IpAddr| {
            let socket = UdpSocket::bind((source, 0))?;
            if let Some(way) = way {
                network::sockopt::set_mark(&socket, PROOF_MARK)?;
                way.link().map_or(Ok(()), |link| network::sockopt::bind_to_link(&socket, link))?;
            }
            Ok(socket)
        };
        let open = || {
            // Connecting sends nothing: the kernel looks for a route and a source address, and that is the question.
            // A socket that is connected would stick to what it found, so it is another one.
            let asks = bound(source)?;
            asks.connect((to, 9))?;
            let found = asks.local_addr()?.ip();
            let addresses = || fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
            if is_of_link_alone(to, found) && (way.is_some() || awaits_another(found, &addresses())) {
                let why = "the link has no address of its network yet, or none that is known to be unique";
                return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, why));
            }
            // A way is tried from one address from beginning to end; a session goes on when its address goes.
            bound(if way.is_some() { found } else { source })
        };
        open().map_err(|error: io::Error| MachineError::os(format!("find a route to {to}"), error))
    }

    fn unanswered(&self) -> Vec<(u32, IpAddr)> {
        // Whoever asks looks for a cause: what cannot be seen is none.
        self.network.unanswered().unwrap_or_default()
    }

    fn set_clock(&self, unix_ms: u64) {
        if self.role == Role::Guest {
            return;
        }
        let now = clock_gettime(ClockId::Realtime);
        let now_ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
        // NTP servers are nearer to the truth than a message that took a while; a controller's word is what they may not
        // leave.
        let is_kept = self.network.hear_time(i64::try_from(unix_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000));
        if is_kept || now_ms.abs_diff(i64::try_from(unix_ms).unwrap_or(i64::MAX)) <= CLOCK_SLACK_MS {
            return;
        }
        let time = Timespec { tv_sec: (unix_ms / 1000) as i64, tv_nsec: (unix_ms % 1000 * 1_000_000) as i64 };
        match clock_settime(ClockId::Realtime, time) {
            Ok(()) => {
                let (before, now) = (now.tv_sec, unix_ms / 1000);
                crate::info!("the clock was at {before} s since 1970 and is set to {now} by the controller's")
            }
            Err(error) => crate::warn!("could not set the clock: {error}"),
        }
    }

    fn power(&self, action: PowerAction) -> Result<(), MachineError> {
        match self.role {
            Role::Owner => power::act(action),
            Role::Guest => power::ask_init(action),
        }
    }
}

/// Whether packets to `to` leave from an address that means nothing beyond the link.
fn is_of_link_alone(to: IpAddr, source: IpAddr) -> bool {
    let of_link = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    of_link(source) && !of_link(to)
}

/// Whether a link that has this address is about to have a global one. A router does not pass packets from the link's own on,
/// and where they arrive all the same, the handshake that they began is lost: its next packets come from the other address.
///
/// `addresses` is /proc/net/if_inet6: address, interface, prefix length, scope, flags (linux/if_addr.h) and name, in
/// hexadecimal.
fn awaits_another(source: IpAddr, addresses: &str) -> bool {
    const GLOBAL: u8 = 0;
    const TENTATIVE: u8 = 0x40;
    const DUPLICATE: u8 = 0x08;
    let read = |line: &str| {
        let [address, link, _, scope, flags] = line.split_ascii_whitespace().take(5).collect::<Vec<_>>()[..] else {
            return None;
        };
        let [scope, flags] = [scope, flags].map(|text| u8::from_str_radix(text, 16).ok());
        Some((IpAddr::from(u128::from_str_radix(address, 16).ok()?.to_be_bytes()), link.to_owned(), scope?, flags?))
    };
    let all: Vec<_> = addresses.lines().filter_map(read).collect();
    let links = all.iter().filter(|(address, ..)| *address == source).map(|(_, link, ..)| link);
    let mut near = links.flat_map(|link| all.iter().filter(move |(_, of, ..)| of == link));
    near.any(|(_, _, scope, flags)| *scope == GLOBAL && flags & (TENTATIVE | DUPLICATE) == TENTATIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_global_address_is_awaited_only_on_the_link_that_packets_leave_by() {
        let table = |flags: &str| {
            format!(
                "fe80000000000000505400fffe4c0402 03 40 20 80     eth1\n\
                 fd000004006600000000000000000050 05 40 00 40   cellar\n\
                 fe80000000000000505400fffe4c0403 05 40 20 80   cellar\n\
                 fd00000400660000505400fffe4c0402 04 40 00 {flags}     six\n\
                 fe80000000000000505400fffe4c0402 04 40 20 80     six\nbroken\n"
            )
        };
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (far, of_link) = (ip("fd99::1"), ip("fe80::5054:ff:fe4c:402"));
        assert!(awaits_another(of_link, &table("40")));
        assert!(!awaits_another(of_link, &table("00")), "it is checked");
        assert!(!awaits_another(of_link, &table("48")), "it is somebody else's: nothing will come of it");
        assert!(is_of_link_alone(far, of_link));
        assert!(!is_of_link_alone(ip("fe80::1"), of_link), "the other end is on the link");
        assert!(!is_of_link_alone(far, ip("fd00:4:66::7")), "there is a global address");
        assert!(!is_of_link_alone(ip("192.0.2.1"), ip("192.0.2.2")));
    }

    #[test]
    fn a_boot_has_one_id_for_everybody() {
        assert_eq!(boot_id(), boot_id());
    }
}
